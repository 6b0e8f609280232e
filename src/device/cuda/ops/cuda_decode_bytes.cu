/* SPDX-License-Identifier: MIT */
/* Decode attention over caches of E4M3: a file of its own, as its kernels take long to compile. */
#include "device/cuda/ops/cuda_decode_kernel.cuh"

int cuda_decode_bytes(const struct tl_cuda_decode_args *args, void *stream) {
  if (args->a.head_dim % 16 || (args->pack > 1 && args->a.head_dim > 128)) return CUDA_INVALID;
  return args->a.dtype == TL_CUDA_BF16_BYTES ? launch_decode_of<bf16_bytes>(args, stream) : launch_decode_of<f16_bytes>(args, stream);
}

int cuda_prepare_decode_bytes() {
  int e = allow_decode<bf16_bytes>();
  return e ? e : allow_decode<f16_bytes>();
}
