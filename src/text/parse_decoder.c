/* SPDX-License-Identifier: MIT */
/* tokenizer.json's decoder. */
#include <string.h>

#include "text/tokenizer_private.h"
#include "tokenlane/base/utf8.h"

#define MAX_STRIP 64

static int not_there(json_t *json, struct tl_error *err) {
  return tl_error_set(err, TL_EUNSUPPORTED, NULL, "decoder: %.60s behind Fuse or ByteLevel is not supported", tok_type(json));
}

/* NULL: there are too many, or it comes too late to look at single tokens. */
static struct tok_dec *new_step(struct tl_tokenizer *t, json_t *json, tok_dec_apply apply, struct tl_error *err) {
  struct tok_decoder *d = &t->decoder;
  if (d->fused) {
    not_there(json, err);
    return NULL;
  }
  if (d->n_steps == TOK_MAX_STEPS) {
    tl_error_set(err, TL_EUNSUPPORTED, NULL, "decoder: more than %d steps", TOK_MAX_STEPS);
    return NULL;
  }
  struct tok_dec *dec = &d->steps[d->n_steps++]; /* what it holds is freed with the tokenizer */
  *dec = (struct tok_dec){.apply = apply};
  return dec;
}

static bool is_character(const char *text, size_t length) {
  uint32_t code;
  return length && tl_utf8_decode(text, length, &code) == length;
}

static int one_character(struct tl_tokenizer *t, json_t *json, const char *key, struct tok_dec *dec, struct tl_error *err) {
  int r = tok_string(t, json, key, &dec->text, &dec->text_length, err);
  if (r < 0) return r;
  if (is_character(dec->text, dec->text_length)) return TL_OK;
  return tl_error_set(err, TL_ECORRUPT, NULL, "%s.%s: expected one character", tok_type(json), key);
}

static int parse_byte_level(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  if (t->decoder.fused) return not_there(json, err);
  if (t->decoder.byte_fallback) return tl_error_set(err, TL_EUNSUPPORTED, NULL, "decoder: ByteLevel behind ByteFallback is not supported");
  t->decoder.byte_level = t->decoder.fused = true;
  return TL_OK;
}

static int parse_byte_fallback(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  if (t->decoder.fused) return not_there(json, err);
  t->decoder.byte_fallback = true;
  return TL_OK;
}

static int parse_fuse(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  (void)json, (void)err;
  t->decoder.fused = true;
  return TL_OK;
}

/* A single character is found in each token as it is in the whole. */
static int parse_replace(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  bool fused = t->decoder.fused;
  t->decoder.fused = false;
  struct tok_dec *dec = new_step(t, json, tok_dec_replace, err);
  t->decoder.fused = fused;
  if (!dec) return TL_EUNSUPPORTED;
  int r = tok_string(t, json, "content", &dec->replace.content, &dec->replace.content_length, err);
  if (r == TL_OK) r = tok_pattern(t, json, &dec->replace.pattern, &dec->replace.literal, &dec->replace.literal_length, err);
  if (r < 0 || !fused) return r;
  bool single = !dec->replace.pattern && is_character(dec->replace.literal, dec->replace.literal_length);
  return single && !t->decoder.byte_level && !t->decoder.ends.text ? TL_OK : not_there(json, err);
}

static int parse_strip(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  struct tok_dec *dec = &t->decoder.ends;
  json_int_t start = json_integer_value(json_object_get(json, "start")), stop = json_integer_value(json_object_get(json, "stop"));
  if (start < 0 || start > MAX_STRIP || stop < 0 || stop > MAX_STRIP)
    return tl_error_set(err, TL_EUNSUPPORTED, NULL, "Strip: start and stop are at most %d", MAX_STRIP);
  if (!t->decoder.fused) dec = new_step(t, json, tok_dec_strip, err);
  if (!dec) return TL_EUNSUPPORTED;
  if (dec->text) return not_there(json, err);
  int r = one_character(t, json, "content", dec, err);
  dec->start = (uint32_t)start;
  dec->stop = (uint32_t)stop;
  return r;
}

static int parse_metaspace(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  struct tok_dec *dec = new_step(t, json, tok_dec_metaspace, err);
  if (!dec) return TL_EUNSUPPORTED;
  int r = one_character(t, json, "replacement", dec, err);
  if (r < 0) return r;
  const char *scheme = json_string_value(json_object_get(json, "prepend_scheme"));
  dec->keep_first = (scheme && strcmp(scheme, "never") == 0) || !tok_flag(json, "add_prefix_space", true);
  return TL_OK;
}

static int parse_wordpiece(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  struct tok_dec *dec = new_step(t, json, tok_dec_wordpiece, err);
  if (!dec) return TL_EUNSUPPORTED;
  int r = tok_string(t, json, "prefix", &dec->text, &dec->text_length, err);
  if (r == TL_OK) dec->cleanup = tok_flag(json, "cleanup", true);
  return r;
}

/* Both look at tokens in a row, so no other step may come between them and the tokens. */
static struct tok_dec *only_step(struct tl_tokenizer *t, json_t *json, tok_dec_apply apply, struct tl_error *err) {
  if (t->decoder.n_steps || t->decoder.byte_fallback) {
    tl_error_set(err, TL_EUNSUPPORTED, NULL, "decoder: %.60s behind other steps is not supported", tok_type(json));
    return NULL;
  }
  struct tok_dec *dec = new_step(t, json, apply, err);
  t->decoder.fused = true;
  return dec;
}

static int a_text(struct tl_tokenizer *t, json_t *json, const char *key, const char **ret, size_t *ret_length, struct tl_error *err) {
  int r = tok_string(t, json, key, ret, ret_length, err);
  if (r < 0 || *ret_length) return r;
  return tl_error_set(err, TL_EUNSUPPORTED, NULL, "%s.%s: is not supported without a text", tok_type(json), key);
}

static int parse_bpe(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  struct tok_dec *dec = only_step(t, json, tok_dec_replace, err);
  if (!dec) return TL_EUNSUPPORTED;
  dec->replace.content = " ";
  dec->replace.content_length = 1;
  t->decoder.suffixed = true;
  return a_text(t, json, "suffix", &dec->replace.literal, &dec->replace.literal_length, err);
}

static int parse_ctc(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  struct tok_dec *dec = only_step(t, json, tok_dec_ctc, err);
  if (!dec) return TL_EUNSUPPORTED;
  t->decoder.once = true;
  dec->cleanup = tok_flag(json, "cleanup", true);
  dec->replace.content = "";
  int r = a_text(t, json, "pad_token", &dec->replace.literal, &dec->replace.literal_length, err);
  return r < 0 ? r : a_text(t, json, "word_delimiter_token", &dec->text, &dec->text_length, err);
}

static const struct kind {
  const char *type;
  int (*parse)(struct tl_tokenizer *t, json_t *json, struct tl_error *err);
} kinds[] = {
    {"ByteLevel", parse_byte_level}, {"ByteFallback", parse_byte_fallback}, {"Fuse", parse_fuse},
    {"Replace", parse_replace},      {"Strip", parse_strip},                {"Metaspace", parse_metaspace},
    {"WordPiece", parse_wordpiece},  {"BPEDecoder", parse_bpe},             {"CTC", parse_ctc},
};

static int parse_one(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (!tok_is_type(json, kinds[i].type)) continue;
    int r = kinds[i].parse(t, json, err);
    return r < 0 ? tl_error_prefix(err, "decoder") : r;
  }
  return tok_unsupported("decoder", json, err);
}

int tok_parse_decoder(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  if (json && !json_is_null(json)) return tok_each(t, json, "decoders", parse_one, err);
  t->decoder.steps[t->decoder.n_steps++] = (struct tok_dec){.apply = tok_dec_blanks};
  return TL_OK;
}
