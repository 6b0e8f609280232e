/* SPDX-License-Identifier: MIT */
/* Mixtures of experts, but for the products: which experts a row takes, entries by expert, the sum over a row's.
 * Of few rows one thread block does all of it, a warp a row and then all threads the sorting; of many rows
 * choosing and sorting are two kernels, the second one of a single block. */
#include "device/cuda/ops/cuda_experts.h"
#include "device/cuda/ops/cuda_port.cuh"

#define THREADS 512
#define WARPS (THREADS / 32)
#define FEW_ROWS (4 * WARPS)
#define MIX_THREADS 256

/* --- choices ----------------------------------------------------------------------------------- */

TL_DEVICE float score_of(const tl_cuda_route_args &a, uint32_t row, uint32_t expert) {
  return a.scores[(uint64_t)row * a.ld + expert] + (a.bias ? a.bias[expert] : 0);
}

TL_DEVICE float sigmoid(float v) {
  return 1 / (1 + expf(-v));
}

struct softmax {
  float most, total;
};

/* Of a row's scores, by a warp. */
TL_DEVICE softmax softmax_of(const tl_cuda_route_args &a, uint32_t row) {
  const float *scores = a.scores + (uint64_t)row * a.ld;
  softmax s = {scores[0], 0};
  for (uint32_t e = lane_index(); e < a.n_experts; e += 32) s.most = fmaxf(s.most, scores[e]);
  for (unsigned mask = 16; mask; mask /= 2) s.most = fmaxf(s.most, shuffle_xor(s.most, mask));
  for (uint32_t e = lane_index(); e < a.n_experts; e += 32) s.total += expf(scores[e] - s.most);
  s.total = warp_sum(s.total);
  return s;
}

/* Of an expert that is chosen by its share. */
TL_DEVICE float share_of(const tl_cuda_route_args &a, uint32_t row, uint32_t expert, const softmax &s) {
  float score = a.scores[(uint64_t)row * a.ld + expert];
  return a.sigmoid ? sigmoid(score) : expf(score - s.most) / s.total;
}

/* By what experts are chosen. */
TL_DEVICE float key_of(const tl_cuda_route_args &a, uint32_t row, uint32_t expert, const softmax &s) {
  if (!a.sigmoid && !a.choice) return score_of(a, row, expert);
  return share_of(a, row, expert, s) + (a.bias ? a.bias[expert] : 0);
}

/* Larger is better; no two experts have the same. */
TL_DEVICE uint64_t rank_of(float score, uint32_t expert) {
  uint32_t bits = as_bits(score + 0.0f), key = bits & 0x80000000u ? ~bits : bits | 0x80000000u; /* -0 becomes 0 */
  return (uint64_t)(score == score ? key : 0) << 32 | ~expert;
}

TL_DEVICE uint64_t warp_best(uint64_t v) {
  for (unsigned mask = 16; mask; mask /= 2) {
    uint64_t other = shuffle_xor(v, mask);
    v = other > v ? other : v;
  }
  return v;
}

/* A warp: the groups that a row's experts are chosen from, a bit each. A lane looks at one. */
TL_DEVICE uint32_t choose_groups(const tl_cuda_route_args &a, uint32_t row, const softmax &soft) {
  uint32_t each = a.n_experts / a.n_groups, group = lane_index(), chosen = 0;
  float best = -INFINITY, second = -INFINITY;
  for (uint32_t e = group * each; group < a.n_groups && e < (group + 1) * each; e++) {
    float key = key_of(a, row, e, soft);
    if (key > best) second = best, best = key;
    else if (key > second) second = key;
  }
  uint64_t rank = group < a.n_groups ? rank_of(a.sigmoid ? best + second : best, group) : 0;
  for (uint32_t i = 0; i < a.n_groups_chosen; i++) {
    uint32_t next = ~(uint32_t)warp_best(rank);
    chosen |= 1u << next;
    if (group == next) rank = 0;
  }
  return chosen;
}

/* A warp: of a softmax over the experts that are about as good as the one of `rank`, which is the best of them. */
TL_DEVICE float mixed_share(const tl_cuda_route_args &a, uint32_t row, uint64_t rank) {
  float most = score_of(a, row, ~(uint32_t)rank), total = 0;
  for (uint32_t e = lane_index(); e < a.n_experts; e += 32) {
    float score = score_of(a, row, e);
    bool near = !(most - score > a.limit * fmaxf(fabsf(score), most));
    if (near && rank_of(score, e) <= rank) total += expf(score - most);
  }
  return 1 / warp_sum(total);
}

/* A warp's row. The i-th best is the best of those below the one before. */
TL_DEVICE void choose(const tl_cuda_route_args &a, uint32_t row) {
  uint64_t at = (uint64_t)row * a.n_chosen, before = UINT64_MAX;
  float best = 0, total = 0;
  bool padding = a.tokens[row] == -1, by_share = a.sigmoid || a.choice;
  softmax soft = a.choice ? softmax_of(a, row) : softmax{0, 1};
  uint32_t groups = a.n_groups ? choose_groups(a, row, soft) : 1, each = a.n_groups ? a.n_experts / a.n_groups : a.n_experts;
  for (uint32_t i = 0; i < a.n_chosen; i++) {
    uint64_t top = 0;
    for (uint32_t e = lane_index(); e < a.n_experts && !padding; e += 32) {
      if (!(groups >> e / each & 1)) continue;
      uint64_t rank = rank_of(key_of(a, row, e, soft), e);
      if (rank < before && rank > top) top = rank;
    }
    before = warp_best(top);
    uint32_t expert = padding ? TL_CUDA_NO_ENTRY : ~(uint32_t)before;
    float score = padding || by_share ? 0 : score_of(a, row, expert);
    if (i == 0) best = score;
    float share = by_share && !padding ? share_of(a, row, expert, soft) : expf(score - best);
    if (a.mixed && !padding) share = mixed_share(a, row, before);
    total += share;
    if (lane_index() > 0) continue;
    a.chosen[at + i] = expert;
    a.shares[at + i] = share;
  }
  if (!a.normalized && (by_share || a.mixed)) total = 1;
  if (!a.normalized && !by_share && !a.mixed && !padding) {
    total = 0;
    for (uint32_t e = lane_index(); e < a.n_experts; e += 32) total += expf(score_of(a, row, e) - best);
    total = warp_sum(total);
  }
  sync_warp();
  for (uint32_t i = lane_index(); i < a.n_chosen; i += 32) a.shares[at + i] = a.shares[at + i] / total * a.factor;
}

/* --- entries ------------------------------------------------------------------------------------ */

struct sorting {
  uint32_t *count, *first, *first_tile; /* (n_local) in shared memory */
};

TL_DEVICE uint32_t tiles_of(const tl_cuda_route_args &a, uint32_t count) {
  return (count + a.tile_entries - 1) / a.tile_entries;
}

/* A warp: where each expert's entries and tiles begin. A lane has neighbouring experts. */
TL_DEVICE void add_up(const tl_cuda_route_args &a, const sorting &s) {
  uint32_t share = (a.n_local + 31) / 32, from = lane_index() * share, to = from + share < a.n_local ? from + share : a.n_local;
  uint64_t sum = 0; /* entries in the upper half, tiles in the lower */
  for (uint32_t e = from; e < to; e++) sum += (uint64_t)s.count[e] << 32 | tiles_of(a, s.count[e]);
  uint64_t end = sum;
  for (unsigned step = 1; step < 32; step *= 2) {
    uint64_t left = shuffle(end, (lane_index() - step) % 32);
    if (lane_index() >= step) end += left;
  }
  uint64_t at = end - sum;
  for (uint32_t e = from; e < to; e++) {
    s.first[e] = (uint32_t)(at >> 32);
    s.first_tile[e] = (uint32_t)at;
    at += (uint64_t)s.count[e] << 32 | tiles_of(a, s.count[e]);
  }
  if (lane_index() == 31) *a.n_tiles = (uint32_t)end;
}

/* A block. Choices of experts that are not here wrap round to what is larger than n_local. */
TL_DEVICE void sort(const tl_cuda_route_args &a, uint32_t *shared) {
  sorting s = {shared, shared + a.n_local, shared + 2 * a.n_local};
  uint32_t n = a.n * a.n_chosen;
  for (uint32_t e = thread_index(); e < a.n_local; e += THREADS) s.count[e] = 0;
  sync_block();
  for (uint32_t i = thread_index(); i < n; i += THREADS) {
    uint32_t expert = a.chosen[i] - a.first_expert;
    if (expert < a.n_local) atomic_add(&s.count[expert], 1u);
  }
  sync_block();
  if (warp_index() == 0) add_up(a, s);
  sync_block();
  for (uint32_t e = thread_index(); e < a.n_local; e += THREADS)
    for (uint32_t t = 0; t < tiles_of(a, s.count[e]); t++) {
      uint32_t at = t * a.tile_entries, left = s.count[e] - at;
      a.tiles[s.first_tile[e] + t] = {e, s.first[e] + at, left < a.tile_entries ? left : a.tile_entries};
    }
  sync_block();
  for (uint32_t i = thread_index(); i < n; i += THREADS) {
    uint32_t expert = a.chosen[i] - a.first_expert, place = TL_CUDA_NO_ENTRY;
    if (expert < a.n_local) a.rows[place = atomic_take(&s.first[expert])] = i / a.n_chosen;
    a.places[i] = place;
  }
}

/* --- kernels ------------------------------------------------------------------------------------- */

TL_KERNEL(THREADS, 1) route_few(tl_cuda_route_args a) {
  for (uint32_t row = warp_index(); row < a.n; row += WARPS) choose(a, row);
  sync_block();
  sort(a, (uint32_t *)shared_memory());
}

TL_KERNEL(THREADS, 1) route_rows(tl_cuda_route_args a) {
  uint32_t row = block_x() * WARPS + warp_index();
  if (row < a.n) choose(a, row);
}

TL_KERNEL(THREADS, 1) route_sort(tl_cuda_route_args a) {
  sort(a, (uint32_t *)shared_memory());
}

extern "C" int tl_cuda_route(const struct tl_cuda_route_args *args, void *stream) {
  size_t shared_bytes = 3 * (size_t)args->n_local * sizeof(uint32_t);
  if (args->n_chosen == 0 || args->n_chosen > args->n_experts || args->n_experts > TL_CUDA_MAX_EXPERTS ||
      args->ld < args->n_experts || args->n_local > args->n_experts || args->first_expert > args->n_experts - args->n_local ||
      args->tile_entries == 0 || args->n_groups > 32 || (args->n_groups && args->n_experts % args->n_groups) ||
      args->n_groups_chosen > args->n_groups || args->n > UINT32_MAX / args->n_chosen)
    return CUDA_INVALID;
  if (args->n <= FEW_ROWS) return launch(route_few, 1, 1, THREADS, shared_bytes, stream, *args);
  int e = launch(route_rows, (args->n + WARPS - 1) / WARPS, 1, THREADS, 0, stream, *args);
  return e ? e : launch(route_sort, 1, 1, THREADS, shared_bytes, stream, *args);
}

/* --- sums ------------------------------------------------------------------------------------------ */

/* A thread 8 elements of a row. */
template <class T>
TL_KERNEL(MIX_THREADS, 1) mix(tl_cuda_mix_args a) {
  uint64_t index = (uint64_t)block_x() * MIX_THREADS + thread_index(), row = index / (a.dim / 8);
  uint32_t column = (uint32_t)(index % (a.dim / 8)) * 8;
  if (row >= a.n) return;
  uint16_t *out = (uint16_t *)a.out + row * a.dim + column;
  float sum[8] = {}, v[8];
  if (a.whole) {
    float factor = a.gates ? sigmoid(a.gates[row * a.ld]) : 1;
    unpack8<T>(load16(out), v);
    TL_UNROLL for (int k = 0; k < 8; k++) sum[k] = v[k] * factor;
  }
  for (uint32_t i = 0; i < a.n_chosen; i++) {
    uint32_t place = a.places[row * a.n_chosen + i];
    if (place == TL_CUDA_NO_ENTRY) continue;
    float share = a.shares ? a.shares[row * a.n_chosen + i] : 1;
    unpack8<T>(load16((const uint16_t *)a.y + (uint64_t)place * a.dim + column), v);
    TL_UNROLL for (int k = 0; k < 8; k++) sum[k] += share * v[k];
  }
  store16(out, pack8<T>(sum));
}

extern "C" int tl_cuda_mix(const struct tl_cuda_mix_args *args, void *stream) {
  uint64_t blocks = ((uint64_t)args->n * (args->dim / 8) + MIX_THREADS - 1) / MIX_THREADS;
  if (args->dim % 8 || blocks > INT32_MAX) return CUDA_INVALID;
  return blocks ? launch(args->dtype == TL_CUDA_BF16 ? mix<bf16> : mix<f16>, (unsigned)blocks, 1, MIX_THREADS, 0, stream, *args) : 0;
}
