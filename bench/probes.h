/* SPDX-License-Identifier: MIT */
/* The machine's limits, measured with all lanes: what the benches of products compare with. */
#ifndef PROBES_H
#define PROBES_H

#include "device/cpu/cpu_private.h"

#define PROBE_PASSES 7

double probe_seconds_since(int64_t began_ns);
/* Bytes read per second of a buffer that should be larger than any cache. */
double probe_read(struct cpu_pool *pool, unsigned lanes, size_t bytes);
/* Multiplications and additions of floats per second between registers, by the instructions of the backend's
 * products on that instruction set. */
double probe_fma(struct cpu_pool *pool, unsigned lanes, enum tl_cpu_isa isa);
/* Those of bytes, by the instructions of the quantized products. */
double probe_int8(struct cpu_pool *pool, unsigned lanes);

#endif
