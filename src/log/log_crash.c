/* SPDX-License-Identifier: MIT */
/* A fatal signal: what the rings hold and the sink has not got goes to stderr, then
 * the signal has the effect that it had before. Everything here, and all that is
 * called from here, is safe in a signal handler: no malloc, no stdio, no lock.
 *
 * Other threads go on logging meanwhile; they only append. The writer stands still,
 * but it may have been between its look at `crashing_thread` and moving a head: so
 * each record is copied first and believed only if head has not passed it. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "log/log_private.h"
#include "tokenlane/base/clock.h"

#define PATIENCE_MS 200 /* for a stderr that takes nothing */

static const struct {
  int number;
  const char *name;
} caught[] = {{SIGSEGV, "SIGSEGV"}, {SIGABRT, "SIGABRT"}, {SIGBUS, "SIGBUS"}, {SIGFPE, "SIGFPE"}, {SIGILL, "SIGILL"}};
#define N_CAUGHT (sizeof caught / sizeof *caught)

static struct sigaction before[N_CAUGHT];
static bool catching, with_priority; /* boot, then constant */
static _Atomic int crashing_thread;  /* its kernel id; the first one reports */

bool log_crashing(void) {
  return atomic_load_explicit(&crashing_thread, memory_order_relaxed) != 0; /* only makes the writer stop early */
}

static bool stuck; /* stderr takes nothing: no second wait */

static void put_stderr(const char *bytes, size_t length) {
  while (length && !stuck) {
    struct pollfd entry = {.fd = STDERR_FILENO, .events = POLLOUT};
    int ready = poll(&entry, 1, PATIENCE_MS);
    stuck = ready == 0 || (ready < 0 && errno != EINTR);
    ssize_t n = ready > 0 ? write(STDERR_FILENO, bytes, length < 4096 ? length : 4096) : 0;
    if (n < 0 && errno != EINTR && errno != EAGAIN) stuck = true;
    if (n > 0) bytes += n, length -= (size_t)n;
  }
}

/* The reporting thread's alone; not on its stack, which may be small. */
static char line_bytes[LOG_LINE_BYTES], text[LOG_TEXT_BYTES];

static void put_record(const struct log_record *record, const struct tl_log_field *fields) {
  struct log_text line = {.data = line_bytes, .capacity = sizeof line_bytes, .plain = true};
  log_text_put_line(&line, LOG_FORMAT_LOGFMT, record, fields, with_priority);
  put_stderr(line.data, line.length);
}

static void put_tail(struct log_ring *ring) {
  uint64_t end = log_ring_tail(ring);
  struct tl_log_field fields[LOG_MAX_FIELDS];
  struct log_record record;
  /* acquire: pairs with log_ring_give_back, as a producer's look */
  uint64_t at = atomic_load_explicit(&ring->head, memory_order_acquire);
  while (at < end) {
    uint64_t next = log_ring_read(ring, at, &record, fields, text);
    /* adds nothing: a read-modify-write whose release half keeps the copy above before this look; pairs with
     * log_ring_give_back, which comes before anybody overwrites */
    uint64_t head = atomic_fetch_add_explicit(&ring->head, 0, memory_order_acq_rel);
    if (head > at) { /* it was given back: already in the sink, perhaps overwritten */
      at = head;
      continue;
    }
    if (record.level > TL_LOG_DEBUG || next <= at) return; /* cannot be: memory is not to be trusted */
    put_record(&record, fields);
    at = next;
  }
}

static void report(unsigned which) {
  char thread[16] = "";
  prctl(PR_GET_NAME, thread);
  struct log_record record = {.wall_ns = tl_wall_ns(), .level = TL_LOG_ERROR, .module = "log", .n_fields = 3};
  record.message = "fatal signal; what the log had not written yet follows";
  const struct tl_log_field fields[] = {TL_S("signal", caught[which].name), TL_S("thread", thread),
                                        TL_S("version", TL_VERSION)};
  put_record(&record, fields);
  for (struct log_ring *ring = log_rings(); ring; ring = ring->next) put_tail(ring);
}

static void on_crash(int number, siginfo_t *info, void *context) {
  (void)context;
  unsigned which = 0;
  while (which < N_CAUGHT - 1 && caught[which].number != number) which++;
  int me = (int)syscall(SYS_gettid), first = 0;
  /* relaxed: only elects who reports; the rings are read by their own pairs */
  if (atomic_compare_exchange_strong_explicit(&crashing_thread, &first, me, memory_order_relaxed, memory_order_relaxed))
    report(which);
  else if (first != me)
    for (;;) pause(); /* the first one ends the process */
  sigaction(number, &before[which], NULL);
  /* the kernel's own signal comes again with its address when the instruction is tried again */
  if (info->si_code <= 0) syscall(SYS_tgkill, getpid(), me, number);
}

void log_crash_add_thread(struct log_ring *ring) {
  stack_t now;
  if (!catching || sigaltstack(NULL, &now) < 0 || !(now.ss_flags & SS_DISABLE)) return; /* sanitizers bring their own */
  sigaltstack(&(stack_t){.ss_sp = ring->signal_stack, .ss_size = sizeof ring->signal_stack}, NULL);
}

void log_crash_remove_thread(const struct log_ring *ring) {
  stack_t now;
  if (sigaltstack(NULL, &now) == 0 && now.ss_sp == ring->signal_stack)
    sigaltstack(&(stack_t){.ss_flags = SS_DISABLE}, NULL);
}

void tl_log_catch_crashes(void) {
  struct sigaction action = {.sa_sigaction = on_crash, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
  sigemptyset(&action.sa_mask);
  catching = true;
  with_priority = log_sink_stderr_is_journald();
  for (unsigned i = 0; i < N_CAUGHT; i++) sigaction(caught[i].number, &action, &before[i]);
}
