/* SPDX-License-Identifier: MIT */
/* The fake's cuBLASLt and NCCL. */
#include "fake_private.h"

#define MAGIC 0x5eedf00d

/* --- products -------------------------------------------------------------------------------------------- */

struct layout {
  int type;
  uint64_t rows, cols;
  int64_t ld;
  int32_t count; /* of matrices, */
  int64_t offset; /* so many elements apart */
};

struct desc {
  int32_t transpose, w_mode, x_mode;
  const float *w_scales, *x_scales;
};

struct product {
  const void *w, *x;
  void *y;
  struct layout wl, xl, yl;
  float alpha;
  struct desc desc;
};

static size_t element_bytes(int type) {
  return type == CUDA_LT_R_32F ? 4 : type == CUDA_LT_R_8F_E4M3 ? 1 : 2;
}

static enum tl_dtype dtype_of(int type) {
  return type == CUDA_LT_R_8F_E4M3 ? TL_DTYPE_F8_E4M3 : type == CUDA_LT_R_16BF ? TL_DTYPE_BF16 : TL_DTYPE_F16;
}

static void put_element(const struct product *p, size_t n, size_t m, float value) {
  size_t at = m * (uint64_t)p->yl.ld + n;
  value *= p->alpha;
  if (p->desc.w_mode) value *= p->desc.w_scales[n] * p->desc.x_scales[m];
  if (p->yl.type == CUDA_LT_R_32F)
    ((float *)p->y)[at] = value;
  else
    ((uint16_t *)p->y)[at] = p->yl.type == CUDA_LT_R_16BF ? tl_f32_to_bf16(value) : tl_f32_to_f16(value);
}

/* y (n, m) = w (k, n) transposed, x (k, m); columns one after the other. Sums in ascending k, those of
 * some columns of x side by side, so that the compiler can use vectors. */
static void run_one(const struct product *p) {
  enum { SIDE = 8 };
  size_t depth = p->wl.rows, n_columns = p->xl.cols;
  float *w = malloc(depth * sizeof *w), *column = malloc(depth * sizeof *column);
  float *x = calloc((n_columns + SIDE - 1) / SIDE * SIDE * depth, sizeof *x); /* (m / SIDE, k, SIDE) */
  for (size_t m = 0; m < n_columns; m++) {
    tl_dtype_to_f32(dtype_of(p->xl.type), (const char *)p->x + m * (uint64_t)p->xl.ld * element_bytes(p->xl.type), column, depth);
    for (size_t k = 0; k < depth; k++) x[(m / SIDE * depth + k) * SIDE + m % SIDE] = column[k];
  }
  for (size_t n = 0; n < p->wl.cols; n++) {
    tl_dtype_to_f32(dtype_of(p->wl.type), (const char *)p->w + n * (uint64_t)p->wl.ld * element_bytes(p->wl.type), w, depth);
    for (size_t m = 0; m < n_columns; m += SIDE) {
      float sums[SIDE] = {0};
      for (size_t k = 0; k < depth; k++)
        for (unsigned i = 0; i < SIDE; i++) sums[i] += w[k] * x[(m * depth) + k * SIDE + i];
      for (unsigned i = 0; i < SIDE && m + i < n_columns; i++) put_element(p, n, m + i, sums[i]);
    }
  }
  free(w);
  free(column);
  free(x);
}

static int run_product(void *args) {
  const struct product *p = args;
  for (int32_t i = 0; i < p->wl.count && !fake_cuda.idle; i++) {
    struct product one = *p;
    one.w = (const char *)p->w + (size_t)i * (size_t)p->wl.offset * element_bytes(p->wl.type);
    one.x = (const char *)p->x + (size_t)i * (size_t)p->xl.offset * element_bytes(p->xl.type);
    one.y = (char *)p->y + (size_t)i * (size_t)p->yl.offset * element_bytes(p->yl.type);
    run_one(&one);
  }
  return 0;
}

static int lt_create(void **ret) {
  FAKE_BEGIN("lt_create");
  *ret = fake_new_object(1);
  return 0;
}

static int lt_destroy(void *lt) {
  fake_free_object(lt);
  return fake_begin("lt_destroy");
}

static int lt_desc_new(void **ret, int compute, int scale) {
  FAKE_BEGIN("lt_desc_new");
  assert_int_equal(compute, CUDA_LT_COMPUTE_32F);
  assert_int_equal(scale, CUDA_LT_R_32F);
  *ret = fake_new_object(sizeof(struct desc));
  return 0;
}

static int lt_desc_set(void *desc, int attribute, const void *value, size_t bytes) {
  FAKE_BEGIN("lt_desc_set");
  static const struct {
    int attribute;
    size_t at, bytes;
  } known[] = {{CUDA_LT_DESC_TRANSA, offsetof(struct desc, transpose), sizeof(int32_t)},
               {CUDA_LT_DESC_A_SCALE_MODE, offsetof(struct desc, w_mode), sizeof(int32_t)},
               {CUDA_LT_DESC_B_SCALE_MODE, offsetof(struct desc, x_mode), sizeof(int32_t)},
               {CUDA_LT_DESC_A_SCALE_POINTER, offsetof(struct desc, w_scales), sizeof(void *)},
               {CUDA_LT_DESC_B_SCALE_POINTER, offsetof(struct desc, x_scales), sizeof(void *)}};
  size_t i = 0;
  while (i < UNIT_COUNT(known) && known[i].attribute != attribute) i++;
  assert_true(i < UNIT_COUNT(known) && bytes == known[i].bytes);
  memcpy((char *)desc + known[i].at, value, bytes);
  return 0;
}

static int lt_layout_new(void **ret, int type, uint64_t rows, uint64_t cols, int64_t ld) {
  FAKE_BEGIN("lt_layout_new");
  struct layout *l = fake_new_object(sizeof *l);
  *l = (struct layout){type, rows, cols, ld, 1, 0};
  *ret = l;
  return 0;
}

static int lt_layout_set(void *layout, int attribute, const void *value, size_t bytes) {
  FAKE_BEGIN("lt_layout_set");
  struct layout *l = layout;
  static const struct {
    int attribute;
    size_t at, bytes;
  } known[] = {{CUDA_LT_LAYOUT_COLS, offsetof(struct layout, cols), sizeof(uint64_t)},
               {CUDA_LT_LAYOUT_BATCH_COUNT, offsetof(struct layout, count), sizeof(int32_t)},
               {CUDA_LT_LAYOUT_BATCH_OFFSET, offsetof(struct layout, offset), sizeof(int64_t)}};
  size_t i = 0;
  while (i < UNIT_COUNT(known) && known[i].attribute != attribute) i++;
  assert_true(i < UNIT_COUNT(known) && bytes == known[i].bytes);
  memcpy((char *)l + known[i].at, value, bytes);
  return 0;
}

struct preference {
  uint64_t workspace;
  uint32_t alignment[4]; /* of A, B, C and D */
};

static int lt_preference_new(void **ret) {
  FAKE_BEGIN("lt_preference_new");
  struct preference *p = *ret = fake_new_object(sizeof *p);
  *p = (struct preference){.alignment = {256, 256, 256, 256}};
  return 0;
}

static int lt_preference_set(void *preference, int attribute, const void *value, size_t bytes) {
  FAKE_BEGIN("lt_preference_set");
  struct preference *p = preference;
  bool workspace = attribute == CUDA_LT_PREFERENCE_WORKSPACE;
  assert_true(workspace || (attribute >= CUDA_LT_PREFERENCE_ALIGNMENT_A && attribute <= CUDA_LT_PREFERENCE_ALIGNMENT_D));
  assert_int_equal(bytes, workspace ? sizeof p->workspace : sizeof *p->alignment);
  memcpy(workspace ? (void *)&p->workspace : &p->alignment[attribute - CUDA_LT_PREFERENCE_ALIGNMENT_A], value, bytes);
  return 0;
}

/* Whether there is such a product. */
static bool check_product(const struct desc *desc, const struct layout *w, const struct layout *x, const struct layout *y) {
  bool e4m3 = w->type == CUDA_LT_R_8F_E4M3;
  int capability = fake_cuda.compute_major * 10 + fake_cuda.compute_minor;
  assert_true(desc->transpose == CUDA_LT_TRANSPOSE && w->type == x->type);
  assert_true(w->rows == x->rows && w->cols == y->rows && x->cols == y->cols);
  assert_true(w->ld >= (int64_t)w->rows && x->ld >= (int64_t)x->rows && y->ld >= (int64_t)y->rows);
  assert_true(w->count == x->count && w->count == y->count && (w->count == 1 || y->offset >= y->ld * (int64_t)y->cols));
  assert_true(w->ld % 8 == 0 && x->ld % 8 == 0); /* tensor cores want 16 bytes */
  assert_true(desc->w_mode == desc->x_mode && (e4m3 || !desc->w_mode));
  if (!e4m3) return true;
  assert_true(capability >= 89 && w->rows % 16 == 0 && w->cols % 16 == 0 && w->ld % 16 == 0 && x->ld % 16 == 0);
  if (desc->w_mode) assert_true(desc->w_mode == CUDA_LT_SCALE_OUTER_VECTOR && desc->w_scales && desc->x_scales);
  return !fake_cuda.no_e4m3 && (!desc->w_mode || capability == 90);
}

static int lt_heuristic(void *lt, void *desc, void *a, void *b, void *c, void *d, void *preference, int n_asked,
                        struct cuda_lt_found *ret, int *ret_n) {
  const struct layout *w = a, *x = b, *y = d;
  FAKE_BEGIN(w->type == CUDA_LT_R_8F_E4M3 || w->count > 1 ? "lt_heuristic of what need not be" : "lt_heuristic");
  assert_non_null(lt);
  assert_ptr_equal(c, d);
  const struct preference *p = preference;
  assert_true(n_asked >= fake_cuda.n_algorithms && p->workspace > 0 && p->alignment[0] == p->alignment[1] && p->alignment[2] == p->alignment[3]);
  assert_int_equal(((uint64_t)w->offset | (uint64_t)x->offset) * element_bytes(w->type) % p->alignment[0], 0);
  assert_int_equal((uint64_t)y->offset * element_bytes(y->type) % p->alignment[2], 0);
  if (!check_product(desc, a, b, d)) return CUDA_LT_NOT_SUPPORTED;
  for (int i = 0; i < fake_cuda.n_algorithms; i++)
    ret[i] = (struct cuda_lt_found){.algorithm = {{((struct layout *)b)->cols, MAGIC, (uint64_t)i, p->alignment[3]}}};
  *ret_n = fake_cuda.n_algorithms;
  return 0;
}

static size_t elements_of(const struct layout *l) {
  return (size_t)(l->count - 1) * (size_t)l->offset + (l->cols - 1) * (uint64_t)l->ld + l->rows;
}

static int lt_matmul(void *lt, void *desc, const void *alpha, const void *a, void *a_layout, const void *b, void *b_layout,
                     const void *beta, const void *c, void *c_layout, void *d, void *d_layout,
                     const struct cuda_lt_algorithm *algorithm, void *workspace, size_t workspace_bytes, void *stream) {
  FAKE_BEGIN("lt_matmul");
  assert_int_equal(algorithm->data[1], MAGIC);
  assert_true(lt && *(const float *)beta == 0 && c == d && c_layout == d_layout);
  assert_true(check_product(desc, a_layout, b_layout, d_layout));
  struct product p = {a, b, d, *(struct layout *)a_layout, *(struct layout *)b_layout, *(struct layout *)d_layout,
                      *(const float *)alpha, *(struct desc *)desc};
  size_t bytes = element_bytes(p.wl.type);
  assert_true(((uintptr_t)a | (uintptr_t)b) % 256 == 0 && (uintptr_t)d % algorithm->data[3] == 0); /* as was promised */
  assert_true(p.alpha == 1 || (bytes == 1 && !p.desc.w_mode));
  if (p.desc.w_mode) {
    fake_check_range(p.desc.w_scales, p.wl.cols * sizeof(float));
    fake_check_range(p.desc.x_scales, p.xl.cols * sizeof(float));
  }
  assert_true(p.xl.cols <= algorithm->data[0]);
  if (fake_cuda.picky && p.xl.cols != algorithm->data[0]) return CUDA_LT_NOT_SUPPORTED;
  if (fake_cuda.bad_algorithm == (int)algorithm->data[2]) return CUDA_LT_NOT_SUPPORTED;
  if (fake_cuda.bad_scales && p.desc.w_mode) return CUDA_LT_NOT_SUPPORTED;
  fake_check_range(workspace, workspace_bytes);
  fake_check_range(a, elements_of(&p.wl) * bytes);
  fake_check_range(b, elements_of(&p.xl) * bytes);
  fake_check_range(d, elements_of(&p.yl) * element_bytes(p.yl.type));
  fake_cuda.n_products++;
  fake_cuda.n_e4m3 += bytes == 1;
  fake_cuda.n_by_algorithm[algorithm->data[2]]++;
  fake_cuda.clock_ms += fake_cuda.algorithm_ms[algorithm->data[2]] + (p.desc.w_mode ? fake_cuda.scales_ms : 0) +
                        (p.wl.count == 1 ? fake_cuda.whole_ms : 0);
  fake_cuda.n_parted += p.wl.count > 1;
  fake_note(p.wl.type == CUDA_LT_R_8F_E4M3 ? '8' : 'm');
  fake_enqueue(stream, "lt_matmul", run_product, &p, sizeof p);
  return 0;
}

static int open_lt(struct tl_error *err) {
  int r = fake_begin("open_lt");
  return r ? tl_error_set(err, TL_EUNSUPPORTED, "devices", "devices: the CUDA backend needs libcublasLt: not there") : TL_OK;
}

/* --- collectives ------------------------------------------------------------------------------------------- */

/* Those who came with the same id. A rank lays down what it brings to its n-th collective and goes on when
 * all have done so; two places each are enough, since nobody is ahead of another by more. */
struct meeting {
  struct cuda_nccl_id id;
  int size, n_came, n_left;
  struct {
    unsigned n_laid; /* collectives that it has brought something to */
    void *laid[2];
  } ranks[FAKE_DEVICES];
};

struct comm {
  struct meeting *meeting; /* NULL: aborted */
  int rank;
  int n_held; /* collectives in graphs that were recorded with it */
};

static _Thread_local struct comm *pending; /* what this thread called is "in progress" */

struct collective {
  struct comm *comm;
  const void *from;
  void *to;
  size_t count;
  int type;
  bool gathers;
  unsigned n; /* which of its communicator's; 0: not laid down yet */
};

#define MAX_LEFT 4096
static struct meeting *meetings[4];
static unsigned n_ids;
static struct comm *left_comms[MAX_LEFT]; /* freed by fake_cuda_reset */
static unsigned n_left_comms;

void fake_check_pending(const char *name) {
  bool may = strcmp(name, "nccl_async_error") == 0 || strcmp(name, "exec_free") == 0;
  if (pending && !may) fail_msg("%s is called while NCCL still works on the call before", name);
}

static int nccl_unique_id(struct cuda_nccl_id *ret) {
  FAKE_BEGIN("nccl_unique_id");
  *ret = (struct cuda_nccl_id){{0}};
  snprintf(ret->bytes, sizeof ret->bytes, "meeting %u", ++n_ids);
  return 0;
}

static struct meeting *find_meeting(const struct cuda_nccl_id *id, int size) {
  unsigned empty = 0;
  for (unsigned i = 0; i < UNIT_COUNT(meetings); i++) {
    if (!meetings[i]) empty = i;
    else if (memcmp(&meetings[i]->id, id, sizeof *id) == 0) return meetings[i];
  }
  meetings[empty] = calloc(1, sizeof *meetings[empty]);
  meetings[empty]->id = *id;
  meetings[empty]->size = size;
  return meetings[empty];
}

static int nccl_init(void **ret_comm, int size, const struct cuda_nccl_id *id, int rank) {
  FAKE_BEGIN("nccl_init");
  struct comm *comm = fake_new_object(sizeof *comm);
  pthread_mutex_lock(&fake_lock);
  *comm = (struct comm){.meeting = find_meeting(id, size), .rank = rank};
  comm->meeting->n_came++;
  pthread_mutex_unlock(&fake_lock);
  assert_true(comm->meeting->size == size && rank < size);
  *ret_comm = pending = comm;
  return CUDA_NCCL_IN_PROGRESS;
}

static int nccl_async_error(void *comm, int *ret) {
  int polled = fake_begin_poll("nccl_async_error");
  if (polled) return polled;
  const struct meeting *m = ((struct comm *)comm)->meeting;
  pthread_mutex_lock(&fake_lock);
  *ret = m->n_came < m->size ? CUDA_NCCL_IN_PROGRESS : fake_cuda.async_error;
  pthread_mutex_unlock(&fake_lock);
  if (*ret == CUDA_NCCL_OK) pending = NULL;
  return 0;
}

static float number(int type, const void *p, size_t at) {
  if (type == CUDA_NCCL_F32) return ((const float *)p)[at];
  uint16_t bits = ((const uint16_t *)p)[at];
  return type == CUDA_NCCL_BF16 ? tl_bf16_to_f32(bits) : tl_f16_to_f32(bits);
}

static void put_number(int type, void *p, size_t at, float value) {
  if (type == CUDA_NCCL_F32) ((float *)p)[at] = value;
  else ((uint16_t *)p)[at] = type == CUDA_NCCL_BF16 ? tl_f32_to_bf16(value) : tl_f32_to_f16(value);
}

static int run_collective(void *args) {
  struct collective *c = args;
  struct meeting *m = c->comm->meeting;
  size_t bytes = c->count * (c->type == CUDA_NCCL_F32 ? 4 : 2);
  if (!m) return 0; /* aborted: ends without a result */
  if (c->n == 0) {
    c->n = ++m->ranks[c->comm->rank].n_laid;
    void **place = &m->ranks[c->comm->rank].laid[c->n % 2];
    *place = memcpy(realloc(*place, bytes), c->from, bytes);
  }
  for (int i = 0; i < m->size; i++)
    if (m->ranks[i].n_laid < c->n) return FAKE_AGAIN;
  for (int i = 0; c->gathers && i < m->size; i++) memcpy((char *)c->to + (size_t)i * bytes, m->ranks[i].laid[c->n % 2], bytes);
  for (size_t k = 0; !c->gathers && k < c->count; k++) {
    float sum = 0;
    for (int i = 0; i < m->size; i++) sum += number(c->type, m->ranks[i].laid[c->n % 2], k);
    put_number(c->type, c->to, k, sum);
  }
  return 0;
}

static int nccl_all_reduce(const void *from, void *to, size_t count, int type, int op, void *comm, void *stream) {
  FAKE_BEGIN("nccl_all_reduce");
  assert_int_equal(op, CUDA_NCCL_SUM);
  struct collective c = {comm, from, to, count, type, false, 0};
  fake_cuda.n_collectives++;
  fake_enqueue(stream, "all_reduce", run_collective, &c, sizeof c);
  pending = comm;
  return CUDA_NCCL_IN_PROGRESS; /* as a communicator that does not block may say */
}

static int nccl_all_gather(const void *from, void *to, size_t count, int type, void *comm, void *stream) {
  FAKE_BEGIN("nccl_all_gather");
  struct collective c = {comm, from, to, count, type, true, 0};
  fake_cuda.n_collectives++;
  fake_enqueue(stream, "all_gather", run_collective, &c, sizeof c);
  return 0;
}

void fake_hold(int (*run)(void *args), const void *args, int n) {
  if (run != run_collective) return;
  pthread_mutex_lock(&fake_lock);
  ((const struct collective *)args)->comm->n_held += n;
  pthread_mutex_unlock(&fake_lock);
}

/* The object stays until the last rank has left: what it enqueued may still look at it. */
static int nccl_abort(void *p) {
  struct comm *comm = p;
  struct meeting *m = comm->meeting;
  if (pending == comm) pending = NULL;
  if (comm->n_held) fail_msg("NCCL waits for ever: a communicator is aborted before its graphs are gone");
  pthread_mutex_lock(&fake_lock);
  fake_remove_object(comm);
  comm->meeting = NULL;
  left_comms[n_left_comms++] = comm;
  assert_true(n_left_comms < MAX_LEFT);
  if (++m->n_left == m->n_came) {
    for (unsigned i = 0; i < UNIT_COUNT(meetings); i++)
      if (meetings[i] == m) meetings[i] = NULL;
    for (int i = 0; i < FAKE_DEVICES; i++) free(m->ranks[i].laid[0]), free(m->ranks[i].laid[1]);
    free(m);
  }
  pthread_mutex_unlock(&fake_lock);
  return fake_begin("nccl_abort");
}

void fake_forget_comms(void) {
  for (unsigned i = 0; i < n_left_comms; i++) free(left_comms[i]);
  n_left_comms = 0;
}

static const char *nccl_text(int code) {
  return code ? "a fake NCCL error" : "no error";
}

static int open_nccl(struct tl_error *err) {
  int r = fake_begin("open_nccl");
  return r ? tl_error_set(err, TL_EUNSUPPORTED, "devices", "devices: the CUDA backend needs libnccl: not there") : TL_OK;
}

void fake_add_libraries(struct cuda_api *api) {
  api->lt = (struct cuda_lt){lt_create, lt_destroy, lt_desc_new, lt_destroy, lt_desc_set, lt_layout_new, lt_destroy, lt_layout_set,
           lt_preference_new, lt_destroy, lt_preference_set, lt_heuristic, lt_matmul};
  api->nccl = (struct cuda_nccl){nccl_unique_id, nccl_async_error, nccl_all_reduce, nccl_all_gather, nccl_abort, nccl_text, nccl_init};
  api->open_lt = open_lt;
  api->open_nccl = open_nccl;
}
