/* SPDX-License-Identifier: MIT */
/* Models whose layers keep a state of a sequence (model.h): how many of them a device is to have, and what does not go with them. The
 * scheduler says which one is whose. */
#include "engine/engine_private.h"
#include "tokenlane/log.h"

#define MORE_KEPT 16 /* behind prefixes that many share */

_Static_assert(TL_NO_STATE == UINT32_MAX, "as schedule.h has it");

/* Each that runs has one; with the prefix cache as many lie behind the prompts and answers of those, and some more. */
uint32_t recurrent_states(const struct tl_engine *engine) {
  const struct tl_engine_options *o = &engine->o;
  if (o->model->recurrence.n_layers == 0) return 0;
  return o->prefix_cache ? 2 * o->max_batch_size + MORE_KEPT : o->max_batch_size;
}

/* What a wrong guess did to a state cannot be taken back, as keys and values can be written over. */
void recurrent_adapt(struct tl_engine *engine) {
  if (recurrent_states(engine) == 0 || engine->o.draft_tokens == 0) return;
  TL_LOG(TL_LOG_INFO, "engine", "the model's layers keep a state, so that no tokens are guessed: engine.draft_tokens is of no use to it",
         TL_S("architecture", engine->o.model->architecture));
  engine->o.draft_tokens = 0;
}

int recurrent_check(const struct worker *w, struct tl_error *err) {
  uint32_t wanted = recurrent_states(w->engine), n = w->loaded.n_states, size = w->engine->o.max_batch_size;
  if (n > wanted || (n == 0 && wanted > 0))
    return tl_error_set(err, TL_EUNSUPPORTED, "devices", "devices: '%.60s' has %u states of sequences, expected %u to %u",
                        tl_engine_device(w->engine, w->index, 0), n, wanted > 0, wanted);
  if (n > 0) TL_LOG(TL_LOG_INFO, "engine", "states of sequences", TL_U("replica", worker_id(w)), TL_U("states", n), TL_U("wanted", wanted));
  if (n > 0 && n < size)
    TL_LOG(TL_LOG_WARN, "engine", "fewer sequences run at once than engine.max_batch_size: there is no memory for more states",
           TL_U("replica", worker_id(w)), TL_U("states", n), TL_U("max_batch_size", size));
  return TL_OK;
}

/* relaxed loads: single figures */
static double read_used(void *board) {
  return atomic_load_explicit(&((struct tl_board *)board)->states_used, memory_order_relaxed);
}
static double read_kept(void *board) {
  return atomic_load_explicit(&((struct tl_board *)board)->states_kept, memory_order_relaxed);
}
static double read_all(void *worker) {
  return ((struct worker *)worker)->loaded.n_states;
}

/* Of models without, there are none of these series. */
void recurrent_add_metrics(struct worker *w, struct tl_metrics *m, const char *labels) {
  struct tl_board *board = &w->engine->boards[w->index];
  if (w->loaded.n_states == 0) return;
  tl_metrics_gauge_read(m, "tokenlane_states", "States of sequences in all, of a model whose layers keep one.", labels, read_all, w);
  tl_metrics_gauge_read(m, "tokenlane_states_used", "States of sequences in the batch.", labels, read_used, board);
  tl_metrics_gauge_read(m, "tokenlane_prefix_cache_states", "States kept behind cached prefixes.", labels, read_kept, board);
}
