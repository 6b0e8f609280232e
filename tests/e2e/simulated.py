# SPDX-License-Identifier: MIT
"""What simulated devices say: the formula of include/tokenlane/sim.h, a second time."""
import json
import pathlib

MASK = (1 << 64) - 1
START = 0x746F6B656E6C616E


def mix(value):
    """tl_hash_u64"""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & MASK
    return value ^ value >> 31


def expected(prompt, n, tokens, eos=(), temperature=0.0, seed=0, allowed=None):
    """The n ids after the ids of `prompt`; `tokens`: what the device answers with; allowed: the ids of a mask instead."""
    tokens = tokens if allowed is None else sorted(set(allowed))
    history, out = START, []
    for position in range(len(prompt) + n):
        if position >= len(prompt):
            key = mix(seed & MASK ^ mix(position)) if temperature > 0 else 0
            at = mix(history ^ key) % len(tokens)
            while tokens[at] in eos:
                at = (at + 1) % len(tokens)
            out.append(tokens[at])
        token = prompt[position] if position < len(prompt) else out[-1]
        history = mix(history ^ (position << 32 | token))
    return out


def byte_alphabet():
    """{character of a byte-level vocabulary: byte}, as GPT-2 has it."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {**{chr(b): b for b in plain}, **{chr(256 + i): b for i, b in enumerate(others)}}


def is_ordinary(text):
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return len(text) > 0 and all(b >= 0x20 and b != 0x7F for b in text)


class Vocabulary:
    """Of a model folder with a byte-level tokenizer."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        alphabet = byte_alphabet()
        size = json.loads((folder / "config.json").read_text())["vocab_size"]
        self.bytes = {i: bytes(alphabet[c] for c in t) for t, i in tokenizer["model"]["vocab"].items()
                      if all(c in alphabet for c in t)}
        special = {t["id"] for t in tokenizer["added_tokens"] if t["special"]}
        self.bytes.update({t["id"]: t["content"].encode() for t in tokenizer["added_tokens"]})
        self.ordinary = sorted(i for i, b in self.bytes.items() if i < size and i not in special and is_ordinary(b))

    def expected_text(self, prompt, n, **more):
        """The text that follows the ids of `prompt`."""
        return b"".join(self.bytes[i] for i in expected(prompt, n, self.ordinary, **more)).decode()


def vector(ids, n_out, types=(), normalize=True):
    """What a simulated device makes of the ids of one text or pair, as a model that pools."""
    history = START
    for position, token in enumerate(ids):
        history = mix(history ^ (position << 32 | token))
        if types and types[position]:
            history = mix(history ^ types[position])
    values = [(mix(history ^ k) >> 40) / 2**23 - 1 for k in range(n_out)]
    length = sum(v * v for v in values) ** 0.5 if normalize else 1
    return [v / length for v in values]
