/* SPDX-License-Identifier: MIT */
/* Conversions between floats of 16 and 32 bits, against numpy and torch
 * (tests/golden/make_model.py) and against the definition: the nearest value,
 * ties to the even one. */
#include <math.h>

#include "tokenlane/model.h"
#include "unit.h"

static uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static uint64_t fnv(uint64_t hash, uint32_t word, int n_bytes) {
  for (int i = 0; i < n_bytes; i++) hash = (hash ^ (word >> 8 * i & 0xff)) * 0x100000001b3u;
  return hash;
}

static uint64_t golden(const char *name) {
  FILE *file = unit_open_golden("model_dtype.txt");
  char line[200], found[40];
  unsigned long long hash = 0;
  while (fgets(line, sizeof line, file))
    if (sscanf(line, "%39s %llx", found, &hash) == 2 && strcmp(found, name) == 0) break;
  fclose(file);
  assert_string_equal(found, name);
  return hash;
}

static void test_all_values_as_numpy_and_torch(void **state) {
  (void)state;
  uint64_t f16 = 0xcbf29ce484222325u, bf16 = f16;
  for (uint32_t i = 0; i < 65536; i++) {
    float a = tl_f16_to_f32((uint16_t)i), b = tl_bf16_to_f32((uint16_t)i);
    f16 = fnv(f16, isnan(a) ? 0 : bits_of(a), 4);
    bf16 = fnv(bf16, isnan(b) ? 0 : bits_of(b), 4);
  }
  assert_true(f16 == golden("f16_to_f32"));
  assert_true(bf16 == golden("bf16_to_f32"));
}

static void test_narrowing_as_numpy_and_torch(void **state) {
  (void)state;
  uint64_t f16 = 0xcbf29ce484222325u, bf16 = f16;
  for (uint64_t bits = 0; bits < (uint64_t)1 << 32; bits += 65521) {
    float value = float_of((uint32_t)bits);
    f16 = fnv(f16, isnan(value) ? 0 : tl_f32_to_f16(value), 2);
    bf16 = fnv(bf16, isnan(value) ? 0 : tl_f32_to_bf16(value), 2);
  }
  assert_true(f16 == golden("f32_to_f16"));
  assert_true(bf16 == golden("f32_to_bf16"));
}

/* sign, exponent, fraction: what the formats are defined to mean. */
static void test_all_values_by_definition(void **state) {
  (void)state;
  for (uint32_t i = 0; i < 65536; i++) {
    double sign = i >> 15 ? -1 : 1;
    uint32_t e = i >> 10 & 31, f = i & 1023;
    double f16 = e == 31 ? (f ? NAN : INFINITY) : e ? ldexp(1024 + f, (int)e - 25) : ldexp(f, -24);
    float got = tl_f16_to_f32((uint16_t)i);
    assert_true(isnan(f16) ? isnan(got) : (double)got == sign * f16);
    assert_int_equal(signbit(got) != 0, i >> 15);
    assert_int_equal(bits_of(tl_bf16_to_f32((uint16_t)i)), i << 16);
    /* and back: every value is its own nearest */
    if (!isnan(got)) assert_int_equal(tl_f32_to_f16(got), i);
    if (!isnan(tl_bf16_to_f32((uint16_t)i))) assert_int_equal(tl_f32_to_bf16(tl_bf16_to_f32((uint16_t)i)), i);
  }
}

/* Between any two neighbours: just below the middle, the middle, just above. */
static void test_ties(void **state) {
  (void)state;
  for (uint32_t i = 0; i < 0x7c00; i++) {
    double low = tl_f16_to_f32((uint16_t)i), high = i == 0x7bff ? 65536 : tl_f16_to_f32((uint16_t)(i + 1));
    float middle = (float)((low + high) / 2); /* exact */
    uint32_t even = i & 1 ? i + 1 : i;
    assert_int_equal(tl_f32_to_f16(middle), even);
    assert_int_equal(tl_f32_to_f16(nextafterf(middle, 0)), i);
    assert_int_equal(tl_f32_to_f16(nextafterf(middle, INFINITY)), i + 1);
    assert_int_equal(tl_f32_to_f16(-middle), even | 0x8000);
  }
  for (uint32_t i = 0; i < 0x7f80; i++) {
    uint32_t middle = i << 16 | 0x8000;
    assert_int_equal(tl_f32_to_bf16(float_of(middle)), i & 1 ? i + 1 : i);
    assert_int_equal(tl_f32_to_bf16(float_of(middle - 1)), i);
    assert_int_equal(tl_f32_to_bf16(float_of(middle + 1)), i + 1);
  }
}

/* Of a byte: every value is its own nearest, ties go to the even one, what is beyond the largest becomes it. */
static void test_bytes(void **state) {
  (void)state;
  for (uint32_t i = 0; i < 256; i++)
    if ((i & 0x7f) != 0x7f) assert_int_equal(tl_f32_to_f8_e4m3(tl_f8_e4m3_to_f32((uint8_t)i)), i);
  for (uint32_t i = 0; i < 0x7e; i++) {
    float middle = (tl_f8_e4m3_to_f32((uint8_t)i) + tl_f8_e4m3_to_f32((uint8_t)(i + 1))) / 2; /* exact */
    uint32_t even = i & 1 ? i + 1 : i;
    assert_int_equal(tl_f32_to_f8_e4m3(middle), even);
    assert_int_equal(tl_f32_to_f8_e4m3(nextafterf(middle, 0)), i);
    assert_int_equal(tl_f32_to_f8_e4m3(nextafterf(middle, INFINITY)), i + 1);
    assert_int_equal(tl_f32_to_f8_e4m3(-middle), even | 0x80);
  }
  const float large[] = {448, 449, 464, 465, 1e10f, INFINITY};
  for (unsigned i = 0; i < UNIT_COUNT(large); i++) {
    assert_int_equal(tl_f32_to_f8_e4m3(large[i]), 0x7e);
    assert_int_equal(tl_f32_to_f8_e4m3(-large[i]), 0xfe);
  }
  assert_int_equal(tl_f32_to_f8_e4m3(NAN), 0x7f);
  assert_int_equal(tl_f32_to_f8_e4m3(-NAN), 0x7f);
}

static void test_nan_and_infinity(void **state) {
  (void)state;
  for (uint32_t low = 1; low < 0x800000; low += low < 0x10000 ? 1 : 4099) {
    for (uint32_t sign = 0; sign < 2; sign++) {
      float nan = float_of(sign << 31 | 0x7f800000 | low);
      assert_true(isnan(tl_f16_to_f32(tl_f32_to_f16(nan))));
      assert_true(isnan(tl_bf16_to_f32(tl_f32_to_bf16(nan))));
    }
  }
  assert_int_equal(tl_f32_to_f16(INFINITY), 0x7c00);
  assert_int_equal(tl_f32_to_f16(-INFINITY), 0xfc00);
  assert_int_equal(tl_f32_to_bf16(INFINITY), 0x7f80);
  assert_int_equal(tl_f32_to_bf16(-INFINITY), 0xff80);
  assert_int_equal(tl_f32_to_f16(3.4e38f), 0x7c00);
  assert_int_equal(tl_f32_to_f16(-0.0f), 0x8000);
}

static void test_arrays(void **state) {
  (void)state;
  static const struct {
    enum tl_dtype dtype;
    const char *name;
    size_t bytes;
  } types[] = {{TL_DTYPE_F32, "F32", 4}, {TL_DTYPE_F16, "F16", 2}, {TL_DTYPE_BF16, "BF16", 2}};
  for (size_t t = 0; t < UNIT_COUNT(types); t++) {
    assert_string_equal(tl_dtype_name(types[t].dtype), types[t].name);
    assert_int_equal(tl_dtype_bytes(types[t].dtype), types[t].bytes);
    for (size_t shift = 0; shift < 4; shift++) { /* any alignment */
      enum { COUNT = 37 };
      char *source = malloc(shift + COUNT * types[t].bytes);
      float *got = malloc(COUNT * sizeof *got);
      for (size_t i = 0; i < COUNT; i++) {
        float value = (float)i - 10;
        uint16_t narrow = types[t].dtype == TL_DTYPE_F16 ? tl_f32_to_f16(value) : tl_f32_to_bf16(value);
        memcpy(source + shift + i * types[t].bytes, types[t].bytes == 4 ? (void *)&value : (void *)&narrow, types[t].bytes);
      }
      tl_dtype_to_f32(types[t].dtype, source + shift, got, COUNT);
      for (size_t i = 0; i < COUNT; i++) assert_true(got[i] == (float)i - 10);
      tl_dtype_to_f32(types[t].dtype, source, got, 0);
      free(source);
      free(got);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_all_values_as_numpy_and_torch),
      cmocka_unit_test(test_narrowing_as_numpy_and_torch),
      cmocka_unit_test(test_all_values_by_definition),
      cmocka_unit_test(test_ties),
      cmocka_unit_test(test_bytes), cmocka_unit_test(test_nan_and_infinity),
      cmocka_unit_test(test_arrays),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
