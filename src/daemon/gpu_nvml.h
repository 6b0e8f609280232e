/* SPDX-License-Identifier: MIT */
/* NVML, NVIDIA's management library, without its header: it comes with the driver and
 * is opened at run time. The prototypes and numbers are those of NVIDIA's go-nvml (nvml.h).
 * Any call may block for seconds on a sick GPU. */
#ifndef GPU_NVML_H
#define GPU_NVML_H

#include <stdint.h>

#include "tokenlane/base/error.h"

enum { NVML_SUCCESS = 0, NVML_TIMEOUT = 10, NVML_GPU_IS_LOST = 15, NVML_RESET_REQUIRED = 16 };
enum { NVML_EVENT_XID = 8 };
/* Of nvmlDeviceGetFieldValues. */
enum {
  NVML_FIELD_ECC_SBE = 3, NVML_FIELD_ECC_DBE = 4, NVML_FIELD_NVLINK_CRC_FLIT = 38, NVML_FIELD_NVLINK_CRC_DATA = 45,
  NVML_FIELD_NVLINK_REPLAY = 52, NVML_FIELD_NVLINK_RECOVERY = 59, NVML_FIELD_MEMORY_TEMPERATURE = 82,
  NVML_FIELD_PCIE_REPLAY = 94, NVML_FIELD_RECOVERY_ACTION = 230,
};

struct nvml_event {
  void *device;
  unsigned long long type, data; /* NVML_EVENT_XID: data is the Xid */
  unsigned gpu_instance, compute_instance;
};

struct nvml_field {
  unsigned id, scope;
  long long timestamp, latency_us;
  int type, result;
  union {
    double d;
    int si;
    unsigned ui;
    unsigned long ul;
    unsigned long long ull;
    long long sll;
    unsigned short us;
  } value;
};

struct nvml_memory {
  unsigned long long total, free, used;
};

struct nvml_utilization {
  unsigned gpu, memory; /* per cent */
};

/* A function that this driver lacks is NULL, but for those of the first block. */
struct nvml {
  void *library;
  int (*init)(void);
  int (*shutdown)(void);
  int (*by_pci)(const char *address, void **ret);
  int (*uuid)(void *device, char *ret, unsigned size);

  int (*events_new)(void **ret);
  int (*events_free)(void *set);
  int (*events_supported)(void *device, unsigned long long *ret);
  int (*events_register)(void *device, unsigned long long types, void *set);
  int (*events_wait)(void *set, struct nvml_event *ret, unsigned ms);
  int (*fields)(void *device, int n, struct nvml_field *fields);
  int (*temperature)(void *device, int sensor, unsigned *ret);
  int (*power)(void *device, unsigned *ret_mw);
  int (*memory)(void *device, struct nvml_memory *ret);
  int (*utilization)(void *device, struct nvml_utilization *ret);
  int (*remapped_rows)(void *device, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed);
  int (*reasons)(void *device, unsigned long long *ret);
  int (*pcie_generation)(void *device, unsigned *ret);
  int (*pcie_width)(void *device, unsigned *ret);
  int (*pcie_max_generation)(void *device, unsigned *ret);
  int (*pcie_max_width)(void *device, unsigned *ret);
};

/* Opens and initialises it. TL_ENOTFOUND: it is not there. */
int nvml_open(struct nvml *nvml, const char *library, struct tl_error *err);
/* No call is under way. */
void nvml_close(struct nvml *nvml);
/* A field's value whatever its type; INT64_MIN when it has none. */
int64_t nvml_field_value(const struct nvml_field *field);

#endif
