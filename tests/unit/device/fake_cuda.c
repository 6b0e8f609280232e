/* SPDX-License-Identifier: MIT */
#include "device/cuda/cuda_backend.h"
#include "fake_private.h"

#define MAX_OBJECTS 1024
#define MAX_NODE 512 /* bytes of arguments */
#define TRAP CUDA_LAUNCH_FAILURE /* what `trap` makes of a GPU's kernel */

struct fake_cuda fake_cuda;
struct cuda_api fake_cuda_api;

/* Uploads come from several threads; fibers from one at a time. */
pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;
static int last_error, lasting_error;
static _Thread_local int current; /* device */

struct node {
  const char *name;
  int (*run)(void *args);
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
  int device;
  bool asked;           /* the first question is answered by "not yet" */
};

struct event {
  struct stream *stream; /* NULL: not recorded, which counts as done */
  unsigned at;           /* done when so many nodes have run */
  uint64_t clock_ms;
  bool asked;
};

#define MAX_STREAMS 64
static struct stream *streams[MAX_STREAMS];

/* --- objects ------------------------------------------------------------------------------- */

struct object {
  void *p;
  size_t bytes; /* memory only */
  int device;   /* -1: the host */
};
static struct object objects[MAX_OBJECTS];
static size_t device_bytes[FAKE_DEVICES];

static struct object *find_object(const void *p) {
  for (unsigned i = 0; i < MAX_OBJECTS; i++)
    if (objects[i].p && (const char *)p >= (const char *)objects[i].p &&
        (const char *)p < (const char *)objects[i].p + (objects[i].bytes ? objects[i].bytes : 1))
      return &objects[i];
  return NULL;
}

static void add_object(void *p, size_t bytes, int device) {
  for (unsigned i = 0; i < MAX_OBJECTS; i++)
    if (!objects[i].p) {
      objects[i] = (struct object){p, bytes, device};
      return;
    }
  fail_msg("too many objects");
}

void fake_remove_object(void *p) {
  struct object *o = find_object(p);
  if (!o || o->p != p) fail_msg("freed what was not allocated, or twice");
  if (o->device >= 0) device_bytes[o->device] -= o->bytes;
  o->p = NULL;
}

unsigned fake_cuda_live(void) {
  unsigned n = 0;
  for (unsigned i = 0; i < MAX_OBJECTS; i++) n += objects[i].p != NULL;
  return n;
}

/* --- calls ------------------------------------------------------------------------------------ */

/* What every call begins with: counts it, and says what it fails with. */
int fake_begin(const char *name) {
  fake_check_pending(name);
  unsigned n = atomic_fetch_add_explicit(&fake_cuda.n_calls, 1, memory_order_relaxed) + 1; /* relaxed: a count */
  if (lasting_error) return last_error = lasting_error;
  if (n != fake_cuda.fail_at) return 0;
  fake_cuda.failed = name;
  last_error = fake_cuda.fail_code;
  if (fake_cuda.sticky) lasting_error = fake_cuda.fail_code;
  return fake_cuda.fail_code;
}

/* Of calls that are made again and again until something is done. */
int fake_begin_poll(const char *name) {
  return fake_cuda.uncounted_polls ? lasting_error : fake_begin(name);
}


void *fake_new_object(size_t bytes) {
  void *p = calloc(1, bytes);
  pthread_mutex_lock(&fake_lock);
  add_object(p, 0, -1);
  pthread_mutex_unlock(&fake_lock);
  return p;
}

void fake_free_object(void *p) {
  pthread_mutex_lock(&fake_lock);
  fake_remove_object(p);
  pthread_mutex_unlock(&fake_lock);
  free(p);
}

static int rt_count(int *ret) {
  FAKE_BEGIN("count");
  *ret = fake_cuda.n_devices;
  return fake_cuda.count_error;
}

static int rt_info(int device, struct cuda_info *ret) {
  FAKE_BEGIN("info");
  int minor = fake_cuda.compute_minor + (fake_cuda.mixed && device > 0);
  *ret = (struct cuda_info){"Fake", "0000:01:00.0", fake_cuda.compute_major, minor, 3};
  return 0;
}

static int rt_use(int device) {
  FAKE_BEGIN("use");
  assert_true(device < fake_cuda.n_devices);
  current = device;
  return 0;
}

static int rt_memory(size_t *ret_free, size_t *ret_total) {
  FAKE_BEGIN("memory");
  *ret_total = fake_cuda.memory;
  *ret_free = fake_cuda.memory - device_bytes[current];
  return 0;
}

/* Filled with NaN, where anything reads it; aligned as CUDA does it. */
static int allocate(void **ret, size_t bytes, bool host) {
  if (posix_memalign(ret, 256, bytes) != 0) fail_msg("out of memory");
  memset(*ret, 0xff, fake_cuda.idle ? 1 : bytes);
  pthread_mutex_lock(&fake_lock);
  if (!host) device_bytes[current] += bytes;
  add_object(*ret, bytes, host ? -1 : current);
  bool fits = device_bytes[current] <= fake_cuda.memory;
  pthread_mutex_unlock(&fake_lock);
  if (!fits) fail_msg("more was allocated than the device has");
  return 0;
}

static int rt_alloc(void **ret, size_t bytes) {
  FAKE_BEGIN("alloc");
  return allocate(ret, bytes, false);
}

static int rt_alloc_host(void **ret, size_t bytes) {
  FAKE_BEGIN("alloc_host");
  return allocate(ret, bytes, true);
}

/* --- streams ------------------------------------------------------------------------------------- */

/* A graph that came to be, or goes. */
static void hold(const struct nodes *graph, int n) {
  for (unsigned i = 0; i < graph->n; i++) fake_hold(graph->list[i].run, graph->list[i].args, n);
}

static void push(struct nodes *nodes, const struct node *node) {
  if (nodes->n == nodes->room) {
    nodes->room = nodes->room ? 2 * nodes->room : 64;
    nodes->list = realloc(nodes->list, nodes->room * sizeof *nodes->list);
  }
  nodes->list[nodes->n++] = *node;
}

void fake_enqueue(void *stream, const char *name, int (*run)(void *args), const void *args, size_t bytes) {
  struct stream *s = stream;
  struct node node = {.name = name, .run = run};
  assert_true(bytes <= MAX_NODE);
  memcpy(node.args, args, bytes);
  pthread_mutex_lock(&fake_lock); /* whoever frees memory runs all streams' queues */
  push(s->graph ? s->graph : &s->queue, &node);
  pthread_mutex_unlock(&fake_lock);
  if (s->graph) fake_hold(run, args, 1); /* from now on, not only when the graph is complete */
}

static int run_node(struct node *node) {
  int r = node->run(node->args);
  if (r == FAKE_AGAIN) return CUDA_NOT_READY;
  if (r && r != TRAP) fail_msg("%s refuses its arguments: %d", node->name, r);
  if (r) last_error = lasting_error = r;
  return r;
}

/* Runs all before node `end` of the queue; with the lock. */
static int run_locked(struct stream *s, unsigned end) {
  int r = lasting_error;
  while (!r && s->n_run < end) {
    r = run_node(&s->queue.list[s->n_run]);
    s->n_run += r != CUDA_NOT_READY;
  }
  return r;
}

static int run_until(struct stream *s, unsigned end) {
  pthread_mutex_lock(&fake_lock);
  int r = run_locked(s, end);
  pthread_mutex_unlock(&fake_lock);
  return r;
}

static int rt_stream_new(void **ret) {
  FAKE_BEGIN("stream_new");
  struct stream *s = fake_new_object(sizeof(struct stream));
  s->device = current;
  pthread_mutex_lock(&fake_lock);
  for (unsigned i = 0; i < MAX_STREAMS; i++)
    if (!streams[i]) {
      streams[i] = s;
      break;
    }
  pthread_mutex_unlock(&fake_lock);
  *ret = s;
  return 0;
}

/* CUDA's frees wait for all that runs on the device; what never ends would hold them. What
 * frees also does so when it returns an error. */
static int rt_free(void *p) {
  pthread_mutex_lock(&fake_lock);
  for (unsigned i = 0; i < MAX_STREAMS; i++) {
    struct stream *s = streams[i] && streams[i]->device == current ? streams[i] : NULL;
    if (s && run_locked(s, s->queue.n) == CUDA_NOT_READY) fail_msg("memory is freed while a collective waits for other ranks");
  }
  pthread_mutex_unlock(&fake_lock);
  fake_free_object(p);
  return fake_begin("free");
}

static int rt_stream_free(void *stream) {
  pthread_mutex_lock(&fake_lock);
  for (unsigned i = 0; i < MAX_STREAMS; i++)
    if (streams[i] == stream) streams[i] = NULL;
  pthread_mutex_unlock(&fake_lock);
  free(((struct stream *)stream)->queue.list);
  fake_free_object(stream);
  return fake_begin("stream_free");
}

static int rt_stream_query(void *stream) {
  struct stream *s = stream;
  int polled = fake_begin_poll("stream_query");
  if (polled) return polled;
  s->asked = !s->asked;
  if (s->n_run < s->queue.n && (s->asked || fake_cuda.hangs)) return CUDA_NOT_READY;
  return run_until(s, s->queue.n);
}

static int rt_event_new(void **ret) {
  FAKE_BEGIN("event_new");
  *ret = fake_new_object(sizeof(struct event));
  return 0;
}

static int rt_event_free(void *event) {
  fake_free_object(event);
  return fake_begin("event_free");
}

static int rt_event_record(void *event, void *stream) {
  FAKE_BEGIN("event_record");
  struct stream *s = stream;
  assert_null(s->graph);
  *(struct event *)event = (struct event){s, s->queue.n, fake_cuda.clock_ms, false};
  return 0;
}

static int rt_event_query(void *event) {
  struct event *e = event;
  int polled = fake_begin_poll("event_query");
  if (polled) return polled;
  e->asked = !e->asked;
  if (!e->stream || e->stream->n_run >= e->at) return lasting_error;
  return e->asked || fake_cuda.hangs ? CUDA_NOT_READY : run_until(e->stream, e->at);
}

static int rt_event_wait(void *event) {
  struct event *e = event;
  FAKE_BEGIN("event_wait");
  int r;
  while ((r = e->stream ? run_until(e->stream, e->at) : 0) == CUDA_NOT_READY) usleep(100);
  return r;
}

static int rt_timer_new(void **ret) {
  FAKE_BEGIN("timer_new");
  *ret = fake_new_object(sizeof(struct event));
  return 0;
}

static int rt_elapsed(float *ret_ms, void *from, void *to) {
  FAKE_BEGIN("elapsed");
  if (++fake_cuda.n_timings == fake_cuda.nap_at) usleep(fake_cuda.nap_ms * 1000);
  const struct event *a = from, *b = to;
  assert_true(a->stream && a->stream == b->stream && b->stream->n_run >= b->at);
  *ret_ms = (float)(b->clock_ms - a->clock_ms);
  return 0;
}

/* --- copies ------------------------------------------------------------------------------------------ */

struct copy {
  void *to;
  const void *from;
  size_t to_pitch, from_pitch, bytes, rows;
  int byte;
};

static int run_copy(void *args) {
  const struct copy *c = args;
  for (size_t i = 0; i < c->rows; i++)
    memcpy((char *)c->to + i * c->to_pitch, (const char *)c->from + i * c->from_pitch, c->bytes);
  return 0;
}

static int run_fill(void *args) {
  const struct copy *c = args;
  memset(c->to, c->byte, c->bytes);
  return 0;
}

void fake_check_range(const void *p, size_t bytes) {
  pthread_mutex_lock(&fake_lock);
  const struct object *o = find_object(p);
  bool fine = o && (const char *)p + bytes <= (const char *)o->p + o->bytes;
  pthread_mutex_unlock(&fake_lock);
  if (!fine) fail_msg("a copy of %zu bytes touches what was not allocated", bytes);
}

static int rt_copy_rows(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t bytes, size_t rows, void *stream) {
  FAKE_BEGIN("copy_rows");
  assert_true(rows > 0 && bytes > 0 && bytes <= to_pitch && bytes <= from_pitch);
  fake_check_range(to, (rows - 1) * to_pitch + bytes);
  fake_check_range(from, (rows - 1) * from_pitch + bytes);
  struct copy c = {to, from, to_pitch, from_pitch, bytes, rows, 0};
  fake_enqueue(stream, "copy_rows", run_copy, &c, sizeof c);
  return 0;
}

static int rt_copy(void *to, const void *from, size_t bytes, void *stream) {
  FAKE_BEGIN("copy");
  fake_check_range(to, bytes);
  fake_check_range(from, bytes);
  struct copy c = {to, from, bytes, bytes, bytes, 1, 0};
  fake_enqueue(stream, "copy", run_copy, &c, sizeof c);
  return 0;
}

static int rt_fill(void *p, int byte, size_t bytes, void *stream) {
  FAKE_BEGIN("fill");
  fake_check_range(p, bytes);
  struct copy c = {.to = p, .byte = byte, .bytes = bytes};
  fake_enqueue(stream, "fill", run_fill, &c, sizeof c);
  return 0;
}

/* --- graphs ------------------------------------------------------------------------------------------- */

static int rt_capture_begin(void *stream) {
  struct stream *s = stream;
  FAKE_BEGIN("capture_begin");
  assert_null(s->graph);
  s->graph = fake_new_object(sizeof *s->graph);
  return 0;
}

static int rt_capture_end(void *stream, void **ret_graph) {
  struct stream *s = stream;
  struct nodes *graph = s->graph;
  assert_non_null(graph);
  s->graph = NULL;
  int r = fake_begin("capture_end");
  if (r) {
    hold(graph, -1);
    free(graph->list);
    fake_free_object(graph);
    return r;
  }
  *ret_graph = graph;
  return 0;
}

static int rt_graph_make(void **ret_exec, void *graph) {
  FAKE_BEGIN("graph_make");
  struct nodes *exec = fake_new_object(sizeof *exec), *from = graph;
  for (unsigned i = 0; i < from->n; i++) push(exec, &from->list[i]);
  hold(exec, 1);
  fake_cuda.n_graphs++;
  *ret_exec = exec;
  return 0;
}

static int rt_graph_free(void *graph) {
  hold(graph, -1);
  free(((struct nodes *)graph)->list);
  fake_free_object(graph);
  return fake_begin("graph_free");
}

static int rt_exec_free(void *exec) {
  hold(exec, -1);
  free(((struct nodes *)exec)->list);
  fake_free_object(exec);
  return fake_begin("exec_free");
}

static int rt_exec_launch(void *exec, void *stream) {
  FAKE_BEGIN("exec_launch");
  const struct nodes *from = exec;
  fake_cuda.n_replays++;
  pthread_mutex_lock(&fake_lock);
  for (unsigned i = 0; i < from->n; i++) push(&((struct stream *)stream)->queue, &from->list[i]);
  pthread_mutex_unlock(&fake_lock);
  return 0;
}

/* As cudaGetLastError on an H200: it forgets errors for good, too, until the next call. */
static int rt_clear(void) {
  int r = last_error;
  last_error = 0;
  return r;
}

static const char *rt_text(int code) {
  return code == CUDA_DRIVER_TOO_OLD ? "CUDA driver version is insufficient for CUDA runtime version" : "a fake error";
}

void fake_note(char letter) {
  pthread_mutex_lock(&fake_lock); /* ranks share it */
  size_t n = strlen(fake_cuda.order);
  if (n + 1 == sizeof fake_cuda.order) memmove(fake_cuda.order, fake_cuda.order + 1, n--);
  fake_cuda.order[n] = letter;
  fake_cuda.order[n + 1] = 0;
  fake_cuda.n_launches++;
  pthread_mutex_unlock(&fake_lock);
}

/* --- kernels ------------------------------------------------------------------------------------------------ */

static int before_kernel(void) {
  return ++fake_cuda.n_kernels == fake_cuda.trap_at ? TRAP : 0;
}

/* What the launch takes, as timers say. */
static uint64_t ms_of(char letter, const void *args) {
  if (letter == 'n') return (uint64_t)((const struct tl_cuda_add_norm_args *)args)->left.n_parts * fake_cuda.part_ms;
  return letter == 'p' ? fake_cuda.prefill_ms : letter == 'u' ? fake_cuda.scale_ms : 0;
}

#define KERNEL(name, letter)                                                  \
  static int run_##name(void *args) {                                   \
    int r = before_kernel();                                                  \
    return r || fake_cuda.idle ? r : tl_cuda_##name(args, NULL);              \
  }                                                                           \
  static int op_##name(const struct tl_cuda_##name##_args *args, void *stream) { \
    FAKE_BEGIN(#name);                                                             \
    fake_note(letter);                                                             \
    fake_cuda.clock_ms += ms_of(letter, args);                                     \
    fake_enqueue(stream, #name, run_##name, args, sizeof *args);                   \
    return 0;                                                                 \
  }
KERNEL(embed, 'e')
KERNEL(add_norm, 'n')
KERNEL(row_squares, 'r')
KERNEL(qkv, 'k')
KERNEL(decode, 'd')
KERNEL(prefill, 'p')
KERNEL(glu, 'g')
KERNEL(gather, 'l')
KERNEL(bias, 'b')
KERNEL(dequantize, 'q')
KERNEL(quantize, 'f')
KERNEL(scale, 'u')
KERNEL(gemv, 'v')
KERNEL(normed, 'w')
KERNEL(cap, 'c')
KERNEL(sample, 's')
KERNEL(route, 't')
KERNEL(experts, 'x')
KERNEL(mix, 'i')
KERNEL(place, 'a')
KERNEL(pool, 'o')
KERNEL(vector, 'w')
KERNEL(reorder, 'z')
KERNEL(latent_rows, 'R')
KERNEL(latent_turn, 'T')
KERNEL(latent_heads, 'H')
KERNEL(latent_decode, 'D')
KERNEL(latent_prefill, 'P')
KERNEL(shrink, 'h')
KERNEL(expand, 'j')
KERNEL(conv, 'C')
KERNEL(delta, 'S')
KERNEL(delta_long, 'L')
KERNEL(gated_norm, 'N')
KERNEL(gate, 'G')

static int op_prepare(void) {
  FAKE_BEGIN("prepare");
  return tl_cuda_prepare();
}

void fake_cuda_reset(void) {
  assert_int_equal(fake_cuda_live(), 0);
  fake_forget_comms();
  fake_cuda = (struct fake_cuda){.n_devices = 1, .compute_major = 9, .memory = 256u << 20, .n_algorithms = 1, .bad_algorithm = -1, .dnn_stray = -1};
  last_error = lasting_error = 0;
  fake_cuda_api.rt = (struct cuda_runtime){rt_count,       rt_info,       rt_use,          rt_memory,      rt_alloc,      rt_free,        rt_alloc_host,
           rt_free,        rt_copy,       rt_copy_rows,    rt_fill,        rt_stream_new, rt_stream_free, rt_stream_query,
           rt_event_new,   rt_event_free, rt_event_record, rt_event_query, rt_event_wait, rt_capture_begin,
           rt_capture_end, rt_graph_make, rt_graph_free,   rt_exec_free,   rt_exec_launch, rt_clear,      rt_text,
           rt_timer_new,  rt_elapsed};
  fake_cuda_api.op = (struct cuda_kernels){op_prepare, op_embed, op_add_norm, op_row_squares, op_qkv, op_decode, op_prefill, op_glu,
                                          op_gather, op_bias, op_dequantize, op_quantize, op_scale, op_gemv, op_normed, op_cap, op_sample,
                                          op_route, op_experts, op_mix, op_place, op_pool, op_vector,
                                          op_reorder, op_latent_rows, op_latent_turn, op_latent_heads, op_latent_decode, op_latent_prefill,
                                          op_shrink, op_expand, op_conv, op_delta, op_delta_long, op_gated_norm, op_gate};
  fake_add_libraries(&fake_cuda_api);
  fake_add_dnn(&fake_cuda_api);
}

static int open_fake(const struct tl_device_options *options, struct tl_device **ret, struct tl_error *err) {
  return cuda_open(&fake_cuda_api, &fake_cuda_ops, options, ret, err);
}

static int make_group(unsigned size, struct tl_device_group **ret, struct tl_error *err) {
  return cuda_group_make(&fake_cuda_api, size, ret, err);
}

static const struct tl_device_group_ops group_ops = {.runs_ahead = true,
                                                     .make = make_group,
                                                     .join = cuda_group_join,
                                                     .abort = cuda_group_abort,
                                                     .restore = cuda_group_restore,
                                                     .free = cuda_group_free};

const struct tl_device_ops fake_cuda_ops = {.name = "cuda",
                                            .runs_ahead = true,
                                            .open = open_fake,
                                            .load = cuda_load,
                                            .submit = cuda_submit_step,
                                            .collect = cuda_collect,
                                            .close = cuda_close,
                                            .interrupt = cuda_interrupt,
                                            .reset = cuda_reset,
                                            .group = &group_ops};
