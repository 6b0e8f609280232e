/* SPDX-License-Identifier: MIT */
/* Origins of pages, as a person writes them, become what browsers send (RFC 6454, section 6.1): small letters, no port
 * that is the scheme's own, nothing behind. They are compared byte by byte with that. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_private.h"

static bool is_scheme(const char *text, size_t length) {
  for (size_t i = 0; i < length; i++)
    if (!isascii(text[i]) || !(isalnum((unsigned char)text[i]) || (i && strchr("+-.", text[i])))) return false;
  return length > 0;
}

/* A name as browsers send it is ASCII: xn--... where it is not. [...] is an IPv6 address. */
static bool is_host(const char *text, size_t length) {
  bool bracket = length > 2 && text[0] == '[' && text[length - 1] == ']';
  for (size_t i = bracket; i < length - bracket; i++)
    if (text[i] <= ' ' || text[i] > '~' || strchr("/\\?#@[]", text[i]) || (text[i] == ':' && !bracket)) return false;
  return length > 0;
}

/* -1: the scheme has none. */
static long standard_port(const char *origin) {
  return strncmp(origin, "http://", 7) == 0 ? 80 : strncmp(origin, "https://", 8) == 0 ? 443 : -1;
}

/* What stands behind the host, in place; it gets no longer. False: it is no port. */
static bool write_port(const char *origin, char *text) {
  char *end = text;
  size_t digits = *text == ':' ? strspn(text + 1, "0123456789") : 0;
  long port = digits && digits < 10 ? strtol(text + 1, &end, 10) : -1;
  if (*text == ':' && !digits) end++; /* "https://host:" has the standard one */
  if (strcmp(end, "/") != 0 && *end) return false;
  if (digits && (port < 0 || port > 65535)) return false;
  if (digits && port != standard_port(origin))
    snprintf(text, digits + 2, ":%ld", port);
  else
    *text = 0;
  return true;
}

static bool write_origin(char *text) {
  char *host = strstr(text, "://");
  if (!host || !is_scheme(text, (size_t)(host - text))) return false;
  host += 3;
  size_t length = *host == '[' ? strcspn(host, "]") : strcspn(host, ":/");
  length += host[length] == ']';
  if (!is_host(host, length)) return false;
  for (char *c = text; c < host + length; c++) *c = (char)tolower((unsigned char)*c);
  return write_port(text, host + length);
}

/* "null" is none, since any page can be that. */
int config_write_origins(struct tl_strings *origins, struct tl_error *err) {
  for (unsigned i = 0; i < origins->n; i++)
    if (strcmp(origins->items[i], "*") != 0 && !write_origin(origins->items[i]))
      return tl_error_set(err, TL_EINVAL, "http.cors_origins", "http.cors_origins: expected *, or SCHEME://HOST[:PORT] without a path, got %.60s",
                          origins->items[i]);
  return TL_OK;
}
