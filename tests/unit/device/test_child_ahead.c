/* SPDX-License-Identifier: MIT */
/* Two steps at once in a device's process: in order, when the first fails, when the second cannot begin. The process' side is
 * compiled in here, so that its backend can be made to refuse. */
#include <signal.h>

#include "child_rig.h"

static unsigned n_submits;

/* TL_REFUSED: the number of the submit that fails. */
static int submit_or_refuse(struct child_ranks *ranks, const struct tl_step *step, struct tl_error *err) {
  const char *refused = getenv("TL_REFUSED");
  if (refused && ++n_submits == (unsigned)atoi(refused)) return tl_error_set(err, TL_EDEVICE, NULL, "submit %u is refused", n_submits);
  return child_ranks_submit(ranks, step, err);
}

/* device.h: what is under way when a submit fails is not collected. */
static int collect_or_die(struct child_ranks *ranks, struct tl_sampled *ret_sampled, struct tl_error *err) {
  const char *refused = getenv("TL_REFUSED");
  if (refused && n_submits >= (unsigned)atoi(refused)) _exit(5);
  return child_ranks_collect(ranks, ret_sampled, err);
}

#define child_ranks_submit submit_or_refuse
#define child_ranks_collect collect_or_die
#include "device/child/child_serve.c"

/* Steps that begin with the token that the one before them draws, in turn. */
static struct {
  uint32_t position[2], slot[2], context[2], state_from[2], state_to[2], table[TABLE], start[2], row;
  int32_t drawn;
  struct tl_sampling sampling[2];
  struct tl_step steps[2];
} behind;

/* The n-th of them: the rig's text lacks the token that is being drawn. */
static const struct tl_step *step_behind(const struct rig *rig, uint32_t n) {
  uint32_t k = n % 2, p = behind.position[k] = behind.slot[k] = rig->length;
  behind.drawn = -2; /* by row 0 of the step before */
  behind.start[1] = 1;
  for (uint32_t b = 0; b < TABLE; b++) behind.table[b] = b;
  behind.context[k] = p + 1;
  behind.state_from[k] = p % STATES;
  behind.state_to[k] = (p + 1) % STATES;
  behind.sampling[k] = (struct tl_sampling){.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = -1, .position = p + 1};
  behind.steps[k] = (struct tl_step){.n_tokens = 1, .n_seqs = 1, .n_rows = 1, .table_stride = TABLE, .tokens = &behind.drawn,
                                     .positions = &behind.position[k], .slots = &behind.slot[k], .query_start = behind.start,
                                     .context_len = &behind.context[k], .block_tables = behind.table, .rows = &behind.row,
                                     .sampling = &behind.sampling[k], .state_from = &behind.state_from[k],
                                     .state_to = &behind.state_to[k]};
  return &behind.steps[k];
}

/* Two steps in the process at once, again and again: the second begins with what the first draws. Of a group all ranks have both. */
static void test_runs_ahead(void **state) {
  (void)state;
  for (unsigned n_ranks = 0; n_ranks <= RANKS; n_ranks += RANKS) {
    struct rig rig;
    struct tl_sampled sampled;
    assert_int_equal(open_ranks(&rig, n_ranks, (struct tl_sim_options){0}), TL_OK);
    assert_true(child_of(&rig)->ops->runs_ahead);
    struct tl_step first = make_step(&rig);
    assert_int_equal(ops()->submit(rig.device, &first, &rig.err), TL_OK);
    for (uint32_t n = 0; rig.length + 1 < 100; n++) {
      assert_int_equal(ops()->submit(rig.device, step_behind(&rig, n), &rig.err), TL_OK);
      assert_int_equal(ops()->collect(rig.device, &sampled, &rig.err), TL_OK);
      rig.text[rig.length++] = sampled.token;
    }
    assert_int_equal(ops()->collect(rig.device, &sampled, &rig.err), TL_OK);
    rig.text[rig.length++] = sampled.token;
    assert_text(&rig);
    close_rig(&rig);
  }
}

/* What stood behind a step that failed, or that was given up, never began: the script of faults goes on with its number. */
static void test_a_step_that_never_began(void **state) {
  (void)state;
  static const struct tl_sim_fault faults[] = {{.device = 1, .step = 2, .kind = TL_SIM_ERROR, .recover = 1},
                                               {.device = 1, .step = 3, .kind = TL_SIM_HANG, .recover = 1},
                                               {.device = 1, .step = 4, .kind = TL_SIM_ERROR, .recover = 1}};
  struct rig rig;
  struct tl_sampled sampled;
  assert_int_equal(open_rig(&rig, (struct tl_sim_options){.faults = faults, .n_faults = 3}), TL_OK);
  struct tl_step first = make_step(&rig);
  assert_int_equal(ops()->submit(rig.device, &first, &rig.err), TL_OK);
  assert_int_equal(ops()->submit(rig.device, step_behind(&rig, 0), &rig.err), TL_OK);
  assert_int_equal(ops()->collect(rig.device, &sampled, &rig.err), TL_OK);
  rig.text[rig.length++] = sampled.token;
  assert_int_equal(ops()->submit(rig.device, step_behind(&rig, 1), &rig.err), TL_OK);
  assert_int_equal(ops()->collect(rig.device, &sampled, &rig.err), TL_EDEVICE);
  assert_string_equal(rig.err.message, "sim:1: simulated fault: step 2 failed");
  assert_int_equal(reset(&rig), TL_OK);
  first = make_step(&rig); /* hangs */
  assert_int_equal(ops()->submit(rig.device, &first, &rig.err), TL_OK);
  assert_int_equal(ops()->submit(rig.device, step_behind(&rig, 0), &rig.err), TL_OK);
  ops()->interrupt(rig.device);
  assert_int_equal(ops()->collect(rig.device, &sampled, &rig.err), TL_EDEVICE);
  assert_int_equal(reset(&rig), TL_OK);
  assert_int_equal(step(&rig), TL_EDEVICE);
  assert_string_equal(rig.err.message, "sim:1: simulated fault: step 4 failed");
  assert_int_equal(reset(&rig), TL_OK);
  for (int i = 0; i < 5; i++) assert_int_equal(step(&rig), TL_OK);
  assert_text(&rig);
  close_rig(&rig);
}

/* It dies with both under way: both are lost, and the next process knows of neither. */
static void test_dies_with_two_steps(void **state) {
  (void)state;
  struct rig rig;
  struct tl_sampled sampled;
  assert_int_equal(open_rig(&rig, (struct tl_sim_options){.base_ns = TL_MS(200)}), TL_OK);
  struct tl_step step_1 = make_step(&rig);
  assert_int_equal(ops()->submit(rig.device, &step_1, &rig.err), TL_OK);
  assert_int_equal(ops()->submit(rig.device, &step_1, &rig.err), TL_OK);
  kill(child_of(&rig)->pid, SIGKILL);
  assert_int_equal(ops()->collect(rig.device, &sampled, &rig.err), TL_EDEVICE);
  assert_int_equal(reset(&rig), TL_OK);
  for (int i = 0; i < 3; i++) assert_int_equal(step(&rig), TL_OK);
  assert_text(&rig);
  close_rig(&rig);
}

/* The first one is under way when the second is refused: its collect says so, and both are lost. So it is when one is
 * refused that stands alone. */
static void test_a_submit_fails(void **state) {
  (void)state;
  for (int alone = 0; alone < 2; alone++) {
    struct rig rig;
    struct tl_sampled sampled;
    setenv("TL_REFUSED", "2", 1);
    assert_int_equal(open_rig(&rig, (struct tl_sim_options){0}), TL_OK);
    unsetenv("TL_REFUSED");
    struct tl_step first = make_step(&rig);
    assert_int_equal(ops()->submit(rig.device, &first, &rig.err), TL_OK);
    if (alone) {
      assert_int_equal(ops()->collect(rig.device, &sampled, &rig.err), TL_OK);
      rig.text[rig.length++] = sampled.token;
    }
    assert_int_equal(ops()->submit(rig.device, step_behind(&rig, 0), &rig.err), TL_OK);
    assert_int_equal(ops()->collect(rig.device, &sampled, &rig.err), TL_EDEVICE);
    assert_string_equal(rig.err.message, "submit 2 is refused");
    assert_int_equal(reset(&rig), TL_OK);
    for (int i = 0; i < 3; i++) assert_int_equal(step(&rig), TL_OK);
    assert_text(&rig);
    close_rig(&rig);
  }
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "device") == 0) return tl_device_host();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_runs_ahead), cmocka_unit_test(test_a_step_that_never_began),
                                     cmocka_unit_test(test_dies_with_two_steps), cmocka_unit_test(test_a_submit_fails)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
