/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/clock.h"

#include <time.h>

static int64_t read_ns(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return TL_SEC(now.tv_sec) + now.tv_nsec;
}

int64_t tl_now_ns(void) {
  return read_ns(CLOCK_MONOTONIC);
}

int64_t tl_wall_ns(void) {
  return read_ns(CLOCK_REALTIME);
}
