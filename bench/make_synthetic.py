#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes a Llama, or with --experts a Mixtral, with --states a Qwen3.5, with random weights in Hugging Face format, for benchmarks.

    python3 bench/make_synthetic.py FOLDER [--seed N] [--layers N] ...

Standard library only. The default has 0.5 B parameters in BF16 (1 GB): large
enough that a decode step is bound by memory, small enough to make in seconds.
The same seed gives the same bytes.
"""

import argparse
import array
import json
import math
import os
import random
import re
import struct
import sys

POOL = 1 << 22  # normals, at most, that all rows are cut from
SIGMA = 0.02  # as models are initialised: logits get a deviation of about 0.6
CONV = 4  # rows that a convolution of --states looks at
ROUTER = "block_sparse_moe.gate.weight"
BLOCK = 128
FP8_SCALE = 0.006  # of E4M3 numbers whose deviation is about 3.2


def keeps(a, layer):
    """Whether the layer has a state in place of keys and values: three of four."""
    return a.states and layer % 4 != 3


def delta_shapes(layer, a):
    keys, heads = a.state_heads * a.state_dim, 2 * a.state_heads
    values = 2 * keys
    yield layer + "in_proj_qkv.weight", 2 * keys + values, a.hidden
    yield layer + "in_proj_z.weight", values, a.hidden
    yield layer + "in_proj_b.weight", heads, a.hidden
    yield layer + "in_proj_a.weight", heads, a.hidden
    yield layer + "conv1d.weight", 2 * keys + values, CONV
    yield layer + "A_log", heads, 0
    yield layer + "dt_bias", heads, 0
    yield layer + "norm.weight", a.state_dim, 0
    yield layer + "out_proj.weight", a.hidden, values


def attention_shapes(layer, a, q, kv):
    yield layer + "q_proj.weight", q * (2 if a.states else 1), a.hidden  # and a gate
    yield layer + "k_proj.weight", kv, a.hidden
    yield layer + "v_proj.weight", kv, a.hidden
    if a.states:
        yield layer + "q_norm.weight", a.head_dim, 0
        yield layer + "k_norm.weight", a.head_dim, 0
    yield layer + "o_proj.weight", a.hidden, q


def shapes(a):
    """(name, rows, columns) of every tensor; columns 0: a vector of ones."""
    q, kv = a.heads * a.head_dim, a.kv_heads * a.head_dim
    yield "model.embed_tokens.weight", a.vocab, a.hidden
    for i in range(a.layers):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", a.hidden, 0
        if keeps(a, i):
            yield from delta_shapes(layer + "linear_attn.", a)
        else:
            yield from attention_shapes(layer + "self_attn.", a, q, kv)
        yield layer + "post_attention_layernorm.weight", a.hidden, 0
        if a.experts:
            yield layer + ROUTER, a.experts, a.hidden
        experts = [f"block_sparse_moe.experts.{e}." for e in range(a.experts)]
        gate, up, down = ("w1", "w3", "w2") if experts else ("gate_proj", "up_proj", "down_proj")
        for mlp in experts or ["mlp."]:
            yield layer + mlp + gate + ".weight", a.ffn, a.hidden
            yield layer + mlp + up + ".weight", a.ffn, a.hidden
            yield layer + mlp + down + ".weight", a.hidden, a.ffn
    yield "model.norm.weight", a.hidden, 0
    if a.untied:
        yield "lm_head.weight", a.vocab, a.hidden


def bf16_normals(rng, count, sigma=SIGMA):
    """count normals as BF16, little endian: the upper halves of floats."""
    floats = array.array("f", (rng.gauss(0.0, sigma) for _ in range(count)))
    if sys.byteorder == "big":
        floats.byteswap()
    whole, halves = floats.tobytes(), bytearray(2 * count)
    halves[0::2], halves[1::2] = whole[2::4], whole[3::4]
    return bytes(halves)


def e4m3_numbers(rng, count):
    """count E4M3 numbers: half of them 2 to 7.5 or the negatives, half next to 0, none NaN."""
    return bytes(b & 0xCF for b in rng.randbytes(count))


def is_fp8(a, name, columns):
    return a.fp8 and columns and ".layers." in name and not name.endswith(ROUTER)


def is_faint(a, name):
    """Whether it is what a layer from --faint-from on adds to the rest: with zeros the model is the one of that many layers."""
    found = re.match(r"model\.layers\.(\d+)\..*(o_proj|out_proj|down_proj|w2)\.weight$", name)
    return a.faint_from and found and int(found[1]) >= a.faint_from


def count_numbers(a):
    return sum(rows * max(columns, 1) for _, rows, columns in shapes(a))


def write_weights(path, a):
    """A row is a stretch of the pool from a random place: normal, quickly made."""
    rng = random.Random(a.seed)
    places = min(POOL, count_numbers(a))  # more of them take longer to make than the rest of a small model
    size = places + max(a.hidden, a.ffn, a.heads * a.head_dim, a.states * 2 * a.state_heads * a.state_dim)
    pool = memoryview(bf16_normals(rng, size))
    small = memoryview(e4m3_numbers(rng, size)) if a.fp8 else None
    faint = memoryview(bf16_normals(random.Random(a.seed + 1), size, SIGMA * a.faint / 1000)) if a.faint_from else None
    header, offset = {"__metadata__": {"format": "pt"}}, 0

    def add(name, dtype, shape, size):
        nonlocal offset
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size

    for name, rows, columns in shapes(a):
        fp8 = is_fp8(a, name, columns)
        middle = [1] if name.endswith("conv1d.weight") else []
        add(name, "F8_E4M3" if fp8 else "BF16", [rows, *middle, columns] if columns else [rows], (1 if fp8 else 2) * rows * max(columns, 1))
        if fp8:
            shape = [-(-rows // BLOCK), -(-columns // BLOCK)] if a.fp8_blocks else [1]
            add(name + ("_scale_inv" if a.fp8_blocks else "_scale"), "F32", shape, 4 * math.prod(shape))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb", buffering=1 << 20) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, rows, columns in shapes(a):
            if is_fp8(a, name, columns):
                for _ in range(rows):
                    at = int(rng.random() * places)
                    file.write(small[at : at + columns])
                n_scales = -(-rows // BLOCK) * -(-columns // BLOCK) if a.fp8_blocks else 1
                file.write(struct.pack("<f", FP8_SCALE) * n_scales)
                continue
            if not columns:
                file.write(b"\x80\x3f" * rows)  # 1.0
                continue
            for _ in range(rows):
                at = 2 * int(rng.random() * places)
                file.write((faint if is_faint(a, name) else pool)[at : at + 2 * columns])
    return count_numbers(a), offset


def byte_characters():
    """GPT-2's mapping: printable bytes stand for themselves, the others for U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def tokenizer(a):
    words = SPECIAL + byte_characters()
    words += [f"<fill_{i}>" for i in range(len(words), a.vocab)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": text, **flags} for i, text in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": [],
        },
    }


def config(a):
    kind = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    if a.experts:
        kind = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": a.experts,
                "num_experts_per_tok": a.experts_used, "sliding_window": None}
    if a.states:
        kind = {"architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text", "linear_conv_kernel_dim": CONV,
                "linear_num_key_heads": a.state_heads, "linear_num_value_heads": 2 * a.state_heads, "linear_key_head_dim": a.state_dim,
                "linear_value_head_dim": a.state_dim, "layer_types": [("linear" if keeps(a, i) else "full") + "_attention" for i in range(a.layers)]}
    if a.fp8_blocks:
        kind["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}
    return {
        **kind,
        "torch_dtype": "bfloat16",
        "hidden_size": a.hidden,
        "intermediate_size": a.ffn,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
        "hidden_act": "silu",
        "vocab_size": a.vocab,
        "max_position_embeddings": a.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": not a.untied,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def tokenizer_config(a):
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "model_max_length": a.context,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    sizes = {"seed": 1, "hidden": 1024, "layers": 30, "ffn": 4096, "heads": 16, "kv-heads": 8, "head-dim": 64}
    sizes |= {"vocab": 32768, "context": 4096, "state-heads": 16, "state-dim": 128}
    for name, default in sizes.items():
        parser.add_argument("--" + name, type=int, default=default, metavar="N", help=f"default {default}")
    parser.add_argument("--experts", type=int, default=0, metavar="N", help="experts a layer, each of --ffn; default none")
    parser.add_argument("--experts-used", type=int, default=2, metavar="N", help="of them, by a token; default 2")
    parser.add_argument("--states", action="store_true", help="three of four layers keep a state in place of keys and values, of twice --state-heads value heads")
    parser.add_argument("--fp8", action="store_true", help="the layers' matrices in E4M3, a scale each")
    parser.add_argument("--fp8-blocks", action="store_true", help=f"the same, with a scale for {BLOCK} x {BLOCK}")
    parser.add_argument("--faint-from", type=int, default=0, metavar="N", help="layers from this one on add little to what those before make, which are as those of a model of N layers with the same seed; default none")
    parser.add_argument("--faint", type=int, default=0, metavar="N", help="thousandths of what they would add; default 0")
    parser.add_argument("--untied", action="store_true", help="an output matrix of its own")
    a = parser.parse_args()
    a.fp8 |= a.fp8_blocks
    if a.faint_from and a.fp8:
        parser.error("--faint-from: is not made with --fp8")
    if a.states and (a.fp8 or a.experts):
        parser.error("--states: is not made with --fp8 or --experts")
    if a.vocab < len(SPECIAL) + 256:
        parser.error(f"--vocab: expected at least {len(SPECIAL) + 256}, got {a.vocab}")
    os.makedirs(a.folder, exist_ok=True)
    files = {
        "config.json": config(a),
        "generation_config.json": {"eos_token_id": [2, 0], "pad_token_id": 0},
        "tokenizer.json": tokenizer(a),
        "tokenizer_config.json": tokenizer_config(a),
    }
    for name, content in files.items():
        with open(os.path.join(a.folder, name), "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, ensure_ascii=False)
            file.write("\n")
    # last, and under its name only when whole: its presence says that the folder is complete
    path = os.path.join(a.folder, "model.safetensors")
    count, size = write_weights(path + ".part", a)
    os.replace(path + ".part", path)
    print(f"{a.folder}: {count / 1e9:.3f} B parameters, {size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
