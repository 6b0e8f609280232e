/* SPDX-License-Identifier: MIT */
/* Normalizers one after the other, and the simple ones. */
#include <string.h>

#include "text/text_find.h"
#include "text/text_utf8.h"
#include "text/tokenizer_private.h"
#include "text/unicode_class.h"
#include "tokenlane/base/utf8.h"

static int failed_or_ok(const struct tok_norm_call *call) {
  return call->out->failed ? tok_out_of_memory(call->err) : TL_OK;
}

int tok_norm_lowercase(const struct tok_norm *norm, struct tok_norm_call *call) {
  (void)norm;
  for (size_t i = 0; i < call->length;) {
    unsigned char byte = (unsigned char)call->text[i];
    if (byte < 0x80) {
      tl_buffer_putc(call->out, (char)(byte >= 'A' && byte <= 'Z' ? byte + 32 : byte));
      i++;
      continue;
    }
    uint32_t code;
    i += tl_utf8_decode(call->text + i, call->length - i, &code);
    char bytes[4];
    if (code == 0x130) /* the only character whose lower case is two */
      tl_buffer_puts(call->out, "i\xcc\x87");
    else
      tl_buffer_append(call->out, bytes, tl_utf8_encode(unicode_lower(code), bytes));
  }
  return failed_or_ok(call);
}

/* Found text gives way to the content. A beginning of several characters counts as lost:
 * the reference aligns what replaces it with the last of them. */
static void put_content(const struct tok_norm *norm, struct tok_norm_call *call, size_t at, size_t start, size_t end) {
  size_t before = call->out->length;
  tl_buffer_append(call->out, call->text + at, start - at);
  if (start == 0 && before == call->out->length) {
    uint32_t code;
    call->lost |= !norm->content_length || tl_utf8_decode(call->text, call->length, &code) < end;
  }
  tl_buffer_append(call->out, norm->content, norm->content_length);
}

static int replace_literal(const struct tok_norm *norm, struct tok_norm_call *call) {
  size_t at = 0;
  while (norm->literal_length && at < call->length) {
    const char *found = text_find(call->text + at, call->length - at, norm->literal, norm->literal_length);
    if (!found) break;
    size_t start = (size_t)(found - call->text);
    put_content(norm, call, at, start, start + norm->literal_length);
    at = start + norm->literal_length;
  }
  tl_buffer_append(call->out, call->text + at, call->length - at);
  return failed_or_ok(call);
}

int tok_norm_replace(const struct tok_norm *norm, struct tok_norm_call *call) {
  if (!norm->pattern) return replace_literal(norm, call);
  pcre2_match_data *match;
  pcre2_match_context *context;
  int r = tok_match_new(call->length, &match, &context, call->err);
  size_t at = 0;
  struct tok_piece found;
  while (r >= 0 &&
         (r = tok_pattern_find(norm->pattern, call->text, call->length, at, match, context, &found, call->err)) > 0) {
    put_content(norm, call, at, found.start, found.end);
    at = found.end;
  }
  tl_buffer_append(call->out, call->text + at, call->length - at);
  pcre2_match_data_free(match);
  pcre2_match_context_free(context);
  return r < 0 ? r : failed_or_ok(call);
}

int tok_norm_prepend(const struct tok_norm *norm, struct tok_norm_call *call) {
  if (call->length && call->first) tl_buffer_append(call->out, norm->content, norm->content_length);
  tl_buffer_append(call->out, call->text, call->length);
  return failed_or_ok(call);
}

int tok_norm_strip(const struct tok_norm *norm, struct tok_norm_call *call) {
  size_t start = 0, end = 0;
  bool inside = !norm->left || !call->first;
  for (size_t i = 0; i < call->length;) {
    uint32_t code;
    size_t n = tl_utf8_decode(call->text + i, call->length - i, &code);
    if (!inside && !text_is_white(code)) {
      inside = true;
      start = i;
    }
    i += n;
    if (!text_is_white(code)) end = i;
  }
  if (!norm->right || !call->last) end = call->length;
  call->lost |= start > 0;
  if (inside && end > start) tl_buffer_append(call->out, call->text + start, end - start);
  return failed_or_ok(call);
}

/* SentencePiece's cleaning for translation: some controls go, what looks like a blank becomes one. */
static bool nmt_drops(uint32_t c) {
  return (c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f || c == 0x9f;
}

static bool nmt_blanks(uint32_t c) {
  return c == 9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 || (c >= 0x200b && c <= 0x200f) || c == 0x2028 ||
         c == 0x2029 || c == 0x2581 || c == 0xfeff || c == 0xfffd;
}

int tok_norm_nmt(const struct tok_norm *norm, struct tok_norm_call *call) {
  (void)norm;
  size_t start = call->out->length;
  for (size_t i = 0; i < call->length;) {
    uint32_t code;
    size_t n = tl_utf8_decode(call->text + i, call->length - i, &code);
    if (nmt_drops(code))
      call->lost |= call->out->length == start;
    else if (nmt_blanks(code))
      tl_buffer_putc(call->out, ' ');
    else
      tl_buffer_append(call->out, call->text + i, n);
    i += n;
  }
  return failed_or_ok(call);
}

int tok_norm_byte_level(const struct tok_norm *norm, struct tok_norm_call *call) {
  (void)norm;
  for (size_t i = 0; i < call->length; i++) {
    char bytes[4];
    tl_buffer_append(call->out, bytes, tok_byte_spelling((uint8_t)call->text[i], bytes));
  }
  return failed_or_ok(call);
}

/* What is put in may be long, and several steps may do it: a file must not turn a short text into a
 * very long one. */
static size_t most(size_t length) {
  return length * 64 + ((size_t)1 << 20);
}

int tok_normalize(const struct tl_tokenizer *t, const char *text, size_t length, bool first, bool last,
                  struct tl_buffer *out, bool *ret_lost, struct tl_error *err) {
  struct tl_buffer work[2];
  tl_buffer_init(&work[0], most(length));
  tl_buffer_init(&work[1], most(length));
  *ret_lost = false;
  int r = TL_OK;
  for (unsigned i = 0; r == TL_OK && i < t->n_norms; i++) {
    struct tl_buffer *to = &work[i & 1];
    tl_buffer_clear(to);
    struct tok_norm_call call = {text, length, first, last, to, false, err};
    r = t->norms[i].apply(&t->norms[i], &call);
    *ret_lost |= call.lost;
    text = tl_buffer_bytes(to);
    length = to->length;
  }
  if (r == TL_OK && tl_buffer_append(out, text, length) < 0) r = tok_out_of_memory(err);
  tl_buffer_done(&work[0]);
  tl_buffer_done(&work[1]);
  return r;
}
