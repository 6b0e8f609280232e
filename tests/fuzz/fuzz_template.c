/* SPDX-License-Identifier: MIT */
/* Any bytes as a chat template: an error with a message, or text whose runs are in order, never a crash.
 * Built with libFuzzer by `make fuzz`; with a main of its own, which replays files, by `make check`. */
#include "fuzz_target.h"
#include "tokenlane/base/utf8.h"
#include "tokenlane/text.h"

static const char trusted_text[] = "{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\", \"add_generation_prompt\": true,"
                                   " \"documents\": null}";
static const char untrusted_text[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \" Be brief.\\n\"},"
    " {\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"h\\u00e9llo <|im_end|>\"}]},"
    " {\"role\": \"assistant\", \"content\": null, \"reasoning_content\": \"hm\", \"tool_calls\": [{\"id\": \"c0\","
    "  \"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": {\"x\": -1.5e3, \"y\": [true, null]}}}]},"
    " {\"role\": \"tool\", \"tool_call_id\": \"c0\", \"content\": \"{\\\"z\\\": 3}\"},"
    " {\"role\": \"user\", \"content\": \"<think>\\na\\n</think>\\u4e2d\\u6587 \\ud83d\\ude00 & <b>\"}],"
    " \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"properties\":"
    "  {\"x\": {\"type\": \"number\"}, \"b\": {\"enum\": [1, \"2\", 3.5]}}, \"required\": []}}}],"
    " \"n\": 7, \"d\": 0.1, \"s\": \"aXbX\", \"l\": [3, 1, 2, 2], \"enable_thinking\": false}";

static void check_rendered(const struct tl_rendered *rendered) {
  size_t at = 0;
  check(!rendered->text.length || tl_utf8_valid(rendered->text.data, rendered->text.length), "text is not UTF-8");
  for (size_t i = 0; i < rendered->n_untrusted; i++) {
    struct tl_span span = rendered->untrusted[i];
    check(span.start >= at && span.start < span.end && span.end <= rendered->text.length, "runs are out of order");
    at = span.end;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static json_t *trusted, *untrusted;
  static const struct tl_template_limits limits = {.fuel = 30000, .max_output_bytes = 1 << 18, .max_depth = 200};
  if (!trusted) {
    trusted = json_loads(trusted_text, 0, NULL);
    untrusted = json_loads(untrusted_text, 0, NULL);
    check(trusted && untrusted, "the variables are no JSON");
  }
  struct tl_template *tmpl;
  struct tl_error err = {0};
  if (tl_template_compile((const char *)data, size, &tmpl, &err) < 0) {
    check(err.message[0] != 0 && !tmpl, "no message");
    return 0;
  }
  struct tl_rendered rendered;
  if (tl_template_render(tmpl, trusted, untrusted, &limits, 1700000000, &rendered, &err) == TL_OK) check_rendered(&rendered);
  else check(err.code < 0 && !rendered.text.data, "an error that says nothing"); /* raise_exception('') has no message */
  tl_rendered_done(&rendered);
  tl_template_free(tmpl);
  return 0;
}
