/* SPDX-License-Identifier: MIT */
/* Products of some rows, 17 to 64, by stored weights that would have to be written out for cuBLASLt: each weight is read once
 * and expanded once, in registers (cuda_gemv.cu says in which order), and multiplies all rows there, which come through shared
 * memory, stages of k ahead. A warp has 32 outputs, so that what it loads of x feeds four products; eight warps side by side are a
 * tile of 256 outputs, for all of which x is read from the second-level cache once. Of few outputs, two warps share the k of the
 * same 32.
 *
 * One thread block a multiprocessor, and to each an equal stretch of all tiles' stages, wherever it begins and ends: a tile that is cut
 * is summed up by the block that comes last, in the order of the parts, whoever that is (Osama et al., Stream-K, 2023). */
#include "device/cuda/ops/cuda_gate.cuh"
#include "device/cuda/ops/cuda_gemv.cuh"
#include "device/cuda/ops/cuda_parts.cuh"

#define WARPS 8
#define THREADS (WARPS * 32)
#define ROWS TL_CUDA_BATCH_ROWS
#define EIGHTS (ROWS / 8) /* of rows */
#define HELD 2            /* tiles of 16 outputs that a warp has */

/* Of each output a lane has one piece in a stage, and four lanes together so much of k. */
template <class W>
constexpr uint32_t SHARE = W::PIECE * 4;
/* Stages of x in shared memory: one is read, the others are on their way. */
template <class W>
constexpr int RING = SHARE<W> <= 64 ? 4 : 3;

template <class W>
struct batch_stage {
  gemv_pieces<W, 1, 2> pieces[HELD];
};

struct batch_sums {
  float part[HELD][EIGHTS][4];
};

struct tl_cuda_batch_args {
  tl_cuda_gemv_args product;
  uint32_t k_halves; /* 0: a tile's warps have all of its k; 1: two share that of the same outputs */
  uint32_t n_stages, n_units; /* stages of a tile, of all */
};

/* A block's way. Stages of tiles are counted through, tile after tile. */
struct batch_run {
  uint32_t k_halves, n_stages;
  uint32_t column, k_half;    /* which outputs of a tile and which part of k are this warp's */
  uint32_t first, unit, end;  /* this block's stages; unit: the one that is multiplied */
  uint32_t tile, stage, slot; /* its tile and number in it, and where in the ring its x is */
  uint32_t load_unit, load_tile, load_stage; /* the one whose weights are loaded next */
  gemv_rows<2> rows[HELD];                   /* of load_tile */
  batch_sums sums;
};

/* --- x ----------------------------------------------------------------------------------------- */

/* Where a quad of a row is kept: an order that each row has of its own, so that eight lanes of two rows, four pieces each, read from
 * different banks. */
template <class W>
TL_DEVICE uint32_t shuffled(uint32_t row, uint32_t quad) {
  uint32_t odd = row % 2, line = quad / 8;
  return quad ^ (W::PIECE == 16 ? odd : line % 2 + odd * 2);
}

/* Quads of a row in a stage. */
template <class W>
TL_DEVICE uint32_t width_of(const batch_run &r) {
  return SHARE<W> / 8 << r.k_halves;
}

/* Rows of the stage's part of k; behind its end are zeros. */
template <class W>
TL_DEVICE void copy_x(const tl_cuda_gemv_args &a, const batch_run &r, quad *ring, uint32_t ahead) {
  if (r.unit + ahead < r.end) {
    const uint32_t width = width_of<W>(r);
    uint32_t stage = r.stage + ahead, slot = (r.slot + ahead) % RING<W>;
    while (stage >= r.n_stages) stage -= r.n_stages;
    for (uint32_t i = thread_index(); i < a.m * width; i += THREADS) {
      uint32_t row = i / (SHARE<W> / 8) >> r.k_halves, quad = i & (width - 1), at = (stage * width + quad) * 8;
      copy_async16(ring + (slot * ROWS + row) * width + shuffled<W>(row, quad), (const uint16_t *)a.x + (uint64_t)row * a.k + at, at < a.k);
    }
  }
  commit_async(); /* also of nothing, so that groups can be counted */
}

/* --- a stage -------------------------------------------------------------------------------------- */

template <class W>
TL_DEVICE void find_tile(const tl_cuda_gemv_args &a, batch_run *r) {
  TL_UNROLL for (int h = 0; h < HELD; h++)
    r->rows[h] = find_rows<W, 2>(a, (r->load_tile * (WARPS >> r->k_halves) + r->column) * HELD + h);
}

template <class W>
TL_DEVICE void load_next(const tl_cuda_gemv_args &a, batch_run *r, batch_stage<W> *to) {
  if (r->load_unit == r->end) return;
  TL_UNROLL for (int h = 0; h < HELD; h++)
    load_some<W, false>(a, r->rows[h], ((r->load_stage << r->k_halves) + r->k_half) * SHARE<W>, &to->pieces[h]);
  r->load_unit++;
  if (++r->load_stage < r->n_stages) return;
  r->load_stage = 0;
  r->load_tile++;
  find_tile<W>(a, r);
}

/* Eights of rows from FIRST to END. */
template <class T, class W, int FIRST, int END>
TL_DEVICE void multiply_rows(const quad *x, uint32_t width, uint32_t at, const uint32_t (&low)[HELD][4], const uint32_t (&high)[HELD][4],
                             batch_sums *to) {
  TL_UNROLL for (int t = FIRST; t < END; t++) {
    uint32_t row = t * 8 + lane_index() / 4;
    quad v = load16(x + row * width + shuffled<W>(row, at));
    TL_UNROLL for (int h = 0; h < HELD; h++) T::mma(to->part[h][t], {low[h][0], high[h][0], low[h][1], high[h][1]}, {v.w[0], v.w[1]});
    TL_UNROLL for (int h = 0; h < HELD; h++) T::mma(to->part[h][t], {low[h][2], high[h][2], low[h][3], high[h][3]}, {v.w[2], v.w[3]});
  }
}

template <class T, class W>
TL_DEVICE void multiply(const batch_run &r, const batch_stage<W> &stage, const quad *x, bool many, batch_sums *sums) {
  const uint32_t width = width_of<W>(r), first = r.k_half * (SHARE<W> / 8) + lane_index() % 4 * (W::PIECE / 8);
  batch_sums left = {};
  batch_sums *to = SCALES_SUMS<W> ? &left : sums;
  TL_UNROLL for (uint32_t i = 0; i < W::PIECE / 8; i++) {
    uint32_t low[HELD][4], high[HELD][4];
    TL_UNROLL for (int h = 0; h < HELD; h++) {
      W::expand(stage.pieces[h].raw[0][0], stage.pieces[h].scale[0][0], i, low[h]);
      W::expand(stage.pieces[h].raw[0][1], stage.pieces[h].scale[0][1], i, high[h]);
    }
    multiply_rows<T, W, 0, EIGHTS / 2>(x, width, first + i, low, high, to);
    if (many) multiply_rows<T, W, EIGHTS / 2, EIGHTS>(x, width, first + i, low, high, to);
  }
  if (SCALES_SUMS<W>)
    TL_UNROLL for (int h = 0; h < HELD; h++)
      TL_UNROLL for (int t = 0; t < EIGHTS; t++)
        TL_UNROLL for (int i = 0; i < 4; i++)
          sums->part[h][t][i] += left.part[h][t][i] * as_float((uint32_t)stage.pieces[h].scale[0][i / 2]);
}

/* --- results ------------------------------------------------------------------------------------------ */

TL_DEVICE void store(const tl_cuda_gemv_args &a, uint64_t at, float value, uint16_t value_t) {
  if (a.float_out)
    ((float *)a.out)[at] = value;
  else
    ((uint16_t *)a.out)[at] = value_t;
}

/* Of one of a warp's tiles of 16 outputs: a lane has outputs g and g + 8, gated: a pair, of rows 2c and 2c + 1 of each eight. */
template <class T>
TL_DEVICE void finish(const tl_cuda_gemv_args &a, const batch_run &r, uint32_t h, const float (&part)[EIGHTS][4]) {
  uint32_t tile = (r.tile * (WARPS >> r.k_halves) + r.column) * HELD + h, row = lane_index() % 4 * 2, output[2];
  bool there[2];
  float bias[2];
  TL_UNROLL for (int half = 0; half < 2; half++) {
    there[half] = find_output<2>(a, tile, lane_index() / 4 + half * 8, &output[half]);
    bias[half] = there[half] && a.bias ? a.bias[output[half]] : 0;
  }
  TL_UNROLL for (int t = 0; t < EIGHTS; t++)
    TL_UNROLL for (int j = 0; j < 2; j++) {
      uint64_t to = (uint64_t)(t * 8 + row + j) * a.ldo;
      float near = part[t][j] + bias[0], far = part[t][2 + j] + bias[1];
      if (t * 8 + row + j >= a.m) continue;
      if (a.gate) near = let_through(a.gate, near, far);
      if (there[0]) store(a, to + output[0], near, (uint16_t)T::pack(near, 0));
      if (there[1] && !a.gate) store(a, to + output[1], far, (uint16_t)T::pack(far, 0));
    }
}

/* The block that has this stage, of grid_x() that share n_units. */
TL_DEVICE uint32_t block_of(uint64_t unit, uint32_t n_units) {
  return (uint32_t)(((unit + 1) * grid_x() - 1) / n_units);
}

TL_DEVICE uint32_t first_unit(uint32_t block, uint32_t n_units) {
  return (uint32_t)((uint64_t)n_units * block / grid_x());
}

/* Where a warp's part of one of its tiles is put together: a block has at most two tiles that it shares, its first and its last. */
TL_DEVICE quad *part_of(const tl_cuda_gemv_args &a, uint32_t block, bool is_first, uint32_t warp, uint32_t h) {
  return (quad *)a.parts + ((((uint64_t)block * 2 + !is_first) * WARPS + warp) * HELD + h) * EIGHTS * 32 + lane_index();
}

TL_DEVICE void publish(const tl_cuda_gemv_args &a, const batch_run &r) {
  TL_UNROLL for (int h = 0; h < HELD; h++) {
    quad *to = part_of(a, block_x(), r.tile == r.first / r.n_stages, warp_index(), h);
    TL_UNROLL for (int t = 0; t < EIGHTS; t++) {
      const float *v = r.sums.part[h][t];
      if (t * 8 < (int)a.m) store16(to + t * 32, {{as_bits(v[0]), as_bits(v[1]), as_bits(v[2]), as_bits(v[3])}});
    }
  }
}

/* A warp's tile of 16 outputs, summed up over the blocks from `from` to `to`; the parts are read two at a time. */
TL_DEVICE void sum_parts(const tl_cuda_gemv_args &a, const batch_run &r, uint32_t h, uint32_t from, uint32_t to, uint32_t n_units,
                         float (&sum)[EIGHTS][4]) {
  const uint32_t end = (to - from + 1) << r.k_halves, eights = (a.m + 7) / 8;
  TL_UNROLL for (int t = 0; t < EIGHTS; t++)
    TL_UNROLL for (int i = 0; i < 4; i++) sum[t][i] = 0;
  for (uint32_t p = 0; p < end; p += 2) {
    quad v[2][EIGHTS];
    TL_UNROLL for (uint32_t k = 0; k < 2; k++) {
      uint32_t block = from + ((p + k) >> r.k_halves), warp = r.column + ((p + k) & r.k_halves) * (WARPS / 2);
      bool there = p + k < end;
      if (!there) block = from;
      const quad *part = part_of(a, block, r.tile == first_unit(block, n_units) / r.n_stages, warp, h);
      TL_UNROLL for (uint32_t t = 0; t < EIGHTS; t++) v[k][t] = there && t < eights ? load16(part + t * 32) : quad{};
    }
    TL_UNROLL for (int k = 0; k < 2; k++)
      TL_UNROLL for (int t = 0; t < EIGHTS; t++)
        TL_UNROLL for (int i = 0; i < 4; i++) sum[t][i] += as_float(v[k][t].w[i]);
  }
}

/* Warps that share k have a tile of 16 outputs each to sum up. */
template <class T>
TL_DEVICE void merge(const tl_cuda_gemv_args &a, const batch_run &r, uint32_t from, uint32_t to, uint32_t n_units) {
  float sum[EIGHTS][4];
  for (uint32_t h = 0; h < HELD; h++) {
    if (r.k_halves && h != r.k_half) continue;
    sum_parts(a, r, h, from, to, n_units, sum);
    finish<T>(a, r, h, sum);
  }
}

/* A tile of which this block has had its last stage. */
template <class T>
TL_DEVICE void end_tile(const tl_cuda_gemv_args &a, batch_run *r, uint32_t n_units, uint32_t *shared) {
  uint32_t from = block_of((uint64_t)r->tile * r->n_stages, n_units), to = block_of((uint64_t)(r->tile + 1) * r->n_stages - 1, n_units);
  if (from == to && !r->k_halves) {
    TL_UNROLL for (int h = 0; h < HELD; h++) finish<T>(a, *r, h, r->sums.part[h]);
  } else {
    publish(a, *r);
    if (comes_last(&a.arrived[r->tile], to - from + 1, shared)) merge<T>(a, *r, from, to, n_units);
  }
  r->sums = {};
}

/* --- the kernel ----------------------------------------------------------------------------------------- */

struct batch_shared {
  alignas(16) uint32_t is_last;
};

/* Multiplies a stage and has the one after the next loaded in its place. */
template <class T, class W>
TL_DEVICE void run_stage(const tl_cuda_gemv_args &a, batch_run *r, batch_stage<W> *stage, const quad *ring) {
  multiply<T, W>(*r, *stage, ring + r->slot * ROWS * width_of<W>(*r), a.m > ROWS / 2, &r->sums);
  load_next<W>(a, r, stage);
}

template <class T, class W>
TL_KERNEL(THREADS, 1) batch(tl_cuda_batch_args args) {
  const tl_cuda_gemv_args &a = args.product;
  batch_shared *s = (batch_shared *)shared_memory();
  quad *ring = (quad *)(s + 1);
  batch_run r = {};
  batch_stage<W> odd, even;
  let_next_start();
  r.k_halves = args.k_halves;
  r.column = warp_index() & ((WARPS >> r.k_halves) - 1);
  r.k_half = r.k_halves & warp_index() / (WARPS / 2);
  r.n_stages = args.n_stages;
  r.first = r.unit = r.load_unit = first_unit(block_x(), args.n_units);
  r.end = first_unit(block_x() + 1, args.n_units);
  r.tile = r.load_tile = r.unit / r.n_stages;
  r.stage = r.load_stage = r.unit % r.n_stages;
  find_tile<W>(a, &r);
  load_next<W>(a, &r, &odd);
  load_next<W>(a, &r, &even);
  wait_for_before();
  for (uint32_t ahead = 0; ahead + 1 < RING<W>; ahead++) copy_x<W>(a, r, ring, ahead);
  for (bool is_odd = true; r.unit < r.end; r.unit++, is_odd = !is_odd) {
    wait_async<RING<W> - 2>();
    sync_block(); /* and nobody reads the stage before any more */
    copy_x<W>(a, r, ring, RING<W> - 1);
    if (is_odd)
      run_stage<T, W>(a, &r, &odd, ring);
    else
      run_stage<T, W>(a, &r, &even, ring);
    bool ends = r.stage + 1 == r.n_stages;
    if (ends || r.unit + 1 == r.end) end_tile<T>(a, &r, args.n_units, &s->is_last);
    r.slot = (r.slot + 1) % RING<W>;
    r.stage = ends ? 0 : r.stage + 1;
    r.tile += ends;
  }
}

template <class W>
static size_t shared_bytes(uint32_t k_halves) {
  return sizeof(batch_shared) + ((size_t)(RING<W> * ROWS * SHARE<W> * 2) << k_halves);
}

template <class T, class W>
static int launch_batch(const tl_cuda_gemv_args *args, void *stream) {
  if (!fits<W>(args->k)) return CUDA_INVALID;
  uint32_t k_halves = args->n / TL_CUDA_BATCH_TILE < args->n_multiprocessors; /* larger tiles would not go round */
  uint32_t outputs = (WARPS >> k_halves) * HELD * 16;
  uint64_t tiles = args->gate ? (args->n / 2 + outputs / 2 - 1) / (outputs / 2) : (args->n + outputs - 1) / outputs;
  uint32_t share = SHARE<W> << k_halves, n_stages = (args->k + share - 1) / share;
  if (tiles * n_stages > INT32_MAX) return CUDA_INVALID;
  tl_cuda_batch_args all = {*args, k_halves, n_stages, (uint32_t)tiles * n_stages};
  unsigned blocks = all.n_units < args->n_multiprocessors ? all.n_units : args->n_multiprocessors;
  return launch_rows(args->m, batch<T, W>, blocks, 1, THREADS, shared_bytes<W>(k_halves), stream, all);
}

/* call(format) with the type of a format that tl_cuda_batches, or CUDA_INVALID. */
template <class T, class Call>
static int with_batched(int format, const Call &call) {
  if (format == TL_CUDA_WINT4) return call(wint4<T>());
  if constexpr (T::IS_BF16)
    if (format == TL_CUDA_WE4M3_BLOCKS) return call(we4m3_blocks<T>());
  return CUDA_INVALID;
}

template <class T>
static int launch_format(const tl_cuda_gemv_args *args, void *stream) {
  return with_batched<T>(args->format, [&](auto w) { return launch_batch<T, decltype(w)>(args, stream); });
}

int cuda_batch(const tl_cuda_gemv_args *args, void *stream) {
  if (args->m > ROWS || !args->parts || !args->arrived) return CUDA_INVALID;
  return args->dtype == TL_CUDA_BF16 ? launch_format<bf16>(args, stream) : launch_format<f16>(args, stream);
}

template <class T>
static int allow_batch() {
  for (int format = 0; format < TL_CUDA_FORMATS; format++) {
    if (!tl_cuda_batches(T::IS_BF16 ? TL_CUDA_BF16 : TL_CUDA_F16, format)) continue;
    int e = with_batched<T>(format, [](auto w) { return allow_shared(batch<T, decltype(w)>, shared_bytes<decltype(w)>(1)); });
    if (e) return e;
  }
  return 0;
}

int cuda_prepare_batch() {
  int e = allow_batch<bf16>();
  return e ? e : allow_batch<f16>();
}
