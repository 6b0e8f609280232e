/* SPDX-License-Identifier: MIT */
/* A model's LoRA adapters as the configuration names them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon_private.h"

int adapters_list(const struct tl_config *config, struct tl_adapter_source **ret, struct tl_error *err) {
  unsigned n = config->model_adapters.n;
  size_t bytes = (n + 1) * sizeof **ret;
  for (unsigned i = 0; i < n; i++) bytes += strlen(config->model_adapters.items[i]) + 1;
  struct tl_adapter_source *sources = *ret = malloc(bytes);
  if (!sources) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  char *text = (char *)(sources + n + 1);
  for (unsigned i = 0; i < n; i++) {
    char *item = text;
    text = stpcpy(text, config->model_adapters.items[i]) + 1;
    const char *folder = tl_config_adapter_folder(item);
    item[folder - item - 1] = 0; /* the '=', which the configuration's check has seen */
    sources[i] = (struct tl_adapter_source){item, folder};
  }
  return TL_OK;
}

static double read_one(void *unused) {
  (void)unused;
  return 1;
}

void adapters_metrics(struct tl_metrics *metrics, const struct tl_adapter_source *adapters, unsigned n) {
  for (unsigned i = 0; i < n; i++) {
    char label[512]; /* of a name of up to 200 bytes */
    tl_metrics_label(label, sizeof label, "adapter", adapters[i].name);
    tl_metrics_gauge_read(metrics, "tokenlane_adapter_info", "LoRA adapters that are served.", label, read_one, NULL);
  }
}
