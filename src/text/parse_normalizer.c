/* SPDX-License-Identifier: MIT */
/* tokenizer.json's normalizer. */
#include <string.h>
#include <utf8proc.h>

#include "text/tokenizer_private.h"

struct kind {
  const char *type;
  tok_norm_apply apply;
  int form;
  int (*parse)(struct tl_tokenizer *t, json_t *json, struct tok_norm *norm, struct tl_error *err);
};

static int parse_replace(struct tl_tokenizer *t, json_t *json, struct tok_norm *norm, struct tl_error *err) {
  int r = tok_string(t, json, "content", &norm->content, &norm->content_length, err);
  return r < 0 ? r : tok_pattern(t, json, &norm->pattern, &norm->literal, &norm->literal_length, err);
}

static int parse_prepend(struct tl_tokenizer *t, json_t *json, struct tok_norm *norm, struct tl_error *err) {
  return tok_string(t, json, "prepend", &norm->content, &norm->content_length, err);
}

static int parse_strip(struct tl_tokenizer *t, json_t *json, struct tok_norm *norm, struct tl_error *err) {
  (void)t, (void)err;
  norm->left = tok_flag(json, "strip_left", true);
  norm->right = tok_flag(json, "strip_right", true);
  return TL_OK;
}

static int parse_bert(struct tl_tokenizer *t, json_t *json, struct tok_norm *norm, struct tl_error *err) {
  (void)t, (void)err;
  norm->clean = tok_flag(json, "clean_text", true);
  norm->chinese = tok_flag(json, "handle_chinese_chars", true);
  norm->lowercase = tok_flag(json, "lowercase", true);
  norm->accents = tok_flag(json, "strip_accents", norm->lowercase); /* null: as lowercase */
  return TL_OK;
}

static int base64_digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* RFC 4648, padded. ret has room for three quarters of length. */
static bool decode_base64(const char *text, size_t length, char *ret, size_t *ret_n) {
  size_t n = 0;
  if (length % 4 != 0) return false;
  while (length && text[length - 1] == '=' && n < 2) length--, n++;
  uint32_t bits = 0;
  unsigned n_bits = 0;
  *ret_n = 0;
  for (size_t i = 0; i < length; i++) {
    int digit = base64_digit(text[i]);
    if (digit < 0) return false;
    bits = bits << 6 | (uint32_t)digit;
    n_bits += 6;
    if (n_bits < 8) continue;
    n_bits -= 8;
    ret[(*ret_n)++] = (char)(bits >> n_bits);
  }
  return true;
}

static int parse_charsmap(struct tl_tokenizer *t, json_t *json, struct tok_norm *norm, struct tl_error *err) {
  json_t *text = json_object_get(json, "precompiled_charsmap");
  size_t n;
  char *bytes = json_is_string(text) ? tl_arena_alloc(&t->mem, json_string_length(text) + 1) : NULL;
  if (json_is_string(text) && !bytes) return tok_out_of_memory(err);
  if (!bytes || !decode_base64(json_string_value(text), json_string_length(text), bytes, &n))
    return tl_error_set(err, TL_ECORRUPT, NULL, "Precompiled.precompiled_charsmap: expected base64");
  return tok_charsmap_init(&norm->map, bytes, n, err);
}

#define COMPOSED (UTF8PROC_STABLE | UTF8PROC_COMPOSE)
#define DECOMPOSED (UTF8PROC_STABLE | UTF8PROC_DECOMPOSE)
static const struct kind kinds[] = {
    {"NFC", tok_norm_form, COMPOSED, NULL},
    {"NFD", tok_norm_form, DECOMPOSED, NULL},
    {"NFKC", tok_norm_form, COMPOSED | UTF8PROC_COMPAT, NULL},
    {"NFKD", tok_norm_form, DECOMPOSED | UTF8PROC_COMPAT, NULL},
    {"Lowercase", tok_norm_lowercase, 0, NULL},
    {"StripAccents", tok_norm_strip_accents, 0, NULL},
    {"Strip", tok_norm_strip, 0, parse_strip},
    {"Prepend", tok_norm_prepend, 0, parse_prepend},
    {"Replace", tok_norm_replace, 0, parse_replace},
    {"BertNormalizer", tok_norm_bert, 0, parse_bert},
    {"Precompiled", tok_norm_charsmap, 0, parse_charsmap},
    {"Nmt", tok_norm_nmt, 0, NULL},
    {"ByteLevel", tok_norm_byte_level, 0, NULL},
};

static int parse_one(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  if (t->n_norms == TOK_MAX_STEPS) return tl_error_set(err, TL_EUNSUPPORTED, NULL, "normalizer: more than %d steps", TOK_MAX_STEPS);
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (!tok_is_type(json, kinds[i].type)) continue;
    struct tok_norm *norm = &t->norms[t->n_norms++]; /* also on error: what it holds is freed with the tokenizer */
    *norm = (struct tok_norm){.apply = kinds[i].apply, .form = kinds[i].form};
    int r = kinds[i].parse ? kinds[i].parse(t, json, norm, err) : TL_OK;
    return r < 0 ? tl_error_prefix(err, "normalizer") : r;
  }
  return tok_unsupported("normalizer", json, err);
}

int tok_parse_normalizer(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  return tok_each(t, json, "normalizers", parse_one, err);
}
