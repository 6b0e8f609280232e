/* SPDX-License-Identifier: MIT */
#include "tokenlane/config.h"

#include "config/config_private.h"

#define UNIT_FILE "tokenlane.json"
#include "one_file.h"

static int load(struct tl_config *config, const char *text, struct tl_error *err) {
  unit_write_file(folder, "tokenlane.json", text, strlen(text));
  return tl_config_load(config, path, err);
}

/* --- defaults and values ---------------------------------------------------------------- */

static void test_defaults(void **state) {
  (void)state;
  struct tl_config c;
  assert_int_equal(tl_config_init(&c), TL_OK);
  assert_string_equal(c.model_path, "");
  assert_string_equal(c.http_host, "127.0.0.1");
  assert_int_equal(c.http_port, 8080);
  assert_int_equal(c.http_max_body_bytes, 8 << 20);
  assert_int_equal(c.devices.n, 1);
  assert_string_equal(c.devices.items[0], "cpu:0");
  assert_int_equal(c.model_aliases.n, 0);
  assert_false(c.cpu_pin);
  assert_string_equal(c.route_policy, "least_load");
  assert_string_equal(c.log_level, "info");
  tl_config_done(&c);
  tl_config_done(&c); /* of an empty one */
}

/* Every key takes its own default, its smallest and its largest value, and
 * refuses the ones beyond. */
static void test_every_key_and_its_range(void **state) {
  (void)state;
  struct tl_config c;
  tl_config_init(&c);
  for (unsigned i = 0; i < config_n_keys; i++) {
    const struct config_key *k = &config_keys[i];
    struct tl_error err = {0};
    assert_ptr_equal(config_find_key(k->name), k);
    assert_int_equal(tl_config_set(&c, k->name, k->standard, &err), TL_OK);
    assert_true(strlen(k->help) > 0);
    if (k->kind != KEY_INTEGER) continue;
    int64_t *place = (int64_t *)(void *)((char *)&c + k->offset);
    char value[32], expected[200];
    for (int64_t v = k->min;; v = k->max) {
      snprintf(value, sizeof value, "%lld", (long long)v);
      assert_int_equal(tl_config_set(&c, k->name, value, &err), TL_OK);
      assert_int_equal(*place, v);
      long long beyond = v == k->min ? (long long)v - 1 : (long long)v + 1;
      snprintf(value, sizeof value, "%lld", beyond);
      snprintf(expected, sizeof expected, "%s: expected an integer from %lld to %lld, got %s", k->name, (long long)k->min,
               (long long)k->max, value);
      assert_int_equal(tl_config_set(&c, k->name, value, &err), TL_EINVAL);
      assert_string_equal(err.message, expected);
      assert_string_equal(err.field, k->name);
      assert_int_equal(*place, v); /* unchanged */
      if (v == k->max) break;
    }
  }
  tl_config_done(&c);
}

static void test_set(void **state) {
  (void)state;
  static const struct {
    const char *key, *value, *message; /* NULL: fine */
  } cases[] = {
      {"http.port", "0", NULL},
      {"http.port", "65535", NULL},
      {"http.port", "80x", "http.port: expected an integer from 0 to 65535, got 80x"},
      {"http.port", "", "http.port: expected an integer from 0 to 65535, got "},
      {"http.port", "99999999999999999999", "http.port: expected an integer from 0 to 65535, got 99999999999999999999"},
      {"http.port", "1e3", "http.port: expected an integer from 0 to 65535, got 1e3"},
      {"cpu.pin", "true", NULL},
      {"cpu.pin", "yes", "cpu.pin: expected true or false, got yes"},
      {"cpu.pin", "", "cpu.pin: expected true or false, got "},
      {"route.policy", "round_robin", NULL},
      {"route.policy", "round", "route.policy: expected one of least_load|prefix|round_robin, got round"},
      {"route.policy", "least_load|round_robin", "route.policy: expected one of least_load|prefix|round_robin, got least_load|round_robin"},
      {"route.policy", "", "route.policy: expected one of least_load|prefix|round_robin, got "},
      {"log.level", "debug", NULL},
      {"http.prt", "1", "http.prt: no such key; the nearest is http.port"},
      {"port", "1", "port: no such key; the nearest is http.port"},
      {"host", "1", "host: no such key; the nearest is http.host"},
      {"model", "a", "model: no such key; the nearest is model.path"},
      {"device", "a", "device: no such key; the nearest is devices"},
      {"port", "1", NULL}, /* its message is checked below */
      {"model", "1", NULL},
  };
  struct tl_config c;
  tl_config_init(&c);
  for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_error err = {0};
    int r = tl_config_set(&c, cases[i].key, cases[i].value, &err);
    if (!config_find_key(cases[i].key)) {
      assert_int_equal(r, TL_EINVAL);
      assert_non_null(strstr(err.message, ": no such key; the nearest is "));
    } else {
      assert_int_equal(r, cases[i].message ? TL_EINVAL : TL_OK);
    }
    if (cases[i].message) assert_string_equal(err.message, cases[i].message);
  }
  assert_int_equal(c.http_port, 65535);
  assert_true(c.cpu_pin);
  assert_string_equal(c.route_policy, "round_robin");
  char longest[5000];
  memset(longest, 'k', sizeof longest - 1);
  longest[sizeof longest - 1] = 0;
  struct tl_error err = {0};
  assert_int_equal(tl_config_set(&c, longest, longest, &err), TL_EINVAL);
  tl_config_done(&c);
}

static void test_lists(void **state) {
  (void)state;
  struct tl_config c;
  tl_config_init(&c);
  assert_int_equal(tl_config_set(&c, "devices", "cpu:0,cpu:1,cpu:2", NULL), TL_OK);
  assert_int_equal(c.devices.n, 3);
  assert_string_equal(c.devices.items[2], "cpu:2");
  assert_int_equal(tl_config_set(&c, "devices", "cpu:7", NULL), TL_OK); /* replaces */
  assert_int_equal(c.devices.n, 1);
  assert_int_equal(tl_config_set(&c, "devices", "", NULL), TL_OK);
  assert_int_equal(c.devices.n, 0);
  tl_config_done(&c);
}

/* --- files ----------------------------------------------------------------------------------- */

static void test_file(void **state) {
  (void)state;
  struct tl_config c;
  struct tl_error err = {0};
  char expected[200];
  tl_config_init(&c);
  assert_int_equal(load(&c, "{}", &err), TL_OK);
  assert_int_equal(load(&c,
                        "{ \"model\": {\"path\": \"m\", \"aliases\": [\"a\", \"b\"]},\n  \"devices\": [\"cpu:0\", \"cpu:1\"],\n"
                        "  \"cpu\": {\"pin\": true}, \"http\": {\"port\": 1234, \"host\": \"\"},\n  \"drain_timeout_ms\": 5,\n"
                        "  \"log\": {\"level\": \"warn\"} }",
                        &err),
                   TL_OK);
  snprintf(expected, sizeof expected, "%s/m", folder);
  assert_string_equal(c.model_path, expected);
  assert_int_equal(c.model_aliases.n, 2);
  assert_string_equal(c.model_aliases.items[1], "b");
  assert_int_equal(c.devices.n, 2);
  assert_true(c.cpu_pin);
  assert_int_equal(c.http_port, 1234);
  assert_string_equal(c.http_host, "");
  assert_int_equal(c.drain_timeout_ms, 5);
  assert_string_equal(c.log_level, "warn");
  assert_int_equal(load(&c, "{\"model\": {\"adapters\": [\"a=b/c\", \"d=/e\"]}}", &err), TL_OK);
  assert_int_equal(c.model_adapters.n, 2);
  snprintf(expected, sizeof expected, "a=%s/b/c", folder);
  assert_string_equal(c.model_adapters.items[0], expected);
  assert_string_equal(tl_config_adapter_folder(c.model_adapters.items[1]), "/e");
  assert_int_equal(load(&c, "{\"model\": {\"path\": \"/m\", \"adapters\": [], \"draft\": \"small\"}}", &err), TL_OK);
  assert_true(strcmp(c.model_path, "/m") == 0 && c.model_draft[0] == '/' && strstr(c.model_draft, "/small"));
  assert_int_equal(c.http_port, 1234); /* what a file does not name stays */
  assert_int_equal(load(&c, "{\"model\": {\"path\": \"\"}}", &err), TL_OK);
  assert_string_equal(c.model_path, "");
  tl_config_done(&c);
}

static void test_errors_name_file_and_line(void **state) {
  (void)state;
  static const struct {
    const char *text, *message; /* after "FILE:" */
  } cases[] = {
      {"{\n\n  \"http\": {\n    \"port\": 70000\n  }\n}", "4: http.port: expected an integer from 0 to 65535, got 70000"},
      {"{\"http\": {\n\"port\": \"80\"}}", "2: http.port: expected an integer from 0 to 65535, got a string"},
      {"{\"http\": {\n\n\"port\": 80.5}}", "3: http.port: expected an integer from 0 to 65535, got a fraction"},
      {"{\"http\": {\"port\": null}}", "1: http.port: expected an integer from 0 to 65535, got null"},
      {"{\"http\": {\n\"host\": 1}}", "2: http.host: expected a string, got an integer"},
      {"{\"cpu\": {\n\"pin\": \"true\"}}", "2: cpu.pin: expected true or false, got a string"},
      {"{\n\"devices\": \"cpu:0\"}", "2: devices: expected a list of strings, none empty or with a comma, got a string"},
      {"{\n\"devices\": [\"a\", 1]}", "2: devices: expected a list of strings, none empty or with a comma, got a list"},
      {"{\n\"devices\": [\"a\", \"\"]}", "2: devices: expected a list of strings, none empty or with a comma, got a list"},
      {"{\n\"devices\": [\"a,b\"]}", "2: devices: expected a list of strings, none empty or with a comma, got a list"},
      {"{\"log\": {\n\"level\": \"loud\"}}", "2: log.level: expected one of error|warn|info|debug, got loud"},
      {"{\"log\": {\n\"level\": [\"info\"]}}", "2: log.level: expected a string, got a list"},
      /* the same names as values, in lists, in other objects, in text with brackets and escapes */
      {"{\"model\": {\"name\": \"port\", \"aliases\": [\"http\", \"port\",\n\"port\"], \"path\": \"{\\\"http\\\": [\"},\n"
       " \"http\": {\"host\": \"port\",\n  \"port\": -1}}",
       "4: http.port: expected an integer from 0 to 65535, got -1"},
      {"{\"http\": {\n\"prt\": 1}}", "2: http.prt: no such key; the nearest is http.port"},
      {"{\n\n\"nothing\": {\n\"port\": 1}}", "4: nothing.port: no such key; the nearest is http.port"},
      {"{\n\"http.port\": 1}", "2: http.port: expected nested objects, got a name with a dot"},
      {"{\"http\": {\n\"a.b\": 1}}", "2: http.a.b: expected nested objects, got a name with a dot"},
      {"{\n\"drain_timeout\": 1}", "2: drain_timeout: no such key; the nearest is drain_timeout_ms"},
      {"{\n\"model\": 5}", NULL},
      {"[]", "1: expected a JSON object"},
      {"{\"http\": {\"port\": 1,\n\"port\": 2}}", NULL},
      {"{\n\"http\": }", NULL},
      {"", NULL},
      {"{}\nx", NULL},
      {"{\n\n\"http\": {\"port\": 99999999999999999999}}", NULL},
      {"{\"http\": {\"host\": \"a\\u0000b\"}}", NULL},
      {"{\"http\": {\"host\": \"\xff\"}}", NULL},
      /* keys of the API are not repeated */
      {"{\"http\":\n{\"api_keys\": [\"sk-a\" \"sk-b\"]}}", "2: ']' expected"},
      {"{\"http\": {\"api_keys\": [\"sk-a", "1: premature end of input"},
      {"{\"http\": {\"api_keys\": sk-a}}", "1: invalid token"},
  };
  for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_config c;
    struct tl_error err = {0};
    tl_config_init(&c);
    assert_int_equal(load(&c, cases[i].text, &err), TL_EINVAL);
    size_t n = strlen(path);
    assert_memory_equal(err.message, path, n);
    assert_int_equal(err.message[n], ':');
    if (cases[i].message)
      assert_string_equal(err.message + n + 1, cases[i].message);
    else /* jansson's own words: the line is a number, and there are words */
      assert_true(atoi(err.message + n + 1) >= 0 && strlen(err.message + n) > 10);
    tl_config_done(&c);
  }
}

/* An error of the whole gets the place of its key, if the file has it. */
static void test_locate(void **state) {
  (void)state;
  static const char text[] = "{\"model\": {\"name\": \"devices\"},\n\"devices\": [\"cpu:0\", \"cpu:0\"]}";
  struct tl_config c;
  struct tl_error err = {0};
  char expected[300];
  tl_config_init(&c);
  assert_int_equal(load(&c, text, &err), TL_OK);
  assert_int_equal(tl_config_check(&c, &err), TL_EINVAL);
  tl_config_locate(path, &err);
  assert_string_equal(err.message, "model.path: is required; name a model folder"); /* it is in no line */
  tl_config_set(&c, "model.path", "m", NULL);
  assert_int_equal(tl_config_check(&c, &err), TL_EINVAL);
  tl_config_locate("/nowhere/x.json", &err);
  tl_config_locate(path, &err);
  snprintf(expected, sizeof expected, "%s:2: devices: expected different devices, got cpu:0 twice", path);
  assert_string_equal(err.message, expected);
  assert_string_equal(err.field, "devices");
  tl_config_done(&c);
}

static void test_files_that_cannot_be_read(void **state) {
  (void)state;
  struct tl_config c;
  struct tl_error err = {0};
  char message[200];
  tl_config_init(&c);
  assert_int_equal(tl_config_load(&c, "/nowhere/x.json", &err), TL_EIO);
  assert_string_equal(err.message, "/nowhere/x.json: cannot be read: No such file or directory");
  assert_int_equal(tl_config_load(&c, folder, &err), TL_EIO);
  snprintf(message, sizeof message, "%s: cannot be read: Is a directory", folder);
  assert_string_equal(err.message, message);
  size_t size = 2 << 20;
  char *large = malloc(size);
  memset(large, ' ', size);
  large[0] = '{', large[size - 1] = '}';
  unit_write_file(folder, "tokenlane.json", large, size);
  assert_int_equal(tl_config_load(&c, path, &err), TL_EIO);
  snprintf(message, sizeof message, "%s: cannot be read: it is larger than 1 MiB", path);
  assert_string_equal(err.message, message);
  free(large);
  assert_int_equal(tl_config_load(&c, "/nowhere/x.json", NULL), TL_EIO);
  tl_config_done(&c);
}

/* --- the whole -------------------------------------------------------------------------------- */

static void test_check(void **state) {
  (void)state;
  struct tl_config c;
  struct tl_error err = {0};
  tl_config_init(&c);
  assert_int_equal(tl_config_check(&c, &err), TL_EINVAL);
  assert_string_equal(err.message, "model.path: is required; name a model folder");
  tl_config_set(&c, "model.path", "m", NULL);
  assert_int_equal(tl_config_check(&c, &err), TL_OK);
  tl_config_set(&c, "http.host", "", NULL);
  assert_int_equal(tl_config_check(&c, &err), TL_EINVAL);
  assert_string_equal(err.message, "http.host: expected an address, or http.unix to be set");
  tl_config_set(&c, "http.unix", "/tmp/s", NULL);
  assert_int_equal(tl_config_check(&c, &err), TL_OK);
  tl_config_set(&c, "devices", "", NULL);
  assert_int_equal(tl_config_check(&c, &err), TL_EINVAL);
  assert_string_equal(err.message, "devices: expected at least one device, such as cpu:0");
  tl_config_set(&c, "devices", "cpu:0", NULL);
  tl_config_set(&c, "engine.max_batch_tokens", "63", NULL);
  assert_int_equal(tl_config_check(&c, &err), TL_EINVAL);
  assert_string_equal(err.message, "engine.max_batch_tokens: expected at least engine.max_batch_size (64), got 63");
  assert_string_equal(err.field, "engine.max_batch_tokens");
  tl_config_set(&c, "engine.max_batch_tokens", "64", NULL);
  tl_config_set(&c, "limits.default_timeout_ms", "11", NULL);
  assert_int_equal(tl_config_check(&c, &err), TL_OK);
  tl_config_set(&c, "limits.max_timeout_ms", "10", NULL);
  assert_int_equal(tl_config_check(&c, &err), TL_EINVAL);
  assert_string_equal(err.message, "limits.default_timeout_ms: expected at most limits.max_timeout_ms (10), got 11");
  tl_config_done(&c);
}

/* Each kind of key: what differs is named, in the table's order. */
static void note_key(const char *key, void *context) {
  strcat(strcat(context, key), " ");
}

static void test_compare(void **state) {
  (void)state;
  static const char *const changes[][2] = {{"http.port", "1"}, {"model.aliases", "a,b"}, {"cpu.pin", "true"},
                                           {"log.sink", "/x"}, {"log.format", "json"}};
  struct tl_config a, b;
  char names[200] = "";
  assert_int_equal(tl_config_init(&a), TL_OK);
  assert_int_equal(tl_config_init(&b), TL_OK);
  tl_config_compare(&a, &b, note_key, names);
  assert_string_equal(names, "");
  for (unsigned i = 0; i < UNIT_COUNT(changes); i++)
    assert_int_equal(tl_config_set(&b, changes[i][0], changes[i][1], NULL), TL_OK);
  tl_config_compare(&a, &b, note_key, names);
  assert_string_equal(names, "model.aliases cpu.pin http.port log.sink log.format ");
  assert_int_equal(tl_config_set(&a, "model.aliases", "a,c", NULL), TL_OK);
  *names = 0;
  tl_config_compare(&a, &b, note_key, names);
  assert_memory_equal(names, "model.aliases ", 14);
  tl_config_done(&a);
  tl_config_done(&b);
}

static void test_describe(void **state) {
  (void)state;
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  tl_config_describe(&out);
  unsigned n_lines = 0;
  for (const char *line = tl_buffer_string(&out), *end; *line; line = end + 1, n_lines++) {
    end = strchr(line, '\n');
    assert_non_null(end);
    unsigned bars = 0;
    for (const char *c = line; c < end; c++) bars += *c == '|';
    assert_int_equal(bars, 5);
  }
  assert_int_equal(n_lines, config_n_keys + 2);
  assert_non_null(strstr(out.data, "| `http.port` | integer, 0 to 65535 | 8080 |"));
  assert_non_null(strstr(out.data, "| `log.level` | string: error or warn or info or debug | info |"));
  tl_buffer_done(&out);
}

/* --- several models ------------------------------------------------------------------------------ */

static void load_models(struct tl_config *c, const char *text) {
  struct tl_error err = {0};
  assert_int_equal(tl_config_init(c), TL_OK);
  assert_int_equal(load(c, text, &err), TL_OK);
}

/* One model by model.* is a list of one, with everything that was set. */
static void test_one_model(void **state) {
  (void)state;
  struct tl_config c;
  tl_config_init(&c);
  tl_config_set(&c, "model.path", "/a/b//", NULL);
  tl_config_set(&c, "model.aliases", "x,y", NULL);
  tl_config_set(&c, "devices", "cpu:0,cpu:1", NULL);
  tl_config_set(&c, "engine.max_context", "77", NULL);
  assert_int_equal(tl_config_resolve(&c, NULL), TL_OK);
  assert_int_equal(c.n_models, 1);
  assert_false(c.lists_models);
  assert_string_equal(c.models[0].model_name, "b");
  assert_string_equal(c.models[0].model_aliases.items[1], "y");
  assert_int_equal(c.models[0].devices.n, 2);
  assert_int_equal(c.models[0].engine_max_context, 77);
  tl_config_set(&c.models[0], "engine.max_batch_tokens", "16", NULL);
  struct tl_error err = {0};
  assert_int_equal(tl_config_check(&c, &err), TL_EINVAL);
  assert_string_equal(err.field, "engine.max_batch_tokens"); /* no models[0] where there is no list */
  tl_config_done(&c);
}

/* What an entry says is its own; the rest is the file's, and the command line's after it. */
static void test_models_inherit(void **state) {
  (void)state;
  struct tl_config c;
  load_models(&c, "{\"engine\": {\"max_context\": 9, \"prefix_cache\": false}, \"models\": [{\"path\": \"/m/one\"},\n"
                  "{\"path\": \"two\", \"name\": \"T\", \"aliases\": [\"t\"], \"quantize\": \"q8_0\", \"tool_parser\": \"hermes\", \"reasoning_parser\": \"think\", \"devices\": [\"sim:3\"],"
                  " \"engine\": {\"max_context\": 8}, \"limits\": {\"max_queue\": 5}}]}");
  tl_config_set(&c, "engine.max_context", "7", NULL);
  tl_config_set(&c, "engine.max_batch_size", "6", NULL);
  assert_int_equal(tl_config_resolve(&c, NULL), TL_OK);
  const struct tl_config *one = &c.models[0], *two = &c.models[1];
  char model[200];
  snprintf(model, sizeof model, "%s/two", folder);
  assert_int_equal(c.n_models, 2);
  assert_string_equal(one->model_name, "one");
  assert_string_equal(two->model_name, "T");
  assert_string_equal(two->model_path, model);
  assert_string_equal(one->model_quantize, "none");
  assert_string_equal(two->model_quantize, "q8_0");
  assert_string_equal(one->model_tool_parser, "auto");
  assert_string_equal(two->model_tool_parser, "hermes");
  assert_string_equal(one->model_reasoning_parser, "auto");
  assert_string_equal(two->model_reasoning_parser, "think");
  assert_string_equal(one->devices.items[0], "cpu:0");
  assert_string_equal(two->devices.items[0], "sim:3");
  assert_int_equal(one->engine_max_context, 7);
  assert_int_equal(two->engine_max_context, 8);
  assert_int_equal(two->engine_max_batch_size, 6);
  assert_int_equal(one->limits_max_queue, 1024);
  assert_int_equal(two->limits_max_queue, 5);
  assert_false(two->engine_prefix_cache);
  assert_int_equal(tl_config_check(&c, NULL), TL_OK);
  tl_config_done(&c);
}

/* A wrong key of an entry is named with the entry and its line, whenever it is found. */
static void test_models_errors(void **state) {
  (void)state;
  static const struct {
    const char *text, *message;
  } cases[] = {
      {"{\"models\":\n{}}", "1: models: expected a list of objects, got an object"},
      {"{\"models\":\n[{\"path\":\"a\"},\n{\"path\":\"b\",\n\"engine\":{\"max_context\":true}}]}",
       "4: models[1].engine.max_context: expected an integer from 0 to 16777216, got true"},
      {"{\"models\":\n[{\"path\":\"a\"},\n{\"path\":1}]}", "3: models[1].path: expected a string, got an integer"},
      {"{\"models\":[{\"log\":{\"level\":\"info\"}}]}", "1: models[0].log.level: is not for one model; expected it outside of models"},
      {"{\"models\":[{\"model\":{\"path\":\"a\"}}]}", "1: models[0].path: is not for one model; expected it outside of models"},
      {"{\"models\":[{\"models\":[]}]}", "1: models[0].models: is not for one model; expected it outside of models"},
      {"{\"models\":[{\"log\":{}}]}", "1: models[0].log: is not for one model; expected it outside of models"},
      {"{\"models\":[{\"model\":{}}]}", "1: models[0].model: is not for one model; expected it outside of models"},
      {"{\"models\":[{\"path\":\"a\"},\n{\"angine\":{}}]}", "2: models[1].angine: no such key; the nearest is devices"},
      {"{\"models\":[{\"engine.max_context\":1}]}",
       "1: models[0].engine.max_context: expected nested objects, got a name with a dot"},
  };
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_config c;
    struct tl_error err = {0};
    char expected[300];
    tl_config_init(&c);
    assert_int_equal(load(&c, cases[i].text, &err), TL_EINVAL);
    snprintf(expected, sizeof expected, "%s:%s", path, cases[i].message);
    assert_string_equal(err.message, expected);
    tl_config_done(&c);
  }
}

/* A group without keys says nothing, whether it stands in an entry or outside. */
static void test_empty_groups(void **state) {
  (void)state;
  struct tl_config c, plain;
  struct tl_error err = {0};
  char names[200] = "";
  load_models(&c, "{\"models\":[{\"path\":\"a\",\"engine\":{},\"limits\":{}}],\"log\":{},\"cpu\":{}}");
  load_models(&plain, "{\"models\":[{\"path\":\"a\"}]}");
  assert_int_equal(tl_config_resolve(&c, &err), TL_OK);
  assert_int_equal(tl_config_resolve(&plain, &err), TL_OK);
  tl_config_compare(&c, &plain, note_key, names);
  assert_string_equal(names, "");
  tl_config_done(&c);
  assert_int_equal(tl_config_init(&c), TL_OK);
  assert_int_equal(load(&c, "{\"lag\":{}}", &err), TL_EINVAL);
  assert_non_null(strstr(err.message, "lag: no such key"));
  tl_config_done(&c);
  tl_config_done(&plain);
}

/* What a metric's label can hold whole, in one model's words and in those of an entry. */
static void test_lengths_of_ids(void **state) {
  (void)state;
  char id[202], text[900];
  static const struct {
    const char *format, *field, *message;
  } cases[] = {
      {"{\"model\":{\"path\":\"a\",\"name\":\"%s\"}}", "model.name", "model.name: expected up to 200 bytes, got 201"},
      {"{\"model\":{\"path\":\"/x/%s\"}}", "model.name", "model.name: expected up to 200 bytes, got 201"},
      {"{\"model\":{\"path\":\"a\",\"aliases\":[\"b\",\"%s\"]}}", "model.aliases",
       "model.aliases: expected ids of 1 to 200 bytes, got one of 201"},
      {"{\"models\":[{\"path\":\"a\"},{\"path\":\"b\",\"aliases\":[\"%s\"]}]}", "models[1].aliases",
       "models[1].aliases: expected ids of 1 to 200 bytes, got one of 201"},
      {"{\"models\":[{\"path\":\"a\"},{\"path\":\"b\",\"name\":\"%s\"}]}", "models[1].name",
       "models[1].name: expected up to 200 bytes, got 201"},
  };
  for (unsigned length = 200; length <= 201; length++) {
    memset(id, 'x', length);
    id[length] = 0;
    for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
      struct tl_config c;
      struct tl_error err = {0};
      snprintf(text, sizeof text, cases[i].format, id);
      load_models(&c, text);
      assert_int_equal(tl_config_resolve(&c, &err), length == 200 ? TL_OK : TL_EINVAL);
      if (length > 200) assert_string_equal(err.field, cases[i].field);
      if (length > 200) assert_string_equal(err.message, cases[i].message);
      tl_config_done(&c);
    }
  }
  struct tl_config c;
  struct tl_error err = {0};
  tl_config_init(&c);
  tl_config_set(&c, "model.path", "a", NULL);
  tl_config_set(&c, "model.aliases", "b,,c", NULL);
  assert_int_equal(tl_config_resolve(&c, &err), TL_EINVAL);
  assert_string_equal(err.message, "model.aliases: expected ids of 1 to 200 bytes, got one of 0");
  tl_config_done(&c);
}

static void test_models_that_cannot_be(void **state) {
  (void)state;
  static const struct {
    const char *text, *field, *message;
  } cases[] = {
      {"{\"models\": []}", "models", "models: expected at least one model"},
      {"{\"models\": [{\"path\": \"a\"}], \"model\": {\"name\": \"b\"}}", "model.name",
       "model.name: expected either models or model.*, got both"},
      {"{\"models\": [{\"path\": \"a\"}, {\"path\": \"x/a\"}]}", "models[1].name",
       "models[1].name: expected ids that no other model has, got a, which is models[0]'s"},
      {"{\"models\": [{\"path\": \"a\", \"aliases\": [\"z\"]}, {\"path\": \"b\"}, {\"path\": \"c\", \"aliases\": [\"z\"]}]}",
       "models[2].aliases", "models[2].aliases: expected ids that no other model has, got z, which is models[0]'s"},
      {"{\"models\": [{\"path\": \"a\"}, {\"path\": \"b\", \"adapters\": [\"a=x\"]}]}",
       "models[1].adapters", "models[1].adapters: expected ids that no other model has, got a, which is models[0]'s"},
      {"{\"models\": [{\"path\": \"b\", \"adapters\": [\"c\"]}]}", "models[0].adapters", "models[0].adapters: expected name=folder, with a name of 1 to 200 bytes, got c"},
      {"{\"models\": [{\"path\": \"a\"}, {\"path\": \"b\", \"adapters\": [\"b=x\"]}]}", "models[1].adapters", "models[1].adapters: expected names that are no other ids, got b"},
      {"{\"models\": [{\"path\": \"//\"}]}", "models[0].path",
       "models[0].path: expected a path that ends in a name, or a name to be given, got //"},
      {"{\"model\": {\"path\": \"/\"}}", "model.path", "model.path: expected a path that ends in a name, or a name to be given, got /"},
  };
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_config c;
    struct tl_error err = {0};
    load_models(&c, cases[i].text);
    assert_int_equal(tl_config_resolve(&c, &err), TL_EINVAL);
    assert_string_equal(err.field, cases[i].field);
    assert_string_equal(err.message, cases[i].message);
    tl_config_done(&c);
  }
  struct tl_config c;
  struct tl_error err = {0};
  load_models(&c, "{\"models\": [{\"path\": \"a\"},\n{\"name\": \"b\"}]}");
  assert_int_equal(tl_config_resolve(&c, &err), TL_OK);
  assert_int_equal(tl_config_check(&c, &err), TL_EINVAL);
  tl_config_locate(path, &err);
  char expected[300];
  snprintf(expected, sizeof expected, "%s:2: models[1].path: is required; name a model folder", path);
  assert_string_equal(err.message, expected);
  assert_int_equal(tl_config_set(&c, "models", "a", &err), TL_EINVAL);
  tl_config_done(&c);
}

/* What all inherit is named once, what one model has, with the model. */
static void test_compare_models(void **state) {
  (void)state;
  static const char first[] = "{\"models\": [{\"path\": \"a\"}, {\"path\": \"b\", \"engine\": {\"max_context\": 5}}]}";
  static const char second[] = "{\"models\": [{\"path\": \"a\"}, {\"path\": \"/c\", \"engine\": {\"max_context\": 6}}]}";
  struct tl_config a, b;
  char names[200] = "";
  load_models(&a, first);
  load_models(&b, first);
  tl_config_set(&b, "engine.max_batch_size", "3", NULL);
  assert_true(tl_config_resolve(&a, NULL) == TL_OK && tl_config_resolve(&b, NULL) == TL_OK);
  tl_config_compare(&a, &b, note_key, names);
  assert_string_equal(names, "engine.max_batch_size ");
  tl_config_done(&b);
  load_models(&b, second);
  assert_int_equal(tl_config_resolve(&b, NULL), TL_OK);
  *names = 0;
  tl_config_compare(&a, &b, note_key, names);
  assert_string_equal(names, "models[1].path models[1].name models[1].engine.max_context ");
  tl_config_done(&b);
  load_models(&b, "{\"models\": [{\"path\": \"a\"}]}");
  assert_int_equal(tl_config_resolve(&b, NULL), TL_OK);
  *names = 0;
  tl_config_compare(&a, &b, note_key, names);
  assert_string_equal(names, "models ");
  tl_config_done(&a);
  tl_config_done(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_defaults),
      cmocka_unit_test(test_every_key_and_its_range),
      cmocka_unit_test(test_set),
      cmocka_unit_test(test_lists),
      cmocka_unit_test(test_file),
      cmocka_unit_test(test_errors_name_file_and_line),
      cmocka_unit_test(test_locate),
      cmocka_unit_test(test_files_that_cannot_be_read),
      cmocka_unit_test(test_check),
      cmocka_unit_test(test_compare),
      cmocka_unit_test(test_describe),
      cmocka_unit_test(test_one_model),
      cmocka_unit_test(test_models_inherit),
      cmocka_unit_test(test_models_errors),
      cmocka_unit_test(test_models_that_cannot_be), cmocka_unit_test(test_empty_groups),
      cmocka_unit_test(test_lengths_of_ids),
      cmocka_unit_test(test_compare_models),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
