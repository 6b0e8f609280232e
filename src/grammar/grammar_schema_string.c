/* SPDX-License-Identifier: MIT */
/* Strings with lengths, a pattern, a format. */
#include <string.h>

#include "grammar/grammar_schema.h"

/* RFC 3339 with the days that there are; seconds to 59. */
#define YEAR "(?:[1-9]\\d{3}|0[1-9]\\d\\d|00[1-9]\\d|000[1-9])"
#define LEAP_YEAR "(?:\\d\\d(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
#define DATE                                                                                                       \
  "(?:" YEAR "-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))" \
  "|" LEAP_YEAR "-02-29)"
#define HOUR "(?:[01]\\d|2[0-3])"
#define TIME HOUR ":[0-5]\\d:[0-5]\\d(?:\\.\\d{1,9})?(?:Z|[+-]" HOUR ":[0-5]\\d)"
/* RFC 3339, appendix A */
#define N "\\d{1,9}"
#define TIME_SPAN "T(?:" N "H(?:" N "M(?:" N "S)?)?|" N "M(?:" N "S)?|" N "S)"
#define DURATION "P(?:" N "W|(?:" N "Y(?:" N "M(?:" N "D)?)?|" N "M(?:" N "D)?|" N "D)(?:" TIME_SPAN ")?|" TIME_SPAN ")"
/* RFC 4291, without addresses of version 4 in it */
#define H "[0-9A-Fa-f]{1,4}"
#define IPV6                                                                                                 \
  "(?:" H ":){7}" H "|(?:" H ":){1,7}:|(?:" H ":){1,6}:" H "|(?:" H ":){1,5}(?::" H "){1,2}|(?:" H           \
  ":){1,4}(?::" H "){1,3}|(?:" H ":){1,3}(?::" H "){1,4}|(?:" H ":){1,2}(?::" H "){1,5}|" H ":(?::" H "){1,6}" \
  "|:(?:(?::" H "){1,7}|:)"
#define BYTE "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
/* Labels of any length: to count up to 63 would take a mask of most of the vocabulary for each letter. */
#define LABEL "[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*"
#define HOSTNAME LABEL "(?:\\." LABEL ")*"
#define ATOM "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
/* RFC 3986; U: what may stand in a host's name, P: in a path's part */
#define HEX_PAIR "%[0-9A-Fa-f]{2}"
#define U "(?:[A-Za-z0-9._~!$&'()*+,;=-]|" HEX_PAIR ")"
#define P "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|" HEX_PAIR ")"
#define Q "(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|" HEX_PAIR ")"
#define URI                                                                                                     \
  "[A-Za-z][A-Za-z0-9+.-]*:(?://(?:(?:" U "|:)*@)?" U "*(?::\\d{0,4})?(?:/" P "*)*|/?(?:" P "+(?:/" P "*)*)?)" \
  "(?:\\?" Q "*)?(?:#" Q "*)?"

static const struct format {
  const char *name;
  const char *pattern; /* NULL: the standard has it, we do not */
} formats[] = {
    {"date", DATE},
    {"time", TIME},
    {"date-time", DATE "T" TIME},
    {"duration", DURATION},
    {"uuid", "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"},
    {"ipv4", BYTE "(?:\\." BYTE "){3}"},
    {"ipv6", IPV6},
    {"hostname", HOSTNAME},
    {"email", ATOM "(?:\\." ATOM ")*@" HOSTNAME},
    {"uri", URI},
    {"idn-email", NULL},
    {"idn-hostname", NULL},
    {"iri", NULL},
    {"iri-reference", NULL},
    {"json-pointer", NULL},
    {"regex", NULL},
    {"relative-json-pointer", NULL},
    {"uri-reference", NULL},
    {"uri-template", NULL},
};

static const struct format *find_format(const char *name) {
  for (size_t i = 0; name && i < sizeof formats / sizeof *formats; i++)
    if (strcmp(formats[i].name, name) == 0) return &formats[i];
  return NULL;
}

/* pydantic's URLs have at most 2083 characters, which no model writes; they are not counted. */
#define LONG_URI 2000

static gr_node by_pattern(struct sch *s, json_t *schema, const char *keyword, const char *pattern, size_t length, enum gr_regex_use use) {
  struct tl_error why = {0};
  gr_node content;
  uint32_t max = sch_limit(schema, "maxLength", GR_MANY);
  if (use == GR_REGEX_IS_STRING && max >= LONG_URI) max = GR_MANY;
  int r = gr_regex(s->ir, pattern, length, use, sch_limit(schema, "minLength", 0), max, s->field, &content, &why);
  if (r < 0) return sch_fail(s, r, "%s: %s", keyword, why.message);
  return gr_json_quoted(s->ir, content);
}

gr_node sch_string(struct sch *s, json_t *schema) {
  json_t *pattern = json_object_get(schema, "pattern"), *name = json_object_get(schema, "format");
  const struct format *format = find_format(json_string_value(name));
  if (format && !format->pattern) return sch_fail(s, TL_EUNSUPPORTED, "format \"%s\" is not supported", format->name);
  if (format && pattern) return sch_fail(s, TL_EUNSUPPORTED, "pattern beside format \"%s\" is not supported", format->name);
  if (format) return by_pattern(s, schema, "format", format->pattern, strlen(format->pattern), GR_REGEX_IS_STRING);
  if (pattern) return by_pattern(s, schema, "pattern", json_string_value(pattern), json_string_length(pattern), GR_REGEX_IN_STRING);
  return gr_json_quoted(s->ir, gr_json_string(s->ir, sch_limit(schema, "minLength", 0), sch_limit(schema, "maxLength", GR_MANY)));
}
