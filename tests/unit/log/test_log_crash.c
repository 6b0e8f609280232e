/* SPDX-License-Identifier: MIT */
/* Children that die: what their log had not written is on stderr, and they die of the signal. */
#include "log_unit.h"

#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>

static volatile int zero; /* the compiler does not know */

static void die_of_null(void) {
  *(volatile int *)(uintptr_t)(8 + zero) = 1;
}

static void die_of_kill(void) {
  kill(getpid(), SIGSEGV);
}

static void die_of_bus(void) {
  raise(SIGBUS);
}

static void die_of_division(void) {
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
  zero = 100 / zero; /* 1 / x needs no division, finds gcc */
#else
  raise(SIGFPE);
#endif
}

/* On a stack that is full: only the signal stack is left. */
__attribute__((noinline)) static int deeper(int n) {
  volatile char room[4096];
  room[0] = (char)n;
  return n == zero - 1 ? 0 : deeper(n + 1) + room[0];
}

static void *overflow(void *unused) {
  (void)unused;
  TL_LOG(TL_LOG_INFO, "test", "before the overflow");
  zero = deeper(0);
  return NULL;
}

static void die_of_recursion(void) {
  pthread_t thread;
  pthread_create(&thread, NULL, overflow, NULL);
  pthread_join(thread, NULL);
}

static void *log_on(void *unused) {
  (void)unused;
  for (unsigned i = 0;; i++) {
    TL_LOG(TL_LOG_INFO, "test", "another thread goes on", TL_U("n", i));
    if (i % 16 == 0) usleep(1);
  }
  return NULL;
}

/* The sink is a pipe that nobody reads, so that the rings keep all; the crash's own lines go to stderr, a file. */
static int run_child(const char *path, int stuck, void (*die)(void), bool others) {
  pid_t child = fork();
  if (child == 0) {
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    static const int numbers[] = {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL};
    for (unsigned i = 0; i < UNIT_COUNT(numbers); i++) signal(numbers[i], SIG_DFL); /* away with cmocka's */
    alarm(60);
    log_unit_redirect(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600));
    char sink[64];
    snprintf(sink, sizeof sink, "/proc/self/fd/%d", stuck);
    struct tl_log_options options = log_unit_options(sink);
    log_unit_start(&options);
    tl_log_catch_crashes();
    pthread_t thread;
    if (others) pthread_create(&thread, NULL, log_on, NULL);
    for (unsigned i = 0; i < 40; i++) TL_LOG(TL_LOG_WARN, "test", "not yet written", TL_U("n", i), TL_F("f", 2.5));
    if (others) usleep(20000);
    die();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

static void check(void (*die)(void), int number, const char *name, bool others) {
  char path[] = "/tmp/tokenlane-test-XXXXXX", expected[64], filler[4096] = {0};
  int fd = mkstemp(path), ends[2];
  assert_true(fd >= 0);
  close(fd);
  assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
  while (write(ends[1], filler, sizeof filler) > 0) {
  }
  int status = run_child(path, ends[1], die, others);
  char *text = log_unit_read(path);
  snprintf(expected, sizeof expected, "signal=%s thread=", name);
  if (log_unit_count(text, expected) != 1) fail_msg("%s: status %x: %s", name, status, text);
  if (!WIFSIGNALED(status)) fail_msg("%s: status %x: %s", name, status, text);
  assert_int_equal(WTERMSIG(status), number);
  for (unsigned i = 0; i < 40; i++) {
    snprintf(expected, sizeof expected, "level=warn module=test msg=\"not yet written\" n=%u f=2.5\n", i);
    if (log_unit_count(text, expected) != 1) fail_msg("record %u is not there once: %s", i, text);
  }
  if (die == die_of_recursion) assert_non_null(strstr(text, "msg=\"before the overflow\""));
  free(text);
  close(ends[0]);
  close(ends[1]);
  unlink(path);
}

static void test_signals(void **state) {
  (void)state;
  check(die_of_null, SIGSEGV, "SIGSEGV", false);
  check(die_of_kill, SIGSEGV, "SIGSEGV", false);
  check(abort, SIGABRT, "SIGABRT", false);
  check(die_of_bus, SIGBUS, "SIGBUS", false);
  check(die_of_division, SIGFPE, "SIGFPE", false);
}

static void test_full_stack(void **state) {
  (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  skip(); /* they bring signal stacks of their own */
#endif
  check(die_of_recursion, SIGSEGV, "SIGSEGV", false);
}

static void test_among_threads(void **state) {
  (void)state;
  for (int i = 0; i < 10; i++) check(die_of_kill, SIGSEGV, "SIGSEGV", true);
}

/* stderr is a pipe that nobody reads: the child dies all the same. */
static void test_stuck_stderr(void **state) {
  (void)state;
  int ends[2];
  char filler[4096] = {0};
  assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
  while (write(ends[1], filler, sizeof filler) > 0) {
  }
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", ends[1]);
  int64_t began_ns = tl_now_ns();
  int status = run_child(path, ends[1], die_of_kill, false);
  assert_true(status != 0 && tl_now_ns() - began_ns < TL_SEC(20));
  close(ends[0]);
  close(ends[1]);
}

int main(void) {
  signal(SIGPIPE, SIG_IGN);
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_signals), cmocka_unit_test(test_full_stack),
                                     cmocka_unit_test(test_among_threads), cmocka_unit_test(test_stuck_stderr)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
