/* SPDX-License-Identifier: MIT */
/* A folder of one file, which a group of tests writes anew. UNIT_FILE, defined before, is its name. */
#ifndef ONE_FILE_H
#define ONE_FILE_H

#include "unit.h"

static char folder[64], path[100];

static int make_folder(void **state) {
  (void)state;
  unit_make_folder(folder);
  snprintf(path, sizeof path, "%s/" UNIT_FILE, folder);
  return 0;
}

static int remove_folder(void **state) {
  (void)state;
  unlink(path);
  return rmdir(folder);
}

#endif
