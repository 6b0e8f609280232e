/* SPDX-License-Identifier: MIT */
/* What llama.cpp's files say of layers that keep a state: sizes under the names of state-space models, and which layers they are by an
 * interval, by a list, or as those without heads of keys and values. Of Nemotron-H's those have an inner row that are an MLP. */
#include <stdio.h>
#include <string.h>

#include "model/gguf_private.h"

struct reader {
  const struct tl_gguf *g;
  const char *architecture;
  struct tl_error *err;
};

static int bad(const struct reader *r, const char *key, const char *what) {
  return tl_error_set(r->err, TL_ECORRUPT, "model.path", "%.120s: %s.%s: %s", r->g->file.name, r->architecture, key, what);
}

static int read_size(const struct reader *r, const char *key, int64_t least, int64_t most, int64_t *ret) {
  char name[128], what[80];
  snprintf(name, sizeof name, "%s.%s", r->architecture, key);
  if (tl_gguf_integer(r->g, name, ret) && *ret >= least && *ret <= most) return TL_OK;
  snprintf(what, sizeof what, "is required, an integer from %lld to %lld", (long long)least, (long long)most);
  return bad(r, key, what);
}

/* Of each layer whether it keeps a state: numbers that are not 0 in the one list, 0 in the other. */
static int read_list(const struct reader *r, const char *key, bool is_heads, struct hf_config *c) {
  char name[128];
  struct tl_gguf_list list;
  snprintf(name, sizeof name, "%s.%s", r->architecture, key);
  if (!tl_gguf_list(r->g, name, &list)) return TL_OK;
  if (list.n_left < (uint64_t)c->num_hidden_layers) return bad(r, key, "expected as many items as there are layers");
  c->has_layer_types = true;
  for (int64_t i = 0; i < c->num_hidden_layers; i++) {
    double value;
    if (!tl_gguf_next_number(&list, &value) || !(value >= 0 && value <= 4096)) return bad(r, key, "expected numbers from 0 to 4096");
    c->keeps[i] = is_heads ? value == 0 : value != 0;
    if (!is_heads || value == 0) continue;
    if (c->num_key_value_heads && c->num_key_value_heads != (int64_t)value) return bad(r, key, "expected one number in all layers that have some");
    c->num_key_value_heads = (int64_t)value;
  }
  return TL_OK;
}

static int read_delta(const struct reader *r, struct hf_config *c) {
  int64_t inner = 0;
  char name[128];
  int status = read_size(r, "ssm.conv_kernel", 2, MODEL_MAX_CONV, &c->conv_rows);
  if (status == TL_OK) status = read_size(r, "ssm.state_size", 1, MODEL_MAX_STATE_DIM, &c->delta_key_dim);
  if (status == TL_OK) status = read_size(r, "ssm.group_count", 1, 4096, &c->delta_key_heads);
  if (status == TL_OK) status = read_size(r, "ssm.time_step_rank", 1, 4096, &c->delta_value_heads);
  if (status == TL_OK) status = read_size(r, "ssm.inner_size", 1, 4096 * MODEL_MAX_STATE_DIM, &inner);
  if (status < 0) return status;
  c->delta_value_dim = inner / c->delta_value_heads;
  if (inner % c->delta_value_heads || c->delta_value_dim > MODEL_MAX_STATE_DIM)
    return bad(r, "ssm.inner_size", "expected ssm.time_step_rank times a head's length");
  snprintf(name, sizeof name, "%s.full_attention_interval", r->architecture);
  int64_t every;
  if (!tl_gguf_integer(r->g, name, &every)) return TL_OK;
  return read_size(r, "full_attention_interval", 1, MODEL_MAX_LAYERS, &c->full_attention_interval);
}

/* Nemotron-H's inner rows, 0 in layers that have none: those are no state's. */
static int read_inner(const struct reader *r, struct hf_config *c) {
  char name[128];
  struct tl_gguf_list list;
  snprintf(name, sizeof name, "%s.feed_forward_length", r->architecture);
  if (!c->one_mixer || !tl_gguf_list(r->g, name, &list)) return TL_OK;
  if (list.n_left < (uint64_t)c->num_hidden_layers) return bad(r, "feed_forward_length", "expected as many items as there are layers");
  for (int64_t i = 0; i < c->num_hidden_layers; i++) {
    double value;
    if (!tl_gguf_next_number(&list, &value) || !(value >= 0 && value <= MODEL_MAX_DIM))
      return bad(r, "feed_forward_length", "expected numbers from 0 to 1000000");
    if (value == 0) continue;
    if (!c->keeps[i]) return bad(r, "feed_forward_length", "expected 0 in layers with heads of keys and values");
    c->keeps[i] = false;
    c->mlp_alone[i] = true;
    c->dense[i] = c->n_experts == 0;
    c->intermediate_size = (int64_t)value;
  }
  return TL_OK;
}

/* Bamba's layers rotate, Granite's do not: llama.cpp tells it by a key of another meaning. */
static void read_rotation(const struct reader *r, struct hf_config *c) {
  char name[128];
  int64_t rotates = 0;
  snprintf(name, sizeof name, "%s.rope.scaling.finetuned", r->architecture);
  if (!c->one_mixer && tl_gguf_integer(r->g, name, &rotates) && rotates) strcpy(c->position_embedding_type, "rope");
}

void gguf_complete_recurrent(const struct model *m, struct hf_config *c) {
  char name[64];
  for (int64_t i = 0; c->state_expand && i < c->num_hidden_layers; i++) {
    snprintf(name, sizeof name, "blk.%lld.ssm_conv1d.bias", (long long)i);
    if (c->keeps[i]) c->conv_bias = model_find_tensor(m, name) >= 0;
  }
}

int gguf_read_recurrent(const struct tl_gguf *g, const char *architecture, struct hf_config *c, struct tl_error *err) {
  const struct reader r = {g, architecture, err};
  if (!c->state_type) return TL_OK;
  const struct architecture *a = arch_find(c->architecture, "", err);
  c->adjust_ffn = false; /* its size is said as it is */
  int status = a->traits & ARCH_SHORT ? read_size(&r, "shortconv.l_cache", 2, MODEL_MAX_CONV, &c->conv_rows) : read_delta(&r, c);
  if (status == TL_OK) status = read_list(&r, "attention.head_count_kv", true, c);
  if (status == TL_OK) status = read_list(&r, "attention.recurrent_layers", false, c);
  if (status == TL_OK) status = read_inner(&r, c);
  if (a->traits & ARCH_SCAN) read_rotation(&r, c);
  return status == TL_OK ? arch_recurrent_complete(a, c, g->file.name, err) : status;
}
