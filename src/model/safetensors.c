/* SPDX-License-Identifier: MIT */
/* safetensors: an 8-byte little-endian length, a JSON header of that length,
 * then the data that the header's offsets name. Everything is checked against
 * the file before it is used. (Format: huggingface/safetensors, README.) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "model/model_private.h"

#define MAX_HEADER_BYTES (100u << 20)

struct range {
  uint64_t begin, end;
  const char *name;
};

static int read_dtype(const char *text, enum tl_dtype *ret) {
  for (enum tl_dtype d = TL_DTYPE_F32; d < TL_N_DTYPES; d++)
    if (text && tl_dtype_bytes(d) && strcmp(text, tl_dtype_name(d)) == 0) return (void)(*ret = d), TL_OK;
  return TL_EUNSUPPORTED;
}

static int bad(struct tl_error *err, const char *file, const char *tensor, const char *what) {
  return tl_error_set(err, TL_ECORRUPT, "model.path", "%.120s: tensor '%.120s': %s", file, tensor, what);
}

static int read_shape(json_t *list, struct tl_tensor *t, uint64_t *ret_count) {
  uint64_t count = 1;
  if (!json_is_array(list) || json_array_size(list) > 4) return TL_ECORRUPT;
  t->n_dims = (uint32_t)json_array_size(list);
  for (uint32_t i = 0; i < t->n_dims; i++) {
    json_t *dim = json_array_get(list, i);
    if (!json_is_integer(dim) || json_integer_value(dim) < 0) return TL_ECORRUPT;
    t->shape[i] = (uint64_t)json_integer_value(dim);
    if (__builtin_mul_overflow(count, t->shape[i], &count)) return TL_ECORRUPT;
  }
  *ret_count = count;
  return TL_OK;
}

/* One entry of the header into *t. Tensors of a number format that no plan can
 * use (I64 buffers, say) are passed over: *ret_used stays false. */
static int read_entry(const char *file, const char *name, json_t *entry, const char *data, uint64_t data_bytes,
                      struct tl_tensor *t, struct range *ret_range, bool *ret_used, struct tl_error *err) {
  json_t *offsets = json_object_get(entry, "data_offsets");
  json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
  if (!json_is_array(offsets) || json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
    return bad(err, file, name, "data_offsets must be two integers");
  int64_t b = json_integer_value(begin), e = json_integer_value(end);
  if (b < 0 || e < b || (uint64_t)e > data_bytes) return bad(err, file, name, "data_offsets lie outside the file");
  uint64_t count, bytes;
  if (read_shape(json_object_get(entry, "shape"), t, &count) < 0)
    return bad(err, file, name, "shape must be a list of up to 4 sizes");
  *ret_range = (struct range){(uint64_t)b, (uint64_t)e, name};
  *ret_used = read_dtype(json_string_value(json_object_get(entry, "dtype")), &t->dtype) == TL_OK;
  if (!*ret_used) return TL_OK;
  if (__builtin_mul_overflow(count, tl_dtype_bytes(t->dtype), &bytes) || bytes != (uint64_t)(e - b))
    return bad(err, file, name, "shape and dtype do not match data_offsets");
  t->data = data + b;
  t->bytes = bytes;
  return TL_OK;
}

static int compare_ranges(const void *a, const void *b) {
  const struct range *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  return x->end < y->end ? -1 : x->end > y->end;
}

static int check_overlap(const char *file, struct range *ranges, size_t n, struct tl_error *err) {
  if (n) qsort(ranges, n, sizeof *ranges, compare_ranges);
  for (size_t i = 1; i < n; i++)
    if (ranges[i].begin < ranges[i - 1].end) return bad(err, file, ranges[i].name, "overlaps another tensor");
  return TL_OK;
}

static int add_entries(struct model *m, const char *file, const char *prefix, json_t *header, const char *data, uint64_t data_bytes,
                       struct tl_error *err) {
  size_t n = 0, most = json_object_size(header);
  struct range *ranges = calloc(most ? most : 1, sizeof *ranges);
  if (!ranges) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  const char *name;
  json_t *entry;
  int r = TL_OK;
  json_object_foreach(header, name, entry) {
    if (strcmp(name, "__metadata__") == 0) continue;
    char full[400], inner[400];
    const char *plain = m->nested ? hf_nested_tensor(name, inner, sizeof inner) : m->mixers ? hf_mixer_tensor(name, inner, sizeof inner)
                        : m->names ? hf_plan_name(m->names, name, inner, sizeof inner) : name;
    if (!plain) continue;
    snprintf(full, sizeof full, "%s%.300s", prefix, plain);
    struct tl_tensor t = {.name = *prefix ? full : plain};
    bool used = false;
    r = read_entry(file, name, entry, data, data_bytes, &t, &ranges[n], &used, err);
    if (r < 0) break;
    n++;
    if (!used && m->strict) r = bad(err, file, name, "expected BF16, F16 or F32");
    else if (used) r = model_add_tensor(m, &t, err);
    if (r < 0) break;
  }
  if (r == TL_OK) r = check_overlap(file, ranges, n, err);
  free(ranges);
  return r;
}

int model_add_safetensors(struct model *m, const char *path, const char *name, const char *prefix, struct tl_error *err) {
  struct model_file file;
  int r = model_map_file(m, path, name, &file, err);
  if (r < 0) return r;
  uint64_t header_bytes = 0;
  const unsigned char *bytes = file.data;
  for (int i = 7; i >= 0; i--) header_bytes = header_bytes << 8 | bytes[i];
  if (header_bytes > MAX_HEADER_BYTES || header_bytes > file.bytes - 8)
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%s: the header's length lies outside the file", name);
  json_error_t json_error;
  json_t *header = tl_json_load((const char *)bytes + 8, header_bytes, JSON_REJECT_DUPLICATES, &json_error);
  if (tl_json_is_short(header, &json_error, err)) return TL_ENOMEM;
  if (!json_is_object(header)) {
    json_decref(header);
    return tl_error_set(err, TL_ECORRUPT, "model.path", "%.150s: the header is not a JSON object: %.150s", name,
                        json_error.text);
  }
  madvise(file.data, file.bytes, MADV_SEQUENTIAL);
  r = add_entries(m, name, prefix, header, (const char *)bytes + 8 + header_bytes, file.bytes - 8 - header_bytes, err);
  json_decref(header);
  return r;
}
