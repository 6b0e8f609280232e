/* SPDX-License-Identifier: MIT */
/* The simulated KV cache. A slot holds the history of the prefix that ends in it, a
 * block also that of the prefix before it. A row writes to its slot and reads what
 * was before it through its sequence's block table, and all of the sequence's blocks
 * must chain: a block that was freed, mixed up, or shared with another
 * prefix spoils what comes out. So does a state, where the model has some, that is behind another prefix than the one
 * that a chunk goes on from. */
#include "device/sim/sim_private.h"

#define SPOILT UINT64_C(0x5bad5bad5bad5bad)

uint64_t sim_count_blocks(const struct tl_step *step) {
  uint64_t n = 0;
  if (step->vectors) return 0;
  for (uint32_t q = 0; q < step->n_seqs; q++) n += tl_blocks_of(step->context_len[q]);
  return n;
}

static uint64_t read_history(const struct sim_device *d, const uint32_t *table, uint32_t position) {
  return d->blocks[table[position / TL_BLOCK_TOKENS]].history[position % TL_BLOCK_TOKENS] ^ d->kv_key;
}

static void write_history(struct sim_device *d, uint32_t slot, uint64_t before, uint64_t history) {
  struct sim_block *block = &d->blocks[slot / TL_BLOCK_TOKENS];
  block->history[slot % TL_BLOCK_TOKENS] = history ^ d->kv_key;
  if (slot % TL_BLOCK_TOKENS == 0) block->before = before ^ d->kv_key;
}

/* Each block follows the one before it. */
static bool is_chained(const struct sim_device *d, const uint32_t *table, uint32_t context) {
  uint64_t before = TL_SIM_START;
  for (uint32_t i = 0; i < tl_blocks_of(context); i++) {
    const struct sim_block *block = &d->blocks[table[i]];
    if ((block->before ^ d->kv_key) != before) return false;
    before = block->history[TL_BLOCK_TOKENS - 1] ^ d->kv_key;
  }
  return true;
}

int32_t sim_token_at(const struct sim_device *d, const struct tl_step *step, uint32_t i) {
  int32_t token = step->tokens[i];
  if (token > -2) return token;
  return (uint32_t)(-2 - token) < d->n_fed ? d->fed[-2 - token] : -1;
}

/* What would be an illegal address on a GPU. */
static int check_addresses(const struct sim_device *d, const struct tl_step *s, uint32_t q, struct tl_error *err) {
  const uint32_t *table = s->block_tables + (size_t)q * s->table_stride;
  uint32_t context = s->context_len[q];
  bool fine = context > 0 && context <= d->load.max_context && tl_blocks_of(context) <= s->table_stride &&
              s->query_start[q] < s->query_start[q + 1] && s->query_start[q + 1] <= s->n_tokens;
  for (uint32_t i = 0; fine && i < tl_blocks_of(context); i++) fine = table[i] < d->n_blocks;
  for (uint32_t i = s->query_start[q]; fine && i < s->query_start[q + 1]; i++)
    fine = s->positions[i] < context && s->slots[i] / TL_BLOCK_TOKENS < d->n_blocks && sim_token_at(d, s, i) >= 0;
  return fine ? TL_OK
              : tl_error_set(err, TL_EDEVICE, NULL, "sim:%u: sequence %u of the step names KV slots that are not there",
                             d->index, q);
}

static int check_states(const struct sim_device *d, const struct tl_step *s, uint32_t q, struct tl_error *err) {
  uint32_t n = d->load.max_states;
  if (n == 0) return TL_OK;
  bool first = s->positions[s->query_start[q]] == 0;
  if (s->state_to && s->state_to[q] < n && (first ? s->state_from[q] == TL_NO_STATE : s->state_from[q] < n)) return TL_OK;
  return tl_error_set(err, TL_EDEVICE, NULL, "sim:%u: sequence %u of the step names states that are not there", d->index, q);
}

/* Whether the state that the sequence goes on from is behind what lies in its blocks. Leaves the one behind its last row. */
static bool run_state(struct sim_device *d, const struct tl_step *s, uint32_t q) {
  const uint32_t *table = s->block_tables + (size_t)q * s->table_stride;
  uint32_t first = s->positions[s->query_start[q]], last = s->positions[s->query_start[q + 1] - 1];
  if (!d->load.max_states) return true;
  bool fine = first == 0 || (d->states[s->state_from[q]] ^ d->kv_key) == read_history(d, table, first - 1);
  d->states[s->state_to[q]] = (fine ? read_history(d, table, last) : SPOILT) ^ d->kv_key;
  return fine;
}

static void run_sequence(struct sim_device *d, const struct tl_step *s, uint32_t q, uint32_t *row, struct tl_sampled *ret) {
  const uint32_t *table = s->block_tables + (size_t)q * s->table_stride;
  uint32_t end = s->query_start[q + 1], context = s->context_len[q];
  bool wrong = d->broken || d->corrupt;
  for (uint32_t i = s->query_start[q]; i < end; i++) {
    uint32_t position = s->positions[i];
    uint64_t before = position ? read_history(d, table, position - 1) : TL_SIM_START;
    uint64_t history = tl_sim_history(before, position, sim_token_at(d, s, i));
    write_history(d, s->slots[i], before, wrong ? history ^ SPOILT : history);
  }
  bool fine = run_state(d, s, q) && s->positions[end - 1] + 1 == context && is_chained(d, table, context);
  for (; *row < s->n_rows && s->rows[*row] < end; ++*row) {
    uint64_t history = read_history(d, table, s->positions[s->rows[*row]]);
    if (ret) sim_sample(d, fine ? history : history ^ SPOILT, &s->sampling[*row], &ret[*row]);
  }
}

int sim_run(struct sim_device *d, struct tl_sampled *ret, struct tl_error *err) {
  uint32_t row = 0;
  if (d->step->vectors) return sim_run_vectors(d, err);
  for (uint32_t q = 0; q < d->step->n_seqs; q++) {
    int r = check_addresses(d, d->step, q, err);
    if (r == TL_OK) r = check_states(d, d->step, q, err);
    if (r < 0) return r;
    run_sequence(d, d->step, q, &row, ret);
  }
  return TL_OK;
}
