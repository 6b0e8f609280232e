/* SPDX-License-Identifier: MIT */
/* Any bytes as the text of an answer; the first two say in which format thoughts are looked for, how the answer begins and how the text is cut.
 * Cuts change nothing, and nothing comes out that was not there, but for line breaks between messages. */
#include "api/reasoning_parse.h"
#include "fuzz_target.h"

/* thoughts|rest */
static void parse(const struct api_reasoning_format *format, uint8_t how, const char *text, size_t length, size_t piece, struct tl_buffer *out) {
  struct api_reasoning_parser parser;
  struct tl_buffer thoughts, rest;
  tl_buffer_init(&thoughts, 0);
  tl_buffer_init(&rest, 0);
  api_reasoning_parser_init(&parser, format, (enum api_reasoning_start)(how / 4 % 3), how & 1, how & 2);
  for (size_t at = 0; at < length; at += piece)
    check(api_reasoning_parser_push(&parser, text + at, at + piece < length ? piece : length - at, &thoughts, &rest) == TL_OK, "push");
  check(api_reasoning_parser_finish(&parser, &thoughts, &rest) == TL_OK, "finish");
  check(thoughts.length + rest.length <= length, "more comes out than went in");
  tl_buffer_append(out, thoughts.data, thoughts.length);
  tl_buffer_putc(out, '|');
  tl_buffer_append(out, rest.data, rest.length);
  api_reasoning_parser_done(&parser);
  tl_buffer_done(&thoughts);
  tl_buffer_done(&rest);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const struct api_reasoning_format *const formats[] = {&api_reasoning_think_format, &api_reasoning_mistral_format,
                                                               &api_reasoning_granite_format, &api_reasoning_harmony_format};
  if (size < 3) return 0;
  const struct api_reasoning_format *format = formats[data[0] % 4];
  const char *text = (const char *)data + 2;
  struct tl_buffer once, cut;
  tl_buffer_init(&once, 0);
  tl_buffer_init(&cut, 0);
  parse(format, data[1], text, size - 2, size - 2, &once);
  parse(format, data[1], text, size - 2, 1 + data[0] / 4 % 5, &cut);
  check(once.length == cut.length && memcmp(once.data, cut.data, once.length) == 0, "cuts change what comes out");
  tl_buffer_done(&once);
  tl_buffer_done(&cut);
  return 0;
}
