/* SPDX-License-Identifier: MIT */
/* The device table over a process of its own. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/child/child_private.h"
#include "tokenlane/adapter.h"
#include "device/device_private.h"
#include "tokenlane/base/clock.h"

#define LOOK_NS TL_MS(25) /* between looks whether the child still lives, while a step runs */

static const struct tl_device_ops child_device_ops, child_ahead_ops;

static bool runs_ahead(const struct tl_device_ops *hosted, unsigned n_ranks) {
  return n_ranks > 1 ? hosted->group && hosted->group->runs_ahead : hosted->runs_ahead;
}

static struct child_device *of(struct tl_device *device) {
  return (struct child_device *)(void *)device;
}

static void device_close(struct tl_device *device) {
  struct child_device *d = of(device);
  if (!d) return;
  atomic_store_explicit(&d->closing, 1, memory_order_relaxed); /* a flag alone */
  if (atomic_load_explicit(&d->revival, memory_order_relaxed) != CHILD_NOT_REVIVED) pthread_join(d->thread, NULL); /* own or joined */
  child_end(d); /* one that does not die keeps its memory and a zombie */
  free(d->sim_tokens);
  free(d->sim_faults);
  free(d->adapter_texts);
  free(d);
}

/* The simulation's tables, for every life: all ranks' one after the other. */
static int copy_sim(struct child_device *d, const struct tl_device_options *options, struct tl_error *err) {
  size_t n_tokens = 0, n_faults = 0;
  for (uint32_t i = 0; i < d->job.n_ranks; i++) {
    const struct tl_sim_options *sim = options[i].sim;
    if (!sim) return TL_OK; /* its defaults: all of them */
    n_tokens += sim->tokens ? sim->n_tokens : 0;
    n_faults += sim->n_faults;
  }
  d->sim_tokens = calloc(n_tokens + 1, sizeof *d->sim_tokens);
  d->sim_faults = calloc(n_faults + 1, sizeof *d->sim_faults);
  if (!d->sim_tokens || !d->sim_faults) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  int32_t *token = d->sim_tokens;
  struct tl_sim_fault *fault = d->sim_faults;
  for (uint32_t i = 0; i < d->job.n_ranks; i++) {
    const struct tl_sim_options *sim = options[i].sim;
    struct tl_sim_options *copy = &d->job.ranks[i].sim;
    *copy = *sim;
    copy->tokens = NULL;
    copy->faults = NULL;
    copy->n_tokens = sim->tokens ? sim->n_tokens : 0;
    if (copy->n_tokens) memcpy(token, sim->tokens, copy->n_tokens * sizeof *token);
    if (copy->n_faults) memcpy(fault, sim->faults, copy->n_faults * sizeof *fault);
    token += copy->n_tokens;
    fault += copy->n_faults;
  }
  d->job.has_sim = true;
  return TL_OK;
}

/* What the process is to host. */
static int describe(struct child_device *d, const struct tl_device_options *options, struct tl_error *err) {
  unsigned index;
  const struct tl_device_ops *hosted = tl_device_find(options->spec, &index, err);
  size_t at = 0;
  if (!hosted) return TL_EINVAL;
  d->job.n_ranks = options->n_ranks ? options->n_ranks : 1;
  for (uint32_t i = 0; i < d->job.n_ranks; i++) {
    const struct tl_device_options *o = &options[i];
    struct child_rank_job *rank = &d->job.ranks[i];
    const struct tl_device_ops *ops = tl_device_find(o->spec, &index, err);
    if (!ops) return TL_EINVAL;
    if (ops != hosted)
      return tl_error_set(err, TL_EINVAL, "devices", "devices: '%.60s' and '%.60s' cannot share a model", options->spec, o->spec);
    snprintf(rank->spec, sizeof rank->spec, "%s:%u", ops->name, index);
    rank->n_lanes = o->n_lanes;
    rank->first_core = o->first_core;
    rank->cores = o->cores;
    int n = snprintf(d->name + at, sizeof d->name - at, "%s%s", i ? "," : "", rank->spec); /* cut where it is too long */
    at = at + (size_t)n < sizeof d->name ? at + (size_t)n : sizeof d->name - 1;
  }
  if (d->job.n_ranks > 1 && !hosted->group)
    return tl_error_set(err, TL_EUNSUPPORTED, "engine.tensor_parallel",
                        "engine.tensor_parallel: devices of the kind %s cannot share a model", hosted->name);
  d->job.runs_ahead = runs_ahead(hosted, d->job.n_ranks);
  d->ops = tl_device_isolated(hosted, d->job.n_ranks);
  return hosted->simulated ? copy_sim(d, options, err) : TL_OK;
}

static int device_open(const struct tl_device_options *options, struct tl_device **ret, struct tl_error *err) {
  if (options->n_ranks > TL_MAX_RANKS)
    return tl_error_set(err, TL_EINVAL, "engine.tensor_parallel", "engine.tensor_parallel: at most %d", TL_MAX_RANKS);
  struct child_device *d = calloc(1, sizeof *d);
  if (!d) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  d->life = -1;
  int r = describe(d, options, err);
  if (r < 0) {
    device_close((struct tl_device *)(void *)d);
    return r;
  }
  *ret = (struct tl_device *)(void *)d;
  return TL_OK;
}

/* Names and folders, for every life. */
static int copy_adapters(struct child_device *d, const struct tl_model *m, struct tl_error *err) {
  size_t bytes = 0;
  for (uint32_t i = 0; i < m->n_adapters; i++) bytes += strlen(m->adapters[i].name) + strlen(m->adapters[i].folder) + 2;
  char *at = d->adapter_texts = malloc(bytes + 1);
  if (!at) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (uint32_t i = 0; i < m->n_adapters; i++) {
    at = stpcpy(at, m->adapters[i].name) + 1;
    at = stpcpy(at, m->adapters[i].folder) + 1;
  }
  d->job.n_adapters = m->n_adapters;
  d->job.adapter_bytes = bytes;
  return TL_OK;
}

static int device_load(struct tl_device *device, const struct tl_device_load *load, struct tl_device_loaded *ret,
                       struct tl_error *err) {
  struct child_device *d = of(device);
  const struct tl_model *m = load->model;
  const char *path = load->model_path ? load->model_path : "";
  d->load = *load;
  if (strlen(path) >= sizeof d->job.model_path)
    return tl_error_set(err, TL_EINVAL, "model.path", "model.path: too long for isolation: process");
  memcpy(d->job.model_path, path, strlen(path) + 1);
  snprintf(d->job.quantized, sizeof d->job.quantized, "%s", m->quantized ? m->quantized : "");
  d->job.max_batch_size = load->max_batch_size;
  d->job.max_batch_tokens = load->max_batch_tokens;
  d->job.max_context = load->max_context;
  d->job.least_context = tl_device_least_context(load);
  d->job.draft_tokens = load->draft_tokens;
  d->job.draft_rows = load->draft_rows;
  d->job.n_blocks = load->n_blocks;
  d->job.beside_bytes = load->beside_bytes;
  d->job.beside_block_bytes = load->beside_block_bytes;
  d->job.has_states = load->max_states > 0;
  for (uint32_t i = 0; i < d->job.n_ranks; i++) {
    d->job.ranks[i].kv_memory_bytes = load->kv_memory_bytes;
    d->job.ranks[i].max_states = load->max_states;
  }
  d->job.kv_format = load->kv_format;
  d->job.memory_percent = load->memory_percent;
  d->job.memory_shared = load->memory_shared;
  d->job.cudnn = load->cudnn;
  snprintf(d->job.plugin_folder, sizeof d->job.plugin_folder, "%s", device_plugin_folder());
  d->job.pooling = m->pooling;
  d->job.n_out = m->n_out;
  d->job.normalize = m->normalize;
  d->job.vocab_size = m->vocab_size;
  d->job.dim = m->dim;
  d->job.n_layers = m->n_layers;
  d->job.n_eos = m->n_eos;
  d->job.weight_bytes = m->weight_bytes;
  memcpy(d->job.eos, m->eos, sizeof d->job.eos);
  int r = copy_adapters(d, m, err);
  if (r == TL_OK) r = child_begin(d, true, err);
  if (r < 0) return r;
  for (uint32_t i = 0; i < d->job.n_ranks; i++) {
    /* The next one must not take more, or less because there is less now */
    if (d->loaded[i].kv_bytes) d->job.ranks[i].kv_memory_bytes = d->loaded[i].kv_bytes;
    d->job.ranks[i].max_states = d->loaded[i].n_states;
    ret[i] = d->loaded[i];
  }
  /* What is beside may be there by then, and has taken more than was left to it: contexts, work memory */
  d->job.memory_shared |= load->beside_block_bytes > 0;
  d->job.beside_bytes = d->job.beside_block_bytes = 0; /* what that memory is without */
  return TL_OK;
}

/* --- steps: the worker ------------------------------------------------------------------------ */

static void command(struct child_device *d, enum child_command what) {
  d->shared->commands[++d->number % CHILD_COMMANDS] = what;
  child_tell(&d->shared->asked, d->number, &d->shared->child_sleeps);
}

static int device_submit(struct tl_device *device, const struct tl_step *step, struct tl_error *err) {
  struct child_device *d = of(device);
  /* acquire: pairs with the release in device_interrupt */
  if (atomic_load_explicit(&d->interrupted, memory_order_acquire) || !d->shared)
    return tl_error_set(err, TL_EDEVICE, NULL, "%s: its process was ended", d->name);
  uint32_t slot = d->n_submitted % d->layout.n_slots;
  if (!child_put_step(d->shared, &d->layout, &d->job, slot, step))
    return tl_error_set(err, TL_ELIMIT, NULL, "%s: a step is larger than its load allows", d->name);
  d->steps[slot] = step;
  if (d->n_submitted++ == d->n_collected) d->n_steps++; /* else it begins when the one before it has ended well */
  command(d, d->job.runs_ahead ? CHILD_SUBMIT : CHILD_RUN);
  return TL_OK;
}

static bool is_plausible(const struct child_device *d, const struct tl_sampled *s, const struct tl_sampling *asked) {
  int32_t vocab = (int32_t)d->job.vocab_size, most = asked->n_top > 0 ? asked->n_top : 0;
  if (s->token == -1) return true; /* no distribution: nothing else is looked at */
  if (s->token < 0 || s->token >= vocab || s->n_top < 0 || s->n_top > most || isnan(s->logprob)) return false;
  if (asked->target >= 0 && s->token != asked->target) return false;
  for (int32_t i = 0; i < s->n_top; i++)
    if (s->top_tokens[i] < 0 || s->top_tokens[i] >= vocab || isnan(s->top_logprobs[i])) return false;
  return true;
}

/* Vectors that are no numbers are for the engine to see; those that nobody wrote are not. */
static int copy_vectors(struct child_device *d, uint32_t slot, const struct tl_step *s, struct tl_error *err) {
  memcpy(s->vectors, child_at(d->shared, d->layout.vectors + slot * d->layout.slot_bytes), s->n_seqs * d->job.n_out * sizeof *s->vectors);
  child_was_copied();
  for (uint32_t q = 0; q < s->n_seqs; q++) {
    uint32_t bits;
    memcpy(&bits, s->vectors + (size_t)q * d->job.n_out, sizeof bits);
    if (bits == UINT32_MAX) return child_says_nonsense(d, "a vector", err);
  }
  return TL_OK;
}

/* The next answer, of what `slot` asked. */
static int take_answer(struct child_device *d, uint32_t slot, struct tl_sampled *ret_sampled, struct tl_error *err) {
  const struct tl_step *step = d->steps[slot];
  int r;
  do r = child_look(d, d->number, LOOK_NS, err);
  while (r == TL_EBUSY);
  if (r == TL_OK) r = child_read_code(d, err);
  if (r < 0) return r;
  if (step->vectors) return copy_vectors(d, slot, step, err);
  memcpy(ret_sampled, child_at(d->shared, d->layout.sampled + slot * d->layout.slot_bytes), step->n_rows * sizeof *ret_sampled);
  child_was_copied();
  for (uint32_t i = 0; i < step->n_rows; i++)
    if (!is_plausible(d, &ret_sampled[i], &step->sampling[i]))
      return child_says_nonsense(d, "a token", err);
  return TL_OK;
}

static int device_collect(struct tl_device *device, struct tl_sampled *ret_sampled, struct tl_error *err) {
  struct child_device *d = of(device);
  /* acquire: pairs with the release in device_interrupt */
  if (atomic_load_explicit(&d->interrupted, memory_order_acquire) || !d->shared)
    return tl_error_set(err, TL_EDEVICE, NULL, "%s: its process was ended: its step was given up", d->name);
  uint32_t slot = d->n_collected++ % d->layout.n_slots;
  if (d->job.runs_ahead) command(d, CHILD_COLLECT);
  int r = take_answer(d, slot, ret_sampled, err);
  if (r == TL_OK && d->n_submitted != d->n_collected) d->n_steps++; /* the one behind it begins */
  return r;
}

/* --- faults: the monitor ------------------------------------------------------------------------- */

static void device_interrupt(struct tl_device *device) {
  struct child_device *d = of(device);
  char how[64];
  int pid = atomic_load_explicit(&d->pid, memory_order_relaxed); /* not reaped before a reset, which is this thread's */
  if (pid > 0 && !child_has_ended(pid, how, sizeof how)) { /* else the worker shall say of what it died */
    /* release: pairs with the acquire in child_look and device_submit */
    atomic_store_explicit(&d->interrupted, 1, memory_order_release);
    kill(pid, SIGKILL);
  }
  if (d->shared) child_wake(&d->shared->answered); /* a worker that just missed it looks again by itself */
}

/* A new life takes as long as a load, and other devices must not wait for it. */
static void *revive(void *argument) {
  struct child_device *d = argument;
  int r;
  tl_thread_enter("tl-revive", TL_ROLE_NONE);
  if (child_end(d))
    r = child_begin(d, false, &d->revival_error);
  else
    r = tl_error_set(&d->revival_error, TL_EDEVICE, NULL, "%s: its process was killed and does not end", d->name);
  /* release: the new life is there; pairs with the acquire in device_reset */
  atomic_store_explicit(&d->revival, r == TL_OK ? CHILD_REVIVED : CHILD_LOST, memory_order_release);
  return NULL;
}

/* For the log: nobody was inside, perhaps, when it died. */
static void say_why(struct child_device *d, struct tl_error *err) {
  char how[64] = "is there no more";
  int pid = atomic_load_explicit(&d->pid, memory_order_relaxed); /* no reset is under way */
  if (pid > 0 && !child_has_ended(pid, how, sizeof how)) snprintf(how, sizeof how, "is replaced");
  tl_error_set(err, TL_EBUSY, NULL, "%s: its process %s", d->name, how);
}

static int device_reset(struct tl_device *device, struct tl_error *err) {
  struct child_device *d = of(device);
  switch ((enum child_revival)atomic_load_explicit(&d->revival, memory_order_acquire)) { /* pairs with revive */
    case CHILD_NOT_REVIVED:
      say_why(d, err);
      /* relaxed: published to the thread by its creation */
      atomic_store_explicit(&d->revival, CHILD_REVIVING, memory_order_relaxed);
      if (pthread_create(&d->thread, NULL, revive, d) == 0) return TL_EBUSY;
      atomic_store_explicit(&d->revival, CHILD_NOT_REVIVED, memory_order_relaxed); /* own */
      return tl_error_set(err, TL_EIO, NULL, "%s: no thread for its restart", d->name);
    case CHILD_REVIVING: return TL_EBUSY;
    case CHILD_REVIVED:
    case CHILD_LOST: break;
  }
  pthread_join(d->thread, NULL);
  bool lost = atomic_exchange_explicit(&d->revival, CHILD_NOT_REVIVED, memory_order_relaxed) == CHILD_LOST; /* own by now */
  return lost ? tl_error_set(err, TL_EDEVICE, NULL, "%s", d->revival_error.message) : TL_OK;
}

static enum tl_device_health device_health(struct tl_device *device) {
  struct child_device *d = of(device);
  char how[64];
  /* acquire: what reset's thread does is not looked at while it runs; pairs with its release */
  if (atomic_load_explicit(&d->revival, memory_order_acquire) == CHILD_REVIVING) return TL_DEVICE_FAILED;
  int pid = atomic_load_explicit(&d->pid, memory_order_relaxed); /* this thread's resets alone change it */
  if (pid <= 0 || !d->shared || child_has_ended(pid, how, sizeof how)) return TL_DEVICE_FAILED;
  uint32_t says = atomic_load_explicit(&d->shared->health, memory_order_relaxed); /* a flag alone */
  return says > TL_DEVICE_FAILED ? TL_DEVICE_FAILED : (enum tl_device_health)says;
}

#define CHILD_OPS                                                                                                        \
  .name = "child", .open = device_open, .load = device_load, .submit = device_submit, .collect = device_collect,         \
  .close = device_close, .interrupt = device_interrupt, .reset = device_reset, .health = device_health

static const struct tl_device_ops child_device_ops = {CHILD_OPS}, child_ahead_ops = {CHILD_OPS, .runs_ahead = true};

const struct tl_device_ops *tl_device_isolated(const struct tl_device_ops *hosted, unsigned n_ranks) {
  return runs_ahead(hosted, n_ranks) ? &child_ahead_ops : &child_device_ops;
}
