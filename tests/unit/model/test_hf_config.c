/* SPDX-License-Identifier: MIT */
#include "model/model_private.h"
#include "unit.h"

static char folder[64];

static int make_folder(void **state) {
  (void)state;
  unit_make_folder(folder);
  return 0;
}

static void remove_file(const char *name) {
  char path[200];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  unlink(path);
}

static int remove_folder(void **state) {
  (void)state;
  remove_file("config.json");
  remove_file("generation_config.json");
  return rmdir(folder);
}

/* generation may be NULL: no such file. */
static int read_texts(const char *config, const char *generation, struct hf_config *ret, struct tl_error *err) {
  unit_write_file(folder, "config.json", config, strlen(config));
  remove_file("generation_config.json");
  if (generation) unit_write_file(folder, "generation_config.json", generation, strlen(generation));
  memset(err, 0, sizeof *err);
  int r = model_read_config(folder, ret, err);
  assert_int_equal(err->code, r);
  return r;
}

#define SIZES                                                                                                    \
  "\"hidden_size\": 64, \"intermediate_size\": 96, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, " \
  "\"vocab_size\": 100, \"max_position_embeddings\": 512"
#define CONFIG(more) "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", " SIZES more "}"

static void test_defaults(void **state) {
  (void)state;
  struct hf_config c;
  struct tl_error err;
  assert_int_equal(read_texts(CONFIG(""), NULL, &c, &err), TL_OK);
  assert_string_equal(c.architecture, "LlamaForCausalLM");
  assert_string_equal(c.model_type, "llama");
  assert_int_equal(c.num_key_value_heads, 4);
  assert_int_equal(c.head_dim, 16);
  assert_true(c.rms_norm_eps == 1e-6 && c.rope_theta == 10000); /* LlamaConfig's own */
  assert_false(c.attention_bias || c.mlp_bias || c.tie_word_embeddings);
  assert_string_equal(c.rope_type, "");
  assert_int_equal(c.n_eos, 0);
  assert_true(c.defaults.temperature < 0 && c.defaults.top_p < 0 && c.defaults.min_p < 0 && c.defaults.top_k < 0 &&
              c.defaults.repetition_penalty < 0);
}

static void test_values(void **state) {
  (void)state;
  struct hf_config c;
  struct tl_error err;
  /* null means: not given */
  assert_int_equal(read_texts(CONFIG(",\"num_key_value_heads\": 2, \"head_dim\": 32, \"rms_norm_eps\": 1e-05, \"rope_theta\": 500000.0,"
                                     "\"attention_bias\": true, \"mlp_bias\": false, \"tie_word_embeddings\": true, \"hidden_act\": \"silu\","
                                     "\"rope_scaling\": {\"factor\": 32.0, \"high_freq_factor\": 5.0, \"low_freq_factor\": 2.0,"
                                     "\"original_max_position_embeddings\": 8192, \"rope_type\": \"llama3\"},"
                                     "\"eos_token_id\": [7, 8, 9], \"pretraining_tp\": 1, \"head_size\": null"),
                              "{\"eos_token_id\": 8, \"temperature\": 0.6, \"top_p\": 0.9, \"top_k\": 50, \"min_p\": 0.05,"
                              "\"repetition_penalty\": 1.1, \"do_sample\": true}",
                              &c, &err),
                   TL_OK);
  assert_int_equal(c.num_key_value_heads, 2);
  assert_int_equal(c.head_dim, 32);
  assert_true(c.rms_norm_eps == 1e-5 && c.rope_theta == 500000);
  assert_true(c.attention_bias && !c.mlp_bias && c.tie_word_embeddings);
  assert_string_equal(c.rope_type, "llama3");
  assert_true(c.rope_factor == 32 && c.high_freq_factor == 5 && c.low_freq_factor == 2);
  assert_int_equal(c.original_max_position_embeddings, 8192);
  assert_int_equal(c.n_eos, 3); /* both files' ids, each once */
  int32_t sum = 0;
  for (uint32_t i = 0; i < c.n_eos; i++) sum += c.eos[i];
  assert_int_equal(sum, 24);
  assert_true(c.defaults.temperature == 0.6f && c.defaults.top_p == 0.9f && c.defaults.min_p == 0.05f);
  assert_true(c.defaults.repetition_penalty == 1.1f && c.defaults.top_k == 50);
  /* as transformers 5 writes it, and the old name of the type */
  assert_int_equal(read_texts(CONFIG(",\"rope_parameters\": {\"rope_theta\": 1000000, \"rope_type\": \"default\"}, \"rope_scaling\": null"),
                              NULL, &c, &err),
                   TL_OK);
  assert_true(c.rope_theta == 1000000);
  assert_string_equal(c.rope_type, "default");
  assert_int_equal(read_texts(CONFIG(",\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}"), NULL, &c, &err), TL_OK);
  assert_string_equal(c.rope_type, "linear");
}

#define OF(class, more) "{\"architectures\":[\"" class "\"],\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":2," \
  "\"num_attention_heads\":16,\"vocab_size\":100,\"max_position_embeddings\":512" more "}"

/* What is null follows from the rest; what is absent is the class's. */
static void test_class_defaults(void **state) {
  (void)state;
  struct hf_config c;
  struct tl_error err = {0};
  assert_int_equal(read_texts(OF("SeedOssForCausalLM", ""), NULL, &c, &err), TL_OK);
  assert_true(c.head_dim == 128 && c.num_key_value_heads == 8 && c.attention_bias);
  assert_int_equal(read_texts(OF("SeedOssForCausalLM", ",\"head_dim\":null"), NULL, &c, &err), TL_OK);
  assert_int_equal(c.head_dim, 4);
  assert_int_equal(read_texts(OF("Glm4MoeForCausalLM", ""), NULL, &c, &err), TL_OK);
  assert_true(c.num_key_value_heads == 8 && c.norm_topk_prob && c.n_shared_experts == 1 && c.first_dense == 1);
  assert_int_equal(read_texts(OF("Glm4MoeForCausalLM", ",\"num_key_value_heads\":null,\"norm_topk_prob\":false,\"n_shared_experts\":0"), NULL, &c, &err), TL_OK);
  assert_true(c.num_key_value_heads == 16 && !c.norm_topk_prob && c.n_shared_experts == 0);
  assert_int_equal(read_texts(OF("DeepseekV3ForCausalLM", ",\"head_dim\":192"), NULL, &c, &err), TL_OK);
  assert_true(c.q_lora_rank == 1536 && c.kv_lora_rank == 512 && c.head_dim == 64 && c.n_group == 8 && c.topk_group == 4 && c.first_dense == 3);
  assert_true(c.norm_topk_prob && c.routed_scaling_factor == 2.5 && c.rope_interleave && c.n_experts == 256);
  assert_int_equal(read_texts(OF("DeepseekV2ForCausalLM", ",\"q_lora_rank\":null,\"qk_rope_head_dim\":32"), NULL, &c, &err), TL_OK);
  assert_true(c.q_lora_rank == 0 && c.head_dim == 32 && !c.norm_topk_prob && c.n_shared_experts == 2);
  assert_int_equal(read_texts(OF("OlmoeForCausalLM", ""), NULL, &c, &err), TL_OK);
  assert_true(!c.norm_topk_prob && c.n_shared_experts == 0);
  assert_int_equal(read_texts(OF("CohereForCausalLM", ""), NULL, &c, &err), TL_OK);
  assert_true(c.num_key_value_heads == 16 && c.rope_theta == 5e5 && c.rms_norm_eps == 1e-5 && c.logits_scaling == 0.0625);
  assert_int_equal(read_texts(OF("Cohere2ForCausalLM", ",\"logit_scale\":0.25"), NULL, &c, &err), TL_OK);
  assert_true(c.sliding_window == 4096 && c.rope_theta == 1e4 && c.logits_scaling == 0.25);
  assert_int_equal(read_texts(OF("Starcoder2ForCausalLM", ",\"norm_epsilon\":0.5"), NULL, &c, &err), TL_OK);
  assert_true(c.num_key_value_heads == 2 && c.use_bias && c.sliding_window == 0 && c.rms_norm_eps == 0.5);
  assert_int_equal(read_texts(OF("NemotronForCausalLM", ""), NULL, &c, &err), TL_OK);
  assert_true(c.num_key_value_heads == 16 && !c.use_bias && c.rms_norm_eps == 1e-5);
  assert_int_equal(read_texts(OF("Llama4ForCausalLM", ",\"no_rope_layers\":[],\"moe_layers\":[1]"), NULL, &c, &err), TL_OK);
  assert_true(c.num_key_value_heads == 8 && c.head_dim == 128 && c.rope_theta == 5e5 && c.rms_norm_eps == 1e-5 && c.use_qk_norm);
  assert_true(c.n_experts == 16 && c.n_chosen == 1 && c.expert_size == 96 && c.intermediate_size == 16384 && c.dense[0] && !c.dense[1]);
  assert_int_equal(c.max_position_embeddings, 512);
#define LONG ",\"max_position_embeddings\":1000000"
  assert_int_equal(read_texts(OF("Llama4ForCausalLM", LONG ",\"attn_temperature_tuning\":4"), NULL, &c, &err), TL_OK);
  assert_true(c.max_position_embeddings == 1000000 && c.attention_chunk_size == 8192 && c.floor_scale == 8192 && c.attn_scale == 0.1);
  assert_int_equal(read_texts(OF("Llama4ForCausalLM", LONG ",\"attn_temperature_tuning\":false,\"attn_scale\":0.5"), NULL, &c, &err), TL_OK);
  assert_true(c.attention_chunk_size == 8192 && c.floor_scale == 0 && c.attn_scale == 0.5);
  assert_int_equal(read_texts(OF("Llama4ForCausalLM", LONG ",\"attn_temperature_tuning\":0,\"attention_chunk_size\":null"), NULL, &c, &err), TL_OK);
  assert_true(c.attention_chunk_size == 0 && c.floor_scale == 0);
#define LISTS(topk) ",\"model_type\":\"hunyuan_v1_moe\",\"num_experts\":[64,64],\"moe_topk\":" topk ",\"rope_scaling\":{\"type\":\"dynamic\",\"alpha\":1000.0,\"factor\":1.0}"
  assert_int_equal(read_texts(OF("HunYuanMoEV1ForCausalLM", LISTS("[8,8]")), NULL, &c, &err), TL_OK);
  assert_true(c.n_experts == 64 && c.n_chosen == 8 && c.rope_alpha == 1000);
  assert_int_equal(read_texts(OF("HunYuanMoEV1ForCausalLM", LISTS("[8,4]")), NULL, &c, &err), TL_ECORRUPT);
  assert_string_equal(err.message, "config.json: moe_topk: expected an integer from 0 to 64");
  assert_int_equal(read_texts(OF("Ernie4_5_MoeForCausalLM", ""), NULL, &c, &err), TL_OK);
  assert_true(c.num_key_value_heads == 4 && c.head_dim == 4 && c.rope_theta == 5e5 && c.rms_norm_eps == 1e-5);
  assert_true(c.n_experts == 64 && c.n_chosen == 6 && c.expert_size == 1536 && c.n_shared_experts == 2 && c.first_dense == 1);
  assert_int_equal(read_texts(OF("GraniteMoeSharedForCausalLM", ""), NULL, &c, &err), TL_OK);
  assert_true(c.n_experts == 8 && c.n_chosen == 2 && c.shared_expert_size == 0);
  assert_int_equal(read_texts(OF("Dots1ForCausalLM", ",\"num_attention_heads\":32"), NULL, &c, &err), TL_OK);
  assert_true(c.num_key_value_heads == 32 && c.sliding_window == 4096 && c.max_window_layers == 62 && !c.norm_topk_prob);
  assert_int_equal(read_texts(OF("MiniMaxM2ForCausalLM", ""), NULL, &c, &err), TL_OK);
  assert_true(c.num_key_value_heads == 8 && c.head_dim == 128 && c.rope_theta == 5e6 && c.n_experts == 256 && c.n_chosen == 8);
  assert_int_equal(model_n_rotated(&c), 128);
  assert_int_equal(read_texts(OF("MiniMaxM2ForCausalLM", ",\"rotary_dim\":62"), NULL, &c, &err), TL_OK);
  assert_int_equal(model_n_rotated(&c), 62);
  assert_int_equal(read_texts(OF("MiniMaxM2ForCausalLM", ",\"rotary_dim\":130"), NULL, &c, &err), TL_ECORRUPT);
  assert_string_equal(err.message, "config.json: rotary_dim: expected up to head_dim");
}

#define PICTURES(outer, text) "{\"architectures\":[\"Mistral3ForConditionalGeneration\"]" outer ",\"text_config\":" text "}"
#define QUANTIZED ",\"quantization_config\":{\"quant_method\":\"awq\"}"

/* A text model's type has defaults of its own; it may be the one that says how it is quantized. */
/* K-EXAONE's first files call their class otherwise than transformers does; those of its second version, which have the latter's name,
 * may bound experts and have windows of several sizes. */
static void test_k_exaone(void **state) {
  (void)state;
#define EXAONE(name, more) "{\"architectures\": [\"" name "\"], \"model_type\": \"exaone_moe\", \"num_experts\": 128, \"sliding_window\": 128, \"num_key_value_heads\": 2, " \
                           "\"layer_types\": [\"sliding_attention\", \"full_attention\"], " SIZES more "}"
  static const struct {
    const char *text, *message;
  } cases[] = {{EXAONE("ExaoneMoEForCausalLM", ""), ""},
               {EXAONE("ExaoneMoeForCausalLM", ", \"swiglu_limits\": [0, null], \"sliding_windows\": [128, 0]"), ""},
               {EXAONE("ExaoneMoeForCausalLM", ", \"swiglu_limits\": [0, 7.0]"), "config.json: swiglu_limits: is not supported"},
               {EXAONE("ExaoneMoeForCausalLM", ", \"sliding_windows\": [4096, 0]"), "config.json: sliding_windows: expected sliding_window in all layers that have one"}};
  for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
    struct hf_config c;
    struct tl_error err;
    assert_int_equal(read_texts(cases[i].text, NULL, &c, &err), cases[i].message[0] ? TL_EUNSUPPORTED : TL_OK);
    assert_string_equal(err.message, cases[i].message);
    assert_string_equal(c.architecture, "ExaoneMoeForCausalLM");
    assert_true(c.first_dense == 1 && c.n_experts == 128 && c.n_shared_experts == 1);
  }
}

static void test_text_config(void **state) {
  (void)state;
  struct hf_config c;
  struct tl_error err = {0};
  assert_int_equal(read_texts(PICTURES("", OF("", ",\"model_type\":\"mistral\"")), NULL, &c, &err), TL_OK);
  assert_true(c.head_dim == 4 && c.sliding_window == 4096 && c.rms_norm_eps == 1e-6 && c.rope_theta == 1e4);
  assert_int_equal(read_texts(PICTURES("", OF("", ",\"model_type\":\"ministral3\"")), NULL, &c, &err), TL_OK);
  assert_true(c.head_dim == 128 && c.sliding_window == 0 && c.rms_norm_eps == 1e-5 && c.rope_theta == 1e6);
  assert_string_equal(c.quant_method, "");
  assert_int_equal(read_texts(PICTURES(QUANTIZED, OF("", "")), NULL, &c, &err), TL_OK);
  assert_string_equal(c.quant_method, "awq");
  assert_int_equal(read_texts(PICTURES("", OF("", QUANTIZED)), NULL, &c, &err), TL_OK);
  assert_string_equal(c.quant_method, "awq");
}

#define GEMMA4(more) "{\"architectures\": [\"Gemma4ForCausalLM\"], \"model_type\": \"gemma4_text\", \"num_hidden_layers\": 7, \"hidden_size\": 64, " \
  "\"intermediate_size\": 96" more "}"

/* What follows from the rest, as published files and as transformers writes it. */
static void test_gemma4(void **state) {
  (void)state;
  struct hf_config c;
  struct tl_error err;
  assert_int_equal(read_texts(GEMMA4(""), NULL, &c, &err), TL_OK);
  assert_true(c.global_head_dim == 512 && c.head_dim == 256 && c.num_key_value_heads == 4 && c.num_global_key_value_heads == 4 && c.sliding_window == 512);
  assert_true(c.hidden_size_per_layer_input == 256 && c.vocab_size_per_layer_input == 262144 && c.n_experts == 0);
  for (int i = 0; i < 7; i++) assert_int_equal(c.slides[i], i < 5);
  assert_string_equal(c.rope_type, "proportional");
  assert_true(c.rope_share == 0.25 && c.rope_theta == 1e6 && c.rope_local_base_freq == 1e4);
  assert_int_equal(read_texts(GEMMA4(", \"attention_k_eq_v\": true, \"num_global_key_value_heads\": 2, \"global_head_dim\": 384, \"num_kv_shared_layers\": 1,"
                                     "\"use_bidirectional_attention\": \"vision\", \"enable_moe_block\": true, \"num_experts\": 8, \"top_k_experts\": 3"),
                              NULL, &c, &err), TL_OK);
  assert_true(c.global_head_dim == 384 && c.num_global_key_value_heads == 2 && c.n_experts == 8 && c.n_chosen == 3 && !c.use_bidirectional_attention);
  /* without attention_k_eq_v that key means nothing; experts without enable_moe_block neither */
  assert_int_equal(read_texts(GEMMA4(", \"num_global_key_value_heads\": 2, \"num_experts\": 8"), NULL, &c, &err), TL_OK);
  assert_true(c.num_global_key_value_heads == 4 && c.n_experts == 0);
  assert_int_equal(read_texts(GEMMA4(", \"attention_k_eq_v\": true, \"per_layer_config\": {\"5\": {\"head_dim\": 320, \"num_key_value_heads\": 1},"
                                     "\"6\": {\"head_dim\": 320, \"num_key_value_heads\": 1}}"), NULL, &c, &err), TL_OK);
  assert_true(c.global_head_dim == 320 && c.num_global_key_value_heads == 1);
  static const struct {
    const char *config, *why;
    int r;
  } bad[] = {
      {GEMMA4(", \"per_layer_config\": {\"1\": {\"head_dim\": 320}}"), "per_layer_config", TL_ECORRUPT},
      {GEMMA4(", \"per_layer_config\": {\"5\": {\"head_dim\": 320}, \"6\": {\"head_dim\": 384}}"), "per_layer_config", TL_ECORRUPT},
      {GEMMA4(", \"per_layer_config\": {\"5\": {\"head_dim\": 1}, \"6\": {\"head_dim\": 1}}"), "per_layer_config", TL_ECORRUPT},
      {GEMMA4(", \"global_head_dim\": 321"), "global_head_dim", TL_ECORRUPT},
      {GEMMA4(", \"sliding_window\": 0"), "sliding_window", TL_ECORRUPT},
      {GEMMA4(", \"sliding_window\": null"), "sliding_window", TL_ECORRUPT},
      {GEMMA4(", \"enable_moe_block\": true"), "num_experts", TL_ECORRUPT}, /* it would be read as a model without them */
      {GEMMA4(", \"num_kv_shared_layers\": 2"), "num_kv_shared_layers", TL_ECORRUPT}, /* the first without a window would be one of them */
      {GEMMA4(", \"num_kv_shared_layers\": 7"), "num_kv_shared_layers", TL_ECORRUPT},
      {GEMMA4(", \"vocab_size_per_layer_input\": 100"), "vocab_size_per_layer_input", TL_ECORRUPT},
      {GEMMA4(", \"attention_k_eq_v\": true, \"num_global_key_value_heads\": 3"), "num_global_key_value_heads", TL_ECORRUPT},
      {GEMMA4(", \"attention_bias\": true"), "attention_bias", TL_EUNSUPPORTED},
  };
  for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
    assert_int_equal(read_texts(bad[i].config, NULL, &c, &err), bad[i].r);
    if (!strstr(err.message, bad[i].why)) fail_msg("%s: %s", bad[i].config, err.message);
  }
}

static void test_end_ids(void **state) {
  (void)state;
  struct hf_config c;
  struct tl_error err;
  /* ids that no token has, and things that are no ids, are passed over */
  assert_int_equal(read_texts(CONFIG(",\"eos_token_id\": [-1, 100, 99, \"5\", 5.0, null, 99999999999]"), "{\"eos_token_id\": null}", &c,
                              &err),
                   TL_OK);
  assert_int_equal(c.n_eos, 1);
  assert_int_equal(c.eos[0], 99);
  assert_int_equal(read_texts(CONFIG(",\"eos_token_id\": [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]"), NULL, &c, &err), TL_OK);
  assert_int_equal(c.n_eos, TL_MAX_EOS);
}

static void test_generation_out_of_range(void **state) {
  (void)state;
  struct hf_config c;
  struct tl_error err;
  assert_int_equal(read_texts(CONFIG(""), "{\"temperature\": 9, \"top_p\": -1, \"top_k\": \"x\", \"min_p\": null}", &c, &err), TL_OK);
  assert_true(c.defaults.temperature < 0 && c.defaults.top_p < 0 && c.defaults.top_k < 0 && c.defaults.min_p < 0);
  assert_int_equal(read_texts(CONFIG(""), "[]", &c, &err), TL_ECORRUPT);
  assert_string_equal(err.message, "generation_config.json: expected a JSON object");
  assert_int_equal(read_texts(CONFIG(""), "{", &c, &err), TL_ECORRUPT);
}

static void test_errors(void **state) {
  (void)state;
  static const struct {
    const char *config;
    int result;
    const char *message; /* NULL: any */
  } cases[] = {
      {"", TL_ECORRUPT, NULL},
      {"[]", TL_ECORRUPT, "config.json: expected a JSON object"},
      {"{\"hidden_size\": NaN}", TL_ECORRUPT, NULL},
      {"{}", TL_ECORRUPT, "config.json: hidden_size: is required"},
      {"{\"hidden_size\": 64}", TL_ECORRUPT, "config.json: intermediate_size: is required"},
      {"{\"hidden_size\": 0}", TL_ECORRUPT, "config.json: hidden_size: expected an integer from 1 to 1000000"},
      {"{\"hidden_size\": -64}", TL_ECORRUPT, "config.json: hidden_size: expected an integer from 1 to 1000000"},
      {"{\"hidden_size\": 64.0}", TL_ECORRUPT, "config.json: hidden_size: expected an integer from 1 to 1000000"},
      {"{\"hidden_size\": \"64\"}", TL_ECORRUPT, "config.json: hidden_size: expected an integer from 1 to 1000000"},
      {"{\"hidden_size\": 9223372036854775807}", TL_ECORRUPT, "config.json: hidden_size: expected an integer from 1 to 1000000"},
      {CONFIG(",\"num_key_value_heads\": 3"), TL_ECORRUPT,
       "config.json: num_attention_heads: expected a multiple of num_key_value_heads"},
      {CONFIG(",\"num_key_value_heads\": 8"), TL_ECORRUPT,
       "config.json: num_attention_heads: expected a multiple of num_key_value_heads"},
      {CONFIG(",\"num_key_value_heads\": 0"), TL_ECORRUPT, "config.json: num_key_value_heads: expected an integer from 1 to 4096"},
      {CONFIG(",\"head_dim\": 15"), TL_ECORRUPT, "config.json: head_dim: expected an even size"},
      {CONFIG(",\"head_dim\": 1"), TL_ECORRUPT, "config.json: head_dim: expected an integer from 2 to 4096"},
      {CONFIG(",\"rms_norm_eps\": \"1e-5\""), TL_ECORRUPT, "config.json: rms_norm_eps: expected a number from 0 to 1"},
      {CONFIG(",\"rope_theta\": 0"), TL_ECORRUPT, "config.json: rope_theta: expected a number from 1 to 1e+12"},
      {CONFIG(",\"rope_scaling\": {\"factor\": -1}"), TL_ECORRUPT, "config.json: factor: expected a number from 1 to 1e+06"},
      {CONFIG(",\"attention_bias\": 1"), TL_ECORRUPT, "config.json: attention_bias: expected true or false"},
      {CONFIG(",\"layer_types\": [\"full_attention\"]"), TL_ECORRUPT,
       "config.json: layer_types: expected a list of num_hidden_layers items"},
      {CONFIG(",\"no_rope_layers\": 5"), TL_ECORRUPT,
       "config.json: no_rope_layers: expected a list of num_hidden_layers items"},
      {CONFIG(",\"rope_parameters\": {\"rope_type\": \"longrope\", \"short_factor\": [0]}"), TL_ECORRUPT,
       "config.json: long_factor: expected a list of factors"},
      {CONFIG(",\"hidden_act\": \"0123456789012345678901234567890123456789\""), TL_ECORRUPT,
       "config.json: hidden_act: expected a short string"},
      {CONFIG(",\"hidden_act\": 5"), TL_ECORRUPT, "config.json: hidden_act: expected a short string"},
      {"{\"hidden_size\": 66, \"intermediate_size\": 96, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"vocab_size\": 100,"
       "\"max_position_embeddings\": 512}",
       TL_ECORRUPT, "config.json: hidden_size: expected a multiple of num_attention_heads, or head_dim"},
      {"{\"hidden_size\": 4, \"intermediate_size\": 96, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"vocab_size\": 100,"
       "\"max_position_embeddings\": 512}",
       TL_ECORRUPT, "config.json: head_dim: expected an even size"},
  };
  for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
    struct hf_config c;
    struct tl_error err;
    int r = read_texts(cases[i].config, NULL, &c, &err);
    if (r != cases[i].result) fail_msg("%s: %d (%s)", cases[i].config, r, err.message);
    if (cases[i].message) assert_string_equal(err.message, cases[i].message);
    assert_memory_equal(err.message, "config.json: ", 13);
    assert_string_equal(err.field, "model.path");
  }
  struct hf_config c;
  struct tl_error err = {0};
  remove_file("config.json");
  assert_int_equal(model_read_config(folder, &c, &err), TL_ECORRUPT);
  assert_memory_equal(err.message, "config.json: ", 13);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_defaults), cmocka_unit_test(test_values), cmocka_unit_test(test_class_defaults), cmocka_unit_test(test_k_exaone), cmocka_unit_test(test_text_config), cmocka_unit_test(test_gemma4), cmocka_unit_test(test_end_ids),
      cmocka_unit_test(test_generation_out_of_range), cmocka_unit_test(test_errors),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
