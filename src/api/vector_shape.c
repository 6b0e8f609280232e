/* SPDX-License-Identifier: MIT */
/* The JSON of embeddings (OpenAI's API reference), of reranking (Cohere's and Jina's) and of scores (vLLM's).
 * Embeddings are written as their vectors come: an answer of many megabytes would hold the loop if it were
 * made at its end. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/vectors.h"

static void put_model(const struct api_vectors *call, struct tl_buffer *out) {
  const char *name = call->params.model ? call->params.model : call->api->o.models[call->work.model].name;
  tl_buffer_puts(out, ",\"model\":");
  api_json_string(out, name, strlen(name));
  tl_buffer_printf(out, ",\"usage\":{\"prompt_tokens\":%llu,\"total_tokens\":%llu}}", (unsigned long long)call->n_tokens,
                   (unsigned long long)call->n_tokens);
}

/* --- embeddings ------------------------------------------------------------------------- */

/* Matryoshka: the first numbers are an embedding by themselves, once they have length 1 again. */
static uint32_t cut(const struct api_vectors *call, float *vector) {
  uint32_t n = call->work.serving->model->n_out;
  if (call->params.dimensions <= 0 || call->params.dimensions >= n) return n;
  n = (uint32_t)call->params.dimensions;
  double sum = 0;
  for (uint32_t i = 0; i < n; i++) sum += (double)vector[i] * vector[i];
  for (uint32_t i = 0; i < n && sum > 0; i++) vector[i] = (float)(vector[i] / sqrt(sum));
  return n;
}

static void put_floats(const float *vector, uint32_t n, struct tl_buffer *out) {
  char *text = tl_buffer_reserve(out, (size_t)n * (API_FLOAT_BYTES + 1) + 2), *at = text;
  if (!text) return;
  *at++ = '[';
  for (uint32_t i = 0; i < n; i++) {
    if (i) *at++ = ',';
    at += api_float_text(vector[i], at);
  }
  *at++ = ']';
  out->length += (size_t)(at - text);
}

void api_take_embedding(struct api_vectors *call, struct api_input *input) {
  struct tl_buffer *out = &call->out;
  unsigned index = call->n_taken;
  uint32_t n = cut(call, input->seq->vector);
  if (index == 0)
    tl_buffer_printf(out, "{\"id\":\"%s\",\"object\":\"list\",\"created\":%lld,\"data\":[", call->id, (long long)call->created_s);
  tl_buffer_printf(out, "%s{\"object\":\"embedding\",\"index\":%u,\"embedding\":", index ? "," : "", index);
  if (call->params.base64) {
    tl_buffer_putc(out, '"');
    api_base64(out, input->seq->vector, n * sizeof(float)); /* little-endian, as the machine */
    tl_buffer_putc(out, '"');
  } else {
    put_floats(input->seq->vector, n, out);
  }
  tl_buffer_putc(out, '}');
}

void api_close_embeddings(struct api_vectors *call) {
  tl_buffer_putc(&call->out, ']');
  put_model(call, &call->out);
}

/* --- scores ------------------------------------------------------------------------------- */

void api_take_score(struct api_vectors *call, struct api_input *input) {
  (void)call;
  input->score = (float)(1 / (1 + exp(-(double)input->seq->vector[0])));
}

static void put_score(struct tl_buffer *out, float score) {
  char text[API_FLOAT_BYTES];
  tl_buffer_append(out, text, api_float_text(score, text));
}

void api_close_scores(struct api_vectors *call) {
  struct tl_buffer *out = &call->out;
  tl_buffer_printf(out, "{\"id\":\"%s\",\"object\":\"list\",\"created\":%lld,\"data\":[", call->id, (long long)call->created_s);
  for (unsigned i = 0; i < call->n_inputs; i++) {
    tl_buffer_printf(out, "%s{\"index\":%u,\"object\":\"score\",\"score\":", i ? "," : "", i);
    put_score(out, call->inputs[i].score);
    tl_buffer_putc(out, '}');
  }
  tl_buffer_putc(out, ']');
  put_model(call, out);
}

/* The best first, equal ones in the client's order. */
static int compare(const void *a, const void *b) {
  const struct api_input *x = *(const struct api_input *const *)a, *y = *(const struct api_input *const *)b;
  if (x->score != y->score) return x->score > y->score ? -1 : 1;
  return x < y ? -1 : x > y;
}

void api_close_rerank(struct api_vectors *call) {
  struct tl_buffer *out = &call->out;
  unsigned n = call->n_inputs;
  const struct api_input **order = tl_arena_array(&call->arena, n, sizeof *order);
  if (!order) {
    out->failed = true;
    return;
  }
  for (unsigned i = 0; i < n; i++) order[i] = &call->inputs[i];
  qsort(order, n, sizeof *order, compare);
  if (call->params.top_n > 0 && call->params.top_n < n) n = (unsigned)call->params.top_n;
  tl_buffer_printf(out, "{\"id\":\"%s\",\"results\":[", call->id);
  for (unsigned i = 0; i < n; i++) {
    tl_buffer_printf(out, "%s{\"index\":%u,\"relevance_score\":", i ? "," : "", (unsigned)(order[i] - call->inputs));
    put_score(out, order[i]->score);
    if (order[i]->text) {
      tl_buffer_puts(out, ",\"document\":{\"text\":");
      api_json_string(out, order[i]->text, order[i]->length);
      tl_buffer_putc(out, '}');
    }
    tl_buffer_putc(out, '}');
  }
  tl_buffer_putc(out, ']');
  put_model(call, out);
}
