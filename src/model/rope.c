/* SPDX-License-Identifier: MIT */
/* Rotary position embedding (Su et al. 2021): the angle per position of each
 * pair of dimensions, with the scalings that models are published with,
 * computed in float as transformers does. */
#include <math.h>
#include <string.h>

#include "model/model_private.h"

/* Llama 3.1: long wavelengths are divided by `factor`, short ones kept, those
 * between are blended. */
static float scale_llama3(const struct hf_config *c, float freq) {
  float old = (float)c->original_max_position_embeddings;
  float wavelength = 2 * (float)M_PI / freq;
  float low = old / (float)c->low_freq_factor, high = old / (float)c->high_freq_factor;
  if (wavelength > low) return freq / (float)c->rope_factor;
  if (wavelength < high || low <= high) return freq; /* Llama 4's are equal */
  float smooth = (old / wavelength - (float)c->low_freq_factor) / (float)(c->high_freq_factor - c->low_freq_factor);
  return (1 - smooth) * freq / (float)c->rope_factor + smooth * freq;
}

/* The place of the dimension that turns `rotations` times over the original context. */
static double yarn_place(const struct hf_config *c, double rotations, uint32_t n) {
  double old = (double)c->original_max_position_embeddings;
  return (double)n * log(old / (rotations * 2 * M_PI)) / (2 * log(c->rope_theta));
}

static double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

/* YaRN (Peng et al. 2023): dimensions that turn often are kept, those that turn rarely are
 * divided by the factor, those between are blended. */
static void scale_yarn(const struct hf_config *c, float *inv_freq, uint32_t n, float *ret_factor) {
  double low = yarn_place(c, c->beta_fast, n), high = yarn_place(c, c->beta_slow, n);
  if (!c->rope_untruncated) low = floor(low), high = ceil(high);
  low = low > 0 ? low : 0;
  high = high < n - 1 ? high : n - 1;
  if (low >= high) high = low + 0.001;
  for (uint32_t i = 0; i < n / 2; i++) {
    double ramp = (i - low) / (high - low);
    float keep = 1 - (float)(ramp < 0 ? 0 : ramp > 1 ? 1 : ramp);
    inv_freq[i] = inv_freq[i] / (float)c->rope_factor * (1 - keep) + inv_freq[i] * keep;
  }
  double factor = yarn_mscale(c->rope_factor, 1);
  if (c->mscale > 0 && c->mscale_all_dim > 0)
    factor = yarn_mscale(c->rope_factor, c->mscale) / yarn_mscale(c->rope_factor, c->mscale_all_dim);
  *ret_factor = (float)(c->attention_factor > 0 ? c->attention_factor : factor);
}

static void scale_longrope(const struct hf_config *c, float *inv_freq, uint32_t n, float *ret_factor) {
  for (uint32_t i = 0; i < n / 2; i++) inv_freq[i] /= c->long_factors[i];
  double old = (double)c->original_max_position_embeddings, factor = (double)c->max_position_embeddings / old;
  double scaled = factor > 1 ? sqrt(1 + log(factor) / log(old)) : 1;
  if (c->long_mscale > 0 && factor > 1) scaled = c->long_mscale; /* PhiMoE's: as for its list, that for long contexts */
  *ret_factor = (float)(c->attention_factor > 0 ? c->attention_factor : scaled);
}

/* Of a whole head, whose last numbers do not turn. */
static void stop_rest(const struct hf_config *c, float *inv_freq, uint32_t n) {
  uint32_t turning = (uint32_t)(c->rope_share * n / 2);
  for (uint32_t i = 0; i < n / 2; i++) inv_freq[i] = i < turning ? inv_freq[i] / (float)c->rope_factor : 0;
}

uint32_t model_n_rotated(const struct hf_config *c) {
  if (c->partial_rotary_factor == 0) return (uint32_t)c->head_dim;
  return (uint32_t)((double)c->head_dim * c->partial_rotary_factor);
}

void model_rope_local(const struct hf_config *c, float *inv_freq) {
  uint32_t n = model_n_rotated(c);
  for (uint32_t i = 0; i < n / 2; i++) inv_freq[i] = 1 / powf((float)c->rope_local_base_freq, (float)(2 * i) / (float)n);
}

static int check_rope(const struct hf_config *c, uint32_t n, struct tl_error *err) {
  static const char *const known[] = {"", "default", "linear", "dynamic", "llama3", "yarn", "longrope"};
  bool found = c->global_head_dim && strcmp(c->rope_type, "proportional") == 0;
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) found = found || strcmp(c->rope_type, known[i]) == 0;
  if (!found)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path",
                        "config.json: rope_scaling: type '%s' is not known; known are default, linear, dynamic, llama3, "
                        "yarn, longrope",
                        c->rope_type);
  if (n < 2 || n % 2)
    return tl_error_set(err, TL_ECORRUPT, "model.path",
                        "config.json: partial_rotary_factor: expected an even number of dimensions");
  if (strcmp(c->rope_type, "llama3") == 0 &&
      (!c->original_max_position_embeddings || c->high_freq_factor < c->low_freq_factor))
    return tl_error_set(err, TL_ECORRUPT, "model.path",
                        "config.json: rope_scaling: llama3 needs original_max_position_embeddings and "
                        "low_freq_factor <= high_freq_factor");
  if (strcmp(c->rope_type, "longrope") == 0 && (c->original_max_position_embeddings < 2 || c->n_long_factors != n / 2))
    return tl_error_set(err, TL_ECORRUPT, "model.path",
                        "config.json: rope_scaling: longrope needs original_max_position_embeddings and %u factors", n / 2);
  if (strcmp(c->rope_type, "yarn") == 0 && (!c->original_max_position_embeddings || c->rope_theta <= 1))
    return tl_error_set(err, TL_ECORRUPT, "model.path",
                        "config.json: rope_scaling: yarn needs original_max_position_embeddings and rope_theta above 1");
  return TL_OK;
}

float tl_op_growth(const struct tl_op *op, uint32_t position) {
  const struct tl_growth *g = &op->growth;
  uint64_t steps = ((uint64_t)position + g->shift) / g->every;
  return steps ? 1 + g->rate * log1pf((float)steps) : 1;
}

/* HunYuan's `dynamic` has an alpha, by which the base is larger in all contexts. */
static double base_of(const struct hf_config *c, uint32_t n) {
  bool stretched = strcmp(c->rope_type, "dynamic") == 0 && c->rope_alpha > 0 && n > 2;
  return stretched ? c->rope_theta * pow(c->rope_alpha, (double)n / (n - 2)) : c->rope_theta;
}

/* `dynamic` changes angles only beyond max_position_embeddings, where no context goes. */
int model_rope(const struct hf_config *c, float *inv_freq, float *ret_factor, struct tl_error *err) {
  uint32_t n = c->global_head_dim ? (uint32_t)c->global_head_dim : model_n_rotated(c);
  int r = check_rope(c, n, err);
  if (r < 0) return r;
  bool linear = strcmp(c->rope_type, "linear") == 0, llama3 = strcmp(c->rope_type, "llama3") == 0;
  for (uint32_t i = 0; i < n / 2; i++) {
    float freq = 1 / powf((float)base_of(c, n), (float)(2 * i) / (float)n);
    if (linear) freq /= (float)c->rope_factor;
    if (llama3) freq = scale_llama3(c, freq);
    inv_freq[i] = freq;
  }
  *ret_factor = 1;
  if (strcmp(c->rope_type, "proportional") == 0) stop_rest(c, inv_freq, n);
  if (strcmp(c->rope_type, "yarn") == 0) scale_yarn(c, inv_freq, n, ret_factor);
  if (strcmp(c->rope_type, "longrope") == 0) scale_longrope(c, inv_freq, n, ret_factor);
  return TL_OK;
}
