/* SPDX-License-Identifier: MIT */
#ifndef ENGINE_PRIVATE_H
#define ENGINE_PRIVATE_H

#include <pthread.h>

#include "tokenlane/base/spsc.h"
#include "tokenlane/base/waker.h"
#include "tokenlane/device.h"
#include "tokenlane/engine.h"

/* The bits of tl_sequence.signal.
 *   worker: fetch_or(PENDING [| FINAL]); if PENDING was clear, pushes the pointer
 *   loop:   pops, exchange(0); FINAL in what it got: the sequence is the loop's
 * So a sequence is in its ring at most once, a ring of max_queue slots cannot
 * overflow, and the fetch_or is the worker's last touch of a final sequence. */
enum { SIGNAL_PENDING = 1, SIGNAL_FINAL = 2 };

struct worker_metrics {
  tl_metric prompt_tokens, generated_tokens, steps, step_seconds, preemptions, queue_seconds;
};

struct worker {
  struct tl_engine *engine;
  unsigned index;
  pthread_t thread;
  bool started;
  const struct tl_device_ops *ops;
  struct tl_device *device;
  struct tl_device_options device_options;
  struct tl_device_loaded loaded;
  struct tl_scheduler *scheduler;
  /* the step under way, sized at start */
  struct tl_step step;
  struct tl_sched_item *items;     /* (max_batch_size) */
  uint32_t n_items;
  int32_t *tokens;                 /* (max_batch_tokens), as the next two */
  uint32_t *positions, *slots;
  uint32_t *query_start, *context_len, *tables; /* (max_batch_size + 1), ..., (max_batch_size, stride) */
  uint32_t *rows;                  /* (max_batch_size) */
  struct tl_sampling *sampling;
  struct tl_sampled *sampled;
  struct tl_sequence **row_seq;    /* whose row it is, and which token it scores or makes */
  uint32_t *row_token;
  bool *loop_woken;                /* (n_loops) who gets a wake-up after this step */
  struct tl_spsc *events;          /* (n_loops) */
  struct tl_metrics_shard *shard;
  struct worker_metrics metrics;
  struct tl_error failure;         /* why board.failed is set */
  uint32_t parked;                 /* as in the board */
  struct tl_mpsc inbox;
  struct tl_waker waker;
};

struct tl_engine {
  struct tl_engine_options o;
  uint32_t max_context;
  struct tl_metrics *registry;
  struct worker *workers;     /* (n_replicas) */
  struct tl_board *boards;    /* (n_replicas) */
  _Atomic int stopping;
};

/* As tl_engine_new, with the given backend for every device (tests). */
int engine_new_with_ops(const struct tl_engine_options *options, const struct tl_device_ops *ops,
                        struct tl_metrics *metrics, struct tl_engine **ret, struct tl_error *err);

/* worker.c */
void *worker_run(void *worker);
void worker_flush(struct worker *w);
/* fault.c */
bool fault_is_marked(struct worker *w);
/* True: it was not yet. Worker and monitor. */
bool fault_mark(struct worker *w);
/* A failure for which the worker still has to let go; then it answers with the same word. */
bool fault_is_unanswered(struct worker *w, uint32_t *ret);
void fault_answer(struct worker *w, uint32_t word);
/* step_build.c: the planned items as flat arrays. */
void worker_build_step(struct worker *w);
uint32_t worker_table_stride(const struct tl_engine *engine);
/* sequence.c */
void sequence_prepare(struct tl_sequence *seq);
/* Whether the row of token `index` is wanted: it scores index + 1, or makes a new token. */
void sequence_sampling(struct tl_sequence *seq, uint32_t token, struct tl_sampling *ret);
void sequence_count(struct tl_sequence *seq, int32_t token, bool generated);
bool sequence_is_stop(const struct tl_sequence *seq, int32_t token);
/* events.c */
void events_publish(struct worker *w, struct tl_sequence *seq, bool final);
void events_wake_loops(struct worker *w);

#endif
