/* SPDX-License-Identifier: MIT */
/* Mapped files, and what happens when one of them gets shorter while it is read.
 *
 * Reading behind the new end raises SIGBUS. The handler puts zeros there and marks
 * the file; whoever copied the weights asks model_check_files afterwards. So a
 * lane that copies needs no way out of the middle of its work. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "model/model_private.h"

#define MAX_GUARDS 4096

/* What the handler looks at. A slot is taken by CAS of `begin`, which publishes
 * nothing by itself: `end` is set before anybody reads the mapping (the fault that
 * runs the handler comes later on the same thread, or on one started since).
 * All accesses are relaxed for that reason. */
static struct guard {
  _Atomic uintptr_t begin, end;
  _Atomic bool lost;
} guards[MAX_GUARDS];

static struct sigaction before;

static void on_sigbus(int number, siginfo_t *info, void *context) {
  (void)context;
  int saved = errno;
  uintptr_t at = (uintptr_t)info->si_addr;
  for (unsigned i = 0; i < MAX_GUARDS && info->si_code > 0; i++) {
    /* relaxed: see above */
    uintptr_t begin = atomic_load_explicit(&guards[i].begin, memory_order_relaxed);
    uintptr_t end = atomic_load_explicit(&guards[i].end, memory_order_relaxed); /* relaxed: see above */
    if (!begin || at < begin || at >= end) continue;
    atomic_store_explicit(&guards[i].lost, true, memory_order_relaxed); /* relaxed: see above */
    uintptr_t page = at & ~(uintptr_t)(sysconf(_SC_PAGESIZE) - 1);
    /* all behind it is gone as well */
    if (mmap((void *)page, end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) break;
    errno = saved;
    return;
  }
  /* not ours: the instruction is tried again and meets the handler that was there */
  sigaction(number, &before, NULL);
  if (info->si_code <= 0) syscall(SYS_tgkill, getpid(), (int)syscall(SYS_gettid), number);
  errno = saved;
}

/* With each file, as others may have put theirs there since. Boot, one thread. */
static void install(void) {
  struct sigaction now;
  if (sigaction(SIGBUS, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_sigbus) return;
  struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, &before);
}

static int take_guard(const struct model_file *file) {
  install();
  for (int i = 0; i < MAX_GUARDS; i++) {
    uintptr_t nobody = 0, begin = (uintptr_t)file->data;
    if (!atomic_compare_exchange_strong_explicit(&guards[i].begin, &nobody, begin, memory_order_relaxed,
                                                 memory_order_relaxed)) /* relaxed: see struct guard */
      continue;
    atomic_store_explicit(&guards[i].lost, false, memory_order_relaxed); /* relaxed: see struct guard */
    /* relaxed: see struct guard. Whole pages: the last one holds the file's end */
    atomic_store_explicit(&guards[i].end, begin + file->bytes, memory_order_relaxed);
    return i;
  }
  return -1;
}

static int map_open(int fd, const char *name, struct model_file *ret, struct tl_error *err) {
  struct stat info;
  if (fstat(fd, &info) < 0 || !S_ISREG(info.st_mode))
    return tl_error_set(err, TL_EIO, "model.path", "%s: is not a regular file", name);
  if (info.st_size < 8) return tl_error_set(err, TL_ECORRUPT, "model.path", "%s: is too short for a file of weights", name);
  void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (data == MAP_FAILED)
    return tl_error_set(err, TL_ENOMEM, "model.path", "%s: cannot be mapped: %s", name, strerror(errno));
  *ret = (struct model_file){.data = data, .bytes = (size_t)info.st_size};
  ret->guard = take_guard(ret);
  if (ret->guard >= 0) return TL_OK;
  munmap(data, ret->bytes);
  return tl_error_set(err, TL_ELIMIT, "model.path", "%s: more than %d files are open", name, MAX_GUARDS);
}

int model_file_open(const char *path, const char *name, struct model_file *ret, struct tl_error *err) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return tl_error_set(err, TL_EIO, "model.path", "%s: cannot be opened: %s", name, strerror(errno));
  int r = tl_lfs_check(path, name, err);
  if (r == TL_OK) r = map_open(fd, name, ret, err);
  close(fd);
  return r;
}

bool model_file_lost(const struct model_file *file) {
  return atomic_load_explicit(&guards[file->guard].lost, memory_order_relaxed); /* relaxed: see struct guard */
}

void model_file_close(struct model_file *file) {
  munmap(file->data, file->bytes);
  atomic_store_explicit(&guards[file->guard].end, 0, memory_order_relaxed);   /* relaxed: see struct guard */
  atomic_store_explicit(&guards[file->guard].begin, 0, memory_order_relaxed); /* relaxed: see struct guard */
}

int model_map_file(struct model *m, const char *path, const char *name, struct model_file *ret, struct tl_error *err) {
  int r = model_file_open(path, name, ret, err);
  if (r < 0) return r;
  ret->name = tl_arena_copy(&m->arena, name, strlen(name));
  struct model_file *files = realloc(m->files, (m->n_files + 1) * sizeof *files);
  if (files) m->files = files;
  if (!files || !ret->name) {
    model_file_close(ret);
    return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  }
  m->files[m->n_files++] = *ret;
  return TL_OK;
}

const char *model_file_of(const struct model *m, const struct tl_tensor *t) {
  for (uint32_t i = 0; i < m->n_files; i++) {
    const char *begin = m->files[i].data, *at = t->data;
    if (at >= begin && at <= begin + m->files[i].bytes) return m->files[i].name;
  }
  return "model";
}

int tl_model_check_files(const struct tl_model *model, struct tl_error *err) {
  const struct model *m = (const struct model *)model;
  for (uint32_t i = 0; i < m->n_files; i++)
    if (model_file_lost(&m->files[i]))
      return tl_error_set(err, TL_EIO, "model.path", "%s: the file was truncated while it was read", m->files[i].name);
  return TL_OK;
}

void tl_model_release_files(struct tl_model *model) {
  struct model *m = (struct model *)model;
  for (uint32_t i = 0; i < m->n_tensors; i++) m->tensors[i].data = NULL;
  for (uint32_t i = 0; i < m->n_files; i++) model_file_close(&m->files[i]);
  m->n_files = 0;
}
