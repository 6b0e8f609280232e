/* SPDX-License-Identifier: MIT */
#include "api/json_memory.h"

#include <stdlib.h>

static _Thread_local uint64_t n_shortages;

static void *take(size_t bytes) {
  void *memory = malloc(bytes);
  if (!memory) n_shortages++;
  return memory;
}

void api_json_watch(void) {
  json_set_alloc_funcs(take, free);
}

uint64_t api_json_shortages(void) {
  return n_shortages;
}

json_t *api_json_load(const char *text, size_t length, size_t flags, json_error_t *ret_why) {
  uint64_t before = n_shortages;
  json_t *value = json_loadb(text, length, flags, ret_why);
  if (n_shortages == before) return value;
  json_decref(value);
  return NULL;
}
