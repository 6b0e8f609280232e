/* SPDX-License-Identifier: MIT */
/* Sinks, sound ones and others: the threads that log never notice. */
#include "log_unit.h"

#include <sys/socket.h>
#include <sys/un.h>

static char folder[64];

static const char *in_folder(const char *name) {
  static char path[2][128];
  static unsigned turn;
  char *place = path[turn++ % 2];
  snprintf(place, sizeof path[0], "%s/%s", folder, name);
  return place;
}

static void log_line(unsigned n) {
  TL_LOG(TL_LOG_INFO, "test", "a record", TL_U("n", n), TL_S("text", "some more text"));
}

/* How long the slowest of n records took. */
static int64_t slowest_of(unsigned n) {
  int64_t longest_ns = 0;
  for (unsigned i = 0; i < n; i++) {
    int64_t at = tl_now_ns();
    log_line(i);
    int64_t took = tl_now_ns() - at;
    if (took > longest_ns) longest_ns = took;
  }
  return longest_ns;
}

static void assert_stops_soon(void) {
  int64_t began_ns = tl_now_ns();
  tl_log_stop();
  assert_true(tl_now_ns() - began_ns < TL_SEC(4));
}

/* --- sinks that take nothing ------------------------------------------------------------------- */

/* Nobody reads, and nobody will: the threads go on at once, the end comes all the same. */
static void test_stopped_reader(void **state) {
  (void)state;
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  int kept = log_unit_redirect(ends[1]);
  struct tl_log_losses before = tl_log_losses();
  struct tl_log_options options = log_unit_options("stderr");
  log_unit_start(&options);
  int64_t longest_ns = slowest_of(20000);
  usleep(50 * 1000);
  int64_t again_ns = slowest_of(20000); /* by now pipe, batch and ring are full */
  assert_stops_soon();
  log_unit_restore(kept);
  struct tl_log_losses losses = tl_log_losses();
  assert_true(longest_ns < TL_SEC(1) && again_ns < TL_SEC(1));
  assert_true(losses.ring_full - before.ring_full > 1000);
  assert_true(losses.sink > before.sink); /* given up at the end */
  close(ends[0]);
}

/* As before, but the reader goes while the writer waits: its write fails. */
static void test_reader_leaves(void **state) {
  (void)state;
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  int kept = log_unit_redirect(ends[1]);
  struct tl_log_options options = log_unit_options("stderr");
  log_unit_start(&options);
  assert_true(slowest_of(20000) < TL_SEC(1));
  close(ends[0]);
  assert_stops_soon();
  log_unit_restore(kept);
}

/* A reader that stalls for long gets what was kept, whole lines, and the number of the others. */
static void *read_late(void *argument) {
  int fd = *(int *)argument;
  struct tl_buffer *got = malloc(sizeof *got);
  tl_buffer_init(got, 0);
  usleep(1300 * 1000);
  char part[65536];
  for (ssize_t n; (n = read(fd, part, sizeof part)) > 0;) tl_buffer_append(got, part, (size_t)n);
  return got;
}

static void test_slow_reader(void **state) {
  (void)state;
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  pthread_t reader;
  pthread_create(&reader, NULL, read_late, &ends[0]);
  int kept = log_unit_redirect(ends[1]);
  struct tl_log_losses before = tl_log_losses();
  struct tl_log_options options = log_unit_options("stderr");
  log_unit_start(&options);
  for (unsigned i = 0; i < 5000; i++) {
    log_line(i);
    if (i % 100 == 0) usleep(1000);
  }
  usleep(1800 * 1000);
  for (unsigned i = 0; i < 10; i++) TL_LOG(TL_LOG_INFO, "test", "a late record", TL_U("n", i));
  tl_log_stop();
  log_unit_restore(kept);
  struct tl_buffer *got;
  pthread_join(reader, (void **)&got);
  close(ends[0]);
  const char *text = tl_buffer_string(got);
  struct tl_log_losses losses = tl_log_losses();
  assert_int_equal(losses.sink, before.sink);
  unsigned kept_lines = log_unit_count(text, "msg=\"a record\"");
  assert_true(kept_lines < 5000);
  assert_int_equal(kept_lines + losses.ring_full - before.ring_full, 5000);
  assert_int_equal(log_unit_count(text, "msg=\"a late record\""), 10);
  assert_int_equal(log_unit_count(text, "\n"), log_unit_count(text, "ts="));
  assert_true(log_unit_count(text, "msg=\"a full log ring dropped records\"") > 0);
  tl_buffer_done(got);
  free(got);
}

/* Every write fails. When another sink takes over, it says how many were lost. */
static void test_full_disk(void **state) {
  (void)state;
  struct tl_log_losses before = tl_log_losses();
  struct tl_log_options options = log_unit_options("/dev/full");
  log_unit_start(&options);
  assert_true(slowest_of(100) < TL_SEC(1));
  usleep(300 * 1000);
  options.sink = in_folder("after");
  assert_int_equal(tl_log_configure(&options, NULL), TL_OK);
  usleep(300 * 1000);
  log_line(1);
  usleep(50 * 1000);
  log_line(2); /* after a write that went well */
  assert_stops_soon();
  char *text = log_unit_read(in_folder("after")), expected[80];
  uint64_t lost = tl_log_losses().sink - before.sink;
  assert_int_equal(lost, 100);
  snprintf(expected, sizeof expected, "msg=\"the sink lost records\" records=%llu\n", (unsigned long long)lost);
  assert_int_equal(log_unit_count(text, expected), 1);
  assert_int_equal(log_unit_count(text, "msg=\"a record\""), 2);
  free(text);
}

/* --- stderr and files ------------------------------------------------------------------------------ */

static void test_without_writer(void **state) {
  (void)state;
  int kept = log_unit_redirect(open(in_folder("now"), O_WRONLY | O_CREAT | O_TRUNC, 0600));
  TL_LOG(TL_LOG_ERROR, "boot", "at once", TL_I("n", 1));
  struct tl_log_field many[40];
  struct tl_log_site site = {0};
  for (unsigned i = 0; i < 40; i++) many[i] = TL_U("k", i);
  tl_log_write(&site, TL_LOG_INFO, "boot", "clipped", many, 40);
  log_unit_restore(kept);
  char *text = log_unit_read(in_folder("now"));
  assert_non_null(strstr(text, " level=error module=boot msg=\"at once\" n=1\n"));
  assert_non_null(strstr(text, " k=15\n"));
  free(text);
}

/* Priorities only if the journal is what stderr really is. */
static void test_under_journald(void **state) {
  (void)state;
  for (int round = 0; round < 2; round++) {
    const char *path = in_folder("stream");
    int kept = log_unit_redirect(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600));
    struct stat file;
    fstat(STDERR_FILENO, &file);
    char stream[64];
    snprintf(stream, sizeof stream, "%llu:%llu", (unsigned long long)file.st_dev, (unsigned long long)file.st_ino + round);
    setenv("JOURNAL_STREAM", stream, 1);
    struct tl_log_options options = log_unit_options("stderr");
    log_unit_start(&options);
    TL_LOG(TL_LOG_WARN, "m", "x");
    tl_log_stop();
    log_unit_restore(kept);
    unsetenv("JOURNAL_STREAM");
    char *text = log_unit_read(path);
    assert_memory_equal(text, round ? "ts=" : "<4>ts=", round ? 3 : 6);
    free(text);
  }
}

/* Until the writer has brought it there: a busy machine may take its time. */
static void await_text(const char *path, const char *part) {
  for (int i = 0; i < 1000; i++) {
    char *text = access(path, F_OK) == 0 ? log_unit_read(path) : NULL;
    bool found = text && strstr(text, part);
    free(text);
    if (found) return;
    usleep(10 * 1000);
  }
  fail_msg("%s never came to %s", part, path);
}

/* logrotate: the file is moved away, then made anew. A sink that cannot be opened leaves the old one. */
static void test_reopen(void **state) {
  (void)state;
  char old[128], moved[128];
  snprintf(old, sizeof old, "%s", in_folder("log"));
  snprintf(moved, sizeof moved, "%s", in_folder("log.1"));
  struct tl_log_options options = log_unit_options(old), broken = log_unit_options("/nowhere/log");
  log_unit_start(&options);
  log_line(1);
  await_text(old, "n=1 ");
  assert_int_equal(rename(old, moved), 0);
  log_line(2);
  await_text(moved, "n=2 ");
  options.format = "json";
  assert_int_equal(tl_log_configure(&options, NULL), TL_OK);
  await_text(old, "");
  log_line(3);
  assert_int_equal(tl_log_configure(&broken, NULL), TL_OK);
  tl_log_stop();
  char *first = log_unit_read(moved), *second = log_unit_read(old);
  assert_non_null(strstr(first, "n=1 "));
  assert_non_null(strstr(first, "n=2 "));
  assert_null(strstr(first, "n=3 "));
  assert_non_null(strstr(second, "\"n\":3,"));
  assert_non_null(strstr(second, "\"msg\":\"the new sink cannot be opened; the old one stays\""));
  free(first);
  free(second);
}

/* --- journald ------------------------------------------------------------------------------------------- */

static int listen_as_journald(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  unlink(path);
  int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
  struct timeval patience = {.tv_sec = 5};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof address), 0);
  return fd;
}

static void assert_datagram(int fd, const char *part) {
  char got[4096];
  ssize_t n = recv(fd, got, sizeof got - 1, 0);
  if (n < 0) fail_msg("no datagram with %s", part);
  got[n] = 0;
  assert_non_null(strstr(got, part));
  assert_non_null(strstr(got, "\nPRIORITY=6\n"));
}

/* A datagram a record; a journald that was restarted gets the next ones; one that does not read stops nobody. */
static void test_journald(void **state) {
  (void)state;
  char sink[128], path[100];
  snprintf(path, sizeof path, "%s", in_folder("journal"));
  snprintf(sink, sizeof sink, "journald:%s", path);
  int fd = listen_as_journald(path);
  struct tl_log_options options = log_unit_options(sink);
  log_unit_start(&options);
  log_line(1);
  TL_LOG(TL_LOG_INFO, "test", "two lines", TL_S("text", "a\nb"));
  assert_datagram(fd, "TOKENLANE_N=1\n");
  assert_datagram(fd, "\nTOKENLANE_TEXT\n\x03");
  close(fd);
  fd = listen_as_journald(path);
  log_line(2);
  assert_datagram(fd, "TOKENLANE_N=2\n");
  assert_true(slowest_of(20000) < TL_SEC(1));
  assert_datagram(fd, "TOKENLANE_N=0\n");
  assert_stops_soon();
  close(fd);
}

int main(void) {
  signal(SIGPIPE, SIG_IGN);
  unsetenv("JOURNAL_STREAM");
  unit_make_folder(folder);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_stopped_reader), cmocka_unit_test(test_reader_leaves), cmocka_unit_test(test_slow_reader),
      cmocka_unit_test(test_full_disk),      cmocka_unit_test(test_without_writer), cmocka_unit_test(test_under_journald),
      cmocka_unit_test(test_reopen),         cmocka_unit_test(test_journald),
  };
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", folder);
  return system(command) ? 1 : failed;
}
