/* SPDX-License-Identifier: MIT */
/* The draft model's device: a second one of each replica, on the same hardware, that the same worker owns. Its KV pool has as many blocks as
 * the target's and its steps name the same ones, so what the scheduler says of blocks is true of both. */
#include <stdlib.h>
#include <string.h>

#include "engine/draft_model.h"
#include "tokenlane/log.h"

#define SIM_PART 8            /* of a simulated device's times the draft's are one part */
#define ROW_COST 0.04         /* of a step, for a row more */

static int refuse(struct tl_error *err, const char *why) {
  return tl_error_set(err, TL_EUNSUPPORTED, "model.draft", "model.draft: %s", why);
}

int drafter_check(const struct tl_engine *engine, struct tl_error *err) {
  const struct tl_engine_options *o = &engine->o;
  const struct tl_model *draft = o->draft_model;
  if (!draft) return TL_OK;
  if (o->model->pooling != TL_POOL_NONE) return refuse(err, "the model makes no tokens, so there are none to guess");
  if (draft->pooling != TL_POOL_NONE) return refuse(err, "expected a model that makes tokens, not vectors");
  if (o->model->recurrence.n_layers) return refuse(err, "the model's layers keep a state, which a wrong guess would spoil");
  if (draft->recurrence.n_layers) return refuse(err, "its layers keep a state, which a wrong guess would spoil");
  if (o->tensor_parallel > 1) return refuse(err, "goes with engine.tensor_parallel 1 only");
  if (draft_rows(o) < 2) return refuse(err, "engine.max_batch_size is 1, so that a step has no room for guesses");
  if (o->draft_tokens == 0) return refuse(err, "engine.draft_tokens is 0, so that it would guess nothing");
  return TL_OK;
}

/* As backends have it, but for what they pad; a pool is made by its number of blocks. */
static uint64_t block_bytes(const struct tl_engine *engine) {
  const struct tl_model *m = engine->o.draft_model;
  uint64_t head = (m->head_dim + 15) / 16 * 16, sides = m->n_latent ? 1 : 2;
  enum tl_dtype dtype = tl_device_kv_dtype(&(struct tl_device_load){.model = m, .kv_format = engine->o.kv_format});
  return sides * m->n_kv_heads * head * TL_BLOCK_TOKENS * tl_dtype_bytes(dtype) * m->n_kv_layers;
}

void drafter_leave_room(const struct tl_engine *engine, struct tl_device_load *load) {
  if (!engine->o.draft_model) return;
  load->beside_bytes = engine->o.draft_model->weight_bytes;
  load->beside_block_bytes = block_bytes(engine);
}

int drafter_open(struct worker *w, const struct tl_device_options *options, struct tl_error *err) {
  if (!w->engine->o.draft_model) return TL_OK;
  struct drafter *dr = w->drafter = calloc(1, sizeof *dr);
  if (!dr) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  dr->options = *options;
  if (options->sim) {
    dr->sim = *options->sim;
    dr->sim.base_ns /= SIM_PART;
    dr->sim.per_token_ns /= SIM_PART;
    dr->sim.per_block_ns /= SIM_PART;
    dr->options.sim = &dr->sim;
  }
  return w->ops->open(&dr->options, &dr->device, err);
}

static bool make_arrays(const struct worker *w, struct drafter *dr) {
  const struct tl_engine_options *o = &w->engine->o;
  uint32_t vocab = o->model->vocab_size > o->draft_model->vocab_size ? o->model->vocab_size : o->draft_model->vocab_size;
  dr->mask_words = TL_MASK_WORDS(vocab);
  dr->valid = calloc(w->loaded.n_blocks, sizeof *dr->valid);
  dr->claimed = calloc(w->loaded.n_blocks, sizeof *dr->claimed);
  dr->tokens = calloc(o->max_batch_tokens, sizeof *dr->tokens);
  dr->positions = calloc(o->max_batch_tokens, sizeof *dr->positions);
  dr->slots = calloc(o->max_batch_tokens, sizeof *dr->slots);
  dr->tables = calloc((size_t)DRAFT_MOST_ROWS * dr->stride, sizeof *dr->tables);
  dr->masks = calloc((size_t)DRAFT_MOST_ROWS * dr->mask_words, sizeof *dr->masks);
  return dr->valid && dr->claimed && dr->tokens && dr->positions && dr->slots && dr->tables && dr->masks;
}

int drafter_load(struct worker *w, struct tl_error *err) {
  struct drafter *dr = w->drafter;
  const struct tl_engine_options *o = &w->engine->o;
  if (!dr) return TL_OK;
  const struct tl_model *m = o->draft_model;
  dr->max_context = w->engine->max_context < m->max_context ? w->engine->max_context : m->max_context;
  dr->stride = tl_blocks_of(dr->max_context);
  struct tl_device_load load = {.model = m,
                                .model_path = o->draft_path,
                                .max_batch_size = draft_rows(o),
                                .max_batch_tokens = o->max_batch_tokens,
                                .max_context = dr->max_context,
                                .least_context = 1,
                                .n_blocks = w->loaded.n_blocks,
                                .kv_format = o->kv_format,
                                .memory_percent = o->memory_percent,
                                .cudnn = o->cudnn};
  int r = w->ops->load(dr->device, &load, &dr->loaded, err);
  if (r < 0) return tl_error_prefix(err, "model.draft"), r;
  if (dr->loaded.n_blocks < w->loaded.n_blocks)
    return tl_error_set(err, TL_EDEVICE, "model.draft", "model.draft: its device has %u KV blocks, expected %u", dr->loaded.n_blocks, w->loaded.n_blocks);
  if (!make_arrays(w, dr)) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  dr->chance = DRAFT_FIRST_CHANCE;
  dr->next_try = DRAFT_FIRST_TRY;
  uint64_t whole = o->model->weight_bytes;
  dr->gain.by_weights = ROW_COST + (whole && m->weight_bytes < whole ? (double)m->weight_bytes / (double)whole : 1.0 / SIM_PART);
  TL_LOG(TL_LOG_INFO, "engine", "a draft model guesses tokens", TL_U("replica", worker_id(w)), TL_S("device", tl_engine_device(w->engine, w->index, 0)),
         TL_U("weight_bytes", dr->loaded.weight_bytes), TL_U("kv_bytes", dr->loaded.kv_bytes), TL_U("context", dr->max_context),
         TL_U("draft_tokens", o->draft_tokens));
  return TL_OK;
}

void drafter_free(struct worker *w) {
  struct drafter *dr = w->drafter;
  if (!dr) return;
  if (dr->device) w->ops->close(dr->device);
  void *arrays[] = {dr->valid, dr->claimed, dr->tokens, dr->positions, dr->slots, dr->tables, dr->masks};
  for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
  free(dr);
}

/* --- the monitor ------------------------------------------------------------------------------ */

enum tl_device_health drafter_health(const struct worker *w) {
  return w->drafter && w->ops->health ? w->ops->health(w->drafter->device) : TL_DEVICE_WELL;
}

void drafter_interrupt(struct worker *w) {
  if (w->drafter) w->ops->interrupt(w->drafter->device);
}

/* Both devices, each until it has said that it is well again. What is wrong with the target's is said first. */
int drafter_reset(struct worker *w, struct tl_error *err) {
  struct drafter *dr = w->drafter;
  struct tl_device *devices[] = {w->device, dr->device};
  int result = TL_OK;
  if (!dr->restoring) memset(dr->is_reset, 0, sizeof dr->is_reset);
  for (unsigned i = 0; i < 2; i++) {
    struct tl_error why = {0};
    int r = dr->is_reset[i] ? TL_OK : w->ops->reset(devices[i], &why);
    dr->is_reset[i] = r == TL_OK;
    if (r == TL_OK || (result < 0 && result != TL_EBUSY)) continue;
    if (result == TL_OK || r != TL_EBUSY) {
      result = r;
      if (err) *err = why;
    }
  }
  dr->restoring = result == TL_EBUSY;
  return result;
}
