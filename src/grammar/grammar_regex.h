/* SPDX-License-Identifier: MIT */
/* A regular expression between its text and the ir's expressions. */
#ifndef GRAMMAR_REGEX_H
#define GRAMMAR_REGEX_H

#include "grammar/grammar_parts.h"
#include "tokenlane/base/arena.h"

#define RX_LAST 0x10ffffu

/* Characters as ranges, in any order and overlapping until rx_set_order. */
struct rx_set {
  struct gr_range *ranges; /* in the arena */
  size_t n, room;
};

enum rx_kind { RX_SET, RX_ROW, RX_EITHER, RX_REPEAT, RX_BEGIN, RX_END };

struct rx_node {
  enum rx_kind kind;
  struct rx_node *child, *next; /* children are a list */
  struct rx_set set;            /* RX_SET: in order */
  uint32_t min, max;            /* RX_REPEAT */
  size_t at;                    /* where in the text */
};

struct rx {
  const char *text;
  size_t length, at;
  bool ecma;          /* whose white space \s is: ECMA's, otherwise ASCII's */
  unsigned depth;
  int code;           /* of the first error */
  struct tl_arena mem;
  const char *field;
  struct tl_error *err;
};

/* --- grammar_regex_set.c -------------------------------------------------------------------------- */
/* false: out of memory. */
bool rx_set_add(struct rx *rx, struct rx_set *set, uint32_t first, uint32_t last);
bool rx_set_add_all(struct rx *rx, struct rx_set *set, const struct rx_set *other);
/* One of d, w, s, D, W, S. */
bool rx_set_add_class(struct rx *rx, struct rx_set *set, char letter);
/* Ascending, apart. */
void rx_set_order(struct rx_set *set);
/* Of an ordered set. */
bool rx_set_negate(struct rx *rx, const struct rx_set *set, struct rx_set *ret);
bool rx_set_has(const struct rx_set *set, uint32_t code);

/* --- grammar_regex_read.c ------------------------------------------------------------------------- */
/* The text as a tree; NULL: rx->code. */
struct rx_node *rx_read(struct rx *rx);
/* Remembers the first error. */
int rx_fail(struct rx *rx, int code, size_t at, const char *what);

/* --- grammar_regex_class.c ------------------------------------------------------------------------ */
/* At what follows `[`; reads the `]`, too. */
bool rx_read_class(struct rx *rx, struct rx_set *ret);
/* At what follows a backslash: characters into *set, or false and rx->code. within: of brackets. */
bool rx_read_escape(struct rx *rx, bool within, struct rx_set *set);
/* The next character, 0 bytes on: at the end or no UTF-8 (rx->code). */
size_t rx_next(struct rx *rx, uint32_t *ret);

#endif
