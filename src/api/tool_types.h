/* SPDX-License-Identifier: MIT */
/* What a request's tools are called and of which types their parameters are: for formats that write values without quotes. Pure. */
#ifndef API_TOOL_TYPES_H
#define API_TOOL_TYPES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "tokenlane/base/arena.h"

/* What a parameter may be, as bits; 0: nobody says. */
enum tool_kind {
  TOOL_STRING = 1,
  TOOL_NULL = 2,
  TOOL_OTHER = 4, /* a number, a boolean, an object or a list */
};

struct api_tool_types;

/* tools: the request's, whatever they are; nothing of them is kept but copies in the arena. Memory is a few words a
 * parameter. TL_ENOMEM. */
int api_tool_types_read(json_t *tools, struct tl_arena *arena, const struct api_tool_types **ret);

/* Kinds of a tool's parameter; 0 as well when there is no such tool or parameter, or types is NULL. In the logarithm of the
 * parameters' number. */
unsigned api_tool_types_of(const struct api_tool_types *types, const char *tool, size_t tool_length, const char *key, size_t key_length);
/* Whether a tool's name is this text, or only begins with it. */
bool api_tool_types_has(const struct api_tool_types *types, const char *text, size_t length);
bool api_tool_types_begins(const struct api_tool_types *types, const char *text, size_t length);

#endif
