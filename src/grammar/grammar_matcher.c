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
};

int tl_matcher_new(struct tl_grammar *grammar, struct tl_matcher **ret, struct tl_error *err) {
  size_t frames = GR_FRAMES * sizeof(struct gr_frame), edges = GR_EDGES * sizeof(struct gr_edge);
  struct tl_matcher *m = malloc(sizeof *m + 2 * (frames + edges));
  if (!m) return tl_error_set(err, TL_ENOMEM, NULL, "no memory to follow a grammar");
  char *at = (char *)(m + 1);
  m->walk = (struct gr_walk){.grammar = grammar, .frames = (void *)at, .edges = (void *)(at + frames)};
  at += frames + edges;
  m->spare = (struct gr_walk){.grammar = grammar, .frames = (void *)at, .edges = (void *)(at + frames)};
  m->grammar = tl_grammar_hold(grammar);
  gr_walk_begin(&m->walk, &m->set);
  *ret = m;
  return TL_OK;
}

void tl_matcher_free(struct tl_matcher *matcher) {
  if (!matcher) return;
  tl_grammar_release(matcher->grammar);
  free(matcher);
}

static void copy_set(struct gr_set *to, const struct gr_set *from) {
  to->n = from->n;
  to->accepts = from->accepts;
  memcpy(to->tops, from->tops, from->n * sizeof *from->tops);
}

int tl_matcher_take(struct tl_matcher *m, int32_t token) {
  const struct tl_vocabulary *v = m->grammar->vocabulary;
  if (token < 0 || (uint32_t)token >= v->n || v->start[token] == v->start[token + 1]) return TL_EINVAL;
  uint32_t n_frames = m->walk.n_frames, n_edges = m->walk.n_edges, length = v->start[token + 1] - v->start[token];
  copy_set(&m->tried, &m->set);
  bool taken = gr_walk_bytes(&m->walk, &m->tried, v->bytes + v->start[token], length, &m->other) == length;
  /* rather fewer ways to go on than none: the later ones are left out until their frames fit */
  while (taken) {
    copy_set(&m->other, &m->tried);
    if (gr_walk_compact(&m->walk, &m->other, &m->spare)) break;
    m->tried.n /= 2;
    taken = m->tried.n > 0;
  }
  if (!taken) {
    m->walk.n_frames = n_frames;
    m->walk.n_edges = n_edges;
    return TL_EINVAL;
  }
  struct gr_walk used = m->walk;
  m->walk = m->spare;
  m->spare = used;
  copy_set(&m->set, &m->other);
  return TL_OK;
}

void tl_matcher_mask(struct tl_matcher *m, uint32_t *words) {
  const struct tl_vocabulary *v = m->grammar->vocabulary;
  uint32_t n_frames = m->walk.n_frames, n_edges = m->walk.n_edges;
  size_t failed_at = SIZE_MAX; /* what begins like the token before fails where it did */
  memset(words, 0, v->n_words * sizeof *words);
  for (uint32_t i = 0; i < v->n_sorted; i++) {
    uint32_t token = v->sorted[i], length = v->start[token + 1] - v->start[token];
    if (i && v->common[i] > failed_at) continue;
    copy_set(&m->tried, &m->set);
    size_t n = gr_walk_bytes(&m->walk, &m->tried, v->bytes + v->start[token], length, &m->other);
    m->walk.n_frames = n_frames;
    m->walk.n_edges = n_edges;
    failed_at = n < length ? n : SIZE_MAX;
    if (n == length) words[token / 32] |= 1u << token % 32;
  }
}

bool tl_matcher_may_end(const struct tl_matcher *matcher) {
  return matcher->set.accepts;
}

bool tl_matcher_must_end(const struct tl_matcher *matcher) {
  return matcher->set.accepts && matcher->set.n == 0;
}
