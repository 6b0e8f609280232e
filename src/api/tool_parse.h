/* SPDX-License-Identifier: MIT */
/* Calls of tools in the text that a model writes by itself: pieces of the answer in, cut anywhere; text for
 * the client and calls out. Pure: no clock, no request, no thread.
 *
 *   detokenizer ─► stop strings ─► parser ─┬─► content
 *                                          └─► calls: name, then arguments piece by piece
 *
 * Nothing of a call's markup reaches the content; text that only begins like a call is content as soon
 * as it can be none. */
#ifndef TOOL_PARSE_H
#define TOOL_PARSE_H

#include "api/tool_json.h"
#include "api/tool_python.h"
#include "api/tool_value.h"
#include "tokenlane/base/buffer.h"
#include "tokenlane/text.h"

/* --- calls: also of answers that a grammar made to be calls --------------------------------------- */

struct api_tool_call {
  struct tl_buffer name;      /* whole, once the call is there */
  struct tl_buffer arguments; /* JSON text of an object as far as it has come, as the model wrote it if it wrote JSON; streams consume what they sent */
  size_t at;                  /* bytes of content before it: of a stream, of what was not sent when it came */
  bool ended;                 /* the arguments are whole */
  bool announced;             /* streams: the chunk with its id and name is out */
};

struct api_tool_calls {
  struct api_tool_call *items; /* (n) owned */
  unsigned n, capacity;
};
/* One more call, without arguments yet. TL_ENOMEM. */
int api_tool_calls_add(struct api_tool_calls *calls, const char *name, size_t length);
void api_tool_calls_done(struct api_tool_calls *calls);

/* --- formats ---------------------------------------------------------------------------------------- */

#define API_TOOL_MARKS 7 /* at most, of a format */

struct api_tool_parser;

struct api_tool_format {
  const char *name; /* as model.tool_parser has it */
  /* (n_marks) texts that mark calls. Where a tokenizer has them as special tokens the detokenizer must show them.
   * The first n_begin begin calls, n_end behind them end one. */
  const char *marks[API_TOOL_MARKS];
  unsigned n_marks, n_begin, n_end;
  bool typed;      /* it needs to know the request's tools */
  bool short_ids;  /* of calls: nine letters or digits, as the models' templates want them */
  unsigned traits; /* tool_text.c's own */
  const struct tool_xml *xml; /* tool_xml.c's */
  void (*take)(struct api_tool_parser *parser, char c); /* the next character */
  void (*end)(struct api_tool_parser *parser);          /* there is no more */
};
/* What tool_choice "required" makes of an answer: a list of {"name": ..., "parameters": ...}, and nothing else. */
extern const struct api_tool_format api_tool_list_format;

/* --- parsing ------------------------------------------------------------------------------------------- */

struct api_tool_parser {
  const struct api_tool_format *format;
  const struct api_tool_types *types;
  bool whole;    /* a call shows only once it is whole: what goes wrong before that is content */
  uint8_t state; /* of the format; 0: text */
  bool open;     /* the last of calls is the one that is being read: it shows */
  bool list;     /* the call stands in a list */
  bool blank;    /* since the beginning, or the last call, there was nothing but white space */
  size_t n_blank; /* so much of held is that white space */
  size_t n_part;  /* characters of the part of a mark that is being read */
  int mark;       /* TOOL_MARK: which */
  struct tl_buffer held; /* text as it came that may become a call */
  struct tool_object object; /* formats that are no JSON: its name, and JSON made of what came */
  struct tl_buffer word;     /* of such: a key, a tag or what may end a value, which is being read */
  struct tool_value value;   /* and a value */
  struct tool_python python;
  struct tl_buffer *content;    /* where text goes, during a push */
  struct api_tool_calls *calls; /* and calls */
  bool failed;                  /* no memory for a call */
};
/* format is borrowed, and types, which may be NULL: nothing is known of the tools. whole: for answers that are sent at once. */
void api_tool_parser_init(struct api_tool_parser *parser, const struct api_tool_format *format, const struct api_tool_types *types, bool whole);
void api_tool_parser_done(struct api_tool_parser *parser);
/* Adds text (UTF-8, whole characters); appends to content and calls what is certain. Time is linear in the text, memory
 * a few times what is held back. Arguments that turn out to be no JSON once their call shows go on as they are, to
 * where their brackets close, or to a mark. TL_ENOMEM. */
int api_tool_parser_push(struct api_tool_parser *parser, const char *text, size_t length, struct tl_buffer *content,
                         struct api_tool_calls *calls);
/* End of the answer: what was held back and is no call is content. */
int api_tool_parser_finish(struct api_tool_parser *parser, struct tl_buffer *content, struct api_tool_calls *calls);

/* --- for formats ------------------------------------------------------------------------------------------ */

/* A character of text: whatever can be no mark goes to the content. The index of the mark that it completes, which
 * is what held has behind n_blank; -1: of none. n: the first so many marks are looked for. */
int tool_find_mark(struct api_tool_parser *parser, unsigned n, char c);
/* As that, of the marks that begin a call; those that end one are dropped behind a call and text elsewhere. */
int tool_find_begin(struct api_tool_parser *parser, char c);
/* A character of what may become a call; the state next comes after it. */
void tool_hold(struct api_tool_parser *parser, char c, unsigned next);
#define TOOL_LONGEST_TAG 40
#define TOOL_NO_TAG (-2)
/* A character where one of n tags must stand, behind white space: the index of the one that it completes, -1: goes on, TOOL_NO_TAG: none of
 * them. word is for it, and has to be empty at first. */
int tool_expect(struct api_tool_parser *parser, const char *const *tags, unsigned n, char c);
/* What is held is content after all. */
void tool_give_up(struct api_tool_parser *parser);
/* What is held was markup; text comes next. */
void tool_drop(struct api_tool_parser *parser);
/* A format's end, where state 0 is text: what is held is content, but nothing if a call shows, or behind one with no text since. */
void tool_end(struct api_tool_parser *parser);
/* The end, as the format has it. behind: what is held stands behind a call, if there was one, and is markup then. */
void tool_end_behind(struct api_tool_parser *parser, bool behind);
/* A character between the items of a list of calls. behind: one of them has come, else one must. item, text: the states behind a
 * comma, and behind the list. False: c begins an item, or does not belong there. */
bool tool_take_between(struct api_tool_parser *parser, char c, bool behind, unsigned item, unsigned text);
/* No call after all, or no more of one that shows, as c says, which is text; what came of a tag is text too. */
void tool_refuse(struct api_tool_parser *parser, char c);
/* A character of a call that shows and has gone wrong: it goes to the arguments as it is. ended: it is the last. TOOL_MARK: a mark ends
 * them before it. */
enum tool_took tool_take_stray(struct api_tool_parser *parser, char c, bool ended);
/* JSON made of a call's arguments goes to the call, which shows from now on; whole: only if it has ended. */
void tool_show_made(struct api_tool_parser *parser, bool ended);
/* A character of the object; once it has a name and arguments (whole: once it has ended) the call shows and nothing
 * is held. TOOL_WRONG: c belongs to what comes behind, and open says whether the call shows. TOOL_MARK: a mark stands
 * in arguments that are no JSON, and they end before it; only of calls that show. */
enum tool_took tool_take_object(struct api_tool_parser *parser, char c);

#endif
