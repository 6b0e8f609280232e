/* SPDX-License-Identifier: MIT */
/* The test generation: what a replica says about itself is believed once it has
 * made tokens. After a fault it must make the same ones again. */
#include "daemon/probe.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tokenlane/base/clock.h"
#include "tokenlane/log.h"

#define PATIENCE TL_SEC(120)
#define VECTOR_TOLERANCE 0.02f /* of its largest number: 16-bit floats in another order are within it, a fault is not */

/* A device may sum in another order the next time. */
static bool is_near(const float *a, const float *b, uint32_t n) {
  float most = 0, apart = 0;
  for (uint32_t i = 0; i < n; i++) {
    most = fmaxf(most, fabsf(b[i]));
    apart = fmaxf(apart, fabsf(a[i] - b[i]));
  }
  return apart <= VECTOR_TOLERANCE * most;
}

void probe_on_event(struct tl_sequence *seq, bool final, void *context) {
  (void)context;
  struct probe *probe = seq->owner;
  if (!final) return;
  bool same = probe->n_out ? is_near(probe->vector, probe->known_vector, probe->n_out)
                           : memcmp(probe->tokens + PROBE_PROMPT, probe->known, sizeof probe->known) == 0;
  probe->running = false;
  probe->right = seq->finish == TL_FINISH_LENGTH && (!probe->is_known || same);
}

void probe_submit(struct tl_engine *engine, const struct tl_model *model, unsigned loop, unsigned replica, struct probe *probe) {
  probe->running = true;
  probe->right = false;
  probe->seq = (struct tl_sequence){.n_prompt = PROBE_PROMPT,
                                    .max_new = probe->n_out ? 0 : PROBE_NEW,
                                    .vector = probe->vector,
                                    .ignore_eos = true,
                                    .sampling = {.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = -1},
                                    .loop = loop,
                                    .replica = replica,
                                    .owner = probe,
                                    .tokens = probe->tokens,
                                    .submitted_ns = tl_now_ns()};
  for (int32_t i = 0; i < PROBE_PROMPT; i++) probe->tokens[i] = i % (int32_t)model->vocab_size;
  tl_engine_submit(engine, replica, &probe->seq);
}

struct probe *probes_new(unsigned n, uint32_t n_out) {
  size_t bytes = (n * (sizeof(struct probe) + 2 * n_out * sizeof(float)) + TL_CACHE_LINE) / TL_CACHE_LINE * TL_CACHE_LINE;
  struct probe *probes = aligned_alloc(TL_CACHE_LINE, bytes);
  if (!probes) return NULL;
  memset((void *)probes, 0, bytes);
  float *vectors = (float *)(void *)(probes + n);
  for (unsigned i = 0; i < n && n_out; i++) {
    probes[i].n_out = n_out;
    probes[i].vector = vectors + (size_t)2 * i * n_out;
    probes[i].known_vector = probes[i].vector + n_out;
  }
  return probes;
}

bool probe_fits(const struct tl_engine *engine) {
  return tl_engine_max_context(engine) >= PROBE_PROMPT + PROBE_NEW;
}

static bool any_runs(const struct probe *probes, unsigned n) {
  for (unsigned i = 0; i < n; i++)
    if (probes[i].running) return true;
  return false;
}

static int judge(struct probe *probes, unsigned n, const struct tl_model *model, struct tl_error *err) {
  for (unsigned i = 0; i < n; i++) {
    struct probe *p = &probes[i];
    if (p->running) return tl_error_set(err, TL_EDEVICE, NULL, "replica %u: the test generation did not end", i);
    bool fine = p->right;
    for (unsigned k = PROBE_PROMPT; fine && !p->n_out && k < PROBE_PROMPT + PROBE_NEW; k++)
      fine = p->tokens[k] >= 0 && p->tokens[k] < (int32_t)model->vocab_size;
    if (!fine) return tl_error_set(err, TL_EDEVICE, NULL, "replica %u: the test generation failed", i);
    memcpy(p->known, p->tokens + PROBE_PROMPT, sizeof p->known);
    if (p->n_out) memcpy(p->known_vector, p->vector, p->n_out * sizeof *p->vector);
    p->is_known = true;
  }
  return TL_OK;
}

int probe_replicas(struct tl_engine *engine, const struct tl_model *model, unsigned loop, struct tl_waker *waker,
                   struct probe *probes, struct tl_error *err) {
  unsigned n = tl_engine_replicas(engine);
  if (!probe_fits(engine)) return TL_OK;
  int64_t began_ns = tl_now_ns();
  for (unsigned i = 0; i < n; i++) probe_submit(engine, model, loop, i, &probes[i]);
  while (any_runs(probes, n) && tl_now_ns() - began_ns < PATIENCE) {
    tl_waker_prepare(waker);
    tl_engine_drain(engine, loop, probe_on_event, NULL);
    if (!any_runs(probes, n))
      tl_waker_cancel(waker);
    else
      tl_waker_sleep(waker, TL_MS(100));
  }
  int r = judge(probes, n, model, err);
  TL_LOG(TL_LOG_INFO, "engine", "test generation", TL_U("replicas", n),
         TL_F("seconds", (double)(tl_now_ns() - began_ns) * 1e-9));
  return r;
}
