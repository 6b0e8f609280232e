/* SPDX-License-Identifier: MIT */
/* Layers that keep a state on the CPU backend beyond what the golden models say: kernels of each instruction set against loops in
 * double, states that several sequences go on from, how many there are. */
#include <math.h>

#include "float_twin.h"
#include "golden_llama.h"
#include "kernel_unit.h"

static double silu(double x) {
  return x / (1 + exp(-x));
}

static void check_near(float got, double expected, double size, const char *what, size_t i) {
  if (!(fabs((double)got - expected) <= 1e-5 * (size + fabs(expected)))) fail_msg("%s, %zu: %a, expected %a", what, i, (double)got, expected);
}

/* --- convolutions ------------------------------------------------------------------------------ */

struct conv_case {
  uint32_t n, rows, conv;
  bool gated, biased, begins;
};

/* What comes out of row `row` of channel i; rows before the first are those kept. */
static double convolved(const struct conv_case *c, const float *in, const float *kept, const float *weight, const float *bias, const float *gate,
                        uint32_t row, uint32_t i) {
  double sum = c->biased ? (double)bias[i] : 0;
  for (uint32_t j = 0; j < c->conv; j++) {
    int64_t at = (int64_t)row - (c->conv - 1) + j;
    double x = at >= 0 ? (double)in[(size_t)at * c->n + i] : c->begins ? 0 : (double)kept[(size_t)(at + c->conv - 1) * c->n + i];
    sum += (double)weight[j * c->n + i] * x;
  }
  return c->gated ? sum * (double)gate[row * c->n + i] : silu(sum);
}

/* The rows at once, and in three chunks, in place, whose state lies apart and then is written over. */
static void convolve_case(const struct cpu_kernels *kernels, const struct conv_case *c) {
  size_t n = (size_t)c->rows * c->n, n_kept = (size_t)(c->conv - 1) * c->n;
  float *in = numbers(n, 2), *gate = numbers(n, 2), *weight = numbers((size_t)c->conv * c->n, 1), *bias = numbers(c->n, 1);
  float *kept = numbers(n_kept, 2), *out = numbers(n, 1), *state = numbers(n_kept, 1), *again = numbers(n, 1), *chunked = numbers(n_kept, 1);
  struct cpu_conv k = {in, out, weight, c->biased ? bias : NULL, c->gated ? gate : NULL, c->begins ? NULL : kept, state, c->n, c->n, c->n,
                       c->n, c->n, c->rows, c->n, c->conv};
  kernels->convolve(&k);
  for (uint32_t row = 0; row < c->rows; row++)
    for (uint32_t i = 0; i < c->n; i++)
      check_near(out[row * c->n + i], convolved(c, in, kept, weight, bias, gate, row, i), 4, kernels->name, row * c->n + i);
  for (uint32_t j = 0; j + 1 < c->conv; j++)
    for (uint32_t i = 0; i < c->n; i++) {
      int64_t at = (int64_t)c->rows - (c->conv - 1) + j;
      float expected = at >= 0 ? in[(size_t)at * c->n + i] : c->begins ? 0 : kept[(size_t)(at + c->conv - 1) * c->n + i];
      assert_true(same_bits(state[j * c->n + i], expected));
    }
  memcpy(again, in, n * sizeof *in);
  uint32_t ends[] = {c->rows / 3, c->rows / 2, c->rows}, row = 0;
  for (unsigned part = 0; part < 3; part++) {
    if (ends[part] == row) continue;
    k.in = k.out = again + row * c->n;
    k.gate = c->gated ? gate + row * c->n : NULL;
    k.from = row ? chunked : c->begins ? NULL : kept;
    k.to = chunked;
    k.n_rows = ends[part] - row;
    kernels->convolve(&k);
    row = ends[part];
  }
  for (size_t i = 0; i < n; i++) assert_true(same_bits(again[i], out[i]));
  for (size_t i = 0; i < n_kept; i++) assert_true(same_bits(chunked[i], state[i]));
  float *all[] = {in, gate, weight, bias, kept, out, state, again, chunked};
  for (unsigned i = 0; i < UNIT_COUNT(all); i++) free(all[i]);
}

static void convolve_all(const struct cpu_kernels *kernels) {
  static const uint32_t rows[] = {1, 2, 3, 7, 40};
  for (uint32_t conv = 2; conv <= CPU_MAX_CONV; conv += conv < 4 ? 1 : 6)
    for (unsigned i = 0; i < UNIT_COUNT(rows); i++)
      for (unsigned bits = 0; bits < 8; bits++)
        convolve_case(kernels, &(struct conv_case){i % 2 ? CPU_CONV_RUN : 48, rows[i], conv, bits & 1, bits & 2, bits & 4});
}

static void test_convolve(void **state) {
  (void)state;
  for_all_kernels(convolve_all);
}

/* --- the delta rule ------------------------------------------------------------------------------ */

struct delta_case {
  uint32_t rows, key_dim, columns;
  bool begins, scans; /* scans: by Mamba 2's rule */
};

static void run_rule(const struct cpu_kernels *kernels, const struct delta_case *c, const struct cpu_delta *d) {
  if (c->scans) kernels->scan(d);
  else kernels->delta(d);
}

/* Token by token in double, from and to S (key_dim, CPU_DELTA_COLUMNS). */
static void plain_delta(const struct delta_case *c, const struct cpu_delta *d, double *s, double *out) {
  for (uint32_t row = 0; row < c->rows; row++) {
    const float *q = d->q + row * d->ld, *k = d->k + row * d->ld, *v = d->v + row * d->ld;
    double keep = (double)d->decay[row * d->ld_gates], part = (double)d->beta[row * d->ld_gates];
    for (uint32_t column = 0; column < c->columns; column++) {
      double mixed = 0, made = 0;
      for (uint32_t i = 0; i < c->key_dim; i++) mixed += (s[i * CPU_DELTA_COLUMNS + column] *= keep) * (double)k[i];
      for (uint32_t i = 0; i < c->key_dim; i++) {
        s[i * CPU_DELTA_COLUMNS + column] += (double)k[i] * part * ((double)v[column] - (c->scans ? 0 : mixed));
        made += s[i * CPU_DELTA_COLUMNS + column] * (double)q[i];
      }
      out[row * c->columns + column] = made + (c->scans ? (double)d->skip * (double)v[column] : 0);
    }
  }
}

static void delta_case(const struct cpu_kernels *kernels, const struct delta_case *c) {
  size_t ld = 2 * (size_t)c->key_dim + c->columns, n_s = (size_t)c->key_dim * CPU_DELTA_COLUMNS, n_out = (size_t)c->rows * c->columns;
  float *u = numbers(c->rows * ld, 1 / sqrtf((float)c->key_dim)), *gates = numbers((size_t)c->rows * 2, 0.5f), *from = numbers(n_s, 1);
  float *to = numbers(n_s, 1), *out = numbers(n_out, 1), *again = numbers(n_out, 1), *chunked = numbers(n_s, 1);
  double *s = calloc(n_s, sizeof *s), *expected = malloc(n_out * sizeof *expected);
  for (uint32_t i = 0; i < 2 * c->rows; i++) gates[i] += 0.5f;
  for (size_t i = 0; i < n_s && !c->begins; i++) s[i] = (double)from[i];
  struct cpu_delta d = {u, u + c->key_dim, u + 2 * (size_t)c->key_dim, gates, gates + 1, out, c->begins ? NULL : from, to,
                        ld, 2, c->columns, c->rows, c->key_dim, c->columns, 0.75f};
  run_rule(kernels, c, &d);
  plain_delta(c, &d, s, expected);
  for (size_t i = 0; i < n_out; i++) check_near(out[i], expected[i], 10, kernels->name, i);
  for (uint32_t i = 0; i < c->key_dim; i++)
    for (uint32_t k = 0; k < c->columns; k++)
      check_near(to[i * CPU_DELTA_COLUMNS + k], s[i * CPU_DELTA_COLUMNS + k], 10, kernels->name, i);
  uint32_t ends[] = {c->rows / 4, c->rows / 3, c->rows}, row = 0;
  for (unsigned part = 0; part < 3; part++) {
    if (ends[part] == row) continue;
    struct cpu_delta some = d;
    some.q += row * ld, some.k += row * ld, some.v += row * ld;
    some.beta += 2 * row, some.decay += 2 * row;
    some.out = again + row * c->columns;
    some.from = row ? chunked : d.from;
    some.to = chunked;
    some.n_rows = ends[part] - row;
    run_rule(kernels, c, &some);
    row = ends[part];
  }
  for (size_t i = 0; i < n_out; i++) assert_true(same_bits(again[i], out[i]));
  for (uint32_t i = 0; i < c->key_dim; i++)
    for (uint32_t k = 0; k < c->columns; k++) assert_true(same_bits(chunked[i * CPU_DELTA_COLUMNS + k], to[i * CPU_DELTA_COLUMNS + k]));
  float *all[] = {u, gates, from, to, out, again, chunked};
  for (unsigned i = 0; i < UNIT_COUNT(all); i++) free(all[i]);
  free(s);
  free(expected);
}

static void delta_all(const struct cpu_kernels *kernels) {
  static const uint32_t rows[] = {1, 2, 5, 70}, keys[] = {1, 13, 128}, columns[] = {1, 17, CPU_DELTA_COLUMNS};
  for (unsigned i = 0; i < UNIT_COUNT(rows); i++)
    for (unsigned k = 0; k < UNIT_COUNT(keys); k++)
      for (unsigned c = 0; c < UNIT_COUNT(columns); c++)
        for (unsigned bits = 0; bits < 4; bits++) delta_case(kernels, &(struct delta_case){rows[i], keys[k], columns[c], bits & 1, bits & 2});
}

static void test_delta(void **state) {
  (void)state;
  for_all_kernels(delta_all);
}

/* --- gates ------------------------------------------------------------------------------------------ */

/* Nothing behind the row is touched, and what is no number stays none. */
static void gates_on(const struct cpu_kernels *kernels) {
  for (uint32_t n = 1; n < 70; n += 3) {
    float *x = numbers(n, 3), *gate = numbers(n, 10), *weight = numbers(n, 2), *a = numbers(n, 1), *b = numbers(n, 1);
    double squares = 0;
    for (uint32_t i = 0; i < n; i++) squares += (double)x[i] * (double)x[i];
    memcpy(a, x, n * sizeof *x);
    memcpy(b, x, n * sizeof *x);
    kernels->sigmoid_mul(a, gate, n);
    kernels->gated_norm(b, gate, weight, n, 1e-3f);
    float *first = numbers(n, 1);
    double gated = 0;
    memcpy(first, x, n * sizeof *x);
    kernels->gate_norm(first, gate, weight, n, 1e-3f);
    for (uint32_t i = 0; i < n; i++) gated += (double)x[i] * silu((double)gate[i]) * (double)x[i] * silu((double)gate[i]);
    for (uint32_t i = 0; i < n; i++)
      check_near(first[i], (double)x[i] * silu((double)gate[i]) / sqrt(gated / n + (double)1e-3f) * (double)weight[i], 1, kernels->name, i);
    free(first);
    for (uint32_t i = 0; i < n; i++) {
      check_near(a[i], (double)x[i] / (1 + exp(-(double)gate[i])), 0.1, kernels->name, i);
      check_near(b[i], (double)x[i] / sqrt(squares / n + (double)1e-3f) * (double)weight[i] * silu((double)gate[i]), 1, kernels->name, i);
    }
    gate[n - 1] = NAN;
    memcpy(a, x, n * sizeof *x);
    kernels->sigmoid_mul(a, gate, n);
    kernels->gated_norm(b, gate, weight, n, 1e-3f);
    assert_true(isnan(a[n - 1]) && isnan(b[n - 1]));
    float *all[] = {x, gate, weight, a, b};
    for (unsigned i = 0; i < UNIT_COUNT(all); i++) free(all[i]);
  }
}

static void test_gates(void **state) {
  (void)state;
  for_all_kernels(gates_on);
}

/* --- states that are kept ----------------------------------------------------------------------------- */

static const char *const models[] = {"arch/qwen3_5", "arch/qwen3_next", "arch/lfm2", "arch/granitemoehybrid", "arch/nemotron_h"};

#define N_KEPT 32 /* tokens before, whole blocks */
#define N_FORKS 3

/* A sequence that goes on from where `kept` is, whose state stays as it is. */
static struct sequence *fork_of(struct machine *m, const struct sequence *kept, uint64_t seed, uint32_t n) {
  struct sequence *s = malloc(sizeof *s);
  *s = *kept;
  for (uint32_t i = 0; i < n; i++) s->tokens[N_KEPT + i] = (int32_t)unit_below(&seed, m->vocab);
  s->n_prompt = s->length = N_KEPT + n;
  s->states[1] = m->next_state++; /* and that is the next one that it writes */
  s->n_steps = 1;
  return s;
}

/* What is kept can be read by several in one step, and later again. */
static void test_forks(void **state) {
  (void)state;
  for (unsigned which = 0; which < UNIT_COUNT(models); which++) {
    struct golden g;
    open_golden(models[which], &g);
    struct machine m = open_machine(g.model, cpu_choose_kernels(tl_cpu_best_isa()), 2);
    struct sequence *kept = new_sequence(g.cases[2].prompt, N_KEPT + 1);
    kept->length = N_KEPT;
    run_parts(&m, &(struct part){kept, N_KEPT}, 1);
    struct sequence *forks[N_FORKS], *alone[N_FORKS];
    struct part parts[N_FORKS];
    for (unsigned i = 0; i < N_FORKS; i++) {
      forks[i] = fork_of(&m, kept, 5 + i, 3 + 4 * i);
      parts[i] = (struct part){forks[i], 3 + 4 * i};
    }
    run_parts(&m, parts, N_FORKS - 1);
    run_parts(&m, parts + N_FORKS - 1, 1);
    for (unsigned i = 0; i < N_FORKS; i++) {
      forks[i]->states[1] = m.next_state++; /* the kept one is not theirs */
      run_alone(&m, forks[i], 8, whole, 1);
      alone[i] = new_sequence(forks[i]->tokens, forks[i]->n_prompt);
      run_alone(&m, alone[i], 8, whole, 1);
      assert_same_draws(forks[i], alone[i], models[which]);
      free(forks[i]);
      free(alone[i]);
    }
    free(kept);
    close_machine(&m);
    close_golden(&g);
  }
}

/* --- memory --------------------------------------------------------------------------------------------- */

static int load_with(const struct tl_model *model, uint64_t bytes, uint32_t max_states, struct tl_device_loaded *ret, struct tl_error *err,
                     size_t *ret_state) {
  struct tl_device_options options = {.n_lanes = 1};
  struct tl_device *device;
  assert_int_equal(cpu_device_ops.open(&options, &device, err), TL_OK);
  struct tl_device_load load = {.model = model, .max_batch_size = 64, .max_batch_tokens = 16, .max_context = 512, .kv_memory_bytes = bytes,
                                .max_states = max_states};
  int r = cpu_device_ops.load(device, &load, ret, err);
  *ret_state = ((struct cpu_device *)device)->states.floats * sizeof(float);
  cpu_device_ops.close(device);
  return r;
}

/* Half of the memory at most, but one in any case, if a context's keys and values have room beside it. */
static void test_memory(void **state) {
  (void)state;
  struct golden g;
  struct tl_device_loaded loaded;
  struct tl_error err = {0};
  size_t one, context = 512 * 2 * 2 * 16 * sizeof(float); /* K and V of two heads of 16, one layer */
  open_golden("arch/qwen3_5", &g);
  assert_int_equal(g.model->n_kv_layers, 1);
  assert_int_equal(load_with(g.model, 64 << 20, 7, &loaded, &err, &one), TL_OK);
  assert_int_equal(loaded.n_states, 7);
  assert_int_equal(one, 2 * (6 * 10 * 32 + 2 * 112) * sizeof(float));
  assert_int_equal(loaded.n_blocks, 64 * 32);
  assert_int_equal(loaded.kv_bytes, 64 * context + 7 * one);
  assert_int_equal(load_with(g.model, 20 * one + 2 * context, 1000, &loaded, &err, &one), TL_OK);
  assert_in_range(loaded.n_states, 10, 20);
  assert_true(loaded.n_blocks >= 32 && loaded.kv_bytes <= 20 * one + 2 * context);
  assert_int_equal(load_with(g.model, one + context, 1000, &loaded, &err, &one), TL_OK);
  assert_int_equal(loaded.n_states, 1);
  assert_int_equal(loaded.n_blocks, 32);
  assert_int_equal(load_with(g.model, 3 * one + context, 1000, &loaded, &err, &one), TL_OK);
  assert_int_equal(loaded.n_states, 3);
  assert_int_equal(load_with(g.model, one + context - 4096, 1000, &loaded, &err, &one), TL_ENOMEM);
  assert_string_equal(err.field, "engine.kv_memory_bytes");
  assert_non_null(strstr(err.message, "for its state"));
  close_golden(&g);
  open_golden("arch/qwen3", &g);
  assert_int_equal(load_with(g.model, 64 << 20, 0, &loaded, &err, &one), TL_OK);
  assert_int_equal(loaded.n_states, 0);
  close_golden(&g);
}

/* A process that follows another is given what that said it took, and wants as many states: it must make the same of it. */
static void test_memory_again(void **state) {
  (void)state;
  struct golden g;
  struct tl_error err = {0};
  struct tl_device_loaded first, second;
  size_t one;
  open_golden("arch/qwen3_5", &g);
  for (uint64_t bytes = 300000; bytes < 20000000; bytes += bytes / 9 + 1) {
    if (load_with(g.model, bytes, bytes % 3 ? 1000 : 144, &first, &err, &one) < 0) continue;
    assert_int_equal(load_with(g.model, first.kv_bytes, first.n_states, &second, &err, &one), TL_OK);
    assert_int_equal(second.n_states, first.n_states);
    assert_int_equal(second.n_blocks, first.n_blocks);
    assert_true(first.kv_bytes <= bytes);
  }
  close_golden(&g);
}

/* --- number formats ---------------------------------------------------------------------------------------- */

/* What says how much of a state stays is not rounded; the rest is, and what comes out is not far off. */
static void test_quantized(void **state) {
  (void)state;
  struct golden g;
  struct tl_error err = {0};
  open_golden("arch/qwen3_5_vision", &g);
  if (tl_model_quantize(g.model, "q8_0", &err) < 0) fail_msg("%s", err.message);
  struct machine m = open_machine(g.model, cpu_choose_kernels(tl_cpu_best_isa()), 1);
  const struct cpu_device *d = (const struct cpu_device *)m.device;
  for (uint32_t i = 0; i < g.model->n_ops; i++) {
    const struct cpu_matrix *w = &d->weights.matrices[i];
    enum tl_op_kind kind = g.model->plan[i].kind;
    if (kind == TL_OP_DELTA_IN || kind == TL_OP_GATE_IN || kind == TL_OP_QKV || kind == TL_OP_ATTN_OUT) assert_non_null(w->quant);
    if (kind != TL_OP_DELTA_GATES) continue;
    assert_non_null(w->quant);
    for (w = w->next; w; w = w->next) assert_null(w->quant);
  }
  double worst = 0;
  for (unsigned i = 0; i < N_CASES; i++) {
    struct sequence *s = new_sequence(g.cases[i].prompt, g.cases[i].n_prompt);
    run_alone(&m, s, 1, whole, 1);
    const struct tl_sampled *first = &s->sampled[s->n_prompt];
    assert_int_equal(first->token, g.cases[i].tokens[0]);
    worst = fmax(worst, fabs((double)first->logprob - g.cases[i].logprobs[0]));
    free(s);
  }
  printf("in q8_0: log-probabilities within %.2g\n", worst);
  assert_true(worst < 0.2);
  close_machine(&m);
  close_golden(&g);
}

/* Rows in runs are the rows that they were, in any format. */
static void test_runs(void **state) {
  (void)state;
  static const char *const packed[] = {"arch/qwen3_next", "experts/next_f8_block"};
  for (unsigned i = 0; i < UNIT_COUNT(packed); i++) {
    struct tl_model *model = load_model(packed[i]);
    unsigned n_runs = 0;
    for (uint32_t t = 0; t < model->n_tensors; t++) {
      const struct tl_tensor *part = &model->tensors[t];
      if (!part->run_rows || part->n_dims != 2) continue;
      n_runs++;
      struct tl_tensor all = *part; /* as if it were the first rows of what it is a part of */
      all.run_rows = 0;
      float *a = malloc(part->shape[1] * sizeof *a), *b = malloc(part->shape[1] * sizeof *b);
      for (uint64_t row = 0; row < part->shape[0]; row++) {
        tl_tensor_row_to_f32(part, row, a);
        tl_tensor_row_to_f32(&all, row / part->run_rows * part->run_step + row % part->run_rows, b);
        assert_memory_equal(a, b, part->shape[1] * sizeof *a);
      }
      free(a);
      free(b);
    }
    assert_true(n_runs >= 8); /* of q_proj two, of in_proj_qkvz four, of in_proj_ba two */
    tl_model_free(model);
  }
}

/* The draws of a model whose states forget by exp(a_log), in steps of nothing. */
static struct sequence *without_steps(const char *name, float a_log) {
  struct golden g;
  open_golden(name, &g);
  float numbers[2][64];
  for (unsigned i = 0; i < UNIT_COUNT(numbers[0]); i++) {
    numbers[0][i] = a_log;
    numbers[1][i] = -200;
  }
  for (uint32_t i = 0; i < g.model->n_ops; i++) {
    const struct tl_op *op = &g.model->plan[i];
    for (unsigned input = 0; input < 2 && (op->kind == TL_OP_SCAN || op->kind == TL_OP_DELTA); input++) {
      struct tl_tensor *t = (struct tl_tensor *)(uintptr_t)&g.model->tensors[op->weight[input]];
      assert_true(t->shape[0] <= UNIT_COUNT(numbers[0]));
      *t = (struct tl_tensor){.name = t->name, .dtype = TL_DTYPE_F32, .n_dims = 1, .shape = {t->shape[0]}, .data = numbers[input],
                              .bytes = t->shape[0] * sizeof(float)};
    }
  }
  struct machine m = open_machine(g.model, cpu_choose_kernels(tl_cpu_best_isa()), 1);
  struct sequence *s = new_sequence(g.cases[1].prompt, g.cases[1].n_prompt);
  run_alone(&m, s, 4, whole, 1);
  close_machine(&m);
  close_golden(&g);
  return s;
}

/* Where exp(a_log) is no float, a step of nothing still forgets nothing. */
static void test_steps_of_nothing(void **state) {
  (void)state;
  static const char *const names[] = {"arch/granitemoehybrid_dense", "arch/qwen3_5"};
  for (unsigned i = 0; i < UNIT_COUNT(names); i++) {
    struct sequence *slow = without_steps(names[i], 0), *fast = without_steps(names[i], 100);
    assert_same_draws(slow, fast, names[i]);
    free(slow);
    free(fast);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_convolve), cmocka_unit_test(test_delta),     cmocka_unit_test(test_gates), cmocka_unit_test(test_forks),
      cmocka_unit_test(test_memory), cmocka_unit_test(test_memory_again),   cmocka_unit_test(test_quantized), cmocka_unit_test(test_runs),
      cmocka_unit_test(test_steps_of_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
