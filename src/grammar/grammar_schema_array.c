/* SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "grammar/grammar_schema.h"

struct array {
  json_t *first, *items; /* prefixItems and items, or NULL */
  size_t n_first;
  uint32_t min, max;
};

/* min to max more items, each behind a comma. */
static gr_node more_items(struct sch *s, gr_rule item, uint32_t min, uint32_t max) {
  return gr_repeat(s->ir, gr_seq(s->ir, gr_json_comma(s->ir), gr_call(s->ir, item)), min, max);
}

static gr_rule item_rule(struct sch *s, const struct array *a) {
  return gr_rule_of(s->ir, a->items ? sch_read_at(s, a->items, ".items", NULL) : gr_json_any_value(s->ir, &s->any));
}

/* All items are alike. */
static gr_node read_list(struct sch *s, const struct array *a) {
  if (a->max == 1) {
    gr_node only = a->items ? sch_read_at(s, a->items, ".items", NULL) : gr_json_any_value(s->ir, &s->any);
    return gr_json_braces(s->ir, "[", only, a->min == 0, "]");
  }
  gr_rule item = item_rule(s, a);
  gr_node more = more_items(s, item, a->min > 1 ? a->min - 1 : 0, a->max == GR_MANY ? GR_MANY : a->max - 1);
  return gr_json_braces(s->ir, "[", gr_seq(s->ir, gr_call(s->ir, item), more), a->min == 0, "]");
}

/* From the last one to the first: each of those that may lack holds all behind it. */
static gr_node read_tuple(struct sch *s, const struct array *a) {
  char step[40];
  gr_node rest = gr_empty(s->ir);
  uint32_t n = (uint32_t)a->n_first;
  if (a->items && !json_is_false(a->items) && a->max > n)
    rest = more_items(s, item_rule(s, a), a->min > n ? a->min - n : 0, a->max == GR_MANY ? GR_MANY : a->max - n);
  else if (a->min > n)
    return gr_nothing(s->ir);
  for (size_t i = n; i-- > 0;) {
    if (i >= a->max) continue;
    snprintf(step, sizeof step, ".prefixItems[%zu]", i);
    gr_node item = sch_read_at(s, json_array_get(a->first, i), step, NULL);
    if (i == 0) return gr_json_braces(s->ir, "[", gr_seq(s->ir, item, rest), a->min == 0, "]");
    rest = gr_seq(s->ir, gr_seq(s->ir, gr_json_comma(s->ir), item), rest);
    if (i >= a->min) rest = gr_maybe(s->ir, rest);
  }
  return rest;
}

gr_node sch_array(struct sch *s, json_t *schema) {
  struct array a = {
      .first = json_object_get(schema, "prefixItems"),
      .items = json_object_get(schema, "items"),
      .min = sch_limit(schema, "minItems", 0),
      .max = sch_limit(schema, "maxItems", GR_MANY),
  };
  a.n_first = json_array_size(a.first);
  if (a.min > a.max) return gr_nothing(s->ir);
  if (a.max == 0 || (!a.first && json_is_false(a.items)))
    return a.min ? gr_nothing(s->ir) : gr_seq(s->ir, gr_text(s->ir, "["), gr_seq(s->ir, gr_json_space(s->ir), gr_text(s->ir, "]")));
  if (a.first) return read_tuple(s, &a);
  if (!a.items && a.min == 0 && a.max == GR_MANY) return gr_json_any_array(s->ir, &s->any);
  return read_list(s, &a);
}
