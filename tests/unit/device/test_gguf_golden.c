/* SPDX-License-Identifier: MIT */
/* GGUF models on the CPU backend: the golden Llamas as GGUF answer as their folders do
 * (test_llama_golden.c compares those with transformers), and one with matrices of
 * all formats answers as its values in floats do, the same alone and in a batch. */
#include <math.h>

#include "unit.h"

#include "device/cpu/cpu_quant.h"
#include "float_twin.h"
#include "step_runner.h"

#define N_NEW 24
#define N_PROMPT 40

static struct sequence *new_prompt(const struct tl_model *model, uint32_t n, uint64_t seed) {
  int32_t prompt[N_PROMPT];
  for (uint32_t i = 0; i < n; i++) prompt[i] = (int32_t)unit_below(&seed, model->vocab_size);
  return new_sequence(prompt, n);
}

static struct sequence *answer(const struct tl_model *model, uint32_t n, uint64_t seed) {
  struct machine m = open_machine(model, cpu_choose_kernels(tl_cpu_best_isa()), 1);
  struct sequence *s = new_prompt(model, n, seed);
  run_alone(&m, s, N_NEW, whole, 1);
  close_machine(&m);
  return s;
}

static void test_llamas(void **state) {
  (void)state;
  static const struct {
    const char *folder, *file;
    float tolerance; /* divisors of angles are rounded once more */
  } models[] = {{"llama/f32_odd", "gguf/llama_f32_odd.gguf", 0},
                {"llama/f16_sharded", "gguf/llama_f16_sharded-00001-of-00002.gguf", 0},
                {"llama/f32_llama3", "gguf/llama_f32_llama3.gguf", 1e-3f},
                {"arch/mistral_yarn", "gguf/arch_mistral_yarn.gguf", 0},
                {"arch/qwen2", "gguf/arch_qwen2.gguf", 0},
                {"arch/qwen3", "gguf/arch_qwen3.gguf", 0},
                {"arch/smollm3_deep", "gguf/arch_smollm3_deep.gguf", 0},
                {"arch/phi3", "gguf/arch_phi3.gguf", 0},
                {"arch/phi4_longrope", "gguf/arch_phi4_longrope.gguf", 1e-5f}, /* a factor as a float */
                {"arch/gemma2", "gguf/arch_gemma2.gguf", 1e-3f}, /* query_pre_attn_scalar is in the weights */
                {"arch/gemma3", "gguf/arch_gemma3.gguf", 1e-3f},
                {"arch/gemma4", "gguf/arch_gemma4.gguf", 1e-4f}, /* which numbers of heads turn is said by divisors */
                {"arch/gemma4_moe", "gguf/arch_gemma4_moe.gguf", 1e-4f},
                {"arch/olmo2", "gguf/arch_olmo2.gguf", 0},
                {"arch/qwen3_vl_moe", "gguf/arch_qwen3_vl_moe.gguf", 0},
                {"arch/glm4_moe", "gguf/arch_glm4_moe.gguf", 1e-5f}, /* a factor as a float */
                {"arch/gpt2", "gguf/arch_gpt2.gguf", 0},
                {"arch/gpt_neox", "gguf/arch_gpt_neox.gguf", 0},
                {"arch/nemotron_h_latent", "gguf/arch_nemotron_h_latent.gguf", 1e-4f},
                {"arch/mistral4", "gguf/arch_mistral4.gguf", 1e-5f},
                {"arch/exaone_moe", "gguf/arch_exaone_moe.gguf", 1e-5f},
                {"arch/minimax_m2", "gguf/arch_minimax_m2.gguf", 0},
                {"arch/ministral3", "gguf/arch_ministral3.gguf", 0},
                {"arch/ministral3_long", "gguf/arch_ministral3_long.gguf", 0},
                {"arch/hunyuan", "gguf/arch_hunyuan.gguf", 1e-4f}, /* the base as a float */
                {"arch/hunyuan_moe", "gguf/arch_hunyuan_moe.gguf", 1e-4f},
                {"arch/cohere", "gguf/arch_cohere.gguf", 1e-5f},
                {"arch/cohere2", "gguf/arch_cohere2.gguf", 1e-5f},
                {"arch/arcee", "gguf/arch_arcee.gguf", 0},
                {"arch/nemotron", "gguf/arch_nemotron.gguf", 1e-5f}, /* the 1 is in the weights */
                {"arch/starcoder2", "gguf/arch_starcoder2.gguf", 0},
                {"arch/phi", "gguf/arch_phi.gguf", 0},
                {"arch/llama4", "gguf/arch_llama4.gguf", 1e-3f},
                {"arch/dots1", "gguf/arch_dots1.gguf", 1e-5f},
                {"arch/ernie4_5_moe", "gguf/arch_ernie4_5_moe.gguf", 0},
                {"arch/granitemoe", "gguf/arch_granitemoe.gguf", 1e-5f},
                {"arch/granitemoeshared", "gguf/arch_granitemoeshared.gguf", 1e-5f},
                {"arch/deepseek_v2", "gguf/arch_deepseek_v2.gguf", 1e-5f}, /* likewise; one matrix for all heads */
                {"arch/deepseek_v2_lite", "gguf/arch_deepseek_v2_lite.gguf", 0}, /* two of each head */
                {"arch/glm4_moe_lite", "gguf/arch_glm4_moe_lite.gguf", 1e-5f},
                {"arch/olmo3", "gguf/arch_olmo3.gguf", 1e-5f},
                {"arch/gemma", "gguf/arch_gemma.gguf", 0},
                {"arch/olmoe", "gguf/arch_olmoe.gguf", 0},
                {"arch/seed_oss", "gguf/arch_seed_oss.gguf", 0},
                {"arch/ernie4_5", "gguf/arch_ernie4_5.gguf", 0},
                {"arch/exaone4", "gguf/arch_exaone4.gguf", 0},
                {"arch/exaone4_small", "gguf/arch_exaone4_small.gguf", 0},
                {"arch/granite", "gguf/arch_granite.gguf", 1e-5f}, /* its multipliers as floats */
                {"arch/stablelm", "gguf/arch_stablelm.gguf", 0},
                {"arch/glm4", "gguf/arch_glm4.gguf", 0},
                {"arch/mixtral", "gguf/arch_mixtral.gguf", 0},
                {"arch/qwen3_next", "gguf/arch_qwen3_next.gguf", 1e-4f}, /* decays come back by a logarithm, the 1 is in norms' weights */
                {"arch/qwen3_5", "gguf/arch_qwen3_5.gguf", 1e-4f},       /* likewise, and value heads have another order */
                {"arch/qwen3_5_vision", "gguf/arch_qwen3_5_vision.gguf", 1e-4f},
                {"arch/qwen3_5_moe", "gguf/arch_qwen3_5_moe.gguf", 1e-4f},
                {"arch/lfm2_tied", "gguf/arch_lfm2_tied.gguf", 0},
                {"arch/lfm2_moe", "gguf/arch_lfm2_moe.gguf", 1e-5f},
                {"arch/granitemoehybrid", "gguf/arch_granitemoehybrid.gguf", 1e-4f}, /* likewise */
                {"arch/granitemoehybrid_dense", "gguf/arch_granitemoehybrid_dense.gguf", 1e-4f},
                {"arch/nemotron_h", "gguf/arch_nemotron_h.gguf", 1e-4f},
                {"arch/nemotron_h_dense", "gguf/arch_nemotron_h_dense.gguf", 1e-4f},
                {"arch/qwen2_moe", "gguf/arch_qwen2_moe.gguf", 0},
                {"arch/qwen3_moe", "gguf/arch_qwen3_moe.gguf", 0},
                {"arch/gpt_oss_mxfp4", "gguf/arch_gpt_oss_mxfp4.gguf", 0},
                {"arch/gemma3_vision", "gguf/arch_gemma3_vision.gguf", 1e-3f},
                {"arch/mistral3", "gguf/arch_mistral3.gguf", 0},
                {"arch/qwen2_5_vl", "gguf/arch_qwen2_5_vl.gguf", 0},
                {"arch/qwen3_vl", "gguf/arch_qwen3_vl.gguf", 0}};
  for (unsigned i = 0; i < UNIT_COUNT(models); i++) {
    struct tl_model *a = load_model(models[i].folder), *b = load_model(models[i].file);
    struct sequence *x = answer(a, N_PROMPT, 5 + i), *y = answer(b, N_PROMPT, 5 + i);
    for (unsigned k = N_PROMPT; k < N_PROMPT + N_NEW; k++) {
      float off = fabsf(x->sampled[k].logprob - y->sampled[k].logprob);
      if (x->sampled[k].token != y->sampled[k].token || !(off <= models[i].tolerance))
        fail_msg("%s, token %u: %d, expected %d; off by %g", models[i].file, k, y->sampled[k].token, x->sampled[k].token,
                 (double)off);
    }
    free(x);
    free(y);
    tl_model_free(a);
    tl_model_free(b);
  }
}

/* The twin scores what the quantized model said. */
static void test_mixed(void **state) {
  (void)state;
  float *copies[100];
  uint32_t n_copies;
  struct tl_model *model = load_model("gguf/mixed.gguf"), *twin = new_twin("gguf/mixed.gguf", copies, &n_copies);
  struct sequence *s = answer(model, N_PROMPT, 3);
  struct machine m = open_machine(twin, cpu_choose_kernels(tl_cpu_best_isa()), 1);
  struct sequence *scored = new_sequence(s->tokens, N_PROMPT + N_NEW);
  scored->score_prompt = true;
  scored->sampling.n_top = 0;
  run_alone(&m, scored, 1, whole, 1);
  close_machine(&m);
  double worst = 0, mean = 0;
  for (unsigned k = N_PROMPT; k < N_PROMPT + N_NEW; k++) {
    double off = fabs((double)scored->sampled[k].logprob - (double)s->sampled[k].logprob);
    worst = fmax(worst, off);
    mean += off / N_NEW;
  }
  printf("log-probabilities of quantized products within %.2g of floats, %.2g on average\n", worst, mean);
  assert_true(worst < 0.25 && mean < 0.08);
  free(s);
  free(scored);
  tl_model_free(model);
  tl_model_free(twin);
  for (uint32_t i = 0; i < n_copies; i++) free(copies[i]);
}

/* Fused matrices in blocks: each row of each part is that of the folder's, rounded. */
static void test_fused_blocks(void **state) {
  (void)state;
  struct tl_model *plain = load_model("arch/phi4_longrope"), *rounded = load_model("gguf/arch_phi4_q8_0.gguf");
  unsigned n_blocks = 0;
  assert_int_equal(plain->n_ops, rounded->n_ops);
  for (uint32_t i = 0; i < plain->n_ops * TL_OP_INPUTS; i++) {
    const struct tl_op *x = &plain->plan[i / TL_OP_INPUTS], *y = &rounded->plan[i / TL_OP_INPUTS];
    int32_t a = x->weight[i % TL_OP_INPUTS], b = y->weight[i % TL_OP_INPUTS];
    assert_int_equal(a < 0, b < 0);
    if (b < 0 || rounded->tensors[b].dtype != TL_DTYPE_Q8_0) continue;
    const struct tl_tensor *t = &plain->tensors[a];
    n_blocks++;
    assert_int_equal(t->shape[0], rounded->tensors[b].shape[0]);
    assert_int_equal(t->shape[1], 64);
    for (uint64_t row = 0; row < t->shape[0]; row++) {
      float exact[64], got[64], most = 0;
      tl_tensor_row_to_f32(t, row, exact);
      tl_tensor_row_to_f32(&rounded->tensors[b], row, got);
      for (unsigned k = 0; k < 64; k++) most = fmaxf(most, fabsf(exact[k]));
      for (unsigned k = 0; k < 64; k++) assert_true(fabsf(exact[k] - got[k]) <= most * 0.57f / 127); /* half a step, and the step as a half */
    }
  }
  assert_int_equal(n_blocks, 2 + 2 * 6); /* embedding, output; q, k, v, o, gate and up of two layers */
  tl_model_free(plain);
  tl_model_free(rounded);
}

/* Weights rounded while they load: near what they are without. */
static void test_quantized_load(void **state) {
  (void)state;
  struct tl_model *plain = load_model("llama/f16_sharded"), *rounded = load_model("llama/f16_sharded");
  struct tl_error err = {0};
  assert_int_equal(tl_model_quantize(rounded, "q8_0", &err), TL_OK);
  struct sequence *x = answer(plain, N_PROMPT, 8), *y = answer(rounded, N_PROMPT, 8);
  /* the first token has the same past in both */
  assert_true(fabsf(x->sampled[N_PROMPT].top_logprobs[0] - y->sampled[N_PROMPT].top_logprobs[0]) < 0.1f);
  assert_true(x->sampled[N_PROMPT].logprob != y->sampled[N_PROMPT].logprob);
  free(x);
  free(y);
  tl_model_free(plain);
  tl_model_free(rounded);
}

/* Alone on one lane, and eight together on two in changing chunks: the same to the bit. */
static void test_batch(void **state) {
  (void)state;
  enum { N = 8 };
  struct tl_model *model = load_model("gguf/mixed.gguf");
  struct machine m = open_machine(model, cpu_choose_kernels(tl_cpu_best_isa()), 2);
  struct sequence *together[N];
  struct part parts[N];
  for (unsigned i = 0; i < N; i++) together[i] = new_prompt(model, 5 + 5 * i, 40 + i);
  for (unsigned step = 0;; step++) {
    unsigned n = 0;
    for (unsigned i = 0; i < N; i++) {
      struct sequence *s = together[i];
      if (is_done(s, N_NEW)) continue;
      uint32_t left = s->length - s->n_cached, most = 1 + (step + i) % 9;
      parts[n++] = (struct part){s, left < most ? left : most};
    }
    if (!n) break;
    run_parts(&m, parts, n);
  }
  close_machine(&m);
  for (unsigned i = 0; i < N; i++) {
    struct sequence *alone = answer(model, 5 + 5 * i, 40 + i);
    assert_same_draws(alone, together[i], model->architecture);
    free(alone);
    free(together[i]);
  }
  tl_model_free(model);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_llamas), cmocka_unit_test(test_mixed),
                                     cmocka_unit_test(test_batch), cmocka_unit_test(test_quantized_load),
                                     cmocka_unit_test(test_fused_blocks)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
