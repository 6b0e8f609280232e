/* SPDX-License-Identifier: MIT */
/* One step: a pass of the model over a batch of prefill chunks and decodes. It
 * is flat arrays, so that a backend can copy them to its device as they are;
 * all are owned by whoever fills the step and stay unchanged from submit to
 * collect. */
#ifndef TOKENLANE_STEP_H
#define TOKENLANE_STEP_H

#include <stdbool.h>
#include <stdint.h>

#define TL_BLOCK_TOKENS 16   /* token slots of a KV block */
/* Blocks that hold so many tokens. */
static inline uint32_t tl_blocks_of(uint64_t n_tokens) {
  return (uint32_t)((n_tokens + TL_BLOCK_TOKENS - 1) / TL_BLOCK_TOKENS);
}
#define TL_MAX_TOP_LOGPROBS 20
#define TL_NO_STATE UINT32_MAX
#define TL_MASK_WORDS(vocab_size) (((vocab_size) + 31) / 32) /* of a mask: bit token % 32 of word token / 32, the last word's others 0 */
#define TL_MAX_BIAS (65536 + 512) /* entries of a row's bias: the most of limits.max_logit_bias, stop ids, bad words */

struct tl_token_bias {
  int32_t token;
  float bias; /* added to the logit; -INFINITY forbids the token */
};

/* A token of the sequence so far, once, for penalties. */
struct tl_token_count {
  int32_t token;
  uint32_t n_generated; /* times generated; 0: only in the prompt */
};

/* How one wanted row becomes a token. Order: penalties, bias, mask, temperature,
 * top-k, top-p, min-p, draw. */
struct tl_sampling {
  float temperature;        /* 0: the most likely token, lowest id on a tie */
  float top_p, min_p;       /* 1 and 0: off */
  int32_t top_k;            /* 0: off */
  float presence_penalty, frequency_penalty; /* 0: off */
  float repetition_penalty; /* 1: off; as in Keskar et al. 2019: positive logits / p, negative * p */
  uint64_t seed, position;  /* key of the random number: index of the token in the sequence */
  int32_t target;           /* >= 0: draw nothing, score this token (echo of a prompt) */
  int32_t n_top;            /* -1: no log-probability wanted; 0: of the chosen; 1..20: and the top ones */
  const struct tl_token_count *history; /* (n_history); borrowed until collect */
  uint32_t n_history;
  const struct tl_token_bias *bias;     /* (n_bias); borrowed until collect */
  uint32_t n_bias;
  const uint32_t *mask; /* (TL_MASK_WORDS(vocab_size)) which tokens may be drawn; NULL: all; borrowed until collect */
};

struct tl_step {
  uint32_t n_tokens;              /* rows of the batch */
  uint32_t n_seqs;
  uint32_t n_rows;                /* rows whose logits are wanted */
  uint32_t table_stride;          /* entries of a row of block_tables */
  const int32_t *tokens;          /* (n_tokens); -2 - i: what row i of the step before drew, which is not collected yet (device.h, runs_ahead) */
  const uint32_t *positions;      /* (n_tokens) index in its sequence, from 0 */
  const uint32_t *slots;          /* (n_tokens) KV slot: block * TL_BLOCK_TOKENS + offset */
  const uint32_t *query_start;    /* (n_seqs + 1) first row of each sequence */
  const uint32_t *context_len;    /* (n_seqs) tokens in the cache once this step is done */
  const uint32_t *block_tables;   /* (n_seqs, table_stride) blocks in order of position */
  const uint32_t *rows;           /* (n_rows) row index, ascending */
  const struct tl_sampling *sampling; /* (n_rows) */
  /* Of models with states (model.h), else NULL: the state that a sequence's first row goes on from, TL_NO_STATE: it is the sequence's first
   * and begins with zeros; and where the state behind its last row is put, which may be the same. A state that one sequence of the step
   * writes, no other one reads or writes; several may read one. What a step leaves in a state, the next one finds there. */
  const uint32_t *state_from, *state_to; /* (n_seqs) */
  const uint32_t *adapters;       /* (n_seqs) number of each sequence's adapter (tl_model.adapters) + 1, 0: none; NULL: no sequence has one */
  /* Steps of a pooling model (model.h): every sequence is in it whole, n_rows is n_seqs, `rows` their last rows; slots,
   * context_len, block_tables and sampling are NULL, and collect fills these in place of ret_sampled. */
  const int32_t *token_types;     /* (n_tokens) BERT's segment ids; NULL: all 0 */
  float *vectors;                 /* (n_seqs, tl_model.n_out) */
};

/* Log-probabilities are log-softmax of the raw logits, before penalties, bias,
 * mask and temperature. */
struct tl_sampled {
  int32_t token;  /* drawn, or the target; -1: the row's logits are no distribution (NaN, infinity), or mask and bias leave no
                   * token; nothing else is valid */
  float logprob;  /* of `token`; 0 when none was wanted */
  int32_t n_top;  /* filled entries below, most likely first */
  int32_t top_tokens[TL_MAX_TOP_LOGPROBS];
  float top_logprobs[TL_MAX_TOP_LOGPROBS];
};

#endif
