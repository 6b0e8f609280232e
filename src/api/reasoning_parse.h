/* SPDX-License-Identifier: MIT */
/* What a model thinks before it answers, taken out of its text: pieces of the answer in, cut anywhere; thoughts and the rest
 * out. Pure: no clock, no request, no thread.
 *
 *   detokenizer ─► stop strings ─► reasoning ─┬─► thoughts
 *                                             └─► rest ─► tool_parse.h ─► content, calls
 *
 * Nothing of the marks reaches either. White space around thoughts is nobody's: models write line breaks on both sides of the
 * marks, and llama.cpp's server strips them as well (vLLM does not). */
#ifndef REASONING_PARSE_H
#define REASONING_PARSE_H

#include <stdint.h>

#include "tokenlane/base/buffer.h"
#include "tokenlane/base/error.h"

/* --- formats ---------------------------------------------------------------------------------------- */

#define API_REASONING_MARKS 7 /* at most, of a format */

struct api_reasoning_parser;

struct api_reasoning_format {
  const char *name; /* as model.reasoning_parser has it */
  /* (n_marks) texts that mark thoughts. Where a tokenizer has them as special tokens the detokenizer must show them.
   * The first n_begin begin thoughts, n_end behind them end them. */
  const char *marks[API_REASONING_MARKS];
  unsigned n_marks, n_begin, n_end;
  const char *ends[2]; /* as struct tl_thinking; NULL: a grammar binds the whole answer */
  void (*take)(struct api_reasoning_parser *parser, char c); /* the next character */
  void (*end)(struct api_reasoning_parser *parser);          /* there is no more */
};
/* <think>...</think>, <seed:think>...</seed:think>, [THINK]...[/THINK], and what Granite 3.2 says in words */
extern const struct api_reasoning_format api_reasoning_think_format, api_reasoning_seed_format, api_reasoning_mistral_format, api_reasoning_granite_format,
    api_reasoning_gemma4_format;
/* reasoning_harmony.c */
extern const struct api_reasoning_format api_reasoning_harmony_format;

/* What the prompt says of the beginning of an answer. */
enum api_reasoning_start {
  API_REASONING_MAYBE,  /* thoughts may come */
  API_REASONING_WITHIN, /* their mark is the prompt's end */
  API_REASONING_OVER,   /* they have ended within the prompt, or it has some of the answer's content */
};

/* --- parsing ------------------------------------------------------------------------------------------- */

struct api_reasoning_parser {
  const struct api_reasoning_format *format;
  uint8_t state;  /* of the format */
  uint8_t target; /* reasoning_harmony.c: where the message goes */
  bool calls;     /* reasoning_harmony.c: messages to functions go on as they are, marks and all */
  bool exact;     /* white space before the content is content */
  bool within;    /* what comes next is a thought, as far as is known */
  bool thought, said; /* some of each is out */
  size_t n_made;  /* reasoning_harmony.c: line breaks in the rest that the model did not write */
  struct tl_buffer held;  /* text as it came that may become a mark, or a header */
  struct tl_buffer blank; /* white space that is a thought's if more of it comes */
  struct tl_buffer *thoughts, *rest; /* where text goes, during a push */
};
/* format is borrowed. calls, exact: see above. */
void api_reasoning_parser_init(struct api_reasoning_parser *parser, const struct api_reasoning_format *format,
                               enum api_reasoning_start start, bool calls, bool exact);
void api_reasoning_parser_done(struct api_reasoning_parser *parser);
/* Adds text (UTF-8, whole characters); appends to thoughts and rest what is certain. Time is linear in the text, memory what is
 * held back: a mark, a header or white space. TL_ENOMEM. */
int api_reasoning_parser_push(struct api_reasoning_parser *parser, const char *text, size_t length, struct tl_buffer *thoughts,
                              struct tl_buffer *rest);
/* End of the answer: what was held back and is no mark belongs where it came. */
int api_reasoning_parser_finish(struct api_reasoning_parser *parser, struct tl_buffer *thoughts, struct tl_buffer *rest);

/* --- for formats ------------------------------------------------------------------------------------------ */

/* A character of a thought. */
void reasoning_think(struct api_reasoning_parser *parser, char c);
/* The mark, of marks[from, to), that what is held begins; to: none does. *ret_whole: it is all of it. */
unsigned reasoning_mark(const struct api_reasoning_parser *parser, unsigned from, unsigned to, bool *ret_whole);
/* What is held was no mark: its characters, one after the other, go to `take`. */
void reasoning_give_up(struct api_reasoning_parser *parser, void (*take)(struct api_reasoning_parser *parser, char c));

#endif
