/* SPDX-License-Identifier: MIT */
/* Many templates, for tests that compare with jinja2:
 *
 *   render_many <cases >answers
 *
 * A case is a line of JSON, {"template": source, "trusted": {...}, "untrusted": {...}}; strftime_now()
 * tells 1700000000. The answer is a line, too: {"text": ...}, or {"code": ..., "error": ...}. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenlane/text.h"

static void die(const char *what) {
  fprintf(stderr, "render_many: %s\n", what);
  exit(1);
}

static void answer(json_t *one) {
  json_t *source = json_object_get(one, "template"), *said = json_object();
  struct tl_template *tmpl;
  struct tl_rendered rendered = {0};
  struct tl_error err = {0};
  int r = tl_template_compile(json_string_value(source), json_string_length(source), &tmpl, &err);
  if (r == TL_OK) {
    r = tl_template_render(tmpl, json_object_get(one, "trusted"), json_object_get(one, "untrusted"), NULL, 1700000000, &rendered, &err);
    tl_template_free(tmpl);
  }
  if (r == TL_OK) {
    json_object_set_new(said, "text", json_stringn(tl_buffer_string(&rendered.text), rendered.text.length));
  } else {
    json_object_set_new(said, "code", json_integer(r));
    json_object_set_new(said, "error", json_string(err.message));
  }
  if (json_dumpf(said, stdout, JSON_COMPACT) < 0 || putchar('\n') == EOF) die("cannot write");
  tl_rendered_done(&rendered);
  json_decref(said);
}

int main(void) {
  char *line = NULL;
  size_t room = 0;
  for (ssize_t n; (n = getline(&line, &room, stdin)) > 0;) {
    json_error_t why;
    json_t *one = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, &why);
    if (!one) die(why.text);
    answer(one);
    json_decref(one);
  }
  free(line);
  return 0;
}
