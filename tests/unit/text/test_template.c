/* SPDX-License-Identifier: MIT */
/* Chat templates against what jinja2 rendered (tests/golden/make_templates.py),
 * and what jinja2 has not: provenance, limits, hostile sources. */
#include "tokenlane/text.h"
#include "tokenlane/base/utf8.h"
#include "unit.h"

static json_t *load_cases(void) {
  json_error_t error;
  FILE *file = unit_open_golden("templates.json");
  json_t *cases = json_loadf(file, JSON_ALLOW_NUL, &error);
  fclose(file);
  if (!cases) fail_msg("templates.json:%d: %s", error.line, error.text);
  return cases;
}

static const char *member(json_t *object, const char *key) {
  const char *text = json_string_value(json_object_get(object, key));
  return text ? text : "";
}

/* Compiles and renders; the code of whichever failed. */
static int render(const char *source, size_t length, json_t *trusted, json_t *untrusted,
                  const struct tl_template_limits *limits, struct tl_rendered *ret, struct tl_error *err) {
  struct tl_template *tmpl;
  *ret = (struct tl_rendered){0};
  *err = (struct tl_error){0};
  int r = tl_template_compile(source, length, &tmpl, err);
  if (r < 0) return r;
  r = tl_template_render(tmpl, trusted, untrusted, limits ? limits : &tl_template_default_limits, 0, ret, err);
  tl_template_free(tmpl);
  return r;
}

/* Renders with variables as JSON text. */
static int render_text(const char *source, const char *trusted, const char *untrusted,
                       const struct tl_template_limits *limits, struct tl_rendered *ret,
                       struct tl_error *err) {
  json_t *t = json_loads(trusted ? trusted : "{}", 0, NULL),
         *u = json_loads(untrusted ? untrusted : "{}", 0, NULL);
  assert_non_null(t);
  assert_non_null(u);
  int r = render(source, strlen(source), t, u, limits, ret, err);
  json_decref(t);
  json_decref(u);
  return r;
}

/* --- golden --------------------------------------------------------------------------- */
static bool ends_with(const char *text, const char *end) {
  size_t n = strlen(text), m = strlen(end);
  return n >= m && strcmp(text + n - m, end) == 0;
}

/* Error messages are one line each. */
static bool same_sentence(const char *got, const char *expected) {
  for (; *got && *expected; got++, expected++)
    if (*got != *expected && !(*got == ' ' && *expected == '\n')) return false;
  return *got == *expected;
}

static bool as_expected(json_t *one, int r, const struct tl_rendered *rendered, const struct tl_error *err) {
  const char *kind = member(one, "error");
  json_t *expected = json_object_get(one, "expected");
  if (expected)
    return r == TL_OK && rendered->text.length == json_string_length(expected) &&
           (rendered->text.length == 0 ||
            memcmp(rendered->text.data, json_string_value(expected), rendered->text.length) == 0);
  if (r == TL_OK || r != err->code || rendered->text.data) return false;
  if (strcmp(kind, "raise") == 0)
    return r == TL_EINVAL && same_sentence(err->message, member(one, "message"));
  if (strncmp(err->message, "line ", 5) != 0) return false;
  if (strcmp(kind, "undefined") == 0 && strstr(member(one, "message"), " is undefined"))
    return ends_with(err->message, member(one, "message"));
  return true;
}

static void test_golden(void **state) {
  (void)state;
  json_t *cases = load_cases(), *one;
  size_t i, wrong = 0;
  assert_true(json_array_size(cases) >= 150);
  json_array_foreach(cases, i, one) {
    json_t *source = json_object_get(one, "template");
    struct tl_rendered rendered;
    struct tl_error err;
    int r = render(json_string_value(source), json_string_length(source), json_object_get(one, "trusted"),
                   json_object_get(one, "untrusted"), NULL, &rendered, &err);
    if (!as_expected(one, r, &rendered, &err)) {
      wrong++;
      print_message("%s\n  template: %.300s\n  expected: %s%s %s\n  got:      %d %.*s%s\n",
                    member(one, "name"), json_string_value(source), member(one, "expected"),
                    member(one, "error"), member(one, "message"), r, (int)rendered.text.length,
                    rendered.text.data ? rendered.text.data : "", err.message);
    }
    tl_rendered_done(&rendered);
  }
  json_decref(cases);
  assert_int_equal(wrong, 0);
}

/* --- errors ------------------------------------------------------------------------------ */
static const struct {
  const char *source, *message;
} errors[] = {
    {"a\nb\n{% if x %}\nc", "line 4: expected 'elif', 'else' or 'endif', got end of template"},
    {"{% for x in y %}\n\n{% endif %}", "line 3: expected 'endfor' or 'else', got 'endif'"},
    {"\n\n{{ 1 + }}", "line 3: expected an expression, got '}}'"},
    {"{# a\nb\n#}\n{% frob %}", "line 4: unknown tag 'frob'"},
    {"x\n{{ 'abc", "line 2: string without an end"},
    {"x\n\n{{ 1 | nosuch }}\n\n", "line 3: no filter or test named 'nosuch'"},
    {"\n{{ (1] }}", "line 2: unexpected ']', expected ')'"},
    {"{{ a\n\nb }}", "line 3: expected '}}', got 'b'"},
    {"\n{% for x in [1] %}\n{{ nope.x }}\n{% endfor %}", "line 3: 'nope' is undefined"},
    {"\n\n{{ {}.a.b }}", "line 3: 'dict object' has no attribute 'a'"},
    {"{{ raise_exception('just this') }}", "just this"},
    {"{% if 1 %}\n{% break %}{% endif %}", "line 2: 'break' or 'continue' outside a loop"},
};

static void test_error_messages(void **state) {
  (void)state;
  for (size_t i = 0; i < UNIT_COUNT(errors); i++) {
    struct tl_rendered rendered;
    struct tl_error err;
    assert_int_equal(render_text(errors[i].source, NULL, NULL, NULL, &rendered, &err), TL_EINVAL);
    assert_string_equal(err.message, errors[i].message);
    assert_null(rendered.text.data);
    tl_rendered_done(&rendered);
  }
  struct tl_template *tmpl;
  struct tl_error err;
  assert_int_equal(tl_template_compile("a\xff", 2, &tmpl, &err), TL_EINVAL);
  assert_null(tmpl);
  assert_int_equal(tl_template_compile("{{ 1", 4, &tmpl, NULL), TL_EINVAL);
}

/* --- provenance ---------------------------------------------------------------------------- */
/* The text with the untrusted runs in brackets; U holds "user", "é" and more. */
static const struct {
  const char *source, *marked;
} provenance[] = {
    {"a{{ u }}b", "a⟦User⟧b"},
    {"{{ u }}{{ u }}", "⟦UserUser⟧"},
    {"{{ '<' + u + '>' + u }}", "<⟦User⟧>⟦User⟧"},
    {"{{ t }}{{ u ~ t }}", "trust⟦User⟧trust"},
    {"{{ u[1:3] }}{{ ('ab' + u)[1:4] }}", "⟦se⟧b⟦Us⟧"},
    {"{{ ('ab' + u)[::-1] }}", "⟦resU⟧ba"},
    {"{{ ('  ' + u + ' ') | trim }}", "⟦User⟧"},
    {"{{ u | upper }}{{ ('x' + u) | lower | title }}", "⟦USER⟧X⟦user⟧"},
    {"{{ 'a-b' | replace('-', u) }}", "a⟦User⟧b"},
    {"{{ u | replace('s', '+') }}", "⟦U⟧+⟦er⟧"},
    {"{{ [u, 'x', u] | join(', ') }}", "⟦User⟧, x, ⟦User⟧"},
    {"{{ u | tojson }}{{ ['a', u + 'b'] | tojson }}", "⟦\"User\"⟧[\"a\", \"⟦User⟧b\"]"},
    {"{{ o | tojson }}", "⟦{\"k<\": [1, null, true, \"v\"]}⟧"},
    {"{{ {'a': o['k<'][3]} }}", "{'a': '⟦v⟧'}"},
    {"{{ n }}{{ n + 1 }}{{ '%d|%s' % (n, u) }}", "⟦787⟧|⟦User⟧"},
    {"{% for k in o %}{{ k }};{% endfor %}", "⟦k<⟧;"},
    {"{% for k, v in o.items() %}<{{ k }}>{% endfor %}", "<⟦k<⟧>"},
    {"{% for c in '-' + u %}{{ c }}.{% endfor %}", "-.⟦U⟧.⟦s⟧.⟦e⟧.⟦r⟧."},
    {"{{ e }}{{ ('a' ~ e)[1] }}{{ e | upper }}", "⟦é中éÉ中⟧"},
    {"{{ m.split('</think>')[-1].lstrip('\\n') }}|{{ m | length }}", "⟦answer⟧|26"},
    {"{{ m.split('\\n') | join('/') }}", "⟦<think>⟧/⟦hm⟧/⟦</think>⟧/⟦answer⟧"},
    {"{% set x %}<{{ u }}>{% endset %}{{ x }}{{ x[1:-1] }}", "<⟦User⟧>⟦User⟧"},
    {"{% macro f(a) %}({{ a }}){% endmacro %}{{ f(u) }}", "(⟦User⟧)"},
    {"{% set ns = namespace(s='') %}{% for i in [1, 2, 3] %}{% set ns.s = ns.s + 'x' + u %}{% endfor %}{{ "
     "ns.s }}",
     "x⟦User⟧x⟦User⟧x⟦User⟧"},
    {"{% set a = 'x' + u %}{% set b = a + 'y' %}{% set c = a + u %}{{ a }} {{ b }} {{ c }}",
     "x⟦User⟧ x⟦User⟧y x⟦UserUser⟧"},
    {"{{ u * 2 }}{{ u | indent(2, true) }}{{ u | e }}", "⟦UserUser⟧  ⟦UserUser⟧"},
    {"{{ {u: 'a b', 'k': u} | urlencode }}{{ u | e | list }}", "⟦User⟧=a+b&k=⟦User⟧['⟦U⟧', '⟦s⟧', '⟦e⟧', '⟦r⟧']"},
    {"{{ u | default('x') }}{{ q | default('x') }}", "⟦User⟧x"},
    {"{{ u.zfill(6) }}{{ u.center(8, '*') }}", "00⟦User⟧**⟦User⟧**"},
    {"{{ u == 'User' }}{{ u | length }}", "True4"},
    {"{{ override }}", "mine"},
    {"{{ u | list }}", "['⟦U⟧', '⟦s⟧', '⟦e⟧', '⟦r⟧']"},
    {"{{ [u, t] | sort | first }}{{ [u] | map('lower') | first }}", "trust⟦user⟧"},
    {"{% filter upper %}a{{ u }}{% endfilter %}", "A⟦USER⟧"},
};

static void mark(const struct tl_rendered *rendered, char *to) {
  size_t at = 0;
  for (size_t i = 0; i < rendered->n_untrusted; i++) {
    struct tl_span span = rendered->untrusted[i];
    assert_true(span.start < span.end && span.end <= rendered->text.length);
    assert_true(i == 0 ? span.start >= at : span.start > at);
    to += sprintf(to, "%.*s⟦%.*s⟧", (int)(span.start - at), rendered->text.data + at,
                  (int)(span.end - span.start), rendered->text.data + span.start);
    at = span.end;
  }
  sprintf(to, "%.*s", (int)(rendered->text.length - at), rendered->text.data + at);
}

static void test_provenance(void **state) {
  (void)state;
  for (size_t i = 0; i < UNIT_COUNT(provenance); i++) {
    struct tl_rendered rendered;
    struct tl_error err;
    char text[1000];
    int r =
        render_text(provenance[i].source, "{\"t\": \"trust\", \"override\": \"mine\"}",
                    "{\"u\": \"User\", \"e\": \"é中\", \"n\": 7, \"override\": \"theirs\","
                    " \"o\": {\"k<\": [1, null, true, \"v\"]}, \"m\": \"<think>\\nhm\\n</think>\\nanswer\"}",
                    NULL, &rendered, &err);
    if (r < 0) fail_msg("%s: %s", provenance[i].source, err.message);
    mark(&rendered, text);
    assert_string_equal(text, provenance[i].marked);
    tl_rendered_done(&rendered);
  }
}

/* --- limits ----------------------------------------------------------------------------------- */
static const char *const greedy[] = {
    "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "{{ 'x' * 9000000000000000000 }}",
    "{{ ['x'] * 9000000000000000000 }}",
    "{% set ns = namespace(s='ab') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set ns = namespace(s=['ab']) %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set ns = namespace(s=[]) %}{% for i in range(100) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s "
    "}}",
    "{% set ns = namespace(s=[]) %}{% for i in range(5000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s | "
    "tojson }}",
    "{% set ns = namespace(s=[]) %}{% for i in range(5000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s == "
    "[ns.s] }}"
    "{% set ns.t = ns %}{{ ns }}",
    "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% for i in range(100000) %}{% for j in range(1000) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% "
    "endfor %}",
    "{% set ns = namespace(s='a') %}{% for i in range(27) %}{% set ns.s = ns.s.replace('a', 'aa') %}{% "
    "endfor %}",
    "{{ 'a'.center(9000000000000000000) }}",
    "{{ 'a'.zfill(9000000000000000000) }}",
    "{{ [1] | batch(9000000000000000000, 0) | list }}",
    "{{ [1] | slice(9000000000000000000, 0) | list }}",
    "{{ 'a\\nb' | indent(9000000000000000000) }}",
    "{{ [1] | tojson(indent=9000000000000000000) }}",
    "{{ range(100000) | map('string') | join(',' * 100000) }}",
    "{% for i in range(100000) %}{{ range(100000) | list | length }}{% endfor %}",
    "{% for i in range(100000) %}{{ 100000 in range(100000) }}{% endfor %}",
    "{% for i in range(100000) %}{{ range(100000) | unique | list | length }}{% endfor %}",
    "{% set s = 'ab' * 1000000 %}{% for i in range(100000) %}{{ 'ba' * 500000 == s }}{{ s.find('c') }}{% "
    "endfor %}",
    "{% set s = 'é' * 100000 %}{% for i in range(100000) %}{% set x = s[i] %}{% endfor %}",
    "{% for i in range(100000) %}{% for j in range(100) %}{{ '{:>400}{:400}'.format(i, j) }}{% endfor %}{% endfor %}",
    "{% set d = {'a': 'b' * 1000000} %}{% for i in range(100000) %}{{ d | xmlattr }}{% endfor %}",
    "{% set s = '{' * 1000000 %}{% for i in range(100000) %}{{ (s ~ '}').format(1) if false else (s ~ s).format() | length }}{% endfor %}",
    "{% set s = 'x' * 1000000 %}{{ s.strip('ab' * 1000000 + 'x') }}",
};

static void test_limits(void **state) {
  (void)state;
  for (size_t i = 0; i < UNIT_COUNT(greedy); i++) {
    struct tl_rendered rendered;
    struct tl_error err;
    struct tl_template_limits limits = tl_template_default_limits;
    limits.fuel /= UNIT_SLOWDOWN;
    int r = render_text(greedy[i], NULL, NULL, &limits, &rendered, &err);
    if (r != TL_ELIMIT) fail_msg("%s: %d %s", greedy[i], r, err.message);
    assert_true(strlen(err.message) > 10);
    assert_null(rendered.text.data);
    tl_rendered_done(&rendered);
  }
}

static void test_small_limits(void **state) {
  (void)state;
  struct tl_rendered rendered;
  struct tl_error err;
  struct tl_template_limits limits = tl_template_default_limits;
  limits.max_output_bytes = 10;
  assert_int_equal(render_text("0123456789", NULL, NULL, &limits, &rendered, &err), TL_OK);
  tl_rendered_done(&rendered);
  assert_int_equal(render_text("{{ '0123456789' }}{{ 1 }}", NULL, NULL, &limits, &rendered, &err), TL_ELIMIT);
  assert_string_equal(err.message, "line 1: text of more than 10 bytes");
  limits = tl_template_default_limits;
  limits.max_depth = 10;
  assert_int_equal(render_text("{{ ((((1)))) }}", NULL, NULL, &limits, &rendered, &err), TL_OK);
  tl_rendered_done(&rendered);
  assert_int_equal(render_text("\n{{ [[[[[[[[[[1]]]]]]]]]] }}", NULL, NULL, &limits, &rendered, &err),
                   TL_ELIMIT);
  assert_string_equal(err.message, "line 2: nested deeper than 10 levels");
  limits = tl_template_default_limits;
  limits.fuel = 100;
  assert_int_equal(
      render_text("{% for i in range(1000) %}{% endfor %}", NULL, NULL, &limits, &rendered, &err), TL_ELIMIT);
  assert_string_equal(err.message, "line 1: template used up its evaluation steps");
}

/* 1,000 messages of 4 kB, put together in a namespace: well within the limits. */
static void test_long_conversation(void **state) {
  (void)state;
  const char *source =
      "{% set ns = namespace(text='') %}{% for m in messages %}{% set ns.text = ns.text + '<' + m.role + '>' "
      "+ "
      "m.content + '\\n' %}{% endfor %}{{ ns.text }}";
  char content[4001];
  memset(content, 'x', 4000);
  content[4000] = 0;
  json_t *untrusted = json_object(), *messages = json_array(), *trusted = json_object();
  for (int i = 0; i < 1000; i++)
    json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "user", "content", content));
  json_object_set_new(untrusted, "messages", messages);
  struct tl_rendered rendered;
  struct tl_error err;
  struct tl_template_limits limits = tl_template_default_limits;
  limits.fuel = 2000000;
  int r = render(source, strlen(source), trusted, untrusted, &limits, &rendered, &err);
  if (r < 0) fail_msg("%s", err.message);
  assert_int_equal(rendered.text.length, 1000 * (4000 + 7));
  assert_int_equal(rendered.n_untrusted, 2000);
  tl_rendered_done(&rendered);
  json_decref(untrusted);
  json_decref(trusted);
}

/* --- hostile sources ----------------------------------------------------------------------------- */
static char *repeated(const char *begin, const char *middle, size_t n, const char *end) {
  size_t b = strlen(begin), m = strlen(middle), at = b;
  char *text = malloc(b + m * n + strlen(end) + 1);
  memcpy(text, begin, b);
  for (size_t i = 0; i < n; i++, at += m) memcpy(text + at, middle, m);
  strcpy(text + at, end);
  return text;
}

static const char *const nesting[][3] = {
    {"{{ ", "(", ""},
    {"{{ ", "[", ""},
    {"{{ ", "{1:", ""},
    {"{{ ", "-", "1 }}"},
    {"{{ ", "not ", "1 }}"},
    {"", "{% if 1 %}", ""},
    {"", "{% for x in y %}", ""},
    {"{{ 1", "+1", " }}"},
    {"{{ x", ".a", " }}"},
    {"{{ x", "[0", ""},
    {"{{ x", "|trim", " }}"},
    {"{{ 1 if ", "1 if ", "1 }}"},
    {"{{ ", "1 if 1 else ", "1 }}"},
    {"{{ f", "(f", ""},
    {"{{ f", "()", " }}"},
    {"{{ 1", " is number", " }}"},
    {"{{ 1", " ~ 1", " }}"},
    {"{{ 1", " < 1", " }}"},
    {"{{ 1", " and 1", " }}"},
    {"{% if 0 %}", "{% elif 0 %}", "{% endif %}"},
    {"{% set ", "(", ""},
    {"{% for ", "(", ""},
    {"", "{% macro f() %}", ""},
    {"", "{% call f() %}", ""},
    {"", "{% set x %}", ""},
    {"{{ '", "\\", ""},
    {"", "{#", ""},
    {"", "{% raw %}", ""},
    {"{{ 'a' ", "'b' ", "}}"},
    {"{{ a", "**a", " }}"},
    {"{{ [", "1,", "] }}"},
    {"", "{%-", ""},
    {"{{ 1", "0", " }}"},
    {"{{ 1.", "0", " }}"},
    {"", "\n", "{{"},
    {"{{ x", " if x", " }}"},
};

static void test_deep_sources(void **state) {
  (void)state;
  json_t *nothing = json_object();
  for (size_t i = 0; i < UNIT_COUNT(nesting); i++)
    for (size_t n = 1; n <= 100000; n *= 10) {
      struct tl_rendered rendered;
      struct tl_error err;
      char *text = repeated(nesting[i][0], nesting[i][1], n, nesting[i][2]);
      int r = render(text, strlen(text), nothing, nothing, NULL, &rendered, &err);
      if (r == TL_OK) tl_rendered_done(&rendered);
      if (r < 0) assert_true(err.message[0] != 0);
      free(text);
    }
  json_decref(nothing);
}

/* Cuts, doubles, swaps and replaces pieces of a template. */
static size_t mutate(char *text, size_t length, size_t room, uint64_t *random) {
  static const char pieces[][12] = {
      "{{",   "}}",   "{%",  "%}",   "-",         "(",        ")",    "[",       "]",
      "{",    "}",    "|",   ".",    "'",         "\"",       "if ",  "endif",   "for ",
      " in ", "else", "1",   "**",   "%",         "\\",       "~",    " not ",   "messages",
      "loop", "set ", "ns.", "None", "{% raw %}", "\xc3\xa9", "\xff", "|tojson", "[::-1]"};
  for (uint32_t n = 1 + unit_below(random, 4); n > 0 && length > 1; n--) {
    size_t at = unit_below(random, (uint32_t)length), span = 1 + unit_below(random, 12);
    if (span > length - at) span = length - at;
    uint32_t what = unit_below(random, 4);
    if (what == 0) { /* cut */
      memmove(text + at, text + at + span, length - at - span);
      length -= span;
    } else if (what == 1 && length + span < room) { /* double */
      memmove(text + at + span, text + at, length - at);
      length += span;
    } else if (what == 2) { /* flip a byte */
      text[at] = (char)(text[at] ^ (1 << unit_below(random, 7)));
    } else { /* insert a piece */
      const char *piece = pieces[unit_below(random, UNIT_COUNT(pieces))];
      size_t m = strlen(piece);
      if (length + m >= room) continue;
      memmove(text + at + m, text + at, length - at);
      memcpy(text + at, piece, m);
      length += m;
    }
  }
  return length;
}

static void test_mutations(void **state) {
  (void)state;
  enum { ROOM = 8192 };
  json_t *cases = load_cases();
  uint64_t random = 20240229;
  struct tl_template_limits limits = {.fuel = 20000, .max_output_bytes = 1 << 16, .max_depth = 200};
  size_t good = 0;
  char *text = malloc(ROOM);
  for (int i = 0; i < 20000; i++) {
    json_t *one = json_array_get(cases, unit_below(&random, (uint32_t)json_array_size(cases)));
    json_t *source = json_object_get(one, "template");
    struct tl_rendered rendered;
    struct tl_error err;
    size_t length = json_string_length(source);
    assert_true(length < ROOM);
    memcpy(text, json_string_value(source), length);
    length = mutate(text, length, ROOM, &random);
    char *exact = malloc(length ? length : 1); /* so that ASan sees a read past its end */
    memcpy(exact, text, length);
    int r = render(exact, length, json_object_get(one, "trusted"), json_object_get(one, "untrusted"), &limits,
                   &rendered, &err);
    good += r == TL_OK;
    if (r < 0) assert_true(err.code == r && tl_utf8_valid(err.message, strlen(err.message)));
    tl_rendered_done(&rendered);
    free(exact);
  }
  free(text);
  json_decref(cases);
  assert_true(good > 1000);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_golden),       cmocka_unit_test(test_error_messages),
      cmocka_unit_test(test_provenance),   cmocka_unit_test(test_limits),
      cmocka_unit_test(test_small_limits), cmocka_unit_test(test_long_conversation),
      cmocka_unit_test(test_deep_sources), cmocka_unit_test(test_mutations),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
