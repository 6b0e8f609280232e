/* SPDX-License-Identifier: MIT */
#include "log_unit.h"

static char text[LOG_TEXT_BYTES];

/* What the writer does with one record. */
static bool take(struct log_ring *ring, struct log_record *ret_record, struct tl_log_field *ret_fields) {
  if (ring->cursor == log_ring_tail(ring)) return false;
  assert_true(log_ring_wall_ns(ring, ring->cursor) >= 0);
  uint64_t next = log_ring_read(ring, ring->cursor, ret_record, ret_fields, text);
  assert_int_equal(next - ring->cursor, ret_record->bytes);
  ring->cursor = next;
  log_ring_give_back(ring, next);
  return true;
}

/* Records of all sizes through the ring's end: what comes out is what went in. */
static void test_ring(void **state) {
  (void)state;
  struct log_ring *ring = log_ring_new();
  char longest[2000];
  memset(longest, 'x', sizeof longest);
  longest[sizeof longest - 1] = 0;
  uint64_t random = 3;
  int64_t in = 0, out = 0;
  for (int i = 0; i < 20000; i++) {
    struct log_record record = {.wall_ns = in, .n_fields = (uint16_t)unit_below(&random, LOG_MAX_FIELDS + 1)};
    struct tl_log_field fields[LOG_MAX_FIELDS];
    for (unsigned k = 0; k < record.n_fields; k++)
      fields[k] = k % 2 ? TL_I("i", in + k) : TL_S("s", longest + sizeof longest - 1 - (in + k) % 1500);
    if (log_ring_put(ring, &record, fields)) in++;
    if (unit_below(&random, 3) == 0) continue; /* fills up */
    if (!take(ring, &record, fields)) continue;
    assert_int_equal(record.wall_ns, out);
    for (unsigned k = 0; k < record.n_fields; k++) {
      size_t length = (size_t)(out + k) % 1500;
      if (k % 2)
        assert_int_equal(fields[k].i, out + k);
      else
        assert_int_equal(strlen(fields[k].str), length < LOG_MAX_STRING ? length : LOG_MAX_STRING);
    }
    out++;
  }
  assert_true(out > 5000 && atomic_load_explicit(&ring->dropped, memory_order_relaxed) > 100);
  free(ring);
}

static void test_full_ring_counts(void **state) {
  (void)state;
  struct log_ring *ring = log_ring_new();
  struct log_record record = {.message = "m", .n_fields = 1};
  struct tl_log_field field = TL_S("s", "0123456789");
  uint64_t fitted = 0, dropped = 0;
  size_t size = sizeof record + sizeof field + sizeof(uint32_t) + 10;
  for (int i = 0; i < 5000; i++) {
    assert_int_equal(log_ring_half_full(ring), fitted * size > LOG_RING_BYTES / 2);
    log_ring_put(ring, &record, &field) ? fitted++ : dropped++;
  }
  assert_int_equal(fitted, LOG_RING_BYTES / size);
  assert_int_equal(atomic_load_explicit(&ring->dropped, memory_order_relaxed), dropped);
  for (uint64_t i = 0; i < fitted; i++) {
    assert_true(take(ring, &record, &field));
    assert_string_equal(field.str, "0123456789");
  }
  assert_false(take(ring, &record, &field));
  assert_false(log_ring_half_full(ring));
  field = TL_S("s", "0123456789");
  assert_true(log_ring_put(ring, &record, &field));
  free(ring);
}

/* Bytes that make no sense are read within bounds: the crash handler may meet them. */
static void test_garbage(void **state) {
  (void)state;
  struct log_ring *ring = log_ring_new();
  uint64_t random = 9;
  struct log_record record;
  struct tl_log_field fields[LOG_MAX_FIELDS];
  for (unsigned i = 0; i < LOG_RING_BYTES; i++) ring->bytes[i] = (char)unit_random(&random);
  for (uint64_t at = 0; at < 20000; at++) assert_true(log_ring_read(ring, at, &record, fields, text) > at);
  free(ring);
}

/* A producer and the writer at once. */
enum { MANY = 400000 / UNIT_SLOWDOWN };

static void *produce(void *argument) {
  struct log_ring *ring = argument;
  for (int64_t i = 0; i < MANY;) {
    struct log_record record = {.wall_ns = i, .n_fields = 2};
    const struct tl_log_field fields[] = {TL_I("i", i * 3), TL_S("s", &"0123456789"[i % 10])};
    if (log_ring_put(ring, &record, fields))
      i++;
    else
      sched_yield();
  }
  return NULL;
}

static void test_two_threads(void **state) {
  (void)state;
  struct log_ring *ring = log_ring_new();
  struct log_record record;
  struct tl_log_field fields[LOG_MAX_FIELDS];
  pthread_t producer;
  pthread_create(&producer, NULL, produce, ring);
  for (int64_t i = 0; i < MANY;) {
    if (!take(ring, &record, fields)) {
      sched_yield();
      continue;
    }
    assert_int_equal(record.wall_ns, i);
    assert_int_equal(fields[0].i, i * 3);
    assert_string_equal(fields[1].str, &"0123456789"[i % 10]);
    i++;
  }
  pthread_join(producer, NULL);
  free(ring);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_ring), cmocka_unit_test(test_full_ring_counts),
                                     cmocka_unit_test(test_garbage), cmocka_unit_test(test_two_threads)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
