/* SPDX-License-Identifier: MIT */
/* CUDA, cuBLASLt and the kernels for a machine without a GPU: device memory is memory, a stream
 * is a list of what is still to be done, kernels run on fibers (emulate.h). Nothing
 * that was enqueued happens before somebody asks whether it is done, so that a host
 * buffer which is written too early shows. Copies must be between what was
 * allocated here, on the host's side pinned. Any call can be made to fail. */
#ifndef FAKE_CUDA_H
#define FAKE_CUDA_H

#include <stdatomic.h>
#include <stdbool.h>

#include "device/cuda/cuda_api.h"
#include "tokenlane/device.h"

#define FAKE_ALGORITHMS 8

struct fake_cuda {
  /* what the test sets */
  int n_devices;
  int count_error;          /* of `count`: CUDA_DRIVER_TOO_OLD as without a driver */
  int compute_major, compute_minor;
  bool mixed;               /* devices but the first have another compute capability */
  bool no_e4m3;             /* cuBLASLt has no products of E4M3, which else it has from compute capability 8.9 on */
  size_t memory;            /* of each device */
  bool idle;                /* kernels and products do nothing: for tests of the order of calls */
  bool hangs;               /* nothing that was enqueued is ever done */
  bool picky;               /* products are possible only with all rows of the bucket */
  bool uncounted_polls;     /* queries are no calls, since nobody knows how many there will be */
  unsigned fail_at;         /* this call fails, counted from 1; 0: none does */
  int fail_code;
  bool sticky;              /* and all calls after it */
  int async_error;          /* of NCCL's communicators */
  int n_algorithms;         /* that cuBLASLt names for a product */
  int bad_algorithm;        /* one of them that cannot compute any; -1: none */
  uint32_t algorithm_ms[FAKE_ALGORITHMS]; /* what a product takes by each, as its timers say */
  uint32_t scales_ms;       /* more, with scales that cuBLASLt applies */
  uint32_t whole_ms;        /* more, of products whose k is not in parts */
  uint32_t part_ms;         /* what a norm takes for each part that it sums up */
  unsigned nap_at;          /* this question how long something took, counted from 1, is answered after so many */
  unsigned nap_ms;
  uint32_t scale_ms;        /* what our kernel takes that applies scales by itself */
  unsigned n_parted;        /* products whose k was */
  size_t dnn_version;       /* 0: there is no cuDNN */
  bool no_dnn_kernel;       /* for any graph */
  int64_t dnn_workspace_bytes;
  int dnn_unlisted;         /* the number of a tensor that a plan does not say its kernel takes; 0: none */
  uint32_t dnn_reach;       /* blocks of a cache that it can tell apart; 0: all */
  int64_t dnn_stray;        /* an element of its output that it gets wrong; -1: none */
  uint32_t dnn_ms, prefill_ms; /* what attention takes by it, and by our kernel */
  bool bad_scales;          /* it names products whose scales it applies, but cannot compute any */
  unsigned trap_at;         /* this kernel, counted from 1, makes an error for good */
  /* what the test reads */
  _Atomic unsigned n_calls; /* relaxed: counts only */
  unsigned first_dnn_call;  /* its number: when cuDNN is opened */
  const char *failed;       /* the call that failed, NULL: none did */
  unsigned n_kernels, n_launches, n_graphs, n_replays, n_products, n_collectives, n_dnn, n_dnn_plans;
  unsigned n_timings;       /* questions how long something took */
  unsigned n_e4m3;          /* of the products */
  unsigned n_by_algorithm[FAKE_ALGORITHMS]; /* products */
  uint64_t clock_ms;        /* of all that was enqueued */
  char order[64];           /* the last kernels that were enqueued, a letter each: embed, norm, m or v for a
                             * product, rms of rows, k and v into the cache, decode, prefill, gate, last rows, bias, quantized
                             * weights written out, rows to f8, u for what scales a product, cap of logits, sample, attention by cuDNN (y), experts
                             * taken (t), their products (x) and mixture (i), rows in another order (z); of models that pool: what places add (a), rows to
                             * a vector (o), its function (w) */
};
extern struct fake_cuda fake_cuda;

/* As after the start: a device with 256 MiB, nothing counted. Nothing may be allocated. */
void fake_cuda_reset(void);
/* Memory, streams, events, graphs, descriptors that nobody freed. */
unsigned fake_cuda_live(void);
extern const struct tl_device_ops fake_cuda_ops;
extern struct cuda_api fake_cuda_api;

#endif
