/* SPDX-License-Identifier: MIT */
/* tokenizer.json's post_processor, as far as one text goes: ids before and after it. */
#include <string.h>

#include "text/tokenizer_private.h"

/* Puts an id at the front or the back of a list. */
static int insert(struct tl_tokenizer *t, int32_t *ids, uint32_t *n, bool front, json_t *id, struct tl_error *err) {
  json_int_t value = json_integer_value(id);
  if (!json_is_integer(id) || value < 0 || value >= t->size)
    return tl_error_set(err, TL_ECORRUPT, NULL, "post_processor: expected ids of tokens");
  if (*n == TOK_MAX_STEPS) return tl_error_set(err, TL_EUNSUPPORTED, NULL, "post_processor: more than %d tokens", TOK_MAX_STEPS);
  if (front) memmove(ids + 1, ids, *n * sizeof *ids);
  ids[front ? 0 : *n] = (int32_t)value;
  ++*n;
  return TL_OK;
}

/* The ids of a template's special token; of a Sequence's processors each one puts its own around
 * what those before it made. */
static int template_ids(struct tl_tokenizer *t, json_t *json, json_t *item, bool after, struct tl_error *err) {
  const char *name = json_string_value(json_object_get(item, "id"));
  json_t *list = json_object_get(json_object_get(json_object_get(json, "special_tokens"), name ? name : ""), "ids");
  if (!json_is_array(list)) return tl_error_set(err, TL_ECORRUPT, NULL, "post_processor.special_tokens: a token of the template is missing");
  size_t n = json_array_size(list);
  int r = TL_OK;
  for (size_t i = 0; r == TL_OK && i < n; i++)
    r = after ? insert(t, t->after, &t->n_after, false, json_array_get(list, i), err)
              : insert(t, t->before, &t->n_before, true, json_array_get(list, n - 1 - i), err);
  return r;
}

static int parse_template(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  json_t *items = json_object_get(json, "single"), *part;
  size_t n = json_array_size(items), text = n;
  for (size_t i = 0; i < n; i++) {
    if (!json_object_get(json_array_get(items, i), "Sequence")) continue;
    if (text < n) return tl_error_set(err, TL_EUNSUPPORTED, NULL, "post_processor.single: the text stands in it more than once");
    text = i;
  }
  if (text == n) return tl_error_set(err, TL_EUNSUPPORTED, NULL, "post_processor.single: the text does not stand in it");
  int r = TL_OK;
  for (size_t i = text; r == TL_OK && i-- > 0;)
    if ((part = json_object_get(json_array_get(items, i), "SpecialToken"))) r = template_ids(t, json, part, false, err);
  for (size_t i = text; r == TL_OK && i < n; i++)
    if ((part = json_object_get(json_array_get(items, i), "SpecialToken"))) r = template_ids(t, json, part, true, err);
  return r;
}

/* "cls": ["[CLS]", 101], "sep" likewise */
static int parse_bert(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  int r = insert(t, t->before, &t->n_before, true, json_array_get(json_object_get(json, "cls"), 1), err);
  return r < 0 ? r : insert(t, t->after, &t->n_after, false, json_array_get(json_object_get(json, "sep"), 1), err);
}

/* trims offsets, which nobody reads here */
static int parse_byte_level(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  (void)t, (void)json, (void)err;
  return TL_OK;
}

static const struct kind {
  const char *type;
  int (*parse)(struct tl_tokenizer *t, json_t *json, struct tl_error *err);
} kinds[] = {
    {"TemplateProcessing", parse_template},
    {"BertProcessing", parse_bert},
    {"RobertaProcessing", parse_bert},
    {"ByteLevel", parse_byte_level},
};

static int parse_one(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (tok_is_type(json, kinds[i].type)) return kinds[i].parse(t, json, err);
  return tok_unsupported("post_processor", json, err);
}

int tok_parse_post_processor(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  return tok_each(t, json, "processors", parse_one, err);
}
