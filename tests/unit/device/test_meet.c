/* SPDX-License-Identifier: MIT */
/* Where ranks meet: sums over threads as the CPU's ranks make them, and meetings that are aborted at any moment. */
#include <pthread.h>

#include "device/meet.h"
#include "tokenlane/base/hash.h"
#include "unit.h"

enum { MOST = 5, VALUES = 40, ROUNDS = 20000 / UNIT_SLOWDOWN };

static struct device_meet meet;
static float parts[MOST][2][VALUES]; /* plain: published by the meeting */
static unsigned n_ranks;
static _Atomic unsigned n_wrong, n_lost;

static float value_of(unsigned rank, unsigned round, unsigned i) {
  return (float)(tl_hash_u64(rank * 1000003u + round * 1009u + i) % 65536) / 256;
}

static void *sum_rounds(void *argument) {
  unsigned rank = (unsigned)(uintptr_t)argument;
  for (unsigned round = 0; round < ROUNDS; round++) {
    float *mine = parts[rank][round % 2];
    for (unsigned i = 0; i < VALUES; i++) mine[i] = value_of(rank, round, i);
    bool met = device_meet_wait(&meet);
    for (unsigned i = 0; i < VALUES; i++) {
      float sum = 0, expected = 0;
      for (unsigned r = 0; r < n_ranks; r++) {
        sum += parts[r][round % 2][i];
        expected += value_of(r, round, i);
      }
      if (!met || sum != expected) atomic_fetch_add(&n_wrong, 1);
    }
  }
  return NULL;
}

static void run_ranks(void *(*run)(void *), pthread_t threads[MOST]) {
  for (unsigned i = 0; i < n_ranks; i++) pthread_create(&threads[i], NULL, run, (void *)(uintptr_t)i);
}

static void test_sums(void **state) {
  (void)state;
  pthread_t threads[MOST];
  for (n_ranks = 1; n_ranks <= MOST; n_ranks++) {
    device_meet_init(&meet, n_ranks, n_ranks % 2 ? 200 : 0);
    run_ranks(sum_rounds, threads);
    for (unsigned i = 0; i < n_ranks; i++) pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&n_wrong), 0);
  }
}

/* Until it is aborted. */
static void *meet_for_ever(void *argument) {
  (void)argument;
  while (device_meet_wait(&meet)) continue;
  if (device_meet_wait(&meet)) atomic_fetch_add(&n_wrong, 1);
  atomic_fetch_add(&n_lost, 1);
  return NULL;
}

static void test_aborts(void **state) {
  (void)state;
  uint64_t random = 5;
  pthread_t threads[MOST];
  n_ranks = 3;
  device_meet_init(&meet, n_ranks, 50);
  for (unsigned cycle = 0; cycle < 300 / UNIT_SLOWDOWN; cycle++) {
    atomic_store(&n_lost, 0);
    assert_false(device_meet_is_aborted(&meet));
    unsigned missing = cycle % 3 == 0;
    n_ranks = 3 - missing; /* without it nobody gets through */
    run_ranks(meet_for_ever, threads);
    usleep(unit_below(&random, 300));
    device_meet_abort(&meet);
    if (cycle % 2) device_meet_abort(&meet); /* also by a second one */
    for (unsigned i = 0; i < n_ranks; i++) pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&n_lost), n_ranks);
    assert_true(device_meet_is_aborted(&meet));
    device_meet_restore(&meet);
  }
  assert_int_equal(atomic_load(&n_wrong), 0);
  n_ranks = 3;
  run_ranks(sum_rounds, threads);
  for (unsigned i = 0; i < n_ranks; i++) pthread_join(threads[i], NULL);
  assert_int_equal(atomic_load(&n_wrong), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_sums), cmocka_unit_test(test_aborts)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
