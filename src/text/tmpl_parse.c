/* SPDX-License-Identifier: MIT */
/* The parser's tools, and statement lists. Errors stick: after a failure the
 * current token is EOF, so that every loop over tokens ends. */
#include "tmpl_ast.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tmpl_stmt.h"

void tmpl_parse_fail(struct tmpl_parser *p, uint32_t line, const char *format, ...) {
  if (p->code) return;
  if (p->lexer.code) { /* the lexer failed first, its message is filled in */
    p->code = p->lexer.code;
  } else {
    va_list args;
    va_start(args, format);
    p->code = tmpl_error_at(p->err, TL_EINVAL, line, format, args);
    va_end(args);
  }
  p->token = p->ahead = (struct tmpl_token){.line = line};
}

void *tmpl_parse_alloc(struct tmpl_parser *p, size_t count, size_t size) {
  void *memory = tl_arena_array(&p->tmpl->arena, count, size);
  if (!memory) tmpl_parse_fail(p, p->token.line, "template too large");
  return memory;
}

void *tmpl_parse_grow(struct tmpl_parser *p, void *items, size_t n, size_t *capacity, size_t size) {
  if (n < *capacity) return items;
  size_t wanted = *capacity ? *capacity * 2 : 4;
  void *grown = tmpl_parse_alloc(p, wanted, size);
  if (!grown) return NULL;
  if (n) memcpy(grown, items, n * size);
  *capacity = wanted;
  return grown;
}

struct tmpl_node *tmpl_node_new(struct tmpl_parser *p, enum tmpl_node_kind kind, uint32_t line) {
  struct tmpl_node *node = p->code ? NULL : tmpl_parse_alloc(p, 1, sizeof *node);
  if (!node) return NULL;
  node->kind = kind;
  node->line = line;
  node->height = 1;
  return node;
}

struct tmpl_node *tmpl_node_over(struct tmpl_parser *p, struct tmpl_node *node,
                                 const struct tmpl_node *child) {
  if (!node || !child) return node;
  if (child->height >= TMPL_MAX_NESTING) tmpl_parse_fail(p, node->line, "expression nested too deeply");
  if (node->height <= child->height) node->height = child->height + 1;
  return node;
}

void tmpl_nodes_push(struct tmpl_parser *p, struct tmpl_nodes *nodes, struct tmpl_node *node) {
  if (!node || p->code) return;
  struct tmpl_node **items = tmpl_parse_grow(p, nodes->items, nodes->n, &nodes->capacity, sizeof *items);
  if (!items) return;
  nodes->items = items;
  items[nodes->n++] = node;
}

const struct tmpl_str *tmpl_intern(struct tmpl_parser *p, const char *text, size_t length) {
  uint32_t hash = 2166136261u;
  for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)text[i]) * 16777619u;
  struct tmpl_interned **bucket = &p->names[hash % TMPL_NAME_BUCKETS];
  for (struct tmpl_interned *at = *bucket; at; at = at->next)
    if (at->str.length == length && memcmp(at->str.bytes, text, length) == 0) return &at->str;
  struct tmpl_interned *made = tmpl_parse_alloc(p, 1, sizeof *made);
  char *bytes = tl_arena_copy(&p->tmpl->arena, text, length);
  static const struct tmpl_str none = {.bytes = ""};
  if (!made || !bytes) return &none;
  made->str = (struct tmpl_str){.bytes = bytes, .length = length, .chars = tmpl_count_chars(bytes, length)};
  made->next = *bucket;
  *bucket = made;
  return &made->str;
}

struct tmpl_node *tmpl_mark_read(struct tmpl_parser *p, struct tmpl_node *node) {
  if (!node || p->code || node->kind != TMPL_N_NAME) return node;
  struct tmpl_interned *name = (struct tmpl_interned *)node->name; /* its str comes first */
  if (name->is_read) return node;
  name->is_read = true;
  name->next_read = p->tmpl->reads;
  p->tmpl->reads = name;
  return node;
}

void tmpl_advance(struct tmpl_parser *p) {
  if (p->code) return;
  p->token = p->ahead;
  p->ahead = tmpl_lex_next(&p->lexer);
  /* a failure counts when the parser gets there, so that an earlier one is told first */
  if (p->token.kind == TMPL_TOK_EOF && p->lexer.code) tmpl_parse_fail(p, p->token.line, "%s", "");
}

bool tmpl_at_op(const struct tmpl_parser *p, int op) {
  return p->token.kind == TMPL_TOK_OPERATOR && p->token.op == op;
}

bool tmpl_at_name(const struct tmpl_parser *p, const char *name) {
  return p->token.kind == TMPL_TOK_NAME && p->token.length == strlen(name) &&
         memcmp(p->token.text, name, p->token.length) == 0;
}

bool tmpl_skip_op(struct tmpl_parser *p, int op) {
  if (!tmpl_at_op(p, op)) return false;
  tmpl_advance(p);
  return true;
}

bool tmpl_skip_name(struct tmpl_parser *p, const char *name) {
  if (!tmpl_at_name(p, name)) return false;
  tmpl_advance(p);
  return true;
}

static const char *kind_name(enum tmpl_token_kind kind) {
  switch (kind) {
    case TMPL_TOK_EOF:
      return "end of template";
    case TMPL_TOK_DATA:
      return "text";
    case TMPL_TOK_VARIABLE_BEGIN:
      return "'{{'";
    case TMPL_TOK_VARIABLE_END:
      return "'}}'";
    case TMPL_TOK_BLOCK_BEGIN:
      return "'{%'";
    case TMPL_TOK_BLOCK_END:
      return "'%}'";
    case TMPL_TOK_NAME:
      return "a name";
    case TMPL_TOK_STRING:
      return "a string";
    case TMPL_TOK_INTEGER:
    case TMPL_TOK_FLOAT:
    case TMPL_TOK_OPERATOR:
      break;
  }
  return "";
}

const char *tmpl_describe(const struct tmpl_token *token, char ret[TMPL_TOKEN_TEXT]) {
  const char *name = kind_name(token->kind);
  if (token->kind == TMPL_TOK_NAME || *name == 0) {
    size_t n = token->length < 40 ? token->length : 40;
    while (n > 0 && n < token->length && ((unsigned char)token->text[n] & 0xc0) == 0x80) n--;
    snprintf(ret, TMPL_TOKEN_TEXT, "'%.*s'", (int)n, token->text);
  } else {
    snprintf(ret, TMPL_TOKEN_TEXT, "%s", name);
  }
  return ret;
}

void tmpl_expect_op(struct tmpl_parser *p, int op) {
  char got[TMPL_TOKEN_TEXT];
  if (tmpl_skip_op(p, op)) return;
  tmpl_parse_fail(p, p->token.line, "expected '%c', got %s", op, tmpl_describe(&p->token, got));
}

void tmpl_expect_kind(struct tmpl_parser *p, enum tmpl_token_kind kind) {
  char got[TMPL_TOKEN_TEXT];
  if (p->token.kind == kind) {
    tmpl_advance(p);
  } else {
    tmpl_parse_fail(p, p->token.line, "expected %s, got %s", kind_name(kind), tmpl_describe(&p->token, got));
  }
}

const struct tmpl_str *tmpl_expect_name(struct tmpl_parser *p) {
  const struct tmpl_token token = p->token;
  tmpl_expect_kind(p, TMPL_TOK_NAME);
  return token.kind == TMPL_TOK_NAME ? tmpl_intern(p, token.text, token.length) : tmpl_intern(p, "", 0);
}

bool tmpl_parse_enter(struct tmpl_parser *p) {
  if (++p->depth > TMPL_MAX_NESTING) tmpl_parse_fail(p, p->token.line, "template nested too deeply");
  return !p->code;
}

void tmpl_parse_leave(struct tmpl_parser *p) {
  p->depth--;
}

static bool at_any(const struct tmpl_parser *p, const char *const *ends) {
  for (; ends && *ends; ends++)
    if (tmpl_at_name(p, *ends)) return true;
  return false;
}

static void fail_end(struct tmpl_parser *p, const char *const *ends) {
  char wanted[128] = "", got[TMPL_TOKEN_TEXT];
  for (size_t i = 0, n = 0; ends && ends[i]; i++) {
    const char *glue = i == 0 ? "" : ends[i + 1] ? ", " : " or ";
    int more = snprintf(wanted + n, sizeof wanted - n, "%s'%s'", glue, ends[i]);
    n += (size_t)more;
    if (n >= sizeof wanted) break;
  }
  tmpl_describe(&p->token, got);
  if (ends) {
    tmpl_parse_fail(p, p->token.line, "expected %s, got %s", wanted, got);
  } else if (tmpl_at_name(p, "include") || tmpl_at_name(p, "import") || tmpl_at_name(p, "from") || tmpl_at_name(p, "extends")) {
    tmpl_parse_fail(p, p->token.line, "%s is not supported: a chat template has no other files", got);
  } else {
    tmpl_parse_fail(p, p->token.line, "unknown tag %s", got);
  }
}

static struct tmpl_node *parse_data(struct tmpl_parser *p) {
  struct tmpl_node *node = tmpl_node_new(p, TMPL_N_DATA, p->token.line);
  struct tmpl_str *str = tmpl_parse_alloc(p, 1, sizeof *str);
  if (node && str) {
    *str = (struct tmpl_str){.bytes = p->token.text, .length = p->token.length};
    str->chars = tmpl_count_chars(str->bytes, str->length);
    node->constant = (struct tmpl_value){.kind = TMPL_STR, .str = str};
  }
  tmpl_advance(p);
  return node;
}

struct tmpl_nodes tmpl_parse_body(struct tmpl_parser *p, const char *const *ends) {
  struct tmpl_nodes body = {0};
  while (!p->code && p->token.kind != TMPL_TOK_EOF) {
    if (p->unknown) tmpl_parse_fail(p, p->unknown_line, "no filter or test named '%.40s'", p->unknown->bytes);
    if (p->token.kind == TMPL_TOK_DATA) {
      tmpl_nodes_push(p, &body, parse_data(p));
    } else if (p->token.kind == TMPL_TOK_VARIABLE_BEGIN) {
      tmpl_advance(p);
      tmpl_nodes_push(p, &body, tmpl_parse_tuple(p, TMPL_TUPLE_EXPR, NULL));
      tmpl_expect_kind(p, TMPL_TOK_VARIABLE_END);
    } else {
      tmpl_expect_kind(p, TMPL_TOK_BLOCK_BEGIN);
      if (at_any(p, ends)) return body;
      bool known = tmpl_parse_statement(p, &body);
      if (!known) fail_end(p, ends);
      tmpl_expect_kind(p, TMPL_TOK_BLOCK_END);
    }
  }
  if (p->unknown) tmpl_parse_fail(p, p->unknown_line, "no filter or test named '%.40s'", p->unknown->bytes);
  if (ends) fail_end(p, ends);
  return body;
}

int tmpl_parse(struct tmpl_parser *p) {
  tmpl_advance(p);
  tmpl_advance(p);
  p->tmpl->body = tmpl_parse_body(p, NULL);
  return p->code;
}
