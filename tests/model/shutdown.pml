/* SPDX-License-Identifier: MIT */
/* The end: drain (main.c), tl_engine_stop, the worker's last turn (worker.c). A loop takes
 * requests while it is not draining; the main thread waits until no connection is
 * open, stops the worker, and then every sequence that was submitted has had its
 * final event. The worker sleeps when there is nothing to do; its sleep and wake-up
 * are those of waker.pml, here without store buffers. BUG_ENDS_WITHOUT_DRAIN is what
 * happens when the drain's time is up: a sequence that is pushed after the worker's last
 * look has no final event. The process ends then. */
#define REQUESTS 2

bool draining, stopping, asleep, in_kernel, worker_ended;
byte inbox, connections, finals, submitted;

inline notify(was) {
  if
  :: asleep ->
     atomic { was = asleep; asleep = false }
     if
     :: was -> in_kernel = false
     :: else
     fi
  :: else
  fi
}

proctype loop() {
  bool was;
  byte i;
  for (i : 1 .. REQUESTS) {
    connections++;                       /* accepted, before the flag is read */
    if
    :: draining -> skip                  /* answered with 503 */
    :: else ->
       submitted++;
       inbox++;
       notify(was);
       /* its connection is open until its final event has come */
       finals == submitted
    fi;
    connections--
  }
}

proctype worker() {
  byte n;
  do
  :: stopping -> break
  :: else ->
     atomic { n = inbox; inbox = 0 }
     finals = finals + n;
     if
     :: n == 0 ->
        asleep = true;                   /* sleep_until_work */
        atomic { n = inbox; inbox = 0 }
        finals = finals + n;
#ifdef BUG_SLEEPS_WITHOUT_LOOKING_AT_STOP
        if
        :: n > 0 -> asleep = false
#else
        if
        :: n > 0 || stopping -> asleep = false
#endif
        :: else -> in_kernel = asleep; !in_kernel; asleep = false
        fi
     :: else
     fi
  od;
  atomic { n = inbox; inbox = 0 }
  finals = finals + n;
  worker_ended = true
}

init {
  bool was;
  atomic { run loop(); run worker() }
#ifdef BUG_ENDS_WITHOUT_DRAIN
  skip;
#else
  draining = true;
  /* a connection that is accepted after this look finds draining set */
  connections == 0;
#endif
  stopping = true;
#ifndef BUG_STOPS_WITHOUT_WAKING
  notify(was);
#endif
  worker_ended;
  _nr_pr == 2 || inbox == 0;
  assert(inbox == 0 && finals == submitted)
}
