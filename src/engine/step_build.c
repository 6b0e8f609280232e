/* SPDX-License-Identifier: MIT */
/* From the scheduler's items to the flat arrays of a step. */
#include <string.h>

#include "engine/engine_private.h"

uint32_t worker_table_stride(const struct tl_engine *engine) {
  return tl_blocks_of(engine->max_context);
}

static void want_row(const struct worker *w, struct flight *f, struct tl_sequence *seq, uint32_t row, uint32_t token) {
  uint32_t i = f->step.n_rows++;
  f->rows[i] = row;
  f->row_seq[i] = seq;
  f->row_token[i] = token;
  if (token >= seq->n_prompt) seq->made_row = i;
  uint32_t vocab_size = w->engine->o.model->vocab_size;
  sequence_sampling(seq, token, vocab_size, f->masks + (size_t)i * TL_MASK_WORDS(vocab_size), &f->sampling[i]);
}

/* Rows of a prompt that is scored are wanted one by one, the last known token's
 * row makes the next token, and those of guesses behind it each one more. A step has max_batch_size rows in all: the chunk of
 * a scored prompt is cut so that each later item can still have one. */
static uint32_t cut_scored_chunk(const struct worker *w, const struct flight *f, const struct tl_sequence *seq,
                                 const struct tl_sched_item *item, uint32_t items_left) {
  if (!seq->score_prompt || item->start + item->n <= 1) return item->n;
  uint32_t room = w->engine->o.max_batch_size - f->step.n_rows;
  room = room > items_left ? room - items_left : 1;
  return item->n < room ? item->n : room;
}

static void add_item(const struct worker *w, struct flight *f, struct tl_sched_item *item, uint32_t items_left) {
  struct tl_step *step = &f->step;
  struct tl_sequence *seq = item->seq->owner;
  uint32_t stride = step->table_stride, scored = atomic_load_explicit(&seq->n_scored, memory_order_relaxed); /* own */
  uint32_t known = seq->n_prompt + atomic_load_explicit(&seq->n_out, memory_order_relaxed) + seq->drafts.n; /* own */
  uint32_t fed = seq->made_row;
  item->n = cut_scored_chunk(w, f, seq, item, items_left);
  memcpy(f->tables + (size_t)step->n_seqs * stride, item->seq->blocks, item->seq->n_blocks * sizeof *f->tables);
  f->query_start[step->n_seqs] = step->n_tokens;
  f->context_len[step->n_seqs] = item->start + item->n;
  f->state_from[step->n_seqs] = item->state_from;
  f->state_to[step->n_seqs] = item->state_to;
  f->adapters[step->n_seqs] = seq->adapter;
  if (seq->adapter) step->adapters = f->adapters;
  for (uint32_t i = 0; i < item->n; i++) {
    uint32_t position = item->start + i, row = step->n_tokens++;
    f->tokens[row] = position < known ? seq->tokens[position] : -2 - (int32_t)fed;
    f->positions[row] = position;
    f->slots[row] = item->seq->blocks[position / TL_BLOCK_TOKENS] * TL_BLOCK_TOKENS + position % TL_BLOCK_TOKENS;
    if (w->drafter) draft_model_written(w->drafter, seq, position, f->slots[row]);
    bool makes = position + 1 + seq->drafts.n >= item->seq->n_tokens;
    bool score = seq->score_prompt && position + 1 < seq->n_prompt && position >= scored;
    if (score || (makes && seq->max_new > 0)) want_row(w, f, seq, row, position + 1);
  }
  seq->drafts.n_computed = 0; /* a step behind this one may have it in other blocks */
  step->n_seqs++;
}

void worker_build_step(struct worker *w, struct flight *f) {
  f->step = (struct tl_step){.table_stride = worker_table_stride(w->engine),
                             .tokens = f->tokens,
                             .positions = f->positions,
                             .slots = f->slots,
                             .query_start = f->query_start,
                             .context_len = f->context_len,
                             .block_tables = f->tables,
                             .rows = f->rows,
                             .sampling = f->sampling};
  if (w->loaded.n_states) {
    f->step.state_from = f->state_from;
    f->step.state_to = f->state_to;
  }
  for (uint32_t i = 0; i < w->n_items; i++) add_item(w, f, &w->items[i], w->n_items - 1 - i);
  f->query_start[f->step.n_seqs] = f->step.n_tokens;
}
