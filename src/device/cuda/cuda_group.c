/* SPDX-License-Identifier: MIT */
/* Ranks on GPUs: one communicator of NCCL, made without blocking and polled, so that a rank that never
 * comes is an error and no hang. Whoever finds an error raises `aborted`; each rank then leaves the
 * communicator by itself, on its own thread (NCCL wants all to abort, and one thread that does it for
 * several may wait for ever). A new one is made by the next reset, with the graphs, which hold the old one. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device/cuda/cuda_backend.h"
#include "device/cuda/cuda_private.h"
#include "tokenlane/base/clock.h"

#define PATIENCE_NS TL_SEC(60) /* NCCL looks at every link of the machine when ranks meet */
#define NAP_NS 50000

static struct cuda_group *group_of(struct tl_device_group *group) {
  return (struct cuda_group *)(void *)group;
}

static bool is_aborted(const struct cuda_group *g) {
  return atomic_load_explicit(&g->aborted, memory_order_acquire); /* pairs with cuda_group_abort */
}

/* --- errors ------------------------------------------------------------------------------- */

static int closed(struct cuda_device *d, struct tl_error *err) {
  return tl_error_set(err, TL_ECLOSED, NULL, "cuda:%u: the group gave the step up", d->options.index);
}

static int nccl_failed(struct cuda_device *d, int r, const char *what, struct tl_error *err) {
  return tl_error_set(err, TL_EDEVICE, NULL, "cuda:%u: NCCL: %s: %s (%d)", d->options.index, what, d->api->nccl.text(r), r);
}

/* Waits until what call r began is through: a communicator that does not block says "in progress". */
static int settle(struct cuda_device *d, int r, const char *what, struct tl_error *err) {
  int64_t deadline_ns = tl_now_ns() + d->group->patience_ns;
  while (r == CUDA_NCCL_IN_PROGRESS) {
    if (is_aborted(d->group)) return closed(d, err);
    if (tl_now_ns() >= deadline_ns)
      return tl_error_set(err, TL_EDEVICE, NULL, "cuda:%u: %s: the other ranks of the group do not come", d->options.index, what);
    nanosleep(&(struct timespec){0, NAP_NS}, NULL);
    int asked = d->api->nccl.async_error(d->comm, &r);
    if (asked) r = asked;
  }
  return r ? nccl_failed(d, r, what, err) : TL_OK;
}

/* --- meeting --------------------------------------------------------------------------------- */

/* The first collectives set up connections, which must not happen while a graph is recorded. */
static int warm_up(struct cuda_device *d, float *p, struct tl_error *err) {
  const struct cuda_nccl *nccl = &d->api->nccl;
  const struct cuda_runtime *rt = &d->api->rt;
  int64_t deadline_ns = tl_now_ns() + d->group->patience_ns;
  CUDA_TRY(d, rt->fill(p, 0, (d->group->size + 1) * CUDA_ALIGN, d->stream), "clearing memory", err);
  int r = settle(d, nccl->all_reduce(p, p, 8, CUDA_NCCL_F32, CUDA_NCCL_SUM, d->comm, d->stream), "the first sum", err);
  float *all = p + CUDA_ALIGN / sizeof *p;
  if (r == TL_OK) r = settle(d, nccl->all_gather(p, all, 8, CUDA_NCCL_F32, d->comm, d->stream), "the first gathering", err);
  while (r == TL_OK) {
    int done = rt->stream_query(d->stream);
    if (done == CUDA_OK) break;
    if (done != CUDA_NOT_READY) return cuda_failed(d, done, "the first collectives", err);
    if (is_aborted(d->group)) return closed(d, err);
    if (tl_now_ns() >= deadline_ns)
      return tl_error_set(err, TL_EDEVICE, NULL, "cuda:%u: the first collectives do not end", d->options.index);
    nanosleep(&(struct timespec){0, NAP_NS}, NULL);
  }
  return r;
}

static int connect_all(struct cuda_device *d, struct tl_error *err) {
  const struct cuda_group *g = d->group;
  void *memory = NULL;
  int r = settle(d, d->api->nccl.init(&d->comm, (int)g->size, &g->id, (int)d->shard.rank), "making a group", err);
  if (r < 0) return r;
  CUDA_TRY(d, d->api->rt.alloc(&memory, (g->size + 1) * CUDA_ALIGN), "allocating memory", err);
  r = warm_up(d, memory, err);
  if (r < 0) cuda_part_ways(d); /* so that nothing waits in what is freed */
  int freed = d->api->rt.free(memory);
  return r == TL_OK && freed ? cuda_failed(d, freed, "freeing memory", err) : r;
}

int cuda_meet(struct cuda_device *d, struct tl_error *err) {
  if (!d->group->has_id) return tl_error_set(err, TL_EDEVICE, NULL, "cuda:%u: NCCL gives no id for a group", d->options.index);
  int r = connect_all(d, err);
  if (r == TL_OK) return TL_OK;
  cuda_group_abort((struct tl_device_group *)(void *)d->group); /* nobody need wait for this rank */
  cuda_part_ways(d);
  return r;
}

void cuda_part_ways(struct cuda_device *d) {
  if (d->comm) d->api->nccl.abort(d->comm);
  d->comm = NULL;
}

int cuda_look_at_group(struct cuda_device *d, struct tl_error *err) {
  int state = CUDA_NCCL_OK;
  if (!d->comm || is_aborted(d->group)) {
    cuda_part_ways(d);
    return closed(d, err);
  }
  int r = d->api->nccl.async_error(d->comm, &state);
  if (!r && (state == CUDA_NCCL_OK || state == CUDA_NCCL_IN_PROGRESS)) return TL_OK;
  cuda_part_ways(d);
  return nccl_failed(d, r ? r : state, "a step", err);
}

/* --- collectives ---------------------------------------------------------------------------------- */

int cuda_all_reduce(struct cuda_device *d, char *p, size_t count, struct tl_error *err) {
  if (!d->group) return TL_OK;
  int type = d->dtype == TL_CUDA_BF16 ? CUDA_NCCL_BF16 : CUDA_NCCL_F16;
  return settle(d, d->api->nccl.all_reduce(p, p, count, type, CUDA_NCCL_SUM, d->comm, d->stream), "a sum", err);
}

int cuda_gather_logits(struct cuda_device *d, uint32_t n, struct tl_error *err) {
  const struct cuda_dims *s = &d->dims;
  size_t count = (size_t)n * s->ld_part, line = s->ld_logits * sizeof(float), from = s->ld_part * sizeof(float);
  int r = settle(d, d->api->nccl.all_gather(d->work.part, d->work.gathered, count, CUDA_NCCL_F32, d->comm, d->stream),
                 "gathering logits", err);
  for (unsigned rank = 0; r == TL_OK && d->shard.rank == 0 && rank < d->group->size; rank++) {
    uint32_t first = d->vocab_cuts[rank], tokens = d->vocab_cuts[rank + 1] - first;
    CUDA_TRY(d, d->api->rt.copy_rows(d->work.logits + first, line, d->work.gathered + rank * count, from, tokens * sizeof(float),
                                     n, d->stream),
             "putting logits together", err);
  }
  return r;
}

/* --- the group ------------------------------------------------------------------------------------- */

int cuda_group_make(const struct cuda_api *api, unsigned size, struct tl_device_group **ret, struct tl_error *err) {
  int r = api->open_nccl(err);
  if (r < 0) return r;
  struct cuda_group *g = calloc(1, sizeof *g);
  if (!g) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  g->api = api;
  g->size = size;
  g->patience_ns = PATIENCE_NS;
  g->has_id = api->nccl.unique_id(&g->id) == CUDA_NCCL_OK;
  *ret = (struct tl_device_group *)(void *)g;
  return TL_OK;
}

int cuda_group_join(struct tl_device *device, struct tl_device_group *group, unsigned rank, struct tl_error *err) {
  struct cuda_device *d = (struct cuda_device *)(void *)device;
  d->group = group_of(group);
  d->shard = (struct tl_shard){.rank = rank, .size = d->group->size};
  int r = d->api->rt.use((int)d->options.index);
  if (r) {
    cuda_group_abort(group);
    return cuda_failed(d, r, "choosing the device", err);
  }
  return cuda_meet(d, err);
}

void cuda_group_abort(struct tl_device_group *group) {
  /* ranks see it in their next look; pairs with is_aborted */
  atomic_store_explicit(&group_of(group)->aborted, true, memory_order_release);
}

void cuda_group_restore(struct tl_device_group *group) {
  struct cuda_group *g = group_of(group);
  g->has_id = g->api->nccl.unique_id(&g->id) == CUDA_NCCL_OK;
  /* pairs with is_aborted; the threads of the resets that follow begin after it */
  atomic_store_explicit(&g->aborted, false, memory_order_release);
}

void cuda_group_free(struct tl_device_group *group) {
  free(group_of(group));
}
