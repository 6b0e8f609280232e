/* SPDX-License-Identifier: MIT */
/* Patterns of tokenizer files are written for Oniguruma; PCRE2 understands them but for \s, which has
 * U+180E more, and \w: these are spelled by their properties. */
#include <string.h>

#include "text/tokenizer_private.h"

/* Oniguruma's word characters: letters, marks, digits, connectors. Outside brackets it also takes
 * Latin-1's superscripts and fractions for them. */
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define LATIN "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"

/* What a class is spelled as; inside brackets it needs none of its own. NULL: as PCRE2 has it. */
static const char *class_of(char letter, bool within) {
  switch (letter) {
    case 's': return "\\p{White_Space}";
    case 'S': return "\\P{White_Space}";
    case 'w': return within ? WORD : "[" WORD LATIN "]";
    case 'W': return within ? NULL : "[^" WORD LATIN "]";
    default: return NULL;
  }
}

static int translate(const char *source, size_t length, struct tl_buffer *out) {
  bool within = false;
  for (size_t i = 0; i < length; i++) {
    if (source[i] != '\\' || i + 1 == length) {
      within = source[i] == '[' || (within && source[i] != ']');
      tl_buffer_putc(out, source[i]);
      continue;
    }
    char next = source[++i];
    const char *class = class_of(next, within);
    if (class) {
      tl_buffer_puts(out, class);
    } else {
      tl_buffer_putc(out, '\\');
      tl_buffer_putc(out, next);
    }
  }
  return out->failed ? TL_ENOMEM : TL_OK;
}

int tok_pattern_compile(const char *source, size_t length, pcre2_code **ret, struct tl_error *err) {
  struct tl_buffer text;
  tl_buffer_init(&text, 0);
  if (translate(source, length, &text) < 0) {
    tl_buffer_done(&text);
    return tok_out_of_memory(err);
  }
  int number;
  PCRE2_SIZE at;
  *ret = pcre2_compile((PCRE2_SPTR)tl_buffer_bytes(&text), text.length, PCRE2_UTF | PCRE2_UCP, &number, &at, NULL);
  tl_buffer_done(&text);
  if (!*ret) {
    PCRE2_UCHAR why[120];
    pcre2_get_error_message(number, why, sizeof why);
    return tl_error_set(err, TL_ECORRUPT, NULL, "the pattern cannot be compiled: %s", (const char *)why);
  }
  /* Where memory cannot be made executable the interpreter does the same, slower. */
  (void)pcre2_jit_compile(*ret, PCRE2_JIT_COMPLETE);
  return TL_OK;
}

int tok_match_new(size_t length, pcre2_match_data **ret_match, pcre2_match_context **ret_context,
                  struct tl_error *err) {
  *ret_match = pcre2_match_data_create(1, NULL);
  *ret_context = pcre2_match_context_create(NULL);
  if (!*ret_match || !*ret_context) return tok_out_of_memory(err);
  /* Room for every sane pattern to look at each character some times; a
   * pattern that explodes on a text is stopped. */
  size_t limit = 10000000 + 16 * length;
  pcre2_set_match_limit(*ret_context, limit > UINT32_MAX ? UINT32_MAX : (uint32_t)limit);
  return TL_OK;
}

/* Length of the (valid) character at text. */
static size_t character_bytes(const char *text) {
  unsigned char lead = (unsigned char)*text;
  return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

int tok_pattern_find(const pcre2_code *code, const char *text, size_t length, size_t from, pcre2_match_data *match,
                     pcre2_match_context *context, struct tok_piece *ret, struct tl_error *err) {
  while (from < length) {
    int r = pcre2_match(code, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK, match, context);
    if (r == PCRE2_ERROR_JIT_STACKLIMIT)
      r = pcre2_match(code, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, context);
    if (r == PCRE2_ERROR_NOMATCH) return 0;
    if (r < 0) return tl_error_set(err, TL_ELIMIT, NULL, "the tokenizer's pattern takes too long on this text");
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(match);
    /* \K in a lookahead could even end before it starts */
    if (at[1] > at[0] && at[0] >= from) {
      *ret = (struct tok_piece){at[0], at[1], true};
      return 1;
    }
    from = at[1] > from ? at[1] : from;
    if (from < length) from += character_bytes(text + from);
  }
  return 0;
}
