/* SPDX-License-Identifier: MIT */
#ifndef TOKENLANE_BASE_CLOCK_H
#define TOKENLANE_BASE_CLOCK_H

#include <stdint.h>

/* CLOCK_MONOTONIC in nanoseconds. Any thread. */
int64_t tl_now_ns(void);
/* CLOCK_REALTIME in nanoseconds since 1970. Any thread. */
int64_t tl_wall_ns(void);

#define TL_MS(n) ((int64_t)(n)*1000000)
#define TL_SEC(n) ((int64_t)(n)*1000000000)

#endif
