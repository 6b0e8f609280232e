/* SPDX-License-Identifier: MIT */
/* tokenlane-cuda.so for a machine without a GPU: the backend's host part over tests/unit/device/fake_cuda.c, whose
 * kernels run on fibers. With it the whole daemon runs on devices cuda:0 to cuda:3 of 64 MiB each. */
#include "device/cuda/cuda_backend.h"
#include "../unit/device/fake_cuda.h"
#include "gpu_fault.h"

void gpu_fault_trap(unsigned index) {
  (void)index; /* one process, one context to lose */
  fake_cuda.trap_at = fake_cuda.n_kernels + 1;
}

void gpu_fault_hang(unsigned index) {
  (void)index;
  fake_cuda.hangs = true;
}

static int probe(unsigned *ret, struct tl_error *err) {
  (void)err;
  *ret = (unsigned)fake_cuda.n_devices;
  return TL_OK;
}

__attribute__((visibility("default"))) const struct tl_device_plugin *tl_device_plugin(void);

const struct tl_device_plugin *tl_device_plugin(void) {
  static struct tl_device_plugin plugin;
  static struct tl_device_ops ops;
  if (plugin.abi) return &plugin;
  fake_cuda_reset();
  fake_cuda.n_devices = 4;
  fake_cuda.memory = (size_t)64 << 20;
  fake_cuda.uncounted_polls = true;
  ops = fake_cuda_ops;
  ops.probe = probe;
  ops.spoils = true;
  plugin = (struct tl_device_plugin){TL_DEVICE_ABI, TL_DEVICE_SIZES, gpu_fault_wrap(&ops)};
  return &plugin;
}
