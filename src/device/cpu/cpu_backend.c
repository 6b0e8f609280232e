/* SPDX-License-Identifier: MIT */
/* The CPU backend behind the device table: memory and the order of a step. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cpu/cpu_quant.h"

static void device_close(struct tl_device *device) {
  struct cpu_device *d = (struct cpu_device *)device;
  if (!d) return;
  cpu_pool_free(d->pool);
  cpu_latent_free(d);
  for (unsigned i = 0; d->lanes && i < d->options.n_lanes; i++) {
    free(d->lanes[i].panel_out);
    free(d->lanes[i].unpack);
    free(d->lanes[i].scores);
    free(d->lanes[i].sampler.candidates);
    free(d->lanes[i].sampler.raw);
    free(d->lanes[i].sampler.weights);
  }
  free(d->lanes);
  free(d->tickets);
  free(d->rope);
  free(d->rope_local);
  free(d->layer_at);
  cpu_weights_free(&d->weights);
  cpu_mixture_free(d);
  cpu_adapters_free(d);
  cpu_places_free(d);
  cpu_unmap(d->kv, d->kv_bytes);
  cpu_unmap(d->states.memory, d->states.bytes);
  cpu_unmap(d->activations, d->activation_bytes);
  cpu_unmap(d->quants, d->quants_bytes);
  free(d);
}

static int device_open(const struct tl_device_options *options, struct tl_device **ret, struct tl_error *err) {
  struct cpu_device *d = calloc(1, sizeof *d);
  if (!d) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  d->ops = &cpu_device_ops;
  d->options = *options;
  d->shard.size = 1;
  d->kernels = cpu_choose_kernels(tl_cpu_best_isa());
  d->quant = cpu_choose_quant(tl_cpu_best_isa());
  int r = cpu_pool_new(&d->options, &d->pool, err);
  if (r < 0) {
    free(d);
    return r;
  }
  *ret = (struct tl_device *)d;
  return TL_OK;
}

/* --- memory --------------------------------------------------------------------------------- */

static int no_memory(struct tl_error *err, const char *what, uint64_t bytes) {
  return tl_error_set(err, TL_ENOMEM, NULL, "%s need %llu MiB of memory, which could not be had", what,
                      (unsigned long long)(bytes >> 20));
}

/* MemAvailable of the kernel, 0 when it cannot be read. */
static uint64_t available_bytes(void) {
  FILE *file = fopen("/proc/meminfo", "r");
  char line[128];
  unsigned long long kib = 0;
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break;
  if (file) fclose(file);
  return (uint64_t)kib << 10;
}

/* As many states as are of use and half of the memory holds, but one, and no more than leave a context's KV. */
static int make_states(struct cpu_device *d, uint64_t most, uint64_t context_bytes, struct tl_error *err) {
  struct cpu_states *s = &d->states;
  if (!s->floats) return TL_OK;
  s->n = cpu_states_fit(d, most, context_bytes);
  if (!s->n)
    return tl_error_set(err, TL_ENOMEM, "engine.kv_memory_bytes",
                        "engine.kv_memory_bytes: a context of %u tokens needs %llu MiB of KV cache and %llu MiB for its state, %llu MiB are "
                        "there; lower engine.max_context or give more",
                        tl_device_least_context(&d->load), (unsigned long long)(context_bytes >> 20),
                        (unsigned long long)(s->floats * sizeof(float) >> 20), (unsigned long long)(most >> 20));
  s->bytes = s->n * s->floats * sizeof(float);
  s->memory = cpu_map(s->bytes);
  return s->memory ? TL_OK : no_memory(err, "the states", s->bytes);
}

static struct cpu_heads make_heads(const struct cpu_device *d, uint32_t dim, uint32_t n_kv) {
  struct cpu_heads h = {.dim = dim, .pad = (uint32_t)cpu_round_up(dim, 16), .n_kv = n_kv};
  h.head_bytes = (size_t)h.pad * TL_BLOCK_TOKENS * tl_dtype_bytes(d->kv_dtype);
  h.layer_bytes = (d->model->n_latent ? 1 : 2) * n_kv * h.head_bytes; /* a latent is key and value */
  return h;
}

/* Where layers begin; the bytes that all of them have of a block, or, of a pooling model's, the most of one. 0: out of memory. */
static size_t lay_out_layers(struct cpu_device *d) {
  const struct tl_model *model = d->model;
  size_t total = 0, most = 0;
  d->layer_at = calloc(model->n_kv_layers ? model->n_kv_layers : 1, sizeof *d->layer_at);
  if (!d->layer_at) return 0;
  for (uint32_t i = 0; i < model->n_ops; i++) {
    const struct tl_op *op = &model->plan[i];
    if ((op->kind != TL_OP_ATTEND || op->features & TL_F_LENT) && op->kind != TL_OP_LATENT_ATTEND) continue;
    size_t bytes = cpu_heads_of(d, op)->layer_bytes;
    d->layer_at[op->layer] = total;
    total += bytes;
    most = bytes > most ? bytes : most;
  }
  return model->pooling == TL_POOL_NONE ? total : most;
}

static int make_kv(struct cpu_device *d, struct tl_error *err) {
  const struct tl_model *model = d->model;
  d->kv_dtype = tl_device_kv_dtype(&d->load);
  d->heads = make_heads(d, model->head_dim, d->shard.n_kv_heads);
  d->wide = make_heads(d, model->wide.dim, d->shard.n_wide_kv_heads);
  uint64_t block_bytes = lay_out_layers(d);
  if (!block_bytes) return no_memory(err, "the KV blocks", 0);
  if (model->pooling != TL_POOL_NONE) {
    d->n_blocks = cpu_places_blocks(d);
    d->kv_bytes = d->n_blocks * block_bytes;
    d->kv = cpu_map(d->kv_bytes);
    return d->kv && cpu_places_make(d) ? TL_OK : no_memory(err, "the keys of a step", d->kv_bytes);
  }
  const uint32_t least_context = tl_device_least_context(&d->load);
  uint64_t one = tl_blocks_of(d->load.max_context), wanted = one * d->load.max_batch_size, least = tl_blocks_of(least_context);
  uint64_t most = d->load.kv_memory_bytes ? d->load.kv_memory_bytes : available_bytes() / 4 / d->shard.size;
  int r = make_states(d, most, least * block_bytes, err);
  if (r < 0) return r;
  most -= d->states.bytes;
  uint64_t each = block_bytes + d->load.beside_block_bytes, blocks = most / each < wanted ? most / each : wanted;
  if (d->load.n_blocks) blocks = d->load.n_blocks;
  if (blocks < least && !d->load.n_blocks)
    return tl_error_set(err, TL_ENOMEM, "engine.kv_memory_bytes",
                        "engine.kv_memory_bytes: a context of %u tokens needs %llu MiB of KV cache, %llu MiB are there; "
                        "lower engine.max_context or give more",
                        least_context, (unsigned long long)(least * each >> 20), (unsigned long long)(most >> 20));
  if (blocks < one) d->load.max_context = (uint32_t)blocks * TL_BLOCK_TOKENS; /* no longer one comes: what is made for each context is shorter, too */
  d->n_blocks = (uint32_t)(blocks < UINT32_MAX / TL_BLOCK_TOKENS ? blocks : UINT32_MAX / TL_BLOCK_TOKENS);
  d->kv_bytes = d->n_blocks * block_bytes;
  d->kv = cpu_map(d->kv_bytes);
  return d->kv ? TL_OK : no_memory(err, "the KV blocks", d->kv_bytes);
}

/* The longest inner row of a rank: an expert that all rows have may have another than ffn_dim. */
static size_t widest_ffn(const struct cpu_device *d) {
  size_t most = 0;
  for (uint32_t i = 0; i < d->model->n_ops; i++) {
    const struct tl_op *op = &d->model->plan[i];
    if (op->kind != TL_OP_GATED_UP && op->kind != TL_OP_UP) continue;
    size_t n = tl_slice_weight(d->model, &d->shard, op, 0).n_rows;
    most = n > most ? n : most;
  }
  return most;
}

/* The longest vector of a pooling model on its way; 0: it is none. */
static size_t widest_vector(const struct tl_model *model) {
  size_t most = model->pooling == TL_POOL_NONE ? 0 : model->dim;
  for (uint32_t i = 0; i < model->n_ops; i++) {
    const struct tl_op *op = &model->plan[i];
    if (op->kind == TL_OP_DENSE && model->tensors[op->weight[0]].shape[0] > most) most = model->tensors[op->weight[0]].shape[0];
  }
  return most;
}

static bool makes_aside(const struct tl_model *model) {
  for (uint32_t i = 0; i < model->n_ops; i++)
    if (model->plan[i].kind == TL_OP_ASIDE) return true;
  return false;
}

/* All activations in one mapping; rows are padded so that kernels may read and
 * write whole vectors, and the padding stays zero. */
static int make_activations(struct cpu_device *d, struct tl_error *err) {
  const struct tl_model *model = d->model;
  const struct tl_shard *shard = &d->shard;
  size_t tokens = d->load.max_batch_tokens, rows = shard->rank == 0 ? d->load.max_batch_size : 0;
  d->ld_dim = cpu_row_stride(model->dim);
  cpu_latent_measure(d);
  size_t qkv = (size_t)(shard->n_heads + 2 * shard->n_kv_heads) * model->head_dim;
  size_t wide = (size_t)(shard->n_heads + 2 * shard->n_wide_kv_heads) * model->wide.dim;
  if (wide > qkv) qkv = wide;
  d->ld_qkv = cpu_row_stride(model->n_latent ? d->latent.key_at + model->head_dim : qkv);
  uint32_t value = tl_model_value_dim(model);
  size_t heads = (size_t)shard->n_heads * (model->wide.dim > value ? model->wide.dim : value);
  d->ld_attn = cpu_row_stride(heads > d->states.made ? heads : d->states.made);
  d->ld_ffn = cpu_row_stride(widest_ffn(d));
  d->ld_vocab = cpu_round_up(model->vocab_size, 32);
  d->ld_vector = cpu_row_stride(widest_vector(model));
  d->ld_beside = cpu_row_stride((size_t)model->n_beside * model->n_layers);
  size_t aside = makes_aside(model) ? tokens * d->ld_dim : 0, beside = tokens * d->ld_beside;
  size_t part = d->group ? tokens * d->ld_dim : 0;
  size_t vectors = (size_t)d->load.max_batch_size * d->ld_vector; /* each rank makes all of them */
  size_t widest = d->ld_dim > d->ld_attn ? d->ld_dim : d->ld_attn;
  if (d->ld_vector > widest) widest = d->ld_vector;
  if (model->n_latent && d->latent.ld_wide > widest) widest = d->latent.ld_wide;
  if (model->n_latent && d->ld_qkv > widest) widest = d->ld_qkv;
  if (d->ld_vector) rows = 0; /* of logits */
  if (d->ld_ffn > widest) widest = d->ld_ffn;
  struct cpu_states *s = &d->states;
  cpu_mixture_measure(d);
  struct cpu_mixture *x = &d->mixture;
  size_t entries = x->n_entries_max, widest_entry = d->ld_dim > x->ld_inner ? d->ld_dim : x->ld_inner;
  size_t pairs = tokens * widest > entries * widest_entry ? tokens * widest : entries * widest_entry;
  struct {
    float **place;
    size_t floats;
  } parts[] = {{&d->x, tokens * d->ld_dim},     {&d->h, tokens * d->ld_dim},   {&d->qkv, tokens * d->ld_qkv},
               {&d->a, tokens * d->ld_attn},    {&d->m, tokens * d->ld_ffn},   {&d->logits, rows * d->ld_vocab},
               {(float **)&d->pairs, pairs / 2},  {&d->parts[0], part},          {&d->parts[1], part},
               {&d->aside, aside},              {&d->beside, beside},          {&d->mix, beside},
               {&d->vectors[0], vectors},      {&d->vectors[1], vectors},
               {&d->latent.query, tokens * d->latent.ld_query}, {&d->latent.wide, tokens * d->latent.ld_wide},
               {&s->u, tokens * s->ld_u}, {&s->z, tokens * s->ld_z}, {&s->wide, tokens * s->ld_wide},
               {&x->scores, entries ? tokens * x->ld_scores : 0}, {&x->io, entries * d->ld_dim}, {&x->m, entries * x->ld_inner}, {&x->v, tokens * x->ld_v}};
  size_t n = sizeof parts / sizeof *parts, total = 0;
  for (size_t i = 0; i < n; i++) total += parts[i].floats;
  d->activation_bytes = total * sizeof(float);
  d->activations = cpu_map(d->activation_bytes);
  if (!d->activations) return no_memory(err, "the activations", d->activation_bytes);
  float *at = (float *)(void *)d->activations;
  for (size_t i = 0; i < n; i++) {
    *parts[i].place = at;
    at += parts[i].floats;
  }
  if (!d->weights.quantized) return TL_OK;
  size_t cells = tokens * cpu_quant_row_cells(widest), of_entries = entries * cpu_quant_row_cells(widest_entry);
  d->quants_bytes = (cells > of_entries ? cells : of_entries) * sizeof *d->quants;
  d->quants = cpu_map(d->quants_bytes);
  return d->quants ? TL_OK : no_memory(err, "the activations", d->quants_bytes);
}

static void *lane_memory(size_t bytes) {
  size_t rounded = cpu_round_up(bytes ? bytes : 1, TL_CACHE_LINE);
  void *memory = aligned_alloc(TL_CACHE_LINE, rounded);
  return memory ? memset(memory, 0, rounded) : NULL;
}

static int make_lanes(struct cpu_device *d, struct tl_error *err) {
  size_t context = cpu_round_up(d->load.max_context, TL_BLOCK_TOKENS);
  size_t panel_floats = 2 * (size_t)d->load.max_batch_tokens * CPU_PANEL;
  size_t vocab = d->shard.rank == 0 && !d->ld_vector ? d->model->vocab_size : 0; /* the others do not sample */
  size_t pad = d->wide.pad > d->heads.pad ? d->wide.pad : d->heads.pad;
  if (panel_floats < CPU_MAX_QUERIES * pad) panel_floats = CPU_MAX_QUERIES * pad;
  d->lanes = lane_memory(d->options.n_lanes * sizeof *d->lanes);
  d->tickets = lane_memory((d->model->n_ops + 1) * sizeof *d->tickets);
  if (!d->lanes || !d->tickets) return no_memory(err, "the compute threads", 0);
  for (unsigned i = 0; i < d->options.n_lanes; i++) {
    struct cpu_lane *lane = &d->lanes[i];
    lane->panel_out = lane_memory(panel_floats * sizeof(float));
    lane->unpack = lane_memory(CPU_K_BLOCK * CPU_PANEL * sizeof(float));
    lane->scores = lane_memory(CPU_MAX_QUERIES * context * sizeof(float));
    lane->sampler.candidates = lane_memory(vocab * sizeof *lane->sampler.candidates);
    lane->sampler.raw = lane_memory(vocab * sizeof *lane->sampler.raw);
    lane->sampler.weights = lane_memory(vocab * sizeof *lane->sampler.weights);
    if (!lane->panel_out || !lane->unpack || !lane->scores || !lane->sampler.candidates || !lane->sampler.raw ||
        !lane->sampler.weights)
      return no_memory(err, "the compute threads", panel_floats * sizeof(float));
  }
  return TL_OK;
}

/* cos and sin of position * inv_freq (half), as floats, like transformers. */
static int make_rope(const struct cpu_device *d, const float *inv_freq, uint32_t half, float **ret, struct tl_error *err) {
  float *table = *ret = malloc((size_t)d->load.max_context * half * 2 * sizeof(float));
  if (!table) return no_memory(err, "the rotary angles", 0);
  for (uint32_t p = 0; p < d->load.max_context; p++)
    for (uint32_t i = 0; i < half; i++) {
      float angle = (float)p * inv_freq[i];
      table[(size_t)p * 2 * half + i] = cosf(angle);
      table[(size_t)p * 2 * half + half + i] = sinf(angle);
    }
  return TL_OK;
}

/* For blocks and states: given as much, a process that follows makes the same of it. Several states have half at most (cpu_states_fit), and
 * blocks, no more than sequences can use, may have left some of theirs. */
static uint64_t memory_taken(const struct cpu_device *d) {
  uint64_t states = d->states.bytes;
  return d->states.n > 1 && states > d->kv_bytes ? 2 * states : d->kv_bytes + states;
}

static int device_load(struct tl_device *device, const struct tl_device_load *load, struct tl_device_loaded *ret,
                       struct tl_error *err) {
  struct cpu_device *d = (struct cpu_device *)device;
  d->model = load->model;
  d->load = *load;
  int r = tl_shard_make(load->model, d->shard.rank, d->shard.size, &d->shard, err);
  cpu_states_measure(d);
  if (r == TL_OK) r = cpu_weights_load(load, &d->shard, &d->weights, err);
  if (r == TL_OK) r = make_kv(d, err);
  if (r == TL_OK) r = make_activations(d, err);
  if (r == TL_OK && !cpu_mixture_make(d)) r = no_memory(err, "the experts' entries", 0);
  if (r == TL_OK) r = cpu_adapters_load(d, err);
  if (r == TL_OK) r = make_lanes(d, err);
  if (r == TL_OK && !cpu_latent_make(d)) r = no_memory(err, "the compute threads", 0);
  uint32_t rotated = load->model->n_rotated / 2, wide = load->model->wide.dim / 2;
  if (r == TL_OK) r = make_rope(d, d->model->inv_freq, wide ? wide : rotated, &d->rope, err);
  if (r == TL_OK && d->model->inv_freq_local) r = make_rope(d, d->model->inv_freq_local, rotated, &d->rope_local, err);
  if (r < 0) return r;
  *ret = (struct tl_device_loaded){.n_blocks = d->n_blocks, .n_states = d->states.n, .kv_bytes = memory_taken(d), .weight_bytes = d->weights.bytes + d->adapters.bytes};
  return TL_OK;
}

/* --- steps ------------------------------------------------------------------------------------- */

static int closed(struct tl_error *err) {
  return tl_error_set(err, TL_ECLOSED, NULL, "the group gave the step up");
}

static int device_submit(struct tl_device *device, const struct tl_step *step, struct tl_error *err) {
  struct cpu_device *d = (struct cpu_device *)device;
  d->step = d->ld_vector ? cpu_places_step(d, step) : step;
  d->lost = d->group && device_meet_is_aborted(&d->group->meet);
  if (d->lost) return closed(err);
  /* relaxed stores: published to the lanes by the start of the pool */
  for (uint32_t i = 0; i <= d->model->n_ops; i++) atomic_store_explicit(&d->tickets[i].next, 0, memory_order_relaxed);
  if (d->step->adapters) cpu_adapters_begin(d, d->step);
  return TL_OK;
}

/* The worker is lane 0, so the step runs in here: the others wake meanwhile. */
static int device_collect(struct tl_device *device, struct tl_sampled *ret_sampled, struct tl_error *err) {
  struct cpu_device *d = (struct cpu_device *)device;
  d->sampled = ret_sampled;
  cpu_pool_start(d->pool, cpu_run_step, d);
  cpu_pool_join(d->pool);
  return d->lost ? closed(err) : TL_OK;
}

/* No reset: a step on the CPU ends by itself, if late, and nobody else can end it. What could be reset would have its steps thrown away
 * and go out for good where the machine is only overloaded (ARCHITECTURE.md, Faults). */
const struct tl_device_ops cpu_device_ops = {.name = "cpu",
                                             .open = device_open,
                                             .load = device_load,
                                             .submit = device_submit,
                                             .collect = device_collect,
                                             .close = device_close,
                                             .group = &cpu_group_ops};
