/* SPDX-License-Identifier: MIT */
/* The sum of 16 floats and the largest of them, by halves, so that the compiler takes vectors. The including file has defined
 * them (`vf`). */
#ifndef CPU_VEC_LANES_H
#define CPU_VEC_LANES_H

static float sum_lanes(vf v) {
  float lane[16];
  vf_store(lane, v);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; i++) lane[i] += lane[i + half];
  return lane[0];
}

static float max_lanes(vf v) {
  float lane[16];
  vf_store(lane, v);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; i++) lane[i] = lane[i + half] > lane[i] ? lane[i + half] : lane[i];
  return lane[0];
}

#endif
