/* SPDX-License-Identifier: MIT */
/* The writer thread. It alone may meet a slow or dead sink: while the sink takes
 * nothing it waits, and the rings fill and drop.
 *
 * After work it naps for a few milliseconds without saying that it sleeps, so that a
 * producer under load makes no system call; one whose ring is half full wakes it
 * from that too. Only when nothing came for a while does it sleep for real, and
 * the next record's producer wakes it. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "log/log_private.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/waker.h"

#define BATCH_BYTES (262144 + LOG_LINE_BYTES) /* 256 KiB a write */
#define NAP_NS TL_MS(5)
#define AWAKE_NS TL_MS(100)      /* so long after the last record it naps instead of sleeping */
#define BUSY_BYTES 16384         /* so much in one drain: look again at once */
#define RETRY_NS TL_MS(100)      /* between tries at a sink that fails */
#define STOP_NS TL_SEC(1)        /* how long tl_log_stop lets a full sink hold it up */
#define JOIN_S 3                 /* and how long a write that does not come back */
#define SAY_NS TL_SEC(1)         /* how often suppressed records are said */

static pthread_t writer;
static struct tl_waker idle_waker, nap_waker;
static _Atomic int running;              /* relaxed: only chooses the way of a record */
static _Atomic int64_t stop_at_ns;       /* 0: not stopping; else when to give up */
static _Atomic(struct log_sink *) next_sink; /* a new one to open; owned */
static _Atomic uint64_t n_lost;          /* a count alone */

/* the writer's alone */
static struct log_sink sink;
static char batch_bytes[BATCH_BYTES];
static struct log_text batch = {.data = batch_bytes, .capacity = sizeof batch_bytes};
static uint64_t lost_said;
static int64_t suppressed_said_ns;

bool log_writer_runs(void) {
  return atomic_load_explicit(&running, memory_order_relaxed); /* see above */
}

uint64_t log_writer_lost(void) {
  return atomic_load_explicit(&n_lost, memory_order_relaxed); /* see above */
}

void log_writer_notify(struct log_ring *ring) {
  tl_waker_notify(&idle_waker);
  if (log_ring_half_full(ring)) tl_waker_notify(&nap_waker);
}

/* pairs with the release store in tl_log_stop: records before it are seen */
static int64_t stop_deadline(void) {
  return atomic_load_explicit(&stop_at_ns, memory_order_acquire);
}

static bool has_next_sink(void) {
  return atomic_load_explicit(&next_sink, memory_order_relaxed) != NULL; /* the exchange that takes it pairs */
}

bool log_writer_may_wait(void) {
  int64_t deadline_ns = stop_deadline();
  return !(deadline_ns && tl_now_ns() >= deadline_ns) && !has_next_sink() && !log_crashing();
}

/* --- without a writer ------------------------------------------------------------------------- */

/* Waits at most a second for room; the rest is lost. */
void log_write_now(const struct log_record *record, const struct tl_log_field *fields) {
  char line[LOG_LINE_BYTES];
  struct log_text out = {.data = line, .capacity = sizeof line};
  log_text_put_line(&out, LOG_FORMAT_LOGFMT, record, fields, log_sink_stderr_is_journald());
  for (size_t at = 0; at < out.length;) {
    struct pollfd entry = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&entry, 1, 1000) <= 0) break;
    size_t chunk = out.length - at;
    ssize_t n = write(STDERR_FILENO, line + at, chunk < 4096 ? chunk : 4096);
    if (n < 0 && errno != EINTR && errno != EAGAIN) break;
    if (n > 0) at += (size_t)n;
  }
}

/* --- batches ----------------------------------------------------------------------------------- */

/* Another thread is dying and reads the rings: it ends the process. */
static void stand_still_if_crashing(void) {
  while (log_crashing()) pause();
}

/* The writer's own words, into the batch. */
static void say(enum tl_log_level level, const char *message, const struct tl_log_field *fields, unsigned n) {
  struct log_record record = {.wall_ns = tl_wall_ns(), .level = (uint8_t)level, .module = "log", .message = message};
  record.n_fields = (uint16_t)n;
  log_sink_put(&sink, &batch, &record, fields);
}

static void wait_before_retry(void) {
  for (int64_t end_ns = tl_now_ns() + RETRY_NS; tl_now_ns() < end_ns && !stop_deadline() && !has_next_sink();)
    nanosleep(&(struct timespec){.tv_nsec = TL_MS(10)}, NULL);
}

/* Writes the batch, then gives the rings the room back. */
static void flush(void) {
  stand_still_if_crashing();
  bool any = batch.length > 0;
  uint64_t lost = log_sink_write(&sink, &batch), lost_before = log_writer_lost();
  batch.length = 0;
  stand_still_if_crashing();
  for (struct log_ring *ring = log_rings(); ring; ring = ring->next)
    /* relaxed: only the writer stores head */
    if (ring->cursor != atomic_load_explicit(&ring->head, memory_order_relaxed)) log_ring_give_back(ring, ring->cursor);
  if (lost) {
    atomic_store_explicit(&n_lost, lost_before + lost, memory_order_relaxed); /* only we write it */
    wait_before_retry();
  } else if (any && lost_before != lost_said) { /* it works again */
    say(TL_LOG_WARN, "the sink lost records", &TL_U("records", lost_before - lost_said), 1);
    lost_said = lost_before;
  }
}

static void say_dropped(struct log_ring *ring) {
  uint64_t dropped = atomic_load_explicit(&ring->dropped, memory_order_relaxed); /* a count alone */
  if (dropped == ring->dropped_said) return;
  say(TL_LOG_WARN, "a full log ring dropped records", &TL_U("records", dropped - ring->dropped_said), 1);
  ring->dropped_said = dropped;
}

/* A site's count is said about a second later, so that a flood makes one line a second. */
static void say_suppressed(bool last) {
  int64_t now_ns = tl_now_ns();
  if (!last && now_ns - suppressed_said_ns < SAY_NS) return;
  suppressed_said_ns = now_ns;
  for (struct tl_log_site *site = log_sites(); site; site = site->next) {
    uint32_t n = log_site_take_suppressed(site);
    if (n == 0) continue;
    const struct tl_log_field fields[] = {TL_U("records", n), TL_S("of_module", site->module_name),
                                          TL_S("of_msg", site->message)};
    say(TL_LOG_WARN, "records over log.max_per_second were suppressed", fields, 3);
    if (batch.capacity - batch.length < LOG_LINE_BYTES) flush();
  }
}

/* Rings with something in them, each read up to where it ends now. */
static struct log_ring *begin_batch(void) {
  struct log_ring *active = NULL;
  for (struct log_ring *ring = log_rings(); ring; ring = ring->next) {
    ring->end = log_ring_tail(ring);
    if (ring->cursor == ring->end) continue;
    ring->next_wall_ns = log_ring_wall_ns(ring, ring->cursor);
    ring->next_active = active;
    active = ring;
  }
  return active;
}

static struct log_ring **oldest(struct log_ring **active) {
  struct log_ring **found = active;
  for (struct log_ring **at = &(*active)->next_active; *at; at = &(*at)->next_active)
    if ((*at)->next_wall_ns < (*found)->next_wall_ns) found = at;
  return found;
}

/* All that the rings hold, by time. Returns how many bytes of records. */
static uint64_t drain(bool last) {
  static char text[LOG_TEXT_BYTES];
  struct tl_log_field fields[LOG_MAX_FIELDS];
  struct log_record record;
  uint64_t bytes = 0;
  for (struct log_ring *active = begin_batch(); active;) {
    struct log_ring **place = oldest(&active), *ring = *place;
    uint64_t next = log_ring_read(ring, ring->cursor, &record, fields, text);
    bytes += next - ring->cursor;
    ring->cursor = next;
    if (next == ring->end)
      *place = ring->next_active;
    else
      ring->next_wall_ns = log_ring_wall_ns(ring, next);
    log_sink_put(&sink, &batch, &record, fields);
    if (batch.capacity - batch.length < LOG_LINE_BYTES) flush();
  }
  for (struct log_ring *ring = log_rings(); ring; ring = ring->next) {
    say_dropped(ring);
    if (batch.capacity - batch.length < LOG_LINE_BYTES) flush();
  }
  say_suppressed(last);
  flush();
  return bytes;
}

/* --- the thread ------------------------------------------------------------------------------------ */

/* After SIGHUP: opens the sink that the configuration now names. */
static void take_next_sink(void) {
  /* pairs with the release exchange in tl_log_configure */
  struct log_sink *next = atomic_exchange_explicit(&next_sink, NULL, memory_order_acquire);
  struct tl_error err = {0};
  if (!next) return;
  if (log_sink_open(next, &err) == TL_OK) {
    flush(); /* what was said meanwhile is in the old one's form */
    log_sink_close(&sink);
    sink = *next;
  } else {
    say(TL_LOG_ERROR, "the new sink cannot be opened; the old one stays", &TL_S("reason", err.message), 1);
  }
  free(next);
}

static bool any_half_full(void) {
  for (struct log_ring *ring = log_rings(); ring; ring = ring->next)
    if (log_ring_tail(ring) - ring->cursor > LOG_RING_BYTES / 2) return true;
  return false;
}

static void nap(void) {
  tl_waker_prepare(&nap_waker);
  if (any_half_full() || stop_deadline() || has_next_sink())
    tl_waker_cancel(&nap_waker);
  else
    tl_waker_sleep(&nap_waker, NAP_NS);
}

/* Until the next record; at most a second, for what was suppressed meanwhile. */
static void sleep_until_needed(void) {
  tl_waker_prepare(&idle_waker);
  if (drain(false) || stop_deadline() || has_next_sink())
    tl_waker_cancel(&idle_waker);
  else
    tl_waker_sleep(&idle_waker, SAY_NS);
}

static void *run(void *unused) {
  (void)unused;
  tl_thread_enter("tl-log", TL_ROLE_WRITER);
  int64_t worked_ns = 0;
  for (;;) {
    bool last = stop_deadline() != 0;
    take_next_sink();
    uint64_t bytes = drain(last);
    if (last && bytes == 0) break;
    if (bytes) worked_ns = tl_now_ns();
    if (bytes >= BUSY_BYTES || last) continue;
    if (tl_now_ns() - worked_ns < AWAKE_NS)
      nap();
    else
      sleep_until_needed();
  }
  flush(); /* what the last flush had to say */
  return NULL;
}

int tl_log_check(const struct tl_log_options *options, struct tl_error *err) {
  struct log_sink parsed;
  int r = log_levels_set(options, false, err);
  return r < 0 ? r : log_sink_parse(&parsed, options, err);
}

int tl_log_start(const struct tl_log_options *options, struct tl_error *err) {
  int r = log_sink_parse(&sink, options, err);
  if (r == TL_OK) r = log_levels_set(options, true, err);
  if (r == TL_OK) r = log_sink_open(&sink, err);
  if (r < 0) return r;
  tl_waker_init(&idle_waker);
  tl_waker_init(&nap_waker);
  atomic_store_explicit(&stop_at_ns, 0, memory_order_relaxed); /* the thread is created after */
  if (pthread_create(&writer, NULL, run, NULL) != 0) {
    log_sink_close(&sink);
    return tl_error_set(err, TL_EIO, NULL, "cannot start the log writer");
  }
  atomic_store_explicit(&running, 1, memory_order_relaxed); /* see above */
  return TL_OK;
}

static void wake(void) {
  tl_waker_notify(&idle_waker);
  tl_waker_notify(&nap_waker);
}

int tl_log_configure(const struct tl_log_options *options, struct tl_error *err) {
  int r = tl_log_check(options, err);
  if (r < 0) return r;
  struct log_sink *next = log_writer_runs() ? malloc(sizeof *next) : NULL;
  if (!next && log_writer_runs()) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  log_levels_set(options, true, NULL);
  if (!next) return TL_OK; /* the sink is tl_log_start's */
  log_sink_parse(next, options, NULL);
  /* publishes *next; pairs with the acquire exchange in take_next_sink. One that was not taken yet is not needed. */
  free(atomic_exchange_explicit(&next_sink, next, memory_order_acq_rel));
  wake();
  return TL_OK;
}

void tl_log_stop(void) {
  if (!log_writer_runs()) return;
  atomic_store_explicit(&running, 0, memory_order_relaxed); /* see above */
  /* pairs with the acquire load in stop_deadline */
  atomic_store_explicit(&stop_at_ns, tl_now_ns() + STOP_NS, memory_order_release);
  wake();
  struct timespec end;
  clock_gettime(CLOCK_REALTIME, &end);
  end.tv_sec += JOIN_S;
  if (pthread_timedjoin_np(writer, NULL, &end) != 0) {
    pthread_detach(writer); /* it sits in a write that does not return (a dead network disk): the process ends without it */
    return;
  }
  log_sink_close(&sink);
  free(atomic_exchange_explicit(&next_sink, NULL, memory_order_relaxed)); /* the writer has ended */
}
