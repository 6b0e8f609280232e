/* SPDX-License-Identifier: MIT */
/* The GPU half of cuda_port.cuh for a C++ compiler: blocks run one after the other, from any one on, up or down,
 * the threads of a block as fibers that change over at each operation of a warp or
 * of the block. A warp goes on until the block's barrier stops it, before any other
 * does a step; which one is random. What a GPU leaves undefined is an error here:
 * lanes of a warp that meet at different operations, a barrier that a thread does
 * not reach, an address that is not aligned. Shared memory is a heap block of just
 * the size, filled with NaN before each block; asynchronous copies arrive only when
 * they are waited for, and leave NaN until then. A kernel that may start early (launch_rows) is one whatever its rows: a thread that ends
 * before it has waited for the kernel before, or touches 16 bytes before that as if they were there, is an error too. Not emulated:
 * the reordering of memory accesses, races between blocks, time. */
#ifndef EMULATE_H
#define EMULATE_H

#include <stddef.h>
#include <string.h>

extern "C" {
#include "tokenlane/model.h"
}

/* emulate.cc */
struct emu_exchange { /* what a lane brings to an operation of its warp */
  const char *name;
  int line;
  const void *in[2]; /* by the operation's kind */
  void *out;
};
extern struct emu_place { /* where the fiber that runs is */
  unsigned thread, x, y, grid_x;
  unsigned char *shared;
} emu_here;
/* Threads of a kernel that was launched early, which have not waited for the one before yet. */
extern bool emu_early[];
void emu_start_early(bool early); /* how launches are from now on */
void emu_touch_early(const void *p); /* an error but for shared memory */
extern "C" unsigned emu_early_copies; /* asynchronous ones of 16 bytes that were asked for before the kernel before was waited for */
/* As on a GPU 48 KiB if nothing else was said; at most what the smallest of those has that we compile for. */
size_t emu_allowed_shared(const void *kernel);
int emu_allow_shared(const void *kernel, size_t bytes);
void emu_sync_block(int line);
/* All 32 lanes meet; `all` is called once, with what each brought. */
void emu_meet(const char *name, int line, const void *in0, const void *in1, void *out, void (*all)(const emu_exchange *lanes));
void emu_copy_async(void *shared, const void *global, bool valid);
void emu_commit_async();
void emu_wait_async(unsigned groups);
void emu_check_aligned(const void *p, size_t bytes);
int emu_run(void (*call)(const void *kernel, const void *args), const void *kernel, const void *args, unsigned x,
            unsigned y, unsigned threads, size_t shared_bytes);
void emu_mma_bf16(const emu_exchange *lanes);
void emu_mma_f16(const emu_exchange *lanes);
void emu_load_matrices(const emu_exchange *lanes, bool transposed);

#define TL_KERNEL(threads, blocks) static void
#define TL_DEVICE [[maybe_unused]] static inline
#define TL_METHOD static inline
#define TL_UNROLL

/* The caller's line names the operation. */
#define EMU_LINE int line = __builtin_LINE()

TL_DEVICE unsigned thread_index() {
  return emu_here.thread;
}
TL_DEVICE unsigned block_x() {
  return emu_here.x;
}
TL_DEVICE unsigned block_y() {
  return emu_here.y;
}
TL_DEVICE unsigned grid_x() {
  return emu_here.grid_x;
}

template <class Args>
static int launch(void (*kernel)(Args), unsigned x, unsigned y, unsigned threads, size_t shared_bytes, void *,
                  const Args &args) {
  if (shared_bytes > emu_allowed_shared((const void *)kernel)) return 1;
  struct both {
    static void call(const void *k, const void *a) {
      (*(void (*const *)(Args))k)(*(const Args *)a);
    }
  };
  return emu_run(both::call, &kernel, &args, x, y, threads, shared_bytes);
}

template <class Args>
static int launch_rows(uint64_t, void (*kernel)(Args), unsigned x, unsigned y, unsigned threads, size_t shared_bytes, void *stream,
                       const Args &args) {
  emu_start_early(true); /* whatever the rows: the kernel is the same */
  int r = launch(kernel, x, y, threads, shared_bytes, stream, args);
  emu_start_early(false);
  return r;
}

template <class Args>
static int allow_shared(void (*kernel)(Args), size_t bytes) {
  return emu_allow_shared((const void *)kernel, bytes);
}

TL_DEVICE void *shared_memory() {
  return emu_here.shared;
}

/* --- one kernel after the other ------------------------------------------------------------- */

TL_DEVICE void let_next_start() {}
TL_DEVICE void wait_for_before() {
  emu_early[emu_here.thread] = false;
}

/* --- together ------------------------------------------------------------------------------- */

TL_DEVICE void sync_block(EMU_LINE) {
  emu_sync_block(line);
}
TL_DEVICE void sync_warp(EMU_LINE) {
  emu_meet("sync_warp", line, nullptr, nullptr, nullptr, [](const emu_exchange *) {});
}
template <class V>
TL_DEVICE V shuffle(V value, unsigned lane, EMU_LINE) {
  V result;
  emu_meet("shuffle", line, &value, &lane, &result, [](const emu_exchange *lanes) {
    for (int i = 0; i < 32; i++)
      *(V *)lanes[i].out = *(const V *)lanes[*(const unsigned *)lanes[i].in[1] % 32].in[0];
  });
  return result;
}
template <class V>
TL_DEVICE V shuffle_xor(V value, unsigned mask, EMU_LINE) {
  return shuffle(value, emu_here.thread % 32 ^ mask, line);
}
TL_DEVICE uint32_t vote(bool value, EMU_LINE) {
  uint32_t result;
  emu_meet("vote", line, &value, nullptr, &result, [](const emu_exchange *lanes) {
    uint32_t bits = 0;
    for (int i = 0; i < 32; i++) bits |= (uint32_t) * (const bool *)lanes[i].in[0] << i;
    for (int i = 0; i < 32; i++) *(uint32_t *)lanes[i].out = bits;
  });
  return result;
}
/* Fibers change over at operations only: a plain sum is atomic. */
template <class V>
TL_DEVICE void atomic_add(V *p, V value) {
  *p += value;
}
TL_DEVICE uint32_t atomic_take(uint32_t *p) {
  return (*p)++;
}
TL_DEVICE uint32_t atomic_turn(uint32_t *p, uint32_t n) {
  uint32_t before = *p;
  *p = before + 1 < n ? before + 1 : 0;
  return before;
}
TL_DEVICE void fence_device() {}

/* --- memory ------------------------------------------------------------------------------------- */

TL_DEVICE quad load16_once(const void *p) {
  emu_check_aligned(p, 16);
  return *(const quad *)p;
}
TL_DEVICE quad load16(const void *p) {
  if (emu_early[emu_here.thread]) emu_touch_early(p);
  return load16_once(p);
}
TL_DEVICE uint32_t load_early(const uint32_t *p) {
  return *p;
}
TL_DEVICE quad load16_early(const void *p) {
  return load16_once(p);
}
TL_DEVICE void fetch_ahead(const void *) {}
TL_DEVICE void store16(void *p, quad v) {
  if (emu_early[emu_here.thread]) emu_touch_early(p);
  emu_check_aligned(p, 16);
  *(quad *)p = v;
}
TL_DEVICE void copy_async16(void *shared, const void *global, bool valid) {
  emu_copy_async(shared, global, valid);
}
TL_DEVICE void commit_async() {
  emu_commit_async();
}
template <int N>
TL_DEVICE void wait_async() {
  emu_wait_async(N);
}

/* --- tensor cores ---------------------------------------------------------------------------------- */

TL_DEVICE void load_matrices(uint32_t (&r)[4], const void *row, EMU_LINE) {
  emu_meet("load_matrices", line, row, nullptr, r,
           [](const emu_exchange *lanes) { emu_load_matrices(lanes, false); });
}
TL_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void *row, EMU_LINE) {
  emu_meet("load_matrices_transposed", line, row, nullptr, r,
           [](const emu_exchange *lanes) { emu_load_matrices(lanes, true); });
}

/* --- numbers ------------------------------------------------------------------------------------------ */

TL_DEVICE float as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
TL_DEVICE uint32_t as_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}
/* tl_bf16_to_f32 and tl_f16_to_f32, without the call: there are hundreds of them in a product of fragments. */
TL_DEVICE float emu_bf16_to_f32(uint16_t value) {
  return as_float((uint32_t)value << 16);
}
TL_DEVICE float emu_f16_to_f32(uint16_t value) {
  uint32_t magnitude = (uint32_t)(value & 0x7fff) << 13, sign = (uint32_t)(value & 0x8000) << 16;
  if (magnitude >= 0x7c00u << 13) return as_float(sign | 0x7f800000 | magnitude); /* infinite, NaN */
  return as_float(sign | as_bits(as_float(magnitude) * 0x1p112f));
}
TL_DEVICE float exp2_fast(float x) {
  return exp2f(x);
}
TL_DEVICE float divide_fast(float a, float b) {
  return b > 0x1p126f ? 0 : a / b;
}
TL_DEVICE uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  uint64_t both = a | (uint64_t)b << 32;
  uint32_t result = 0;
  for (int i = 0; i < 4; i++) {
    unsigned digit = selector >> 4 * i & 15, byte = both >> digit % 8 * 8 & 0xff;
    result |= (digit < 8 ? byte : byte >> 7 ? 0xffu : 0) << 8 * i;
  }
  return result;
}

template <bool is_bf16, float (*to_float)(uint16_t), uint16_t (*from_float)(float)>
struct emu_half {
  static const bool IS_BF16 = is_bf16;
  TL_METHOD float low(uint32_t pair) {
    return to_float((uint16_t)pair);
  }
  TL_METHOD float high(uint32_t pair) {
    return to_float((uint16_t)(pair >> 16));
  }
  TL_METHOD uint32_t pack(float low, float high) {
    return from_float(low) | (uint32_t)from_float(high) << 16;
  }
  TL_METHOD uint32_t fma(uint32_t a, uint32_t b, uint32_t c) {
    return pack(fmaf(low(a), low(b), low(c)), fmaf(high(a), high(b), high(c)));
  }
  TL_METHOD void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMU_LINE) {
    emu_meet("mma", line, a, b, c, is_bf16 ? emu_mma_bf16 : emu_mma_f16);
  }
};
typedef emu_half<true, emu_bf16_to_f32, tl_f32_to_bf16> bf16;
typedef emu_half<false, emu_f16_to_f32, tl_f32_to_f16> f16;

#endif
