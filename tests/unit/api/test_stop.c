/* SPDX-License-Identifier: MIT */
/* Stop strings: wherever the text is cut into pieces, the answer is the text
 * before the first complete stop string (or to its end, if it is to be kept), and nothing is sent that must be taken back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "api/api_private.h"
#include "tokenlane/base/hash.h"

static struct api_params params_of(const char *const *stops, unsigned n) {
  struct api_params params = {.n_stop = n};
  for (unsigned i = 0; i < n; i++) {
    params.stop[i].text = stops[i];
    params.stop[i].length = strlen(stops[i]);
  }
  return params;
}

/* The oracle: what is before the stop string that is complete first, and which that is. */
static size_t answer_length(const char *text, const char *const *stops, unsigned n, unsigned *ret_which) {
  for (size_t end = 1; end <= strlen(text); end++) {
    size_t best = SIZE_MAX;
    for (unsigned i = 0; i < n; i++) {
      size_t k = strlen(stops[i]);
      if (k <= end && memcmp(text + end - k, stops[i], k) == 0 && end - k < best) best = end - k, *ret_which = i;
    }
    if (best != SIZE_MAX) return best;
  }
  return strlen(text);
}

static void check_cut(const char *text, const char *const *stops, unsigned n, uint64_t seed, bool keep) {
  struct api_params params = params_of(stops, n);
  params.include_stop_str_in_output = keep;
  struct api_stop stop;
  struct tl_buffer out;
  api_stop_init(&stop, &params);
  tl_buffer_init(&out, 0);
  unsigned which = 0;
  size_t length = strlen(text), before = answer_length(text, stops, n, &which);
  size_t right = before + (keep && before < length ? strlen(stops[which]) : 0);
  for (size_t at = 0; at < length;) {
    size_t piece = 1 + tl_hash_u64(seed++) % 4;
    if (piece > length - at) piece = length - at;
    assert_int_equal(api_stop_push(&stop, text + at, piece, &out), TL_OK);
    at += piece;
    assert_true(out.length <= right);
    assert_memory_equal(tl_buffer_string(&out), text, out.length);
  }
  assert_int_equal(stop.hit, before < length);
  if (stop.hit) assert_string_equal(stops[stop.which], stops[which]);
  if (!stop.hit) assert_int_equal(api_stop_flush(&stop, &out), TL_OK);
  assert_int_equal(out.length, right);
  api_stop_done(&stop);
  tl_buffer_done(&out);
}

static void check(const char *text, const char *const *stops, unsigned n, uint64_t seed) {
  check_cut(text, stops, n, seed, false);
  check_cut(text, stops, n, seed, true);
}

static void test_every_cut(void **state) {
  (void)state;
  static const char *const lists[][4] = {{"END", 0, 0, 0}, {"\n\n", "Q:", 0, 0}, {"aab", "ab", "b", 0}, {"aaa", "aaaa", 0, 0}, {"x", "yx", "zyx", "."}};
  static const char *const texts[] = {"hello END world", "EENDX", "EN", "a\n\nb", "a\nQ:", "aaab", "aaaaaa", "zzyx", "", "aaxa", "E\nN\nD", "wo.rd"};
  for (size_t l = 0; l < sizeof lists / sizeof *lists; l++)
    for (size_t t = 0; t < sizeof texts / sizeof *texts; t++)
      for (uint64_t seed = 0; seed < 50; seed++) {
        unsigned n = 0;
        while (n < 4 && lists[l][n]) n++;
        check(texts[t], lists[l], n, seed * 1000);
      }
}

/* Small alphabets make overlaps of all kinds. */
static void test_random(void **state) {
  (void)state;
  for (uint64_t round = 0; round < 20000; round++) {
    char text[40], stop_text[2][6];
    const char *stops[2] = {stop_text[0], stop_text[1]};
    size_t length = tl_hash_u64(round) % 39;
    for (size_t i = 0; i < length; i++) text[i] = "abc"[tl_hash_u64(round * 100 + i) % 3];
    text[length] = 0;
    for (unsigned k = 0; k < 2; k++) {
      size_t n = 1 + tl_hash_u64(round * 7 + k + 1) % 5;
      for (size_t i = 0; i < n; i++) stop_text[k][i] = "abc"[tl_hash_u64(round * 31 + k * 8 + i + 5) % 3];
      stop_text[k][n] = 0;
    }
    check(text, stops, 2, round);
  }
}

static void test_without_stops(void **state) {
  (void)state;
  check("anything at all", NULL, 0, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_cut), cmocka_unit_test(test_random),
                                     cmocka_unit_test(test_without_stops)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
