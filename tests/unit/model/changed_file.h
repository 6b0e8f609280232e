/* SPDX-License-Identifier: MIT */
/* Golden files, whole and changed in one place. */
#ifndef CHANGED_FILE_H
#define CHANGED_FILE_H

#include "tokenlane/model.h"
#include "unit.h"

/* A golden model, as it is; the caller frees. */
static inline struct tl_model *open_golden_model(const char *name) {
  char path[1024];
  struct tl_model *model;
  struct tl_error err = {0};
  if (tl_model_load(unit_golden_path(name, path), &model, &err) < 0) fail_msg("%s: %s", path, err.message);
  return model;
}

/* All bytes of a file, which is closed; the caller frees. */
static inline char *read_whole(FILE *input, size_t *ret_length) {
  char *bytes = malloc(1 << 20);
  *ret_length = fread(bytes, 1, 1 << 20, input);
  assert_true(*ret_length > 0 && *ret_length < 1 << 20);
  fclose(input);
  return bytes;
}

/* Writes the input, which is closed, as folder/file, with the first `from` in it as `to`; from NULL: as it is. False: `from` is
 * not in it. */
static inline bool copy_changed(FILE *input, const char *folder, const char *file, const char *from, const char *to) {
  size_t length;
  char *bytes = read_whole(input, &length), *at = from ? memmem(bytes, length, from, strlen(from)) : bytes;
  if (at) {
    size_t head = (size_t)(at - bytes), cut = from ? strlen(from) : 0, put = to ? strlen(to) : 0;
    char *changed = malloc(length + put);
    memcpy(changed, bytes, head);
    if (put) memcpy(changed + head, to, put);
    memcpy(changed + head + put, at + cut, length - head - cut);
    unit_write_file(folder, file, changed, length - cut + put);
    free(changed);
  }
  free(bytes);
  return at != NULL;
}

#endif
