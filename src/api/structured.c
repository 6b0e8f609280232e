/* SPDX-License-Identifier: MIT */
/* What an answer is held to: response_format and text.format of OpenAI, structured_outputs and the guided_ fields of
 * vLLM, grammar and json_schema of llama.cpp, and tool_choice where it asks for calls. A request can have one of them. */
#include <stdio.h>
#include <string.h>

#include "api/api_private.h"

struct reader {
  const char *name;
  int (*read)(struct api_params *p, const char *field, json_t *value, struct tl_error *err);
};

/* source.field is constant; takes source.json. */
static int hold_to(struct api_params *p, struct tl_grammar_source source, struct tl_error *err) {
  if (!p->constraint.field) {
    p->constraint = source;
    return TL_OK;
  }
  json_decref(source.json);
  return tl_error_set(err, TL_EINVAL, source.field, "%s: cannot be had together with %s", source.field, p->constraint.field);
}

/* --- the kinds; field: as the client calls it ------------------------------------------------- */

/* A schema, as an object or as JSON in a string. */
int api_structured_schema(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  size_t budget = API_MAX_NODES;
  json_t *schema = json_is_string(value) ? api_body_read_inner(value, &budget) : json_incref(value);
  if (json_is_object(schema))
    return hold_to(p, (struct tl_grammar_source){.kind = TL_GRAMMAR_JSON_SCHEMA, .json = schema, .field = field}, err);
  json_decref(schema);
  return api_wrong(err, field, "a JSON schema as an object, or one as a string of JSON", value);
}

static int read_text(struct api_params *p, enum tl_grammar_kind kind, const char *field, json_t *value, struct tl_error *err) {
  if (!json_is_string(value) || !json_string_length(value)) return api_wrong(err, field, "a string that is not empty", value);
  return hold_to(p, (struct tl_grammar_source){.kind = kind, .text = json_string_value(value), .length = json_string_length(value), .field = field}, err);
}

static int read_regex(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  return read_text(p, TL_GRAMMAR_REGEX, field, value, err);
}

static int read_grammar(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  return read_text(p, TL_GRAMMAR_GBNF, field, value, err);
}

static int read_choice(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  size_t i;
  json_t *choice;
  if (json_array_size(value) == 0) return api_wrong(err, field, "a list of at least one string", value);
  json_array_foreach(value, i, choice) {
    char name[64];
    snprintf(name, sizeof name, "%s[%zu]", field, i);
    if (!json_is_string(choice) || !json_string_length(choice)) return api_wrong(err, name, "a string that is not empty", choice);
  }
  return hold_to(p, (struct tl_grammar_source){.kind = TL_GRAMMAR_CHOICE, .json = json_incref(value), .field = field}, err);
}

static int read_json_object(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  if (!json_is_boolean(value)) return api_wrong(err, field, "true or false", value);
  if (json_is_false(value)) return TL_OK;
  return hold_to(p, (struct tl_grammar_source){.kind = TL_GRAMMAR_JSON_OBJECT, .field = field}, err);
}

/* --- objects ------------------------------------------------------------------------------------ */

/* Every member that is not null has to be among names, which NULL ends. */
static int check_members(json_t *object, const char *field, const char *const *names, struct tl_error *err) {
  const char *name;
  json_t *value;
  json_object_foreach(object, name, value) {
    char path[TL_ERROR_FIELD];
    const char *const *known = names;
    while (*known && strcmp(*known, name) != 0) known++;
    snprintf(path, sizeof path, "%s.%.40s", field, name);
    if (!*known && !json_is_null(value)) return tl_error_set(err, TL_EINVAL, path, "%s: is not supported by this server", path);
  }
  return TL_OK;
}

static int read_structured_outputs(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  static const struct reader members[] = {{"structured_outputs.json", api_structured_schema}, {"structured_outputs.regex", read_regex},
                                          {"structured_outputs.choice", read_choice}, {"structured_outputs.grammar", read_grammar},
                                          {"structured_outputs.json_object", read_json_object}};
  static const char *const names[] = {"json", "regex", "choice", "grammar", "json_object", NULL};
  const char *before = p->constraint.field;
  if (!json_is_object(value)) return api_wrong(err, field, "an object", value);
  int r = check_members(value, field, names, err);
  for (size_t i = 0; r == TL_OK && names[i]; i++) {
    json_t *member = json_object_get(value, names[i]);
    if (member && !json_is_null(member)) r = members[i].read(p, members[i].name, member, err);
  }
  if (r == TL_OK && p->constraint.field == before)
    r = tl_error_set(err, TL_EINVAL, field, "%s: expected one of json, regex, choice, grammar and json_object in it", field);
  return r;
}

/* What a schema with a name is called, its members, and those that it may have, as check_members takes them. */
struct schema_fields {
  const char *object, *name, *strict, *description, *schema;
  const char *const *members;
};

static int read_named_schema(struct api_params *p, json_t *format, const struct schema_fields *f, struct tl_error *err) {
  json_t *name = json_object_get(format, "name"), *schema = json_object_get(format, "schema");
  json_t *strict = json_object_get(format, "strict"), *description = json_object_get(format, "description");
  if (!json_is_object(format)) return api_wrong(err, f->object, "an object", format);
  int r = check_members(format, f->object, f->members, err);
  if (r < 0) return r;
  if (!json_is_string(name) || !json_string_length(name)) return api_wrong(err, f->name, "a string that is not empty", name);
  if (strict && !json_is_null(strict) && !json_is_boolean(strict)) /* a schema is kept to in either case */
    return api_wrong(err, f->strict, "true or false", strict);
  if (description && !json_is_null(description) && !json_is_string(description))
    return api_wrong(err, f->description, "a string", description);
  if (!json_is_object(schema)) return api_wrong(err, f->schema, "a JSON schema as an object", schema);
  return api_structured_schema(p, f->schema, schema, err);
}

static int read_json_schema_format(struct api_params *p, json_t *format, struct tl_error *err) {
  static const char *const members[] = {"name", "schema", "strict", "description", NULL};
  static const struct schema_fields fields = {"response_format.json_schema", "response_format.json_schema.name", "response_format.json_schema.strict",
                                              "response_format.json_schema.description", "response_format.json_schema.schema", members};
  return read_named_schema(p, format, &fields, err);
}

static int read_response_format(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  static const char *const names[] = {"type", "json_schema", "schema", NULL};
  if (!json_is_object(value)) return api_wrong(err, field, "an object", value);
  json_t *of_type = json_object_get(value, "type"), *schema = json_object_get(value, "json_schema"), *bare = json_object_get(value, "schema");
  const char *type = json_is_string(of_type) ? json_string_value(of_type) : "";
  int r = check_members(value, field, names, err);
  if (r < 0) return r;
  bool schemas[] = {schema && !json_is_null(schema), bare && !json_is_null(bare)}; /* the second is llama.cpp's */
  if (strcmp(type, "json_schema") != 0 && strcmp(type, "text") != 0 && strcmp(type, "json_object") != 0)
    return api_wrong(err, "response_format.type", "text, json_object or json_schema", of_type);
  if (schemas[0] && strcmp(type, "json_schema") != 0)
    return tl_error_set(err, TL_EINVAL, "response_format.json_schema", "response_format.json_schema: expected type to be json_schema with it");
  if (schemas[1] && strcmp(type, "json_object") != 0)
    return tl_error_set(err, TL_EINVAL, "response_format.schema", "response_format.schema: expected type to be json_object with it");
  if (strcmp(type, "json_schema") == 0) return read_json_schema_format(p, schema, err);
  if (schemas[1]) return api_structured_schema(p, "response_format.schema", bare, err);
  return strcmp(type, "text") == 0 ? TL_OK : hold_to(p, (struct tl_grammar_source){.kind = TL_GRAMMAR_JSON_OBJECT, .field = field}, err);
}

/* The text of /v1/responses, whose format has the schema's members beside its type. */
static int read_text_format(struct api_params *p, json_t *format, struct tl_error *err) {
  static const char *const members[] = {"type", "name", "schema", "strict", "description", NULL}, *const type_alone[] = {"type", NULL};
  static const struct schema_fields fields = {"text.format", "text.format.name", "text.format.strict", "text.format.description", "text.format.schema", members};
  json_t *of_type = json_object_get(format, "type");
  if (!json_is_object(format)) return api_wrong(err, "text.format", "an object", format);
  const char *type = json_is_string(of_type) ? json_string_value(of_type) : "";
  if (strcmp(type, "json_schema") == 0) return read_named_schema(p, format, &fields, err);
  if (strcmp(type, "text") != 0 && strcmp(type, "json_object") != 0)
    return api_wrong(err, "text.format.type", "text, json_object or json_schema", of_type);
  int r = check_members(format, "text.format", type_alone, err);
  if (r < 0 || strcmp(type, "text") == 0) return r;
  return hold_to(p, (struct tl_grammar_source){.kind = TL_GRAMMAR_JSON_OBJECT, .field = "text.format"}, err);
}

static int read_text_object(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  static const char *const names[] = {"format", "verbosity", NULL};
  json_t *format = json_object_get(value, "format"), *verbosity = json_object_get(value, "verbosity");
  if (!json_is_object(value)) return api_wrong(err, field, "an object", value);
  int r = check_members(value, field, names, err);
  if (r < 0) return r;
  if (verbosity && !json_is_null(verbosity) && (!json_is_string(verbosity) || strcmp(json_string_value(verbosity), "medium") != 0))
    return tl_error_set(err, TL_EINVAL, "text.verbosity", "text.verbosity: is not supported by this server");
  return format && !json_is_null(format) ? read_text_format(p, format, err) : TL_OK;
}

/* --- tools ---------------------------------------------------------------------------------------- */

static int read_tool_choice(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  static const char *const choices[] = {"none", "auto", "required"};
  static const enum api_calls meanings[] = {API_CALLS_OFF, API_CALLS_AUTO, API_CALLS_REQUIRED};
  for (size_t i = 0; json_is_string(value) && i < 3; i++) {
    if (strcmp(json_string_value(value), choices[i]) != 0) continue;
    p->calls = meanings[i];
    return TL_OK;
  }
  bool flat = strcmp(p->tool_chosen, "tool_choice.name") == 0;
  const char *type = json_string_value(json_object_get(value, "type"));
  json_t *name = json_object_get(flat ? value : json_object_get(value, "function"), "name");
  if (!type || strcmp(type, "function") != 0)
    return api_wrong(err, field, flat ? "none, auto, required or {\"type\": \"function\", \"name\": ...}"
                                      : "none, auto, required or {\"type\": \"function\", \"function\": {\"name\": ...}}", value);
  if (!json_is_string(name) || !json_string_length(name)) return api_wrong(err, p->tool_chosen, "a string that is not empty", name);
  p->calls = API_CALLS_NAMED;
  p->tool_name = json_string_value(name);
  p->tool_name_length = json_string_length(name);
  return TL_OK;
}

/* What the arguments of a call must be, as a new object: without parameters nothing, and an object in any case. */
static json_t *schema_of(json_t *function) {
  static const char *const others[] = {"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"};
  json_t *parameters = json_object_get(function, "parameters");
  if (!parameters || json_is_null(parameters)) return json_pack("{s:s,s:b}", "type", "object", "additionalProperties", 0);
  for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    if (!json_is_object(parameters) || json_object_get(parameters, others[i])) return json_incref(parameters);
  json_t *schema = json_copy(parameters);
  json_object_set_new(schema, "type", json_string("object"));
  return schema;
}

/* Checks the schema of a tool's parameters as far as it must be one of an object. */
static int check_parameters(const struct api_params *p, json_t *tool, size_t i, struct tl_error *err) {
  char field[64];
  json_t *parameters = json_object_get(json_object_get(tool, "function"), "parameters"), *type = json_object_get(parameters, "type");
  snprintf(field, sizeof field, "tools[%zu].%s", i, p->tool_schema);
  if (parameters && !json_is_null(parameters) && !json_is_object(parameters)) return api_wrong(err, field, "a JSON schema as an object", parameters);
  if (!type || (json_is_string(type) && strcmp(json_string_value(type), "object") == 0)) return TL_OK;
  return tl_error_set(err, TL_EINVAL, field, "%s: expected the schema of an object, whose type is \"object\"", field);
}

/* The schema of the named tool's parameters. */
static int hold_to_tool(struct api_params *p, struct tl_arena *arena, struct tl_error *err) {
  size_t i;
  json_t *tool;
  json_array_foreach(p->tools, i, tool) {
    json_t *function = json_object_get(tool, "function"), *name = json_object_get(function, "name");
    if (json_string_length(name) != p->tool_name_length || memcmp(json_string_value(name), p->tool_name, p->tool_name_length) != 0) continue;
    int r = check_parameters(p, tool, i, err);
    if (r < 0) return r;
    char field[64];
    snprintf(field, sizeof field, "tools[%zu].%s", i, p->tool_schema);
    struct tl_grammar_source source = {.kind = TL_GRAMMAR_JSON_SCHEMA, .json = schema_of(function), .field = tl_arena_copy(arena, field, strlen(field))};
    if (source.field && source.json) return hold_to(p, source, err);
    json_decref(source.json);
    return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  }
  return tl_error_set(err, TL_EINVAL, p->tool_chosen, "%s: expected the name of one of the tools", p->tool_chosen);
}

/* A list of calls of any tools. */
static int hold_to_tools(struct api_params *p, struct tl_error *err) {
  size_t i;
  json_t *tool;
  struct tl_grammar_source source = {.kind = p->parallel_tool_calls ? TL_GRAMMAR_CALLS : TL_GRAMMAR_ONE_CALL, .json = json_array(), .field = "tools"};
  int r = TL_OK;
  json_array_foreach(p->tools, i, tool) {
    json_t *function = json_object_get(tool, "function");
    if ((r = check_parameters(p, tool, i, err)) < 0) break;
    json_t *call = json_pack("{s:{s:O,s:o}}", "function", "name", json_object_get(function, "name"), "parameters", schema_of(function));
    if (json_array_append_new(source.json, call) < 0 && (r = tl_error_set(err, TL_ENOMEM, NULL, "out of memory"))) break;
  }
  if (r == TL_OK) return hold_to(p, source, err);
  json_decref(source.json);
  return r;
}

int api_structured_settle(struct api_params *p, struct tl_arena *arena, struct tl_error *err) {
  bool forced = p->calls == API_CALLS_REQUIRED || p->calls == API_CALLS_NAMED;
  if (forced && p->constraint.field)
    return tl_error_set(err, TL_EINVAL, "tool_choice", "tool_choice: cannot ask for calls together with %s", p->constraint.field);
  if (forced && !p->tools) return tl_error_set(err, TL_EINVAL, "tool_choice", "tool_choice: expected tools to be given with it");
  if (p->calls == API_CALLS_NAMED) return hold_to_tool(p, arena, err);
  if (p->calls == API_CALLS_REQUIRED) return hold_to_tools(p, err);
  if (p->calls == API_CALLS_OFF) p->tools = NULL; /* the template is not to show them */
  if (!p->tools) p->calls = API_CALLS_OFF;
  return TL_OK;
}

int api_structured_read(struct api_params *p, const char *field, json_t *value, struct tl_error *err) {
  static const struct reader readers[] = {{"response_format", read_response_format}, {"text", read_text_object}, {"structured_outputs", read_structured_outputs},
                                          {"guided_json", api_structured_schema}, {"guided_regex", read_regex}, {"guided_choice", read_choice},
                                          {"guided_grammar", read_grammar}, {"json_schema", api_structured_schema}, {"grammar", read_grammar},
                                          {"tool_choice", read_tool_choice}};
  const struct reader *reader = readers;
  while (strcmp(reader->name, field) != 0) reader++;
  return reader->read(p, reader->name, value, err);
}
