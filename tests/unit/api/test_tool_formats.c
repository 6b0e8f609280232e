/* SPDX-License-Identifier: MIT */
/* Which format a model's calls have, by what its chat template makes of one: templates in the manner of the well-known ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "api/tool_formats.h"

static const char *format_of(const char *source, size_t length) {
  struct tl_chat_format *chat;
  struct tl_error err = {0};
  if (tl_chat_format_new(NULL, source, length, &chat, &err) < 0) fail_msg("%s", err.message);
  const struct api_tool_format *format = api_tool_format_of(chat);
  tl_chat_format_free(chat);
  return format ? format->name : "none";
}

static void test_templates_of_files(void **state) {
  (void)state;
  static const struct { const char *file, *format; } files[] = {
      {"hermes_calls", "hermes"},  {"headers_tools", "llama3_json"}, {"inst_tools", "mistral"}, {"typescript_channels", "harmony"},
      {"chatml", "none"}, {"gmask", "glm45"}, {"fullwidth_bars", "deepseek_v3"},          {"call_blocks", "none"},          {"xml_tools_generation", "none"}};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    char path[200], source[65536] = "{% set eos_token = '</s>' %}"; /* a model's folder names it */
    snprintf(path, sizeof path, "tests/e2e/templates/%s.jinja", files[i].file);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t known = strlen(source), length = known + fread(source + known, 1, sizeof source - known, file);
    fclose(file);
    if (strcmp(format_of(source, length), files[i].format) != 0) print_error("%s\n", path);
    assert_string_equal(format_of(source, length), files[i].format);
  }
}

#define EACH(call) "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for c in m.tool_calls or [] %}" call "{% endfor %}{% endfor %}"
#define TOOLS "{% for t in tools %}{{ t | tojson }}{% endfor %}"

static void test_what_stands_before_the_name(void **state) {
  (void)state;
  static const struct { const char *source, *format; } templates[] = {
      {EACH("<tool_call>\n{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}</tool_call>"), "hermes"},
      {EACH("<tool_call>{{ c.function | tojson }}</tool_call>"), "hermes"},
      {EACH("<tool_call>\n{ \"arguments\": {{ c.function.arguments | tojson }}, \"name\": \"{{ c.function.name }}\"}\n</tool_call> "), "hermes"},
      {EACH("<|tool_call|>[{{ c.function | tojson }}]"), "granite"},
      {EACH("<tool_call>[{{ c.function | tojson }}]"), "granite"},
      {EACH("<|tool_call|>{{ c.function | tojson }}<|/tool_call|>"), "granite"},
      {EACH("<TOOLCALL>[{{ c.function | tojson }}]</TOOLCALL>"), "nemotron"},
      {EACH("<|tool_call>call:{{ c.function.name }}{b:<|\"|>c<|\"|>}<tool_call|>"), "gemma4"},
      {EACH("[TOOL_CALLS][{{ c.function | tojson }}]"), "mistral"},
      {EACH("[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}"), "mistral"},
      {EACH("<|python_tag|>{\"name\": \"{{ c.function.name }}\", \"parameters\": {{ c.function.arguments | tojson }}}"), "llama3_json"},
      {EACH("<|channel|>commentary to=functions.{{ c.function.name }}<|message|>{{ c.function.arguments | tojson }}<|call|>"), "harmony"},
      {EACH("<tool_call>\n<function={{ c.function.name }}>\n{% for k, v in c.function.arguments | items %}<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}"
            "</function>\n</tool_call>"), "qwen3_coder"},
      {EACH("\n<tool_call>{{ c.function.name }}\n{% for k, v in c.function.arguments.items() %}<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v }}</arg_value>\n{% endfor %}</tool_call>"), "glm45"},
      {EACH("[{{ c.function.name + '(' }}{% for p in c.function.arguments %}{{ p + '=' }}{{ '%s' | format(c.function.arguments[p]) }}{% endfor %})]"), "pythonic"},
      {EACH("<function_calls>\n{{ c.function.name }}({% for k, v in c.function.arguments.items() %}{{ k }}='{{ v }}'{% endfor %})\n</function_calls>"), "pythonic"},
      {EACH("{{ '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + c['type'] + '<｜tool▁sep｜>' + "
            "c.function.name + '\\n```json\\n' + c.function.arguments + '\\n```' }}"), "deepseek_v3"}, /* an object it cannot join to a text */
      {"{% for m in messages %}{% if m.tool_calls and m.content is none %}{% for c in m.tool_calls %}<｜tool▁call▁begin｜>"
       "{{ c.function.name + '<｜tool▁sep｜>' + c.function.arguments }}{% endfor %}{% endif %}{% endfor %}", "deepseek_v3"},
      {"prefix function calls with functools marker: functools[{\"name\": [function name], \"arguments\": {}}, ...]"
       EACH("{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments }}}"), "phi4_mini_json"},
      /* other ways: no parser is better than a wrong one */
      {EACH("<tool_call>\n{{ c.function.name }}\n</tool_call>"), "none"},
      {EACH("<function>{{ c.function.name }}"), "none"},
      {EACH("<|tool_call|>{{ c.function.name }}"), "none"},
      {EACH("[{{ c.function.name }}]"), "none"},
      {EACH("{{ c.function.name }}(b='c')"), "none"},
      {EACH("{\"name\": \"{{ c.function.name }}\"}"), "none"},
      /* a tool's definition is no call, and the mark of a call before it says nothing */
      {TOOLS EACH("{{ c.function.name }}"), "none"},
      {"<tool_call>{ " TOOLS EACH("{% if false %}{% endif %}"), "hermes"},
      {"{% if tools %}<AVAILABLE_TOOLS>" TOOLS "</AVAILABLE_TOOLS> use <TOOLCALL>[ ... ]</TOOLCALL>{% endif %}" EACH(""), "nemotron"},
      {"write <|tool_call|> before a list" TOOLS EACH(""), "granite"},
      {"between <tool_call></tool_call>" TOOLS EACH(""), "none"},
      {EACH("<seed:tool_call>\n<function={{ c.function.name }}>\n</function>\n</seed:tool_call>"), "seed_oss"},
      {"reply so: <seed:tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>" TOOLS EACH(""), "seed_oss"},
      {"reply so: <tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>" TOOLS EACH(""), "qwen3_coder"},
      {"Respond in the format [func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]" TOOLS EACH(""), "pythonic"},
      {"{% for t in tools %}\n\n## {{ t.function.name }}\n\n{{ t.function | tojson(indent=4) }}\n在调用上述函数时，"
       "请使用 Json 格式表示调用的参数。{% endfor %}" EACH(""), "glm4"},
      {"return a json object within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>" TOOLS EACH(""),
       "hermes"}, /* SmolLM3 */
      {"{{ raise_exception('no') }}", "none"},
      {"{{ messages[0].content }}", "none"},
      {"", "none"}};
  for (size_t i = 0; i < sizeof templates / sizeof *templates; i++) {
    const char *format = format_of(templates[i].source, strlen(templates[i].source));
    if (strcmp(format, templates[i].format) != 0) print_error("%s\n", templates[i].source);
    assert_string_equal(format, templates[i].format);
  }
  assert_null(api_tool_format_of(NULL));
}

/* Only marks that are special tokens need to be shown: others are text already. */
static void test_marks_of_a_tokenizer(void **state) {
  (void)state;
  static const char json[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"added_tokens\":["
                             "{\"id\":1,\"content\":\"<tool_call>\",\"special\":false},{\"id\":2,\"content\":\"[TOOL_CALLS]\",\"special\":true},"
                             "{\"id\":3,\"content\":\"[ARGS]\",\"special\":true},{\"id\":4,\"content\":\"</s>\",\"special\":true}]}";
  static const char source[] = EACH("[TOOL_CALLS][{{ c.function | tojson }}]");
  char path[64];
  struct tl_error err = {0};
  struct tl_tokenizer *t;
  struct tl_chat_format *chat;
  struct api_tools tools;
  int fd = memfd_create("tokenizer.json", 0);
  assert_int_equal(write(fd, json, strlen(json)), strlen(json));
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (tl_tokenizer_load(path, &t, &err) < 0) fail_msg("%s", err.message);
  assert_int_equal(tl_chat_format_new(NULL, source, strlen(source), &chat, &err), TL_OK);
  api_tools_init(&tools, "auto", chat, t);
  assert_ptr_equal(tools.format, &api_tool_mistral_format);
  assert_int_equal(tools.n_marks, 2);
  assert_int_equal(tools.marks[0], 2);
  assert_int_equal(tools.marks[1], 3);
  api_tools_init(&tools, "hermes", chat, t);
  assert_ptr_equal(tools.format, &api_tool_hermes_format);
  assert_int_equal(tools.n_marks, 0);
  api_tools_init(&tools, "none", chat, t);
  assert_null(tools.format);
  api_tools_init(&tools, "auto", NULL, t);
  assert_null(tools.format);
  tl_chat_format_free(chat);
  tl_tokenizer_free(t);
  close(fd);
}

static void test_ids(void **state) {
  (void)state;
  char id[24];
  api_tool_call_id(NULL, 0x1234, id);
  assert_string_equal(id, "call_0000000000001234");
  api_tool_call_id(&api_tool_hermes_format, UINT64_MAX, id);
  assert_string_equal(id, "call_ffffffffffffffff");
  api_tool_call_id(&api_tool_mistral_format, 0, id);
  assert_string_equal(id, "000000000");
  api_tool_call_id(&api_tool_mistral_format, 61 + 62 * 10, id);
  assert_string_equal(id, "zA0000000");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_templates_of_files), cmocka_unit_test(test_what_stands_before_the_name),
                                     cmocka_unit_test(test_marks_of_a_tokenizer), cmocka_unit_test(test_ids)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
