/* SPDX-License-Identifier: MIT */
/* The vectors of a simulated device that runs a pooling model: see the formula in tokenlane/sim.h. */
#include <math.h>

#include "device/sim/sim_private.h"
#include "tokenlane/base/hash.h"

#define SPOILT UINT64_C(0x5bad5bad5bad5bad)

static uint64_t history_of(const int32_t *tokens, const uint32_t *positions, const int32_t *types, uint32_t n) {
  uint64_t history = TL_SIM_START;
  for (uint32_t i = 0; i < n; i++) {
    history = tl_sim_history(history, positions ? positions[i] : i, tokens[i]);
    if (types && types[i]) history = tl_hash_u64(history ^ (uint64_t)types[i]);
  }
  return history;
}

static void vector_of(const struct tl_model *model, uint64_t history, float *ret) {
  double sum = 0;
  for (uint32_t k = 0; k < model->n_out; k++) {
    ret[k] = (float)(tl_hash_u64(history ^ k) >> 40) * 0x1p-23f - 1;
    sum += (double)ret[k] * ret[k];
  }
  for (uint32_t k = 0; k < model->n_out && model->normalize && sum > 0; k++) ret[k] = (float)(ret[k] / sqrt(sum));
}

void tl_sim_vector(const struct tl_model *model, const int32_t *tokens, const int32_t *types, uint32_t n, float *ret) {
  vector_of(model, history_of(tokens, NULL, types, n), ret);
}

int sim_run_vectors(struct sim_device *d, struct tl_error *err) {
  const struct tl_step *s = d->step;
  const struct tl_model *model = d->load.model;
  bool wrong = d->broken || d->corrupt;
  for (uint32_t q = 0; q < s->n_seqs; q++) {
    uint32_t at = s->query_start[q], end = s->query_start[q + 1];
    if (at >= end || end > s->n_tokens || end - at > d->load.max_context)
      return tl_error_set(err, TL_EDEVICE, NULL, "sim:%u: sequence %u of the step has rows that are not there", d->index, q);
    uint64_t history = history_of(s->tokens + at, s->positions + at, s->token_types ? s->token_types + at : NULL, end - at);
    if (d->rank == 0) vector_of(model, wrong ? history ^ SPOILT : history, s->vectors + (size_t)q * model->n_out);
  }
  return TL_OK;
}
