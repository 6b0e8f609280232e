/* SPDX-License-Identifier: MIT */
/* What does it cost a step that its device is in another process? A simulated device whose step takes no
 * time, in this process and in its own: the same step, from submit to the end of collect. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tokenlane/base/clock.h"
#include "tokenlane/device.h"
#include "tokenlane/sim.h"

#define CONTEXT 4096
#define TABLE (CONTEXT / TL_BLOCK_TOKENS)
#define MOST 64
#define STEPS 20000

static const struct tl_model model = {.vocab_size = 32000, .max_context = CONTEXT};
static const struct tl_sim_options instant = {.base_ns = 0};

static struct {
  int32_t tokens[MOST];
  uint32_t positions[MOST], slots[MOST], query_start[MOST + 1], context_len[MOST], tables[MOST * TABLE], rows[MOST];
  struct tl_sampling sampling[MOST];
} work;

/* n sequences that decode at the end of a context of so many tokens. */
static struct tl_step make_step(uint32_t n, uint32_t context) {
  for (uint32_t q = 0; q < n; q++) {
    for (uint32_t b = 0; b < TABLE; b++) work.tables[q * TABLE + b] = q * TABLE + b;
    work.tokens[q] = (int32_t)q;
    work.positions[q] = context - 1;
    work.slots[q] = work.tables[q * TABLE + (context - 1) / TL_BLOCK_TOKENS] * TL_BLOCK_TOKENS + (context - 1) % TL_BLOCK_TOKENS;
    work.query_start[q + 1] = q + 1;
    work.context_len[q] = context;
    work.rows[q] = q;
    work.sampling[q] = (struct tl_sampling){.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = -1};
  }
  return (struct tl_step){.n_tokens = n, .n_seqs = n, .n_rows = n, .table_stride = TABLE, .tokens = work.tokens,
                          .positions = work.positions, .slots = work.slots, .query_start = work.query_start,
                          .context_len = work.context_len, .block_tables = work.tables, .rows = work.rows, .sampling = work.sampling};
}

static void die(const struct tl_error *err) {
  fprintf(stderr, "bench_child: %s\n", err->message);
  exit(1);
}

static struct tl_device *open_device(const struct tl_device_ops *ops) {
  struct tl_device_options options = {.spec = "sim:0", .n_lanes = 1, .sim = &instant};
  struct tl_device_load load = {.model = &model, .max_batch_size = MOST, .max_batch_tokens = MOST, .max_context = CONTEXT};
  struct tl_device_loaded loaded;
  struct tl_device *device = NULL;
  struct tl_error err = {0};
  if (ops->open(&options, &device, &err) < 0 || ops->load(device, &load, &loaded, &err) < 0) die(&err);
  return device;
}

static int by_size(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

struct result {
  double p50_us, p99_us;
};

/* pause_us between steps: what a worker does there. */
static struct result measure(const struct tl_device_ops *ops, struct tl_device *device, const struct tl_step *step, unsigned pause_us) {
  static int64_t ns[STEPS];
  struct tl_sampled sampled[MOST];
  struct tl_error err = {0};
  unsigned n = pause_us ? STEPS / 10 : STEPS;
  for (unsigned i = 0; i < n; i++) {
    if (pause_us) usleep(pause_us);
    int64_t began_ns = tl_now_ns();
    if (ops->submit(device, step, &err) < 0 || ops->collect(device, sampled, &err) < 0) die(&err);
    ns[i] = tl_now_ns() - began_ns;
  }
  qsort(ns, n, sizeof *ns, by_size);
  return (struct result){(double)ns[n / 2] / 1e3, (double)ns[n - n / 100] / 1e3};
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "device") == 0) return tl_device_host();
  static const struct {
    uint32_t n, context;
    unsigned pause_us;
  } settings[] = {{1, 64, 0}, {16, 1024, 0}, {64, 4096, 0}, {1, 64, 1000}, {64, 4096, 1000}};
  unsigned index;
  struct tl_error err = {0};
  const struct tl_device_ops *here = tl_device_find("sim:0", &index, &err), *there = tl_device_isolated(here, 1);
  struct tl_device *thread = open_device(here), *process = open_device(there);
  printf("sequences, context, pause before the step: microseconds in a thread (p50, p99), in a process, what it adds (p50)\n");
  for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
    struct tl_step step = make_step(settings[i].n, settings[i].context);
    struct result a = measure(here, thread, &step, settings[i].pause_us), b = measure(there, process, &step, settings[i].pause_us);
    printf("  %2u %5u %5u us   %8.1f %8.1f   %8.1f %8.1f   %8.1f\n", settings[i].n, settings[i].context, settings[i].pause_us, a.p50_us,
           a.p99_us, b.p50_us, b.p99_us, b.p50_us - a.p50_us);
  }
  here->close(thread);
  there->close(process);
  return 0;
}
