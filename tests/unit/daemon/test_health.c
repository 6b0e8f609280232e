/* SPDX-License-Identifier: MIT */
/* The monitor's decisions, with a clock of the test's own. */
#include "daemon/health.h"

#include "tokenlane/base/clock.h"
#include "unit.h"

static const struct health_options standard = {.late_ns = TL_SEC(2),
                                               .late_factor = 10,
                                               .backoff_ns = TL_SEC(1),
                                               .max_backoff_ns = TL_SEC(60),
                                               .max_faults = 3,
                                               .fault_window_ns = TL_SEC(600)};
static const struct health_seen idle = {.can_reset = true, .step_ns = TL_MS(10), .expected_ns = TL_MS(10)};

static void test_late(void **state) {
  (void)state;
  static const struct {
    int64_t began_ns, average_ns, now_ns;
    bool late;
  } cases[] = {
      {0, TL_MS(10), TL_SEC(1000), false}, /* idle, however long */
      {TL_SEC(5), TL_MS(10), TL_SEC(7), false},
      {TL_SEC(5), TL_MS(10), TL_SEC(7) + 1, true},
      {TL_SEC(5), 0, TL_SEC(7) + 1, true}, /* its first step */
      {TL_SEC(5), TL_SEC(1), TL_SEC(15), false},
      {TL_SEC(5), TL_SEC(1), TL_SEC(15) + 1, true},
      {TL_SEC(5), INT64_MAX / 2, INT64_MAX, false},
  };
  for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
    struct health_seen seen = {.can_reset = true, .step_began_ns = cases[i].began_ns, .expected_ns = cases[i].average_ns};
    assert_true(health_is_late(&standard, &seen, cases[i].now_ns) == cases[i].late);
  }
}

struct line {
  double at_s;
  bool failed, parked;
  double step_began_s;
  enum health_probe probe;
  int works; /* what the reset says, if one is asked for */
  enum health_action action;
  enum tl_replica_state state;
};

static void play(struct health *h, const struct health_options *o, bool can_reset, const struct line *lines, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const struct line *l = &lines[i];
    struct health_seen seen = {.can_reset = can_reset,
                               .failed = l->failed,
                               .parked = l->parked,
                               .step_began_ns = (int64_t)(l->step_began_s * 1e9),
                               .step_ns = TL_MS(10), .expected_ns = TL_MS(10),
                               .probe = l->probe};
    int64_t now_ns = (int64_t)(l->at_s * 1e9);
    enum health_action action = health_step(h, o, &seen, now_ns);
    if (action == HEALTH_RESET) health_on_reset(h, o, l->works ? HEALTH_RESET_DONE : HEALTH_RESET_FAILED, now_ns);
    if (action != l->action || h->state != l->state) fail_msg("line %zu: action %d, state %d", i, action, h->state);
  }
}

#define N HEALTH_NO_PROBE
#define RUNS HEALTH_PROBE_RUNS
#define RIGHT HEALTH_PROBE_RIGHT
#define WRONG HEALTH_PROBE_WRONG
#define READY TL_REPLICA_READY
#define QUARANTINED TL_REPLICA_QUARANTINED
#define RECOVERING TL_REPLICA_RECOVERING
#define OUT TL_REPLICA_OUT

static void test_error_and_back(void **state) {
  (void)state;
  static const struct line lines[] = {
      {10.0, false, false, 9.9, N, 0, HEALTH_NOTHING, READY},
      {10.1, true, false, 0, N, 0, HEALTH_NOTHING, QUARANTINED},
      {10.2, true, true, 0, N, 0, HEALTH_NOTHING, QUARANTINED}, /* a second is not over */
      {11.0, true, true, 0, N, 0, HEALTH_NOTHING, QUARANTINED},
      {11.2, true, true, 0, N, 1, HEALTH_RESET, RECOVERING},
      {11.3, false, true, 11.25, RUNS, 0, HEALTH_NOTHING, RECOVERING},
      {11.4, false, true, 0, RIGHT, 0, HEALTH_ADMIT, READY},
      {500, false, true, 0, RIGHT, 0, HEALTH_NOTHING, READY},
  };
  struct health h = {0};
  play(&h, &standard, true, lines, UNIT_COUNT(lines));
  assert_true(h.total_faults == 1 && h.total_recoveries == 1);
}

static void test_hang(void **state) {
  (void)state;
  static const struct line lines[] = {
      {12.0, false, false, 10.0, N, 0, HEALTH_NOTHING, READY},
      {12.1, false, false, 10.0, N, 0, HEALTH_MARK, QUARANTINED},
      {12.2, true, false, 10.0, N, 0, HEALTH_NOTHING, QUARANTINED},
      {13.2, true, false, 10.0, N, 0, HEALTH_INTERRUPT, QUARANTINED}, /* the first reset did not get it out */
      {13.3, true, false, 10.0, N, 0, HEALTH_NOTHING, QUARANTINED},
      {14.3, true, false, 10.0, N, 0, HEALTH_INTERRUPT, QUARANTINED},
      {14.4, true, true, 0, N, 1, HEALTH_RESET, RECOVERING},
      {14.5, false, true, 0, RIGHT, 0, HEALTH_ADMIT, READY},
  };
  struct health h = {0};
  play(&h, &standard, true, lines, UNIT_COUNT(lines));
  assert_int_equal(h.total_faults, 1);
}

/* Resets that fail, test generations that are wrong, late or fail: 1, 2, 4 ... 60 s. */
static void test_backoff(void **state) {
  (void)state;
  static const struct line lines[] = {
      {10, true, true, 0, N, 0, HEALTH_NOTHING, QUARANTINED},
      {11, true, true, 0, N, 0, HEALTH_RESET, QUARANTINED},
      {12.9, true, true, 0, N, 0, HEALTH_NOTHING, QUARANTINED},
      {13, true, true, 0, N, 1, HEALTH_RESET, RECOVERING},
      {14, false, true, 13, WRONG, 0, HEALTH_MARK, QUARANTINED},
      {17.9, true, true, 0, WRONG, 0, HEALTH_NOTHING, QUARANTINED},
      {18, true, true, 0, WRONG, 1, HEALTH_RESET, RECOVERING},
      {19, true, false, 0, RUNS, 0, HEALTH_NOTHING, QUARANTINED}, /* its step failed */
      {27, true, true, 0, RUNS, 0, HEALTH_NOTHING, QUARANTINED},  /* no second generation before the first is back */
      {27.1, true, true, 0, WRONG, 1, HEALTH_RESET, RECOVERING},
      {30, false, true, 27.2, RUNS, 0, HEALTH_MARK, QUARANTINED},
      {45.9, true, true, 0, WRONG, 0, HEALTH_NOTHING, QUARANTINED},
      {46, true, true, 0, WRONG, 0, HEALTH_RESET, QUARANTINED},
      {78, true, true, 0, WRONG, 0, HEALTH_RESET, QUARANTINED},
      {137.9, true, true, 0, WRONG, 0, HEALTH_NOTHING, QUARANTINED},
      {138, true, true, 0, WRONG, 0, HEALTH_RESET, QUARANTINED},
      {197.9, true, true, 0, WRONG, 0, HEALTH_NOTHING, QUARANTINED},
      {198, true, true, 0, WRONG, 1, HEALTH_RESET, RECOVERING},
      {199, false, true, 0, RIGHT, 0, HEALTH_ADMIT, READY},
      {200, true, true, 0, RIGHT, 0, HEALTH_NOTHING, QUARANTINED}, /* and from the start */
      {201, true, true, 0, RIGHT, 1, HEALTH_RESET, RECOVERING},
  };
  struct health h = {0};
  play(&h, &standard, true, lines, UNIT_COUNT(lines));
  assert_int_equal(h.total_faults, 2); /* a reset in vain is no fault */
}

static void fault_and_back(struct health *h, const struct health_options *o, double at_s) {
  const struct line lines[] = {{at_s, true, true, 0, N, 0, HEALTH_NOTHING, QUARANTINED},
                               {at_s + 1, true, true, 0, N, 1, HEALTH_RESET, RECOVERING},
                               {at_s + 2, false, true, 0, RIGHT, 0, HEALTH_ADMIT, READY}};
  play(h, o, true, lines, UNIT_COUNT(lines));
}

/* What no reset will ever mend is not tried again and again; an operator may ask once more. */
static void test_hopeless(void **state) {
  (void)state;
  const struct health_seen seen = {.can_reset = true, .failed = true, .parked = true};
  struct health h = {0};
  assert_int_equal(health_step(&h, &standard, &seen, TL_SEC(10)), HEALTH_NOTHING);
  assert_int_equal(health_step(&h, &standard, &seen, TL_SEC(12)), HEALTH_RESET);
  health_on_reset(&h, &standard, HEALTH_RESET_HOPELESS, TL_SEC(12));
  assert_int_equal(h.state, OUT);
  assert_int_equal(health_step(&h, &standard, &seen, TL_SEC(9000)), HEALTH_NOTHING);
  health_resume(&h, TL_SEC(9001));
  assert_int_equal(health_step(&h, &standard, &seen, TL_SEC(9001)), HEALTH_RESET);
  health_on_reset(&h, &standard, HEALTH_RESET_HOPELESS, TL_SEC(9001));
  assert_int_equal(h.state, OUT);
}

static void test_out(void **state) {
  (void)state;
  struct health h = {0};
  fault_and_back(&h, &standard, 10);
  fault_and_back(&h, &standard, 500);
  fault_and_back(&h, &standard, 700); /* the first is more than ten minutes old */
  const struct line lines[] = {
      {800, true, false, 0, N, 0, HEALTH_NOTHING, OUT},
      {802, true, false, 799, N, 0, HEALTH_INTERRUPT, OUT}, /* its worker must come out, or its sequences never would */
      {803, true, true, 0, N, 0, HEALTH_NOTHING, OUT},
      {9000, true, true, 0, N, 0, HEALTH_NOTHING, OUT},
  };
  play(&h, &standard, true, lines, UNIT_COUNT(lines));
  health_resume(&h, TL_SEC(9001));
  const struct line resumed[] = {{9001, true, true, 0, N, 1, HEALTH_RESET, RECOVERING},
                                 {9002, false, true, 0, RIGHT, 0, HEALTH_ADMIT, READY}};
  play(&h, &standard, true, resumed, UNIT_COUNT(resumed));
  fault_and_back(&h, &standard, 9010); /* its faults were forgotten */
  struct health_options never = standard;
  never.max_faults = 0;
  struct health tough = {0};
  for (unsigned i = 0; i < 100; i++) fault_and_back(&tough, &never, 10 + 3 * i);
  struct health ready = {0};
  health_resume(&ready, 5);
  assert_int_equal(ready.state, READY);
}

/* A late step of a device that cannot be reset: no routing there until it ends; the device
 * is not marked, since marking makes its result worthless. */
static void test_no_reset(void **state) {
  (void)state;
  static const struct line lines[] = {
      {12.1, false, false, 10.0, N, 0, HEALTH_NOTHING, QUARANTINED},
      {90, false, false, 10.0, N, 0, HEALTH_NOTHING, QUARANTINED},
      {91, false, false, 90.5, N, 0, HEALTH_NOTHING, READY},
      {95, true, false, 0, N, 0, HEALTH_NOTHING, QUARANTINED}, /* an error is the end */
      {96, true, true, 0, N, 0, HEALTH_NOTHING, OUT},
      {9999, true, true, 0, N, 0, HEALTH_NOTHING, OUT},
  };
  struct health h = {0};
  play(&h, &standard, false, lines, UNIT_COUNT(lines));
  assert_int_equal(h.total_faults, 1);
  struct health late = {0};
  static const struct line fails[] = {{12.1, false, false, 10.0, N, 0, HEALTH_NOTHING, QUARANTINED},
                                      {12.2, true, false, 0, N, 0, HEALTH_NOTHING, QUARANTINED},
                                      {12.3, true, true, 0, N, 0, HEALTH_NOTHING, OUT}};
  play(&late, &standard, false, fails, UNIT_COUNT(fails));
}

static void test_degraded(void **state) {
  (void)state;
  static const struct {
    double at_s;
    int64_t step_ns, others_ns;
    double beat_ago_s;
    enum tl_replica_state state;
  } cases[] = {
      {100, TL_MS(10), TL_MS(10), 0, READY},
      {101, TL_MS(49), TL_MS(10), 0, READY},
      {102, TL_MS(51), TL_MS(10), 0, READY}, /* since now */
      {104, TL_MS(51), TL_MS(10), 1.5, READY}, /* no steps for a second since */
      {104, TL_MS(51), TL_MS(10), 0.5, TL_REPLICA_DEGRADED},
      {105, TL_MS(30), TL_MS(10), 0, TL_REPLICA_DEGRADED}, /* it stays until it is clearly faster */
      {106, TL_MS(19), TL_MS(10), 0, READY},
      {107, TL_MS(60), TL_MS(10), 0, READY},
      {108, TL_MS(60), TL_MS(10), 0, TL_REPLICA_DEGRADED},
      {140, TL_MS(60), TL_MS(10), 31, READY}, /* it must be seen again */
      {141, TL_MS(60), TL_MS(10), 0, READY},
      {142, TL_MS(60), TL_MS(10), 0, TL_REPLICA_DEGRADED},
      {143, TL_MS(60), 0, 0, READY},
      {144, 0, TL_MS(10), 0, READY},
  };
  struct health h = {0};
  for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
    int64_t now_ns = (int64_t)(cases[i].at_s * 1e9);
    struct health_seen seen = idle;
    seen.step_ns = cases[i].step_ns;
    seen.others_step_ns = cases[i].others_ns;
    seen.beat_ns = now_ns - (int64_t)(cases[i].beat_ago_s * 1e9);
    assert_int_equal(health_step(&h, &standard, &seen, now_ns), HEALTH_NOTHING);
    if (h.state != cases[i].state) fail_msg("line %zu: state %d", i, h.state);
  }
}

/* A device that says that it has failed is marked at once, and reset as after an error; one
 * that is impaired serves on. */
static void test_device_says_so(void **state) {
  (void)state;
  struct health h = {0};
  struct health_seen seen = idle;
  seen.device = TL_DEVICE_IMPAIRED;
  assert_int_equal(health_step(&h, &standard, &seen, TL_SEC(10)), HEALTH_NOTHING);
  assert_int_equal(h.state, TL_REPLICA_DEGRADED);
  seen.device = TL_DEVICE_WELL;
  assert_int_equal(health_step(&h, &standard, &seen, TL_SEC(11)), HEALTH_NOTHING);
  assert_int_equal(h.state, READY);
  seen.device = TL_DEVICE_FAILED;
  assert_int_equal(health_step(&h, &standard, &seen, TL_SEC(12)), HEALTH_MARK);
  assert_true(h.state == QUARANTINED && h.total_faults == 1);
  seen.failed = seen.parked = true;
  assert_int_equal(health_step(&h, &standard, &seen, TL_SEC(13)), HEALTH_RESET);
  health_on_reset(&h, &standard, HEALTH_RESET_DONE, TL_SEC(13));
  seen.failed = false;
  seen.probe = HEALTH_PROBE_RUNS;
  assert_int_equal(health_step(&h, &standard, &seen, TL_SEC(14)), HEALTH_MARK); /* the reset did not help */
  assert_int_equal(h.state, QUARANTINED);
  seen.probe = HEALTH_PROBE_RIGHT;
  seen.failed = true;
  assert_int_equal(health_step(&h, &standard, &seen, TL_SEC(16)), HEALTH_RESET);
  health_on_reset(&h, &standard, HEALTH_RESET_DONE, TL_SEC(16));
  seen.failed = false;
  assert_int_equal(health_step(&h, &standard, &seen, TL_SEC(17)), HEALTH_MARK); /* right tokens do not change that */
  assert_int_equal(h.total_faults, 1);
}

/* What NVML says of a GPU no reset changes: it is let go, once, and left alone until it is well. */
static void test_gpu_failed(void **state) {
  (void)state;
  struct health h = {0};
  struct health_seen seen = idle;
  seen.gpu = TL_DEVICE_FAILED;
  assert_int_equal(health_step(&h, &standard, &seen, TL_SEC(10)), HEALTH_MARK);
  seen.failed = true;
  assert_int_equal(health_step(&h, &standard, &seen, TL_SEC(12)), HEALTH_INTERRUPT); /* its worker is still inside */
  seen.parked = true;
  assert_int_equal(health_step(&h, &standard, &seen, TL_SEC(13)), HEALTH_INTERRUPT);
  for (int s = 14; s < 4000; s++) assert_int_equal(health_step(&h, &standard, &seen, TL_SEC(s)), HEALTH_NOTHING);
  assert_int_equal(h.state, QUARANTINED);
  seen.gpu = TL_DEVICE_WELL;
  assert_int_equal(health_step(&h, &standard, &seen, TL_SEC(4000)), HEALTH_RESET);
  health_on_reset(&h, &standard, HEALTH_RESET_DONE, TL_SEC(4000));
  seen.failed = false;
  seen.probe = HEALTH_PROBE_RIGHT;
  assert_int_equal(health_step(&h, &standard, &seen, TL_SEC(4001)), HEALTH_ADMIT);
  seen.gpu = TL_DEVICE_FAILED;
  assert_int_equal(health_step(&h, &standard, &seen, TL_SEC(4002)), HEALTH_MARK);
}

/* A reset that takes its time is asked again soon, without a longer backoff. */
static void test_reset_in_the_background(void **state) {
  (void)state;
  struct health h = {0};
  struct health_seen seen = idle;
  seen.failed = seen.parked = true;
  health_step(&h, &standard, &seen, TL_SEC(10));
  int64_t now_ns = TL_SEC(11);
  for (int i = 0; i < 200; i++, now_ns += TL_MS(100)) {
    assert_int_equal(health_step(&h, &standard, &seen, now_ns), HEALTH_RESET);
    health_on_reset(&h, &standard, HEALTH_RESET_BEGUN, now_ns);
    assert_int_equal(health_step(&h, &standard, &seen, now_ns + TL_MS(1)), HEALTH_NOTHING);
  }
  assert_true(h.state == QUARANTINED && h.n_attempts == 0);
  health_on_reset(&h, &standard, HEALTH_RESET_FAILED, now_ns);
  assert_int_equal(health_step(&h, &standard, &seen, now_ns + TL_MS(1999)), HEALTH_NOTHING);
  assert_int_equal(health_step(&h, &standard, &seen, now_ns + TL_SEC(2)), HEALTH_RESET);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_late),     cmocka_unit_test(test_error_and_back), cmocka_unit_test(test_hang),
      cmocka_unit_test(test_backoff),  cmocka_unit_test(test_hopeless), cmocka_unit_test(test_out),            cmocka_unit_test(test_no_reset),
      cmocka_unit_test(test_degraded), cmocka_unit_test(test_device_says_so), cmocka_unit_test(test_gpu_failed),
      cmocka_unit_test(test_reset_in_the_background),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
