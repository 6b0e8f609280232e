/* SPDX-License-Identifier: MIT */
/* LoRA adapters as PEFT writes them: tensors with names to parts of the plan's records (adapter_modules.c). */
#include "tokenlane/adapter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/adapter_private.h"

/* One adapter while it is read. */
struct reader {
  struct model *m;
  const struct tl_adapter_source *source;
  char config_label[320], weights_label[320]; /* of its files, for messages */
  char prefix[32];                            /* of its tensors' names in the model's table */
  struct adapter_config config;
  uint32_t first_tensor, n_tensors;           /* its own */
  uint32_t number;                            /* among the model's adapters */
  struct tl_adapter_part *parts;              /* (cap) in the model's arena */
  uint32_t n_parts, cap;
  struct tl_error *err;
};

static int bad_tensor(const struct reader *k, const char *name, int code, const char *what) {
  return tl_error_set(k->err, code, "model.adapters", "model.adapters: %.120s: tensor '%.120s': %s", k->weights_label, name, what);
}

/* --- names -------------------------------------------------------------------------------------- */

/* Without "base_model.model.". */
static const char *plain_name(const char *name) {
  static const char begin[] = "base_model.model.";
  return strncmp(name, begin, sizeof begin - 1) == 0 ? name + sizeof begin - 1 : name;
}

/* Cuts `ending` off, too. False: it does not end so. */
static bool module_name(const char *name, const char *ending, char *ret, size_t size) {
  const char *plain = plain_name(name);
  size_t length = strlen(plain), n = strlen(ending);
  if (length < n || strcmp(plain + length - n, ending) != 0 || length - n >= size) return false;
  memcpy(ret, plain, length - n);
  ret[length - n] = 0;
  return true;
}

/* --- parts ----------------------------------------------------------------------------------------- */

static int check_shape(const struct reader *k, const char *name, const struct tl_tensor *t, uint64_t rows, uint64_t columns) {
  char what[160];
  if (t->dtype > TL_DTYPE_BF16) return bad_tensor(k, name, TL_EUNSUPPORTED, "expected BF16, F16 or F32");
  if (t->n_dims == 2 && t->shape[0] == rows && t->shape[1] == columns) return TL_OK;
  snprintf(what, sizeof what, "expected shape %llu x %llu, found %llu x %llu of %u dimensions", (unsigned long long)rows,
           (unsigned long long)columns, (unsigned long long)t->shape[0], (unsigned long long)t->shape[1], t->n_dims);
  return bad_tensor(k, name, TL_ECORRUPT, what);
}

static struct tl_adapter_part *new_part(struct reader *k) {
  if (k->n_parts == k->cap) {
    uint32_t cap = k->cap ? 2 * k->cap : 64;
    struct tl_adapter_part *parts = tl_arena_array(&k->m->arena, cap, sizeof *parts);
    if (!parts) return NULL;
    if (k->n_parts) memcpy(parts, k->parts, k->n_parts * sizeof *parts);
    k->parts = parts;
    k->cap = cap;
  }
  return &k->parts[k->n_parts++];
}

static bool is_of_value_heads(const struct tl_op *op, uint32_t input) {
  return op->kind == TL_OP_DELTA_GATES || (op->kind == TL_OP_DELTA_IN && input == 2);
}

/* A copy of B, or A, whose rows, or columns, are of value heads: in the order of GGUF's, where those of a key head stand as far apart as there
 * are key heads. It stays in memory, but is small. */
static int32_t turn(struct reader *k, int32_t tensor, bool columns) {
  struct model *m = k->m;
  const struct tl_recurrence *c = &m->model.recurrence;
  struct tl_tensor old = m->tensors[tensor], new = old;
  uint64_t own = c->n_value_heads / c->n_key_heads, unit = old.shape[columns] / c->n_value_heads;
  size_t row_bytes = tl_dtype_row_bytes(old.dtype, old.shape[1]), head_bytes = tl_dtype_row_bytes(old.dtype, unit);
  char name[320], *data = tl_arena_alloc(&m->arena, old.shape[0] * row_bytes), *to = data;
  if (!data) return tl_error_set(k->err, TL_ENOMEM, NULL, "out of memory");
  for (uint64_t row = 0; row < old.shape[0]; row++)
    for (uint64_t i = 0; i < (columns ? c->n_value_heads : 1); i++) {
      uint64_t at = columns ? i : row / unit, head = at % c->n_key_heads * own + at / c->n_key_heads;
      const char *from = tl_tensor_row(&old, columns ? row : head * unit + row % unit);
      memcpy(to, columns ? from + head * head_bytes : from, columns ? head_bytes : row_bytes);
      to += columns ? head_bytes : row_bytes;
    }
  snprintf(name, sizeof name, "%.280s (turned)", old.name);
  new.name = name;
  new.run_rows = new.run_step = 0;
  new.data = data;
  new.bytes = old.shape[0] * row_bytes;
  int r = model_add_tensor(m, &new, k->err);
  return r < 0 ? r : (int32_t)m->n_tensors - 1;
}

/* A and B of a module, which are tensors a and b. */
static int add_module(struct reader *k, const struct adapter_target *target, const char *name, int32_t a, int32_t b) {
  struct model *m = k->m;
  const char *a_name = m->tensors[a].name + strlen(k->prefix), *b_name = m->tensors[b].name + strlen(k->prefix);
  uint64_t rank = m->tensors[a].n_dims ? m->tensors[a].shape[0] : 0;
  if (rank < 1 || rank > TL_MAX_ADAPTER_RANK || !adapter_config_has_rank(&k->config, (uint32_t)rank))
    return bad_tensor(k, a_name, TL_ECORRUPT, "its rank is not the one that adapter_config.json says, or above 256");
  int r = check_shape(k, a_name, &m->tensors[a], rank, target->columns);
  if (r == TL_OK) r = check_shape(k, b_name, &m->tensors[b], target->rows, rank);
  if (r == TL_OK && target->turned && m->ops[target->parts[0].record].kind == TL_OP_ATTN_OUT) a = turn(k, a, true);
  if (a < 0) return a;
  for (uint32_t i = 0; r == TL_OK && i < target->n_parts; i++) {
    const struct adapter_target_part *input = &target->parts[i];
    int32_t part_b = input->rows.rows < target->rows ? plan_runs(m, k->err, b, &input->rows) : b;
    if (part_b >= 0 && target->turned && is_of_value_heads(&m->ops[input->record], input->input)) part_b = turn(k, part_b, false);
    if (part_b < 0) return part_b;
    struct tl_adapter_part *part = new_part(k);
    if (!part) return tl_error_set(k->err, TL_ENOMEM, NULL, "out of memory");
    *part = (struct tl_adapter_part){.record = input->record, .input = input->input, .a = a, .b = part_b, .rank = (uint32_t)rank,
                                     .scale = adapter_config_scale(&k->config, name, (uint32_t)rank)};
  }
  return r;
}

/* The module whose A is tensor number `at`; what is no A must be some A's B. */
static int add_tensor(struct reader *k, uint32_t at) {
  static const char a_ending[] = ".lora_A.weight", b_ending[] = ".lora_B.weight";
  struct model *m = k->m;
  const char *name = m->tensors[at].name + strlen(k->prefix);
  char module[300], other[800];
  struct adapter_target target;
  bool is_a = module_name(name, a_ending, module, sizeof module), is_b = !is_a && module_name(name, b_ending, module, sizeof module);
  if (!is_a && !is_b) return bad_tensor(k, name, TL_EUNSUPPORTED, "expected lora_A or lora_B of a product");
  if (!adapter_find_target(m, module, &target)) return bad_tensor(k, name, TL_EUNSUPPORTED, adapter_refusal(m, plain_name(name)));
  snprintf(other, sizeof other, "%s%.*s%s", k->prefix, (int)(strlen(name) - (sizeof a_ending - 1)), name, is_a ? b_ending : a_ending);
  int32_t partner = model_find_tensor(m, other);
  if (partner < 0) return bad_tensor(k, name, TL_ECORRUPT, is_a ? "its lora_B is missing" : "its lora_A is missing");
  return is_a ? add_module(k, &target, module, (int32_t)at, partner) : TL_OK;
}

static int compare_parts(const void *a, const void *b) {
  const struct tl_adapter_part *x = a, *y = b;
  if (x->record != y->record) return x->record < y->record ? -1 : 1;
  return x->input < y->input ? -1 : x->input > y->input;
}

static int order_parts(struct reader *k) {
  if (k->n_parts == 0) return tl_error_set(k->err, TL_ECORRUPT, "model.adapters", "model.adapters: %.200s: has no tensors", k->weights_label);
  qsort(k->parts, k->n_parts, sizeof *k->parts, compare_parts);
  for (uint32_t i = 1; i < k->n_parts; i++)
    if (compare_parts(&k->parts[i - 1], &k->parts[i]) == 0) /* under two names */
      return bad_tensor(k, k->m->tensors[k->parts[i].a].name + strlen(k->prefix), TL_ECORRUPT, "the file has the same product twice");
  return TL_OK;
}

static bool has_part(const struct reader *k, const struct adapter_target_part *input) {
  for (uint32_t i = 0; i < k->n_parts; i++)
    if (k->parts[i].record == input->record && k->parts[i].input == input->input) return true;
  return false;
}

/* Whether the base has what an item of target_modules means, and the adapter nothing for it by any name: lists name products of other
 * models too, or those that are a fused one here, and PEFT lets them be. */
static bool lacks(const struct reader *k, const char *item) {
  struct adapter_target target;
  if (adapter_find_target(k->m, item, &target)) return true;
  for (uint32_t i = 0; adapter_module_name(i); i++) {
    if (!adapter_is_named(k->m, i, item)) continue;
    bool has = false, covered = false;
    for (uint32_t layer = 0; !covered && layer < k->m->model.n_layers; layer++) {
      if (!adapter_module_in(k->m, i, layer, &target)) continue;
      has = true;
      for (uint32_t p = 0; !covered && p < target.n_parts; p++) covered = has_part(k, &target.parts[p]);
    }
    if (has && !covered) return true;
  }
  return false;
}

/* Each item of target_modules must have brought a tensor if it can: a file that was cut, or another adapter's, lacks some. */
static int check_targets(const struct reader *k) {
  json_t *targets = json_object_get(k->config.object, "target_modules"), *item;
  size_t i;
  json_array_foreach(targets, i, item) {
    const char *target = json_string_value(item);
    bool found = false;
    for (uint32_t t = k->first_tensor; !found && t < k->first_tensor + k->n_tensors; t++) {
      char module[300];
      const char *name = k->m->tensors[t].name + strlen(k->prefix);
      found = module_name(name, ".lora_A.weight", module, sizeof module) && adapter_ends_so(module, target);
    }
    if (!found && lacks(k, target))
      return tl_error_set(k->err, TL_ECORRUPT, "model.adapters", "model.adapters: %.120s: target_modules: '%.60s': adapter_model.safetensors has no tensors of it",
                          k->config_label, target);
  }
  return TL_OK;
}

/* --- files ------------------------------------------------------------------------------------------- */

/* What other functions say of a file is about model.path. */
static int rename_field(struct tl_error *err) {
  snprintf(err->field, sizeof err->field, "model.adapters");
  return tl_error_prefix(err, "model.adapters");
}

static int open_weights(struct reader *k) {
  char path[4096];
  struct model *m = k->m;
  bool nested = m->nested, mixers = m->mixers;
  snprintf(path, sizeof path, "%s/adapter_model.safetensors", k->source->folder);
  if (access(path, F_OK) != 0)
    return tl_error_set(k->err, TL_ENOTFOUND, "model.adapters", "model.adapters: %.200s: is missing; only safetensors are read", k->weights_label);
  k->first_tensor = m->n_tensors;
  m->strict = true;
  m->nested = false; /* a tensor of the picture's model must be seen to be refused */
  m->mixers = false; /* and patterns are of the names that the file has */
  int r = model_add_safetensors(m, path, k->weights_label, k->prefix, k->err);
  m->strict = false;
  m->nested = nested;
  m->mixers = mixers;
  k->n_tensors = m->n_tensors - k->first_tensor;
  return r < 0 ? rename_field(k->err) : TL_OK;
}

static int read_adapter(struct reader *k, struct tl_adapter *ret) {
  snprintf(k->config_label, sizeof k->config_label, "%.200s/adapter_config.json", k->source->name);
  snprintf(k->weights_label, sizeof k->weights_label, "%.200s/adapter_model.safetensors", k->source->name);
  snprintf(k->prefix, sizeof k->prefix, "adapter %u: ", k->number);
  int r = adapter_config_read(k->source->folder, k->config_label, &k->config, k->err);
  if (r < 0) return r;
  r = open_weights(k);
  for (uint32_t i = k->first_tensor; r == TL_OK && i < k->first_tensor + k->n_tensors; i++) r = add_tensor(k, i);
  if (r == TL_OK) r = check_targets(k);
  if (r == TL_OK) r = order_parts(k);
  adapter_config_done(&k->config);
  ret->name = tl_arena_copy(&k->m->arena, k->source->name, strlen(k->source->name));
  ret->folder = tl_arena_copy(&k->m->arena, k->source->folder, strlen(k->source->folder));
  ret->parts = k->parts;
  ret->n_parts = k->n_parts;
  return r == TL_OK && (!ret->name || !ret->folder) ? tl_error_set(k->err, TL_ENOMEM, NULL, "out of memory") : r;
}

int tl_model_add_adapters(struct tl_model *model, const struct tl_adapter_source *sources, uint32_t n, struct tl_error *err) {
  struct model *m = (struct model *)model;
  if (n > TL_MAX_ADAPTERS)
    return tl_error_set(err, TL_ELIMIT, "model.adapters", "model.adapters: expected at most %d, got %u", TL_MAX_ADAPTERS, n);
  if (!model->n_ops) return TL_OK; /* read for devices that do not compute: names are all that there is */
  struct tl_adapter *adapters = tl_arena_array(&m->arena, n ? n : 1, sizeof *adapters);
  if (!adapters) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  int r = TL_OK;
  for (uint32_t i = 0; r == TL_OK && i < n; i++) {
    struct reader reader = {.m = m, .source = &sources[i], .number = i, .err = err};
    r = read_adapter(&reader, &adapters[i]);
  }
  model->tensors = m->tensors;
  model->n_tensors = m->n_tensors;
  if (r < 0) return r;
  model->adapters = adapters;
  model->n_adapters = n;
  if ((r = tl_model_check_files(model, err)) < 0) return rename_field(err);
  return TL_OK;
}
