/* SPDX-License-Identifier: MIT */
/* Schemas that are rules, so that they may be used more than once and use themselves; and where a $ref points to. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_schema.h"
#include "tokenlane/base/utf8.h"

#define MAX_LINKS 100 /* $refs that point to $refs */

/* --- pointers: RFC 6901, in a URI's fragment ------------------------------------------------------------ */

static int hex_of(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One step of the pointer, up to the next slash; ret: room for all that is left. false: an escape is wrong. */
static bool read_step(const char **at, char *ret) {
  for (; **at && **at != '/'; ++*at) {
    char c = **at;
    if (c == '%') {
      int high = hex_of((*at)[1]), low = high < 0 ? -1 : hex_of((*at)[2]);
      if (low < 0 || (high | low) == 0) return false;
      c = (char)(high << 4 | low);
      *at += 2;
    }
    if (c != '~') {
      *ret++ = c;
      continue;
    }
    ++*at;
    if (**at != '0' && **at != '1') return false;
    *ret++ = **at == '0' ? '~' : '/';
  }
  *ret = 0;
  return true;
}

static json_t *step_into(json_t *at, const char *step) {
  if (json_is_object(at)) return json_object_get(at, step);
  char *end;
  if (!json_is_array(at) || step[0] < '0' || step[0] > '9' || (step[0] == '0' && step[1])) return NULL;
  unsigned long long index = strtoull(step, &end, 10);
  return *end ? NULL : json_array_get(at, (size_t)index);
}

json_t *sch_resolve(struct sch *s, json_t *ref, char **ret_path) {
  const char *text = json_string_value(ref), *at = text;
  *ret_path = NULL;
  if (text[0] != '#' || (text[1] && text[1] != '/')) {
    sch_fail(s, TL_EUNSUPPORTED, "$ref \"%.*s\" is not supported: only \"#\" and \"#/...\", within the schema, are",
             sch_shown(text, 100), text);
    return NULL;
  }
  char *step = malloc(strlen(text) + 1), *path = malloc(strlen(text) + 2);
  json_t *target = step && path ? s->root : NULL;
  size_t n = 0;
  if (path) n = (size_t)sprintf(path, "$");
  for (at++; target && *at == '/';) {
    at++;
    target = read_step(&at, step) && tl_utf8_valid(step, strlen(step)) ? step_into(target, step) : NULL;
    if (target) n += (size_t)sprintf(path + n, ".%s", step);
  }
  if (!step || !path) sch_fail(s, TL_ENOMEM, "out of memory for the schema");
  else if (!target) sch_fail(s, TL_EINVAL, "$ref \"%.*s\" points to nothing", sch_shown(text, 100), text);
  free(step);
  *ret_path = path;
  return target;
}

/* --- rules ----------------------------------------------------------------------------------------------- */

static struct sch_rule *add_rule(struct sch *s, json_t *schema, const char *address, char *path) {
  if (s->n_rules == s->rules_room) {
    size_t room = s->rules_room ? 2 * s->rules_room : 16;
    struct sch_rule *grown = realloc(s->rules, room * sizeof *grown);
    if (!grown) return NULL;
    s->rules = grown;
    s->rules_room = room;
  }
  if (!path || json_object_set_new(s->rule_of, address, json_integer((json_int_t)s->n_rules)) < 0) return NULL;
  struct sch_rule *rule = &s->rules[s->n_rules++];
  *rule = (struct sch_rule){schema, gr_rule_new(s->ir), path};
  return rule;
}

/* path: of the schema, taken; NULL: the current one. */
gr_node sch_call(struct sch *s, json_t *schema, char *path_taken) {
  char address[32];
  snprintf(address, sizeof address, "%p", (void *)schema);
  json_t *known = json_object_get(s->rule_of, address);
  if (known) {
    free(path_taken);
    return gr_call(s->ir, s->rules[json_integer_value(known)].rule);
  }
  char *path = path_taken ? path_taken : strndup(tl_buffer_string(&s->path), 200);
  const struct sch_rule *rule = add_rule(s, schema, address, path);
  if (!rule) {
    free(path);
    return sch_fail(s, TL_ENOMEM, "out of memory for the schema");
  }
  return gr_call(s->ir, rule->rule);
}

gr_node sch_call_ref(struct sch *s, json_t *ref) {
  char *path = NULL;
  json_t *target = NULL;
  for (int links = 0; ref; links++) {
    free(path);
    if (links == MAX_LINKS) return sch_fail(s, TL_EINVAL, "$ref leads round in a circle, or through too many others");
    target = sch_resolve(s, ref, &path);
    if (!target) break;
    ref = json_is_object(target) && sch_count(target) == 1 ? json_object_get(target, "$ref") : NULL;
    if (ref && !json_is_string(ref)) ref = NULL;
  }
  if (!target) {
    free(path);
    return GR_NONE;
  }
  return sch_call(s, target, path);
}
