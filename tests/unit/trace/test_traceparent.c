/* SPDX-License-Identifier: MIT */
/* The headers of W3C Trace Context, most of them not as they should be. The cases follow
 * the text of the specification and the names of its test suite (w3c/trace-context). */
#include "unit.h"

#include "tokenlane/base/hash.h"
#include "trace/trace_private.h"

#define ID "0af7651916cd43dd8448eb211c80319c"
#define PARENT "b7ad6b7169203331"

static void test_valid(void **state) {
  (void)state;
  struct tl_trace_context c;
  assert_true(traceparent_read("00-" ID "-" PARENT "-01", &c));
  assert_true(c.trace_id[0] == 0x0af7651916cd43ddu && c.trace_id[1] == 0x8448eb211c80319cu);
  assert_true(c.parent_id == 0xb7ad6b7169203331u && c.sampled);
  assert_true(traceparent_read("00-" ID "-" PARENT "-00", &c));
  assert_false(c.sampled);
  assert_true(traceparent_read("00-" ID "-" PARENT "-ff", &c)); /* flags that are not known yet */
  assert_true(c.sampled);
  assert_true(traceparent_read("00-" ID "-" PARENT "-fe", &c));
  assert_false(c.sampled);
  /* a later version: what is known of it is read */
  assert_true(traceparent_read("cc-" ID "-" PARENT "-01", &c));
  assert_true(traceparent_read("cc-" ID "-" PARENT "-01-what-the-future-will-be-like", &c));
  assert_true(c.sampled);
}

static void test_ignored(void **state) {
  (void)state;
  static const char *const bad[] = {
      "",
      "00",
      "00-",
      "00-" ID,
      "00-" ID "-" PARENT,
      "00-" ID "-" PARENT "-",
      "00-" ID "-" PARENT "-1",
      "00-" ID "-" PARENT "-0x",
      "00-" ID "-" PARENT "-01-",
      "00-" ID "-" PARENT "-01.",
      "00-" ID "-" PARENT "-01-extra",
      "00-" ID "-" PARENT "-011",
      "cc-" ID "-" PARENT "-01.what",
      "cc-" ID "-" PARENT "-0",
      "ff-" ID "-" PARENT "-01",
      "0-" ID "-" PARENT "-01",
      "000-" ID "-" PARENT "-01",
      ".0-" ID "-" PARENT "-01",
      "0.-" ID "-" PARENT "-01",
      "00-00000000000000000000000000000000-" PARENT "-01",
      "00-" ID "-0000000000000000-01",
      "00-0AF7651916CD43DD8448EB211C80319C-" PARENT "-01",
      "00-" ID "-B7AD6B7169203331-01",
      "00-" ID "-" PARENT "-0A",
      "00-.0f7651916cd43dd8448eb211c80319c-" PARENT "-01",
      "00-0af7651916cd43dd8448eb211c80319-" PARENT "-01x",
      "00-" ID "c-" PARENT "-01",
      "00-" ID "-b7ad6b716920333-01x",
      "00-" ID "-" PARENT "x-01",
      "00_" ID "_" PARENT "_01",
      " 00-" ID "-" PARENT "-01",
      "00-" ID "-" PARENT "-01 ",
      "00-" ID "-" PARENT "-01,00-" ID "-" PARENT "-01",
      "\xff\xff-" ID "-" PARENT "-01",
  };
  for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
    struct tl_trace_context c = {.span_id = 7};
    if (traceparent_read(bad[i], &c)) fail_msg("accepted '%s'", bad[i]);
    assert_true(c.span_id == 7 && c.parent_id == 0 && c.trace_id[0] == 0); /* untouched */
  }
}

/* Whatever comes: either refused, or what is written of it reads as the same trace. */
static void test_random(void **state) {
  (void)state;
  static const char letters[] = "0123456789abcdef-f0 \xff";
  static const char valid[] = "00-" ID "-" PARENT "-01";
  uint64_t random = 42;
  unsigned n_read = 0;
  for (unsigned i = 0; i < 200000 / UNIT_SLOWDOWN; i++) {
    char text[80], written[TL_TRACEPARENT_BYTES];
    size_t n = unit_below(&random, 4) ? sizeof valid : 1 + unit_below(&random, sizeof text - 1);
    for (size_t k = 0; k < n; k++) text[k] = k < sizeof valid - 1 ? valid[k] : letters[unit_below(&random, sizeof letters - 1)];
    text[n - 1] = 0;
    for (unsigned k = unit_below(&random, 4); k && n > 1; k--)
      text[unit_below(&random, (uint32_t)n - 1)] = letters[unit_below(&random, sizeof letters - 1)];
    struct tl_trace_context c = {0}, again = {0};
    if (!traceparent_read(text, &c)) continue;
    n_read++;
    c.span_id = 5;
    tl_traceparent_write(&c, written);
    assert_int_equal(strlen(written), TL_TRACEPARENT_BYTES - 1);
    assert_true(traceparent_read(written, &again));
    assert_true(again.trace_id[0] == c.trace_id[0] && again.trace_id[1] == c.trace_id[1] && again.sampled == c.sampled);
    assert_true(again.parent_id == 5);
    assert_memory_equal(written + 3, text + 3, 32);
  }
  assert_true(n_read > 1000);
}

/* --- tracestate ------------------------------------------------------------------------------- */

static void test_tracestate(void **state) {
  (void)state;
  char list[TL_TRACESTATE_BYTES] = "";
  assert_true(tl_tracestate_add("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", list));
  assert_true(tl_tracestate_add("", list));
  assert_true(tl_tracestate_add(" ,\t, t@v=a b ,", list));
  assert_string_equal(list, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7,t@v=a b");
  static const char *const bad[] = {
      "a", "=", "a=", "=b", "A=b", "0a=b", "a=b=c", "a=\x01", "a=\x7f", "a=\xc3\xa4", "a@=b", "@a=b", "a@0=b", "a@b@c=d",
      "a@fifteencharsssss=b", "a b=c", "a=b;c", "congo=again", "x=1,x=2", "a\r\nb=c",
  };
  for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
    char copy[TL_TRACESTATE_BYTES];
    memcpy(copy, list, sizeof copy);
    bool semicolon = strcmp(bad[i], "a=b;c") == 0; /* is allowed: only ',' and '=' are not */
    if (tl_tracestate_add(bad[i], copy) != semicolon) fail_msg("'%s'", bad[i]);
  }
}

static void test_tracestate_limits(void **state) {
  (void)state;
  char list[TL_TRACESTATE_BYTES] = "", member[32], whole[600];
  for (unsigned i = 0; i < 32; i++) {
    snprintf(member, sizeof member, "k%u=v", i);
    assert_true(tl_tracestate_add(member, list));
  }
  memcpy(whole, list, strlen(list) + 1);
  assert_false(tl_tracestate_add("more=v", list));
  *list = 0;
  assert_true(tl_tracestate_add(whole, list));
  assert_string_equal(list, whole);
  /* 512 bytes fit, 513 do not */
  memset(whole, 'v', sizeof whole);
  memcpy(whole, "a=", 2);
  memcpy(whole + 2 + 253, ",b=", 3);
  for (unsigned over = 0; over < 2; over++) {
    *list = 0;
    whole[512 + over] = 0;
    if (over) whole[2 + 253 + 3] = 'v';
    assert_int_equal(tl_tracestate_add(whole, list), !over);
    if (!over) assert_int_equal(strlen(list), 512);
    whole[512 + over] = 'v';
  }
}

/* --- sampling ------------------------------------------------------------------------------------ */

static void test_sampling(void **state) {
  (void)state;
  enum { IDS = 100000 };
  static const unsigned rates[] = {0, 1, 10, 250, 500, 999, 1000};
  unsigned taken[UNIT_COUNT(rates)] = {0};
  for (uint64_t i = 1; i <= IDS; i++) {
    uint64_t id = tl_hash_u64(i);
    bool before = false;
    for (size_t k = 0; k < UNIT_COUNT(rates); k++) {
      bool now = trace_is_sampled(id, rates[k]);
      assert_int_equal(now, trace_is_sampled(id, rates[k]));
      assert_int_equal(now, trace_is_sampled(id ^ (uint64_t)0xab << 56, rates[k])); /* only 56 bits are random */
      assert_true(now || !before); /* a higher rate keeps what a lower one does */
      taken[k] += before = now;
    }
  }
  assert_int_equal(taken[0], 0);
  assert_int_equal(taken[UNIT_COUNT(rates) - 1], IDS);
  for (size_t k = 1; k + 1 < UNIT_COUNT(rates); k++) {
    int expected = IDS / 1000 * (int)rates[k], off = (int)taken[k] - expected;
    assert_true(off * off < 30 * expected); /* more than five standard deviations */
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_valid),      cmocka_unit_test(test_ignored),
                                     cmocka_unit_test(test_random),     cmocka_unit_test(test_tracestate),
                                     cmocka_unit_test(test_tracestate_limits), cmocka_unit_test(test_sampling)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
