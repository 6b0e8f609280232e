/* SPDX-License-Identifier: MIT */
/* The test generation: what a replica says about itself is believed once it has
 * made tokens. */
#include <stdlib.h>

#include "daemon/daemon_private.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/log.h"

#define PROMPT 3
#define NEW_TOKENS 2
#define PATIENCE TL_SEC(120)

struct probe {
  struct tl_sequence seq;
  int32_t tokens[PROMPT + NEW_TOKENS];
  bool done;
};

static void on_event(struct tl_sequence *seq, bool final, void *context) {
  (void)context;
  if (final) ((struct probe *)seq->owner)->done = true;
}

static void submit(struct tl_engine *engine, const struct tl_model *model, unsigned loop, unsigned replica,
                   struct probe *probe) {
  *probe = (struct probe){.seq = {.n_prompt = PROMPT,
                                  .max_new = NEW_TOKENS,
                                  .ignore_eos = true,
                                  .sampling = {.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = -1},
                                  .loop = loop,
                                  .replica = replica,
                                  .owner = probe,
                                  .tokens = probe->tokens,
                                  .submitted_ns = tl_now_ns()}};
  for (int32_t i = 0; i < PROMPT; i++) probe->tokens[i] = i % (int32_t)model->vocab_size;
  tl_engine_submit(engine, replica, &probe->seq);
}

static bool all_done(const struct probe *probes, unsigned n) {
  for (unsigned i = 0; i < n; i++)
    if (!probes[i].done) return false;
  return true;
}

static int judge(const struct probe *probes, unsigned n, const struct tl_model *model, struct tl_error *err) {
  for (unsigned i = 0; i < n; i++) {
    if (!probes[i].done) return tl_error_set(err, TL_EDEVICE, NULL, "replica %u: the test generation did not end", i);
    bool fine = probes[i].seq.finish == TL_FINISH_LENGTH;
    for (unsigned k = PROMPT; fine && k < PROMPT + NEW_TOKENS; k++)
      fine = probes[i].tokens[k] >= 0 && probes[i].tokens[k] < (int32_t)model->vocab_size;
    if (!fine) return tl_error_set(err, TL_EDEVICE, NULL, "replica %u: the test generation failed", i);
  }
  return TL_OK;
}

int probe_replicas(struct tl_engine *engine, const struct tl_model *model, unsigned loop, struct tl_waker *waker,
                   struct tl_error *err) {
  unsigned n = tl_engine_replicas(engine);
  if (tl_engine_max_context(engine) < PROMPT + NEW_TOKENS) return TL_OK; /* nothing fits */
  struct probe *probes = aligned_alloc(TL_CACHE_LINE, (n * sizeof *probes + TL_CACHE_LINE) / TL_CACHE_LINE * TL_CACHE_LINE);
  if (!probes) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  int64_t began_ns = tl_now_ns();
  for (unsigned i = 0; i < n; i++) submit(engine, model, loop, i, &probes[i]);
  while (!all_done(probes, n) && tl_now_ns() - began_ns < PATIENCE) {
    tl_waker_prepare(waker);
    tl_engine_drain(engine, loop, on_event, NULL);
    if (all_done(probes, n))
      tl_waker_cancel(waker);
    else
      tl_waker_sleep(waker, TL_MS(100));
  }
  int r = judge(probes, n, model, err);
  TL_LOG(TL_LOG_INFO, "engine", "test generation", TL_U("replicas", n),
         TL_F("seconds", (double)(tl_now_ns() - began_ns) * 1e-9));
  /* What did not end is still the worker's: it must be stopped before the memory goes. */
  if (!all_done(probes, n)) {
    tl_engine_stop(engine);
    tl_engine_drain(engine, loop, on_event, NULL);
  }
  free(probes);
  return r;
}
