/* SPDX-License-Identifier: MIT */
/* LoRA adapters (Hu et al. 2021) of one base model: what each of them adds to products of the plan. A sequence of a
 * step has one of them or none (step.h). */
#ifndef TOKENLANE_ADAPTER_H
#define TOKENLANE_ADAPTER_H

#include "tokenlane/model.h"
#include "tokenlane/slice.h"

#define TL_MAX_ADAPTERS 256
#define TL_MAX_ADAPTER_RANK 256

/* An input of a record: y = x W^T becomes y + scale * (x A^T) B^T. */
struct tl_adapter_part {
  uint32_t record;  /* of the plan: QKV, GATE_IN, DELTA_IN, DELTA_GATES, SHORT_IN, ATTN_OUT, GATED_UP, UP or MLP_DOWN */
  uint32_t input;   /* of weight[] */
  int32_t a, b;     /* of tl_model.tensors, floats: (rank, inputs), (outputs, rank). Parts of one record may have one A */
  uint32_t rank;
  float scale;
};

struct tl_adapter {
  const char *name, *folder; /* as in its source */
  const struct tl_adapter_part *parts; /* (n_parts) by record, then by input */
  uint32_t n_parts;
};

struct tl_adapter_source {
  const char *name, *folder;
};

/* Reads PEFT folders (adapter_config.json, adapter_model.safetensors) beside a model that has its weights: they become
 * tl_model.adapters in this order, their files are mapped with the model's. Once, boot, before a device loads the model.
 * Errors have the field model.adapters and name adapter, file, and key or tensor. */
int tl_model_add_adapters(struct tl_model *model, const struct tl_adapter_source *sources, uint32_t n, struct tl_error *err);
/* What a rank has of A and B, so that the ranks' results are cut, or summed up, as those of the weight: a record that is cut
 * by outputs has whole A and rows of B, one that is cut by inputs has columns of A and whole B. Pure. */
struct tl_slice tl_slice_adapter_a(const struct tl_model *model, const struct tl_shard *shard, const struct tl_adapter_part *part);
struct tl_slice tl_slice_adapter_b(const struct tl_model *model, const struct tl_shard *shard, const struct tl_adapter_part *part);

#endif
