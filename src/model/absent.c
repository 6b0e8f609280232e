/* SPDX-License-Identifier: MIT */
/* Why a model's files cannot be what they should: what people have instead of them. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "model/model_private.h"

int tl_lfs_check(const char *path, const char *name, struct tl_error *err) {
  static const char begin[] = "version https://git-lfs.github.com/spec/";
  char text[sizeof begin] = "";
  FILE *file = fopen(path, "rb");
  size_t n = file ? fread(text, 1, sizeof begin - 1, file) : 0;
  if (file) fclose(file);
  if (n < sizeof begin - 1 || strcmp(text, begin) != 0) return TL_OK;
  return tl_error_set(err, TL_ECORRUPT, "model.path",
                      "%s: is a Git LFS pointer, not the file itself, which git lfs pull (or hf download) fetches", name);
}

static bool ends_in(const char *name, const char *end) {
  size_t n = strlen(name), n_end = strlen(end);
  return n > n_end && strcmp(name + n - n_end, end) == 0;
}

/* Of a file's name, how much it tells of why there are no weights; 0: nothing. */
static int telling(const char *name) {
  if (tl_gguf_is_path(name)) return 3;
  if (ends_in(name, ".safetensors")) return 2;
  return ends_in(name, ".bin") || ends_in(name, ".pth");
}

/* The file in the folder that tells most, its name in ret. */
static int most_telling(const char *folder, char ret[256]) {
  int most = 0, told;
  DIR *entries = opendir(folder);
  struct dirent *entry;
  while (entries && (entry = readdir(entries))) {
    if ((told = telling(entry->d_name)) <= most) continue;
    most = told;
    snprintf(ret, 256, "%s", entry->d_name);
  }
  if (entries) closedir(entries);
  return most;
}

int model_check_path(const char *path, struct tl_error *err) {
  static const char expected[] = "model.path: expected a folder with config.json in it or a .gguf file, got";
  struct stat status;
  if (stat(path, &status) != 0) return tl_error_set(err, TL_ENOTFOUND, "model.path", "%s %.200s: %s", expected, path, strerror(errno));
  if (tl_gguf_is_path(path) || S_ISDIR(status.st_mode)) return TL_OK;
  return tl_error_set(err, TL_EINVAL, "model.path", "%s %.200s", expected, path);
}

int model_absent(const char *folder, const char *file, struct tl_error *err) {
  char name[256];
  int told = most_telling(folder, name);
  if (told == 3) return tl_error_set(err, TL_ENOTFOUND, "model.path", "%s: is missing; to serve %.200s, name that file", file, name);
  if (told == 0 || !ends_in(file, ".safetensors")) return TL_OK;
  if (told == 1)
    return tl_error_set(err, TL_ENOTFOUND, "model.path", "%s: is missing; %.200s is not read, only safetensors and GGUF are", file, name);
  return tl_error_set(err, TL_ENOTFOUND, "model.path", "%s: is missing, and the %s.index.json that %.200s needs is, too", file, file, name);
}
