/* SPDX-License-Identifier: MIT */
/* What does a log call cost the thread that makes it?
 *
 * The same line to the same file through: Tokenlane's log; a mutex around fprintf, flushed a line at a
 * time (as stderr is) or not; spdlog's asynchronous logger, which blocks when its queue is full or overruns the
 * oldest. Two loads:
 *
 *   paced   all threads together make so many calls a second, in bursts of 20: what every contender can
 *           write, so that nothing is lost. Each call is timed: this is the cost that counts.
 *   flood   calls without a pause, more than any writer can format: ops/s of the callers, and how many
 *           lines came to the file. A log that never waits must drop here; the table says how many.
 *
 * What one reading of the clock costs is printed, and taken off each timed call. */
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tokenlane/base/clock.h"
#include "tokenlane/log.h"

#define MAX_THREADS 16
#define BURST 20
#define FLOOD_CALLS (1u << 30)

struct contender {
  const char *name;
  void (*start)(const char *path);
  void (*call)(const char *path, long status, unsigned long bytes, double ms, const char *id);
  uint64_t (*stop)(void); /* all is in the file; returns how many lines were dropped */
};

/* --- Tokenlane -------------------------------------------------------------------------------- */

static uint64_t lost_before;

static uint64_t lost_now(void) {
  struct tl_log_losses losses = tl_log_losses();
  return losses.ring_full + losses.sink + losses.rate_limit;
}

/* The rate is counted, as in the daemon, but its limit is out of reach. */
static void start_tokenlane(const char *path) {
  const struct tl_log_options options = {
      .level = "info", .format = "logfmt", .sink = path, .max_per_second = 1000000000};
  struct tl_error err = {0};
  lost_before = lost_now();
  if (tl_log_start(&options, &err) < 0) {
    fprintf(stderr, "%s\n", err.message);
    exit(1);
  }
}

static void call_tokenlane(const char *path, long status, unsigned long bytes, double ms, const char *id) {
  TL_LOG(TL_LOG_INFO, "bench", "request", TL_S("method", "GET"), TL_S("path", path), TL_I("status", status),
         TL_U("bytes", bytes), TL_F("ms", ms), TL_S("request_id", id));
}

static uint64_t stop_tokenlane(void) {
  tl_log_stop();
  return lost_now() - lost_before;
}

/* --- a mutex around fprintf ------------------------------------------------------------------------ */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static FILE *file;

static void start_fprintf(const char *path) {
  file = fopen(path, "w");
  if (!file) {
    perror(path);
    exit(1);
  }
  setvbuf(file, NULL, _IOFBF, 65536);
}

/* The time is made outside of the lock. */
static void print_line(const char *path, long status, unsigned long bytes, double ms, const char *id, int flush) {
  int64_t now_ns = tl_wall_ns();
  time_t seconds = (time_t)(now_ns / TL_SEC(1));
  struct tm utc;
  char when[32];
  gmtime_r(&seconds, &utc);
  strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &utc);
  pthread_mutex_lock(&mutex);
  fprintf(file, "ts=%s.%03dZ level=info module=bench msg=request method=%s path=%s status=%ld bytes=%lu ms=%g request_id=%s\n",
          when, (int)(now_ns / 1000000 % 1000), "GET", path, status, bytes, ms, id);
  if (flush) fflush(file);
  pthread_mutex_unlock(&mutex);
}

static void call_flushed(const char *path, long status, unsigned long bytes, double ms, const char *id) {
  print_line(path, status, bytes, ms, id, 1);
}

static void call_buffered(const char *path, long status, unsigned long bytes, double ms, const char *id) {
  print_line(path, status, bytes, ms, id, 0);
}

static uint64_t stop_fprintf(void) {
  fclose(file);
  return 0;
}

/* --- spdlog ------------------------------------------------------------------------------------------- */

#ifdef HAVE_SPDLOG
void bench_spdlog_start(const char *path, int overrun);
void bench_spdlog_call(const char *path, long status, unsigned long bytes, double ms, const char *id);
unsigned long bench_spdlog_stop(void);

static void start_blocking(const char *path) {
  bench_spdlog_start(path, 0);
}

static void start_overrun(const char *path) {
  bench_spdlog_start(path, 1);
}

static uint64_t stop_spdlog(void) {
  return bench_spdlog_stop();
}
#endif

static const struct contender contenders[] = {
    {"tokenlane", start_tokenlane, call_tokenlane, stop_tokenlane},
    {"mutex+fprintf+fflush", start_fprintf, call_flushed, stop_fprintf},
    {"mutex+fprintf", start_fprintf, call_buffered, stop_fprintf},
#ifdef HAVE_SPDLOG
    {"spdlog async, block", start_blocking, bench_spdlog_call, stop_spdlog},
    {"spdlog async, overrun", start_overrun, bench_spdlog_call, stop_spdlog},
#endif
};
enum { N_CONTENDERS = sizeof contenders / sizeof *contenders };

/* --- a run ------------------------------------------------------------------------------------------------ */

struct run {
  const struct contender *contender;
  unsigned n_threads, n_calls; /* calls of each thread, at most */
  int64_t flood_ns;            /* how long to call without a pause */
  int64_t burst_ns;            /* from one burst of a thread to its next; 0: flood */
  pthread_barrier_t begin;
  uint32_t *took_ns; /* (n_threads * n_calls), paced runs */
  int64_t began_ns[MAX_THREADS], ended_ns[MAX_THREADS];
  uint64_t n_made[MAX_THREADS]; /* calls */
};

struct figures {
  double ops_per_s, mean_ns, p50_ns, p99_ns, written_per_s;
  uint64_t dropped;
};

static double clock_ns; /* of one reading */

struct caller {
  struct run *run;
  unsigned index;
  pthread_t thread;
};

static void wait_until(int64_t due_ns) {
  int64_t left_ns = due_ns - tl_now_ns();
  if (left_ns > 0) nanosleep(&(struct timespec){left_ns / TL_SEC(1), left_ns % TL_SEC(1)}, NULL);
}

static void *call_many(void *argument) {
  struct caller *me = argument;
  struct run *run = me->run;
  static const char path[] = "/v1/chat/completions", id[] = "38698932321c43a0c18d9a03000b4b10";
  uint32_t *took = run->took_ns ? run->took_ns + (size_t)me->index * run->n_calls : NULL;
  run->contender->call(path, 200, 0, 0.5, id); /* a thread's first call allocates */
  pthread_barrier_wait(&run->begin);
  int64_t began_ns = run->began_ns[me->index] = tl_now_ns();
  unsigned i;
  for (i = 0; i < run->n_calls; i++) {
    if (!run->burst_ns) {
      run->contender->call(path, 200, i, i * 0.25, id);
      if (i % 64 == 63 && tl_now_ns() - began_ns > run->flood_ns) break;
      continue;
    }
    if (i % BURST == 0) wait_until(began_ns + run->burst_ns * (i / BURST));
    int64_t at_ns = tl_now_ns();
    run->contender->call(path, 200, i, i * 0.25, id);
    took[i] = (uint32_t)(tl_now_ns() - at_ns);
  }
  run->n_made[me->index] = i + 1;
  run->ended_ns[me->index] = tl_now_ns();
  return NULL;
}

static int compare(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

static void sum_up(struct run *run, struct figures *f) {
  uint64_t n = 0;
  int64_t began_ns = run->began_ns[0], ended_ns = 0;
  for (unsigned i = 0; i < run->n_threads; i++) {
    if (run->began_ns[i] < began_ns) began_ns = run->began_ns[i];
    if (run->ended_ns[i] > ended_ns) ended_ns = run->ended_ns[i];
    n += run->n_made[i];
  }
  uint64_t written = n > f->dropped ? n - f->dropped : 0;
  f->ops_per_s = (double)n * 1e9 / (double)(ended_ns - began_ns);
  f->written_per_s = (double)written * 1e9 / (double)(tl_now_ns() - began_ns); /* until the file has them */
  if (!run->burst_ns) return;
  n = (uint64_t)run->n_threads * run->n_calls;
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += run->took_ns[i];
  qsort(run->took_ns, n, sizeof *run->took_ns, compare);
  f->mean_ns = sum / (double)n - clock_ns;
  f->p50_ns = run->took_ns[n / 2] - clock_ns;
  f->p99_ns = run->took_ns[n * 99 / 100] - clock_ns;
}

/* rate 0: a flood of n_calls milliseconds */
static struct figures measure(const struct contender *contender, unsigned n_threads, unsigned n_calls, int64_t rate,
                              const char *path) {
  static struct run run;
  struct caller callers[MAX_THREADS];
  struct figures f = {0};
  run = (struct run){.contender = contender, .n_threads = n_threads, .n_calls = n_calls / n_threads};
  if (rate) {
    run.burst_ns = TL_SEC(1) * BURST * n_threads / rate;
    run.took_ns = calloc((size_t)n_threads * run.n_calls, sizeof *run.took_ns);
  } else {
    run.n_calls = FLOOD_CALLS;
    run.flood_ns = TL_MS(n_calls);
  }
  pthread_barrier_init(&run.begin, NULL, n_threads);
  contender->start(path);
  for (unsigned i = 0; i < n_threads; i++) {
    callers[i] = (struct caller){.run = &run, .index = i};
    pthread_create(&callers[i].thread, NULL, call_many, &callers[i]);
  }
  for (unsigned i = 0; i < n_threads; i++) pthread_join(callers[i].thread, NULL);
  f.dropped = contender->stop();
  sum_up(&run, &f);
  pthread_barrier_destroy(&run.begin);
  free(run.took_ns);
  unlink(path);
  return f;
}

/* --- the table ----------------------------------------------------------------------------------------------- */

static int compare_figures(const void *a, const void *b) {
  double x = ((const struct figures *)a)->mean_ns, y = ((const struct figures *)b)->mean_ns;
  double v = ((const struct figures *)a)->ops_per_s, w = ((const struct figures *)b)->ops_per_s;
  return x != y ? (x > y) - (x < y) : (v < w) - (v > w);
}

/* The contenders take turns, so that the machine's moods hit all; the median run counts. */
static void compare_all(unsigned n_threads, unsigned n_calls, int64_t rate, unsigned n_rounds, const char *path) {
  struct figures all[N_CONTENDERS][15], ours = {0};
  for (unsigned round = 0; round < n_rounds; round++)
    for (unsigned i = 0; i < N_CONTENDERS; i++) all[i][round] = measure(&contenders[i], n_threads, n_calls, rate, path);
  for (unsigned i = 0; i < N_CONTENDERS; i++) {
    qsort(all[i], n_rounds, sizeof all[i][0], compare_figures);
    struct figures f = all[i][n_rounds / 2];
    if (i == 0) ours = f;
    if (rate)
      printf("paced %4u  %-22s %9.0f %9.0f %9.0f %9.1fx %9.1fx %10llu\n", n_threads, contenders[i].name, f.mean_ns, f.p50_ns,
             f.p99_ns, f.mean_ns / ours.mean_ns, f.p99_ns / ours.p99_ns, (unsigned long long)f.dropped);
    else
      printf("flood %4u  %-22s %12.0f %14.0f %9.1fx %10llu\n", n_threads, contenders[i].name, f.ops_per_s, f.written_per_s,
             ours.ops_per_s / f.ops_per_s, (unsigned long long)f.dropped);
  }
  fflush(stdout);
}

/* The best of many short tries: what it costs when nobody takes the core away. */
static double clock_cost_ns(void) {
  double best = 1e9;
  for (int k = 0; k < 1000; k++) {
    int64_t began_ns = tl_now_ns(), last = 0;
    for (int i = 0; i < 1000; i++) last = tl_now_ns();
    if ((double)(last - began_ns) / 1e3 < best) best = (double)(last - began_ns) / 1e3;
  }
  return best;
}

int main(int argc, char **argv) {
  const char *path = "/dev/shm/tokenlane-bench-log";
  unsigned n_calls = 50000, flood_ms = 400, n_rounds = 3;
  int64_t rate = 50000;
  for (int c; (c = getopt(argc, argv, "f:n:r:k:m:")) != -1;) {
    if (c == 'f') path = optarg;
    if (c == 'n') n_calls = (unsigned)atoi(optarg);
    if (c == 'm') flood_ms = (unsigned)atoi(optarg);
    if (c == 'r') rate = atoll(optarg);
    if (c == 'k') n_rounds = (unsigned)atoi(optarg) % 16;
    if (c == '?') {
      fprintf(stderr, "usage: bench_log [-f file] [-n calls] [-r calls a second] [-m ms of a flood] [-k rounds, odd]\n");
      return 2;
    }
  }
  clock_ns = clock_cost_ns();
  double load[1] = {0};
  getloadavg(load, 1);
  printf("to %s, median of %u runs, %ld processors, load average %.1f; reading the clock: %.0f ns\n", path, n_rounds,
         sysconf(_SC_NPROCESSORS_ONLN), load[0], clock_ns);
  printf("\n%u calls, %lld a second in all\nload threads %-22s %9s %9s %9s %10s %10s %10s\n", n_calls, (long long)rate, "log", "mean ns",
         "p50 ns", "p99 ns", "mean/ours", "p99/ours", "dropped");
  for (unsigned n = 1; n <= MAX_THREADS; n *= 2) compare_all(n, n_calls, rate, n_rounds, path);
  printf("\n%u ms as fast as they can\nload threads %-22s %12s %14s %10s %10s\n", flood_ms, "log", "calls/s", "lines/s in file", "ours/it", "dropped");
  for (unsigned n = 1; n <= MAX_THREADS; n *= 2) compare_all(n, flood_ms, 0, n_rounds, path);
  return 0;
}
