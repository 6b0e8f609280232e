/* SPDX-License-Identifier: MIT */
/* journald's native protocol (systemd's JOURNAL_NATIVE_PROTOCOL.md): one datagram a
 * record, in it `NAME=value\n`, or, for a value with a newline, `NAME\n`, its
 * length in 64 bits little endian, the value, `\n`. Names are A-Z, 0-9 and `_`. A record is
 * smaller than any socket buffer, so that the protocol's memfd is never needed. */
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "log/log_private.h"

#define PREFIX "TOKENLANE_" /* a field "unit" or "priority" of ours must not become journald's */
#define MAX_NAME 64         /* journald ignores fields with longer names */

int log_journal_connect(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  if (connect(fd, (const struct sockaddr *)&address, sizeof address) == 0) return fd;
  int reason = errno;
  close(fd);
  errno = reason;
  return -1;
}

static void put_name(struct log_text *out, const char *key) {
  char name[MAX_NAME + 1] = PREFIX;
  size_t n = sizeof PREFIX - 1;
  for (; *key && n < MAX_NAME; key++) {
    char upper = *key >= 'a' && *key <= 'z' ? (char)(*key - 'a' + 'A') : *key;
    name[n++] = (upper >= 'A' && upper <= 'Z') || (upper >= '0' && upper <= '9') ? upper : '_';
  }
  log_text_put(out, name, n);
}

/* "=value\n", or the binary form. */
static void put_string(struct log_text *out, const char *text) {
  if (!strchr(text, '\n')) {
    log_text_puts(out, "=");
    log_text_puts(out, text);
  } else {
    uint64_t length = strlen(text), little = htole64(length);
    log_text_puts(out, "\n");
    log_text_put(out, (const char *)&little, sizeof little);
    log_text_put(out, text, length);
  }
  log_text_puts(out, "\n");
}

/* What journalctl shows by itself: the message, and the fields as logfmt, in one line. */
static void put_message(struct log_text *out, const struct log_record *record, const struct tl_log_field *fields) {
  log_text_puts(out, "MESSAGE=");
  log_text_puts(out, record->message);
  for (unsigned i = 0; i < record->n_fields; i++) {
    log_text_puts(out, " ");
    log_text_puts(out, fields[i].key);
    log_text_puts(out, "=");
    if (fields[i].kind == TL_LOG_KIND_STR)
      log_text_put_quoted(out, fields[i].str ? fields[i].str : "");
    else
      log_text_put_value(out, &fields[i]);
  }
  log_text_puts(out, "\n");
}

void log_journal_put(struct log_text *out, const struct log_record *record, const struct tl_log_field *fields) {
  put_message(out, record, fields);
  log_text_puts(out, "PRIORITY=");
  log_text_put_value(out, &TL_I("", log_text_priority(record->level)));
  log_text_puts(out, "\nSYSLOG_IDENTIFIER=tokenlane\n" PREFIX "MODULE=");
  log_text_puts(out, record->module);
  log_text_puts(out, "\n" PREFIX "TIME=");
  log_text_put_time(out, record->wall_ns);
  log_text_puts(out, "\n");
  for (unsigned i = 0; i < record->n_fields; i++) {
    put_name(out, fields[i].key);
    if (fields[i].kind == TL_LOG_KIND_STR) {
      put_string(out, fields[i].str ? fields[i].str : "");
    } else {
      log_text_puts(out, "=");
      log_text_put_value(out, &fields[i]);
      log_text_puts(out, "\n");
    }
  }
}
