/* SPDX-License-Identifier: MIT */
/* Whole folders: the plan of a Llama, and what is wrong with one that is not. */
#include "tokenlane/model.h"

#include <math.h>

#include "tokenlane/base/buffer.h"
#include "changed_file.h"
#include "unit.h"

static char folder[64];
static const char *const files[] = {"config.json", "model.safetensors", "model.safetensors.index.json", "one.safetensors",
                                    "two.safetensors"};

static int make_folder(void **state) {
  (void)state;
  unit_make_folder(folder);
  return 0;
}

static void empty_folder(void) {
  unit_remove_files(folder, files, UNIT_COUNT(files));
}

static int remove_folder(void **state) {
  (void)state;
  empty_folder();
  return rmdir(folder);
}

/* --- a small Llama: dim 8, 2 layers, 4 heads of 2, 2 KV heads, ffn 12, vocabulary 10 ------------- */

#define SIZES                                                                                                  \
  "\"hidden_size\":8,\"intermediate_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":4,"       \
  "\"num_key_value_heads\":2,\"vocab_size\":10,\"max_position_embeddings\":64,\"eos_token_id\":3"
#define CONFIG(more) "{\"architectures\":[\"LlamaForCausalLM\"]," SIZES more "}"

struct weights {
  struct tl_buffer header;
  size_t bytes;
};

static const char *prefix = ""; /* of all names */

static void add(struct weights *w, const char *name, unsigned rows, unsigned columns) {
  size_t bytes = (size_t)rows * (columns ? columns : 1) * 2;
  tl_buffer_printf(&w->header, "%c\"%s%s\":{\"dtype\":\"BF16\",\"shape\":[%u", w->header.length ? ',' : '{', prefix, name, rows);
  if (columns) tl_buffer_printf(&w->header, ",%u", columns);
  tl_buffer_printf(&w->header, "],\"data_offsets\":[%zu,%zu]}", w->bytes, w->bytes + bytes);
  w->bytes += bytes;
}

static void add_layer(struct weights *w, unsigned layer, bool with_bias) {
  static const struct {
    const char *name;
    unsigned rows, columns;
  } parts[] = {{"input_layernorm", 8, 0},   {"self_attn.q_proj", 8, 8}, {"self_attn.k_proj", 4, 8},
               {"self_attn.v_proj", 4, 8},  {"self_attn.o_proj", 8, 8}, {"post_attention_layernorm", 8, 0},
               {"mlp.gate_proj", 12, 8},    {"mlp.up_proj", 12, 8},     {"mlp.down_proj", 8, 12}};
  char name[100];
  for (size_t i = 0; i < UNIT_COUNT(parts); i++) {
    snprintf(name, sizeof name, "model.layers.%u.%s.weight", layer, parts[i].name);
    add(w, name, parts[i].rows, parts[i].columns);
    snprintf(name, sizeof name, "model.layers.%u.%s.bias", layer, parts[i].name);
    if (with_bias && parts[i].columns) add(w, name, parts[i].rows, 0);
  }
}

static void write_weights(struct weights *w, const char *file) {
  tl_buffer_putc(&w->header, '}');
  size_t n = w->header.length;
  char *bytes = calloc(1, 8 + n + w->bytes);
  for (int i = 0; i < 8; i++) bytes[i] = (char)(n >> 8 * i);
  memcpy(bytes + 8, w->header.data, n);
  unit_write_file(folder, file, bytes, 8 + n + w->bytes);
  free(bytes);
  tl_buffer_done(&w->header);
  *w = (struct weights){0};
}

static void write_llama(const char *config, bool with_bias, bool with_head) {
  struct weights w = {0};
  empty_folder();
  unit_write_file(folder, "config.json", config, strlen(config));
  add(&w, "model.embed_tokens.weight", 10, 8);
  add_layer(&w, 0, with_bias);
  add_layer(&w, 1, with_bias);
  add(&w, "model.norm.weight", 8, 0);
  if (with_head) add(&w, "lm_head.weight", 10, 8);
  write_weights(&w, "model.safetensors");
}

static const char *name_of(const struct tl_model *m, int32_t tensor) {
  return tensor < 0 ? "" : m->tensors[tensor].name;
}

static void assert_op(const struct tl_model *m, uint32_t at, enum tl_op_kind kind, uint32_t layer, const char *first) {
  char expected[100];
  const struct tl_op *op = &m->plan[at];
  assert_int_equal(op->kind, kind);
  assert_int_equal(op->layer, layer);
  snprintf(expected, sizeof expected, first, layer);
  assert_string_equal(name_of(m, op->weight[0]), expected);
}

static void test_plan(void **state) {
  (void)state;
  struct tl_model *m;
  struct tl_error err = {0};
  write_llama(CONFIG(",\"rms_norm_eps\":1e-5"), false, true);
  assert_int_equal(tl_model_load(folder, &m, &err), TL_OK);
  assert_string_equal(m->architecture, "llama");
  assert_true(m->dim == 8 && m->n_layers == 2 && m->n_heads == 4 && m->n_kv_heads == 2 && m->head_dim == 2);
  assert_true(m->ffn_dim == 12 && m->vocab_size == 10 && m->max_context == 64 && m->dtype == TL_DTYPE_BF16);
  assert_true(m->n_eos == 1 && m->eos[0] == 3 && m->inv_freq[0] == 1);
  uint64_t parameters = 80 + 2 * (8 + 64 + 32 + 32 + 64 + 8 + 96 + 96 + 96) + 8 + 80;
  assert_int_equal(m->n_parameters, parameters);
  assert_int_equal(m->weight_bytes, parameters * 2);
  uint32_t at = 0;
  assert_op(m, at++, TL_OP_EMBED, 0, "model.embed_tokens.weight");
  for (uint32_t layer = 0; layer < 2; layer++) {
    assert_op(m, at++, TL_OP_RMSNORM, layer, "model.layers.%u.input_layernorm.weight");
    assert_true(m->plan[at - 1].eps == 1e-5f);
    assert_op(m, at++, TL_OP_QKV, layer, "model.layers.%u.self_attn.q_proj.weight");
    assert_non_null(strstr(name_of(m, m->plan[at - 1].weight[1]), "k_proj.weight"));
    assert_non_null(strstr(name_of(m, m->plan[at - 1].weight[2]), "v_proj.weight"));
    assert_op(m, at++, TL_OP_ROPE, layer, "");
    assert_op(m, at++, TL_OP_ATTEND, layer, "");
    assert_true(m->plan[at - 1].scale == 1 / sqrtf(2));
    assert_op(m, at++, TL_OP_ATTN_OUT, layer, "model.layers.%u.self_attn.o_proj.weight");
    assert_op(m, at++, TL_OP_RMSNORM, layer, "model.layers.%u.post_attention_layernorm.weight");
    assert_op(m, at++, TL_OP_GATED_UP, layer, "model.layers.%u.mlp.gate_proj.weight");
    assert_non_null(strstr(name_of(m, m->plan[at - 1].weight[1]), "up_proj.weight"));
    assert_op(m, at++, TL_OP_MLP_DOWN, layer, "model.layers.%u.mlp.down_proj.weight");
  }
  assert_op(m, at++, TL_OP_RMSNORM, 0, "model.norm.weight");
  assert_op(m, at++, TL_OP_LOGITS, 0, "lm_head.weight");
  assert_int_equal(m->n_ops, at);
  for (uint32_t i = 0; i < m->n_ops; i++)
    for (int k = 0; k < TL_OP_INPUTS; k++) assert_int_equal(m->plan[i].bias[k], -1);
  tl_model_release_files(m);
  assert_null(m->tensors[0].data);
  tl_model_release_files(m);
  tl_model_free(m);
  tl_model_free(NULL);
}

static void test_biases_and_tied_head(void **state) {
  (void)state;
  struct tl_model *m;
  struct tl_error err = {0};
  write_llama(CONFIG(",\"attention_bias\":true,\"mlp_bias\":true,\"tie_word_embeddings\":true"), true, false);
  assert_int_equal(tl_model_load(folder, &m, &err), TL_OK);
  static const unsigned n_biases[] = {[TL_OP_QKV] = 3, [TL_OP_ATTN_OUT] = 1, [TL_OP_GATED_UP] = 2, [TL_OP_MLP_DOWN] = 1, [TL_OP_LOGITS] = 0};
  for (uint32_t i = 0; i < m->n_ops; i++) {
    const struct tl_op *op = &m->plan[i];
    for (unsigned k = 0; k < TL_OP_INPUTS; k++) {
      assert_int_equal(op->bias[k] >= 0, k < n_biases[op->kind]);
      if (op->bias[k] < 0) continue;
      /* the bias of the weight beside it */
      const char *weight = name_of(m, op->weight[k]), *bias = name_of(m, op->bias[k]);
      assert_memory_equal(weight, bias, strlen(bias) - strlen("bias"));
      assert_int_equal(m->tensors[op->bias[k]].shape[0], m->tensors[op->weight[k]].shape[0]);
    }
  }
  assert_int_equal(m->plan[m->n_ops - 1].weight[0], m->plan[0].weight[0]);
  tl_model_free(m);
}

static void assert_fails(int result, const char *message) {
  struct tl_model *m = NULL;
  struct tl_error err = {0};
  int r = tl_model_load(folder, &m, &err);
  assert_string_equal(err.message, message);
  assert_int_equal(r, result);
  assert_null(m);
}

static void test_tensors_that_do_not_fit(void **state) {
  (void)state;
  write_llama(CONFIG(""), false, false);
  assert_fails(TL_ECORRUPT, "tensor 'lm_head.weight' is missing from the model's files");
  write_llama(CONFIG(",\"attention_bias\":true"), false, true);
  assert_fails(TL_ECORRUPT, "tensor 'model.layers.0.self_attn.q_proj.bias' is missing from the model's files");
  write_llama(CONFIG(",\"head_dim\":4"), false, true);
  assert_fails(TL_ECORRUPT, "model.safetensors: tensor 'model.layers.0.self_attn.q_proj.weight': expected shape 16 x 8, found 8 x 8");
  struct weights w = {0};
  write_llama(CONFIG(""), false, true);
  add(&w, "model.embed_tokens.weight", 80, 0);
  write_weights(&w, "model.safetensors");
  assert_fails(TL_ECORRUPT, "model.safetensors: tensor 'model.embed_tokens.weight': expected shape 10 x 8, found 80");
  write_llama(CONFIG(""), false, true);
  add(&w, "model.embed_tokens.weight", 10, 8);
  add(&w, "model.layers.0.input_layernorm.weight", 8, 1);
  write_weights(&w, "model.safetensors");
  assert_fails(TL_ECORRUPT, "model.safetensors: tensor 'model.layers.0.input_layernorm.weight': expected shape 8, found 8 x 1");
}

static void assert_unknown(const char *class_name) {
  char message[TL_ERROR_MESSAGE];
  snprintf(message, sizeof message, "config.json: architectures: '%s' is not known; `tokenlane models --supported` lists those that are",
           class_name);
  assert_fails(TL_EUNSUPPORTED, message);
}

static void test_architectures(void **state) {
  (void)state;
  struct tl_model *m;
  struct tl_error err = {0};
  write_llama("{\"architectures\":[\"MambaForCausalLM\"]," SIZES "}", false, true);
  assert_unknown("MambaForCausalLM");
  write_llama("{\"architectures\":[\"MiMoV2FlashForCausalLM\"],\"moe_layer_freq\":[0,1]," SIZES "}", false, true);
  assert_unknown("MiMoV2FlashForCausalLM");
  write_llama("{\"model_type\":\"llama\"," SIZES "}", false, true); /* no class is named: the type will do */
  assert_int_equal(tl_model_load(folder, &m, &err), TL_OK);
  tl_model_free(m);
  write_llama(CONFIG(",\"hidden_act\":\"gelu\""), false, true);
  assert_fails(TL_EUNSUPPORTED, "config.json: hidden_act: expected silu, got gelu");
  write_llama(CONFIG(",\"clip_qkv\":8.0"), false, true);
  assert_fails(TL_EUNSUPPORTED, "config.json: clip_qkv: is not supported");
  write_llama(CONFIG(",\"attention_out_bias\":true"), false, true);
  assert_fails(TL_EUNSUPPORTED, "config.json: attention_out_bias: is not supported");
  write_llama(CONFIG(",\"sliding_window_pattern\":\"LLLG\""), false, true);
  assert_fails(TL_ECORRUPT, "config.json: sliding_window_pattern: expected an integer from 1 to 1000, or layer_types");
  write_llama("{\"architectures\":[\"SeedOssForCausalLM\"],\"head_dim\":2," SIZES "}", false, true); /* has biases unless it says no */
  assert_fails(TL_ECORRUPT, "tensor 'model.layers.0.self_attn.q_proj.bias' is missing from the model's files");
  write_llama("{\"architectures\":[\"Glm4MoeForCausalLM\"],\"n_routed_experts\":8,\"num_experts_per_tok\":2,\"moe_intermediate_size\":4,"
              "\"n_group\":3,\"partial_rotary_factor\":1.0," SIZES "}", false, true);
  assert_fails(TL_ECORRUPT, "config.json: n_group: expected groups of one size, of 2 or more experts");
  write_llama("{\"architectures\":[\"PhiForCausalLM\"],\"partial_rotary_factor\":1.0,\"use_qk_norm\":true," SIZES "}", false, true);
  assert_fails(TL_EUNSUPPORTED, "config.json: use_qk_norm: is not supported for this architecture");
  write_llama("{\"architectures\":[5],\"model_type\":\"gpt_neo\"," SIZES "}", false, true);
  assert_unknown("");
}

static void change_config(const char *from, const char *to) {
  char path[200];
  snprintf(path, sizeof path, "%s/config.json", folder);
  assert_true(copy_changed(fopen(path, "rb"), folder, "config.json", from, to));
}

/* EXAONE 4: each fourth layer has no window, or each n-th, and only those with one turn. */
static void test_window_pattern(void **state) {
  (void)state;
  static const struct {
    const char *from, *to;
    uint32_t every;
  } cases[] = {{"\"sliding_window_pattern\"", "\"other\"", 4}, {"\"LLLG\"", "2", 2}, {"\"LLLG\"", "3", 3}};
  for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_model *m;
    struct tl_error err = {0};
    unsigned n_turning = 0, n_windows = 0;
    assert_true(copy_changed(unit_open_golden("arch/exaone4/config.json"), folder, "config.json", "\"layer_types\"", "\"others\""));
    assert_true(copy_changed(unit_open_golden("arch/exaone4/model.safetensors"), folder, "model.safetensors", NULL, NULL));
    change_config(cases[i].from, cases[i].to);
    if (tl_model_load(folder, &m, &err) < 0) fail_msg("%s", err.message);
    for (uint32_t k = 0; k < m->n_ops; k++) {
      const struct tl_op *op = &m->plan[k];
      n_turning += op->kind == TL_OP_ROPE;
      if (op->kind != TL_OP_ATTEND) continue;
      bool slides = (op->layer + 1) % cases[i].every != 0;
      assert_true(slides == ((op->features & TL_F_WINDOW) != 0));
      n_windows += slides;
    }
    assert_true(n_windows > 0 && n_windows == n_turning);
    tl_model_free(m);
  }
}

/* An output matrix that is said to be the embeddings', and is in the files, too. */
static void test_tied_head(void **state) {
  (void)state;
  for (int differs = 0; differs < 2; differs++) {
    struct tl_model *m;
    struct tl_error err = {0};
    char path[200];
    write_llama(CONFIG(",\"tie_word_embeddings\":true"), false, true);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    FILE *file = fopen(path, "r+b");
    assert_int_equal(fseek(file, differs ? -1 : 0, SEEK_END), 0);
    if (differs) assert_int_equal(fputc(1, file), 1); /* the matrix lies last */
    fclose(file);
    if (tl_model_load(folder, &m, &err) < 0) fail_msg("%s", err.message);
    assert_string_equal(name_of(m, m->plan[m->n_ops - 1].weight[0]), differs ? "lm_head.weight" : "model.embed_tokens.weight");
    tl_model_free(m);
  }
}

/* dots.llm1: layers from max_window_layers on. */
static void test_late_windows(void **state) {
  (void)state;
  static const struct {
    const char *to;
    unsigned n_windows;
  } cases[] = {{"\"sliding_window\": null", 0}, {"\"other\": null", 0}, {"\"max_window_layers\":1,\"sliding_window\":9,\"other\":1", 2}};
  for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_model *m;
    struct tl_error err = {0};
    unsigned n_windows = 0;
    assert_true(copy_changed(unit_open_golden("arch/dots1/config.json"), folder, "config.json", "\"max_window_layers\"", "\"more\""));
    assert_true(copy_changed(unit_open_golden("arch/dots1/model.safetensors"), folder, "model.safetensors", NULL, NULL));
    change_config("\"sliding_window\": null", cases[i].to);
    if (tl_model_load(folder, &m, &err) < 0) fail_msg("%s", err.message);
    for (uint32_t k = 0; k < m->n_ops; k++) n_windows += (m->plan[k].features & TL_F_WINDOW) != 0;
    assert_int_equal(n_windows, cases[i].n_windows);
    tl_model_free(m);
  }
}

/* --- models of pictures, too ---------------------------------------------------------------------------- */

#define NESTED(more, text) \
  "{\"architectures\":[\"Mistral3ForConditionalGeneration\"],\"model_type\":\"mistral3\",\"eos_token_id\":4," more "\"text_config\":{" text SIZES "}}"
#define MISTRAL "\"model_type\":\"mistral\","

static void write_nested(const char *config, bool with_head) {
  prefix = "language_model.";
  write_llama(config, false, with_head);
  prefix = "";
}

/* Keys are text_config's, names have a prefix, and what belongs to pictures is passed over whatever its shape. */
static void test_nested(void **state) {
  (void)state;
  struct tl_model *m;
  struct tl_error err = {0};
  struct weights w = {0};
  write_nested(NESTED("", MISTRAL), true);
  add(&w, "vision_tower.x", 1, 0);
  w.header.length -= strlen("[1],\"data_offsets\":[0,2]}");
  tl_buffer_printf(&w.header, "[1,1,1,1,1],\"data_offsets\":[0,2]}");
  add(&w, "model.language_model.embed_tokens.weight", 10, 8);
  add(&w, "model.visual.layers.0.weight", 2, 0);
  add_layer(&w, 0, false);
  add_layer(&w, 1, false);
  add(&w, "language_model.model.norm.weight", 8, 0);
  add(&w, "lm_head.weight", 10, 8);
  write_weights(&w, "model.safetensors");
  assert_int_equal(tl_model_load(folder, &m, &err), TL_OK);
  assert_string_equal(m->architecture, "mistral3");
  assert_int_equal(m->n_tensors, 1 + 9 + 9 + 1 + 1);
  assert_string_equal(name_of(m, m->plan[m->n_ops - 1].weight[0]), "lm_head.weight");
  assert_true(m->n_eos == 2 && m->eos[0] == 3 && m->eos[1] == 4 && m->dim == 8);
  tl_model_free(m);
  /* Ministral 3's queries grow behind the original context */
  write_nested(NESTED("", "\"model_type\":\"ministral3\",\"head_dim\":2,\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":2,\"llama_4_scaling_beta\":0.1,"
                          "\"original_max_position_embeddings\":32},"), true);
  assert_int_equal(tl_model_load(folder, &m, &err), TL_OK);
  assert_int_equal(m->max_context, 64);
  const struct tl_op *attend = m->plan;
  while (attend->kind != TL_OP_ATTEND) attend++;
  assert_true(attend->features == TL_F_GROWS && attend->growth.every == 32 && attend->growth.shift == 0);
  assert_true(tl_op_growth(attend, 0) == 1 && tl_op_growth(attend, 31) == 1);
  assert_float_equal(tl_op_growth(attend, 32), 1 + 0.1f * logf(2), 1e-6);
  assert_float_equal(tl_op_growth(attend, 95), 1 + 0.1f * logf(3), 1e-6);
  tl_model_free(m);
  /* one matrix for both ends when there is no other; no class is named: the type will do */
  write_nested("{\"model_type\":\"mistral3\",\"text_config\":{\"rope_scaling\":{\"type\":\"mrope\"}," SIZES "}}", false);
  assert_int_equal(tl_model_load(folder, &m, &err), TL_OK);
  assert_int_equal(m->plan[m->n_ops - 1].weight[0], m->plan[0].weight[0]);
  tl_model_free(m);
}

/* Whatever form the other one has. */
static void test_nested_packed_head(void **state) {
  (void)state;
  static const char *const names[] = {"lm_head.qweight", "lm_head.weight_packed"};
  for (size_t i = 0; i < UNIT_COUNT(names); i++) {
    struct weights w = {0};
    write_nested(NESTED("", MISTRAL), false);
    add(&w, "model.language_model.embed_tokens.weight", 10, 8);
    add_layer(&w, 0, false);
    add_layer(&w, 1, false);
    add(&w, "model.language_model.norm.weight", 8, 0);
    add(&w, names[i], 10, 8);
    write_weights(&w, "model.safetensors");
    assert_fails(TL_ECORRUPT, "tensor 'lm_head.weight' is missing from the model's files");
  }
}

static void test_nested_refused(void **state) {
  (void)state;
  write_nested(NESTED("", "\"model_type\":\"mamba\","), true);
  assert_fails(TL_EUNSUPPORTED, "config.json: text_config: model_type: expected mistral, got mamba");
  write_nested(NESTED("", "\"rope_scaling\":{\"type\":\"spiral\"},"), true);
  assert_fails(TL_EUNSUPPORTED, "config.json: rope_scaling: type 'spiral' is not known; known are default, linear, dynamic, llama3, "
                                "yarn, longrope");
  write_nested(NESTED("", "\"use_bidirectional_attention\":true,"), true);
  assert_fails(TL_EUNSUPPORTED, "config.json: use_bidirectional_attention: is not supported");
  write_nested("{\"architectures\":[\"Mistral3ForConditionalGeneration\"]}", true);
  assert_fails(TL_ECORRUPT, "config.json: hidden_size: is required");
  write_llama(CONFIG(",\"rope_scaling\":{\"type\":\"mrope\"}"), false, true); /* not a text model's */
  assert_fails(TL_EUNSUPPORTED, "config.json: rope_scaling: type 'mrope' is not known; known are default, linear, dynamic, llama3, "
                                "yarn, longrope");
}

/* --- several files ------------------------------------------------------------------------------------ */

static void write_index(const char *text) {
  unit_write_file(folder, "model.safetensors.index.json", text, strlen(text));
}

static void write_shards(void) {
  struct weights w = {0};
  empty_folder();
  unit_write_file(folder, "config.json", CONFIG(""), strlen(CONFIG("")));
  add(&w, "model.embed_tokens.weight", 10, 8);
  add_layer(&w, 0, false);
  write_weights(&w, "one.safetensors");
  add_layer(&w, 1, false);
  add(&w, "model.norm.weight", 8, 0);
  add(&w, "lm_head.weight", 10, 8);
  write_weights(&w, "two.safetensors");
}

static void test_shards(void **state) {
  (void)state;
  struct tl_model *m;
  struct tl_error err = {0};
  write_shards();
  write_index("{\"metadata\":{},\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\",\"c\":\"one.safetensors\"}}");
  assert_int_equal(tl_model_load(folder, &m, &err), TL_OK);
  assert_int_equal(m->n_tensors, 1 + 9 + 9 + 1 + 1);
  tl_model_free(m);
  write_index("{\"weight_map\":{\"a\":\"one.safetensors\"}}");
  assert_fails(TL_ECORRUPT, "tensor 'model.layers.1.input_layernorm.weight' is missing from the model's files");
  static const char *const names[] = {"\"../one.safetensors\"", "\"/etc/passwd\"", "\"\"", "5", "null", "\"..\"", "\"a/b\""};
  for (size_t i = 0; i < UNIT_COUNT(names); i++) {
    char index[100];
    snprintf(index, sizeof index, "{\"weight_map\":{\"a\":%s}}", names[i]);
    write_index(index);
    assert_fails(TL_ECORRUPT, "model.safetensors.index.json: tensor 'a': expected the name of a file in this folder");
  }
  write_index("{\"weight_map\":{\"a\":\"three.safetensors\"}}");
  assert_fails(TL_EIO, "three.safetensors: cannot be opened: No such file or directory");
  static const char *const broken[] = {"", "[]", "{}", "{\"weight_map\":[]}", "{\"weight_map\":"};
  for (size_t i = 0; i < UNIT_COUNT(broken); i++) {
    write_index(broken[i]);
    assert_fails(TL_ECORRUPT, "model.safetensors.index.json: weight_map: expected an object");
  }
}

static void test_no_weights(void **state) {
  (void)state;
  empty_folder();
  unit_write_file(folder, "config.json", CONFIG(""), strlen(CONFIG("")));
  assert_fails(TL_EIO, "model.safetensors: cannot be opened: No such file or directory");
  struct tl_model *m;
  struct tl_error err = {0};
  assert_int_equal(tl_model_load_config(folder, &m, &err), TL_OK);
  assert_string_equal(m->architecture, "llama");
  assert_true(m->vocab_size == 10 && m->max_context == 64 && m->n_eos == 1 && m->eos[0] == 3);
  assert_true(m->n_tensors == 0 && m->n_ops == 0 && m->weight_bytes == 0);
  tl_model_release_files(m);
  tl_model_free(m);
  unit_write_file(folder, "config.json", "{}", 2);
  assert_int_not_equal(tl_model_load_config(folder, &m, &err), TL_OK);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_window_pattern), cmocka_unit_test(test_late_windows), cmocka_unit_test(test_tied_head), cmocka_unit_test(test_nested),       cmocka_unit_test(test_nested_packed_head), cmocka_unit_test(test_nested_refused),
      cmocka_unit_test(test_plan),         cmocka_unit_test(test_biases_and_tied_head), cmocka_unit_test(test_tensors_that_do_not_fit),
      cmocka_unit_test(test_architectures), cmocka_unit_test(test_shards),              cmocka_unit_test(test_no_weights),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
