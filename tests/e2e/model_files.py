# SPDX-License-Identifier: MIT
"""The demo model and encoders in other file formats, written by hand: safetensors read, GGUF and int8 safetensors written."""
import array
import json
import pathlib
import shutil
import struct

from daemon import MODEL

NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
         "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def read_tensors(folder):
    """config.json, and {name: (shape, format, bytes)}."""
    data = (folder / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = entry["shape"], entry["dtype"], data[8 + length + begin:8 + length + end]
    return json.loads((folder / "config.json").read_text()), tensors


def read_model(folder, dtype):
    """config.json, and {name: (shape, bytes)} of the tensors of this format."""
    config, tensors = read_tensors(folder)
    return config, {name: (shape, data) for name, (shape, of, data) in tensors.items() if of == dtype}


def read_demo():
    """config.json, and {name: (shape, bytes of BF16)}."""
    return read_model(MODEL, "BF16")


def floats(bits):
    """BF16 to a list of floats."""
    halves = array.array("H", bits)
    return array.array("f", b"".join(struct.pack("<I", h << 16) for h in halves))


def pairs(shape, data, head):
    """Rows of each head from halves to pairs, as GGUF has Llama's Q and K."""
    size = len(data) // shape[0]
    rows = [data[i * size:(i + 1) * size] for i in range(shape[0])]
    return b"".join(rows[at + k + half] for at in range(0, shape[0], head) for k in range(head // 2)
                    for half in (0, head // 2))


def gguf_name(name):
    stem, end = name.rsplit(".", 1)
    if not stem.startswith("model.layers."):
        return f"{NAMES[stem]}.{end}"
    layer, stem = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{NAMES[stem]}.{end}"


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def texts(values):
    return struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(text, values))


def tokenizer_keys(n_padding=0):
    """tokenizer.ggml.*, of the demo's tokenizer.json; n_padding: names of rows that are no token's, as llama.cpp's converter has them."""
    whole = json.loads((MODEL / "tokenizer.json").read_text())
    added = {token["content"]: token["id"] for token in whole["added_tokens"]}
    ids = {**whole["model"]["vocab"], **added}
    tokens = sorted(ids, key=ids.get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in whole["model"]["merges"]]
    template = json.loads((MODEL / "tokenizer_config.json").read_text())["chat_template"]
    types = array.array("i", [3 if t in added else 1 for t in tokens] + [5] * n_padding)
    tokens += [f"[PAD{len(tokens) + i}]" for i in range(n_padding)]
    return [text("tokenizer.ggml.model") + struct.pack("<I", 8) + text("gpt2"),
            text("tokenizer.ggml.pre") + struct.pack("<I", 8) + text("gpt-2"),
            text("tokenizer.ggml.tokens") + texts(tokens), text("tokenizer.ggml.merges") + texts(merges),
            text("tokenizer.ggml.token_type") + struct.pack("<IIQ", 9, 5, len(types)) + types.tobytes(),
            text("tokenizer.chat_template") + struct.pack("<I", 8) + text(template)]


def write_gguf(folder, alone=False, n_padding=0):
    """A folder with model.gguf (norms as floats, the rest BF16), and the demo's tokenizer in it (alone; n_padding as there) or beside it."""
    config, tensors = read_demo()
    keys = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    sizes = {"embedding_length": "hidden_size", "feed_forward_length": "intermediate_size", "block_count": "num_hidden_layers",
             "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
             "attention.key_length": "head_dim", "context_length": "max_position_embeddings", "vocab_size": "vocab_size"}
    keys += [text(f"llama.{k}") + struct.pack("<II", 4, config[v]) for k, v in sizes.items()]
    keys += [text("tokenizer.ggml.eos_token_id") + struct.pack("<II", 4, config["eos_token_id"]),
             text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, config["rms_norm_eps"]),
             text("llama.rope.freq_base") + struct.pack("<If", 6, config["rope_parameters"]["rope_theta"])]
    keys += tokenizer_keys(n_padding) if alone else []
    entries = []
    for name, (shape, bits) in tensors.items():
        if "q_proj" in name or "k_proj" in name:
            bits = pairs(shape, bits, config["head_dim"])
        entries.append((gguf_name(name), shape, 0, floats(bits).tobytes()) if len(shape) == 1 else (gguf_name(name), shape, 30, bits))
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    for file in [] if alone else MODEL.glob("tokenizer*.json"):
        shutil.copy(file, folder)
    return pack_gguf(folder / "model.gguf", keys, entries)


def pack_gguf(path, keys, entries):
    """keys: whole; entries: (name, shape, ggml's number of the format, bytes)."""
    table, data = b"", []
    at = 0
    for name, shape, kind, bits in entries:
        table += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, at)
        data.append(bits + b"\0" * (-len(bits) % 32))
        at += len(data[-1])
    head = b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(keys)) + b"".join(keys) + table
    path.write_bytes(head + b"\0" * (-len(head) % 32) + b"".join(data))
    return path


BERT = {"embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
        "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm", "attention.self.query": "attn_q",
        "attention.self.key": "attn_k", "attention.self.value": "attn_v", "attention.output.dense": "attn_output",
        "attention.output.LayerNorm": "attn_output_norm", "intermediate.dense": "ffn_up", "output.dense": "ffn_down",
        "output.LayerNorm": "layer_output_norm"}


def bert_keys(config, vocab, pooling):
    """What llama.cpp's converter writes for a BERT; vocab: {piece: id} of WordPiece."""
    sizes = {"context_length": "max_position_embeddings", "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
             "block_count": "num_hidden_layers", "attention.head_count": "num_attention_heads"}
    control = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    pieces = [p if p in control else p[2:] if p.startswith("##") else "\u2581" + p for p in sorted(vocab, key=vocab.get)]
    types = array.array("i", [3 if p in control else 1 for p in sorted(vocab, key=vocab.get)])
    keys = [text("general.architecture") + struct.pack("<I", 8) + text("bert")]
    keys += [text(f"bert.{k}") + struct.pack("<II", 4, config[v]) for k, v in sizes.items()]
    keys += [text("bert.attention.layer_norm_epsilon") + struct.pack("<If", 6, config["layer_norm_eps"]),
             text("bert.attention.causal") + struct.pack("<I?", 7, False), text("bert.pooling_type") + struct.pack("<II", 4, pooling),
             text("tokenizer.ggml.token_type_count") + struct.pack("<II", 4, config["type_vocab_size"]),
             text("tokenizer.ggml.model") + struct.pack("<I", 8) + text("bert"), text("tokenizer.ggml.tokens") + texts(pieces),
             text("tokenizer.ggml.token_type") + struct.pack("<IIQ", 9, 5, len(types)) + types.tobytes()]
    ids = {"bos_token_id": "[CLS]", "eos_token_id": "[SEP]", "unknown_token_id": "[UNK]", "cls_token_id": "[CLS]", "seperator_token_id": "[SEP]"}
    keys += [text(f"tokenizer.ggml.{k}") + struct.pack("<II", 4, vocab[v]) for k, v in ids.items()]
    flags = {"add_bos_token": True, "add_eos_token": True, "add_sep_token": False}  # what it makes of "[CLS] $A [SEP] $B [SEP]"
    return keys + [text(f"tokenizer.ggml.{k}") + struct.pack("<I?", 7, v) for k, v in flags.items()]


def write_bert_gguf(path, folder, vocab, pooling=1):
    """A BERT in F32 as one GGUF file, with its tokenizer in it."""
    config, tensors = read_model(folder, "F32")
    entries = []
    for name, (shape, bits) in tensors.items():
        stem, end = name.rsplit(".", 1)
        layer, inner = stem.removeprefix("encoder.layer.").split(".", 1) if stem.startswith("encoder.") else ("", stem)
        if inner in BERT:
            entries.append((f"blk.{layer}.{BERT[inner]}.{end}" if layer else f"{BERT[inner]}.{end}", shape, 0, bits))
    return pack_gguf(path, bert_keys(config, vocab, pooling), entries)


def round_rows(shape, bits):
    """int8 and a float a row."""
    values, codes, scales = floats(bits), array.array("b"), array.array("f")
    for row in range(shape[0]):
        part = values[row * shape[1]:(row + 1) * shape[1]]
        scale = max(max(part), -min(part)) / 127 or 1
        scales.append(scale)
        codes.extend(round(v / scale) for v in part)
    return codes.tobytes(), scales.tobytes()


def write_int8(folder):
    """A copy of the demo model as compressed-tensors has it: int8 with a scale a row, the embedding as it was."""
    config, tensors = read_demo()
    entries = []
    for name, (shape, bits) in tensors.items():
        if len(shape) == 2 and ".layers." in name:
            codes, scales = round_rows(shape, bits)
            entries += [(name, "I8", shape, codes), (f"{name}_scale", "F32", [shape[0], 1], scales)]
        else:
            entries.append((name, "BF16", shape, bits))
    config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "int-quantized"}
    return write_folder(folder, config, entries)


def write_experts(folder, n=4):
    """A Mixtral whose experts are each the demo's MLP, so that whichever a row takes, the sum of shares is 1 and the answer the demo's."""
    config, tensors = read_demo()
    entries, parts = [], {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    for name, (shape, bits) in tensors.items():
        layer, _, part = name.partition(".mlp.")
        if not part:
            entries.append((name, "BF16", shape, bits))
            continue
        entries += [(f"{layer}.block_sparse_moe.experts.{e}.{parts[part.split('.')[0]]}.weight", "BF16", shape, bits) for e in range(n)]
        if part.startswith("gate"):  # scores that differ from row to row: rows of the gate's own
            entries.append((f"{layer}.block_sparse_moe.gate.weight", "BF16", [n, shape[1]], bits[:2 * n * shape[1]]))
    config |= {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": n, "num_experts_per_tok": 2}
    return write_folder(folder, config, entries)


def write_folder(folder, config, entries):
    """A copy of the demo model's folder with this config.json and these tensors: (name, dtype, shape, bytes)."""
    header, at = {}, 0
    for name, dtype, shape, data in entries:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    head = json.dumps(header).encode()
    folder = pathlib.Path(folder)
    shutil.copytree(MODEL, folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"".join(e[3] for e in entries))
    return folder
