/* SPDX-License-Identifier: MIT */
/* Jinja source to tokens, as a machine with three modes: text, {{ }} and {% %}.
 * Whitespace control is done here: trim_blocks and lstrip_blocks are on. */
#include <stdarg.h>
#include <string.h>

#include "tmpl_ast.h"

int tmpl_lex_fail(struct tmpl_lexer *lexer, int code, const char *format, ...) {
  if (lexer->code) return lexer->code;
  va_list args;
  va_start(args, format);
  lexer->code = tmpl_error_at(lexer->err, code, lexer->line, format, args);
  va_end(args);
  lexer->n_queue = 0;
  return code;
}

/* \r\n and \r become \n; one newline at the end of the source does not count. */
int tmpl_lex_init(struct tmpl_lexer *lexer, struct tl_arena *arena, const char *source, size_t length,
                  struct tl_error *err) {
  *lexer = (struct tmpl_lexer){.arena = arena, .line = 1, .line_starting = true, .err = err};
  char *copy = tl_arena_alloc(arena, length + 1);
  if (!copy) return tmpl_lex_fail(lexer, TL_ELIMIT, "template too large");
  size_t n = 0;
  for (size_t i = 0; i < length; i++) {
    if (source[i] == '\n' && i > 0 && source[i - 1] == '\r') continue;
    copy[n++] = source[i] == '\r' ? '\n' : source[i];
  }
  if (n > 0 && copy[n - 1] == '\n') n--;
  lexer->source = copy;
  lexer->length = n;
  return TL_OK;
}

static char peek(const struct tmpl_lexer *lx, size_t at) {
  return at < lx->length ? lx->source[at] : 0;
}

static void move_to(struct tmpl_lexer *lx, size_t to) {
  for (size_t i = lx->at; i < to; i++) lx->line += lx->source[i] == '\n';
  lx->line_starting = to > lx->at && lx->source[to - 1] == '\n';
  lx->at = to;
}

static size_t skip_spaces(const struct tmpl_lexer *lx, size_t at) {
  while (at < lx->length) {
    size_t n;
    if (!tmpl_is_space(tmpl_char(lx->source + at, lx->length - at, &n))) break;
    at += n;
  }
  return at;
}

/* Where the spaces that end source[from, to) begin. */
static size_t skip_spaces_back(const struct tmpl_lexer *lx, size_t from, size_t to) {
  while (to > from) {
    size_t start = to - 1, n;
    while (start > from && ((unsigned char)lx->source[start] & 0xc0) == 0x80) start--;
    if (!tmpl_is_space(tmpl_char(lx->source + start, to - start, &n)) || start + n != to) break;
    to = start;
  }
  return to;
}

/* The end of text before a tag: "-" strips all spaces, and without a sign a
 * statement or comment strips the blanks between it and the line's beginning. */
static size_t strip_before(const struct tmpl_lexer *lx, size_t from, size_t to, char sign, bool is_variable) {
  if (sign == '-') return skip_spaces_back(lx, from, to);
  if (sign == '+' || is_variable) return to;
  size_t line = to;
  while (line > from && lx->source[line - 1] != '\n') line--;
  if (line == from && !lx->line_starting) return to;
  return skip_spaces_back(lx, line, to) == line ? line : to;
}

static char sign_at(const struct tmpl_lexer *lx, size_t at) {
  char c = peek(lx, at);
  return c == '-' || c == '+' ? c : 0;
}

/* "%}" or "#}" at `at`, maybe signed, with the whitespace that it takes along;
 * returns where that ends, 0 if there is no end tag here. */
static size_t end_tag(const struct tmpl_lexer *lx, size_t at, char mark) {
  char sign = sign_at(lx, at);
  size_t p = at + (sign != 0);
  if (peek(lx, p) != mark || peek(lx, p + 1) != '}') return 0;
  p += 2;
  if (sign == '-') return skip_spaces(lx, p);
  if (sign == 0 && peek(lx, p) == '\n') p++;
  return p;
}

/* {% word %} at `at`; returns where its name ends, 0 if it is another tag. */
static size_t word_tag(const struct tmpl_lexer *lx, size_t at, const char *word) {
  size_t p = skip_spaces(lx, at + 2 + (sign_at(lx, at + 2) != 0));
  size_t n = strlen(word);
  if (lx->length - p < n || memcmp(lx->source + p, word, n) != 0) return 0;
  return skip_spaces(lx, p + n);
}

static void push(struct tmpl_lexer *lx, enum tmpl_token_kind kind, size_t from, size_t to) {
  if (lx->code) return;
  lx->queue[lx->n_queue++] =
      (struct tmpl_token){.kind = kind, .line = lx->line, .text = lx->source + from, .length = to - from};
}

static void push_data(struct tmpl_lexer *lx, size_t from, size_t to) {
  if (to > from) push(lx, TMPL_TOK_DATA, from, to);
}

static void read_comment(struct tmpl_lexer *lx, size_t at) {
  size_t from = at + 2 + (sign_at(lx, at + 2) != 0);
  for (size_t p = from; p < lx->length; p++) {
    size_t end = end_tag(lx, p, '#');
    if (!end) continue;
    move_to(lx, end);
    return;
  }
  if (from >= lx->length) { /* jinja2 lets a bare {# at the very end pass */
    move_to(lx, lx->length);
    return;
  }
  tmpl_lex_fail(lx, TL_EINVAL, "missing end of comment tag");
}

/* {% raw %} text {% endraw %}, the lexer stands before it. */
static void read_raw(struct tmpl_lexer *lx, size_t body) {
  move_to(lx, body);
  for (size_t p = body; p + 1 < lx->length; p++) {
    if (lx->source[p] != '{' || lx->source[p + 1] != '%') continue;
    size_t name_end = word_tag(lx, p, "endraw");
    size_t end = name_end ? end_tag(lx, name_end, '%') : 0;
    if (!end) continue;
    push_data(lx, body, strip_before(lx, body, p, sign_at(lx, p + 2), false));
    move_to(lx, end);
    return;
  }
  if (body < lx->length) tmpl_lex_fail(lx, TL_EINVAL, "missing end of raw directive"); /* as for comments */
}

/* Where the text of a raw block begins, 0 if `at` is no {% raw %}. Unlike
 * other tags it keeps the newline behind it. */
static size_t raw_body(const struct tmpl_lexer *lx, size_t at) {
  size_t p = word_tag(lx, at, "raw");
  if (!p) return 0;
  if (peek(lx, p) == '%' && peek(lx, p + 1) == '}') return p + 2;
  if (peek(lx, p) == '-' && peek(lx, p + 1) == '%' && peek(lx, p + 2) == '}') return skip_spaces(lx, p + 3);
  return 0;
}

/* Text up to the next tag, and the tag's beginning. */
static void read_root(struct tmpl_lexer *lx) {
  size_t at = lx->at;
  for (; at < lx->length; at++) {
    char c = peek(lx, at + 1);
    if (lx->source[at] == '{' && (c == '{' || c == '%' || c == '#')) break;
  }
  if (at >= lx->length) {
    push_data(lx, lx->at, lx->length);
    move_to(lx, lx->length);
    return;
  }
  char mark = lx->source[at + 1], sign = sign_at(lx, at + 2);
  push_data(lx, lx->at, strip_before(lx, lx->at, at, sign, mark == '{'));
  move_to(lx, at);
  size_t raw = mark == '%' ? raw_body(lx, at) : 0;
  if (raw) {
    read_raw(lx, raw);
  } else if (mark == '#') {
    read_comment(lx, at);
  } else {
    push(lx, mark == '%' ? TMPL_TOK_BLOCK_BEGIN : TMPL_TOK_VARIABLE_BEGIN, at, at + 2);
    move_to(lx, at + 2 + (sign != 0));
    lx->mode = mark == '%' ? TMPL_LEX_BLOCK : TMPL_LEX_VARIABLE;
  }
}

/* The end of the tag that is being read; false if it goes on. */
static bool read_tag_end(struct tmpl_lexer *lx) {
  if (lx->n_brackets > 0) return false;
  size_t end = 0;
  if (lx->mode == TMPL_LEX_BLOCK) {
    end = end_tag(lx, lx->at, '%');
  } else {
    bool minus = peek(lx, lx->at) == '-';
    size_t p = lx->at + minus;
    if (peek(lx, p) == '}' && peek(lx, p + 1) == '}') end = minus ? skip_spaces(lx, p + 2) : p + 2;
  }
  if (!end) return false;
  push(lx, lx->mode == TMPL_LEX_BLOCK ? TMPL_TOK_BLOCK_END : TMPL_TOK_VARIABLE_END, lx->at, lx->at + 2);
  move_to(lx, end);
  lx->mode = TMPL_LEX_ROOT;
  return true;
}

static bool read_name(struct tmpl_lexer *lx) {
  size_t at = lx->at;
  while (at < lx->length) {
    size_t n;
    uint32_t c = tmpl_char(lx->source + at, lx->length - at, &n);
    if (!tmpl_is_word(c) || (at == lx->at && c >= '0' && c <= '9')) break;
    at += n;
  }
  if (at == lx->at) return false;
  push(lx, TMPL_TOK_NAME, lx->at, at);
  move_to(lx, at);
  return true;
}

/* Keeps brackets balanced, so that "}}" may end a dict inside a tag. */
static void balance(struct tmpl_lexer *lx, char c) {
  if (c == '{' || c == '(' || c == '[') {
    if (lx->n_brackets == sizeof lx->brackets) {
      tmpl_lex_fail(lx, TL_ELIMIT, "brackets nested too deeply");
      return;
    }
    lx->brackets[lx->n_brackets++] = (char)(c == '{' ? '}' : c == '(' ? ')' : ']');
  } else if (c == '}' || c == ')' || c == ']') {
    if (lx->n_brackets == 0) {
      tmpl_lex_fail(lx, TL_EINVAL, "unexpected '%c'", c);
    } else if (lx->brackets[--lx->n_brackets] != c) {
      tmpl_lex_fail(lx, TL_EINVAL, "unexpected '%c', expected '%c'", c, lx->brackets[lx->n_brackets]);
    }
  }
}

static bool read_operator(struct tmpl_lexer *lx) {
  static const char doubles[][3] = {"//", "**", "==", "!=", ">=", "<="};
  char c = peek(lx, lx->at);
  int op = (unsigned char)c;
  size_t n = 1;
  for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++)
    if (c == doubles[i][0] && peek(lx, lx->at + 1) == doubles[i][1]) {
      op = TMPL_OP2(c, doubles[i][1]);
      n = 2;
    }
  if (c == 0 || (n == 1 && !strchr("+-/*%~[](){}><=.:|,;", c))) return false;
  if (n == 1) balance(lx, c);
  push(lx, TMPL_TOK_OPERATOR, lx->at, lx->at + n);
  if (lx->n_queue) lx->queue[lx->n_queue - 1].op = op;
  move_to(lx, lx->at + n);
  return true;
}

static void read_tag(struct tmpl_lexer *lx) {
  struct tmpl_token token = {.line = lx->line};
  if (read_tag_end(lx)) return;
  size_t spaces = skip_spaces(lx, lx->at);
  if (spaces > lx->at) {
    move_to(lx, spaces);
    return;
  }
  if (lx->at >= lx->length) return; /* the parser says what is missing */
  if (tmpl_lex_number(lx, &token) || tmpl_lex_string(lx, &token)) {
    if (!lx->code) lx->queue[lx->n_queue++] = token;
    return;
  }
  if (lx->code || read_name(lx) || read_operator(lx)) return;
  size_t n;
  tmpl_char(lx->source + lx->at, lx->length - lx->at, &n);
  tmpl_lex_fail(lx, TL_EINVAL, "unexpected character '%.*s'", (int)n, lx->source + lx->at);
}

struct tmpl_token tmpl_lex_next(struct tmpl_lexer *lexer) {
  while (lexer->n_queue == 0 && !lexer->code && lexer->at < lexer->length) {
    if (lexer->mode == TMPL_LEX_ROOT) {
      read_root(lexer);
    } else {
      read_tag(lexer);
    }
  }
  if (lexer->n_queue == 0) return (struct tmpl_token){.line = lexer->line};
  struct tmpl_token first = lexer->queue[0];
  lexer->queue[0] = lexer->queue[1];
  lexer->n_queue--;
  return first;
}
