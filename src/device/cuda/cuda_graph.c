/* SPDX-License-Identifier: MIT */
/* The layers and draws of a decode step, recorded once for each bucket of rows and each kind of step: those with drafts have another
 * attention, those with adapters more kernels. A launch then costs the host one call. What differs from step to step lies in device memory
 * at fixed places (struct cuda_step_data), rows beyond a step's are padding. */
#include "device/cuda/cuda_private.h"

/* 1, 2, 4, 8, 16, then all multiples of 8 up to 64, of 32 up to 256, of 128. */
static uint32_t next_bucket(uint32_t n) {
  if (n < 16) return 2 * n;
  return n + (n < 64 ? 8 : n < 256 ? 32 : 128);
}

static int capture(struct cuda_device *d, uint32_t n_rows, struct cuda_graph_kind kind, void **ret_graph, struct tl_error *err) {
  bool keeps = d->model->recurrence.n_layers > 0;
  const struct cuda_pass pass = {.n_tokens = n_rows, .n_rows = n_rows, .n_decode = n_rows, .drafts = kind.drafts,
                                 .n_adapter_tiles = kind.adapts ? cuda_graph_tiles(d, n_rows) : 0, .all_rows = true,
                                 .n_stretches = keeps ? n_rows : 0, .n_conv_tiles = keeps ? n_rows : 0};
  struct tl_error ignored;
  CUDA_TRY(d, d->api->rt.capture_begin(d->stream), "beginning a graph", err);
  int r = cuda_run_pass(d, &pass, err);
  if (r == TL_OK) r = cuda_draw(d, 0, n_rows, TL_CUDA_CHOOSE, err);
  /* also after an error: the stream is to be usable again */
  int ended = d->api->rt.capture_end(d->stream, ret_graph);
  if (ended && r == TL_OK) return cuda_failed(d, ended, "ending a graph", err);
  if (ended) cuda_failed(d, ended, "ending a graph", &ignored);
  return r;
}

static int add_graph(struct cuda_device *d, uint32_t n_rows, struct cuda_graph_kind kind, struct tl_error *err) {
  const struct cuda_runtime *rt = &d->api->rt;
  void *graph = NULL, *exec = NULL;
  d->recording = true;
  int r = capture(d, n_rows, kind, &graph, err);
  d->recording = false;
  if (r == TL_OK) {
    int made = rt->graph_make(&exec, graph);
    if (made) r = cuda_failed(d, made, "making a graph", err);
  }
  if (graph) rt->graph_free(graph);
  if (r < 0) cuda_part_ways(d); /* a communicator's end waits for that of its graphs */
  if (r == TL_OK) d->graphs[d->n_graphs++] = (struct cuda_graph){n_rows, kind, exec};
  return r;
}

/* Of steps of `least` rows and more, to `most`. */
static int add_graphs(struct cuda_device *d, uint32_t least, uint32_t most, struct cuda_graph_kind kind, struct tl_error *err) {
  unsigned n_graphs = 0;
  for (uint32_t n = least;; n = next_bucket(n)) {
    bool last = n >= most || ++n_graphs == CUDA_MAX_BUCKETS;
    int r = add_graph(d, n < most ? n : most, kind, err);
    if (r < 0 || last) return r;
  }
}

int cuda_make_graphs(struct cuda_device *d, struct tl_error *err) {
  int r = TL_OK;
  for (unsigned adapts = 0; adapts < (d->n_adapted ? 2 : 1) && r == TL_OK; adapts++) {
    r = add_graphs(d, 1, d->limits.max_seqs, (struct cuda_graph_kind){.adapts = adapts}, err);
    if (r == TL_OK && d->limits.draft_rows >= 2)
      r = add_graphs(d, 2, d->limits.draft_rows, (struct cuda_graph_kind){.drafts = true, .adapts = adapts}, err);
  }
  return r;
}

const struct cuda_graph *cuda_find_graph(const struct cuda_device *d, uint32_t n_rows, struct cuda_graph_kind kind) {
  for (unsigned i = 0; i < d->n_graphs; i++) {
    const struct cuda_graph *g = &d->graphs[i];
    if (g->kind.drafts == kind.drafts && g->kind.adapts == kind.adapts && g->n_rows >= n_rows) return g;
  }
  return NULL;
}

void cuda_free_graphs(struct cuda_device *d) {
  for (unsigned i = 0; i < d->n_graphs; i++) d->api->rt.exec_free(d->graphs[i].exec);
  d->n_graphs = 0;
}
