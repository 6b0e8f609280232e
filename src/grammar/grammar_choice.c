/* SPDX-License-Identifier: MIT */
#include "grammar/grammar_parts.h"
#include "grammar/grammar_readers.h"

int gr_read_choice(struct gr_ir *ir, json_t *list, const char *field, gr_node *ret, struct tl_error *err) {
  if (!json_array_size(list)) return tl_error_set(err, TL_EINVAL, field, "expected a list of strings that is not empty");
  struct gr_list some = {0};
  json_t *one;
  size_t i, wrong = json_array_size(list);
  json_array_foreach(list, i, one) {
    if (!json_is_string(one)) wrong = i;
    else gr_list_push(&some, gr_bytes(ir, json_string_value(one), json_string_length(one))); /* jansson's strings are UTF-8 */
  }
  *ret = gr_list_one_of(ir, &some);
  if (wrong < json_array_size(list)) return tl_error_set(err, TL_EINVAL, field, "[%zu]: expected a string", wrong);
  if (*ret == GR_NONE && gr_failed(ir) == TL_OK) return tl_error_set(err, TL_ENOMEM, field, "out of memory for the choices");
  return gr_said(ir, field, err);
}
