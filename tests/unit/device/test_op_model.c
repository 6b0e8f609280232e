/* SPDX-License-Identifier: MIT */
/* Whole models by the kernels alone, on fibers or a GPU, against transformers: do the
 * operations fit together? Three sequences at once, prompts in chunks, decodes among
 * them. Sizes are padded to multiples of 8 with zeros, as a backend has to do it. */
#include "golden_llama.h"
#include "op_unit.h"

#include "device/cuda/ops/cuda_plan.h"

enum { ROWS = TL_CUDA_GEMV_MAX_ROWS, DECODE_BLOCKS = 12, MAX_PLAN = 64 };

static const struct tl_cuda_packing one_row = {1, 1, 0};

/* A product's weight (n, k), padded. */
struct matrix {
  uint16_t *w;
  float *bias;
  uint32_t n, k;
};

struct network {
  const struct tl_model *model;
  int dtype;
  uint32_t dim, ffn, half, head_dim, q, qkv; /* padded; q and qkv are whole rows */
  struct matrix matrices[MAX_PLAN];          /* by plan record */
  float *norms[MAX_PLAN];
  uint16_t *embed;
  float *rope;
  uint32_t n_blocks, table_stride;
  uint16_t *k_cache, *v_cache; /* (layer, block, ...) */
  size_t layer_elements;
  /* a step's arrays and rows */
  int32_t *tokens, *fed;
  uint32_t *positions, *slots, *tables, *rows;
  struct tl_cuda_item *items;
  struct tl_cuda_lane *lanes;
  uint32_t *arrived, n_lanes;
  struct tl_cuda_tile *tiles;
  struct tl_cuda_sampling *sampling;
  struct tl_cuda_left *left;
  struct tl_sampled *sampled;
  float *x, *partial, *logits, *saved;
  uint64_t *partial_scale;
  uint16_t *delta, *h, *qkv_rows, *q_rows, *attention, *gate_up, *inner, *last;
  void *all[64]; /* every array above, to be freed */
  unsigned n_all;
};

/* --- weights ---------------------------------------------------------------------------------- */

static void *own(struct network *n, void *p) {
  assert_true(n->n_all < UNIT_COUNT(n->all) + 0u);
  return n->all[n->n_all++] = p;
}

static uint32_t padded(uint32_t size) {
  return (size + 7) / 8 * 8;
}

/* Where element i of a row of heads lies: each half of a head is padded for itself, so
 * that rotation still pairs what it did. */
static uint32_t in_heads(const struct network *n, uint32_t i) {
  uint32_t half = n->model->head_dim / 2, in_head = i % n->model->head_dim;
  return i / n->model->head_dim * n->head_dim + in_head / half * n->half + in_head % half;
}

static float element(const struct tl_tensor *t, size_t i) {
  float value;
  tl_dtype_to_f32(t->dtype, (const char *)t->data + i * tl_dtype_bytes(t->dtype), &value, 1);
  return value;
}

static void put(struct network *n, struct matrix *m, uint32_t first_row, bool heads_out, bool heads_in, int32_t weight,
                int32_t bias) {
  const struct tl_tensor *t = &n->model->tensors[weight];
  for (uint32_t row = 0; row < t->shape[0]; row++) {
    uint32_t to = first_row + (heads_out ? in_heads(n, row) : row);
    for (uint32_t column = 0; column < t->shape[1]; column++)
      m->w[(size_t)to * m->k + (heads_in ? in_heads(n, column) : column)] =
          op_pack(n->dtype, element(t, row * t->shape[1] + column));
    if (bias >= 0) m->bias[to] = element(&n->model->tensors[bias], row);
  }
}

static struct matrix *new_matrix(struct network *n, uint32_t i, uint32_t rows, uint32_t columns, bool bias) {
  struct matrix *m = &n->matrices[i];
  *m = (struct matrix){.n = rows, .k = columns, .w = own(n, op_alloc((size_t)rows * columns * 2))};
  memset(m->w, 0, (size_t)rows * columns * 2);
  if (bias) m->bias = memset(own(n, op_alloc(rows * sizeof(float))), 0, rows * sizeof(float));
  return m;
}

static void load_op(struct network *n, uint32_t i) {
  const struct tl_op *op = &n->model->plan[i];
  const struct tl_model *model = n->model;
  struct matrix *m;
  uint32_t kv = model->n_kv_heads * n->head_dim;
  switch (op->kind) {
    case TL_OP_RMSNORM:
      n->norms[i] = own(n, op_alloc(n->dim * sizeof(float)));
      for (uint32_t k = 0; k < n->dim; k++)
        n->norms[i][k] = k < model->dim ? element(&model->tensors[op->weight[0]], k) : 0;
      break;
    case TL_OP_QKV:
      m = new_matrix(n, i, n->qkv, n->dim, op->bias[0] >= 0);
      put(n, m, 0, true, false, op->weight[0], op->bias[0]);
      put(n, m, n->q, true, false, op->weight[1], op->bias[1]);
      put(n, m, n->q + kv, true, false, op->weight[2], op->bias[2]);
      break;
    case TL_OP_ATTN_OUT:
      put(n, new_matrix(n, i, n->dim, n->q, op->bias[0] >= 0), 0, false, true, op->weight[0], op->bias[0]);
      break;
    case TL_OP_GATED_UP:
      m = new_matrix(n, i, 2 * n->ffn, n->dim, op->bias[0] >= 0);
      put(n, m, 0, false, false, op->weight[0], op->bias[0]);
      put(n, m, n->ffn, false, false, op->weight[1], op->bias[1]);
      break;
    case TL_OP_MLP_DOWN:
      put(n, new_matrix(n, i, n->dim, n->ffn, op->bias[0] >= 0), 0, false, false, op->weight[0], op->bias[0]);
      break;
    case TL_OP_LOGITS:
      put(n, new_matrix(n, i, model->vocab_size, n->dim, false), 0, false, false, op->weight[0], -1);
      break;
    case TL_OP_EMBED:
      n->embed = new_matrix(n, i, model->vocab_size, n->dim, false)->w;
      put(n, &n->matrices[i], 0, false, false, op->weight[0], -1);
      break;
    default: break;
  }
}

static void make_rope(struct network *n) {
  n->rope = memset(own(n, op_alloc((size_t)MAX_CONTEXT * n->head_dim * sizeof(float))), 0,
                   (size_t)MAX_CONTEXT * n->head_dim * sizeof(float));
  for (uint32_t p = 0; p < MAX_CONTEXT; p++)
    for (uint32_t i = 0; i < n->model->head_dim / 2; i++) {
      n->rope[(size_t)p * n->head_dim + i] = cosf((float)p * n->model->inv_freq[i]);
      n->rope[(size_t)p * n->head_dim + n->half + i] = sinf((float)p * n->model->inv_freq[i]);
    }
}

#define ARRAY(count, member) n->member = own(n, op_poisoned((count) * sizeof *n->member))

/* half: of a head, padded; 32 and 64 have kernels of their own. */
static void open_network(struct network *n, const struct tl_model *model, uint32_t half) {
  *n = (struct network){.model = model, .dtype = model->dtype == TL_DTYPE_BF16 ? TL_CUDA_BF16 : TL_CUDA_F16};
  n->dim = padded(model->dim);
  n->ffn = padded(model->ffn_dim);
  n->half = half;
  n->head_dim = 2 * n->half;
  n->q = model->n_heads * n->head_dim;
  n->qkv = n->q + 2 * model->n_kv_heads * n->head_dim;
  assert_true(model->n_ops <= MAX_PLAN);
  for (uint32_t i = 0; i < model->n_ops; i++) load_op(n, i);
  make_rope(n);
  n->table_stride = TABLE;
  n->n_blocks = N_CASES * TABLE;
  n->layer_elements = (size_t)n->n_blocks * model->n_kv_heads * TL_BLOCK_TOKENS * n->head_dim;
  n->n_lanes = DECODE_BLOCKS / tl_cuda_head_tiles(model->n_heads, model->n_kv_heads, n->head_dim);
  uint32_t max_items = tl_cuda_max_items(N_CASES, N_CASES, one_row, n->n_lanes), parts = tl_cuda_max_parts(one_row, n->n_lanes);
  ARRAY(n->layer_elements * model->n_layers, k_cache);
  ARRAY(n->layer_elements * model->n_layers, v_cache);
  ARRAY(ROWS, tokens);
  ARRAY(ROWS, fed);
  ARRAY(ROWS, positions);
  ARRAY(ROWS, slots);
  ARRAY(ROWS, rows);
  ARRAY(N_CASES * TABLE, tables);
  ARRAY(max_items, items);
  ARRAY(n->n_lanes, lanes);
  ARRAY((size_t)n->n_lanes * model->n_heads, arrived);
  memset(n->arrived, 0, (size_t)n->n_lanes * model->n_heads * sizeof *n->arrived);
  ARRAY(tl_cuda_max_tiles(ROWS, N_CASES), tiles);
  ARRAY(N_CASES, sampling);
  ARRAY(N_CASES, left);
  ARRAY(N_CASES, sampled);
  ARRAY((size_t)parts * model->n_heads * n->head_dim, partial);
  ARRAY((size_t)parts * model->n_heads, partial_scale);
  ARRAY((size_t)N_CASES * padded(model->vocab_size), logits);
  ARRAY(1, saved);
  ARRAY((size_t)ROWS * n->dim, x);
  ARRAY((size_t)ROWS * n->dim, delta);
  ARRAY((size_t)ROWS * n->dim, h);
  ARRAY((size_t)ROWS * n->dim, last);
  ARRAY((size_t)ROWS * n->qkv, qkv_rows);
  ARRAY((size_t)ROWS * n->q, q_rows);
  ARRAY((size_t)ROWS * n->q, attention);
  ARRAY((size_t)ROWS * 2 * n->ffn, gate_up);
  ARRAY((size_t)ROWS * n->ffn, inner);
}

static void close_network(struct network *n) {
  for (unsigned i = 0; i < n->n_all; i++) op_free(n->all[i]);
}

/* --- a step ------------------------------------------------------------------------------------ */

static void product(struct network *n, uint32_t i, uint32_t rows, const uint16_t *x, void *out, bool with_bias,
                    bool logits) {
  const struct matrix *m = &n->matrices[i];
  struct tl_cuda_gemv_args a = {.dtype = n->dtype, .format = TL_CUDA_W16, .m = rows, .n = m->n, .k = m->k, .n_multiprocessors = 4, .x = x,
                                .weight = m->w, .bias = with_bias ? m->bias : NULL, .float_out = logits, .out = out,
                                .ldo = logits ? padded(m->n) : m->n};
  assert_int_equal(op_run(tl_cuda_gemv(&a, NULL)), 0);
}

static void attend(struct network *n, uint32_t i, const struct tl_step *step, uint32_t n_tiles) {
  const struct tl_op *op = &n->model->plan[i];
  uint16_t *k = n->k_cache + op->layer * n->layer_elements, *v = n->v_cache + op->layer * n->layer_elements;
  struct tl_cuda_qkv_args qkv = {.dtype = n->dtype, .n = step->n_tokens, .n_heads = n->model->n_heads,
                                 .n_kv_heads = n->model->n_kv_heads, .head_dim = n->head_dim, .width = n->model->head_dim,
                                 .qkv = n->qkv_rows,
                                 .rope = n->rope, .positions = n->positions, .slots = n->slots, .q = n->q_rows,
                                 .k_cache = k, .v_cache = v};
  for (uint32_t at = i; at > 0 && !qkv.bias; at--)
    if (n->model->plan[at].kind == TL_OP_QKV) {
      qkv.bias = n->matrices[at].bias;
      break;
    }
  struct tl_cuda_attention a = {.dtype = n->dtype, .n_heads = n->model->n_heads, .n_kv_heads = n->model->n_kv_heads,
                                .head_dim = n->head_dim, .scale = op->scale, .q = n->q_rows, .out = n->attention,
                                .k_cache = k, .v_cache = v, .block_tables = n->tables, .table_stride = TABLE};
  struct tl_cuda_decode_args decode = {.a = a, .n_blocks = DECODE_BLOCKS, .max_rows = N_CASES, .lanes = n->lanes,
                                       .items = n->items, .partial = n->partial,
                                       .partial_scale = n->partial_scale, .arrived = n->arrived};
  struct tl_cuda_prefill_args prefill = {.a = a, .n_tiles = n_tiles, .tiles = n->tiles};
  assert_int_equal(op_run(tl_cuda_qkv(&qkv, NULL)), 0);
  assert_int_equal(op_run(tl_cuda_decode(&decode, NULL)), 0);
  assert_int_equal(op_run(tl_cuda_prefill(&prefill, NULL)), 0);
}

static void run_op(struct network *n, uint32_t i, const struct tl_step *step, uint32_t n_tiles) {
  const struct tl_op *op = &n->model->plan[i];
  uint32_t rows = step->n_tokens;
  struct tl_cuda_embed_args embed = {.dtype = n->dtype, .n = rows, .dim = n->dim, .tokens = n->tokens, .fed = n->fed,
                                     .weight = n->embed, .n_slice = n->model->vocab_size, .out = n->delta};
  struct tl_cuda_add_norm_args norm = {.dtype = n->dtype, .first = i == 1, .n = rows, .dim = n->dim,
                                       .width = n->model->dim, .eps = op->eps, .factor = 1, .x = n->x,
                                       .delta = n->delta, .weight = n->norms[i], .h = n->h};
  struct tl_cuda_glu_args glu = {.dtype = n->dtype, .gate = TL_CUDA_SILU, .n = rows, .dim = n->ffn, .gate_up = n->gate_up,
                                       .bias = n->matrices[i].bias, .out = n->inner};
  struct tl_cuda_gather_args gather = {.n = step->n_rows, .dim = n->dim, .rows = n->rows, .in = n->h, .out = n->last};
  switch (op->kind) {
    case TL_OP_EMBED: assert_int_equal(op_run(tl_cuda_embed(&embed, NULL)), 0); break;
    case TL_OP_RMSNORM: assert_int_equal(op_run(tl_cuda_add_norm(&norm, NULL)), 0); break;
    case TL_OP_QKV: product(n, i, rows, n->h, n->qkv_rows, false, false); break;
    case TL_OP_ROPE: break; /* with the bias and the cache in `attend` */
    case TL_OP_ATTEND: attend(n, i, step, n_tiles); break;
    case TL_OP_ATTN_OUT: product(n, i, rows, n->attention, n->delta, true, false); break;
    case TL_OP_GATED_UP:
      product(n, i, rows, n->h, n->gate_up, false, false);
      assert_int_equal(op_run(tl_cuda_glu(&glu, NULL)), 0);
      break;
    case TL_OP_MLP_DOWN: product(n, i, rows, n->inner, n->delta, true, false); break;
    case TL_OP_LOGITS:
      assert_int_equal(op_run(tl_cuda_gather(&gather, NULL)), 0);
      product(n, i, step->n_rows, n->last, n->logits, false, true);
      break;
    default: fail_msg("a record that Llama's plan does not have");
  }
}

static void run_step(struct network *n, const struct tl_step *step) {
  tl_cuda_plan_decode(step, one_row, 0, n->n_lanes, n->lanes, n->items);
  uint32_t n_tiles = tl_cuda_plan_prefill(step, 1, n->tiles);
  for (uint32_t i = 0; i < n->model->n_ops; i++) run_op(n, i, step, n_tiles);
  struct tl_cuda_sample_args sample = {.n = step->n_rows, .vocab = n->model->vocab_size, .ld = padded(n->model->vocab_size),
                                       .logits = n->logits, .rows = n->sampling, .left = n->left, .saved = n->saved, .fed = n->fed};
  for (uint32_t i = 0; i < step->n_rows; i++) n->sampling[i].out = &n->sampled[i];
  assert_int_equal(op_run(tl_cuda_sample(&sample, NULL)), 0);
}

/* --- against transformers --------------------------------------------------------------------------- */

static int32_t known_token(const struct golden_case *c, uint32_t at) {
  return at < c->n_prompt ? c->prompt[at] : c->tokens[at - c->n_prompt];
}

/* Rows of case `seq`, up to `room`: a chunk of the prompt, or one token after it, whose id
 * is -2 - its row of the step before: what that one drew. */
static uint32_t add_rows(struct network *n, struct tl_step *step, const struct golden_case *c, uint32_t seq,
                         uint32_t done, uint32_t room, const int32_t *fed_row) {
  uint32_t left = done < c->n_prompt ? c->n_prompt - done : 1, rows = left < room ? left : room;
  for (uint32_t i = 0; i < rows; i++, step->n_tokens++) {
    uint32_t at = done + i, block = n->tables[step->n_seqs * TABLE + at / TL_BLOCK_TOKENS] = seq + N_CASES * (at / TL_BLOCK_TOKENS);
    n->tokens[step->n_tokens] = at < c->n_prompt ? known_token(c, at) : -2 - fed_row[seq];
    n->positions[step->n_tokens] = at;
    n->slots[step->n_tokens] = block * TL_BLOCK_TOKENS + at % TL_BLOCK_TOKENS;
  }
  for (uint32_t at = 0; at < done + rows; at += TL_BLOCK_TOKENS)
    n->tables[step->n_seqs * TABLE + at / TL_BLOCK_TOKENS] = seq + N_CASES * (at / TL_BLOCK_TOKENS);
  return rows;
}

/* What transformers chose is chosen, with its log-probability. */
static double check_token(const struct golden_case *c, uint32_t i, const struct tl_sampled *got, double tolerance) {
  double off = fabs((double)got->logprob - c->logprobs[i]);
  if (got->token != c->tokens[i]) fail_msg("token %u of %u: %d, expected %d", i, c->n_prompt, got->token, c->tokens[i]);
  if (!(off <= tolerance)) fail_msg("token %u of %u: %f, expected %f", i, c->n_prompt, (double)got->logprob, c->logprobs[i]);
  return off;
}

static double compare(struct network *n, const struct golden *g, uint32_t n_cases, uint32_t n_new, double tolerance) {
  uint32_t done[N_CASES] = {0}, start[N_CASES + 1], context[N_CASES], case_of[N_CASES];
  int32_t fed_row[N_CASES] = {0};
  double worst = 0;
  for (uint32_t round = 0;; round++) {
    struct tl_step step = {.table_stride = TABLE, .block_tables = n->tables, .query_start = start, .context_len = context};
    start[0] = 0;
    for (uint32_t k = 0; k < N_CASES; k++) {
      uint32_t seq = (k + round) % N_CASES, room = (ROWS - step.n_tokens) / (N_CASES - k);
      const struct golden_case *c = &g->cases[seq];
      if (seq >= n_cases || done[seq] >= c->n_prompt + n_new - 1) continue;
      done[seq] += add_rows(n, &step, c, seq, done[seq], room, fed_row);
      context[step.n_seqs] = done[seq];
      start[++step.n_seqs] = step.n_tokens;
      if (done[seq] < c->n_prompt) continue;
      n->rows[step.n_rows] = step.n_tokens - 1;
      n->sampling[step.n_rows] = (struct tl_cuda_sampling){.top_p = 1, .repetition_penalty = 1, .target = -1, .n_top = 0};
      case_of[step.n_rows++] = seq;
    }
    if (step.n_seqs == 0) return worst;
    run_step(n, &step);
    for (uint32_t row = 0; row < step.n_rows; row++) {
      uint32_t seq = case_of[row];
      fed_row[seq] = (int32_t)row;
      worst = fmax(worst, check_token(&g->cases[seq], done[seq] - g->cases[seq].n_prompt, &n->sampled[row], tolerance));
    }
  }
}

/* Of the head as it is, only the short cases: its kernel is slow, and slower on fibers. */
static void check_model(const char *name, bool as_it_is, double tolerance) {
  struct golden g;
  struct network n;
  open_golden(name, &g);
  open_network(&n, g.model, as_it_is ? (g.model->head_dim / 2 + 3) / 4 * 4 : 32);
  double worst = compare(&n, &g, as_it_is ? 2 : N_CASES, N_NEW / 4 / UNIT_SLOWDOWN, tolerance);
  printf("%s in %s: log-probabilities within %.2g\n", name, n.dtype == TL_CUDA_BF16 ? "BF16" : "F16", worst);
  close_network(&n);
  close_golden(&g);
}

static void test_models(void **state) {
  (void)state;
  check_model("f16_sharded", false, 3e-2);
  check_model("bf16_tied", false, 1e-1);
  check_model("bf16_tied", true, 1e-1);
  check_model("f32_odd", true, 3e-2);
  check_model("f32_llama3", true, 3e-2);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_models)};
  return cmocka_run_group_tests(tests, op_prepare, NULL);
}
