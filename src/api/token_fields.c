/* SPDX-License-Identifier: MIT */
/* Fields whose values are tokens, or become tokens: they wait until the fields have said which model is asked. */
#include <string.h>

#include "api/api_private.h"

_Static_assert(65536 + API_MAX_STOP_IDS + TL_MAX_EOS <= TL_MAX_BIAS, "what one step may forbid");

/* The client's ids before the model's, as tl_sequence has them. */
static int read_stop_ids(struct api_call *call, struct tl_error *err) {
  struct api_params *p = &call->params;
  const struct tl_model *model = call->work.serving->model;
  size_t n = json_array_size(p->stop_token_ids);
  if (n > API_MAX_STOP_IDS)
    return tl_error_set(err, TL_EINVAL, "stop_token_ids", "stop_token_ids: expected at most %d token ids, got %zu", API_MAX_STOP_IDS, n);
  p->stop_ids = model->eos;
  p->n_own_stop_ids = (uint32_t)n;
  p->n_stop_ids = p->n_own_stop_ids + model->n_eos;
  if (n == 0) return TL_OK;
  int32_t *ids = tl_arena_array(&call->arena, p->n_stop_ids, sizeof *ids);
  if (!ids) return tl_error_set(err, TL_ENOMEM, "stop_token_ids", "out of memory");
  p->stop_ids = ids;
  memcpy(ids + n, model->eos, model->n_eos * sizeof *ids);
  return api_read_ids(p->stop_token_ids, n, model, "stop_token_ids", ids, err);
}

static bool is_among(const int32_t *ids, uint32_t n, int32_t id) {
  uint32_t i = 0;
  while (i < n && ids[i] != id) i++;
  return i < n;
}

bool api_is_own_stop(const struct api_params *p, int32_t id) {
  bool eos = !p->ignore_eos && is_among(p->stop_ids + p->n_own_stop_ids, p->n_stop_ids - p->n_own_stop_ids, id);
  return !eos && is_among(p->stop_ids, p->n_own_stop_ids, id);
}

int api_token_fields(struct api_call *call, struct tl_error *err) {
  return read_stop_ids(call, err);
}
