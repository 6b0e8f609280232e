/* SPDX-License-Identifier: MIT */
/* src/route/admit.c: loops reserve tokens and a place on one replica by fetch_add and
 * give them back when that was too much, or at the end. Never are more admitted than the
 * limits say (but one that is larger than the limit, alone); at rest all is zero. */
#define MAX_TOKENS 6
#define MAX_SEQS 2

short reserved_tokens, reserved_seqs; /* the board; short: a sum below zero is seen */
byte admitted_tokens, admitted_seqs;  /* what really runs */

proctype loop(byte first, second) {
  short seqs, before;
  byte tokens, tries;
  for (tries : 1 .. 2) {
    tokens = (tries == 1 -> first : second);
#ifdef BUG_LOOKS_THEN_ADDS
    seqs = reserved_seqs;
    before = reserved_tokens;
    if
    :: seqs + 1 <= MAX_SEQS && (before == 0 || before + tokens <= MAX_TOKENS) ->
       d_step { reserved_seqs++; reserved_tokens = reserved_tokens + tokens }
    :: else -> goto refused
    fi;
#else
    d_step { seqs = reserved_seqs; reserved_seqs++ }
    d_step { before = reserved_tokens; reserved_tokens = reserved_tokens + tokens }
    if
#ifdef BUG_FORGETS_PLACES
    :: before == 0 || before + tokens <= MAX_TOKENS
#else
    :: seqs + 1 <= MAX_SEQS && (before == 0 || before + tokens <= MAX_TOKENS)
#endif
    :: else ->
#ifndef BUG_KEEPS_WHAT_WAS_REFUSED
       reserved_tokens = reserved_tokens - tokens;
       reserved_seqs--;
#endif
       goto refused
    fi;
#endif
    d_step { admitted_tokens = admitted_tokens + tokens; admitted_seqs++ }
    assert(admitted_seqs <= MAX_SEQS && (admitted_tokens <= MAX_TOKENS || admitted_seqs == 1));
    d_step { admitted_tokens = admitted_tokens - tokens; admitted_seqs-- }
    reserved_tokens = reserved_tokens - tokens;
    reserved_seqs--;
#ifdef BUG_GIVES_BACK_TWICE
    reserved_tokens = reserved_tokens - tokens;
#endif
refused: skip
  }
}

init {
  atomic { run loop(1, 4); run loop(2, 7); run loop(3, 1) }
  _nr_pr == 1;
  assert(reserved_tokens == 0 && reserved_seqs == 0)
}
