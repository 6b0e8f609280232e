/* SPDX-License-Identifier: MIT */
/* A libnvidia-ml.so.1 whose GPUs say what a test wants: the test opens the same file
 * and writes into its `fake_nvml`. */
#ifndef FAKE_NVML_H
#define FAKE_NVML_H

#include <stdatomic.h>

#define FAKE_GPUS 3 /* at "00000000:0N:00.0", called "GPU-N" */

struct fake_gpu {
  _Atomic int result;              /* of every call about it; 0: well */
  _Atomic int blocked;             /* calls about it do not return while it is set */
  _Atomic int no_fields, no_rows;  /* not supported */
  _Atomic unsigned long long xid;  /* the next event, 0: none */
  _Atomic unsigned temperature, power_mw, busy, pcie_generation, rows_failed, recovery_action;
  _Atomic unsigned long long ecc_uncorrected, reasons;
  _Atomic unsigned n_looks, n_attached;
};

struct fake_nvml {
  struct fake_gpu gpus[FAKE_GPUS];
  _Atomic int init_result;
  _Atomic int n_open; /* inits less shutdowns */
};

#endif
