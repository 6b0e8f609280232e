/* SPDX-License-Identifier: MIT */
/* What a server must refuse and llhttp lets through: folded lines, odd header
 * names, control bytes, missing or doubled Host, contradictory framing. */
#include <string.h>
#include <strings.h>

#include "http/http_private.h"

/* RFC 9110 5.6.2 */
static bool is_token_char(unsigned char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c && strchr("!#$%&'*+-.^_`|~", c));
}

/* One byte of the header; NULL or what is wrong with it. */
static const char *scan_byte(struct http_scan *s, unsigned char c) {
  if (s->after_cr != (c == '\n')) return s->after_cr ? "a carriage return without a line feed" : "a line feed without a carriage return";
  s->after_cr = c == '\r';
  if (c == '\r') return NULL;
  switch (s->at) {
    case SCAN_BEGIN: /* empty lines before a request are allowed */
      if (c != '\n') s->at = SCAN_REQUEST_LINE;
      return c < 0x20 && c != '\n' ? "a control byte before the request" : NULL;
    case SCAN_REQUEST_LINE:
      if (c == '\n')
        s->at = SCAN_LINE_BEGIN;
      else if (c < 0x20 || c >= 0x7f)
        return "a byte in the request line that is not printable ASCII";
      if (c == ' ' && s->after_space) return "two spaces in the request line";
      s->after_space = c == ' ';
      return NULL;
    case SCAN_LINE_BEGIN:
      if (c == '\n') {
        s->at = SCAN_END;
        return NULL;
      }
      if (c == ' ' || c == '\t') return "a folded header line";
      s->at = SCAN_NAME;
      return c == ':' ? "an empty header name" : is_token_char(c) ? NULL : "a header name with a byte that is not allowed";
    case SCAN_NAME:
      if (c == ':') s->at = SCAN_VALUE;
      return c == ':' || is_token_char(c) ? NULL : "a header name with a byte that is not allowed";
    case SCAN_VALUE:
      if (c == '\n') s->at = SCAN_LINE_BEGIN;
      return (c < 0x20 && c != '\t' && c != '\n') || c == 0x7f ? "a control byte in a header value" : NULL;
    case SCAN_END: break;
  }
  return NULL;
}

int http_scan_bytes(struct http_scan *scan, const char *bytes, size_t *length, size_t max_bytes, const char **ret_text) {
  for (size_t i = 0; i < *length && scan->at != SCAN_END; i++) {
    bool in_lines = scan->at > SCAN_REQUEST_LINE;
    *ret_text = scan_byte(scan, (unsigned char)bytes[i]);
    int status = *ret_text ? 400 : 0;
    if (status == 0 && in_lines && ++scan->bytes > max_bytes) {
      *ret_text = "the header is too large";
      status = 431;
    }
    if (status) {
      *length = i;
      return status;
    }
  }
  return 0;
}

/* --- the complete header --------------------------------------------------------------- */

static unsigned count(const struct tl_http_request *request, const char *name, const char **ret_value) {
  unsigned n = 0;
  for (unsigned i = 0; i < request->n_headers; i++)
    if (strcasecmp(request->head.data + request->headers[i].name, name) == 0) {
      *ret_value = request->head.data + request->headers[i].value;
      n++;
    }
  return n;
}

/* host [":" port], RFC 3986; IP literals in brackets. */
static bool is_host(const char *host) {
  const char *at = host;
  if (*at == '[') {
    at += strspn(at + 1, "0123456789abcdefABCDEF:.") + 1;
    if (*at++ != ']') return false;
  } else {
    while (*at && *at != ':') {
      if (!is_token_char((unsigned char)*at) && !strchr("()=;", *at)) return false;
      at++;
    }
  }
  return *at == 0 || (*at == ':' && at[1 + strspn(at + 1, "0123456789")] == 0);
}

static const char absent[2] = ""; /* the value of a header that is not there */

static int check_framing(const struct http_conn *conn, const struct tl_http_request *request, const char **ret_text) {
  const char *coding = absent, *length = absent;
  unsigned n_coding = count(request, "Transfer-Encoding", &coding), n_length = count(request, "Content-Length", &length);
  *ret_text = "Transfer-Encoding together with Content-Length, or one of them twice";
  if (n_coding + n_length > 1) return 400;
  *ret_text = "Transfer-Encoding in HTTP/1.0";
  if (n_coding && request->is_http10) return 400;
  *ret_text = "the only transfer coding that is understood is chunked";
  if (n_coding && strcasecmp(coding, "chunked") != 0) return 501;
  *ret_text = "Content-Length must be digits";
  if (n_length && (!*length || length[strspn(length, "0123456789")] != 0)) return 400;
  *ret_text = "the body is too large";
  return n_length && conn->parser.content_length > conn->loop->http->o.max_body_bytes ? 413 : 0;
}

/* Bodies are read as they come: nothing that is small here may become large. */
static int check_content(const struct tl_http_request *request, const char **ret_text) {
  const char *coding = absent;
  *ret_text = "a body with a Content-Encoding is not understood: send it as it is";
  return count(request, "Content-Encoding", &coding) && strcasecmp(coding, "identity") != 0 ? 415 : 0;
}

/* absolute-form: what is behind the host, NULL if that is none. */
static char *skip_host(char *target) {
  char *host = target + strlen("http://"), *path = host + strcspn(host, "/?#");
  char after = *path;
  *path = 0;
  bool fine = *host && *host != ':' && is_host(host);
  *path = after;
  if (!fine) return NULL;
  if (after != '/') *--path = '/'; /* an empty path: over the host's last byte */
  return path;
}

/* origin-form, absolute-form (its path is taken) or asterisk-form. */
static int split_target(struct tl_http_request *request, const char **ret_text) {
  char *target = request->head.data;
  *ret_text = "the host in the request target is malformed";
  if (strncasecmp(target, "http://", 7) == 0) target = skip_host(target);
  if (!target) return 400;
  *ret_text = "the request target must begin with a slash";
  if (*target != '/' && strcmp(target, "*") != 0) return 400;
  request->path = target;
  request->query = target + strcspn(target, "?#");
  if (*request->query) *request->query++ = 0;
  return 0;
}

int http_head_check(struct http_conn *conn, const char **ret_text) {
  struct tl_http_request *request = &conn->request;
  const char *host = absent, *expect = absent;
  *ret_text = "only HTTP/1.0 and HTTP/1.1 are understood";
  if (conn->parser.http_major != 1 || conn->parser.http_minor > 1) return 505;
  unsigned n_host = count(request, "Host", &host);
  *ret_text = "expected exactly one Host header";
  if (n_host > 1 || (n_host == 0 && !request->is_http10)) return 400;
  *ret_text = "the Host header is malformed";
  if (!is_host(host)) return 400;
  int status = split_target(request, ret_text); /* first: errors may look different by path */
  if (status == 0) status = check_framing(conn, request, ret_text);
  if (status == 0) status = check_content(request, ret_text);
  if (status) return status;
  *ret_text = "the only expectation that is understood is 100-continue";
  return count(request, "Expect", &expect) && strcasecmp(expect, "100-continue") != 0 ? 417 : 0;
}
