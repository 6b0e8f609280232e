/* SPDX-License-Identifier: MIT */
#ifndef CONFIG_PRIVATE_H
#define CONFIG_PRIVATE_H

#include <stddef.h>

#include "tokenlane/config.h"

enum config_kind { KEY_STRING, KEY_STRINGS, KEY_INTEGER, KEY_BOOL, KEY_CHOICE, KEY_MODELS };

struct config_key {
  const char *name; /* dotted */
  enum config_kind kind;
  size_t offset;    /* in struct tl_config */
  int64_t min, max;
  const char *standard; /* default, as the command line would give it */
  const char *choices;  /* KEY_CHOICE: a|b|c */
  const char *help;
};

extern const struct config_key config_keys[];
extern const unsigned config_n_keys;
const struct config_key *config_find_key(const char *name);
void config_mark_given(struct tl_config *config, const struct config_key *key);
bool config_is_given(const struct tl_config *config, const struct config_key *key);
bool config_equal_key(const struct config_key *key, const struct tl_config *a, const struct tl_config *b);

/* config_models.c: one more entry of `models`, empty, or NULL. */
struct tl_config *config_add_model(struct tl_config *config);
void config_free_models(struct tl_config *config);
/* The key that an entry of `models` calls `name`: path for model.path, else as everywhere. NULL: it has none such. */
const struct config_key *config_model_key(const char *name);
/* Whether there are keys NAME.something, or, in an entry of `models`, some that it may have. */
bool config_is_group(const char *name, bool in_model);
/* As tl_config_name_model, whatever the configuration. */
int config_put_model(unsigned i, struct tl_error *err);

/* origins.c: http.cors_origins in the form that browsers send. */
int config_write_origins(struct tl_strings *origins, struct tl_error *err);

/* Line (from 1) of the value of a dotted key in JSON text, 0 if it is not found. */
unsigned config_find_line(const char *text, size_t length, const char *key);

#endif
