/* SPDX-License-Identifier: MIT */
/* Samples to percentiles; a table for people, one JSON object for programs. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

/* --- samples ---------------------------------------------------------------------------------- */

void load_samples_add(struct load_samples *samples, double value) {
  if (samples->n == samples->capacity) {
    samples->capacity = samples->capacity ? samples->capacity * 2 : 64;
    samples->values = realloc(samples->values, samples->capacity * sizeof *samples->values);
    if (!samples->values) abort();
  }
  samples->values[samples->n++] = value;
}

void load_samples_take(struct load_samples *samples, struct load_samples *from) {
  for (size_t i = 0; i < from->n; i++) load_samples_add(samples, from->values[i]);
  from->n = 0;
}

void load_stats_fail(struct load_stats *stats, const char *cause) {
  stats->n_failed++;
  unsigned i = 0;
  while (i < stats->n_failures && strcmp(stats->failures[i].cause, cause) != 0) i++;
  if (i == LOAD_MAX_FAILURES) i--; /* the last one counts what has no place */
  if (i == stats->n_failures) {
    snprintf(stats->failures[i].cause, sizeof stats->failures[i].cause, "%s", cause);
    stats->n_failures++;
  }
  stats->failures[i].n++;
}

/* --- percentiles -------------------------------------------------------------------------------- */

struct summary {
  double mean, p50, p90, p99, max;
};

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* The smallest sample that at least the share `p` of all does not exceed. */
static double percentile(const struct load_samples *sorted, double p) {
  size_t rank = (size_t)ceil(p * (double)sorted->n);
  return sorted->values[rank ? rank - 1 : 0];
}

/* Sorts the samples. */
static struct summary summarize(const struct load_samples *samples) {
  struct summary s = {0};
  if (!samples->n) return s;
  qsort(samples->values, samples->n, sizeof *samples->values, compare);
  for (size_t i = 0; i < samples->n; i++) s.mean += samples->values[i];
  s.mean /= (double)samples->n;
  s.p50 = percentile(samples, 0.50);
  s.p90 = percentile(samples, 0.90);
  s.p99 = percentile(samples, 0.99);
  s.max = samples->values[samples->n - 1];
  return s;
}

struct row {
  const char *key, *label;
  const struct load_samples *samples;
};

#define N_ROWS 5
static void fill_rows(const struct load_stats *stats, struct row rows[N_ROWS]) {
  rows[0] = (struct row){"ttft_ms", "to first token", &stats->ttft};
  rows[1] = (struct row){"itl_ms", "between chunks", &stats->itl};
  rows[2] = (struct row){"tpot_ms", "per further token", &stats->tpot};
  rows[3] = (struct row){"e2e_ms", "whole request", &stats->e2e};
  rows[4] = (struct row){"refused_ms", "refused with 429", &stats->refused};
}

/* --- output --------------------------------------------------------------------------------------- */

static double per_second(double count, double seconds) {
  return seconds > 0 ? count / seconds : 0;
}

static void print_table(const struct load_options *o, const struct load_stats *stats, double seconds) {
  char mode[64];
  if (o->rate > 0)
    snprintf(mode, sizeof mode, "%g requests/s, open loop", o->rate);
  else
    snprintf(mode, sizeof mode, "%lld streams, closed loop", (long long)o->streams);
  printf("%s of '%s': %s, %lld tokens to generate each\n\n", o->endpoint, o->model, mode,
         (long long)o->max_tokens);
  printf("requests      %10llu in %.3f s, %llu failed\n", (unsigned long long)stats->n_completed, seconds,
         (unsigned long long)stats->n_failed);
  for (unsigned i = 0; i < stats->n_failures; i++)
    printf("  failed      %10llu %s\n", (unsigned long long)stats->failures[i].n, stats->failures[i].cause);
  printf("requests/s    %10.2f\n", per_second((double)stats->n_completed, seconds));
  printf("output tok/s  %10.2f  (%llu tokens in %llu chunks)\n",
         per_second((double)stats->output_tokens, seconds), (unsigned long long)stats->output_tokens,
         (unsigned long long)stats->n_chunks);
  printf("prompt tok/s  %10.2f  (%llu tokens)\n\n", per_second((double)stats->prompt_tokens, seconds),
         (unsigned long long)stats->prompt_tokens);
  printf("%-18s %10s %10s %10s %10s %10s\n", "milliseconds", "mean", "p50", "p90", "p99", "max");
  struct row rows[N_ROWS];
  fill_rows(stats, rows);
  for (int i = 0; i < N_ROWS; i++) {
    struct summary s = summarize(rows[i].samples);
    if (!rows[i].samples->n) continue;
    printf("%-18s %10.3f %10.3f %10.3f %10.3f %10.3f\n", rows[i].label, s.mean, s.p50, s.p90, s.p99, s.max);
  }
}

static void print_json(const struct load_options *o, const struct load_stats *stats, double seconds) {
  json_t *failures = json_object();
  for (unsigned i = 0; i < stats->n_failures; i++)
    json_object_set_new(failures, stats->failures[i].cause, json_integer((json_int_t)stats->failures[i].n));
  json_t *root = json_pack(
      "{s:s, s:s, s:s, s:I, s:f, s:I, s:I, s:I, s:I, s:o, s:f, s:I, s:I, s:I, s:f, s:f, s:f}", "endpoint",
      o->endpoint, "model", o->model, "mode", o->rate > 0 ? "open" : "closed", "streams",
      (json_int_t)(o->rate > 0 ? 0 : o->streams), "rate", o->rate, "seed", (json_int_t)o->seed, "max_tokens",
      (json_int_t)o->max_tokens, "completed", (json_int_t)stats->n_completed, "failed",
      (json_int_t)stats->n_failed, "failures", failures, "wall_ms", seconds * 1e3, "prompt_tokens",
      (json_int_t)stats->prompt_tokens, "output_tokens", (json_int_t)stats->output_tokens, "chunks",
      (json_int_t)stats->n_chunks, "requests_per_s", per_second((double)stats->n_completed, seconds),
      "output_tokens_per_s", per_second((double)stats->output_tokens, seconds), "prompt_tokens_per_s",
      per_second((double)stats->prompt_tokens, seconds));
  struct row rows[N_ROWS];
  fill_rows(stats, rows);
  for (int i = 0; i < N_ROWS; i++) {
    struct summary s = summarize(rows[i].samples);
    json_object_set_new(root, rows[i].key,
                        json_pack("{s:f, s:f, s:f, s:f, s:f}", "mean", s.mean, "p50", s.p50, "p90", s.p90,
                                  "p99", s.p99, "max", s.max));
  }
  json_dumpf(root, stdout, JSON_REAL_PRECISION(9));
  putchar('\n');
  json_decref(root);
}

void load_report(const struct load_options *options, const struct load_stats *stats) {
  double seconds = (double)(stats->ended_ns - stats->began_ns) * 1e-9;
  (options->json ? print_json : print_table)(options, stats, seconds);
}
