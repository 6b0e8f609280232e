/* SPDX-License-Identifier: MIT */
/* A step on the device's stream: its data over, the layers and the draws (as a graph when all
 * rows decode), which leave the tokens in pinned memory. Nothing here waits for the
 * device, but for draws whose lists do not fit at once. */
#include "device/cuda/cuda_private.h"
#include "device/cuda/ops/cuda_plan.h"

/* --- layers ---------------------------------------------------------------------------------- */

static int embed(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err) {
  struct tl_cuda_embed_args args = {.dtype = d->dtype, .n = pass->n_tokens, .dim = d->dims.dim, .tokens = d->device.tokens, .fed = d->work.fed,
                                    .format = op->w.pieces[0].format, .weight = op->w.pieces[0].data,
                                    .scales = op->w.pieces[0].scales, .first_token = d->shard.first_vocab,
                                    .n_slice = d->dims.n_vocab, .out = d->work.delta};
  CUDA_TRY(d, d->api->op.embed(&args, d->stream), "the embedding", err);
  int r = cuda_all_reduce(d, d->work.delta, (size_t)pass->n_tokens * d->dims.dim, err);
  return r < 0 || !op->place ? r : cuda_place(d, op, pass, err); /* which each rank has whole: behind the sum, once */
}

/* What was added is added no more: those rows are still there, and are numbers if x is. */
static float factor_before(const struct cuda_op *norm) {
  if (norm->again) return 0;
  return norm->before->features & TL_F_FACTOR ? norm->before->factor : 1;
}

/* What records of a pass leave to those behind them. */
struct rest {
  const char *h, *m;             /* rows that the next products read: T, or E4M3 if they take nothing else, and nobody else reads them */
  struct tl_cuda_rest delta, qkv;
};

/* Whether an MLP beside attention, or what makes its gate, reads a norm's rows, too. */
static bool is_read_twice(const struct cuda_op *norm) {
  if (norm[1].kind != CUDA_OP_QKV) return false;
  return norm[2].kind == CUDA_OP_GATE_IN || norm[3].kind == CUDA_OP_GATED || norm[3].kind == CUDA_OP_UP; /* else norm[2] is attention */
}

static int norm(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, float *x, struct rest *rest,
                struct tl_error *err) {
  const struct cuda_op *next = op + 1; /* the last record is another: logits, or what pools */
  bool rounded = !is_read_twice(op) && (next->kind == CUDA_OP_QKV || next->kind == CUDA_OP_GATED) && !cuda_adapts(next, pass) &&
                 cuda_wants_e4m3(d, &next->w, pass->n_tokens);
  struct tl_cuda_add_norm_args args = {.dtype = d->dtype, .first = op->before->kind == TL_OP_EMBED,
                                       .centered = (op->from->features & TL_F_LAYER_NORM) != 0,
                                       .in_place = (op->from->features & TL_F_IN_PLACE) != 0, .n = pass->n_tokens,
                                       .dim = d->dims.dim, .width = d->model->dim, .eps = op->from->eps,
                                       .post_eps = op->post ? op->post->eps : 0,
                                       .factor = factor_before(op), .x = x,
                                       .delta = d->work.delta, .left = rest->delta, .post = op->post_weight, .weight = op->weight,
                                       .shift = op->shift, .h = d->work.h, .rounded = rounded ? d->work.tile : NULL,
                                       .scales = d->work.row_scales};
  CUDA_TRY(d, d->api->op.add_norm(&args, d->stream), "a norm", err);
  rest->h = rounded ? d->work.tile : d->work.h;
  rest->delta = (struct tl_cuda_rest){0};
  return TL_OK;
}

/* Its values lie behind them. In models that pool all layers use the same blocks in turn: nothing outlives a step. */
char *cuda_keys_of(const struct cuda_device *d, const struct cuda_op *op) {
  return d->kv + (d->model->n_latent ? 1 : 2) * (cuda_pools(d) ? 0 : (size_t)op->from->layer) * d->layer_bytes;
}

/* What lies between the QKV product and attention. */
static struct tl_cuda_qkv_args heads_of(const struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass) {
  const struct cuda_dims *s = &d->dims;
  char *k = cuda_keys_of(d, op);
  bool local = op->rope && op->rope->features & TL_F_LOCAL;
  return (struct tl_cuda_qkv_args){.dtype = d->attend_dtype, .n = pass->n_tokens, .n_heads = s->n_heads, .n_kv_heads = s->n_kv_heads,
                                   .head_dim = s->head, .width = d->model->head_dim, .qkv = d->work.qkv, .bias = op->w.bias,
                                   .q_norm = op->q_norm, .k_norm = op->k_norm,
                                   .norm_each = cuda_norms_each_head(op), .norm_last = op->norm_last, .row_squares = cuda_norms_whole_rows(op) ? d->work.row_squares : NULL,
                                   .eps = op->qk_norm ? op->qk_norm->eps : 0,
                                   .rope = !op->rope ? NULL : local ? d->work.rope_local : d->work.rope,
                                   .growth = op->from->features & TL_F_GROWS ? d->work.growth : NULL,
                                   .positions = d->device.positions, .slots = d->device.slots, .q = d->work.q, .k_cache = k,
                                   .v_cache = k + d->layer_bytes};
}

static int prepare_heads(struct cuda_device *d, const struct tl_cuda_qkv_args *heads, struct tl_error *err) {
  struct tl_cuda_row_squares_args squares = {.dtype = d->dtype, .n = heads->n, .n_heads = heads->n_heads,
                                             .n_kv_heads = heads->n_kv_heads, .head_dim = heads->head_dim, .width = heads->width,
                                             .n_ranks = d->shard.size, .qkv = d->work.qkv, .bias = heads->bias,
                                             .out = d->work.row_squares};
  if (heads->row_squares) {
    CUDA_TRY(d, d->api->op.row_squares(&squares, d->stream), "norms of whole rows", err);
    int r = cuda_sum_floats(d, d->work.row_squares, 2 * (size_t)heads->n, err);
    if (r < 0) return r;
  }
  CUDA_TRY(d, d->api->op.qkv(heads, d->stream), "rotation and cache", err);
  return TL_OK;
}

struct tl_cuda_attention cuda_attention_of(const struct cuda_device *d, const struct cuda_op *op) {
  const struct cuda_dims *s = &d->dims;
  const struct tl_op *from = op->from;
  char *k = cuda_keys_of(d, op), *v = k + d->layer_bytes;
  return (struct tl_cuda_attention){.dtype = d->attend_dtype, .n_heads = s->n_heads, .n_kv_heads = s->n_kv_heads, .head_dim = s->head,
                                    .scale = from->scale, .softcap = from->features & TL_F_SOFTCAP ? from->softcap : 0,
                                    .window = from->features & TL_F_WINDOW ? from->window : 0,
                                    .both_sides = (from->features & TL_F_BOTH_SIDES) != 0, .q = d->work.q,
                                    .sinks = op->sinks, .out = d->work.a, .k_cache = k, .v_cache = v, .block_tables = d->device.tables,
                                    .table_stride = d->limits.table_stride};
}

static int project(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct rest *rest, struct tl_error *err) {
  if (!cuda_adapts(op, pass)) return cuda_run_leaving(d, &op->w, NULL, pass->n_tokens, rest->h, d->work.qkv, &rest->qkv, err);
  rest->qkv = (struct tl_cuda_rest){0};
  int r = cuda_run_product(d, &op->w, NULL, pass->n_tokens, rest->h, d->work.qkv, err);
  return r < 0 ? r : cuda_adapt(d, op, pass, rest->h, d->work.qkv, err);
}

static int attend(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, const struct tl_cuda_rest *qkv,
                  struct tl_error *err) {
  const struct cuda_work_list *list = &d->device.lists[(op->from->features & (TL_F_WINDOW | TL_F_CHUNKED)) != 0];
  struct tl_cuda_attention a = cuda_attention_of(d, op);
  struct tl_cuda_qkv_args heads = heads_of(d, op, pass);
  /* Few decode rows alone, one a sequence: their attention makes the heads. Of drafts a row sees keys and values of those before it, which
   * another thread block may have to make: there all are in the cache before. */
  bool itself = pass->n_decode == pass->n_tokens && !pass->drafts && pass->n_tokens <= TL_CUDA_GEMV_MAX_ROWS && !heads.row_squares && !heads.norm_each && !heads.norm_last;
  heads.left = *qkv;
  int r = itself ? TL_OK : prepare_heads(d, &heads, err);
  if (r < 0) return r;
  if (pass->n_decode) {
    struct tl_cuda_decode_args args = {.a = a, .n_blocks = d->limits.n_blocks, .max_rows = pass->n_decode,
                                       .pack = pass->drafts ? d->limits.packing.pack : 1,
                                       .lanes = list->lanes, .items = list->items,
                                       .partial = d->work.partial, .partial_scale = d->work.partial_scale,
                                       .arrived = d->work.arrived};
    if (itself) args.heads = heads;
    CUDA_TRY(d, d->api->op.decode(&args, d->stream), "decode attention", err);
  }
  return pass->n_tiles ? cuda_attend_prompts(d, op, &a, pass, err) : TL_OK;
}

/* delta = x W^T + b, of which each rank has a part of the sum, and one of them the bias. */
static int sum(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, const char *x, struct tl_cuda_rest *ret_left,
               struct tl_error *err) {
  const float *bias = d->shard.rank == 0 ? op->w.bias : NULL;
  int r;
  if (cuda_adapts(op, pass)) {
    *ret_left = (struct tl_cuda_rest){0};
    r = cuda_run_product(d, &op->w, bias, pass->n_tokens, x, d->work.delta, err);
    if (r == TL_OK) r = cuda_adapt(d, op, pass, x, d->work.delta, err);
  } else {
    r = cuda_run_leaving(d, &op->w, bias, pass->n_tokens, x, d->work.delta, ret_left, err);
  }
  if (r == TL_OK && op->route) r = cuda_mix(d, op, pass, err);
  return r < 0 ? r : cuda_all_reduce(d, d->work.delta, (size_t)pass->n_tokens * d->dims.dim, err);
}

static int gate_of(const struct cuda_op *op) {
  uint32_t features = op->from->features;
  return features & TL_F_GELU_TANH ? TL_CUDA_GELU : features & TL_F_GELU ? TL_CUDA_GELU_ERF : TL_CUDA_SILU;
}

static int gated(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, const char *h, const char **ret_m,
                 struct tl_error *err) {
  const struct cuda_op *next = op + 1; /* the last record is another */
  struct tl_cuda_rest left = {0};
  bool adapts = cuda_adapts(op, pass);
  int gate = gate_of(op), r;
  *ret_m = d->work.m;
  if (gate != TL_CUDA_GELU_ERF && !adapts && cuda_gates_itself(d, &op->w, pass->n_tokens))
    return cuda_run_gated(d, &op->w, gate, pass->n_tokens, h, d->work.m, err);
  if (adapts) {
    r = cuda_run_product(d, &op->w, NULL, pass->n_tokens, h, d->work.gate_up, err);
    if (r == TL_OK) r = cuda_adapt(d, op, pass, h, d->work.gate_up, err);
  } else {
    r = cuda_run_leaving(d, &op->w, NULL, pass->n_tokens, h, d->work.gate_up, &left, err);
  }
  if (r < 0) return r;
  struct tl_cuda_glu_args args = {.dtype = d->dtype, .gate = gate, .n = pass->n_tokens, .dim = op->w.n / 2,
                                  .gate_up = d->work.gate_up, .left = left, .bias = op->w.bias, .out = d->work.m,
                                  .scales = d->work.row_scales};
  if (next->kind == CUDA_OP_DOWN && args.dim <= TL_CUDA_GLU_ROUNDED_DIM && !cuda_adapts(next, pass) && cuda_wants_e4m3(d, &next->w, pass->n_tokens))
    *ret_m = args.rounded = d->work.tile;
  CUDA_TRY(d, d->api->op.glu(&args, d->stream), "the gate", err);
  return TL_OK;
}

static int logits(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, struct tl_error *err) {
  if (pass->n_rows == 0) return TL_OK; /* a step that wants no row needs none */
  const char *x = d->work.h;
  if (!pass->all_rows) {
    struct tl_cuda_gather_args args = {.n = pass->n_rows, .dim = d->dims.dim, .rows = d->device.rows, .in = d->work.h,
                                       .out = d->work.last};
    CUDA_TRY(d, d->api->op.gather(&args, d->stream), "gathering the rows wanted", err);
    x = d->work.last;
  }
  float *own = d->group ? d->work.part : d->work.logits; /* this rank's part of the vocabulary */
  int r = cuda_run_product(d, &op->w, NULL, pass->n_rows, x, own, err);
  struct tl_cuda_cap_args bias = {.n = pass->n_rows, .vocab = d->dims.n_vocab, .ld = op->w.ld, .factor = 1, .bias = op->w.bias, .logits = own};
  if (r == TL_OK && op->w.bias) CUDA_TRY(d, d->api->op.cap(&bias, d->stream), "adding a bias", err);
  if (r == TL_OK && d->group) r = cuda_gather_logits(d, pass->n_rows, err);
  if (r < 0 || !(op->from->features & (TL_F_FACTOR | TL_F_SOFTCAP))) return r;
  struct tl_cuda_cap_args cap = {.n = pass->n_rows, .vocab = d->dims.vocab, .ld = d->dims.ld_logits,
                                 .factor = op->from->features & TL_F_FACTOR ? op->from->factor : 1,
                                 .softcap = op->from->features & TL_F_SOFTCAP ? op->from->softcap : 0, .logits = d->work.logits};
  CUDA_TRY(d, d->api->op.cap(&cap, d->stream), "factor and cap of the logits", err);
  return TL_OK;
}

/* Whether a plain RMSNorm and the product behind it, which alone reads it, are one kernel in this pass: of few rows each kernel costs
 * more to start than a norm to compute once more in every block. */
static bool joins_next(const struct cuda_op *op, const struct cuda_op *next, const struct cuda_pass *pass) {
  bool plain = !op->post && !op->again && op->weight && !op->shift && !(op->from->features & (TL_F_LAYER_NORM | TL_F_IN_PLACE));
  bool reads = next->kind == CUDA_OP_QKV || next->kind == CUDA_OP_DELTA_IN || next->kind == CUDA_OP_SHORT_IN || (next->kind == CUDA_OP_GATED && gate_of(next) != TL_CUDA_GELU_ERF);
  return plain && reads && !is_read_twice(op) && !cuda_adapts(next, pass) && cuda_norms_itself(&next->w, pass->n_tokens);
}

/* The norm `op` and the product behind it; the residual goes from x to x_out. */
static int normed(struct cuda_device *d, const struct cuda_op *op, const struct cuda_pass *pass, const float *x, float *x_out,
                  struct tl_error *err) {
  const struct cuda_op *next = op + 1;
  bool gated = next->kind == CUDA_OP_GATED;
  struct tl_cuda_normed_args made = {.first = op->before->kind == TL_OP_EMBED, .width = d->model->dim, .eps = op->from->eps,
                                     .factor = factor_before(op), .x = x, .x_out = x_out, .delta = d->work.delta, .weight = op->weight};
  return cuda_run_normed(d, &next->w, next->kind == CUDA_OP_QKV ? NULL : next->w.bias, gated ? gate_of(next) : TL_CUDA_UNGATED, &made, pass->n_tokens,
                         gated ? d->work.m : d->work.qkv, err);
}

int cuda_run_pass(struct cuda_device *d, const struct cuda_pass *pass, struct tl_error *err) {
  float *x = d->work.x, *x_other = d->work.x_turn;
  struct rest rest = {.h = d->work.h, .m = d->work.m};
  int r = TL_OK;
  for (uint32_t i = 0; i < d->n_plan && r == TL_OK; i++) {
    const struct cuda_op *op = &d->plan[i];
    const struct cuda_work *w = &d->work;
    switch (op->kind) {
      case CUDA_OP_EMBED: r = embed(d, op, pass, err); break;
      case CUDA_OP_NORM:
        if (!joins_next(op, op + 1, pass)) {
          r = norm(d, op, pass, x, &rest, err);
          break;
        }
        r = normed(d, op, pass, x, x_other, err);
        float *now = x_other;
        x_other = x;
        x = now;
        i++;
        break;
      case CUDA_OP_QKV: r = project(d, op, pass, &rest, err); break;
      case CUDA_OP_ATTEND: r = attend(d, op, pass, &rest.qkv, err); break;
      case CUDA_OP_OUT: r = sum(d, op, pass, w->a, &rest.delta, err); break;
      case CUDA_OP_GATED: r = gated(d, op, pass, op->row_gate ? w->h : rest.h, &rest.m, err); break;
      case CUDA_OP_UP:
        rest.m = w->m;
        r = cuda_up(d, op, pass, err);
        break;
      case CUDA_OP_DOWN: r = sum(d, op, pass, rest.m, &rest.delta, err); break;
      case CUDA_OP_LOGITS: r = logits(d, op, pass, err); break;
      case CUDA_OP_ROUTE: r = cuda_route(d, op, pass, err); break;
      case CUDA_OP_EXPERTS_IN:
      case CUDA_OP_EXPERTS_OUT: r = cuda_experts_latent(d, op, pass, err); break;
      case CUDA_OP_EXPERTS_UP: r = cuda_experts_up(d, op, pass, err); break;
      case CUDA_OP_EXPERTS_DOWN: r = cuda_experts_down(d, op, pass, err); break;
      case CUDA_OP_POOL: r = cuda_pool(d, pass, err); break;
      case CUDA_OP_LATENT:
      case CUDA_OP_LATENT_ROWS:
      case CUDA_OP_LATENT_QUERY:
      case CUDA_OP_LATENT_ABSORB:
      case CUDA_OP_LATENT_ATTEND:
      case CUDA_OP_LATENT_VALUE: r = cuda_latent(d, op, pass, err); break;
      case CUDA_OP_DELTA_IN:
      case CUDA_OP_CONV:
      case CUDA_OP_DELTA:
      case CUDA_OP_GATED_NORM:
      case CUDA_OP_SHORT_IN:
      case CUDA_OP_SHORT_CONV:
      case CUDA_OP_GATE_IN:
      case CUDA_OP_GATE: r = cuda_keep(d, op, pass, w->h, err); break;
      case CUDA_OP_DENSE: r = cuda_dense(d, op, pass, err); break;
    }
  }
  return r;
}

/* --- draws -------------------------------------------------------------------------------------- */

static int copy_lists(struct cuda_device *d, const struct cuda_lists *n, struct tl_error *err) {
  const struct cuda_runtime *rt = &d->api->rt;
  const struct cuda_step_data *h = d->host, *at = &d->device;
  size_t mask_bytes = TL_MASK_WORDS(d->dims.vocab) * sizeof *h->masks;
  if (n->n_history)
    CUDA_TRY(d, rt->copy(at->history, h->history, n->n_history * sizeof *h->history, d->stream), "copying penalties", err);
  if (n->n_bias) CUDA_TRY(d, rt->copy(at->bias, h->bias, n->n_bias * sizeof *h->bias, d->stream), "copying biases", err);
  if (n->n_masks) CUDA_TRY(d, rt->copy(at->masks, h->masks, n->n_masks * mask_bytes, d->stream), "copying masks", err);
  return TL_OK;
}

int cuda_draw(struct cuda_device *d, uint32_t row, uint32_t end, enum tl_cuda_sample_stage stage, struct tl_error *err) {
  const struct cuda_step_data *at = &d->device;
  const struct cuda_work *w = &d->work;
  struct tl_cuda_sample_args args = {.stage = stage, .n = end - row, .vocab = d->dims.vocab, .ld = d->dims.ld_logits,
                                     .n_multiprocessors = d->info.multiprocessors, .best = w->best, .sums = w->sums,
                                     .bins = w->bins, .arrived = w->rows_arrived, .left = w->left,
                                     .logits = w->logits + (size_t)row * d->dims.ld_logits, .rows = at->sampling + row,
                                     .history = at->history, .bias = at->bias, .saved = w->saved,
                                     .n_history = d->limits.max_entries, .masks = at->masks, .fed = w->fed + row};
  CUDA_TRY(d, d->api->op.sample(&args, d->stream), "the draws", err);
  return TL_OK;
}

/* Most rows want their most likely token, and have it by now. */
static int draw_left(struct cuda_device *d, const struct tl_step *step, uint32_t row, uint32_t end, struct tl_error *err) {
  bool draws = false, filters = false;
  for (uint32_t i = row; i < end; i++) {
    const struct tl_sampling *s = &step->sampling[i];
    if (s->temperature <= 0 || s->target >= 0) continue;
    draws = true;
    filters = filters || s->top_k > 0 || s->top_p < 1;
  }
  int r = filters ? cuda_draw(d, row, end, TL_CUDA_NARROW, err) : TL_OK;
  return r == TL_OK && draws ? cuda_draw(d, row, end, TL_CUDA_DRAW, err) : r;
}

/* The first rows' lists came with the step's data; the others', which huge ones may
 * leave over, as soon as the pinned memory is read. */
static int draw_all(struct cuda_device *d, const struct tl_step *step, struct cuda_slot *slot, uint32_t end, struct tl_error *err) {
  const struct cuda_runtime *rt = &d->api->rt;
  struct cuda_lists n;
  int r = cuda_draw(d, 0, end, TL_CUDA_CHOOSE, err);
  if (r == TL_OK) r = draw_left(d, step, 0, end, err);
  while (r == TL_OK && end < step->n_rows) {
    uint32_t row = end;
    CUDA_TRY(d, rt->event_record(d->done, d->stream), "marking the draws", err);
    if ((r = cuda_wait_for(d, d->done, err)) < 0) return r;
    end = cuda_stage_sampling(d, step, slot->sampled, row, &n);
    if (end == row)
      return tl_error_set(err, TL_ELIMIT, "limits.max_logit_bias", "a row of the step has more than %u penalties or biases",
                          d->limits.max_entries);
    CUDA_TRY(d, rt->copy(d->device.sampling, d->host->sampling, step->n_rows * sizeof *d->host->sampling, d->stream),
             "copying the draws", err);
    if ((r = copy_lists(d, &n, err)) == TL_OK) r = cuda_draw(d, row, end, TL_CUDA_CHOOSE, err);
    if (r == TL_OK) r = draw_left(d, step, row, end, err);
  }
  return r;
}

/* --- the whole -------------------------------------------------------------------------------------- */

int cuda_copy_step(struct cuda_device *d, uint32_t n_seqs, const struct cuda_pass *pass, struct tl_error *err) {
  const struct cuda_runtime *rt = &d->api->rt;
  size_t width = pass->table_width * sizeof(uint32_t), stride = d->limits.table_stride * sizeof(uint32_t);
  CUDA_TRY(d, rt->copy(d->device.lists[0].lanes, d->host->lists[0].lanes, d->host->bytes, d->stream), "copying a step", err);
  CUDA_TRY(d, rt->copy_rows(d->device.tables, stride, d->host->tables, width, width, n_seqs, d->stream),
           "copying block tables", err);
  return TL_OK;
}

/* A step of texts has no graph: its rows are many, and never the same number. */
static int run_texts(struct cuda_device *d, const struct tl_step *step, struct cuda_slot *slot, struct tl_error *err) {
  struct cuda_pass pass;
  slot->to = d->shard.rank == 0 ? step->vectors : NULL; /* all ranks have the same: one gives them */
  cuda_stage_texts(d, step, &pass);
  int r = cuda_copy_step(d, step->n_seqs, &pass, err);
  if (r == TL_OK) r = cuda_run_pass(d, &pass, err);
  if (r == TL_OK && slot->to) r = cuda_give_vectors(d, step->n_seqs, slot->vectors, err);
  if (r < 0) return r;
  CUDA_TRY(d, d->api->rt.event_record(slot->done, d->stream), "marking a step's end", err);
  return TL_OK;
}

static int run_step(struct cuda_device *d, const struct tl_step *step, struct cuda_slot *slot, struct tl_error *err) {
  const struct cuda_runtime *rt = &d->api->rt;
  struct cuda_pass pass;
  struct cuda_lists lists;
  uint32_t end = cuda_stage_sampling(d, step, slot->sampled, 0, &lists);
  /* the draws of a graph find all lists there */
  const struct tl_cuda_shape shape = tl_cuda_shape_of(step, d->limits.packing.most_rows);
  bool fits = shape.is_decode && end == step->n_rows;
  struct cuda_graph_kind kind = {.drafts = shape.drafts, .adapts = step->adapters && d->n_adapted};
  const struct cuda_graph *graph = fits ? cuda_find_graph(d, step->n_tokens, kind) : NULL;
  cuda_stage_step(d, step, &shape, graph ? graph->n_rows : step->n_tokens, &pass);
  int r = cuda_copy_step(d, step->n_seqs, &pass, err);
  if (r == TL_OK) r = copy_lists(d, &lists, err);
  if (r < 0) return r;
  /* Every rank has all logits, to the bit, and draws the same of them: so the step behind this one finds its tokens
   * on each device (`fed`), and no rank waits for what another drew. */
  if (graph) {
    CUDA_TRY(d, rt->exec_launch(graph->exec, d->stream), "launching a graph", err);
    r = draw_left(d, step, 0, end, err);
  } else {
    r = cuda_run_pass(d, &pass, err);
    if (r == TL_OK && step->n_rows) r = draw_all(d, step, slot, end, err);
  }
  if (r < 0) return r;
  CUDA_TRY(d, rt->event_record(slot->done, d->stream), "marking a step's end", err);
  return TL_OK;
}

/* Whether a step may be put on the stream. Behind another one it reads and writes the same memory on the device, in
 * order, and pinned memory of its own. */
static int look_before(struct cuda_device *d, struct tl_error *err) {
  /* pairs with the release of reset: what that did is seen by this step */
  uint32_t resets = atomic_load_explicit(&d->resets, memory_order_acquire);
  if ((d->n_under_way && resets != d->resets_seen) || atomic_load_explicit(&d->interrupted, memory_order_relaxed)) /* behind resets */
    return tl_error_set(err, TL_EDEVICE, NULL, "cuda:%u: the step was given up", d->options.index);
  d->resets_seen = resets;
  if (atomic_load_explicit(&d->dead, memory_order_relaxed)) return cuda_is_dead(d, err); /* relaxed: only ever set */
  CUDA_TRY(d, d->api->rt.use((int)d->options.index), "choosing the device", err);
  if (d->group) {
    int r = cuda_look_at_group(d, err);
    if (r < 0) return r;
  }
  if (d->n_under_way || !d->busy) return TL_OK;
  /* the step before was given up: it may still read what this one would write */
  int r = d->api->rt.stream_query(d->stream);
  if (r == CUDA_NOT_READY)
    return tl_error_set(err, TL_EDEVICE, NULL, "cuda:%u: a step that was given up still runs", d->options.index);
  CUDA_TRY(d, r, "the step before", err);
  return TL_OK;
}

int cuda_submit(struct cuda_device *d, const struct tl_step *step, struct tl_error *err) {
  struct cuda_slot *slot = &d->slots[(d->oldest + d->n_under_way) % 2];
  int r = look_before(d, err);
  if (r == TL_OK) {
    d->busy = true;
    d->host = &slot->data;
    slot->n_rows = step->n_rows;
    r = cuda_pools(d) ? run_texts(d, step, slot, err) : run_step(d, step, slot, err);
  }
  d->n_under_way = r < 0 ? 0 : d->n_under_way + 1; /* an error gives up the one before, too */
  return r;
}
