# SPDX-License-Identifier: MIT
"""Makes gguf/: files that the `gguf` package wrote, for the reader and the number formats.

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements.txt
    venv/bin/python tests/golden/make_gguf.py

formats.gguf    random blocks of each quantized format, and as NAME.values what the
                package's quants.py makes of them; floats and what it quantizes them to
llama_*.gguf    models of llama/ (see make_llama.py) as llama.cpp's converter lays them out,
                with the rows of Q and K in pairs; one of them split into two files. Their golden
                answers are those of the folders
mixed.gguf      a small random model whose matrices have all formats
"""

import json
import os
import shutil

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from safetensors import safe_open

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = f"{HERE}/gguf"
BLOCKS = [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL, T.IQ4_XS, T.MXFP4]
# where the halves lie that scale a block
HALVES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108],
          T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0], T.IQ4_XS: [0], T.MXFP4: []}


def random_blocks(rng, qtype, rows, columns, size):
    """Any bytes, but scales near `size`, whose products with codes do not overflow."""
    elements, width = gguf.GGML_QUANT_SIZES[qtype]
    data = rng.integers(0, 256, (rows, columns // elements, width), dtype=np.uint8)
    for at in HALVES[qtype]:
        scale = (rng.normal(size=data.shape[:2]) * size).astype(np.float16)
        data[:, :, at:at + 2] = scale[..., None].view(np.uint8)
    if qtype == T.MXFP4:
        data[:, :, 0] = 127 + np.round(np.log2(size)) + rng.integers(-2, 2, data.shape[:2])
    return data.reshape(rows, -1)


def make_formats():
    rng = np.random.default_rng(5)
    out = gguf.GGUFWriter(f"{OUT}/formats.gguf", "none")
    out.add_uint32("test.u32", 7)
    out.add_int32("test.i32", -7)
    out.add_float32("test.f32", 0.25)
    out.add_bool("test.bool", True)
    out.add_string("test.text", "Grüße")
    out.add_array("test.texts", ["a", "", "bc"])
    out.add_array("test.numbers", [1, -2, 3])
    for qtype in BLOCKS:
        data = random_blocks(rng, qtype, 2, 512, 0.01)
        if qtype == T.MXFP4:
            data.reshape(2, -1, 17)[0, :4, 0] = [0, 1, 2, 250]
        out.add_tensor(qtype.name, data, raw_dtype=qtype)
        out.add_tensor(f"{qtype.name}.values", gguf.dequantize(data, qtype))
    source = rng.normal(size=(4, 256)).astype(np.float32)
    source[1, 32:64] = 0
    source[2, 5] = 1e-6
    source[3] = np.abs(source[3])
    out.add_tensor("source", source)
    for qtype in (T.Q8_0, T.Q4_0):
        out.add_tensor(f"source.{qtype.name}", gguf.quantize(source, qtype), raw_dtype=qtype)
    write(out)


def write(out):
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def permute(rows, n_heads):
    """As convert_hf_to_gguf.py: halves of a head to pairs."""
    return rows.reshape(n_heads, 2, rows.shape[0] // n_heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
         "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def gguf_name(name):
    stem, end = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        layer, stem = stem.removeprefix("model.layers.").split(".", 1)
        return f"blk.{layer}.{NAMES[stem]}.{end}"
    return f"{NAMES[stem]}.{end}"


def add_sizes(out, config, head_dim):
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(config["num_attention_heads"])
    out.add_head_count_kv(config["num_key_value_heads"])
    out.add_key_length(head_dim)
    out.add_value_length(head_dim)
    out.add_rope_dimension_count(head_dim)
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_vocab_size(config["vocab_size"])
    out.add_eos_token_id(2)


def rope_divisors(rope, head_dim):
    """As convert_hf_to_gguf.py for llama3."""
    freqs = 1.0 / rope["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    old, low, high = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"]
    divisors = []
    for freq in freqs:
        wavelength = 2 * np.pi / freq
        smooth = (old / wavelength - low) / (high - low)
        divisors.append(1 if wavelength < old / high else rope["factor"] if wavelength > old / low
                        else 1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(divisors, dtype=np.float32)


def read_folder(folder):
    tensors = {}
    for file in sorted(os.listdir(folder)):
        if file.endswith(".safetensors"):
            with safe_open(f"{folder}/{file}", framework="np") as weights:
                tensors |= {name: weights.get_tensor(name) for name in weights.keys()}
    return tensors


def make_llama(name, split=0):
    folder = f"{HERE}/llama/{name}"
    config = json.load(open(f"{folder}/config.json"))
    rope = config.get("rope_parameters") or dict(config["rope_scaling"], rope_theta=config["rope_theta"])
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    out = gguf.GGUFWriter(f"{OUT}/llama_{name}.gguf", "llama", split_max_tensors=split)
    add_sizes(out, config, head_dim)
    out.add_rope_freq_base(rope["rope_theta"])
    kind = rope.get("rope_type", rope.get("type"))
    if kind == "linear":
        out.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        out.add_rope_scaling_factor(rope["factor"])
    if kind == "llama3":
        out.add_tensor("rope_freqs.weight", rope_divisors(rope, head_dim))
    for tensor, data in read_folder(folder).items():
        if "q_proj" in tensor:
            data = permute(data, config["num_attention_heads"])
        if "k_proj" in tensor:
            data = permute(data, config["num_key_value_heads"])
        out.add_tensor(gguf_name(tensor), np.ascontiguousarray(data.astype(np.float32) if data.ndim == 1 else data))
    write(out)


def make_mixed():
    """Each matrix in another format, scaled so that activations stay near 1."""
    rng = np.random.default_rng(9)
    config = dict(max_position_embeddings=512, hidden_size=256, num_hidden_layers=2, intermediate_size=256,
                  num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5, vocab_size=256)
    out = gguf.GGUFWriter(f"{OUT}/mixed.gguf", "llama")
    add_sizes(out, config, 64)

    def add(name, qtype, rows):
        data = random_blocks(rng, qtype, rows, 256, 1)
        deviation = gguf.dequantize(data, qtype).std()
        data = random_blocks(rng, qtype, rows, 256, 1 / (16 * deviation))
        out.add_tensor(name, data, raw_dtype=qtype)

    add("token_embd.weight", T.Q6_K, 256)
    formats = iter(BLOCKS + [T.Q4_K])
    for layer in range(2):
        for name, rows in [("attn_q", 256), ("attn_k", 128), ("attn_v", 128), ("attn_output", 256), ("ffn_gate", 256),
                           ("ffn_up", 256), ("ffn_down", 256)]:
            add(f"blk.{layer}.{name}.weight", next(formats), rows)
        for name in ("attn_norm", "ffn_norm"):
            out.add_tensor(f"blk.{layer}.{name}.weight", np.ones(256, dtype=np.float32))
    out.add_tensor("output_norm.weight", np.full(256, 4, dtype=np.float32))
    write(out)


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    os.makedirs(OUT)
    make_formats()
    make_llama("f32_odd")
    make_llama("f32_llama3")
    make_llama("f16_sharded", split=11)
    make_mixed()
