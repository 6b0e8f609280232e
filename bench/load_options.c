/* SPDX-License-Identifier: MIT */
/* The command line as one table. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "load.h"

enum kind { KIND_TEXT, KIND_INTEGER, KIND_NUMBER, KIND_YES, KIND_NO };

struct flag {
  const char *name;
  enum kind kind;
  size_t offset;
  double min, max;
  const char *value, *help; /* value: as the usage names it */
};

#define AT(member) offsetof(struct load_options, member)

static const struct flag flags[] = {
    {"url", KIND_TEXT, AT(url), 0, 0, "URL", "server (http://127.0.0.1:8080)"},
    {"unix", KIND_TEXT, AT(unix_path), 0, 0, "PATH", "unix socket instead of --url"},
    {"endpoint", KIND_TEXT, AT(endpoint), 0, 0, "NAME", "completions or chat (completions)"},
    {"model", KIND_TEXT, AT(model), 0, 0, "NAME", "model id (the first of /v1/models)"},
    {"streams", KIND_INTEGER, AT(streams), 1, 100000, "N", "closed loop: requests at a time (1)"},
    {"rate", KIND_NUMBER, AT(rate), 1e-3, 1e6, "R", "open loop: requests per second, Poisson arrivals"},
    {"requests", KIND_INTEGER, AT(requests), 1, 1e9, "N", "measured requests (64 unless --duration)"},
    {"duration", KIND_NUMBER, AT(duration_s), 1e-3, 1e6, "S", "start no request after S seconds"},
    {"warmup", KIND_INTEGER, AT(warmup), 0, 1e6, "N", "requests before the measured ones (0)"},
    {"prompt-tokens", KIND_INTEGER, AT(prompt_tokens), 1, 1e6, "N",
     "random tokens of a prompt (64); chat: random words"},
    {"prompt", KIND_TEXT, AT(prompt), 0, 0, "TEXT", "the prompt, instead of random ones"},
    {"vocab", KIND_INTEGER, AT(vocab), 1, 1e8, "N", "random token ids are below N (1000)"},
    {"max-tokens", KIND_INTEGER, AT(max_tokens), 1, 1e6, "N", "tokens to generate (64)"},
    {"ignore-eos", KIND_YES, AT(ignore_eos), 0, 0, NULL, "always generate max-tokens (the default)"},
    {"no-ignore-eos", KIND_NO, AT(ignore_eos), 0, 0, NULL,
     "stop where the model stops; leaves the field out"},
    {"no-stream", KIND_YES, AT(whole), 0, 0, NULL, "answers in one piece: to first token is the whole request"},
    {"temperature", KIND_NUMBER, AT(temperature), 0, 2, "T", "(0)"},
    {"seed", KIND_INTEGER, AT(seed), 0, 1e15, "N", "of prompts and arrivals (1)"},
    {"timeout", KIND_NUMBER, AT(timeout_s), 0.1, 1e6, "S", "a request that takes longer has failed (600)"},
    {"json", KIND_YES, AT(json), 0, 0, NULL, "print one JSON object, times in milliseconds"},
    {"table", KIND_NO, AT(json), 0, 0, NULL, "print a table (the default)"},
};
#define N_FLAGS (sizeof flags / sizeof *flags)

static void usage(FILE *to) {
  fprintf(to, "load: sends completion requests and measures the streamed answers\n");
  for (size_t i = 0; i < N_FLAGS; i++) {
    char left[32];
    snprintf(left, sizeof left, "--%s %s", flags[i].name, flags[i].value ? flags[i].value : "");
    fprintf(to, "  %-20s %s\n", left, flags[i].help);
  }
}

static void wrong(const char *text, const char *value) {
  fprintf(stderr, "load: %s '%s'; --help lists the options\n", text, value);
  exit(2);
}

static const struct flag *find(const char *argument) {
  for (size_t i = 0; i < N_FLAGS; i++)
    if (strncmp(argument, "--", 2) == 0 && strcmp(argument + 2, flags[i].name) == 0) return &flags[i];
  return NULL;
}

static void set(const struct flag *flag, const char *value, struct load_options *o) {
  void *place = (char *)o + flag->offset;
  char *end = NULL;
  double number = value ? strtod(value, &end) : 0;
  bool valid = value && *value && *end == 0 && number >= flag->min && number <= flag->max;
  switch (flag->kind) {
    case KIND_TEXT:
      *(const char **)place = value;
      return;
    case KIND_YES:
      *(bool *)place = true;
      return;
    case KIND_NO:
      *(bool *)place = false;
      return;
    case KIND_INTEGER:
      if (!valid || number != floor(number)) break;
      *(int64_t *)place = (int64_t)number;
      return;
    case KIND_NUMBER:
      if (!valid) break;
      *(double *)place = number;
      return;
  }
  fprintf(stderr, "load: --%s: expected a number from %g to %g, got '%s'\n", flag->name, flag->min, flag->max,
          value);
  exit(2);
}

/* http://host:port or http://[v6]:port, resolved; the Host header as written. */
static void parse_url(struct load_options *o) {
  if (strncmp(o->url, "http://", 7) != 0) wrong("expected http://host:port, got", o->url);
  const char *from = o->url + 7;
  size_t length = strcspn(from, "/");
  if (length == 0 || length >= sizeof o->host || from[length + (from[length] == '/')] != 0)
    wrong("expected http://host:port without a path, got", o->url);
  memcpy(o->host, from, length);
  char name[256], *host = name, *colon = strrchr(strcpy(name, o->host), ':');
  const char *port = "80";
  if (colon && !strchr(colon, ']')) {
    *colon = 0;
    port = colon + 1;
  }
  if (*host == '[') {
    host++;
    host[strcspn(host, "]")] = 0;
  }
  uv_loop_t loop;
  uv_getaddrinfo_t request;
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
  uv_loop_init(&loop);
  int r = uv_getaddrinfo(&loop, &request, NULL, host, port, &hints);
  uv_loop_close(&loop);
  if (r < 0) wrong("cannot resolve", o->url);
  memcpy(&o->address, request.addrinfo->ai_addr, request.addrinfo->ai_addrlen);
  uv_freeaddrinfo(request.addrinfo);
}

void load_parse_options(int argc, char **argv, struct load_options *ret) {
  *ret = (struct load_options){.url = "http://127.0.0.1:8080",
                               .endpoint = "completions",
                               .streams = 1,
                               .prompt_tokens = 64,
                               .vocab = 1000,
                               .max_tokens = 64,
                               .seed = 1,
                               .timeout_s = 600,
                               .ignore_eos = true};
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
      usage(stdout);
      exit(0);
    }
    const struct flag *flag = find(argv[i]);
    if (!flag) wrong("unknown option", argv[i]);
    bool takes_value = flag->kind != KIND_YES && flag->kind != KIND_NO;
    if (takes_value && i + 1 == argc) wrong("a value is missing after", argv[i]);
    if (takes_value) i++;
    set(flag, argv[i], ret);
  }
  ret->chat = strcmp(ret->endpoint, "chat") == 0;
  if (!ret->chat && strcmp(ret->endpoint, "completions") != 0)
    wrong("expected completions or chat, got", ret->endpoint);
  if (!ret->requests && ret->duration_s <= 0) ret->requests = 64;
  if (!ret->unix_path)
    parse_url(ret);
  else if (strlen(ret->unix_path) >= sizeof((struct sockaddr_un *)0)->sun_path)
    wrong("the path is too long:", ret->unix_path);
  else
    strcpy(ret->host, "localhost");
}
