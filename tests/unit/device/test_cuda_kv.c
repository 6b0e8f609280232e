/* SPDX-License-Identifier: MIT */
/* Keys and values of a byte (TL_KV_E4M3) through the CUDA backend's host part, with kernels on fibers, against the CPU backend's: prompts whole
 * and in chunks, decoded tokens, guesses. With ON_GPU the same on the plugin and the GPU cuda:0. */
#include <math.h>

#include "device/cuda/cuda_private.h"
#include "gpu_machine.h"
#include "golden_llama.h"

#define N_FOLLOWED 10

static struct golden *open_model(const char *name) {
  struct golden *g = malloc(sizeof *g);
  IF_FAKE(fake_cuda_reset(); fake_cuda.n_algorithms = 2;)
  open_golden(name, g);
  return g;
}

static struct machine open_cpu(const struct tl_model *model) {
  kv_format = TL_KV_E4M3;
  struct machine m = open_machine(model, cpu_choose_kernels(tl_cpu_best_isa()), 1);
  kv_format = TL_KV_AUTO;
  return m;
}

static struct machine open_gpu(const struct tl_model *model, uint32_t draft_tokens) {
  struct machine m = begin_gpu(model);
  load_gpu(&m, model, (struct tl_device_load){.max_batch_size = 4, .kv_format = TL_KV_E4M3, .draft_tokens = draft_tokens, .draft_rows = draft_tokens ? 16 : 0}, 4000);
  return m;
}

/* What transformers drew with exact keys and values, whatever would be drawn here: so both say something about the same tokens. */
static struct sequence *follow(struct machine *m, const struct golden_case *c, uint32_t chunk, uint32_t at_once) {
  struct sequence *s = new_sequence(c->prompt, c->n_prompt);
  for (uint32_t left = c->n_prompt - 1, n; left; left -= n) {
    n = chunk && chunk < left ? chunk : left;
    run_parts(m, &(struct part){s, n}, 1);
  }
  memcpy(s->tokens + c->n_prompt, c->tokens, N_FOLLOWED * sizeof *c->tokens);
  s->length += N_FOLLOWED;
  s->score_prompt = true;
  for (uint32_t i = 0, n; i < N_FOLLOWED; i += n) {
    n = at_once < N_FOLLOWED - i ? at_once : N_FOLLOWED - i;
    run_parts(m, &(struct part){s, n}, 1);
  }
  return s;
}

/* Activations of 16 bits move a key or a value across the middle of two bytes, now and then. */
static void compare(const struct golden *g, const struct golden_case *c, struct machine *cpu, struct machine *gpu, uint32_t chunk,
                    uint32_t at_once) {
  struct sequence *want = follow(cpu, c, 0, 1), *got = follow(gpu, c, chunk, at_once);
  double sum = 0, most = 0;
  for (uint32_t i = c->n_prompt; i < c->n_prompt + N_FOLLOWED; i++) {
    double off = fabs((double)want->sampled[i].logprob - (double)got->sampled[i].logprob);
    sum += off;
    most = fmax(most, off);
  }
  printf("%s, chunks of %u, %u at once: off by %.2g in the mean, %.2g at most\n", g->folder, chunk, at_once, sum / N_FOLLOWED, most);
  assert_true(sum / N_FOLLOWED < (g->model->dtype == TL_DTYPE_BF16 ? 1e-1 : 4e-2));
  free(want);
  free(got);
}

static void test_models(void **state) {
  (void)state;
  static const char *const names[] = {"f32_odd", "bf16_tied", "f16_sharded", "arch/gemma2", "arch/qwen3", "arch/olmo2", "arch/gemma3"};
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) {
    struct golden *g = open_model(names[i]);
    struct machine cpu = open_cpu(g->model), gpu = open_gpu(g->model, 0);
    compare(g, &g->cases[0], &cpu, &gpu, 0, 1);
    compare(g, &g->cases[1], &cpu, &gpu, 23, 1);
    close_machine(&cpu);
    close_gpu(&gpu);
    close_golden(g);
    free(g);
  }
}

static void test_guesses(void **state) {
  (void)state;
  struct golden *g = open_model("f32_llama3");
  struct machine cpu = open_cpu(g->model), gpu = open_gpu(g->model, 3);
  compare(g, &g->cases[0], &cpu, &gpu, 0, 3);
  close_machine(&cpu);
  close_gpu(&gpu);
  close_golden(g);
  free(g);
}

/* Twice the blocks of what 16 bits are; latents stay what they are. */
static void test_memory(void **state) {
  (void)state;
  struct tl_error err = {0};
  struct tl_device_options options = {.n_lanes = 2};
  uint32_t blocks[2];
  for (unsigned i = 0; i < 3; i++) {
    struct golden *g = open_model(i < 2 ? "bf16_tied" : "arch/deepseek_v3");
    struct tl_device *device;
    struct tl_device_loaded loaded;
    struct tl_device_load load = {.model = g->model, .max_batch_size = 4, .max_batch_tokens = BATCH_TOKENS, .max_context = MAX_CONTEXT,
                                  .kv_memory_bytes = 4 << 20, .kv_format = i ? TL_KV_E4M3 : TL_KV_AUTO};
    assert_int_equal(find_ops()->open(&options, &device, &err), TL_OK);
    int r = find_ops()->load(device, &load, &loaded, &err);
    assert_int_equal(r, i < 2 ? TL_OK : TL_EUNSUPPORTED);
    if (i < 2) blocks[i] = loaded.n_blocks;
    else assert_string_equal(err.field, "engine.kv_dtype");
    find_ops()->close(device);
    close_golden(g);
    free(g);
  }
  assert_true(blocks[1] / 2 == blocks[0]);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_models), cmocka_unit_test(test_guesses), cmocka_unit_test(test_memory)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
