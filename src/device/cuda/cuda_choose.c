/* SPDX-License-Identifier: MIT */
/* Which of cuBLASLt's algorithms computes a product: of those that its heuristic names for a shape and a
 * bucket of rows, the one that is fastest here, on the model's own weights. Chosen at load and kept: a step never
 * chooses. What a small product reads may still be in the cache from the run before; that is so for all of them.
 * After CHOOSE_NS the heuristic's first is taken without being timed, so a large model starts in time. */
#include <float.h>

#include "device/cuda/cuda_private.h"
#include "tokenlane/base/clock.h"

#define CHOOSE_NS TL_SEC(2)
#define CANDIDATES 8
#define RUNS 3 /* that are timed, after one that is not */

struct chooser {
  struct cuda_device *d;
  void *preference;
  void *before, *after; /* events that know the time */
  int64_t end_ns;
};

/* Of weights that are stored otherwise, where they are written out; what lies there before is as good. */
static const char *weights_of(const struct cuda_device *d, const struct cuda_product *p) {
  for (uint32_t i = 0; i < d->n_plan; i++) {
    const struct cuda_matrix *w = &d->plan[i].w;
    for (unsigned k = 0; k < w->n_pieces; k++)
      if (w->pieces[k].tile == p->n && w->k == p->k) return w->pieces[k].format == TL_CUDA_W16 ? w->pieces[k].data : d->work.tile;
  }
  return NULL;
}

/* Rows for which this shape is never asked: logits are wanted of one row a sequence. */
static bool is_too_many(const struct cuda_device *d, const struct cuda_product *p, unsigned bucket) {
  return p->float_out && bucket > 0 && d->products.buckets[bucket - 1] >= d->limits.max_seqs;
}

/* *ret_ms of RUNS; FLT_MAX: it cannot do this product. */
static int time_one(struct chooser *c, struct cuda_product *p, uint64_t m, const char *w,
                    const struct cuda_lt_algorithm *algorithm, float *ret_ms, struct tl_error *err) {
  struct cuda_device *d = c->d;
  const struct cuda_runtime *rt = &d->api->rt;
  char *x = (char *)d->work.x, *y = x + cuda_round(m * p->k * 2, CUDA_ALIGN);
  *ret_ms = FLT_MAX;
  if (cuda_matmul(d, p, w, algorithm, m, x, y)) return TL_OK;
  CUDA_TRY(d, rt->event_record(c->before, d->stream), "timing products", err);
  for (int i = 0; i < RUNS; i++)
    if (cuda_matmul(d, p, w, algorithm, m, x, y)) return TL_OK;
  CUDA_TRY(d, rt->event_record(c->after, d->stream), "timing products", err);
  CUDA_TRY(d, rt->event_wait(c->after), "timing products", err);
  CUDA_TRY(d, rt->elapsed(ret_ms, c->before, c->after), "timing products", err);
  return TL_OK;
}

static int choose_fastest(struct chooser *c, struct cuda_product *p, unsigned bucket, const struct cuda_lt_found *found, int n,
                          struct tl_error *err) {
  struct cuda_device *d = c->d;
  uint64_t m = d->products.buckets[bucket];
  const char *w = weights_of(d, p);
  size_t room = cuda_round(m * p->k * 2, CUDA_ALIGN) + m * p->ld * (p->float_out ? sizeof(float) : 2);
  float best = FLT_MAX, ms;
  if (n == 1 || !w || room > d->work.scratch_bytes || is_too_many(d, p, bucket)) return TL_OK;
  for (int i = 0; i < n && tl_now_ns() < c->end_ns; i++) {
    int r = found[i].status ? TL_OK : time_one(c, p, m, w, &found[i].algorithm, &ms, err);
    if (r < 0) return r;
    if (found[i].status || ms >= best) continue;
    best = ms;
    p->algorithms[bucket] = found[i].algorithm;
  }
  return TL_OK;
}

static int choose(struct chooser *c, struct cuda_product *p, unsigned bucket, struct tl_error *err) {
  struct cuda_device *d = c->d;
  const struct cuda_lt *lt = &d->api->lt;
  uint64_t m = d->products.buckets[bucket];
  struct cuda_lt_found found[CANDIDATES] = {0};
  int n = 0, r = lt->layout_set(p->x_layout, CUDA_LT_LAYOUT_COLS, &m, sizeof m);
  if (r == 0) r = lt->layout_set(p->y_layout, CUDA_LT_LAYOUT_COLS, &m, sizeof m);
  if (r == 0)
    r = lt->heuristic(d->products.lt, d->products.desc, p->w_layout, p->x_layout, p->y_layout, p->y_layout, c->preference,
                      CANDIDATES, found, &n);
  if (r) return cuda_lt_failed(d, r, "choosing an algorithm", err);
  int first = 0;
  while (first < n && first < CANDIDATES && found[first].status) first++;
  if (first >= n || first >= CANDIDATES)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "cuda:%u: cuBLASLt has no product of %llu x %u by %u x %u",
                        d->options.index, (unsigned long long)m, p->k, p->k, p->n);
  p->algorithms[bucket] = found[first].algorithm;
  return choose_fastest(c, p, bucket, found, n < CANDIDATES ? n : CANDIDATES, err);
}

int cuda_choose_algorithms(struct cuda_device *d, void *preference, struct tl_error *err) {
  const struct cuda_runtime *rt = &d->api->rt;
  struct chooser c = {.d = d, .preference = preference, .end_ns = tl_now_ns() + CHOOSE_NS};
  int r = rt->timer_new(&c.before);
  if (r == CUDA_OK) r = rt->timer_new(&c.after);
  r = r ? cuda_failed(d, r, "making an event", err) : TL_OK;
  for (unsigned i = 0; i < d->products.n_shapes; i++)
    for (unsigned b = 0; r == TL_OK && b < d->products.n_buckets; b++) r = choose(&c, &d->products.shapes[i], b, err);
  if (c.before) rt->event_free(c.before);
  if (c.after) rt->event_free(c.after);
  return r;
}
