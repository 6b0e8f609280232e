/* SPDX-License-Identifier: MIT */
/* Kernels with a mistake each, and one without: does the emulator see them? */
#include "device/cuda/ops/cuda_port.cuh"

struct probe_args {
  int kind;
  uint32_t *out;
};

/* Each thread gets what its right neighbour in the block wrote, with or without a barrier between. */
TL_DEVICE void neighbours(uint32_t *out, bool barrier) {
  uint32_t *shared = (uint32_t *)shared_memory();
  shared[thread_index()] = thread_index();
  if (barrier) sync_block();
  out[thread_index()] = shared[(thread_index() + 1) % 64];
}

TL_KERNEL(64, 1) probe(probe_args a) {
  uint32_t value = thread_index(), *shared = (uint32_t *)shared_memory();
  switch (a.kind) {
    case 0: neighbours(a.out, true); break;
    case 1: neighbours(a.out, false); break;
    case 2: /* a barrier that one thread does not reach */
      if (thread_index() != 5) sync_block();
      break;
    case 3: /* two barriers at a time */
      if (thread_index() < 32)
        sync_block();
      else
        sync_block();
      break;
    case 4: /* a shuffle without one lane */
      if (thread_index() != 7) value = shuffle_xor(value, 1u);
      break;
    case 5: /* lanes at different operations */
      if (thread_index() % 2)
        value = shuffle_xor(value, 1u);
      else
        vote(true);
      break;
    case 6: /* a copy that is not waited for */
      if (thread_index() == 0) {
        copy_async16(shared, a.out + 64, true);
        commit_async();
      }
      sync_block();
      value = shared[thread_index() % 4];
      break;
    case 7: /* the same, waited for */
      if (thread_index() == 0) {
        copy_async16(shared, a.out + 64, true);
        commit_async();
        wait_async<0>();
      }
      sync_block();
      value = shared[thread_index() % 4];
      break;
    case 8: load16((const char *)a.out + 4); break;
    case 9: value = shared[64 + thread_index()]; break;
  }
  if (a.kind > 1) a.out[thread_index()] = value;
}

/* Of one that may start early: waits in time; one thread does not; reads, or writes, before it waits. */
TL_KERNEL(64, 1) probe_early(probe_args a) {
  quad shared = load16(shared_memory());
  if (a.kind == 2) load16(a.out);
  if (a.kind == 3) store16(a.out, shared);
  if (a.kind == 1 && thread_index() == 63) return;
  wait_for_before();
  store16(a.out, load16(a.out + 64));
}

extern "C" int probe_start_early(int kind, uint32_t *out) {
  return launch_rows(1, probe_early, 1, 1, 64, 64 * 4, nullptr, probe_args{kind, out});
}

/* 64 threads, 256 bytes shared; out (68): the last 4 are read by kinds 6 and 7. */
extern "C" int probe_run(int kind, uint32_t *out) {
  return launch(probe, 1, 1, 64, 64 * 4, nullptr, probe_args{kind, out});
}

/* A launch with so much shared memory, after so much was allowed (0: nothing was said). */
extern "C" int probe_shared(size_t allowed, size_t bytes, uint32_t *out) {
  int e = allowed ? allow_shared(probe, allowed) : 0;
  return e ? e : launch(probe, 1, 1, 64, bytes, nullptr, probe_args{0, out});
}

/* One mma of a (16, 16) and b (16, 8), both bf16 bits row-major, by fragments that are
 * gathered element by element: a and b as ldmatrix would load them. */
struct mma_args {
  const uint16_t *a, *b;
  float *c;
};

TL_KERNEL(32, 1) multiply_tile(mma_args m) {
  uint16_t *a = (uint16_t *)shared_memory(), *b = a + 256;
  for (unsigned i = lane_index(); i < 256; i += 32) a[i] = m.a[i];
  for (unsigned i = lane_index(); i < 128; i += 32) b[i] = m.b[i];
  sync_warp();
  uint32_t ra[4], rb[4];
  float c[4] = {};
  unsigned lane = lane_index();
  load_matrices(ra, a + (lane % 16) * 16 + lane / 16 * 8);
  load_matrices_transposed(rb, b + (lane % 16) * 8);
  bf16::mma(c, ra, {rb[0], rb[1]});
  for (unsigned i = 0; i < 4; i++) m.c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = c[i];
}

extern "C" int probe_multiply(const uint16_t *a, const uint16_t *b, float *c) {
  return launch(multiply_tile, 1, 1, 32, 384 * 2, nullptr, mma_args{a, b, c});
}

/* Each 16-bit pattern as a float's bits; out (65536). */
struct unpack_args {
  int is_bf16;
  uint32_t *out;
};

TL_KERNEL(1024, 1) unpack_all(unpack_args u) {
  for (uint32_t i = thread_index(); i < 65536; i += 1024) u.out[i] = as_bits(u.is_bf16 ? bf16::low(i) : f16::low(i));
}

extern "C" int probe_unpack(int is_bf16, uint32_t *out) {
  return launch(unpack_all, 1, 1, 1024, 0, nullptr, unpack_args{is_bf16, out});
}
