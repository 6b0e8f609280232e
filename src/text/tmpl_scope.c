/* SPDX-License-Identifier: MIT */
/* Variables: scopes, assignment, and macros, which see the scope that they
 * were defined in. */
#include <string.h>

#include "tmpl_ast.h"

#define NAMES_PER_STEP 16

struct tmpl_scope *tmpl_scope_new(struct tmpl_render *r, struct tmpl_scope *parent) {
  struct tmpl_scope *scope = tmpl_alloc(r, 1, sizeof *scope);
  if (scope) scope->parent = parent;
  return scope;
}

static struct tmpl_variable *find(const struct tmpl_scope *scope, const struct tmpl_str *name) {
  for (size_t i = 0; i < scope->n; i++)
    if (scope->variables[i].name == name) return &scope->variables[i];
  return NULL;
}

void tmpl_scope_set(struct tmpl_render *r, const struct tmpl_str *name, struct tmpl_value value) {
  struct tmpl_scope *scope = r->scope;
  if (!tmpl_charge(r, 1 + scope->n / NAMES_PER_STEP)) return;
  struct tmpl_variable *variable = find(scope, name);
  if (variable) {
    variable->value = value;
    return;
  }
  if (scope->n == scope->capacity) {
    size_t capacity = scope->capacity ? scope->capacity * 2 : 4;
    struct tmpl_variable *grown = tmpl_alloc(r, capacity, sizeof *grown);
    if (!grown) return;
    if (scope->n) memcpy(grown, scope->variables, scope->n * sizeof *grown);
    scope->variables = grown;
    scope->capacity = capacity;
  }
  scope->variables[scope->n++] = (struct tmpl_variable){name, value};
}

/* The template's own variables, then the caller's, then the functions. A
 * client cannot replace a trusted variable. */
struct tmpl_value tmpl_lookup(struct tmpl_render *r, const struct tmpl_str *name) {
  for (const struct tmpl_scope *scope = r->scope; scope; scope = scope->parent) {
    if (!tmpl_charge(r, 1 + scope->n / NAMES_PER_STEP)) return tmpl_missing();
    const struct tmpl_variable *variable = find(scope, name);
    if (variable) return variable->value;
  }
  json_t *json = json_object_getn(r->trusted, name->bytes, name->length);
  if (json) return tmpl_of_json(r, json, false);
  json = json_object_getn(r->untrusted, name->bytes, name->length);
  if (json) return tmpl_of_json(r, json, true);
  const struct tmpl_builtin *function = tmpl_find_function(name);
  if (function) return (struct tmpl_value){.kind = TMPL_FUNCTION, .function = function};
  return tmpl_undefined_member(r, tmpl_missing(), (struct tmpl_value){.kind = TMPL_STR, .str = name});
}

static void assign_tuple(struct tmpl_render *r, const struct tmpl_nodes *targets, struct tmpl_value value) {
  struct tmpl_iter it;
  struct tmpl_value item;
  size_t n = 0;
  if (!tmpl_iter_init(r, &it, value)) return;
  for (; n < targets->n && tmpl_iter_next(r, &it, &item); n++) tmpl_assign(r, targets->items[n], item);
  if (r->code) return;
  if (n < targets->n) {
    tmpl_fail(r, TL_EINVAL, "not enough values to unpack (expected %zu, got %zu)", targets->n, n);
  } else if (tmpl_iter_next(r, &it, &item)) {
    tmpl_fail(r, TL_EINVAL, "too many values to unpack (expected %zu)", targets->n);
  }
}

static void assign_member(struct tmpl_render *r, const struct tmpl_node *target, struct tmpl_value value) {
  const struct tmpl_str *name = target->attribute.name;
  struct tmpl_value ns = tmpl_lookup(r, target->attribute.of->name);
  if (r->code) return;
  if (ns.kind != TMPL_NAMESPACE) {
    tmpl_fail(r, TL_EINVAL, "cannot assign attribute on non-namespace object");
  } else if (name->bytes[0] == '_') {
    tmpl_fail(r, TL_EINVAL, "cannot store underscore-prefixed attributes on a namespace");
  } else {
    tmpl_dict_set(r, ns.dict, (struct tmpl_value){.kind = TMPL_STR, .str = name}, value);
  }
}

void tmpl_assign(struct tmpl_render *r, const struct tmpl_node *target, struct tmpl_value value) {
  if (r->code) return;
  switch (target->kind) {
    case TMPL_N_NAME:
      tmpl_scope_set(r, target->name, value);
      break;
    case TMPL_N_NS_MEMBER:
      assign_member(r, target, value);
      break;
    default:
      assign_tuple(r, &target->items, value);
  }
}

/* --- macros -------------------------------------------------------------------------------- */
struct tmpl_value tmpl_macro_new(struct tmpl_render *r, const struct tmpl_macro_def *def) {
  struct tmpl_macro *macro = tmpl_alloc(r, 1, sizeof *macro);
  if (!macro) return tmpl_missing();
  *macro = (struct tmpl_macro){def, r->scope};
  for (struct tmpl_scope *scope = r->scope; scope && !scope->captured; scope = scope->parent)
    scope->captured = true;
  return (struct tmpl_value){.kind = TMPL_MACRO, .macro = macro};
}

static bool names_equal(const struct tmpl_str *a, const struct tmpl_str *b) {
  return a == b || (a->length == b->length && memcmp(a->bytes, b->bytes, a->length) == 0);
}

static const struct tmpl_named *find_named(const struct tmpl_args *args, const struct tmpl_str *name) {
  for (size_t i = 0; i < args->n_named; i++)
    if (names_equal(args->named[i].name, name)) return &args->named[i];
  return NULL;
}

static void bind_params(struct tmpl_render *r, const struct tmpl_macro_def *def,
                        const struct tmpl_args *args) {
  for (size_t i = 0; i < def->n_params && tmpl_charge(r, 1 + args->n_named); i++) {
    const struct tmpl_param *param = &def->params[i];
    const struct tmpl_named *named = find_named(args, param->name);
    struct tmpl_value value;
    if (i < args->n) {
      value = args->items[i];
      if (named) tmpl_fail(r, TL_EINVAL, "macro got two values for argument '%.80s'", param->name->bytes);
    } else if (named) {
      value = named->value;
    } else if (param->otherwise) {
      value = tmpl_eval(r, param->otherwise);
    } else {
      value =
          tmpl_undefined_member(r, tmpl_missing(), (struct tmpl_value){.kind = TMPL_STR, .str = param->name});
    }
    if (!r->code) tmpl_scope_set(r, param->name, value);
  }
}

static bool is_param(const struct tmpl_macro_def *def, const struct tmpl_str *name) {
  for (size_t i = 0; i < def->n_params; i++)
    if (names_equal(def->params[i].name, name)) return true;
  return false;
}

/* caller, kwargs and varargs, if the macro reads them; else extras are wrong. */
static void bind_extras(struct tmpl_render *r, const struct tmpl_macro_def *def,
                        const struct tmpl_args *args) {
  const struct tl_template *t = r->tmpl;
  struct tmpl_value kwargs = tmpl_dict_new(r);
  bool caller = false;
  for (size_t i = 0; i < args->n_named && tmpl_charge(r, 1 + def->n_params); i++) {
    const struct tmpl_named *named = &args->named[i];
    if (is_param(def, named->name)) continue;
    if (def->uses_caller && names_equal(named->name, t->caller)) {
      tmpl_scope_set(r, t->caller, named->value);
      caller = true;
    } else if (def->uses_kwargs) {
      tmpl_dict_set(r, kwargs.dict, (struct tmpl_value){.kind = TMPL_STR, .str = named->name}, named->value);
    } else {
      tmpl_fail(r, TL_EINVAL, "macro '%.80s' takes no keyword argument '%.80s'", def->name->bytes,
                named->name->bytes);
    }
  }
  if (r->code) return;
  if (def->uses_caller && !caller && !is_param(def, t->caller))
    tmpl_scope_set(r, t->caller, tmpl_undefined_hint(r, "No caller defined"));
  if (def->uses_kwargs) tmpl_scope_set(r, t->kwargs, kwargs);
  if (def->uses_varargs) {
    struct tmpl_builder rest = {0};
    for (size_t i = def->n_params; i < args->n && !r->code; i++) tmpl_push(r, &rest, args->items[i]);
    tmpl_scope_set(r, t->varargs, tmpl_build(r, &rest, TMPL_TUPLE));
  } else if (args->n > def->n_params) {
    tmpl_fail(r, TL_EINVAL, "macro '%.80s' takes not more than %zu argument(s)", def->name->bytes,
              def->n_params);
  }
}

struct tmpl_value tmpl_call_macro(struct tmpl_render *r, const struct tmpl_macro *macro,
                                  const struct tmpl_args *args) {
  struct tmpl_scope *scope = r->scope;
  struct tmpl_value result = {0};
  if (tmpl_enter(r) && (r->scope = tmpl_scope_new(r, macro->scope))) {
    bind_extras(r, macro->def, args);
    bind_params(r, macro->def, args);
    if (!r->code) result = tmpl_run_to_value(r, &macro->def->body, &(enum tmpl_flow){0});
  }
  r->scope = scope;
  tmpl_leave(r);
  return result;
}
