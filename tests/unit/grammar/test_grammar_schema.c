/* SPDX-License-Identifier: MIT */
/* What tests/e2e/test_grammar.py does not compare with jsonschema: how it is written, and what is refused. */
#include "grammar/grammar_readers.h"
#include "reader_unit.h"

static const struct unit_grammar schemas[] = {
    /* white space: nothing, a space, or a line break and up to 20 blanks */
    {"{'properties': {'a': {'type': 'null'}, 'b': {'type': 'null'}}, 'required': ['a']}",
     {"{\"a\":null,\"b\":null}", "{ \"a\": null, \"b\": null }", "{\n\t\"a\": null,\n                    \"b\":\nnull\n}"},
     {"{  \"a\":null}", "{\"a\" :null}", "{\"a\":null ,\"b\":null}", "{\n\n\"a\":null}", "{\"a\":null,}", "{\n                     \"a\":null}", "{\"a\":null} "}},
    {"{'items': {'type': 'null'}}", {"[]", "[ ]", "[null]", "[\n  null,\n  null\n]"}, {"[,]", "[null,]", "[null null]", "[null ,null]"}},
    {"{'type': 'object', 'properties': {}}", {"{}", "{ }", "{\n}"}, {"{  }", "{\"a\":1}"}},
    /* numbers: no zeros in front, a bounded number of digits */
    {"{'type': 'integer'}", {"0", "-1", "9999999999999999999"}, {"-0", "01", "1.0", "10000000000000000000", "+1", ""}},
    {"{'type': 'number'}", {"-0", "0.5", "1e10", "1E-05", "2.5e+289"}, {".5", "1.", "1e", "01", "1e290", "--1"}},
    {"{'type': 'integer', 'minimum': 9223372036854775807}", {"9223372036854775807", "9999999999999999999"}, {"9223372036854775806", "1"}},
    {"{'type': 'integer', 'minimum': -9223372036854775808, 'maximum': -9223372036854775807}", {"-9223372036854775808"}, {"-9223372036854775809", "0"}},
    {"{'type': 'number', 'minimum': 1, 'maximum': 1}", {"1", "1.0", "1.00"}, {"1.", "1.01", "0.9", "1e0"}},
    {"{'type': 'number', 'minimum': 0.001, 'maximum': 0.05}", {"0.001", "0.0010", "0.05", "0.0499"}, {"0", "0.0009", "0.051", "0.1", "0.0"}},
    {"{'type': 'number', 'exclusiveMinimum': 0, 'minimum': 0, 'maximum': 2, 'exclusiveMaximum': 1.5}", {"0.1", "1.4"}, {"0", "0.0", "1.5", "2"}},
    /* strings as JSON writes them */
    {"{'type': 'string', 'pattern': '^\\\\n.$'}", {"\"\\na\""}, {"\"\na\"", "\"\\n\\n\"", "\"\\u000aa\""}},
    {"{'type': 'string', 'pattern': '^[\\\\x00-\\\\x1f]$'}", {"\"\\u0000\"", "\"\\u001f\"", "\"\\t\""}, {"\"\x01\"", "\"\\u0020\"", "\"a\""}},
    {"{'const': 'a\\\"\\\\b\\u0007\\n/\xc3\xa9'}", {"\"a\\\"\\\\b\\u0007\\n/\xc3\xa9\""}, {"\"a\""}},
    {"{'enum': [0.1, 100.0, 1e300, -5]}", {"0.1", "100.0", "1e+300", "-5"}, {"0.10", "100"}},
    /* a name once more as another is no way round its schema */
    {"{'type': 'object', 'properties': {'ab': {'type': 'null'}}, 'additionalProperties': {'type': 'boolean'}}",
     {"{\"ab\":null,\"a\":true,\"abc\":false}", "{\"b\\n\":true}"}, {"{\"ab\":true}", "{\"\\u0061b\":true}", "{\"a\\u0062\":true}", "{\"a\":null}"}},
    {"{'type': 'object', 'required': ['b', 'a'], 'properties': {'a': {'const': 1}}, 'additionalProperties': {'const': 2}}",
     {"{\"a\":1,\"b\":2}", "{\"a\":1,\"b\":2,\"c\":2}"}, {"{\"a\":1}", "{\"b\":2,\"a\":1}", "{\"a\":1,\"b\":1}", "{\"a\":1,\"b\":2,\"a\":2}"}},
};

static void test_writing(void **state) {
  (void)state;
  unit_check_grammars(TL_GRAMMAR_JSON_SCHEMA, schemas, UNIT_COUNT(schemas));
}

static const struct unit_refusal refused[] = {
    {"{'properties': {'a': {'items': {'uniqueItems': true}}}}", TL_EUNSUPPORTED, "$.properties.a.items: uniqueItems is not supported"},
    {"{'anyOf': [{}, {'not': {}}]}", TL_EUNSUPPORTED, "$.anyOf[1]: not is not supported"},
    {"{'prefixItems': [{}, {'type': 'x'}]}", TL_EINVAL, "$.prefixItems[1]: type: expected one or more of object, array, string, number, integer, boolean, null"},
    {"{'$defs': {'a': {'additionalProperties': {'multipleOf': 3}}}, 'items': {'$ref': '#/$defs/a'}}", TL_EUNSUPPORTED,
     "$.$defs.a.additionalProperties: multipleOf is not supported"},
    {"{'$ref': '#/$defs/a~2'}", TL_EINVAL, "$: $ref \"#/$defs/a~2\" points to nothing"},
    {"{'properties': {'a': {'$ref': '#/properties/a'}}}", TL_EINVAL, "$.properties.a: $ref leads round in a circle, or through too many others"},
    {"{'type': 'string', 'format': 'date', 'pattern': 'a'}", TL_EUNSUPPORTED, "$: pattern beside format \"date\" is not supported"},
    {"{'type': 'string', 'pattern': '(a'}", TL_EINVAL, "$: pattern: a group is not closed (offset 0 of the pattern)"},
    {"{'type': 'string', 'pattern': '^a*b*$', 'maxLength': 3}", TL_EUNSUPPORTED,
     "$: pattern: minLength or maxLength beside a pattern like this is not supported (offset 0 of the pattern)"},
    {"3", TL_EINVAL, "$: expected a schema: an object, true or false"},
    {"{'properties': {'a': 'string'}}", TL_EINVAL, "$.properties.a: expected a schema: an object, true or false"},
};

static void test_refused(void **state) {
  (void)state;
  unit_check_refusals(TL_GRAMMAR_JSON_SCHEMA, refused, UNIT_COUNT(refused));
}

/* No limit of the JSON parser's is met: they are the reader's own. */
static json_t *nested(const char *key, int depth) {
  json_t *schema = json_pack("{s:s}", "type", "null");
  for (int i = 0; i < depth; i++) schema = json_pack("{s:o}", key, schema);
  return schema;
}

static int read_alone(json_t *schema, uint64_t fuel, struct tl_error *err) {
  struct gr_ir *ir = gr_ir_new(&fuel);
  gr_node node;
  int r = gr_read_schema(ir, schema, "the.field", &node, err);
  gr_ir_free(ir);
  json_decref(schema);
  return r;
}

static void test_deep(void **state) {
  (void)state;
  struct tl_error err = {0};
  assert_int_equal(read_alone(nested("items", 150), 10000000, &err), TL_OK);
  assert_int_equal(read_alone(nested("items", 5000), 10000000, &err), TL_ELIMIT);
  assert_string_equal(err.field, "the.field");
  assert_int_equal(read_alone(nested("items", 150), 1000, &err), TL_ELIMIT);
  assert_string_equal(err.message, "the grammar is too large");
}

/* Definitions of which each means two of the next: merged, they would be 2^60; chained, they are no deep recursion. */
static json_t *chain(const char *format, int n) {
  json_t *schema = json_pack("{s:s,s:{}}", "$ref", "#/$defs/d0", "$defs");
  for (int i = 0; i < n; i++) {
    char text[200], name[20];
    snprintf(text, sizeof text, format, i + 1, i + 1);
    snprintf(name, sizeof name, "d%d", i);
    json_object_set_new(json_object_get(schema, "$defs"), name, json_loads(text, 0, NULL));
  }
  char last[20];
  snprintf(last, sizeof last, "d%d", n);
  json_object_set_new(json_object_get(schema, "$defs"), last, json_pack("{s:s}", "type", "null"));
  return schema;
}

static void test_chains(void **state) {
  (void)state;
  struct tl_error err = {0};
  assert_int_equal(read_alone(chain("{\"items\": {\"$ref\": \"#/$defs/d%d\"}}", 20000), 64000000, &err), TL_OK);
  assert_int_equal(read_alone(chain("{\"anyOf\": [{\"$ref\": \"#/$defs/d%d\"}, {\"$ref\": \"#/$defs/d%d\"}]}", 1000), 10000000, &err), TL_OK);
  assert_int_equal(read_alone(chain("{\"allOf\": [{\"$ref\": \"#/$defs/d%d\"}, {\"$ref\": \"#/$defs/d%d\"}]}", 40), 10000000, &err), TL_ELIMIT);
  assert_int_equal(read_alone(chain("{\"allOf\": [{\"$ref\": \"#/$defs/d%d\"}, {\"type\": \"null\"}]}", 200), 10000000, &err), TL_ELIMIT);
}

/* Two that go round through one another have more and more to merge. */
static void test_endless_merging(void **state) {
  (void)state;
  struct tl_error err = {0};
  json_t *schema = json_loads("{\"allOf\": [{\"$ref\": \"#/$defs/a\"}, {\"$ref\": \"#/$defs/b\"}], \"$defs\": {"
                              "\"a\": {\"properties\": {\"l\": {\"$ref\": \"#/$defs/a\"}, \"r\": {\"$ref\": \"#/$defs/a\"}}},"
                              "\"b\": {\"properties\": {\"l\": {\"$ref\": \"#/$defs/b\"}, \"r\": {\"$ref\": \"#/$defs/b\"}}}}}", 0, NULL);
  assert_int_equal(read_alone(schema, 10000000, &err), TL_ELIMIT);
}

/* A large one that is compared with its like again and again. */
static void test_large_merging(void **state) {
  (void)state;
  struct tl_error err = {0};
  json_t *schema = json_pack("{s:[{s:s}],s:{}}", "allOf", "$ref", "#/$defs/a", "$defs"), *large = json_array();
  for (int i = 0; i < 20000; i++) json_array_append_new(large, json_integer(i));
  json_object_set_new(json_object_get(schema, "$defs"), "a", json_pack("{s:{s:{s:O}}}", "properties", "m", "enum", large));
  json_object_set_new(json_object_get(schema, "$defs"), "b", json_pack("{s:{s:{s:o}}}", "properties", "m", "enum", json_deep_copy(large)));
  for (int i = 0; i < 10000; i++) json_array_append_new(json_object_get(schema, "allOf"), json_pack("{s:s}", "$ref", i % 2 ? "#/$defs/a" : "#/$defs/b"));
  json_decref(large);
  assert_int_equal(read_alone(schema, 10000000, &err), TL_ELIMIT);
  assert_string_equal(err.message, "$: allOf and what stands beside $ref or anyOf is too large");
}

/* Several schemas in one ir: each resolves its own references. */
static void test_several(void **state) {
  (void)state;
  uint64_t fuel = 1000000;
  struct gr_ir *ir = gr_ir_new(&fuel);
  struct tl_error err = {0};
  gr_node node;
  json_t *one = json_loads("{\"items\": {\"$ref\": \"#/$defs/a\"}, \"$defs\": {\"a\": {\"type\": \"null\"}}}", 0, NULL);
  json_t *other = json_loads("{\"items\": {\"$ref\": \"#/$defs/a\"}}", 0, NULL);
  assert_int_equal(gr_read_schema(ir, one, "one", &node, &err), TL_OK);
  assert_int_equal(gr_read_schema(ir, other, "other", &node, &err), TL_EINVAL);
  assert_string_equal(err.field, "other");
  assert_string_equal(err.message, "$.items: $ref \"#/$defs/a\" points to nothing");
  assert_int_equal(gr_read_schema(ir, one, "one", &node, &err), TL_OK);
  assert_int_equal(gr_read_json_object(ir, &node, &err), TL_OK);
  json_decref(one);
  json_decref(other);
  gr_ir_free(ir);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_writing), cmocka_unit_test(test_refused),         cmocka_unit_test(test_deep),
                                     cmocka_unit_test(test_chains),  cmocka_unit_test(test_endless_merging), cmocka_unit_test(test_several), cmocka_unit_test(test_large_merging)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
