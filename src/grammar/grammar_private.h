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

/* --- tokens after a state ------------------------------------------------------------------------ */

/* Bytes that tokens have left where a rule ends within them: it is for its callers to say whether they may follow. */
struct gr_rest {
  uint32_t at;               /* of the vocabulary's bytes */
  uint32_t tokens, n_tokens; /* those that end so: where they begin in a list of tokens */
  uint8_t length;
  uint8_t common;            /* with the rest before */
};

/* What may follow a state within its rule and the rules that it calls behind a byte; what it calls at once has tops of
 * its own. Only states that much of the vocabulary may follow have one: others are followed when asked. */
struct gr_mask {
  bool made;
  uint32_t tokens, n_tokens; /* whoever called: in the grammar's list */
  uint32_t words;            /* the same as bits, if they are many; GR_NONE */
  uint32_t rests, n_rests;
  uint32_t depth;            /* frames that some of them pass through, with what these need; 0: none but the state's own */
};

/* --- vocabulary: grammar_vocabulary.c, grammar_bodies.c --------------------------------------------- */

#define GR_TOKEN_BYTES 255 /* longer tokens are never allowed */
#define GR_LEVELS 16

/* What may follow a state of a string's body. */
struct gr_body {
  uint32_t *tokens, n_tokens;           /* (n_tokens) that stay in the body, by the number of characters that they begin */
  uint32_t up_to[GR_TOKEN_BYTES + 1];   /* how many of these begin so many characters at most */
  uint32_t *levels;                     /* (GR_LEVELS, n_words) those that begin up to 0, 1, ... and any number, as bits. NULL: they
                                         * are few */
  struct gr_rest *rests;                /* (n_rests) from a quote on, by bytes */
  uint32_t n_rests;
  uint32_t *rest_tokens;                /* and (same) their characters */
  uint8_t *rest_chars;
};

struct tl_vocabulary {
  uint32_t n;                    /* tokens, with those that are never allowed */
  uint32_t n_words;              /* of a mask */
  uint32_t n_sorted;             /* those that may be allowed, in the order of their bytes: */
  uint32_t *sorted;              /* (n_sorted) which they are */
  uint32_t *place;               /* (n) where a token is among them; GR_NONE: it is not */
  char *bytes;                   /* of all of them in this order */
  uint32_t *start;               /* (n_sorted + 1) */
  uint8_t *common;               /* (n_sorted) how many bytes each has in common with the one before */
  uint32_t *shorter;             /* (n_sorted) the next that has less in common */
  uint32_t first[257];           /* sorted tokens by their first byte: where each begins */
  uint32_t *pairs;               /* (256, 257) tokens that begin with a first byte and a second below this one */
  uint8_t body_next[GR_BODIES][256];
  uint8_t body_low[GR_BODIES][256], body_high[GR_BODIES][256]; /* bytes around each that lead to the same */
  struct gr_body bodies[GR_BODIES];
  uint32_t wide; /* states that more tokens may follow, as far as their first two bytes tell, have masks; */
  uint32_t many; /* masks of more tokens are bits, else lists. Tests lower both */
};

/* Fills body_next and bodies of a vocabulary that is complete otherwise. TL_ENOMEM; gr_bodies_done after errors too. */
int gr_bodies_init(struct tl_vocabulary *vocabulary);
void gr_bodies_done(struct tl_vocabulary *vocabulary);

/* The first sorted token behind `i` that differs from it within its first `n` bytes. */
static inline uint32_t gr_skip(const struct tl_vocabulary *v, uint32_t i, uint32_t n) {
  for (i++; i < v->n_sorted && v->common[i] >= n;) i = v->shorter[i];
  return i;
}

/* A token with bytes left, before its kind are put together: grammar_rests.c. */
struct gr_left {
  uint32_t at, token;
  uint8_t length;
  uint8_t chars;
};
/* Sorts them and makes a rest of those that are equal; tokens and chars (NULL: not wanted) have room for n. Returns how many rests. */
uint32_t gr_rests_group(const struct tl_vocabulary *vocabulary, struct gr_left *left, uint32_t n, struct gr_rest *rests, uint32_t *tokens,
                        uint8_t *chars);

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
  uint32_t rule;
  uint16_t need;         /* frames that the rest of its rule needs at least, its own not counted; GR_ENDLESS: it has no end */
  bool accepts;          /* its rule may end here */
  bool plain;            /* it neither accepts nor calls */
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
  struct gr_mask *masks;   /* (n_states) */
  uint32_t *tokens;        /* of masks, and of rests */
  uint32_t *words;         /* of masks */
  struct gr_rest *rests;
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
  GR_WORK = 200000, /* of one mask, some milliseconds: what is not found by then is not allowed, as long as something is */
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
  uint64_t work;    /* tops, callers and calls that it has looked at so far: what time goes by */
  uint32_t deepest; /* that was asked for, frames and what they need; who wants to know begins with 0 */
};

/* The beginning of the grammar. walk: with its arrays. */
void gr_walk_begin(struct gr_walk *walk, struct gr_set *ret);
/* Where a frame's callers go on when its rule ends here, with all that they may do at once. */
void gr_walk_callers(struct gr_walk *walk, uint32_t frame, struct gr_set *ret);
/* After `byte`. What it adds to the walk's frames may be cut off again. False: nothing is left. */
bool gr_walk_byte(struct gr_walk *walk, const struct gr_set *set, uint8_t byte, struct gr_set *ret);
/* After n of them, tops and all. `set` is changed; `other` is scratch. How many were allowed; n: all. */
size_t gr_walk_bytes(struct gr_walk *walk, struct gr_set *set, const char *bytes, size_t n, struct gr_set *other);
/* The places of a text after each of its bytes, so that one that begins alike need not begin anew. Nor need one that
 * only has other bytes of the same kind: as long as each byte lies between low and high, nothing would come out differently. */
struct gr_trail {
  struct gr_walk *walk;
  struct gr_set *sets;    /* (GR_TOKEN_BYTES + 1); the first is where texts begin */
  uint32_t n;             /* how many behind the first are known */
  uint32_t frames[GR_TOKEN_BYTES + 1], edges[GR_TOKEN_BYTES + 1]; /* how many the walk had then */
  uint8_t low[GR_TOKEN_BYTES], high[GR_TOKEN_BYTES];              /* bytes that lead from each to the next as it is known */
};

/* sets[0] is there. */
static inline void gr_trail_begin(struct gr_trail *trail) {
  trail->n = 0;
  trail->frames[0] = trail->walk->n_frames;
  trail->edges[0] = trail->walk->n_edges;
}
/* A text of which the first `from` bytes are those of the one before. How many of its bytes are allowed. */
uint32_t gr_trail_follow(struct gr_trail *trail, const char *bytes, uint32_t from, uint32_t length);

/* Into `to`, whose arrays are others, without the frames that no top needs, and with one caller of each frame only if
 * `alone`. False: they would leave too little room; not so for one top alone. */
bool gr_walk_compact(const struct gr_walk *from, struct gr_set *set, bool alone, struct gr_walk *to);

/* --- what comes before: grammar_thinking.c -------------------------------------------------------------- */

#define GR_THINKING_ENDS 2

enum gr_phase {
  GR_BOUND,     /* what comes is the grammar's */
  GR_MAY_THINK, /* or begins thoughts */
  GR_THINKS,
};

struct gr_thinking {
  const struct tl_thinking *of; /* borrowed; used unless GR_BOUND */
  enum gr_phase phase;
  bool bound_too;               /* GR_MAY_THINK: the grammar has taken the text so far as well */
  uint32_t n_begun;             /* GR_MAY_THINK: so many bytes of the mark are there */
  uint32_t end;                 /* GR_THINKS: which mark is to come */
  size_t n_tail;
  char tail[TL_THINKING_BYTES]; /* (n_tail) the end of the text, less than the mark */
};

enum gr_thought { GR_NO_THOUGHT, GR_PART_OF_MARK, GR_THOUGHT };

void gr_thinking_begin(struct gr_thinking *thinking, const struct tl_thinking *of, bool within);
/* What a token is, while it is not GR_BOUND. GR_NO_THOUGHT: nothing has changed. GR_THOUGHT: *ret_rest (ret_length) is what it has
 * behind the thoughts' end. */
enum gr_thought gr_thinking_take(struct gr_thinking *thinking, const struct tl_vocabulary *vocabulary, int32_t token, const char **ret_rest,
                                 size_t *ret_length);
/* GR_MAY_THINK: adds tokens of the mark; GR_THINKS: writes all words. */
void gr_thinking_mask(const struct gr_thinking *thinking, const struct tl_vocabulary *vocabulary, uint32_t *words);

#endif
