# SPDX-License-Identifier: MIT
"""Every kind of tokenizer against the `tokenizers` library on random texts: ids, ids with special tokens, and both
texts decoded again, whole and streamed. 2,000 texts a tokenizer; with -m slow (make fuzz) 100,000.

TOKENLANE_TOKENIZERS names further tokenizer.json files, with colons between them."""
import json
import os
import pathlib
import random
import struct
import subprocess
import tempfile
import unicodedata

import pytest
from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
MANY = pathlib.Path(os.environ.get("TOKENLANE_BIN", ROOT / "build/plain/bin/tokenlane")).with_name("tokenize_many")
FILES = sorted((ROOT / "tests/golden/tokenizers").glob("*/tokenizer.json"))
FILES += [pathlib.Path(f) for f in os.environ.get("TOKENLANE_TOKENIZERS", "").split(":") if f]

# Characters of Unicode 14: it is what PCRE2 10.42 knows, and what this Python's unicodedata does.
ASSIGNED = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
COMMON = [c for c in ASSIGNED if ord(c) < 0x3000 or 0x1F000 < ord(c) < 0x1FB00 or 0xF900 <= ord(c) <= 0xFFFF]
POOLS = ["abcXYZ'’sSTtdDreveLLlm", " \t\n\r\u00a0\u2003\u3000\u0085\u2581", "0123456789²½Ⅷ٣", ".,;:!?-_/\\()[]{}<>|@#$%^&*`\"", "éßñüçøåÆİıſ", "漢字かなカナガ한글ไทย",
         "αβγДЖבגعغ", "\u0301\u0308\u0327\u0323\u093e\u0e31\u3099\u11a8", "😀👍🏽🇩🇪\u200d\ufe0f", "\u0000\u0007\u200b\ufeff\U000e0020\ue000\ufffd", "ﬁ℃①Ａｱ㎏´¨"]
WORDS = ("the of and don't I'm we'll it's HELLO World word Word normal café ÄÖÜ snake_case camelCase 2024 3.14 1,000,000 x**2 == // https://a.b/c?d=e "
         "straße naïve 東京 你好 Привет γειά שלום <|im_start|> <|im_end|> <|endoftext|> <s> </s> <unk> <mask> [CLS] [MASK] [UNK] ##ing <0x41> <0x0A> ▁a ▁▁").split(" ")


def random_text(rng, added):
    out = []
    for _ in range(rng.randrange(1, 30) if rng.random() < 0.98 else rng.randrange(1, 300)):
        kind = rng.random()
        if kind < 0.35:
            out.append(rng.choice(WORDS) + rng.choice(["", " ", " ", "  ", "\n", "."]))
        elif kind < 0.40 and added:
            out.append(rng.choice(["", " ", "  "]) + rng.choice(added) + rng.choice(["", " ", "\n "]))
        elif kind < 0.50:
            out.append(rng.choice(COMMON))
        elif kind < 0.53:
            out.append(rng.choice(ASSIGNED))
        else:
            out.append(rng.choice(rng.choice(POOLS)) * rng.choice([1, 1, 1, 1, 2, 3, 9]))
    return "".join(out)


def take(data, at, size):
    (n,) = struct.unpack_from("<I", data, at)
    at += 4
    return data[at:at + n * size], at + n * size


def ours(path, texts):
    """(ids, ids with special tokens, text of the former, text of the latter without special tokens) of each."""
    records = b"".join(struct.pack("<I", len(t)) + t for t in (text.encode() for text in texts))
    with tempfile.TemporaryFile() as file:
        file.write(records)
        file.seek(0)
        done = subprocess.run([MANY, path], stdin=file, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    at = 0
    for _ in texts:
        ids, at = take(done.stdout, at, 4)
        full, at = take(done.stdout, at, 4)
        text, at = take(done.stdout, at, 1)
        skipped, at = take(done.stdout, at, 1)
        yield (list(struct.unpack(f"<{len(ids) // 4}i", ids)), list(struct.unpack(f"<{len(full) // 4}i", full)), text.decode(), skipped.decode())
    assert at == len(done.stdout)


def compare(path, n, seed):
    reference = Tokenizer.from_file(str(path))
    reference.no_padding()
    reference.no_truncation()
    added = [t["content"] for t in json.loads(path.read_text())["added_tokens"]]
    rng = random.Random(seed)
    while n > 0:
        texts = [random_text(rng, added) for _ in range(min(n, 5000))]
        n -= len(texts)
        for text, got in zip(texts, ours(path, texts)):
            ids, full = reference.encode(text, add_special_tokens=False).ids, reference.encode(text).ids
            assert got[0] == ids, ascii(text)
            assert got[1] == full, ascii(text)
            assert got[2] == reference.decode(ids, skip_special_tokens=False), ascii(text)
            assert got[3] == reference.decode(full, skip_special_tokens=True), ascii(text)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.parent.name)
def test_random_texts(path):
    compare(path, 2000, 11)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.parent.name)
def test_many_random_texts(path):
    compare(path, 100_000, int.from_bytes(os.urandom(4)) if "TOKENLANE_SEED" not in os.environ else int(os.environ["TOKENLANE_SEED"]))


# --- tokenlane tokenize -----------------------------------------------------------------------------


def command(*args, text=b""):
    tokenlane = MANY.with_name("tokenlane")
    return subprocess.run([tokenlane, "tokenize", *map(str, args)], input=text, capture_output=True, timeout=60)


@pytest.mark.parametrize("name", ["llama3", "llama2", "t5", "bert_uncased"])
def test_command_equals_reference(name):
    path = ROOT / "tests/golden/tokenizers" / name / "tokenizer.json"
    reference = Tokenizer.from_file(str(path))
    text = "Hello, wörld! 漢字 😀\n  it's 2024 </s><|im_end|>[SEP]"
    expected = reference.encode(text).ids
    for model in (path, path.parent):
        done = command(model, text=text.encode())
        assert done.returncode == 0 and done.stderr == b"" and list(map(int, done.stdout.split())) == expected
    assert command(path, "--ids", text=text.encode()).stdout == done.stdout
    pieces = command(path, "--pieces", text=text.encode()).stdout.decode().splitlines()
    assert [int(line.split("\t")[0]) for line in pieces] == expected
    back = command("--decode", path, text=done.stdout)
    assert back.stdout.decode() == reference.decode(expected, skip_special_tokens=False)
    back = command("--decode", "--no-special", path, text=str(expected).encode())
    assert back.stdout.decode() == reference.decode(expected, skip_special_tokens=True)
    reference.encode_special_tokens = True
    plain = list(map(int, command(path, "--no-special", text=b"a b").stdout.split()))
    assert plain == reference.encode("a b", add_special_tokens=False).ids


@pytest.mark.parametrize("args, text, message", [
    ((), b"", "expected a model folder"),
    (("/nonexistent",), b"", "/nonexistent/tokenizer.json: cannot be opened"),
    (("MODEL", "--what"), b"", "did not expect --what"),
    (("MODEL", "--ids", "--decode"), b"", "exclude one another"),
    (("MODEL", "--decode"), b"1 2 99999999", "expected ids from 0 to"),
    (("MODEL", "--decode"), b"1 x", "expected ids from 0 to"),
])
def test_command_refuses(args, text, message):
    done = command(*(ROOT / "tests/golden/tokenizers/llama2" if a == "MODEL" else a for a in args), text=text)
    assert done.returncode == 1 and done.stdout == b"" and message in done.stderr.decode()
