/* SPDX-License-Identifier: MIT */
/* Matrices that safetensors files hold in several tensors: integers, the scales of
 * their groups, zeros, the groups of inputs. What differs between GPTQ, AWQ and
 * compressed-tensors is a row of the table; groups follow from shapes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_private.h"

/* How a matrix (rows, columns) of small integers lies in words. */
struct packing {
  uint8_t bits, word_bytes;
  bool transposed;  /* the columns are the slow dimension */
  bool along_rows;  /* the integers of a word belong to neighbouring rows, else columns */
  bool interleaved; /* AWQ's order in a word */
  uint8_t flip;     /* makes a signed integer unsigned */
};

struct scheme {
  const char *method; /* quant_method of config.json */
  const char *codes, *scales, *zeros, *order; /* endings in place of "weight"; NULL: has none */
  enum tl_dtype dtype, stored; /* of the matrix, and of the tensor of codes */
  struct packing code, zero;
  bool scales_transposed;
  bool stores_less; /* zeros may be one less than they are */
  uint8_t symmetric; /* the zero where none is stored */
};

static const struct scheme schemes[] = {
    {"gptq", "qweight", "scales", "qzeros", "g_idx", TL_DTYPE_INT4, TL_DTYPE_I32, {4, 4, true, false, false, 0},
     {4, 4, true, true, false, 0}, true, true, 8},
    {"awq", "qweight", "scales", "qzeros", NULL, TL_DTYPE_INT4, TL_DTYPE_I32, {4, 4, true, true, true, 0},
     {4, 4, true, true, true, 0}, true, false, 8},
    {"compressed-tensors", "weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx", TL_DTYPE_INT4,
     TL_DTYPE_I32, {4, 4, false, false, false, 0}, {4, 4, false, true, false, 0}, false, false, 8},
    {"compressed-tensors", "weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx", TL_DTYPE_INT8,
     TL_DTYPE_I32, {8, 4, false, false, false, 0}, {8, 4, false, true, false, 0}, false, false, 128},
    {"compressed-tensors", "weight", "weight_scale", "weight_zero_point", NULL, TL_DTYPE_INT8, TL_DTYPE_I8,
     {8, 1, false, false, false, 0x80}, {8, 1, false, false, false, 0x80}, false, false, 128},
};

/* --- reading ------------------------------------------------------------------------------- */

static void word_counts(const struct packing *p, uint64_t rows, uint64_t columns, uint64_t *ret_rows, uint64_t *ret_columns) {
  uint64_t per = p->word_bytes * 8u / p->bits;
  *ret_rows = p->along_rows ? (rows + per - 1) / per : rows;
  *ret_columns = p->along_rows ? columns : (columns + per - 1) / per;
}

static unsigned code_at(const struct packing *p, const uint8_t *words, uint64_t rows, uint64_t columns, uint64_t row,
                        uint64_t column) {
  static const uint8_t awq[8] = {0, 4, 1, 5, 2, 6, 3, 7};
  unsigned per = p->word_bytes * 8u / p->bits;
  unsigned lane = (unsigned)((p->along_rows ? row : column) % per);
  uint64_t word_rows, word_columns;
  word_counts(p, rows, columns, &word_rows, &word_columns);
  uint64_t r = p->along_rows ? row / per : row, c = p->along_rows ? column : column / per;
  uint64_t word = p->transposed ? c * word_rows + r : r * word_columns + c;
  unsigned bit = (p->interleaved ? awq[lane] : lane) * p->bits;
  /* little-endian words: a byte holds one or two integers */
  unsigned byte = words[word * p->word_bytes + bit / 8];
  return ((byte >> bit % 8) & ((1u << p->bits) - 1)) ^ p->flip;
}

static float scale_at(const struct tl_packed *p, uint64_t row, uint64_t group) {
  uint64_t at = p->scheme->scales_transposed ? group * (p->rows / p->group_rows) + row / p->group_rows
                                             : row / p->group_rows * p->n_groups + group;
  float value;
  tl_dtype_to_f32(p->scale_dtype, p->scales + at * tl_dtype_bytes(p->scale_dtype), &value, 1);
  return value;
}

static void read_block(const struct tl_packed *p, uint64_t row, uint64_t block, struct tl_quant_block *ret) {
  const struct scheme *s = p->scheme;
  uint64_t first = block * 32, group = first / p->group_columns;
  row += p->first_row;
  for (unsigned i = 0; i < 32; i++) {
    uint64_t column = p->order ? p->order[first + i] : first + i;
    ret->codes[i] = (uint8_t)code_at(&s->code, p->codes, p->rows, p->columns, row, column);
  }
  ret->scale = scale_at(p, row, group);
  ret->mins[0] = p->zeros ? (uint8_t)(code_at(&s->zero, p->zeros, p->rows, p->n_groups, row, group) + p->zero_shift)
                          : s->symmetric;
}

/* --- finding and checking --------------------------------------------------------------------- */

const struct tl_tensor *packed_part(const struct model *m, const char *stem, const char *ending) {
  char name[400];
  if (!ending) return NULL;
  snprintf(name, sizeof name, "%s%s", stem, ending);
  int32_t i = model_find_tensor(m, name);
  return i < 0 ? NULL : &m->tensors[i];
}

int packed_bad(const struct model *m, const struct tl_tensor *t, struct tl_error *err, const char *what) {
  return tl_error_set(err, TL_ECORRUPT, "model.path", "%.100s: tensor '%.150s': %s", model_file_of(m, t), t->name, what);
}

static bool has_shape(const struct tl_tensor *t, uint64_t rows, uint64_t columns) {
  return t->n_dims == 2 && t->shape[0] == rows && t->shape[1] == columns;
}

static bool is_packed(const struct packing *p, const struct tl_tensor *t, uint64_t rows, uint64_t columns) {
  word_counts(p, rows, columns, &rows, &columns);
  return p->transposed ? has_shape(t, columns, rows) : has_shape(t, rows, columns);
}

/* The number of scales: a group, a row or the matrix has one. */
static int take_scales(const struct model *m, const struct tl_tensor *t, struct tl_packed *p, struct tl_error *err) {
  bool transposed = p->scheme->scales_transposed;
  if (t->dtype > TL_DTYPE_BF16) return packed_bad(m, t, err, "expected floats");
  p->scales = t->data;
  p->scale_dtype = t->dtype;
  p->group_rows = 1;
  p->n_groups = t->n_dims == 2 ? t->shape[transposed ? 0 : 1] : 1;
  if (t->n_dims == 0 || (t->n_dims == 1 && t->shape[0] == 1))
    p->group_rows = p->rows;
  else if (t->n_dims > 2 || t->shape[transposed && t->n_dims == 2 ? 1 : 0] != p->rows || !p->n_groups || p->columns % p->n_groups)
    return packed_bad(m, t, err, "its shape does not fit the matrix");
  p->group_columns = p->columns / p->n_groups;
  if (p->n_groups > 1 && (p->group_columns < 32 || (p->group_columns & (p->group_columns - 1))))
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path",
                        "%.100s: tensor '%.150s': groups of %llu inputs are not supported; known are 32, 64, 128, ...",
                        model_file_of(m, t), t->name, (unsigned long long)p->group_columns);
  return TL_OK;
}

static int32_t int32_at(const struct tl_tensor *t, uint64_t i) {
  int32_t value;
  memcpy(&value, (const char *)t->data + i * sizeof value, sizeof value);
  return value;
}

/* With the order of activations a group's inputs lie anywhere: sorted by group, each keeps its order. */
static int take_order(struct model *m, const struct tl_tensor *t, struct tl_packed *p, struct tl_error *err) {
  if (t->dtype != TL_DTYPE_I32 || t->n_dims != 1 || t->shape[0] != p->columns)
    return packed_bad(m, t, err, "expected a group for each input");
  bool ascending = true;
  uint64_t *next = calloc(p->n_groups, sizeof *next);
  uint32_t *order = tl_arena_array(&m->arena, p->columns, sizeof *order);
  int r = next && order ? TL_OK : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (uint64_t i = 0; i < p->columns && r == TL_OK; i++) {
    int32_t group = int32_at(t, i);
    if (group < 0 || (uint64_t)group >= p->n_groups || next[group] == p->group_columns) {
      r = packed_bad(m, t, err, "its groups do not fit the scales");
      break;
    }
    uint64_t at = (uint64_t)group * p->group_columns + next[group]++;
    order[at] = (uint32_t)i;
    ascending = ascending && at == i;
  }
  free(next);
  if (r == TL_OK && !ascending) p->order = order;
  return r;
}

static int32_t add_matrix(struct model *m, const char *name, enum tl_dtype dtype, struct tl_packed *p, size_t bytes,
                          struct tl_error *err) {
  struct tl_tensor t = {.name = name, .dtype = dtype, .n_dims = 2, .shape = {p->rows, p->columns}, .bytes = bytes, .packed = p};
  int r = model_add_tensor(m, &t, err);
  return r < 0 ? r : (int32_t)m->n_tensors - 1;
}

static int32_t take_scheme(struct model *m, const struct scheme *s, const char *name, const char *stem, uint64_t rows,
                           uint64_t columns, struct tl_error *err) {
  const struct tl_tensor *codes = packed_part(m, stem, s->codes), *scales = packed_part(m, stem, s->scales);
  const struct tl_tensor *zeros = packed_part(m, stem, s->zeros), *order = packed_part(m, stem, s->order);
  struct tl_packed *p = tl_arena_alloc(&m->arena, sizeof *p);
  if (!p) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  *p = (struct tl_packed){.read = read_block, .scheme = s, .codes = codes->data, .rows = rows, .columns = columns};
  if (!scales) return packed_bad(m, codes, err, "its scales are missing");
  if (columns % 32) return packed_bad(m, codes, err, "rows are not a multiple of 32 long");
  int r = take_scales(m, scales, p, err);
  if (r < 0) return r;
  if (zeros) {
    if (zeros->dtype != s->stored || !is_packed(&s->zero, zeros, rows, p->n_groups) || p->group_rows != 1)
      return packed_bad(m, zeros, err, "its format or shape does not fit the matrix");
    p->zeros = zeros->data;
    p->zero_shift = s->stores_less && strcmp(m->config->checkpoint_format, "gptq_v2") != 0;
  }
  if (order && (r = take_order(m, order, p, err)) < 0) return r;
  return add_matrix(m, name, s->dtype, p, codes->bytes + scales->bytes + (zeros ? zeros->bytes : 0), err);
}

/* --- F8 -------------------------------------------------------------------------------------------- */

/* A NaN, seven bits that are set, among weights makes every answer one, and the kernels have no place for it. Eight at a time:
 * all weights of a model are looked at before it starts. */
bool packed_has_nan(const struct tl_tensor *t) {
  const uint8_t *bytes = t->data;
  uint64_t carries = 0, eight;
  bool last = false;
  size_t i = 0;
  for (; i + sizeof eight <= t->bytes; i += sizeof eight) {
    memcpy(&eight, bytes + i, sizeof eight);
    carries |= (eight & 0x7f7f7f7f7f7f7f7f) + 0x0101010101010101;
  }
  for (; i < t->bytes; i++) last |= (bytes[i] & 0x7f) == 0x7f;
  return last || carries & 0x8080808080808080;
}

/* One scale, one a row, or one a block. */
static int take_f8_scales(const struct model *m, const struct tl_tensor *t, struct tl_packed *p, struct tl_error *err) {
  uint64_t block_rows = (uint64_t)m->config->block_rows, block_columns = (uint64_t)m->config->block_columns;
  uint64_t n = 1;
  for (uint32_t i = 0; i < t->n_dims; i++) n *= t->shape[i];
  if (t->dtype > TL_DTYPE_BF16) return packed_bad(m, t, err, "expected floats");
  p->scales = t->data;
  p->scale_dtype = t->dtype;
  p->n_groups = 1;
  p->group_rows = n == 1 ? p->rows : 1;
  p->group_columns = p->columns;
  if (n == 1 || (n == p->rows && t->n_dims > 0 && t->shape[0] == p->rows)) return TL_OK;
  if (!block_rows || !has_shape(t, (p->rows + block_rows - 1) / block_rows, (p->columns + block_columns - 1) / block_columns))
    return packed_bad(m, t, err, "its shape does not fit the matrix");
  p->n_groups = t->shape[1];
  p->group_rows = block_rows;
  p->group_columns = block_columns;
  return TL_OK;
}

static int32_t take_f8(struct model *m, int32_t index, const char *stem, uint64_t rows, uint64_t columns,
                       struct tl_error *err) {
  const struct tl_tensor *t = &m->tensors[index], *scales = packed_part(m, stem, "weight_scale_inv");
  if (!scales) scales = packed_part(m, stem, "weight_scale");
  if (t->packed) return index;
  if (!has_shape(t, rows, columns)) return TL_ENOTFOUND; /* plan_tensor says what it is */
  if (packed_has_nan(t)) return packed_bad(m, t, err, "a weight is not a number");
  if (!scales) return index; /* the bytes are the values */
  struct tl_packed *p = tl_arena_alloc(&m->arena, sizeof *p);
  if (!p) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  *p = (struct tl_packed){.rows = rows, .columns = columns};
  int r = take_f8_scales(m, scales, p, err);
  if (r < 0) return r;
  m->tensors[index].packed = p;
  m->tensors[index].bytes += scales->bytes;
  return index;
}

bool packed_is_there(const struct model *m, const char *stem) {
  for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++)
    if (packed_part(m, stem, schemes[i].codes)) return true;
  return false;
}

int32_t packed_tensor(struct model *m, const char *name, uint64_t rows, uint64_t columns, struct tl_error *err) {
  char stem[300];
  size_t length = strlen(name);
  if (length < 7 || length >= sizeof stem || strcmp(name + length - 7, ".weight") != 0) return TL_ENOTFOUND;
  snprintf(stem, sizeof stem, "%.*s", (int)(length - 6), name);
  int32_t there = model_find_tensor(m, name);
  if (there >= 0 && m->tensors[there].dtype == TL_DTYPE_F8_E4M3) return take_f8(m, there, stem, rows, columns, err);
  int32_t fp4 = packed_fp4(m, name, stem, rows, columns, err);
  if (fp4 != TL_ENOTFOUND) return fp4;
  if (there >= 0 && m->tensors[there].dtype != TL_DTYPE_I8) return TL_ENOTFOUND;
  const struct tl_tensor *found = NULL;
  char full[400]; /* codes of the matrix' own name stand there already */
  snprintf(full, sizeof full, there >= 0 ? "%s as integers" : "%s", name);
  int32_t known = model_find_tensor(m, full);
  if (known >= 0) return known;
  for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
    const struct scheme *s = &schemes[i];
    const struct tl_tensor *codes = packed_part(m, stem, s->codes);
    if (strcmp(s->method, m->config->quant_method) != 0 || !codes || codes->dtype != s->stored) continue;
    if (is_packed(&s->code, codes, rows, columns)) return take_scheme(m, s, full, stem, rows, columns, err);
    found = codes;
  }
  return found ? packed_bad(m, found, err, "its shape fits no known way of packing the matrix") : TL_ENOTFOUND;
}
