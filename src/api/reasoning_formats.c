/* SPDX-License-Identifier: MIT */
/* A model's format is what its chat template speaks of: templates take the thoughts of earlier answers out, or put them back, or begin
 * the answer with them. A model whose template does so and that writes none is not harmed: only a mark at the very beginning counts. */
#include "api/reasoning_formats.h"

#include <string.h>

#include "api/tool_json.h"

static const struct api_reasoning_format *const formats[] = {&api_reasoning_think_format, &api_reasoning_seed_format, &api_reasoning_mistral_format,
                                                             &api_reasoning_granite_format, &api_reasoning_harmony_format, &api_reasoning_gemma4_format};

const struct api_reasoning_format *api_reasoning_format_of(const struct tl_chat_format *chat) {
  const struct tl_chat_template *tmpl = chat ? tl_chat_format_pick(chat, NULL, false) : NULL;
  if (!tmpl) return NULL;
  if (tl_chat_template_says(tmpl, "<|channel|>") && tl_chat_template_says(tmpl, "analysis")) return &api_reasoning_harmony_format;
  if (tl_chat_template_says(tmpl, "<channel|>")) return &api_reasoning_gemma4_format;
  if (tl_chat_template_says(tmpl, "<seed:think>")) return &api_reasoning_seed_format;
  if (tl_chat_template_says(tmpl, "[THINK]")) return &api_reasoning_mistral_format;
  if (tl_chat_template_says(tmpl, "<think>") || tl_chat_template_says(tmpl, "</think>")) return &api_reasoning_think_format;
  return tl_chat_template_says(tmpl, "Here is my thought process:") ? &api_reasoning_granite_format : NULL;
}

static const struct api_reasoning_format *format_named(const char *name) {
  for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
    if (strcmp(formats[i]->name, name) == 0) return formats[i];
  return NULL; /* none */
}

void api_reasoning_init(struct api_reasoning *reasoning, const char *name, const struct tl_chat_format *chat,
                        const struct tl_tokenizer *tokenizer, const struct api_tools *tools) {
  *reasoning = (struct api_reasoning){.format = strcmp(name, "auto") == 0 ? api_reasoning_format_of(chat) : format_named(name)};
  const struct api_reasoning_format *format = reasoning->format;
  for (unsigned i = 0; format && i < format->n_marks; i++) {
    int32_t id = tl_tokenizer_find(tokenizer, format->marks[i]);
    if (id < 0 || !tl_tokenizer_is_special(tokenizer, id)) continue;
    reasoning->texts[reasoning->n_marks] = (struct tl_thinking_mark){id, format->marks[i]};
    reasoning->marks[reasoning->n_marks++] = id;
  }
  reasoning->n_all = reasoning->n_marks;
  for (unsigned i = 0; i < tools->n_marks; i++) reasoning->marks[reasoning->n_all++] = tools->marks[i];
  if (format)
    reasoning->thinking = (struct tl_thinking){.begin = format->n_begin ? format->marks[0] : NULL, .ends = {format->ends[0], format->ends[1]},
                                               .marks = reasoning->texts, .n_marks = reasoning->n_marks};
}

/* --- where an answer begins ------------------------------------------------------------------------- */

/* Of a text that ends with a mark. */
static enum api_reasoning_start behind(const struct api_reasoning_format *format, const char *text, size_t length) {
  for (unsigned i = 0; i < format->n_begin + format->n_end; i++) {
    size_t n = strlen(format->marks[i]);
    if (length >= n && memcmp(text + length - n, format->marks[i], n) == 0) return i < format->n_begin ? API_REASONING_WITHIN : API_REASONING_OVER;
  }
  return API_REASONING_MAYBE;
}

enum api_reasoning_start api_reasoning_start_after(const struct api_reasoning_format *format, const char *text, size_t length) {
  while (length && tool_is_white(text[length - 1])) length--;
  return behind(format, text, length);
}

enum api_reasoning_start api_reasoning_start_within(const struct api_reasoning_format *format, const char *text, size_t length) {
  enum api_reasoning_start start = API_REASONING_MAYBE;
  for (; length && start == API_REASONING_MAYBE; length--) start = behind(format, text, length);
  return start == API_REASONING_MAYBE ? API_REASONING_OVER : start;
}
