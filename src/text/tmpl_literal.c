/* SPDX-License-Identifier: MIT */
/* String and number literals inside template tags. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tmpl_ast.h"
#include "tokenlane/base/utf8.h"

struct unescape {
  struct tmpl_lexer *lexer;
  const char *at, *end;
  char *to; /* the result is never longer than the source, but for the escape of a non-ASCII character */
};

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void put_code(struct unescape *u, uint32_t code) {
  size_t n = tl_utf8_encode(code, u->to);
  if (n == 0)
    tmpl_lex_fail(u->lexer, TL_EUNSUPPORTED, "escape of U+%04X, which is no character", (unsigned)code);
  u->to += n;
}

static void hex_escape(struct unescape *u, int digits) {
  uint32_t code = 0;
  for (int i = 0; i < digits; i++, u->at++) {
    int digit = u->at < u->end ? hex_digit(*u->at) : -1;
    if (digit < 0) {
      tmpl_lex_fail(u->lexer, TL_EINVAL, "truncated escape in string");
      return;
    }
    code = code << 4 | (uint32_t)digit;
  }
  put_code(u, code);
}

static void octal_escape(struct unescape *u) {
  uint32_t code = 0;
  for (int i = 0; i < 3 && u->at < u->end && *u->at >= '0' && *u->at <= '7'; i++)
    code = code * 8 + (uint32_t)(*u->at++ - '0');
  put_code(u, code);
}

/* Jinja turns text into ASCII with \x, \u and \U escapes before it reads the
 * escapes: behind a backslash the character's own escape is no longer one. */
static void escaped_non_ascii(struct unescape *u) {
  size_t n;
  unsigned code = tmpl_char(u->at, (size_t)(u->end - u->at), &n);
  u->at += n;
  const char *form = code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x";
  char text[16];
  int length = snprintf(text, sizeof text, form, code);
  memcpy(u->to, text, (size_t)length);
  u->to += length;
}

/* One escape; u->at is behind the backslash. */
static void escape(struct unescape *u) {
  static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
  char c = *u->at;
  const char *simple = c ? strchr(from, c) : NULL;
  if (simple) {
    *u->to++ = to[simple - from];
    u->at++;
  } else if (c >= '0' && c <= '7') {
    octal_escape(u);
  } else if (c == 'x' || c == 'u' || c == 'U') {
    u->at++;
    hex_escape(u, c == 'x' ? 2 : c == 'u' ? 4 : 8);
  } else if (c == '\n') {
    u->at++;
  } else if (c == 'N') {
    tmpl_lex_fail(u->lexer, TL_EUNSUPPORTED, "\\N escape in string");
  } else if ((unsigned char)c >= 0x80) {
    escaped_non_ascii(u);
  } else {
    *u->to++ = '\\'; /* an unknown escape stands for itself */
    *u->to++ = c;
    u->at++;
  }
}

/* The closing quote, or the source's length. */
static size_t string_end(const struct tmpl_lexer *lx) {
  char quote = lx->source[lx->at];
  size_t p = lx->at + 1;
  while (p < lx->length && lx->source[p] != quote) p += lx->source[p] == '\\' ? 2 : 1;
  return p < lx->length ? p : lx->length;
}

bool tmpl_lex_string(struct tmpl_lexer *lexer, struct tmpl_token *ret) {
  char quote = lexer->source[lexer->at];
  if (lexer->code || (quote != '\'' && quote != '"')) return false;
  size_t end = string_end(lexer);
  if (end == lexer->length) return tmpl_lex_fail(lexer, TL_EINVAL, "string without an end"), false;
  size_t most = (end - lexer->at) * 2; /* the worst: a backslash and a 4-byte character become 10 bytes */
  char *text = tl_arena_alloc(lexer->arena, most);
  if (!text) return tmpl_lex_fail(lexer, TL_ELIMIT, "template too large"), false;
  struct unescape u = {lexer, lexer->source + lexer->at + 1, lexer->source + end, text};
  while (u.at < u.end && !lexer->code) {
    if (*u.at == '\\') {
      u.at++;
      escape(&u);
    } else {
      *u.to++ = *u.at++;
    }
  }
  ret->kind = TMPL_TOK_STRING;
  ret->text = text;
  ret->length = (size_t)(u.to - text);
  for (size_t i = lexer->at; i < end; i++) lexer->line += lexer->source[i] == '\n';
  lexer->at = end + 1;
  return true;
}

/* Digits of the base with single underscores between (or before, if so told)
 * them from `at`; returns where they end. */
static size_t digits(const struct tmpl_lexer *lx, size_t at, int base, bool underscore_first) {
  size_t p = at;
  for (;;) {
    size_t digit = p + (p < lx->length && lx->source[p] == '_' && (p > at || underscore_first));
    if (digit >= lx->length) break;
    int value = hex_digit(lx->source[digit]);
    if (value < 0 || value >= base) break;
    p = digit + 1;
  }
  return p;
}

/* The end of a float literal at the lexer's place, 0 if it is none. */
static size_t float_end(const struct tmpl_lexer *lx) {
  if (lx->at > 0 && lx->source[lx->at - 1] == '.') return 0; /* foo.0.1 has two indexes */
  size_t p = digits(lx, lx->at, 10, false), whole = p;
  if (p == lx->at) return 0;
  if (p < lx->length && lx->source[p] == '.') {
    size_t fraction = digits(lx, p + 1, 10, false);
    if (fraction > p + 1) p = fraction;
  }
  if (p < lx->length && (lx->source[p] | 0x20) == 'e') {
    size_t e = p + 1;
    if (e < lx->length && (lx->source[e] == '+' || lx->source[e] == '-')) e++;
    size_t exponent = digits(lx, e, 10, false);
    if (exponent > e) return exponent;
  }
  return p > whole ? p : 0;
}

static size_t integer_end(const struct tmpl_lexer *lx, int *ret_base) {
  size_t p = lx->at;
  char c = lx->source[p], next = p + 1 < lx->length ? (char)(lx->source[p + 1] | 0x20) : 0;
  *ret_base = 10;
  if (c == '0') {
    int base = next == 'b' ? 2 : next == 'o' ? 8 : next == 'x' ? 16 : 0;
    size_t end = base ? digits(lx, p + 2, base, true) : 0;
    if (base && end > p + 2) {
      *ret_base = base;
      return end;
    }
    return digits(lx, p, 1, false); /* zeros only */
  }
  return c >= '1' && c <= '9' ? digits(lx, p, 10, false) : 0;
}

bool tmpl_lex_number(struct tmpl_lexer *lexer, struct tmpl_token *ret) {
  char c = lexer->source[lexer->at];
  if (lexer->code || c < '0' || c > '9') return false;
  int base = 10;
  size_t end = float_end(lexer);
  bool real = end != 0;
  if (!real) end = integer_end(lexer, &base);
  if (end == lexer->at) return false;
  char *text = tl_arena_alloc(lexer->arena, end - lexer->at + 1);
  if (!text) return tmpl_lex_fail(lexer, TL_ELIMIT, "template too large"), false;
  size_t n = 0;
  for (size_t i = lexer->at + (base != 10 ? 2 : 0); i < end; i++)
    if (lexer->source[i] != '_') text[n++] = lexer->source[i];
  ret->kind = real ? TMPL_TOK_FLOAT : TMPL_TOK_INTEGER;
  ret->text = lexer->source + lexer->at;
  ret->length = end - lexer->at;
  if (real) {
    ret->real = strtod(text, NULL);
  } else {
    struct tmpl_str s = {.bytes = text, .length = n};
    if (!tmpl_parse_int(&s, base, &ret->integer))
      return tmpl_lex_fail(lexer, TL_EUNSUPPORTED, "integer too large"), false;
  }
  lexer->at = end;
  return true;
}
