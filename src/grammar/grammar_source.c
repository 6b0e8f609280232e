/* SPDX-License-Identifier: MIT */
/* What a client wrote to a grammar: one reader a kind. */
#include <string.h>

#include "grammar/grammar_private.h"
#include "grammar/grammar_readers.h"

static int read_source(struct gr_ir *ir, const struct tl_grammar_source *source, gr_node *ret, struct tl_error *err) {
  switch (source->kind) {
    case TL_GRAMMAR_JSON_OBJECT: return gr_read_json_object(ir, ret, err);
    case TL_GRAMMAR_JSON_SCHEMA: return gr_read_schema(ir, source->json, source->field, ret, err);
    case TL_GRAMMAR_REGEX: return gr_read_regex(ir, source->text, source->length, source->field, ret, err);
    case TL_GRAMMAR_CHOICE: return gr_read_choice(ir, source->json, source->field, ret, err);
    case TL_GRAMMAR_GBNF: return gr_read_gbnf(ir, source->text, source->length, source->field, ret, err);
    case TL_GRAMMAR_CALLS: return gr_read_calls(ir, source->json, true, ret, err);
    case TL_GRAMMAR_ONE_CALL: return gr_read_calls(ir, source->json, false, ret, err);
  }
  return tl_error_set(err, TL_EUNSUPPORTED, source->field, "there is no such kind of grammar");
}

int tl_grammar_compile(const struct tl_vocabulary *vocabulary, const struct tl_grammar_source *source,
                       const struct tl_grammar_limits *limits, struct tl_grammar **ret, struct tl_error *err) {
  if (!limits) limits = &tl_grammar_default_limits;
  uint64_t fuel = limits->fuel;
  struct gr_ir *ir = gr_ir_new(&fuel);
  gr_node root = GR_NONE;
  if (!ir) return tl_error_set(err, TL_ENOMEM, source->field, "no memory to compile it");
  int r = read_source(ir, source, &root, err);
  if (r == TL_OK) r = gr_compile(ir, root, vocabulary, limits, source->field, ret, err);
  gr_ir_free(ir);
  if (r < 0 && err && err->field[0]) { /* readers say what is wrong in it */
    char field[TL_ERROR_FIELD];
    memcpy(field, err->field, sizeof field);
    tl_error_prefix(err, field);
  }
  return r;
}
