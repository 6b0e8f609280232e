/* SPDX-License-Identifier: MIT */
/* The device seam: a step-level table that a backend fills. Only the worker
 * that owns the device calls it, but for `interrupt`, `reset`, `health` and a group's `abort` and `restore`. A step-level seam stays small: a new
 * architecture is a new plan (model.h), not a new entry here. */
#ifndef TOKENLANE_DEVICE_H
#define TOKENLANE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tokenlane/base/error.h"
#include "tokenlane/model.h"
#include "tokenlane/step.h"

struct tl_sim_options; /* sim.h */
struct tl_device_group; /* a backend's own: what the ranks of one tensor-parallel group share */
struct tl_device; /* first member of each backend's own struct: const struct tl_device_ops *ops */

struct tl_device_options {
  const char *spec;    /* "cpu:0": what tl_device_isolated hosts; others do not look at it */
  unsigned n_ranks;    /* of tl_device_isolated: this is the first of so many in an array, the ranks of a group; 0: one alone */
  unsigned index;      /* N of "cpu:N" */
  unsigned n_lanes;    /* compute threads, the calling worker included; >= 1 */
  unsigned first_core; /* where the device's core set begins */
  unsigned cores;      /* 0: lanes run anywhere; 1: lane i stays on first_core + i; else all stay within so many */
  const struct tl_sim_options *sim; /* "sim:N" only; NULL: its defaults */
};

/* What keys and values are kept in. */
enum tl_kv_format {
  TL_KV_AUTO, /* tl_model.dtype */
  TL_KV_E4M3, /* a byte each, rounded to nearest even, 448 for what is beyond it; NaN stays NaN. Pooling models: as TL_KV_AUTO */
};

struct tl_device_load {
  const struct tl_model *model;
  const char *model_path;     /* what it was read from, for a backend in another process; NULL: no files */
  uint32_t max_batch_size;    /* sequences of a step, and rows wanted */
  uint32_t max_batch_tokens;  /* tokens of a step */
  uint32_t max_context;       /* tokens of a sequence */
  uint32_t least_context;     /* below max_context: where there is no memory for that, blocks for this many are enough; 0: max_context */
  uint32_t draft_tokens;      /* most rows of a sequence behind its first in a step where they are guesses, all wanted, as that is; 0: none */
  uint32_t draft_rows;        /* most rows of a step with such */
  uint64_t kv_memory_bytes;   /* 0: the backend decides; states are in it, too */
  uint32_t n_blocks;          /* just so many KV blocks, whatever is said of memory: of a model that guesses for another one, whose blocks they are numbered as; 0: as many as there is memory for */
  uint64_t beside_bytes, beside_block_bytes; /* of that memory this much, and this much for each KV block, is left to such a model */
  uint32_t max_states;        /* as many states of sequences as are of use; of a model without any: 0 */
  enum tl_kv_format kv_format;
  unsigned memory_percent;    /* of a GPU's memory, that may be used in all; 0: 90 */
  bool cudnn;                 /* a GPU may compute prompts' attention by it, where it is there, right and faster */
  bool memory_shared;         /* others have their own part of it: what is used already does not count as ours */
  /* Called now and then with the weights copied so far; may be NULL. */
  void (*progress)(uint64_t done_bytes, uint64_t total_bytes, void *context);
  void *context;
};

static inline enum tl_dtype tl_device_kv_dtype(const struct tl_device_load *load) {
  return load->kv_format == TL_KV_E4M3 && load->model->pooling == TL_POOL_NONE ? TL_DTYPE_F8_E4M3 : load->model->dtype;
}

/* Tokens for which there must be blocks. */
static inline uint32_t tl_device_least_context(const struct tl_device_load *load) {
  return load->least_context && load->least_context < load->max_context ? load->least_context : load->max_context;
}

#define TL_GPU_ID 32

struct tl_device_loaded {
  uint32_t n_blocks;          /* KV blocks that a step may name: 0 .. n_blocks - 1 */
  uint32_t n_states;          /* states that a step may name: 1 .. max_states of them, as there is memory: half of what there is for both */
  uint64_t kv_bytes, weight_bytes;
  char gpu[TL_GPU_ID];        /* PCI address of the GPU, "00000000:3B:00.0", by which NVML knows it; "": none */
  char attention[40];         /* what else than its own kernels computes attention, for the log: "cuDNN 9.19.0"; "": nothing */
};

/* What is known of a device beside its steps. */
enum tl_device_health {
  TL_DEVICE_WELL,
  TL_DEVICE_IMPAIRED, /* its results are right, but it is used last */
  TL_DEVICE_FAILED,   /* nothing that it says is to be used, the step under way included */
};

/* Tensor parallelism: the devices of a group run the same steps at the same time, each with its shard of
 * the model (slice.h). Rank r calls open, join, load, then submit and collect on a thread of its own, with the
 * same tl_step for all; what was sampled is rank 0's to say. In between they meet in collectives that the backend makes.
 * A rank that fails does not answer in them any more: whoever hears of it calls abort, which gets the others out.
 *
 *   a rank fails or is late ─► abort ─► all collects return ─► restore ─► every rank: reset ─► steps again
 */
struct tl_device_group_ops {
  bool runs_ahead; /* as that of tl_device_ops, for ranks: each knows by itself what the step before draws */
  /* What `size` devices of this backend are to share. Boot. */
  int (*make)(unsigned size, struct tl_device_group **ret, struct tl_error *err);
  /* The device becomes rank `rank`, once, between open and load. All ranks do so at the same time and may wait for
   * one another, for a bounded time. The group outlives its ranks. */
  int (*join)(struct tl_device *device, struct tl_device_group *group, unsigned rank, struct tl_error *err);
  /* From now on until `restore` every submit and collect of a rank returns an error at once, TL_ECLOSED where the rank
   * itself is well, also those that wait in a collective. Any thread, at any time between join and close, more than
   * one at a time. What hangs in a rank itself is ended by its interrupt, or reset. */
  void (*abort)(struct tl_device_group *group);
  /* Takes abort back. No rank is in a step, no abort under way. After it each rank's reset is called, all at the same
   * time on threads of their own, again where it said TL_EBUSY; they may wait for one another, for a bounded time. */
  void (*restore)(struct tl_device_group *group);
  void (*free)(struct tl_device_group *group); /* its ranks are closed */
};

struct tl_device_ops {
  const char *name; /* "cpu" */
  bool simulated;   /* what it says means nothing */
  bool spoils;      /* an error can leave its process unusable: it better has one of its own */
  /* A second step may be submitted while one is under way, but not a third; they run, and are collected, in order. Tokens of
   * the second may stand for what the first draws (step.h). An error of either gives up both: the other is not collected. What
   * keeps a second one from beginning may be said by its collect. Of a device alone; in groups: tl_device_group_ops. */
  bool runs_ahead;
  /* How many devices there are; TL_EUNSUPPORTED says why they cannot be used. NULL: as
   * many as one likes. Any thread. */
  int (*probe)(unsigned *ret, struct tl_error *err);
  /* Makes a device; nothing big is allocated yet. */
  int (*open)(const struct tl_device_options *options, struct tl_device **ret, struct tl_error *err);
  /* Copies the weights into the backend's layout and allocates KV blocks and
   * all work memory: no step allocates afterwards. ret: (options.n_ranks) where that is set. */
  int (*load)(struct tl_device *device, const struct tl_device_load *load, struct tl_device_loaded *ret,
              struct tl_error *err);
  /* Starts a step; the step's arrays stay unchanged until collect. One at a time, unless runs_ahead. */
  int (*submit)(struct tl_device *device, const struct tl_step *step, struct tl_error *err);
  /* Waits for the (first) step; ret_sampled: (n_rows), NULL for ranks of a group but the first. */
  int (*collect)(struct tl_device *device, struct tl_sampled *ret_sampled, struct tl_error *err);
  void (*close)(struct tl_device *device); /* no other call is under way */
  /* Gives up the step under way, whose collect returns TL_EDEVICE at once even when it hung,
   * and lets go of the hardware: until a reset the device says TL_EDEVICE to all. Quick. Threads as
   * for reset. NULL: reset does it. */
  void (*interrupt)(struct tl_device *device);
  /* Gives up the step under way, whose collect returns TL_EDEVICE at once even when
   * it hung, and makes the device as load left it, its KV contents lost. After
   * an error the device works again once this has returned TL_OK; TL_EDEVICE: it
   * does not, now; TL_EUNSUPPORTED: and never will in this process; TL_EBUSY: that takes a while and has begun (err says why, the first time), call again. Any thread, one at a
   * time, between load and close, while the worker is in submit or collect or calls nothing; where there
   * is an `interrupt`, only while it calls nothing. NULL: a backend that cannot: a step that hangs
   * there hangs for ever (ARCHITECTURE.md, Faults). A step that is submitted after a reset
   * of which the worker does not know yet is thrown away by the engine; its result may be wrong,
   * but the reset must happen before that submit in the sense of C11. */
  int (*reset)(struct tl_device *device, struct tl_error *err);
  /* How the device is, without asking it for a step. Never blocks. The monitor, between load and close,
   * whatever else goes on. NULL: only its steps tell. */
  enum tl_device_health (*health)(struct tl_device *device);
  const struct tl_device_group_ops *group; /* NULL: a device alone only */
};

/* The backend of "cpu:0"; NULL and err for an unknown kind. *ret_index is the
 * number after the colon. "cuda:0" opens the plugin. Any thread. */
const struct tl_device_ops *tl_device_find(const char *spec, unsigned *ret_index, struct tl_error *err);
/* A list of devices with "cuda" and "auto" replaced: by every GPU, or by every GPU and, when
 * there is none that can be used, cpu:0: then err says why, and TL_OK is returned. *ret and its
 * strings are the caller's to free. */
int tl_device_expand(const char *const *specs, unsigned n, char ***ret, unsigned *ret_n, struct tl_error *err);

/* Plugins: shared objects with a backend whose libraries not every machine has. */

/* Where they are; "": beside the daemon, in ../lib/tokenlane or ../lib. Boot, before threads;
 * later calls change nothing. */
void tl_device_plugin_folder(const char *folder);

/* What a plugin's entry, TL_DEVICE_ENTRY, returns. Raise the number with each change
 * of what stands above, in step.h or in model.h; most changes show in the sizes too. */
#define TL_DEVICE_ABI 11
#define TL_DEVICE_SIZES                                                                                                \
  (sizeof(struct tl_device_ops) + 1000 * sizeof(struct tl_device_load) + 1000000 * sizeof(struct tl_model) +           \
   1000000000ull * (sizeof(struct tl_step) + sizeof(struct tl_sampling) + sizeof(struct tl_sampled) + sizeof(struct tl_tensor)))
#define TL_DEVICE_ENTRY "tl_device_plugin"
struct tl_device_plugin {
  uint32_t abi;
  uint64_t sizes;
  const struct tl_device_ops *ops;
};
typedef const struct tl_device_plugin *tl_device_entry(void);

/* options->spec, a device of `hosted`, in a process of its own: what kills it, kills the daemon no more than any device error, and
 * a reset starts it anew. The process is this program with the arguments `device SPEC`, whose main
 * function must then call tl_device_host. With n_ranks it is one process for a whole group, which is one device to the
 * caller: the process has a thread for each rank, and joins and aborts them by itself. */
const struct tl_device_ops *tl_device_isolated(const struct tl_device_ops *hosted, unsigned n_ranks);
/* The main function of that process; returns (the exit status) only when it was not started so. */
int tl_device_host(void);

#endif
