/* SPDX-License-Identifier: MIT */
/* Hashes and counter-based random numbers. */
#ifndef TOKENLANE_BASE_HASH_H
#define TOKENLANE_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* SipHash-1-3 keyed with two words (Aumasson, Bernstein 2012): safe for tables
 * whose keys a client chooses when the key is random. */
uint64_t tl_hash_bytes(const void *bytes, size_t length, uint64_t key0, uint64_t key1);
/* Finalizer of splitmix64: a bijection that spreads an integer key. */
uint64_t tl_hash_u64(uint64_t value);
/* Philox4x32-10 (Salmon et al. 2011), first two words: a uniform float in
 * [0,1) with 24 random bits that depends on nothing but (seed, position), so a
 * sequence draws the same number wherever and in whatever batch it runs. */
float tl_random_uniform(uint64_t seed, uint64_t position);
/* 64 random bits from the kernel (getrandom). Not for a hot path. */
uint64_t tl_random_seed(void);

#endif
