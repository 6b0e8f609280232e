/* SPDX-License-Identifier: MIT */
/* The child's side: `tokenlane device NAME`. One thread loads the model and then runs step after step, those of
 * child_ranks.c with it where there is a group; another waits for the daemon's end and says how the devices are. The
 * daemon is trusted. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device/child/child_private.h"
#include "tokenlane/adapter.h"

#define HEALTH_MS 50

struct host {
  struct child_shared *shared;
  struct child_job job; /* as it was at the start: what lies in the memory may be written over */
  struct child_layout layout;
  struct tl_sampling *sampling; /* (CHILD_SLOTS, max_batch_size) */
  struct tl_model *model;       /* NULL: simulated, `small` is it */
  struct tl_model small;
  struct child_ranks *ranks;
  _Atomic bool has_loaded;      /* the watching thread may ask for health */
};

/* Ends the process when the daemon is gone. */
static void *watch(void *argument) {
  struct host *h = argument;
  struct pollfd life = {CHILD_LIFE_FD, POLLIN, 0};
  tl_thread_enter("tl-watch", TL_ROLE_NONE);
  for (;;) {
    if (poll(&life, 1, HEALTH_MS) > 0) _exit(0);
    /* acquire: pairs with the release in load */
    if (atomic_load_explicit(&h->has_loaded, memory_order_acquire)) /* relaxed: a flag alone */
      atomic_store_explicit(&h->shared->health, (uint32_t)child_ranks_health(h->ranks), memory_order_relaxed);
  }
}

static int add_adapters(struct host *h, struct tl_error *err) {
  uint32_t n = h->job.n_adapters;
  struct tl_adapter_source *sources = calloc(n ? n : 1, sizeof *sources);
  const char *text = child_at(h->shared, h->layout.adapter_texts);
  if (!sources) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (uint32_t i = 0; i < n; i++) {
    sources[i].name = text;
    sources[i].folder = text + strlen(text) + 1;
    text = sources[i].folder + strlen(sources[i].folder) + 1;
  }
  int r = n ? tl_model_add_adapters(h->model, sources, n, err) : TL_OK;
  free(sources);
  return r;
}

static int load_model(struct host *h, struct tl_error *err) {
  const struct child_job *j = &h->job;
  if (child_ranks_are_simulated(h->ranks)) {
    h->small = (struct tl_model){.vocab_size = j->vocab_size, .max_context = j->max_context, .n_eos = j->n_eos,
                                 .pooling = (enum tl_pooling)j->pooling, .n_out = j->n_out, .normalize = j->normalize};
    memcpy(h->small.eos, j->eos, sizeof h->small.eos);
    return TL_OK;
  }
  int r = tl_model_load(j->model_path, &h->model, err);
  if (r == TL_OK && *j->quantized) r = tl_model_quantize(h->model, j->quantized, err);
  if (r == TL_OK) r = add_adapters(h, err);
  if (r < 0) return r;
  const struct tl_model *m = h->model;
  bool same = m->vocab_size == j->vocab_size && m->dim == j->dim && m->n_layers == j->n_layers && m->weight_bytes == j->weight_bytes &&
              m->pooling == (enum tl_pooling)j->pooling && m->n_out == j->n_out;
  if (same) return TL_OK;
  return tl_error_set(err, TL_ECORRUPT, "model.path", "model.path: the files have changed since the daemon was started");
}

static int load(struct host *h, struct tl_error *err) {
  tl_device_plugin_folder(h->job.plugin_folder);
  int r = child_ranks_open(h->shared, &h->layout, &h->ranks, err);
  if (r == TL_OK) r = load_model(h, err);
  if (r == TL_OK) r = child_ranks_load(h->ranks, h->model ? h->model : &h->small, err);
  if (r == TL_OK && h->model) r = tl_model_check_files(h->model, err);
  if (h->model) tl_model_release_files(h->model);
  /* release: pairs with the acquire in watch */
  if (r == TL_OK) atomic_store_explicit(&h->has_loaded, true, memory_order_release);
  return r;
}

static void answer(struct host *h, uint32_t number, int code, const struct tl_error *err) {
  struct child_shared *s = h->shared;
  s->code = code;
  if (code < 0) {
    memcpy(s->field, err->field, sizeof s->field);
    memcpy(s->message, err->message, sizeof s->message);
  }
  child_tell(&s->answered, number, &s->daemon_sleeps);
}

/* A step that could not begin is told by the next collect: an error of it gives up the one under way too, which the backend
 * is not asked for any more (device.h). */
struct begun {
  struct tl_step step;
  int result;
  struct tl_error error;
};

/* under_way: the step before it, NULL if that has been collected. */
static void begin(struct host *h, uint32_t slot, struct begun *ret, struct begun *under_way) {
  *ret = (struct begun){0};
  struct tl_sampling *sampling = h->sampling + (size_t)slot * h->job.max_batch_size;
  if (child_take_step(h->shared, &h->layout, &h->job, slot, sampling, &ret->step))
    ret->result = child_ranks_submit(h->ranks, &ret->step, &ret->error);
  else
    ret->result = tl_error_set(&ret->error, TL_EDEVICE, NULL, "the step is larger than what was promised at load");
  if (ret->result == TL_OK || !under_way) return;
  under_way->result = ret->result;
  under_way->error = ret->error;
}

static void end(struct host *h, uint32_t number, uint32_t slot, struct begun *begun) {
  struct tl_sampled *sampled = child_at(h->shared, h->layout.sampled + slot * h->layout.slot_bytes);
  if (begun->result == TL_OK) begun->result = child_ranks_collect(h->ranks, sampled, &begun->error);
  answer(h, number, begun->result, &begun->error);
}

static void run(struct host *h, uint32_t number) {
  struct begun begun;
  begin(h, 0, &begun, NULL);
  end(h, number, 0, &begun);
}

/* Number after number; more than one may be there at once. */
static void serve(struct host *h) {
  struct child_shared *s = h->shared;
  struct begun begun[CHILD_SLOTS] = {0};
  uint32_t n_begun = 0, n_ended = 0;
  for (uint32_t number = 2;; number++) {
    uint32_t asked = atomic_load_explicit(&s->asked, memory_order_acquire); /* pairs with the store in child_tell */
    while (asked == number - 1) asked = child_wait(&s->asked, number - 1, &s->child_sleeps, -1);
    switch ((enum child_command)s->commands[number % CHILD_COMMANDS]) {
      case CHILD_RUN: run(h, number); break;
      case CHILD_SUBMIT:
        begin(h, n_begun % CHILD_SLOTS, &begun[n_begun % CHILD_SLOTS],
              n_begun == n_ended ? NULL : &begun[n_ended % CHILD_SLOTS]);
        n_begun++;
        child_tell(&s->answered, number, &s->daemon_sleeps);
        break;
      case CHILD_COLLECT:
        end(h, number, n_ended % CHILD_SLOTS, &begun[n_ended % CHILD_SLOTS]);
        n_ended++;
        break;
    }
  }
}

/* The memory as the daemon made it; NULL: somebody typed `tokenlane device`. */
static struct child_shared *map_memory(void) {
  struct stat about;
  if (fstat(CHILD_MEMORY_FD, &about) < 0 || (uint64_t)about.st_size < sizeof(struct child_shared) ||
      fcntl(CHILD_MEMORY_FD, F_GET_SEALS) < 0)
    return NULL;
  void *memory = mmap(NULL, (size_t)about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, CHILD_MEMORY_FD, 0);
  if (memory == MAP_FAILED) return NULL;
  struct child_shared *shared = memory;
  bool mine = shared->magic == CHILD_MAGIC && child_layout_make(&shared->job, &(struct child_layout){0});
  return mine ? shared : NULL;
}

/* The daemon alone decides when it ends: what systemd or a terminal sends to all of its processes
 * must not take devices from it while it drains. */
static void ignore_signals(void) {
  struct sigaction ignore = {.sa_handler = SIG_IGN};
  sigemptyset(&ignore.sa_mask);
  static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGQUIT};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &ignore, NULL);
}

int tl_device_host(void) {
  ignore_signals();
  struct host *h = calloc(1, sizeof *h);
  if (!h || !(h->shared = map_memory())) {
    fputs("tokenlane: device: is started by the daemon\n", stderr);
    free(h);
    return 2;
  }
  close_range(CHILD_LIFE_FD + 1, ~0u, 0); /* nothing of the daemon's, whoever forgot it */
  pthread_t thread;
  struct tl_error err = {0};
  h->job = h->shared->job;
  child_layout_make(&h->job, &h->layout);
  h->sampling = calloc((size_t)CHILD_SLOTS * h->job.max_batch_size, sizeof *h->sampling);
  int r = h->sampling && pthread_create(&thread, NULL, watch, h) == 0 ? TL_OK : tl_error_set(&err, TL_ENOMEM, NULL, "out of memory");
  if (r == TL_OK) r = load(h, &err);
  answer(h, 1, r, &err);
  if (r == TL_OK) serve(h);
  _exit(1); /* the second thread may be anywhere */
}
