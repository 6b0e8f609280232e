/* SPDX-License-Identifier: MIT */
/* A tokenizer's parts, in the order in which a text passes them:
 *
 *   added tokens -> normalizers -> added tokens (normalized) -> pre-tokenizers
 *   -> model (BPE, Unigram, WordPiece) -> post-processor
 *
 * Each kind of part is a row of a table: models[] in tokenizer_json.c, kinds[] in
 * parse_normalizer.c, parse_pretokenizer.c, parse_decoder.c. Everything is made at load
 * and constant afterwards; what one call needs lives in its struct tok_encode. */
#ifndef TEXT_TOKENIZER_PRIVATE_H
#define TEXT_TOKENIZER_PRIVATE_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "text/byte_trie.h"
#include "tokenlane/base/arena.h"
#include "tokenlane/text.h"

#define TOK_MAX_ID ((int32_t)1 << 24) /* ids of a file are below this */
#define TOK_MAX_STEPS 16              /* entries of a normalizer's or pre-tokenizer's Sequence */

struct tok_token {
  const char *text;  /* as the file spells it */
  const char *raw;   /* the bytes of a piece that it matches: text, or what byte-level spelling stands for */
  const char *shown; /* what the decoder is given: text, or for some added tokens what the normalizer made of it */
  const char *bytes; /* what the decoder makes of it inside a text */
  uint32_t text_length, n_raw, n_shown, n_bytes;
  bool known, special;
  bool spelled;      /* raw is bytes that pieces can have */
  bool byte;         /* <0xNN>, and the decoder joins such bytes */
  bool guarded;      /* a control token: the model never makes it of a text */
};

/* Strings of known tokens to ids: by the file's spelling or by raw bytes. */
struct tok_map {
  uint32_t *slots; /* id + 1; 0: free */
  uint32_t mask;
  bool by_raw;
  uint64_t key;
};

/* --- models -------------------------------------------------------------------- */
struct tok_merge {
  uint64_t pair; /* left id << 32 | right id; UINT64_MAX: free */
  uint32_t rank;
  int32_t id;
};

struct tok_char {
  uint32_t code; /* + 1; 0: free */
  int32_t id;
};

struct tok_bpe {
  struct tok_merge *merges; /* hash table */
  uint64_t mask;
  struct tok_char *chars;   /* hash table: characters that are tokens; not for byte-level */
  uint32_t chars_mask;
  uint64_t *joins;          /* (TOK_JOIN_BITS) filter of the symbols that some merge can join; NULL: any */
  bool fuse_unk, ignore_merges, byte_fallback;
  bool affixed;                /* only then: */
  const char *prefix, *suffix; /* that tokens inside a word carry, that those at its end do; "": none */
  size_t skip;                 /* bytes of a merge's right side that the whole has not */
};
#define TOK_JOIN_BITS ((uint32_t)1 << 18)

struct tok_unigram {
  struct byte_trie trie;
  const double *scores; /* (size) */
  double unk_score;
  bool byte_fallback;
};

struct tok_wordpiece {
  struct byte_trie trie;
  uint32_t inner; /* node of the prefix that tokens inside a word carry; 0: no such token */
  size_t max_chars;
};

struct tok_encode;
/* One piece, valid UTF-8, length > 0, to ids in e->out. */
typedef int (*tok_encode_piece)(struct tok_encode *e, const char *piece, size_t length);

/* --- normalizers ----------------------------------------------------------------- */
struct tok_norm;
/* One run of a normalizer. */
struct tok_norm_call {
  const char *text;
  size_t length;
  bool first, last;      /* this is the beginning, the end of the text (not of a run within it) */
  struct tl_buffer *out; /* appended to */
  bool lost;             /* set: what begins the output did not begin the text */
  struct tl_error *err;
};
typedef int (*tok_norm_apply)(const struct tok_norm *norm, struct tok_norm_call *call);

struct tok_charsmap {
  const uint32_t *units; /* (n_units) double array */
  const char *texts;     /* (n_texts) NUL-terminated replacements */
  uint32_t n_units, n_texts;
};

struct tok_norm {
  tok_norm_apply apply;
  int form;             /* utf8proc options */
  pcre2_code *pattern;  /* Replace; owned; NULL: literal */
  const char *literal, *content;
  size_t literal_length, content_length;
  bool left, right;     /* Strip */
  bool clean, chinese, accents, lowercase; /* BertNormalizer */
  struct tok_charsmap map;
};

/* --- pre-tokenizers ------------------------------------------------------------------ */
enum tok_behaviour { TOK_ISOLATED, TOK_REMOVED, TOK_CONTIGUOUS, TOK_MERGED_PREVIOUS, TOK_MERGED_NEXT };
enum tok_prefix { TOK_PREFIX_NEVER, TOK_PREFIX_FIRST, TOK_PREFIX_ALWAYS };

struct tok_piece {
  size_t start, end;
  bool match;
};

struct tok_pre;
/* The next non-empty match at or after `from`: 1, 0 none, or a TL_E code. text is valid UTF-8. */
typedef int (*tok_find)(struct tok_encode *e, const struct tok_pre *pre, const char *text, size_t length, size_t from,
                        struct tok_piece *ret);

struct tok_pre {
  const char *space;    /* what a text that does not begin with it gets before it; NULL: nothing */
  size_t space_length;
  enum tok_prefix prefix;
  bool replace_spaces;  /* Metaspace: ' ' becomes `space` */
  bool spell;           /* bytes become GPT-2's spelling */
  tok_find find;        /* NULL: does not split */
  pcre2_code *pattern;  /* owned */
  bool (*is)(uint32_t code);
  const char *literal;
  size_t literal_length;
  size_t run;           /* FixedLength: characters */
  enum tok_behaviour behaviour;
  bool invert;
};

/* --- added tokens ------------------------------------------------------------------- */
struct tok_added {
  int32_t id;
  const char *content; /* as it is looked for: normalized or not */
  size_t length;
  bool special, single_word, lstrip, rstrip, normalized;
  bool guarded; /* never recognised in a client's text; the model must not make it of one either */
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

/* --- decoder ---------------------------------------------------------------------------- */
struct tok_dec;
/* Rewrites one token's text; `first`: nothing stands before it. Appends to out. */
typedef int (*tok_dec_apply)(const struct tok_dec *dec, bool first, const char *text, size_t length, struct tl_buffer *out,
                             struct tl_error *err);
struct tok_dec {
  tok_dec_apply apply;
  struct tok_norm replace;   /* Replace */
  const char *text;          /* Metaspace's character, WordPiece's prefix, what Strip strips */
  size_t text_length;
  uint32_t start, stop;      /* Strip: at most so many */
  bool cleanup, keep_first;  /* WordPiece; Metaspace: the first token's blank stays */
};

struct tok_decoder {
  struct tok_dec steps[TOK_MAX_STEPS]; /* run once per token, at load */
  unsigned n_steps;
  bool byte_level;    /* tokens are bytes in GPT-2's spelling */
  bool byte_fallback; /* <0xNN> is a byte */
  bool fused;         /* what follows sees one text */
  bool suffixed;      /* BPEDecoder: the first step's blanks are nothing in the last token */
  bool once;          /* CTC: of equal tokens in a row the first counts */
  struct tok_dec ends; /* Strip of the whole; text NULL: none */
};

/* How two texts become one sequence: ids and the texts themselves, in order, each with its token type. */
#define TOK_NO_JOINT UINT32_MAX
#define TOK_MAX_JOINT (3 * TOK_MAX_STEPS)
enum tok_joint_kind { TOK_JOINT_ID, TOK_JOINT_FIRST, TOK_JOINT_SECOND };
struct tok_joint {
  struct tok_joint_part {
    enum tok_joint_kind kind;
    int32_t id;
    uint8_t type;
  } parts[TOK_MAX_JOINT];
  uint32_t n; /* TOK_NO_JOINT: the tokenizer does not say how, or in a way that is not supported */
};

struct tl_tokenizer {
  struct tl_arena mem;
  struct tok_token *tokens;
  int32_t size;
  struct tok_map by_text, by_raw;
  bool byte_level;      /* pieces are bytes, tokens spell them */
  int32_t unk;          /* -1: none */
  int32_t byte_id[256]; /* token of a byte: byte-level's or <0xNN>; -1: none */
  bool all_bytes;       /* no byte_id is -1 */
  tok_encode_piece encode_piece;
  struct tok_bpe bpe;
  struct tok_unigram unigram;
  struct tok_wordpiece wordpiece;
  struct tok_norm norms[TOK_MAX_STEPS];
  unsigned n_norms;
  struct tok_pre pres[TOK_MAX_STEPS];
  unsigned n_pres;
  struct tok_added *added;
  uint32_t n_added;
  struct tok_trie plain, normalized; /* matched before and after the normalizer */
  uint32_t longest;                  /* bytes of text that one token can stand for at most; 0: unknown */
  int32_t before[TOK_MAX_STEPS], after[TOK_MAX_STEPS]; /* ids that the post-processor puts around a text */
  uint32_t n_before, n_after;
  struct tok_joint joint;
  struct tok_decoder decoder;
};

struct tok_pieces {
  struct tok_piece *items; /* owned */
  size_t n, capacity;
};

struct tok_cache;

/* One call of tl_tokenizer_encode. */
struct tok_encode {
  const struct tl_tokenizer *t;
  struct tl_tokens *out;
  struct tl_error *err;
  pcre2_match_data *match;
  pcre2_match_context *match_context;
  struct tok_pieces pieces[TOK_MAX_STEPS]; /* one list per pre-tokenizer */
  struct tl_buffer spaced[TOK_MAX_STEPS];  /* a piece with its prefix */
  /* the model's work memory, grown to the longest piece */
  int32_t *ids;
  uint32_t *prev, *next;
  uint64_t *pairs;
  size_t n_symbols, n_links;   /* capacity of ids; of prev, next, pairs */
  struct unigram_best *best;
  size_t n_best;
  struct tok_cache *cache; /* NULL: the text is short */
};

/* --- tokens.c ----------------------------------------------------------------- */
int tok_push(struct tl_tokens *tokens, int32_t id, struct tl_error *err);
/* Room for n more ids at the end of tokens->ids; the caller adds what it wrote to n. */
int tok_reserve(struct tl_tokens *tokens, size_t n, struct tl_error *err);
int tok_out_of_memory(struct tl_error *err);
/* --- tokenizer_gguf.c */
/* *ret is NULL with TL_OK when the file has no tokens. */
int tok_load_gguf(const char *path, struct tl_tokenizer **ret, struct tl_error *err);
/* Where the text's files are: a model's folder, or the one that a .gguf file lies in. */
void tok_folder(const char *path, char *ret, size_t size);

/* --- vocab.c ------------------------------------------------------------------ */
int tok_map_init(struct tok_map *map, struct tl_arena *mem, size_t n, bool by_raw);
void tok_map_put(struct tok_map *map, const struct tok_token *tokens, int32_t id);
int32_t tok_map_find(const struct tok_map *map, const struct tok_token *tokens, const char *key, size_t length);
/* GPT-2's byte alphabet: turns the file's spelling into bytes (never longer).
 * False: a character is not of the alphabet, and the token stands for its own
 * spelling; ret then holds that. */
bool tok_byte_level(const char *text, size_t length, char *ret, size_t *ret_length);
/* The character that spells `byte`; returns its UTF-8 length. */
size_t tok_byte_spelling(uint8_t byte, char ret[4]);
/* -1, or the byte that <0xNN> names. */
int tok_byte_token(const char *text, size_t length);

/* --- pattern.c: PCRE2 with Oniguruma's meaning ---------------------------------- */
int tok_pattern_compile(const char *source, size_t length, pcre2_code **ret, struct tl_error *err);
/* As tok_find. */
int tok_pattern_find(const pcre2_code *code, const char *text, size_t length, size_t from, pcre2_match_data *match,
                     pcre2_match_context *context, struct tok_piece *ret, struct tl_error *err);
int tok_match_new(size_t length, pcre2_match_data **ret_match, pcre2_match_context **ret_context,
                  struct tl_error *err);

/* --- the stages ----------------------------------------------------------------- */
/* normalize.c: appends the normalized text. *ret_lost as in tok_norm_call. */
int tok_normalize(const struct tl_tokenizer *t, const char *text, size_t length, bool first, bool last,
                  struct tl_buffer *out, bool *ret_lost, struct tl_error *err);
int tok_norm_lowercase(const struct tok_norm *norm, struct tok_norm_call *call);
int tok_norm_replace(const struct tok_norm *norm, struct tok_norm_call *call);
int tok_norm_prepend(const struct tok_norm *norm, struct tok_norm_call *call);
int tok_norm_strip(const struct tok_norm *norm, struct tok_norm_call *call);
int tok_norm_nmt(const struct tok_norm *norm, struct tok_norm_call *call);
int tok_norm_byte_level(const struct tok_norm *norm, struct tok_norm_call *call);
/* norm_form.c: NFC, NFD, NFKC, NFKD */
int tok_norm_form(const struct tok_norm *norm, struct tok_norm_call *call);
/* norm_bert.c */
int tok_norm_bert(const struct tok_norm *norm, struct tok_norm_call *call);
int tok_norm_strip_accents(const struct tok_norm *norm, struct tok_norm_call *call);
/* norm_charsmap.c */
int tok_norm_charsmap(const struct tok_norm *norm, struct tok_norm_call *call);
/* Takes SentencePiece's map apart: size of the array, array, texts. Borrows bytes, aligned to 4. */
int tok_charsmap_init(struct tok_charsmap *map, const char *bytes, size_t length, struct tl_error *err);

/* added_tokens.c */
int tok_trie_add(struct tok_trie *trie, const struct tok_added *added, uint32_t index);
/* Finds the next added token at or after `from`. Special ones count only if
 * parse_special, guarded ones when they touch no span. 1 with *ret (including the
 * whitespace that the token strips, not before `from`) and *ret_added; or 0. */
int tok_added_find(const struct tl_tokenizer *t, const struct tok_trie *trie, const char *text, size_t length,
                   size_t from, bool parse_special, const struct tl_span *untrusted, size_t n_untrusted,
                   struct tl_span *ret, const struct tok_added **ret_added);
/* pretokenize.c: splits by pre-tokenizers `step` and later, encodes the pieces.
 * origin: the piece begins where the whole text does. */
int tok_pretokenize(struct tok_encode *e, const char *text, size_t length, bool origin, unsigned step);
int tok_find_pattern(struct tok_encode *e, const struct tok_pre *pre, const char *text, size_t length, size_t from,
                     struct tok_piece *ret);
int tok_find_literal(struct tok_encode *e, const struct tok_pre *pre, const char *text, size_t length, size_t from,
                     struct tok_piece *ret);
int tok_find_script(struct tok_encode *e, const struct tok_pre *pre, const char *text, size_t length, size_t from,
                    struct tok_piece *ret);
int tok_find_run(struct tok_encode *e, const struct tok_pre *pre, const char *text, size_t length, size_t from,
                 struct tok_piece *ret);
int tok_find_class(struct tok_encode *e, const struct tok_pre *pre, const char *text, size_t length, size_t from,
                   struct tok_piece *ret);

/* bpe.c */
int tok_bpe_piece(struct tok_encode *e, const char *piece, size_t length);
const struct tok_merge *tok_bpe_find(const struct tok_bpe *bpe, int32_t left, int32_t right);
/* bpe_tables.c */
int tok_bpe_init(struct tl_tokenizer *t, size_t n_merges, struct tl_error *err);
void tok_bpe_merges_put(struct tok_bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id);
/* After the last merge. */
int tok_bpe_finish(struct tl_tokenizer *t, struct tl_error *err);
/* Whether some merge can join what ends in symbol `left` with what begins with `right`. */
bool tok_bpe_joins(const struct tok_bpe *bpe, int32_t left, int32_t right);
int32_t tok_bpe_char(const struct tok_bpe *bpe, uint32_t code);
/* word_cache.c: runs of symbols that were merged before in this text. */
struct tok_cache *tok_cache_new(void);
void tok_cache_free(struct tok_cache *cache);
/* The ids of the run, or NULL with *ret_slot where to put them (NULL: not kept). */
struct tok_cached *tok_cache_find(struct tok_cache *cache, const int32_t *symbols, size_t n, struct tok_cached **ret_slot);
void tok_cache_put(struct tok_cached *slot, const int32_t *symbols, size_t n, const int32_t *ids, size_t n_ids);
const int32_t *tok_cached_ids(const struct tok_cached *cached, size_t *ret_n);
/* unigram.c, wordpiece.c */
int tok_unigram_piece(struct tok_encode *e, const char *piece, size_t length);
int tok_wordpiece_piece(struct tok_encode *e, const char *piece, size_t length);
/* wordlevel.c: a piece is a token, or unknown. */
int tok_wordlevel_piece(struct tok_encode *e, const char *piece, size_t length);
int tok_parse_wordlevel(struct tl_tokenizer *t, json_t *model, struct tl_error *err);
/* decoder.c: tokens[].bytes and .byte by the decoder's steps. */
int tok_decoder_finish(struct tl_tokenizer *t, struct tl_error *err);
/* Appends what the steps make of a token. */
int tok_decoder_apply(const struct tok_decoder *decoder, bool first, const char *text, size_t length, struct tl_buffer *out,
                      struct tl_error *err);
int tok_dec_replace(const struct tok_dec *dec, bool first, const char *text, size_t length, struct tl_buffer *out,
                    struct tl_error *err);
int tok_dec_strip(const struct tok_dec *dec, bool first, const char *text, size_t length, struct tl_buffer *out,
                  struct tl_error *err);
int tok_dec_metaspace(const struct tok_dec *dec, bool first, const char *text, size_t length, struct tl_buffer *out,
                      struct tl_error *err);
int tok_dec_wordpiece(const struct tok_dec *dec, bool first, const char *text, size_t length, struct tl_buffer *out,
                      struct tl_error *err);
int tok_dec_ctc(const struct tok_dec *dec, bool first, const char *text, size_t length, struct tl_buffer *out,
                struct tl_error *err);
int tok_dec_blanks(const struct tok_dec *dec, bool first, const char *text, size_t length, struct tl_buffer *out,
                   struct tl_error *err);

/* --- the JSON of each stage -------------------------------------------------------- */
/* parse_common.c */
const char *tok_type(json_t *json);
bool tok_is_type(json_t *json, const char *type);
int tok_unsupported(const char *part, json_t *json, struct tl_error *err);
/* Calls `one` for the object or for each of the Sequence `key`, Sequences in it included. */
int tok_each(struct tl_tokenizer *t, json_t *json, const char *key,
             int (*one)(struct tl_tokenizer *t, json_t *json, struct tl_error *err), struct tl_error *err);
/* A member that is true, false or left out. */
bool tok_flag(json_t *json, const char *key, bool otherwise);
/* A member that must be a string; the copy lives as long as the tokenizer. */
int tok_string(struct tl_tokenizer *t, json_t *json, const char *key, const char **ret, size_t *ret_length,
               struct tl_error *err);
/* {"String": "x"} gives *ret_literal, {"Regex": "x"} *ret_pattern. */
int tok_pattern(struct tl_tokenizer *t, json_t *json, pcre2_code **ret_pattern, const char **ret_literal, size_t *ret_length,
                struct tl_error *err);
int tok_parse_normalizer(struct tl_tokenizer *t, json_t *json, struct tl_error *err);   /* parse_normalizer.c */
int tok_parse_pre_tokenizer(struct tl_tokenizer *t, json_t *json, struct tl_error *err); /* parse_pretokenizer.c */
/* Behind ByteLevel what comes sees GPT-2's spelling; byte_level becomes false. */
int tok_spell_bytes(struct tl_tokenizer *t, struct tl_error *err);
int tok_add_pattern_step(struct tl_tokenizer *t, const char *pattern, enum tok_behaviour behaviour, struct tl_error *err);
int tok_parse_post_processor(struct tl_tokenizer *t, json_t *json, struct tl_error *err); /* parse_post.c */
/* joint.c: one more part of t->joint; TL_EUNSUPPORTED: there is no room. */
int tok_joint_add(struct tl_tokenizer *t, enum tok_joint_kind kind, int32_t id, uint8_t type);
/* cls first sep second sep, the second with type 1. */
void tok_join_bert(struct tl_tokenizer *t, int32_t cls, int32_t sep);
/* Nothing is said of pairs: one after the other, the second with type 1. */
void tok_join_plain(struct tl_tokenizer *t);
int tok_parse_decoder(struct tl_tokenizer *t, json_t *json, struct tl_error *err);       /* parse_decoder.c */
/* parse_vocab.c */
int tok_vocab_init(struct tl_tokenizer *t, int32_t size, size_t n_tokens, struct tl_error *err);
int tok_set_token(struct tl_tokenizer *t, int32_t id, const char *text, size_t length, struct tl_error *err);
/* byte_id and all_bytes, of byte-level's spelling or of <0xNN>. */
void tok_find_bytes(struct tl_tokenizer *t);
/* Makes room for vocab (an object token to id, or a list of [token, score]) and added tokens, reads the former. */
int tok_parse_vocab(struct tl_tokenizer *t, json_t *vocab, json_t *added, struct tl_error *err);
/* -1 unless it names a token; an error when it names one that is missing. */
int tok_parse_unk(struct tl_tokenizer *t, json_t *unk, struct tl_error *err);
int tok_parse_bpe(struct tl_tokenizer *t, json_t *model, struct tl_error *err);       /* parse_bpe.c */
/* Whether its tokens carry a prefix or a suffix. */
bool tok_bpe_affixed(json_t *model);
int tok_parse_unigram(struct tl_tokenizer *t, json_t *model, struct tl_error *err);   /* parse_unigram.c */
int tok_parse_wordpiece(struct tl_tokenizer *t, json_t *model, struct tl_error *err); /* parse_wordpiece.c */
/* What is left to do once all tokens are known, also for those that do not come from JSON. */
int tok_bpe_merge(struct tl_tokenizer *t, const char *left, size_t n_left, const char *right, size_t n_right, size_t rank,
                  struct tl_error *err);
int tok_unigram_finish(struct tl_tokenizer *t, const double *scores, double lowest, struct tl_error *err);
int tok_wordpiece_finish(struct tl_tokenizer *t, const char *prefix, size_t max_chars, struct tl_error *err);
/* Trie over all tokens' texts, values are ids. */
int tok_vocab_trie(struct tl_tokenizer *t, struct byte_trie *ret, struct tl_error *err);
int tok_parse_added(struct tl_tokenizer *t, json_t *added, struct tl_error *err);     /* parse_added.c */
int tok_add_added(struct tl_tokenizer *t, struct tok_added *added, int32_t id, struct tl_error *err);

#endif
