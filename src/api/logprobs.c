/* SPDX-License-Identifier: MIT */
/* Log-probabilities in the shapes of OpenAI's API; those of /v1/responses are chat's. */
#include <string.h>

#include "api/api_private.h"
#include "tokenlane/base/utf8.h"

static const char *token_bytes(const struct api_choice *choice, int32_t id, size_t *ret_length) {
  const char *bytes = tl_tokenizer_bytes(choice->call->work.serving->tokenizer, id, ret_length);
  if (!bytes) *ret_length = 0;
  return bytes ? bytes : "";
}

static bool as_id(const struct api_choice *choice, int32_t id, struct tl_buffer *out) {
  if (choice->call->params.return_tokens_as_token_ids) tl_buffer_printf(out, "\"token_id:%d\"", id);
  return choice->call->params.return_tokens_as_token_ids;
}

/* A token that is no whole characters is written as "bytes:\xe2\x96", which is
 * how OpenAI's completions keep such tokens apart. */
static void token_name(const struct api_choice *choice, int32_t id, struct tl_buffer *out) {
  if (as_id(choice, id, out)) return;
  size_t length;
  const char *bytes = token_bytes(choice, id, &length);
  if (tl_utf8_valid(bytes, length)) {
    api_json_string(out, bytes, length);
    return;
  }
  tl_buffer_puts(out, "\"bytes:");
  for (size_t i = 0; i < length; i++) tl_buffer_printf(out, "\\\\x%02x", (unsigned char)bytes[i]);
  tl_buffer_putc(out, '"');
}

/* --- chat --------------------------------------------------------------------------- */

static void chat_token(const struct api_choice *choice, int32_t id, double logprob, struct tl_buffer *out) {
  size_t length;
  const char *bytes = token_bytes(choice, id, &length);
  tl_buffer_puts(out, "{\"token\":");
  if (!as_id(choice, id, out)) api_json_string(out, bytes, length);
  tl_buffer_puts(out, ",\"logprob\":");
  api_json_number(out, logprob);
  tl_buffer_puts(out, ",\"bytes\":[");
  for (size_t i = 0; i < length; i++) tl_buffer_printf(out, "%s%u", i ? "," : "", (unsigned char)bytes[i]);
  tl_buffer_putc(out, ']');
}

/* Of the alternatives that the engine gave, those that were asked for: the prompt's may have been more. */
static int32_t n_top(const struct api_choice *choice, uint32_t i, int64_t wanted) {
  int32_t n = choice->seq->logprobs[i].n_top;
  return n > wanted ? (int32_t)wanted : n;
}

void api_token_logprobs(const struct api_choice *choice, uint32_t from, uint32_t to, struct tl_buffer *out) {
  uint32_t n_prompt = choice->seq->n_prompt;
  bool first = true;
  for (uint32_t i = from; i < to; i++) {
    const struct tl_logprobs *l = &choice->seq->logprobs[i];
    if (i >= n_prompt && !api_shown_any(choice, i - n_prompt, i - n_prompt + 1)) continue;
    if (!first) tl_buffer_putc(out, ',');
    first = false;
    chat_token(choice, choice->seq->tokens[i], (double)l->logprob, out);
    tl_buffer_puts(out, ",\"top_logprobs\":[");
    for (int32_t k = 0; k < n_top(choice, i, choice->call->params.n_top_logprobs); k++) {
      if (k) tl_buffer_putc(out, ',');
      chat_token(choice, l->top_tokens[k], (double)l->top_logprobs[k], out);
      tl_buffer_putc(out, '}');
    }
    tl_buffer_puts(out, "]}");
  }
}

static void chat_logprobs(const struct api_choice *choice, uint32_t from, uint32_t to, struct tl_buffer *out) {
  tl_buffer_puts(out, "{\"content\":[");
  api_token_logprobs(choice, from, to, out);
  tl_buffer_puts(out, "],\"refusal\":null}");
}

/* --- completions --------------------------------------------------------------------- */

static void one_pair(const struct api_choice *choice, int32_t id, double logprob, bool first, struct tl_buffer *out) {
  if (!first) tl_buffer_putc(out, ',');
  token_name(choice, id, out);
  tl_buffer_putc(out, ':');
  api_json_number(out, logprob);
}

/* Token 0 of a prompt has nothing before it: its entries are null. The token that
 * came is always among them, so there may be one more than was asked for. */
static void one_top(const struct api_choice *choice, uint32_t i, struct tl_buffer *out) {
  const struct tl_logprobs *l = &choice->seq->logprobs[i];
  if (i == 0) {
    tl_buffer_puts(out, "null");
    return;
  }
  int32_t came = choice->seq->tokens[i], n = n_top(choice, i, choice->call->params.n_top_logprobs);
  bool among = false;
  tl_buffer_putc(out, '{');
  for (int32_t k = 0; k < n; k++) {
    one_pair(choice, l->top_tokens[k], (double)l->top_logprobs[k], k == 0, out);
    among = among || l->top_tokens[k] == came;
  }
  if (!among) one_pair(choice, came, (double)l->logprob, n == 0, out);
  tl_buffer_putc(out, '}');
}

static uint32_t count_characters(const char *bytes, size_t length) {
  uint32_t n = 0;
  for (size_t i = 0; i < length; i++) n += ((unsigned char)bytes[i] & 0xc0) != 0x80;
  return n;
}

static void text_offsets(struct api_choice *choice, uint32_t from, uint32_t to, struct tl_buffer *out) {
  for (uint32_t i = from; i < to; i++) {
    tl_buffer_printf(out, "%s%u", i > from ? "," : "", choice->text_offset);
    size_t length;
    int32_t id = choice->seq->tokens[i];
    const char *bytes = token_bytes(choice, id, &length);
    /* neither what the post-processor put before a text nor, unless asked for, a generated special token is in the text */
    const struct api_prompt *prompt = &choice->call->prompts[choice->prompt];
    bool silent = i < choice->seq->n_prompt ? i < prompt->n_before
                                            : choice->detok.skip_special && tl_tokenizer_is_special(choice->detok.tokenizer, id);
    if (!silent) choice->text_offset += count_characters(bytes, length);
  }
}

static void completion_logprobs(struct api_choice *choice, uint32_t from, uint32_t to, struct tl_buffer *out) {
  const struct tl_sequence *seq = choice->seq;
  tl_buffer_puts(out, "{\"tokens\":[");
  for (uint32_t i = from; i < to; i++) {
    if (i > from) tl_buffer_putc(out, ',');
    token_name(choice, seq->tokens[i], out);
  }
  tl_buffer_puts(out, "],\"token_logprobs\":[");
  for (uint32_t i = from; i < to; i++) {
    if (i > from) tl_buffer_putc(out, ',');
    if (i == 0)
      tl_buffer_puts(out, "null");
    else
      api_json_number(out, (double)seq->logprobs[i].logprob);
  }
  tl_buffer_puts(out, "],\"top_logprobs\":");
  if (choice->call->params.n_top_logprobs > 0) {
    tl_buffer_putc(out, '[');
    for (uint32_t i = from; i < to; i++) {
      if (i > from) tl_buffer_putc(out, ',');
      one_top(choice, i, out);
    }
    tl_buffer_putc(out, ']');
  } else {
    tl_buffer_puts(out, "null");
  }
  tl_buffer_puts(out, ",\"text_offset\":[");
  text_offsets(choice, from, to, out);
  tl_buffer_puts(out, "]}");
}

void api_logprobs(struct api_choice *choice, uint32_t from, uint32_t to, struct tl_buffer *out) {
  if (choice->call->endpoint == API_CHAT)
    chat_logprobs(choice, from, to, out);
  else
    completion_logprobs(choice, from, to, out);
}

/* --- vLLM's, of a prompt ---------------------------------------------------------------- */

/* rank 0: beyond those that were asked for. */
static void ranked(const struct api_choice *choice, int32_t id, double logprob, int32_t rank, struct tl_buffer *out) {
  size_t length;
  const char *bytes = token_bytes(choice, id, &length);
  tl_buffer_printf(out, "\"%d\":{\"logprob\":", id);
  api_json_number(out, logprob);
  if (rank) tl_buffer_printf(out, ",\"rank\":%d", rank);
  else tl_buffer_puts(out, ",\"rank\":null");
  tl_buffer_puts(out, ",\"decoded_token\":");
  api_json_string(out, bytes, length);
  tl_buffer_putc(out, '}');
}

/* The token that came is first, then the likeliest without it. */
static void one_ranked(const struct api_choice *choice, uint32_t i, struct tl_buffer *out) {
  const struct tl_logprobs *l = &choice->seq->logprobs[i];
  int32_t came = choice->seq->tokens[i], rank = 0, n = n_top(choice, i, choice->call->params.prompt_logprobs);
  for (int32_t k = 0; k < n; k++)
    if (l->top_tokens[k] == came) rank = k + 1;
  tl_buffer_putc(out, '{');
  ranked(choice, came, (double)l->logprob, rank, out);
  for (int32_t k = 0; k < n; k++) {
    if (l->top_tokens[k] == came) continue;
    tl_buffer_putc(out, ',');
    ranked(choice, l->top_tokens[k], (double)l->top_logprobs[k], k + 1, out);
  }
  tl_buffer_putc(out, '}');
}

void api_prompt_logprobs(const struct api_choice *choice, struct tl_buffer *out) {
  if (choice->call->params.prompt_logprobs < 0) return;
  tl_buffer_puts(out, ",\"prompt_logprobs\":[null");
  for (uint32_t i = 1; i < choice->seq->n_prompt; i++) {
    tl_buffer_putc(out, ',');
    one_ranked(choice, i, out);
  }
  tl_buffer_putc(out, ']');
}
