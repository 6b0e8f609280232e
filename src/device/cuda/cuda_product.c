/* SPDX-License-Identifier: MIT */
/* Matrix products. Up to TL_CUDA_GEMV_MAX_ROWS rows go to our own kernel, which reads the
 * weights, as they are stored, as fast as memory gives them, and so do up to TL_CUDA_BATCH_ROWS by weights of the formats that it
 * then takes; more go to cuBLASLt, whose algorithm is chosen
 * once for each shape and bucket of rows (cuda_choose.c).
 *
 * E4M3 weights stay what they are where the device multiplies E4M3 (compute capability 8.9 on): rows are rounded to
 * E4M3 as well, each by its own scale, and the product has the scales of row and output as factors. Sums are float
 * throughout: CUBLASLT_MATMUL_DESC_FAST_ACCUM, which on Hopper would keep about 14 bits of them, is off unless it is set.
 *
 * cuBLASLt's matrices stand in columns, so y (m, n) = x W^T is y^T = W x^T there: W is a
 * (k, n) matrix to be transposed, x a (k, m) one, y (n, m). */
#include "device/cuda/cuda_private.h"
#include "device/cuda/ops/cuda_e4m3.h"

/* About four buckets to a doubling: an algorithm runs with at least four fifths of
 * the rows that it was chosen for. */
void cuda_choose_buckets(struct cuda_products *products, uint32_t max_rows) {
  uint32_t rows = 32, step = 16;
  while (rows < max_rows && products->n_buckets + 1 < CUDA_MAX_BUCKETS) {
    products->buckets[products->n_buckets++] = rows;
    if ((rows & (rows - 1)) == 0) step = rows / 4 > 16 ? rows / 4 : 16;
    rows += step;
  }
  products->buckets[products->n_buckets++] = (uint32_t)cuda_round(max_rows > 32 ? max_rows : 32, 16);
}

unsigned cuda_product_of(struct cuda_products *products, const struct cuda_product *shape) {
  unsigned i = 0;
  for (; i < products->n_shapes; i++) {
    const struct cuda_product *p = &products->shapes[i];
    if (p->n == shape->n && p->k == shape->k && p->ld == shape->ld && p->parts == shape->parts && p->float_out == shape->float_out &&
        p->e4m3 == shape->e4m3)
      return i;
  }
  if (i < CUDA_MAX_PRODUCTS) products->shapes[products->n_shapes++] = *shape;
  return i;
}

/* --- making ----------------------------------------------------------------------------------- */

int cuda_lt_failed(struct cuda_device *d, int r, const char *what, struct tl_error *err) {
  return tl_error_set(err, TL_EDEVICE, NULL, "cuda:%u: cuBLASLt: %s: status %d", d->options.index, what, r);
}

#define LT_TRY(call, what)                              \
  do {                                                  \
    int lt_r_ = (call);                                 \
    if (lt_r_) return cuda_lt_failed(d, lt_r_, (what), err); \
  } while (0)

/* Parts of k lie behind one another within the rows of both factors; their results, each CUDA_PARTED_ROWS apart. */
static int make_parts(struct cuda_device *d, struct cuda_product *p, struct tl_error *err) {
  const struct cuda_lt *lt = &d->api->lt;
  void *const layouts[] = {p->w_layout, p->x_layout, p->y_layout};
  const int64_t offsets[] = {p->k, p->k, (int64_t)CUDA_PARTED_ROWS * p->ld};
  int32_t count = (int32_t)p->parts;
  for (unsigned i = 0; i < 3; i++) {
    LT_TRY(lt->layout_set(layouts[i], CUDA_LT_LAYOUT_BATCH_COUNT, &count, sizeof count), "making a layout");
    LT_TRY(lt->layout_set(layouts[i], CUDA_LT_LAYOUT_BATCH_OFFSET, &offsets[i], sizeof offsets[i]), "making a layout");
  }
  return TL_OK;
}

static int make_shape(struct cuda_device *d, struct cuda_product *p, struct tl_error *err) {
  const struct cuda_lt *lt = &d->api->lt;
  int type = d->dtype == TL_CUDA_F16 ? CUDA_LT_R_16F : CUDA_LT_R_16BF, out = p->float_out ? CUDA_LT_R_32F : type;
  int in = p->e4m3 ? CUDA_LT_R_8F_E4M3 : type;
  int64_t row = (int64_t)p->k * p->parts;
  LT_TRY(lt->layout_new(&p->w_layout, in, p->k, p->n, row), "making a layout");
  LT_TRY(lt->layout_new(&p->x_layout, in, p->k, 1, row), "making a layout");
  LT_TRY(lt->layout_new(&p->y_layout, out, p->n, 1, p->ld), "making a layout");
  return p->parts > 1 ? make_parts(d, p, err) : TL_OK;
}

static int make_all(struct cuda_device *d, void *preference, struct tl_error *err) {
  size_t workspace = CUDA_LT_WORKSPACE;
  LT_TRY(d->api->lt.preference_set(preference, CUDA_LT_PREFERENCE_WORKSPACE, &workspace, sizeof workspace),
         "setting the workspace");
  for (unsigned i = 0; i < d->products.n_shapes; i++) {
    int r = make_shape(d, &d->products.shapes[i], err);
    if (r < 0) return r;
  }
  return cuda_choose_algorithms(d, preference, err);
}

static int describe(struct cuda_device *d, void **ret, bool scaled, struct tl_error *err) {
  const struct cuda_lt *lt = &d->api->lt;
  int32_t transpose = CUDA_LT_TRANSPOSE, each_its_own = CUDA_LT_SCALE_OUTER_VECTOR;
  LT_TRY(lt->desc_new(ret, CUDA_LT_COMPUTE_32F, CUDA_LT_R_32F), "describing products");
  LT_TRY(lt->desc_set(*ret, CUDA_LT_DESC_TRANSA, &transpose, sizeof transpose), "describing products");
  if (!scaled) return TL_OK;
  LT_TRY(lt->desc_set(*ret, CUDA_LT_DESC_A_SCALE_MODE, &each_its_own, sizeof each_its_own), "describing products");
  LT_TRY(lt->desc_set(*ret, CUDA_LT_DESC_B_SCALE_MODE, &each_its_own, sizeof each_its_own), "describing products");
  return TL_OK;
}

static bool has_e4m3(const struct cuda_products *products) {
  for (unsigned i = 0; i < products->n_shapes; i++)
    if (products->shapes[i].e4m3) return true;
  return false;
}

int cuda_make_products(struct cuda_device *d, struct tl_error *err) {
  const struct cuda_lt *lt = &d->api->lt;
  void *preference;
  LT_TRY(lt->create(&d->products.lt), "opening");
  int made = describe(d, &d->products.desc, false, err);
  if (made == TL_OK && has_e4m3(&d->products)) made = describe(d, &d->products.scaled_desc, true, err);
  if (made < 0) return made;
  LT_TRY(lt->preference_new(&preference), "making a preference");
  int r = make_all(d, preference, err);
  lt->preference_free(preference);
  return r;
}

void cuda_free_products(struct cuda_device *d) {
  const struct cuda_lt *lt = &d->api->lt;
  for (unsigned i = 0; i < d->products.n_shapes; i++) {
    struct cuda_product *p = &d->products.shapes[i];
    if (p->w_layout) lt->layout_free(p->w_layout);
    if (p->x_layout) lt->layout_free(p->x_layout);
    if (p->y_layout) lt->layout_free(p->y_layout);
  }
  if (d->products.desc) lt->desc_free(d->products.desc);
  if (d->products.scaled_desc) lt->desc_free(d->products.scaled_desc);
  if (d->products.lt) lt->destroy(d->products.lt);
}

/* --- running -------------------------------------------------------------------------------------- */

int cuda_set_scales(struct cuda_device *d, const char *scales) {
  const struct cuda_lt *lt = &d->api->lt;
  int r = lt->desc_set(d->products.scaled_desc, CUDA_LT_DESC_A_SCALE_POINTER, &scales, sizeof scales);
  return r ? r : lt->desc_set(d->products.scaled_desc, CUDA_LT_DESC_B_SCALE_POINTER, &d->work.row_scales, sizeof d->work.row_scales);
}

/* The largest power of two by which no sum of k products of E4M3 is beyond F16. */
static float fits_f16(uint32_t k) {
  float factor = 1;
  while (factor * TL_CUDA_E4M3_MAX * TL_CUDA_E4M3_MAX * (float)k > 65504) factor /= 2;
  return factor;
}

int cuda_matmul(struct cuda_device *d, const struct cuda_product *p, const struct cuda_way *way, const char *w, const char *scales,
                uint64_t m, const char *x, void *y) {
  const struct cuda_lt *lt = &d->api->lt;
  const float alpha = way->scaling == CUDA_THEN_SCALED ? fits_f16(p->k) : 1, zero = 0;
  int r = lt->layout_set(p->x_layout, CUDA_LT_LAYOUT_COLS, &m, sizeof m);
  if (r == 0) r = lt->layout_set(p->y_layout, CUDA_LT_LAYOUT_COLS, &m, sizeof m);
  if (r == 0 && way->scaling == CUDA_LT_SCALES) r = cuda_set_scales(d, scales);
  if (r) return r;
  return lt->matmul(d->products.lt, way->scaling == CUDA_LT_SCALES ? d->products.scaled_desc : d->products.desc, &alpha, w,
                    p->w_layout, x, p->x_layout, &zero, y, p->y_layout, y, p->y_layout, &way->algorithm, d->work.lt_workspace,
                    CUDA_LT_WORKSPACE, d->stream);
}

struct tl_cuda_rest cuda_rest_of(const struct cuda_device *d, const struct cuda_product *p, const struct cuda_way *way, const char *scales,
                                 const void *y) {
  struct tl_cuda_rest left = {0};
  if (p->parts > 1) {
    left.parts = y;
    left.n_parts = p->parts;
    left.part_rows = CUDA_PARTED_ROWS;
  }
  if (way->scaling == CUDA_THEN_SCALED) {
    left.rows = d->work.row_scales;
    left.outputs = (const float *)(const void *)scales;
    left.factor = 1 / fits_f16(p->k);
  }
  return left;
}

int cuda_scale_sums(struct cuda_device *d, const struct cuda_product *p, const char *scales, uint32_t m, void *y) {
  struct tl_cuda_scale_args args = {.dtype = d->dtype, .float_out = p->float_out, .m = m, .n = p->n, .ld = p->ld,
                                    .factor = 1 / fits_f16(p->k), .rows = d->work.row_scales, .outputs = (const float *)(const void *)scales,
                                    .y = y};
  return d->api->op.scale(&args, d->stream);
}

static unsigned bucket_of(const struct cuda_device *d, uint32_t m) {
  unsigned bucket = 0;
  while (d->products.buckets[bucket] < m) bucket++;
  return bucket;
}

/* Outputs that lie behind one another in T; scales: of E4M3 weights. left: who may be told what is left to do of them, or NULL. */
static int many_rows(struct cuda_device *d, unsigned product, uint32_t m, const char *weight, const char *scales, const char *x,
                     void *y, struct tl_cuda_rest *left, struct tl_error *err) {
  unsigned bucket = bucket_of(d, m);
  const struct cuda_product *p = &d->products.shapes[product];
  const struct cuda_way *way = &p->ways[bucket];
  if (p->parts > 1) y = d->work.parts;
  int r = cuda_matmul(d, p, way, weight, scales, m, x, y);
  /* an algorithm may ask for more of the rows than m has: all that it was chosen for is sure to do,
   * and there is room for them */
  if (r == CUDA_LT_NOT_SUPPORTED) r = cuda_matmul(d, p, way, weight, scales, d->products.buckets[bucket], x, y);
  if (r) return cuda_lt_failed(d, r, "a product", err);
  if (left) *left = cuda_rest_of(d, p, way, scales, y);
  if (left || way->scaling != CUDA_THEN_SCALED) return TL_OK;
  CUDA_TRY(d, cuda_scale_sums(d, p, scales, m, y), "scaling a product", err);
  return TL_OK;
}

/* In place of the shape `whole`, for who may be told what is left to do. */
static unsigned quickest(const struct cuda_device *d, const struct cuda_piece *piece, unsigned whole, uint32_t m, const struct tl_cuda_rest *left) {
  unsigned parted = left && m <= CUDA_PARTED_ROWS ? piece->quickest[bucket_of(d, m)] : CUDA_MAX_PRODUCTS;
  return parted < CUDA_MAX_PRODUCTS ? parted : whole;
}

static char *at_output(const struct cuda_matrix *w, void *y, uint32_t output) {
  return (char *)y + output * (w->float_out ? sizeof(float) : 2);
}

static bool runs_in_e4m3(const struct cuda_device *d, const struct cuda_piece *piece, uint32_t m) {
  return piece->e4m3 < CUDA_MAX_PRODUCTS && d->products.shapes[piece->e4m3].ways[bucket_of(d, m)].scaling != CUDA_NO_WAY;
}

static int many_rows_in_e4m3(struct cuda_device *d, const struct cuda_matrix *w, const struct cuda_piece *piece, uint32_t m,
                             const char *x, void *y, struct tl_cuda_rest *left, struct tl_error *err) {
  struct tl_cuda_quantize_args args = {.dtype = d->dtype, .n = m, .k = w->k, .x = x, .out = d->work.tile, .scales = d->work.row_scales};
  if (x != d->work.tile) CUDA_TRY(d, d->api->op.quantize(&args, d->stream), "rounding rows to E4M3", err); /* else who made them has */
  return many_rows(d, quickest(d, piece, piece->e4m3, m, left), m, piece->data, piece->scales, d->work.tile, at_output(w, y, piece->first), left, err);
}

/* Stored weights are written out in T, a tile at a time, which the next one overwrites. */
static int many_rows_of_piece(struct cuda_device *d, const struct cuda_matrix *w, const struct cuda_piece *piece, uint32_t m,
                              const char *x, void *y, struct tl_cuda_rest *left, struct tl_error *err) {
  if (runs_in_e4m3(d, piece, m)) return many_rows_in_e4m3(d, w, piece, m, x, y, left, err);
  if (piece->format == TL_CUDA_W16)
    return many_rows(d, quickest(d, piece, piece->product, m, left), m, piece->data, NULL, x, at_output(w, y, piece->first), left, err);
  size_t row = cuda_row_bytes(piece->format, w->k), scales = cuda_scales_bytes(piece->format, w->k);
  int r = TL_OK;
  for (uint32_t at = 0; at < piece->n && r == TL_OK; at += piece->tile) {
    uint32_t n = piece->n - at < piece->tile ? piece->n - at : piece->tile;
    struct tl_cuda_dequantize_args args = {.dtype = d->dtype, .format = piece->format, .n = n, .k = w->k, .weight = piece->data + at * row,
                                           .scales = piece->scales + at * scales, .out = d->work.tile};
    CUDA_TRY(d, d->api->op.dequantize(&args, d->stream), "writing weights out", err);
    r = many_rows(d, n == piece->tile ? piece->product : piece->last, m, d->work.tile, NULL, x, at_output(w, y, piece->first + at), NULL, err);
  }
  return r;
}

static bool is_ours(const struct cuda_device *d, const struct cuda_piece *piece, uint32_t m) {
  return m <= TL_CUDA_GEMV_MAX_ROWS || (m <= TL_CUDA_BATCH_ROWS && tl_cuda_batches(d->dtype, piece->format));
}

/* Nothing of cuBLASLt's is in its workspace while our kernels run. */
static struct tl_cuda_gemv_args few_rows(const struct cuda_device *d, const struct cuda_matrix *w, const struct cuda_piece *piece,
                                         const float *bias, int gate, uint32_t m, const char *x, void *y) {
  return (struct tl_cuda_gemv_args){.dtype = d->dtype, .format = piece->format, .gate = gate, .m = m, .n = piece->n, .k = w->k,
                                    .n_multiprocessors = d->info.multiprocessors, .x = x, .weight = piece->data, .scales = piece->scales,
                                    .bias = bias ? bias + piece->first : NULL, .float_out = w->float_out,
                                    .out = at_output(w, y, piece->first), .ldo = gate ? w->ld / 2 : w->ld,
                                    .parts = d->work.lt_workspace, .arrived = d->work.tiles_arrived};
}

static int few_rows_of_piece(struct cuda_device *d, const struct cuda_matrix *w, const struct cuda_piece *piece, const float *bias,
                             int gate, uint32_t m, const char *x, void *y, struct tl_error *err) {
  struct tl_cuda_gemv_args args = few_rows(d, w, piece, bias, gate, m, x, y);
  uint32_t room = CUDA_LT_WORKSPACE / TL_CUDA_BATCH_PARTS;
  if (m > TL_CUDA_GEMV_MAX_ROWS && args.n_multiprocessors > room) args.n_multiprocessors = room;
  CUDA_TRY(d, d->api->op.gemv(&args, d->stream), "a product of few rows", err);
  return TL_OK;
}

/* *x, rows of the record's input, becomes such in the order of the piece's weights. */
static int put_in_order(struct cuda_device *d, const struct cuda_matrix *w, const struct cuda_piece *piece, uint32_t m, const char **x,
                        struct tl_error *err) {
  if (!piece->n_orders) return TL_OK;
  struct tl_cuda_reorder_args args = {.n = m, .k = w->k, .order = piece->inputs, .in = *x, .out = d->work.ordered};
  CUDA_TRY(d, d->api->op.reorder(&args, d->stream), "putting inputs in order", err);
  *x = d->work.ordered;
  return TL_OK;
}

bool cuda_wants_e4m3(const struct cuda_device *d, const struct cuda_matrix *w, uint32_t m) {
  const struct cuda_piece *piece = &w->pieces[0];
  return w->n_pieces == 1 && !piece->n_orders && !is_ours(d, piece, m) && runs_in_e4m3(d, piece, m);
}

bool cuda_gates_itself(const struct cuda_device *d, const struct cuda_matrix *w, uint32_t m) {
  return w->n_pieces == 1 && is_ours(d, &w->pieces[0], m);
}

int cuda_run_gated(struct cuda_device *d, const struct cuda_matrix *w, int gate, uint32_t m, const char *x, char *y,
                   struct tl_error *err) {
  int r = put_in_order(d, w, &w->pieces[0], m, &x, err);
  return r < 0 ? r : few_rows_of_piece(d, w, &w->pieces[0], w->bias, gate, m, x, y, err);
}

bool cuda_norms_itself(const struct cuda_matrix *w, uint32_t m) {
  return m <= TL_CUDA_NORMED_ROWS && w->k <= TL_CUDA_NORMED_DIM && w->n_pieces == 1 && !w->pieces[0].n_orders;
}

int cuda_run_normed(struct cuda_device *d, const struct cuda_matrix *w, const float *bias, int gate, struct tl_cuda_normed_args *norm,
                    uint32_t m, char *y, struct tl_error *err) {
  norm->product = few_rows(d, w, &w->pieces[0], bias, gate, m, NULL, y);
  CUDA_TRY(d, d->api->op.normed(norm, d->stream), "a norm and the product behind it", err);
  return TL_OK;
}

static int run_product(struct cuda_device *d, const struct cuda_matrix *w, const float *bias, uint32_t m, const char *x, void *y,
                       struct tl_cuda_rest *left, struct tl_error *err) {
  bool ours = true;
  for (unsigned i = 0; i < w->n_pieces; i++) ours &= is_ours(d, &w->pieces[i], m);
  for (unsigned i = 0; i < w->n_pieces; i++) {
    const struct cuda_piece *piece = &w->pieces[i];
    const char *rows = x;
    int r = put_in_order(d, w, piece, m, &rows, err);
    if (r < 0) return r;
    r = is_ours(d, piece, m) ? few_rows_of_piece(d, w, piece, ours ? bias : NULL, TL_CUDA_UNGATED, m, rows, y, err)
                             : many_rows_of_piece(d, w, piece, m, rows, y, left, err);
    if (r < 0) return r;
  }
  if (ours || !bias) return TL_OK;
  struct tl_cuda_bias_args args = {.dtype = d->dtype, .n = m, .dim = w->n, .y = y, .bias = bias};
  CUDA_TRY(d, d->api->op.bias(&args, d->stream), "adding a bias", err);
  return TL_OK;
}

int cuda_run_product(struct cuda_device *d, const struct cuda_matrix *w, const float *bias, uint32_t m, const char *x, void *y,
                     struct tl_error *err) {
  return run_product(d, w, bias, m, x, y, NULL, err);
}

int cuda_run_leaving(struct cuda_device *d, const struct cuda_matrix *w, const float *bias, uint32_t m, const char *x, void *y,
                      struct tl_cuda_rest *ret_left, struct tl_error *err) {
  *ret_left = (struct tl_cuda_rest){0};
  return run_product(d, w, bias, m, x, y, w->leaves ? ret_left : NULL, err);
}
