/* SPDX-License-Identifier: MIT */
/* Random loads; after every call all that must always hold is checked:
 *   - a block belongs to one sequence or is free, and none is lost
 *   - a plan keeps the token budget and the batch size, names a sequence once,
 *     begins where it stands, and has blocks for all its rows
 *   - whoever runs came before whoever waits; the oldest is in every plan, so
 *     nobody starves
 *   - in the end everything has been computed and all blocks are free */
#include "schedule/schedule_private.h"
#include "unit.h"

enum { MAX_SEQS = 60 };

struct fuzz {
  struct tl_scheduler_options o;
  struct tl_scheduler *s;
  struct tl_sched_seq seqs[MAX_SEQS];
  bool live[MAX_SEQS];
  uint32_t n_live;
  struct tl_sched_item *items;
  uint32_t n_items;
  uint8_t *block_owner;
  uint64_t random, n_finished, n_computed, n_plans;
};

static uint32_t blocks_for(const struct fuzz *f, uint32_t n_tokens) {
  return (n_tokens + f->o.block_tokens - 1) / f->o.block_tokens;
}

static void check_sequence(struct fuzz *f, const struct tl_sched_seq *seq) {
  assert_true(seq->n_computed <= seq->n_tokens && seq->n_tokens <= seq->n_max);
  if (seq->state == TL_SCHED_WAITING) {
    assert_true(seq->n_blocks == 0 && seq->blocks == NULL && seq->n_computed == 0);
    return;
  }
  assert_int_equal(seq->state, TL_SCHED_RUNNING);
  assert_true(seq->slot < f->o.max_batch_size);
  assert_ptr_equal(seq->blocks, f->s->tables + (size_t)seq->slot * f->s->table_stride);
  assert_true(seq->n_blocks >= blocks_for(f, seq->n_computed) && seq->n_blocks <= f->s->table_stride);
  for (uint32_t i = 0; i < seq->n_blocks; i++) {
    assert_true(seq->blocks[i] < f->o.n_blocks);
    assert_int_equal(f->block_owner[seq->blocks[i]]++, 0);
  }
}

static void check_list(const struct seq_list *list, enum tl_sched_state state, uint64_t *arrival) {
  uint32_t n = 0;
  const struct tl_sched_seq *before = NULL;
  for (const struct tl_sched_seq *seq = list->first; seq; before = seq, seq = seq->next, n++) {
    assert_int_equal(seq->state, state);
    assert_ptr_equal(seq->prev, before);
    assert_true(seq->arrival > *arrival);
    *arrival = seq->arrival;
  }
  assert_ptr_equal(list->last, before);
  assert_int_equal(list->n, n);
}

static void check_all(struct fuzz *f) {
  uint32_t owned = 0;
  memset(f->block_owner, 0, f->o.n_blocks);
  for (unsigned i = 0; i < MAX_SEQS; i++) {
    if (!f->live[i]) continue;
    check_sequence(f, &f->seqs[i]);
    owned += f->seqs[i].n_blocks;
  }
  assert_int_equal(owned + tl_scheduler_free_blocks(f->s), f->o.n_blocks);
  for (uint32_t i = 0; i < f->s->pool.n_free; i++) assert_int_equal(f->block_owner[f->s->pool.free[i]]++, 0);
  uint64_t arrival = 0;
  check_list(&f->s->running, TL_SCHED_RUNNING, &arrival);
  check_list(&f->s->waiting, TL_SCHED_WAITING, &arrival); /* all later than the running ones */
  assert_int_equal(tl_scheduler_running(f->s) + tl_scheduler_waiting(f->s), f->n_live);
  assert_int_equal(tl_scheduler_running(f->s) + f->s->n_free_slots, f->o.max_batch_size);
}

/* --- actions ------------------------------------------------------------------------------ */

static void add(struct fuzz *f) {
  unsigned i = unit_below(&f->random, MAX_SEQS);
  if (f->live[i]) return;
  uint32_t limit = f->o.n_blocks * f->o.block_tokens;
  if (limit > f->o.max_context) limit = f->o.max_context;
  uint32_t n_max = 1 + unit_below(&f->random, unit_below(&f->random, 4) ? limit / 4 + 1 : limit);
  assert_true(tl_scheduler_fits(f->s, n_max));
  f->seqs[i] = (struct tl_sched_seq){.n_tokens = 1 + unit_below(&f->random, n_max), .n_max = n_max};
  f->live[i] = true;
  f->n_live++;
  tl_scheduler_add(f->s, &f->seqs[i]);
}

static void take_out(struct fuzz *f, struct tl_sched_seq *seq) {
  tl_scheduler_remove(f->s, seq);
  assert_true(seq->state == TL_SCHED_NONE && seq->blocks == NULL && seq->n_blocks == 0);
  f->live[seq - f->seqs] = false;
  f->n_live--;
}

static const struct tl_sched_seq *oldest(const struct fuzz *f) {
  const struct tl_sched_seq *found = NULL;
  for (unsigned i = 0; i < MAX_SEQS; i++)
    if (f->live[i] && (!found || f->seqs[i].arrival < found->arrival)) found = &f->seqs[i];
  return found;
}

static void check_plan(struct fuzz *f) {
  uint32_t tokens = 0;
  bool with_oldest = false;
  assert_true(f->n_items <= f->o.max_batch_size);
  for (uint32_t i = 0; i < f->n_items; i++) {
    const struct tl_sched_item *item = &f->items[i];
    assert_true(f->live[item->seq - f->seqs]);
    assert_int_equal(item->seq->state, TL_SCHED_RUNNING);
    assert_int_equal(item->start, item->seq->n_computed);
    assert_true(item->n >= 1 && item->start + item->n <= item->seq->n_tokens);
    assert_true(item->seq->n_blocks >= blocks_for(f, item->start + item->n));
    for (uint32_t k = 0; k < i; k++) assert_ptr_not_equal(f->items[k].seq, item->seq);
    tokens += item->n;
    with_oldest = with_oldest || item->seq == oldest(f);
  }
  assert_true(tokens <= f->o.max_batch_tokens);
  assert_int_equal(with_oldest, f->n_live > 0);
}

static void step(struct fuzz *f) {
  f->n_items = tl_scheduler_plan(f->s, f->items);
  f->n_plans++;
  check_all(f);
  check_plan(f);
  for (uint32_t i = 0; i < f->n_items; i++) { /* the engine may cut the chunk of a scored prompt */
    if (unit_below(&f->random, 8) == 0) f->items[i].n = 1 + unit_below(&f->random, f->items[i].n);
    f->n_computed += f->items[i].n;
  }
  tl_scheduler_done(f->s, f->items, f->n_items);
  for (uint32_t i = 0; i < f->n_items; i++) {
    struct tl_sched_seq *seq = f->items[i].seq;
    assert_int_equal(seq->n_computed, f->items[i].start + f->items[i].n);
    if (seq->n_computed < seq->n_tokens) continue;
    if (seq->n_tokens == seq->n_max || unit_below(&f->random, 40) == 0) {
      take_out(f, seq);
      f->n_finished++;
    } else {
      seq->n_tokens++;
    }
  }
}

static void cancel_one(struct fuzz *f) {
  unsigned i = unit_below(&f->random, MAX_SEQS);
  if (f->live[i]) take_out(f, &f->seqs[i]);
}

static void run_one(uint64_t seed, unsigned n_actions) {
  struct fuzz *f = calloc(1, sizeof *f);
  f->random = seed;
  f->o.block_tokens = 1 + unit_below(&f->random, 16);
  f->o.n_blocks = 1 + unit_below(&f->random, unit_below(&f->random, 2) ? 12 : 200);
  f->o.max_batch_size = 1 + unit_below(&f->random, 16);
  f->o.max_batch_tokens = f->o.max_batch_size + unit_below(&f->random, 100); /* as tl_config_check wants it */
  f->o.max_context = 1 + unit_below(&f->random, 300);
  f->block_owner = malloc(f->o.n_blocks);
  f->items = calloc(f->o.max_batch_size, sizeof *f->items);
  assert_int_equal(tl_scheduler_new(&f->o, &f->s, NULL), TL_OK);
  uint32_t eager = 1 + unit_below(&f->random, 8);
  for (unsigned i = 0; i < n_actions; i++) {
    uint32_t action = unit_below(&f->random, 16);
    if (action < eager)
      add(f);
    else if (action == 15 && unit_below(&f->random, 2))
      cancel_one(f);
    else
      step(f);
    check_all(f);
  }
  unsigned steps = 0;
  for (; f->n_live > 0; steps++) {
    assert_true(steps < 60 * 300 * 2);
    step(f);
  }
  check_all(f);
  assert_int_equal(tl_scheduler_free_blocks(f->s), f->o.n_blocks);
  assert_int_equal(tl_scheduler_plan(f->s, f->items), 0);
  tl_scheduler_free(f->s);
  free(f->block_owner);
  free(f->items);
  free(f);
}

static void test_random_loads(void **state) {
  (void)state;
  const char *only = getenv("TL_TEST_SEED"); /* to repeat one that failed */
  if (only) {
    run_one(strtoull(only, NULL, 10), 600);
    return;
  }
  for (uint64_t seed = 1; seed <= 1500 / UNIT_SLOWDOWN; seed++) {
    run_one(seed * 0x9e3779b97f4a7c15u, 600);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_loads)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
