/* SPDX-License-Identifier: MIT */
/* The products of experts over tiles of many entries: 64 entries by 128 rows of weights a thread block, 32 of the k at a
 * time through four stages of shared memory. Entries' rows, and weights of 16 bits, come by `cp.async`; stored weights come
 * into registers, and are expanded while the stages before are multiplied. With a gate every second eight
 * rows of weights are ups: one lane has both of a pair. A unit of work is a tile and a panel of outputs. */
#include "device/cuda/ops/cuda_experts.cuh"

#define THREADS 128 /* warps: 2 of 32 entries by 2 of 64 rows of weights */
#define ENTRIES TL_CUDA_MANY_ENTRIES
#define ROWS 128    /* of weights */
#define STEP 32     /* of the k, in a stage */
#define QUADS (STEP / 8)
#define STAGES 4

/* Pieces of 16 bytes change places by the row, so that one column of eight rows lies in different banks. */
struct many_shared {
  quad x[STAGES][ENTRIES][QUADS], weight[STAGES][ROWS][QUADS];
};
static_assert(sizeof(many_shared) <= 48 << 10, "without asking for more");

TL_DEVICE quad *piece(quad (*rows)[QUADS], uint32_t row, uint32_t index) {
  return &rows[row][index ^ (row / 2 & 3)];
}

/* Of a panel. */
TL_BOTH uint32_t outputs_of(const tl_cuda_experts_args &a) {
  return a.gate ? ROWS / 2 : ROWS;
}

/* Which row of weights, counted over all experts, row i of a panel is; false: none. */
TL_DEVICE bool find_row(const tl_cuda_experts_args &a, uint32_t expert, uint32_t first, uint32_t i, uint64_t *ret) {
  uint32_t output = first + (a.gate ? i / 16 * 8 + i % 8 : i);
  *ret = first_row(a, expert) + output + (a.gate && i / 8 % 2 ? a.n : 0);
  return output < a.n;
}

/* --- rows of x ------------------------------------------------------------------------------------ */

/* What a thread copies of each stage: a piece of each of these rows; NULL: zeros. */
struct x_source {
  const uint16_t *rows[ENTRIES * QUADS / THREADS];

  TL_METHOD void find(const tl_cuda_experts_args &a, const tl_cuda_expert_tile &tile, x_source *from) {
    TL_UNROLL for (uint32_t i = 0; i < ENTRIES * QUADS / THREADS; i++) {
      uint32_t entry = (i * THREADS + thread_index()) / QUADS;
      from->rows[i] = entry < tile.n ? entry_row(a, tile.first + entry) : nullptr;
    }
  }
  TL_METHOD void load(const tl_cuda_experts_args &a, const x_source &from, uint32_t step, many_shared *s) {
    uint32_t index = thread_index() % QUADS, at = step * STEP + index * 8;
    if (step * STEP >= a.k) return;
    TL_UNROLL for (uint32_t i = 0; i < ENTRIES * QUADS / THREADS; i++) {
      bool valid = from.rows[i] && at < a.k;
      copy_async16(piece(s->x[step % STAGES], (i * THREADS + thread_index()) / QUADS, index),
                   valid ? from.rows[i] + at : (const uint16_t *)a.x, valid);
    }
  }
};

/* --- weights ---------------------------------------------------------------------------------------- */

/* Of 16 bits, as x: they arrive by themselves. */
template <class T, class W, bool STORED>
struct weight_source {
  const uint16_t *rows[ROWS * QUADS / THREADS];

  TL_METHOD void find(const tl_cuda_experts_args &a, uint32_t expert, uint32_t first, weight_source *from) {
    TL_UNROLL for (uint32_t i = 0; i < ROWS * QUADS / THREADS; i++) {
      uint64_t row;
      bool valid = find_row(a, expert, first, (i * THREADS + thread_index()) / QUADS, &row);
      from->rows[i] = valid ? (const uint16_t *)a.weight + row * a.k : nullptr;
    }
  }
  TL_METHOD void load(const tl_cuda_experts_args &a, weight_source *from, uint32_t step, many_shared *s) {
    uint32_t index = thread_index() % QUADS, at = step * STEP + index * 8;
    if (step * STEP >= a.k) return;
    TL_UNROLL for (uint32_t i = 0; i < ROWS * QUADS / THREADS; i++) {
      bool valid = from->rows[i] && at < a.k;
      copy_async16(piece(s->weight[step % STAGES], (i * THREADS + thread_index()) / QUADS, index),
                   valid ? from->rows[i] + at : (const uint16_t *)a.weight, valid);
    }
  }
  TL_METHOD void expand(const weight_source &, uint32_t, many_shared *) {}
};

/* Stored in fewer: a thread a row, `load` into registers and later `expand` into the stage. */
template <class T, class W>
struct weight_source<T, W, true> {
  static const uint32_t PIECES = W::PIECE < STEP ? STEP / W::PIECE : 1;
  uint64_t row;
  bool valid;
  quad raw[PIECES];
  scale_of<W> scale[PIECES];

  TL_METHOD void find(const tl_cuda_experts_args &a, uint32_t expert, uint32_t first, weight_source *from) {
    from->valid = find_row(a, expert, first, thread_index(), &from->row);
  }
  TL_METHOD void load(const tl_cuda_experts_args &a, weight_source *from, uint32_t step, many_shared *) {
    TL_UNROLL for (uint32_t i = 0; i < PIECES; i++) {
      uint32_t at = step * STEP + i * W::PIECE;
      from->raw[i] = {};
      from->scale[i] = 0;
      if (!from->valid || at >= a.k) continue;
      from->raw[i] = load16((const char *)a.weight + (from->row * (a.k / W::PIECE) + at / W::PIECE) * 16);
      from->scale[i] = W::scale(a.scales, from->row * (a.k / W::GROUP) + at / W::GROUP);
      if constexpr (W::PIECE > STEP)
        if (at % W::PIECE) W::take_second_half(&from->raw[i], &from->scale[i]);
    }
  }
  TL_METHOD void expand(const weight_source &from, uint32_t step, many_shared *s) {
    TL_UNROLL for (uint32_t i = 0; i < QUADS; i++) {
      uint32_t pair[4];
      W::expand(from.raw[i / (QUADS / PIECES)], from.scale[i / (QUADS / PIECES)], i % (QUADS / PIECES), pair);
      if (SCALES_SUMS<W>) apply_scale<T>(as_float((uint32_t)from.scale[i / (QUADS / PIECES)]), pair);
      store16(piece(s->weight[step % STAGES], thread_index(), i), {{pair[0], pair[1], pair[2], pair[3]}});
    }
  }
};

/* --- products ---------------------------------------------------------------------------------------- */

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

template <class T>
TL_DEVICE void put_two(const tl_cuda_experts_args &a, uint32_t entry, uint32_t output, float low, float high) {
  if (output < a.n) *(uint32_t *)((uint16_t *)a.out + (uint64_t)entry * a.n + output) = T::pack(low, high);
}

template <class T>
TL_DEVICE void finish(const tl_cuda_experts_args &a, const tl_cuda_expert_tile &tile, uint32_t first, const float (&sum)[2][8][4]) {
  TL_UNROLL for (uint32_t j = 0; j < 8; j += 2) {
    uint32_t row = warp_index() % 2 * 64 + j * 8 + lane_index() % 4 * 2; /* of the panel's weights, and 8 behind it */
    uint32_t output = first + (a.gate ? row / 16 * 8 + row % 8 : row);
    uint64_t base = first_row(a, tile.expert) + output, other = base + (a.gate ? a.n : 8);
    bool both = a.gate ? output < a.n : output + 8 < a.n;
    TL_UNROLL for (uint32_t m = 0; m < 2; m++)
      TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
        uint32_t entry = warp_index() / 2 * 32 + m * 16 + half * 8 + lane_index() / 4;
        if (entry >= tile.n || output >= a.n) continue;
        float v[2][2] = {};
        TL_UNROLL for (uint32_t i = 0; i < 2; i++) {
          v[0][i] = finished(a, sum[m][j][half * 2 + i], base + i);
          if (both) v[1][i] = finished(a, sum[m][j + 1][half * 2 + i], other + i);
          v[0][i] = a.gate ? gated(a, v[0][i], v[1][i]) : alone(a, v[0][i]);
        }
        put_two<T>(a, tile.first + entry, output, v[0][0], v[0][1]);
        if (!a.gate) put_two<T>(a, tile.first + entry, output + 8, alone(a, v[1][0]), alone(a, v[1][1]));
      }
  }
}

template <class T, class W>
TL_KERNEL(THREADS, 3) experts_many(tl_cuda_experts_args a) {
  typedef weight_source<T, W, W::PIECE != 8> weights;
  many_shared *s = (many_shared *)shared_memory();
  uint32_t outputs = outputs_of(a), panels = (a.n + outputs - 1) / outputs, n_steps = (a.k + STEP - 1) / STEP, n_tiles = *a.n_tiles;
  for (uint64_t unit = block_x(); unit < (uint64_t)n_tiles * panels; unit += grid_x()) {
    tl_cuda_expert_tile tile = a.tiles[unit / panels];
    uint32_t first = (uint32_t)(unit % panels) * outputs;
    x_source x;
    weights w;
    x_source::find(a, tile, &x);
    weights::find(a, tile.expert, first, &w);
    float sum[2][8][4] = {};
    for (uint32_t step = 0; step + 1 < STAGES; step++) {
      x_source::load(a, x, step, s);
      weights::load(a, &w, step, s);
      commit_async();
      weights::expand(w, step, s);
    }
    for (uint32_t step = 0; step < n_steps; step++) {
      wait_async<STAGES - 2>(); /* this step's */
      sync_block();             /* of all threads; and nobody reads the slot that is filled now */
      x_source::load(a, x, step + STAGES - 1, s);
      weights::load(a, &w, step + STAGES - 1, s);
      commit_async(); /* also of nothing, so that the groups can be counted */
      multiply_stage<T>(s, step % STAGES, sum);
      weights::expand(w, step + STAGES - 1, s);
    }
    finish<T>(a, tile, first, sum);
    wait_async<0>();
    sync_block(); /* before the next unit's stages */
  }
}

template <class T, class W>
static int launch_many(const tl_cuda_experts_args *args, void *stream) {
  if (!fits<W>(args->k)) return CUDA_INVALID;
  return launch(experts_many<T, W>, grid_of(args, outputs_of(*args)), 1, THREADS, sizeof(many_shared), stream, *args);
}

template <class T>
static int launch_format(const tl_cuda_experts_args *args, void *stream) {
  return with_expert_format<T>(args->format, [&](auto w) { return launch_many<T, decltype(w)>(args, stream); });
}

int cuda_experts_many(const struct tl_cuda_experts_args *args, void *stream) {
  return args->dtype == TL_CUDA_BF16 ? launch_format<bf16>(args, stream) : launch_format<f16>(args, stream);
}
