/* SPDX-License-Identifier: MIT */
/* A device in a process of its own: this program again, which is then a simulated device, or one that
 * says what it should not (TL_HOSTILE). */
#include <math.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "child_rig.h"

/* --- the hostile one ------------------------------------------------------------------------------------ */

enum when { AT_LOAD, AT_STEP };

static struct child_shared *theirs;
static struct child_layout their_layout;

static void say(uint32_t number) {
  child_tell(&theirs->answered, number, &theirs->daemon_sleeps);
}
static struct tl_sampled *result(void) {
  return child_at(theirs, their_layout.sampled);
}
static void no_blocks(void) { theirs->loaded[0].n_blocks = 0; }
static void most_blocks(void) { theirs->loaded[0].n_blocks = UINT32_MAX; }
static void no_states(void) { theirs->loaded[theirs->job.n_ranks - 1].n_states = 0; }
static void many_states(void) { theirs->loaded[0].n_states = STATES + 1; }
static void no_blocks_of_the_last(void) { theirs->loaded[theirs->job.n_ranks - 1].n_blocks = 0; }
static void quoted_gpu(void) { memcpy(theirs->loaded[0].gpu, "\"} 1\n", 6); }
static void endless_gpu(void) { memset(theirs->loaded[0].gpu, '"', sizeof theirs->loaded[0].gpu); }
static void wild_code(void) {
  theirs->code = 4711;
  memset(theirs->message, 0xff, sizeof theirs->message);
  memset(theirs->field, '\n', sizeof theirs->field);
}
static void leave(void) { _exit(3); }
static void crash(void) { raise(SIGKILL); }
static void jump(void) {
  say(77);
  pause();
}
static void go_back(void) {
  say(0xfffffff0);
  pause();
}
static void token_too_large(void) { result()->token = 1000; }
static void token_negative(void) { result()->token = -2; }
static void many_tops(void) { result()->n_top = 1 << 30; }
static void negative_tops(void) { result()->n_top = -1; }
static void more_tops_than_asked(void) { result()->n_top = 3; }
static void top_too_large(void) {
  result()->n_top = 2;
  result()->top_tokens[1] = 1 << 20;
}
static void not_a_number(void) { result()->logprob = NAN; }
static void nothing(void) { result()->token = INT32_MIN; } /* what it found there */
static void never_sleeps_nor_wakes(void) {
  atomic_store(&theirs->child_sleeps, 0xdeadbeef);
  atomic_store(&theirs->health, 0xdeadbeef);
}
/* Memory that goes away would kill the daemon. */
static void take_away(void) {
  if (ftruncate(CHILD_MEMORY_FD, 0) == 0) return;
  _exit(4);
}

static const struct trick {
  const char *name;
  enum when when;
  void (*play)(void);
  const char *message; /* what the error has in it */
} tricks[] = {
    {"no blocks", AT_LOAD, no_blocks, "what it has loaded"},
    {"no blocks of the last", AT_LOAD, no_blocks_of_the_last, "what it has loaded"},
    {"most blocks", AT_LOAD, most_blocks, "what it has loaded"},
    {"no states", AT_LOAD, no_states, "what it has loaded"},
    {"many states", AT_LOAD, many_states, "what it has loaded"},
    {"quoted gpu", AT_LOAD, quoted_gpu, "what it has loaded"},
    {"endless gpu", AT_LOAD, endless_gpu, "what it has loaded"},
    {"wild code at load", AT_LOAD, wild_code, "????????"},
    {"leave at load", AT_LOAD, leave, "ended with status 3"},
    {"crash at load", AT_LOAD, crash, "was killed by signal 9 (SIGKILL)"},
    {"jump at load", AT_LOAD, jump, "the number of an answer"},
    {"wild code", AT_STEP, wild_code, "????????"},
    {"leave", AT_STEP, leave, "ended with status 3"},
    {"crash", AT_STEP, crash, "was killed by signal 9 (SIGKILL)"},
    {"jump", AT_STEP, jump, "the number of an answer"},
    {"go back", AT_STEP, go_back, "the number of an answer"},
    {"token too large", AT_STEP, token_too_large, "a token"},
    {"token negative", AT_STEP, token_negative, "a token"},
    {"many tops", AT_STEP, many_tops, "a token"},
    {"negative tops", AT_STEP, negative_tops, "a token"},
    {"more tops than asked", AT_STEP, more_tops_than_asked, "a token"},
    {"top too large", AT_STEP, top_too_large, "a token"},
    {"not a number", AT_STEP, not_a_number, "a token"},
    {"nothing", AT_STEP, nothing, "a token"},
    {"take away", AT_STEP, take_away, "ended with status 4"},
    {"never sleeps nor wakes", AT_STEP, never_sleeps_nor_wakes, NULL}, /* rude, but right */
};

static void be_hostile(const char *name) {
  const struct trick *trick = tricks;
  while (strcmp(trick->name, name) != 0) trick++;
  struct stat about;
  fstat(CHILD_MEMORY_FD, &about);
  theirs = mmap(NULL, (size_t)about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, CHILD_MEMORY_FD, 0);
  child_layout_make(&theirs->job, &their_layout);
  for (uint32_t i = 0; i < theirs->job.n_ranks; i++)
    theirs->loaded[i] = (struct tl_device_loaded){.n_blocks = SEQS * TABLE, .n_states = STATES - 1, .gpu = "00000000:3B:00.0"};
  if (trick->when == AT_LOAD) trick->play();
  say(1);
  uint32_t asked = 1, last = theirs->job.runs_ahead ? 3 : 2; /* submit, collect; or both */
  while (asked != last) asked = child_wait(&theirs->asked, asked, &theirs->child_sleeps, -1);
  *result() = (struct tl_sampled){.token = 5, .logprob = -1, .n_top = 2, .top_tokens = {5, 6}, .top_logprobs = {-1, -2}};
  if (trick->when == AT_STEP) trick->play();
  say(last);
  pause();
}

/* --- tests --------------------------------------------------------------------------------------------------- */

/* The next process has the memory that the first one took, and finds what that left to another model used, and more. */
static void test_beside(void **state) {
  (void)state;
  struct rig rig = {.text = {3, 4, 5}, .length = 3};
  struct tl_device_options o = {.spec = "sim:1", .n_lanes = 1, .sim = &rig.options};
  struct tl_device_load load = {.model = &model, .max_batch_size = SEQS, .max_batch_tokens = TOKENS, .max_context = CONTEXT, .beside_bytes = 5, .beside_block_bytes = 3};
  assert_int_equal(ops()->open(&o, &rig.device, &rig.err), TL_OK);
  assert_int_equal(ops()->load(rig.device, &load, rig.loaded, &rig.err), TL_OK);
  const struct child_job *job = &child_of(&rig)->job;
  assert_true(job->beside_bytes == 0 && job->beside_block_bytes == 0 && job->memory_shared);
  assert_int_equal(reset(&rig), TL_OK);
  close_rig(&rig);
}

static void test_tokens(void **state) {
  (void)state;
  static const int32_t some[] = {10, 20, 30, 40, 50};
  for (int all = 0; all < 2; all++) {
    struct rig rig;
    if (open_rig(&rig, (struct tl_sim_options){.tokens = all ? NULL : some, .n_tokens = all ? 0 : 5}) < 0) fail_msg("%s", rig.err.message);
    assert_int_equal(rig.loaded[0].n_blocks, SEQS * TABLE);
    assert_int_equal(rig.loaded[0].n_states, STATES);
    while (rig.length < 200) assert_int_equal(step(&rig), TL_OK);
    assert_text(&rig);
    assert_int_equal(ops()->health(rig.device), TL_DEVICE_WELL);
    close_rig(&rig);
  }
}

/* All that a step has gets to the other side: two mappings of one memory stand for the two processes. */
static void test_steps_through_the_memory(void **state) {
  (void)state;
  struct child_job job = {.n_ranks = 1, .runs_ahead = true, .max_batch_size = SEQS, .max_batch_tokens = TOKENS, .max_context = CONTEXT, .vocab_size = 1000,
                          .n_adapters = 3, .has_states = true};
  struct child_layout l;
  assert_true(child_layout_make(&job, &l));
  struct child_shared *shared;
  struct tl_error err;
  int fd;
  assert_int_equal(child_make_memory(l.bytes, &shared, &fd, &err), TL_OK);
  struct child_shared *other = mmap(NULL, l.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  uint64_t seed = 1;
  static struct tl_token_count history[SEQS][CONTEXT];
  static struct tl_token_bias bias[SEQS][200];
  int32_t tokens[TOKENS];
  uint32_t positions[TOKENS], slots[TOKENS], start[SEQS + 1] = {0}, context[SEQS], tables[SEQS * TABLE], rows[SEQS];
  uint32_t from[SEQS] = {3, TL_NO_STATE, 3, 8}, to[SEQS] = {0, 1, 2, 8};
  struct tl_sampling sampling[SEQS], got[SEQS];
  uint32_t masks[SEQS][TL_MASK_WORDS(1000)];
  for (uint32_t i = 0; i < TOKENS; i++) tokens[i] = (int32_t)unit_below(&seed, 1000), positions[i] = i, slots[i] = i * 7;
  for (uint32_t q = 0; q < SEQS; q++) {
    start[q + 1] = (q + 1) * TOKENS / SEQS;
    context[q] = 1 + unit_below(&seed, CONTEXT);
    rows[q] = start[q + 1] - 1;
    for (uint32_t i = 0; i < TABLE; i++) tables[q * TABLE + i] = (uint32_t)unit_random(&seed);
    for (uint32_t i = 0; i < CONTEXT; i++) history[q][i] = (struct tl_token_count){(int32_t)i, q + i};
    for (uint32_t i = 0; i < 200; i++) bias[q][i] = (struct tl_token_bias){(int32_t)(q + i), (float)i};
    sampling[q] = (struct tl_sampling){.temperature = (float)q, .top_k = 5, .seed = q, .target = -1, .history = history[q],
                                       .n_history = q == 1 ? 0 : CONTEXT, .bias = bias[q], .n_bias = q == 2 ? 0 : 200, .mask = q == 1 ? NULL : masks[q]};
    for (uint32_t i = 0; i < UNIT_COUNT(masks[q]); i++) masks[q][i] = (uint32_t)unit_random(&seed);
  }
  struct tl_step s = {.n_tokens = TOKENS, .n_seqs = SEQS, .n_rows = SEQS, .table_stride = TABLE, .tokens = tokens, .positions = positions,
                      .slots = slots, .query_start = start, .context_len = context, .block_tables = tables, .rows = rows,
                      .sampling = sampling, .adapters = rows, .state_from = from, .state_to = to}, t;
  assert_true(child_put_step(shared, &l, &job, 1, &s));
  const struct child_step counts = shared->steps[1], too_large[] = {{.n_tokens = TOKENS + 1, .n_seqs = SEQS, .n_rows = SEQS},
                                                                  {.n_tokens = TOKENS, .n_seqs = SEQS + 1, .n_rows = SEQS},
                                                                  {.n_tokens = TOKENS, .n_seqs = SEQS, .n_rows = ~0u}};
  for (unsigned i = 0; i < UNIT_COUNT(too_large); i++) {
    shared->steps[1] = too_large[i];
    assert_false(child_take_step(other, &l, &job, 1, got, &t));
  }
  shared->steps[1] = counts;
  assert_true(child_take_step(other, &l, &job, 1, got, &t));
  assert_true(t.n_tokens == TOKENS && t.n_seqs == SEQS && t.n_rows == SEQS && t.table_stride == TABLE);
  assert_memory_equal(t.tokens, tokens, sizeof tokens);
  assert_memory_equal(t.positions, positions, sizeof positions);
  assert_memory_equal(t.slots, slots, sizeof slots);
  assert_memory_equal(t.query_start, start, sizeof start);
  assert_memory_equal(t.context_len, context, sizeof context);
  assert_memory_equal(t.rows, rows, sizeof rows);
  assert_true(t.adapters != t.rows);
  assert_memory_equal(t.state_from, from, sizeof from);
  assert_memory_equal(t.state_to, to, sizeof to);
  assert_memory_equal(t.adapters, rows, sizeof rows);
  for (uint32_t q = 0; q < SEQS; q++) {
    assert_memory_equal(t.block_tables + q * TABLE, tables + q * TABLE, (context[q] + 15) / 16 * sizeof *tables);
    assert_true(got[q].temperature == (float)q && got[q].seed == q && got[q].n_history == sampling[q].n_history);
    assert_memory_equal(got[q].history, history[q], got[q].n_history * sizeof **history);
    assert_memory_equal(got[q].bias, bias[q], got[q].n_bias * sizeof **bias);
    assert_int_equal(got[q].mask != NULL, q != 1);
    if (got[q].mask) assert_memory_equal(got[q].mask, masks[q], sizeof masks[q]);
    if (got[q].mask) assert_true((const char *)(got[q].mask + UNIT_COUNT(masks[q])) <= (const char *)other + l.bytes);
  }
  struct tl_step large = s;
  large.n_tokens = TOKENS + 1;
  assert_false(child_put_step(shared, &l, &job, 1, &large));
  large = s;
  large.n_rows = SEQS + 1;
  assert_false(child_put_step(shared, &l, &job, 1, &large));
  large = s;
  large.table_stride++;
  assert_false(child_put_step(shared, &l, &job, 1, &large));
  large = s;
  large.state_from = large.state_to = NULL; /* of a model that has none */
  assert_false(child_put_step(shared, &l, &job, 1, &large));
  sampling[0].n_history = CONTEXT * 3; /* with the others more than all rows together may have */
  assert_false(child_put_step(shared, &l, &job, 1, &s));
  sampling[0].n_history = 0;
  context[3] = CONTEXT + 1;
  assert_false(child_put_step(shared, &l, &job, 1, &s));
  job.max_batch_size = job.max_context = job.vocab_size = UINT32_MAX;
  assert_false(child_layout_make(&job, &(struct child_layout){0}));
  munmap(shared, l.bytes);
  munmap(other, l.bytes);
  close(fd);
}

/* Whatever it says: an error that names the device, nothing of it is used, and the next process works. */
static void test_hostile(void **state) {
  (void)state;
  for (size_t k = 0; k < 2 * UNIT_COUNT(tricks); k++) {
    size_t i = k / 2;
    struct rig rig;
    setenv("TL_HOSTILE", tricks[i].name, 1);
    int r = open_ranks(&rig, k % 2 ? RANKS : 0, (struct tl_sim_options){0});
    if (tricks[i].when == AT_STEP) {
      if (r < 0) fail_msg("%s: %s", tricks[i].name, rig.err.message);
      assert_string_equal(rig.loaded[0].gpu, "00000000:3B:00.0");
      r = step(&rig);
    }
    unsetenv("TL_HOSTILE");
    if (!tricks[i].message) {
      assert_int_equal(r, TL_OK);
      assert_int_equal(ops()->health(rig.device), TL_DEVICE_FAILED);
    } else if (r != TL_EDEVICE || !strstr(rig.err.message, tricks[i].message) || strchr(rig.err.field, '\n')) {
      fail_msg("%s: %d, %s", tricks[i].name, r, rig.err.message);
    }
    if (tricks[i].when == AT_STEP) {
      for (int rank = 0; rank < RANKS; rank++) child_of(&rig)->loaded[rank].gpu[0] = 0; /* a simulated one has none */
      assert_int_equal(reset(&rig), TL_OK);
      assert_int_equal(child_of(&rig)->loaded[0].n_states, STATES - 1); /* as many as before, though there would be more */
      for (int n = 0; n < 3; n++) assert_int_equal(step(&rig), TL_OK);
      assert_text(&rig);
    }
    close_rig(&rig);
  }
}

/* A device error of the backend is what it is in a thread; the next process goes on in the script. */
static void test_backend_errors(void **state) {
  (void)state;
  static const struct tl_sim_fault faults[] = {{.device = 1, .step = 3, .kind = TL_SIM_ERROR, .recover = 1},
                                               {.device = 1, .step = 4, .kind = TL_SIM_OOM, .n_steps = 1, .recover = 1}};
  struct rig rig;
  assert_int_equal(open_rig(&rig, (struct tl_sim_options){.faults = faults, .n_faults = 2}), TL_OK);
  assert_int_equal(step(&rig), TL_OK);
  assert_int_equal(step(&rig), TL_OK);
  assert_int_equal(step(&rig), TL_EDEVICE);
  assert_string_equal(rig.err.message, "sim:1: simulated fault: step 3 failed");
  assert_int_equal(reset(&rig), TL_OK);
  assert_int_equal(step(&rig), TL_ENOMEM);
  assert_int_equal(reset(&rig), TL_OK);
  for (int i = 0; i < 5; i++) assert_int_equal(step(&rig), TL_OK);
  assert_text(&rig);
  close_rig(&rig);
}

static void *interrupt_soon(void *device) {
  usleep(50000);
  ops()->interrupt(device);
  return NULL;
}

/* A step that never ends, stopped or hanging; it ends with the interrupt. */
static void test_interrupt(void **state) {
  (void)state;
  static const struct tl_sim_fault hang = {.device = 1, .step = 2, .kind = TL_SIM_HANG, .recover = 1};
  struct rig rig;
  for (int stopped = 0; stopped < 2; stopped++) {
    assert_int_equal(open_rig(&rig, stopped ? (struct tl_sim_options){0} : (struct tl_sim_options){.faults = &hang, .n_faults = 1}), TL_OK);
    assert_int_equal(step(&rig), TL_OK);
    if (stopped) kill(child_of(&rig)->pid, SIGSTOP);
    pthread_t thread;
    pthread_create(&thread, NULL, interrupt_soon, rig.device);
    assert_int_equal(step(&rig), TL_EDEVICE);
    assert_non_null(strstr(rig.err.message, "its step was given up"));
    pthread_join(thread, NULL);
    assert_int_equal(step(&rig), TL_EDEVICE); /* until it is reset */
    assert_int_equal(reset(&rig), TL_OK);
    assert_int_equal(ops()->health(rig.device), TL_DEVICE_WELL);
    for (int i = 0; i < 5; i++) assert_int_equal(step(&rig), TL_OK);
    assert_text(&rig);
    close_rig(&rig);
  }
}

/* Killed between steps, which the monitor sees; 30 lives, and no file is left open. */
static void test_many_lives(void **state) {
  (void)state;
  struct rig rig;
  assert_int_equal(open_rig(&rig, (struct tl_sim_options){0}), TL_OK);
  int before = dup(0);
  for (int i = 0; i < 30 / UNIT_SLOWDOWN; i++) {
    assert_int_equal(step(&rig), TL_OK);
    kill(child_of(&rig)->pid, i % 2 ? SIGKILL : SIGUSR1);
    if (i % 3 == 0) {
      int64_t end_ns = tl_now_ns() + TL_SEC(PATIENCE_S);
      while (ops()->health(rig.device) != TL_DEVICE_FAILED) assert_true(tl_now_ns() < end_ns);
    }
    assert_int_equal(step(&rig), TL_EDEVICE);
    assert_int_equal(reset(&rig), TL_OK);
    assert_int_equal(step(&rig), TL_OK);
    assert_text(&rig);
  }
  int after = dup(0);
  assert_int_equal(after, before + 1);
  close(before);
  close(after);
  close_rig(&rig);
}

/* The end comes while a new process loads, which hangs: it is not waited for. */
static void test_close_while_it_restarts(void **state) {
  (void)state;
  struct rig rig;
  assert_int_equal(open_rig(&rig, (struct tl_sim_options){0}), TL_OK);
  ops()->interrupt(rig.device);
  setenv("TL_HOSTILE", "mute", 1);
  assert_int_equal(ops()->reset(rig.device, &rig.err), TL_EBUSY);
  usleep(30000);
  assert_int_equal(ops()->reset(rig.device, &rig.err), TL_EBUSY);
  assert_int_equal(ops()->health(rig.device), TL_DEVICE_FAILED);
  close_rig(&rig);
  unsetenv("TL_HOSTILE");
}

/* --- groups: all ranks in one process --------------------------------------------------------------------------- */

static void test_tokens_of_a_group(void **state) {
  (void)state;
  struct rig rig;
  assert_int_equal(open_ranks(&rig, RANKS, (struct tl_sim_options){0}), TL_OK);
  for (int i = 0; i < RANKS; i++) assert_int_equal(rig.loaded[i].n_blocks, SEQS * TABLE);
  while (rig.length < 200) assert_int_equal(step(&rig), TL_OK);
  assert_text(&rig);
  assert_int_equal(ops()->health(rig.device), TL_DEVICE_WELL);
  close_rig(&rig);
}

/* Whichever rank fails, the step fails with its words, the others come out, and the next process works. */
static void test_a_rank_fails(void **state) {
  (void)state;
  static const enum tl_sim_fault_kind kinds[] = {TL_SIM_ERROR, TL_SIM_DIE, TL_SIM_OOM};
  static const int codes[] = {TL_EDEVICE, TL_EDEVICE, TL_ENOMEM};
  for (uint32_t rank = 0; rank < RANKS; rank++)
    for (size_t k = 0; k < UNIT_COUNT(kinds); k++) {
      struct tl_sim_fault fault = {.device = 1 + rank, .step = 3, .kind = kinds[k], .n_steps = 1, .recover = 1};
      char name[16];
      struct rig rig;
      assert_int_equal(open_ranks(&rig, RANKS, (struct tl_sim_options){.faults = &fault, .n_faults = 1}), TL_OK);
      assert_int_equal(step(&rig), TL_OK);
      assert_int_equal(step(&rig), TL_OK);
      assert_int_equal(step(&rig), codes[k]);
      snprintf(name, sizeof name, "sim:%u: ", 1 + rank);
      if (strncmp(rig.err.message, name, strlen(name)) != 0) fail_msg("%s", rig.err.message);
      assert_int_equal(reset(&rig), TL_OK);
      for (int i = 0; i < 5; i++) assert_int_equal(step(&rig), TL_OK);
      assert_text(&rig);
      close_rig(&rig);
    }
}

/* One rank of the process hangs, or all of it is stopped, killed or crashes. */
static void test_a_group_hangs_or_dies(void **state) {
  (void)state;
  static const int signals[] = {0, SIGSTOP, SIGKILL, SIGSEGV};
  for (size_t i = 0; i < UNIT_COUNT(signals); i++) {
    struct tl_sim_fault hang = {.device = 2, .step = signals[i] ? 1000 : 2, .kind = TL_SIM_HANG, .recover = 1};
    struct rig rig;
    pthread_t thread;
    assert_int_equal(open_ranks(&rig, RANKS, (struct tl_sim_options){.faults = &hang, .n_faults = 1}), TL_OK);
    assert_int_equal(step(&rig), TL_OK);
    if (signals[i]) kill(child_of(&rig)->pid, signals[i]);
    bool hangs = signals[i] == 0 || signals[i] == SIGSTOP;
    if (hangs) pthread_create(&thread, NULL, interrupt_soon, rig.device);
    assert_int_equal(step(&rig), TL_EDEVICE);
    assert_int_equal(strncmp(rig.err.message, "sim:1,sim:2,sim:3: its process ", 31), 0);
    assert_true((strstr(rig.err.message, "its step was given up") != NULL) == hangs);
    if (hangs) pthread_join(thread, NULL);
    assert_int_equal(reset(&rig), TL_OK);
    for (int k = 0; k < 5; k++) assert_int_equal(step(&rig), TL_OK);
    assert_text(&rig);
    close_rig(&rig);
  }
}

static void test_health_is_of_the_worst_rank(void **state) {
  (void)state;
  static const struct tl_sim_fault hot = {.device = 3, .step = 1, .kind = TL_SIM_HOT, .recover = 1};
  struct rig rig;
  assert_int_equal(open_ranks(&rig, RANKS, (struct tl_sim_options){.faults = &hot, .n_faults = 1}), TL_OK);
  assert_int_equal(step(&rig), TL_OK);
  int64_t end_ns = tl_now_ns() + TL_SEC(PATIENCE_S);
  while (ops()->health(rig.device) != TL_DEVICE_IMPAIRED) assert_true(tl_now_ns() < end_ns);
  close_rig(&rig);
}

static void test_a_rank_cannot_load(void **state) {
  (void)state;
  static const struct tl_sim_fault poor = {.device = 2, .step = 0, .kind = TL_SIM_OOM, .n_steps = 1, .recover = 1};
  struct rig rig;
  assert_int_equal(open_ranks(&rig, RANKS, (struct tl_sim_options){.faults = &poor, .n_faults = 1}), TL_ENOMEM);
  assert_int_equal(strncmp(rig.err.message, "sim:2: ", 7), 0);
  close_rig(&rig);
}

static void test_groups_that_cannot_be(void **state) {
  (void)state;
  struct tl_device *device = NULL;
  struct tl_error err = {0};
  struct tl_device_options mixed[] = {{.spec = "sim:0", .n_ranks = 2}, {.spec = "cpu:0"}};
  assert_int_equal(ops()->open(mixed, &device, &err), TL_EINVAL);
  assert_string_equal(err.message, "devices: 'sim:0' and 'cpu:0' cannot share a model");
  mixed[0].n_ranks = TL_MAX_RANKS + 1;
  assert_int_equal(ops()->open(mixed, &device, &err), TL_EINVAL);
  assert_null(device);
}

static void test_what_cannot_be_hosted(void **state) {
  (void)state;
  struct tl_device *device = NULL;
  struct tl_error err = {0};
  assert_int_equal(ops()->open(&(struct tl_device_options){.spec = "abacus:0"}, &device, &err), TL_EINVAL);
  assert_string_equal(err.field, "devices");
  static const struct tl_model no_files = {.vocab_size = 10, .max_context = 16, .dim = 1};
  struct tl_device_load load = {.model = &no_files, .model_path = "/nowhere", .max_batch_size = 1, .max_batch_tokens = 1, .max_context = 16};
  struct tl_device_loaded loaded;
  assert_int_equal(ops()->open(&(struct tl_device_options){.spec = "cpu:0", .n_lanes = 1}, &device, &err), TL_OK);
  assert_true(ops()->load(device, &load, &loaded, &err) < 0);
  assert_non_null(strstr(err.message, "config.json"));
  ops()->close(device);
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "device") == 0) {
    const char *trick = getenv("TL_HOSTILE");
    if (trick && strcmp(trick, "mute") == 0) pause();
    if (trick) be_hostile(trick);
    return tl_device_host();
  }
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_beside), cmocka_unit_test(test_tokens),
      cmocka_unit_test(test_steps_through_the_memory),
      cmocka_unit_test(test_hostile),
      cmocka_unit_test(test_backend_errors),
      cmocka_unit_test(test_interrupt),
      cmocka_unit_test(test_many_lives),
      cmocka_unit_test(test_close_while_it_restarts),
      cmocka_unit_test(test_tokens_of_a_group),
      cmocka_unit_test(test_a_rank_fails),
      cmocka_unit_test(test_a_group_hangs_or_dies),
      cmocka_unit_test(test_health_is_of_the_worst_rank),
      cmocka_unit_test(test_a_rank_cannot_load),
      cmocka_unit_test(test_groups_that_cannot_be),
      cmocka_unit_test(test_what_cannot_be_hosted),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
