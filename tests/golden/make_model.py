# SPDX-License-Identifier: MIT
"""Makes model_rope.txt, model_dtype.txt and model_small.safetensors from the
reference implementations (needs torch, transformers 5, safetensors, numpy):

    python tests/golden/make_model.py
"""

import os

import numpy
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

HERE = os.path.dirname(os.path.abspath(__file__))


def make_rope():
    """Per line: type theta head_dim factor low high original, then head_dim / 2 hexadecimal floats."""
    shapes = [(10000.0, 64), (10000.0, 128), (500000.0, 128), (1000000.0, 80), (10000.0, 2), (500000.0, 64)]
    cases = [("default", 1, 1, 4, 0), ("linear", 2, 1, 4, 0), ("linear", 8.5, 1, 4, 0),
             ("llama3", 8, 1, 4, 8192), ("llama3", 32, 1, 4, 8192), ("llama3", 4, 2, 3, 2048)]
    with open(f"{HERE}/model_rope.txt", "w") as out:
        out.write("# type theta head_dim factor low_freq high_freq original inv_freq...; made by make_model.py\n")
        for theta, dim in shapes:
            for kind, factor, low, high, original in cases:
                rope = {"rope_type": kind, "rope_theta": theta}
                if kind != "default":
                    rope["factor"] = float(factor)
                if kind == "llama3":
                    rope.update(low_freq_factor=float(low), high_freq_factor=float(high),
                                original_max_position_embeddings=original)
                config = LlamaConfig(hidden_size=dim * 4, num_attention_heads=4, head_dim=dim,
                                     max_position_embeddings=131072, rope_parameters=rope)
                inv_freq = LlamaRotaryEmbedding(config).inv_freq.numpy()
                assert inv_freq.dtype == numpy.float32 and len(inv_freq) == dim // 2
                figures = " ".join(float(f).hex() for f in inv_freq)
                out.write(f"{kind} {theta} {dim} {factor} {low} {high} {original} {figures}\n")


def fnv(words):
    """FNV-1a of 64 bits over little-endian words; every NaN counts as the word 0."""
    value = 0xcbf29ce484222325
    for byte in words.tobytes():
        value = (value ^ byte) * 0x100000001b3 & (2**64 - 1)
    return value


def widened(floats):
    bits = floats.view(numpy.uint32).copy()
    bits[numpy.isnan(floats)] = 0
    return fnv(bits)


def make_dtype():
    all16 = numpy.arange(65536, dtype=numpy.uint32).astype(numpy.uint16)
    half = torch.from_numpy(all16.view(numpy.int16).copy())
    # every 65521st float (a prime), so that all signs and exponents and many mantissas come
    floats = numpy.arange(0, 2**32, 65521, dtype=numpy.uint64).astype(numpy.uint32).view(numpy.float32)
    nan = numpy.isnan(floats)
    with numpy.errstate(over="ignore"):
        to_f16 = floats.astype(numpy.float16).view(numpy.uint16).copy()
    to_bf16 = torch.from_numpy(floats.copy()).to(torch.bfloat16).view(torch.int16).numpy().view(numpy.uint16).copy()
    to_f16[nan] = to_bf16[nan] = 0
    with open(f"{HERE}/model_dtype.txt", "w") as out:
        out.write("# FNV-1a of all 65536 values to float, and of every 65521st float to 16 bits; made by make_model.py\n")
        out.write(f"f16_to_f32 {widened(all16.view(numpy.float16).astype(numpy.float32)):016x}\n")
        out.write(f"bf16_to_f32 {widened(half.view(torch.bfloat16).float().numpy()):016x}\n")
        out.write(f"f32_to_f16 {fnv(to_f16):016x}\n")
        out.write(f"f32_to_bf16 {fnv(to_bf16):016x}\n")


def make_safetensors():
    """Element i of each tensor is i - 3, but for the last, which has none."""
    def counted(*shape):
        n = int(numpy.prod(shape))
        return (torch.arange(n) - 3).reshape(shape)
    save_file({
        "a.f32": counted(2, 3).to(torch.float32),
        "b.f16": counted(5).to(torch.float16),
        "c.bf16": counted(1, 2, 3, 2).to(torch.bfloat16),
        "d.ids": counted(4).to(torch.int64),
        "e.scalar": torch.tensor(-3.0),
        "f.empty": torch.zeros(0, 7),
    }, f"{HERE}/model_small.safetensors", metadata={"format": "pt", "note": "made by make_model.py"})


if __name__ == "__main__":
    make_rope()
    make_dtype()
    make_safetensors()
