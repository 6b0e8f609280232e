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

/* 1_Pooling/config.json: one of several flags is set, or pooling_mode says which. */
static int read_pooling(json_t *object, const char *file, const struct hf_config *c, struct hf_pooling *p, struct tl_error *err) {
  static const struct {
    const char *flag, *mode;
    enum tl_pooling kind;
  } kinds[] = {{"pooling_mode_cls_token", "cls", TL_POOL_FIRST},
               {"pooling_mode_mean_tokens", "mean", TL_POOL_MEAN},
               {"pooling_mode_lasttoken", "lasttoken", TL_POOL_LAST}};
  json_t *size = json_object_get(object, "word_embedding_dimension"), *value;
  if (!size) size = json_object_get(object, "embedding_dimension");
  if (size && json_integer_value(size) != c->hidden_size)
    return bad(err, TL_ECORRUPT, file, "word_embedding_dimension: expected hidden_size of config.json");
  const char *mode = json_string_value(json_object_get(object, "pooling_mode")), *key;
  unsigned n = 0;
  json_object_foreach(object, key, value) n += strncmp(key, "pooling_mode_", 13) == 0 && json_is_true(value);
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if ((mode && strcmp(mode, kinds[i].mode) == 0) || (n == 1 && json_is_true(json_object_get(object, kinds[i].flag))))
      p->kind = kinds[i].kind;
  if (p->kind == TL_POOL_NONE)
    return bad(err, TL_EUNSUPPORTED, file, "expected one of pooling_mode_cls_token, pooling_mode_mean_tokens, pooling_mode_lasttoken");
  return TL_OK;
}

static int read_dense(json_t *object, const char *file, const struct hf_config *c, struct hf_pooling *p, struct tl_error *err) {
  json_int_t in = json_integer_value(json_object_get(object, "in_features")), out = json_integer_value(json_object_get(object, "out_features"));
  const char *act = json_string_value(json_object_get(object, "activation_function"));
  if (p->dense_out) return bad(err, TL_EUNSUPPORTED, file, "a second dense layer is not supported");
  if (in != c->hidden_size || out < 1 || out > MODEL_MAX_DIM)
    return bad(err, TL_ECORRUPT, file, "in_features, out_features: expected hidden_size of config.json and a size");
  p->dense_tanh = act && strstr(act, "Tanh");
  if (act && !p->dense_tanh && !strstr(act, "Identity"))
    return bad(err, TL_EUNSUPPORTED, file, "activation_function: expected Tanh or Identity");
  p->dense_out = out;
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
  if (p->normalize || (dense && p->kind == TL_POOL_NONE))
    return bad(err, TL_EUNSUPPORTED, "modules.json", "expected Pooling, Dense and Normalize in this order");
  if (!is_name(path)) return bad(err, TL_ECORRUPT, "modules.json", "path: expected the name of a folder");
  snprintf(file, sizeof file, "%s/config.json", path);
  json_t *object = hf_load_object(folder, file, true, err);
  if (!object) return TL_ECORRUPT;
  int r = dense ? read_dense(object, file, c, p, err) : read_pooling(object, file, c, p, err);
  if (r == TL_OK && dense) snprintf(p->dense_folder, sizeof p->dense_folder, "%s", path);
  json_decref(object);
  return r;
}

int model_read_pooling(const char *folder, const struct hf_config *c, struct hf_pooling *ret, struct tl_error *err) {
  char path[4096];
  json_error_t json_error;
  *ret = (struct hf_pooling){0};
  snprintf(path, sizeof path, "%s/modules.json", folder);
  json_t *modules = json_load_file(path, 0, &json_error), *module;
  if (!modules && json_error_code(&json_error) == json_error_cannot_open_file) return TL_OK;
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
