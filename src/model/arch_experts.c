/* SPDX-License-Identifier: MIT */
/* Layers whose MLP is a mixture of experts: what the architectures that have them differ in, and their records.
 * Which rows of architectures.c these are, the class name says. */
#include <stdio.h>
#include <string.h>

#include "model/model_private.h"

#define PROJECTIONS {"gate_proj", "up_proj", "down_proj"}
#define LLAMA4 "feed_forward", "router", {"gate_up_proj", "gate_up_proj", "down_proj"}, "shared_expert", NULL, \
  EXPERTS_COUNTED | EXPERTS_OWN_SIZE | EXPERTS_SIGMOID | EXPERTS_HALVES | EXPERTS_SHARE_IN
#define GEMMA4 "router", "proj", {"gate_up_proj", "gate_up_proj", "down_proj"}, NULL, NULL, \
  EXPERTS_BESIDE | EXPERTS_OWN_SIZE | EXPERTS_NORMALIZED | EXPERTS_HALVES | EXPERTS_STRAIGHT
#define QWEN3_5 "mlp", "gate", {"gate_up_proj", "gate_up_proj", "down_proj"}, "shared_expert", NULL, \
  EXPERTS_ROW_GATE | EXPERTS_OWN_SIZE | EXPERTS_NORMALIZED | EXPERTS_HALVES | EXPERTS_STRAIGHT

#define DEEPSEEK_V3 "mlp", "gate", PROJECTIONS, "shared_experts", "gate.e_score_correction_bias", \
  EXPERTS_COUNTED | EXPERTS_OWN_SIZE | EXPERTS_SIGMOID | EXPERTS_GROUPS

static const struct arch_experts kinds[] = {
    {"MixtralForCausalLM", "block_sparse_moe", "gate", {"w1", "w3", "w2"}, NULL, NULL, EXPERTS_NORMALIZED},
    {"MiniMaxM2ForCausalLM", "block_sparse_moe", "gate", {"w1", "w3", "w2"}, NULL, "e_score_correction_bias",
     EXPERTS_NORMALIZED | EXPERTS_SIGMOID},
    {"Qwen2MoeForCausalLM", "mlp", "gate", PROJECTIONS, "shared_expert", NULL, EXPERTS_ROW_GATE | EXPERTS_OWN_SIZE},
    {"Qwen3MoeForCausalLM", "mlp", "gate", PROJECTIONS, NULL, NULL, EXPERTS_OWN_SIZE},
    {"Qwen3NextForCausalLM", "mlp", "gate", PROJECTIONS, "shared_expert", NULL, EXPERTS_ROW_GATE | EXPERTS_OWN_SIZE},
    {"Qwen3_5MoeForCausalLM", QWEN3_5},
    {"Qwen3_5MoeForConditionalGeneration", QWEN3_5},
    {"Qwen3VLMoeForConditionalGeneration", "mlp", "gate", {"gate_up_proj", "gate_up_proj", "down_proj"}, NULL, NULL,
     EXPERTS_NORMALIZED | EXPERTS_OWN_SIZE | EXPERTS_HALVES},
    {"Glm4MoeForCausalLM", DEEPSEEK_V3},
    {"DeepseekV2ForCausalLM", "mlp", "gate", PROJECTIONS, "shared_experts", NULL, EXPERTS_COUNTED | EXPERTS_OWN_SIZE | EXPERTS_GROUPS},
    {"DeepseekV3ForCausalLM", DEEPSEEK_V3},
    {"KimiK25ForConditionalGeneration", DEEPSEEK_V3},
    {"Kimi_K25ForConditionalGeneration", DEEPSEEK_V3},
    {"SolarOpenForCausalLM", DEEPSEEK_V3},
    {"Glm4vMoeForConditionalGeneration", DEEPSEEK_V3},
    {"ExaoneMoeForCausalLM", "mlp", "gate", PROJECTIONS, "shared_experts", "e_score_correction_bias",
     EXPERTS_COUNTED | EXPERTS_OWN_SIZE | EXPERTS_SIGMOID | EXPERTS_GROUPS},
    {"HYV3ForCausalLM", "mlp", "router.gate", PROJECTIONS, "shared_mlp", "expert_bias",
     EXPERTS_COUNTED | EXPERTS_OWN_SIZE | EXPERTS_SIGMOID | EXPERTS_NORMALIZED},
    {"Glm4MoeLiteForCausalLM", DEEPSEEK_V3},
    {"Dots1ForCausalLM", "mlp", "gate", PROJECTIONS, "shared_experts", "gate.e_score_correction_bias",
     EXPERTS_COUNTED | EXPERTS_OWN_SIZE | EXPERTS_SIGMOID},
    {"Ernie4_5_MoeForCausalLM", "mlp", "gate", PROJECTIONS, "shared_experts", "moe_statics.e_score_correction_bias",
     EXPERTS_COUNTED | EXPERTS_OWN_SIZE | EXPERTS_NORMALIZED},
    {"GraniteMoeForCausalLM", "block_sparse_moe", "router.layer", {"input_linear", "input_linear", "output_linear"}, NULL, NULL,
     EXPERTS_NORMALIZED | EXPERTS_HALVES | EXPERTS_ROWS},
    {"GraniteMoeSharedForCausalLM", "block_sparse_moe", "router.layer", {"input_linear", "input_linear", "output_linear"}, "shared_mlp",
     NULL, EXPERTS_NORMALIZED | EXPERTS_HALVES | EXPERTS_ROWS},
    {"GraniteMoeHybridForCausalLM", "block_sparse_moe", "router.layer", {"input_linear", "input_linear", "output_linear"}, "shared_mlp",
     NULL, EXPERTS_NORMALIZED | EXPERTS_HALVES | EXPERTS_ROWS | EXPERTS_OPTIONAL},
    {"Mistral4ForCausalLM", "mlp", "gate", {"gate_up_proj", "gate_up_proj", "down_proj"}, "shared_experts", NULL,
     EXPERTS_COUNTED | EXPERTS_OWN_SIZE | EXPERTS_HALVES | EXPERTS_STRAIGHT | EXPERTS_SCALED},
    {"Llama4ForCausalLM", LLAMA4},
    {"Llama4ForConditionalGeneration", LLAMA4},
    {"Lfm2MoeForCausalLM", "feed_forward", "gate", {"w1", "w3", "w2"}, NULL, "expert_bias", EXPERTS_SIGMOID | EXPERTS_OWN_SIZE},
    {"NemotronHForCausalLM", "mlp", "gate", {NULL, "up_proj", "down_proj"}, "shared_experts", "gate.e_score_correction_bias",
     EXPERTS_OWN_SIZE | EXPERTS_SIGMOID | EXPERTS_GROUPS | EXPERTS_UNGATED | EXPERTS_OPTIONAL},
    {"PhimoeForCausalLM", "block_sparse_moe", "gate", {"w1", "w3", "w2"}, NULL, NULL, EXPERTS_MIXED},
    {"PhiMoEForCausalLM", "block_sparse_moe", "gate", {"w1", "w3", "w2"}, NULL, NULL, EXPERTS_MIXED},
    {"HunYuanMoEV1ForCausalLM", "mlp", "gate.wg", PROJECTIONS, "shared_mlp", NULL, EXPERTS_ALIKE | EXPERTS_NORMALIZED},
    {"OlmoeForCausalLM", "mlp", "gate", PROJECTIONS, NULL, NULL, 0},
    {"Gemma4ForCausalLM", GEMMA4},
    {"Gemma4ForConditionalGeneration", GEMMA4},
    {"GptOssForCausalLM", "mlp", "router", {"gate_up_proj", "gate_up_proj", "down_proj"}, NULL, NULL,
     EXPERTS_NORMALIZED | EXPERTS_FUSED},
};

const struct arch_experts *arch_experts_of(const struct architecture *a) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strcmp(kinds[i].class_name, a->class_name) == 0) return &kinds[i];
  return NULL;
}

bool arch_experts_in(const struct arch_experts *e, const struct hf_config *c, uint32_t layer) {
  if (e && e->traits & EXPERTS_BESIDE) return false; /* arch_gemma4.c puts them there */
  bool dense = c->dense[layer] || layer < c->first_dense || layer % c->moe_layer_freq;
  if (c->last_sparse >= 0 && layer > c->last_sparse) dense = true;
  return e && !dense && (layer + 1) % (uint64_t)c->decoder_sparse_step == 0;
}

/* Outputs of the gate of what all rows have; 0: there is no such MLP. */
static uint64_t shared_size(const struct arch_experts *e, const struct hf_config *c) {
  if (e->traits & EXPERTS_ALIKE) return (uint64_t)c->intermediate_size;
  return (uint64_t)(e->traits & EXPERTS_COUNTED ? c->n_shared_experts * c->expert_size : c->shared_expert_size);
}

/* hf, gguf: the key in the one kind of file and in the other. */
static int bad(const struct model *m, struct tl_error *err, const char *hf, const char *gguf, const char *what) {
  return tl_error_set(err, TL_ECORRUPT, "model.path", "%s: %s: %s", m->gguf ? "metadata" : "config.json", m->gguf ? gguf : hf, what);
}

/* Choices that routers make here; the names are those of DeepSeek's configurations, which others leave out. */
static int check_choice(const struct arch_experts *e, const struct hf_config *c, struct tl_error *err) {
  bool sigmoid = e->traits & EXPERTS_SIGMOID;
  const char *scores = sigmoid ? "sigmoid" : "softmax";
  if (c->scoring_func[0] && strcmp(c->scoring_func, scores) != 0)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "config.json: scoring_func: expected %s, got %s", scores, c->scoring_func);
  bool known = sigmoid ? strcmp(c->topk_method, "noaux_tc") == 0
                       : strcmp(c->topk_method, "greedy") == 0 || strcmp(c->topk_method, "group_limited_greedy") == 0;
  if (c->topk_method[0] && !known)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "config.json: topk_method: expected %s, got %s",
                        sigmoid ? "noaux_tc" : "greedy or group_limited_greedy", c->topk_method);
  /* DeepSeek's own program leaves the factor out then, transformers does not normalize */
  if (!sigmoid && c->norm_topk_prob)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "config.json: norm_topk_prob: true is not supported with softmax");
  return TL_OK;
}

/* Whether only the experts of some groups are chosen from. */
static bool has_groups(const struct arch_experts *e, const struct hf_config *c) {
  bool greedy = !(e->traits & EXPERTS_SIGMOID) && strcmp(c->topk_method, "group_limited_greedy") != 0;
  return e->traits & EXPERTS_GROUPS && !greedy && c->topk_group < c->n_group;
}

static int check_groups(const struct model *m, const struct arch_experts *e, const struct hf_config *c, struct tl_error *err) {
  if (!has_groups(e, c)) return TL_OK;
  int64_t each = c->n_experts / c->n_group;
  if (c->n_experts % c->n_group || each < 2) return bad(m, err, "n_group", "expert_group_count", "expected groups of one size, of 2 or more experts");
  if (c->topk_group < 1 || c->topk_group * each < c->n_chosen)
    return bad(m, err, "topk_group", "expert_group_used_count", "expected groups with as many experts as are chosen");
  return TL_OK;
}

int arch_experts_check(const struct model *m, const struct arch_experts *e, const struct hf_config *c, struct tl_error *err) {
  if (e->traits & EXPERTS_OPTIONAL && c->n_experts == 0)
    return shared_size(e, c) ? TL_OK : bad(m, err, "shared_intermediate_size", "feed_forward_length", "is required");
  if (e->traits & EXPERTS_BESIDE && c->n_experts == 0) return TL_OK;
  if (c->n_experts < 1) return bad(m, err, "num_experts (num_local_experts)", "expert_count", "is required");
  if (c->n_chosen < 1 || c->n_chosen > c->n_experts)
    return bad(m, err, "num_experts_per_tok", "expert_used_count", "expected 1 to the number of experts");
  if (e->traits & EXPERTS_MIXED && c->n_chosen != 2)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "config.json: num_experts_per_tok: expected 2");
  if (e->traits & EXPERTS_OWN_SIZE && !c->expert_size)
    return bad(m, err, "moe_intermediate_size", "expert_feed_forward_length", "is required");
  if (e->traits & EXPERTS_GROUPS) {
    int r = check_choice(e, c, err);
    if (r == TL_OK) r = check_groups(m, e, c, err);
    if (r < 0) return r;
  } else if (e->traits & (EXPERTS_SIGMOID | EXPERTS_SCALED) && (c->n_group != 1 || c->topk_group != 1)) {
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "config.json: n_group, topk_group: expected 1");
  }
  if (e->shared && shared_size(e, c) > MODEL_MAX_DIM) return bad(m, err, "n_shared_experts", "expert_shared_count", "are too many");
  if (e->traits & EXPERTS_ROW_GATE && !c->shared_expert_size)
    return bad(m, err, "shared_expert_intermediate_size", "expert_shared_feed_forward_length", "is required");
  return TL_OK;
}

struct maker {
  struct model *m;
  const struct arch_experts *e;
  const struct hf_config *c;
  uint64_t dim, inner;
  uint32_t layer;
  struct tl_error *err;
};

/* The matrix that a plan calls NAME.weight within the layer's block. */
static int take(const struct maker *k, int32_t *ret, uint64_t rows, uint64_t columns, const char *name) {
  *ret = plan_tensor(k->m, k->err, rows, columns, "model.layers.%u.%s.%s.weight", k->layer, k->e->block, name);
  return *ret < 0 ? *ret : TL_OK;
}

static struct tl_op *add(const struct maker *k, enum tl_op_kind kind) {
  struct tl_op *op = plan_add(k->m, kind, k->layer);
  op->n_experts = (uint32_t)k->c->n_experts;
  op->n_chosen = (uint32_t)k->c->n_chosen;
  return op;
}

/* What is added for the choice alone. ERNIE's is a matrix of one row. */
static int choice_bias(const struct maker *k, struct tl_op *op) {
  char name[128];
  if (k->m->gguf) snprintf(name, sizeof name, "blk.%u.exp_probs_b.bias", k->layer);
  else snprintf(name, sizeof name, "model.layers.%u.%s.%s", k->layer, k->e->block, k->e->choice);
  int32_t found = model_find_tensor(k->m, name);
  bool row = found >= 0 && k->m->tensors[found].n_dims == 2;
  int32_t i = row ? plan_tensor(k->m, k->err, 1, op->n_experts, "%s", name) : plan_tensor(k->m, k->err, op->n_experts, 0, "%s", name);
  if (!(k->e->traits & EXPERTS_SIGMOID)) op->features |= TL_F_CHOICE;
  op->bias[0] = i;
  return i < 0 ? i : row ? experts_vector(k->m, i, &op->bias[0], k->err) : TL_OK;
}

/* By which all that a block adds is multiplied. */
static double block_factor(const struct maker *k) {
  return k->m->row->traits & ARCH_MULTIPLIERS ? k->c->residual_multiplier : 1;
}

static void multiply(struct tl_op *op, double factor) {
  op->features |= factor == 1 ? 0 : TL_F_FACTOR;
  op->factor = (float)factor;
}

static int route(const struct maker *k) {
  struct tl_op *op = add(k, TL_OP_ROUTE);
  if (k->e->traits & EXPERTS_NORMALIZED || k->c->norm_topk_prob) op->features |= TL_F_NORMALIZED;
  multiply(op, block_factor(k) * (k->e->choice || k->e->traits & (EXPERTS_GROUPS | EXPERTS_SCALED) ? k->c->routed_scaling_factor : 1));
  if (k->e->traits & EXPERTS_SIGMOID) op->features |= TL_F_SIGMOID;
  if (k->e->traits & EXPERTS_MIXED) {
    op->features |= TL_F_MIXED;
    op->limit = (float)(2 * k->c->router_jitter_noise);
  }
  int r = take(k, &op->weight[0], op->n_experts, k->dim, k->e->router);
  if (has_groups(k->e, k->c)) {
    op->features |= TL_F_GROUPED;
    op->n_groups = (uint32_t)k->c->n_group;
    op->n_groups_chosen = (uint32_t)k->c->topk_group;
  }
  if (r == TL_OK && k->e->choice && k->c->use_expert_bias) return choice_bias(k, op);
  if (r < 0 || !(k->e->traits & EXPERTS_FUSED)) return r;
  op->bias[0] = plan_tensor(k->m, k->err, op->n_experts, 0, "model.layers.%u.%s.%s.bias", k->layer, k->e->block, k->e->router);
  return op->bias[0] < 0 ? op->bias[0] : TL_OK;
}

/* Gemma 4's: a factor of each expert's shares, and the norm that experts read. */
static int beside(const struct maker *k) {
  struct tl_op *route = &k->m->ops[k->m->model.n_ops - 1];
  const char *scale = k->m->gguf ? "experts.down_proj.scale" : "router.per_expert_scale";
  route->weight[1] = plan_tensor(k->m, k->err, route->n_experts, 0, "model.layers.%u.%s", k->layer, scale);
  if (route->weight[1] < 0) return route->weight[1];
  struct tl_op *norm = plan_add(k->m, TL_OP_RMSNORM, k->layer);
  norm->eps = (float)k->c->rms_norm_eps;
  norm->weight[0] = plan_tensor(k->m, k->err, k->dim, 0, "model.layers.%u.pre_feedforward_layernorm_2.weight", k->layer);
  return norm->weight[0] < 0 ? norm->weight[0] : TL_OK;
}

/* Part `part` (gate, up, down) of all experts into input i of op. */
static int expert_matrices(const struct maker *k, struct tl_op *op, int i, unsigned part) {
  bool down = part == EXPERT_DOWN;
  uint64_t outer = k->c->expert_latent ? (uint64_t)k->c->expert_latent : k->dim;
  struct expert_part p = {.kind = k->e, .part = part, .layer = k->layer, .n = op->n_experts,
                          .rows = down ? outer : k->inner, .columns = down ? k->inner : outer};
  op->weight[i] = experts_weights(k->m, &p, k->err);
  if (op->weight[i] < 0 || !(k->e->traits & EXPERTS_FUSED)) return op->weight[i] < 0 ? op->weight[i] : TL_OK;
  op->bias[i] = experts_biases(k->m, &p, k->err);
  return op->bias[i] < 0 ? op->bias[i] : TL_OK;
}

/* Granite's, beside the block: gate and up in one, but in GGUF files, which have them as they have others'. */
static int shared_halves(const struct maker *k, uint64_t size, struct tl_op *up, struct tl_op *down) {
  static const char *const gguf[] = {"gate", "up", "down"};
  const char *kind = k->c->n_experts ? "_shexp" : "";
  const uint64_t rows[] = {size, size, k->dim};
  int32_t *const to[] = {&up->weight[0], &up->weight[1], &down->weight[0]};
  for (int i = 0; k->m->gguf && i < 3; i++)
    if ((*to[i] = plan_tensor(k->m, k->err, rows[i], i < 2 ? k->dim : size, "blk.%u.ffn_%s%s.weight", k->layer, gguf[i], kind)) < 0)
      return *to[i];
  if (k->m->gguf) return TL_OK;
  int32_t both = plan_tensor(k->m, k->err, 2 * size, k->dim, "model.layers.%u.%s.input_linear.weight", k->layer, k->e->shared);
  int r = plan_parts(k->m, k->err, both, rows, 2, up->weight);
  down->weight[0] = plan_tensor(k->m, k->err, k->dim, size, "model.layers.%u.%s.output_linear.weight", k->layer, k->e->shared);
  return r < 0 ? r : down->weight[0] < 0 ? down->weight[0] : TL_OK;
}

/* The matrix NAME.weight of the MLP that all rows have. */
static int take_shared(const struct maker *k, int32_t *ret, uint64_t rows, uint64_t columns, const char *name) {
  char full[80];
  snprintf(full, sizeof full, "%s.%s", k->e->shared, name);
  return take(k, ret, rows, columns, full);
}

/* What mlp_bias means for it. */
static int shared_biases(const struct maker *k, struct tl_op *up, struct tl_op *down, uint64_t size) {
  const struct {
    int32_t *place;
    uint64_t rows;
    const char *name;
  } wanted[] = {{&up->bias[0], size, "gate"}, {&up->bias[1], size, "up"}, {&down->bias[0], k->dim, "down"}};
  for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
    *wanted[i].place = plan_tensor(k->m, k->err, wanted[i].rows, 0, "model.layers.%u.%s.%s.%s_proj.bias", k->layer, k->e->block, k->e->shared,
                                   wanted[i].name);
    if (*wanted[i].place < 0) return *wanted[i].place;
  }
  return TL_OK;
}

/* What experts that work in a latent of the row have made, back to the row. */
static int latent_out(const struct maker *k) {
  struct tl_op *op = plan_add(k->m, TL_OP_EXPERTS_OUT, k->layer);
  return take(k, &op->weight[0], k->dim, (uint64_t)k->c->expert_latent, "fc2_latent_proj");
}

static int shared_ungated(const struct maker *k, uint64_t size) {
  struct tl_op *up = plan_add(k->m, TL_OP_UP, k->layer);
  if (k->c->expert_latent) { /* two sums, each added by itself, as where attention and MLP stand side by side */
    int r = latent_out(k);
    if (r < 0) return r;
    plan_add(k->m, TL_OP_COPY, k->layer);
  } else if (k->c->n_experts) {
    plan_add(k->m, TL_OP_ROW_GATE, k->layer);
  }
  struct tl_op *down = plan_add(k->m, TL_OP_MLP_DOWN, k->layer);
  up->features |= TL_F_RELU2;
  int r = take_shared(k, &up->weight[0], size, k->dim, "up_proj");
  return r == TL_OK ? take_shared(k, &down->weight[0], k->dim, size, "down_proj") : r;
}

/* An MLP for all rows; Qwen2-MoE's is times a number that each row makes. */
static int shared(const struct maker *k) {
  bool is_all = k->c->n_experts == 0; /* which GGUF files have as others' MLP */
  uint64_t size = is_all && k->m->gguf ? (uint64_t)k->c->intermediate_size : shared_size(k->e, k->c);
  if (size == 0) return TL_OK;
  if (k->e->traits & EXPERTS_UNGATED) return shared_ungated(k, size);
  struct tl_op *up = plan_add(k->m, TL_OP_GATED_UP, k->layer), *gate = is_all ? NULL : plan_add(k->m, TL_OP_ROW_GATE, k->layer);
  struct tl_op *down = plan_add(k->m, TL_OP_MLP_DOWN, k->layer);
  multiply(down, block_factor(k));
  if (k->e->traits & EXPERTS_ROWS) return shared_halves(k, size, up, down);
  int r = take_shared(k, &up->weight[0], size, k->dim, "gate_proj");
  if (r == TL_OK) r = take_shared(k, &up->weight[1], size, k->dim, "up_proj");
  if (r == TL_OK) r = take_shared(k, &down->weight[0], k->dim, size, "down_proj");
  if (!(k->e->traits & EXPERTS_ROW_GATE)) return r == TL_OK && k->c->mlp_bias ? shared_biases(k, up, down, size) : r;
  if (r == TL_OK && k->m->gguf) return take(k, &gate->weight[0], k->dim, 0, "shared_expert_gate");
  if (r == TL_OK) r = take(k, &gate->weight[0], 1, k->dim, "shared_expert_gate");
  if (r == TL_OK) r = experts_vector(k->m, gate->weight[0], &gate->weight[0], k->err);
  return r;
}

int arch_experts_plan(struct model *m, const struct arch_experts *e, const struct hf_config *c, uint32_t layer,
                      struct tl_error *err) {
  int64_t inner = e->traits & EXPERTS_OWN_SIZE ? c->expert_size : c->intermediate_size;
  struct maker k = {m, e, c, (uint64_t)c->hidden_size, (uint64_t)inner, layer, err};
  if (c->n_experts == 0) return shared(&k);
  int r = route(&k);
  if (r == TL_OK && e->traits & EXPERTS_BESIDE) r = beside(&k);
  if (c->expert_latent && r == TL_OK) {
    struct tl_op *in = add(&k, TL_OP_EXPERTS_IN);
    r = take(&k, &in->weight[0], (uint64_t)c->expert_latent, k.dim, "fc1_latent_proj");
  }
  struct tl_op *up = add(&k, TL_OP_EXPERTS_UP), *down = add(&k, TL_OP_EXPERTS_DOWN);
  if (e->traits & EXPERTS_FUSED) {
    up->features |= TL_F_CLAMPED;
    up->limit = (float)c->swiglu_limit;
  }
  if (e->traits & EXPERTS_BESIDE) up->features |= TL_F_GELU_TANH, down->features |= TL_F_TO_H;
  if (e->traits & EXPERTS_SHARE_IN) up->features |= TL_F_SHARE_IN, down->features |= TL_F_SHARE_IN;
  if (c->expert_latent) up->features |= TL_F_LOW_RANK, down->features |= TL_F_LOW_RANK;
  bool ungated = e->traits & EXPERTS_UNGATED;
  if (ungated) up->features |= TL_F_RELU2;
  if (r == TL_OK && !ungated) r = expert_matrices(&k, up, 0, EXPERT_GATE);
  if (r == TL_OK) r = expert_matrices(&k, up, ungated ? 0 : 1, EXPERT_UP);
  if (r == TL_OK) r = expert_matrices(&k, down, 0, EXPERT_DOWN);
  if (r == TL_OK && c->expert_latent && !shared_size(e, c)) return latent_out(&k);
  return r == TL_OK && e->shared ? shared(&k) : r;
}
