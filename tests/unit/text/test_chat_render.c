/* SPDX-License-Identifier: MIT */
/* What templates are given, which runs of the text are the client's, and what a template is found to take. */
#include "tokenlane/text.h"
#include "unit.h"

static struct tl_chat_format *compile(const struct tl_chat_format *base, const char *source) {
  struct tl_chat_format *format;
  struct tl_error err = {0};
  if (tl_chat_format_new(base, source, strlen(source), &format, &err) < 0) fail_msg("%s: %s", source, err.message);
  return format;
}

/* The text with the client's runs in brackets, or the error's field and message. */
static const char *render(const char *source, const char *messages, struct tl_chat chat, char ret[1024]) {
  struct tl_chat_format *format = compile(NULL, source);
  struct tl_rendered rendered;
  struct tl_error err = {0};
  chat.messages = json_loads(messages, 0, NULL);
  assert_non_null(chat.messages);
  json_t *before = json_deep_copy(chat.messages);
  if (tl_chat_render(tl_chat_format_pick(format, NULL, false), &chat, NULL, &rendered, &err) < 0) {
    snprintf(ret, 1024, "%s! %s", err.field, err.message);
    assert_null(rendered.text.data);
  } else {
    size_t at = 0, n = 0;
    for (size_t i = 0; i < rendered.n_untrusted; i++) {
      struct tl_span span = rendered.untrusted[i];
      assert_true(span.start >= at && span.start < span.end && span.end <= rendered.text.length);
      n += (size_t)snprintf(ret + n, 1024 - n, "%.*s[%.*s]", (int)(span.start - at), rendered.text.data + at,
                            (int)(span.end - span.start), rendered.text.data + span.start);
      at = span.end;
    }
    snprintf(ret + n, 1024 - n, "%.*s", (int)(rendered.text.length - at), rendered.text.data ? rendered.text.data + at : "");
  }
  assert_true(json_equal(before, chat.messages));
  tl_rendered_done(&rendered);
  json_decref(before);
  json_decref(chat.messages);
  tl_chat_format_free(format);
  return ret;
}

#define EACH "{% for m in messages %}<{{ m.content }}>{% endfor %}"
#define EACH_TRIMMED "{% for m in messages %}<{{ m.content | trim }}>{% endfor %}"
#define PARTS "{% for m in messages %}{% for p in m.content %}({{ p.text }}){% endfor %}{% endfor %}"
#define TWO "[{\"content\": \"a\"}, {\"content\": \" b \"}]"

static const struct {
  const char *source, *messages, *expected;
} continued[] = {
    {EACH, TWO, "<[a]><[ b ]"},
    {EACH_TRIMMED, TWO, "<[a]><[b]"},
    {"{{ messages[-1].content }}|" EACH, TWO, "[ b CONTINUE_FINAL_MESSAGE_TAG ]|<[a]><[ b ]"},
    {EACH, "[{\"content\": \"\"}]", "<"},
    {"x \n" EACH_TRIMMED, "[{\"content\": \" \"}]", "x \n<"},
    {"x \n{{ messages[0].content | trim }}", "[{\"content\": \" \"}]", "x"},
    {EACH, "[{\"content\": \"CONTINUE_FINAL_MESSAGE_TAG \"}]", "<[CONTINUE_FINAL_MESSAGE_TAG ]"},
    {PARTS, "[{\"content\": [{\"text\": \"a\"}, {\"text\": \"b\"}, {\"type\": \"image\"}]}]", "([a])([b]"},
    {EACH, "[{\"content\": null}]", "continue_final_message! continue_final_message: the last message has no text to continue"},
    {EACH, "[{\"content\": []}]", "continue_final_message! continue_final_message: the last message has no text to continue"},
    {EACH, "[5]", "continue_final_message! continue_final_message: the last message has no text to continue"},
    {EACH, "[]", "continue_final_message! continue_final_message: the last message has no text to continue"},
    {"{{ messages[0].content | upper }}", "[{\"content\": \"a\"}]",
     "continue_final_message! continue_final_message: the chat template does not print the last message as it is"},
    {"none of it", TWO, "continue_final_message! continue_final_message: the chat template does not print the last message as it is"},
};

static void test_continue(void **state) {
  (void)state;
  char text[1024];
  for (size_t i = 0; i < UNIT_COUNT(continued); i++) {
    struct tl_chat chat = {.continue_final_message = true};
    assert_string_equal(render(continued[i].source, continued[i].messages, chat, text), continued[i].expected);
  }
  struct tl_chat both = {.continue_final_message = true, .add_generation_prompt = true};
  assert_string_equal(render(EACH, TWO, both, text),
                      "continue_final_message! continue_final_message: expected add_generation_prompt to be false with it");
}

static void test_variables(void **state) {
  (void)state;
  char text[1024];
  const char *source = "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }} {{ x }}{{ strftime_now('%s') }}";
  struct tl_chat chat = {.add_generation_prompt = true, .now_s = 12345};
  assert_string_equal(render(source, "[]", chat, text), "TrueTrueTrue 12345");
  json_t *kwargs = json_pack("{s:s}", "x", "y"), *list = json_pack("[{s:s}]", "text", "d"), *wrong = json_pack("{s:n}", "tools");
  chat = (struct tl_chat){.tools = list, .documents = list, .kwargs = kwargs, .now_s = 1};
  assert_string_equal(render(source, "[]", chat, text), "FalseFalseFalse [y]1");
  assert_string_equal(render("{{ documents[0].text }};{{ tools | tojson }}", "[]", chat, text), "[d];[[{\"text\": \"d\"}]]");
  chat.kwargs = wrong;
  assert_string_equal(render(source, "[]", chat, text), "chat_template_kwargs! chat_template_kwargs.tools: is a field of its own");
  json_decref(kwargs);
  json_decref(list);
  json_decref(wrong);
}

#define EACH_TEXT "{% for m in messages %}<{{ m.content or '' }}>{% endfor %}"
#define CALLS(condition, arguments) \
  "{% for m in messages " condition " %}{% for c in m.tool_calls or [] %}{{ c.function.name }}" arguments "{% endfor %}{% endfor %}" EACH_TEXT

static const struct {
  const char *source;
  unsigned takes;
} taken[] = {
    {EACH_TEXT, TL_CHAT_TEXT},
    {EACH, TL_CHAT_TEXT | TL_CHAT_CALL_EMPTY}, /* of null it makes "None" */
    {"{% for m in messages %}{{ '<' + m.content + '>' }}{% endfor %}", TL_CHAT_TEXT | TL_CHAT_CALL_EMPTY}, /* of calls it knows nothing, and fails on null */
    {PARTS, TL_CHAT_PARTS | TL_CHAT_CALL_EMPTY}, /* it fails on null */
    {"{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}",
     TL_CHAT_TEXT | TL_CHAT_PARTS | TL_CHAT_CALL_EMPTY},
    {"{% for m in messages %}{{ m.content | tojson }}{% endfor %}", TL_CHAT_TEXT | TL_CHAT_CALL_NULL},
    {"{{ raise_exception('never') }}", TL_CHAT_TEXT},
    {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", TL_CHAT_TEXT},
    {"{% if tools %}{{ tools }}{% endif %}" EACH_TEXT, TL_CHAT_TEXT | TL_CHAT_TOOLS},
    {"{% set tools = [] %}{% for documents in [] %}{% endfor %}{{ m.tools }}" EACH_TEXT, TL_CHAT_TEXT},
    /* what a call has to look like */
    {CALLS("", "{{ c.function.arguments | tojson }}"), TL_CHAT_TEXT},
    {CALLS("", "{{ '' + c.function.arguments }}"), TL_CHAT_TEXT | TL_CHAT_CALL_TEXT},
    {CALLS("", "{{ c.function.arguments }}"), TL_CHAT_TEXT | TL_CHAT_CALL_TEXT},
    {CALLS("", "{{ c.function.arguments }}{{ c.function.arguments | items }}"), TL_CHAT_TEXT}, /* it wants neither */
    {CALLS("if m.content is none", "{{ c.function.arguments | tojson }}"), TL_CHAT_TEXT | TL_CHAT_CALL_NULL},
    {CALLS("if m.content is none", "{{ '' + c.function.arguments }}"), TL_CHAT_TEXT | TL_CHAT_CALL_TEXT | TL_CHAT_CALL_NULL},
    {CALLS("", "{{ '' + m.content + c.function.name }}"), TL_CHAT_TEXT | TL_CHAT_CALL_EMPTY},
    {CALLS("if m.content is defined", "{{ m.content }}"), TL_CHAT_TEXT | TL_CHAT_CALL_EMPTY}, /* not "None" */
    {CALLS("", "{{ m.content + c.function.arguments }}"), TL_CHAT_TEXT | TL_CHAT_CALL_TEXT | TL_CHAT_CALL_EMPTY},
    {"None of them: " CALLS("", "{{ '' + m.content + c.function.name }}"), TL_CHAT_TEXT | TL_CHAT_CALL_EMPTY}, /* a word of its own */
    {"{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{% endfor %}",
     TL_CHAT_TEXT | TL_CHAT_CALL_EMPTY},
    {CALLS("if m.content is not defined or m.content is none", "{{ c.function.arguments | tojson }}"), TL_CHAT_TEXT | TL_CHAT_CALL_NULL}, /* not "" */
    {CALLS("if m.content is not defined", "{{ c.function.arguments | tojson }}"), TL_CHAT_TEXT},
    {"{% macro f(d) %}{{ d.documents or documents }}{% endmacro %}{{ 1 is eq tools }}" EACH_TEXT, TL_CHAT_TEXT | TL_CHAT_TOOLS | TL_CHAT_DOCUMENTS},
    {"{% if reasoning_effort is defined %}{{ reasoning_effort }}{% endif %}" EACH_TEXT, TL_CHAT_TEXT | TL_CHAT_EFFORT},
    {"{{ enable_thinking or m.reasoning_effort }}" EACH_TEXT, TL_CHAT_TEXT | TL_CHAT_THINKING},
    {"{{ 'a' if 'thinking' in messages[0] and messages[0].thinking }}" EACH_TEXT, TL_CHAT_TEXT},
    {EACH_TEXT "{% for message in [] %}{{ message.thinking }}{% endfor %}", TL_CHAT_TEXT | TL_CHAT_THOUGHTS},
};

static void test_takes(void **state) {
  (void)state;
  for (size_t i = 0; i < UNIT_COUNT(taken); i++) {
    struct tl_chat_format *format = compile(NULL, taken[i].source);
    unsigned takes = tl_chat_template_takes(tl_chat_format_pick(format, NULL, false));
    if (takes != taken[i].takes) fail_msg("%s: %u, not %u", taken[i].source, takes, taken[i].takes);
    tl_chat_format_free(format);
  }
}

static void test_says(void **state) {
  (void)state;
  struct tl_chat_format *format = compile(NULL, "{# <a> #}{% if false %}<b>{% endif %}{{ '<c>' }}");
  const struct tl_chat_template *t = tl_chat_format_pick(format, NULL, false);
  assert_true(tl_chat_template_says(t, "<a>"));
  assert_true(tl_chat_template_says(t, "<b>{%"));
  assert_true(tl_chat_template_says(t, "'<c>' }}"));
  assert_false(tl_chat_template_says(t, "<d>"));
  assert_false(tl_chat_template_says(t, "'<c>' }}}"));
  tl_chat_format_free(format);
}

static void test_a_format_on_top_of_another(void **state) {
  (void)state;
  struct tl_chat_format *base = compile(NULL, "a"), *top = compile(base, "b"), *none;
  struct tl_error err = {0};
  tl_chat_format_free(base); /* what top needs of it is its own */
  assert_null(tl_chat_format_pick(top, "other", false));
  assert_ptr_equal(tl_chat_format_pick(top, "default", false), tl_chat_format_pick(top, NULL, true));
  assert_int_equal(tl_chat_format_new(top, "{{", 2, &none, &err), TL_EINVAL);
  assert_null(none);
  tl_chat_format_free(top);
  tl_chat_format_free(NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_continue), cmocka_unit_test(test_variables), cmocka_unit_test(test_takes), cmocka_unit_test(test_says),
                                     cmocka_unit_test(test_a_format_on_top_of_another)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
