/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "daemon/daemon_private.h"
#include "tokenlane/device.h"

int devices_expand(struct tl_config *config, struct tl_error *err) {
  struct tl_strings *devices = &config->devices;
  char **items;
  unsigned n;
  tl_device_plugin_folder(config->device_plugin_dir);
  int r = tl_device_expand((const char *const *)devices->items, devices->n, &items, &n, err);
  if (r < 0) return r;
  for (unsigned i = 0; i < devices->n; i++) free(devices->items[i]);
  free(devices->items);
  *devices = (struct tl_strings){items, n};
  return TL_OK;
}
