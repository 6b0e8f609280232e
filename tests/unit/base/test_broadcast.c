/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/broadcast.h"

#include <pthread.h>
#include <sched.h>

#include "tokenlane/base/error.h"
#include "tokenlane/base/hash.h"
#include "unit.h"

static void test_alone(void **state) {
  (void)state;
  struct tl_broadcast ring;
  int items[5];
  assert_int_equal(tl_broadcast_init(&ring, 3, 2), TL_OK); /* four slots */
  assert_true(tl_broadcast_is_read(&ring));
  assert_null(tl_broadcast_peek(&ring, 0));
  for (unsigned i = 0; i < 4; i++) assert_true(tl_broadcast_push(&ring, &items[i]));
  assert_false(tl_broadcast_push(&ring, &items[4]));
  for (unsigned i = 0; i < 4; i++) { /* one reader alone makes no room */
    assert_ptr_equal(tl_broadcast_peek(&ring, 0), &items[i]);
    assert_ptr_equal(tl_broadcast_peek(&ring, 0), &items[i]);
    tl_broadcast_next(&ring, 0);
  }
  assert_null(tl_broadcast_peek(&ring, 0));
  assert_false(tl_broadcast_push(&ring, &items[4]));
  assert_false(tl_broadcast_is_read(&ring));
  assert_ptr_equal(tl_broadcast_peek(&ring, 1), &items[0]);
  tl_broadcast_next(&ring, 1);
  assert_true(tl_broadcast_push(&ring, &items[4]));
  for (unsigned i = 1; i < 5; i++) {
    assert_ptr_equal(tl_broadcast_peek(&ring, 1), &items[i]);
    tl_broadcast_next(&ring, 1);
  }
  assert_ptr_equal(tl_broadcast_peek(&ring, 0), &items[4]);
  tl_broadcast_next(&ring, 0);
  assert_true(tl_broadcast_is_read(&ring));
  tl_broadcast_done(&ring);
}

static void test_no_memory(void **state) {
  (void)state;
  struct tl_broadcast ring;
  assert_int_equal(tl_broadcast_init(&ring, SIZE_MAX, 1), TL_ENOMEM);
}

/* --- threads: one item is written anew for each push, once all have read it ----------------------- */

/* Where other programs have the processors each item is several turns of theirs; make soak-structures has 10^8. */
enum { READERS = 3, ITEMS = 5000 / UNIT_SLOWDOWN };

static struct tl_broadcast shared;
static uint64_t content, answers[READERS]; /* plain: the ring publishes them */

static void *read_all(void *argument) {
  unsigned me = (unsigned)(uintptr_t)argument;
  for (uint64_t i = 0; i < ITEMS; i++) {
    const uint64_t *item;
    while (!(item = tl_broadcast_peek(&shared, me))) sched_yield();
    answers[me] = *item ^ me;
    tl_broadcast_next(&shared, me);
  }
  return NULL;
}

static void test_threads(void **state) {
  (void)state;
  pthread_t threads[READERS];
  assert_int_equal(tl_broadcast_init(&shared, 2, READERS), TL_OK);
  for (uintptr_t i = 0; i < READERS; i++) pthread_create(&threads[i], NULL, read_all, (void *)i);
  for (uint64_t i = 0; i < ITEMS; i++) {
    content = tl_hash_u64(i);
    assert_true(tl_broadcast_push(&shared, &content));
    while (!tl_broadcast_is_read(&shared)) sched_yield();
    for (unsigned r = 0; r < READERS; r++) assert_true(answers[r] == (tl_hash_u64(i) ^ r));
  }
  for (unsigned i = 0; i < READERS; i++) pthread_join(threads[i], NULL);
  tl_broadcast_done(&shared);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_alone), cmocka_unit_test(test_no_memory), cmocka_unit_test(test_threads)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
