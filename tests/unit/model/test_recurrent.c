/* SPDX-License-Identifier: MIT */
/* Models whose layers keep a state: what their configurations leave out, what files cannot be, how plans and ranks share them out. */
#include "changed_file.h"
#include "model/model_private.h"
#include "tokenlane/adapter.h"
#include "tokenlane/slice.h"

static char folder[64];

static int make_folder(void **state) {
  (void)state;
  unit_make_folder(folder);
  return 0;
}

static int remove_folder(void **state) {
  (void)state;
  static const char *const files[] = {"config.json", "model.safetensors", "x.gguf", "adapter_config.json", "adapter_model.safetensors"};
  unit_remove_files(folder, files, UNIT_COUNT(files));
  return rmdir(folder);
}

/* --- configurations ---------------------------------------------------------------------------- */

static int read_text(const char *text, struct hf_config *ret, struct tl_error *err) {
  unit_write_file(folder, "config.json", text, strlen(text));
  *err = (struct tl_error){0};
  return model_read_config(folder, ret, err);
}

#define SIZES "\"hidden_size\": 64, \"intermediate_size\": 900, \"num_hidden_layers\": 5"
#define OF(class, more) "{\"architectures\": [\"" class "\"], " SIZES more "}"
#define IN_TEXT(class, type, more) "{\"architectures\": [\"" class "\"], \"text_config\": {\"model_type\": \"" type "\", " SIZES more "}}"

/* As transformers' classes have them. */
static void test_defaults(void **state) {
  (void)state;
  static struct hf_config c;
  struct tl_error err;
  static const struct {
    const char *text;
    int64_t heads, kv_heads, vocab, chosen;
  } cases[] = {{OF("Qwen3NextForCausalLM", ""), 16, 2, 151936, 10},
               {OF("Qwen3_5ForCausalLM", ""), 16, 4, 248320, 0},
               {OF("Qwen3_5MoeForCausalLM", ""), 16, 2, 248320, 8},
               {IN_TEXT("Qwen3_5ForConditionalGeneration", "qwen3_5_text", ""), 16, 4, 248320, 0},
               {IN_TEXT("Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe_text", ""), 16, 2, 248320, 8}};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    if (read_text(cases[i].text, &c, &err) < 0) fail_msg("%s", err.message);
    assert_int_equal(c.num_attention_heads, cases[i].heads);
    assert_int_equal(c.num_key_value_heads, cases[i].kv_heads);
    assert_int_equal(c.vocab_size, cases[i].vocab);
    assert_int_equal(c.n_chosen, cases[i].chosen);
    assert_int_equal(c.head_dim, 256);
    assert_int_equal(c.max_position_embeddings, 32768);
    assert_true(c.rms_norm_eps == 1e-6 && c.rope_theta == 10000);
    assert_true(c.delta_key_heads == 16 && c.delta_value_heads == 32 && c.delta_key_dim == 128 && c.delta_value_dim == 128 && c.conv_rows == 4);
    for (unsigned k = 0; k < 5; k++) assert_int_equal(c.keeps[k], k != 3);
  }
  assert_int_equal(read_text(OF("Lfm2ForCausalLM", ", \"full_attn_idxs\": [1, 4]"), &c, &err), TL_OK);
  assert_true(c.num_attention_heads == 32 && c.num_key_value_heads == 8 && c.vocab_size == 65536 && c.max_position_embeddings == 128000);
  assert_true(c.rms_norm_eps == 1e-5 && c.rope_theta == 1e6 && c.conv_rows == 3 && !c.conv_bias);
  assert_int_equal(c.intermediate_size, 768); /* 600 in whole 256s */
  for (unsigned k = 0; k < 5; k++) assert_int_equal(c.keeps[k], k != 1 && k != 4);
  assert_int_equal(read_text(OF("Lfm2ForCausalLM", ", \"block_ff_dim\": 96, \"block_multiple_of\": 10, \"block_ffn_dim_multiplier\": 1.5"), &c, &err), TL_OK);
  assert_int_equal(c.intermediate_size, 100);
  assert_int_equal(read_text(OF("Lfm2ForCausalLM", ", \"block_auto_adjust_ff_dim\": false"), &c, &err), TL_OK);
  assert_int_equal(c.intermediate_size, 900);
  for (unsigned k = 0; k < 5; k++) assert_false(c.keeps[k]);
  assert_int_equal(read_text(OF("Lfm2MoeForCausalLM", ""), &c, &err), TL_OK);
  assert_true(c.intermediate_size == 900 && c.n_experts == 32 && c.n_chosen == 4 && c.expert_size == 1792 && c.first_dense == 2 && c.norm_topk_prob);
}

/* Mamba 2's, by the names that each has for the same. */
static void test_scan_defaults(void **state) {
  (void)state;
  static struct hf_config c;
  struct tl_error err;
#define GRANITE_HEADS "\"num_attention_heads\": 4, \"vocab_size\": 9, \"max_position_embeddings\": 64, "
#define TYPES "\"layer_types\": [\"mamba\", \"attention\", \"linear_attention\", \"full_attention\", \"mamba\"]"
  static const char granite[] = OF("GraniteMoeHybridForCausalLM", ", " GRANITE_HEADS "\"mamba_d_head\": \"auto\", \"time_step_limit\": [0.0, Infinity], " TYPES);
  if (read_text(granite, &c, &err) < 0) fail_msg("%s", err.message);
  for (unsigned k = 0; k < 5; k++) assert_int_equal(c.keeps[k], k % 2 == 0);
  assert_true(c.delta_value_heads == 128 && c.delta_value_dim == 1 && c.delta_key_heads == 1 && c.delta_key_dim == 256 && c.conv_rows == 4);
  assert_true(c.conv_bias && c.n_experts == 8 && c.n_chosen == 2 && c.shared_expert_size == 1024);
  static const char nemotron[] = "{\"architectures\": [\"NemotronHForCausalLM\"], \"model_type\": \"nemotron_h\", \"hidden_size\": 64, "
                                 "\"mamba_num_heads\": 8, \"layer_norm_epsilon\": 1e-3, \"hybrid_override_pattern\": \"M-*ME\", "
                                 "\"time_step_limit\": [0.0, {\"__float__\": \"Infinity\"}]}";
  if (read_text(nemotron, &c, &err) < 0) fail_msg("%s", err.message);
  assert_true(c.num_hidden_layers == 5 && c.intermediate_size == 21504 && c.rms_norm_eps == 1e-3 && c.head_dim == 128 && c.num_key_value_heads == 8);
  assert_true(c.delta_value_heads == 8 && c.delta_value_dim == 64 && c.delta_key_dim == 128 && c.n_experts == 8 && c.norm_topk_prob);
  for (unsigned k = 0; k < 5; k++) {
    assert_int_equal(c.keeps[k], k == 0 || k == 3);
    assert_int_equal(c.mlp_alone[k], k == 1 || k == 4);
    assert_int_equal(c.dense[k], k == 1);
  }
}

static void expect(const char *text, int code, const char *message) {
  static struct hf_config c;
  struct tl_error err;
  assert_int_equal(read_text(text, &c, &err), code);
  if (code == TL_OK) return;
  assert_string_equal(err.field, "model.path");
  if (!strstr(err.message, message)) fail_msg("'%s': expected '%s'", err.message, message);
}

static void test_hostile(void **state) {
  (void)state;
#define NEXT(more) OF("Qwen3NextForCausalLM", ", " more)
#define LFM2(more) OF("Lfm2ForCausalLM", ", " more)
  expect(NEXT("\"linear_num_key_heads\": 0"), TL_ECORRUPT, "linear_num_key_heads: expected an integer from 1 to 4096");
  expect(NEXT("\"linear_num_key_heads\": 3"), TL_ECORRUPT, "linear_num_value_heads: expected a multiple of linear_num_key_heads");
  expect(NEXT("\"linear_num_value_heads\": 100000"), TL_ECORRUPT, "linear_num_value_heads: expected an integer from 1 to 4096");
  expect(NEXT("\"linear_key_head_dim\": 0"), TL_ECORRUPT, "linear_key_head_dim: expected an integer from 1 to 1024");
  expect(NEXT("\"linear_value_head_dim\": 1099511627776"), TL_ECORRUPT, "linear_value_head_dim: expected an integer from 1 to 1024");
  expect(NEXT("\"linear_conv_kernel_dim\": 0"), TL_ECORRUPT, "linear_conv_kernel_dim: expected an integer from 2 to 16");
  expect(NEXT("\"linear_conv_kernel_dim\": 17"), TL_ECORRUPT, "linear_conv_kernel_dim: expected an integer from 2 to 16");
  expect(NEXT("\"full_attention_interval\": 0"), TL_ECORRUPT, "full_attention_interval: expected an integer from 1 to 1000");
  expect(NEXT("\"full_attention_interval\": 6"), TL_ECORRUPT, "layer_types: expected at least one layer with full_attention");
  expect(NEXT("\"attention_bias\": true"), TL_EUNSUPPORTED, "attention_bias: is not supported");
  expect(NEXT("\"layer_types\": [\"linear_attention\"]"), TL_ECORRUPT, "layer_types: expected a list of num_hidden_layers items");
#define FIVE(type) "\"layer_types\": [\"full_attention\", \"" type "\", \"full_attention\", \"full_attention\", \"full_attention\"]"
  expect(NEXT(FIVE("conv")), TL_ECORRUPT, "layer_types: expected full_attention");
  expect(NEXT(FIVE("sliding_attention")), TL_ECORRUPT, "layer_types: expected full_attention, or linear_attention");
  expect(LFM2(FIVE("linear_attention")), TL_ECORRUPT, "layer_types: expected full_attention");
  expect(OF("LlamaForCausalLM", ", \"num_attention_heads\": 4, \"vocab_size\": 9, \"max_position_embeddings\": 64, \"conv_L_cache\": 3, " FIVE("conv")),
         TL_ECORRUPT, "layer_types: expected full_attention or sliding_attention");
  expect(LFM2("\"conv_L_cache\": 1"), TL_ECORRUPT, "conv_L_cache: expected an integer from 2 to 16");
  expect(LFM2("\"full_attn_idxs\": [5]"), TL_ECORRUPT, "full_attn_idxs: expected numbers of layers");
  expect(LFM2("\"full_attn_idxs\": [-1]"), TL_ECORRUPT, "full_attn_idxs: expected numbers of layers");
  expect(LFM2("\"full_attn_idxs\": 3"), TL_ECORRUPT, "full_attn_idxs: expected a list of layers");
  expect(LFM2("\"full_attn_idxs\": []"), TL_ECORRUPT, "layer_types: expected at least one layer with full_attention");
  expect(LFM2("\"block_ff_dim\": 1000000, \"block_ffn_dim_multiplier\": 1000"), TL_ECORRUPT, "block_ffn_dim_multiplier: the MLP becomes too large");
#define GRANITE(more) OF("GraniteMoeHybridForCausalLM", ", " GRANITE_HEADS more ", " TYPES)
#define NEMOTRON(more) OF("NemotronHForCausalLM", ", \"model_type\": \"nemotron_h\", \"mamba_num_heads\": 8, " more)
  expect(GRANITE("\"mamba_n_heads\": 100"), TL_ECORRUPT, "mamba_n_heads: expected a divisor of mamba_expand times hidden_size");
  expect(GRANITE("\"mamba_n_heads\": 100, \"mamba_d_head\": 8, \"mamba_n_groups\": 3"), TL_ECORRUPT, "mamba_n_heads: expected a multiple of mamba_n_groups");
  expect(GRANITE("\"mamba_d_state\": 1025"), TL_ECORRUPT, "mamba_d_state: expected an integer from 1 to 1024");
  expect(GRANITE("\"mamba_d_head\": \"large\""), TL_ECORRUPT, "mamba_d_head: expected an integer");
  expect(GRANITE("\"mamba_proj_bias\": true"), TL_EUNSUPPORTED, "mamba_proj_bias: is not supported");
  expect(GRANITE("\"time_step_limit\": [0.001, Infinity]"), TL_EUNSUPPORTED, "time_step_limit: expected 0 and Infinity");
  expect(GRANITE("\"time_step_limit\": [0, 10]"), TL_EUNSUPPORTED, "time_step_limit: expected 0 and Infinity");
  expect(OF("GraniteMoeHybridForCausalLM", ", " GRANITE_HEADS "\"mamba_n_heads\": 4"), TL_ECORRUPT, "layer_types: expected at least one layer with full_attention");
  expect(GRANITE("\"layers_block_type\": 1"), TL_OK, NULL);
  expect(NEMOTRON("\"hybrid_override_pattern\": \"M*X\""), TL_ECORRUPT, "layer_types: expected full_attention");
  expect(NEMOTRON("\"hybrid_override_pattern\": \"ME-\""), TL_ECORRUPT, "layer_types: expected at least one layer with full_attention");
  expect(NEMOTRON("\"hybrid_override_pattern\": \"\""), TL_ECORRUPT, "num_hidden_layers: expected an integer from 1");
  expect(NEMOTRON("\"hybrid_override_pattern\": \"M*\", \"use_bias\": true"), TL_EUNSUPPORTED, "use_bias: is not supported");
  expect(NEMOTRON("\"hybrid_override_pattern\": \"M*\", \"mamba_hidden_act\": \"gelu\""), TL_EUNSUPPORTED, "mamba_hidden_act: is not supported");
  expect(NEMOTRON("\"hybrid_override_pattern\": \"M*E\", \"moe_latent_size\": 80"), TL_EUNSUPPORTED, "moe_latent_size: is not supported");
  expect(NEMOTRON("\"hybrid_override_pattern\": \"M*E\", \"mlp_bias\": true"), TL_EUNSUPPORTED, "mlp_bias: is not supported beside experts");
  expect(LFM2("\"block_ff_dim\": 1"), TL_ECORRUPT, "block_ffn_dim_multiplier: the MLP becomes too large, or nothing");
}

/* Not even without weights. */
static void test_pooling(void **state) {
  (void)state;
  const char *text = OF("Qwen3_5Model", "");
  char path[200];
  struct tl_model *m = NULL;
  struct tl_error err = {0};
  unit_write_file(folder, "config.json", text, strlen(text));
  snprintf(path, sizeof path, "%s/model.safetensors", folder);
  unlink(path);
  assert_int_equal(tl_model_load_config(folder, &m, &err), TL_EUNSUPPORTED);
  assert_non_null(strstr(err.message, "not supported as embedders"));
}

/* --- tensors -------------------------------------------------------------------------------------- */

static void changed(const char *model, const char *from, const char *to, const char *message) {
  static const char *const files[] = {"config.json", "model.safetensors"};
  struct tl_model *m = NULL;
  struct tl_error err = {0};
  assert_int_equal(strlen(from), strlen(to));
  for (unsigned i = 0; i < 2; i++) {
    char name[200];
    snprintf(name, sizeof name, "arch/%s/%s", model, files[i]);
    if (!copy_changed(unit_open_golden(name), folder, files[i], i ? from : NULL, i ? to : NULL)) fail_msg("no '%s'", from);
  }
  assert_true(tl_model_load(folder, &m, &err) < 0 && !m);
  if (!strstr(err.message, message)) fail_msg("'%s': expected '%s'", err.message, message);
}

static void test_tensors(void **state) {
  (void)state;
  changed("qwen3_next", "layers.0.linear_attn.in_proj_qkvz", "layers.0.linear_attn.in_proj_qkvy", "in_proj_qkvz.weight' is missing");
  changed("qwen3_next", "layers.0.linear_attn.in_proj_ba", "layers.0.linear_attn.in_proj_bb", "in_proj_ba.weight' is missing");
  changed("qwen3_5", "layers.2.linear_attn.in_proj_z", "layers.2.linear_attn.in_proj_y", "layers.2.linear_attn.in_proj_z.weight' is missing");
  changed("qwen3_5", "layers.0.linear_attn.conv1d", "layers.0.linear_attn.conv2d", "layers.0.linear_attn.conv1d.weight' is missing");
  changed("qwen3_5", "[112,1,3]", "[112,3,1]", "conv1d.weight': expected shape 112 x 1 x 3, of floats");
  changed("qwen3_5", "layers.0.linear_attn.A_log", "layers.0.linear_attn.A_lag", "layers.0.linear_attn.A_log' is missing");
  changed("qwen3_5", "layers.2.linear_attn.norm", "layers.2.linear_attn.narm", "layers.2.linear_attn.norm.weight' is missing");
  changed("lfm2", "layers.2.conv.conv.bias", "layers.2.conv.conv.bibs", "layers.2.conv.conv.bias' is missing");
  changed("lfm2", "layers.0.conv.in_proj.bias", "layers.0.conv.in_proj.bibs", "layers.0.conv.in_proj.bias' is missing");
  changed("lfm2", "[56,1,3]", "[1,56,3]", "conv.conv.weight': expected shape 56 x 1 x 3, of floats");
}

static void changed_gguf(const char *model, const char *from, const char *to, size_t n, const char *message) {
  char name[200], path[200];
  struct tl_model *m = NULL;
  struct tl_error err = {0};
  size_t length;
  snprintf(name, sizeof name, "gguf/arch_%s.gguf", model);
  char *bytes = read_whole(unit_open_golden(name), &length), *at = memmem(bytes, length, from, n);
  if (!at) fail_msg("%s: nothing to change for '%s'", model, message);
  memcpy(at, to, n);
  unit_write_file(folder, "x.gguf", bytes, length);
  free(bytes);
  snprintf(path, sizeof path, "%s/x.gguf", folder);
  assert_true(tl_model_load(path, &m, &err) < 0 && !m);
  if (!strstr(err.message, message)) fail_msg("'%s': expected '%s'", err.message, message);
}

static void test_gguf(void **state) {
  (void)state;
#define RENAMED(model, from, to, message) changed_gguf(model, from, to, sizeof(from) - 1, message)
#define U32 "\4\0\0\0"
#define VALUE(model, key, from, to, message) RENAMED(model, key U32 from, key U32 to, message)
  RENAMED("qwen3_5", "ssm.conv_kernel", "ssm.conv_kernen", "qwen35.ssm.conv_kernel: is required, an integer from 2 to 16");
  VALUE("qwen3_5", "ssm.conv_kernel", "\3\0\0\0", "\1\0\0\0", "qwen35.ssm.conv_kernel: is required, an integer from 2 to 16");
  VALUE("qwen3_5", "ssm.group_count", "\2\0\0\0", "\0\0\0\0", "ssm.group_count: is required, an integer from 1 to 4096");
  VALUE("qwen3_5", "ssm.group_count", "\2\0\0\0", "\4\0\0\0", "linear_num_value_heads: expected a multiple of linear_num_key_heads");
  VALUE("qwen3_5", "ssm.state_size", "\12\0\0\0", "\12\0\1\0", "ssm.state_size: is required, an integer from 1 to 1024");
  VALUE("qwen3_5", "ssm.inner_size", "\110\0\0\0", "\111\0\0\0", "ssm.inner_size: expected ssm.time_step_rank times a head's length");
  VALUE("qwen3_5", "full_attention_interval", "\2\0\0\0", "\0\0\0\0", "full_attention_interval: is required, an integer from 1 to 1000");
  VALUE("qwen3_5", "full_attention_interval", "\2\0\0\0", "\3\0\0\0", "tensor 'blk.1.attn_qkv.weight' is missing");
  RENAMED("qwen3_5", "blk.0.ssm_a", "blk.0.ssm_b", "tensor 'blk.0.ssm_a' is missing");
  RENAMED("qwen3_5", "blk.0.ssm_dt.bias", "blk.0.ssm_dt.bibs", "tensor 'blk.0.ssm_dt.bias' is missing");
  RENAMED("qwen3_next", "blk.0.ssm_ba.weight", "blk.0.ssm_bb.weight", "tensor 'blk.0.ssm_ba.weight' is missing");
  RENAMED("qwen3_next", "blk.0.attn_gate.weight", "blk.0.attn_gote.weight", "tensor 'blk.0.attn_gate.weight' is missing");
  VALUE("lfm2_tied", "shortconv.l_cache", "\4\0\0\0", "\1\0\0\0", "lfm2.shortconv.l_cache: is required, an integer from 2 to 16");
  RENAMED("lfm2_tied", "token_embd_norm.weight", "token_embd_narm.weight", "tensor 'token_embd_norm.weight' is missing");
}

/* -exp of something is above 0 in no file. */
static void test_growing(void **state) {
  (void)state;
  struct tl_model *model = open_golden_model("gguf/arch_qwen3_5.gguf");
  const struct model *m = (const struct model *)model;
  const struct tl_tensor *t = &m->tensors[model_find_tensor(m, "blk.0.ssm_a")];
  float decays[6], other[6];
  for (unsigned i = 0; i < 6; i++) tl_tensor_row_to_f32(t, i, &decays[i]);
  memcpy(other, decays, sizeof other);
  other[4] = -other[4];
  tl_model_free(model);
  changed_gguf("qwen3_5", (const char *)decays, (const char *)other, sizeof other, "tensor 'blk.0.ssm_a': expected numbers up to 0");
}

/* --- plans ----------------------------------------------------------------------------------------- */

/* Layers with keys and values, and those with a state, are counted apart; a record's parts have the shapes that it says. */
static void test_plan(void **state) {
  (void)state;
  struct tl_model *m = open_golden_model("arch/qwen3_next");
  const struct tl_recurrence *c = &m->recurrence;
  assert_true(m->n_layers == 4 && m->n_kv_layers == 1 && c->n_layers == 3);
  assert_true(c->n_key_heads == 2 && c->n_value_heads == 6 && c->key_dim == 10 && c->value_dim == 12 && c->conv == 4 && c->n_channels == 112);
  uint32_t n_conv = 0, n_delta = 0, n_attend = 0;
  for (uint32_t i = 0; i < m->n_ops; i++) {
    const struct tl_op *op = &m->plan[i];
    if (op->kind == TL_OP_CONV) assert_int_equal(op->layer, n_conv++);
    if (op->kind == TL_OP_DELTA) assert_int_equal(op->layer, n_delta++);
    if (op->kind == TL_OP_ATTEND) assert_int_equal(op->layer, n_attend++);
    static const uint64_t in[] = {20, 20, 72}, gates[] = {72, 6, 6};
    for (unsigned k = 0; k < 3; k++) {
      if (op->kind == TL_OP_DELTA_IN || op->kind == TL_OP_CONV) assert_int_equal(m->tensors[op->weight[k]].shape[0], in[k]);
      if (op->kind == TL_OP_DELTA_GATES) assert_int_equal(m->tensors[op->weight[k]].shape[0], gates[k]);
    }
    if (op->kind == TL_OP_CONV) assert_int_equal(m->tensors[op->weight[2]].shape[1], 4);
    if (op->kind == TL_OP_GATED_NORM) assert_true(!(op->features & TL_F_PLUS_ONE) && m->tensors[op->weight[0]].shape[0] == 12);
    if (op->kind == TL_OP_RMSNORM || op->kind == TL_OP_QK_NORM) assert_true(op->features & TL_F_PLUS_ONE);
  }
  assert_true(n_conv == 3 && n_delta == 3 && n_attend == 1);
  struct tl_model *whole = open_golden_model("gguf/arch_qwen3_next.gguf"); /* whose rows were taken apart before */
  assert_int_equal(whole->n_parameters, m->n_parameters);
  tl_model_free(whole);
  tl_model_free(m);
}

/* C, B and x from a file's x, B and C; a layer of Nemotron-H's is one mixer, whose tensors have the names that others have. */
static void test_scan_plan(void **state) {
  (void)state;
  struct tl_model *m = open_golden_model("arch/nemotron_h");
  const struct tl_recurrence *c = &m->recurrence;
  assert_true(m->n_layers == 5 && m->n_kv_layers == 1 && c->n_layers == 2);
  assert_true(c->n_key_heads == 2 && c->n_value_heads == 6 && c->key_dim == 10 && c->value_dim == 12 && c->conv == 4 && c->n_channels == 112);
  uint32_t n_scan = 0, n_norms = 0, n_ups = 0, n_row_gates = 0;
  for (uint32_t i = 0; i < m->n_ops; i++) {
    const struct tl_op *op = &m->plan[i];
    static const uint64_t in[] = {20, 20, 72};
    for (unsigned k = 0; k < 3; k++)
      if (op->kind == TL_OP_DELTA_IN || op->kind == TL_OP_CONV) assert_int_equal(m->tensors[op->weight[k]].shape[0], in[k]);
    for (unsigned k = 0; k < 3 && op->kind == TL_OP_CONV; k++) assert_int_equal(m->tensors[op->bias[k]].shape[0], in[k]);
    if (op->kind == TL_OP_DELTA_GATES) assert_true(m->tensors[op->weight[0]].shape[0] == 72 && m->tensors[op->weight[1]].shape[0] == 6 && op->weight[2] < 0);
    if (op->kind == TL_OP_SCAN) assert_int_equal(op->layer, n_scan++);
    if (op->kind == TL_OP_GATED_NORM) assert_true(op->features == TL_F_GATE_FIRST && m->tensors[op->weight[0]].shape[0] == 72);
    if (op->kind == TL_OP_EXPERTS_UP) assert_true(op->features == TL_F_RELU2 && op->weight[1] < 0 && ++n_ups);
    if (op->kind == TL_OP_ROW_GATE) assert_true(op[-1].kind == TL_OP_UP && op->weight[0] < 0 && ++n_row_gates); /* the MLP beside them */
    if (op->kind == TL_OP_RMSNORM) n_norms++;
    assert_true(op->kind != TL_OP_ROPE);
  }
  assert_true(n_scan == 2 && n_norms == 6 && n_ups == 2 && n_row_gates == 2);
  struct tl_model *low = open_golden_model("arch/nemotron_h_latent");
  for (uint32_t i = 0; i < low->n_ops; i++) {
    const struct tl_op *op = &low->plan[i];
    if (op->kind == TL_OP_EXPERTS_UP) assert_true(op[-1].kind == TL_OP_EXPERTS_IN && op->features == (TL_F_RELU2 | TL_F_LOW_RANK) && low->tensors[op->weight[0]].shape[1] == 12);
    if (op->kind == TL_OP_EXPERTS_OUT) assert_true(op[-1].kind == TL_OP_UP && op[1].kind == TL_OP_COPY && op[2].kind == TL_OP_MLP_DOWN);
  }
  tl_model_free(low);
  struct tl_model *whole = open_golden_model("gguf/arch_nemotron_h.gguf");
  assert_int_equal(whole->n_parameters, m->n_parameters);
  tl_model_free(whole);
  tl_model_free(m);
}

/* Every element is some rank's, and one's alone but for what all have. */
static void test_slices(void **state) {
  (void)state;
  static const char *const names[] = {"arch/qwen3_5", "arch/qwen3_next", "arch/lfm2", "arch/granitemoehybrid"};
  for (unsigned which = 0; which < UNIT_COUNT(names); which++) {
    struct tl_model *m = open_golden_model(names[which]);
    for (uint32_t i = 0; i < m->n_ops; i++) {
      const struct tl_op *op = &m->plan[i];
      bool cut = op->kind == TL_OP_DELTA_IN || op->kind == TL_OP_DELTA_GATES || op->kind == TL_OP_CONV || op->kind == TL_OP_DELTA || op->kind == TL_OP_SCAN ||
                 op->kind == TL_OP_GATE_IN || op->kind == TL_OP_SHORT_IN || op->kind == TL_OP_SHORT_CONV;
      bool in = op->kind == TL_OP_ATTN_OUT;
      for (unsigned k = 0; (cut || in) && k < TL_OP_INPUTS; k++) {
        if (op->weight[k] < 0) continue;
        uint64_t at = 0, all = m->tensors[op->weight[k]].shape[in ? 1 : 0];
        for (uint32_t rank = 0; rank < 2; rank++) {
          struct tl_shard shard;
          assert_int_equal(tl_shard_make(m, rank, 2, &shard, NULL), TL_OK);
          struct tl_slice s = tl_slice_weight(m, &shard, op, k);
          assert_int_equal(in ? s.first_column : s.first_row, at);
          at += in ? s.n_columns : s.n_rows;
          assert_int_equal(at, all / 2 * (rank + 1));
        }
      }
    }
    tl_model_free(m);
  }
}

/* Fewer key heads than ranks: each is on neighbours, with their value heads, which are shared out as ever. */
static void test_shared_keys(void **state) {
  (void)state;
  static const struct {
    const char *name;
    uint32_t key_ranks, first_key_head[4];
  } cases[] = {{"arch/granitemoehybrid_dense", 4, {0, 0, 0, 0}}, {"arch/granitemoehybrid", 2, {0, 0, 1, 1}}, {"gguf/arch_granitemoehybrid.gguf", 2, {0, 0, 1, 1}}};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_model *m = open_golden_model(cases[i].name);
    const struct tl_recurrence *c = &m->recurrence;
    for (uint32_t rank = 0; rank < 4; rank++) {
      struct tl_shard shard;
      assert_int_equal(tl_shard_make(m, rank, 4, &shard, NULL), TL_OK);
      assert_true(shard.key_ranks == cases[i].key_ranks && shard.n_key_heads == 1 && shard.first_key_head == cases[i].first_key_head[rank]);
      assert_int_equal(shard.n_channels, 2 * c->key_dim + c->n_value_heads / 4 * c->value_dim);
      for (uint32_t k = 0; k < m->n_ops; k++) {
        const struct tl_op *op = &m->plan[k];
        for (unsigned input = 0; input < 3 && (op->kind == TL_OP_DELTA_IN || op->kind == TL_OP_CONV); input++) {
          struct tl_slice s = tl_slice_weight(m, &shard, op, input);
          uint32_t values = c->n_value_heads / 4 * c->value_dim;
          assert_int_equal(s.n_rows, input < 2 ? c->key_dim : values);
          assert_int_equal(s.first_row, input < 2 ? shard.first_key_head * c->key_dim : rank * values);
        }
      }
    }
    tl_model_free(m);
  }
}

static void refused(const struct tl_model *m, uint32_t size, const char *message) {
  struct tl_shard shard;
  struct tl_error err = {0};
  assert_true(tl_shard_make(m, 0, size, &shard, &err) < 0);
  assert_string_equal(err.field, "engine.tensor_parallel");
  if (!strstr(err.message, message)) fail_msg("'%s': expected '%s'", err.message, message);
}

static void test_refusals(void **state) {
  (void)state;
  struct tl_model *m = open_golden_model("arch/qwen3_5");
  refused(m, 4, "the model's 6 value heads of linear attention cannot be divided among 4 devices");
  m->recurrence.n_key_heads = 3;
  refused(m, 2, "the model's 3 key heads of linear attention cannot be divided among 2 devices");
  tl_model_free(m);
  m = open_golden_model("gguf/arch_qwen3_5.gguf");
  refused(m, 2, "value heads in the order that this file has them in cannot be divided");
  tl_model_free(m);
  m = open_golden_model("gguf/arch_qwen3_next.gguf"); /* which has them as others do */
  struct tl_shard shard;
  assert_int_equal(tl_shard_make(m, 1, 2, &shard, NULL), TL_OK);
  tl_model_free(m);
  const struct tl_model odd = {.n_heads = 6, .n_kv_heads = 6, .head_dim = 8, .ffn_dim = 64, .vocab_size = 99,
                               .recurrence = {.n_layers = 1, .n_channels = 50, .conv = 3}};
  refused(&odd, 3, "the model's 50 channels of convolutions");
}

/* --- adapters --------------------------------------------------------------------------------------- */

/* An adapter of one product, (rank 2): A is zeros, each row of B has its number twice. */
static int add_adapter(struct tl_model *m, const char *module, unsigned rows, unsigned columns, struct tl_error *err) {
  static const char config[] = "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4, \"target_modules\": []}";
  char header[1000], bytes[20000] = {0};
  unsigned a = 2 * columns * 4, b = 2 * rows * 4;
  int n = snprintf(header, sizeof header,
                   "{\"base_model.model.model.layers.%s.lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[2,%u],\"data_offsets\":[0,%u]},"
                   "\"base_model.model.model.layers.%s.lora_B.weight\":{\"dtype\":\"F32\",\"shape\":[%u,2],\"data_offsets\":[%u,%u]}}",
                   module, columns, a, module, rows, a, a + b);
  bytes[0] = (char)(n & 255);
  bytes[1] = (char)(n >> 8);
  memcpy(bytes + 8, header, (size_t)n);
  for (unsigned i = 0; i < 2 * rows; i++) memcpy(bytes + 8 + n + a + 4 * (size_t)i, &(float){(float)(i / 2)}, 4);
  unit_write_file(folder, "adapter_config.json", config, sizeof config - 1);
  unit_write_file(folder, "adapter_model.safetensors", bytes, 8 + (size_t)n + a + b);
  struct tl_adapter_source source = {"it", folder};
  *err = (struct tl_error){0};
  return tl_model_add_adapters(m, &source, 1, err);
}

static const struct tl_adapter_part *find_part(const struct tl_model *m, enum tl_op_kind kind, uint32_t input) {
  for (uint32_t i = 0; i < m->adapters[0].n_parts; i++) {
    const struct tl_adapter_part *p = &m->adapters[0].parts[i];
    if (m->plan[p->record].kind == kind && p->input == input) return p;
  }
  return NULL;
}

/* What is taken of which base, and why not. */
static void test_adapters(void **state) {
  (void)state;
  static const struct {
    const char *base, *module;
    unsigned rows, columns;
    const char *message; /* NULL: it is taken */
  } cases[] = {{"arch/qwen3_5", "1.self_attn.k_proj", 32, 36, NULL},
               {"arch/qwen3_5", "1.self_attn.o_proj", 36, 64, NULL},
               {"arch/qwen3_5", "0.mlp.up_proj", 52, 36, NULL},
               {"arch/qwen3_5", "1.self_attn.q_proj", 128, 36, NULL},
               {"arch/qwen3_5", "1.self_attn.q_proj", 64, 36, "expected shape 128 x 2, found 64 x 2"},
               {"arch/qwen3_5", "1.self_attn.qkv_proj", 192, 36, "the model has no such product in this layer"},
               {"arch/qwen3_5", "0.self_attn.o_proj", 36, 72, "the model has no such product in this layer"},
               {"arch/qwen3_5", "1.linear_attn.out_proj", 36, 72, "the model has no such product in this layer"},
               {"arch/qwen3_5", "0.linear_attn.out_proj", 36, 72, NULL},
               {"arch/qwen3_5", "0.linear_attn.in_proj_qkv", 112, 36, NULL},
               {"arch/qwen3_5", "0.linear_attn.in_proj_a", 6, 36, NULL},
               {"arch/qwen3_5", "0.linear_attn.conv1d", 112, 3, "linear_attn.conv1d.lora_A.weight': adapters of convolutions are not supported"},
               {"arch/qwen3_next", "0.linear_attn.in_proj_qkvz", 184, 36, NULL},
               {"arch/qwen3_next", "0.mlp.shared_expert.down_proj", 36, 27, NULL},
               {"arch/qwen3_next", "1.mlp.shared_expert.down_proj", 36, 27, "the model has no such product in this layer"}, /* a dense one */
               {"arch/qwen3_next", "0.mlp.down_proj", 36, 27, "the model has no such product in this layer"},
               {"arch/qwen3_next", "0.mlp.gate", 5, 36, "adapters of routers are not supported"},
               {"arch/qwen3_next", "0.mlp.shared_expert_gate", 1, 36, "adapters of the gate of a shared expert are not supported"},
               {"arch/qwen3_next", "0.mlp.experts.3.up_proj", 20, 36, "adapters of routed experts are not supported"},
               {"arch/lfm2", "0.conv.in_proj", 168, 56, NULL},
               {"arch/lfm2", "0.conv.conv", 56, 3, "adapters of convolutions are not supported"},
               {"arch/lfm2", "0.feed_forward.w2", 56, 48, NULL},
               {"arch/lfm2", "1.self_attn.out_proj", 56, 56, NULL},
               {"arch/lfm2", "4.self_attn.out_proj", 56, 56, "the model has no such layer"},
               {"arch/deepseek_v3", "0.self_attn.kv_b_proj", 8, 8, "adapters of latent attention's products are not supported"}};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_error err;
    struct tl_model *m = open_golden_model(cases[i].base);
    int r = add_adapter(m, cases[i].module, cases[i].rows, cases[i].columns, &err);
    if (!cases[i].message && r < 0) fail_msg("%s: %s", cases[i].module, err.message);
    if (cases[i].message && (r == TL_OK || !strstr(err.message, cases[i].message))) fail_msg("%s: %s", cases[i].module, err.message);
    tl_model_free(m);
  }
}

/* Rows of B, which are numbered here, are those that the weight's rows are of the module's matrix. */
static void test_adapter_rows(void **state) {
  (void)state;
  static const struct {
    const char *base, *module;
    unsigned rows, columns;
    enum tl_op_kind kind;
    uint32_t input;
    unsigned row, want;
  } cases[] = {{"arch/qwen3_5", "1.self_attn.q_proj", 128, 36, TL_OP_QKV, 0, 17, 33}, /* heads of 16, each with its gate behind it */
               {"arch/qwen3_5", "1.self_attn.q_proj", 128, 36, TL_OP_GATE_IN, 0, 17, 49},
               {"arch/qwen3_5", "0.linear_attn.in_proj_qkv", 112, 36, TL_OP_DELTA_IN, 2, 13, 53},
               {"arch/qwen3_next", "0.linear_attn.in_proj_qkvz", 184, 36, TL_OP_DELTA_IN, 1, 11, 103}, /* of key heads 10 + 10 + 36 + 36 */
               {"arch/qwen3_next", "0.linear_attn.in_proj_qkvz", 184, 36, TL_OP_DELTA_GATES, 0, 37, 149},
               {"arch/qwen3_next", "0.linear_attn.in_proj_ba", 12, 36, TL_OP_DELTA_GATES, 2, 4, 10},
               {"arch/lfm2", "0.conv.in_proj", 168, 56, TL_OP_SHORT_IN, 2, 3, 115}};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_error err;
    float row[2];
    struct tl_model *m = open_golden_model(cases[i].base);
    if (add_adapter(m, cases[i].module, cases[i].rows, cases[i].columns, &err) < 0) fail_msg("%s: %s", cases[i].module, err.message);
    const struct tl_adapter_part *part = find_part(m, cases[i].kind, cases[i].input);
    assert_non_null(part);
    assert_int_equal(m->tensors[part->b].shape[0], m->tensors[m->plan[part->record].weight[part->input]].shape[0]);
    tl_tensor_row_to_f32(&m->tensors[part->b], cases[i].row, row);
    if (row[0] != (float)cases[i].want) fail_msg("%s: row %u is %f", cases[i].module, cases[i].row, (double)row[0]);
    tl_model_free(m);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_defaults), cmocka_unit_test(test_scan_defaults), cmocka_unit_test(test_scan_plan), cmocka_unit_test(test_hostile), cmocka_unit_test(test_pooling), cmocka_unit_test(test_tensors),
      cmocka_unit_test(test_gguf),     cmocka_unit_test(test_growing), cmocka_unit_test(test_plan),    cmocka_unit_test(test_slices),
      cmocka_unit_test(test_shared_keys), cmocka_unit_test(test_refusals), cmocka_unit_test(test_adapters), cmocka_unit_test(test_adapter_rows),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
