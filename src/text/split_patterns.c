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

/* The same without a full stop for contractions, with marks, or with other ends of lines. */
static const char qwen35_words[] = CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|" TAIL;
static const char seed_words[] = CONTRACTIONS "|" WORDS "|\\p{N}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|" TAIL;
static const char bailing_words[] = "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|" TAIL;
static const char minicpm_words[] = CONTRACTIONS "|" WORDS "|\\p{N}+|" SIGNS "[\\r\\n]*|\\s*[\\r\\n]+|" TAIL;
static const char exaone_words[] = CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}|" SIGNS "[\\r\\n/]?|\\s*[\\r\\n]|" TAIL;
static const char jais2_words[] = CONTRACTIONS "|" WORDS "|\\p{N}{1,3}|" SIGNS "[\\r\\n]*|\\s*[\\r\\n]+|\\s{512}(?!\\S)|\\s{256}(?!\\S)"
                                  "|\\s{128}(?!\\S)|\\s{64}(?!\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s";
static const char youtu_words[] = CASED CONTRACTIONS "?|" CAPITALS CONTRACTIONS "?|\\p{N}|" SIGNS "[\\r\\n/]*|\\s*[\\r\\n]+|" TAIL;
/* Chinese characters are runs of their own, and no letters of the words beside them. */
#define NO_HAN(class) "(?:(?!\\p{Han})" class ")"
static const char kimi_words[] = "\\p{Han}+|[^\\r\\n\\p{L}\\p{N}]?" NO_HAN(UPPER) "*" NO_HAN(LOWER) "+" CONTRACTIONS "?|[^\\r\\n\\p{L}\\p{N}]?" NO_HAN(UPPER) "+"
                                 NO_HAN(LOWER) "*" CONTRACTIONS "?|\\p{N}{1,3}|" SIGNS "[\\r\\n]*|\\s*[\\r\\n]+|" TAIL;
/* BLOOM's words end at punctuation of many scripts; its pattern says so in brackets within brackets. */
static const char bloom_words[] = " ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+";
/* Numbers in groups of three from their ends. */
static const char thousands[] = "\\d{1,3}(?=(?:\\d{3})*(?!\\w))";
static const char deepseek_letters[] =
    "\\s?[A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}\\x{295}-\\x{2af}"
    "\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}"
    "\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}"
    "\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}"
    "\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}"
    "\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}"
    "\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}"
    "\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}"
    "\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}"
    "\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}"
    "\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}"
    "\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}]+";
static const char deepseek_signs[] = "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+";
static const char deepseek_han[] = "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+";

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

static const char *const deepseek_patterns[SPLIT_MAX] = {"[\\r\\n]", deepseek_letters, deepseek_signs, "\\s+$", deepseek_han, "\\p{N}+"};
static const char *const youtu_patterns[SPLIT_MAX] = {
    "[\\x{ac00}-\\x{d7a3}\\x{3131}-\\x{318e}]+|[\\x{ff01}\\x{2026}\\x{201c}\\x{201d}\\x{2018}\\x{2019}\\x{2014}\\x{ff1a}\\x{ff1b}\\x{ff0c}\\x{3001}-\\x{303f}"
    "\\x{fe30}-\\x{fe4f}]+|[\\x{3105}-\\x{312f}]+|[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+", youtu_words};
static const char *const qwen35_patterns[SPLIT_MAX] = {qwen35_words};
static const char *const seed_patterns[SPLIT_MAX] = {seed_words};
static const char *const bailing_patterns[SPLIT_MAX] = {bailing_words};
static const char *const minicpm_patterns[SPLIT_MAX] = {"\\p{N}{1,3}", minicpm_words};
static const char *const exaone_patterns[SPLIT_MAX] = {exaone_words};
static const char *const jais2_patterns[SPLIT_MAX] = {jais2_words};
static const char *const kimi_patterns[SPLIT_MAX] = {kimi_words};
static const char *const bloom_patterns[SPLIT_MAX] = {bloom_words};
static const char *const viking_patterns[SPLIT_MAX] = {bloom_words, "\\p{N}"};
static const char *const aya_patterns[SPLIT_MAX] = {thousands, gpt4o_words};
static const char *const superbpe_patterns[SPLIT_MAX] = {"\\p{N}+", "(?s:.+?(?=(?:\\d{3})+(?!\\d))|.+)"};
static const char *const chameleon_patterns[SPLIT_MAX] = {
    "<sentinel:[0-9]+>", "IMGIMG[A-I]{1,4}Z", "[\\t\\n]|    |  ", "\\p{N}", "[\\p{P}!-/:-@\\[-`{-~]", split_gpt2};
static const char *const afmoe_patterns[SPLIT_MAX] = {
    "\\p{N}{1,3}(?=(?:\\p{N}{3})*(?!\\p{N}))",
    "[\\x{4e00}-\\x{9fff}\\x{3400}-\\x{4dbf}\\x{f900}-\\x{faff}\\x{3040}-\\x{30ff}\\x{ff65}-\\x{ff9f}\\x{2f00}-\\x{2fdf}\\x{e40}-\\x{eff}\\x{1780}-\\x{17ff}"
    "\\x{1000}-\\x{109f}\\x{aa60}-\\x{aa7f}\\x{a9e0}-\\x{a9ff}\\x{ac00}-\\x{d7af}\\x{1100}-\\x{11ff}]+", deepseek3_words};
static const char *const laguna_patterns[SPLIT_MAX] = {"[^\\n]+|\\n+", qwen2_words};

static const struct split_kind kinds[] = {
    {"default", default_patterns, false, false},
    {"gpt-2", gpt2_patterns, false, false},
    {"phi-2", gpt2_patterns, false, false},
    {"mpt", gpt2_patterns, false, false},
    {"olmo", gpt2_patterns, false, false},
    {"jais", gpt2_patterns, false, false},
    {"roberta-bpe", gpt2_patterns, false, false},
    {"exaone4", gpt2_patterns, false, false},
    {"llama3", llama3_patterns, true, true},
    {"llama-v3", llama3_patterns, true, true},
    {"llama-bpe", llama3_patterns, true, true},
    {"falcon3", llama3_patterns, true, true},
    {"pixtral", llama3_patterns, true, true},
    {"dbrx", llama3_patterns, false, false},
    {"smaug-bpe", llama3_patterns, false, false},
    {"glm4", llama3_patterns, false, false},
    {"chatglm-bpe", llama3_patterns, false, false},
    {"qwen2", qwen2_patterns, false, false},
    {"deepseek-r1-qwen", qwen2_patterns, false, false},
    {"stablelm2", qwen2_patterns, false, false},
    {"hunyuan", qwen2_patterns, false, false},
    {"megrez", qwen2_patterns, false, false},
    {"gpt-4o", gpt4o_patterns, false, false},
    {"llama4", gpt4o_patterns, false, false},
    {"tekken", tekken_patterns, true, true},
    {"starcoder", digit_patterns, false, false},
    {"refact", digit_patterns, false, false},
    {"command-r", digit_patterns, false, false},
    {"smollm", digit_patterns, false, false},
    {"codeshell", digit_patterns, false, false},
    {"exaone", digit_patterns, false, false},
    {"falcon", falcon_patterns, false, false},
    {"deepseek-v3", deepseek3_patterns, false, false},
    {"hunyuan-dense", deepseek3_patterns, false, false},
    {"deepseek-coder", deepseek_coder_patterns, false, false},
    {"jina-es", gpt2_patterns, false, false},
    {"jina-de", gpt2_patterns, false, false},
    {"jina-v1-en", gpt2_patterns, false, false},
    {"jina-v2-es", gpt2_patterns, false, false},
    {"jina-v2-de", gpt2_patterns, false, false},
    {"jina-v2-code", gpt2_patterns, false, false},
    {"gigachat", gpt2_patterns, false, false},
    {"a.x-4.0", gpt2_patterns, false, false},
    {"mellum", gpt2_patterns, false, false},
    {"modern-bert", gpt2_patterns, false, false},
    {"trillion", gpt2_patterns, false, false},
    {"granite-docling", gpt2_patterns, false, false},
    {"falcon-h1", llama3_patterns, true, true},
    {"midm-2.0", llama3_patterns, true, true},
    {"lfm2", llama3_patterns, true, true},
    {"jina-v5-nano", llama3_patterns, true, true},
    {"kormo", qwen2_patterns, false, false},
    {"f2llmv2", qwen2_patterns, false, false},
    {"solar-open", qwen2_patterns, false, false},
    {"grok-2", qwen2_patterns, false, false},
    {"kanana2", gpt4o_patterns, false, false},
    {"talkie", gpt4o_patterns, false, false},
    {"minimax-m2", gpt4o_patterns, false, false},
    {"minerva-7b", digit_patterns, false, false},
    {"mellum2", digit_patterns, false, false},
    {"joyai-llm", deepseek3_patterns, false, false},
    {"deepseek-llm", deepseek_patterns, false, false},
    {"youtu", youtu_patterns, true, false},
    {"minicpm5", minicpm_patterns, true, false},
    {"granite-embed-multi-97m", gpt4o_patterns, true, false},
    {"qwen35", qwen35_patterns, false, false},
    {"seed-coder", seed_patterns, false, false},
    {"bailingmoe", bailing_patterns, false, false},
    {"bailingmoe2", bailing_patterns, false, false},
    {"llada-moe", bailing_patterns, false, false},
    {"exaone-moe", exaone_patterns, false, false},
    {"jais-2", jais2_patterns, false, false},
    {"kimi-k2", kimi_patterns, false, false},
    {"poro-chat", bloom_patterns, false, false},
    {"bloom", bloom_patterns, false, false},
    {"gpt3-finnish", bloom_patterns, false, false},
    {"viking", viking_patterns, false, false},
    {"tiny_aya", aya_patterns, false, false},
    {"cohere2moe", aya_patterns, false, false},
    {"superbpe", superbpe_patterns, false, false},
    {"chameleon", chameleon_patterns, false, true},
    {"afmoe", afmoe_patterns, false, false},
    {"laguna", laguna_patterns, false, false},
};

const struct split_kind *split_kind_find(const char *name) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strcmp(kinds[i].name, name) == 0) return &kinds[i];
  return NULL;
}
