/* SPDX-License-Identifier: MIT */
/* Numbers with minimum, maximum and their exclusive forms. */
#include <math.h>

#include "grammar/grammar_schema.h"

/* Beyond all that is written without an exponent. */
static bool says_nothing(double bound, int sign) {
  return fabs(bound) >= 1e19 && sign * bound < 0;
}

/* Makes the bound the narrower one of both; sign: 1 for the least, -1 for the most. */
static bool narrow(struct sch *s, json_t *schema, const char *keyword, bool exclusive, int sign, bool *has, bool *excluded,
                   struct gr_decimal *bound) {
  json_t *value = json_object_get(schema, keyword);
  struct gr_decimal decimal;
  if (!value || says_nothing(json_number_value(value), sign)) return true;
  if (!gr_decimal_of(value, &decimal)) {
    sch_fail(s, TL_EUNSUPPORTED, "%s: more than 19 digits before or 20 behind the point are not supported", keyword);
    return false;
  }
  int order = *has ? sign * gr_decimal_compare(&decimal, bound) : 1;
  if (order > 0) {
    *bound = decimal;
    *excluded = exclusive;
  } else if (order == 0) {
    *excluded |= exclusive;
  }
  *has = true;
  return true;
}

gr_node sch_number(struct sch *s, json_t *schema, bool integer) {
  struct gr_bounds b = {0};
  if (!narrow(s, schema, "minimum", false, 1, &b.has_least, &b.above_least, &b.least) ||
      !narrow(s, schema, "exclusiveMinimum", true, 1, &b.has_least, &b.above_least, &b.least) ||
      !narrow(s, schema, "maximum", false, -1, &b.has_most, &b.below_most, &b.most) ||
      !narrow(s, schema, "exclusiveMaximum", true, -1, &b.has_most, &b.below_most, &b.most))
    return GR_NONE;
  bool bounded = json_object_get(schema, "minimum") || json_object_get(schema, "exclusiveMinimum") ||
                 json_object_get(schema, "maximum") || json_object_get(schema, "exclusiveMaximum");
  if (!bounded) return integer ? gr_json_integer(s->ir) : gr_json_number(s->ir);
  return integer ? gr_integer_within(s->ir, &b) : gr_number_within(s->ir, &b);
}
