/* SPDX-License-Identifier: MIT */
/* Encoders: what their files call things, and their plans. BERT (Devlin et al. 2019) and those that came of it, with
 * norms behind each block; ModernBERT (Warner et al. 2024) with norms before them, rotary positions and windows;
 * NomicBERT (Nussbaum et al. 2024), rotary and gated. A bias is used where the files have one. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "model/model_private.h"

enum encoder_trait {
  ENCODER_PRE_NORM = 1 << 0,
  ENCODER_ROTATES = 1 << 1,
  ENCODER_LOCAL = 1 << 2,    /* all layers but each global_attn_every_n_layers-th look at a window */
  ENCODER_PADS = 1 << 3,     /* positions are counted from pad_token_id + 1 on */
  ENCODER_FUSED_UP = 1 << 4, /* `gate` holds `up` too, behind it */
};

struct arch_encoder {
  const char *name;   /* of the rows of architectures.c */
  const char *prefix; /* of all names but the head's, in files of models with a head */
  const char *act;    /* hidden_act */
  const char *word, *place, *type, *embed_norm;
  /* of a layer; k NULL: q holds all three. gate NULL: there is none */
  const char *layer, *q, *k, *v, *out, *attention_norm, *gate, *up, *down, *mlp_norm;
  const char *final_norm;
  uint32_t traits;
  double eps, theta; /* of norms and of rotation, when config.json does not say */
  /* the head of a classifier: dense layer, norm, outputs. prefixed: the dense layer is the encoder's */
  const char *head, *head_norm, *outputs;
  bool head_prefixed;
};

#define BERT_NAMES \
  "gelu", "embeddings.word_embeddings", "embeddings.position_embeddings", "embeddings.token_type_embeddings", \
  "embeddings.LayerNorm", "encoder.layer", "attention.self.query", "attention.self.key", "attention.self.value", \
  "attention.output.dense", "attention.output.LayerNorm", NULL, "intermediate.dense", "output.dense", "output.LayerNorm", NULL

static const struct arch_encoder encoders[] = {
    {"bert", "bert.", BERT_NAMES, 0, 1e-12, 1e4, "pooler.dense", NULL, "classifier", true},
    {"roberta", "roberta.", BERT_NAMES, ENCODER_PADS, 1e-12, 1e4, "classifier.dense", NULL, "classifier.out_proj", false},
    {"xlm-roberta", "roberta.", BERT_NAMES, ENCODER_PADS, 1e-12, 1e4, "classifier.dense", NULL, "classifier.out_proj", false},
    {"modernbert", "model.", "gelu", "embeddings.tok_embeddings", NULL, NULL, "embeddings.norm", "layers", "attn.Wqkv", NULL, NULL,
     "attn.Wo", "attn_norm", "mlp.Wi", NULL, "mlp.Wo", "mlp_norm", "final_norm",
     ENCODER_PRE_NORM | ENCODER_ROTATES | ENCODER_LOCAL | ENCODER_FUSED_UP, 1e-5, 1.6e5, "head.dense", "head.norm", "classifier", false},
    {"nomic_bert", "", "silu", "embeddings.word_embeddings", NULL, "embeddings.token_type_embeddings", "emb_ln", "encoder.layers",
     "attn.Wqkv", NULL, NULL, "attn.out_proj", "norm1", "mlp.fc12", "mlp.fc11", "mlp.fc2", "norm2", NULL, ENCODER_ROTATES,
     1e-12, 1e3, NULL, NULL, NULL, false},
};

const struct arch_encoder *arch_encoder_of(const struct architecture *a) {
  for (size_t i = 0; i < sizeof encoders / sizeof *encoders; i++)
    if (strcmp(encoders[i].name, a->name) == 0) return &encoders[i];
  return NULL;
}

bool arch_is_classifier(const struct architecture *a) {
  return strstr(a->class_name, "ForSequenceClassification") != NULL;
}

/* With rotary_scaling_factor NomicBERT's own code turns a text that is longer than those that it was trained for by other angles
 * from its first token on, by its length: such texts are too long here. Up to there the factor changes nothing. */
int64_t arch_encoder_context(const struct arch_encoder *e, const struct hf_config *c) {
  int64_t n = c->max_position_embeddings - (e->traits & ENCODER_PADS ? c->pad_token_id + 1 : 0);
  bool shorter = e->traits & ENCODER_ROTATES && c->rotary_scaling_factor > 0 && c->max_trained_positions < n;
  return shorter ? c->max_trained_positions : n;
}

void arch_encoder_defaults(const struct architecture *a, struct hf_config *c) {
  const struct arch_encoder *e = a ? arch_encoder_of(a) : NULL;
  if (!e) return;
  c->rms_norm_eps = e->eps;
  c->rope_theta = e->theta;
  c->type_vocab_size = e->type ? 2 : 0;
}

/* --- tensors ------------------------------------------------------------------------------------- */

struct maker {
  struct model *m;
  const struct arch_encoder *e;
  const struct hf_config *c;
  uint64_t dim, ffn, rows; /* rows: of each of q, k, v */
  const char *prefix;      /* what stands before names in these files */
  struct tl_error *err;
  float rope_factor;
};

enum { NAME = 200 };

static void full_name(const struct maker *k, char ret[NAME], int layer, const char *name) {
  if (layer < 0)
    snprintf(ret, NAME, "%s%s", k->prefix, name);
  else
    snprintf(ret, NAME, "%s%s.%d.%s", k->prefix, k->e->layer, layer, name);
}

static bool there_is(const struct maker *k, const char *name, const char *part) {
  char full[NAME + 16];
  snprintf(full, sizeof full, "%s.%s", name, part);
  return plan_has_tensor(k->m, full);
}

/* Weight and bias into input i of op; columns 0: a norm's. `name` is full. */
static int take(struct maker *k, struct tl_op *op, int i, uint64_t rows, uint64_t columns, const char *name) {
  op->weight[i] = plan_tensor(k->m, k->err, rows, columns, "%s.weight", name);
  if (op->weight[i] < 0) return op->weight[i];
  if (!there_is(k, name, "bias")) return TL_OK;
  op->bias[i] = plan_tensor(k->m, k->err, rows, 0, "%s.bias", name);
  return op->bias[i] < 0 ? op->bias[i] : TL_OK;
}

/* n inputs of op, of as many rows each, from one matrix and, where there is one, one bias. */
static int take_fused(struct maker *k, struct tl_op *op, int n, uint64_t rows, const char *name) {
  const uint64_t parts[TL_OP_INPUTS] = {rows, rows, rows};
  int32_t all = plan_tensor(k->m, k->err, (uint64_t)n * rows, k->dim, "%s.weight", name);
  int r = plan_parts(k->m, k->err, all, parts, n, op->weight);
  if (r < 0 || !there_is(k, name, "bias")) return r;
  all = plan_tensor(k->m, k->err, (uint64_t)n * rows, 0, "%s.bias", name);
  return plan_parts(k->m, k->err, all, parts, n, op->bias);
}

/* --- records --------------------------------------------------------------------------------------- */

static int norm(struct maker *k, int layer, const char *name, bool in_place) {
  char full[NAME];
  full_name(k, full, layer, name);
  /* ModernBERT's first layer begins behind the norm of the embeddings and has none of its own */
  bool none = layer == 0 && k->e->traits & ENCODER_PRE_NORM && !there_is(k, full, "weight");
  struct tl_op *op = plan_add(k->m, none ? TL_OP_COPY : TL_OP_RMSNORM, layer < 0 ? 0 : (uint32_t)layer);
  if (none) return TL_OK;
  op->eps = (float)k->c->rms_norm_eps;
  op->features = TL_F_LAYER_NORM | (in_place ? TL_F_IN_PLACE : 0);
  return take(k, op, 0, k->dim, 0, full);
}

static int embed(struct maker *k) {
  const struct arch_encoder *e = k->e;
  const struct hf_config *c = k->c;
  char name[NAME];
  full_name(k, name, -1, e->word);
  struct tl_op *op = plan_add(k->m, TL_OP_EMBED, 0);
  int r = take(k, op, 0, (uint64_t)c->vocab_size, k->dim, name);
  op = e->place || (e->type && c->type_vocab_size) ? plan_add(k->m, TL_OP_EMBED_PLACE, 0) : NULL;
  if (r == TL_OK && e->place) {
    full_name(k, name, -1, e->place);
    int32_t all = plan_tensor(k->m, k->err, (uint64_t)c->max_position_embeddings, k->dim, "%s.weight", name);
    uint64_t rows = (uint64_t)arch_encoder_context(e, c), first = (uint64_t)c->max_position_embeddings - rows;
    op->weight[0] = all < 0 || first == 0 ? all : plan_rows(k->m, k->err, all, first, rows);
    r = op->weight[0] < 0 ? op->weight[0] : TL_OK;
    if (r == TL_OK && first) plan_spent(k->m, all);
  }
  if (r == TL_OK && e->type && c->type_vocab_size) {
    full_name(k, name, -1, e->type);
    op->weight[1] = plan_tensor(k->m, k->err, (uint64_t)c->type_vocab_size, k->dim, "%s.weight", name);
    r = op->weight[1] < 0 ? op->weight[1] : TL_OK;
  }
  return r == TL_OK ? norm(k, -1, e->embed_norm, true) : r;
}

static bool is_local(const struct maker *k, uint32_t layer) {
  if (!(k->e->traits & ENCODER_LOCAL)) return false;
  if (k->c->has_layer_types) return k->c->slides[layer];
  return layer % (uint64_t)k->c->global_attn_every_n_layers != 0;
}

/* Scalings of the angles, and their factor, are not those of layers with a window. */
static void rotate(struct maker *k, uint32_t layer, bool local) {
  struct tl_op *op = plan_add(k->m, TL_OP_ROPE, layer);
  op->features = local ? TL_F_LOCAL : 0;
  if (local || k->rope_factor == 1) return;
  op->features |= TL_F_FACTOR;
  op->factor = k->rope_factor;
}

static int attention(struct maker *k, uint32_t layer) {
  const struct arch_encoder *e = k->e;
  char name[NAME];
  struct tl_op *op = plan_add(k->m, TL_OP_QKV, layer);
  const char *const names[] = {e->q, e->k, e->v};
  int r = TL_OK;
  full_name(k, name, (int)layer, e->q);
  if (!e->k) r = take_fused(k, op, 3, k->rows, name);
  for (int i = 0; i < 3 && e->k && r == TL_OK; i++) {
    full_name(k, name, (int)layer, names[i]);
    r = take(k, op, i, k->rows, k->dim, name);
  }
  bool local = is_local(k, layer);
  if (e->traits & ENCODER_ROTATES) rotate(k, layer, local);
  op = plan_add(k->m, TL_OP_ATTEND, layer);
  op->scale = 1 / sqrtf((float)k->c->head_dim);
  op->features = TL_F_BOTH_SIDES | (local ? TL_F_WINDOW : 0);
  op->window = local ? (uint32_t)k->c->local_attention / 2 + 1 : 0;
  full_name(k, name, (int)layer, e->out);
  return r == TL_OK ? take(k, plan_add(k->m, TL_OP_ATTN_OUT, layer), 0, k->dim, k->rows, name) : r;
}

static int mlp(struct maker *k, uint32_t layer) {
  const struct arch_encoder *e = k->e;
  char name[NAME];
  struct tl_op *op = plan_add(k->m, e->gate ? TL_OP_GATED_UP : TL_OP_UP, layer);
  int r = TL_OK;
  if (e->gate && strcmp(e->act, "gelu") == 0) op->features = TL_F_GELU;
  if (e->traits & ENCODER_FUSED_UP) {
    full_name(k, name, (int)layer, e->gate);
    r = take_fused(k, op, 2, k->ffn, name);
  } else {
    if (e->gate) full_name(k, name, (int)layer, e->gate), r = take(k, op, 0, k->ffn, k->dim, name);
    full_name(k, name, (int)layer, e->up);
    if (r == TL_OK) r = take(k, op, e->gate ? 1 : 0, k->ffn, k->dim, name);
  }
  full_name(k, name, (int)layer, e->down);
  return r == TL_OK ? take(k, plan_add(k->m, TL_OP_MLP_DOWN, layer), 0, k->dim, k->ffn, name) : r;
}

/* --- vectors ------------------------------------------------------------------------------------------ */

static int head(struct maker *k) {
  const struct arch_encoder *e = k->e;
  char name[NAME];
  snprintf(name, sizeof name, "%s%s", e->head_prefixed ? k->prefix : "", e->head);
  struct tl_op *op = plan_add(k->m, TL_OP_DENSE, 0);
  op->features = e->head_norm ? TL_F_GELU : TL_F_TANH;
  int r = take(k, op, 0, k->dim, k->dim, name);
  if (r == TL_OK && e->head_norm) {
    op = plan_add(k->m, TL_OP_VECTOR_NORM, 0);
    op->eps = (float)k->c->rms_norm_eps;
    r = take(k, op, 0, k->dim, 0, e->head_norm);
  }
  return r == TL_OK ? take(k, plan_add(k->m, TL_OP_DENSE, 0), 0, k->m->model.n_out, k->dim, e->outputs) : r;
}

int arch_vector_plan(struct model *m, const struct hf_pooling *p, struct tl_error *err) {
  struct maker k = {.m = m, .err = err};
  uint64_t n_in = m->model.dim;
  int r = TL_OK;
  plan_add(m, TL_OP_POOL, 0);
  for (unsigned i = 0; i < p->n_dense && r == TL_OK; n_in = (uint64_t)p->dense[i++].n_out) {
    char name[NAME];
    struct tl_op *op = plan_add(m, TL_OP_DENSE, 0);
    op->features = p->dense[i].is_tanh ? TL_F_TANH : 0;
    snprintf(name, sizeof name, "%s.linear", p->dense[i].folder);
    r = take(&k, op, 0, (uint64_t)p->dense[i].n_out, n_in, name);
  }
  return r;
}

/* What models of a row may ask for that is not done here. */
static int check(const struct maker *k) {
  const struct hf_config *c = k->c;
  if (c->hidden_act[0] && strcmp(c->hidden_act, k->e->act) != 0)
    return tl_error_set(k->err, TL_EUNSUPPORTED, "model.path", "config.json: hidden_act: expected %s, got %s", k->e->act, c->hidden_act);
  if (c->position_embedding_type[0] && strcmp(c->position_embedding_type, "absolute") != 0)
    return tl_error_set(k->err, TL_EUNSUPPORTED, "model.path", "config.json: position_embedding_type: expected absolute, got %s",
                        c->position_embedding_type);
  const char *other = c->is_decoder ? "is_decoder" : c->prenorm ? "prenorm" : c->parallel_block ? "parallel_block"
                      : c->use_rms_norm ? "use_rms_norm" : c->rotary_emb_interleaved ? "rotary_emb_interleaved"
                      : c->rotary_emb_scale_base > 0 ? "rotary_emb_scale_base" : NULL;
  if (other) return tl_error_set(k->err, TL_EUNSUPPORTED, "model.path", "config.json: %s: is not supported", other);
  if (c->rotary_emb_fraction != 1)
    return tl_error_set(k->err, TL_EUNSUPPORTED, "model.path", "config.json: rotary_emb_fraction: rotating a part of a head is not supported");
  if (c->num_key_value_heads != c->num_attention_heads)
    return tl_error_set(k->err, TL_EUNSUPPORTED, "model.path", "config.json: num_key_value_heads: expected num_attention_heads");
  return TL_OK;
}

int arch_encoder_plan(struct model *m, const struct architecture *a, const struct hf_config *c, const struct hf_pooling *p,
                      float rope_factor, struct tl_error *err) {
  const struct arch_encoder *e = arch_encoder_of(a);
  struct maker k = {m, e, c, (uint64_t)c->hidden_size, (uint64_t)c->intermediate_size, (uint64_t)(c->num_attention_heads * c->head_dim),
                    e->prefix, err, rope_factor};
  char word[NAME];
  full_name(&k, word, -1, e->word);
  if (!there_is(&k, word, "weight")) k.prefix = "";
  bool pre = e->traits & ENCODER_PRE_NORM;
  int r = check(&k);
  if (r == TL_OK) r = embed(&k);
  for (uint32_t layer = 0; layer < (uint32_t)c->num_hidden_layers && r == TL_OK; layer++) {
    if (pre) r = norm(&k, (int)layer, e->attention_norm, false);
    if (r == TL_OK) r = attention(&k, layer);
    if (r == TL_OK) r = norm(&k, (int)layer, pre ? e->mlp_norm : e->attention_norm, !pre);
    if (r == TL_OK) r = mlp(&k, layer);
    if (r == TL_OK && !pre) r = norm(&k, (int)layer, e->mlp_norm, true);
  }
  if (r == TL_OK && e->final_norm) r = norm(&k, -1, e->final_norm, false);
  if (r == TL_OK) r = arch_vector_plan(m, p, err);
  return r == TL_OK && arch_is_classifier(a) ? head(&k) : r;
}
