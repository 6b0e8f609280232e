/* SPDX-License-Identifier: MIT */
/* From new tokens to text, and from text to chunks or to the one answer. */
#include <string.h>

#include "api/api_private.h"
#include "api/responses.h"
#include "tokenlane/base/clock.h"

#define REST_BYTES 65536   /* of a finished stream: so much may always be queued */
#define LOGPROB_BYTES 128  /* of one alternative in an answer */
#define ID_BYTES 8         /* of a token id */
#define CALL_BYTES 256     /* of what is around a call's arguments */

void api_call_cancel(struct api_call *call) {
  /* relaxed: the worker polls it once a step; it publishes nothing else */
  for (unsigned i = 0; i < call->n_choices; i++)
    if (!call->choices[i].final) atomic_store_explicit(&call->choices[i].seq->cancel, 1, memory_order_relaxed);
  api_end_stranded(call);
}

/* Sends what the shape made and empties out. False: there was no memory to make all of it, and nothing is sent. */
static bool send_events(struct tl_http_request *request, struct tl_buffer *out) {
  bool whole = !out->failed;
  if (whole && out->length) tl_http_write(request, out->data, out->length);
  tl_buffer_done(out);
  return whole;
}

/* The last events. Without memory for them it must not look as if it were through. */
static void end_stream(struct tl_http_request *request, struct tl_buffer *out) {
  if (send_events(request, out)) tl_http_end(request);
  else tl_http_break(request);
}

static void begin_stream(struct api_call *call) {
  if (call->began) return;
  call->began = true;
  tl_http_add_header(call->request, "Cache-Control", "no-cache");
  tl_http_add_header(call->request, "X-Accel-Buffering", "no");
  tl_http_begin(call->request, 200, "text/event-stream");
}

void api_call_fail(struct api_call *call, const struct tl_error *err) {
  api_call_cancel(call);
  struct tl_http_request *request = TL_TAKE(&call->request);
  api_spans_facts(call, request);
  api_log_failure(call, request, err);
  if (!call->began) {
    api_respond_error(request, err, 0);
    return;
  }
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  call->reader->shape->error(call, err, &out);
  end_stream(request, &out);
}

static void observe_tokens(struct api_choice *choice, uint32_t n_new) {
  struct api_call *call = choice->call;
  struct tl_metrics_shard *shard = tl_http_shard(call->api->o.http, call->loop);
  int64_t now = tl_now_ns();
  unsigned replica = tl_engine_first_replica(call->work.serving->engine) + choice->seq->replica;
  if (choice->n_seen == 0) {
    tl_metrics_observe(shard, call->api->ttft[replica], now - choice->seq->submitted_ns);
    choice->last_token_ns = now;
    n_new--;
  }
  if (!n_new) return;
  int64_t gap = (now - choice->last_token_ns) / n_new;
  while (n_new--) tl_metrics_observe(shard, call->api->inter_token[replica], gap);
  choice->last_token_ns = now;
}

/* The echoed prompt stands before the generated text and is no stop's business. */
static int echo_prompt(struct api_choice *choice) {
  struct api_call *call = choice->call;
  const struct api_prompt *prompt = &call->prompts[choice->prompt];
  if (!call->params.echo || choice->echoed) return TL_OK;
  choice->echoed = true;
  if (prompt->text) return tl_buffer_append(&choice->text, prompt->text, prompt->length);
  return tl_tokenizer_decode(call->work.serving->tokenizer, prompt->ids + prompt->n_before, prompt->n - prompt->n_before, false,
                             &choice->text);
}

/* An answer's text, behind its stop strings and without its thoughts, is content or has calls in it. */
static int take_content(struct api_choice *choice, const struct tl_buffer *text, bool last) {
  if (choice->call->params.calls == API_CALLS_NAMED)
    return tl_buffer_append(&choice->calls.items[0].arguments, text->data, text->length);
  if (!choice->tools.format) return TL_OK; /* it is in choice->text */
  int r = api_tool_parser_push(&choice->tools, text->data, text->length, &choice->text, &choice->calls);
  if (r == TL_OK && last) r = api_tool_parser_finish(&choice->tools, &choice->text, &choice->calls);
  if (api_only_calls(choice->call)) tl_buffer_clear(&choice->text); /* the beginning of a list that was cut */
  return r;
}

/* Where an answer's text goes: scratch, if somebody has to look at it. */
static struct tl_buffer *content_target(struct api_choice *choice, struct tl_buffer *scratch) {
  return choice->call->params.calls == API_CALLS_NAMED || choice->tools.format ? scratch : &choice->text;
}

static struct tl_buffer *target(struct api_choice *choice, struct tl_buffer *scratch) {
  return choice->thinks.format ? scratch : content_target(choice, scratch);
}

static int take_text(struct api_choice *choice, const struct tl_buffer *text, bool last) {
  if (!choice->thinks.format) return take_content(choice, text, last);
  struct tl_buffer rest;
  tl_buffer_init(&rest, 0);
  int r = api_reasoning_take(choice, text, last, content_target(choice, &rest));
  if (r == TL_OK) r = take_content(choice, &rest, last);
  tl_buffer_done(&rest);
  return r;
}

/* One token's, since thoughts are counted in tokens. */
static int take_thought(struct api_choice *choice, struct tl_buffer *text) {
  bool within = choice->thinks.within;
  int r = take_text(choice, text, false);
  if (within || choice->thinks.within) choice->n_reasoning++;
  tl_buffer_clear(text);
  return r;
}

/* Generated tokens [n_seen, n_out) into choice->text, choice->reasoning and choice->calls. */
static int take_tokens(struct api_choice *choice, uint32_t n_out) {
  const struct tl_sequence *seq = choice->seq;
  struct tl_buffer piece, scratch, *out = target(choice, &scratch);
  tl_buffer_init(&piece, 0);
  tl_buffer_init(&scratch, 0);
  int r = echo_prompt(choice);
  while (r == TL_OK && choice->n_seen < n_out && !choice->stop.hit) {
    int32_t token = seq->tokens[seq->n_prompt + choice->n_seen++];
    /* the token may be seen before the event that says that it was the last */
    if (tl_sequence_is_stop(seq, token)) {
      if (api_is_own_stop(&choice->call->params, token)) choice->stop_id = token;
      choice->ended_by_id = !choice->call->params.include_stop_str_in_output;
    }
    if (choice->ended_by_id) break;
    r = tl_detok_push(&choice->detok, token, &piece);
    if (r == TL_OK) r = api_shown_token(choice, piece.length);
    /* stop strings count only in what comes after min_tokens, as in vLLM */
    if (r == TL_OK && choice->n_seen <= choice->call->params.min_tokens)
      r = tl_buffer_append(out, piece.data, piece.length);
    else if (r == TL_OK)
      r = api_stop_push(&choice->stop, piece.data, piece.length, out);
    tl_buffer_clear(&piece);
    if (r == TL_OK && choice->thinks.format) r = take_thought(choice, &scratch);
  }
  if (r == TL_OK) r = take_text(choice, &scratch, false);
  tl_buffer_done(&piece);
  tl_buffer_done(&scratch);
  return r;
}

/* No more tokens will be looked at: what was held back is text. */
static int close_text(struct api_choice *choice) {
  choice->done = true;
  choice->call->n_open--;
  bool cut = !choice->stop.hit && choice->seq->finish == TL_FINISH_LENGTH;
  struct tl_buffer tail, scratch, *out = target(choice, &scratch);
  tl_buffer_init(&tail, 0);
  tl_buffer_init(&scratch, 0);
  int r = TL_OK;
  if (choice->stop.hit) {
    atomic_store_explicit(&choice->seq->cancel, 1, memory_order_relaxed); /* as in api_call_cancel */
  } else {
    r = tl_detok_finish(&choice->detok, &tail);
    if (r == TL_OK) r = api_stop_push(&choice->stop, tail.data, tail.length, out);
    if (r == TL_OK && !choice->stop.hit) r = api_stop_flush(&choice->stop, out);
  }
  if (r == TL_OK) r = take_text(choice, &scratch, true);
  tl_buffer_done(&tail);
  tl_buffer_done(&scratch);
  /* a call that was asked for by its name ends an answer as any other does, says OpenAI */
  bool called = choice->calls.n && choice->call->params.calls != API_CALLS_NAMED;
  choice->finish = cut ? "length" : called ? "tool_calls" : "stop";
  return r;
}

static void shape_arguments(struct api_choice *choice, unsigned i, struct tl_buffer *out) {
  struct tl_buffer *arguments = &choice->calls.items[i].arguments;
  if (arguments->length) choice->call->reader->shape->call(choice, i, out);
  tl_buffer_clear(arguments);
}

/* Text that comes with the end of a call stands behind it, so what is left of the call goes before the text. */
static void shape_open_call(struct api_choice *choice, struct tl_buffer *out) {
  unsigned i = choice->n_sent_calls;
  if (i < api_n_calls(choice) && choice->calls.items[i].announced) shape_arguments(choice, i, out);
}

/* False: more of it may come. */
static bool shape_call(struct api_choice *choice, unsigned i, struct tl_buffer *out) {
  struct api_tool_call *call = &choice->calls.items[i];
  /* one that was asked for by its name is there before the model has thought; it is the only one, and there is no text */
  bool early = choice->call->params.calls == API_CALLS_NAMED && choice->thinks.format && !call->arguments.length;
  if (early && !call->announced && !choice->done) return false;
  if (!call->announced) choice->call->reader->shape->call(choice, i, out);
  call->announced = true;
  shape_arguments(choice, i, out);
  return i + 1 < choice->calls.n || choice->done;
}

/* Thoughts, tokens and the text before call i. */
static void shape_piece(struct api_choice *choice, unsigned i, struct tl_buffer *out) {
  const struct api_params *params = &choice->call->params;
  struct tl_buffer text = choice->text;
  uint32_t n_told = api_n_told(choice);
  bool tokens = (params->n_top_logprobs >= 0 && api_shown_any(choice, choice->n_sent_logprobs, n_told)) ||
                (params->return_token_ids && choice->n_sent_logprobs < n_told);
  choice->text = api_text_before(choice, i);
  if (choice->text.length || choice->reasoning.length || tokens) choice->call->reader->shape->piece(choice, out);
  choice->text = text;
  choice->n_sent_logprobs = n_told;
  tl_buffer_clear(&choice->reasoning);
}

/* Text and calls in the order in which the model wrote them. */
static void shape_text(struct api_choice *choice, struct tl_buffer *out) {
  unsigned first = choice->n_sent_calls, n = api_n_calls(choice);
  if (choice->text.length || choice->reasoning.length) shape_open_call(choice, out);
  shape_piece(choice, first, out);
  for (unsigned i = first; i < n; i++) {
    choice->n_sent_calls += shape_call(choice, i, out);
    shape_piece(choice, i + 1, out);
  }
  tl_buffer_clear(&choice->text);
  for (unsigned i = first; i < choice->calls.n; i++) choice->calls.items[i].at = 0;
}

static void shape_news(struct api_choice *choice, struct tl_buffer *out) {
  struct api_call *call = choice->call;
  const struct api_shape *shape = call->reader->shape;
  if (shape->begin && !choice->begun) shape->begin(choice, out);
  shape_text(choice, out);
  if (!choice->done) return;
  shape->finish(choice, out);
  choice->sent = true;
  call->n_unsent--;
}

/* A stream that lost some of its text must not end as if it were whole. */
static void fail_for_memory(struct api_call *call) {
  struct tl_error err = {0};
  tl_error_set(&err, TL_ENOMEM, NULL, "out of memory");
  api_call_fail(call, &err);
}

/* False when the call failed and is answered. */
static bool send_news(struct api_choice *choice) {
  struct api_call *call = choice->call;
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  begin_stream(call);
  shape_news(choice, &out);
  if (send_events(call->request, &out)) return true;
  fail_for_memory(call);
  return false;
}

static void finish_stream(struct api_call *call) {
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  call->reader->shape->end(call, &out);
  end_stream(TL_TAKE(&call->request), &out);
}

static void finish_call(struct api_call *call) {
  struct tl_metrics_shard *shard = tl_http_shard(call->api->o.http, call->loop);
  tl_metrics_observe(shard, call->api->generation_seconds, tl_now_ns() - tl_http_began_ns(call->request));
  api_spans_facts(call, call->request);
  if (call->params.stream) {
    finish_stream(call);
    return;
  }
  struct tl_buffer json;
  tl_buffer_init(&json, 0);
  call->reader->shape->answer(call, &json);
  api_respond_buffer(TL_TAKE(&call->request), 200, &json);
}

/* Most likely the fields of the request contradict each other; a model whose output is not numbers ends in the same way. */
static bool nothing_left(const struct api_choice *choice, struct tl_error *err) {
  const struct api_call *call = choice->call;
  if (choice->seq->finish != TL_FINISH_ERROR || (!call->grammar && !call->params.allowed)) return false;
  const char *field = call->grammar ? call->params.constraint.field : "allowed_token_ids";
  return tl_error_set(err, TL_EINVAL, field, "%s: of the tokens that may come next logit_bias, bad_words and allowed_token_ids leave none", field) < 0;
}

static bool failed(const struct api_choice *choice, struct tl_error *err) {
  if (!choice->final) return false;
  if (nothing_left(choice, err)) return true;
  if (choice->seq->finish == TL_FINISH_ERROR || choice->seq->finish == TL_FINISH_FAULT)
    return tl_error_set(err, TL_EDEVICE, NULL, "the device that served this request failed") < 0;
  if (choice->seq->finish == TL_FINISH_EXPIRED) {
    tl_error_set(err, TL_EBUSY, "timeout_ms", "the request did not end within its %lld ms",
                 (long long)choice->call->params.timeout_ms);
    err->http_status = 504;
    return true;
  }
  if (choice->seq->finish != TL_FINISH_CANCELLED) return false;
  tl_error_set(err, TL_EBUSY, NULL, "the server is shutting down");
  err->http_status = 503;
  return true;
}

/* New tokens become text as they come, whether or not the client reads: stop
 * strings end the work in any case. False when the call failed and is answered. */
static bool advance_text(struct api_choice *choice) {
  struct api_call *call = choice->call;
  struct tl_error err = {0};
  if (failed(choice, &err)) {
    api_call_fail(call, &err);
    return false;
  }
  /* pairs with the worker's release store: tokens below n_out are written */
  uint32_t n_out = atomic_load_explicit(&choice->seq->n_out, memory_order_acquire);
  if (n_out == choice->n_seen && !choice->final) return true;
  if (n_out > choice->n_seen) observe_tokens(choice, n_out - choice->n_seen);
  int64_t began_ns = api_span_now(call);
  int r = take_tokens(choice, n_out);
  if (r == TL_OK && (choice->final || choice->stop.hit)) r = close_text(choice);
  api_span_text(choice, began_ns);
  if (r == TL_OK) return true;
  fail_for_memory(call);
  return false;
}

/* Its sequence is final and what is left of its text takes less memory as bytes to be
 * written than the call does: they are queued though the client is slow, so that the
 * call need not stay for as long as that takes to read. */
static bool may_queue_rest(const struct api_choice *choice) {
  const struct api_call *call = choice->call;
  if (!choice->final) return false;
  size_t token_bytes = call->params.n_top_logprobs < 0 ? 0 : (size_t)(1 + call->params.n_top_logprobs) * LOGPROB_BYTES;
  if (call->params.return_token_ids) token_bytes += ID_BYTES;
  size_t n_text = choice->text.length + 2 * choice->reasoning.length; /* which has two names */
  for (unsigned i = choice->n_sent_calls; i < api_n_calls(choice); i++) n_text += choice->calls.items[i].arguments.length + CALL_BYTES;
  size_t bytes = 2 * n_text + (choice->n_seen - choice->n_sent_logprobs) * token_bytes;
  if (call->response) bytes += api_response_rest(call->response, bytes);
  size_t most = call->arena.used_bytes > REST_BYTES ? call->arena.used_bytes : REST_BYTES;
  return bytes <= most / call->n_choices;
}

void api_choice_advance(struct api_choice *choice) {
  struct api_call *call = choice->call;
  if (choice->sent || (!choice->done && !advance_text(choice))) return;
  if (!call->params.stream) {
    if (call->n_open == 0) finish_call(call);
    return;
  }
  if (choice->n_seen == 0 && !choice->done) return; /* nothing to say yet */
  if (call->began && !tl_http_writable(call->request) && !may_queue_rest(choice)) return; /* on_writable goes on */
  if (send_news(choice) && call->n_unsent == 0) finish_call(call);
}

void api_call_resume(struct api_call *call) {
  for (unsigned i = 0; i < call->n_choices && call->request; i++) api_choice_advance(&call->choices[i]);
}
