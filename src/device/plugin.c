/* SPDX-License-Identifier: MIT */
/* Finds and opens tokenlane-cuda.so. It is never closed: its threads, and CUDA's own,
 * may still be in it when all devices are closed. */
#include <dlfcn.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "device/device_private.h"

#define FILE_NAME "tokenlane-cuda.so"

static char plugin_folder[PATH_MAX - 64];
static bool folder_is_set;
static _Atomic(const struct tl_device_plugin *) opened;

void tl_device_plugin_folder(const char *folder) {
  if (!folder_is_set) snprintf(plugin_folder, sizeof plugin_folder, "%s", folder);
  folder_is_set = true;
}

const char *device_plugin_folder(void) {
  return plugin_folder;
}

/* Beside the daemon, as `make install` or the build tree has them. */
static void find(char path[PATH_MAX]) {
  static const char *const places[] = {"../lib/tokenlane/" FILE_NAME, "../lib/" FILE_NAME};
  char folder[PATH_MAX - 64];
  ssize_t length = readlink("/proc/self/exe", folder, sizeof folder - 1);
  folder[length > 0 ? length : 0] = 0;
  char *slash = strrchr(folder, '/');
  if (slash) slash[1] = 0;
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    snprintf(path, PATH_MAX, "%s%s", folder, places[i]);
    if (access(path, F_OK) == 0) return;
  }
}

static const struct tl_device_plugin *open_plugin(struct tl_error *err) {
  char path[PATH_MAX];
  if (*plugin_folder)
    snprintf(path, sizeof path, "%s/" FILE_NAME, plugin_folder);
  else
    find(path);
  if (access(path, F_OK) != 0) {
    tl_error_set(err, TL_ENOTFOUND, *plugin_folder ? "device.plugin_dir" : "devices",
                 "devices: this build has no CUDA backend: %.250s is not there (`make` builds it where nvcc is, "
                 "device.plugin_dir says where it lies)",
                 path);
    return NULL;
  }
  void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  void *symbol = handle ? dlsym(handle, TL_DEVICE_ENTRY) : NULL;
  if (!symbol) {
    const char *why = dlerror();
    tl_error_set(err, TL_EUNSUPPORTED, "devices", "devices: the CUDA backend cannot be opened: %.300s", why ? why : path);
    return NULL;
  }
  tl_device_entry *entry;
  memcpy(&entry, &symbol, sizeof entry);
  const struct tl_device_plugin *plugin = entry();
  if (plugin->abi == TL_DEVICE_ABI && plugin->sizes == TL_DEVICE_SIZES) return plugin;
  tl_error_set(err, TL_EUNSUPPORTED, "devices",
               "devices: %.200s is of another build than this daemon: its interface is %u/%llx, the daemon's %u/%llx", path,
               plugin->abi, (unsigned long long)plugin->sizes, TL_DEVICE_ABI, (unsigned long long)TL_DEVICE_SIZES);
  return NULL;
}

const struct tl_device_ops *device_plugin(struct tl_error *err) {
  /* two threads may both open it: they get the same object. Pairs with the release below */
  const struct tl_device_plugin *plugin = atomic_load_explicit(&opened, memory_order_acquire);
  if (!plugin) plugin = open_plugin(err);
  if (!plugin) return NULL;
  atomic_store_explicit(&opened, plugin, memory_order_release); /* pairs with the acquire above */
  return plugin->ops;
}
