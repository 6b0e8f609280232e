/* SPDX-License-Identifier: MIT */
/* Compute lanes. Between steps they spin for a moment, then park; within a step
 * barriers spin, and park too when a lane is late (its core may be taken by
 * another thread), so that nobody burns a core which the late one needs. */
#include <linux/futex.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "device/cpu/cpu_private.h"

#define SPINS 4000 /* about 50 to 100 us of pauses */

/* A word that changes and that threads wait for. */
struct gate {
  TL_ALIGNED _Atomic uint32_t value;
  _Atomic uint32_t sleepers;
};

struct lane_thread {
  struct cpu_pool *pool;
  unsigned index;
  pthread_t thread;
};

struct cpu_pool {
  unsigned n_lanes;
  const struct tl_device_options *options; /* the device's */
  struct lane_thread *threads; /* (n_lanes), 0 unused */
  cpu_lane_fn fn;              /* written by lane 0 before `work` changes */
  void *context;
  bool stopping;
  struct gate work, barrier;
  TL_ALIGNED _Atomic uint32_t arrived;
};

static void gate_wait(struct gate *gate, uint32_t old) {
  for (int i = 0; i < SPINS; i++) {
    /* acquire: pairs with the release in gate_open, as does the load below */
    if (atomic_load_explicit(&gate->value, memory_order_acquire) != old) return;
    tl_cpu_relax();
  }
  /* seq_cst here and in gate_open: either we see the new value or it sees a sleeper */
  atomic_fetch_add_explicit(&gate->sleepers, 1, memory_order_seq_cst);
  while (atomic_load_explicit(&gate->value, memory_order_seq_cst) == old)
    syscall(SYS_futex, &gate->value, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
  atomic_fetch_sub_explicit(&gate->sleepers, 1, memory_order_relaxed);
}

static void gate_open(struct gate *gate) {
  /* publishes what was written before; seq_cst: see gate_wait */
  atomic_fetch_add_explicit(&gate->value, 1, memory_order_seq_cst);
  if (atomic_load_explicit(&gate->sleepers, memory_order_seq_cst))
    syscall(SYS_futex, &gate->value, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
}

void cpu_pool_barrier(struct cpu_pool *pool) {
  if (pool->n_lanes == 1) return;
  /* relaxed: read before arriving, so it cannot change until this lane has arrived */
  uint32_t generation = atomic_load_explicit(&pool->barrier.value, memory_order_relaxed);
  /* acq_rel: the last to arrive has seen what all others wrote, and publishes it */
  if (atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel) + 1 == pool->n_lanes) {
    atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed); /* before the gate opens */
    gate_open(&pool->barrier);
  } else {
    gate_wait(&pool->barrier, generation);
  }
}

static void *run_lane(void *argument) {
  struct lane_thread *self = argument;
  struct cpu_pool *pool = self->pool;
  char name[16];
  snprintf(name, sizeof name, "tl-lane-%u", self->index);
  tl_thread_enter(name, TL_ROLE_LANE);
  const struct tl_device_options *o = pool->options;
  if (o->cores) tl_thread_confine(o->first_core + (o->cores == 1 ? self->index : 0), o->cores);
  for (uint32_t seen = 0;; seen++) {
    gate_wait(&pool->work, seen);
    if (pool->stopping) return NULL;
    pool->fn(pool->context, self->index);
    cpu_pool_barrier(pool);
  }
}

int cpu_pool_new(const struct tl_device_options *options, struct cpu_pool **ret, struct tl_error *err) {
  struct cpu_pool *pool = aligned_alloc(TL_CACHE_LINE, sizeof *pool);
  if (!pool) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  *pool = (struct cpu_pool){.n_lanes = 1, .options = options};
  pool->threads = calloc(options->n_lanes, sizeof *pool->threads);
  if (!pool->threads) {
    free(pool);
    return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  }
  for (unsigned i = 1; i < options->n_lanes; i++) {
    pool->threads[i] = (struct lane_thread){.pool = pool, .index = i};
    if (pthread_create(&pool->threads[i].thread, NULL, run_lane, &pool->threads[i]) != 0) {
      cpu_pool_free(pool);
      return tl_error_set(err, TL_EIO, "cpu.threads", "cannot start %u compute threads", options->n_lanes);
    }
    pool->n_lanes++; /* not read by the lanes before the first step */
  }
  *ret = pool;
  return TL_OK;
}

void cpu_pool_free(struct cpu_pool *pool) {
  if (!pool) return;
  pool->stopping = true;
  gate_open(&pool->work);
  for (unsigned i = 1; i < pool->n_lanes; i++) pthread_join(pool->threads[i].thread, NULL);
  free(pool->threads);
  free(pool);
}

void cpu_pool_start(struct cpu_pool *pool, cpu_lane_fn fn, void *context) {
  pool->fn = fn;
  pool->context = context;
  gate_open(&pool->work);
}

void cpu_pool_join(struct cpu_pool *pool) {
  pool->fn(pool->context, 0);
  cpu_pool_barrier(pool);
}
