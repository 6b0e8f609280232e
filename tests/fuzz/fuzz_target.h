/* SPDX-License-Identifier: MIT */
/* What all targets share. Built with libFuzzer by `make fuzz`; with the main function below, which replays files, by `make check`. */
#ifndef FUZZ_TARGET_H
#define FUZZ_TARGET_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void check(int condition, const char *what) {
  if (condition) return;
  fprintf(stderr, "fuzz: %s\n", what);
  abort();
}

#ifdef REPLAY
int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    FILE *file = fopen(argv[i], "rb");
    if (!file) return perror(argv[i]), 1;
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    rewind(file);
    uint8_t *data = malloc(size + 1);
    if (!data || fread(data, 1, size, file) != size) return perror(argv[i]), 1;
    fclose(file);
    LLVMFuzzerTestOneInput(data, size);
    free(data);
  }
  printf("  FUZZ  %d files of the corpus replayed\n", argc - 1);
  return argc > 1 ? 0 : 1;
}
#endif

#endif
