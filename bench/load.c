/* SPDX-License-Identifier: MIT */
/* Load generator: streams completions from an OpenAI server and measures when
 * tokens come. A run asks for the model's name, warms up, measures.
 *
 * Closed loop: N streams, each starts its next request when one is answered.
 * Open loop: requests start at random times whatever the server does; a request's
 * times count from when it was due, so a late generator does not flatter it. */
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "load.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/hash.h"

#define WATCH_MS 500
#define OPEN_WARM_STREAMS 8 /* the warm-up of an open loop is a closed one */

static void begin_phase(struct load_run *run, enum load_phase phase);

/* --- connections --------------------------------------------------------------------------------- */

static struct load_conn *add_conn(struct load_run *run) {
  if (run->n_conns == run->cap_conns) {
    run->cap_conns = run->cap_conns ? run->cap_conns * 2 : 16;
    run->conns = realloc(run->conns, run->cap_conns * sizeof *run->conns);
  }
  struct load_conn *conn = calloc(1, sizeof *conn);
  if (!run->conns || !conn) abort();
  conn->run = run;
  tl_buffer_init(&conn->out, 0);
  tl_buffer_init(&conn->body, 0);
  return run->conns[run->n_conns++] = conn;
}

/* Only called when no handle is open any more. */
static void free_conns(struct load_run *run) {
  for (size_t i = 0; i < run->n_conns; i++) {
    tl_buffer_done(&run->conns[i]->out);
    tl_buffer_done(&run->conns[i]->body);
    free(run->conns[i]->gaps.values);
    free(run->conns[i]);
  }
  free(run->conns);
}

/* An open connection if there is one, else a closed one, else a new one. */
static struct load_conn *free_conn(struct load_run *run) {
  struct load_conn *closed = NULL;
  for (size_t i = 0; i < run->n_conns; i++) {
    struct load_conn *conn = run->conns[i];
    if (conn->state == LOAD_IDLE) return conn;
    if (conn->state == LOAD_CLOSED) closed = conn;
  }
  return closed ? closed : add_conn(run);
}

/* --- issuing -------------------------------------------------------------------------------------- */

/* Whether this phase still starts requests. */
static bool may_issue(const struct load_run *run) {
  if (run->gave_up) return false;
  if (run->phase == LOAD_WARM) return run->n_issued < (uint64_t)run->o.warmup;
  if (run->phase != LOAD_MEASURE) return false;
  if (run->o.requests && run->n_issued >= (uint64_t)run->o.requests) return false;
  return run->o.duration_s <= 0 || run->n_issued == 0 ||
         (double)(tl_now_ns() - run->stats.began_ns) * 1e-9 < run->o.duration_s;
}

static void issue(struct load_run *run, struct load_conn *conn, int64_t began_ns) {
  conn->measured = run->phase == LOAD_MEASURE;
  if (conn->measured && run->n_issued == 0) run->stats.began_ns = began_ns;
  run->n_issued++;
  run->n_running++;
  load_write_request(&run->o, run->model, run->serial++, &conn->out);
  load_conn_start(conn, conn->measured && run->o.rate > 0 ? began_ns : tl_now_ns());
}

/* --- open loop --------------------------------------------------------------------------------------- */

/* The gap before arrival i of a Poisson process. */
static int64_t arrival_gap_ns(const struct load_run *run) {
  double u = 1.0 - (double)tl_random_uniform((uint64_t)run->o.seed, run->n_issued);
  return (int64_t)(-log(u) / run->o.rate * 1e9);
}

static void arm_arrival(struct load_run *run) {
  struct itimerspec at = {.it_value = {run->next_arrival_ns / 1000000000, run->next_arrival_ns % 1000000000}};
  timerfd_settime(run->arrival_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static void on_arrival(uv_poll_t *poll, int status, int events) {
  (void)status, (void)events;
  struct load_run *run = poll->data;
  uint64_t expirations;
  if (read(run->arrival_fd, &expirations, sizeof expirations) < 0) return;
  while (may_issue(run) && run->next_arrival_ns <= tl_now_ns()) {
    int64_t due_ns = run->next_arrival_ns;
    run->next_arrival_ns += arrival_gap_ns(run);
    issue(run, free_conn(run), due_ns);
  }
  if (may_issue(run))
    arm_arrival(run);
  else if (run->n_running == 0)
    begin_phase(run, LOAD_ENDED);
}

/* --- phases ------------------------------------------------------------------------------------------- */

static void end_run(struct load_run *run) {
  uv_close((uv_handle_t *)&run->watch, NULL);
  if (run->o.rate > 0) uv_close((uv_handle_t *)&run->arrival, NULL);
  for (size_t i = 0; i < run->n_conns; i++) load_conn_close(run->conns[i]);
}

static void begin_phase(struct load_run *run, enum load_phase phase) {
  if (phase == LOAD_WARM && (run->o.warmup == 0 || run->gave_up)) phase = LOAD_MEASURE;
  if (phase == LOAD_MEASURE && run->gave_up) phase = LOAD_ENDED;
  run->phase = phase;
  run->n_issued = 0;
  if (phase == LOAD_ENDED) {
    end_run(run);
    return;
  }
  if (phase == LOAD_MEASURE && run->o.rate > 0) {
    run->next_arrival_ns = tl_now_ns();
    arm_arrival(run);
    return;
  }
  int64_t streams = run->o.rate > 0 ? OPEN_WARM_STREAMS : run->o.streams, now = tl_now_ns();
  for (int64_t i = 0; i < streams && may_issue(run); i++) issue(run, free_conn(run), now);
}

/* --- ends of requests --------------------------------------------------------------------------------- */

/* The first id of {"data": [{"id": ...}]}. */
static void take_model(struct load_run *run, struct load_conn *conn) {
  json_t *root = *conn->failure ? NULL : json_loadb(conn->body.data, conn->body.length, 0, NULL);
  const char *id = json_string_value(json_object_get(json_array_get(json_object_get(root, "data"), 0), "id"));
  if (id)
    run->model = strdup(id);
  else
    fprintf(stderr, "load: cannot learn the model from /v1/models%s%s; is the server there?\n",
            *conn->failure ? ": " : "", conn->failure);
  json_decref(root);
  run->gave_up = !run->model;
  run->o.model = run->model;
  begin_phase(run, LOAD_WARM);
}

static void count(struct load_run *run, struct load_conn *conn) {
  struct load_stats *stats = &run->stats;
  int64_t now = tl_now_ns();
  stats->ended_ns = now;
  if (!*conn->failure && !conn->n_chunks && run->o.ignore_eos)
    snprintf(conn->failure, sizeof conn->failure, "no text");
  if (*conn->failure) {
    if (strcmp(conn->failure, "429") == 0) load_samples_add(&stats->refused, (double)(now - conn->began_ns) * 1e-6);
    load_stats_fail(stats, conn->failure);
    return;
  }
  /* a server without a usage chunk: a token a chunk */
  uint64_t output = conn->has_usage ? conn->output_tokens : conn->n_chunks;
  stats->n_completed++;
  stats->n_chunks += conn->n_chunks;
  stats->output_tokens += output;
  stats->prompt_tokens += conn->prompt_tokens;
  if (conn->n_chunks) load_samples_add(&stats->ttft, (double)(conn->first_ns - conn->began_ns) * 1e-6);
  load_samples_add(&stats->e2e, (double)(now - conn->began_ns) * 1e-6);
  if (output > 1)
    load_samples_add(&stats->tpot, (double)(conn->last_ns - conn->first_ns) * 1e-6 / (double)(output - 1));
  load_samples_take(&stats->itl, &conn->gaps);
}

void load_on_done(struct load_conn *conn) {
  struct load_run *run = conn->run;
  if (run->phase == LOAD_ASK) {
    take_model(run, conn);
    return;
  }
  run->n_running--;
  if (conn->measured)
    count(run, conn);
  else if (*conn->failure) {
    run->warm_failed = true;
    fprintf(stderr, "load: a warm-up request failed: %s\n", conn->failure);
  }
  bool open_loop = run->phase == LOAD_MEASURE && run->o.rate > 0;
  /* a closed loop would try again at once, for ever */
  if (!open_loop && strcmp(conn->failure, "connect") == 0) run->gave_up = true;
  if (may_issue(run)) {
    if (!open_loop) issue(run, conn, tl_now_ns());
  } else if (run->n_running == 0) {
    begin_phase(run, run->phase == LOAD_WARM ? LOAD_MEASURE : LOAD_ENDED);
  }
}

static void on_watch(uv_timer_t *timer) {
  struct load_run *run = timer->data;
  int64_t limit_ns = tl_now_ns() - (int64_t)(run->o.timeout_s * 1e9);
  for (size_t i = 0; i < run->n_conns; i++) {
    struct load_conn *conn = run->conns[i];
    if ((conn->state == LOAD_BUSY || conn->state == LOAD_CONNECTING) && conn->began_ns < limit_ns)
      load_conn_fail(conn, "timeout");
  }
}

/* --- main --------------------------------------------------------------------------------------------- */

static void start(struct load_run *run) {
  uv_loop_init(&run->loop);
  uv_timer_init(&run->loop, &run->watch);
  run->watch.data = run;
  uv_timer_start(&run->watch, on_watch, WATCH_MS, WATCH_MS);
  if (run->o.rate > 0) {
    run->arrival_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    uv_poll_init(&run->loop, &run->arrival, run->arrival_fd);
    run->arrival.data = run;
    uv_poll_start(&run->arrival, UV_READABLE, on_arrival);
  }
  if (run->o.model) {
    run->model = strdup(run->o.model);
    begin_phase(run, LOAD_WARM);
    return;
  }
  struct load_conn *conn = add_conn(run);
  load_write_ask(&run->o, &conn->out);
  load_conn_start(conn, tl_now_ns());
}

int main(int argc, char **argv) {
  static struct load_run run;
  run.arrival_fd = -1;
  load_parse_options(argc, argv, &run.o);
  signal(SIGPIPE, SIG_IGN);
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  start(&run);
  uv_run(&run.loop, UV_RUN_DEFAULT);
  uv_loop_close(&run.loop);
  bool asked = run.model != NULL;
  if (asked) load_report(&run.o, &run.stats);
  if (run.arrival_fd >= 0) close(run.arrival_fd);
  free_conns(&run);
  free(run.model);
  struct load_samples *all[] = {&run.stats.ttft, &run.stats.itl, &run.stats.tpot, &run.stats.e2e, &run.stats.refused};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]->values);
  return asked && run.stats.n_failed == 0 && run.stats.n_completed > 0 && !run.warm_failed ? 0 : 1;
}
