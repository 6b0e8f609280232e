/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "daemon/daemon_private.h"
#include "tokenlane/device.h"

static int expand(struct tl_strings *devices, struct tl_error *err) {
  char **items;
  unsigned n;
  int r = tl_device_expand((const char *const *)devices->items, devices->n, &items, &n, err);
  if (r < 0) return r;
  for (unsigned i = 0; i < devices->n; i++) free(devices->items[i]);
  free(devices->items);
  *devices = (struct tl_strings){items, n};
  return TL_OK;
}

int devices_expand(struct tl_config *config, struct tl_error *err) {
  int r = TL_OK;
  tl_device_plugin_folder(config->device_plugin_dir);
  for (unsigned i = 0; r == TL_OK && i < config->n_models; i++)
    if ((r = expand(&config->models[i].devices, err)) < 0) tl_config_name_model(config, i, err);
  return r;
}
