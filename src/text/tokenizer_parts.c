/* SPDX-License-Identifier: MIT */
/* tokenizer.json's normalizer, pre_tokenizer, post_processor and decoder. Each
 * is null, one object with a type, or a Sequence of such objects. */
#include <string.h>
#include <utf8proc.h>

#include "text/tokenizer_private.h"

static int out_of_memory(struct tl_error *err) {
  return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
}

static const char *type_of(json_t *json) {
  const char *type = json_string_value(json_object_get(json, "type"));
  return type ? type : "";
}

static bool is_type(json_t *json, const char *type) {
  return strcmp(type_of(json), type) == 0;
}

static int unsupported(const char *part, json_t *json, struct tl_error *err) {
  return tl_error_set(err, TL_EUNSUPPORTED, NULL, "%s.type \"%.60s\" is not supported", part, type_of(json));
}

/* Calls `one` for the object or for each of the Sequence `key`. */
static int each(struct tl_tokenizer *t, json_t *json, const char *key,
                int (*one)(struct tl_tokenizer *t, json_t *json, struct tl_error *err), struct tl_error *err) {
  if (!json || json_is_null(json)) return TL_OK;
  if (!is_type(json, "Sequence")) return one(t, json, err);
  json_t *item;
  size_t i;
  json_array_foreach(json_object_get(json, key), i, item) {
    if (is_type(item, "Sequence")) return tl_error_set(err, TL_EUNSUPPORTED, NULL, "%s: nested Sequence", key);
    int r = one(t, item, err);
    if (r < 0) return r;
  }
  return TL_OK;
}

/* {"String": "x"} or {"Regex": "x"} */
static int parse_pattern(json_t *json, const char *part, pcre2_code **ret, struct tl_error *err) {
  json_t *text = json_object_get(json, "Regex");
  bool literal = !text;
  if (literal) text = json_object_get(json, "String");
  if (!json_is_string(text))
    return tl_error_set(err, TL_ECORRUPT, NULL, "%s.pattern: expected {\"Regex\": string} or {\"String\": string}", part);
  int r = tok_pattern_compile(json_string_value(text), json_string_length(text), literal, ret, err);
  if (r < 0) tl_error_prefix(err, part);
  return r;
}

static int copy_string(struct tl_tokenizer *t, json_t *json, const char **ret, size_t *ret_length, struct tl_error *err) {
  if (!json_is_string(json)) return tl_error_set(err, TL_ECORRUPT, NULL, "normalizer: expected a string");
  *ret_length = json_string_length(json);
  *ret = tl_arena_copy(&t->mem, json_string_value(json), *ret_length);
  return *ret ? TL_OK : out_of_memory(err);
}

static int unicode_form(json_t *json) {
  static const struct {
    const char *type;
    int options;
  } forms[] = {{"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
               {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
               {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
               {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT}};
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
    if (is_type(json, forms[i].type)) return forms[i].options;
  return 0;
}

static int parse_one_normalizer(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  if (t->n_norms == TOK_MAX_STEPS) return tl_error_set(err, TL_EUNSUPPORTED, NULL, "normalizer: too many steps");
  struct tok_norm *norm = &t->norms[t->n_norms];
  *norm = (struct tok_norm){.form = unicode_form(json)};
  int r = TL_OK;
  if (norm->form) {
    norm->kind = TOK_NORM_FORM;
  } else if (is_type(json, "Lowercase")) {
    norm->kind = TOK_NORM_LOWERCASE;
  } else if (is_type(json, "Strip")) {
    norm->kind = TOK_NORM_STRIP;
    norm->left = json_is_true(json_object_get(json, "strip_left"));
    norm->right = json_is_true(json_object_get(json, "strip_right"));
  } else if (is_type(json, "Prepend")) {
    norm->kind = TOK_NORM_PREPEND;
    r = copy_string(t, json_object_get(json, "prepend"), &norm->content, &norm->content_length, err);
  } else if (is_type(json, "Replace")) {
    norm->kind = TOK_NORM_REPLACE;
    r = copy_string(t, json_object_get(json, "content"), &norm->content, &norm->content_length, err);
    if (r == TL_OK) r = parse_pattern(json_object_get(json, "pattern"), "normalizer", &norm->pattern, err);
  } else {
    return unsupported("normalizer", json, err);
  }
  t->n_norms++; /* also on error: what it holds is freed with the tokenizer */
  return r;
}

int tok_parse_normalizer(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  return each(t, json, "normalizers", parse_one_normalizer, err);
}

static int parse_behaviour(json_t *json, enum tok_behaviour *ret, struct tl_error *err) {
  static const char *const names[] = {"Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"};
  const char *name = json_string_value(json_object_get(json, "behavior"));
  for (unsigned i = 0; name && i < sizeof names / sizeof *names; i++)
    if (strcmp(name, names[i]) == 0) {
      *ret = (enum tok_behaviour)i;
      return TL_OK;
    }
  return tl_error_set(err, TL_ECORRUPT, NULL, "pre_tokenizer.behavior: expected Isolated, Removed, Contiguous, MergedWithPrevious or MergedWithNext");
}

/* GPT-2's split (Radford et al. 2019), which ByteLevel brings along. */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static int parse_byte_level(struct tok_pre *pre, json_t *json, struct tl_error *err) {
  json_t *use_regex = json_object_get(json, "use_regex"), *prefix = json_object_get(json, "add_prefix_space");
  pre->prefix_space = !prefix || json_is_true(prefix);
  if (use_regex && !json_is_true(use_regex)) return TL_OK;
  return tok_pattern_compile(gpt2_pattern, strlen(gpt2_pattern), false, &pre->pattern, err);
}

static int parse_one_pre_tokenizer(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  if (t->n_pres == TOK_MAX_STEPS) return tl_error_set(err, TL_EUNSUPPORTED, NULL, "pre_tokenizer: too many steps");
  struct tok_pre *pre = &t->pres[t->n_pres];
  *pre = (struct tok_pre){.behaviour = TOK_ISOLATED};
  int r;
  if (is_type(json, "ByteLevel")) {
    r = parse_byte_level(pre, json, err);
  } else if (is_type(json, "Digits")) {
    if (!json_is_true(json_object_get(json, "individual_digits"))) pre->behaviour = TOK_CONTIGUOUS;
    r = tok_pattern_compile("\\p{N}", 5, false, &pre->pattern, err);
  } else if (is_type(json, "Split")) {
    pre->invert = json_is_true(json_object_get(json, "invert"));
    r = parse_behaviour(json, &pre->behaviour, err);
    if (r == TL_OK) r = parse_pattern(json_object_get(json, "pattern"), "pre_tokenizer", &pre->pattern, err);
  } else {
    return unsupported("pre_tokenizer", json, err);
  }
  t->n_pres++; /* also on error: what it holds is freed with the tokenizer */
  return r;
}

/* Bytes are spelled by the last step, so that the steps before it see the text
 * itself; then nothing has to be spelled at all. */
int tok_parse_pre_tokenizer(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  json_t *steps = json_object_get(json, "pretokenizers");
  json_t *last = is_type(json, "Sequence") ? json_array_get(steps, json_array_size(steps) - 1) : json;
  if (!is_type(last, "ByteLevel"))
    return tl_error_set(err, TL_EUNSUPPORTED, NULL, "pre_tokenizer: expected ByteLevel, alone or as the last of a Sequence");
  json_t *step;
  size_t i;
  json_array_foreach(steps, i, step) {
    if (is_type(step, "ByteLevel") && step != last)
      return tl_error_set(err, TL_EUNSUPPORTED, NULL, "pre_tokenizer: ByteLevel before the end of a Sequence");
  }
  return each(t, json, "pretokenizers", parse_one_pre_tokenizer, err);
}

/* The ids of a template's special token, appended to *ids. */
static int template_ids(struct tl_tokenizer *t, json_t *json, json_t *item, int32_t *ids, uint32_t *n, struct tl_error *err) {
  const char *name = json_string_value(json_object_get(item, "id"));
  json_t *list = json_object_get(json_object_get(json_object_get(json, "special_tokens"), name ? name : ""), "ids"), *id;
  size_t i;
  if (!json_is_array(list)) return tl_error_set(err, TL_ECORRUPT, NULL, "post_processor.special_tokens: a token of the template is missing");
  json_array_foreach(list, i, id) {
    json_int_t value = json_integer_value(id);
    if (!json_is_integer(id) || value < 0 || value >= t->size)
      return tl_error_set(err, TL_ECORRUPT, NULL, "post_processor.special_tokens: expected ids of tokens");
    if (*n == TOK_MAX_STEPS) return tl_error_set(err, TL_EUNSUPPORTED, NULL, "post_processor: too many tokens");
    ids[(*n)++] = (int32_t)value;
  }
  return TL_OK;
}

static int parse_template(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  json_t *item, *part;
  size_t i;
  bool seen = false;
  t->before = tl_arena_array(&t->mem, TOK_MAX_STEPS, sizeof *t->before);
  t->after = tl_arena_array(&t->mem, TOK_MAX_STEPS, sizeof *t->after);
  if (!t->before || !t->after) return out_of_memory(err);
  t->n_before = t->n_after = 0;
  json_array_foreach(json_object_get(json, "single"), i, item) {
    int r = TL_OK;
    if ((part = json_object_get(item, "SpecialToken")))
      r = seen ? template_ids(t, json, part, t->after, &t->n_after, err)
               : template_ids(t, json, part, t->before, &t->n_before, err);
    else
      seen = true;
    if (r < 0) return r;
  }
  return TL_OK;
}

static int parse_one_post_processor(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  if (is_type(json, "ByteLevel")) return TL_OK; /* trims offsets, which nobody reads here */
  if (is_type(json, "TemplateProcessing")) return parse_template(t, json, err);
  return unsupported("post_processor", json, err);
}

int tok_parse_post_processor(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  return each(t, json, "processors", parse_one_post_processor, err);
}

int tok_parse_decoder(json_t *json, struct tl_error *err) {
  if (is_type(json, "ByteLevel")) return TL_OK;
  json_t *steps = json_object_get(json, "decoders");
  if (is_type(json, "Sequence") && json_array_size(steps) == 1 && is_type(json_array_get(steps, 0), "ByteLevel")) return TL_OK;
  return tl_error_set(err, TL_EUNSUPPORTED, NULL, "decoder: expected ByteLevel");
}
