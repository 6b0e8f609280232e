/* SPDX-License-Identifier: MIT */
/* What lies around attention over latents: norms, rotations, the cache, and the products of heads with matrices of their own, by
 * tensor cores: a block 64 outputs of a head, for 64 rows, or for up to 16, of which each warp then has a quarter of the outputs. */
#include "device/cuda/ops/cuda_latent.h"
#include "device/cuda/ops/cuda_port.cuh"

#define WARPS 4
#define THREADS (WARPS * 32)
#define SIDE 64        /* rows, outputs and inputs of what lies in shared memory at a time */
#define FEW_ROWS 16
#define STAGES 2

/* --- rows ------------------------------------------------------------------------------------- */

/* A block: to = from / rms(from) * weight * factor, of n elements. */
template <class T>
TL_DEVICE void norm_part(const uint16_t *from, uint32_t n, const float *weight, float eps, float factor, uint16_t *to, float *scratch) {
  float sum = 0, v[8];
  for (uint32_t i = thread_index() * 8; i < n; i += THREADS * 8) {
    unpack8<T>(load16(from + i), v);
    TL_UNROLL for (int k = 0; k < 8; k++) sum = fmaf(v[k], v[k], sum);
  }
  float scale = factor / sqrtf(block_sum(sum, scratch, WARPS) / (float)n + eps);
  for (uint32_t i = thread_index() * 8; to && i < n; i += THREADS * 8) {
    unpack8<T>(load16(from + i), v);
    TL_UNROLL for (int k = 0; k < 8; k++) v[k] *= scale * weight[i + k];
    store16(to + i, pack8<T>(v));
  }
}

template <class T>
TL_DEVICE float element(const uint16_t *at) {
  return T::low(*at);
}

/* Pair i of n / 2. angles: the position's. */
template <class T>
TL_DEVICE void rotate_pair(const uint16_t *from, uint16_t *to, const float *angles, uint32_t n, uint32_t i, bool interleaved) {
  uint32_t first = interleaved ? 2 * i : i, second = interleaved ? first + 1 : i + n / 2;
  float a = element<T>(from + first), b = element<T>(from + second), cosine = angles[i], sine = angles[n / 2 + i];
  to[first] = (uint16_t)T::pack(a * cosine - b * sine, 0);
  to[second] = (uint16_t)T::pack(b * cosine + a * sine, 0);
}

template <class T>
TL_KERNEL(THREADS, 1) latent_rows(tl_cuda_latent_rows_args a) {
  float *scratch = (float *)shared_memory();
  uint32_t row = block_x(), slot = a.slots[row];
  const uint16_t *in = (const uint16_t *)a.in + (uint64_t)row * a.ld, *kept = in + a.at;
  bool stores = slot != TL_CUDA_NO_SLOT;
  uint16_t *to = (uint16_t *)a.cache + (stores ? (uint64_t)slot * (a.n_latent + a.n_rotated) : 0);
  float growth = a.growth ? a.growth[a.positions[row]] : 1;
  if (a.n_rank) norm_part<T>(in, a.n_rank, a.rank_norm, a.eps, growth, (uint16_t *)a.rank + (uint64_t)row * a.n_rank, scratch);
  norm_part<T>(kept, a.n_latent, a.latent_norm, a.eps, 1, stores ? to : nullptr, scratch);
  const float *angles = a.rope + (uint64_t)a.positions[row] * a.n_rotated;
  for (uint32_t i = thread_index(); stores && i < a.n_rotated / 2; i += THREADS)
    rotate_pair<T>(kept + a.n_latent, to + a.n_latent, angles, a.n_rotated, i, a.interleaved);
}

extern "C" int tl_cuda_latent_rows(const struct tl_cuda_latent_rows_args *args, void *stream) {
  if (args->n_rank % 8 || args->n_latent % 8 || args->n_rotated % 8 || args->ld % 8 || args->at % 8) return CUDA_INVALID;
  return args->n ? launch(args->dtype == TL_CUDA_BF16 ? latent_rows<bf16> : latent_rows<f16>, args->n, 1, THREADS, WARPS * sizeof(float),
                          stream, *args)
                 : 0;
}

/* A thread a pair. */
template <class T>
TL_KERNEL(THREADS, 1) latent_turn(tl_cuda_latent_turn_args a) {
  uint32_t pairs = a.n_rotated / 2;
  uint64_t work = (uint64_t)block_x() * THREADS + thread_index(), head = work / pairs, row = head / a.n_heads;
  if (row >= a.n) return;
  const uint16_t *from = (const uint16_t *)a.q + row * a.ld + head % a.n_heads * (a.n_nope + a.n_rotated) + a.n_nope;
  uint16_t *to = (uint16_t *)a.out + head * (a.n_latent + a.n_rotated) + a.n_latent;
  rotate_pair<T>(from, to, a.rope + (uint64_t)a.positions[row] * a.n_rotated, a.n_rotated, (uint32_t)(work % pairs), a.interleaved);
}

extern "C" int tl_cuda_latent_turn(const struct tl_cuda_latent_turn_args *args, void *stream) {
  uint64_t blocks = ((uint64_t)args->n * args->n_heads * (args->n_rotated / 2) + THREADS - 1) / THREADS;
  if (args->n_rotated % 8 || blocks > INT32_MAX) return CUDA_INVALID;
  return blocks ? launch(args->dtype == TL_CUDA_BF16 ? latent_turn<bf16> : latent_turn<f16>, (unsigned)blocks, 1, THREADS, 0, stream, *args)
                : 0;
}

/* --- products of heads -------------------------------------------------------------------------- */

struct heads_shared {
  quad x[STAGES][SIDE][SIDE / 8], w[STAGES][SIDE][SIDE / 8];
};

/* A row's pieces of 16 bytes change places by the row, so that one column of eight rows lies in different banks. */
TL_DEVICE quad *piece(quad (*rows)[SIDE / 8], uint32_t row, uint32_t index) {
  return &rows[row][index ^ (row & 7)];
}

/* `rows` rows of up to 64 elements, from `from` on, ld apart; zeros from n_rows and n_columns on. */
TL_DEVICE void copy_side(quad (*to)[SIDE / 8], const uint16_t *from, uint64_t ld, uint32_t rows, uint32_t n_rows, uint32_t n_columns) {
  for (uint32_t i = thread_index(); i < rows * (SIDE / 8); i += THREADS) {
    uint32_t row = i / (SIDE / 8), index = i % (SIDE / 8);
    bool valid = row < n_rows && index * 8 < n_columns;
    copy_async16(piece(to, row, index), from + (valid ? row * ld + index * 8 : 0), valid);
  }
}

TL_DEVICE uint32_t at_most(uint32_t value, uint32_t most) {
  return value < most ? value : most;
}

/* Inputs k .. k + 63 of the block's rows and outputs. */
template <bool FEW>
TL_DEVICE void copy_inputs(const tl_cuda_latent_heads_args &a, uint32_t head, uint32_t row, uint32_t out, uint32_t k, uint32_t stage,
                           heads_shared *s) {
  if (k < a.k) {
    const uint16_t *x = (const uint16_t *)a.x + (uint64_t)row * a.ldx + (uint64_t)head * a.x_step + k;
    const uint16_t *w = (const uint16_t *)a.w + (uint64_t)head * a.k * a.n_out;
    uint32_t n_k = at_most(a.k - k, SIDE), n_out = at_most(a.n_out - out, SIDE);
    copy_side(s->x[stage], x, a.ldx, FEW ? FEW_ROWS : SIDE, a.n - row, n_k);
    if (a.turned)
      copy_side(s->w[stage], w + (uint64_t)k * a.n_out + out, a.n_out, SIDE, n_k, n_out);
    else
      copy_side(s->w[stage], w + (uint64_t)out * a.k + k, a.k, SIDE, n_out, n_k);
  }
  commit_async(); /* also of nothing, so that groups can be counted */
}

/* Groups of 8 outputs j and j + 1 of what a stage has, of 16 inputs. */
TL_DEVICE void load_weights(uint32_t (&w)[4], quad (*rows)[SIDE / 8], uint32_t first, uint32_t k, bool turned) {
  uint32_t matrix = lane_index() / 8, in = lane_index() % 8;
  if (turned)
    load_matrices_transposed(w, piece(rows, k * 16 + matrix % 2 * 8 + in, first / 8 + matrix / 2));
  else
    load_matrices(w, piece(rows, first + matrix / 2 * 8 + in, k * 2 + matrix % 2));
}

template <class T, bool FEW>
TL_KERNEL(THREADS, 1) latent_heads(tl_cuda_latent_heads_args a) {
  const uint32_t GROUPS = FEW ? 2 : 8; /* of 8 outputs, of a warp */
  heads_shared *s = (heads_shared *)shared_memory();
  uint32_t n_tiles = (a.n_out + SIDE - 1) / SIDE, head = block_x() / n_tiles, out = block_x() % n_tiles * SIDE;
  uint32_t row = block_y() * (FEW ? FEW_ROWS : SIDE), matrix = lane_index() / 8;
  uint32_t own = FEW ? 0 : warp_index() * 16, first = FEW ? warp_index() * 16 : 0; /* the warp's rows and outputs */
  float sum[GROUPS][4] = {};
  copy_inputs<FEW>(a, head, row, out, 0, 0, s);
  for (uint32_t k = 0, stage = 0; k < a.k; k += SIDE, stage ^= 1) {
    copy_inputs<FEW>(a, head, row, out, k + SIDE, stage ^ 1, s);
    wait_async<1>();
    sync_block();
    TL_UNROLL for (uint32_t i = 0; i < SIDE / 16; i++) {
      uint32_t x[4], w[4];
      load_matrices(x, piece(s->x[stage], own + matrix % 2 * 8 + lane_index() % 8, i * 2 + matrix / 2));
      TL_UNROLL for (uint32_t j = 0; j < GROUPS; j += 2) {
        load_weights(w, s->w[stage], first + j * 8, i, a.turned);
        T::mma(sum[j], x, {w[0], w[1]});
        T::mma(sum[j + 1], x, {w[2], w[3]});
      }
    }
    sync_block();
  }
  TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
    uint32_t to_row = row + own + half * 8 + lane_index() / 4;
    if (to_row >= a.n) continue;
    uint16_t *y = (uint16_t *)a.y + (uint64_t)to_row * a.ldy + (uint64_t)head * a.y_step;
    TL_UNROLL for (uint32_t j = 0; j < GROUPS; j++) {
      uint32_t at = out + first + j * 8 + lane_index() % 4 * 2;
      if (at < a.n_out) *(uint32_t *)(y + at) = T::pack(sum[j][2 * half], sum[j][2 * half + 1]);
    }
  }
}

template <class T>
static int launch_heads(const tl_cuda_latent_heads_args *args, void *stream) {
  bool few = args->n <= FEW_ROWS;
  uint32_t blocks = args->n_heads * ((args->n_out + SIDE - 1) / SIDE), rows = few ? 1 : (args->n + SIDE - 1) / SIDE;
  return launch(few ? latent_heads<T, true> : latent_heads<T, false>, blocks, rows, THREADS, sizeof(heads_shared), stream, *args);
}

static_assert(sizeof(heads_shared) <= 48 << 10, "without asking for more");

extern "C" int tl_cuda_latent_heads(const struct tl_cuda_latent_heads_args *args, void *stream) {
  if (args->k % 8 || args->n_out % 8 || args->ldx % 8 || args->ldy % 8 || args->x_step % 8 || args->y_step % 8 || args->k == 0 ||
      args->n / SIDE > 65000)
    return CUDA_INVALID;
  if (args->n == 0 || args->n_heads == 0) return 0;
  return args->dtype == TL_CUDA_BF16 ? launch_heads<bf16>(args, stream) : launch_heads<f16>(args, stream);
}
