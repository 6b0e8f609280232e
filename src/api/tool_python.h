/* SPDX-License-Identifier: MIT */
/* Python's literals to JSON, character by character. Pure. */
#ifndef API_TOOL_PYTHON_H
#define API_TOOL_PYTHON_H

#include "api/tool_json.h"

#define TOOL_PYTHON_WORD 48 /* of a number or a constant, at most so many characters */

/* Arguments of a call, (a=1, b="x"); or a list or a dict. Lists, dicts whose keys are strings, strings without a prefix, decimal
 * numbers, True, False and None, also as JSON writes these; what else Python has is wrong. */
struct tool_python {
  uint8_t brackets[TOOL_JSON_DEPTH]; /* (depth) that are open, by kind */
  uint32_t depth;
  uint8_t state;
  bool key;       /* of a string: a dict's key */
  bool more;      /* a comma came and nothing behind it yet */
  bool named;     /* a first argument has its name, or there is none */
  bool triple;    /* of a string */
  char quote;     /* of a string */
  uint8_t n;      /* quotes that may end a string; digits of an escape that are to come */
  uint8_t n_word; /* of a word that has not been written yet */
  uint32_t code;  /* of an escape */
  char word[TOOL_PYTHON_WORD];
};
/* call: ( comes first; else [ or {. */
void tool_python_init(struct tool_python *python, bool call);
/* Appends the JSON of what is certain to out. Behind TOOL_WRONG nothing but the next takes more of it. */
enum tool_took tool_python_take(struct tool_python *python, char c, struct tl_buffer *out);
/* That character and those behind it when it was wrong: only brackets outside of strings count. */
enum tool_took tool_python_skip(struct tool_python *python, char c);

#endif
