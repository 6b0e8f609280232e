/* SPDX-License-Identifier: MIT */
/* Normalizers: Unicode forms by utf8proc, the simple ones by hand. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text/text_utf8.h"
#include "text/tokenizer_private.h"
#include "tokenlane/base/utf8.h"

static int out_of_memory(struct tl_error *err) {
  return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
}

static bool is_ascii(const char *text, size_t length) {
  for (size_t i = 0; i < length; i++)
    if ((unsigned char)text[i] >= 0x80) return false;
  return true;
}

/* --- Unicode forms -------------------------------------------------------------------
 * utf8proc decomposes and composes; the marks are put in canonical order here,
 * since its own exchange sort is quadratic in a run of marks. */
#define MAX_DECOMPOSED 32 /* the longest (U+FDFA) is 18 */

static unsigned combining_class(utf8proc_int32_t code) {
  return (unsigned)utf8proc_get_property(code)->combining_class;
}

/* A stable counting sort of a run by combining class. */
static void order_run(utf8proc_int32_t *run, size_t n, utf8proc_int32_t *work) {
  size_t start[257] = {0};
  for (size_t i = 0; i < n; i++) start[(combining_class(run[i]) & 255) + 1]++;
  for (unsigned c = 0; c < 256; c++) start[c + 1] += start[c];
  for (size_t i = 0; i < n; i++) work[start[combining_class(run[i]) & 255]++] = run[i];
  memcpy(run, work, n * sizeof *run);
}

static int order_marks(utf8proc_int32_t *codes, size_t n) {
  utf8proc_int32_t *work = NULL;
  for (size_t i = 0; i < n;) {
    size_t end = i;
    bool ordered = true;
    for (; end < n && combining_class(codes[end]); end++)
      if (end > i && combining_class(codes[end]) < combining_class(codes[end - 1])) ordered = false;
    if (!ordered && !work && !(work = malloc(n * sizeof *work))) return TL_ENOMEM;
    if (!ordered) order_run(codes + i, end - i, work);
    i = end + 1;
  }
  free(work);
  return TL_OK;
}

/* text to decomposed characters; the caller frees *ret. */
static int decompose(int form, const char *text, size_t length, utf8proc_int32_t **ret, size_t *ret_n) {
  size_t n = 0, capacity = length + MAX_DECOMPOSED;
  utf8proc_int32_t *codes = malloc(capacity * sizeof *codes);
  int boundary = 0;
  *ret = NULL;
  if (!codes) return TL_ENOMEM;
  for (size_t i = 0; i < length;) {
    uint32_t code;
    i += tl_utf8_decode(text + i, length - i, &code);
    if (n + MAX_DECOMPOSED > capacity) {
      capacity *= 2;
      utf8proc_int32_t *more = realloc(codes, capacity * sizeof *codes);
      if (!more) {
        free(codes);
        return TL_ENOMEM;
      }
      codes = more;
    }
    n += (size_t)utf8proc_decompose_char((utf8proc_int32_t)code, codes + n, MAX_DECOMPOSED, (utf8proc_option_t)form,
                                         &boundary);
  }
  *ret = codes;
  *ret_n = n;
  return TL_OK;
}

static int unicode_form(const struct tok_norm *norm, const char *text, size_t length, struct tl_buffer *out) {
  if (is_ascii(text, length)) return tl_buffer_append(out, text, length);
  utf8proc_int32_t *codes;
  size_t n;
  int r = decompose(norm->form, text, length, &codes, &n);
  if (r == TL_OK) r = order_marks(codes, n);
  if (r == TL_OK && (norm->form & UTF8PROC_COMPOSE))
    n = (size_t)utf8proc_normalize_utf32(codes, (utf8proc_ssize_t)n, (utf8proc_option_t)norm->form);
  for (size_t i = 0; r == TL_OK && i < n; i++) {
    char bytes[4];
    r = tl_buffer_append(out, bytes, tl_utf8_encode((uint32_t)codes[i], bytes));
  }
  free(codes);
  return r;
}

static int lowercase(const char *text, size_t length, struct tl_buffer *out) {
  for (size_t i = 0; i < length;) {
    uint32_t code;
    i += tl_utf8_decode(text + i, length - i, &code);
    char bytes[4];
    if (code == 0x130) { /* the only character whose lower case is two */
      tl_buffer_puts(out, "i\xcc\x87");
    } else {
      tl_buffer_append(out, bytes, tl_utf8_encode((uint32_t)utf8proc_tolower((utf8proc_int32_t)code), bytes));
    }
  }
  return out->failed ? TL_ENOMEM : TL_OK;
}

static int replace(const struct tok_norm *norm, const char *text, size_t length, struct tl_buffer *out,
                   struct tl_error *err) {
  pcre2_match_data *match;
  pcre2_match_context *context;
  int r = tok_match_new(length, &match, &context, err);
  size_t at = 0;
  struct tok_piece found;
  while (r >= 0 && (r = tok_pattern_find(norm->pattern, text, length, at, match, context, &found, err)) > 0) {
    tl_buffer_append(out, text + at, found.start - at);
    tl_buffer_append(out, norm->content, norm->content_length);
    at = found.end;
  }
  tl_buffer_append(out, text + at, length - at);
  pcre2_match_data_free(match);
  pcre2_match_context_free(context);
  return r < 0 ? r : out->failed ? out_of_memory(err) : TL_OK;
}

static int strip(const struct tok_norm *norm, const char *text, size_t length, struct tl_buffer *out) {
  size_t start = 0, end = 0;
  bool inside = !norm->left;
  for (size_t i = 0; i < length;) {
    uint32_t code;
    size_t n = tl_utf8_decode(text + i, length - i, &code);
    if (!inside && !text_is_white(code)) {
      inside = true;
      start = i;
    }
    i += n;
    if (!text_is_white(code)) end = i;
  }
  if (!norm->right) end = length;
  return inside && end > start ? tl_buffer_append(out, text + start, end - start) : TL_OK;
}

static int apply(const struct tok_norm *norm, const char *text, size_t length, struct tl_buffer *out,
                 struct tl_error *err) {
  int r = TL_OK;
  switch (norm->kind) {
    case TOK_NORM_FORM: r = unicode_form(norm, text, length, out); break;
    case TOK_NORM_LOWERCASE: r = lowercase(text, length, out); break;
    case TOK_NORM_REPLACE: return replace(norm, text, length, out, err);
    case TOK_NORM_STRIP: r = strip(norm, text, length, out); break;
    case TOK_NORM_PREPEND:
      if (length) tl_buffer_append(out, norm->content, norm->content_length);
      r = tl_buffer_append(out, text, length);
      break;
  }
  return r < 0 ? out_of_memory(err) : TL_OK;
}

int tok_normalize(const struct tl_tokenizer *t, const char *text, size_t length, struct tl_buffer *out,
                  struct tl_error *err) {
  if (t->n_norms == 0) return tl_buffer_append(out, text, length) < 0 ? out_of_memory(err) : TL_OK;
  struct tl_buffer work[2];
  tl_buffer_init(&work[0], 0);
  tl_buffer_init(&work[1], 0);
  int r = TL_OK;
  for (unsigned i = 0; r == TL_OK && i < t->n_norms; i++) {
    struct tl_buffer *to = i + 1 == t->n_norms ? out : &work[i & 1];
    if (to != out) tl_buffer_clear(to);
    r = apply(&t->norms[i], text, length, to, err);
    text = tl_buffer_string(to);
    length = to->length;
  }
  tl_buffer_done(&work[0]);
  tl_buffer_done(&work[1]);
  return r;
}
