/* SPDX-License-Identifier: MIT */
/* Where a step lies in the shared memory. Pages that no step touches are not there, so all arrays are
 * as large as the largest step that the load allows. */
#include <string.h>

#include "device/child/child_private.h"

static bool place(size_t *end, size_t n, size_t one, size_t *ret) {
  size_t bytes;
  *ret = *end;
  if (__builtin_mul_overflow(n, one, &bytes) || __builtin_add_overflow(bytes, (size_t)TL_CACHE_LINE - 1, &bytes)) return false;
  return !__builtin_add_overflow(*end, bytes / TL_CACHE_LINE * TL_CACHE_LINE, end);
}

bool child_layout_make(const struct child_job *job, struct child_layout *ret) {
  size_t seqs = job->max_batch_size, tokens = job->max_batch_tokens, sim_tokens = 0, sim_faults = 0, end = 0, start;
  struct child_layout unused;
  struct child_layout *l = ret;
  bool pools = job->pooling != TL_POOL_NONE; /* then there is no KV */
  l->stride = pools ? 0 : tl_blocks_of(job->max_context);
  for (uint32_t i = 0; job->has_sim && i < job->n_ranks; i++) {
    sim_tokens += job->ranks[i].sim.n_tokens;
    sim_faults += job->ranks[i].sim.n_faults;
  }
  /* a sequence's history has each token once */
  l->max_history = seqs * (job->vocab_size < job->max_context ? job->vocab_size : job->max_context);
  l->max_bias = seqs * TL_MAX_BIAS;
  l->mask_words = pools ? 0 : TL_MASK_WORDS(job->vocab_size);
  l->n_slots = job->runs_ahead ? CHILD_SLOTS : 1;
  bool fine = place(&end, 1, sizeof(struct child_shared), &start) && place(&end, tokens, sizeof(int32_t), &l->tokens) &&
              place(&end, tokens, sizeof(uint32_t), &l->positions) && place(&end, tokens, sizeof(uint32_t), &l->slots) &&
              place(&end, seqs + 1, sizeof(uint32_t), &l->query_start) && place(&end, seqs, sizeof(uint32_t), &l->context_len) &&
              place(&end, seqs * l->stride, sizeof(uint32_t), &l->tables) && place(&end, seqs, sizeof(uint32_t), &l->rows) &&
              place(&end, seqs, sizeof(struct tl_sampling), &l->sampling) &&
              place(&end, l->max_history, sizeof(struct tl_token_count), &l->history) &&
              place(&end, l->max_bias, sizeof(struct tl_token_bias), &l->bias) &&
              place(&end, seqs * l->mask_words, sizeof(uint32_t), &l->masks) &&
              place(&end, seqs, sizeof(struct tl_sampled), &l->sampled) &&
              place(&end, pools ? tokens : 0, sizeof(int32_t), &l->token_types) &&
              place(&end, pools ? seqs : 0, job->n_out * sizeof(float), &l->vectors);
  fine = fine && place(&end, job->n_adapters ? seqs : 0, sizeof(uint32_t), &l->adapters) &&
         place(&end, job->has_states ? seqs : 0, sizeof(uint32_t), &l->state_from) &&
         place(&end, job->has_states ? seqs : 0, sizeof(uint32_t), &l->state_to);
  l->slot_bytes = end - l->tokens;
  fine = fine && place(&end, l->n_slots - 1, l->slot_bytes, &unused.tokens) &&
              place(&end, sim_tokens, sizeof(int32_t), &l->sim_tokens) &&
              place(&end, sim_faults, sizeof(struct tl_sim_fault), &l->sim_faults) &&
              place(&end, job->adapter_bytes, 1, &l->adapter_texts);
  l->bytes = end;
  return fine && end <= PTRDIFF_MAX;
}

static bool counts_fit(const struct child_job *job, uint32_t n_tokens, uint32_t n_seqs, uint32_t n_rows) {
  return n_tokens <= job->max_batch_tokens && n_seqs <= job->max_batch_size && n_rows <= job->max_batch_size;
}

static bool fits(const struct child_layout *l, const struct child_job *job, const struct tl_step *s) {
  size_t n_history = 0, n_bias = 0;
  if (!counts_fit(job, s->n_tokens, s->n_seqs, s->n_rows) || s->table_stride > l->stride ||
      job->has_states != (s->state_to != NULL))
    return false;
  if (s->vectors) return true;
  for (uint32_t i = 0; i < s->n_rows; i++) {
    n_history += s->sampling[i].n_history;
    n_bias += s->sampling[i].n_bias;
  }
  for (uint32_t q = 0; q < s->n_seqs; q++)
    if (s->context_len[q] > job->max_context) return false;
  return n_history <= l->max_history && n_bias <= l->max_bias;
}

static void *slot_at(struct child_shared *shared, const struct child_layout *l, uint32_t slot, size_t offset) {
  return child_at(shared, offset + slot * l->slot_bytes);
}

static void put_sampling(struct child_shared *shared, const struct child_layout *l, uint32_t slot, const struct tl_step *s) {
  struct tl_token_count *history = slot_at(shared, l, slot, l->history);
  struct tl_token_bias *bias = slot_at(shared, l, slot, l->bias);
  uint32_t *mask = slot_at(shared, l, slot, l->masks);
  memcpy(slot_at(shared, l, slot, l->sampling), s->sampling, s->n_rows * sizeof *s->sampling);
  for (uint32_t i = 0; i < s->n_rows; i++) {
    const struct tl_sampling *one = &s->sampling[i];
    if (one->n_history) memcpy(history, one->history, one->n_history * sizeof *history);
    if (one->n_bias) memcpy(bias, one->bias, one->n_bias * sizeof *bias);
    history += one->n_history;
    bias += one->n_bias;
    if (!one->mask) continue;
    memcpy(mask, one->mask, l->mask_words * sizeof *mask);
    mask += l->mask_words;
  }
}

bool child_put_step(struct child_shared *shared, const struct child_layout *l, const struct child_job *job, uint32_t slot,
                    const struct tl_step *s) {
  if (!fits(l, job, s)) return false;
  shared->steps[slot] = (struct child_step){s->n_tokens, s->n_seqs, s->n_rows, s->token_types != NULL, s->adapters && job->n_adapters};
  memcpy(slot_at(shared, l, slot, l->tokens), s->tokens, s->n_tokens * sizeof *s->tokens);
  memcpy(slot_at(shared, l, slot, l->positions), s->positions, s->n_tokens * sizeof *s->positions);
  memcpy(slot_at(shared, l, slot, l->query_start), s->query_start, (s->n_seqs + 1) * sizeof *s->query_start);
  memcpy(slot_at(shared, l, slot, l->rows), s->rows, s->n_rows * sizeof *s->rows);
  if (shared->steps[slot].has_adapters) memcpy(slot_at(shared, l, slot, l->adapters), s->adapters, s->n_seqs * sizeof *s->adapters);
  if (s->vectors) {
    if (s->token_types) memcpy(slot_at(shared, l, slot, l->token_types), s->token_types, s->n_tokens * sizeof *s->token_types);
    memset(slot_at(shared, l, slot, l->vectors), 0xff, s->n_seqs * job->n_out * sizeof *s->vectors); /* as with `sampled` below */
    return true;
  }
  if (s->state_to) {
    memcpy(slot_at(shared, l, slot, l->state_from), s->state_from, s->n_seqs * sizeof *s->state_from);
    memcpy(slot_at(shared, l, slot, l->state_to), s->state_to, s->n_seqs * sizeof *s->state_to);
  }
  memcpy(slot_at(shared, l, slot, l->slots), s->slots, s->n_tokens * sizeof *s->slots);
  memcpy(slot_at(shared, l, slot, l->context_len), s->context_len, s->n_seqs * sizeof *s->context_len);
  uint32_t *tables = slot_at(shared, l, slot, l->tables);
  for (uint32_t q = 0; q < s->n_seqs; q++) /* what stands behind a sequence's blocks nobody reads */
    memcpy(tables + (size_t)q * l->stride, s->block_tables + (size_t)q * s->table_stride,
           tl_blocks_of(s->context_len[q]) * sizeof *tables);
  put_sampling(shared, l, slot, s);
  struct tl_sampled *sampled = slot_at(shared, l, slot, l->sampled); /* an answer without results must not pass for the last one's */
  for (uint32_t i = 0; i < s->n_rows; i++) sampled[i].token = INT32_MIN;
  return true;
}

static void take_pooling_step(struct child_shared *shared, const struct child_layout *l, uint32_t slot, const struct child_step *counts,
                              struct tl_step *ret) {
  *ret = (struct tl_step){.n_tokens = counts->n_tokens,
                          .n_seqs = counts->n_seqs,
                          .n_rows = counts->n_rows,
                          .tokens = slot_at(shared, l, slot, l->tokens),
                          .positions = slot_at(shared, l, slot, l->positions),
                          .query_start = slot_at(shared, l, slot, l->query_start),
                          .rows = slot_at(shared, l, slot, l->rows),
                          .token_types = counts->has_types ? slot_at(shared, l, slot, l->token_types) : NULL,
                          .vectors = slot_at(shared, l, slot, l->vectors),
                          .adapters = counts->has_adapters ? slot_at(shared, l, slot, l->adapters) : NULL};
}

bool child_take_step(struct child_shared *shared, const struct child_layout *l, const struct child_job *job, uint32_t slot,
                     struct tl_sampling *sampling, struct tl_step *ret) {
  const struct child_step counts = shared->steps[slot]; /* once: what is looked at is what is used */
  if (!counts_fit(job, counts.n_tokens, counts.n_seqs, counts.n_rows)) return false;
  if (job->pooling != TL_POOL_NONE) {
    take_pooling_step(shared, l, slot, &counts, ret);
    return true;
  }
  const struct tl_token_count *history = slot_at(shared, l, slot, l->history);
  const struct tl_token_bias *bias = slot_at(shared, l, slot, l->bias);
  const uint32_t *mask = slot_at(shared, l, slot, l->masks);
  *ret = (struct tl_step){.n_tokens = counts.n_tokens,
                          .n_seqs = counts.n_seqs,
                          .n_rows = counts.n_rows,
                          .table_stride = l->stride,
                          .tokens = slot_at(shared, l, slot, l->tokens),
                          .positions = slot_at(shared, l, slot, l->positions),
                          .slots = slot_at(shared, l, slot, l->slots),
                          .query_start = slot_at(shared, l, slot, l->query_start),
                          .context_len = slot_at(shared, l, slot, l->context_len),
                          .block_tables = slot_at(shared, l, slot, l->tables),
                          .rows = slot_at(shared, l, slot, l->rows),
                          .sampling = sampling,
                          .state_from = job->has_states ? slot_at(shared, l, slot, l->state_from) : NULL,
                          .state_to = job->has_states ? slot_at(shared, l, slot, l->state_to) : NULL,
                          .adapters = counts.has_adapters ? slot_at(shared, l, slot, l->adapters) : NULL};
  memcpy(sampling, slot_at(shared, l, slot, l->sampling), ret->n_rows * sizeof *sampling);
  for (uint32_t i = 0; i < ret->n_rows; i++) {
    sampling[i].history = history;
    sampling[i].bias = bias;
    history += sampling[i].n_history;
    bias += sampling[i].n_bias;
    if (!sampling[i].mask) continue; /* else an address of the other process: that there is one */
    sampling[i].mask = mask;
    mask += l->mask_words;
  }
  return true;
}
