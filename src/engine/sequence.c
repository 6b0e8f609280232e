/* SPDX-License-Identifier: MIT */
/* The worker's side of a sequence: its token counts for penalties, its way through a grammar, and
 * how its next token is to be sampled. */
#include <math.h>
#include <string.h>

#include "engine/engine_private.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/hash.h"
#include "tokenlane/grammar.h"

void sequence_count(struct tl_sequence *seq, int32_t token, bool generated) {
  if (!seq->history) return;
  uint32_t mask = seq->history_slots - 1, slot = (uint32_t)tl_hash_u64((uint64_t)token) & mask;
  while (seq->history_index[slot] && seq->history[seq->history_index[slot] - 1].token != token) slot = (slot + 1) & mask;
  if (!seq->history_index[slot]) {
    seq->history[seq->n_history] = (struct tl_token_count){token, 0};
    seq->history_index[slot] = ++seq->n_history;
  }
  seq->history[seq->history_index[slot] - 1].n_generated += generated;
}

/* Also of one that lost its device: its history is counted, tokens and scores are there. */
void sequence_prepare(struct tl_sequence *seq) {
  /* relaxed: the caller's own, or of the worker before, whose final event it has seen */
  uint32_t n_out = atomic_load_explicit(&seq->n_out, memory_order_relaxed);
  uint32_t n_scored = atomic_load_explicit(&seq->n_scored, memory_order_relaxed);
  if (seq->n_history == 0)
    for (uint32_t i = 0; i < seq->n_prompt; i++) sequence_count(seq, seq->tokens[i], false);
  seq->in_flight = seq->sched.n_pending = 0;
  seq->drafts = (struct tl_drafts){.n_indexed = seq->drafts.n_indexed};
  if (seq->trace) seq->tried = (struct tl_sequence_try){.queued_ns = tl_now_ns(), .number = seq->tried.number + 1};
  seq->sched.n_tokens = seq->n_prompt + n_out;
  seq->sched.n_max = seq->n_prompt + seq->max_new;
  seq->sched.tokens = seq->tokens;
  seq->sched.priority = (uint8_t)seq->priority;
  seq->sched.salt = seq->cache_salt;
  seq->sched.adapter = seq->adapter;
  seq->sched.fork = seq->fork;
  seq->sched.owner = seq;
  /* rows that are wanted must be computed, whoever computed them before */
  seq->sched.max_cached = seq->score_prompt && n_scored + 1 < seq->n_prompt ? n_scored : UINT32_MAX;
}

/* The first of its stop ids, which end it. */
static uint32_t n_that_stop(const struct tl_sequence *seq) {
  return seq->ignore_eos ? seq->n_own_stop_ids : seq->n_stop_ids;
}

/* Those whose last token would complete one of the words: how many, into ret (n_bad_words). Only generated tokens count. */
static uint32_t forbid_words(const struct tl_sequence *seq, uint32_t token, struct tl_token_bias *ret) {
  uint32_t n = 0, n_out = token - seq->n_prompt;
  for (uint32_t i = 0; i < seq->n_bad_words; i++) {
    const struct tl_bad_word *word = &seq->bad_words[i];
    uint32_t before = word->n - 1;
    if (before <= n_out && memcmp(seq->tokens + token - before, word->ids, before * sizeof *word->ids) == 0)
      ret[n++] = (struct tl_token_bias){word->ids[before], -INFINITY};
  }
  return n;
}

/* What may come next. Where the grammar may end, stop ids may, whatever `allowed` says of them: else a text could be at its end and
 * have no way out. */
static void write_mask(struct tl_sequence *seq, uint32_t n_words, bool may_stop, uint32_t *mask) {
  if (!seq->matcher) {
    memcpy(mask, seq->allowed, n_words * sizeof *mask);
    return;
  }
  tl_matcher_mask(seq->matcher, mask);
  for (uint32_t i = 0; seq->allowed && i < n_words; i++) mask[i] &= seq->allowed[i];
  uint32_t n = may_stop && tl_matcher_may_end(seq->matcher) ? n_that_stop(seq) : 0;
  for (uint32_t i = 0; i < n; i++) mask[seq->stop_ids[i] / 32] |= 1u << seq->stop_ids[i] % 32;
}

void sequence_sampling(struct tl_sequence *seq, uint32_t token, uint32_t vocab_size, uint32_t *mask, struct tl_sampling *ret) {
  *ret = seq->sampling;
  ret->position = token;
  if (token < seq->n_prompt) {
    ret->target = seq->tokens[token];
    return;
  }
  ret->target = -1;
  ret->history = seq->history;
  ret->n_history = seq->n_history;
  ret->bias = seq->bias;
  ret->n_bias = seq->n_bias + forbid_words(seq, token, seq->bias + seq->n_bias);
  bool may_stop = token - seq->n_prompt >= seq->min_new;
  if (seq->matcher || seq->allowed) {
    write_mask(seq, TL_MASK_WORDS(vocab_size), may_stop, mask);
    ret->mask = mask;
  }
  if (may_stop) return;
  /* before min_new, what would end the sequence is forbidden */
  for (uint32_t i = 0; i < seq->n_stop_ids; i++)
    seq->bias[ret->n_bias++] = (struct tl_token_bias){seq->stop_ids[i], -INFINITY};
}

bool tl_sequence_is_stop(const struct tl_sequence *seq, int32_t token) {
  uint32_t n = n_that_stop(seq);
  for (uint32_t i = 0; i < n; i++)
    if (seq->stop_ids[i] == token) return true;
  return false;
}
