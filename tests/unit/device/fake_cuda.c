/* SPDX-License-Identifier: MIT */
#include "fake_cuda.h"

#include <math.h>
#include <pthread.h>

#include "device/cuda/cuda_backend.h"
#include "unit.h"

#define MAX_OBJECTS 512
#define MAX_NODE 256 /* bytes of arguments */
#define TRAP 700     /* cudaErrorIllegalAddress */
#define MAGIC 0x5eedf00d

struct fake_cuda fake_cuda;

/* Uploads come from several threads; fibers from one at a time. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int last_error, lasting_error;

struct node {
  const char *name;
  int (*run)(const void *args);
  _Alignas(16) char args[MAX_NODE];
};

struct nodes {
  struct node *list;
  unsigned n, room;
};

struct stream {
  struct nodes queue;
  unsigned n_run;       /* of the queue */
  struct nodes *graph;  /* while it is captured */
  bool asked;           /* the first question is answered by "not yet" */
};

struct event {
  struct stream *stream; /* NULL: not recorded, which counts as done */
  unsigned at;           /* done when so many nodes have run */
  bool asked;
};

/* --- objects ------------------------------------------------------------------------------- */

struct object {
  void *p;
  size_t bytes; /* memory only */
  bool host;
};
static struct object objects[MAX_OBJECTS];
static size_t device_bytes;

static struct object *find_object(const void *p) {
  for (unsigned i = 0; i < MAX_OBJECTS; i++)
    if (objects[i].p && (const char *)p >= (const char *)objects[i].p &&
        (const char *)p < (const char *)objects[i].p + (objects[i].bytes ? objects[i].bytes : 1))
      return &objects[i];
  return NULL;
}

static void add_object(void *p, size_t bytes, bool host) {
  for (unsigned i = 0; i < MAX_OBJECTS; i++)
    if (!objects[i].p) {
      objects[i] = (struct object){p, bytes, host};
      return;
    }
  fail_msg("too many objects");
}

static void remove_object(void *p) {
  struct object *o = find_object(p);
  if (!o || o->p != p) fail_msg("freed what was not allocated, or twice");
  if (!o->host) device_bytes -= o->bytes;
  o->p = NULL;
}

unsigned fake_cuda_live(void) {
  unsigned n = 0;
  for (unsigned i = 0; i < MAX_OBJECTS; i++) n += objects[i].p != NULL;
  return n;
}

void fake_cuda_reset(void) {
  assert_int_equal(fake_cuda_live(), 0);
  fake_cuda = (struct fake_cuda){.n_devices = 1, .compute_major = 9, .memory = 256u << 20};
  last_error = lasting_error = 0;
}

/* --- calls ------------------------------------------------------------------------------------ */

/* What every call begins with: counts it, and says what it fails with. */
static int begin(const char *name) {
  unsigned n = atomic_fetch_add_explicit(&fake_cuda.n_calls, 1, memory_order_relaxed) + 1; /* relaxed: a count */
  if (lasting_error) return lasting_error;
  if (n != fake_cuda.fail_at) return 0;
  fake_cuda.failed = name;
  last_error = fake_cuda.fail_code;
  if (fake_cuda.sticky) lasting_error = fake_cuda.fail_code;
  return fake_cuda.fail_code;
}

#define BEGIN(name)              \
  do {                           \
    int begin_r_ = begin(name);  \
    if (begin_r_) return begin_r_; \
  } while (0)

static void *new_object(size_t bytes) {
  void *p = calloc(1, bytes);
  pthread_mutex_lock(&lock);
  add_object(p, 0, true);
  pthread_mutex_unlock(&lock);
  return p;
}

static void free_object(void *p) {
  pthread_mutex_lock(&lock);
  remove_object(p);
  pthread_mutex_unlock(&lock);
  free(p);
}

static int rt_count(int *ret) {
  BEGIN("count");
  *ret = fake_cuda.n_devices;
  return fake_cuda.count_error;
}

static int rt_info(int device, struct cuda_info *ret) {
  BEGIN("info");
  (void)device;
  *ret = (struct cuda_info){"Fake", "0000:01:00.0", fake_cuda.compute_major, 0, 3};
  return 0;
}

static int rt_use(int device) {
  BEGIN("use");
  assert_true(device < fake_cuda.n_devices);
  return 0;
}

static int rt_memory(size_t *ret_free, size_t *ret_total) {
  BEGIN("memory");
  *ret_total = fake_cuda.memory;
  *ret_free = fake_cuda.memory - device_bytes;
  return 0;
}

/* Filled with NaN, where anything reads it; aligned as CUDA does it. */
static int allocate(void **ret, size_t bytes, bool host) {
  if (posix_memalign(ret, 256, bytes) != 0) fail_msg("out of memory");
  memset(*ret, 0xff, fake_cuda.idle ? 1 : bytes);
  pthread_mutex_lock(&lock);
  if (!host) device_bytes += bytes;
  add_object(*ret, bytes, host);
  bool fits = device_bytes <= fake_cuda.memory;
  pthread_mutex_unlock(&lock);
  if (!fits) fail_msg("more was allocated than the device has");
  return 0;
}

static int rt_alloc(void **ret, size_t bytes) {
  BEGIN("alloc");
  return allocate(ret, bytes, false);
}

static int rt_alloc_host(void **ret, size_t bytes) {
  BEGIN("alloc_host");
  return allocate(ret, bytes, true);
}

/* What frees also does so when it returns an error. */
static int rt_free(void *p) {
  free_object(p);
  return begin("free");
}

/* --- streams ------------------------------------------------------------------------------------- */

static void push(struct nodes *nodes, const struct node *node) {
  if (nodes->n == nodes->room) {
    nodes->room = nodes->room ? 2 * nodes->room : 64;
    nodes->list = realloc(nodes->list, nodes->room * sizeof *nodes->list);
  }
  nodes->list[nodes->n++] = *node;
}

static void enqueue(void *stream, const char *name, int (*run)(const void *args), const void *args, size_t bytes) {
  struct stream *s = stream;
  struct node node = {.name = name, .run = run};
  assert_true(bytes <= MAX_NODE);
  memcpy(node.args, args, bytes);
  push(s->graph ? s->graph : &s->queue, &node);
}

static int run_node(const struct node *node) {
  if (lasting_error) return lasting_error;
  int r = node->run(node->args);
  if (r && r != TRAP) fail_msg("%s refuses its arguments: %d", node->name, r);
  if (r) last_error = lasting_error = r;
  return r;
}

/* Runs all before node `end` of the queue. */
static int run_until(struct stream *s, unsigned end) {
  pthread_mutex_lock(&lock);
  int r = lasting_error;
  while (!r && s->n_run < end) r = run_node(&s->queue.list[s->n_run++]);
  pthread_mutex_unlock(&lock);
  return r;
}

static int rt_stream_new(void **ret) {
  BEGIN("stream_new");
  *ret = new_object(sizeof(struct stream));
  return 0;
}

static int rt_stream_free(void *stream) {
  free(((struct stream *)stream)->queue.list);
  free_object(stream);
  return begin("stream_free");
}

static int rt_stream_query(void *stream) {
  struct stream *s = stream;
  BEGIN("stream_query");
  s->asked = !s->asked;
  if (s->n_run < s->queue.n && (s->asked || fake_cuda.hangs)) return CUDA_NOT_READY;
  return run_until(s, s->queue.n);
}

static int rt_event_new(void **ret) {
  BEGIN("event_new");
  *ret = new_object(sizeof(struct event));
  return 0;
}

static int rt_event_free(void *event) {
  free_object(event);
  return begin("event_free");
}

static int rt_event_record(void *event, void *stream) {
  BEGIN("event_record");
  struct stream *s = stream;
  assert_null(s->graph);
  *(struct event *)event = (struct event){s, s->queue.n, false};
  return 0;
}

static int rt_event_query(void *event) {
  struct event *e = event;
  BEGIN("event_query");
  e->asked = !e->asked;
  if (!e->stream || e->stream->n_run >= e->at) return lasting_error;
  return e->asked || fake_cuda.hangs ? CUDA_NOT_READY : run_until(e->stream, e->at);
}

static int rt_event_wait(void *event) {
  struct event *e = event;
  BEGIN("event_wait");
  return e->stream ? run_until(e->stream, e->at) : 0;
}

/* --- copies ------------------------------------------------------------------------------------------ */

struct copy {
  void *to;
  const void *from;
  size_t to_pitch, from_pitch, bytes, rows;
  int byte;
};

static int run_copy(const void *args) {
  const struct copy *c = args;
  for (size_t i = 0; i < c->rows; i++)
    memcpy((char *)c->to + i * c->to_pitch, (const char *)c->from + i * c->from_pitch, c->bytes);
  return 0;
}

static int run_fill(const void *args) {
  const struct copy *c = args;
  memset(c->to, c->byte, c->bytes);
  return 0;
}

static void check_range(const void *p, size_t bytes) {
  pthread_mutex_lock(&lock);
  const struct object *o = find_object(p);
  bool fine = o && (const char *)p + bytes <= (const char *)o->p + o->bytes;
  pthread_mutex_unlock(&lock);
  if (!fine) fail_msg("a copy of %zu bytes touches what was not allocated", bytes);
}

static int rt_copy_rows(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t bytes, size_t rows, void *stream) {
  BEGIN("copy_rows");
  assert_true(rows > 0 && bytes > 0 && bytes <= to_pitch && bytes <= from_pitch);
  check_range(to, (rows - 1) * to_pitch + bytes);
  check_range(from, (rows - 1) * from_pitch + bytes);
  struct copy c = {to, from, to_pitch, from_pitch, bytes, rows, 0};
  enqueue(stream, "copy_rows", run_copy, &c, sizeof c);
  return 0;
}

static int rt_copy(void *to, const void *from, size_t bytes, void *stream) {
  BEGIN("copy");
  check_range(to, bytes);
  check_range(from, bytes);
  struct copy c = {to, from, bytes, bytes, bytes, 1, 0};
  enqueue(stream, "copy", run_copy, &c, sizeof c);
  return 0;
}

static int rt_fill(void *p, int byte, size_t bytes, void *stream) {
  BEGIN("fill");
  check_range(p, bytes);
  struct copy c = {.to = p, .byte = byte, .bytes = bytes};
  enqueue(stream, "fill", run_fill, &c, sizeof c);
  return 0;
}

/* --- graphs ------------------------------------------------------------------------------------------- */

static int rt_capture_begin(void *stream) {
  struct stream *s = stream;
  BEGIN("capture_begin");
  assert_null(s->graph);
  s->graph = new_object(sizeof *s->graph);
  return 0;
}

static int rt_capture_end(void *stream, void **ret_graph) {
  struct stream *s = stream;
  struct nodes *graph = s->graph;
  assert_non_null(graph);
  s->graph = NULL;
  int r = begin("capture_end");
  if (r) {
    free(graph->list);
    free_object(graph);
    return r;
  }
  *ret_graph = graph;
  return 0;
}

static int rt_graph_make(void **ret_exec, void *graph) {
  BEGIN("graph_make");
  struct nodes *exec = new_object(sizeof *exec), *from = graph;
  for (unsigned i = 0; i < from->n; i++) push(exec, &from->list[i]);
  fake_cuda.n_graphs++;
  *ret_exec = exec;
  return 0;
}

static int rt_graph_free(void *graph) {
  free(((struct nodes *)graph)->list);
  free_object(graph);
  return begin("graph_free");
}

static int rt_exec_free(void *exec) {
  free(((struct nodes *)exec)->list);
  free_object(exec);
  return begin("exec_free");
}

static int run_exec(const void *args) {
  const struct nodes *exec;
  memcpy(&exec, args, sizeof exec);
  int r = 0;
  for (unsigned i = 0; i < exec->n && !r; i++) r = run_node(&exec->list[i]);
  return r;
}

static int rt_exec_launch(void *exec, void *stream) {
  BEGIN("exec_launch");
  fake_cuda.n_replays++;
  enqueue(stream, "exec_launch", run_exec, &exec, sizeof exec);
  return 0;
}

static int rt_clear(void) {
  int r = lasting_error ? lasting_error : last_error;
  last_error = 0;
  return r;
}

static const char *rt_text(int code) {
  return code == CUDA_DRIVER_TOO_OLD ? "CUDA driver version is insufficient for CUDA runtime version" : "a fake error";
}

/* --- products -------------------------------------------------------------------------------------------- */

struct layout {
  int type;
  uint64_t rows, cols;
  int64_t ld;
};

struct product {
  const void *w, *x;
  void *y;
  struct layout wl, xl, yl;
};

static float element(int type, const void *base, size_t at) {
  uint16_t bits = ((const uint16_t *)base)[at];
  return type == CUDA_LT_R_16BF ? tl_bf16_to_f32(bits) : tl_f16_to_f32(bits);
}

/* y (n, m) = w (k, n) transposed, x (k, m); columns one after the other. */
static int run_product(const void *args) {
  const struct product *p = args;
  if (fake_cuda.idle) return 0;
  for (uint64_t m = 0; m < p->xl.cols; m++)
    for (uint64_t n = 0; n < p->wl.cols; n++) {
      float sum = 0;
      for (uint64_t k = 0; k < p->wl.rows; k++)
        sum += element(p->wl.type, p->w, n * (uint64_t)p->wl.ld + k) * element(p->xl.type, p->x, m * (uint64_t)p->xl.ld + k);
      size_t at = m * (uint64_t)p->yl.ld + n;
      if (p->yl.type == CUDA_LT_R_32F)
        ((float *)p->y)[at] = sum;
      else
        ((uint16_t *)p->y)[at] = p->yl.type == CUDA_LT_R_16BF ? tl_f32_to_bf16(sum) : tl_f32_to_f16(sum);
    }
  return 0;
}

static int lt_create(void **ret) {
  BEGIN("lt_create");
  *ret = new_object(1);
  return 0;
}

static int lt_destroy(void *lt) {
  free_object(lt);
  return begin("lt_destroy");
}

static int lt_desc_new(void **ret, int compute, int scale) {
  BEGIN("lt_desc_new");
  assert_int_equal(compute, CUDA_LT_COMPUTE_32F);
  assert_int_equal(scale, CUDA_LT_R_32F);
  *ret = new_object(sizeof(int32_t));
  return 0;
}

static int lt_desc_set(void *desc, int attribute, const void *value, size_t bytes) {
  BEGIN("lt_desc_set");
  assert_true(attribute == CUDA_LT_DESC_TRANSA && bytes == sizeof(int32_t));
  memcpy(desc, value, bytes);
  return 0;
}

static int lt_layout_new(void **ret, int type, uint64_t rows, uint64_t cols, int64_t ld) {
  BEGIN("lt_layout_new");
  struct layout *l = new_object(sizeof *l);
  *l = (struct layout){type, rows, cols, ld};
  *ret = l;
  return 0;
}

static int lt_layout_set(void *layout, int attribute, const void *value, size_t bytes) {
  BEGIN("lt_layout_set");
  struct layout *l = layout;
  assert_true(attribute == CUDA_LT_LAYOUT_COLS && bytes == sizeof l->cols);
  memcpy(&l->cols, value, bytes);
  return 0;
}

static int lt_preference_new(void **ret) {
  BEGIN("lt_preference_new");
  *ret = new_object(sizeof(uint64_t));
  return 0;
}

static int lt_preference_set(void *preference, int attribute, const void *value, size_t bytes) {
  BEGIN("lt_preference_set");
  assert_true(attribute == CUDA_LT_PREFERENCE_WORKSPACE && bytes == sizeof(uint64_t));
  memcpy(preference, value, bytes);
  return 0;
}

static void check_product(const void *desc, const struct layout *w, const struct layout *x, const struct layout *y) {
  assert_int_equal(*(const int32_t *)desc, CUDA_LT_TRANSPOSE);
  assert_true(w->rows == x->rows && w->cols == y->rows && x->cols == y->cols);
  assert_true(w->ld >= (int64_t)w->rows && x->ld >= (int64_t)x->rows && y->ld >= (int64_t)y->rows);
  assert_true(w->ld % 8 == 0 && x->ld % 8 == 0); /* tensor cores want 16 bytes */
}

static int lt_heuristic(void *lt, void *desc, void *a, void *b, void *c, void *d, void *preference, int n_asked,
                        struct cuda_lt_found *ret, int *ret_n) {
  BEGIN("lt_heuristic");
  assert_non_null(lt);
  assert_ptr_equal(c, d);
  assert_true(n_asked == 1 && *(uint64_t *)preference > 0);
  check_product(desc, a, b, d);
  *ret = (struct cuda_lt_found){.algorithm = {{((struct layout *)b)->cols, MAGIC}}};
  *ret_n = 1;
  return 0;
}

static void note(char letter) {
  size_t n = strlen(fake_cuda.order);
  if (n + 1 == sizeof fake_cuda.order) memmove(fake_cuda.order, fake_cuda.order + 1, n--);
  fake_cuda.order[n] = letter;
  fake_cuda.order[n + 1] = 0;
  fake_cuda.n_launches++;
}

static int lt_matmul(void *lt, void *desc, const void *alpha, const void *a, void *a_layout, const void *b, void *b_layout,
                     const void *beta, const void *c, void *c_layout, void *d, void *d_layout,
                     const struct cuda_lt_algorithm *algorithm, void *workspace, size_t workspace_bytes, void *stream) {
  BEGIN("lt_matmul");
  assert_true(lt && *(const float *)alpha == 1 && *(const float *)beta == 0 && c == d && c_layout == d_layout);
  check_product(desc, a_layout, b_layout, d_layout);
  struct product p = {a, b, d, *(struct layout *)a_layout, *(struct layout *)b_layout, *(struct layout *)d_layout};
  assert_int_equal(algorithm->data[1], MAGIC);
  assert_true(p.xl.cols <= algorithm->data[0]);
  if (fake_cuda.picky && p.xl.cols != algorithm->data[0]) return CUDA_LT_NOT_SUPPORTED;
  check_range(workspace, workspace_bytes);
  check_range(a, ((p.wl.cols - 1) * (uint64_t)p.wl.ld + p.wl.rows) * 2);
  check_range(b, ((p.xl.cols - 1) * (uint64_t)p.xl.ld + p.xl.rows) * 2);
  check_range(d, ((p.yl.cols - 1) * (uint64_t)p.yl.ld + p.yl.rows) * (p.yl.type == CUDA_LT_R_32F ? 4 : 2));
  fake_cuda.n_products++;
  note('m');
  enqueue(stream, "lt_matmul", run_product, &p, sizeof p);
  return 0;
}

static int open_lt(struct tl_error *err) {
  int r = begin("open_lt");
  return r ? tl_error_set(err, TL_EUNSUPPORTED, "devices", "devices: the CUDA backend needs libcublasLt: not there") : TL_OK;
}

/* --- kernels ------------------------------------------------------------------------------------------------ */

static int before_kernel(void) {
  return ++fake_cuda.n_kernels == fake_cuda.trap_at ? TRAP : 0;
}

#define KERNEL(name, letter)                                                  \
  static int run_##name(const void *args) {                                   \
    int r = before_kernel();                                                  \
    return r || fake_cuda.idle ? r : tl_cuda_##name(args, NULL);              \
  }                                                                           \
  static int op_##name(const struct tl_cuda_##name##_args *args, void *stream) { \
    BEGIN(#name);                                                             \
    note(letter);                                                             \
    enqueue(stream, #name, run_##name, args, sizeof *args);                   \
    return 0;                                                                 \
  }
KERNEL(embed, 'e')
KERNEL(add_norm, 'n')
KERNEL(qkv, 'k')
KERNEL(decode, 'd')
KERNEL(prefill, 'p')
KERNEL(swiglu, 'g')
KERNEL(gather, 'l')
KERNEL(bias, 'b')
KERNEL(gemv, 'v')
KERNEL(sample, 's')

static int op_prepare(void) {
  BEGIN("prepare");
  return 0;
}

const struct cuda_api fake_cuda_api = {
    .rt = {rt_count,       rt_info,       rt_use,          rt_memory,      rt_alloc,      rt_free,        rt_alloc_host,
           rt_free,        rt_copy,       rt_copy_rows,    rt_fill,        rt_stream_new, rt_stream_free, rt_stream_query,
           rt_event_new,   rt_event_free, rt_event_record, rt_event_query, rt_event_wait, rt_capture_begin,
           rt_capture_end, rt_graph_make, rt_graph_free,   rt_exec_free,   rt_exec_launch, rt_clear,      rt_text},
    .lt = {lt_create, lt_destroy, lt_desc_new, lt_destroy, lt_desc_set, lt_layout_new, lt_destroy, lt_layout_set,
           lt_preference_new, lt_destroy, lt_preference_set, lt_heuristic, lt_matmul},
    .op = {op_prepare, op_embed, op_add_norm, op_qkv, op_decode, op_prefill, op_swiglu, op_gather, op_bias, op_gemv, op_sample},
    .open_lt = open_lt,
};

static int open_fake(const struct tl_device_options *options, struct tl_device **ret, struct tl_error *err) {
  return cuda_open(&fake_cuda_api, &fake_cuda_ops, options, ret, err);
}

const struct tl_device_ops fake_cuda_ops = {.name = "cuda",
                                            .open = open_fake,
                                            .load = cuda_load,
                                            .submit = cuda_submit_step,
                                            .collect = cuda_collect,
                                            .close = cuda_close,
                                            .reset = cuda_reset};
