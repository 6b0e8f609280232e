/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/arena.h"
#include "unit.h"

static bool is_zero(const char *bytes, size_t length) {
  for (size_t i = 0; i < length; i++)
    if (bytes[i]) return false;
  return true;
}

/* Allocations of all sizes are zeroed, aligned, and nobody else's. */
static void test_allocations_do_not_meet(void **state) {
  (void)state;
  enum { COUNT = 3000 };
  struct tl_arena arena;
  tl_arena_init(&arena, 0);
  for (int round = 0; round < 2; round++) { /* and once more after done */
    char *at[COUNT];
    size_t size[COUNT], asked = 0;
    uint64_t random = 42;
    for (unsigned i = 0; i < COUNT; i++) {
      size[i] = unit_below(&random, i % 100 ? 300 : 30000);
      at[i] = tl_arena_alloc(&arena, size[i]);
      assert_non_null(at[i]);
      assert_int_equal((uintptr_t)at[i] % 16, 0);
      assert_true(is_zero(at[i], size[i]));
      memset(at[i], (int)(i % 255 + 1), size[i]);
      asked += size[i];
      assert_true(arena.used_bytes >= asked && arena.used_bytes <= asked + 16 * (i + 1));
    }
    for (unsigned i = 0; i < COUNT; i++)
      for (size_t k = 0; k < size[i]; k++) assert_int_equal((unsigned char)at[i][k], i % 255 + 1);
    tl_arena_done(&arena);
    assert_int_equal(arena.used_bytes, 0);
  }
  tl_arena_done(&arena);
}

static void test_large(void **state) {
  (void)state;
  struct tl_arena arena;
  tl_arena_init(&arena, 0);
  size_t size = 5 << 20;
  char *small = tl_arena_alloc(&arena, 1), *large = tl_arena_alloc(&arena, size), *after = tl_arena_alloc(&arena, 1);
  assert_true(small && large && after);
  assert_true(is_zero(large, size));
  memset(large, 1, size);
  assert_true(*small == 0 && *after == 0);
  tl_arena_done(&arena);
}

static void test_limit(void **state) {
  (void)state;
  struct tl_arena arena;
  tl_arena_init(&arena, 1000);
  assert_null(tl_arena_alloc(&arena, 1001));
  assert_non_null(tl_arena_alloc(&arena, 500));
  assert_null(tl_arena_alloc(&arena, 600));
  assert_non_null(tl_arena_alloc(&arena, 400)); /* a refusal takes nothing */
  tl_arena_done(&arena);
  assert_non_null(tl_arena_alloc(&arena, 900)); /* the limit stays, what was used does not */
  assert_null(tl_arena_alloc(&arena, 200));
  tl_arena_done(&arena);
}

static void test_sizes_that_overflow(void **state) {
  (void)state;
  struct tl_arena arena;
  tl_arena_init(&arena, 0);
  for (size_t below = 0; below <= 30; below++) assert_null(tl_arena_alloc(&arena, SIZE_MAX - below)); /* empty */
  assert_non_null(tl_arena_alloc(&arena, 100));
  for (size_t below = 0; below <= 30; below++) assert_null(tl_arena_alloc(&arena, SIZE_MAX - below));
  assert_null(tl_arena_array(&arena, SIZE_MAX / 2, 3));
  assert_null(tl_arena_array(&arena, (size_t)1 << 33, (size_t)1 << 33));
  assert_null(tl_arena_copy(&arena, "", SIZE_MAX));
  assert_non_null(tl_arena_alloc(&arena, 100));
  tl_arena_done(&arena);
}

static void test_array_and_copy(void **state) {
  (void)state;
  struct tl_arena arena;
  tl_arena_init(&arena, 0);
  uint64_t *numbers = tl_arena_array(&arena, 77, sizeof *numbers);
  for (unsigned i = 0; i < 77; i++) assert_int_equal(numbers[i], 0);
  assert_non_null(tl_arena_array(&arena, 0, 8));
  assert_string_equal(tl_arena_copy(&arena, "hello world", 5), "hello");
  assert_string_equal(tl_arena_copy(&arena, NULL, 0), "");
  assert_memory_equal(tl_arena_copy(&arena, "a\0b", 3), "a\0b", 4);
  tl_arena_done(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_allocations_do_not_meet), cmocka_unit_test(test_large),
      cmocka_unit_test(test_limit),                   cmocka_unit_test(test_sizes_that_overflow),
      cmocka_unit_test(test_array_and_copy),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
