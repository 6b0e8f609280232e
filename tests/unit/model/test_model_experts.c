/* SPDX-License-Identifier: MIT */
/* Folders of models with experts that are not as they say: golden ones, changed in one place. And what ranks have of them. */
#include "tokenlane/slice.h"

#include "changed_file.h"
#include "model/model_private.h"

static char folder[64];

static int make_folder(void **state) {
  (void)state;
  unit_make_folder(folder);
  return 0;
}

static int remove_folder(void **state) {
  (void)state;
  static const char *const files[] = {"config.json", "model.safetensors", "x.gguf"};
  unit_remove_files(folder, files, UNIT_COUNT(files));
  return rmdir(folder);
}

static FILE *open_golden(const char *model, const char *file) {
  char name[200];
  snprintf(name, sizeof name, "%s%s/%s", strchr(model, '/') ? "" : "arch/", model, file);
  return unit_open_golden(name);
}

/* Copies a file with the first `from` in it as `to`; those of weights are of one length. NULL: as it is. */
static void copy(const char *model, const char *file, const char *from, const char *to) {
  if (!copy_changed(open_golden(model, file), folder, file, from, to)) fail_msg("%s: %s: no '%s'", model, file, from);
}

static void expect(const char *model, bool in_config, const char *from, const char *to, const char *message) {
  struct tl_model *m = NULL;
  struct tl_error err = {0};
  assert_true(in_config || strlen(from) == strlen(to));
  copy(model, "config.json", in_config ? from : NULL, in_config ? to : NULL);
  copy(model, "model.safetensors", in_config ? NULL : from, in_config ? NULL : to);
  int r = tl_model_load(folder, &m, &err);
  assert_true(r < 0 && !m);
  assert_string_equal(err.field, "model.path");
  if (!strstr(err.message, message)) fail_msg("'%s': expected '%s'", err.message, message);
}

static void test_configurations(void **state) {
  (void)state;
  expect("mixtral", true, "\"num_local_experts\": 5", "\"num_local_experts\": 0", "num_experts (num_local_experts): is required");
  expect("mixtral", true, "\"num_local_experts\": 5", "\"num_local_experts\": 1025", "num_local_experts: expected an integer from 0 to 1024");
  expect("mixtral", true, "\"num_local_experts\": 5", "\"num_local_experts\": 6", "tensor 'model.layers.0.block_sparse_moe.gate.weight': expected shape 6 x 36, found 5 x 36");
  expect("mixtral", true, "\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 6", "num_experts_per_tok: expected 1 to the number of experts");
  expect("mixtral", true, "\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 0", "num_experts_per_tok: expected 1");
  expect("mixtral", true, "\"intermediate_size\": 52", "\"intermediate_size\": 53", "experts.0.w1.weight': expected shape 53 x 36, found 52 x 36");
  expect("qwen2_moe", true, "\"moe_intermediate_size\": 20", "\"other\": 20", "moe_intermediate_size: is required");
  expect("qwen2_moe", true, "\"shared_expert_intermediate_size\": 27", "\"other\": 27", "shared_expert_intermediate_size: is required");
  expect("qwen2_moe", true, "\"mlp_only_layers\": [\n  1\n ]", "\"mlp_only_layers\": [3]", "mlp_only_layers: expected numbers of layers");
  expect("qwen2_moe", true, "\"mlp_only_layers\": [\n  1\n ]", "\"mlp_only_layers\": 1", "mlp_only_layers: expected a list");
  expect("qwen2_moe", true, "\"mlp_only_layers\": [\n  1\n ]", "\"mlp_only_layers\": []", "tensor 'model.layers.1.mlp.gate.weight' is missing");
  expect("qwen3_moe", true, "\"decoder_sparse_step\": 2", "\"decoder_sparse_step\": 0", "decoder_sparse_step: expected an integer from 1");
  expect("deepseek_v2", true, "group_limited_greedy", "noaux_tc", "config.json: topk_method: expected greedy or group_limited_greedy, got noaux_tc");
  expect("deepseek_v2", true, "\"norm_topk_prob\": false", "\"norm_topk_prob\": true", "config.json: norm_topk_prob: true is not supported with softmax");
  expect("deepseek_v2", true, "\"n_group\": 4", "\"n_group\": 3", "config.json: n_group: expected groups of one size");
  expect("deepseek_v2", true, "\"topk_group\": 2", "\"topk_group\": 1", "config.json: topk_group: expected groups with as many experts as are chosen");
  expect("deepseek_v3", true, "\"n_group\": 4", "\"n_group\": 12", "config.json: n_group: expected groups of one size, of 2 or more");
  expect("deepseek_v3", true, "\"n_group\": 4", "\"n_group\": 4, \"scoring_func\": \"softmax\"", "config.json: scoring_func: expected sigmoid, got softmax");
  expect("deepseek_v3", true, "\"n_group\": 4", "\"n_group\": 4, \"topk_method\": \"greedy\"", "config.json: topk_method: expected noaux_tc, got greedy");
  expect("deepseek_v3", true, "\"kv_lora_rank\": 64", "\"kv_lora_rank\": 4090", "config.json: kv_lora_rank, qk_rope_head_dim: expected up to 4096 together");
  expect("deepseek_v3", true, "\"qk_rope_head_dim\": 8", "\"qk_rope_head_dim\": 7", "config.json: qk_rope_head_dim: expected an even size");
  expect("deepseek_v3", true, "\"q_lora_rank\": 24", "\"q_lora_rank\": null", "tensor 'model.layers.0.self_attn.q_proj.weight' is missing");
  expect("deepseek_v3", true, "\"v_head_dim\": 16", "\"v_head_dim\": 17", "kv_b_proj.weight': expected shape 196 x 64, found 192 x 64");
  expect("deepseek_v3", true, "\"n_group\": 4", "\"n_group\": 4, \"moe_layer_freq\": 2", "tensor 'model.layers.1.mlp.gate_proj.weight' is missing");
  expect("glm4_moe_lite", true, "\"sparse\"", "\"spare\"", "config.json: mlp_layer_types: expected dense or sparse");
  expect("gpt_oss", true, "\"swiglu_alpha\": 1.702", "\"swiglu_alpha\": 1.5", "swiglu_alpha: expected a number from 1.702 to 1.702");
}

static void test_tensors(void **state) {
  (void)state;
  expect("mixtral", false, "block_sparse_moe.experts.4.w2", "block_sparse_moe.experts.9.w2", "tensor 'model.layers.0.block_sparse_moe.experts.4.w2.weight' is missing");
  expect("qwen2_moe", false, "mlp.shared_expert_gate", "mlp.shared_expert_fate", "mlp.shared_expert_gate.weight' is missing");
  expect("gpt_oss", false, "layers.0.mlp.experts.gate_up_proj\"", "layers.0.mlp.experts.gate_up_prof\"", "tensor 'model.layers.0.mlp.experts.gate_up_proj' is missing");
  expect("gpt_oss", false, "gate_up_proj_bias", "gate_up_proj_bian", "gate_up_proj_bias' is missing");
  expect("gpt_oss", false, "self_attn.sinks", "self_attn.sinkt", "self_attn.sinks' is missing");
  expect("gpt_oss", false, "[5,36,104]", "[5,104,36]", "model.safetensors: tensor 'model.layers.0.mlp.experts.gate_up_proj': expected shape 5 x 36 x 104");
  expect("gpt_oss", false, "[5,104]", "[104,5]", "gate_up_proj_bias': expected shape 5 x 104, of floats");
  expect("gpt_oss_mxfp4", false, "layers.0.mlp.experts.down_proj_scales", "layers.0.mlp.experts.down_proj_scale_", "down_proj_scales' is missing");
  expect("gpt_oss_mxfp4", false, "[4,64,3,16]", "[4,16,3,64]", "down_proj_blocks': expected shape 4 x 64 x 3 x 16, of U8");
  expect("gpt_oss_mxfp4", false, "[4,64,3]", "[4,3,64]", "down_proj_scales': expected shape 4 x 64 x 3, of U8");
  expect("gpt_oss_mxfp4", false, "\"dtype\":\"U8\",\"shape\":[4,192,2,16]", "\"dtype\":\"I8\",\"shape\":[4,192,2,16]", "gate_up_proj_blocks': expected shape 4 x 192 x 2 x 16, of U8");
}

/* Experts in several tensors each (make_experts.py). */
static void test_packed_experts(void **state) {
  (void)state;
  expect("experts/qwen3_gptq", false, "layers.0.mlp.experts.3.up_proj.qweight", "layers.0.mlp.experts.3.up_proj.qweighs", "tensor 'model.layers.0.mlp.experts.3.up_proj.weight' is missing");
  expect("experts/qwen3_gptq", false, "layers.1.mlp.experts.6.down_proj.scales", "layers.1.mlp.experts.6.down_proj.scalez", "model.safetensors: tensor 'model.layers.1.mlp.experts.6.down_proj.qweight': its scales are missing");
  expect("experts/qwen3_gptq", true, "\"quant_method\": \"gptq\"", "\"quant_method\": \"awq\"", "qweight': its shape fits no known way of packing the matrix");
  expect("experts/qwen3_gptq", true, "\"quant_method\": \"gptq\"", "\"other\": \"gptq\"", "q_proj.weight' is missing");
  expect("experts/qwen3_awq", true, "\"moe_intermediate_size\": 32", "\"moe_intermediate_size\": 40", "experts.0.gate_proj.qweight': its shape fits no known way");
  expect("experts/mixtral_ct4", false, "layers.0.block_sparse_moe.experts.1.w2.weight_packed", "layers.0.block_sparse_moe.experts.1.w2.weight_packet", "tensor 'model.layers.0.block_sparse_moe.experts.1.w2.weight' is missing");
  expect("experts/qwen3_ct8", true, "\"quant_method\": \"compressed-tensors\"", "\"quant_method\": \"other\"", "q_proj.weight': integers whose scales config.json does not explain");
  expect("experts/qwen3_ct8", false, "layers.0.mlp.experts.5.up_proj.weight_scale", "layers.0.mlp.experts.5.up_proj.weight_scald", "layers.0.mlp.experts.5.up_proj.weight': its scales are missing");
  expect("experts/qwen3_f8_block", true, "\"weight_block_size\": [\n   32,\n   32", "\"weight_block_size\": [\n   32,\n   64", "weight_scale_inv': its shape does not fit the matrix");
  expect("experts/qwen3_f8_block", true, "\"weight_block_size\"", "\"block_size\"", "weight_scale_inv': its shape does not fit the matrix");
}

/* A golden GGUF file with `n` bytes changed where they first are `from`. */
static void expect_gguf(const char *model, const void *from, const void *to, size_t n, const char *message) {
  char name[200], path[200];
  struct tl_model *m = NULL;
  struct tl_error err = {0};
  static char bytes[1 << 20];
  snprintf(name, sizeof name, "gguf/arch_%s.gguf", model);
  FILE *input = unit_open_golden(name);
  size_t length = fread(bytes, 1, sizeof bytes, input);
  fclose(input);
  char *at = memmem(bytes, length, from, n);
  if (!at) fail_msg("%s: nothing to change for '%s'", model, message);
  memcpy(at, to, n);
  unit_write_file(folder, "x.gguf", bytes, length);
  snprintf(path, sizeof path, "%s/x.gguf", folder);
  assert_true(tl_model_load(path, &m, &err) < 0 && !m);
  if (!strstr(err.message, message)) fail_msg("'%s': expected '%s'", err.message, message);
}

static void test_gguf(void **state) {
  (void)state;
#define RENAMED(model, from, to, message) expect_gguf(model, from, to, sizeof(from) - 1, message)
  RENAMED("mixtral", "blk.1.ffn_up_exps.weight", "blk.1.ffn_up_expt.weight", "tensor 'blk.1.ffn_up_exps.weight' is missing");
  RENAMED("mixtral", "blk.1.ffn_gate_inp.weight", "blk.1.ffn_gate_imp.weight", "tensor 'blk.1.ffn_gate.weight' is missing");
  RENAMED("qwen2_moe", "blk.0.ffn_up_shexp", "blk.0.ffn_up_shexq", "tensor 'blk.0.ffn_up_shexp.weight' is missing");
  RENAMED("gpt_oss_mxfp4", "blk.0.attn_sinks", "blk.0.attn_sinkt", "tensor 'blk.0.attn_sinks.weight' is missing");
  RENAMED("gpt_oss_mxfp4", "blk.0.ffn_down_exps.bias", "blk.0.ffn_down_exps.bia_", "tensor 'blk.0.ffn_down_exps.bias' is missing");
  RENAMED("deepseek_v2_lite", "blk.1.attn_k_b.weight", "blk.1.attn_k_c.weight", "tensor 'blk.1.attn_k_b.weight' is missing");
  RENAMED("deepseek_v2_lite", "blk.0.attn_v_b.weight", "blk.0.attn_v_c.weight", "tensor 'blk.0.attn_v_b.weight' is missing");
  RENAMED("deepseek_v2_lite", "attention.kv_lora_rank", "attention.kv_lora_rang", "deepseek2.attention.kv_lora_rank: is required");
  RENAMED("deepseek_v2_lite", "attention.value_length_mla", "attention.value_length_mlb", "tensor 'blk.0.attn_v_b.weight': expected shape 4 x 64 x 64");
  const uint64_t heads[] = {32, 64, 4}, turned[] = {64, 32, 4};
  expect_gguf("deepseek_v2_lite", heads, turned, sizeof heads, "x.gguf: tensor 'blk.0.attn_k_b.weight': expected shape 4 x 64 x 32");
  const uint64_t whole[] = {36, 52, 5}, swapped[] = {52, 36, 5}, fewer[] = {36, 52, 4};
  expect_gguf("mixtral", whole, swapped, sizeof whole, "x.gguf: tensor 'blk.0.ffn_gate_exps.weight': expected shape 5 x 52 x 36");
  expect_gguf("mixtral", whole, fewer, sizeof whole, "x.gguf: tensor 'blk.0.ffn_gate_exps.weight': expected shape 5 x 52 x 36");
}

/* Every number of every expert is counted once, and so are the bytes. */
static void test_counts(void **state) {
  (void)state;
  static const char *const models[] = {"mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v2", "moonlight", "glm4_moe_lite"}; /* of F32 */
  for (unsigned i = 0; i < UNIT_COUNT(models); i++) {
    struct tl_model *m;
    struct tl_error err = {0};
    char name[64], path[1024];
    uint64_t expected = 0;
    size_t length;
    snprintf(name, sizeof name, "arch/%s", models[i]);
    if (tl_model_load(unit_golden_path(name, path), &m, &err) < 0) fail_msg("%s", err.message);
    /* all that is behind the header are its tensors */
    char *bytes = read_whole(open_golden(models[i], "model.safetensors"), &length);
    uint64_t header = 0;
    for (int k = 7; k >= 0; k--) header = header << 8 | (uint8_t)bytes[k];
    expected = length - 8 - header;
    assert_true(m->weight_bytes == expected && m->n_parameters == expected / 4);
    free(bytes);
    tl_model_free(m);
  }
}

/* What the integers and F8 of packed experts stand for is counted like floats. */
static void test_packed_counts(void **state) {
  (void)state;
  static const struct {
    const char *name;
    uint64_t head, inner, experts;
    bool qk_norms;
  } models[] = {{"mixtral_gptq", 16, 96, 4, false}, {"mixtral_f8_tensor", 16, 96, 4, false}, {"qwen3_awq", 32, 32, 7, true},
                {"qwen3_ct8", 32, 32, 7, true},     {"qwen3_f8_block", 32, 40, 7, true}};
  for (unsigned i = 0; i < UNIT_COUNT(models); i++) {
    struct tl_model *m;
    struct tl_error err = {0};
    char name[64], path[1024];
    uint64_t dim = 64, head = models[i].head;
    snprintf(name, sizeof name, "experts/%s", models[i].name);
    if (tl_model_load(unit_golden_path(name, path), &m, &err) < 0) fail_msg("%s", err.message);
    uint64_t layer = dim * head * (4 + 2 + 2 + 4) + models[i].experts * (3 * dim * models[i].inner + dim) + 2 * dim;
    if (models[i].qk_norms) layer += 2 * head;
    assert_int_equal(m->n_parameters, 2 * layer + 2 * 131 * dim + dim);
    assert_true(m->weight_bytes < 2 * m->n_parameters); /* those of 16 bits are few */
    tl_model_free(m);
  }
}

/* Qwen3-VL-MoE's halves are taken apart by what rounds them to F8 or integers. */
static void test_separate_halves(void **state) {
  (void)state;
  static const char *const models[] = {"experts/qwen3_f8_block", "experts/qwen3_awq", "experts/qwen3_gptq", "experts/qwen3_ct4"};
  for (unsigned i = 0; i < UNIT_COUNT(models); i++) {
    struct tl_model *m, *twin;
    struct tl_error err = {0};
    char path[1024];
    copy(models[i], "config.json", "Qwen3MoeForCausalLM", "Qwen3VLMoeForConditionalGeneration");
    copy(models[i], "model.safetensors", NULL, NULL);
    if (tl_model_load(folder, &m, &err) < 0 || tl_model_load(unit_golden_path(models[i], path), &twin, &err) < 0) fail_msg("%s", err.message);
    assert_string_equal(m->architecture, "qwen3_vl_moe");
    assert_true(m->n_ops == twin->n_ops && m->n_parameters == twin->n_parameters && m->weight_bytes == twin->weight_bytes);
    tl_model_free(m);
    tl_model_free(twin);
  }
  expect("qwen3_vl_moe", false, "layers.0.mlp.experts.gate_up_proj\"", "layers.0.mlp.experts.gate_up_prof\"", "tensor 'model.layers.0.mlp.experts.gate_up_proj' is missing");
}

/* Whole experts, each on one rank; a rank has one at least. The expert that all rows have is cut by its own size. */
static void test_ranks(void **state) {
  (void)state;
  struct tl_model *m;
  struct tl_error err = {0};
  struct tl_shard shard;
  copy("qwen2_moe", "config.json", NULL, NULL);
  copy("qwen2_moe", "model.safetensors", NULL, NULL);
  if (tl_model_load(folder, &m, &err) < 0) fail_msg("%s", err.message);
  unsigned n_shared = 0;
  for (unsigned size = 1; size <= 4; size *= 2) {
    uint32_t next = 0;
    for (unsigned rank = 0; rank < size; rank++) {
      assert_int_equal(tl_shard_make(m, rank, size, &shard, &err), TL_OK);
      assert_int_equal(shard.first_expert, next);
      assert_true(shard.n_experts > 0);
      next += shard.n_experts;
    }
    assert_int_equal(next, 6);
    for (uint32_t i = 0; i < m->n_ops; i++) {
      const struct tl_op *op = &m->plan[i];
      const struct tl_tensor *t = op->weight[0] < 0 ? NULL : &m->tensors[op->weight[0]];
      if (op->kind == TL_OP_EXPERTS_UP || op->kind == TL_OP_ROUTE) {
        struct tl_slice s = tl_slice_weight(m, &shard, op, 0);
        assert_true(s.n_rows == t->shape[0] && s.n_columns == t->shape[1]);
      }
      if (op->kind != TL_OP_MLP_DOWN || t->shape[1] != 27) continue;
      uint64_t covered = 0;
      for (unsigned rank = 0; rank < size; rank++) {
        assert_int_equal(tl_shard_make(m, rank, size, &shard, &err), TL_OK);
        struct tl_slice s = tl_slice_weight(m, &shard, op, 0);
        assert_true(s.first_column == covered && s.n_columns > 0);
        covered += s.n_columns;
      }
      assert_int_equal(covered, 27);
      n_shared++;
    }
  }
  assert_int_equal(n_shared, 3 * 2);
  struct tl_model few = *m;
  few.n_heads = few.n_kv_heads = 8;
  assert_int_equal(tl_shard_make(&few, 0, 8, &shard, &err), TL_EINVAL);
  assert_non_null(strstr(err.message, "the model's 6 experts cannot be divided among 8 devices"));
  tl_model_free(m);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_configurations), cmocka_unit_test(test_tensors), cmocka_unit_test(test_packed_experts), cmocka_unit_test(test_gguf),
                                     cmocka_unit_test(test_counts), cmocka_unit_test(test_separate_halves), cmocka_unit_test(test_packed_counts), cmocka_unit_test(test_ranks)};
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
