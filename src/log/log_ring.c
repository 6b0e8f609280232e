/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "log/log_private.h"

#define LINE_BYTES 64
#define AHEAD_LINES 5 /* an access record */

struct log_ring *log_ring_new(void) {
  struct log_ring *ring = aligned_alloc(TL_CACHE_LINE, sizeof *ring);
  /* the stack is left alone: it costs no memory until somebody crashes on it */
  if (ring) memset((void *)ring, 0, offsetof(struct log_ring, signal_stack));
  return ring;
}

/* --- the producer --------------------------------------------------------------------------- */

/* A record that does not cross the ring's end: nearly all of them. The sizes are known here, so
 * that most of it is a few moves. */
static void put_straight(char *to, const struct log_record *record, const struct tl_log_field *fields,
                         const uint32_t *lengths) {
  memcpy(to, record, sizeof *record);
  to += sizeof *record;
  for (unsigned i = 0; i < record->n_fields; i++) {
    memcpy(to, &fields[i], sizeof fields[i]);
    to += sizeof fields[i];
    if (fields[i].kind != TL_LOG_KIND_STR) continue;
    memcpy(to, &lengths[i], sizeof lengths[i]);
    to += sizeof lengths[i];
    if (lengths[i]) memcpy(to, fields[i].str, lengths[i]);
    to += lengths[i];
  }
}

static void copy_in(struct log_ring *ring, uint64_t *at, const void *bytes, size_t length) {
  size_t offset = *at & (LOG_RING_BYTES - 1), first = LOG_RING_BYTES - offset;
  *at += length;
  if (first >= length) {
    memcpy(ring->bytes + offset, bytes, length);
    return;
  }
  memcpy(ring->bytes + offset, bytes, first);
  memcpy(ring->bytes, (const char *)bytes + first, length - first);
}

static void put_across_the_end(struct log_ring *ring, uint64_t at, const struct log_record *record,
                               const struct tl_log_field *fields, const uint32_t *lengths) {
  copy_in(ring, &at, record, sizeof *record);
  for (unsigned i = 0; i < record->n_fields; i++) {
    copy_in(ring, &at, &fields[i], sizeof fields[i]);
    if (fields[i].kind != TL_LOG_KIND_STR) continue;
    copy_in(ring, &at, &lengths[i], sizeof lengths[i]);
    if (lengths[i]) copy_in(ring, &at, fields[i].str, lengths[i]);
  }
}

static uint32_t string_length(const struct tl_log_field *field) {
  return field->str ? (uint32_t)strnlen(field->str, LOG_MAX_STRING) : 0;
}

static bool has_room(struct log_ring *ring, uint64_t tail, uint32_t bytes) {
  if (bytes <= LOG_RING_BYTES - (tail - ring->head_seen)) return true;
  /* pairs with the release store in log_ring_give_back: those bytes have been read */
  ring->head_seen = atomic_load_explicit(&ring->head, memory_order_acquire);
  return bytes <= LOG_RING_BYTES - (tail - ring->head_seen);
}

/* The lines of the next record, which the writer had last: on their way while the caller does something else. */
static void fetch_ahead(struct log_ring *ring, uint64_t at) {
  for (unsigned i = 0; i < AHEAD_LINES; i++) __builtin_prefetch(ring->bytes + ((at + i * LINE_BYTES) & (LOG_RING_BYTES - 1)), 1);
}

bool log_ring_put(struct log_ring *ring, struct log_record *record, const struct tl_log_field *fields) {
  /* relaxed: only this thread writes tail and dropped */
  uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
  uint32_t lengths[LOG_MAX_FIELDS], bytes = sizeof *record;
  for (unsigned i = 0; i < record->n_fields; i++) {
    bytes += (uint32_t)sizeof fields[i];
    if (fields[i].kind != TL_LOG_KIND_STR) continue;
    lengths[i] = string_length(&fields[i]);
    bytes += (uint32_t)sizeof lengths[i] + lengths[i];
  }
  record->bytes = bytes;
  if (!has_room(ring, tail, bytes)) {
    uint64_t dropped = atomic_load_explicit(&ring->dropped, memory_order_relaxed);
    atomic_store_explicit(&ring->dropped, dropped + 1, memory_order_relaxed);
    return false;
  }
  size_t offset = tail & (LOG_RING_BYTES - 1);
  if (offset + bytes <= LOG_RING_BYTES)
    put_straight(ring->bytes + offset, record, fields, lengths);
  else
    put_across_the_end(ring, tail, record, fields, lengths);
  /* publishes the record; pairs with the acquire load in log_ring_tail */
  atomic_store_explicit(&ring->tail, tail + bytes, memory_order_release);
  fetch_ahead(ring, tail + bytes);
  return true;
}

bool log_ring_half_full(struct log_ring *ring) {
  uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed); /* the caller's own */
  return !has_room(ring, tail, LOG_RING_BYTES / 2);
}

/* --- the writer -------------------------------------------------------------------------------- */

static void copy_out(const struct log_ring *ring, uint64_t *at, void *bytes, size_t length) {
  size_t offset = *at & (LOG_RING_BYTES - 1), first = LOG_RING_BYTES - offset;
  *at += length;
  if (first >= length) {
    memcpy(bytes, ring->bytes + offset, length);
    return;
  }
  memcpy(bytes, ring->bytes + offset, first);
  memcpy((char *)bytes + first, ring->bytes, length - first);
}

uint64_t log_ring_tail(const struct log_ring *ring) {
  return atomic_load_explicit(&ring->tail, memory_order_acquire); /* pairs with log_ring_put */
}

int64_t log_ring_wall_ns(const struct log_ring *ring, uint64_t at) {
  struct log_record record;
  copy_out(ring, &at, &record, sizeof record);
  return record.wall_ns;
}

/* The bounds never bite on a sound ring; the crash handler may look at one that is
 * being overwritten, and finds that out afterwards. */
uint64_t log_ring_read(const struct log_ring *ring, uint64_t at, struct log_record *ret_record,
                       struct tl_log_field *ret_fields, char *text) {
  copy_out(ring, &at, ret_record, sizeof *ret_record);
  if (ret_record->n_fields > LOG_MAX_FIELDS) ret_record->n_fields = LOG_MAX_FIELDS;
  for (unsigned i = 0; i < ret_record->n_fields; i++) {
    copy_out(ring, &at, &ret_fields[i], sizeof ret_fields[i]);
    if (ret_fields[i].kind != TL_LOG_KIND_STR) continue;
    uint32_t length;
    copy_out(ring, &at, &length, sizeof length);
    if (length > LOG_MAX_STRING) length = LOG_MAX_STRING;
    copy_out(ring, &at, text, length);
    text[length] = 0;
    ret_fields[i].str = text;
    text += length + 1;
  }
  return at;
}

void log_ring_give_back(struct log_ring *ring, uint64_t to) {
  /* the bytes have been read; pairs with the acquire load in has_room() */
  atomic_store_explicit(&ring->head, to, memory_order_release);
}
