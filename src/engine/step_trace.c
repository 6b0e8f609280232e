/* SPDX-License-Identifier: MIT */
/* The worker's spans: queue, prefill chunks, decode, of each try that a sequence makes on
 * a device. All are put while the next step runs, none before a step. What a try needs
 * to remember lies in the sequence (tl_sequence.tried). */
#include "engine/engine_private.h"
#include "tokenlane/base/clock.h"

static void put(struct worker *w, const struct tl_sequence *seq, enum tl_span_kind kind, int64_t start_ns, int64_t end_ns,
                const char *error, int64_t value3, int64_t value4) {
  struct tl_trace_span span = tl_trace_span_of(seq->trace, kind, start_ns, end_ns);
  span.error = error;
  span.value[0] = worker_id(w);
  span.value[1] = seq->choice;
  span.value[2] = seq->tried.number;
  span.value[3] = value3;
  span.value[4] = value4;
  tl_trace_put(w->engine->o.trace, w->trace_ring, &span);
}

void trace_started(struct worker *w, struct tl_sequence *seq, int64_t now_ns) {
  if (!seq->trace || seq->tried.started_ns) return; /* or it was put back and begins anew */
  seq->tried.started_ns = now_ns;
  put(w, seq, TL_SPAN_QUEUE, seq->tried.queued_ns, seq->tried.started_ns, NULL, -1, -1);
}

void trace_token(struct worker *w, struct tl_sequence *seq) {
  if (!seq->trace) return;
  if (!seq->tried.n_tokens++) seq->tried.first_ns = w->flight->figures.ended_ns;
  seq->tried.last_ns = w->flight->figures.ended_ns;
}

void trace_step(struct worker *w, const struct tl_sched_item *items, uint32_t n, const struct step_figures *figures, const char *error) {
  int64_t began_ns = figures->began_ns, ended_ns = figures->ended_ns;
  unsigned wants = tl_trace_wants(w->engine->o.trace);
  if (!wants) return;
  for (uint32_t i = 0; i < n; i++) {
    const struct tl_sequence *seq = items[i].seq->owner;
    uint32_t known = items[i].n - items[i].n_more; /* the others are guesses */
    bool prompt = items[i].start < seq->n_prompt || known > 1; /* or tokens that are computed once more */
    if (seq->trace && prompt) put(w, seq, TL_SPAN_PREFILL, began_ns, ended_ns, error, items[i].start, known);
  }
  if (!(wants & TL_TRACE_CAPTURE) || began_ns == ended_ns) return;
  struct tl_trace_span step = {.start_ns = began_ns,
                         .end_ns = ended_ns,
                         .error = error,
                         .value = {worker_id(w), n, (int64_t)figures->prefill, (int64_t)figures->decode, -1},
                         .kind = TL_SPAN_STEP,
                         .on_thread = true};
  tl_trace_put(w->engine->o.trace, w->trace_ring, &step);
}

static const char *error_of(enum tl_finish finish) {
  switch (finish) {
    case TL_FINISH_CANCELLED: return "cancelled";
    case TL_FINISH_EXPIRED: return "timeout";
    case TL_FINISH_FAULT: return "device_fault";
    case TL_FINISH_ERROR: return "broken_output";
    default: return NULL;
  }
}

void trace_ended(struct worker *w, struct tl_sequence *seq) {
  if (!seq->trace) return;
  const struct tl_sequence_try *t = &seq->tried;
  const char *error = error_of(seq->finish);
  if (!t->started_ns) put(w, seq, TL_SPAN_QUEUE, t->queued_ns, tl_now_ns(), error, -1, -1);
  if (t->n_tokens) put(w, seq, TL_SPAN_DECODE, t->first_ns, t->last_ns, error, t->n_tokens, -1);
}
