/* SPDX-License-Identifier: MIT */
/* Which of cuBLASLt's algorithms computes a product: of those that its heuristic names for a shape and a
 * bucket of rows, the one that is fastest here, on the model's own weights, of one layer after the other: those of one alone would
 * be in the second-level cache from the second run on, as they never are in a step. Chosen at load and kept: a step never
 * chooses.
 * After CUDA_CHOOSE_NS the heuristic's first is taken without being timed, so a large model starts in time: of the buckets of most rows.
 *
 * Products of E4M3 come first: who of cuBLASLt (which can on compute capability 9.0 only) and our kernel applies their scales is what
 * is faster, and where cuBLASLt has no such product at all the weights are written out. On an H200 products of 64 rows of Llama 3.1 8B
 * took 109 us a layer by its own scales and 71 by ours. */
#include <float.h>

#include "device/cuda/cuda_private.h"
#include "tokenlane/base/clock.h"

#define CANDIDATES 8
#define WORTH_PARTING 0.95f /* what is less is within what three runs tell */
#define RUNS 3 /* that are timed, after one that is not */

struct chooser {
  struct cuda_device *d;
  void *preference;
  void *before, *after; /* events that know the time */
  int64_t end_ns;
  unsigned turn; /* of pieces that have the same shape */
};

/* Whether a piece has this shape, or tiles of it. */
static bool has_shape(const struct cuda_product *p, const struct cuda_matrix *w, const struct cuda_piece *piece) {
  bool fits = p->e4m3 ? piece->format == TL_CUDA_WE4M3 && piece->n == p->n : piece->tile == p->n;
  return fits && w->k == p->k * p->parts && (p->parts == 1 || w->summed);
}

/* A product to be timed. */
struct trial {
  const struct cuda_op *op;
  const struct cuda_piece *piece; /* of its matrix; NULL: none has the shape */
};

/* Of those that have it this one, counted round and round. */
static struct trial find_piece(const struct cuda_device *d, const struct cuda_product *p, unsigned turn) {
  for (unsigned n = 0;; turn %= n, n = 0) {
    for (uint32_t i = 0; i < d->n_plan; i++)
      for (unsigned k = 0; k < d->plan[i].w.n_pieces; k++) {
        const struct cuda_piece *piece = &d->plan[i].w.pieces[k];
        if (has_shape(p, &d->plan[i].w, piece) && n++ == turn) return (struct trial){&d->plan[i], piece};
      }
    if (n == 0) return (struct trial){NULL, NULL};
  }
}

/* Of weights that are stored otherwise, where they are written out; what lies there before is as good. */
static const char *weights_of(const struct cuda_device *d, const struct cuda_product *p, const struct cuda_piece *piece) {
  return p->e4m3 || piece->format == TL_CUDA_W16 ? piece->data : d->work.tile;
}

/* Rows for which this shape is never asked: logits are wanted of one row a sequence, a router's scores of all. */
static bool is_too_many(const struct cuda_device *d, const struct cuda_product *p, unsigned bucket) {
  return p->float_out && p->ld >= d->dims.n_vocab && bucket > 0 && d->products.buckets[bucket - 1] >= d->limits.max_seqs;
}

/* Each rank of a group routes for itself, and an expert that one takes for another's must be one that the other takes: all compute
 * scores alike, so by the heuristic's first, whatever a clock says. */
static bool must_be_alike(const struct cuda_device *d, const struct cuda_product *p) {
  for (uint32_t i = 0; d->group && i < d->n_plan; i++)
    if (d->plan[i].kind == CUDA_OP_ROUTE && &d->products.shapes[d->plan[i].w.pieces[0].product] == p) return true;
  return false;
}

static size_t x_bytes(const struct cuda_product *p, size_t m) {
  return cuda_round(m * p->k * p->parts * 2, CUDA_ALIGN);
}

static size_t y_bytes(const struct cuda_product *p, size_t m) {
  size_t rows = p->parts > 1 ? (size_t)p->parts * CUDA_PARTED_ROWS : m;
  return rows * p->ld * (p->float_out ? sizeof(float) : 2);
}

/* Work memory that a product wants, and the norm that reads its results. */
static size_t product_bytes(const struct cuda_product *p, size_t m) {
  return x_bytes(p, m) + cuda_round(y_bytes(p, m), CUDA_ALIGN);
}

static size_t norm_bytes(const struct cuda_product *p, size_t m) {
  return m * p->n * (sizeof(float) + 2);
}

/* The norm that alone reads such results, in which parts are summed up. */
static int run_norm(struct chooser *c, const struct cuda_product *p, uint32_t m, const struct trial *t, const struct cuda_way *way, struct tl_error *err) {
  struct cuda_device *d = c->d;
  char *delta = (char *)d->work.x + x_bytes(p, m), *x = (char *)d->work.x + product_bytes(p, m);
  struct tl_cuda_add_norm_args args = {.dtype = d->dtype, .n = m, .dim = p->n, .width = p->n, .factor = 1, .x = (float *)(void *)x, .delta = delta,
                                       .left = cuda_rest_of(d, p, way, t->piece->scales, delta), .post = t->op[1].post_weight,
                                       .weight = t->op[1].weight, .h = x + m * p->n * sizeof(float)};
  CUDA_TRY(d, d->api->op.add_norm(&args, d->stream), "a norm", err);
  return TL_OK;
}

/* All of a product, as a step will run it, and, of rows so few that it may be one in parts, the norm that sums these up, but no other kernel
 * that reads the results, though it may have scales to apply; *ret_can: false: cuBLASLt cannot do it. */
static int run_once(struct chooser *c, const struct cuda_product *p, uint32_t m, const struct trial *t, const struct cuda_way *way,
                    bool *ret_can, struct tl_error *err) {
  struct cuda_device *d = c->d;
  char *x = (char *)d->work.x, *y = x + x_bytes(p, m);
  bool has_room = product_bytes(p, m) + norm_bytes(p, m) <= d->work.scratch_bytes;
  *ret_can = cuda_matmul(d, p, way, weights_of(d, p, t->piece), t->piece->scales, m, x, y) == 0;
  if (!*ret_can) return TL_OK;
  if (t->op->w.summed && m <= CUDA_PARTED_ROWS && has_room) return run_norm(c, p, m, t, way, err);
  if (way->scaling == CUDA_THEN_SCALED && !t->op->w.leaves)
    CUDA_TRY(d, cuda_scale_sums(d, p, t->piece->scales, m, y), "scaling a product", err);
  return TL_OK;
}

/* *ret_ms of RUNS; FLT_MAX: it cannot do this product. */
static int time_one(struct chooser *c, const struct cuda_product *p, uint32_t m, const struct cuda_way *way, float *ret_ms, struct tl_error *err) {
  struct cuda_device *d = c->d;
  const struct cuda_runtime *rt = &d->api->rt;
  struct trial trials[RUNS + 1]; /* found before: the device is not to wait for that */
  bool can;
  *ret_ms = FLT_MAX;
  for (int i = 0; i <= RUNS; i++) trials[i] = find_piece(d, p, c->turn++);
  for (int i = 0; i <= RUNS; i++) { /* the first is not timed */
    int r = run_once(c, p, m, &trials[i], way, &can, err);
    if (r < 0 || !can) return r;
    if (i == 0) CUDA_TRY(d, rt->event_record(c->before, d->stream), "timing products", err);
  }
  CUDA_TRY(d, rt->event_record(c->after, d->stream), "timing products", err);
  CUDA_TRY(d, rt->event_wait(c->after), "timing products", err);
  CUDA_TRY(d, rt->elapsed(ret_ms, c->before, c->after), "timing products", err);
  return TL_OK;
}

/* The fastest way so far, for a product of a bucket. */
struct best {
  struct cuda_way way;
  float ms; /* FLT_MAX: none was timed */
  bool runs;
};

/* Whether ways of this product may be tried out on work memory, and one of them taken by the clock. */
static bool is_timed(const struct cuda_device *d, const struct cuda_product *p, unsigned bucket) {
  size_t m = d->products.buckets[bucket];
  size_t bytes = product_bytes(p, m) + (p->parts > 1 ? norm_bytes(p, m) : 0);
  return find_piece(d, p, 0).piece && bytes <= d->work.scratch_bytes && !is_too_many(d, p, bucket) && !must_be_alike(d, p);
}

/* Whether `best` becomes one of the n that cuBLASLt found. Without a clock, and when it is late, the first is taken; of E4M3 one is tried,
 * however late it is, since there cuBLASLt names what it cannot do. Of parts none is taken then: the whole is there. */
static int choose_fastest(struct chooser *c, struct cuda_product *p, unsigned bucket, enum cuda_scaling scaling,
                          const struct cuda_lt_found *found, int n, struct best *best, struct tl_error *err) {
  bool timed = is_timed(c->d, p, bucket) && (n > 1 || p->e4m3 || p->parts > 1);
  for (int i = 0, n_tried = 0; i < n; i++) {
    struct cuda_way way = {scaling, found[i].algorithm};
    float ms = FLT_MAX;
    if (found[i].status) continue;
    if (!timed || (tl_now_ns() >= c->end_ns && !(p->e4m3 && p->parts == 1 && n_tried == 0 && !best->runs))) {
      if (!best->runs && n_tried == 0 && p->parts == 1) *best = (struct best){way, FLT_MAX, true};
      return TL_OK;
    }
    int r = time_one(c, p, c->d->products.buckets[bucket], &way, &ms, err);
    if (r < 0) return r;
    n_tried++;
    if (ms < best->ms || (!best->runs && !p->e4m3 && p->parts == 1)) *best = (struct best){way, ms, true};
  }
  return TL_OK;
}

/* Results that are parts of wider rows, of one piece of several or of a tile, begin where they begin: on 16 bytes. So do parts of k. */
static int promise_alignment(const struct chooser *c, const struct cuda_product *p) {
  const struct cuda_lt *lt = &c->d->api->lt;
  uint32_t bytes = p->ld == p->n ? CUDA_ALIGN : 16;
  uint32_t inputs = p->parts > 1 ? 16 : CUDA_ALIGN;
  int r = lt->preference_set(c->preference, CUDA_LT_PREFERENCE_ALIGNMENT_A, &inputs, sizeof inputs);
  if (r == 0) r = lt->preference_set(c->preference, CUDA_LT_PREFERENCE_ALIGNMENT_B, &inputs, sizeof inputs);
  if (r == 0) r = lt->preference_set(c->preference, CUDA_LT_PREFERENCE_ALIGNMENT_C, &bytes, sizeof bytes);
  return r ? r : lt->preference_set(c->preference, CUDA_LT_PREFERENCE_ALIGNMENT_D, &bytes, sizeof bytes);
}

/* *ret_n of `found` for a product of the bucket; none, whatever cuBLASLt's error, of a way that need not be there. */
static int ask(struct chooser *c, struct cuda_product *p, unsigned bucket, enum cuda_scaling scaling, struct cuda_lt_found *found,
               int *ret_n, struct tl_error *err) {
  struct cuda_device *d = c->d;
  const struct cuda_lt *lt = &d->api->lt;
  const struct cuda_piece *piece = find_piece(d, p, 0).piece; /* of E4M3 there is one */
  bool scaled = scaling == CUDA_LT_SCALES && piece;
  uint64_t m = d->products.buckets[bucket];
  *ret_n = 0;
  int r = lt->layout_set(p->x_layout, CUDA_LT_LAYOUT_COLS, &m, sizeof m);
  if (r == 0) r = lt->layout_set(p->y_layout, CUDA_LT_LAYOUT_COLS, &m, sizeof m);
  if (r == 0 && scaled) r = cuda_set_scales(d, piece->scales);
  if (r == 0) r = promise_alignment(c, p);
  if (r) return cuda_lt_failed(d, r, "choosing an algorithm", err);
  r = lt->heuristic(d->products.lt, scaled ? d->products.scaled_desc : d->products.desc, p->w_layout, p->x_layout, p->y_layout,
                    p->y_layout, c->preference, CANDIDATES, found, ret_n);
  if (r && !p->e4m3 && p->parts == 1) return cuda_lt_failed(d, r, "choosing an algorithm", err);
  if (r) *ret_n = 0;
  if (*ret_n > CANDIDATES) *ret_n = CANDIDATES;
  return TL_OK;
}

/* Of E4M3 both ways to apply the scales are tried: which is faster depends on the shape. That of the bucket before comes first, in case it is
 * late. Products in parts leave it to the norm that sums them up. Returns how many. */
static unsigned list_scalings(const struct cuda_product *p, unsigned bucket, enum cuda_scaling *ret) {
  bool ours = bucket > 0 && p->ways[bucket - 1].scaling == CUDA_THEN_SCALED;
  ret[0] = !p->e4m3 ? CUDA_NO_SCALES : p->parts > 1 || ours ? CUDA_THEN_SCALED : CUDA_LT_SCALES;
  ret[1] = ours ? CUDA_LT_SCALES : CUDA_THEN_SCALED;
  return p->e4m3 && p->parts == 1 ? 2 : 1;
}

static int choose(struct chooser *c, struct cuda_product *p, unsigned bucket, struct tl_error *err) {
  struct cuda_device *d = c->d;
  enum cuda_scaling scalings[2];
  struct best best = {{CUDA_NO_WAY, {{0}}}, FLT_MAX, false};
  unsigned n_scalings = list_scalings(p, bucket, scalings);
  for (unsigned i = 0; i < n_scalings; i++) {
    struct cuda_lt_found found[CANDIDATES] = {0};
    int n = 0, r = ask(c, p, bucket, scalings[i], found, &n, err);
    if (r == TL_OK) r = choose_fastest(c, p, bucket, scalings[i], found, n, &best, err);
    if (r < 0) return r;
  }
  p->ways[bucket] = best.way;
  p->ms[bucket] = best.ms;
  if (best.runs || p->e4m3 || p->parts > 1) return TL_OK;
  return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "cuda:%u: cuBLASLt has no product of %u x %u by %u x %u", d->options.index,
                      d->products.buckets[bucket], p->k, p->k, p->n);
}

/* Whether rows of each number go through the piece's product of E4M3. */
static bool is_e4m3(const struct cuda_device *d, const struct cuda_piece *piece) {
  if (piece->e4m3 == CUDA_MAX_PRODUCTS) return false;
  for (unsigned b = 0; b < d->products.n_buckets; b++)
    if (d->products.shapes[piece->e4m3].ways[b].scaling == CUDA_NO_WAY) return false;
  return true;
}

/* Of shapes in T, once those of E4M3 are chosen. */
static bool is_wanted(const struct cuda_device *d, unsigned shape) {
  if (d->products.shapes[shape].parts > 1) return true;
  for (uint32_t i = 0; i < d->n_plan; i++) {
    const struct cuda_matrix *w = &d->plan[i].w;
    for (unsigned k = 0; k < w->n_pieces && d->plan[i].kind != CUDA_OP_EMBED; k++)
      if ((w->pieces[k].product == shape || w->pieces[k].last == shape) && !is_e4m3(d, &w->pieces[k])) return true;
  }
  return false;
}

/* Whether rows of a bucket are few enough for products in parts. */
static bool is_parted(const struct cuda_products *products, unsigned bucket) {
  return bucket < CUDA_PARTED_BUCKETS && products->buckets[bucket] <= CUDA_PARTED_ROWS;
}

/* Of all shapes the smallest bucket first: it takes the least time, and decode steps, of which there are most, are among the small ones. */
static int choose_all(struct chooser *c, bool e4m3, struct tl_error *err) {
  struct cuda_products *products = &c->d->products;
  int r = TL_OK;
  for (unsigned b = 0; b < products->n_buckets; b++)
    for (unsigned i = 0; i < products->n_shapes && r == TL_OK; i++) {
      struct cuda_product *p = &products->shapes[i];
      if (p->e4m3 == e4m3 && (e4m3 || is_wanted(c->d, i)) && (p->parts == 1 || is_parted(products, b))) r = choose(c, p, b, err);
    }
  return r;
}

/* Of a piece's shapes in parts the quickest, if it beats the whole: both were timed with the norm behind them. */
static unsigned find_quickest(const struct cuda_products *products, const struct cuda_piece *piece, unsigned bucket) {
  const struct cuda_product *whole = &products->shapes[piece->e4m3 < CUDA_MAX_PRODUCTS ? piece->e4m3 : piece->product];
  unsigned found = CUDA_MAX_PRODUCTS;
  float ms = whole->ms[bucket] * WORTH_PARTING;
  if (whole->ways[bucket].scaling == CUDA_NO_WAY || whole->ms[bucket] == FLT_MAX) return found;
  for (unsigned i = 0; i < CUDA_WAYS_TO_PART; i++) {
    unsigned shape = piece->parted[i];
    if (shape == CUDA_MAX_PRODUCTS || products->shapes[shape].ways[bucket].scaling == CUDA_NO_WAY || products->shapes[shape].ms[bucket] >= ms) continue;
    ms = products->shapes[shape].ms[bucket];
    found = shape;
  }
  return found;
}

static void find_all_quickest(struct cuda_device *d) {
  for (uint32_t i = 0; i < d->n_plan; i++) {
    struct cuda_piece *piece = &d->plan[i].w.pieces[0];
    for (unsigned b = 0; d->plan[i].w.summed && b < d->products.n_buckets && is_parted(&d->products, b); b++)
      piece->quickest[b] = find_quickest(&d->products, piece, b);
  }
}

int cuda_choose_algorithms(struct cuda_device *d, void *preference, struct tl_error *err) {
  const struct cuda_runtime *rt = &d->api->rt;
  struct chooser c = {.d = d, .preference = preference, .end_ns = tl_now_ns() + d->choose_ns};
  int r = rt->timer_new(&c.before);
  if (r == CUDA_OK) r = rt->timer_new(&c.after);
  r = r ? cuda_failed(d, r, "making an event", err) : TL_OK;
  if (r == TL_OK) r = choose_all(&c, true, err);
  if (r == TL_OK) r = choose_all(&c, false, err);
  if (r == TL_OK) find_all_quickest(d);
  if (c.before) rt->event_free(c.before);
  if (c.after) rt->event_free(c.after);
  return r;
}
