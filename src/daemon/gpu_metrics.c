/* SPDX-License-Identifier: MIT */
/* What a scrape says of a GPU. A figure that it does not have is NaN. */
#include <math.h>
#include <stdio.h>

#include "daemon/gpu_private.h"
#include "tokenlane/base/clock.h"

/* relaxed loads: single figures */
static double read_figure(void *place) {
  int64_t value = atomic_load_explicit((_Atomic int64_t *)place, memory_order_relaxed);
  return value == GPU_UNKNOWN ? NAN : (double)value;
}
static double read_milli(void *place) {
  return read_figure(place) * 1e-3;
}
static double read_percent(void *place) {
  return read_figure(place) * 1e-2;
}
static double read_count(void *place) {
  return (double)atomic_load_explicit((_Atomic uint64_t *)place, memory_order_relaxed);
}
static double read_health(void *gpu) {
  return atomic_load_explicit(&((struct gpu *)gpu)->health, memory_order_relaxed);
}
static double read_age(void *gpu) {
  int64_t at_ns = atomic_load_explicit(&((struct gpu *)gpu)->looked_ns, memory_order_relaxed);
  return at_ns ? (double)(tl_now_ns() - at_ns) * 1e-9 : NAN;
}

struct gauge {
  enum gpu_figure figure;
  const char *name, *help, *label; /* label: of this series beside the GPU's, or NULL */
  double (*read)(void *figure);
  bool counts;
};

static const char ecc_help[] = "Memory errors that ECC found since the driver was loaded.";
static const char rows_help[] = "Rows of memory that were replaced; pending, failed: 1 if one waits for a reset, or could not be.";
static const char link_help[] = "Errors of the GPU's NVLinks.";
static const char pcie_help[] = "Generation and lanes of the PCIe link, and the most that it can do.";
static const char busy_help[] = "Share of the time in which the GPU computed, or its memory was read or written.";

static const struct gauge gauges[] = {
    {GPU_TEMPERATURE, "tokenlane_gpu_temperature_celsius", "Temperature.", "of=\"gpu\"", read_figure, false},
    {GPU_MEMORY_TEMPERATURE, "tokenlane_gpu_temperature_celsius", "Temperature.", "of=\"memory\"", read_figure, false},
    {GPU_POWER_MW, "tokenlane_gpu_power_watts", "Power drawn.", NULL, read_milli, false},
    {GPU_MEMORY_USED, "tokenlane_gpu_memory_used_bytes", "Memory that is in use.", NULL, read_figure, false},
    {GPU_MEMORY_TOTAL, "tokenlane_gpu_memory_bytes", "Memory that there is.", NULL, read_figure, false},
    {GPU_BUSY, "tokenlane_gpu_busy_ratio", busy_help, "of=\"gpu\"", read_percent, false},
    {GPU_MEMORY_BUSY, "tokenlane_gpu_busy_ratio", busy_help, "of=\"memory\"", read_percent, false},
    {GPU_ECC_CORRECTED, "tokenlane_gpu_ecc_errors_total", ecc_help, "kind=\"corrected\"", read_figure, true},
    {GPU_ECC_UNCORRECTED, "tokenlane_gpu_ecc_errors_total", ecc_help, "kind=\"uncorrected\"", read_figure, true},
    {GPU_ROWS_CORRECTED, "tokenlane_gpu_remapped_rows", rows_help, "kind=\"corrected\"", read_figure, false},
    {GPU_ROWS_UNCORRECTED, "tokenlane_gpu_remapped_rows", rows_help, "kind=\"uncorrected\"", read_figure, false},
    {GPU_ROWS_PENDING, "tokenlane_gpu_remapped_rows", rows_help, "kind=\"pending\"", read_figure, false},
    {GPU_ROWS_FAILED, "tokenlane_gpu_remapped_rows", rows_help, "kind=\"failed\"", read_figure, false},
    {GPU_REASONS, "tokenlane_gpu_throttle_reasons", "Why clocks are below the most, as NVML's bits.", NULL, read_figure, false},
    {GPU_NVLINK_CRC_FLIT, "tokenlane_gpu_nvlink_errors_total", link_help, "kind=\"crc_flit\"", read_figure, true},
    {GPU_NVLINK_CRC_DATA, "tokenlane_gpu_nvlink_errors_total", link_help, "kind=\"crc_data\"", read_figure, true},
    {GPU_NVLINK_REPLAY, "tokenlane_gpu_nvlink_errors_total", link_help, "kind=\"replay\"", read_figure, true},
    {GPU_NVLINK_RECOVERY, "tokenlane_gpu_nvlink_errors_total", link_help, "kind=\"recovery\"", read_figure, true},
    {GPU_PCIE_REPLAY, "tokenlane_gpu_pcie_replays_total", "Packets that the PCIe link sent again.", NULL, read_figure, true},
    {GPU_PCIE_GENERATION, "tokenlane_gpu_pcie_link", pcie_help, "is=\"generation\"", read_figure, false},
    {GPU_PCIE_WIDTH, "tokenlane_gpu_pcie_link", pcie_help, "is=\"width\"", read_figure, false},
    {GPU_PCIE_MAX_GENERATION, "tokenlane_gpu_pcie_link", pcie_help, "is=\"max_generation\"", read_figure, false},
    {GPU_PCIE_MAX_WIDTH, "tokenlane_gpu_pcie_link", pcie_help, "is=\"max_width\"", read_figure, false},
    {GPU_RECOVERY_ACTION, "tokenlane_gpu_recovery_action",
     "What the driver asks for: 0 nothing, 1 a reset, 2 a reboot, 3 to drain peers, 4 both, 5 other.", NULL, read_figure, false},
};

void gpu_metrics_add(struct gpu *g, struct tl_metrics *metrics) {
  static const char *const classes[] = {"other", "app", "fatal"};
  char labels[160], own[128];
  snprintf(own, sizeof own, "gpu=\"%s\"", g->uuid);
  for (size_t i = 0; i < sizeof gauges / sizeof *gauges; i++) {
    const struct gauge *s = &gauges[i];
    snprintf(labels, sizeof labels, "%s%s%s", own, s->label ? "," : "", s->label ? s->label : "");
    (s->counts ? tl_metrics_counter_read : tl_metrics_gauge_read)(metrics, s->name, s->help, labels, s->read,
                                                                  (void *)&g->figures[s->figure]);
  }
  for (int i = 0; i < 3; i++) {
    snprintf(labels, sizeof labels, "%s,class=\"%s\"", own, classes[i]);
    tl_metrics_counter_read(metrics, "tokenlane_gpu_xids_total", "Errors that the driver reported, by class.", labels, read_count,
                            (void *)&g->xids[i]);
  }
  tl_metrics_gauge_read(metrics, "tokenlane_gpu_last_xid", "The last of them, 0: none.", own, read_count, (void *)&g->last_xid);
  tl_metrics_gauge_read(metrics, "tokenlane_gpu_health", "0 well, 1 impaired, 2 failed.", own, read_health, g);
  tl_metrics_gauge_read(metrics, "tokenlane_gpu_look_age_seconds", "Since NVML last told of the GPU; it grows while a call is stuck.",
                        own, read_age, g);
}
