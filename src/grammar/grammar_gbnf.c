/* SPDX-License-Identifier: MIT */
/* llama.cpp's grammars (GBNF):
 *
 *   root  ::= item ("," ws item)*     # comments; a line ends a rule, but not within ( ) and behind ::= or |
 *   item  ::= "a\n" | [^0-9\]]{2,5} | . ws
 *
 * Literals and classes are of characters, their escapes \n \r \t \" \[ \] \\ \xHH \uHHHH \UHHHHHHHH. A name that is defined twice or not
 * at all is an error. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_parts.h"
#include "grammar/grammar_readers.h"
#include "tokenlane/base/buffer.h"
#include "tokenlane/base/utf8.h"

#define MAX_DEPTH 100
#define MAX_COUNT 1000000u
#define LAST 0x10ffffu

struct gbnf_rule {
  char *name; /* owned */
  gr_rule rule;
  unsigned line; /* where it was first met */
  bool defined;
};

struct gbnf {
  struct gr_ir *ir;
  const char *text;
  size_t length, at;
  unsigned line, depth;
  int code; /* of the first error */
  struct gbnf_rule *rules;
  size_t n_rules, rules_room;
  json_t *number_of; /* an object: a name to its number in rules */
  const char *field;
  struct tl_error *err;
};

static gr_node read_alternatives(struct gbnf *g, bool nested);

static gr_node fail_at(struct gbnf *g, int code, unsigned line, const char *what, const char *name) {
  if (g->code) return GR_NONE;
  g->code = tl_error_set(g->err, code, g->field, "line %u: %s%.60s", line, what, name);
  return GR_NONE;
}

static gr_node fail(struct gbnf *g, const char *what) {
  return fail_at(g, TL_EINVAL, g->line, what, "");
}

static char peek(const struct gbnf *g) {
  return g->at < g->length ? g->text[g->at] : 0;
}

static bool begins(const struct gbnf *g, const char *text) {
  size_t n = strlen(text);
  return g->length - g->at >= n && memcmp(g->text + g->at, text, n) == 0;
}

/* Blanks and comments; ends of lines if they mean nothing here. */
static void skip(struct gbnf *g, bool lines) {
  for (; g->at < g->length; g->at++) {
    char c = g->text[g->at];
    if (c == '#') {
      while (g->at + 1 < g->length && g->text[g->at + 1] != '\n') g->at++;
    } else if (c == '\n' && lines) {
      g->line++;
    } else if (c != ' ' && c != '\t' && c != '\r') {
      return;
    }
  }
}

/* --- names ------------------------------------------------------------------------------------------- */

static bool is_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

static struct gbnf_rule *add_rule(struct gbnf *g, const char *name) {
  if (g->n_rules == g->rules_room) {
    size_t room = g->rules_room ? 2 * g->rules_room : 32;
    struct gbnf_rule *grown = realloc(g->rules, room * sizeof *grown);
    if (!grown) return NULL;
    g->rules = grown;
    g->rules_room = room;
  }
  char *copy = strdup(name);
  if (!copy || json_object_set_new(g->number_of, name, json_integer((json_int_t)g->n_rules)) < 0) {
    free(copy);
    return NULL;
  }
  struct gbnf_rule *rule = &g->rules[g->n_rules++];
  rule->name = copy;
  rule->rule = gr_rule_new(g->ir);
  rule->line = g->line;
  rule->defined = false;
  return rule;
}

/* The rule of the name that stands here; NULL: none does, or no memory. Good until the next one. */
static struct gbnf_rule *read_name(struct gbnf *g) {
  size_t n = 0;
  while (g->at + n < g->length && is_name(g->text[g->at + n])) n++;
  char *name = n ? strndup(g->text + g->at, n) : NULL;
  if (!name) {
    fail(g, "expected a rule's name");
    return NULL;
  }
  g->at += n;
  json_t *known = json_object_get(g->number_of, name);
  struct gbnf_rule *rule = known ? &g->rules[json_integer_value(known)] : add_rule(g, name);
  free(name);
  if (!rule) fail_at(g, TL_ENOMEM, g->line, "out of memory", "");
  return rule;
}

/* --- characters ----------------------------------------------------------------------------------------- */

static uint32_t read_hex(struct gbnf *g, int n) {
  uint32_t value = 0;
  for (int i = 0; i < n; i++, g->at++) {
    char c = peek(g), lower = c | 0x20;
    if (c >= '0' && c <= '9') value = value << 4 | (uint32_t)(c - '0');
    else if (lower >= 'a' && lower <= 'f') value = value << 4 | (uint32_t)(lower - 'a' + 10);
    else fail(g, "an escape has too few hexadecimal digits");
    if (g->code) return 0;
  }
  if (value > LAST || (value >= 0xd800 && value <= 0xdfff)) fail(g, "an escape is no character");
  return value;
}

/* One character of a literal or a class, or its escape. */
static uint32_t read_char(struct gbnf *g) {
  uint32_t code = 0;
  size_t n = g->at < g->length ? tl_utf8_decode(g->text + g->at, g->length - g->at, &code) : 0;
  if (n == 0 || code == '\n') {
    fail(g, n ? "a literal or class does not end on its line" : "the text ends too early or is not UTF-8");
    return 0;
  }
  g->at += n;
  if (code != '\\') return code;
  char c = peek(g);
  g->at++;
  switch (c) {
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    case 'x': return read_hex(g, 2);
    case 'u': return read_hex(g, 4);
    case 'U': return read_hex(g, 8);
    case '"':
    case '[':
    case ']':
    case '-':
    case '^':
    case '\\': return (unsigned char)c;
    default: fail(g, "unknown escape"); return 0;
  }
}

static gr_node read_literal(struct gbnf *g) {
  struct tl_buffer text;
  char bytes[4];
  tl_buffer_init(&text, 0);
  g->at++;
  while (!g->code && peek(g) != '"') {
    uint32_t code = read_char(g);
    tl_buffer_append(&text, bytes, tl_utf8_encode(code, bytes));
  }
  g->at++;
  gr_node node = text.failed ? GR_NONE : gr_bytes(g->ir, tl_buffer_bytes(&text), text.length);
  if (text.failed) fail_at(g, TL_ENOMEM, g->line, "out of memory", "");
  tl_buffer_done(&text);
  return node;
}

static int by_first(const void *a, const void *b) {
  const struct gr_range *x = a, *y = b;
  return (x->first > y->first) - (x->first < y->first);
}

/* Ranges in any order to one node; negated: of all others. */
static gr_node chars_of(struct gr_ir *ir, struct gr_range *ranges, size_t n, bool negated) {
  struct gr_range *out = malloc((n + 1) * sizeof *out);
  if (!out) return GR_NONE;
  if (n) qsort(ranges, n, sizeof *ranges, by_first);
  size_t count = 0;
  uint32_t from = 0; /* the first that no range so far has */
  for (size_t i = 0; i < n; i++) {
    uint32_t first = ranges[i].first > from ? ranges[i].first : from;
    if (first > ranges[i].last) continue;
    if (!negated) out[count++] = (struct gr_range){first, ranges[i].last};
    else if (first > from) out[count++] = (struct gr_range){from, first - 1};
    from = ranges[i].last + 1;
  }
  if (negated && from <= LAST) out[count++] = (struct gr_range){from, LAST};
  gr_node node = count ? gr_chars(ir, out, count) : gr_nothing(ir);
  free(out);
  return node;
}

static bool push_range(struct gr_range **ranges, size_t *n, size_t *room, struct gr_range range) {
  if (*n == *room) {
    size_t more = *room ? 2 * *room : 16;
    struct gr_range *grown = realloc(*ranges, more * sizeof *grown);
    if (!grown) return false;
    *ranges = grown;
    *room = more;
  }
  (*ranges)[(*n)++] = range;
  return true;
}

static gr_node read_class(struct gbnf *g) {
  struct gr_range *ranges = NULL;
  size_t n = 0, room = 0;
  g->at++;
  bool negated = peek(g) == '^';
  if (negated) g->at++;
  while (!g->code && peek(g) != ']') {
    uint32_t first = read_char(g), last = first;
    if (peek(g) == '-' && g->at + 1 < g->length && g->text[g->at + 1] != ']') {
      g->at++;
      last = read_char(g);
    }
    if (last < first) fail(g, "a range goes backwards");
    if (!push_range(&ranges, &n, &room, (struct gr_range){first, last})) fail_at(g, TL_ENOMEM, g->line, "out of memory", "");
  }
  g->at++;
  gr_node node = g->code ? GR_NONE : chars_of(g->ir, ranges, n, negated);
  free(ranges);
  return node;
}

/* --- items --------------------------------------------------------------------------------------------- */

static gr_node read_group(struct gbnf *g) {
  if (g->depth == MAX_DEPTH) return fail_at(g, TL_ELIMIT, g->line, "parentheses nest too deeply", "");
  g->at++;
  g->depth++;
  skip(g, true);
  gr_node node = read_alternatives(g, true);
  g->depth--;
  if (peek(g) != ')') return fail(g, "expected )");
  g->at++;
  return node;
}

static gr_node read_item(struct gbnf *g) {
  char c = peek(g);
  if (c == '"') return read_literal(g);
  if (c == '[') return read_class(g);
  if (c == '(') return read_group(g);
  if (c == '.') {
    g->at++;
    return chars_of(g->ir, NULL, 0, true);
  }
  if (c == '<' || c == '!') return fail_at(g, TL_EUNSUPPORTED, g->line, "tokens (<...>) are not supported", "");
  const struct gbnf_rule *rule = read_name(g);
  return rule ? gr_call(g->ir, rule->rule) : GR_NONE;
}

static uint32_t read_count(struct gbnf *g, uint32_t otherwise) {
  uint32_t value = 0;
  size_t from = g->at;
  for (; peek(g) >= '0' && peek(g) <= '9'; g->at++) value = value > MAX_COUNT ? value : 10 * value + (uint32_t)(peek(g) - '0');
  if (value > MAX_COUNT) fail_at(g, TL_ELIMIT, g->line, "that is too often", "");
  return g->at > from ? value : otherwise;
}

static gr_node read_braces(struct gbnf *g, gr_node what) {
  g->at++;
  skip(g, false);
  if (peek(g) == '}') return fail(g, "expected a number in { }");
  uint32_t min = read_count(g, 0), max = min;
  skip(g, false);
  if (peek(g) == ',') {
    g->at++;
    skip(g, false);
    max = read_count(g, GR_MANY);
    skip(g, false);
  }
  if (peek(g) != '}') return fail(g, "expected }");
  g->at++;
  if (min > max) return fail(g, "the least count is above the most");
  return max ? gr_repeat(g->ir, what, min, max) : gr_empty(g->ir);
}

/* What follows an item. A second one repeats what the first made. */
static gr_node read_repeats(struct gbnf *g, gr_node what, bool nested) {
  for (;; skip(g, nested)) {
    char c = peek(g);
    if (g->code) return GR_NONE;
    if (c == '{') {
      what = read_braces(g, what);
      continue;
    }
    if (c != '*' && c != '+' && c != '?') return what;
    g->at++;
    what = gr_repeat(g->ir, what, c == '+', c == '?' ? 1 : GR_MANY);
  }
}

static bool at_item(const struct gbnf *g) {
  char c = peek(g);
  return c && (is_name(c) || strchr("\"[(.<!", c));
}

static gr_node read_row(struct gbnf *g, bool nested) {
  struct gr_list row = {0};
  while (!g->code && gr_failed(g->ir) == TL_OK && at_item(g)) {
    gr_node item = read_item(g);
    skip(g, nested);
    gr_list_push(&row, read_repeats(g, item, nested));
  }
  return gr_list_row(g->ir, &row);
}

static gr_node read_alternatives(struct gbnf *g, bool nested) {
  struct gr_list some = {0};
  gr_list_push(&some, read_row(g, nested));
  while (!g->code && peek(g) == '|') {
    g->at++;
    skip(g, true);
    gr_list_push(&some, read_row(g, nested));
  }
  return gr_list_one_of(g->ir, &some);
}

/* --- rules ----------------------------------------------------------------------------------------------- */

static void read_rule(struct gbnf *g) {
  struct gbnf_rule *rule = read_name(g);
  if (!rule) return;
  size_t number = (size_t)(rule - g->rules);
  if (rule->defined) {
    fail_at(g, TL_EINVAL, g->line, "a second definition of ", rule->name);
    return;
  }
  rule->defined = true;
  skip(g, false);
  if (!begins(g, "::=")) {
    fail(g, "expected ::=");
    return;
  }
  g->at += 3;
  skip(g, true);
  gr_node body = read_alternatives(g, false);
  if (!g->code && g->at < g->length && peek(g) != '\n') fail(g, "expected the end of the line");
  gr_rule_define(g->ir, g->rules[number].rule, body);
  skip(g, true);
}

static gr_node read_rules(struct gbnf *g) {
  skip(g, true);
  while (!g->code && gr_failed(g->ir) == TL_OK && g->at < g->length) read_rule(g);
  if (g->code || gr_failed(g->ir)) return GR_NONE;
  for (size_t i = 0; i < g->n_rules; i++)
    if (!g->rules[i].defined) return fail_at(g, TL_EINVAL, g->rules[i].line, "there is no rule ", g->rules[i].name);
  json_t *root = json_object_get(g->number_of, "root");
  if (!root || !g->rules) return fail_at(g, TL_EINVAL, g->line, "there is no rule root", "");
  return gr_call(g->ir, g->rules[json_integer_value(root)].rule);
}

int gr_read_gbnf(struct gr_ir *ir, const char *text, size_t length, const char *field, gr_node *ret, struct tl_error *err) {
  struct gbnf g = {.ir = ir, .text = text, .length = length, .line = 1, .field = field, .err = err, .number_of = json_object()};
  *ret = g.number_of ? read_rules(&g) : GR_NONE;
  for (size_t i = 0; i < g.n_rules; i++) free(g.rules[i].name);
  free(g.rules);
  json_decref(g.number_of);
  if (g.code) return g.code;
  if (*ret == GR_NONE && gr_failed(ir) == TL_OK) return tl_error_set(err, TL_ENOMEM, field, "out of memory for the grammar");
  return gr_said(ir, field, err);
}
