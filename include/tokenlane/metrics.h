/* SPDX-License-Identifier: MIT */
/* Metrics without a lock: every thread that counts has a shard of its own,
 * written with plain relaxed stores by that thread alone; a scrape sums the
 * shards. Series and shards are registered
 * by one thread (boot), which may do so while other threads count. */
#ifndef TOKENLANE_METRICS_H
#define TOKENLANE_METRICS_H

#include <stdint.h>

#include "tokenlane/base/buffer.h"
#include "tokenlane/base/error.h"

struct tl_metrics;
struct tl_metrics_shard;

/* A handle of a registered series; TL_METRIC_NONE is ignored by all calls. */
typedef uint32_t tl_metric;
#define TL_METRIC_NONE 0u

/* Boot. NULL when out of memory. */
struct tl_metrics *tl_metrics_new(void);
void tl_metrics_free(struct tl_metrics *metrics);

/* Registers a series. `labels` is the text between the braces, for example
 * `route="/health",code="200"`, or NULL; values must already be escaped. Series
 * of one name share HELP and TYPE and stand together in the exposition. Boot
 * thread only. Name, help and labels are copied.
 * On failure: TL_METRIC_NONE. */
tl_metric tl_metrics_counter(struct tl_metrics *metrics, const char *name, const char *help, const char *labels);
/* bounds: n_bounds ascending upper limits; +Inf is added. Copied. `scale`
 * converts the observed integer to the exposed unit (1e-9: ns to seconds). */
tl_metric tl_metrics_histogram(struct tl_metrics *metrics, const char *name, const char *help, const char *labels,
                               const double *bounds, unsigned n_bounds, double scale);
/* A gauge or a counter whose value is read by calling `read` at each scrape, on the
 * scraping thread: `read` must be safe there (atomic loads). */
tl_metric tl_metrics_gauge_read(struct tl_metrics *metrics, const char *name, const char *help, const char *labels,
                                double (*read)(void *context), void *context);
tl_metric tl_metrics_counter_read(struct tl_metrics *metrics, const char *name, const char *help, const char *labels,
                                  double (*read)(void *context), void *context);

/* name="value" into ret, the value escaped, and cut where that needs more than `size` (80 or more). Any thread. */
void tl_metrics_label(char *ret, size_t size, const char *name, const char *value);

/* Series that are registered from now on get this label too, before their own: what
 * belongs to one model. value is escaped here, and cut where it is longer than 400 bytes. name NULL: no
 * more. Boot thread only. */
void tl_metrics_scope(struct tl_metrics *metrics, const char *name, const char *value);

/* A shard for one writing thread. Boot thread only. Freed with
 * the metrics. NULL when out of memory. */
struct tl_metrics_shard *tl_metrics_shard_new(struct tl_metrics *metrics);

/* The shard's own thread only. Counters. shard may be NULL. */
void tl_metrics_add(struct tl_metrics_shard *shard, tl_metric metric, int64_t delta);
/* Histograms: one observation. */
void tl_metrics_observe(struct tl_metrics_shard *shard, tl_metric metric, int64_t value);

/* Appends the Prometheus text format 0.0.4 of all series. Any thread. A
 * histogram's _count always equals its +Inf bucket. */
void tl_metrics_expose(struct tl_metrics *metrics, struct tl_buffer *out);

#endif
