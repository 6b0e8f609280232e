/* SPDX-License-Identifier: MIT */
/* A folder: two bytes say how long config.json is, the rest is model.safetensors. */
#include "model_target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2) return 0;
  size_t length = data[0] | (size_t)data[1] << 8;
  if (length > size - 2) length = size - 2;
  write_file("config.json", data + 2, length);
  write_file("model.safetensors", data + 2 + length, size - 2 - length);
  load_model(folder);
  return 0;
}
