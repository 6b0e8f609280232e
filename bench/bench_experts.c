/* SPDX-License-Identifier: MIT */
/* How far is a layer of experts from the speed at which the machine reads the experts that a step needs?
 *
 * A model of one such layer alone, with random weights, decodes rows of random tokens: each step chooses other experts, and
 * together they are more than a cache holds. Counted are the bytes of the experts that the step's rows chose, each once; the
 * time is that of the whole step: routing, gathering rows, products, adding up. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cpu/cpu_quant.h"
#include "probes.h"
#include "tokenlane/base/clock.h"

#define VOCAB 256
#define BATCH 16
#define STEPS 10
#define PASSES 3
#define N_TENSORS(experts) (3 + 3 * (experts))

struct shape {
  const char *name;
  uint32_t dim, inner, n_experts, n_chosen;
};
static const struct shape shapes[] = {{"Mixtral 8x7B", 4096, 14336, 8, 2}, {"Qwen3 30B-A3B", 2048, 768, 128, 8}};
static const enum tl_dtype formats[] = {TL_DTYPE_BF16, TL_DTYPE_Q8_0, TL_DTYPE_Q4_K, TL_DTYPE_MXFP4};

/* --- a model of random weights ---------------------------------------------------------------------- */

struct made {
  struct tl_model model;
  struct tl_tensor *tensors;
  struct tl_op ops[5];
  float inv_freq[8];
  void *experts, *floats; /* what the tensors hold: one matrix for all experts, one for the rest */
};

static uint64_t random_state = 88172645463325252u;

static uint32_t random_bits(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return (uint32_t)(random_state >> 32);
}

/* Bytes that are small numbers of both signs in every format. */
static void *random_matrix(enum tl_dtype dtype, size_t bytes) {
  uint8_t *data = malloc(bytes);
  for (size_t i = 0; data && i < bytes; i++) data[i] = (uint8_t)((random_bits() & 0x9f) | 0x10);
  if (dtype == TL_DTYPE_MXFP4)
    for (size_t i = 0; data && i < bytes; i += 17) data[i] = 118;
  return data;
}

static int32_t add_tensor(struct made *m, enum tl_dtype dtype, uint32_t rows, uint32_t columns, const void *data) {
  struct tl_tensor t = {.name = "w", .dtype = dtype, .n_dims = columns ? 2 : 1, .shape = {rows, columns}, .data = data};
  t.bytes = rows * tl_dtype_row_bytes(dtype, columns ? columns : 1);
  m->tensors[m->model.n_tensors] = t;
  return (int32_t)m->model.n_tensors++;
}

static struct tl_op *add_op(struct made *m, enum tl_op_kind kind, const struct shape *s) {
  struct tl_op *op = &m->ops[m->model.n_ops++];
  *op = (struct tl_op){.kind = kind, .eps = 1e-5f, .weight = {-1, -1, -1}, .bias = {-1, -1, -1}, .n_experts = s->n_experts,
                       .n_chosen = s->n_chosen, .features = kind == TL_OP_ROUTE ? TL_F_NORMALIZED : 0};
  return op;
}

static int32_t add_experts(struct made *m, const struct shape *s, enum tl_dtype dtype, uint32_t rows, uint32_t columns) {
  int32_t first = (int32_t)m->model.n_tensors;
  for (uint32_t e = 0; e < s->n_experts; e++) add_tensor(m, dtype, rows, columns, m->experts);
  return first;
}

static bool make_model(struct made *m, const struct shape *s, enum tl_dtype dtype) {
  size_t n_floats = (size_t)(VOCAB + s->n_experts) * s->dim;
  *m = (struct made){.experts = random_matrix(dtype, s->inner * tl_dtype_row_bytes(dtype, s->dim))};
  float *floats = m->floats = malloc(n_floats * sizeof *floats);
  m->tensors = calloc(N_TENSORS(s->n_experts), sizeof *m->tensors);
  if (!m->experts || !floats || !m->tensors) return false;
  for (size_t i = 0; i < n_floats; i++) floats[i] = (float)(random_bits() % 2001) / 1000 - 1;
  add_op(m, TL_OP_EMBED, s)->weight[0] = add_tensor(m, TL_DTYPE_F32, VOCAB, s->dim, floats);
  add_op(m, TL_OP_RMSNORM, s)->weight[0] = add_tensor(m, TL_DTYPE_F32, s->dim, 0, floats);
  add_op(m, TL_OP_ROUTE, s)->weight[0] = add_tensor(m, TL_DTYPE_F32, s->n_experts, s->dim, floats + (size_t)VOCAB * s->dim);
  struct tl_op *up = add_op(m, TL_OP_EXPERTS_UP, s), *down = add_op(m, TL_OP_EXPERTS_DOWN, s);
  up->weight[0] = add_experts(m, s, dtype, s->inner, s->dim);
  up->weight[1] = add_experts(m, s, dtype, s->inner, s->dim);
  down->weight[0] = add_experts(m, s, dtype, s->dim, s->inner);
  struct tl_model *model = &m->model;
  model->architecture = "experts";
  model->dim = s->dim;
  model->n_layers = model->n_heads = model->n_kv_heads = 1;
  model->head_dim = model->n_rotated = 16;
  model->ffn_dim = s->inner;
  model->vocab_size = VOCAB;
  model->n_experts = s->n_experts;
  model->max_context = TL_BLOCK_TOKENS;
  model->inv_freq = m->inv_freq;
  model->tensors = m->tensors;
  model->plan = m->ops;
  return true;
}

static void free_model(struct made *m) {
  free(m->experts);
  free(m->floats);
  free(m->tensors);
}

/* --- steps ------------------------------------------------------------------------------------------- */

struct figures {
  double seconds, bytes, active; /* of a step; active: experts that were chosen */
};

static struct figures run_steps(const struct tl_device_ops *ops, struct tl_device *device, uint32_t batch) {
  const struct cpu_device *d = (const struct cpu_device *)device;
  const struct cpu_matrix *up = d->weights.experts[3], *down = d->weights.experts[4];
  double each = (double)(2 * up->n_panels * up->panel_bytes + down->n_panels * down->panel_bytes);
  int32_t tokens[BATCH];
  uint32_t zeros[BATCH] = {0}, starts[BATCH + 1], contexts[BATCH];
  struct figures best = {.seconds = INFINITY};
  struct tl_error err;
  struct tl_step step = {.n_tokens = batch, .n_seqs = batch, .table_stride = 1, .tokens = tokens, .positions = zeros, .slots = zeros,
                         .query_start = starts, .context_len = contexts, .block_tables = zeros};
  for (uint32_t i = 0; i <= batch; i++) starts[i] = i;
  for (uint32_t i = 0; i < batch; i++) contexts[i] = 1;
  for (int pass = 0; pass < PASSES; pass++) {
    double seconds = 0, active = 0;
    for (int k = 0; k < STEPS; k++) {
      for (uint32_t i = 0; i < batch; i++) tokens[i] = (int32_t)(random_bits() % VOCAB);
      int64_t began_ns = tl_now_ns();
      ops->submit(device, &step, &err);
      ops->collect(device, NULL, &err);
      seconds += probe_seconds_since(began_ns) / STEPS;
      active += (double)d->mixture.n_active / STEPS;
    }
    if (seconds < best.seconds) best = (struct figures){seconds, active * each, active};
  }
  return best;
}

static int measure(const struct shape *s, enum tl_dtype dtype, unsigned lanes, struct tl_error *err) {
  struct made m;
  struct tl_device *device = NULL;
  unsigned index;
  const struct tl_device_ops *ops = tl_device_find("cpu:0", &index, err);
  const struct tl_device_options options = {.n_lanes = lanes};
  struct tl_device_loaded loaded;
  int r = make_model(&m, s, dtype) ? TL_OK : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  if (r == TL_OK) r = ops->open(&options, &device, err);
  const struct tl_device_load load = {.model = &m.model, .max_batch_size = BATCH, .max_batch_tokens = BATCH,
                                      .max_context = TL_BLOCK_TOKENS};
  if (r == TL_OK) r = ops->load(device, &load, &loaded, err);
  for (uint32_t batch = 1; r == TL_OK && batch <= BATCH; batch *= BATCH) {
    struct figures f = run_steps(ops, device, batch);
    /* right behind: a machine that is shared changes from minute to minute */
    double read = probe_read(((struct cpu_device *)device)->pool, lanes, (size_t)768 << 20);
    printf("%-14s %-6s %5u %8.1f %10.0f %9.1f %8.1f %7.0f%%\n", s->name, tl_dtype_name(dtype), batch, f.active,
           f.bytes / 1e6, f.seconds * 1e3, f.bytes / f.seconds / 1e9, 100 * f.bytes / f.seconds / read);
    fflush(stdout);
  }
  if (device) ops->close(device);
  free_model(&m);
  return r;
}

int main(int argc, char **argv) {
  unsigned lanes = tl_cpu_count();
  for (int c; (c = getopt(argc, argv, "l:")) != -1;) {
    long value = c == 'l' ? strtol(optarg, NULL, 10) : 0;
    if (value < 1 || value > 64) {
      fprintf(stderr, "bench_experts [-l LANES, to 64]\n");
      return 2;
    }
    lanes = (unsigned)value;
  }
  struct tl_error err = {0};
  printf("%u lanes; products: %s, %s; a layer of experts\n", lanes, cpu_choose_kernels(tl_cpu_best_isa())->name,
         cpu_choose_quant(tl_cpu_best_isa())->name);
  printf("experts of     format batch  of them  MB chosen        ms     GB/s  of read\n");
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
    for (size_t k = 0; k < sizeof formats / sizeof *formats; k++) {
      if (measure(&shapes[i], formats[k], lanes, &err) == TL_OK) continue;
      fprintf(stderr, "bench_experts: %s\n", err.message);
      return 1;
    }
  return 0;
}
