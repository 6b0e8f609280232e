/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/json.h"

#include <errno.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenlane/base/buffer.h"

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

void tl_json_watch(void) {
  json_set_alloc_funcs(take, give);
}

uint64_t tl_json_shortages(void) {
  return n_shortages;
}

static json_t *try_load(struct load *l, const char *text, size_t length, size_t flags, json_error_t *ret_why) {
  return setjmp(l->out) ? NULL : json_loadb(text, length, flags, ret_why);
}

/* As jansson has it: the code stands behind the text. */
static json_t *fail(json_error_t *ret_why, enum json_error_code code, const char *what, const char *path, const char *reason) {
  if (!ret_why) return NULL;
  *ret_why = (json_error_t){.line = -1, .column = -1};
  snprintf(ret_why->text, sizeof ret_why->text - 1, "%s%s%s%s", what, path, *path ? ": " : "", reason);
  ret_why->text[sizeof ret_why->text - 1] = (char)code;
  return NULL;
}

json_t *tl_json_load(const char *text, size_t length, size_t flags, json_error_t *ret_why) {
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
  return whole ? value : fail(ret_why, json_error_out_of_memory, "out of memory", "", "");
}

/* 0, or the errno of what failed. */
static int read_all(FILE *file, struct tl_buffer *out) {
  char part[16384];
  size_t n;
  while ((n = fread(part, 1, sizeof part, file)) > 0) tl_buffer_append(out, part, n);
  return out->failed ? ENOMEM : ferror(file) ? errno : 0;
}

/* In the file's own bytes: what takes its place is as long. */
static void bound_infinities(char *text, size_t length) {
  static const char infinity[] = "Infinity", bound[] = "1e300   ";
  const size_t n = sizeof infinity - 1;
  bool quoted = false;
  for (size_t i = 0; i + n <= length; i++) {
    if (quoted && text[i] == '\\') i++;
    else if (text[i] == '"') quoted = !quoted;
    else if (!quoted && memcmp(text + i, infinity, n) == 0) memcpy(text + i, bound, n);
  }
}

json_t *tl_json_load_file(const char *path, size_t flags, json_error_t *ret_why) {
  const char *name = path ? path : "standard input";
  FILE *file = path ? fopen(path, "rbe") : stdin;
  struct tl_buffer text;
  json_t *value = NULL;
  if (!file) return fail(ret_why, errno == ENOMEM ? json_error_out_of_memory : json_error_cannot_open_file, "unable to open ", name, strerror(errno));
  tl_buffer_init(&text, 0);
  int error = read_all(file, &text);
  if (error == 0 && flags & TL_JSON_INFINITY) bound_infinities(text.data, text.length);
  flags &= ~(size_t)TL_JSON_INFINITY;
  if (error == 0) value = tl_json_load(tl_buffer_bytes(&text), text.length, flags, ret_why);
  else fail(ret_why, error == ENOMEM ? json_error_out_of_memory : json_error_unknown, "unable to read ", name, strerror(error));
  if (path) fclose(file);
  tl_buffer_done(&text);
  return value;
}

bool tl_json_is_short(const json_t *value, const json_error_t *why, struct tl_error *err) {
  if (value || json_error_code(why) != json_error_out_of_memory) return false;
  tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  return true;
}
