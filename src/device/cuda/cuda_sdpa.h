/* SPDX-License-Identifier: MIT */
/* Attention of prefill rows by cuDNN. */
#ifndef CUDA_SDPA_H
#define CUDA_SDPA_H

#include <stdbool.h>

#include "device/cuda/cuda_dnn.h"

#define CUDA_SDPA_DESCS 96 /* of a plan */
#define CUDA_SDPA_PLANS 16
#define CUDA_SDPA_STEP 4    /* from a plan's rows to the next one's, and to the fewest that it is used for */
#define CUDA_SDPA_SPARE 64  /* entries behind the last table: a kernel's tile of keys may end behind it */

/* Statuses beside cuDNN's own. */
enum {
  CUDA_DNN_FULL = -1,
  CUDA_DNN_NONE = -2,
  CUDA_DNN_UNKNOWN = -3, /* the kernel wants memory that nobody would give it, or does not say what it wants */
};

/* What an execution is given pointers to; numbers of tensors in the graph. 0 is none: cudnn-frontend never gives it. */
enum {
  CUDA_SDPA_Q = 1,   /* T (rows of the step, n_heads head), as O */
  CUDA_SDPA_O,
  CUDA_SDPA_K,       /* T (n_blocks, n_kv_heads, TL_BLOCK_TOKENS, head), as V */
  CUDA_SDPA_V,
  CUDA_SDPA_K_TABLE, /* int32 (n_seqs, table_stride), and CUDA_SDPA_SPARE more: blocks; all of them exist */
  CUDA_SDPA_V_TABLE, /* the same */
  CUDA_SDPA_STARTS,  /* int32 (n_seqs + 1): elements of Q before a sequence's first row */
  CUDA_SDPA_ROWS,    /* int32 (n_seqs): 1 .. max_rows */
  CUDA_SDPA_LENGTHS, /* int32 (n_seqs): tokens in the cache, at least as many as rows */
  CUDA_SDPA_SCALE,   /* float, on the host, as the next */
  CUDA_SDPA_OUTSIDE, /* -inf, of scores past a length */
  CUDA_SDPA_AFTER,   /* -inf, of keys after the row */
  CUDA_SDPA_IDS,     /* numbers from here on are never given */
};

struct cuda_sdpa_shape {
  int type; /* T: CUDA_DNN_BFLOAT16 or CUDA_DNN_HALF */
  int64_t n_seqs, max_rows, n_heads, n_kv_heads, head, n_blocks, table_stride;
};

struct cuda_sdpa_plan {
  struct cuda_sdpa_shape shape;
  void *plan;
  int64_t workspace_bytes;
  void *descs[CUDA_SDPA_DESCS]; /* all that the plan is made of, which it may look at */
  unsigned n_descs;
};

/* Sequences next to one another in a step, whose prompts one launch attends to. */
struct cuda_run {
  const struct cuda_sdpa_plan *plan; /* NULL: our own kernel, which is told of tiles */
  uint32_t first_seq;
  uint32_t first_tile, n_tiles;      /* theirs */
};

/* Of a device; all zero: our own kernel for everything. */
struct cuda_sdpa {
  void *handle;
  struct cuda_sdpa_plan plans[CUDA_SDPA_PLANS]; /* those that are worth it */
  unsigned n_plans;
  struct cuda_run *runs; /* (max_seqs) of the step that is being submitted */
  bool off;              /* an execution failed */
};

/* cuda_sdpa_plan.c. Returns 0 or a status; the plan is to be freed in any case. Its kernel is compiled, which takes a second. */
int cuda_sdpa_build(const struct cuda_dnn *dnn, void *handle, const struct cuda_sdpa_shape *shape, struct cuda_sdpa_plan *ret);
void cuda_sdpa_free(const struct cuda_dnn *dnn, struct cuda_sdpa_plan *plan);
/* Enqueues on the handle's stream. */
int cuda_sdpa_execute(const struct cuda_dnn *dnn, void *handle, const struct cuda_sdpa_plan *plan,
                      const void *const pointers[CUDA_SDPA_IDS], void *workspace); /* pointers[0] is not looked at */

#endif
