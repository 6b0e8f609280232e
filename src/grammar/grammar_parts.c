/* SPDX-License-Identifier: MIT */
#include "grammar/grammar_parts.h"

#include <stdlib.h>
#include <string.h>

typedef gr_node (*join_fn)(struct gr_ir *ir, gr_node one, gr_node other);

/* By halves, so that the tree of n is log n deep. */
static gr_node join(struct gr_ir *ir, const gr_node *nodes, size_t n, join_fn two) {
  if (n == 1) return nodes[0];
  gr_node left = join(ir, nodes, n / 2, two);
  return two(ir, left, join(ir, nodes + n / 2, n - n / 2, two));
}

gr_node gr_row(struct gr_ir *ir, const gr_node *nodes, size_t n) {
  return n ? join(ir, nodes, n, gr_seq) : gr_empty(ir);
}

gr_node gr_one_of(struct gr_ir *ir, const gr_node *nodes, size_t n) {
  return n ? join(ir, nodes, n, gr_alt) : gr_nothing(ir);
}

gr_node gr_text(struct gr_ir *ir, const char *text) {
  return gr_bytes(ir, text, strlen(text));
}

gr_node gr_maybe(struct gr_ir *ir, gr_node what) {
  return gr_repeat(ir, what, 0, 1);
}

gr_rule gr_rule_of(struct gr_ir *ir, gr_node what) {
  gr_rule rule = gr_rule_new(ir);
  gr_rule_define(ir, rule, what);
  return rule;
}

int gr_said(const struct gr_ir *ir, const char *field, struct tl_error *err) {
  int r = gr_failed(ir);
  if (r == TL_OK) return TL_OK;
  return tl_error_set(err, r, field, r == TL_ELIMIT ? "the grammar is too large" : "out of memory for the grammar");
}

void gr_list_push(struct gr_list *list, gr_node node) {
  if (list->failed) return;
  if (list->n == list->room) {
    size_t room = list->room ? 2 * list->room : 16;
    gr_node *grown = realloc(list->nodes, room * sizeof *grown);
    if (!grown) {
      list->failed = true;
      return;
    }
    list->nodes = grown;
    list->room = room;
  }
  list->nodes[list->n++] = node;
}

static gr_node end_list(struct gr_ir *ir, struct gr_list *list, gr_node (*whole)(struct gr_ir *, const gr_node *, size_t)) {
  gr_node made = list->failed ? GR_NONE : whole(ir, list->nodes, list->n);
  free(list->nodes);
  *list = (struct gr_list){0};
  return made;
}

gr_node gr_list_row(struct gr_ir *ir, struct gr_list *list) {
  return end_list(ir, list, gr_row);
}

gr_node gr_list_one_of(struct gr_ir *ir, struct gr_list *list) {
  return end_list(ir, list, gr_one_of);
}
