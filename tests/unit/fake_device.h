/* SPDX-License-Identifier: MIT */
/* A device for tests: its "model" says that the next token is a hash of all
 * tokens before it. It keeps only token ids in its KV cache and computes that
 * hash from the cache through the block table, so a wrong slot, block, position
 * or chunk changes the tokens that come out. Where it has states, each holds the hash of the tokens that it is behind, and must be what the
 * cache says. What no backend may be handed
 * ends the test by abort(): the check runs on the worker's thread. */
#ifndef FAKE_DEVICE_H
#define FAKE_DEVICE_H

#include <math.h>
#include <stdatomic.h>
#include <time.h>

#include "tokenlane/base/hash.h"
#include "tokenlane/device.h"
#include "tokenlane/engine.h"
#include "unit.h"

#define FAKE_VOCAB 50
#define FAKE_NAN (-9) /* in the cache, for a token */

#define FAKE_CHECK(condition)                                                         \
  do {                                                                                \
    if (!(condition)) {                                                               \
      fprintf(stderr, "%s:%d: the device was handed: not %s\n", __FILE__, __LINE__, #condition); \
      abort();                                                                        \
    }                                                                                 \
  } while (0)

/* Set before the engine is made. */
static struct {
  uint32_t n_blocks;
  uint32_t n_states;          /* at most so many, of a model with some; 0: as many as are wanted */
  int64_t step_ns;            /* a step takes so long */
  int open_error, load_error; /* TL_E code of device `bad` */
  unsigned bad;               /* index of the device that fails */
  uint64_t fail_at;           /* its step of this number (from 1) fails; 0: none */
  bool fail_in_collect;
  bool runs_ahead;            /* then with fake_ahead_ops */
  bool repeats;               /* the next token depends on two before it, and a little on its place: texts repeat themselves, nearly */
  uint64_t spoilt_at;         /* what its step of this number (from 1) computes is no number, nor what reads of it; 0: none */
  uint64_t broken_seed;       /* rows sampled with it are no distribution; 0: none */
  /* of a draft model, which is loaded with a number of blocks: it says what the model says so many times of a hundred; as those above */
  unsigned guesses_right;
  int64_t guess_ns;
  uint64_t guess_fails_at, guess_broken_seed;
  _Atomic uint64_t n_guess_steps, n_guess_tokens;
  _Atomic uint64_t n_steps, n_open, n_rows, n_tokens; /* of the others */
  _Atomic uint64_t n_moved;   /* chunks that left another state than they went on from */
  _Atomic uint64_t n_fed;     /* rows whose token the step before drew, unknown to the host */
} fake;

struct fake_device {
  const struct tl_device_ops *ops;
  unsigned index;
  uint64_t n_steps, n_collected;
  struct tl_device_load load;
  bool guesses;      /* it has a draft model */
  const struct tl_step *steps[2]; /* submitted, the oldest first */
  uint64_t sums[2];  /* of their arrays at submit: they must stay as they are */
  unsigned n_under_way;
  int32_t *drawn;    /* (max_batch_size) by the step before */
  uint32_t n_drawn;
  int32_t *kv;       /* token of each slot, -1: never written */
  uint64_t *states;  /* (n_states) */
  uint32_t n_states;
  uint32_t *readers; /* (n_blocks) sequences of this step that see the block */
};

/* --- the model ------------------------------------------------------------------------- */

static inline bool fake_is_forbidden(const struct tl_sampling *s, int32_t token) {
  if (s->mask && !(s->mask[token / 32] >> token % 32 & 1)) return true;
  for (uint32_t i = 0; i < s->n_bias; i++)
    if (s->bias[i].token == token && isinf(s->bias[i].bias)) return true;
  return false;
}

static inline uint64_t fake_hash(uint64_t hash, int32_t token) {
  return tl_hash_u64(hash ^ (uint64_t)(uint32_t)token);
}

/* The token after a prefix of n tokens with this hash, of which `last` is the last and `before` the one before it; and its log-probability. */
static inline int32_t fake_next(uint64_t prefix_hash, uint64_t seed, uint32_t n, int32_t before, int32_t last) {
  if (!fake.repeats) return (int32_t)(tl_hash_u64(prefix_hash ^ seed) % FAKE_VOCAB);
  return (int32_t)(tl_hash_u64(fake_hash(fake_hash(n / 24, before), last)) % 4);
}

static inline float fake_logprob(uint64_t prefix_hash, int32_t token) {
  return -(float)(tl_hash_u64(prefix_hash + (uint64_t)token) % 4096) / 256;
}

/* --- steps ---------------------------------------------------------------------------------- */

/* Several rows of a sequence that are all wanted, the last one a new token's, are guesses behind a known one: no more than a device was
 * told of. (A scored prompt's are targets.) */
static inline void fake_check_drafts(const struct fake_device *d, const struct tl_step *s) {
  uint32_t wanted = 0;
  bool drafts = false;
  for (uint32_t q = 0; q < s->n_seqs; q++) {
    uint32_t n = s->query_start[q + 1] - s->query_start[q], of = 0;
    bool draws = true;
    for (; wanted < s->n_rows && s->rows[wanted] < s->query_start[q + 1]; wanted++, of++) draws = draws && s->sampling[wanted].target < 0;
    if (n == 1 || of != n || !draws) continue;
    FAKE_CHECK(n <= d->load.draft_tokens + 1);
    drafts = true;
  }
  FAKE_CHECK(!drafts || s->n_tokens <= d->load.draft_rows);
}

/* Who writes a state has it alone. */
static inline void fake_check_states(const struct fake_device *d, const struct tl_step *s) {
  FAKE_CHECK((d->n_states > 0) == (s->state_to != NULL) && (d->n_states > 0) == (s->state_from != NULL));
  for (uint32_t q = 0; d->n_states && q < s->n_seqs; q++) {
    FAKE_CHECK(s->state_to[q] < d->n_states);
    FAKE_CHECK(s->positions[s->query_start[q]] == 0 ? s->state_from[q] == TL_NO_STATE : s->state_from[q] < d->n_states);
    for (uint32_t k = 0; k < s->n_seqs; k++) FAKE_CHECK(k == q || (s->state_to[k] != s->state_to[q] && s->state_from[k] != s->state_to[q]));
    if (s->state_from[q] != s->state_to[q] && s->state_from[q] != TL_NO_STATE) atomic_fetch_add_explicit(&fake.n_moved, 1, memory_order_relaxed);
  }
}

static inline void fake_check_shape(const struct fake_device *d, const struct tl_step *s) {
  FAKE_CHECK(s->n_seqs >= 1 && s->n_seqs <= d->load.max_batch_size);
  FAKE_CHECK(s->n_tokens >= s->n_seqs && s->n_tokens <= d->load.max_batch_tokens);
  FAKE_CHECK(s->n_rows <= d->load.max_batch_size);
  FAKE_CHECK(s->query_start[0] == 0 && s->query_start[s->n_seqs] == s->n_tokens);
  for (uint32_t i = 1; i < s->n_rows; i++) FAKE_CHECK(s->rows[i] > s->rows[i - 1]);
  fake_check_drafts(d, s);
  fake_check_states(d, s);
  FAKE_CHECK(s->n_rows == 0 || s->rows[s->n_rows - 1] < s->n_tokens);
  memset(d->readers, 0, fake.n_blocks * sizeof *d->readers);
  for (uint32_t q = 0; q < s->n_seqs; q++) {
    FAKE_CHECK(s->query_start[q + 1] > s->query_start[q]);
    FAKE_CHECK(s->context_len[q] >= 1 && s->context_len[q] <= d->load.max_context);
    uint32_t n_blocks = tl_blocks_of(s->context_len[q]);
    FAKE_CHECK(n_blocks <= s->table_stride);
    for (uint32_t b = 0; b < n_blocks; b++) {
      uint32_t block = s->block_tables[(size_t)q * s->table_stride + b];
      FAKE_CHECK(block < fake.n_blocks);
      d->readers[block]++;
    }
  }
  /* blocks may be shared, but not while somebody writes into them */
  for (uint32_t i = 0; i < s->n_tokens; i++) FAKE_CHECK(d->readers[s->slots[i] / TL_BLOCK_TOKENS] == 1);
}

static inline uint64_t fake_sum(const struct tl_step *s) {
  uint64_t sum = tl_hash_bytes(s->tokens, s->n_tokens * sizeof *s->tokens, 1, 0);
  sum = tl_hash_bytes(s->positions, s->n_tokens * sizeof *s->positions, sum, 1);
  sum = tl_hash_bytes(s->slots, s->n_tokens * sizeof *s->slots, sum, 2);
  sum = tl_hash_bytes(s->query_start, (s->n_seqs + 1) * sizeof *s->query_start, sum, 3);
  sum = tl_hash_bytes(s->context_len, s->n_seqs * sizeof *s->context_len, sum, 4);
  sum = tl_hash_bytes(s->block_tables, (size_t)s->n_seqs * s->table_stride * sizeof *s->block_tables, sum, 5);
  sum = tl_hash_bytes(s->rows, s->n_rows * sizeof *s->rows, sum, 6);
  if (s->state_to) {
    sum = tl_hash_bytes(s->state_from, s->n_seqs * sizeof *s->state_from, sum, 11);
    sum = tl_hash_bytes(s->state_to, s->n_seqs * sizeof *s->state_to, sum, 12);
  }
  for (uint32_t i = 0; i < s->n_rows; i++) {
    const struct tl_sampling *p = &s->sampling[i];
    sum = tl_hash_bytes(p, sizeof *p, sum, 7);
    sum = tl_hash_bytes(p->history, p->n_history * sizeof *p->history, sum, 8);
    sum = tl_hash_bytes(p->bias, p->n_bias * sizeof *p->bias, sum, 9);
    if (p->mask) sum = tl_hash_bytes(p->mask, TL_MASK_WORDS(FAKE_VOCAB) * sizeof *p->mask, sum, 10);
  }
  return sum;
}

/* Writes the chunk of sequence q into the cache. */
static inline void fake_store(const struct fake_device *d, const struct tl_step *s, uint32_t q) {
  uint32_t n = s->query_start[q + 1] - s->query_start[q];
  const uint32_t *table = s->block_tables + (size_t)q * s->table_stride;
  for (uint32_t i = 0; i < n; i++) {
    uint32_t row = s->query_start[q] + i, position = s->context_len[q] - n + i;
    FAKE_CHECK(s->positions[row] == position);
    FAKE_CHECK(s->slots[row] == table[position / TL_BLOCK_TOKENS] * TL_BLOCK_TOKENS + position % TL_BLOCK_TOKENS);
    int32_t token = s->tokens[row];
    if (token <= -2) {
      FAKE_CHECK(d->ops->runs_ahead && (uint32_t)(-2 - token) < d->n_drawn);
      token = d->drawn[-2 - token];
      if (token < 0) token = 0; /* no distribution: whatever follows is thrown away */
      atomic_fetch_add_explicit(&fake.n_fed, 1, memory_order_relaxed);
    }
    FAKE_CHECK(token >= 0 && token < FAKE_VOCAB);
    d->kv[s->slots[row]] = d->n_collected == fake.spoilt_at ? FAKE_NAN : token;
  }
}

static inline uint64_t fake_prefix_hash(const struct fake_device *d, const uint32_t *table, uint32_t n) {
  uint64_t hash = 0;
  for (uint32_t p = 0; p < n; p++) hash = fake_hash(hash, d->kv[table[p / TL_BLOCK_TOKENS] * TL_BLOCK_TOKENS + p % TL_BLOCK_TOKENS]);
  return hash;
}

/* Once the chunk is in the cache. */
static inline void fake_run_state(const struct fake_device *d, const struct tl_step *s, uint32_t q) {
  const uint32_t *table = s->block_tables + (size_t)q * s->table_stride;
  uint32_t first = s->positions[s->query_start[q]];
  if (d->n_states == 0) return;
  if (first > 0) FAKE_CHECK(d->states[s->state_from[q]] == fake_prefix_hash(d, table, first));
  d->states[s->state_to[q]] = fake_prefix_hash(d, table, s->context_len[q]);
}

static inline void fake_check_history(const struct tl_sampling *s, const uint32_t *seen, uint32_t n_tokens) {
  uint32_t n_distinct = 0, n_generated = 0;
  for (uint32_t i = 0; i < FAKE_VOCAB; i++) n_distinct += seen[i] > 0;
  FAKE_CHECK(s->n_history == n_distinct);
  for (uint32_t i = 0; i < s->n_history; i++) {
    FAKE_CHECK(seen[s->history[i].token] >= s->history[i].n_generated);
    n_generated += s->history[i].n_generated;
  }
  FAKE_CHECK(n_generated < n_tokens);
}

static inline void fake_sample(const struct fake_device *d, const struct tl_step *s, uint32_t q, uint32_t i, struct tl_sampled *ret) {
  const struct tl_sampling *sampling = &s->sampling[i];
  const uint32_t *table = s->block_tables + (size_t)q * s->table_stride;
  uint32_t position = s->positions[s->rows[i]], seen[FAKE_VOCAB] = {0};
  uint64_t hash = 0;
  int32_t before = 0, last = 0;
  for (uint32_t p = 0; p <= position; p++) {
    int32_t token = d->kv[table[p / TL_BLOCK_TOKENS] * TL_BLOCK_TOKENS + p % TL_BLOCK_TOKENS];
    if (token == FAKE_NAN) {
      *ret = (struct tl_sampled){.token = -1};
      return;
    }
    FAKE_CHECK(token >= 0);
    hash = fake_hash(hash, token);
    seen[token]++;
    before = last;
    last = token;
  }
  FAKE_CHECK(sampling->position == position + 1);
  if (sampling->history) fake_check_history(sampling, seen, position + 1);
  int32_t token = sampling->target;
  if (token < 0) {
    uint32_t tries = 0;
    for (token = fake_next(hash, sampling->seed, position + 1, before, last); fake_is_forbidden(sampling, token) && tries < FAKE_VOCAB; tries++) token = (token + 1) % FAKE_VOCAB;
    if (tries == FAKE_VOCAB) token = -1;
  }
  memset(ret, 0xee, sizeof *ret);
  if (d->guesses && token >= 0 && tl_hash_u64(hash + 7) % 100 >= fake.guesses_right) token = (token + 1) % FAKE_VOCAB;
  *ret = (struct tl_sampled){.token = token};
  uint64_t broken = d->guesses ? fake.guess_broken_seed : fake.broken_seed;
  if (broken && sampling->seed == broken) {
    ret->token = -1;
    return;
  }
  if (sampling->n_top < 0 || token < 0) return;
  ret->logprob = fake_logprob(hash, token);
  ret->n_top = sampling->n_top;
  for (int32_t k = 0; k < ret->n_top; k++) {
    ret->top_tokens[k] = (token + k) % FAKE_VOCAB;
    ret->top_logprobs[k] = fake_logprob(hash, ret->top_tokens[k]);
  }
}

static inline int fake_fail(const struct fake_device *d, bool in_collect, struct tl_error *err) {
  uint64_t step = in_collect ? d->n_collected : d->n_steps, fails_at = d->guesses ? fake.guess_fails_at : fake.fail_at;
  if (d->index != fake.bad || fails_at == 0 || step < fails_at || fake.fail_in_collect != in_collect) return TL_OK;
  return tl_error_set(err, TL_EDEVICE, NULL, "the fake device fails in step %llu", (unsigned long long)step);
}

static inline int fake_submit(struct tl_device *device, const struct tl_step *step, struct tl_error *err) {
  struct fake_device *d = (struct fake_device *)(void *)device;
  FAKE_CHECK(d->n_under_way < (d->ops->runs_ahead ? 2 : 1));
  d->n_steps++;
  atomic_fetch_add_explicit(d->guesses ? &fake.n_guess_steps : &fake.n_steps, 1, memory_order_relaxed);
  if (fake_fail(d, false, err) < 0) {
    d->n_under_way = 0;
    return TL_EDEVICE;
  }
  fake_check_shape(d, step);
  d->steps[d->n_under_way] = step;
  d->sums[d->n_under_way++] = fake_sum(step);
  return TL_OK;
}

static inline int fake_collect(struct tl_device *device, struct tl_sampled *ret_sampled, struct tl_error *err) {
  struct fake_device *d = (struct fake_device *)(void *)device;
  const struct tl_step *s = d->steps[0];
  uint64_t sum = d->sums[0];
  FAKE_CHECK(d->n_under_way > 0 && sum == fake_sum(s));
  d->n_under_way--;
  d->n_collected++;
  d->steps[0] = d->steps[1];
  d->sums[0] = d->sums[1];
  if (fake_fail(d, true, err) < 0) {
    d->n_under_way = 0;
    return TL_EDEVICE;
  }
  int64_t step_ns = d->guesses ? fake.guess_ns : fake.step_ns;
  if (step_ns) nanosleep(&(struct timespec){.tv_nsec = step_ns}, NULL);
  FAKE_CHECK(sum == fake_sum(s));
  uint32_t i = 0;
  for (uint32_t q = 0; q < s->n_seqs; q++) {
    fake_store(d, s, q);
    fake_run_state(d, s, q);
    for (; i < s->n_rows && s->rows[i] < s->query_start[q + 1]; i++) fake_sample(d, s, q, i, &ret_sampled[i]);
  }
  FAKE_CHECK(i == s->n_rows);
  d->n_drawn = s->n_rows;
  for (i = 0; i < s->n_rows; i++) d->drawn[i] = ret_sampled[i].token;
  atomic_fetch_add_explicit(d->guesses ? &fake.n_guess_tokens : &fake.n_tokens, s->n_tokens, memory_order_relaxed);
  if (!d->guesses) atomic_fetch_add_explicit(&fake.n_rows, s->n_rows, memory_order_relaxed);
  return TL_OK;
}

/* --- life ----------------------------------------------------------------------------------------- */

static const struct tl_device_ops fake_ops, fake_ahead_ops;

static inline int fake_open(const struct tl_device_options *options, struct tl_device **ret, struct tl_error *err) {
  if (fake.open_error && options->index == fake.bad) return tl_error_set(err, fake.open_error, "devices", "no such fake device");
  struct fake_device *d = calloc(1, sizeof *d);
  d->ops = fake.runs_ahead ? &fake_ahead_ops : &fake_ops; /* fake_chosen */
  d->index = options->index;
  atomic_fetch_add_explicit(&fake.n_open, 1, memory_order_relaxed);
  *ret = (struct tl_device *)(void *)d;
  return TL_OK;
}

static inline int fake_load(struct tl_device *device, const struct tl_device_load *load, struct tl_device_loaded *ret,
                     struct tl_error *err) {
  struct fake_device *d = (struct fake_device *)(void *)device;
  if (fake.load_error && d->index == fake.bad) return tl_error_set(err, fake.load_error, NULL, "the fake device cannot load");
  d->load = *load;
  d->guesses = load->n_blocks > 0;
  FAKE_CHECK(!d->guesses || load->n_blocks == fake.n_blocks);
  size_t slots = (size_t)fake.n_blocks * TL_BLOCK_TOKENS;
  d->kv = malloc(slots * sizeof *d->kv);
  for (size_t i = 0; i < slots; i++) d->kv[i] = -1;
  d->n_states = fake.n_states && fake.n_states < load->max_states ? fake.n_states : load->max_states;
  d->states = calloc((size_t)d->n_states + 1, sizeof *d->states);
  d->readers = malloc(fake.n_blocks * sizeof *d->readers);
  d->drawn = malloc(load->max_batch_size * sizeof *d->drawn);
  *ret = (struct tl_device_loaded){.n_blocks = fake.n_blocks, .n_states = d->n_states, .kv_bytes = slots * sizeof *d->kv, .weight_bytes = 1};
  if (load->progress) load->progress(1, 1, load->context);
  return TL_OK;
}

static inline void fake_close(struct tl_device *device) {
  struct fake_device *d = (struct fake_device *)(void *)device;
  free(d->kv);
  free(d->states);
  free(d->readers);
  free(d->drawn);
  free(d);
  atomic_fetch_sub_explicit(&fake.n_open, 1, memory_order_relaxed);
}

static const struct tl_device_ops fake_ops = {.name = "fake", .open = fake_open, .load = fake_load, .submit = fake_submit,
                                             .collect = fake_collect, .close = fake_close};
static const struct tl_device_ops fake_ahead_ops = {.name = "fake", .runs_ahead = true, .open = fake_open, .load = fake_load,
                                                   .submit = fake_submit, .collect = fake_collect, .close = fake_close};

static inline const struct tl_device_ops *fake_chosen(void) {
  return fake.runs_ahead ? &fake_ahead_ops : &fake_ops;
}

/* --- sequences for it --------------------------------------------------------------------------------- */

/* A sequence with a random prompt; free with fake_sequence_free. */
static inline struct tl_sequence *fake_sequence(uint64_t *random, uint32_t n_prompt, uint32_t max_new) {
  struct tl_sequence *seq = calloc(1, sizeof *seq);
  seq->n_prompt = n_prompt;
  seq->max_new = max_new;
  seq->tokens = malloc((n_prompt + max_new) * sizeof *seq->tokens);
  for (uint32_t i = 0; i < n_prompt; i++) seq->tokens[i] = (int32_t)unit_below(random, FAKE_VOCAB);
  for (uint32_t i = n_prompt; i < n_prompt + max_new; i++) seq->tokens[i] = -7;
  seq->draft_index = calloc(tl_draft_index_words(n_prompt + max_new), sizeof *seq->draft_index);
  seq->sampling = (struct tl_sampling){.top_p = 1, .repetition_penalty = 1, .seed = unit_random(random), .target = -1, .n_top = -1};
  return seq;
}

/* The prompt begins like all of this family. */
static inline void fake_prefix(struct tl_sequence *seq, uint64_t family, uint32_t n) {
  for (uint32_t i = 0; i < n && i < seq->n_prompt; i++) seq->tokens[i] = (int32_t)(tl_hash_u64(family * 1000 + i) % FAKE_VOCAB);
}

static inline void fake_want_logprobs(struct tl_sequence *seq, int32_t n_top) {
  uint32_t n = seq->n_prompt + seq->max_new;
  seq->sampling.n_top = n_top;
  seq->logprobs = calloc(n, sizeof *seq->logprobs);
  for (uint32_t i = 0; i < n && n_top > 0; i++) {
    seq->logprobs[i].top_tokens = malloc((size_t)n_top * sizeof(int32_t));
    seq->logprobs[i].top_logprobs = malloc((size_t)n_top * sizeof(float));
  }
}

static inline void fake_want_history(struct tl_sequence *seq) {
  uint32_t n = seq->n_prompt + seq->max_new;
  seq->sampling.presence_penalty = 1;
  seq->history_slots = 16;
  while (seq->history_slots < 2 * n) seq->history_slots *= 2;
  seq->history = calloc(n, sizeof *seq->history);
  seq->history_index = calloc(seq->history_slots, sizeof *seq->history_index);
}

/* The ids are borrowed. */
static inline void fake_want_stop(struct tl_sequence *seq, const int32_t *ids, uint32_t n, uint32_t min_new) {
  seq->stop_ids = ids;
  seq->n_stop_ids = n;
  seq->min_new = min_new;
  seq->bias = calloc(n + 1, sizeof *seq->bias);
}

/* The words are borrowed. After fake_want_stop, if both are wanted. */
static inline void fake_want_bad_words(struct tl_sequence *seq, const struct tl_bad_word *words, uint32_t n) {
  seq->bad_words = words;
  seq->n_bad_words = n;
  free(seq->bias);
  seq->bias = calloc(n + seq->n_stop_ids + 1, sizeof *seq->bias);
}

static inline void fake_sequence_free(struct tl_sequence *seq) {
  free(seq->draft_index);
  uint32_t n = seq->n_prompt + seq->max_new;
  for (uint32_t i = 0; seq->logprobs && i < n; i++) {
    free(seq->logprobs[i].top_tokens);
    free(seq->logprobs[i].top_logprobs);
  }
  free(seq->logprobs);
  free(seq->history);
  free(seq->history_index);
  free(seq->bias);
  free(seq->tokens);
  free(seq);
}

static inline bool fake_is_stop(const struct tl_sequence *seq, int32_t token) {
  for (uint32_t i = 0; i < seq->n_stop_ids; i++)
    if (seq->stop_ids[i] == token) return true;
  return false;
}

/* Whether the token at index `at` would complete a bad word of generated ones. */
static inline bool fake_is_bad(const struct tl_sequence *seq, uint32_t at, int32_t token) {
  for (uint32_t i = 0; i < seq->n_bad_words; i++) {
    const struct tl_bad_word *word = &seq->bad_words[i];
    uint32_t same = word->ids[word->n - 1] == token;
    while (same && same < word->n && at - seq->n_prompt >= same && seq->tokens[at - same] == word->ids[word->n - 1 - same]) same++;
    if (same == word->n) return true;
  }
  return false;
}

/* Checks all n_out tokens, and the log-probabilities of whatever was scored,
 * against the model. The loop's thread. */
static inline void fake_check_sequence(const struct tl_sequence *seq) {
  uint32_t n_out = atomic_load_explicit(&seq->n_out, memory_order_acquire);
  uint32_t n_scored = atomic_load_explicit(&seq->n_scored, memory_order_acquire);
  uint64_t hash = 0;
  FAKE_CHECK(n_out <= seq->max_new && n_scored < seq->n_prompt + (seq->n_prompt == 0));
  for (uint32_t i = 0; i < seq->n_prompt + n_out; i++) {
    bool generated = i >= seq->n_prompt;
    if (generated) {
      int32_t before = i > 1 ? seq->tokens[i - 2] : 0, last = i > 0 ? seq->tokens[i - 1] : 0;
      int32_t expected = fake_next(hash, seq->sampling.seed, i, before, last);
      while ((i - seq->n_prompt < seq->min_new && fake_is_stop(seq, expected)) || fake_is_bad(seq, i, expected))
        expected = (expected + 1) % FAKE_VOCAB;
      bool masked = seq->matcher || seq->allowed; /* see grammar_sequence.h */
      FAKE_CHECK(masked || seq->tokens[i] == expected);
    }
    if (seq->logprobs && (generated || (i >= 1 && i <= n_scored))) {
      const struct tl_logprobs *l = &seq->logprobs[i];
      FAKE_CHECK(l->logprob == fake_logprob(hash, seq->tokens[i]) && l->n_top == seq->sampling.n_top);
      for (int32_t k = 0; k < l->n_top; k++) FAKE_CHECK(l->top_tokens[k] == (seq->tokens[i] + k) % FAKE_VOCAB);
    }
    hash = fake_hash(hash, seq->tokens[i]);
  }
}

#endif
