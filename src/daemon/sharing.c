/* SPDX-License-Identifier: MIT */
#include "daemon/sharing.h"

#include <string.h>

#include "daemon/daemon_private.h"

#define MAX_REPLICAS 64 /* gpu_watch.c has a bit for each */

static bool is_cpu(const char *device) {
  return strncmp(device, "cpu", 3) == 0;
}

unsigned sharing_cpu_devices(const struct tl_config *model) {
  unsigned n = 0;
  for (unsigned i = 0; i < model->devices.n; i++) n += is_cpu(model->devices.items[i]);
  return n;
}

static bool uses(const struct tl_config *model, const char *device) {
  for (unsigned i = 0; i < model->devices.n; i++)
    if (strcmp(model->devices.items[i], device) == 0) return true;
  return false;
}

bool sharing_gpu(const struct tl_config *config, const struct tl_config *model) {
  for (unsigned i = 0; i < config->n_models; i++)
    for (unsigned k = 0; k < model->devices.n; k++)
      if (&config->models[i] != model && !is_cpu(model->devices.items[k]) && uses(&config->models[i], model->devices.items[k]))
        return true;
  return false;
}

/* Model i's device, which models before it may use as well. */
static int check_device(const struct tl_config *config, unsigned i, const char *device, struct tl_error *err) {
  int64_t percent = config->models[i].device_memory_percent;
  for (unsigned k = 0; k < i; k++) {
    if (!uses(&config->models[k], device)) continue;
    percent += config->models[k].device_memory_percent;
    if (strncmp(device, "cuda", 4) != 0)
      return tl_error_set(err, TL_EINVAL, "devices", "devices: expected devices of its own, got %.40s, which is models[%u]'s", device, k);
  }
  if (percent <= 100) return TL_OK;
  return tl_error_set(err, TL_EINVAL, "device.memory_percent",
                      "device.memory_percent: expected at most 100 for all models on %.40s together, got %lld", device,
                      (long long)percent);
}

int sharing_check(const struct tl_config *config, struct tl_error *err) {
  unsigned n = 0;
  for (unsigned i = 0; i < config->n_models; i++) {
    const struct tl_strings *devices = &config->models[i].devices;
    for (unsigned k = 0; k < devices->n; k++)
      if (!is_cpu(devices->items[k]) && check_device(config, i, devices->items[k], err) < 0)
        return tl_config_name_model(config, i, err);
    n += daemon_replicas(&config->models[i]);
  }
  if (n <= MAX_REPLICAS || config->n_models == 1) return TL_OK;
  return tl_error_set(err, TL_ELIMIT, "models", "models: expected at most %d replicas of all models together, got %u", MAX_REPLICAS, n);
}
