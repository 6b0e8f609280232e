# SPDX-License-Identifier: MIT
"""Tokenizers out of a GGUF file's metadata alone, through `tokenlane tokenize`: ids equal sentencepiece's and the
`tokenizers` library's."""
import base64
import json
import os
import pathlib
import struct
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENLANE = pathlib.Path(os.environ.get("TOKENLANE_BIN", ROOT / "build/plain/bin/tokenlane"))
GOLDEN = ROOT / "tests/golden"
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def listed(kind, items):
    return struct.pack("<IIQ", 9, kind, len(items)) + b"".join(items)


def value_of(value):
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, bytes):
        return struct.pack("<IIQ", 9, 0, len(value)) + value
    if isinstance(value[0], str):
        return listed(8, [text(v) for v in value])
    return listed(6, [struct.pack("<f", v) for v in value]) if isinstance(value[0], float) else listed(5, [struct.pack("<i", v) for v in value])


def write(path, **keys):
    body = b"".join(text("tokenizer.ggml." + k) + value_of(v) for k, v in keys.items())
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + body)
    return path


def tokenize(path, words, *args):
    return subprocess.run([TOKENLANE, "tokenize", path, *args], input=words.encode(), capture_output=True, timeout=60)


def ids(path, words, *args):
    done = tokenize(path, words, *args)
    assert done.returncode == 0, done.stderr
    return list(map(int, done.stdout.split()))


def test_llama(tmp_path):
    golden = json.loads((GOLDEN / "tokenizers_spm.json").read_text())
    pieces = golden["pieces"]
    path = write(tmp_path / "vocab.gguf", model="llama", tokens=[p[0] for p in pieces], scores=[float(p[1]) for p in pieces],
                 token_type=[p[2] for p in pieces], bos_token_id=1, eos_token_id=2)
    for case in golden["cases"][::8]:
        assert ids(path, case["text"]) == [1] + case["ids"]
        assert ids(path, case["text"], "--no-special") == case["ids"] or "<" in case["text"]
    back = tokenize(path, " ".join(map(str, case["ids"])), "--decode")
    assert back.stdout.decode() == case["text"]


@pytest.mark.parametrize("name, pre", [("llama3", "llama-bpe"), ("deepseek", "deepseek-v3"), ("starcoder", "smollm")])
def test_gpt2(tmp_path, name, pre):
    golden = json.loads((GOLDEN / "tokenizers" / name / "tokenizer.json").read_text())
    vocab, added = golden["model"]["vocab"], golden["added_tokens"]
    tokens = [""] * (max(list(vocab.values()) + [a["id"] for a in added]) + 1)
    types = [UNUSED] * len(tokens)
    for token, at in vocab.items():
        tokens[at], types[at] = token, 1
    for a in added:
        tokens[a["id"]], types[a["id"]] = a["content"], CONTROL if a["special"] else USER_DEFINED
    path = write(tmp_path / "vocab.gguf", model="gpt2", pre=pre, tokens=tokens, token_type=types, merges=[" ".join(m) for m in golden["model"]["merges"]],
                 bos_token_id=0, add_bos_token=True)
    for case in json.loads((GOLDEN / "tokenizers" / name / "cases.json").read_text())[::9]:
        assert ids(path, case["text"]) == [0] + case["ids"]


def test_gemma4(tmp_path):
    """SentencePiece's pieces by merges. <bos> comes whatever the file says, as in llama.cpp; no blank is put before a text."""
    golden = json.loads((GOLDEN / "tokenizers/gemma/tokenizer.json").read_text())
    vocab, added = golden["model"]["vocab"], {a["id"]: a for a in golden["added_tokens"]}
    of_id = {i: t for t, i in vocab.items()} | {i: a["content"] for i, a in added.items()}
    tokens = [of_id[i] for i in range(len(of_id))]
    types = [(CONTROL if added[i]["special"] else USER_DEFINED) if i in added else 6 if t.startswith("<0x") else 1 for i, t in enumerate(tokens)]
    path = write(tmp_path / "vocab.gguf", model="gemma4", tokens=tokens, token_type=types, merges=[" ".join(m) for m in golden["model"]["merges"]],
                 bos_token_id=2, unknown_token_id=vocab["<unk>"], add_bos_token=False)
    for case in json.loads((GOLDEN / "tokenizers/gemma/cases.json").read_text())[::18]:
        assert ids(path, case["text"]) == [2] + case["ids"]


def test_xlm_roberta(tmp_path):
    """Unigram with SentencePiece's map and both ends, as llama.cpp's converter writes XLM-RoBERTa."""
    golden = json.loads((GOLDEN / "tokenizers/xlmr/tokenizer.json").read_text())
    pieces, added = golden["model"]["vocab"], {a["content"]: a["id"] for a in golden["added_tokens"]}
    tokens = [p[0] for p in pieces] + [t for t, i in added.items() if i == len(pieces)]
    path = write(tmp_path / "vocab.gguf", model="t5", pre="default", tokens=tokens, scores=[float(p[1]) for p in pieces] + [0.0],
                 token_type=[2 if i == golden["model"]["unk_id"] else CONTROL if t in added else 1 for i, t in enumerate(tokens)],
                 precompiled_charsmap=base64.b64decode(golden["normalizer"]["precompiled_charsmap"]), add_space_prefix=True,
                 remove_extra_whitespaces=True, bos_token_id=added["<s>"], eos_token_id=added["</s>"], add_bos_token=True, add_eos_token=True)
    # the library splits at blanks that sentencepiece's map does not know
    cases = [c for c in json.loads((GOLDEN / "tokenizers/xlmr/cases.json").read_text()) if not set("\x85\x1c\x1d\x1e\x1f\x0b\x0c") & set(c["text"])][::3]
    got = [ids(path, c["text"]) for c in cases]
    # scores are floats in GGUF: of the ways to cut a run of one letter that have the same sum another may win
    assert [sorted(g) for g in got] == [sorted(c["ids_special"]) for c in cases]
    assert sum(g == c["ids_special"] for g, c in zip(got, cases)) >= len(cases) - 3


@pytest.mark.parametrize("keys, message", [
    ({}, "tokenizer.json: cannot be opened"),
    ({"model": "rwkv", "tokens": ["a"]}, "expected llama, gpt2, bert, t5 or gemma4, got 'rwkv'"),
    ({"model": "llama", "tokens": ["a"]}, "tokenizer.ggml.scores"),
    ({"model": "llama", "tokens": ["a"], "scores": [1.0, 2.0]}, "tokenizer.ggml.scores: expected as many numbers"),
    ({"model": "gpt2", "tokens": ["a"], "pre": "unheard-of"}, "unheard-of"),
])
def test_refused(tmp_path, keys, message):
    done = tokenize(write(tmp_path / "vocab.gguf", **keys), "a")
    assert done.returncode == 1 and message in done.stderr.decode()


def test_cut_files(tmp_path):
    whole = write(tmp_path / "vocab.gguf", model="llama", tokens=["<unk>", "a", "b", "ab"], scores=[0.0, -1.0, -2.0, -3.0], token_type=[2, 1, 1, 1])
    raw = whole.read_bytes()
    assert ids(whole, "ab", "--no-special") != []
    for n in range(0, len(raw), 7):
        whole.write_bytes(raw[:n])
        done = tokenize(whole, "ab")
        assert done.returncode == 1 and done.stderr.startswith(b"tokenlane: "), n
