/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 16
#define FIRST_CHUNK 4096
#define LARGEST_CHUNK (1 << 20)

/* Sanitizer builds give each allocation a chunk of its own: ASan sees its ends. */
#if defined(__SANITIZE_ADDRESS__)
#define ONE_EACH 1
#else
#define ONE_EACH 0
#endif

struct tl_arena_chunk {
  struct tl_arena_chunk *next;
  size_t size;
};

void tl_arena_init(struct tl_arena *arena, size_t limit_bytes) {
  *arena = (struct tl_arena){.limit_bytes = limit_bytes};
}

void tl_arena_done(struct tl_arena *arena) {
  while (arena->chunks) {
    struct tl_arena_chunk *next = arena->chunks->next;
    free(arena->chunks);
    arena->chunks = next;
  }
  tl_arena_init(arena, arena->limit_bytes);
}

/* Chunks double up to a limit; a large allocation gets its own size. */
static int add_chunk(struct tl_arena *arena, size_t bytes) {
  size_t size = arena->chunks ? arena->chunks->size * 2 : FIRST_CHUNK;
  if (size > LARGEST_CHUNK) size = LARGEST_CHUNK;
  if (size < bytes || ONE_EACH) size = bytes;
  if (size > SIZE_MAX - sizeof(struct tl_arena_chunk)) return -1;
  struct tl_arena_chunk *chunk = malloc(sizeof *chunk + size);
  if (!chunk) return -1;
  chunk->size = size;
  chunk->next = arena->chunks;
  arena->chunks = chunk;
  arena->at = (char *)(chunk + 1);
  arena->end = arena->at + size;
  return 0;
}

void *tl_arena_alloc(struct tl_arena *arena, size_t bytes) {
  _Static_assert(sizeof(struct tl_arena_chunk) % ALIGNMENT == 0, "chunks begin aligned");
  size_t rounded, used;
  if (__builtin_add_overflow(bytes, ALIGNMENT - 1, &rounded)) return NULL;
  rounded &= ~(size_t)(ALIGNMENT - 1);
  if (__builtin_add_overflow(arena->used_bytes, rounded, &used)) return NULL;
  if (arena->limit_bytes && used > arena->limit_bytes) return NULL;
  if (!arena->chunks || ONE_EACH || (size_t)(arena->end - arena->at) < rounded)
    if (add_chunk(arena, rounded) < 0) return NULL;
  void *memory = arena->at;
  arena->at += rounded;
  arena->used_bytes = used;
  return memset(memory, 0, rounded);
}

void *tl_arena_array(struct tl_arena *arena, size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
  return tl_arena_alloc(arena, bytes);
}

char *tl_arena_copy(struct tl_arena *arena, const char *text, size_t length) {
  if (length == SIZE_MAX) return NULL;
  char *copy = tl_arena_alloc(arena, length + 1);
  if (copy && length) memcpy(copy, text, length);
  return copy;
}
