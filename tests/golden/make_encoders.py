# SPDX-License-Identifier: MIT
"""Makes encoders/<name>/: small random models that make vectors, and what transformers says of them.

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements.txt
    venv/bin/python tests/golden/make_encoders.py [NAME...]

float32 on the weights as they are stored. Pooling, dense layer and length are what sentence-transformers' documentation says of
modules.json, in plain torch; NomicBERT, which transformers has only as remote code, is written down here from its paper and its
published configuration.
"""

import json
import os
import shutil
import sys

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
LENGTHS = (1, 2, 17, 64, 150)
BERT = dict(num_hidden_layers=2, hidden_size=36, intermediate_size=52, num_attention_heads=3, vocab_size=97,
            max_position_embeddings=160, type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=0)
ROBERTA = BERT | dict(max_position_embeddings=162, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1)
MODERN = dict(num_hidden_layers=4, hidden_size=40, intermediate_size=28, num_attention_heads=2, vocab_size=97, max_position_embeddings=160,
              local_attention=14, global_attn_every_n_layers=3, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1,
              sep_token_id=2)
QWEN3 = dict(num_hidden_layers=2, hidden_size=36, intermediate_size=52, num_attention_heads=4, num_key_value_heads=2, head_dim=14,
             vocab_size=97, max_position_embeddings=160, bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=True)
GEMMA = dict(num_hidden_layers=6, hidden_size=24, intermediate_size=28, num_attention_heads=3, num_key_value_heads=1, head_dim=10, vocab_size=97,
             max_position_embeddings=160, sliding_window=14, query_pre_attn_scalar=10, use_bidirectional_attention=True, bos_token_id=1, eos_token_id=2, pad_token_id=0)
NOMIC = dict(model_type="nomic_bert", n_embd=36, n_head=3, n_inner=52, n_layer=2, n_positions=160, layer_norm_epsilon=1e-12,
             rotary_emb_base=1000, rotary_emb_fraction=1.0, activation_function="swiglu", type_vocab_size=2, vocab_size=97,
             prenorm=False, qkv_proj_bias=False, mlp_fc1_bias=False, mlp_fc2_bias=False)
POOLINGS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
LABELS = dict(num_labels=3)
# class, configuration, pooling, and: normalize, dense layers' outputs and whether they end in tanh, dtype, names without "model."
MODELS = {
    "bert": ("BertModel", BERT, "mean_tokens", dict(normalize=True)),
    "bert_plain": ("BertModel", BERT | dict(type_vocab_size=1), None, {}),
    "bert_max": ("BertModel", BERT, "max_tokens", dict(dense=((52, False), (23, True)))),
    "bert_root": ("BertModel", BERT, "mean_sqrt_len_tokens", {}),
    "bert_weighted": ("BertModel", BERT, "weightedmean_tokens", dict(normalize=True)),
    "bert_bf16": ("BertModel", BERT, "cls_token", dict(dtype=torch.bfloat16)),
    "bert_labels": ("BertForSequenceClassification", BERT | LABELS, None, {}),
    "roberta": ("RobertaModel", ROBERTA, "cls_token", dict(normalize=True)),
    "roberta_score": ("RobertaForSequenceClassification", ROBERTA | dict(num_labels=1), None, {}),
    "xlm_roberta": ("XLMRobertaModel", ROBERTA, "mean_tokens", dict(dense=((23, True),))),
    "modernbert": ("ModernBertModel", MODERN, "cls_token", dict(normalize=True)),
    "modernbert_labels": ("ModernBertForSequenceClassification", MODERN | LABELS | dict(classifier_pooling="mean"), None, {}),
    "nomic_bert": ("NomicBertModel", NOMIC, "mean_tokens", dict(normalize=True)),
    "gemma": ("Gemma3TextModel", GEMMA, "mean_tokens", dict(normalize=True, dense=((44, False), (28, False)), dense_bias=False)),
    "qwen3": ("Qwen3ForCausalLM", QWEN3, "lasttoken", dict(normalize=True, bare=True)),
}


class NomicBert(torch.nn.Module):
    """Post-norm encoder layers with rotary positions (halves) and an MLP fc2(fc11(x) * silu(fc12(x)))."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        dim, inner = c["n_embd"], c["n_inner"]
        linear = lambda i, o: torch.nn.Linear(i, o, bias=False)
        norm = lambda: torch.nn.LayerNorm(dim, eps=c["layer_norm_epsilon"])
        table = lambda n: torch.nn.Embedding(n, dim)
        self.embeddings = torch.nn.ModuleDict(dict(word_embeddings=table(c["vocab_size"]), token_type_embeddings=table(2)))
        self.emb_ln = norm()
        self.encoder = torch.nn.ModuleDict(dict(layers=torch.nn.ModuleList(torch.nn.ModuleDict(dict(
            attn=torch.nn.ModuleDict(dict(Wqkv=linear(dim, 3 * dim), out_proj=linear(dim, dim))),
            mlp=torch.nn.ModuleDict(dict(fc11=linear(dim, inner), fc12=linear(dim, inner), fc2=linear(inner, dim))),
            norm1=norm(), norm2=norm())) for _ in range(c["n_layer"]))))

    def rotate(self, x):
        half = x.shape[-1] // 2
        freq = 1 / self.c["rotary_emb_base"] ** (torch.arange(half) * 2 / (2 * half))
        angle = torch.arange(x.shape[-2])[:, None] * freq
        cos, sin = angle.cos(), angle.sin()
        a, b = x[..., :half], x[..., half:]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def forward(self, ids, types):
        x = self.emb_ln(self.embeddings["word_embeddings"](ids) + self.embeddings["token_type_embeddings"](types))
        n, heads = ids.shape[0], self.c["n_head"]
        for layer in self.encoder["layers"]:
            q, k, v = layer["attn"]["Wqkv"](x).reshape(n, 3, heads, -1).permute(1, 2, 0, 3)
            a = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v)
            x = layer["norm1"](x + layer["attn"]["out_proj"](a.transpose(0, 1).reshape(n, -1)))
            m = layer["mlp"]
            x = layer["norm2"](x + m["fc2"](m["fc11"](x) * F.silu(m["fc12"](x))))
        return x


def draw_weights(model, generator, dtype):
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if name.endswith("bias"):
            value = 0.3 * noise
        elif weight.dim() == 1:
            value = 1 + 0.2 * noise
        elif "embeddings" in name or "embed_tokens" in name:
            value = noise
        else:
            value = noise * 1.5 / weight.shape[1] ** 0.5
        weight.data = value.to(dtype).float()


def make(name):
    family, config, pooling, more = MODELS[name]
    folder, dtype = f"{HERE}/encoders/{name}", more.get("dtype", torch.float32)
    generator = torch.Generator().manual_seed(sum(name.encode()))
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    if family == "NomicBertModel":
        model, written = NomicBert(config).eval(), dict(config)
    else:
        model_class = getattr(transformers, family)
        model = model_class(model_class.config_class(**config, attn_implementation="eager")).float().eval()
        all_keys = json.loads(model.config.to_json_string(use_diff=False))
        keys = [*config, "model_type", "hidden_act", "hidden_activation", "layer_types", "rope_parameters", "rms_norm_eps", "norm_eps",
                "id2label", "global_rope_theta", "local_rope_theta"]
        written = {k: all_keys[k] for k in dict.fromkeys(keys) if all_keys.get(k) is not None}
        written.pop("num_labels", None)
    draw_weights(model, generator, dtype)
    if config.get("tie_word_embeddings"):
        model.tie_weights()
    written["architectures"] = [family]
    with open(f"{folder}/config.json", "w") as out:
        json.dump(written, out, indent=1, sort_keys=True)
        out.write("\n")
    tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in model.state_dict().items()
               if "position_ids" not in k and k != "lm_head.weight"}
    if more.get("bare"):
        tensors = {k.removeprefix("model."): v for k, v in tensors.items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, f"{folder}/model.safetensors", metadata={"format": "pt"})
    dense = write_modules(folder, pooling, more, written, generator)
    cases = []
    for length in LENGTHS:
        ids = torch.randint(3, 97, (length,), generator=generator)
        types = (torch.arange(length) >= length // 2).long() if config.get("type_vocab_size") == 2 else torch.zeros(length, dtype=torch.long)
        vector = answer(model, family, pooling, more, dense, ids, types)
        cases.append(dict(tokens=ids.tolist(), types=types.tolist(), vector=vector.tolist()))
    with open(f"{folder}/golden.json", "w") as out:
        out.write('{"made_by": "tests/golden/make_encoders.py", "cases": [\n')
        out.write(",\n".join(json.dumps(case) for case in cases) + "\n]}\n")
    print(name, "vectors of", len(cases[0]["vector"]), flush=True)


def write_modules(folder, pooling, more, written, generator):
    """modules.json and what it names; the dense layers' weights, biases and whether tanh follows."""
    if not pooling:
        return []
    dim = written.get("hidden_size", written.get("n_embd"))
    types = ["Transformer", "Pooling"] + ["Dense"] * len(more.get("dense", ())) + ["Normalize"] * more.get("normalize", False)
    modules = [dict(idx=i, name=str(i), path=f"{i}_{kind}" if i else "", type=f"sentence_transformers.models.{kind}")
               for i, kind in enumerate(types)]
    with open(f"{folder}/modules.json", "w") as out:
        json.dump(modules, out, indent=1)
    os.makedirs(f"{folder}/1_Pooling")
    with open(f"{folder}/1_Pooling/config.json", "w") as out:
        flags = {f"pooling_mode_{k}": k == pooling for k in POOLINGS}
        json.dump(dict(word_embedding_dimension=dim, **flags), out, indent=1)
    dense, biased = [], more.get("dense_bias", True)
    for at, (n_out, is_tanh) in enumerate(more.get("dense", ()), 2):
        os.makedirs(f"{folder}/{at}_Dense")
        activation = "activation.Tanh" if is_tanh else "linear.Identity"
        with open(f"{folder}/{at}_Dense/config.json", "w") as out:
            json.dump(dict(in_features=dim, out_features=n_out, bias=biased, activation_function=f"torch.nn.modules.{activation}"), out, indent=1)
        weight, bias = torch.randn(n_out, dim, generator=generator) / dim ** 0.5, 0.1 * torch.randn(n_out, generator=generator)
        bias = bias if biased else torch.zeros(n_out)
        save_file({"linear.weight": weight} | ({"linear.bias": bias} if biased else {}), f"{folder}/{at}_Dense/model.safetensors")
        dense.append((weight, bias, is_tanh))
        dim = n_out
    return dense


def answer(model, family, pooling, more, dense, ids, types):
    if family == "NomicBertModel":
        rows = model(ids, types)
    else:
        inputs = dict(input_ids=ids[None], attention_mask=torch.ones(1, len(ids), dtype=torch.long))
        if not any(k in family for k in ("Modern", "Qwen", "Gemma")):
            inputs["token_type_ids"] = types[None]
        if family.endswith("ForSequenceClassification"):
            return model(**inputs).logits[0]
        rows = (model.model if hasattr(model, "model") else model)(**inputs).last_hidden_state[0]
    place = torch.arange(1, len(rows) + 1)[:, None]
    vector = {"cls_token": rows[0], "lasttoken": rows[-1], "max_tokens": rows.max(0).values,
              "mean_sqrt_len_tokens": rows.sum(0) / len(rows) ** 0.5,
              "weightedmean_tokens": (rows * place).sum(0) / place.sum()}.get(pooling, rows.mean(0))
    for weight, bias, is_tanh in dense:
        vector = weight @ vector + bias
        vector = torch.tanh(vector) if is_tanh else vector
    return F.normalize(vector, dim=0) if more.get("normalize") else vector


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        for wanted in sys.argv[1:] or MODELS:
            make(wanted)
