/* SPDX-License-Identifier: MIT */
/* The parts of the reader of JSON schemas. */
#ifndef GRAMMAR_SCHEMA_H
#define GRAMMAR_SCHEMA_H

#include "grammar/grammar_parts.h"
#include "tokenlane/base/buffer.h"

/* A schema that is a rule: what a $ref means, or one that is merged of several. */
struct sch_rule {
  json_t *schema; /* borrowed of root or kept */
  gr_rule rule;
  char *path;     /* owned */
};

struct sch {
  struct gr_ir *ir;
  json_t *root;
  json_t *kept;       /* an array: schemas that are made while reading */
  const char *field;
  struct tl_error *err;
  int code;           /* of the first error */
  unsigned depth;
  uint64_t work;      /* of merging, so far */
  struct tl_buffer path; /* "$.properties.a" */
  struct gr_json_any any;
  struct sch_rule *rules; /* in the order in which they are met; each is read once */
  size_t n_rules, rules_room;
  json_t *rule_of;    /* an object: a schema's address to its number in rules */
};

enum sch_type {
  SCH_OBJECT = 1,
  SCH_ARRAY = 2,
  SCH_STRING = 4,
  SCH_NUMBER = 8,
  SCH_INTEGER = 16,
  SCH_BOOLEAN = 32,
  SCH_NULL = 64,
  SCH_ANY = 127,
};

/* All that read return GR_NONE after an error; s->code then says so, unless it is the ir that has failed. */

/* --- grammar_schema.c ---------------------------------------------------------------------------- */
gr_node sch_read(struct sch *s, json_t *schema);
/* Alike, below the current path; key may be NULL. */
gr_node sch_read_at(struct sch *s, json_t *schema, const char *step, const char *key);
/* Remembers the first error, with the path. */
gr_node sch_fail(struct sch *s, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Adds to the path; returns what sch_leave takes. */
size_t sch_enter(struct sch *s, const char *step, const char *key);
void sch_leave(struct sch *s, size_t before);
/* How many bytes of a text to show, whole characters, at most max. */
int sch_shown(const char *text, int max);
/* Keeps a schema that was made, until the end; takes the reference, NULL: out of memory. */
json_t *sch_keep(struct sch *s, json_t *made);

/* --- grammar_schema_keywords.c ------------------------------------------------------------------- */
/* Whether a schema (an object) has only keywords that are known to restrict nothing or are supported, each of its shape. */
bool sch_check(struct sch *s, json_t *schema);
/* How many of its keywords restrict. */
size_t sch_count(json_t *schema);
bool sch_restricts(const char *keyword);
/* A count such as minItems; GR_MANY: above all that can be. */
uint32_t sch_limit(json_t *schema, const char *keyword, uint32_t otherwise);
/* The types that `type` names, or those that a schema without it means. */
unsigned sch_types(json_t *schema);
unsigned sch_type_of_name(const char *name);

/* --- grammar_schema_rules.c ---------------------------------------------------------------------- */
/* What a $ref points to; NULL: an error. *ret_path: to be freed, may be NULL. */
json_t *sch_resolve(struct sch *s, json_t *ref, char **ret_path);
gr_node sch_call(struct sch *s, json_t *schema, char *path_taken);
gr_node sch_call_ref(struct sch *s, json_t *ref);

/* --- grammar_schema_merge.c ---------------------------------------------------------------------- */
/* Whether it says things beside a $ref or by several of allOf, so that it needs sch_flatten. */
bool sch_is_merged(json_t *schema);
/* One schema without $ref and allOf that says the same; kept. NULL: an error. */
json_t *sch_flatten(struct sch *s, json_t *schema);

/* --- one type each --------------------------------------------------------------------------------- */
gr_node sch_object(struct sch *s, json_t *schema);
gr_node sch_array(struct sch *s, json_t *schema);
gr_node sch_string(struct sch *s, json_t *schema);
gr_node sch_number(struct sch *s, json_t *schema, bool integer);
/* Keys that are none of these names, as what stands between the quotes; no name is longer than SCH_NAME. */
#define SCH_NAME 256
gr_node sch_other_keys(struct sch *s, const char **names, size_t n);

#endif
