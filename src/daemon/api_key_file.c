/* SPDX-License-Identifier: MIT */
/* The keys that clients have to show: of the configuration, of a file, of the environment. None of
 * them is ever printed; messages say where one stands. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/daemon_private.h"

#define MAX_FILE_BYTES 65536
#define MAX_KEY_BYTES 512

/* What a header can hold without anything to trim or to split at. */
static bool is_key(const char *text) {
  size_t n = 0;
  while (text[n] > ' ' && text[n] <= '~') n++;
  return text[n] == 0 && n > 0 && n <= MAX_KEY_BYTES;
}

int daemon_check_keys(const struct tl_config *config, struct tl_error *err) {
  for (unsigned i = 0; i < config->http_api_keys.n; i++)
    if (!is_key(config->http_api_keys.items[i]))
      return tl_error_set(err, TL_EINVAL, "http.api_keys",
                          "http.api_keys: expected keys of 1 to %d visible ASCII characters, number %u is none", MAX_KEY_BYTES, i + 1);
  return TL_OK;
}

/* Its bytes with a NUL behind them, or NULL. */
static char *read_file(const char *path, struct tl_error *err) {
  struct stat info = {.st_mode = 0};
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe without a writer is no reason to wait */
  char *text = fd >= 0 ? calloc(1, MAX_FILE_BYTES + 2) : NULL;
  ssize_t n = text && fstat(fd, &info) == 0 ? read(fd, text, MAX_FILE_BYTES + 1) : -1;
  int reason = errno;
  if (fd >= 0) close(fd);
  if (n >= 0 && n <= MAX_FILE_BYTES && S_ISREG(info.st_mode) && !memchr(text, 0, (size_t)n)) {
    if (info.st_mode & S_IROTH)
      TL_LOG(TL_LOG_WARN, "daemon", "every user of this machine can read http.api_key_file", TL_S("path", path));
    return text;
  }
  free(text);
  tl_error_set(err, TL_EIO, "http.api_key_file", "http.api_key_file: %.200s: %s", path,
               n < 0 ? strerror(reason) : "expected a file of text of at most 64 KiB");
  return NULL;
}

struct keys {
  const char **items; /* (cap) borrowed */
  unsigned n, cap;
};

static int add(struct keys *keys, const char *key) {
  if (keys->n == keys->cap) {
    unsigned cap = keys->cap ? keys->cap * 2 : 16;
    const char **items = realloc(keys->items, cap * sizeof *items);
    if (!items) return TL_ENOMEM;
    keys->items = items;
    keys->cap = cap;
  }
  keys->items[keys->n++] = key;
  return TL_OK;
}

/* One key a line; the text is cut into lines. A file without a key is an error: it would open the daemon to all. */
static int add_lines(struct keys *keys, char *text, struct tl_error *err) {
  static const char blanks[] = " \t\r";
  unsigned before = keys->n, line = 1;
  for (char *at = text, *next; at; at = next, line++) {
    next = strchr(at, '\n');
    if (next) *next++ = 0;
    at += strspn(at, blanks);
    size_t n = strlen(at);
    while (n && strchr(blanks, at[n - 1])) at[--n] = 0;
    if (n == 0 || *at == '#') continue;
    if (!is_key(at))
      return tl_error_set(err, TL_EINVAL, "http.api_key_file",
                          "http.api_key_file: line %u: expected a key of up to %d visible ASCII characters", line, MAX_KEY_BYTES);
    if (add(keys, at) < 0) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  }
  if (keys->n == before)
    return tl_error_set(err, TL_EINVAL, "http.api_key_file", "http.api_key_file: expected at least one key, one a line");
  return TL_OK;
}

int daemon_set_keys(struct tl_api *api, const struct tl_config *config, struct tl_error *err) {
  struct keys keys = {.n = 0};
  char *text = NULL;
  const char *given = getenv("TOKENLANE_API_KEY");
  int r = TL_OK;
  for (unsigned i = 0; r == TL_OK && i < config->http_api_keys.n; i++) r = add(&keys, config->http_api_keys.items[i]);
  if (r == TL_OK && given && *given) {
    if (is_key(given))
      r = add(&keys, given);
    else
      r = tl_error_set(err, TL_EINVAL, NULL, "TOKENLANE_API_KEY: expected a key of up to %d visible ASCII characters", MAX_KEY_BYTES);
  }
  if (r == TL_ENOMEM) tl_error_set(err, r, NULL, "out of memory");
  if (r == TL_OK && *config->http_api_key_file) {
    text = read_file(config->http_api_key_file, err);
    r = text ? add_lines(&keys, text, err) : TL_EIO;
  }
  if (r == TL_OK) r = tl_api_set_keys(api, keys.items, keys.n, err);
  if (r == TL_OK) TL_LOG(TL_LOG_INFO, "daemon", keys.n ? "requests need an API key" : "requests need no API key", TL_U("keys", keys.n));
  free(keys.items);
  free(text);
  return r;
}
