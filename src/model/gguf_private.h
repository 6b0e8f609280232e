/* SPDX-License-Identifier: MIT */
/* A GGUF file taken apart: metadata and the table of tensors, both pointing into
 * the mapped file. */
#ifndef GGUF_PRIVATE_H
#define GGUF_PRIVATE_H

#include "model/model_private.h"

/* The file format's own numbers. */
enum gguf_type {
  GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_U64,
  GGUF_I64, GGUF_F64, GGUF_N_TYPES
};

struct gguf_key {
  const char *name; /* no NUL */
  size_t length;
  enum gguf_type type;
  const uint8_t *value;
};

/* From `at` on, checked against `end` by every read. */
struct gguf_reader {
  const uint8_t *at, *end;
};
bool gguf_read(struct gguf_reader *r, unsigned bytes, uint64_t *ret); /* little-endian, 1 to 8 bytes */
bool gguf_read_text(struct gguf_reader *r, const char **ret, uint64_t *ret_length);

struct tl_gguf {
  struct model_file file;
  struct gguf_key *keys; /* (n_keys) in the order of their names */
  uint64_t n_keys, n_tensors;
  struct gguf_reader tensors; /* the table of tensors */
  uint64_t alignment;
};

/* gguf_latent.c: sizes of latent attention; the class, by how experts are chosen. architecture: what keys begin with. */
int gguf_read_latent(const struct tl_gguf *g, const char *architecture, struct hf_config *config, struct tl_error *err);

/* gguf_gemma4.c: what its layers differ in; nothing for other classes. And what only tensors say of it. */
int gguf_read_gemma4(const struct tl_gguf *g, const char *architecture, struct hf_config *config, struct tl_error *err);
void gguf_complete_gemma4(const struct model *m, struct hf_config *config);

/* gguf_recurrent.c: sizes of layers that keep a state, and which they are; nothing for classes without any. */
int gguf_read_recurrent(const struct tl_gguf *g, const char *architecture, struct hf_config *config, struct tl_error *err);
/* What only tensors say of them. */
void gguf_complete_recurrent(const struct model *m, struct hf_config *config);

/* The metadata of a mapped file; file.name is for messages. gguf_done frees the keys only. */
int gguf_parse(const struct model_file *file, struct tl_gguf *ret, struct tl_error *err);
void gguf_done(struct tl_gguf *g);

#endif
