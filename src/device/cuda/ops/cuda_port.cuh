/* SPDX-License-Identifier: MIT */
/* What the kernels are written in: the few things that only a GPU has. nvcc takes
 * the first half; a C++ compiler takes device/emulate.h (tests/unit), which runs
 * each thread of a block as a fiber. A kernel takes one struct by value, has no
 * static shared memory, and runs whole warps: 32 lanes take part in each operation
 * of a warp. */
#ifndef CUDA_PORT_CUH
#define CUDA_PORT_CUH

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "device/cuda/ops/cuda_ops.h"

#define CUDA_INVALID 1 /* cudaErrorInvalidValue */
#define CUDA_MOST_SHARED (99 << 10) /* bytes that a block may have on every device, asked for by allow_shared: of 8.6, 8.9 and 12.0 */

/* Of a multiprocessor's memory for both, what is to be shared memory: it changes the split only when it is empty, so kernels of which
 * one is to start while the other still runs must want the same. Two blocks of decode attention fit, and rows of x have the rest.
 * With each kernel's own split a step of one row of Llama 3.2 1B took 1.03 ms on an H200, with this one 0.86. */
#define CUDA_SHARED_PERCENT 75
#define CUDA_SHARED_SPLIT (196 << 10) /* bytes that it gives of compute capability 9.0's 228 KiB: of the splits there are the next larger one */

/* Bytes of it that a block takes. */
constexpr size_t cuda_shared_cost(size_t bytes) {
  return (bytes + 127) / 128 * 128 + 1024;
}

struct alignas(16) quad {
  uint32_t w[4];
};

#ifdef __CUDACC__

#include <cuda_runtime.h>

#define TL_KERNEL(threads, blocks) static __global__ void __launch_bounds__(threads, blocks)
#define TL_DEVICE static __device__ __forceinline__
#define TL_METHOD static __device__ __forceinline__
#define TL_UNROLL _Pragma("unroll")

TL_DEVICE unsigned thread_index() {
  return threadIdx.x;
}
TL_DEVICE unsigned block_x() {
  return blockIdx.x;
}
TL_DEVICE unsigned block_y() {
  return blockIdx.y;
}
TL_DEVICE unsigned grid_x() {
  return gridDim.x;
}

template <class Args>
static int launch(void (*kernel)(Args), unsigned x, unsigned y, unsigned threads, size_t shared_bytes, void *stream,
                  const Args &args) {
  kernel<<<dim3(x, y), threads, shared_bytes, (cudaStream_t)stream>>>(args);
  return (int)cudaGetLastError();
}

/* Has a launch want CUDA_SHARED_PERCENT; returns how many attributes that takes. A driver of an earlier CUDA 12 than 12.6, which also runs what a
 * later one made, has no such attribute, and would refuse the launch for one that it does not know. */
inline unsigned want_split(cudaLaunchAttribute *how) {
#if CUDART_VERSION >= 12060
  static const bool is_known = [] {
    int driver = 0;
    return cudaDriverGetVersion(&driver) == cudaSuccess && driver >= 12060;
  }();
  how->id = cudaLaunchAttributePreferredSharedMemoryCarveout;
  how->val.sharedMemCarveout = CUDA_SHARED_PERCENT;
  return is_known;
#else
  (void)how;
  return 0;
#endif
}

/* For kernels that say wait_for_before before they touch what another one writes: of few rows, their blocks may start,
 * and read what is constant, while the kernel before still runs, if that one has said let_next_start (CUDA
 * Programming Guide, programmatic dependent launch; from compute capability 9.0 on). Code that was compiled for less, which a driver
 * makes a newer GPU's of, has not the word to wait: it is what counts, not the GPU. On an H200 a step of 16 rows won 1 % by such
 * starts, one of 64 up to 2 %; kernels of many rows take too long for that to count. */
template <class Args>
static int launch_rows(uint64_t rows, void (*kernel)(Args), unsigned x, unsigned y, unsigned threads, size_t shared_bytes,
                       void *stream, const Args &args) {
  cudaFuncAttributes code;
  if (rows > TL_CUDA_EARLY_ROWS || cudaFuncGetAttributes(&code, (const void *)kernel) || code.ptxVersion < 90)
    return launch(kernel, x, y, threads, shared_bytes, stream, args);
  cudaLaunchAttribute how[2] = {};
  how[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  how[0].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(x, y);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = (cudaStream_t)stream;
  config.attrs = how;
  config.numAttrs = 1 + want_split(&how[1]);
  return (int)cudaLaunchKernelEx(&config, kernel, args);
}

template <class Args>
static int allow_shared(void (*kernel)(Args), size_t bytes) {
  return (int)cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
}

/* The block's shared memory, as large as `launch` was told. */
TL_DEVICE void *shared_memory() {
  extern __shared__ quad tl_shared[];
  return tl_shared;
}

/* --- one kernel after the other ------------------------------------------------------------- */

/* Once all blocks have said so, or are over, the next kernel's may take free places; they wait by themselves. */
TL_DEVICE void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
/* Until the kernels before are over and what they wrote is seen. Every thread of a kernel launched early says it,
 * before anything that another kernel of the stream reads or writes, and before it returns: so kernels wait for all that were before, not for
 * the last one only. Each step begins with copies, behind which no kernel starts early: what steps before wrote is there at once. */
TL_DEVICE void wait_for_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* --- together ------------------------------------------------------------------------------- */

TL_DEVICE void sync_block() {
  __syncthreads();
}
TL_DEVICE void sync_warp() {
  __syncwarp();
}
template <class V>
TL_DEVICE V shuffle(V value, unsigned lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
template <class V>
TL_DEVICE V shuffle_xor(V value, unsigned mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
TL_DEVICE uint32_t vote(bool value) {
  return __ballot_sync(0xffffffffu, value);
}
TL_DEVICE void atomic_add(uint32_t *shared, uint32_t value) {
  atomicAdd(shared, value);
}
TL_DEVICE void atomic_add(uint64_t *shared, uint64_t value) {
  atomicAdd((unsigned long long *)shared, (unsigned long long)value);
}
TL_DEVICE void atomic_add(float *global, float value) {
  atomicAdd(global, value);
}
TL_DEVICE uint32_t atomic_take(uint32_t *shared) { /* the number before */
  return atomicAdd(shared, 1u);
}
/* The number before, of a counter that n turns bring back to 0. */
TL_DEVICE uint32_t atomic_turn(uint32_t *global, uint32_t n) {
  return atomicInc(global, n - 1);
}
/* For all of the device: what this thread has written, or knows of by a barrier, is seen before what it writes after; and
 * what it then reads is no older than what it read before. */
TL_DEVICE void fence_device() {
  asm volatile("fence.acq_rel.gpu;" ::: "memory"); /* __threadfence would be one for all orders, which waits longer */
}

/* --- memory ------------------------------------------------------------------------------------- */

TL_DEVICE quad load16(const void *p) {
  uint4 v = *(const uint4 *)p;
  return {{v.x, v.y, v.z, v.w}};
}
/* Of what no kernel writes meanwhile and nobody reads again: weights, cache. */
TL_DEVICE quad load16_once(const void *p) {
  quad v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3])
               : "l"(p));
  return v;
}
/* Of what the host has copied for this step, before wait_for_before: from the second-level cache, since nothing says that a kernel that
 * starts early finds the first level, which may still have the step before's, emptied. Nobody writes it while the kernel runs. */
TL_DEVICE uint32_t load_early(const uint32_t *p) {
  uint32_t v;
  asm("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p));
  return v;
}
/* The same of 16 bytes, also of what kernels of steps before wrote. */
TL_DEVICE quad load16_early(const void *p) {
  quad v;
  asm("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3]) : "l"(p));
  return v;
}
/* Into the second-level cache: what will be read soon. */
TL_DEVICE void fetch_ahead(const void *p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}
TL_DEVICE void store16(void *p, quad v) {
  *(uint4 *)p = make_uint4(v.w[0], v.w[1], v.w[2], v.w[3]);
}

/* 16 bytes to shared memory, zeros if not `valid`; there once this thread's
 * wait_async says so, for others after a barrier. */
TL_DEVICE void copy_async16(void *shared, const void *global, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(shared)),
               "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}
TL_DEVICE void commit_async() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/* All but the last N groups that were committed. */
template <int N>
TL_DEVICE void wait_async() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* --- tensor cores ---------------------------------------------------------------------------------- */

/* Four 8x8 matrices of 16-bit elements from shared memory: lane i names row i % 8 of
 * matrix i / 8. */
TL_DEVICE void load_matrices(uint32_t (&r)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"((uint32_t)__cvta_generic_to_shared(row))
               : "memory");
}
TL_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"((uint32_t)__cvta_generic_to_shared(row))
               : "memory");
}

/* --- numbers ------------------------------------------------------------------------------------------ */

TL_DEVICE float as_float(uint32_t bits) {
  return __uint_as_float(bits);
}
TL_DEVICE uint32_t as_bits(float value) {
  return __float_as_uint(value);
}
TL_DEVICE float exp2_fast(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
/* Within 2 units in the last place; 0 where b is above 2^126. */
TL_DEVICE float divide_fast(float a, float b) {
  return __fdividef(a, b);
}
/* Four bytes of eight, by the selector's hexadecimal digits, lowest first: 0 to 3 are
 * a's, 4 to 7 are b's; from 8 on the byte's highest bit, eight times. */
TL_DEVICE uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(selector));
  return r;
}

#define DEFINE_MMA(type)                                                                                      \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 "                                 \
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                                        \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                               \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

/* A 16-bit type: two of them in a word, the lower half first. Subnormals are kept. */
struct bf16 {
  static const bool IS_BF16 = true;
  TL_METHOD float low(uint32_t pair) {
    return as_float(pair << 16);
  }
  TL_METHOD float high(uint32_t pair) {
    return as_float(pair & 0xffff0000u);
  }
  TL_METHOD uint32_t pack(float low, float high) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
  }
  TL_METHOD uint32_t fma(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t r;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
  }
  /* c (16, 8) += a (16, 16) b (16, 8), the layout of PTX ISA 9.7.14.5.8 */
  TL_METHOD void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    DEFINE_MMA("bf16");
  }
};

struct f16 {
  static const bool IS_BF16 = false;
  TL_METHOD float low(uint32_t pair) {
    float r;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(r) : "r"(pair));
    return r;
  }
  TL_METHOD float high(uint32_t pair) {
    float r;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h;}" : "=f"(r) : "r"(pair));
    return r;
  }
  TL_METHOD uint32_t pack(float low, float high) {
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
  }
  TL_METHOD uint32_t fma(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t r;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
  }
  TL_METHOD void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    DEFINE_MMA("f16");
  }
};

#else
#include "device/emulate.h"
#endif

/* --- on both -------------------------------------------------------------------------------------------- */

TL_DEVICE unsigned lane_index() {
  return thread_index() % 32;
}
TL_DEVICE unsigned warp_index() {
  return thread_index() / 32;
}

TL_DEVICE float warp_sum(float v) {
  for (unsigned mask = 16; mask; mask /= 2) v += shuffle_xor(v, mask);
  return v;
}
TL_DEVICE uint64_t warp_sum(uint64_t v) {
  for (unsigned mask = 16; mask; mask /= 2) v += shuffle_xor(v, mask);
  return v;
}

/* Of all threads, to all; scratch: a value for each warp. Barriers before and after
 * its use, so that the next one may use it too. */
template <class V>
TL_DEVICE V block_sum(V v, V *scratch, unsigned n_warps) {
  v = warp_sum(v);
  if (lane_index() == 0) scratch[warp_index()] = v;
  sync_block();
  V sum = scratch[0];
  for (unsigned i = 1; i < n_warps; i++) sum += scratch[i];
  sync_block();
  return sum;
}

/* Elements of 8 in a quad. */
template <class T>
TL_DEVICE void unpack8(quad v, float (&to)[8]) {
  TL_UNROLL for (int i = 0; i < 4; i++) {
    to[2 * i] = T::low(v.w[i]);
    to[2 * i + 1] = T::high(v.w[i]);
  }
}
template <class T>
TL_DEVICE quad pack8(const float (&from)[8]) {
  return {{T::pack(from[0], from[1]), T::pack(from[2], from[3]), T::pack(from[4], from[5]), T::pack(from[6], from[7])}};
}

#endif
