/* SPDX-License-Identifier: MIT */
#ifndef ENGINE_PRIVATE_H
#define ENGINE_PRIVATE_H

#include <pthread.h>

#include "tokenlane/base/broadcast.h"
#include "tokenlane/base/spsc.h"
#include "tokenlane/base/waker.h"
#include "tokenlane/device.h"
#include "tokenlane/engine.h"
#include "tokenlane/slice.h"

/* The bits of tl_sequence.signal.
 *   worker: fetch_or(PENDING [| FINAL]); if PENDING was clear, pushes the pointer
 *   loop:   pops, exchange(0); FINAL in what it got: the sequence is the loop's
 * So a sequence is in its ring at most once, a ring of max_queue slots cannot
 * overflow, and the fetch_or is the worker's last touch of a final sequence. */
enum { SIGNAL_PENDING = 1, SIGNAL_FINAL = 2 };

struct worker_metrics {
  tl_metric prompt_tokens, generated_tokens, steps, step_seconds, preemptions, queue_seconds;
  tl_metric gap_seconds, expired, query_tokens, hit_tokens, evictions, drafts, drafts_taken;
  tl_metric model_steps, model_tokens, model_taken; /* of a draft model */
};

/* What a step brought for a sequence; told once the next step is under way, so
 * that the device does not wait for rings, wake-ups and counters. */
struct news {
  struct tl_sequence *seq;
  bool final;
};

/* One step's figures, until they are counted. */
struct step_figures {
  int64_t began_ns, ended_ns;
  uint64_t prefill, decode, generated;
  uint64_t wrong; /* rows of decode that were wrong guesses */
};

/* A step from when it is built until its news are told. Sized at start. */
struct flight {
  struct tl_step step;
  struct tl_sched_item *items;     /* (max_batch_size); stay until the next step is built here */
  uint32_t n_items;
  struct step_figures figures;
  int32_t *tokens;                 /* (max_batch_tokens), as the next two */
  uint32_t *positions, *slots;
  uint32_t *query_start, *context_len, *tables; /* (max_batch_size + 1), ..., (max_batch_size, stride) */
  uint32_t *rows, *adapters, *state_from, *state_to; /* (max_batch_size) */
  struct tl_sampling *sampling;
  uint32_t *masks;                 /* (max_batch_size, TL_MASK_WORDS(vocab_size)) of the rows that have one: a sequence's memory may be gone before the step is */
  struct tl_sequence **row_seq;    /* whose row it is, NULL: nobody's any more; and which token it scores or makes */
  uint32_t *row_token;
};

#define DRAFT_MOST_ROWS 16 /* of a step with drafts: more take longer than to read the weights */

/* How a worker goes round. A step is planned while the one before it runs:
 *
 *   device   |== step k ==================|      |== step k+1 ==============
 *   worker   tell news of k-1, take in,   apply  tell news of k, take in,
 *            drop, plan k+1, collect      build  drop, plan k+2, collect
 *                                         submit
 *
 * Between the steps lies only what needs the tokens of k: they are put into
 * their sequences, what ended by them leaves the plan, newcomers fill it up, and
 * the arrays are built (tokenlane_step_gap_seconds).
 *
 * Where the device runs ahead (device.h), not even that:
 *
 *   device   |== step k ==================|== step k+1 ======================|== k+2 ==
 *   worker   take in, drop, plan k+1,       apply k, tell, take in, drop,
 *            build and submit it, collect k  plan k+2, build and submit it, collect k+1
 *
 * In k+1 stands for a token that k draws the row that draws it. What k ended has a row in k+1 all the
 * same: it is nobody's (row_seq), and nothing of it is used. Its blocks may be another's in k+2: the device runs steps in
 * order. A step that needs what k brings on the host waits for it (step_run_ahead). */

/* A device of a replica but the first, and the thread that owns it: group.c. */
struct follower {
  struct worker *leader;
  unsigned rank; /* from 1 */
  pthread_t thread;
  bool started;
  struct tl_device *device;
  struct tl_device_options options;
  struct tl_waker waker;
  unsigned n_under_way;   /* steps that its device has */
  int result;             /* an error: of one of the steps under way, for all of them; the ring gives both to the leader */
  struct tl_error error;
};

struct group {
  struct tl_device_group *shared; /* the backend's */
  unsigned n_followers, spins;
  struct follower *followers;
  unsigned n_under_way;           /* steps that the leader's device has */
  struct tl_broadcast steps;      /* leader to followers: struct tl_step *, as group.c has it */
  struct tl_waker answered;       /* the leader sleeps here until all are through */
  _Atomic int stopping;
  bool restoring;                 /* the monitor's: a reset has begun, and some ranks have said TL_EBUSY */
  bool is_reset[TL_MAX_RANKS];    /* likewise: not these */
};

struct drafter; /* draft_model.h */

struct worker {
  struct tl_engine *engine;
  unsigned index;
  pthread_t thread;
  bool started;
  const struct tl_device_ops *ops;
  bool simulated;
  bool isolated;                   /* all of its devices are in one process, and are one device here */
  struct tl_device *device;
  struct tl_device_options device_options;
  struct tl_device_loaded loaded;  /* of a group: what all of its devices have room for */
  struct tl_device_loaded *rank_loaded; /* (tensor_parallel) what each says */
  struct group *group;             /* NULL: one device */
  struct drafter *drafter;         /* NULL: no model guesses tokens */
  struct tl_scheduler *scheduler;
  struct tl_sched_item *items;     /* (max_batch_size) planned next */
  uint32_t n_items;
  struct flight flights[2];
  struct flight *flight;           /* the step under way, the first of two, or the last one */
  struct flight *ahead;            /* the second; NULL: none */
  bool under_way;                  /* `flight` is not collected */
  struct flight *ended;            /* its news are to be told; NULL: none */
  struct tl_sampled *sampled;      /* (max_batch_size) */
  struct news *news;               /* (max_batch_size) */
  uint32_t n_news;
  int64_t idle_since_ns;           /* end of the last step; 0: there was no work since */
  struct tl_sched_stats counted;   /* what of the scheduler's totals is in the metrics */
  int32_t *token_types;            /* (max_batch_tokens), as the next: of a pooling model, else NULL */
  float *vectors;                  /* (max_batch_size, n_out) */
  bool *loop_woken;                /* (n_loops) who gets a wake-up after this step */
  struct tl_spsc *events;          /* (n_loops) */
  struct tl_metrics_shard *shard;
  struct worker_metrics metrics;
  struct tl_error failure;         /* why board.failed is set */
  uint32_t parked;                 /* as in the board */
  unsigned trace_ring;
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

/* What the replica is called outside: in log, metrics and traces. */
static inline unsigned worker_id(const struct worker *w) {
  return w->engine->o.first_replica + w->index;
}

/* As tl_engine_new, with the given backend for every device (tests). */
int engine_new_with_ops(const struct tl_engine_options *options, const struct tl_device_ops *ops,
                        struct tl_metrics *metrics, struct tl_engine **ret, struct tl_error *err);

/* worker.c */
void *worker_run(void *worker);
struct tl_board *worker_board(struct worker *w);
/* Ends a sequence now. Its news, and all others, are told before. */
void worker_finish(struct worker *w, struct tl_sequence *seq, enum tl_finish how);
/* What is to become of a sequence that a client left or whose time is over;
 * TL_FINISH_NONE: it goes on. */
enum tl_finish worker_verdict(const struct tl_sequence *seq, int64_t now_ns);
/* The device failed in the step of these items, or was too late with it. began_ns: 0: it has not begun. */
void worker_fail(struct worker *w, const struct tl_sched_item *items, uint32_t n, int64_t began_ns);
/* What the last step brought, to loops and metrics. Its sequences that have ended are the loops' then. */
void worker_tell(struct worker *w);
/* group.c: the step on the worker's device, and on those that follow it. An error is of all steps under way, which no
 * device uses any more; nor does one use the step that was collected. */
int group_submit(struct worker *w, struct tl_step *step);
int group_collect(struct worker *w);
/* Whether all of its devices do (device.h). */
bool group_runs_ahead(const struct worker *w);
/* Makes w->group, of which w's device is rank 0; the others' are for the caller to open. */
int group_new(struct worker *w, unsigned size, struct tl_error *err);
void group_free(struct worker *w); /* closes the followers' devices; the leader's own is closed */
int group_start(struct worker *w, struct tl_error *err);
void group_stop(struct worker *w); /* once the worker has ended */
/* Gets all ranks out of what they do; what is wrong with a rank is its reset's matter. */
int group_interrupt(struct worker *w, struct tl_error *err);
/* All ranks, while parked. TL_EBUSY as a device says it. */
int group_reset(struct worker *w, struct tl_error *err);
/* step_run.c */
/* Takes from the plan what must not go on, fills it up, and gives it to the
 * device. False: there was nothing to do, or the device failed. */
bool step_begin(struct worker *w);
void step_plan_next(struct worker *w);
/* Gives the plan to the device behind the step under way, if both may be. False: the device failed. */
bool step_run_ahead(struct worker *w);
/* Waits for the device and applies what it computed. */
void step_end(struct worker *w);
/* Nothing of the steps under way is used; the device has none when this returns. */
void step_give_up(struct worker *w);
/* What the monitor looks at: when the step began, 0 when it is over, and how large it is. */
void step_note_time(struct worker *w, const struct tl_step *step, int64_t began_ns);
/* news.c */
void news_add(struct worker *w, struct tl_sequence *seq, bool final);
void news_tell(struct worker *w);
/* fault.c */
bool fault_is_marked(struct worker *w);
/* True: it was not yet. Worker and monitor. */
bool fault_mark(struct worker *w);
/* A failure for which the worker still has to let go; then it answers with the same word. */
bool fault_is_unanswered(struct worker *w, uint32_t *ret);
void fault_answer(struct worker *w, uint32_t word);
/* step_build.c: the planned items as flat arrays. */
void worker_build_step(struct worker *w, struct flight *f);
uint32_t worker_table_stride(const struct tl_engine *engine);
/* recurrent.c: of models whose layers keep a state */
/* How many a device is to have; 0: the model has none. */
uint32_t recurrent_states(const struct tl_engine *engine);
/* Options that such a model does not go with are set to what it does with. */
void recurrent_adapt(struct tl_engine *engine);
/* Whether what the devices have for it will do. */
int recurrent_check(const struct worker *w, struct tl_error *err);
void recurrent_add_metrics(struct worker *w, struct tl_metrics *m, const char *labels);
/* step_pool.c */
/* Whether the model pools: then sequences are computed whole, without KV. */
bool pooling_is(const struct tl_engine *engine);
/* token_types and vectors, if it does. False: out of memory. */
bool pooling_make_arrays(struct worker *w);
/* As worker_build_step, of such a model. */
void pooling_build_step(struct worker *w, struct flight *f);
/* The vector of the step's sequence number `at` becomes the sequence's. False: it has numbers that are none. */
bool pooling_take(struct worker *w, struct tl_sequence *seq, uint32_t at);
/* sequence.c */
/* What the worker needs from the first, filled in by the loop. */
void sequence_prepare(struct tl_sequence *seq);
/* Whether the row of token `index` is wanted: it scores index + 1, or makes a new token. */
/* mask: (TL_MASK_WORDS(vocab_size)) room for one. */
void sequence_sampling(struct tl_sequence *seq, uint32_t token, uint32_t vocab_size, uint32_t *mask, struct tl_sampling *ret);
void sequence_count(struct tl_sequence *seq, int32_t token, bool generated);
/* inbox.c: the oldest that was submitted, or NULL. The worker; main once it is joined. */
struct tl_sequence *inbox_pop(struct worker *w);

/* draft_index.c */
/* Its first n tokens are there: links those that are not yet, or some of them. */
void draft_index_add(struct tl_sequence *seq, uint32_t n);
/* What may follow its first n tokens, written behind them: returns how many, at most `most`. Of the longest match the latest is taken. */
uint32_t draft_index_guess(struct tl_sequence *seq, uint32_t n, uint32_t most);
/* step_draft.c */
/* A step with it is under way: time to link what of its tokens is known. */
void draft_learn(struct worker *w, struct tl_sequence *seq);
/* What the option means with these devices and this model. */
uint32_t draft_tokens_of(const struct tl_engine_options *o);
/* Most rows of a step with guessed tokens. */
uint32_t draft_rows(const struct tl_engine_options *o);
/* Adds guessed tokens to the plan's decodes, whose tokens are all known. An error is the draft model's device's: the step does not begin. */
int draft_fill_up(struct worker *w);
/* Whether the sequence may have guesses now, if the step has room for them. */
bool draft_is_eligible(const struct worker *w, const struct tl_sequence *seq);
/* n guesses stand behind its first `known` tokens, which are all that are known. */
void draft_put(struct tl_sequence *seq, uint32_t known, uint32_t n);
/* Whether a sequence of the plan has guesses under way, or is to have some in the next step, which so cannot be built before the last one is over. */
bool draft_waits(const struct worker *w);
/* The tokens of the step are taken: forgets what was guessed wrong. */
void draft_settle(struct worker *w, struct tl_sequence *seq);
/* draft_model.c, of a replica with a drafter */
/* Guesses of sequences that have none yet, at most `room` in all. An error: of its device. */
int draft_model_fill_up(struct worker *w, uint32_t room);
/* Of n guesses of its so many were right. */
void draft_model_settle(struct worker *w, struct tl_sequence *seq, uint32_t n, uint32_t taken);
/* Whether it would guess for the sequence once that has n_out tokens. False without a drafter, as for the next */
bool draft_model_is_due(const struct worker *w, const struct tl_sequence *seq, uint32_t n_out);
/* A step of the target is over. */
void draft_model_note_step(struct worker *w, const struct flight *f);
/* A step of the target writes the sequence's token at `position` to a slot. */
void draft_model_written(struct drafter *drafter, const struct tl_sequence *seq, uint32_t position, uint32_t slot);
void draft_model_forget(struct worker *w); /* what its device has is not to be trusted */
/* drafter.c; without a draft model they do nothing, but for reset */
int drafter_check(const struct tl_engine *engine, struct tl_error *err);
/* Of the target's memory, what the draft model is to have. */
void drafter_leave_room(const struct tl_engine *engine, struct tl_device_load *load);
/* Its device beside w's, which has these options; loaded once w's is, which says how many blocks. */
int drafter_open(struct worker *w, const struct tl_device_options *options, struct tl_error *err);
int drafter_load(struct worker *w, struct tl_error *err);
void drafter_free(struct worker *w);
enum tl_device_health drafter_health(const struct worker *w);
void drafter_interrupt(struct worker *w);
int drafter_reset(struct worker *w, struct tl_error *err); /* both devices */
/* step_trace.c: what a sequence's trace gets; without one they only look. */
/* Its first step of this try has begun. */
void trace_started(struct worker *w, struct tl_sequence *seq, int64_t now_ns);
/* A token came with the step that has just ended. */
void trace_token(struct worker *w, struct tl_sequence *seq);
/* A step is over; none of its sequences has been given away since. error: a literal, NULL: it went well. */
void trace_step(struct worker *w, const struct tl_sched_item *items, uint32_t n, const struct step_figures *figures, const char *error);
/* finish is set, the loop does not know yet. */
void trace_ended(struct worker *w, struct tl_sequence *seq);
/* events.c */
void events_publish(struct worker *w, struct tl_sequence *seq, bool final);
void events_wake_loops(struct worker *w);

#endif
