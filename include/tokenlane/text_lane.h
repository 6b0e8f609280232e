/* SPDX-License-Identifier: MIT */
/* Text lanes: threads that read and tokenize large requests, so that a loop,
 * which serves many, does not stand still for one. They hold no state: a job
 * goes to a lane by its MPSC inbox and comes back to its loop by another.
 *
 *   loop --submit--> inbox (MPSC) --> lane runs the job --> done (MPSC) --drain--> loop */
#ifndef TOKENLANE_TEXT_LANE_H
#define TOKENLANE_TEXT_LANE_H

#include "tokenlane/base/error.h"
#include "tokenlane/base/mpsc.h"

struct tl_text_lanes;

/* Embedded in what the job works on, whose ownership goes with it. */
struct tl_text_job {
  struct tl_mpsc_node node;
  void (*run)(struct tl_text_job *job); /* on a lane */
  unsigned loop;                        /* to which it comes back */
  unsigned lane;                        /* that runs it; set before run */
};

/* Starts n_lanes >= 1 threads. wake(loop, context) is called by lanes after a job
 * has come back; cheap and thread-safe. Boot. The caller frees. */
int tl_text_lanes_new(unsigned n_lanes, unsigned n_loops, void (*wake)(unsigned loop, void *context), void *context,
                      struct tl_text_lanes **ret, struct tl_error *err);
/* Hands a job to the lane with the fewest waiting. Any thread; never waits. */
void tl_text_lanes_submit(struct tl_text_lanes *lanes, struct tl_text_job *job);
/* Calls done for each job that came back to this loop. The loop's own thread. */
void tl_text_lanes_drain(struct tl_text_lanes *lanes, unsigned loop, void (*done)(struct tl_text_job *job));
/* Ends and joins the lanes once each has run the job in its hand. What came back,
 * and what no lane ran, waits for tl_text_lanes_reap. Main thread. */
void tl_text_lanes_stop(struct tl_text_lanes *lanes);
/* Calls done for every job that is left, those included that no lane ran. After
 * stop, once no loop runs any more. Main thread. */
void tl_text_lanes_reap(struct tl_text_lanes *lanes, void (*done)(struct tl_text_job *job));
/* After stop and drain; NULL is fine. */
void tl_text_lanes_free(struct tl_text_lanes *lanes);

#endif
