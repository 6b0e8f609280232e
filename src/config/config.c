/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_private.h"

static void free_strings(struct tl_strings *strings) {
  for (unsigned i = 0; i < strings->n; i++) free(strings->items[i]);
  free(strings->items);
  *strings = (struct tl_strings){0};
}

void tl_config_done(struct tl_config *config) {
  for (unsigned i = 0; i < config_n_keys; i++) {
    void *place = (char *)config + config_keys[i].offset;
    if (config_keys[i].kind == KEY_STRING || config_keys[i].kind == KEY_CHOICE)
      free(*(char **)place);
    else if (config_keys[i].kind == KEY_STRINGS)
      free_strings(place);
  }
  config_free_models(config);
  memset(config, 0, sizeof *config);
}

int tl_config_init(struct tl_config *config) {
  memset(config, 0, sizeof *config);
  for (unsigned i = 0; i < config_n_keys; i++)
    if (tl_config_set(config, config_keys[i].name, config_keys[i].standard, NULL) < 0) return TL_ENOMEM;
  memset(config->given, 0, sizeof config->given); /* defaults are not */
  return TL_OK;
}

/* --- setting from text -------------------------------------------------------------- */

static int replace_string(char **place, const char *value, struct tl_error *err) {
  char *copy = strdup(value);
  if (!copy) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  free(*place);
  *place = copy;
  return TL_OK;
}

static int set_strings(struct tl_strings *place, const char *value, struct tl_error *err) {
  struct tl_strings list = {0};
  while (*value) {
    size_t length = strcspn(value, ",");
    char **items = realloc(list.items, (list.n + 1) * sizeof *items);
    if (items) list.items = items;
    char *item = items ? strndup(value, length) : NULL;
    if (!item) {
      free_strings(&list);
      return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
    }
    list.items[list.n++] = item;
    value += length + (value[length] == ',');
  }
  free_strings(place);
  *place = list;
  return TL_OK;
}

static int set_integer(const struct config_key *k, int64_t *place, const char *value, struct tl_error *err) {
  char *end;
  errno = 0;
  long long v = strtoll(value, &end, 10);
  if (end == value || *end || errno || v < k->min || v > k->max)
    return tl_error_set(err, TL_EINVAL, k->name, "%s: expected an integer from %lld to %lld, got %.60s", k->name,
                        (long long)k->min, (long long)k->max, value);
  *place = v;
  return TL_OK;
}

static int set_choice(const struct config_key *k, char **place, const char *value, struct tl_error *err) {
  size_t length = strlen(value);
  for (const char *c = k->choices; c; c = strchr(c, '|') ? strchr(c, '|') + 1 : NULL)
    if (length && strcspn(c, "|") == length && memcmp(c, value, length) == 0)
      return replace_string(place, value, err);
  return tl_error_set(err, TL_EINVAL, k->name, "%s: expected one of %s, got %.60s", k->name, k->choices, value);
}

/* Edits between two names (Levenshtein), for "did you mean". */
static unsigned distance(const char *a, const char *b) {
  unsigned row[64];
  size_t n = strlen(b);
  if (n >= 63) return 99;
  for (unsigned k = 0; k <= n; k++) row[k] = k;
  for (unsigned i = 1; *a; i++, a++) {
    unsigned diagonal = row[0];
    row[0] = i;
    for (size_t k = 1; k <= n; k++) {
      unsigned best = diagonal + (*a != b[k - 1]);
      if (row[k] + 1 < best) best = row[k] + 1;
      if (row[k - 1] + 1 < best) best = row[k - 1] + 1;
      diagonal = row[k];
      row[k] = best;
    }
  }
  return row[n];
}

/* The same, but that a key's last part (port) or its group (model) alone, as other servers' options are called, is near. */
static unsigned remoteness(const char *key, const char *name) {
  size_t length = strlen(key);
  const char *last = strrchr(name, '.');
  bool part = (last && strcmp(last + 1, key) == 0) || (strncmp(name, key, length) == 0 && name[length] == '.');
  return part ? 1 : distance(key, name);
}

static int unknown_key(const char *key, struct tl_error *err) {
  unsigned best = 0;
  for (unsigned i = 1; i < config_n_keys; i++)
    if (remoteness(key, config_keys[i].name) < remoteness(key, config_keys[best].name)) best = i;
  return tl_error_set(err, TL_EINVAL, key, "%.60s: no such key; the nearest is %s", key, config_keys[best].name);
}

void config_mark_given(struct tl_config *config, const struct config_key *key) {
  unsigned i = (unsigned)(key - config_keys);
  config->given[i / 64] |= UINT64_C(1) << i % 64;
}

bool config_is_given(const struct tl_config *config, const struct config_key *key) {
  unsigned i = (unsigned)(key - config_keys);
  return config->given[i / 64] >> i % 64 & 1;
}

static int set_key(struct tl_config *config, const struct config_key *k, const char *value, struct tl_error *err) {
  const char *key = k->name;
  void *place = (char *)config + k->offset;
  switch (k->kind) {
    case KEY_STRING: return replace_string(place, value, err);
    case KEY_STRINGS: return set_strings(place, value, err);
    case KEY_INTEGER: return set_integer(k, place, value, err);
    case KEY_CHOICE: return set_choice(k, place, value, err);
    case KEY_MODELS:
      if (!*value) return TL_OK; /* the default: none */
      return tl_error_set(err, TL_EINVAL, key, "%s: is for the configuration's file; options have one model by model.*", key);
    case KEY_BOOL: break;
  }
  if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
    return tl_error_set(err, TL_EINVAL, key, "%s: expected true or false, got %.60s", key, value);
  *(bool *)place = value[0] == 't';
  return TL_OK;
}

int tl_config_set(struct tl_config *config, const char *key, const char *value, struct tl_error *err) {
  const struct config_key *k = config_find_key(key);
  if (!k) return unknown_key(key, err);
  int r = set_key(config, k, value, err);
  if (r == TL_OK) config_mark_given(config, k);
  return r;
}

static bool equal_strings(const struct tl_strings *a, const struct tl_strings *b) {
  bool equal = a->n == b->n;
  for (unsigned i = 0; equal && i < a->n; i++) equal = strcmp(a->items[i], b->items[i]) == 0;
  return equal;
}

bool config_equal_key(const struct config_key *k, const struct tl_config *a, const struct tl_config *b) {
  const void *x = (const char *)a + k->offset, *y = (const char *)b + k->offset;
  switch (k->kind) {
    case KEY_STRING:
    case KEY_CHOICE: return strcmp(*(char *const *)x, *(char *const *)y) == 0;
    case KEY_STRINGS: return equal_strings(x, y);
    case KEY_INTEGER: return *(const int64_t *)x == *(const int64_t *)y;
    case KEY_MODELS: return a->lists_models == b->lists_models && (!a->lists_models || a->n_models == b->n_models);
    case KEY_BOOL: break;
  }
  return *(const bool *)x == *(const bool *)y;
}

static int check_model(const struct tl_config *config, struct tl_error *err) {
  if (!*config->model_path)
    return tl_error_set(err, TL_EINVAL, "model.path", "model.path: is required; name a model folder");
  if (config->devices.n == 0)
    return tl_error_set(err, TL_EINVAL, "devices", "devices: expected at least one device, such as cpu:0");
  for (unsigned i = 0; i < config->devices.n; i++)
    for (unsigned k = 0; k < i; k++)
      if (strcmp(config->devices.items[i], config->devices.items[k]) == 0)
        return tl_error_set(err, TL_EINVAL, "devices", "devices: expected different devices, got %.40s twice",
                            config->devices.items[i]);
  if (config->engine_max_batch_tokens < config->engine_max_batch_size)
    return tl_error_set(err, TL_EINVAL, "engine.max_batch_tokens",
                        "engine.max_batch_tokens: expected at least engine.max_batch_size (%lld), got %lld",
                        (long long)config->engine_max_batch_size, (long long)config->engine_max_batch_tokens);
  return TL_OK;
}

int tl_config_check(const struct tl_config *config, struct tl_error *err) {
  int r = config->n_models ? TL_OK : check_model(config, err);
  for (unsigned i = 0; r == TL_OK && i < config->n_models; i++)
    if ((r = check_model(&config->models[i], err)) < 0) tl_config_name_model(config, i, err);
  if (r < 0) return r;
  if (!*config->http_host && !*config->http_unix)
    return tl_error_set(err, TL_EINVAL, "http.host", "http.host: expected an address, or http.unix to be set");
  if (config->limits_max_timeout_ms && config->limits_default_timeout_ms > config->limits_max_timeout_ms)
    return tl_error_set(err, TL_EINVAL, "limits.default_timeout_ms",
                        "limits.default_timeout_ms: expected at most limits.max_timeout_ms (%lld), got %lld",
                        (long long)config->limits_max_timeout_ms, (long long)config->limits_default_timeout_ms);
  return TL_OK;
}
