/* SPDX-License-Identifier: MIT */
/* A device that fails, and how it comes back. `failed` and `parked` of the board:
 *
 *   worker or monitor   NOT ────────────────► FAILED (n)     device error, or a step that does not end
 *   worker                                    drops all, calls the device no more, parked = FAILED (n)
 *   monitor             reads parked, resets, FAILED (n) ──► TRIED (n)
 *   worker              runs the test generation as anything else; an error: TRIED (n) ──► FAILED (n+1)
 *   monitor             it was right:         TRIED (n) ──► NOT (n)
 *
 * Each failure has its own n, so `parked` never answers an older one. The monitor
 * marks before it resets and the worker looks after collect: a step whose KV a
 * reset took away is seen as such, whatever its device says (reset happens before
 * a submit that does not notice it, the mark happens before the reset). */
#include "engine/engine_private.h"
#include "tokenlane/log.h"

static uint32_t state_of(uint32_t word) {
  return word & TL_FAILED_MASK;
}

bool fault_is_marked(struct worker *w) {
  /* acquire: pairs with the release in fault_mark, of which a reset may have followed */
  return state_of(atomic_load_explicit(&w->engine->boards[w->index].failed, memory_order_acquire)) == TL_FAILED;
}

bool fault_mark(struct worker *w) {
  struct tl_board *b = &w->engine->boards[w->index];
  uint32_t old = atomic_load_explicit(&b->failed, memory_order_relaxed); /* the exchange below decides */
  do {
    if (state_of(old) == TL_FAILED) return false;
    /* release: pairs with the acquire in fault_is_marked */
  } while (!atomic_compare_exchange_weak_explicit(&b->failed, &old, (old | TL_FAILED_MASK) + 1 + TL_FAILED,
                                                  memory_order_acq_rel, memory_order_relaxed));
  return true;
}

bool fault_is_unanswered(struct worker *w, uint32_t *ret) {
  *ret = atomic_load_explicit(&w->engine->boards[w->index].failed, memory_order_acquire); /* as in fault_is_marked */
  return state_of(*ret) == TL_FAILED && *ret != w->parked;
}

void fault_answer(struct worker *w, uint32_t word) {
  w->parked = word;
  /* release: what the worker did with the device is done; pairs with the acquire in tl_engine_parked */
  atomic_store_explicit(&w->engine->boards[w->index].parked, word, memory_order_release);
}

/* --- the monitor's side ------------------------------------------------------------------ */

void tl_engine_quarantine(struct tl_engine *engine, unsigned replica) {
  fault_mark(&engine->workers[replica]);
  tl_waker_notify(&engine->workers[replica].waker); /* it may sleep */
}

bool tl_engine_failed(const struct tl_engine *engine, unsigned replica) {
  return state_of(atomic_load_explicit(&engine->boards[replica].failed, memory_order_relaxed)) == TL_FAILED; /* a flag alone */
}

bool tl_engine_parked(const struct tl_engine *engine, unsigned replica) {
  const struct tl_board *b = &engine->boards[replica];
  uint32_t word = atomic_load_explicit(&b->failed, memory_order_relaxed); /* while FAILED only the monitor changes it */
  /* acquire: pairs with the release in fault_answer */
  return state_of(word) == TL_FAILED && atomic_load_explicit(&b->parked, memory_order_acquire) == word;
}

bool tl_engine_can_reset(const struct tl_engine *engine, unsigned replica) {
  return engine->workers[replica].ops->reset != NULL;
}

enum tl_device_health tl_engine_health(const struct tl_engine *engine, unsigned replica) {
  const struct worker *w = &engine->workers[replica];
  enum tl_device_health worst = w->ops->health ? w->ops->health(w->device) : TL_DEVICE_WELL;
  for (unsigned i = 0; w->ops->health && w->group && i < w->group->n_followers; i++) {
    enum tl_device_health health = w->ops->health(w->group->followers[i].device);
    if (health > worst) worst = health;
  }
  enum tl_device_health draft = drafter_health(w);
  return draft > worst ? draft : worst;
}

int tl_engine_interrupt(struct tl_engine *engine, unsigned replica, struct tl_error *err) {
  struct worker *w = &engine->workers[replica];
  if (w->group) return tl_engine_parked(engine, replica) ? TL_OK : group_interrupt(w, err);
  if (!w->ops->interrupt) return tl_engine_parked(engine, replica) ? TL_OK : tl_engine_reset(engine, replica, err);
  w->ops->interrupt(w->device);
  drafter_interrupt(w);
  return TL_OK;
}

int tl_engine_reset(struct tl_engine *engine, unsigned replica, struct tl_error *err) {
  struct worker *w = &engine->workers[replica];
  if (!w->ops->reset) return tl_error_set(err, TL_EUNSUPPORTED, NULL, "the device cannot be reset");
  if (w->group) return group_reset(w, err);
  return w->drafter ? drafter_reset(w, err) : w->ops->reset(w->device, err);
}

static bool change(struct tl_engine *engine, unsigned replica, uint32_t from, uint32_t to) {
  struct tl_board *b = &engine->boards[replica];
  uint32_t word = atomic_load_explicit(&b->failed, memory_order_relaxed); /* the exchange decides */
  /* release: pairs with the worker's acquire loads; the reset is before it */
  return state_of(word) == from && atomic_compare_exchange_strong_explicit(&b->failed, &word, word - from + to,
                                                                           memory_order_acq_rel, memory_order_relaxed);
}

bool tl_engine_try(struct tl_engine *engine, unsigned replica) {
  return tl_engine_parked(engine, replica) && change(engine, replica, TL_FAILED, TL_FAILED_TRIED);
}

bool tl_engine_admit(struct tl_engine *engine, unsigned replica) {
  return change(engine, replica, TL_FAILED_TRIED, TL_FAILED_NOT);
}
