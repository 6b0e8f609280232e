/* SPDX-License-Identifier: MIT */
#include "config/config_private.h"
#include "unit.h"

/* What becomes of it; NULL: it is refused. */
static const char *const cases[][2] = {
    {"*", "*"},
    {"https://chat.example", "https://chat.example"},
    {"http://localhost:3000", "http://localhost:3000"},
    {"HTTPS://Chat.Example", "https://chat.example"},
    {"https://chat.example/", "https://chat.example"},
    {"https://chat.example:443", "https://chat.example"},
    {"https://chat.example:443/", "https://chat.example"},
    {"https://chat.example:0443", "https://chat.example"},
    {"https://chat.example:", "https://chat.example"},
    {"https://chat.example:/", "https://chat.example"},
    {"http://chat.example:80", "http://chat.example"},
    {"https://chat.example:80", "https://chat.example:80"},
    {"http://chat.example:443", "http://chat.example:443"},
    {"http://chat.example:03000/", "http://chat.example:3000"},
    {"http://chat.example:65535", "http://chat.example:65535"},
    {"http://[FE80::1]:8080/", "http://[fe80::1]:8080"},
    {"http://[::1]:80", "http://[::1]"},
    {"chrome-extension://ABCDEF", "chrome-extension://abcdef"},
    {"tauri://localhost:80", "tauri://localhost:80"},
    {"http://chat.example:65536", NULL},
    {"http://chat.example:99999999999999999999", NULL},
    {"http://chat.example:80a", NULL},
    {"http://chat.example:-1", NULL},
    {"https://chat.example//", NULL},
    {"https://chat.example/app", NULL},
    {"https://chat.example?a", NULL},
    {"https://chat.example#a", NULL},
    {"https://user@chat.example", NULL},
    {"https://chat example", NULL},
    {"https://b\xc3\xbc" "cher.example", NULL},
    {"https://", NULL},
    {"https:///", NULL},
    {"https://:443", NULL},
    {"http://[::1", NULL},
    {"http://[]", NULL},
    {"http://[::1]x", NULL},
    {"http://::1", NULL},
    {"://chat.example", NULL},
    {"1 2://chat.example", NULL},
    {"chat.example", NULL},
    {"https:/chat.example", NULL},
    {"null", NULL},
    {"", NULL},
};

static void test_origins(void **state) {
  (void)state;
  for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
    struct tl_config c;
    struct tl_error err = {0};
    assert_int_equal(tl_config_init(&c), TL_OK);
    char text[100];
    snprintf(text, sizeof text, "http://first,%s", cases[i][0]);
    assert_int_equal(tl_config_set(&c, "http.cors_origins", *cases[i][0] ? text : ",", &err), TL_OK);
    int r = tl_config_resolve(&c, &err);
    if ((r == TL_OK) != (cases[i][1] != NULL)) fail_msg("'%s': %d", cases[i][0], r);
    if (r == TL_OK) {
      assert_int_equal(c.http_cors_origins.n, 2);
      assert_string_equal(c.http_cors_origins.items[0], "http://first");
      assert_string_equal(c.http_cors_origins.items[1], cases[i][1]);
      assert_int_equal(tl_config_resolve(&c, &err), TL_OK); /* what has the form keeps it */
      assert_string_equal(c.http_cors_origins.items[1], cases[i][1]);
    } else {
      assert_string_equal(err.field, "http.cors_origins");
      assert_non_null(strstr(err.message, "http.cors_origins: expected *, or SCHEME://HOST[:PORT] without a path, got "));
    }
    tl_config_done(&c);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_origins)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
