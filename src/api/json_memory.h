/* SPDX-License-Identifier: MIT */
/* Whether jansson had the memory that it asked for. It loses a byte of a string for which it has none, does not say so and may write behind the
 * string (2.14), so a text is read here. Who changes a value does not look either: what fails is counted, and who reads compares. */
#ifndef API_JSON_MEMORY_H
#define API_JSON_MEMORY_H

#include <jansson.h>
#include <stdint.h>

/* From here on. Before there are threads. */
void api_json_watch(void);
/* How often this thread has had none. */
uint64_t api_json_shortages(void);
/* As json_loadb, but NULL for want of memory; *ret_why is not filled then. */
json_t *api_json_load(const char *text, size_t length, size_t flags, json_error_t *ret_why);

#endif
