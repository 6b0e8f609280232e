/* SPDX-License-Identifier: MIT */
/* The CUDA backend behind the device table: opening, loading, waiting, giving up. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "device/cuda/cuda_backend.h"
#include "device/cuda/cuda_private.h"
#include "tokenlane/base/clock.h"

#define SPIN_NS 100000           /* a decode step's own order of time */
#define NAP_NS 20000
#define END_NS TL_SEC(2)         /* that a step may take to end once it was given up */

static void nap(long ns) {
  static _Thread_local bool is_sharp;
  if (!is_sharp) prctl(PR_SET_TIMERSLACK, 1ul); /* else 50 us are added */
  is_sharp = true;
  nanosleep(&(struct timespec){0, ns}, NULL);
}

/* --- errors ------------------------------------------------------------------------------------ */

int cuda_is_dead(struct cuda_device *d, struct tl_error *err) {
  int r = atomic_load_explicit(&d->dead, memory_order_relaxed); /* set for good, by whoever calls this or long before */
  return tl_error_set(err, TL_EDEVICE, NULL, "cuda:%u: the GPU's context is lost until this process ends: %s (%d)",
                      d->options.index, d->api->rt.text(r), r);
}

/* The errors after which CUDA wants the process to end (driver_types.h: "must be terminated and
 * relaunched"), and those of a context that is gone or of memory that lost what it held. */
static bool is_for_good(int r) {
  static const int codes[] = {CUDA_ECC_UNCORRECTABLE, CUDA_NVLINK_UNCORRECTABLE, CUDA_CONTAINED, CUDA_ILLEGAL_ADDRESS,
                              CUDA_LAUNCH_TIMEOUT, CUDA_CONTEXT_IS_DESTROYED, CUDA_ASSERT, CUDA_HARDWARE_STACK_ERROR,
                              CUDA_ILLEGAL_INSTRUCTION, CUDA_MISALIGNED_ADDRESS, CUDA_INVALID_ADDRESS_SPACE, CUDA_INVALID_PC,
                              CUDA_LAUNCH_FAILURE, CUDA_TENSOR_MEMORY_LEAK, CUDA_MPS_CLIENT_TERMINATED, CUDA_EXTERNAL_DEVICE};
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
    if (codes[i] == r) return true;
  return false;
}

int cuda_failed(struct cuda_device *d, int r, const char *what, struct tl_error *err) {
  d->api->rt.clear();
  if (is_for_good(r)) atomic_store_explicit(&d->dead, r, memory_order_relaxed); /* as in cuda_is_dead */
  return tl_error_set(err, r == CUDA_OUT_OF_MEMORY ? TL_ENOMEM : TL_EDEVICE, NULL, "cuda:%u: %s: %s (%d)", d->options.index,
                      what, d->api->rt.text(r), r);
}

static int no_driver(const struct cuda_api *api, int r, struct tl_error *err) {
  const char *what = r == CUDA_DRIVER_TOO_OLD || r == CUDA_NO_DEVICE ? "no NVIDIA driver" : "the NVIDIA driver fails";
  return tl_error_set(err, TL_EUNSUPPORTED, "devices", "devices: %s: %s", what, api->rt.text(r));
}

int cuda_probe(const struct cuda_api *api, unsigned *ret, struct tl_error *err) {
  int n = 0, r = api->rt.count(&n);
  if (r || n < 0) return no_driver(api, r, err);
  *ret = (unsigned)n;
  return TL_OK;
}

/* --- life ---------------------------------------------------------------------------------------- */

/* Waits until nothing runs; CUDA_NOT_READY: something hangs. */
static int come_to_rest(struct cuda_device *d) {
  int64_t deadline_ns = tl_now_ns() + END_NS;
  for (;;) {
    int r = d->api->rt.stream_query(d->stream);
    if (r != CUDA_NOT_READY || tl_now_ns() >= deadline_ns) return r;
    nap(1000000);
  }
}

void cuda_close(struct tl_device *device) {
  struct cuda_device *d = (struct cuda_device *)(void *)device;
  if (!d) return;
  if (d->stream) d->api->rt.use((int)d->options.index);
  cuda_part_ways(d); /* what waits for other ranks ends */
  /* freeing waits for what runs: what hangs keeps its memory until the process ends */
  if (!d->stream || come_to_rest(d) != CUDA_NOT_READY) {
    cuda_free_graphs(d);
    cuda_free_sdpa(d);
    cuda_free_products(d);
    cuda_free_memory(d);
    if (d->done) d->api->rt.event_free(d->done);
    for (unsigned i = 0; i < 2; i++)
      if (d->slots[i].done) d->api->rt.event_free(d->slots[i].done);
    if (d->stream) d->api->rt.stream_free(d->stream);
  }
  cuda_free_adapters(d);
  free(d->plan);
  free(d);
}

static int open_parts(struct cuda_device *d, struct tl_error *err) {
  const struct cuda_runtime *rt = &d->api->rt;
  unsigned n = 0;
  int r = cuda_probe(d->api, &n, err);
  if (r < 0) return r;
  if (d->options.index >= n)
    return tl_error_set(err, TL_EINVAL, "devices", "devices: cuda:%u: there %s %u GPU%s", d->options.index, n == 1 ? "is" : "are",
                        n, n == 1 ? "" : "s");
  CUDA_TRY(d, rt->info((int)d->options.index, &d->info), "asking what it is", err);
  if (d->info.major < 8)
    return tl_error_set(err, TL_EUNSUPPORTED, "devices", "devices: cuda:%u: a %s has compute capability %d.%d, 8.0 is needed",
                        d->options.index, d->info.name, d->info.major, d->info.minor);
  r = d->api->open_lt(err);
  if (r < 0) return r;
  CUDA_TRY(d, rt->use((int)d->options.index), "choosing the device", err);
  CUDA_TRY(d, rt->stream_new(&d->stream), "making a stream", err);
  CUDA_TRY(d, rt->event_new(&d->done), "making an event", err);
  for (unsigned i = 0; i < 2; i++) CUDA_TRY(d, rt->event_new(&d->slots[i].done), "making an event", err);
  CUDA_TRY(d, d->api->op.prepare(), "preparing the kernels", err);
  return TL_OK;
}

int cuda_open(const struct cuda_api *api, const struct tl_device_ops *ops, const struct tl_device_options *options,
              struct tl_device **ret, struct tl_error *err) {
  struct cuda_device *d = calloc(1, sizeof *d);
  if (!d) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  d->ops = ops;
  d->api = api;
  d->options = *options;
  d->shard.size = 1;
  d->tile_bytes = CUDA_TILE_BYTES;
  d->choose_ns = CUDA_CHOOSE_NS;
  int r = open_parts(d, err);
  if (r < 0) {
    cuda_close((struct tl_device *)(void *)d);
    return r;
  }
  *ret = (struct tl_device *)(void *)d;
  return TL_OK;
}

/* CUDA says 0000:3b:00.0, NVML 00000000:3B:00.0. */
static void name_gpu(const struct cuda_device *d, char ret[TL_GPU_ID]) {
  unsigned domain, bus, device, function;
  if (sscanf(d->info.bus, "%x:%x:%x.%x", &domain, &bus, &device, &function) == 4)
    snprintf(ret, TL_GPU_ID, "%08X:%02X:%02X.%X", domain, bus & 0xff, device & 0xff, function & 0xf);
}

static int load_all(struct cuda_device *d, const struct tl_device_load *load, struct tl_error *err) {
  d->keeps_bytes = tl_device_kv_dtype(load) == TL_DTYPE_F8_E4M3;
  if (d->keeps_bytes && d->model->n_latent)
    return tl_error_set(err, TL_EUNSUPPORTED, "engine.kv_dtype", "engine.kv_dtype: a GPU keeps the latents of a %.40s model in 16 bits; expected auto",
                        d->model->architecture);
  CUDA_TRY(d, d->api->rt.use((int)d->options.index), "choosing the device", err);
  int r = cuda_make_plan(d, err);
  if (r == TL_OK) r = cuda_make_adapters(d, err);
  if (r == TL_OK) r = cuda_make_memory(d, load, err);
  if (r == TL_OK) r = cuda_load_weights(d, load, err);
  if (r == TL_OK) r = cuda_make_products(d, err);
  if (r == TL_OK && load->cudnn && !cuda_pools(d) && !d->keeps_bytes) r = cuda_make_sdpa(d, err);
  if (r == TL_OK) r = cuda_rehearse(d, INT64_MAX, err); /* weights take what they take; a rank that fails lets the others go */
  return r == TL_OK && !cuda_pools(d) ? cuda_make_graphs(d, err) : r;
}

int cuda_load(struct tl_device *device, const struct tl_device_load *load, struct tl_device_loaded *ret, struct tl_error *err) {
  struct cuda_device *d = (struct cuda_device *)(void *)device;
  d->model = load->model;
  int r = load_all(d, load, err);
  if (r < 0 && d->group) cuda_group_abort((struct tl_device_group *)(void *)d->group); /* nobody need wait for this rank */
  if (r < 0) return r;
  *ret = (struct tl_device_loaded){.n_blocks = d->n_kv_blocks, .n_states = d->n_states, .kv_bytes = d->kv_bytes,
                                   .weight_bytes = d->weight_bytes};
  name_gpu(d, ret->gpu);
  cuda_name_sdpa(d, ret->attention, sizeof ret->attention);
  return TL_OK;
}

/* --- steps ------------------------------------------------------------------------------------------- */

int cuda_submit_step(struct tl_device *device, const struct tl_step *step, struct tl_error *err) {
  return cuda_submit((struct cuda_device *)(void *)device, step, err);
}

/* Polls, so that an interrupt ends the wait even when the device hangs. */
int cuda_wait_for(struct cuda_device *d, void *done, struct tl_error *err) {
  int64_t began_ns = tl_now_ns();
  for (;;) {
    int r = d->api->rt.event_query(done);
    if (r == CUDA_OK) return TL_OK;
    if (r != CUDA_NOT_READY) return cuda_failed(d, r, "a step", err);
    /* pairs with the release of reset and interrupt */
    if (atomic_load_explicit(&d->resets, memory_order_acquire) != d->resets_seen) {
      cuda_part_ways(d); /* here: each rank on its own thread */
      return tl_error_set(err, TL_EDEVICE, NULL, "cuda:%u: the step was given up", d->options.index);
    }
    if (d->group) {
      r = cuda_look_at_group(d, err);
      if (r < 0) return r;
    }
    if (tl_now_ns() - began_ns > SPIN_NS) nap(NAP_NS);
  }
}

int cuda_collect(struct tl_device *device, struct tl_sampled *ret_sampled, struct tl_error *err) {
  struct cuda_device *d = (struct cuda_device *)(void *)device;
  const struct cuda_slot *slot = &d->slots[d->oldest];
  int r = cuda_wait_for(d, slot->done, err);
  if (r < 0) {
    d->n_under_way = 0; /* the one behind it is given up, too */
    return r;
  }
  d->oldest ^= 1;
  d->busy = --d->n_under_way > 0;
  if (slot->to)
    memcpy(slot->to, slot->vectors, slot->n_rows * d->model->n_out * sizeof *slot->to);
  else if (ret_sampled)
    memcpy(ret_sampled, slot->sampled, slot->n_rows * sizeof *ret_sampled);
  return TL_OK;
}

static int restart(struct cuda_device *d, struct tl_error *err) {
  if (atomic_load_explicit(&d->dead, memory_order_relaxed)) return cuda_is_dead(d, err); /* relaxed: only ever set */
  CUDA_TRY(d, d->api->rt.use((int)d->options.index), "choosing the device", err);
  int r = d->memory ? cuda_clear_counters(d, err) : TL_OK; /* behind the step that was given up, whatever it has counted */
  if (r < 0) return r;
  r = come_to_rest(d);
  if (r == CUDA_NOT_READY)
    return tl_error_set(err, TL_EDEVICE, NULL, "cuda:%u: the GPU does not end its step", d->options.index);
  CUDA_TRY(d, r, "the step that was given up", err);
  if (!d->group) return TL_OK;
  r = cuda_meet(d, err);
  if (r == TL_OK) r = cuda_rehearse(d, d->group->patience_ns, err);
  return r < 0 || cuda_pools(d) ? r : cuda_make_graphs(d, err);
}

/* Whoever waits leaves, and what it waited for stays where it is: the rest is the reset's. */
void cuda_interrupt(struct tl_device *device) {
  struct cuda_device *d = (struct cuda_device *)(void *)device;
  atomic_store_explicit(&d->interrupted, true, memory_order_relaxed); /* published by the next */
  /* ends the collect under way; pairs with the acquire of submit and collect */
  atomic_fetch_add_explicit(&d->resets, 1, memory_order_release);
}

int cuda_reset(struct tl_device *device, struct tl_error *err) {
  struct cuda_device *d = (struct cuda_device *)(void *)device;
  atomic_store_explicit(&d->interrupted, false, memory_order_relaxed); /* published by the next */
  /* pairs with the acquire of submit and collect */
  atomic_fetch_add_explicit(&d->resets, 1, memory_order_release);
  d->api->rt.use((int)d->options.index);
  cuda_part_ways(d); /* what waits for other ranks ends */
  int r = restart(d, err);
  if (r < 0 && d->group) cuda_group_abort((struct tl_device_group *)(void *)d->group); /* nobody need wait for this rank */
  if (r == TL_OK || !atomic_load_explicit(&d->dead, memory_order_relaxed)) return r; /* relaxed: only ever set */
  cuda_is_dead(d, err); /* also when this reset was the first to see it */
  return TL_EUNSUPPORTED;
}
