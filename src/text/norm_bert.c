/* SPDX-License-Identifier: MIT */
/* BertNormalizer (Devlin et al. 2019) and StripAccents. */
#include <utf8proc.h>

#include "text/text_utf8.h"
#include "text/tokenizer_private.h"
#include "text/unicode_class.h"
#include "tokenlane/base/utf8.h"

/* Appends the characters of a text but those of a class. */
static int leave_out(struct tok_norm_call *call, bool (*is)(uint32_t), const char *text, size_t length, struct tl_buffer *out) {
  size_t begin = 0, start = out->length;
  for (size_t i = 0; i < length;) {
    uint32_t code;
    size_t n = tl_utf8_decode(text + i, length - i, &code);
    if (is(code)) {
      tl_buffer_append(out, text + begin, i - begin);
      if (out->length == start) call->lost = true;
      begin = i + n;
    }
    i += n;
  }
  return tl_buffer_append(out, text + begin, length - begin) < 0 ? tok_out_of_memory(call->err) : TL_OK;
}

int tok_norm_strip_accents(const struct tok_norm *norm, struct tok_norm_call *call) {
  (void)norm;
  return leave_out(call, unicode_is_mark, call->text, call->length, call->out);
}

static int clean(struct tok_norm_call *call, const char *text, size_t length, struct tl_buffer *out) {
  size_t start = out->length;
  for (size_t i = 0; i < length;) {
    uint32_t code;
    size_t n = tl_utf8_decode(text + i, length - i, &code);
    if (code >= 0x21 && code < 0x7f)
      tl_buffer_putc(out, text[i]);
    else if (unicode_is_control(code))
      call->lost |= out->length == start;
    else if (text_is_white(code))
      tl_buffer_putc(out, ' ');
    else
      tl_buffer_append(out, text + i, n);
    i += n;
  }
  return out->failed ? tok_out_of_memory(call->err) : TL_OK;
}

/* The blocks that the paper's tokenizer treats as words of one character. */
static bool is_chinese(uint32_t code) {
  return (code >= 0x4e00 && code <= 0x9fff) || (code >= 0x3400 && code <= 0x4dbf) || (code >= 0x20000 && code <= 0x2a6df) ||
         (code >= 0x2a700 && code <= 0x2b81f) || (code >= 0x2b920 && code <= 0x2ceaf) || (code >= 0xf900 && code <= 0xfaff) ||
         (code >= 0x2f800 && code <= 0x2fa1f);
}

static int space_chinese(struct tok_norm_call *call, const char *text, size_t length, struct tl_buffer *out) {
  for (size_t i = 0; i < length;) {
    uint32_t code;
    size_t n = tl_utf8_decode(text + i, length - i, &code);
    bool chinese = is_chinese(code);
    if (chinese) tl_buffer_putc(out, ' ');
    tl_buffer_append(out, text + i, n);
    if (chinese) tl_buffer_putc(out, ' ');
    i += n;
  }
  return out->failed ? tok_out_of_memory(call->err) : TL_OK;
}

static int strip_accents(struct tok_norm_call *call, const char *text, size_t length, struct tl_buffer *out) {
  struct tl_buffer apart;
  tl_buffer_init(&apart, 0);
  struct tok_norm_call form_call = {.text = text, .length = length, .out = &apart, .err = call->err};
  int r = tok_norm_form(&(struct tok_norm){.form = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE}, &form_call);
  if (r == TL_OK) r = leave_out(call, unicode_is_nonspacing, tl_buffer_bytes(&apart), apart.length, out);
  tl_buffer_done(&apart);
  return r;
}

static int lowercase(struct tok_norm_call *call, const char *text, size_t length, struct tl_buffer *out) {
  struct tok_norm_call lower_call = {.text = text, .length = length, .out = out, .err = call->err};
  return tok_norm_lowercase(NULL, &lower_call);
}

int tok_norm_bert(const struct tok_norm *norm, struct tok_norm_call *call) {
  const struct {
    bool on;
    int (*apply)(struct tok_norm_call *call, const char *text, size_t length, struct tl_buffer *out);
  } steps[] = {{norm->clean, clean}, {norm->chinese, space_chinese}, {norm->accents, strip_accents}, {norm->lowercase, lowercase}};
  struct tl_buffer work[2];
  tl_buffer_init(&work[0], 0);
  tl_buffer_init(&work[1], 0);
  const char *text = call->text;
  size_t length = call->length;
  int r = TL_OK;
  for (unsigned i = 0; r == TL_OK && i < sizeof steps / sizeof *steps; i++) {
    struct tl_buffer *to = &work[i & 1];
    if (!steps[i].on) continue;
    if (to->data == text) to = &work[(i + 1) & 1];
    tl_buffer_clear(to);
    r = steps[i].apply(call, text, length, to);
    text = tl_buffer_bytes(to);
    length = to->length;
  }
  if (r == TL_OK && tl_buffer_append(call->out, text, length) < 0) r = tok_out_of_memory(call->err);
  tl_buffer_done(&work[0]);
  tl_buffer_done(&work[1]);
  return r;
}
