/* SPDX-License-Identifier: MIT */
#ifndef CONFIG_PRIVATE_H
#define CONFIG_PRIVATE_H

#include <stddef.h>

#include "tokenlane/config.h"

enum config_kind { KEY_STRING, KEY_STRINGS, KEY_INTEGER, KEY_BOOL, KEY_CHOICE };

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

/* Line (from 1) of the value of a dotted key in JSON text, 0 if it is not found. */
unsigned config_find_line(const char *text, size_t length, const char *key);

#endif
