/* SPDX-License-Identifier: MIT */
/* What does structured output cost: compiling a schema, and each token's mask? Against a walk of the whole vocabulary.
 *
 *   bench_grammar [FILE]   FILE: a real vocabulary as tiktoken has it (Llama 3's tokenizer.model): base64, a blank, the id;
 *                          without one, words and punctuation of this repository's own text
 */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "grammar/grammar_private.h"
#include "tokenlane/base/hash.h"

#define VOCAB 128000
#define ROUNDS 21

static struct tl_vocabulary_token *tokens;
static uint32_t n_tokens, capacity;

static void die(const char *what) {
  fprintf(stderr, "bench_grammar: %s\n", what);
  exit(1);
}

/* The thread's own time: what else the machine does is left out. */
static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void add(const char *bytes, size_t length) {
  if (n_tokens == capacity) {
    capacity = capacity ? capacity * 2 : 4096;
    tokens = realloc(tokens, capacity * sizeof *tokens);
    if (!tokens) die("no memory");
  }
  char *copy = malloc(length + 1);
  if (!copy) die("no memory");
  memcpy(copy, bytes, length);
  tokens[n_tokens++] = (struct tl_vocabulary_token){copy, length};
}

/* --- a real vocabulary --------------------------------------------------------------------------- */

static void read_tiktoken(const char *path) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  char line[1024], bytes[1024];
  FILE *file = fopen(path, "r");
  if (!file) die("the vocabulary cannot be opened");
  while (fgets(line, sizeof line, file)) {
    size_t n = 0;
    uint32_t bits = 0;
    unsigned n_bits = 0;
    for (const char *at = line, *digit; *at && (digit = strchr(digits, *at)) != NULL; at++) {
      bits = bits << 6 | (uint32_t)(digit - digits);
      n_bits += 6;
      if (n_bits < 8) continue;
      n_bits -= 8;
      bytes[n++] = (char)(bits >> n_bits);
    }
    add(bytes, n);
  }
  fclose(file);
}

/* --- one from text: pieces as a tokenizer splits it, and their beginnings ------------------------------- */

static uint32_t seen[1u << 20]; /* by hash: a token's number + 1 */

static void add_new(const char *bytes, size_t length) {
  uint32_t at = (uint32_t)tl_hash_bytes(bytes, length, 1, 2) % (1u << 20);
  for (; seen[at]; at = (at + 1) % (1u << 20)) {
    const struct tl_vocabulary_token *token = &tokens[seen[at] - 1];
    if (token->length == length && !memcmp(token->bytes, bytes, length)) return;
  }
  if (n_tokens == VOCAB) return;
  add(bytes, length);
  seen[at] = n_tokens;
}

static int class_of(char c) {
  return isalpha((unsigned char)c) ? 1 : isdigit((unsigned char)c) ? 2 : isspace((unsigned char)c) ? 3 : (unsigned char)c >= 0x80 ? 4 : 5;
}

static void split(const char *text, size_t n) {
  for (size_t i = 0, end; i < n; i = end) {
    size_t begin = i;
    if (text[i] == ' ' && i + 1 < n && class_of(text[i + 1]) != 3 && class_of(text[i + 1]) != 2) i++;
    int class = class_of(text[i]);
    for (end = i + 1; end < n && class_of(text[end]) == class && end - begin < (class == 2 ? 3u : 24u); end++) {}
    for (size_t length = class == 5 ? 1 : 3; length <= end - begin; length++) add_new(text + begin, length);
    add_new(text + begin, end - begin);
  }
}

static void read_text(const char *path) {
  static char text[1u << 20];
  FILE *file = fopen(path, "r");
  if (!file) return;
  split(text, fread(text, 1, sizeof text, file));
  fclose(file);
}

static void read_folder(const char *path, unsigned depth) {
  DIR *folder = opendir(path);
  if (!folder) return;
  for (struct dirent *entry; n_tokens < VOCAB && (entry = readdir(folder)) != NULL;) {
    char below[1024];
    if (entry->d_name[0] == '.' || snprintf(below, sizeof below, "%s/%s", path, entry->d_name) >= (int)sizeof below) continue;
    if (entry->d_type == DT_DIR && depth) read_folder(below, depth - 1);
    else if (entry->d_type == DT_REG) read_text(below);
  }
  closedir(folder);
}

static void make_vocabulary(void) {
  char bytes[32];
  for (unsigned byte = 0; byte < 256; byte++) add_new((char[]){(char)byte}, 1);
  for (unsigned i = 0; i < 1000; i++)
    for (int digits = 1; digits <= 3; digits++) add_new(bytes, (size_t)snprintf(bytes, sizeof bytes, "%0*u", digits, i));
  for (size_t n = 1; n < sizeof bytes; n++) add_new(memset(bytes, ' ', sizeof bytes), n);
  static const char *const folders[] = {"src", "tests", "include", "bench", "config", "/usr/include", "/usr/share/doc"};
  for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) read_folder(folders[i], 5);
}

/* --- schemas -------------------------------------------------------------------------------------------- */

static const char *const kinds[] = {
    "{\"type\":\"string\"}",
    "{\"type\":\"integer\"}",
    "{\"type\":\"number\"}",
    "{\"type\":\"boolean\"}",
    "{\"enum\":[\"low\",\"medium\",\"high\"]}",
    "{\"type\":\"array\",\"items\":{\"type\":\"string\"}}",
    "{\"type\":\"string\",\"maxLength\":80}",
    "{\"type\":\"object\",\"properties\":{\"id\":{\"type\":\"integer\"},\"name\":{\"type\":\"string\"}},\"required\":[\"id\",\"name\"]}",
};

static json_t *make_schema(unsigned n, bool required, bool open) {
  json_t *schema = json_object(), *properties = json_object(), *names = json_array();
  for (unsigned i = 0; i < n; i++) {
    char name[32];
    snprintf(name, sizeof name, "property_%u", i);
    json_object_set_new(properties, name, json_loads(kinds[i % (sizeof kinds / sizeof *kinds)], 0, NULL));
    json_array_append_new(names, json_string(name));
  }
  json_object_set_new(schema, "type", json_string("object"));
  json_object_set_new(schema, "properties", properties);
  json_object_set_new(schema, "additionalProperties", json_boolean(open));
  if (required) json_object_set(schema, "required", names);
  json_decref(names);
  return schema;
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static struct tl_grammar *compile(const struct tl_vocabulary *v, const struct tl_grammar_source *source) {
  struct tl_grammar *g;
  struct tl_error err = {0};
  if (tl_grammar_compile(v, source, NULL, &g, &err) < 0) die(err.message);
  return g;
}

static struct tl_grammar *measure_compile(const char *name, const struct tl_vocabulary *v, const struct tl_grammar_source *source) {
  double ms[ROUNDS];
  struct tl_grammar *g = NULL;
  for (unsigned i = 0; i < ROUNDS; i++) {
    tl_grammar_release(g);
    int64_t began_ns = now_ns();
    g = compile(v, source);
    ms[i] = (double)(now_ns() - began_ns) / 1e6;
  }
  qsort(ms, ROUNDS, sizeof *ms, by_size);
  printf("  %-44s %9.2f ms  %6u states  %7.0f KiB\n", name, ms[ROUNDS / 2], g->n_states, (double)tl_grammar_bytes(g) / 1024);
  return g;
}

/* --- masks ------------------------------------------------------------------------------------------------- */

/* Byte by byte: the vocabulary has a token of each byte. */
static void take_text(struct tl_matcher *m, const struct tl_vocabulary *v, const char *text) {
  for (; *text; text++) {
    uint32_t token = v->sorted[v->first[(uint8_t)*text]];
    if (tl_matcher_take(m, (int32_t)token) < 0) die(text);
  }
}

/* The baseline: each token on its own, from where the text has come to. ret_words is what came out. */
static double walk_all_us(const struct tl_grammar *g, const char *text, uint32_t *ret_words) {
  static struct gr_frame frames[GR_FRAMES];
  static struct gr_edge edges[GR_EDGES];
  static struct gr_set from, set, other;
  const struct tl_vocabulary *v = g->vocabulary;
  struct gr_walk walk = {.grammar = g, .frames = frames, .edges = edges};
  gr_walk_begin(&walk, &from);
  if (gr_walk_bytes(&walk, &from, text, strlen(text), &other) < strlen(text)) die(text);
  uint32_t n_frames = walk.n_frames, n_edges = walk.n_edges;
  int64_t began_ns = now_ns();
  memset(ret_words, 0, v->n_words * sizeof *ret_words);
  for (uint32_t i = 0; i < v->n_sorted; i++) {
    set = from;
    size_t length = v->start[i + 1] - v->start[i];
    if (gr_walk_bytes(&walk, &set, v->bytes + v->start[i], length, &other) == length) ret_words[v->sorted[i] / 32] |= 1u << v->sorted[i] % 32;
    walk.n_frames = n_frames;
    walk.n_edges = n_edges;
  }
  return (double)(now_ns() - began_ns) / 1e3;
}

static void measure_mask(const char *name, struct tl_grammar *g, const char *text) {
  const struct tl_vocabulary *v = g->vocabulary;
  uint32_t *words = malloc(v->n_words * sizeof *words), *walked = malloc(v->n_words * sizeof *words), n = 0;
  struct tl_matcher *m;
  double us[ROUNDS];
  if (!words || !walked || tl_matcher_new(g, &m, NULL) < 0) die("no memory");
  take_text(m, v, text);
  for (unsigned i = 0; i < ROUNDS; i++) {
    int64_t began_ns = now_ns();
    tl_matcher_mask(m, words);
    us[i] = (double)(now_ns() - began_ns) / 1e3;
  }
  for (uint32_t i = 0; i < v->n_words; i++) n += (uint32_t)__builtin_popcount(words[i]);
  qsort(us, ROUNDS, sizeof *us, by_size);
  double walk_us = walk_all_us(g, text, walked);
  if (memcmp(words, walked, v->n_words * sizeof *words)) die("masks differ");
  printf("  %-44s %9.1f us  %6u tokens  %9.0f us  %5.0f x\n", name, us[ROUNDS / 2], n, walk_us, walk_us / us[ROUNDS / 2]);
  tl_matcher_free(m);
  free(words);
  free(walked);
}

int main(int argc, char **argv) {
  if (argc > 1) read_tiktoken(argv[1]);
  else make_vocabulary();
  struct tl_vocabulary *v;
  int64_t began_ns = now_ns();
  if (tl_vocabulary_new(tokens, n_tokens, &v, NULL) < 0) die("no memory");
  printf("%u tokens; at boot %.1f ms\ncompiling, median of %d\n", n_tokens, (double)(now_ns() - began_ns) / 1e6, ROUNDS);
  json_t *required = make_schema(20, true, false), *optional = make_schema(20, false, false), *open = make_schema(20, false, true);
  const struct tl_grammar_source sources[] = {
      {.kind = TL_GRAMMAR_JSON_SCHEMA, .json = required, .field = "schema"},
      {.kind = TL_GRAMMAR_JSON_SCHEMA, .json = optional, .field = "schema"},
      {.kind = TL_GRAMMAR_JSON_SCHEMA, .json = open, .field = "schema"},
      {.kind = TL_GRAMMAR_JSON_OBJECT, .field = "json_object"},
      {.kind = TL_GRAMMAR_REGEX, .text = "[a-z ]{1,200}", .length = 13, .field = "regex"},
      {.kind = TL_GRAMMAR_REGEX, .text = "(.|\n)*", .length = 7, .field = "regex"},
  };
  struct tl_grammar *strict = measure_compile("schema, 20 required properties", v, &sources[0]);
  struct tl_grammar *loose = measure_compile("schema, 20 optional properties", v, &sources[1]);
  struct tl_grammar *more = measure_compile("the same, and others allowed", v, &sources[2]);
  struct tl_grammar *any = measure_compile("any JSON object", v, &sources[3]);
  struct tl_grammar *counted = measure_compile("regular expression [a-z ]{1,200}", v, &sources[4]);
  struct tl_grammar *all = measure_compile("regular expression (.|\\n)*", v, &sources[5]);
  printf("masks, median of %d, tokens that they allow, a walk of the whole vocabulary\n", ROUNDS);
  measure_mask("schema: at the beginning", strict, "");
  measure_mask("schema: within a name", strict, "{\"prop");
  measure_mask("schema: within a string", strict, "{\"property_0\":\"hello");
  measure_mask("schema: between members", strict, "{\"property_0\":\"hello\"");
  measure_mask("schema: within a number", strict, "{\"property_0\":\"hello\",\"property_1\":12");
  measure_mask("schema and others: within a name", more, "{\"prop");
  measure_mask("object: within a string, three levels deep", any, "{\"a\":{\"b\":{\"c\":\"hello");
  measure_mask("object: within a number, three levels deep", any, "{\"a\":{\"b\":{\"c\":12");
  measure_mask("object: before a value", any, "{\"a\":");
  measure_mask("[a-z ]{1,200}: after 5 characters", counted, "hello");
  measure_mask("[a-z ]{1,200}: after 195 characters", counted,
               "hello hello hello hello hello hello hello hello hello hello hello hello hello hello hello hello hello hello hello hello "
               "hello hello hello hello hello hello hello hello hello hello hello hello h hello");
  measure_mask("(.|\\n)*", all, "hello");
  tl_grammar_release(counted);
  tl_grammar_release(all);
  tl_grammar_release(strict);
  tl_grammar_release(loose);
  tl_grammar_release(any);
  tl_grammar_release(more);
  json_decref(required);
  json_decref(optional);
  json_decref(open);
  tl_vocabulary_free(v);
  for (uint32_t i = 0; i < n_tokens; i++) free((char *)tokens[i].bytes);
  free(tokens);
  return 0;
}
