/* SPDX-License-Identifier: MIT */
#ifndef ADAPTER_PRIVATE_H
#define ADAPTER_PRIVATE_H

#include "model/model_private.h"
#include "tokenlane/adapter.h"

/* adapter_config.c: what adapter_config.json says that tensors do not. */
struct adapter_config {
  json_t *object; /* owned; patterns and target_modules are looked up in it */
  int64_t r;
  double alpha;
  bool rslora;
};
/* label: of the file, for messages. On error nothing is left behind. */
int adapter_config_read(const char *folder, const char *label, struct adapter_config *ret, struct tl_error *err);
void adapter_config_done(struct adapter_config *config);
/* What the product of A and B of a module ("model.layers.0.self_attn.q_proj") is multiplied by. */
float adapter_config_scale(const struct adapter_config *config, const char *module, uint32_t rank);
/* Whether rank is one that it says. */
bool adapter_config_has_rank(const struct adapter_config *config, uint32_t rank);

#endif
