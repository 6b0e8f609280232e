/* SPDX-License-Identifier: MIT */
/* Grammars that were compiled lately: the same schema comes with thousands of requests. A thread that compiles has a
 * cache of its own, so nothing is shared; a grammar is held by the cache and by the calls that use it. */
#include <stdlib.h>
#include <string.h>

#include "api/api_private.h"
#include "tokenlane/base/hash.h"

#define CACHE_BYTES ((size_t)32 << 20) /* of grammars and keys in one cache */
#define CACHE_ENTRIES 256

struct entry {
  const struct tl_vocabulary *vocabulary; /* of which model; NULL: the entry is free */
  enum tl_grammar_kind kind;
  uint64_t hash, used; /* used: the cache's turn when it was asked for last */
  struct tl_buffer key;
  struct tl_grammar *grammar;
  size_t bytes;
};

struct api_grammar_cache {
  struct entry entries[CACHE_ENTRIES];
  uint64_t turn, seed;
  size_t bytes;
};

struct api_grammar_cache *api_grammar_cache_new(void) {
  struct api_grammar_cache *cache = calloc(1, sizeof *cache);
  if (cache) cache->seed = tl_random_seed();
  return cache;
}

static void drop(struct api_grammar_cache *cache, struct entry *entry) {
  cache->bytes -= entry->bytes;
  tl_grammar_release(entry->grammar);
  tl_buffer_done(&entry->key);
  *entry = (struct entry){0};
}

void api_grammar_cache_free(struct api_grammar_cache *cache) {
  if (!cache) return;
  for (unsigned i = 0; i < CACHE_ENTRIES; i++)
    if (cache->entries[i].vocabulary) drop(cache, &cache->entries[i]);
  free(cache);
}

/* The source's bytes; members of objects in their order, which a grammar keeps. */
static int make_key(const struct tl_grammar_source *source, struct tl_buffer *out) {
  if (!source->json) return tl_buffer_append(out, source->text, source->length);
  return api_json_value(out, source->json, 0);
}

/* The entry of this key, or where to put it: a free one, or the one that was not used for the longest time. */
static struct entry *find(struct api_grammar_cache *cache, const struct tl_vocabulary *vocabulary, enum tl_grammar_kind kind,
                          uint64_t hash, const struct tl_buffer *key, bool *ret_found) {
  struct entry *oldest = cache->entries;
  *ret_found = false;
  for (struct entry *e = cache->entries; e < cache->entries + CACHE_ENTRIES; e++) {
    *ret_found = e->vocabulary == vocabulary && e->kind == kind && e->hash == hash && e->key.length == key->length &&
                 (!key->length || memcmp(e->key.data, key->data, key->length) == 0);
    if (*ret_found) return e;
    if (e->used < oldest->used) oldest = e;
  }
  return oldest;
}

/* Least recently used ones go until there is room. */
static void make_room(struct api_grammar_cache *cache, size_t bytes) {
  while (cache->bytes + bytes > CACHE_BYTES) {
    struct entry *oldest = NULL;
    for (struct entry *e = cache->entries; e < cache->entries + CACHE_ENTRIES; e++)
      if (e->vocabulary && (!oldest || e->used < oldest->used)) oldest = e;
    if (!oldest) return;
    drop(cache, oldest);
  }
}

int api_grammar_cache_get(struct api_grammar_cache *cache, const struct tl_vocabulary *vocabulary,
                          const struct tl_grammar_source *source, struct tl_grammar **ret, struct tl_error *err) {
  struct tl_buffer key;
  bool found;
  tl_buffer_init(&key, 0);
  int r = make_key(source, &key) < 0 ? tl_error_set(err, TL_ENOMEM, NULL, "out of memory") : TL_OK;
  uint64_t hash = tl_hash_bytes(key.length ? key.data : "", key.length, cache->seed, (uint64_t)source->kind);
  struct entry *entry = find(cache, vocabulary, source->kind, hash, &key, &found);
  if (r == TL_OK && !found) r = tl_grammar_compile(vocabulary, source, NULL, ret, err);
  if (r == TL_OK && found) *ret = tl_grammar_hold(entry->grammar);
  if (found) entry->used = ++cache->turn;
  size_t bytes = r == TL_OK ? tl_grammar_bytes(*ret) + key.capacity : 0;
  if (r < 0 || found || bytes > CACHE_BYTES / 4) { /* one alone is not to empty it */
    tl_buffer_done(&key);
    return r;
  }
  if (entry->vocabulary) drop(cache, entry);
  make_room(cache, bytes);
  *entry = (struct entry){vocabulary, source->kind, hash, ++cache->turn, key, tl_grammar_hold(*ret), bytes};
  cache->bytes += bytes;
  return TL_OK;
}
