# SPDX-License-Identifier: MIT
"""Makes gguf/encoder_<name>.gguf: models of encoders/ as llama.cpp's converter lays them out, and one in Q8_0.

    venv/bin/python tests/golden/make_gguf_encoders.py    (tests/golden/requirements.txt)

Names of tensors come from the `gguf` package's own tables, keys from what llama.cpp's conversion/bert.py writes. Their golden
answers are those of the folders. RoBERTa is BERT there, without the positions that no text uses.
"""

import json

import gguf
import numpy as np
from gguf import MODEL_ARCH as A, GGMLQuantizationType as T, PoolingType

from make_gguf import HERE, OUT, read_folder, write

MODELS = {"bert": (A.BERT, PoolingType.MEAN), "roberta": (A.BERT, PoolingType.CLS), "nomic_bert": (A.NOMIC_BERT, PoolingType.MEAN),
          "modernbert": (A.MODERN_BERT, PoolingType.CLS), "qwen3": (A.QWEN3, PoolingType.LAST),
          "gemma": (A.GEMMA_EMBEDDING, PoolingType.MEAN)}
DECODERS, DENSE = (A.QWEN3, A.GEMMA_EMBEDDING), (2, 3)
# NomicBERT's names in its own folder
SIZES = {"max_position_embeddings": "n_positions", "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "intermediate_size": "n_inner",
         "num_attention_heads": "n_head"}


def add_keys(out, arch, pooling, config):
    size = lambda key: config.get(key, config.get(SIZES.get(key)))
    unused = config["pad_token_id"] + 1 if config.get("model_type") == "roberta" else 0
    out.add_context_length(size("max_position_embeddings") - unused)
    out.add_embedding_length(size("hidden_size"))
    out.add_block_count(size("num_hidden_layers"))
    out.add_feed_forward_length(size("intermediate_size"))
    out.add_head_count(size("num_attention_heads"))
    out.add_pooling_type(pooling)
    out.add_vocab_size(config["vocab_size"])
    rope = config.get("rope_parameters", {})
    if arch in DECODERS:
        out.add_head_count_kv(config["num_key_value_heads"])
        out.add_key_length(config["head_dim"])
        out.add_value_length(config["head_dim"])
        out.add_layer_norm_rms_eps(config["rms_norm_eps"])
        out.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if arch == A.GEMMA_EMBEDDING:  # all but each sixth layer have it, which files do not say
        out.add_sliding_window(config["sliding_window"])
        for part in DENSE:
            size = json.load(open(f"{HERE}/encoders/gemma/{part}_Dense/config.json"))
            out.add_dense_features_dims(f"dense_{part}", size["in_features"], size["out_features"])
    if arch in DECODERS:
        return
    out.add_causal_attention(False)
    if arch != A.MODERN_BERT:
        out.add_token_type_count(config["type_vocab_size"])
    out.add_layer_norm_eps(config.get("layer_norm_eps", config.get("layer_norm_epsilon", config.get("norm_eps"))))
    if arch == A.NOMIC_BERT:
        out.add_rope_freq_base(config["rotary_emb_base"])
    if arch == A.MODERN_BERT:
        out.add_rope_freq_base(rope["full_attention"]["rope_theta"])
        out.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
        out.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        out.add_sliding_window(config["local_attention"])
        out.add_sliding_window_pattern(config["global_attn_every_n_layers"])


def make(name):
    arch, pooling = MODELS[name]
    folder = f"{HERE}/encoders/{name}"
    config = json.load(open(f"{folder}/config.json"))
    out = gguf.GGUFWriter(f"{OUT}/encoder_{name}.gguf", gguf.MODEL_ARCH_NAMES[arch])
    add_keys(out, arch, pooling, config)
    names = gguf.get_tensor_name_map(arch, config.get("num_hidden_layers", config.get("n_layer")))
    for tensor, data in read_folder(folder).items():
        if tensor.startswith("pooler."):
            continue
        if name == "roberta" and "position_embeddings" in tensor:
            data = data[config["pad_token_id"] + 1:]
        if name == "roberta" and "token_type" in tensor:
            data = data.reshape(-1)  # as llama.cpp's quantizer writes a matrix of one row
        if arch == A.GEMMA_EMBEDDING and tensor.endswith("norm.weight"):
            data = data + 1
        known = names.get_name(f"model.{tensor}" if arch in DECODERS else tensor, try_suffixes=(".weight", ".bias"))
        out.add_tensor(known, np.ascontiguousarray(data))
    for part in DENSE if arch == A.GEMMA_EMBEDDING else ():
        out.add_tensor(f"dense_{part}.weight", read_folder(f"{folder}/{part}_Dense")["linear.weight"])
    write(out)


def make_rounded():
    """BERT with random matrices in Q8_0 and tables of positions and types in floats."""
    rng = np.random.default_rng(4)
    dim, inner, config = 64, 96, dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=97,
                                      max_position_embeddings=160, type_vocab_size=2, layer_norm_eps=1e-12)
    out = gguf.GGUFWriter(f"{OUT}/encoder_q8_0.gguf", "bert")
    add_keys(out, A.BERT, PoolingType.MEAN, config)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)

    def add(name, rows, columns, scale):
        out.add_tensor(f"{name}.weight", gguf.quantize(normal(rows, columns) * np.float32(scale), T.Q8_0), raw_dtype=T.Q8_0)
        if "blk" in name:
            out.add_tensor(f"{name}.bias", normal(rows) * np.float32(0.3))

    def norm(name):
        out.add_tensor(f"{name}.weight", 1 + normal(dim) * np.float32(0.2))
        out.add_tensor(f"{name}.bias", normal(dim) * np.float32(0.3))

    add("token_embd", 97, dim, 1)
    out.add_tensor("position_embd.weight", normal(160, dim))
    out.add_tensor("token_types.weight", normal(2, dim))
    norm("token_embd_norm")
    for layer in range(2):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{part}", dim, dim, 1.5 / dim ** 0.5)
        norm(f"blk.{layer}.attn_output_norm")
        add(f"blk.{layer}.ffn_up", inner, dim, 1.5 / dim ** 0.5)
        add(f"blk.{layer}.ffn_down", dim, inner, 1.5 / inner ** 0.5)
        norm(f"blk.{layer}.layer_output_norm")
    write(out)


if __name__ == "__main__":
    for wanted in MODELS:
        make(wanted)
    make_rounded()
