/* SPDX-License-Identifier: MIT */
/* Making and ending the engine: devices, memory of the steps, threads. */
#include "tokenlane/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/engine_private.h"
#include "tokenlane/base/hash.h"
#include "tokenlane/log.h"
#include "tokenlane/sim.h"

#define STUCK_SECONDS 5 /* at the end: no step of a device that works takes so long */

static void worker_done(struct worker *w) {
  if (w->device) w->ops->close(w->device);
  group_free(w);
  drafter_free(w);
  tl_scheduler_free(w->scheduler);
  for (unsigned i = 0; w->events && i < w->engine->o.n_loops; i++) tl_spsc_done(&w->events[i]);
  free(w->events);
  for (unsigned i = 0; i < 2; i++) {
    struct flight *f = &w->flights[i];
    void *of_flight[] = {f->items,  f->tokens, f->positions, f->slots,   f->query_start, f->context_len,
                         f->tables, f->rows,   f->sampling,  f->row_seq, f->row_token, f->masks, f->adapters,
                         f->state_from, f->state_to};
    for (size_t k = 0; k < sizeof of_flight / sizeof *of_flight; k++) free(of_flight[k]);
  }
  void *arrays[] = {w->items, w->sampled, w->loop_woken, w->news, w->rank_loaded, w->token_types, w->vectors};
  for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
}

void tl_engine_free(struct tl_engine *engine) {
  if (!engine) return;
  for (unsigned i = 0; engine->workers && i < engine->o.n_replicas; i++) worker_done(&engine->workers[i]);
  free(engine->workers);
  free(engine->boards);
  free(engine);
}

/* --- memory of the steps ------------------------------------------------------------------ */

static bool make_flight(const struct worker *w, struct flight *f) {
  size_t tokens = w->engine->o.max_batch_tokens, seqs = w->engine->o.max_batch_size;
  f->items = calloc(seqs, sizeof *f->items);
  f->tokens = calloc(tokens, sizeof *f->tokens);
  f->positions = calloc(tokens, sizeof *f->positions);
  f->slots = calloc(tokens, sizeof *f->slots);
  f->query_start = calloc(seqs + 1, sizeof *f->query_start);
  f->context_len = calloc(seqs, sizeof *f->context_len);
  f->tables = calloc(seqs * worker_table_stride(w->engine), sizeof *f->tables);
  f->rows = calloc(seqs, sizeof *f->rows);
  f->adapters = calloc(seqs, sizeof *f->adapters);
  f->state_from = calloc(seqs, sizeof *f->state_from);
  f->state_to = calloc(seqs, sizeof *f->state_to);
  f->sampling = calloc(seqs, sizeof *f->sampling);
  f->masks = calloc(seqs * TL_MASK_WORDS(w->engine->o.model->vocab_size), sizeof *f->masks); /* pages that no mask touches are not there */
  f->row_seq = calloc(seqs, sizeof *f->row_seq);
  f->row_token = calloc(seqs, sizeof *f->row_token);
  return f->items && f->tokens && f->positions && f->slots && f->query_start && f->context_len && f->tables && f->rows &&
         f->adapters && f->state_from && f->state_to && f->sampling && f->masks && f->row_seq && f->row_token;
}

static int make_arrays(struct worker *w, struct tl_error *err) {
  const struct tl_engine_options *o = &w->engine->o;
  size_t seqs = o->max_batch_size;
  w->items = calloc(seqs, sizeof *w->items);
  w->news = calloc(seqs, sizeof *w->news);
  w->sampled = calloc(seqs, sizeof *w->sampled);
  w->flight = &w->flights[0];
  w->rank_loaded = calloc(o->tensor_parallel, sizeof *w->rank_loaded);
  w->loop_woken = calloc(o->n_loops, sizeof *w->loop_woken);
  w->events = aligned_alloc(TL_CACHE_LINE, o->n_loops * sizeof *w->events);
  if (w->events) memset((void *)w->events, 0, o->n_loops * sizeof *w->events);
  bool fine = w->items && w->news && w->sampled && w->rank_loaded && w->loop_woken && w->events;
  for (unsigned i = 0; i < 2; i++) fine = make_flight(w, &w->flights[i]) && fine;
  fine = fine && pooling_make_arrays(w);
  /* a live sequence is in at most one ring, at most once */
  for (unsigned i = 0; fine && i < o->n_loops; i++) fine = tl_spsc_init(&w->events[i], (size_t)o->max_queue + 1) == TL_OK;
  return fine ? TL_OK : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
}

/* --- devices --------------------------------------------------------------------------------- */

#define LEAST_CONTEXT 4096 /* of a model made for more, whose context nobody has set: less is better said than served */

struct loading {
  struct worker *worker;
  unsigned rank, n_ranks; /* of the replica's, that the device is or hosts */
  struct tl_device *device;
  pthread_t thread;
  bool started;
  int result;
  struct tl_error error;
};

static void on_progress(uint64_t done, uint64_t total, void *context) {
  const struct loading *l = context;
  const struct tl_engine_options *o = &l->worker->engine->o;
  unsigned n = o->tensor_parallel; /* each device has the n-th part of each tensor */
  for (unsigned i = 0; o->progress && i < l->n_ranks; i++)
    o->progress(l->worker->index * n + l->rank + i, done / n, total / n, o->wake_context);
}

static void *load_device(void *argument) {
  struct loading *l = argument;
  const struct worker *w = l->worker;
  const struct tl_engine_options *o = &w->engine->o;
  struct tl_device_load load = {.model = o->model,
                                .model_path = o->model_path,
                                .max_batch_size = o->max_batch_size,
                                .max_batch_tokens = o->max_batch_tokens,
                                .max_context = w->engine->max_context,
                                .least_context = o->max_context || w->simulated ? 0 : LEAST_CONTEXT,
                                .draft_tokens = o->draft_tokens,
                                .draft_rows = draft_rows(o),
                                .kv_memory_bytes = o->kv_memory_bytes / o->tensor_parallel,
                                .max_states = recurrent_states(w->engine),
                                .kv_format = o->kv_format,
                                .memory_percent = o->memory_percent,
                                .memory_shared = o->memory_shared,
                                .cudnn = o->cudnn,
                                .progress = on_progress,
                                .context = l};
  drafter_leave_room(w->engine, &load);
  if (w->group) l->result = w->ops->group->join(l->device, w->group->shared, l->rank, &l->error);
  if (l->result == TL_OK) l->result = w->ops->load(l->device, &load, &w->rank_loaded[l->rank], &l->error);
  if (l->result != TL_OK) return NULL;
  on_progress(o->model->weight_bytes, o->model->weight_bytes, l);
  const char *attention = w->rank_loaded[l->rank].attention;
  if (*attention)
    TL_LOG(TL_LOG_INFO, "engine", "prompts' attention", TL_S("device", tl_engine_device(w->engine, w->index, l->rank)), TL_S("by", attention));
  return NULL;
}

/* All devices load at the same time, each on a thread of its own. */
static int load_all(struct tl_engine *engine, struct tl_error *err) {
  unsigned ranks = engine->o.tensor_parallel, n = engine->o.n_replicas * ranks;
  struct loading *loading = calloc((size_t)n + 1, sizeof *loading);
  if (!loading) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  int r = TL_OK;
  for (unsigned i = 0; r == TL_OK && i < n; i++) {
    struct worker *w = &engine->workers[i / ranks];
    struct loading *l = &loading[i];
    unsigned rank = i % ranks;
    if (rank && !w->group) continue; /* loaded by rank 0's */
    *l = (struct loading){.worker = w,
                          .rank = rank,
                          .n_ranks = w->group ? 1 : ranks,
                          .device = rank ? w->group->followers[rank - 1].device : w->device};
    l->started = pthread_create(&l->thread, NULL, load_device, l) == 0;
    if (!l->started) r = tl_error_set(err, TL_EIO, NULL, "cannot start a thread");
  }
  for (unsigned i = 0; i < n; i++) {
    if (!loading[i].started) continue;
    pthread_join(loading[i].thread, NULL);
    if (loading[i].result == TL_OK || r < 0) continue;
    *err = loading[i].error;
    r = loading[i].result;
  }
  free(loading);
  return r;
}

/* What the devices of a group have room for together is what each of them has. */
static void join_loaded(struct worker *w) {
  w->loaded = w->rank_loaded[0];
  for (unsigned i = 1; i < w->engine->o.tensor_parallel; i++) {
    const struct tl_device_loaded *l = &w->rank_loaded[i];
    if (l->n_blocks < w->loaded.n_blocks) w->loaded.n_blocks = l->n_blocks;
    if (l->n_states < w->loaded.n_states) w->loaded.n_states = l->n_states;
    w->loaded.kv_bytes += l->kv_bytes;
    w->loaded.weight_bytes += l->weight_bytes;
  }
  if (pooling_is(w->engine)) w->loaded.n_blocks = 0; /* what the device keeps keys and values in for a step is its own */
}

/* CPU devices share the processors: device N has the N-th core set; with other engines
 * beside, which may use the same device, sets are dealt in the engines' order. One alone
 * is left to the system's scheduler unless its threads are to be pinned. Simulated
 * ones need none. */
static struct tl_device_options place(struct tl_engine *engine, const struct worker *w, unsigned rank, unsigned index) {
  const struct tl_engine_options *o = &engine->o;
  unsigned n = o->n_replicas * o->tensor_parallel - tl_engine_simulated(engine), lanes = o->cpu_threads, set = index;
  if (o->cpu_devices) {
    n = o->cpu_devices;
    set = o->first_cpu_device + w->index * o->tensor_parallel + rank;
  }
  if (lanes == 0) lanes = n ? tl_cpu_count() / n : 1;
  if (lanes == 0) lanes = 1;
  unsigned cores = w->simulated ? 0 : o->cpu_pin ? 1 : n > 1 ? lanes : 0;
  return (struct tl_device_options){.spec = tl_engine_device(engine, w->index, rank),
                                    .index = index,
                                    .n_lanes = lanes,
                                    .first_core = set * lanes,
                                    .cores = cores,
                                    .sim = o->sim ? &o->sim[w->index * o->tensor_parallel + rank] : NULL};
}

/* The devices that follow w's, which is open. */
static int open_followers(struct tl_engine *engine, struct worker *w, bool same_ops, struct tl_error *err) {
  unsigned ranks = engine->o.tensor_parallel;
  if (ranks == 1 || w->isolated) return TL_OK;
  int r = group_new(w, ranks, err);
  for (unsigned i = 1; r == TL_OK && i < ranks; i++) {
    struct follower *f = &w->group->followers[i - 1];
    unsigned index = w->index * ranks + i;
    if (!same_ops && tl_device_find(tl_engine_device(engine, w->index, i), &index, err) != w->ops)
      return tl_error_set(err, TL_EINVAL, "devices", "devices: '%.60s' and '%.60s' cannot share a model",
                          tl_engine_device(engine, w->index, 0), tl_engine_device(engine, w->index, i));
    f->options = place(engine, w, i, index);
    r = w->ops->open(&f->options, &f->device, err);
  }
  return r;
}

/* w's devices in a process: one device for us. */
static int open_process(struct tl_engine *engine, struct worker *w, struct tl_error *err) {
  struct tl_device_options options[TL_MAX_RANKS];
  for (unsigned i = 0; i < engine->o.tensor_parallel; i++) {
    unsigned index;
    if (!tl_device_find(tl_engine_device(engine, w->index, i), &index, err)) return TL_EINVAL;
    options[i] = place(engine, w, i, index);
  }
  options[0].n_ranks = engine->o.tensor_parallel;
  return w->ops->open(options, &w->device, err);
}

static int open_all(struct tl_engine *engine, const struct tl_device_ops *ops, struct tl_error *err) {
  for (unsigned i = 0; i < engine->o.n_replicas; i++) {
    struct worker *w = &engine->workers[i];
    w->engine = engine;
    w->index = i;
    w->device_options.index = i * engine->o.tensor_parallel;
    w->trace_ring = tl_trace_worker_ring(engine->o.trace, worker_id(w));
    tl_mpsc_init(&w->inbox);
    tl_waker_init(&w->waker);
    w->ops = ops ? ops : tl_device_find(tl_engine_device(engine, i, 0), &w->device_options.index, err);
    if (!w->ops) return TL_EINVAL;
    w->simulated = w->ops->simulated;
    enum tl_isolation isolation = engine->o.isolation;
    w->isolated = !ops && (isolation == TL_ISOLATION_PROCESS || (isolation == TL_ISOLATION_AUTO && w->ops->spoils));
    if (w->isolated) w->ops = tl_device_isolated(w->ops, engine->o.tensor_parallel);
  }
  for (unsigned i = 0; i < engine->o.n_replicas; i++) {
    struct worker *w = &engine->workers[i];
    w->device_options = place(engine, w, 0, w->device_options.index);
    int r = w->isolated ? open_process(engine, w, err) : w->ops->open(&w->device_options, &w->device, err);
    if (r == TL_OK) r = open_followers(engine, w, ops != NULL, err);
    if (r == TL_OK) r = drafter_open(w, &w->device_options, err);
    if (r == TL_OK) r = make_arrays(w, err);
    if (r < 0) return r;
  }
  return TL_OK;
}

/* A context that nobody has set is as long as all replicas have blocks for. */
static void fit_context(struct tl_engine *engine) {
  uint64_t most = engine->max_context;
  for (unsigned i = 0; i < engine->o.n_replicas; i++) {
    const struct worker *w = &engine->workers[i];
    uint64_t tokens = (uint64_t)w->loaded.n_blocks * TL_BLOCK_TOKENS;
    if (!w->simulated && tokens < most) most = tokens;
  }
  if (engine->o.max_context || pooling_is(engine) || most == engine->max_context) return;
  TL_LOG(TL_LOG_WARN, "engine", "there is memory for a shorter context than the model was made for", TL_U("context", most),
         TL_U("model", engine->max_context), TL_S("set", "engine.max_context, or more by engine.kv_memory_bytes"));
  engine->max_context = (uint32_t)most;
}

/* Once the devices have said what they have. */
static int load_drafters(struct tl_engine *engine, struct tl_error *err) {
  int r = TL_OK;
  for (unsigned i = 0; i < engine->o.n_replicas; i++) join_loaded(&engine->workers[i]);
  fit_context(engine);
  for (unsigned i = 0; r == TL_OK && i < engine->o.n_replicas; i++) r = drafter_load(&engine->workers[i], err);
  return r;
}

static int make_schedulers(struct tl_engine *engine, struct tl_error *err) {
  const struct tl_engine_options *o = &engine->o;
  for (unsigned i = 0; i < o->n_replicas; i++) {
    struct worker *w = &engine->workers[i];
    struct tl_scheduler_options options = {.n_blocks = w->loaded.n_blocks,
                                           .block_tokens = TL_BLOCK_TOKENS,
                                           .max_batch_size = o->max_batch_size,
                                           .max_batch_tokens = o->max_batch_tokens,
                                           .max_context = engine->max_context,
                                           .max_prefill_tokens = o->max_prefill_tokens,
                                           .priority_age_ns = o->priority_age_ns,
                                           .whole = pooling_is(engine),
                                           .n_states = w->loaded.n_states,
                                           .prefix_cache = o->prefix_cache,
                                           .key = {tl_random_seed(), tl_random_seed()}};
    int r = recurrent_check(w, err);
    if (r == TL_OK) r = tl_scheduler_new(&options, &w->scheduler, err);
    if (r < 0) return r;
    atomic_store_explicit(&engine->boards[i].free_blocks, w->loaded.n_blocks, memory_order_relaxed); /* boot */
  }
  return TL_OK;
}

/* --- metrics ------------------------------------------------------------------------------------ */

/* relaxed loads: single figures */
static double read_running(void *board) {
  return atomic_load_explicit(&((struct tl_board *)board)->running, memory_order_relaxed);
}
static double read_waiting(void *board) {
  return atomic_load_explicit(&((struct tl_board *)board)->waiting, memory_order_relaxed);
}
static double read_blocks_used(void *worker) {
  struct worker *w = worker;
  return w->loaded.n_blocks - atomic_load_explicit(&w->engine->boards[w->index].free_blocks, memory_order_relaxed);
}
static double read_cached(void *board) {
  return atomic_load_explicit(&((struct tl_board *)board)->cached_blocks, memory_order_relaxed);
}
static double read_blocks(void *worker) {
  return ((struct worker *)worker)->loaded.n_blocks;
}

static double read_simulated(void *engine) {
  return tl_engine_simulated(engine); /* constant after boot */
}

/* From a microsecond, which a gap should take, to what a stuck worker takes. */
static const double gap_bounds[] = {1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 1e-2, 0.1, 1};

static void add_schedule_metrics(struct worker *w, struct tl_metrics *m, const char *labels) {
  struct tl_board *board = &w->engine->boards[w->index];
  tl_metrics_gauge_read(m, "tokenlane_prefix_cache_blocks", "KV blocks whose content can be shared, used or not.", labels,
                        read_cached, board);
  w->metrics.gap_seconds = tl_metrics_histogram(
      m, "tokenlane_step_gap_seconds", "From the end of a step to the start of the next while there was work: the device idles.",
      labels, gap_bounds, sizeof gap_bounds / sizeof *gap_bounds, 1e-9);
  w->metrics.expired = tl_metrics_counter(m, "tokenlane_expired_sequences_total",
                                          "Sequences that ended because their deadline passed.", labels);
  w->metrics.query_tokens = tl_metrics_counter(m, "tokenlane_prefix_cache_query_tokens_total",
                                               "Prompt tokens looked up in the prefix cache.", labels);
  w->metrics.hit_tokens = tl_metrics_counter(m, "tokenlane_prefix_cache_hit_tokens_total",
                                             "Prompt tokens found there and not computed.", labels);
  w->metrics.evictions = tl_metrics_counter(m, "tokenlane_prefix_cache_evictions_total",
                                            "KV blocks whose cached content was given up for other content.", labels);
  w->metrics.drafts = tl_metrics_counter(m, "tokenlane_draft_tokens_total", "Tokens guessed ahead (engine.draft_tokens).", labels);
  w->metrics.drafts_taken = tl_metrics_counter(m, "tokenlane_draft_tokens_taken_total", "Guesses that were right.", labels);
  if (!w->drafter) return;
  w->metrics.model_tokens = tl_metrics_counter(m, "tokenlane_draft_model_tokens_total", "Of the tokens guessed ahead, the draft model's (model.draft).", labels);
  w->metrics.model_taken = tl_metrics_counter(m, "tokenlane_draft_model_tokens_taken_total", "Of these, right ones.", labels);
  w->metrics.model_steps = tl_metrics_counter(m, "tokenlane_draft_model_steps_total", "Steps of the draft model.", labels);
}

static void add_metrics(struct worker *w, struct tl_metrics *m) {
  static const double seconds[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5};
  unsigned n = sizeof seconds / sizeof *seconds;
  char labels[32];
  snprintf(labels, sizeof labels, "replica=\"%u\"", worker_id(w));
  struct tl_board *board = &w->engine->boards[w->index];
  tl_metrics_gauge_read(m, "tokenlane_sequences_running", "Sequences in the batch.", labels, read_running, board);
  tl_metrics_gauge_read(m, "tokenlane_sequences_waiting", "Sequences that wait for a place.", labels, read_waiting, board);
  tl_metrics_gauge_read(m, "tokenlane_kv_blocks_used", "KV blocks in use.", labels, read_blocks_used, w);
  tl_metrics_gauge_read(m, "tokenlane_kv_blocks", "KV blocks in all.", labels, read_blocks, w);
  w->metrics = (struct worker_metrics){
      tl_metrics_counter(m, "tokenlane_prompt_tokens_total", "Prompt tokens computed, recomputed ones included.", labels),
      tl_metrics_counter(m, "tokenlane_generated_tokens_total", "Tokens generated.", labels),
      tl_metrics_counter(m, "tokenlane_steps_total", "Steps run.", labels),
      tl_metrics_histogram(m, "tokenlane_step_seconds", "Time of a step.", labels, seconds, n, 1e-9),
      tl_metrics_counter(m, "tokenlane_preemptions_total", "Sequences put back for want of KV blocks.", labels),
      .queue_seconds =
          tl_metrics_histogram(m, "tokenlane_queue_seconds", "From submission to the first step.", labels, seconds, n, 1e-9)};
  add_schedule_metrics(w, m, labels);
  recurrent_add_metrics(w, m, labels);
}

static double read_one(void *unused) {
  (void)unused;
  return 1;
}

static void add_device_metrics(struct worker *w, struct tl_metrics *m) {
  for (unsigned i = 0; i < w->engine->o.tensor_parallel; i++) {
    char labels[128];
    snprintf(labels, sizeof labels, "replica=\"%u\",rank=\"%u\",device=\"%.60s\"", worker_id(w), i, tl_engine_device(w->engine, w->index, i));
    tl_metrics_gauge_read(m, "tokenlane_replica_device", "The devices of each replica.", labels, read_one, NULL);
  }
}

/* --- life ------------------------------------------------------------------------------------------ */

int engine_new_with_ops(const struct tl_engine_options *options, const struct tl_device_ops *ops,
                        struct tl_metrics *metrics, struct tl_engine **ret, struct tl_error *err) {
  struct tl_engine *engine = calloc(1, sizeof *engine);
  if (!engine) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  engine->o = *options;
  if (engine->o.tensor_parallel == 0) engine->o.tensor_parallel = 1;
  engine->o.draft_tokens = draft_tokens_of(options);
  engine->registry = metrics;
  engine->max_context = options->max_context && options->max_context < options->model->max_context
                            ? options->max_context
                            : options->model->max_context;
  if (pooling_is(engine) && engine->max_context > options->max_batch_tokens) engine->max_context = options->max_batch_tokens;
  int r = drafter_check(engine, err);
  if (r < 0) {
    free(engine);
    return r;
  }
  recurrent_adapt(engine);
  engine->workers = aligned_alloc(TL_CACHE_LINE, options->n_replicas * sizeof *engine->workers);
  engine->boards = aligned_alloc(TL_CACHE_LINE, options->n_replicas * sizeof *engine->boards);
  if (engine->workers) memset((void *)engine->workers, 0, options->n_replicas * sizeof *engine->workers);
  if (engine->boards) memset((void *)engine->boards, 0, options->n_replicas * sizeof *engine->boards);
  if (!engine->workers || !engine->boards) r = tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  if (r == TL_OK) r = open_all(engine, ops, err);
  if (r == TL_OK) r = load_all(engine, err);
  if (r == TL_OK) r = load_drafters(engine, err);
  if (r == TL_OK) r = make_schedulers(engine, err);
  if (r < 0) {
    tl_engine_free(engine);
    return r;
  }
  tl_metrics_gauge_read(metrics, "tokenlane_simulated_devices", "Devices that are simulated: their text means nothing.", NULL,
                        read_simulated, engine);
  for (unsigned i = 0; i < options->n_replicas; i++) {
    add_metrics(&engine->workers[i], metrics);
    add_device_metrics(&engine->workers[i], metrics);
  }
  *ret = engine;
  return TL_OK;
}

int tl_engine_new(const struct tl_engine_options *options, struct tl_metrics *metrics, struct tl_engine **ret,
                  struct tl_error *err) {
  return engine_new_with_ops(options, NULL, metrics, ret, err);
}

int tl_engine_start(struct tl_engine *engine, struct tl_error *err) {
  for (unsigned i = 0; i < engine->o.n_replicas; i++) {
    struct worker *w = &engine->workers[i];
    w->shard = tl_metrics_shard_new(engine->registry);
    if (!w->shard || group_start(w, err) < 0 || pthread_create(&w->thread, NULL, worker_run, w) != 0) {
      tl_engine_stop(engine);
      return tl_error_set(err, TL_EIO, NULL, "cannot start a worker");
    }
    w->started = true;
  }
  return TL_OK;
}

/* A worker that does not come back is stuck in its device: a reset gets it out. Not
 * pthread_clockjoin_np, which GCC's TSan does not know; the wall clock is good enough. */
static void join_worker(struct worker *w) {
  struct timespec deadline;
  clock_gettime(CLOCK_REALTIME, &deadline);
  deadline.tv_sec += STUCK_SECONDS;
  if (pthread_timedjoin_np(w->thread, NULL, &deadline) == 0) return;
  struct tl_error err = {0};
  TL_LOG(TL_LOG_WARN, "engine", "the device does not end its step; resetting it", TL_U("replica", worker_id(w)));
  tl_engine_interrupt(w->engine, w->index, &err);
  pthread_join(w->thread, NULL);
}

void tl_engine_stop(struct tl_engine *engine) {
  /* pairs with the acquire loads of the workers */
  atomic_store_explicit(&engine->stopping, 1, memory_order_release);
  for (unsigned i = 0; i < engine->o.n_replicas; i++) {
    struct worker *w = &engine->workers[i];
    if (w->started) {
      tl_waker_notify(&w->waker);
      join_worker(w);
      w->started = false;
    }
    group_stop(w);
  }
}

unsigned tl_engine_replicas(const struct tl_engine *engine) {
  return engine->o.n_replicas;
}

unsigned tl_engine_first_replica(const struct tl_engine *engine) {
  return engine->o.first_replica;
}

unsigned tl_engine_simulated(const struct tl_engine *engine) {
  unsigned n = 0;
  for (unsigned i = 0; i < engine->o.n_replicas; i++) n += engine->workers[i].simulated;
  return n * engine->o.tensor_parallel;
}

uint32_t tl_engine_blocks(const struct tl_engine *engine, unsigned replica) {
  return engine->workers[replica].loaded.n_blocks;
}

uint32_t tl_engine_max_context(const struct tl_engine *engine) {
  return engine->max_context;
}

enum tl_dtype tl_engine_kv_dtype(const struct tl_engine *engine) {
  return tl_device_kv_dtype(&(struct tl_device_load){.model = engine->o.model, .kv_format = engine->o.kv_format});
}

uint32_t tl_engine_draft_tokens(const struct tl_engine *engine) {
  return engine->o.draft_tokens;
}

unsigned tl_engine_ranks(const struct tl_engine *engine) {
  return engine->o.tensor_parallel;
}

const char *tl_engine_device(const struct tl_engine *engine, unsigned replica, unsigned rank) {
  return engine->o.devices ? engine->o.devices[replica * engine->o.tensor_parallel + rank] : engine->workers[replica].ops->name;
}

const char *tl_engine_gpu(const struct tl_engine *engine, unsigned replica, unsigned rank) {
  return engine->workers[replica].rank_loaded[rank].gpu;
}

struct tl_board *tl_engine_board(struct tl_engine *engine, unsigned replica) {
  return &engine->boards[replica];
}
