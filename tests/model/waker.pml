/* SPDX-License-Identifier: MIT */
/* src/base/waker.c on a machine with store buffers (x86-64 and weaker): a plain store
 * becomes visible some time later, at the latest at the thread's next full fence or
 * read-modify-write. Two producers publish an item each, the consumer sleeps by futex
 * until it has both. A lost wake-up is an invalid end state: the consumer sleeps and
 * nobody is left to wake it. */
byte items;                /* visible */
bool asleep;               /* visible */
bool in_kernel;            /* the consumer waits on the futex */
bool buffered_item[2];     /* a producer's store that is not visible yet */
byte buffered_asleep = 2;  /* the consumer's: 0 or 1, 2: none */

#define ALL 3              /* a bit for each producer's item */

inline flush_item(me) {
  d_step { if :: buffered_item[me] -> items = items | (1 << me); buffered_item[me] = false :: else fi }
}
inline flush_asleep() {
  d_step { if :: buffered_asleep < 2 -> asleep = buffered_asleep; buffered_asleep = 2 :: else fi }
}

/* The memory system: empties the buffers when it likes. */
active proctype buffers() {
end:
  do
  :: atomic { buffered_item[0] -> flush_item(0) }
  :: atomic { buffered_item[1] -> flush_item(1) }
  :: atomic { buffered_asleep < 2 -> flush_asleep() }
  od
}

proctype producer(byte me) {
  bool was;
  buffered_item[me] = true;             /* publish */
#ifndef BUG_NOTIFY_WITHOUT_FENCE
  flush_item(me);                       /* fence */
#endif
  if
  :: asleep ->
     d_step { flush_item(me); was = asleep; asleep = false } /* exchange */
     if
     :: was ->
#ifndef BUG_NOTIFY_FORGETS_TO_WAKE
        in_kernel = false
#endif
     :: else
     fi
  :: else
  fi
}

active proctype consumer() {
  atomic { run producer(0); run producer(1) }
  do
  :: items == ALL -> break
  :: else ->
     buffered_asleep = 1;               /* prepare */
#ifndef BUG_PREPARE_WITHOUT_FENCE
     flush_asleep();
#endif
#ifdef BUG_DOES_NOT_LOOK_AGAIN
     if
     :: true ->
#else
     if
     :: items == ALL -> buffered_asleep = 0 /* cancel */
     :: else ->
#endif
#ifdef BUG_SLEEP_DOES_NOT_COMPARE
        flush_asleep(); in_kernel = true;
#else
        d_step { flush_asleep(); in_kernel = asleep }; /* the kernel compares under its lock */
#endif
        !in_kernel;                     /* sleeps */
        buffered_asleep = 0
     fi
  od
}
