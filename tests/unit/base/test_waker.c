/* SPDX-License-Identifier: MIT */
/* A lost wake-up shows as a consumer that sleeps for ever: each run has an alarm. */
#include "tokenlane/base/waker.h"

#include <pthread.h>
#include <sched.h>

#include "tokenlane/base/clock.h"
#include "tokenlane/base/mpsc.h"
#include "unit.h"

enum { PRODUCERS = 3, EACH = 60000 / UNIT_SLOWDOWN };

static struct tl_mpsc queue;
static struct tl_waker waker;
static struct tl_mpsc_node nodes[PRODUCERS][EACH];
static _Atomic uint32_t taken;

/* Waits now and then until all is taken, so that the consumer goes to sleep and
 * every kind of meeting between sleeper and waker happens. */
static void *produce(void *argument) {
  unsigned me = (unsigned)(uintptr_t)argument;
  uint64_t random = me + 1;
  for (uint32_t i = 0; i < EACH; i++) {
    tl_mpsc_push(&queue, &nodes[me][i]);
    tl_waker_notify(&waker);
    switch (unit_below(&random, 16)) {
      case 0: sched_yield(); break;
      case 1:
        for (uint32_t k = unit_below(&random, 2000); k; k--) tl_cpu_relax();
        break;
    }
  }
  return NULL;
}

static void consume(uint32_t count) {
  for (uint32_t n = 0; n < count;) {
    if (tl_mpsc_pop(&queue)) {
      atomic_store_explicit(&taken, ++n, memory_order_release);
      continue;
    }
    tl_waker_prepare(&waker);
    if (tl_mpsc_pop(&queue)) {
      tl_waker_cancel(&waker);
      atomic_store_explicit(&taken, ++n, memory_order_release);
    } else {
      tl_waker_sleep(&waker, -1);
    }
  }
}

static void test_no_wake_up_is_lost(void **state) {
  (void)state;
  pthread_t threads[PRODUCERS];
  tl_mpsc_init(&queue);
  tl_waker_init(&waker);
  alarm(60);
  for (unsigned p = 0; p < PRODUCERS; p++) pthread_create(&threads[p], NULL, produce, (void *)(uintptr_t)p);
  consume(PRODUCERS * EACH);
  for (unsigned p = 0; p < PRODUCERS; p++) pthread_join(threads[p], NULL);
  alarm(0);
}

/* One item at a time: the producer goes on when it was taken, so the consumer is
 * about to sleep at every push. */
static void *ping(void *unused) {
  (void)unused;
  for (uint32_t i = 0; i < EACH; i++) {
    tl_mpsc_push(&queue, &nodes[0][i]);
    tl_waker_notify(&waker);
    while (atomic_load_explicit(&taken, memory_order_acquire) != i + 1) sched_yield();
  }
  return NULL;
}

static void test_one_at_a_time(void **state) {
  (void)state;
  pthread_t thread;
  tl_mpsc_init(&queue);
  tl_waker_init(&waker);
  atomic_store_explicit(&taken, 0, memory_order_relaxed);
  alarm(60);
  pthread_create(&thread, NULL, ping, NULL);
  consume(EACH);
  pthread_join(thread, NULL);
  alarm(0);
}

static void test_timeout(void **state) {
  (void)state;
  tl_waker_init(&waker);
  tl_waker_prepare(&waker);
  int64_t began_ns = tl_now_ns();
  tl_waker_sleep(&waker, TL_MS(20));
  int64_t took_ns = tl_now_ns() - began_ns;
  assert_true(took_ns >= TL_MS(19) && took_ns < TL_SEC(10));
  /* a wake-up between prepare and sleep: no sleep at all */
  tl_waker_prepare(&waker);
  tl_waker_notify(&waker);
  began_ns = tl_now_ns();
  tl_waker_sleep(&waker, TL_SEC(30));
  assert_true(tl_now_ns() - began_ns < TL_SEC(5));
  /* cancelled: the next notify has nobody to wake */
  tl_waker_prepare(&waker);
  tl_waker_cancel(&waker);
  tl_waker_notify(&waker);
  assert_int_equal(atomic_load_explicit(&waker.asleep, memory_order_relaxed), 0);
}

static void count_call(void *context) {
  ++*(int *)context;
}

static void test_wake_by(void **state) {
  (void)state;
  int calls = 0;
  tl_wake_by(count_call, &calls);
  tl_wake_by(count_call, &calls);
  assert_int_equal(calls, 2);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_no_wake_up_is_lost),
      cmocka_unit_test(test_one_at_a_time),
      cmocka_unit_test(test_timeout),
      cmocka_unit_test(test_wake_by),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
