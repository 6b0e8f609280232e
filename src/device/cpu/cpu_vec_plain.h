/* SPDX-License-Identifier: MIT */
/* 16 floats as four small vectors of the compiler's own kind, for any
 * processor. (As an array of 16 each operation is a loop, which sanitizer builds
 * take many minutes to compile.) */
#ifndef CPU_VEC_PLAIN_H
#define CPU_VEC_PLAIN_H

#include <math.h>
#include <string.h>

#include "device/cpu/cpu_private.h"

typedef float quad __attribute__((vector_size(16)));
typedef struct {
  quad a, b, c, d;
} vf;
#define TILE_M 4
#define TILE_V 1
#define F8_ROWS 2
#define ATTEND_TILE(n) 1

#define VF static inline __attribute__((always_inline))
#define ALL(operation, x, y) ((vf){(x).a operation (y).a, (x).b operation (y).b, (x).c operation (y).c, (x).d operation (y).d})
VF quad quad_set1(float x) { return (quad){x, x, x, x}; }
VF vf vf_set1(float x) { return (vf){quad_set1(x), quad_set1(x), quad_set1(x), quad_set1(x)}; }
VF vf vf_zero(void) { return vf_set1(0); }
VF vf vf_load(const float *p) {
  vf r;
  memcpy(&r, p, sizeof r);
  return r;
}
VF void vf_store(float *p, vf x) { memcpy(p, &x, sizeof x); }
VF vf vf_add(vf x, vf y) { return ALL(+, x, y); }
VF vf vf_sub(vf x, vf y) { return ALL(-, x, y); }
VF vf vf_mul(vf x, vf y) { return ALL(*, x, y); }
VF vf vf_div(vf x, vf y) { return ALL(/, x, y); }
VF vf vf_fma(vf x, vf y, vf z) { return vf_add(vf_mul(x, y), z); }
/* What is rare goes one by one, out of line. */
#define RARE static __attribute__((unused, noinline))
#define EACH(expression)                              \
  float v[16];                                        \
  for (int i = 0; i < 16; i++) v[i] = (expression);   \
  return vf_load(v)
#define LANES(x, name) \
  float name[16];      \
  vf_store(name, x)
RARE vf vf_max(vf x, vf y) { LANES(x, p); LANES(y, q); EACH(p[i] > q[i] ? p[i] : q[i]); }
RARE vf vf_min(vf x, vf y) { LANES(x, p); LANES(y, q); EACH(p[i] < q[i] ? p[i] : q[i]); }
RARE vf vf_where_ge(vf x, vf floor, vf value) {
  LANES(x, p);
  LANES(floor, q);
  LANES(value, w);
  EACH(p[i] >= q[i] ? w[i] : 0);
}
RARE vf vf_round(vf x) { LANES(x, p); EACH(rintf(p[i])); }
RARE vf vf_pow2(vf n) { LANES(n, p); EACH(ldexpf(1.0f, (int)p[i])); }
static inline uint16_t word(const void *p, int i) {
  uint16_t w;
  memcpy(&w, (const char *)p + 2 * i, sizeof w);
  return w;
}
RARE vf vf_bf16_even(const void *p) { EACH(tl_bf16_to_f32(word(p, 2 * i))); }
RARE vf vf_bf16_odd(const void *p) { EACH(tl_bf16_to_f32(word(p, 2 * i + 1))); }
RARE vf vf_load_bf16(const uint16_t *p) { EACH(tl_bf16_to_f32(p[i])); }
RARE vf f8_16(const uint8_t *p) { EACH(tl_f8_e4m3_to_f32(p[i]) / 256); }
/* 32, each 2^8 times too small. */
RARE void vf_load_f8(const uint8_t *p, vf *low, vf *high) {
  *low = f8_16(p);
  *high = f8_16(p + 16);
}
VF vf f8_16_nan(const uint8_t *p) { return f8_16(p); }
RARE vf vf_load_f16(const uint16_t *p) { EACH(tl_f16_to_f32(p[i])); }

#endif
