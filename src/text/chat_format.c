/* SPDX-License-Identifier: MIT */
/* The chat template that a model folder ships, and its variables. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_private.h"
#include "tokenlane/model.h"

struct tl_chat_format {
  struct tl_template *tmpl;
  json_t *with_prompt, *without_prompt; /* trusted variables; immutable after load */
};

void tl_chat_format_free(struct tl_chat_format *format) {
  if (!format) return;
  tl_template_free(format->tmpl);
  json_decref(format->with_prompt);
  json_decref(format->without_prompt);
  free(format);
}

/* A special token is a string or an object with the string as `content`. */
static json_t *token_text(json_t *config, const char *key) {
  json_t *value = json_object_get(config, key);
  if (json_is_object(value)) value = json_object_get(value, "content");
  return json_is_string(value) ? json_incref(value) : json_string("");
}

static json_t *variables(json_t *config, bool add_generation_prompt) {
  static const char *const keys[] = {"bos_token", "eos_token", "pad_token", "unk_token"};
  json_t *v = json_object();
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) json_object_set_new(v, keys[i], token_text(config, keys[i]));
  json_object_set_new(v, "add_generation_prompt", json_boolean(add_generation_prompt));
  return v;
}

/* chat_template is the source, or a list of {name, template}: "default" is meant. */
static json_t *config_template(json_t *config) {
  json_t *value = json_object_get(config, "chat_template"), *entry;
  if (!json_is_array(value)) return value;
  size_t i;
  json_array_foreach(value, i, entry) {
    const char *name = json_string_value(json_object_get(entry, "name"));
    if (name && strcmp(name, "default") == 0) return json_object_get(entry, "template");
  }
  return NULL;
}

#define MAX_TEMPLATE_BYTES ((size_t)1 << 20)

static int compile_file(struct tl_chat_format *format, FILE *file, struct tl_error *err) {
  char *text = malloc(MAX_TEMPLATE_BYTES + 1);
  if (!text) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  size_t length = fread(text, 1, MAX_TEMPLATE_BYTES + 1, file);
  int r = length <= MAX_TEMPLATE_BYTES ? tl_template_compile(text, length, &format->tmpl, err)
                                       : tl_error_set(err, TL_ELIMIT, NULL, "the template has more than 1 MiB");
  free(text);
  return r;
}

static int compile(struct tl_chat_format *format, const char *folder, json_t *config, struct tl_error *err) {
  char path[4096];
  snprintf(path, sizeof path, "%s/chat_template.jinja", folder);
  FILE *file = fopen(path, "rb");
  if (file) {
    int r = compile_file(format, file, err);
    fclose(file);
    if (r < 0) tl_error_prefix(err, path);
    return r;
  }
  json_t *source = config_template(config);
  if (!json_is_string(source)) return TL_OK;
  int r = tl_template_compile(json_string_value(source), json_string_length(source), &format->tmpl, err);
  if (r < 0) tl_error_prefix(err, "tokenizer_config.json: chat_template");
  return r;
}

/* The text of a special token of a GGUF file. */
static void set_gguf_token(const struct tl_gguf *g, const char *key, const char *name, json_t *config) {
  struct tl_gguf_list tokens;
  const char *text;
  size_t length;
  int64_t id;
  if (!tl_gguf_integer(g, key, &id) || !tl_gguf_list(g, "tokenizer.ggml.tokens", &tokens)) return;
  for (int64_t i = 0; i <= id; i++)
    if (!tl_gguf_next_text(&tokens, &text, &length)) return;
  if (id >= 0) json_object_set_new(config, name, json_stringn(text, length));
}

/* What tokenizer_config.json would say; NULL: the file says nothing of it. */
static int read_gguf(const char *path, json_t **ret, struct tl_error *err) {
  struct tl_gguf *g;
  const char *text;
  size_t length;
  *ret = NULL;
  int r = tl_gguf_open(path, &g, err);
  if (r < 0) return r;
  if (tl_gguf_text(g, "tokenizer.chat_template", &text, &length)) {
    json_t *source = json_stringn(text, length);
    *ret = json_object();
    json_object_set_new(*ret, "chat_template", source);
    set_gguf_token(g, "tokenizer.ggml.bos_token_id", "bos_token", *ret);
    set_gguf_token(g, "tokenizer.ggml.eos_token_id", "eos_token", *ret);
    set_gguf_token(g, "tokenizer.ggml.padding_token_id", "pad_token", *ret);
    set_gguf_token(g, "tokenizer.ggml.unknown_token_id", "unk_token", *ret);
    if (!source) r = tl_error_set(err, TL_ECORRUPT, NULL, "%s: tokenizer.chat_template: expected UTF-8", path);
  }
  tl_gguf_close(g);
  return r;
}

static int read_config(const char *folder, json_t **ret, struct tl_error *err) {
  char path[4096];
  snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
  json_error_t json_error;
  *ret = json_load_file(path, JSON_ALLOW_NUL, &json_error);
  if (!*ret && json_error_code(&json_error) != json_error_cannot_open_file)
    return tl_error_set(err, TL_ECORRUPT, NULL, "%s:%d: %s", path, json_error.line, json_error.text);
  return TL_OK;
}

int tl_chat_format_load(const char *model, struct tl_chat_format **ret, struct tl_error *err) {
  char folder[4000];
  json_t *config = NULL;
  *ret = NULL;
  int r = tl_gguf_is_path(model) ? read_gguf(model, &config, err) : TL_OK;
  tok_folder(model, folder, sizeof folder);
  if (r == TL_OK && !config) r = read_config(folder, &config, err);
  struct tl_chat_format *format = calloc(1, sizeof *format);
  if (r == TL_OK) r = format ? compile(format, folder, config, err) : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  if (r == TL_OK && format->tmpl) {
    format->with_prompt = variables(config, true);
    format->without_prompt = variables(config, false);
    *ret = format;
  } else {
    tl_chat_format_free(format);
  }
  json_decref(config);
  return r;
}

int tl_chat_format_render(const struct tl_chat_format *format, json_t *messages, bool add_generation_prompt,
                          const struct tl_template_limits *limits, struct tl_rendered *ret, struct tl_error *err) {
  json_t *untrusted = json_object();
  json_object_set(untrusted, "messages", messages);
  int r = tl_template_render(format->tmpl, add_generation_prompt ? format->with_prompt : format->without_prompt,
                             untrusted, limits, ret, err);
  json_decref(untrusted);
  return r;
}
