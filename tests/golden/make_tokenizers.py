#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes tokenizers/: small byte-level BPE tokenizers in the set-ups of well-known models, and
the ids and texts that the `tokenizers` library gives for a hard Unicode corpus.

    venv/bin/python make_tokenizers.py

tokenizers/NAME/tokenizer.json and tokenizers/NAME/cases.json, a list of
{text, ids, ids_special, decoded, decoded_skip}.
"""
import json
import os
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and nobody's surprised: it's what foxes DO.",
    "Wir müssen schöne Grüße schicken; die Straße ist weiß und der Bär schläft.",
    "Où est le garçon? Il déjeune à la bibliothèque, près de l'île.",
    "Быстрая коричневая лиса перепрыгивает через ленивую собаку.",
    "Η γρήγορη αλεπού πηδάει πάνω από το τεμπέλικο σκυλί.",
    "敏捷的棕色狐狸跳过了懒狗。今天天气很好，我们去公园散步吧！",
    "素早い茶色の狐がのろまな犬を飛び越える。カタカナとひらがな。",
    "빠른 갈색 여우가 게으른 개를 뛰어넘는다.",
    "الثعلب البني السريع يقفز فوق الكلب الكسول.",
    "השועל החום המהיר קופץ מעל הכלב העצלן.",
    "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।",
    "สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ",
    "def f(x):\n\treturn x ** 2 + 17  # a comment\n\n\nclass A(object):\n    pass\n",
    "for (int i = 0; i < 1024; i++) { sum += a[i] * b[i]; }\r\n",
    "😀 👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 ❤️ ✈️",
    "3.14159 2,71828 1e-9 0xDEADBEEF 12345678901234567890 ½ ² Ⅷ ٣٤٥ 四",
]

CORPUS = SENTENCES + [
    "", " ", "  ", "   \n", "\n", "\n\n\n", "\r\n\r\n", "\t\t x", "a", " a", "  a", "a ", "a  ", "a  b", "a\u00a0b",
    "I'm you're we'll they've he'd it's don't I'M YOU'RE WE'LL IT'S DON'T 'S 'ſ ’s", "'s't're've'm'll'd",
    "x'sy", "''''s", "hello\u3000world", "tab\tand\u000bvertical\u000cfeed", "\u0085next\u0085line", "\u2028ls\u2029ps\u202f\u205f\u1680",
    "mongolian\u180evowel \u180e separator", "zero\u200bwidth\u200cnon\u200djoiner\ufeffbom",
    "e\u0301 é E\u0301 É n\u0303 ñ a\u030a å \u212b \u1e9b\u0323 \u0344", "\u0301\u0301\u0301 leading marks", "q\u0307\u0323 q\u0323\u0307",
    "Z̸̡̢a̵̧l̶̨g̷̛o̸̕", "\uac00\u1100\u1161\u11a8 각 \u1100\u1161", "ﬁ ﬂ ﬀ ℃ № ㎏ ① Ａ １ ｱ", "İstanbul ıstanbul ǅ ß ẞ ΣΑΣ ς",
    "\u0000", "a\u0000b", "\u0001\u0002\u001b[31mred\u001b[0m\u007f\u0080\u009f", "\ufffd", "\ufffe\uffff", "\U0010ffff \U000e0001 \ue000",
    "👨‍👩‍👧‍👦👨‍👩‍👧‍👦", "🇩🇪🇫🇷🇯🇵🇺🇸🇬🇧", "1️⃣ 2️⃣ #️⃣", "👩🏿‍🚀👩🏻‍🚀", "☺︎ ☺️", "\U0001f9d1\u200d\U0001f91d\u200d\U0001f9d1",
    "עִבְרִית مُشَكَّل fa‌rsi\u200f\u200emixed עברית and English", "\u202ebidi override\u202c", "தமிழ் ಕನ್ನಡ తెలుగు മലയാളം বাংলা ગુજરાતી",
    "한국어 조선말 日本語とEnglishの混在 中文English混合123数字", "ไทยลาวខ្មែរမြန်မာ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚 𐍈 𒀀 🜁",
    "0 00 000 0000 00000 1,234,567.89 1234567 ١٢٣٤٥٦٧ ५६७८ ⅓⅔ ²³¹ ⅣⅫ", "a1b2c3 A1B2C3 x² 10km 5°C", "$100 €200 £300 ¥400 ₿1",
    "!!! ??? ... --- *** ((([[[{{{}}}]]]))) <<<>>> ;;; ::: \\\\\\ ///", " !  !!   !!!    !!!!", "!\n!!\r\n!!!\n\n", "a,b;c:d.e!f?g",
    "https://example.com/path?q=1&r=2#frag user@example.org C:\\dir\\file.txt", "snake_case camelCase PascalCase SCREAMING_CASE kebab-case",
    "HTMLParser XMLHttpRequest iPhone McDonald's O'Neill's ÉCOLE école", "\n \n  \n   \n", " \n\t\r\n \t", "x \n y \n\n z", "end with newline\n",
    "    indented\n        more\n\tback\n", "\n    x", "trailing spaces     ", "     leading spaces",
    "<|endoftext|>", "text<|endoftext|>text", " <|endoftext|> ", "<|endoftext|><|endoftext|>", "<|endoftext", "|endoftext|>", "<<|endoftext|>>",
    "<|im_start|>user\nhi<|im_end|>\n", "<|im_start|>", "  <|lstrip|>  x", "  <|rstrip|>  x", "  <|both|> \n x", "<|lstrip|><|rstrip|> <|both|>",
    "word alone words reword word_ wordé word. (word) word", "Word WORD word", "normal Normal NORMAL normalé", "ÄÖÜ added äöü", "one  two", "café cafe\u0301",
    "a" * 300, " " * 300, "\n" * 100, "ab" * 200, "!" * 200, "é" * 150, "漢" * 120, "😀" * 60, "e\u0301" * 100, "1" * 100, " a" * 150, "a\n" * 100,
    ("lorem ipsum dolor sit amet " * 12), "x" * 63, "x" * 64, "x" * 65, "x" * 66, "thethethe" * 20, "the quick brown" * 5 + "\t" * 70 + "z",
]


def random_texts(seed, n):
    """Random characters: every class, with a bias to what patterns care about."""
    rng, out = random.Random(seed), []
    pools = ["abcXYZ'’sSTtdDreveLLlm", " \t\n\r\u00a0\u2003\u3000\u0085", "0123456789²½Ⅷ٣", ".,;:!?-_/\\()[]{}<>|@#$%^&*", "éßñüçøåÆİıſ",
             "漢字かなカナ한글ไทย", "αβγДЖבגعغ", "\u0301\u0308\u0327\u093e\u0e31", "😀👍🏽🇩🇪\u200d\ufe0f", "\u0000\u0007\u200b\ufeff\U000e0020"]
    for _ in range(n):
        text = ""
        for _ in range(rng.randrange(1, 40)):
            if rng.random() < 0.02:
                code = rng.randrange(0x110000)
                text += chr(code) if not 0xd800 <= code < 0xe000 else "x"
            else:
                text += rng.choice(rng.choice(pools)) * rng.choice([1, 1, 1, 2, 3])
        out.append(text)
    return out


def train(tokenizer, vocab, special):
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), max_token_length=24)
    tokenizer.train_from_iterator(SENTENCES * 4 + ["aaaa" * 30, "    " * 20, "word normal the café"] * 3, trainer)


def make(name, pre, normalizer=None, post=None, special=("<|endoftext|>",), added=(), vocab=900, ignore_merges=False, patch=None):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    train(tokenizer, vocab, [AddedToken(s, normalized=False, special=True) for s in special])
    for token, is_special in added:
        tokenizer.add_special_tokens([token]) if is_special else tokenizer.add_tokens([token])
    if post:
        tokenizer.post_processor = post(tokenizer)
    folder = os.path.join(HERE, "tokenizers", name)
    os.makedirs(folder, exist_ok=True)
    text = json.loads(tokenizer.to_str())
    if patch:
        patch(text)
    with open(os.path.join(folder, "tokenizer.json"), "w") as f:
        json.dump(text, f, ensure_ascii=False, separators=(",", ":"))
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    cases = []
    for t in CORPUS + random_texts(len(name), 150):
        ids, full = tokenizer.encode(t, add_special_tokens=False).ids, tokenizer.encode(t).ids
        cases.append({"text": t, "ids": ids, "ids_special": full, "decoded": tokenizer.decode(ids, skip_special_tokens=False),
                      "decoded_skip": tokenizer.decode(full, skip_special_tokens=True)})
    with open(os.path.join(folder, "cases.json"), "w") as f:
        json.dump(cases, f, ensure_ascii=True, separators=(",", ":"))
    print(name, tokenizer.get_vocab_size(), len(cases))


def byte_level(**kw):
    return pre_tokenizers.ByteLevel(**{"add_prefix_space": False, "use_regex": False, **kw})


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior=behavior, invert=invert)


def bos(tokenizer):
    i = tokenizer.token_to_id("<|endoftext|>")
    return processors.Sequence([processors.ByteLevel(trim_offsets=False),
                                processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", i)])])


def bos_eos(tokenizer):
    special = [(t, tokenizer.token_to_id(t)) for t in ("<|im_start|>", "<|im_end|>")]
    return processors.TemplateProcessing(single="<|im_start|> $A <|im_end|>", special_tokens=special)


def merges_as_text(text):
    text["model"]["merges"] = [" ".join(m) for m in text["model"]["merges"]]


def main():
    chat = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    # GPT-2: the special token is matched in the normalized text
    make("gpt2", pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True), patch=lambda t: (
        merges_as_text(t), t["added_tokens"][0].update(normalized=True)))
    make("gpt2_prefix", pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True), special=chat)
    make("llama3", pre_tokenizers.Sequence([split(LLAMA3), byte_level()]), special=chat, post=bos, ignore_merges=True)
    make("qwen2", pre_tokenizers.Sequence([split(QWEN2), byte_level()]), normalizer=normalizers.NFC(), special=chat)
    make("gpt4o", pre_tokenizers.Sequence([split(GPT4O, "removed", True), byte_level()]), special=chat, post=bos_eos)
    make("deepseek", pre_tokenizers.Sequence([split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"),
                                              split(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
                                              byte_level()]), special=chat)
    make("starcoder", pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               byte_level(use_regex=True)]), special=chat)
    make("added", pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), byte_level(use_regex=True)]), special=chat,
         normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace("one  two", "one two")]),
         added=[(AddedToken("<|lstrip|>", lstrip=True, normalized=False), True), (AddedToken("<|rstrip|>", rstrip=True, normalized=False), True),
                (AddedToken("<|both|>", lstrip=True, rstrip=True, normalized=False), False),
                (AddedToken("word", single_word=True, normalized=False), False), (AddedToken("normal", normalized=True), False),
                (AddedToken("ÄÖÜ", normalized=True), False), (AddedToken("漢字", normalized=False), False)])
    for behavior in ("removed", "contiguous", "merged_with_previous", "merged_with_next"):
        make("split_" + behavior, pre_tokenizers.Sequence([split(r"[\s!]", behavior), byte_level()]), vocab=500,
             normalizer=normalizers.Sequence([normalizers.Strip(left=True, right=behavior == "removed"), normalizers.NFD()]))
    make("split_literal", pre_tokenizers.Sequence([pre_tokenizers.Split(" a", behavior="isolated"), byte_level()]), vocab=500,
         normalizer=normalizers.Sequence([normalizers.Prepend(">"), normalizers.NFKD(), normalizers.Replace(Regex(r"\s+"), " ")]))


if __name__ == "__main__":
    main()
