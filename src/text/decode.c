/* SPDX-License-Identifier: MIT */
/* Ids back to text: whole, or token by token for streams. */
#include <string.h>

#include "text/text_utf8.h"
#include "text/tokenizer_private.h"
#include "tokenlane/base/utf8.h"

static const char replacement[] = "\xef\xbf\xbd";

static void put_copies(const char *text, size_t length, size_t n, struct tl_buffer *out) {
  for (size_t i = 0; i < n; i++) tl_buffer_append(out, text, length);
}

/* Text on its way out: what the decoder strips at the beginning of the whole is left out, and what
 * it would strip at the end waits until more text comes. */
static void emit(struct tl_detok *detok, const char *text, size_t length, struct tl_buffer *out) {
  const struct tok_dec *ends = &detok->tokenizer->decoder.ends;
  size_t n = ends->text_length, waiting = 0;
  if (!ends->text) {
    tl_buffer_append(out, text, length);
    return;
  }
  while (detok->n_start < ends->start && length) {
    bool strip = length >= n && memcmp(text, ends->text, n) == 0;
    detok->n_start = (uint8_t)(strip ? detok->n_start + 1u : ends->start);
    text += strip ? n : 0;
    length -= strip ? n : 0;
  }
  while (waiting < ends->stop && length >= n && memcmp(text + length - n, ends->text, n) == 0) {
    waiting++;
    length -= n;
  }
  if (length == 0) { /* nothing but what may be stripped */
    size_t all = detok->n_stop + waiting;
    detok->n_stop = (uint8_t)(all < ends->stop ? all : ends->stop);
    put_copies(ends->text, n, all - detok->n_stop, out);
    return;
  }
  put_copies(ends->text, n, detok->n_stop, out);
  tl_buffer_append(out, text, length);
  detok->n_stop = (uint8_t)waiting;
}

static void emit_replacements(struct tl_detok *detok, size_t n, struct tl_buffer *out) {
  for (size_t i = 0; i < n; i++) emit(detok, replacement, strlen(replacement), out);
}

/* --- bytes as fallback -------------------------------------------------------------------
 * A run of <0xNN> tokens is a text if all of it is UTF-8, and a U+FFFD a byte if not. A stream shows each
 * character when its last byte comes, and cannot take it back if a later byte of the run
 * is wrong; from there on it agrees. */
static void push_byte(struct tl_detok *detok, char byte, struct tl_buffer *out) {
  uint32_t code;
  detok->held[detok->n_held++] = byte;
  if (detok->wrong || tl_utf8_incomplete_tail(detok->held, detok->n_held) != detok->n_held) {
    bool whole = !detok->wrong && tl_utf8_decode(detok->held, detok->n_held, &code) == detok->n_held;
    if (whole)
      emit(detok, detok->held, detok->n_held, out);
    else
      emit_replacements(detok, detok->n_held, out);
    detok->wrong = !whole;
    detok->n_held = 0;
  }
}

static void end_run(struct tl_detok *detok, struct tl_buffer *out) {
  emit_replacements(detok, detok->n_held, out);
  detok->n_held = 0;
  detok->wrong = false;
}

/* --- byte-level: any token may end within a character ------------------------------------------ */
static void push_bytes(struct tl_detok *detok, const char *piece, size_t length, struct tl_buffer *out) {
  if (detok->n_held) {
    /* At most 3 bytes are held, so what they need stands in the first 3 new ones. */
    char joined[8];
    size_t n = detok->n_held, taken = 0;
    memcpy(joined, detok->held, n);
    while (taken < length && n < 7 && tl_utf8_incomplete_tail(joined, n) == n) joined[n++] = piece[taken++];
    if (tl_utf8_incomplete_tail(joined, n) == n) { /* still not enough */
      memcpy(detok->held, joined, n);
      detok->n_held = (uint8_t)n;
      return;
    }
    /* The last byte either completed the character or began something else. */
    uint32_t code;
    if (tl_utf8_decode(joined, n, &code) == n) {
      tl_buffer_append(out, joined, n);
    } else {
      tl_buffer_puts(out, replacement);
      taken--;
    }
    detok->n_held = 0;
    piece += taken;
    length -= taken;
  }
  size_t tail = text_append_whole(piece, length, out);
  memcpy(detok->held, piece + length - tail, tail);
  detok->n_held = (uint8_t)tail;
}

static int push_text(struct tl_detok *detok, const char *piece, size_t length, struct tl_buffer *out) {
  const struct tok_decoder *decoder = &detok->tokenizer->decoder;
  if (!decoder->byte_level) {
    end_run(detok, out);
    emit(detok, piece, length, out);
  } else if (!decoder->ends.text) {
    push_bytes(detok, piece, length, out);
  } else {
    struct tl_buffer whole;
    tl_buffer_init(&whole, 0);
    push_bytes(detok, piece, length, &whole);
    emit(detok, tl_buffer_bytes(&whole), whole.length, out);
    out->failed |= whole.failed;
    tl_buffer_done(&whole);
  }
  return out->failed ? TL_ENOMEM : TL_OK;
}

/* --- tokens ----------------------------------------------------------------------------- */
static bool is_kept(const struct tl_detok *detok, int32_t id) {
  for (uint32_t i = 0; i < detok->n_kept; i++)
    if (detok->kept[i] == id) return true;
  return false;
}

static const struct tok_token *shown(const struct tl_detok *detok, int32_t id) {
  const struct tl_tokenizer *t = detok->tokenizer;
  if (id < 0 || id >= t->size || !t->tokens[id].known) return NULL;
  return detok->skip_special && t->tokens[id].special && !is_kept(detok, id) ? NULL : &t->tokens[id];
}

void tl_detok_init(struct tl_detok *detok, const struct tl_tokenizer *tokenizer, bool skip_special) {
  *detok = (struct tl_detok){.tokenizer = tokenizer, .skip_special = skip_special, .last = -1};
}

static bool same_text(const struct tok_token *a, const struct tok_token *b) {
  return a->n_shown == b->n_shown && memcmp(a->shown, b->shown, a->n_shown) == 0;
}

/* What a token is as the last one: BPEDecoder's suffixes are nothing then. */
static int as_last(const struct tok_decoder *decoder, const struct tok_token *token, struct tl_buffer *out) {
  struct tok_norm none = decoder->steps[0].replace;
  struct tl_buffer text;
  tl_buffer_init(&text, 0);
  none.content = "";
  none.content_length = 0;
  struct tok_norm_call call = {token->shown, token->n_shown, false, false, &text, false, NULL};
  int r = tok_norm_replace(&none, &call);
  if (r == TL_OK) r = tok_decoder_apply(decoder, false, tl_buffer_bytes(&text), text.length, out, NULL);
  tl_buffer_done(&text);
  return r;
}

/* Where a token that may be the last differs from one that is not. */
static size_t common(const struct tok_token *token, const struct tl_buffer *last) {
  size_t n = 0;
  while (n < token->n_bytes && n < last->length && token->bytes[n] == last->data[n]) n++;
  while (n > 0 && n < token->n_bytes && ((unsigned char)token->bytes[n] & 0xc0) == 0x80) n--;
  return n;
}

/* BPEDecoder: of a token that ends a word all but the blank comes now, that with the token behind it. */
static int push_suffixed(struct tl_detok *detok, int32_t id, struct tl_buffer *out) {
  const struct tl_tokenizer *t = detok->tokenizer;
  struct tl_buffer last;
  tl_buffer_init(&last, 0);
  int r = TL_OK;
  if (detok->last >= 0) {
    const struct tok_token *before = &t->tokens[detok->last];
    r = as_last(&t->decoder, before, &last);
    size_t n = common(before, &last);
    if (r == TL_OK) r = push_text(detok, id < 0 ? tl_buffer_bytes(&last) + n : before->bytes + n,
                                  id < 0 ? last.length - n : before->n_bytes - n, out);
    tl_buffer_clear(&last);
  }
  detok->last = id;
  if (r == TL_OK && id >= 0) {
    r = as_last(&t->decoder, &t->tokens[id], &last);
    if (r == TL_OK) r = push_text(detok, t->tokens[id].bytes, common(&t->tokens[id], &last), out);
  }
  tl_buffer_done(&last);
  return r;
}

int tl_detok_push(struct tl_detok *detok, int32_t id, struct tl_buffer *out) {
  const struct tok_token *token = shown(detok, id);
  if (!token) return TL_OK;
  const struct tok_decoder *decoder = &detok->tokenizer->decoder;
  bool first = !detok->started;
  detok->started = true;
  if (decoder->suffixed) return push_suffixed(detok, id, out);
  if (decoder->once) {
    bool again = detok->last >= 0 && same_text(token, &detok->tokenizer->tokens[detok->last]);
    detok->last = id;
    if (again) return TL_OK;
  }
  if (token->byte) {
    push_byte(detok, token->bytes[0], out);
    return out->failed ? TL_ENOMEM : TL_OK;
  }
  if (!first || !decoder->n_steps) return push_text(detok, token->bytes, token->n_bytes, out);
  struct tl_buffer text;
  tl_buffer_init(&text, 0);
  int r = tok_decoder_apply(decoder, true, token->shown, token->n_shown, &text, NULL);
  if (r == TL_OK) r = push_text(detok, tl_buffer_bytes(&text), text.length, out);
  tl_buffer_done(&text);
  return r;
}

int tl_detok_finish(struct tl_detok *detok, struct tl_buffer *out) {
  if (detok->tokenizer->decoder.suffixed && push_suffixed(detok, -1, out) < 0) return TL_ENOMEM;
  if (detok->tokenizer->decoder.byte_level && detok->n_held)
    emit_replacements(detok, 1, out);
  else
    emit_replacements(detok, detok->n_held, out);
  detok->n_held = 0;
  return out->failed ? TL_ENOMEM : TL_OK;
}

/* The bytes of the run of byte tokens that begins at ids[i]; returns where it ends. */
static size_t read_run(const struct tl_detok *detok, const int32_t *ids, size_t n, size_t i, struct tl_buffer *run) {
  tl_buffer_clear(run);
  for (; i < n; i++) {
    const struct tok_token *token = shown(detok, ids[i]);
    if (token && !token->byte) break;
    if (token) tl_buffer_putc(run, token->bytes[0]);
  }
  return i;
}

int tl_tokenizer_decode(const struct tl_tokenizer *tokenizer, const int32_t *ids, size_t n, bool skip_special,
                        struct tl_buffer *out) {
  struct tl_detok detok;
  struct tl_buffer run;
  tl_detok_init(&detok, tokenizer, skip_special);
  tl_buffer_init(&run, out->limit_bytes);
  int r = TL_OK;
  for (size_t i = 0; r == TL_OK && i < n;) {
    const struct tok_token *token = shown(&detok, ids[i]);
    if (!token || !token->byte) {
      r = tl_detok_push(&detok, ids[i++], out);
      continue;
    }
    i = read_run(&detok, ids, n, i, &run);
    detok.started = true;
    if (run.failed) out->failed = true;
    else if (tl_utf8_valid(tl_buffer_bytes(&run), run.length)) emit(&detok, run.data, run.length, out);
    else emit_replacements(&detok, run.length, out);
    if (out->failed) r = TL_ENOMEM;
  }
  tl_buffer_done(&run);
  return r < 0 ? r : tl_detok_finish(&detok, out);
}
