# SPDX-License-Identifier: MIT
"""A model that writes what it is told: its layers do nothing, so that each token says by itself which one follows. An answer
is a chain of pieces, no two with the same spelling; special tokens are among them, which no grammar would allow."""
import array
import json
import pathlib
import re
import struct

SIZE = 512  # tokens, and the model's width: token t is the unit vector t
EOS, UNKNOWN = "<eos>", "@?"


def pieces_of(text, special, used):
    """text cut into special tokens and pieces that no other answer has."""
    pieces = []
    for part in re.split("(" + "|".join(map(re.escape, special)) + ")" if special else "(?!)", text):
        while part:
            if part in special and part not in used:
                length = len(part)
            else:
                length = next(n for n in (3, 4, 2, 5, 1, 6, 7, 8, 9) if part[:n] not in used and n <= len(part))
            piece, part = part[:length], part[length:]
            assert piece not in used, f"a second {piece} in the answers"
            used.add(piece)
            pieces.append(piece)
    return pieces


def write_scripted(folder, template, answers, special=()):
    """Answers {key: text}: a prompt that ends in the key is answered with the text. What is spelled as a special token is one the
    first time, then ordinary text."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    used = {EOS, UNKNOWN, *answers}
    chains = {key: pieces_of(text, special, used) for key, text in answers.items()}
    tokens = [EOS, UNKNOWN, *special, *answers, *(p for chain in chains.values() for p in chain if p not in special)]
    ids = {token: i for i, token in enumerate(tokens)}
    assert len(ids) == len(tokens) <= SIZE
    follows = [ids[EOS]] * SIZE
    for key, chain in chains.items():
        for token, after in zip([key, *chain], [*chain, EOS]):
            follows[ids[token]] = ids[after]
    write_tokenizer(folder, ids, [EOS, *special], answers, template)
    write_weights(folder, follows)
    return folder


def write_tokenizer(folder, ids, special, keys, template):
    added = [{"id": ids[t], "content": t, "special": t in special, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
             for t in [*special, *keys]]
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Fuse"}, "model": {"type": "BPE", "vocab": ids, "merges": [], "unk_token": UNKNOWN}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": EOS, "chat_template": template}))


def write_weights(folder, follows):
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": SIZE, "intermediate_size": 64, "head_dim": 64,
              "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1, "vocab_size": SIZE, "hidden_act": "silu",
              "rms_norm_eps": 1e-5, "max_position_embeddings": 1024, "rope_theta": 10000.0, "tie_word_embeddings": False,
              "eos_token_id": 0, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    embed, head = array.array("f", bytes(4 * SIZE * SIZE)), array.array("f", bytes(4 * SIZE * SIZE))
    for token, after in enumerate(follows):
        embed[token * SIZE + token] = head[after * SIZE + token] = 1
    ones, layer = array.array("f", [1] * SIZE), "model.layers.0."
    tensors = {"model.embed_tokens.weight": ((SIZE, SIZE), embed), "lm_head.weight": ((SIZE, SIZE), head), "model.norm.weight": ((SIZE,), ones),
               layer + "input_layernorm.weight": ((SIZE,), ones), layer + "post_attention_layernorm.weight": ((SIZE,), ones)}
    for name, rows, columns in (("self_attn.q_proj", 128, SIZE), ("self_attn.k_proj", 128, SIZE), ("self_attn.v_proj", 128, SIZE),
                                ("self_attn.o_proj", SIZE, 128), ("mlp.gate_proj", 64, SIZE), ("mlp.up_proj", 64, SIZE), ("mlp.down_proj", SIZE, 64)):
        tensors[f"{layer}{name}.weight"] = ((rows, columns), array.array("f", bytes(4 * rows * columns)))
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * len(values)]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
