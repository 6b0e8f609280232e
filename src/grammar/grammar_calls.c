/* SPDX-License-Identifier: MIT */
/* Calls of tools: `[{"name": "a", "parameters": SCHEMA}, ...]`, the list that vLLM has for tool_choice "required". All
 * but the parameters is written in one way only, so whoever reads it knows where they begin and end. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_readers.h"

static gr_node text(struct gr_ir *ir, const char *bytes) {
  return gr_bytes(ir, bytes, strlen(bytes));
}

static int read_call(struct gr_ir *ir, json_t *tool, size_t i, gr_node *ret, struct tl_error *err) {
  char field[64];
  gr_node parameters;
  json_t *function = json_object_get(tool, "function");
  snprintf(field, sizeof field, "tools[%zu].function.parameters", i);
  int r = gr_read_schema(ir, json_object_get(function, "parameters"), field, &parameters, err);
  if (r < 0) return r;
  char *name = json_dumps(json_object_get(function, "name"), JSON_ENCODE_ANY);
  if (!name) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  gr_node head = gr_seq(ir, gr_seq(ir, text(ir, "{\"name\": "), text(ir, name)), text(ir, ", \"parameters\": "));
  free(name);
  *ret = gr_seq(ir, gr_seq(ir, head, parameters), text(ir, "}"));
  return TL_OK;
}

int gr_read_calls(struct gr_ir *ir, json_t *tools, bool several, gr_node *ret, struct tl_error *err) {
  gr_rule call = gr_rule_new(ir);
  gr_node any = gr_nothing(ir);
  for (size_t i = 0; i < json_array_size(tools); i++) {
    gr_node one = GR_NONE;
    int r = read_call(ir, json_array_get(tools, i), i, &one, err);
    if (r < 0) return r;
    any = gr_alt(ir, any, one);
  }
  gr_rule_define(ir, call, any);
  gr_node list = gr_seq(ir, text(ir, "["), gr_call(ir, call));
  if (several) list = gr_seq(ir, list, gr_repeat(ir, gr_seq(ir, text(ir, ", "), gr_call(ir, call)), 0, GR_MANY));
  *ret = gr_seq(ir, list, text(ir, "]"));
  return TL_OK;
}
