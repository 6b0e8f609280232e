/* SPDX-License-Identifier: MIT */
/* All that the backend's C code asks of CUDA, cuBLASLt, NCCL, cuDNN and of its own kernels,
 * as tables of functions: cuda_bind.c fills them from the real libraries, and
 * tests/unit/device/fake_cuda.c with ones that run on a machine without a GPU. No header of
 * the toolkit is needed here; cuda_bind.c asserts that each number and layout
 * below is the toolkit's.
 *
 * Functions return 0 or the library's own error number. Those that take a stream
 * only enqueue; errors of what was enqueued come out of any later call. */
#ifndef CUDA_API_H
#define CUDA_API_H

#include <stddef.h>
#include <stdint.h>

#include "device/cuda/cuda_dnn.h"
#include "device/cuda/ops/cuda_adapters.h"
#include "device/cuda/ops/cuda_delta.h"
#include "device/cuda/ops/cuda_experts.h"
#include "device/cuda/ops/cuda_ops.h"
#include "device/cuda/ops/cuda_latent.h"
#include "device/cuda/ops/cuda_pool.h"
#include "tokenlane/base/error.h"

/* cudaError_t, as far as the backend tells them apart. */
enum cuda_code {
  CUDA_OK = 0,
  CUDA_OUT_OF_MEMORY = 2,
  CUDA_DRIVER_TOO_OLD = 35, /* also: there is no driver */
  CUDA_NO_DEVICE = 100,
  /* after these the context, or all of CUDA in this process, is of no use any more */
  CUDA_ECC_UNCORRECTABLE = 214,
  CUDA_NVLINK_UNCORRECTABLE = 220,
  CUDA_CONTAINED = 226,
  CUDA_NOT_READY = 600,
  CUDA_ILLEGAL_ADDRESS = 700,
  CUDA_LAUNCH_TIMEOUT = 702,
  CUDA_CONTEXT_IS_DESTROYED = 709,
  CUDA_ASSERT = 710,
  CUDA_HARDWARE_STACK_ERROR = 714,
  CUDA_ILLEGAL_INSTRUCTION = 715,
  CUDA_MISALIGNED_ADDRESS = 716,
  CUDA_INVALID_ADDRESS_SPACE = 717,
  CUDA_INVALID_PC = 718,
  CUDA_LAUNCH_FAILURE = 719,
  CUDA_TENSOR_MEMORY_LEAK = 721,
  CUDA_MPS_CLIENT_TERMINATED = 810,
  CUDA_EXTERNAL_DEVICE = 911,
};

struct cuda_info {
  char name[64];
  char bus[32]; /* "0000:3b:00.0" */
  int major, minor; /* compute capability */
  unsigned multiprocessors;
};

struct cuda_runtime {
  int (*count)(int *ret);
  int (*info)(int device, struct cuda_info *ret);
  int (*use)(int device); /* of the calling thread */
  int (*memory)(size_t *ret_free, size_t *ret_total);
  int (*alloc)(void **ret, size_t bytes);
  int (*free)(void *p);
  int (*alloc_host)(void **ret, size_t bytes); /* pinned */
  int (*free_host)(void *p);
  int (*copy)(void *to, const void *from, size_t bytes, void *stream); /* any direction */
  int (*copy_rows)(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t bytes, size_t rows, void *stream);
  int (*fill)(void *p, int byte, size_t bytes, void *stream);
  int (*stream_new)(void **ret); /* not ordered with the default stream */
  int (*stream_free)(void *stream);
  int (*stream_query)(void *stream); /* CUDA_NOT_READY while something runs */
  int (*event_new)(void **ret);      /* without timing */
  int (*event_free)(void *event);
  int (*event_record)(void *event, void *stream);
  int (*event_query)(void *event);
  int (*event_wait)(void *event); /* blocks the thread */
  int (*capture_begin)(void *stream); /* forbids nothing to other threads */
  int (*capture_end)(void *stream, void **ret_graph);
  int (*graph_make)(void **ret_exec, void *graph);
  int (*graph_free)(void *graph);
  int (*exec_free)(void *exec);
  int (*exec_launch)(void *exec, void *stream);
  int (*clear)(void); /* gives the last error and forgets it, even one for good: the next call has that again */
  const char *(*text)(int code);
  int (*timer_new)(void **ret); /* an event that knows its time */
  int (*elapsed)(float *ret_ms, void *from, void *to); /* of two timers that have been reached */
};

/* cuBLASLt's own functions, with enums as int and opaque objects as void *. */
struct cuda_lt_algorithm {
  uint64_t data[8];
};

struct cuda_lt_found {
  struct cuda_lt_algorithm algorithm;
  size_t workspace_bytes;
  int status;
  float waves;
  int reserved[4];
};

enum {
  CUDA_LT_R_32F = 0,
  CUDA_LT_R_16F = 2,
  CUDA_LT_R_16BF = 14,
  CUDA_LT_R_8F_E4M3 = 28,
  CUDA_LT_COMPUTE_32F = 68,
  CUDA_LT_TRANSPOSE = 1,
  CUDA_LT_DESC_TRANSA = 3,
  CUDA_LT_DESC_A_SCALE_POINTER = 17,
  CUDA_LT_DESC_B_SCALE_POINTER = 18,
  CUDA_LT_DESC_A_SCALE_MODE = 31,
  CUDA_LT_DESC_B_SCALE_MODE = 32,
  CUDA_LT_SCALE_OUTER_VECTOR = 3, /* a mode: of A for each row, of B for each column */
  CUDA_LT_LAYOUT_COLS = 3,
  CUDA_LT_LAYOUT_BATCH_COUNT = 5,  /* int32_t */
  CUDA_LT_LAYOUT_BATCH_OFFSET = 6, /* int64_t, elements */
  CUDA_LT_PREFERENCE_WORKSPACE = 1,
  CUDA_LT_PREFERENCE_ALIGNMENT_A = 5,
  CUDA_LT_PREFERENCE_ALIGNMENT_B = 6,
  CUDA_LT_PREFERENCE_ALIGNMENT_C = 7, /* uint32_t, of what a product will be given; 256 if nothing is said */
  CUDA_LT_PREFERENCE_ALIGNMENT_D = 8,
  CUDA_LT_NOT_SUPPORTED = 15,
};

struct cuda_lt {
  int (*create)(void **ret);
  int (*destroy)(void *lt);
  int (*desc_new)(void **ret, int compute, int scale);
  int (*desc_free)(void *desc);
  int (*desc_set)(void *desc, int attribute, const void *value, size_t bytes);
  int (*layout_new)(void **ret, int type, uint64_t rows, uint64_t cols, int64_t ld);
  int (*layout_free)(void *layout);
  int (*layout_set)(void *layout, int attribute, const void *value, size_t bytes);
  int (*preference_new)(void **ret);
  int (*preference_free)(void *preference);
  int (*preference_set)(void *preference, int attribute, const void *value, size_t bytes);
  int (*heuristic)(void *lt, void *desc, void *a, void *b, void *c, void *d, void *preference, int n_asked,
                   struct cuda_lt_found *ret, int *ret_n);
  int (*matmul)(void *lt, void *desc, const void *alpha, const void *a, void *a_layout, const void *b, void *b_layout,
                const void *beta, const void *c, void *c_layout, void *d, void *d_layout,
                const struct cuda_lt_algorithm *algorithm, void *workspace, size_t workspace_bytes, void *stream);
};

/* NCCL's own functions, but for init, which asks for a communicator that does not block. */
enum { CUDA_NCCL_OK = 0, CUDA_NCCL_IN_PROGRESS = 7, CUDA_NCCL_F16 = 6, CUDA_NCCL_F32 = 7, CUDA_NCCL_BF16 = 9, CUDA_NCCL_SUM = 0 };

struct cuda_nccl_id {
  char bytes[128];
};

struct cuda_nccl {
  int (*unique_id)(struct cuda_nccl_id *ret);
  int (*async_error)(void *comm, int *ret); /* CUDA_NCCL_IN_PROGRESS while what was called is not through */
  int (*all_reduce)(const void *from, void *to, size_t count, int type, int op, void *comm, void *stream);
  int (*all_gather)(const void *from, void *to, size_t count, int type, void *comm, void *stream);
  int (*abort)(void *comm); /* and frees it */
  const char *(*text)(int code);
  int (*init)(void **ret_comm, int size, const struct cuda_nccl_id *id, int rank);
};

struct cuda_kernels {
  int (*prepare)(void);
  int (*embed)(const struct tl_cuda_embed_args *args, void *stream);
  int (*add_norm)(const struct tl_cuda_add_norm_args *args, void *stream);
  int (*row_squares)(const struct tl_cuda_row_squares_args *args, void *stream);
  int (*qkv)(const struct tl_cuda_qkv_args *args, void *stream);
  int (*decode)(const struct tl_cuda_decode_args *args, void *stream);
  int (*prefill)(const struct tl_cuda_prefill_args *args, void *stream);
  int (*glu)(const struct tl_cuda_glu_args *args, void *stream);
  int (*gather)(const struct tl_cuda_gather_args *args, void *stream);
  int (*bias)(const struct tl_cuda_bias_args *args, void *stream);
  int (*dequantize)(const struct tl_cuda_dequantize_args *args, void *stream);
  int (*quantize)(const struct tl_cuda_quantize_args *args, void *stream);
  int (*scale)(const struct tl_cuda_scale_args *args, void *stream);
  int (*gemv)(const struct tl_cuda_gemv_args *args, void *stream);
  int (*normed)(const struct tl_cuda_normed_args *args, void *stream);
  int (*cap)(const struct tl_cuda_cap_args *args, void *stream);
  int (*sample)(const struct tl_cuda_sample_args *args, void *stream);
  int (*route)(const struct tl_cuda_route_args *args, void *stream);
  int (*experts)(const struct tl_cuda_experts_args *args, void *stream);
  int (*mix)(const struct tl_cuda_mix_args *args, void *stream);
  int (*place)(const struct tl_cuda_place_args *args, void *stream);
  int (*pool)(const struct tl_cuda_pool_args *args, void *stream);
  int (*vector)(const struct tl_cuda_vector_args *args, void *stream);
  int (*reorder)(const struct tl_cuda_reorder_args *args, void *stream);
  int (*latent_rows)(const struct tl_cuda_latent_rows_args *args, void *stream);
  int (*latent_turn)(const struct tl_cuda_latent_turn_args *args, void *stream);
  int (*latent_heads)(const struct tl_cuda_latent_heads_args *args, void *stream);
  int (*latent_decode)(const struct tl_cuda_latent_decode_args *args, void *stream);
  int (*latent_prefill)(const struct tl_cuda_latent_prefill_args *args, void *stream);
  int (*shrink)(const struct tl_cuda_shrink_args *args, void *stream);
  int (*expand)(const struct tl_cuda_expand_args *args, void *stream);
  int (*conv)(const struct tl_cuda_conv_args *args, void *stream);
  int (*delta)(const struct tl_cuda_delta_args *args, void *stream);
  int (*delta_long)(const struct tl_cuda_delta_long_args *args, void *stream);
  int (*gated_norm)(const struct tl_cuda_gated_norm_args *args, void *stream);
  int (*gate)(const struct tl_cuda_gate_args *args, void *stream);
};

struct cuda_api {
  struct cuda_runtime rt;
  struct cuda_lt lt;
  struct cuda_nccl nccl;
  struct cuda_dnn dnn;
  struct cuda_kernels op;
  /* Opens the library, the first time: TL_EUNSUPPORTED says what is missing. */
  int (*open_lt)(struct tl_error *err);
  int (*open_nccl)(struct tl_error *err);
  int (*open_dnn)(struct tl_error *err); /* many machines lack this one */
};

#endif
