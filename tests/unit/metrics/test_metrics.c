/* SPDX-License-Identifier: MIT */
#include "tokenlane/metrics.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "unit.h"

/* --- the text format 0.0.4, checked line by line --------------------------------------
 * Written from prometheus.io/docs/instrumenting/exposition_formats, not from the code. */

static size_t name_length(const char *text) {
  size_t n = 0;
  while ((text[n] >= 'a' && text[n] <= 'z') || (text[n] >= 'A' && text[n] <= 'Z') || text[n] == '_' || text[n] == ':' ||
         (n && text[n] >= '0' && text[n] <= '9'))
    n++;
  return n;
}

/* Length of {name="value",...}; escapes are \\ \" \n. 0 when ill-formed. */
static size_t labels_length(const char *text) {
  const char *at = text + 1;
  for (;;) {
    size_t n = name_length(at);
    if (n == 0 || strncmp(at + n, "=\"", 2) != 0) return 0;
    for (at += n + 2; *at != '"'; at++) {
      if (*at == 0 || *at == '\n') return 0;
      if (*at == '\\' && *++at != '\\' && *at != '"' && *at != 'n') return 0;
    }
    if (*++at == '}') return (size_t)(at + 1 - text);
    if (*at++ != ',') return 0;
  }
}

#define NO_BUCKET -1e300

struct family {
  char name[100], kind[20];
  double last_le; /* of the histogram in progress, NO_BUCKET between two */
  long long last_count;
};

static bool ends_with(const char *text, size_t length, const char *end) {
  return length >= strlen(end) && memcmp(text + length - strlen(end), end, strlen(end)) == 0;
}

static void check_histogram_sample(struct family *f, const char *line, size_t name, double value) {
  const char *suffix = line + strlen(f->name);
  if (ends_with(line, name, "_bucket")) {
    const char *le = strstr(line, "le=\"");
    assert_non_null(le);
    double bound = strncmp(le + 4, "+Inf", 4) == 0 ? 1e300 : atof(le + 4);
    if (f->last_le == NO_BUCKET) f->last_count = 0;
    assert_true(bound > f->last_le);                /* ascending */
    assert_true((long long)value >= f->last_count); /* cumulative */
    f->last_le = bound;
    f->last_count = (long long)value;
  } else if (strncmp(suffix, "_sum", 4) == 0) {
    assert_true(f->last_le > 1e299); /* after +Inf */
  } else {
    assert_true(strncmp(suffix, "_count", 6) == 0);
    assert_int_equal((long long)value, f->last_count);
    f->last_le = NO_BUCKET; /* the next one may begin */
  }
}

static void check_line(struct family *f, const char *line, size_t length) {
  if (line[0] == '#') {
    char word[10], name[100], rest[200];
    assert_int_equal(sscanf(line, "# %9s %99s %199[^\n]", word, name, rest), 3);
    if (strcmp(word, "HELP") == 0) {
      assert_true(strcmp(f->name, name) != 0);
      snprintf(f->name, sizeof f->name, "%s", name);
      f->kind[0] = 0;
    } else {
      assert_string_equal(word, "TYPE");
      assert_string_equal(name, f->name);
      assert_string_equal(f->kind, "");
      assert_true(strcmp(rest, "counter") == 0 || strcmp(rest, "gauge") == 0 || strcmp(rest, "histogram") == 0);
      snprintf(f->kind, sizeof f->kind, "%.19s", rest);
      f->last_le = NO_BUCKET;
    }
    return;
  }
  size_t name = name_length(line), labels = 0;
  assert_true(name > 0);
  assert_memory_equal(line, f->name, strlen(f->name)); /* samples stand below their TYPE */
  assert_true(f->kind[0]);
  if (line[name] == '{') assert_true((labels = labels_length(line + name)) > 0);
  assert_int_equal(line[name + labels], ' ');
  char *end;
  double value = strtod(line + name + labels + 1, &end);
  assert_ptr_equal(end, line + length);
  if (strcmp(f->kind, "histogram") == 0)
    check_histogram_sample(f, line, name, value);
  else
    assert_int_equal(name, strlen(f->name));
}

/* Fails the test unless text is well-formed; each family once. */
static void check_exposition(const char *text) {
  struct family f = {0};
  char families[200][100];
  unsigned n_families = 0;
  while (*text) {
    const char *end = strchr(text, '\n');
    assert_non_null(end);
    check_line(&f, text, (size_t)(end - text));
    if (strncmp(text, "# HELP ", 7) == 0) {
      for (unsigned i = 0; i < n_families; i++) assert_string_not_equal(families[i], f.name);
      strcpy(families[n_families++], f.name);
    }
    text = end + 1;
  }
}

/* The value of the sample that `series` names in full. */
static double value_of(const char *text, const char *series) {
  size_t length = strlen(series);
  for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
    if (strncmp(line, series, length) == 0 && line[length] == ' ') return atof(line + length);
  fail_msg("no sample %s", series);
  return 0;
}

static const char *expose(struct tl_metrics *m, struct tl_buffer *out) {
  tl_buffer_clear(out);
  tl_metrics_expose(m, out);
  const char *text = tl_buffer_string(out);
  check_exposition(text);
  return text;
}

/* --- tests ------------------------------------------------------------------------------ */

static double read_figure(void *context) {
  return *(double *)context;
}

static void test_counter_read(void **state) {
  (void)state;
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  struct tl_metrics *m = tl_metrics_new();
  double figure = 12;
  assert_true(tl_metrics_counter_read(m, "x_lost_total", "Lost.", "reason=\"a\"", read_figure, &figure));
  assert_string_equal(expose(m, &out), "# HELP x_lost_total Lost.\n# TYPE x_lost_total counter\nx_lost_total{reason=\"a\"} 12\n");
  tl_metrics_free(m);
  tl_buffer_done(&out);
}

static void test_exposition(void **state) {
  (void)state;
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  struct tl_metrics *m = tl_metrics_new();
  assert_string_equal(expose(m, &out), "");
  double figure = 0.25;
  tl_metric a = tl_metrics_counter(m, "x_requests_total", "Requests.", "code=\"200\"");
  /* a value with all three escapes, as the caller has to write it */
  tl_metric b = tl_metrics_counter(m, "x_requests_total", "Requests.", "code=\"4\\\\0\\\"\\n4\"");
  static const double bounds[] = {0.001, 0.5, 2};
  tl_metric h = tl_metrics_histogram(m, "x_seconds", "Time.", "route=\"/v1\"", bounds, 3, 1e-9);
  tl_metric plain = tl_metrics_histogram(m, "x_tokens", "Tokens.", NULL, (double[]){1, 10}, 2, 1);
  tl_metrics_gauge_read(m, "x_figure", "Read at scrape.", NULL, read_figure, &figure);
  assert_true(a && b && h && plain);
  struct tl_metrics_shard *one = tl_metrics_shard_new(m), *two = tl_metrics_shard_new(m);
  tl_metrics_add(one, a, 3);
  tl_metrics_add(two, a, 4);
  tl_metrics_add(two, b, 1);
  tl_metrics_observe(one, h, 1000000);    /* on the bound: le means less or equal */
  tl_metrics_observe(one, h, 1000001);
  tl_metrics_observe(two, h, 500000000);
  tl_metrics_observe(two, h, 3000000000);
  tl_metrics_observe(one, plain, 0);
  tl_metrics_observe(one, plain, 11);
  assert_string_equal(expose(m, &out),
                      "# HELP x_requests_total Requests.\n"
                      "# TYPE x_requests_total counter\n"
                      "x_requests_total{code=\"200\"} 7\n"
                      "x_requests_total{code=\"4\\\\0\\\"\\n4\"} 1\n"
                      "# HELP x_seconds Time.\n"
                      "# TYPE x_seconds histogram\n"
                      "x_seconds_bucket{route=\"/v1\",le=\"0.001\"} 1\n"
                      "x_seconds_bucket{route=\"/v1\",le=\"0.5\"} 3\n"
                      "x_seconds_bucket{route=\"/v1\",le=\"2\"} 3\n"
                      "x_seconds_bucket{route=\"/v1\",le=\"+Inf\"} 4\n"
                      "x_seconds_sum{route=\"/v1\"} 3.502000001\n"
                      "x_seconds_count{route=\"/v1\"} 4\n"
                      "# HELP x_tokens Tokens.\n"
                      "# TYPE x_tokens histogram\n"
                      "x_tokens_bucket{le=\"1\"} 1\n"
                      "x_tokens_bucket{le=\"10\"} 1\n"
                      "x_tokens_bucket{le=\"+Inf\"} 2\n"
                      "x_tokens_sum 11\n"
                      "x_tokens_count 2\n"
                      "# HELP x_figure Read at scrape.\n"
                      "# TYPE x_figure gauge\n"
                      "x_figure 0.25\n");
  tl_buffer_done(&out);
  tl_metrics_free(m);
}

static void test_nothing_to_count_on(void **state) {
  (void)state;
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  struct tl_metrics *m = tl_metrics_new();
  tl_metric a = tl_metrics_counter(m, "a_total", "A.", NULL);
  struct tl_metrics_shard *shard = tl_metrics_shard_new(m);
  tl_metrics_add(NULL, a, 1);
  tl_metrics_observe(NULL, a, 1);
  tl_metrics_add(shard, TL_METRIC_NONE, 1);
  tl_metrics_observe(shard, TL_METRIC_NONE, 1);
  assert_true(value_of(expose(m, &out), "a_total") == 0);
  tl_metrics_free(m);
  tl_metrics_free(NULL);
  tl_buffer_done(&out);
}

/* Large figures keep their digits. */
static void test_large_figures(void **state) {
  (void)state;
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  struct tl_metrics *m = tl_metrics_new();
  double figure = 123456789012345;
  tl_metric a = tl_metrics_counter(m, "a_total", "A.", NULL);
  tl_metric h = tl_metrics_histogram(m, "h", "H.", NULL, (double[]){1}, 1, 1);
  tl_metrics_gauge_read(m, "figure", "F.", NULL, read_figure, &figure);
  struct tl_metrics_shard *shard = tl_metrics_shard_new(m);
  tl_metrics_add(shard, a, INT64_MAX - 1);
  tl_metrics_observe(shard, h, 123456789012);
  const char *text = expose(m, &out);
  assert_non_null(strstr(text, "a_total 9223372036854775806\n"));
  assert_non_null(strstr(text, "h_sum 123456789012\n"));
  assert_non_null(strstr(text, "figure 123456789012345\n"));
  tl_metrics_free(m);
  tl_buffer_done(&out);
}

/* Past its capacity the table refuses, and what is there goes on. */
static void test_capacity(void **state) {
  (void)state;
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  struct tl_metrics *m = tl_metrics_new();
  tl_metric first = tl_metrics_counter(m, "first_total", "F.", NULL), last = TL_METRIC_NONE;
  struct tl_metrics_shard *shard = tl_metrics_shard_new(m);
  double bounds[1000];
  for (unsigned i = 0; i < 1000; i++) bounds[i] = i + 1;
  unsigned n_histograms = 0, n_counters = 0, n_shards = 1;
  for (tl_metric h; (h = tl_metrics_histogram(m, "h", "H.", NULL, bounds, 1000, 1)); n_histograms++) last = h;
  assert_true(n_histograms >= 10);
  tl_metrics_observe(shard, last, 1000000);
  for (tl_metric c; (c = tl_metrics_counter(m, "c_total", "C.", NULL)); n_counters++) last = c;
  assert_true(n_counters > 100);
  tl_metrics_add(shard, last, 1);
  tl_metrics_add(shard, first, 1);
  while (tl_metrics_shard_new(m)) n_shards++;
  assert_int_equal(n_shards, 256);
  tl_metrics_expose(m, &out);
  assert_true(value_of(tl_buffer_string(&out), "first_total") == 1);
  tl_metrics_free(m);
  tl_buffer_done(&out);
}

/* --- threads ----------------------------------------------------------------------------- */

enum { THREADS = 4, ROUNDS = 300000 / UNIT_SLOWDOWN };

struct counting {
  struct tl_metrics_shard *shard;
  tl_metric counter, histogram;
  pthread_t thread;
};
static _Atomic int n_running;

static void *count(void *argument) {
  struct counting *c = argument;
  for (int i = 0; i < ROUNDS; i++) {
    tl_metrics_add(c->shard, c->counter, 1);
    tl_metrics_observe(c->shard, c->histogram, i % 20);
    if (i % 10000 == 0) sched_yield();
  }
  atomic_fetch_sub_explicit(&n_running, 1, memory_order_release);
  return NULL;
}

/* Scrapes and registrations while four threads count: every scrape is well-formed,
 * counters never go back, and in the end nothing is missing. */
static void test_scrape_while_counting(void **state) {
  (void)state;
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  struct tl_metrics *m = tl_metrics_new();
  tl_metric counter = tl_metrics_counter(m, "n_total", "N.", NULL);
  tl_metric histogram = tl_metrics_histogram(m, "h", "H.", NULL, (double[]){0, 5, 10}, 3, 1);
  struct counting threads[THREADS];
  atomic_store_explicit(&n_running, THREADS, memory_order_relaxed);
  for (unsigned i = 0; i < THREADS; i++) {
    threads[i] = (struct counting){tl_metrics_shard_new(m), counter, histogram, 0};
    pthread_create(&threads[i].thread, NULL, count, &threads[i]);
  }
  double before = 0, count_before = 0;
  for (unsigned n = 0; atomic_load_explicit(&n_running, memory_order_acquire) > 0; n++) {
    char name[32];
    snprintf(name, sizeof name, "late_%u_total", n);
    if (n < 100) assert_true(tl_metrics_counter(m, name, "Registered while others count.", NULL) != TL_METRIC_NONE);
    if (n < 50) assert_non_null(tl_metrics_shard_new(m));
    const char *text = expose(m, &out);
    double now = value_of(text, "n_total"), count_now = value_of(text, "h_count");
    assert_true(now >= before && count_now >= count_before);
    before = now;
    count_before = count_now;
  }
  for (unsigned i = 0; i < THREADS; i++) pthread_join(threads[i].thread, NULL);
  const char *text = expose(m, &out);
  assert_true(value_of(text, "n_total") == (double)THREADS * ROUNDS);
  assert_true(value_of(text, "h_count") == (double)THREADS * ROUNDS);
  assert_true(value_of(text, "h_bucket{le=\"0\"}") == (double)THREADS * ROUNDS / 20);
  assert_true(value_of(text, "h_bucket{le=\"5\"}") == (double)THREADS * ROUNDS * 6 / 20);
  assert_true(value_of(text, "h_bucket{le=\"10\"}") == (double)THREADS * ROUNDS * 11 / 20);
  assert_true(value_of(text, "h_sum") == (double)THREADS * ROUNDS * 9.5);
  tl_metrics_free(m);
  tl_buffer_done(&out);
}

/* Series of a scope have its label first, escaped; those before and after have not. */
static void test_scope(void **state) {
  (void)state;
  struct tl_metrics *m = tl_metrics_new();
  struct tl_buffer out;
  char longest[2000];
  tl_metrics_counter(m, "a_total", "A.", "x=\"1\"");
  tl_metrics_scope(m, "model", "q\"u\\o\nte");
  tl_metrics_counter(m, "a_total", "A.", "x=\"1\"");
  tl_metrics_counter(m, "b_total", "B.", NULL);
  memset(longest, '"', sizeof longest);
  longest[sizeof longest - 1] = 0;
  tl_metrics_scope(m, "model", longest);
  tl_metrics_counter(m, "b_total", "B.", NULL);
  /* the longest id that a model may have (config_models.c) is whole, whatever is in it */
  memcpy(longest + 199, "x", 2);
  tl_metrics_scope(m, "model", longest);
  tl_metrics_counter(m, "b_total", "B.", NULL);
  tl_metrics_scope(m, NULL, NULL);
  tl_metrics_counter(m, "c_total", "C.", NULL);
  tl_buffer_init(&out, 0);
  tl_metrics_expose(m, &out);
  const char *text = tl_buffer_string(&out);
  check_exposition(text);
  assert_non_null(strstr(text, "\na_total{x=\"1\"} 0\na_total{model=\"q\\\"u\\\\o\\nte\",x=\"1\"} 0\n"));
  assert_non_null(strstr(text, "\nb_total{model=\"q\\\"u\\\\o\\nte\"} 0\nb_total{model=\"\\\"\\\""));
  assert_non_null(strstr(text, "\\\"x\"} 0\n"));
  assert_non_null(strstr(text, "\nc_total 0\n"));
  tl_buffer_done(&out);
  tl_metrics_free(m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_counter_read), cmocka_unit_test(test_exposition),    cmocka_unit_test(test_nothing_to_count_on),
      cmocka_unit_test(test_large_figures), cmocka_unit_test(test_capacity),        cmocka_unit_test(test_scope),
      cmocka_unit_test(test_scrape_while_counting),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
