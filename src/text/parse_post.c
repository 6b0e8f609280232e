/* SPDX-License-Identifier: MIT */
/* tokenizer.json's post_processor, ids before and after a text, and how two are joined. */
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

/* One member of `pair`. What cannot be followed leaves the tokenizer without pairs, which few models need. */
static int template_part(struct tl_tokenizer *t, json_t *json, json_t *item, struct tl_error *err) {
  json_t *text = json_object_get(item, "Sequence"), *token = json_object_get(item, "SpecialToken");
  json_t *type = json_object_get(text ? text : token, "type_id"), *id;
  json_int_t type_id = type ? json_integer_value(type) : 0;
  const char *name = json_string_value(json_object_get(text ? text : token, "id"));
  if (!name || type_id < 0 || type_id > 255) return TL_EUNSUPPORTED;
  bool second = strcmp(name, "B") == 0;
  if (text && !second && strcmp(name, "A") != 0) return TL_EUNSUPPORTED;
  if (text) return tok_joint_add(t, second ? TOK_JOINT_SECOND : TOK_JOINT_FIRST, 0, (uint8_t)type_id);
  json_t *ids = json_object_get(json_object_get(json_object_get(json, "special_tokens"), name), "ids");
  size_t i;
  int r = json_is_array(ids) ? TL_OK : TL_EUNSUPPORTED;
  json_array_foreach(ids, i, id) {
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= t->size)
      return tl_error_set(err, TL_ECORRUPT, NULL, "post_processor: expected ids of tokens");
    if (r == TL_OK) r = tok_joint_add(t, TOK_JOINT_ID, (int32_t)json_integer_value(id), (uint8_t)type_id);
  }
  return r;
}

/* Of a Sequence's processors only one may say how texts are joined. */
static bool begin_joint(struct tl_tokenizer *t) {
  bool first = t->joint.n == 0;
  if (!first) t->joint.n = TOK_NO_JOINT;
  return first;
}

static int parse_pair_template(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  json_t *items = json_object_get(json, "pair"), *item;
  size_t i, n[3] = {0};
  if (!begin_joint(t)) return TL_OK;
  json_array_foreach(items, i, item) {
    int r = template_part(t, json, item, err);
    if (r == TL_ECORRUPT) return r;
    if (r < 0) n[TOK_JOINT_FIRST] = 2;
  }
  for (i = 0; i < t->joint.n; i++) n[t->joint.parts[i].kind]++;
  if (n[TOK_JOINT_FIRST] != 1 || n[TOK_JOINT_SECOND] != 1) t->joint.n = TOK_NO_JOINT;
  return TL_OK;
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
  return r < 0 ? r : parse_pair_template(t, json, err);
}

/* "cls": ["[CLS]", 101], "sep" likewise */
static int parse_bert(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  json_t *cls = json_array_get(json_object_get(json, "cls"), 1), *sep = json_array_get(json_object_get(json, "sep"), 1);
  int r = insert(t, t->before, &t->n_before, true, cls, err);
  if (r == TL_OK) r = insert(t, t->after, &t->n_after, false, sep, err);
  if (r < 0 || !begin_joint(t)) return r;
  tok_join_bert(t, (int32_t)json_integer_value(cls), (int32_t)json_integer_value(sep));
  return TL_OK;
}

/* As Bert's, but with two separators between the texts, and all of one type. */
static int parse_roberta(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  int r = parse_bert(t, json, err);
  if (r < 0 || t->joint.n == TOK_NO_JOINT) return r;
  int32_t sep = t->joint.parts[2].id;
  struct tok_joint_part *parts = t->joint.parts;
  parts[3] = (struct tok_joint_part){TOK_JOINT_ID, sep, 0};
  parts[4] = (struct tok_joint_part){TOK_JOINT_SECOND, 0, 0};
  parts[5] = (struct tok_joint_part){TOK_JOINT_ID, sep, 0};
  t->joint.n = 6;
  return TL_OK;
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
    {"RobertaProcessing", parse_roberta},
    {"ByteLevel", parse_byte_level},
};

static int parse_one(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (tok_is_type(json, kinds[i].type)) return kinds[i].parse(t, json, err);
  return tok_unsupported("post_processor", json, err);
}

int tok_parse_post_processor(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  int r = tok_each(t, json, "processors", parse_one, err);
  if (r == TL_OK && t->joint.n == 0) tok_join_plain(t);
  return r;
}
