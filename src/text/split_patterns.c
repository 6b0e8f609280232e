/* SPDX-License-Identifier: MIT */
#include "text/split_patterns.h"

#include <string.h>

/* Radford et al. 2019 */
const char split_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define TAIL "\\s+(?!\\S)|\\s+"
#define WORDS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define SIGNS " ?[^\\s\\p{L}\\p{N}]+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+"
#define CAPITALS "[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*"

static const char llama3_words[] = CONTRACTIONS "|" WORDS "|\\p{N}{1,3}|" SIGNS "[\\r\\n]*|\\s*[\\r\\n]+|" TAIL;
static const char qwen2_words[] = CONTRACTIONS "|" WORDS "|\\p{N}|" SIGNS "[\\r\\n]*|\\s*[\\r\\n]+|" TAIL;
static const char gpt4o_words[] = CASED CONTRACTIONS "?|" CAPITALS CONTRACTIONS "?|\\p{N}{1,3}|" SIGNS "[\\r\\n/]*|\\s*[\\r\\n]+|" TAIL;
static const char tekken_words[] = CASED "|" CAPITALS "|\\p{N}|" SIGNS "[\\r\\n/]*|\\s*[\\r\\n]+|" TAIL;
static const char deepseek3_words[] = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
                                      "| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|" TAIL;

static const char *const default_patterns[SPLIT_MAX] = {"[\\p{P}\\$\\+<=>\\^~\\|]+", split_gpt2, "\\p{N}+", "[0-9][0-9][0-9]"};
static const char *const gpt2_patterns[SPLIT_MAX] = {split_gpt2};
static const char *const llama3_patterns[SPLIT_MAX] = {llama3_words};
static const char *const qwen2_patterns[SPLIT_MAX] = {qwen2_words};
static const char *const gpt4o_patterns[SPLIT_MAX] = {gpt4o_words};
static const char *const tekken_patterns[SPLIT_MAX] = {tekken_words};
static const char *const digit_patterns[SPLIT_MAX] = {"\\p{N}", split_gpt2};
static const char *const falcon_patterns[SPLIT_MAX] = {"[\\p{P}\\$\\+<=>\\^~\\|`]+", split_gpt2, "[0-9][0-9][0-9]"};
static const char *const deepseek3_patterns[SPLIT_MAX] = {"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+", deepseek3_words};
static const char *const deepseek_coder_patterns[SPLIT_MAX] = {
    "[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+", "\\p{N}"};

static const struct split_kind kinds[] = {
    {"default", default_patterns, false},
    {"gpt-2", gpt2_patterns, false},
    {"phi-2", gpt2_patterns, false},
    {"mpt", gpt2_patterns, false},
    {"olmo", gpt2_patterns, false},
    {"jais", gpt2_patterns, false},
    {"roberta-bpe", gpt2_patterns, false},
    {"exaone4", gpt2_patterns, false},
    {"llama3", llama3_patterns, true},
    {"llama-v3", llama3_patterns, true},
    {"llama-bpe", llama3_patterns, true},
    {"falcon3", llama3_patterns, true},
    {"pixtral", llama3_patterns, true},
    {"dbrx", llama3_patterns, false},
    {"smaug-bpe", llama3_patterns, false},
    {"glm4", llama3_patterns, false},
    {"chatglm-bpe", llama3_patterns, false},
    {"qwen2", qwen2_patterns, false},
    {"deepseek-r1-qwen", qwen2_patterns, false},
    {"stablelm2", qwen2_patterns, false},
    {"hunyuan", qwen2_patterns, false},
    {"megrez", qwen2_patterns, false},
    {"gpt-4o", gpt4o_patterns, false},
    {"llama4", gpt4o_patterns, false},
    {"tekken", tekken_patterns, true},
    {"starcoder", digit_patterns, false},
    {"refact", digit_patterns, false},
    {"command-r", digit_patterns, false},
    {"smollm", digit_patterns, false},
    {"codeshell", digit_patterns, false},
    {"exaone", digit_patterns, false},
    {"falcon", falcon_patterns, false},
    {"deepseek-v3", deepseek3_patterns, false},
    {"hunyuan-dense", deepseek3_patterns, false},
    {"deepseek-coder", deepseek_coder_patterns, false},
};

const struct split_kind *split_kind_find(const char *name) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strcmp(kinds[i].name, name) == 0) return &kinds[i];
  return NULL;
}
