/* SPDX-License-Identifier: MIT */
/* Names and parameters in sorted lists, so that what a model writes is found without looking at all of them. */
#include "api/tool_types.h"

#include <stdlib.h>
#include <string.h>

#include "tokenlane/base/error.h"

#define DEPTH 4 /* of anyOf within anyOf */

struct text {
  const char *data;
  size_t length;
};

struct parameter {
  size_t tool; /* where the first of its name stands among the names: names may be long, and have many parameters */
  struct text key;
  unsigned kinds;
};

struct api_tool_types {
  struct text *names;           /* (n_names) sorted */
  struct parameter *parameters; /* (n_parameters) sorted by tool, then key */
  size_t n_names, n_parameters;
};

static int compare_texts(struct text a, struct text b) {
  size_t least = a.length < b.length ? a.length : b.length;
  int order = least ? memcmp(a.data, b.data, least) : 0;
  return order ? order : (a.length > b.length) - (a.length < b.length);
}

static int compare_names(const void *a, const void *b) {
  return compare_texts(*(const struct text *)a, *(const struct text *)b);
}

static int compare_parameters(const void *a, const void *b) {
  const struct parameter *x = a, *y = b;
  if (x->tool != y->tool) return x->tool < y->tool ? -1 : 1;
  return compare_texts(x->key, y->key);
}

/* The first name that does not come before the text. */
static size_t find_name(const struct api_tool_types *types, struct text text) {
  size_t from = 0, to = types->n_names;
  while (from < to) {
    size_t middle = from + (to - from) / 2;
    if (compare_texts(types->names[middle], text) < 0) from = middle + 1;
    else to = middle;
  }
  return from;
}

/* --- reading ------------------------------------------------------------------------------------ */

static unsigned kind_named(const char *name) {
  return strcmp(name, "string") == 0 ? TOOL_STRING : strcmp(name, "null") == 0 ? TOOL_NULL : TOOL_OTHER;
}

static unsigned kind_of_value(const json_t *value) {
  return json_is_string(value) ? TOOL_STRING : json_is_null(value) ? TOOL_NULL : TOOL_OTHER;
}

static unsigned kinds_of(const json_t *schema, unsigned depth);

static unsigned kinds_of_options(const json_t *options, unsigned depth) {
  unsigned kinds = 0;
  size_t i;
  json_t *option;
  json_array_foreach(options, i, option) kinds |= kinds_of(option, depth);
  return kinds;
}

static unsigned kinds_of_type(const json_t *type) {
  unsigned kinds = json_is_string(type) ? kind_named(json_string_value(type)) : 0;
  size_t i;
  json_t *name;
  json_array_foreach(type, i, name)
    if (json_is_string(name)) kinds |= kind_named(json_string_value(name));
  return kinds;
}

/* What a schema's first words say; what it refers to may be anything. */
static unsigned kinds_of(const json_t *schema, unsigned depth) {
  static const char *const lists[] = {"anyOf", "oneOf", "allOf"};
  unsigned kinds = kinds_of_type(json_object_get(schema, "type"));
  size_t i;
  json_t *value;
  for (i = 0; !kinds && depth && i < sizeof lists / sizeof *lists; i++) kinds = kinds_of_options(json_object_get(schema, lists[i]), depth - 1);
  if (kinds) return kinds;
  if (json_object_get(schema, "$ref")) return TOOL_STRING | TOOL_OTHER;
  if ((value = json_object_get(schema, "const"))) return kind_of_value(value);
  json_array_foreach(json_object_get(schema, "enum"), i, value) kinds |= kind_of_value(value);
  return kinds;
}

/* Tools are {"type": "function", "function": {...}}, or what stands in there alone. */
static json_t *function_of(json_t *tool) {
  json_t *function = json_object_get(tool, "function");
  return json_is_object(function) ? function : tool;
}

static json_t *properties_of(json_t *function) {
  return json_object_get(json_object_get(function, "parameters"), "properties");
}

static bool copy(struct tl_arena *arena, struct text text, struct text *ret) {
  *ret = (struct text){tl_arena_copy(arena, text.data, text.length), text.length};
  return ret->data;
}

static struct text text_of(const json_t *string) {
  return (struct text){json_string_value(string), json_string_length(string)};
}

static bool add_names(struct api_tool_types *types, json_t *tools, struct tl_arena *arena) {
  size_t i;
  json_t *tool;
  json_array_foreach(tools, i, tool) {
    json_t *name = json_object_get(function_of(tool), "name");
    if (!json_is_string(name)) continue;
    if (!copy(arena, text_of(name), &types->names[types->n_names])) return false;
    types->n_names++;
  }
  qsort(types->names, types->n_names, sizeof *types->names, compare_names);
  return true;
}

static bool add_parameters(struct api_tool_types *types, json_t *function, struct tl_arena *arena) {
  json_t *name = json_object_get(function, "name"), *properties = properties_of(function);
  if (!json_is_string(name)) return true;
  size_t tool = find_name(types, text_of(name));
  for (void *at = json_object_iter(properties); at; at = json_object_iter_next(properties, at)) {
    struct parameter *parameter = &types->parameters[types->n_parameters++];
    parameter->tool = tool;
    parameter->kinds = kinds_of(json_object_iter_value(at), DEPTH);
    if (!copy(arena, (struct text){json_object_iter_key(at), json_object_iter_key_len(at)}, &parameter->key)) return false;
  }
  return true;
}

int api_tool_types_read(json_t *tools, struct tl_arena *arena, const struct api_tool_types **ret) {
  struct api_tool_types *types = tl_arena_alloc(arena, sizeof *types);
  size_t i, n_parameters = 0;
  json_t *tool;
  if (!types) return TL_ENOMEM;
  json_array_foreach(tools, i, tool) n_parameters += json_object_size(properties_of(function_of(tool)));
  types->names = tl_arena_array(arena, json_array_size(tools) + 1, sizeof *types->names);
  types->parameters = tl_arena_array(arena, n_parameters + 1, sizeof *types->parameters);
  if (!types->names || !types->parameters || !add_names(types, tools, arena)) return TL_ENOMEM;
  json_array_foreach(tools, i, tool)
    if (!add_parameters(types, function_of(tool), arena)) return TL_ENOMEM;
  qsort(types->parameters, types->n_parameters, sizeof *types->parameters, compare_parameters);
  *ret = types;
  return TL_OK;
}

/* --- looking up ----------------------------------------------------------------------------------- */

unsigned api_tool_types_of(const struct api_tool_types *types, const char *tool, size_t tool_length, const char *key, size_t key_length) {
  struct text name = {tool, tool_length};
  if (!api_tool_types_has(types, tool, tool_length)) return 0;
  struct parameter wanted = {.tool = find_name(types, name), .key = {key, key_length}}, *found;
  found = bsearch(&wanted, types->parameters, types->n_parameters, sizeof wanted, compare_parameters);
  return found ? found->kinds : 0;
}

bool api_tool_types_has(const struct api_tool_types *types, const char *text, size_t length) {
  struct text wanted = {text, length};
  size_t at = types ? find_name(types, wanted) : 0;
  return types && at < types->n_names && compare_texts(types->names[at], wanted) == 0;
}

bool api_tool_types_begins(const struct api_tool_types *types, const char *text, size_t length) {
  struct text wanted = {text, length};
  size_t at = types ? find_name(types, wanted) : 0;
  return types && at < types->n_names && types->names[at].length >= length && memcmp(types->names[at].data, text, length) == 0;
}
