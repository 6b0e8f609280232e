/* SPDX-License-Identifier: MIT */
/* From the queue into the batch. */
#include <string.h>

#include "schedule/schedule_private.h"

/* Whether a sequence ahead of this one is about to compute the block with this
 * hash: better wait for it than compute it twice. Were the hashes equal by chance
 * it would wait for nothing, but it would not share. With states a block is not enough. */
static bool follows(const struct tl_scheduler *s, struct plan *p, const struct tl_sched_seq *seq, uint64_t key, uint32_t n_reach) {
  if (!key && s->o.n_states == 0) return false;
  for (struct tl_sched_seq *r = s->running.first; r && queue_before(r, seq); r = r->next)
    if (s->o.n_states ? states_lead(s, p, r, seq, n_reach) : r->next_key == key) return true;
  return false;
}

static void enter(struct tl_scheduler *s, struct tl_sched_seq *seq, uint32_t n_match, uint32_t from) {
  queue_remove(&s->waiting, seq);
  seq->slot = s->free_slots[--s->n_free_slots];
  seq->blocks = s->tables + (size_t)seq->slot * s->table_stride;
  seq->n_blocks = seq->n_in_tree = n_match;
  seq->n_computed = n_match * s->o.block_tokens;
  states_enter(s, seq, from);
  seq->state = TL_SCHED_RUNNING;
  queue_insert(&s->running, seq);
  if (n_match) memcpy(seq->blocks, s->match, n_match * sizeof *seq->blocks);
  if (seq->n_admitted++ > 0 || !tree_shares(s, seq)) return;
  s->stats.query_tokens += seq->n_tokens;
  s->stats.hit_tokens += seq->n_computed;
}

/* A newcomer starts only when blocks remain for each running sequence's next. */
static bool has_room(const struct tl_scheduler *s, uint32_t n_match, uint32_t n_tokens) {
  uint32_t blocks = (n_tokens + s->o.block_tokens - 1) / s->o.block_tokens - n_match;
  return blocks_available(s) >= blocks + s->running.n;
}

static enum admission refuse(struct tl_scheduler *s, uint32_t n_match, uint32_t from) {
  states_let_go(s, from);
  while (n_match > 0) block_unref(s, s->match[--n_match]);
  return NO_ROOM;
}

enum admission admission_try(struct plan *p, struct tl_sched_seq *seq) {
  struct tl_scheduler *s = p->s;
  uint64_t key;
  uint32_t n_found = tree_match(s, seq, &key), n_match = states_reach(s, n_found), start = n_match * s->o.block_tokens;
  if (follows(s, p, seq, key, n_match)) return FOLLOWS;
  for (uint32_t i = 0; i < n_match; i++) block_ref(s, s->match[i]); /* nobody takes them meanwhile */
  uint32_t from = states_hold(s, n_match);
  while (s->n_free_slots == 0 || !states_have_room(s, from))
    if (!preempt_lower(s, seq)) return refuse(s, n_match, from);
  states_expect(s, seq, n_found, n_match);
  uint32_t chunk = states_cut(s, seq, start, seq->n_tokens - start < p->most ? seq->n_tokens - start : p->most);
  while (!has_room(s, n_match, start + chunk))
    if (!preempt_lower(s, seq)) return refuse(s, n_match, from);
  enter(s, seq, n_match, from);
  blocks_cover(s, seq, start + chunk); /* cannot fail: has_room counted */
  seq->next_key = tree_next_key(s, seq);
  batch_add(p, seq, chunk);
  return ADMITTED;
}

/* Before the decodes are chosen, so that one of them makes room in the budget,
 * too. Not for a sequence that would not begin yet. */
void admission_make_place(struct tl_scheduler *s) {
  const struct tl_sched_seq *seq = s->waiting.first;
  uint64_t key;
  if (!seq || s->n_free_slots > 0 || s->running.last->priority >= seq->priority) return;
  uint32_t n_match = states_reach(s, tree_match(s, seq, &key));
  if (!follows(s, NULL, seq, key, n_match)) preempt_lower(s, seq);
}
