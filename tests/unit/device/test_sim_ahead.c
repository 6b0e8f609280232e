/* SPDX-License-Identifier: MIT */
/* Steps of a simulated device that came while another was under way. */
#include <time.h>

#include "sim_rig.h"

/* A step that came behind another begins when that ends, but not before it came. */
static void test_step_behind_another(void **state) {
  (void)state;
  struct rig rig = new_rig((struct tl_sim_options){.base_ns = TL_MS(20)});
  struct tl_device *device = (struct tl_device *)(void *)rig.d;
  struct text a = new_text(0, 10), *of_a[] = {&a};
  struct tl_sampled sampled;
  for (unsigned late = 0; late < 2; late++) {
    struct tl_step first = make_step(of_a, 1, 1);
    int64_t began_ns = tl_now_ns();
    assert_int_equal(sim_device_ops.submit(device, &first, &rig.err), TL_OK);
    if (late) nanosleep(&(struct timespec){.tv_nsec = TL_MS(60)}, NULL);
    int64_t queued_ns = tl_now_ns();
    assert_int_equal(sim_device_ops.submit(device, &first, &rig.err), TL_OK);
    assert_int_equal(sim_device_ops.collect(device, &sampled, &rig.err), TL_OK);
    assert_int_equal(sim_device_ops.collect(device, &sampled, &rig.err), TL_OK);
    assert_true(tl_now_ns() >= (late ? queued_ns + TL_MS(20) : began_ns + TL_MS(40)));
  }
  close_rig(&rig);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_step_behind_another)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
