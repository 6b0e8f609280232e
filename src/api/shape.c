/* SPDX-License-Identifier: MIT */
/* The JSON of chunks and answers, as OpenAI's API reference gives it. */
#include <string.h>

#include "api/api_private.h"

static void head(const struct api_call *call, const char *object, struct tl_buffer *out) {
  const char *name = call->params.model ? call->params.model : call->api->o.models[call->work.model].name;
  tl_buffer_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", call->id, object,
                   (long long)call->created_s);
  api_json_string(out, name, strlen(name));
  tl_buffer_printf(out, ",\"system_fingerprint\":\"%s\",\"choices\":[", call->api->fingerprints[call->work.model]);
}

static const char *chunk_object(const struct api_call *call) {
  return call->endpoint == API_CHAT ? "chat.completion.chunk" : "text_completion";
}

/* Of each prompt as its first choice met it, since the prompt counts once. */
static unsigned long long cached_tokens(const struct api_call *call) {
  unsigned long long cached = 0;
  for (unsigned i = 0; i < call->n_choices; i++)
    if (i == 0 || call->choices[i].prompt != call->choices[i - 1].prompt) cached += call->choices[i].seq->n_cached;
  return cached;
}

static void usage(const struct api_call *call, struct tl_buffer *out) {
  unsigned long long prompt = 0, completion = 0;
  for (unsigned i = 0; i < call->n_prompts; i++) prompt += call->prompts[i].n;
  for (unsigned i = 0; i < call->n_choices; i++) completion += call->choices[i].n_seen;
  tl_buffer_printf(out,
                   "\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
                   "\"prompt_tokens_details\":{\"cached_tokens\":%llu}}",
                   prompt, completion, prompt + completion, cached_tokens(call));
}

/* vLLM's: the stop string or the client's own stop id that ended it; null: an EOS or something else did. */
static void stop_reason(const struct api_choice *choice, struct tl_buffer *out) {
  const struct api_params *p = &choice->call->params;
  tl_buffer_puts(out, ",\"stop_reason\":");
  if (choice->stop.hit)
    api_json_string(out, p->stop[choice->stop.which].text, p->stop[choice->stop.which].length);
  else if (choice->stop_id >= 0)
    tl_buffer_printf(out, "%d", choice->stop_id);
  else
    tl_buffer_puts(out, "null");
}

static void finish_reason(const struct api_choice *choice, bool known, struct tl_buffer *out) {
  if (known) {
    tl_buffer_printf(out, ",\"finish_reason\":\"%s\"", choice->finish);
    stop_reason(choice, out);
  } else {
    tl_buffer_puts(out, ",\"finish_reason\":null");
    if (choice->call->endpoint == API_COMPLETIONS) tl_buffer_puts(out, ",\"stop_reason\":null"); /* as vLLM has it */
  }
}

/* Those of the sequence from .. to-1, the prompt's first. */
static void ids(const struct api_choice *choice, const char *name, uint32_t from, uint32_t to, struct tl_buffer *out) {
  tl_buffer_printf(out, ",\"%s\":[", name);
  for (uint32_t i = from; i < to; i++) tl_buffer_printf(out, i > from ? ",%d" : "%d", choice->seq->tokens[i]);
  tl_buffer_putc(out, ']');
}

/* vLLM's return_token_ids. The prompt's are the whole chat's but each completion's. */
static void prompt_ids(const struct api_choice *choice, enum api_endpoint endpoint, struct tl_buffer *out) {
  const struct api_call *call = choice->call;
  if (call->params.return_token_ids && call->endpoint == endpoint && !choice->role_sent)
    ids(choice, "prompt_token_ids", 0, choice->seq->n_prompt, out);
}

/* Ends the choice; n: of its generated tokens, so many are told of now or before. */
static void end_choice(const struct api_choice *choice, bool with_ids, uint32_t n, struct tl_buffer *out) {
  prompt_ids(choice, API_COMPLETIONS, out);
  uint32_t n_prompt = choice->seq->n_prompt;
  if (with_ids && choice->call->params.return_token_ids)
    ids(choice, "token_ids", n_prompt + choice->n_sent_logprobs, n_prompt + n, out);
  tl_buffer_putc(out, '}');
}

/* Which tokens, by index in the sequence, an answer's or chunk's logprobs cover. */
static void logprobs(struct api_choice *choice, bool wanted, struct tl_buffer *out) {
  const struct api_call *call = choice->call;
  tl_buffer_puts(out, ",\"logprobs\":");
  if (!wanted || call->params.n_top_logprobs < 0) {
    tl_buffer_puts(out, "null");
    return;
  }
  uint32_t n_prompt = choice->seq->n_prompt;
  bool with_prompt = call->params.echo && choice->n_sent_logprobs == 0;
  uint32_t n_text = choice->n_seen - choice->ended_by_id; /* the id that ended it is no part of the answer */
  api_logprobs(choice, with_prompt ? 0 : n_prompt + choice->n_sent_logprobs, n_prompt + n_text, out);
}

static void delta(struct api_choice *choice, enum api_chunk kind, struct tl_buffer *out) {
  if (choice->call->endpoint == API_COMPLETIONS) {
    tl_buffer_puts(out, ",\"text\":");
    api_json_string(out, choice->text.data, choice->text.length);
    return;
  }
  if (kind == API_CHUNK_ROLE) {
    tl_buffer_puts(out, ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"}");
  } else if (kind == API_CHUNK_TEXT) {
    tl_buffer_puts(out, ",\"delta\":{\"content\":");
    api_json_string(out, choice->text.data, choice->text.length);
    tl_buffer_putc(out, '}');
  } else {
    tl_buffer_puts(out, ",\"delta\":{}");
  }
}

void api_shape_chunk(struct api_choice *choice, enum api_chunk kind, struct tl_buffer *out) {
  const struct api_call *call = choice->call;
  head(call, chunk_object(call), out);
  tl_buffer_printf(out, "{\"index\":%u", choice->index);
  delta(choice, kind, out);
  logprobs(choice, kind == API_CHUNK_TEXT, out);
  finish_reason(choice, kind == API_CHUNK_FINISH, out);
  /* the id that ended it comes with the end */
  end_choice(choice, kind != API_CHUNK_ROLE, choice->n_seen - (kind == API_CHUNK_TEXT && choice->ended_by_id), out);
  tl_buffer_putc(out, ']');
  prompt_ids(choice, API_CHAT, out);
  tl_buffer_puts(out, call->params.include_usage ? ",\"usage\":null}" : "}");
}

void api_shape_usage_chunk(struct api_call *call, struct tl_buffer *out) {
  head(call, chunk_object(call), out);
  tl_buffer_puts(out, "],");
  usage(call, out);
  tl_buffer_putc(out, '}');
}

void api_shape_answer(struct api_call *call, struct tl_buffer *out) {
  head(call, call->endpoint == API_CHAT ? "chat.completion" : "text_completion", out);
  for (unsigned i = 0; i < call->n_choices; i++) {
    struct api_choice *choice = &call->choices[i];
    tl_buffer_printf(out, "%s{\"index\":%u", i ? "," : "", choice->index);
    tl_buffer_puts(out, call->endpoint == API_CHAT ? ",\"message\":{\"role\":\"assistant\",\"content\":" : ",\"text\":");
    api_json_string(out, choice->text.data, choice->text.length);
    if (call->endpoint == API_CHAT) tl_buffer_puts(out, ",\"refusal\":null}");
    logprobs(choice, true, out);
    finish_reason(choice, true, out);
    end_choice(choice, true, choice->n_seen, out);
  }
  tl_buffer_putc(out, ']');
  prompt_ids(call->choices, API_CHAT, out);
  tl_buffer_putc(out, ',');
  usage(call, out);
  tl_buffer_putc(out, '}');
}
