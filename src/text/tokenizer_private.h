/* SPDX-License-Identifier: MIT */
/* A tokenizer's parts, in the order in which a text passes them:
 *
 *   added tokens -> normalizer -> added tokens (normalized) -> pre-tokenizer
 *   -> BPE -> post-processor
 *
 * Everything is made at load and constant afterwards; what one call needs
 * lives in its struct tok_encode. */
#ifndef TEXT_TOKENIZER_PRIVATE_H
#define TEXT_TOKENIZER_PRIVATE_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "tokenlane/base/arena.h"
#include "tokenlane/text.h"

#define TOK_MAX_ID ((int32_t)1 << 24) /* ids of a file are below this */
#define TOK_MAX_STEPS 16              /* entries of a normalizer's or pre-tokenizer's Sequence */

struct tok_token {
  const char *text;  /* as the file spells it */
  const char *bytes; /* what it stands for */
  uint32_t text_length, n_bytes;
  bool known, special;
};

/* Strings of known tokens to ids: by the file's spelling or by bytes. */
struct tok_map {
  uint32_t *slots; /* id + 1; 0: free */
  uint32_t mask;
  bool by_bytes;
  uint64_t key;
};

struct tok_merge {
  uint64_t pair; /* left id << 32 | right id; UINT64_MAX: free */
  uint32_t rank;
  int32_t id;
};

struct tok_bpe {
  struct tok_merge *merges; /* hash table */
  uint64_t mask;
  int32_t byte_id[256];     /* -1: the byte is not in the vocabulary */
  int32_t unk;              /* -1: such bytes vanish */
  bool fuse_unk, ignore_merges;
};

enum tok_norm_kind { TOK_NORM_FORM, TOK_NORM_LOWERCASE, TOK_NORM_REPLACE, TOK_NORM_PREPEND, TOK_NORM_STRIP };

struct tok_norm {
  enum tok_norm_kind kind;
  int form;             /* FORM: utf8proc options */
  pcre2_code *pattern;  /* REPLACE; owned */
  const char *content;  /* REPLACE, PREPEND */
  size_t content_length;
  bool left, right;     /* STRIP */
};

enum tok_behaviour { TOK_ISOLATED, TOK_REMOVED, TOK_CONTIGUOUS, TOK_MERGED_PREVIOUS, TOK_MERGED_NEXT };

struct tok_pre {
  bool prefix_space;    /* a text that does not begin with a space gets one */
  pcre2_code *pattern;  /* owned; NULL: does not split */
  enum tok_behaviour behaviour;
  bool invert;
};

struct tok_added {
  int32_t id;
  const char *content; /* as it is looked for: normalized or not */
  size_t length;
  bool special, single_word, lstrip, rstrip, normalized;
  bool guarded; /* never recognised in a client's text */
};

/* Trie over bytes of added tokens. */
struct tok_trie_node {
  uint32_t child, sibling; /* 0: none */
  int32_t added;           /* index + 1 of the added token that ends here; 0: none */
  uint8_t byte;
};
struct tok_trie {
  struct tok_trie_node *nodes; /* 0 is not used */
  uint32_t n, capacity;
  uint32_t root[256];
};

struct tl_tokenizer {
  struct tl_arena mem;
  struct tok_token *tokens;
  int32_t size;
  struct tok_map by_text, by_bytes;
  struct tok_bpe bpe;
  struct tok_norm norms[TOK_MAX_STEPS];
  unsigned n_norms;
  struct tok_pre pres[TOK_MAX_STEPS];
  unsigned n_pres;
  struct tok_added *added;
  uint32_t n_added;
  struct tok_trie plain, normalized; /* matched before and after the normalizer */
  uint32_t longest;                  /* bytes that one token can stand for at most; 0: unknown */
  int32_t *before, *after;           /* ids that the post-processor puts around a text */
  uint32_t n_before, n_after;
};

struct tok_piece {
  size_t start, end;
  bool match;
};
struct tok_pieces {
  struct tok_piece *items; /* owned */
  size_t n, capacity;
};

/* One call of tl_tokenizer_encode. */
struct tok_encode {
  const struct tl_tokenizer *t;
  struct tl_tokens *out;
  struct tl_error *err;
  pcre2_match_data *match;
  pcre2_match_context *match_context;
  struct tok_pieces pieces[TOK_MAX_STEPS]; /* one list per pre-tokenizer */
  struct tl_buffer spaced;                 /* a text with its prefix space */
  /* BPE's work memory, grown to the longest piece */
  int32_t *ids;
  uint32_t *prev, *next;
  uint64_t *pairs;
  size_t capacity;
};

/* --- tokens.c ----------------------------------------------------------------- */
int tok_push(struct tl_tokens *tokens, int32_t id, struct tl_error *err);

/* --- vocab.c ------------------------------------------------------------------ */
int tok_map_init(struct tok_map *map, struct tl_arena *mem, size_t n, bool by_bytes);
void tok_map_put(struct tok_map *map, const struct tok_token *tokens, int32_t id);
int32_t tok_map_find(const struct tok_map *map, const struct tok_token *tokens, const char *key, size_t length);
/* GPT-2's byte alphabet: turns the file's spelling into bytes (never longer).
 * False: a character is not of the alphabet, and the token stands for its own
 * spelling; ret then holds that. */
bool tok_byte_level(const char *text, size_t length, char *ret, size_t *ret_length);
/* The character that spells `byte`; returns its UTF-8 length. */
size_t tok_byte_spelling(uint8_t byte, char ret[4]);

/* --- pattern.c: PCRE2 with Oniguruma's meaning of \s --------------------------- */
int tok_pattern_compile(const char *source, size_t length, bool literal, pcre2_code **ret, struct tl_error *err);
/* The next non-empty match at or after `from`: 1, 0 none, or a TL_E code. text is valid UTF-8. */
int tok_pattern_find(const pcre2_code *code, const char *text, size_t length, size_t from, pcre2_match_data *match,
                     pcre2_match_context *context, struct tok_piece *ret, struct tl_error *err);
int tok_match_new(size_t length, pcre2_match_data **ret_match, pcre2_match_context **ret_context,
                  struct tl_error *err);

/* --- the stages ----------------------------------------------------------------- */
/* normalize.c: appends the normalized text. */
int tok_normalize(const struct tl_tokenizer *t, const char *text, size_t length, struct tl_buffer *out,
                  struct tl_error *err);
/* added_tokens.c */
int tok_trie_add(struct tok_trie *trie, const struct tok_added *added, uint32_t index);
/* Finds the next added token at or after `from`. Special ones count only if
 * parse_special, guarded ones when they touch no span. 1 with *ret (including the
 * whitespace that the token strips, not before `from`) and *ret_added; or 0. */
int tok_added_find(const struct tl_tokenizer *t, const struct tok_trie *trie, const char *text, size_t length,
                   size_t from, bool parse_special, const struct tl_span *untrusted, size_t n_untrusted,
                   struct tl_span *ret, const struct tok_added **ret_added);
/* pretokenize.c: splits by pre-tokenizers `step` and later, encodes the pieces. */
int tok_pretokenize(struct tok_encode *e, const char *text, size_t length, unsigned step);
/* bpe.c: one piece to ids. */
int tok_bpe_piece(struct tok_encode *e, const char *piece, size_t length);
void tok_bpe_merges_put(struct tok_bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id);
/* tokenizer_parts.c: the JSON of each stage. */
int tok_parse_normalizer(struct tl_tokenizer *t, json_t *json, struct tl_error *err);
int tok_parse_pre_tokenizer(struct tl_tokenizer *t, json_t *json, struct tl_error *err);
int tok_parse_post_processor(struct tl_tokenizer *t, json_t *json, struct tl_error *err);
int tok_parse_decoder(json_t *json, struct tl_error *err);
/* tokenizer_vocab.c: model and added_tokens. */
int tok_parse_model(struct tl_tokenizer *t, json_t *model, json_t *added, struct tl_error *err);
int tok_parse_added(struct tl_tokenizer *t, json_t *added, struct tl_error *err);

#endif
