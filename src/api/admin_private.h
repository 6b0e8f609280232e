/* SPDX-License-Identifier: MIT */
/* What the files of the operator's listener share. Handlers run on its one loop. */
#ifndef ADMIN_PRIVATE_H
#define ADMIN_PRIVATE_H

#include "api/api_private.h"

/* admin.c: the value of `name` in the query, as it stands there, into ret (size with the NUL).
 * False: it is not there, or is too long. */
bool admin_query(const struct tl_http_request *request, const char *name, char *ret, size_t size);

/* admin_log.c */
int admin_register_log(struct tl_http *http);

/* admin_trace.c. On error *ret is made or NULL. */
struct admin_trace;
int admin_trace_new(struct tl_http *http, struct tl_trace *trace, struct admin_trace **ret);
/* The loop was woken. */
void admin_trace_wake(struct admin_trace *t);
/* Once neither the loop nor a maker runs. */
void admin_trace_free(struct admin_trace *t);

#endif
