/* SPDX-License-Identifier: MIT */
/* What stands between the quotes of a JSON string (RFC 8259): UTF-8 without control characters, and escapes, whose
 * surrogates come in pairs. An automaton of 20 states. */
#include <string.h>

#include "grammar/grammar_private.h"

enum {
  TEXT = GR_BODY,
  ESCAPE,                 /* after \ */
  U,                      /* after \u: four digits to come, */
  U3, U2, U1,             /* three, two, one */
  U_D,                    /* after \uD */
  HIGH2, HIGH1,           /* within a high surrogate: digits to come */
  LOW_ESCAPE, LOW_U,      /* behind it: \, then u, */
  LOW_D, LOW_HALF,        /* then D, then C to F, then two digits */
  MORE1, MORE2, MORE3,    /* bytes of a character to come */
  AFTER_E0, AFTER_ED, AFTER_F0, AFTER_F4, /* whose second byte has bounds of its own (Unicode 15, table 3-7) */
};
_Static_assert(AFTER_F4 + 1 == GR_BODIES, "all of them");

static void fill(uint8_t *next, unsigned first, unsigned last, uint8_t to) {
  for (unsigned byte = first; byte <= last; byte++) next[byte] = to;
}

static void fill_hex(uint8_t *next, uint8_t to) {
  fill(next, '0', '9', to);
  fill(next, 'A', 'F', to);
  fill(next, 'a', 'f', to);
}

static void fill_text(uint8_t *next) {
  fill(next, 0x20, 0x7f, TEXT);
  next['"'] = GR_DEAD;
  next['\\'] = ESCAPE;
  fill(next, 0xc2, 0xdf, MORE1);
  fill(next, 0xe0, 0xef, MORE2);
  next[0xe0] = AFTER_E0;
  next[0xed] = AFTER_ED;
  fill(next, 0xf0, 0xf4, MORE3);
  next[0xf0] = AFTER_F0;
  next[0xf4] = AFTER_F4;
}

static void fill_escape(uint8_t next[GR_BODIES][256]) {
  for (const char *simple = "\"\\/bfnrt"; *simple; simple++) next[ESCAPE][(uint8_t)*simple] = TEXT;
  next[ESCAPE]['u'] = U;
  fill_hex(next[U], U3);
  next[U]['d'] = next[U]['D'] = U_D;
  fill_hex(next[U3], U2);
  fill_hex(next[U2], U1);
  fill_hex(next[U1], TEXT);
  fill(next[U_D], '0', '7', U2);
  fill(next[U_D], '8', '9', HIGH2);
  fill(next[U_D], 'A', 'B', HIGH2);
  fill(next[U_D], 'a', 'b', HIGH2);
  fill_hex(next[HIGH2], HIGH1);
  fill_hex(next[HIGH1], LOW_ESCAPE);
  next[LOW_ESCAPE]['\\'] = LOW_U;
  next[LOW_U]['u'] = LOW_D;
  next[LOW_D]['d'] = next[LOW_D]['D'] = LOW_HALF;
  fill(next[LOW_HALF], 'C', 'F', U2);
  fill(next[LOW_HALF], 'c', 'f', U2);
}

void gr_body_fill(uint8_t next[GR_BODIES][256]) {
  memset(next, GR_DEAD, GR_BODIES * sizeof *next);
  fill_text(next[TEXT]);
  fill_escape(next);
  fill(next[MORE1], 0x80, 0xbf, TEXT);
  fill(next[MORE2], 0x80, 0xbf, MORE1);
  fill(next[MORE3], 0x80, 0xbf, MORE2);
  fill(next[AFTER_E0], 0xa0, 0xbf, MORE1);
  fill(next[AFTER_ED], 0x80, 0x9f, MORE1);
  fill(next[AFTER_F0], 0x90, 0xbf, MORE2);
  fill(next[AFTER_F4], 0x80, 0x8f, MORE2);
}
