/* SPDX-License-Identifier: MIT */
#include "probes.h"

#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "tokenlane/base/clock.h"

#define FMA_ROUNDS 2000000

double probe_seconds_since(int64_t began_ns) {
  return (double)(tl_now_ns() - began_ns) * 1e-9;
}

/* --- probe: bytes read ---------------------------------------------------------------------- */

typedef uint64_t words __attribute__((vector_size(64)));

struct read_probe {
  const char *buffer;
  size_t bytes; /* a multiple of 4096 * lanes */
  unsigned lanes;
  bool streams; /* each lane reads its share in eight streams instead of one: which is faster differs */
  _Atomic uint64_t sink; /* the sums go somewhere */
};

/* Eight accumulators, so that the loads and not the additions limit. */
#define READ_BODY                                                                                         \
  size_t apart = streams ? bytes / 8 : sizeof(words), step = streams ? sizeof(words) : 8 * sizeof(words); \
  words sum[8] = {{0}};                                                                                   \
  for (size_t at = 0; at < (streams ? apart : bytes); at += step)                                         \
    for (int i = 0; i < 8; i++) sum[i] += *(const words *)(const void *)(from + at + i * apart);          \
  for (int i = 1; i < 8; i++) sum[0] += sum[i];                                                           \
  return sum[0][0] + sum[0][1] + sum[0][2] + sum[0][3] + sum[0][4] + sum[0][5] + sum[0][6] + sum[0][7];
#define READ_PARAMETERS const char *from, size_t bytes, bool streams

#if defined(__x86_64__)
__attribute__((target("avx512f"), optimize("O3"))) static uint64_t read_avx512(READ_PARAMETERS) {
  READ_BODY
}
__attribute__((target("avx2"), optimize("O3"))) static uint64_t read_avx2(READ_PARAMETERS) {
  READ_BODY
}
#endif
__attribute__((optimize("O3"))) static uint64_t read_plain(READ_PARAMETERS) {
  READ_BODY
}

static void read_lane(void *context, unsigned lane) {
  struct read_probe *p = context;
  size_t share = p->bytes / p->lanes;
  const char *from = p->buffer + lane * share;
  uint64_t sum;
#if defined(__x86_64__)
  enum tl_cpu_isa isa = tl_cpu_best_isa();
  if (isa >= TL_ISA_AVX512)
    sum = read_avx512(from, share, p->streams);
  else if (isa == TL_ISA_AVX2)
    sum = read_avx2(from, share, p->streams);
  else
#endif
    sum = read_plain(from, share, p->streams);
  atomic_fetch_add_explicit(&p->sink, sum, memory_order_relaxed); /* only kept alive */
}

/* The best pass: a limit is what the machine can do, not what it does while disturbed. */
double probe_read(struct cpu_pool *pool, unsigned lanes, size_t bytes) {
  size_t unit = (size_t)4096 * lanes;
  struct read_probe p = {.bytes = (bytes + unit - 1) / unit * unit, .lanes = lanes};
  char *buffer = cpu_map(p.bytes);
  if (!buffer) return 0;
  memset(buffer, 1, p.bytes);
  p.buffer = buffer;
  double best = INFINITY;
  for (int pass = 0; pass < 2 * PROBE_PASSES; pass++) {
    p.streams = pass % 2;
    int64_t began_ns = tl_now_ns();
    cpu_pool_start(pool, read_lane, &p);
    cpu_pool_join(pool);
    best = fmin(best, probe_seconds_since(began_ns));
  }
  cpu_unmap(buffer, p.bytes);
  return (double)p.bytes / best;
}

/* --- probe: multiply-adds -------------------------------------------------------------------- */

#define CHAINS 12 /* independent sums: more than latency times units; they and a factor fit 16 registers */
#if defined(__x86_64__)
#define OPAQUE(x) __asm__ volatile("" : "+v"(x)) /* the compiler may neither move nor merge it */
#else
#define OPAQUE(x) __asm__ volatile("" : "+w"(x))
#endif

/* Operations of FMA_ROUNDS rounds. */
typedef double (*fma_probe)(void);

/* step is one instruction on sum[i]; each does `operations` multiplications and additions. */
#define FMA_BODY(type, zero, step, operations)                  \
  type sum[CHAINS];                                             \
  for (int i = 0; i < CHAINS; i++) sum[i] = zero;               \
  for (int r = 0; r < FMA_ROUNDS; r++) {                        \
    _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) { \
      step;                                                     \
    }                                                           \
  }                                                             \
  for (int i = 0; i < CHAINS; i++) OPAQUE(sum[i]);              \
  return (double)FMA_ROUNDS * CHAINS * (operations)

#if defined(__x86_64__)
__attribute__((target("avx512bf16,avx512f"))) static double fma_avx512bf16(void) {
  __m512i bits = _mm512_set1_epi32(0x3f803f80);
  OPAQUE(bits);
  FMA_BODY(__m512, _mm512_setzero_ps(), sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)bits, (__m512bh)bits),
           64);
}
__attribute__((target("avx512f"))) static double fma_avx512(void) {
  __m512 x = _mm512_set1_ps(0.5f);
  OPAQUE(x);
  FMA_BODY(__m512, _mm512_setzero_ps(), sum[i] = _mm512_fmadd_ps(sum[i], x, x), 32);
}
__attribute__((target("avx2,fma"))) static double fma_avx2(void) {
  __m256 x = _mm256_set1_ps(0.5f);
  OPAQUE(x);
  FMA_BODY(__m256, _mm256_setzero_ps(), sum[i] = _mm256_fmadd_ps(sum[i], x, x), 16);
}
/* The plain kernels: a product and a sum of four floats. */
static double fma_plain(void) {
  __m128 x = _mm_set1_ps(0.5f);
  OPAQUE(x);
  FMA_BODY(__m128, _mm_setzero_ps(), sum[i] = _mm_add_ps(_mm_mul_ps(sum[i], x), x), 8);
}
static fma_probe choose_fma(enum tl_cpu_isa isa) {
  static const fma_probe probes[] = {fma_plain, fma_avx2, fma_avx512, fma_avx512bf16};
  return probes[isa];
}
#else
typedef float floats __attribute__((vector_size(16)));
static double fma_plain(void) {
  floats x = {0.5f, 0.5f, 0.5f, 0.5f};
  OPAQUE(x);
  FMA_BODY(floats, x, sum[i] = sum[i] * x + x, 8);
}
static fma_probe choose_fma(enum tl_cpu_isa isa) {
  (void)isa;
  return fma_plain;
}
#endif

struct fma_run {
  fma_probe probe;
  double operations[4096]; /* by lane */
};

static void fma_lane(void *context, unsigned lane) {
  struct fma_run *run = context;
  run->operations[lane] = run->probe();
}

static double run_fma(struct cpu_pool *pool, unsigned lanes, fma_probe probe) {
  static struct fma_run run;
  run.probe = probe;
  double best = 0;
  for (int pass = 0; pass < PROBE_PASSES; pass++) {
    double operations = 0;
    int64_t began_ns = tl_now_ns();
    cpu_pool_start(pool, fma_lane, &run);
    cpu_pool_join(pool);
    double took = probe_seconds_since(began_ns);
    for (unsigned i = 0; i < lanes; i++) operations += run.operations[i];
    best = fmax(best, operations / took);
  }
  return best;
}

double probe_fma(struct cpu_pool *pool, unsigned lanes, enum tl_cpu_isa isa) {
  return run_fma(pool, lanes, choose_fma(isa));
}

/* --- probe: byte products ----------------------------------------------------------------------- */

/* As the quantized products' dot: 16 or 64 bytes times as many, summed by fours. */
#if defined(__x86_64__)
__attribute__((target("avx512vnni,avx512f"))) static double int8_vnni(void) {
  __m512i x = _mm512_set1_epi8(1);
  OPAQUE(x);
  FMA_BODY(__m512i, _mm512_setzero_si512(), sum[i] = _mm512_dpbusd_epi32(sum[i], x, x), 128);
}
__attribute__((target("avx2"))) static double int8_avx2(void) {
  __m256i x = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
  OPAQUE(x);
  FMA_BODY(__m256i, _mm256_setzero_si256(),
           sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(_mm256_maddubs_epi16(x, sum[i]), ones)), 64);
}
#endif

double probe_int8(struct cpu_pool *pool, unsigned lanes) {
#if defined(__x86_64__)
  enum tl_cpu_isa isa = tl_cpu_best_isa();
  if (isa >= TL_ISA_AVX512 && tl_cpu_has_vnni()) return run_fma(pool, lanes, int8_vnni);
  if (isa >= TL_ISA_AVX2) return run_fma(pool, lanes, int8_avx2);
#endif
  return run_fma(pool, lanes, choose_fma(TL_ISA_PLAIN));
}
