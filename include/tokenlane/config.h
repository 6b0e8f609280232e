/* SPDX-License-Identifier: MIT */
/* The configuration: one table of keys (src/config/keys.c) drives the JSON
 * file, the command line, the checks, the defaults and the documentation. Made
 * at boot, then constant. */
#ifndef TOKENLANE_CONFIG_H
#define TOKENLANE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "tokenlane/base/buffer.h"
#include "tokenlane/base/error.h"

struct tl_strings {
  char **items; /* owned */
  unsigned n;
};

struct tl_config {
  char *model_path, *model_draft, *model_name, *model_quantize, *model_tool_parser, *model_reasoning_parser; /* name "": last part of the path */
  struct tl_strings model_aliases, model_adapters; /* adapters: name=folder */
  struct tl_strings devices;
  char *isolation;
  char *device_plugin_dir;
  int64_t device_memory_percent;
  bool device_cudnn;
  int64_t cpu_threads;
  bool cpu_pin;
  int64_t sim_base_us, sim_per_token_ns, sim_per_block_ns, sim_kv_blocks, sim_eos_every;
  struct tl_strings sim_override, sim_faults; /* sim.h reads them */
  char *http_host, *http_unix, *admin_unix;
  struct tl_strings http_api_keys, http_cors_origins;
  char *http_api_key_file;
  int64_t http_port, http_threads;
  int64_t http_max_body_bytes, http_max_header_bytes, http_max_headers, http_max_url_bytes;
  int64_t http_max_write_queue_bytes, http_max_connections;
  int64_t http_header_timeout_ms, http_body_timeout_ms, http_idle_timeout_ms, http_write_timeout_ms;
  int64_t text_threads;
  bool text_request_templates;
  int64_t limits_max_choices, limits_max_prompts, limits_max_inputs, limits_max_total_tokens, limits_max_logprobs, limits_max_logit_bias;
  int64_t limits_max_stop_bytes, limits_template_fuel, limits_max_queue, limits_max_waiting_tokens;
  int64_t limits_max_total_waiting_tokens;
  int64_t limits_default_timeout_ms, limits_max_timeout_ms;
  int64_t engine_tensor_parallel;
  int64_t engine_max_batch_size, engine_max_batch_tokens, engine_max_context, engine_kv_memory_bytes;
  int64_t engine_max_prefill_tokens, engine_priority_age_ms, engine_draft_tokens;
  bool engine_prefix_cache;
  char *engine_kv_dtype;
  char *route_policy;
  int64_t route_prefix_blocks, route_prefix_load_percent;
  int64_t health_late_ms, health_late_factor, health_backoff_ms, health_max_backoff_ms, health_max_faults, health_fault_window_ms;
  char *log_level, *log_sink, *log_format;
  struct tl_strings log_modules;
  bool log_access;
  int64_t log_max_per_second;
  char *trace_endpoint, *trace_service_name;
  int64_t trace_sample_per_mille;
  int64_t drain_timeout_ms;
  /* (n_models) owned. Each is a configuration of its own, as if that model were the only one: what its
   * entry of `models` does not say is the file's or the command line's. From tl_config_resolve on there
   * is at least one, and its model_name is not empty. */
  struct tl_config *models;
  unsigned n_models;
  bool lists_models; /* `models` was given, not model.* */
  uint64_t given[2]; /* a bit for each key of the table that was set */
};

/* All defaults. 0 or TL_ENOMEM. */
int tl_config_init(struct tl_config *config);
void tl_config_done(struct tl_config *config);
/* Reads a JSON file over what *config holds. A relative model.path in it is
 * relative to the file's folder. Errors: "FILE:LINE: key: expected ..., got ...". */
int tl_config_load(struct tl_config *config, const char *path, struct tl_error *err);
/* Sets one key from text, as the command line has it: `--http.port 8080`.
 * Lists are comma-separated. */
int tl_config_set(struct tl_config *config, const char *key, const char *value, struct tl_error *err);
/* Completes config->models, once file and command line are read: one that is made of
 * model.* if `models` was not given. Both are an error. http.cors_origins get the form that browsers send. */
int tl_config_resolve(struct tl_config *config, struct tl_error *err);
/* What a server needs beyond single keys: models, a listener. Keys of an entry are
 * called models[1].path, models[1].engine.max_context. */
int tl_config_check(const struct tl_config *config, struct tl_error *err);
/* Where the folder begins in an item of model_adapters, behind its '='. */
const char *tl_config_adapter_folder(const char *item);
/* Puts "models[i]." before the key that err names, in the field and in the message, unless
 * the configuration has one model by model.*. Returns err->code. */
int tl_config_name_model(const struct tl_config *config, unsigned i, struct tl_error *err);
/* Calls `each` with every key whose value differs, in the table's order; those of resolved
 * models as models[1].KEY, and `models` when they are not the same number. */
void tl_config_compare(const struct tl_config *a, const struct tl_config *b,
                       void (*each)(const char *key, void *context), void *context);
/* Puts "FILE:LINE: " before a message of tl_config_check if the file at `path` has
 * the key that it names. */
void tl_config_locate(const char *path, struct tl_error *err);
/* The keys as a Markdown table: config/README.md holds it. */
void tl_config_describe(struct tl_buffer *out);

#endif
