/* SPDX-License-Identifier: MIT */
/* Cross-origin requests, section 3.3 of the Fetch standard: a browser shows a page of another
 * origin an answer, and sends what is more than a simple request, only if the server says so. */
#include <string.h>

#include "http/http_private.h"

/* What stands as Access-Control-Allow-Origin; NULL: the request is of no page, or of one that is not allowed. */
static const char *allowed_origin(const struct tl_http_request *request) {
  const struct tl_http_options *o = &request->conn->loop->http->o;
  /* a header that broke off has no whole lines to look at */
  const char *origin = request->conn->in_header ? NULL : tl_http_header(request, "Origin");
  for (unsigned i = 0; origin && i < o->n_cors_origins; i++) {
    if (strcmp(o->cors_origins[i], "*") == 0) return "*";
    if (strcmp(o->cors_origins[i], origin) == 0) return o->cors_origins[i];
  }
  return NULL;
}

void http_cors_head(const struct tl_http_request *request, struct tl_buffer *out) {
  if (request->conn->loop->http->o.n_cors_origins == 0) return;
  const char *origin = allowed_origin(request);
  tl_buffer_puts(out, "Vary: Origin\r\n"); /* whatever it was: another page's answer has another head */
  if (origin)
    tl_buffer_printf(out, "Access-Control-Allow-Origin: %s\r\nAccess-Control-Expose-Headers: X-Request-Id, Retry-After\r\n", origin);
}

bool http_cors_preflight(struct http_conn *conn) {
  struct tl_http_request *request = &conn->request;
  if (!tl_http_header(request, "Access-Control-Request-Method") || !allowed_origin(request)) return false;
  const char *headers = tl_http_header(request, "Access-Control-Request-Headers");
  tl_http_add_header(request, "Access-Control-Allow-Methods", "GET, POST");
  /* all that it asks for: clients send many of their own, and a wildcard would leave Authorization out */
  if (headers) tl_http_add_header(request, "Access-Control-Allow-Headers", headers);
  tl_http_add_header(request, "Access-Control-Max-Age", "7200"); /* seconds; the most that Chrome keeps */
  tl_http_respond(request, 204, NULL, NULL, 0);
  return true;
}
