# SPDX-License-Identifier: MIT
"""Makes experts/<name>/: small random mixtures of experts whose matrices are packed as checkpoints of GPTQ, AWQ, compressed-tensors
and F8 have them, a tensor or several for each expert, and what transformers says of the values that they stand for.

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements.txt
    venv/bin/python tests/golden/make_experts.py [NAME...]

Matrices are rounded here: a scale and a zero by the least and the most of a group. transformers computes in float32 on the rounded
values. Prompts are drawn until the greedy tokens are well separated, as products on integers round their inputs to int8.
"""

import json
import os
import re
import shutil
import sys
import tempfile

import torch
import transformers
from safetensors.torch import save_file

import make_packed
from make_arch import draw_weights, file_tensors
from make_llama import HERE, N_NEW, PROMPT_LENGTHS, describe

N_TRIED, N_TAIL, MIN_DISTINCT = 256, 4, 12
SIZES = dict(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=32, vocab_size=131,
             max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0)
FAMILIES = {
    "qwen3": ("Qwen3Moe", dict(num_experts=7, num_experts_per_tok=3, moe_intermediate_size=32, intermediate_size=96, norm_topk_prob=True)),
    "mixtral": ("Mixtral", dict(num_local_experts=4, num_experts_per_tok=2, intermediate_size=96, head_dim=16, rope_theta=10000.0)),
    # heads of 48 rows of kv_b_proj: no block of it is one head's
    "deepseek": ("DeepseekV3", dict(n_routed_experts=8, num_experts_per_tok=3, n_group=4, topk_group=2, moe_intermediate_size=40,
                                    intermediate_size=96, first_k_dense_replace=1, num_key_value_heads=4, q_lora_rank=40, kv_lora_rank=48,
                                    qk_nope_head_dim=24, qk_rope_head_dim=16, head_dim=16, v_head_dim=24)),
    # rows of a key head's queries, keys, values and gates alternate in runs that no block has the length of
    "next": ("Qwen3Next", dict(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=32, shared_expert_intermediate_size=64, intermediate_size=96,
                               layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2, linear_num_value_heads=4,
                               linear_key_head_dim=16, linear_value_head_dim=24)),
}
# rounded inputs may choose another expert: then the last one's share is small
ROUTER_GAIN = {"qwen3": 4, "mixtral": 8, "deepseek": 4, "next": 8}


def rounded(weights, size, bits=4, symmetric=False, groups=None):
    """(codes, scales, zeros) of groups of inputs. groups: of each column."""
    rows, columns = weights.shape
    groups = torch.arange(columns) // size if groups is None else groups
    parts = torch.stack([weights[:, groups == g] for g in range(columns // size)], 1)  # (rows, groups, size)
    levels = (1 << bits) - 1
    if symmetric:
        scales = (parts.abs().amax(2) / (levels // 2)).half().float()
        zeros = torch.full_like(scales, 1 << bits - 1)
    else:
        low, high = parts.amin(2).clamp(max=0), parts.amax(2).clamp(min=0)
        scales = ((high - low) / levels).half().float()
        zeros = (-low / scales).round().clamp(1, levels)
    codes = (weights / scales[:, groups] + zeros[:, groups]).round().clamp(0, levels)
    return codes.int(), scales, zeros.int(), groups


def values(codes, scales, zeros, groups):
    return scales[:, groups] * (codes - zeros[:, groups]).float()


def words(integers, axis, bits=4, order=None):
    return torch.from_numpy(make_packed.pack(integers.numpy(), axis, bits, order))


def gptq(stem, weights, generator, size=32, act_order=False, v2=False):
    groups = torch.arange(weights.shape[1]) // size
    if act_order == "shared":  # as it comes out in life: matrices with the same inputs have the same order
        same = re.sub(r"\b(up|k|v)_proj$", lambda m: {"up": "gate_proj"}.get(m[1], "q_proj"), stem)
        generator = torch.Generator().manual_seed(sum(same.encode()))
    if act_order:
        groups = groups[torch.randperm(len(groups), generator=generator)]
    codes, scales, zeros, groups = rounded(weights, size, groups=groups)
    return values(codes, scales, zeros, groups), {
        f"{stem}.qweight": words(codes.T, 0), f"{stem}.qzeros": words((zeros if v2 else zeros - 1).T, 1),
        f"{stem}.scales": scales.T.half(), f"{stem}.g_idx": groups.int()}


def awq(stem, weights, generator, size=32):
    codes, scales, zeros, groups = rounded(weights, size)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    return values(codes, scales, zeros, groups), {
        f"{stem}.qweight": words(codes.T, 1, order=order), f"{stem}.qzeros": words(zeros.T, 1, order=order),
        f"{stem}.scales": scales.T.half()}


def compressed(stem, weights, generator, size=32, bits=4, symmetric=True):
    codes, scales, zeros, groups = rounded(weights, size, bits, symmetric)
    tensors = {f"{stem}.weight_packed": words(codes, 1, bits), f"{stem}.weight_scale": scales.half(),
               f"{stem}.weight_shape": torch.tensor(weights.shape)}
    if not symmetric:
        tensors[f"{stem}.weight_zero_point"] = words(zeros, 0, bits)
    return values(codes, scales, zeros, groups), tensors


def compressed_int8(stem, weights, generator):
    codes, scales, zeros, groups = rounded(weights, weights.shape[1], 8, symmetric=True)
    return values(codes, scales, zeros, groups), {f"{stem}.weight": (codes - 128).to(torch.int8), f"{stem}.weight_scale": scales}


def f8(stem, weights, generator, kind):
    """kind: tensor, channel, or the size of a block."""
    rows, columns = weights.shape
    if kind == "tensor":
        scales = weights.abs().amax().reshape(()) / 448
        spread = scales
    elif kind == "channel":
        scales = (weights.abs().amax(1, keepdim=True) / 448).bfloat16()
        spread = scales.float()
    else:
        padded = torch.zeros(-(-rows // kind) * kind, -(-columns // kind) * kind)
        padded[:rows, :columns] = weights
        blocks = padded.reshape(padded.shape[0] // kind, kind, padded.shape[1] // kind, kind)
        scales = blocks.abs().amax((1, 3)) / 448
        spread = scales.repeat_interleave(kind, 0).repeat_interleave(kind, 1)[:rows, :columns]
    codes = (weights / spread).clamp(-448, 448).to(torch.float8_e4m3fn)
    tensors = {f"{stem}.weight": codes, f"{stem}.weight_scale" + ("" if isinstance(kind, str) else "_inv"): scales}
    if kind == "tensor":
        tensors[f"{stem}.input_scale"] = torch.tensor(0.02)
    return codes.float() * spread, tensors


def ct(form, activations=None, **weights):
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations, "output_activations": None}
    return {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
            "config_groups": {"group_0": group}, "ignore": ["lm_head", "re:.*gate$"]}


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "lm_head": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm", "modules_to_not_convert": ["gate"]}
DYNAMIC8 = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True, "symmetric": True}
# family, changed sizes, quantization_config, how a matrix becomes tensors, distance between the best token and the second
MODELS = {
    "qwen3_gptq": ("qwen3", {}, GPTQ | {"desc_act": True}, gptq, dict(act_order="shared"), 0.2),
    "mixtral_gptq": ("mixtral", {}, GPTQ | {"desc_act": True}, gptq, dict(act_order=True), 0.2),
    "mixtral_gptq_v2": ("mixtral", {}, GPTQ | {"desc_act": False, "checkpoint_format": "gptq_v2"}, gptq, dict(v2=True), 0.2),
    "qwen3_awq": ("qwen3", {}, AWQ, awq, dict(), 0.2),
    "mixtral_awq": ("mixtral", {}, AWQ, awq, dict(), 0.2),
    "qwen3_ct4": ("qwen3", {}, ct("pack-quantized", num_bits=4, type="int", strategy="group", group_size=32, symmetric=True),
                  compressed, dict(), 0.2),
    "mixtral_ct4": ("mixtral", {}, ct("pack-quantized", num_bits=4, type="int", strategy="group", group_size=32, symmetric=False),
                    compressed, dict(symmetric=False), 0.2),
    "qwen3_ct8": ("qwen3", {}, ct("int-quantized", DYNAMIC8, num_bits=8, type="int", strategy="channel", symmetric=True),
                  compressed_int8, dict(), 0.2),
    "mixtral_ct8": ("mixtral", {}, ct("pack-quantized", num_bits=8, type="int", strategy="group", group_size=32, symmetric=True),
                    compressed, dict(bits=8), 0.2),
    # blocks that do not divide the matrix, whose rows are no whole ones either
    "qwen3_f8_block": ("qwen3", dict(moe_intermediate_size=40), {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                                                                "weight_block_size": [32, 32]}, f8, dict(kind=32), 0.1),
    "deepseek_f8_block": ("deepseek", {}, {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                                           "weight_block_size": [32, 32]}, f8, dict(kind=32), 0.1),
    "next_f8_block": ("next", {}, {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                                   "weight_block_size": [32, 32]}, f8, dict(kind=32), 0.1),
    "next_gptq": ("next", {}, GPTQ | {"desc_act": True}, gptq, dict(act_order=True), 0.25),
    "qwen3_f8_channel": ("qwen3", {}, ct("float-quantized", DYNAMIC8 | {"type": "float"}, num_bits=8, type="float", strategy="channel",
                                         symmetric=True), f8, dict(kind="channel"), 0.1),
    "mixtral_f8_tensor": ("mixtral", {}, {"quant_method": "fp8", "activation_scheme": "static"}, f8, dict(kind="tensor"), 0.1),
}
# of their first weights a row took another expert and then another token, for no more than the rounding of its input
OTHERS = {"mixtral_awq": 2000}


def is_packed(name):
    return name.endswith(("_proj.weight", "_proj_with_mqa.weight", "_proj_qkvz.weight")) or ".experts." in name


def write_config(folder, config, quantization):
    kept = json.loads(config.to_json_string(use_diff=False))
    drop = ("id2label", "label2id", "problem_type", "return_dict", "output_", "chunk_size", "transformers_version", "base_model", "dtype",
            "torch_dtype", "_name_or_path")
    kept = {k: v for k, v in kept.items() if v is not None and not k.startswith(drop)}
    if "kv_lora_rank" in kept:
        kept.pop("head_dim")
    elif "moe_intermediate_size" in kept:  # as Qwen's own files have it
        kept["num_experts"] = kept.pop("num_local_experts", kept.get("num_experts"))
    with open(f"{folder}/config.json", "w") as out:
        json.dump(kept | quantization, out, indent=1, sort_keys=True)
        out.write("\n")


def search(model, length, margin, generator):
    """A prompt and its greedy tokens, of which each is better than the next one by the margin. Many that differ in their last
    tokens are tried at a time."""
    def draw(*shape):
        return torch.randint(3, SIZES["vocab_size"], shape, generator=generator)

    for attempt in range(2000):
        head, ids = draw(1, length - N_TAIL), draw(N_TRIED, N_TAIL)
        prompts, new = torch.cat((head.expand(N_TRIED, -1), ids), 1), torch.empty(N_TRIED, 0, dtype=torch.long)
        past = model(head, use_cache=True).past_key_values
        past.reorder_cache(torch.zeros(N_TRIED, dtype=torch.long))
        while len(prompts) and new.shape[1] < N_NEW:
            out = model(ids, past_key_values=past, use_cache=True)
            past = out.past_key_values
            best = torch.topk(out.logits[:, -1], 2)
            keep = (best.values[:, 0] - best.values[:, 1] >= margin).nonzero()[:, 0]
            prompts, new = prompts[keep], torch.cat((new, best.indices[:, :1]), 1)[keep]
            ids = new[:, -1:]
            past.reorder_cache(keep)
        for prompt, tokens in zip(prompts.tolist(), new.tolist()):
            if len(set(tokens)) >= MIN_DISTINCT:
                return prompt, tokens, attempt
    raise SystemExit("no prompt with well separated tokens")


def make_model(name):
    family, changes, quantization, method, options, margin = MODELS[name]
    kind, sizes = FAMILIES[family]
    folder = f"{HERE}/experts/{name}"
    generator = torch.Generator().manual_seed(sum(name.encode()) + OTHERS.get(name, 0))
    config = getattr(transformers, kind + "Config")(**(SIZES | sizes | changes), attn_implementation="eager")
    config.architectures = [kind + "ForCausalLM"]
    model = getattr(transformers, kind + "ForCausalLM")(config).float().eval()
    draw_weights(model, generator, kind == "Qwen3Next")
    plain, packed = {}, {}
    for tensor, weights in sorted(file_tensors(model).items()):
        if is_packed(tensor):
            plain[tensor], parts = method(tensor.removesuffix(".weight"), weights, generator, **options)
            packed |= parts
            continue
        if tensor.endswith("gate.weight"):
            weights = weights * ROUTER_GAIN[family]
        packed[tensor] = weights.bfloat16()
        plain[tensor] = packed[tensor].float()
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    write_config(folder, config, {"quantization_config": quantization})
    save_file({k: v.contiguous() for k, v in packed.items()}, f"{folder}/model.safetensors", metadata={"format": "pt"})
    with tempfile.TemporaryDirectory() as floats:
        write_config(floats, config, {})
        save_file({k: v.contiguous() for k, v in plain.items()}, f"{floats}/model.safetensors", metadata={"format": "pt"})
        model = getattr(transformers, kind + "ForCausalLM").from_pretrained(floats, dtype=torch.float32, attn_implementation="eager").eval()
    again = file_tensors(model)
    assert again.keys() == plain.keys() and all(torch.equal(again[k], plain[k]) for k in plain), name
    cases = []
    for length in PROMPT_LENGTHS:
        prompt, new, attempt = search(model, length, margin, generator)
        cases.append(describe(model, prompt, new))
        print(f"{name}: prompt of {length}: {attempt} times {N_TRIED} passed over, {len(set(new))} distinct", flush=True)
    with open(f"{folder}/golden.json", "w") as out:
        out.write('{"made_by": "tests/golden/make_experts.py", "arithmetic": "float32 on the values",\n')
        out.write(f' "margin": {margin}, "cases": [\n')
        out.write(",\n".join(json.dumps(case) for case in cases) + "\n]}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with torch.no_grad():
        for name in sys.argv[1:] or MODELS:
            make_model(name)
