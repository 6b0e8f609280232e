/* SPDX-License-Identifier: MIT */
/* Requests to a model that pools: /v1/embeddings, /v1/rerank, /v1/score. A call has one or many
 * inputs; each is one sequence, and the router spreads them over replicas.
 *
 *   body ─► fields ─► inputs with their tokens ─► as many as find room are submitted
 *                                                   │ final event: vector there ─► answer grows, the next one is submitted
 *                                                   │ final event: FAULT ─► submitted again, elsewhere
 *                                                   └ all there ─► answered, freed
 *
 * It lives in an arena of its own, on one loop, until its last sequence is final. */
#ifndef API_VECTORS_H
#define API_VECTORS_H

#include "api/api_private.h"

struct api_vectors;

struct api_input {
  struct api_vectors *call;
  int32_t *ids;      /* (n) in the call's arena */
  uint8_t *types;    /* (n) token types; NULL: all 0 */
  uint32_t n;
  struct tl_sequence *seq; /* NULL until it is first submitted */
  struct tl_room room;
  bool runs, done;
  float score;             /* rerank, score: once it is done */
  const char *text;        /* rerank: the document, if the answer is to have it */
  size_t length;
  struct api_input *next_again; /* came back and is to be submitted again */
};

/* What the endpoints differ in. */
struct api_vector_kind {
  enum api_endpoint endpoint;
  const char *id_prefix, *operation; /* of the answer's id; for the trace */
  /* From call->params to call->inputs with their tokens. As work.read. */
  int (*read)(struct api_vectors *call, struct tl_error *err);
  /* The next input in order has its vector: adds it to the answer, or keeps its score. */
  void (*take)(struct api_vectors *call, struct api_input *input);
  /* All were taken: ends the answer. */
  void (*close)(struct api_vectors *call);
};

struct api_vectors {
  struct api_work work; /* first: until the call begins */
  const struct api_vector_kind *kind;
  struct tl_api *api;
  struct tl_http_request *request; /* NULL before it begins, and once answered or aborted */
  unsigned loop;
  struct tl_arena arena;
  json_t *body;         /* NULL once its tokens are made */
  struct api_params params;
  char id[40];
  int64_t created_s;
  struct api_input *inputs;
  unsigned n_inputs;
  unsigned n_begun;     /* inputs that were submitted, in order */
  struct api_input *again; /* of these, the ones that came back; a stack */
  unsigned n_live;      /* sequences not yet final */
  unsigned window;      /* most of them at a time */
  unsigned n_taken;     /* inputs that are in the answer */
  uint64_t n_tokens;    /* of all inputs */
  struct tl_buffer out; /* the answer */
  bool waits;           /* in its loop's list: inputs that found no room */
  struct api_vectors *next_waiting;
  int64_t waits_since_ns, deadline_ns; /* by tl_now_ns; 0: none */
  unsigned retry_after_s;
  struct tl_trace_context trace; /* span_id 0: nothing is traced */
  struct api_read_times read_times;
};

/* vector_read.c: as api_vector_kind.read */
int api_read_embeddings(struct api_vectors *call, struct tl_error *err);
int api_read_rerank(struct api_vectors *call, struct tl_error *err);
int api_read_score(struct api_vectors *call, struct tl_error *err);

/* vector_shape.c: as api_vector_kind.take and .close */
void api_take_embedding(struct api_vectors *call, struct api_input *input);
void api_close_embeddings(struct api_vectors *call);
void api_take_score(struct api_vectors *call, struct api_input *input);
void api_close_rerank(struct api_vectors *call);
void api_close_scores(struct api_vectors *call);

/* float_out.c: a finite float in JSON with 9 significant digits, from which any reader gets the same float;
 * not NUL-terminated. Returns its length. */
#define API_FLOAT_BYTES 24
size_t api_float_text(float value, char ret[API_FLOAT_BYTES]);
/* Appends the base64 text of n bytes. */
void api_base64(struct tl_buffer *out, const void *bytes, size_t n);

#endif
