/* SPDX-License-Identifier: MIT */
/* Decode attention over caches of 16-bit types. */
#include "device/cuda/ops/cuda_decode_kernel.cuh"

extern "C" int tl_cuda_decode(const struct tl_cuda_decode_args *args, void *stream) {
  if (!cuda_attention_valid(&args->a) || (args->heads.qkv && (args->heads.row_squares || args->heads.norm_each || args->heads.norm_last || args->pack > 1))) return CUDA_INVALID;
  if (args->pack > 1 && args->pack > tl_cuda_pack(args->a.n_heads, args->a.n_kv_heads, args->a.head_dim, args->pack)) return CUDA_INVALID;
  if (args->max_rows == 0) return 0;
  if (args->n_blocks < tl_cuda_head_tiles(args->a.n_heads, args->a.n_kv_heads, args->a.head_dim)) return CUDA_INVALID;
  if (args->a.dtype > TL_CUDA_F16) return cuda_decode_bytes(args, stream);
  return args->a.dtype == TL_CUDA_BF16 ? launch_decode_of<bf16>(args, stream) : launch_decode_of<f16>(args, stream);
}

int cuda_prepare_decode() {
  int e = allow_decode<bf16>();
  if (!e) e = allow_decode<f16>();
  return e ? e : cuda_prepare_decode_bytes();
}
