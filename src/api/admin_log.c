/* SPDX-License-Identifier: MIT */
/* The operator's view of log levels: GET shows them, POST sets one until the next SIGHUP
 * or start, which read the configuration. */
#include <string.h>

#include "api/admin_private.h"
#include "tokenlane/log.h"

#define PREFIX "/admin/log/"

static void respond_levels(struct tl_http_request *request) {
  struct tl_buffer body;
  const char *name, *level;
  tl_buffer_init(&body, 0);
  tl_buffer_puts(&body, "{\"modules\":{");
  for (unsigned i = 0; (name = tl_log_module(i, &level)); i++)
    tl_buffer_printf(&body, "%s\"%s\":\"%s\"", i ? "," : "", name, level);
  tl_buffer_puts(&body, "}}");
  api_respond_buffer(request, 200, &body);
}

static void on_levels(struct tl_http_request *request, void *context) {
  (void)context;
  respond_levels(request);
}

static void on_set(struct tl_http_request *request, void *context) {
  (void)context;
  struct tl_error err = {0};
  char level[16];
  const char *module = tl_http_path(request) + strlen(PREFIX);
  if (!admin_query(request, "level", level, sizeof level))
    tl_error_set(&err, TL_EINVAL, "level", "level: expected error, warn, info or debug, as in " PREFIX "http?level=debug");
  else
    tl_log_set_module_level(module, level, &err);
  if (err.code) {
    api_respond_error(request, &err, 0);
    return;
  }
  TL_LOG(TL_LOG_WARN, "api", "an operator set a log level", TL_S("of_module", module), TL_S("to", level));
  respond_levels(request);
}

int admin_register_log(struct tl_http *http) {
  int r = tl_http_handle(http, "GET", "/admin/log", on_levels, NULL);
  return r == TL_OK ? tl_http_handle(http, "POST", PREFIX "*", on_set, NULL) : r;
}
