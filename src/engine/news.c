/* SPDX-License-Identifier: MIT */
/* What a step brought is told to loops and metrics while the next one runs. */
#include "engine/engine_private.h"

#define MANY_ROWS 16 /* where the rows, not the weights, take the time */

void news_add(struct worker *w, struct tl_sequence *seq, bool final) {
  if (w->n_news > 0 && w->news[w->n_news - 1].seq == seq) { /* several tokens of a step */
    w->news[w->n_news - 1].final = final;
    return;
  }
  w->news[w->n_news++] = (struct news){seq, final};
}

static void count_step(struct worker *w, const struct step_figures *f) {
  struct tl_board *b = worker_board(w);
  int64_t took = f->ended_ns - f->began_ns, average = atomic_load_explicit(&b->step_ns, memory_order_relaxed);
  /* relaxed: single figures for the router and the scrape */
  atomic_store_explicit(&b->step_ns, average ? average + (took - average) / 8 : took, memory_order_relaxed);
  int64_t rows = (int64_t)(f->prefill + f->decode), row = atomic_load_explicit(&b->row_ns, memory_order_relaxed);
  if (rows >= MANY_ROWS) atomic_store_explicit(&b->row_ns, row ? row + (took / rows - row) / 8 : took / rows, memory_order_relaxed);
  atomic_store_explicit(&b->beat_ns, f->ended_ns, memory_order_relaxed);
  atomic_fetch_add_explicit(&b->n_steps, 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&b->n_prefill_tokens, f->prefill, memory_order_relaxed);
  atomic_fetch_add_explicit(&b->n_decode_tokens, f->decode - f->wrong, memory_order_relaxed);
  tl_metrics_add(w->shard, w->metrics.steps, 1);
  tl_metrics_add(w->shard, w->metrics.prompt_tokens, (int64_t)f->prefill);
  tl_metrics_add(w->shard, w->metrics.generated_tokens, (int64_t)f->generated);
  tl_metrics_observe(w->shard, w->metrics.step_seconds, took);
}

static void count_schedule(struct worker *w) {
  const struct tl_sched_stats *now = tl_scheduler_stats(w->scheduler), *old = &w->counted;
  tl_metrics_add(w->shard, w->metrics.preemptions, (int64_t)(now->preemptions - old->preemptions));
  tl_metrics_add(w->shard, w->metrics.query_tokens, (int64_t)(now->query_tokens - old->query_tokens));
  tl_metrics_add(w->shard, w->metrics.hit_tokens, (int64_t)(now->hit_tokens - old->hit_tokens));
  tl_metrics_add(w->shard, w->metrics.evictions, (int64_t)(now->evictions - old->evictions));
  w->counted = *now;
}

void news_tell(struct worker *w) {
  if (w->ended) {
    count_step(w, &w->ended->figures);
    trace_step(w, w->ended->items, w->ended->n_items, &w->ended->figures, NULL);
  }
  w->ended = NULL;
  count_schedule(w);
  for (uint32_t i = 0; i < w->n_news; i++) {
    if (w->news[i].final) trace_ended(w, w->news[i].seq);
    events_publish(w, w->news[i].seq, w->news[i].final);
  }
  w->n_news = 0;
}
