/* SPDX-License-Identifier: MIT */
/* Against transformers' LlamaRotaryEmbedding (tests/golden/make_model.py). */
#include <math.h>

#include "model/model_private.h"
#include "unit.h"

/* powf of two C libraries differs by an ulp or two of 2^-23; what is blended from
 * it by a few more. */
#define TOLERANCE 1e-6f

static void test_against_transformers(void **state) {
  (void)state;
  FILE *file = unit_open_golden("model_rope.txt");
  static char line[8192];
  unsigned n_lines = 0;
  while (fgets(line, sizeof line, file)) {
    if (line[0] == '#') continue;
    struct hf_config c = {0};
    long long dim, original;
    int at = 0;
    assert_int_equal(sscanf(line, "%31s %lf %lld %lf %lf %lf %lld%n", c.rope_type, &c.rope_theta, &dim, &c.rope_factor,
                            &c.low_freq_factor, &c.high_freq_factor, &original, &at),
                     7);
    c.head_dim = dim;
    c.original_max_position_embeddings = original;
    float *inv_freq = malloc((size_t)dim / 2 * sizeof *inv_freq);
    struct tl_error err = {0};
    float factor = 0;
    assert_int_equal(model_rope(&c, inv_freq, &factor, &err), TL_OK);
    char *next = line + at;
    for (long long i = 0; i < dim / 2; i++) {
      float expected = strtof(next, &next);
      if (!(fabsf(inv_freq[i] - expected) <= TOLERANCE * expected))
        fail_msg("%.60s: inv_freq[%lld]: expected %.9g, got %.9g", line, i, (double)expected, (double)inv_freq[i]);
    }
    assert_string_equal(next, "\n");
    free(inv_freq);
    n_lines++;
  }
  fclose(file);
  assert_int_equal(n_lines, 36);
}

static void test_errors(void **state) {
  (void)state;
  float inv_freq[32], factor = 0;
  struct tl_error err = {0};
  struct hf_config c = {.head_dim = 64, .rope_theta = 10000, .rope_factor = 8, .low_freq_factor = 1, .high_freq_factor = 4};
  assert_int_equal(model_rope(&c, inv_freq, &factor, &err), TL_OK); /* no type: default */
  strcpy(c.rope_type, "su");
  assert_int_equal(model_rope(&c, inv_freq, &factor, &err), TL_EUNSUPPORTED);
  assert_string_equal(err.message, "config.json: rope_scaling: type 'su' is not known; known are default, linear, dynamic, llama3, yarn, longrope");
  strcpy(c.rope_type, "dynamic");
  assert_int_equal(model_rope(&c, inv_freq, &factor, &err), TL_OK);
  assert_float_equal(inv_freq[1], powf(10000, -2.0f / 64), 1e-6);
  c.rope_alpha = 1000; /* a larger base, at any length */
  assert_int_equal(model_rope(&c, inv_freq, &factor, &err), TL_OK);
  assert_float_equal(inv_freq[1], powf(10000 * powf(1000, 64.0f / 62), -2.0f / 64), 1e-6);
  strcpy(c.rope_type, "yarn");
  assert_int_equal(model_rope(&c, inv_freq, &factor, &err), TL_ECORRUPT); /* no original_max_position_embeddings */
  strcpy(c.rope_type, "longrope");
  c.original_max_position_embeddings = 64;
  assert_int_equal(model_rope(&c, inv_freq, &factor, &err), TL_ECORRUPT); /* no factors */
  c.original_max_position_embeddings = 0;
  c.partial_rotary_factor = 0.02; /* of 64 dimensions: one */
  strcpy(c.rope_type, "default");
  assert_int_equal(model_rope(&c, inv_freq, &factor, &err), TL_ECORRUPT);
  c.partial_rotary_factor = 1;
  strcpy(c.rope_type, "llama3");
  assert_int_equal(model_rope(&c, inv_freq, &factor, &err), TL_ECORRUPT); /* no original_max_position_embeddings */
  c.original_max_position_embeddings = 8192;
  assert_int_equal(model_rope(&c, inv_freq, &factor, &err), TL_OK);
  c.high_freq_factor = 1; /* as Llama 4 has them */
  assert_int_equal(model_rope(&c, inv_freq, &factor, &err), TL_OK);
  for (unsigned i = 0; i < 32; i++) assert_true(inv_freq[i] > 0 && inv_freq[i] <= 1);
  c.high_freq_factor = 0.5;
  assert_int_equal(model_rope(&c, inv_freq, &factor, &err), TL_ECORRUPT);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_transformers), cmocka_unit_test(test_errors)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
