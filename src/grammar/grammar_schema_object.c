/* SPDX-License-Identifier: MIT */
/* Objects. Members come in the schema's order, so that which may lack is a matter of commas. Let a, c be optional and R required:
 *
 *   (a ,)? R (, c)?          one that is required holds the commas of all others
 *
 * With none that is required a list of one or more out of a row is, by halves, S(row) = S(left) (, S(right))? | S(right): with rules for
 * the larger halves that takes as many of them as there are members, and no text can be read in two ways. Long runs of optional members are such
 * lists, too: each state would have a way to all that follow. */
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_schema.h"

#define RUN 16  /* optional members in a row that are not a list of their own */
#define HALF 16 /* members of a list that is written out: 3^4 times one, but a matcher has to follow one rule less for each */

struct member {
  const char *name;
  json_t *schema; /* NULL: any value */
  bool required;
  bool is_rule;
  gr_rule rule;   /* its value, if it is needed more than once */
};

struct object {
  struct sch *s;
  json_t *schema;
  struct member *members; /* owned */
  size_t n, n_required;
  bool has_others;        /* members of other names */
  gr_rule other;          /* one of them */
};

/* --- which there are ------------------------------------------------------------------------------------- */

static bool gather_members(struct object *o) {
  json_t *named = json_object_get(o->schema, "properties"), *required = json_object_get(o->schema, "required"), *value, *name;
  o->members = calloc(json_object_size(named) + json_array_size(required) + 1, sizeof *o->members);
  json_t *at = json_object(); /* a name to its number */
  bool good = o->members && at;
  const char *key;
  size_t i;
  if (good) {
    json_object_foreach(named, key, value) {
      o->members[o->n] = (struct member){.name = key, .schema = value};
      if (json_object_set_new(at, key, json_integer((json_int_t)o->n++)) < 0) good = false;
    }
  }
  if (good) {
    json_array_foreach(required, i, name) {
      key = json_string_value(name);
      json_t *known = json_object_get(at, key);
      struct member *member = &o->members[known ? (size_t)json_integer_value(known) : o->n];
      if (!known) {
        *member = (struct member){.name = key, .schema = json_object_get(o->schema, "additionalProperties")};
        if (json_object_set_new(at, key, json_integer((json_int_t)o->n++)) < 0) good = false;
      }
      o->n_required += !member->required;
      member->required = true;
    }
  }
  json_decref(at);
  if (!good) sch_fail(o->s, TL_ENOMEM, "out of memory for the schema");
  return good;
}

/* A member that can have no value is left out; false: it is required. */
static bool drop_impossible(struct object *o) {
  size_t kept = 0;
  for (size_t i = 0; i < o->n; i++) {
    if (!json_is_false(o->members[i].schema)) o->members[kept++] = o->members[i];
    else if (o->members[i].required) return false;
  }
  o->n = kept;
  return true;
}

/* --- one member --------------------------------------------------------------------------------------------- */

static gr_node read_value(struct object *o, const struct member *m) {
  if (!m->schema) return gr_json_any_value(o->s->ir, &o->s->any);
  return sch_read_at(o->s, m->schema, ".properties.", m->name);
}

static gr_node with_key(struct gr_ir *ir, gr_node key, gr_node value) {
  return gr_seq(ir, gr_seq(ir, gr_json_quoted(ir, key), gr_text(ir, ":")), gr_seq(ir, gr_json_space(ir), value));
}

static gr_node write_member(struct object *o, struct member *m) {
  struct gr_ir *ir = o->s->ir;
  if (o->s->code || gr_failed(ir)) return GR_NONE;
  gr_node value = m->is_rule ? gr_call(ir, m->rule) : read_value(o, m);
  return with_key(ir, gr_json_spelled(ir, m->name, strlen(m->name)), value);
}

static gr_node behind_comma(struct gr_ir *ir, gr_node what) {
  return gr_seq(ir, gr_json_comma(ir), what);
}

static gr_node before_comma(struct gr_ir *ir, gr_node what) {
  return gr_seq(ir, what, gr_json_comma(ir));
}

/* --- lists of optional members -------------------------------------------------------------------------------- */

static gr_node some_of(struct object *o, struct member *m, size_t n);

/* Before it is written more than once. */
static void make_values_rules(struct object *o, struct member *m, size_t n) {
  for (size_t i = 0; i < n; i++) {
    m[i].is_rule = true;
    m[i].rule = gr_rule_of(o->s->ir, read_value(o, &m[i]));
  }
}

/* left (, right)? | right; twice right. */
static gr_node join_halves(struct gr_ir *ir, gr_node left, gr_node right, gr_node right_again) {
  return gr_alt(ir, gr_seq(ir, left, gr_maybe(ir, behind_comma(ir, right))), right_again);
}

/* One or more of n members. Their values are rules, unless there is only one. */
static gr_node some_of(struct object *o, struct member *m, size_t n) {
  struct gr_ir *ir = o->s->ir;
  if (o->s->code || gr_failed(ir)) return GR_NONE;
  if (n == 1) return write_member(o, m);
  size_t half = n / 2;
  if (n <= HALF) {
    gr_node left = some_of(o, m, half), right = some_of(o, m + half, n - half);
    return join_halves(ir, left, right, some_of(o, m + half, n - half));
  }
  gr_rule left = gr_rule_of(ir, some_of(o, m, half)), right = gr_rule_of(ir, some_of(o, m + half, n - half));
  return join_halves(ir, gr_call(ir, left), gr_call(ir, right), gr_call(ir, right));
}

static gr_node list_of(struct object *o, struct member *m, size_t n) {
  if (n > 1) make_values_rules(o, m, n);
  return some_of(o, m, n);
}

/* --- all members ----------------------------------------------------------------------------------------------- */

/* Optional members in a row, each with its comma; comma: behind_comma or before_comma. */
static void push_run(struct object *o, struct gr_list *row, struct member *m, size_t n, gr_node (*comma)(struct gr_ir *, gr_node)) {
  struct gr_ir *ir = o->s->ir;
  if (n > RUN) {
    gr_list_push(row, gr_maybe(ir, comma(ir, list_of(o, m, n))));
    return;
  }
  for (size_t i = 0; i < n; i++) gr_list_push(row, gr_maybe(ir, comma(ir, write_member(o, &m[i]))));
}

/* Members of other names, each behind a comma. */
static gr_node more_others(struct object *o, uint32_t max) {
  struct gr_ir *ir = o->s->ir;
  return o->has_others ? gr_repeat(ir, behind_comma(ir, gr_call(ir, o->other)), 0, max) : gr_empty(ir);
}

static gr_node with_required(struct object *o) {
  struct gr_ir *ir = o->s->ir;
  struct gr_list row = {0};
  bool had_required = false;
  for (size_t i = 0; i < o->n;) {
    struct member *m = &o->members[i];
    if (m->required) {
      gr_node written = write_member(o, m);
      gr_list_push(&row, had_required ? behind_comma(ir, written) : written);
      had_required = true;
      i++;
      continue;
    }
    size_t n = 1;
    while (i + n < o->n && !m[n].required) n++;
    push_run(o, &row, m, n, had_required ? behind_comma : before_comma);
    i += n;
  }
  gr_list_push(&row, more_others(o, GR_MANY));
  return gr_list_row(ir, &row);
}

/* One or more members, none of which is required. max: of those of other names, when there are no others. */
static gr_node without_required(struct object *o, uint32_t max) {
  struct gr_ir *ir = o->s->ir;
  gr_node some = gr_nothing(ir);
  if (o->n) some = gr_seq(ir, list_of(o, o->members, o->n), more_others(o, GR_MANY));
  if (!o->has_others || max == 0) return some;
  return gr_alt(ir, some, gr_seq(ir, gr_call(ir, o->other), more_others(o, max == GR_MANY ? max : max - 1)));
}

/* --- members of other names -------------------------------------------------------------------------------------- */

static gr_node key_by_pattern(struct object *o, const char *pattern) {
  struct tl_error why = {0};
  gr_node key;
  int r = gr_regex(o->s->ir, pattern, strlen(pattern), GR_REGEX_IN_STRING, 0, GR_MANY, o->s->field, &key, &why);
  return r < 0 ? sch_fail(o->s, r, "patternProperties: %s", why.message) : key;
}

/* The single one of patternProperties, where nothing else is said of names. */
static void others_by_pattern(struct object *o, json_t *patterns, bool alone) {
  struct sch *s = o->s;
  const char *pattern = json_object_iter_key(json_object_iter(patterns));
  if (json_object_size(patterns) > 1 || !alone) {
    sch_fail(s, TL_EUNSUPPORTED, "patternProperties is supported only with one pattern and no other names");
    return;
  }
  gr_node value = sch_read_at(s, json_object_get(patterns, pattern), ".patternProperties.", pattern);
  o->has_others = true;
  o->other = gr_rule_of(s->ir, with_key(s->ir, key_by_pattern(o, pattern), value));
}

/* Keys as propertyNames has them: strings, quotes and all. */
static gr_node key_by_schema(struct object *o, json_t *names) {
  json_t *text = sch_keep(o->s, json_pack("{s:[O,{s:s}]}", "allOf", names, "type", "string"));
  return text ? sch_read_at(o->s, text, ".propertyNames", NULL) : GR_NONE;
}

static gr_node other_key(struct object *o) {
  const char **names = malloc((o->n + 1) * sizeof *names);
  if (!names) return sch_fail(o->s, TL_ENOMEM, "out of memory for the schema");
  for (size_t i = 0; i < o->n; i++) names[i] = o->members[i].name;
  gr_node key = sch_other_keys(o->s, names, o->n);
  free(names);
  return gr_json_quoted(o->s->ir, key);
}

/* Before impossible members are left out: their names are not others. */
static void read_others(struct object *o) {
  struct sch *s = o->s;
  json_t *more = json_object_get(o->schema, "additionalProperties"), *names = json_object_get(o->schema, "propertyNames");
  json_t *patterns = json_object_get(o->schema, "patternProperties");
  if (json_is_true(names) || (json_is_object(names) && !sch_count(names))) names = NULL;
  if (json_object_size(patterns)) {
    others_by_pattern(o, patterns, o->n == 0 && !names && (!more || json_is_false(more)));
    return;
  }
  if (names && o->n) {
    sch_fail(s, TL_EUNSUPPORTED, "propertyNames beside properties or required is not supported");
    return;
  }
  if (json_is_false(more) || json_is_false(names) || (!more && json_object_get(o->schema, "properties"))) return;
  gr_node value = more ? sch_read_at(s, more, ".additionalProperties", NULL) : gr_json_any_value(s->ir, &s->any);
  gr_node key = names ? key_by_schema(o, names) : other_key(o);
  o->has_others = true;
  o->other = gr_rule_of(s->ir, gr_seq(s->ir, gr_seq(s->ir, key, gr_text(s->ir, ":")), gr_seq(s->ir, gr_json_space(s->ir), value)));
}

/* --- how many ----------------------------------------------------------------------------------------------------- */

/* minProperties and maxProperties, where they say nothing or can be counted; a key may be written twice, so others are at most so many. */
static bool counts_fit(struct object *o, uint32_t min, uint32_t max) {
  bool min_fits = min <= o->n_required || min == 1, max_fits = o->n == 0 || (!o->has_others && max >= o->n);
  if (min_fits && (max == GR_MANY || max_fits)) return true;
  sch_fail(o->s, TL_EUNSUPPORTED, "%s of these members is not supported", min_fits ? "maxProperties" : "minProperties");
  return false;
}

static gr_node read_object(struct object *o) {
  struct gr_ir *ir = o->s->ir;
  uint32_t min = sch_limit(o->schema, "minProperties", 0), max = sch_limit(o->schema, "maxProperties", GR_MANY);
  if (!gather_members(o)) return GR_NONE;
  read_others(o);
  if (o->s->code || !counts_fit(o, min, max)) return GR_NONE;
  if (!drop_impossible(o)) return gr_nothing(ir);
  if (o->n_required) return gr_json_braces(ir, "{", with_required(o), false, "}");
  return gr_json_braces(ir, "{", without_required(o, max), min == 0, "}");
}

gr_node sch_object(struct sch *s, json_t *schema) {
  static const char *const spoken[] = {"properties", "required", "additionalProperties", "patternProperties", "propertyNames",
                                       "minProperties", "maxProperties"};
  bool any = true;
  for (size_t i = 0; i < sizeof spoken / sizeof *spoken; i++) any = any && !json_object_get(schema, spoken[i]);
  if (any) return gr_json_any_object(s->ir, &s->any);
  struct object o = {.s = s, .schema = schema};
  gr_node node = read_object(&o);
  free(o.members);
  return node;
}
