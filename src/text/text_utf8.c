/* SPDX-License-Identifier: MIT */
#include "text/text_utf8.h"

#include "tokenlane/base/utf8.h"

bool text_is_white(uint32_t code) {
  return (code >= 9 && code <= 13) || code == 32 || code == 0x85 || code == 0xa0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f ||
         code == 0x205f || code == 0x3000;
}

/* How many bytes of the ill-formed text at `s` one U+FFFD stands for: as many
 * as begin some well-formed character, at least one. */
static size_t subpart(const unsigned char *s, size_t length) {
  unsigned char low = 0x80, high = 0xbf;
  size_t most = s[0] >= 0xf0 && s[0] <= 0xf4 ? 3 : s[0] >= 0xe0 && s[0] <= 0xef ? 2 : 1;
  if (s[0] == 0xe0) low = 0xa0;
  if (s[0] == 0xed) high = 0x9f;
  if (s[0] == 0xf0) low = 0x90;
  if (s[0] == 0xf4) high = 0x8f;
  size_t n = 1;
  for (; n < most && n < length && s[n] >= low && s[n] <= high; n++) {
    low = 0x80;
    high = 0xbf;
  }
  return n;
}

void text_append_lossy(const char *bytes, size_t length, struct tl_buffer *out) {
  size_t begin = 0, i = 0;
  while (i < length) {
    uint32_t code;
    size_t n = tl_utf8_decode(bytes + i, length - i, &code);
    if (n == 0) {
      tl_buffer_append(out, bytes + begin, i - begin);
      tl_buffer_puts(out, "\xef\xbf\xbd");
      n = subpart((const unsigned char *)bytes + i, length - i);
      begin = i + n;
    }
    i += n;
  }
  tl_buffer_append(out, bytes + begin, i - begin);
}

size_t text_append_whole(const char *bytes, size_t length, struct tl_buffer *out) {
  size_t tail = tl_utf8_incomplete_tail(bytes, length);
  text_append_lossy(bytes, length - tail, out);
  return tail;
}
