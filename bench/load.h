/* SPDX-License-Identifier: MIT */
/* The load generator's own: options, connections, samples. One thread, one loop.
 *
 *   load.c          when requests start and how the run ends
 *   load_options.c  the command line
 *   load_request.c  what a request says
 *   load_client.c   one connection: bytes out, SSE events in, times noted
 *   load_report.c   samples to percentiles, table and JSON */
#ifndef LOAD_H
#define LOAD_H

#include <llhttp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "tokenlane/base/buffer.h"

/* --- options ------------------------------------------------------------------------------ */

struct load_options {
  const char *url, *unix_path, *endpoint, *model, *prompt;
  int64_t streams, requests, warmup, prompt_tokens, vocab, max_tokens, seed;
  double rate, duration_s, timeout_s, temperature; /* rate > 0: open loop; 0 durations: no limit */
  bool ignore_eos, json, whole; /* whole: answers are not streamed */
  /* derived */
  bool chat;
  char host[256]; /* of the Host header */
  struct sockaddr_storage address;
};

/* Exits with 2 on a wrong command line. */
void load_parse_options(int argc, char **argv, struct load_options *ret);

/* --- samples ------------------------------------------------------------------------------- */

struct load_samples {
  double *values; /* milliseconds */
  size_t n, capacity;
};

void load_samples_add(struct load_samples *samples, double value);
void load_samples_take(struct load_samples *samples, struct load_samples *from); /* empties from */

/* Failures by cause: an HTTP status, or what went wrong below or within it. */
struct load_failure {
  char cause[32];
  uint64_t n;
};

#define LOAD_MAX_FAILURES 32

struct load_stats {
  struct load_samples ttft, itl, tpot, e2e;
  struct load_samples refused; /* whole requests that were answered with 429; they count as failed too */
  uint64_t n_completed, n_failed, n_chunks, prompt_tokens, output_tokens;
  struct load_failure failures[LOAD_MAX_FAILURES];
  unsigned n_failures;
  int64_t began_ns, ended_ns; /* first measured request's start, last one's end */
};

void load_stats_fail(struct load_stats *stats, const char *cause);
void load_report(const struct load_options *options, const struct load_stats *stats);

/* --- a connection --------------------------------------------------------------------------- */

enum load_conn_state { LOAD_CLOSED, LOAD_CONNECTING, LOAD_IDLE, LOAD_BUSY, LOAD_CLOSING };

struct load_conn {
  struct load_run *run;
  enum load_conn_state state;
  union {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
  };
  uv_connect_t connect;
  uv_write_t write;
  llhttp_t parser;
  struct tl_buffer out;  /* the request's bytes */
  struct tl_buffer body; /* what is left of an event stream's line, or the whole of another answer */
  bool completed;        /* the answer's last byte was parsed */
  bool keep;             /* the connection may serve another request */
  bool writing;          /* `write` and `out` are in use */
  bool reports;          /* CLOSING: the request's end is reported once closed */
  bool reused;           /* BUSY: the request came over a connection that had rested, and no byte came back */
  bool again;            /* CLOSING: the request is sent once more */
  /* the request that runs */
  bool measured;
  int64_t began_ns, first_ns, last_ns; /* first and last text */
  struct load_samples gaps;
  uint64_t n_chunks; /* with text */
  uint64_t prompt_tokens, output_tokens;
  bool has_usage, has_done; /* the usage chunk and [DONE] came */
  char failure[32];         /* "" while all is well */
  char read_bytes[16384];
};

/* Connects if need be, sends conn->out, which the caller has filled, and calls
 * load_on_done when the answer is complete or has failed. state: CLOSED or IDLE. */
void load_conn_start(struct load_conn *conn, int64_t began_ns);
/* Ends the running request with this cause. */
void load_conn_fail(struct load_conn *conn, const char *cause);
void load_conn_close(struct load_conn *conn);

/* --- a run -------------------------------------------------------------------------------------- */

/* LOAD_ASK: which models are there? LOAD_WARM: requests that do not count. */
enum load_phase { LOAD_ASK, LOAD_WARM, LOAD_MEASURE, LOAD_ENDED };

struct load_run {
  struct load_options o;
  uv_loop_t loop;
  enum load_phase phase;
  char *model; /* owned */
  struct load_stats stats;
  struct load_conn **conns; /* grows in an open loop */
  size_t n_conns, cap_conns;
  uint64_t n_issued, n_running; /* of this phase */
  uint64_t serial;              /* of all requests: key of the random prompt */
  bool gave_up;                 /* nothing more is issued: the server is not there */
  bool warm_failed;
  uv_timer_t watch; /* looks for requests that take too long */
  uv_poll_t arrival;
  int arrival_fd; /* timerfd: libuv's timers know only milliseconds */
  int64_t next_arrival_ns;
};

/* Called by the connection, whose state is CLOSED or IDLE again. */
void load_on_done(struct load_conn *conn);

/* load_request.c: the bytes of a request. serial chooses the random prompt. */
void load_write_request(const struct load_options *options, const char *model, uint64_t serial,
                        struct tl_buffer *out);
void load_write_ask(const struct load_options *options, struct tl_buffer *out);

#endif
