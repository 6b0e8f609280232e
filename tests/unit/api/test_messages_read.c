/* SPDX-License-Identifier: MIT */
/* Anthropic's fields become a chat's: exactly these messages, tools and variables. Then requests of all
 * kinds of nonsense, made of their words: nothing is lost and nobody crashes (sanitizers look). */
#include "unit.h"

#include "api/api_private.h"

struct result {
  int code;
  struct api_params params;
  struct tl_error err;
  json_t *body;
};

/* As api_fields_read goes through its table. */
static struct result read_body(json_t *body) {
  static const char *const names[] = {"system", "messages", "tools", "tool_choice", "thinking", "output_config"};
  struct result r = {.body = body, .params = {.calls = API_CALLS_AUTO, .parallel_tool_calls = true, .include_reasoning = true}};
  r.params.chat_template_kwargs = json_object_get(body, "chat_template_kwargs");
  for (size_t i = 0; r.code == TL_OK && i < sizeof names / sizeof *names; i++) {
    json_t *value = json_object_get(body, names[i]);
    if (value) r.code = api_messages_read(&r.params, names[i], value, &r.err);
  }
  return r;
}

static struct result read_text(const char *text) {
  json_error_t error;
  json_t *body = json_loads(text, JSON_ALLOW_NUL, &error);
  if (!body) fail_msg("%s: %s", error.text, text);
  return read_body(body);
}

static void end(struct result *r) {
  json_decref(r->params.constraint.json);
  json_decref(r->body);
}

static void expect(const char *name, const json_t *value, const char *expected) {
  char *text = value ? json_dumps(value, JSON_COMPACT) : strdup("absent");
  if (strcmp(text, expected) != 0) fail_msg("%s: %s\ninstead of %s", name, text, expected);
  free(text);
}

#define USER "{\"role\":\"user\",\"content\":\"hi\"}"
#define T(text) "{\"type\":\"text\",\"text\":\"" text "\",\"cache_control\":{\"type\":\"ephemeral\"}}"
#define P(text) "{\"type\":\"text\",\"text\":\"" text "\"}"

static void test_messages(void **state) {
  (void)state;
  static const struct {
    const char *body, *messages;
    bool continues;
  } cases[] = {
      {"{\"messages\":[" USER "]}", "[" USER "]", false},
      {"{\"system\":\"s\",\"messages\":[" USER ",{\"role\":\"system\",\"content\":[" T("t") "]}]}",
       "[{\"role\":\"system\",\"content\":[" P("s") "," P("t") "]}," USER "]", false},
      {"{\"system\":[" T("x-anthropic-billing-header: 1") "],\"messages\":[" USER "]}", "[" USER "]", false},
      {"{\"system\":[],\"messages\":[{\"role\":\"user\",\"content\":[" T("a") "," T("b") "]}]}", "[{\"role\":\"user\",\"content\":[" P("a") "," P("b") "]}]", false},
      {"{\"messages\":[{\"role\":\"user\",\"content\":[" T("a") ",{\"type\":\"tool_result\",\"tool_use_id\":\"i\",\"content\":[" T("r") "]},"
       "{\"type\":\"tool_result\",\"tool_use_id\":\"j\"}," T("b") "]}]}",
       "[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"tool\",\"content\":\"r\",\"tool_call_id\":\"i\"},"
       "{\"role\":\"tool\",\"content\":\"\",\"tool_call_id\":\"j\"},{\"role\":\"user\",\"content\":\"b\"}]", false},
      {"{\"messages\":[" USER ",{\"role\":\"assistant\",\"content\":[{\"type\":\"thinking\",\"thinking\":\"a\"},{\"type\":\"redacted_thinking\",\"data\":\"\"},"
       "{\"type\":\"tool_use\",\"id\":\"i\",\"name\":\"f\",\"input\":{\"x\":1}}]}]}",
       "[" USER ",{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"i\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1}}}],"
       "\"reasoning_content\":\"a\"}]", false},
      {"{\"messages\":[" USER ",{\"role\":\"user\",\"content\":[" T("b") ",{\"type\":\"tool_result\",\"tool_use_id\":\"i\"}]}," USER "," USER "]}",
       "[{\"role\":\"user\",\"content\":[" P("hi") "," P("b") "]},{\"role\":\"tool\",\"content\":\"\",\"tool_call_id\":\"i\"},"
       "{\"role\":\"user\",\"content\":[" P("hi") "," P("hi") "]}]", false},
      {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":[{\"type\":\"thinking\",\"thinking\":\"t\"}," T("b") "]}]}",
       "[{\"role\":\"assistant\",\"content\":[" P("a") "," P("b") "],\"reasoning_content\":\"t\"}]", true},
      {"{\"messages\":[" USER ",{\"role\":\"assistant\",\"content\":[" T("go") "]}]}", "[" USER ",{\"role\":\"assistant\",\"content\":\"go\"}]", true},
      {"{\"messages\":[" USER ",{\"role\":\"assistant\",\"content\":[{\"type\":\"redacted_thinking\"}]}]}", "[" USER ",{\"role\":\"assistant\",\"content\":\"\"}]", false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct result r = read_text(cases[i].body);
    if (r.code < 0) fail_msg("%s: %s", cases[i].body, r.err.message);
    expect(cases[i].body, r.params.messages, cases[i].messages);
    assert_int_equal(r.params.continue_final_message, cases[i].continues);
    assert_int_equal(r.params.add_generation_prompt, !cases[i].continues);
    end(&r);
  }
}

static void test_tools(void **state) {
  (void)state;
  struct result r = read_text("{\"tools\":[{\"name\":\"f\",\"input_schema\":{\"type\":\"object\"},\"description\":\"d\",\"cache_control\":{}}],"
                         "\"tool_choice\":{\"type\":\"tool\",\"name\":\"f\",\"disable_parallel_tool_use\":true}}");
  assert_int_equal(r.code, TL_OK);
  expect("tools", r.params.tools, "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":{\"type\":\"object\"}}}]");
  assert_int_equal(r.params.calls, API_CALLS_NAMED);
  assert_string_equal(r.params.tool_name, "f");
  assert_false(r.params.parallel_tool_calls);
  end(&r);
}

static void test_variables(void **state) {
  (void)state;
  static const struct {
    const char *body, *variables;
  } cases[] = {
      {"{\"messages\":[" USER "]}", "absent"},
      {"{\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":1024}}", "{\"enable_thinking\":true}"},
      {"{\"thinking\":{\"type\":\"disabled\"},\"output_config\":{\"effort\":\"xhigh\"}}", "{\"enable_thinking\":false,\"reasoning_effort\":\"high\"}"},
      {"{\"chat_template_kwargs\":{\"enable_thinking\":1,\"x\":2},\"thinking\":{\"type\":\"adaptive\"}}", "{\"enable_thinking\":1,\"x\":2}"},
      {"{\"output_config\":{\"format\":{\"type\":\"json_schema\",\"schema\":{\"type\":\"object\"}},\"effort\":\"low\"}}", "{\"reasoning_effort\":\"low\"}"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct result r = read_text(cases[i].body);
    if (r.code < 0) fail_msg("%s: %s", cases[i].body, r.err.message);
    expect(cases[i].body, r.params.chat_template_kwargs, cases[i].variables);
    if (r.params.constraint.field) expect("schema", r.params.constraint.json, "{\"type\":\"object\"}");
    end(&r);
  }
}

/* --- nonsense -------------------------------------------------------------------------------------- */

static uint64_t seed = 1;

static unsigned draw(unsigned n) {
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return (unsigned)(seed >> 33) % n;
}

/* Values of the fields' own words, mostly where they belong. */
static json_t *nonsense(unsigned depth) {
  static const char *const names[] = {"type", "role", "content", "text", "thinking", "id", "name", "input", "tool_use_id", "is_error", "input_schema",
                                      "description", "disable_parallel_tool_use", "budget_tokens", "display", "format", "effort", "schema"};
  static const char *const words[] = {"text", "user", "assistant", "system", "tool_use", "tool_result", "thinking", "redacted_thinking", "image", "custom",
                                      "enabled", "disabled", "tool", "any", "auto", "object", "json_schema", "high", "omitted", "x-anthropic-billing-header", ""};
  switch (draw(depth ? 8 : 5)) {
    case 0: return json_null();
    case 1: return json_integer((json_int_t)draw(3));
    case 2: return json_boolean(draw(2));
    case 3:
    case 4: return json_string(words[draw(sizeof words / sizeof *words)]);
    case 5: {
      json_t *list = json_array();
      for (unsigned n = draw(4); n; n--) json_array_append_new(list, nonsense(depth - 1));
      return list;
    }
    default: break;
  }
  json_t *object = json_object();
  json_object_set_new(object, "type", json_string(words[draw(sizeof words / sizeof *words)]));
  for (unsigned n = draw(6); n; n--) json_object_set_new(object, names[draw(sizeof names / sizeof *names)], nonsense(depth - 1));
  return object;
}

/* One that can stand there, more often than not. */
static json_t *block(unsigned role) {
  if (draw(8) == 0) return nonsense(3);
  json_t *text = json_pack("{s:s,s:s}", "type", "text", "text", draw(2) ? "a" : "x-anthropic-billing-header");
  if (role == 2 || draw(2)) return text;
  json_t *other = role == 0 ? json_pack("{s:s,s:s,s:[O]}", "type", "tool_result", "tool_use_id", "i", "content", text)
                  : draw(2) ? json_pack("{s:s,s:s,s:s,s:{}}", "type", "tool_use", "id", "i", "name", "f", "input")
                            : json_pack("{s:s,s:s}", "type", "thinking", "thinking", "a");
  json_decref(text);
  return other;
}

static json_t *message(void) {
  static const char *const roles[] = {"user", "assistant", "system", "tool"};
  unsigned role = draw(30) ? draw(3) : 3;
  json_t *blocks = json_array();
  for (unsigned n = draw(4); n; n--) json_array_append_new(blocks, block(role));
  return json_pack("{s:s,s:o}", "role", roles[role], "content", blocks);
}

static void test_nonsense(void **state) {
  (void)state;
  static const char *const others[] = {"system", "tools", "tool_choice", "thinking", "output_config", "chat_template_kwargs"};
  unsigned n_fine = 0, n_wrong = 0;
  for (unsigned i = 0; i < 20000; i++) {
    json_t *messages = json_array(), *body = json_object();
    for (unsigned n = draw(4); n; n--) json_array_append_new(messages, message());
    json_object_set_new(body, "messages", messages);
    for (unsigned k = 0; k < 5; k++)
      if (draw(12) == 0) json_object_set_new(body, others[k], nonsense(3));
    if (draw(3) == 0) json_object_set_new(body, others[5], json_object());
    struct result r = read_body(body);
    n_fine += r.code == TL_OK;
    n_wrong += r.code < 0;
    if (r.code < 0) assert_memory_equal(r.err.message, r.err.field, strlen(r.err.field)); /* each says where */
    if (r.code == TL_OK) assert_true(json_array_size(r.params.messages) > 0);
    end(&r);
  }
  assert_true(n_fine > 100 && n_wrong > 100);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_messages),
      cmocka_unit_test(test_tools),
      cmocka_unit_test(test_variables),
      cmocka_unit_test(test_nonsense),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
