/* SPDX-License-Identifier: MIT */
#ifndef SIM_PRIVATE_H
#define SIM_PRIVATE_H

#include <stdatomic.h>

#include "device/meet.h"
#include "tokenlane/base/thread.h"
#include "tokenlane/device.h"
#include "tokenlane/sim.h"
#include "tokenlane/slice.h"

/* sim_group.c. */
struct sim_group {
  struct device_meet meet; /* first; at the end of a step */
  _Atomic bool wrong[TL_MAX_RANKS]; /* by rank: its part of the step is; relaxed, the meeting publishes */
};
extern const struct tl_device_group_ops sim_group_ops;

/* A KV block. 0 was never written: no history has a history of 0 but by a chance of 2^-64. */
struct sim_block {
  uint64_t history[TL_BLOCK_TOKENS]; /* of the prefix that ends in this slot */
  uint64_t before;                   /* of the prefix that ends before this block */
};

struct sim_device {
  const struct tl_device_ops *ops;
  struct tl_sim_options options;
  unsigned index, rank;
  struct sim_group *group;  /* NULL: alone */
  struct tl_device_load load;
  struct sim_block *blocks; /* (n_blocks); pages that no step touched are not there */
  uint32_t n_blocks;
  uint64_t *states;         /* (load.max_states) the history of the prefix that each is behind */
  uint64_t kv_key;          /* what is in `blocks` and `states` is xored with it: a new key empties the cache */
  /* faults: the worker's */
  struct tl_sim_fault *faults; /* (n_faults) of this device, by step */
  uint32_t n_faults, next_fault;
  uint64_t n_steps;            /* submitted since open */
  uint32_t seen_resets;
  bool broken, corrupt;        /* both: what comes out is wrong; broken also says so */
  bool dead;                   /* takes no step */
  bool hang;                   /* in this step; for hang_ns, 0: until reset */
  int64_t hang_ns;
  double slow;                 /* 1 or a factor */
  uint64_t slow_until, oom_until; /* the last step of it; UINT64_MAX: until reset */
  /* the step under way */
  const struct tl_step *step;   /* NULL: none */
  int64_t deadline_ns;
  int begun;                    /* how it began: an error is for its collect to say */
  struct tl_error begin_error;
  const struct tl_step *queued; /* begins when that is over; NULL: none */
  int64_t queued_ns;
  int32_t *fed;                 /* (max_batch_size) what the rows of the step before drew */
  uint32_t n_fed;
  struct tl_sampled *drawn;     /* (max_batch_size) for the collect of a rank that is not asked for them */
  /* Shared with whoever calls reset. The worker says what ails the device, the
   * other side what it has done; a hang sleeps on `resets`. */
  TL_ALIGNED _Atomic uint32_t resets; /* times reset was called: the futex word */
  _Atomic uint32_t sick;              /* resets that are needed until it works; TL_SIM_NEVER; 0: well */
  _Atomic uint32_t health;            /* enum tl_device_health */
};

extern const struct tl_device_ops sim_device_ops;

/* sim_kv.c: writes the step's tokens into the cache and fills ret, if that is not NULL. TL_EDEVICE
 * when the step names what is not there. */
int sim_run(struct sim_device *d, struct tl_sampled *ret, struct tl_error *err);
/* Row i's token, which may be one that the step before drew; -1: there is none such. */
int32_t sim_token_at(const struct sim_device *d, const struct tl_step *step, uint32_t i);
/* KV blocks that the step's sequences hold. */
uint64_t sim_count_blocks(const struct tl_step *step);

/* sim_vector.c: fills step->vectors. TL_EDEVICE as sim_run. */
int sim_run_vectors(struct sim_device *d, struct tl_error *err);

/* sim_text.c: the sampled token of one row. */
void sim_sample(const struct sim_device *d, uint64_t history, const struct tl_sampling *sampling, struct tl_sampled *ret);

/* sim_wait.c: sleeps until deadline_ns, or until `resets` is not `seen`; true: the latter. */
bool sim_wait(_Atomic uint32_t *resets, uint32_t seen, int64_t deadline_ns);
void sim_wake(_Atomic uint32_t *resets);

/* sim_faults.c */
int sim_faults_open(struct sim_device *d, const struct tl_sim_options *options, struct tl_error *err);
/* The device does not work until it was reset n_resets times. */
void sim_sicken(struct sim_device *d, uint32_t n_resets);
/* A load begins; then a step begins: what ails the device from now on. */
int sim_faults_load(struct sim_device *d, struct tl_error *err);
int sim_faults_step(struct sim_device *d, struct tl_error *err);

#endif
