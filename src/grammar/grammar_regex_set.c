/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_regex.h"

bool rx_set_add(struct rx *rx, struct rx_set *set, uint32_t first, uint32_t last) {
  if (set->n == set->room) {
    size_t room = set->room ? 2 * set->room : 4;
    struct gr_range *grown = tl_arena_array(&rx->mem, room, sizeof *grown);
    if (!grown) return rx_fail(rx, TL_ELIMIT, rx->at, "the pattern is too large") == TL_OK;
    if (set->n) memcpy(grown, set->ranges, set->n * sizeof *grown);
    set->ranges = grown;
    set->room = room;
  }
  set->ranges[set->n++] = (struct gr_range){first, last};
  return true;
}

bool rx_set_add_all(struct rx *rx, struct rx_set *set, const struct rx_set *other) {
  for (size_t i = 0; i < other->n; i++)
    if (!rx_set_add(rx, set, other->ranges[i].first, other->ranges[i].last)) return false;
  return true;
}

static int by_first(const void *a, const void *b) {
  const struct gr_range *x = a, *y = b;
  return (x->first > y->first) - (x->first < y->first);
}

void rx_set_order(struct rx_set *set) {
  if (!set->n) return;
  qsort(set->ranges, set->n, sizeof *set->ranges, by_first);
  size_t kept = 1;
  for (size_t i = 1; i < set->n; i++) {
    struct gr_range *last = &set->ranges[kept - 1], next = set->ranges[i];
    if (next.first > last->last + 1) set->ranges[kept++] = next;
    else if (next.last > last->last) last->last = next.last;
  }
  set->n = kept;
}

bool rx_set_negate(struct rx *rx, const struct rx_set *set, struct rx_set *ret) {
  *ret = (struct rx_set){0};
  uint32_t from = 0;
  for (size_t i = 0; i < set->n; i++) {
    if (set->ranges[i].first > from && !rx_set_add(rx, ret, from, set->ranges[i].first - 1)) return false;
    from = set->ranges[i].last + 1;
  }
  return from > RX_LAST || rx_set_add(rx, ret, from, RX_LAST);
}

bool rx_set_has(const struct rx_set *set, uint32_t code) {
  for (size_t i = 0; i < set->n; i++)
    if (code >= set->ranges[i].first && code <= set->ranges[i].last) return true;
  return false;
}

static const struct gr_range digits[] = {{'0', '9'}};
static const struct gr_range words[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
static const struct gr_range ascii_spaces[] = {{'\t', '\r'}, {' ', ' '}};
static const struct gr_range ecma_spaces[] = {{'\t', '\r'},     {' ', ' '},       {0xa0, 0xa0},     {0x1680, 0x1680}, {0x2000, 0x200a},
                                              {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000}, {0xfeff, 0xfeff}};

static struct rx_set class_of(const struct rx *rx, char letter) {
#define SET_OF(table) ((struct rx_set){(struct gr_range *)(table), sizeof(table) / sizeof *(table), 0})
  switch (letter | 0x20) {
    case 'd': return SET_OF(digits);
    case 'w': return SET_OF(words);
    default: return rx->ecma ? SET_OF(ecma_spaces) : SET_OF(ascii_spaces);
  }
#undef SET_OF
}

bool rx_set_add_class(struct rx *rx, struct rx_set *set, char letter) {
  struct rx_set class = class_of(rx, letter), rest;
  if (letter >= 'a') return rx_set_add_all(rx, set, &class);
  return rx_set_negate(rx, &class, &rest) && rx_set_add_all(rx, set, &rest);
}
