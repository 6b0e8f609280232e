/* SPDX-License-Identifier: MIT */
/* The worker's spans of sequences that end well, are put back, are cancelled in the queue or
 * lose their device. The rings are read by the test: no thread of the trace's runs. */
#include "unit.h"

#include "engine_unit.h"
#include "trace/trace_private.h"

enum { MAX_SPANS = 2048, N_SEEN = 1024 };

static struct tl_trace trace;
static struct trace_ring rings[2];
static struct tl_waker drainer;
static struct tl_trace_span seen[N_SEEN];
static unsigned n_seen;
static struct tl_trace_context contexts[8];

static void begin(struct bench *b, struct tl_engine_options *o, unsigned wants) {
  tl_waker_init(&drainer);
  memset((void *)&trace, 0, sizeof trace);
  memset((void *)rings, 0, sizeof rings);
  trace.o = (struct tl_trace_options){.n_loops = 1, .n_workers = 1};
  trace.rings = rings;
  atomic_store_explicit(&trace.wants, wants, memory_order_relaxed);
  for (unsigned i = 0; i < 2; i++) assert_int_equal(trace_ring_init(&rings[i], i, MAX_SPANS, 0, &drainer), TL_OK);
  for (unsigned i = 0; i < UNIT_COUNT(contexts); i++)
    contexts[i] = (struct tl_trace_context){.trace_id = {1, i + 1}, .span_id = 100 + i, .sampled = true, .recorded = true};
  o->trace = &trace;
  start(b, o);
}

/* Ends the engine and takes all spans out, which must stand in the worker's ring. */
static void end(struct bench *b) {
  finish(b);
  assert_null(trace_ring_pop(&rings[0]));
  n_seen = 0;
  for (struct tl_trace_span *span; (span = trace_ring_pop(&rings[1]));) {
    assert_true(n_seen < N_SEEN);
    seen[n_seen++] = *span;
  }
  for (unsigned i = 0; i < 2; i++) trace_ring_done(&rings[i]);
}

/* The k-th span of that kind and sequence. */
static const struct tl_trace_span *find(unsigned i, enum tl_span_kind kind, unsigned k) {
  for (unsigned at = 0; at < n_seen; at++)
    if (seen[at].kind == kind && seen[at].parent_id == 100 + i && k-- == 0) return &seen[at];
  return NULL;
}

static void test_spans(void **state) {
  (void)state;
  enum { N = 6, PROMPT = 40 };
  const uint32_t new = draft ? 60 : 5; /* long enough to be guessed: no row of that is a prompt's */
  struct bench b;
  uint64_t random = 11;
  struct tl_sequence *seqs[N];
  struct tl_engine_options o = options();
  reset_fake();
  begin(&b, &o, TL_TRACE_EXPORT | TL_TRACE_CAPTURE);
  for (unsigned i = 0; i < N; i++) {
    seqs[i] = fake_sequence(&random, PROMPT, new);
    if (i) seqs[i]->trace = &contexts[i]; /* the first is not recorded */
    seqs[i]->choice = i;
    submit(&b, seqs[i]);
  }
  wait_final(&b, N);
  for (unsigned i = 0; i < N; i++) assert_ended(seqs[i], TL_FINISH_LENGTH, new);
  assert_int_equal(metric(&b, "tokenlane_draft_tokens_taken_total{replica=\"0\"}") > 20, draft);
  end(&b);
  unsigned n_steps = 0;
  for (unsigned i = 0; i < n_seen; i++) n_steps += seen[i].kind == TL_SPAN_STEP;
  assert_true(n_steps >= (draft ? 10 : new));
  assert_null(find(0, TL_SPAN_QUEUE, 0));
  for (unsigned i = 1; i < N; i++) {
    const struct tl_trace_span *queue = find(i, TL_SPAN_QUEUE, 0), *decode = find(i, TL_SPAN_DECODE, 0), *chunk;
    assert_true(queue && decode && !find(i, TL_SPAN_QUEUE, 1) && !find(i, TL_SPAN_DECODE, 1));
    int64_t position = 0, at_ns = queue->end_ns;
    for (unsigned k = 0; (chunk = find(i, TL_SPAN_PREFILL, k)); k++) {
      assert_true(chunk->start_ns >= at_ns && chunk->end_ns >= chunk->start_ns && !chunk->error);
      assert_true(chunk->value[3] == position && chunk->value[1] == i && chunk->value[2] == 1 && chunk->value[0] == 0);
      position += chunk->value[4];
      at_ns = chunk->end_ns;
    }
    assert_int_equal(position, PROMPT);
    assert_true(decode->start_ns == at_ns && decode->end_ns >= at_ns && decode->value[3] == new && !decode->error);
    assert_true(queue->start_ns <= queue->end_ns && queue->value[1] == i);
    fake_sequence_free(seqs[i]);
  }
  fake_sequence_free(seqs[0]);
}

static void test_cancelled_and_failed(void **state) {
  (void)state;
  struct bench b;
  uint64_t random = 11;
  struct tl_engine_options o = options();
  reset_fake();
  fake.fail_at = 2;
  fake.fail_in_collect = true;
  begin(&b, &o, TL_TRACE_EXPORT);
  struct tl_sequence *seq = fake_sequence(&random, 20, 5), *never = fake_sequence(&random, 20, 5);
  seq->trace = &contexts[0];
  never->trace = &contexts[1];
  atomic_store_explicit(&never->cancel, 1, memory_order_relaxed);
  submit(&b, never);
  wait_final(&b, 1);
  submit(&b, seq);
  wait_final(&b, 2);
  assert_int_equal(seq->finish, TL_FINISH_FAULT);
  end(&b);
  const struct tl_trace_span *queue = find(1, TL_SPAN_QUEUE, 0);
  assert_true(queue && queue->error && strcmp(queue->error, "cancelled") == 0 && queue->end_ns >= queue->start_ns);
  assert_true(!find(1, TL_SPAN_PREFILL, 0) && !find(1, TL_SPAN_DECODE, 0));
  const struct tl_trace_span *chunk = find(0, TL_SPAN_PREFILL, 0);
  assert_true(chunk && !chunk->error && chunk->value[4] == 16);
  chunk = find(0, TL_SPAN_PREFILL, 1);
  assert_true(chunk && chunk->end_ns >= chunk->start_ns && chunk->value[3] == 16 && chunk->error && strcmp(chunk->error, "device_fault") == 0);
  assert_null(find(0, TL_SPAN_DECODE, 0));
  fake_sequence_free(seq);
  fake_sequence_free(never);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_spans), cmocka_unit_test(test_cancelled_and_failed)};
  return run_all_ways(tests);
}
