/* SPDX-License-Identifier: MIT */
/* Floats as text: any reader gets the same float back, and most texts are those of "%.9g"; base64 against known texts. */
#include "api/vectors.h"
#include "tokenlane/base/clock.h"
#include "unit.h"

static float of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static void check(float value) {
  char text[API_FLOAT_BYTES + 1], *end;
  size_t n = api_float_text(value, text);
  assert_in_range(n, 1, API_FLOAT_BYTES);
  text[n] = 0;
  float back = strtof(text, &end);
  if (*end || back != value) fail_msg("%.9g became %s", (double)value, text);
  json_t *json = json_loadb(text, n, JSON_DECODE_ANY, NULL);
  if (!json || !json_is_number(json)) fail_msg("%s is no number of JSON", text);
  json_decref(json);
}

static void test_comes_back(void **state) {
  (void)state;
  static const float some[] = {0,    -0.0f, 1,     -1,    0.1f, 9.99999999f, 99999999.0f, 999999999.0f, 1e9f, 123456789.0f, 16777216, 0.5f,
                               1e-5f, 9.9999999e-6f, 1e-6f, 1e-10f, 1e-13f, 9e-14f, 1e-38f, 1e-45f, 3.4028235e38f, 0.000123f, 100, 1234.5f};
  for (size_t i = 0; i < UNIT_COUNT(some); i++) check(some[i]);
  uint64_t random = 9;
  for (unsigned i = 0; i < 300000 / UNIT_SLOWDOWN; i++) { /* any bits but infinities and NaN */
    uint32_t bits = (uint32_t)unit_random(&random);
    if ((bits >> 23 & 255) != 255) check(of_bits(bits));
  }
  for (unsigned i = 0; i < 300000 / UNIT_SLOWDOWN; i++) check((float)unit_random(&random) * 0x1p-63f - 1); /* as in embeddings */
  for (int e = -45; e <= 38; e++) /* beside each power of ten */
    for (int k = -3; k <= 3; k++) {
      float power = strtof((char[]){'1', 'e', e < 0 ? '-' : '+', (char)('0' + abs(e) / 10), (char)('0' + abs(e) % 10), 0}, NULL);
      uint32_t bits;
      memcpy(&bits, &power, sizeof bits);
      if ((int64_t)bits + k > 0) check(of_bits(bits + (uint32_t)k));
    }
}

/* Where both round to the same ninth digit, the text is printf's; elsewhere that digit is one apart. */
static void test_is_as_printf(void **state) {
  (void)state;
  uint64_t random = 10;
  unsigned same = 0, n = 100000 / UNIT_SLOWDOWN;
  for (unsigned i = 0; i < n; i++) {
    float value = (float)unit_random(&random) * 0x1p-63f - 1;
    char text[API_FLOAT_BYTES], expected[32];
    size_t length = api_float_text(value, text);
    snprintf(expected, sizeof expected, "%.9g", (double)value);
    same += length == strlen(expected) && memcmp(text, expected, length) == 0;
  }
  assert_in_range(same, n - n / 1000, n);
}

/* A ratio, since it is why this is here: many times as fast as printf. */
static void test_is_quick(void **state) {
  (void)state;
  enum { N = 384, ROUNDS = 300 };
  float values[N];
  uint64_t random = 11;
  for (unsigned i = 0; i < N; i++) values[i] = (float)unit_random(&random) * 0x1p-63f - 1;
  char text[32];
  volatile size_t sum = 0; /* so that nothing is left out */
  int64_t own = INT64_MAX, printed = INT64_MAX;
  for (unsigned r = 0; r < ROUNDS; r++) {
    int64_t began = tl_now_ns();
    for (unsigned i = 0; i < N; i++) sum += api_float_text(values[i], text);
    int64_t middle = tl_now_ns();
    for (unsigned i = 0; i < N; i++) sum += (size_t)snprintf(text, sizeof text, "%.9g", (double)values[i]);
    int64_t end = tl_now_ns();
    if (middle - began < own) own = middle - began;
    if (end - middle < printed) printed = end - middle;
  }
  printf("api_float_text %.1f ns, %%.9g %.1f ns a number\n", (double)own / N, (double)printed / N);
  if (UNIT_SLOWDOWN == 1) assert_true(own * 3 < printed);
}

static void test_base64(void **state) {
  (void)state;
  static const char *const cases[][2] = {{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"}}; /* RFC 4648 */
  for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_buffer out;
    tl_buffer_init(&out, 0);
    tl_buffer_putc(&out, '>');
    api_base64(&out, cases[i][0], strlen(cases[i][0]));
    assert_string_equal(tl_buffer_string(&out) + 1, cases[i][1]);
    tl_buffer_done(&out);
  }
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  api_base64(&out, "\xff\xfe\xfd\x00\x80", 5);
  assert_string_equal(tl_buffer_string(&out), "//79AIA=");
  tl_buffer_done(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_comes_back), cmocka_unit_test(test_is_as_printf), cmocka_unit_test(test_is_quick),
                                     cmocka_unit_test(test_base64)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
