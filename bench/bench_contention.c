/* SPDX-License-Identifier: MIT */
/* Do the parts of a request's way that cross threads scale better than the same
 * parts under a lock? Each part runs against its locked twins at 1 to 16 threads, in
 * rounds that take turns, so that what else the machine does hits all alike; the
 * ratio is the median over the rounds. Beside them what an operation cost in
 * processor time and how often a thread slept for it, which other programs on the
 * machine change less than operations a second. --json for programs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "contention.h"
#include "tokenlane/base/clock.h"

_Atomic int contention_over;

static const unsigned counts[] = {1, 2, 4, 8, 16};
enum { N_COUNTS = sizeof counts / sizeof *counts, MAX_ROUNDS = 99, MAX_VARIANTS = 4, EXPECTED_AT = 8 };

static unsigned n_rounds = 5;
static int64_t run_ns = TL_MS(150);
static bool json;
static const char *only, *variant_only;
static unsigned threads_only;

struct cell {
  double ops_per_s[MAX_ROUNDS], p50_ns[MAX_ROUNDS], p99_ns[MAX_ROUNDS], cpu_ns[MAX_ROUNDS], sleeps[MAX_ROUNDS],
      ratio[MAX_ROUNDS];
};

/* --- samples ------------------------------------------------------------------------- */

int64_t contention_begin(const struct contention_tally *tally) {
  return tally->n_ops % CONTENTION_EVERY == 0 ? tl_now_ns() : 0;
}

void contention_count(struct contention_tally *tally, int64_t began_ns) {
  tally->n_ops++;
  /* a full tally keeps the latest: all of a run's middle */
  if (began_ns) tally->samples[tally->n_samples++ % CONTENTION_SAMPLES] = tl_now_ns() - began_ns;
}

static int by_time(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(const double *values) {
  double sorted[MAX_ROUNDS];
  memcpy(sorted, values, n_rounds * sizeof *sorted);
  qsort(sorted, n_rounds, sizeof *sorted, by_value);
  return sorted[n_rounds / 2];
}

/* --- runs ------------------------------------------------------------------------------- */

static struct contention_tally tallies[CONTENTION_MAX_THREADS];
static int64_t all[CONTENTION_MAX_THREADS * CONTENTION_SAMPLES];

static void sleep_ns(int64_t ns) {
  struct timespec t = {ns / TL_SEC(1), ns % TL_SEC(1)};
  nanosleep(&t, NULL);
}

struct usage {
  double cpu_ns, sleeps;
};

static struct usage usage_now(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return (struct usage){(double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e9 + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e3,
                        (double)u.ru_nvcsw};
}

static void run(const struct contention_variant *variant, unsigned n_threads, struct cell *cell, unsigned round) {
  for (unsigned i = 0; i < n_threads; i++) tallies[i].n_ops = tallies[i].n_samples = 0;
  atomic_store_explicit(&contention_over, 0, memory_order_relaxed); /* before the threads are made */
  struct usage before = usage_now();
  int64_t began_ns = tl_now_ns();
  variant->start(variant, n_threads, tallies);
  sleep_ns(run_ns);
  atomic_store_explicit(&contention_over, 1, memory_order_release);
  int64_t took_ns = tl_now_ns() - began_ns;
  variant->stop();
  struct usage after = usage_now();
  uint64_t n_ops = 0;
  size_t n = 0;
  for (unsigned i = 0; i < n_threads; i++) {
    size_t kept = tallies[i].n_samples < CONTENTION_SAMPLES ? tallies[i].n_samples : CONTENTION_SAMPLES;
    memcpy(all + n, tallies[i].samples, kept * sizeof *all);
    n += kept;
    n_ops += tallies[i].n_ops;
  }
  qsort(all, n, sizeof *all, by_time);
  cell->ops_per_s[round] = (double)n_ops / ((double)took_ns * 1e-9);
  cell->cpu_ns[round] = (after.cpu_ns - before.cpu_ns) / (double)(n_ops ? n_ops : 1);
  cell->sleeps[round] = (after.sleeps - before.sleeps) / (double)(n_ops ? n_ops : 1);
  cell->p50_ns[round] = n ? (double)all[n / 2] : 0;
  cell->p99_ns[round] = n ? (double)all[n * 99 / 100] : 0;
}

/* Within a round the variants take turns and begin with another each time. */
static void run_round(const struct contention_part *part, unsigned n_threads, struct cell *cells, unsigned round) {
  for (unsigned k = 0; k < part->n_variants; k++) {
    unsigned v = (round + k) % part->n_variants;
    if (variant_only && strcmp(variant_only, part->variants[v].name) != 0) continue;
    run(&part->variants[v], n_threads, &cells[v], round);
  }
  for (unsigned v = 0; v < part->n_variants; v++) cells[v].ratio[round] = cells[0].ops_per_s[round] / cells[v].ops_per_s[round];
}

/* --- output -------------------------------------------------------------------------------- */

static void print_row(const struct contention_part *part, unsigned n_threads, const struct cell *cells) {
  static bool first = true;
  for (unsigned v = 0; v < part->n_variants; v++) {
    const char *name = part->variants[v].name;
    if (variant_only && strcmp(variant_only, name) != 0) continue;
    double ops = median(cells[v].ops_per_s), p50 = median(cells[v].p50_ns), p99 = median(cells[v].p99_ns), ratio = median(cells[v].ratio);
    double cpu = median(cells[v].cpu_ns), sleeps = median(cells[v].sleeps);
    if (json)
      printf("%s\n  {\"part\":\"%s\",\"variant\":\"%s\",\"threads\":%u,\"ops_per_s\":%.0f,\"p50_ns\":%.0f,\"p99_ns\":%.0f,"
             "\"cpu_ns\":%.1f,\"sleeps\":%.5f,\"ratio\":%.3f,\"expected\":%g}",
             first ? "" : ",", part->name, name, n_threads, ops, p50, p99, cpu, sleeps, ratio,
             v == 1 && n_threads == EXPECTED_AT ? part->expected : 0);
    else
      printf("%8u  %-14s %12.0f %8.0f %10.0f %10.0f %12.3f %9.2f\n", n_threads, name, ops, p50, p99, cpu, sleeps * 1e3, ratio);
    first = false;
  }
}

static void measure(const struct contention_part *part) {
  static struct cell cells[MAX_VARIANTS];
  if (only && strcmp(only, part->name) != 0) return;
  if (!json)
    printf("\n%s (%s)\n%8s  %-14s %12s %8s %10s %10s %12s %9s\n", part->name, part->what, "threads", "", "per second", "p50 ns", "p99 ns",
           "CPU ns/op", "sleeps/1000", "ours is x");
  for (unsigned c = 0; c < N_COUNTS; c++) {
    if (threads_only && counts[c] != threads_only) continue;
    for (unsigned round = 0; round < n_rounds; round++) run_round(part, counts[c], cells, round);
    print_row(part, counts[c], cells);
    fflush(stdout);
  }
}

static void usage(void) {
  fprintf(stderr, "bench_contention [--json] [--rounds N] [--ms N] [--only submit-and-batch|coordinator] [--threads N]\n"
                  "                 [--variant NAME]   (one alone, for perf)\n");
  exit(2);
}

int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--json") == 0) {
      json = true;
      continue;
    }
    if (i + 1 == argc) usage();
    const char *value = argv[++i];
    if (strcmp(argv[i - 1], "--rounds") == 0)
      n_rounds = (unsigned)atoi(value);
    else if (strcmp(argv[i - 1], "--ms") == 0)
      run_ns = TL_MS(atoi(value));
    else if (strcmp(argv[i - 1], "--only") == 0)
      only = value;
    else if (strcmp(argv[i - 1], "--threads") == 0)
      threads_only = (unsigned)atoi(value);
    else if (strcmp(argv[i - 1], "--variant") == 0)
      variant_only = value;
    else
      usage();
  }
  if (n_rounds < 1 || n_rounds > MAX_ROUNDS || run_ns < TL_MS(1)) usage();
  if (!json) printf("forming a step costs %.0f ns a sequence\n", contention_form_ns());
  if (json) printf("[");
  measure(&contention_submit);
  measure(&contention_board);
  if (json) printf("\n]\n");
  return 0;
}
