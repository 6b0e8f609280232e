/* SPDX-License-Identifier: MIT */
/* Which formats of calls there are, and which a model writes. */
#ifndef TOOL_FORMATS_H
#define TOOL_FORMATS_H

#include "api/tool_parse.h"

/* How one model calls tools. */
struct api_tools {
  const struct api_tool_format *format; /* NULL: in no way that is known */
  int32_t marks[API_TOOL_MARKS];        /* (n_marks) ids of the format's marks that are special tokens */
  uint32_t n_marks;
};
/* name: model.tool_parser. chat NULL: the model has no chat template. Boot. */
void api_tools_init(struct api_tools *tools, const char *name, const struct tl_chat_format *chat,
                    const struct tl_tokenizer *tokenizer);

/* A call's id by its number, which is evenly spread over 64 bits; format NULL: any. */
void api_tool_call_id(const struct api_tool_format *format, uint64_t number, char ret[24]);

/* tool_text.c */
extern const struct api_tool_format api_tool_hermes_format, api_tool_granite_format, api_tool_mistral_format, api_tool_llama3_json_format,
    api_tool_phi4_mini_format, api_tool_nemotron_format;
/* tool_xml.c */
extern const struct api_tool_format api_tool_qwen3_coder_format, api_tool_seed_oss_format, api_tool_glm45_format;
/* tool_pythonic.c, tool_deepseek.c, tool_glm.c */
extern const struct api_tool_format api_tool_pythonic_format, api_tool_deepseek_v3_format, api_tool_glm4_format;
/* tool_gemma.c, tool_harmony.c */
extern const struct api_tool_format api_tool_gemma4_format, api_tool_harmony_format;

/* The one in which the model's chat template writes calls, or tells the model to; chat NULL: it has none.
 * NULL: none that is known. Boot. */
const struct api_tool_format *api_tool_format_of(const struct tl_chat_format *chat);

#endif
