/* SPDX-License-Identifier: MIT */
/* Several models: each entry of `models` becomes a whole configuration, in which what the
 * entry does not say is as outside of the list. So whoever makes a model looks at one
 * configuration and does not know how many there are. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_private.h"

#define MAX_MODELS 64 /* each has threads and memory of its own */
#define MAX_ID 200    /* bytes: a metric's label holds twice as many, and each may need an escape */

static const char model_prefix[] = "model.";

/* Of the keys outside of model.*: those that an entry may have. */
static const char *const own_keys[] = {"devices",  "device.memory_percent", "isolation", "cpu.", "sim.", "engine.",
                                       "route.",   "health.",               "limits.max_queue",
                                       "limits.max_waiting_tokens",         "limits.max_total_waiting_tokens"};

static bool is_of_model(const struct config_key *k) {
  return strncmp(k->name, model_prefix, strlen(model_prefix)) == 0;
}

const struct config_key *config_model_key(const char *name) {
  char full[128];
  snprintf(full, sizeof full, "%s%s", model_prefix, name);
  const struct config_key *k = config_find_key(full);
  if (k || !(k = config_find_key(name))) return k;
  for (size_t i = 0; i < sizeof own_keys / sizeof *own_keys; i++) {
    size_t length = strlen(own_keys[i]);
    bool group = own_keys[i][length - 1] == '.';
    if (group ? strncmp(name, own_keys[i], length) == 0 : strcmp(name, own_keys[i]) == 0) return k;
  }
  return NULL;
}

bool config_is_group(const char *name, bool in_model) {
  size_t length = strlen(name);
  for (unsigned i = 0; i < config_n_keys; i++) {
    const struct config_key *k = &config_keys[i];
    if (strncmp(k->name, name, length) == 0 && k->name[length] == '.' && (!in_model || config_model_key(k->name) == k)) return true;
  }
  return false;
}

struct tl_config *config_add_model(struct tl_config *config) {
  struct tl_config *models = config->n_models < MAX_MODELS ? realloc(config->models, (config->n_models + 1) * sizeof *models) : NULL;
  if (!models) return NULL;
  config->models = models;
  if (tl_config_init(&models[config->n_models]) == TL_OK) return &models[config->n_models++];
  tl_config_done(&models[config->n_models]);
  return NULL;
}

void config_free_models(struct tl_config *config) {
  for (unsigned i = 0; i < config->n_models; i++) tl_config_done(&config->models[i]);
  free(config->models);
  config->models = NULL;
  config->n_models = 0;
}

/* --- resolving ----------------------------------------------------------------------------- */

/* A value as the command line would give it, owned by the caller, or NULL. */
static char *value_text(const struct config_key *k, const struct tl_config *config) {
  const void *place = (const char *)config + k->offset;
  const struct tl_strings *list = place;
  char number[32];
  struct tl_buffer out;
  switch (k->kind) {
    case KEY_STRING:
    case KEY_CHOICE: return strdup(*(char *const *)place);
    case KEY_INTEGER: snprintf(number, sizeof number, "%lld", (long long)*(const int64_t *)place); return strdup(number);
    case KEY_BOOL: return strdup(*(const bool *)place ? "true" : "false");
    case KEY_MODELS: return strdup("");
    case KEY_STRINGS: break;
  }
  tl_buffer_init(&out, 0);
  for (unsigned i = 0; i < list->n; i++) {
    if (i) tl_buffer_putc(&out, ',');
    tl_buffer_puts(&out, list->items[i]);
  }
  const char *whole = tl_buffer_string(&out);
  char *text = out.failed ? NULL : strdup(whole); /* "" would be another list */
  tl_buffer_done(&out);
  return text;
}

static int inherit(struct tl_config *model, const struct tl_config *config, bool all, struct tl_error *err) {
  int r = TL_OK;
  uint64_t given[2];
  memcpy(given, model->given, sizeof given);
  for (unsigned i = 0; r == TL_OK && i < config_n_keys; i++) {
    const struct config_key *k = &config_keys[i];
    if (k->kind == KEY_MODELS || config_is_given(model, k) || (!all && is_of_model(k))) continue;
    char *text = value_text(k, config);
    r = text ? tl_config_set(model, k->name, text, err) : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
    free(text);
  }
  memcpy(model->given, given, sizeof given); /* by the entry itself */
  return r;
}

/* The last part of the path, unless it has a name. */
static int name_it(struct tl_config *model, struct tl_error *err) {
  if (*model->model_name) return TL_OK;
  const char *path = model->model_path;
  size_t end = strlen(path);
  while (end > 0 && path[end - 1] == '/') end--;
  size_t start = end;
  while (start > 0 && path[start - 1] != '/') start--;
  char *name = strndup(path + start, end - start);
  if (!name) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  free(model->model_name);
  model->model_name = name;
  return TL_OK;
}

const char *tl_config_adapter_folder(const char *item) {
  const char *equals = strchr(item, '=');
  return equals ? equals + 1 : item;
}

static bool is_adapter(const char *item, const char *id) {
  size_t length = strlen(id);
  return strncmp(item, id, length) == 0 && item[length] == '=';
}

static bool has_id(const struct tl_config *model, const char *id) {
  if (strcmp(model->model_name, id) == 0) return true;
  for (unsigned i = 0; i < model->model_adapters.n; i++)
    if (is_adapter(model->model_adapters.items[i], id)) return true;
  for (unsigned i = 0; i < model->model_aliases.n; i++)
    if (strcmp(model->model_aliases.items[i], id) == 0) return true;
  return false;
}

static int check_lengths(const struct tl_config *model, struct tl_error *err) {
  size_t length = strlen(model->model_name);
  if (!length && *model->model_path) /* without a path tl_config_check says that one is required */
    return tl_error_set(err, TL_EINVAL, "model.path", "model.path: expected a path that ends in a name, or a name to be given, got %.60s",
                        model->model_path);
  if (length > MAX_ID)
    return tl_error_set(err, TL_EINVAL, "model.name", "model.name: expected up to %d bytes, got %zu", MAX_ID, length);
  for (unsigned i = 0; i < model->model_aliases.n; i++) {
    length = strlen(model->model_aliases.items[i]);
    if (length < 1 || length > MAX_ID)
      return tl_error_set(err, TL_EINVAL, "model.aliases", "model.aliases: expected ids of 1 to %d bytes, got one of %zu", MAX_ID, length);
  }
  return TL_OK;
}

/* Each says name=folder, and its name nothing else here. */
static int check_adapters(const struct tl_config *model, struct tl_error *err) {
  static const char key[] = "model.adapters";
  for (unsigned i = 0; i < model->model_adapters.n; i++) {
    const char *item = model->model_adapters.items[i], *folder = tl_config_adapter_folder(item);
    size_t length = folder == item ? 0 : (size_t)(folder - item) - 1;
    if (length < 1 || length > MAX_ID || !*folder)
      return tl_error_set(err, TL_EINVAL, key, "%s: expected name=folder, with a name of 1 to %d bytes, got %.100s", key, MAX_ID, item);
    char id[MAX_ID + 1];
    snprintf(id, sizeof id, "%.*s", (int)length, item);
    bool taken = strcmp(model->model_name, id) == 0;
    for (unsigned k = 0; k < model->model_aliases.n; k++) taken = taken || strcmp(model->model_aliases.items[k], id) == 0;
    for (unsigned k = 0; k < i; k++) taken = taken || is_adapter(model->model_adapters.items[k], id);
    if (taken) return tl_error_set(err, TL_EINVAL, key, "%s: expected names that are no other ids, got %.100s", key, id);
  }
  return TL_OK;
}

/* An id means one model. */
static int check_ids(const struct tl_config *config, unsigned i, struct tl_error *err) {
  const struct tl_config *model = &config->models[i];
  if (check_lengths(model, err) < 0 || check_adapters(model, err) < 0) return tl_config_name_model(config, i, err);
  for (unsigned k = 0; k < i && *model->model_name; k++) {
    const char *id = has_id(&config->models[k], model->model_name) ? model->model_name : NULL;
    const char *key = id ? "name" : "aliases";
    for (unsigned a = 0; !id && a < model->model_aliases.n; a++)
      if (has_id(&config->models[k], model->model_aliases.items[a])) id = model->model_aliases.items[a];
    char adapter[MAX_ID + 1];
    for (unsigned a = 0; !id && a < model->model_adapters.n; a++) {
      const char *item = model->model_adapters.items[a];
      snprintf(adapter, sizeof adapter, "%.*s", (int)(tl_config_adapter_folder(item) - item) - 1, item);
      if (has_id(&config->models[k], adapter)) id = adapter, key = "adapters";
    }
    if (!id) continue;
    char field[64];
    snprintf(field, sizeof field, "models[%u].%s", i, key);
    return tl_error_set(err, TL_EINVAL, field, "%s: expected ids that no other model has, got %.100s, which is models[%u]'s", field,
                        id, k);
  }
  return TL_OK;
}

int tl_config_resolve(struct tl_config *config, struct tl_error *err) {
  for (unsigned i = 0; config->lists_models && i < config_n_keys; i++)
    if (is_of_model(&config_keys[i]) && config_is_given(config, &config_keys[i]))
      return tl_error_set(err, TL_EINVAL, config_keys[i].name, "%s: expected either models or model.*, got both",
                          config_keys[i].name);
  if (config->lists_models && !config->n_models)
    return tl_error_set(err, TL_EINVAL, "models", "models: expected at least one model");
  int r = config_write_origins(&config->http_cors_origins, err);
  if (r < 0) return r;
  if (!config->lists_models && !config_add_model(config)) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (unsigned i = 0; r == TL_OK && i < config->n_models; i++) {
    r = inherit(&config->models[i], config, !config->lists_models, err);
    if (r == TL_OK) r = name_it(&config->models[i], err);
    if (r == TL_OK) r = check_ids(config, i, err);
  }
  return r;
}

/* --- names -------------------------------------------------------------------------------------- */

int config_put_model(unsigned i, struct tl_error *err) {
  char field[TL_ERROR_FIELD + 32], message[TL_ERROR_MESSAGE + TL_ERROR_FIELD + 64]; /* cut by tl_error_set */
  size_t length = strlen(err->field);
  bool leads = length && strncmp(err->message, err->field, length) == 0;
  const char *key = strncmp(err->field, model_prefix, strlen(model_prefix)) == 0 ? err->field + strlen(model_prefix) : err->field;
  snprintf(field, sizeof field, length ? "models[%u].%s" : "models[%u]", i, key);
  snprintf(message, sizeof message, "%s%s%s", field, leads ? "" : ": ", err->message + (leads ? length : 0));
  return tl_error_set(err, err->code, field, "%s", message);
}

int tl_config_name_model(const struct tl_config *config, unsigned i, struct tl_error *err) {
  return config->lists_models ? config_put_model(i, err) : err->code;
}

void tl_config_compare(const struct tl_config *a, const struct tl_config *b,
                       void (*each)(const char *key, void *context), void *context) {
  const struct config_key *models = config_find_key("models");
  for (unsigned i = 0; i < config_n_keys; i++)
    if (!config_equal_key(&config_keys[i], a, b)) each(config_keys[i].name, context);
  if (!a->lists_models || !config_equal_key(models, a, b)) return;
  for (unsigned m = 0; m < a->n_models; m++)
    for (unsigned i = 0; i < config_n_keys; i++) {
      const struct config_key *k = &config_keys[i];
      /* what all inherit has been named */
      if (k == models || config_equal_key(k, &a->models[m], &b->models[m]) || !config_equal_key(k, a, b)) continue;
      char name[128];
      snprintf(name, sizeof name, "models[%u].%s", m, is_of_model(k) ? k->name + strlen(model_prefix) : k->name);
      each(name, context);
    }
}
