/* SPDX-License-Identifier: MIT */
/* The public face: compile, render, free; and what a render may use up. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tmpl_ast.h"
#include "tokenlane/base/utf8.h"

/* A step costs up to 50 ns: a hostile template or conversation costs a second or so. */
const struct tl_template_limits tl_template_default_limits = {
    .fuel = 20000000,
    .max_output_bytes = 16 << 20,
    .max_depth = 500,
};

#define COMPILE_BYTES (64u << 20)
#define RENDER_BYTES (256u << 20)
#define BYTES_PER_STEP 16

/* --- failing and paying -------------------------------------------------------------- */
int tmpl_error_at(struct tl_error *err, int code, uint32_t line, const char *format, va_list args) {
  char message[TL_ERROR_MESSAGE];
  int n = snprintf(message, sizeof message, "line %u: ", line);
  vsnprintf(message + n, sizeof message - (size_t)n, format, args);
  /* names are cut to a length in bytes: what is left of a character goes */
  for (size_t i = 0, size, length = strlen(message); i < length; i += size) {
    uint32_t code_point;
    size = tl_utf8_decode(message + i, length - i, &code_point);
    if (size > 0) continue;
    message[i] = '?';
    size = 1;
  }
  return tl_error_set(err, code, NULL, "%s", message);
}

struct tmpl_value tmpl_fail(struct tmpl_render *r, int code, const char *format, ...) {
  struct tmpl_value missing = {0};
  if (r->code) return missing;
  va_list args;
  va_start(args, format);
  r->code = tmpl_error_at(r->err, code, r->line, format, args);
  va_end(args);
  return missing;
}

bool tmpl_charge(struct tmpl_render *r, uint64_t n) {
  if (r->code) return false;
  if (r->fuel < n) {
    r->fuel = 0;
    tmpl_fail(r, TL_ELIMIT, "template used up its evaluation steps");
    return false;
  }
  r->fuel -= n;
  return true;
}

bool tmpl_charge_bytes(struct tmpl_render *r, size_t bytes) {
  return tmpl_charge(r, bytes / BYTES_PER_STEP);
}

void *tmpl_alloc(struct tmpl_render *r, size_t count, size_t size) {
  if (r->code) return NULL;
  void *memory = tl_arena_array(&r->arena, count, size);
  if (memory) return memory;
  size_t bytes;
  if (!__builtin_mul_overflow(count, size, &bytes) && bytes < RENDER_BYTES - r->arena.used_bytes)
    tmpl_fail(r, TL_ENOMEM, "out of memory");
  else
    tmpl_fail(r, TL_ELIMIT, "rendering needs more than %u MiB", RENDER_BYTES >> 20);
  return NULL;
}

bool tmpl_enter(struct tmpl_render *r) {
  if (++r->depth > r->max_depth) tmpl_fail(r, TL_ELIMIT, "nested deeper than %u levels", r->max_depth);
  return !r->code;
}

void tmpl_leave(struct tmpl_render *r) {
  r->depth--;
}

/* --- compiling ------------------------------------------------------------------------- */
int tl_template_compile(const char *source, size_t length, struct tl_template **ret, struct tl_error *err) {
  *ret = NULL;
  if (!tl_utf8_valid(source, length)) return tl_error_set(err, TL_EINVAL, NULL, "template is not UTF-8");
  struct tl_template *tmpl = calloc(1, sizeof *tmpl);
  struct tmpl_interned **names = calloc(TMPL_NAME_BUCKETS, sizeof *names);
  struct tmpl_parser p = {.tmpl = tmpl, .names = names, .err = err};
  int r = tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  if (!tmpl || !names) goto free_names;
  tl_arena_init(&tmpl->arena, COMPILE_BYTES);
  if ((r = tmpl_lex_init(&p.lexer, &tmpl->arena, source, length, err)) < 0) goto free_names;
  tmpl->loop = tmpl_intern(&p, "loop", 4);
  tmpl->caller = tmpl_intern(&p, "caller", 6);
  tmpl->varargs = tmpl_intern(&p, "varargs", 7);
  tmpl->kwargs = tmpl_intern(&p, "kwargs", 6);
  r = tmpl_parse(&p);
  if (r == TL_OK) {
    if (err) *err = (struct tl_error){0};
    *ret = tmpl;
    tmpl = NULL;
  }
free_names:
  free(names);
  tl_template_free(tmpl);
  return r;
}

void tl_template_free(struct tl_template *tmpl) {
  if (!tmpl) return;
  tl_arena_done(&tmpl->arena);
  free(tmpl);
}

bool tl_template_reads(const struct tl_template *tmpl, const char *name) {
  for (const struct tmpl_interned *at = tmpl->reads; at; at = at->next_read)
    if (tmpl_str_is(&at->str, name)) return true;
  return false;
}

/* --- rendering ---------------------------------------------------------------------------- */
void tl_rendered_done(struct tl_rendered *rendered) {
  tl_buffer_done(&rendered->text);
  free(rendered->untrusted);
  rendered->untrusted = NULL;
  rendered->n_untrusted = 0;
}

static int copy_out(const struct tmpl_out *out, struct tl_rendered *ret, struct tl_error *err) {
  int r = tl_buffer_append(&ret->text, out->bytes, out->length);
  if (out->n_spans) ret->untrusted = malloc(out->n_spans * sizeof *ret->untrusted);
  if (r < 0 || (out->n_spans && !ret->untrusted)) {
    tl_rendered_done(ret);
    return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  }
  if (out->n_spans) memcpy(ret->untrusted, out->spans, out->n_spans * sizeof *ret->untrusted);
  ret->n_untrusted = out->n_spans;
  return TL_OK;
}

int tl_template_render(const struct tl_template *tmpl, json_t *trusted, json_t *untrusted,
                       const struct tl_template_limits *limits, int64_t now_s, struct tl_rendered *ret,
                       struct tl_error *err) {
  if (!limits) limits = &tl_template_default_limits;
  *ret = (struct tl_rendered){0};
  struct tmpl_render r = {.tmpl = tmpl,
                          .trusted = trusted,
                          .untrusted = untrusted,
                          .fuel = limits->fuel,
                          .max_output_bytes = limits->max_output_bytes,
                          .max_depth = limits->max_depth,
                          .line = 1,
                          .now_s = now_s,
                          .err = err};
  tl_buffer_init(&ret->text, 0);
  tl_arena_init(&r.arena, RENDER_BYTES);
  r.scope = tmpl_scope_new(&r, NULL);
  r.out = tmpl_out_new(&r);
  if (!r.code) tmpl_run(&r, &tmpl->body);
  int code = r.code ? r.code : copy_out(r.out, ret, err);
  tl_arena_done(&r.arena);
  return code;
}
