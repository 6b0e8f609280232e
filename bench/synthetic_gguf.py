#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the model of make_synthetic.py as one GGUF file, as llama.cpp's converter lays it out.

    pip install gguf safetensors; python3 bench/synthetic_gguf.py FOLDER FILE.gguf --type bf16|q8_0|q4_0|q4_k

Matrices get the type, norms stay floats. `gguf` rounds to BF16, Q8_0 and Q4_0; it cannot make Q4_K, whose blocks are
random instead, as the weights are in any case: the speed is the same. Rows of Q and K are random as well and are not permuted."""

import argparse
import json
import pathlib
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/golden"))
from make_gguf import add_sizes, gguf_name, write  # noqa: E402

TYPES = {"bf16": T.BF16, "q8_0": T.Q8_0, "q4_0": T.Q4_0, "q4_k": T.Q4_K}


def tensors(path):
    """(name, BF16 values as float32) of each tensor."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    size = int(data[:8].view("<u8")[0])
    for name, entry in json.loads(data[8:8 + size].tobytes()).items():
        if name != "__metadata__":
            if entry["dtype"] != "BF16":
                raise SystemExit(f"{path}: {name}: expected BF16, got {entry['dtype']}")
            begin, end = (8 + size + at for at in entry["data_offsets"])
            halves = data[begin:end].view("<u2")
            yield name, (halves.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])


def random_q4_k(rng, rows, columns):
    """Blocks of 256: two halves that scale, 12 bytes of scales and minima of 6 bits, 128 of codes."""
    blocks = rng.integers(0, 256, (rows, columns // 256, 144), dtype=np.uint8)
    halves = np.full((rows, columns // 256, 2), [0.02 / 32 / 8, 0.02 / 32], dtype=np.float16)
    blocks[:, :, :4] = halves.view(np.uint8)
    return blocks.reshape(rows, -1)


def describe(out, config, vocabulary):
    add_sizes(out, config, config["head_dim"])
    out.add_rope_freq_base(config["rope_theta"])
    words = sorted(vocabulary, key=vocabulary.get)
    words[-1] = "ab"  # llama.cpp wants at least one merge
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list(words)
    out.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(words) - 3))
    out.add_token_merges(["a b"])


def convert(folder, path, kind):
    config = json.loads((folder / "config.json").read_text())
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    rng = np.random.default_rng(1)
    part = path.with_suffix(".part")
    out = gguf.GGUFWriter(part, "llama")
    describe(out, config, vocabulary)
    for name, values in tensors(folder / "model.safetensors"):
        if values.ndim == 1:
            out.add_tensor(gguf_name(name), values)
            continue
        rows = random_q4_k(rng, *values.shape) if kind == T.Q4_K else gguf.quantize(values, kind)
        out.add_tensor(gguf_name(name), rows, raw_dtype=kind)
    write(out)
    part.rename(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--type", choices=TYPES, required=True)
    a = parser.parse_args()
    convert(a.folder, a.file, TYPES[a.type])


if __name__ == "__main__":
    main()
