/* SPDX-License-Identifier: MIT */
/* Folders of embedders and cross-encoders that are not as they say: golden ones, changed in one place. */
#include <math.h>
#include <sys/stat.h>

#include "changed_file.h"
#include "model/model_private.h"

static const char *const files[] = {"config.json", "model.safetensors", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json",
                                    "2_Dense/config.json", "2_Dense/model.safetensors", "3_Dense/config.json", "3_Dense/model.safetensors"};
static const char *const folders[] = {"1_Pooling", "2_Dense", "3_Dense"};
static char folder[64];

static int make_folder(void **state) {
  (void)state;
  unit_make_folder(folder);
  for (unsigned i = 0; i < UNIT_COUNT(folders); i++) {
    char path[200];
    snprintf(path, sizeof path, "%s/%s", folder, folders[i]);
    if (mkdir(path, 0700) < 0) return -1;
  }
  return 0;
}

static void clear(void) {
  unit_remove_files(folder, files, UNIT_COUNT(files));
}

static int remove_folder(void **state) {
  (void)state;
  clear();
  for (unsigned i = 0; i < UNIT_COUNT(folders); i++) {
    char path[200];
    snprintf(path, sizeof path, "%s/%s", folder, folders[i]);
    rmdir(path);
  }
  return rmdir(folder);
}

/* As copy_changed, of a golden model's file; one that it lacks is left out. */
static bool copy(const char *model, const char *file, const char *from, const char *to) {
  char golden[200], path[1024];
  snprintf(golden, sizeof golden, "encoders/%s/%s", model, file);
  FILE *input = fopen(unit_golden_path(golden, path), "rb");
  return input ? copy_changed(input, folder, file, from, to) : !from;
}

static int load(const char *model, const char *file, const char *from, const char *to, struct tl_model **ret, struct tl_error *err) {
  clear();
  for (unsigned i = 0; i < UNIT_COUNT(files); i++) {
    bool changed = file && strcmp(files[i], file) == 0;
    if (!copy(model, files[i], changed ? from : NULL, changed ? to : NULL)) fail_msg("%s: %s: no '%s'", model, files[i], from);
  }
  return tl_model_load(folder, ret, err);
}

static void test_refused(void **state) {
  (void)state;
  static const struct {
    const char *model, *file, *from, *to, *message;
  } cases[] = {
      {"bert", "modules.json", "[", "{", "modules.json: expected a list of modules"},
      {"bert", "modules.json", "models.Pooling", "models.WeightedLayerPooling", "modules.json: type: expected Transformer, Pooling, Dense or Normalize"},
      {"bert", "modules.json", "models.Pooling", "models.Normalize", "modules.json: expected a Pooling module"},
      {"bert", "modules.json", "\"path\": \"1_Pooling\"", "\"path\": \"../1_Pooling\"", "modules.json: path: expected the name of a folder"},
      {"bert", "modules.json", "\"path\": \"1_Pooling\"", "\"path\": 1", "modules.json: path: expected the name of a folder"},
      {"bert", "modules.json", "\"path\": \"1_Pooling\"", "\"path\": \"9_Pooling\"", "9_Pooling/config.json"},
      {"bert", "modules.json", "\"path\": \"\"", "\"path\": \"0_Transformer\"", "modules.json: a Transformer in a folder of its own is not supported"},
      {"bert", "1_Pooling/config.json", "\"word_embedding_dimension\": 36", "\"word_embedding_dimension\": 37",
       "1_Pooling/config.json: word_embedding_dimension: expected hidden_size of config.json"},
      {"bert", "1_Pooling/config.json", "\"pooling_mode_max_tokens\": false", "\"pooling_mode_max_tokens\": true",
       "1_Pooling/config.json: pooling_mode_mean_tokens and pooling_mode_max_tokens: several vectors, one behind the other, are not supported"},
      {"bert", "1_Pooling/config.json", "\"pooling_mode_mean_tokens\": true", "\"pooling_mode_mean_tokens\": false",
       "1_Pooling/config.json: expected pooling_mode, or one of pooling_mode_cls_token, pooling_mode_mean_tokens and the like to be true"},
      {"bert", "1_Pooling/config.json", "pooling_mode_mean_tokens", "pooling_mode_median_tokens", "1_Pooling/config.json: pooling_mode_median_tokens: is not known"},
      {"bert", "1_Pooling/config.json", "{", "{\"pooling_mode\": [\"cls\", \"mean\"],", "1_Pooling/config.json: cls and mean: several vectors"},
      {"bert", "1_Pooling/config.json", "{", "{\"pooling_mode\": \"median\",",
       "1_Pooling/config.json: pooling_mode: expected cls, max, mean, mean_sqrt_len_tokens, weightedmean or lasttoken, got 'median'"},
      {"bert", "1_Pooling/config.json", "{", "{\"pooling_mode\": [],", "weightedmean or lasttoken, got ''"},
      {"bert", "1_Pooling/config.json", "{", "{\"pooling_mode\": [1, \"cls\"],", "weightedmean or lasttoken, got ''"},
      {"bert", "1_Pooling/config.json", "{", "{\"pooling_mode\": [\"cls\", 1],", "weightedmean or lasttoken, got 'cls'"},
      {"bert", "1_Pooling/config.json", "{", "[", "1_Pooling/config.json"},
      {"xlm_roberta", "2_Dense/config.json", "\"in_features\": 36", "\"in_features\": 35", "2_Dense/config.json: in_features, out_features"},
      {"xlm_roberta", "2_Dense/config.json", "\"out_features\": 23", "\"out_features\": 0", "2_Dense/config.json: in_features, out_features"},
      {"xlm_roberta", "2_Dense/config.json", "\"out_features\": 23", "\"out_features\": 24", "tensor '2_Dense.linear.weight': expected shape 24 x 36, found 23 x 36"},
      {"bert_max", "3_Dense/config.json", "\"in_features\": 52", "\"in_features\": 36", "3_Dense/config.json: in_features, out_features: expected 52"},
      {"bert_max", "3_Dense/config.json", "{", "{\"use_residual\": true,", "3_Dense/config.json: use_residual: is not supported"},
      {"bert_max", "3_Dense/config.json", "{", "{\"module_input_name\": \"token_embeddings\",", "3_Dense/config.json: module_input_name: is not supported"},
      {"bert_max", "modules.json", "3_Dense", "2_Dense", "2_Dense/config.json: in_features, out_features: expected 52"},
      {"bert_max", "modules.json", "models.Dense", "models.Pooling", "modules.json: expected Pooling, Dense and Normalize in this order"},
      {"xlm_roberta", "2_Dense/config.json", "activation.Tanh", "activation.ReLU", "2_Dense/config.json: activation_function: expected Tanh or Identity"},
      {"xlm_roberta", "modules.json", "models.Transformer", "models.Normalize", "modules.json: expected Pooling, Dense and Normalize in this order"},
      {"xlm_roberta", "modules.json", "models.Pooling", "models.Dense", "modules.json: expected Pooling, Dense and Normalize in this order"},
      {"nomic_bert", "config.json", "\"prenorm\": false", "\"prenorm\": true", "config.json: prenorm: is not supported"},
      {"nomic_bert", "config.json", "\"rotary_emb_fraction\": 1.0", "\"rotary_emb_fraction\": 0.5", "config.json: rotary_emb_fraction: rotating"},
      {"nomic_bert", "config.json", "{", "{\"rotary_emb_interleaved\": true,", "config.json: rotary_emb_interleaved: is not supported"},
      {"nomic_bert", "config.json", "{", "{\"rotary_emb_scale_base\": 512,", "config.json: rotary_emb_scale_base: is not supported"},
      {"nomic_bert", "config.json", "{", "{\"parallel_block\": true,", "config.json: parallel_block: is not supported"},
      {"nomic_bert", "config.json", "\"swiglu\"", "\"gelu\"", "config.json: hidden_act: expected silu, got gelu"},
      {"bert", "config.json", "{", "{\"is_decoder\": true,", "config.json: is_decoder: is not supported"},
      {"roberta", "config.json", "RobertaModel", "RobertaForCausalLM", "config.json: architectures: 'RobertaForCausalLM' is not known"},
      {"nomic_bert", "config.json", "{", "{\"use_rms_norm\": true,", "config.json: use_rms_norm: is not supported"},
      {"xlm_roberta", "2_Dense/model.safetensors", "linear.weight", "linear.wright", "tensor '2_Dense.linear.weight'"},
      {"bert", "config.json", "\"hidden_act\": \"gelu\"", "\"hidden_act\": \"relu\"", "config.json: hidden_act: expected gelu, got relu"},
      {"bert", "config.json", "\"max_position_embeddings\": 160", "\"max_position_embeddings\": 161",
       "tensor 'embeddings.position_embeddings.weight': expected shape 161 x 36, found 160 x 36"},
      {"bert", "config.json", "\"type_vocab_size\": 2", "\"type_vocab_size\": 3",
       "tensor 'embeddings.token_type_embeddings.weight': expected shape 3 x 36, found 2 x 36"},
      {"roberta", "config.json", "\"pad_token_id\": 1", "\"pad_token_id\": 161", "config.json: max_position_embeddings"},
      {"bert", "model.safetensors", "pooler.dense.weight", "pooler.dense.wright", NULL}, /* an embedder has no use for it */
      {"bert_labels", "model.safetensors", "classifier.weight", "classifier.wright", "tensor 'classifier.weight'"},
      {"bert_labels", "model.safetensors", "pooler.dense.weight", "pooler.dense.wright", "tensor 'bert.pooler.dense.weight'"},
  };
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_model *m = NULL;
    struct tl_error err = {0};
    int r = load(cases[i].model, cases[i].file, cases[i].from, cases[i].to, &m, &err);
    if (!cases[i].message) {
      if (r < 0) fail_msg("case %u: %s", i, err.message);
      tl_model_free(m);
      continue;
    }
    if (r >= 0 || m) fail_msg("case %u is loaded; expected '%s'", i, cases[i].message);
    assert_string_equal(err.field, "model.path");
    if (!strstr(err.message, cases[i].message)) fail_msg("case %u: '%s', expected '%s'", i, err.message, cases[i].message);
    assert_null(strchr(err.message, '\n'));
  }
}

static const struct tl_op *first_op(const struct tl_model *m, enum tl_op_kind kind) {
  for (uint32_t i = 0; i < m->n_ops; i++)
    if (m->plan[i].kind == kind) return &m->plan[i];
  fail_msg("no such record");
  return NULL;
}

/* The other ways in which folders say it. */
static void test_ways_to_say_it(void **state) {
  (void)state;
  struct tl_model *m = NULL;
  struct tl_error err = {0};
  static const char mode[] = "{\"embedding_dimension\": 36, \"pooling_mode\": \"lasttoken\"}";
  static const char longest[] = "{\"max_seq_length\": 33}", listed[] = "{\"embedding_dimension\": 36, \"pooling_mode\": [\"weightedmean\"]}";
  if (load("bert", NULL, NULL, NULL, &m, &err) < 0) fail_msg("%s", err.message);
  assert_true(m->pooling == TL_POOL_MEAN && m->max_context == 160);
  tl_model_free(m);
  unit_write_file(folder, "1_Pooling/config.json", mode, sizeof mode - 1);
  unit_write_file(folder, "sentence_bert_config.json", longest, sizeof longest - 1);
  if (tl_model_load(folder, &m, &err) < 0) fail_msg("%s", err.message);
  assert_true(m->pooling == TL_POOL_LAST && m->max_context == 33 && m->normalize);
  tl_model_free(m);
  unit_write_file(folder, "1_Pooling/config.json", listed, sizeof listed - 1);
  if (tl_model_load(folder, &m, &err) < 0) fail_msg("%s", err.message);
  assert_int_equal(m->pooling, TL_POOL_WEIGHTED);
  tl_model_free(m);
  /* a dense layer that does not say what follows it */
  if (load("bert_max", "2_Dense/config.json", "activation_function", "was", &m, &err) < 0) fail_msg("%s", err.message);
  assert_true(first_op(m, TL_OP_DENSE)->features == TL_F_TANH && m->pooling == TL_POOL_MAX && m->n_out == 23);
  tl_model_free(m);
  /* without any of it: the mean, as it is */
  if (load("bert_plain", NULL, NULL, NULL, &m, &err) < 0) fail_msg("%s", err.message);
  assert_true(m->pooling == TL_POOL_MEAN && !m->normalize && m->n_out == 36);
  tl_model_free(m);
}

/* What a scaling of the angles makes of cosine and sine is for the layers that it is for. */
static void test_factor_of_angles(void **state) {
  (void)state;
  struct tl_model *m = NULL;
  struct tl_error err = {0};
  static const char yarn[] = "{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4, \"original_max_position_embeddings\": 40},";
  if (load("modernbert", "config.json", "{", yarn, &m, &err) < 0) fail_msg("%s", err.message);
  unsigned n_full = 0;
  for (uint32_t i = 0; i < m->n_ops; i++) {
    const struct tl_op *op = &m->plan[i];
    if (op->kind != TL_OP_ROPE) continue;
    bool full = !(op->features & TL_F_LOCAL);
    assert_int_equal(full, (op->features & TL_F_FACTOR) != 0);
    if (full) assert_float_equal(op->factor, 1.1386294f, 1e-5f);
    n_full += full;
  }
  assert_int_equal(n_full, 2);
  tl_model_free(m);
}

/* What config.json does not say is what transformers takes. */
static void test_defaults(void **state) {
  (void)state;
  static const struct {
    const char *model, *key, *renamed; /* of config.json */
    float eps;
  } cases[] = {{"bert", "type_vocab_size", "was", 1e-12f}, {"bert", "layer_norm_eps", "was", 1e-12f},
               {"roberta", "layer_norm_eps", "was", 1e-12f}, {"modernbert", "norm_eps", "was", 1e-5f},
               {"nomic_bert", "type_vocab_size", "was", 1e-12f}, {"nomic_bert", "rotary_emb_base", "was", 1e-12f}};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_model *as_said, *m;
    struct tl_error err = {0};
    if (load(cases[i].model, NULL, NULL, NULL, &as_said, &err) < 0) fail_msg("%s", err.message);
    if (load(cases[i].model, "config.json", cases[i].key, cases[i].renamed, &m, &err) < 0) fail_msg("%u: %s", i, err.message);
    assert_true(first_op(m, TL_OP_RMSNORM)->eps == cases[i].eps);
    assert_true(m->inv_freq[1] == as_said->inv_freq[1]);
    if (strcmp(cases[i].model, "modernbert") != 0) {
      const struct tl_op *x = first_op(as_said, TL_OP_EMBED_PLACE), *y = first_op(m, TL_OP_EMBED_PLACE);
      assert_true(x->weight[1] >= 0 && y->weight[1] >= 0);
      assert_int_equal(as_said->tensors[x->weight[1]].shape[0], m->tensors[y->weight[1]].shape[0]);
    }
    tl_model_free(m);
    tl_model_free(as_said);
  }
}

/* local_rope_theta: absent: 10000; null: as in layers without a window. */
static void test_local_theta(void **state) {
  (void)state;
  struct tl_model *m;
  struct tl_error err = {0};
  static const char none[] = "{\"global_rope_theta\": 5000, \"was\": {", null[] = "{\"global_rope_theta\": 5000, \"local_rope_theta\": null, \"was\": {";
  if (load("modernbert", NULL, NULL, NULL, &m, &err) < 0) fail_msg("%s", err.message);
  float half = 1 / (float)(m->n_rotated / 2);
  tl_model_free(m);
  const struct {
    const char *text;
    float local;
  } cases[] = {{none, 1e4f}, {null, 5e3f}};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    char config[1200];
    int n = snprintf(config, sizeof config, "%s}, \"architectures\": [\"ModernBertModel\"], \"hidden_size\": 40, \"num_hidden_layers\": 4, "
                     "\"num_attention_heads\": 2, \"intermediate_size\": 28, \"vocab_size\": 97, \"max_position_embeddings\": 160}", cases[i].text);
    unit_write_file(folder, "config.json", config, (size_t)n);
    if (tl_model_load(folder, &m, &err) < 0) fail_msg("%s", err.message);
    assert_float_equal(m->inv_freq[1], powf(5e3f, -half), 1e-6f);
    assert_float_equal(m->inv_freq_local[1], powf(cases[i].local, -half), 1e-6f);
    tl_model_free(m);
  }
}

/* NomicBERT's own code turns longer texts than it was trained for by angles that follow their length. */
static void test_trained_length(void **state) {
  (void)state;
  static const struct {
    const char *more;
    uint32_t context;
  } cases[] = {{"{\"rotary_scaling_factor\": 2, \"max_trained_positions\": 48,", 48}, {"{\"rotary_scaling_factor\": 2,", 160},
               {"{\"rotary_scaling_factor\": null, \"max_trained_positions\": 48,", 160}};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_model *m;
    struct tl_error err = {0};
    if (load("nomic_bert", "config.json", "{", cases[i].more, &m, &err) < 0) fail_msg("%s", err.message);
    assert_int_equal(m->max_context, cases[i].context);
    tl_model_free(m);
  }
}

/* NomicBERT's config.json as transformers 5 writes it; the tensors keep their names. */
static void test_nomic_of_transformers(void **state) {
  (void)state;
  static const char config[] = "{\"architectures\": [\"NomicBertModel\"], \"model_type\": \"nomic_bert\", \"hidden_act\": \"silu\", \"head_dim\": 12, "
    "\"hidden_size\": 36, \"intermediate_size\": 52, \"num_attention_heads\": 3, \"num_hidden_layers\": 2, \"vocab_size\": 97, "
    "\"max_position_embeddings\": 160, \"rope_parameters\": {\"rope_theta\": 1000.0, \"rope_type\": \"default\"}}";
  struct tl_model *a, *b;
  struct tl_error err = {0};
  if (load("nomic_bert", NULL, NULL, NULL, &a, &err) < 0) fail_msg("%s", err.message);
  unit_write_file(folder, "config.json", config, sizeof config - 1);
  if (tl_model_load(folder, &b, &err) < 0) fail_msg("%s", err.message);
  assert_int_equal(a->n_ops, b->n_ops);
  assert_true(a->max_context == b->max_context && a->inv_freq[1] == b->inv_freq[1]);
  for (uint32_t i = 0; i < a->n_ops; i++) {
    const struct tl_op *x = &a->plan[i], *y = &b->plan[i];
    assert_true(x->kind == y->kind && x->features == y->features && x->weight[0] == y->weight[0] && x->eps == y->eps);
  }
  tl_model_free(a);
  tl_model_free(b);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_refused), cmocka_unit_test(test_ways_to_say_it),
                                     cmocka_unit_test(test_factor_of_angles), cmocka_unit_test(test_defaults),
                                     cmocka_unit_test(test_local_theta), cmocka_unit_test(test_trained_length),
                                     cmocka_unit_test(test_nomic_of_transformers)};
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
