/* SPDX-License-Identifier: MIT */
/* A false NVML, true engine, router and monitor; simulated devices, of which the test says which
 * GPU they use. */
#include "daemon/gpu_watch.h"

#include <dlfcn.h>
#include <math.h>

#include "api/api_private.h"
#include "daemon/monitor.h"
#include "fake_nvml.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/sim.h"
#include "unit.h"

enum { REPLICAS = FAKE_GPUS, LOOPS = 2, NEW = 64 };

static char library[1024];
static struct fake_nvml *fake;
static const char *const addresses[FAKE_GPUS] = {"00000000:00:00.0", "00000000:01:00.0", "00000000:02:00.0"};

static bool wait_for(bool (*done)(void *), void *context) {
  for (int64_t end_ns = tl_now_ns() + TL_SEC(20) * UNIT_SLOWDOWN; tl_now_ns() < end_ns; usleep(500))
    if (done(context)) return true;
  return false;
}

static double series(struct tl_metrics *metrics, const char *name) {
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  tl_metrics_expose(metrics, &out);
  char line[256];
  snprintf(line, sizeof line, "\n%s ", name);
  const char *at = strstr(tl_buffer_string(&out), line);
  if (!at) fail_msg("no series %s", name);
  double value = strtod(at + strlen(line), NULL);
  tl_buffer_done(&out);
  return value;
}

static _Atomic unsigned n_failed;

static void count_failed(unsigned replica, void *context) {
  (void)context;
  atomic_fetch_or(&n_failed, 1u << replica);
}

static struct gpu_watch *start(struct tl_metrics *metrics, void (*fail)(unsigned, void *), void *context) {
  static struct gpu_use uses[REPLICAS];
  for (unsigned i = 0; i < REPLICAS; i++) uses[i] = (struct gpu_use){i, addresses[i]};
  struct gpu_watch_options options = {.library = library, .uses = uses, .n_uses = REPLICAS, .look_ns = TL_MS(5), .fail = fail, .context = context};
  return gpu_watch_start(&options, metrics);
}

static int reset_fake(void **state) {
  (void)state;
  memset((void *)fake, 0, sizeof *fake);
  for (unsigned i = 0; i < FAKE_GPUS; i++) {
    fake->gpus[i].temperature = 40 + i;
    fake->gpus[i].power_mw = 123456;
    fake->gpus[i].pcie_generation = 5;
  }
  n_failed = 0;
  return 0;
}

static bool has_looked(void *gpu) {
  return atomic_load(&((struct fake_gpu *)gpu)->n_looks) >= 3;
}

static void wait_looks(unsigned gpu) {
  fake->gpus[gpu].n_looks = 0;
  assert_true(wait_for(has_looked, &fake->gpus[gpu]));
}

static void test_gauges(void **state) {
  (void)state;
  struct tl_metrics *metrics = tl_metrics_new();
  fake->gpus[2].no_fields = fake->gpus[2].no_rows = 1;
  struct gpu_watch *w = start(metrics, count_failed, NULL);
  assert_non_null(w);
  wait_looks(1);
  wait_looks(2);
  assert_true(series(metrics, "tokenlane_gpu_temperature_celsius{gpu=\"GPU-1\",of=\"gpu\"}") == 41);
  assert_true(fabs(series(metrics, "tokenlane_gpu_power_watts{gpu=\"GPU-1\"}") - 123.456) < 1e-9);
  assert_true(series(metrics, "tokenlane_gpu_memory_used_bytes{gpu=\"GPU-0\"}") == 30.0 * (1 << 30));
  assert_true(series(metrics, "tokenlane_gpu_memory_bytes{gpu=\"GPU-0\"}") == 80.0 * (1 << 30));
  assert_true(fabs(series(metrics, "tokenlane_gpu_busy_ratio{gpu=\"GPU-1\",of=\"memory\"}") - 0.07) < 1e-9);
  assert_true(series(metrics, "tokenlane_gpu_remapped_rows{gpu=\"GPU-1\",kind=\"uncorrected\"}") == 1);
  assert_true(series(metrics, "tokenlane_gpu_pcie_link{gpu=\"GPU-1\",is=\"max_width\"}") == 16);
  assert_true(series(metrics, "tokenlane_gpu_throttle_reasons{gpu=\"GPU-1\"}") == 0);
  assert_true(series(metrics, "tokenlane_gpu_ecc_errors_total{gpu=\"GPU-1\",kind=\"uncorrected\"}") == 0);
  assert_true(isnan(series(metrics, "tokenlane_gpu_ecc_errors_total{gpu=\"GPU-2\",kind=\"uncorrected\"}")));
  assert_true(isnan(series(metrics, "tokenlane_gpu_remapped_rows{gpu=\"GPU-2\",kind=\"failed\"}")));
  assert_true(series(metrics, "tokenlane_gpu_health{gpu=\"GPU-2\"}") == 0); /* what is not known is not ill */
  assert_true(series(metrics, "tokenlane_gpu_look_age_seconds{gpu=\"GPU-2\"}") >= 0);
  gpu_watch_stop(w);
  assert_int_equal(fake->n_open, 0);
  tl_metrics_free(metrics);
}

static void test_absent(void **state) {
  (void)state;
  struct tl_metrics *metrics = tl_metrics_new();
  struct gpu_use use = {0, addresses[0]};
  struct gpu_watch_options options = {.library = "/nowhere/libnvidia-ml.so.1", .uses = &use, .n_uses = 1};
  assert_null(gpu_watch_start(&options, metrics));
  options.library = library;
  options.n_uses = 0;
  assert_null(gpu_watch_start(&options, metrics));
  options.n_uses = 1;
  fake->init_result = 9; /* no driver */
  assert_null(gpu_watch_start(&options, metrics));
  assert_int_equal(gpu_watch_health(NULL, 0), TL_DEVICE_WELL);
  gpu_watch_mended(NULL, 0);
  gpu_watch_stop(NULL);
  assert_int_equal(fake->n_open, 0);
  tl_metrics_free(metrics);
}

struct expected {
  struct gpu_watch *w;
  unsigned replica;
  enum tl_device_health health;
};

static bool is_as_expected(void *context) {
  const struct expected *e = context;
  return gpu_watch_health(e->w, e->replica) == e->health;
}

static void wait_health(struct gpu_watch *w, unsigned replica, enum tl_device_health health) {
  assert_true(wait_for(is_as_expected, &(struct expected){w, replica, health}));
}

/* Each way to fail is seen, told once, and mended by an operator; the others are as before. */
static void test_failures(void **state) {
  (void)state;
  struct tl_metrics *metrics = tl_metrics_new();
  struct gpu_watch *w = start(metrics, count_failed, NULL);
  for (unsigned round = 0; round < 4; round++) {
    struct fake_gpu *gpu = &fake->gpus[1];
    wait_looks(1);
    if (round == 0) gpu->xid = 31; /* a program's own */
    if (round == 0) wait_looks(1);
    assert_int_equal(gpu_watch_health(w, 1), TL_DEVICE_WELL);
    assert_int_equal(n_failed, 0);
    switch (round) {
      case 0: gpu->xid = 79; break;
      case 1: gpu->result = 15; break;
      case 2: gpu->ecc_uncorrected = 1; break;
      default: gpu->recovery_action = 1;
    }
    wait_health(w, 1, TL_DEVICE_FAILED);
    assert_true(wait_for(has_looked, &fake->gpus[0]));
    assert_int_equal(n_failed, 1u << 1);
    assert_true(gpu_watch_health(w, 0) == TL_DEVICE_WELL && gpu_watch_health(w, 2) == TL_DEVICE_WELL);
    gpu->result = 0;
    gpu->recovery_action = 0;
    if (round < 3) gpu_watch_mended(w, 1); /* in the last round the driver says so itself */
    wait_health(w, 1, TL_DEVICE_WELL);
    n_failed = 0;
  }
  assert_true(series(metrics, "tokenlane_gpu_xids_total{gpu=\"GPU-1\",class=\"app\"}") == 1);
  assert_true(series(metrics, "tokenlane_gpu_xids_total{gpu=\"GPU-1\",class=\"fatal\"}") == 1);
  assert_true(series(metrics, "tokenlane_gpu_last_xid{gpu=\"GPU-1\"}") == 79);
  assert_true(series(metrics, "tokenlane_gpu_last_xid{gpu=\"GPU-0\"}") == 0);
  gpu_watch_stop(w);
  tl_metrics_free(metrics);
}

/* NVML does not know the GPU, or may not speak of it: that is no failure of the device, which works. */
static void test_unknown(void **state) {
  (void)state;
  struct tl_metrics *metrics = tl_metrics_new();
  fake->gpus[1].result = 4; /* no permission */
  struct gpu_watch *w = start(metrics, count_failed, NULL);
  wait_looks(0);
  wait_looks(2);
  assert_int_equal(gpu_watch_health(w, 1), TL_DEVICE_WELL);
  assert_true(isnan(series(metrics, "tokenlane_gpu_temperature_celsius{gpu=\"00000000:01:00.0\",of=\"gpu\"}")));
  assert_int_equal(n_failed, 0);
  fake->gpus[1].result = 0;
  wait_looks(1); /* it may now */
  fake->gpus[1].result = 15;
  wait_health(w, 1, TL_DEVICE_FAILED);
  gpu_watch_stop(w);
  tl_metrics_free(metrics);
}

/* A call about one GPU that does not return keeps nobody from the others, and the end does not wait for it. */
static void test_blocked(void **state) {
  (void)state;
  static struct tl_metrics *metrics;
  static struct gpu_watch *w; /* what is left behind stays reachable */
  metrics = tl_metrics_new();
  w = start(metrics, count_failed, NULL);
  wait_looks(0);
  fake->gpus[0].blocked = 1;
  wait_looks(1);
  fake->gpus[1].xid = 48;
  wait_health(w, 1, TL_DEVICE_FAILED);
  wait_looks(2);
  assert_int_equal(gpu_watch_health(w, 0), TL_DEVICE_WELL); /* its steps will tell */
  assert_true(series(metrics, "tokenlane_gpu_look_age_seconds{gpu=\"GPU-0\"}") > 0);
  gpu_watch_stop(w);
  assert_int_equal(fake->n_open, 1); /* left behind */
  fake->gpus[0].blocked = 0;
  usleep(200000); /* its thread ends; the memory stays */
}

/* --- with engine, router and monitor ------------------------------------------------------------- */

static const struct tl_model model = {.vocab_size = 1000, .max_context = 256};
static struct tl_sim_options sims[REPLICAS];

struct house {
  struct tl_engine *engine;
  struct tl_route *route;
  struct monitor *monitor;
  struct tl_waker loop_waker, probe_waker;
  struct tl_sequence *seqs[REPLICAS]; /* one lives on each replica */
  unsigned n_final;
};

static void wake(unsigned loop, void *context) {
  struct house *h = context;
  tl_waker_notify(loop ? &h->probe_waker : &h->loop_waker);
}

static void on_failed(unsigned replica, void *context) {
  struct house *h = context;
  tl_engine_quarantine(h->engine, replica);
  tl_waker_notify(&h->probe_waker);
}

static void on_event(struct tl_sequence *seq, bool final, void *context) {
  (void)seq;
  ((struct house *)context)->n_final += final;
}

static void free_sequence(struct tl_sequence *seq) {
  free(seq->tokens);
  free(seq);
}

static void submit(struct house *h, unsigned replica, unsigned n_prompt, unsigned max_new) {
  struct tl_sequence *seq = aligned_alloc(TL_CACHE_LINE, (sizeof *seq + TL_CACHE_LINE - 1) / TL_CACHE_LINE * TL_CACHE_LINE);
  *seq = (struct tl_sequence){.n_prompt = n_prompt, .max_new = max_new, .ignore_eos = true, .replica = replica,
                              .sampling = {.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = -1}};
  seq->tokens = calloc(n_prompt + max_new, sizeof *seq->tokens);
  h->seqs[replica] = seq;
  tl_engine_submit(h->engine, replica, seq);
}

static void drain(struct house *h, unsigned n_final) {
  int64_t end_ns = tl_now_ns() + TL_SEC(20) * UNIT_SLOWDOWN;
  while (h->n_final < n_final && tl_now_ns() < end_ns) {
    tl_waker_prepare(&h->loop_waker);
    tl_engine_drain(h->engine, 0, on_event, h);
    tl_waker_sleep(&h->loop_waker, TL_MS(1));
  }
  assert_int_equal(h->n_final, n_final);
}

static bool is_back(void *context) {
  return tl_route_state(((struct house *)context)->route, 1) <= TL_REPLICA_DEGRADED;
}

/* A fatal Xid: what its replica's step under way says is not used and the replica is quarantined, at
 * once; the others finish what they have. It stays so until somebody says that it is mended. */
static void test_quarantine(void **state) {
  (void)state;
  static const char *const devices[REPLICAS] = {"sim:0", "sim:1", "sim:2"};
  static struct house h;
  static struct tl_api api;
  struct tl_error err = {0};
  struct tl_metrics *metrics = tl_metrics_new();
  for (unsigned i = 0; i < REPLICAS; i++) sims[i].base_ns = TL_MS(2);
  sims[1].per_token_ns = TL_MS(20);
  tl_waker_init(&h.loop_waker);
  tl_waker_init(&h.probe_waker);
  struct tl_engine_options o = {.model = &model, .devices = devices, .n_replicas = REPLICAS, .sim = sims, .n_loops = LOOPS,
                                .max_batch_size = 4, .max_batch_tokens = 128, .max_prefill_tokens = 128, .max_queue = 16, .wake = wake, .wake_context = &h};
  assert_int_equal(tl_engine_new(&o, metrics, &h.engine, &err), TL_OK);
  assert_int_equal(tl_route_new(h.engine, &(struct tl_route_options){.max_seqs = 16}, metrics, &h.route, &err), TL_OK);
  assert_int_equal(tl_engine_start(h.engine, &err), TL_OK);
  struct probe *probes = probes_new(REPLICAS, 0);
  assert_int_equal(probe_replicas(h.engine, &model, 1, &h.probe_waker, probes, &err), TL_OK);
  struct gpu_watch *w = start(metrics, on_failed, &h);
  struct monitor_options m = {.name = "m", .health = {.late_ns = TL_SEC(30), .late_factor = 100, .backoff_ns = TL_MS(10), .max_backoff_ns = TL_MS(10)},
                              .engine = h.engine, .route = h.route, .api = &api, .gpus = w, .model = &model, .probes = probes,
                              .waker = &h.probe_waker, .loop = 1};
  assert_int_equal(monitor_new(&m, metrics, &h.monitor, &err), TL_OK);
  assert_int_equal(monitor_start(h.monitor, &err), TL_OK);
  for (unsigned i = 0; i < REPLICAS; i++) submit(&h, i, i == 1 ? 100 : 4, i == 1 ? 2 : NEW);
  struct tl_board *board = tl_engine_board(h.engine, 1);
  while (!atomic_load(&board->step_began_ns)) usleep(100);
  fake->gpus[1].xid = 79; /* in the middle of a step of two seconds */
  drain(&h, REPLICAS);
  assert_true(h.seqs[1]->finish == TL_FINISH_FAULT && atomic_load(&h.seqs[1]->n_out) == 0);
  assert_true(h.seqs[0]->finish == TL_FINISH_LENGTH && h.seqs[2]->finish == TL_FINISH_LENGTH);
  usleep(100000); /* ten times the backoff: nothing is tried on it */
  assert_int_equal(tl_route_state(h.route, 1), TL_REPLICA_QUARANTINED);
  assert_true(tl_route_state(h.route, 0) == TL_REPLICA_READY && tl_route_state(h.route, 2) == TL_REPLICA_READY);
  monitor_resume(1, h.monitor);
  assert_true(wait_for(is_back, &h));
  free_sequence(h.seqs[1]);
  submit(&h, 1, 4, 2);
  drain(&h, REPLICAS + 1);
  assert_int_equal(h.seqs[1]->finish, TL_FINISH_LENGTH);
  monitor_stop(h.monitor);
  tl_engine_stop(h.engine);
  gpu_watch_stop(w);
  monitor_free(h.monitor);
  tl_route_free(h.route);
  tl_engine_free(h.engine);
  free(probes);
  for (unsigned i = 0; i < REPLICAS; i++) free_sequence(h.seqs[i]);
  tl_metrics_free(metrics);
}

int main(void) {
  char self[900];
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  self[n > 0 ? n : 0] = 0;
  for (int i = 0; i < 3 && strrchr(self, '/'); i++) *strrchr(self, '/') = 0;
  snprintf(library, sizeof library, "%s/lib/fake_nvml.so", self);
  void *handle = dlopen(library, RTLD_NOW);
  fake = handle ? dlsym(handle, "fake_nvml") : NULL;
  if (!fake) return fprintf(stderr, "%s\n", dlerror()), 1;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_gauges, reset_fake),   cmocka_unit_test_setup(test_absent, reset_fake),
      cmocka_unit_test_setup(test_failures, reset_fake), cmocka_unit_test_setup(test_quarantine, reset_fake),
      cmocka_unit_test_setup(test_unknown, reset_fake),  cmocka_unit_test_setup(test_blocked, reset_fake),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
