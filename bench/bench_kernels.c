/* SPDX-License-Identifier: MIT */
/* How close do decode and prefill of the CPU backend come to the machine?
 *
 * Two probes measure the limits with all lanes: bytes read per second from a
 * buffer that no cache holds, and multiply-adds per second between registers,
 * of the instructions that the backend's products use. Then a model runs
 * through the device table, without engine and HTTP, as in the daemon's steps. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cpu/cpu_private.h"
#include "probes.h"
#include "tokenlane/base/clock.h"

#define MAX_SEQS 32
#define PREFILL_TOKENS 512
#define DECODE_FROM 64 /* context before the first timed decode step */
#define DECODE_STEPS 64
#define MAX_CONTEXT PREFILL_TOKENS
#define PREFILL_PASSES 3

struct options {
  const char *model; /* NULL: only the probes */
  unsigned lanes;
  size_t probe_bytes;
  bool json;
};

/* One point of the decode sweep. */
struct decode {
  uint32_t n_seqs;
  double step_s;            /* median */
  double tokens_per_s;      /* of the median step */
  double mean_tokens_per_s; /* of all steps together */
  double bytes_per_s;       /* weights and KV read */
};

struct results {
  const char *isa;
  double read_bytes_per_s, peak_flops; /* probes */
  uint64_t parameters, product_parameters, weight_bytes;
  double load_s;
  struct decode decodes[8];
  unsigned n_decodes;
  uint32_t prefill_tokens;
  double prefill_s, prefill_flops; /* median step; operations per second in it */
};

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *values, unsigned n) {
  qsort(values, n, sizeof *values, compare_doubles);
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* --- what a model's step has to do -------------------------------------------------------------- */

struct work {
  uint64_t layer_parameters;  /* of products that every token goes through */
  uint64_t output_parameters; /* of the product on the rows wanted */
  uint64_t weight_bytes;    /* read by a step with at least one row: products and norms, not the embedding */
  uint64_t kv_bytes;        /* of one token, all layers */
  uint64_t attention_flops; /* of one query against one key, all layers and heads */
};

static struct work count_work(const struct tl_model *model) {
  struct work w = {0};
  for (uint32_t i = 0; i < model->n_ops; i++) {
    const struct tl_op *op = &model->plan[i];
    for (int k = 0; k < TL_OP_INPUTS && op->kind != TL_OP_EMBED; k++) {
      if (op->weight[k] < 0) continue;
      const struct tl_tensor *t = &model->tensors[op->weight[k]];
      w.weight_bytes += t->bytes;
      if (op->kind == TL_OP_LOGITS)
        w.output_parameters += t->shape[0] * t->shape[1];
      else if (t->n_dims == 2)
        w.layer_parameters += t->shape[0] * t->shape[1];
    }
  }
  w.kv_bytes = 2ull * model->n_layers * model->n_kv_heads * model->head_dim * tl_dtype_bytes(model->dtype);
  w.attention_flops = 4ull * model->n_layers * model->n_heads * model->head_dim;
  return w;
}

/* --- steps ---------------------------------------------------------------------------------------- */

/* A device and the arrays of its steps. Sequence s has the blocks s * stride and on. */
struct bench {
  const struct tl_model *model;
  const struct tl_device_ops *ops;
  struct tl_device *device;
  uint32_t context, stride; /* tokens and blocks of a sequence */
  int32_t tokens[PREFILL_TOKENS];
  uint32_t positions[PREFILL_TOKENS], slots[PREFILL_TOKENS];
  uint32_t query_start[MAX_SEQS + 1], context_len[MAX_SEQS], rows[MAX_SEQS];
  uint32_t tables[MAX_SEQS * (MAX_CONTEXT / TL_BLOCK_TOKENS)];
  struct tl_sampling sampling[MAX_SEQS];
  struct tl_sampled sampled[MAX_SEQS];
};

static int open_bench(struct bench *b, const struct tl_model *model, const struct options *o,
                      struct tl_error *err) {
  unsigned index;
  b->model = model;
  b->ops = tl_device_find("cpu:0", &index, err);
  if (!b->ops) return TL_ENOTFOUND;
  struct tl_device_options device = {.index = index, .n_lanes = o->lanes};
  int r = b->ops->open(&device, &b->device, err);
  if (r < 0) return r;
  b->context =
      model->max_context < MAX_CONTEXT ? model->max_context / TL_BLOCK_TOKENS * TL_BLOCK_TOKENS : MAX_CONTEXT;
  b->stride = b->context / TL_BLOCK_TOKENS;
  struct tl_device_loaded loaded = {0};
  struct tl_device_load load = {
      .model = model, .max_batch_size = MAX_SEQS, .max_batch_tokens = PREFILL_TOKENS};
  load.max_context = b->context;
  r = b->ops->load(b->device, &load, &loaded, err);
  if (r < 0) return r;
  if (loaded.n_blocks < MAX_SEQS * b->stride || b->context < DECODE_FROM + DECODE_STEPS)
    return tl_error_set(err, TL_ELIMIT, "model",
                        "%u blocks of %u tokens in a context of %u are too few to measure", loaded.n_blocks,
                        TL_BLOCK_TOKENS, b->context);
  for (uint32_t i = 0; i < MAX_SEQS * b->stride; i++) b->tables[i] = i;
  for (uint32_t i = 0; i < MAX_SEQS; i++)
    b->sampling[i] = (struct tl_sampling){.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = -1};
  return TL_OK;
}

/* Rows [row, row + n) are the tokens of sequence seq from position `from` on. */
static void put_rows(struct bench *b, uint32_t row, uint32_t n, uint32_t seq, uint32_t from) {
  for (uint32_t i = 0; i < n; i++) {
    b->positions[row + i] = from + i;
    b->slots[row + i] = seq * b->stride * TL_BLOCK_TOKENS + from + i;
  }
}

/* Runs n_seqs sequences of n tokens each; `first`: the sequence of block_tables' first row. */
static int run_step(struct bench *b, uint32_t n_seqs, uint32_t n, uint32_t first, double *ret_s,
                    struct tl_error *err) {
  for (uint32_t s = 0; s < n_seqs; s++) {
    b->query_start[s + 1] = (s + 1) * n;
    b->context_len[s] = b->positions[(s + 1) * n - 1] + 1;
    b->rows[s] = (s + 1) * n - 1;
    b->sampling[s].position = b->context_len[s];
  }
  struct tl_step step = {.n_tokens = n_seqs * n,
                         .n_seqs = n_seqs,
                         .n_rows = n_seqs,
                         .table_stride = b->stride,
                         .tokens = b->tokens,
                         .positions = b->positions,
                         .slots = b->slots,
                         .query_start = b->query_start,
                         .context_len = b->context_len,
                         .block_tables = b->tables + (size_t)first * b->stride,
                         .rows = b->rows,
                         .sampling = b->sampling};
  int64_t began_ns = tl_now_ns();
  int r = b->ops->submit(b->device, &step, err);
  if (r == TL_OK) r = b->ops->collect(b->device, b->sampled, err);
  *ret_s = probe_seconds_since(began_ns);
  for (uint32_t s = 0; r == TL_OK && s < n_seqs; s++)
    if (b->sampled[s].token < 0 || (uint32_t)b->sampled[s].token >= b->model->vocab_size)
      r = tl_error_set(err, TL_EDEVICE, NULL, "the device sampled token %d", b->sampled[s].token);
  return r;
}

/* The prompt of sequence seq: n ids that look random and are always the same. */
static void put_prompt(struct bench *b, uint32_t seq, uint32_t n) {
  for (uint32_t i = 0; i < n; i++)
    b->tokens[i] = (int32_t)((seq * 7919u + i * 104729u + 3) % b->model->vocab_size);
  put_rows(b, 0, n, seq, 0);
}

static int measure_prefill(struct bench *b, const struct work *w, struct results *ret, struct tl_error *err) {
  double times[PREFILL_PASSES], unused;
  uint32_t n = b->context < PREFILL_TOKENS ? b->context : PREFILL_TOKENS;
  int r = TL_OK;
  for (int pass = -1; r == TL_OK && pass < PREFILL_PASSES; pass++) { /* pass -1 warms up */
    put_prompt(b, 0, n);
    r = run_step(b, 1, n, 0, pass < 0 ? &unused : &times[pass], err);
  }
  if (r < 0) return r;
  double pairs = (double)n * (n + 1) / 2; /* query and key, causal */
  double flops = 2.0 * ((double)w->layer_parameters * n + (double)w->output_parameters) +
                 (double)w->attention_flops * pairs;
  ret->prefill_tokens = n;
  ret->prefill_s = median(times, PREFILL_PASSES);
  ret->prefill_flops = flops / ret->prefill_s;
  return TL_OK;
}

static int measure_decode(struct bench *b, uint32_t n_seqs, const struct work *w, struct decode *ret,
                          struct tl_error *err) {
  double times[DECODE_STEPS], total = 0;
  int32_t next[MAX_SEQS];
  int r = TL_OK;
  for (uint32_t s = 0; r == TL_OK && s < n_seqs; s++) {
    put_prompt(b, s, DECODE_FROM);
    r = run_step(b, 1, DECODE_FROM, s, &times[0], err);
    next[s] = b->sampled[0].token;
  }
  for (uint32_t i = 0; r == TL_OK && i < DECODE_STEPS; i++) {
    for (uint32_t s = 0; s < n_seqs; s++) {
      b->tokens[s] = next[s];
      put_rows(b, s, 1, s, DECODE_FROM + i);
    }
    r = run_step(b, n_seqs, 1, 0, &times[i], err);
    for (uint32_t s = 0; s < n_seqs; s++) next[s] = b->sampled[s].token;
    total += times[i];
  }
  if (r < 0) return r;
  double kv_bytes = (double)n_seqs * (DECODE_FROM + DECODE_STEPS / 2) * (double)w->kv_bytes;
  double step_s = median(times, DECODE_STEPS);
  *ret = (struct decode){n_seqs, step_s, n_seqs / step_s, (double)n_seqs * DECODE_STEPS / total,
                         ((double)w->weight_bytes + kv_bytes) / step_s};
  return TL_OK;
}

static int measure_model(const struct options *o, struct results *ret, struct tl_error *err) {
  static const uint32_t sizes[] = {1, 2, 4, 8, 16, 32};
  static struct bench bench;
  struct tl_model *model = NULL;
  int64_t began_ns = tl_now_ns();
  int r = tl_model_load(o->model, &model, err);
  if (r < 0) return r;
  r = open_bench(&bench, model, o, err);
  tl_model_release_files(model);
  ret->load_s = probe_seconds_since(began_ns);
  struct work w = count_work(model);
  ret->parameters = model->n_parameters;
  ret->product_parameters = w.layer_parameters + w.output_parameters;
  ret->weight_bytes = w.weight_bytes;
  if (r == TL_OK) r = measure_prefill(&bench, &w, ret, err);
  for (unsigned i = 0; r == TL_OK && i < sizeof sizes / sizeof *sizes; i++)
    r = measure_decode(&bench, sizes[i], &w, &ret->decodes[ret->n_decodes++], err);
  if (bench.device) bench.ops->close(bench.device);
  tl_model_free(model);
  return r;
}

/* --- output ------------------------------------------------------------------------------------------ */

static double ratio_16_to_1(const struct results *r) {
  double one = 0, sixteen = 0;
  for (unsigned i = 0; i < r->n_decodes; i++) {
    if (r->decodes[i].n_seqs == 1) one = r->decodes[i].tokens_per_s;
    if (r->decodes[i].n_seqs == 16) sixteen = r->decodes[i].tokens_per_s;
  }
  return one > 0 ? sixteen / one : 0;
}

static void print_table(const struct options *o, const struct results *r) {
  printf("machine       %u lanes, %s\n", o->lanes, r->isa);
  printf("read          %8.2f GB/s   (best of %d passes over %zu MiB)\n", r->read_bytes_per_s / 1e9,
         2 * PROBE_PASSES, o->probe_bytes >> 20);
  printf("multiply-add  %8.2f GF/s   (registers only)\n", r->peak_flops / 1e9);
  if (!o->model) return;
  printf("\nmodel         %s: %.3f B parameters, %.3f GB read by a step, loaded in %.1f s\n", o->model,
         (double)r->parameters / 1e9, (double)r->weight_bytes / 1e9, r->load_s);
  printf("\ndecode, context %d to %d, median of %d steps\n", DECODE_FROM, DECODE_FROM + DECODE_STEPS,
         DECODE_STEPS);
  printf("  %9s %10s %10s %10s %10s %8s\n", "sequences", "ms/step", "tokens/s", "mean tok/s", "GB/s",
         "of read");
  for (unsigned i = 0; i < r->n_decodes; i++) {
    const struct decode *d = &r->decodes[i];
    printf("  %9u %10.3f %10.1f %10.1f %10.2f %7.1f%%\n", d->n_seqs, d->step_s * 1e3, d->tokens_per_s,
           d->mean_tokens_per_s, d->bytes_per_s / 1e9, 100 * d->bytes_per_s / r->read_bytes_per_s);
  }
  printf("  16 sequences give %.2f times the tokens/s of 1\n", ratio_16_to_1(r));
  printf("\nprefill of %u tokens: %.1f ms, %.1f tokens/s, %.2f GF/s, %.1f%% of multiply-add\n",
         r->prefill_tokens, r->prefill_s * 1e3, r->prefill_tokens / r->prefill_s, r->prefill_flops / 1e9,
         100 * r->prefill_flops / r->peak_flops);
}

static void print_json_string(const char *text) {
  putchar('"');
  for (; *text; text++) {
    if ((unsigned char)*text < 0x20)
      printf("\\u%04x", (unsigned)*text);
    else if (*text == '"' || *text == '\\')
      printf("\\%c", *text);
    else
      putchar(*text);
  }
  putchar('"');
}

static void print_json(const struct options *o, const struct results *r) {
  printf("{\"lanes\": %u, \"isa\": \"%s\", \"read_bytes_per_s\": %.0f, \"peak_flops\": %.0f", o->lanes,
         r->isa, r->read_bytes_per_s, r->peak_flops);
  if (o->model) {
    printf(", \"model\": ");
    print_json_string(o->model);
    printf(
        ", \"parameters\": %llu, \"product_parameters\": %llu, \"weight_bytes\": %llu, \"load_s\": %.3f, "
        "\"decode\": [",
        (unsigned long long)r->parameters, (unsigned long long)r->product_parameters,
        (unsigned long long)r->weight_bytes, r->load_s);
    for (unsigned i = 0; i < r->n_decodes; i++) {
      const struct decode *d = &r->decodes[i];
      printf(
          "%s{\"sequences\": %u, \"step_ms\": %.4f, \"tokens_per_s\": %.2f, \"mean_tokens_per_s\": %.2f, "
          "\"bytes_per_s\": %.0f, \"of_read\": %.4f}",
          i ? ", " : "", d->n_seqs, d->step_s * 1e3, d->tokens_per_s, d->mean_tokens_per_s, d->bytes_per_s,
          d->bytes_per_s / r->read_bytes_per_s);
    }
    printf(
        "], \"ratio_16_to_1\": %.3f, \"prefill\": {\"tokens\": %u, \"ms\": %.3f, \"tokens_per_s\": %.2f, "
        "\"flops\": %.0f, \"of_peak\": %.4f}",
        ratio_16_to_1(r), r->prefill_tokens, r->prefill_s * 1e3, r->prefill_tokens / r->prefill_s,
        r->prefill_flops, r->prefill_flops / r->peak_flops);
  }
  printf("}\n");
}

/* --- main ---------------------------------------------------------------------------------------------- */

static void usage(FILE *to) {
  fprintf(to,
          "bench_kernels [--model FOLDER] [--lanes N] [--probe-mib N] [--json | --table]\n"
          "  --model FOLDER  measure decode and prefill of this model too\n"
          "  --lanes N       compute threads (default: the processors, here %u)\n"
          "  --probe-mib N   size of the buffer that the read probe reads (1024)\n",
          tl_cpu_count());
}

static long whole_number(const char *text, long max) {
  char *end;
  long value = strtol(text, &end, 10);
  if (*end || value < 1 || value > max) {
    fprintf(stderr, "bench_kernels: expected a number from 1 to %ld, got '%s'\n", max, text);
    exit(2);
  }
  return value;
}

static void parse(int argc, char **argv, struct options *o) {
  static const struct option names[] = {{"model", required_argument, NULL, 'm'},
                                        {"lanes", required_argument, NULL, 'l'},
                                        {"probe-mib", required_argument, NULL, 'p'},
                                        {"json", no_argument, NULL, 'j'},
                                        {"table", no_argument, NULL, 't'},
                                        {"help", no_argument, NULL, 'h'},
                                        {0}};
  for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
    if (c == 'm') o->model = optarg;
    if (c == 'l') o->lanes = (unsigned)whole_number(optarg, 4096);
    if (c == 'p') o->probe_bytes = (size_t)whole_number(optarg, 1 << 20) << 20;
    if (c == 'j' || c == 't') o->json = c == 'j';
    if (c == 'h' || c == '?') {
      usage(c == 'h' ? stdout : stderr);
      exit(c == 'h' ? 0 : 2);
    }
  }
}

int main(int argc, char **argv) {
  struct options o = {.lanes = tl_cpu_count(), .probe_bytes = (size_t)1 << 30};
  parse(argc, argv, &o);
  struct results results = {.isa = tl_cpu_isa_name(tl_cpu_best_isa())};
  struct tl_error err = {0};
  struct cpu_pool *pool;
  const struct tl_device_options device = {.n_lanes = o.lanes};
  int r = cpu_pool_new(&device, &pool, &err);
  if (r == TL_OK) {
    results.read_bytes_per_s = probe_read(pool, o.lanes, o.probe_bytes);
    results.peak_flops = probe_fma(pool, o.lanes, tl_cpu_best_isa());
    cpu_pool_free(pool);
    if (o.model) r = measure_model(&o, &results, &err);
  }
  if (r < 0) {
    fprintf(stderr, "bench_kernels: %s\n", err.message);
    return 1;
  }
  (o.json ? print_json : print_table)(&o, &results);
  return 0;
}
