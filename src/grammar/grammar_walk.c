/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "grammar/grammar_private.h"

/* Tops beyond GR_TOPS are dropped. */
static void add_top(struct gr_set *set, struct gr_top top) {
  for (uint32_t i = 0; i < set->n; i++)
    if (set->tops[i].state == top.state && set->tops[i].frame == top.frame && set->tops[i].count == top.count) return;
  if (set->n < GR_TOPS) set->tops[set->n++] = top;
}

static bool is_body(uint32_t state) {
  return state < GR_BODIES;
}

/* --- ends of rules ------------------------------------------------------------------------------- */

/* Goes back to the callers of whatever may end here. A frame has all its callers by then: they came at the place where
 * it began, which lies before this one, since rules that match nothing are passed over as if they were not called. Strings end with
 * the quote behind them (step_body). */
static void close_ends(struct gr_walk *walk, struct gr_set *set) {
  for (uint32_t i = 0; i < set->n; i++) {
    struct gr_top top = set->tops[i];
    if (is_body(top.state) || !walk->grammar->states[top.state].accepts) continue;
    if (top.frame == 0) set->accepts = true;
    for (uint32_t e = walk->frames[top.frame].edge; e != GR_NONE; e = walk->edges[e].next, walk->work++)
      add_top(set, (struct gr_top){walk->edges[e].back, walk->edges[e].frame, 0});
  }
}

/* --- calls -------------------------------------------------------------------------------------------- */

static void add_edge(struct gr_walk *walk, uint32_t frame, uint32_t back, uint32_t caller) {
  for (uint32_t e = walk->frames[frame].edge; e != GR_NONE; e = walk->edges[e].next)
    if (walk->edges[e].back == back && walk->edges[e].frame == caller) return;
  if (walk->n_edges == GR_EDGES) return;
  walk->edges[walk->n_edges] = (struct gr_edge){back, caller, walk->frames[frame].edge};
  walk->frames[frame].edge = walk->n_edges++;
  uint32_t depth = walk->frames[caller].depth + 1;
  if (depth > walk->frames[frame].depth) walk->frames[frame].depth = depth;
}

/* The frame of a rule that begins here, made if it is not there yet; GR_NONE: no room. */
static uint32_t frame_of(struct gr_walk *walk, uint32_t fresh, uint32_t rule, struct gr_set *set) {
  for (uint32_t i = fresh; i < walk->n_frames; i++)
    if (walk->frames[i].rule == rule) return i;
  if (walk->n_frames == GR_FRAMES || walk->n_edges == GR_EDGES || set->n == GR_TOPS) return GR_NONE;
  walk->frames[walk->n_frames] = (struct gr_frame){rule, GR_NONE, 0};
  add_top(set, (struct gr_top){walk->grammar->rules[rule].entry, walk->n_frames, 0});
  return walk->n_frames++;
}

/* A caller with nothing left to do is left out: its callers are called back in its place, so that right recursion is
 * a loop. Only frames that began before have all their callers. */
static void call(struct gr_walk *walk, uint32_t fresh, struct gr_top top, struct gr_called called, struct gr_set *set) {
  const struct tl_grammar *g = walk->grammar;
  bool last = top.frame != 0 && top.frame < fresh && gr_only_accepts(&g->states[called.back]);
  uint32_t depth = walk->frames[top.frame].depth;
  uint32_t here = depth + g->states[called.back].need, there = depth + !last + g->rules[called.rule].need;
  if (here < there) here = there;
  if (here > walk->deepest) walk->deepest = here;
  if (here > GR_DEPTH) return;
  walk->work += 1 + (walk->n_frames - fresh) / 8;
  uint32_t frame = frame_of(walk, fresh, called.rule, set);
  if (frame == GR_NONE) return;
  if (!last) {
    add_edge(walk, frame, called.back, top.frame);
    return;
  }
  for (uint32_t e = walk->frames[top.frame].edge; e != GR_NONE; e = walk->edges[e].next)
    add_edge(walk, frame, walk->edges[e].back, walk->edges[e].frame);
}

static void close_calls(struct gr_walk *walk, uint32_t fresh, struct gr_set *set) {
  const struct tl_grammar *g = walk->grammar;
  for (uint32_t i = 0; i < set->n; i++) {
    struct gr_top top = set->tops[i];
    if (is_body(top.state)) continue;
    const struct gr_state *state = &g->states[top.state];
    for (uint32_t k = state->calls; k < state[1].calls; k++) call(walk, fresh, top, g->calls[k], set);
  }
}

/* Tops that no byte can follow have done their part. */
static void drop_idle(const struct gr_walk *walk, struct gr_set *set) {
  const struct gr_state *states = walk->grammar->states;
  uint32_t n = 0;
  for (uint32_t i = 0; i < set->n; i++) {
    uint32_t state = set->tops[i].state;
    if (is_body(state) || states[state].steps != states[state + 1].steps) set->tops[n++] = set->tops[i];
  }
  set->n = n;
}

/* All that the text may be in, with no byte more. Ends come before calls: a call begins here and so does not end here. */
static void close_set(struct gr_walk *walk, struct gr_set *set) {
  uint32_t fresh = walk->n_frames;
  close_ends(walk, set);
  close_calls(walk, fresh, set);
  drop_idle(walk, set);
}

/* --- bytes ---------------------------------------------------------------------------------------------- */

void gr_walk_begin(struct gr_walk *walk, struct gr_set *ret) {
  const struct tl_grammar *g = walk->grammar;
  walk->frames[0] = (struct gr_frame){g->root, GR_NONE, 0};
  walk->n_frames = 1;
  walk->n_edges = walk->deepest = 0;
  walk->work = 0;
  ret->n = 0;
  ret->accepts = false;
  add_top(ret, (struct gr_top){g->rules[g->root].entry, 0, 0});
  close_set(walk, ret);
}

void gr_walk_callers(struct gr_walk *walk, uint32_t frame, struct gr_set *ret) {
  ret->n = 0;
  ret->accepts = false;
  for (uint32_t e = walk->frames[frame].edge; e != GR_NONE; e = walk->edges[e].next)
    add_top(ret, (struct gr_top){walk->edges[e].back, walk->edges[e].frame, 0});
  close_set(walk, ret);
}

/* True: something may end or be called where it has come to. */
static bool step_to(struct gr_walk *walk, uint32_t frame, uint32_t to, struct gr_set *ret) {
  const struct gr_state *state = &walk->grammar->states[to];
  uint32_t depth = walk->frames[frame].depth + state->need;
  if (depth > walk->deepest) walk->deepest = depth;
  if (depth > GR_DEPTH) return false;
  add_top(ret, (struct gr_top){to, frame, 0});
  return !state->plain;
}

/* A quote ends the string and is its callers' next byte: they can do nothing else (grammar_check.c). A string that ends
 * where it began is none of these: it was passed over. */
static bool step_body(struct gr_walk *walk, struct gr_top top, uint8_t byte, struct gr_set *ret) {
  const struct tl_grammar *g = walk->grammar;
  const struct gr_ruled *rule = &g->rules[walk->frames[top.frame].rule];
  bool open = false;
  if (top.state == GR_BODY && byte == '"') {
    if (top.count == 0 || top.count < rule->min) return false;
    for (uint32_t e = walk->frames[top.frame].edge; e != GR_NONE; e = walk->edges[e].next)
      open |= step_to(walk, walk->edges[e].frame, g->steps[g->states[walk->edges[e].back].steps].to, ret);
    return open;
  }
  uint8_t to = g->vocabulary->body_next[top.state][byte];
  uint32_t count = top.count + (top.state == GR_BODY);
  if (to != GR_DEAD && count <= rule->max) add_top(ret, (struct gr_top){to, top.frame, count});
  return false;
}

static const struct gr_step *find_step(const struct tl_grammar *g, uint32_t state, uint8_t byte) {
  const struct gr_step *step = g->steps + g->states[state].steps, *end = g->steps + g->states[state + 1].steps;
  while (step < end && step->high < byte) step++;
  return step < end && step->low <= byte ? step : NULL;
}

bool gr_walk_byte(struct gr_walk *walk, const struct gr_set *set, uint8_t byte, struct gr_set *ret) {
  const struct tl_grammar *g = walk->grammar;
  bool open = false;
  walk->work += set->n;
  ret->n = 0;
  ret->accepts = false;
  for (uint32_t i = 0; i < set->n; i++) {
    struct gr_top top = set->tops[i];
    if (is_body(top.state)) {
      open |= step_body(walk, top, byte, ret);
      continue;
    }
    const struct gr_step *step = find_step(g, top.state, byte);
    if (step) open |= step_to(walk, top.frame, step->to, ret);
  }
  if (open) close_set(walk, ret);
  return ret->n || ret->accepts;
}

size_t gr_walk_bytes(struct gr_walk *walk, struct gr_set *set, const char *bytes, size_t n, struct gr_set *other) {
  for (size_t i = 0; i < n; i++) {
    if (!gr_walk_byte(walk, set, (uint8_t)bytes[i], other)) return i;
    set->n = other->n;
    set->accepts = other->accepts;
    memcpy(set->tops, other->tops, other->n * sizeof *other->tops);
  }
  return n;
}

/* Whether any top goes on with `byte`; narrows low and high to bytes for which all of them do the same. */
static bool find_kind(const struct tl_grammar *g, const struct gr_set *set, uint8_t byte, uint8_t *low, uint8_t *high) {
  bool some = false;
  *low = 0;
  *high = 255;
  for (uint32_t i = 0; i < set->n; i++) {
    uint32_t state = set->tops[i].state;
    uint8_t from = 0, to = 255;
    if (is_body(state)) {
      from = g->vocabulary->body_low[state][byte];
      to = g->vocabulary->body_high[state][byte];
      some = some || g->vocabulary->body_next[state][byte] != GR_DEAD || (state == GR_BODY && byte == '"');
    } else {
      const struct gr_step *begin = g->steps + g->states[state].steps, *end = g->steps + g->states[state + 1].steps, *step = begin;
      while (step < end && step->high < byte) step++;
      bool here = step < end && step->low <= byte;
      some = some || here;
      if (here) from = step->low;
      else if (step > begin) from = (uint8_t)(step[-1].high + 1);
      if (here) to = step->high;
      else if (step < end) to = (uint8_t)(step->low - 1);
    }
    if (from > *low) *low = from;
    if (to < *high) *high = to;
  }
  return some;
}

/* One byte more behind the first n, which is not of the kind that is known there. */
static bool extend(struct gr_trail *trail, uint32_t n, uint8_t byte) {
  struct gr_walk *walk = trail->walk;
  uint8_t low, high;
  if (!find_kind(walk->grammar, &trail->sets[n], byte, &low, &high)) return false;
  walk->n_frames = trail->frames[n];
  walk->n_edges = trail->edges[n];
  trail->n = n;
  if (!gr_walk_byte(walk, &trail->sets[n], byte, &trail->sets[n + 1])) return false;
  trail->frames[n + 1] = walk->n_frames;
  trail->edges[n + 1] = walk->n_edges;
  trail->low[n] = low;
  trail->high[n] = high;
  trail->n = n + 1;
  return true;
}

uint32_t gr_trail_follow(struct gr_trail *trail, const char *bytes, uint32_t from, uint32_t length) {
  for (uint32_t n = from;; n++) {
    uint32_t known = trail->n < length ? trail->n : length;
    while (n < known && trail->low[n] <= (uint8_t)bytes[n] && (uint8_t)bytes[n] <= trail->high[n]) n++;
    if (n == length || !extend(trail, n, (uint8_t)bytes[n])) return n;
  }
}

/* --- frames that nobody needs -------------------------------------------------------------------------------- */

/* Copies what tops name, then what the copies name (Cheney 1970). */
bool gr_walk_compact(const struct gr_walk *from, struct gr_set *set, bool alone, struct gr_walk *to) {
  uint32_t moved[GR_FRAMES];
  memset(moved, 0xff, from->n_frames * sizeof *moved);
  moved[0] = 0;
  to->frames[0] = from->frames[0];
  to->n_frames = 1;
  to->n_edges = 0;
  for (uint32_t i = 0; i < set->n; i++) {
    uint32_t *frame = &set->tops[i].frame;
    if (moved[*frame] == GR_NONE) {
      moved[*frame] = to->n_frames;
      to->frames[to->n_frames++] = from->frames[*frame];
    }
    *frame = moved[*frame];
  }
  for (uint32_t i = 1; i < to->n_frames; i++) {
    uint32_t edge = to->frames[i].edge;
    to->frames[i].edge = GR_NONE;
    for (; edge != GR_NONE; edge = alone ? GR_NONE : from->edges[edge].next) {
      struct gr_edge copy = from->edges[edge];
      if (moved[copy.frame] == GR_NONE) {
        moved[copy.frame] = to->n_frames;
        to->frames[to->n_frames++] = from->frames[copy.frame];
      }
      copy.frame = moved[copy.frame];
      copy.next = to->frames[i].edge;
      to->frames[i].edge = to->n_edges;
      to->edges[to->n_edges++] = copy;
    }
  }
  return to->n_frames <= GR_FRAMES * 3 / 4 && to->n_edges <= GR_EDGES * 3 / 4;
}
