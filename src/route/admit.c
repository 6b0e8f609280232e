/* SPDX-License-Identifier: MIT */
/* Reservation: add, look, and give back when it was too much. Two that race for
 * the last room may both be refused; none is admitted beyond the limit. */
#include "route/route_private.h"
#include "tokenlane/base/clock.h"

bool route_takes_work(const struct route_replica *replica, enum tl_replica_state state) {
  /* acquire: pairs with the monitor's release store in tl_route_set_state */
  if (atomic_load_explicit(&replica->state, memory_order_acquire) != (int)state) return false;
  if (atomic_load_explicit(&replica->draining, memory_order_relaxed)) return false; /* a flag alone, as the next */
  return (atomic_load_explicit(&replica->board->failed, memory_order_relaxed) & TL_FAILED_MASK) == TL_FAILED_NOT;
}

bool route_is_ready(const struct route_replica *replica) {
  return route_takes_work(replica, TL_REPLICA_READY) || route_takes_work(replica, TL_REPLICA_DEGRADED);
}

/* --- the counters: relaxed throughout, they bound sums and publish nothing -------------- */

static void add(struct tl_board *b, int64_t tokens, int64_t n_seqs, int64_t prefill, int64_t decodes) {
  if (tokens) atomic_fetch_add_explicit(&b->reserved_tokens, tokens, memory_order_relaxed);
  if (n_seqs) atomic_fetch_add_explicit(&b->reserved_seqs, n_seqs, memory_order_relaxed);
  if (prefill) atomic_fetch_add_explicit(&b->prefill_tokens, prefill, memory_order_relaxed);
  if (decodes) atomic_fetch_add_explicit(&b->decodes, decodes, memory_order_relaxed);
}

static void give_total(struct tl_route *route, int64_t tokens) {
  if (route->o.max_total) atomic_fetch_sub_explicit(&route->total, tokens, memory_order_relaxed);
}

static bool try_total(struct tl_route *route, int64_t tokens, bool moved) {
  if (!route->o.max_total) return true;
  int64_t before = atomic_fetch_add_explicit(&route->total, tokens, memory_order_relaxed);
  if (moved || before == 0 || before + tokens <= route->o.max_total) return true;
  give_total(route, tokens);
  return false;
}

bool route_total_has_room(const struct tl_route *route, int64_t tokens) {
  int64_t total = atomic_load_explicit(&route->total, memory_order_relaxed);
  return !route->o.max_total || total == 0 || total + tokens <= route->o.max_total;
}

bool route_has_room(const struct route_replica *replica, const struct tl_route_ask *ask) {
  int64_t seqs = atomic_load_explicit(&replica->board->reserved_seqs, memory_order_relaxed); /* as above, the next too */
  int64_t tokens = atomic_load_explicit(&replica->board->reserved_tokens, memory_order_relaxed);
  return seqs + ask->n_seqs <= replica->max_seqs && (tokens == 0 || tokens + ask->tokens * ask->n_seqs <= replica->max_tokens);
}

bool route_try_reserve(struct tl_route *route, unsigned index, const struct tl_route_ask *ask) {
  struct route_replica *replica = &route->replicas[index];
  struct tl_board *b = replica->board;
  int64_t tokens = ask->tokens * ask->n_seqs;
  if (!try_total(route, tokens, ask->moved)) return false;
  int64_t seqs = atomic_fetch_add_explicit(&b->reserved_seqs, ask->n_seqs, memory_order_relaxed);
  int64_t before = atomic_fetch_add_explicit(&b->reserved_tokens, tokens, memory_order_relaxed);
  /* max_seqs is what the event rings were sized for. A request larger than the limit runs when it is alone */
  if (seqs + ask->n_seqs <= replica->max_seqs && (ask->moved || before == 0 || before + tokens <= replica->max_tokens)) {
    add(b, 0, 0, ask->n_prompt * ask->n_seqs, 0);
    return true;
  }
  add(b, -tokens, -ask->n_seqs, 0, 0);
  give_total(route, tokens);
  return false;
}

void tl_route_started(struct tl_route *route, struct tl_room *room) {
  if (room->decodes) return;
  room->decodes = true;
  add(route->replicas[room->replica].board, 0, 0, -room->prefill, 1);
}

void tl_route_release(struct tl_route *route, const struct tl_room *room) {
  add(route->replicas[room->replica].board, -room->tokens, -1, room->decodes ? 0 : -room->prefill, room->decodes ? -1 : 0);
  give_total(route, room->tokens);
}

/* --- how much, how long ------------------------------------------------------------------- */

/* Over all replicas whatever their state: one that is being recovered comes back. */
bool tl_route_capacity(const struct tl_route *route, struct tl_capacity *ret) {
  bool any = false;
  *ret = (struct tl_capacity){0};
  for (unsigned i = 0; i < route->n_replicas; i++) {
    const struct route_replica *replica = &route->replicas[i];
    any |= route_is_ready(replica);
    ret->tokens += replica->max_tokens;
    ret->seqs += replica->max_seqs;
    if (replica->seq_tokens > ret->seq_tokens) ret->seq_tokens = replica->seq_tokens;
  }
  if (route->o.max_total && route->o.max_total < ret->tokens) ret->tokens = route->o.max_total;
  return any;
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
