/* SPDX-License-Identifier: MIT */
/* Which formats of thoughts there are, and which a model writes. */
#ifndef REASONING_FORMATS_H
#define REASONING_FORMATS_H

#include "api/reasoning_parse.h"
#include "api/tool_formats.h"
#include "tokenlane/grammar.h"

/* How one model thinks. */
struct api_reasoning {
  const struct api_reasoning_format *format; /* NULL: in no way that is known */
  /* ids of marks that are special tokens: (n_marks) the format's, and behind them, (n_all) together, those of its tools */
  int32_t marks[API_REASONING_MARKS + API_TOOL_MARKS];
  uint32_t n_marks, n_all;
  struct tl_thinking_mark texts[API_REASONING_MARKS]; /* (n_marks) */
  struct tl_thinking thinking; /* for grammars; ends[0] NULL: they bind the whole answer */
};
/* name: model.reasoning_parser. chat NULL: the model has no chat template. Points into itself. Boot. */
void api_reasoning_init(struct api_reasoning *reasoning, const char *name, const struct tl_chat_format *chat,
                        const struct tl_tokenizer *tokenizer, const struct api_tools *tools);

/* The one that the model's chat template knows of; chat NULL: it has none. NULL: none that is known. Boot. */
const struct api_reasoning_format *api_reasoning_format_of(const struct tl_chat_format *chat);

/* How an answer begins behind a prompt that ends with `text`. */
enum api_reasoning_start api_reasoning_start_after(const struct api_reasoning_format *format, const char *text, size_t length);
/* And behind a message of its own that it goes on with. */
enum api_reasoning_start api_reasoning_start_within(const struct api_reasoning_format *format, const char *text, size_t length);

#endif
