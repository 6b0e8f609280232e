/* SPDX-License-Identifier: MIT */
/* In turn, whatever the load: candidates come rotated already. */
#include "route/route_private.h"

void route_by_turn(struct tl_route *route, const struct tl_route_ask *ask, uint32_t turn, unsigned *order, unsigned n) {
  (void)route, (void)ask, (void)turn, (void)order, (void)n;
}
