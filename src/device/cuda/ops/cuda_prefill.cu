/* SPDX-License-Identifier: MIT */
/* Paged attention for many query rows: a block a tile of 64 rows and a query head,
 * 16 rows a warp. Keys and values come through shared memory in tiles of 64 tokens:
 * while the scores of one are computed its values arrive, while those are summed up
 * the next one's keys do. Scores never leave the registers (Dao 2023).
 *
 * A cache of bytes comes as it is to a place beside the tiles, from where each thread expands what it copied itself, and at once asks for
 * the next tile's; of heads of more than 128 elements there is no room for that, and it waits for what it expands.
 *
 * There is a kernel for DIM = 64, 96, 128 and 256; a head in between takes the next larger one: what it
 * lacks is zeros in shared memory, and is neither read nor written elsewhere. */
#include "device/cuda/ops/cuda_attend.cuh"
#include "device/cuda/ops/cuda_cache.cuh"

#define WARPS (TL_CUDA_TILE_ROWS / 16)
#define THREADS (WARPS * 32)
#define TOKENS 64 /* of a key tile */
#ifdef __CUDACC__
#define TL_UNROLL_TWICE _Pragma("unroll 2")
#else
#define TL_UNROLL_TWICE
#endif

/* Queries of more than 128 elements and what is made of their values do not fit in registers together. */
template <int DIM>
struct prefill_shared {
  quad keys[TOKENS][DIM / 8], values[TOKENS][DIM / 8];
  quad queries[DIM > 128 ? TL_CUDA_TILE_ROWS : 0][DIM / 8];
};

/* What of a cache of bytes is on its way. */
template <int DIM>
struct prefill_staged {
  quad keys[DIM > 128 ? 0 : TOKENS * DIM / 16], values[DIM > 128 ? 0 : TOKENS * DIM / 16];
};

/* A row of DIM elements is in pieces of 16 bytes that change places by the row, so that one column of eight
 * rows lies in different banks: rows begin at the same bank, or, of an odd number of four pieces, at one of two. */
template <int DIM>
TL_DEVICE quad *piece(quad (*rows)[DIM / 8], uint32_t row, uint32_t index) {
  return &rows[row][index ^ (DIM % 64 ? row / 2 & 3 : row & 7)];
}

/* The cache's blocks of a tile, of tokens [first, first + TOKENS). */
struct tile_blocks {
  uint32_t block[TOKENS / TL_BLOCK_TOKENS];
};

TL_DEVICE tile_blocks load_blocks(const uint32_t *table, uint32_t first, uint32_t n_keys) {
  tile_blocks b;
  TL_UNROLL for (uint32_t i = 0; i < TOKENS / TL_BLOCK_TOKENS; i++) {
    uint32_t at = first + i * TL_BLOCK_TOKENS;
    b.block[i] = at < n_keys ? table[at / TL_BLOCK_TOKENS] : 0;
  }
  return b;
}

/* Their keys or values, zeros from token n on, and behind the head's own size. A thread has the same piece of each row that it copies. */
template <int DIM>
TL_DEVICE void load_tile(const tl_cuda_attention &a, const void *cache, const tile_blocks &b, uint32_t kv_head, uint32_t n,
                         quad (*rows)[DIM / 8]) {
  const uint32_t PIECES = DIM == 96 ? 16 : DIM / 8, AT_ONCE = THREADS / PIECES; /* of a row; rows */
  uint32_t index = thread_index() % PIECES, down = thread_index() / PIECES;
  if (index >= DIM / 8) return;
  TL_UNROLL for (uint32_t k = 0; k < TOKENS; k += AT_ONCE) {
    uint64_t block = (uint64_t)b.block[k / TL_BLOCK_TOKENS] * a.n_kv_heads + kv_head;
    const uint16_t *from = (const uint16_t *)cache + (block * TL_BLOCK_TOKENS + k % TL_BLOCK_TOKENS + down) * a.head_dim + index * 8;
    copy_async16(piece<DIM>(rows, k + down, index), from, k + down < n && index * 8 < a.head_dim);
  }
}

/* The same of bytes: all that a thread copies is its own to expand. A quad of the cache is two pieces of a row. */
template <int DIM>
TL_DEVICE void stage_tile(const tl_cuda_attention &a, const void *cache, const tile_blocks &b, uint32_t kv_head, uint32_t n, quad *staged) {
  TL_UNROLL for (uint32_t k = 0; k < TOKENS * (DIM / 16); k += THREADS) {
    static_assert(TOKENS / TL_BLOCK_TOKENS == 4, "of which one is chosen here, in registers");
    uint32_t i = k + thread_index(), row = i / (DIM / 16), index = i % (DIM / 16);
    uint32_t upper = row & 32 ? b.block[3] : b.block[1], lower = row & 32 ? b.block[2] : b.block[0];
    uint64_t block = (uint64_t)(row & 16 ? upper : lower) * a.n_kv_heads + kv_head;
    const uint8_t *from = (const uint8_t *)cache + (block * TL_BLOCK_TOKENS + row % TL_BLOCK_TOKENS) * a.head_dim + index * 16;
    copy_async16(staged + i, from, row < n && index * 16 < a.head_dim);
  }
}

template <class T, int DIM>
TL_DEVICE void expand_tile(const quad *staged, quad (*rows)[DIM / 8]) {
  TL_UNROLL for (uint32_t k = 0; k < TOKENS * (DIM / 16); k += THREADS) {
    uint32_t i = k + thread_index(), row = i / (DIM / 16), index = i % (DIM / 16) * 2;
    quad bytes = load16(staged + i);
    TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
      quad v;
      expand_e4m3<T>(bytes.w[half * 2], &v.w[0]);
      expand_e4m3<T>(bytes.w[half * 2 + 1], &v.w[2]);
      store16(piece<DIM>(rows, row, index + half), v);
    }
  }
}

/* At once, from the cache, with few registers. */
template <class T, int DIM>
TL_DEVICE void fetch_tile(const tl_cuda_attention &a, const void *cache, const uint32_t *table, uint32_t kv_head, uint32_t n,
                          quad (*rows)[DIM / 8]) {
  uint32_t index = thread_index() % (DIM / 8);
  TL_UNROLL_TWICE for (uint32_t row = thread_index() / (DIM / 8); row < TOKENS; row += THREADS / (DIM / 8)) {
    quad v = {};
    if (row < n && index * 8 < a.head_dim) {
      uint64_t block = (uint64_t)table[row / TL_BLOCK_TOKENS] * a.n_kv_heads + kv_head;
      v = expand8_e4m3<T>((const uint8_t *)cache + (block * TL_BLOCK_TOKENS + row % TL_BLOCK_TOKENS) * a.head_dim + index * 8);
    }
    store16(piece<DIM>(rows, row, index), v);
  }
}

/* What a warp holds of rows g and g + 8 of its 16 (g = lane / 4). */
template <int DIM>
struct state {
  uint32_t q[DIM > 128 ? 0 : DIM / 16][4];
  float max[2], sum[2];
  float out[DIM / 8][4];
};

/* The layout of A: pairs at columns 2c and 2c + 8 (c = lane % 4) of each 16 dims. */
template <int DIM>
TL_DEVICE void load_queries(const tl_cuda_attention &a, const tl_cuda_tile &tile, uint32_t head, state<DIM> *st) {
  TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
    uint32_t row = warp_index() * 16 + half * 8 + lane_index() / 4;
    const uint16_t *from = (const uint16_t *)a.q + ((uint64_t)(tile.row + row) * a.n_heads + head) * a.head_dim;
    TL_UNROLL for (uint32_t k = 0; k < DIM / 16; k++)
      TL_UNROLL for (uint32_t side = 0; side < 2; side++)
        st->q[k][side * 2 + half] = row < tile.n_rows && k * 16 + side * 8 < a.head_dim
                                        ? *(const uint32_t *)(from + k * 16 + side * 8 + lane_index() % 4 * 2)
                                        : 0;
  }
}

/* The same to shared memory; there with the keys that are loaded next. */
template <int DIM>
TL_DEVICE void share_queries(const tl_cuda_attention &a, const tl_cuda_tile &tile, uint32_t head, quad (*queries)[DIM / 8]) {
  for (uint32_t i = thread_index(); i < TL_CUDA_TILE_ROWS * (DIM / 8); i += THREADS) {
    uint32_t row = i / (DIM / 8), index = i % (DIM / 8);
    bool valid = row < tile.n_rows && index * 8 < a.head_dim;
    uint64_t at = ((uint64_t)(tile.row + row) * a.n_heads + head) * a.head_dim + index * 8;
    copy_async16(piece<DIM>(queries, row, index), (const uint16_t *)a.q + (valid ? at : 0), valid);
  }
}

/* s[j]: scores of tokens 8j + 2c, 8j + 2c + 1 of the tile. All sums of a step of k are independent of each other. */
template <class T, int DIM>
TL_DEVICE void score(const state<DIM> &st, prefill_shared<DIM> *shared, float scale, float softcap, float (&s)[TOKENS / 8][4]) {
  uint32_t matrix = lane_index() / 8;
  TL_UNROLL for (uint32_t j = 0; j < TOKENS / 8; j++)
    TL_UNROLL for (int i = 0; i < 4; i++) s[j][i] = 0;
  TL_UNROLL for (uint32_t k = 0; k < DIM / 16; k++) {
    uint32_t query[4];
    if constexpr (DIM > 128) /* four matrices: rows 0 to 7, 8 to 15, then their next 8 dims */
      load_matrices(query, piece<DIM>(shared->queries, warp_index() * 16 + matrix % 2 * 8 + lane_index() % 8, k * 2 + matrix / 2));
    else
      TL_UNROLL for (int i = 0; i < 4; i++) query[i] = st.q[k][i];
    TL_UNROLL for (uint32_t j = 0; j < TOKENS / 8; j += 2) {
      uint32_t key[4]; /* two matrices a token group: dims 0 to 7, 8 to 15 */
      load_matrices(key, piece<DIM>(shared->keys, j * 8 + matrix / 2 * 8 + lane_index() % 8, k * 2 + matrix % 2));
      T::mma(s[j], query, {key[0], key[1]});
      T::mma(s[j + 1], query, {key[2], key[3]});
    }
  }
  TL_UNROLL for (uint32_t j = 0; j < TOKENS / 8; j++)
    TL_UNROLL for (int i = 0; i < 4; i++) s[j][i] *= scale;
  if (softcap == 0) return; /* one branch, not one a score */
  TL_UNROLL for (uint32_t j = 0; j < TOKENS / 8; j++)
    TL_UNROLL for (int i = 0; i < 4; i++) s[j][i] = cap_score(s[j][i], softcap);
}

/* A row sees the tokens up to its own position, `window` of them, and of those behind it less than `reach` before `end`; `ahead`:
 * row 0's position less the tile's first token. */
TL_DEVICE void hide_unseen(float (&s)[TOKENS / 8][4], int64_t ahead, int64_t window, int64_t reach, int64_t end) {
  TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
    int64_t own = ahead + (warp_index() * 16 + half * 8 + lane_index() / 4), past = own + reach < end ? own + reach : end;
    int32_t from = own - window < 0 ? 0 : own - window >= TOKENS ? TOKENS : (int32_t)(own - window + 1); /* the tokens of the tile that it sees */
    int32_t to = past < 0 ? 0 : past > TOKENS ? TOKENS : (int32_t)past;
    TL_UNROLL for (int32_t j = 0; j < TOKENS / 8; j++)
      TL_UNROLL for (int32_t i = 0; i < 2; i++) {
        int32_t token = j * 8 + (int32_t)(lane_index() % 4 * 2) + i;
        if (token < from || token >= to) s[j][half * 2 + i] = -INFINITY;
      }
  }
}

template <int DIM>
TL_DEVICE void soften(state<DIM> *st, float (&s)[TOKENS / 8][4]) {
  TL_UNROLL for (int half = 0; half < 2; half++) {
    float max = st->max[half];
    TL_UNROLL for (int j = 0; j < TOKENS / 8; j++) max = fmaxf(max, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
    max = fmaxf(max, shuffle_xor(max, 1u));
    max = fmaxf(max, shuffle_xor(max, 2u));
    float shrink = exp2_fast(st->max[half] - (max == -INFINITY ? 0 : max)); /* 0, too, while a window shows the row no token */
    st->max[half] = max;
    max = max == -INFINITY ? 0 : max;
    st->sum[half] *= shrink;
    TL_UNROLL for (int j = 0; j < DIM / 8; j++) {
      st->out[j][2 * half] *= shrink;
      st->out[j][2 * half + 1] *= shrink;
    }
    TL_UNROLL for (int j = 0; j < TOKENS / 8; j++)
      TL_UNROLL for (int i = 2 * half; i < 2 * half + 2; i++) {
        s[j][i] = exp2_fast(s[j][i] - max);
        st->sum[half] += s[j][i];
      }
  }
}

/* Weights of 16 tokens are, as they lie, the fragment A of the product with values. */
template <class T, int DIM>
TL_DEVICE void mix(state<DIM> *st, const float (&s)[TOKENS / 8][4], quad (*values)[DIM / 8]) {
  TL_UNROLL for (uint32_t t = 0; t < TOKENS / 16; t++) {
    const float(&low)[4] = s[2 * t], (&high)[4] = s[2 * t + 1];
    const uint32_t weight[4] = {T::pack(low[0], low[1]), T::pack(low[2], low[3]), T::pack(high[0], high[1]),
                                T::pack(high[2], high[3])};
    TL_UNROLL for (uint32_t d = 0; d < DIM / 8; d += 2) {
      uint32_t value[4], matrix = lane_index() / 8; /* two matrices a dim group: tokens 0 to 7, 8 to 15 */
      load_matrices_transposed(value, piece<DIM>(values, t * 16 + matrix % 2 * 8 + lane_index() % 8, d + matrix / 2));
      T::mma(st->out[d], weight, {value[0], value[1]});
      T::mma(st->out[d + 1], weight, {value[2], value[3]});
    }
  }
}

template <class T, int DIM>
TL_DEVICE void write_rows(const tl_cuda_attention &a, const tl_cuda_tile &tile, uint32_t head, const state<DIM> &st) {
  TL_UNROLL for (uint32_t half = 0; half < 2; half++) {
    float sum = st.sum[half] + shuffle_xor(st.sum[half], 1u);
    sum += shuffle_xor(sum, 2u);
    sum = 1 / (sum + sink_weight(a, head, st.max[half]));
    uint32_t row = warp_index() * 16 + half * 8 + lane_index() / 4;
    if (row >= tile.n_rows) continue;
    uint16_t *to = (uint16_t *)a.out + ((uint64_t)(tile.row + row) * a.n_heads + head) * a.head_dim + lane_index() % 4 * 2;
    TL_UNROLL for (uint32_t j = 0; j < DIM / 8; j++)
      if (j * 8 < a.head_dim) *(uint32_t *)(to + j * 8) = T::pack(st.out[j][2 * half] * sum, st.out[j][2 * half + 1] * sum);
  }
}

template <class T, int DIM>
TL_KERNEL(THREADS, 2) prefill(tl_cuda_prefill_args args) {
  const tl_cuda_attention &a = args.a;
  prefill_shared<DIM> *shared = (prefill_shared<DIM> *)shared_memory();
  tl_cuda_tile tile = args.tiles[block_x() / a.n_heads];
  uint32_t head = block_x() % a.n_heads, kv_head = head / (a.n_heads / a.n_kv_heads);
  uint32_t n_keys = tile.position + tile.n_rows, window = a.window ? a.window : UINT32_MAX, reach = a.both_sides ? window : 1;
  n_keys += cuda_keys_ahead(a, tile, n_keys);
  uint32_t all_see = !a.both_sides ? tile.position : n_keys - tile.position > window ? tile.position + window : n_keys;
  uint32_t begin = tile.position >= window ? (tile.position - window + 1) / TOKENS * TOKENS : 0;
  const uint32_t *table = a.block_tables + (uint64_t)tile.seq * a.table_stride;
  if constexpr (DIM > 128) share_queries<DIM>(a, tile, head, shared->queries);
  tile_blocks blocks = load_blocks(table, begin, n_keys);
  load_tile<DIM>(a, a.k_cache, blocks, kv_head, n_keys - begin, shared->keys);
  commit_async();
  load_tile<DIM>(a, a.v_cache, blocks, kv_head, n_keys - begin, shared->values);
  commit_async();
  state<DIM> st = {};
  if constexpr (DIM <= 128) load_queries<DIM>(a, tile, head, &st);
  st.max[0] = st.max[1] = -INFINITY;
  for (uint32_t first = begin; first < n_keys; first += TOKENS) {
    uint32_t next = first + TOKENS;
    float s[TOKENS / 8][4];
    blocks = load_blocks(table, next, n_keys); /* long before they are needed */
    wait_async<1>(); /* the keys; the values may still be on their way */
    sync_block();
    score<T, DIM>(st, shared, a.scale * LOG2_E, a.softcap, s);
    sync_block();
    if (next < n_keys) load_tile<DIM>(a, a.k_cache, blocks, kv_head, n_keys - next, shared->keys);
    commit_async(); /* also of nothing, so that the groups can be counted */
    if (next > all_see || n_keys - first > window)
      hide_unseen(s, (int64_t)tile.position - first, window, reach, n_keys - first);
    soften<DIM>(&st, s);
    wait_async<1>(); /* the values */
    sync_block();
    mix<T, DIM>(&st, s, shared->values);
    sync_block();
    if (next < n_keys) load_tile<DIM>(a, a.v_cache, blocks, kv_head, n_keys - next, shared->values);
    commit_async();
  }
  write_rows<T, DIM>(a, tile, head, st);
}

/* The same, of a cache of bytes. */
template <class T, int DIM>
TL_KERNEL(THREADS, 2) prefill_bytes(tl_cuda_prefill_args args) {
  const bool STAGED = DIM <= 128;
  const tl_cuda_attention &a = args.a;
  prefill_shared<DIM> *shared = (prefill_shared<DIM> *)shared_memory();
  prefill_staged<DIM> *staged = (prefill_staged<DIM> *)(shared + 1);
  tl_cuda_tile tile = args.tiles[block_x() / a.n_heads];
  uint32_t head = block_x() % a.n_heads, kv_head = head / (a.n_heads / a.n_kv_heads);
  const uint32_t n_keys = tile.position + tile.n_rows, window = a.window ? a.window : UINT32_MAX;
  uint32_t begin = tile.position >= window ? (tile.position - window + 1) / TOKENS * TOKENS : 0;
  const uint32_t *table = a.block_tables + (uint64_t)tile.seq * a.table_stride;
  tile_blocks blocks;
  state<DIM> st = {};
  if constexpr (STAGED) {
    blocks = load_blocks(table, begin, n_keys);
    stage_tile<DIM>(a, a.k_cache, blocks, kv_head, n_keys - begin, staged->keys);
    commit_async();
    stage_tile<DIM>(a, a.v_cache, blocks, kv_head, n_keys - begin, staged->values);
    commit_async();
    load_queries<DIM>(a, tile, head, &st);
  } else {
    share_queries<DIM>(a, tile, head, shared->queries);
    commit_async();
  }
  st.max[0] = st.max[1] = -INFINITY;
  for (uint32_t first = begin; first < n_keys; first += TOKENS) {
    const uint32_t next = first + TOKENS;
    float s[TOKENS / 8][4];
    if constexpr (STAGED) {
      blocks = load_blocks(table, next, n_keys); /* long before they are needed */
      wait_async<1>(); /* the keys; the values may still be on their way */
      expand_tile<T, DIM>(staged->keys, shared->keys);
      if (next < n_keys) stage_tile<DIM>(a, a.k_cache, blocks, kv_head, n_keys - next, staged->keys);
      commit_async(); /* also of nothing, so that the groups can be counted */
    } else {
      fetch_tile<T, DIM>(a, a.k_cache, table + first / TL_BLOCK_TOKENS, kv_head, n_keys - first, shared->keys);
      wait_async<0>(); /* the queries */
    }
    sync_block();
    score<T, DIM>(st, shared, a.scale * LOG2_E, a.softcap, s);
    if (next > tile.position || n_keys - first > window) hide_unseen(s, (int64_t)tile.position - first, window, 1, n_keys - first);
    soften<DIM>(&st, s);
    if constexpr (STAGED) {
      wait_async<1>(); /* the values */
      expand_tile<T, DIM>(staged->values, shared->values);
      if (next < n_keys) stage_tile<DIM>(a, a.v_cache, blocks, kv_head, n_keys - next, staged->values);
      commit_async();
    } else {
      fetch_tile<T, DIM>(a, a.v_cache, table + first / TL_BLOCK_TOKENS, kv_head, n_keys - first, shared->values);
    }
    sync_block(); /* also: all have read the keys; the one above: all have read the values */
    mix<T, DIM>(&st, s, shared->values);
  }
  write_rows<T, DIM>(a, tile, head, st);
}

static_assert(sizeof(prefill_shared<TL_CUDA_MAX_HEAD_DIM>) <= CUDA_MOST_SHARED, "the largest");
static_assert(sizeof(prefill_shared<128>) <= 48 << 10, "without asking for more");
template <int DIM>
constexpr size_t BYTES_SHARED = sizeof(prefill_shared<DIM>) + (DIM > 128 ? 0 : sizeof(prefill_staged<DIM>));
static_assert(BYTES_SHARED<128> <= 48 << 10, "likewise");

template <class T, int DIM>
static int launch_prefill(const tl_cuda_prefill_args *args, void *stream) {
  if constexpr (cache_of<T>::BYTES)
    return launch(prefill_bytes<T, DIM>, args->n_tiles * args->a.n_heads, 1, THREADS, BYTES_SHARED<DIM>, stream, *args);
  else
    return launch(prefill<T, DIM>, args->n_tiles * args->a.n_heads, 1, THREADS, sizeof(prefill_shared<DIM>), stream, *args);
}

template <class T>
static int launch_prefill_of(const tl_cuda_prefill_args *args, void *stream) {
  uint32_t dim = args->a.head_dim;
  if (dim <= 64) return launch_prefill<T, 64>(args, stream);
  if (dim <= 96) return launch_prefill<T, 96>(args, stream);
  return dim <= 128 ? launch_prefill<T, 128>(args, stream) : launch_prefill<T, TL_CUDA_MAX_HEAD_DIM>(args, stream);
}

extern "C" int tl_cuda_prefill(const struct tl_cuda_prefill_args *args, void *stream) {
  if (!cuda_attention_valid(&args->a)) return CUDA_INVALID;
  if (args->a.dtype > TL_CUDA_F16 && (args->a.head_dim % 16 || args->a.both_sides)) return CUDA_INVALID;
  if (args->n_tiles == 0) return 0;
  if (args->a.dtype == TL_CUDA_BF16_BYTES) return launch_prefill_of<bf16_bytes>(args, stream);
  if (args->a.dtype == TL_CUDA_F16_BYTES) return launch_prefill_of<f16_bytes>(args, stream);
  return args->a.dtype == TL_CUDA_BF16 ? launch_prefill_of<bf16>(args, stream) : launch_prefill_of<f16>(args, stream);
}

int cuda_prepare_prefill() {
  size_t bytes = sizeof(prefill_shared<TL_CUDA_MAX_HEAD_DIM>);
  int e = allow_shared(prefill<bf16, TL_CUDA_MAX_HEAD_DIM>, bytes);
  if (!e) e = allow_shared(prefill<f16, TL_CUDA_MAX_HEAD_DIM>, bytes);
  if (!e) e = allow_shared(prefill_bytes<bf16_bytes, TL_CUDA_MAX_HEAD_DIM>, bytes);
  return e ? e : allow_shared(prefill_bytes<f16_bytes, TL_CUDA_MAX_HEAD_DIM>, bytes);
}
