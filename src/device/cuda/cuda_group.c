/* SPDX-License-Identifier: MIT */
/* Ranks on GPUs: one communicator of NCCL, made without blocking and polled, so that a rank that never
 * comes is an error and no hang. Whoever finds an error raises `aborted`; each rank then leaves the
 * communicator by itself, on its own thread (NCCL wants all to abort, and one thread that does it for
 * several may wait for ever). A new one is made by the next reset, with the graphs.
 *
 * What NCCL and CUDA want of such a group, as NCCL's guide and source (2.28) have it:
 * - A call that says "in progress" is a thread of NCCL's that still launches. Until the communicator says success no other call of it is
 *   made, and nothing is put on the stream (settle); who cannot wait for that leaves.
 * - A graph with collectives goes before its communicator: ncclCommAbort waits until all graphs that were recorded of
 *   it, or are being recorded, are destroyed, which CUDA allows while they run (cuda_part_ways, add_graph).
 * - Whether a collective is part of a graph is the same on all ranks, and graphs are launched by all in the same order: steps are.
 *   Graphs and plain launches may be mixed on one communicator (NCCL_GRAPH_MIXING_SUPPORT must stay on).
 * - While a collective waits for a rank, that rank makes no call that may wait for other GPUs, as allocating and freeing may where they
 *   see each other's memory. So around collectives that are no step's the ranks come together (come_together); steps allocate nothing. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device/cuda/cuda_backend.h"
#include "device/cuda/cuda_private.h"
#include "tokenlane/base/clock.h"

#define PATIENCE_NS TL_SEC(60) /* NCCL looks at every link of the machine when ranks meet */
#define SPIN_NS 200000 /* that a call is polled without a pause: a launch takes some 20 us, and a prefill has two a layer */
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

static void pause_since(int64_t began_ns) {
  if (tl_now_ns() - began_ns > SPIN_NS) nanosleep(&(struct timespec){0, NAP_NS}, NULL);
}

/* Waits until what call r began is through: a communicator that does not block says "in progress". An error: the rank has
 * left, so that nothing of NCCL's works for it any more. */
static int settle(struct cuda_device *d, int r, const char *what, struct tl_error *err) {
  int64_t began_ns = tl_now_ns();
  int result = TL_OK;
  while (r == CUDA_NCCL_IN_PROGRESS && result == TL_OK) {
    if (is_aborted(d->group) && !d->recording) /* that waits for no other rank */
      result = closed(d, err);
    else if (tl_now_ns() - began_ns >= d->group->patience_ns)
      result = tl_error_set(err, TL_EDEVICE, NULL, "cuda:%u: %s: the other ranks of the group do not come", d->options.index, what);
    else
      pause_since(began_ns);
    int asked = result == TL_OK ? d->api->nccl.async_error(d->comm, &r) : 0;
    if (asked) r = asked;
  }
  if (result == TL_OK && r) result = nccl_failed(d, r, what, err);
  if (result < 0) cuda_part_ways(d);
  return result;
}

/* Until all ranks have come here. */
static int come_together(struct cuda_device *d, int64_t patience_ns, struct tl_error *err) {
  struct cuda_group *g = d->group;
  int64_t began_ns = tl_now_ns();
  unsigned all = g->size * ++d->n_came;
  atomic_fetch_add_explicit(&g->n_came, 1, memory_order_acq_rel); /* what each did before is done; pairs with the load below */
  while (atomic_load_explicit(&g->n_came, memory_order_acquire) < all) {
    if (is_aborted(g)) return closed(d, err);
    if (tl_now_ns() - began_ns >= patience_ns)
      return tl_error_set(err, TL_EDEVICE, NULL, "cuda:%u: the other ranks of the group do not come", d->options.index);
    pause_since(began_ns);
  }
  return TL_OK;
}

/* --- meeting --------------------------------------------------------------------------------- */

/* Until the collectives on the stream are over. */
static int see_through(struct cuda_device *d, struct tl_error *err) {
  int64_t began_ns = tl_now_ns();
  for (;;) {
    int done = d->api->rt.stream_query(d->stream);
    if (done == CUDA_OK) return TL_OK;
    if (done != CUDA_NOT_READY) return cuda_failed(d, done, "the first collectives", err);
    if (is_aborted(d->group)) return closed(d, err);
    if (tl_now_ns() - began_ns >= d->group->patience_ns)
      return tl_error_set(err, TL_EDEVICE, NULL, "cuda:%u: the first collectives do not end", d->options.index);
    pause_since(began_ns);
  }
}

static int warm_up(struct cuda_device *d, float *p, struct tl_error *err) {
  const struct cuda_nccl *nccl = &d->api->nccl;
  CUDA_TRY(d, d->api->rt.fill(p, 0, (d->group->size + 1) * CUDA_ALIGN, d->stream), "clearing memory", err);
  int r = settle(d, nccl->all_reduce(p, p, 8, CUDA_NCCL_F32, CUDA_NCCL_SUM, d->comm, d->stream), "the first sum", err);
  float *all = p + CUDA_ALIGN / sizeof *p;
  if (r == TL_OK) r = settle(d, nccl->all_gather(p, all, 8, CUDA_NCCL_F32, d->comm, d->stream), "the first gathering", err);
  return r == TL_OK ? see_through(d, err) : r;
}

/* NCCL chooses by size how it sums, and sets up each way when it first takes it: not while a graph is recorded, and with
 * memory that should be there before all of it is ours. */
int cuda_rehearse(struct cuda_device *d, int64_t patience_ns, struct tl_error *err) {
  const struct cuda_limits *l = &d->limits;
  uint32_t logits = cuda_pools(d) ? 0 : l->max_seqs; /* rows of which there are such */
  if (!d->group) return TL_OK;
  CUDA_TRY(d, d->api->rt.fill(d->work.delta, 0, (size_t)l->max_tokens * d->dims.dim * 2, d->stream), "clearing memory", err);
  if (logits) CUDA_TRY(d, d->api->rt.fill(d->work.part, 0, (size_t)logits * d->dims.ld_part * sizeof(float), d->stream), "clearing memory", err);
  int r = come_together(d, patience_ns, err);
  for (uint32_t n = 1; r == TL_OK && n <= l->max_tokens; n *= 2) r = cuda_all_reduce(d, d->work.delta, (size_t)n * d->dims.dim, err);
  for (uint32_t n = 1; r == TL_OK && n <= logits; n *= 2) r = cuda_gather_logits(d, n, err);
  if (r == TL_OK) r = see_through(d, err);
  if (r == TL_OK) r = come_together(d, d->group->patience_ns, err);
  if (r < 0) cuda_part_ways(d); /* as in connect_all */
  return r;
}

static int connect_all(struct cuda_device *d, struct tl_error *err) {
  const struct cuda_group *g = d->group;
  void *memory = NULL;
  int r = settle(d, d->api->nccl.init(&d->comm, (int)g->size, &g->id, (int)d->shard.rank), "making a group", err);
  if (r < 0) return r;
  CUDA_TRY(d, d->api->rt.alloc(&memory, (g->size + 1) * CUDA_ALIGN), "allocating memory", err);
  r = come_together(d, g->patience_ns, err);
  if (r == TL_OK) r = warm_up(d, memory, err);
  if (r == TL_OK) r = come_together(d, g->patience_ns, err);
  if (r < 0) cuda_part_ways(d); /* so that nothing waits in what is freed */
  int freed = d->api->rt.free(memory);
  return r == TL_OK && freed ? cuda_failed(d, freed, "freeing memory", err) : r;
}

int cuda_meet(struct cuda_device *d, struct tl_error *err) {
  if (!d->group->has_id) return tl_error_set(err, TL_EDEVICE, NULL, "cuda:%u: NCCL gives no id for a group", d->options.index);
  d->n_came = 0;
  int r = connect_all(d, err);
  if (r == TL_OK) return TL_OK;
  cuda_group_abort((struct tl_device_group *)(void *)d->group); /* nobody need wait for this rank */
  cuda_part_ways(d);
  return r;
}

void cuda_part_ways(struct cuda_device *d) {
  void *comm = d->comm;
  if (!comm || d->recording) return; /* cuda_graph.c does it when the graph is gone */
  cuda_free_graphs(d); /* else the abort waits for their end */
  d->comm = NULL;
  d->api->nccl.abort(comm);
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

int cuda_sum_floats(struct cuda_device *d, float *p, size_t count, struct tl_error *err) {
  if (!d->group) return TL_OK;
  return settle(d, d->api->nccl.all_reduce(p, p, count, CUDA_NCCL_F32, CUDA_NCCL_SUM, d->comm, d->stream), "a sum of squares", err);
}

int cuda_gather_logits(struct cuda_device *d, uint32_t n, struct tl_error *err) {
  const struct cuda_dims *s = &d->dims;
  size_t count = (size_t)n * s->ld_part, line = s->ld_logits * sizeof(float), from = s->ld_part * sizeof(float);
  int r = settle(d, d->api->nccl.all_gather(d->work.part, d->work.gathered, count, CUDA_NCCL_F32, d->comm, d->stream),
                 "gathering logits", err);
  for (unsigned rank = 0; r == TL_OK && rank < d->group->size; rank++) {
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

/* Ranks draw for themselves and must draw the same, to the bit: one machine code on one kind of arithmetic. */
static int check_kind(struct cuda_device *d, struct tl_error *err) {
  int first = 0, own = 10 * d->info.major + d->info.minor;
  /* relaxed: a number alone */
  if (atomic_compare_exchange_strong_explicit(&d->group->capability, &first, own, memory_order_relaxed, memory_order_relaxed)) return TL_OK;
  if (first == own) return TL_OK;
  return tl_error_set(err, TL_EUNSUPPORTED, "engine.tensor_parallel",
                      "engine.tensor_parallel: cuda:%u has compute capability %d.%d, another GPU of its replica %d.%d: such cannot share a model",
                      d->options.index, own / 10, own % 10, first / 10, first % 10);
}

int cuda_group_join(struct tl_device *device, struct tl_device_group *group, unsigned rank, struct tl_error *err) {
  struct cuda_device *d = (struct cuda_device *)(void *)device;
  d->group = group_of(group);
  d->shard = (struct tl_shard){.rank = rank, .size = d->group->size};
  int r = check_kind(d, err), used = d->api->rt.use((int)d->options.index);
  if (r == TL_OK && used) r = cuda_failed(d, used, "choosing the device", err);
  if (r == TL_OK) return cuda_meet(d, err);
  cuda_group_abort(group); /* nobody need wait for this rank */
  return r;
}

void cuda_group_abort(struct tl_device_group *group) {
  /* ranks see it in their next look; pairs with is_aborted */
  atomic_store_explicit(&group_of(group)->aborted, true, memory_order_release);
}

void cuda_group_restore(struct tl_device_group *group) {
  struct cuda_group *g = group_of(group);
  g->has_id = g->api->nccl.unique_id(&g->id) == CUDA_NCCL_OK;
  atomic_store_explicit(&g->n_came, 0, memory_order_relaxed); /* as the next */
  /* pairs with is_aborted; the threads of the resets that follow begin after it */
  atomic_store_explicit(&g->aborted, false, memory_order_release);
}

void cuda_group_free(struct tl_device_group *group) {
  free(group_of(group));
}
