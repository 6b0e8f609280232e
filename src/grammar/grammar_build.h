/* SPDX-License-Identifier: MIT */
/* Between expressions and a compiled grammar: the inside of the IR, the automaton with its ambiguities (NFA),
 * and who makes what of it. */
#ifndef GRAMMAR_BUILD_H
#define GRAMMAR_BUILD_H

#include <stdbool.h>

#include "grammar/grammar_ir.h"
#include "grammar/grammar_private.h"

/* --- expressions: grammar_ir.c ---------------------------------------------------------------- */

enum gr_kind { GR_EMPTY, GR_NOTHING, GR_BYTES, GR_RANGE, GR_SEQ, GR_ALT, GR_REPEAT, GR_CALL };

struct gr_expr {
  enum gr_kind kind;
  uint32_t a, b;     /* bytes: where and how many; range: first and last byte; seq, alt: both; repeat: what; call: rule */
  uint32_t min, max; /* repeat */
};

struct gr_ir_rule {
  gr_node body;      /* GR_NONE: not defined, or a string */
  bool string;       /* what stands in a JSON string of min to max characters */
  uint32_t min, max;
};

struct gr_ir {
  struct gr_expr *exprs;
  uint32_t n_exprs, exprs_capacity;
  struct gr_ir_rule *rules;
  uint32_t n_rules, rules_capacity;
  char *bytes;
  uint32_t n_bytes, bytes_capacity;
  uint64_t *fuel;
  int failed;
};

/* Makes room for n more of `size` bytes in an array of `used`; false: no memory. */
bool gr_grow(void *array, uint32_t *capacity, uint32_t used, uint32_t n, size_t size);
/* What a piece costs, at about 4 ns and 4 bytes a unit, so that fuel bounds time and memory of compiling. */
enum { GR_COST_NODE = 16, GR_COST_EDGE = 16, GR_COST_STATE = 32, GR_COST_FIRST = 16 };
/* False, and the fuel is gone, when there is less. */
static inline bool gr_spend(uint64_t *fuel, uint64_t n) {
  bool enough = *fuel >= n;
  *fuel = enough ? *fuel - n : 0;
  return enough;
}

/* --- the automaton of all rules, with its ambiguities: grammar_nfa.c ------------------------------- */

struct gr_nfa_edge {
  uint32_t to, next; /* of the same state; GR_NONE: the last */
  uint32_t rule;     /* GR_NONE: bytes [low, high], or nothing at all where low > high */
  uint8_t low, high;
};

struct gr_nfa_rule {
  uint32_t entry, exit; /* GR_NONE: not reached from the root, or a string */
  bool nullable;
};

struct gr_nfa {
  uint32_t *first; /* (n) of a state's edges */
  uint32_t n, capacity;
  struct gr_nfa_edge *edges;
  uint32_t n_edges, edges_capacity;
  struct gr_nfa_rule *rules; /* (ir's rules + 1): the last is the root's */
  uint32_t n_rules;
};

/* TL_ENOMEM, TL_ELIMIT (fuel). gr_nfa_done after errors too. */
int gr_nfa_build(struct gr_nfa *nfa, struct gr_ir *ir, gr_node root);
void gr_nfa_done(struct gr_nfa *nfa);

/* --- determinised, a rule at a time: grammar_subsets.c ----------------------------------------------- */

/* Fills states, ranges, calls and rules of a grammar. */
int gr_determinise(struct tl_grammar *grammar, const struct gr_ir *ir, const struct gr_nfa *nfa);

/* --- fewer states: grammar_merge.c --------------------------------------------------------------------------- */

/* Leads all ways to one of those states that do the same; the others are reached no more. */
int gr_merge(struct tl_grammar *grammar, uint64_t *fuel);
/* Drops the states that are not reached. */
int gr_keep_reached(struct tl_grammar *grammar, const bool *reached);

/* --- what the whole must fulfil: grammar_check.c ------------------------------------------------------- */

/* Refuses left recursion and grammars without a text, removes and merges states, fills `need`. */
int gr_check(struct tl_grammar *grammar, uint64_t *fuel, struct tl_error *err);

/* --- which tokens may follow: grammar_masks.c -------------------------------------------------------------- */

/* Fills masks, tokens, words and rests, and adds to `bytes`. TL_ENOMEM, TL_ELIMIT. */
int gr_masks_build(struct tl_grammar *grammar, uint64_t *fuel, size_t max_bytes);

#endif
