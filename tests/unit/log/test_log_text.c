/* SPDX-License-Identifier: MIT */
/* One record in each of the forms. */
#include "log_unit.h"

#include <jansson.h>
#include <math.h>

static char bytes[LOG_LINE_BYTES];

static struct log_text new_text(void) {
  return (struct log_text){.data = bytes, .capacity = sizeof bytes};
}

static const char *string_of(struct log_text *text) {
  assert_true(text->length < text->capacity);
  text->data[text->length] = 0;
  return text->data;
}

static struct log_record new_record(const char *message, unsigned n) {
  /* 2026-02-28 23:59:59.007 UTC, as `date -u -d @1772323199` says */
  return (struct log_record){.wall_ns = 1772323199007999999, .level = TL_LOG_WARN, .module = "http", .message = message,
                             .n_fields = (uint16_t)n};
}

static void assert_line(const struct tl_log_field *fields, unsigned n, const char *message, const char *expected) {
  struct log_text out = new_text();
  struct log_record record = new_record(message, n);
  log_text_put_line(&out, LOG_FORMAT_LOGFMT, &record, fields, false);
  static const char begin[] = "ts=2026-02-28T23:59:59.007Z level=warn module=http msg=";
  const char *line = string_of(&out);
  assert_memory_equal(line, begin, sizeof begin - 1);
  assert_string_equal(line + sizeof begin - 1, expected);
}

static void test_logfmt(void **state) {
  (void)state;
  const struct tl_log_field kinds[] = {TL_S("s", "plain"), TL_I("i", INT64_MIN), TL_U("u", UINT64_MAX), TL_F("f", 0.25),
                                       TL_F("g", -1e300)};
  assert_line(kinds, 5, "listening", "listening s=plain i=-9223372036854775808 u=18446744073709551615 f=0.25 g=-1e+300\n");
  const struct tl_log_field strings[] = {TL_S("a", ""),         TL_S("b", NULL),   TL_S("c", "two words"), TL_S("d", "q\"\\"),
                                         TL_S("e", "a=b"),      TL_S("f", "1\n2"), TL_S("g", "\t\x1b\x7f"), TL_S("h", "h\xc3\xa9"),
                                         TL_S("i", "\r\nlevel=error")};
  assert_line(strings, 9, "a message",
              "\"a message\" a=\"\" b=\"\" c=\"two words\" d=\"q\\\"\\\\\" e=\"a=b\" f=\"1\\n2\" g=\"\\x09\\x1b\\x7f\" "
              "h=h\xc3\xa9 i=\"\\x0d\\nlevel=error\"\n");
}

static void test_priority(void **state) {
  (void)state;
  static const char *const begins[] = {"<3>ts=1970-01-01T00:00:00.000Z level=error ", "<4>ts=1970-01-01T00:00:00.000Z level=warn ",
                                       "<6>ts=1970-01-01T00:00:00.000Z level=info ", "<7>ts=1970-01-01T00:00:00.000Z level=debug "};
  for (int level = TL_LOG_ERROR; level <= TL_LOG_DEBUG; level++) {
    struct log_text out = new_text();
    struct log_record record = {.level = (uint8_t)level, .module = "m", .message = "x"};
    log_text_put_line(&out, LOG_FORMAT_LOGFMT, &record, NULL, true);
    assert_memory_equal(string_of(&out), begins[level], strlen(begins[level]));
  }
}

/* Every day of 1970 to 2400, against libc. */
static void test_dates(void **state) {
  (void)state;
  for (int64_t day = 0; day < 157000; day++) {
    time_t seconds = day * 86400 + day % 86400;
    struct tm utc;
    char expected[40];
    gmtime_r(&seconds, &utc);
    strftime(expected, sizeof expected, "%Y-%m-%dT%H:%M:%S.012Z", &utc);
    struct log_text out = new_text();
    if (seconds > INT64_MAX / TL_SEC(1) - 1) break; /* 2262: nanoseconds end */
    log_text_put_time(&out, seconds * TL_SEC(1) + TL_MS(12));
    assert_string_equal(string_of(&out), expected);
  }
}

static void test_json(void **state) {
  (void)state;
  const struct tl_log_field fields[] = {TL_S("s", "a \"b\"\\\n\t\x1b\x7f h\xc3\xa9"), TL_S("none", NULL),
                                        TL_S("bad", "x\xffy\xc3"),   TL_I("i", INT64_MIN),
                                        TL_F("f", 0.25),             TL_F("nan", NAN),
                                        TL_F("inf", -INFINITY),      TL_U("u", 7)};
  struct log_text out = new_text();
  struct log_record record = new_record("two words", 8);
  log_text_put_line(&out, LOG_FORMAT_JSON, &record, fields, false);
  const char *line = string_of(&out);
  assert_ptr_equal(strchr(line, '\n'), line + out.length - 1);
  json_error_t error;
  json_t *json = json_loads(line, JSON_REJECT_DUPLICATES, &error);
  if (!json) fail_msg("%s: %s", error.text, line);
  assert_string_equal(json_string_value(json_object_get(json, "ts")), "2026-02-28T23:59:59.007Z");
  assert_string_equal(json_string_value(json_object_get(json, "level")), "warn");
  assert_string_equal(json_string_value(json_object_get(json, "module")), "http");
  assert_string_equal(json_string_value(json_object_get(json, "msg")), "two words");
  assert_string_equal(json_string_value(json_object_get(json, "s")), fields[0].str);
  assert_string_equal(json_string_value(json_object_get(json, "none")), "");
  assert_string_equal(json_string_value(json_object_get(json, "bad")), "x\xef\xbf\xbdy\xef\xbf\xbd");
  assert_true(json_integer_value(json_object_get(json, "i")) == INT64_MIN);
  assert_true(json_real_value(json_object_get(json, "f")) == 0.25);
  assert_true(json_is_null(json_object_get(json, "nan")) && json_is_null(json_object_get(json, "inf")));
  assert_int_equal(json_integer_value(json_object_get(json, "u")), 7);
  json_decref(json);
}

static void test_journal(void **state) {
  (void)state;
  const struct tl_log_field fields[] = {TL_S("path", "/v1/x"), TL_I("n-2", -5), TL_S("text", "a\nb\n"),
                                        TL_S("a_name_that_is_longer_than_what_journald_takes_as_the_name_of_a_field", "v")};
  static const char expected[] =
      "MESSAGE=two words path=/v1/x n-2=-5 text=\"a\\nb\\n\" "
      "a_name_that_is_longer_than_what_journald_takes_as_the_name_of_a_field=v\n"
      "PRIORITY=4\nSYSLOG_IDENTIFIER=tokenlane\nTOKENLANE_MODULE=http\nTOKENLANE_TIME=2026-02-28T23:59:59.007Z\n"
      "TOKENLANE_PATH=/v1/x\nTOKENLANE_N_2=-5\nTOKENLANE_TEXT\n\x04\0\0\0\0\0\0\0a\nb\n\n"
      "TOKENLANE_A_NAME_THAT_IS_LONGER_THAN_WHAT_JOURNALD_TAKES_AS_THE_=v\n";
  struct log_text out = new_text();
  struct log_record record = new_record("two words", 4);
  log_journal_put(&out, &record, fields);
  assert_int_equal(out.length, sizeof expected - 1);
  assert_memory_equal(out.data, expected, sizeof expected - 1);
}

/* The largest record in its longest form fits into a line; a buffer that is too small is filled, no more. */
static void test_bounds(void **state) {
  (void)state;
  char longest[LOG_MAX_STRING + 1];
  memset(longest, 1, LOG_MAX_STRING);
  longest[LOG_MAX_STRING] = 0;
  struct tl_log_field fields[LOG_MAX_FIELDS];
  for (unsigned i = 0; i < LOG_MAX_FIELDS; i++) fields[i] = TL_S("a_key_of_some_length", longest);
  struct log_record record = new_record("m", LOG_MAX_FIELDS);
  for (int format = LOG_FORMAT_LOGFMT; format <= LOG_FORMAT_JSON; format++) {
    struct log_text out = new_text();
    log_text_put_line(&out, (enum log_format)format, &record, fields, true);
    assert_true(out.length < LOG_LINE_BYTES);
    assert_int_equal(out.data[out.length - 1], '\n');
  }
  struct log_text journal = new_text(), small = {.data = bytes, .capacity = 50};
  log_journal_put(&journal, &record, fields);
  assert_true(journal.length < LOG_LINE_BYTES);
  log_text_put_line(&small, LOG_FORMAT_LOGFMT, &record, fields, true);
  assert_int_equal(small.length, 50);
}

static void test_plain_fractions(void **state) {
  (void)state;
  static const struct {
    double value;
    const char *text;
  } cases[] = {{0, "0"}, {-1.5, "-1.5"}, {1e7 + 0.0019, "10000000.001"}, {1e300, ">1e15"}, {-INFINITY, "<-1e15"}, {NAN, "nan"}};
  for (unsigned i = 0; i < UNIT_COUNT(cases); i++) {
    struct log_text out = new_text();
    out.plain = true;
    log_text_put_value(&out, &TL_F("f", cases[i].value));
    assert_string_equal(string_of(&out), cases[i].text);
  }
}

/* Fractions are printed as %g prints them. */
static void test_fractions(void **state) {
  (void)state;
  static const double edges[] = {0, -0.0, 1, -1, 0.1, 0.001, 0.0001, 0.00099999, 9.99999, 99999.9, 99999.99, 999998, 1e6, 123456.7, 0.0999999,
                                 1e-300, 5e-324, 0.3, 2.0 / 3, 100, 120000, 0.0123456};
  uint64_t random = 5;
  for (unsigned i = 0; i < UNIT_COUNT(edges) + 200000; i++) {
    double value = i < UNIT_COUNT(edges) ? edges[i] : unit_below(&random, 1u << 31) * pow(10, (int)(i % 24) - 18);
    char expected[40];
    snprintf(expected, sizeof expected, "%g", value);
    struct log_text out = new_text();
    log_text_put_value(&out, &TL_F("f", value));
    double got = strtod(string_of(&out), NULL), wanted = strtod(expected, NULL);
    /* a tie may differ by one in the sixth digit */
    if (strcmp(expected, bytes) != 0 && fabs(got - wanted) > 1.1e-5 * fabs(wanted)) fail_msg("%s for %s", bytes, expected);
    if (i < UNIT_COUNT(edges)) assert_string_equal(bytes, expected);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_logfmt), cmocka_unit_test(test_priority), cmocka_unit_test(test_dates),
      cmocka_unit_test(test_json),   cmocka_unit_test(test_journal),  cmocka_unit_test(test_bounds),
      cmocka_unit_test(test_plain_fractions), cmocka_unit_test(test_fractions),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
