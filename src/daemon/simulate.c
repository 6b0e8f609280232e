/* SPDX-License-Identifier: MIT */
/* From the configuration to simulated devices: what they take, fail with and say. */
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon_private.h"
#include "tokenlane/base/utf8.h"
#include "tokenlane/device.h"
#include "tokenlane/sim.h"

struct simulation {
  struct tl_sim_options *options; /* (devices) */
  struct tl_sim_fault *faults;
  int32_t *tokens;
};

/* The spec's number, or -1 for a device that is not simulated. */
static int64_t simulated_index(const char *spec) {
  unsigned index = 0;
  const struct tl_device_ops *ops = tl_device_find(spec, &index, NULL);
  return ops && ops->simulated ? (int64_t)index : -1;
}

static bool is_there(const struct tl_config *c, uint32_t index) {
  for (unsigned i = 0; i < c->devices.n; i++)
    if (simulated_index(c->devices.items[i]) == index) return true;
  return false;
}

static int check_index(const struct tl_config *c, const char *key, const char *text, uint32_t index, struct tl_error *err) {
  if (index == TL_SIM_ANY || is_there(c, index)) return TL_OK;
  return tl_error_set(err, TL_EINVAL, key, "%s: '%.80s': expected the number of a device in devices, which has no sim:%u", key,
                      text, index);
}

/* Those of a replica are of one kind. */
static int check_group(const struct tl_config *c, unsigned first, struct tl_error *err) {
  unsigned n = (unsigned)c->engine_tensor_parallel, index;
  const struct tl_device_ops *ops = tl_device_find(c->devices.items[first], &index, err);
  if (n > 1 && !ops->group)
    return tl_error_set(err, TL_EINVAL, "engine.tensor_parallel",
                        "engine.tensor_parallel: devices such as '%.60s' cannot share a model", c->devices.items[first]);
  for (unsigned i = first + 1; i < first + n; i++)
    if (tl_device_find(c->devices.items[i], &index, err) != ops)
      return tl_error_set(err, TL_EINVAL, "devices", "devices: '%.60s' and '%.60s' cannot share a model (engine.tensor_parallel is %u)",
                          c->devices.items[first], c->devices.items[i], n);
  return TL_OK;
}

static int check_devices(const struct tl_config *c, struct tl_error *err) {
  unsigned n = (unsigned)c->engine_tensor_parallel, index;
  int r = TL_OK;
  for (unsigned i = 0; i < c->devices.n; i++)
    if (!tl_device_find(c->devices.items[i], &index, err)) return TL_EINVAL;
  if (c->devices.n % n)
    return tl_error_set(err, TL_EINVAL, "engine.tensor_parallel",
                        "engine.tensor_parallel: expected a divisor of the number of devices, which is %u, got %u",
                        c->devices.n, n);
  for (unsigned i = 0; r == TL_OK && i < c->devices.n; i += n) r = check_group(c, i, err);
  return r;
}

static int check_model(const struct tl_config *config, struct tl_error *err) {
  int r = check_devices(config, err);
  for (unsigned i = 0; r == TL_OK && i < config->sim_faults.n; i++) {
    struct tl_sim_fault fault;
    const char *text = config->sim_faults.items[i];
    r = tl_sim_parse_fault(text, &fault, err);
    if (r == TL_OK) r = check_index(config, "sim.faults", text, fault.device, err);
  }
  for (unsigned i = 0; r == TL_OK && i < config->sim_override.n; i++) {
    struct tl_sim_options unused = {0};
    const char *text = config->sim_override.items[i];
    r = tl_sim_override(text, 0, &unused, err);
    if (r == TL_OK) r = check_index(config, "sim.override", text, (uint32_t)strtoul(text, NULL, 10), err);
  }
  return r;
}

int simulate_check(const struct tl_config *config, struct tl_error *err) {
  int r = TL_OK;
  for (unsigned i = 0; r == TL_OK && i < config->n_models; i++)
    if ((r = check_model(&config->models[i], err)) < 0) tl_config_name_model(config, i, err);
  return r;
}

unsigned daemon_replicas(const struct tl_config *config) {
  return config->devices.n / (unsigned)config->engine_tensor_parallel;
}

bool simulate_only(const struct tl_config *config) {
  for (unsigned i = 0; i < config->devices.n; i++)
    if (simulated_index(config->devices.items[i]) < 0) return false;
  return true;
}

/* Tokens that make readable text whatever stands before them: whole characters, no
 * control characters, nothing special. */
static bool is_ordinary(const struct tl_tokenizer *tokenizer, int32_t id) {
  size_t length;
  const char *bytes = tl_tokenizer_bytes(tokenizer, id, &length);
  if (!bytes || length == 0 || tl_tokenizer_is_special(tokenizer, id) || !tl_utf8_valid(bytes, length)) return false;
  for (size_t i = 0; i < length; i++)
    if ((unsigned char)bytes[i] < ' ' || bytes[i] == 0x7f) return false;
  return true;
}

static bool is_eos(const struct tl_model *model, int32_t id) {
  for (uint32_t i = 0; i < model->n_eos; i++)
    if (model->eos[i] == id) return true;
  return false;
}

/* 0: the tokenizer has none, and the device takes the whole vocabulary. */
static uint32_t find_tokens(const struct tl_model *model, const struct tl_tokenizer *tokenizer, int32_t *ret) {
  uint32_t n = 0;
  int32_t size = tl_tokenizer_size(tokenizer);
  for (int32_t id = 0; id < size && (uint32_t)id < model->vocab_size; id++)
    if (is_ordinary(tokenizer, id) && !is_eos(model, id)) ret[n++] = id;
  return n;
}

static int fill(struct simulation *s, const struct tl_config *c, const struct tl_model *model,
                const struct tl_tokenizer *tokenizer, struct tl_error *err) {
  int r = TL_OK;
  for (unsigned i = 0; r == TL_OK && i < c->sim_faults.n; i++)
    r = tl_sim_parse_fault(c->sim_faults.items[i], &s->faults[i], err);
  uint32_t n_tokens = find_tokens(model, tokenizer, s->tokens);
  for (unsigned i = 0; i < c->devices.n; i++) {
    int64_t index = simulated_index(c->devices.items[i]);
    s->options[i] = (struct tl_sim_options){.base_ns = c->sim_base_us * 1000,
                                            .per_token_ns = c->sim_per_token_ns,
                                            .per_block_ns = c->sim_per_block_ns,
                                            .n_kv_blocks = (uint32_t)c->sim_kv_blocks,
                                            .eos_every = (uint32_t)c->sim_eos_every,
                                            .tokens = n_tokens ? s->tokens : NULL,
                                            .n_tokens = n_tokens,
                                            .faults = s->faults,
                                            .n_faults = c->sim_faults.n};
    for (unsigned k = 0; index >= 0 && r == TL_OK && k < c->sim_override.n; k++)
      r = tl_sim_override(c->sim_override.items[k], (uint32_t)index, &s->options[i], err);
  }
  return r;
}

struct simulation *simulate_new(const struct tl_config *config, const struct tl_model *model,
                                const struct tl_tokenizer *tokenizer, struct tl_error *err) {
  struct simulation *s = calloc(1, sizeof *s);
  if (s) {
    s->options = calloc(config->devices.n, sizeof *s->options);
    s->faults = calloc(config->sim_faults.n + 1, sizeof *s->faults);
    s->tokens = calloc((size_t)model->vocab_size + 1, sizeof *s->tokens);
  }
  bool made = s && s->options && s->faults && s->tokens;
  if (!made) tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  if (made && fill(s, config, model, tokenizer, err) == TL_OK) return s;
  simulate_free(s);
  return NULL;
}

const struct tl_sim_options *simulate_options(const struct simulation *simulation) {
  return simulation->options;
}

void simulate_free(struct simulation *simulation) {
  if (!simulation) return;
  free(simulation->options);
  free(simulation->faults);
  free(simulation->tokens);
  free(simulation);
}
