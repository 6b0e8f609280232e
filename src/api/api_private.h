/* SPDX-License-Identifier: MIT */
/* What the files of this room share. A call is one request with its choices;
 * it lives in an arena of its own, on one loop, until its last sequence is final. */
#ifndef API_PRIVATE_H
#define API_PRIVATE_H

#include <jansson.h>
#include <stdatomic.h>

#include "tokenlane/base/json.h"
#include "api/reasoning_formats.h"
#include "api/tool_formats.h"
#include "tokenlane/api.h"
#include "tokenlane/base/arena.h"
#include "tokenlane/base/buffer.h"
#include "tokenlane/grammar.h"
#include "tokenlane/text_lane.h"

#define API_LANE_BYTES 8192 /* of a body: about 100 us of work, more is for a text lane */
#define API_MAX_STOPS 32 /* OpenAI has 4, vLLM any number */
#define API_MAX_STOP_IDS 128
#define API_MAX_BAD_WORDS 128
#define API_MAX_DEPTH 64
#define API_MAX_NODES 1000000 /* values in a body, see body.c */
#define API_NO_TOP_K (-2)
#define API_MAX_SALT_BYTES 256
#define API_MAX_REQUEST_ID 64
#define API_FINGERPRINT_BYTES 40
#define API_ARENA_LIMIT ((size_t)1 << 30)
#define API_MOST_FAULTS 2       /* steps of a sequence that failed: then it is not tried again, see resubmit.c */
#define API_PATIENCE TL_SEC(60) /* a replica that comes back does so by then: health.max_backoff_ms */

enum api_endpoint {
  API_COMPLETIONS = 1,
  API_CHAT = 2,
  API_BOTH = 3,
  API_EMBEDDINGS = 4,
  API_RERANK = 8,
  API_SCORE = 16,
  API_PAIRS = 24,
  API_VECTORS = 28, /* those of models that pool */
  API_TEMPLATE = 32, /* what the chat template sees, which /tokenize takes too */
  API_RESPONSES = 64,
  API_MESSAGES = 128,
  API_COUNT = 256, /* tokens of messages */
  API_GENERATE = 195, /* those that generate */
  API_ALL = 479,
};

/* Whether calls of tools are looked for in an answer, or are what it must be. */
enum api_calls {
  API_CALLS_OFF,      /* no tools, or tool_choice none */
  API_CALLS_AUTO,     /* the model may call, in the way that it was taught */
  API_CALLS_REQUIRED, /* a list of calls, by the grammar */
  API_CALLS_NAMED,    /* the arguments of one call, by the grammar */
};

/* --- fields.c: the checked fields of a request ------------------------------------ */
struct api_params {
  const char *model; /* NULL: not given */
  unsigned served;   /* which of the served models it is */
  unsigned adapter;  /* and which of its adapters + 1; 0: none */
  json_t *prompt, *messages; /* borrowed from the body */
  json_t *tools, *documents, *chat_template_kwargs; /* as they are; NULL: not given */
  json_t *chat_template;     /* a template's name or source; NULL: not given */
  bool add_generation_prompt, continue_final_message, add_special_tokens;
  int64_t n, max_tokens, max_completion_tokens, min_tokens; /* -1: not given */
  double temperature, top_p, min_p;                         /* -1: not given */
  int64_t top_k;                                            /* -1 and 0: off; API_NO_TOP_K: not given */
  double presence_penalty, frequency_penalty, repetition_penalty; /* repetition: -1 not given */
  int64_t seed;
  bool has_seed, stream, include_usage, continuous_usage, echo, ignore_eos;
  enum tl_priority priority;
  int64_t timeout_ms;     /* 0: none */
  const char *cache_salt; /* NULL: not given */
  size_t cache_salt_length;
  int64_t n_top_logprobs;  /* -1: no log-probabilities; else how many alternatives */
  int64_t prompt_logprobs; /* the same of the prompt's tokens, as vLLM has it */
  const char *request_id;  /* NULL: not given; else the end of the answer's id */
  struct { const char *text; size_t length; } stop[API_MAX_STOPS];
  unsigned n_stop;
  bool return_token_ids, return_tokens_as_token_ids; /* beside the text; in log-probabilities, instead of it */
  bool skip_special_tokens;        /* they have no text; true unless set */
  bool include_stop_str_in_output; /* what stops it stays in the text, a stop id's too */
  json_t *stop_token_ids, *bad_words, *allowed_token_ids; /* as messages; token_fields.c reads them into the next */
  const uint32_t *allowed;     /* (TL_MASK_WORDS(vocab_size)) or NULL: all */
  const int32_t *stop_ids;         /* (n_stop_ids) the client's, then the model's EOS; in the call's arena or the model */
  uint32_t n_stop_ids, n_own_stop_ids, n_bad_spellings;
  struct tl_bad_word *bad_spellings; /* (n_bad_spellings) in tokens; in the call's arena */
  struct tl_token_bias *bias; /* in the call's arena */
  uint32_t n_bias;
  json_t *prediction;        /* as messages: its content; NULL: not given */
  bool predicts;             /* it was, also once the body is gone */
  json_t *system;            /* as messages, with those of /v1/messages */
  json_t *input, *query, *text_1, *text_2; /* as messages; each checked as far as its own kind goes */
  json_t *instructions;  /* as messages, with an input of /v1/responses */
  int64_t dimensions, top_n;      /* 0: not given */
  int64_t truncate_prompt_tokens; /* 0: not given; -1: what the model takes */
  bool base64, return_documents;
  struct tl_grammar_source constraint; /* what the answer is held to; field NULL: nothing. json is owned, until it is compiled */
  enum api_calls calls;
  const struct api_tool_types *tool_types; /* of API_CALLS_AUTO, once the body is gone; in the call's arena */
  const char *tool_name; /* of API_CALLS_NAMED */
  size_t tool_name_length;
  bool parallel_tool_calls; /* false: at most one call */
  const char *tool_schema, *tool_chosen; /* what the client calls the schema of a tool, and the name in a tool_choice */
  bool split_reasoning, include_reasoning; /* thoughts are no content; and the client sees them */
  const char *reasoning_effort; /* one of a few constants; NULL: not given */
};
/* Reads and checks every field of the table that the endpoint has; strings stay borrowed from body.
 * API_TEMPLATE: fields that it does not know are the caller's. */
int api_fields_read(const struct tl_api *api, enum api_endpoint endpoint, json_t *body, struct tl_arena *arena,
                    struct api_params *ret, struct tl_error *err);
/* Refuses members that are neither the endpoint's fields nor among others (ended by NULL; NULL: none). */
int api_check_names(enum api_endpoint endpoint, const char *const *others, json_t *body, struct tl_error *err);
/* --- token_fields.c ---------------------------------------------------------------- */
/* logit_bias, of up to so many entries, which are in the arena: whether the model has the tokens is seen later. */
int api_read_logit_bias(struct api_params *params, struct tl_arena *arena, json_t *value, size_t most, struct tl_error *err);
struct api_call;
/* The fields that speak of tokens, once it is known which model's. As work.read. */
int api_token_fields(struct api_call *call, struct tl_error *err);
/* Whether the client chose this id to end an answer, and the model's EOS did not do so before. */
bool api_is_own_stop(const struct api_params *params, int32_t id);

/* --- structured.c: what an answer is held to ---------------------------------------- */
/* One of the fields that say so, which is not null. */
int api_structured_read(struct api_params *params, const char *field, json_t *value, struct tl_error *err);
/* All fields are read: tools and tool_choice come together. */
int api_structured_settle(struct api_params *params, struct tl_arena *arena, struct tl_error *err);

/* A schema that the client gave in `field`, as an object or a string. */
int api_structured_schema(struct api_params *params, const char *field, json_t *schema, struct tl_error *err);

/* --- messages_read.c: one of the fields of /v1/messages that are not as a chat's; what they hold becomes as a chat's. */
int api_messages_read(struct api_params *params, const char *field, json_t *value, struct tl_error *err);

/* --- prediction.c: what the client expects to come ------------------------------------- */
int api_prediction_read(struct api_params *params, json_t *value, struct tl_error *err);
/* Its tokens, where such are guessed at all. As work.read. */
int api_prediction_prepare(struct api_call *call, struct tl_error *err);
/* How many guesses of all choices were right, and how many not: members of an object. */
void api_prediction_usage(const struct api_call *call, struct tl_buffer *out);

/* --- ids.c ------------------------------------------------------------------------- */
/* Whether a prompt or an input is a list of such: one that does not begin with a number. */
bool api_has_several(const json_t *value);
/* The first n items of a list, which are to be ids of the model's tokens; field: of the list. */
int api_read_ids(const json_t *list, size_t n, const struct tl_model *model, const char *field, int32_t *ret, struct tl_error *err);
/* What a tokenizer made: it can know tokens that the model has no row for, such as one that was added later. */
int api_check_rows(const int32_t *ids, size_t n, const struct tl_model *model, const char *field, struct tl_error *err);

/* api_wrong.c: "a string", "the number 3.5", ...: what a value is, for messages; into text[64]. */
const char *api_value_text(const json_t *value, char *text);
/* "FIELD: expected EXPECTED, got ..."; returns TL_EINVAL. */
int api_wrong(struct tl_error *err, const char *field, const char *expected, const json_t *value);

/* --- body.c: bytes to JSON, hostile ones included ----------------------------------- */
/* Scans once: depth, node budget, no NUL; then jansson. The object, owned by the caller. */
int api_body_read(const char *text, size_t length, json_t **ret, struct tl_error *err);
/* JSON within a string of the body: as api_body_read, but any value, and *budget (API_MAX_NODES at first) is
 * what all of them may have together. NULL: it is none, or too large. */
json_t *api_body_read_inner(const json_t *text, size_t *budget);
/* The scan alone: depth <= API_MAX_DEPTH, values and members within the budget. */
int api_body_scan(const char *text, size_t length, size_t max_nodes, struct tl_error *err);

/* --- work.c: the reading of a request, off the loop when it is large ------------------- */
struct api_work {
  struct tl_text_job job; /* first */
  struct tl_api *api;
  unsigned model;                   /* which is asked, and what serves it: the first until api_work_choose */
  const struct tl_serving *serving;
  struct tl_http_request *request; /* NULL once the client left */
  struct tl_buffer bytes;          /* the body, on a lane */
  _Atomic int left;                /* the loop: the client left, nobody wants the result */
  bool has_grammar;                /* maybe one is to be compiled: a lane does it, however small the body is */
  bool on_lane;                    /* read by a text lane */
  const char *text;                /* (length) the body */
  size_t length;
  struct tl_error err;             /* of read */
  /* On the loop or on a lane: from the body to what finish needs. Touches nothing
   * that is not the work's own or constant. Negative with err filled. */
  int (*read)(struct api_work *work, struct tl_error *err);
  /* On the loop, owns the work from here on: answers, or gives up if request is NULL. */
  void (*finish)(struct api_work *work);
};
/* Whether the body may ask for a grammar to be compiled. */
bool api_work_has_grammar(struct tl_http_request *request);
/* work is zeroed but for read, finish and has_grammar. False when nothing is served now: it is
 * answered, and work is the caller's to free. */
bool api_work_run(struct api_work *work, struct tl_api *api, struct tl_http_request *request);
/* read has found which model is asked; once. */
void api_work_choose(struct api_work *work, unsigned model);
/* Whether to stop reading: looked at between the stages of a long one. Any thread. */
bool api_work_left(struct api_work *work);
/* A work that came back from a lane. */
void api_work_done(struct tl_text_job *job);

/* --- stop.c: stop strings across token borders ----------------------------------------- */
struct api_stop {
  const struct api_params *params;
  struct tl_buffer pending; /* text that may still become part of a stop string */
  bool hit;
  unsigned which;           /* hit: index of the string */
};
/* A list of stop strings, or one alone where the endpoint has that; borrowed. */
int api_read_stops(struct api_params *params, const char *field, json_t *value, bool alone, size_t most_bytes, struct tl_error *err);
void api_stop_init(struct api_stop *stop, const struct api_params *params);
void api_stop_done(struct api_stop *stop);
/* Adds text; appends to out what is certain to belong to the answer. */
int api_stop_push(struct api_stop *stop, const char *text, size_t length, struct tl_buffer *out);
/* End of the sequence: what was held back belongs to the answer. */
int api_stop_flush(struct api_stop *stop, struct tl_buffer *out);

/* --- calls ------------------------------------------------------------------------------ */

/* How an endpoint's answers look (shape.c). The functions run on the call's loop and append to out: whole events of a
 * stream, or the body of an answer. What has no memory stays in out->failed. */
struct api_choice;
struct api_shape {
  const char *id_prefix;    /* of the answer's id */
  const char *prompt_field, *length_field; /* where a request has its prompt, and how long an answer may be: for errors */
  const char *operation;    /* what traces call it */
  /* A choice in a stream: begin first, unless NULL; pieces and calls as they come; finish last. */
  void (*begin)(struct api_choice *choice, struct tl_buffer *out);
  /* choice->text, and the tokens behind n_sent_logprobs when their ids or log-probabilities are wanted. */
  void (*piece)(struct api_choice *choice, struct tl_buffer *out);
  /* Of calls.items[i]: its id and name when it is not announced yet, else the arguments that have come since. */
  void (*call)(struct api_choice *choice, unsigned i, struct tl_buffer *out);
  void (*finish)(struct api_choice *choice, struct tl_buffer *out);
  void (*end)(struct api_call *call, struct tl_buffer *out); /* of the stream */
  void (*error)(struct api_call *call, const struct tl_error *err, struct tl_buffer *out); /* ends it instead */
  void (*answer)(struct api_call *call, struct tl_buffer *out); /* the body of an answer that is no stream */
};
extern const struct api_shape api_chat_shape, api_completions_shape, api_responses_shape, api_messages_shape;

/* How an endpoint's prompts are read; both as work.read. */
struct api_reader {
  enum api_endpoint endpoint;
  const struct api_shape *shape; /* of its answers */
  /* How many prompts there are, and the least that is known of their lengths: cheap. */
  int (*outline)(struct api_call *call, struct tl_error *err);
  /* Their tokens. */
  int (*prepare)(struct api_call *call, struct tl_error *err);
};

struct api_prompt {
  int32_t *ids;      /* in the call's arena */
  uint32_t n;        /* before they are there: the fewest that they can be */
  const char *text;  /* as the client sent it; NULL when it sent ids, it was cut, or once it is not needed */
  size_t length;
  uint32_t n_before; /* ids that the tokenizer put before the text (BOS) */
};

/* shown.c */
struct api_shown {
  bool on;                 /* some may be hidden */
  struct tl_buffer tokens; /* uint32_t of each generated token: what is decided of it, or where its text ends */
  uint32_t n_decided, at;  /* so many are decided; their text ends there */
  uint32_t n_bytes, n_taken, seen; /* of all their text; what the parser of thoughts has had; where what is seen ends */
};

/* A block of a message's content. */
enum api_block { API_BLOCK_NONE, API_BLOCK_THINKING, API_BLOCK_TEXT, API_BLOCK_TOOL_USE };

struct api_choice {
  struct api_call *call;
  struct tl_sequence *seq;  /* in the call's arena; NULL until it is made */
  unsigned index;           /* as the client sees it */
  unsigned prompt;          /* which prompt */
  struct tl_room room;      /* what seq holds of its replica */
  uint32_t n_seen;          /* generated tokens already turned into text */
  uint32_t n_sent_logprobs; /* tokens whose ids and log-probabilities were sent (streams) */
  bool final;               /* the engine's last event has come */
  struct api_choice *next_stranded; /* waits for a replica after a fault */
  int64_t stranded_ns;      /* since when */
  bool begun, echoed;       /* the first chunk is out; completions: the prompt is in the text */
  bool ended_by_id;         /* the last token seen is a stop id that has no text */
  int32_t stop_id;          /* the client's id that ended it; -1: none did */
  bool done;                /* text complete, finish known */
  bool sent;                /* streams: its last chunk is out */
  const char *finish;       /* "stop", "length", ...; NULL while open */
  struct tl_detok detok;
  struct api_stop stop;
  struct tl_buffer text;    /* whole text (plain answers), or the unsent piece (streams) */
  struct tl_buffer reasoning; /* what the model thought before it, likewise */
  struct api_reasoning_parser thinks; /* finds thoughts in the answer; format NULL: none are looked for */
  uint32_t n_reasoning;     /* tokens of them, with their marks */
  struct api_shown shown;   /* whose log-probabilities are told */
  struct api_tool_parser tools; /* finds calls in the answer; format NULL: none are looked for */
  struct api_tool_calls calls;
  unsigned n_sent_calls;    /* streams: calls that are out whole; those behind them as far as they have come */
  unsigned n_blocks;        /* messages_shape.c: of a stream, so many have begun */
  enum api_block block;     /* and this is open */
  uint32_t text_offset;     /* characters of text sent so far (completions' text_offset) */
  int64_t last_token_ns;
  int64_t text_began_ns, text_ended_ns, text_busy_ns; /* spans.c: making text of its tokens */
};

/* spans.c: when the stages of reading began; all 0 when nobody records. */
struct api_read_times {
  int64_t began_ns, tokenizing_ns, ended_ns;
};

struct api_call {
  struct api_work work; /* first: until the call begins */
  const struct api_reader *reader;
  struct api_response *response; /* of /v1/responses alone, see responses.h; in the arena */
  unsigned retry_after_s; /* of an error of work.read */
  struct tl_api *api;
  struct tl_http_request *request; /* NULL before it begins, and once answered or aborted */
  unsigned loop;
  enum api_endpoint endpoint;
  struct tl_arena arena;
  json_t *body;
  struct api_params params;
  char id[24 + API_MAX_REQUEST_ID];
  uint64_t number;      /* unique in the process, not 0 */
  int64_t created_s;
  enum api_reasoning_start reasoning_start;
  struct tl_grammar *grammar; /* what each choice is held to; NULL: nothing */
  int32_t *predicted;         /* (n_predicted) what the client expects to come, in the arena */
  uint32_t n_predicted;
  struct api_prompt *prompts;
  unsigned n_prompts;
  struct api_choice *choices;
  unsigned n_choices;
  unsigned n_live;      /* sequences not yet final */
  unsigned n_open;      /* choices whose text is not complete */
  unsigned n_unsent;    /* streams: choices whose last chunk is not out */
  bool began;           /* streams: header sent */
  struct tl_trace_context trace; /* span_id 0: nothing is traced */
  struct api_read_times read_times;
};

/* request.c: the prefix and 16 digits, unlike all others of the process; returns the number behind it, not 0. */
uint64_t api_make_id(struct tl_api *api, unsigned loop, const char *prefix, char ret[40]);
/* A large body, or one that is to be read by a lane, is not even parsed while nobody has room for one token. False: it is answered. */
bool api_may_read(struct tl_api *api, struct tl_http_request *request, bool has_grammar);
/* Tokens are in call->prompts: makes choices and sequences, reserves, submits.
 * On error nothing is left behind and the caller answers. */
int api_call_start(struct api_call *call, unsigned *ret_retry_after_s, struct tl_error *err);
struct api_call *api_call_new(struct tl_api *api, struct tl_http_request *request, const struct api_reader *reader);
/* How many tokens the client wants made; -1: not given. */
int64_t api_wanted_tokens(const struct api_call *call);
/* The error of a prompt that alone has more tokens than a sequence can hold. */
int api_too_long(const struct api_call *call, struct tl_error *err);
/* Frees a call none of whose sequences is live. */
void api_call_free(struct api_call *call);
/* Engine's event for a sequence. */
void api_on_event(struct tl_sequence *seq, bool final, void *context);
int64_t api_cost(const struct tl_sequence *seq);
/* A sequence is final: counted, and the call freed when it was the last. */
void api_choice_ended(struct api_choice *choice);
/* The whole life of a generation request: read, looked whether there is room, tokenized, started. */
void api_generate(struct tl_api *api, struct tl_http_request *request, const struct api_reader *reader);

/* spans.c: the request's trace; without one they only look. */
void api_spans_begin(struct api_call *call, struct tl_http_request *request);
/* The time if the call is recorded, else 0. Any thread. */
int64_t api_span_now(const struct api_call *call);
/* Reading is over: spans of parsing and tokenizing. */
void api_spans_read(const struct api_call *call);
/* The same of any request; n_tokens: of all its texts. */
void api_spans_of_reading(struct tl_api *api, unsigned loop, const struct tl_trace_context *trace, const struct api_work *work,
                          const struct api_read_times *times, int64_t n_tokens);
/* room NULL: there was none. */
void api_span_routed(const struct api_work *work, unsigned loop, const struct tl_trace_context *trace, int64_t began_ns,
                     const struct tl_room *room);
void api_span_route(const struct api_call *call, int64_t began_ns, const struct tl_room *room);
/* Some tokens have become text. */
void api_span_text(struct api_choice *choice, int64_t began_ns);
/* The call is about to be freed. */
void api_spans_end(const struct api_call *call);
/* What the root span says of the call. Before the answer ends, or in on_abort. */
void api_spans_facts(const struct api_call *call, struct tl_http_request *request);
/* A request that was accepted ends with an error. */
void api_log_failed_request(const struct api_work *work, struct tl_http_request *request, const struct tl_trace_context *trace, const struct tl_error *err);
void api_log_failure(const struct api_call *call, struct tl_http_request *request, const struct tl_error *err);

/* grammar_cache.c: grammars that one thread compiled lately. NULL: no memory. */
struct api_grammar_cache *api_grammar_cache_new(void);
void api_grammar_cache_free(struct api_grammar_cache *cache);
/* As tl_grammar_compile with the default limits. The caller releases. The cache's thread. */
int api_grammar_cache_get(struct api_grammar_cache *cache, const struct tl_vocabulary *vocabulary,
                          const struct tl_grammar_source *source, struct tl_grammar **ret, struct tl_error *err);

/* constrain.c: compiles what the request's answer is held to, if anything. Loop or lane. */
int api_constrain(struct api_call *call, struct tl_error *err);
/* Gives a sequence its matcher. */
int api_constrain_sequence(struct api_call *call, struct tl_sequence *seq, struct tl_error *err);
/* Frees grammar and matchers, of a call as far as it came. */
void api_constrain_done(struct api_call *call);
void api_constrain_metrics(struct tl_api *api);

/* reasoning.c: how hard to think, by one of OpenAI's words; field: what the client calls it. */
int api_reasoning_effort(struct api_params *params, const char *field, json_t *value, struct tl_error *err);
/* Variables of the template, with what reasoning_effort asks for; takes: of the template. *ret is the caller's, errors or not. */
int api_reasoning_kwargs(const struct api_params *params, unsigned takes, json_t **ret, struct tl_error *err);
/* What the prompt says of the answer's beginning; its messages are still there. TL_ENOMEM. */
int api_reasoning_look(struct api_call *call, const struct tl_tokens *tokens);
/* How thoughts are found in the choice's text; its tools are known. */
void api_reasoning_begin(struct api_choice *choice);
void api_reasoning_done(struct api_choice *choice);
/* Text of the answer into choice->reasoning, and what is none into rest; last: there is no more. TL_ENOMEM. */
int api_reasoning_take(struct api_choice *choice, const struct tl_buffer *text, bool last, struct tl_buffer *rest);
/* shown.c: thoughts are looked for, in a way that is known. */
void api_shown_begin(struct api_choice *choice);
/* The next token, which gave so many bytes of text. TL_ENOMEM. */
int api_shown_token(struct api_choice *choice, size_t n_bytes);
/* As parsing does, with a look at what comes of it. Where it is on. */
int api_shown_take(struct api_choice *choice, const struct tl_buffer *text, struct tl_buffer *rest);
int api_shown_finish(struct api_choice *choice, struct tl_buffer *rest);
/* Whether the client sees one of the generated tokens [from, to). */
bool api_shown_any(const struct api_choice *choice, uint32_t from, uint32_t to);
/* Generated tokens of the answer that the client may be told of by now. */
uint32_t api_n_told(const struct api_choice *choice);

/* What is thought before an answer is free. */
void api_reasoning_free_thoughts(const struct api_call *call, struct tl_matcher *matcher);

/* resubmit.c: the choice's device failed, its sequence is the loop's again. False: it
 * ends here (seq->finish says how). */
bool api_resubmit(struct api_choice *choice);
/* Tries again for those that found no room. */
void api_retry_stranded(struct tl_api *api, unsigned loop);
/* The call is over: those of its choices that wait for room end now. */
void api_end_stranded(struct api_call *call);

/* stream.c: new tokens of a choice into text, chunks and answers. Sends the
 * answer when it is complete, and then call->request is NULL. */
void api_choice_advance(struct api_choice *choice);
/* The client can take more: goes on with every choice. */
void api_call_resume(struct api_call *call);
/* Answers with an error (in the stream when it has begun) and cancels what runs. */
void api_call_fail(struct api_call *call, const struct tl_error *err);
void api_call_cancel(struct api_call *call);

/* logprobs.c: log-probabilities of the tokens [from, to), by index in the
 * sequence (prompt first), in the shape of the call's endpoint. */
void api_logprobs(struct api_choice *choice, uint32_t from, uint32_t to, struct tl_buffer *out);
/* Those of chat, without what is around them. */
void api_token_logprobs(const struct api_choice *choice, uint32_t from, uint32_t to, struct tl_buffer *out);
/* Of all the prompt's, as a member of an answer, if they were asked for. */
void api_prompt_logprobs(const struct api_choice *choice, struct tl_buffer *out);

/* Whether a grammar makes calls of the whole answer: it has no content. */
bool api_only_calls(const struct api_call *call);
/* How many of the calls that a model wrote the client sees: where it may make one, the first. */
unsigned api_n_calls(const struct api_choice *choice);
/* The text between call i and the one before it, i = api_n_calls: behind the last; of a stream, what was not sent of it. Borrowed. */
struct tl_buffer api_text_before(const struct api_choice *choice, unsigned i);
/* The id of calls.items[i], unlike all others of the process. */
void api_call_id(const struct api_choice *choice, unsigned i, char ret[24]);
/* Of each prompt as its first choice met it, since the prompt counts once. */
unsigned long long api_cached_tokens(const struct api_call *call);
/* The model's name as the client gave it. */
const char *api_model_name(const struct api_call *call);

/* json_out.c */
void api_json_string(struct tl_buffer *out, const char *text, size_t length);
void api_json_number(struct tl_buffer *out, double value);
/* flags: jansson's. */
int api_json_value(struct tl_buffer *out, const json_t *value, size_t flags);

/* vector_call.c: a final event of a sequence of a model that pools. */
void api_vectors_event(struct tl_sequence *seq);
/* Calls whose inputs found no room try again. */
void api_vectors_retry(struct tl_api *api, unsigned loop);

/* api_error.c */
int api_error_status(const struct tl_error *err);
void api_error_json(struct tl_buffer *out, const struct tl_error *err);
void api_respond_error(struct tl_http_request *request, const struct tl_error *err, unsigned retry_after_s);
/* Anthropic's, for /v1/messages; the others choose by the request's path. */
void api_messages_error_json(struct tl_buffer *out, const struct tl_error *err);
const char *api_http_error(const struct tl_http_request *request, int status, const char *message, struct tl_buffer *out);
void api_respond_buffer(struct tl_http_request *request, int status, struct tl_buffer *body);

/* api_keys.c: 0, or 401 for a request that shows no key though it has to. The context is the api. */
int api_guard(struct tl_http_request *request, void *context, const char **ret_text);
void api_keys_free(struct tl_api *api);

/* chat.c, completions.c, models.c, tokenize.c: their handlers. */
/* Tokens of a conversation; its messages may be changed. field: what the client calls them. */
int api_chat_tokens(struct tl_api *api, const struct tl_serving *serving, const struct api_params *params, const char *field,
                    struct tl_tokens *out, struct tl_error *err);
/* As a reader's: one prompt, and its tokens, which are those of params.messages. */
int api_chat_outline(struct api_call *call, struct tl_error *err);
int api_chat_prepare(struct api_call *call, struct tl_error *err);
int api_register_chat(struct tl_api *api, struct tl_error *err);
int api_register_completions(struct tl_api *api, struct tl_error *err);
int api_register_responses(struct tl_api *api, struct tl_error *err);
int api_register_models(struct tl_api *api, struct tl_error *err);
/* tokenize.c: a request whose answer is there when it has been read: read, as a work's, writes it into out. */
struct api_text_work {
  struct api_work work; /* first */
  struct tl_buffer out;
};
void api_text_run(struct tl_api *api, struct tl_http_request *request,
                  int (*read)(struct api_work *work, struct tl_error *err));
/* Conversations whose tokens are counted. */
struct api_counted {
  enum api_endpoint endpoint; /* of the fields */
  const char *field;          /* where the conversation is */
  /* Makes messages of it, the caller's; NULL: they are there. */
  int (*convert)(struct api_params *params, json_t **ret, struct tl_error *err);
  const char *members; /* of the answer, before the count; JSON, a comma behind each */
};
/* As read of an api_text_work: answers with how many there are. */
int api_read_count(struct api_work *work, const struct api_counted *counted, struct tl_error *err);
int api_register_messages(struct tl_api *api, struct tl_error *err);
int api_register_tokenize(struct tl_api *api, struct tl_error *err);
int api_register_vectors(struct tl_api *api, struct tl_error *err);
/* A request for one of a model's adapters + 1; 0: for none. The loop's thread. */
void api_count_adapter(const struct tl_api *api, unsigned loop, unsigned model, unsigned adapter);
/* An error that names the work's model and what it does, unless the endpoint is one for it. Any thread. */
int api_check_task(const struct api_work *work, enum api_endpoint endpoint, struct tl_error *err);
/* Which model has this id or alias, or an adapter of this name: then *ret_adapter is its number + 1, else 0. Errors: 400 for no
 * string, else 404. */
int api_find_model(const struct tl_api *api, const json_t *model, unsigned *ret, unsigned *ret_adapter, struct tl_error *err);
/* What serves each of the models, or NULL and a 503 error while loading or draining. */
const struct tl_serving *api_serving(struct tl_api *api, struct tl_error *err);

struct api_vectors;
struct api_loop {
  TL_ALIGNED uint64_t n_ids;    /* the loop's own, as the next */
  struct api_vectors *waiting;  /* inputs of theirs found no room yet */
  struct api_choice *stranded;  /* their sequences are the loop's: no replica could take them yet */
};

struct tl_api {
  struct tl_api_options o;
  struct tl_text_lanes *lanes; /* NULL: loops read all requests themselves */
  struct api_grammar_cache **caches; /* (n_caches) one for each lane, or for each loop without lanes */
  unsigned n_caches;
  uint64_t key[2];          /* random, of the process: ids and default seeds */
  uint64_t key_words[4];    /* likewise: what clients' keys are hashed with */
  char (*fingerprints)[API_FINGERPRINT_BYTES]; /* (models) */
  struct api_tools *tools; /* (models) how each writes calls */
  struct api_reasoning *reasoning; /* (models) and what it thinks */
  int64_t created_s;
  struct api_loop *loops;
  tl_metric *ttft, *inter_token; /* (replicas of all models) */
  tl_metric *adapters;           /* (adapters of all models) requests, the first model's first */
  tl_metric structured[TL_GRAMMAR_ONE_CALL + 1]; /* by enum tl_grammar_kind */
  tl_metric generation_seconds, cancelled, resubmitted, pooling_seconds, pooled_inputs;
  /* set once by the main thread, read by loops */
  TL_ALIGNED _Atomic(const struct tl_serving *) serving;
  _Atomic(const struct api_keys *) keys; /* NULL: nobody has to show one. Set by the main thread */
  _Atomic int draining;
  TL_ALIGNED _Atomic int64_t lane_bytes; /* of bodies that are with lanes */
  TL_ALIGNED _Atomic unsigned active;
  _Atomic unsigned n_stranded; /* over all loops, of both lists: whether somebody has to wake them */
};

#endif
