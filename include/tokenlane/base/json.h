/* SPDX-License-Identifier: MIT */
/* Whether jansson had the memory that it asked for. It loses a byte of a string for which it has none, does not say so and may write behind the
 * string (2.14), so a text is read here. Who changes a value does not look either: what fails is counted, and who reads compares. */
#ifndef TOKENLANE_BASE_JSON_H
#define TOKENLANE_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "tokenlane/base/error.h"

/* From here on. First of all: before there are threads, or values. */
void tl_json_watch(void);
/* How often this thread has had none. */
uint64_t tl_json_shortages(void);
/* As json_loadb, but NULL with json_error_out_of_memory for want of memory. */
json_t *tl_json_load(const char *text, size_t length, size_t flags, json_error_t *ret_why);
/* Of tl_json_load_file, beside jansson's flags: Infinity, which Python writes, is read as 1e300. */
#define TL_JSON_INFINITY (1u << 31)
/* The same of a file, by json_load_file's codes; NULL: of standard input. */
json_t *tl_json_load_file(const char *path, size_t flags, json_error_t *ret_why);
/* Whether there is no value for want of memory: *err says so then. */
bool tl_json_is_short(const json_t *value, const json_error_t *why, struct tl_error *err);

#endif
