/* SPDX-License-Identifier: MIT */
#include "gpu_fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_DEVICES 64

static const struct tl_device_ops *wrapped;
static struct tl_device_ops wrapper;
static struct known {
  struct tl_device *device;
  unsigned index;
  unsigned passed; /* steps since the file asks for this one; its worker's */
} known[MAX_DEVICES]; /* written by opens, one after the other */
static unsigned n_known;

static int open_known(const struct tl_device_options *options, struct tl_device **ret, struct tl_error *err) {
  int r = wrapped->open(options, ret, err);
  if (r < 0 || n_known == MAX_DEVICES) return r;
  known[n_known].device = *ret;
  known[n_known++].index = options->index;
  return r;
}

/* NULL: there are too many. */
static struct known *find(const struct tl_device *device) {
  unsigned i = 0;
  while (i < n_known && known[i].device != device) i++;
  return i < n_known ? &known[i] : NULL;
}

/* Whether the file asks for a fault in just this step; what for, and takes it away. */
static bool take(struct known *k, char kind[16]) {
  const char *path = getenv("TOKENLANE_GPU_FAULT");
  FILE *file = path ? fopen(path, "r") : NULL;
  unsigned index, after;
  if (!file) return false;
  bool mine = fscanf(file, "%15s %u after %u", kind, &index, &after) == 3 && index == k->index;
  fclose(file);
  if (!mine || k->passed++ < after) return false;
  k->passed = 0;
  return unlink(path) == 0;
}

static int submit(struct tl_device *device, const struct tl_step *step, struct tl_error *err) {
  struct known *k = find(device);
  char kind[16];
  if (k && take(k, kind)) {
    if (strcmp(kind, "trap") == 0) gpu_fault_trap(k->index);
    if (strcmp(kind, "hang") == 0) gpu_fault_hang(k->index);
  }
  return wrapped->submit(device, step, err);
}

const struct tl_device_ops *gpu_fault_wrap(const struct tl_device_ops *ops) {
  wrapped = ops;
  wrapper = *ops;
  wrapper.open = open_known;
  wrapper.submit = submit;
  return &wrapper;
}
