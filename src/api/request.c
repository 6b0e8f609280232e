/* SPDX-License-Identifier: MIT */
/* The life of a call: checked, sequences made, room reserved, submitted; events
 * come back until the last sequence is final; then it is freed. There is one
 * way to free: n_live is 0 and the request is answered or gone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_private.h"
#include "api/responses.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/base/hash.h"

uint64_t api_make_id(struct tl_api *api, unsigned loop, const char *prefix, char ret[40]) {
  uint64_t number = ((uint64_t)loop << 48) ^ ++api->loops[loop].n_ids;
  snprintf(ret, 40, "%s%016llx", prefix, (unsigned long long)tl_hash_u64(api->key[0] ^ number));
  return number;
}

struct api_call *api_call_new(struct tl_api *api, struct tl_http_request *request, const struct api_reader *reader) {
  struct api_call *call = calloc(1, sizeof *call);
  if (!call) return NULL;
  call->api = api;
  call->loop = tl_http_loop(request);
  call->reader = reader;
  call->endpoint = reader->endpoint;
  call->created_s = tl_wall_ns() / TL_SEC(1);
  tl_arena_init(&call->arena, API_ARENA_LIMIT);
  call->number = api_make_id(api, call->loop, reader->shape->id_prefix, call->id);
  return call;
}

void api_call_free(struct api_call *call) {
  api_spans_end(call);
  for (unsigned i = 0; i < call->n_choices; i++) {
    api_stop_done(&call->choices[i].stop);
    tl_buffer_done(&call->choices[i].text);
    api_reasoning_done(&call->choices[i]);
    api_tool_parser_done(&call->choices[i].tools);
    api_tool_calls_done(&call->choices[i].calls);
  }
  api_constrain_done(call);
  api_response_done(call->response);
  json_decref(call->body);
  tl_arena_done(&call->arena);
  free(call);
}

/* --- sizes ------------------------------------------------------------------------- */

static const char *prompt_field(const struct api_call *call) {
  return call->reader->shape->prompt_field;
}

static const char *length_field(const struct api_call *call) {
  return call->reader->shape->length_field;
}

int api_too_long(const struct api_call *call, struct tl_error *err) {
  return tl_error_set(err, TL_ECONTEXT, prompt_field(call),
                      "this model's maximum context length is %u tokens; %s has more",
                      tl_engine_max_context(call->work.serving->engine), prompt_field(call));
}

int64_t api_wanted_tokens(const struct api_call *call) {
  const struct api_params *p = &call->params;
  int64_t wanted = p->max_completion_tokens >= 0 ? p->max_completion_tokens : p->max_tokens;
  return wanted < 0 && call->endpoint == API_COMPLETIONS ? 16 : wanted; /* OpenAI's default */
}

/* Anthropic's max_tokens is the most that is wanted, and its clients ask for more than fits: less is made then. */
static int64_t what_fits(const struct api_call *call, uint32_t n_prompt, int64_t wanted) {
  struct tl_capacity capacity;
  int64_t most = tl_engine_max_context(call->work.serving->engine);
  if (call->endpoint != API_MESSAGES) return wanted;
  if (tl_route_capacity(call->work.serving->route, &capacity) && capacity.seq_tokens < most) most = capacity.seq_tokens;
  if (call->api->o.limits.max_total_tokens < most) most = call->api->o.limits.max_total_tokens;
  return n_prompt < most && wanted > most - n_prompt ? most - n_prompt : wanted;
}

/* How many tokens may be generated after a prompt of n_prompt tokens. */
static int choose_max_new(const struct api_call *call, uint32_t n_prompt, uint32_t *ret, struct tl_error *err) {
  const struct api_params *p = &call->params;
  int64_t context = tl_engine_max_context(call->work.serving->engine);
  int64_t wanted = what_fits(call, n_prompt, api_wanted_tokens(call));
  if (n_prompt + (wanted < 0 ? 1 : wanted) > context)
    return tl_error_set(err, TL_ECONTEXT, prompt_field(call),
                        "this model's maximum context length is %lld tokens; the request asks for %lld (%u in %s, "
                        "%lld by %s)",
                        (long long)context, (long long)(n_prompt + (wanted < 0 ? 1 : wanted)), n_prompt,
                        prompt_field(call), (long long)(wanted < 0 ? 1 : wanted), length_field(call));
  if (wanted < 0) {
    int64_t share = call->api->o.limits.max_total_tokens / (call->n_prompts * p->n) - n_prompt;
    wanted = context - n_prompt < share ? context - n_prompt : share;
    if (wanted < 1) wanted = 1;
  }
  if (p->min_tokens > wanted)
    return tl_error_set(err, TL_EINVAL, "min_tokens", "min_tokens: expected at most %s (%lld), got %lld",
                        length_field(call), (long long)wanted, (long long)p->min_tokens);
  *ret = (uint32_t)wanted;
  return TL_OK;
}

/* Of the prompt's tokens or those that are made; -1: no log-probabilities. */
static int64_t most_alternatives(const struct api_params *p) {
  return p->prompt_logprobs > p->n_top_logprobs ? p->prompt_logprobs : p->n_top_logprobs;
}

/* How often an answer tells each log-probability: a stream of /v1/responses once when it comes, and in four events at the end. */
static int64_t times_told(const struct api_call *call) {
  return call->endpoint == API_RESPONSES && call->params.stream ? 5 : 1;
}

/* The request's amplification, checked before anything is allocated for it. */
static int check_total(const struct api_call *call, const uint32_t *max_new, struct tl_error *err) {
  int64_t total = 0, most = call->api->o.limits.max_total_tokens;
  for (unsigned i = 0; i < call->n_prompts; i++) total += (int64_t)call->prompts[i].n + max_new[i];
  if (total > most / call->params.n)
    return call->endpoint & API_BOTH
               ? tl_error_set(err, TL_EINVAL, "n",
                              "n: prompts x n x (prompt + max_tokens) may be at most %lld tokens in one request", (long long)most)
               : tl_error_set(err, TL_EINVAL, length_field(call), "%s: with %s it may be at most %lld tokens in one request",
                              length_field(call), prompt_field(call), (long long)most);
  /* an answer of many megabytes would hold the loop while it is written */
  int64_t each = 1 + most_alternatives(&call->params), most_logprobs = call->api->o.limits.max_logprobs / times_told(call), scored = 0;
  bool prompts = call->params.echo || call->params.prompt_logprobs >= 0;
  for (unsigned i = 0; i < call->n_prompts; i++) scored += max_new[i] + (prompts ? call->prompts[i].n : 0);
  if (scored * call->params.n * each <= most_logprobs) return TL_OK;
  return tl_error_set(err, TL_EINVAL, call->endpoint == API_COMPLETIONS ? "logprobs" : "top_logprobs",
                      "logprobs: tokens x n x (1 + alternatives) may be at most %lld in one request",
                      (long long)most_logprobs);
}

/* --- sequences ------------------------------------------------------------------------ */

static uint64_t seed_of(const struct api_call *call, unsigned choice) {
  const struct api_params *p = &call->params;
  uint64_t seed = p->has_seed ? (uint64_t)p->seed : tl_hash_u64(call->api->key[1] ^ call->number);
  /* the first choice has the client's own seed; each of several prompts is answered as if it had come alone */
  if (p->has_seed) choice %= (unsigned)p->n;
  return choice ? tl_hash_u64(seed + choice) : seed;
}

static struct tl_sampling sampling_of(const struct api_call *call, unsigned choice) {
  const struct api_params *p = &call->params;
  const struct tl_generation_defaults *d = &call->work.serving->model->defaults;
  struct tl_sampling s = {.target = -1, .n_top = (int32_t)most_alternatives(p)};
  s.temperature = (float)(p->temperature >= 0 ? p->temperature : d->temperature >= 0 ? d->temperature : 1);
  s.top_p = (float)(p->top_p >= 0 ? p->top_p : d->top_p >= 0 ? d->top_p : 1);
  s.min_p = (float)(p->min_p >= 0 ? p->min_p : d->min_p >= 0 ? d->min_p : 0);
  s.top_k = (int32_t)(p->top_k != API_NO_TOP_K ? p->top_k : d->top_k);
  if (s.top_k < 0) s.top_k = 0; /* -1: off */
  s.presence_penalty = (float)p->presence_penalty;
  s.frequency_penalty = (float)p->frequency_penalty;
  s.repetition_penalty = (float)(p->repetition_penalty >= 0  ? p->repetition_penalty
                                 : d->repetition_penalty > 0 ? d->repetition_penalty
                                                             : 1);
  s.seed = seed_of(call, choice);
  return s;
}

static int add_logprobs(struct api_call *call, struct tl_sequence *seq, uint32_t n) {
  seq->logprobs = tl_arena_array(&call->arena, n, sizeof *seq->logprobs);
  uint32_t n_top = (uint32_t)seq->sampling.n_top;
  int32_t *tokens = n_top ? tl_arena_array(&call->arena, n, n_top * sizeof *tokens) : NULL;
  float *values = n_top ? tl_arena_array(&call->arena, n, n_top * sizeof *values) : NULL;
  if (!seq->logprobs || (n_top && (!tokens || !values))) return TL_ENOMEM;
  for (uint32_t i = 0; n_top && i < n; i++) {
    seq->logprobs[i].top_tokens = tokens + (size_t)i * n_top;
    seq->logprobs[i].top_logprobs = values + (size_t)i * n_top;
  }
  return TL_OK;
}

static int add_history(struct api_call *call, struct tl_sequence *seq, uint32_t n) {
  const struct tl_sampling *s = &seq->sampling;
  if (s->presence_penalty == 0 && s->frequency_penalty == 0 && s->repetition_penalty == 1) return TL_OK;
  uint32_t slots = 16;
  while (slots < 2 * n) slots *= 2;
  seq->history_slots = slots;
  seq->history = tl_arena_array(&call->arena, n, sizeof *seq->history);
  seq->history_index = tl_arena_array(&call->arena, slots, sizeof *seq->history_index);
  return seq->history && seq->history_index ? TL_OK : TL_ENOMEM;
}

/* The prediction's before them: how much of it can come at most. */
static int add_tokens(struct api_call *call, struct tl_sequence *seq, uint32_t n) {
  seq->n_predicted = call->n_predicted < seq->max_new ? call->n_predicted : seq->max_new;
  int32_t *tokens = tl_arena_array(&call->arena, (size_t)seq->n_predicted + n, sizeof *tokens);
  if (!tokens) return TL_ENOMEM;
  if (seq->n_predicted) memcpy(tokens, call->predicted, seq->n_predicted * sizeof *tokens);
  seq->tokens = tokens + seq->n_predicted;
  return TL_OK;
}

/* By which its next tokens are guessed, if they are. */
static int add_draft_index(struct api_call *call, struct tl_sequence *seq, uint32_t n) {
  if (!tl_engine_guesses(call->work.serving->engine, seq)) return TL_OK;
  seq->draft_index = tl_arena_array(&call->arena, tl_draft_index_words(seq->n_predicted + n), sizeof *seq->draft_index);
  return seq->draft_index ? TL_OK : TL_ENOMEM;
}

static int add_bias(struct api_call *call, struct tl_sequence *seq) {
  const struct api_params *p = &call->params;
  seq->bias = tl_arena_array(&call->arena, p->n_bias + seq->n_stop_ids + seq->n_bad_words + 1, sizeof *seq->bias);
  if (!seq->bias) return TL_ENOMEM;
  if (p->n_bias) memcpy(seq->bias, p->bias, p->n_bias * sizeof *seq->bias);
  seq->n_bias = p->n_bias;
  return TL_OK;
}

/* Keyed, so that a client cannot find a salt that meets another's. */
static uint64_t cache_salt_of(const struct api_call *call) {
  const struct api_params *p = &call->params;
  return p->cache_salt ? tl_hash_bytes(p->cache_salt, p->cache_salt_length, call->api->key[0], call->api->key[1]) : 0;
}

static int make_sequence(struct api_call *call, struct api_choice *choice, uint32_t max_new, struct tl_error *err) {
  struct tl_sequence *seq = tl_arena_alloc(&call->arena, sizeof *seq);
  if (!seq) return TL_ENOMEM;
  const struct api_prompt *prompt = &call->prompts[choice->prompt];
  choice->seq = seq;
  seq->n_prompt = prompt->n;
  seq->max_new = max_new;
  seq->min_new = (uint32_t)call->params.min_tokens;
  seq->ignore_eos = call->params.ignore_eos;
  seq->score_prompt = (call->params.echo && call->params.n_top_logprobs >= 0) || call->params.prompt_logprobs >= 0;
  seq->sampling = sampling_of(call, choice->index);
  seq->stop_ids = call->params.stop_ids;
  seq->n_stop_ids = call->params.n_stop_ids;
  seq->n_own_stop_ids = call->params.n_own_stop_ids;
  seq->bad_words = call->params.bad_spellings;
  seq->n_bad_words = call->params.n_bad_spellings;
  seq->allowed = call->params.allowed;
  seq->loop = call->loop;
  seq->owner = choice;
  seq->choice = choice->index;
  if (call->trace.recorded) seq->trace = &call->trace;
  seq->priority = call->params.priority;
  if (call->params.timeout_ms) seq->deadline_ns = tl_http_began_ns(call->request) + TL_MS(call->params.timeout_ms);
  seq->cache_salt = cache_salt_of(call);
  seq->adapter = call->params.adapter;
  seq->fork = call->n_prompts * call->params.n > 1 ? call->number : 0;
  uint32_t n = prompt->n + max_new;
  if (add_tokens(call, seq, n) < 0 || add_bias(call, seq) < 0 || add_history(call, seq, n) < 0) return TL_ENOMEM;
  if (seq->sampling.n_top >= 0 && add_logprobs(call, seq, n) < 0) return TL_ENOMEM;
  memcpy(seq->tokens, prompt->ids, prompt->n * sizeof *seq->tokens);
  int r = api_constrain_sequence(call, seq, err);
  return r < 0 ? r : add_draft_index(call, seq, n);
}

/* How calls are found in the choice's text. */
static int make_calls(struct api_call *call, struct api_choice *choice) {
  const struct api_params *p = &call->params;
  const struct api_tools *tools = &call->api->tools[call->work.model];
  if (p->calls == API_CALLS_AUTO && tools->format) {
    api_tool_parser_init(&choice->tools, tools->format, p->tool_types, !p->stream);
    choice->detok.kept = tools->marks;
    choice->detok.n_kept = tools->n_marks;
  }
  if (p->calls == API_CALLS_NAMED) return api_tool_calls_add(&choice->calls, p->tool_name, p->tool_name_length);
  if (p->calls == API_CALLS_REQUIRED) api_tool_parser_init(&choice->tools, &api_tool_list_format, NULL, false);
  return TL_OK;
}

static int make_choices(struct api_call *call, const uint32_t *max_new, const struct tl_room *rooms,
                        struct tl_error *err) {
  unsigned n = call->n_prompts * (unsigned)call->params.n;
  call->choices = tl_arena_array(&call->arena, n, sizeof *call->choices);
  if (!call->choices) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (unsigned i = 0; i < n; i++) {
    struct api_choice *choice = &call->choices[call->n_choices++];
    choice->call = call;
    choice->index = i;
    choice->stop_id = -1;
    choice->prompt = i / (unsigned)call->params.n;
    tl_buffer_init(&choice->text, 0);
    tl_buffer_init(&choice->reasoning, 0);
    api_stop_init(&choice->stop, &call->params);
    tl_detok_init(&choice->detok, call->work.serving->tokenizer, call->params.skip_special_tokens);
    int r = make_calls(call, choice);
    api_reasoning_begin(choice);
    if (r < 0 || make_sequence(call, choice, max_new[choice->prompt], err) < 0)
      return err->code ? err->code : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
    choice->room = rooms[choice->prompt];
    choice->seq->replica = choice->room.replica;
  }
  return TL_OK;
}

static int check_tokens(const struct api_call *call, struct tl_error *err) {
  int32_t vocab = (int32_t)call->work.serving->model->vocab_size;
  for (uint32_t i = 0; i < call->params.n_bias; i++)
    if (call->params.bias[i].token >= vocab)
      return tl_error_set(err, TL_EINVAL, "logit_bias", "logit_bias: expected token ids from 0 to %d, got %d", vocab - 1,
                          call->params.bias[i].token);
  for (unsigned i = 0; i < call->n_prompts; i++) {
    const struct api_prompt *prompt = &call->prompts[i];
    if (prompt->n == 0)
      return tl_error_set(err, TL_EINVAL, prompt_field(call), "%s: expected at least one token, got none",
                          prompt_field(call));
    int r = api_check_rows(prompt->ids, prompt->n, call->work.serving->model, prompt_field(call), err);
    if (r < 0) return r;
  }
  return TL_OK;
}

int64_t api_cost(const struct tl_sequence *seq) {
  return (int64_t)seq->n_prompt + seq->max_new;
}

/* What could not be admitted even if nothing else ran is no matter of trying again. */
static int check_capacity(const struct api_call *call, const uint32_t *max_new, struct tl_error *err) {
  struct tl_capacity most;
  int64_t total = 0, n_seqs = call->n_prompts * call->params.n;
  if (!tl_route_capacity(call->work.serving->route, &most)) return TL_OK; /* 503 by the reservation */
  for (unsigned i = 0; i < call->n_prompts; i++) {
    int64_t tokens = (int64_t)call->prompts[i].n + max_new[i];
    total += tokens * call->params.n;
    if (tokens > most.seq_tokens)
      return tl_error_set(err, TL_ECONTEXT, prompt_field(call),
                          "%s: with %s it may be at most %lld tokens here, got %lld", prompt_field(call), length_field(call),
                          (long long)most.seq_tokens, (long long)tokens);
  }
  if (n_seqs > most.seqs)
    return tl_error_set(err, TL_EINVAL, "n", "n: prompts x n may be at most %lld sequences here, got %lld",
                        (long long)most.seqs, (long long)n_seqs);
  if (call->n_prompts > 1 && total > most.tokens)
    return tl_error_set(err, TL_EINVAL, "prompt", "prompt: all prompts with their max_tokens may be at most %lld tokens here, got %lld",
                        (long long)most.tokens, (long long)total);
  return TL_OK;
}

static void give_back(struct api_call *call, const struct tl_room *rooms, unsigned n_prompts) {
  for (unsigned i = 0; i < n_prompts; i++)
    for (int64_t k = 0; k < call->params.n; k++) tl_route_release(call->work.serving->route, &rooms[i]);
}

/* Room for all choices, or for none, before anything is allocated for them. Those of
 * one prompt go to one replica: rooms[prompt] is what each of them holds. */
static int reserve_all(struct api_call *call, const uint32_t *max_new, struct tl_room *rooms,
                       unsigned *ret_retry_after_s, struct tl_error *err) {
  struct tl_metrics_shard *shard = tl_http_shard(call->api->o.http, call->loop);
  for (unsigned i = 0; i < call->n_prompts; i++) {
    const struct api_prompt *prompt = &call->prompts[i];
    struct tl_route_ask ask = {.tokens = (int64_t)prompt->n + max_new[i], .n_seqs = call->params.n,
                               .prompt = prompt->ids, .n_prompt = prompt->n, .adapter = call->params.adapter};
    int64_t began_ns = api_span_now(call);
    int r = tl_route_reserve(call->work.serving->route, &ask, shard, &rooms[i], ret_retry_after_s, err);
    api_span_route(call, began_ns, r == TL_OK ? &rooms[i] : NULL);
    if (r == TL_OK) continue;
    give_back(call, rooms, i);
    return r;
  }
  return TL_OK;
}

static void on_abort(struct tl_http_request *request) {
  struct api_call *call = tl_http_data(request);
  call->request = NULL;
  api_spans_facts(call, request);
  tl_metrics_add(tl_http_shard(call->api->o.http, call->loop), call->api->cancelled, 1);
  api_call_cancel(call);
  if (call->n_live == 0) api_call_free(call);
}

static void on_writable(struct tl_http_request *request) {
  struct api_call *call = tl_http_data(request);
  api_call_resume(call);
  if (call->n_live == 0 && !call->request) api_call_free(call);
}

static void submit_all(struct api_call *call) {
  tl_http_set_data(call->request, call);
  tl_http_on_abort(call->request, on_abort);
  tl_http_on_writable(call->request, on_writable);
  /* relaxed: a count for the drain's look from outside, it publishes nothing */
  atomic_fetch_add_explicit(&call->api->active, 1, memory_order_relaxed);
  call->n_live = call->n_open = call->n_unsent = call->n_choices;
  int64_t now = tl_now_ns();
  for (unsigned i = 0; i < call->n_choices; i++) {
    struct tl_sequence *seq = call->choices[i].seq;
    seq->submitted_ns = now;
    tl_engine_submit(call->work.serving->engine, seq->replica, seq);
  }
}

/* What each prompt may generate, into *ret (n_prompts); and whether all of it could ever be admitted. */
static int check_sizes(struct api_call *call, uint32_t **ret, struct tl_error *err) {
  uint32_t *max_new = *ret = tl_arena_array(&call->arena, call->n_prompts, sizeof *max_new);
  if (!max_new) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  int r = TL_OK;
  for (unsigned i = 0; r == TL_OK && i < call->n_prompts; i++) r = choose_max_new(call, call->prompts[i].n, &max_new[i], err);
  if (r == TL_OK) r = check_total(call, max_new, err);
  return r == TL_OK ? check_capacity(call, max_new, err) : r;
}

/* Before a prompt costs anything: is there room for the least that it can be? What could
 * never be admitted goes on, to be told so with the exact figures: it is no matter of trying again. */
static int look_for_room(struct api_call *call, struct tl_error *err) {
  uint32_t *max_new;
  struct tl_error hopeless = {0};
  if (check_sizes(call, &max_new, &hopeless) < 0) return TL_OK;
  struct tl_route_ask ask = {.tokens = (int64_t)call->prompts[0].n + max_new[0], .n_seqs = call->params.n};
  return tl_route_look(call->work.serving->route, &ask, tl_http_shard(call->api->o.http, call->loop), &call->retry_after_s, err);
}

int api_call_start(struct api_call *call, unsigned *ret_retry_after_s, struct tl_error *err) {
  uint32_t *max_new;
  int r = check_tokens(call, err);
  if (r != TL_OK || (r = check_sizes(call, &max_new, err)) != TL_OK) return r;
  struct tl_room *rooms = tl_arena_array(&call->arena, call->n_prompts, sizeof *rooms);
  if (!rooms) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  if ((r = reserve_all(call, max_new, rooms, ret_retry_after_s, err)) < 0) return r;
  if ((r = make_choices(call, max_new, rooms, err)) < 0) {
    give_back(call, rooms, call->n_prompts);
    return r;
  }
  if (call->grammar)
    tl_metrics_add(tl_http_shard(call->api->o.http, call->loop), call->api->structured[call->params.constraint.kind], 1);
  api_count_adapter(call->api, call->loop, call->work.model, call->params.adapter);
  submit_all(call);
  return TL_OK;
}

/* The parsed body is many times its bytes and the call may live for minutes: what
 * is needed of it moves to the arena. */
static int settle_body(struct api_call *call, struct tl_error *err) {
  struct api_params *p = &call->params;
  size_t prefix = strlen(call->reader->shape->id_prefix);
  if (p->request_id) snprintf(call->id + prefix, sizeof call->id - prefix, "%s", p->request_id);
  p->request_id = NULL;
  bool fine = !p->model || (p->model = tl_arena_copy(&call->arena, p->model, strlen(p->model)));
  if (fine && p->tool_name) fine = (p->tool_name = tl_arena_copy(&call->arena, p->tool_name, p->tool_name_length));
  const struct api_tool_format *format = call->api->tools[call->work.model].format;
  if (fine && p->calls == API_CALLS_AUTO && format && format->typed) fine = api_tool_types_read(p->tools, &call->arena, &p->tool_types) == TL_OK;
  if (fine && p->cache_salt) fine = (p->cache_salt = tl_arena_copy(&call->arena, p->cache_salt, p->cache_salt_length));
  for (unsigned i = 0; fine && i < p->n_stop; i++)
    fine = (p->stop[i].text = tl_arena_copy(&call->arena, p->stop[i].text, p->stop[i].length));
  for (unsigned i = 0; fine && i < call->n_prompts; i++) {
    struct api_prompt *prompt = &call->prompts[i];
    if (!p->echo) prompt->text = NULL; /* its tokens are all that is needed */
    if (prompt->text) fine = (prompt->text = tl_arena_copy(&call->arena, prompt->text, prompt->length));
  }
  p->prompt = p->messages = p->input = p->instructions = p->tools = p->documents = p->chat_template_kwargs = p->chat_template = p->prediction = NULL;
  p->stop_token_ids = p->bad_words = p->allowed_token_ids = NULL;
  json_decref(TL_TAKE(&call->body));
  return fine ? TL_OK : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
}

static int read_call(struct api_work *work, struct tl_error *err) {
  struct api_call *call = (struct api_call *)work;
  call->read_times.began_ns = api_span_now(call);
  int r = api_body_read(work->text, work->length, &call->body, err);
  if (r == TL_OK && api_work_left(work)) r = TL_ECLOSED;
  if (r == TL_OK) r = api_fields_read(work->api, call->endpoint, call->body, &call->arena, &call->params, err);
  if (r == TL_OK) api_work_choose(work, call->params.served);
  if (r == TL_OK) r = api_check_task(work, call->endpoint, err);
  if (r == TL_OK) r = call->reader->outline(call, err);
  /* the router's counters are the loop's: before a lane it has looked already */
  if (r == TL_OK && !work->on_lane) r = look_for_room(call, err);
  if (r == TL_OK) r = api_token_fields(call, err);
  if (r == TL_OK) r = api_constrain(call, err);
  if (r == TL_OK && api_work_left(work)) r = TL_ECLOSED;
  if (r == TL_OK) {
    call->read_times.tokenizing_ns = api_span_now(call);
    r = call->reader->prepare(call, err);
  }
  if (r == TL_OK) r = settle_body(call, err);
  call->read_times.ended_ns = api_span_now(call);
  return r;
}

static void begin_call(struct api_work *work) {
  struct api_call *call = (struct api_call *)work;
  call->request = TL_TAKE(&work->request);
  api_spans_read(call);
  int r = call->request ? work->err.code : TL_ECLOSED;
  if (r == TL_OK) r = api_call_start(call, &call->retry_after_s, &work->err);
  if (r == TL_OK) return;
  if (call->request) {
    api_spans_facts(call, call->request);
    api_respond_error(call->request, &work->err, call->retry_after_s);
  }
  api_call_free(call);
}

/* Whether any model has room for one token; a refusal counts once. */
static int look_at_all(const struct tl_api *api, const struct tl_serving *serving, struct tl_metrics_shard *shard,
                       unsigned *ret_retry_after_s, struct tl_error *err) {
  const struct tl_route_ask least = {.tokens = 1, .n_seqs = 1};
  int r = TL_EBUSY;
  for (unsigned i = 0; r < 0 && i < api->o.n_models; i++)
    r = tl_route_look(serving[i].route, &least, i + 1 == api->o.n_models ? shard : NULL, ret_retry_after_s, err);
  return r;
}

bool api_may_read(struct tl_api *api, struct tl_http_request *request, bool has_grammar) {
  size_t length;
  unsigned retry_after_s = 0;
  struct tl_error err = {0};
  tl_http_body(request, &length);
  const struct tl_serving *serving = length < API_LANE_BYTES && !has_grammar ? NULL : api_serving(api, &err);
  if (!serving) return true; /* api_work_run goes on, or says why not */
  if (look_at_all(api, serving, tl_http_shard(api->o.http, tl_http_loop(request)), &retry_after_s, &err) == TL_OK)
    return true;
  api_respond_error(request, &err, retry_after_s);
  return false;
}

void api_generate(struct tl_api *api, struct tl_http_request *request, const struct api_reader *reader) {
  bool has_grammar = api_work_has_grammar(request);
  if (!api_may_read(api, request, has_grammar)) return;
  struct api_call *call = api_call_new(api, request, reader);
  if (!call) {
    struct tl_error err = {0};
    tl_error_set(&err, TL_ENOMEM, NULL, "out of memory");
    api_respond_error(request, &err, 0);
    return;
  }
  api_spans_begin(call, request);
  call->work.has_grammar = has_grammar;
  call->work.read = read_call;
  call->work.finish = begin_call;
  if (!api_work_run(&call->work, api, request)) api_call_free(call);
}

void api_choice_ended(struct api_choice *choice) {
  struct api_call *call = choice->call;
  choice->final = true;
  if (--call->n_live == 0) atomic_fetch_sub_explicit(&call->api->active, 1, memory_order_relaxed); /* as in submit_all */
}

void api_on_event(struct tl_sequence *seq, bool final, void *context) {
  (void)context;
  if (seq->vector) { /* of a model that pools: there are no other news of it */
    api_vectors_event(seq);
    return;
  }
  struct api_choice *choice = seq->owner;
  struct api_call *call = choice->call;
  if (final) {
    tl_route_release(call->work.serving->route, &choice->room);
    if (seq->finish != TL_FINISH_FAULT || !api_resubmit(choice)) api_choice_ended(choice);
  } else if (atomic_load_explicit(&seq->n_out, memory_order_relaxed) > 0) { /* relaxed: only whether there is one */
    tl_route_started(call->work.serving->route, &choice->room);
  }
  if (call->request) api_choice_advance(choice);
  if (!call->request) api_end_stranded(call); /* it may have been answered just now */
  if (call->n_live == 0 && !call->request) api_call_free(call);
}
