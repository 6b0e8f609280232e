/* SPDX-License-Identifier: MIT */
/* The texts of the keys sim.faults and sim.override. */
#include <stdlib.h>
#include <string.h>

#include "tokenlane/sim.h"

#define MAX_INDEX 4095

static int refuse(struct tl_error *err, const char *key, const char *text, const char *expected) {
  return tl_error_set(err, TL_EINVAL, key, "%s: '%.80s': expected %s", key, text, expected);
}

static bool take(const char **at, const char *word) {
  size_t n = strlen(word);
  if (strncmp(*at, word, n) != 0) return false;
  *at += n;
  return true;
}

/* Digits alone: no sign, no blanks. */
static bool take_number(const char **at, uint64_t min, uint64_t max, uint64_t *ret) {
  uint64_t value = 0;
  const char *c = *at;
  for (; *c >= '0' && *c <= '9'; c++)
    if (__builtin_mul_overflow(value, 10u, &value) || __builtin_add_overflow(value, (uint64_t)(*c - '0'), &value)) return false;
  if (c == *at || value < min || value > max) return false;
  *at = c;
  *ret = value;
  return true;
}

/* --- faults: DEVICE@STEP:KIND[*FACTOR][:OPTION]... ------------------------------------------ */

static const char *const kind_names[] = {"error", "hang", "slow", "oom", "corrupt", "hot", "lost", "die"};

static bool take_kind(const char **at, struct tl_sim_fault *fault) {
  for (unsigned i = 0; i < sizeof kind_names / sizeof *kind_names; i++) {
    if (!take(at, kind_names[i])) continue;
    fault->kind = (enum tl_sim_fault_kind)i;
    return true;
  }
  return false;
}

static bool take_factor(const char **at, double *ret) {
  char *end;
  if (!take(at, "*") || **at < '0' || **at > '9') return false;
  *ret = strtod(*at, &end);
  *at = end;
  return *ret > 0 && *ret <= 1e6;
}

static bool take_option(const char **at, struct tl_sim_fault *fault) {
  uint64_t value;
  if (take(at, ":recover=")) {
    if (fault->kind == TL_SIM_OOM) return false;
    if (take(at, "reset")) return true;
    if (take(at, "never")) return (fault->recover = TL_SIM_NEVER), true;
    if (!take_number(at, 1, 1000000, &value)) return false;
    fault->recover = (uint32_t)value;
    return true;
  }
  if (take(at, ":for=")) {
    if (fault->kind != TL_SIM_HANG || !take_number(at, 1, 3600000, &value)) return false;
    fault->for_ns = (int64_t)value * 1000000;
    return true;
  }
  if (!take(at, ":steps=")) return false;
  return (fault->kind == TL_SIM_SLOW || fault->kind == TL_SIM_OOM) && take_number(at, 1, 1000000000, &fault->n_steps);
}

int tl_sim_parse_fault(const char *text, struct tl_sim_fault *ret, struct tl_error *err) {
  static const char key[] = "sim.faults";
  const char *at = text;
  uint64_t device = TL_SIM_ANY;
  *ret = (struct tl_sim_fault){.recover = 1};
  if (!take(&at, "*") && !take_number(&at, 0, MAX_INDEX, &device))
    return refuse(err, key, text, "the number of a simulated device, or *, at the start");
  ret->device = (uint32_t)device;
  if (!take(&at, "@") || (!take(&at, "load") && !take_number(&at, 1, INT64_MAX, &ret->step)))
    return refuse(err, key, text, "@ and the number of a step, from 1, or 'load' after the device");
  if (!take(&at, ":") || !take_kind(&at, ret))
    return refuse(err, key, text, ":error, :hang, :slow*FACTOR, :oom, :corrupt, :hot, :lost or :die after the step");
  if (ret->step == 0 && ret->kind != TL_SIM_ERROR && ret->kind != TL_SIM_OOM)
    return refuse(err, key, text, "error or oom at load");
  if (ret->kind == TL_SIM_SLOW && !take_factor(&at, &ret->factor))
    return refuse(err, key, text, "slow*FACTOR, such as slow*8");
  while (*at)
    if (!take_option(&at, ret))
      return refuse(err, key, text,
                    ":recover=reset, :recover=never or :recover=RESETS; with hang also :for=MS; with slow and oom "
                    "also :steps=N");
  return TL_OK;
}

/* --- overrides: DEVICE:KEY=N[:KEY=N]... -------------------------------------------------------- */

static bool take_setting(const char **at, struct tl_sim_options *o) {
  uint64_t value;
  if (take(at, ":base_us=") && take_number(at, 0, 60000000, &value)) return (o->base_ns = (int64_t)value * 1000), true;
  if (take(at, ":per_token_ns=") && take_number(at, 0, 1000000000, &value)) return (o->per_token_ns = (int64_t)value), true;
  if (take(at, ":per_block_ns=") && take_number(at, 0, 1000000000, &value)) return (o->per_block_ns = (int64_t)value), true;
  if (take(at, ":kv_blocks=") && take_number(at, 0, 1 << 26, &value)) return (o->n_kv_blocks = (uint32_t)value), true;
  return false;
}

int tl_sim_override(const char *text, uint32_t index, struct tl_sim_options *options, struct tl_error *err) {
  static const char key[] = "sim.override";
  const char *at = text;
  uint64_t device;
  struct tl_sim_options changed = *options;
  if (!take_number(&at, 0, MAX_INDEX, &device) || *at != ':')
    return refuse(err, key, text, "DEVICE:KEY=N, such as 3:base_us=9000");
  while (*at)
    if (!take_setting(&at, &changed))
      return refuse(err, key, text, "base_us, per_token_ns, per_block_ns or kv_blocks, = and a number as for sim.KEY");
  if (device == index) *options = changed;
  return TL_OK;
}
