/* SPDX-License-Identifier: MIT */
/* Who may use the API: those who show one of its keys.
 *
 * What is kept and compared of a key is not the key but two SipHashes of it, under random words of
 * this process: 128 bits that nobody outside can compute or aim at. How long a comparison takes
 * depends on what was shown, not on any key, since all of them are always looked at. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/api_private.h"
#include "tokenlane/base/hash.h"

struct api_key {
  uint64_t hash[2];
};

struct api_keys {
  const struct api_keys *before; /* loops may still be reading it: freed with the api */
  unsigned n;
  struct api_key keys[];
};

/* What costs nothing and reveals no more than that the daemon is there, for those who watch it. Whatever else
 * is registered needs a key. */
static const char *const open_paths[] = {"/health", "/ready", "/version", "/metrics"};

static struct api_key hash_key(const struct tl_api *api, const char *text) {
  size_t length = strlen(text);
  return (struct api_key){{tl_hash_bytes(text, length, api->key_words[0], api->key_words[1]),
                           tl_hash_bytes(text, length, api->key_words[2], api->key_words[3])}};
}

static bool is_known(const struct tl_api *api, const struct api_keys *keys, const char *text) {
  struct api_key shown = hash_key(api, text);
  uint64_t found = 0;
  for (unsigned i = 0; i < keys->n; i++) {
    uint64_t other = (shown.hash[0] ^ keys->keys[i].hash[0]) | (shown.hash[1] ^ keys->keys[i].hash[1]);
    found |= ((other | -other) >> 63) ^ 1; /* 1 if no bit differs, without a branch */
  }
  return found != 0;
}

/* What stands behind "Bearer", or NULL. */
static const char *bearer(const char *value) {
  if (!value || strncasecmp(value, "Bearer ", 7) != 0) return NULL;
  return value + 7 + strspn(value + 7, " ");
}

/* What is open to all has no body: nobody without a key may fill memory with one. */
static bool is_open(const struct tl_http_request *request) {
  const char *length = tl_http_header(request, "Content-Length");
  if ((length && strcmp(length, "0") != 0) || tl_http_header(request, "Transfer-Encoding")) return false;
  for (unsigned i = 0; i < sizeof open_paths / sizeof *open_paths; i++)
    if (strcmp(tl_http_path(request), open_paths[i]) == 0) return true;
  return false;
}

int api_guard(struct tl_http_request *request, void *context, const char **ret_text) {
  struct tl_api *api = context;
  /* the keys themselves; pairs with tl_api_set_keys */
  const struct api_keys *keys = atomic_load_explicit(&api->keys, memory_order_acquire);
  if (!keys || keys->n == 0 || is_open(request)) return 0;
  const char *token = bearer(tl_http_header(request, "Authorization")), *other = tl_http_header(request, "X-Api-Key");
  if (token && is_known(api, keys, token)) return 0;
  if (other && is_known(api, keys, other)) return 0;
  tl_http_add_header(request, "WWW-Authenticate", "Bearer");
  *ret_text = token || other ? "the API key is not right"
                             : "expected an API key, as 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'";
  return 401;
}

int tl_api_set_keys(struct tl_api *api, const char *const *keys, unsigned n, struct tl_error *err) {
  struct api_keys *made = malloc(sizeof *made + n * sizeof *made->keys);
  if (!made) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  made->n = n;
  for (unsigned i = 0; i < n; i++) made->keys[i] = hash_key(api, keys[i]);
  /* written by this thread alone */
  const struct api_keys *now = atomic_load_explicit(&api->keys, memory_order_relaxed);
  if (now && now->n == n && memcmp(now->keys, made->keys, n * sizeof *made->keys) == 0) {
    free(made); /* so that memory grows with keys, not with signals */
    return TL_OK;
  }
  made->before = now;
  atomic_store_explicit(&api->keys, made, memory_order_release); /* publishes *made to api_guard */
  return TL_OK;
}

void api_keys_free(struct tl_api *api) {
  const struct api_keys *keys = atomic_load_explicit(&api->keys, memory_order_relaxed); /* no loop is left */
  while (keys) {
    const struct api_keys *before = keys->before;
    free((void *)keys);
    keys = before;
  }
}
