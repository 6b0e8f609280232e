/* SPDX-License-Identifier: MIT */
/* Levels, rates, and records from many threads to the sink. */
#include "log_unit.h"

#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
/* Counts what this thread allocates: a record after the first must not. */
extern void *__libc_malloc(size_t);
static _Thread_local unsigned n_mallocs;
void *malloc(size_t size) {
  n_mallocs++;
  return __libc_malloc(size);
}
#define CAN_COUNT 1
#else
static unsigned n_mallocs;
#define CAN_COUNT 0
#endif

static char path[64]; /* the sink of these tests */

static bool enabled(enum tl_log_level level, const char *module) {
  struct tl_log_site site = {0};
  bool first = tl_log_enabled(&site, level, module);
  assert_int_equal(tl_log_enabled(&site, level, module), first); /* now the module is known */
  return first;
}

static void test_level(void **state) {
  (void)state;
  struct tl_error err = {0};
  assert_int_equal(tl_log_set_level("warn", &err), TL_OK);
  assert_true(enabled(TL_LOG_ERROR, "http") && enabled(TL_LOG_WARN, "http"));
  assert_false(enabled(TL_LOG_INFO, "http") || enabled(TL_LOG_DEBUG, "engine"));
  assert_int_equal(tl_log_set_level("loud", &err), TL_EINVAL);
  assert_string_equal(err.message, "log.level: expected error, warn, info or debug, got 'loud'");
  assert_false(enabled(TL_LOG_INFO, "http")); /* unchanged */
  assert_int_equal(tl_log_set_level("debug", &err), TL_OK);
  assert_true(enabled(TL_LOG_DEBUG, "http"));
  assert_int_equal(tl_log_set_level("info", &err), TL_OK);
}

static void test_modules(void **state) {
  (void)state;
  static const char *const modules[] = {"http=debug", "engine=error"};
  struct tl_error err = {0};
  struct tl_log_options options = log_unit_options("stderr");
  options.level = "warn";
  options.modules = modules;
  options.n_modules = 2;
  assert_int_equal(tl_log_configure(&options, &err), TL_OK);
  assert_true(enabled(TL_LOG_DEBUG, "http") && enabled(TL_LOG_WARN, "api") && enabled(TL_LOG_WARN, "unknown"));
  assert_false(enabled(TL_LOG_WARN, "engine") || enabled(TL_LOG_INFO, "api") || enabled(TL_LOG_INFO, "access"));
  options.access = true;
  options.level = "error";
  options.n_modules = 0;
  assert_int_equal(tl_log_configure(&options, &err), TL_OK);
  assert_true(enabled(TL_LOG_INFO, "access"));
  assert_false(enabled(TL_LOG_DEBUG, "http"));
  /* single ones, while it runs */
  assert_int_equal(tl_log_set_module_level("http", "debug", &err), TL_OK);
  assert_true(enabled(TL_LOG_DEBUG, "http") && !enabled(TL_LOG_WARN, "api"));
  assert_int_equal(tl_log_set_module_level("access", "error", &err), TL_OK);
  assert_false(enabled(TL_LOG_INFO, "access"));
  assert_int_equal(tl_log_set_module_level("http", "loud", &err), TL_EINVAL);
  assert_int_equal(tl_log_set_module_level("", "info", &err), TL_ENOTFOUND);
  assert_int_equal(tl_log_set_module_level("htt", "info", &err), TL_ENOTFOUND);
  assert_int_equal(tl_log_set_module_level("all", "warn", &err), TL_OK);
  assert_true(enabled(TL_LOG_WARN, "http") && !enabled(TL_LOG_INFO, "http") && !enabled(TL_LOG_INFO, "access"));
  const char *level, *name;
  unsigned n = 0;
  for (; (name = tl_log_module(n, &level)); n++) assert_string_equal(level, strcmp(name, "access") ? "warn" : "error");
  assert_true(n > 10);
  assert_int_equal(tl_log_set_module_level("access", "info", &err), TL_OK);
  assert_int_equal(tl_log_set_level("info", &err), TL_OK);
}

static void assert_refused(struct tl_log_options options, const char *module, const char *field, const char *message) {
  struct tl_error err = {0};
  options.modules = &module;
  options.n_modules = module != NULL;
  assert_int_equal(tl_log_check(&options, &err), TL_EINVAL);
  assert_string_equal(err.field, field);
  assert_memory_equal(err.message, message, strlen(message));
  assert_int_equal(tl_log_configure(&options, &err), TL_EINVAL);
}

static void test_options(void **state) {
  (void)state;
  struct tl_log_options fine = log_unit_options("stderr"), o;
  assert_refused(fine, "http", "log.modules", "log.modules: expected MODULE=LEVEL with error, warn, info or debug, got 'http'");
  assert_refused(fine, "http=loud", "log.modules", "log.modules: expected MODULE=LEVEL");
  assert_refused(fine, "htp=info", "log.modules", "log.modules: no module 'htp'; there are api, ");
  assert_refused(fine, "=info", "log.modules", "log.modules: no module ''");
  assert_refused(fine, "access=info", "log.modules", "log.modules: no module 'access'");
  o = fine, o.level = "loud";
  assert_refused(o, NULL, "log.level", "log.level: expected");
  o = fine, o.format = "xml";
  assert_refused(o, NULL, "log.format", "log.format: expected logfmt or json, got 'xml'");
  o = fine, o.sink = "stdout";
  assert_refused(o, NULL, "log.sink", "log.sink: expected stderr, journald, journald:/socket or a path with a slash");
  char longest[400];
  memset(longest, '/', sizeof longest);
  longest[sizeof longest - 1] = 0;
  o = fine, o.sink = longest;
  assert_refused(o, NULL, "log.sink", "log.sink: expected a path of less than");
  static const char *const sinks[] = {"stderr", "journald", "journald:/run/x", "/var/log/x", "./x"};
  for (unsigned i = 0; i < UNIT_COUNT(sinks); i++) {
    o = fine, o.sink = sinks[i];
    assert_int_equal(tl_log_check(&o, NULL), TL_OK);
  }
  struct tl_error err = {0};
  o = fine, o.sink = "/nowhere/at/all";
  assert_int_equal(tl_log_start(&o, &err), TL_EIO);
  assert_string_equal(err.message, "log.sink: /nowhere/at/all: No such file or directory");
}

/* --- rates ------------------------------------------------------------------------------------- */

static void log_flood(unsigned n) {
  for (unsigned i = 0; i < n; i++) TL_LOG(TL_LOG_INFO, "http", "a flood", TL_U("n", i));
}

/* Of a flood some lines and the number of the others come; another site and "access" are not held back. */
static void test_rate(void **state) {
  (void)state;
  struct tl_log_options options = log_unit_options(path);
  options.max_per_second = 10;
  options.access = true;
  uint64_t before = tl_log_losses().rate_limit;
  log_unit_start(&options);
  log_flood(500);
  for (unsigned i = 0; i < 50; i++) TL_LOG(TL_LOG_INFO, "access", "request", TL_U("n", i));
  TL_LOG(TL_LOG_INFO, "http", "another");
  usleep(2300 * 1000);
  char *text = log_unit_read(path);
  unsigned shown = log_unit_count(text, " msg=\"a flood\""), said = 0;
  /* said without another record of the site; a second may begin in the flood */
  for (char *at = text; (at = strstr(at, "msg=\"records over log.max_per_second were suppressed\" records=")); at++) {
    unsigned n;
    char rest[64];
    assert_int_equal(sscanf(strstr(at, " records="), " records=%u %63[^\n]", &n, rest), 2);
    assert_string_equal(rest, "of_module=http of_msg=\"a flood\"");
    said += n;
  }
  assert_true(shown >= 10 && shown <= 20);
  assert_int_equal(shown + said, 500);
  assert_int_equal(tl_log_losses().rate_limit - before, said);
  assert_int_equal(log_unit_count(text, "module=access"), 50);
  assert_int_equal(log_unit_count(text, "msg=another"), 1);
  free(text);
  log_flood(3); /* a new second: fewer than ten */
  tl_log_stop();
  text = log_unit_read(path);
  assert_int_equal(log_unit_count(text, " msg=\"a flood\""), shown + 3);
  free(text);
  unlink(path);
}

/* What tl_log_stop finds suppressed is said at once. */
static void test_rate_at_stop(void **state) {
  (void)state;
  struct tl_log_options options = log_unit_options(path);
  options.max_per_second = 1;
  log_unit_start(&options);
  for (unsigned i = 0; i < 100; i++) TL_LOG(TL_LOG_WARN, "api", "again");
  tl_log_stop();
  char *text = log_unit_read(path);
  assert_int_equal(log_unit_count(text, "of_module=api of_msg=again"), 1);
  free(text);
  unlink(path);
  options.max_per_second = 0;
  tl_log_configure(&options, NULL); /* as the other tests want it */
}

/* --- threads ------------------------------------------------------------------------------------ */

enum { THREADS = 6, EACH = 20000 / UNIT_SLOWDOWN };

static void *log_many(void *argument) {
  unsigned me = (unsigned)(uintptr_t)argument;
  for (unsigned i = 0; i < EACH; i++) {
    if (i == 1) n_mallocs = 0;
    TL_LOG(TL_LOG_INFO, "test", "a record", TL_U("thread", me), TL_U("n", i), TL_S("text", "some more text"));
    TL_LOG(TL_LOG_DEBUG, "test", "not enabled", TL_U("thread", me));
    if (i % 64 == 0) sched_yield();
  }
  if (CAN_COUNT) assert_int_equal(n_mallocs, 0);
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
  int fd = open(path, O_RDWR | O_CREAT, 0600);
  assert_true(fd >= 0);
  struct tl_log_options options = log_unit_options("stderr");
  for (int round = 0; round < 2; round++) { /* the second uses rings of ended threads */
    uint64_t before = tl_log_losses().ring_full;
    assert_int_equal(ftruncate(fd, 0), 0);
    int kept = log_unit_redirect(open(path, O_WRONLY | O_APPEND));
    log_unit_start(&options);
    run_threads();
    tl_log_stop();
    log_unit_restore(kept);
    char *text = log_unit_read(path);
    check_lines(text, tl_log_losses().ring_full - before);
    free(text);
  }
  unsigned n_rings = 0;
  for (struct log_ring *ring = log_rings(); ring; ring = ring->next) n_rings++;
  assert_true(n_rings <= THREADS + 1);
  close(fd);
  unlink(path);
}

/* Options change under the threads: nothing is lost but what was counted, in one file or the other. */
static void test_configure_under_load(void **state) {
  (void)state;
  char other[80];
  snprintf(other, sizeof other, "%s.other", path);
  struct tl_log_options options = log_unit_options(path), second = log_unit_options(other);
  uint64_t before = tl_log_losses().ring_full;
  pthread_t threads[3];
  log_unit_start(&options);
  for (unsigned i = 0; i < 3; i++) pthread_create(&threads[i], NULL, log_many, (void *)(uintptr_t)i);
  for (unsigned i = 0; i < 40 || access(other, F_OK) != 0; i++) { /* on a busy machine the writer may have slept through all of them */
    assert_int_equal(tl_log_configure(i % 2 ? &options : &second, NULL), TL_OK);
    usleep(1000);
  }
  for (unsigned i = 0; i < 3; i++) pthread_join(threads[i], NULL);
  tl_log_stop();
  char *a = log_unit_read(path), *b = log_unit_read(other);
  uint64_t lines = log_unit_count(a, "text=\"some more text\"\n") + log_unit_count(b, "text=\"some more text\"\n");
  assert_int_equal(lines + tl_log_losses().ring_full - before, 3 * EACH);
  free(a);
  free(b);
  unlink(path);
  unlink(other);
}

/* Lines of one batch stand in the order of their time. */
static void *log_one(void *argument) {
  TL_LOG(TL_LOG_INFO, "test", "in order", TL_U("n", (uintptr_t)argument));
  return NULL;
}

static void test_order(void **state) {
  (void)state;
  struct tl_log_options options = log_unit_options(path);
  log_unit_start(&options);
  log_one((void *)0); /* from here the writer naps */
  pthread_t threads[4];
  for (uintptr_t i = 1; i <= 4; i++) {
    pthread_create(&threads[i - 1], NULL, log_one, (void *)i);
    pthread_join(threads[i - 1], NULL);
  }
  tl_log_stop();
  char *text = log_unit_read(path), *at = text;
  for (unsigned i = 0; i < 5; i++) {
    char expected[32];
    snprintf(expected, sizeof expected, "msg=\"in order\" n=%u\n", i);
    at = strstr(at, expected);
    assert_non_null(at);
  }
  free(text);
  unlink(path);
}

int main(void) {
  snprintf(path, sizeof path, "/tmp/tokenlane-test-log-%d", (int)getpid());
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_level), cmocka_unit_test(test_modules),      cmocka_unit_test(test_options),
      cmocka_unit_test(test_rate),  cmocka_unit_test(test_rate_at_stop), cmocka_unit_test(test_threads),
      cmocka_unit_test(test_order), cmocka_unit_test(test_configure_under_load),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
