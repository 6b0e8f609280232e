/* SPDX-License-Identifier: MIT */
/* Regular expressions: what ECMA's and Python's have in common and is regular. Alternatives, groups (captured or not: nothing is
 * captured), classes, \d \w \s, dot, counts, greedy or lazy. ^ and $ stand at the ends of the whole or of its alternatives. Letters and
 * digits of \w and \d are ASCII's.
 *
 * Within a JSON string a character is matched as the string has it: itself, or the escape that it must have. A pattern of a schema
 * matches anywhere in the string, unless ^ and $ hold it. */
#include "grammar/grammar_parts.h"

#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_regex.h"
#include "grammar/grammar_readers.h"
#include "tokenlane/base/utf8.h"

struct writer {
  struct gr_ir *ir;
  struct rx *rx;
  bool in_string;
};

/* --- characters --------------------------------------------------------------------------------------- */

/* Those of the set that a JSON string has as they are. */
static gr_node plain_chars(struct writer *w, const struct rx_set *set) {
  static const struct gr_range plain[] = {{0x20, 0x21}, {0x23, 0x5b}, {0x5d, RX_LAST}};
  struct rx_set some = {0};
  for (size_t i = 0; i < set->n; i++) {
    for (size_t k = 0; k < 3; k++) {
      uint32_t first = set->ranges[i].first > plain[k].first ? set->ranges[i].first : plain[k].first;
      uint32_t last = set->ranges[i].last < plain[k].last ? set->ranges[i].last : plain[k].last;
      if (first <= last && !rx_set_add(w->rx, &some, first, last)) return GR_NONE;
    }
  }
  return some.n ? gr_chars(w->ir, some.ranges, some.n) : gr_nothing(w->ir);
}

/* \n and the like for one of the set's. */
static gr_node short_escapes(struct writer *w, const struct rx_set *set) {
  static const char codes[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
  struct rx_set found = {0};
  for (size_t i = 0; codes[i]; i++)
    if (rx_set_has(set, (unsigned char)codes[i]) && !rx_set_add(w->rx, &found, (unsigned char)letters[i], (unsigned char)letters[i]))
      return GR_NONE;
  rx_set_order(&found);
  return found.n ? gr_seq(w->ir, gr_text(w->ir, "\\"), gr_chars(w->ir, found.ranges, found.n)) : gr_nothing(w->ir);
}

/* \u00XY for one of the set's control characters that has no other name. */
static gr_node long_escapes(struct writer *w, const struct rx_set *set) {
  gr_node all = gr_nothing(w->ir);
  for (uint32_t high = 0; high < 2; high++) {
    struct rx_set low = {0};
    for (uint32_t i = 0; i < 16; i++) {
      uint32_t code = 16 * high + i, digit = (uint32_t)"0123456789abcdef"[i];
      if (!rx_set_has(set, code) || (code >= 8 && code <= 13 && code != 11)) continue;
      if (!rx_set_add(w->rx, &low, digit, digit)) return GR_NONE;
    }
    if (!low.n) continue;
    rx_set_order(&low);
    gr_node some = gr_seq(w->ir, gr_text(w->ir, high ? "\\u001" : "\\u000"), gr_chars(w->ir, low.ranges, low.n));
    all = gr_alt(w->ir, all, some);
  }
  return all;
}

static bool has_escaped(const struct rx_set *set) {
  return rx_set_has(set, '"') || rx_set_has(set, '\\') || (set->n && set->ranges[0].first < 0x20);
}

static gr_node write_set(struct writer *w, const struct rx_set *set) {
  if (!set->n) return gr_nothing(w->ir);
  if (!w->in_string) return gr_chars(w->ir, set->ranges, set->n);
  gr_node plain = plain_chars(w, set);
  if (!has_escaped(set)) return plain;
  return gr_alt(w->ir, plain, gr_alt(w->ir, short_escapes(w, set), long_escapes(w, set)));
}

/* Anything, as often as it likes: before and behind a pattern that is not held. */
static gr_node write_any(struct writer *w) {
  static const struct gr_range all[] = {{0, RX_LAST}};
  const struct rx_set set = {(struct gr_range *)all, 1, 0};
  return gr_repeat(w->ir, write_set(w, &set), 0, GR_MANY);
}

/* --- the tree ------------------------------------------------------------------------------------------ */

static gr_node write_node(struct writer *w, const struct rx_node *node);

static bool is_letter(const struct rx_node *node) {
  return node->kind == RX_SET && node->set.n == 1 && node->set.ranges[0].first == node->set.ranges[0].last &&
         !(node->set.ranges[0].first >= 0xd800 && node->set.ranges[0].first <= 0xdfff);
}

/* Single characters in a row are one text; *node goes to what follows. */
static gr_node write_letters(struct writer *w, const struct rx_node **node, const struct rx_node *end) {
  size_t n = 0, length = 0;
  for (const struct rx_node *one = *node; one != end && is_letter(one); one = one->next) n++;
  char *text = malloc(4 * n + 1);
  if (!text) return GR_NONE;
  for (; n > 0; n--, *node = (*node)->next) length += tl_utf8_encode((*node)->set.ranges[0].first, text + length);
  gr_node made = w->in_string ? gr_json_spelled(w->ir, text, length) : gr_bytes(w->ir, text, length);
  free(text);
  return made;
}

/* From node up to end. */
static gr_node write_row(struct writer *w, const struct rx_node *node, const struct rx_node *end) {
  struct gr_list row = {0};
  while (node != end) {
    if (is_letter(node)) {
      gr_list_push(&row, write_letters(w, &node, end));
      continue;
    }
    gr_list_push(&row, write_node(w, node));
    node = node->next;
  }
  return gr_list_row(w->ir, &row);
}

static gr_node write_node(struct writer *w, const struct rx_node *node) {
  struct gr_list some = {0};
  switch (node->kind) {
    case RX_SET: return write_set(w, &node->set);
    case RX_ROW: return write_row(w, node->child, NULL);
    case RX_REPEAT:
      if (node->max == 0) return gr_empty(w->ir);
      return gr_repeat(w->ir, write_node(w, node->child), node->min, node->max);
    case RX_EITHER:
      for (const struct rx_node *one = node->child; one; one = one->next) gr_list_push(&some, write_node(w, one));
      return gr_list_one_of(w->ir, &some);
    default:
      rx_fail(w->rx, TL_EUNSUPPORTED, node->at, "^ and $ are supported only at the ends of the pattern or of its alternatives");
      return GR_NONE;
  }
}

/* --- lengths ------------------------------------------------------------------------------------------- */

struct width {
  uint64_t min, max; /* GR_MANY and above: no end */
};

static uint64_t product(uint64_t a, uint64_t b) {
  uint64_t p;
  if (a == 0 || b == 0) return 0;
  return __builtin_mul_overflow(a, b, &p) || p > GR_MANY ? GR_MANY : p;
}

static struct width width_of(const struct rx_node *node) {
  struct width w = {0, 0}, one;
  switch (node->kind) {
    case RX_SET: return (struct width){1, 1};
    case RX_REPEAT:
      one = width_of(node->child);
      return (struct width){product(one.min, node->min), product(one.max, node->max)};
    case RX_ROW:
      for (const struct rx_node *part = node->child; part; part = part->next) {
        one = width_of(part);
        w.min = w.min + one.min > GR_MANY ? GR_MANY : w.min + one.min;
        w.max = w.max + one.max > GR_MANY ? GR_MANY : w.max + one.max;
      }
      return w;
    case RX_EITHER:
      w.min = GR_MANY;
      for (const struct rx_node *part = node->child; part; part = part->next) {
        one = width_of(part);
        w.min = one.min < w.min ? one.min : w.min;
        w.max = one.max > w.max ? one.max : w.max;
      }
      return w;
    default: return w;
  }
}

static bool fits(struct width w, uint64_t min, uint64_t max) {
  return w.min >= min && (w.max <= max || max == GR_MANY);
}

/* Makes an alternative that is held on both sides have min to max characters, if it does anyhow, or if one part of it alone varies, as a
 * count of something of one length: ^[a-z][a-z0-9]*$. A count that leaves nothing has min above max. */
static bool bound_row(struct rx_node *row, uint64_t min, uint64_t max) {
  if (fits(width_of(row), min, max)) return true;
  struct rx_node *varies = NULL;
  uint64_t fixed = 0;
  for (struct rx_node *part = row->child; part; part = part->next) {
    struct width w = width_of(part);
    if (w.min == w.max) {
      fixed += w.min;
    } else {
      if (varies || part->kind != RX_REPEAT) return false;
      varies = part;
    }
  }
  struct width unit = varies ? width_of(varies->child) : (struct width){0, 0};
  if (!varies || unit.min != unit.max || unit.min == 0 || unit.max >= GR_MANY) return false;
  uint64_t least = min > fixed ? (min - fixed + unit.min - 1) / unit.min : 0;
  if (least > varies->min) varies->min = (uint32_t)least;
  if (max == GR_MANY) return varies->min <= varies->max;
  if (max < fixed) return false;
  uint64_t most = (max - fixed) / unit.min;
  if (most < varies->max) varies->max = (uint32_t)most;
  return varies->min <= varies->max;
}

/* --- the ends ------------------------------------------------------------------------------------------ */

struct use {
  enum gr_regex_use use;
  uint32_t min, max;
};

static gr_node write_alternative(struct writer *w, struct rx_node *row, const struct use *use) {
  const struct rx_node *from = row->child, *to = NULL;
  bool begins = use->use != GR_REGEX_IN_STRING, ends = begins;
  for (; from && from->kind == RX_BEGIN; from = from->next) begins = true;
  for (const struct rx_node *part = from; part; part = part->next) {
    if (part->kind != RX_END) to = NULL;
    else if (!to) to = part;
  }
  if (to) ends = true;
  bool bounded = use->min > 0 || use->max != GR_MANY;
  if (bounded && !(begins && ends ? bound_row(row, use->min, use->max) : use->max == GR_MANY && width_of(row).min >= use->min)) {
    rx_fail(w->rx, TL_EUNSUPPORTED, row->at, "minLength or maxLength beside a pattern like this is not supported");
    return GR_NONE;
  }
  gr_node made = write_row(w, from, to);
  if (!begins) made = gr_seq(w->ir, write_any(w), made);
  return ends ? made : gr_seq(w->ir, made, write_any(w));
}

/* Alternatives of the whole have ends of their own, also within a group that is all there is. */
static gr_node write_whole(struct writer *w, struct rx_node *node, const struct use *use) {
  struct gr_list some = {0};
  if (node->kind == RX_EITHER) {
    for (struct rx_node *one = node->child; one; one = one->next) gr_list_push(&some, write_whole(w, one, use));
    return gr_list_one_of(w->ir, &some);
  }
  struct rx_node *only = node->child;
  if (node->kind == RX_ROW && only && !only->next && (only->kind == RX_ROW || only->kind == RX_EITHER)) return write_whole(w, only, use);
  return write_alternative(w, node, use);
}

int gr_regex(struct gr_ir *ir, const char *text, size_t length, enum gr_regex_use use, uint32_t min, uint32_t max,
             const char *field, gr_node *ret, struct tl_error *err) {
  struct rx rx = {.text = text, .length = length, .ecma = use != GR_REGEX_WHOLE, .field = field, .err = err};
  struct writer w = {ir, &rx, use != GR_REGEX_WHOLE};
  tl_arena_init(&rx.mem, 64 << 20);
  struct rx_node *tree = rx_read(&rx);
  *ret = tree ? write_whole(&w, tree, &(struct use){use, min, max}) : GR_NONE;
  tl_arena_done(&rx.mem);
  if (rx.code) return rx.code;
  return *ret == GR_NONE && gr_failed(ir) == TL_OK ? tl_error_set(err, TL_ENOMEM, field, "out of memory for the grammar") : gr_said(ir, field, err);
}

int gr_read_regex(struct gr_ir *ir, const char *text, size_t length, const char *field, gr_node *ret, struct tl_error *err) {
  return gr_regex(ir, text, length, GR_REGEX_WHOLE, 0, GR_MANY, field, ret, err);
}
