/* SPDX-License-Identifier: MIT */
/* What a client may describe an answer with, read into expressions. All of them may be called several times with one
 * ir. On an error err names `field`, and *ret is not to be used. That the ir has failed (out of fuel or memory) is an error,
 * too. Any thread; nothing is kept of the sources. */
#ifndef GRAMMAR_READERS_H
#define GRAMMAR_READERS_H

#include <jansson.h>
#include <stdbool.h>

#include "grammar/grammar_ir.h"

/* A JSON schema, draft 2020-12 (grammar_schema.c says what of it). References are resolved within `schema`. The message begins with the
 * path: "$.properties.a: uniqueItems is not supported". `schema` is not changed. */
int gr_read_schema(struct gr_ir *ir, json_t *schema, const char *field, gr_node *ret, struct tl_error *err);
/* Any JSON object. */
int gr_read_json_object(struct gr_ir *ir, gr_node *ret, struct tl_error *err);
/* A regular expression that the whole answer matches (grammar_regex.c); text: UTF-8. */
int gr_read_regex(struct gr_ir *ir, const char *text, size_t length, const char *field, gr_node *ret, struct tl_error *err);
/* llama.cpp's grammars (grammar_gbnf.c), from the rule "root"; text: UTF-8. */
int gr_read_gbnf(struct gr_ir *ir, const char *text, size_t length, const char *field, gr_node *ret, struct tl_error *err);
/* One of a list of strings. */
int gr_read_choice(struct gr_ir *ir, json_t *list, const char *field, gr_node *ret, struct tl_error *err);
/* A list of calls of tools, or one with a single call. Errors name "tools[3].function.parameters". */
int gr_read_calls(struct gr_ir *ir, json_t *tools, bool several, gr_node *ret, struct tl_error *err);

#endif
