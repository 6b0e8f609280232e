/* SPDX-License-Identifier: MIT */
/* Search in the tables of unicode_class.c and unicode_script.c: ranges of characters in ascending order. */
#ifndef TEXT_UNICODE_SEARCH_H
#define TEXT_UNICODE_SEARCH_H

#include <stddef.h>
#include <stdint.h>

/* The first of n ranges that ends at code or later; n: none does. last: of the first range, where it ends; the next one's
 * is `words` numbers further. */
static inline size_t unicode_search(const uint32_t *last, size_t words, size_t n, uint32_t code) {
  size_t low = 0, high = n;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (last[middle * words] >= code)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

#endif
