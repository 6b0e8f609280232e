/* SPDX-License-Identifier: MIT */
/* How open files are counted where the system does not say; test_metrics.py has all else. */
#include <fcntl.h>
#include <math.h>

#include "daemon/daemon_private.h"
#include "unit.h"

static void test_entries(void **state) {
  (void)state;
  char folder[64], path[100];
  unit_make_folder(folder);
  assert_true(process_count_entries(folder) == 0);
  unit_write_file(folder, "0", "", 0);
  unit_write_file(folder, "17", "", 0);
  assert_true(process_count_entries(folder) == 2);
  for (unsigned i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "%s/%s", folder, i ? "17" : "0");
    assert_int_equal(unlink(path), 0);
  }
  assert_int_equal(rmdir(folder), 0);
  assert_true(isnan(process_count_entries(folder)));
}

static void test_open_files(void **state) {
  (void)state;
  double before = process_count_entries("/proc/self/fd");
  int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  assert_true(fd >= 0 && process_count_entries("/proc/self/fd") == before + 1);
  close(fd);
  assert_true(process_count_entries("/proc/self/fd") == before);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_entries),
      cmocka_unit_test(test_open_files),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
