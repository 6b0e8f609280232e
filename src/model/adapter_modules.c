/* SPDX-License-Identifier: MIT */
/* What a PEFT adapter calls a model's products, and which inputs of the plan's records the rows of each are. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/adapter_private.h"

/* What a layer may have. EXPERTS: what stands beside them, too, where the layer has none but its MLP is named so; not Gemma 4's, whose MLP is
 * named as others'. SAME_VALUES: keys are values. */
enum trait { GATED = 1 << 0, DELTA = 1 << 1, SHORT = 1 << 2, SCAN = 1 << 3, EXPERTS = 1 << 4, TURNED = 1 << 5, SAME_VALUES = 1 << 6 };
#define STATE (DELTA | SHORT | SCAN)

/* How rows of several inputs lie in one matrix: those of one behind those of the other, or of each head in turn; SAME: all have the same. */
enum order { BEHIND, BY_HEADS, BY_KEY_HEADS, SAME };

/* needs, without: of enum trait. What a layer with experts has in place of an MLP is one that all rows have. */
static const struct module {
  const char *name;
  uint32_t needs, without;
  enum order order;
  uint32_t n;
  struct {
    enum tl_op_kind kind;
    uint32_t input;
  } parts[ADAPTER_MAX_PARTS];
} modules[] = {
    {"self_attn.q_proj", GATED, 0, BY_HEADS, 2, {{TL_OP_QKV, 0}, {TL_OP_GATE_IN, 0}}},
    {"self_attn.q_proj", 0, GATED, BEHIND, 1, {{TL_OP_QKV, 0}}},
    {"self_attn.k_proj", SAME_VALUES, 0, SAME, 2, {{TL_OP_QKV, 1}, {TL_OP_QKV, 2}}},
    {"self_attn.k_proj", 0, SAME_VALUES, BEHIND, 1, {{TL_OP_QKV, 1}}},
    {"self_attn.v_proj", 0, SAME_VALUES, BEHIND, 1, {{TL_OP_QKV, 2}}},
    {"self_attn.qkv_proj", 0, GATED, BEHIND, 3, {{TL_OP_QKV, 0}, {TL_OP_QKV, 1}, {TL_OP_QKV, 2}}},
    {"self_attn.o_proj", 0, STATE, BEHIND, 1, {{TL_OP_ATTN_OUT, 0}}},
    {"self_attn.out_proj", 0, STATE, BEHIND, 1, {{TL_OP_ATTN_OUT, 0}}},
    {"self_attn.dense", 0, STATE, BEHIND, 1, {{TL_OP_ATTN_OUT, 0}}},
    {"attention.self.query", 0, 0, BEHIND, 1, {{TL_OP_QKV, 0}}},
    {"attention.self.key", 0, 0, BEHIND, 1, {{TL_OP_QKV, 1}}},
    {"attention.self.value", 0, 0, BEHIND, 1, {{TL_OP_QKV, 2}}},
    {"attention.output.dense", 0, STATE, BEHIND, 1, {{TL_OP_ATTN_OUT, 0}}},
    {"attn.Wqkv", 0, 0, BEHIND, 3, {{TL_OP_QKV, 0}, {TL_OP_QKV, 1}, {TL_OP_QKV, 2}}},
    {"attn.Wo", 0, STATE, BEHIND, 1, {{TL_OP_ATTN_OUT, 0}}},
    {"attn.out_proj", 0, STATE, BEHIND, 1, {{TL_OP_ATTN_OUT, 0}}},
    {"linear_attn.in_proj_qkv", DELTA, 0, BEHIND, 3, {{TL_OP_DELTA_IN, 0}, {TL_OP_DELTA_IN, 1}, {TL_OP_DELTA_IN, 2}}},
    {"linear_attn.in_proj_z", DELTA, 0, BEHIND, 1, {{TL_OP_DELTA_GATES, 0}}},
    {"linear_attn.in_proj_b", DELTA, 0, BEHIND, 1, {{TL_OP_DELTA_GATES, 1}}},
    {"linear_attn.in_proj_a", DELTA, 0, BEHIND, 1, {{TL_OP_DELTA_GATES, 2}}},
    {"linear_attn.in_proj_qkvz", DELTA, 0, BY_KEY_HEADS, 4,
     {{TL_OP_DELTA_IN, 0}, {TL_OP_DELTA_IN, 1}, {TL_OP_DELTA_IN, 2}, {TL_OP_DELTA_GATES, 0}}},
    {"linear_attn.in_proj_ba", DELTA, 0, BY_KEY_HEADS, 2, {{TL_OP_DELTA_GATES, 1}, {TL_OP_DELTA_GATES, 2}}},
    {"linear_attn.out_proj", DELTA, 0, BEHIND, 1, {{TL_OP_ATTN_OUT, 0}}},
    {"mamba.in_proj", SCAN, 0, BEHIND, 5, {{TL_OP_DELTA_GATES, 0}, {TL_OP_DELTA_IN, 2}, {TL_OP_DELTA_IN, 1}, {TL_OP_DELTA_IN, 0}, {TL_OP_DELTA_GATES, 1}}},
    {"mamba.out_proj", SCAN, 0, BEHIND, 1, {{TL_OP_ATTN_OUT, 0}}},
    {"conv.in_proj", SHORT, 0, BEHIND, 3, {{TL_OP_SHORT_IN, 0}, {TL_OP_SHORT_IN, 1}, {TL_OP_SHORT_IN, 2}}},
    {"conv.out_proj", SHORT, 0, BEHIND, 1, {{TL_OP_ATTN_OUT, 0}}},
#define MLP(block, needs, without)                                                 \
  {block ".gate_proj", needs, without, BEHIND, 1, {{TL_OP_GATED_UP, 0}}},          \
      {block ".up_proj", needs, without, BEHIND, 1, {{TL_OP_GATED_UP, 1}}},        \
      {block ".down_proj", needs, without, BEHIND, 1, {{TL_OP_MLP_DOWN, 0}}}
    MLP("mlp", 0, EXPERTS),
    MLP("feed_forward", 0, EXPERTS),
    MLP("mlp.shared_expert", EXPERTS, 0),
    MLP("mlp.shared_experts", EXPERTS, 0),
    MLP("mlp.shared_mlp", EXPERTS, 0),
    MLP("feed_forward.shared_expert", EXPERTS, 0),
#undef MLP
    {"per_layer_input_gate", 0, 0, BEHIND, 1, {{TL_OP_UP, 0}}},
    {"per_layer_projection", 0, 0, BEHIND, 1, {{TL_OP_MLP_DOWN, 0}}},
    {"mlp.shared_experts.up_proj", EXPERTS, 0, BEHIND, 1, {{TL_OP_UP, 0}}},
    {"mlp.gate_up_proj", 0, EXPERTS, BEHIND, 2, {{TL_OP_GATED_UP, 0}, {TL_OP_GATED_UP, 1}}},
    {"shared_mlp.input_linear", EXPERTS, 0, BEHIND, 2, {{TL_OP_GATED_UP, 0}, {TL_OP_GATED_UP, 1}}},
    {"shared_mlp.output_linear", EXPERTS, 0, BEHIND, 1, {{TL_OP_MLP_DOWN, 0}}},
    {"mlp.up_proj", 0, EXPERTS, BEHIND, 1, {{TL_OP_UP, 0}}},
    {"mlp.c_fc", 0, EXPERTS, BEHIND, 1, {{TL_OP_UP, 0}}},
    {"mlp.c_proj", 0, EXPERTS, BEHIND, 1, {{TL_OP_MLP_DOWN, 0}}},
    {"mlp.fc1", 0, EXPERTS, BEHIND, 1, {{TL_OP_UP, 0}}},
    {"mlp.fc2", 0, EXPERTS, BEHIND, 1, {{TL_OP_MLP_DOWN, 0}}},
    {"mlp.fc12", 0, EXPERTS, BEHIND, 1, {{TL_OP_GATED_UP, 0}}},
    {"mlp.fc11", 0, EXPERTS, BEHIND, 1, {{TL_OP_GATED_UP, 1}}},
    {"mlp.Wi", 0, EXPERTS, BEHIND, 2, {{TL_OP_GATED_UP, 0}, {TL_OP_GATED_UP, 1}}},
    {"mlp.Wo", 0, EXPERTS, BEHIND, 1, {{TL_OP_MLP_DOWN, 0}}},
    {"intermediate.dense", 0, EXPERTS, BEHIND, 1, {{TL_OP_UP, 0}}},
    {"output.dense", 0, EXPERTS, BEHIND, 1, {{TL_OP_MLP_DOWN, 0}}},
    {"feed_forward.w1", 0, EXPERTS, BEHIND, 1, {{TL_OP_GATED_UP, 0}}},
    {"feed_forward.w3", 0, EXPERTS, BEHIND, 1, {{TL_OP_GATED_UP, 1}}},
    {"feed_forward.w2", 0, EXPERTS, BEHIND, 1, {{TL_OP_MLP_DOWN, 0}}}};

const char *adapter_module_name(uint32_t i) {
  return i < sizeof modules / sizeof *modules ? modules[i].name : NULL;
}

/* --- in a layer ------------------------------------------------------------------------------- */

static uint32_t traits_of(const struct model *m, uint32_t layer) {
  uint32_t traits = m->shared_mlp ? EXPERTS : 0;
  for (uint32_t i = 0; i < m->model.n_ops; i++) {
    if (m->ops[i].layer != layer) continue;
    switch (m->ops[i].kind) {
      case TL_OP_GATE_IN: traits |= GATED; break;
      case TL_OP_SHORT_IN: traits |= SHORT; break;
      case TL_OP_ROUTE: traits |= EXPERTS; break;
      case TL_OP_JOIN: traits &= ~(uint32_t)EXPERTS; break;
      case TL_OP_QKV: traits |= m->ops[i].weight[1] >= 0 && m->ops[i].weight[1] == m->ops[i].weight[2] ? SAME_VALUES : 0; break;
      case TL_OP_DELTA_IN: /* three records before that of the rule, whose number is of layers with a state */
        traits |= m->ops[i + 3].kind == TL_OP_SCAN ? SCAN : DELTA | (m->ops[i + 3].features & TL_F_TURNED ? TURNED : 0);
        break;
      default: break;
    }
  }
  return traits;
}

/* Whether the record is of what Gemma 4's layers get beside x: UP, BESIDE_GATE, MLP_DOWN. */
static bool is_beside(const struct model *m, uint32_t i) {
  return (i + 1 < m->model.n_ops && m->ops[i + 1].kind == TL_OP_BESIDE_GATE) || (i && m->ops[i - 1].kind == TL_OP_BESIDE_GATE);
}

/* The layer's last record of that kind; -1: none. */
static int64_t find_record(const struct model *m, enum tl_op_kind kind, uint32_t layer, bool beside) {
  int64_t found = -1;
  for (uint32_t i = 0; i < m->model.n_ops; i++)
    if (m->ops[i].kind == kind && m->ops[i].layer == layer && is_beside(m, i) == beside) found = i;
  return found;
}

static uint64_t heads_of(const struct model *m, enum order order) {
  return order == BEHIND || order == SAME ? 1 : order == BY_HEADS ? m->model.n_heads : m->model.recurrence.n_key_heads;
}

bool adapter_module_in(const struct model *m, uint32_t number, uint32_t layer, struct adapter_target *ret) {
  const struct module *module = &modules[number];
  uint32_t traits = traits_of(m, layer);
  *ret = (struct adapter_target){.n_parts = module->n, .turned = traits & TURNED && module->needs & DELTA};
  bool beside = strncmp(module->name, "per_layer_", 10) == 0, same = module->order == SAME;
  if ((traits & module->needs) != module->needs || traits & module->without) return false;
  for (uint32_t i = 0; i < module->n; i++) {
    int64_t record = find_record(m, module->parts[i].kind, layer, beside);
    if (record < 0 || m->ops[record].weight[module->parts[i].input] < 0) return false;
    const struct tl_tensor *weight = &m->tensors[m->ops[record].weight[module->parts[i].input]];
    uint64_t each = weight->shape[0] / heads_of(m, module->order);
    ret->parts[i] = (struct adapter_target_part){(uint32_t)record, module->parts[i].input, {ret->step, each, 0, weight->shape[0]}};
    ret->columns = weight->shape[1];
    if (same) ret->rows = weight->shape[0];
    else ret->rows += weight->shape[0], ret->step += each;
  }
  for (uint32_t i = 0; i < module->n; i++) ret->parts[i].rows.step = ret->step;
  return true;
}

/* --- names ------------------------------------------------------------------------------------ */

bool adapter_ends_so(const char *module, const char *name) {
  size_t length = strlen(module), n = strlen(name);
  return length >= n && strcmp(module + length - n, name) == 0 && (length == n || module[length - n - 1] == '.');
}

/* Behind the first of the texts that it begins with, or itself. */
static const char *behind(const char *name, const char *const *texts, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (strncmp(name, texts[i], strlen(texts[i])) == 0) return name + strlen(texts[i]);
  return name;
}

/* "model.layers.3.self_attn.q_proj", "encoder.layer.3.output.dense": what stands behind the number; NULL: it is of no layer. */
static const char *within_layer(const char *name, uint32_t *ret_layer) {
  static const char *const models[] = {"model.", "bert.", "roberta."}, *const lists[] = {"layers.", "encoder.layer.", "encoder.layers."};
  char *end;
  name = behind(name, models, sizeof models / sizeof *models);
  const char *number = behind(name, lists, sizeof lists / sizeof *lists);
  if (number == name || *number < '0' || *number > '9') return NULL;
  unsigned long layer = strtoul(number, &end, 10);
  if (*end != '.' || layer > UINT32_MAX) return NULL;
  *ret_layer = (uint32_t)layer;
  return end + 1;
}

#define NAME_IN_PLAN 400

/* The name of a module, or of a tensor in it, as plans have it. */
static const char *name_in_plan(const struct model *m, const char *name, char buffer[NAME_IN_PLAN]) {
  if (!m->mixers) {
    /* the adapter may be of a model within one of pictures where the base is the text model alone, of a GGUF file */
    const char *nested = hf_nested_tensor(name, buffer, NAME_IN_PLAN);
    return nested ? nested : name;
  }
  char dotted[NAME_IN_PLAN]; /* mixers are told by what their products' tensors begin with */
  size_t length = strlen(name);
  if (length + 2 > sizeof dotted) return name;
  snprintf(dotted, sizeof dotted, "%s.", name);
  if (hf_mixer_tensor(dotted, buffer, NAME_IN_PLAN) != buffer) return name;
  buffer[strlen(buffer) - 1] = 0;
  return buffer;
}

bool adapter_is_named(const struct model *m, uint32_t i, const char *item) {
  const char *name = modules[i].name;
  char mixer[80];
  snprintf(mixer, sizeof mixer, "mixer%s", strchr(name, '.'));
  return adapter_ends_so(name, item) || adapter_ends_so(item, name) || (m->mixers && (adapter_ends_so(mixer, item) || adapter_ends_so(item, mixer)));
}

bool adapter_find_target(const struct model *m, const char *name, struct adapter_target *ret) {
  char buffer[NAME_IN_PLAN];
  uint32_t layer;
  const char *module = within_layer(name_in_plan(m, name, buffer), &layer);
  if (m->names) return false; /* whose products adapters call otherwise, and some of whose rows lie otherwise */
  if (!module || layer >= m->model.n_layers) return false;
  for (uint32_t i = 0; i < sizeof modules / sizeof *modules; i++)
    if (strcmp(module, modules[i].name) == 0 && adapter_module_in(m, i, layer, ret)) return true;
  return false;
}

const char *adapter_refusal(const struct model *m, const char *name) {
  static const struct {
    const char *part, *why;
  } known[] = {{".experts.", "adapters of routed experts are not supported"},
               {"block_sparse_moe.input_linear.", "adapters of routed experts are not supported"},
               {"block_sparse_moe.output_linear.", "adapters of routed experts are not supported"},
               {"visual.", "adapters of what reads pictures are not supported"},
               {"vision_", "adapters of what reads pictures are not supported"},
               {"multi_modal_projector.", "adapters of what reads pictures are not supported"},
               {"embed_tokens.", "adapters of the embedding are not supported"},
               {"lm_head.", "adapters of the output matrix are not supported"},
               {".conv1d.", "adapters of convolutions are not supported"},
               {".conv.conv.", "adapters of convolutions are not supported"},
               {".A_log.", "adapters of what is no product are not supported"},
               {".D.", "adapters of what is no product are not supported"},
               {".dt_bias.", "adapters of what is no product are not supported"},
               {"pooler.", "adapters of what stands behind pooling are not supported"},
               {"classifier.", "adapters of what stands behind pooling are not supported"},
               {"head.", "adapters of what stands behind pooling are not supported"},
               {".shared_expert_gate.", "adapters of the gate of a shared expert are not supported"},
               {"mlp.gate.", "adapters of routers are not supported"},
               {"mixer.gate.", "adapters of routers are not supported"},
               {"feed_forward.gate.", "adapters of routers are not supported"},
               {".router.", "adapters of routers are not supported"},
               {"_a_proj", "adapters of latent attention's products are not supported, but for o_proj"},
               {"kv_b_proj.", "adapters of latent attention's products are not supported, but for o_proj"},
               {"q_b_proj.", "adapters of latent attention's products are not supported, but for o_proj"},
               {"_latent_proj.", "adapters of what leads into experts' latents and back are not supported"},
               {"mtp.", "adapters of layers that guess further tokens are not supported"}};
  char buffer[NAME_IN_PLAN];
  uint32_t layer;
  if (m->names) return "adapters of this architecture are not supported";
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strstr(name, known[i].part)) return known[i].why;
  const char *planned = name_in_plan(m, name, buffer);
  if (within_layer(planned, &layer) && layer >= m->model.n_layers) return "the model has no such layer";
  for (size_t i = 0; i < sizeof modules / sizeof *modules; i++)
    if (strstr(planned, modules[i].name)) return "the model has no such product in this layer";
  return "expected lora_A or lora_B of a product of attention, of a layer with a state, of an MLP or of a shared expert";
}
