/* SPDX-License-Identifier: MIT */
/* What becomes of a replica: a pure function of what the monitor sees and the time.
 *
 *     slower than the others, or hot         step too late, a device error, or lost
 *   READY ◄──────────────────────► DEGRADED ──────────────────────────► QUARANTINED ──► OUT
 *     ▲    as fast, or idle for long                 (too many faults in the window)
 *     │                                                │    ▲
 *     │ test generation right                   reset; │    │ reset failed, test generation
 *     └───────────────────────────── RECOVERING ◄──────┘    │ wrong or late: twice the backoff
 *                                        └──────────────────┘
 */
#ifndef HEALTH_H
#define HEALTH_H

#include <stdbool.h>
#include <stdint.h>

#include "tokenlane/device.h"
#include "tokenlane/route.h"

#define HEALTH_MOST_FAULTS 16

struct health_options {
  int64_t late_ns;        /* a step may last so long whatever its average is */
  int64_t late_factor;    /* and so many times what one of its size usually takes */
  int64_t backoff_ns, max_backoff_ns; /* from fault to reset; doubled by each reset that did not help */
  unsigned max_faults;    /* so many in the window: out. 0: never; at most HEALTH_MOST_FAULTS */
  int64_t fault_window_ns;
};

enum health_probe { HEALTH_NO_PROBE, HEALTH_PROBE_RUNS, HEALTH_PROBE_RIGHT, HEALTH_PROBE_WRONG };

/* What the monitor sees of a replica. */
struct health_seen {
  bool can_reset;
  bool failed, parked;    /* of its board: the device is marked; its worker let go of everything */
  int64_t step_began_ns;  /* of the step under way, 0: none */
  int64_t step_ns;        /* its steps' average, 0: no step yet */
  int64_t expected_ns;    /* of a step as large as the one under way */
  int64_t beat_ns;        /* end of its last step */
  int64_t others_step_ns; /* typical average of the other replicas, 0: none */
  enum tl_device_health device; /* what the device says of itself: a reset may help */
  enum tl_device_health gpu;    /* what NVML says of its GPU: while that has failed, nothing is tried on it */
  enum health_probe probe;
};

/* What the monitor is to do. */
enum health_action {
  HEALTH_NOTHING,
  HEALTH_MARK,      /* mark the device as failed, and interrupt it so that its worker comes out */
  HEALTH_INTERRUPT, /* interrupt it: the worker is still inside, or its GPU must be let go */
  HEALTH_RESET,     /* reset it, have it tried, start a test generation; health_on_reset tells how that went */
  HEALTH_ADMIT,     /* it serves again */
};

enum health_reset { HEALTH_RESET_FAILED, HEALTH_RESET_BEGUN, HEALTH_RESET_DONE, HEALTH_RESET_HOPELESS };

struct health {
  enum tl_replica_state state;
  bool let_go;            /* of its GPU, which has failed */
  bool late_only;         /* quarantined without a mark: it cannot be reset and may come back by itself */
  int64_t faults_ns[HEALTH_MOST_FAULTS]; /* the last ones, oldest first */
  unsigned n_faults;      /* of them */
  unsigned n_attempts;    /* resets in a row that did not help */
  int64_t retry_ns;       /* no reset before */
  int64_t interrupt_ns;   /* no interruption before */
  int64_t slow_since_ns;  /* slower than the others since then, 0: it is not */
  uint32_t total_faults, total_recoveries;
};

bool health_is_late(const struct health_options *o, const struct health_seen *seen, int64_t now_ns);
enum health_action health_step(struct health *h, const struct health_options *o, const struct health_seen *seen, int64_t now_ns);
/* After HEALTH_RESET: the device works again and the test generation is under way, or not, or not yet, or never will. */
void health_on_reset(struct health *h, const struct health_options *o, enum health_reset result, int64_t now_ns);
/* An operator wants it back: its faults are forgotten and it is tried at once. */
void health_resume(struct health *h, int64_t now_ns);

#endif
