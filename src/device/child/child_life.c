/* SPDX-License-Identifier: MIT */
/* One life of the child, from its start to its end, as the daemon sees it. */
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device/child/child_private.h"
#include "tokenlane/base/clock.h"

#define LOOK_NS TL_MS(20)      /* between looks whether it still lives, while it loads */
#define STALL_NS TL_SEC(120)   /* a load of which nothing is heard for so long has failed */
#define DEATH_NS TL_SEC(10)    /* a killed process whose driver does not let it go after so long is given up for now */
#define FIRST 1                /* the number of the load's answer */

/* --- what it says ---------------------------------------------------------------------------- */

int child_says_nonsense(struct child_device *d, const char *what, struct tl_error *err) {
  kill(atomic_load_explicit(&d->pid, memory_order_relaxed), SIGKILL); /* nobody changes it while this thread waits for it */
  return tl_error_set(err, TL_EDEVICE, NULL, "%s: its process says what cannot be: %s", d->name, what);
}

static int died(const struct child_device *d, const char *how, struct tl_error *err) {
  return tl_error_set(err, TL_EDEVICE, NULL, "%s: its process %s", d->name, how);
}

int child_look(struct child_device *d, uint32_t number, int64_t look_ns, struct tl_error *err) {
  struct child_shared *s = d->shared;
  for (bool ended = false;; look_ns = 0) { /* its last answer may have come just before its end: one more look */
    char how[64];
    uint32_t answered = atomic_load_explicit(&s->answered, memory_order_acquire); /* pairs with the store in child_tell */
    if (answered != number) answered = child_wait(&s->answered, answered, &s->daemon_sleeps, look_ns);
    if (answered == number) return TL_OK;
    if (number - answered >= CHILD_COMMANDS) return child_says_nonsense(d, "the number of an answer", err);
    /* acquire: pairs with the release in device_interrupt */
    if (atomic_load_explicit(&d->interrupted, memory_order_acquire)) return died(d, "was ended: its step was given up", err);
    int pid = atomic_load_explicit(&d->pid, memory_order_relaxed); /* changed only while nobody waits here */
    bool was_ended = ended;
    ended = child_has_ended(pid, how, sizeof how);
    if (!ended) return TL_EBUSY;
    if (was_ended) return died(d, how, err);
  }
}

/* Printable and ended, whatever it is. */
static void clean(char *text, size_t size) {
  text[size - 1] = 0;
  for (char *c = text; *c; c++)
    if (*c < ' ' || *c > '~') *c = '?';
}

int child_read_code(const struct child_device *d, struct tl_error *err) {
  char field[TL_ERROR_FIELD], message[TL_ERROR_MESSAGE];
  int32_t code = d->shared->code;
  memcpy(field, d->shared->field, sizeof field);
  memcpy(message, d->shared->message, sizeof message);
  child_was_copied();
  if (code == TL_OK) return TL_OK;
  clean(field, sizeof field);
  clean(message, sizeof message);
  if (code < TL_ECONTEXT || code > TL_EINVAL) code = TL_EDEVICE;
  return tl_error_set(err, code, *field ? field : NULL, "%s", message);
}

static bool is_address(const char *gpu) {
  return strlen(gpu) == strspn(gpu, "0123456789abcdefABCDEF:.");
}

/* The first time: what may be. Later: what it was. */
static int read_rank(struct child_device *d, uint32_t rank, struct tl_error *err) {
  struct tl_device_loaded l = d->shared->loaded[rank];
  child_was_copied();
  l.gpu[sizeof l.gpu - 1] = 0;
  clean(l.attention, sizeof l.attention);
  uint32_t least = d->layout.stride ? tl_blocks_of(d->job.least_context) : 0; /* 0: it pools */
  uint32_t max_states = d->job.ranks[rank].max_states;
  bool has_states = l.n_states <= max_states && (l.n_states > 0) == (max_states > 0);
  if (l.n_blocks < least || l.n_blocks > UINT32_MAX / TL_BLOCK_TOKENS || !has_states || !is_address(l.gpu))
    return child_says_nonsense(d, "what it has loaded", err);
  const struct tl_device_loaded *first = &d->loaded[rank];
  if (first->n_blocks && (l.n_blocks != first->n_blocks || strcmp(l.gpu, first->gpu) != 0))
    return tl_error_set(err, TL_EDEVICE, NULL, "%s: after its restart it has %u KV blocks instead of %u", d->job.ranks[rank].spec,
                        l.n_blocks, first->n_blocks);
  if (first->n_blocks && l.n_states != max_states)
    return tl_error_set(err, TL_EDEVICE, NULL, "%s: after its restart it has %u states of sequences instead of %u", d->job.ranks[rank].spec,
                        l.n_states, max_states);
  d->loaded[rank] = l;
  return TL_OK;
}

static int read_loaded(struct child_device *d, struct tl_error *err) {
  int r = TL_OK;
  for (uint32_t i = 0; r == TL_OK && i < d->job.n_ranks; i++) r = read_rank(d, i, err);
  return r;
}

/* --- from its start to its end ------------------------------------------------------------------- */

static void write_job(struct child_device *d) {
  struct child_shared *s = d->shared;
  size_t tokens = 0, faults = 0;
  for (uint32_t i = 0; i < d->job.n_ranks; i++) {
    d->job.ranks[i].sim.first_step = d->n_steps;
    tokens += d->job.ranks[i].sim.n_tokens;
    faults += d->job.ranks[i].sim.n_faults;
  }
  s->magic = CHILD_MAGIC;
  atomic_store_explicit(&s->asked, FIRST, memory_order_relaxed); /* published by the start of the process */
  s->job = d->job;
  if (d->job.adapter_bytes) memcpy(child_at(s, d->layout.adapter_texts), d->adapter_texts, d->job.adapter_bytes);
  if (!d->job.has_sim) return;
  memcpy(child_at(s, d->layout.sim_tokens), d->sim_tokens, tokens * sizeof *d->sim_tokens);
  memcpy(child_at(s, d->layout.sim_faults), d->sim_faults, faults * sizeof *d->sim_faults);
}

/* Each rank counts as if it loaded the whole model. */
static uint64_t bytes_so_far(const struct child_device *d) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < d->job.n_ranks; i++)
    sum += atomic_load_explicit(&d->shared->loaded_bytes[i], memory_order_relaxed); /* a figure for the eye */
  return d->job.n_ranks ? sum / d->job.n_ranks : 0;
}

static int await_load(struct child_device *d, bool tell_progress, struct tl_error *err) {
  uint64_t total = d->load.model->weight_bytes, before = UINT64_MAX;
  int64_t since_ns = tl_now_ns();
  for (;;) {
    int r = child_look(d, FIRST, LOOK_NS, err);
    if (r != TL_EBUSY) return r;
    uint64_t done = bytes_so_far(d);
    if (atomic_load_explicit(&d->closing, memory_order_relaxed)) /* a flag alone */
      return died(d, "is not needed any more", err);
    if (done != before) since_ns = tl_now_ns();
    if (tl_now_ns() - since_ns > STALL_NS) return died(d, "does not go on loading", err);
    if (done != before && done <= total && tell_progress && d->load.progress) d->load.progress(done, total, d->load.context);
    before = done;
  }
}

int child_begin(struct child_device *d, bool tell_progress, struct tl_error *err) {
  pid_t pid = 0;
  int fd;
  if (!child_layout_make(&d->job, &d->layout))
    return tl_error_set(err, TL_ENOMEM, "engine.max_batch_size", "engine.max_batch_size: a step is too large to be shared");
  int r = child_make_memory(d->layout.bytes, &d->shared, &fd, err);
  if (r < 0) return r;
  write_job(d);
  d->number = FIRST;
  d->n_submitted = d->n_collected = 0;
  atomic_store_explicit(&d->interrupted, 0, memory_order_relaxed); /* nobody interrupts what has not begun */
  r = child_spawn(d->name, fd, &pid, &d->life, err);
  close(fd);
  atomic_store_explicit(&d->pid, pid, memory_order_relaxed); /* 0 after an error; who may look is told by other means */
  if (r == TL_OK) r = await_load(d, tell_progress, err);
  if (r == TL_OK) r = child_read_code(d, err);
  if (r == TL_OK) r = read_loaded(d, err);
  if (r < 0) child_end(d);
  return r;
}

bool child_end(struct child_device *d) {
  int pid = atomic_load_explicit(&d->pid, memory_order_relaxed); /* only who ends it changes it */
  if (pid > 0) {
    kill(pid, SIGKILL);
    if (!child_reap(pid, DEATH_NS)) return false;
  }
  atomic_store_explicit(&d->pid, 0, memory_order_relaxed); /* likewise */
  if (d->life >= 0) close(d->life);
  if (d->shared) munmap(d->shared, d->layout.bytes);
  d->life = -1;
  d->shared = NULL;
  return true;
}
