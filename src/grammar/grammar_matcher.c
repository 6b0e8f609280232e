/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_private.h"

struct tl_matcher {
  struct tl_grammar *grammar; /* held */
  struct gr_walk walk;        /* the sequence's frames */
  struct gr_walk spare;       /* where they go next; without frames meanwhile */
  struct gr_set set;          /* where the sequence is */
  struct gr_set tried, other; /* scratch */
  struct gr_thinking thinking; /* before its text */
  struct gr_trail trail;      /* scratch; the pages of its sets that no token is long enough for are never touched */
};

int tl_matcher_new(struct tl_grammar *grammar, struct tl_matcher **ret, struct tl_error *err) {
  size_t frames = GR_FRAMES * sizeof(struct gr_frame), edges = GR_EDGES * sizeof(struct gr_edge);
  struct tl_matcher *m = malloc(sizeof *m + 2 * (frames + edges));
  if (!m) return tl_error_set(err, TL_ENOMEM, NULL, "no memory to follow a grammar");
  struct gr_set *sets = malloc((GR_TOKEN_BYTES + 1) * sizeof *sets);
  if (!sets) {
    free(m);
    return tl_error_set(err, TL_ENOMEM, NULL, "no memory to follow a grammar");
  }
  char *at = (char *)(m + 1);
  m->walk = (struct gr_walk){.grammar = grammar, .frames = (void *)at, .edges = (void *)(at + frames)};
  at += frames + edges;
  m->spare = (struct gr_walk){.grammar = grammar, .frames = (void *)at, .edges = (void *)(at + frames)};
  m->trail = (struct gr_trail){.walk = &m->walk, .sets = sets};
  m->thinking = (struct gr_thinking){.phase = GR_BOUND};
  m->grammar = tl_grammar_hold(grammar);
  gr_walk_begin(&m->walk, &m->set);
  *ret = m;
  return TL_OK;
}

void tl_matcher_free(struct tl_matcher *matcher) {
  if (!matcher) return;
  tl_grammar_release(matcher->grammar);
  free(matcher->trail.sets);
  free(matcher);
}

static void copy_set(struct gr_set *to, const struct gr_set *from) {
  to->n = from->n;
  to->accepts = from->accepts;
  memcpy(to->tops, from->tops, from->n * sizeof *from->tops);
}

/* m->tried, and what a text makes of it; false: nothing. */
static bool try_bytes(struct tl_matcher *m, const char *bytes, size_t length) {
  uint32_t n_frames = m->walk.n_frames, n_edges = m->walk.n_edges;
  if (gr_walk_bytes(&m->walk, &m->tried, bytes, length, &m->other) == length) return true;
  m->walk.n_frames = n_frames;
  m->walk.n_edges = n_edges;
  return false;
}

static int take_bytes(struct tl_matcher *m, const char *bytes, size_t length) {
  copy_set(&m->tried, &m->set);
  bool taken = try_bytes(m, bytes, length);
  /* it may be that so many ways at once were too many, and the only right one was dropped: each alone */
  for (uint32_t i = 0; !taken && m->set.n > 1 && i < m->set.n; i++) {
    m->tried = (struct gr_set){.n = 1, .tops = {m->set.tops[i]}};
    taken = try_bytes(m, bytes, length);
  }
  if (!taken) return TL_EINVAL;
  copy_set(&m->set, &m->tried);
  for (bool alone = false; !gr_walk_compact(&m->walk, &m->set, alone, &m->spare) && !alone;) {
    /* rather fewer ways to go on than none: the later ones are left out */
    if (m->tried.n > 1) m->tried.n /= 2;
    else alone = true;
    copy_set(&m->set, &m->tried);
  }
  struct gr_walk used = m->walk;
  m->walk = m->spare;
  m->spare = used;
  return TL_OK;
}

static int take_bound(struct tl_matcher *m, int32_t token) {
  const struct tl_vocabulary *v = m->grammar->vocabulary;
  uint32_t place = v->place[token];
  return place == GR_NONE ? TL_EINVAL : take_bytes(m, v->bytes + v->start[place], v->start[place + 1] - v->start[place]);
}

/* --- thoughts ------------------------------------------------------------------------------------ */

void tl_matcher_think(struct tl_matcher *m, const struct tl_thinking *thinking, bool within) {
  gr_thinking_begin(&m->thinking, thinking, within);
}

/* Thoughts have ended with this token, or have begun after all. */
static int begin_anew(struct tl_matcher *m, const struct gr_thinking *then, const char *rest, size_t length) {
  gr_walk_begin(&m->walk, &m->set);
  /* masks leave out tokens with text behind the last mark; if one comes all the same, that text has to be the grammar's */
  if (length && take_bytes(m, rest, length) < 0) return TL_EINVAL;
  m->thinking = *then;
  return TL_OK;
}

static int take_thought(struct tl_matcher *m, int32_t token) {
  struct gr_thinking then = m->thinking;
  const char *rest;
  size_t length;
  enum gr_thought thought = gr_thinking_take(&then, m->grammar->vocabulary, token, &rest, &length);
  if (thought == GR_THOUGHT && then.phase != m->thinking.phase) return begin_anew(m, &then, rest, length);
  if (thought == GR_THOUGHT) {
    m->thinking = then;
    return TL_OK;
  }
  /* as long as it is only the beginning of a mark, it may be the grammar's text as well */
  bool bound = m->thinking.bound_too && take_bound(m, token) == TL_OK;
  if (thought == GR_NO_THOUGHT && !bound) return TL_EINVAL;
  m->thinking = then;
  m->thinking.bound_too = bound;
  if (thought == GR_NO_THOUGHT) m->thinking.phase = GR_BOUND;
  return TL_OK;
}

int tl_matcher_take(struct tl_matcher *m, int32_t token) {
  if (token < 0 || (uint32_t)token >= m->grammar->vocabulary->n) return TL_EINVAL;
  return m->thinking.phase == GR_BOUND ? take_bound(m, token) : take_thought(m, token);
}

/* --- masks --------------------------------------------------------------------------------------- */

static void set_tokens(uint32_t *words, const uint32_t *tokens, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) words[tokens[i] / 32] |= 1u << tokens[i] % 32;
}

static void join_words(uint32_t *words, const uint32_t *more, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) words[i] |= more[i];
}

struct rests {
  const struct gr_rest *rests;
  uint32_t n;
  const uint32_t *tokens;   /* of all of them */
  const uint8_t *chars;     /* NULL, or of a string that must have */
  uint32_t least, most;     /* so many yet */
};

/* Tokens that end the rule of a frame: what they have left must suit its callers. */
static void add_rests(struct tl_matcher *m, uint32_t frame, const struct rests *rests, uint32_t *words) {
  const char *bytes = m->grammar->vocabulary->bytes;
  uint32_t n_frames = m->walk.n_frames, n_edges = m->walk.n_edges, failed_at = UINT32_MAX;
  gr_walk_callers(&m->walk, frame, &m->trail.sets[0]);
  gr_trail_begin(&m->trail);
  for (uint32_t i = 0; i < rests->n && m->walk.work < GR_WORK; i++) {
    const struct gr_rest *rest = &rests->rests[i];
    if (i && rest->common > failed_at) continue; /* it begins like the one before as far as that failed */
    uint32_t n = gr_trail_follow(&m->trail, bytes + rest->at, 0, rest->length);
    failed_at = n < rest->length ? n : UINT32_MAX;
    for (uint32_t k = rest->tokens; n == rest->length && k < rest->tokens + rest->n_tokens; k++) {
      if (rests->chars && (rests->chars[k] < rests->least || rests->chars[k] > rests->most)) continue;
      words[rests->tokens[k] / 32] |= 1u << rests->tokens[k] % 32;
    }
  }
  m->walk.n_frames = n_frames;
  m->walk.n_edges = n_edges;
}

/* Within a string, which has `count` characters now. */
static void add_body(struct tl_matcher *m, struct gr_top top, uint32_t *words) {
  const struct tl_vocabulary *v = m->grammar->vocabulary;
  const struct gr_body *body = &v->bodies[top.state];
  const struct gr_ruled *rule = &m->grammar->rules[m->walk.frames[top.frame].rule];
  uint32_t room = rule->max - top.count, most = room < GR_TOKEN_BYTES ? room : GR_TOKEN_BYTES, n = body->up_to[most], from = 0;
  if (body->levels) {
    uint32_t level = most < GR_LEVELS - 1 ? most : GR_LEVELS - 2;
    if (n == body->n_tokens) level = GR_LEVELS - 1;
    join_words(words, body->levels + (size_t)level * v->n_words, v->n_words);
    from = level == GR_LEVELS - 1 ? n : body->up_to[level];
  }
  set_tokens(words, body->tokens + from, n - from);
  uint32_t whole = rule->min > 1 ? rule->min : 1; /* where it began it was passed over, if that is allowed */
  struct rests rests = {body->rests, body->n_rests, body->rest_tokens, body->rest_chars, whole > top.count ? whole - top.count : 0, most};
  add_rests(m, top.frame, &rests, words);
}

/* Close to the limit of calls within calls each token is tried. */
static void add_tried(struct tl_matcher *m, const struct gr_top *top, const struct gr_mask *mask, uint32_t *words) {
  const struct tl_grammar *g = m->grammar;
  const struct tl_vocabulary *v = g->vocabulary;
  bool listed = mask->words == GR_NONE;
  m->trail.sets[0] = (struct gr_set){.n = 1, .tops = {*top}};
  gr_trail_begin(&m->trail);
  for (uint32_t i = 0; i < (listed ? mask->n_tokens : v->n_sorted); i++) {
    uint32_t token = listed ? g->tokens[mask->tokens + i] : v->sorted[i], place = listed ? v->place[token] : i;
    uint32_t length = v->start[place + 1] - v->start[place];
    if (!listed && !(g->words[mask->words + token / 32] >> token % 32 & 1)) continue;
    if (gr_trail_follow(&m->trail, v->bytes + v->start[place], 0, length) == length) words[token / 32] |= 1u << token % 32;
  }
  m->walk.n_frames = m->trail.frames[0];
  m->walk.n_edges = m->trail.edges[0];
}

static void add_state(struct tl_matcher *m, struct gr_top top, uint32_t *words) {
  const struct tl_grammar *g = m->grammar;
  const struct gr_mask *mask = &g->masks[top.state];
  if (m->walk.frames[top.frame].depth + mask->depth > GR_DEPTH) add_tried(m, &top, mask, words);
  else if (mask->words != GR_NONE) join_words(words, g->words + mask->words, g->vocabulary->n_words);
  else set_tokens(words, g->tokens + mask->tokens, mask->n_tokens);
  if (mask->n_rests == 0) return;
  struct rests rests = {.rests = g->rests + mask->rests, .n = mask->n_rests, .tokens = g->tokens};
  add_rests(m, top.frame, &rests, words);
}

/* Bytes that some top of a set may go on with. */
static void find_first(const struct tl_grammar *g, const struct gr_set *set, bool first[256]) {
  memset(first, 0, 256);
  for (uint32_t i = 0; i < set->n; i++)
    for (uint32_t k = g->states[set->tops[i].state].steps; k < g->states[set->tops[i].state + 1].steps; k++)
      memset(first + g->steps[k].low, 1, g->steps[k].high - g->steps[k].low + 1u);
}

/* Tops without masks, all at once: each token is followed as it would be taken. */
static void add_followed(struct tl_matcher *m, uint32_t *words) {
  const struct tl_vocabulary *v = m->grammar->vocabulary;
  bool first[256], some = false;
  find_first(m->grammar, &m->trail.sets[0], first);
  gr_trail_begin(&m->trail);
  for (unsigned byte = 0; byte < 256; byte++) {
    for (uint32_t i = v->first[byte]; first[byte] && i < v->first[byte + 1] && !(some && m->walk.work >= GR_WORK);) {
      uint32_t token = v->sorted[i], at = v->start[i], length = v->start[i + 1] - at;
      uint32_t n = gr_trail_follow(&m->trail, v->bytes + at, v->common[i], length);
      some = some || n == length;
      if (n == length) words[token / 32] |= 1u << token % 32;
      i = n == length ? i + 1 : gr_skip(v, i, n + 1);
    }
  }
  m->walk.n_frames = m->trail.frames[0];
  m->walk.n_edges = m->trail.edges[0];
}

static bool is_followed(const struct tl_matcher *m, uint32_t state) {
  return state >= GR_BODIES && !m->grammar->masks[state].made;
}

/* Of the grammar's text. */
static void add_bound(struct tl_matcher *m, uint32_t *words) {
  m->walk.work = 0;
  for (uint32_t i = 0; i < m->set.n; i++) {
    struct gr_top top = m->set.tops[i];
    if (top.state < GR_BODIES) add_body(m, top, words);
    else if (!is_followed(m, top.state)) add_state(m, top, words);
  }
  struct gr_set *followed = &m->trail.sets[0];
  followed->n = 0;
  for (uint32_t i = 0; i < m->set.n; i++)
    if (is_followed(m, m->set.tops[i].state)) followed->tops[followed->n++] = m->set.tops[i];
  if (followed->n) add_followed(m, words);
}

void tl_matcher_mask(struct tl_matcher *m, uint32_t *words) {
  enum gr_phase phase = m->thinking.phase;
  memset(words, 0, m->grammar->vocabulary->n_words * sizeof *words);
  if (phase == GR_BOUND || (phase == GR_MAY_THINK && m->thinking.bound_too)) add_bound(m, words);
  if (phase != GR_BOUND) gr_thinking_mask(&m->thinking, m->grammar->vocabulary, words);
}

bool tl_matcher_may_end(const struct tl_matcher *matcher) {
  if (matcher->thinking.phase == GR_THINKS) return true;
  return (matcher->thinking.phase == GR_BOUND || matcher->thinking.bound_too) && matcher->set.accepts;
}

bool tl_matcher_must_end(const struct tl_matcher *matcher) {
  return matcher->thinking.phase == GR_BOUND && matcher->set.accepts && matcher->set.n == 0;
}
