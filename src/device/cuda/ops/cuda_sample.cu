/* SPDX-License-Identifier: MIT */
/* From logits to tokens, by blocks that share a row where there are few. The first kernel finds the best of each part; the block that
 * comes last to a row has the best of all, which is the token that most rows want. Else it goes on alone, with penalties, masks and
 * log-probabilities: the row stays in the second-level cache while it is read several times. The second kernel is for rows with
 * filters, which keep a prefix of the tokens in the order of their ranks; its end, the cut, is found from a histogram, by parts,
 * and then among the tokens of the bin in which the target is reached; if these are many, digit by digit: a histogram of what
 * carries the digits found so far, and so on. From what is kept the third kernel draws, by sums of parts.
 * Nothing is sorted, and all sums are of integers: no order of threads or blocks shows. */
#include "device/cuda/ops/cuda_parts.cuh"
#include "device/cuda/ops/cuda_sampling.h"

#define WARPS TL_CUDA_SAMPLE_SUMS
#define THREADS (WARPS * 32)
#define MOST_PARTS 32 /* of a row: a lane each; and a thread for each warp of all of them */
#define MOST_FEW 512
#define NO_CUT UINT64_MAX
#define NEVER 0xff800000u /* the bits of minus infinity */

struct top_token {
  uint64_t rank;
  float logit;
};

struct few_token {
  uint64_t rank, amount;
};

struct sample_shared {
  tl_cuda_sampling row;
  union {
    uint64_t bins[TL_CUDA_BINS];
    few_token few[MOST_FEW]; /* of one bin, once that is found */
  };
  uint64_t per_warp[WARPS];
  uint64_t found_sum;   /* of what lies before the bin that was found */
  uint64_t found_amount; /* in the bin */
  uint64_t found_rank;
  uint32_t found_bin;
  uint32_t n_few;
  uint32_t n_top;
  uint32_t is_last;
  float raw;            /* of the chosen token */
  int32_t token;
  top_token top[TL_MAX_TOP_LOGPROBS];
};

/* A row in the order that a filter uses. */
struct view {
  const float *logits;
  uint32_t vocab;
  float max, temperature;
  bool raw; /* the order is that of the logits, not of the distances, which rounding makes equal */
};

TL_DEVICE float distance_of(const view &v, float logit) {
  return (logit - v.max) / v.temperature;
}

TL_DEVICE uint64_t rank_of(const view &v, float logit, uint32_t token) {
  return tl_cuda_rank(v.raw ? logit : distance_of(v, logit), token);
}

/* f(logit, token) for all of the row, shared out to the threads. */
template <class F>
TL_DEVICE void each_logit(const float *logits, uint32_t vocab, F f) {
  uint32_t i = thread_index() * 4;
  for (; i + 4 <= vocab; i += THREADS * 4) {
    quad four = load16(logits + i);
    TL_UNROLL for (uint32_t k = 0; k < 4; k++) f(as_float(four.w[k]), i + k);
  }
  for (uint32_t k = 0; k < 4 && i + k < vocab; k++) f(logits[i + k], i + k);
}

/* --- reductions ------------------------------------------------------------------------------ */

TL_DEVICE uint64_t warp_least(uint64_t v) {
  for (unsigned mask = 16; mask; mask /= 2) {
    uint64_t other = shuffle_xor(v, mask);
    v = other < v ? other : v;
  }
  return v;
}

/* The least rank of the stretch from `first` (4) on: its best token, or a NaN, whichever. Loads of more are on their way: of
 * each logit little is to be done. */
TL_DEVICE uint64_t best_rank(const float *logits, uint32_t first, uint32_t end, sample_shared *s) {
  const uint32_t AHEAD = 4, STEP = THREADS * 4;
  uint32_t whole = end / 4 * 4, left = whole + thread_index();
  float best = -INFINITY;
  uint32_t token = first; /* is what a stretch of nothing else has */
  bool number = true;
  auto look = [&](float logit, uint32_t at) { /* a thread's tokens rise: of equals the first stays */
    number = number && logit == logit;
    token = logit > best ? at : token;
    best = logit > best ? logit : best;
  };
  for (uint32_t i = first + thread_index() * 4; i < whole; i += STEP * AHEAD) {
    quad four[AHEAD];
    TL_UNROLL for (uint32_t n = 0; n < AHEAD; n++)
      four[n] = i + n * STEP < whole ? load16(logits + i + n * STEP) : quad{{NEVER, NEVER, NEVER, NEVER}};
    TL_UNROLL for (uint32_t n = 0; n < AHEAD; n++)
      TL_UNROLL for (uint32_t k = 0; k < 4; k++) look(as_float(four[n].w[k]), i + n * STEP + k);
  }
  if (left < end) look(logits[left], left);
  uint64_t rank = warp_least(tl_cuda_rank(number ? best : NAN, token));
  if (lane_index() == 0) s->per_warp[warp_index()] = rank;
  sync_block();
  rank = warp_least(s->per_warp[lane_index()]);
  sync_block();
  return rank;
}

struct stretch {
  uint32_t first, end;
};

/* What this block has of a row. */
TL_DEVICE stretch part_of(uint32_t vocab) {
  uint32_t n = grid_x(), each = ((vocab + n - 1) / n + 3) / 4 * 4, first = block_x() * each;
  return {first, first + each < vocab ? first + each : vocab};
}

/* That of the row, to the block that comes last to it; false: there is another one. */
TL_DEVICE bool best_of_parts(const tl_cuda_sample_args &a, const float *logits, sample_shared *s, uint64_t *ret) {
  uint32_t n = grid_x(), row = block_y();
  stretch own = part_of(a.vocab);
  *ret = best_rank(logits, own.first, own.end, s);
  if (n == 1) return true;
  uint64_t *parts = a.best + (uint64_t)row * n;
  if (thread_index() == 0) parts[block_x()] = *ret;
  if (!comes_last(&a.arrived[row], n, &s->is_last)) return false;
  *ret = warp_least(lane_index() < n ? parts[lane_index()] : NO_CUT);
  return true;
}

TL_DEVICE uint64_t inclusive_sum(uint64_t v) {
  for (unsigned step = 1; step < 32; step *= 2) {
    uint64_t left = shuffle(v, (lane_index() - step) % 32);
    if (lane_index() >= step) v += left;
  }
  return v;
}

/* Of all threads' values, in their order, the sum of those before this one's, and of all. Barriers as in block_sum. */
struct running {
  uint64_t before, total;
};

TL_DEVICE running block_running(uint64_t own, sample_shared *s) {
  uint64_t sum = inclusive_sum(own);
  if (lane_index() == 31) s->per_warp[warp_index()] = sum;
  sync_block();
  running r = {sum - own, 0};
  for (unsigned i = 0; i < WARPS; i++) {
    r.before += i < warp_index() ? s->per_warp[i] : 0;
    r.total += s->per_warp[i];
  }
  sync_block();
  return r;
}

/* The weight of a token that the filters keep. */
TL_DEVICE uint64_t kept_weight(const view &v, float logit, uint32_t token, uint64_t cut, float min_p) {
  float e = expf(distance_of(v, logit));
  return rank_of(v, logit, token) <= cut && e >= min_p ? tl_cuda_weight(e) : 0;
}

TL_DEVICE uint64_t mass_of(const view &v, sample_shared *s) {
  uint64_t sum = 0;
  each_logit(v.logits, v.vocab, [&](float logit, uint32_t token) { sum += kept_weight(v, logit, token, NO_CUT, 0); });
  return block_sum(sum, s->per_warp, WARPS);
}

/* --- selection --------------------------------------------------------------------------------- */

/* The bins that are this thread's to sum up. */
#define OWN_BINS (TL_CUDA_BINS / THREADS)

TL_DEVICE uint64_t sum_of_bins(const sample_shared *s) {
  uint64_t own = 0;
  TL_UNROLL for (uint32_t i = 0; i < OWN_BINS; i++) own += s->bins[thread_index() * OWN_BINS + i];
  return own;
}

/* The first bin at which the sum reaches target >= 1, which it does; before, own: of this thread's bins. */
TL_DEVICE void find_bin(uint64_t target, uint64_t before, uint64_t own, sample_shared *s) {
  if (before < target && target <= before + own) {
    uint32_t bin = thread_index() * OWN_BINS;
    while (before + s->bins[bin] < target) before += s->bins[bin++];
    s->found_bin = bin;
    s->found_sum = before;
    s->found_amount = s->bins[bin];
  }
  sync_block();
}

/* What a prefix of a row's tokens is to have so much of: 1 for each token, or the weight, where `base` keeps it. */
struct measure {
  bool by_weight;
  uint64_t base;
  double wanted; /* of tokens so many; of weights this share of all */
};

TL_DEVICE uint64_t amount_of(const view &v, const measure &m, float logit, uint32_t token) {
  return m.by_weight ? kept_weight(v, logit, token, m.base, 0) : 1;
}

/* The first level, of a stretch from `first` (4) on. */
TL_DEVICE void count_distances(const view &v, const measure &m, uint32_t first, uint32_t end, sample_shared *s) {
  for (uint32_t i = thread_index(); i < TL_CUDA_BINS; i += THREADS) s->bins[i] = 0;
  sync_block();
  each_logit(v.logits + first, end - first, [&](float logit, uint32_t i) {
    uint64_t amount = amount_of(v, m, logit, first + i);
    if (amount) atomic_add(&s->bins[tl_cuda_bin(distance_of(v, logit))], amount);
  });
  sync_block();
}

/* Its rest where the bin that was found has few tokens, as it mostly has; else false. */
TL_DEVICE bool find_among_few(const view &v, const measure &m, uint64_t target, sample_shared *s) {
  if (thread_index() == 0) s->n_few = 0;
  sync_block();
  each_logit(v.logits, v.vocab, [&](float logit, uint32_t token) {
    if (tl_cuda_bin(distance_of(v, logit)) != s->found_bin) return;
    uint32_t at = atomic_take(&s->n_few);
    if (at < MOST_FEW) s->few[at] = {rank_of(v, logit, token), amount_of(v, m, logit, token)};
  });
  sync_block();
  if (s->n_few > MOST_FEW) return false;
  if (thread_index() < s->n_few) {
    few_token mine = s->few[thread_index()];
    uint64_t before = 0;
    for (uint32_t i = 0; i < s->n_few; i++) before += s->few[i].rank < mine.rank ? s->few[i].amount : 0;
    if (before < target && target <= before + mine.amount) s->found_rank = mine.rank;
  }
  sync_block();
  return true;
}

/* Its rest, digit by digit. */
TL_DEVICE uint64_t find_by_digits(const view &v, const measure &m, uint64_t target, sample_shared *s) {
  uint32_t first_bin = s->found_bin;
  uint64_t prefix = 0; /* digits of the rank that were found */
  for (int level = 1; level < TL_CUDA_LEVELS; level++) {
    uint32_t shift = tl_cuda_level_shift(level), bits = tl_cuda_level_bits(level);
    for (uint32_t i = thread_index(); i < TL_CUDA_BINS; i += THREADS) s->bins[i] = 0;
    sync_block();
    each_logit(v.logits, v.vocab, [&](float logit, uint32_t token) {
      uint64_t rank = rank_of(v, logit, token);
      if (tl_cuda_bin(distance_of(v, logit)) != first_bin || (level > 1 && rank >> (shift + bits) != prefix)) return;
      uint64_t amount = amount_of(v, m, logit, token);
      if (amount) atomic_add(&s->bins[(uint32_t)(rank >> shift) & ((1u << bits) - 1)], amount);
    });
    sync_block();
    uint64_t own = sum_of_bins(s);
    find_bin(target, block_running(own, s).before, own, s);
    target -= s->found_sum;
    prefix = prefix << bits | s->found_bin;
    /* nothing of the bin is left out: its tokens need not be told apart */
    if (level >= TL_CUDA_VALUE_LEVELS - 1 && s->found_amount == target) return ((prefix + 1) << shift) - 1;
  }
  return prefix;
}

/* With the first level counted: the rank of the last token of the shortest prefix that has what is wanted. */
TL_DEVICE uint64_t find_rank(const view &v, const measure &m, sample_shared *s) {
  uint64_t own = sum_of_bins(s);
  running sums = block_running(own, s);
  uint64_t target = (uint64_t)(m.by_weight ? m.wanted * (double)sums.total : m.wanted);
  if (target == 0) target = 1;
  find_bin(target, sums.before, own, s);
  target -= s->found_sum;
  return find_among_few(v, m, target, s) ? s->found_rank : find_by_digits(v, m, target, s);
}

TL_DEVICE uint64_t select_rank(const view &v, const measure &m, sample_shared *s) {
  count_distances(v, m, 0, v.vocab, s);
  return find_rank(v, m, s);
}

/* --- log-probabilities ---------------------------------------------------------------------------- */

/* The n best of the raw logits, in order, into s->top. */
TL_DEVICE void find_top(const view &v, uint32_t n, sample_shared *s) {
  uint64_t cut = select_rank(v, {false, NO_CUT, (double)n}, s);
  if (thread_index() == 0) s->n_top = 0;
  sync_block();
  each_logit(v.logits, v.vocab, [&](float logit, uint32_t token) {
    uint64_t rank = rank_of(v, logit, token);
    if (rank <= cut) s->top[atomic_take(&s->n_top)] = {rank, logit};
  });
  sync_block();
}

TL_DEVICE void write_top(const sample_shared *s, double log_sum, tl_sampled *out) {
  if (thread_index() >= s->n_top) return;
  top_token mine = s->top[thread_index()];
  uint32_t place = 0;
  for (uint32_t i = 0; i < s->n_top; i++) place += s->top[i].rank < mine.rank;
  out->top_tokens[place] = (int32_t)(uint32_t)mine.rank;
  out->top_logprobs[place] = (float)((double)mine.logit - log_sum);
}

/* --- changes of logits -------------------------------------------------------------------------------- */

/* Penalties, then biases; what the logits were goes to `saved`. */
TL_DEVICE void edit(const tl_cuda_sample_args &a, const tl_cuda_sampling &row, float *logits) {
  const tl_token_count *history = a.history + row.first_history;
  const tl_token_bias *bias = a.bias + row.first_bias;
  float *saved = a.saved + row.first_history, *saved_bias = a.saved + a.n_history + row.first_bias;
  for (uint32_t i = thread_index(); i < row.n_bias; i += THREADS) saved_bias[i] = logits[bias[i].token];
  for (uint32_t i = thread_index(); i < row.n_history; i += THREADS) saved[i] = logits[history[i].token];
  sync_block();
  for (uint32_t i = thread_index(); i < row.n_history; i += THREADS) {
    float logit = logits[history[i].token];
    if (row.repetition_penalty != 1) logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    if (history[i].n_generated) logit -= row.presence_penalty + row.frequency_penalty * (float)history[i].n_generated;
    logits[history[i].token] = logit;
  }
  sync_block();
  for (uint32_t i = thread_index(); i < row.n_bias; i += THREADS) atomic_add(&logits[bias[i].token], bias[i].bias);
  sync_block();
}

/* What the mask forbids becomes impossible. Nothing is saved: no such token is chosen. */
TL_DEVICE void forbid(const uint32_t *mask, float *logits, uint32_t vocab) {
  uint32_t i = thread_index() * 4;
  for (; i + 4 <= vocab; i += THREADS * 4) {
    uint32_t bits = mask[i / 32] >> i % 32 & 15;
    if (bits == 15) continue;
    quad four = bits ? load16(logits + i) : quad{};
    TL_UNROLL for (uint32_t k = 0; k < 4; k++) four.w[k] = bits >> k & 1 ? four.w[k] : NEVER;
    store16(logits + i, four);
  }
  for (uint32_t k = 0; k < 4 && i + k < vocab; k++)
    if (!(mask[(i + k) / 32] >> (i + k) % 32 & 1)) logits[i + k] = as_float(NEVER);
  sync_block();
}

/* The logit of a token before `edit`. */
TL_DEVICE float raw_logit(const tl_cuda_sample_args &a, const tl_cuda_sampling &row, const float *logits, int32_t token,
                          sample_shared *s) {
  if (thread_index() == 0) s->raw = logits[token];
  sync_block();
  if (row.target >= 0) return s->raw; /* nothing was changed */
  for (uint32_t i = thread_index(); i < row.n_history; i += THREADS)
    if (a.history[row.first_history + i].token == token) s->raw = a.saved[row.first_history + i];
  for (uint32_t i = thread_index(); i < row.n_bias; i += THREADS)
    if (a.bias[row.first_bias + i].token == token) s->raw = a.saved[a.n_history + row.first_bias + i];
  sync_block();
  return s->raw;
}

/* --- the first kernel: what most rows want ---------------------------------------------------------------- */

TL_DEVICE bool is_finite(uint64_t best) {
  float value = tl_cuda_key_value((uint32_t)(best >> 32));
  return value - value == 0; /* a NaN has the key of one */
}

/* The chosen token, after the changes; -1: the mask leaves none, or what it leaves are no numbers. Or *ret: it is still to be drawn. */
TL_DEVICE int32_t choose(const tl_cuda_sample_args &a, const tl_cuda_sampling &row, float *logits, uint64_t best, sample_shared *s,
                         tl_cuda_left *ret) {
  if (row.target >= 0) return row.target;
  if (row.n_history || row.n_bias) edit(a, row, logits);
  if (row.mask) forbid(a.masks + (uint64_t)(row.mask - 1) * TL_MASK_WORDS(a.vocab), logits, a.vocab);
  if (row.n_history || row.n_bias || row.mask) best = best_rank(logits, 0, a.vocab, s);
  float max = tl_cuda_key_value((uint32_t)(best >> 32));
  if (row.mask && !(max > -INFINITY)) return -1;
  if (row.temperature <= 0 || !is_finite(best)) return max != max ? 0 : (int32_t)(uint32_t)best;
  *ret = {NO_CUT, ret->log_sum, max, 1};
  return -1;
}

/* By all threads. */
TL_DEVICE void give(const tl_cuda_sample_args &a, const tl_cuda_sampling &row, const float *logits, int32_t token, double log_sum,
                    sample_shared *s) {
  float logit = row.n_top >= 0 && token >= 0 ? raw_logit(a, row, logits, token, s) : 0;
  if (thread_index() != 0) return;
  row.out->token = a.fed[block_y()] = token;
  row.out->logprob = row.n_top >= 0 ? (float)((double)logit - log_sum) : 0;
}

/* While the logits are still being made. There for all threads after the next barrier. */
TL_DEVICE void take_row(const tl_cuda_sampling *from, tl_cuda_sampling *to) {
  static_assert(sizeof *to % 4 == 0 && sizeof *to / 4 <= THREADS, "a word for each thread");
  uint32_t i = thread_index();
  if (i < sizeof *to / 4) ((uint32_t *)to)[i] = load_early((const uint32_t *)from + i);
}

TL_KERNEL(THREADS, 1) sample(tl_cuda_sample_args a) {
  sample_shared *s = (sample_shared *)shared_memory();
  const uint32_t index = block_y();
  const tl_cuda_sampling &row = s->row;
  take_row(&a.rows[index], &s->row);
  wait_for_before();
  float *logits = a.logits + (uint64_t)index * a.ld;
  uint64_t best;
  if (!best_of_parts(a, logits, s, &best) || !row.out) return;
  tl_cuda_left left = {};
  int32_t token = -1;
  if (is_finite(best)) {
    view raw = {logits, a.vocab, tl_cuda_key_value((uint32_t)(best >> 32)), 1, true};
    uint32_t n_top = row.n_top < 0 ? 0 : (uint32_t)row.n_top < a.vocab ? (uint32_t)row.n_top : a.vocab;
    if (row.n_top >= 0) left.log_sum = (double)raw.max + log((double)mass_of(raw, s)) - 30.498475944637594; /* ln 2^44 */
    if (n_top) find_top(raw, n_top, s);
    if (n_top) write_top(s, left.log_sum, row.out);
    if (thread_index() == 0) row.out->n_top = (int32_t)n_top;
    token = choose(a, row, logits, best, s, &left);
  }
  if (!left.draws) give(a, row, logits, token, left.log_sum, s);
  if (thread_index() == 0) a.left[index] = left;
}

/* --- the second kernel: the filters ------------------------------------------------------------------------ */

/* The bins of all blocks that share the row, to the one that comes last to it; false: there is another one. */
TL_DEVICE bool gather_bins(const tl_cuda_sample_args &a, sample_shared *s) {
  uint64_t *all = a.bins + (uint64_t)block_y() * TL_CUDA_BINS;
  if (grid_x() == 1) return true;
  for (uint32_t i = thread_index(); i < TL_CUDA_BINS; i += THREADS)
    if (s->bins[i]) atomic_add(&all[i], s->bins[i]);
  if (!comes_last(&a.arrived[block_y()], grid_x(), &s->is_last)) return false;
  for (uint32_t i = thread_index(); i < TL_CUDA_BINS; i += THREADS) {
    s->bins[i] = all[i];
    all[i] = 0;
  }
  sync_block();
  return true;
}

/* The rows that the first kernel left, and that have a filter. */
TL_KERNEL(THREADS, 1) narrow(tl_cuda_sample_args a) {
  sample_shared *s = (sample_shared *)shared_memory();
  const tl_cuda_sampling &row = s->row;
  tl_cuda_left *left = &a.left[block_y()];
  take_row(&a.rows[block_y()], &s->row);
  wait_for_before();
  sync_block();
  if (!row.out || !left->draws) return;
  bool of_tokens = row.top_k > 0 && (uint32_t)row.top_k < a.vocab;
  if (!of_tokens && row.top_p >= 1) return;
  view v = {a.logits + (uint64_t)block_y() * a.ld, a.vocab, left->max, row.temperature, false};
  measure m = {!of_tokens, NO_CUT, of_tokens ? (double)row.top_k : (double)row.top_p};
  stretch own = part_of(a.vocab);
  count_distances(v, m, own.first, own.end, s);
  if (!gather_bins(a, s)) return;
  uint64_t cut = find_rank(v, m, s);
  if (of_tokens && row.top_p < 1) cut = select_rank(v, {true, cut, row.top_p}, s);
  if (thread_index() == 0) left->cut = cut;
}

/* --- the third kernel: the draw -------------------------------------------------------------------------------- */

/* Of the tokens from `first` (4) on the weights, for each warp's stretch, to sums (WARPS). */
TL_DEVICE void sum_stretches(const view &v, uint64_t cut, float min_p, uint32_t first, uint32_t stretch, uint64_t *sums) {
  uint32_t from = first + warp_index() * stretch, to = from + stretch < v.vocab ? from + stretch : v.vocab;
  uint64_t sum = 0;
  for (uint32_t i = from + lane_index() * 4; i < to; i += 32 * 4) {
    quad four = load16(v.logits + i); /* a row ends on 16 bytes */
    TL_UNROLL for (uint32_t k = 0; k < 4; k++)
      if (i + k < to) sum += kept_weight(v, as_float(four.w[k]), i + k, cut, min_p);
  }
  sum = warp_sum(sum);
  if (lane_index() == 0) sums[warp_index()] = sum;
}

/* The token at which the running sum of n stretches exceeds the target, which is below the whole. */
TL_DEVICE int32_t pick(const view &v, uint64_t cut, float min_p, uint32_t random24, const uint64_t *sums, uint32_t n, uint32_t stretch,
                       sample_shared *s) {
  uint32_t i = thread_index(), each = (stretch + THREADS - 1) / THREADS;
  uint64_t own = i < n ? sums[i] : 0;
  running r = block_running(own, s);
  uint64_t target = tl_cuda_target(random24, r.total);
  if (r.before <= target && target < r.before + own) {
    s->found_bin = i;
    s->found_sum = r.before;
  }
  sync_block();
  uint32_t from = s->found_bin * stretch, to = from + stretch < v.vocab ? from + stretch : v.vocab;
  target -= s->found_sum;
  auto weight = [&](uint32_t token) { return token < to ? kept_weight(v, v.logits[token], token, cut, min_p) : 0; };
  uint32_t token = from + i * each, end = token + each;
  own = 0;
  for (uint32_t k = token; k < end; k++) own += weight(k);
  uint64_t before = block_running(own, s).before;
  if (before <= target && target < before + own) {
    while ((before += weight(token)) <= target) token++;
    s->token = (int32_t)token;
  }
  sync_block();
  return s->token;
}

/* The rows that the first kernel left. A token by its weight, in order of ids. */
TL_KERNEL(THREADS, 1) draw(tl_cuda_sample_args a) {
  sample_shared *s = (sample_shared *)shared_memory();
  const uint32_t index = block_y(), n_parts = grid_x(), stretch = (a.vocab + n_parts * WARPS * 4 - 1) / (n_parts * WARPS * 4) * 4;
  const tl_cuda_sampling &row = s->row;
  take_row(&a.rows[index], &s->row);
  wait_for_before();
  sync_block();
  if (!row.out) return;
  const tl_cuda_left left = a.left[index];
  if (!left.draws) return;
  view v = {a.logits + (uint64_t)index * a.ld, a.vocab, left.max, row.temperature, false};
  float min_p = row.min_p < 1 ? row.min_p : 1; /* the best weighs 1 and stays */
  uint64_t *sums = a.sums + (uint64_t)index * n_parts * WARPS;
  sum_stretches(v, left.cut, min_p, block_x() * WARPS * stretch, stretch, sums + block_x() * WARPS);
  if (!comes_last(&a.arrived[index], n_parts, &s->is_last)) return;
  int32_t token = pick(v, left.cut, min_p, tl_cuda_random24(row.seed, row.position), sums, n_parts * WARPS, stretch, s);
  give(a, row, v.logits, token, left.log_sum, s);
}

/* Blocks that share a row: all at once on the device, with something to do for each. */
static uint32_t parts_of(const tl_cuda_sample_args *args) {
  uint32_t each = args->n_multiprocessors / args->n, most = (args->vocab + TL_CUDA_SAMPLE_PART - 1) / TL_CUDA_SAMPLE_PART;
  most = most < MOST_PARTS ? most : MOST_PARTS;
  return each < 1 ? 1 : each < most ? each : most;
}

extern "C" int tl_cuda_sample(const struct tl_cuda_sample_args *args, void *stream) {
  if (args->ld % 4 || args->ld < args->vocab || args->vocab == 0 || args->vocab >= 1u << 19) return CUDA_INVALID;
  void (*const kernels[])(tl_cuda_sample_args) = {sample, narrow, draw}; /* by stage */
  return args->n ? launch_rows(args->n, kernels[args->stage], parts_of(args), args->n, THREADS, sizeof(sample_shared), stream, *args) : 0;
}
