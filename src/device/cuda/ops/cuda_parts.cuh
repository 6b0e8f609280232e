/* SPDX-License-Identifier: MIT */
/* What several thread blocks have each a part of, and the one that comes last puts together. */
#ifndef CUDA_PARTS_CUH
#define CUDA_PARTS_CUH

#include "device/cuda/ops/cuda_port.cuh"

/* Whether the other n - 1 parts are written: then this block, all of whose threads say so with its own written, sees them. The last one
 * to come leaves the counter as it was, zero. shared: a word of the block's. */
TL_DEVICE bool comes_last(uint32_t *arrived, uint32_t n, uint32_t *shared) {
  sync_block();
  if (thread_index() == 0) { /* its fences hold for what other threads did before the first barrier, and do after the second */
    fence_device();
    *shared = atomic_turn(arrived, n) + 1 == n;
    if (*shared) fence_device(); /* who reads nothing need not wait for it */
  }
  sync_block();
  return *shared;
}

/* Which of the 2 n_lanes places for parts one of what decode rows see has: such parts lie in neighbouring lanes, the first one of which is
 * `lane`, and of a lane's two places the first part has the second. */
TL_DEVICE uint32_t part_place(uint32_t lane, uint32_t part) {
  return 2 * (lane + part) + (part == 0);
}

#endif
