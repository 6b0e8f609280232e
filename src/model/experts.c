/* SPDX-License-Identifier: MIT */
/* The matrices of a layer's experts, however files hold them, as tensors of two dimensions one behind the other:
 *
 *   a tensor for each expert          Mixtral, Qwen, and Qwen3-VL-MoE in F8 or integers; any format that a plan's matrix may have
 *   (experts, rows, columns)          GGUF, or (experts, 2 rows, columns) of gate and up
 *   (experts, columns, 2 rows)        GPT-OSS in floats: inputs are the slow dimension, gate and up alternate
 *   (experts, columns, 2 rows)        Qwen3-VL-MoE: likewise, but the gate's rows come first
 *   (experts, 2 rows, columns)        the same as transformers 5 writes it, and Granite
 *   (experts, 2 rows, columns / 32, 16) and (experts, 2 rows, columns / 32)
 *                                     GPT-OSS as shipped: blocks of MXFP4 and their exponents beside */
#include <stdio.h>
#include <string.h>

#include "model/model_private.h"

/* Of the expert's part of the tensor `of`; gate and up may be views of one. */
static int32_t add_view(struct model *m, const struct expert_part *p, struct tl_tensor view, const char *of, uint32_t expert,
                        struct tl_error *err) {
  char name[400];
  snprintf(name, sizeof name, "%.300s[%u]%s", of, expert, p->part == EXPERT_UP ? " (up)" : "");
  view.name = name;
  int r = model_add_tensor(m, &view, err);
  return r < 0 ? r : (int32_t)m->n_tensors - 1;
}

static int bad_shape(const struct model *m, const struct tl_tensor *t, struct tl_error *err, const char *expected) {
  return tl_error_set(err, TL_ECORRUPT, "model.path", "%.100s: tensor '%.150s': expected shape %s", model_file_of(m, t), t->name,
                      expected);
}

static bool has_shape(const struct tl_tensor *t, unsigned n_dims, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
  return t->n_dims == n_dims && t->shape[0] == a && t->shape[1] == b && (n_dims < 3 || t->shape[2] == c) &&
         (n_dims < 4 || t->shape[3] == d);
}

/* The index of the tensor of GPT-OSS or of GGUF that holds a part of all experts; TL_ENOTFOUND. */
static int32_t whole(const struct model *m, const struct expert_part *p, const char *ending, char name[200]) {
  static const char *const gguf[] = {"gate", "up", "down"};
  if (p->kind->traits & EXPERTS_BESIDE && !m->gguf)
    snprintf(name, 200, "model.layers.%u.experts.%s%s", p->layer, p->kind->names[p->part], ending);
  else if (m->gguf)
    snprintf(name, 200, "blk.%u.ffn_%s_exps.%s", p->layer, gguf[p->part], ending);
  else
    snprintf(name, 200, p->kind->traits & EXPERTS_ROWS ? "model.layers.%u.%s.%s.weight%s" : "model.layers.%u.%s.experts.%s%s", p->layer, p->kind->block, p->kind->names[p->part], ending);
  int32_t i = model_find_tensor(m, name);
  return i < 0 ? TL_ENOTFOUND : i;
}

static int missing(const char *name, struct tl_error *err) {
  return tl_error_set(err, TL_ECORRUPT, "model.path", "tensor '%s' is missing from the model's files", name);
}

/* --- a tensor for each expert ------------------------------------------------------------------ */

/* Those whose halves tools take apart before they round them have the names that others have. */
static const char *name_of(const struct expert_part *p) {
  static const char *const plain[] = {"gate_proj", "up_proj", "down_proj"};
  return p->kind->traits & EXPERTS_HALVES ? plain[p->part] : p->kind->names[p->part];
}

/* Of the layer: what the experts stand in. */
static const char *list_of(const struct expert_part *p, char buffer[100]) {
  snprintf(buffer, 100, p->kind->traits & EXPERTS_BESIDE ? "experts" : "%s.experts", p->kind->block);
  return buffer;
}

static bool is_separate(const struct model *m, const struct expert_part *p) {
  char stem[200], list[100];
  snprintf(stem, sizeof stem, "model.layers.%u.%s.0.%s.", p->layer, list_of(p, list), name_of(p));
  return !(p->kind->traits & (EXPERTS_FUSED | EXPERTS_HALVES)) || (p->kind->traits & EXPERTS_HALVES && packed_is_there(m, stem));
}

static int32_t separate(struct model *m, const struct expert_part *p, struct tl_error *err) {
  int32_t ret = -1;
  char list[100];
  for (uint32_t e = 0; e < p->n; e++) {
    /* several tensors may become one here, which is added: the views that follow one another come after all */
    int32_t i = plan_tensor(m, err, p->rows, p->columns, "model.layers.%u.%s.%u.%s.weight", p->layer, list_of(p, list), e, name_of(p));
    if (i < 0) return i;
  }
  for (uint32_t e = 0; e < p->n; e++) {
    int32_t i = plan_tensor(m, err, p->rows, p->columns, "model.layers.%u.%s.%u.%s.weight", p->layer, list_of(p, list), e, name_of(p));
    struct tl_tensor view = m->tensors[i];
    int32_t added = add_view(m, p, view, view.name, e, err);
    if (added < 0) return added;
    if (e == 0) ret = added;
  }
  return ret;
}

/* --- GGUF --------------------------------------------------------------------------------------- */

/* Gemma 4's files may have gate and up of all experts in one. */
static int32_t halves(const struct model *m, const struct expert_part *p, char name[200]) {
  snprintf(name, 200, "blk.%u.ffn_gate_up_exps.weight", p->layer);
  return p->part == EXPERT_DOWN ? TL_ENOTFOUND : model_find_tensor(m, name);
}

static int32_t stacked(struct model *m, const struct expert_part *p, struct tl_error *err) {
  char name[200], expected[100];
  int32_t ret = -1, i = halves(m, p, name);
  unsigned n_parts = i < 0 ? 1 : 2; /* gate and up in one, the gate first */
  if (i < 0) i = whole(m, p, "weight", name);
  if (i < 0) return missing(name, err);
  const struct tl_tensor all = m->tensors[i];
  snprintf(expected, sizeof expected, "%u x %llu x %llu", p->n, (unsigned long long)p->rows * n_parts, (unsigned long long)p->columns);
  if (!has_shape(&all, 3, p->n, p->rows * n_parts, p->columns, 0)) return bad_shape(m, &all, err, expected);
  size_t bytes = all.bytes / p->n / n_parts, behind = n_parts == 2 && p->part == EXPERT_UP ? bytes : 0;
  for (uint32_t e = 0; e < p->n; e++) {
    struct tl_tensor view = {.dtype = all.dtype, .n_dims = 2, .shape = {p->rows, p->columns}, .bytes = bytes,
                             .data = (const char *)all.data + e * bytes * n_parts + behind};
    int32_t added = add_view(m, p, view, all.name, e, err);
    if (added < 0) return added;
    if (e == 0) ret = added;
  }
  return ret;
}

/* --- gate and up in one tensor: GPT-OSS, Qwen3-VL-MoE --------------------------------------------- */

/* Gate and up are rows 2 i and 2 i + 1 of a matrix, or its halves; down has one of its own. */
static unsigned parts_of(const struct expert_part *p) {
  return p->part == EXPERT_DOWN ? 1 : 2;
}

static unsigned step_of(const struct expert_part *p) {
  return p->kind->traits & EXPERTS_HALVES ? 1 : parts_of(p);
}

static uint64_t offset_of(const struct expert_part *p) {
  return p->part != EXPERT_UP ? 0 : p->kind->traits & EXPERTS_HALVES ? p->rows : 1;
}

static int32_t transposed(struct model *m, const struct expert_part *p, int32_t index, struct tl_error *err) {
  const struct tl_tensor all = m->tensors[index];
  uint64_t rows = p->rows * parts_of(p);
  int32_t ret = -1;
  bool straight = p->kind->traits & (EXPERTS_ROWS | EXPERTS_STRAIGHT) || (p->kind->traits & EXPERTS_HALVES && !has_shape(&all, 3, p->n, p->columns, rows, 0));
  char expected[100];
  snprintf(expected, sizeof expected, "%u x %llu x %llu", p->n, (unsigned long long)p->columns, (unsigned long long)rows);
  if (!has_shape(&all, 3, p->n, straight ? rows : p->columns, straight ? p->columns : rows, 0)) return bad_shape(m, &all, err, expected);
  if (all.dtype > TL_DTYPE_BF16)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "%.100s: tensor '%.150s': expected floats, found %s",
                        model_file_of(m, &all), all.name, tl_dtype_name(all.dtype));
  size_t element = tl_dtype_bytes(all.dtype), bytes = p->columns * rows * element;
  for (uint32_t e = 0; e < p->n; e++) {
    struct tl_tensor view = {.dtype = all.dtype, .n_dims = 2, .shape = {p->rows, p->columns}, .bytes = bytes / parts_of(p),
                             .data = (const char *)all.data + e * bytes + offset_of(p) * element * (straight ? p->columns : 1),
                             .row_step = straight ? 0 : step_of(p), .column_step = straight ? 0 : rows};
    int32_t added = add_view(m, p, view, all.name, e, err);
    if (added < 0) return added;
    if (e == 0) ret = added;
  }
  return ret;
}

static void read_pairs(const struct tl_packed *p, uint64_t row, uint64_t block, struct tl_quant_block *ret) {
  uint64_t at = row * p->row_step * (p->columns / 32) + block;
  ret->d = (uint8_t)p->scales[at];
  quant_read_pairs(p->codes + 16 * at, ret->codes);
}

static int32_t shipped(struct model *m, const struct expert_part *p, const struct tl_tensor *blocks, struct tl_error *err) {
  char name[200], expected[100];
  uint64_t rows = p->rows * step_of(p), n_blocks = p->columns / 32;
  int32_t ret = -1, i = whole(m, p, "_scales", name);
  if (i < 0) return missing(name, err);
  const struct tl_tensor codes = *blocks, scales = m->tensors[i];
  snprintf(expected, sizeof expected, "%u x %llu x %llu x 16, of U8", p->n, (unsigned long long)rows, (unsigned long long)n_blocks);
  if (p->columns % 32 || codes.dtype != TL_DTYPE_U8 || !has_shape(&codes, 4, p->n, rows, n_blocks, 16))
    return bad_shape(m, &codes, err, expected);
  snprintf(expected, sizeof expected, "%u x %llu x %llu, of U8", p->n, (unsigned long long)rows, (unsigned long long)n_blocks);
  if (scales.dtype != TL_DTYPE_U8 || !has_shape(&scales, 3, p->n, rows, n_blocks, 0)) return bad_shape(m, &scales, err, expected);
  for (uint32_t e = 0; e < p->n; e++) {
    struct tl_packed *packed = tl_arena_alloc(&m->arena, sizeof *packed);
    if (!packed) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
    uint64_t at = (e * rows + offset_of(p)) * n_blocks;
    *packed = (struct tl_packed){.read = read_pairs, .codes = (const uint8_t *)codes.data + 16 * at, .rows = p->rows,
                                 .scales = (const char *)scales.data + at, .columns = p->columns, .row_step = step_of(p)};
    struct tl_tensor view = {.dtype = TL_DTYPE_MXFP4, .n_dims = 2, .shape = {p->rows, p->columns}, .packed = packed,
                             .bytes = p->rows * n_blocks * 17};
    int32_t added = add_view(m, p, view, codes.name, e, err);
    if (added < 0) return added;
    if (e == 0) ret = added;
  }
  return ret;
}

static int32_t fused(struct model *m, const struct expert_part *p, struct tl_error *err) {
  char name[200];
  int32_t i = p->kind->traits & EXPERTS_FUSED ? whole(m, p, "_blocks", name) : TL_ENOTFOUND;
  if (i >= 0) return shipped(m, p, &m->tensors[i], err);
  i = whole(m, p, "", name);
  return i < 0 ? missing(name, err) : transposed(m, p, i, err);
}

/* --- what a plan asks for ---------------------------------------------------------------------- */

int32_t experts_weights(struct model *m, const struct expert_part *p, struct tl_error *err) {
  if (m->gguf) return stacked(m, p, err);
  return is_separate(m, p) ? separate(m, p, err) : fused(m, p, err);
}

int32_t experts_biases(struct model *m, const struct expert_part *p, struct tl_error *err) {
  char name[200], expected[100];
  uint64_t step = m->gguf ? 1 : step_of(p), offset = m->gguf ? 0 : offset_of(p);
  int32_t ret = -1, i = whole(m, p, m->gguf ? "bias" : "_bias", name);
  if (i < 0) return missing(name, err);
  const struct tl_tensor all = m->tensors[i];
  snprintf(expected, sizeof expected, "%u x %llu, of floats", p->n, (unsigned long long)(p->rows * step));
  if (all.dtype > TL_DTYPE_BF16 || !has_shape(&all, 2, p->n, p->rows * step, 0, 0)) return bad_shape(m, &all, err, expected);
  size_t element = tl_dtype_bytes(all.dtype);
  for (uint32_t e = 0; e < p->n; e++) {
    struct tl_tensor view = {.dtype = all.dtype, .n_dims = 1, .shape = {p->rows}, .bytes = p->rows * element, .row_step = step,
                             .data = (const char *)all.data + (e * p->rows * step + offset) * element};
    int32_t added = add_view(m, p, view, all.name, e, err);
    if (added < 0) return added;
    if (e == 0) ret = added;
  }
  return ret;
}

int experts_vector(struct model *m, int32_t index, int32_t *ret, struct tl_error *err) {
  struct tl_tensor t = m->tensors[index];
  if (t.dtype > TL_DTYPE_BF16)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "%.100s: tensor '%.150s': expected floats, found %s",
                        model_file_of(m, &t), t.name, tl_dtype_name(t.dtype));
  t.n_dims = 1;
  t.shape[0] = t.shape[1];
  char name[400];
  snprintf(name, sizeof name, "%.300s[0]", t.name);
  t.name = name;
  int r = model_add_tensor(m, &t, err);
  *ret = (int32_t)m->n_tensors - 1;
  return r;
}
