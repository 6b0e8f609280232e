/* SPDX-License-Identifier: MIT */
/* Event ring and the life of tl_sequence.signal (events.c, spsc.c): a worker announces
 * the tokens of two sequences of one loop, in any order, the last one as final. The
 * ring has a slot for each sequence and never overflows; the loop sees each final
 * event once, with all tokens, and frees; the worker touches nothing that is freed. */
#define SEQS 2
#define TOKENS 3
#define PENDING 1
#define FINAL 2
#define NONE 255

byte slots[SEQS];
byte ring_head, ring_tail;   /* counted on; the ring's size is SEQS */
byte signal[SEQS], n_out[SEQS], seen[SEQS];
bool freed[SEQS];
byte n_finals;

active proctype worker() {
  byte s, old;
  bool final;
  do
  :: n_out[0] == TOKENS && n_out[1] == TOKENS -> break
  :: else ->
     if
     :: n_out[0] < TOKENS -> s = 0
     :: n_out[1] < TOKENS -> s = 1
     fi;
     assert(!freed[s]);
     n_out[s]++;
     final = (n_out[s] == TOKENS);
     d_step { old = signal[s]; signal[s] = signal[s] | PENDING | (final -> FINAL : 0) }
#ifdef BUG_TOUCHES_AFTER_FINAL
     assert(!freed[s]);
#endif
#ifdef BUG_PUSHES_ALWAYS
     old = 0;
#endif
     if
     :: !(old & PENDING) ->
        assert(ring_tail - ring_head < SEQS);
#ifdef BUG_PUBLISHES_EARLY
        ring_tail++;
        slots[(ring_tail - 1) % SEQS] = s
#else
        slots[ring_tail % SEQS] = s;
        ring_tail++
#endif
     :: else
     fi
  od
}

active proctype loop() {
  byte s, got, n;
  byte k;
  do
  :: n_finals == SEQS -> break
  :: else ->
     if
     :: ring_head != ring_tail ->
        s = slots[ring_head % SEQS];
#ifndef BUG_POPS_LATE
        ring_head++;
#endif
#ifdef BUG_CLEARS_LATE
        got = signal[s];
        n = n_out[s];
        signal[s] = 0;
#else
        d_step { got = signal[s]; signal[s] = 0 }
#ifdef BUG_POPS_LATE
        ring_head++;
#endif
        n = n_out[s];
#endif
        assert(!freed[s] && n >= seen[s]);
        seen[s] = n;
        if
        :: got & FINAL -> assert(n == TOKENS); freed[s] = true; n_finals++
        :: else
        fi
     /* the worker has ended and nothing is in the ring: the final events must have come */
     :: ring_head == ring_tail && n_out[0] == TOKENS && n_out[1] == TOKENS && _nr_pr == 1 -> assert(n_finals == SEQS)
     fi
  od
}
