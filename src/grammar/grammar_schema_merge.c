/* SPDX-License-Identifier: MIT */
/* allOf, and what stands beside a $ref: several schemas become one that says what all of them say. */
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_schema.h"

#define MAX_MERGED 50       /* schemas within schemas that one is merged of */
#define MAX_WORK 1000000    /* members and values looked at while merging, of a whole schema */

struct merge {
  struct sch *s;
  json_t *into;
  bool nothing; /* one of them is false */
};

bool sch_is_merged(json_t *schema) {
  json_t *all = json_object_get(schema, "allOf");
  if (!all && !json_object_get(schema, "$ref")) return false;
  return sch_count(schema) > 1 || json_array_size(all) > 1;
}

static bool over(struct sch *s) {
  if (s->work <= MAX_WORK) return false;
  sch_fail(s, TL_ELIMIT, "allOf and what stands beside $ref or anyOf is too large");
  return true;
}

/* Values within a value, itself too. Its depth is bounded by who parsed it. */
static size_t count_values(json_t *value) {
  size_t n = 1, i;
  const char *key;
  json_t *one;
  json_array_foreach(value, i, one) {
    n += count_values(one);
  }
  json_object_foreach(value, key, one) {
    n += count_values(one);
  }
  return n;
}

/* Whether two values are equal, which has its price. */
static bool equal(struct sch *s, json_t *one, json_t *other) {
  if (one == other) return true;
  if (over(s) || json_typeof(one) != json_typeof(other)) return false;
  s->work += count_values(one);
  return json_equal(one, other);
}

/* Both; NULL stands for a schema that says nothing. A new reference, or NULL. */
static json_t *both(struct sch *s, json_t *one, json_t *other) {
  if (!one || json_is_true(one) || (other && equal(s, one, other))) return json_incref(other);
  if (!other || json_is_true(other)) return json_incref(one);
  if (json_is_false(one) || json_is_false(other)) return json_false();
  return json_pack("{s:[O,O]}", "allOf", one, other);
}

/* What a schema says of a member: by its name, or as of any other. */
static json_t *of_member(json_t *schema, const char *name) {
  json_t *named = json_object_get(json_object_get(schema, "properties"), name);
  return named ? named : json_object_get(schema, "additionalProperties");
}

/* The names of `from` into ret, each with what both say of it. */
static bool merge_names(struct sch *s, json_t *ret, json_t *from, json_t *a, json_t *b) {
  const char *name;
  json_t *value;
  json_object_foreach(json_object_get(from, "properties"), name, value) {
    s->work++;
    json_t *made = over(s) ? NULL : both(s, of_member(a, name), of_member(b, name));
    if (json_object_set_new(ret, name, made ? made : json_true()) < 0) return false;
  }
  return true;
}

static bool merge_members(struct sch *s, json_t *into, json_t *other) {
  json_t *names = json_object(), *more = both(s, json_object_get(into, "additionalProperties"), json_object_get(other, "additionalProperties"));
  bool good = names && merge_names(s, names, into, into, other) && merge_names(s, names, other, into, other);
  if (good && (json_object_get(into, "properties") || json_object_get(other, "properties"))) good = json_object_set(into, "properties", names) == 0;
  if (good && more) good = json_object_set(into, "additionalProperties", more) == 0;
  json_decref(names);
  json_decref(more);
  return good;
}

/* Those of both lists; types: integer is a number, too. */
static json_t *common(struct sch *s, json_t *one, json_t *other) {
  json_t *all = json_array(), *a, *b;
  size_t i, k;
  json_array_foreach(one, i, a) {
    json_array_foreach(other, k, b) {
      s->work++;
      if (!equal(s, a, b)) continue;
      json_array_append(all, a);
      break;
    }
  }
  return all;
}

static json_t *common_types(json_t *one, json_t *other) {
  static const char *const names[] = {"object", "array", "string", "number", "integer", "boolean", "null"};
  json_t *a = json_pack("{s:O}", "type", one), *b = json_pack("{s:O}", "type", other), *all = json_array();
  unsigned types = a && b ? sch_types(a) & sch_types(b) : 0;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    unsigned type = sch_type_of_name(names[i]);
    if ((types & type) == type && !(type == SCH_INTEGER && types & SCH_NUMBER)) json_array_append_new(all, json_string(names[i]));
  }
  json_decref(a);
  json_decref(b);
  return all;
}

static json_t *all_names(struct sch *s, json_t *one, json_t *other) {
  json_t *all = json_copy(one), *seen = json_object(), *name;
  size_t i;
  s->work += json_array_size(one) + json_array_size(other);
  json_array_foreach(one, i, name) {
    json_object_set(seen, json_string_value(name), json_true());
  }
  json_array_foreach(other, i, name) {
    if (!json_object_get(seen, json_string_value(name))) json_array_append(all, name);
  }
  json_decref(seen);
  return all;
}

/* What two different values of one keyword say together; NULL: that has no name here. */
static json_t *combine(struct sch *s, const char *keyword, json_t *one, json_t *other) {
  static const char *const lower[] = {"minimum", "exclusiveMinimum", "minItems", "minLength", "minProperties"};
  static const char *const upper[] = {"maximum", "exclusiveMaximum", "maxItems", "maxLength", "maxProperties"};
  if (strcmp(keyword, "type") == 0) return common_types(one, other);
  if (strcmp(keyword, "required") == 0) return all_names(s, one, other);
  if (strcmp(keyword, "enum") == 0) return common(s, one, other);
  if (strcmp(keyword, "items") == 0) return both(s, one, other);
  for (size_t i = 0; i < sizeof lower / sizeof *lower; i++) {
    if (strcmp(keyword, lower[i]) == 0) return json_incref(json_number_value(one) >= json_number_value(other) ? one : other);
    if (strcmp(keyword, upper[i]) == 0) return json_incref(json_number_value(one) <= json_number_value(other) ? one : other);
  }
  return NULL;
}

/* Adds what `other` says to `into`. */
static bool merge(struct sch *s, json_t *into, json_t *other) {
  s->work++;
  if (over(s)) return false;
  if ((json_object_get(into, "prefixItems") || json_object_get(other, "prefixItems")) && json_object_get(into, "items") != json_object_get(other, "items") &&
      sch_count(into) && sch_count(other)) {
    sch_fail(s, TL_EUNSUPPORTED, "prefixItems or items in several of allOf's schemas are not supported");
    return false;
  }
  if (!merge_members(s, into, other)) {
    sch_fail(s, TL_ENOMEM, "out of memory for the schema");
    return false;
  }
  const char *keyword;
  json_t *value;
  json_object_foreach(other, keyword, value) {
    if (!sch_restricts(keyword) || strcmp(keyword, "properties") == 0 || strcmp(keyword, "additionalProperties") == 0) continue;
    json_t *mine = json_object_get(into, keyword);
    json_t *made = !mine || equal(s, mine, value) ? json_incref(value) : combine(s, keyword, mine, value);
    if (!made) {
      sch_fail(s, TL_EUNSUPPORTED, "two different values of %s cannot be merged", keyword);
      return false;
    }
    if (json_object_set_new(into, keyword, made) < 0) {
      sch_fail(s, TL_ENOMEM, "out of memory for the schema");
      return false;
    }
  }
  return true;
}

static bool gather(struct merge *m, json_t *schema, unsigned depth);

static bool gather_parts(struct merge *m, json_t *schema, unsigned depth) {
  json_t *ref = json_object_get(schema, "$ref"), *part;
  size_t i;
  if (ref) {
    char *path;
    json_t *target = sch_resolve(m->s, ref, &path);
    free(path);
    if (!target || !gather(m, target, depth + 1)) return false;
  }
  json_array_foreach(json_object_get(schema, "allOf"), i, part) {
    if (!gather(m, part, depth + 1)) return false;
  }
  return true;
}

/* What a schema says, with its $ref and allOf, is added. */
static bool gather(struct merge *m, json_t *schema, unsigned depth) {
  struct sch *s = m->s;
  if (s->code || gr_failed(s->ir)) return false;
  if (json_is_boolean(schema)) {
    m->nothing |= json_is_false(schema);
    return true;
  }
  if (!json_is_object(schema) || depth == MAX_MERGED) {
    sch_fail(s, json_is_object(schema) ? TL_ELIMIT : TL_EINVAL,
             json_is_object(schema) ? "allOf and $ref nest too deeply, or lead round in a circle" : "expected a schema: an object, true or false");
    return false;
  }
  if (!sch_check(s, schema) || !gather_parts(m, schema, depth)) return false;
  json_t *own = json_copy(schema);
  if (!own) {
    sch_fail(s, TL_ENOMEM, "out of memory for the schema");
    return false;
  }
  json_object_del(own, "$ref");
  json_object_del(own, "allOf");
  bool good = merge(s, m->into, own);
  json_decref(own);
  return good;
}

/* Nothing is in both of two lists. */
static bool is_empty(json_t *schema, const char *keyword) {
  json_t *list = json_object_get(schema, keyword);
  return json_is_array(list) && !json_array_size(list);
}

json_t *sch_flatten(struct sch *s, json_t *schema) {
  struct merge m = {s, sch_keep(s, json_object()), false};
  if (!m.into || !gather(&m, schema, 0) || over(s)) return NULL;
  return m.nothing || is_empty(m.into, "type") || is_empty(m.into, "enum") ? sch_keep(s, json_false()) : m.into;
}
