/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>

#include "daemon/daemon_private.h"

int notify_sockets(int **ret, unsigned *ret_n, struct tl_error *err) {
  *ret = NULL;
  *ret_n = 0;
  int n = sd_listen_fds(1);
  if (n < 0) return tl_error_set(err, TL_EIO, NULL, "the sockets that systemd passed cannot be read");
  if (n == 0) return TL_OK;
  *ret = calloc((size_t)n, sizeof **ret);
  if (!*ret) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  for (int i = 0; i < n; i++) {
    int fd = SD_LISTEN_FDS_START + i;
    if (sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 1) <= 0)
      return tl_error_set(err, TL_EINVAL, NULL, "socket %d that systemd passed is not a listening stream socket", i + 1);
    (*ret)[i] = fd;
  }
  *ret_n = (unsigned)n;
  return TL_OK;
}

void notify_status(const char *state) {
  sd_notify(0, state);
}
