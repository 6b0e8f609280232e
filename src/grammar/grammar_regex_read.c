/* SPDX-License-Identifier: MIT */
/* A regular expression's text to its tree. */
#include <stdio.h>
#include <string.h>

#include "grammar/grammar_regex.h"

#define MAX_DEPTH 100
#define MAX_COUNT 1000000u

static struct rx_node *read_either(struct rx *rx);

int rx_fail(struct rx *rx, int code, size_t at, const char *what) {
  if (rx->code) return rx->code;
  rx->code = code;
  return tl_error_set(rx->err, code, rx->field, "%s (offset %zu of the pattern)", what, at);
}

static struct rx_node *new_node(struct rx *rx, enum rx_kind kind, size_t at) {
  struct rx_node *node = tl_arena_alloc(&rx->mem, sizeof *node);
  if (!node) {
    rx_fail(rx, TL_ELIMIT, at, "the pattern is too large");
    return NULL;
  }
  node->kind = kind;
  node->at = at;
  return node;
}

static bool at_byte(const struct rx *rx, char byte) {
  return rx->at < rx->length && rx->text[rx->at] == byte;
}

static bool begins(const struct rx *rx, const char *text) {
  size_t n = strlen(text);
  return rx->length - rx->at >= n && memcmp(rx->text + rx->at, text, n) == 0;
}

/* --- groups ----------------------------------------------------------------------------------------- */

/* After `(`: what kind of a group it is. */
static bool read_group_head(struct rx *rx, size_t start) {
  if (!at_byte(rx, '?')) return true;
  rx->at++;
  const char *why = NULL;
  if (begins(rx, ":")) {
    rx->at++;
    return true;
  }
  if (begins(rx, "=") || begins(rx, "!")) why = "look-ahead is not supported";
  else if (begins(rx, "<=") || begins(rx, "<!")) why = "look-behind is not supported";
  else if (begins(rx, ">")) why = "atomic groups are not supported";
  else if (begins(rx, "#")) why = "comments are not supported";
  else if (begins(rx, "P=") || begins(rx, "P>") || begins(rx, "(")) why = "references to groups are not supported";
  else if (!begins(rx, "P<") && !begins(rx, "<")) why = "inline flags are not supported";
  if (why) return rx_fail(rx, TL_EUNSUPPORTED, start, why) == TL_OK;
  const char *close = memchr(rx->text + rx->at, '>', rx->length - rx->at);
  if (!close) return rx_fail(rx, TL_EINVAL, start, "a group's name has no end") == TL_OK;
  rx->at = (size_t)(close - rx->text) + 1;
  return true;
}

static struct rx_node *read_group(struct rx *rx) {
  size_t start = rx->at - 1;
  if (rx->depth == MAX_DEPTH) {
    rx_fail(rx, TL_ELIMIT, start, "groups nest too deeply");
    return NULL;
  }
  if (!read_group_head(rx, start)) return NULL;
  rx->depth++;
  struct rx_node *node = read_either(rx);
  rx->depth--;
  if (!node) return NULL;
  if (!at_byte(rx, ')')) {
    rx_fail(rx, TL_EINVAL, start, "a group is not closed");
    return NULL;
  }
  rx->at++;
  return node;
}

/* --- quantifiers ------------------------------------------------------------------------------------ */

/* Digits up to MAX_COUNT; false: there are none. */
static bool read_count(const struct rx *rx, size_t *at, uint32_t *ret) {
  size_t from = *at;
  uint32_t value = 0;
  for (; *at < rx->length && rx->text[*at] >= '0' && rx->text[*at] <= '9'; ++*at)
    value = value > MAX_COUNT ? value : 10 * value + (uint32_t)(rx->text[*at] - '0');
  *ret = value;
  return *at > from;
}

/* {m}, {m,}, {,n}, {m,n}; anything else that begins with a brace is text. */
static bool read_braces(struct rx *rx, uint32_t *min, uint32_t *max) {
  size_t at = rx->at + 1;
  bool has_min = read_count(rx, &at, min);
  if (at < rx->length && rx->text[at] == ',') {
    at++;
    bool has_max = read_count(rx, &at, max);
    if (!has_max) *max = GR_MANY;
    if (!has_min && !has_max) return false;
  } else {
    if (!has_min) return false;
    *max = *min;
  }
  if (at >= rx->length || rx->text[at] != '}') return false;
  rx->at = at + 1;
  return true;
}

static bool read_quantifier(struct rx *rx, uint32_t *min, uint32_t *max) {
  *min = 0;
  *max = GR_MANY;
  if (at_byte(rx, '{')) return read_braces(rx, min, max);
  if (at_byte(rx, '+')) *min = 1;
  else if (at_byte(rx, '?')) *max = 1;
  else if (!at_byte(rx, '*')) return false;
  rx->at++;
  return true;
}

static struct rx_node *repeated(struct rx *rx, struct rx_node *what, size_t start) {
  uint32_t min, max;
  size_t at = rx->at;
  if (!read_quantifier(rx, &min, &max)) return what;
  if (what->kind == RX_BEGIN || what->kind == RX_END) {
    rx_fail(rx, TL_EINVAL, at, "there is nothing to repeat");
    return NULL;
  }
  if (min > MAX_COUNT || (max > MAX_COUNT && max != GR_MANY)) {
    rx_fail(rx, TL_ELIMIT, at, "that is too often");
    return NULL;
  }
  if (min > max) {
    rx_fail(rx, TL_EINVAL, at, "the least count is above the most");
    return NULL;
  }
  if (at_byte(rx, '?')) rx->at++; /* lazy: it matches the same texts */
  else if (at_byte(rx, '+')) rx_fail(rx, TL_EUNSUPPORTED, at, "possessive quantifiers are not supported");
  uint32_t more_min, more_max;
  at = rx->at;
  if (read_quantifier(rx, &more_min, &more_max)) rx_fail(rx, TL_EINVAL, at, "there is nothing to repeat");
  struct rx_node *node = rx->code ? NULL : new_node(rx, RX_REPEAT, start);
  if (!node) return NULL;
  node->child = what;
  node->min = min;
  node->max = max;
  return node;
}

/* --- rows -------------------------------------------------------------------------------------------- */

static struct rx_node *read_atom(struct rx *rx) {
  size_t start = rx->at;
  uint32_t c, min, max;
  if (read_quantifier(rx, &min, &max)) {
    rx_fail(rx, TL_EINVAL, start, "there is nothing to repeat");
    return NULL;
  }
  if (!rx_next(rx, &c)) return NULL;
  if (c == '(') return read_group(rx);
  if (c == '^') return new_node(rx, RX_BEGIN, start);
  if (c == '$') return new_node(rx, RX_END, start);
  struct rx_node *node = new_node(rx, RX_SET, start);
  if (!node) return NULL;
  bool good;
  if (c == '[') {
    good = rx_read_class(rx, &node->set);
  } else if (c == '\\') {
    good = rx_read_escape(rx, false, &node->set);
    rx_set_order(&node->set);
  } else if (c == '.') {
    /* ECMA has more ends of lines than Python */
    static const struct gr_range line_ends[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
    struct rx_set ends = {(struct gr_range *)line_ends, rx->ecma ? 3 : 1, 0};
    good = rx_set_negate(rx, &ends, &node->set);
  } else {
    good = rx_set_add(rx, &node->set, c, c);
  }
  return good ? node : NULL;
}

static struct rx_node *read_row(struct rx *rx) {
  struct rx_node *row = new_node(rx, RX_ROW, rx->at), *last = NULL;
  while (row && rx->at < rx->length && !at_byte(rx, '|') && !at_byte(rx, ')')) {
    size_t start = rx->at;
    struct rx_node *atom = read_atom(rx), *piece = atom ? repeated(rx, atom, start) : NULL;
    if (!piece) return NULL;
    if (last) last->next = piece;
    else row->child = piece;
    last = piece;
  }
  return row;
}

static struct rx_node *read_either(struct rx *rx) {
  struct rx_node *first = read_row(rx), *last = first;
  if (!first || !at_byte(rx, '|')) return first;
  struct rx_node *either = new_node(rx, RX_EITHER, first->at);
  if (!either) return NULL;
  either->child = first;
  while (at_byte(rx, '|')) {
    rx->at++;
    last->next = read_row(rx);
    last = last->next;
    if (!last) return NULL;
  }
  return either;
}

struct rx_node *rx_read(struct rx *rx) {
  struct rx_node *node = read_either(rx);
  if (node && rx->at < rx->length) rx_fail(rx, TL_EINVAL, rx->at, "a ) closes nothing");
  return rx->code ? NULL : node;
}
