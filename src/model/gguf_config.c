/* SPDX-License-Identifier: MIT */
/* GGUF's metadata to what config.json would say. */
#include <stdio.h>
#include <string.h>

#include "model/gguf_private.h"

/* A new architecture is a new row: general.architecture and the class that transformers has for it. */
static const struct {
  const char *name, *class_name;
  bool paired_rows; /* of Q and K, see tl_tensor.head_rows */
} architectures[] = {{"llama", "LlamaForCausalLM", true}};

enum { WHOLE, NUMBER };

struct row {
  const char *key; /* behind "llama." */
  int kind;
  size_t offset;
  double min, max;
  bool required;
};

#define AT(member) offsetof(struct hf_config, member)
static const struct row rows[] = {
    {"embedding_length", WHOLE, AT(hidden_size), 1, MODEL_MAX_DIM, true},
    {"feed_forward_length", WHOLE, AT(intermediate_size), 1, MODEL_MAX_DIM, true},
    {"block_count", WHOLE, AT(num_hidden_layers), 1, 1000, true},
    {"attention.head_count", WHOLE, AT(num_attention_heads), 1, 4096, true},
    {"attention.head_count_kv", WHOLE, AT(num_key_value_heads), 1, 4096, false},
    {"attention.key_length", WHOLE, AT(head_dim), 2, 4096, false},
    {"context_length", WHOLE, AT(max_position_embeddings), 1, 1 << 24, true},
    {"vocab_size", WHOLE, AT(vocab_size), 1, 10000000, false},
    {"attention.layer_norm_rms_epsilon", NUMBER, AT(rms_norm_eps), 0, 1, true},
    {"rope.freq_base", NUMBER, AT(rope_theta), 1, 1e12, false},
    {"rope.scaling.factor", NUMBER, AT(rope_factor), 1, 1e6, false},
};

static void key_name(const char *architecture, const char *key, char *ret, size_t size) {
  snprintf(ret, size, "%s.%s", architecture, key);
}

static bool has(const struct tl_gguf *g, const char *key) {
  const char *text;
  size_t length;
  double number;
  struct tl_gguf_list list;
  return tl_gguf_text(g, key, &text, &length) || tl_gguf_number(g, key, &number) || tl_gguf_list(g, key, &list);
}

static int read_row(const struct tl_gguf *g, const char *architecture, const struct row *row, struct hf_config *c,
                    struct tl_error *err) {
  char key[128];
  key_name(architecture, row->key, key, sizeof key);
  char *place = (char *)c + row->offset;
  int64_t whole = 0;
  double number = 0;
  if (!has(g, key)) {
    if (!row->required) return TL_OK;
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%.120s: %s: is required", g->file.name, key);
  }
  bool right = row->kind == WHOLE ? tl_gguf_integer(g, key, &whole) : tl_gguf_number(g, key, &number);
  if (row->kind == WHOLE) number = (double)whole;
  if (!right || !(number >= row->min && number <= row->max))
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%.120s: %s: expected %s from %g to %g", g->file.name, key,
                        row->kind == WHOLE ? "an integer" : "a number", row->min, row->max);
  if (row->kind == WHOLE)
    *(int64_t *)(void *)place = whole;
  else
    *(double *)(void *)place = number;
  return TL_OK;
}

/* Without vocab_size: as many as there are tokens. */
static void count_tokens(const struct tl_gguf *g, struct hf_config *c) {
  struct tl_gguf_list tokens;
  if (!c->vocab_size && tl_gguf_list(g, "tokenizer.ggml.tokens", &tokens) && tokens.n_left <= 10000000)
    c->vocab_size = (int64_t)tokens.n_left;
}

static void read_eos(const struct tl_gguf *g, struct hf_config *c) {
  static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                     "tokenizer.ggml.eom_token_id"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    int64_t id;
    if (!tl_gguf_integer(g, keys[i], &id) || id < 0 || id >= c->vocab_size) continue;
    bool known = false;
    for (uint32_t k = 0; k < c->n_eos; k++) known = known || c->eos[k] == id;
    if (!known) c->eos[c->n_eos++] = (int32_t)id;
  }
}

static int unsupported(const struct tl_gguf *g, const char *key, struct tl_error *err, const char *what) {
  return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "%.120s: %s: %s", g->file.name, key, what);
}

/* What this reader knows that it does not do. */
static int check_rest(const struct tl_gguf *g, const char *architecture, struct hf_config *c, struct tl_error *err) {
  char key[128];
  const char *text;
  size_t length;
  int64_t whole;
  key_name(architecture, "rope.scaling.type", key, sizeof key);
  if (tl_gguf_text(g, key, &text, &length)) {
    if (length == 6 && memcmp(text, "linear", 6) == 0)
      strcpy(c->rope_type, "linear");
    else if (length != 4 || memcmp(text, "none", 4) != 0)
      return unsupported(g, key, err, "is not known; known are none, linear");
  }
  int64_t head_dim = c->head_dim ? c->head_dim : c->hidden_size / c->num_attention_heads;
  key_name(architecture, "rope.dimension_count", key, sizeof key);
  if (tl_gguf_integer(g, key, &whole) && whole != head_dim)
    return unsupported(g, key, err, "rotating a part of a head is not supported");
  key_name(architecture, "attention.value_length", key, sizeof key);
  if (tl_gguf_integer(g, key, &whole) && whole != head_dim)
    return unsupported(g, key, err, "values of another length than keys are not supported");
  key_name(architecture, "expert_count", key, sizeof key);
  if (tl_gguf_integer(g, key, &whole) && whole > 0) return unsupported(g, key, err, "experts are not supported");
  return TL_OK;
}

int gguf_read_config(const struct tl_gguf *g, struct hf_config *c, bool *ret_paired_rows, struct tl_error *err) {
  const char *text = "";
  size_t length = 0, which = 0, n = sizeof architectures / sizeof *architectures;
  *c = (struct hf_config){.rms_norm_eps = 1e-6, .rope_theta = 10000, .rope_factor = 1, .low_freq_factor = 1,
                          .high_freq_factor = 4, .defaults = {-1, -1, -1, -1, -1}};
  tl_gguf_text(g, "general.architecture", &text, &length);
  while (which < n && (strlen(architectures[which].name) != length || memcmp(architectures[which].name, text, length) != 0))
    which++;
  if (which == n)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path",
                        "%.120s: general.architecture: '%.*s' is not known; known are: llama", g->file.name,
                        (int)(length < 60 ? length : 60), text);
  snprintf(c->architecture, sizeof c->architecture, "%s", architectures[which].class_name);
  *ret_paired_rows = architectures[which].paired_rows;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    int r = read_row(g, architectures[which].name, &rows[i], c, err);
    if (r < 0) return r;
  }
  count_tokens(g, c);
  if (!c->vocab_size)
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%.120s: %s.vocab_size: is required, or a list of tokens",
                        g->file.name, architectures[which].name);
  read_eos(g, c);
  int r = check_rest(g, architectures[which].name, c, err);
  return r == TL_OK ? hf_config_check(c, g->file.name, err) : r;
}

/* What only the tensors show. */
void gguf_complete_config(const struct model *m, struct hf_config *c) {
  c->tie_word_embeddings = model_find_tensor(m, "output.weight") < 0;
  c->attention_bias = model_find_tensor(m, "blk.0.attn_q.bias") >= 0;
  c->mlp_bias = model_find_tensor(m, "blk.0.ffn_up.bias") >= 0;
}
