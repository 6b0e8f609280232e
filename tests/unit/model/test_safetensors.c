/* SPDX-License-Identifier: MIT */
/* A file that the reference library wrote (tests/golden/make_model.py), and what
 * can be wrong with one. */
#include "model/model_private.h"

#define UNIT_FILE "x.safetensors"
#include "one_file.h"

static size_t read_golden(char *bytes, size_t size) {
  FILE *file = unit_open_golden("model_small.safetensors");
  size_t n = fread(bytes, 1, size, file);
  fclose(file);
  assert_true(n > 100 && n < size);
  return n;
}

/* Every tensor of m lies whole in one of its files. */
static void assert_inside(const struct model *m) {
  for (uint32_t i = 0; i < m->n_tensors; i++) {
    const struct tl_tensor *t = &m->tensors[i];
    bool inside = false;
    for (uint32_t f = 0; f < m->n_files; f++) {
      const char *begin = m->files[f].data, *end = begin + m->files[f].bytes, *data = t->data;
      inside = inside || (data >= begin && data <= end && t->bytes <= (size_t)(end - data));
    }
    assert_true(inside);
    uint64_t count = 1;
    for (uint32_t d = 0; d < t->n_dims; d++) count *= t->shape[d];
    assert_true(t->n_dims <= 4 && count * tl_dtype_bytes(t->dtype) == t->bytes);
  }
}

static int open_bytes(const void *bytes, size_t length, struct model **ret, struct tl_error *err) {
  unit_write_file(folder, "x.safetensors", bytes, length);
  struct model *m = calloc(1, sizeof *m);
  tl_arena_init(&m->arena, 0);
  memset(err, 0, sizeof *err);
  int r = model_add_safetensors(m, path, "x.safetensors", "", err);
  assert_int_equal(err->code, r);
  if (r == TL_OK) {
    assert_inside(m);
  } else {
    assert_non_null(strstr(err->message, "x.safetensors"));
    assert_null(strstr(err->message, folder));
  }
  if (ret)
    *ret = m;
  else
    tl_model_free(&m->model);
  return r;
}

static void test_reference_file(void **state) {
  (void)state;
  static const struct {
    const char *name;
    enum tl_dtype dtype;
    uint32_t n_dims;
    uint64_t shape[4];
    size_t count;
  } tensors[] = {{"a.f32", TL_DTYPE_F32, 2, {2, 3}, 6},
                 {"b.f16", TL_DTYPE_F16, 1, {5}, 5},
                 {"c.bf16", TL_DTYPE_BF16, 4, {1, 2, 3, 2}, 12},
                 {"e.scalar", TL_DTYPE_F32, 0, {0}, 1},
                 {"f.empty", TL_DTYPE_F32, 2, {0, 7}, 0}};
  char bytes[4096];
  size_t n = read_golden(bytes, sizeof bytes);
  struct model *m;
  struct tl_error err;
  assert_int_equal(open_bytes(bytes, n, &m, &err), TL_OK);
  assert_int_equal(m->n_tensors, UNIT_COUNT(tensors)); /* the I64 one is passed over */
  assert_int_equal(model_find_tensor(m, "d.ids"), -1);
  for (size_t i = 0; i < UNIT_COUNT(tensors); i++) {
    int32_t at = model_find_tensor(m, tensors[i].name);
    assert_true(at >= 0);
    const struct tl_tensor *t = &m->tensors[at];
    assert_string_equal(t->name, tensors[i].name);
    assert_int_equal(t->dtype, tensors[i].dtype);
    assert_int_equal(t->n_dims, tensors[i].n_dims);
    for (uint32_t d = 0; d < t->n_dims; d++) assert_int_equal(t->shape[d], tensors[i].shape[d]);
    float values[12];
    assert_int_equal(t->bytes, tensors[i].count * tl_dtype_bytes(t->dtype));
    tl_dtype_to_f32(t->dtype, t->data, values, tensors[i].count);
    for (size_t k = 0; k < tensors[i].count; k++) assert_true(values[k] == (float)k - 3);
  }
  tl_model_free(&m->model);
}

static void test_truncated_at_every_byte(void **state) {
  (void)state;
  char bytes[4096];
  size_t n = read_golden(bytes, sizeof bytes);
  struct tl_error err;
  for (size_t length = 0; length < n; length++) assert_int_equal(open_bytes(bytes, length, NULL, &err), TL_ECORRUPT);
}

/* Any outcome will do but a crash or a tensor outside the file. */
static void test_every_byte_changed(void **state) {
  (void)state;
  char bytes[4096];
  size_t n = read_golden(bytes, sizeof bytes);
  struct tl_error err;
  static const unsigned char masks[] = {0x01, 0x02, 0x08, 0x10, 0x40, 0x80};
  for (size_t at = 0; at < n; at++)
    for (size_t k = 0; k < UNIT_COUNT(masks); k++) {
      bytes[at] = (char)(bytes[at] ^ masks[k]);
      open_bytes(bytes, n, NULL, &err);
      bytes[at] = (char)(bytes[at] ^ masks[k]);
    }
}

/* --- headers that lie -------------------------------------------------------------------- */

#define TENSOR(dtype, shape, begin, end) \
  "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"
#define A(shape, begin, end) "{\"a\":" TENSOR("F32", shape, begin, end) "}"

static const struct {
  const char *header;
  int result;
  const char *message; /* of it, or NULL */
} headers[] = {
    {"{}", TL_OK, NULL},
    {A("[4]", "0", "16"), TL_OK, NULL},
    {A("[4]", "16", "32"), TL_OK, NULL},
    {A("[]", "0", "4"), TL_OK, NULL},
    {A("[0]", "0", "0"), TL_OK, NULL},
    {A("[0, 9223372036854775807]", "0", "0"), TL_OK, NULL},
    {"  {\"__metadata__\":{\"x\":\"y\"}} \n", TL_OK, NULL},
    {"{\"a\":" TENSOR("I64", "[2]", "0", "16") "}", TL_OK, NULL},
    {"{\"a\":" TENSOR("F8_E4M3", "[2]", "0", "2") "}", TL_OK, NULL},
    {"{\"a\":" TENSOR("f32", "[4]", "0", "16") "}", TL_OK, NULL}, /* no dtype that a plan can use */
    {A("[4]", "0", "15"), TL_ECORRUPT, "x.safetensors: tensor 'a': shape and dtype do not match data_offsets"},
    {A("[4]", "0", "17"), TL_ECORRUPT, "shape and dtype do not match data_offsets"},
    {A("[4]", "17", "33"), TL_ECORRUPT, "data_offsets lie outside the file"},
    {A("[4]", "16", "0"), TL_ECORRUPT, "data_offsets lie outside the file"},
    {A("[4]", "-16", "0"), TL_ECORRUPT, "data_offsets lie outside the file"},
    {A("[4]", "9223372036854775800", "9223372036854775807"), TL_ECORRUPT, "data_offsets lie outside the file"},
    {A("[4]", "18446744073709551600", "16"), TL_ECORRUPT, "the header is not a JSON object"},
    {A("[4]", "0.0", "16"), TL_ECORRUPT, "data_offsets must be two integers"},
    {A("[4]", "0", "1.6e1"), TL_ECORRUPT, "data_offsets must be two integers"},
    {A("[4]", "\"0\"", "16"), TL_ECORRUPT, "data_offsets must be two integers"},
    {A("[4]", "NaN", "16"), TL_ECORRUPT, "the header is not a JSON object"},
    {A("[4]", "0", "Infinity"), TL_ECORRUPT, "the header is not a JSON object"},
    {A("[NaN]", "0", "16"), TL_ECORRUPT, "the header is not a JSON object"},
    {A("[-4]", "0", "16"), TL_ECORRUPT, "shape must be a list of up to 4 sizes"},
    {A("[-1, -4]", "0", "16"), TL_ECORRUPT, "shape must be a list of up to 4 sizes"},
    {A("[4.0]", "0", "16"), TL_ECORRUPT, "shape must be a list of up to 4 sizes"},
    {A("[1,1,1,1,4]", "0", "16"), TL_ECORRUPT, "shape must be a list of up to 4 sizes"},
    {A("4", "0", "16"), TL_ECORRUPT, "shape must be a list of up to 4 sizes"},
    {A("[\"4\"]", "0", "16"), TL_ECORRUPT, "shape must be a list of up to 4 sizes"},
    /* products that come out right only modulo 2^64 */
    {A("[4294967296, 4294967296]", "0", "0"), TL_ECORRUPT, "shape must be a list of up to 4 sizes"},
    {A("[4611686018427387908]", "0", "16"), TL_ECORRUPT, "shape and dtype do not match data_offsets"},
    {A("[2, 2305843009213693954]", "0", "16"), TL_ECORRUPT, "shape and dtype do not match data_offsets"},
    {"{\"a\":" TENSOR("F32", "[4]", "0", "16") ",\"b\":" TENSOR("F32", "[4]", "12", "28") "}", TL_ECORRUPT,
     "tensor 'b': overlaps another tensor"},
    {"{\"a\":" TENSOR("F32", "[4]", "0", "16") ",\"b\":" TENSOR("I64", "[2]", "0", "16") "}", TL_ECORRUPT, "overlaps another tensor"},
    {"{\"a\":" TENSOR("F32", "[4]", "0", "16") ",\"a\":" TENSOR("F32", "[4]", "16", "32") "}", TL_ECORRUPT, "duplicate"},
    {"{\"a\":5}", TL_ECORRUPT, "data_offsets must be two integers"},
    {"{\"a\":null}", TL_ECORRUPT, "data_offsets must be two integers"},
    {"{\"a\":{}}", TL_ECORRUPT, "data_offsets must be two integers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16,32]}}", TL_ECORRUPT, "data_offsets must be two integers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":{\"0\":0}}}", TL_ECORRUPT, "data_offsets must be two integers"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,16]}}", TL_ECORRUPT, "shape must be a list of up to 4 sizes"},
    {"{\"a\":{\"shape\":[4],\"data_offsets\":[0,16]}}", TL_OK, NULL}, /* no dtype: nothing that is used */
    {"[]", TL_ECORRUPT, "the header is not a JSON object"},
    {"{", TL_ECORRUPT, "the header is not a JSON object"},
    {"", TL_ECORRUPT, "the header is not a JSON object"},
    {"{}{}", TL_ECORRUPT, "the header is not a JSON object"},
    {"{\"\xff\":1}", TL_ECORRUPT, "the header is not a JSON object"},
};

static int open_header(const char *header, size_t length, struct tl_error *err) {
  char *bytes = calloc(1, 8 + length + 32);
  for (int i = 0; i < 8; i++) bytes[i] = (char)(length >> 8 * i);
  memcpy(bytes + 8, header, length);
  int r = open_bytes(bytes, 8 + length + 32, NULL, err); /* 32 bytes of data */
  free(bytes);
  return r;
}

static void test_headers(void **state) {
  (void)state;
  for (size_t i = 0; i < UNIT_COUNT(headers); i++) {
    struct tl_error err;
    int r = open_header(headers[i].header, strlen(headers[i].header), &err);
    if (r != headers[i].result) fail_msg("%s: expected %d, got %d (%s)", headers[i].header, headers[i].result, r, err.message);
    if (headers[i].message && !strstr(err.message, headers[i].message)) fail_msg("%s: %s", headers[i].header, err.message);
  }
}

static void test_header_lengths(void **state) {
  (void)state;
  static const uint64_t lengths[] = {3, 100, 1u << 20, 100u << 20, (100u << 20) + 1, (uint64_t)1 << 32, INT64_MAX, UINT64_MAX,
                                     UINT64_MAX - 7};
  struct tl_error err;
  for (size_t i = 0; i < UNIT_COUNT(lengths); i++) {
    char bytes[10] = {0, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    for (int k = 0; k < 8; k++) bytes[k] = (char)(lengths[i] >> 8 * k);
    assert_int_equal(open_bytes(bytes, sizeof bytes, NULL, &err), TL_ECORRUPT);
    assert_string_equal(err.message, "x.safetensors: the header's length lies outside the file");
  }
}

static void test_deep_nesting(void **state) {
  (void)state;
  size_t depth = 1 << 20;
  char *header = malloc(depth);
  struct tl_error err;
  memset(header, '[', depth);
  assert_int_equal(open_header(header, depth, &err), TL_ECORRUPT);
  memcpy(header, "{\"a\":", 5);
  assert_int_equal(open_header(header, depth, &err), TL_ECORRUPT);
  free(header);
}

static void test_names(void **state) {
  (void)state;
  /* long and odd names do not break messages; many names fill and grow the table */
  struct tl_error err;
  char *header = malloc(400000), *at = header;
  at += sprintf(at, "{\"");
  memset(at, 'n', 5000);
  at += 5000;
  at += sprintf(at, "\":5}");
  assert_int_equal(open_header(header, (size_t)(at - header), &err), TL_ECORRUPT);
  assert_true(strlen(err.message) < TL_ERROR_MESSAGE);
  at = header;
  *at++ = '{';
  for (int i = 0; i < 3000; i++)
    at += sprintf(at, "%s\"t.%d\":" TENSOR("F16", "[0]", "0", "0"), i ? "," : "", i);
  *at++ = '}';
  unsigned char length[8];
  size_t n = (size_t)(at - header);
  for (int i = 0; i < 8; i++) length[i] = (unsigned char)(n >> 8 * i);
  memmove(header + 8, header, n);
  memcpy(header, length, 8);
  struct model *m;
  assert_int_equal(open_bytes(header, n + 8, &m, &err), TL_OK);
  assert_int_equal(m->n_tensors, 3000);
  for (int i = 0; i < 3000; i++) {
    char name[20];
    snprintf(name, sizeof name, "t.%d", i);
    int32_t found = model_find_tensor(m, name);
    assert_true(found >= 0);
    assert_string_equal(m->tensors[found].name, name);
  }
  assert_int_equal(model_find_tensor(m, "t.3000"), -1);
  /* the same file once more: its names are there already */
  assert_int_equal(model_add_safetensors(m, path, "x.safetensors", "", &err), TL_ECORRUPT);
  assert_non_null(strstr(err.message, "is in two files"));
  tl_model_free(&m->model);
  free(header);
}

static void test_no_file(void **state) {
  (void)state;
  struct model *m = calloc(1, sizeof *m);
  struct tl_error err = {0};
  tl_arena_init(&m->arena, 0);
  assert_int_equal(model_add_safetensors(m, "/nowhere/x", "x", "", &err), TL_EIO);
  assert_string_equal(err.message, "x: cannot be opened: No such file or directory");
  assert_int_equal(model_add_safetensors(m, folder, "x", "", &err), TL_EIO);
  assert_string_equal(err.message, "x: is not a regular file");
  assert_int_equal(model_add_safetensors(m, "/dev/zero", "x", "", &err), TL_EIO);
  tl_model_free(&m->model);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_reference_file),    cmocka_unit_test(test_truncated_at_every_byte),
      cmocka_unit_test(test_every_byte_changed), cmocka_unit_test(test_headers),
      cmocka_unit_test(test_header_lengths),    cmocka_unit_test(test_deep_nesting),
      cmocka_unit_test(test_names),             cmocka_unit_test(test_no_file),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
