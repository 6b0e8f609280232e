/* SPDX-License-Identifier: MIT */
/* Quantized weights as the kernels read them: codes and scales of the file, in another order, no value rounded
 * but scales, to halves (those of GGUF's blocks without a super-block are halves already). What no kernel reads
 * goes up as T. */
#include <string.h>

#include "device/cuda/cuda_private.h"
#include "tokenlane/slice.h"

/* --- which ------------------------------------------------------------------------------------- */

#define E4M3_GROUP 128 /* of WE4M3_BLOCKS */

/* Weights with scales of rows, or of blocks that are whole groups of a row; other blocks' have no kernel. */
static int format_of_e4m3(const struct tl_tensor *t) {
  uint64_t group = tl_tensor_group_columns(t);
  if (!t->data || t->head_rows) return TL_CUDA_W16;
  return group >= t->shape[1] ? TL_CUDA_WE4M3 : group % E4M3_GROUP == 0 ? TL_CUDA_WE4M3_BLOCKS : TL_CUDA_W16;
}

static int format_of_dtype(const struct tl_tensor *t) {
  switch (t->dtype) {
    case TL_DTYPE_Q4_0:
    case TL_DTYPE_Q4_1:
    case TL_DTYPE_Q4_K:
    case TL_DTYPE_INT4: return TL_CUDA_WINT4;
    case TL_DTYPE_Q2_K: return TL_CUDA_WINT2;
    case TL_DTYPE_Q8_0:
    case TL_DTYPE_Q5_0:
    case TL_DTYPE_IQ4_NL:
    case TL_DTYPE_IQ4_XS: return TL_CUDA_WINT8;
    case TL_DTYPE_Q3_K:
    case TL_DTYPE_NVFP4:
    case TL_DTYPE_Q6_K: return TL_CUDA_WINT8_16;
    case TL_DTYPE_Q5_1:
    case TL_DTYPE_Q5_K:
    case TL_DTYPE_INT8: return TL_CUDA_WINT8_MIN;
    case TL_DTYPE_F8_E4M3: return format_of_e4m3(t);
    default: return TL_CUDA_W16;
  }
}

/* Inputs of which a row must be a multiple. */
static uint32_t run_of(int format) {
  switch (format) {
    case TL_CUDA_W16:
    case TL_CUDA_WE4M3: return 16;
    case TL_CUDA_WE4M3_BLOCKS: return E4M3_GROUP;
    case TL_CUDA_WINT2: return 64;
    default: return 32;
  }
}

/* Whether rows of this record's input can be put into the order of its weights: ranks that have some of the inputs have some of
 * each group; an embedding, which may be the output's matrix too, has no input. */
static bool takes_order(const struct tl_op *op, const struct tl_slice *s) {
  return op->kind != TL_OP_EMBED && op->kind != TL_OP_LOGITS && s->n_columns == s->tensor->shape[1];
}

int cuda_format_of(const struct cuda_device *d, const struct tl_op *op, unsigned input, uint32_t k, const uint32_t **ret_order) {
  struct tl_slice s = tl_slice_weight(d->model, &d->shard, op, input);
  const uint32_t *order = tl_tensor_order(s.tensor);
  *ret_order = NULL;
  if (op->kind == TL_OP_ROUTE) return TL_CUDA_W16; /* its kernels want one matrix, row gate and all */
  bool mxfp4 = s.tensor->dtype == TL_DTYPE_MXFP4 && d->dtype == TL_CUDA_BF16; /* F16 has not the range of its scales */
  int format = mxfp4 ? TL_CUDA_WMXFP4 : format_of_dtype(s.tensor);
  const struct tl_quant_format *f = tl_quant_format(s.tensor->dtype);
  uint32_t run = run_of(format), block = f ? f->block : run;
  bool heads = op->kind == TL_OP_ATTN_OUT && d->dims.head != d->model->head_dim; /* padded between columns */
  if (s.n_columns != k || k % run || s.first_column % block || heads || (order && !takes_order(op, &s))) return TL_CUDA_W16;
  *ret_order = order;
  return format;
}

size_t cuda_row_bytes(int format, uint32_t k) {
  switch (format) {
    case TL_CUDA_W16: return (size_t)k * 2;
    case TL_CUDA_WINT4:
    case TL_CUDA_WMXFP4: return k / 2;
    case TL_CUDA_WINT2: return k / 4;
    default: return k;
  }
}

size_t cuda_scales_bytes(int format, uint32_t k) {
  switch (format) {
    case TL_CUDA_W16: return 0;
    case TL_CUDA_WE4M3: return sizeof(float);
    case TL_CUDA_WE4M3_BLOCKS: return k / E4M3_GROUP * sizeof(float);
    case TL_CUDA_WINT8: return k / 32 * 2;
    case TL_CUDA_WMXFP4: return k / 32;
    case TL_CUDA_WINT2: return k / 64 * 8;
    default: return k / 16 * 2;
  }
}

/* --- how ------------------------------------------------------------------------------------------ */

/* Codes of 4 bits, or of 2, into words: first those of even places, then the others. */
static void store_words(const uint8_t *codes, unsigned n, unsigned bits, char *to) {
  unsigned of_word = 32 / bits, half = of_word / 2;
  for (unsigned k = 0; k < n; k += of_word, to += sizeof(uint32_t)) {
    uint32_t word = 0;
    for (unsigned i = 0; i < of_word; i++) word |= (uint32_t)codes[k + i % half * 2 + i / half] << bits * i;
    memcpy(to, &word, sizeof word);
  }
}

/* A code as int8; INT8's have their zero in the min. */
static int8_t to_int8(const struct tl_quant_format *f, const struct tl_tensor *t, uint8_t code) {
  return (int8_t)(f->table ? f->table[code] : t->dtype == TL_DTYPE_INT8 ? code - 128 : code - f->offset);
}

/* The block in which the column lies. */
static void read_block(const struct cuda_part *part, uint64_t row, uint64_t column, struct tl_quant_block *ret) {
  tl_quant_read(part->tensor, row, column / tl_quant_format(part->tensor->dtype)->block, ret);
}

void cuda_store_codes(const struct cuda_part *part, uint64_t row, char *to) {
  const struct tl_tensor *t = part->tensor;
  const struct tl_quant_format *f = tl_quant_format(t->dtype);
  if (!f) {
    memcpy(to, (const char *)tl_tensor_row(t, row) + part->column, part->n_columns);
    return;
  }
  for (uint64_t k = 0; k < part->n_columns; k += f->block) {
    struct tl_quant_block b;
    uint64_t left = part->n_columns - k;
    unsigned n = left < f->block ? (unsigned)left : f->block;
    read_block(part, row, part->column + k, &b);
    unsigned bits = (unsigned)cuda_row_bytes(part->format, 8);
    if (bits < 8) store_words(b.codes, n, bits, to + k * bits / 8);
    for (unsigned i = 0; bits == 8 && i < n; i++) to[k + i] = (char)to_int8(f, t, b.codes[i]);
  }
}

/* Of E4M3: for the row, or for each group. */
static void store_floats(const struct cuda_part *part, uint64_t row, char *to) {
  uint64_t group = part->format == TL_CUDA_WE4M3 ? part->n_columns : E4M3_GROUP;
  for (uint64_t k = 0; k < part->n_columns; k += group, to += sizeof(float)) {
    float scale = tl_tensor_f8_scale(part->tensor, row, part->column + k);
    memcpy(to, &scale, sizeof scale);
  }
}

/* Of Q2_K, as they are. */
static void store_supers(const struct cuda_part *part, uint64_t row, char *to) {
  struct tl_quant_block b;
  for (uint64_t k = 0; k < part->n_columns; k += 64, to += 8) {
    unsigned at = (unsigned)((part->column + k) % TL_QUANT_BLOCK);
    if (k == 0 || at == 0) read_block(part, row, part->column + k, &b);
    for (unsigned i = 0; i < 4; i++) to[i] = (char)(b.scales[at / 16 + i] | b.mins[at / 16 + i] << 4);
    memcpy(to + 4, &b.d, sizeof b.d);
    memcpy(to + 6, &b.m, sizeof b.m);
  }
}

void cuda_store_scales(const struct cuda_part *part, uint64_t row, char *to) {
  const struct tl_tensor *t = part->tensor;
  const struct tl_quant_format *f = tl_quant_format(t->dtype);
  bool mins = part->format == TL_CUDA_WINT4 || part->format == TL_CUDA_WINT8_MIN;
  unsigned run = part->format == TL_CUDA_WINT8_16 ? 16 : 32;
  if (!f) return store_floats(part, row, to);
  if (part->format == TL_CUDA_WINT2) return store_supers(part, row, to);
  struct tl_quant_block b;
  for (uint64_t k = 0; k < part->n_columns; k += run) {
    unsigned at = (unsigned)((part->column + k) % f->block);
    if (k == 0 || at == 0) read_block(part, row, part->column + k, &b);
    if (part->format == TL_CUDA_WMXFP4) {
      *to++ = (char)b.d;
      continue;
    }
    float scale, min;
    tl_quant_scale(t->dtype, &b, at / f->group, &scale, &min); /* what is subtracted is also the offset of codes that are stored as they are */
    int offset = part->format == TL_CUDA_WINT4 ? f->offset : t->dtype == TL_DTYPE_INT8 ? f->offset - 128 : 0;
    uint16_t halves[2] = {tl_f32_to_f16(scale), tl_f32_to_f16(min + scale * (float)offset)};
    memcpy(to, halves, mins ? 4 : 2);
    to += mins ? 4 : 2;
  }
}
