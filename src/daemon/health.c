/* SPDX-License-Identifier: MIT */
#include "daemon/health.h"

#include <string.h>

#include "tokenlane/base/clock.h"

#define INTERRUPT_NS TL_SEC(1)  /* between resets that are to get a worker out */
#define BEGUN_NS TL_MS(20)      /* between looks at a reset that has begun */
#define SLOW_FACTOR 5           /* degraded above so many times what the others take, until below half of it */
#define SLOW_PROOF_NS TL_SEC(1)   /* of steps: one that was delayed, or the cold ones at the start, prove nothing */
#define SLOW_MEMORY_NS TL_SEC(30) /* without steps of its own it is not slow for longer: it must be seen again */

bool health_is_late(const struct health_options *o, const struct health_seen *seen, int64_t now_ns) {
  if (!seen->step_began_ns) return false; /* idle */
  int64_t most;
  if (__builtin_mul_overflow(seen->expected_ns, o->late_factor, &most)) return false;
  return now_ns - seen->step_began_ns > (most > o->late_ns ? most : o->late_ns);
}

static bool is_slow(struct health *h, const struct health_seen *seen, int64_t now_ns) {
  int64_t factor = h->state == TL_REPLICA_DEGRADED ? SLOW_FACTOR / 2 : SLOW_FACTOR;
  if (!seen->step_ns || !seen->others_step_ns || now_ns - seen->beat_ns > SLOW_MEMORY_NS ||
      seen->step_ns / seen->others_step_ns < factor) {
    h->slow_since_ns = 0;
    return false;
  }
  if (!h->slow_since_ns) h->slow_since_ns = now_ns;
  return seen->beat_ns - h->slow_since_ns >= SLOW_PROOF_NS;
}

static void note_fault(struct health *h, const struct health_options *o, int64_t now_ns) {
  if (h->n_faults == HEALTH_MOST_FAULTS)
    memmove(h->faults_ns, h->faults_ns + 1, --h->n_faults * sizeof *h->faults_ns);
  h->faults_ns[h->n_faults++] = now_ns;
  h->total_faults++;
  unsigned recent = 0;
  for (unsigned i = 0; i < h->n_faults; i++) recent += now_ns - h->faults_ns[i] <= o->fault_window_ns;
  h->state = o->max_faults && recent >= o->max_faults ? TL_REPLICA_OUT : TL_REPLICA_QUARANTINED;
  h->n_attempts = 0;
  h->retry_ns = now_ns + o->backoff_ns;
  h->interrupt_ns = now_ns + INTERRUPT_NS;
}

/* A reset did not help. That is no further fault: it goes on, ever more seldom. */
static void back_off(struct health *h, const struct health_options *o, int64_t now_ns) {
  int64_t wait = o->backoff_ns;
  for (unsigned i = 0; i <= h->n_attempts && wait < o->max_backoff_ns; i++) wait *= 2;
  if (wait > o->max_backoff_ns) wait = o->max_backoff_ns;
  h->n_attempts++;
  h->state = TL_REPLICA_QUARANTINED;
  h->retry_ns = now_ns + wait;
  h->interrupt_ns = now_ns + INTERRUPT_NS;
}

/* The worse of what the device says of itself and what is said of its GPU. */
static enum tl_device_health condition(const struct health_seen *seen) {
  return seen->device > seen->gpu ? seen->device : seen->gpu;
}

static enum health_action serving(struct health *h, const struct health_options *o, const struct health_seen *seen, int64_t now_ns) {
  h->let_go = false;
  if (seen->failed) {
    note_fault(h, o, now_ns);
    return HEALTH_NOTHING;
  }
  if (condition(seen) == TL_DEVICE_FAILED) {
    note_fault(h, o, now_ns);
    return HEALTH_MARK;
  }
  if (health_is_late(o, seen, now_ns)) {
    if (seen->can_reset) {
      note_fault(h, o, now_ns);
      return HEALTH_MARK;
    }
    h->late_only = true;
    h->state = TL_REPLICA_QUARANTINED;
    return HEALTH_NOTHING;
  }
  bool slow = is_slow(h, seen, now_ns), impaired = condition(seen) == TL_DEVICE_IMPAIRED;
  h->state = slow || impaired ? TL_REPLICA_DEGRADED : TL_REPLICA_READY;
  return HEALTH_NOTHING;
}

/* Late without a reset: nothing but waiting for the step is possible. It keeps its sequences. */
static enum health_action late_only(struct health *h, const struct health_options *o, const struct health_seen *seen, int64_t now_ns) {
  if (seen->failed || !health_is_late(o, seen, now_ns)) {
    h->late_only = false;
    h->state = TL_REPLICA_READY;
    if (seen->failed) note_fault(h, o, now_ns);
  }
  return HEALTH_NOTHING;
}

static enum health_action quarantined(struct health *h, const struct health_options *o, const struct health_seen *seen, int64_t now_ns) {
  if (h->late_only) return late_only(h, o, seen, now_ns);
  if (!seen->parked) {
    if (!seen->can_reset || now_ns < h->interrupt_ns) return HEALTH_NOTHING;
    h->interrupt_ns = now_ns + INTERRUPT_NS;
    return HEALTH_INTERRUPT;
  }
  if (!seen->can_reset) h->state = TL_REPLICA_OUT;
  if (seen->gpu == TL_DEVICE_FAILED) { /* nobody can mend a GPU that is still in use */
    bool held = !h->let_go && seen->can_reset;
    h->let_go = true;
    return held ? HEALTH_INTERRUPT : HEALTH_NOTHING;
  }
  if (h->state == TL_REPLICA_OUT || now_ns < h->retry_ns || seen->probe == HEALTH_PROBE_RUNS) return HEALTH_NOTHING;
  return HEALTH_RESET;
}

static enum health_action recovering(struct health *h, const struct health_options *o, const struct health_seen *seen, int64_t now_ns) {
  if (seen->probe == HEALTH_PROBE_RIGHT && !seen->failed && condition(seen) != TL_DEVICE_FAILED) {
    h->state = TL_REPLICA_READY;
    h->n_attempts = 0;
    h->total_recoveries++;
    return HEALTH_ADMIT;
  }
  bool bad = health_is_late(o, seen, now_ns) || condition(seen) == TL_DEVICE_FAILED;
  if (seen->probe == HEALTH_PROBE_RUNS && !seen->failed && !bad) return HEALTH_NOTHING;
  back_off(h, o, now_ns);
  return seen->failed ? HEALTH_NOTHING : HEALTH_MARK;
}

enum health_action health_step(struct health *h, const struct health_options *o, const struct health_seen *seen, int64_t now_ns) {
  switch (h->state) {
    case TL_REPLICA_QUARANTINED:
    case TL_REPLICA_OUT: return quarantined(h, o, seen, now_ns);
    case TL_REPLICA_RECOVERING: return recovering(h, o, seen, now_ns);
    default: return serving(h, o, seen, now_ns);
  }
}

void health_on_reset(struct health *h, const struct health_options *o, enum health_reset result, int64_t now_ns) {
  switch (result) {
    case HEALTH_RESET_DONE: h->state = TL_REPLICA_RECOVERING; break;
    case HEALTH_RESET_BEGUN: h->retry_ns = now_ns + BEGUN_NS; break;
    case HEALTH_RESET_FAILED: back_off(h, o, now_ns); break;
    case HEALTH_RESET_HOPELESS: h->state = TL_REPLICA_OUT; break;
  }
}

void health_resume(struct health *h, int64_t now_ns) {
  if (h->state != TL_REPLICA_QUARANTINED && h->state != TL_REPLICA_OUT) return;
  h->state = TL_REPLICA_QUARANTINED;
  h->n_faults = 0;
  h->n_attempts = 0;
  h->retry_ns = now_ns;
}
