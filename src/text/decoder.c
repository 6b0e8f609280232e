/* SPDX-License-Identifier: MIT */
/* What a decoder's steps make of one token. They look at no other token (but whether there
 * is one before), so all is computed at load; what joins tokens is in decode.c. */
#include <string.h>

#include "text/text_find.h"
#include "text/text_utf8.h"
#include "text/tokenizer_private.h"

static int done(const struct tl_buffer *out, struct tl_error *err) {
  return out->failed ? tok_out_of_memory(err) : TL_OK;
}

static bool begins_with(const char *text, size_t length, const char *prefix, size_t n) {
  return n && length >= n && memcmp(text, prefix, n) == 0;
}

int tok_dec_replace(const struct tok_dec *dec, bool first, const char *text, size_t length, struct tl_buffer *out,
                    struct tl_error *err) {
  struct tok_norm_call call = {text, length, first, false, out, false, err};
  return tok_norm_replace(&dec->replace, &call);
}

int tok_dec_strip(const struct tok_dec *dec, bool first, const char *text, size_t length, struct tl_buffer *out,
                  struct tl_error *err) {
  (void)first;
  size_t n = dec->text_length, start = 0, end = length;
  for (uint32_t i = 0; i < dec->start && begins_with(text + start, length - start, dec->text, n); i++) start += n;
  for (uint32_t i = 0; i < dec->stop && end - start >= n && memcmp(text + end - n, dec->text, n) == 0; i++) end -= n;
  tl_buffer_append(out, text + start, end - start);
  return done(out, err);
}

int tok_dec_metaspace(const struct tok_dec *dec, bool first, const char *text, size_t length, struct tl_buffer *out,
                      struct tl_error *err) {
  size_t n = dec->text_length;
  for (const char *found; (found = text_find(text, length, dec->text, n));) {
    tl_buffer_append(out, text, (size_t)(found - text));
    if (!first || dec->keep_first) tl_buffer_putc(out, ' ');
    length -= (size_t)(found - text) + n;
    text = found + n;
  }
  tl_buffer_append(out, text, length);
  return done(out, err);
}

/* English contractions and punctuation, as the paper's detokenizer joins them again. Each goes
 * over what the one before left. */
static int clean_up(struct tl_buffer *text, struct tl_error *err) {
  static const struct {
    const char *from, *to;
  } rules[] = {{" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"},
               {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
    if (!memmem(tl_buffer_bytes(text), text->length, rules[i].from, strlen(rules[i].from))) continue;
    struct tok_norm rule = {.literal = rules[i].from, .literal_length = strlen(rules[i].from),
                            .content = rules[i].to, .content_length = strlen(rules[i].to)};
    struct tl_buffer next;
    tl_buffer_init(&next, 0);
    struct tok_norm_call call = {text->data, text->length, false, false, &next, false, err};
    int r = tok_norm_replace(&rule, &call);
    tl_buffer_done(text);
    *text = next;
    if (r < 0) return r;
  }
  return done(text, err);
}

int tok_dec_wordpiece(const struct tok_dec *dec, bool first, const char *text, size_t length, struct tl_buffer *out,
                      struct tl_error *err) {
  struct tl_buffer word;
  tl_buffer_init(&word, 0);
  bool inner = begins_with(text, length, dec->text, dec->text_length);
  if (!first && !inner) tl_buffer_putc(&word, ' ');
  size_t skip = !first && inner ? dec->text_length : 0;
  tl_buffer_append(&word, text + skip, length - skip);
  int r = dec->cleanup ? clean_up(&word, err) : done(&word, err);
  if (r == TL_OK) tl_buffer_append(out, tl_buffer_bytes(&word), word.length);
  tl_buffer_done(&word);
  return r < 0 ? r : done(out, err);
}

/* Connectionist temporal classification (Graves et al. 2006): pads are nothing, delimiters blanks. */
int tok_dec_ctc(const struct tok_dec *dec, bool first, const char *text, size_t length, struct tl_buffer *out,
                struct tl_error *err) {
  struct tl_buffer kept;
  tl_buffer_init(&kept, 0);
  int r = tok_dec_replace(dec, first, text, length, &kept, err);
  if (r == TL_OK && dec->cleanup) r = clean_up(&kept, err);
  struct tok_norm blank = {.literal = dec->text, .literal_length = dec->cleanup ? dec->text_length : 0, .content = " ", .content_length = 1};
  struct tok_norm_call call = {tl_buffer_bytes(&kept), kept.length, first, false, out, false, err};
  if (r == TL_OK) r = tok_norm_replace(&blank, &call);
  tl_buffer_done(&kept);
  return r;
}

int tok_dec_blanks(const struct tok_dec *dec, bool first, const char *text, size_t length, struct tl_buffer *out,
                   struct tl_error *err) {
  (void)dec;
  if (!first) tl_buffer_putc(out, ' ');
  tl_buffer_append(out, text, length);
  return done(out, err);
}

/* GPT-2's spelling to bytes; other tokens are text, and text is UTF-8. */
static int put_bytes(const struct tok_decoder *decoder, const char *text, size_t length, struct tl_buffer *out, struct tl_error *err) {
  if (!decoder->byte_level) {
    text_append_lossy(text, length, out);
    return done(out, err);
  }
  char *room = tl_buffer_reserve(out, length + 1);
  if (!room) return tok_out_of_memory(err);
  size_t n;
  (void)tok_byte_level(text, length, room, &n);
  out->length += n;
  return TL_OK;
}

int tok_decoder_apply(const struct tok_decoder *decoder, bool first, const char *text, size_t length, struct tl_buffer *out,
                      struct tl_error *err) {
  struct tl_buffer work[2];
  tl_buffer_init(&work[0], 0);
  tl_buffer_init(&work[1], 0);
  int r = TL_OK;
  for (unsigned i = 0; r == TL_OK && i < decoder->n_steps; i++) {
    struct tl_buffer *to = &work[i & 1];
    tl_buffer_clear(to);
    r = decoder->steps[i].apply(&decoder->steps[i], first, text, length, to, err);
    text = tl_buffer_bytes(to);
    length = to->length;
  }
  if (r == TL_OK) r = put_bytes(decoder, text, length, out, err);
  tl_buffer_done(&work[0]);
  tl_buffer_done(&work[1]);
  return r;
}

static int finish_token(struct tl_tokenizer *t, struct tok_token *token, struct tl_buffer *work, struct tl_error *err) {
  int byte = t->decoder.byte_fallback ? tok_byte_token(token->shown, token->n_shown) : -1;
  char single = (char)byte;
  token->byte = byte >= 0;
  tl_buffer_clear(work);
  int r = TL_OK;
  if (byte < 0) r = tok_decoder_apply(&t->decoder, false, token->shown, token->n_shown, work, err);
  if (r < 0) return r;
  size_t n = byte < 0 ? work->length : 1;
  const char *bytes = byte < 0 ? tl_buffer_bytes(work) : &single;
  if (n == token->n_raw && memcmp(bytes, token->raw, n) == 0) {
    token->bytes = token->raw;
  } else {
    token->bytes = tl_arena_copy(&t->mem, bytes, n);
    if (!token->bytes) return tok_out_of_memory(err);
  }
  token->n_bytes = (uint32_t)n;
  return TL_OK;
}

int tok_decoder_finish(struct tl_tokenizer *t, struct tl_error *err) {
  struct tl_buffer work;
  tl_buffer_init(&work, 0);
  int r = TL_OK;
  for (int32_t id = 0; r == TL_OK && id < t->size; id++)
    if (t->tokens[id].known) r = finish_token(t, &t->tokens[id], &work, err);
  tl_buffer_done(&work);
  return r;
}
