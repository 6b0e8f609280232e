/* SPDX-License-Identifier: MIT */
/* Series live in one table; each shard is an array of cells of fixed capacity,
 * so that series may be registered by the boot thread while loops already run:
 * their cells are there, only nobody has named them yet.
 *
 *   series:  counter: 1 cell             histogram: n_bounds + 2 cells
 *                                        (one a bucket, +Inf, then the sum) */
#include "tokenlane/metrics.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenlane/base/thread.h"

#define MAX_SERIES 2048
#define MAX_CELLS 16384
#define MAX_SHARDS 256
#define MAX_SCOPE 512

enum kind { KIND_COUNTER, KIND_GAUGE, KIND_HISTOGRAM };
static const char *const kind_names[] = {"counter", "gauge", "histogram"};

struct series {
  enum kind kind;
  char *name, *help, *labels;
  uint32_t cell;            /* first cell in every shard */
  int64_t *limits;          /* histogram: upper bounds in observed units */
  double *bounds;           /* as exposed */
  unsigned n_bounds;
  double scale;
  double (*read)(void *context); /* gauge read at scrape */
  void *context;
};

struct tl_metrics_shard {
  struct tl_metrics *metrics;
  _Atomic int64_t *cells; /* (MAX_CELLS) written by the shard's thread alone */
};

struct tl_metrics {
  struct series series[MAX_SERIES];
  char scope[MAX_SCOPE];    /* label that series get which are registered now, or "" */
  uint32_t n_cells;
  /* written by the boot thread, read by scrapes */
  _Atomic uint32_t n_series; /* entry 0 is TL_METRIC_NONE */
  _Atomic uint32_t n_shards;
  struct tl_metrics_shard *shards[MAX_SHARDS];
};

struct tl_metrics *tl_metrics_new(void) {
  struct tl_metrics *metrics = calloc(1, sizeof *metrics);
  if (metrics) atomic_store_explicit(&metrics->n_series, 1, memory_order_relaxed);
  return metrics;
}

void tl_metrics_free(struct tl_metrics *metrics) {
  if (!metrics) return;
  for (unsigned i = 0; i < MAX_SERIES; i++) {
    struct series *s = &metrics->series[i];
    free(s->name);
    free(s->help);
    free(s->labels);
    free(s->limits);
    free(s->bounds);
  }
  for (unsigned i = 0; i < MAX_SHARDS && metrics->shards[i]; i++) {
    free(metrics->shards[i]->cells);
    free(metrics->shards[i]);
  }
  free(metrics);
}

void tl_metrics_label(char *ret, size_t size, const char *name, const char *value) {
  size_t n = (size_t)snprintf(ret, size, "%.60s=\"", name);
  for (; *value && n + 4 < size; value++) {
    if (*value == '"' || *value == '\\' || *value == '\n') ret[n++] = '\\';
    ret[n++] = *value == '\n' ? 'n' : *value;
  }
  memcpy(ret + n, "\"", 2);
}

void tl_metrics_scope(struct tl_metrics *metrics, const char *name, const char *value) {
  metrics->scope[0] = 0;
  if (name) tl_metrics_label(metrics->scope, sizeof metrics->scope, name, value);
}

static char *join_labels(const char *scope, const char *labels) {
  size_t size = strlen(scope) + strlen(labels) + 2;
  char *all = malloc(size);
  if (all) snprintf(all, size, "%s%s%s", scope, *scope && *labels ? "," : "", labels);
  return all;
}

/* A new, unpublished entry, or NULL. */
static struct series *add(struct tl_metrics *metrics, enum kind kind, const char *name, const char *help,
                          const char *labels, uint32_t n_cells) {
  /* relaxed: only the boot thread writes it */
  uint32_t n = atomic_load_explicit(&metrics->n_series, memory_order_relaxed);
  if (n == MAX_SERIES || metrics->n_cells + n_cells > MAX_CELLS) return NULL;
  struct series *s = &metrics->series[n];
  s->kind = kind;
  s->name = strdup(name);
  s->help = strdup(help);
  s->labels = join_labels(metrics->scope, labels ? labels : "");
  s->cell = metrics->n_cells;
  return s->name && s->help && s->labels ? s : NULL;
}

static tl_metric publish(struct tl_metrics *metrics, uint32_t n_cells) {
  uint32_t n = atomic_load_explicit(&metrics->n_series, memory_order_relaxed);
  metrics->n_cells += n_cells;
  /* publishes the entry; pairs with the acquire load in tl_metrics_expose */
  atomic_store_explicit(&metrics->n_series, n + 1, memory_order_release);
  return n;
}

tl_metric tl_metrics_counter(struct tl_metrics *metrics, const char *name, const char *help, const char *labels) {
  return add(metrics, KIND_COUNTER, name, help, labels, 1) ? publish(metrics, 1) : TL_METRIC_NONE;
}

static tl_metric publish_read(struct tl_metrics *metrics, struct series *s, double (*read)(void *context), void *context) {
  if (!s) return TL_METRIC_NONE;
  s->read = read;
  s->context = context;
  return publish(metrics, 0);
}

tl_metric tl_metrics_gauge_read(struct tl_metrics *metrics, const char *name, const char *help, const char *labels,
                                double (*read)(void *context), void *context) {
  return publish_read(metrics, add(metrics, KIND_GAUGE, name, help, labels, 0), read, context);
}

tl_metric tl_metrics_counter_read(struct tl_metrics *metrics, const char *name, const char *help, const char *labels,
                                  double (*read)(void *context), void *context) {
  return publish_read(metrics, add(metrics, KIND_COUNTER, name, help, labels, 0), read, context);
}

tl_metric tl_metrics_histogram(struct tl_metrics *metrics, const char *name, const char *help, const char *labels,
                               const double *bounds, unsigned n_bounds, double scale) {
  struct series *s = add(metrics, KIND_HISTOGRAM, name, help, labels, n_bounds + 2);
  if (!s) return TL_METRIC_NONE;
  s->limits = calloc(n_bounds, sizeof *s->limits);
  s->bounds = calloc(n_bounds, sizeof *s->bounds);
  if (!s->limits || !s->bounds) return TL_METRIC_NONE;
  s->n_bounds = n_bounds;
  s->scale = scale;
  for (unsigned i = 0; i < n_bounds; i++) {
    s->bounds[i] = bounds[i];
    s->limits[i] = (int64_t)(bounds[i] / scale + 0.5);
  }
  return publish(metrics, n_bounds + 2);
}

struct tl_metrics_shard *tl_metrics_shard_new(struct tl_metrics *metrics) {
  uint32_t n = atomic_load_explicit(&metrics->n_shards, memory_order_relaxed); /* boot thread alone writes it */
  struct tl_metrics_shard *shard = n < MAX_SHARDS ? calloc(1, sizeof *shard) : NULL;
  if (!shard) return NULL;
  shard->metrics = metrics;
  shard->cells = aligned_alloc(TL_CACHE_LINE, MAX_CELLS * sizeof *shard->cells);
  if (!shard->cells) {
    free(shard);
    return NULL;
  }
  memset((void *)shard->cells, 0, MAX_CELLS * sizeof *shard->cells);
  metrics->shards[n] = shard;
  /* publishes the shard; pairs with the acquire load in sum */
  atomic_store_explicit(&metrics->n_shards, n + 1, memory_order_release);
  return shard;
}

/* relaxed load and store, no RMW: this thread is the only writer of its cells */
static void bump(_Atomic int64_t *cell, int64_t delta) {
  atomic_store_explicit(cell, atomic_load_explicit(cell, memory_order_relaxed) + delta, memory_order_relaxed);
}

void tl_metrics_add(struct tl_metrics_shard *shard, tl_metric metric, int64_t delta) {
  if (shard && metric != TL_METRIC_NONE) bump(&shard->cells[shard->metrics->series[metric].cell], delta);
}

void tl_metrics_observe(struct tl_metrics_shard *shard, tl_metric metric, int64_t value) {
  if (!shard || metric == TL_METRIC_NONE) return;
  const struct series *s = &shard->metrics->series[metric];
  unsigned i = 0;
  while (i < s->n_bounds && value > s->limits[i]) i++;
  bump(&shard->cells[s->cell + i], 1);
  bump(&shard->cells[s->cell + s->n_bounds + 1], value);
}

/* --- exposition ----------------------------------------------------------------------- */

static int64_t sum(struct tl_metrics *metrics, uint32_t cell) {
  /* pairs with the release store in tl_metrics_shard_new */
  uint32_t n = atomic_load_explicit(&metrics->n_shards, memory_order_acquire);
  int64_t total = 0;
  for (uint32_t i = 0; i < n; i++)
    total += atomic_load_explicit(&metrics->shards[i]->cells[cell], memory_order_relaxed); /* single counts */
  return total;
}

static void expose_histogram(struct tl_metrics *metrics, const struct series *s, struct tl_buffer *out) {
  const char *comma = *s->labels ? "," : "";
  int64_t count = 0;
  for (unsigned i = 0; i <= s->n_bounds; i++) {
    count += sum(metrics, s->cell + i);
    tl_buffer_printf(out, "%s_bucket{%s%sle=\"", s->name, s->labels, comma);
    if (i < s->n_bounds)
      tl_buffer_printf(out, "%.9g\"} %lld\n", s->bounds[i], (long long)count);
    else
      tl_buffer_printf(out, "+Inf\"} %lld\n", (long long)count);
  }
  const char *open = *s->labels ? "{" : "", *close = *s->labels ? "}" : "";
  double total = (double)sum(metrics, s->cell + s->n_bounds + 1) * s->scale;
  tl_buffer_printf(out, "%s_sum%s%s%s %.15g\n", s->name, open, s->labels, close, total);
  tl_buffer_printf(out, "%s_count%s%s%s %lld\n", s->name, open, s->labels, close, (long long)count);
}

static void expose_one(struct tl_metrics *metrics, const struct series *s, struct tl_buffer *out) {
  if (s->kind == KIND_HISTOGRAM) {
    expose_histogram(metrics, s, out);
    return;
  }
  tl_buffer_puts(out, s->name);
  if (*s->labels) tl_buffer_printf(out, "{%s}", s->labels);
  if (s->read)
    tl_buffer_printf(out, " %.15g\n", s->read(s->context));
  else
    tl_buffer_printf(out, " %lld\n", (long long)sum(metrics, s->cell));
}

void tl_metrics_expose(struct tl_metrics *metrics, struct tl_buffer *out) {
  /* pairs with the release store in publish */
  uint32_t n = atomic_load_explicit(&metrics->n_series, memory_order_acquire);
  for (uint32_t i = 1; i < n; i++) {
    const struct series *first = &metrics->series[i];
    bool seen = false;
    for (uint32_t k = 1; k < i && !seen; k++) seen = strcmp(metrics->series[k].name, first->name) == 0;
    if (seen) continue;
    tl_buffer_printf(out, "# HELP %s %s\n# TYPE %s %s\n", first->name, first->help, first->name, kind_names[first->kind]);
    for (uint32_t k = i; k < n; k++)
      if (strcmp(metrics->series[k].name, first->name) == 0) expose_one(metrics, &metrics->series[k], out);
  }
}
