/* SPDX-License-Identifier: MIT */
/* How far the weights are loaded. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/daemon_private.h"
#include "tokenlane/base/clock.h"
#include "tokenlane/log.h"

#define BAR 40
#define REDRAW_NS TL_MS(100)
#define LINE_NS TL_SEC(1) /* a small model loads in one line */

struct progress {
  bool terminal;
  unsigned n_devices, shown; /* percent that was shown last; guarded by `busy` */
  int64_t drawn_ns;           /* likewise */
  atomic_flag busy;           /* one thread draws, the others do not wait: it looks again when it is through */
  _Atomic uint64_t done[];    /* (n_devices) */
};

struct progress *progress_new(unsigned n_devices) {
  struct progress *p = calloc(1, sizeof *p + n_devices * sizeof p->done[0]);
  if (!p) return NULL;
  p->n_devices = n_devices;
  p->terminal = isatty(STDERR_FILENO);
  p->drawn_ns = tl_now_ns();
  atomic_flag_clear(&p->busy);
  return p;
}

void progress_free(struct progress *progress) {
  free(progress);
}

static void draw_bar(unsigned percent, uint64_t done, uint64_t total) {
  char bar[BAR + 1];
  for (unsigned i = 0; i < BAR; i++) bar[i] = i * 100 < percent * BAR ? '#' : '.';
  bar[BAR] = 0;
  fprintf(stderr, "\rloading weights [%s] %3u %%  %" PRIu64 " of %" PRIu64 " MiB%s", bar, percent, done >> 20, total >> 20,
          percent == 100 ? "\n" : "");
}

static void show(struct progress *p, uint64_t done, uint64_t total) {
  unsigned percent = (unsigned)(done * 100 / total);
  int64_t now = tl_now_ns();
  if (p->terminal) {
    if (percent == p->shown || (percent < 100 && now - p->drawn_ns < REDRAW_NS)) return;
    draw_bar(percent, done, total);
  } else {
    bool soon = now - p->drawn_ns < LINE_NS || percent / 10 == p->shown / 10;
    if (percent < 100 ? soon : p->shown == 100) return;
    TL_LOG(TL_LOG_INFO, "model", "loading weights", TL_U("percent", percent), TL_U("bytes", done));
  }
  p->shown = percent;
  p->drawn_ns = now;
}

static uint64_t sum_of(const struct progress *p) {
  uint64_t sum = 0;
  /* seq_cst pairs with the stores and the flag in progress_step: who finds the flag
   * taken has stored before the holder's look after clearing it */
  for (unsigned i = 0; i < p->n_devices; i++) sum += atomic_load_explicit(&p->done[i], memory_order_seq_cst);
  return sum;
}

void progress_step(struct progress *progress, unsigned device, uint64_t done, uint64_t total) {
  if (total == 0) return; /* no weights: nothing to show */
  atomic_store_explicit(&progress->done[device], done, memory_order_seq_cst); /* pairs with sum_of */
  /* Figures that came while another thread drew are not left out: the 100 % may be
   * among them. The flag passes shown and drawn_ns on and pairs with itself. */
  for (uint64_t drawn = UINT64_MAX; sum_of(progress) != drawn;) {
    if (atomic_flag_test_and_set_explicit(&progress->busy, memory_order_seq_cst)) return;
    drawn = sum_of(progress);
    show(progress, drawn, total * progress->n_devices);
    atomic_flag_clear_explicit(&progress->busy, memory_order_seq_cst);
  }
}
