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

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#define STACK_BYTES (256u << 10)
#else
#define STACK_BYTES (64u << 10)
#endif
#define MAX_THREADS 1024

namespace {

enum state { READY, AT_WARP, AT_BLOCK, DONE };

struct copy {
  void *to;
  const void *from;
  bool valid;
};

struct thread {
  void *stack_pointer;
  state at;
  emu_exchange exchange;
  int barrier_line;
  std::vector<std::vector<copy>> groups; /* asynchronous copies; the last is not committed yet */
  void *fake_stack;
};

struct {
  thread threads[MAX_THREADS];
  unsigned n, x, y, grid_x;
  unsigned arrived[MAX_THREADS / 32]; /* lanes that wait for their warp's operation */
  thread *self;
  void *scheduler;
  char *stacks;
  unsigned char *shared;
  uint64_t random;
  void (*call)(const void *kernel, const void *args);
  const void *kernel, *args;
  void *fake_stack;
  const void *main_bottom;
  size_t main_size;
} emu;

unsigned index_of(const thread *t) {
  return (unsigned)(t - emu.threads);
}

[[noreturn]] void fail(const char *what) {
  fprintf(stderr, "emulated kernel, block (%u, %u): %s\n", emu.x, emu.y, what);
  for (unsigned i = 0; i < emu.n; i++) {
    const thread &t = emu.threads[i], &before = emu.threads[i ? i - 1 : 0];
    if (i && t.at == before.at && t.exchange.line == before.exchange.line && t.barrier_line == before.barrier_line)
      continue;
    if (t.at == AT_WARP) fprintf(stderr, "  from thread %u: %s in line %d\n", i, t.exchange.name, t.exchange.line);
    if (t.at == AT_BLOCK) fprintf(stderr, "  from thread %u: sync_block in line %d\n", i, t.barrier_line);
    if (t.at == DONE) fprintf(stderr, "  from thread %u: through\n", i);
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

void to_scheduler(bool last) {
  thread *t = emu.self;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(last ? nullptr : &t->fake_stack, emu.main_bottom, emu.main_size);
#endif
  (void)last;
  emu_switch(&t->stack_pointer, emu.scheduler);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(t->fake_stack, &emu.main_bottom, &emu.main_size);
#endif
}

void run_thread() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &emu.main_bottom, &emu.main_size);
#endif
  emu.call(emu.kernel, emu.args);
  emu.self->at = DONE;
  to_scheduler(true);
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
  t->stack_pointer = top;
  t->at = READY;
  t->exchange = {};
  t->barrier_line = 0;
  t->groups.assign(1, {});
  t->fake_stack = nullptr;
}

void resume(thread *t) {
  emu.self = t;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&emu.fake_stack, emu.stacks + (size_t)index_of(t) * STACK_BYTES, STACK_BYTES);
#endif
  emu_switch(&emu.scheduler, t->stack_pointer);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(emu.fake_stack, nullptr, nullptr);
#endif
}

/* --- a block ---------------------------------------------------------------------------------- */

uint32_t random_below(uint32_t n) {
  emu.random = emu.random * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((emu.random >> 33) % n);
}

/* Lets all through when each has come to the same barrier. */
bool open_barrier() {
  for (unsigned i = 0; i < emu.n; i++) {
    if (emu.threads[i].at != AT_BLOCK) return false;
    if (emu.threads[i].barrier_line != emu.threads[0].barrier_line) fail("threads wait at different barriers");
  }
  for (unsigned i = 0; i < emu.n; i++) emu.threads[i].at = READY;
  return true;
}

/* Lanes of a warp in some order, until none can go on. */
bool run_warp(unsigned warp) {
  for (bool any = false;; any = true) {
    bool moved = false;
    unsigned order = random_below(64); /* from any lane on, up or down */
    for (unsigned k = 0; k < 32; k++) {
      thread *t = &emu.threads[warp * 32 + ((order < 32 ? k : -k) + order) % 32];
      if (t->at != READY) continue;
      resume(t);
      moved = true;
    }
    if (!moved) return any;
  }
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
    for (unsigned i = 0; i < emu.n; i++) through += emu.threads[i].at == DONE;
    if (through == emu.n) return;
    if (!moved && !open_barrier()) fail("some threads never come");
  }
}

}  // namespace

unsigned emu_thread_index() {
  return index_of(emu.self);
}
unsigned emu_block_x() {
  return emu.x;
}
unsigned emu_block_y() {
  return emu.y;
}
unsigned emu_grid_x() {
  return emu.grid_x;
}
void *emu_shared() {
  return emu.shared;
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
  emu.self->barrier_line = line;
  emu.self->at = AT_BLOCK;
  to_scheduler(false);
}

void emu_meet(const emu_exchange &mine, void (*all)(const emu_exchange *lanes)) {
  thread *self = emu.self, *warp = emu.threads + index_of(self) / 32 * 32;
  self->exchange = mine;
  self->exchange.lane = index_of(self) % 32;
  self->at = AT_WARP;
  unsigned *arrived = &emu.arrived[index_of(self) / 32];
  if (++*arrived < 32) {
    to_scheduler(false);
    return; /* the last lane to come has done it for all */
  }
  *arrived = 0;
  emu_exchange lanes[32];
  for (unsigned i = 0; i < 32; i++) lanes[i] = warp[i].exchange;
  for (unsigned i = 0; i < 32; i++)
    if (lanes[i].line != lanes[0].line || strcmp(lanes[i].name, lanes[0].name) != 0)
      fail("lanes of a warp meet at different operations");
  all(lanes);
  for (unsigned i = 0; i < 32; i++) warp[i].at = READY;
}

/* --- asynchronous copies -------------------------------------------------------------------------- */

void emu_copy_async(void *shared, const void *global, bool valid) {
  emu_check_aligned(shared, 16);
  emu_check_aligned(global, 16);
  memset(shared, 0xff, 16);
  emu.self->groups.back().push_back({shared, global, valid});
}

void emu_commit_async() {
  emu.self->groups.push_back({});
}

void emu_wait_async(unsigned groups) {
  auto &pending = emu.self->groups;
  while (pending.size() > groups + 1) {
    for (const copy &c : pending.front()) {
      if (c.valid)
        memcpy(c.to, c.from, 16);
      else
        memset(c.to, 0, 16);
    }
    pending.erase(pending.begin());
  }
}

/* --- tensor cores, as the PTX ISA describes them ------------------------------------------------------ */

/* "Matrix Fragments for mma.m16n8k16 with floating point type": groupID = lane / 4,
 * threadID_in_group = lane % 4.
 *   A a0..a7: row groupID for i = 0,1,4,5, else groupID + 8;
 *             column threadID_in_group * 2 + (i & 1), + 8 for i >= 4
 *   B b0..b3: row threadID_in_group * 2 + (i & 1), + 8 for i >= 2; column groupID
 *   C c0..c3: row groupID, + 8 for i >= 2; column threadID_in_group * 2 + (i & 1) */
void emu_mma(const emu_exchange *lanes, float (*to_float)(uint16_t)) {
  float a[16][16], b[16][8];
  for (unsigned lane = 0; lane < 32; lane++) {
    unsigned group = lane / 4, in_group = lane % 4;
    const uint32_t *ra = (const uint32_t *)lanes[lane].in[0], *rb = (const uint32_t *)lanes[lane].in[1];
    for (unsigned i = 0; i < 8; i++) {
      unsigned row = group + ((i >= 2 && i < 4) || i >= 6 ? 8 : 0), column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      a[row][column] = to_float((uint16_t)(ra[i / 2] >> (i & 1) * 16));
    }
    for (unsigned i = 0; i < 4; i++)
      b[in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group] = to_float((uint16_t)(rb[i / 2] >> (i & 1) * 16));
  }
  for (unsigned lane = 0; lane < 32; lane++) {
    float *c = (float *)lanes[lane].out;
    for (unsigned i = 0; i < 4; i++) {
      unsigned row = lane / 4 + (i >= 2 ? 8 : 0), column = lane % 4 * 2 + (i & 1);
      float sum = c[i];
      for (unsigned k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
      c[i] = sum;
    }
  }
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
  emu.grid_x = x;
  emu.shared = (unsigned char *)aligned_alloc(16, shared_bytes ? (shared_bytes + 15) / 16 * 16 : 16);
  for (emu.y = 0; emu.y < y; emu.y++) {
    uint32_t first = random_below(x), up = random_below(2);
    for (unsigned i = 0; i < x; i++) {
      emu.x = (unsigned)(((uint64_t)first + (up ? i : x - i)) % x);
      memset(emu.shared, 0xff, shared_bytes);
      run_block();
    }
  }
  free(emu.shared);
  return 0;
}
