/* SPDX-License-Identifier: MIT */
/* Which tokens are shown, of answers with thoughts that are cut into tokens anyhow: those that have a byte of what is seen. */
#include "api/api_private.h"
#include "unit.h"

#define MOST 320
#define ANALYSIS "<|channel|>analysis<|message|>"
#define FINAL "<|channel|>final<|message|>"
#define NEXT "<|end|><|start|>assistant"

struct row {
  const struct api_reasoning_format *format;
  enum api_reasoning_start start;
  const char *text, *seen; /* seen: of the text, without line breaks between harmony's messages */
  bool calls, exact;
};

static const struct row rows[] = {
    {&api_reasoning_think_format, API_REASONING_MAYBE, "<think>\nHm, so.\n\nYes.\n</think>\n\nHello\n you", "Hello\n you", false, false},
    {&api_reasoning_think_format, API_REASONING_MAYBE, "<think>\nHm.\n</think>\n\nHello", "\n\nHello", false, true},
    {&api_reasoning_think_format, API_REASONING_MAYBE, " \n<think>Hm </th</think>", "", false, false},
    {&api_reasoning_think_format, API_REASONING_MAYBE, "<think>Hm </thi", "", false, false},
    {&api_reasoning_think_format, API_REASONING_MAYBE, " <thing> is it </think>", " <thing> is it </think>", false, false},
    {&api_reasoning_think_format, API_REASONING_MAYBE, "<thin", "<thin", false, false},
    {&api_reasoning_think_format, API_REASONING_WITHIN, "a</think>b", "b", false, false},
    {&api_reasoning_think_format, API_REASONING_OVER, "a</think>b", "a</think>b", false, false},
    {&api_reasoning_granite_format, API_REASONING_MAYBE, "Here is my thought process: A. Here is my response: B.", "B.", false, false},
    {&api_reasoning_harmony_format, API_REASONING_MAYBE, ANALYSIS "Hm <|" NEXT FINAL "So <|en", "So <|en", false, false},
    {&api_reasoning_harmony_format, API_REASONING_MAYBE,
     ANALYSIS "a" NEXT "<|channel|>commentary<|message|>b" NEXT ANALYSIS "c" NEXT FINAL "d" NEXT FINAL "e" NEXT ANALYSIS "f", "bde", false, false},
    {&api_reasoning_harmony_format, API_REASONING_MAYBE, ANALYSIS "a" NEXT " to=functions.f<|channel|>commentary<|message|>{}<|call|>",
     "<|start|>assistant to=functions.f<|channel|>commentary<|message|>{}<|call|>", true, false},
    {&api_reasoning_harmony_format, API_REASONING_MAYBE, "Plain", "Plain", false, false},
};

struct rig {
  struct api_call call;
  struct api_choice choice;
  struct tl_buffer rest;
};

static void begin(struct rig *rig, const struct row *row) {
  *rig = (struct rig){.call = {.params = {.n_top_logprobs = 0}}};
  struct api_choice *c = &rig->choice;
  c->call = &rig->call;
  tl_buffer_init(&rig->rest, 0);
  tl_buffer_init(&c->reasoning, 0);
  api_reasoning_parser_init(&c->thinks, row->format, row->start, row->calls, row->exact);
  api_shown_begin(c);
  assert_true(c->shown.on);
}

static void end(struct rig *rig) {
  tl_buffer_done(&rig->rest);
  api_reasoning_done(&rig->choice);
}

/* Text up to `to` of that which was not taken yet. */
static void take(struct rig *rig, const char *text, uint32_t to) {
  uint32_t from = rig->choice.shown.n_taken;
  struct tl_buffer piece;
  tl_buffer_init(&piece, 0);
  assert_int_equal(tl_buffer_append(&piece, text + from, to - from), TL_OK);
  assert_int_equal(api_shown_take(&rig->choice, &piece, &rig->rest), TL_OK);
  tl_buffer_done(&piece);
}

/* Tokens that end at ends[i] of the text, which reaches the parser up to `lag` tokens late; what it had is cut off. */
static void play(struct rig *rig, const char *text, const uint32_t *ends, uint32_t n, uint32_t lag, bool *ret) {
  struct api_choice *c = &rig->choice;
  uint32_t n_told = 0;
  for (uint32_t i = 0; i < n; i++) {
    c->n_seen++;
    assert_int_equal(api_shown_token(c, ends[i] - (i ? ends[i - 1] : 0)), TL_OK);
    if (i >= lag) take(rig, text, ends[i - lag]);
    assert_true(api_n_told(c) >= n_told && api_n_told(c) <= c->n_seen);
    for (; n_told < api_n_told(c); n_told++) ret[n_told] = api_shown_any(c, n_told, n_told + 1);
  }
  take(rig, text, n ? ends[n - 1] : 0);
  c->done = true;
  assert_int_equal(api_shown_finish(c, &rig->rest), TL_OK);
  assert_int_equal(api_n_told(c), n);
  for (uint32_t i = 0; i < n; i++) {
    if (i >= n_told) ret[i] = api_shown_any(c, i, i + 1);
    assert_true(ret[i] == api_shown_any(c, i, i + 1)); /* what was told stays so */
  }
}

static void test_bytes(void **state) {
  (void)state;
  for (size_t k = 0; k < UNIT_COUNT(rows); k++) {
    const char *text = rows[k].text;
    uint32_t n = (uint32_t)strlen(text), ends[MOST];
    bool shown[MOST];
    assert_true(n <= MOST);
    for (uint32_t i = 0; i < n; i++) ends[i] = i + 1;
    for (uint32_t lag = 0; lag < 4; lag++) {
      char seen[MOST + 1];
      size_t length = 0;
      struct rig rig;
      begin(&rig, &rows[k]);
      play(&rig, text, ends, n, lag, shown);
      for (uint32_t i = 0; i < n; i++)
        if (shown[i]) seen[length++] = text[i];
      seen[length] = 0;
      assert_string_equal(seen, rows[k].seen);
      assert_int_equal(rig.rest.length - rig.choice.thinks.n_made, length);
      end(&rig);
    }
  }
}

/* Longer tokens, and some without text. */
static void test_tokens(void **state) {
  (void)state;
  uint64_t random = 7;
  for (unsigned round = 0; round < 20000 / UNIT_SLOWDOWN; round++) {
    const struct row *row = &rows[round % UNIT_COUNT(rows)];
    uint32_t n_bytes = (uint32_t)strlen(row->text), bytes[MOST], ends[2 * MOST], n = 0;
    bool byte_shown[MOST], shown[2 * MOST];
    struct rig rig;
    for (uint32_t i = 0; i < n_bytes; i++) bytes[i] = i + 1;
    begin(&rig, row);
    play(&rig, row->text, bytes, n_bytes, 0, byte_shown);
    end(&rig);
    for (uint32_t at = 0; n < 2 * MOST && at < n_bytes; ends[n++] = at) {
      at += unit_below(&random, 8);
      if (at > n_bytes) at = n_bytes;
    }
    if (!n || ends[n - 1] < n_bytes) continue;
    begin(&rig, row);
    play(&rig, row->text, ends, n, unit_below(&random, 4), shown);
    end(&rig);
    for (uint32_t i = 0, from = 0; i < n; from = ends[i++]) {
      bool expected = false;
      for (uint32_t b = from; b < ends[i] || b == from; b++) expected = expected || byte_shown[b];
      if (shown[i] != expected) fail_msg("'%s': token %u, bytes %u to %u", row->text, i, from, ends[i]);
    }
  }
}

/* What the parser never has: behind a stop string, or silent at the end. */
static void test_ends(void **state) {
  (void)state;
  static const struct {
    const char *text;
    bool shown;
  } cases[] = {{"<think>a</think>b", true}, {"<think>a</think>\n", false}, {"<think>a", false}, {"b", true}, {"", true}};
  for (size_t k = 0; k < UNIT_COUNT(cases); k++) {
    struct rig rig;
    struct api_choice *c = &rig.choice;
    uint32_t n = (uint32_t)strlen(cases[k].text);
    begin(&rig, &rows[0]);
    assert_int_equal(api_shown_token(c, n), TL_OK);
    assert_int_equal(api_shown_token(c, 4), TL_OK);
    assert_int_equal(api_shown_token(c, 0), TL_OK);
    take(&rig, cases[k].text, n);
    c->n_seen = 3;
    c->done = true;
    assert_int_equal(api_shown_finish(c, &rig.rest), TL_OK);
    for (uint32_t i = 1; i < 3; i++) assert_true(api_shown_any(c, i, i + 1) == cases[k].shown);
    end(&rig);
  }
}

static void test_off(void **state) {
  (void)state;
  struct rig rig;
  begin(&rig, &rows[0]);
  for (unsigned i = 0; i < 2; i++) {
    rig.call.params.include_reasoning = i == 0;
    rig.call.params.n_top_logprobs = i ? -1 : 5;
    api_shown_begin(&rig.choice);
    assert_false(rig.choice.shown.on);
    assert_int_equal(api_shown_token(&rig.choice, 4), TL_OK);
    assert_true(api_shown_any(&rig.choice, 0, 1) && !api_shown_any(&rig.choice, 1, 1));
    rig.choice.n_seen = 1;
    assert_int_equal(api_n_told(&rig.choice), 1);
  }
  end(&rig);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bytes),
      cmocka_unit_test(test_tokens),
      cmocka_unit_test(test_ends),
      cmocka_unit_test(test_off),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
