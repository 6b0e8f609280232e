/* SPDX-License-Identifier: MIT */
/* The products of experts, over tiles of entries of one expert each (cuda_experts.h); here those of few entries, as
 * cuda_gemv.cu does it. Weights are read once, 16 bytes a lane, straight into fragments whose rows are outputs and whose
 * columns are entries; the warps share the k. With a gate, rows 0 to 7 of a fragment are gates and rows 8 to 15
 * their ups. A unit of work is a tile and a panel of outputs; thread blocks take units in turn. */
#include "device/cuda/ops/cuda_experts.cuh"

#define WARPS 8
#define THREADS (WARPS * 32)
#define ROWS 16  /* of a fragment */

struct experts_shared {
  float sum[WARPS][TL_CUDA_FEW_ENTRIES][ROWS];
};

/* Outputs of a unit. */
TL_BOTH uint32_t outputs_of(const tl_cuda_experts_args &a) {
  return a.gate ? ROWS / 2 : ROWS;
}

/* This warp's share of the k. base: first row of the expert's weights; x: NULL: zeros. */
template <class T, class W>
TL_DEVICE void multiply_share(const tl_cuda_experts_args &a, uint64_t base, const uint16_t *x, uint32_t first, float (&sum)[4]) {
  const uint32_t step = W::PIECE * 4;           /* elements of four lanes */
  const uint32_t UNROLL = W::PIECE == 64 || SCALES_SUMS<W> ? 2 : 4; /* pieces of two rows that a lane has under way */
  for (uint32_t from = warp_index() * step; from < a.k; from += WARPS * UNROLL * step) {
    quad raw[UNROLL][2];
    scale_of<W> scale[UNROLL][2];
    TL_UNROLL for (uint32_t u = 0; u < UNROLL; u++)
      TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
        uint32_t at = from + u * WARPS * step + lane_index() % 4 * W::PIECE;
        uint32_t output = first + lane_index() / 4 + (a.gate ? 0 : half * 8);
        bool valid = output < a.n && at < a.k;
        uint64_t row = base + output + (a.gate ? half * a.n : 0);
        raw[u][half] = valid ? load16_once((const char *)a.weight + (row * (a.k / W::PIECE) + at / W::PIECE) * 16) : quad{};
        scale[u][half] = valid ? W::scale(a.scales, row * (a.k / W::GROUP) + at / W::GROUP) : 0;
      }
    TL_UNROLL for (uint32_t u = 0; u < UNROLL; u++) {
      float left[4] = {};
      float(&to)[4] = SCALES_SUMS<W> ? left : sum;
      TL_UNROLL for (int i = 0; i < (int)W::PIECE / 8; i++) {
        uint32_t at = from + u * WARPS * step + lane_index() % 4 * W::PIECE + i * 8, low[4], high[4];
        quad v = {};
        if (x && at < a.k) v = load16(x + at);
        W::expand(raw[u][0], scale[u][0], i, low);
        W::expand(raw[u][1], scale[u][1], i, high);
        T::mma(to, {low[0], high[0], low[1], high[1]}, {v.w[0], v.w[1]});
        T::mma(to, {low[2], high[2], low[3], high[3]}, {v.w[2], v.w[3]});
      }
      if (SCALES_SUMS<W>)
        TL_UNROLL for (int i = 0; i < 4; i++) sum[i] += left[i] * as_float((uint32_t)scale[u][i / 2]);
    }
  }
}

/* Of one entry of the tile, one output. */
template <class T>
TL_DEVICE void finish(const tl_cuda_experts_args &a, const tl_cuda_expert_tile &tile, uint32_t first, const experts_shared *s) {
  uint32_t outputs = outputs_of(a);
  uint32_t entry = thread_index() / outputs, i = thread_index() % outputs, output = first + i;
  if (entry >= tile.n || output >= a.n) return;
  uint64_t row = first_row(a, tile.expert) + output;
  float result = 0, up = 0;
  TL_UNROLL for (int w = 0; w < WARPS; w++) {
    result += s->sum[w][entry][i];
    if (a.gate) up += s->sum[w][entry][i + ROWS / 2];
  }
  result = finished(a, result, row);
  result = a.gate ? gated(a, result, finished(a, up, row + a.n)) : alone(a, result);
  ((uint16_t *)a.out)[(uint64_t)(tile.first + entry) * a.n + output] = (uint16_t)T::pack(result, 0);
}

template <class T, class W>
TL_KERNEL(THREADS, (W::PIECE == 8 ? 3 : 2)) experts_few(tl_cuda_experts_args a) {
  experts_shared *s = (experts_shared *)shared_memory();
  uint32_t outputs = outputs_of(a), panels = (a.n + outputs - 1) / outputs, n_tiles = *a.n_tiles;
  for (uint64_t unit = block_x(); unit < (uint64_t)n_tiles * panels; unit += grid_x()) {
    tl_cuda_expert_tile tile = a.tiles[unit / panels];
    uint32_t first = (uint32_t)(unit % panels) * outputs, entry = lane_index() / 4;
    float sum[4] = {};
    multiply_share<T, W>(a, first_row(a, tile.expert), entry < tile.n ? entry_row(a, tile.first + entry) : nullptr, first, sum);
    /* columns 2c and 2c + 1 are entries, rows g and g + 8 weights */
    TL_UNROLL for (int i = 0; i < 4; i++)
      s->sum[warp_index()][lane_index() % 4 * 2 + i % 2][lane_index() / 4 + i / 2 * 8] = sum[i];
    sync_block();
    finish<T>(a, tile, first, s);
    sync_block();
  }
}

static_assert(THREADS >= TL_CUDA_FEW_ENTRIES * ROWS, "a thread a result");

template <class T, class W>
static int launch_few(const tl_cuda_experts_args *args, void *stream) {
  if (!fits<W>(args->k)) return CUDA_INVALID;
  return launch(experts_few<T, W>, grid_of(args, outputs_of(*args)), 1, THREADS, sizeof(experts_shared), stream, *args);
}

template <class T>
static int launch_format(const tl_cuda_experts_args *args, void *stream) {
  return with_expert_format<T>(args->format, [&](auto w) { return launch_few<T, decltype(w)>(args, stream); });
}

extern "C" int tl_cuda_experts(const struct tl_cuda_experts_args *args, void *stream) {
  if (args->n % 8 || args->k % 8 || args->n_blocks == 0) return CUDA_INVALID;
  if (args->n == 0 || args->max_tiles == 0) return 0;
  if (args->tile_entries == TL_CUDA_MANY_ENTRIES) return cuda_experts_many(args, stream);
  if (args->tile_entries != TL_CUDA_FEW_ENTRIES) return CUDA_INVALID;
  return args->dtype == TL_CUDA_BF16 ? launch_format<bf16>(args, stream) : launch_format<f16>(args, stream);
}
