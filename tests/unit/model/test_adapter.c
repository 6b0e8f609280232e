/* SPDX-License-Identifier: MIT */
/* Adapters as peft wrote them (tests/golden/make_adapters.py), and what can be wrong with one. */
#include <math.h>

#include "changed_file.h"
#include "tokenlane/adapter.h"

static char folder[64];

static int make_folder(void **state) {
  (void)state;
  unit_make_folder(folder);
  return 0;
}

static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors"};

static int remove_folder(void **state) {
  (void)state;
  unit_remove_files(folder, files, UNIT_COUNT(files));
  return rmdir(folder);
}

/* The adapter with `from` of file number `which` as `to`; then beside its base. */
static int add_changed(const char *base, const char *adapter, unsigned which, const char *from, const char *to, struct tl_model **ret,
                       struct tl_error *err) {
  for (unsigned i = 0; i < 2; i++) {
    char name[256];
    snprintf(name, sizeof name, "adapters/%s/%s", adapter, files[i]);
    assert_true(copy_changed(unit_open_golden(name), folder, files[i], i == which ? from : NULL, i == which ? to : NULL));
  }
  struct tl_adapter_source source = {"it", folder};
  memset(err, 0, sizeof *err);
  *ret = open_golden_model(base);
  return tl_model_add_adapters(*ret, &source, 1, err);
}

static const struct tl_adapter_part *find(const struct tl_model *m, enum tl_op_kind kind, uint32_t layer, uint32_t input) {
  for (uint32_t i = 0; i < m->adapters[0].n_parts; i++) {
    const struct tl_adapter_part *p = &m->adapters[0].parts[i];
    if (m->plan[p->record].kind == kind && m->plan[p->record].layer == layer && p->input == input) return p;
  }
  return NULL;
}

/* rslora, patterns and the layers that there are. */
static void test_numbers(void **state) {
  (void)state;
  struct tl_error err;
  struct tl_model *m;
  if (add_changed("llama/f32_odd", "f32_odd/two", 0, NULL, NULL, &m, &err) < 0) fail_msg("%s", err.message);
  const struct tl_adapter_part *v = find(m, TL_OP_QKV, 1, 2), *gate = find(m, TL_OP_GATED_UP, 1, 0), *down = find(m, TL_OP_MLP_DOWN, 1, 0);
  assert_int_equal(m->adapters[0].n_parts, 3);
  assert_string_equal(m->adapters[0].name, "it");
  assert_true(v && gate && down);
  assert_int_equal(v->rank, 9);
  assert_int_equal(down->rank, 5);
  assert_true(fabsf(v->scale - 5 / 3.0f) < 1e-6f && fabsf(gate->scale - 6 / sqrtf(5)) < 1e-6f && fabsf(down->scale - 3 / sqrtf(5)) < 1e-6f);
  for (uint32_t i = 1; i < 3; i++) assert_true(m->adapters[0].parts[i].record > m->adapters[0].parts[i - 1].record);
  tl_model_free(m);
}

/* One A for all that a fused product makes, and each input's rows of B. */
static void test_fused(void **state) {
  (void)state;
  struct tl_error err;
  struct tl_model *m;
  if (add_changed("arch/phi3", "phi3/one", 0, NULL, NULL, &m, &err) < 0) fail_msg("%s", err.message);
  for (uint32_t i = 0; i < 3; i++) {
    const struct tl_adapter_part *p = find(m, TL_OP_QKV, 0, i);
    assert_non_null(p);
    assert_int_equal(p->a, find(m, TL_OP_QKV, 0, 0)->a);
    assert_int_equal(m->tensors[p->b].shape[0], m->tensors[m->plan[p->record].weight[i]].shape[0]);
  }
  float row[64], whole[64];
  const struct tl_adapter_part *up = find(m, TL_OP_GATED_UP, 1, 1);
  tl_tensor_row_to_f32(&m->tensors[up->b], 3, row);
  const struct tl_tensor *gate = &m->tensors[find(m, TL_OP_GATED_UP, 1, 0)->b];
  struct tl_tensor all = *gate;
  all.shape[0] *= 2;
  tl_tensor_row_to_f32(&all, gate->shape[0] + 3, whole);
  assert_memory_equal(row, whole, up->rank * sizeof *row);
  tl_model_free(m);
}

/* What else tensors may be called, of the same length so that the header's stays right. */
static void test_names(void **state) {
  (void)state;
  static const struct {
    const char *from, *to, *said; /* NULL: it is fine */
  } cases[] = {{"base_model.model.model.layers.1.mlp.down_proj.lora_A", "base_model.model.model.layers.1.mlp.down_proj.lora_C", "expected lora_A or lora_B"},
               {"layers.1.mlp.down_proj.lora_A", "layers.9.mlp.down_proj.lora_A", "the model has no such layer"},
               {"layers.1.mlp.down_proj.lora_A", "layers.0.mlp.down_proj.lora_A", "its lora_B is missing"},
               {"layers.1.mlp.down_proj.lora_B", "layers.1.mlp.dawn_proj.lora_B", "its lora_B is missing"},
               {"layers.1.mlp.down_proj.lora_A", "layers.1.mlp.dawn_proj.lora_A", "expected lora_A or lora_B"},
               {"\"F16\"", "\"I64\"", "expected BF16, F16 or F32"},
               {"\"F16\"", "\"I16\"", "expected BF16, F16 or F32"}};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_error err;
    struct tl_model *m;
    assert_int_not_equal(add_changed("llama/f32_odd", "f32_odd/two", 1, cases[i].from, cases[i].to, &m, &err), TL_OK);
    if (!strstr(err.message, cases[i].said)) fail_msg("%s: %s", cases[i].to, err.message);
    assert_string_equal(err.field, "model.adapters");
    assert_non_null(strstr(err.message, "it/adapter_model.safetensors"));
    tl_model_free(m);
  }
}

/* Keys of the configuration as PEFT means them: what v's part of layer 1 is scaled by then, or why nothing is. */
static void test_configuration(void **state) {
  (void)state;
  static const char v[] = "\"model.layers.1.self_attn.v_proj\": 5", targets[] = "\"v_proj\"\n ]", rslora[] = "\"use_rslora\": true", r[] = "\"r\": 5,";
  static const struct {
    const char *from, *to;
    double alpha; /* 0: refused */
    const char *said;
  } cases[] = {{v, "\"^model.layers.1.self_attn.v_proj$\": 5", 5, NULL},
               {v, "\"model\\\\.layers\\\\.1\\\\.self_attn\\\\.v_proj\": 5", 5, NULL},
               {v, "\"layers...self_attn.v_proj\": 5", 5, NULL}, /* a dot is any character */
               {v, "\"layers\\\\...self_attn.v_proj\": 5", 5, NULL},
               {v, "\"layers.\\\\..self_attn.v_proj\": 5", 3, NULL}, /* this one a dot, where the number stands */
               {v, "\"^layers.1.self_attn.v_proj\": 5", 3, NULL},
               {v, "\"_attn.v_proj\": 5", 3, NULL},
               {v, "\"\": 5", 3, NULL},
               {v, "\"layers.\\\\d.self_attn.v_proj\": 5", 0, "alpha_pattern"},
               {v, "\"v_proj$.\": 5", 0, "alpha_pattern"},
               {v, "\"v_proj\\\\\": 5", 0, "alpha_pattern"},
               {v, "\".*v_proj\": 5", 0, "alpha_pattern"},
               {targets, "\"v_proj\", \"qkv_proj\", \"lm_head\", \"experts.w1\"]", 5, NULL}, /* of other models, or by another name */
               {targets, "\"v_proj\", \"model.layers.7.self_attn.v_proj\"]", 5, NULL},
               {targets, "\"v_proj\", \"model.layers.0.self_attn.v_proj\"]", 0, "'model.layers.0.self_attn.v_proj'"},
               {targets, "\"v_proj\", \"self_attn.k_proj\"]", 0, "'self_attn.k_proj'"},
               {rslora, "\"use_rslora\": \"yes\"", 0, "use_rslora"},
               {rslora, "\"kasa_config\": {\"beta\": 1}", 0, "kasa_config"},
               {"\"init_lora_weights\": true", "\"init_lora_weights\": \"OLoRA\"", 0, "changed base"},
               {r, "", 0, "its rank"}}; /* it is 8 then */
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_error err;
    struct tl_model *m;
    int result = add_changed("llama/f32_odd", "f32_odd/two", 0, cases[i].from, cases[i].to, &m, &err);
    if ((result == TL_OK) != (cases[i].alpha > 0)) fail_msg("%s: %d %s", cases[i].to, result, err.message);
    if (result < 0 && !strstr(err.message, cases[i].said)) fail_msg("%s: %s", cases[i].to, err.message);
    if (result == TL_OK && !(fabs((double)find(m, TL_OP_QKV, 1, 2)->scale - cases[i].alpha / 3) < 1e-6)) fail_msg("%s", cases[i].to);
    tl_model_free(m);
  }
}

/* An adapter of rank 1 of one module (rows, columns), of ones and zeros; then beside its base. */
static int add_one(const char *base, const char *module, unsigned rows, unsigned columns, struct tl_model **ret, struct tl_error *err) {
  static const char config[] = "{\"peft_type\": \"LORA\", \"r\": 1, \"lora_alpha\": 2}";
  char text[8192] = {0};
  int n = snprintf(text + 8, 800, "{\"base_model.model.%s.lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[1,%u],\"data_offsets\":[0,%u]},"
                   "\"base_model.model.%s.lora_B.weight\":{\"dtype\":\"F32\",\"shape\":[%u,1],\"data_offsets\":[%u,%u]}}",
                   module, columns, 4 * columns, module, rows, 4 * columns, 4 * (columns + rows));
  text[0] = (char)(n % 256);
  text[1] = (char)(n / 256);
  for (unsigned row = 0; row < rows; row++) { /* B's are numbered */
    float number = (float)row;
    memcpy(text + 8 + n + 4 * (columns + row), &number, sizeof number);
  }
  unit_write_file(folder, files[1], text, 8 + (size_t)n + 4 * (columns + rows));
  unit_write_file(folder, files[0], config, sizeof config - 1);
  struct tl_adapter_source source = {"it", folder};
  memset(err, 0, sizeof *err);
  *ret = open_golden_model(base);
  return tl_model_add_adapters(*ret, &source, 1, err);
}

/* A text model within one of pictures: both ways in which transformers names it, and a product of the other model. */
static void check_nested(const char *base) {
  static const char *const names[] = {"model.language_model.layers.1", "language_model.model.layers.1", "model.visual.blocks.1"};
  struct tl_model *m = open_golden_model(base);
  const struct tl_tensor *q = NULL;
  for (uint32_t i = 0; i < m->n_ops; i++)
    if (m->plan[i].kind == TL_OP_QKV && m->plan[i].layer == 1) q = &m->tensors[m->plan[i].weight[0]];
  assert_non_null(q);
  unsigned rows = (unsigned)q->shape[0], columns = (unsigned)q->shape[1];
  tl_model_free(m);
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) {
    char module[128];
    struct tl_error err;
    snprintf(module, sizeof module, "%s.self_attn.q_proj", names[i]);
    int r = add_one(base, module, rows, columns, &m, &err);
    if (r != (i == 2 ? TL_EUNSUPPORTED : TL_OK)) fail_msg("%s: %s: %d %s", base, names[i], r, err.message);
    if (r == TL_OK) assert_true(find(m, TL_OP_QKV, 1, 0)->scale > 1.9f);
    tl_model_free(m);
  }
}

static void test_nested(void **state) {
  (void)state;
  check_nested("arch/qwen3_vl");
  check_nested("gguf/arch_qwen3_vl.gguf"); /* which has the text model alone */
}

/* Mamba 2's layers: a file's rows are those of z, x, B, C and dt; records have C, B and x, and z and dt. */
static void check_scan(const char *base, const char *module, unsigned rows, unsigned columns, unsigned keys, unsigned values) {
  struct tl_error err;
  struct tl_model *m;
  if (add_one(base, module, rows, columns, &m, &err) < 0) fail_msg("%s: %s: %s", base, module, err.message);
  const struct {
    enum tl_op_kind kind;
    uint32_t input;
    unsigned first, n;
  } parts[] = {{TL_OP_DELTA_GATES, 0, 0, values}, {TL_OP_DELTA_IN, 2, values, values}, {TL_OP_DELTA_IN, 1, 2 * values, keys}, {TL_OP_DELTA_IN, 0, 2 * values + keys, keys},
               {TL_OP_DELTA_GATES, 1, 2 * values + 2 * keys, rows - 2 * values - 2 * keys}};
  assert_int_equal(m->adapters[0].n_parts, UNIT_COUNT(parts));
  for (unsigned i = 0; i < UNIT_COUNT(parts); i++) {
    const struct tl_adapter_part *p = find(m, parts[i].kind, 0, parts[i].input);
    float number;
    assert_non_null(p);
    assert_int_equal(m->tensors[p->b].shape[0], parts[i].n);
    for (unsigned row = 0; row < parts[i].n; row++) {
      tl_tensor_row_to_f32(&m->tensors[p->b], row, &number);
      assert_int_equal((int)number, parts[i].first + row);
    }
  }
  tl_model_free(m);
}

static void test_scans(void **state) {
  (void)state;
  check_scan("arch/granitemoehybrid", "model.layers.0.mamba.in_proj", 272, 56, 20, 112);
  check_scan("gguf/arch_granitemoehybrid.gguf", "model.layers.0.mamba.in_proj", 272, 56, 20, 112);
  check_scan("arch/nemotron_h", "model.layers.0.mixer.in_proj", 190, 36, 20, 72);
  check_scan("arch/nemotron_h", "backbone.layers.0.mixer.in_proj", 190, 36, 20, 72);
  check_scan("gguf/arch_nemotron_h.gguf", "backbone.layers.0.mixer.in_proj", 190, 36, 20, 72);
}

/* Names of layers of other kinds, shaped so that they would fit: each is what it is called, or nothing. */
static void test_names_of_layers(void **state) {
  (void)state;
  static const char moe[] = "arch/granitemoehybrid", dense[] = "arch/granitemoehybrid_dense", mixers[] = "arch/nemotron_h", no[] = "no such product in this layer";
  static const struct {
    const char *base, *module;
    unsigned rows, columns;
    const char *said; /* NULL: it is fine */
  } cases[] = {{moe, "model.layers.0.linear_attn.in_proj_qkv", 152, 56, no},
               {moe, "model.layers.0.linear_attn.in_proj_z", 112, 56, no},
               {moe, "model.layers.0.linear_attn.in_proj_b", 8, 56, no},
               {moe, "model.layers.0.linear_attn.in_proj_a", 8, 56, no}, /* an input that the record does not have */
               {moe, "model.layers.0.linear_attn.in_proj_ba", 16, 56, no},
               {moe, "model.layers.0.linear_attn.in_proj_qkvz", 264, 56, no},
               {moe, "model.layers.0.linear_attn.out_proj", 56, 112, no},
               {moe, "model.layers.0.conv.out_proj", 56, 112, no},
               {moe, "model.layers.0.self_attn.o_proj", 56, 112, no},
               {moe, "model.layers.0.attn.out_proj", 56, 112, no},
               {moe, "model.layers.0.attn.Wo", 56, 112, no},
               {moe, "model.layers.0.attention.output.dense", 56, 112, no},
               {moe, "model.layers.0.self_attn.q_proj", 56, 56, no},
               {moe, "model.layers.0.mamba.out_proj", 56, 112, NULL},
               {moe, "model.layers.1.mamba.out_proj", 56, 56, no},
               {moe, "model.layers.1.mamba.in_proj", 272, 56, no},
               {moe, "model.layers.1.self_attn.o_proj", 56, 56, NULL},
               {moe, "model.layers.1.shared_mlp.input_linear", 72, 56, NULL},
               {moe, "model.layers.0.mixer.in_proj", 272, 56, "expected lora_A or lora_B"},
               {moe, "model.layers.1.block_sparse_moe.input_linear", 40, 56, "routed experts"},
               {moe, "model.layers.1.block_sparse_moe.router.layer", 5, 56, "routers"},
               {moe, "model.layers.0.mamba.conv1d", 152, 4, "convolutions"},
               {moe, "model.layers.0.mamba.A_log", 8, 1, "no product"},
               {moe, "model.layers.0.mamba.D", 8, 1, "no product"},
               {moe, "model.layers.0.mamba.dt_bias", 8, 1, "no product"},
               {dense, "model.layers.0.shared_mlp.input_linear", 192, 64, NULL},
               {dense, "model.layers.1.shared_mlp.output_linear", 64, 96, NULL},
               {dense, "model.layers.1.mlp.gate_proj", 96, 64, no},
               {"arch/granite", "model.layers.1.shared_mlp.output_linear", 96, 48, no},
               {"arch/qwen3_5", "model.layers.0.mamba.in_proj", 96, 48, no},
               {"arch/qwen3_5", "model.layers.0.mamba.out_proj", 96, 48, no},
               {mixers, "backbone.layers.0.mixer.out_proj", 36, 72, NULL},
               {mixers, "backbone.layers.2.mixer.q_proj", 56, 36, NULL},
               {mixers, "backbone.layers.2.mixer.o_proj", 36, 56, NULL},
               {mixers, "model.layers.1.mixer.shared_experts.up_proj", 28, 36, NULL},
               {mixers, "model.layers.1.mixer.shared_experts.down_proj", 36, 28, NULL},
               {mixers, "model.layers.1.mixer.shared_experts.gate_proj", 28, 36, no},
               {mixers, "model.layers.1.mixer.up_proj", 28, 36, no},
               {mixers, "model.layers.1.mixer.in_proj", 190, 36, no},
               {mixers, "model.layers.0.mixer.q_proj", 56, 36, no},
               {mixers, "model.layers.2.mixer.out_proj", 36, 56, no},
               {mixers, "model.layers.5.mixer.in_proj", 190, 36, "no such layer"},
               {mixers, "backbone.layers.4294967296.mixer.in_proj", 190, 36, no},
               {mixers, "model.layers.1.mixer.experts.0.up_proj", 20, 36, "routed experts"},
               {mixers, "model.layers.1.mixer.gate", 5, 36, "routers"},
               {mixers, "model.layers.0.mixer.conv1d", 112, 4, "convolutions"},
               {mixers, "model.layers.0.mixer.D", 6, 1, "no product"},
               {"arch/nemotron_h_latent", "backbone.layers.1.mixer.fc1_latent_proj", 16, 32, "experts' latents"},
               {"arch/gpt2", "transformer.h.0.mlp.c_proj", 24, 96, "of this architecture"},
               {"arch/opt", "model.decoder.layers.0.self_attn.q_proj", 24, 24, "of this architecture"},
               {"arch/falcon_new", "model.layers.0.self_attn.qkv_proj", 64, 32, "of this architecture"},
               {"arch/nemotron_h_dense", "model.layers.1.mixer.up_proj", 96, 64, NULL},
               {"arch/nemotron_h_dense", "model.layers.1.mixer.shared_experts.up_proj", 96, 64, no},
               {"gguf/arch_nemotron_h_dense.gguf", "backbone.layers.3.mixer.down_proj", 64, 96, NULL}};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_error err;
    struct tl_model *m;
    int r = add_one(cases[i].base, cases[i].module, cases[i].rows, cases[i].columns, &m, &err);
    if (r != (cases[i].said ? TL_EUNSUPPORTED : TL_OK)) fail_msg("%s: %s: %d %s", cases[i].base, cases[i].module, r, err.message);
    if (cases[i].said && !strstr(err.message, cases[i].said)) fail_msg("%s: %s", cases[i].module, err.message);
    tl_model_free(m);
  }
}

/* What target_modules may say where layers are one mixer each. */
static void test_mixers_named(void **state) {
  (void)state;
  static const struct {
    const char *to, *said; /* NULL: it is fine */
  } cases[] = {{"\"mixer.in_proj\"", NULL}, {"\"mixer.up_proj\"", NULL}, /* that is no layer's here */
               {"\"mixer.q_proj\"", "'mixer.q_proj'"}, {"\"backbone.layers.2.mixer.o_proj\"", "'backbone.layers.2.mixer.o_proj'"},
               {"\"shared_experts.up_proj\"", "'shared_experts.up_proj'"}};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_error err;
    struct tl_model *m;
    char to[80];
    snprintf(to, sizeof to, "\"in_proj\", %s,", cases[i].to);
    int r = add_changed("arch/nemotron_h", "nemotron_h/two", 0, "\"in_proj\",", to, &m, &err);
    if (r != (cases[i].said ? TL_ECORRUPT : TL_OK)) fail_msg("%s: %d %s", to, r, err.message);
    if (cases[i].said && !strstr(err.message, cases[i].said)) fail_msg("%s: %s", to, err.message);
    tl_model_free(m);
  }
}

static void test_other_models(void **state) {
  (void)state;
  struct tl_error err;
  struct tl_model *m;
  assert_int_equal(add_changed("llama/bf16_tied", "f32_odd/one", 0, NULL, NULL, &m, &err), TL_ECORRUPT); /* shapes are another's */
  tl_model_free(m);
  assert_int_equal(add_changed("encoders/bert", "f32_odd/one", 0, NULL, NULL, &m, &err), TL_ECORRUPT);
  tl_model_free(m);
  assert_int_equal(add_changed("arch/mixtral", "f32_odd/one", 0, NULL, NULL, &m, &err), TL_EUNSUPPORTED); /* experts in place of the MLP, or shapes */
  tl_model_free(m);
}

/* Any byte of the configuration, and of the header, as another one: an error or an adapter, nothing else. */
static void test_changed_bytes(void **state) {
  (void)state;
  uint64_t random = 3;
  for (unsigned which = 0; which < 2; which++) {
    char name[128];
    size_t length;
    snprintf(name, sizeof name, "adapters/f32_odd/two/%s", files[which]);
    char *bytes = read_whole(unit_open_golden(name), &length);
    size_t end = which ? 900 : length;
    for (unsigned i = 0; i < 400; i++) {
      struct tl_error err;
      struct tl_model *m;
      size_t at = unit_below(&random, (uint32_t)(end < length ? end : length));
      if (add_changed("llama/f32_odd", "f32_odd/two", 2, NULL, NULL, &m, &err) < 0) fail_msg("%s", err.message);
      tl_model_free(m);
      char before = bytes[at];
      bytes[at] = (char)unit_below(&random, 256);
      unit_write_file(folder, files[which], bytes, length);
      bytes[at] = before;
      struct tl_adapter_source source = {"it", folder};
      memset(&err, 0, sizeof err);
      m = open_golden_model("llama/f32_odd");
      int r = tl_model_add_adapters(m, &source, 1, &err);
      assert_int_equal(err.code, r);
      if (r < 0) assert_non_null(strstr(err.message, "model.adapters: "));
      tl_model_free(m);
    }
    free(bytes);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_numbers), cmocka_unit_test(test_fused),        cmocka_unit_test(test_names),         cmocka_unit_test(test_configuration),
                                     cmocka_unit_test(test_nested),  cmocka_unit_test(test_other_models), cmocka_unit_test(test_changed_bytes),
                                     cmocka_unit_test(test_scans),   cmocka_unit_test(test_names_of_layers), cmocka_unit_test(test_mixers_named)};
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
