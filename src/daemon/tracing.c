/* SPDX-License-Identifier: MIT */
/* The configuration's section "trace", and what metrics and log say of it. */
#include "daemon/daemon_private.h"

/* The export thread's; it says so once, not for each batch. The endpoint may have a password in it. */
static void say(const char *trouble) {
  if (trouble)
    TL_LOG(TL_LOG_WARN, "trace", "the collector does not take spans", TL_S("reason", trouble));
  else
    TL_LOG(TL_LOG_INFO, "trace", "the collector takes spans again");
}

struct tl_trace_options daemon_trace_options(const struct tl_config *config) {
  unsigned n_replicas = 0;
  for (unsigned i = 0; i < config->n_models; i++) n_replicas += daemon_replicas(&config->models[i]);
  return (struct tl_trace_options){.endpoint = config->trace_endpoint,
                                   .service_name = config->trace_service_name,
                                   .sample_per_mille = (unsigned)config->trace_sample_per_mille,
                                   .n_loops = (unsigned)config->http_threads,
                                   .n_workers = n_replicas,
                                   .say = say};
}

static double read_exported(void *trace) {
  return (double)tl_trace_counts(trace).exported;
}

static double read_ring_full(void *trace) {
  return (double)tl_trace_counts(trace).ring_full;
}

static double read_queue_full(void *trace) {
  return (double)tl_trace_counts(trace).queue_full;
}

static double read_failed(void *trace) {
  return (double)tl_trace_counts(trace).failed;
}

int daemon_make_trace(struct daemon *d, struct tl_error *err) {
  static const char lost[] = "tokenlane_trace_spans_lost_total", help[] = "Spans that no collector has, by reason.";
  if (!*d->config->trace_endpoint && !*d->config->admin_unix) return TL_OK;
  struct tl_trace_options options = daemon_trace_options(d->config);
  int r = tl_trace_new(&options, &d->trace, err);
  if (r < 0) return r;
  tl_metrics_counter_read(d->metrics, "tokenlane_trace_spans_exported_total", "Spans that the collector took.", NULL,
                          read_exported, d->trace);
  tl_metrics_counter_read(d->metrics, lost, help, "reason=\"ring_full\"", read_ring_full, d->trace);
  tl_metrics_counter_read(d->metrics, lost, help, "reason=\"queue_full\"", read_queue_full, d->trace);
  tl_metrics_counter_read(d->metrics, lost, help, "reason=\"failed\"", read_failed, d->trace);
  return TL_OK;
}
