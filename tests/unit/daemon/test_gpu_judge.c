/* SPDX-License-Identifier: MIT */
/* What figures and Xids mean, with a clock of the test's own. */
#include "daemon/gpu_judge.h"

#include "tokenlane/base/clock.h"
#include "unit.h"

struct rig {
  struct gpu_judge j;
  int64_t f[GPU_FIGURES];
};

static void begin(struct rig *rig) {
  *rig = (struct rig){.j = {.fatal = false}};
  for (unsigned i = 0; i < GPU_FIGURES; i++) rig->f[i] = GPU_UNKNOWN;
}

static enum tl_device_health look(struct rig *rig, double at_s) {
  return gpu_judge_look(&rig->j, rig->f, (int64_t)(at_s * 1e9));
}

static void test_xids(void **state) {
  (void)state;
  static const uint64_t app[] = {13, 31, 43, 45, 68, 94, 109}, fatal[] = {48, 64, 74, 79, 95, 119, 120, 140},
                        other[] = {0, 8, 32, 63, 92, 154, 1000, UINT64_C(0x10000004f)};
  struct rig rig;
  for (size_t i = 0; i < UNIT_COUNT(app); i++) {
    begin(&rig);
    assert_int_equal(gpu_classify_xid(app[i]), GPU_XID_APP);
    gpu_judge_xid(&rig.j, app[i]);
    assert_int_equal(look(&rig, 1), TL_DEVICE_WELL);
  }
  for (size_t i = 0; i < UNIT_COUNT(fatal); i++) {
    begin(&rig);
    assert_int_equal(gpu_classify_xid(fatal[i]), GPU_XID_FATAL);
    gpu_judge_xid(&rig.j, fatal[i]);
    assert_int_equal(look(&rig, 1), TL_DEVICE_FAILED);
    assert_int_equal(look(&rig, 9999), TL_DEVICE_FAILED); /* time does not mend it */
    gpu_judge_mended(&rig.j);
    assert_int_equal(look(&rig, 10000), TL_DEVICE_WELL);
  }
  for (size_t i = 0; i < UNIT_COUNT(other); i++) assert_int_equal(gpu_classify_xid(other[i]), GPU_XID_OTHER);
}

/* The driver asks for a reset and, after it, for nothing: that is the end of it. */
static void test_recovery(void **state) {
  (void)state;
  struct rig rig;
  begin(&rig);
  rig.f[GPU_RECOVERY_ACTION] = 0;
  gpu_judge_xid(&rig.j, 79);
  assert_int_equal(look(&rig, 1), TL_DEVICE_FAILED);
  assert_int_equal(look(&rig, 2), TL_DEVICE_FAILED); /* it has not asked yet */
  rig.f[GPU_RECOVERY_ACTION] = 1;
  assert_int_equal(look(&rig, 3), TL_DEVICE_FAILED);
  rig.f[GPU_RECOVERY_ACTION] = GPU_UNKNOWN; /* in the middle of the reset */
  assert_int_equal(look(&rig, 4), TL_DEVICE_FAILED);
  rig.f[GPU_RECOVERY_ACTION] = 0;
  assert_int_equal(look(&rig, 5), TL_DEVICE_WELL);
  rig.f[GPU_ROWS_FAILED] = 1;
  assert_int_equal(look(&rig, 6), TL_DEVICE_FAILED);
}

static void test_ecc(void **state) {
  (void)state;
  struct rig rig;
  begin(&rig);
  rig.f[GPU_ECC_UNCORRECTED] = 3; /* from before */
  assert_int_equal(look(&rig, 1), TL_DEVICE_WELL);
  rig.f[GPU_ECC_CORRECTED] = 1000000;
  assert_int_equal(look(&rig, 2), TL_DEVICE_WELL);
  rig.f[GPU_ECC_UNCORRECTED] = GPU_UNKNOWN;
  assert_int_equal(look(&rig, 3), TL_DEVICE_WELL);
  rig.f[GPU_ECC_UNCORRECTED] = 4;
  assert_int_equal(look(&rig, 4), TL_DEVICE_FAILED);
  assert_int_equal(look(&rig, 5), TL_DEVICE_FAILED);
  begin(&rig);
  gpu_judge_lost(&rig.j);
  assert_int_equal(look(&rig, 1), TL_DEVICE_FAILED);
}

static void test_impaired(void **state) {
  (void)state;
  struct rig rig;
  begin(&rig);
  rig.f[GPU_REASONS] = 0x4; /* the power limit that somebody set is no illness */
  look(&rig, 1);
  assert_int_equal(look(&rig, 100), TL_DEVICE_WELL);
  rig.f[GPU_REASONS] = 0x44;
  assert_int_equal(look(&rig, 101), TL_DEVICE_WELL);
  assert_int_equal(look(&rig, 105.9), TL_DEVICE_WELL);
  assert_int_equal(look(&rig, 106), TL_DEVICE_IMPAIRED);
  rig.f[GPU_REASONS] = 0;
  assert_int_equal(look(&rig, 107), TL_DEVICE_WELL);
  rig.f[GPU_PCIE_GENERATION] = 1;
  rig.f[GPU_PCIE_MAX_GENERATION] = 5;
  rig.f[GPU_BUSY] = 3; /* it saves power */
  look(&rig, 108);
  assert_int_equal(look(&rig, 120), TL_DEVICE_WELL);
  rig.f[GPU_BUSY] = 90;
  assert_int_equal(look(&rig, 121), TL_DEVICE_WELL);
  assert_int_equal(look(&rig, 126), TL_DEVICE_IMPAIRED);
  rig.f[GPU_PCIE_GENERATION] = 5;
  rig.f[GPU_PCIE_WIDTH] = 8;
  rig.f[GPU_PCIE_MAX_WIDTH] = 16;
  assert_int_equal(look(&rig, 127), TL_DEVICE_IMPAIRED);
  rig.f[GPU_PCIE_WIDTH] = 16;
  assert_int_equal(look(&rig, 128), TL_DEVICE_WELL);
  rig.f[GPU_NVLINK_CRC_FLIT] = 500; /* of how long, nobody knows: 500 in two seconds */
  assert_int_equal(look(&rig, 130), TL_DEVICE_IMPAIRED);
  rig.f[GPU_NVLINK_CRC_DATA] = 99;
  assert_int_equal(look(&rig, 131), TL_DEVICE_WELL);
  rig.f[GPU_NVLINK_CRC_DATA] = 199;
  assert_int_equal(look(&rig, 132), TL_DEVICE_IMPAIRED);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_xids), cmocka_unit_test(test_recovery), cmocka_unit_test(test_ecc),
                                     cmocka_unit_test(test_impaired)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
