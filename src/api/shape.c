/* SPDX-License-Identifier: MIT */
/* Chunks and answers of chat and completions, as OpenAI's API reference gives them. */
#include <string.h>

#include "api/api_private.h"
#include "tokenlane/base/hash.h"

enum chunk { CHUNK_ROLE, CHUNK_TEXT, CHUNK_FINISH };

const char *api_model_name(const struct api_call *call) {
  return call->params.model ? call->params.model : call->api->o.models[call->work.model].name;
}

static void head(const struct api_call *call, const char *object, struct tl_buffer *out) {
  const char *name = api_model_name(call);
  tl_buffer_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", call->id, object,
                   (long long)call->created_s);
  api_json_string(out, name, strlen(name));
  tl_buffer_printf(out, ",\"system_fingerprint\":\"%s\",\"choices\":[", call->api->fingerprints[call->work.model]);
}

static const char *chunk_object(const struct api_call *call) {
  return call->endpoint == API_CHAT ? "chat.completion.chunk" : "text_completion";
}

unsigned long long api_cached_tokens(const struct api_call *call) {
  unsigned long long cached = 0;
  for (unsigned i = 0; i < call->n_choices; i++)
    if (i == 0 || call->choices[i].prompt != call->choices[i - 1].prompt) cached += call->choices[i].seq->n_cached;
  return cached;
}

static void put_usage(const struct api_call *call, unsigned long long prompt, unsigned long long completion, unsigned long long reasoning,
                      unsigned long long cached, struct tl_buffer *out) {
  tl_buffer_printf(out,
                   "\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
                   "\"prompt_tokens_details\":{\"cached_tokens\":%llu}",
                   prompt, completion, prompt + completion, cached);
  bool thinks = call->choices->thinks.format, predicts = call->params.predicts;
  if (thinks || predicts) tl_buffer_puts(out, ",\"completion_tokens_details\":{");
  if (thinks) tl_buffer_printf(out, "\"reasoning_tokens\":%llu%s", reasoning, predicts ? "," : "");
  if (predicts) api_prediction_usage(call, out);
  if (thinks || predicts) tl_buffer_putc(out, '}');
  tl_buffer_putc(out, '}');
}

static void usage(const struct api_call *call, struct tl_buffer *out) {
  unsigned long long prompt = 0, completion = 0, reasoning = 0;
  for (unsigned i = 0; i < call->n_prompts; i++) prompt += call->prompts[i].n;
  for (unsigned i = 0; i < call->n_choices; i++) {
    completion += call->choices[i].n_seen;
    reasoning += call->choices[i].n_reasoning;
  }
  put_usage(call, prompt, completion, reasoning, api_cached_tokens(call), out);
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
  if (call->params.return_token_ids && call->endpoint == endpoint && !choice->begun)
    ids(choice, "prompt_token_ids", 0, choice->seq->n_prompt, out);
}

/* Ends the choice; n: of its generated tokens, so many are told of now or before. */
static void end_choice(const struct api_choice *choice, bool with_ids, uint32_t n, struct tl_buffer *out) {
  prompt_ids(choice, API_COMPLETIONS, out);
  if (choice->call->endpoint == API_COMPLETIONS) api_prompt_logprobs(choice, out);
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
  api_logprobs(choice, with_prompt ? 0 : n_prompt + choice->n_sent_logprobs, n_prompt + api_n_told(choice), out);
}

bool api_only_calls(const struct api_call *call) {
  return call->params.calls == API_CALLS_REQUIRED || call->params.calls == API_CALLS_NAMED;
}

unsigned api_n_calls(const struct api_choice *choice) {
  return choice->calls.n && !choice->call->params.parallel_tool_calls ? 1 : choice->calls.n;
}

struct tl_buffer api_text_before(const struct api_choice *choice, unsigned i) {
  const struct tl_buffer *text = &choice->text;
  size_t from = i ? choice->calls.items[i - 1].at : 0, to = i < api_n_calls(choice) ? choice->calls.items[i].at : text->length;
  if (to > text->length) to = text->length; /* an answer of calls alone has none */
  if (from >= to) return (struct tl_buffer){.length = 0};
  return (struct tl_buffer){.data = text->data + from, .length = to - from};
}

void api_call_id(const struct api_choice *choice, unsigned i, char ret[24]) {
  const struct tl_api *api = choice->call->api;
  api_tool_call_id(api->tools[choice->call->work.model].format,
                   tl_hash_u64(tl_hash_u64(api->key[0] ^ choice->call->number) + ((uint64_t)choice->index << 32) + i), ret);
}

/* A call's id, name and arguments. */
static void tool_call(const struct api_choice *choice, unsigned i, bool with_arguments, struct tl_buffer *out) {
  const struct api_tool_call *call = &choice->calls.items[i];
  char id[24];
  api_call_id(choice, i, id);
  tl_buffer_printf(out, "\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", id);
  api_json_string(out, call->name.data, call->name.length);
  tl_buffer_puts(out, ",\"arguments\":");
  api_json_string(out, call->arguments.data, with_arguments ? call->arguments.length : 0);
  tl_buffer_puts(out, "}}");
}

/* By both names that clients look for: DeepSeek's, which llama.cpp's server has too, and what vLLM has called it in 0.11 and calls it alone by now. */
static void thoughts(const struct api_choice *choice, struct tl_buffer *out) {
  static const char *const names[] = {"\"reasoning_content\":", ",\"reasoning\":"};
  for (unsigned i = 0; i < 2; i++) {
    tl_buffer_puts(out, names[i]);
    if (choice->reasoning.length) api_json_string(out, choice->reasoning.data, choice->reasoning.length);
    else tl_buffer_puts(out, "null");
  }
}

static void delta(struct api_choice *choice, enum chunk kind, struct tl_buffer *out) {
  if (choice->call->endpoint == API_COMPLETIONS) {
    tl_buffer_puts(out, ",\"text\":");
    api_json_string(out, choice->text.data, choice->text.length);
    return;
  }
  if (kind == CHUNK_ROLE) {
    tl_buffer_printf(out, ",\"delta\":{\"role\":\"assistant\",\"content\":%s}", api_only_calls(choice->call) ? "null" : "\"\"");
  } else if (kind == CHUNK_TEXT) {
    bool thinks = choice->reasoning.length, says = choice->text.length || (!thinks && choice->call->params.calls == API_CALLS_OFF);
    tl_buffer_puts(out, ",\"delta\":{");
    if (thinks) thoughts(choice, out);
    if (says) tl_buffer_puts(out, thinks ? ",\"content\":" : "\"content\":");
    if (says) api_json_string(out, choice->text.data, choice->text.length);
    tl_buffer_putc(out, '}');
  } else {
    tl_buffer_puts(out, ",\"delta\":{}");
  }
}

/* n: generated tokens that this chunk and those before it are of. */
static void end_chunk(const struct api_choice *choice, uint32_t n, struct tl_buffer *out) {
  tl_buffer_putc(out, ']');
  prompt_ids(choice, API_CHAT, out);
  if (choice->call->params.continuous_usage) { /* vLLM's: of this choice so far */
    tl_buffer_putc(out, ',');
    put_usage(choice->call, choice->seq->n_prompt, n, n ? choice->n_reasoning : 0, choice->seq->n_cached, out);
  } else if (choice->call->params.include_usage) {
    tl_buffer_puts(out, ",\"usage\":null");
  }
  tl_buffer_putc(out, '}');
  tl_http_sse_end(out);
}

static void chunk(struct api_choice *choice, enum chunk kind, struct tl_buffer *out) {
  const struct api_call *call = choice->call;
  tl_http_sse_begin(out, NULL);
  head(call, chunk_object(call), out);
  tl_buffer_printf(out, "{\"index\":%u", choice->index);
  delta(choice, kind, out);
  logprobs(choice, kind == CHUNK_TEXT, out);
  finish_reason(choice, kind == CHUNK_FINISH, out);
  /* the id that ended it comes with the end */
  end_choice(choice, kind != CHUNK_ROLE, kind == CHUNK_TEXT ? api_n_told(choice) : choice->n_seen, out);
  end_chunk(choice, kind == CHUNK_ROLE ? 0 : choice->n_seen, out);
  choice->begun = true;
}

static void begin(struct api_choice *choice, struct tl_buffer *out) {
  chunk(choice, CHUNK_ROLE, out);
}

static void piece(struct api_choice *choice, struct tl_buffer *out) {
  chunk(choice, CHUNK_TEXT, out);
}

static void finish(struct api_choice *choice, struct tl_buffer *out) {
  chunk(choice, CHUNK_FINISH, out);
}

static void call_chunk(struct api_choice *choice, unsigned i, struct tl_buffer *out) {
  const struct api_tool_call *call = &choice->calls.items[i];
  tl_http_sse_begin(out, NULL);
  head(choice->call, chunk_object(choice->call), out);
  tl_buffer_printf(out, "{\"index\":%u,\"delta\":{\"tool_calls\":[{\"index\":%u,", choice->index, i);
  if (call->announced) {
    tl_buffer_puts(out, "\"function\":{\"arguments\":");
    api_json_string(out, call->arguments.data, call->arguments.length);
    tl_buffer_puts(out, "}}");
  } else {
    tool_call(choice, i, false, out);
  }
  tl_buffer_puts(out, "]},\"logprobs\":null");
  finish_reason(choice, false, out);
  end_choice(choice, false, 0, out);
  end_chunk(choice, choice->n_seen, out);
}

static void usage_chunk(const struct api_call *call, struct tl_buffer *out) {
  tl_http_sse_begin(out, NULL);
  head(call, chunk_object(call), out);
  tl_buffer_puts(out, "],");
  usage(call, out);
  tl_buffer_putc(out, '}');
  tl_http_sse_end(out);
}

static void end(struct api_call *call, struct tl_buffer *out) {
  if (call->params.include_usage) usage_chunk(call, out);
  tl_buffer_puts(out, "data: [DONE]\n\n");
}

static void error(struct api_call *call, const struct tl_error *err, struct tl_buffer *out) {
  (void)call;
  tl_http_sse_begin(out, NULL);
  api_error_json(out, err);
  tl_http_sse_end(out);
}

static void message(const struct api_choice *choice, struct tl_buffer *out) {
  tl_buffer_puts(out, ",\"message\":{\"role\":\"assistant\",\"content\":");
  unsigned n = api_n_calls(choice);
  if (!choice->text.length && (n || api_only_calls(choice->call)))
    tl_buffer_puts(out, "null");
  else
    api_json_string(out, choice->text.data, choice->text.length);
  if (choice->thinks.format && choice->call->params.include_reasoning) {
    tl_buffer_putc(out, ',');
    thoughts(choice, out);
  }
  for (unsigned i = 0; i < n; i++) {
    tl_buffer_puts(out, i ? ",{" : ",\"tool_calls\":[{");
    tool_call(choice, i, true, out);
  }
  tl_buffer_puts(out, n ? "],\"refusal\":null}" : ",\"refusal\":null}");
}

static void answer(struct api_call *call, struct tl_buffer *out) {
  head(call, call->endpoint == API_CHAT ? "chat.completion" : "text_completion", out);
  for (unsigned i = 0; i < call->n_choices; i++) {
    struct api_choice *choice = &call->choices[i];
    tl_buffer_printf(out, "%s{\"index\":%u", i ? "," : "", choice->index);
    if (call->endpoint == API_CHAT) {
      message(choice, out);
    } else {
      tl_buffer_puts(out, ",\"text\":");
      api_json_string(out, choice->text.data, choice->text.length);
    }
    logprobs(choice, true, out);
    finish_reason(choice, true, out);
    end_choice(choice, true, choice->n_seen, out);
  }
  tl_buffer_putc(out, ']');
  prompt_ids(call->choices, API_CHAT, out);
  if (call->endpoint == API_CHAT) api_prompt_logprobs(call->choices, out);
  tl_buffer_putc(out, ',');
  usage(call, out);
  tl_buffer_putc(out, '}');
}

#define SHAPE .piece = piece, .call = call_chunk, .finish = finish, .end = end, .error = error, .answer = answer

const struct api_shape api_chat_shape = {
    .id_prefix = "chatcmpl-", .prompt_field = "messages", .length_field = "max_tokens", .operation = "chat", .begin = begin, SHAPE};
const struct api_shape api_completions_shape = {
    .id_prefix = "cmpl-", .prompt_field = "prompt", .length_field = "max_tokens", .operation = "text_completion", SHAPE};
