/* SPDX-License-Identifier: MIT */
/* GGUF, versions 2 and 3: a header, metadata (keys with typed values), a table of
 * tensors, then their data. Every count and length is checked against the file
 * before it is used. (Format: ggml-org/ggml, docs/gguf.md.) */
#include <stdlib.h>
#include <string.h>

#include "model/gguf_private.h"

#define MAX_KEYS 65536
#define MAX_DEPTH 4 /* arrays in arrays */

bool gguf_read(struct gguf_reader *r, unsigned bytes, uint64_t *ret) {
  if ((size_t)(r->end - r->at) < bytes) return false;
  *ret = 0;
  for (unsigned i = bytes; i-- > 0;) *ret = *ret << 8 | r->at[i];
  r->at += bytes;
  return true;
}

bool gguf_read_text(struct gguf_reader *r, const char **ret, uint64_t *ret_length) {
  if (!gguf_read(r, 8, ret_length) || *ret_length > (uint64_t)(r->end - r->at)) return false;
  *ret = (const char *)r->at;
  r->at += *ret_length;
  return true;
}

static unsigned bytes_of(uint64_t type) {
  static const uint8_t bytes[GGUF_N_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return bytes[type];
}

/* False: the value does not end within the file, or has no known type. */
static bool skip_value(struct gguf_reader *r, uint64_t type, unsigned depth) {
  const char *text;
  uint64_t n, items, bytes;
  if (type >= GGUF_N_TYPES || depth > MAX_DEPTH) return false;
  if (type == GGUF_STRING) return gguf_read_text(r, &text, &n);
  if (type != GGUF_ARRAY) return gguf_read(r, bytes_of(type), &n);
  if (!gguf_read(r, 4, &items) || !gguf_read(r, 8, &n) || items >= GGUF_N_TYPES) return false;
  if (bytes_of(items)) {
    if (__builtin_mul_overflow(n, bytes_of(items), &bytes) || bytes > (uint64_t)(r->end - r->at)) return false;
    r->at += bytes;
    return true;
  }
  /* each item takes 8 bytes at least, so a lie about n ends with the file */
  for (uint64_t i = 0; i < n; i++)
    if (!skip_value(r, items, depth + 1)) return false;
  return true;
}

static int compare_keys(const void *a, const void *b) {
  const struct gguf_key *x = a, *y = b;
  size_t shorter = x->length < y->length ? x->length : y->length;
  int order = memcmp(x->name, y->name, shorter);
  return order ? order : (x->length > y->length) - (x->length < y->length);
}

static int bad(const struct model_file *file, struct tl_error *err, const char *what) {
  return tl_error_set(err, TL_ECORRUPT, "model.path", "%.200s: %s", file->name, what);
}

static int read_keys(struct tl_gguf *g, struct gguf_reader *r, struct tl_error *err) {
  /* a key takes at least its length, its type and a byte */
  if (g->n_keys > MAX_KEYS || g->n_keys > (uint64_t)(r->end - r->at) / 13)
    return bad(&g->file, err, "the header says that there are more keys than the file can hold");
  g->keys = calloc(g->n_keys ? g->n_keys : 1, sizeof *g->keys);
  if (!g->keys) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (uint64_t i = 0; i < g->n_keys; i++) {
    struct gguf_key *key = &g->keys[i];
    uint64_t length, type;
    if (!gguf_read_text(r, &key->name, &length) || !gguf_read(r, 4, &type))
      return bad(&g->file, err, "the file ends within its metadata");
    key->length = length;
    key->value = r->at;
    if (!skip_value(r, type, 0))
      return tl_error_set(err, TL_ECORRUPT, "model.path",
                          "%.120s: key '%.*s': its value has no known type or does not end within the file", g->file.name,
                          (int)(length < 100 ? length : 100), key->name);
    key->type = (enum gguf_type)type;
  }
  qsort(g->keys, g->n_keys, sizeof *g->keys, compare_keys);
  for (uint64_t i = 1; i < g->n_keys; i++)
    if (compare_keys(&g->keys[i - 1], &g->keys[i]) == 0)
      return tl_error_set(err, TL_ECORRUPT, "model.path", "%.120s: key '%.*s' is there twice", g->file.name,
                          (int)(g->keys[i].length < 100 ? g->keys[i].length : 100), g->keys[i].name);
  return TL_OK;
}

int gguf_parse(const struct model_file *file, struct tl_gguf *ret, struct tl_error *err) {
  *ret = (struct tl_gguf){.file = *file};
  struct gguf_reader r = {file->data, (const uint8_t *)file->data + file->bytes};
  uint64_t magic, version;
  if (!gguf_read(&r, 4, &magic) || magic != 0x46554747) return bad(file, err, "is not a GGUF file");
  if (!gguf_read(&r, 4, &version)) return bad(file, err, "the file ends within its header");
  if (version == 0x02000000 || version == 0x03000000)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "%.200s: big-endian GGUF is not supported", file->name);
  if (version != 2 && version != 3)
    return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "%.200s: GGUF version %llu is not known; known are 2 and 3",
                        file->name, (unsigned long long)version);
  if (!gguf_read(&r, 8, &ret->n_tensors) || !gguf_read(&r, 8, &ret->n_keys))
    return bad(file, err, "the file ends within its header");
  int status = read_keys(ret, &r, err);
  if (status < 0) {
    gguf_done(ret);
    return status;
  }
  int64_t alignment = 32;
  tl_gguf_integer(ret, "general.alignment", &alignment);
  if (alignment < 1 || alignment > 1 << 20 || (alignment & (alignment - 1))) {
    gguf_done(ret);
    return bad(file, err, "general.alignment: expected a power of two");
  }
  ret->alignment = (uint64_t)alignment;
  ret->tensors = r;
  return TL_OK;
}

void gguf_done(struct tl_gguf *g) {
  free(g->keys);
  g->keys = NULL;
}

/* --- what others read ------------------------------------------------------------------- */

bool tl_gguf_is_path(const char *path) {
  size_t length = strlen(path);
  return length > 5 && strcmp(path + length - 5, ".gguf") == 0;
}

int tl_gguf_open(const char *path, struct tl_gguf **ret, struct tl_error *err) {
  const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
  struct tl_gguf *g = malloc(sizeof *g + strlen(name) + 1);
  if (!g) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  char *copy = strcpy((char *)(g + 1), name);
  struct model_file file;
  int r = model_file_open(path, name, &file, err);
  if (r < 0) {
    free(g);
    return r;
  }
  file.name = copy;
  r = gguf_parse(&file, g, err);
  if (r < 0) {
    model_file_close(&file);
    free(g);
    return r;
  }
  *ret = g;
  return TL_OK;
}

void tl_gguf_close(struct tl_gguf *g) {
  if (!g) return;
  gguf_done(g);
  model_file_close(&g->file);
  free(g);
}

static const struct gguf_key *find(const struct tl_gguf *g, const char *key) {
  struct gguf_key wanted = {.name = key, .length = strlen(key)};
  return bsearch(&wanted, g->keys, g->n_keys, sizeof *g->keys, compare_keys);
}

/* A scalar's bytes; they were checked when the file was opened. */
static uint64_t bits_at(const uint8_t *at, enum gguf_type type) {
  uint64_t bits = 0;
  for (unsigned i = bytes_of(type); i-- > 0;) bits = bits << 8 | at[i];
  return bits;
}

static bool integer_at(const uint8_t *at, enum gguf_type type, int64_t *ret) {
  uint64_t bits = bytes_of(type) ? bits_at(at, type) : 0;
  switch (type) {
    case GGUF_I8: *ret = (int64_t)(bits ^ 0x80) - 0x80; return true;
    case GGUF_I16: *ret = (int16_t)bits; return true;
    case GGUF_I32: *ret = (int32_t)bits; return true;
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_BOOL:
    case GGUF_I64: *ret = (int64_t)bits; return true;
    case GGUF_U64: *ret = (int64_t)bits; return bits <= INT64_MAX;
    default: return false;
  }
}

static bool number_at(const uint8_t *at, enum gguf_type type, double *ret) {
  int64_t whole;
  if (type == GGUF_F32) {
    float value;
    memcpy(&value, at, sizeof value);
    *ret = (double)value;
    return true;
  }
  if (type == GGUF_F64) {
    memcpy(ret, at, sizeof *ret);
    return true;
  }
  if (!integer_at(at, type, &whole)) return false;
  *ret = (double)whole;
  return true;
}

bool tl_gguf_integer(const struct tl_gguf *g, const char *key, int64_t *ret) {
  const struct gguf_key *k = find(g, key);
  return k && integer_at(k->value, k->type, ret);
}

bool tl_gguf_number(const struct tl_gguf *g, const char *key, double *ret) {
  const struct gguf_key *k = find(g, key);
  return k && number_at(k->value, k->type, ret);
}

bool tl_gguf_text(const struct tl_gguf *g, const char *key, const char **ret, size_t *ret_length) {
  const struct gguf_key *k = find(g, key);
  if (!k || k->type != GGUF_STRING) return false;
  struct gguf_reader r = {k->value, (const uint8_t *)g->file.data + g->file.bytes};
  uint64_t length;
  if (!gguf_read_text(&r, ret, &length)) return false;
  *ret_length = length;
  return true;
}

bool tl_gguf_list(const struct tl_gguf *g, const char *key, struct tl_gguf_list *ret) {
  const struct gguf_key *k = find(g, key);
  if (!k || k->type != GGUF_ARRAY) return false;
  const uint8_t *end = (const uint8_t *)g->file.data + g->file.bytes;
  struct gguf_reader r = {k->value, end};
  uint64_t type, n;
  if (!gguf_read(&r, 4, &type) || !gguf_read(&r, 8, &n)) return false;
  *ret = (struct tl_gguf_list){n, (uint32_t)type, r.at, end};
  return true;
}

bool tl_gguf_next_text(struct tl_gguf_list *list, const char **ret, size_t *ret_length) {
  struct gguf_reader r = {list->at, list->end};
  uint64_t length;
  if (!list->n_left || list->type != GGUF_STRING || !gguf_read_text(&r, ret, &length)) return false;
  list->at = r.at;
  list->n_left--;
  *ret_length = length;
  return true;
}

bool tl_gguf_next_number(struct tl_gguf_list *list, double *ret) {
  const uint8_t *at = list->at;
  if (!list->n_left || !number_at(at, (enum gguf_type)list->type, ret)) return false;
  list->at = at + bytes_of(list->type);
  list->n_left--;
  return true;
}
