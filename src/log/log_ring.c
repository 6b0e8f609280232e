/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "log/log_private.h"

static void copy_in(struct log_ring *ring, uint64_t *at, const void *bytes, size_t length) {
  size_t offset = *at & (LOG_RING_BYTES - 1), first = LOG_RING_BYTES - offset;
  if (first > length) first = length;
  memcpy(ring->bytes + offset, bytes, first);
  memcpy(ring->bytes, (const char *)bytes + first, length - first);
  *at += length;
}

static void copy_out(const struct log_ring *ring, uint64_t *at, void *bytes, size_t length) {
  size_t offset = *at & (LOG_RING_BYTES - 1), first = LOG_RING_BYTES - offset;
  if (first > length) first = length;
  memcpy(bytes, ring->bytes + offset, first);
  memcpy((char *)bytes + first, ring->bytes, length - first);
  *at += length;
}

static uint32_t string_length(const struct tl_log_field *field) {
  return field->str ? (uint32_t)strnlen(field->str, LOG_MAX_STRING) : 0;
}

static size_t record_size(const struct log_record *record, const struct tl_log_field *fields) {
  size_t size = sizeof *record;
  for (unsigned i = 0; i < record->n_fields; i++) {
    size += sizeof fields[i];
    if (fields[i].kind == TL_LOG_KIND_STR) size += sizeof(uint32_t) + string_length(&fields[i]);
  }
  return size;
}

bool log_ring_put(struct log_ring *ring, const struct log_record *record, const struct tl_log_field *fields) {
  /* relaxed: only this thread writes tail and dropped */
  uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
  /* pairs with the release store in log_ring_take: those bytes have been read */
  uint64_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
  if (record_size(record, fields) > LOG_RING_BYTES - (tail - head)) {
    uint64_t dropped = atomic_load_explicit(&ring->dropped, memory_order_relaxed);
    atomic_store_explicit(&ring->dropped, dropped + 1, memory_order_relaxed);
    return false;
  }
  copy_in(ring, &tail, record, sizeof *record);
  for (unsigned i = 0; i < record->n_fields; i++) {
    copy_in(ring, &tail, &fields[i], sizeof fields[i]);
    if (fields[i].kind != TL_LOG_KIND_STR) continue;
    uint32_t length = string_length(&fields[i]);
    copy_in(ring, &tail, &length, sizeof length);
    if (length) copy_in(ring, &tail, fields[i].str, length);
  }
  /* publishes the record; pairs with the acquire load in log_ring_take */
  atomic_store_explicit(&ring->tail, tail, memory_order_release);
  return true;
}

bool log_ring_take(struct log_ring *ring, struct log_record *ret_record, struct tl_log_field *ret_fields, char *text) {
  uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed); /* own index */
  /* pairs with the release store in log_ring_put */
  if (head == atomic_load_explicit(&ring->tail, memory_order_acquire)) return false;
  copy_out(ring, &head, ret_record, sizeof *ret_record);
  for (unsigned i = 0; i < ret_record->n_fields; i++) {
    copy_out(ring, &head, &ret_fields[i], sizeof ret_fields[i]);
    if (ret_fields[i].kind != TL_LOG_KIND_STR) continue;
    uint32_t length;
    copy_out(ring, &head, &length, sizeof length);
    copy_out(ring, &head, text, length);
    text[length] = 0;
    ret_fields[i].str = text;
    text += length + 1;
  }
  /* gives the bytes back; pairs with the acquire load in log_ring_put */
  atomic_store_explicit(&ring->head, head, memory_order_release);
  return true;
}
