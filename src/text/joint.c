/* SPDX-License-Identifier: MIT */
/* One text, or two, with the ids that the post-processor puts around and between them. */
#include <string.h>

#include "text/tokenizer_private.h"

int tok_joint_add(struct tl_tokenizer *t, enum tok_joint_kind kind, int32_t id, uint8_t type) {
  if (t->joint.n == TOK_MAX_JOINT) return TL_EUNSUPPORTED;
  t->joint.parts[t->joint.n++] = (struct tok_joint_part){kind, id, type};
  return TL_OK;
}

void tok_join_bert(struct tl_tokenizer *t, int32_t cls, int32_t sep) {
  t->joint = (struct tok_joint){.parts = {{TOK_JOINT_ID, cls, 0},
                                          {TOK_JOINT_FIRST, 0, 0},
                                          {TOK_JOINT_ID, sep, 0},
                                          {TOK_JOINT_SECOND, 0, 1},
                                          {TOK_JOINT_ID, sep, 1}},
                                .n = 5};
}

void tok_join_plain(struct tl_tokenizer *t) {
  t->joint = (struct tok_joint){.parts = {{TOK_JOINT_FIRST, 0, 0}, {TOK_JOINT_SECOND, 0, 1}}, .n = 2};
}

int tl_tokenizer_n_around(const struct tl_tokenizer *tokenizer, bool pair, uint32_t *ret, struct tl_error *err) {
  *ret = tokenizer->n_before + tokenizer->n_after;
  if (!pair) return TL_OK;
  if (tokenizer->joint.n == TOK_NO_JOINT)
    return tl_error_set(err, TL_EUNSUPPORTED, NULL, "this model's tokenizer does not say how two texts are joined");
  *ret = tokenizer->joint.n - 2;
  return TL_OK;
}

struct output {
  int32_t *ids;
  uint8_t *types;
};

static void put(struct output *out, const int32_t *ids, uint32_t n, uint8_t type) {
  if (n) memcpy(out->ids, ids, n * sizeof *ids);
  out->ids += n;
  if (!out->types) return;
  if (n) memset(out->types, type, n);
  out->types += n;
}

void tl_tokenizer_join(const struct tl_tokenizer *tokenizer, const int32_t *first, uint32_t n_first, const int32_t *second,
                       uint32_t n_second, int32_t *ret_ids, uint8_t *ret_types) {
  struct output out = {ret_ids, ret_types};
  if (!second) {
    put(&out, tokenizer->before, tokenizer->n_before, 0);
    put(&out, first, n_first, 0);
    put(&out, tokenizer->after, tokenizer->n_after, 0);
    return;
  }
  for (uint32_t i = 0; i < tokenizer->joint.n; i++) {
    const struct tok_joint_part *part = &tokenizer->joint.parts[i];
    switch (part->kind) {
      case TOK_JOINT_ID: put(&out, &part->id, 1, part->type); break;
      case TOK_JOINT_FIRST: put(&out, first, n_first, part->type); break;
      case TOK_JOINT_SECOND: put(&out, second, n_second, part->type); break;
    }
  }
}

void tl_tokenizer_shorten(uint32_t *n_first, uint32_t *n_second, uint32_t most) {
  uint32_t *shorter = *n_first <= *n_second ? n_first : n_second, *longer = shorter == n_first ? n_second : n_first;
  if ((uint64_t)*n_first + *n_second <= most) return;
  if (*shorter > most / 2) *shorter = most / 2;
  if (*longer > most - *shorter) *longer = most - *shorter;
}
