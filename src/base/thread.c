/* SPDX-License-Identifier: MIT */
#include "tokenlane/base/thread.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>

#include "tokenlane/base/error.h"

static _Thread_local enum tl_role role_of_thread;

void tl_thread_enter(const char *name, enum tl_role role) {
  char text[16];
  snprintf(text, sizeof text, "%s", name);
  pthread_setname_np(pthread_self(), text);
  role_of_thread = role;
}

enum tl_role tl_thread_role(void) {
  return role_of_thread;
}

unsigned tl_cpu_count(void) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) < 0) return 1;
  int n = CPU_COUNT(&set);
  return n > 0 ? (unsigned)n : 1;
}

int tl_thread_confine(unsigned first, unsigned n) {
  cpu_set_t all, some;
  if (sched_getaffinity(0, sizeof all, &all) < 0) return TL_EIO;
  unsigned count = (unsigned)CPU_COUNT(&all), index = 0;
  if (count == 0) return TL_EIO;
  CPU_ZERO(&some);
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &all)) continue;
    if ((index + count - first % count) % count < n) CPU_SET(cpu, &some);
    index++;
  }
  return pthread_setaffinity_np(pthread_self(), sizeof some, &some) == 0 ? TL_OK : TL_EIO;
}
