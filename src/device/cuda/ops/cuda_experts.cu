/* SPDX-License-Identifier: MIT */
/* The products of experts, over tiles of entries of one expert each (cuda_experts.h). A unit of work is a tile and a
 * panel of outputs; thread blocks take units in turn.
 *
 * Few entries: as cuda_gemv.cu does it. Weights are read once, 16 bytes a lane, straight into fragments whose rows are
 * outputs and whose columns are entries; the warps share the k. With a gate, rows 0 to 7 of a fragment are gates
 * and rows 8 to 15 their ups, so that one lane has both of a pair.
 *
 * Many entries: 64 entries by 128 rows of weights, both by `cp.async` through four stages of shared memory, 32 of
 * the k each. With a gate every second eight rows of weights are ups: again one lane has both. */
#include "device/cuda/ops/cuda_experts.h"
#include "device/cuda/ops/cuda_port.cuh"

#define UNITS_A_BLOCK 8 /* thread blocks are at most so many for each that is resident, then they loop */

static unsigned grid_of(const tl_cuda_experts_args *args, uint32_t panel) {
  uint64_t units = (uint64_t)args->max_tiles * ((args->n + panel - 1) / panel), most = (uint64_t)args->n_blocks * UNITS_A_BLOCK;
  return (unsigned)(units < most ? units : most);
}

TL_DEVICE float gated(const tl_cuda_experts_args &a, float gate, float up) {
  if (a.gate == TL_CUDA_SILU) return gate / (1 + expf(-gate)) * up;
  gate = fminf(gate, a.limit);
  up = fminf(fmaxf(up, -a.limit), a.limit);
  return gate / (1 + expf(-1.702f * gate)) * (up + 1);
}

/* Row i of x of a tile. */
TL_DEVICE const uint16_t *entry_row(const tl_cuda_experts_args &a, uint32_t entry) {
  return (const uint16_t *)a.x + (uint64_t)(a.rows ? a.rows[entry] : entry) * a.k;
}

/* --- few entries ---------------------------------------------------------------------------------- */

#define FEW_WARPS 8
#define FEW_THREADS (FEW_WARPS * 32)
#define FEW_ROWS 16 /* rows of a fragment */
#define UNROLL 4    /* pieces of two rows that a lane has under way */

struct few_shared {
  float sum[FEW_WARPS][TL_CUDA_FEW_ENTRIES][FEW_ROWS];
};

/* Outputs of a unit; the row of weights, and whether there is one, of row `half` 8 + g. */
template <bool GATED>
struct few_rows {
  static const uint32_t OUTPUTS = GATED ? FEW_ROWS / 2 : FEW_ROWS;
  TL_METHOD uint32_t output(uint32_t first, uint32_t half) {
    return first + lane_index() / 4 + (GATED ? 0 : half * 8);
  }
};

/* This warp's share of the k. */
template <class T, bool GATED>
TL_DEVICE void multiply_share(const tl_cuda_experts_args &a, const uint16_t *weight, const uint16_t *x, uint32_t first, float (&sum)[4]) {
  for (uint32_t base = warp_index() * UNROLL * 32; base < a.k; base += FEW_WARPS * UNROLL * 32) {
    quad raw[UNROLL][2] = {};
    TL_UNROLL for (int u = 0; u < UNROLL; u++)
      TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
        uint32_t at = base + u * 32 + lane_index() % 4 * 8, output = few_rows<GATED>::output(first, half);
        if (output >= a.n || at >= a.k) continue;
        raw[u][half] = load16_once(weight + (uint64_t)(output + (GATED ? half * a.n : 0)) * a.k + at);
      }
    TL_UNROLL for (int u = 0; u < UNROLL; u++) {
      uint32_t at = base + u * 32 + lane_index() % 4 * 8;
      quad v = {};
      if (x && at < a.k) v = load16(x + at);
      T::mma(sum, {raw[u][0].w[0], raw[u][1].w[0], raw[u][0].w[1], raw[u][1].w[1]}, {v.w[0], v.w[1]});
      T::mma(sum, {raw[u][0].w[2], raw[u][1].w[2], raw[u][0].w[3], raw[u][1].w[3]}, {v.w[2], v.w[3]});
    }
  }
}

/* Of one entry of the tile, one output. */
template <class T, bool GATED>
TL_DEVICE void finish_few(const tl_cuda_experts_args &a, const tl_cuda_expert_tile &tile, uint32_t first, const few_shared *s) {
  const uint32_t outputs = few_rows<GATED>::OUTPUTS;
  uint32_t entry = thread_index() / outputs, i = thread_index() % outputs, output = first + i;
  if (entry >= tile.n || output >= a.n) return;
  const float *bias = a.bias ? a.bias + (uint64_t)tile.expert * a.n * (GATED ? 2 : 1) + output : nullptr;
  float result = bias ? bias[0] : 0, up = GATED && bias ? bias[a.n] : 0;
  TL_UNROLL for (int w = 0; w < FEW_WARPS; w++) {
    result += s->sum[w][entry][i];
    if (GATED) up += s->sum[w][entry][i + FEW_ROWS / 2];
  }
  if (GATED) result = gated(a, result, up);
  ((uint16_t *)a.out)[(uint64_t)(tile.first + entry) * a.n + output] = (uint16_t)T::pack(result, 0);
}

template <class T, bool GATED>
TL_KERNEL(FEW_THREADS, 3) experts_few(tl_cuda_experts_args a) {
  few_shared *s = (few_shared *)shared_memory();
  const uint32_t outputs = few_rows<GATED>::OUTPUTS;
  uint32_t panels = (a.n + outputs - 1) / outputs, n_tiles = *a.n_tiles;
  for (uint64_t unit = block_x(); unit < (uint64_t)n_tiles * panels; unit += grid_x()) {
    tl_cuda_expert_tile tile = a.tiles[unit / panels];
    uint32_t first = (uint32_t)(unit % panels) * outputs, entry = lane_index() / 4;
    const uint16_t *weight = (const uint16_t *)a.weight + (uint64_t)tile.expert * a.n * (GATED ? 2 : 1) * a.k;
    float sum[4] = {};
    multiply_share<T, GATED>(a, weight, entry < tile.n ? entry_row(a, tile.first + entry) : nullptr, first, sum);
    /* columns 2c and 2c + 1 are entries, rows g and g + 8 weights */
    TL_UNROLL for (int i = 0; i < 4; i++)
      s->sum[warp_index()][lane_index() % 4 * 2 + i % 2][lane_index() / 4 + i / 2 * 8] = sum[i];
    sync_block();
    finish_few<T, GATED>(a, tile, first, s);
    sync_block();
  }
}

/* --- many entries ---------------------------------------------------------------------------------- */

#define MANY_THREADS 128 /* warps: 2 of 32 entries by 2 of 64 rows of weights */
#define MANY_ROWS 128    /* of weights */
#define STEP 32          /* of the k, in a stage */
#define QUADS (STEP / 8)
#define STAGES 4

/* Pieces of 16 bytes change places by the row, so that one column of eight rows lies in different banks. */
struct many_shared {
  quad x[STAGES][TL_CUDA_MANY_ENTRIES][QUADS], weight[STAGES][MANY_ROWS][QUADS];
};

TL_DEVICE quad *piece(quad (*rows)[QUADS], uint32_t row, uint32_t index) {
  return &rows[row][index ^ (row / 2 & 3)];
}

/* What a thread copies of each stage: a piece of each of these rows; NULL: zeros. */
struct many_source {
  const uint16_t *x[TL_CUDA_MANY_ENTRIES * QUADS / MANY_THREADS], *weight[MANY_ROWS * QUADS / MANY_THREADS];
};

template <bool GATED>
TL_DEVICE void find_sources(const tl_cuda_experts_args &a, const tl_cuda_expert_tile &tile, uint32_t first, many_source *from) {
  TL_UNROLL for (uint32_t i = 0; i < TL_CUDA_MANY_ENTRIES * QUADS / MANY_THREADS; i++) {
    uint32_t entry = (i * MANY_THREADS + thread_index()) / QUADS;
    from->x[i] = entry < tile.n ? entry_row(a, tile.first + entry) : nullptr;
  }
  const uint16_t *weight = (const uint16_t *)a.weight + (uint64_t)tile.expert * a.n * (GATED ? 2 : 1) * a.k;
  TL_UNROLL for (uint32_t i = 0; i < MANY_ROWS * QUADS / MANY_THREADS; i++) {
    uint32_t row = (i * MANY_THREADS + thread_index()) / QUADS;
    uint32_t output = first + (GATED ? row / 16 * 8 + row % 8 : row), up = GATED && row / 8 % 2 ? a.n : 0;
    from->weight[i] = output < a.n ? weight + (uint64_t)(output + up) * a.k : nullptr;
  }
}

TL_DEVICE void load_stage(const tl_cuda_experts_args &a, const many_source &from, uint32_t step, many_shared *s) {
  uint32_t slot = step % STAGES, index = thread_index() % QUADS, at = step * STEP + index * 8;
  if (step * STEP < a.k) {
    TL_UNROLL for (uint32_t i = 0; i < TL_CUDA_MANY_ENTRIES * QUADS / MANY_THREADS; i++) {
      bool valid = from.x[i] && at < a.k;
      copy_async16(piece(s->x[slot], (i * MANY_THREADS + thread_index()) / QUADS, index),
                   valid ? from.x[i] + at : (const uint16_t *)a.weight, valid);
    }
    TL_UNROLL for (uint32_t i = 0; i < MANY_ROWS * QUADS / MANY_THREADS; i++) {
      bool valid = from.weight[i] && at < a.k;
      copy_async16(piece(s->weight[slot], (i * MANY_THREADS + thread_index()) / QUADS, index),
                   valid ? from.weight[i] + at : (const uint16_t *)a.weight, valid);
    }
  }
  commit_async(); /* also of nothing, so that the groups can be counted */
}

/* sum[m][j]: entries 16 m + g and + 8 of the warp's, of its rows of weights 8 j + 2 c and + 1. */
template <class T>
TL_DEVICE void multiply_stage(many_shared *s, uint32_t slot, float (&sum)[2][8][4]) {
  uint32_t matrix = lane_index() / 8, in = lane_index() % 8, entries = warp_index() / 2 * 32, rows = warp_index() % 2 * 64;
  TL_UNROLL for (uint32_t k = 0; k < STEP / 16; k++) {
    uint32_t x[2][4];
    TL_UNROLL for (uint32_t m = 0; m < 2; m++)
      load_matrices(x[m], piece(s->x[slot], entries + m * 16 + matrix % 2 * 8 + in, k * 2 + matrix / 2));
    TL_UNROLL for (uint32_t j = 0; j < 8; j += 2) {
      uint32_t w[4];
      load_matrices(w, piece(s->weight[slot], rows + j * 8 + matrix / 2 * 8 + in, k * 2 + matrix % 2));
      TL_UNROLL for (uint32_t m = 0; m < 2; m++) {
        T::mma(sum[m][j], x[m], {w[0], w[1]});
        T::mma(sum[m][j + 1], x[m], {w[2], w[3]});
      }
    }
  }
}

template <class T, bool GATED>
TL_DEVICE void finish_many(const tl_cuda_experts_args &a, const tl_cuda_expert_tile &tile, uint32_t first, const float (&sum)[2][8][4]) {
  const float *bias = a.bias ? a.bias + (uint64_t)tile.expert * a.n * (GATED ? 2 : 1) : nullptr;
  TL_UNROLL for (uint32_t j = 0; j < 8; j += GATED ? 2 : 1) {
    uint32_t output = first + warp_index() % 2 * (GATED ? 32 : 64) + j * (GATED ? 4 : 8) + lane_index() % 4 * 2;
    if (output >= a.n) continue;
    TL_UNROLL for (uint32_t m = 0; m < 2; m++)
      TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
        uint32_t entry = warp_index() / 2 * 32 + m * 16 + half * 8 + lane_index() / 4;
        if (entry >= tile.n) continue;
        float result[2];
        TL_UNROLL for (uint32_t i = 0; i < 2; i++) {
          result[i] = sum[m][j][half * 2 + i] + (bias ? bias[output + i] : 0);
          if (GATED) result[i] = gated(a, result[i], sum[m][j + GATED][half * 2 + i] + (bias ? bias[a.n + output + i] : 0));
        }
        *(uint32_t *)((uint16_t *)a.out + (uint64_t)(tile.first + entry) * a.n + output) = T::pack(result[0], result[1]);
      }
  }
}

template <class T, bool GATED>
TL_KERNEL(MANY_THREADS, 3) experts_many(tl_cuda_experts_args a) {
  many_shared *s = (many_shared *)shared_memory();
  const uint32_t outputs = GATED ? MANY_ROWS / 2 : MANY_ROWS;
  uint32_t panels = (a.n + outputs - 1) / outputs, n_steps = (a.k + STEP - 1) / STEP, n_tiles = *a.n_tiles;
  for (uint64_t unit = block_x(); unit < (uint64_t)n_tiles * panels; unit += grid_x()) {
    tl_cuda_expert_tile tile = a.tiles[unit / panels];
    uint32_t first = (uint32_t)(unit % panels) * outputs;
    many_source from;
    find_sources<GATED>(a, tile, first, &from);
    float sum[2][8][4] = {};
    for (uint32_t step = 0; step + 1 < STAGES; step++) load_stage(a, from, step, s);
    for (uint32_t step = 0; step < n_steps; step++) {
      wait_async<STAGES - 2>(); /* this step's */
      sync_block();             /* of all threads; and nobody reads the slot that is filled now */
      load_stage(a, from, step + STAGES - 1, s);
      multiply_stage<T>(s, step % STAGES, sum);
    }
    finish_many<T, GATED>(a, tile, first, sum);
    wait_async<0>();
    sync_block(); /* before the next unit's stages */
  }
}

/* --- launchers ---------------------------------------------------------------------------------------- */

static_assert(sizeof(many_shared) <= 48 << 10, "without asking for more");
static_assert(FEW_THREADS >= TL_CUDA_FEW_ENTRIES * FEW_ROWS, "a thread a result");

template <class T, bool GATED>
static int launch_experts(const tl_cuda_experts_args *args, void *stream) {
  if (args->tile_entries == TL_CUDA_FEW_ENTRIES)
    return launch(experts_few<T, GATED>, grid_of(args, few_rows<GATED>::OUTPUTS), 1, FEW_THREADS, sizeof(few_shared), stream, *args);
  return launch(experts_many<T, GATED>, grid_of(args, GATED ? MANY_ROWS / 2 : MANY_ROWS), 1, MANY_THREADS, sizeof(many_shared),
                stream, *args);
}

template <class T>
static int launch_gate(const tl_cuda_experts_args *args, void *stream) {
  return args->gate == TL_CUDA_NO_GATE ? launch_experts<T, false>(args, stream) : launch_experts<T, true>(args, stream);
}

extern "C" int tl_cuda_experts(const struct tl_cuda_experts_args *args, void *stream) {
  if (args->n % 8 || args->k % 8 || args->n_blocks == 0 ||
      (args->tile_entries != TL_CUDA_FEW_ENTRIES && args->tile_entries != TL_CUDA_MANY_ENTRIES))
    return CUDA_INVALID;
  if (args->n == 0 || args->max_tiles == 0) return 0;
  return args->dtype == TL_CUDA_BF16 ? launch_gate<bf16>(args, stream) : launch_gate<f16>(args, stream);
}
