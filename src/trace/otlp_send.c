/* SPDX-License-Identifier: MIT */
/* The thread that talks to the collector: batches come through a bounded queue, are
 * posted, and are posted again as OTLP/HTTP asks for (429, 502, 503, 504, no connection),
 * with a wait that doubles or that the collector names. Meanwhile the queue fills and
 * drops; that is all that a slow or dead collector can do. */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tokenlane/base/clock.h"
#include "tokenlane/base/hash.h"
#include "tokenlane/base/json.h"
#include "trace/trace_private.h"

#define CONNECT_MS 3000L
#define POST_MS 10000L
#define TRIES 5
#define BACKOFF_NS TL_MS(500) /* doubled after each try, up to MOST_BACKOFF_NS, more or less a quarter */
#define MOST_BACKOFF_NS TL_SEC(30)
#define STOP_NS TL_SEC(2)     /* how long tl_trace_stop waits for the collector */
#define JOIN_S 5              /* and for a name server that does not answer */
#define MAX_ANSWER_BYTES 16384

struct otlp_sender {
  struct tl_trace_options o;
  pthread_t thread;
  CURL *curl;
  struct curl_slist *headers;
  struct tl_buffer answer;
  char trouble[CURL_ERROR_SIZE + 64];
  bool troubled;               /* the last batch was lost */
  struct tl_waker waker;
  struct tl_spsc queue;
  _Atomic int64_t stop_at_ns;  /* 0: not stopping; else when to give up */
  _Atomic uint64_t exported, failed, queue_full; /* counts alone: relaxed */
};

/* pairs with the release store in otlp_sender_stop: all batches before it are seen */
static int64_t stop_at(const struct otlp_sender *s) {
  return atomic_load_explicit(&s->stop_at_ns, memory_order_acquire);
}

static bool out_of_time(const struct otlp_sender *s) {
  int64_t at_ns = stop_at(s);
  return at_ns && tl_now_ns() >= at_ns;
}

static void free_batch(struct otlp_batch *batch) {
  tl_buffer_done(&batch->text);
  free(batch);
}

static void count(_Atomic uint64_t *counter, uint64_t n) {
  atomic_fetch_add_explicit(counter, n, memory_order_relaxed); /* a count alone */
}

/* --- one post ---------------------------------------------------------------------------------- */

/* An answer that is too long is not looked at. */
static size_t on_answer(char *bytes, size_t size, size_t n, void *context) {
  struct tl_buffer *answer = context;
  if (answer->length + size * n <= MAX_ANSWER_BYTES) tl_buffer_append(answer, bytes, size * n);
  return size * n;
}

static int on_progress(void *context, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d) {
  (void)a, (void)b, (void)c, (void)d;
  return out_of_time(context); /* true ends the transfer */
}

/* How many spans of a batch that was taken were not: {"partialSuccess":{"rejectedSpans":"3"}}. */
static uint64_t read_rejected(const struct tl_buffer *answer, uint64_t most) {
  json_t *body = answer->length ? tl_json_load(answer->data, answer->length, 0, NULL) : NULL;
  const json_t *n = json_object_get(json_object_get(body, "partialSuccess"), "rejectedSpans");
  long long rejected = json_is_string(n) ? atoll(json_string_value(n)) : json_integer_value(n);
  json_decref(body);
  return rejected < 0 ? 0 : (uint64_t)rejected > most ? most : (uint64_t)rejected;
}

enum outcome { TAKEN, REFUSED, TRY_AGAIN };

static enum outcome post(struct otlp_sender *s, const struct otlp_batch *batch, int64_t *ret_wait_ns) {
  long status = 0;
  curl_off_t retry_after_s = 0;
  *ret_wait_ns = 0;
  tl_buffer_clear(&s->answer);
  curl_easy_setopt(s->curl, CURLOPT_POSTFIELDS, batch->text.data);
  curl_easy_setopt(s->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)batch->text.length);
  char why[CURL_ERROR_SIZE] = "";
  curl_easy_setopt(s->curl, CURLOPT_ERRORBUFFER, why);
  CURLcode code = curl_easy_perform(s->curl);
  if (code != CURLE_OK) {
    const char *reason = code == CURLE_ABORTED_BY_CALLBACK ? "no answer before the daemon ended" : *why ? why : curl_easy_strerror(code);
    snprintf(s->trouble, sizeof s->trouble, "%s", reason);
    return TRY_AGAIN;
  }
  curl_easy_getinfo(s->curl, CURLINFO_RESPONSE_CODE, &status);
  curl_easy_getinfo(s->curl, CURLINFO_RETRY_AFTER, &retry_after_s);
  if (status >= 200 && status < 300) return TAKEN;
  snprintf(s->trouble, sizeof s->trouble, "the collector answered with status %ld", status);
  if (status != 429 && status != 502 && status != 503 && status != 504) return REFUSED;
  *ret_wait_ns = retry_after_s > 0 && retry_after_s < 3600 ? TL_SEC(retry_after_s) : 0;
  return TRY_AGAIN;
}

/* --- a batch -------------------------------------------------------------------------------------- */

/* With a random part, so that many daemons do not come back to their collector at once. */
static int64_t backoff(unsigned attempt, uint64_t random) {
  int64_t wait_ns = BACKOFF_NS << attempt;
  if (wait_ns > MOST_BACKOFF_NS) wait_ns = MOST_BACKOFF_NS;
  return wait_ns * 3 / 4 + (int64_t)(random % (uint64_t)(wait_ns / 2));
}

/* Ends early when the daemon stops: then there is one try more at once. */
static void wait_for(const struct otlp_sender *s, int64_t wait_ns) {
  for (int64_t end_ns = tl_now_ns() + wait_ns; tl_now_ns() < end_ns && !stop_at(s);)
    nanosleep(&(struct timespec){.tv_nsec = TL_MS(20)}, NULL);
}

static void say(struct otlp_sender *s, bool taken) {
  if (s->troubled == !taken) return;
  s->troubled = !taken;
  if (s->o.say) s->o.say(taken ? NULL : s->trouble);
}

static void send_batch(struct otlp_sender *s, const struct otlp_batch *batch) {
  enum outcome outcome = TRY_AGAIN;
  for (unsigned attempt = 0; attempt < TRIES && outcome == TRY_AGAIN && !out_of_time(s); attempt++) {
    bool last = stop_at(s) != 0;
    int64_t asked_ns;
    outcome = post(s, batch, &asked_ns);
    if (outcome != TRY_AGAIN || last) break;
    if (attempt + 1 == TRIES) break;
    wait_for(s, asked_ns > MOST_BACKOFF_NS ? MOST_BACKOFF_NS
                                           : asked_ns ? asked_ns : backoff(attempt, tl_hash_u64((uint64_t)tl_now_ns())));
  }
  uint64_t rejected = outcome == TAKEN ? read_rejected(&s->answer, batch->n) : batch->n;
  if (outcome == TAKEN && rejected) snprintf(s->trouble, sizeof s->trouble, "the collector rejected single spans");
  count(&s->exported, batch->n - rejected);
  count(&s->failed, rejected);
  say(s, rejected == 0);
}

static void sleep_until_needed(struct otlp_sender *s, struct otlp_batch **ret) {
  tl_waker_prepare(&s->waker);
  *ret = tl_spsc_pop(&s->queue);
  if (*ret || stop_at(s))
    tl_waker_cancel(&s->waker);
  else
    tl_waker_sleep(&s->waker, -1);
}

static void *run(void *argument) {
  struct otlp_sender *s = argument;
  tl_thread_enter("tl-export", TL_ROLE_WRITER);
  for (;;) {
    bool last = stop_at(s) != 0; /* before the look: what comes later is not waited for */
    struct otlp_batch *batch = tl_spsc_pop(&s->queue);
    if (!batch && last) return NULL;
    if (!batch) sleep_until_needed(s, &batch);
    if (!batch) continue;
    send_batch(s, batch);
    free_batch(batch);
  }
}

bool otlp_sender_push(struct otlp_sender *s, struct otlp_batch *batch) {
  struct otlp_batch *copy = batch->text.failed ? NULL : malloc(sizeof *copy);
  if (copy) *copy = *batch;
  if (copy && tl_spsc_push(&s->queue, copy)) {
    tl_waker_notify(&s->waker);
    return true;
  }
  free(copy);
  tl_buffer_done(&batch->text);
  count(&s->queue_full, batch->n);
  return false;
}

/* --- life -------------------------------------------------------------------------------------------- */

static int make_curl(struct otlp_sender *s) {
  if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) return TL_ENOMEM;
  s->curl = curl_easy_init();
  s->headers = curl_slist_append(NULL, "Content-Type: application/json");
  struct curl_slist *more = curl_slist_append(s->headers, "Expect:"); /* no waiting for 100 */
  if (!s->curl || !s->headers || !more) return TL_ENOMEM;
  CURL *c = s->curl;
  bool fine = curl_easy_setopt(c, CURLOPT_URL, s->o.endpoint) == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_HTTPHEADER, s->headers) == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_USERAGENT, "tokenlane/" TL_VERSION) == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_PROXY, "") == CURLE_OK && /* whatever the environment says */
              curl_easy_setopt(c, CURLOPT_WRITEDATA, &s->answer) == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_XFERINFODATA, s) == CURLE_OK;
  curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(c, CURLOPT_POST, 1L);
  curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
  curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, POST_MS);
  curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_answer);
  curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
  return fine ? TL_OK : TL_ENOMEM;
}

int otlp_sender_new(const struct tl_trace_options *options, struct otlp_sender **ret, struct tl_error *err) {
  struct otlp_sender *s = aligned_alloc(TL_CACHE_LINE, sizeof *s);
  if (!s) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  *s = (struct otlp_sender){.o = *options};
  tl_waker_init(&s->waker);
  if (tl_spsc_init(&s->queue, TRACE_QUEUE_BATCHES) < 0 || make_curl(s) < 0) {
    otlp_sender_free(s);
    return tl_error_set(err, TL_ENOMEM, "trace.endpoint", "trace.endpoint: cannot make a client for it");
  }
  if (pthread_create(&s->thread, NULL, run, s) != 0) {
    otlp_sender_free(s);
    return tl_error_set(err, TL_EIO, NULL, "cannot start a thread");
  }
  *ret = s;
  return TL_OK;
}

bool otlp_sender_stop(struct otlp_sender *s) {
  /* pairs with the acquire load in stop_at */
  atomic_store_explicit(&s->stop_at_ns, tl_now_ns() + STOP_NS, memory_order_release);
  tl_waker_notify(&s->waker);
  struct timespec end;
  clock_gettime(CLOCK_REALTIME, &end);
  end.tv_sec += JOIN_S;
  if (pthread_timedjoin_np(s->thread, NULL, &end) == 0) return true;
  pthread_detach(s->thread);
  return false;
}

void otlp_sender_free(struct otlp_sender *s) {
  for (struct otlp_batch *batch; s->queue.slots && (batch = tl_spsc_pop(&s->queue));) free_batch(batch);
  tl_spsc_done(&s->queue);
  curl_easy_cleanup(s->curl);
  curl_slist_free_all(s->headers);
  tl_buffer_done(&s->answer);
  curl_global_cleanup();
  free(s);
}

void otlp_sender_count(const struct otlp_sender *s, struct tl_trace_counts *counts) {
  counts->exported = atomic_load_explicit(&s->exported, memory_order_relaxed); /* counts alone */
  counts->failed = atomic_load_explicit(&s->failed, memory_order_relaxed);
  counts->queue_full = atomic_load_explicit(&s->queue_full, memory_order_relaxed);
}
