/* SPDX-License-Identifier: MIT */
/* Keys that are none of those that a schema names: along a name, character by character, until one that no name goes on with; from there on all
 * is free. On the way there is no escape, since an escape could spell a name's character. */
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_schema.h"
#include "tokenlane/base/utf8.h"

#define LAST 0x10ffffu

static int by_text(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* What JSON writes as itself, but for the characters listed (ascending). */
static gr_node all_but(struct gr_ir *ir, const uint32_t *codes, size_t n) {
  static const struct gr_range plain[] = {{0x20, 0x21}, {0x23, 0x5b}, {0x5d, LAST}};
  struct gr_range *ranges = malloc((n + 3) * sizeof *ranges);
  if (!ranges) return GR_NONE;
  size_t count = 0;
  for (size_t k = 0; k < 3; k++) {
    uint32_t from = plain[k].first;
    for (size_t i = 0; i < n; i++) {
      if (codes[i] < from || codes[i] > plain[k].last) continue;
      if (codes[i] > from) ranges[count++] = (struct gr_range){from, codes[i] - 1};
      from = codes[i] + 1;
    }
    if (from <= plain[k].last) ranges[count++] = (struct gr_range){from, plain[k].last};
  }
  gr_node node = gr_chars(ir, ranges, count);
  free(ranges);
  return node;
}

/* names: n of them in order that begin with the same `at` bytes. */
static gr_node others(struct gr_ir *ir, const char **names, size_t n, size_t at) {
  bool ends = names[0][at] == 0;
  uint32_t *codes = malloc(n * sizeof *codes);
  struct gr_list some = {0};
  size_t n_codes = 0;
  if (!codes) return GR_NONE;
  for (size_t i = 0; i < n && gr_failed(ir) == TL_OK;) {
    uint32_t code = 0;
    size_t bytes = names[i][at] ? tl_utf8_decode(names[i] + at, strlen(names[i] + at), &code) : 0, same = i + 1;
    while (same < n && strncmp(names[same] + at, names[i] + at, bytes ? bytes : 1) == 0) same++;
    if (bytes && code >= 0x20 && code != '"' && code != '\\') { /* others are written by escapes, which no name's way has */
      codes[n_codes++] = code;
      gr_node next = others(ir, names + i, same - i, at + bytes);
      gr_list_push(&some, gr_seq(ir, gr_bytes(ir, names[i] + at, bytes), next));
    }
    i = same;
  }
  gr_list_push(&some, gr_seq(ir, all_but(ir, codes, n_codes), gr_json_string(ir, 0, GR_MANY)));
  if (!ends) gr_list_push(&some, gr_empty(ir));
  free(codes);
  return gr_list_one_of(ir, &some);
}

gr_node sch_other_keys(struct sch *s, const char **names, size_t n) {
  if (n == 0) return gr_json_string(s->ir, 0, GR_MANY);
  for (size_t i = 0; i < n; i++)
    if (strlen(names[i]) > SCH_NAME) return sch_fail(s, TL_EUNSUPPORTED, "names longer than %d bytes beside additionalProperties are not supported", SCH_NAME);
  qsort(names, n, sizeof *names, by_text);
  return others(s->ir, names, n, 0);
}
