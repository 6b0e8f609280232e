/* SPDX-License-Identifier: MIT */
/* Whether a text is, or begins, a text of a grammar, by trying everything: what the automata are compared with. It knows
 * the expressions only, and no limits but its own patience. */
#ifndef NAIVE_GRAMMAR_H
#define NAIVE_GRAMMAR_H

#include "grammar/grammar_build.h"
#include "tokenlane/base/utf8.h"
#include "unit.h"

#define NAIVE_STEPS 400000

/* What is to be matched, and then the next. */
struct naive_rest {
  gr_node node;       /* GR_NONE: characters of the string rule */
  uint32_t times;     /* repeat: how often it has matched; string: how many characters */
  size_t from;        /* repeat: where the last one began */
  uint32_t string;
  const struct naive_rest *next;
};

struct naive {
  const struct gr_ir *ir;
  bool *fruitful, *nullable; /* (nodes) some text matches; the empty one does */
  const uint8_t *text;
  size_t length;
  uint32_t steps;
  bool begins, matches; /* the answers; of what has steps left */
};

static bool naive_rule_is(const struct naive *naive, const bool *of, uint32_t rule) {
  const struct gr_ir_rule *r = &naive->ir->rules[rule];
  if (r->string) return of == naive->fruitful || r->min == 0;
  return r->body != GR_NONE && of[r->body];
}

static bool naive_node_is(const struct naive *naive, const bool *of, gr_node node) {
  const struct gr_expr *e = &naive->ir->exprs[node];
  switch (e->kind) {
    case GR_EMPTY: return true;
    case GR_NOTHING: return false;
    case GR_BYTES:
    case GR_RANGE: return of == naive->fruitful;
    case GR_SEQ: return of[e->a] && of[e->b];
    case GR_ALT: return of[e->a] || of[e->b];
    case GR_REPEAT: return e->min == 0 || of[e->a];
    case GR_CALL: return naive_rule_is(naive, of, e->a);
  }
  return false;
}

static void naive_init(struct naive *naive, const struct gr_ir *ir) {
  *naive = (struct naive){.ir = ir};
  naive->fruitful = calloc(ir->n_exprs, sizeof(bool));
  naive->nullable = calloc(ir->n_exprs, sizeof(bool));
  for (bool more = true; more;) {
    more = false;
    for (gr_node i = 0; i < ir->n_exprs; i++) {
      bool f = naive_node_is(naive, naive->fruitful, i), n = naive_node_is(naive, naive->nullable, i);
      more = more || f != naive->fruitful[i] || n != naive->nullable[i];
      naive->fruitful[i] = f;
      naive->nullable[i] = n;
    }
  }
}

static void naive_done(struct naive *naive) {
  free(naive->fruitful);
  free(naive->nullable);
}

/* --- characters of a JSON string -------------------------------------------------------------------- */

static bool naive_hex(uint8_t byte, const char *of) {
  return byte && strchr(of, byte) != NULL;
}

/* x: a digit, n: one but d, d, l: 0 to 7, h: 8 to b, c: c to f, e: what follows a backslash, else itself */
static bool naive_fits(uint8_t byte, char class) {
  switch (class) {
    case 'x': return naive_hex(byte, "0123456789abcdefABCDEF");
    case 'n': return naive_hex(byte, "0123456789abcefABCEF");
    case 'd': return naive_hex(byte, "dD");
    case 'l': return naive_hex(byte, "01234567");
    case 'h': return naive_hex(byte, "89abAB");
    case 'c': return naive_hex(byte, "cdefCDEF");
    case 'e': return naive_hex(byte, "\"\\/bfnrt");
    default: return byte == (uint8_t)class;
  }
}

static bool naive_may_become_utf8(const uint8_t *text, size_t n) {
  static const uint8_t more[] = {0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf};
  char whole[4];
  memcpy(whole, text, n);
  for (unsigned i = 0; i < 216; i++) {
    unsigned k = i;
    for (size_t at = n; at < 4; at++, k /= 6) whole[at] = (char)more[k % 6];
    for (size_t length = n + 1; length <= 4; length++)
      if (tl_utf8_valid(whole, length)) {
        uint32_t code;
        if (tl_utf8_decode(whole, length, &code) == length) return true;
      }
  }
  return false;
}

/* Length of the character there; 0: none; SIZE_MAX: the text ends within one. */
static size_t naive_character(const uint8_t *text, size_t n) {
  static const char *const forms[] = {"\\e", "\\unxxx", "\\udlxx", "\\udhxx\\udcxx"};
  uint32_t code;
  if (n == 0) return SIZE_MAX;
  if (text[0] != '\\') {
    size_t length = tl_utf8_decode((const char *)text, n, &code);
    if (length) return code >= 0x20 && code != '"' ? length : 0;
    return n < 4 && naive_may_become_utf8(text, n) ? SIZE_MAX : 0;
  }
  for (size_t f = 0; f < UNIT_COUNT(forms); f++) {
    size_t at = 0;
    while (forms[f][at] && at < n && naive_fits(text[at], forms[f][at])) at++;
    if (!forms[f][at]) return at;
    if (at == n) return SIZE_MAX;
  }
  return 0;
}

/* --- everything is tried ------------------------------------------------------------------------------- */

static void naive_try(struct naive *naive, size_t at, const struct naive_rest *rest);

static void naive_try_string(struct naive *naive, size_t at, const struct naive_rest *rest) {
  const struct gr_ir_rule *rule = &naive->ir->rules[rest->string];
  if (rest->times >= rule->min) naive_try(naive, at, rest->next);
  if (rest->times == rule->max) return;
  size_t length = naive_character(naive->text + at, naive->length - at);
  if (length == SIZE_MAX) naive->begins = true;
  if (length == 0 || length == SIZE_MAX) return;
  struct naive_rest more = *rest;
  more.times++;
  naive_try(naive, at + length, &more);
}

static void naive_try_repeat(struct naive *naive, size_t at, const struct naive_rest *rest, const struct gr_expr *e) {
  if (rest->times >= e->min) naive_try(naive, at, rest->next);
  if (rest->times == e->max || !naive->fruitful[e->a]) return;
  /* another one of nothing changes nothing */
  if (rest->times > e->min && rest->from == at) return;
  struct naive_rest again = {.node = rest->node, .times = rest->times + 1, .from = at, .next = rest->next};
  if (rest->times && rest->from == at && again.times < e->min) again.times = e->min; /* nothing once more, as often as needed */
  struct naive_rest one = {.node = e->a, .next = &again};
  naive_try(naive, at, &one);
}

static void naive_try(struct naive *naive, size_t at, const struct naive_rest *rest) {
  if (++naive->steps > NAIVE_STEPS || (naive->begins && naive->matches)) return;
  if (!rest) {
    if (at == naive->length) naive->begins = naive->matches = true;
    return;
  }
  if (rest->node == GR_NONE) {
    naive_try_string(naive, at, rest);
    return;
  }
  if (!naive->fruitful[rest->node]) return;
  const struct gr_expr *e = &naive->ir->exprs[rest->node];
  struct naive_rest first = {.node = e->a, .next = rest->next}, second;
  switch (e->kind) {
    case GR_EMPTY: naive_try(naive, at, rest->next); break;
    case GR_NOTHING: break;
    case GR_RANGE:
      if (at == naive->length) naive->begins = true;
      else if (naive->text[at] >= e->a && naive->text[at] <= e->b) naive_try(naive, at + 1, rest->next);
      break;
    case GR_BYTES:
      for (uint32_t i = 0; i < e->b; i++, at++) {
        if (at == naive->length) naive->begins = true;
        if (at == naive->length || naive->text[at] != (uint8_t)naive->ir->bytes[e->a + i]) return;
      }
      naive_try(naive, at, rest->next);
      break;
    case GR_SEQ:
      second = (struct naive_rest){.node = e->b, .next = rest->next};
      first.next = &second;
      naive_try(naive, at, &first);
      break;
    case GR_ALT:
      naive_try(naive, at, &first);
      first.node = e->b;
      naive_try(naive, at, &first);
      break;
    case GR_REPEAT: naive_try_repeat(naive, at, rest, e); break;
    case GR_CALL:
      first.node = naive->ir->rules[e->a].body;
      if (naive->ir->rules[e->a].string) first = (struct naive_rest){.node = GR_NONE, .string = e->a, .next = rest->next};
      naive_try(naive, at, &first);
      break;
  }
}

/* False: too much to try. What follows the text must be able to match something, which `fruitful` sees to as long as
 * it is asked of all that is to be matched at once: of sequences both halves, when they are begun. */
static bool naive_ask(struct naive *naive, gr_node root, const uint8_t *text, size_t length) {
  struct naive_rest rest = {.node = root};
  naive->text = text;
  naive->length = length;
  naive->steps = 0;
  naive->begins = naive->matches = false;
  naive_try(naive, 0, &rest);
  return naive->steps <= NAIVE_STEPS || (naive->begins && naive->matches);
}

/* --- left recursion ---------------------------------------------------------------------------------------- */

/* Rules that may be called at the beginning of a node, directly. */
static void naive_first_calls(const struct naive *naive, gr_node node, bool *called) {
  const struct gr_expr *e = &naive->ir->exprs[node];
  if (!naive->fruitful[node]) return;
  if (e->kind == GR_CALL) called[e->a] = true;
  if (e->kind == GR_SEQ || e->kind == GR_ALT || e->kind == GR_REPEAT) naive_first_calls(naive, e->a, called);
  if (e->kind == GR_ALT || (e->kind == GR_SEQ && naive->nullable[e->a])) naive_first_calls(naive, e->b, called);
}

/* Whether any rule of those that are reached from the root calls itself first. */
static bool naive_left_recursive(const struct naive *naive, const bool *reached) {
  uint32_t n = naive->ir->n_rules;
  bool *calls = calloc((size_t)n * n + 1, sizeof *calls), found = false;
  for (uint32_t i = 0; i < n; i++)
    if (reached[i] && naive->ir->rules[i].body != GR_NONE) naive_first_calls(naive, naive->ir->rules[i].body, calls + (size_t)i * n);
  for (uint32_t k = 0; k < n; k++)
    for (uint32_t i = 0; i < n; i++)
      for (uint32_t j = 0; j < n; j++)
        if (calls[(size_t)i * n + k] && calls[(size_t)k * n + j]) calls[(size_t)i * n + j] = true;
  for (uint32_t i = 0; i < n; i++) found = found || calls[(size_t)i * n + i];
  free(calls);
  return found;
}

/* Rules that a node calls, in fruitful places, and those that they call. */
static void naive_reach(const struct naive *naive, gr_node node, bool *reached) {
  const struct gr_expr *e = &naive->ir->exprs[node];
  if (!naive->fruitful[node]) return;
  if (e->kind == GR_SEQ || e->kind == GR_ALT || e->kind == GR_REPEAT) naive_reach(naive, e->a, reached);
  if (e->kind == GR_SEQ || e->kind == GR_ALT) naive_reach(naive, e->b, reached);
  if (e->kind != GR_CALL || reached[e->a]) return;
  reached[e->a] = true;
  if (naive->ir->rules[e->a].body != GR_NONE) naive_reach(naive, naive->ir->rules[e->a].body, reached);
}

#endif
