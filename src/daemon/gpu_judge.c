/* SPDX-License-Identifier: MIT */
#include "daemon/gpu_judge.h"

#include <stddef.h>

#include "tokenlane/base/clock.h"

#define PATIENCE_NS TL_SEC(5) /* that long hot, or with a narrow link: impaired */
#define CRC_PER_SECOND 100    /* DCGM's limit for NVLink */
#define BUSY_PERCENT 50       /* below, a link is slow to save power */
#define BAD_REASONS (0x8 | 0x40 | 0x80) /* slowed down by hardware: of its own accord, by heat, by the power supply */

/* NVIDIA's catalogue of Xids, as its Kubernetes plugin (application errors) and DCGM (failures) sort them. */
static const struct {
  uint16_t xid;
  enum gpu_xid_class class;
} classes[] = {
    {13, GPU_XID_APP},   {31, GPU_XID_APP},   {43, GPU_XID_APP},    {45, GPU_XID_APP},    {68, GPU_XID_APP},
    {94, GPU_XID_APP},   {109, GPU_XID_APP},  {48, GPU_XID_FATAL},  {64, GPU_XID_FATAL},  {74, GPU_XID_FATAL},
    {79, GPU_XID_FATAL}, {95, GPU_XID_FATAL}, {119, GPU_XID_FATAL}, {120, GPU_XID_FATAL}, {140, GPU_XID_FATAL},
};

enum gpu_xid_class gpu_classify_xid(uint64_t xid) {
  for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
    if (classes[i].xid == xid) return classes[i].class;
  return GPU_XID_OTHER;
}

void gpu_judge_xid(struct gpu_judge *j, uint64_t xid) {
  if (gpu_classify_xid(xid) == GPU_XID_FATAL) j->fatal = true;
}

void gpu_judge_lost(struct gpu_judge *j) {
  j->fatal = true;
}

void gpu_judge_mended(struct gpu_judge *j) {
  j->fatal = j->needed_recovery = false;
}

/* Of an error there is no end but a repair: the driver asked for one and asks no more, or an
 * operator says so. */
static bool is_fatal(struct gpu_judge *j, const int64_t *f) {
  if (f[GPU_ECC_UNCORRECTED] != GPU_UNKNOWN) {
    if (j->looked && f[GPU_ECC_UNCORRECTED] > j->ecc_uncorrected) j->fatal = true;
    j->ecc_uncorrected = f[GPU_ECC_UNCORRECTED];
  }
  if (f[GPU_RECOVERY_ACTION] > 0)
    j->needed_recovery = true;
  else if (f[GPU_RECOVERY_ACTION] == 0 && j->needed_recovery)
    gpu_judge_mended(j);
  return j->fatal || f[GPU_RECOVERY_ACTION] > 0 || f[GPU_ROWS_FAILED] > 0;
}

static bool lasts(int64_t *since_ns, bool is, int64_t now_ns) {
  if (!is)
    *since_ns = 0;
  else if (!*since_ns)
    *since_ns = now_ns;
  return is && now_ns - *since_ns >= PATIENCE_NS;
}

static bool loses_frames(struct gpu_judge *j, const int64_t *f, int64_t now_ns) {
  int64_t crc = (f[GPU_NVLINK_CRC_FLIT] > 0 ? f[GPU_NVLINK_CRC_FLIT] : 0) + (f[GPU_NVLINK_CRC_DATA] > 0 ? f[GPU_NVLINK_CRC_DATA] : 0);
  int64_t more = crc - j->crc, took_ns = now_ns - j->looked_ns;
  bool fast = j->looked && took_ns > 0 && more >= CRC_PER_SECOND * took_ns / TL_SEC(1) && more > 0;
  j->crc = crc;
  return fast;
}

static bool is_narrow(const int64_t *f) {
  return f[GPU_BUSY] >= BUSY_PERCENT &&
         ((f[GPU_PCIE_GENERATION] > 0 && f[GPU_PCIE_GENERATION] < f[GPU_PCIE_MAX_GENERATION]) ||
          (f[GPU_PCIE_WIDTH] > 0 && f[GPU_PCIE_WIDTH] < f[GPU_PCIE_MAX_WIDTH]));
}

enum tl_device_health gpu_judge_look(struct gpu_judge *j, const int64_t *f, int64_t now_ns) {
  bool fatal = is_fatal(j, f);
  bool hot = lasts(&j->hot_since_ns, f[GPU_REASONS] > 0 && (f[GPU_REASONS] & BAD_REASONS), now_ns);
  bool narrow = lasts(&j->narrow_since_ns, is_narrow(f), now_ns);
  bool loses = loses_frames(j, f, now_ns);
  j->looked = true;
  j->looked_ns = now_ns;
  return fatal ? TL_DEVICE_FAILED : hot || narrow || loses ? TL_DEVICE_IMPAIRED : TL_DEVICE_WELL;
}
