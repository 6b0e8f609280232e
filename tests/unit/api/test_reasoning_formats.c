/* SPDX-License-Identifier: MIT */
/* Which format a model's thoughts have, by what its chat template speaks of, and where its answers begin. */
#include <sys/mman.h>

#include "api/reasoning_formats.h"
#include "unit.h"

#define THINK &api_reasoning_think_format
#define MISTRAL &api_reasoning_mistral_format
#define GRANITE &api_reasoning_granite_format
#define HARMONY &api_reasoning_harmony_format
#define MAYBE API_REASONING_MAYBE
#define WITHIN API_REASONING_WITHIN
#define OVER API_REASONING_OVER

static const char *format_of(const char *source, size_t length) {
  struct tl_chat_format *chat;
  struct tl_error err = {0};
  if (tl_chat_format_new(NULL, source, length, &chat, &err) < 0) fail_msg("%s", err.message);
  const struct api_reasoning_format *format = api_reasoning_format_of(chat);
  tl_chat_format_free(chat);
  return format ? format->name : "none";
}

static void test_templates_of_files(void **state) {
  (void)state;
  static const struct { const char *file, *format; } files[] = {
      {"thinking_switch", "think"}, {"fullwidth_bars", "think"}, {"gmask", "think"}, {"xml_tools_generation", "think"}, {"typescript_channels", "harmony"},
      {"chatml", "none"}, {"hermes_calls", "none"}, {"headers_tools", "none"}, {"inst_tools", "none"}, {"start_of_role", "none"}};
  for (size_t i = 0; i < UNIT_COUNT(files); i++) {
    char path[200], source[65536];
    snprintf(path, sizeof path, "tests/e2e/templates/%s.jinja", files[i].file);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t length = fread(source, 1, sizeof source, file);
    fclose(file);
    if (strcmp(format_of(source, length), files[i].format) != 0) print_error("%s\n", path);
    assert_string_equal(format_of(source, length), files[i].format);
  }
  assert_null(api_reasoning_format_of(NULL));
}

static void test_what_a_template_says(void **state) {
  (void)state;
  static const struct { const char *source, *format; } templates[] = {
      {"{{ messages[0].content }}", "none"},
      {"{{ messages[0].content.split('</think>')[-1] }}", "think"},
      {"{{ messages[0].content }}{% if add_generation_prompt %}<think>{% endif %}", "think"},
      {"<seed:think>{{ messages[0].content }}</seed:think>", "seed_oss"},
      {"{{ messages[0].content.split('<channel|>')[-1] }}<|channel>thought\n<channel|>", "gemma4"},
      {"[THINK]{{ messages[0].content }}[/THINK]", "mistral"},
      {"after 'Here is my thought process:' and 'Here is my response:'", "granite"},
      {"<|channel|>analysis<|message|>", "harmony"},
      {"<|channel|>final<|message|>", "none"},
      {"{{ raise_exception('no') }}", "none"}};
  for (size_t i = 0; i < UNIT_COUNT(templates); i++)
    assert_string_equal(format_of(templates[i].source, strlen(templates[i].source)), templates[i].format);
}

static void test_where_an_answer_begins(void **state) {
  (void)state;
  static const struct { const struct api_reasoning_format *format; const char *prompt; enum api_reasoning_start after, within; } prompts[] = {
      {THINK, "", MAYBE, OVER},
      {THINK, "<|im_start|>assistant\n", MAYBE, OVER},
      {THINK, "<|im_start|>assistant\n<think>\n", WITHIN, WITHIN},
      {THINK, "<|im_start|>assistant\n<think>\n\n</think>\n\n", OVER, OVER},
      {THINK, "\n<think></think>", OVER, OVER},
      {THINK, "what is <think>?<|im_end|>\n<|im_start|>assistant\n", MAYBE, WITHIN},
      {THINK, "<think>a</think> b", MAYBE, OVER},
      {THINK, "think>", MAYBE, OVER},
      {MISTRAL, "[/INST][THINK]", WITHIN, WITHIN},
      {MISTRAL, "[/INST]", MAYBE, OVER},
      {GRANITE, "Here's my thought process: ", WITHIN, WITHIN},
      {GRANITE, "Here's my thought process: a Here is my response:", OVER, OVER},
      {HARMONY, "<|start|>assistant", MAYBE, OVER}};
  for (size_t i = 0; i < UNIT_COUNT(prompts); i++) {
    size_t length = strlen(prompts[i].prompt);
    if (api_reasoning_start_after(prompts[i].format, prompts[i].prompt, length) != prompts[i].after) print_error("%s\n", prompts[i].prompt);
    assert_int_equal(api_reasoning_start_after(prompts[i].format, prompts[i].prompt, length), prompts[i].after);
    assert_int_equal(api_reasoning_start_within(prompts[i].format, prompts[i].prompt, length), prompts[i].within);
  }
  assert_int_equal(api_reasoning_start_after(THINK, NULL, 0), MAYBE);
  assert_int_equal(api_reasoning_start_within(THINK, NULL, 0), OVER);
}

/* Marks that are special tokens are shown, and a grammar is told of them; those of tools come behind them. */
static void test_marks_of_a_tokenizer(void **state) {
  (void)state;
  static const char json[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"added_tokens\":["
                             "{\"id\":1,\"content\":\"<think>\",\"special\":false},{\"id\":2,\"content\":\"</think>\",\"special\":true},"
                             "{\"id\":3,\"content\":\"<|channel|>\",\"special\":true},{\"id\":4,\"content\":\"</s>\",\"special\":true}]}";
  char path[64];
  struct tl_error err = {0};
  struct tl_tokenizer *t;
  struct api_reasoning reasoning;
  const struct api_tools tools = {.marks = {7, 8}, .n_marks = 2}, none = {0};
  int fd = memfd_create("tokenizer.json", 0);
  assert_int_equal(write(fd, json, strlen(json)), strlen(json));
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (tl_tokenizer_load(path, &t, &err) < 0) fail_msg("%s", err.message);
  api_reasoning_init(&reasoning, "think", NULL, t, &tools);
  assert_ptr_equal(reasoning.format, THINK);
  assert_int_equal(reasoning.n_marks, 1);
  assert_int_equal(reasoning.n_all, 3);
  assert_int_equal(reasoning.marks[0], 2);
  assert_int_equal(reasoning.marks[2], 8);
  assert_string_equal(reasoning.thinking.begin, "<think>");
  assert_string_equal(reasoning.thinking.ends[0], "</think>");
  assert_null(reasoning.thinking.ends[1]);
  assert_int_equal(reasoning.thinking.n_marks, 1);
  assert_int_equal(reasoning.thinking.marks[0].token, 2);
  assert_string_equal(reasoning.thinking.marks[0].text, "</think>");
  api_reasoning_init(&reasoning, "harmony", NULL, t, &none);
  assert_int_equal(reasoning.n_all, 1);
  assert_null(reasoning.thinking.begin);
  assert_string_equal(reasoning.thinking.ends[1], "<|message|>");
  api_reasoning_init(&reasoning, "granite", NULL, t, &none);
  assert_null(reasoning.thinking.ends[0]);
  api_reasoning_init(&reasoning, "none", NULL, t, &tools);
  assert_null(reasoning.format);
  assert_null(reasoning.thinking.ends[0]);
  api_reasoning_init(&reasoning, "auto", NULL, t, &tools);
  assert_null(reasoning.format);
  tl_tokenizer_free(t);
  close(fd);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_templates_of_files), cmocka_unit_test(test_what_a_template_says),
                                     cmocka_unit_test(test_where_an_answer_begins), cmocka_unit_test(test_marks_of_a_tokenizer)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
