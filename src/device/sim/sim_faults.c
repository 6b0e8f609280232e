/* SPDX-License-Identifier: MIT */
/* The script of faults: which one begins with which step, and what is left of it
 * after a reset. */
#include <stdlib.h>
#include <string.h>

#include "device/sim/sim_private.h"
#include "tokenlane/base/hash.h"

static bool is_mine(const struct sim_device *d, const struct tl_sim_fault *fault) {
  return fault->device == d->index || fault->device == TL_SIM_ANY;
}

/* Sorted by step; those of one step stay in the order of the script. */
int sim_faults_open(struct sim_device *d, const struct tl_sim_options *options, struct tl_error *err) {
  d->slow = 1;
  d->options.faults = NULL; /* theirs; from here on d->faults counts */
  if (options->n_faults == 0) return TL_OK;
  d->faults = calloc(options->n_faults, sizeof *d->faults);
  if (!d->faults) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (uint32_t i = 0; i < options->n_faults; i++) {
    if (!is_mine(d, &options->faults[i])) continue;
    uint32_t at = d->n_faults++;
    for (; at > 0 && d->faults[at - 1].step > options->faults[i].step; at--) d->faults[at] = d->faults[at - 1];
    d->faults[at] = options->faults[i];
  }
  d->n_steps = options->first_step;
  if (d->n_steps == 0) return TL_OK;
  while (d->next_fault < d->n_faults && d->faults[d->next_fault].step <= d->n_steps) d->next_fault++;
  return TL_OK;
}

void sim_sicken(struct sim_device *d, uint32_t n_resets) {
  /* Only the worker raises it. relaxed: if a reset lowers it in between, that reset came
   * too early to heal what is new. release: pairs with the acquire in device_reset. */
  if (atomic_load_explicit(&d->sick, memory_order_relaxed) < n_resets)
    atomic_store_explicit(&d->sick, n_resets, memory_order_release);
}

static void begin(struct sim_device *d, const struct tl_sim_fault *fault) {
  uint64_t last = fault->step + fault->n_steps - 1;
  switch (fault->kind) {
    case TL_SIM_ERROR: d->broken = true; break;
    case TL_SIM_CORRUPT: d->corrupt = true; break;
    case TL_SIM_DIE: d->dead = true; break;
    case TL_SIM_HANG:
      d->hang = true;
      d->hang_ns = fault->for_ns;
      if (fault->for_ns) return;
      d->broken = true; /* when a reset ends the sleep but does not help */
      break;
    case TL_SIM_SLOW:
      d->slow = fault->factor;
      d->slow_until = fault->n_steps ? last : UINT64_MAX;
      if (fault->n_steps) return;
      break;
    /* relaxed: a flag alone */
    case TL_SIM_HOT: atomic_store_explicit(&d->health, TL_DEVICE_IMPAIRED, memory_order_relaxed); break;
    case TL_SIM_LOST: atomic_store_explicit(&d->health, TL_DEVICE_FAILED, memory_order_relaxed); break;
    case TL_SIM_OOM: d->oom_until = fault->n_steps ? last : fault->step; return;
  }
  sim_sicken(d, fault->recover);
}

/* Takes note of resets since the last look: what was in the KV cache is gone, and so
 * is what ailed the device, unless the fault says that it takes more. */
static void heal(struct sim_device *d) {
  /* acquire: pairs with the release in sim_wake, so `sick` is what that reset left */
  uint32_t resets = atomic_load_explicit(&d->resets, memory_order_acquire);
  if (resets == d->seen_resets) return;
  d->seen_resets = resets;
  d->kv_key = tl_hash_u64(resets);
  if (atomic_load_explicit(&d->sick, memory_order_relaxed)) return; /* relaxed: ordered by the load above */
  d->broken = d->corrupt = d->dead = false;
  d->slow = 1;
  d->slow_until = d->oom_until = 0;
}

int sim_faults_load(struct sim_device *d, struct tl_error *err) {
  heal(d);
  if (d->next_fault < d->n_faults && d->faults[d->next_fault].step == 0) {
    const struct tl_sim_fault *fault = &d->faults[d->next_fault++];
    if (fault->kind == TL_SIM_OOM)
      return tl_error_set(err, TL_ENOMEM, NULL, "sim:%u: simulated fault at load: out of memory", d->index);
    begin(d, fault);
  }
  return d->broken ? tl_error_set(err, TL_EDEVICE, NULL, "sim:%u has failed and needs a reset", d->index) : TL_OK;
}

int sim_faults_step(struct sim_device *d, struct tl_error *err) {
  heal(d);
  d->n_steps++;
  d->hang = false;
  for (; d->next_fault < d->n_faults && d->faults[d->next_fault].step <= d->n_steps; d->next_fault++)
    begin(d, &d->faults[d->next_fault]);
  if (d->dead)
    return tl_error_set(err, TL_EDEVICE, NULL, "sim:%u: simulated fault in step %llu: the device is gone", d->index,
                        (unsigned long long)d->n_steps);
  if (d->slow_until < d->n_steps) d->slow = 1;
  if (d->oom_until < d->n_steps) return TL_OK;
  return tl_error_set(err, TL_ENOMEM, NULL, "sim:%u: simulated fault in step %llu: out of memory", d->index,
                      (unsigned long long)d->n_steps);
}
