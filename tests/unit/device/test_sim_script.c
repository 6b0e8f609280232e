/* SPDX-License-Identifier: MIT */
/* The texts of sim.faults and sim.override. */
#include "tokenlane/base/clock.h"
#include "tokenlane/sim.h"
#include "unit.h"

static void test_fault_texts(void **state) {
  (void)state;
  static const struct {
    const char *text;
    struct tl_sim_fault fault;
  } good[] = {
      {"1@500:error", {1, 500, TL_SIM_ERROR, 0, 0, 0, 1}},
      {"0@100:hang", {0, 100, TL_SIM_HANG, 0, 0, 0, 1}},
      {"*@100:hang:for=250", {TL_SIM_ANY, 100, TL_SIM_HANG, 0, 0, TL_MS(250), 1}},
      {"2@300:slow*8", {2, 300, TL_SIM_SLOW, 8, 0, 0, 1}},
      {"2@300:slow*1.5:steps=10:recover=reset", {2, 300, TL_SIM_SLOW, 1.5, 10, 0, 1}},
      {"1@50:oom:steps=3", {1, 50, TL_SIM_OOM, 0, 3, 0, 1}},
      {"1@load:oom", {1, 0, TL_SIM_OOM, 0, 0, 0, 1}},
      {"1@load:error:recover=never", {1, 0, TL_SIM_ERROR, 0, 0, 0, TL_SIM_NEVER}},
      {"4095@1:corrupt:recover=7", {4095, 1, TL_SIM_CORRUPT, 0, 0, 0, 7}},
      {"1@7:lost", {1, 7, TL_SIM_LOST, 0, 0, 0, 1}},
      {"1@7:hot:recover=2", {1, 7, TL_SIM_HOT, 0, 0, 0, 2}},
      {"3@12:die:recover=2", {3, 12, TL_SIM_DIE, 0, 0, 0, 2}},
  };
  for (size_t i = 0; i < UNIT_COUNT(good); i++) {
    struct tl_sim_fault f;
    struct tl_error err;
    if (tl_sim_parse_fault(good[i].text, &f, &err) < 0) fail_msg("%s", err.message);
    const struct tl_sim_fault *g = &good[i].fault;
    assert_true(f.device == g->device && f.step == g->step && f.kind == g->kind && f.factor == g->factor &&
                f.n_steps == g->n_steps && f.for_ns == g->for_ns && f.recover == g->recover);
  }
  static const char *const bad[] = {"", "x", "-1@5:error", "1", "1@", "1@0:error", "1@x:error", "1@5", "1@5:", "1@5:fire",
                                    "1@5:errors", "1@5:slow", "1@5:slow*", "1@5:slow*0", "1@5:slow*x", "1@5:slow*nan",
                                    "1@5:slow*1e9", "1@5:die:for=5", "1@load:die", "1@5:error:for=5", "1@5:hang:for=", "1@5:hang:for=0", "1@5:hang:steps=2",
                                    "1@5:oom:recover=never", "1@5:error:recover=", "1@5:error:recover=0", "1@load:hang",
                                    "1@5:error ", "1@99999999999999999999:error", "4096@1:error", "1@5:oom:steps=0"};
  for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
    struct tl_sim_fault f;
    struct tl_error err;
    if (tl_sim_parse_fault(bad[i], &f, &err) != TL_EINVAL) fail_msg("'%s' was taken", bad[i]);
    assert_string_equal(err.field, "sim.faults");
    assert_ptr_equal(strstr(err.message, "sim.faults: '"), err.message);
    assert_non_null(strstr(err.message, "': expected "));
  }
}

static void test_override_texts(void **state) {
  (void)state;
  struct tl_sim_options o = {.base_ns = 1};
  struct tl_error err;
  assert_int_equal(tl_sim_override("3:base_us=9:kv_blocks=7", 2, &o, &err), TL_OK);
  assert_int_equal(o.base_ns, 1);
  assert_int_equal(tl_sim_override("3:base_us=9:per_token_ns=5:per_block_ns=6:kv_blocks=7", 3, &o, &err), TL_OK);
  assert_true(o.base_ns == 9000 && o.per_token_ns == 5 && o.per_block_ns == 6 && o.n_kv_blocks == 7);
  static const char *const bad[] = {"", "3", "3:", "x:base_us=1", "3:base=1", "3:base_us=", "3:base_us=1,", "3:base_us=-1",
                                    "3:base_us=60000001", ":base_us=1"};
  for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
    if (tl_sim_override(bad[i], 3, &o, &err) != TL_EINVAL) fail_msg("'%s' was taken", bad[i]);
    assert_string_equal(err.field, "sim.override");
  }
  assert_int_equal(o.base_ns, 9000);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_fault_texts), cmocka_unit_test(test_override_texts)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
