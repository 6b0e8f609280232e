/* SPDX-License-Identifier: MIT */
/* The JSON file: nested objects are dotted keys. jansson keeps no lines, so the
 * line of a key that is wrong is found by a second look at the text. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_private.h"
#include "tokenlane/base/json.h"

#define MAX_FILE_BYTES (1 << 20)

struct reader {
  struct tl_config *config;
  const char *path, *text;
  size_t length;
  struct tl_error *err;
  const unsigned *model; /* config is this entry of `models`; NULL: the whole */
};

/* --- lines ----------------------------------------------------------------------------- */

static const char *skip_string(const char *at, const char *end) {
  for (at++; at < end && *at != '"'; at++)
    if (*at == '\\') at++;
  return at < end ? at + 1 : end;
}

static unsigned find_plain(const char *text, size_t length, const char *key) {
  const char *end = text + length, *names[16];
  size_t lengths[16];
  unsigned depth = 0, matched = 0, line = 1;
  bool expect_name = false;
  memset(lengths, 0, sizeof lengths);
  unsigned n_parts = 0;
  for (const char *part = key; part && n_parts < 16; part = strchr(part, '.') ? strchr(part, '.') + 1 : NULL) {
    names[n_parts] = part;
    lengths[n_parts++] = strcspn(part, ".");
  }
  for (const char *at = text; at < end;) {
    if (*at == '"') {
      const char *after = skip_string(at, end);
      size_t n = (size_t)(after - at) - 2;
      bool name = expect_name && depth == matched + 1 && matched < n_parts;
      /* the last part, or all that is left of the key written with dots */
      if (name && n == strlen(names[matched]) && memcmp(at + 1, names[matched], n) == 0) return line;
      if (name && n == lengths[matched] && memcmp(at + 1, names[matched], n) == 0) matched++;
      expect_name = false;
      at = after;
      continue;
    }
    if (*at == '\n') line++;
    if (*at == '{' || *at == '[') depth++;
    if (*at == '{' || *at == ',') expect_name = true;
    if ((*at == '}' || *at == ']') && depth) {
      depth--;
      if (matched > depth) matched = depth;
    }
    at++;
  }
  return 0;
}

/* Where element `index` of a list begins that begins at `at`, or NULL. */
static const char *find_element(const char *at, const char *end, unsigned index) {
  unsigned depth = 0;
  while (at < end) {
    if (*at == '"') {
      at = skip_string(at, end);
      continue;
    }
    if (*at == '{' && depth == 1 && index == 0) return at;
    if (*at == ',' && depth == 1) index--;
    if (*at == '{' || *at == '[') depth++;
    if ((*at == '}' || *at == ']') && --depth == 0) return NULL;
    at++;
  }
  return NULL;
}

/* models[1].path is looked for within that element. */
unsigned config_find_line(const char *text, size_t length, const char *key) {
  unsigned index;
  int n = 0;
  if (sscanf(key, "models[%u]%n", &index, &n) != 1 || n == 0) return find_plain(text, length, key);
  const char *end = text + length, *at = memmem(text, length, "\"models\"", strlen("\"models\""));
  if (at) at = find_element(skip_string(at, end), end, index);
  if (!at) return find_plain(text, length, "models");
  unsigned before = 0;
  for (const char *c = text; c < at; c++) before += *c == '\n';
  unsigned line = key[n] == '.' ? find_plain(at, (size_t)(end - at), key + n + 1) : 0;
  return before + (line ? line : 1);
}

/* --- values ------------------------------------------------------------------------------ */

static int fail(const struct reader *r, const char *key) {
  char message[TL_ERROR_MESSAGE], field[TL_ERROR_FIELD];
  struct tl_error named = {0};
  tl_error_set(&named, TL_EINVAL, key, "%s", r->err ? r->err->message : "");
  if (r->model) config_put_model(*r->model, &named);
  snprintf(field, sizeof field, "%s", named.field);
  snprintf(message, sizeof message, "%s", named.message);
  unsigned line = config_find_line(r->text, r->length, field);
  return tl_error_set(r->err, TL_EINVAL, field, "%.150s:%u: %.240s", r->path, line ? line : 1, message);
}

static int wrong_type(const struct reader *r, const struct config_key *k, const char *expected, const json_t *value) {
  static const char *const names[] = {[JSON_OBJECT] = "an object", [JSON_ARRAY] = "a list",   [JSON_STRING] = "a string",
                                      [JSON_INTEGER] = "an integer", [JSON_REAL] = "a fraction", [JSON_TRUE] = "true",
                                      [JSON_FALSE] = "false",        [JSON_NULL] = "null"};
  tl_error_set(r->err, TL_EINVAL, k->name, "%s: expected %s, got %s", k->name, expected, names[json_typeof(value)]);
  return fail(r, k->name);
}

/* Whether a path is meant from the file's folder, which ends at *ret_slash. */
static bool is_relative(const struct reader *r, const char *value, const char **ret_slash) {
  *ret_slash = strrchr(r->path, '/');
  return value[0] != '/' && value[0] != 0 && *ret_slash;
}

/* An item of a list; with `names_folders` name=folder, the folder meant from the file's. */
static void put_item(const struct reader *r, const char *item, bool names_folders, struct tl_buffer *out) {
  const char *slash, *folder = names_folders ? tl_config_adapter_folder(item) : NULL;
  if (folder && folder > item && is_relative(r, folder, &slash))
    tl_buffer_printf(out, "%.*s%.*s/%s", (int)(folder - item), item, (int)(slash - r->path), r->path, folder);
  else
    tl_buffer_puts(out, item);
}

/* A list of strings as one comma-separated text; false when it is not one. Whether there was memory for it is the buffer's to say. */
static bool join(const struct reader *r, json_t *list, bool names_folders, struct tl_buffer *out) {
  size_t i;
  json_t *item;
  if (!json_is_array(list)) return false;
  json_array_foreach(list, i, item) {
    if (!json_is_string(item) || !json_string_length(item) || strchr(json_string_value(item), ',')) return false;
    if (i) tl_buffer_putc(out, ',');
    put_item(r, json_string_value(item), names_folders, out);
  }
  return true;
}

static int set_text(const struct reader *r, const struct config_key *k, const char *text) {
  return tl_config_set(r->config, k->name, text, r->err) < 0 ? fail(r, k->name) : TL_OK;
}

static int set_list(const struct reader *r, const struct config_key *k, json_t *list) {
  struct tl_buffer text;
  tl_buffer_init(&text, 0);
  bool fine = join(r, list, k->offset == offsetof(struct tl_config, model_adapters), &text);
  const char *joined = tl_buffer_string(&text);
  int result;
  if (!fine) result = wrong_type(r, k, "a list of strings, none empty or with a comma", list);
  else if (text.failed) result = tl_error_set(r->err, TL_ENOMEM, NULL, "out of memory"); /* "": no keys of the API, say, and it is open to all */
  else result = set_text(r, k, joined);
  tl_buffer_done(&text);
  return result;
}

static int set_path(const struct reader *r, const struct config_key *k, const char *value) {
  const char *slash;
  if (!is_relative(r, value, &slash)) return set_text(r, k, value);
  char joined[4096];
  int n = snprintf(joined, sizeof joined, "%.*s/%s", (int)(slash - r->path), r->path, value);
  if (n < 0 || (size_t)n >= sizeof joined) {
    tl_error_set(r->err, TL_EINVAL, k->name, "%s: expected a path of less than %zu bytes", k->name, sizeof joined);
    return fail(r, k->name);
  }
  return set_text(r, k, joined);
}

static int walk(const struct reader *r, json_t *object, const char *prefix);

static int set_models(const struct reader *r, const struct config_key *k, json_t *list) {
  size_t i;
  json_t *entry;
  if (!json_is_array(list)) return wrong_type(r, k, "a list of objects", list);
  config_free_models(r->config); /* of an earlier file */
  r->config->lists_models = true;
  json_array_foreach(list, i, entry) {
    unsigned index = (unsigned)i;
    if (!json_is_object(entry)) return wrong_type(r, k, "a list of objects", entry);
    struct reader model = *r;
    model.model = &index;
    model.config = config_add_model(r->config);
    if (!model.config) {
      tl_error_set(r->err, TL_EINVAL, k->name, "%s: expected fewer models, or there is no memory for them", k->name);
      return fail(r, k->name);
    }
    int result = walk(&model, entry, "");
    if (result < 0) return result;
  }
  return TL_OK;
}

static bool is_path(const struct config_key *k) {
  return strcmp(k->name, "model.path") == 0 || strcmp(k->name, "model.draft") == 0 || strcmp(k->name, "http.api_key_file") == 0;
}

static int set_value(const struct reader *r, const struct config_key *k, json_t *value) {
  char number[32];
  switch (k->kind) {
    case KEY_STRING:
    case KEY_CHOICE:
      if (!json_is_string(value)) return wrong_type(r, k, "a string", value);
      return is_path(k) ? set_path(r, k, json_string_value(value)) : set_text(r, k, json_string_value(value));
    case KEY_BOOL:
      if (!json_is_boolean(value)) return wrong_type(r, k, "true or false", value);
      return set_text(r, k, json_is_true(value) ? "true" : "false");
    case KEY_INTEGER:
      if (!json_is_integer(value)) {
        char expected[80];
        snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)k->min, (long long)k->max);
        return wrong_type(r, k, expected, value);
      }
      snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
      return set_text(r, k, number);
    case KEY_MODELS: return set_models(r, k, value);
    case KEY_STRINGS: break;
  }
  return set_list(r, k, value);
}

static int walk(const struct reader *r, json_t *object, const char *prefix) {
  const char *name;
  json_t *value;
  json_object_foreach(object, name, value) {
    char key[128];
    int n = snprintf(key, sizeof key, "%s%s%s", prefix, *prefix ? "." : "", name);
    bool fits = n > 0 && (size_t)n < sizeof key;
    const struct config_key *k = !fits ? NULL : r->model ? config_model_key(key) : config_find_key(key);
    bool group = json_is_object(value) && !*prefix;
    int result;
    if (strchr(name, '.')) { /* else a key could stand twice in a file */
      tl_error_set(r->err, TL_EINVAL, key, "%.60s: expected nested objects, got a name with a dot", key);
      result = fail(r, key);
    } else if (k) {
      result = set_value(r, k, value);
    } else if (group && (json_object_size(value) || config_is_group(key, r->model))) { /* an empty one says nothing */
      result = walk(r, value, key);
    } else if (r->model && (config_find_key(key) || (group && config_is_group(key, false)))) {
      tl_error_set(r->err, TL_EINVAL, key, "%.60s: is not for one model; expected it outside of models", key);
      result = fail(r, key);
    } else {
      tl_config_set(r->config, key, "", r->err); /* fills the message for an unknown key */
      result = fail(r, key);
    }
    if (result < 0) return result;
  }
  return TL_OK;
}

static char *read_file(const char *path, size_t *ret_length, struct tl_error *err) {
  FILE *file = fopen(path, "rb");
  if (!file) {
    tl_error_set(err, TL_EIO, "config", "%.200s: cannot be read: %s", path, strerror(errno));
    return NULL;
  }
  char *text = malloc(MAX_FILE_BYTES + 1);
  *ret_length = text ? fread(text, 1, MAX_FILE_BYTES + 1, file) : 0;
  int reason = ferror(file) ? errno : 0; /* EISDIR, say */
  fclose(file);
  if (!text) {
    tl_error_set(err, TL_ENOMEM, "config", "out of memory");
  } else if (reason || *ret_length > MAX_FILE_BYTES) {
    tl_error_set(err, TL_EIO, "config", "%.200s: cannot be read: %s", path,
                 reason ? strerror(reason) : "it is larger than 1 MiB");
    free(text);
    return NULL;
  }
  return text;
}

/* jansson shows what stands there, which may be an API key: the line has to do, but for a name that comes twice. */
static int fail_syntax(const struct reader *r, json_error_t *why) {
  if (tl_json_is_short(NULL, why, r->err)) return TL_ENOMEM;
  char *shown = strstr(why->text, " near '");
  if (shown && json_error_code(why) != json_error_duplicate_key) *shown = 0;
  return tl_error_set(r->err, TL_EINVAL, "config", "%.150s:%d: %.200s", r->path, why->line, why->text);
}

int tl_config_load(struct tl_config *config, const char *path, struct tl_error *err) {
  struct reader reader = {.config = config, .path = path, .err = err};
  char *text = read_file(path, &reader.length, err);
  if (!text) return TL_EIO;
  reader.text = text;
  json_error_t json_error;
  json_t *root = tl_json_load(text, reader.length, JSON_REJECT_DUPLICATES, &json_error);
  int r;
  if (!root)
    r = fail_syntax(&reader, &json_error);
  else if (!json_is_object(root))
    r = tl_error_set(err, TL_EINVAL, "config", "%.150s:1: expected a JSON object", path);
  else
    r = walk(&reader, root, "");
  json_decref(root);
  free(text);
  return r;
}

void tl_config_locate(const char *path, struct tl_error *err) {
  size_t length;
  char *text = read_file(path, &length, NULL), place[200];
  unsigned line = text ? config_find_line(text, length, err->field) : 0;
  snprintf(place, sizeof place, "%.150s:%u", path, line);
  if (line) tl_error_prefix(err, place);
  free(text);
}
