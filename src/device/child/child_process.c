/* SPDX-License-Identifier: MIT */
/* The child as a process. posix_spawn, since the daemon has threads and much memory: the new process is another
 * run of this program before anything of the daemon's could go wrong in it. PR_SET_PDEATHSIG is no
 * help: it fires when the thread that started the child ends, and that is a passing one. The pipe tells the
 * child that the daemon is gone, however that came about. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "device/child/child_private.h"
#include "tokenlane/base/clock.h"

#define ABOVE_FD 10 /* out of the way of the numbers that the child wants */

static int fail(struct tl_error *err, const char *what, int code) {
  return tl_error_set(err, TL_EIO, "isolation", "isolation: %s: %s", what, strerror(code));
}

/* Sealed: memory that a child could make smaller would kill the daemon with SIGBUS. */
int child_make_memory(size_t bytes, struct child_shared **ret, int *ret_fd, struct tl_error *err) {
  int low = memfd_create("tokenlane-device", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (low < 0) return fail(err, "memfd_create", errno);
  int fd = fcntl(low, F_DUPFD_CLOEXEC, ABOVE_FD), code = errno;
  close(low);
  if (fd < 0) return fail(err, "dup", code);
  void *memory = MAP_FAILED;
  if (ftruncate(fd, (off_t)bytes) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (memory == MAP_FAILED) {
    code = errno;
    close(fd);
    return fail(err, "shared memory", code);
  }
  *ret = memory;
  *ret_fd = fd;
  return TL_OK;
}

/* A process group of its own, so that Ctrl-C reaches the daemon alone, which drains first. */
static int spawn(const char *name, int memory_fd, int life_fd, pid_t *ret) {
  char *argv[] = {"tokenlane", "device", (char *)(uintptr_t)name, NULL};
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  int r = posix_spawn_file_actions_init(&actions);
  if (r) return r;
  r = posix_spawnattr_init(&attributes);
  if (r == 0) {
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    r = posix_spawn_file_actions_adddup2(&actions, memory_fd, CHILD_MEMORY_FD);
    if (r == 0) r = posix_spawn_file_actions_adddup2(&actions, life_fd, CHILD_LIFE_FD);
    if (r == 0) r = posix_spawn(ret, "/proc/self/exe", &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
  }
  posix_spawn_file_actions_destroy(&actions);
  return r;
}

int child_spawn(const char *name, int memory_fd, pid_t *ret_pid, int *ret_life, struct tl_error *err) {
  int ends[2], code;
  if (pipe2(ends, O_CLOEXEC) < 0) return fail(err, "pipe", errno);
  int theirs = fcntl(ends[0], F_DUPFD_CLOEXEC, ABOVE_FD);
  code = theirs < 0 ? errno : spawn(name, memory_fd, theirs, ret_pid);
  close(ends[0]);
  if (theirs >= 0) close(theirs);
  if (code) {
    close(ends[1]);
    return fail(err, "the device's process cannot be started", code);
  }
  *ret_life = ends[1];
  return TL_OK;
}

bool child_has_ended(pid_t pid, char *ret_how, size_t size) {
  siginfo_t info = {0};
  int r;
  do r = waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT);
  while (r < 0 && errno == EINTR);
  if (r == 0 && info.si_pid == 0) return false;
  const char *name = r == 0 && info.si_code != CLD_EXITED ? sigabbrev_np(info.si_status) : NULL;
  if (r < 0)
    snprintf(ret_how, size, "is gone");
  else if (info.si_code == CLD_EXITED)
    snprintf(ret_how, size, "ended with status %d", info.si_status);
  else
    snprintf(ret_how, size, "was killed by signal %d (SIG%s)", info.si_status, name ? name : "?");
  return true;
}

bool child_reap(pid_t pid, int64_t timeout_ns) {
  const struct timespec nap = {.tv_nsec = TL_MS(1)};
  int64_t end_ns = tl_now_ns() + timeout_ns;
  for (;;) {
    siginfo_t info = {0};
    int r = waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG);
    if (r == 0 && info.si_pid != 0) return true;
    if (r < 0 && errno != EINTR) return true; /* it is nobody's any more */
    if (tl_now_ns() >= end_ns) return false;
    nanosleep(&nap, NULL);
  }
}
