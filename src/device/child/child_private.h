/* SPDX-License-Identifier: MIT */
/* A device in a process of its own. The daemon and the child share a piece of memory
 * (memfd, of a size that is fixed and sealed) and nothing else that either writes:
 *
 *   daemon                              memory                     child
 *   before it starts: job, tokens ...  ───────────────────────►   opens and loads
 *                                       answered = 1          ◄── loaded, or an error
 *   submit: step's arrays, asked = n   ───────────────────────►   submit and collect of the backend
 *   collect: copies out, checks         answered = n          ◄── sampled, code, message
 *
 * Where the backend runs ahead (device.h), a step has two numbers, one for its submit and one for its collect, which the child
 * follows in order; it has two sets of arrays then, for steps in turn.
 *
 * `asked` is written by the daemon alone and `answered` by the child alone; each also says when it
 * sleeps (a futex on the other's number). All that the child writes is hostile: it is copied first and checked
 * then, and where things lie and how many there are the daemon knows by itself. ARCHITECTURE.md,
 * Isolation, has the order of the memory and the life of the process.
 *
 * The ranks of a group are one child with a thread each (child_ranks.c): the same memory, the same two words. */
#ifndef CHILD_PRIVATE_H
#define CHILD_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "tokenlane/base/thread.h"
#include "tokenlane/device.h"
#include "tokenlane/sim.h"
#include "tokenlane/slice.h"

#define CHILD_MAGIC UINT64_C(0x646c696863656e6c)
#define CHILD_MEMORY_FD 3 /* of the child: the memory */
#define CHILD_LIFE_FD 4   /* of the child: a pipe that ends when the daemon does */
#define CHILD_SPEC 64
#define CHILD_NAME 128
#define CHILD_PATH 4096

/* One of its devices. */
struct child_rank_job {
  char spec[CHILD_SPEC];
  uint32_t n_lanes, first_core, cores;
  uint32_t max_states;
  uint64_t kv_memory_bytes;
  struct tl_sim_options sim; /* pointers mean nothing: tokens and faults lie in the memory, the ranks' one after the other */
};

/* What the child is to be. The daemon writes it before the child starts. */
struct child_job {
  char model_path[CHILD_PATH]; /* "": simulated, there are no files */
  char quantized[16];          /* tl_model.quantized; "": NULL */
  uint32_t max_batch_size, max_batch_tokens, max_context, least_context, draft_tokens, draft_rows, n_blocks;
  uint64_t beside_bytes, beside_block_bytes;
  uint32_t kv_format; /* enum tl_kv_format */
  uint32_t memory_percent, memory_shared, cudnn;
  uint32_t n_adapters;
  uint64_t adapter_bytes;      /* of their names and folders in the memory, each with a NUL, in turn */
  char plugin_folder[CHILD_PATH]; /* as tl_device_plugin_folder has it */
  /* of the daemon's model: the child's must be the same, and a simulated device needs no more */
  uint32_t vocab_size, dim, n_layers, n_eos;
  int32_t eos[TL_MAX_EOS];
  uint64_t weight_bytes;
  uint32_t pooling, n_out; /* enum tl_pooling */
  bool normalize;
  bool has_states; /* whether the model has some: steps name them */
  bool has_sim;
  bool runs_ahead;
  uint32_t n_ranks; /* 1: a device alone */
  struct child_rank_job ranks[TL_MAX_RANKS];
};

/* How much of each array is filled. History and bias of the rows lie one after the other, and the masks of those that have one. */
struct child_step {
  uint32_t n_tokens, n_seqs, n_rows;
  bool has_types, has_adapters; /* states there are of models with them, in every step */
};

/* What a number asks for. */
enum child_command { CHILD_RUN /* submit and collect */, CHILD_SUBMIT, CHILD_COLLECT };
#define CHILD_COMMANDS 4 /* more than are ever unanswered */
#define CHILD_SLOTS 2    /* steps under way, of a device that runs ahead */

struct child_shared {
  uint64_t magic;
  struct child_job job;
  /* the daemon */
  TL_ALIGNED _Atomic uint32_t asked; /* number of the last step that was asked for; 1: the load */
  _Atomic uint32_t daemon_sleeps;
  uint32_t commands[CHILD_COMMANDS]; /* of the number, modulo; enum child_command */
  struct child_step steps[CHILD_SLOTS];
  /* the child */
  TL_ALIGNED _Atomic uint32_t answered;
  _Atomic uint32_t child_sleeps;
  _Atomic uint32_t health;           /* enum tl_device_health */
  _Atomic uint64_t loaded_bytes[TL_MAX_RANKS]; /* weights so far, by rank */
  int32_t code;                      /* of the answer */
  char field[TL_ERROR_FIELD], message[TL_ERROR_MESSAGE];
  struct tl_device_loaded loaded[TL_MAX_RANKS];
};

/* Where the arrays lie, in bytes from the start. */
struct child_layout {
  size_t tokens, positions, slots, query_start, context_len, tables, rows, sampling, history, bias, masks, sampled, token_types, vectors, adapters, state_from, state_to, sim_tokens, sim_faults, adapter_texts;
  size_t bytes;
  size_t slot_bytes;             /* from a step's arrays, tokens to sampled, to the other's */
  uint32_t n_slots;
  uint32_t stride;               /* of the block tables */
  size_t max_history, max_bias;  /* entries of all rows together */
  size_t mask_words;             /* of a row */
};

/* --- child_layout.c: both sides ------------------------------------------------------------ */

/* False: it does not fit into an address space. */
bool child_layout_make(const struct child_job *job, struct child_layout *ret);
/* The step into the memory. False: it is larger than what was promised at load. */
bool child_put_step(struct child_shared *shared, const struct child_layout *l, const struct child_job *job, uint32_t slot,
                    const struct tl_step *step);
/* The step from the memory; sampling: (max_batch_size) of the child's own. False: it is larger than what was promised at load. */
bool child_take_step(struct child_shared *shared, const struct child_layout *l, const struct child_job *job, uint32_t slot, struct tl_sampling *sampling,
                     struct tl_step *ret);
static inline void *child_at(struct child_shared *shared, size_t offset) {
  return (char *)shared + offset;
}

/* --- child_wait.c: both sides --------------------------------------------------------------- */

/* Publishes all that was written before, and wakes the other side if it said that it sleeps. */
void child_tell(_Atomic uint32_t *word, uint32_t value, const _Atomic uint32_t *other_sleeps);
/* Waits until *word is not `old`, at most timeout_ns (< 0: for ever); returns it, and what was written before
 * it is seen. May return `old` early. */
uint32_t child_wait(_Atomic uint32_t *word, uint32_t old, _Atomic uint32_t *i_sleep, int64_t timeout_ns);
void child_wake(_Atomic uint32_t *word);

/* --- child_process.c: the daemon ------------------------------------------------------------- */

/* Memory of so many bytes that nobody can make smaller: *ret_fd for the child. */
int child_make_memory(size_t bytes, struct child_shared **ret, int *ret_fd, struct tl_error *err);
/* Starts this program again as `tokenlane device NAME`; *ret_life is the pipe's end that keeps it alive.
 * Any thread. */
int child_spawn(const char *name, int memory_fd, pid_t *ret_pid, int *ret_life, struct tl_error *err);
/* Whether it has ended, and how; it is not reaped, so its pid stays its own. */
bool child_has_ended(pid_t pid, char *ret_how, size_t size);
/* Waits until it is gone for good, at most timeout_ns. */
bool child_reap(pid_t pid, int64_t timeout_ns);

/* --- child_backend.c: the daemon --------------------------------------------------------------- */

enum child_revival { CHILD_NOT_REVIVED, CHILD_REVIVING, CHILD_REVIVED, CHILD_LOST };

struct child_device {
  const struct tl_device_ops *ops;
  char name[CHILD_NAME];           /* "cpu:0", "cpu:0,cpu:1" */
  struct child_job job;
  int32_t *sim_tokens;             /* copies, all ranks' one after the other, as the faults */
  struct tl_sim_fault *sim_faults;
  char *adapter_texts;             /* (job.adapter_bytes) */
  struct tl_device_load load;
  struct tl_device_loaded loaded[TL_MAX_RANKS]; /* by the first child; the later ones must say the same */
  /* one life of the child. Written by load, and by reset's thread while the worker is parked */
  struct child_layout layout;
  struct child_shared *shared;
  int life;                        /* -1: none */
  _Atomic int pid;                 /* 0: none */
  /* the worker */
  uint32_t number;                 /* the last that was asked */
  uint64_t n_steps;                /* that have begun, in all lives: where the script of faults is */
  uint32_t n_submitted, n_collected; /* of this life */
  const struct tl_step *steps[CHILD_SLOTS];
  /* monitor and worker */
  _Atomic int interrupted;         /* the child was killed on purpose */
  /* the monitor, and the thread that it starts for a new life */
  pthread_t thread;
  _Atomic int revival;             /* enum child_revival */
  struct tl_error revival_error;
  _Atomic int closing;
};

/* child_life.c: a new child, until it has loaded; `progress` may be NULL. */
int child_begin(struct child_device *d, bool tell_progress, struct tl_error *err);
/* Kills it and waits for its end. False: it does not end; nothing of it is freed. */
bool child_end(struct child_device *d);
/* Waits for answer `number`, at most look_ns. TL_EBUSY: it is not there yet; TL_EDEVICE: the child is gone, or
 * was killed, or says what cannot be. */
int child_look(struct child_device *d, uint32_t number, int64_t look_ns, struct tl_error *err);
/* What it says cannot be true: kills it, returns TL_EDEVICE. */
int child_says_nonsense(struct child_device *d, const char *what, struct tl_error *err);
/* The error of an answer, of which nothing is believed. TL_OK: it is none. */
int child_read_code(const struct child_device *d, struct tl_error *err);
/* --- child_ranks.c: the child ------------------------------------------------------------------- */

struct child_ranks;

/* Opens what the job asks for, without loading it. The job outlives it; nothing of it is ever freed, as the process
 * ends by _exit. */
int child_ranks_open(struct child_shared *shared, const struct child_layout *layout, struct child_ranks **ret, struct tl_error *err);
/* Loads all ranks at the same time, the caller being rank 0, and says in the memory what they have loaded. */
int child_ranks_load(struct child_ranks *ranks, const struct tl_model *model, struct tl_error *err);
/* The parts of a step, on all of them. Rank 0's thread. An error is that of the rank where it began, and of all steps under way;
 * after it they only say it again. */
int child_ranks_submit(struct child_ranks *ranks, const struct tl_step *step, struct tl_error *err);
int child_ranks_collect(struct child_ranks *ranks, struct tl_sampled *ret_sampled, struct tl_error *err);
/* The worst of all. Any thread, once all have loaded. */
enum tl_device_health child_ranks_health(const struct child_ranks *ranks);
bool child_ranks_are_simulated(const struct child_ranks *ranks);

/* Nothing that is read from the shared memory before is read again after. */
static inline void child_was_copied(void) {
  __asm__ volatile("" ::: "memory");
}

#endif
