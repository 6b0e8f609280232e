/* SPDX-License-Identifier: MIT */
/* How close do products of each number format come to the machine's limits?
 *
 * A matrix of random blocks is packed as the backend does and laid out again and
 * again until no cache holds it. With one row the products should read as fast as
 * the machine can, with 512 rows multiply as fast as it can. Quantizing the rows is
 * part of the time. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cpu/cpu_quant.h"
#include "probes.h"
#include "tokenlane/base/clock.h"

#define SIDE 4096 /* inputs and outputs of the matrix */
#define LDX (SIDE + CPU_PANEL) /* floats from row to row */
#define MANY 512
#define PASSES 5

struct options {
  unsigned lanes;
  size_t bytes; /* of all copies of a matrix */
};

/* One pass of all copies' panels over m rows. */
struct pass {
  const struct cpu_kernels *kernels;
  const struct cpu_quant_kernels *quant;
  const struct cpu_matrix *copies;
  unsigned n_copies, lanes;
  uint32_t m;
  const float *x; /* (m, LDX) */
  void *rows;     /* quantized, or pairs */
  float *out[64], *scratch[64]; /* by lane */
  struct cpu_pool *pool;
};

static void convert(struct pass *p, unsigned lane) {
  const struct cpu_matrix *w = p->copies;
  for (uint32_t i = lane; i < p->m; i += p->lanes) {
    if (w->quant)
      p->quant->quantize(p->x + (size_t)i * LDX, NULL, SIDE, (struct cpu_quant_cell *)p->rows + i * cpu_quant_row_cells(SIDE));
    else if (w->dtype == TL_DTYPE_BF16 && p->kernels->convert)
      p->kernels->convert(p->x + (size_t)i * LDX, (uint32_t *)p->rows + (size_t)i * LDX / 2, SIDE / 2);
  }
}

static void run_lane(void *context, unsigned lane) {
  struct pass *p = context;
  convert(p, lane);
  cpu_pool_barrier(p->pool);
  for (unsigned c = 0; c < p->n_copies; c++) {
    const struct cpu_matrix *w = &p->copies[c];
    const void *rows = w->dtype == TL_DTYPE_BF16 && p->kernels->convert ? p->rows : p->x;
    for (uint32_t panel = w->n_panels * lane / p->lanes; panel < w->n_panels * (lane + 1) / p->lanes; panel++) {
      if (w->quant)
        p->quant->gemm(w, panel, p->rows, p->m, p->out[lane], p->scratch[lane]);
      else
        p->kernels->gemm(w, panel, rows, LDX, p->m, p->out[lane], p->scratch[lane]);
    }
  }
}

/* The best pass: what the products can do, not what they do while disturbed. */
static double best_seconds(struct pass *p) {
  double best = INFINITY;
  for (int i = 0; i < PASSES; i++) {
    int64_t began_ns = tl_now_ns();
    cpu_pool_start(p->pool, run_lane, p);
    cpu_pool_join(p->pool);
    best = fmin(best, probe_seconds_since(began_ns));
  }
  return best;
}

/* Random bytes; halves that scale a block are made finite. */
static struct tl_tensor random_tensor(enum tl_dtype dtype) {
  struct tl_tensor t = {.name = "w", .dtype = dtype, .n_dims = 2, .shape = {SIDE, SIDE}};
  t.bytes = SIDE * tl_dtype_row_bytes(dtype, SIDE);
  uint8_t *data = malloc(t.bytes);
  uint64_t state = 88172645463325252u;
  for (size_t i = 0; data && i < t.bytes; i++) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    data[i] = (uint8_t)((state >> 32 & 0x3f) | 0x20); /* numbers that are neither subnormal nor infinite */
  }
  t.data = data;
  return t;
}

/* BF16 products may have an instruction of their own. */
static enum tl_cpu_isa float_isa(enum tl_dtype dtype) {
  enum tl_cpu_isa best = tl_cpu_best_isa();
  return best == TL_ISA_AVX512_BF16 && dtype != TL_DTYPE_BF16 ? TL_ISA_AVX512 : best;
}

static int measure(struct pass *p, enum tl_dtype dtype, const struct options *o, struct tl_error *err) {
  struct tl_tensor t = random_tensor(dtype);
  struct tl_op op = {.kind = TL_OP_LOGITS, .weight = {0, -1, -1}, .bias = {-1, -1, -1}};
  struct tl_model model = {.tensors = &t, .n_tensors = 1, .plan = &op, .n_ops = 1};
  struct tl_device_load load = {.model = &model};
  struct cpu_weights weights;
  int64_t began_ns = tl_now_ns();
  int r = cpu_weights_load(&load, &(const struct tl_shard){.size = 1}, &weights, err);
  double packing = probe_seconds_since(began_ns);
  free((void *)(uintptr_t)t.data);
  if (r < 0) return r;
  struct cpu_matrix *w = weights.matrices;
  size_t bytes = w->n_panels * w->panel_bytes;
  unsigned n = (unsigned)(o->bytes / bytes);
  struct cpu_matrix *copies = calloc(n, sizeof *copies);
  char *memory = cpu_map(n * bytes);
  if (!copies || !memory) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (unsigned i = 0; i < n; i++) {
    copies[i] = *w;
    copies[i].panels = memcpy(memory + i * bytes, w->panels, bytes);
  }
  p->copies = copies;
  p->n_copies = n;
  p->m = 1;
  double one = best_seconds(p), read = probe_read(p->pool, o->lanes, o->bytes);
  p->n_copies = 1;
  p->m = MANY;
  double many = best_seconds(p), operations = 2.0 * SIDE * SIDE * MANY;
  /* right behind the products: a machine that is shared changes from minute to minute */
  double limit = w->quant ? probe_int8(p->pool, o->lanes) : probe_fma(p->pool, o->lanes, float_isa(dtype));
  printf("%-8s %6.2f %10.1f %8.2f %8.1f%% %10.1f %8.1f%% %9.1f\n", tl_dtype_name(dtype), 8.0 * (double)bytes / SIDE / SIDE,
         one * 1e6 / n, (double)bytes * n / one / 1e9, 100 * (double)bytes * n / one / read, operations / many / 1e9,
         100 * operations / many / limit, SIDE * SIDE / packing / 1e6);
  cpu_unmap(memory, n * bytes);
  free(copies);
  cpu_weights_free(&weights);
  return TL_OK;
}

static int run(const struct options *o, struct tl_error *err) {
  struct pass p = {.kernels = cpu_choose_kernels(tl_cpu_best_isa()), .quant = cpu_choose_quant(tl_cpu_best_isa()),
                   .lanes = o->lanes};
  const struct tl_device_options device = {.n_lanes = o->lanes};
  int r = cpu_pool_new(&device, &p.pool, err);
  if (r < 0) return r;
  float *x = aligned_alloc(64, (size_t)MANY * LDX * sizeof *x);
  p.rows = aligned_alloc(64, MANY * cpu_quant_row_cells(SIDE) * sizeof(struct cpu_quant_cell));
  bool there = x && p.rows;
  for (unsigned i = 0; i < o->lanes; i++) {
    p.out[i] = aligned_alloc(64, MANY * CPU_PANEL * sizeof(float));
    p.scratch[i] = aligned_alloc(64, CPU_K_BLOCK * CPU_PANEL * sizeof(float));
    there = there && p.out[i] && p.scratch[i];
  }
  if (!there) r = tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (size_t i = 0; there && i < (size_t)MANY * LDX; i++) x[i] = (float)((i * 2654435761u >> 8) % 2001) / 1000 - 1;
  p.x = x;
  if (r == TL_OK) {
    printf("%u lanes; products: %s, %s\n", o->lanes, p.kernels->name, p.quant->name);
    printf("format     bits   1 row us     GB/s   of read   512 Gop/s   of peak  packs M/s\n");
    for (enum tl_dtype d = TL_DTYPE_F32; d <= TL_DTYPE_F8_E4M3 && r == TL_OK; d++)
      if (tl_dtype_row_bytes(d, SIDE)) r = measure(&p, d, o, err); /* INT4 and INT8 are no tensor by themselves */
  }
  for (unsigned i = 0; i < o->lanes; i++) {
    free(p.out[i]);
    free(p.scratch[i]);
  }
  free(x);
  free(p.rows);
  cpu_pool_free(p.pool);
  return r;
}

int main(int argc, char **argv) {
  struct options o = {.lanes = tl_cpu_count(), .bytes = (size_t)768 << 20};
  for (int c; (c = getopt(argc, argv, "l:m:")) != -1;) {
    long value = c == '?' ? 0 : strtol(optarg, NULL, 10);
    if (value < 1 || value > (c == 'l' ? 64 : 1 << 20)) {
      fprintf(stderr, "bench_quant [-l LANES, to 64] [-m MIB of weights that are read (768)]\n");
      return 2;
    }
    if (c == 'l') o.lanes = (unsigned)value;
    if (c == 'm') o.bytes = (size_t)value << 20;
  }
  struct tl_error err = {0};
  if (run(&o, &err) == TL_OK) return 0;
  fprintf(stderr, "bench_quant: %s\n", err.message);
  return 1;
}
