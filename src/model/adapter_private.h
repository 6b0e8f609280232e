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

#define ADAPTER_MAX_PARTS 5

/* adapter_modules.c: what a module's matrix (rows, columns) is in the plan; each input has rows of its own of it. */
struct adapter_target {
  uint64_t rows, columns;
  uint64_t step;  /* rows from one head's to the next one's, where they alternate */
  bool turned;    /* value heads stand in GGUF's order in the base (TURNED), in Hugging Face's in the adapter */
  uint32_t n_parts;
  struct adapter_target_part {
    uint32_t record, input;
    struct row_runs rows;
  } parts[ADAPTER_MAX_PARTS];
};
/* The i-th module that is known, "self_attn.q_proj"; several may have one name. NULL: there are not so many. */
const char *adapter_module_name(uint32_t i);
/* Whether a module's name ends with all parts of `name`. */
bool adapter_ends_so(const char *module, const char *name);
/* Whether an item of target_modules means the i-th module, or is one of those. */
bool adapter_is_named(const struct model *m, uint32_t i, const char *item);
/* Whether that layer has it. */
bool adapter_module_in(const struct model *m, uint32_t number, uint32_t layer, struct adapter_target *ret);
/* "model.layers.3.self_attn.q_proj"; false: the model has none of that name, or it is not done. */
bool adapter_find_target(const struct model *m, const char *name, struct adapter_target *ret);
/* Why not: of the name of a tensor in it. A literal. */
const char *adapter_refusal(const struct model *m, const char *name);

#endif
