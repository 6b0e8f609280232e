/* SPDX-License-Identifier: MIT */
/* Which files hold the weights, and the table of tensors over all of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/model_private.h"
#include "tokenlane/base/hash.h"

#define MAX_TENSORS 1000000

static uint32_t slot_of(const struct model *m, const char *name) {
  uint32_t mask = m->index_slots - 1, slot = (uint32_t)tl_hash_bytes(name, strlen(name), 0, 0) & mask;
  while (m->index[slot] && strcmp(m->tensors[m->index[slot] - 1].name, name) != 0) slot = (slot + 1) & mask;
  return slot;
}

static int grow(struct model *m) {
  uint32_t cap = m->cap_tensors ? m->cap_tensors * 2 : 256;
  struct tl_tensor *tensors = realloc(m->tensors, cap * sizeof *tensors);
  if (!tensors) return TL_ENOMEM;
  m->tensors = tensors;
  uint32_t *index = calloc((size_t)cap * 4, sizeof *index);
  if (!index) return TL_ENOMEM;
  free(m->index);
  m->index = index;
  m->index_slots = cap * 4;
  m->cap_tensors = cap;
  for (uint32_t i = 0; i < m->n_tensors; i++) m->index[slot_of(m, m->tensors[i].name)] = i + 1;
  return TL_OK;
}

int model_add_tensor(struct model *m, const struct tl_tensor *tensor, struct tl_error *err) {
  if (m->n_tensors == MAX_TENSORS) return tl_error_set(err, TL_ELIMIT, "model.path", "more than %d tensors", MAX_TENSORS);
  if (m->n_tensors == m->cap_tensors && grow(m) < 0) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  uint32_t slot = slot_of(m, tensor->name);
  if (m->index[slot])
    return tl_error_set(err, TL_ECORRUPT, "model.path", "tensor '%.150s' is in two files", tensor->name);
  struct tl_tensor *copy = &m->tensors[m->n_tensors];
  *copy = *tensor;
  copy->name = tl_arena_copy(&m->arena, tensor->name, strlen(tensor->name));
  if (!copy->name) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  m->index[slot] = ++m->n_tensors;
  return TL_OK;
}

int32_t model_find_tensor(const struct model *m, const char *name) {
  return m->n_tensors ? (int32_t)m->index[slot_of(m, name)] - 1 : -1;
}

/* The distinct values of weight_map, each opened once. */
static int open_shards(struct model *m, const char *folder, json_t *map, struct tl_error *err) {
  json_t *opened = json_object();
  const char *tensor;
  json_t *value;
  int r = TL_OK;
  json_object_foreach(map, tensor, value) {
    const char *file = json_string_value(value);
    if (!file || !*file || strchr(file, '/') || strstr(file, "..")) {
      r = tl_error_set(err, TL_ECORRUPT, "model.path",
                       "model.safetensors.index.json: tensor '%.100s': expected the name of a file in this folder", tensor);
      break;
    }
    if (json_object_get(opened, file)) continue;
    json_object_set_new(opened, file, json_true());
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    if ((r = model_add_safetensors(m, path, file, "", err)) < 0) break;
  }
  json_decref(opened);
  return r;
}

int model_open_weights(struct model *m, const char *folder, struct tl_error *err) {
  char path[4096];
  snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
  if (access(path, R_OK) != 0) {
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    int r = access(path, F_OK) == 0 ? TL_OK : model_absent(folder, "model.safetensors", err);
    return r < 0 ? r : model_add_safetensors(m, path, "model.safetensors", "", err);
  }
  json_error_t json_error;
  json_t *index = tl_json_load_file(path, 0, &json_error);
  if (tl_json_is_short(index, &json_error, err)) return TL_ENOMEM;
  if (!index && tl_lfs_check(path, "model.safetensors.index.json", err) < 0) return TL_ECORRUPT;
  json_t *map = json_object_get(index, "weight_map");
  int r = json_is_object(map) ? open_shards(m, folder, map, err)
                              : tl_error_set(err, TL_ECORRUPT, "model.path",
                                             "model.safetensors.index.json: weight_map: expected an object");
  json_decref(index);
  return r;
}
