/* SPDX-License-Identifier: MIT */
/* What an answer must look like: a grammar over bytes, and which tokens may come next. A grammar is
 * compiled once from a JSON schema, a regular expression, a list of choices or GBNF; a matcher follows one
 * sequence through it, and says before each draw which tokens keep to it (the mask that step.h has).
 *
 *   source ──compile──► grammar (immutable, counted) ──► matcher (one a sequence) ──mask──► sampler
 *                                                            ▲──────── token ◄──────────────────┘
 */
#ifndef TOKENLANE_GRAMMAR_H
#define TOKENLANE_GRAMMAR_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tokenlane/base/error.h"

struct tl_vocabulary; /* the bytes of a model's tokens, in an order in which those that begin alike lie together; immutable */
struct tl_grammar;    /* immutable; freed by whoever releases it last */
struct tl_matcher;    /* one owner at a time, as its sequence */

/* --- boot ------------------------------------------------------------------------------------ */

struct tl_vocabulary_token {
  const char *bytes; /* what it stands for within a text; any bytes, maybe half a character */
  size_t length;     /* 0: never allowed by any grammar (special tokens, unused ids); nor are more than 255 */
};
/* tokens: (n), n the rows of the model's output; copied. Boot. Caller frees, after all grammars of it. */
int tl_vocabulary_new(const struct tl_vocabulary_token *tokens, uint32_t n, struct tl_vocabulary **ret, struct tl_error *err);
void tl_vocabulary_free(struct tl_vocabulary *vocabulary); /* NULL is fine */

/* --- compiling: any thread, touches nothing that is shared ---------------------------------------- */

enum tl_grammar_kind {
  TL_GRAMMAR_JSON_OBJECT, /* any JSON object */
  TL_GRAMMAR_JSON_SCHEMA, /* `json`: a schema (draft 2020-12; what is not supported is refused by its path) */
  TL_GRAMMAR_REGEX,       /* `text`: a regular expression that the whole answer matches */
  TL_GRAMMAR_CHOICE,      /* `json`: a list of strings, one of which is the answer */
  TL_GRAMMAR_GBNF,        /* `text`: a grammar as llama.cpp has it, from its rule "root" */
  TL_GRAMMAR_CALLS,       /* `json`: tools as OpenAI has them, all with parameters; `[{"name": "a", "parameters": ...}, ...]`, one call of them or several */
  TL_GRAMMAR_ONE_CALL,    /* the same list with exactly one call */
};

struct tl_grammar_source {
  enum tl_grammar_kind kind;
  json_t *json;          /* borrowed, not changed */
  const char *text;      /* (length) UTF-8, borrowed */
  size_t length;
  const char *field;     /* what the client calls it, for errors: "response_format.json_schema.schema" */
};

struct tl_grammar_limits {
  uint64_t fuel;         /* work of compiling: states, and tokens looked at */
  size_t max_bytes;      /* memory of the compiled grammar */
};
extern const struct tl_grammar_limits tl_grammar_default_limits;

/* Errors name the field and, of a schema, the path in it: "response_format.json_schema.schema: $.properties.a:
 * uniqueItems is not supported". limits NULL: the defaults. The caller releases. */
int tl_grammar_compile(const struct tl_vocabulary *vocabulary, const struct tl_grammar_source *source,
                       const struct tl_grammar_limits *limits, struct tl_grammar **ret, struct tl_error *err);
/* One more owner, one less. Any thread. */
struct tl_grammar *tl_grammar_hold(struct tl_grammar *grammar);
void tl_grammar_release(struct tl_grammar *grammar); /* NULL is fine */
size_t tl_grammar_bytes(const struct tl_grammar *grammar); /* memory that it holds */

/* --- following a sequence: allocates nothing after tl_matcher_new --------------------------------------- */

/* At the beginning of the grammar, which it holds. */
int tl_matcher_new(struct tl_grammar *grammar, struct tl_matcher **ret, struct tl_error *err);
void tl_matcher_free(struct tl_matcher *matcher); /* NULL is fine */

/* Thoughts that a model may write before its answer, which are any tokens: the grammar binds what comes behind them. */
#define TL_THINKING_BYTES 64 /* each text is shorter */
struct tl_thinking_mark {
  int32_t token; /* a special one, which would have no text */
  const char *text;
};
struct tl_thinking {
  const char *begin;   /* the text may begin with it, else the grammar binds it at once. NULL: it begins with thoughts */
  const char *ends[2]; /* one comes behind the other, and then the grammar's text; the second may be NULL */
  const struct tl_thinking_mark *marks; /* (n_marks) */
  uint32_t n_marks;
};
/* Before the first token; `thinking` is borrowed as long as the matcher lives. within: the text begins in thoughts, whatever `begin` says.
 * An answer may end while it thinks. */
void tl_matcher_think(struct tl_matcher *matcher, const struct tl_thinking *thinking, bool within);
/* The sequence goes on with this token. TL_EINVAL, and nothing has changed: the grammar does not allow it. One token that has the end of
 * thoughts between other texts is the exception: masks do not look for it, and if the grammar refuses what it has behind the end, the
 * sequence cannot go on. */
int tl_matcher_take(struct tl_matcher *matcher, int32_t token);
/* Bit token % 32 of word token / 32: it may come next, and tl_matcher_take takes it. words: (tl_vocabulary's n + 31) / 32, all written. */
void tl_matcher_mask(struct tl_matcher *matcher, uint32_t *words);
/* Whether the answer may end here; and whether it must, since nothing can follow. */
bool tl_matcher_may_end(const struct tl_matcher *matcher);
bool tl_matcher_must_end(const struct tl_matcher *matcher);

#endif
