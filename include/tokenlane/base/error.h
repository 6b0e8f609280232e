/* SPDX-License-Identifier: MIT */
/* Errors: functions return 0 or a negative TL_E code; the message for the
 * user is filled once, where the cause is known, and logged once, at the top. */
#ifndef TOKENLANE_BASE_ERROR_H
#define TOKENLANE_BASE_ERROR_H

enum tl_code {
  TL_OK = 0,
  TL_EINVAL = -1,       /* the caller's data is wrong; `field` names which */
  TL_ENOMEM = -2,       /* memory could not be had */
  TL_EIO = -3,          /* the operating system refused */
  TL_ENOTFOUND = -4,    /* no such thing */
  TL_EUNSUPPORTED = -5, /* valid, but not something this build can do */
  TL_ECORRUPT = -6,     /* a file or message contradicts itself */
  TL_ELIMIT = -7,       /* over a configured limit */
  TL_EBUSY = -8,        /* not now: try again later */
  TL_EDEVICE = -9,      /* the device failed */
  TL_ECLOSED = -10,     /* the other side is gone */
  TL_ECONTEXT = -11,    /* more tokens than a sequence can hold */
};

#define TL_ERROR_FIELD 96
#define TL_ERROR_MESSAGE 416

struct tl_error {
  int code;                       /* enum tl_code; 0 while nothing failed */
  int http_status;                /* 0: the API derives it from `code` */
  char field[TL_ERROR_FIELD];     /* dotted name of what is wrong, or "" */
  char message[TL_ERROR_MESSAGE]; /* one sentence, no newline */
};

/* Fills *err (which may be NULL) and returns `code`, so that a function can
 * end with `return tl_error_set(err, TL_EINVAL, "top_p", "...")`. `field` may
 * be NULL. An error that is already filled is replaced. Any thread. */
int tl_error_set(struct tl_error *err, int code, const char *field, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
#ifdef __clang_analyzer__ /* it sees one file at a time: tells it what is returned */
#define tl_error_set(err, code, ...) ((void)(tl_error_set)((err), (code), __VA_ARGS__), (code))
#endif

/* Puts `prefix` and ": " before the message, for callers that know the file
 * or the object in which the cause lies. Returns err->code. */
int tl_error_prefix(struct tl_error *err, const char *prefix);

#endif
