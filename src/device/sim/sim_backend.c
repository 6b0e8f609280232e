/* SPDX-License-Identifier: MIT */
/* The simulated device behind the device table: see tokenlane/sim.h. */
#include <stdlib.h>

#include "device/sim/sim_private.h"
#include "tokenlane/base/clock.h"

#define MOST_BLOCKS 65536         /* where the configuration leaves it open: a million tokens */
#define MOST_STEP_NS TL_SEC(3600) /* a factor must not overflow */

static void device_close(struct tl_device *device) {
  struct sim_device *d = (struct sim_device *)(void *)device;
  if (!d) return;
  free(d->blocks);
  free(d->states);
  free(d->faults);
  free(d->fed);
  free(d->drawn);
  free(d);
}

static int device_open(const struct tl_device_options *options, struct tl_device **ret, struct tl_error *err) {
  static const struct tl_sim_options standard = {.base_ns = TL_MS(5), .per_token_ns = 20000, .per_block_ns = 100};
  struct sim_device *d = aligned_alloc(TL_CACHE_LINE, sizeof *d);
  if (!d) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  *d = (struct sim_device){.ops = &sim_device_ops,
                           .options = options->sim ? *options->sim : standard,
                           .index = options->index};
  int r = sim_faults_open(d, options->sim ? options->sim : &standard, err);
  if (r < 0) {
    device_close((struct tl_device *)(void *)d);
    return r;
  }
  *ret = (struct tl_device *)(void *)d;
  return TL_OK;
}

static int make_blocks(struct sim_device *d, struct tl_error *err) {
  uint64_t one = tl_blocks_of(d->load.max_context);
  uint64_t n = one * d->load.max_batch_size;
  if (n > MOST_BLOCKS) n = one > MOST_BLOCKS ? one : MOST_BLOCKS;
  if (d->options.n_kv_blocks) n = d->options.n_kv_blocks;
  if (d->load.n_blocks) n = d->load.n_blocks;
  if (n < one)
    return tl_error_set(err, TL_ENOMEM, "sim.kv_blocks",
                        "sim.kv_blocks: expected at least %llu for a context of %u tokens, got %llu; lower "
                        "engine.max_context or give more",
                        (unsigned long long)one, d->load.max_context, (unsigned long long)n);
  free(d->blocks); /* after a reset a device may be loaded again */
  free(d->states);
  free(d->fed);
  free(d->drawn);
  d->states = calloc((size_t)d->load.max_states + 1, sizeof *d->states);
  d->fed = calloc(d->load.max_batch_size, sizeof *d->fed);
  d->drawn = calloc(d->load.max_batch_size, sizeof *d->drawn);
  d->blocks = calloc(n, sizeof *d->blocks);
  d->n_blocks = (uint32_t)n;
  return d->blocks && d->states && d->fed && d->drawn ? TL_OK : tl_error_set(err, TL_ENOMEM, "sim.kv_blocks", "sim.kv_blocks: no memory for %u", d->n_blocks);
}

static int device_load(struct tl_device *device, const struct tl_device_load *load, struct tl_device_loaded *ret,
                       struct tl_error *err) {
  struct sim_device *d = (struct sim_device *)(void *)device;
  d->load = *load;
  int r = sim_faults_load(d, err);
  if (r == TL_OK && load->model->pooling == TL_POOL_NONE) r = make_blocks(d, err);
  if (r == TL_OK) *ret = (struct tl_device_loaded){.n_blocks = d->n_blocks, .n_states = load->max_states, .kv_bytes = d->n_blocks * sizeof *d->blocks};
  return r;
}

static int closed(const struct sim_device *d, struct tl_error *err) {
  return tl_error_set(err, TL_ECLOSED, NULL, "sim:%u: the group gave the step up", d->index);
}

static int begin_step(struct sim_device *d, const struct tl_step *step, int64_t now_ns, struct tl_error *err) {
  int r = sim_faults_step(d, err);
  if (r < 0) return r;
  double took_ns = (double)tl_sim_step_ns(&d->options, step->n_tokens, sim_count_blocks(step)) * d->slow;
  d->deadline_ns = now_ns + (took_ns < (double)MOST_STEP_NS ? (int64_t)took_ns : MOST_STEP_NS);
  if (d->hang) d->deadline_ns = d->hang_ns ? d->deadline_ns + d->hang_ns : INT64_MAX;
  return TL_OK;
}

static int was_reset(const struct sim_device *d, struct tl_error *err) {
  return tl_error_set(err, TL_EDEVICE, NULL, "sim:%u was reset in step %llu", d->index, (unsigned long long)d->n_steps);
}

/* Behind the step under way, unless a reset has given that up. */
static int queue_step(struct sim_device *d, const struct tl_step *step, int64_t now_ns, struct tl_error *err) {
  /* acquire: pairs with the release in sim_wake */
  if (atomic_load_explicit(&d->resets, memory_order_acquire) == d->seen_resets) {
    d->queued = step;
    d->queued_ns = now_ns;
    return TL_OK;
  }
  d->step = NULL;
  return was_reset(d, err);
}

static int device_submit(struct tl_device *device, const struct tl_step *step, struct tl_error *err) {
  struct sim_device *d = (struct sim_device *)(void *)device;
  int64_t now_ns = tl_now_ns();
  if (d->group && device_meet_is_aborted(&d->group->meet)) {
    d->step = NULL; /* nobody collects the one before any more */
    return closed(d, err);
  }
  if (d->step) return queue_step(d, step, now_ns, err);
  d->begun = TL_OK;
  int r = begin_step(d, step, now_ns, err);
  d->step = r == TL_OK ? step : NULL;
  return r;
}

/* The step is over, well or not: the one behind it begins, or is given up with it. */
static void next_step(struct sim_device *d, int result, const struct tl_sampled *sampled) {
  d->n_fed = result == TL_OK && !d->step->vectors ? d->step->n_rows : 0;
  for (uint32_t i = 0; i < d->n_fed; i++) d->fed[i] = sampled[i].token;
  d->step = result == TL_OK ? d->queued : NULL;
  d->queued = NULL;
  /* a worker that was late with it must not catch up: the device was idle until then */
  int64_t now_ns = d->queued_ns > d->deadline_ns ? d->queued_ns : d->deadline_ns;
  if (d->step) d->begun = begin_step(d, d->step, now_ns, &d->begin_error);
}

/* The step is over when it is on all ranks, and what was wrong with one's part is with all: they draw the same. */
static int meet_others(struct sim_device *d, struct tl_sampled *ret_sampled, struct tl_error *err) {
  struct sim_group *g = d->group;
  atomic_store_explicit(&g->wrong[d->rank], d->corrupt, memory_order_relaxed); /* published by the meeting */
  if (!device_meet_wait(&g->meet)) return closed(d, err);
  bool wrong = false, own = d->corrupt;
  for (unsigned i = 0; i < g->meet.n; i++) wrong |= atomic_load_explicit(&g->wrong[i], memory_order_relaxed); /* likewise */
  if (!wrong || own) return TL_OK;
  d->corrupt = true;
  int r = sim_run(d, ret_sampled, err);
  d->corrupt = own;
  return r;
}

/* The little that there is to compute fits into the time that the step takes. */
static int finish_step(struct sim_device *d, struct tl_sampled *ret_sampled, struct tl_error *err) {
  if (d->begun < 0) {
    *err = d->begin_error;
    return d->begun;
  }
  int r = sim_run(d, ret_sampled, err);
  if (r < 0) { /* sticky, as an illegal address is on a GPU */
    d->broken = true;
    sim_sicken(d, 1);
  }
  if (sim_wait(&d->resets, d->seen_resets, d->deadline_ns))
    return was_reset(d, err);
  if (r == TL_OK && d->broken)
    r = tl_error_set(err, TL_EDEVICE, NULL, "sim:%u: simulated fault: step %llu failed", d->index,
                     (unsigned long long)d->n_steps);
  return r == TL_OK && d->group ? meet_others(d, ret_sampled, err) : r;
}

static int device_collect(struct tl_device *device, struct tl_sampled *ret_sampled, struct tl_error *err) {
  struct sim_device *d = (struct sim_device *)(void *)device;
  if (!ret_sampled) ret_sampled = d->drawn; /* other ranks than the first need it too, for the step behind this one */
  int r = finish_step(d, ret_sampled, err);
  next_step(d, r, ret_sampled);
  return r;
}

static int device_reset(struct tl_device *device, struct tl_error *err) {
  struct sim_device *d = (struct sim_device *)(void *)device;
  /* acquire and acq_rel: pair with the worker's release stores of `sick` */
  uint32_t sick = atomic_load_explicit(&d->sick, memory_order_acquire);
  while (sick && sick != TL_SIM_NEVER &&
         !atomic_compare_exchange_weak_explicit(&d->sick, &sick, sick - 1, memory_order_acq_rel, memory_order_acquire)) {
  }
  if (sick <= 1) atomic_store_explicit(&d->health, TL_DEVICE_WELL, memory_order_relaxed); /* a flag alone */
  sim_wake(&d->resets); /* after `sick`: who sees the one sees the other */
  return sick <= 1 ? TL_OK : tl_error_set(err, TL_EDEVICE, NULL, "sim:%u does not come back", d->index);
}

static enum tl_device_health device_health(struct tl_device *device) {
  struct sim_device *d = (struct sim_device *)(void *)device;
  return (enum tl_device_health)atomic_load_explicit(&d->health, memory_order_relaxed); /* a flag alone */
}

const struct tl_device_ops sim_device_ops = {.name = "sim",
                                             .simulated = true,
                                             .runs_ahead = true,
                                             .open = device_open,
                                             .load = device_load,
                                             .submit = device_submit,
                                             .collect = device_collect,
                                             .close = device_close,
                                             .reset = device_reset,
                                             .health = device_health,
                                             .group = &sim_group_ops};
