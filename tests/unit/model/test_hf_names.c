/* SPDX-License-Identifier: MIT */
/* Classes from before Llama: names of their tensors and keys, and what is refused of them. */
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
  static const char *const files[] = {"config.json", "model.safetensors"};
  unit_remove_files(folder, files, UNIT_COUNT(files));
  return rmdir(folder);
}

static void test_tensors(void **state) {
  (void)state;
  static const struct {
    const char *class_name, *file, *plan;
  } cases[] = {{"GPT2LMHeadModel", "transformer.wte.weight", "model.embed_tokens.weight"},
               {"GPT2LMHeadModel", "wpe.weight", "model.embed_positions.weight"},
               {"GPT2LMHeadModel", "h.11.attn.c_proj.bias", "model.layers.11.self_attn.o_proj.bias"},
               {"GPT2LMHeadModel", "h.11.attn.bias", "h.11.attn.bias"}, /* a mask of its first files */
               {"GPT2LMHeadModel", "h.x.ln_1.weight", "h.x.ln_1.weight"},
               {"GPT2LMHeadModel", "h.1", "h.1"},
               {"GPT2LMHeadModel", "lm_head.weight", "lm_head.weight"},
               {"GPTBigCodeForCausalLM", "transformer.h.0.attn.c_attn.bias", "model.layers.0.self_attn.qkv_proj.bias"},
               {"GPTJForCausalLM", "transformer.h.0.attn.out_proj.weight", "model.layers.0.self_attn.o_proj.weight"},
               {"GPTJForCausalLM", "transformer.h.0.attn.k_proj.weight", "model.layers.0.self_attn.k_proj.weight"},
               {"GPTNeoXForCausalLM", "embed_out.weight", "lm_head.weight"},
               {"GPTNeoXForCausalLM", "gpt_neox.layers.0.mlp.dense_4h_to_h.weight", "model.layers.0.mlp.fc2.weight"},
               {"OPTForCausalLM", "decoder.final_layer_norm.bias", "model.norm.bias"},
               {"OPTForCausalLM", "model.decoder.layers.3.final_layer_norm.bias", "model.layers.3.post_attention_layernorm.bias"},
               {"OPTForCausalLM", "model.decoder.layers.3.self_attn.k_proj.weight", "model.layers.3.self_attn.k_proj.weight"},
               {"FalconForCausalLM", "transformer.h.2.ln_mlp.weight", "model.layers.2.post_attention_layernorm.weight"}};
  struct tl_error err;
  char buffer[300];
  for (size_t i = 0; i < UNIT_COUNT(cases); i++)
    assert_string_equal(hf_plan_name(hf_names_of(arch_find(cases[i].class_name, "", &err)), cases[i].file, buffer, sizeof buffer), cases[i].plan);
  assert_null(hf_names_of(arch_find("LlamaForCausalLM", "", &err)));
}

static int read_text(const char *text, struct hf_config *ret, struct tl_error *err) {
  unit_write_file(folder, "config.json", text, strlen(text));
  *err = (struct tl_error){0};
  return model_read_config(folder, ret, err);
}

static void test_keys(void **state) {
  (void)state;
  static struct hf_config c;
  struct tl_error err;
  assert_int_equal(read_text("{\"architectures\": [\"GPT2LMHeadModel\"], \"model_type\": \"gpt2\", \"n_embd\": 48, \"n_layer\": 2, \"n_inner\": null}", &c, &err), TL_OK);
  assert_true(c.hidden_size == 48 && c.intermediate_size == 192 && c.num_attention_heads == 12 && c.num_key_value_heads == 12);
  assert_true(c.max_position_embeddings == 1024 && c.vocab_size == 50257 && c.use_bias && c.rms_norm_eps == 1e-5);
  assert_int_equal(read_text("{\"architectures\": [\"GPTNeoXForCausalLM\"], \"model_type\": \"gpt_neox\", \"hidden_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 2, "
                             "\"intermediate_size\": 9, \"rotary_pct\": 0.5}", &c, &err), TL_OK);
  assert_true(c.use_parallel_residual && c.attention_bias && c.mlp_bias && c.partial_rotary_factor == 0.5);
  assert_int_equal(read_text("{\"architectures\": [\"FalconForCausalLM\"], \"model_type\": \"falcon\", \"hidden_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
                             "\"num_kv_heads\": 4}", &c, &err), TL_OK);
  assert_true(c.num_key_value_heads == 1 && c.intermediate_size == 256 && !c.use_bias);
  assert_int_equal(read_text("{\"architectures\": [\"FalconForCausalLM\"], \"model_type\": \"falcon\", \"hidden_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
                             "\"num_kv_heads\": 2, \"new_decoder_architecture\": true}", &c, &err), TL_OK);
  assert_int_equal(c.num_key_value_heads, 2);
  assert_int_equal(read_text("{\"architectures\": [\"GPTBigCodeForCausalLM\"], \"model_type\": \"gpt_bigcode\", \"n_embd\": 64, \"n_layer\": 2, \"n_head\": 4}", &c, &err), TL_OK);
  assert_true(c.num_key_value_heads == 1 && c.intermediate_size == 256);
  assert_int_equal(read_text("{\"architectures\": [\"GPTBigCodeForCausalLM\"], \"model_type\": \"gpt_bigcode\", \"n_embd\": 64, \"n_layer\": 2, \"n_head\": 4, \"multi_query\": false, "
                             "\"num_key_value_heads\": 12}", &c, &err), TL_OK);
  assert_int_equal(c.num_key_value_heads, 4); /* whatever transformers writes beside it */
}

static void test_refused(void **state) {
  (void)state;
  static const struct {
    const char *from, *to, *message;
  } cases[] = {{"\"do_layer_norm_before\": true", "\"do_layer_norm_before\": false", "config.json: do_layer_norm_before: false: is not supported"},
               {"\"word_embed_proj_dim\": 24", "\"word_embed_proj_dim\": 12", "word_embed_proj_dim: another size than hidden_size"},
               {"\"_remove_final_layer_norm\": false", "\"_remove_final_layer_norm\": true", "config.json: _remove_final_layer_norm: is not supported"},
               {"\"vocab_size\": 131", "\"alibi\": true, \"vocab_size\": 131", "config.json: alibi: is not supported"},
               {"\"activation_function\": \"relu\"", "\"activation_function\": \"selu\"", "config.json: hidden_act: expected relu, got selu"},
               {"\"max_position_embeddings\": 400", "\"max_position_embeddings\": 401", "expected shape 403 x 24, found 402 x 24"}};
  for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_model *m;
    struct tl_error err = {0};
    assert_true(copy_changed(unit_open_golden("arch/opt/config.json"), folder, "config.json", cases[i].from, cases[i].to));
    copy_changed(unit_open_golden("arch/opt/model.safetensors"), folder, "model.safetensors", NULL, NULL);
    assert_true(tl_model_load(folder, &m, &err) < 0);
    if (!strstr(err.message, cases[i].message)) fail_msg("'%s': expected '%s'", err.message, cases[i].message);
  }
}

/* Layers are alike: one that lacks the norm before its MLP is not one of the smaller Falcons'. */
static void test_norm_is_missing(void **state) {
  (void)state;
  struct tl_model *m;
  struct tl_error err = {0};
  copy_changed(unit_open_golden("arch/gpt_neox/config.json"), folder, "config.json", NULL, NULL);
  assert_true(copy_changed(unit_open_golden("arch/gpt_neox/model.safetensors"), folder, "model.safetensors",
                           "layers.1.post_attention_layernorm.weight", "layers.1.post_attention_layernorm.other_"));
  assert_true(tl_model_load(folder, &m, &err) < 0);
  assert_string_equal(err.message, "tensor 'model.layers.1.post_attention_layernorm.weight' is missing from the model's files");
}

/* Numbers of a layer's function are read where they are, and are one each. */
static void test_curve(void **state) {
  (void)state;
  struct tl_model *m;
  struct tl_error err = {0};
  copy_changed(unit_open_golden("arch/apertus/config.json"), folder, "config.json", NULL, NULL);
  copy_changed(unit_open_golden("arch/apertus/model.safetensors"), folder, "model.safetensors", NULL, NULL);
  assert_int_equal(tl_model_load(folder, &m, &err), TL_OK);
  for (uint32_t i = 0; i < m->n_ops; i++)
    if (m->plan[i].kind == TL_OP_UP) assert_true(m->plan[i].features == TL_F_XIELU && m->plan[i].factor > 0 && m->plan[i].limit > m->plan[i].softcap);
  tl_model_free(m);
  assert_true(copy_changed(unit_open_golden("arch/apertus/model.safetensors"), folder, "model.safetensors", "act_fn.alpha_p", "act_fn.beta_p_"));
  assert_true(tl_model_load(folder, &m, &err) < 0);
  assert_string_equal(err.message, "tensor 'model.layers.0.mlp.act_fn.alpha_p' is missing from the model's files");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_tensors), cmocka_unit_test(test_keys), cmocka_unit_test(test_refused), cmocka_unit_test(test_norm_is_missing), cmocka_unit_test(test_curve)};
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
