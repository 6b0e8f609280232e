/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/mpsc.h"

#include <pthread.h>
#include <sched.h>

#include "unit.h"

struct item {
  unsigned producer;
  uint32_t number;
  uint64_t payload; /* written before the push, read after the pop */
  struct tl_mpsc_node node;
};

static struct item *item_of(struct tl_mpsc_node *node) {
  return (struct item *)(void *)((char *)node - offsetof(struct item, node));
}

static void test_order_of_one_thread(void **state) {
  (void)state;
  static struct tl_mpsc queue;
  struct item items[100];
  tl_mpsc_init(&queue);
  assert_null(tl_mpsc_pop(&queue));
  uint32_t in = 0, out = 0;
  uint64_t random = 7;
  for (int round = 0; round < 10000; round++) {
    if (in - out < 100 && unit_below(&random, 2)) {
      items[in % 100].number = in;
      tl_mpsc_push(&queue, &items[in % 100].node); /* a node may be used again once it was popped */
      in++;
    } else {
      struct tl_mpsc_node *node = tl_mpsc_pop(&queue);
      assert_int_equal(node != NULL, in != out);
      if (node) assert_int_equal(item_of(node)->number, out++);
    }
  }
  while (out < in) assert_int_equal(item_of(tl_mpsc_pop(&queue))->number, out++);
  assert_null(tl_mpsc_pop(&queue));
}

enum { PRODUCERS = 4, EACH = 400000 / UNIT_SLOWDOWN };

static struct tl_mpsc shared;

static void *produce(void *argument) {
  struct item *items = argument;
  for (uint32_t i = 0; i < EACH; i++) {
    items[i].payload = (uint64_t)items[i].producer << 32 | ~i;
    tl_mpsc_push(&shared, &items[i].node);
    if (i % 4096 == 0) sched_yield();
  }
  return NULL;
}

/* Nothing is lost or doubled, each producer's order is kept. */
static void test_many_producers(void **state) {
  (void)state;
  struct item *items = calloc((size_t)PRODUCERS * EACH, sizeof *items);
  pthread_t threads[PRODUCERS];
  uint32_t next[PRODUCERS] = {0};
  tl_mpsc_init(&shared);
  for (unsigned p = 0; p < PRODUCERS; p++) {
    for (uint32_t i = 0; i < EACH; i++) {
      items[p * EACH + i].producer = p;
      items[p * EACH + i].number = i;
    }
    pthread_create(&threads[p], NULL, produce, items + p * EACH);
  }
  for (size_t n = 0; n < (size_t)PRODUCERS * EACH;) {
    struct tl_mpsc_node *node = tl_mpsc_pop(&shared);
    if (!node) {
      sched_yield();
      continue;
    }
    struct item *item = item_of(node);
    assert_int_equal(item->number, next[item->producer]);
    assert_int_equal(item->payload, (uint64_t)item->producer << 32 | ~item->number);
    next[item->producer]++;
    n++;
  }
  for (unsigned p = 0; p < PRODUCERS; p++) {
    pthread_join(threads[p], NULL);
    assert_int_equal(next[p], EACH);
  }
  assert_null(tl_mpsc_pop(&shared));
  free(items);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_order_of_one_thread),
      cmocka_unit_test(test_many_producers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
