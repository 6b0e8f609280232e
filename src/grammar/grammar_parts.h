/* SPDX-License-Identifier: MIT */
/* What several readers build with. A node has one parent only: what is needed twice is made twice, or is a rule. */
#ifndef GRAMMAR_PARTS_H
#define GRAMMAR_PARTS_H

#include <jansson.h>
#include <stdbool.h>

#include "grammar/grammar_ir.h"

/* All in a row, one out of all (none: gr_nothing), as balanced trees. The nodes are not used again. */
gr_node gr_row(struct gr_ir *ir, const gr_node *nodes, size_t n);
gr_node gr_one_of(struct gr_ir *ir, const gr_node *nodes, size_t n);
gr_node gr_text(struct gr_ir *ir, const char *text);
gr_node gr_maybe(struct gr_ir *ir, gr_node what);
/* As a rule of its own, so that it may be called more than once. */
gr_rule gr_rule_of(struct gr_ir *ir, gr_node what);
/* TL_OK, or the ir's failure told in err. */
int gr_said(const struct gr_ir *ir, const char *field, struct tl_error *err);

/* A list of nodes that grows; what cannot grow any more fails as a whole. */
struct gr_list {
  gr_node *nodes; /* owned */
  size_t n, room;
  bool failed;
};
void gr_list_push(struct gr_list *list, gr_node node);
/* Ends the list: frees its memory. GR_NONE if it has failed. */
gr_node gr_list_row(struct gr_ir *ir, struct gr_list *list);
gr_node gr_list_one_of(struct gr_ir *ir, struct gr_list *list);

/* --- JSON (grammar_json.c) --------------------------------------------------------------------- */

/* Between tokens: nothing, a space, or a line break and up to 20 blanks. After `{`, `[`, `,`, `:` and before `}`, `]`. */
gr_node gr_json_space(struct gr_ir *ir);
/* A comma and its white space. */
gr_node gr_json_comma(struct gr_ir *ir);
/* `"`, what, `"`. */
gr_node gr_json_quoted(struct gr_ir *ir, gr_node what);
/* The characters of a text as a JSON string has them, without the quotes. */
gr_node gr_json_spelled(struct gr_ir *ir, const char *text, size_t length);
gr_node gr_json_number(struct gr_ir *ir);
gr_node gr_json_integer(struct gr_ir *ir);
/* Exactly this value. Depth is bounded by who parsed it. */
gr_node gr_json_value(struct gr_ir *ir, json_t *value);

/* Any JSON: rules that are made when first needed. */
struct gr_json_any {
  bool made;
  gr_rule value, object, array;
};
gr_node gr_json_any_value(struct gr_ir *ir, struct gr_json_any *any);
gr_node gr_json_any_object(struct gr_ir *ir, struct gr_json_any *any);
gr_node gr_json_any_array(struct gr_ir *ir, struct gr_json_any *any);
/* `{` members `}` or `{}`, and alike for `[`; members: one or more, not empty. */
gr_node gr_json_braces(struct gr_ir *ir, const char *open, gr_node members, bool may_be_empty, const char *close);

/* --- digits (grammar_digits.c) --------------------------------------------------------------------- */

/* A number's bound: sign, digits before and after the point, no zeros in front or at the end. */
struct gr_decimal {
  bool negative;
  char whole[24];    /* digits, "" for 0 */
  char fraction[24]; /* digits */
};
struct gr_bounds {
  bool has_least, has_most;     /* otherwise without end */
  bool above_least, below_most; /* the bound itself is excluded */
  struct gr_decimal least, most;
};
/* false: it has more than 19 digits before or 20 behind the point. number: a JSON number. */
bool gr_decimal_of(json_t *number, struct gr_decimal *ret);
/* <0, 0, >0 */
int gr_decimal_compare(const struct gr_decimal *a, const struct gr_decimal *b);
/* Plain decimals within the bounds, at most 19 digits before the point. */
gr_node gr_integer_within(struct gr_ir *ir, const struct gr_bounds *bounds);
gr_node gr_number_within(struct gr_ir *ir, const struct gr_bounds *bounds);
/* One digit of these, ASCII. first > last: nothing. */
gr_node gr_digit(struct gr_ir *ir, char first, char last);
/* min to max digits. */
gr_node gr_digits(struct gr_ir *ir, uint32_t min, uint32_t max);

/* --- regular expressions (grammar_regex.c) ------------------------------------------------------------ */

/* Where a pattern stands. */
enum gr_regex_use {
  GR_REGEX_WHOLE,     /* the whole answer matches */
  GR_REGEX_IN_STRING, /* of a JSON string's content, written as one; it matches somewhere unless ^ and $ say otherwise */
  GR_REGEX_IS_STRING, /* alike, but the whole content matches */
};
/* min, max: how many characters the content may have (0, GR_MANY: any), where that can be done. Messages say the offset. */
int gr_regex(struct gr_ir *ir, const char *text, size_t length, enum gr_regex_use use, uint32_t min, uint32_t max,
             const char *field, gr_node *ret, struct tl_error *err);

#endif
