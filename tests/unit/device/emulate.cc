/* SPDX-License-Identifier: MIT */
/* See emulate.h. One launch at a time. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <map>
#include <vector>

struct alignas(16) quad {
  uint32_t w[4];
};
#include "emulate.h"

/* With 33 cache lines more than a power of two: lanes do the same at the same depth of their stacks, and
 * lines that lie a power of two apart push one another out of the caches. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#define STACK_BYTES ((256u << 10) + 33 * 64)
#else
#define STACK_BYTES ((64u << 10) + 33 * 64)
#endif
#define MAX_THREADS 1024

namespace {

enum state { READY, AT_WARP, AT_BLOCK, DONE };

struct copy {
  void *to;
  const void *from;
  bool valid;
  unsigned group;
};

struct fiber {
  void *stack_pointer;
  const void *bottom; /* of its stack */
  size_t size;
  void *fake_stack;
};

struct thread {
  fiber own;
  int barrier_line;
  std::vector<copy> copies; /* asynchronous ones, by group */
  size_t n_arrived;         /* of them */
  unsigned group;           /* the one that is not committed yet */
};

struct {
  thread threads[MAX_THREADS];
  state at[MAX_THREADS];
  emu_exchange exchanges[MAX_THREADS];
  unsigned n;
  unsigned arrived[MAX_THREADS / 32]; /* lanes that wait for their warp's operation */
  fiber scheduler, *before;           /* before: whom the one that runs was switched to from */
  unsigned warp, order, turn;         /* the warp that runs: this pass over its lanes */
  bool moved;
  char *stacks;
  bool early;                         /* the launch: its threads wait for the kernel before by themselves */
  size_t shared_bytes;
  uint64_t random;
  void (*call)(const void *kernel, const void *args);
  const void *kernel, *args;
} emu;

unsigned index_of(const thread *t) {
  return (unsigned)(t - emu.threads);
}

thread *self() {
  return &emu.threads[emu_here.thread];
}

[[noreturn]] void fail(const char *what) {
  fprintf(stderr, "emulated kernel, block (%u, %u): %s\n", emu_here.x, emu_here.y, what);
  for (unsigned i = 0; i < emu.n; i++) {
    const thread &t = emu.threads[i], &before = emu.threads[i ? i - 1 : 0];
    const emu_exchange &e = emu.exchanges[i];
    if (i && emu.at[i] == emu.at[i - 1] && e.line == emu.exchanges[i - 1].line && t.barrier_line == before.barrier_line) continue;
    if (emu.at[i] == AT_WARP) fprintf(stderr, "  from thread %u: %s in line %d\n", i, e.name, e.line);
    if (emu.at[i] == AT_BLOCK) fprintf(stderr, "  from thread %u: sync_block in line %d\n", i, t.barrier_line);
    if (emu.at[i] == DONE) fprintf(stderr, "  from thread %u: through\n", i);
  }
  abort();
}

/* --- fibers: registers that a callee keeps, on the stack that is left ------------------------- */

extern "C" void emu_switch(void **from, void *to);
#if defined(__x86_64__)
asm(".text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
    ".size emu_switch,.-emu_switch\n");
const size_t SAVED_WORDS = 6;
#elif defined(__aarch64__)
asm(".text\n.globl emu_switch\n.type emu_switch,%function\nemu_switch:\n"
    "sub sp, sp, #160\n"
    "stp x19, x20, [sp]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\nstp x25, x26, [sp, #48]\n"
    "stp x27, x28, [sp, #64]\nstp x29, x30, [sp, #80]\n"
    "stp d8, d9, [sp, #96]\nstp d10, d11, [sp, #112]\nstp d12, d13, [sp, #128]\nstp d14, d15, [sp, #144]\n"
    "mov x9, sp\nstr x9, [x0]\nmov sp, x1\n"
    "ldp x19, x20, [sp]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\nldp x25, x26, [sp, #48]\n"
    "ldp x27, x28, [sp, #64]\nldp x29, x30, [sp, #80]\n"
    "ldp d8, d9, [sp, #96]\nldp d10, d11, [sp, #112]\nldp d12, d13, [sp, #128]\nldp d14, d15, [sp, #144]\n"
    "add sp, sp, #160\nret\n");
#else
#error "the emulator's fibers are written for x86-64 and aarch64"
#endif

void change(fiber *from, fiber *to, bool last) {
  emu.before = from;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(last ? nullptr : &from->fake_stack, to->bottom, to->size);
#endif
  (void)last;
  emu_switch(&from->stack_pointer, to->stack_pointer);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

uint32_t random_below(uint32_t n) {
  emu.random = emu.random * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((emu.random >> 33) % n);
}

void begin_pass() {
  emu.order = random_below(64); /* from any lane on, up or down */
  emu.turn = 0;
  emu.moved = false;
}

/* The next lane of the warp that can go on, pass after pass; null when none can. */
thread *next_lane() {
  for (;; begin_pass()) {
    while (emu.turn < 32) {
      unsigned k = emu.turn++;
      unsigned i = emu.warp * 32 + ((emu.order < 32 ? k : -k) + emu.order) % 32;
      if (emu.at[i] != READY) continue;
      emu.moved = true;
      return &emu.threads[i];
    }
    if (!emu.moved) return nullptr;
  }
}

/* From a lane that cannot go on, or from the scheduler, to a lane that can, or to the scheduler. */
void go_on(fiber *from, bool last) {
  thread *t = next_lane();
  if (t) emu_here.thread = index_of(t);
  fiber *to = t ? &t->own : &emu.scheduler;
  if (to != from) change(from, to, last);
}

void run_thread() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &emu.before->bottom, &emu.before->size);
#endif
  emu.call(emu.kernel, emu.args);
  if (emu_early[emu_here.thread]) fail("a thread ends before it has waited for the kernel before");
  emu.at[emu_here.thread] = DONE;
  go_on(&self()->own, true);
  abort();
}

void prepare(thread *t) {
  char *stack = emu.stacks + (size_t)index_of(t) * STACK_BYTES;
  void **top = (void **)(void *)(stack + STACK_BYTES);
#if defined(__x86_64__)
  *--top = nullptr; /* keeps the stack as a call would leave it: 8 off 16 at entry */
  *--top = (void *)run_thread;
  top -= SAVED_WORDS;
#else
  top -= 20;
  top[11] = (void *)run_thread;
#endif
  t->own = {top, stack, STACK_BYTES, nullptr};
  emu.at[index_of(t)] = READY;
  t->barrier_line = 0;
  t->copies.clear();
  t->n_arrived = 0;
  t->group = 0;
  emu_early[index_of(t)] = emu.early;
  emu.exchanges[index_of(t)] = {};
}

/* --- a block ---------------------------------------------------------------------------------- */

/* Lets all through when each has come to the same barrier. */
bool open_barrier() {
  for (unsigned i = 0; i < emu.n; i++) {
    if (emu.at[i] != AT_BLOCK) return false;
    if (emu.threads[i].barrier_line != emu.threads[0].barrier_line) fail("threads wait at different barriers");
  }
  for (unsigned i = 0; i < emu.n; i++) emu.at[i] = READY;
  return true;
}

/* Lanes of a warp in some order, until none can go on; whether any could. */
bool run_warp(unsigned warp) {
  bool any = false;
  for (unsigned i = 0; i < 32; i++) any |= emu.at[warp * 32 + i] == READY;
  emu.warp = warp;
  begin_pass();
  go_on(&emu.scheduler, false);
  return any;
}

/* Each warp goes as far ahead of the others as it can, the unfairest schedule there is:
 * what a missing barrier may break then breaks. */
void run_block() {
  for (unsigned i = 0; i < emu.n; i++) prepare(&emu.threads[i]);
  memset(emu.arrived, 0, sizeof emu.arrived);
  for (;;) {
    unsigned first = random_below(emu.n / 32), through = 0;
    bool moved = false;
    for (unsigned k = 0; k < emu.n / 32; k++) moved |= run_warp((first + k) % (emu.n / 32));
    for (unsigned i = 0; i < emu.n; i++) through += emu.at[i] == DONE;
    if (through == emu.n) return;
    if (!moved && !open_barrier()) fail("some threads never come");
  }
}

}  // namespace

emu_place emu_here;
bool emu_early[MAX_THREADS];
unsigned emu_early_copies;

void emu_start_early(bool early) {
  emu.early = early;
}

void emu_touch_early(const void *p) {
  if ((size_t)((uintptr_t)p - (uintptr_t)emu_here.shared) >= emu.shared_bytes) fail("memory is touched that the kernel before may write");
}

static std::map<const void *, size_t> &allowed_shared() {
  static std::map<const void *, size_t> bytes;
  return bytes;
}

size_t emu_allowed_shared(const void *kernel) {
  auto found = allowed_shared().find(kernel);
  return found == allowed_shared().end() ? 48u << 10 : found->second;
}

int emu_allow_shared(const void *kernel, size_t bytes) {
  if (bytes > 99u << 10) return 1;
  allowed_shared()[kernel] = bytes;
  return 0;
}

void emu_check_aligned(const void *p, size_t bytes) {
  if ((uintptr_t)p % bytes) fail("an address is not aligned");
}

void emu_sync_block(int line) {
  self()->barrier_line = line;
  emu.at[emu_here.thread] = AT_BLOCK;
  go_on(&self()->own, false);
}

void emu_meet(const char *name, int line, const void *in0, const void *in1, void *out, void (*all)(const emu_exchange *lanes)) {
  emu_exchange *lanes = emu.exchanges + emu.warp * 32, *own = emu.exchanges + emu_here.thread;
  own->name = name;
  own->line = line;
  own->in[0] = in0;
  own->in[1] = in1;
  own->out = out;
  emu.at[emu_here.thread] = AT_WARP;
  unsigned *arrived = &emu.arrived[emu.warp];
  if (++*arrived < 32) {
    go_on(&self()->own, false);
    return; /* the last lane to come has done it for all */
  }
  *arrived = 0;
  for (unsigned i = 0; i < 32; i++)
    if (lanes[i].line != line || (lanes[i].name != name && strcmp(lanes[i].name, name) != 0))
      fail("lanes of a warp meet at different operations");
  all(lanes);
  for (unsigned i = 0; i < 32; i++) emu.at[emu.warp * 32 + i] = READY;
}

/* --- asynchronous copies -------------------------------------------------------------------------- */

void emu_copy_async(void *shared, const void *global, bool valid) {
  emu_check_aligned(shared, 16);
  emu_check_aligned(global, 16);
  memset(shared, 0xff, 16);
  emu_early_copies += valid && emu_early[emu_here.thread];
  self()->copies.push_back({shared, global, valid, self()->group});
}

void emu_commit_async() {
  self()->group++;
}

void emu_wait_async(unsigned groups) {
  thread *t = self();
  for (; t->n_arrived < t->copies.size() && t->copies[t->n_arrived].group + groups < t->group; t->n_arrived++) {
    const copy &c = t->copies[t->n_arrived];
    if (c.valid)
      memcpy(c.to, c.from, 16);
    else
      memset(c.to, 0, 16);
  }
}

/* --- tensor cores, as the PTX ISA describes them ------------------------------------------------------ */

/* "Matrix Fragments for mma.m16n8k16 with floating point type": groupID = lane / 4,
 * threadID_in_group = lane % 4.
 *   A a0..a7: row groupID for i = 0,1,4,5, else groupID + 8;
 *             column threadID_in_group * 2 + (i & 1), + 8 for i >= 4
 *   B b0..b3: row threadID_in_group * 2 + (i & 1), + 8 for i >= 2; column groupID
 *   C c0..c3: row groupID, + 8 for i >= 2; column threadID_in_group * 2 + (i & 1) */
/* Not under a sanitizer: all it touches are registers of lanes and its own arrays, and half of the time would go there. */
template <float (*to_float)(uint16_t)>
__attribute__((no_sanitize("address", "undefined"))) static void multiply(const emu_exchange *lanes) {
  float a[16][16], b[16][8];
  for (unsigned lane = 0; lane < 32; lane++) {
    unsigned group = lane / 4, in_group = lane % 4;
    const uint32_t *ra = (const uint32_t *)lanes[lane].in[0], *rb = (const uint32_t *)lanes[lane].in[1];
#pragma GCC unroll 8
    for (unsigned i = 0; i < 8; i++) {
      unsigned row = group + ((i >= 2 && i < 4) || i >= 6 ? 8 : 0), column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      a[row][column] = to_float((uint16_t)(ra[i / 2] >> (i & 1) * 16));
    }
#pragma GCC unroll 4
    for (unsigned i = 0; i < 4; i++)
      b[in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group] = to_float((uint16_t)(rb[i / 2] >> (i & 1) * 16));
  }
  float sums[16][8];
  for (unsigned lane = 0; lane < 32; lane++)
    for (unsigned i = 0; i < 4; i++) sums[lane / 4 + (i >= 2 ? 8 : 0)][lane % 4 * 2 + (i & 1)] = ((const float *)lanes[lane].out)[i];
  for (unsigned row = 0; row < 16; row++) {
    float sum[8];
    memcpy(sum, sums[row], sizeof sum);
    for (unsigned k = 0; k < 16; k++)
      for (unsigned column = 0; column < 8; column++) sum[column] += a[row][k] * b[k][column];
    memcpy(sums[row], sum, sizeof sum);
  }
  for (unsigned lane = 0; lane < 32; lane++)
    for (unsigned i = 0; i < 4; i++) ((float *)lanes[lane].out)[i] = sums[lane / 4 + (i >= 2 ? 8 : 0)][lane % 4 * 2 + (i & 1)];
}

void emu_mma_bf16(const emu_exchange *lanes) {
  multiply<emu_bf16_to_f32>(lanes);
}

void emu_mma_f16(const emu_exchange *lanes) {
  multiply<emu_f16_to_f32>(lanes);
}

/* "ldmatrix": threads 0-7, 8-15, 16-23, 24-31 hold the addresses of the rows of
 * matrices 0 to 3; thread i gets of each matrix, in r[j], row i / 4, elements
 * (i % 4) * 2 and the next; with .trans of the transposed matrix. */
void emu_load_matrices(const emu_exchange *lanes, bool transposed) {
  for (unsigned i = 0; i < 32; i++) emu_check_aligned(lanes[i].in[0], 16);
  for (unsigned i = 0; i < 32; i++)
    for (unsigned j = 0; j < 4; j++) {
      uint32_t pair = 0;
      for (unsigned k = 0; k < 2; k++) {
        unsigned row = i / 4, column = i % 4 * 2 + k;
        uint16_t element = transposed ? ((const uint16_t *)lanes[j * 8 + column].in[0])[row]
                                      : ((const uint16_t *)lanes[j * 8 + row].in[0])[column];
        pair |= (uint32_t)element << k * 16;
      }
      ((uint32_t *)lanes[i].out)[j] = pair;
    }
}

int emu_run(void (*call)(const void *kernel, const void *args), const void *kernel, const void *args, unsigned x,
            unsigned y, unsigned threads, size_t shared_bytes) {
  if (x == 0 || y == 0 || y > 65535 || threads == 0 || threads > MAX_THREADS || threads % 32) return 1;
  if (!emu.stacks) {
    void *p = mmap(nullptr, (size_t)MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return 2;
    emu.stacks = (char *)p;
  }
  emu.call = call;
  emu.kernel = kernel;
  emu.args = args;
  emu.n = threads;
  emu.shared_bytes = shared_bytes;
  emu_here.grid_x = x;
  emu_here.shared = (unsigned char *)aligned_alloc(16, shared_bytes ? (shared_bytes + 15) / 16 * 16 : 16);
  for (emu_here.y = 0; emu_here.y < y; emu_here.y++) {
    uint32_t first = random_below(x), up = random_below(2);
    for (unsigned i = 0; i < x; i++) {
      emu_here.x = (unsigned)(((uint64_t)first + (up ? i : x - i)) % x);
      memset(emu_here.shared, 0xff, shared_bytes);
      run_block();
    }
  }
  free(emu_here.shared);
  return 0;
}
