/* SPDX-License-Identifier: MIT */
/* Which tokens may follow a state that many may follow, found when the grammar is compiled: the vocabulary in the order
 * of its bytes, where one look is enough for all tokens that begin with what does not fit. Most states are between
 * names, quotes and brackets, where little fits: those are cheaper to follow when a matcher is there, which few ever are,
 * than to be looked at in advance. */
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_build.h"
#include "tokenlane/base/hash.h"

struct first {
  uint64_t bytes[4]; /* a bit each */
};

/* What came of a first byte and the state that it leads to; it is the same wherever that byte leads there. */
struct known {
  uint64_t key; /* 0: free */
  uint32_t tokens, n_tokens, left, n_left; /* of all that is known */
  uint32_t depth;
};

struct masks {
  struct tl_grammar *grammar;
  const struct tl_vocabulary *vocabulary;
  uint64_t *fuel, part; /* part: of the fuel, that masks may use */
  size_t max_bytes;
  struct first *first;  /* (rules) bytes that a rule may begin with, */
  struct first *follow; /* (rules) and that its callers may go on with */
  struct gr_walk walk;
  struct gr_trail trail; /* of the token at hand */
  struct gr_left *left;
  uint32_t n_left, left_capacity;
  bool *shared;             /* (states) several lead there: worth to be known */
  struct known *known;      /* (n_slots, a power of two) by key */
  uint32_t n_slots, n_known;
  uint32_t *known_tokens;
  struct gr_left *known_left;
  uint32_t n_known_tokens, known_tokens_capacity, n_known_left, known_left_capacity;
  uint32_t n_tokens, tokens_capacity, n_words, words_capacity, n_rests, rests_capacity;
  int failed;
};

static void fail(struct masks *m, int code) {
  if (!m->failed) m->failed = code;
}

/* --- first bytes ----------------------------------------------------------------------------------- */

static bool has(const struct first *of, uint8_t byte) {
  return of->bytes[byte / 64] >> byte % 64 & 1;
}

/* True: something is new. */
static bool join(struct first *to, const struct first *from) {
  bool more = false;
  for (unsigned i = 0; i < 4; i++) {
    more |= (from->bytes[i] & ~to->bytes[i]) != 0;
    to->bytes[i] |= from->bytes[i];
  }
  return more;
}

static void add_range(struct first *to, unsigned low, unsigned high) {
  for (unsigned byte = low; byte <= high; byte++) to->bytes[byte / 64] |= 1ull << byte % 64;
}

/* Bytes that a state may go on with, calls included. first: (rules) as far as known. */
static struct first first_of(const struct tl_grammar *g, uint32_t state, const struct first *first) {
  struct first of = {{0}};
  for (uint32_t i = g->states[state].steps; i < g->states[state + 1].steps; i++) add_range(&of, g->steps[i].low, g->steps[i].high);
  for (uint32_t i = g->states[state].calls; i < g->states[state + 1].calls; i++) join(&of, &first[g->calls[i].rule]);
  return of;
}

static struct first first_of_rule(const struct tl_grammar *g, uint32_t rule, const struct first *first) {
  struct first of = {{0}};
  if (g->rules[rule].entry != GR_BODY) return first_of(g, g->rules[rule].entry, first);
  for (unsigned byte = 0; byte < 256; byte++)
    if (g->vocabulary->body_next[GR_BODY][byte] != GR_DEAD) of.bytes[byte / 64] |= 1ull << byte % 64;
  return of;
}

/* Rules call one another: until nothing is new. */
static void find_first(struct masks *m) {
  const struct tl_grammar *g = m->grammar;
  for (bool more = true; more && !m->failed;) {
    more = false;
    if (!gr_spend(m->fuel, GR_COST_FIRST * (uint64_t)g->n_rules)) fail(m, TL_ELIMIT);
    for (uint32_t i = g->n_rules; i-- > 0;) {
      struct first of = first_of_rule(g, i, m->first);
      more |= join(&m->first[i], &of);
    }
  }
}

/* What may come behind a call, and where that may be nothing, behind the rule that calls: these pairs of rules are listed. */
static void find_follow(struct masks *m) {
  const struct tl_grammar *g = m->grammar;
  uint32_t n_calls = g->states[g->n_states].calls, n = 0;
  struct gr_called *last = malloc((n_calls + 1) * sizeof *last); /* back: the calling rule */
  if (!last) fail(m, TL_ENOMEM);
  if (!gr_spend(m->fuel, GR_COST_FIRST * (uint64_t)n_calls)) fail(m, TL_ELIMIT);
  for (uint32_t state = GR_BODIES; state < g->n_states && !m->failed; state++) {
    for (uint32_t i = g->states[state].calls; i < g->states[state + 1].calls; i++) {
      struct gr_called called = g->calls[i];
      struct first of = first_of(g, called.back, m->first);
      join(&m->follow[called.rule], &of);
      if (g->states[called.back].accepts) last[n++] = (struct gr_called){called.rule, g->states[state].rule};
    }
  }
  for (bool more = true; more && !m->failed;) {
    more = false;
    if (!gr_spend(m->fuel, 2 * (uint64_t)n)) fail(m, TL_ELIMIT);
    for (uint32_t i = 0; i < n; i++) more |= join(&m->follow[last[i].rule], &m->follow[last[i].back]);
  }
  free(last);
}

/* --- a state ------------------------------------------------------------------------------------------ */

/* Sorted token i, of which n bytes are gone. */
static void add_left(struct masks *m, uint32_t i, uint32_t n) {
  const struct tl_vocabulary *v = m->vocabulary;
  if (!gr_spend(m->fuel, GR_COST_EDGE)) fail(m, TL_ELIMIT);
  if (!gr_grow(&m->left, &m->left_capacity, m->n_left, 1, sizeof *m->left)) fail(m, TL_ENOMEM);
  if (m->failed) return;
  m->left[m->n_left++] =
      (struct gr_left){.at = v->start[i] + n, .token = v->sorted[i], .length = (uint8_t)(v->start[i + 1] - v->start[i] - n)};
}

/* Sorted token i has failed after `n` bytes, and so will all up to the one that is returned; where its rule might have
 * ended before, these leave the rest to the rule's callers. */
static uint32_t leave(struct masks *m, uint32_t i, uint32_t n, const struct first *follow) {
  const struct tl_vocabulary *v = m->vocabulary;
  uint32_t next = gr_skip(v, i, n + 1);
  for (uint32_t k = 1; k <= n; k++) {
    if (!m->trail.sets[k].accepts || !has(follow, (uint8_t)v->bytes[v->start[i] + k])) continue;
    for (uint32_t j = i; j < next && !m->failed; j++) add_left(m, j, k);
  }
  return next;
}

/* Sorted tokens from i to end; there is room for them. */
static void follow_tokens(struct masks *m, uint32_t i, uint32_t end, const struct first *follow) {
  const struct tl_vocabulary *v = m->vocabulary;
  struct tl_grammar *g = m->grammar;
  while (i < end && !m->failed) {
    uint32_t length = v->start[i + 1] - v->start[i], n = v->common[i];
    uint64_t work = m->walk.work;
    uint32_t looked_at = length - n;
    n = gr_trail_follow(&m->trail, v->bytes + v->start[i], n, length);
    if (!gr_spend(m->fuel, 1 + looked_at + 4 * (m->walk.work - work))) fail(m, TL_ELIMIT);
    if (n == length) {
      g->tokens[m->n_tokens++] = v->sorted[i++];
    } else {
      i = leave(m, i, n, follow);
    }
  }
}

/* --- what is known --------------------------------------------------------------------------------------- */

static int find_shared(struct masks *m) {
  const struct tl_grammar *g = m->grammar;
  uint32_t *from = calloc(g->n_states, sizeof *from); /* the last state that led to each */
  m->shared = calloc(g->n_states, sizeof *m->shared);
  for (uint32_t i = GR_BODIES; i < g->n_states && from && m->shared; i++) {
    for (uint32_t k = g->states[i].steps; k < g->states[i + 1].steps; k++) {
      uint32_t to = g->steps[k].to;
      m->shared[to] = m->shared[to] || (from[to] && from[to] != i);
      from[to] = i;
    }
  }
  bool enough = from && m->shared;
  free(from);
  return enough ? TL_OK : TL_ENOMEM;
}

static struct known *find_known(struct known *slots, uint32_t n_slots, uint64_t key) {
  uint32_t at = (uint32_t)tl_hash_u64(key) & (n_slots - 1);
  while (slots[at].key && slots[at].key != key) at = (at + 1) & (n_slots - 1);
  return &slots[at];
}

static void grow_known(struct masks *m) {
  uint32_t n = m->n_slots ? m->n_slots * 2 : 256;
  struct known *slots = calloc(n, sizeof *slots);
  if (!slots) {
    fail(m, TL_ENOMEM);
    return;
  }
  for (uint32_t i = 0; i < m->n_slots; i++)
    if (m->known[i].key) *find_known(slots, n, m->known[i].key) = m->known[i];
  free(m->known);
  m->known = slots;
  m->n_slots = n;
}

/* What has been found since there were n_tokens and n_left. */
static void keep_known(struct masks *m, uint64_t key, uint32_t n_tokens, uint32_t n_left) {
  struct known known = {key, m->n_known_tokens, m->n_tokens - n_tokens, m->n_known_left, m->n_left - n_left, m->walk.deepest};
  if (m->n_known * 2 >= m->n_slots) grow_known(m);
  if (!gr_spend(m->fuel, GR_COST_STATE + known.n_tokens + GR_COST_EDGE / 2 * (uint64_t)known.n_left)) fail(m, TL_ELIMIT);
  if (!gr_grow(&m->known_tokens, &m->known_tokens_capacity, known.tokens, known.n_tokens, sizeof *m->known_tokens) ||
      !gr_grow(&m->known_left, &m->known_left_capacity, known.left, known.n_left, sizeof *m->known_left))
    fail(m, TL_ENOMEM);
  if (m->failed) return;
  if (known.n_tokens) memcpy(m->known_tokens + known.tokens, m->grammar->tokens + n_tokens, known.n_tokens * sizeof *m->known_tokens);
  if (known.n_left) memcpy(m->known_left + known.left, m->left + n_left, known.n_left * sizeof *m->known_left);
  m->n_known_tokens += known.n_tokens;
  m->n_known_left += known.n_left;
  *find_known(m->known, m->n_slots, key) = known;
  m->n_known++;
}

static void use_known(struct masks *m, const struct known *known) {
  if (!gr_spend(m->fuel, 1 + known->n_tokens / 8 + known->n_left)) fail(m, TL_ELIMIT);
  if (!gr_grow(&m->left, &m->left_capacity, m->n_left, known->n_left, sizeof *m->left)) fail(m, TL_ENOMEM);
  if (m->failed) return;
  if (known->n_tokens) memcpy(m->grammar->tokens + m->n_tokens, m->known_tokens + known->tokens, known->n_tokens * sizeof *m->known_tokens);
  if (known->n_left) memcpy(m->left + m->n_left, m->known_left + known->left, known->n_left * sizeof *m->left);
  m->n_tokens += known->n_tokens;
  m->n_left += known->n_left;
  if (known->depth > m->walk.deepest) m->walk.deepest = known->depth;
}

/* Tokens that begin with the bytes of a step. */
static void follow_step(struct masks *m, const struct gr_step *step, const struct first *follow) {
  const struct tl_vocabulary *v = m->vocabulary;
  if (!m->shared[step->to]) {
    follow_tokens(m, v->first[step->low], v->first[step->high + 1], follow);
    return;
  }
  for (unsigned byte = step->low; byte <= step->high && !m->failed; byte++) {
    uint64_t key = (uint64_t)step->to << 8 | byte; /* no state below GR_BODIES is led to: it is not 0 */
    const struct known *known = m->n_slots ? find_known(m->known, m->n_slots, key) : NULL;
    uint32_t n_tokens = m->n_tokens, n_left = m->n_left;
    if (known && known->key) {
      use_known(m, known);
      continue;
    }
    follow_tokens(m, v->first[byte], v->first[byte + 1], follow);
    if (!m->failed) keep_known(m, key, n_tokens, n_left);
  }
}

/* --- masks ------------------------------------------------------------------------------------------------ */

/* Tokens that are many become bits. */
static void keep_tokens(struct masks *m, struct gr_mask *mask) {
  struct tl_grammar *g = m->grammar;
  uint32_t n_words = m->vocabulary->n_words;
  mask->words = GR_NONE;
  if (mask->n_tokens < m->vocabulary->many) return;
  if (!gr_grow(&g->words, &m->words_capacity, m->n_words, n_words, sizeof *g->words)) fail(m, TL_ENOMEM);
  if (m->failed) return;
  mask->words = m->n_words;
  memset(g->words + m->n_words, 0, n_words * sizeof *g->words);
  for (uint32_t i = 0; i < mask->n_tokens; i++) {
    uint32_t token = g->tokens[mask->tokens + i];
    g->words[m->n_words + token / 32] |= 1u << token % 32;
  }
  m->n_words += n_words;
  m->n_tokens = mask->tokens; /* the list is not needed */
}

static void keep_rests(struct masks *m, struct gr_mask *mask) {
  struct tl_grammar *g = m->grammar;
  if (m->n_left == 0) return;
  if (!gr_grow(&g->rests, &m->rests_capacity, m->n_rests, m->n_left, sizeof *g->rests) ||
      !gr_grow(&g->tokens, &m->tokens_capacity, m->n_tokens, m->n_left, sizeof *g->tokens)) {
    fail(m, TL_ENOMEM);
    return;
  }
  struct gr_rest *rests = g->rests + m->n_rests;
  mask->rests = m->n_rests;
  mask->n_rests = gr_rests_group(m->vocabulary, m->left, m->n_left, rests, g->tokens + m->n_tokens, NULL);
  for (uint32_t i = 0; i < mask->n_rests; i++) rests[i].tokens += m->n_tokens;
  m->n_rests += mask->n_rests;
  m->n_tokens += m->n_left;
}

/* --- which states are wide ------------------------------------------------------------------------------- */

static uint64_t count_pairs(const struct masks *m, uint8_t byte, const struct first *seconds) {
  const uint32_t *pairs = m->vocabulary->pairs + byte * 257u;
  uint64_t n = 0;
  for (unsigned i = 0; i < 4; i++) {
    for (uint64_t bytes = seconds->bytes[i]; bytes; bytes &= bytes - 1) {
      unsigned second = i * 64 + (unsigned)__builtin_ctzll(bytes);
      n += pairs[second + 1] - pairs[second];
    }
  }
  return n;
}

/* Whether many tokens begin with a byte that fits and then with one that may follow where that leads to. */
static bool is_wide(struct masks *m, uint32_t state) {
  const struct tl_grammar *g = m->grammar;
  uint64_t n = 0;
  for (uint32_t i = g->states[state].steps; i < g->states[state + 1].steps && n <= m->vocabulary->wide && !m->failed; i++) {
    const struct gr_step *step = &g->steps[i];
    struct first seconds = first_of(g, step->to, m->first);
    if (g->states[step->to].accepts) join(&seconds, &m->follow[g->states[step->to].rule]);
    if (!gr_spend(m->fuel, GR_COST_FIRST + (step->high - step->low) * 16u)) fail(m, TL_ELIMIT);
    for (unsigned byte = step->low; byte <= step->high && n <= m->vocabulary->wide; byte++) n += count_pairs(m, (uint8_t)byte, &seconds);
  }
  return n > m->vocabulary->wide;
}

static void build_mask(struct masks *m, uint32_t state) {
  struct tl_grammar *g = m->grammar;
  const struct tl_vocabulary *v = m->vocabulary;
  const struct gr_state *s = &g->states[state];
  struct gr_mask mask = {.made = true, .tokens = m->n_tokens, .words = GR_NONE};
  m->trail.sets[0] = (struct gr_set){.n = 1, .tops = {{state, 0, 0}}};
  m->walk.frames[0] = (struct gr_frame){s->rule, GR_NONE, 0};
  m->walk.n_frames = 1;
  m->walk.n_edges = m->walk.deepest = 0;
  gr_trail_begin(&m->trail);
  m->n_left = 0;
  if (!gr_grow(&g->tokens, &m->tokens_capacity, m->n_tokens, v->n_sorted, sizeof *g->tokens)) fail(m, TL_ENOMEM);
  for (uint32_t i = s->steps; i < s[1].steps && !m->failed; i++)
    follow_step(m, &g->steps[i], &m->follow[s->rule]);
  mask.n_tokens = m->n_tokens - mask.tokens;
  mask.depth = m->walk.deepest;
  if (!m->failed) keep_tokens(m, &mask);
  if (!m->failed) keep_rests(m, &mask);
  g->masks[state] = mask;
  size_t bytes = (size_t)m->n_tokens * 4 + (size_t)m->n_words * 4 + m->n_rests * sizeof *g->rests;
  if (bytes > m->max_bytes) fail(m, TL_ELIMIT);
}

/* A quarter of what is left may go into masks. A state that is too much for that, and all behind it, have none and are followed: that
 * is some milliseconds for each token there, but no grammar is refused for them. */
static void build_masks(struct masks *m) {
  struct tl_grammar *g = m->grammar;
  uint64_t *all = m->fuel;
  m->max_bytes /= 4;
  m->part = *all / 4;
  *all -= m->part;
  m->fuel = &m->part;
  for (uint32_t i = GR_BODIES; i < g->n_states && !m->failed; i++) {
    uint32_t n_tokens = m->n_tokens, n_words = m->n_words, n_rests = m->n_rests;
    if (is_wide(m, i)) build_mask(m, i);
    if (m->failed != TL_ELIMIT) continue;
    g->masks[i] = (struct gr_mask){0};
    m->n_tokens = n_tokens;
    m->n_words = n_words;
    m->n_rests = n_rests;
  }
  if (m->failed == TL_ELIMIT) m->failed = TL_OK;
  *all += m->part;
  m->fuel = all;
}

int gr_masks_build(struct tl_grammar *grammar, uint64_t *fuel, size_t max_bytes) {
  struct masks m = {.grammar = grammar, .vocabulary = grammar->vocabulary, .fuel = fuel, .max_bytes = max_bytes};
  m.first = calloc(grammar->n_rules, sizeof *m.first);
  m.follow = calloc(grammar->n_rules, sizeof *m.follow);
  m.trail = (struct gr_trail){.walk = &m.walk, .sets = malloc((GR_TOKEN_BYTES + 1) * sizeof *m.trail.sets)};
  m.walk = (struct gr_walk){.grammar = grammar, .frames = malloc(GR_FRAMES * sizeof *m.walk.frames),
                            .edges = malloc(GR_EDGES * sizeof *m.walk.edges)};
  grammar->masks = calloc(grammar->n_states, sizeof *grammar->masks);
  if (!m.first || !m.follow || !m.trail.sets || !m.walk.frames || !m.walk.edges || !grammar->masks) fail(&m, TL_ENOMEM);
  if (!m.failed) find_first(&m);
  if (!m.failed) find_follow(&m);
  if (!m.failed) fail(&m, find_shared(&m));
  if (!m.failed) build_masks(&m);
  uint32_t *fitting = m.n_tokens ? realloc(grammar->tokens, m.n_tokens * sizeof *fitting) : NULL;
  if (fitting) grammar->tokens = fitting;
  grammar->bytes += grammar->n_states * sizeof *grammar->masks + (size_t)m.n_tokens * 4 + (size_t)m.words_capacity * 4 +
                    m.rests_capacity * sizeof *grammar->rests;
  free(m.first);
  free(m.follow);
  free(m.trail.sets);
  free(m.walk.frames);
  free(m.walk.edges);
  free(m.left);
  free(m.shared);
  free(m.known);
  free(m.known_tokens);
  free(m.known_left);
  return m.failed;
}
