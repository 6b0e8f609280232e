/* SPDX-License-Identifier: MIT */
/* What a GGUF file's keys mean for each architecture, what goes without saying, and what is refused. */
#include <math.h>

#include "gguf_unit.h"
#include "model/gguf_private.h"

#define UNIT_FILE "x.gguf"
#include "one_file.h"

/* A key of a case: text if there is one, else a list of n bools (of `bits`), else a float, else an integer. */
struct extra {
  const char *key, *text;
  unsigned n_list, bits;
  bool is_float;
  double number;
};

static void put_extra(struct tl_buffer *b, const struct extra *e) {
  if (e->text) {
    put_string(b, e->key, e->text);
    return;
  }
  if (e->n_list) {
    put_text(b, e->key);
    put_number(b, 9, 4);
    put_number(b, 7, 4);
    put_number(b, e->n_list, 8);
    for (unsigned i = 0; i < e->n_list; i++) put_number(b, e->bits >> i & 1, 1);
    return;
  }
  if (!e->is_float) {
    put_u32(b, e->key, (uint32_t)e->number);
    return;
  }
  float value = (float)e->number;
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  put_text(b, e->key);
  put_number(b, 6, 4);
  put_number(b, bits, 4);
}

/* A model of `layers` layers, 4 heads of 16, and what `extra` says. */
static int read_config(const char *architecture, unsigned layers, const struct extra *extra, unsigned n,
                       struct hf_config *c, struct tl_error *err) {
  const struct {
    const char *key;
    uint32_t value;
  } sizes[] = {{"embedding_length", 96}, {"feed_forward_length", 32}, {"block_count", layers}, {"attention.head_count", 4},
               {"attention.key_length", 16}, {"context_length", 512}, {"vocab_size", 8}};
  struct tl_buffer b;
  char key[100];
  put_header(&b, 3, 0, UNIT_COUNT(sizes) + 2 + n);
  put_string(&b, "general.architecture", architecture);
  for (unsigned i = 0; i < UNIT_COUNT(sizes); i++) {
    snprintf(key, sizeof key, "%s.%s", architecture, sizes[i].key);
    put_u32(&b, key, sizes[i].value);
  }
  snprintf(key, sizeof key, "%s.attention.layer_norm%s_epsilon", architecture, strcmp(architecture, "stablelm") ? "_rms" : "");
  put_extra(&b, &(struct extra){.key = key, .is_float = true, .number = 0.25});
  for (unsigned i = 0; i < n; i++) put_extra(&b, &extra[i]);
  unit_write_file(folder, "x.gguf", b.data, b.length);
  tl_buffer_done(&b);
  struct tl_gguf *g;
  bool paired;
  *err = (struct tl_error){0};
  int r = tl_gguf_open(path, &g, err);
  if (r < 0) fail_msg("%s", err->message);
  r = gguf_read_config(g, c, &paired, err);
  static const char *const in_pairs[] = {"llama", "smollm3", "granite", "granitemoe", "mistral3"};
  bool expected = false;
  for (unsigned i = 0; i < UNIT_COUNT(in_pairs); i++) expected |= strcmp(architecture, in_pairs[i]) == 0;
  if (r == TL_OK) assert_int_equal(paired, expected);
  tl_gguf_close(g);
  return r;
}

static void taken(const char *architecture, unsigned layers, const struct extra *extra, unsigned n, struct hf_config *c) {
  struct tl_error err;
  if (read_config(architecture, layers, extra, n, c, &err) < 0) fail_msg("%s: %s", architecture, err.message);
  assert_true(c->rms_norm_eps == 0.25);
}

static void test_defaults(void **state) {
  (void)state;
  static const char *const names[] = {"llama", "qwen2", "qwen3", "smollm3", "phi3", "gemma2",
                                      "gemma3", "olmo2", "granite", "stablelm", "glm4", "mistral3", "minimax-m2", "dots1", "ernie4_5-moe", "granitemoe"};
  static struct hf_config c;
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) {
    taken(names[i], 2, NULL, 0, &c);
    bool gemma2 = strcmp(names[i], "gemma2") == 0;
    assert_true(gguf_knows_class(c.architecture));
    assert_int_equal(c.sliding_window, gemma2 ? 4096 : 0);
    assert_true(c.attn_logit_softcapping == (gemma2 ? 50 : 0));
    assert_true(c.final_logit_softcapping == (gemma2 ? 30 : 0));
    assert_int_equal(model_n_rotated(&c), 16);
    assert_true(c.query_pre_attn_scalar == 16);
    assert_true(c.attention_multiplier == 0.25);
    assert_false(c.has_layer_types);
    assert_string_equal(c.rope_type, "");
  }
  /* the 27B ones divide by another size */
  taken("gemma2", 46, NULL, 0, &c);
  assert_true(c.query_pre_attn_scalar == 24);
  taken("gemma3", 62, NULL, 0, &c);
  assert_true(c.query_pre_attn_scalar == 24);
  taken("gemma3", 46, NULL, 0, &c);
  assert_true(c.query_pre_attn_scalar == 16);
}

/* Lengths of heads with keys of their own, and lists of what layers differ in. */
static void test_gemma4(void **state) {
  (void)state;
  static struct hf_config c;
#define G4(name) .key = "gemma4." name
  struct extra keys[] = {{G4("attention.head_count_kv"), .number = 2}, {G4("attention.key_length_swa"), .number = 8}, {G4("attention.sliding_window_pattern"), .n_list = 4, .bits = 5},
                         {G4("attention.sliding_window"), .number = 64}, {G4("attention.shared_kv_layers"), .number = 2}, {G4("embedding_length_per_layer_input"), .number = 8}};
  taken("gemma4", 4, keys, UNIT_COUNT(keys), &c);
  assert_true(c.global_head_dim == 16 && c.head_dim == 8 && c.num_key_value_heads == 2 && c.num_kv_shared_layers == 2 && c.hidden_size_per_layer_input == 8 && c.vocab_size_per_layer_input == c.vocab_size);
  assert_true(c.slides[0] && !c.slides[1] && c.slides[2] && !c.slides[3] && !c.use_double_wide_mlp && c.num_global_key_value_heads == c.num_key_value_heads);
  static const struct {
    unsigned key;
    double number;
    const char *why;
  } bad[] = {{1, 1, "attention.key_length_swa"}, {3, 0, "sliding_window"}, {4, 4, "attention.shared_kv_layers"}, {4, 3, "num_kv_shared_layers"}, {5, -1, "embedding_length_per_layer_input"}};
  for (unsigned i = 0; i < UNIT_COUNT(bad); i++) {
    struct tl_error err = {0};
    double kept = keys[bad[i].key].number;
    keys[bad[i].key].number = bad[i].number;
    assert_int_equal(read_config("gemma4", 4, keys, UNIT_COUNT(keys), &c, &err), TL_ECORRUPT);
    if (!strstr(err.message, bad[i].why)) fail_msg("%s", err.message);
    keys[bad[i].key].number = kept;
  }
}

static void test_keys(void **state) {
  (void)state;
  static struct hf_config c;
  taken("granite", 1, (struct extra[]){{.key = "granite.attention.scale", .is_float = true, .number = 0.5},
                                       {.key = "granite.embedding_scale", .is_float = true, .number = 12},
                                       {.key = "granite.residual_scale", .is_float = true, .number = 0.125},
                                       {.key = "granite.logit_scale", .is_float = true, .number = 8}}, 4, &c);
  assert_true(c.attention_multiplier == 0.5 && c.embedding_multiplier == 12 && c.residual_multiplier == 0.125 &&
              c.logits_scaling == 8);
  taken("gemma2", 1, (struct extra[]){{.key = "gemma2.attn_logit_softcapping", .is_float = true, .number = 5},
                                      {.key = "gemma2.final_logit_softcapping", .is_float = true, .number = 6},
                                      {.key = "gemma2.attention.sliding_window", .number = 7}}, 3, &c);
  assert_true(c.attn_logit_softcapping == 5 && c.final_logit_softcapping == 6 && c.sliding_window == 7);
  taken("gemma3", 3, (struct extra[]){{.key = "gemma3.attention.sliding_window_pattern", .number = 3},
                                      {.key = "gemma3.rope.freq_base_swa", .is_float = true, .number = 5000}}, 2, &c);
  assert_true(c.has_layer_types && c.slides[0] && c.slides[1] && !c.slides[2] && c.rope_local_base_freq == 5000);
  taken("gemma3", 3, &(struct extra){.key = "gemma3.attention.sliding_window_pattern", .n_list = 3, .bits = 5}, 1, &c);
  assert_true(c.has_layer_types && c.slides[0] && !c.slides[1] && c.slides[2]);
  taken("olmo2", 4, (struct extra[]){{.key = "olmo2.attention.sliding_window", .number = 64},
                                     {.key = "olmo2.rope.freq_base", .is_float = true, .number = 7000}}, 2, &c);
  assert_string_equal(c.architecture, "Olmo3ForCausalLM");
  assert_true(c.rope_local_base_freq == 7000 && c.sliding_window == 64);
  taken("olmo2", 4, NULL, 0, &c);
  assert_string_equal(c.architecture, "Olmo2ForCausalLM");
  for (uint32_t rotated = 2; rotated <= 16; rotated += 2) {
    taken("glm4", 1, &(struct extra){.key = "glm4.rope.dimension_count", .number = rotated}, 1, &c);
    assert_int_equal(model_n_rotated(&c), rotated);
  }
}

/* Attention beside the MLP goes without saying. */
static void test_parallel(void **state) {
  (void)state;
  static struct hf_config c;
  struct extra zero[] = {{.key = "gptneox.rope.dimension_count", .number = 4}, {.key = "gptneox.use_parallel_residual", .number = 0}};
  taken("gptneox", 2, NULL, 0, &c);
  assert_true(c.use_parallel_residual);
  taken("gptneox", 2, zero, 2, &c);
  assert_false(c.use_parallel_residual);
  taken("stablelm", 2, NULL, 0, &c);
  assert_false(c.use_parallel_residual);
}

static void test_rope(void **state) {
  (void)state;
  static struct hf_config c;
  const struct extra factor = {.key = "qwen2.rope.scaling.factor", .is_float = true, .number = 4};
  taken("qwen2", 1, &factor, 1, &c);
  assert_string_equal(c.rope_type, "linear");
  taken("qwen2", 1, (struct extra[]){factor, {.key = "qwen2.rope.scaling.type", .text = "none"}}, 2, &c);
  assert_string_equal(c.rope_type, "");
  struct extra yarn[] = {factor,
                         {.key = "qwen2.rope.scaling.type", .text = "yarn"},
                         {.key = "qwen2.rope.scaling.original_context_length", .number = 64},
                         {.key = "qwen2.rope.scaling.yarn_beta_fast", .is_float = true, .number = 16},
                         {.key = "qwen2.rope.scaling.yarn_beta_slow", .is_float = true, .number = 2},
                         {.key = "qwen2.rope.scaling.attn_factor", .is_float = true, .number = 0.5},
                         {.key = "qwen2.rope.scaling.yarn_attn_factor", .is_float = true, .number = 3}};
  taken("qwen2", 1, yarn, 5, &c);
  assert_string_equal(c.rope_type, "yarn");
  assert_true(c.original_max_position_embeddings == 64 && c.beta_fast == 16 && c.beta_slow == 2 && c.attention_factor == 0);
  taken("qwen2", 1, yarn, 6, &c);
  assert_true(fabs(c.attention_factor - 0.5 * (0.1 * log(4) + 1)) < 1e-9);
  taken("qwen2", 1, yarn, 7, &c);
  assert_true(c.attention_factor == 1.5);
}

static void test_refused(void **state) {
  (void)state;
  static const struct {
    const char *architecture;
    struct extra extra;
    const char *message;
  } cases[] = {
      {"qwen2", {.key = "qwen2.attention.sliding_window", .number = 64}, "windows are not supported for this architecture"},
      {"qwen3", {.key = "qwen3.rope.dimension_count", .number = 8}, "rotating a part of a head"},
      {"glm4", {.key = "glm4.rope.dimension_count", .number = 18}, "rotating a part of a head"},
      {"glm4", {.key = "glm4.rope.dimension_count", .number = 0}, "rotating a part of a head"},
      {"gemma3", {.key = "gemma3.attention.sliding_window_pattern", .number = 0}, "expected 1 to 1000"},
      {"gemma3", {.key = "gemma3.attention.sliding_window_pattern", .n_list = 3}, "as many items as there are layers"},
      {"gemma2", {.key = "gemma2.attention.value_length", .number = 8}, "values of another length"},
      {"stablelm", {.key = "stablelm.use_parallel_residual", .number = 1}, "use_parallel_residual: is not supported"},
      {"phi3", {.key = "phi3.rope.scaling.type", .text = "su"}, "known are none, linear, yarn, longrope"},
      {"phi3", {.key = "phi3.rope.scaling.attn_factor", .is_float = true, .number = NAN}, "expected 0.001 to 1000"},
      {"granite", {.key = "granite.logit_scale", .is_float = true, .number = 0}, "granite.logit_scale: expected a number"},
      {"bert", {.key = "bert.attention.causal", .number = 1}, "bert.attention.causal: true is not supported"},
      {"llama", {.key = "llama.attention.causal", .number = 0}, "llama.attention.causal: false is not supported"},
      {"gemma-embedding", {.key = "gemma-embedding.attention.causal", .number = 1}, "gemma-embedding.attention.causal: true is not supported"},
      {"bert", {.key = "bert.attention.sliding_window", .number = 8}, "bert.attention.sliding_window: windows are not"},
      {"modern-bert", {.key = "modern-bert.hidden_activation", .text = "silu"}, "modern-bert.hidden_activation: expected gelu"},
      {"modern-bert", {.key = "modern-bert.attention.sliding_window_pattern", .number = 0}, "expected 1 to 1000"},
      {"glm4moe", {.key = "glm4moe.expert_gating_func", .number = 1}, "glm4moe.expert_gating_func: expected 2"},
      {"qwen3moe", {.key = "qwen3moe.expert_gating_func", .number = 2}, "qwen3moe.expert_gating_func: 2 (sigmoid) is not supported"},
      {"mistral3", {.key = "mistral3.attention.temperature_scale", .is_float = true, .number = -1}, "expected a number from 0"},
      {"mistral3", {.key = "mistral3.rope.scaling.yarn_log_multiplier", .is_float = true, .number = NAN}, "expected 0 to 1000"},
      {"glm4moe", {.key = "glm4moe.nextn_predict_layers", .number = 2}, "glm4moe.nextn_predict_layers: expected less than block_count"},
      {"jina-bert-v2", {.key = "a", .number = 1}, "'jina-bert-v2' is not known; `tokenlane models --supported` lists"},
  };
  static struct hf_config c;
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_error err;
    int r = read_config(cases[i].architecture, 2, &cases[i].extra, 1, &c, &err);
    if (r >= 0 || r != err.code || !strstr(err.message, cases[i].message) || strstr(err.message, folder))
      fail_msg("%u: %d '%s': expected '%s'", i, r, err.message, cases[i].message);
  }
}

/* Mixtral's files say llama; sizes and shares of experts; which architectures have some. */
static void test_experts(void **state) {
  (void)state;
  static struct hf_config c;
  struct tl_error err;
  static const struct extra llama[] = {{.key = "llama.expert_count", .number = 8}, {.key = "llama.expert_used_count", .number = 2}};
  taken("llama", 2, llama, 2, &c);
  assert_string_equal(c.architecture, "MixtralForCausalLM");
  assert_true(c.n_experts == 8 && c.n_chosen == 2 && gguf_knows_class(c.architecture));
  static const struct extra none[] = {{.key = "llama.expert_count", .number = 0}};
  taken("llama", 2, none, 1, &c);
  assert_string_equal(c.architecture, "LlamaForCausalLM");
  static const struct extra qwen2[] = {{.key = "qwen2moe.expert_count", .number = 60},
                                       {.key = "qwen2moe.expert_feed_forward_length", .number = 24},
                                       {.key = "qwen2moe.expert_shared_feed_forward_length", .number = 40}};
  taken("qwen2moe", 2, qwen2, 3, &c);
  assert_true(c.n_experts == 60 && c.expert_size == 24 && c.shared_expert_size == 40 && !c.norm_topk_prob);
  static const struct extra qwen3[] = {{.key = "qwen3moe.expert_count", .number = 128}};
  taken("qwen3moe", 2, qwen3, 1, &c);
  assert_true(c.norm_topk_prob && !c.rope_untruncated);
  static const struct extra gpt[] = {{.key = "gpt-oss.expert_count", .number = 32}, {.key = "gpt-oss.attention.sliding_window", .number = 128}};
  taken("gpt-oss", 2, gpt, 2, &c);
  assert_true(c.rope_untruncated && c.sliding_window == 128 && c.swiglu_limit == 7);
  static const struct extra dense[] = {{.key = "qwen3.expert_count", .number = 8}};
  assert_int_equal(read_config("qwen3", 2, dense, 1, &c, &err), TL_EUNSUPPORTED);
  assert_non_null(strstr(err.message, "qwen3.expert_count: experts are not supported for this architecture"));
}

/* Queries of latents grow by their rank; without one contexts end where that begins, whichever key says it. */
static void test_growth(void **state) {
  (void)state;
  static struct hf_config c;
  const struct extra latent[] = {{.key = "deepseek2.attention.kv_lora_rank", .number = 16},
                                 {.key = "deepseek2.rope.dimension_count", .number = 4},
                                 {.key = "deepseek2.attention.key_length_mla", .number = 12},
                                 {.key = "deepseek2.attention.value_length_mla", .number = 8},
                                 {.key = "deepseek2.rope.scaling.original_context_length", .number = 48},
                                 {.key = "deepseek2.attention.temperature_scale", .is_float = true, .number = 0.1},
                                 {.key = "deepseek2.attention.temperature_length", .number = 40}};
  taken("deepseek2", 2, latent, 5, &c);
  int64_t whole = c.max_position_embeddings;
  assert_true(whole > 48);
  taken("deepseek2", 2, latent, 6, &c);
  assert_int_equal(c.max_position_embeddings, 48);
  taken("deepseek2", 2, latent, 7, &c);
  assert_int_equal(c.max_position_embeddings, 40);
  const struct extra ranked[] = {latent[0], latent[1], latent[2], latent[3], latent[4], latent[5], {.key = "deepseek2.attention.q_lora_rank", .number = 8}, latent[6]};
  taken("deepseek2", 2, ranked, 7, &c);
  assert_true(c.max_position_embeddings == whole && c.llama_4_scaling_beta > 0 && c.original_max_position_embeddings == 48);
  taken("deepseek2", 2, ranked, 8, &c); /* from somewhere else on */
  assert_int_equal(c.max_position_embeddings, 40);
  const struct extra mistral[] = {{.key = "mistral3.rope.scaling.original_context_length", .number = 48},
                                  {.key = "mistral3.attention.temperature_scale", .is_float = true, .number = 0.5}};
  taken("mistral3", 2, mistral, 2, &c);
  assert_true(c.max_position_embeddings == whole && c.llama_4_scaling_beta == 0.5 && c.original_max_position_embeddings == 48);
}

/* Encoders: no causal mask, windows on both sides, what transformers takes for granted. */
static void test_encoders(void **state) {
  (void)state;
  static struct hf_config c;
  taken("bert", 2, &(struct extra){.key = "bert.attention.causal", .number = 0}, 1, &c);
  assert_string_equal(c.architecture, "BertModel");
  assert_true(gguf_knows_class("RobertaModel") && gguf_knows_class("XLMRobertaModel") && !gguf_knows_class("BertForSequenceClassification"));
  taken("nomic-bert", 2, NULL, 0, &c);
  assert_true(c.rope_theta == 1000);
  taken("nomic-bert", 2, &(struct extra){.key = "nomic-bert.rope.freq_base", .is_float = true, .number = 500}, 1, &c);
  assert_true(c.rope_theta == 500);
  struct extra modern[] = {{.key = "modern-bert.attention.sliding_window", .number = 20},
                           {.key = "modern-bert.rope.freq_base_swa", .is_float = true, .number = 700},
                           {.key = "modern-bert.attention.sliding_window_pattern", .number = 2},
                           {.key = "modern-bert.hidden_activation", .text = "gelu"}};
  taken("modern-bert", 4, modern, 4, &c);
  assert_true(c.local_attention == 20 && c.rope_theta == 160000 && c.rope_local_base_freq == 700);
  assert_true(c.has_layer_types && !c.slides[0] && c.slides[1] && !c.slides[2] && c.slides[3]);
  taken("modern-bert", 4, modern, 1, &c);
  assert_true(!c.slides[0] && c.slides[1] && c.slides[2] && !c.slides[3] && c.rope_local_base_freq == 10000);
  taken("modern-bert", 4, NULL, 0, &c); /* no length: no windows */
  assert_true(c.has_layer_types && !c.slides[1] && !c.slides[2]);
}

static int read_pooling(const char *architecture, const char *key, uint32_t type, struct hf_pooling *ret, struct tl_error *err) {
  struct tl_buffer b;
  struct tl_gguf *g;
  put_header(&b, 3, 0, 2);
  put_string(&b, "general.architecture", architecture);
  put_u32(&b, key, type);
  unit_write_file(folder, "x.gguf", b.data, b.length);
  tl_buffer_done(&b);
  *err = (struct tl_error){0};
  if (tl_gguf_open(path, &g, err) < 0) fail_msg("%s", err->message);
  int r = gguf_read_pooling(g, ret, err);
  tl_gguf_close(g);
  return r;
}

static void test_pooling(void **state) {
  (void)state;
  static const struct {
    const char *architecture, *key;
    uint32_t type;
    enum tl_pooling kind;
    const char *message; /* of a refusal */
  } cases[] = {
      {"bert", "bert.pooling_type", 1, TL_POOL_MEAN, NULL},
      {"bert", "bert.pooling_type", 2, TL_POOL_FIRST, NULL},
      {"qwen3", "qwen3.pooling_type", 3, TL_POOL_LAST, NULL},
      {"bert", "a", 0, TL_POOL_NONE, NULL},
      {"qwen3", "a", 0, TL_POOL_NONE, NULL},
      {"qwen3", "qwen3.pooling_type", 0, TL_POOL_NONE, NULL}, /* it generates */
      {"bert", "bert.pooling_type", 0, TL_POOL_NONE, "bert.pooling_type: expected 1 (mean), 2 (first token) or 3 (last token), got 0"},
      {"bert", "bert.pooling_type", 4, TL_POOL_NONE, "got 4 (scores of pairs)"},
      {"qwen3", "qwen3.pooling_type", 5, TL_POOL_NONE, "qwen3.pooling_type: expected 1 (mean), 2 (first token) or 3 (last token), got 5"},
      {"gemma-embedding", "gemma-embedding.dense_2_feat_out", 0, TL_POOL_NONE, "gemma-embedding.dense_2_feat_out: expected 1 to 1000000"},
      {"bert", "bert.pooling_type", UINT32_MAX, TL_POOL_NONE, "got 4294967295"},
  };
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct hf_pooling p;
    struct tl_error err;
    int r = read_pooling(cases[i].architecture, cases[i].key, cases[i].type, &p, &err);
    if (cases[i].message ? r != TL_EUNSUPPORTED || !strstr(err.message, cases[i].message) : r != TL_OK) fail_msg("%u: %d '%s'", i, r, err.message);
    if (r == TL_OK) assert_true(p.kind == cases[i].kind && p.normalize && p.n_dense == 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_experts), cmocka_unit_test(test_growth), cmocka_unit_test(test_defaults), cmocka_unit_test(test_gemma4), cmocka_unit_test(test_keys),
                                     cmocka_unit_test(test_parallel), cmocka_unit_test(test_rope), cmocka_unit_test(test_refused), cmocka_unit_test(test_encoders),
                                     cmocka_unit_test(test_pooling)};
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
