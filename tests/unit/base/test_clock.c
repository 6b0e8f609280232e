/* SPDX-License-Identifier: MIT */
/* The small files of the room: clock, error, thread, cpu. */
#include "tokenlane/base/clock.h"

#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "tokenlane/base/cpu.h"
#include "tokenlane/base/error.h"
#include "tokenlane/base/thread.h"
#include "unit.h"

static void test_clock(void **state) {
  (void)state;
  int64_t before = tl_now_ns();
  for (int i = 0; i < 100000; i++) {
    int64_t now = tl_now_ns();
    assert_true(now >= before);
    before = now;
  }
  int64_t began = tl_now_ns();
  nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
  int64_t took = tl_now_ns() - began;
  assert_true(took >= TL_MS(20) && took < TL_SEC(10));
  int64_t difference = tl_wall_ns() / TL_SEC(1) - time(NULL);
  assert_true(difference >= -1 && difference <= 1);
  assert_true(TL_SEC(3) == 3000000000 && TL_MS(4000000) == TL_SEC(4000));
}

static void test_error(void **state) {
  (void)state;
  struct tl_error err = {.http_status = 1};
  assert_int_equal(tl_error_set(&err, TL_EINVAL, "top_p", "expected %d\nto\r%s", 1, "x"), TL_EINVAL);
  assert_int_equal(err.code, TL_EINVAL);
  assert_int_equal(err.http_status, 0);
  assert_string_equal(err.field, "top_p");
  assert_string_equal(err.message, "expected 1 to x");
  assert_int_equal(tl_error_prefix(&err, "file"), TL_EINVAL);
  assert_string_equal(err.message, "file: expected 1 to x");
  assert_int_equal(tl_error_set(&err, TL_EIO, NULL, "%s", "other"), TL_EIO); /* replaced */
  assert_string_equal(err.field, "");
  assert_string_equal(err.message, "other");
  assert_int_equal(tl_error_set(NULL, TL_EBUSY, "x", "y"), TL_EBUSY);
  char longest[2000];
  memset(longest, 'a', sizeof longest);
  longest[sizeof longest - 1] = 0;
  tl_error_set(&err, TL_EIO, longest, "%s", longest);
  assert_int_equal(strlen(err.field), TL_ERROR_FIELD - 1);
  assert_int_equal(strlen(err.message), TL_ERROR_MESSAGE - 1);
  tl_error_prefix(&err, longest);
  assert_true(strlen(err.message) < TL_ERROR_MESSAGE);
}

static void *enter(void *ret_name) {
  assert_int_equal(tl_thread_role(), TL_ROLE_NONE);
  tl_thread_enter("a name that is too long", TL_ROLE_LANE);
  TL_ASSERT_ROLE(TL_ROLE_LANE);
  pthread_getname_np(pthread_self(), ret_name, 16);
  assert_int_equal(tl_thread_confine(0, 1), TL_OK);
  assert_int_equal(tl_cpu_count(), 1);
  assert_int_equal(tl_thread_confine(1000, 1), TL_OK); /* wraps */
  return NULL;
}

static void test_thread(void **state) {
  (void)state;
  char name[16];
  pthread_t thread;
  unsigned n_cpus = tl_cpu_count();
  pthread_create(&thread, NULL, enter, name);
  pthread_join(thread, NULL);
  assert_string_equal(name, "a name that is ");
  assert_int_equal(tl_thread_role(), TL_ROLE_NONE); /* roles belong to threads */
  assert_int_equal(tl_cpu_count(), n_cpus);
  assert_true(n_cpus >= 1);
  int value = 5, *pointer = &value;
  assert_ptr_equal(TL_TAKE(&pointer), &value);
  assert_null(pointer);
}

static void test_cpu(void **state) {
  (void)state;
  unsetenv("TOKENLANE_CPU");
  enum tl_cpu_isa best = tl_cpu_best_isa();
  setenv("TOKENLANE_CPU", "plain", 1);
  assert_int_equal(tl_cpu_best_isa(), TL_ISA_PLAIN);
  assert_true(tl_cpu_can(TL_ISA_PLAIN));
  assert_true(tl_cpu_can(best));
  for (enum tl_cpu_isa isa = TL_ISA_PLAIN; isa <= TL_ISA_AVX512_BF16; isa++) {
    setenv("TOKENLANE_CPU", tl_cpu_isa_name(isa), 1);
    assert_int_equal(tl_cpu_best_isa(), tl_cpu_can(isa) ? isa : best); /* never what it cannot do */
  }
  setenv("TOKENLANE_CPU", "nonsense", 1);
  assert_int_equal(tl_cpu_best_isa(), best);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_clock),
      cmocka_unit_test(test_error),
      cmocka_unit_test(test_thread),
      cmocka_unit_test(test_cpu),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
