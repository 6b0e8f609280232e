/* SPDX-License-Identifier: MIT */
/* The chat templates that a model ships, and the special tokens that they see. Files of their own
 * come before what tokenizer_config.json or GGUF's metadata has, as in transformers, and chat_template.json after it. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/chat_private.h"
#include "text/tokenizer_private.h"
#include "tokenlane/base/json.h"
#include "tokenlane/model.h"

#define MAX_TEMPLATES 64
#define MAX_TEMPLATE_BYTES ((size_t)1 << 20)

struct tl_chat_format {
  struct tl_chat_template templates[MAX_TEMPLATES];
  size_t n;
  json_t *tokens;
};

void tl_chat_format_free(struct tl_chat_format *format) {
  if (!format) return;
  for (size_t i = 0; i < format->n; i++) {
    tl_template_free(format->templates[i].tmpl);
    free(format->templates[i].name);
    free(format->templates[i].source);
  }
  json_decref(format->tokens);
  free(format);
}

static const struct tl_chat_template *find(const struct tl_chat_format *format, const char *name) {
  for (size_t i = 0; i < format->n; i++)
    if (strcmp(format->templates[i].name, name) == 0) return &format->templates[i];
  return NULL;
}

const struct tl_chat_template *tl_chat_format_pick(const struct tl_chat_format *format, const char *name,
                                                   bool with_tools) {
  if (name) return find(format, name);
  const struct tl_chat_template *found = with_tools ? find(format, "tool_use") : NULL;
  return found ? found : find(format, "default");
}

unsigned tl_chat_template_takes(const struct tl_chat_template *tmpl) {
  return tmpl->takes;
}

bool tl_chat_template_says(const struct tl_chat_template *tmpl, const char *text) {
  return memmem(tmpl->source, tmpl->length, text, strlen(text)) != NULL;
}

static int add(struct tl_chat_format *format, const char *name, const char *source, size_t length, struct tl_error *err) {
  struct tl_chat_template *t = &format->templates[format->n];
  if (format->n == MAX_TEMPLATES) return tl_error_set(err, TL_ELIMIT, NULL, "more than %d chat templates", MAX_TEMPLATES);
  if (length > MAX_TEMPLATE_BYTES) return tl_error_set(err, TL_ELIMIT, NULL, "the template has more than 1 MiB");
  int r = tl_template_compile(source, length, &t->tmpl, err);
  if (r < 0) return r;
  char *own_name = strdup(name), *own_source = malloc(length + 1);
  if (!own_name || !own_source) {
    tl_template_free(t->tmpl);
    free(own_name);
    free(own_source);
    return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  }
  memcpy(own_source, source, length);
  t->tokens = format->tokens;
  t->name = own_name;
  t->source = own_source;
  t->length = length;
  format->n++;
  t->takes = chat_probe(t);
  return TL_OK;
}

/* --- special tokens ------------------------------------------------------------------------- */
/* A string, or an object with the string as `content`; NULL: neither. */
static json_t *token_text(json_t *value) {
  if (json_is_object(value)) value = json_object_get(value, "content");
  return json_is_string(value) && json_string_length(value) ? value : NULL;
}

/* transformers' special_tokens_map: what is not set is not there. */
static json_t *special_tokens(json_t *config) {
  static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
  json_t *tokens = json_object(), *list = json_object_get(config, "additional_special_tokens"), *value;
  const char *key;
  size_t i;
  for (i = 0; i < sizeof keys / sizeof *keys; i++)
    if ((value = token_text(json_object_get(config, keys[i])))) json_object_set(tokens, keys[i], value);
  json_object_foreach(json_object_get(config, "extra_special_tokens"), key, value)
    if ((value = token_text(value))) json_object_set(tokens, key, value);
  if (json_array_size(list)) {
    json_t *texts = json_array();
    json_array_foreach(list, i, value)
      if ((value = token_text(value))) json_array_append(texts, value);
    json_object_set_new(tokens, "additional_special_tokens", texts);
  }
  return tokens;
}

/* --- files --------------------------------------------------------------------------------- */
static int add_file(struct tl_chat_format *format, const char *name, const char *path, FILE *file, struct tl_error *err) {
  char *text = malloc(MAX_TEMPLATE_BYTES + 1);
  int r = tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  if (text) {
    size_t length = fread(text, 1, MAX_TEMPLATE_BYTES + 1, file);
    r = ferror(file) ? tl_error_set(err, TL_EIO, NULL, "cannot be read: %s", strerror(errno))
                     : add(format, name, text, length, err);
  }
  free(text);
  return r < 0 ? tl_error_prefix(err, path) : TL_OK;
}

/* additional_chat_templates/NAME.jinja */
static int add_named_files(struct tl_chat_format *format, const char *folder, struct tl_error *err) {
  char path[4300];
  snprintf(path, sizeof path, "%s/additional_chat_templates", folder);
  DIR *entries = opendir(path);
  struct dirent *entry;
  int r = TL_OK;
  while (entries && r == TL_OK && (entry = readdir(entries))) {
    char *end = strstr(entry->d_name, ".jinja");
    if (!end || end[6] || end == entry->d_name) continue;
    snprintf(path, sizeof path, "%s/additional_chat_templates/%s", folder, entry->d_name);
    *end = 0;
    FILE *file = fopen(path, "rb");
    r = file ? add_file(format, entry->d_name, path, file, err)
             : tl_error_set(err, TL_EIO, NULL, "%s: %s", path, strerror(errno));
    if (file) fclose(file);
  }
  if (entries) closedir(entries);
  return r;
}

static int add_files(struct tl_chat_format *format, const char *folder, struct tl_error *err) {
  char path[4300];
  snprintf(path, sizeof path, "%s/chat_template.jinja", folder);
  FILE *file = fopen(path, "rb");
  int r = file ? add_file(format, "default", path, file, err) : TL_OK;
  if (file) fclose(file);
  return r < 0 ? r : add_named_files(format, folder, err);
}

/* chat_template is the source, or a list of {name, template}. */
static int add_config(struct tl_chat_format *format, json_t *config, struct tl_error *err) {
  json_t *value = json_object_get(config, "chat_template"), *entry;
  size_t i;
  int r = TL_OK;
  if (json_is_string(value)) r = add(format, "default", json_string_value(value), json_string_length(value), err);
  json_array_foreach(value, i, entry) {
    const char *name = json_string_value(json_object_get(entry, "name"));
    json_t *source = json_object_get(entry, "template");
    if (!name || !json_is_string(source)) r = tl_error_set(err, TL_ECORRUPT, NULL, "[%zu]: expected a name and a template", i);
    else if (find(format, name)) r = tl_error_set(err, TL_ECORRUPT, NULL, "[%zu]: a second template '%.80s'", i, name);
    else r = add(format, name, json_string_value(source), json_string_length(source), err);
    if (r < 0) break;
  }
  return r < 0 ? tl_error_prefix(err, "chat_template") : TL_OK;
}

/* --- GGUF ----------------------------------------------------------------------------------- */
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

static void push_gguf_template(const struct tl_gguf *g, json_t *list, const char *name, const char *key) {
  const char *text;
  size_t length;
  if (!tl_gguf_text(g, key, &text, &length)) return;
  json_t *entry = json_object(), *source = json_stringn(text, length);
  json_object_set_new(entry, "name", json_string(name));
  json_object_set_new(entry, "template", source ? source : json_null()); /* not UTF-8: add_config says so */
  json_array_append_new(list, entry);
}

/* tokenizer.chat_template, and tokenizer.chat_template.NAME for each of tokenizer.chat_templates. */
static json_t *gguf_templates(const struct tl_gguf *g) {
  struct tl_gguf_list names;
  const char *text;
  size_t length;
  json_t *list = json_array();
  push_gguf_template(g, list, "default", "tokenizer.chat_template");
  if (!tl_gguf_list(g, "tokenizer.chat_templates", &names)) return list;
  while (tl_gguf_next_text(&names, &text, &length) && json_array_size(list) <= MAX_TEMPLATES) {
    char name[128], key[160];
    snprintf(name, sizeof name, "%.*s", length < sizeof name ? (int)length : (int)sizeof name - 1, text);
    snprintf(key, sizeof key, "tokenizer.chat_template.%s", name);
    if (strcmp(name, "default") != 0) push_gguf_template(g, list, name, key);
  }
  return list;
}

/* What tokenizer_config.json would say; NULL: the file says nothing of it. */
static int read_gguf(const char *path, json_t **ret, struct tl_error *err) {
  struct tl_gguf *g;
  *ret = NULL;
  int r = tl_gguf_open(path, &g, err);
  if (r < 0) return r;
  json_t *templates = gguf_templates(g);
  if (json_array_size(templates)) {
    *ret = json_object();
    json_object_set(*ret, "chat_template", templates);
    set_gguf_token(g, "tokenizer.ggml.bos_token_id", "bos_token", *ret);
    set_gguf_token(g, "tokenizer.ggml.eos_token_id", "eos_token", *ret);
    set_gguf_token(g, "tokenizer.ggml.padding_token_id", "pad_token", *ret);
    set_gguf_token(g, "tokenizer.ggml.unknown_token_id", "unk_token", *ret);
  }
  json_decref(templates);
  tl_gguf_close(g);
  return TL_OK;
}

/* A file that need not be there: *ret is NULL then. */
static int read_json(const char *path, json_t **ret, struct tl_error *err) {
  json_error_t why;
  *ret = tl_json_load_file(path, JSON_ALLOW_NUL, &why);
  if (*ret || json_error_code(&why) == json_error_cannot_open_file) return TL_OK;
  if (tl_json_is_short(*ret, &why, err)) return TL_ENOMEM;
  return tl_error_set(err, TL_ECORRUPT, NULL, "%s:%d: %s", path, why.line, why.text);
}

/* special_tokens_map.json has those tokens that older configurations do not name. */
static int add_special_tokens(const char *folder, json_t *config, struct tl_error *err) {
  char path[4300];
  json_t *map;
  snprintf(path, sizeof path, "%s/special_tokens_map.json", folder);
  int r = read_json(path, &map, err);
  json_object_update_missing(config, map);
  json_decref(map);
  return r;
}

/* Where models of pictures had theirs until 2025, some of them nowhere else. */
static int add_processor_file(struct tl_chat_format *format, const char *folder, struct tl_error *err) {
  char path[4300];
  json_t *object;
  snprintf(path, sizeof path, "%s/chat_template.json", folder);
  int r = read_json(path, &object, err);
  if (!object) return r;
  r = add_config(format, object, err);
  json_decref(object);
  return r < 0 ? tl_error_prefix(err, path) : TL_OK;
}

/* --- all of it ---------------------------------------------------------------------------------- */
/* path: of the file that *ret is from. */
static int read_config(const char *model, const char *folder, char *path, size_t size, json_t **ret, struct tl_error *err) {
  *ret = NULL;
  snprintf(path, size, "%s", model);
  int r = tl_gguf_is_path(model) ? read_gguf(model, ret, err) : TL_OK;
  if (r < 0 || *ret) return r;
  snprintf(path, size, "%s/tokenizer_config.json", folder);
  r = read_json(path, ret, err);
  if (r < 0) return r;
  if (!*ret) *ret = json_object();
  return add_special_tokens(folder, *ret, err);
}

int tl_chat_format_load(const char *model, struct tl_chat_format **ret, struct tl_error *err) {
  char folder[4000], path[4096];
  json_t *config = NULL;
  uint64_t shortages = tl_json_shortages();
  *ret = NULL;
  tok_folder(model, folder, sizeof folder);
  int r = read_config(model, folder, path, sizeof path, &config, err);
  struct tl_chat_format *format = calloc(1, sizeof *format);
  if (r == TL_OK && !format) r = tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  if (r == TL_OK) {
    format->tokens = special_tokens(config);
    r = add_files(format, folder, err);
    if (r == TL_OK && format->n == 0 && (r = add_config(format, config, err)) < 0) tl_error_prefix(err, path);
    if (r == TL_OK && format->n == 0) r = add_processor_file(format, folder, err);
  }
  json_decref(config);
  if (r == TL_OK && tl_json_shortages() != shortages) r = tl_error_set(err, TL_ENOMEM, NULL, "out of memory"); /* of a template's variables, say */
  if (r == TL_OK && format->n) *ret = format;
  else tl_chat_format_free(format);
  return r;
}

int tl_chat_format_new(const struct tl_chat_format *base, const char *source, size_t length,
                       struct tl_chat_format **ret, struct tl_error *err) {
  *ret = NULL;
  struct tl_chat_format *format = calloc(1, sizeof *format);
  if (!format) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  format->tokens = base ? json_incref(base->tokens) : json_object();
  int r = add(format, "default", source, length, err);
  if (r == TL_OK) *ret = format;
  else tl_chat_format_free(format);
  return r;
}
