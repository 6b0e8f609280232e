# SPDX-License-Identifier: MIT
"""Two texts as one sequence by the `tokenizers` library: writes pairs.json, a list of
{tokenizer (a folder under tokenizers/), post_processor (in place of its own; null: its own), first, second,
max_length (0: none), ids, types}. Run after make_tokenizers.py."""
import json
import os
import random

from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
TEXTS = ["", "a", "How many people live in Berlin?", "Berlin had a population of 3,520,031 registered inhabitants in 2015.",
         "word " * 40, "café naïve Ünïcode 東京", "[SEP] in a text </s> <|endoftext|>"]


def part(kind, name, type_id):
    return {kind: {"id": name, "type_id": type_id}}


def template(pair, tokens):
    single = [part("SpecialToken", tokens[0][0], 0), part("Sequence", "A", 0)]
    return {"type": "TemplateProcessing", "single": single, "pair": pair,
            "special_tokens": {name: {"id": name, "ids": ids, "tokens": [name] * len(ids)} for name, ids in tokens}}


def variants(tokenizer):
    a, b, c = 5, 6, 7  # any ids of the vocabulary
    yield None
    yield {"type": "BertProcessing", "sep": ["x", b], "cls": ["y", a]}
    yield {"type": "RobertaProcessing", "sep": ["x", b], "cls": ["y", a], "trim_offsets": True, "add_prefix_space": False}
    yield {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    yield template([part("SpecialToken", "p", 0), part("Sequence", "A", 0), part("SpecialToken", "q", 0), part("SpecialToken", "q", 1),
                    part("Sequence", "B", 1), part("SpecialToken", "p", 2)], [("p", [a]), ("q", [b, c])])
    yield {"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        template([part("Sequence", "B", 3), part("SpecialToken", "p", 0), part("Sequence", "A", 2)], [("p", [a])])]}


def main():
    cases = []
    rng = random.Random(1)
    for name in ("bert_uncased", "xlmr", "gpt2", "llama3"):
        whole = json.load(open(os.path.join(HERE, "tokenizers", name, "tokenizer.json")))
        for post in variants(whole) if name == "bert_uncased" else [None]:
            changed = {**whole, "post_processor": post} if post else whole
            tokenizer = Tokenizer.from_str(json.dumps(changed))
            for _ in range(12):
                first, second = rng.choice(TEXTS), rng.choice(TEXTS)
                tokenizer.no_truncation()
                length = rng.choice([0, 0, 8, 15, 40])
                if length:
                    tokenizer.enable_truncation(length, strategy="longest_first")
                e = tokenizer.encode(first, second)
                cases.append({"tokenizer": name, "post_processor": post, "first": first, "second": second, "max_length": length,
                              "ids": e.ids, "types": e.type_ids})
    with open(os.path.join(HERE, "pairs.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")


if __name__ == "__main__":
    main()
