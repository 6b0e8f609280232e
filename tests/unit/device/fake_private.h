/* SPDX-License-Identifier: MIT */
/* What the fake's two halves share: fake_cuda.c, the runtime and the kernels, and fake_libraries.c. */
#ifndef FAKE_PRIVATE_H
#define FAKE_PRIVATE_H

#include <pthread.h>

#include "fake_cuda.h"
#include "unit.h"

#define FAKE_DEVICES 8
#define FAKE_AGAIN (-1) /* a collective whose other ranks are not there yet */

extern pthread_mutex_t fake_lock; /* threads upload, and are ranks; fibers run in one at a time */

/* What every call begins with: counts it, and says what it fails with. */
int fake_begin(const char *name);
int fake_begin_poll(const char *name);
#define FAKE_BEGIN(name)              \
  do {                           \
    int begin_r_ = fake_begin(name);  \
    if (begin_r_) return begin_r_; \
  } while (0)

/* Objects that count as alive until they are freed; removed under fake_lock. */
void *fake_new_object(size_t bytes);
void fake_free_object(void *p);
void fake_remove_object(void *p);
/* All bytes belong to one allocation. */
void fake_check_range(const void *p, size_t bytes);
/* args are copied; run gets the copy, which it may change, again and again while it returns FAKE_AGAIN. */
void fake_enqueue(void *stream, const char *name, int (*run)(void *args), const void *args, size_t bytes);
void fake_note(char letter);
/* fake_libraries.c */
/* A node of a graph came to be, or went (n -1): a communicator's may not be aborted while any is there. */
void fake_hold(int (*run)(void *args), const void *args, int n);
/* NCCL's rule for communicators that do not block: while one is in progress this thread asks, destroys graphs, or aborts. */
void fake_check_pending(const char *name);
void fake_add_libraries(struct cuda_api *api);
void fake_forget_comms(void);
/* fake_dnn.c */
void fake_add_dnn(struct cuda_api *api);

#endif
