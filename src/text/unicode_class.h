/* SPDX-License-Identifier: MIT */
/* Character classes as the `tokenizers` library has them (see tests/golden/make_classes.py). */
#ifndef TEXT_UNICODE_CLASS_H
#define TEXT_UNICODE_CLASS_H

#include <stdbool.h>
#include <stdint.h>

/* Letters, marks, digits, connectors: what a single_word token may not touch, what Whitespace keeps together. */
bool unicode_is_word(uint32_t code);
/* Punctuation and BertPreTokenizer. */
bool unicode_is_punctuation(uint32_t code);
/* Digits. */
bool unicode_is_numeric(uint32_t code);
/* StripAccents. */
bool unicode_is_mark(uint32_t code);
/* BertNormalizer with strip_accents. */
bool unicode_is_nonspacing(uint32_t code);
/* BertNormalizer with clean_text. */
bool unicode_is_control(uint32_t code);
/* Marks that canonical ordering moves. */
bool unicode_is_ordered(uint32_t code);
/* Characters that NFKD changes. */
bool unicode_is_compatible(uint32_t code);
/* Characters that NFD changes, Hangul syllables left out. */
bool unicode_is_canonical(uint32_t code);
/* The lower case, where it is one character; U+0130's is two. */
uint32_t unicode_lower(uint32_t code);

#endif
