/* SPDX-License-Identifier: MIT */
/* What every unit test includes: cmocka in the order that it wants, and a few
 * things that several tests need. */
#ifndef UNIT_H
#define UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Sanitizers slow threads and memory down by 3 to 20: loops are cut by this. */
#if defined(__SANITIZE_THREAD__)
#define UNIT_SLOWDOWN 8
#elif defined(__SANITIZE_ADDRESS__)
#define UNIT_SLOWDOWN 3
#else
#define UNIT_SLOWDOWN 1
#endif

#define UNIT_COUNT(array) (sizeof(array) / sizeof *(array))

/* Reproducible random numbers (xorshift64*, Vigna 2016). The state is not 0. */
static inline uint64_t unit_random(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * 0x2545f4914f6cdd1du;
}

static inline uint32_t unit_below(uint64_t *state, uint32_t limit) {
  return (uint32_t)((unit_random(state) >> 32) * limit >> 32);
}

/* Where a file or folder of tests/golden is, found from the root or by TL_TEST_GOLDEN; returns path. */
static inline const char *unit_golden_path(const char *name, char path[1024]) {
  const char *folder = getenv("TL_TEST_GOLDEN");
  snprintf(path, 1024, "%s/%s", folder ? folder : "tests/golden", name);
  return path;
}

static inline FILE *unit_open_golden(const char *name) {
  char path[1024];
  FILE *file = fopen(unit_golden_path(name, path), "rb");
  if (!file) fail_msg("%s cannot be opened", path);
  return file;
}

/* A new empty folder, in memory where the system has a place for that. */
static inline void unit_make_folder(char path[64]) {
  strcpy(path, "/dev/shm/tokenlane-test-XXXXXX");
  if (mkdtemp(path)) return;
  strcpy(path, "/tmp/tokenlane-test-XXXXXX");
  if (!mkdtemp(path)) fail_msg("mkdtemp failed");
}

/* These files of it, where they are there. */
static inline void unit_remove_files(const char *folder, const char *const *files, size_t n) {
  for (size_t i = 0; i < n; i++) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, files[i]);
    unlink(path);
  }
}

static inline void unit_write_file(const char *folder, const char *name, const void *bytes, size_t length) {
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(bytes, 1, length, file) != length || fclose(file) != 0) fail_msg("%s cannot be written", path);
}

#endif
