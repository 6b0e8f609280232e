/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/hash.h"
#include "unit.h"

/* hash_siphash13.txt: CPython's hash of bytes (tests/golden/make_hash.py). */
static void test_siphash_against_cpython(void **state) {
  (void)state;
  unsigned char bytes[64];
  for (unsigned i = 0; i < 64; i++) bytes[i] = (unsigned char)i;
  FILE *file = unit_open_golden("hash_siphash13.txt");
  char line[200];
  unsigned n = 0;
  while (fgets(line, sizeof line, file)) {
    if (line[0] == '#') continue;
    unsigned long long key0, key1, length, expected;
    assert_int_equal(sscanf(line, "%llu %llu %llu %llu", &key0, &key1, &length, &expected), 4);
    for (unsigned shift = 0; shift < 8; shift++) { /* at every alignment, up to the end of the memory */
      unsigned char *copy = malloc(length + shift + 1);
      memcpy(copy + shift + 1, bytes, length);
      if (tl_hash_bytes(copy + shift + 1, length, key0, key1) != expected) fail_msg("%s", line);
      free(copy);
    }
    n++;
  }
  fclose(file);
  assert_int_equal(n, 1 + 4 * 63);
}

static void test_every_byte_counts(void **state) {
  (void)state;
  char text[65] = {0};
  for (size_t length = 1; length <= 64; length++)
    for (size_t at = 0; at < length; at++) {
      uint64_t before = tl_hash_bytes(text, length, 1, 2);
      text[at] = 1;
      assert_true(before != tl_hash_bytes(text, length, 1, 2));
      text[at] = 0;
    }
  assert_true(tl_hash_bytes("a", 1, 0, 0) != tl_hash_bytes("a\0", 2, 0, 0));
  assert_true(tl_hash_bytes("a", 1, 0, 0) != tl_hash_bytes("a", 1, 1, 0));
  assert_true(tl_hash_bytes("a", 1, 0, 0) != tl_hash_bytes("a", 1, 0, 1));
}

/* The outputs of Vigna's splitmix64 with seed 1234567, as published with
 * Rosetta Code's "Pseudo-random numbers/Splitmix64": next() adds the increment
 * first, so the n-th output is the hash of seed + (n-1) * increment. */
static void test_splitmix(void **state) {
  (void)state;
  static const uint64_t expected[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u,
                                      4593380528125082431u, 16408922859458223821u};
  for (unsigned i = 0; i < UNIT_COUNT(expected); i++)
    assert_true(tl_hash_u64(1234567 + i * 0x9e3779b97f4a7c15u) == expected[i]);
}

static void test_philox(void **state) {
  (void)state;
  /* Random123's known answer: counter 0, key 0 begins with 6627e8d5 */
  assert_true(tl_random_uniform(0, 0) == (float)(0x6627e8d5 >> 8) / 16777216.0f);
  FILE *file = unit_open_golden("hash_philox.txt");
  char line[200];
  unsigned n = 0;
  while (fgets(line, sizeof line, file)) {
    if (line[0] == '#') continue;
    unsigned long long seed, position;
    unsigned word;
    assert_int_equal(sscanf(line, "%llu %llu %u", &seed, &position, &word), 3);
    if (tl_random_uniform(seed, position) != (float)(word >> 8) / 16777216.0f) fail_msg("%s", line);
    n++;
  }
  fclose(file);
  assert_int_equal(n, 121);
}

/* In [0, 1), and spread: mean and variance of a uniform number within 5 sigma. */
static void test_uniform(void **state) {
  (void)state;
  enum { COUNT = 200000 };
  double sum = 0, squares = 0;
  for (uint64_t i = 0; i < COUNT; i++) {
    float u = tl_random_uniform(i % 17, i);
    assert_true(u >= 0 && u < 1);
    sum += u;
    squares += (double)u * u;
  }
  double mean = sum / COUNT, variance = squares / COUNT - mean * mean;
  assert_true(mean > 0.5 - 5 * 0.000646 && mean < 0.5 + 5 * 0.000646);
  assert_true(variance > 1 / 12.0 - 0.001 && variance < 1 / 12.0 + 0.001);
}

static void test_seed(void **state) {
  (void)state;
  uint64_t seeds[100];
  for (unsigned i = 0; i < 100; i++) {
    seeds[i] = tl_random_seed();
    for (unsigned k = 0; k < i; k++) assert_true(seeds[i] != seeds[k]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_siphash_against_cpython), cmocka_unit_test(test_every_byte_counts),
      cmocka_unit_test(test_splitmix),                cmocka_unit_test(test_philox),
      cmocka_unit_test(test_uniform),                 cmocka_unit_test(test_seed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
