/* SPDX-License-Identifier: MIT */
/* tokenizer.json's pre_tokenizer. */
#include <string.h>

#include "text/split_patterns.h"
#include "text/text_utf8.h"
#include "text/tokenizer_private.h"
#include "text/unicode_class.h"
#include "tokenlane/base/utf8.h"

/* NULL: there are too many. */
static struct tok_pre *new_step(struct tl_tokenizer *t, struct tl_error *err) {
  if (t->n_pres == TOK_MAX_STEPS) {
    tl_error_set(err, TL_EUNSUPPORTED, NULL, "pre_tokenizer: more than %d steps", TOK_MAX_STEPS);
    return NULL;
  }
  struct tok_pre *pre = &t->pres[t->n_pres++]; /* what it holds is freed with the tokenizer */
  *pre = (struct tok_pre){.behaviour = TOK_ISOLATED};
  return pre;
}

static int parse_behaviour(json_t *json, enum tok_behaviour *ret, struct tl_error *err) {
  static const char *const names[] = {"Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"};
  const char *name = json_string_value(json_object_get(json, "behavior"));
  for (unsigned i = 0; name && i < sizeof names / sizeof *names; i++)
    if (strcmp(name, names[i]) == 0) {
      *ret = (enum tok_behaviour)i;
      return TL_OK;
    }
  return tl_error_set(err, TL_ECORRUPT, NULL, "behavior: expected Isolated, Removed, Contiguous, MergedWithPrevious or MergedWithNext");
}

/* A step that splits at characters of a class. */
static int add_class(struct tl_tokenizer *t, bool (*is)(uint32_t), enum tok_behaviour behaviour, struct tl_error *err) {
  struct tok_pre *pre = new_step(t, err);
  if (!pre) return TL_EUNSUPPORTED;
  pre->find = tok_find_class;
  pre->is = is;
  pre->behaviour = behaviour;
  return TL_OK;
}

int tok_add_pattern_step(struct tl_tokenizer *t, const char *pattern, enum tok_behaviour behaviour, struct tl_error *err) {
  struct tok_pre *pre = new_step(t, err);
  if (!pre) return TL_EUNSUPPORTED;
  pre->find = tok_find_pattern;
  pre->behaviour = behaviour;
  return tok_pattern_compile(pattern, strlen(pattern), &pre->pattern, err);
}

/* --- kinds --------------------------------------------------------------------------- */
/* Brings GPT-2's split along. Where this is the last step nothing has to be spelled: the model is given the bytes and
 * its tokens are unspelled instead. parse_one mends it if another step follows. */
static int parse_byte_level(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  t->byte_level = true;
  if (tok_flag(json, "add_prefix_space", true)) {
    struct tok_pre *pre = new_step(t, err);
    if (!pre) return TL_EUNSUPPORTED;
    pre->space = " ";
    pre->space_length = 1;
    pre->prefix = TOK_PREFIX_ALWAYS;
  }
  return tok_flag(json, "use_regex", true) ? tok_add_pattern_step(t, split_gpt2, TOK_ISOLATED, err) : TL_OK;
}

static int parse_prefix(json_t *json, enum tok_prefix *ret, struct tl_error *err) {
  static const struct {
    const char *name;
    enum tok_prefix prefix;
  } schemes[] = {{"never", TOK_PREFIX_NEVER}, {"first", TOK_PREFIX_FIRST}, {"always", TOK_PREFIX_ALWAYS}};
  const char *name = json_string_value(json_object_get(json, "prepend_scheme"));
  bool known = !name;
  *ret = TOK_PREFIX_ALWAYS;
  for (size_t i = 0; !known && i < sizeof schemes / sizeof *schemes; i++) {
    known = strcmp(name, schemes[i].name) == 0;
    if (known) *ret = schemes[i].prefix;
  }
  if (!known) return tl_error_set(err, TL_ECORRUPT, NULL, "Metaspace.prepend_scheme: expected always, first or never");
  /* files of old have only this */
  if (!tok_flag(json, "add_prefix_space", true)) *ret = TOK_PREFIX_NEVER;
  return TL_OK;
}

static int parse_metaspace(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  struct tok_pre *pre = new_step(t, err);
  if (!pre) return TL_EUNSUPPORTED;
  int r = tok_string(t, json, "replacement", &pre->space, &pre->space_length, err);
  if (r == TL_OK) r = parse_prefix(json, &pre->prefix, err);
  if (r < 0) return r;
  uint32_t code;
  if (!pre->space_length || tl_utf8_decode(pre->space, pre->space_length, &code) != pre->space_length)
    return tl_error_set(err, TL_ECORRUPT, NULL, "Metaspace.replacement: expected one character");
  pre->replace_spaces = true;
  if (!tok_flag(json, "split", true)) return TL_OK;
  pre->find = tok_find_literal;
  pre->literal = pre->space;
  pre->literal_length = pre->space_length;
  pre->behaviour = TOK_MERGED_NEXT;
  return TL_OK;
}

static int parse_split(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  struct tok_pre *pre = new_step(t, err);
  if (!pre) return TL_EUNSUPPORTED;
  int r = parse_behaviour(json, &pre->behaviour, err);
  if (r == TL_OK) r = tok_pattern(t, json, &pre->pattern, &pre->literal, &pre->literal_length, err);
  if (r < 0) return r;
  pre->find = pre->pattern ? tok_find_pattern : tok_find_literal;
  pre->invert = tok_flag(json, "invert", false);
  return TL_OK;
}

static int parse_digits(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  return add_class(t, unicode_is_numeric, tok_flag(json, "individual_digits", false) ? TOK_ISOLATED : TOK_CONTIGUOUS, err);
}

static int parse_punctuation(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  enum tok_behaviour behaviour = TOK_ISOLATED;
  int r = json_object_get(json, "behavior") ? parse_behaviour(json, &behaviour, err) : TL_OK;
  return r < 0 ? r : add_class(t, unicode_is_punctuation, behaviour, err);
}

static int parse_bert(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  (void)json;
  int r = add_class(t, text_is_white, TOK_REMOVED, err);
  return r < 0 ? r : add_class(t, unicode_is_punctuation, TOK_ISOLATED, err);
}

static int parse_whitespace_split(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  (void)json;
  return add_class(t, text_is_white, TOK_REMOVED, err);
}

static bool is_no_word(uint32_t code) {
  return !unicode_is_word(code);
}

/* Runs of \w and runs of what is neither \w nor white. */
static int parse_whitespace(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  (void)json;
  int r = add_class(t, text_is_white, TOK_REMOVED, err);
  return r < 0 ? r : add_class(t, is_no_word, TOK_CONTIGUOUS, err);
}

static int parse_delimiter(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  struct tok_pre *pre = new_step(t, err);
  if (!pre) return TL_EUNSUPPORTED;
  int r = tok_string(t, json, "delimiter", &pre->literal, &pre->literal_length, err);
  if (r < 0) return r;
  pre->find = tok_find_literal;
  pre->behaviour = TOK_REMOVED;
  return TL_OK;
}

/* What stands before the first character of a script is dropped, as in the reference. */
static int parse_scripts(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  (void)json;
  struct tok_pre *pre = new_step(t, err);
  if (!pre) return TL_EUNSUPPORTED;
  pre->find = tok_find_script;
  pre->invert = true;
  pre->behaviour = TOK_REMOVED;
  return TL_OK;
}

static int parse_fixed(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  json_t *length = json_object_get(json, "length");
  struct tok_pre *pre = new_step(t, err);
  if (!pre) return TL_EUNSUPPORTED;
  if (!json_is_integer(length) || json_integer_value(length) < 1)
    return tl_error_set(err, TL_ECORRUPT, NULL, "FixedLength.length: expected 1 or more");
  pre->find = tok_find_run;
  pre->run = (size_t)json_integer_value(length);
  return TL_OK;
}

static const struct kind {
  const char *type;
  int (*parse)(struct tl_tokenizer *t, json_t *json, struct tl_error *err);
} kinds[] = {
    {"ByteLevel", parse_byte_level},
    {"Metaspace", parse_metaspace},
    {"Split", parse_split},
    {"Digits", parse_digits},
    {"Punctuation", parse_punctuation},
    {"BertPreTokenizer", parse_bert},
    {"Whitespace", parse_whitespace},
    {"WhitespaceSplit", parse_whitespace_split},
    {"CharDelimiterSplit", parse_delimiter},
    {"UnicodeScripts", parse_scripts},
    {"FixedLength", parse_fixed},
};

int tok_spell_bytes(struct tl_tokenizer *t, struct tl_error *err) {
  struct tok_pre *pre = new_step(t, err);
  if (!pre) return TL_EUNSUPPORTED;
  pre->spell = true;
  t->byte_level = false;
  return TL_OK;
}

static int parse_one(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  /* it was not the last: later steps see GPT-2's spelling (Falcon) */
  if (t->byte_level && tok_spell_bytes(t, err) < 0) return TL_EUNSUPPORTED;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (!tok_is_type(json, kinds[i].type)) continue;
    int r = kinds[i].parse(t, json, err);
    return r < 0 ? tl_error_prefix(err, "pre_tokenizer") : r;
  }
  return tok_unsupported("pre_tokenizer", json, err);
}

int tok_parse_pre_tokenizer(struct tl_tokenizer *t, json_t *json, struct tl_error *err) {
  return tok_each(t, json, "pretokenizers", parse_one, err);
}
