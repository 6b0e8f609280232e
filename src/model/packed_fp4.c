/* SPDX-License-Identifier: MIT */
/* Matrices in E2M1, two numbers in a byte, with scales in a tensor beside: E4M3 for each 16 inputs and a factor for the matrix (NVFP4, as
 * compressed-tensors and ModelOpt have it), or E8M0 for each 32 (OCP MX, as compressed-tensors and Quark have it). What inputs of products
 * would be rounded by is left out: they are not rounded to 4 bits here. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/model_private.h"

static const struct form {
  const char *codes, *factor; /* endings in place of "weight" */
  bool divides;               /* scales are divided by the factor */
} forms[] = {{"weight_packed", "weight_global_scale", true}, {"weight", "weight_scale_2", false}};

static void read_nvfp4(const struct tl_packed *p, uint64_t row, uint64_t block, struct tl_quant_block *ret) {
  uint64_t at = (p->first_row + row) * (p->columns / 32) + block;
  quant_read_pairs(p->codes + 16 * at, ret->codes);
  memcpy(ret->scales, p->scales + 2 * at, 2);
  ret->scale = p->factor;
}

static void read_mxfp4(const struct tl_packed *p, uint64_t row, uint64_t block, struct tl_quant_block *ret) {
  uint64_t at = (p->first_row + row) * (p->columns / 32) + block;
  quant_read_pairs(p->codes + 16 * at, ret->codes);
  ret->d = (uint8_t)p->scales[at];
}

static bool is_matrix(const struct tl_tensor *t, enum tl_dtype dtype, uint64_t rows, uint64_t columns) {
  return t->dtype == dtype && t->n_dims == 2 && t->shape[0] == rows && t->shape[1] == columns;
}

/* One number, which none of the matrix' own can be without. */
static int take_factor(const struct model *m, const struct form *form, const struct tl_tensor *codes, const struct tl_tensor *t, float *ret,
                       struct tl_error *err) {
  if (!t) return packed_bad(m, codes, err, "the factor of its scales is missing");
  if (t->dtype != TL_DTYPE_F32 || t->n_dims > 1 || (t->n_dims == 1 && t->shape[0] != 1)) return packed_bad(m, t, err, "expected one number of F32");
  tl_dtype_to_f32(t->dtype, t->data, ret, 1);
  if (form->divides) *ret = 1 / *ret;
  return isfinite(*ret) && *ret > 0 ? TL_OK : packed_bad(m, t, err, "expected a number above 0");
}

static int take_scales(const struct model *m, const struct form *form, const char *stem, const struct tl_tensor *codes, struct tl_packed *p,
                       struct tl_error *err) {
  const struct tl_tensor *t = packed_part(m, stem, "weight_scale");
  if (!t) return packed_bad(m, codes, err, "its scales are missing");
  p->scales = t->data;
  if (is_matrix(t, TL_DTYPE_U8, p->rows, p->columns / 32)) {
    p->read = read_mxfp4;
    return memchr(t->data, 0xff, t->bytes) ? packed_bad(m, t, err, "a scale is not a number") : TL_OK;
  }
  if (!is_matrix(t, TL_DTYPE_F8_E4M3, p->rows, p->columns / 16))
    return packed_bad(m, t, err, "expected scales in E4M3 for 16 inputs each, or in U8 for 32");
  p->read = read_nvfp4;
  if (packed_has_nan(t)) return packed_bad(m, t, err, "a scale is not a number");
  return take_factor(m, form, codes, packed_part(m, stem, form->factor), &p->factor, err);
}

int32_t packed_fp4(struct model *m, const char *name, const char *stem, uint64_t rows, uint64_t columns, struct tl_error *err) {
  const struct tl_tensor *codes = NULL;
  const struct form *form = forms;
  for (unsigned i = 0; i < sizeof forms / sizeof *forms && !codes; i++) {
    form = &forms[i];
    codes = packed_part(m, stem, form->codes);
    if (codes && codes->dtype != TL_DTYPE_U8) codes = NULL;
  }
  if (!codes) return TL_ENOTFOUND;
  char full[400];
  snprintf(full, sizeof full, "%s in E2M1", name); /* the codes may have its name */
  int32_t known = model_find_tensor(m, full);
  if (known >= 0) return known;
  if (columns % 32) return packed_bad(m, codes, err, "rows are not a multiple of 32 long");
  if (!is_matrix(codes, TL_DTYPE_U8, rows, columns / 2)) return packed_bad(m, codes, err, "its shape does not fit the matrix");
  struct tl_packed *p = tl_arena_alloc(&m->arena, sizeof *p);
  if (!p) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  *p = (struct tl_packed){.codes = codes->data, .rows = rows, .columns = columns};
  int r = take_scales(m, form, stem, codes, p, err);
  if (r < 0) return r;
  bool nv = p->read == read_nvfp4;
  struct tl_tensor t = {.name = full, .dtype = nv ? TL_DTYPE_NVFP4 : TL_DTYPE_MXFP4, .n_dims = 2, .shape = {rows, columns},
                        .bytes = codes->bytes + rows * (columns / (nv ? 16 : 32)), .packed = p};
  r = model_add_tensor(m, &t, err);
  return r < 0 ? r : (int32_t)m->n_tensors - 1;
}
