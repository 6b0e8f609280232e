/* SPDX-License-Identifier: MIT */
/* From fields to what an answer is held to. That a source's JSON is freed by whoever reads it shows under ASan. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "api/api_private.h"

#define TOOLS "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a\",\"parameters\":{\"type\":\"object\"}}},{\"type\":\"function\",\"function\":{\"name\":\"b\"}}]"

struct result {
  int code;
  struct api_params params;
  struct tl_error err;
  struct tl_arena arena;
  json_t *body;
};

/* As api_fields_read goes through its table: the fields that this is about, in its order. */
static struct result read(const char *text) {
  static const char *const names[] = {"response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice",
                                      "guided_grammar", "json_schema", "grammar", "tool_choice"};
  struct result r = {.params = {.calls = API_CALLS_AUTO, .parallel_tool_calls = true, .tool_schema = "function.parameters",
                                .tool_chosen = "tool_choice.function.name"},
                     .body = json_loads(text, JSON_ALLOW_NUL, NULL)};
  tl_arena_init(&r.arena, 0);
  assert_non_null(r.body);
  r.params.tools = json_object_get(r.body, "tools");
  for (size_t i = 0; r.code == TL_OK && i < sizeof names / sizeof *names; i++) {
    json_t *value = json_object_get(r.body, names[i]);
    if (value) r.code = api_structured_read(&r.params, names[i], value, &r.err);
  }
  if (r.code == TL_OK) r.code = api_structured_settle(&r.params, &r.arena, &r.err);
  return r;
}

static void end(struct result *r) {
  json_decref(r->params.constraint.json);
  json_decref(r->body);
  tl_arena_done(&r->arena);
}

static void test_sources(void **state) {
  (void)state;
  static const struct {
    const char *body, *field, *json, *text;
    enum tl_grammar_kind kind;
    enum api_calls calls;
  } cases[] = {
      {"{}", NULL, NULL, NULL, 0, API_CALLS_OFF},
      {"{\"response_format\":{\"type\":\"text\"}}", NULL, NULL, NULL, 0, API_CALLS_OFF},
      {"{\"response_format\":{\"type\":\"json_object\"}}", "response_format", NULL, NULL, TL_GRAMMAR_JSON_OBJECT, API_CALLS_OFF},
      {"{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\",\"schema\":{\"a\":1}}}}",
       "response_format.json_schema.schema", "{\"a\":1}", NULL, TL_GRAMMAR_JSON_SCHEMA, API_CALLS_OFF},
      {"{\"structured_outputs\":{\"json\":\" {\\\"a\\\": [2]}\"}}", "structured_outputs.json", "{\"a\":[2]}", NULL, TL_GRAMMAR_JSON_SCHEMA, API_CALLS_OFF},
      {"{\"guided_regex\":\"a\\u0000b\"}", "guided_regex", NULL, "a", TL_GRAMMAR_REGEX, API_CALLS_OFF},
      {"{\"guided_choice\":[\"a\"]}", "guided_choice", "[\"a\"]", NULL, TL_GRAMMAR_CHOICE, API_CALLS_OFF},
      {"{\"grammar\":\"root\"}", "grammar", NULL, "root", TL_GRAMMAR_GBNF, API_CALLS_OFF},
      {"{" TOOLS "}", NULL, NULL, NULL, 0, API_CALLS_AUTO},
      {"{\"tool_choice\":\"none\"," TOOLS "}", NULL, NULL, NULL, 0, API_CALLS_OFF},
      {"{\"guided_regex\":\"a\"," TOOLS "}", "guided_regex", NULL, "a", TL_GRAMMAR_REGEX, API_CALLS_AUTO},
      {"{\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"a\"}}," TOOLS "}", "tools[0].function.parameters",
       "{\"type\":\"object\"}", NULL, TL_GRAMMAR_JSON_SCHEMA, API_CALLS_NAMED},
      {"{\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"b\"}}," TOOLS "}", "tools[1].function.parameters",
       "{\"type\":\"object\",\"additionalProperties\":false}", NULL, TL_GRAMMAR_JSON_SCHEMA, API_CALLS_NAMED},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct result r = read(cases[i].body);
    const struct tl_grammar_source *source = &r.params.constraint;
    assert_int_equal(r.code, TL_OK);
    assert_int_equal(r.params.calls, cases[i].calls);
    assert_int_equal(source->kind, cases[i].kind);
    assert_int_equal(source->field != NULL, cases[i].field != NULL);
    if (source->field) assert_string_equal(source->field, cases[i].field);
    assert_int_equal(source->text != NULL, cases[i].text != NULL);
    if (source->text) assert_string_equal(source->text, cases[i].text);
    json_t *json = cases[i].json ? json_loads(cases[i].json, 0, NULL) : NULL;
    assert_true(json ? json_equal(json, source->json) : source->json == NULL);
    json_decref(json);
    end(&r);
  }
}

static void test_calls(void **state) {
  (void)state;
  struct result r = read("{\"tool_choice\":\"required\"," TOOLS "}");
  assert_int_equal(r.params.constraint.kind, TL_GRAMMAR_CALLS);
  json_t *calls = json_loads("[{\"function\":{\"name\":\"a\",\"parameters\":{\"type\":\"object\"}}},"
                             "{\"function\":{\"name\":\"b\",\"parameters\":{\"type\":\"object\",\"additionalProperties\":false}}}]", 0, NULL);
  assert_true(json_equal(r.params.constraint.json, calls));
  json_decref(calls);
  r.params.constraint.field = NULL; /* as if it had not been settled */
  json_decref(r.params.constraint.json);
  r.params.parallel_tool_calls = false;
  assert_int_equal(api_structured_settle(&r.params, &r.arena, &r.err), TL_OK);
  assert_int_equal(r.params.constraint.kind, TL_GRAMMAR_ONE_CALL);
  end(&r);
  r = read("{\"tool_choice\":\"none\"," TOOLS "}");
  assert_null(r.params.tools); /* the template is not to show them */
  end(&r);
}

static void test_refusals(void **state) {
  (void)state;
  static const struct {
    const char *body, *field;
  } cases[] = {
      {"{\"guided_json\":{\"a\":1},\"json_schema\":{\"a\":1}}", "json_schema"},
      {"{\"guided_json\":\"[{\"}", "guided_json"},
      {"{\"guided_json\":\"[1]\"}", "guided_json"},
      {"{\"guided_json\":{\"a\":1},\"tool_choice\":\"required\"," TOOLS "}", "tool_choice"},
      {"{\"tool_choice\":\"required\"}", "tool_choice"},
      {"{\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"c\"}}," TOOLS "}", "tool_choice.function.name"},
      {"{\"structured_outputs\":{\"regex\":\"a\",\"xyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyz\":1}}",
       "structured_outputs.xyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzx"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct result r = read(cases[i].body);
    assert_int_equal(r.code, TL_EINVAL);
    assert_string_equal(r.err.field, cases[i].field);
    end(&r);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_sources), cmocka_unit_test(test_calls), cmocka_unit_test(test_refusals)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
