/* SPDX-License-Identifier: MIT */
/* Which formats of calls there are, and which a model writes. */
#ifndef TOOL_FORMATS_H
#define TOOL_FORMATS_H

#include "api/tool_parse.h"

/* tool_text.c */
extern const struct api_tool_format api_tool_hermes_format, api_tool_granite_format, api_tool_mistral_format, api_tool_llama3_json_format;
/* tool_harmony.c */
extern const struct api_tool_format api_tool_harmony_format;

/* As model.tool_parser names it; NULL: there is none of that name. */
const struct api_tool_format *api_tool_format_find(const char *name);
/* The one in which the model's chat template writes calls, or tells the model to; chat NULL: it has none.
 * NULL: none that is known. Boot. */
const struct api_tool_format *api_tool_format_of(const struct tl_chat_format *chat);

#endif
