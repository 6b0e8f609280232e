/* SPDX-License-Identifier: MIT */
/* The functions of gated units, for the kernels that apply them. */
#ifndef CUDA_GATE_CUH
#define CUDA_GATE_CUH

#include "device/cuda/ops/cuda_port.cuh"

TL_DEVICE float silu(float x) {
  return x / (1 + expf(-x));
}

/* x / 2 * (1 + tanh(y)) is x times the sigmoid of 2 y: nothing cancels out. */
TL_DEVICE float gelu(float x) {
  return x / (1 + expf(-1.5957691216057308f * (x + 0.044715f * x * x * x)));
}

/* By erf. Not in let_through: most kernels that gate have no registers to spare for it. */
TL_DEVICE float gelu_erf(float x) {
  return x * 0.5f * (1 + erff(x * 0.70710678f));
}

/* What of `up` gets through; gate: TL_CUDA_SILU or TL_CUDA_GELU. */
TL_DEVICE float let_through(int gate, float x, float up) {
  return (gate == TL_CUDA_GELU ? gelu(x) : silu(x)) * up;
}

#endif
