/* SPDX-License-Identifier: MIT */
/* src/base/mpsc.c, line by line: two producers push two nodes each, the consumer pops
 * until it has all. Nothing is lost or doubled, each producer's order is kept, and
 * when no push is under way a pop finds what is there. */
#define NONE 255
#define STUB 4

byte next[5];          /* of nodes 0..3 and the stub */
byte head = STUB, tail = STUB;
byte pushing, n_popped, expected[2];
byte popped;           /* what pop returned */

inline push(node, before) {
#ifndef BUG_FORGETS_NEXT
  next[node] = NONE;
#endif
#ifdef BUG_LINKS_IN_TWO_STEPS
  before = head;
  head = node;
#else
  d_step { before = head; head = node }
#endif
  next[before] = node
}

inline pop(at, following, before) {
  popped = NONE;
  at = tail;
  following = next[at];
  if
  :: at == STUB && following == NONE -> goto done
  :: at == STUB && following != NONE -> tail = following; at = following; following = next[at]
  :: else
  fi;
  if
  :: following != NONE -> tail = following; popped = at; goto done
  :: else
  fi;
#ifndef BUG_IGNORES_A_PUSH_UNDER_WAY
  if
  :: at != head -> goto done
  :: else
  fi;
#endif
#ifdef BUG_TAKES_THE_LAST_WITHOUT_STUB
  popped = at; goto done;
#endif
  push(STUB, before);
  following = next[at];
  if
  :: following != NONE -> tail = following; popped = at
  :: else
  fi;
done: skip
}

proctype producer(byte me) {
  byte i, before;
  for (i : 0 .. 1) {
    pushing++;
    push(me * 2 + i, before);
    pushing--
  }
}

active proctype consumer() {
  byte at, following, before, idle;
  byte k;
  for (k : 0 .. 4) { next[k] = NONE }
#ifdef BUG_FORGETS_NEXT
  next[1] = 0; /* as left by an earlier use */
#endif
  atomic { run producer(0); run producer(1) }
  do
  :: n_popped == 4 -> break
  :: else ->
     idle = (pushing == 0 && _nr_pr == 1); /* all producers have ended */
     pop(at, following, before);
     if
     :: popped == NONE -> assert(!idle)
     :: else ->
        assert(popped < 4 && popped % 2 == expected[popped / 2]);
        expected[popped / 2]++;
        n_popped++
     fi
  od
}
