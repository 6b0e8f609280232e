/* SPDX-License-Identifier: MIT */
/* Jobs of several loops over several lanes: each is run once, by a lane, and comes
 * back to its own loop, also when the lanes end meanwhile. */
#include "tokenlane/text_lane.h"

#include <pthread.h>
#include <sched.h>

#include "tokenlane/base/waker.h"
#include "unit.h"

enum { LOOPS = 3, EACH = 20000 / UNIT_SLOWDOWN };

struct job {
  struct tl_text_job job; /* first */
  uint32_t input, output; /* output is written by the lane and read by the loop */
  unsigned n_done;
};

static struct tl_text_lanes *lanes;
static struct tl_waker wakers[LOOPS];
static unsigned n_back[LOOPS]; /* each written by its own loop */
static bool ending;            /* jobs may come back that no lane ran */

static void work(struct tl_text_job *job) {
  struct job *j = (struct job *)(void *)job;
  assert_int_equal(tl_thread_role(), TL_ROLE_LANE);
  for (uint32_t i = 0; i < j->input % 64; i++) tl_cpu_relax();
  j->output = j->input + 1;
}

static void wake(unsigned loop, void *context) {
  assert_ptr_equal(context, wakers);
  tl_waker_notify(&wakers[loop]);
}

static void came_back(struct tl_text_job *job) {
  struct job *j = (struct job *)(void *)job;
  assert_true(j->output == j->input + 1 || (ending && j->output == 0));
  assert_int_equal(j->n_done++, 0);
  n_back[job->loop]++;
}

static void start(unsigned n_lanes) {
  struct tl_error err = {0};
  memset(n_back, 0, sizeof n_back);
  for (unsigned i = 0; i < LOOPS; i++) tl_waker_init(&wakers[i]);
  if (tl_text_lanes_new(n_lanes, LOOPS, wake, wakers, &lanes, &err) < 0) fail_msg("%s", err.message);
}

static struct job *make_jobs(unsigned loop, uint32_t n) {
  struct job *jobs = calloc(n, sizeof *jobs);
  for (uint32_t i = 0; i < n; i++) jobs[i] = (struct job){.job = {.run = work, .loop = loop}, .input = i * LOOPS + loop};
  return jobs;
}

static void *run_loop(void *argument) {
  unsigned loop = (unsigned)(uintptr_t)argument;
  struct job *jobs = make_jobs(loop, EACH);
  for (uint32_t i = 0; i < EACH; i++) {
    tl_text_lanes_submit(lanes, &jobs[i].job);
    if (i % 16 == 0) tl_text_lanes_drain(lanes, loop, came_back);
  }
  while (n_back[loop] < EACH) {
    tl_waker_prepare(&wakers[loop]);
    unsigned before = n_back[loop];
    tl_text_lanes_drain(lanes, loop, came_back);
    if (n_back[loop] > before)
      tl_waker_cancel(&wakers[loop]);
    else
      tl_waker_sleep(&wakers[loop], -1); /* a wake-up that is lost hangs the test */
  }
  free(jobs);
  return NULL;
}

static void test_many_loops(void **state) {
  (void)state;
  for (unsigned n_lanes = 1; n_lanes <= 4; n_lanes += 3) {
    pthread_t threads[LOOPS];
    start(n_lanes);
    for (uintptr_t i = 0; i < LOOPS; i++) assert_int_equal(pthread_create(&threads[i], NULL, run_loop, (void *)i), 0);
    for (unsigned i = 0; i < LOOPS; i++) pthread_join(threads[i], NULL);
    tl_text_lanes_stop(lanes);
    for (unsigned i = 0; i < LOOPS; i++) assert_int_equal(n_back[i], EACH);
    tl_text_lanes_free(lanes);
  }
}

/* All comes back, run or not. */
static void test_the_end(void **state) {
  (void)state;
  start(2);
  struct job *before = make_jobs(1, 500), *late = make_jobs(2, 3);
  for (unsigned i = 0; i < 500; i++) tl_text_lanes_submit(lanes, &before[i].job);
  tl_text_lanes_stop(lanes);
  for (unsigned i = 0; i < 3; i++) tl_text_lanes_submit(lanes, &late[i].job);
  ending = true;
  tl_text_lanes_reap(lanes, came_back);
  ending = false;
  assert_int_equal(n_back[1], 500);
  assert_int_equal(n_back[2], 3);
  tl_text_lanes_free(lanes);
  free(before);
  free(late);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_many_loops), cmocka_unit_test(test_the_end)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
