/* SPDX-License-Identifier: MIT */
/* Products of few rows: the weights are read once, 16 bytes a lane, straight into the
 * fragments of tensor-core tiles whose rows are outputs and whose columns are rows
 * of x. Of the k that four lanes read, each has its own stretch: what the layout calls
 * columns 2c, 2c + 1, 2c + 8, 2c + 9 are four neighbours of lane c's, for weights and
 * x alike. A tile has 16 outputs, or 8 pairs of gate and up; a block's warps share its k, and sum up in shared
 * memory.
 *
 * Up to 8 rows (`stream`) there are two blocks a multiprocessor, which take tile after tile, so that the next kernel
 * can start at once, and have the next weights under way while they multiply, the first ones before the kernel that makes x
 * is over. Where that shares the work better, a tile has 8 outputs, half of the fragments' rows. Of more rows (`gemv`) a
 * block takes one tile, as many as there is room for. On an H200 `stream` took 6 % from a step of one row; with 16 rows it
 * needed 74 us for gate and up of Llama 3.1 8B, `gemv` 66. */
#include "device/cuda/ops/cuda_both.h"
#include "device/cuda/ops/cuda_gate.cuh"
#include "device/cuda/ops/cuda_gemv.cuh"

#define WARPS 8
#define THREADS (WARPS * 32)
#define OUTPUTS 16
#define STREAM_BLOCKS 2 /* of a multiprocessor */

template <int TILES>
struct gemv_shared {
  float sum[WARPS][TILES * 8][OUTPUTS];
};

/* Where it reads x: of row lane / 4 of each 8, or of the last row, whose columns nobody asks for then. */
template <int TILES>
struct gemv_x {
  const uint16_t *row[TILES];
};

template <class W, int TILES>
TL_DEVICE gemv_x<TILES> find_x(const tl_cuda_gemv_args &a, const uint16_t *rows) {
  gemv_x<TILES> x;
  TL_UNROLL for (int t = 0; t < TILES; t++) {
    uint32_t row = t * 8 + lane_index() / 4;
    x.row[t] = rows + (uint64_t)(row < a.m ? row : a.m - 1) * a.k + lane_offset<W>();
  }
  return x;
}

/* Two sums take turns, of two tiles or in one: each product waits for the one before it in its sum. */
template <int TILES>
struct gemv_sums {
  static const int TURNS = 2 / TILES;
  float part[TURNS][TILES][4];
};

template <int TILES>
TL_DEVICE float add_turns(const gemv_sums<TILES> &sums, int tile, int i) {
  const int last = gemv_sums<TILES>::TURNS - 1;
  return last ? sums.part[0][tile][i] + sums.part[last][tile][i] : sums.part[0][tile][i];
}

template <class T, class W, bool WHOLE, int TILES, int N, int HALVES>
TL_DEVICE void multiply_some(const tl_cuda_gemv_args &a, const gemv_x<TILES> &x, const gemv_pieces<W, N, HALVES> &p, gemv_sums<TILES> *sums) {
  TL_UNROLL for (uint32_t u = 0; u < N; u++) {
    gemv_sums<TILES> left = {};
    gemv_sums<TILES> *to = SCALES_SUMS<W> ? &left : sums;
    TL_UNROLL for (uint32_t i = 0; i < W::PIECE / 8; i++) {
      uint32_t low[4], high[4] = {};
      W::expand(p.raw[u][0], p.scale[u][0], i, low);
      if (HALVES == 2) W::expand(p.raw[u][HALVES - 1], p.scale[u][HALVES - 1], i, high);
      bool valid = WHOLE || p.base + lane_offset<W>() + u * W::PIECE * 4 < a.k;
      TL_UNROLL for (int t = 0; t < TILES; t++) {
        quad v = valid ? load16(x.row[t] + p.base + u * W::PIECE * 4 + i * 8) : quad{};
        T::mma(to->part[0][t], {low[0], high[0], low[1], high[1]}, {v.w[0], v.w[1]});
        T::mma(to->part[1 % gemv_sums<TILES>::TURNS][t], {low[2], high[2], low[3], high[3]}, {v.w[2], v.w[3]});
      }
    }
    if (SCALES_SUMS<W>)
      TL_UNROLL for (int t = 0; t < TILES; t++)
        TL_UNROLL for (int i = 0; i < 4; i++)
          sums->part[0][t][i] += add_turns(left, t, i) * as_float((uint32_t)p.scale[u][HALVES == 2 ? i / 2 : 0]);
  }
}

template <class T, class W, int TILES, int N, int HALVES>
TL_DEVICE void multiply_pieces(const tl_cuda_gemv_args &a, const gemv_x<TILES> &x, const gemv_pieces<W, N, HALVES> &p, gemv_sums<TILES> *sums) {
  if (is_whole<W, N>(a, p.base))
    multiply_some<T, W, true>(a, x, p, sums);
  else if (p.base < a.k)
    multiply_some<T, W, false>(a, x, p, sums);
}

/* Columns 2c and 2c + 1 are rows of x, rows g and g + 8 outputs. */
template <int TILES>
TL_DEVICE void publish(const gemv_sums<TILES> &sums, gemv_shared<TILES> *s) {
  TL_UNROLL for (int t = 0; t < TILES; t++)
    TL_UNROLL for (int i = 0; i < 4; i++)
      s->sum[warp_index()][t * 8 + lane_index() % 4 * 2 + i % 2][lane_index() / 4 + i / 2 * 8] = add_turns(sums, t, i);
}

/* What a thread writes of a tile: an output of a row, or of a pair. Known before the sums are: what it is scaled by, and its
 * bias, which would be waited for. */
struct gemv_end {
  bool there;
  uint32_t row, slot, output;
  float scale[2], bias[2];
};

/* Of a tile's threads `index` and on, 0 being the first that has something to write. */
template <int HALVES>
TL_DEVICE gemv_end find_end(const tl_cuda_gemv_args &a, uint32_t tile, uint32_t index) {
  gemv_end e = {};
  e.row = index / OUTPUTS;
  e.slot = index % OUTPUTS;
  bool mine = e.slot < 8 || (HALVES == 2 && !a.gate);
  if (e.row >= a.m || !mine || !find_output<HALVES>(a, tile, e.slot, &e.output)) return e;
  e.there = true;
  TL_UNROLL for (int half = 0; half < (a.gate ? 2 : 1); half++) {
    uint32_t output = e.output + half * (a.n / 2);
    e.scale[half] = a.format == TL_CUDA_WE4M3 ? ((const float *)a.scales)[output] : 1;
    e.bias[half] = a.bias ? a.bias[output] : 0;
  }
  return e;
}

template <int TILES>
TL_DEVICE float total(const gemv_shared<TILES> *s, const gemv_end &e, int half) {
  float result = 0;
  TL_UNROLL for (int w = 0; w < WARPS; w++) result += s->sum[w][e.row][e.slot + half * 8];
  return result * e.scale[half] + e.bias[half];
}

template <class T, int TILES>
TL_DEVICE void finish(const tl_cuda_gemv_args &a, const gemv_shared<TILES> *s, const gemv_end &e) {
  if (!e.there) return;
  float result = total<TILES>(s, e, 0);
  if (a.gate) result = let_through(a.gate, result, total<TILES>(s, e, 1));
  uint64_t to = (uint64_t)e.row * a.ldo + e.output;
  if (a.float_out)
    ((float *)a.out)[to] = result;
  else
    ((uint16_t *)a.out)[to] = (uint16_t)T::pack(result, 0);
}

/* --- a tile a block ------------------------------------------------------------------------------- */

template <class T, class W>
TL_KERNEL(THREADS, (W::PIECE == 8 ? 3 : 2)) gemv(tl_cuda_gemv_args a) {
  gemv_shared<2> *s = (gemv_shared<2> *)shared_memory();
  const int PIECES = W::PIECE >= 32 || SCALES_SUMS<W> ? 2 : 4; /* that a lane has under way: what registers allow */
  const uint32_t share = PIECES * W::PIECE * 4; /* of a warp, at a time */
  gemv_rows<2> rows = find_rows<W, 2>(a, block_x());
  gemv_x<2> x = find_x<W, 2>(a, (const uint16_t *)a.x);
  gemv_sums<2> sums = {};
  for (uint32_t base = warp_index() * share; base < a.k; base += WARPS * share) {
    gemv_pieces<W, PIECES, 2> pieces;
    if (W::PIECE == 8) { /* three blocks' registers have no room for both ways; nor is it instructions that take the time */
      load_some<W, false>(a, rows, base, &pieces);
      multiply_some<T, W, false>(a, x, pieces, &sums);
    } else {
      load_pieces<W>(a, rows, base, &pieces);
      multiply_pieces<T, W>(a, x, pieces, &sums);
    }
  }
  publish<2>(sums, s);
  sync_block();
  finish<T, 2>(a, s, find_end<2>(a, block_x(), thread_index()));
}

/* Tiles of 8 halves outputs; gated: of 8 pairs each. */
TL_BOTH uint32_t tiles_of(const tl_cuda_gemv_args &a, uint32_t halves) {
  return a.gate ? (a.n / 2 + 7) / 8 : (a.n + 8 * halves - 1) / (8 * halves);
}

/* --- rows that are normed here --------------------------------------------------------------------- */

/* Eight elements of the residual and what is added to them: on their way, and added up. */
struct gemv_residual {
  quad x[2], delta;
};

TL_DEVICE gemv_residual load_residual(const tl_cuda_normed_args &n, uint64_t at, bool valid) {
  gemv_residual r = {};
  if (valid) r.delta = load16((const uint16_t *)n.delta + at);
  if (valid && !n.first) {
    r.x[0] = load16(n.x + at);
    r.x[1] = load16(n.x + at + 4);
  }
  return r;
}

template <class T>
TL_DEVICE void add_residual(const tl_cuda_normed_args &n, const gemv_residual &r, float (&v)[8]) {
  unpack8<T>(r.delta, v);
  TL_UNROLL for (int i = 0; i < 8; i++) v[i] = v[i] * n.factor + as_float(r.x[i / 4].w[i % 4]);
}

/* A thread's part of the sum of squares; two pieces on their way, which is a row of 4096. */
template <class T>
TL_DEVICE float sum_squares(const tl_cuda_normed_args &n, uint64_t row) {
  const uint32_t step = THREADS * 8, dim = n.product.k;
  float sum = 0;
  for (uint32_t at = thread_index() * 8; at < dim; at += 2 * step) {
    gemv_residual near = load_residual(n, row + at, true), far = load_residual(n, row + at + step, at + step < dim);
    float v[8], w[8];
    add_residual<T>(n, near, v);
    add_residual<T>(n, far, w);
    TL_UNROLL for (int i = 0; i < 8; i++) sum += v[i] * v[i] + w[i] * w[i];
  }
  return sum;
}

/* The rows into shared memory, as tl_cuda_add_norm would make them; returns `to`. Each block does so for itself, while its first weights
 * are on their way: they are few, in the second-level cache, and one kernel less comes in between. The sums go out once. */
template <class T>
TL_DEVICE const uint16_t *norm_rows(const tl_cuda_normed_args &n, uint16_t *to, float *scratch) {
  const tl_cuda_gemv_args &a = n.product;
  for (uint64_t row = 0; row < (uint64_t)a.m * a.k; row += a.k) {
    float scale = 1 / sqrtf(block_sum(sum_squares<T>(n, row), scratch, WARPS) / (float)n.width + n.eps);
    for (uint32_t at = thread_index() * 8; at < a.k; at += THREADS * 8) {
      const quad weight[2] = {load16(n.weight + at), load16(n.weight + at + 4)};
      float v[8];
      add_residual<T>(n, load_residual(n, row + at, true), v);
      if (block_x() == 0) {
        store16(n.x_out + row + at, {{as_bits(v[0]), as_bits(v[1]), as_bits(v[2]), as_bits(v[3])}});
        store16(n.x_out + row + at + 4, {{as_bits(v[4]), as_bits(v[5]), as_bits(v[6]), as_bits(v[7])}});
      }
      TL_UNROLL for (int i = 0; i < 8; i++) v[i] = v[i] * scale * as_float(weight[i / 4].w[i % 4]);
      store16(to + row + at, pack8<T>(v));
    }
  }
  sync_block();
  return to;
}

/* --- tile after tile --------------------------------------------------------------------------------- */

/* Pieces of a lane's outputs in a stage, of which there are two: as many as registers allow. */
template <class W>
constexpr int STAGE = W::PIECE == 64 ? 2 : W::SCALED ? 4 : 8;
template <>
constexpr int STAGE<wmxfp4> = 2;

/* How a format streams. */
template <class T_, class W_, int HALVES_>
struct streamed {
  typedef T_ T;
  typedef W_ W;
  static const int HALVES = HALVES_, PIECES = STAGE<W> / HALVES;
  static const uint32_t SHARE = PIECES * W::PIECE * 4; /* of a warp's stage */
  struct stage {
    gemv_pieces<W, PIECES, HALVES> pieces;
    bool there; /* false: behind the last one */
  };
};

struct stream_shared {
  gemv_shared<1> sums[2]; /* tiles take turns */
  float norm[WARPS];
};

/* A warp on its way. The stage that is loaded next may be of a later tile than the one that is multiplied. */
template <class S>
struct gemv_run {
  uint32_t tile, base;       /* of the stage that is loaded next */
  gemv_rows<S::HALVES> rows; /* of `tile` */
  uint32_t n_tiles, done;    /* done: tiles */
  gemv_end end;              /* of the tile that is multiplied */
  gemv_x<1> x;
  gemv_sums<1> sums;
};

template <class S>
TL_DEVICE void load_next(const tl_cuda_gemv_args &a, gemv_run<S> *r, typename S::stage *to) {
  to->there = r->tile < r->n_tiles;
  to->pieces.base = r->base;
  if (to->there) load_pieces<typename S::W>(a, r->rows, r->base, &to->pieces);
  r->base += WARPS * S::SHARE;
  if (r->base < a.k) return;
  r->base = warp_index() * S::SHARE;
  r->tile += grid_x();
  r->rows = find_rows<typename S::W, S::HALVES>(a, r->tile);
}

/* Another warp's turn with each tile: 8 rows of 16 outputs are four of them. */
template <class S>
TL_DEVICE gemv_end next_end(const tl_cuda_gemv_args &a, uint32_t done) {
  return find_end<S::HALVES>(a, block_x() + done * grid_x(), (thread_index() + THREADS - done % WARPS * 32) % THREADS);
}

template <class S>
TL_DEVICE void end_tile(const tl_cuda_gemv_args &a, gemv_run<S> *r, stream_shared *s) {
  gemv_shared<1> *sums = &s->sums[r->done % 2]; /* who is still at the other one holds up the next barrier */
  publish<1>(r->sums, sums);
  r->sums = {};
  sync_block();
  finish<typename S::T, 1>(a, sums, r->end);
  r->end = next_end<S>(a, ++r->done);
}

/* Multiplies a stage, and then has it loaded anew; false: there was none. */
template <class S>
TL_DEVICE bool run_stage(const tl_cuda_gemv_args &a, gemv_run<S> *r, typename S::stage *stage, stream_shared *s) {
  if (!stage->there) return false;
  bool ends = stage->pieces.base + WARPS * S::SHARE >= a.k;
  multiply_pieces<typename S::T, typename S::W>(a, r->x, stage->pieces, &r->sums);
  load_next<S>(a, r, stage);
  if (ends) end_tile<S>(a, r, s);
  return true;
}

/* The two stages take turns: to copy one to the other would be to wait for its weights. */
template <class S>
TL_KERNEL(THREADS, STREAM_BLOCKS) stream(tl_cuda_normed_args args) {
  const tl_cuda_gemv_args &a = args.product;
  stream_shared *s = (stream_shared *)shared_memory();
  gemv_run<S> run = {};
  typename S::stage odd, even;
  let_next_start();
  run.tile = block_x();
  run.base = warp_index() * S::SHARE;
  run.n_tiles = tiles_of(a, S::HALVES);
  run.rows = find_rows<typename S::W, S::HALVES>(a, run.tile);
  load_next<S>(a, &run, &odd);
  run.end = next_end<S>(a, 0);
  load_next<S>(a, &run, &even);
  wait_for_before();
  const uint16_t *x = (const uint16_t *)a.x;
  if (args.weight) x = norm_rows<typename S::T>(args, (uint16_t *)(s + 1), s->norm); /* else it is a product of x */
  run.x = find_x<typename S::W, 1>(a, x);
  while (run_stage<S>(a, &run, &odd, s) && run_stage<S>(a, &run, &even, s)) {}
}

static_assert(THREADS == TL_CUDA_GEMV_MAX_ROWS * OUTPUTS, "a thread a result");
static_assert(sizeof(stream_shared) % 16 == 0, "where normed rows begin");
static_assert(sizeof(stream_shared) + TL_CUDA_NORMED_ROWS * TL_CUDA_NORMED_DIM * 2 <= 48 << 10, "without asking for more");

/* Of all multiprocessors' time, the hundredths that so many tiles keep them busy. */
static unsigned busy(unsigned tiles, unsigned room) {
  return 100 * tiles / ((tiles + room - 1) / room * room);
}

template <class S>
static int launch_stream(const tl_cuda_normed_args *args, unsigned tiles, unsigned room, void *to) {
  const tl_cuda_gemv_args *p = &args->product;
  size_t normed = args->weight ? (size_t)p->m * p->k * 2 : 0;
  return launch_rows(p->m, stream<S>, tiles < room ? tiles : room, 1, THREADS, sizeof(stream_shared) + normed, to, *args);
}

template <class T, class W>
static int launch_gemv(const tl_cuda_normed_args *normed, void *to) {
  const tl_cuda_gemv_args *args = &normed->product;
  unsigned tiles = tiles_of(*args, 2), halves = tiles_of(*args, 1), room = STREAM_BLOCKS * args->n_multiprocessors;
  if (!fits<W>(args->k)) return CUDA_INVALID;
  if (args->m > TL_CUDA_STREAM_ROWS)
    return launch(gemv<T, W>, tiles, 1, THREADS, sizeof(gemv_shared<2>), to, *args);
  if (!args->gate && busy(halves, room) > busy(tiles, room) + 10) return launch_stream<streamed<T, W, 1>>(normed, halves, room, to);
  return launch_stream<streamed<T, W, 2>>(normed, tiles, room, to);
}

template <class T>
static int launch_format(const tl_cuda_normed_args *args, void *stream) {
  if (args->product.format == TL_CUDA_W16) return launch_gemv<T, w16<T>>(args, stream);
  return with_format<T>(args->product.format, [&](auto w) { return launch_gemv<T, decltype(w)>(args, stream); });
}

static int launch_type(const tl_cuda_normed_args *args, void *stream) {
  const tl_cuda_gemv_args *p = &args->product;
  if (p->n_multiprocessors == 0 || (p->gate && p->n % 2) || p->ldo < (p->gate ? p->n / 2 : p->n))
    return CUDA_INVALID;
  if (p->m == 0 || p->n == 0) return 0;
  if (p->m > TL_CUDA_GEMV_MAX_ROWS) return cuda_batch(p, stream);
  return p->dtype == TL_CUDA_BF16 ? launch_format<bf16>(args, stream) : launch_format<f16>(args, stream);
}

extern "C" int tl_cuda_gemv(const struct tl_cuda_gemv_args *args, void *stream) {
  tl_cuda_normed_args plain = {};
  plain.product = *args;
  return launch_type(&plain, stream);
}

extern "C" int tl_cuda_normed(const struct tl_cuda_normed_args *args, void *stream) {
  const tl_cuda_gemv_args *p = &args->product;
  if (p->m > TL_CUDA_NORMED_ROWS || p->k > TL_CUDA_NORMED_DIM || p->k % 8 || args->width == 0 || args->width > p->k || !args->weight)
    return CUDA_INVALID;
  return launch_type(args, stream);
}
