/* SPDX-License-Identifier: MIT */
#include "fake_nvml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

__attribute__((visibility("default"))) struct fake_nvml fake_nvml;

#define NOT_SUPPORTED 3
#define TIMEOUT 10

struct field {
  unsigned id, scope;
  long long timestamp, latency_us;
  int type, result;
  unsigned long long value;
};

struct event {
  void *device;
  unsigned long long type, data;
  unsigned gpu_instance, compute_instance;
};

struct set {
  struct fake_gpu *gpu;
};

static void nap(void) {
  nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static int answer(struct fake_gpu *gpu) {
  while (atomic_load(&gpu->blocked)) nap();
  return atomic_load(&gpu->result);
}

int nvmlInit_v2(void) {
  int r = atomic_load(&fake_nvml.init_result);
  if (r == 0) atomic_fetch_add(&fake_nvml.n_open, 1);
  return r;
}

int nvmlShutdown(void) {
  atomic_fetch_sub(&fake_nvml.n_open, 1);
  return 0;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *address, void **ret) {
  for (int i = 0; i < FAKE_GPUS; i++) {
    char name[32];
    snprintf(name, sizeof name, "00000000:0%d:00.0", i);
    if (strcmp(name, address) != 0) continue;
    *ret = &fake_nvml.gpus[i];
    atomic_fetch_add(&fake_nvml.gpus[i].n_attached, 1);
    return answer(&fake_nvml.gpus[i]);
  }
  return 6; /* not found */
}

int nvmlDeviceGetUUID(void *device, char *ret, unsigned size) {
  snprintf(ret, size, "GPU-%d", (int)((struct fake_gpu *)device - fake_nvml.gpus));
  return 0;
}

int nvmlEventSetCreate(void **ret) {
  *ret = calloc(1, sizeof(struct set));
  return 0;
}

int nvmlEventSetFree(void *set) {
  free(set);
  return 0;
}

int nvmlDeviceGetSupportedEventTypes(void *device, unsigned long long *ret) {
  *ret = 1 | 2 | 8;
  return answer(device);
}

int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) {
  if (types == 8) ((struct set *)set)->gpu = device;
  return answer(device);
}

int nvmlEventSetWait_v2(void *set, struct event *ret, unsigned ms) {
  struct fake_gpu *gpu = ((struct set *)set)->gpu;
  for (unsigned i = 0; i < ms; i++) {
    int r = answer(gpu);
    if (r) return r;
    unsigned long long xid = atomic_exchange(&gpu->xid, 0);
    if (xid) {
      *ret = (struct event){.device = gpu, .type = 8, .data = xid};
      return 0;
    }
    nap();
  }
  return TIMEOUT;
}

int nvmlDeviceGetFieldValues(void *device, int n, struct field *fields) {
  struct fake_gpu *gpu = device;
  atomic_fetch_add(&gpu->n_looks, 1);
  int r = answer(gpu);
  for (int i = 0; i < n; i++) {
    fields[i].type = 3;
    fields[i].result = atomic_load(&gpu->no_fields) ? NOT_SUPPORTED : 0;
    fields[i].value = fields[i].id == 4 ? atomic_load(&gpu->ecc_uncorrected) : 0;
    if (fields[i].id != 230) continue;
    fields[i].type = 1;
    fields[i].value = atomic_load(&gpu->recovery_action);
  }
  return r;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *ret) {
  *ret = sensor == 0 ? atomic_load(&((struct fake_gpu *)device)->temperature) : 999;
  return answer(device);
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *ret) {
  *ret = atomic_load(&((struct fake_gpu *)device)->power_mw);
  return answer(device);
}

int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *ret) {
  ret[0] = 80ull << 30;
  ret[1] = 50ull << 30;
  ret[2] = 30ull << 30;
  return answer(device);
}

int nvmlDeviceGetUtilizationRates(void *device, unsigned *ret) {
  ret[0] = atomic_load(&((struct fake_gpu *)device)->busy);
  ret[1] = 7;
  return answer(device);
}

int nvmlDeviceGetRemappedRows(void *device, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
  struct fake_gpu *gpu = device;
  *corrected = 2;
  *uncorrected = 1;
  *pending = 0;
  *failed = atomic_load(&gpu->rows_failed);
  return atomic_load(&gpu->no_rows) ? NOT_SUPPORTED : answer(device);
}

/* The older of two names. */
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *ret) {
  *ret = atomic_load(&((struct fake_gpu *)device)->reasons);
  return answer(device);
}

int nvmlDeviceGetCurrPcieLinkGeneration(void *device, unsigned *ret) {
  *ret = atomic_load(&((struct fake_gpu *)device)->pcie_generation);
  return answer(device);
}

int nvmlDeviceGetCurrPcieLinkWidth(void *device, unsigned *ret) {
  *ret = 16;
  return answer(device);
}

int nvmlDeviceGetMaxPcieLinkGeneration(void *device, unsigned *ret) {
  *ret = 5;
  return answer(device);
}

int nvmlDeviceGetMaxPcieLinkWidth(void *device, unsigned *ret) {
  *ret = 16;
  return answer(device);
}
