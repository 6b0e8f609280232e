/* SPDX-License-Identifier: MIT */
#include "tokenlane/device.h"

#include <stdlib.h>
#include <string.h>

extern const struct tl_device_ops cpu_device_ops, sim_device_ops;

static const struct tl_device_ops *const backends[] = {&cpu_device_ops, &sim_device_ops};

const struct tl_device_ops *tl_device_find(const char *spec, unsigned *ret_index, struct tl_error *err) {
  const char *colon = strchr(spec, ':');
  size_t length = colon ? (size_t)(colon - spec) : strlen(spec);
  for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
    if (strlen(backends[i]->name) != length || memcmp(backends[i]->name, spec, length) != 0) continue;
    char *end = NULL;
    unsigned long index = colon ? strtoul(colon + 1, &end, 10) : 0;
    bool digits = !colon || (colon[1] >= '0' && colon[1] <= '9' && *end == 0);
    if (digits && index < 4096) {
      *ret_index = (unsigned)index;
      return backends[i];
    }
  }
  tl_error_set(err, TL_EINVAL, "devices", "devices: expected devices such as cpu:0, got '%.60s'", spec);
  return NULL;
}
