/* SPDX-License-Identifier: MIT */
/* The CUDA backend with a GPU that hangs, and what a reset leaves. */
#include <pthread.h>

#include "cuda_backend_rig.h"

/* A reset gives up both steps, wherever the worker is: before the second is submitted, before one is collected. */
static void test_reset_of_two(void **state) {
  (void)state;
  for (unsigned when = 0; when < 3; when++) {
    start();
    struct tl_error err = {0};
    struct tl_device *device = open_device();
    struct tl_step step = make_step(3, decode);
    assert_int_equal(fake_cuda_ops.submit(device, &step, &err), TL_OK);
    if (when > 0) assert_int_equal(fake_cuda_ops.submit(device, &step, &err), TL_OK);
    if (when > 1) assert_int_equal(fake_cuda_ops.collect(device, work.sampled, &err), TL_OK);
    fake_cuda.hangs = true;
    assert_int_equal(fake_cuda_ops.reset(device, &err), TL_EDEVICE);
    if (when == 0) assert_int_equal(fake_cuda_ops.submit(device, &step, &err), TL_EDEVICE);
    if (when > 0) assert_int_equal(fake_cuda_ops.collect(device, work.sampled, &err), TL_EDEVICE);
    assert_non_null(strstr(err.message, "the step was given up"));
    assert_int_equal(fake_cuda_ops.submit(device, &step, &err), TL_EDEVICE); /* it still runs */
    fake_cuda.hangs = false;
    assert_int_equal(fake_cuda_ops.reset(device, &err), TL_OK);
    assert_int_equal(run_three(device, &err), TL_OK);
    close_device(device);
  }
}

/* What thread blocks of attention, and of draws, count with is zero for the first step, and again after a reset, whatever the step before it left. */
static void test_counters(void **state) {
  (void)state;
  start();
  struct tl_error err = {0};
  struct tl_device *device = open_device();
  const struct cuda_device *d = (const struct cuda_device *)(const void *)device;
  for (unsigned again = 0; again < 2; again++) {
    for (uint32_t i = 0; i < d->limits.n_lanes * d->dims.n_heads; i++) assert_int_equal(d->work.arrived[i], 0);
    for (uint32_t i = 0; i < d->limits.n_drawers; i++) assert_int_equal(d->work.rows_arrived[i], 0);
    for (uint32_t i = 0; i < d->info.multiprocessors / 2 * TL_CUDA_SAMPLE_BINS; i++) assert_int_equal(d->work.bins[i], 0);
    memset(d->work.bins, 5, d->info.multiprocessors / 2 * TL_CUDA_SAMPLE_BINS * sizeof *d->work.bins);
    memset(d->work.arrived, 5, d->limits.n_lanes * d->dims.n_heads * sizeof *d->work.arrived);
    memset(d->work.rows_arrived, 5, d->limits.n_drawers * sizeof *d->work.rows_arrived);
    assert_int_equal(fake_cuda_ops.reset(device, &err), TL_OK);
  }
  close_device(device);
}

/* --- hangs ------------------------------------------------------------------------------------------ */

struct waiting {
  struct tl_device *device;
  int result;
  struct tl_error err;
};

static void *collect(void *argument) {
  struct waiting *w = argument;
  w->result = fake_cuda_ops.collect(w->device, work.sampled, &w->err);
  return NULL;
}

/* The collect of a step that hangs ends with the reset; the device works again only if the step ends. */
static void check_hang(bool ends) {
  start();
  struct waiting w = {.device = open_device()};
  struct tl_step step = make_step(3, decode);
  struct tl_error err = {0};
  pthread_t thread;
  fake_cuda.hangs = true;
  assert_int_equal(fake_cuda_ops.submit(w.device, &step, &err), TL_OK);
  assert_int_equal(pthread_create(&thread, NULL, collect, &w), 0);
  usleep(20000);
  if (ends) fake_cuda.hangs = false; /* the fake would let collect end as well: it may win */
  int r = fake_cuda_ops.reset(w.device, &err);
  pthread_join(thread, NULL);
  if (ends) {
    assert_int_equal(r, TL_OK);
    assert_true(w.result == TL_OK || w.result == TL_EDEVICE);
  } else {
    assert_int_equal(r, TL_EDEVICE);
    assert_non_null(strstr(err.message, "does not end its step"));
    assert_int_equal(w.result, TL_EDEVICE);
    assert_non_null(strstr(w.err.message, "given up"));
    /* the pinned memory may still be read: no step may write to it */
    assert_int_equal(fake_cuda_ops.submit(w.device, &step, &err), TL_EDEVICE);
    assert_non_null(strstr(err.message, "still runs"));
    fake_cuda.hangs = false;
  }
  assert_int_equal(fake_cuda_ops.reset(w.device, &err), TL_OK);
  if (run_three(w.device, &err) < 0) fail_msg("%s", err.message);
  close_device(w.device);
}

static void test_hang(void **state) {
  (void)state;
  check_hang(false);
  check_hang(true);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_reset_of_two), cmocka_unit_test(test_counters), cmocka_unit_test(test_hang),
  };
  return cmocka_run_group_tests(tests, open_model, close_model);
}
