/* SPDX-License-Identifier: MIT */
/* Between tmpl_parse.c (statement lists) and tmpl_stmt.c (single statements). */
#ifndef TEXT_TMPL_STMT_H
#define TEXT_TMPL_STMT_H

#include "tmpl_ast.h"

/* Everything up to a tag whose name is one of `ends` (NULL-terminated), which
 * becomes the current token; NULL: up to the end of the template. */
struct tmpl_nodes tmpl_parse_body(struct tmpl_parser *p, const char *const *ends);
/* A statement from its name up to, not including, its "%}". False if the name
 * is no statement's. */
bool tmpl_parse_statement(struct tmpl_parser *p, struct tmpl_nodes *body);

#endif
