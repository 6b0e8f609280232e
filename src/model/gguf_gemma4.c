/* SPDX-License-Identifier: MIT */
/* What llama.cpp's files say of Gemma 4: lengths of heads with and without a window have keys of their own, and what layers differ in is
 * a list of all of them. That keys are values shows where there is no tensor for these; which numbers of a head do not turn, by divisors. */
#include <stdio.h>
#include <string.h>

#include "model/gguf_private.h"

struct reader {
  const struct tl_gguf *g;
  const char *architecture;
  char name[128]; /* of the key that was read last */
};

static bool read_key(struct reader *r, const char *key, int64_t *ret) {
  snprintf(r->name, sizeof r->name, "%s.%s", r->architecture, key);
  return tl_gguf_integer(r->g, r->name, ret);
}

static int bad(const struct reader *r, const char *what, struct tl_error *err) {
  return tl_error_set(err, TL_ECORRUPT, "model.path", "%.120s: %s: %s", r->g->file.name, r->name, what);
}

/* A number for all layers, or a list: ret[kind] of those that are of that kind, which must be alike. */
static int read_layers(struct reader *r, const struct hf_config *c, const char *key, bool (*kind)(const struct hf_config *c, int64_t layer),
                       int64_t most, int64_t ret[2], struct tl_error *err) {
  struct tl_gguf_list list;
  double value = 0;
  if (read_key(r, key, &ret[0])) {
    ret[1] = ret[0];
    return ret[0] >= 1 && ret[0] <= most ? TL_OK : bad(r, "is out of range", err);
  }
  ret[0] = ret[1] = 0;
  if (!tl_gguf_list(r->g, r->name, &list) || list.n_left != (uint64_t)c->num_hidden_layers) return bad(r, "expected a number, or one for each layer", err);
  for (int64_t i = 0; i < c->num_hidden_layers; i++) {
    int64_t *of = &ret[kind(c, i)];
    if (!tl_gguf_next_number(&list, &value) || !(value >= 1 && value <= (double)most)) return bad(r, "is out of range", err);
    if (*of && *of != (int64_t)value) return bad(r, "expected layers of one kind to be alike", err);
    *of = (int64_t)value;
  }
  return TL_OK;
}

static bool slides(const struct hf_config *c, int64_t layer) {
  return c->slides[layer];
}

static bool is_lent(const struct hf_config *c, int64_t layer) {
  return layer >= c->num_hidden_layers - c->num_kv_shared_layers;
}

int gguf_read_gemma4(const struct tl_gguf *g, const char *architecture, struct hf_config *c, struct tl_error *err) {
  struct reader r = {.g = g, .architecture = architecture};
  int64_t of[2], value;
  if (!c->global_head_dim) return TL_OK;
  c->global_head_dim = c->head_dim;
  if (!c->head_dim || !c->has_layer_types) return tl_error_set(err, TL_ECORRUPT, "model.path", "%.120s: %s.attention.key_length, attention.sliding_window_pattern: are required", g->file.name, architecture);
  if (!read_key(&r, "attention.key_length_swa", &c->head_dim) || c->head_dim < 2 || c->head_dim > MODEL_MAX_HEAD_DIM)
    return bad(&r, "is required, from 2 to 4096", err);
  if (read_key(&r, "attention.value_length", &value) && value != c->global_head_dim) return bad(&r, "expected attention.key_length's value", err);
  if (read_key(&r, "attention.value_length_swa", &value) && value != c->head_dim) return bad(&r, "expected attention.key_length_swa's value", err);
  if (read_key(&r, "rope.dimension_count", &value) && value != c->global_head_dim) return bad(&r, "expected attention.key_length's value", err);
  if (read_key(&r, "rope.dimension_count_swa", &value) && value != c->head_dim) return bad(&r, "expected attention.key_length_swa's value", err);
  if (read_key(&r, "attention.shared_kv_layers", &c->num_kv_shared_layers) && (c->num_kv_shared_layers < 0 || c->num_kv_shared_layers >= c->num_hidden_layers))
    return bad(&r, "expected less than block_count", err);
  c->hidden_size_per_layer_input = 0;
  if (read_key(&r, "embedding_length_per_layer_input", &c->hidden_size_per_layer_input) && (c->hidden_size_per_layer_input < 0 || c->hidden_size_per_layer_input > MODEL_MAX_DIM))
    return bad(&r, "is out of range", err);
  c->vocab_size_per_layer_input = c->vocab_size;
  int result = read_layers(&r, c, "attention.head_count_kv", slides, 4096, of, err);
  if (result < 0) return result;
  c->num_key_value_heads = of[1] ? of[1] : of[0];
  c->num_global_key_value_heads = of[0];
  if ((result = read_layers(&r, c, "feed_forward_length", is_lent, MODEL_MAX_DIM, of, err)) < 0) return result;
  c->intermediate_size = of[0];
  c->use_double_wide_mlp = of[1] == 2 * of[0];
  if (of[1] && of[1] != of[0] && !c->use_double_wide_mlp) return bad(&r, "expected once or twice as much where keys and values are shared", err);
  return arch_gemma4_check(arch_find(c->architecture, "", err), c, g->file.name, err);
}

void gguf_complete_gemma4(const struct model *m, struct hf_config *c) {
  char name[64];
  for (int64_t i = 0; c->global_head_dim && i < c->num_hidden_layers; i++) {
    if (c->slides[i] || is_lent(c, i)) continue;
    snprintf(name, sizeof name, "blk.%lld.attn_v.weight", (long long)i);
    c->attention_k_eq_v = model_find_tensor(m, name) < 0;
    return;
  }
}
