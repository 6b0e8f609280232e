/* SPDX-License-Identifier: MIT */
/* Text to tokens and back: tokenizers as Hugging Face's tokenizer.json
 * describes them, streaming detokenizer, chat templates. Everything loaded is
 * immutable and may be used by any thread at once. */
#ifndef TOKENLANE_TEXT_H
#define TOKENLANE_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tokenlane/base/buffer.h"
#include "tokenlane/base/error.h"

struct tl_tokenizer;

/* Growable array of token ids. */
struct tl_tokens {
  int32_t *ids; /* owned */
  size_t n, capacity;
  size_t limit; /* 0: none; more tokens than this: TL_ELIMIT */
};
void tl_tokens_done(struct tl_tokens *tokens);

/* A run of bytes [start, end) of a text. */
struct tl_span {
  size_t start, end;
};

/* Reads a tokenizer.json: the file itself, or the one in a folder; or what a .gguf file has in
 * its metadata, and if that is nothing the one beside it.
 * Boot. The caller frees the result. Errors name the file and what is wrong. */
int tl_tokenizer_load(const char *file, struct tl_tokenizer **ret, struct tl_error *err);
/* Where there is no tokenizer.json but its parts, as in GGUF's metadata. */
struct tl_text {
  const char *text;
  size_t length;
};
enum tl_piece_type { /* the numbers are GGUF's */
  TL_PIECE_NORMAL = 1,
  TL_PIECE_UNKNOWN,
  TL_PIECE_CONTROL,
  TL_PIECE_USER_DEFINED,
  TL_PIECE_UNUSED,
  TL_PIECE_BYTE,
};
struct tl_tokenizer_parts {
  const char *kind;             /* tokenizer.ggml.model: llama, gpt2, bert, t5 */
  const char *pre;              /* gpt2: how text is split, by the model's name; NULL: default */
  const struct tl_text *pieces; /* (n) UTF-8 */
  const float *scores;          /* (n) llama and t5; else NULL */
  const int32_t *types;         /* (n) enum tl_piece_type; NULL: all normal */
  uint32_t n, n_merges;
  const struct tl_text *merges; /* (n_merges) gpt2: "left right" */
  const char *charsmap;         /* t5: SentencePiece's precompiled map */
  size_t charsmap_length;
  int32_t unk, before, after;   /* ids; -1: none. before and after: what add_special puts around a text */
  bool add_space_prefix, remove_extra_spaces;
};
/* Boot. Everything in parts is copied; the caller frees the result. */
int tl_tokenizer_new(const struct tl_tokenizer_parts *parts, struct tl_tokenizer **ret, struct tl_error *err);
void tl_tokenizer_free(struct tl_tokenizer *tokenizer);
/* Ids are 0 .. size-1, gaps included. */
int32_t tl_tokenizer_size(const struct tl_tokenizer *tokenizer);

struct tl_encode_options {
  bool add_special;   /* run the post-processor (BOS and the like) */
  bool parse_special; /* special tokens in the text become their ids */
  /* Runs that came from a client, ascending: no special token, and none that
   * is spelled as one (<|...|>), is recognised that touches one of them,
   * whatever parse_special says; all else is tokenized as if they were not marked, so ordinary text gives the same ids
   * as the reference implementation. */
  const struct tl_span *untrusted;
  size_t n_untrusted;
};
/* Appends the ids of text (any bytes; ill-formed UTF-8 is read as U+FFFD) to
 * *out. O(n log n). Any thread. */
int tl_tokenizer_encode(const struct tl_tokenizer *tokenizer, const char *text, size_t length,
                        const struct tl_encode_options *options, struct tl_tokens *out, struct tl_error *err);
/* How many ids add_special puts before a text (BOS and the like). */
uint32_t tl_tokenizer_before(const struct tl_tokenizer *tokenizer);
/* Two texts as one sequence, for models that compare them. How many ids the post-processor puts around
 * one text, or (pair) around and between two; TL_EUNSUPPORTED: it does not say how two are joined. Any thread. */
int tl_tokenizer_n_around(const struct tl_tokenizer *tokenizer, bool pair, uint32_t *ret, struct tl_error *err);
/* Puts the ids of one text (second NULL), or of two, that were encoded without add_special, together as the
 * post-processor has it. ret_ids, ret_types: (n_first + n_second + what tl_tokenizer_n_around says), the latter the
 * token types (segment ids), or NULL. Any thread. */
void tl_tokenizer_join(const struct tl_tokenizer *tokenizer, const int32_t *first, uint32_t n_first, const int32_t *second,
                       uint32_t n_second, int32_t *ret_ids, uint8_t *ret_types);
/* Makes two texts shorter, the longer one first, until they are at most `most` ids together: what
 * `tokenizers` calls longest_first. Any thread. */
void tl_tokenizer_shorten(uint32_t *n_first, uint32_t *n_second, uint32_t most);
bool tl_tokenizer_is_special(const struct tl_tokenizer *tokenizer, int32_t id);
/* The token that is spelled so; -1: there is none. */
int32_t tl_tokenizer_find(const struct tl_tokenizer *tokenizer, const char *spelling);
/* Bytes that the token stands for in running text (as the decoder has it inside a text; any
 * bytes, maybe half a character). NULL for an id without a token. */
const char *tl_tokenizer_bytes(const struct tl_tokenizer *tokenizer, int32_t id, size_t *ret_length);
/* Appends the text of n ids; ill-formed UTF-8 becomes U+FFFD. */
int tl_tokenizer_decode(const struct tl_tokenizer *tokenizer, const int32_t *ids, size_t n, bool skip_special,
                        struct tl_buffer *out);

/* --- streaming: one token in, whole characters out ---------------------------- */
struct tl_detok {
  const struct tl_tokenizer *tokenizer;
  bool skip_special;
  const int32_t *kept; /* (n_kept) special tokens that have a text all the same; borrowed; init: none */
  uint32_t n_kept;
  bool started;           /* a token came */
  bool wrong;             /* within a run of byte tokens that is not UTF-8 */
  int32_t last;           /* the token before, where the decoder looks at it; -1: none */
  uint8_t n_start, n_stop; /* characters stripped at the beginning, held back at the end */
  uint8_t n_held;
  char held[4]; /* bytes of a character that is not complete yet */
};
void tl_detok_init(struct tl_detok *detok, const struct tl_tokenizer *tokenizer, bool skip_special);
/* Appends to out the text that the token completes, never half a character;
 * bytes that can no longer become one turn into U+FFFD. The pieces of a
 * sequence concatenate to what tl_tokenizer_decode gives, but for one thing: of a run of
 * byte tokens (<0xNN>) that goes wrong somewhere the whole decoder makes U+FFFD a byte, the
 * stream has shown the characters before that already. */
int tl_detok_push(struct tl_detok *detok, int32_t id, struct tl_buffer *out);
/* End of the sequence: what is still held becomes U+FFFD. */
int tl_detok_finish(struct tl_detok *detok, struct tl_buffer *out);

/* --- chat templates -------------------------------------------------------------- */
struct tl_template;

struct tl_template_limits {
  uint64_t fuel;          /* evaluation steps */
  size_t max_output_bytes;
  unsigned max_depth;     /* nesting and recursion */
};
extern const struct tl_template_limits tl_template_default_limits;

/* Rendered text with the runs that came from the client's values. */
struct tl_rendered {
  struct tl_buffer text;
  struct tl_span *untrusted; /* owned; ascending, not touching one another */
  size_t n_untrusted;
};
void tl_rendered_done(struct tl_rendered *rendered);

/* Compiles Jinja source as transformers would (trim_blocks, lstrip_blocks).
 * Boot. Syntax errors give the line. Caller frees. */
int tl_template_compile(const char *source, size_t length, struct tl_template **ret, struct tl_error *err);
void tl_template_free(struct tl_template *tmpl);
/* Renders with the members of `trusted` (bos_token, add_generation_prompt, ...) and
 * of `untrusted` (messages, tools, ...), both JSON objects, borrowed, not
 * changed, as variables. *ret is initialised here; on error it is empty.
 * raise_exception('x') gives TL_EINVAL with message x. now_s: what strftime_now() takes
 * for the time, seconds since 1970; 0: the clock. Any thread. */
int tl_template_render(const struct tl_template *tmpl, json_t *trusted, json_t *untrusted,
                       const struct tl_template_limits *limits, int64_t now_s, struct tl_rendered *ret,
                       struct tl_error *err);

/* Whether the template reads a variable of that name somewhere. */
bool tl_template_reads(const struct tl_template *tmpl, const char *name);

/* The chat templates of a model ("default", "tool_use", ...) and its special tokens, which they see
 * as bos_token, eos_token and so on. */
struct tl_chat_format;
struct tl_chat_template; /* one of them; lives as long as its format */

/* Those of a folder, or of a .gguf file and the folder that it is in. chat_template.jinja and
 * additional_chat_templates/NAME.jinja, if there is one, come before what tokenizer_config.json or the
 * .gguf file has. Boot. *ret is NULL with TL_OK when there is no template. Caller frees. */
int tl_chat_format_load(const char *model, struct tl_chat_format **ret, struct tl_error *err);
/* A template from elsewhere, with the special tokens of base (borrowed; NULL: none). Any thread. Caller frees. */
int tl_chat_format_new(const struct tl_chat_format *base, const char *source, size_t length,
                       struct tl_chat_format **ret, struct tl_error *err);
void tl_chat_format_free(struct tl_chat_format *format);

/* The template of that name; NULL: "tool_use" if there are tools and such a template, else "default".
 * NULL: there is none. */
const struct tl_chat_template *tl_chat_format_pick(const struct tl_chat_format *format, const char *name,
                                                   bool with_tools);
/* What a template reads, found out when it was loaded. */
enum tl_chat_takes {
  TL_CHAT_TEXT = 1,  /* a message's content as a string */
  TL_CHAT_PARTS = 2, /* as a list of {"type": "text", "text": ...} */
  TL_CHAT_TOOLS = 4,
  TL_CHAT_DOCUMENTS = 8,
  TL_CHAT_EFFORT = 16,   /* reasoning_effort, a kwarg */
  TL_CHAT_THINKING = 32, /* enable_thinking, a kwarg */
  TL_CHAT_THOUGHTS = 64, /* what an earlier answer thought as `thinking` of its message, as GPT-OSS's does */
  TL_CHAT_CALL_TEXT = 128, /* the arguments of a call as a string of JSON: of an object it makes nothing, or no JSON */
  TL_CHAT_CALL_NULL = 256, /* null as content of a message that has calls and no text: without content it does worse */
  TL_CHAT_CALL_EMPTY = 512, /* "" as that: on null it fails, or prints None */
};
unsigned tl_chat_template_takes(const struct tl_chat_template *tmpl);
/* Whether a text stands somewhere in its source. */
bool tl_chat_template_says(const struct tl_chat_template *tmpl, const char *text);

/* A conversation, as transformers' apply_chat_template takes it. All is borrowed and not changed. */
struct tl_chat {
  json_t *messages;         /* list */
  json_t *tools, *documents; /* lists; NULL: the template sees none */
  json_t *kwargs;           /* object of further variables, or NULL; they hide special tokens of the same name */
  bool add_generation_prompt;
  bool continue_final_message; /* the text ends where the last message's does */
  int64_t now_s;               /* as for tl_template_render */
};
/* As tl_template_render; messages, tools, documents and kwargs came from the client. Errors that are not
 * the template's name their field. */
int tl_chat_render(const struct tl_chat_template *tmpl, const struct tl_chat *chat,
                   const struct tl_template_limits *limits, struct tl_rendered *ret, struct tl_error *err);

#endif
