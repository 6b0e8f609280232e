/* SPDX-License-Identifier: MIT */
/* Files that the `gguf` package wrote (tests/golden/make_gguf.py), and what can be
 * wrong with one. */
#include "gguf_unit.h"
#include "model/model_private.h"

#define UNIT_FILE "x.gguf"
#include "one_file.h"

static const char *golden_path(const char *name) {
  static char full[1024];
  char file[200];
  snprintf(file, sizeof file, "gguf/%s", name);
  return unit_golden_path(file, full);
}

static struct model *open_model(const char *at, struct tl_error *err) {
  struct model *m = calloc(1, sizeof *m);
  tl_arena_init(&m->arena, 0);
  memset(err, 0, sizeof *err);
  int r = gguf_add_files(m, at, err);
  assert_int_equal(err->code, r);
  if (r == TL_OK) return m;
  tl_model_free(&m->model);
  return NULL;
}

static const struct tl_tensor *tensor(const struct model *m, const char *name) {
  int32_t i = model_find_tensor(m, name);
  if (i < 0) fail_msg("no tensor %s", name);
  return &m->tensors[i];
}

/* --- what the package wrote ------------------------------------------------------------------ */

static void test_formats(void **state) {
  (void)state;
  struct tl_error err;
  struct model *m = open_model(golden_path("formats.gguf"), &err);
  assert_non_null(m);
  for (enum tl_dtype dtype = TL_DTYPE_Q4_0; dtype <= TL_DTYPE_MXFP4; dtype++) {
    char values_name[32];
    snprintf(values_name, sizeof values_name, "%s.values", tl_dtype_name(dtype));
    const struct tl_tensor *t = tensor(m, tl_dtype_name(dtype)), *values = tensor(m, values_name);
    assert_int_equal(t->dtype, dtype);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->shape[0], 2);
    assert_int_equal(t->shape[1], 512);
    assert_int_equal(values->dtype, TL_DTYPE_F32);
    for (unsigned row = 0; row < 2; row++) {
      float got[512], expected[512];
      tl_tensor_row_to_f32(t, row, got);
      tl_tensor_row_to_f32(values, row, expected);
      for (unsigned k = 0; k < 512; k++)
        if (got[k] != expected[k])
          fail_msg("%s: row %u, %u: %a, expected %a", t->name, row, k, (double)got[k], (double)expected[k]);
    }
  }
  tl_model_free(&m->model);
}

static void test_metadata(void **state) {
  (void)state;
  struct tl_error err = {0};
  struct tl_gguf *g;
  struct tl_gguf_list list;
  assert_int_equal(tl_gguf_open(golden_path("formats.gguf"), &g, &err), TL_OK);
  int64_t whole;
  double number;
  const char *text;
  size_t length;
  assert_true(tl_gguf_integer(g, "test.u32", &whole) && whole == 7);
  assert_true(tl_gguf_integer(g, "test.i32", &whole) && whole == -7);
  assert_true(tl_gguf_integer(g, "test.bool", &whole) && whole == 1);
  assert_true(tl_gguf_number(g, "test.f32", &number) && number == 0.25);
  assert_true(tl_gguf_number(g, "test.i32", &number) && number == -7);
  assert_false(tl_gguf_integer(g, "test.f32", &whole));
  assert_false(tl_gguf_integer(g, "test.text", &whole));
  assert_false(tl_gguf_integer(g, "test.texts", &whole));
  assert_false(tl_gguf_integer(g, "test.u3", &whole));
  assert_true(tl_gguf_text(g, "test.text", &text, &length));
  assert_int_equal(length, 7);
  assert_memory_equal(text, "Gr\xc3\xbc\xc3\x9f" "e", 7);
  assert_false(tl_gguf_text(g, "test.u32", &text, &length));
  static const char *const texts[] = {"a", "", "bc"};
  assert_true(tl_gguf_list(g, "test.texts", &list));
  assert_int_equal(list.n_left, 3);
  assert_false(tl_gguf_next_number(&list, &number));
  for (unsigned i = 0; i < 3; i++) {
    assert_true(tl_gguf_next_text(&list, &text, &length));
    assert_int_equal(length, strlen(texts[i]));
    assert_memory_equal(text, texts[i], length);
  }
  assert_false(tl_gguf_next_text(&list, &text, &length));
  assert_true(tl_gguf_list(g, "test.numbers", &list));
  for (unsigned i = 0; i < 3; i++) {
    assert_true(tl_gguf_next_number(&list, &number));
    assert_true(number == (i == 0 ? 1 : i == 1 ? -2 : 3));
  }
  assert_false(tl_gguf_next_number(&list, &number));
  assert_false(tl_gguf_list(g, "test.text", &list));
  tl_gguf_close(g);
}

static void check_sizes(const struct tl_model *m, uint32_t dim, uint32_t layers, uint32_t head_dim, uint32_t vocab) {
  assert_int_equal(m->dim, dim);
  assert_int_equal(m->n_layers, layers);
  assert_int_equal(m->head_dim, head_dim);
  assert_int_equal(m->vocab_size, vocab);
  assert_int_equal(m->max_context, 512);
  assert_int_equal(m->n_eos, 1);
  assert_int_equal(m->eos[0], 2);
  assert_string_equal(m->architecture, "llama");
}

static void test_models(void **state) {
  (void)state;
  struct tl_error err = {0};
  struct tl_model *m;
  if (tl_model_load(golden_path("mixed.gguf"), &m, &err) < 0) fail_msg("%s", err.message);
  check_sizes(m, 256, 2, 64, 256);
  assert_true(tl_quant_format(m->weight_dtype));
  assert_int_equal(m->dtype, TL_DTYPE_F16);
  /* the output is the embedding's matrix */
  assert_int_equal(m->plan[m->n_ops - 1].weight[0], m->plan[0].weight[0]);
  tl_model_free(m);
  if (tl_model_load(golden_path("llama_f32_odd.gguf"), &m, &err) < 0) fail_msg("%s", err.message);
  check_sizes(m, 35, 2, 24, 211);
  assert_int_equal(m->dtype, TL_DTYPE_F32);
  assert_true(m->plan[2].bias[0] >= 0);
  tl_model_free(m);
  if (tl_model_load(golden_path("llama_f16_sharded-00001-of-00002.gguf"), &m, &err) < 0) fail_msg("%s", err.message);
  check_sizes(m, 64, 2, 16, 300);
  assert_int_equal(m->dtype, TL_DTYPE_F16);
  tl_model_free(m);
  if (tl_model_load_config(golden_path("mixed.gguf"), &m, &err) < 0) fail_msg("%s", err.message);
  check_sizes(m, 256, 2, 64, 256);
  assert_int_equal(m->n_tensors, 0);
  tl_model_free(m);
  assert_int_equal(tl_model_load(golden_path("llama_f16_sharded-00002-of-00002.gguf"), &m, &err), TL_ECORRUPT);
  assert_non_null(strstr(err.message, "expected the path of the first, which ends in -00001-of-00002.gguf"));
}

/* --- what can be wrong ---------------------------------------------------------------------------- */

static char *read_golden(const char *name, size_t *ret_length) {
  char file_name[100];
  snprintf(file_name, sizeof file_name, "gguf/%s", name);
  FILE *file = unit_open_golden(file_name);
  fseek(file, 0, SEEK_END);
  *ret_length = (size_t)ftell(file);
  rewind(file);
  char *bytes = malloc(*ret_length);
  assert_int_equal(fread(bytes, 1, *ret_length, file), *ret_length);
  fclose(file);
  return bytes;
}

/* A message names the file, and not where it lies. */
static void refused(const void *bytes, size_t length, const char *what) {
  unit_write_file(folder, "x.gguf", bytes, length);
  struct tl_error err;
  struct model *m = open_model(path, &err);
  if (m) fail_msg("%zu bytes were taken: %s", length, what);
  if (!strstr(err.message, "x.gguf") || strstr(err.message, folder) || !strstr(err.message, what))
    fail_msg("'%s': expected '%s'", err.message, what);
}

/* At each byte of what is before the data, and at some of the data. */
static void test_truncated(void **state) {
  (void)state;
  size_t length;
  char *bytes = read_golden("formats.gguf", &length);
  for (size_t n = 0; n < length; n += n < 3000 ? 1 : 509) refused(bytes, n, "");
  refused(bytes, length - 33, "lies outside the file");
  free(bytes);
}

/* Each byte before the data changed: refused, or all within the file. */
static void test_changed(void **state) {
  (void)state;
  size_t length;
  char *bytes = read_golden("formats.gguf", &length);
  for (size_t i = 0; i < 3000; i += UNIT_SLOWDOWN)
    for (unsigned k = 0; k < 3; k++) {
      char before = bytes[i];
      bytes[i] = (char)(k == 0 ? 0xff : k == 1 ? 0 : before ^ 0x10);
      unit_write_file(folder, "x.gguf", bytes, length);
      struct tl_error err;
      struct model *m = open_model(path, &err);
      for (uint32_t t = 0; m && t < m->n_tensors; t++) {
        const char *begin = m->files[0].data, *data = m->tensors[t].data;
        assert_true(data >= begin && m->tensors[t].bytes <= m->files[0].bytes - (size_t)(data - begin));
      }
      if (m) tl_model_free(&m->model);
      bytes[i] = before;
    }
  free(bytes);
}

static void test_wrong_counts(void **state) {
  (void)state;
  struct tl_buffer b;
  put_header(&b, 3, UINT64_MAX, 0);
  refused(b.data, b.length, "more tensors than the file can hold");
  tl_buffer_done(&b);
  put_header(&b, 3, 0, UINT64_MAX);
  refused(b.data, b.length, "more keys than the file can hold");
  tl_buffer_done(&b);
  put_header(&b, 2, 0, 1);
  put_text(&b, "list");
  put_number(&b, 9, 4);
  put_number(&b, 8, 4);
  put_number(&b, UINT64_MAX, 8);
  refused(b.data, b.length, "key 'list'");
  tl_buffer_done(&b);
  put_header(&b, 3, 0, 1);
  put_text(&b, "list");
  for (unsigned i = 0; i < 10; i++) {
    put_number(&b, 9, 4);
    if (i) put_number(&b, 1, 8);
  }
  refused(b.data, b.length, "key 'list'");
  tl_buffer_done(&b);
  put_header(&b, 1, 0, 0);
  refused(b.data, b.length, "version 1 is not known");
  tl_buffer_done(&b);
  put_header(&b, 0x03000000, 0, 0);
  refused(b.data, b.length, "big-endian");
  tl_buffer_done(&b);
  put_header(&b, 3, 0, 2);
  put_u32(&b, "twice", 1);
  put_u32(&b, "twice", 2);
  refused(b.data, b.length, "key 'twice' is there twice");
  tl_buffer_done(&b);
  put_header(&b, 3, 0, 1);
  put_u32(&b, "general.alignment", 24);
  refused(b.data, b.length, "general.alignment");
  tl_buffer_done(&b);
  refused("GGUX1234567890123456", 20, "is not a GGUF file");
}

static void test_wrong_tensors(void **state) {
  (void)state;
  static const struct {
    const char *name;
    uint64_t slow, fast;
    uint32_t type;
    uint64_t offset;
    const char *message;
  } second[] = {
      {"a", 2, 8, 0, 64, "tensor 'a': is there twice"},
      {"b", 2, 8, 0, 32, "tensor 'b': overlaps another tensor"},
      {"b", 2, 8, 0, 100, "tensor 'b': its offset is not aligned"},
      {"b", 2, 9, 0, 96, "tensor 'b': lies outside the file"},
      {"b", 2, 8, 0, UINT64_MAX - 31, "tensor 'b': lies outside the file"},
      {"b", 1ull << 32, 1ull << 32, 0, 64, "tensor 'b': its shape is too large"},
      {"b", 1ull << 31, 1ull << 31, 0, 64, "tensor 'b': its shape is too large"},
      {"b", 1, 33, 2, 64, "tensor 'b': its rows are not whole blocks"},
      {"b", 1, 128, 12, 64, "tensor 'b': its rows are not whole blocks"},
      {"b", 1, 32, 4, 64, "tensor 'b': number format 4 is not supported"},
      {"b", 1, 32, 1000, 64, "tensor 'b': number format 1000 is not supported"},
      {"", 1, 32, 0, 64, "a tensor's name is not"},
  };
  for (unsigned i = 0; i < UNIT_COUNT(second); i++) {
    struct tl_buffer b;
    put_header(&b, 3, 2, 0);
    put_tensor(&b, "a", 2, 8, 0, 0);
    put_tensor(&b, second[i].name, second[i].slow, second[i].fast, second[i].type, second[i].offset);
    put_data(&b, 160);
    refused(b.data, b.length, second[i].message);
    tl_buffer_done(&b);
  }
}

/* A llama of one layer but for what is wrong with its metadata. */
static void test_wrong_models(void **state) {
  (void)state;
  static const struct {
    const char *architecture, *key;
    uint32_t value;
    const char *message;
  } cases[] = {
      {"llama", "llama.head_count_nobody_reads", 1, "tensor 'token_embd.weight' is missing"},
      {"lama", "a", 1, "general.architecture: 'lama' is not known; `tokenlane models --supported` lists"},
      {"llama", "llama.attention.key_length", 7, "llama.attention.key_length: expected"},
      {"llama", "llama.expert_count", 8, "metadata: expert_used_count: expected 1 to the number of experts"},
      {"llama", "llama.expert_count", 1025, "llama.expert_count: expected an integer from 0 to 1024"},
      {"llama", "llama.rope.dimension_count", 2, "rotating a part of a head"},
      {"llama", "llama.attention.head_count_kv", 3, "num_key_value_heads"},
  };
  static const char *const sizes[] = {"embedding_length",     "feed_forward_length", "block_count",
                                      "attention.head_count", "context_length",      "vocab_size"};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_buffer b;
    put_header(&b, 3, 0, 9);
    put_string(&b, "general.architecture", cases[i].architecture);
    for (unsigned k = 0; k < UNIT_COUNT(sizes); k++) {
      char key[100];
      snprintf(key, sizeof key, "llama.%s", sizes[k]);
      put_u32(&b, key, k == 3 ? 2 : 8);
    }
    put_text(&b, "llama.attention.layer_norm_rms_epsilon");
    put_number(&b, 6, 4);
    put_number(&b, 0x3727c5ac, 4);
    put_u32(&b, cases[i].key, i == 2 ? 100000 : cases[i].value);
    unit_write_file(folder, "x.gguf", b.data, b.length);
    tl_buffer_done(&b);
    struct tl_error err = {0};
    struct tl_model *m;
    assert_true(tl_model_load(path, &m, &err) < 0);
    if (!strstr(err.message, cases[i].message)) fail_msg("'%s': expected '%s'", err.message, cases[i].message);
  }
}

/* A file that gets shorter while it is read gives zeros and an error, and no signal. */
static void test_shrinks(void **state) {
  (void)state;
  size_t length;
  char *bytes = read_golden("formats.gguf", &length);
  unit_write_file(folder, "x.gguf", bytes, length);
  free(bytes);
  struct tl_error err;
  struct model *m = open_model(path, &err);
  assert_non_null(m);
  assert_int_equal(tl_model_check_files(&m->model, &err), TL_OK);
  assert_int_equal(truncate(path, 16384), 0);
  const struct tl_tensor *t = tensor(m, "source");
  float row[256];
  tl_tensor_row_to_f32(t, 3, row);
  for (unsigned k = 0; k < 256; k++) assert_true(row[k] == 0);
  float two[512];
  tl_tensor_row_to_f32(tensor(m, "Q4_0"), 0, two);
  assert_int_equal(tl_model_check_files(&m->model, &err), TL_EIO);
  assert_string_equal(err.message, "x.gguf: the file was truncated while it was read");
  tl_model_free(&m->model);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_formats),     cmocka_unit_test(test_metadata),      cmocka_unit_test(test_models),
      cmocka_unit_test(test_truncated),   cmocka_unit_test(test_changed),       cmocka_unit_test(test_wrong_counts),
      cmocka_unit_test(test_wrong_tensors), cmocka_unit_test(test_wrong_models), cmocka_unit_test(test_shrinks),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
