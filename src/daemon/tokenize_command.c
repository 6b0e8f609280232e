/* SPDX-License-Identifier: MIT */
/* tokenlane tokenize MODEL: text on standard input, ids on standard output, or the other way round. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon_private.h"
#include "tokenlane/base/utf8.h"
#include "tokenlane/text.h"

struct options {
  const char *model;
  bool pieces, decode, no_special;
};

static int read_options(int argc, char **argv, struct options *ret, struct tl_error *err) {
  bool ids = false;
  const struct {
    const char *name;
    bool *value;
  } known[] = {{"--ids", &ids}, {"--pieces", &ret->pieces}, {"--decode", &ret->decode}, {"--no-special", &ret->no_special}};
  for (int i = 0; i < argc; i++) {
    bool *value = NULL;
    for (size_t k = 0; k < sizeof known / sizeof *known; k++)
      if (strcmp(argv[i], known[k].name) == 0) value = known[k].value;
    if (value) *value = true;
    else if (argv[i][0] == '-' || ret->model) return tl_error_set(err, TL_EINVAL, NULL, "tokenize: did not expect %.100s", argv[i]);
    else ret->model = argv[i];
  }
  if (!ret->model) return tl_error_set(err, TL_EINVAL, NULL, "tokenize: expected a model folder, a tokenizer.json or a .gguf file");
  if (ids + ret->pieces + ret->decode > 1)
    return tl_error_set(err, TL_EINVAL, NULL, "tokenize: --ids, --pieces and --decode exclude one another");
  return TL_OK;
}

static int read_all(struct tl_buffer *ret, struct tl_error *err) {
  char bytes[65536];
  for (size_t n; (n = fread(bytes, 1, sizeof bytes, stdin)) > 0;)
    if (tl_buffer_append(ret, bytes, n) < 0) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  return ferror(stdin) ? tl_error_set(err, TL_EIO, NULL, "standard input cannot be read") : TL_OK;
}

/* One token a line: its id, a tab, its bytes in quotes (those that are no character as \xNN). */
static void print_piece(const struct tl_tokenizer *tokenizer, int32_t id) {
  size_t length;
  const char *bytes = tl_tokenizer_bytes(tokenizer, id, &length);
  printf("%d\t\"", id);
  bool text = bytes && tl_utf8_valid(bytes, length);
  for (size_t i = 0; bytes && i < length; i++) {
    unsigned char byte = (unsigned char)bytes[i];
    if (byte == '"' || byte == '\\') printf("\\%c", byte);
    else if (byte == '\n') fputs("\\n", stdout);
    else if (byte == '\r') fputs("\\r", stdout);
    else if (byte == '\t') fputs("\\t", stdout);
    else if (byte < 0x20 || byte == 0x7f || (byte >= 0x80 && !text)) printf(text ? "\\u%04x" : "\\x%02x", byte);
    else putchar(byte);
  }
  puts("\"");
}

static int encode(const struct tl_tokenizer *tokenizer, const struct options *options, const struct tl_buffer *text,
                  struct tl_error *err) {
  struct tl_tokens tokens = {0};
  struct tl_encode_options how = {.add_special = !options->no_special, .parse_special = !options->no_special};
  int r = tl_tokenizer_encode(tokenizer, text->data ? text->data : "", text->length, &how, &tokens, err);
  for (size_t i = 0; r == TL_OK && i < tokens.n; i++) {
    if (options->pieces) print_piece(tokenizer, tokens.ids[i]);
    else printf(i ? " %d" : "%d", tokens.ids[i]);
  }
  if (r == TL_OK && !options->pieces) putchar('\n');
  tl_tokens_done(&tokens);
  return r;
}

/* Ids are numbers with blanks or commas between them; a list in brackets is fine too. */
static int read_ids(const struct tl_tokenizer *tokenizer, const char *at, int32_t *ids, size_t *ret_n, struct tl_error *err) {
  for (*ret_n = 0;;) {
    at += strspn(at, " \t\r\n,[]");
    if (!*at) return TL_OK;
    char *end;
    long id = strtol(at, &end, 10);
    if (end == at || id < 0 || id >= tl_tokenizer_size(tokenizer))
      return tl_error_set(err, TL_EINVAL, NULL, "tokenize --decode: expected ids from 0 to %d, got %.20s", tl_tokenizer_size(tokenizer) - 1, at);
    ids[(*ret_n)++] = (int32_t)id;
    at = end;
  }
}

static int decode(const struct tl_tokenizer *tokenizer, const struct options *options, struct tl_buffer *text,
                  struct tl_error *err) {
  /* each id but the last takes two bytes at least */
  int32_t *ids = malloc((text->length / 2 + 1) * sizeof *ids);
  if (!ids) return tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  struct tl_buffer out;
  tl_buffer_init(&out, 0);
  size_t n;
  int r = read_ids(tokenizer, tl_buffer_string(text), ids, &n, err);
  if (r == TL_OK && tl_tokenizer_decode(tokenizer, ids, n, options->no_special, &out) < 0)
    r = tl_error_set(err, TL_ENOMEM, NULL, "out of memory");
  if (r == TL_OK) fwrite(tl_buffer_bytes(&out), 1, out.length, stdout);
  tl_buffer_done(&out);
  free(ids);
  return r;
}

int tokenize_command(int argc, char **argv) {
  struct tl_error err = {0};
  struct options options = {0};
  struct tl_tokenizer *tokenizer = NULL;
  struct tl_buffer text;
  tl_buffer_init(&text, 0);
  int r = read_options(argc, argv, &options, &err);
  if (r == TL_OK) r = tl_tokenizer_load(options.model, &tokenizer, &err);
  if (r == TL_OK) r = read_all(&text, &err);
  if (r == TL_OK) r = options.decode ? decode(tokenizer, &options, &text, &err) : encode(tokenizer, &options, &text, &err);
  if (r < 0) fprintf(stderr, "tokenlane: %s\n", err.message);
  tl_buffer_done(&text);
  tl_tokenizer_free(tokenizer);
  return r < 0;
}
