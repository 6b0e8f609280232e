/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/spsc.h"

#include <pthread.h>
#include <sched.h>

#include "tokenlane/base/error.h"
#include "unit.h"

static void *as_item(size_t number) {
  return (void *)(number + 1); /* NULL means empty */
}

static void test_capacity_and_order(void **state) {
  (void)state;
  static const struct {
    size_t asked, got;
  } sizes[] = {{0, 2}, {1, 2}, {2, 2}, {3, 4}, {4, 4}, {5, 8}, {1000, 1024}, {1025, 2048}};
  for (size_t i = 0; i < UNIT_COUNT(sizes); i++) {
    struct tl_spsc ring;
    assert_int_equal(tl_spsc_init(&ring, sizes[i].asked), TL_OK);
    size_t in = 0, out = 0;
    for (int round = 0; round < 5; round++) {
      assert_null(tl_spsc_pop(&ring));
      while (tl_spsc_push(&ring, as_item(in))) in++;
      assert_int_equal(in - out, sizes[i].got);
      size_t leave = round % 2 ? 0 : 1; /* so that the next lap begins at another slot */
      for (; in - out > leave; out++) assert_ptr_equal(tl_spsc_pop(&ring), as_item(out));
      for (; leave; leave--, out++) assert_ptr_equal(tl_spsc_pop(&ring), as_item(out));
    }
    tl_spsc_done(&ring);
  }
  struct tl_spsc ring;
  assert_int_equal(tl_spsc_init(&ring, SIZE_MAX), TL_ENOMEM);
}

struct run {
  size_t count;
  struct tl_spsc ring;
  uint64_t *payloads; /* written by the producer before it pushes their address */
};

static void *produce(void *argument) {
  struct run *run = argument;
  for (size_t i = 0; i < run->count; i++) {
    run->payloads[i] = i * 3 + 1;
    while (!tl_spsc_push(&run->ring, &run->payloads[i])) sched_yield();
  }
  return NULL;
}

static void cross(size_t capacity, size_t count) {
  static struct run run;
  run.count = count / UNIT_SLOWDOWN;
  assert_int_equal(tl_spsc_init(&run.ring, capacity), TL_OK);
  run.payloads = calloc(run.count, sizeof *run.payloads);
  pthread_t producer;
  pthread_create(&producer, NULL, produce, &run);
  for (size_t i = 0; i < run.count;) {
    uint64_t *payload = tl_spsc_pop(&run.ring);
    if (!payload) {
      sched_yield();
      continue;
    }
    assert_ptr_equal(payload, &run.payloads[i]);
    assert_int_equal(*payload, i * 3 + 1);
    i++;
  }
  pthread_join(producer, NULL);
  assert_null(tl_spsc_pop(&run.ring));
  tl_spsc_done(&run.ring);
  free(run.payloads);
}

static void test_two_threads_on_a_tiny_ring(void **state) {
  (void)state;
  cross(2, 10000); /* where other programs have the processors each two are several turns of theirs */
}

static void test_two_threads_on_a_large_ring(void **state) {
  (void)state;
  cross(1024, 1000000);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_capacity_and_order),
      cmocka_unit_test(test_two_threads_on_a_tiny_ring),
      cmocka_unit_test(test_two_threads_on_a_large_ring),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
