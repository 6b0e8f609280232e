/* SPDX-License-Identifier: MIT */
/* The four Unicode forms. utf8proc decomposes and composes; which characters take part
 * is what unicode_class.c says, and marks are put in canonical order here, since
 * utf8proc's own exchange sort is quadratic in a run of marks. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text/tokenizer_private.h"
#include "text/unicode_class.h"
#include "tokenlane/base/utf8.h"

#define MAX_DECOMPOSED 32 /* the longest (U+FDFA) is 18 */

static unsigned combining_class(utf8proc_int32_t code) {
  return unicode_is_ordered((uint32_t)code) ? (unsigned)utf8proc_get_property(code)->combining_class : 0;
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

static bool decomposes(int form, uint32_t code) {
  if (code >= 0xac00 && code <= 0xd7a3) return true;
  return form & UTF8PROC_COMPAT ? unicode_is_compatible(code) : unicode_is_canonical(code);
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
    if (decomposes(form, code))
      n += (size_t)utf8proc_decompose_char((utf8proc_int32_t)code, codes + n, MAX_DECOMPOSED, (utf8proc_option_t)form,
                                           &boundary);
    else
      codes[n++] = (utf8proc_int32_t)code;
  }
  *ret = codes;
  *ret_n = n;
  return TL_OK;
}

/* utf8proc composes by its own combining classes: a mark that counts as none here must stand
 * between what it would let join, so each such mark begins a text of its own. */
static size_t compose(int form, utf8proc_int32_t *codes, size_t n) {
  size_t kept = 0;
  for (size_t i = 0; i < n;) {
    size_t end = i + 1;
    while (end < n && (!utf8proc_get_property(codes[end])->combining_class || unicode_is_ordered((uint32_t)codes[end]))) end++;
    size_t composed = (size_t)utf8proc_normalize_utf32(codes + i, (utf8proc_ssize_t)(end - i), (utf8proc_option_t)form);
    memmove(codes + kept, codes + i, composed * sizeof *codes);
    kept += composed;
    i = end;
  }
  return kept;
}

static int form_part(int form, const char *text, size_t length, struct tl_buffer *out) {
  utf8proc_int32_t *codes;
  size_t n;
  int r = decompose(form, text, length, &codes, &n);
  if (r == TL_OK) r = order_marks(codes, n);
  if (r == TL_OK && (form & UTF8PROC_COMPOSE))
    n = compose(form, codes, n);
  for (size_t i = 0; r == TL_OK && i < n; i++) {
    char bytes[4];
    r = tl_buffer_append(out, bytes, tl_utf8_encode((uint32_t)codes[i], bytes));
  }
  free(codes);
  return r;
}

/* Characters that no form of this kind changes, moves, or joins to what stands before
 * them: most of most texts. What is missing here only takes the long way. */
static bool is_inert(int form, uint32_t code) {
  if (code < 0x80 || (code >= 0x4e00 && code <= 0x9fff)) return true;
  if (!(form & UTF8PROC_COMPOSE)) return false;
  if ((code >= 0xac00 && code <= 0xd7a3) || (code >= 0x3041 && code <= 0x3096) || (code >= 0x30a1 && code <= 0x30f6) ||
      (code >= 0x410 && code <= 0x44f) || code == 0x3001 || code == 0x3002)
    return true;
  return !(form & UTF8PROC_COMPAT) && (code < 0x300 || (code >= 0x388 && code <= 0x482) || (code >= 0xff01 && code <= 0xff9d));
}

/* Inert stretches are copied; what is not goes the long way together with the
 * character before it, which it may join. */
int tok_norm_form(const struct tok_norm *norm, struct tok_norm_call *call) {
  const char *text = call->text;
  size_t copied = 0, i = 0, previous = 0;
  while (i < call->length) {
    uint32_t code;
    size_t n = tl_utf8_decode(text + i, call->length - i, &code);
    if (is_inert(norm->form, code)) {
      previous = i;
      i += n;
      continue;
    }
    size_t begin = previous < copied ? i : previous, end = i + n;
    while (end < call->length) {
      n = tl_utf8_decode(text + end, call->length - end, &code);
      if (is_inert(norm->form, code)) break;
      end += n;
    }
    tl_buffer_append(call->out, text + copied, begin - copied);
    if (form_part(norm->form, text + begin, end - begin, call->out) < 0) return tok_out_of_memory(call->err);
    copied = i = end;
    previous = end;
  }
  return tl_buffer_append(call->out, text + copied, call->length - copied) < 0 ? tok_out_of_memory(call->err) : TL_OK;
}
