/* SPDX-License-Identifier: MIT */
/* The room's own view of a compiled grammar, and of following a text through it.
 *
 * Each rule is an automaton over bytes, deterministic but for its calls of other rules. A text's place in the
 * grammar is a set of tops: a state of some rule's automaton, and the frame of the call that is in that rule. A
 * frame stands for a rule and the place of the text where it began, however many callers it has there, so
 * frames form a graph and an ambiguous grammar costs at most one frame for each rule and place.
 *
 *    tops      state 17 ──► frame 4 (rule "value") ──edge: goes on in state 9──► frame 1 ──► ...
 *              state 23 ──►     "                  ──edge: goes on in state 30─► frame 2 ──► ...
 */
#ifndef GRAMMAR_PRIVATE_H
#define GRAMMAR_PRIVATE_H

#include <stdatomic.h>

#include "grammar/grammar_ir.h"
#include "tokenlane/grammar.h"

/* --- the bodies of JSON strings: grammar_string.c ---------------------------------------------- */

/* States below GR_BODIES are those of what stands between the quotes of a JSON string, the same for all grammars. A
 * string's frame knows its bounds, its top counts its characters. */
enum { GR_BODY = 0, GR_BODIES = 20, GR_DEAD = 0xff };
/* The state after each byte; GR_DEAD: not allowed. A string may end in GR_BODY only. */
void gr_body_fill(uint8_t next[GR_BODIES][256]);

/* --- vocabulary: grammar_vocabulary.c ------------------------------------------------------------- */

#define GR_TOKEN_BYTES 255 /* longer tokens are never allowed */

struct tl_vocabulary {
  uint32_t n;                    /* tokens, with those that are never allowed */
  uint32_t n_words;              /* of a mask */
  char *bytes;                   /* of all tokens, by id */
  uint32_t *start;               /* (n + 1) */
  uint32_t n_sorted;             /* those that may be allowed, */
  uint32_t *sorted;              /* (n_sorted) in the order of their bytes, */
  uint8_t *common;               /* (n_sorted) and how many bytes each has in common with the one before */
  uint8_t body_next[GR_BODIES][256];
};

/* --- grammar: grammar_compile.c --------------------------------------------------------------------- */

struct gr_step {
  uint8_t low, high;
  uint32_t to;
};

struct gr_called {
  uint32_t rule, back; /* back: the state in which the caller goes on */
};

struct gr_state {
  uint32_t steps, calls; /* where its own begin; they end where those of the state behind it begin */
  uint16_t need;         /* frames that the rest of its rule needs at least, its own not counted; GR_ENDLESS: it has no end */
  bool accepts;          /* its rule may end here */
};
#define GR_ENDLESS UINT16_MAX

/* Nothing is left to do there but to go back to one's caller. */
static inline bool gr_only_accepts(const struct gr_state *state) {
  return state->accepts && state->steps == state[1].steps && state->calls == state[1].calls;
}

struct gr_ruled {
  uint32_t entry;    /* GR_BODY: a string */
  uint32_t min, max; /* characters of a string */
  uint16_t need;
};

struct tl_grammar {
  const struct tl_vocabulary *vocabulary; /* borrowed */
  _Atomic uint32_t n_owners;
  struct gr_state *states; /* (n_states + 1); the first GR_BODIES are not used */
  uint32_t n_states;
  struct gr_step *steps;   /* by state, ascending and apart */
  struct gr_called *calls; /* by state and rule */
  struct gr_ruled *rules;
  uint32_t n_rules, root;
  size_t bytes;
};

/* Takes the IR and leaves it to its owner. limits: max_bytes is looked at, fuel is the IR's. field: for errors. */
int gr_compile(struct gr_ir *ir, gr_node root, const struct tl_vocabulary *vocabulary, const struct tl_grammar_limits *limits,
               const char *field, struct tl_grammar **ret, struct tl_error *err);

/* --- following: grammar_walk.c ------------------------------------------------------------------------ */

enum {
  GR_TOPS = 64,    /* beyond these, of an ambiguous grammar, the latest are dropped: what is left still is the grammar's */
  GR_DEPTH = 256,  /* calls within calls; a token that would need more is not allowed */
  GR_FRAMES = 1024,
  GR_EDGES = 2048,
};

struct gr_top {
  uint32_t state, frame;
  uint32_t count; /* characters of a string so far */
};

struct gr_set {
  uint32_t n;
  bool accepts; /* the text may end here */
  struct gr_top tops[GR_TOPS];
};

struct gr_frame {
  uint32_t rule;
  uint32_t edge; /* its first; GR_NONE: none, which only the root's has, frame 0 */
  uint32_t depth;
};

struct gr_edge {
  uint32_t back, frame; /* where the caller goes on */
  uint32_t next;
};

/* Frames of a text: those of its tops, and behind them those of texts that are being tried. */
struct gr_walk {
  const struct tl_grammar *grammar;
  struct gr_frame *frames; /* (GR_FRAMES) */
  struct gr_edge *edges;   /* (GR_EDGES) */
  uint32_t n_frames, n_edges;
};

/* The beginning of the grammar. walk: with its arrays. */
void gr_walk_begin(struct gr_walk *walk, struct gr_set *ret);
/* After `byte`. What it adds to the walk's frames may be cut off again. False: nothing is left. */
bool gr_walk_byte(struct gr_walk *walk, const struct gr_set *set, uint8_t byte, struct gr_set *ret);
/* After n of them, tops and all. `set` is changed; `other` is scratch. How many were allowed; n: all. */
size_t gr_walk_bytes(struct gr_walk *walk, struct gr_set *set, const char *bytes, size_t n, struct gr_set *other);
/* Into `to`, whose arrays are others, without the frames that no top needs; false: too many. */
bool gr_walk_compact(const struct gr_walk *from, struct gr_set *set, struct gr_walk *to);

#endif
