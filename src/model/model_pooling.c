/* SPDX-License-Identifier: MIT */
/* What sentence-transformers writes beside an embedder's config.json: modules.json and the folders that it names. */
#include <stdio.h>
#include <string.h>

#include "model/model_private.h"

static int bad(struct tl_error *err, int code, const char *file, const char *what) {
  return tl_error_set(err, code, "model.path", "%.200s: %s", file, what);
}

/* modules.json names folders; they are the model's own. */
static bool is_name(const char *path) {
  return path && *path && strlen(path) < 64 && !strchr(path, '/') && !strstr(path, "..");
}

static const struct {
  const char *flag, *mode;
  enum tl_pooling kind;
} kinds[] = {{"pooling_mode_cls_token", "cls", TL_POOL_FIRST},
             {"pooling_mode_max_tokens", "max", TL_POOL_MAX},
             {"pooling_mode_mean_tokens", "mean", TL_POOL_MEAN},
             {"pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", TL_POOL_MEAN_SQRT},
             {"pooling_mode_weightedmean_tokens", "weightedmean", TL_POOL_WEIGHTED},
             {"pooling_mode_lasttoken", "lasttoken", TL_POOL_LAST}};

static int several(const char *file, const char *one, const char *other, struct tl_error *err) {
  return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "%.200s: %.60s and %.60s: several vectors, one behind the other, are not supported",
                      file, one, other);
}

/* pooling_mode: a name or a list of one. */
static int read_mode(json_t *mode, const char *file, struct hf_pooling *p, struct tl_error *err) {
  const char *name = json_string_value(mode), *next = json_string_value(json_array_get(mode, 1));
  if (json_is_array(mode)) name = json_string_value(json_array_get(mode, 0));
  if (name && next) return several(file, name, next, err);
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (name && json_array_size(mode) < 2 && strcmp(name, kinds[i].mode) == 0) p->kind = kinds[i].kind;
  if (p->kind != TL_POOL_NONE) return TL_OK;
  return tl_error_set(err, TL_EUNSUPPORTED, "model.path",
                      "%.200s: pooling_mode: expected cls, max, mean, mean_sqrt_len_tokens, weightedmean or lasttoken, got '%.60s'", file,
                      name ? name : "");
}

/* 1_Pooling/config.json: pooling_mode says which, or one of several flags is set. */
static int read_pooling(json_t *object, const char *file, const struct hf_config *c, struct hf_pooling *p, struct tl_error *err) {
  json_t *size = json_object_get(object, "word_embedding_dimension"), *value;
  if (!size) size = json_object_get(object, "embedding_dimension");
  if (size && json_integer_value(size) != c->hidden_size)
    return bad(err, TL_ECORRUPT, file, "word_embedding_dimension: expected hidden_size of config.json");
  json_t *mode = json_object_get(object, "pooling_mode");
  if (mode && !json_is_null(mode)) return read_mode(mode, file, p, err);
  const char *key, *set = NULL;
  json_object_foreach(object, key, value) {
    if (strncmp(key, "pooling_mode_", 13) != 0 || !json_is_true(value)) continue;
    if (set) return several(file, set, key, err);
    set = key;
  }
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (set && strcmp(set, kinds[i].flag) == 0) p->kind = kinds[i].kind;
  if (p->kind != TL_POOL_NONE) return TL_OK;
  if (set) return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "%.200s: %.60s: is not known", file, set);
  return bad(err, TL_EUNSUPPORTED, file, "expected pooling_mode, or one of pooling_mode_cls_token, pooling_mode_mean_tokens and the like to be true");
}

/* A key that may be absent or null, or must be what Dense has when it does not say. */
static bool is_plain(json_t *object, const char *key) {
  json_t *value = json_object_get(object, key);
  return !value || json_is_null(value) || json_is_false(value) || (json_is_string(value) && strcmp(json_string_value(value), "sentence_embedding") == 0);
}

static int read_dense(json_t *object, const char *file, const char *folder, const struct hf_config *c, struct hf_pooling *p, struct tl_error *err) {
  static const char *const others[] = {"use_residual", "module_input_name", "module_output_name"};
  json_int_t in = json_integer_value(json_object_get(object, "in_features")), out = json_integer_value(json_object_get(object, "out_features"));
  json_t *act = json_object_get(object, "activation_function");
  const char *name = act ? json_string_value(act) : "Tanh"; /* as Dense has it */
  if (p->n_dense == MODEL_MAX_DENSE)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "%.200s: more than %d dense layers are not supported", file, MODEL_MAX_DENSE);
  int64_t before = p->n_dense ? p->dense[p->n_dense - 1].n_out : c->hidden_size;
  if (in != before || out < 1 || out > MODEL_MAX_DIM)
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%.200s: in_features, out_features: expected %lld, which come in, and a size", file,
                        (long long)before);
  for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    if (!is_plain(object, others[i]))
      return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "%.200s: %s: is not supported", file, others[i]);
  struct hf_dense *d = &p->dense[p->n_dense++];
  *d = (struct hf_dense){.n_out = out, .is_tanh = name && strstr(name, "Tanh")};
  snprintf(d->folder, sizeof d->folder, "%s", folder);
  if (name && !d->is_tanh && !strstr(name, "Identity"))
    return bad(err, TL_EUNSUPPORTED, file, "activation_function: expected Tanh or Identity");
  return TL_OK;
}

static int read_module(const char *folder, json_t *module, const struct hf_config *c, struct hf_pooling *p, struct tl_error *err) {
  const char *type = json_string_value(json_object_get(module, "type")), *path = json_string_value(json_object_get(module, "path"));
  const char *kind = type && strrchr(type, '.') ? strrchr(type, '.') + 1 : "";
  char file[96];
  if (strcmp(kind, "Transformer") == 0)
    return path && *path ? bad(err, TL_EUNSUPPORTED, "modules.json", "a Transformer in a folder of its own is not supported") : TL_OK;
  if (strcmp(kind, "Normalize") == 0) {
    p->normalize = true;
    return TL_OK;
  }
  bool dense = strcmp(kind, "Dense") == 0;
  if (!dense && strcmp(kind, "Pooling") != 0)
    return bad(err, TL_EUNSUPPORTED, "modules.json", "type: expected Transformer, Pooling, Dense or Normalize");
  /* one that comes before another is not what it is behind it */
  if (p->normalize || dense != (p->kind != TL_POOL_NONE))
    return bad(err, TL_EUNSUPPORTED, "modules.json", "expected Pooling, Dense and Normalize in this order");
  if (!is_name(path)) return bad(err, TL_ECORRUPT, "modules.json", "path: expected the name of a folder");
  snprintf(file, sizeof file, "%s/config.json", path);
  json_t *object = hf_load_object(folder, file, true, err);
  if (!object) return TL_ECORRUPT;
  int r = dense ? read_dense(object, file, path, c, p, err) : read_pooling(object, file, c, p, err);
  json_decref(object);
  return r;
}

int model_read_pooling(const char *folder, const struct hf_config *c, struct hf_pooling *ret, struct tl_error *err) {
  char path[4096];
  json_error_t json_error;
  *ret = (struct hf_pooling){0};
  snprintf(path, sizeof path, "%s/modules.json", folder);
  json_t *modules = tl_json_load_file(path, 0, &json_error), *module;
  if (!modules && json_error_code(&json_error) == json_error_cannot_open_file) return TL_OK;
  if (tl_json_is_short(modules, &json_error, err)) return TL_ENOMEM;
  int r = json_is_array(modules) ? TL_OK : bad(err, TL_ECORRUPT, "modules.json", "expected a list of modules");
  size_t i;
  json_array_foreach(modules, i, module) if (r == TL_OK) r = read_module(folder, module, c, ret, err);
  json_decref(modules);
  if (r == TL_OK && ret->kind == TL_POOL_NONE) r = bad(err, TL_EUNSUPPORTED, "modules.json", "expected a Pooling module");
  json_t *sentence = r == TL_OK ? hf_load_object(folder, "sentence_bert_config.json", false, err) : NULL;
  if (r == TL_OK && !sentence) r = TL_ECORRUPT;
  json_int_t longest = json_integer_value(json_object_get(sentence, "max_seq_length"));
  if (longest > 0) ret->max_length = longest;
  json_decref(sentence);
  return r;
}
