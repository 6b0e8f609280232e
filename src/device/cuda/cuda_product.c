/* SPDX-License-Identifier: MIT */
/* Matrix products. Up to TL_CUDA_GEMV_MAX_ROWS rows go to our own kernel, which reads the
 * weights, as they are stored, as fast as memory gives them; more go to cuBLASLt, whose algorithm is chosen
 * once for each shape and bucket of rows (cuda_choose.c).
 *
 * cuBLASLt's matrices stand in columns, so y (m, n) = x W^T is y^T = W x^T there: W is a
 * (k, n) matrix to be transposed, x a (k, m) one, y (n, m). */
#include "device/cuda/cuda_private.h"

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

unsigned cuda_product_of(struct cuda_products *products, uint32_t n, uint32_t k, uint32_t ld, bool float_out) {
  unsigned i = 0;
  for (; i < products->n_shapes; i++) {
    const struct cuda_product *p = &products->shapes[i];
    if (p->n == n && p->k == k && p->ld == ld && p->float_out == float_out) return i;
  }
  if (i == CUDA_MAX_PRODUCTS) return i;
  products->shapes[products->n_shapes++] = (struct cuda_product){.n = n, .k = k, .ld = ld, .float_out = float_out};
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

static int make_shape(struct cuda_device *d, struct cuda_product *p, struct tl_error *err) {
  const struct cuda_lt *lt = &d->api->lt;
  int type = d->dtype == TL_CUDA_F16 ? CUDA_LT_R_16F : CUDA_LT_R_16BF, out = p->float_out ? CUDA_LT_R_32F : type;
  LT_TRY(lt->layout_new(&p->w_layout, type, p->k, p->n, p->k), "making a layout");
  LT_TRY(lt->layout_new(&p->x_layout, type, p->k, 1, p->k), "making a layout");
  LT_TRY(lt->layout_new(&p->y_layout, out, p->n, 1, p->ld), "making a layout");
  return TL_OK;
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

int cuda_make_products(struct cuda_device *d, struct tl_error *err) {
  const struct cuda_lt *lt = &d->api->lt;
  int32_t transpose = CUDA_LT_TRANSPOSE;
  void *preference;
  LT_TRY(lt->create(&d->products.lt), "opening");
  LT_TRY(lt->desc_new(&d->products.desc, CUDA_LT_COMPUTE_32F, CUDA_LT_R_32F), "describing products");
  LT_TRY(lt->desc_set(d->products.desc, CUDA_LT_DESC_TRANSA, &transpose, sizeof transpose), "describing products");
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
  if (d->products.lt) lt->destroy(d->products.lt);
}

/* --- running -------------------------------------------------------------------------------------- */

int cuda_matmul(struct cuda_device *d, const struct cuda_product *p, const char *w, const struct cuda_lt_algorithm *algorithm,
                uint64_t m, const char *x, void *y) {
  const struct cuda_lt *lt = &d->api->lt;
  const float one = 1, zero = 0;
  int r = lt->layout_set(p->x_layout, CUDA_LT_LAYOUT_COLS, &m, sizeof m);
  if (r == 0) r = lt->layout_set(p->y_layout, CUDA_LT_LAYOUT_COLS, &m, sizeof m);
  if (r) return r;
  return lt->matmul(d->products.lt, d->products.desc, &one, w, p->w_layout, x, p->x_layout, &zero, y, p->y_layout, y,
                    p->y_layout, algorithm, d->work.lt_workspace, CUDA_LT_WORKSPACE, d->stream);
}

/* Outputs that lie behind one another in T. */
static int many_rows(struct cuda_device *d, unsigned product, uint32_t m, const char *weight, const char *x, void *y,
                     struct tl_error *err) {
  unsigned bucket = 0;
  while (d->products.buckets[bucket] < m) bucket++;
  const struct cuda_product *p = &d->products.shapes[product];
  int r = cuda_matmul(d, p, weight, &p->algorithms[bucket], m, x, y);
  /* an algorithm may ask for more of the rows than m has: all that it was chosen for is sure to do,
   * and there is room for them */
  if (r == CUDA_LT_NOT_SUPPORTED) r = cuda_matmul(d, p, weight, &p->algorithms[bucket], d->products.buckets[bucket], x, y);
  return r ? cuda_lt_failed(d, r, "a product", err) : TL_OK;
}

static char *at_output(const struct cuda_matrix *w, void *y, uint32_t output) {
  return (char *)y + output * (w->float_out ? sizeof(float) : 2);
}

/* Stored weights are written out in T, a tile at a time, which the next one overwrites. */
static int many_rows_of_piece(struct cuda_device *d, const struct cuda_matrix *w, const struct cuda_piece *piece, uint32_t m,
                              const char *x, void *y, struct tl_error *err) {
  size_t row = cuda_row_bytes(piece->format, w->k), scales = cuda_scales_bytes(piece->format, w->k);
  int r = TL_OK;
  for (uint32_t at = 0; at < piece->n && r == TL_OK; at += piece->tile) {
    uint32_t n = piece->n - at < piece->tile ? piece->n - at : piece->tile;
    const char *weight = piece->data + at * row;
    if (piece->format != TL_CUDA_W16) {
      struct tl_cuda_dequantize_args args = {.dtype = d->dtype, .format = piece->format, .n = n, .k = w->k, .weight = weight,
                                             .scales = piece->scales + at * scales, .out = d->work.tile};
      CUDA_TRY(d, d->api->op.dequantize(&args, d->stream), "writing weights out", err);
      weight = d->work.tile;
    }
    r = many_rows(d, n == piece->tile ? piece->product : piece->last, m, weight, x, at_output(w, y, piece->first + at), err);
  }
  return r;
}

static int few_rows_of_piece(struct cuda_device *d, const struct cuda_matrix *w, const struct cuda_piece *piece, const float *bias,
                             int gate, uint32_t m, const char *x, void *y, struct tl_error *err) {
  struct tl_cuda_gemv_args args = {.dtype = d->dtype, .format = piece->format, .gate = gate, .m = m, .n = piece->n, .k = w->k,
                                   .n_multiprocessors = d->info.multiprocessors, .x = x, .weight = piece->data, .scales = piece->scales,
                                   .bias = bias ? bias + piece->first : NULL, .float_out = w->float_out,
                                   .out = at_output(w, y, piece->first), .ldo = gate ? w->ld / 2 : w->ld};
  CUDA_TRY(d, d->api->op.gemv(&args, d->stream), "a product of few rows", err);
  return TL_OK;
}

bool cuda_gates_itself(const struct cuda_matrix *w, uint32_t m) {
  return m <= TL_CUDA_GEMV_MAX_ROWS && w->n_pieces == 1;
}

int cuda_run_gated(struct cuda_device *d, const struct cuda_matrix *w, int gate, uint32_t m, const char *x, char *y,
                   struct tl_error *err) {
  return few_rows_of_piece(d, w, &w->pieces[0], w->bias, gate, m, x, y, err);
}

int cuda_run_product(struct cuda_device *d, const struct cuda_matrix *w, const float *bias, uint32_t m, const char *x,
                     void *y, struct tl_error *err) {
  bool few = m <= TL_CUDA_GEMV_MAX_ROWS;
  for (unsigned i = 0; i < w->n_pieces; i++) {
    int r = few ? few_rows_of_piece(d, w, &w->pieces[i], bias, TL_CUDA_UNGATED, m, x, y, err)
                : many_rows_of_piece(d, w, &w->pieces[i], m, x, y, err);
    if (r < 0) return r;
  }
  if (few || !bias) return TL_OK;
  struct tl_cuda_bias_args args = {.dtype = d->dtype, .n = m, .dim = w->n, .y = y, .bias = bias};
  CUDA_TRY(d, d->api->op.bias(&args, d->stream), "adding a bias", err);
  return TL_OK;
}
