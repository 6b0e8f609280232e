/* SPDX-License-Identifier: MIT */
/* How models with byte-level BPE split text, by the names that GGUF's tokenizer.ggml.pre has for them. */
#ifndef TEXT_SPLIT_PATTERNS_H
#define TEXT_SPLIT_PATTERNS_H

#include <stdbool.h>

#define SPLIT_MAX 6

struct split_kind {
  const char *name;
  const char *const *patterns; /* (SPLIT_MAX) one after the other, each isolates; NULL: no more */
  bool ignore_merges;          /* a piece that is a token stays whole */
  bool begins;                 /* with BOS, unless the file says otherwise */
};

extern const char split_gpt2[];
/* NULL: there is no such kind. */
const struct split_kind *split_kind_find(const char *name);

#endif
