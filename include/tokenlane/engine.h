/* SPDX-License-Identifier: MIT */
/* The engine: one worker thread a replica, and all that crosses threads.
 *
 *   loop --push--> inbox (MPSC) --> worker --event ring (SPSC, one per loop)--> loop
 *
 * A sequence has one owner: the loop until tl_engine_submit, the worker until
 * the final event, then the loop again, which frees it. Meanwhile the loop may
 * read what `n_out` covers and set `cancel`, nothing else. Its memory (tokens,
 * log-probabilities) is allocated whole by the loop before it is pushed, so a
 * slow client never makes the worker wait and a push cannot fail. */
#ifndef TOKENLANE_ENGINE_H
#define TOKENLANE_ENGINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "tokenlane/base/error.h"
#include "tokenlane/base/mpsc.h"
#include "tokenlane/device.h"
#include "tokenlane/metrics.h"
#include "tokenlane/model.h"
#include "tokenlane/schedule.h"
#include "tokenlane/step.h"
#include "tokenlane/trace.h"

struct tl_engine;
struct tl_matcher; /* grammar.h */
struct tl_sim_options;

enum tl_finish {
  TL_FINISH_NONE,
  TL_FINISH_STOP,      /* an EOS or stop id was generated (it is in the output's tokens), or nothing can follow in the grammar */
  TL_FINISH_LENGTH,    /* max_new tokens, or the context is full; a pooling model's vector is there */
  TL_FINISH_CANCELLED,
  TL_FINISH_ERROR,     /* the model gave no distribution, or it can never fit */
  TL_FINISH_FAULT,     /* the device failed. What n_out covers is right: submit it again elsewhere and it goes on */
  TL_FINISH_EXPIRED,   /* deadline_ns passed */
};

/* One scored or generated token's log-probabilities. */
struct tl_logprobs {
  float logprob;
  int32_t n_top;
  int32_t *top_tokens;   /* (n_top) point into the sequence's own memory */
  float *top_logprobs;
};

/* What the worker notes of one try on one device for the trace; a sequence that lost its
 * device makes another. Unused without tl_sequence.trace. */
struct tl_sequence_try {
  int64_t queued_ns;           /* tl_engine_submit: here, and the number (from 1) */
  uint32_t number, n_tokens;   /* the worker: tokens that this try made */
  int64_t started_ns, first_ns, last_ns; /* its first step began, its first and last token came */
};

/* The worker's, of a sequence whose next tokens are guessed (engine/step_draft.c). */
struct tl_drafts {
  uint32_t n, first;        /* guesses under way, and the index of their first token; n 0: none */
  uint32_t next_try, wait;  /* guess again once so many tokens are generated; after the last wrong guesses so many later */
  uint32_t most;            /* of the next ones; 0: there were none yet */
  uint32_t tried, right;    /* of the last ones, in eighths */
  uint32_t n_indexed;       /* leading tokens that are linked, what is predicted first */
  uint32_t next_look;       /* and do not wait with a step for that before, since there was no match */
  bool by_model;            /* those under way are a draft model's (engine/draft_model.c), as what follows is of those alone */
  uint32_t n_computed;      /* leading tokens whose rows it has computed for the step that is built next; 0: it has not */
  uint32_t model_next, model_wait; /* as next_try, wait */
  float chance;             /* of a guess to be right; 0: there were none yet */
};

/* Tokens that are not to come one after another in what is generated. */
struct tl_bad_word {
  const int32_t *ids; /* (n) */
  uint32_t n;         /* at least 1 */
};

struct tl_sequence {
  /* --- filled by the loop before submit, then constant ------------------------ */
  uint32_t n_prompt, max_new;      /* max_new may be 0: only score the prompt; always with a pooling model */
  uint32_t min_new;                /* EOS and stop ids are forbidden before */
  bool ignore_eos;                 /* of the stop ids only the client's own end it */
  bool score_prompt;               /* log-probabilities of prompt tokens 1 .. n_prompt-1 */
  struct tl_sampling sampling;     /* position, target, history are filled by the worker */
  const int32_t *stop_ids;         /* (n_stop_ids) end the sequence; the model's EOS ids are among them */
  uint32_t n_stop_ids, n_own_stop_ids; /* the latter: the first of them, which the client chose */
  const struct tl_bad_word *bad_words; /* (n_bad_words) */
  uint32_t n_bad_words;
  struct tl_token_bias *bias;      /* (n_bias + n_stop_ids + n_bad_words) room at the end for what a step forbids */
  uint32_t n_bias;
  const uint32_t *allowed;         /* (TL_MASK_WORDS(vocab_size)) no other tokens come, NULL: any may */
  struct tl_matcher *matcher;      /* what is generated keeps to its grammar, NULL: to none. The worker's until the final event */
  unsigned loop;                   /* index of the loop that gets the events */
  unsigned replica;                /* set by submit's caller from route */
  enum tl_priority priority;
  int64_t deadline_ns;             /* by tl_now_ns; 0: none */
  uint64_t cache_salt;             /* KV is shared only between sequences of the same salt */
  uint32_t adapter;                /* number of its adapter (tl_model.adapters) + 1; 0: the model itself */
  uint64_t fork;                   /* not 0: the same in all that share a prompt and one request */
  const struct tl_trace_context *trace; /* NULL: not recorded. Outlives the sequence */
  uint32_t choice;                 /* its number in the request, for the trace */
  void *owner;                     /* the API's */
  /* --- memory that the loop allocated, the worker fills ------------------------- */
  int32_t *tokens;                 /* (n_prompt + max_new) prompt, then generated; before it n_predicted that may come, the last of them at tokens[-1] */
  uint32_t n_predicted;            /* from which are guessed, too; with a draft_index */
  struct tl_token_count *history;  /* (n_prompt + max_new) or NULL when no penalty is set */
  uint32_t *history_index;         /* (history_slots, power of two >= 2 * entries) hash table, zeroed, or NULL */
  uint32_t history_slots, n_history;
  struct tl_logprobs *logprobs;    /* (n_prompt + max_new) by token index, or NULL */
  uint32_t *draft_index;           /* (tl_draft_index_words(n_predicted + n_prompt + max_new)) zeroed, or NULL: none of its tokens are guessed */
  const uint8_t *token_types;      /* (n_prompt) the loop fills it; pooling models only, NULL: all 0 */
  float *vector;                   /* (tl_model.n_out) of a pooling model, valid with TL_FINISH_LENGTH; else NULL */
  int64_t submitted_ns;            /* the caller of submit writes it */
  int64_t started_ns, first_token_ns; /* the worker: its first step began, its first token came */
  uint32_t n_cached;               /* the worker, before its first token: prompt tokens that the prefix cache had */
  /* --- crossing ------------------------------------------------------------------- */
  struct tl_mpsc_node node;        /* inbox */
  _Atomic uint32_t n_out;          /* generated tokens that the loop may read */
  _Atomic uint32_t n_scored;       /* prompt tokens scored: 1 .. n_scored are readable */
  _Atomic uint32_t n_right, n_wrong; /* of its guesses: figures alone */
  _Atomic uint32_t signal;         /* engine-private: pending and final bits */
  _Atomic uint32_t cancel;         /* any thread sets it to 1 */
  enum tl_finish finish;           /* valid once the final event has come */
  /* --- the worker's ------------------------------------------------------------------ */
  uint32_t n_faults;               /* steps that computed it and failed; the loop's after a final event */
  struct tl_sched_seq sched;
  uint32_t in_flight;              /* steps under way that compute rows of it */
  struct tl_drafts drafts;
  uint32_t made_row;               /* which row of the last of them makes its next token */
  struct tl_sequence_try tried;
};

/* Whether this token ends the sequence, when it is generated: a stop id that is not
 * to be ignored. Any thread. */
bool tl_sequence_is_stop(const struct tl_sequence *seq, int32_t token);

enum tl_isolation {
  TL_ISOLATION_AUTO,    /* a process for devices whose errors can spoil one (GPUs), else a thread */
  TL_ISOLATION_THREAD,
  TL_ISOLATION_PROCESS, /* one for each replica */
};

#define TL_DRAFT_TOKENS_AUTO UINT32_MAX

struct tl_engine_options {
  const struct tl_model *model;
  const char *model_path;      /* for processes: what it was read from */
  const struct tl_model *draft_model; /* a small one of the same vocabulary that guesses tokens; NULL: none */
  const char *draft_path;
  enum tl_isolation isolation; /* where devices run */
  const char *const *devices;  /* (n_replicas, tensor_parallel) "cpu:0", ...: those of a replica are of one kind */
  unsigned n_replicas, n_loops;
  unsigned tensor_parallel;    /* devices of a replica, at most TL_MAX_RANKS; 0: one */
  const struct tl_sim_options *sim; /* as devices, for those that are simulated, or NULL */
  unsigned first_replica;      /* of all replicas of the process: what the first is called in log, metrics and traces */
  unsigned cpu_devices;        /* that share the processors, in all engines; 0: only this one's */
  unsigned first_cpu_device;   /* of them; used with cpu_devices */
  unsigned cpu_threads;        /* lanes per CPU replica; 0: processors / CPU replicas */
  bool cpu_pin;
  uint32_t max_batch_size, max_batch_tokens, max_context; /* max_context 0: the model's */
  uint32_t max_queue;          /* live sequences per replica: what route admits at most */
  unsigned memory_percent;     /* of a GPU; 0: 90 */
  bool cudnn;                  /* as tl_device_load has it */
  bool memory_shared;          /* another engine has its part of the same GPU */
  uint64_t kv_memory_bytes;
  enum tl_kv_format kv_format; /* device.h */
  bool prefix_cache;           /* schedule.h has these three */
  uint32_t max_prefill_tokens;
  int64_t priority_age_ns;
  uint32_t draft_tokens;       /* most tokens that a step guesses of a sequence; 0: none, TL_DRAFT_TOKENS_AUTO: what pays on these devices */
  struct tl_trace *trace;      /* NULL: none */
  /* Wakes loop `loop`: called by workers after publishing, at most once per
   * loop and step; must be cheap and thread-safe. */
  void (*wake)(unsigned loop, void *context);
  void *wake_context;
  void (*progress)(unsigned device, uint64_t done, uint64_t total, void *context); /* may be NULL */
};

/* Of a board's `failed`. Route nothing there unless it is TL_FAILED_NOT. */
enum tl_failed {
  TL_FAILED_NOT,
  TL_FAILED,        /* the worker gives back all that it has and gets, and calls the device no more */
  TL_FAILED_TRIED,  /* the device was reset: the worker runs what it is given, which is the test generation */
};
#define TL_FAILED_MASK 3u

/* What the router reads of a replica. */
struct tl_board {
  /* line 1: loops, every request */
  TL_ALIGNED _Atomic int64_t reserved_tokens; /* prompt + output tokens of live sequences */
  _Atomic int64_t reserved_seqs;
  _Atomic int64_t prefill_tokens; /* prompts of those that have no token yet */
  _Atomic int64_t decodes;        /* live sequences that have one */
  /* line 2: the worker, every step; the others read it relaxed */
  TL_ALIGNED _Atomic int64_t beat_ns;   /* end of the last step */
  _Atomic int64_t step_began_ns;        /* of the step under way; 0: none */
  _Atomic int64_t step_ns;              /* moving average of the step time */
  _Atomic int64_t row_ns;               /* and of the time per row in steps of many rows; 0: none yet */
  _Atomic uint32_t step_rows;           /* of the step under way */
  _Atomic uint32_t free_blocks, cached_blocks, running, waiting;
  _Atomic uint32_t states_used, states_kept; /* schedule.h has both */
  _Atomic uint64_t n_steps, n_prefill_tokens, n_decode_tokens; /* the last without wrong guesses */
  /* line 3: worker and monitor, seldom; the router reads it at each request. The low
   * bits of `failed` are an enum tl_failed; the others count, so that each failure has a word
   * of its own and `parked` can say which one the worker has answered */
  TL_ALIGNED _Atomic uint32_t failed;
  _Atomic uint32_t parked;              /* the word of `failed` for which the worker let go of everything */
  _Atomic uint32_t n_faults;            /* failures so far; the monitor writes */
};

/* Opens devices, loads the weights (in parallel over replicas), allocates all
 * memory of the steps. Boot. */
int tl_engine_new(const struct tl_engine_options *options, struct tl_metrics *metrics, struct tl_engine **ret,
                  struct tl_error *err);
/* Starts the workers; after tl_metrics registration is complete. */
int tl_engine_start(struct tl_engine *engine, struct tl_error *err);
/* Cancels what runs, ends and joins the workers. Loops may still run, and what
 * they submit from now on waits for tl_engine_reap. Main thread. */
void tl_engine_stop(struct tl_engine *engine);
/* After tl_engine_stop, once no loop runs any more: calls on_event for what the
 * rings of the first n_loops loops hold and for their sequences that came too late for a worker,
 * as cancelled ones. Those of other loops are their owner's: nobody hears of them, they are not touched any more. Before
 * tl_engine_free. Main thread. */
void tl_engine_reap(struct tl_engine *engine, unsigned n_loops, void (*on_event)(struct tl_sequence *seq, bool final, void *context),
                    void *context);
void tl_engine_free(struct tl_engine *engine);

unsigned tl_engine_replicas(const struct tl_engine *engine);
unsigned tl_engine_first_replica(const struct tl_engine *engine); /* what replica 0 is called outside */
unsigned tl_engine_simulated(const struct tl_engine *engine); /* devices that only simulate one */
uint32_t tl_engine_blocks(const struct tl_engine *engine, unsigned replica);
uint32_t tl_engine_max_context(const struct tl_engine *engine); /* tokens that a sequence may hold; of a pooling model, at most those of a step */
enum tl_dtype tl_engine_kv_dtype(const struct tl_engine *engine); /* what keys and values are kept in */
uint32_t tl_engine_draft_tokens(const struct tl_engine *engine); /* as the option, or what that means here */
/* Whether tokens of the sequence may be guessed, if it has a draft_index: not with penalties, a grammar or bad words, nor for an answer too
 * short. Its loop, once it is filled, or the worker. */
bool tl_engine_guesses(const struct tl_engine *engine, const struct tl_sequence *seq);
size_t tl_draft_index_words(uint32_t n_tokens); /* of tl_sequence.draft_index */
unsigned tl_engine_ranks(const struct tl_engine *engine); /* devices of each replica */
const char *tl_engine_device(const struct tl_engine *engine, unsigned replica, unsigned rank); /* "cpu:0" */
const char *tl_engine_gpu(const struct tl_engine *engine, unsigned replica, unsigned rank); /* its PCI address; "": none */
struct tl_board *tl_engine_board(struct tl_engine *engine, unsigned replica);

/* Gives the sequence to a replica. The caller has reserved room there (route),
 * which bounds live sequences by max_queue. One exchange, a fence, maybe a
 * wake-up. A sequence that came back with TL_FINISH_FAULT goes on after its n_out tokens
 * with the same random numbers. Any loop thread. */
void tl_engine_submit(struct tl_engine *engine, unsigned replica, struct tl_sequence *seq);
/* Calls on_event for each sequence of this loop that has news, until none is
 * left: read n_out, n_scored; `final`: finish is set and the sequence is the
 * loop's again (on_event may free it). The loop's own thread. */
void tl_engine_drain(struct tl_engine *engine, unsigned loop,
                     void (*on_event)(struct tl_sequence *seq, bool final, void *context), void *context);

/* --- faults: the monitor's thread (engine/fault.c has the protocol) ------------------ */
/* The worker gives back all sequences (TL_FINISH_FAULT) and leaves the device alone,
 * as it does by itself after a device error. When it is inside the device, only once that returns.
 * Any thread. */
void tl_engine_quarantine(struct tl_engine *engine, unsigned replica);
bool tl_engine_failed(const struct tl_engine *engine, unsigned replica);
/* Failed, and the worker has let go of everything. */
bool tl_engine_parked(const struct tl_engine *engine, unsigned replica);
bool tl_engine_can_reset(const struct tl_engine *engine, unsigned replica);
/* What the device says of itself. */
enum tl_device_health tl_engine_health(const struct tl_engine *engine, unsigned replica);
/* Gets its worker out of the device, which is of no use until it is reset. While it is failed only. */
int tl_engine_interrupt(struct tl_engine *engine, unsigned replica, struct tl_error *err);
/* The device's reset; TL_EBUSY: not yet, call again; TL_EUNSUPPORTED: it cannot be reset, now or ever. While it is parked only. */
int tl_engine_reset(struct tl_engine *engine, unsigned replica, struct tl_error *err);
/* Parked and reset: the worker takes sequences again, the router gives it none. */
bool tl_engine_try(struct tl_engine *engine, unsigned replica);
/* What was tried went well: all is as before. False: it failed meanwhile. */
bool tl_engine_admit(struct tl_engine *engine, unsigned replica);

#endif
