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
  if (wavelength < high) return freq;
  float smooth = (old / wavelength - (float)c->low_freq_factor) / (float)(c->high_freq_factor - c->low_freq_factor);
  return (1 - smooth) * freq / (float)c->rope_factor + smooth * freq;
}

int model_rope(const struct hf_config *c, float *inv_freq, struct tl_error *err) {
  bool linear = strcmp(c->rope_type, "linear") == 0, llama3 = strcmp(c->rope_type, "llama3") == 0;
  if (!linear && !llama3 && c->rope_type[0] && strcmp(c->rope_type, "default") != 0)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path",
                        "config.json: rope_scaling: type '%s' is not known; known are default, linear, llama3",
                        c->rope_type);
  if (llama3 && (!c->original_max_position_embeddings || c->high_freq_factor <= c->low_freq_factor))
    return tl_error_set(err, TL_ECORRUPT, "model.path",
                        "config.json: rope_scaling: llama3 needs original_max_position_embeddings and "
                        "low_freq_factor < high_freq_factor");
  for (int64_t i = 0; i < c->head_dim / 2; i++) {
    float freq = 1 / powf((float)c->rope_theta, (float)(2 * i) / (float)c->head_dim);
    if (linear) freq /= (float)c->rope_factor;
    if (llama3) freq = scale_llama3(c, freq);
    inv_freq[i] = freq;
  }
  return TL_OK;
}
