/* SPDX-License-Identifier: MIT */
/* The fake's cuDNN: descriptors keep what they are told, and an execution computes the graph, operation by
 * operation. What a real kernel does not promise is NaN: rows, keys and values past a sequence's own.
 *
 * As the real one's, a plan's JSON lists what its kernel takes; without a logarithm of the rows' sums that is the rows' maxima and
 * sums, too, virtual or not, and an execution would write them to addresses that nobody gave. */
#include <math.h>
#include <stdio.h>

#include "device/cuda/cuda_sdpa.h"
#include "fake_private.h"

#define MAX_ATTRIBUTES 12
#define MAX_BYTES 256

struct attribute {
  int name, type;
  int64_t n;
  _Alignas(8) char values[MAX_BYTES];
};

struct desc {
  int kind;
  bool is_final;
  unsigned n;
  struct attribute attributes[MAX_ATTRIBUTES];
  /* of a tensor, once it is final */
  int64_t dims[4], strides[4], id;
  int type;
  const struct desc *ragged;
  float *dense; /* while a graph runs, of one that is virtual */
};

struct place {
  int64_t b, h, r, c;
};

/* --- descriptors --------------------------------------------------------------------------------------- */

static size_t size_of(int type) {
  static const size_t sizes[] = {[CUDA_DNN_TYPE_HANDLE] = 8, [CUDA_DNN_TYPE_DATA_TYPE] = 4, [CUDA_DNN_TYPE_BOOLEAN] = 1,
                                 [CUDA_DNN_TYPE_INT64] = 8, [CUDA_DNN_TYPE_DOUBLE] = 8, [CUDA_DNN_TYPE_VOID_PTR] = 8,
                                 [CUDA_DNN_TYPE_HEUR_MODE] = 4, [CUDA_DNN_TYPE_POINTWISE_MODE] = 4, [CUDA_DNN_TYPE_DESC] = 8,
                                 [CUDA_DNN_TYPE_REDUCTION] = 4, [CUDA_DNN_TYPE_CHAR] = 1};
  assert_true((size_t)type < UNIT_COUNT(sizes) && sizes[type]);
  return sizes[type];
}

static const void *get(const struct desc *d, int name) {
  for (unsigned i = 0; i < d->n; i++)
    if (d->attributes[i].name == name) return d->attributes[i].values;
  return NULL;
}

static struct desc *get_desc(const struct desc *d, int name) {
  struct desc *const *value = get(d, name);
  return value ? *value : NULL;
}

static int get_int(const struct desc *d, int name) {
  const int *value = get(d, name);
  assert_non_null(value);
  return *value;
}

static size_t dnn_version(void) {
  return fake_cuda.dnn_version;
}

static int dnn_create(void **ret) {
  FAKE_BEGIN("dnn_create");
  *ret = fake_new_object(sizeof(void *));
  return 0;
}

static int dnn_destroy(void *handle) {
  fake_free_object(handle);
  return fake_begin("dnn_destroy");
}

static int dnn_set_stream(void *handle, void *stream) {
  FAKE_BEGIN("dnn_set_stream");
  *(void **)handle = stream;
  return 0;
}

static int dnn_desc_new(int kind, void **ret) {
  FAKE_BEGIN("dnn_desc_new");
  struct desc *d = fake_new_object(sizeof *d);
  d->kind = kind;
  *ret = d;
  return 0;
}

static int dnn_desc_free(void *desc) {
  fake_free_object(desc);
  return fake_begin("dnn_desc_free");
}

static int dnn_desc_set(void *desc, int name, int type, int64_t n, const void *values) {
  FAKE_BEGIN("dnn_desc_set");
  struct desc *d = desc;
  size_t bytes = size_of(type) * (size_t)n;
  assert_true(!d->is_final && d->n < MAX_ATTRIBUTES && bytes <= MAX_BYTES && !get(d, name));
  struct attribute *a = &d->attributes[d->n++];
  *a = (struct attribute){.name = name, .type = type, .n = n};
  memcpy(a->values, values, bytes);
  if (type == CUDA_DNN_TYPE_DESC)
    for (int64_t i = 0; i < n; i++)
      assert_true(((struct desc **)a->values)[i] && (((struct desc **)a->values)[i]->is_final));
  return 0;
}

static void finalize_tensor(struct desc *t) {
  memcpy(t->dims, get(t, CUDA_DNN_TENSOR_DIMENSIONS), sizeof t->dims);
  memcpy(t->strides, get(t, CUDA_DNN_TENSOR_STRIDES), sizeof t->strides);
  t->id = *(const int64_t *)get(t, CUDA_DNN_TENSOR_ID);
  t->type = get_int(t, CUDA_DNN_TENSOR_DATA_TYPE);
  t->ragged = get_desc(t, CUDA_DNN_TENSOR_RAGGED);
}

static int dnn_desc_finalize(void *desc) {
  FAKE_BEGIN("dnn_desc_finalize");
  struct desc *d = desc;
  assert_false(d->is_final);
  d->is_final = true;
  if (d->kind == CUDA_DNN_TENSOR) finalize_tensor(d);
  if (d->kind != CUDA_DNN_PLAN) return 0;
  assert_int_equal(get_desc(get_desc(d, CUDA_DNN_PLAN_CONFIG), CUDA_DNN_HEUR_GRAPH)->kind, CUDA_DNN_GRAPH);
  fake_cuda.n_dnn_plans++;
  return 0;
}

/* --- what a kernel takes -------------------------------------------------------------------------------- */

static struct desc *const *ops_of(const struct desc *graph, int64_t *ret_n) {
  for (unsigned i = 0; i < graph->n; i++)
    if (graph->attributes[i].name == CUDA_DNN_GRAPH_OPS) *ret_n = graph->attributes[i].n;
  return get(graph, CUDA_DNN_GRAPH_OPS);
}

static struct desc *result_of(const struct desc *op) {
  static const int names[] = {CUDA_DNN_OP_PW_Y, CUDA_DNN_OP_REDUCTION_Y, CUDA_DNN_OP_MATMUL_C, CUDA_DNN_PAGED_Y};
  struct desc *y = NULL;
  for (unsigned i = 0; i < UNIT_COUNT(names) && !y; i++) y = get_desc(op, names[i]);
  assert_non_null(y);
  return y;
}

static bool has_log(const struct desc *graph) {
  int64_t n = 0;
  struct desc *const *ops = ops_of(graph, &n);
  for (int64_t i = 0; i < n; i++)
    if (ops[i]->kind == CUDA_DNN_OP_POINTWISE && get_int(get_desc(ops[i], CUDA_DNN_OP_PW_DESC), CUDA_DNN_PW_MODE) == CUDA_DNN_LOG) return true;
  return false;
}

static int64_t list_parameters(const struct desc *graph, char *to, size_t room) {
  int64_t n_ops = 0;
  struct desc *const *ops = ops_of(graph, &n_ops);
  size_t n = (size_t)snprintf(to, room, "{\"offsets\":[{\"value\":72,\"uid\":2898540878490494980},{\"value\":80,\"uid\":-507205713341733187}");
  for (int id = CUDA_SDPA_Q; id < CUDA_SDPA_IDS; id++)
    if (id != fake_cuda.dnn_unlisted) n += (size_t)snprintf(to + n, room - n, ",{\"value\":%d,\"uid\":%d}", 128 + 8 * id, id);
  for (int64_t i = 0; i < n_ops && !has_log(graph); i++)
    if (ops[i]->kind == CUDA_DNN_OP_REDUCTION) n += (size_t)snprintf(to + n, room - n, ",{\"uid\":%d}", (int)result_of(ops[i])->id);
  return (int64_t)n + snprintf(to + n, room - n, "]}");
}

static const struct desc *graph_of(const struct desc *plan) {
  return get_desc(get_desc(plan, CUDA_DNN_PLAN_CONFIG), CUDA_DNN_HEUR_GRAPH);
}

static int dnn_desc_get(const void *desc, int name, int type, int64_t n_asked, int64_t *ret_n, void *ret) {
  FAKE_BEGIN("dnn_desc_get");
  const struct desc *d = desc;
  assert_true(d->is_final);
  if (name == CUDA_DNN_PLAN_JSON) {
    char json[2000];
    assert_int_equal(type, CUDA_DNN_TYPE_CHAR);
    *ret_n = list_parameters(graph_of(d), json, sizeof json);
    assert_true(n_asked == (ret ? *ret_n : 0));
    if (ret) memcpy(ret, json, (size_t)n_asked);
    return 0;
  }
  assert_int_equal(n_asked, 1);
  *ret_n = 1;
  if (name == CUDA_DNN_PLAN_WORKSPACE) {
    assert_int_equal(type, CUDA_DNN_TYPE_INT64);
    *(int64_t *)ret = fake_cuda.dnn_workspace_bytes;
    return 0;
  }
  assert_true(name == CUDA_DNN_HEUR_RESULTS && type == CUDA_DNN_TYPE_DESC);
  struct desc *config = *(struct desc **)ret;
  assert_int_equal(config->kind, CUDA_DNN_ENGINECFG);
  *ret_n = !fake_cuda.no_dnn_kernel;
  config->attributes[config->n++] = *d->attributes; /* the graph is what it is told first */
  config->is_final = true;
  return 0;
}

/* --- values ------------------------------------------------------------------------------------------------ */

struct execution {
  const struct desc *graph;
  void *pointers[CUDA_SDPA_IDS];
  float scale, outside, after;
};

/* By pointer, here and below: a copy of what a loop just counted up waits for it, and that was most of the time. */
static size_t dense_at(const struct desc *t, const struct place *p) {
  return (size_t)(((p->b * t->dims[1] + p->h) * t->dims[2] + p->r) * t->dims[3] + p->c);
}

/* Elements from the tensor's pointer on. */
static int64_t memory_at(const struct execution *e, const struct desc *t, const struct place *p) {
  int64_t first = t->ragged ? ((const int32_t *)e->pointers[t->ragged->id])[p->b] : p->b * t->strides[0];
  return first + p->h * t->strides[1] + p->r * t->strides[2] + p->c * t->strides[3];
}

/* A dimension of 1 stands for any. */
static float read_value(const struct execution *e, const struct desc *t, const struct place *any) {
  const int64_t *d = t->dims, id = t->id;
  const struct place p = {d[0] == 1 ? 0 : any->b, d[1] == 1 ? 0 : any->h, d[2] == 1 ? 0 : any->r, d[3] == 1 ? 0 : any->c};
  if (t->dense) return t->dense[dense_at(t, &p)];
  if (id == CUDA_SDPA_SCALE) return e->scale;
  if (id == CUDA_SDPA_OUTSIDE) return e->outside;
  if (id == CUDA_SDPA_AFTER) return e->after;
  assert_true(id < CUDA_SDPA_IDS);
  int64_t at = memory_at(e, t, &p);
  if (t->type == CUDA_DNN_INT32) return (float)((const int32_t *)e->pointers[id])[at];
  uint16_t bits = ((const uint16_t *)e->pointers[id])[at];
  return t->type == CUDA_DNN_BFLOAT16 ? tl_bf16_to_f32(bits) : tl_f16_to_f32(bits);
}

static void write_value(const struct execution *e, struct desc *t, const struct place *p, float value) {
  bool is_half = t->type == CUDA_DNN_HALF, is_16 = is_half || t->type == CUDA_DNN_BFLOAT16;
  uint16_t bits = !is_16 ? 0 : is_half ? tl_f32_to_f16(value) : tl_f32_to_bf16(value);
  if (is_16) value = is_half ? tl_f16_to_f32(bits) : tl_bf16_to_f32(bits);
  if (t->dense) t->dense[dense_at(t, p)] = value;
  else ((uint16_t *)e->pointers[t->id])[memory_at(e, t, p)] = bits;
}

/* --- operations ---------------------------------------------------------------------------------------------- */

static float compute_point(int mode, float x, float other, float t) {
  switch (mode) {
    case CUDA_DNN_ADD: return x + other;
    case CUDA_DNN_SUB: return x - other;
    case CUDA_DNN_MUL: return x * other;
    case CUDA_DNN_DIV: return x / other;
    case CUDA_DNN_EXP: return expf(x);
    case CUDA_DNN_LOG: return logf(x);
    case CUDA_DNN_LT: return x < other;
    case CUDA_DNN_GE: return x >= other;
    case CUDA_DNN_AND: return x != 0 && other != 0;
    case CUDA_DNN_SELECT: return t != 0 ? x : other;
  }
  fail_msg("no pointwise mode %d", mode);
  return 0;
}

#define EACH(d, p)                       \
  for (p.b = 0; p.b < (d)[0]; p.b++)     \
    for (p.h = 0; p.h < (d)[1]; p.h++)   \
      for (p.r = 0; p.r < (d)[2]; p.r++) \
        for (p.c = 0; p.c < (d)[3]; p.c++)

static void run_pointwise(const struct execution *e, const struct desc *op) {
  const struct desc *how = get_desc(op, CUDA_DNN_OP_PW_DESC), *x = get_desc(op, CUDA_DNN_OP_PW_X), *b = get_desc(op, CUDA_DNN_OP_PW_B);
  const struct desc *t = get_desc(op, CUDA_DNN_OP_PW_T);
  struct desc *y = get_desc(op, CUDA_DNN_OP_PW_Y);
  int mode = get_int(how, CUDA_DNN_PW_MODE);
  const int64_t *axis = get(how, CUDA_DNN_PW_AXIS);
  struct place p;
  EACH(y->dims, p) {
    float value;
    if (mode == CUDA_DNN_INDEX) value = (float)(*axis == 2 ? p.r : p.c);
    else value = compute_point(mode, read_value(e, x, &p), b ? read_value(e, b, &p) : 0, t ? read_value(e, t, &p) : 0);
    write_value(e, y, &p, value);
  }
}

static void run_reduction(const struct execution *e, const struct desc *op) {
  const struct desc *x = get_desc(op, CUDA_DNN_OP_REDUCTION_X);
  struct desc *y = get_desc(op, CUDA_DNN_OP_REDUCTION_Y);
  bool is_max = get_int(get_desc(op, CUDA_DNN_OP_REDUCTION_DESC), CUDA_DNN_REDUCTION_OP) == CUDA_DNN_REDUCE_MAX;
  struct place p;
  EACH(y->dims, p) {
    float value = is_max ? -INFINITY : 0;
    struct place q = p;
    for (q.c = 0; q.c < x->dims[3]; q.c++) value = is_max ? fmaxf(value, read_value(e, x, &q)) : value + read_value(e, x, &q);
    write_value(e, y, &p, value);
  }
}

static int64_t limit_of(const struct execution *e, const struct desc *t, int64_t b, int64_t otherwise) {
  return t ? (int64_t)read_value(e, t, &(struct place){b, 0, 0, 0}) : otherwise;
}

/* A matrix's first rows and columns. */
static float *read_matrix(const struct execution *e, const struct desc *t, struct place p, int64_t n_rows, int64_t n_columns) {
  float *out = malloc((size_t)(n_rows * n_columns + 1) * sizeof *out);
  for (p.r = 0; p.r < n_rows; p.r++)
    for (p.c = 0; p.c < n_columns; p.c++) out[p.r * n_columns + p.c] = read_value(e, t, &p);
  return out;
}

static int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

static void run_matmul(const struct execution *e, const struct desc *op) {
  const struct desc *x = get_desc(op, CUDA_DNN_OP_MATMUL_A), *w = get_desc(op, CUDA_DNN_OP_MATMUL_B);
  struct desc *y = get_desc(op, CUDA_DNN_OP_MATMUL_C);
  const struct desc *limits[] = {get_desc(op, CUDA_DNN_OP_MATMUL_M), get_desc(op, CUDA_DNN_OP_MATMUL_N), get_desc(op, CUDA_DNN_OP_MATMUL_K)};
  int64_t group = x->dims[1] / w->dims[1];
  struct place p;
  for (p.b = 0; p.b < y->dims[0]; p.b++) {
    int64_t m = smaller(limit_of(e, limits[0], p.b, y->dims[2]), y->dims[2]), n = smaller(limit_of(e, limits[1], p.b, y->dims[3]), y->dims[3]);
    int64_t k = limit_of(e, limits[2], p.b, x->dims[3]);
    for (p.h = 0; p.h < y->dims[1]; p.h++) {
      float *rows = read_matrix(e, x, (struct place){p.b, p.h, 0, 0}, m, k);
      float *columns = read_matrix(e, w, (struct place){p.b, p.h / group, 0, 0}, k, n);
      for (p.r = 0; p.r < (y->dense ? y->dims[2] : m); p.r++)
        for (p.c = 0; p.c < y->dims[3]; p.c++) {
          float sum = 0;
          for (int64_t i = 0; p.r < m && p.c < n && i < k; i++) sum += rows[p.r * k + i] * columns[i * n + p.c];
          write_value(e, y, &p, sum);
        }
      free(rows);
      free(columns);
    }
  }
}

static void run_paged_load(const struct execution *e, const struct desc *op) {
  const struct desc *pages = get_desc(op, CUDA_DNN_PAGED_CONTAINER), *table = get_desc(op, CUDA_DNN_PAGED_TABLE);
  struct desc *y = get_desc(op, CUDA_DNN_PAGED_Y);
  bool is_transposed = ((const int64_t *)get(y, CUDA_DNN_TENSOR_STRIDES))[2] == 1;
  const struct desc *lengths = get_desc(op, CUDA_DNN_PAGED_LENGTHS);
  int64_t per_page = pages->dims[2];
  struct place p;
  EACH(y->dims, p) {
    int64_t token = is_transposed ? p.c : p.r, dim = is_transposed ? p.r : p.c;
    float value = NAN;
    int64_t page = (int64_t)read_value(e, table, &(struct place){p.b, 0, token / per_page, 0}); /* any may be looked at */
    assert_true(page >= 0 && page < pages->dims[0]);
    if (token < limit_of(e, lengths, p.b, 0))
      value = read_value(e, pages, &(struct place){fake_cuda.dnn_reach ? page % fake_cuda.dnn_reach : page, p.h, token % per_page, dim});
    write_value(e, y, &p, value);
  }
}

static int run_graph(void *args) {
  const struct execution *e = args;
  if (fake_cuda.dnn_stray >= 0) ((uint16_t *)e->pointers[CUDA_SDPA_O])[fake_cuda.dnn_stray] = 0;
  if (fake_cuda.idle) return 0;
  int64_t n = 0;
  struct desc *const *ops = ops_of(e->graph, &n);
  for (int64_t i = 0; i < n; i++) {
    struct desc *y = result_of(ops[i]);
    const int64_t *d = y->dims;
    if (get(y, CUDA_DNN_TENSOR_IS_VIRTUAL)) y->dense = malloc((size_t)(d[0] * d[1] * d[2] * d[3]) * sizeof *y->dense);
    switch (ops[i]->kind) {
      case CUDA_DNN_OP_POINTWISE: run_pointwise(e, ops[i]); break;
      case CUDA_DNN_OP_REDUCTION: run_reduction(e, ops[i]); break;
      case CUDA_DNN_OP_MATMUL: run_matmul(e, ops[i]); break;
      case CUDA_DNN_OP_PAGED_LOAD: run_paged_load(e, ops[i]); break;
    }
  }
  for (int64_t i = 0; i < n; i++) {
    free(result_of(ops[i])->dense);
    result_of(ops[i])->dense = NULL;
  }
  return 0;
}

static int dnn_execute(void *handle, void *plan, void *pack) {
  FAKE_BEGIN("dnn_execute");
  const struct desc *p = pack;
  struct execution e = {.graph = graph_of(plan)};
  if (!has_log(e.graph)) fail_msg("rows' maxima and sums are written to addresses that nobody gave");
  const int64_t *ids = get(p, CUDA_DNN_PACK_IDS);
  assert_true(p->is_final && get(p, CUDA_DNN_PACK_WORKSPACE));
  if (fake_cuda.dnn_workspace_bytes) fake_check_range(*(void *const *)get(p, CUDA_DNN_PACK_WORKSPACE), (size_t)fake_cuda.dnn_workspace_bytes);
  for (unsigned i = 0; i < CUDA_SDPA_IDS - 1; i++) e.pointers[ids[i]] = ((void *const *)get(p, CUDA_DNN_PACK_POINTERS))[i];
  e.scale = *(const float *)e.pointers[CUDA_SDPA_SCALE]; /* by value: read now, as the next */
  e.outside = *(const float *)e.pointers[CUDA_SDPA_OUTSIDE];
  e.after = *(const float *)e.pointers[CUDA_SDPA_AFTER];
  fake_cuda.clock_ms += fake_cuda.dnn_ms;
  fake_cuda.n_dnn++;
  fake_note('y');
  fake_enqueue(*(void **)handle, "dnn_execute", run_graph, &e, sizeof e);
  return 0;
}

static int open_dnn(struct tl_error *err) {
  int r = fake_begin("open_dnn");
  fake_cuda.first_dnn_call = fake_cuda.n_calls;
  return r || !fake_cuda.dnn_version ? tl_error_set(err, TL_EUNSUPPORTED, "devices", "devices: no libcudnn_graph") : TL_OK;
}

void fake_add_dnn(struct cuda_api *api) {
  api->dnn = (struct cuda_dnn){dnn_version, dnn_create, dnn_destroy, dnn_set_stream, dnn_desc_new, dnn_desc_free, dnn_desc_set,
                               dnn_desc_get, dnn_desc_finalize, dnn_execute};
  api->open_dnn = open_dnn;
}
