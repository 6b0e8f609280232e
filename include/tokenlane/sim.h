/* SPDX-License-Identifier: MIT */
/* The simulated device, "sim:N" of `devices`: no maths, no weights. A step takes
 * the time that a formula says without using the processor, and its tokens come
 * from a hash of what the KV cache holds of the sequence, so that a wrong block
 * table, a lost token or stale KV shows as wrong text. A tool for tests and
 * sizing, never a fallback.
 *
 * history of a prefix:  h(-1) = TL_SIM_START
 *                       h(p) = tl_hash_u64(h(p-1) ^ (position p << 32 | token p))
 * the token after it:   x = tl_hash_u64(h(p) ^ k); k = 0 with temperature 0, else
 *                       k = tl_hash_u64(seed ^ tl_hash_u64(p + 1))
 *                       tokens[x % n_tokens], or the next one that is not forbidden
 *                       (an EOS id, a bias of -100 or less); a bias of 100 or
 *                       more chooses its token; with eos_every, when (x >> 32) %
 *                       eos_every is 0, the first EOS id if no bias forbids it
 * with a mask:          both of these only if the mask has it; else, of its n tokens in order of ids, number x % n, or the
 *                       next one in a ring that is not forbidden; if all are, an EOS id of the mask; if there is none, -1
 *
 * a pooling model's:    h'(p) = h(p), then tl_hash_u64(h(p) ^ type p) where token p's type is not 0
 *                       number k = (tl_hash_u64(h'(last) ^ k) >> 40) / 2^23 - 1; all divided by the
 *                       vector's length if the model normalizes
 *
 * h(p) lies in the KV slot of p; h(p-1) is read through the block table.
 *
 * In a group of N (tensor parallelism) each rank keeps its own KV slots and runs each step; a token and a block
 * take the Nth part of the time, `base_ns` stays, and the step ends when the last rank is through. Rank 0's tokens are right
 * only if all ranks are. */
#ifndef TOKENLANE_SIM_H
#define TOKENLANE_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "tokenlane/base/error.h"
#include "tokenlane/model.h"
#include "tokenlane/step.h"

#define TL_SIM_START UINT64_C(0x746f6b656e6c616e) /* "tokenlan" */
#define TL_SIM_ANY UINT32_MAX   /* a fault of every device */
#define TL_SIM_NEVER UINT32_MAX /* no reset helps */

enum tl_sim_fault_kind {
  TL_SIM_ERROR,   /* the step fails; so does every later one, with wrong tokens, until reset */
  TL_SIM_HANG,    /* collect does not return: until reset, or for `for_ns` and then as if nothing were */
  TL_SIM_SLOW,    /* steps take `factor` times as long: n_steps of them, or (0) until reset */
  TL_SIM_OOM,     /* submit (or load) says TL_ENOMEM, n_steps times; nothing else is harmed */
  TL_SIM_CORRUPT, /* steps go on and say TL_OK, but their tokens are wrong, until reset */
  TL_SIM_HOT,     /* `health` says TL_DEVICE_IMPAIRED, until reset; steps are as ever */
  TL_SIM_LOST,    /* `health` says TL_DEVICE_FAILED, until reset; steps are as ever */
  TL_SIM_DIE,     /* the device is gone: refuses the step and all that follow at once, until reset */
};

/* DEVICE@STEP:KIND, see config/README.md. Steps are counted from 1 since open. */
struct tl_sim_fault {
  uint32_t device;  /* N of "sim:N", or TL_SIM_ANY */
  uint64_t step;    /* 0: at load */
  enum tl_sim_fault_kind kind;
  double factor;    /* TL_SIM_SLOW */
  uint64_t n_steps; /* TL_SIM_SLOW, TL_SIM_OOM; 0: until reset */
  int64_t for_ns;   /* TL_SIM_HANG; 0: until reset */
  uint32_t recover; /* the how manyth reset heals it: 1 unless set; TL_SIM_NEVER */
};

struct tl_sim_options {
  int64_t base_ns, per_token_ns, per_block_ns; /* of a step alone; blocks: those that its sequences hold */
  uint32_t n_kv_blocks;           /* 0: as many as the batch can use */
  uint32_t eos_every;             /* one token in so many is the model's first EOS id; 0: none */
  const int32_t *tokens;          /* (n_tokens) what it answers with; NULL: the whole vocabulary. Borrowed until close */
  uint32_t n_tokens;
  const struct tl_sim_fault *faults; /* (n_faults) of all devices; copied by open */
  uint32_t n_faults;
  uint64_t first_step; /* steps that the device has made in an earlier life: the script goes on after them */
};

/* Reads one entry of the key `sim.faults`, or fills err with what was expected. */
int tl_sim_parse_fault(const char *text, struct tl_sim_fault *ret, struct tl_error *err);
/* Reads one entry of `sim.override`, DEVICE:base_us=N:..., and changes *options if
 * it means device `index`. */
int tl_sim_override(const char *text, uint32_t index, struct tl_sim_options *options, struct tl_error *err);

/* --- what a device will say: for tests and checkers ------------------------------ */
int64_t tl_sim_step_ns(const struct tl_sim_options *options, uint64_t n_tokens, uint64_t n_blocks);
uint64_t tl_sim_history(uint64_t before, uint32_t position, int32_t token);
/* The token after a prefix with this history. sampling->target is not looked at. */
int32_t tl_sim_token(const struct tl_sim_options *options, const struct tl_model *model, uint64_t history,
                     const struct tl_sampling *sampling);
/* The vector of n tokens; types (n) or NULL: all 0; ret: (model->n_out). */
void tl_sim_vector(const struct tl_model *model, const int32_t *tokens, const int32_t *types, uint32_t n, float *ret);
/* Continues tokens[0 .. n_prompt) to tokens[0 .. n_prompt + n_new). */
void tl_sim_expect(const struct tl_sim_options *options, const struct tl_model *model, int32_t *tokens,
                   uint32_t n_prompt, uint32_t n_new, const struct tl_sampling *sampling);

#endif
