/* SPDX-License-Identifier: MIT */
/* Between chat_format.c, which finds a model's templates, and chat_render.c, which uses them. */
#ifndef TEXT_CHAT_PRIVATE_H
#define TEXT_CHAT_PRIVATE_H

#include "tokenlane/text.h"

struct tl_chat_template {
  char *name; /* "default" and so on */
  struct tl_template *tmpl;
  json_t *tokens; /* special tokens by name; shared by the format's templates, immutable */
  unsigned takes; /* enum tl_chat_takes */
  char *source;   /* (length) as it came */
  size_t length;
};

/* Finds out what the template takes, by rendering conversations of one message and of a call. */
unsigned chat_probe(const struct tl_chat_template *tmpl);

#endif
