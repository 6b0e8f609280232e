/* SPDX-License-Identifier: MIT */
#ifndef TEXT_UNICODE_SCRIPT_H
#define TEXT_UNICODE_SCRIPT_H

#include <stdint.h>

/* The script of a character as UnicodeScripts has it (kana is Han), a number without a meaning of its own; 0: it
 * belongs to the script before it (blanks, what is not assigned). Pure; any thread. */
unsigned unicode_script(uint32_t code);

#endif
