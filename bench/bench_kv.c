/* SPDX-License-Identifier: MIT */
/* What do keys and values of a byte do to decode on the CPU backend?
 *
 * Two devices with the same model, one with each cache, take steps in turn, so that whatever else the machine does is in both.
 * What the caches hold is noise that lies there from the beginning: long contexts need no prompts. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device/cpu/cpu_private.h"

#define MAX_SEQS 8
#define MAX_STEPS 400
#define NOISE 65537 /* elements, over and over */

struct bench {
  const struct tl_device_ops *ops;
  struct tl_device *devices[2]; /* by enum tl_kv_format */
  double times[2][MAX_STEPS];
  unsigned lanes, steps;
  uint32_t *tables, stride;
};

/* Of all threads: on a machine that has other work, what a wall clock says is mostly that. */
static double processor_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double quantile(double *values, unsigned n, double part) {
  qsort(values, n, sizeof *values, compare_doubles);
  return values[(unsigned)(part * (n - 1))];
}

static void put(enum tl_dtype dtype, char *to, float value) {
  uint16_t half = dtype == TL_DTYPE_BF16 ? tl_f32_to_bf16(value) : tl_f32_to_f16(value);
  uint8_t byte = tl_f32_to_f8_e4m3(value);
  const void *from = dtype == TL_DTYPE_F32 ? (void *)&value : dtype == TL_DTYPE_F8_E4M3 ? (void *)&byte : (void *)&half;
  memcpy(to, from, tl_dtype_bytes(dtype));
}

static void fill(struct cpu_device *d) {
  size_t width = tl_dtype_bytes(d->kv_dtype), size = NOISE * width;
  char *noise = malloc(size);
  if (!noise) exit(1);
  for (uint32_t i = 0, x = 1; i < NOISE; i++, x = x * 1664525 + 1013904223) put(d->kv_dtype, noise + i * width, (float)(x >> 8) * 0x1p-23f - 1);
  for (size_t at = 0; at < d->kv_bytes; at += size) memcpy(d->kv + at, noise, d->kv_bytes - at < size ? d->kv_bytes - at : size);
  free(noise);
}

static int open_side(struct bench *b, unsigned side, const struct tl_model *model, uint32_t context, uint32_t n_seqs, struct tl_error *err) {
  struct tl_device_options options = {.n_lanes = b->lanes};
  struct tl_device_loaded loaded;
  struct tl_device_load load = {.model = model, .max_batch_size = n_seqs, .max_batch_tokens = MAX_SEQS, .max_context = context,
                                .kv_format = (enum tl_kv_format)side, .kv_memory_bytes = (uint64_t)1 << 40};
  int r = b->ops->open(&options, &b->devices[side], err);
  if (r == TL_OK) r = b->ops->load(b->devices[side], &load, &loaded, err);
  if (r == TL_OK) fill((struct cpu_device *)b->devices[side]);
  return r;
}

/* The token behind context - 1 others, of each sequence. */
static int run_step(struct bench *b, unsigned side, uint32_t context, uint32_t n_seqs, double *ret_s, struct tl_error *err) {
  int32_t tokens[MAX_SEQS];
  uint32_t positions[MAX_SEQS], slots[MAX_SEQS], start[MAX_SEQS + 1] = {0}, lengths[MAX_SEQS], rows[MAX_SEQS];
  struct tl_sampling sampling[MAX_SEQS];
  struct tl_sampled sampled[MAX_SEQS];
  for (uint32_t s = 0; s < n_seqs; s++) {
    tokens[s] = (int32_t)s;
    positions[s] = context - 1;
    slots[s] = b->tables[s * b->stride + (context - 1) / TL_BLOCK_TOKENS] * TL_BLOCK_TOKENS + (context - 1) % TL_BLOCK_TOKENS;
    start[s + 1] = s + 1;
    lengths[s] = context;
    rows[s] = s;
    sampling[s] = (struct tl_sampling){.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = -1, .position = context};
  }
  struct tl_step step = {.n_tokens = n_seqs, .n_seqs = n_seqs, .n_rows = n_seqs, .table_stride = b->stride, .tokens = tokens,
                         .positions = positions, .slots = slots, .query_start = start, .context_len = lengths,
                         .block_tables = b->tables, .rows = rows, .sampling = sampling};
  double began = processor_seconds();
  int r = b->ops->submit(b->devices[side], &step, err);
  if (r == TL_OK) r = b->ops->collect(b->devices[side], sampled, err);
  *ret_s = processor_seconds() - began;
  return r;
}

static int measure(struct bench *b, const struct tl_model *model, uint32_t context, uint32_t n_seqs, struct tl_error *err) {
  b->stride = tl_blocks_of(context);
  b->tables = calloc((size_t)n_seqs * b->stride, sizeof *b->tables);
  if (!b->tables) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (uint32_t i = 0; i < n_seqs * b->stride; i++) b->tables[i] = i;
  int r = open_side(b, 0, model, context, n_seqs, err);
  if (r == TL_OK) r = open_side(b, 1, model, context, n_seqs, err);
  for (unsigned i = 0; r == TL_OK && i < 2 * (b->steps + 2); i++) { /* the first two of each warm up */
    unsigned side = (i + i / 2) % 2, at = i / 2; /* now the one first, now the other */
    r = run_step(b, side, context, n_seqs, &b->times[side][at < 2 ? 0 : at - 2], err);
  }
  if (r == TL_OK) {
    double own = quantile(b->times[0], b->steps, 0.25), bytes = quantile(b->times[1], b->steps, 0.25);
    printf("context %6u, %u sequences: %9.3f ms a step with %s, %9.3f with a byte: %.3f times as fast; medians %.3f\n", context, n_seqs,
           own * 1e3, tl_dtype_name(model->dtype), bytes * 1e3, own / bytes,
           quantile(b->times[0], b->steps, 0.5) / quantile(b->times[1], b->steps, 0.5));
    fflush(stdout);
  }
  for (unsigned side = 0; side < 2; side++) {
    if (b->devices[side]) b->ops->close(b->devices[side]);
    b->devices[side] = NULL;
  }
  free(b->tables);
  return r;
}

int main(int argc, char **argv) {
  static struct bench b = {.lanes = 1, .steps = 41};
  const char *path = NULL;
  struct tl_error err = {0};
  struct tl_model *model;
  unsigned index;
  for (int c; (c = getopt(argc, argv, "m:l:n:")) != -1;) {
    if (c == 'm') path = optarg;
    if (c == 'l') b.lanes = (unsigned)strtoul(optarg, NULL, 10);
    if (c == 'n') b.steps = (unsigned)strtoul(optarg, NULL, 10);
  }
  if (!path || b.lanes == 0 || b.steps == 0 || b.steps > MAX_STEPS || optind == argc) {
    fprintf(stderr, "bench_kv -m FOLDER [-l LANES] [-n STEPS] CONTEXT[xSEQUENCES] ...\n");
    return 2;
  }
  b.ops = tl_device_find("cpu:0", &index, &err);
  int r = tl_model_load(path, &model, &err);
  for (int i = optind; r == TL_OK && i < argc; i++) {
    char *end;
    unsigned long context = strtoul(argv[i], &end, 10), n_seqs = *end == 'x' ? strtoul(end + 1, NULL, 10) : 1;
    if (context < 1 || context > 1 << 20 || n_seqs < 1 || n_seqs > MAX_SEQS) return 2;
    r = measure(&b, model, (uint32_t)context, (uint32_t)n_seqs, &err);
  }
  if (r < 0) fprintf(stderr, "bench_kv: %s\n", err.message);
  return r < 0;
}
