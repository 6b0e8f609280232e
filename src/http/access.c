/* SPDX-License-Identifier: MIT */
/* A request's id, and what is written down about it when it has ended. */
#include <string.h>

#include "http/http_private.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/hash.h"
#include "tokenlane/log.h"

#define MAX_ID 128

static bool is_id(const char *text) {
  size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+=@");
  return n > 0 && n <= MAX_ID && text[n] == 0;
}

static void put_hex(char *to, uint64_t value) {
  for (int i = 0; i < 16; i++) to[i] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
}

/* Two keyed bijections of a counter: no two requests of a loop share an id, and nothing
 * is asked of the kernel but the key. */
static const char *make_id(struct tl_http_request *request) {
  struct http_loop *loop = request->conn->loop;
  if (request->traced.on && !request->traced.context.parent_id) {
    tl_trace_id_write(&request->traced.context, request->made_id); /* one id to look for */
    return request->made_id;
  }
  if (!loop->n_ids++)
    for (int i = 0; i < 2; i++) loop->id_key[i] = tl_random_seed();
  put_hex(request->made_id, tl_hash_u64(loop->id_key[0] + loop->n_ids));
  put_hex(request->made_id + 16, tl_hash_u64(loop->id_key[1] + loop->n_ids));
  request->made_id[32] = 0;
  return request->made_id;
}

const char *tl_http_request_id(struct tl_http_request *request) {
  if (request->id) return request->id;
  /* a header that broke off has no whole lines to look at */
  const char *given = request->conn->in_header ? NULL : tl_http_header(request, "X-Request-Id");
  request->id = given && is_id(given) ? given : make_id(request);
  return request->id;
}

/* No query and no address: they may be secrets or personal. */
void http_count_answer(struct tl_http_request *request) {
  struct http_conn *conn = request->conn;
  struct http_loop *loop = conn->loop;
  const struct http_route *route = request->route ? request->route : &loop->http->unknown;
  int64_t took_ns = tl_now_ns() - request->began_ns;
  tl_metrics_add(loop->shard, route->requests[http_code_index(request->status)], 1);
  tl_metrics_observe(loop->shard, route->seconds, took_ns);
  bool read = request->path != NULL; /* else the header was not understood */
  const char *method = read ? llhttp_method_name((llhttp_method_t)conn->parser.method) : "-", *path = read ? request->path : "-";
  const char *id = tl_http_request_id(request);
  char trace_id[TL_TRACE_ID_BYTES];
  if (!request->traced.on) {
    TL_LOG(TL_LOG_INFO, "access", "request", TL_S("method", method), TL_S("path", path), TL_I("status", request->status),
           TL_U("bytes", request->body_bytes), TL_F("ms", (double)took_ns * 1e-6), TL_S("request_id", id));
    return;
  }
  tl_trace_id_write(&request->traced.context, trace_id);
  TL_LOG(TL_LOG_INFO, "access", "request", TL_S("method", method), TL_S("path", path), TL_I("status", request->status),
         TL_U("bytes", request->body_bytes), TL_F("ms", (double)took_ns * 1e-6), TL_S("request_id", id),
         TL_S("trace_id", trace_id));
}
