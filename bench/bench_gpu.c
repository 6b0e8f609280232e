/* SPDX-License-Identifier: MIT */
/* How close does a device, the CUDA backend above all, come to its GPU?
 *
 * Models run through the device table, without engine and HTTP: decode at 1, 16 and 64 sequences of a context, prefill of one
 * long prompt, and, with --drafts, decode of several rows a sequence against one. Each figure is a ratio against a limit that was measured before, in the same run (gpu_limits.c), and
 * stands beside the ratio that is wanted. bench_gpu.py makes the models and adds what needs a daemon or transformers. */
#include <cuda_profiler_api.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu_limits.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/thread.h"
#include "tokenlane/device.h"

#define MAX_SEQS 64
#define STEPS 64
#define WARM_STEPS 8
#define PASSES 5
#define DRAFT_SEQS 16
#define DRAFT_ROWS 8 /* most of a sequence */
#define DRAFT_STEPS 32
#define SMALL_DIM 2048 /* a model up to that is held to the smaller ratio */

struct options {
  const char *device, *plugin_dir;
  uint32_t context, prefill; /* tokens of a sequence that decodes, and of the prompt */
  uint32_t drafts;           /* tokens of the longer context in which steps with guesses are measured; 0: they are not */
  struct gpu_limits limits;  /* given, for devices that have none to measure; 0: measured */
};

/* Bytes and operations that a step cannot do without. */
struct work {
  double weight_bytes; /* as the files have them; of the embedding only what logits read, of experts nothing */
  double expert_bytes; /* of all experts of all layers */
  double chosen;       /* the share of a layer's experts that one row reads */
  double kv_bytes;     /* of one token, all layers, in 16 bits */
  double state_bytes;  /* of a sequence: S of all layers, read and written */
  double flops, row_flops, pair_flops; /* of a token's products, of a row's logits, of a query against a key */
  bool eight_bits;
};

static struct work count_work(const struct tl_model *m) {
  const struct tl_recurrence *r = &m->recurrence;
  struct work w = {.kv_bytes = 4.0 * m->n_kv_layers * m->n_kv_heads * m->head_dim,
                   .state_bytes = 8.0 * r->n_layers * r->n_value_heads * r->key_dim * r->value_dim,
                   .pair_flops = 4.0 * m->n_kv_layers * m->n_heads * m->head_dim,
                   .flops = 6.0 * r->n_layers * r->n_value_heads * r->key_dim * r->value_dim};
  for (uint32_t i = 0; i < m->n_ops; i++) {
    const struct tl_op *op = &m->plan[i];
    for (int k = 0; k < TL_OP_INPUTS && op->kind != TL_OP_EMBED; k++) {
      if (op->weight[k] < 0) continue;
      const struct tl_tensor *t = &m->tensors[op->weight[k]];
      double elements = (double)t->shape[0] * (t->n_dims > 1 ? (double)t->shape[1] : 0);
      bool experts = tl_op_n_tensors(op) > 1;
      if (experts) {
        w.expert_bytes += (double)t->bytes * op->n_experts;
        w.chosen = (double)op->n_chosen / op->n_experts;
      } else {
        w.weight_bytes += (double)t->bytes;
      }
      *(op->kind == TL_OP_LOGITS ? &w.row_flops : &w.flops) += 2 * elements * (experts ? op->n_chosen : 1);
      if (op->kind != TL_OP_LOGITS && elements > 0) w.eight_bits = (double)t->bytes < 1.5 * elements;
    }
  }
  return w;
}

/* What a step of n rows reads. Of experts what rows that choose evenly and each for itself would read: random weights come near that. */
static double step_bytes(const struct work *w, uint32_t n, double context) {
  return w->weight_bytes + w->expert_bytes * (1 - pow(1 - w->chosen, n)) + n * (context * w->kv_bytes + w->state_bytes);
}

/* --- steps ---------------------------------------------------------------------------------------- */

/* What one step is made of; it stays as it is until the step is collected. */
struct frame {
  int32_t *tokens;
  uint32_t *positions, *slots;
  uint32_t query_start[MAX_SEQS + 1], context_len[MAX_SEQS], rows[MAX_SEQS], from[MAX_SEQS], to[MAX_SEQS];
  struct tl_sampling sampling[MAX_SEQS];
  struct tl_step step;
};

/* Sequence s has the blocks s * stride and on, and state s. */
struct bench {
  const struct tl_device_ops *ops;
  struct tl_device *device;
  uint32_t stride, max_tokens, vocab;
  bool keeps; /* layers have states */
  uint32_t *tables;
  struct frame frames[2];
};

static void die(const struct tl_error *err) {
  printf("bench_gpu: %s\n", err->message);
  exit(1);
}

static double seconds_since(int64_t began_ns) {
  return (double)(tl_now_ns() - began_ns) / 1e9;
}

static void want_row(struct frame *f, uint32_t row, uint32_t position) {
  f->rows[f->step.n_rows] = row;
  f->sampling[f->step.n_rows++] = (struct tl_sampling){.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = -1, .position = position};
}

/* n tokens of each of n_seqs sequences from `first` on, at the positions from `from` on; fed: the device takes what the
 * step before drew; all: rows are wanted, not the last ones. */
static void submit_rows(struct bench *b, struct frame *f, uint32_t first, uint32_t n_seqs, uint32_t n, uint32_t from, bool fed, bool all) {
  struct tl_error err = {0};
  f->step = (struct tl_step){.n_tokens = n_seqs * n, .n_seqs = n_seqs, .table_stride = b->stride, .tokens = f->tokens,
                             .positions = f->positions, .slots = f->slots, .query_start = f->query_start, .context_len = f->context_len,
                             .block_tables = b->tables + (size_t)first * b->stride, .rows = f->rows, .sampling = f->sampling};
  for (uint32_t s = 0; s < n_seqs; s++) {
    for (uint32_t i = 0; i < n; i++) {
      uint32_t row = s * n + i, p = from + i;
      f->tokens[row] = fed ? -2 - (int32_t)row : (int32_t)(((first + s) * 7919u + p * 104729u + 3) % b->vocab);
      f->positions[row] = p;
      f->slots[row] = (first + s) * b->stride * TL_BLOCK_TOKENS + p;
      if (all || i + 1 == n) want_row(f, row, p + 1);
    }
    f->query_start[s + 1] = (s + 1) * n;
    f->context_len[s] = from + n;
    f->from[s] = from ? first + s : TL_NO_STATE;
    f->to[s] = first + s;
  }
  if (b->keeps) f->step.state_from = f->from, f->step.state_to = f->to;
  if (b->ops->submit(b->device, &f->step, &err) < 0) die(&err);
}

static void submit(struct bench *b, struct frame *f, uint32_t first, uint32_t n_seqs, uint32_t n, uint32_t from, bool fed) {
  submit_rows(b, f, first, n_seqs, n, from, fed, false);
}

static void collect(struct bench *b, uint32_t n_rows) {
  struct tl_sampled sampled[MAX_SEQS];
  struct tl_error err = {0};
  if (b->ops->collect(b->device, sampled, &err) < 0) die(&err);
  for (uint32_t i = 0; i < n_rows; i++)
    if (sampled[i].token < 0) {
      tl_error_set(&err, TL_EDEVICE, NULL, "the logits of a row are no distribution");
      die(&err);
    }
}

static double run_prompt(struct bench *b, uint32_t seq, uint32_t n, uint32_t from) {
  int64_t began_ns = tl_now_ns();
  submit(b, &b->frames[0], seq, 1, n, from, false);
  collect(b, 1);
  return seconds_since(began_ns);
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *values, unsigned n) {
  qsort(values, n, sizeof *values, by_size);
  return values[n / 2];
}

/* Decode steps one after the other, from one collect to the next; as the engine does, the step after is submitted before,
 * where the device can. */
static void run_decode(struct bench *b, uint32_t n_seqs, uint32_t context, uint32_t n_steps, double *times) {
  bool ahead = b->ops->runs_ahead;
  submit(b, &b->frames[0], 0, n_seqs, 1, context, false);
  int64_t began_ns = tl_now_ns();
  for (uint32_t i = 0; i < n_steps; i++) {
    bool more = i + 1 < n_steps;
    if (ahead && more) submit(b, &b->frames[(i + 1) % 2], 0, n_seqs, 1, context + i + 1, true);
    collect(b, n_seqs);
    times[i] = seconds_since(began_ns);
    began_ns = tl_now_ns();
    if (!ahead && more) submit(b, &b->frames[0], 0, n_seqs, 1, context + i + 1, false);
  }
}

static void fill_contexts(struct bench *b, uint32_t n_seqs, uint32_t context) {
  for (uint32_t s = 0; s < n_seqs; s++)
    for (uint32_t from = 0; from < context; from += b->max_tokens)
      run_prompt(b, s, context - from < b->max_tokens ? context - from : b->max_tokens, from);
}

/* The median step of sequences that have `context` tokens. Once more under a profiler: ncu --profile-from-start off. */
static double measure_decode(struct bench *b, uint32_t n_seqs, uint32_t context) {
  double times[WARM_STEPS + STEPS], profiled;
  fill_contexts(b, n_seqs, context);
  run_decode(b, n_seqs, context, WARM_STEPS + STEPS, times);
  cudaProfilerStart();
  run_decode(b, n_seqs, context, 1, &profiled);
  cudaProfilerStop();
  return median(times + WARM_STEPS, STEPS);
}

/* The median step of n rows a sequence behind `context` tokens, *ret_one: of one row; in turn, each waited for, as an engine does that has to
 * know what was guessed right. The rows are always the same ones. */
static double measure_rows(struct bench *b, uint32_t n_seqs, uint32_t n, uint32_t context, double *ret_one) {
  double one[WARM_STEPS + DRAFT_STEPS], several[WARM_STEPS + DRAFT_STEPS];
  for (int i = 0; i < WARM_STEPS + DRAFT_STEPS; i++)
    for (int k = 0; k < 2; k++) {
      uint32_t rows = k ? n : 1;
      int64_t began_ns = tl_now_ns();
      submit_rows(b, &b->frames[0], 0, n_seqs, rows, context, false, true);
      collect(b, n_seqs * rows);
      (k ? several : one)[i] = seconds_since(began_ns);
    }
  *ret_one = median(one + WARM_STEPS, DRAFT_STEPS);
  return median(several + WARM_STEPS, DRAFT_STEPS);
}

static double measure_prefill(struct bench *b, uint32_t n) {
  double times[PASSES];
  run_prompt(b, 0, n, 0);
  for (int i = 0; i < PASSES; i++) times[i] = run_prompt(b, 0, n, 0);
  cudaProfilerStart();
  run_prompt(b, 0, n, 0);
  cudaProfilerStop();
  return median(times, PASSES);
}

/* --- the table -------------------------------------------------------------------------------------- */

/* wanted: 0: nothing is. bench_gpu.py prints and reads the same form. */
static void print_row(const char *model, const char *what, double value, const char *unit, double ratio, double wanted) {
  char text[128];
  snprintf(text, sizeof text, "%s, %s", model, what);
  printf("%-44s %10.3f %-5s %6.1f %%", text, value, unit, 100 * ratio);
  if (wanted > 0) printf("  wanted %3.0f %%  %s", 100 * wanted, ratio >= wanted ? "met" : "MISSED");
  putchar('\n');
}

/* Guesses behind a last token: what a step of several rows a sequence takes, and in % of one of a row each. */
static void measure_drafts(struct bench *b, const struct options *o, const char *name, uint32_t n_blocks) {
  static const struct {
    uint32_t n_seqs, rows;
  } steps[] = {{1, 2}, {1, 4}, {1, DRAFT_ROWS}, {DRAFT_SEQS, 2}, {DRAFT_SEQS, 4}};
  const uint32_t contexts[] = {o->context, o->drafts};
  char what[64];
  b->stride = tl_blocks_of(o->drafts + DRAFT_ROWS);
  if ((uint64_t)DRAFT_SEQS * b->stride > n_blocks) {
    printf("%s, drafts: not run, the KV cache has %u blocks\n", name, n_blocks);
    return;
  }
  fill_contexts(b, DRAFT_SEQS, o->drafts);
  for (size_t c = 0; c < 2; c++)
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
      double one, s = measure_rows(b, steps[i].n_seqs, steps[i].rows, contexts[c], &one);
      snprintf(what, sizeof what, "drafts, %u x %u rows, %u", steps[i].n_seqs, steps[i].rows, contexts[c]);
      print_row(name, what, s * 1e3, "ms", s / one, 0);
    }
}

/* Issue 4's ratios at one sequence. */
static double wanted_alone(const struct tl_model *m, const struct work *w) {
  return m->dim <= SMALL_DIM ? 0.60 : w->eight_bits ? 0.70 : 0.80;
}

static void open_bench(struct bench *b, const struct options *o, const struct tl_model *m, const char *path, struct tl_device_loaded *ret) {
  struct tl_error err = {0};
  unsigned index;
  tl_device_plugin_folder(o->plugin_dir);
  uint32_t context = o->context + WARM_STEPS + STEPS;
  if (o->prefill > context) context = o->prefill;
  b->stride = tl_blocks_of(context);
  if (o->drafts && o->drafts + DRAFT_ROWS > context) context = o->drafts + DRAFT_ROWS;
  b->max_tokens = o->prefill > MAX_SEQS ? o->prefill : MAX_SEQS;
  b->vocab = m->vocab_size;
  b->keeps = m->recurrence.n_layers > 0;
  b->ops = tl_device_find(o->device, &index, &err);
  if (!b->ops) die(&err);
  struct tl_device_options options = {.spec = o->device, .index = index, .n_lanes = tl_cpu_count()};
  struct tl_device_load load = {.model = m, .model_path = path, .max_batch_size = MAX_SEQS, .max_batch_tokens = b->max_tokens,
                                .max_context = context, .draft_tokens = o->drafts ? DRAFT_ROWS - 1 : 0, .draft_rows = MAX_SEQS,
                                .max_states = m->recurrence.n_layers ? MAX_SEQS : 0};
  if (b->ops->open(&options, &b->device, &err) < 0 || b->ops->load(b->device, &load, ret, &err) < 0) die(&err);
  size_t n_table = (size_t)MAX_SEQS * tl_blocks_of(context);
  b->tables = calloc(n_table, sizeof *b->tables);
  bool whole = b->tables;
  for (struct frame *f = b->frames; f < b->frames + 2; f++) {
    f->tokens = calloc(b->max_tokens, sizeof *f->tokens);
    f->positions = calloc(b->max_tokens, sizeof *f->positions);
    f->slots = calloc(b->max_tokens, sizeof *f->slots);
    whole = whole && f->tokens && f->positions && f->slots;
  }
  if (!whole) {
    tl_error_set(&err, TL_ENOMEM, NULL, "out of memory");
    die(&err);
  }
  for (size_t i = 0; i < n_table; i++) b->tables[i] = (uint32_t)i;
}

static void measure_model(const struct options *o, const char *path) {
  static const uint32_t sizes[] = {1, 16, MAX_SEQS};
  static struct bench b;
  struct tl_error err = {0};
  struct tl_model *m;
  struct tl_device_loaded loaded;
  char what[64];
  const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
  if (tl_model_load(path, &m, &err) < 0) die(&err);
  struct work w = count_work(m);
  int64_t began_ns = tl_now_ns();
  open_bench(&b, o, m, path, &loaded);
  printf("%s: a step reads %.0f bytes of weights and %.0f of KV a token; loaded in %.2f s, %.3f GB on the device\n", name,
         step_bytes(&w, 1, 0), w.kv_bytes, seconds_since(began_ns), (double)loaded.weight_bytes / 1e9);
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    uint32_t n = sizes[i];
    snprintf(what, sizeof what, "decode, %u x %u", n, o->context);
    if ((uint64_t)n * b.stride > loaded.n_blocks || (b.keeps && n > loaded.n_states)) {
      printf("%s, %s: not run, the KV cache has %u blocks, and there are %u states\n", name, what, loaded.n_blocks, loaded.n_states);
      continue;
    }
    double s = measure_decode(&b, n, o->context), context = o->context + WARM_STEPS + STEPS / 2.0;
    double wanted = w.expert_bytes > 0 || b.keeps ? 0 : n == 1 ? wanted_alone(m, &w) : n == MAX_SEQS ? 0.70 : 0;
    print_row(name, what, s * 1e3, "ms", step_bytes(&w, n, context) / s / o->limits.copy_bytes_per_s, wanted);
  }
  double n = o->prefill, s = measure_prefill(&b, o->prefill);
  double flops = n * w.flops + w.row_flops + n * (n + 1) / 2 * w.pair_flops;
  snprintf(what, sizeof what, "prefill, %u", o->prefill);
  /* models of E4M3 are held to the rate in BF16, too; that of E4M3 products is about twice it */
  print_row(name, what, s * 1e3, "ms", flops / s / o->limits.product_flops, w.expert_bytes > 0 || b.keeps ? 0 : 0.60);
  if (o->drafts && !b.keeps) measure_drafts(&b, o, name, loaded.n_blocks);
  b.ops->close(b.device);
  for (struct frame *f = b.frames; f < b.frames + 2; f++) {
    free(f->tokens);
    free(f->positions);
    free(f->slots);
  }
  free(b.tables);
  tl_model_free(m);
}

static int usage(void) {
  fputs("bench_gpu [--device cuda:0] [--plugin_dir FOLDER] [--context N] [--prefill N] [--drafts N] [--copy BYTES/S --product FLOPS] MODEL...\n", stderr);
  return 2;
}

int main(int argc, char **argv) {
  static const struct option names[] = {{"device", 1, NULL, 'd'}, {"plugin_dir", 1, NULL, 'l'}, {"context", 1, NULL, 'c'},
                                        {"prefill", 1, NULL, 'p'}, {"drafts", 1, NULL, 'r'}, {"copy", 1, NULL, 'b'}, {"product", 1, NULL, 'f'}, {0}};
  struct options o = {.device = "cuda:0", .plugin_dir = "", .context = 1024, .prefill = 2048};
  for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
    if (c == 'd') o.device = optarg;
    else if (c == 'l') o.plugin_dir = optarg;
    else if (c == 'c') o.context = (uint32_t)strtoul(optarg, NULL, 10);
    else if (c == 'p') o.prefill = (uint32_t)strtoul(optarg, NULL, 10);
    else if (c == 'r') o.drafts = (uint32_t)strtoul(optarg, NULL, 10);
    else if (c == 'b') o.limits.copy_bytes_per_s = strtod(optarg, NULL);
    else if (c == 'f') o.limits.product_flops = strtod(optarg, NULL);
    else return usage();
  }
  if (o.context == 0 || o.prefill == 0 || (o.drafts && o.drafts < o.context)) return usage();
  if (o.limits.copy_bytes_per_s == 0 || o.limits.product_flops == 0) {
    const char *why = gpu_limits_measure((int)strtoul(strchr(o.device, ':') ? strchr(o.device, ':') + 1 : "0", NULL, 10), &o.limits);
    if (why) {
      printf("bench_gpu: no GPU to measure: %s\n", why);
      return 77;
    }
  }
  setvbuf(stdout, NULL, _IOLBF, 0); /* who is killed has said what it knew, into a pipe too */
  printf("copy %.1f GB/s, product %.1f TFLOP/s\n", o.limits.copy_bytes_per_s / 1e9, o.limits.product_flops / 1e12);
  for (int i = optind; i < argc; i++) measure_model(&o, argv[i]);
  return 0;
}
