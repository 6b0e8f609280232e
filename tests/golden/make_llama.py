# SPDX-License-Identifier: MIT
"""Makes llama/<name>/: four small random Llama models and what transformers says of them.

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements.txt
    venv/bin/python tests/golden/make_llama.py

All arithmetic is float32 on the weights as they are stored: for BF16 and F16 the
weights are rounded first, then used as floats. Prompts are drawn until the greedy
tokens are well separated (MARGIN), so that a backend which rounds the KV cache to
the weights' format has to find the same tokens.
"""

import json
import os
import shutil

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
PROMPT_LENGTHS = (5, 47, 300)
SCORED_PROMPT = 1  # whose own tokens have log-probabilities too
N_NEW = 40
N_TOP = 5
MIN_DISTINCT = 12  # of the generated tokens: a short loop would test little
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# distance in logits between the best token and the second
MARGIN = {"F32": 0.02, "F16": 0.06, "BF16": 0.1}

COMMON = dict(num_hidden_layers=2, max_position_embeddings=512, rms_norm_eps=1e-5, hidden_act="silu",
              bos_token_id=1, eos_token_id=2)
MODELS = {
    # odd sizes everywhere: rows, columns, vocabulary, head
    "f32_odd": dict(seed=11, dtype="F32", config=dict(
        hidden_size=35, intermediate_size=77, num_attention_heads=5, num_key_value_heads=5, head_dim=24,
        vocab_size=211, attention_bias=True, rope_theta=10000.0)),
    # grouped queries, one matrix for both ends, head_dim to be derived from hidden_size
    "bf16_tied": dict(seed=12, dtype="BF16", derived_head_dim=True, qk_gain=1.0, config=dict(
        hidden_size=60, intermediate_size=100, num_attention_heads=6, num_key_value_heads=2, num_hidden_layers=3,
        vocab_size=250, mlp_bias=True, tie_word_embeddings=True, rope_theta=50000.0)),
    # Llama 3.1's angles with a short original context, head_dim other than hidden_size / heads
    "f32_llama3": dict(seed=13, dtype="F32", config=dict(
        hidden_size=48, intermediate_size=80, num_attention_heads=8, num_key_value_heads=2, head_dim=16,
        vocab_size=160, rope_theta=500.0,
        rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position_embeddings=64))),
    # two files with an index; config.json with the keys that transformers 4 wrote
    "f16_sharded": dict(seed=14, dtype="F16", shards=2, old_rope_keys=True, config=dict(
        hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=4, head_dim=16,
        vocab_size=300, rope_theta=10000.0, rope_scaling=dict(rope_type="linear", factor=2.5))),
}


def draw_weights(model, generator, spec, tied):
    """Activations near 1, attention that looks at few positions, logits of deviation 2 to 3."""
    logit_std, qk_gain = 2.5, spec.get("qk_gain", 1.6)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if name.endswith("bias"):
            value = 0.3 * noise
        elif "norm" in name:
            value = 1 + 0.2 * noise
        elif "lm_head" in name or (tied and "embed_tokens" in name):
            value = noise * logit_std / weight.shape[1] ** 0.5
        elif "embed_tokens" in name:
            value = noise
        else:
            gain = {"q_proj": qk_gain, "k_proj": qk_gain, "v_proj": 1.0}.get(name.split(".")[-2], 1.2)
            value = noise * gain / weight.shape[1] ** 0.5
        weight.data = value.to(DTYPES[spec["dtype"]]).float()


def write_model(folder, spec, model):
    """The files of a Hugging Face folder, with weights in the model's own format."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    config = json.loads(model.config.to_json_string(use_diff=False))
    keys = ["model_type", *COMMON, *spec["config"], "num_key_value_heads", "rope_parameters", "dtype"]
    config = {k: config[k] for k in dict.fromkeys(keys) if k in config}
    config["architectures"] = ["LlamaForCausalLM"]
    config["dtype"] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[spec["dtype"]]
    if spec.get("old_rope_keys"):
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope | {"type": rope["rope_type"]}
        del config["rope_scaling"]["rope_type"]
        config["torch_dtype"] = config.pop("dtype")
    if spec.get("derived_head_dim"):
        config.pop("head_dim", None)
    with open(f"{folder}/config.json", "w") as out:
        json.dump(config, out, indent=2, sort_keys=True)
        out.write("\n")
    tensors = {k: v.to(DTYPES[spec["dtype"]]).contiguous() for k, v in model.state_dict().items()
               if not (k == "lm_head.weight" and model.config.tie_word_embeddings)}
    shards = spec.get("shards", 1)
    if shards == 1:
        save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
        return
    names, weight_map = sorted(tensors), {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {n: tensors[n] for n in names[i::shards]}
        weight_map |= dict.fromkeys(part, file)
        save_file(part, f"{folder}/{file}", metadata={"format": "pt"})
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    with open(f"{folder}/model.safetensors.index.json", "w") as out:
        json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, out, indent=1, sort_keys=True)
        out.write("\n")


def check_files(folder, spec, model):
    """What was written is the model: transformers reads the folder and says the same."""
    again = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    ids = torch.arange(100).unsqueeze(0) % spec["config"]["vocab_size"]
    assert torch.equal(again(ids).logits, model(ids).logits), folder
    for file in os.listdir(folder):
        if file.endswith(".safetensors"):
            assert all(t.dtype == DTYPES[spec["dtype"]] for t in load_file(f"{folder}/{file}").values())


def greedy(model, prompt, margin):
    """N_NEW tokens, or None as soon as two are closer than the margin."""
    ids, past, new = torch.tensor([prompt]), None, []
    while len(new) < N_NEW:
        out = model(ids, past_key_values=past, use_cache=True)
        past = out.past_key_values
        best = torch.topk(out.logits[0, -1], 2)
        if best.values[0] - best.values[1] < margin:
            return None
        new.append(int(best.indices[0]))
        ids = torch.tensor([[new[-1]]])
    return new


def make_case(model, spec, length, generator):
    for attempt in range(20000):
        prompt = torch.randint(3, spec["config"]["vocab_size"], (length,), generator=generator).tolist()
        new = greedy(model, prompt, MARGIN[spec["dtype"]])
        if new and len(set(new)) >= MIN_DISTINCT:
            break
    else:
        raise SystemExit("no prompt with well separated tokens")
    return describe(model, prompt, new), attempt


def describe(model, prompt, new):
    """All again in one pass without a cache: these are the numbers that are written."""
    length = len(prompt)
    logprobs = torch.log_softmax(model(torch.tensor([prompt + new])).logits[0].double(), -1)
    case = {"prompt": prompt, "tokens": new, "logprobs": [], "top_tokens": [], "top_logprobs": []}
    for i, token in enumerate(new):
        row = logprobs[length - 1 + i]
        top = torch.topk(row, N_TOP)
        assert int(top.indices[0]) == token
        case["logprobs"].append(round(float(row[token]), 6))
        case["top_tokens"].append(top.indices.tolist())
        case["top_logprobs"].append([round(float(v), 6) for v in top.values])
    if length == PROMPT_LENGTHS[SCORED_PROMPT]:
        case["prompt_logprobs"] = [round(float(logprobs[i][prompt[i + 1]]), 6) for i in range(length - 1)]
    return case


def make_model(name, spec):
    folder = f"{HERE}/llama/{name}"
    generator = torch.Generator().manual_seed(spec["seed"])
    config = LlamaConfig(**(COMMON | spec["config"]), attn_implementation="eager")
    model = LlamaForCausalLM(config).float().eval()
    draw_weights(model, generator, spec, config.tie_word_embeddings)
    if config.tie_word_embeddings:
        model.tie_weights()
        assert model.lm_head.weight is model.model.embed_tokens.weight
    write_model(folder, spec, model)
    check_files(folder, spec, model)
    cases = []
    for length in PROMPT_LENGTHS:
        case, attempts = make_case(model, spec, length, generator)
        cases.append(case)
        print(f"{name}: prompt of {length}: {attempts} prompts passed over, {len(set(case['tokens']))} distinct tokens")
    with open(f"{folder}/golden.json", "w") as out:
        out.write('{"made_by": "tests/golden/make_llama.py", "arithmetic": "float32 on the stored weights",\n')
        out.write(f' "dtype": "{spec["dtype"]}", "margin": {MARGIN[spec["dtype"]]}, "cases": [\n')
        out.write(",\n".join(json.dumps(case) for case in cases) + "\n]}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with torch.no_grad():
        for name in MODELS:
            make_model(name, MODELS[name])
