/* SPDX-License-Identifier: MIT */
/* Which keywords there are, what shape their values have, and which restrict. */
#include <math.h>
#include <string.h>

#include "grammar/grammar_schema.h"

enum shape {
  NOTE,    /* says nothing about values; so do all that are not in the table */
  REFUSED, /* restricts and is not supported, unless it says nothing: false, true for unevaluated*, {} */
  TEXT,
  NUMBER,
  COUNT,   /* a whole number from 0 */
  TEXTS,   /* a list of texts */
  LIST,    /* not empty */
  OBJECT,
  SCHEMA,
  SCHEMAS, /* a list of them, not empty */
  ANY,
  TYPES,
};

static const struct keyword {
  const char *name;
  enum shape shape;
} keywords[] = {
    {"$ref", TEXT},
    {"additionalItems", REFUSED},
    {"additionalProperties", SCHEMA},
    {"allOf", SCHEMAS},
    {"anyOf", SCHEMAS},
    {"const", ANY},
    {"contains", REFUSED},
    {"dependencies", REFUSED},
    {"dependentRequired", REFUSED},
    {"dependentSchemas", REFUSED},
    {"disallow", REFUSED},
    {"divisibleBy", REFUSED},
    {"$dynamicRef", REFUSED},
    {"else", REFUSED},
    {"enum", LIST},
    {"exclusiveMaximum", NUMBER},
    {"exclusiveMinimum", NUMBER},
    {"extends", REFUSED},
    {"format", TEXT},
    {"if", REFUSED},
    {"items", SCHEMA},
    {"maxContains", REFUSED},
    {"maximum", NUMBER},
    {"maxItems", COUNT},
    {"maxLength", COUNT},
    {"maxProperties", COUNT},
    {"minContains", REFUSED},
    {"minimum", NUMBER},
    {"minItems", COUNT},
    {"minLength", COUNT},
    {"minProperties", COUNT},
    {"multipleOf", REFUSED},
    {"not", REFUSED},
    {"oneOf", SCHEMAS},
    {"pattern", TEXT},
    {"patternProperties", OBJECT},
    {"prefixItems", SCHEMAS},
    {"properties", OBJECT},
    {"propertyNames", SCHEMA},
    {"$recursiveRef", REFUSED},
    {"required", TEXTS},
    {"then", REFUSED},
    {"type", TYPES},
    {"unevaluatedItems", REFUSED},
    {"unevaluatedProperties", REFUSED},
    {"uniqueItems", REFUSED},
};

static enum shape shape_of(const char *name) {
  for (size_t i = 0; i < sizeof keywords / sizeof *keywords; i++)
    if (strcmp(keywords[i].name, name) == 0) return keywords[i].shape;
  return NOTE;
}

bool sch_restricts(const char *keyword) {
  enum shape shape = shape_of(keyword);
  return shape != NOTE && shape != REFUSED; /* those refused that are still there say nothing */
}

size_t sch_count(json_t *schema) {
  size_t n = 0;
  const char *keyword;
  json_t *value;
  json_object_foreach(schema, keyword, value) {
    n += sch_restricts(keyword);
  }
  return n;
}

/* --- types -------------------------------------------------------------------------------------------- */

unsigned sch_type_of_name(const char *name) {
  static const struct {
    const char *name;
    unsigned type;
  } types[] = {
      {"object", SCH_OBJECT}, {"array", SCH_ARRAY},     {"string", SCH_STRING}, {"number", SCH_NUMBER | SCH_INTEGER},
      {"integer", SCH_INTEGER}, {"boolean", SCH_BOOLEAN}, {"null", SCH_NULL},
  };
  for (size_t i = 0; name && i < sizeof types / sizeof *types; i++)
    if (strcmp(types[i].name, name) == 0) return types[i].type;
  return 0;
}

/* Without a type: of objects or arrays if it speaks of their parts. */
static unsigned meant_types(json_t *schema) {
  static const char *const objects[] = {"properties", "required", "additionalProperties", "patternProperties", "propertyNames",
                                        "minProperties", "maxProperties"};
  static const char *const arrays[] = {"items", "prefixItems", "minItems", "maxItems"};
  unsigned types = 0;
  for (size_t i = 0; i < sizeof objects / sizeof *objects; i++)
    if (json_object_get(schema, objects[i])) types |= SCH_OBJECT;
  for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
    if (json_object_get(schema, arrays[i])) types |= SCH_ARRAY;
  return types;
}

unsigned sch_types(json_t *schema) {
  json_t *type = json_object_get(schema, "type"), *one;
  if (json_is_string(type)) return sch_type_of_name(json_string_value(type));
  unsigned types = type ? 0 : json_object_get(schema, "enum") || json_object_get(schema, "const") ? SCH_ANY : meant_types(schema);
  size_t i;
  json_array_foreach(type, i, one) {
    types |= sch_type_of_name(json_string_value(one));
  }
  return types || type ? types : SCH_ANY;
}

/* --- shapes ------------------------------------------------------------------------------------------- */

static bool is_list_of(json_t *value, bool (*fits)(json_t *)) {
  size_t i;
  json_t *one;
  if (!json_is_array(value)) return false;
  json_array_foreach(value, i, one) {
    if (!fits(one)) return false;
  }
  return true;
}

/* Names and patterns are texts in C: none has a NUL. */
static bool is_text(json_t *value) {
  return json_is_string(value) && strlen(json_string_value(value)) == json_string_length(value);
}

static bool is_type(json_t *value) {
  return sch_type_of_name(json_string_value(value)) != 0;
}

static bool is_schema(json_t *value) {
  return json_is_object(value) || json_is_boolean(value);
}

static bool is_count(json_t *value) {
  double number = json_number_value(value);
  return json_is_number(value) && number >= 0 && number == floor(number);
}

static const char *wrong_shape(enum shape shape, json_t *value) {
  switch (shape) {
    case TEXT: return is_text(value) ? NULL : "a string (without NUL)";
    case NUMBER: return json_is_number(value) ? NULL : "a number";
    case COUNT: return is_count(value) ? NULL : "a whole number of at least 0";
    case TEXTS: return is_list_of(value, is_text) ? NULL : "a list of strings (without NUL)";
    case LIST: return json_array_size(value) ? NULL : "a list that is not empty";
    case OBJECT: return json_is_object(value) ? NULL : "an object";
    case SCHEMA: return is_schema(value) ? NULL : "a schema: an object, true or false";
    case SCHEMAS: return json_array_size(value) && is_list_of(value, is_schema) ? NULL : "a list of schemas that is not empty";
    case TYPES:
      return is_type(value) || (json_array_size(value) && is_list_of(value, is_type))
                 ? NULL
                 : "one or more of object, array, string, number, integer, boolean, null";
    default: return NULL;
  }
}

/* Refused keywords may say nothing: uniqueItems false, dependentRequired {}, multipleOf 1 of integers. */
static bool says_nothing(json_t *schema, const char *keyword, json_t *value) {
  if (strcmp(keyword, "uniqueItems") == 0) return json_is_false(value);
  if (strcmp(keyword, "not") == 0) return json_is_false(value);
  if (strcmp(keyword, "multipleOf") == 0)
    return json_is_number(value) && json_number_value(value) == 1 && json_is_string(json_object_get(schema, "type")) && sch_types(schema) == SCH_INTEGER;
  if (strncmp(keyword, "depend", 6) == 0) return json_is_object(value) && !json_object_size(value);
  if (strncmp(keyword, "unevaluated", 11) == 0 || strcmp(keyword, "additionalItems") == 0)
    return json_is_true(value) || (json_is_object(value) && !json_object_size(value));
  if (strcmp(keyword, "then") == 0 || strcmp(keyword, "else") == 0) return !json_object_get(schema, "if");
  if (strcmp(keyword, "if") == 0) return !json_object_get(schema, "then") && !json_object_get(schema, "else");
  if (strcmp(keyword, "minContains") == 0 || strcmp(keyword, "maxContains") == 0) return !json_object_get(schema, "contains");
  return false;
}

bool sch_check(struct sch *s, json_t *schema) {
  const char *keyword;
  json_t *value;
  json_object_foreach(schema, keyword, value) {
    enum shape shape = shape_of(keyword);
    if (shape == REFUSED && !says_nothing(schema, keyword, value)) {
      sch_fail(s, TL_EUNSUPPORTED, "%s is not supported", keyword);
      return false;
    }
    const char *expected = wrong_shape(shape, value);
    if (expected) {
      sch_fail(s, TL_EINVAL, "%s: expected %s", keyword, expected);
      return false;
    }
  }
  if (schema != s->root && json_object_get(schema, "$id")) {
    sch_fail(s, TL_EUNSUPPORTED, "$id is supported only at the root");
    return false;
  }
  return true;
}

uint32_t sch_limit(json_t *schema, const char *keyword, uint32_t otherwise) {
  json_t *value = json_object_get(schema, keyword);
  if (!value) return otherwise;
  return json_number_value(value) < GR_MANY ? (uint32_t)json_number_value(value) : GR_MANY;
}
