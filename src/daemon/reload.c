/* SPDX-License-Identifier: MIT */
/* What of the configuration is read at boot and again at SIGHUP: its section "log", the keys of the API. */
#include <string.h>

#include "daemon/daemon_private.h"
#include "tokenlane/log.h"

struct tl_log_options daemon_log_options(const struct tl_config *config) {
  return (struct tl_log_options){.level = config->log_level,
                                 .modules = (const char *const *)config->log_modules.items,
                                 .n_modules = config->log_modules.n,
                                 .format = config->log_format,
                                 .sink = config->log_sink,
                                 .access = config->log_access,
                                 .max_per_second = config->log_max_per_second};
}

struct changes {
  char names[512]; /* cut where it is too long */
  size_t length;
};

static bool is_applied(const char *key) {
  return strncmp(key, "log.", 4) == 0 || strcmp(key, "http.api_keys") == 0 || strcmp(key, "http.api_key_file") == 0;
}

static void note_change(const char *key, void *context) {
  struct changes *c = context;
  size_t n = strlen(key);
  if (is_applied(key) || c->length + n + 3 > sizeof c->names) return;
  if (c->length) {
    memcpy(c->names + c->length, ", ", 2);
    c->length += 2;
  }
  memcpy(c->names + c->length, key, n + 1);
  c->length += n;
}

static void reload_keys(struct daemon *d, const struct tl_config *config) {
  struct tl_error err = {0};
  if (daemon_set_keys(d->api, config, &err) < 0)
    TL_LOG(TL_LOG_ERROR, "daemon", "the API's keys were not read again; they stay as they were", TL_S("reason", err.message));
}

void daemon_reload(struct daemon *d, const struct command_line *line) {
  struct tl_error err = {0};
  struct tl_config config;
  struct changes changes = {.length = 0};
  int r = tl_config_init(&config);
  if (r < 0) tl_error_set(&err, r, NULL, "out of memory");
  if (r == TL_OK) r = daemon_read_arguments(&config, line, &err);
  bool read = r == TL_OK;
  if (read) {
    reload_keys(d, &config); /* whatever is wrong with the log: one of them may be to be locked out */
    struct tl_log_options options = daemon_log_options(&config);
    r = tl_log_configure(&options, &err);
  }
  if (r == TL_OK) {
    TL_LOG(TL_LOG_INFO, "daemon", "the log's configuration was read again", TL_S("level", config.log_level),
           TL_S("sink", config.log_sink), TL_S("format", config.log_format));
    tl_config_compare(d->config, &config, note_change, &changes);
    if (changes.length)
      TL_LOG(TL_LOG_WARN, "daemon", "changed keys need a restart", TL_S("keys", changes.names));
  } else {
    TL_LOG(TL_LOG_ERROR, "daemon", read ? "the log's configuration was not read again; it stays as it was"
                                        : "the configuration was not read again; all stays as it was", TL_S("reason", err.message));
  }
  tl_config_done(&config);
}
