/* SPDX-License-Identifier: MIT */
/* JSON of a call, character by character: where it ends, and its name and arguments on the way. Pure. */
#ifndef API_TOOL_JSON_H
#define API_TOOL_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include "tokenlane/base/buffer.h"

enum tool_took {
  TOOL_MORE,  /* goes on */
  TOOL_DONE,  /* that character was its last */
  TOOL_WRONG, /* that character cannot stand here */
  TOOL_MARK,  /* tool_parse.h: a mark ended it */
};

/* RFC 8259's white space. */
static inline bool tool_is_white(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

#define TOOL_JSON_DEPTH 64 /* as of a request's body */

/* An object or a list, as RFC 8259 has them. */
struct tool_json {
  uint64_t lists;   /* bit d: what depth d + 1 is within is a list */
  uint32_t depth;   /* brackets that are open */
  uint8_t state;
  bool key;         /* of a string: a member's name */
  bool loose;       /* it was wrong somewhere: only brackets outside of strings count */
  const char *rest; /* of true, false or null; of \u: how many digits are to come */
};
void tool_json_init(struct tool_json *json);
/* White space before it is taken, behind it not. After TOOL_WRONG nothing has changed. */
enum tool_took tool_json_take(struct tool_json *json, char c);
/* Whether a text is one value of any kind, and white space. */
bool tool_json_is_value(const char *text, size_t length);

/* {"name": ..., "arguments": {...}}, in any order and with further members, or "parameters"; or the arguments alone. */
struct tool_object {
  struct tool_json json;
  struct tl_buffer name;      /* while it comes: as JSON; then its text */
  struct tl_buffer arguments; /* what has come and was not taken away */
  char key[12];               /* of the member that is being read */
  uint8_t key_length;
  uint8_t member;
  bool bare;   /* it is the arguments; the caller gives the name */
  bool named;  /* the name is known */
  bool begun;  /* the arguments are */
  bool ended;  /* and they are whole */
  bool loose;  /* the caller has shown it: arguments that are no JSON go on to where their brackets close */
  bool strayed; /* they are no JSON */
};
void tool_object_init(struct tool_object *object);
void tool_object_done(struct tool_object *object);
/* Another one; keeps its memory. */
void tool_object_reset(struct tool_object *object, bool bare);
/* TOOL_DONE only with a name and arguments. Without memory the buffers say `failed`. */
enum tool_took tool_object_take(struct tool_object *object, char c);

#endif
