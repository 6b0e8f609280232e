/* SPDX-License-Identifier: MIT */
#include "daemon/gpu_nvml.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define AT(member) offsetof(struct nvml, member)

/* The first name that the library has; both NULL ends the table. */
static const struct symbol {
  size_t place;
  const char *name, *older;
  bool needed;
} symbols[] = {
    {AT(init), "nvmlInit_v2", NULL, true},
    {AT(shutdown), "nvmlShutdown", NULL, true},
    {AT(by_pci), "nvmlDeviceGetHandleByPciBusId_v2", NULL, true},
    {AT(uuid), "nvmlDeviceGetUUID", NULL, true},
    {AT(events_new), "nvmlEventSetCreate", NULL, false},
    {AT(events_free), "nvmlEventSetFree", NULL, false},
    {AT(events_supported), "nvmlDeviceGetSupportedEventTypes", NULL, false},
    {AT(events_register), "nvmlDeviceRegisterEvents", NULL, false},
    {AT(events_wait), "nvmlEventSetWait_v2", "nvmlEventSetWait", false},
    {AT(fields), "nvmlDeviceGetFieldValues", NULL, false},
    {AT(temperature), "nvmlDeviceGetTemperature", NULL, false},
    {AT(power), "nvmlDeviceGetPowerUsage", NULL, false},
    {AT(memory), "nvmlDeviceGetMemoryInfo", NULL, false},
    {AT(utilization), "nvmlDeviceGetUtilizationRates", NULL, false},
    {AT(remapped_rows), "nvmlDeviceGetRemappedRows", NULL, false},
    {AT(reasons), "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons", false},
    {AT(pcie_generation), "nvmlDeviceGetCurrPcieLinkGeneration", NULL, false},
    {AT(pcie_width), "nvmlDeviceGetCurrPcieLinkWidth", NULL, false},
    {AT(pcie_max_generation), "nvmlDeviceGetMaxPcieLinkGeneration", NULL, false},
    {AT(pcie_max_width), "nvmlDeviceGetMaxPcieLinkWidth", NULL, false},
};

int nvml_open(struct nvml *nvml, const char *library, struct tl_error *err) {
  *nvml = (struct nvml){.library = dlopen(library, RTLD_NOW | RTLD_LOCAL)};
  if (!nvml->library) return tl_error_set(err, TL_ENOTFOUND, NULL, "%s", dlerror());
  for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
    const struct symbol *s = &symbols[i];
    void *function = dlsym(nvml->library, s->name);
    if (!function && s->older) function = dlsym(nvml->library, s->older);
    if (!function && s->needed) {
      dlclose(nvml->library);
      return tl_error_set(err, TL_EUNSUPPORTED, NULL, "%s has no %s", library, s->name);
    }
    memcpy((char *)nvml + s->place, &function, sizeof function);
  }
  int r = nvml->init();
  if (r == NVML_SUCCESS) return TL_OK;
  dlclose(nvml->library);
  return tl_error_set(err, TL_EDEVICE, NULL, "NVML does not start: its error %d", r);
}

void nvml_close(struct nvml *nvml) {
  nvml->shutdown();
  dlclose(nvml->library);
}

int64_t nvml_field_value(const struct nvml_field *f) {
  if (f->result != NVML_SUCCESS) return INT64_MIN;
  switch (f->type) {
    case 0: return (int64_t)f->value.d;
    case 1: return f->value.ui;
    case 2: return (int64_t)f->value.ul;
    case 3: return (int64_t)f->value.ull;
    case 4: return f->value.sll;
    case 5: return f->value.si;
    case 6: return f->value.us;
    default: return INT64_MIN;
  }
}
