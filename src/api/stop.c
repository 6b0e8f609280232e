/* SPDX-License-Identifier: MIT */
/* Stop strings, also across token borders: text that could still become the
 * beginning of one is held back until it is known. */
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"

/* So many may be as long as one may be: what held_back() does for a token grows with the square of a length. */
#define MOST_LONG 4

static int read_stop(struct api_params *params, const char *name, json_t *value, size_t most_bytes, struct tl_error *err) {
  size_t length = json_string_length(value);
  if (!json_is_string(value) || length == 0) return api_wrong(err, name, "a string that is not empty", value);
  if (length > most_bytes) return tl_error_set(err, TL_EINVAL, name, "%s: expected at most %zu bytes, got %zu", name, most_bytes, length);
  unsigned i = params->n_stop++;
  params->stop[i].text = json_string_value(value);
  params->stop[i].length = length;
  return TL_OK;
}

int api_read_stops(struct api_params *params, const char *field, json_t *value, bool alone, size_t most_bytes, struct tl_error *err) {
  if (alone && json_is_string(value)) return read_stop(params, field, value, most_bytes, err);
  if (!json_is_array(value) || json_array_size(value) > API_MAX_STOPS)
    return api_wrong(err, field, alone ? "a string or a list of up to 32 strings" : "a list of up to 32 strings", value);
  size_t all = 0;
  for (size_t i = 0; i < json_array_size(value); i++) {
    char name[32];
    snprintf(name, sizeof name, "%s[%zu]", field, i);
    int r = read_stop(params, name, json_array_get(value, i), most_bytes, err);
    if (r < 0) return r;
    all += params->stop[i].length;
  }
  if (all <= MOST_LONG * most_bytes) return TL_OK;
  return tl_error_set(err, TL_EINVAL, field, "%s: expected at most %zu bytes in all, got %zu", field, MOST_LONG * most_bytes, all);
}

void api_stop_init(struct api_stop *stop, const struct api_params *params) {
  *stop = (struct api_stop){.params = params};
  tl_buffer_init(&stop->pending, 0);
}

void api_stop_done(struct api_stop *stop) {
  tl_buffer_done(&stop->pending);
}

/* Where the stop string begins that is complete first (of several, the longest):
 * so the answer does not depend on where tokens cut the text. pending's length
 * when there is none, else `which` is set. */
static size_t find_match(struct api_stop *stop) {
  size_t best = stop->pending.length, best_end = SIZE_MAX;
  for (unsigned i = 0; i < stop->params->n_stop; i++) {
    size_t n = stop->params->stop[i].length;
    const char *at = memmem(stop->pending.data, stop->pending.length, stop->params->stop[i].text, n);
    if (!at) continue;
    size_t start = (size_t)(at - stop->pending.data);
    if (start + n > best_end || (start + n == best_end && start >= best)) continue;
    best = start;
    best_end = start + n;
    stop->which = i;
  }
  return best;
}

/* How many trailing bytes of pending are a proper beginning of a stop string. */
static size_t held_back(const struct api_stop *stop) {
  size_t most = 0;
  const char *end = stop->pending.data + stop->pending.length;
  for (unsigned i = 0; i < stop->params->n_stop; i++) {
    size_t n = stop->params->stop[i].length - 1;
    if (n > stop->pending.length) n = stop->pending.length;
    for (; n > most; n--)
      if (memcmp(end - n, stop->params->stop[i].text, n) == 0) most = n;
  }
  return most;
}

int api_stop_push(struct api_stop *stop, const char *text, size_t length, struct tl_buffer *out) {
  if (stop->hit) return TL_OK;
  if (stop->params->n_stop == 0) return tl_buffer_append(out, text, length);
  if (length == 0) return TL_OK;
  int r = tl_buffer_append(&stop->pending, text, length);
  if (r < 0) return r;
  size_t match = find_match(stop);
  stop->hit = match < stop->pending.length;
  size_t kept = stop->params->include_stop_str_in_output ? stop->params->stop[stop->which].length : 0;
  size_t ready = stop->hit ? match + kept : stop->pending.length - held_back(stop);
  r = tl_buffer_append(out, stop->pending.data, ready);
  tl_buffer_consume(&stop->pending, stop->hit ? stop->pending.length : ready);
  return r;
}

int api_stop_flush(struct api_stop *stop, struct tl_buffer *out) {
  int r = tl_buffer_append(out, stop->pending.data, stop->pending.length);
  tl_buffer_clear(&stop->pending);
  return r;
}
