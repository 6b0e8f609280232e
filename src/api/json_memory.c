/* SPDX-License-Identifier: MIT */
#include "api/json_memory.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdlib.h>

/* A text that is being read. Nothing of it is freed meanwhile, so that all of it can be. */
struct load {
  jmp_buf out;
  void **taken, **given; /* (cap) what jansson was given, and what of it it gave back */
  size_t n_taken, n_given, cap;
};

static _Thread_local uint64_t n_shortages;
static _Thread_local struct load *load; /* NULL: none */

static bool has_slot(struct load *l) {
  if (l->n_taken < l->cap) return true;
  size_t cap = l->cap ? 2 * l->cap : 64;
  void **taken = realloc(l->taken, cap * sizeof *taken);
  if (!taken) return false;
  l->taken = taken;
  void **given = realloc(l->given, cap * sizeof *given);
  if (!given) return false;
  l->given = given;
  l->cap = cap;
  return true;
}

/* While it reads a text, jansson does not come back without: of a string that it could not save whole it misses the closing quote, and
 * copies on behind its end. */
static void *take(size_t bytes) {
  void *memory = !load || has_slot(load) ? malloc(bytes) : NULL;
  if (!memory) n_shortages++;
  if (!memory && load) longjmp(load->out, 1);
  if (load) load->taken[load->n_taken++] = memory;
  return memory;
}

static void give(void *memory) {
  if (load && memory) load->given[load->n_given++] = memory;
  else free(memory);
}

void api_json_watch(void) {
  json_set_alloc_funcs(take, give);
}

uint64_t api_json_shortages(void) {
  return n_shortages;
}

static json_t *try_load(struct load *l, const char *text, size_t length, size_t flags, json_error_t *ret_why) {
  return setjmp(l->out) ? NULL : json_loadb(text, length, flags, ret_why);
}

json_t *api_json_load(const char *text, size_t length, size_t flags, json_error_t *ret_why) {
  uint64_t before = n_shortages;
  struct load l = {.cap = 0};
  load = &l;
  json_t *value = try_load(&l, text, length, flags, ret_why);
  load = NULL;
  bool whole = n_shortages == before;
  void **over = whole ? l.given : l.taken;
  for (size_t i = 0, n = whole ? l.n_given : l.n_taken; i < n; i++) free(over[i]);
  free(l.taken);
  free(l.given);
  return value;
}
