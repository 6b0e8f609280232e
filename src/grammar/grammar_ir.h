/* SPDX-License-Identifier: MIT */
/* A grammar as expressions over bytes, which the readers of schemas, regular expressions and GBNF build
 * (grammar_schema*.c, grammar_regex.c, grammar_gbnf.c) and grammar_compile.c turns into automata. */
#ifndef GRAMMAR_IR_H
#define GRAMMAR_IR_H

#include <stddef.h>
#include <stdint.h>

#include "tokenlane/base/error.h"

#define GR_MANY UINT32_MAX /* no upper bound */
#define GR_NONE UINT32_MAX /* no node: out of memory or over the limit. It may be given to all of these functions,
                            * whose result is then GR_NONE too: readers look at gr_failed once, at the end */

typedef uint32_t gr_node;
typedef uint32_t gr_rule; /* rules may call one another and themselves, but never before a byte of their own (left recursion) */

struct gr_ir;

struct gr_ir *gr_ir_new(uint64_t *fuel); /* fuel: what building and compiling may still cost, counted down; NULL result: no memory */
void gr_ir_free(struct gr_ir *ir);
/* TL_OK, or what went wrong first: TL_ENOMEM, TL_ELIMIT (out of fuel). */
int gr_failed(const struct gr_ir *ir);

gr_node gr_empty(struct gr_ir *ir);   /* nothing, which always matches */
gr_node gr_nothing(struct gr_ir *ir); /* matches nothing at all: an alternative that cannot be */
gr_node gr_bytes(struct gr_ir *ir, const char *bytes, size_t n); /* these; copied */
gr_node gr_seq(struct gr_ir *ir, gr_node first, gr_node second);
gr_node gr_alt(struct gr_ir *ir, gr_node one, gr_node other);
gr_node gr_repeat(struct gr_ir *ir, gr_node what, uint32_t min, uint32_t max); /* max GR_MANY: no end */

/* One character of UTF-8 out of n ranges of code points [first, last], ascending and apart; surrogates among
 * them match nothing. */
struct gr_range {
  uint32_t first, last;
};
gr_node gr_chars(struct gr_ir *ir, const struct gr_range *ranges, size_t n);

/* What stands between the quotes of a JSON string, any character or escape of RFC 8259, min to max characters
 * (code points; max GR_MANY). All strings without bounds are one rule, whose masks the vocabulary has from boot; those
 * with bounds are counted, not unrolled: large bounds cost nothing. A quote follows, and nothing else can: compiling
 * refuses it otherwise. */
gr_node gr_json_string(struct gr_ir *ir, uint32_t min, uint32_t max);

gr_rule gr_rule_new(struct gr_ir *ir);                       /* to be defined later */
void gr_rule_define(struct gr_ir *ir, gr_rule rule, gr_node what); /* once */
gr_node gr_call(struct gr_ir *ir, gr_rule rule);

#endif
