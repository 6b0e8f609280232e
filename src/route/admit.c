/* SPDX-License-Identifier: MIT */
/* Reservation: add, look, and give back when it was too much. Two that race for
 * the last room may both be refused; none is admitted beyond the limit. */
#include "route/route_private.h"
#include "tokenlane/base/clock.h"

bool route_is_ready(const struct route_replica *replica) {
  /* acquire: pairs with the monitor's release store in tl_route_set_state */
  if (atomic_load_explicit(&replica->state, memory_order_acquire) != TL_REPLICA_READY) return false;
  return !atomic_load_explicit(&replica->board->failed, memory_order_relaxed); /* a flag alone */
}

bool route_try_reserve(struct route_replica *replica, int64_t tokens, int64_t n_seqs) {
  struct tl_board *b = replica->board;
  /* relaxed: the counters bound a sum, they publish nothing */
  int64_t seqs = atomic_fetch_add_explicit(&b->reserved_seqs, n_seqs, memory_order_relaxed);
  int64_t before = atomic_fetch_add_explicit(&b->reserved_tokens, tokens, memory_order_relaxed);
  /* a request larger than the limit runs when it is alone */
  if (seqs + n_seqs <= replica->max_seqs && (before == 0 || before + tokens <= replica->max_tokens)) return true;
  atomic_fetch_sub_explicit(&b->reserved_tokens, tokens, memory_order_relaxed);
  atomic_fetch_sub_explicit(&b->reserved_seqs, n_seqs, memory_order_relaxed);
  return false;
}

void tl_route_release(struct tl_route *route, unsigned replica, int64_t tokens) {
  struct tl_board *b = route->replicas[replica].board;
  atomic_fetch_sub_explicit(&b->reserved_tokens, tokens, memory_order_relaxed); /* as in route_try_reserve */
  atomic_fetch_sub_explicit(&b->reserved_seqs, 1, memory_order_relaxed);
}

bool tl_route_capacity(const struct tl_route *route, int64_t *ret_tokens, int64_t *ret_seqs) {
  *ret_tokens = *ret_seqs = 0;
  for (unsigned i = 0; i < route->n_replicas; i++) {
    if (!route_is_ready(&route->replicas[i])) continue;
    *ret_tokens += route->replicas[i].max_tokens;
    *ret_seqs += route->replicas[i].max_seqs;
  }
  return *ret_seqs > 0;
}

unsigned route_retry_after(const struct tl_route *route) {
  double best = 60;
  for (unsigned i = 0; i < route->n_replicas; i++) {
    const struct tl_board *b = route->replicas[i].board;
    if (!route_is_ready(&route->replicas[i])) continue;
    /* relaxed: an estimate. Tokens a step times steps a second */
    double steps = (double)atomic_load_explicit(&b->n_steps, memory_order_relaxed);
    double tokens = (double)(atomic_load_explicit(&b->n_prefill_tokens, memory_order_relaxed) +
                             atomic_load_explicit(&b->n_decode_tokens, memory_order_relaxed));
    double step_s = (double)atomic_load_explicit(&b->step_ns, memory_order_relaxed) * 1e-9;
    double backlog = (double)atomic_load_explicit(&b->reserved_tokens, memory_order_relaxed);
    if (steps == 0 || tokens == 0) continue;
    double wait = backlog / (tokens / steps) * step_s;
    if (wait < best) best = wait;
  }
  return best < 1 ? 1 : (unsigned)(best + 0.5);
}
