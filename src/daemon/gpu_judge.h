/* SPDX-License-Identifier: MIT */
/* What a GPU's figures and Xids mean for those who use it: a pure function of them and the time. */
#ifndef GPU_JUDGE_H
#define GPU_JUDGE_H

#include <stdbool.h>
#include <stdint.h>

#include "tokenlane/device.h"

#define GPU_UNKNOWN INT64_MIN /* a figure that this GPU or driver does not have */

enum gpu_figure {
  GPU_TEMPERATURE, GPU_MEMORY_TEMPERATURE, GPU_POWER_MW, GPU_MEMORY_USED, GPU_MEMORY_TOTAL, GPU_BUSY, GPU_MEMORY_BUSY,
  GPU_ECC_CORRECTED, GPU_ECC_UNCORRECTED, GPU_ROWS_CORRECTED, GPU_ROWS_UNCORRECTED, GPU_ROWS_PENDING, GPU_ROWS_FAILED,
  GPU_REASONS, GPU_NVLINK_CRC_FLIT, GPU_NVLINK_CRC_DATA, GPU_NVLINK_REPLAY, GPU_NVLINK_RECOVERY, GPU_PCIE_REPLAY,
  GPU_PCIE_GENERATION, GPU_PCIE_WIDTH, GPU_PCIE_MAX_GENERATION, GPU_PCIE_MAX_WIDTH, GPU_RECOVERY_ACTION,
  GPU_FIGURES
};

enum gpu_xid_class {
  GPU_XID_OTHER,
  GPU_XID_APP,   /* a program's own error, perhaps another program's: ours shows as a failed step */
  GPU_XID_FATAL, /* the GPU is not to be used before somebody has seen to it */
};
enum gpu_xid_class gpu_classify_xid(uint64_t xid);

struct gpu_judge {
  bool fatal;               /* a fatal Xid, an uncorrectable ECC error, or lost: until it is mended */
  bool needed_recovery;     /* the driver has asked for a reset or a reboot since */
  int64_t ecc_uncorrected;  /* at the last look; 0 before the first: what it had at boot is old */
  bool looked;
  int64_t crc, looked_ns;
  int64_t hot_since_ns, narrow_since_ns; /* 0: it is not */
};

void gpu_judge_xid(struct gpu_judge *j, uint64_t xid);
/* It answers no more: NVML says that it is lost or needs a reset. */
void gpu_judge_lost(struct gpu_judge *j);
/* An operator says that it has been mended. */
void gpu_judge_mended(struct gpu_judge *j);
/* figures: (GPU_FIGURES), now. */
enum tl_device_health gpu_judge_look(struct gpu_judge *j, const int64_t *figures, int64_t now_ns);

#endif
