/* SPDX-License-Identifier: MIT */
/* The command line. */
#include <stdio.h>
#include <string.h>

#include "daemon/daemon_private.h"
#include "daemon/served.h"
#include "daemon/sharing.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/json.h"
#include "tokenlane/base/thread.h"
#include "tokenlane/device.h"
#include "tokenlane/log.h"
#include "tokenlane/model.h"

static const char usage[] =
    "usage: tokenlane COMMAND [--config FILE] [--KEY VALUE]...\n"
    "\n"
    "  serve         serve the configured model over HTTP\n"
    "  check-config  read the configuration, say what is wrong with it and the models\n"
    "  keys          print all configuration keys\n"
    "  tokenize      MODEL [--ids | --pieces | --decode] [--no-special]: standard input to ids, or back\n"
    "  render        [MODEL] [--template FILE] [--input FILE]: messages through a chat template; render --help\n"
    "  models        --supported: the architectures that are known\n"
    "  version       print the version\n"
    "\n"
    "Every key of the configuration file is an option too, and wins over the file:\n"
    "  tokenlane serve --model.path ~/models/my-llama --http.port 8000\n";

static bool is_option(const char *argument, const char *key) {
  size_t length = strlen(key);
  return strncmp(argument, "--", 2) == 0 && strncmp(argument + 2, key, length) == 0 &&
         (!argument[2 + length] || argument[2 + length] == '=');
}

static bool shows_keys(const struct command_line *line) {
  for (int i = 0; i < line->argc; i++)
    if (is_option(line->argv[i], "http.api_keys")) return true;
  return false;
}

/* By our name, or by that of vLLM and llama.cpp: what stands behind may be one. */
static bool speaks_of_keys(const struct command_line *line) {
  for (int i = 0; i < line->argc; i++)
    if (strstr(line->argv[i], "api_key") || strstr(line->argv[i], "api-key")) return true;
  return false;
}

/* What is wrong with the whole, in the file's words unless an option set the key. */
static int check_whole(struct tl_config *config, const char *file, const struct command_line *line, struct tl_error *err) {
  struct tl_log_options log = daemon_log_options(config);
  int r = tl_config_resolve(config, err);
  struct tl_trace_options trace = daemon_trace_options(config);
  if (r == TL_OK) r = devices_expand(config, err);
  if (r == TL_OK) r = tl_config_check(config, err);
  if (r == TL_OK) r = tl_log_check(&log, err);
  if (r == TL_OK) r = tl_trace_check(&trace, err);
  if (r == TL_OK) r = simulate_check(config, err);
  if (r == TL_OK) r = sharing_check(config, err);
  if (r == TL_OK) r = daemon_check_keys(config, err);
  if (r == TL_OK && line->check_models) r = served_check(config, err);
  if (r == TL_OK || !file) return r;
  for (int i = 0; i < line->argc; i++)
    if (is_option(line->argv[i], err->field)) return r;
  tl_config_locate(file, err);
  return r;
}

/* --key value and --key=value; the file comes first, wherever --config stands. */
int daemon_read_arguments(struct tl_config *config, const struct command_line *line, struct tl_error *err) {
  int argc = line->argc;
  char **argv = line->argv;
  const char *file = NULL;
  for (int pass = 0; pass < 2; pass++) {
    for (int i = 0; i < argc; i++) {
      bool fine = strncmp(argv[i], "--", 2) == 0 && argv[i][2];
      if (!fine && speaks_of_keys(line))
        return tl_error_set(err, TL_EINVAL, "http.api_keys", "expected --KEY VALUE, and commas between the keys of --http.api_keys");
      if (!fine)
        return tl_error_set(err, TL_EINVAL, NULL, "expected --KEY VALUE, got %.100s", argv[i]);
      const char *key = argv[i] + 2, *equals = strchr(key, '='), *value = equals ? equals + 1 : NULL;
      char name[96];
      snprintf(name, sizeof name, "%.*s", equals ? (int)(equals - key) : (int)strlen(key), key);
      if (!value && ++i < argc) value = argv[i];
      if (!value) return tl_error_set(err, TL_EINVAL, name, "--%s: expected a value", name);
      bool is_file = strcmp(name, "config") == 0;
      int r = TL_OK;
      if (is_file && pass == 0) r = tl_config_load(config, file = value, err);
      if (!is_file && pass == 1) r = tl_config_set(config, name, value, err);
      if (r < 0) return r;
    }
  }
  return check_whole(config, file, line, err);
}

/* Running work may end, then all ends. Returns when nothing is left, time is up
 * or a second signal came. */
static void drain(struct daemon *d) {
  int64_t deadline_ns = tl_now_ns() + TL_MS(d->config->drain_timeout_ms);
  TL_LOG(TL_LOG_INFO, "daemon", "draining", TL_U("requests", tl_api_active(d->api)),
         TL_I("timeout_ms", d->config->drain_timeout_ms));
  notify_status("STOPPING=1");
  tl_api_drain(d->api);
  tl_http_drain(d->http);
  while (tl_api_active(d->api) || tl_http_connections(d->http)) {
    bool late = tl_now_ns() >= deadline_ns;
    if (!late && signals_wait(1, 10) <= 1) continue;
    TL_LOG(TL_LOG_WARN, "daemon", late ? "drain timeout; ending what runs" : "second signal; ending what runs",
           TL_U("requests", tl_api_active(d->api)));
    return;
  }
}

/* *err: why "auto" found no GPU. */
static int serve(const struct tl_config *config, const struct command_line *line, struct tl_error *err) {
  struct tl_log_options log = daemon_log_options(config);
  int r = signals_init(err);
  if (r == TL_OK) r = tl_log_start(&log, err);
  if (r < 0) return r;
  tl_log_catch_crashes();
  if (err->code) TL_LOG(TL_LOG_WARN, "daemon", "no GPU is used", TL_S("reason", err->message));
  if (shows_keys(line))
    TL_LOG(TL_LOG_WARN, "daemon", "every user of this machine can read the API keys in the command line; use http.api_key_file");
  struct daemon d;
  r = daemon_boot(&d, config, err);
  if (r == TL_OK) {
    notify_status("READY=1");
    while (signals_wait(0, -1) == 0)
      if (signals_take_reload()) daemon_reload(&d, line);
    drain(&d);
  }
  daemon_done(&d);
  if (r == TL_OK) TL_LOG(TL_LOG_INFO, "daemon", "stopped");
  tl_log_stop();
  return r;
}

static int print_keys(void) {
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  tl_config_describe(&out);
  fputs(tl_buffer_string(&out), stdout);
  tl_buffer_done(&out);
  return 0;
}

/* A table for README.md. */
static int print_supported(int argc, char **argv) {
  if (argc != 1 || strcmp(argv[0], "--supported") != 0) {
    fputs("tokenlane: models: expected --supported\n", stderr);
    return 2;
  }
  const char *class_name, *name;
  bool gguf;
  puts("| architecture | name | files |\n|---|---|---|");
  for (uint32_t i = 0; tl_model_supported(i, &class_name, &name, &gguf); i++)
    printf("| %s | %s | safetensors%s |\n", class_name, name, gguf ? ", GGUF" : "");
  return 0;
}

static int with_config(const char *command, const struct command_line *line) {
  struct tl_error err = {0};
  struct tl_config config;
  int r = tl_config_init(&config);
  if (r < 0) tl_error_set(&err, r, NULL, "out of memory");
  if (r == TL_OK) r = daemon_read_arguments(&config, line, &err);
  if (r == TL_OK && strcmp(command, "serve") == 0) r = serve(&config, line, &err);
  else if (r == TL_OK) puts("the configuration is valid");
  if (r < 0) fprintf(stderr, "tokenlane: %s\n", err.message);
  tl_config_done(&config);
  return r < 0;
}

/* A command that was asked for its options; render has a text of its own. */
static bool wants_usage(const char *command, int argc, char **argv) {
  if (argc != 1 || strcmp(command, "render") == 0) return false;
  return strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0;
}

static int run(int argc, char **argv) {
  const char *command = argc > 1 ? argv[1] : "help";
  if (argc > 1 && wants_usage(command, argc - 2, argv + 2)) command = "help";
  if (strcmp(command, "serve") == 0 || strcmp(command, "check-config") == 0)
    return with_config(command, &(struct command_line){argc - 2, argv + 2, strcmp(command, "check-config") == 0});
  if (strcmp(command, "device") == 0) return tl_device_host(); /* the daemon's own, see isolation */
  if (strcmp(command, "keys") == 0) return print_keys();
  if (strcmp(command, "models") == 0) return print_supported(argc - 2, argv + 2);
  if (strcmp(command, "tokenize") == 0) return tokenize_command(argc - 2, argv + 2);
  if (strcmp(command, "render") == 0) return render_command(argc - 2, argv + 2);
  if (strcmp(command, "version") == 0 || strcmp(command, "--version") == 0) return puts("tokenlane " TL_VERSION) < 0;
  bool asked = strcmp(command, "help") == 0 || strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0;
  fputs(usage, asked ? stdout : stderr);
  return asked ? 0 : 2;
}

int main(int argc, char **argv) {
  tl_thread_enter("tokenlane", TL_ROLE_NONE); /* also the name of the process */
  tl_json_watch();
  int status = run(argc, argv);
  if (status || (fflush(stdout) == 0 && !ferror(stdout))) return status;
  fputs("tokenlane: standard output cannot be written\n", stderr);
  return 1;
}
