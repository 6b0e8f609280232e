/* SPDX-License-Identifier: MIT */
/* What a simulated device says: see the formula in tokenlane/sim.h. */
#include "device/sim/sim_private.h"
#include "tokenlane/base/hash.h"

#define LN2 0.6931472f

uint64_t tl_sim_history(uint64_t before, uint32_t position, int32_t token) {
  return tl_hash_u64(before ^ ((uint64_t)position << 32 | (uint32_t)token));
}

static bool is_eos(const struct tl_model *model, int32_t token) {
  for (uint32_t i = 0; i < model->n_eos; i++)
    if (model->eos[i] == token) return true;
  return false;
}

static bool is_banned(const struct tl_sampling *s, int32_t token) {
  for (uint32_t i = 0; i < s->n_bias; i++)
    if (s->bias[i].token == token && s->bias[i].bias <= -100) return true;
  return false;
}

static uint32_t n_candidates(const struct tl_sim_options *o, const struct tl_model *model) {
  return o->tokens ? o->n_tokens : model->vocab_size;
}

/* The candidates from index `at` on, in a ring. */
static int32_t candidate(const struct tl_sim_options *o, const struct tl_model *model, uint64_t at) {
  uint64_t i = at % n_candidates(o, model);
  return o->tokens ? o->tokens[i] : (int32_t)i;
}

/* Moves *at to the next candidate that may be said. If there is none, anything is as good. */
static int32_t next_allowed(const struct tl_sim_options *o, const struct tl_model *model, const struct tl_sampling *s,
                            uint64_t *at) {
  int32_t token = candidate(o, model, *at);
  for (uint32_t tries = n_candidates(o, model); tries > 1 && (is_eos(model, token) || is_banned(s, token)); tries--)
    token = candidate(o, model, ++*at);
  return token;
}

static bool in_mask(const uint32_t *mask, uint64_t token) {
  return mask[token / 32] >> token % 32 & 1;
}

static bool may_be_said(const struct tl_model *model, const struct tl_sampling *s, int32_t token) {
  return !s->mask || ((uint32_t)token < model->vocab_size && in_mask(s->mask, (uint32_t)token));
}

/* Number `at` % n of the n tokens of the mask, or the next one in a ring that is not forbidden; else an EOS id; else none. */
static int32_t masked(const struct tl_model *model, const struct tl_sampling *s, uint64_t at) {
  uint32_t n = 0, words = TL_MASK_WORDS(model->vocab_size), last_bits = model->vocab_size % 32;
  for (uint32_t i = 0; i < words; i++)
    n += (uint32_t)__builtin_popcount(i + 1 < words || !last_bits ? s->mask[i] : s->mask[i] & ((1u << last_bits) - 1));
  if (n == 0) return -1;
  uint32_t token = 0;
  for (uint64_t left = at % n;; token++) { /* whole words that lie before it are passed at once */
    uint32_t in_word = token % 32 ? 0 : (uint32_t)__builtin_popcount(s->mask[token / 32]);
    if (token % 32 == 0 && in_word <= left) {
      left -= in_word;
      token += 31;
    } else if (in_mask(s->mask, token) && left-- == 0) {
      break;
    }
  }
  for (uint32_t tries = 0; tries < model->vocab_size; tries++, token = (token + 1) % model->vocab_size)
    if (in_mask(s->mask, token) && !is_eos(model, (int32_t)token) && !is_banned(s, (int32_t)token)) return (int32_t)token;
  for (uint32_t i = 0; i < model->n_eos; i++)
    if (may_be_said(model, s, model->eos[i]) && !is_banned(s, model->eos[i])) return model->eos[i];
  return -1;
}

/* *ret_at: the token's place among the candidates, where it came from there. */
static int32_t choose(const struct tl_sim_options *o, const struct tl_model *model, uint64_t history,
                      const struct tl_sampling *s, uint64_t *ret_at) {
  uint64_t key = s->temperature > 0 ? tl_hash_u64(s->seed ^ tl_hash_u64(s->position)) : 0;
  uint64_t x = tl_hash_u64(history ^ key);
  *ret_at = x % n_candidates(o, model);
  for (uint32_t i = 0; i < s->n_bias; i++)
    if (s->bias[i].bias >= 100 && may_be_said(model, s, s->bias[i].token)) return s->bias[i].token;
  bool may_end = model->n_eos && !is_banned(s, model->eos[0]) && may_be_said(model, s, model->eos[0]);
  if (o->eos_every && may_end && (x >> 32) % o->eos_every == 0) return model->eos[0];
  if (s->mask) return masked(model, s, x);
  return next_allowed(o, model, s, ret_at);
}

int32_t tl_sim_token(const struct tl_sim_options *options, const struct tl_model *model, uint64_t history,
                     const struct tl_sampling *sampling) {
  uint64_t at;
  return choose(options, model, history, sampling, &at);
}

void tl_sim_expect(const struct tl_sim_options *options, const struct tl_model *model, int32_t *tokens,
                   uint32_t n_prompt, uint32_t n_new, const struct tl_sampling *sampling) {
  uint64_t history = TL_SIM_START;
  struct tl_sampling s = *sampling;
  for (uint32_t p = 0; p < n_prompt + n_new; p++) {
    s.position = p;
    if (p >= n_prompt) tokens[p] = tl_sim_token(options, model, history, &s);
    history = tl_sim_history(history, p, tokens[p]);
  }
}

int64_t tl_sim_step_ns(const struct tl_sim_options *options, uint64_t n_tokens, uint64_t n_blocks) {
  return options->base_ns + options->per_token_ns * (int64_t)n_tokens + options->per_block_ns * (int64_t)n_blocks;
}

/* Log-probabilities are the same everywhere: the token that the hash chose has 1/2, the
 * candidates behind it 1/4, 1/8, ..., whatever else is scored 2^-21. */
void sim_sample(const struct sim_device *d, uint64_t history, const struct tl_sampling *sampling, struct tl_sampled *ret) {
  const struct tl_sim_options *o = &d->options;
  const struct tl_model *model = d->load.model;
  uint64_t at;
  int32_t chosen = choose(o, model, history, sampling, &at), token = sampling->target >= 0 ? sampling->target : chosen;
  *ret = (struct tl_sampled){.token = token};
  if (sampling->n_top < 0 || token < 0) return;
  ret->logprob = (token == chosen ? 1 : TL_MAX_TOP_LOGPROBS + 1) * -LN2;
  uint32_t most = n_candidates(o, model);
  for (uint32_t i = 0, k = 0; i < TL_MAX_TOP_LOGPROBS && k < most; k++) {
    int32_t other = i ? candidate(o, model, at + k) : chosen;
    if (i && other == chosen) continue;
    float logprob = (float)(i + 1) * -LN2;
    if (other == token) ret->logprob = logprob;
    if ((int32_t)i < sampling->n_top) {
      ret->top_tokens[i] = other;
      ret->top_logprobs[i] = logprob;
      ret->n_top = (int32_t)i + 1;
    }
    i++;
  }
}
