/* SPDX-License-Identifier: MIT */
#include <stddef.h>
#include <string.h>

#include "config/config_private.h"

#define AT(member) offsetof(struct tl_config, member)
#define GIB ((int64_t)1 << 30)

const struct config_key config_keys[] = {
    {"model.path", KEY_STRING, AT(model_path), 0, 0, "", NULL,
     "folder of the model, as downloaded from Hugging Face, or a .gguf file (of several: the first); relative to this file"},
    {"model.name", KEY_STRING, AT(model_name), 0, 0, "", NULL, "id that clients use, up to 200 bytes; empty: the last part of the path"},
    {"model.aliases", KEY_STRINGS, AT(model_aliases), 0, 0, "", NULL, "further ids that mean the same model, of up to 200 bytes"},
    {"model.adapters", KEY_STRINGS, AT(model_adapters), 0, 0, "", NULL,
     "LoRA adapters of the model, each as name=folder: a folder of PEFT (adapter_config.json, adapter_model.safetensors), relative to this file; the name is an id for the model with that adapter, of up to 200 bytes"},
    {"model.draft", KEY_STRING, AT(model_draft), 0, 0, "", NULL,
     "a small model of the same vocabulary, as model.path: it guesses tokens, which one step of the model checks (engine.draft_tokens), so that answers are the same and come faster; its weights are rounded by model.quantize too; empty: none"},
    {"model.quantize", KEY_CHOICE, AT(model_quantize), 0, 0, "none", "none|q8_0|q4_0|q4_k",
     "round the weights of products that are floats to blocks of integers while they load: less memory, faster answers"},
    {"model.tool_parser", KEY_CHOICE, AT(model_tool_parser), 0, 0, "auto", "auto|none|hermes|llama3_json|mistral|granite|nemotron|phi4_mini_json|harmony|qwen3_coder|seed_oss|glm45|glm4|pythonic|deepseek_v3|gemma4",
     "how the model writes calls of tools, which are taken out of its text; auto: as its chat template does"},
    {"model.reasoning_parser", KEY_CHOICE, AT(model_reasoning_parser), 0, 0, "auto", "auto|none|think|seed_oss|mistral|granite|harmony|gemma4",
     "how the model writes what it thinks before it answers, which is taken out of its text; auto: as its chat template has it"},
    {"models", KEY_MODELS, AT(models), 0, 0, "", NULL,
     "several models, instead of model.*: a list of objects with path, name, aliases, adapters, draft, quantize, tool_parser, reasoning_parser and any of devices, device.memory_percent, isolation, cpu, sim, engine, route, health, limits.max_queue, limits.max_waiting_tokens, limits.max_total_waiting_tokens; what an entry does not say is as outside of the list. In the file only"},
    {"devices", KEY_STRINGS, AT(devices), 0, 0, "cpu:0", NULL,
     "one replica of the model on each (see engine.tensor_parallel): cpu:0, ...; cuda:0, ...; cuda: every GPU; auto: every GPU, cpu:0 when there is none; sim:0, ... simulate GPUs"},
    {"device.plugin_dir", KEY_STRING, AT(device_plugin_dir), 0, 0, "", NULL,
     "where tokenlane-cuda.so lies; empty: in ../lib/tokenlane or ../lib beside the daemon's folder"},
    {"device.memory_percent", KEY_INTEGER, AT(device_memory_percent), 1, 100, "90", NULL,
     "of a GPU's memory, for weights, work and KV cache together"},
    {"device.cudnn", KEY_BOOL, AT(device_cudnn), 0, 0, "false", NULL,
     "whether a GPU may compute prompts' attention by cuDNN, where that library is, right and faster; true has not been run on a GPU yet"},
    {"isolation", KEY_CHOICE, AT(isolation), 0, 0, "auto", "auto|thread|process",
     "where a replica's devices run: in the daemon, or in a process of their own whose death or hang costs their steps alone; auto: a process for cuda, else the daemon"},
    {"cpu.threads", KEY_INTEGER, AT(cpu_threads), 0, 1024, "0", NULL,
     "compute threads of a CPU replica; 0: the processors shared equally"},
    {"cpu.pin", KEY_BOOL, AT(cpu_pin), 0, 0, "false", NULL, "bind each compute thread to a processor of its own"},
    {"sim.base_us", KEY_INTEGER, AT(sim_base_us), 0, 60000000, "5000", NULL, "simulated devices: time of a step"},
    {"sim.per_token_ns", KEY_INTEGER, AT(sim_per_token_ns), 0, 1000000000, "20000", NULL, "and of each of its tokens"},
    {"sim.per_block_ns", KEY_INTEGER, AT(sim_per_block_ns), 0, 1000000000, "100", NULL,
     "and of each KV block that its sequences hold"},
    {"sim.kv_blocks", KEY_INTEGER, AT(sim_kv_blocks), 0, 1 << 26, "0", NULL,
     "KV blocks of 16 tokens of a simulated device; 0: as many as the batch can use, at most 65536 or one context"},
    {"sim.eos_every", KEY_INTEGER, AT(sim_eos_every), 0, 1 << 30, "0", NULL,
     "one token in so many ends the answer; 0: answers last until max_tokens"},
    {"sim.override", KEY_STRINGS, AT(sim_override), 0, 0, "", NULL,
     "other figures for one device: 3:base_us=9000:kv_blocks=100"},
    {"sim.faults", KEY_STRINGS, AT(sim_faults), 0, 0, "", NULL, "script of faults: 1@500:error, 2@300:slow*8; see config/README.md"},
    {"http.host", KEY_STRING, AT(http_host), 0, 0, "127.0.0.1", NULL, "address to listen on; empty: no TCP"},
    {"http.port", KEY_INTEGER, AT(http_port), 0, 65535, "8080", NULL, "0: any free port, printed at start"},
    {"http.unix", KEY_STRING, AT(http_unix), 0, 0, "", NULL, "path of a unix socket to listen on; empty: none"},
    {"http.threads", KEY_INTEGER, AT(http_threads), 1, 64, "1", NULL, "event loops"},
    {"http.api_keys", KEY_STRINGS, AT(http_api_keys), 0, 0, "", NULL,
     "clients must show one of them (Authorization: Bearer KEY, or X-Api-Key: KEY), but for /health, /ready, /version and /metrics; SIGHUP reads it again. As an option all users of the machine could read it: better http.api_key_file"},
    {"http.api_key_file", KEY_STRING, AT(http_api_key_file), 0, 0, "", NULL,
     "file of such keys, one a line, lines with # are comments; relative to this file; SIGHUP reads it again"},
    {"http.cors_origins", KEY_STRINGS, AT(http_cors_origins), 0, 0, "", NULL,
     "pages of these origins (https://chat.example) may read answers in a browser; *: all pages; empty: none"},
    {"http.max_body_bytes", KEY_INTEGER, AT(http_max_body_bytes), 1024, GIB, "8388608", NULL, "larger bodies: 413"},
    {"http.max_header_bytes", KEY_INTEGER, AT(http_max_header_bytes), 256, 1 << 20, "32768", NULL,
     "all header lines together; more: 431"},
    {"http.max_headers", KEY_INTEGER, AT(http_max_headers), 4, 10000, "100", NULL, "more header lines: 431"},
    {"http.max_url_bytes", KEY_INTEGER, AT(http_max_url_bytes), 64, 1 << 20, "8192", NULL, "longer targets: 414"},
    {"http.max_write_queue_bytes", KEY_INTEGER, AT(http_max_write_queue_bytes), 4096, GIB, "1048576", NULL,
     "bytes waiting for a slow client before its stream pauses"},
    {"http.max_connections", KEY_INTEGER, AT(http_max_connections), 1, 1000000, "4096", NULL, "per loop"},
    {"http.header_timeout_ms", KEY_INTEGER, AT(http_header_timeout_ms), 10, 3600000, "10000", NULL,
     "from a request's first byte to the end of its header"},
    {"http.body_timeout_ms", KEY_INTEGER, AT(http_body_timeout_ms), 10, 3600000, "60000", NULL,
     "from the header's end to the body's"},
    {"http.idle_timeout_ms", KEY_INTEGER, AT(http_idle_timeout_ms), 10, 86400000, "75000", NULL,
     "connection without a request"},
    {"http.write_timeout_ms", KEY_INTEGER, AT(http_write_timeout_ms), 10, 86400000, "60000", NULL,
     "a client that takes nothing for this long is cut"},
    {"admin.unix", KEY_STRING, AT(admin_unix), 0, 0, "", NULL,
     "path of a unix socket for operators (see Operating); empty: none"},
    {"text.threads", KEY_INTEGER, AT(text_threads), 0, 64, "1", NULL,
     "threads that read and tokenize requests above 8 KiB, and compile grammars; 0: the event loops do"},
    {"text.request_templates", KEY_BOOL, AT(text_request_templates), 0, 0, "false", NULL,
     "requests may bring a chat template of their own (chat_template): only for clients that are trusted"},
    {"limits.max_choices", KEY_INTEGER, AT(limits_max_choices), 1, 1024, "16", NULL, "largest n"},
    {"limits.max_prompts", KEY_INTEGER, AT(limits_max_prompts), 1, 4096, "64", NULL, "prompts in one request"},
    {"limits.max_inputs", KEY_INTEGER, AT(limits_max_inputs), 1, 65536, "2048", NULL, "texts or pairs in one request for embeddings, reranking or scores"},
    {"limits.max_total_tokens", KEY_INTEGER, AT(limits_max_total_tokens), 16, GIB, "262144", NULL,
     "prompts x n x (prompt + max_tokens) of one request"},
    {"limits.max_logprobs", KEY_INTEGER, AT(limits_max_logprobs), 1, GIB, "500000", NULL,
     "log-probabilities of one request: tokens x n x (1 + alternatives), five times in a stream of /v1/responses"},
    {"limits.max_logit_bias", KEY_INTEGER, AT(limits_max_logit_bias), 0, 65536, "1024", NULL, "entries of logit_bias"},
    {"limits.max_stop_bytes", KEY_INTEGER, AT(limits_max_stop_bytes), 1, 65536, "1024", NULL, "bytes of a stop string; all of a request: four times that"},
    {"limits.template_fuel", KEY_INTEGER, AT(limits_template_fuel), 1000, GIB, "20000000", NULL,
     "steps that rendering a chat template may take"},
    {"limits.max_queue", KEY_INTEGER, AT(limits_max_queue), 1, 1 << 20, "1024", NULL,
     "sequences per replica, waiting and running; more: 429"},
    {"limits.max_waiting_tokens", KEY_INTEGER, AT(limits_max_waiting_tokens), 0, GIB, "0", NULL,
     "prompt and output tokens reserved per replica; more: 429; 0: 8 times what the KV cache holds"},
    {"limits.max_total_waiting_tokens", KEY_INTEGER, AT(limits_max_total_waiting_tokens), 0, GIB * 64, "0", NULL,
     "the same over all replicas; 0: no limit of its own"},
    {"limits.default_timeout_ms", KEY_INTEGER, AT(limits_default_timeout_ms), 0, 86400000, "0", NULL,
     "timeout_ms of requests that do not say; 0: limits.max_timeout_ms"},
    {"limits.max_timeout_ms", KEY_INTEGER, AT(limits_max_timeout_ms), 0, 86400000, "0", NULL,
     "largest timeout_ms; 0: no limit, and none for requests that do not say"},
    {"engine.tensor_parallel", KEY_INTEGER, AT(engine_tensor_parallel), 1, 64, "1", NULL,
     "devices that share one copy of the model: each run of so many of `devices` is one replica"},
    {"engine.max_batch_size", KEY_INTEGER, AT(engine_max_batch_size), 1, 4096, "64", NULL, "sequences of a step"},
    {"engine.max_batch_tokens", KEY_INTEGER, AT(engine_max_batch_tokens), 16, 65536, "512", NULL, "tokens of a step"},
    {"engine.max_context", KEY_INTEGER, AT(engine_max_context), 0, 1 << 24, "0", NULL,
     "tokens of a sequence; 0: what the model was made for, but if there is not memory for that, what there is, 4096 at least"},
    {"engine.kv_memory_bytes", KEY_INTEGER, AT(engine_kv_memory_bytes), 0, GIB * 1024, "0", NULL,
     "memory of the KV cache per replica, that of model.draft included; 0: as much as the batch can use, at most a quarter of what is free; on a GPU all that device.memory_percent leaves"},
    {"engine.kv_dtype", KEY_CHOICE, AT(engine_kv_dtype), 0, 0, "auto", "auto|fp8_e4m3",
     "what keys and values are kept in; auto: the model's own type; fp8_e4m3: a byte each, so twice the tokens in the same memory, and faster answers at long contexts that differ a little (bench/README.md); on a GPU not for models with latent attention, and not run on one yet"},
    {"engine.prefix_cache", KEY_BOOL, AT(engine_prefix_cache), 0, 0, "true", NULL,
     "keep computed KV blocks and share them between sequences that begin alike; false: only the n choices of a request share"},
    {"engine.max_prefill_tokens", KEY_INTEGER, AT(engine_max_prefill_tokens), 0, 65536, "0", NULL,
     "prompt tokens of a step that also generates: bounds what a long prompt adds to the time between tokens; 0: half of engine.max_batch_tokens"},
    {"engine.priority_age_ms", KEY_INTEGER, AT(engine_priority_age_ms), 0, 3600000, "10000", NULL,
     "head start that each level of priority gives: after this much waiting a request stands before new ones a level above; 0: no priorities"},
    {"engine.draft_tokens", KEY_INTEGER, AT(engine_draft_tokens), -1, 15, "-1", NULL,
     "guess up to so many tokens ahead where a sequence repeats itself, and compute them in one step: answers are the same, quoted or edited text comes faster; 0: none; -1: 4 where all devices of the model are processors, else none; with model.draft 8, on all devices"},
    {"route.policy", KEY_CHOICE, AT(route_policy), 0, 0, "least_load", "least_load|prefix|round_robin",
     "how a replica is chosen: by work, by the prompt's beginning unless that replica has too much to do, in turn"},
    {"route.prefix_blocks", KEY_INTEGER, AT(route_prefix_blocks), 1, 4096, "8", NULL,
     "prefix: so many leading blocks of 16 tokens of the prompt choose the replica"},
    {"route.prefix_load_percent", KEY_INTEGER, AT(route_prefix_load_percent), 100, 10000, "150", NULL,
     "prefix: above so much of the mean load, and one full step, another replica is taken"},
    {"health.late_ms", KEY_INTEGER, AT(health_late_ms), 10, 3600000, "2000", NULL,
     "a step that lasts longer, and longer than health.late_factor times what one of its size takes, quarantines its device"},
    {"health.late_factor", KEY_INTEGER, AT(health_late_factor), 2, 10000, "10", NULL, "see health.late_ms"},
    {"health.backoff_ms", KEY_INTEGER, AT(health_backoff_ms), 1, 3600000, "1000", NULL,
     "from a fault to the reset; doubled by each that does not help"},
    {"health.max_backoff_ms", KEY_INTEGER, AT(health_max_backoff_ms), 1, 3600000, "60000", NULL, "up to this"},
    {"health.max_faults", KEY_INTEGER, AT(health_max_faults), 0, 16, "3", NULL,
     "so many faults within health.fault_window_ms take a device out for good; 0: none do"},
    {"health.fault_window_ms", KEY_INTEGER, AT(health_fault_window_ms), 1, 86400000, "600000", NULL, "see health.max_faults"},
    {"log.level", KEY_CHOICE, AT(log_level), 0, 0, "info", "error|warn|info|debug",
     "what is logged; SIGHUP reads the keys log.* again"},
    {"log.modules", KEY_STRINGS, AT(log_modules), 0, 0, "", NULL,
     "levels of single modules: http=debug, engine=warn, ...; a module is a room under src/"},
    {"log.sink", KEY_STRING, AT(log_sink), 0, 0, "stderr", NULL,
     "stderr, journald (with fields), or the path of a file, with a slash; SIGHUP opens it anew"},
    {"log.format", KEY_CHOICE, AT(log_format), 0, 0, "logfmt", "logfmt|json", "lines on stderr and in files"},
    {"log.access", KEY_BOOL, AT(log_access), 0, 0, "false", NULL, "a line for each request, whatever log.level says"},
    {"log.max_per_second", KEY_INTEGER, AT(log_max_per_second), 0, 1000000000, "1000", NULL,
     "records of one place in the source; more are counted and the number is said; access lines are not limited; 0: no limit"},
    {"trace.endpoint", KEY_STRING, AT(trace_endpoint), 0, 0, "", NULL,
     "URL of a collector that takes OTLP/HTTP JSON: http://127.0.0.1:4318/v1/traces; empty: none"},
    {"trace.sample_per_mille", KEY_INTEGER, AT(trace_sample_per_mille), 0, 1000, "1000", NULL,
     "of a thousand requests without a valid traceparent so many are traced; a traceparent decides for itself"},
    {"trace.service_name", KEY_STRING, AT(trace_service_name), 0, 0, "tokenlane", NULL, "service.name of the spans"},
    {"drain_timeout_ms", KEY_INTEGER, AT(drain_timeout_ms), 0, 86400000, "30000", NULL,
     "time that running requests have to finish after SIGTERM"},
};
const unsigned config_n_keys = sizeof config_keys / sizeof *config_keys;
_Static_assert(sizeof config_keys / sizeof *config_keys <= 64 * sizeof((struct tl_config){0}).given / sizeof(uint64_t),
               "tl_config.given has a bit for each key");

const struct config_key *config_find_key(const char *name) {
  for (unsigned i = 0; i < config_n_keys; i++)
    if (strcmp(config_keys[i].name, name) == 0) return &config_keys[i];
  return NULL;
}

static const char *const kind_names[] = {"string", "list of strings", "integer", "true or false", "string", "list of objects"};

void tl_config_describe(struct tl_buffer *out) {
  tl_buffer_puts(out, "| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
  for (unsigned i = 0; i < config_n_keys; i++) {
    const struct config_key *k = &config_keys[i];
    tl_buffer_printf(out, "| `%s` | %s", k->name, kind_names[k->kind]);
    if (k->kind == KEY_INTEGER) tl_buffer_printf(out, ", %lld to %lld", (long long)k->min, (long long)k->max);
    if (k->kind == KEY_CHOICE) {
      tl_buffer_puts(out, ": ");
      for (const char *c = k->choices; *c; c++)
        if (*c == '|')
          tl_buffer_puts(out, " or ");
        else
          tl_buffer_putc(out, *c);
    }
    tl_buffer_printf(out, " | %s | %s |\n", *k->standard ? k->standard : "empty", k->help);
  }
}
