/* SPDX-License-Identifier: MIT */
/* Products of few rows: the weights are read once, 16 bytes a lane, straight into the
 * fragments of tensor-core tiles whose rows are outputs and whose columns are rows
 * of x. Of the k that four lanes read, each has its own stretch: what the layout calls
 * columns 2c, 2c + 1, 2c + 8, 2c + 9 are four neighbours of lane c's, for weights and
 * x alike. A block has 16 outputs; its warps share the k, and sum up in shared memory. */
#include "device/cuda/ops/cuda_formats.cuh"

#define WARPS 8
#define THREADS (WARPS * 32)
#define OUTPUTS 16
#define UNROLL 4 /* pieces of two outputs that a lane has under way */

template <int TILES>
struct gemv_shared {
  float sum[WARPS][TILES * 8][OUTPUTS];
};

/* Eight elements of x that lane / 4 = row has from `at` on; zeros beyond the rows and beyond k. */
TL_DEVICE quad load_x(const tl_cuda_gemv_args &a, uint32_t row, uint32_t at) {
  quad v = {};
  if (row < a.m && at < a.k) v = load16((const uint16_t *)a.x + (uint64_t)row * a.k + at);
  return v;
}

template <class T, class W, int TILES>
TL_DEVICE void multiply_piece(const tl_cuda_gemv_args &a, const quad (&raw)[2], const uint32_t (&scale)[2], uint32_t at,
                              float (&sum)[TILES][4]) {
  TL_UNROLL for (int i = 0; i < (int)W::PIECE / 8; i++) {
    uint32_t low[4], high[4];
    W::expand(raw[0], scale[0], i, low);
    W::expand(raw[1], scale[1], i, high);
    TL_UNROLL for (int t = 0; t < TILES; t++) {
      quad x = load_x(a, t * 8 + lane_index() / 4, at + i * 8);
      T::mma(sum[t], {low[0], high[0], low[1], high[1]}, {x.w[0], x.w[1]});
      T::mma(sum[t], {low[2], high[2], low[3], high[3]}, {x.w[2], x.w[3]});
    }
  }
}

/* This warp's share of the k for outputs first + g and first + g + 8. */
template <class T, class W, int TILES>
TL_DEVICE void multiply_share(const tl_cuda_gemv_args &a, uint32_t first, float (&sum)[TILES][4]) {
  const uint32_t piece_bytes = 16, step = W::PIECE * 4; /* elements of four lanes */
  uint64_t row_bytes = (uint64_t)a.k / W::PIECE * piece_bytes;
  for (uint32_t base = warp_index() * UNROLL * step; base < a.k; base += WARPS * UNROLL * step) {
    quad raw[UNROLL][2] = {};
    uint32_t scale[UNROLL][2] = {}, at[UNROLL];
    TL_UNROLL for (int u = 0; u < UNROLL; u++) {
      at[u] = base + u * step + lane_index() % 4 * W::PIECE;
      TL_UNROLL for (int half = 0; half < 2; half++) {
        uint32_t output = first + lane_index() / 4 + half * 8;
        if (output >= a.n || at[u] >= a.k) continue;
        raw[u][half] = load16_once((const char *)a.weight + output * row_bytes + at[u] / W::PIECE * piece_bytes);
        scale[u][half] = W::scale(a.scales, (uint64_t)output * (a.k / W::GROUP) + at[u] / W::GROUP);
      }
    }
    TL_UNROLL for (int u = 0; u < UNROLL; u++) multiply_piece<T, W, TILES>(a, raw[u], scale[u], at[u], sum);
  }
}

/* Columns 2c and 2c + 1 are rows of x, rows g and g + 8 outputs. */
template <int TILES>
TL_DEVICE void publish(const float (&sum)[TILES][4], gemv_shared<TILES> *s) {
  TL_UNROLL for (int t = 0; t < TILES; t++)
    TL_UNROLL for (int i = 0; i < 4; i++)
      s->sum[warp_index()][t * 8 + lane_index() % 4 * 2 + i % 2][lane_index() / 4 + i / 2 * 8] = sum[t][i];
}

template <class T, class W, int TILES>
TL_KERNEL(THREADS, (W::PIECE == 8 ? 3 : 2)) gemv(tl_cuda_gemv_args a) {
  gemv_shared<TILES> *s = (gemv_shared<TILES> *)shared_memory();
  uint32_t first = block_x() * OUTPUTS;
  float sum[TILES][4] = {};
  multiply_share<T, W, TILES>(a, first, sum);
  publish<TILES>(sum, s);
  sync_block();
  uint32_t row = thread_index() / OUTPUTS, output = first + thread_index() % OUTPUTS;
  if (row >= a.m || output >= a.n) return;
  float result = 0;
  TL_UNROLL for (int w = 0; w < WARPS; w++) result += s->sum[w][row][thread_index() % OUTPUTS];
  if (a.format == TL_CUDA_WE4M3) result *= ((const float *)a.scales)[output];
  if (a.bias) result += a.bias[output];
  uint64_t to = (uint64_t)row * a.ldo + output;
  if (a.float_out)
    ((float *)a.out)[to] = result;
  else
    ((uint16_t *)a.out)[to] = (uint16_t)T::pack(result, 0);
}

static_assert(THREADS == TL_CUDA_GEMV_MAX_ROWS * OUTPUTS, "a thread a result");

template <class T, class W>
static int launch_gemv(const tl_cuda_gemv_args *args, void *stream) {
  unsigned blocks = (args->n + OUTPUTS - 1) / OUTPUTS;
  if (args->k % W::PIECE || (args->format >= TL_CUDA_WINT8 && args->k % 32)) return CUDA_INVALID;
  return args->m <= 8 ? launch(gemv<T, W, 1>, blocks, 1, THREADS, sizeof(gemv_shared<1>), stream, *args)
                      : launch(gemv<T, W, 2>, blocks, 1, THREADS, sizeof(gemv_shared<2>), stream, *args);
}

template <class T>
static int launch_format(const tl_cuda_gemv_args *args, void *stream) {
  if (args->format == TL_CUDA_W16) return launch_gemv<T, w16<T>>(args, stream);
  return with_format<T>(args->format, [&](auto w) { return launch_gemv<T, decltype(w)>(args, stream); });
}

extern "C" int tl_cuda_gemv(const struct tl_cuda_gemv_args *args, void *stream) {
  if (args->m > TL_CUDA_GEMV_MAX_ROWS || args->ldo < args->n) return CUDA_INVALID;
  if (args->m == 0 || args->n == 0) return 0;
  return args->dtype == TL_CUDA_BF16 ? launch_format<bf16>(args, stream) : launch_format<f16>(args, stream);
}
