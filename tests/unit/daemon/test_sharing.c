/* SPDX-License-Identifier: MIT */
#include "daemon/sharing.h"

#define UNIT_FILE "tokenlane.json"
#include "one_file.h"

/* Two models with these devices and this share of a GPU's memory (0: not said). */
static void load(struct tl_config *c, const char *one, int one_percent, const char *two, int two_percent) {
  char text[1000];
  int n = snprintf(text, sizeof text, "{\"models\": [{\"path\": \"a\", \"devices\": [%s]", one);
  if (one_percent) n += snprintf(text + n, sizeof text - n, ", \"device\": {\"memory_percent\": %d}", one_percent);
  n += snprintf(text + n, sizeof text - n, "}, {\"path\": \"b\", \"devices\": [%s]", two);
  if (two_percent) n += snprintf(text + n, sizeof text - n, ", \"device\": {\"memory_percent\": %d}", two_percent);
  n += snprintf(text + n, sizeof text - n, "}]}");
  unit_write_file(folder, "tokenlane.json", text, (size_t)n);
  assert_int_equal(tl_config_init(c), TL_OK);
  assert_int_equal(tl_config_load(c, path, NULL), TL_OK);
  assert_int_equal(tl_config_resolve(c, NULL), TL_OK);
}

static void test_who_may_share(void **state) {
  (void)state;
  static const struct {
    const char *one, *two;
    int one_percent, two_percent;
    const char *message; /* NULL: they may */
  } cases[] = {
      {"\"cpu:0\", \"cpu:1\"", "\"cpu:0\"", 0, 0, NULL},
      {"\"cuda:0\"", "\"cuda:1\"", 0, 0, NULL},
      {"\"cuda:0\"", "\"cuda:0\"", 40, 60, NULL},
      {"\"cuda:0\"", "\"cuda:0\"", 0, 0,
       "models[1].device.memory_percent: expected at most 100 for all models on cuda:0 together, got 180"},
      {"\"cuda:1\", \"cuda:0\"", "\"cuda:2\", \"cuda:0\"", 50, 51,
       "models[1].device.memory_percent: expected at most 100 for all models on cuda:0 together, got 101"},
      {"\"sim:0\"", "\"sim:1\"", 0, 0, NULL},
      {"\"sim:0\", \"sim:1\"", "\"cpu:0\", \"sim:1\"", 10, 10,
       "models[1].devices: expected devices of its own, got sim:1, which is models[0]'s"},
  };
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_config c;
    struct tl_error err = {0};
    load(&c, cases[i].one, cases[i].one_percent, cases[i].two, cases[i].two_percent);
    assert_int_equal(sharing_check(&c, &err), cases[i].message ? TL_EINVAL : TL_OK);
    if (cases[i].message) assert_string_equal(err.message, cases[i].message);
    tl_config_done(&c);
  }
}

/* Only a GPU that both have changes how its memory is counted. */
static void test_shared_gpus(void **state) {
  (void)state;
  struct tl_config c;
  load(&c, "\"cuda:0\", \"cuda:1\"", 40, "\"cuda:1\"", 40);
  assert_true(sharing_gpu(&c, &c.models[0]) && sharing_gpu(&c, &c.models[1]));
  tl_config_done(&c);
  load(&c, "\"cuda:0\", \"cpu:0\"", 0, "\"cuda:1\", \"cpu:0\"", 0);
  assert_false(sharing_gpu(&c, &c.models[0]) || sharing_gpu(&c, &c.models[1]));
  assert_int_equal(sharing_cpu_devices(&c.models[0]), 1);
  tl_config_done(&c);
}

/* One list of numbers has a bit for each replica. */
static void test_replicas_of_all(void **state) {
  (void)state;
  struct tl_config c;
  struct tl_error err = {0};
  char devices[2][500];
  for (unsigned m = 0; m < 2; m++) {
    size_t n = 0;
    for (unsigned i = 0; i < 33; i++)
      n += (size_t)snprintf(devices[m] + n, sizeof devices[m] - n, "%s\"sim:%u\"", i ? "," : "", m * 33 + i);
  }
  load(&c, devices[0], 0, devices[1], 0);
  assert_int_equal(sharing_check(&c, &err), TL_ELIMIT);
  assert_string_equal(err.message, "models: expected at most 64 replicas of all models together, got 66");
  tl_config_done(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_who_may_share),
      cmocka_unit_test(test_shared_gpus),
      cmocka_unit_test(test_replicas_of_all),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
