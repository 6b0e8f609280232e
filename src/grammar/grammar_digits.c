/* SPDX-License-Identifier: MIT */
/* Numbers between bounds, digit by digit. A bound is followed while the digits written so far equal its own; with the first that
 * differs the rest is free. In [23, 58]: 2 then 3-9, 3-4 then any, 5 then 0-8. Numbers of few digits come first. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_parts.h"

#define WHOLE_DIGITS 19
#define LARGEST 9999999999999999999u /* of so many */
#define FRACTION_DIGITS 20

gr_node gr_digit(struct gr_ir *ir, char first, char last) {
  if (first > last) return gr_nothing(ir);
  struct gr_range range = {(uint32_t)first, (uint32_t)last};
  return gr_chars(ir, &range, 1);
}

gr_node gr_digits(struct gr_ir *ir, uint32_t min, uint32_t max) {
  return gr_repeat(ir, gr_digit(ir, '0', '9'), min, max);
}

/* --- bounds ------------------------------------------------------------------------------------- */

/* The digits of 0.DIGITS * 10^point. */
static bool place(const char *digits, int n, long point, struct gr_decimal *ret) {
  while (n > 0 && digits[n - 1] == '0') n--;
  if (n == 0) {
    ret->negative = false;
    return true;
  }
  if (point > WHOLE_DIGITS || n - point > FRACTION_DIGITS) return false;
  for (long i = 0; i < point; i++) ret->whole[i] = i < n ? digits[i] : '0';
  size_t at = 0;
  for (long i = point; i < n; i++) ret->fraction[at++] = i < 0 ? '0' : digits[i];
  return true;
}

bool gr_decimal_of(json_t *number, struct gr_decimal *ret) {
  char text[48], digits[32];
  *ret = (struct gr_decimal){0};
  if (json_is_integer(number)) {
    snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(number));
    ret->negative = text[0] == '-';
    const char *from = text + ret->negative;
    size_t n = from[0] == '0' ? 0 : strlen(from);
    return place(from, (int)n, (long)n, ret);
  }
  double value = json_real_value(number);
  for (int precision = 0; precision < 17; precision++) {
    snprintf(text, sizeof text, "%.*e", precision, value);
    if (strtod(text, NULL) == value) break;
  }
  ret->negative = text[0] == '-';
  int n = 0;
  const char *c = text + ret->negative;
  for (; *c != 'e'; c++)
    if (*c != '.') digits[n++] = *c;
  return place(digits, n, strtol(c + 1, NULL, 10) + 1, ret);
}

static int compare_size(const struct gr_decimal *a, const struct gr_decimal *b) {
  size_t n = strlen(a->whole), m = strlen(b->whole);
  if (n != m) return n < m ? -1 : 1;
  int order = strcmp(a->whole, b->whole);
  /* as the shorter fraction is a number with zeros behind it, the order is that of texts */
  return order ? order : strcmp(a->fraction, b->fraction);
}

int gr_decimal_compare(const struct gr_decimal *a, const struct gr_decimal *b) {
  if (a->negative != b->negative) return a->negative ? -1 : 1;
  return a->negative ? compare_size(b, a) : compare_size(a, b);
}

/* --- whole numbers ---------------------------------------------------------------------------------- */

/* n digits from d on, and up to d; both end with d's end. */
static gr_node from_digits(struct gr_ir *ir, const char *d, size_t n) {
  if (n == 0) return gr_empty(ir);
  gr_node more = gr_seq(ir, gr_digit(ir, (char)(d[0] + 1), '9'), gr_digits(ir, (uint32_t)n - 1, (uint32_t)n - 1));
  return gr_alt(ir, more, gr_seq(ir, gr_digit(ir, d[0], d[0]), from_digits(ir, d + 1, n - 1)));
}

static gr_node to_digits(struct gr_ir *ir, const char *d, size_t n) {
  if (n == 0) return gr_empty(ir);
  gr_node less = gr_seq(ir, gr_digit(ir, '0', (char)(d[0] - 1)), gr_digits(ir, (uint32_t)n - 1, (uint32_t)n - 1));
  return gr_alt(ir, less, gr_seq(ir, gr_digit(ir, d[0], d[0]), to_digits(ir, d + 1, n - 1)));
}

/* least <= most, both of n digits. */
static gr_node same_length(struct gr_ir *ir, const char *least, const char *most, size_t n) {
  if (n == 0) return gr_empty(ir);
  if (least[0] == most[0]) return gr_seq(ir, gr_digit(ir, least[0], least[0]), same_length(ir, least + 1, most + 1, n - 1));
  gr_node low = gr_seq(ir, gr_digit(ir, least[0], least[0]), from_digits(ir, least + 1, n - 1));
  gr_node high = gr_seq(ir, gr_digit(ir, most[0], most[0]), to_digits(ir, most + 1, n - 1));
  gr_node between = gr_seq(ir, gr_digit(ir, (char)(least[0] + 1), (char)(most[0] - 1)),
                           gr_digits(ir, (uint32_t)n - 1, (uint32_t)n - 1));
  return gr_alt(ir, low, gr_alt(ir, between, high));
}

static gr_node sizes_within(struct gr_ir *ir, uint64_t least, uint64_t most) {
  if (least > most) return gr_nothing(ir);
  char low[24], high[24];
  size_t n = (size_t)snprintf(low, sizeof low, "%llu", (unsigned long long)least);
  size_t m = (size_t)snprintf(high, sizeof high, "%llu", (unsigned long long)most);
  if (n == m) return same_length(ir, low, high, n);
  gr_node shortest = from_digits(ir, low, n);
  gr_node longest = gr_seq(ir, gr_digit(ir, '1', (char)(high[0] - 1)), gr_digits(ir, (uint32_t)m - 1, (uint32_t)m - 1));
  longest = gr_alt(ir, longest, gr_seq(ir, gr_digit(ir, high[0], high[0]), to_digits(ir, high + 1, m - 1)));
  gr_node all = gr_alt(ir, shortest, longest);
  if (m - n < 2) return all;
  return gr_alt(ir, all, gr_seq(ir, gr_digit(ir, '1', '9'), gr_digits(ir, (uint32_t)n, (uint32_t)m - 2)));
}

typedef __int128 wide; /* 19 digits with a sign */

static wide wide_of(const struct gr_decimal *d) {
  wide size = (wide)strtoull(d->whole[0] ? d->whole : "0", NULL, 10);
  return d->negative ? -size : size;
}

gr_node gr_integer_within(struct gr_ir *ir, const struct gr_bounds *b) {
  wide most = LARGEST, least = -most;
  if (b->has_least) {
    bool between = b->least.fraction[0] != 0; /* cut towards 0: that is up if it is negative */
    least = wide_of(&b->least);
    if (between ? !b->least.negative : b->above_least) least++;
  }
  if (b->has_most) {
    bool between = b->most.fraction[0] != 0;
    most = wide_of(&b->most);
    if (between ? b->most.negative : b->below_most) most--;
  }
  if (least > most) return gr_nothing(ir);
  gr_node all = gr_nothing(ir);
  if (most >= 0) all = gr_alt(ir, all, sizes_within(ir, (uint64_t)(least > 0 ? least : 0), (uint64_t)most));
  if (least < 0) {
    gr_node sizes = sizes_within(ir, (uint64_t)(most < 0 ? -most : 1), (uint64_t)-least);
    all = gr_alt(ir, all, gr_seq(ir, gr_text(ir, "-"), sizes));
  }
  return all;
}

/* --- fractions -------------------------------------------------------------------------------------- */

/* What lies between two sizes (numbers without a sign). */
struct span {
  const char *least, *most;     /* fractions' digits, no zeros at the end */
  bool above_least, below_most;
  uint32_t digits;              /* of a fraction that is free */
};

/* Digits behind the point, any number of them, that are more than (or equal to) d's rest. */
static gr_node more_digits(struct gr_ir *ir, const struct span *s, const char *d) {
  if (d[0] == 0) {
    if (!s->above_least) return gr_digits(ir, 0, s->digits);
    gr_node zeros = gr_repeat(ir, gr_text(ir, "0"), 0, s->digits);
    return gr_seq(ir, zeros, gr_seq(ir, gr_digit(ir, '1', '9'), gr_digits(ir, 0, s->digits)));
  }
  gr_node more = gr_seq(ir, gr_digit(ir, (char)(d[0] + 1), '9'), gr_digits(ir, 0, s->digits));
  return gr_alt(ir, more, gr_seq(ir, gr_digit(ir, d[0], d[0]), more_digits(ir, s, d + 1)));
}

/* Alike, less; at_point: no digit is there yet, so one must come. */
static gr_node less_digits(struct gr_ir *ir, const struct span *s, const char *d, bool at_point) {
  if (d[0] == 0) {
    if (s->below_most) return gr_nothing(ir);
    return gr_repeat(ir, gr_text(ir, "0"), at_point, s->digits);
  }
  gr_node less = gr_seq(ir, gr_digit(ir, '0', (char)(d[0] - 1)), gr_digits(ir, 0, s->digits));
  gr_node same = gr_seq(ir, gr_digit(ir, d[0], d[0]), less_digits(ir, s, d + 1, false));
  gr_node either = gr_alt(ir, less, same);
  return at_point ? either : gr_maybe(ir, either);
}

/* Both bounds are followed: what is written so far equals both. */
static gr_node both_digits(struct gr_ir *ir, const struct span *s, const char *low, const char *high, bool at_point) {
  if (high[0] == 0) { /* low's rest is 0, too */
    if (s->above_least || s->below_most) return gr_nothing(ir);
    return gr_repeat(ir, gr_text(ir, "0"), at_point, s->digits);
  }
  char l = low[0] ? low[0] : '0', h = high[0];
  const char *low_rest = low[0] ? low + 1 : low;
  gr_node either;
  if (l == h) {
    either = gr_seq(ir, gr_digit(ir, l, l), both_digits(ir, s, low_rest, high + 1, false));
  } else {
    gr_node between = gr_seq(ir, gr_digit(ir, (char)(l + 1), (char)(h - 1)), gr_digits(ir, 0, s->digits));
    gr_node lowest = gr_seq(ir, gr_digit(ir, l, l), more_digits(ir, s, low_rest));
    gr_node highest = gr_seq(ir, gr_digit(ir, h, h), less_digits(ir, s, high + 1, false));
    either = gr_alt(ir, between, gr_alt(ir, lowest, highest));
  }
  return !at_point && !low[0] && !s->above_least ? gr_maybe(ir, either) : either;
}

static gr_node behind_point(struct gr_ir *ir, gr_node digits, bool may_lack) {
  gr_node all = gr_seq(ir, gr_text(ir, "."), digits);
  return may_lack ? gr_maybe(ir, all) : all;
}

/* Any fraction, or none. */
static gr_node free_fraction(struct gr_ir *ir, const struct span *s) {
  return behind_point(ir, gr_digits(ir, 1, s->digits), true);
}

static gr_node low_fraction(struct gr_ir *ir, const struct span *s) {
  if (!s->least[0] && !s->above_least) return free_fraction(ir, s);
  return behind_point(ir, more_digits(ir, s, s->least), false);
}

static gr_node high_fraction(struct gr_ir *ir, const struct span *s) {
  if (!s->most[0] && s->below_most) return gr_nothing(ir);
  return behind_point(ir, less_digits(ir, s, s->most, true), true);
}

static uint64_t whole_of(const struct gr_decimal *d) {
  return strtoull(d->whole[0] ? d->whole : "0", NULL, 10);
}

/* The fraction of a size that has the whole part of both bounds. */
static gr_node fraction_between(struct gr_ir *ir, const struct span *s) {
  if (strcmp(s->least, s->most) > 0 || (!s->most[0] && s->below_most)) return gr_nothing(ir);
  bool may_lack = !s->least[0] && !s->above_least;
  return behind_point(ir, both_digits(ir, s, s->least, s->most, true), may_lack);
}

/* Sizes from least to most; NULL: to any that is larger. */
static gr_node between_sizes(struct gr_ir *ir, const struct gr_decimal *least, bool above_least, const struct gr_decimal *most,
                             bool below_most, uint32_t digits) {
  struct span s = {least->fraction, most ? most->fraction : "", above_least, below_most, digits};
  uint64_t low = whole_of(least), high = most ? whole_of(most) : LARGEST;
  if (most && low == high) return gr_seq(ir, sizes_within(ir, low, low), fraction_between(ir, &s));
  gr_node lowest = gr_seq(ir, sizes_within(ir, low, low), low_fraction(ir, &s));
  gr_node middle = gr_seq(ir, sizes_within(ir, low + 1, most ? high - 1 : high), free_fraction(ir, &s));
  gr_node all = gr_alt(ir, lowest, middle);
  return most ? gr_alt(ir, all, gr_seq(ir, sizes_within(ir, high, high), high_fraction(ir, &s))) : all;
}

/* So few digits in all that two numbers that differ do so as doubles, too. */
static uint32_t free_digits(const struct gr_bounds *b) {
  size_t whole = 1, fraction = 1;
  const struct gr_decimal *const both[] = {&b->least, &b->most};
  for (size_t i = 0; i < 2; i++) {
    if (strlen(both[i]->whole) > whole) whole = strlen(both[i]->whole);
    if (strlen(both[i]->fraction) > fraction) fraction = strlen(both[i]->fraction);
  }
  size_t digits = whole < 15 ? 15 - whole : 1;
  return (uint32_t)(digits > fraction ? digits : fraction);
}

gr_node gr_number_within(struct gr_ir *ir, const struct gr_bounds *b) {
  static const struct gr_decimal zero = {0};
  if (b->has_least && b->has_most) {
    int order = gr_decimal_compare(&b->least, &b->most);
    if (order > 0 || (order == 0 && (b->above_least || b->below_most))) return gr_nothing(ir);
  }
  uint32_t digits = free_digits(b);
  gr_node all = gr_nothing(ir);
  if (!b->has_most || !b->most.negative) {
    bool low = b->has_least && !b->least.negative;
    all = gr_alt(ir, all, between_sizes(ir, low ? &b->least : &zero, low && b->above_least, b->has_most ? &b->most : NULL,
                                        b->below_most, digits));
  }
  if (!b->has_least || b->least.negative) {
    bool high = b->has_most && b->most.negative; /* its size is the least of those with a minus; otherwise above 0 */
    gr_node sizes = between_sizes(ir, high ? &b->most : &zero, high ? b->below_most : true, b->has_least ? &b->least : NULL,
                                  b->above_least, digits);
    all = gr_alt(ir, all, gr_seq(ir, gr_text(ir, "-"), sizes));
  }
  return all;
}
