/* SPDX-License-Identifier: MIT */
#include "tokenlane/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include "log/log_private.h"
#include "tokenlane/base/clock.h"
#include "unit.h"

/* --- one line ----------------------------------------------------------------------------- */

static void assert_line(const struct tl_log_field *fields, unsigned n, const char *message, const char *expected) {
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  /* 2026-02-28 23:59:59.007 UTC, as `date -u -d @1772323199` says */
  struct log_record record = {1772323199007999999, TL_LOG_WARN, "http", message, n};
  log_format(&record, fields, false, &out);
  static const char begin[] = "ts=2026-02-28T23:59:59.007Z level=warn module=http msg=";
  const char *line = tl_buffer_string(&out);
  assert_memory_equal(line, begin, sizeof begin - 1);
  assert_string_equal(line + sizeof begin - 1, expected);
  tl_buffer_done(&out);
}

static void test_format(void **state) {
  (void)state;
  const struct tl_log_field kinds[] = {TL_S("s", "plain"), TL_I("i", INT64_MIN), TL_U("u", UINT64_MAX), TL_F("f", 0.25),
                                       TL_F("g", -1e300)};
  assert_line(kinds, 5, "listening", "listening s=plain i=-9223372036854775808 u=18446744073709551615 f=0.25 g=-1e+300\n");
  const struct tl_log_field strings[] = {TL_S("a", ""),         TL_S("b", NULL),   TL_S("c", "two words"), TL_S("d", "q\"\\"),
                                         TL_S("e", "a=b"),      TL_S("f", "1\n2"), TL_S("g", "\t\x1b\x7f"), TL_S("h", "h\xc3\xa9"),
                                         TL_S("i", "\r\nlevel=error")};
  assert_line(strings, 9, "a message",
              "\"a message\" a=\"\" b=\"\" c=\"two words\" d=\"q\\\"\\\\\" e=\"a=b\" f=\"1\\n2\" g=\"\\x09\\x1b\\x7f\" "
              "h=h\xc3\xa9 i=\"\\x0d\\nlevel=error\"\n");
}

static void test_priority(void **state) {
  (void)state;
  static const char *const begins[] = {"<3>ts=1970-01-01T00:00:00.000Z level=error ", "<4>ts=1970-01-01T00:00:00.000Z level=warn ",
                                       "<6>ts=1970-01-01T00:00:00.000Z level=info ", "<7>ts=1970-01-01T00:00:00.000Z level=debug "};
  for (int level = TL_LOG_ERROR; level <= TL_LOG_DEBUG; level++) {
    struct tl_buffer out;
    tl_buffer_init(&out, 0);
    struct log_record record = {0, (enum tl_log_level)level, "m", "x", 0};
    log_format(&record, NULL, true, &out);
    assert_memory_equal(tl_buffer_string(&out), begins[level], strlen(begins[level]));
    tl_buffer_done(&out);
  }
}

static void test_level(void **state) {
  (void)state;
  struct tl_error err = {0};
  assert_int_equal(tl_log_set_level("warn", &err), TL_OK);
  assert_true(tl_log_enabled(TL_LOG_ERROR) && tl_log_enabled(TL_LOG_WARN));
  assert_false(tl_log_enabled(TL_LOG_INFO) || tl_log_enabled(TL_LOG_DEBUG));
  assert_int_equal(tl_log_set_level("loud", &err), TL_EINVAL);
  assert_string_equal(err.message, "log.level: expected error, warn, info or debug, got 'loud'");
  assert_false(tl_log_enabled(TL_LOG_INFO)); /* unchanged */
  assert_int_equal(tl_log_set_level("debug", &err), TL_OK);
  assert_true(tl_log_enabled(TL_LOG_DEBUG));
  assert_int_equal(tl_log_set_level("info", &err), TL_OK);
}

/* --- the ring ------------------------------------------------------------------------------ */

/* Records of all sizes through the ring's end: what comes out is what went in. */
static void test_ring(void **state) {
  (void)state;
  struct log_ring *ring = aligned_alloc(TL_CACHE_LINE, sizeof *ring);
  memset(ring, 0, sizeof *ring);
  static char text[LOG_MAX_FIELDS * (LOG_MAX_STRING + 1)];
  char longest[2000];
  memset(longest, 'x', sizeof longest);
  longest[sizeof longest - 1] = 0;
  uint64_t random = 3;
  int64_t in = 0, out = 0;
  for (int i = 0; i < 20000; i++) {
    struct log_record record = {in, TL_LOG_INFO, "m", "msg", unit_below(&random, LOG_MAX_FIELDS + 1)};
    struct tl_log_field fields[LOG_MAX_FIELDS];
    for (unsigned k = 0; k < record.n_fields; k++)
      fields[k] = k % 2 ? TL_I("i", in + k) : TL_S("s", longest + sizeof longest - 1 - (in + k) % 1500);
    if (log_ring_put(ring, &record, fields)) in++;
    if (unit_below(&random, 3) == 0) continue; /* fills up */
    if (!log_ring_take(ring, &record, fields, text)) continue;
    assert_int_equal(record.wall_ns, out);
    for (unsigned k = 0; k < record.n_fields; k++) {
      size_t length = (size_t)(out + k) % 1500;
      if (k % 2)
        assert_int_equal(fields[k].i, out + k);
      else
        assert_int_equal(strlen(fields[k].str), length < LOG_MAX_STRING ? length : LOG_MAX_STRING);
    }
    out++;
  }
  assert_true(out > 5000 && atomic_load_explicit(&ring->dropped, memory_order_relaxed) > 100);
  free(ring);
}

static void test_full_ring_counts(void **state) {
  (void)state;
  struct log_ring *ring = aligned_alloc(TL_CACHE_LINE, sizeof *ring);
  memset(ring, 0, sizeof *ring);
  static char text[LOG_MAX_FIELDS * (LOG_MAX_STRING + 1)];
  struct log_record record = {.message = "m", .n_fields = 1};
  struct tl_log_field field = TL_S("s", "0123456789");
  uint64_t fitted = 0, dropped = 0;
  for (int i = 0; i < 5000; i++) log_ring_put(ring, &record, &field) ? fitted++ : dropped++;
  size_t size = sizeof record + sizeof field + sizeof(uint32_t) + 10;
  assert_int_equal(fitted, LOG_RING_BYTES / size);
  assert_int_equal(atomic_load_explicit(&ring->dropped, memory_order_relaxed), dropped);
  for (uint64_t i = 0; i < fitted; i++) assert_true(log_ring_take(ring, &record, &field, text));
  assert_false(log_ring_take(ring, &record, &field, text));
  assert_true(log_ring_put(ring, &record, &field));
  free(ring);
}

/* --- from the threads to stderr ----------------------------------------------------------------- */

static int kept_stderr;

/* stderr becomes `fd`, which is closed. */
static void redirect(int fd) {
  fflush(stderr);
  kept_stderr = dup(STDERR_FILENO);
  dup2(fd, STDERR_FILENO);
  close(fd);
}

static void restore(void) {
  dup2(kept_stderr, STDERR_FILENO);
  close(kept_stderr);
}

static char *read_all(const char *path) {
  FILE *file = fopen(path, "rb");
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  char part[4096];
  for (size_t n; (n = fread(part, 1, sizeof part, file)) > 0;) tl_buffer_append(&out, part, n);
  fclose(file);
  char *text = strdup(tl_buffer_string(&out));
  tl_buffer_done(&out);
  return text;
}

enum { THREADS = 6, EACH = 20000 / UNIT_SLOWDOWN };

static void *log_many(void *argument) {
  unsigned me = (unsigned)(uintptr_t)argument;
  for (unsigned i = 0; i < EACH; i++) {
    TL_LOG(TL_LOG_INFO, "test", "a record", TL_U("thread", me), TL_U("n", i), TL_S("text", "some more text"));
    TL_LOG(TL_LOG_DEBUG, "test", "not enabled", TL_U("thread", me));
    if (i % 64 == 0) sched_yield();
  }
  return NULL;
}

/* Each thread's records come whole and in order; what is missing was counted. */
static void check_lines(char *text, uint64_t dropped) {
  int64_t last[THREADS];
  uint64_t n_lines = 0, n_said = 0;
  for (unsigned i = 0; i < THREADS; i++) last[i] = -1;
  for (char *line = text, *end; *line; line = end + 1) {
    end = strchr(line, '\n');
    assert_non_null(end);
    *end = 0;
    unsigned thread, n, said, at = 0;
    const char *tail = strstr(line, " level=");
    assert_non_null(tail);
    if (sscanf(tail, " level=warn module=log msg=\"a full log ring dropped records\" records=%u", &said) == 1) {
      n_said += said;
      continue;
    }
    sscanf(tail, " level=info module=test msg=\"a record\" thread=%u n=%u text=\"some more text\"%n", &thread, &n, &at);
    if (at == 0 || tail[at]) fail_msg("a torn line: %s", line);
    assert_true(thread < THREADS);
    assert_true((int64_t)n > last[thread]);
    last[thread] = n;
    n_lines++;
  }
  assert_int_equal(n_said, dropped);
  assert_int_equal(n_lines + dropped, (uint64_t)THREADS * EACH);
}

static void run_threads(void) {
  pthread_t threads[THREADS];
  for (unsigned i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, log_many, (void *)(uintptr_t)i);
  for (unsigned i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

static void test_threads(void **state) {
  (void)state;
  char path[] = "/tmp/tokenlane-test-XXXXXX";
  int fd = mkstemp(path);
  assert_true(fd >= 0);
  for (int round = 0; round < 2; round++) { /* the second uses rings of ended threads */
    uint64_t before = tl_log_dropped();
    assert_int_equal(ftruncate(fd, 0), 0);
    redirect(open(path, O_WRONLY | O_APPEND));
    assert_int_equal(tl_log_start(NULL), TL_OK);
    run_threads();
    tl_log_stop();
    restore();
    char *text = read_all(path);
    check_lines(text, tl_log_dropped() - before);
    free(text);
  }
  unsigned n_rings = 0;
  for (struct log_ring *ring = log_rings(); ring; ring = ring->next) n_rings++;
  assert_true(n_rings <= THREADS + 1);
  close(fd);
  unlink(path);
}

/* Nobody reads: the threads go on at once, what did not fit is counted and said. */
static void test_dead_sink(void **state) {
  (void)state;
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  redirect(ends[1]);
  uint64_t before = tl_log_dropped();
  assert_int_equal(tl_log_start(NULL), TL_OK);
  int64_t began_ns = tl_now_ns(), longest_ns = 0;
  for (unsigned i = 0; i < 20000; i++) {
    int64_t at = tl_now_ns();
    TL_LOG(TL_LOG_INFO, "test", "a record", TL_U("n", i), TL_S("text", "some more text"));
    int64_t took = tl_now_ns() - at;
    if (took > longest_ns) longest_ns = took;
  }
  assert_true(tl_now_ns() - began_ns < TL_SEC(5) && longest_ns < TL_SEC(1));
  assert_true(tl_log_dropped() - before > 1000);
  close(ends[0]); /* now the writer's writes fail: it ends soon */
  began_ns = tl_now_ns();
  tl_log_stop();
  restore();
  assert_true(tl_now_ns() - began_ns < TL_SEC(20));
}

/* A reader that stalls past the deadline loses lines, but gets no torn one. */
static void *read_late(void *argument) {
  int fd = *(int *)argument;
  struct tl_buffer *got = malloc(sizeof *got);
  tl_buffer_init(got, 0);
  usleep(1300 * 1000);
  char part[65536];
  for (ssize_t n; (n = read(fd, part, sizeof part)) > 0;) tl_buffer_append(got, part, (size_t)n);
  return got;
}

static void test_slow_sink(void **state) {
  (void)state;
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  pthread_t reader;
  pthread_create(&reader, NULL, read_late, &ends[0]);
  redirect(ends[1]);
  assert_int_equal(tl_log_start(NULL), TL_OK);
  for (unsigned i = 0; i < 1500; i++) {
    TL_LOG(TL_LOG_INFO, "test", "a record", TL_U("n", i), TL_S("text", "0123456789012345678901234567890123456789"));
    if (i % 100 == 0) usleep(1000);
  }
  usleep(1500 * 1000);
  for (unsigned i = 0; i < 10; i++) TL_LOG(TL_LOG_INFO, "test", "a late record", TL_U("n", i));
  tl_log_stop();
  restore();
  struct tl_buffer *got;
  pthread_join(reader, (void **)&got);
  close(ends[0]);
  unsigned n_late = 0;
  char *text = (char *)(uintptr_t)tl_buffer_string(got);
  for (char *line = text, *end; *line; line = end + 1) {
    end = strchr(line, '\n');
    assert_non_null(end);
    *end = 0;
    assert_memory_equal(line, "ts=", 3);
    assert_null(strstr(line + 3, "ts=")); /* nothing hangs on a cut line */
    n_late += strstr(line, "a late record") != NULL;
  }
  assert_int_equal(n_late, 10);
  tl_buffer_done(got);
  free(got);
}

static void test_without_writer(void **state) {
  (void)state;
  char path[] = "/tmp/tokenlane-test-XXXXXX";
  int fd = mkstemp(path);
  redirect(dup(fd));
  TL_LOG(TL_LOG_ERROR, "boot", "at once", TL_I("n", 1));
  struct tl_log_field many[40];
  for (unsigned i = 0; i < 40; i++) many[i] = TL_U("k", i);
  tl_log_write(TL_LOG_INFO, "boot", "clipped", many, 40);
  restore();
  char *text = read_all(path);
  assert_non_null(strstr(text, " level=error module=boot msg=\"at once\" n=1\n"));
  assert_non_null(strstr(text, " k=15\n"));
  free(text);
  close(fd);
  unlink(path);
}

static void test_under_journald(void **state) {
  (void)state;
  char path[] = "/tmp/tokenlane-test-XXXXXX";
  int fd = mkstemp(path);
  setenv("JOURNAL_STREAM", "8:1", 1);
  redirect(dup(fd));
  assert_int_equal(tl_log_start(NULL), TL_OK);
  TL_LOG(TL_LOG_WARN, "m", "x");
  tl_log_stop();
  restore();
  unsetenv("JOURNAL_STREAM");
  char *text = read_all(path);
  assert_memory_equal(text, "<4>ts=", 6);
  free(text);
  close(fd);
  unlink(path);
}

int main(void) {
  signal(SIGPIPE, SIG_IGN);
  unsetenv("JOURNAL_STREAM");
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_format),         cmocka_unit_test(test_priority),  cmocka_unit_test(test_level),
      cmocka_unit_test(test_ring),           cmocka_unit_test(test_full_ring_counts),
      cmocka_unit_test(test_without_writer), cmocka_unit_test(test_threads),   cmocka_unit_test(test_dead_sink),
      cmocka_unit_test(test_slow_sink),      cmocka_unit_test(test_under_journald),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
