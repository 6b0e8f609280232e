/* SPDX-License-Identifier: MIT */
/* Masks against trying everything: random grammars, random vocabularies, random walks. */
#include "naive_grammar.h"

#define N_TOKENS 90

static uint64_t seed;

/* --- random grammars ---------------------------------------------------------------------------- */

static const char *const pieces[] = {"a", "b", "ab", "aab", "\"", "\\", "\xc3\xa9", "\xe2\x82\xac", "\xc3", "{", "}", "u00e9"};

static gr_node random_chars(struct gr_ir *ir) {
  static const struct gr_range ranges[][2] = {
      {{'a', 'b'}, {'{', '}'}}, {{'"', '"'}, {0xe0, 0x20ff}}, {{0, 'a'}, {0xd000, 0x10ffff}}, {{0x80, 0xe9}, {0xffff, 0x10000}}};
  uint32_t which = unit_below(&seed, 4);
  return gr_chars(ir, ranges[which], 1 + unit_below(&seed, 2));
}

static gr_node random_string(struct gr_ir *ir) {
  uint32_t min = unit_below(&seed, 4), max = unit_below(&seed, 3) ? min + unit_below(&seed, 4) : GR_MANY;
  if (unit_below(&seed, 2)) min = 0;
  return gr_seq(ir, gr_json_string(ir, min, max), gr_bytes(ir, "\"", 1));
}

static gr_node random_node(struct gr_ir *ir, uint32_t n_rules, unsigned depth) {
  const char *piece = pieces[unit_below(&seed, UNIT_COUNT(pieces))];
  uint32_t min;
  switch (unit_below(&seed, depth ? 14 : 5)) {
    case 0: return random_chars(ir);
    case 1: return random_string(ir);
    case 2: return n_rules ? gr_call(ir, unit_below(&seed, n_rules)) : gr_empty(ir);
    default: return gr_bytes(ir, piece, strlen(piece));
    case 5: return unit_below(&seed, 4) ? gr_empty(ir) : gr_nothing(ir);
    case 6:
    case 7: return gr_alt(ir, random_node(ir, n_rules, depth - 1), random_node(ir, n_rules, depth - 1));
    case 8:
      min = unit_below(&seed, 3);
      return gr_repeat(ir, random_node(ir, n_rules, depth - 1), min, unit_below(&seed, 2) ? GR_MANY : min + unit_below(&seed, 3));
    case 9:
    case 10:
    case 11:
    case 12:
    case 13: return gr_seq(ir, random_node(ir, n_rules, depth - 1), random_node(ir, n_rules, depth - 1));
  }
}

/* --- random vocabularies ------------------------------------------------------------------------------ */

static struct tl_vocabulary *random_vocabulary(void) {
  static const char *const parts[] = {"a", "b", "\"", "\\", "\xc3", "\xa9", "\xe2", "\x82", "\xac", "{", "}", "u", "0", "e", "\xf0\x9f",
                                      "\x98\x80", "\\u", "\\ud8", "3d", "\\", "\xed", "\x9f", "ab", "\xc3\xa9", "\"a", "a\"", "n", "\n"};
  static char bytes[N_TOKENS][64];
  struct tl_vocabulary_token tokens[N_TOKENS];
  struct tl_vocabulary *ret;
  for (uint32_t i = 0; i < N_TOKENS; i++) {
    size_t n = 0;
    for (uint32_t k = unit_below(&seed, i < 28 ? 2 : 7); k; k--) {
      const char *part = parts[unit_below(&seed, UNIT_COUNT(parts))];
      memcpy(bytes[i] + n, part, strlen(part));
      n += strlen(part);
    }
    if (i < 28) memcpy(bytes[i], parts[i], n = strlen(parts[i]));
    tokens[i] = (struct tl_vocabulary_token){bytes[i], n};
  }
  assert_int_equal(tl_vocabulary_new(tokens, N_TOKENS, &ret, NULL), TL_OK);
  /* as if it were large: all states have masks, some of them bits */
  if (unit_below(&seed, 4)) ret->wide = 0;
  if (unit_below(&seed, 2)) {
    gr_bodies_done(ret);
    memset(ret->bodies, 0, sizeof ret->bodies);
    ret->many = 3;
    assert_int_equal(gr_bodies_init(ret), TL_OK);
  }
  return ret;
}

static const char *bytes_of(const struct tl_vocabulary *v, uint32_t token, size_t *ret_n) {
  uint32_t place = v->place[token];
  *ret_n = place == GR_NONE ? 0 : v->start[place + 1] - v->start[place];
  return place == GR_NONE ? "" : v->bytes + v->start[place];
}

/* --- walks ------------------------------------------------------------------------------------------------ */

struct text {
  uint8_t bytes[1024];
  size_t n;
};

/* False: too much to try. */
static bool check_end(struct tl_matcher *m, struct naive *naive, gr_node root, struct text *text) {
  bool ends, goes_on = false, known = naive_ask(naive, root, text->bytes, text->n);
  if (!known) return false;
  ends = naive->matches;
  assert_int_equal(tl_matcher_may_end(m), ends);
  for (unsigned byte = 0; byte < 256 && known && !goes_on; byte++) {
    text->bytes[text->n] = (uint8_t)byte;
    known = naive_ask(naive, root, text->bytes, text->n + 1);
    goes_on = naive->begins;
  }
  if (known || goes_on) assert_int_equal(tl_matcher_must_end(m), ends && !goes_on);
  return true;
}

static int32_t check_mask(struct tl_matcher *m, const struct tl_vocabulary *v, struct naive *naive, gr_node root, struct text *text,
                          uint32_t *ret_checked) {
  uint32_t words[(N_TOKENS + 31) / 32], again[(N_TOKENS + 31) / 32], allowed[N_TOKENS], n_allowed = 0;
  memset(words, 0xff, sizeof words);
  tl_matcher_mask(m, words);
  for (uint32_t i = 0; i < N_TOKENS; i++) {
    bool is = words[i / 32] >> i % 32 & 1;
    size_t n;
    const char *bytes = bytes_of(v, i, &n);
    if (is) allowed[n_allowed++] = i;
    if (n == 0) assert_false(is);
    if (n == 0 || text->n + n >= sizeof text->bytes) continue;
    memcpy(text->bytes + text->n, bytes, n);
    if (!naive_ask(naive, root, text->bytes, text->n + n)) continue;
    if (is != naive->begins) fail_msg("token %u '%.*s' after '%.*s': %d", i, (int)n, bytes, (int)text->n, (char *)text->bytes, is);
    ++*ret_checked;
    if (!is) assert_int_equal(tl_matcher_take(m, (int32_t)i), TL_EINVAL);
  }
  tl_matcher_mask(m, again);
  assert_memory_equal(words, again, sizeof words);
  assert_int_equal(words[N_TOKENS / 32] >> N_TOKENS % 32, 0);
  return n_allowed ? (int32_t)allowed[unit_below(&seed, n_allowed)] : -1;
}

static uint32_t walk(struct tl_grammar *g, const struct tl_vocabulary *v, struct naive *naive, gr_node root) {
  struct tl_matcher *m;
  struct text text = {.n = 0};
  uint32_t n_checked = 0;
  assert_int_equal(tl_matcher_new(g, &m, NULL), TL_OK);
  for (unsigned i = 0; i < 14 && text.n < 40; i++) {
    if (!check_end(m, naive, root, &text)) break;
    int32_t token = check_mask(m, v, naive, root, &text, &n_checked);
    if (token < 0) break;
    assert_int_equal(tl_matcher_take(m, token), TL_OK);
    size_t n;
    const char *bytes = bytes_of(v, (uint32_t)token, &n);
    memcpy(text.bytes + text.n, bytes, n);
    text.n += n;
  }
  tl_matcher_free(m);
  return n_checked;
}

static void test_masks_equal_trying_everything(void **state) {
  (void)state;
  uint32_t n_checked = 0, n_compiled = 0, n_left = 0, n_barren = 0;
  for (uint32_t round = 0; round < 1000 / UNIT_SLOWDOWN; round++) {
    seed = 0x9e3779b97f4a7c15u * (round + 1);
    uint64_t fuel = 1000000;
    struct gr_ir *ir = gr_ir_new(&fuel);
    uint32_t n_rules = unit_below(&seed, 5);
    for (uint32_t i = 0; i < n_rules; i++) gr_rule_new(ir);
    gr_node bodies[5];
    for (uint32_t i = 0; i < n_rules; i++) bodies[i] = random_node(ir, n_rules, 4);
    gr_node root = random_node(ir, n_rules, 5);
    for (uint32_t i = 0; i < n_rules; i++) gr_rule_define(ir, i, bodies[i]);
    struct tl_vocabulary *v = random_vocabulary();
    struct naive naive;
    naive_init(&naive, ir);
    struct tl_grammar *g = NULL;
    struct tl_error err = {0};
    int r = gr_compile(ir, root, v, NULL, "grammar", &g, &err);
    bool reached[16] = {false};
    naive_reach(&naive, root, reached);
    if (!naive.fruitful[root]) {
      n_barren++;
      assert_int_equal(r, TL_EINVAL);
      assert_non_null(strstr(err.message, "no text"));
    } else if (naive_left_recursive(&naive, reached)) {
      n_left++;
      assert_int_equal(r, TL_EINVAL);
      assert_non_null(strstr(err.message, "left recursion"));
      assert_string_equal(err.field, "grammar");
    } else {
      n_compiled++;
      if (r < 0) fail_msg("round %u: %s", round, err.message);
      for (unsigned i = 0; i < 3; i++) n_checked += walk(g, v, &naive, root);
    }
    tl_grammar_release(g);
    naive_done(&naive);
    tl_vocabulary_free(v);
    gr_ir_free(ir);
  }
  print_message("%u grammars, %u left-recursive, %u of no text, %u tokens compared\n", n_compiled, n_left, n_barren, n_checked);
  assert_true(n_compiled > 500 / UNIT_SLOWDOWN && n_left > 8 / UNIT_SLOWDOWN && n_checked > 100000 / UNIT_SLOWDOWN);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_masks_equal_trying_everything),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
