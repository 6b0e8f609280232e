/* SPDX-License-Identifier: MIT */
/* What the files of /v1/responses share: a request becomes one of chat, and the answer a list of items.
 *
 *   responses_read.c ─► responses_input.c ─► chat.c ─► ... ─► stream.c ─► responses_shape.c
 *   fields, tools       items to messages    tokens          news        items, named events
 *
 * Nothing is stored: a client sends a conversation whole, the items of earlier answers among it. */
#ifndef RESPONSES_H
#define RESPONSES_H

#include "api/api_private.h"

enum response_item { RESPONSE_NONE, RESPONSE_REASONING, RESPONSE_MESSAGE, RESPONSE_CALL };

struct api_response {
  const char *echo; /* (echo_length) members of the answer that repeat the request's fields; in the call's arena */
  size_t echo_length;
  /* streams: */
  unsigned n_events, n_items; /* that were sent; that are over */
  enum response_item open;    /* the item that goes on */
  unsigned i_call;            /* RESPONSE_CALL: which of the calls it is */
  struct tl_buffer text;      /* of it, as far as it has come */
  struct tl_buffer logprobs;  /* of a message's tokens, and of those before it that are in none; JSON without brackets */
  size_t n_told;              /* bytes of them that were in deltas */
  struct tl_buffer items;     /* those that are over; JSON without brackets */
};

/* responses_read.c: one of the fields that no other endpoint has, which is not null. Tools become those of chat, in the body. */
int api_responses_read(struct api_params *params, const char *field, json_t *value, struct tl_error *err);
/* The members of an answer that repeat the request's fields, but for very long ones. The body is read, and not changed yet but for its tools. */
int api_responses_echo(const json_t *body, struct tl_buffer *out);

/* responses_input.c: input and instructions as a new list of chat's messages, which is the caller's; the input may be changed. An
 * answer that was cut and is the last of it goes on, so params may be changed too. */
int api_responses_messages(struct api_params *params, json_t **ret, struct tl_error *err);

/* Bytes that a stream still has to say again when so many are new. */
size_t api_response_rest(const struct api_response *response, size_t n_new);
/* Frees what it has; NULL is fine. */
void api_response_done(struct api_response *response);

#endif
