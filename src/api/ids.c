/* SPDX-License-Identifier: MIT */
/* Token ids of clients and of tokenizers, as prompts and inputs have them. */
#include "api/api_private.h"

bool api_has_several(const json_t *value) {
  json_t *first = json_array_get(value, 0);
  return first && !json_is_number(first);
}

int api_read_ids(const json_t *list, size_t n, const struct tl_model *model, const char *field, int32_t *ret, struct tl_error *err) {
  int64_t vocab = model->vocab_size;
  for (size_t i = 0; i < n; i++) {
    json_t *id = json_array_get(list, i);
    char what[64];
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= vocab)
      return tl_error_set(err, TL_EINVAL, field, "%s[%zu]: expected a token id from 0 to %lld, got %s", field, i,
                          (long long)(vocab - 1), api_value_text(id, what));
    ret[i] = (int32_t)json_integer_value(id);
  }
  return TL_OK;
}

int api_check_rows(const int32_t *ids, size_t n, const struct tl_model *model, const char *field, struct tl_error *err) {
  int32_t vocab = (int32_t)model->vocab_size;
  for (size_t i = 0; i < n; i++)
    if (ids[i] >= vocab)
      return tl_error_set(err, TL_EINVAL, field, "%s: has token %d, which is not one of the model's %d", field, ids[i], vocab);
  return TL_OK;
}
