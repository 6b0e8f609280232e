/* SPDX-License-Identifier: MIT */
#include "tokenlane/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/device_private.h"

extern const struct tl_device_ops cpu_device_ops, sim_device_ops;

static const struct tl_device_ops *const backends[] = {&cpu_device_ops, &sim_device_ops};

static bool is_kind(const char *spec, size_t length, const char *name) {
  return strlen(name) == length && memcmp(name, spec, length) == 0;
}

const struct tl_device_ops *tl_device_find(const char *spec, unsigned *ret_index, struct tl_error *err) {
  const char *colon = strchr(spec, ':');
  size_t length = colon ? (size_t)(colon - spec) : strlen(spec);
  const struct tl_device_ops *ops = NULL;
  for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
    if (is_kind(spec, length, backends[i]->name)) ops = backends[i];
  char *end = NULL;
  unsigned long index = colon ? strtoul(colon + 1, &end, 10) : 0;
  bool digits = !colon || (colon[1] >= '0' && colon[1] <= '9' && *end == 0), is_cuda = is_kind(spec, length, "cuda");
  if (digits && index < 4096 && (ops || is_cuda)) {
    *ret_index = (unsigned)index;
    return ops ? ops : device_plugin(err);
  }
  tl_error_set(err, TL_EINVAL, "devices", "devices: expected devices such as cpu:0, got '%.60s'", spec);
  return NULL;
}

/* --- lists ------------------------------------------------------------------------------------ */

struct list {
  char **items;
  unsigned n;
};

static bool add(struct list *list, const char *kind, unsigned index) {
  char **items = realloc(list->items, (list->n + 1) * sizeof *items);
  if (!items) return false;
  list->items = items;
  int length = index == UINT32_MAX ? asprintf(&items[list->n], "%s", kind) : asprintf(&items[list->n], "%s:%u", kind, index);
  if (length < 0) return false;
  list->n++;
  return true;
}

/* Every GPU; *ret_n is how many there are, 0 with err when they cannot be used. */
static bool add_gpus(struct list *list, unsigned *ret_n, struct tl_error *err) {
  const struct tl_device_ops *ops = device_plugin(err);
  *ret_n = 0;
  if (!ops || ops->probe(ret_n, err) < 0) return true;
  if (*ret_n == 0) tl_error_set(err, TL_EINVAL, "devices", "devices: there is no GPU");
  for (unsigned i = 0; i < *ret_n; i++)
    if (!add(list, "cuda", i)) return false;
  return true;
}

static int expand(const char *spec, struct list *list, struct tl_error *err) {
  bool is_auto = strcmp(spec, "auto") == 0, fine = true;
  unsigned n = 0;
  if (is_auto || strcmp(spec, "cuda") == 0) {
    fine = add_gpus(list, &n, err);
    if (fine && n == 0 && !is_auto) return TL_EINVAL;
    if (fine && n == 0) fine = add(list, "cpu", 0);
  } else {
    fine = add(list, spec, UINT32_MAX);
  }
  return fine ? TL_OK : tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
}

int tl_device_expand(const char *const *specs, unsigned n, char ***ret, unsigned *ret_n, struct tl_error *err) {
  struct list list = {0};
  int r = TL_OK;
  for (unsigned i = 0; i < n && r == TL_OK; i++) r = expand(specs[i], &list, err);
  if (r == TL_OK) {
    *ret = list.items;
    *ret_n = list.n;
    return TL_OK;
  }
  for (unsigned i = 0; i < list.n; i++) free(list.items[i]);
  free(list.items);
  return r;
}
