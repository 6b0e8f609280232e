/* SPDX-License-Identifier: MIT */
/* JSON schemas, draft 2020-12, as far as they can be told while a text is written from left to right. What is written fulfils the schema;
 * not all that fulfils it can be written:
 *
 * - members come in the order of `properties`; what a schema does not mention is not written: without additionalProperties beside
 *   `properties` there are no others, without items beside prefixItems no more;
 * - a schema that has properties, required, items and so on but no type means objects or arrays;
 * - oneOf is read as anyOf: that no second alternative fits cannot be seen before the end;
 * - white space and digits are bounded (grammar_json.c), numbers with bounds have no exponent, constants have one spelling;
 * - a $ref goes to a place in the same schema; what it means is one rule however often it is used.
 *
 * A keyword that restricts and is not supported is an error that names it and the path. Those that are unknown restrict nothing, by the
 * standard; an unknown format neither. */
#include "grammar/grammar_schema.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_readers.h"
#include "tokenlane/base/utf8.h"

#define MAX_DEPTH 200

/* --- where ------------------------------------------------------------------------------------------- */

int sch_shown(const char *text, int max) {
  size_t n = strnlen(text, (size_t)max);
  return (int)(n - tl_utf8_incomplete_tail(text, n));
}

gr_node sch_fail(struct sch *s, int code, const char *format, ...) {
  if (s->code) return GR_NONE;
  char what[300];
  va_list args;
  va_start(args, format);
  vsnprintf(what, sizeof what, format, args);
  va_end(args);
  const char *path = tl_buffer_string(&s->path);
  s->code = tl_error_set(s->err, code, s->field, "%.*s: %.*s", sch_shown(path, 110), path, sch_shown(what, 290), what);
  return GR_NONE;
}

size_t sch_enter(struct sch *s, const char *step, const char *key) {
  size_t before = s->path.length;
  if (!key) key = "";
  tl_buffer_printf(&s->path, "%s%.*s", step, sch_shown(key, 60), key);
  return before;
}

void sch_leave(struct sch *s, size_t before) {
  s->path.length = before;
}

json_t *sch_keep(struct sch *s, json_t *made) {
  if (!made || json_array_append_new(s->kept, made) < 0) {
    sch_fail(s, TL_ENOMEM, "out of memory for the schema");
    return NULL;
  }
  return made;
}

gr_node sch_read_at(struct sch *s, json_t *schema, const char *step, const char *key) {
  size_t before = sch_enter(s, step, key);
  gr_node node = sch_read(s, schema);
  sch_leave(s, before);
  return node;
}

/* --- values ------------------------------------------------------------------------------------------ */

static unsigned type_of(json_t *value) {
  switch (json_typeof(value)) {
    case JSON_OBJECT: return SCH_OBJECT;
    case JSON_ARRAY: return SCH_ARRAY;
    case JSON_STRING: return SCH_STRING;
    case JSON_INTEGER: return SCH_INTEGER | SCH_NUMBER;
    case JSON_REAL: return SCH_NUMBER | (json_real_value(value) == floor(json_real_value(value)) ? SCH_INTEGER : 0);
    case JSON_TRUE:
    case JSON_FALSE: return SCH_BOOLEAN;
    default: return SCH_NULL;
  }
}

/* The values of enum, const or both that are of these types. */
static gr_node read_values(struct sch *s, json_t *schema, unsigned types) {
  json_t *list = json_object_get(schema, "enum"), *only = json_object_get(schema, "const"), *value;
  const char *keyword;
  json_object_foreach(schema, keyword, value) {
    if (sch_restricts(keyword) && strcmp(keyword, "enum") != 0 && strcmp(keyword, "const") != 0 && strcmp(keyword, "type") != 0)
      return sch_fail(s, TL_EUNSUPPORTED, "%s beside enum or const is not supported", keyword);
  }
  struct gr_list some = {0};
  size_t i;
  if (!list && type_of(only) & types) gr_list_push(&some, gr_json_value(s->ir, only));
  json_array_foreach(list, i, value) {
    if (type_of(value) & types && (!only || json_equal(value, only))) gr_list_push(&some, gr_json_value(s->ir, value));
  }
  return gr_list_one_of(s->ir, &some);
}

static gr_node read_types(struct sch *s, json_t *schema, unsigned types) {
  struct gr_list some = {0};
  if (types & SCH_OBJECT) gr_list_push(&some, sch_object(s, schema));
  if (types & SCH_ARRAY) gr_list_push(&some, sch_array(s, schema));
  if (types & SCH_STRING) gr_list_push(&some, sch_string(s, schema));
  if (types & SCH_NUMBER) gr_list_push(&some, sch_number(s, schema, false));
  else if (types & SCH_INTEGER) gr_list_push(&some, sch_number(s, schema, true));
  if (types & SCH_BOOLEAN) gr_list_push(&some, gr_alt(s->ir, gr_text(s->ir, "true"), gr_text(s->ir, "false")));
  if (types & SCH_NULL) gr_list_push(&some, gr_text(s->ir, "null"));
  return gr_list_one_of(s->ir, &some);
}

/* --- alternatives ------------------------------------------------------------------------------------- */

/* What is said beside anyOf holds for each alternative: they are merged. */
static gr_node read_any_of(struct sch *s, json_t *schema, const char *keyword) {
  json_t *list = json_object_get(schema, keyword), *one, *beside = NULL;
  if (sch_count(schema) > 1) {
    beside = sch_keep(s, json_copy(schema));
    if (!beside) return GR_NONE;
    json_object_del(beside, keyword);
    json_object_del(beside, "$id"); /* the root's, which this is not */
  }
  struct gr_list some = {0};
  char step[40];
  size_t i;
  json_array_foreach(list, i, one) {
    if (s->code || gr_failed(s->ir)) break;
    snprintf(step, sizeof step, ".%s[%zu]", keyword, i);
    if (beside) one = sch_keep(s, json_pack("{s:[O,O]}", "allOf", beside, one));
    gr_list_push(&some, one ? sch_read_at(s, one, step, NULL) : GR_NONE);
  }
  return gr_list_one_of(s->ir, &some);
}

/* A schema without $ref and allOf. */
static gr_node read_plain(struct sch *s, json_t *schema) {
  bool any = json_object_get(schema, "anyOf"), one = json_object_get(schema, "oneOf");
  if (any && one) return sch_fail(s, TL_EUNSUPPORTED, "anyOf beside oneOf is not supported");
  if (any || one) return read_any_of(s, schema, any ? "anyOf" : "oneOf");
  if (!sch_count(schema)) return gr_json_any_value(s->ir, &s->any);
  unsigned types = sch_types(schema);
  if (json_object_get(schema, "enum") || json_object_get(schema, "const")) return read_values(s, schema, types);
  return read_types(s, schema, types);
}

gr_node sch_read(struct sch *s, json_t *schema) {
  if (s->code || gr_failed(s->ir)) return GR_NONE;
  if (json_is_true(schema)) return gr_json_any_value(s->ir, &s->any);
  if (json_is_false(schema)) return gr_nothing(s->ir);
  if (!json_is_object(schema)) return sch_fail(s, TL_EINVAL, "expected a schema: an object, true or false");
  if (s->depth == MAX_DEPTH) return sch_fail(s, TL_ELIMIT, "schemas nest deeper than %d", MAX_DEPTH);
  if (!sch_check(s, schema)) return GR_NONE;
  json_t *ref = json_object_get(schema, "$ref"), *all = json_object_get(schema, "allOf");
  s->depth++;
  gr_node node;
  if (sch_is_merged(schema)) node = sch_call(s, schema, NULL);
  else if (ref) node = sch_call_ref(s, ref);
  else if (all) node = sch_read_at(s, json_array_get(all, 0), ".allOf[0]", NULL);
  else node = read_plain(s, schema);
  s->depth--;
  return node;
}

/* --- all ------------------------------------------------------------------------------------------------ */

static gr_node read_rule(struct sch *s, json_t *schema) {
  if (!json_is_object(schema) || !sch_is_merged(schema)) return sch_read(s, schema);
  json_t *flat = sch_flatten(s, schema);
  return flat ? sch_read(s, flat) : GR_NONE;
}

/* Rules that are met on the way are listed, and read here one after the other: a chain of them is no deep recursion. */
static gr_node read_all(struct sch *s) {
  tl_buffer_puts(&s->path, "$");
  gr_node node = sch_read(s, s->root);
  for (size_t i = 0; i < s->n_rules && !s->code && !gr_failed(s->ir); i++) {
    s->path.length = 0;
    tl_buffer_puts(&s->path, s->rules[i].path);
    gr_rule rule = s->rules[i].rule;
    gr_rule_define(s->ir, rule, read_rule(s, s->rules[i].schema));
  }
  return node;
}

int gr_read_schema(struct gr_ir *ir, json_t *schema, const char *field, gr_node *ret, struct tl_error *err) {
  struct sch s = {.ir = ir, .root = schema, .field = field, .err = err, .kept = json_array(), .rule_of = json_object()};
  tl_buffer_init(&s.path, 0);
  *ret = s.kept && s.rule_of ? read_all(&s) : GR_NONE;
  bool failed = *ret == GR_NONE || s.path.failed;
  for (size_t i = 0; i < s.n_rules; i++) free(s.rules[i].path);
  free(s.rules);
  json_decref(s.kept);
  json_decref(s.rule_of);
  tl_buffer_done(&s.path);
  if (s.code) return s.code;
  return failed && gr_failed(ir) == TL_OK ? tl_error_set(err, TL_ENOMEM, field, "out of memory for the schema") : gr_said(ir, field, err);
}

int gr_read_json_object(struct gr_ir *ir, gr_node *ret, struct tl_error *err) {
  struct gr_json_any any = {0};
  *ret = gr_json_any_object(ir, &any);
  return gr_said(ir, NULL, err);
}
