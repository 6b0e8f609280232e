/* SPDX-License-Identifier: MIT */
/* What a request says. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"
#include "tokenlane/base/hash.h"

/* The i-th random number of a request: the same in every run of this seed. */
static uint64_t random_at(const struct load_options *o, uint64_t serial, uint64_t i) {
  return tl_hash_u64(tl_hash_u64(tl_hash_u64((uint64_t)o->seed) + serial) + i);
}

static json_t *random_tokens(const struct load_options *o, uint64_t serial) {
  json_t *list = json_array();
  for (int64_t i = 0; i < o->prompt_tokens; i++)
    json_array_append_new(list,
                          json_integer((json_int_t)(random_at(o, serial, (uint64_t)i) % (uint64_t)o->vocab)));
  return list;
}

/* Chat takes text only: words of four letters. How many tokens they are, the server's usage says. */
static json_t *random_words(const struct load_options *o, uint64_t serial) {
  struct tl_buffer text;
  tl_buffer_init(&text, 0);
  for (int64_t i = 0; i < o->prompt_tokens; i++) {
    uint64_t bits = random_at(o, serial, (uint64_t)i);
    if (i) tl_buffer_putc(&text, ' ');
    for (int letter = 0; letter < 4; letter++, bits >>= 8) tl_buffer_putc(&text, (char)('a' + bits % 26));
  }
  json_t *string = json_stringn(text.data, text.length);
  tl_buffer_done(&text);
  return string;
}

static json_t *body(const struct load_options *o, const char *model, uint64_t serial) {
  json_t *root = json_pack("{s:s, s:I, s:f, s:I}", "model", model, "max_tokens", (json_int_t)o->max_tokens, "temperature",
                           o->temperature, "seed", (json_int_t)(o->seed + (int64_t)serial));
  if (!o->whole) {
    json_object_set_new(root, "stream", json_true());
    json_object_set_new(root, "stream_options", json_pack("{s:b}", "include_usage", 1));
  }
  if (o->ignore_eos) json_object_set_new(root, "ignore_eos", json_true());
  json_t *prompt = o->prompt ? json_string(o->prompt)
                   : o->chat ? random_words(o, serial)
                             : random_tokens(o, serial);
  if (o->chat)
    json_object_set_new(root, "messages", json_pack("[{s:s, s:o}]", "role", "user", "content", prompt));
  else
    json_object_set_new(root, "prompt", prompt);
  return root;
}

void load_write_request(const struct load_options *options, const char *model, uint64_t serial,
                        struct tl_buffer *out) {
  json_t *root = body(options, model, serial);
  char *text = json_dumps(root, JSON_COMPACT);
  tl_buffer_clear(out);
  tl_buffer_printf(out,
                   "POST /v1/%s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
                   "Accept: %s\r\nContent-Length: %zu\r\n\r\n%s",
                   options->chat ? "chat/completions" : "completions", options->host,
                   options->whole ? "application/json" : "text/event-stream", strlen(text), text);
  free(text);
  json_decref(root);
}

void load_write_ask(const struct load_options *options, struct tl_buffer *out) {
  tl_buffer_clear(out);
  tl_buffer_printf(out, "GET /v1/models HTTP/1.1\r\nHost: %s\r\nAccept: application/json\r\n\r\n",
                   options->host);
}
