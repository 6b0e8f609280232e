/* SPDX-License-Identifier: MIT */
/* Arena: many allocations with one lifetime, freed together.
 * One owner thread at a time; ownership may move with the request. */
#ifndef TOKENLANE_BASE_ARENA_H
#define TOKENLANE_BASE_ARENA_H

#include <stddef.h>

struct tl_arena_chunk;

struct tl_arena {
  struct tl_arena_chunk *chunks; /* newest first */
  char *at, *end;                /* free part of the newest chunk */
  size_t used_bytes;             /* sum of what was asked for */
  size_t limit_bytes;            /* 0: no limit */
};

/* Starts empty; nothing is allocated before the first use. */
void tl_arena_init(struct tl_arena *arena, size_t limit_bytes);
/* Frees every allocation; the arena may be used again. */
void tl_arena_done(struct tl_arena *arena);
/* Returns `bytes` of zeroed memory aligned to 16, valid until tl_arena_done;
 * NULL when out of memory or over the limit. Test builds (sanitizers) give
 * each allocation a malloc of its own, so that ASan sees its borders. */
void *tl_arena_alloc(struct tl_arena *arena, size_t bytes);
/* As above for an array; NULL also when count * size overflows. */
void *tl_arena_array(struct tl_arena *arena, size_t count, size_t size);
/* Copies length bytes and adds a NUL. */
char *tl_arena_copy(struct tl_arena *arena, const char *text, size_t length);

#endif
