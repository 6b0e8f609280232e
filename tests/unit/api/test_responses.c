/* SPDX-License-Identifier: MIT */
/* Requests of /v1/responses: what chat's template sees of them, and what answers repeat. Single quotes stand for double ones. */
#include "unit.h"

#include "api/responses.h"

static json_t *json(const char *text) {
  char buffer[2048];
  size_t n = strlen(text);
  assert_true(n < sizeof buffer);
  for (size_t i = 0; i <= n; i++) buffer[i] = text[i] == '\'' ? '"' : text[i];
  json_t *value = json_loads(buffer, JSON_DECODE_ANY, NULL);
  assert_non_null(value);
  return value;
}

struct result {
  int code;
  struct api_params params;
  struct tl_error err;
  struct tl_arena arena;
  json_t *body, *messages;
};

/* As api_fields_read goes through its table, and then the reader's prepare. */
static struct result read_body(const char *text) {
  static const char *const own[] = {"input", "instructions", "tools", "include", "metadata", "truncation", "previous_response_id"};
  static const char *const structured[] = {"text", "tool_choice"};
  struct result r = {.params = {.calls = API_CALLS_AUTO, .parallel_tool_calls = true, .add_generation_prompt = true, .n_top_logprobs = -1,
                                .tool_schema = "parameters", .tool_chosen = "tool_choice.name"},
                     .body = json(text)};
  tl_arena_init(&r.arena, 0);
  for (size_t i = 0; r.code == TL_OK && i < sizeof own / sizeof *own; i++) {
    json_t *value = json_object_get(r.body, own[i]);
    if (value) r.code = api_responses_read(&r.params, own[i], value, &r.err);
  }
  for (size_t i = 0; r.code == TL_OK && i < 2; i++) {
    json_t *value = json_object_get(r.body, structured[i]);
    if (value) r.code = api_structured_read(&r.params, structured[i], value, &r.err);
  }
  if (r.code == TL_OK) r.code = api_structured_settle(&r.params, &r.arena, &r.err);
  if (r.code == TL_OK && r.params.input) r.code = api_responses_messages(&r.params, &r.messages, &r.err);
  return r;
}

static void end(struct result *r) {
  json_decref(r->params.constraint.json);
  json_decref(r->messages);
  json_decref(r->body);
  tl_arena_done(&r->arena);
}

#define CALL(id, name) "{'id':'" id "','type':'function','function':{'name':'" name "','arguments':{'b':[1]}}}"
#define ASKED(id, name) "{'type':'function_call','call_id':'" id "','name':'" name "','arguments':'{\\'b\\': [1]}','status':'completed'}"

static void test_messages(void **state) {
  (void)state;
  static const struct {
    const char *body, *messages;
    bool goes_on;
  } cases[] = {
      {"{'input':'a'}", "[{'role':'user','content':'a'}]", false},
      {"{'input':'a','instructions':'b'}", "[{'role':'system','content':'b'},{'role':'user','content':'a'}]", false},
      {"{'input':'a','instructions':''}", "[{'role':'user','content':'a'}]", false},
      /* all that the system says first is one message, later it is not moved */
      {"{'instructions':'b','input':[{'role':'developer','content':'c'},{'role':'system','content':[{'type':'input_text','text':'d'},"
       "{'type':'text','text':'e'}]},{'role':'user','content':'a'},{'role':'developer','content':'f'}]}",
       "[{'role':'system','content':'b\\n\\nc\\n\\nd\\ne'},{'role':'user','content':'a'},{'role':'system','content':'f'}]", false},
      /* what the model said in a turn is one message */
      {"{'input':[{'role':'user','content':'a'},{'type':'reasoning','id':'rs_1','summary':[],'content':[{'type':'reasoning_text','text':'b'},"
       "{'type':'reasoning_text','text':'c'}]},{'type':'message','role':'assistant','id':'msg_1','status':'completed','content':["
       "{'type':'output_text','text':'d','annotations':[],'logprobs':[]}]}," ASKED("1", "f") "," ASKED("2", "g") ","
       "{'type':'function_call_output','call_id':'1','output':'e'},{'type':'function_call_output','call_id':'2','output':["
       "{'type':'input_text','text':'h'}]}]}",
       "[{'role':'user','content':'a'},{'role':'assistant','reasoning_content':'b\\nc','content':[{'type':'text','text':'d'}],"
       "'tool_calls':[" CALL("1", "f") "," CALL("2", "g") "]},{'role':'tool','tool_call_id':'1','content':'e'},"
       "{'role':'tool','tool_call_id':'2','content':[{'type':'text','text':'h'}]}]", false},
      /* two turns are two */
      {"{'input':[{'role':'assistant','content':'a'},{'role':'assistant','content':'b'},{'type':'reasoning','summary':[{'type':'summary_text',"
       "'text':'c'}]}," ASKED("1", "f") ",{'type':'reasoning','summary':[],'content':[{'text':'d'}]}," ASKED("2", "g") "]}",
       "[{'role':'assistant','content':'a'},{'role':'assistant','content':'b'},{'role':'assistant','content':null,'reasoning_content':'c',"
       "'tool_calls':[" CALL("1", "f") "]},{'role':'assistant','content':null,'reasoning_content':'d','tool_calls':[" CALL("2", "g") "]}]", false},
      /* a reasoning that nobody here can read is passed over; so is where it stood */
      {"{'input':[{'role':'user','content':'a'},{'type':'reasoning','summary':[],'encrypted_content':'x'}," ASKED("1", "f") "]}",
       "[{'role':'user','content':'a'},{'role':'assistant','content':null,'tool_calls':[" CALL("1", "f") "]}]", false},
      /* thoughts alone, as of an answer that was cut */
      {"{'input':[{'type':'reasoning','summary':[],'content':[{'text':'a'}],'status':'incomplete'},{'role':'user','content':'b'}]}",
       "[{'role':'assistant','content':'','reasoning_content':'a'},{'role':'user','content':'b'}]", false},
      {"{'input':[{'type':'function_call','call_id':'1','name':'f','arguments':''}]}",
       "[{'role':'assistant','content':null,'tool_calls':[{'id':'1','type':'function','function':{'name':'f','arguments':{}}}]}]", false},
      {"{'input':[{'role':'user','content':'a'},{'type':'message','role':'assistant','status':'incomplete','content':'b'}]}",
       "[{'role':'user','content':'a'},{'role':'assistant','content':'b'}]", true},
      /* only a message goes on, whatever role other items say that they have */
      {"{'input':[{'role':'user','content':'a'},{'type':'function_call','role':'assistant','status':'incomplete','call_id':'1','name':'f',"
       "'arguments':'{\\'b\\': [1]}'}]}",
       "[{'role':'user','content':'a'},{'role':'assistant','content':null,'tool_calls':[" CALL("1", "f") "]}]", false},
      {"{'input':[{'role':'assistant','status':'incomplete','content':'b'},{'role':'user','content':'a'}]}",
       "[{'role':'assistant','content':'b'},{'role':'user','content':'a'}]", false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct result r = read_body(cases[i].body);
    json_t *expected = json(cases[i].messages);
    assert_string_equal(r.err.message, "");
    assert_int_equal(r.code, TL_OK);
    if (!json_equal(r.messages, expected)) {
      print_message("%zu: %s\n", i, json_dumps(r.messages, 0));
      fail();
    }
    assert_int_equal(r.params.continue_final_message, cases[i].goes_on);
    assert_int_equal(r.params.add_generation_prompt, !cases[i].goes_on);
    json_decref(expected);
    end(&r);
  }
}

static void test_refusals(void **state) {
  (void)state;
  static const struct {
    const char *body, *field, *says;
  } cases[] = {
      {"{'input':5}", "input", "a string or a list of at least one item"},
      {"{'input':[]}", "input", "a string or a list of at least one item"},
      {"{'input':['a']}", "input[0]", "an object"},
      {"{'input':[{'role':'tool','content':'a'}]}", "input[0].role", "user, assistant, system or developer"},
      {"{'input':[{'content':'a'}]}", "input[0].role", "user, assistant, system or developer, got null"},
      {"{'input':[{'role':'user'}]}", "input[0].content", "a string or a list of texts, got null"},
      {"{'input':[{'role':'system','content':7}]}", "input[0].content", "a string or a list of texts, got 7"},
      {"{'input':[{'role':'user','content':['a']}]}", "input[0].content[0]", "got a string"},
      {"{'input':[{'role':'user','content':[{'type':'text','text':'a'},{'type':'input_image','image_url':'b'}]}]}", "input[0].content[1]",
       "parts of the type \"input_image\" are not supported"},
      {"{'input':[{'role':'user','content':[{'type':'input_text','text':1}]}]}", "input[0].content[0]", "\"text\": a string"},
      {"{'input':[{'role':'user','content':'a'},{'type':'item_reference','id':'b'}]}", "input[1]", "stores no items"},
      {"{'input':[{'type':'web_search_call','id':'b'}]}", "input[0].type", "\"web_search_call\" is not supported"},
      {"{'input':[{'type':'function_call','name':'f','arguments':'{}'}]}", "input[0].call_id", "got null"},
      {"{'input':[{'type':'function_call','call_id':'1','name':'','arguments':'{}'}]}", "input[0].name", "got an empty string"},
      {"{'input':[{'type':'function_call','call_id':'1','name':'f','arguments':{}}]}", "input[0].arguments", "a string, got an object"},
      {"{'input':[{'type':'function_call','call_id':'1','name':'f','arguments':'{'}]}", "input[0].arguments", "a string of JSON"},
      {"{'input':[{'type':'function_call_output','output':'a'}]}", "input[0].call_id", "got null"},
      {"{'input':[{'type':'function_call_output','call_id':'1'}]}", "input[0].output", "got null"},
      {"{'input':[{'type':'reasoning','summary':'a'}]}", "input[0].summary", "a list of texts, got a string"},
      {"{'input':[{'type':'reasoning','content':[{'text':1}]}]}", "input[0].content", "a list of texts"},
      {"{'input':[{'type':'reasoning','summary':[]}]}", "input", "at least one item that says something"},
      {"{'instructions':['a']}", "instructions", "a string"},
      {"{'tools':{}}", "tools", "a list of tools"},
      {"{'tools':['a']}", "tools[0].type", "\"function\", got null"},
      {"{'tools':[{'type':'function','name':'a'},{'type':'web_search'}]}", "tools[1].type", "no tool \"web_search\""},
      {"{'tools':[{'type':'function','function':{'name':'a'}}]}", "tools[0].name", "a string that is not empty, got null"},
      {"{'tools':[{'type':'function','name':'a'}],'tool_choice':{'type':'function','function':{'name':'a'}}}", "tool_choice.name", "got null"},
      {"{'tools':[{'type':'function','name':'a'}],'tool_choice':{'type':'function','name':'b'}}", "tool_choice.name", "the name of one of the tools"},
      {"{'tools':[{'type':'function','name':'a'}],'tool_choice':{'type':'web_search'}}", "tool_choice", "{\"type\": \"function\", \"name\": ...}"},
      {"{'tools':[{'type':'function','name':'a','parameters':{'type':'string'}}],'tool_choice':'required'}", "tools[0].parameters", "an object"},
      {"{'include':'a'}", "include", "a list of strings"},
      {"{'include':['reasoning.encrypted_content','a']}", "include[1]", "got a string"},
      {"{'metadata':{'a':1}}", "metadata", "an object of strings"},
      {"{'truncation':'some'}", "truncation", "auto or disabled"},
      {"{'previous_response_id':'resp_1'}", "previous_response_id", "stores no answers"},
      {"{'text':'a'}", "text", "an object"},
      {"{'text':{'verbosity':'low'}}", "text.verbosity", "not supported"},
      {"{'text':{'style':1}}", "text.style", "not supported"},
      {"{'text':{'format':'text'}}", "text.format", "an object"},
      {"{'text':{'format':{'type':'grammar'}}}", "text.format.type", "text, json_object or json_schema"},
      {"{'text':{'format':{'type':'text','schema':{}}}}", "text.format.schema", "not supported"},
      {"{'text':{'format':{'type':'json_schema','schema':{'a':1}}}}", "text.format.name", "got null"},
      {"{'text':{'format':{'type':'json_schema','name':'a'}}}", "text.format.schema", "a JSON schema as an object"},
      {"{'text':{'format':{'type':'json_schema','name':'a','schema':{},'strict':1}}}", "text.format.strict", "true or false"},
      {"{'text':{'format':{'type':'json_schema','json_schema':{}}}}", "text.format.json_schema", "not supported"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct result r = read_body(cases[i].body);
    if (r.code != TL_EINVAL || !strstr(r.err.message, cases[i].says)) print_message("%s: %s\n", cases[i].body, r.err.message);
    assert_int_equal(r.code, TL_EINVAL);
    assert_string_equal(r.err.field, cases[i].field);
    assert_non_null(strstr(r.err.message, cases[i].says));
    end(&r);
  }
}

static void test_tools(void **state) {
  (void)state;
  struct result r = read_body("{'tools':[{'type':'function','name':'a','strict':true,'parameters':{'type':'object','required':['b']}},"
                         "{'name':'c','description':'d','type':'function'}],'tool_choice':{'type':'function','name':'a'}}");
  json_t *tools = json("[{'type':'function','function':{'name':'a','strict':true,'parameters':{'type':'object','required':['b']}}},"
                       "{'type':'function','function':{'name':'c','description':'d'}}]");
  assert_int_equal(r.code, TL_OK);
  assert_true(json_equal(r.params.tools, tools));
  assert_int_equal(r.params.calls, API_CALLS_NAMED);
  assert_string_equal(r.params.constraint.field, "tools[0].parameters");
  json_decref(tools);
  end(&r);
}

static void test_formats(void **state) {
  (void)state;
  struct result r = read_body("{'text':{'format':{'type':'json_schema','name':'a','schema':{'b':1},'strict':true,'description':'c'},'verbosity':'medium'}}");
  json_t *schema = json("{'b':1}");
  assert_int_equal(r.params.constraint.kind, TL_GRAMMAR_JSON_SCHEMA);
  assert_string_equal(r.params.constraint.field, "text.format.schema");
  assert_true(json_equal(r.params.constraint.json, schema));
  json_decref(schema);
  end(&r);
  r = read_body("{'text':{'format':{'type':'json_object'}}}");
  assert_int_equal(r.params.constraint.kind, TL_GRAMMAR_JSON_OBJECT);
  end(&r);
  r = read_body("{'text':{'format':{'type':'text'}},'include':['message.output_text.logprobs'],'truncation':'auto','metadata':{'a':'b'}}");
  assert_null(r.params.constraint.field);
  assert_int_equal(r.params.n_top_logprobs, 0);
  end(&r);
}

/* The members of an answer, behind others. */
static void test_echo(void **state) {
  (void)state;
  struct result r = read_body("{'instructions':'a\\u2028','tools':[{'name':'c','type':'function','parameters':{'x':1}}],'tool_choice':'none',"
                         "'metadata':{'k':'v'},'text':null,'temperature':1}");
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  tl_buffer_puts(&out, "{\"id\":1");
  assert_int_equal(api_responses_echo(r.body, &out), TL_OK);
  tl_buffer_putc(&out, '}');
  assert_null(strstr(tl_buffer_string(&out), "\xe2\x80\xa8")); /* some clients would end an event's line there */
  json_t *told = json_loads(tl_buffer_string(&out), 0, NULL);
  json_t *expected = json("{'id':1,'instructions':'a\\u2028','max_output_tokens':null,'max_tool_calls':null,'metadata':{'k':'v'},"
                          "'parallel_tool_calls':true,'prompt_cache_key':null,'reasoning':{'effort':null,'summary':null},'safety_identifier':null,"
                          "'text':{'format':{'type':'text'}},'tool_choice':'none','top_logprobs':0,'user':null,"
                          "'tools':[{'type':'function','name':'c','parameters':{'x':1},'strict':null}],"
                          "'background':false,'previous_response_id':null,'service_tier':'default','store':false,'truncation':'disabled'}");
  assert_true(json_equal(told, expected));
  json_decref(expected);
  json_decref(told);
  tl_buffer_done(&out);
  end(&r);
}

/* What is too long to be sent back with every answer is not. */
static void test_short_echo(void **state) {
  (void)state;
  struct tl_buffer out;
  char *text = malloc(131072);
  memset(text, 'a', 131072);
  json_t *body = json_pack("{s:s#,s:[{s:s,s:{s:s#}}],s:s}", "instructions", text, 131000, "tools", "type", "function", "function", "name", text,
                           131072, "user", "me");
  for (unsigned i = 0; i < 2; i++) {
    tl_buffer_init(&out, 0);
    tl_buffer_puts(&out, "{\"id\":1");
    assert_int_equal(api_responses_echo(body, &out), TL_OK);
    tl_buffer_putc(&out, '}');
    json_t *told = json_loads(tl_buffer_string(&out), 0, NULL);
    assert_non_null(told);
    assert_int_equal(json_string_length(json_object_get(told, "instructions")), i ? 0 : 131000);
    assert_int_equal(json_array_size(json_object_get(told, "tools")), 0);
    assert_string_equal(json_string_value(json_object_get(told, "user")), "me");
    json_decref(told);
    tl_buffer_done(&out);
    json_object_set_new(body, "instructions", json_stringn(text, 131071)); /* with its quotes one byte too many */
  }
  json_decref(body);
  free(text);
}

/* --- nonsense: items made of their words, of which most are of one kind's ------------------------------------ */

static unsigned draw(unsigned n) {
  static uint64_t seed = 1;
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return (unsigned)(seed >> 33) % n;
}

/* What a text can be, or should not. */
static json_t *some_text(void) {
  static const char *const texts[] = {"'a'", "''", "null", "5", "{}", "[]", "[[]]", "[null]", "[{'type':'input_text','text':'b'}]",
                                      "[{'type':'output_text','text':''},{'type':'text','text':'c'}]", "[{'text':'d'}]", "[{'type':'input_file'}]"};
  return json(texts[draw(2) ? draw(2) : draw(sizeof texts / sizeof *texts)]);
}

static json_t *some_item(void) {
  static const char *const types[] = {"message", "function_call", "function_call_output", "reasoning", "item_reference", ""};
  static const char *const roles[] = {"user", "assistant", "system", "developer", "tool"};
  static const char *const arguments[] = {"{}", "", "[1]", "{", "5"};
  static const char *const texts[] = {"content", "output", "summary"}, *const names[] = {"call_id", "name"};
  json_t *item = json_pack("{s:s,s:s,s:s}", "type", types[draw(8) ? draw(4) : draw(6)], "role", roles[draw(8) ? draw(4) : 4], "arguments",
                           arguments[draw(4) ? draw(3) : draw(5)]);
  for (unsigned i = 0; i < 3; i++)
    if (draw(8)) json_object_set_new(item, texts[i], i == 2 || draw(4) ? json("[{'type':'text','text':'e'}]") : some_text());
  for (unsigned i = 0; i < 2; i++) json_object_set_new(item, names[i], draw(8) ? json_string("f") : some_text());
  if (draw(4) == 0) json_object_set_new(item, "status", json_string(draw(2) ? "incomplete" : "completed"));
  return draw(16) ? item : (json_decref(item), some_text());
}

/* A message that chat takes as it is. */
static void check_message(const json_t *message) {
  const json_t *content = json_object_get(message, "content"), *calls = json_object_get(message, "tool_calls");
  const char *role = json_string_value(json_object_get(message, "role"));
  assert_non_null(role);
  assert_true(json_is_string(content) || json_is_array(content) || (json_is_null(content) && json_array_size(calls)));
  assert_true(!calls || (json_array_size(calls) && strcmp(role, "assistant") == 0));
  assert_true(strcmp(role, "tool") != 0 || json_is_string(json_object_get(message, "tool_call_id")));
  for (size_t i = 0; i < json_array_size(content); i++) assert_string_equal(json_string_value(json_object_get(json_array_get(content, i), "type")), "text");
}

static void test_nonsense(void **state) {
  (void)state;
  unsigned n_taken = 0, n_refused = 0;
  for (unsigned round = 0; round < 20000; round++) {
    struct api_params params = {.input = json_array(), .add_generation_prompt = true};
    struct tl_error err = {0};
    json_t *messages = NULL;
    for (unsigned n = 1 + draw(5); n; n--) json_array_append_new(params.input, some_item());
    if (api_responses_messages(&params, &messages, &err) == TL_OK) {
      n_taken++;
      assert_in_range(json_array_size(messages), 1, json_array_size(params.input));
      for (size_t i = 0; i < json_array_size(messages); i++) check_message(json_array_get(messages, i));
    } else {
      n_refused++;
      assert_int_equal(err.code, TL_EINVAL);
      assert_memory_equal(err.field, "input", 5);
      assert_null(messages);
    }
    json_decref(messages);
    json_decref(params.input);
  }
  assert_true(n_taken > 2000 && n_refused > 2000);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_messages), cmocka_unit_test(test_refusals), cmocka_unit_test(test_tools),
                                     cmocka_unit_test(test_formats), cmocka_unit_test(test_echo), cmocka_unit_test(test_short_echo), cmocka_unit_test(test_nonsense)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
