/* SPDX-License-Identifier: MIT */
/* What a scrape says of the daemon's process, by the names that Prometheus' own clients use, and of its
 * version. Devices in processes of their own are not in it. Every figure is a system call or three,
 * since a loop's thread makes them; any may, as nothing is kept between them. */
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/daemon_private.h"
#include "tokenlane/base/clock.h"

static double read_cpu_seconds(void *unused) {
  (void)unused;
  struct timespec used;
  if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) < 0) return NAN;
  return (double)used.tv_sec + (double)used.tv_nsec * 1e-9;
}

struct memory {
  unsigned long long mapped, resident; /* pages */
};

static struct memory read_statm(void) {
  struct memory memory = {0, 0};
  char text[128];
  int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
  if (fd >= 0) close(fd);
  text[n > 0 ? n : 0] = 0;
  if (sscanf(text, "%llu %llu", &memory.mapped, &memory.resident) != 2) memory = (struct memory){0, 0};
  return memory;
}

static double bytes(unsigned long long pages) {
  return pages ? (double)pages * (double)sysconf(_SC_PAGESIZE) : NAN;
}

static double read_resident(void *unused) {
  (void)unused;
  return bytes(read_statm().resident);
}

static double read_virtual(void *unused) {
  (void)unused;
  return bytes(read_statm().mapped);
}

double process_count_entries(const char *folder) {
  DIR *entries = opendir(folder);
  struct dirent *entry;
  double n = 0;
  if (!entries) return NAN;
  while ((entry = readdir(entries))) n += entry->d_name[0] != '.';
  closedir(entries);
  return n;
}

/* Since Linux 6.2 the folder's size is their number. Before, they have to be counted, which takes a microsecond each;
 * the one that the folder itself takes is left out. */
static double read_open_fds(void *unused) {
  (void)unused;
  struct stat folder;
  if (stat("/proc/self/fd", &folder) == 0 && folder.st_size > 0) return (double)folder.st_size;
  return process_count_entries("/proc/self/fd") - 1;
}

static double read_max_fds(void *unused) {
  (void)unused;
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return NAN;
  return limit.rlim_cur == RLIM_INFINITY ? INFINITY : (double)limit.rlim_cur;
}

static double read_start(void *start_s) {
  return *(const double *)start_s;
}

static double read_one(void *unused) {
  (void)unused;
  return 1;
}

void process_metrics_add(struct tl_metrics *metrics, double *start_s) {
  *start_s = (double)tl_wall_ns() * 1e-9;
  tl_metrics_gauge_read(metrics, "tokenlane_build_info", "1; its label says what is running.", "version=\"" TL_VERSION "\"",
                        read_one, NULL);
  tl_metrics_counter_read(metrics, "process_cpu_seconds_total", "Time of processors that all threads have used.", NULL,
                          read_cpu_seconds, NULL);
  tl_metrics_gauge_read(metrics, "process_resident_memory_bytes", "Memory that is in RAM, mapped files included.", NULL, read_resident, NULL);
  tl_metrics_gauge_read(metrics, "process_virtual_memory_bytes", "Address space that is mapped.", NULL, read_virtual, NULL);
  tl_metrics_gauge_read(metrics, "process_open_fds", "Open file descriptors.", NULL, read_open_fds, NULL);
  tl_metrics_gauge_read(metrics, "process_max_fds", "Most that may be open.", NULL, read_max_fds, NULL);
  tl_metrics_gauge_read(metrics, "process_start_time_seconds", "When the process started, in seconds since 1970.", NULL, read_start, start_s);
}
