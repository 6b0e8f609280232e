/* SPDX-License-Identifier: MIT */
/* Rows of T to E4M3, each with a scale of its own, and the scales of products of such. */
#ifndef CUDA_E4M3_CUH
#define CUDA_E4M3_CUH

#include "device/cuda/ops/cuda_e4m3.h"
#include "device/cuda/ops/cuda_port.cuh"

/* The lowest byte first. */
TL_DEVICE uint32_t to_e4m3(float a, float b, float c, float d) {
#if __CUDA_ARCH__ >= 890
  uint32_t r;
  asm("{.reg .b16 l, h; cvt.rn.satfinite.e4m3x2.f32 l, %2, %1; cvt.rn.satfinite.e4m3x2.f32 h, %4, %3; mov.b32 %0, {l, h};}"
      : "=r"(r)
      : "f"(a), "f"(b), "f"(c), "f"(d));
  return r;
#else
  return tl_cuda_to_e4m3(a) | (uint32_t)tl_cuda_to_e4m3(b) << 8 | (uint32_t)tl_cuda_to_e4m3(c) << 16 |
         (uint32_t)tl_cuda_to_e4m3(d) << 24;
#endif
}

/* Magnitudes of 16-bit types stand in the order of their bits; a NaN is above all of them. */
TL_DEVICE uint32_t larger(uint32_t most, uint32_t bits) {
  bits &= 0x7fff;
  return bits > most ? bits : most;
}

TL_DEVICE uint32_t largest(uint32_t most, quad v) {
  TL_UNROLL for (int i = 0; i < 4; i++) most = larger(larger(most, v.w[i]), v.w[i] >> 16);
  return most;
}

/* Of all threads, to all; scratch: a value for each warp. */
TL_DEVICE uint32_t block_largest(uint32_t most, uint32_t *scratch, unsigned n_warps) {
  for (unsigned mask = 16; mask; mask /= 2) most = larger(most, shuffle_xor(most, mask));
  if (lane_index() == 0) scratch[warp_index()] = most;
  sync_block();
  for (unsigned i = 0; i < n_warps; i++) most = larger(most, scratch[i]);
  return most;
}

/* The scale of a row whose largest magnitude has these bits: no smaller than 2^-126, whose inverse is still a number. */
template <class T>
TL_DEVICE float e4m3_scale(uint32_t most) {
  float scale = T::low(most) / TL_CUDA_E4M3_MAX;
  return most == 0 ? 1 : scale < 0x1p-126f ? 0x1p-126f : scale;
}

template <class T>
TL_DEVICE void store_e4m3(uint8_t *to, quad v, float factor) {
  float x[8];
  unpack8<T>(v, x);
  TL_UNROLL for (int k = 0; k < 8; k++) x[k] *= factor;
  *(uint64_t *)to = to_e4m3(x[0], x[1], x[2], x[3]) | (uint64_t)to_e4m3(x[4], x[5], x[6], x[7]) << 32;
}

/* What is left to do of a product's results (tl_cuda_rest): a row's part of it, and eight of its outputs. */
TL_DEVICE float row_factor(const tl_cuda_rest &u, uint64_t row) {
  return u.rows ? u.rows[row] * u.factor : 1;
}

TL_DEVICE void scale_outputs(const tl_cuda_rest &u, float of_row, uint32_t output, float (&v)[8]) {
  if (!u.rows) return;
  const quad scales[2] = {load16(u.outputs + output), load16(u.outputs + output + 4)};
  TL_UNROLL for (int i = 0; i < 8; i++) v[i] *= of_row * as_float(scales[i / 4].w[i % 4]);
}

#endif
