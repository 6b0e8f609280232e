/* SPDX-License-Identifier: MIT */
/* tokenlane render: a conversation through a chat template, exactly as transformers' apply_chat_template
 * would have it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon_private.h"
#include "tokenlane/base/json.h"
#include "tokenlane/text.h"

static const char usage[] =
    "usage: tokenlane render [MODEL] [OPTION]...\n"
    "\n"
    "  MODEL                     a model folder or .gguf file: its chat templates and special tokens\n"
    "  --template FILE           this template instead\n"
    "  --name NAME               of several templates, the one of that name\n"
    "  --input FILE              JSON: a list of messages, or an object with messages, tools, documents and\n"
    "                            chat_template_kwargs as in a request; standard input if not given\n"
    "  --tools FILE              JSON: a list\n"
    "  --documents FILE          JSON: a list\n"
    "  --kwargs JSON             an object: further variables\n"
    "  --no-generation-prompt    add_generation_prompt is false\n"
    "  --continue-final-message  the text ends where the last message does\n"
    "  --now SECONDS             since 1970: the time that strftime_now() tells\n";

struct options {
  const char *model, *tmpl, *name, *input, *tools, *documents, *kwargs, *now;
  bool no_generation_prompt, continue_final_message;
};

static int read_options(int argc, char **argv, struct options *ret, struct tl_error *err) {
  const struct {
    const char *name;
    const char **text; /* takes a value, or */
    bool *flag;
  } known[] = {{"--template", &ret->tmpl, NULL}, {"--name", &ret->name, NULL}, {"--input", &ret->input, NULL},
               {"--tools", &ret->tools, NULL}, {"--documents", &ret->documents, NULL}, {"--kwargs", &ret->kwargs, NULL},
               {"--now", &ret->now, NULL}, {"--no-generation-prompt", NULL, &ret->no_generation_prompt},
               {"--continue-final-message", NULL, &ret->continue_final_message}};
  const size_t n = sizeof known / sizeof *known;
  for (int i = 0; i < argc; i++) {
    size_t k = 0;
    while (k < n && strcmp(argv[i], known[k].name) != 0) k++;
    if (k == n && (argv[i][0] == '-' || ret->model)) return tl_error_set(err, TL_EINVAL, NULL, "render: did not expect %.100s", argv[i]);
    if (k == n) ret->model = argv[i];
    else if (known[k].flag) *known[k].flag = true;
    else if (++i < argc) *known[k].text = argv[i];
    else return tl_error_set(err, TL_EINVAL, NULL, "render: expected a value behind %s", known[k].name);
  }
  if (!ret->model && !ret->tmpl) return tl_error_set(err, TL_EINVAL, NULL, "render: expected a model or --template FILE");
  return TL_OK;
}

/* NULL path: standard input. */
static int read_json(const char *path, json_t **ret, struct tl_error *err) {
  json_error_t why;
  const char *name = path ? path : "standard input";
  *ret = tl_json_load_file(path, JSON_ALLOW_NUL, &why);
  if (*ret) return TL_OK;
  if (json_error_code(&why) == json_error_cannot_open_file) return tl_error_set(err, TL_EIO, NULL, "%s: cannot be opened", name);
  return tl_error_set(err, TL_EINVAL, NULL, "%s:%d: %s", name, why.line, why.text);
}

static int read_list(const char *path, json_t *body, const char *name, json_t **ret, struct tl_error *err) {
  json_t *value = json_object_get(body, name);
  *ret = json_is_null(value) ? NULL : json_incref(value);
  if (path) {
    json_decref(*ret);
    int r = read_json(path, ret, err);
    if (r < 0) return r;
  }
  return !*ret || json_is_array(*ret) ? TL_OK : tl_error_set(err, TL_EINVAL, name, "%s: expected a list", name);
}

static int read_kwargs(const char *text, json_t *body, json_t **ret, struct tl_error *err) {
  json_t *value = json_object_get(body, "chat_template_kwargs");
  json_error_t why;
  if (text && !(*ret = json_loads(text, JSON_ALLOW_NUL, &why))) return tl_error_set(err, TL_EINVAL, NULL, "--kwargs: %s", why.text);
  if (!text) *ret = json_is_null(value) ? NULL : json_incref(value);
  return !*ret || json_is_object(*ret) ? TL_OK : tl_error_set(err, TL_EINVAL, NULL, "chat_template_kwargs: expected an object");
}

/* Owned by the caller, whatever the result. */
static int read_chat(const struct options *o, struct tl_chat *ret, struct tl_error *err) {
  json_t *body;
  int r = read_json(o->input, &body, err);
  if (r < 0) return r;
  ret->messages = json_incref(json_is_array(body) ? body : json_object_get(body, "messages"));
  if (!json_is_array(ret->messages)) r = tl_error_set(err, TL_EINVAL, "messages", "messages: expected a list");
  if (r == TL_OK) r = read_list(o->tools, body, "tools", &ret->tools, err);
  if (r == TL_OK) r = read_list(o->documents, body, "documents", &ret->documents, err);
  if (r == TL_OK) r = read_kwargs(o->kwargs, body, &ret->kwargs, err);
  json_decref(body);
  ret->continue_final_message = o->continue_final_message;
  ret->add_generation_prompt = !o->no_generation_prompt && !o->continue_final_message;
  ret->now_s = o->now ? strtoll(o->now, NULL, 10) : 0;
  return r;
}

static int read_template(const struct options *o, struct tl_chat_format **ret, struct tl_error *err) {
  struct tl_chat_format *model = NULL;
  struct tl_buffer source;
  *ret = NULL;
  int r = o->model ? tl_chat_format_load(o->model, &model, err) : TL_OK;
  if (r < 0 || !o->tmpl) {
    *ret = model;
    return r < 0 || model ? r : tl_error_set(err, TL_ENOTFOUND, NULL, "%s: there is no chat template", o->model);
  }
  tl_buffer_init(&source, 0);
  FILE *file = fopen(o->tmpl, "rb");
  char *at;
  size_t n = 1;
  while (file && n && (at = tl_buffer_reserve(&source, 65536))) source.length += n = fread(at, 1, 65536, file);
  if (!file || ferror(file)) r = tl_error_set(err, TL_EIO, NULL, "%s: cannot be read", o->tmpl);
  if (file) fclose(file);
  if (r == TL_OK && (r = tl_chat_format_new(model, tl_buffer_bytes(&source), source.length, ret, err)) < 0) tl_error_prefix(err, o->tmpl);
  tl_buffer_done(&source);
  tl_chat_format_free(model);
  return r;
}

int render_command(int argc, char **argv) {
  struct tl_error err = {0};
  struct options options = {0};
  struct tl_chat chat = {0};
  struct tl_chat_format *format = NULL;
  struct tl_rendered rendered = {0};
  if (argc == 1 && (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0)) return fputs(usage, stdout) < 0;
  int r = read_options(argc, argv, &options, &err);
  if (r == TL_OK) r = read_template(&options, &format, &err);
  if (r == TL_OK) r = read_chat(&options, &chat, &err);
  const struct tl_chat_template *t = r == TL_OK ? tl_chat_format_pick(format, options.name, chat.tools) : NULL;
  if (r == TL_OK && !t) r = tl_error_set(&err, TL_ENOTFOUND, NULL, "there is no chat template '%.100s'", options.name ? options.name : "default");
  if (r == TL_OK) r = tl_chat_render(t, &chat, NULL, &rendered, &err);
  if (r == TL_OK) fwrite(tl_buffer_bytes(&rendered.text), 1, rendered.text.length, stdout);
  if (r < 0) fprintf(stderr, "tokenlane: %s\n", err.message);
  tl_rendered_done(&rendered);
  json_decref(chat.messages);
  json_decref(chat.tools);
  json_decref(chat.documents);
  json_decref(chat.kwargs);
  tl_chat_format_free(format);
  return r < 0;
}
