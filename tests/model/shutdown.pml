/* SPDX-License-Identifier: MIT */
/* The end: drain (main.c), tl_engine_stop, the worker's last turn (worker.c), and what
 * daemon_done reaps afterwards. A loop takes requests while it is not draining. The main
 * thread waits until no connection is open, or no longer (time is up, a second signal);
 * stops the worker; stops the loops; takes what came too late for the worker. Then every
 * sequence that was submitted has had its final event. The worker sleeps when there is nothing
 * to do, as in waker.pml, here without store buffers. */
#define REQUESTS 2

bool draining, stopping, asleep, in_kernel, worker_ended, cut, loop_ended;
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
       if
       :: finals == submitted
       :: cut                            /* tl_http_stop */
       fi
    fi;
    connections--;
    if :: cut -> break :: else fi
  }
  loop_ended = true
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
  draining = true;
  if
  :: connections == 0 -> skip
  :: true                                /* time is up */
  fi;
  stopping = true;
#ifndef BUG_STOPS_WITHOUT_WAKING
  notify(was);
#endif
  worker_ended;
#ifndef BUG_REAPS_WHILE_A_LOOP_RUNS
  cut = true;
  loop_ended;
#endif
#ifndef BUG_DOES_NOT_REAP
  finals = finals + inbox;
  inbox = 0;
#endif
#ifdef BUG_REAPS_WHILE_A_LOOP_RUNS
  cut = true;
  loop_ended;
#endif
  assert(inbox == 0 && finals == submitted)
}
