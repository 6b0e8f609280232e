# SPDX-License-Identifier: MIT
"""LoRA adapters of the demo model as PEFT writes them, by hand: random ones that change its answers."""
import array
import json
import random
import struct

from daemon import MODEL


def shapes():
    """{module: (outputs, inputs)} of the demo model's layers."""
    c = json.loads((MODEL / "config.json").read_text())
    head = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    dim, ffn, q, kv = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    one = {"self_attn.q_proj": (q, dim), "self_attn.k_proj": (kv, dim), "self_attn.v_proj": (kv, dim), "self_attn.o_proj": (dim, q),
           "mlp.gate_proj": (ffn, dim), "mlp.up_proj": (ffn, dim), "mlp.down_proj": (dim, ffn)}
    return {f"model.layers.{i}.{name}": shape for i in range(c["num_hidden_layers"]) for name, shape in one.items()}


def write_safetensors(path, tensors, dtype="F32"):
    """{name: (shape, floats)}"""
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        raw = array.array("f", values).tobytes() if dtype == "F32" else struct.pack(f"<{len(values)}e", *values) if dtype == "F16" else values
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def random_tensors(seed, rank=4, targets=("q_proj", "v_proj", "o_proj", "up_proj", "down_proj"), strength=1.0):
    rng = random.Random(seed)
    tensors = {}
    for module, (outputs, inputs) in shapes().items():
        if module.rsplit(".", 1)[-1] not in targets:
            continue
        for which, shape, gain in (("A", (rank, inputs), 1 / inputs ** 0.5), ("B", (outputs, rank), strength / rank ** 0.5)):
            values = [rng.gauss(0, gain) for _ in range(shape[0] * shape[1])]
            tensors[f"base_model.model.{module}.lora_{which}.weight"] = (shape, values)
    return tensors


CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "bias": "none", "use_dora": False, "target_modules": None}


def write_adapter(folder, seed=1, tensors=None, dtype="F32", **config):
    folder.mkdir(parents=True)
    write_safetensors(folder / "adapter_model.safetensors", tensors or random_tensors(seed), dtype)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    return folder
