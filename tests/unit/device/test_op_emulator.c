/* SPDX-License-Identifier: MIT */
/* The emulator itself: it must see the mistakes that it exists for. */
#include <signal.h>
#include <sys/wait.h>

#include "op_unit.h"

int probe_run(int kind, uint32_t *out);
int probe_start_early(int kind, uint32_t *out);
int probe_shared(size_t allowed, size_t bytes, uint32_t *out);
int probe_multiply(const uint16_t *a, const uint16_t *b, float *c);
int probe_unpack(int is_bf16, uint32_t *out);

/* Whether the kernel ends in an error of the emulator, or of ASan; said to a pipe to keep the log clean. */
static bool fails(int (*probe)(int kind, uint32_t *out), int kind) {
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 2);
    signal(SIGABRT, SIG_DFL);
    uint32_t *out = op_poisoned(68 * 4);
    probe(kind, out);
    _exit(0);
  }
  close(ends[1]);
  char text[4096];
  while (read(ends[0], text, sizeof text) > 0) continue;
  close(ends[0]);
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

static void test_a_right_kernel(void **state) {
  (void)state;
  uint32_t out[68];
  for (int again = 0; again < 20; again++) {
    memset(out, 0xff, sizeof out);
    assert_int_equal(probe_run(0, out), 0);
    for (uint32_t i = 0; i < 64; i++) assert_int_equal(out[i], (i + 1) % 64);
  }
}

static void test_a_missing_barrier(void **state) {
  (void)state;
  uint32_t out[68];
  unsigned wrong = 0;
  for (int again = 0; again < 20; again++) {
    assert_int_equal(probe_run(1, out), 0);
    for (uint32_t i = 0; i < 64; i++) wrong += out[i] != (i + 1) % 64;
  }
  assert_true(wrong > 0);
}

static void test_mistakes(void **state) {
  (void)state;
  assert_false(fails(probe_run, 0));
  for (int kind = 2; kind <= 5; kind++)
    if (!fails(probe_run, kind)) fail_msg("mistake %d went through", kind);
  assert_true(fails(probe_run, 8));
#ifdef __SANITIZE_ADDRESS__
  assert_true(fails(probe_run, 9));
#endif
}

static void test_early_starts(void **state) {
  (void)state;
  assert_false(fails(probe_start_early, 0));
  for (int kind = 1; kind <= 3; kind++)
    if (!fails(probe_start_early, kind)) fail_msg("mistake %d went through", kind);
}

static void test_asynchronous_copies(void **state) {
  (void)state;
  _Alignas(16) uint32_t out[68];
  for (uint32_t i = 0; i < 68; i++) out[i] = i;
  probe_run(6, out);
  for (uint32_t i = 0; i < 64; i++) assert_int_equal(out[i], UINT32_MAX);
  probe_run(7, out);
  for (uint32_t i = 0; i < 64; i++) assert_int_equal(out[i], 64 + i % 4);
}

static void test_shared_memory(void **state) {
  (void)state;
  uint32_t out[68];
  assert_int_equal(probe_shared(0, 48 << 10, out), 0);
  assert_int_equal(probe_shared(0, (48 << 10) + 1, out), 1);
  assert_int_equal(probe_shared(200 << 10, 64, out), 1);
  assert_int_equal(probe_shared(64 << 10, 64 << 10, out), 0);
  assert_int_equal(probe_shared(0, (64 << 10) + 1, out), 1);
}

/* Small whole numbers: the product is exact. */
static void test_mma(void **state) {
  (void)state;
  _Alignas(16) uint16_t a[256], b[128];
  float c[128];
  int ia[256], ib[128];
  for (unsigned i = 0; i < 256; i++) a[i] = tl_f32_to_bf16((float)(ia[i] = (int)unit_below(&op_random, 200) - 100));
  for (unsigned i = 0; i < 128; i++) b[i] = tl_f32_to_bf16((float)(ib[i] = (int)unit_below(&op_random, 200) - 100));
  assert_int_equal(probe_multiply(a, b, c), 0);
  for (unsigned row = 0; row < 16; row++)
    for (unsigned column = 0; column < 8; column++) {
      int sum = 0;
      for (unsigned k = 0; k < 16; k++) sum += ia[row * 16 + k] * ib[k * 8 + column];
      assert_int_equal((int)c[row * 8 + column], sum);
    }
}

/* The emulator's own conversions. */
static void test_unpack(void **state) {
  (void)state;
  uint32_t *out = op_poisoned(65536 * sizeof *out);
  for (int is_bf16 = 0; is_bf16 < 2; is_bf16++) {
    assert_int_equal(probe_unpack(is_bf16, out), 0);
    for (uint32_t i = 0; i < 65536; i++) {
      float want = is_bf16 ? tl_bf16_to_f32((uint16_t)i) : tl_f16_to_f32((uint16_t)i);
      if (memcmp(&out[i], &want, sizeof want) != 0) fail_msg("%#x is %#x", i, out[i]);
    }
  }
  op_free(out);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_right_kernel),      cmocka_unit_test(test_a_missing_barrier),
      cmocka_unit_test(test_mistakes),            cmocka_unit_test(test_asynchronous_copies),
      cmocka_unit_test(test_mma),                 cmocka_unit_test(test_shared_memory),
      cmocka_unit_test(test_unpack),              cmocka_unit_test(test_early_starts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
