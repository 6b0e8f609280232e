/* SPDX-License-Identifier: MIT */
/* Three arenas on the device: weights, work memory, KV cache, in this order; the cache
 * gets what is left of the share that is ours. Nothing is allocated later. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device/cuda/cuda_private.h"
#include "device/cuda/ops/cuda_plan.h"

#define MIB(bytes) ((unsigned long long)((bytes) >> 20))
#define SPARE_ENTRIES TL_MAX_BIAS /* of history and bias lists, beyond what one row may have */

/* Whether states are Mamba 2's. */
static bool scans(const struct cuda_device *d) {
  for (uint32_t i = 0; i < d->n_plan; i++)
    if (d->plan[i].kind == CUDA_OP_DELTA) return cuda_scans(&d->plan[i]);
  return false;
}

/* What a chunk of rows has of matrices, in T: by Mamba 2's rule heads of a group share them. */
static size_t matrices_of_chunk(const struct cuda_device *d) {
  return scans(d) ? (size_t)d->dims.n_key_heads * TL_CUDA_SCAN_MATRICES : (size_t)d->dims.n_value_heads * TL_CUDA_DELTA_MATRICES;
}

static void make_limits(struct cuda_device *d, const struct tl_device_load *load) {
  struct cuda_limits *l = &d->limits;
  cuda_choose_buckets(&d->products, load->max_batch_tokens > load->max_batch_size ? load->max_batch_tokens : load->max_batch_size);
  l->max_tokens = d->products.buckets[d->products.n_buckets - 1];
  l->max_seqs = load->max_batch_size;
  l->max_context = load->max_context;
  l->least_context = tl_device_least_context(load);
  l->table_stride = tl_blocks_of(load->max_context);
  l->n_blocks = 2 * d->info.multiprocessors;
  uint32_t tiles = tl_cuda_head_tiles(d->dims.n_heads, d->dims.n_kv_heads, d->dims.head);
  if (l->n_blocks < tiles) l->n_blocks = tiles;
  l->n_lanes = l->n_blocks / tiles;
  l->max_tiles = tl_cuda_max_tiles(l->max_tokens, l->max_seqs);
  l->max_chunk_tiles = tl_cuda_max_chunk_tiles(l->max_tokens, l->max_seqs, d->chunk);
  l->packing.most_rows = 1 + load->draft_tokens;
  bool packs = d->model->n_latent == 0 && !(d->keeps_bytes && d->dims.head > 128); /* there all heads of a row are enough for tiles; here is no kernel */
  l->packing.pack = packs ? tl_cuda_pack(d->dims.n_heads, d->dims.n_kv_heads, d->dims.head, l->packing.most_rows) : 1;
  l->draft_rows = load->draft_tokens == 0 ? 0 : load->draft_rows < l->max_seqs ? load->draft_rows : l->max_seqs;
  l->max_items = tl_cuda_max_items(l->max_seqs, l->max_seqs, l->packing, l->n_lanes);
  uint32_t history = load->max_context < d->dims.vocab ? load->max_context : d->dims.vocab;
  l->max_entries = history + SPARE_ENTRIES;
  l->n_drawers = l->max_seqs > d->info.multiprocessors ? l->max_seqs : d->info.multiprocessors;
  l->max_adapter_tiles = d->model->n_adapters ? l->max_seqs + l->max_tokens / TL_CUDA_ADAPTER_ROWS : 0;
  bool by_chunks = d->dims.n_value_heads && d->dims.key <= tl_cuda_long_key(scans(d));
  l->max_chunks = by_chunks ? tl_cuda_max_delta_chunks(l->max_tokens, l->max_seqs) : 0;
  if (cuda_pools(d)) l->max_items = l->max_entries = 0; /* nothing is decoded, nor drawn */
}

/* --- places ------------------------------------------------------------------------------------ */

/* The same places in both memories. */
static void place_step_data(const struct cuda_device *d, struct cuda_step_data *s, struct cuda_placer *p) {
  const struct cuda_limits *l = &d->limits;
  size_t began = p->at;
  for (unsigned i = 0; i < cuda_n_lists(d); i++) {
    CUDA_TAKE_PLACE(p, s->lists[i].lanes, l->n_lanes);
    CUDA_TAKE_PLACE(p, s->lists[i].items, l->max_items);
  }
  CUDA_TAKE_PLACE(p, s->tiles, l->max_tiles);
  CUDA_TAKE_PLACE(p, s->chunk_tiles, l->max_chunk_tiles);
  CUDA_TAKE_PLACE(p, s->sampling, l->max_seqs);
  CUDA_TAKE_PLACE(p, s->rows, l->max_seqs);
  CUDA_TAKE_PLACE(p, s->offsets, l->max_seqs + 1);
  CUDA_TAKE_PLACE(p, s->n_rows, l->max_seqs);
  CUDA_TAKE_PLACE(p, s->lengths, l->max_seqs);
  CUDA_TAKE_PLACE(p, s->tokens, l->max_tokens);
  CUDA_TAKE_PLACE(p, s->positions, l->max_tokens);
  CUDA_TAKE_PLACE(p, s->slots, l->max_tokens);
  if (cuda_pools(d)) {
    CUDA_TAKE_PLACE(p, s->types, l->max_tokens);
    CUDA_TAKE_PLACE(p, s->starts, l->max_seqs + 1);
  }
  if (d->model->n_adapters) {
    CUDA_TAKE_PLACE(p, s->adapter_tiles, l->max_adapter_tiles);
    CUDA_TAKE_PLACE(p, s->adapter_rows, l->max_tokens);
  }
  if (d->model->recurrence.n_layers) {
    CUDA_TAKE_PLACE(p, s->stretches, l->max_seqs);
    CUDA_TAKE_PLACE(p, s->conv_tiles, tl_cuda_max_conv_tiles(l->max_tokens, l->max_seqs));
    CUDA_TAKE_PLACE(p, s->chunks, l->max_chunks);
    CUDA_TAKE_PLACE(p, s->longs, l->max_seqs);
  }
  s->bytes = p->at - began;
  CUDA_TAKE_PLACE(p, s->tables, (size_t)l->max_seqs * l->table_stride + CUDA_SDPA_SPARE);
  CUDA_TAKE_PLACE(p, s->history, l->max_entries);
  CUDA_TAKE_PLACE(p, s->bias, l->max_entries);
  CUDA_TAKE_PLACE(p, s->masks, cuda_pools(d) ? 0 : (size_t)l->max_seqs * TL_MASK_WORDS(d->dims.vocab));
}

/* For the largest tile of stored weights, and for as many rows in E4M3 as a step may have. */
static size_t tile_bytes(const struct cuda_device *d) {
  size_t most = 0;
  for (uint32_t i = 0; i < d->n_plan; i++)
    for (unsigned k = 0; k < d->plan[i].w.n_pieces; k++) {
      const struct cuda_piece *piece = &d->plan[i].w.pieces[k];
      size_t width = d->plan[i].w.k, bytes = piece->format == TL_CUDA_W16 ? 0 : piece->tile * width * 2;
      if (piece->format == TL_CUDA_WE4M3 && d->limits.max_tokens * width > bytes) bytes = d->limits.max_tokens * width;
      if (bytes > most) most = bytes;
    }
  return most;
}

/* Of the product that has the most. */
static size_t batch_tiles(const struct cuda_device *d) {
  size_t most = 0;
  for (uint32_t i = 0; i < d->n_plan; i++)
    for (unsigned k = 0; k < d->plan[i].w.n_pieces; k++) {
      const struct cuda_piece *piece = &d->plan[i].w.pieces[k];
      size_t tiles = tl_cuda_batches(d->dtype, piece->format) ? (piece->n + TL_CUDA_BATCH_TILE - 1) / TL_CUDA_BATCH_TILE : 0;
      if (tiles > most) most = tiles;
    }
  return most;
}

static bool rotates(const struct cuda_device *d) {
  for (uint32_t i = 0; i < d->n_plan; i++)
    if (d->plan[i].rope) return true;
  return false;
}

/* The most that a token's row, or its entries' rows, have where they stand in the order of weights. */
static size_t ordered_width(const struct cuda_device *d) {
  size_t most = 0;
  for (uint32_t i = 0; i < d->n_plan; i++)
    for (unsigned k = 0; k < d->plan[i].w.n_pieces; k++) {
      const struct cuda_op *op = &d->plan[i];
      bool experts = op->kind == CUDA_OP_EXPERTS_UP || op->kind == CUDA_OP_EXPERTS_DOWN;
      size_t width = (size_t)op->w.k * (experts ? op->from->n_chosen : 1);
      bool shared = op->kind == CUDA_OP_EXPERTS_UP && op->from->features & TL_F_SHARE_IN;
      if ((op->w.pieces[k].n_orders || shared) && width > most) most = width;
    }
  return most;
}

/* Of all rows of which each has two thread blocks or more. */
static size_t bins_of(const struct cuda_device *d) {
  return (size_t)d->info.multiprocessors / 2 * TL_CUDA_SAMPLE_BINS;
}

static bool has(const struct cuda_device *d, enum cuda_op_kind kind) {
  for (uint32_t i = 0; i < d->n_plan; i++)
    if (d->plan[i].kind == kind) return true;
  return false;
}

/* Sums of squares that a row has for norms over what several ranks have. */
static size_t squares_of_row(const struct cuda_device *d) {
  size_t most = 0;
  for (uint32_t i = 0; i < d->n_plan; i++) {
    size_t n = cuda_norms_whole_rows(&d->plan[i]) ? 2 : cuda_norms_spread_heads(d, &d->plan[i]) ? d->model->recurrence.n_key_heads : 0;
    if (n > most) most = n;
  }
  return most;
}

static void place_mixture(struct cuda_device *d, struct cuda_placer *p) {
  struct cuda_work *w = &d->work;
  size_t tokens = d->limits.max_tokens, entries = tokens * d->dims.n_chosen;
  CUDA_TAKE_PLACE(p, w->scores, tokens * d->dims.ld_scores);
  CUDA_TAKE_PLACE(p, w->shares, entries);
  CUDA_TAKE_PLACE(p, w->chosen, entries);
  CUDA_TAKE_PLACE(p, w->places, entries);
  CUDA_TAKE_PLACE(p, w->entry_rows, entries);
  CUDA_TAKE_PLACE(p, w->expert_tiles, tl_cuda_max_expert_tiles((uint32_t)entries, d->shard.n_experts, TL_CUDA_FEW_ENTRIES));
  CUDA_TAKE_PLACE(p, w->n_expert_tiles, 1);
  w->entry_m = cuda_take_place(p, entries * d->dims.inner, 2);
  w->entry_y = cuda_take_place(p, entries * d->dims.dim, 2);
  w->v = cuda_take_place(p, tokens * d->dims.low, 2);
}

/* Rows of what is computed for sequences alone: a product of one a sequence may compute as many as its bucket has. */
static size_t rows_of_sequences(const struct cuda_device *d) {
  unsigned i = 0;
  while (d->products.buckets[i] < d->limits.max_seqs) i++; /* the last is no smaller */
  return d->products.buckets[i];
}

static bool parts_products(const struct cuda_device *d) {
  for (unsigned i = 0; i < d->products.n_shapes; i++)
    if (d->products.shapes[i].parts > 1) return true;
  return false;
}

static size_t place_work(struct cuda_device *d, char *base) {
  const struct cuda_limits *l = &d->limits;
  const struct cuda_dims *s = &d->dims;
  struct cuda_work *w = &d->work;
  struct cuda_placer p = {base, 0};
  size_t tokens = l->max_tokens, rows = rows_of_sequences(d);
  CUDA_TAKE_PLACE(&p, w->x, tokens * s->dim);
  CUDA_TAKE_PLACE(&p, w->x_turn, (size_t)TL_CUDA_NORMED_ROWS * s->dim);
  w->delta = cuda_take_place(&p, tokens * s->dim, 2);
  w->h = cuda_take_place(&p, tokens * s->dim, 2);
  if (parts_products(d)) CUDA_TAKE_PLACE(&p, w->parts, (size_t)CUDA_MOST_PARTS * CUDA_PARTED_ROWS * s->dim);
  w->qkv = cuda_take_place(&p, tokens * cuda_widest_in(d), 2);
  w->q = cuda_take_place(&p, tokens * s->attn, 2);
  w->a = cuda_take_place(&p, tokens * cuda_widest_made(d), 2);
  if (s->n_value_heads) w->u = cuda_take_place(&p, tokens * s->n_channels, 2);
  w->matrices = cuda_take_place(&p, l->max_chunks * matrices_of_chunk(d), 2);
  CUDA_TAKE_PLACE(&p, w->factors, (size_t)l->max_chunks * s->n_value_heads * TL_CUDA_DELTA_FACTORS);
  if (has(d, CUDA_OP_GATE)) w->z = cuda_take_place(&p, tokens * s->attn, 2);
  if (d->model->n_latent) {
    w->rank = cuda_take_place(&p, tokens * s->rank, 2);
    w->queries = cuda_take_place(&p, tokens * s->queries, 2);
    w->wide = cuda_take_place(&p, tokens * s->n_heads * s->head, 2);
  }
  w->gate_up = cuda_take_place(&p, tokens * 2 * s->ffn, 2);
  w->m = cuda_take_place(&p, tokens * s->ffn, 2);
  if (s->n_chosen) place_mixture(d, &p);
  if (cuda_pools(d)) {
    CUDA_TAKE_PLACE(&p, w->vectors, rows * s->vector);
    w->vectors_t = cuda_take_place(&p, rows * s->vector, 2);
  } else {
    w->last = cuda_take_place(&p, rows * s->dim, 2);
    CUDA_TAKE_PLACE(&p, w->logits, rows * s->ld_logits);
  }
  if (d->group && !cuda_pools(d)) {
    CUDA_TAKE_PLACE(&p, w->part, rows * s->ld_part);
    CUDA_TAKE_PLACE(&p, w->gathered, d->group->size * rows * s->ld_part);
  }
  w->scratch_bytes = p.at;
  size_t parts = cuda_pools(d) ? 0 : tl_cuda_max_parts(l->packing, l->n_lanes);
  CUDA_TAKE_PLACE(&p, w->partial, parts * s->n_heads * s->head);
  CUDA_TAKE_PLACE(&p, w->partial_scale, parts * s->n_heads);
  CUDA_TAKE_PLACE(&p, w->arrived, (size_t)l->n_lanes * s->n_heads);
  CUDA_TAKE_PLACE(&p, w->tiles_arrived, batch_tiles(d));
  CUDA_TAKE_PLACE(&p, w->best, l->n_drawers);
  CUDA_TAKE_PLACE(&p, w->sums, (size_t)l->n_drawers * TL_CUDA_SAMPLE_SUMS);
  CUDA_TAKE_PLACE(&p, w->bins, bins_of(d));
  CUDA_TAKE_PLACE(&p, w->rows_arrived, l->n_drawers);
  CUDA_TAKE_PLACE(&p, w->left, l->max_seqs);
  CUDA_TAKE_PLACE(&p, w->saved, 2 * (size_t)l->max_entries);
  if (rotates(d)) CUDA_TAKE_PLACE(&p, w->rope, (size_t)l->max_context * s->rope);
  if (rotates(d) && d->model->inv_freq_local) CUDA_TAKE_PLACE(&p, w->rope_local, (size_t)l->max_context * s->rope);
  if (d->grows) CUDA_TAKE_PLACE(&p, w->growth, l->max_context);
  w->tile = cuda_take_place(&p, tile_bytes(d), 1);
  CUDA_TAKE_PLACE(&p, w->row_scales, tokens);
  w->ordered = cuda_take_place(&p, tokens * ordered_width(d), 2);
  CUDA_TAKE_PLACE(&p, w->row_squares, squares_of_row(d) * tokens);
  w->shrunk = cuda_take_place(&p, tokens * d->ld_shrunk, 2);
  CUDA_TAKE_PLACE(&p, w->fed, l->max_seqs);
  w->lt_workspace = cuda_take_place(&p, CUDA_LT_WORKSPACE, 1);
  place_step_data(d, &d->device, &p);
  return p.at;
}

static size_t place_pinned(struct cuda_device *d, char *base) {
  struct cuda_placer p = {base, 0};
  for (unsigned i = 0; i < 2; i++) {
    place_step_data(d, &d->slots[i].data, &p);
    CUDA_TAKE_PLACE(&p, d->slots[i].sampled, d->limits.max_seqs);
    if (cuda_pools(d)) CUDA_TAKE_PLACE(&p, d->slots[i].vectors, (size_t)d->limits.max_seqs * d->model->n_out);
  }
  return p.at;
}

/* --- what fits ---------------------------------------------------------------------------------- */

static int does_not_fit(const struct cuda_device *d, size_t kv_bytes, size_t there, struct tl_error *err) {
  size_t needed = d->weight_bytes + d->work_bytes + kv_bytes;
  if (cuda_pools(d))
    return tl_error_set(err, TL_ENOMEM, "model.path",
                        "cuda:%u: %llu MiB of GPU memory are missing: weights %llu, work memory %llu, keys and values of a step %llu, and "
                        "%llu MiB are ours; what would help: a smaller engine.max_batch_tokens, more GPUs by engine.tensor_parallel, a smaller or "
                        "quantized model",
                        d->options.index, MIB(needed - there) + 1, MIB(d->weight_bytes), MIB(d->work_bytes), MIB(kv_bytes), MIB(there));
  return tl_error_set(err, TL_ENOMEM, "model.path",
                      "cuda:%u: %llu MiB of GPU memory are missing: weights %llu, work memory %llu, KV cache for one context of %u "
                      "tokens %llu, and %llu MiB are ours; what would help: a smaller engine.max_context or "
                      "engine.max_batch_tokens, more GPUs by engine.tensor_parallel, a smaller or quantized model",
                      d->options.index, MIB(needed - there) + 1, MIB(d->weight_bytes), MIB(d->work_bytes), d->limits.least_context,
                      MIB(kv_bytes), MIB(there));
}

/* Keys and values; a latent is both. */
static size_t sides_of(const struct cuda_device *d) {
  return d->model->n_latent ? 1 : 2;
}

static void have_blocks(struct cuda_device *d, uint64_t n, size_t block, uint32_t n_layers) {
  d->n_kv_blocks = (uint32_t)n;
  d->layer_bytes = n * block;
  d->kv_bytes = sides_of(d) * d->layer_bytes * n_layers;
}

/* How many KV blocks there is memory for, before anything is allocated. */
static int measure(struct cuda_device *d, const struct tl_device_load *load, struct tl_error *err) {
  const struct cuda_dims *s = &d->dims;
  size_t free_bytes, total;
  d->weight_bytes = cuda_place_weights(d, NULL);
  d->work_bytes = place_work(d, NULL);
  CUDA_TRY(d, d->api->rt.memory(&free_bytes, &total), "asking for the memory that is free", err);
  unsigned percent = load->memory_percent ? load->memory_percent : 90;
  size_t used = total - free_bytes, ours = total / 100 * percent, there = ours > used ? ours - used : 0;
  if (load->memory_shared) there = ours < free_bytes ? ours : free_bytes; /* whatever the others have by now */
  there = there > load->beside_bytes ? there - load->beside_bytes : 0;
  if (load->n_blocks) there = free_bytes; /* what was left for it, and for its work memory some of what is nobody's */
  size_t block = (size_t)s->n_kv_heads * TL_BLOCK_TOKENS * s->head * (d->keeps_bytes ? 1 : 2), blocks_bytes = sides_of(d) * block * d->model->n_kv_layers;
  if (cuda_pools(d)) {
    have_blocks(d, cuda_n_places(d), block, 1);
    return d->weight_bytes + d->work_bytes + d->kv_bytes <= there ? TL_OK : does_not_fit(d, d->kv_bytes, there, err);
  }
  uint64_t one = tl_blocks_of(d->limits.least_context), room = 0;
  if (d->weight_bytes + d->work_bytes <= there) room = there - d->weight_bytes - d->work_bytes;
  if (load->kv_memory_bytes && load->kv_memory_bytes < room) room = load->kv_memory_bytes;
  if (load->n_blocks) { /* its model has no states */
    have_blocks(d, load->n_blocks, block, d->model->n_kv_layers);
    return d->kv_bytes <= room ? TL_OK : does_not_fit(d, d->kv_bytes, there, err);
  }
  blocks_bytes += load->beside_block_bytes;
  d->n_states = cuda_count_states(d, load, room, blocks_bytes, one);
  uint64_t states = d->n_states * cuda_state_bytes(d), left = room > states ? (room - states) / blocks_bytes : 0;
  uint64_t least = one * blocks_bytes + cuda_state_bytes(d);
  if (left < one && load->kv_memory_bytes && load->kv_memory_bytes < least)
    return tl_error_set(err, TL_ENOMEM, "engine.kv_memory_bytes",
                        "engine.kv_memory_bytes: a context of %u tokens needs %llu MiB of KV cache; give more or lower engine.max_context",
                        d->limits.least_context, MIB(least) + 1);
  if (left < one) return does_not_fit(d, least, there, err);
  /* slots are 32-bit numbers, and the last one says "none" */
  if (left > (UINT32_MAX - 1) / TL_BLOCK_TOKENS) left = (UINT32_MAX - 1) / TL_BLOCK_TOKENS;
  have_blocks(d, left, block, d->model->n_kv_layers);
  d->kv_bytes += states;
  return TL_OK;
}

int cuda_copy_table(struct cuda_device *d, void *pinned, size_t bytes, void *to, const char *what, struct tl_error *err) {
  int r = d->api->rt.copy(to, pinned, bytes, d->stream);
  if (!r) r = d->api->rt.event_record(d->done, d->stream);
  if (!r) r = d->api->rt.event_wait(d->done);
  d->api->rt.free_host(pinned);
  return r ? cuda_failed(d, r, what, err) : TL_OK;
}

/* cos and sin of position * inv_freq, as the CPU has them; what is not rotated turns by nothing. */
static int make_rope(struct cuda_device *d, const float *inv_freq, float factor, float *to, struct tl_error *err) {
  uint32_t half = d->dims.rope / 2, pairs = d->model->n_rotated / 2;
  size_t n = (size_t)d->limits.max_context * d->dims.rope;
  float *rope;
  CUDA_TRY(d, d->api->rt.alloc_host((void **)&rope, n * sizeof *rope), "pinning memory for the rotary angles", err);
  for (uint32_t p = 0; p < d->limits.max_context; p++)
    for (uint32_t i = 0; i < half; i++) {
      float angle = i < pairs ? (float)p * inv_freq[i] : 0;
      rope[(size_t)p * 2 * half + i] = cosf(angle) * (i < pairs ? factor : 1);
      rope[(size_t)p * 2 * half + half + i] = sinf(angle) * (i < pairs ? factor : 1);
    }
  return cuda_copy_table(d, rope, n * sizeof *rope, to, "copying the rotary angles", err);
}

static int make_growth(struct cuda_device *d, struct tl_error *err) {
  float *growth;
  if (!d->grows) return TL_OK;
  CUDA_TRY(d, d->api->rt.alloc_host((void **)&growth, d->limits.max_context * sizeof *growth), "pinning memory for the growth of queries", err);
  for (uint32_t p = 0; p < d->limits.max_context; p++) growth[p] = tl_op_growth(d->grows, p);
  return cuda_copy_table(d, growth, d->limits.max_context * sizeof *growth, d->work.growth, "copying the growth of queries", err);
}

static int make_ropes(struct cuda_device *d, struct tl_error *err) {
  float factor = 1;
  if (!d->work.rope) return TL_OK;
  for (uint32_t i = 0; i < d->n_plan; i++) /* the same in all layers: cuda_plan.c */
    if (d->plan[i].rope && d->plan[i].rope->features & TL_F_FACTOR) factor = d->plan[i].rope->factor;
  int r = make_rope(d, d->model->inv_freq, factor, d->work.rope, err);
  return r < 0 || !d->work.rope_local ? r : make_rope(d, d->model->inv_freq_local, 1, d->work.rope_local, err);
}

int cuda_make_memory(struct cuda_device *d, const struct tl_device_load *load, struct tl_error *err) {
  const struct cuda_runtime *rt = &d->api->rt;
  make_limits(d, load);
  int r = measure(d, load, err);
  if (r < 0) return r;
  CUDA_TRY(d, rt->alloc((void **)&d->weights, d->weight_bytes), "allocating the weights", err);
  CUDA_TRY(d, rt->alloc((void **)&d->memory, d->work_bytes), "allocating work memory", err);
  CUDA_TRY(d, rt->alloc((void **)&d->kv, d->kv_bytes), "allocating the KV cache", err);
  CUDA_TRY(d, rt->alloc_host(&d->pinned, place_pinned(d, NULL)), "pinning memory for steps", err);
  cuda_place_weights(d, d->weights);
  place_work(d, d->memory);
  place_pinned(d, d->pinned);
  d->states = d->kv + d->kv_bytes - d->n_states * cuda_state_bytes(d);
  r = cuda_clear_counters(d, err);
  if (r == TL_OK) r = make_growth(d, err);
  return r < 0 ? r : make_ropes(d, err);
}

int cuda_clear_counters(struct cuda_device *d, struct tl_error *err) {
  size_t bytes = (size_t)d->limits.n_lanes * d->dims.n_heads * sizeof *d->work.arrived;
  CUDA_TRY(d, d->api->rt.fill(d->work.arrived, 0, bytes, d->stream), "clearing attention's counters", err);
  if ((bytes = batch_tiles(d) * sizeof *d->work.tiles_arrived))
    CUDA_TRY(d, d->api->rt.fill(d->work.tiles_arrived, 0, bytes, d->stream), "clearing products' counters", err);
  bytes = d->limits.n_drawers * sizeof *d->work.rows_arrived;
  CUDA_TRY(d, d->api->rt.fill(d->work.rows_arrived, 0, bytes, d->stream), "clearing the draws' counters", err);
  if ((bytes = bins_of(d) * sizeof *d->work.bins))
    CUDA_TRY(d, d->api->rt.fill(d->work.bins, 0, bytes, d->stream), "clearing the draws' sums", err);
  return TL_OK;
}

void cuda_free_memory(struct cuda_device *d) {
  const struct cuda_runtime *rt = &d->api->rt;
  if (d->pinned) rt->free_host(d->pinned);
  if (d->kv) rt->free(d->kv);
  if (d->memory) rt->free(d->memory);
  if (d->weights) rt->free(d->weights);
}
