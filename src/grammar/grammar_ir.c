/* SPDX-License-Identifier: MIT */
#include "grammar/grammar_ir.h"

#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_build.h"
#include "tokenlane/base/utf8.h"

bool gr_grow(void *array, uint32_t *capacity, uint32_t used, uint32_t n, size_t size) {
  if (n <= *capacity - used) return true;
  if (n > UINT32_MAX / 4 || used > UINT32_MAX / 4) return false;
  uint32_t more = (used + n) * 2 < 32 ? 32 : (used + n) * 2;
  void *at, *grown;
  memcpy(&at, array, sizeof at);
  grown = realloc(at, more * size);
  if (!grown) return false;
  at = grown;
  memcpy(array, &at, sizeof at);
  *capacity = more;
  return true;
}

struct gr_ir *gr_ir_new(uint64_t *fuel) {
  struct gr_ir *ir = calloc(1, sizeof *ir);
  if (ir) ir->fuel = fuel;
  return ir;
}

void gr_ir_free(struct gr_ir *ir) {
  if (!ir) return;
  free(ir->exprs);
  free(ir->rules);
  free(ir->bytes);
  free(ir);
}

int gr_failed(const struct gr_ir *ir) {
  return ir->failed;
}

static gr_node fail(struct gr_ir *ir, int code) {
  if (!ir->failed) ir->failed = code;
  return GR_NONE;
}

static gr_node add(struct gr_ir *ir, struct gr_expr expr) {
  if (ir->failed) return GR_NONE;
  if (!gr_spend(ir->fuel, GR_COST_NODE)) return fail(ir, TL_ELIMIT);
  if (!gr_grow(&ir->exprs, &ir->exprs_capacity, ir->n_exprs, 1, sizeof *ir->exprs)) return fail(ir, TL_ENOMEM);
  ir->exprs[ir->n_exprs] = expr;
  return ir->n_exprs++;
}

static bool is(const struct gr_ir *ir, gr_node node, enum gr_kind kind) {
  return ir->exprs[node].kind == kind;
}

gr_node gr_empty(struct gr_ir *ir) {
  return add(ir, (struct gr_expr){.kind = GR_EMPTY});
}

gr_node gr_nothing(struct gr_ir *ir) {
  return add(ir, (struct gr_expr){.kind = GR_NOTHING});
}

gr_node gr_bytes(struct gr_ir *ir, const char *bytes, size_t n) {
  if (ir->failed) return GR_NONE;
  if (n == 0) return gr_empty(ir);
  if (n > UINT32_MAX / 4 || !gr_spend(ir->fuel, n)) return fail(ir, TL_ELIMIT);
  if (!gr_grow(&ir->bytes, &ir->bytes_capacity, ir->n_bytes, (uint32_t)n, 1)) return fail(ir, TL_ENOMEM);
  memcpy(ir->bytes + ir->n_bytes, bytes, n);
  ir->n_bytes += (uint32_t)n;
  return add(ir, (struct gr_expr){.kind = GR_BYTES, .a = ir->n_bytes - (uint32_t)n, .b = (uint32_t)n});
}

gr_node gr_seq(struct gr_ir *ir, gr_node first, gr_node second) {
  if (ir->failed || first == GR_NONE || second == GR_NONE) return GR_NONE;
  if (is(ir, first, GR_EMPTY) || is(ir, second, GR_NOTHING)) return second;
  if (is(ir, second, GR_EMPTY) || is(ir, first, GR_NOTHING)) return first;
  return add(ir, (struct gr_expr){.kind = GR_SEQ, .a = first, .b = second});
}

gr_node gr_alt(struct gr_ir *ir, gr_node one, gr_node other) {
  if (ir->failed || one == GR_NONE || other == GR_NONE) return GR_NONE;
  if (one == other || is(ir, other, GR_NOTHING)) return one;
  if (is(ir, one, GR_NOTHING)) return other;
  return add(ir, (struct gr_expr){.kind = GR_ALT, .a = one, .b = other});
}

gr_node gr_repeat(struct gr_ir *ir, gr_node what, uint32_t min, uint32_t max) {
  if (ir->failed || what == GR_NONE) return GR_NONE;
  if (min > max) return gr_nothing(ir);
  if (max == 0) return gr_empty(ir);
  if (is(ir, what, GR_EMPTY) || (min == 1 && max == 1)) return what;
  if (is(ir, what, GR_NOTHING)) return min == 0 ? gr_empty(ir) : what;
  return add(ir, (struct gr_expr){.kind = GR_REPEAT, .a = what, .min = min, .max = max});
}

/* --- characters --------------------------------------------------------------------------------- */

/* Characters whose encodings have the same length and differ in such a way that each byte has a range of its own. */
static gr_node bytes_between(struct gr_ir *ir, uint32_t first, uint32_t last) {
  char low[4], high[4];
  size_t n = tl_utf8_encode(first, low);
  if (tl_utf8_encode(last, high) != n) return fail(ir, TL_EINVAL);
  gr_node all = gr_empty(ir);
  for (size_t i = 0; i < n; i++)
    all = gr_seq(ir, all, add(ir, (struct gr_expr){.kind = GR_RANGE, .a = (uint8_t)low[i], .b = (uint8_t)high[i]}));
  return all;
}

/* Where [first, last] is to be cut so that its part up to there comes closer to such a range; last: nowhere. */
static uint32_t cut(uint32_t first, uint32_t last) {
  static const uint32_t ends[] = {0x7f, 0x7ff, 0xd7ff, 0xdfff, 0xffff};
  for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
    if (first <= ends[i] && ends[i] < last) return ends[i];
  if (last <= 0x7f) return last;
  for (unsigned bits = 6; bits <= 18; bits += 6) {
    uint32_t low = (1u << bits) - 1;
    if ((first | low) == (last | low)) continue;
    if (first & low) return first | low;
    if ((last & low) != low) return (last & ~low) - 1;
  }
  return last;
}

gr_node gr_chars(struct gr_ir *ir, const struct gr_range *ranges, size_t n) {
  gr_node any = gr_nothing(ir);
  for (size_t i = 0; i < n && !ir->failed; i++) {
    uint32_t first = ranges[i].first, last = ranges[i].last > 0x10ffff ? 0x10ffff : ranges[i].last;
    while (first <= last && !ir->failed) {
      uint32_t end = cut(first, last);
      /* what is cut off may still have to be cut elsewhere */
      for (uint32_t shorter; (shorter = cut(first, end)) != end;) end = shorter;
      if (first < 0xd800 || first > 0xdfff) any = gr_alt(ir, any, bytes_between(ir, first, end));
      first = end + 1;
    }
  }
  return any;
}

/* --- rules ------------------------------------------------------------------------------------------ */

static gr_rule add_rule(struct gr_ir *ir, struct gr_ir_rule rule) {
  if (ir->failed) return GR_NONE;
  if (!gr_spend(ir->fuel, GR_COST_NODE)) return fail(ir, TL_ELIMIT);
  if (!gr_grow(&ir->rules, &ir->rules_capacity, ir->n_rules, 1, sizeof *ir->rules)) return fail(ir, TL_ENOMEM);
  ir->rules[ir->n_rules] = rule;
  return ir->n_rules++;
}

gr_rule gr_rule_new(struct gr_ir *ir) {
  return add_rule(ir, (struct gr_ir_rule){.body = GR_NONE});
}

void gr_rule_define(struct gr_ir *ir, gr_rule rule, gr_node what) {
  if (!ir->failed && rule != GR_NONE) ir->rules[rule].body = what;
}

gr_node gr_call(struct gr_ir *ir, gr_rule rule) {
  if (ir->failed || rule == GR_NONE) return GR_NONE;
  return add(ir, (struct gr_expr){.kind = GR_CALL, .a = rule});
}

gr_node gr_json_string(struct gr_ir *ir, uint32_t min, uint32_t max) {
  if (ir->failed) return GR_NONE;
  if (min > max) return gr_nothing(ir);
  if (max == 0) return gr_empty(ir);
  if (!gr_spend(ir->fuel, 1 + ir->n_rules / 8)) return fail(ir, TL_ELIMIT);
  for (gr_rule i = 0; i < ir->n_rules; i++)
    if (ir->rules[i].string && ir->rules[i].min == min && ir->rules[i].max == max) return gr_call(ir, i);
  return gr_call(ir, add_rule(ir, (struct gr_ir_rule){.body = GR_NONE, .string = true, .min = min, .max = max}));
}
