/* SPDX-License-Identifier: MIT */
#ifndef DAEMON_PRIVATE_H
#define DAEMON_PRIVATE_H

#include <stdbool.h>
#include <stdint.h>

#include "tokenlane/api.h"
#include "tokenlane/config.h"
#include "tokenlane/log.h"

/* All that serves, made by boot.c in this order and freed in the opposite one. */
struct daemon {
  const struct tl_config *config;
  struct tl_metrics *metrics;
  double start_s; /* of the process, since 1970 */
  struct tl_trace *trace; /* NULL: neither a collector nor an operator is configured */
  int *inherited_fds; /* owned */
  struct tl_http *http;
  struct tl_api *api;
  struct served *models;            /* (n_models) */
  struct tl_api_model *api_models;  /* (n_models) what api and admin know of them, as the next */
  struct tl_serving *servings;
  unsigned n_models;
  struct gpu_watch *gpus; /* NULL: none are watched */
  struct tl_admin *admin; /* NULL: none is configured */
};

/* boot.c: from configuration to "ready". On error what was made is left to daemon_done. */
int daemon_boot(struct daemon *d, const struct tl_config *config, struct tl_error *err);
/* Ends all work and threads and frees everything. */
void daemon_done(struct daemon *d);

/* devices.c: "cuda" and "auto" among the devices of all models become what this machine has. When "auto" finds no
 * GPU, err says why and TL_OK is returned. */
int devices_expand(struct tl_config *config, struct tl_error *err);

/* simulate.c: the devices that the configuration names, and what it says of simulated
 * ones, which config does not know. All models. */
int simulate_check(const struct tl_config *config, struct tl_error *err);
/* Replicas that a model's checked configuration has: each on engine.tensor_parallel devices. */
unsigned daemon_replicas(const struct tl_config *config);
/* Nothing computes: the model's weights are not needed. */
bool simulate_only(const struct tl_config *config);
/* Options of all replicas for tl_engine_new, to be kept until the engine is freed. NULL: err says why. */
struct simulation *simulate_new(const struct tl_config *config, const struct tl_model *model,
                                const struct tl_tokenizer *tokenizer, struct tl_error *err);
const struct tl_sim_options *simulate_options(const struct simulation *simulation);
void simulate_free(struct simulation *simulation);

/* adapters.c: names and folders of the model's adapters, in the order of the configuration; *ret is the caller's to free, in one piece. */
int adapters_list(const struct tl_config *config, struct tl_adapter_source **ret, struct tl_error *err);
/* Says in the metrics which adapters are served, in the scope of their model. */
void adapters_metrics(struct tl_metrics *metrics, const struct tl_adapter_source *adapters, unsigned n);

/* draft.c: the model of model.draft, or NULL; its tokens are this tokenizer's. What was read is the caller's, after an error too. */
int draft_read(const struct tl_config *config, const struct tl_tokenizer *tokenizer, struct tl_model **ret, struct tl_error *err);

/* progress.c: a bar on a terminal, lines elsewhere. Called by loader threads. */
struct progress *progress_new(unsigned n_devices);
void progress_free(struct progress *progress);
void progress_step(struct progress *progress, unsigned device, uint64_t done, uint64_t total);

/* process_metrics.c: once, before a scrape; *start_s is set, and read until the metrics are freed. */
void process_metrics_add(struct tl_metrics *metrics, double *start_s);
/* Entries of a folder whose names begin without a dot; NaN: it cannot be read. */
double process_count_entries(const char *folder);

/* main.c: what stands behind the command. */
/* tokenize_command.c, render_command.c: the arguments behind the command; the process's exit status. */
int tokenize_command(int argc, char **argv);
int render_command(int argc, char **argv);

struct command_line {
  int argc;
  char **argv;
  bool check_models; /* nothing is going to load them */
};
/* The file that it names, then its keys, into a configuration that holds the defaults; checked. */
int daemon_read_arguments(struct tl_config *config, const struct command_line *line, struct tl_error *err);

/* reload.c: strings are the configuration's. */
struct tl_log_options daemon_log_options(const struct tl_config *config);
/* tracing.c: made before all that is traced; strings are the configuration's. */
struct tl_trace_options daemon_trace_options(const struct tl_config *config);
int daemon_make_trace(struct daemon *d, struct tl_error *err);
/* Reads file and command line again; applies log.* and the API's keys, names what else has changed. */
void daemon_reload(struct daemon *d, const struct command_line *line);

/* api_key_file.c: whether http.api_keys can be such. */
int daemon_check_keys(const struct tl_config *config, struct tl_error *err);
/* From now on clients need a key of http.api_keys, http.api_key_file or TOKENLANE_API_KEY. On error
 * all stays as it was. */
int daemon_set_keys(struct tl_api *api, const struct tl_config *config, struct tl_error *err);

/* signals.c: SIGTERM and SIGINT. Until signals_ready they end the process at
 * once: nothing is served yet. SIGHUP is remembered from signals_init on. */
int signals_init(struct tl_error *err);
/* Whether SIGHUP came since the last call. */
bool signals_take_reload(void);
void signals_ready(void);
/* How many stop signals came so far; waits up to timeout_ms (-1: for ever) for one more than `seen`,
 * or for SIGHUP. */
unsigned signals_wait(unsigned seen, int timeout_ms);

/* notify.c: systemd. */
/* Sockets that systemd passed: *ret is owned by the caller, NULL when there are none. */
int notify_sockets(int **ret, unsigned *ret_n, struct tl_error *err);
void notify_status(const char *state);

#endif
