/* SPDX-License-Identifier: MIT */
/* From what a client wrote to expressions. Each reads one kind of source, which is hostile; `field` is what the
 * client calls it, for errors. What went wrong in the IR itself is seen by gr_failed at the end, not here. */
#ifndef GRAMMAR_READERS_H
#define GRAMMAR_READERS_H

#include <jansson.h>
#include <stddef.h>

#include "grammar/grammar_ir.h"

int gr_read_schema(struct gr_ir *ir, json_t *schema, const char *field, gr_node *ret, struct tl_error *err);
int gr_read_regex(struct gr_ir *ir, const char *text, size_t length, const char *field, gr_node *ret, struct tl_error *err);
int gr_read_gbnf(struct gr_ir *ir, const char *text, size_t length, const char *field, gr_node *ret, struct tl_error *err);
int gr_read_choice(struct gr_ir *ir, json_t *list, const char *field, gr_node *ret, struct tl_error *err);
int gr_read_json_object(struct gr_ir *ir, gr_node *ret, struct tl_error *err);

#endif
