# SPDX-License-Identifier: MIT
"""How each kind of tokenizer.ggml.pre splits, against the `tokenizers` library with the patterns that the models' own
tokenizer.json files have (those that llama.cpp's llama-vocab.cpp quotes)."""
import json
import random
import re

import pytest
from test_gguf_tokenizers import GOLDEN, write
from test_tokenizers import ours, random_text
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

ENDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = ENDS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|" + TAIL
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
UP, LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
GPT4O = (rf"[^\r\n\p{{L}}\p{{N}}]?{UP}*{LOW}+{ENDS}?|[^\r\n\p{{L}}\p{{N}}]?{UP}+{LOW}*{ENDS}?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|" + TAIL)
NO_HAN = r"&&[^\p{Han}]]"
KIMI = ((r"[\p{Han}]+|" + GPT4O).replace(UP, UP[:-1] + NO_HAN).replace(LOW, LOW[:-1] + NO_HAN).replace(r"[\r\n/]*", r"[\r\n]*"))
BLOOM = " ?[^(\\s|.,!?…。，、।۔،)]+"
CJK = "[一-龥぀-ゟ゠-ヿ]+"
DEEPSEEK3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|" + TAIL)
SIGNS = "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+"
KINDS = {
    "lfm2": [LLAMA3], "kormo": [QWEN2], "jina-es": [GPT2], "minerva-7b": [r"\p{N}", GPT2], "kanana2": [GPT4O],
    "joyai-llm": [r"\p{N}{1,3}", CJK, DEEPSEEK3],
    "qwen35": [ENDS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|" + TAIL],
    "seed-coder": [ENDS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|" + TAIL],
    "bailingmoe": [r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|" + TAIL],
    "minicpm5": [r"\p{N}{1,3}", LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+")],
    "exaone-moe": [ENDS + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|" + TAIL],
    "jais-2": [ENDS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)"
               r"|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"],
    "youtu": ["[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|" + CJK, GPT4O.replace(r"\p{N}{1,3}", r"\p{N}")],
    "kimi-k2": [KIMI], "bloom": [BLOOM], "viking": [BLOOM, r"\p{N}"], "tiny_aya": [r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O],
    "superbpe": [r"\p{N}+", r"(?=(\d{3})+(?!\d))"], "laguna": [r"[^\n]+|[\n]+", QWEN2],
    "chameleon": ["<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )", r"\p{N}", r"[\p{P}!-/:-@\[-`{-~]", GPT2],
    # its numbers by code in llama.cpp: a first group of what is left of threes
    "afmoe": [r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", "[一-鿿㐀-䶿\uf900-\ufaff぀-ゟ゠-ヿ･-ﾟ⼀-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f"
              "\uaa60-\uaa7f\ua9e0-\ua9ff가-\ud7af\u1100-\u11ff]+", DEEPSEEK3],
    # but for its letters, which are a list
    "deepseek-llm": [r"[\r\n]", None, SIGNS, r"\s+$", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}+"],
}
WORDS = ["<sentinel:12>", "IMGIMGABCZ", "1234567", "12 345", "½1234", "漢字abc漢", "don't DON'T it'S", "\t\n    x", "Ünïcode ϜΩℤ ℨ Աբ ᏽ 𐐀", "अ। क۔", "a b c"]


def listed_letters():
    """The cased letters among those that the file's list names, as a pattern."""
    source = (GOLDEN.parents[1] / "src/text/split_patterns.c").read_text()
    body = source[source.index("deepseek_letters[] ="):source.index("deepseek_signs[] =")].split("=", 1)[1]
    text = "".join(body.split('"')[1::2]).replace("\\\\", "\\")
    return re.sub(r"\\x\{([0-9a-f]+)\}", lambda found: chr(int(found[1], 16)), text)


@pytest.fixture(scope="module")
def learnt():
    """Merges that reach over every kind of border, so that each border that is missed shows."""
    rng = random.Random(3)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.train_from_iterator([random_text(rng, WORDS) for _ in range(3000)] + WORDS * 50, trainers.BpeTrainer(
        vocab_size=4000, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), max_token_length=12))
    return json.loads(tokenizer.to_str())["model"]


@pytest.mark.parametrize("kind", KINDS)
def test_splits_as_the_models_do(tmp_path, learnt, kind):
    vocab = learnt["vocab"]
    tokens = sorted(vocab, key=vocab.get)
    assert [vocab[t] for t in tokens] == list(range(len(tokens)))
    path = write(tmp_path / "vocab.gguf", model="gpt2", pre=kind, tokens=tokens, token_type=[1] * len(tokens),
                 merges=[" ".join(m) for m in learnt["merges"]], add_bos_token=False)
    whole = kind in ("lfm2", "youtu", "minicpm5")
    reference = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(m) for m in learnt["merges"]], ignore_merges=whole))
    steps = [pre_tokenizers.Split(Regex(pattern or listed_letters()), "isolated") for pattern in KINDS[kind]]
    reference.pre_tokenizer = pre_tokenizers.Sequence(steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    rng = random.Random(7)
    texts = [random_text(rng, WORDS) for _ in range(1500)] + WORDS
    differ = [text for text, got in zip(texts, ours(path, texts)) if got[0] != reference.encode(text).ids]
    assert not differ, (len(differ), ascii(min(differ, key=len)))
