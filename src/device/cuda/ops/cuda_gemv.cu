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
#include "device/cuda/ops/cuda_formats.cuh"
#include "device/cuda/ops/cuda_gate.cuh"

#define WARPS 8
#define THREADS (WARPS * 32)
#define OUTPUTS 16
#define STREAM_BLOCKS 2 /* of a multiprocessor */

template <int TILES>
struct gemv_shared {
  float sum[WARPS][TILES * 8][OUTPUTS];
};

/* The output of slot 0 to 15 of a tile, or of 0 to 7, false: it has none. Gated: slots 8 to 15 are the second half of the
 * pairs. */
template <int HALVES>
TL_DEVICE bool find_output(const tl_cuda_gemv_args &a, uint32_t tile, uint32_t slot, uint32_t *ret) {
  uint32_t pair = tile * 8 + slot % 8;
  *ret = a.gate ? pair + slot / 8 * (a.n / 2) : tile * 8 * HALVES + slot;
  return a.gate ? pair < a.n / 2 : *ret < a.n;
}

/* A lane's outputs: where their weights begin, and which groups of scales; NULL: there is none. */
template <int HALVES>
struct gemv_rows {
  const char *weight[HALVES];
  uint64_t group[HALVES];
};

template <class W, int HALVES>
TL_DEVICE gemv_rows<HALVES> find_rows(const tl_cuda_gemv_args &a, uint32_t tile) {
  gemv_rows<HALVES> r;
  TL_UNROLL for (int half = 0; half < HALVES; half++) {
    uint32_t output;
    bool there = find_output<HALVES>(a, tile, half * 8 + lane_index() / 4, &output);
    r.weight[half] = there ? (const char *)a.weight + output * ((uint64_t)a.k / W::PIECE * 16) : nullptr;
    r.group[half] = (uint64_t)output * (a.k / W::GROUP);
  }
  return r;
}

/* What a lane has under way: N pieces of each of its outputs, the first from element `at` of the k on. */
template <class W, int N, int HALVES>
struct gemv_pieces {
  quad raw[N][HALVES];
  scale_of<W> scale[N][HALVES];
  uint32_t at;
};

template <class W, int N, int HALVES>
TL_DEVICE void load_pieces(const tl_cuda_gemv_args &a, const gemv_rows<HALVES> &rows, uint32_t base, gemv_pieces<W, N, HALVES> *p) {
  p->at = base + lane_index() % 4 * W::PIECE;
  TL_UNROLL for (int u = 0; u < N; u++)
    TL_UNROLL for (int half = 0; half < HALVES; half++) {
      uint32_t at = p->at + u * W::PIECE * 4;
      bool valid = rows.weight[half] && at < a.k;
      p->raw[u][half] = valid ? load16_once(rows.weight[half] + at / W::PIECE * 16) : quad{};
      p->scale[u][half] = valid ? W::scale(a.scales, rows.group[half] + at / W::GROUP) : 0;
    }
}

/* Eight elements of x that lane / 4 = row has from `at` on; zeros beyond the rows and beyond k. */
TL_DEVICE quad load_x(const tl_cuda_gemv_args &a, uint32_t row, uint32_t at) {
  quad v = {};
  if (row < a.m && at < a.k) v = load16((const uint16_t *)a.x + (uint64_t)row * a.k + at);
  return v;
}

template <class T, class W, int TILES, int N, int HALVES>
TL_DEVICE void multiply_pieces(const tl_cuda_gemv_args &a, const gemv_pieces<W, N, HALVES> &p, float (&sum)[TILES][4]) {
  TL_UNROLL for (int u = 0; u < N; u++) {
    float unscaled[TILES][4] = {};
    TL_UNROLL for (int i = 0; i < (int)W::PIECE / 8; i++) {
      uint32_t low[4], high[4] = {};
      W::expand(p.raw[u][0], p.scale[u][0], i, low);
      if (HALVES == 2) W::expand(p.raw[u][HALVES - 1], p.scale[u][HALVES - 1], i, high);
      TL_UNROLL for (int t = 0; t < TILES; t++) {
        float(&to)[4] = SCALES_SUMS<W> ? unscaled[t] : sum[t];
        quad x = load_x(a, t * 8 + lane_index() / 4, p.at + u * W::PIECE * 4 + i * 8);
        T::mma(to, {low[0], high[0], low[1], high[1]}, {x.w[0], x.w[1]});
        T::mma(to, {low[2], high[2], low[3], high[3]}, {x.w[2], x.w[3]});
      }
    }
    if (SCALES_SUMS<W>)
      TL_UNROLL for (int t = 0; t < TILES; t++)
        TL_UNROLL for (int i = 0; i < 4; i++) sum[t][i] += unscaled[t][i] * as_float((uint32_t)p.scale[u][HALVES == 2 ? i / 2 : 0]);
  }
}

/* Columns 2c and 2c + 1 are rows of x, rows g and g + 8 outputs. */
template <int TILES>
TL_DEVICE void publish(const float (&sum)[TILES][4], gemv_shared<TILES> *s) {
  TL_UNROLL for (int t = 0; t < TILES; t++)
    TL_UNROLL for (int i = 0; i < 4; i++)
      s->sum[warp_index()][t * 8 + lane_index() % 4 * 2 + i % 2][lane_index() / 4 + i / 2 * 8] = sum[t][i];
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
  e.there = e.row < a.m && mine && find_output<HALVES>(a, tile, e.slot, &e.output);
  TL_UNROLL for (int half = 0; half < 2; half++) {
    uint32_t output = e.output + half * (a.n / 2);
    bool used = e.there && (half == 0 || a.gate);
    e.scale[half] = used && a.format == TL_CUDA_WE4M3 ? ((const float *)a.scales)[output] : 1;
    e.bias[half] = used && a.bias ? a.bias[output] : 0;
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
  float sum[2][4] = {};
  for (uint32_t base = warp_index() * share; base < a.k; base += WARPS * share) {
    gemv_pieces<W, PIECES, 2> pieces;
    load_pieces<W>(a, rows, base, &pieces);
    multiply_pieces<T, W, 2>(a, pieces, sum);
  }
  publish<2>(sum, s);
  sync_block();
  finish<T, 2>(a, s, find_end<2>(a, block_x(), thread_index()));
}

/* Tiles of 8 halves outputs; gated: of 8 pairs each. */
TL_BOTH uint32_t tiles_of(const tl_cuda_gemv_args &a, uint32_t halves) {
  return a.gate ? (a.n / 2 + 7) / 8 : (a.n + 8 * halves - 1) / (8 * halves);
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
  typedef gemv_pieces<W, PIECES, HALVES> stage;
};

/* A warp on its way. The stage that is loaded next may be of the next tile. */
template <class S>
struct gemv_run {
  uint32_t tile, base;       /* of the stage that is multiplied next */
  uint32_t n_tiles, done;    /* done: tiles */
  gemv_rows<S::HALVES> rows; /* of the stage that is loaded next */
  gemv_end end;              /* of `tile` */
  float sum[1][4];
  bool waited;
};

/* Another warp's turn with each tile: 8 rows of 16 outputs are four of them. */
TL_DEVICE uint32_t end_index(uint32_t done) {
  return (thread_index() + THREADS - done % WARPS * 32) % THREADS;
}

/* Multiplies `now` with the next stage on its way; false: that was the last one. */
template <class S>
TL_DEVICE bool run_stage(const tl_cuda_gemv_args &a, gemv_run<S> *r, const typename S::stage &now, typename S::stage *next,
                         gemv_shared<1> *shared) {
  uint32_t base = r->base + WARPS * S::SHARE, tile = r->tile;
  bool ends = base >= a.k;
  if (ends) {
    base = warp_index() * S::SHARE;
    tile += grid_x();
    r->rows = find_rows<typename S::W, S::HALVES>(a, tile);
  }
  bool more = tile < r->n_tiles;
  if (more) load_pieces<typename S::W>(a, r->rows, base, next);
  if (!r->waited) wait_for_before();
  r->waited = true;
  multiply_pieces<typename S::T, typename S::W, 1>(a, now, r->sum);
  if (ends) {
    publish<1>(r->sum, &shared[r->done % 2]); /* who is still at the other one holds up the next barrier */
    TL_UNROLL for (int i = 0; i < 4; i++) r->sum[0][i] = 0;
    sync_block();
    finish<typename S::T, 1>(a, &shared[r->done % 2], r->end);
    r->done++;
    if (more) r->end = find_end<S::HALVES>(a, tile, end_index(r->done));
  }
  r->tile = tile;
  r->base = base;
  return more;
}

/* The two stages take turns: to copy one to the other would be to wait for its weights. */
template <class S>
TL_KERNEL(THREADS, STREAM_BLOCKS) stream(tl_cuda_gemv_args a) {
  gemv_shared<1> *shared = (gemv_shared<1> *)shared_memory();
  gemv_run<S> run = {};
  typename S::stage odd, even;
  let_next_start();
  run.tile = block_x();
  run.base = warp_index() * S::SHARE;
  run.n_tiles = tiles_of(a, S::HALVES);
  run.rows = find_rows<typename S::W, S::HALVES>(a, run.tile);
  load_pieces<typename S::W>(a, run.rows, run.base, &odd);
  run.end = find_end<S::HALVES>(a, run.tile, end_index(0));
  while (run_stage<S>(a, &run, odd, &even, shared) && run_stage<S>(a, &run, even, &odd, shared)) {}
}

static_assert(THREADS == TL_CUDA_GEMV_MAX_ROWS * OUTPUTS, "a thread a result");

/* Of all multiprocessors' time, the hundredths that so many tiles keep them busy. */
static unsigned busy(unsigned tiles, unsigned room) {
  return 100 * tiles / ((tiles + room - 1) / room * room);
}

template <class T, class W>
static int launch_gemv(const tl_cuda_gemv_args *args, void *to) {
  unsigned tiles = tiles_of(*args, 2), halves = tiles_of(*args, 1), room = STREAM_BLOCKS * args->n_multiprocessors;
  if (!fits<W>(args->k)) return CUDA_INVALID;
  if (args->m > TL_CUDA_STREAM_ROWS)
    return launch(gemv<T, W>, tiles, 1, THREADS, sizeof(gemv_shared<2>), to, *args);
  if (!args->gate && busy(halves, room) > busy(tiles, room) + 10)
    return launch_rows(args->m, stream<streamed<T, W, 1>>, halves < room ? halves : room, 1, THREADS, 2 * sizeof(gemv_shared<1>), to, *args);
  return launch_rows(args->m, stream<streamed<T, W, 2>>, tiles < room ? tiles : room, 1, THREADS, 2 * sizeof(gemv_shared<1>), to, *args);
}

template <class T>
static int launch_format(const tl_cuda_gemv_args *args, void *stream) {
  if (args->format == TL_CUDA_W16) return launch_gemv<T, w16<T>>(args, stream);
  return with_format<T>(args->format, [&](auto w) { return launch_gemv<T, decltype(w)>(args, stream); });
}

extern "C" int tl_cuda_gemv(const struct tl_cuda_gemv_args *args, void *stream) {
  if (args->m > TL_CUDA_GEMV_MAX_ROWS || args->n_multiprocessors == 0 || (args->gate && args->n % 2) || args->ldo < (args->gate ? args->n / 2 : args->n))
    return CUDA_INVALID;
  if (args->m == 0 || args->n == 0) return 0;
  return args->dtype == TL_CUDA_BF16 ? launch_format<bf16>(args, stream) : launch_format<f16>(args, stream);
}
