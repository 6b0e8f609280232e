/* SPDX-License-Identifier: MIT */
/* JSON's parts. White space is bounded: a model that has lost its way could go on with blanks for ever. The numbers of
 * digits are bounded for the same reason, and so that every number that matches is one for double. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_parts.h"

#define SPACE_BLANKS 20

gr_node gr_json_space(struct gr_ir *ir) {
  static const struct gr_range blank[] = {{'\t', '\t'}, {' ', ' '}};
  gr_node line = gr_seq(ir, gr_text(ir, "\n"), gr_repeat(ir, gr_chars(ir, blank, 2), 0, SPACE_BLANKS));
  return gr_maybe(ir, gr_alt(ir, gr_text(ir, " "), line));
}

gr_node gr_json_comma(struct gr_ir *ir) {
  return gr_seq(ir, gr_text(ir, ","), gr_json_space(ir));
}

gr_node gr_json_quoted(struct gr_ir *ir, gr_node what) {
  return gr_seq(ir, gr_seq(ir, gr_text(ir, "\""), what), gr_text(ir, "\""));
}

gr_node gr_json_braces(struct gr_ir *ir, const char *open, gr_node members, bool may_be_empty, const char *close) {
  gr_node within = gr_seq(ir, members, gr_json_space(ir));
  if (may_be_empty) within = gr_maybe(ir, within);
  return gr_seq(ir, gr_seq(ir, gr_text(ir, open), gr_json_space(ir)), gr_seq(ir, within, gr_text(ir, close)));
}

gr_node gr_json_spelled(struct gr_ir *ir, const char *text, size_t length) {
  static const char named[] = "\b\f\n\r\t\"\\", letters[] = "bfnrt\"\\";
  char *out = malloc(6 * length + 1);
  if (!out) return GR_NONE;
  size_t n = 0;
  for (size_t i = 0; i < length; i++) {
    const char *at = text[i] ? strchr(named, text[i]) : NULL;
    if (at) {
      out[n++] = '\\';
      out[n++] = letters[at - named];
    } else if ((unsigned char)text[i] < 0x20) {
      n += (size_t)snprintf(out + n, 7, "\\u%04x", (unsigned char)text[i]);
    } else {
      out[n++] = text[i];
    }
  }
  gr_node spelled = gr_bytes(ir, out, n);
  free(out);
  return spelled;
}

static gr_node sign(struct gr_ir *ir) {
  return gr_maybe(ir, gr_text(ir, "-"));
}

static gr_node natural(struct gr_ir *ir, uint32_t max) {
  return gr_seq(ir, gr_digit(ir, '1', '9'), gr_digits(ir, 0, max - 1));
}

gr_node gr_json_integer(struct gr_ir *ir) {
  return gr_alt(ir, gr_text(ir, "0"), gr_seq(ir, sign(ir), natural(ir, 19)));
}

/* Up to e+289: with 19 digits in front of it that is below the largest double. */
static gr_node exponent(struct gr_ir *ir) {
  static const struct gr_range e[] = {{'E', 'E'}, {'e', 'e'}}, signs[] = {{'+', '+'}, {'-', '-'}};
  gr_node three = gr_seq(ir, gr_digit(ir, '1', '2'), gr_seq(ir, gr_digit(ir, '0', '8'), gr_digit(ir, '0', '9')));
  gr_node digits = gr_alt(ir, gr_digits(ir, 1, 2), three);
  return gr_seq(ir, gr_chars(ir, e, 2), gr_seq(ir, gr_maybe(ir, gr_chars(ir, signs, 2)), digits));
}

gr_node gr_json_number(struct gr_ir *ir) {
  gr_node whole = gr_seq(ir, sign(ir), gr_alt(ir, gr_text(ir, "0"), natural(ir, 19)));
  gr_node fraction = gr_seq(ir, gr_text(ir, "."), gr_digits(ir, 1, 20));
  return gr_seq(ir, whole, gr_seq(ir, gr_maybe(ir, fraction), gr_maybe(ir, exponent(ir))));
}

/* The shortest digits that give the same double; of a whole one all, as of 100.0. */
static gr_node real(struct gr_ir *ir, double value) {
  char text[40];
  for (int digits = 1; digits <= 17; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, value);
    if (strtod(text, NULL) == value) break;
  }
  if (value == floor(value) && fabs(value) < 1e16) snprintf(text, sizeof text, "%.1f", value);
  return gr_text(ir, text);
}

static gr_node array_of(struct gr_ir *ir, json_t *value) {
  struct gr_list items = {0};
  json_t *item;
  size_t i;
  json_array_foreach(value, i, item) {
    if (i) gr_list_push(&items, gr_json_comma(ir));
    gr_list_push(&items, gr_json_value(ir, item));
  }
  if (!json_array_size(value)) return gr_text(ir, "[]");
  return gr_json_braces(ir, "[", gr_list_row(ir, &items), false, "]");
}

static gr_node object_of(struct gr_ir *ir, json_t *value) {
  struct gr_list members = {0};
  const char *key;
  json_t *item;
  if (!json_object_size(value)) return gr_text(ir, "{}");
  json_object_foreach(value, key, item) {
    if (members.n) gr_list_push(&members, gr_json_comma(ir));
    gr_list_push(&members, gr_json_quoted(ir, gr_json_spelled(ir, key, strlen(key))));
    gr_list_push(&members, gr_text(ir, ":"));
    gr_list_push(&members, gr_json_space(ir));
    gr_list_push(&members, gr_json_value(ir, item));
  }
  return gr_json_braces(ir, "{", gr_list_row(ir, &members), false, "}");
}

gr_node gr_json_value(struct gr_ir *ir, json_t *value) {
  char text[24];
  switch (json_typeof(value)) {
    case JSON_OBJECT: return object_of(ir, value);
    case JSON_ARRAY: return array_of(ir, value);
    case JSON_STRING: return gr_json_quoted(ir, gr_json_spelled(ir, json_string_value(value), json_string_length(value)));
    case JSON_INTEGER: snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(value)); return gr_text(ir, text);
    case JSON_REAL: return real(ir, json_real_value(value));
    case JSON_TRUE: return gr_text(ir, "true");
    case JSON_FALSE: return gr_text(ir, "false");
    default: return gr_text(ir, "null");
  }
}

/* --- any value ---------------------------------------------------------------------------------- */

static gr_node any_string(struct gr_ir *ir) {
  return gr_json_quoted(ir, gr_json_string(ir, 0, GR_MANY));
}

static gr_node any_member(struct gr_ir *ir, gr_rule value) {
  return gr_seq(ir, gr_seq(ir, any_string(ir), gr_text(ir, ":")), gr_seq(ir, gr_json_space(ir), gr_call(ir, value)));
}

static void make_any(struct gr_ir *ir, struct gr_json_any *any) {
  any->made = true;
  any->value = gr_rule_new(ir);
  any->object = gr_rule_new(ir);
  any->array = gr_rule_new(ir);
  gr_node more = gr_repeat(ir, gr_seq(ir, gr_json_comma(ir), any_member(ir, any->value)), 0, GR_MANY);
  gr_rule_define(ir, any->object, gr_json_braces(ir, "{", gr_seq(ir, any_member(ir, any->value), more), true, "}"));
  more = gr_repeat(ir, gr_seq(ir, gr_json_comma(ir), gr_call(ir, any->value)), 0, GR_MANY);
  gr_rule_define(ir, any->array, gr_json_braces(ir, "[", gr_seq(ir, gr_call(ir, any->value), more), true, "]"));
  const gr_node kinds[] = {gr_call(ir, any->object), gr_call(ir, any->array), any_string(ir),       gr_json_number(ir),
                           gr_text(ir, "true"),      gr_text(ir, "false"),    gr_text(ir, "null")};
  gr_rule_define(ir, any->value, gr_one_of(ir, kinds, sizeof kinds / sizeof *kinds));
}

gr_node gr_json_any_value(struct gr_ir *ir, struct gr_json_any *any) {
  if (!any->made) make_any(ir, any);
  return gr_call(ir, any->value);
}

gr_node gr_json_any_object(struct gr_ir *ir, struct gr_json_any *any) {
  if (!any->made) make_any(ir, any);
  return gr_call(ir, any->object);
}

gr_node gr_json_any_array(struct gr_ir *ir, struct gr_json_any *any) {
  if (!any->made) make_any(ir, any);
  return gr_call(ir, any->array);
}
