/* SPDX-License-Identifier: MIT */
/* What a GPU does when it goes wrong: an error for good, and kernels that hold every multiprocessor for ever. */
#include "gpu_fault.h"

#include <cuda_runtime_api.h>

#define MORE_THAN_FIT 4096

static __global__ void trap(void) {
  asm volatile("trap;");
}

static __global__ void spin(void) {
  for (;;) asm volatile("nanosleep.u32 1000;");
}

extern "C" void gpu_fault_trap(unsigned index) {
  cudaSetDevice((int)index);
  trap<<<1, 1>>>();
}

/* A step's kernels wait for a place; only the end of the process ends these. */
extern "C" void gpu_fault_hang(unsigned index) {
  cudaSetDevice((int)index);
  spin<<<MORE_THAN_FIT, 1024>>>();
}
