# SPDX-License-Identifier: MIT
"""Makes gguf/arch_<name>.gguf: the models of arch/ as llama.cpp's converter lays them out, one of them in Q8_0.

    venv/bin/python tests/golden/make_gguf_arch.py [NAME...]    (tests/golden/requirements.txt)

Names of tensors come from the `gguf` package's own tables, keys from what convert_hf_to_gguf.py writes for each
architecture. Their golden answers are those of the folders. What GGUF cannot say is left out (windows of Mistral and
Qwen2, which layers of SmolLM3 rotate) or folded into weights (Gemma's query_pre_attn_scalar, which llama.cpp takes from
the size of a head).
"""

import json
import math
import sys

import gguf
import numpy as np
from gguf import MODEL_ARCH as A

from make_gguf import HERE, OUT, gguf_name, permute, read_folder, rope_divisors, write

MODELS = {"qwen2": A.QWEN2, "qwen3": A.QWEN3, "mistral_yarn": A.LLAMA, "smollm3_deep": A.SMOLLM3, "phi3": A.PHI3,
          "phi4_longrope": A.PHI3, "gemma": A.GEMMA, "gemma2": A.GEMMA2, "gemma3": A.GEMMA3, "olmo2": A.OLMO2, "olmo3": A.OLMO2, "granite": A.GRANITE,
          "stablelm": A.STABLELM, "glm4": A.GLM4, "olmoe": A.OLMOE, "seed_oss": A.SEED_OSS, "ernie4_5": A.ERNIE4_5, "exaone4": A.EXAONE4,
          "exaone4_small": A.EXAONE4, "mixtral": A.LLAMA, "qwen2_moe": A.QWEN2MOE, "qwen3_moe": A.QWEN3MOE,
          "gpt_oss_mxfp4": A.GPT_OSS, "gemma3_vision": A.GEMMA3, "mistral3": A.LLAMA, "qwen2_5_vl": A.QWEN2VL, "qwen3_vl": A.QWEN3VL,
          "qwen3_vl_moe": A.QWEN3VLMOE, "glm4_moe": A.GLM4_MOE, "minimax_m2": A.MINIMAXM2, "ministral3": A.MISTRAL3, "ministral3_long": A.MISTRAL3, "hunyuan": A.HUNYUAN_DENSE, "hunyuan_moe": A.HUNYUAN_MOE, "dots1": A.DOTS1, "cohere2": A.COHERE2, "cohere": A.COMMAND_R, "arcee": A.ARCEE, "nemotron": A.NEMOTRON,
          "starcoder2": A.STARCODER2, "llama4": A.LLAMA4, "phi": A.PHI2,
          "ernie4_5_moe": A.ERNIE4_5_MOE, "granitemoe": A.GRANITE_MOE, "granitemoeshared": A.GRANITE_MOE,
          "qwen3_next": A.QWEN3NEXT, "qwen3_5": A.QWEN35, "qwen3_5_vision": A.QWEN35, "qwen3_5_moe": A.QWEN35MOE, "lfm2_tied": A.LFM2, "lfm2_moe": A.LFM2MOE,
          "granitemoehybrid": A.GRANITE_HYBRID, "granitemoehybrid_dense": A.GRANITE_HYBRID, "nemotron_h": A.NEMOTRON_H_MOE, "nemotron_h_latent": A.NEMOTRON_H_MOE, "nemotron_h_dense": A.NEMOTRON_H,
          "gpt2": A.GPT2, "gpt_neox": A.GPTNEOX, "mistral4": A.MISTRAL4, "exaone_moe": A.EXAONE_MOE, "gemma4": A.GEMMA4, "gemma4_moe": A.GEMMA4, "deepseek_v2": A.DEEPSEEK2, "deepseek_v2_lite": A.DEEPSEEK2, "glm4_moe_lite": A.DEEPSEEK2}
OLD_KEYS = {"n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers", "n_positions": "max_position_embeddings",
            "layer_norm_epsilon": "layer_norm_eps"}
ONE_MATRIX = ("deepseek_v2",)  # kv_b_proj, as files had it before 2025
TEXT_DEFAULTS = dict(num_attention_heads=8, num_key_value_heads=4, query_pre_attn_scalar=256)  # Gemma 3's
PARTS = {"w1": "gate", "w3": "up", "w2": "down", "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
PAIRED = (A.LLAMA, A.OLMOE, A.SMOLLM3, A.GRANITE, A.GRANITE_MOE, A.MISTRAL3, A.ARCEE, A.GRANITE_HYBRID)
SCAN = (A.GRANITE_HYBRID, A.NEMOTRON_H, A.NEMOTRON_H_MOE)
DELTA = (A.QWEN3NEXT, A.QWEN35, A.QWEN35MOE)
SHORT = (A.LFM2, A.LFM2MOE)
GEMMA = (A.GEMMA, A.GEMMA2, A.GEMMA3)


def add_keys(out, name, arch, config, head_dim):
    rope = config.get("rope_parameters") or dict(rope_type="default", rope_theta=config.get("rope_theta"))
    full = rope.get("full_attention", rope)
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    if arch in (A.DEEPSEEK2, A.MISTRAL4):
        return add_latent_keys(out, name, config, full)
    if arch == A.GEMMA4:
        return add_gemma4_keys(out, config)
    extra = 1 if arch == A.GLM4_MOE else 0  # a layer that guesses
    out.add_block_count(config["num_hidden_layers"] + extra)
    kinds = config.get("layer_types", [])
    if arch in SCAN:
        add_scan_keys(out, arch, config, kinds)
    else:
        out.add_feed_forward_length(config.get("intermediate_size_mlp") or config["intermediate_size"])
    out.add_head_count(config["num_attention_heads"])
    if arch not in SCAN:
        out.add_head_count_kv(config["num_key_value_heads"] if arch not in SHORT else [0 if kind == "conv" else config["num_key_value_heads"] for kind in kinds])
    if arch in DELTA:
        add_delta_keys(out, arch, config, kinds)
    if arch in SHORT:
        out.add_shortconv_l_cache(config["conv_L_cache"])
        out.add_layer_norm_rms_eps(config["norm_eps"])
    if config.get("head_dim"):
        out.add_key_length(head_dim)
        out.add_value_length(head_dim)
    if arch in (A.COMMAND_R, A.COHERE2):
        out.add_logit_scale(config["logit_scale"])
        out.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    if arch == A.COHERE2:
        out.add_sliding_window(config["sliding_window"])
        out.add_rope_dimension_count(head_dim)
    for key in {"layer_norm_eps", "norm_eps", "norm_epsilon"} & config.keys() if arch not in SHORT else ():
        out.add_layer_norm_eps(config[key])
    if arch in (A.STABLELM, A.GPTNEOX):
        out.add_parallel_residual(config["use_parallel_residual"])
    if "rms_norm_eps" in config:
        out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_vocab_size(config["vocab_size"])
    out.add_eos_token_id(2)
    if arch != A.GEMMA2 and full.get("rope_theta"):  # its converter leaves the default
        out.add_rope_freq_base(full["rope_theta"])
    if arch in (A.LLAMA, A.SMOLLM3, A.GRANITE, A.PHI3, A.STABLELM, A.GLM4, A.GLM4_MOE, A.MINIMAXM2, A.GRANITE_MOE, A.MISTRAL3, A.ARCEE, A.NEMOTRON, A.PHI2, A.GPTNEOX, *DELTA):
        out.add_rope_dimension_count(config.get("rotary_dim") or int(head_dim * full.get("partial_rotary_factor", 1)))
    if full.get("rope_theta"):
        add_rope(out, arch, config, full)
    if arch in (A.QWEN2VL, A.QWEN3VL, A.QWEN3VLMOE, A.QWEN35, A.QWEN35MOE):
        out.add_rope_dimension_sections(rope["mrope_section"] + [0])
    if arch in (A.QWEN3VL, A.QWEN3VLMOE):
        out.add_num_deepstack_layers(1)
    if arch in GEMMA and "sliding_window" in config:
        out.add_sliding_window(config["sliding_window"])
    if config["model_type"] in ("olmo3", "exaone4", "exaone_moe") and config.get("sliding_window"):
        out.add_sliding_window(config["sliding_window"])
        out.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])
    if arch == A.GEMMA3:  # the converter leaves 6, which llama.cpp takes for granted
        out.add_sliding_window_pattern(3)
    if arch == A.GEMMA2:
        out.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        out.add_final_logit_softcapping(config["final_logit_softcapping"])
    if arch == A.PHI3:
        out.add_sliding_window(config.get("sliding_window") or 0)
    if arch == A.NEMOTRON_H_MOE:
        add_nemotron_expert_keys(out, config)
    elif arch == A.NEMOTRON_H or config.get("num_local_experts") == 0:
        pass
    elif config.get("num_experts_per_tok") or config.get("moe_k"):
        add_expert_keys(out, arch, config)
    if arch in (A.GRANITE, A.GRANITE_MOE, A.GRANITE_HYBRID):
        out.add_attention_scale(config["attention_multiplier"])
        out.add_embedding_scale(config["embedding_multiplier"])
        out.add_residual_scale(config["residual_multiplier"])
        out.add_logit_scale(config["logits_scaling"])


def add_gemma4_keys(out, config):
    rope, kinds, lent = config["rope_parameters"], config["layer_types"], config["num_kv_shared_layers"]
    wide = config.get("global_head_dim") or next(iter(config["per_layer_config"].values()))["head_dim"]
    slides, n, inner = [kind == "sliding_attention" for kind in kinds], len(kinds), config["intermediate_size"]
    out.add_block_count(n)
    out.add_head_count(config["num_attention_heads"])
    own, few = config["num_key_value_heads"], config.get("num_global_key_value_heads")
    out.add_head_count_kv([own if slide else few for slide in slides] if few else own)
    out.add_feed_forward_length([inner * (2 if i >= n - lent else 1) for i in range(n)] if config["use_double_wide_mlp"] else inner)
    out.add_key_length(wide)
    out.add_value_length(wide)
    out.add_key_length_swa(config["head_dim"])
    out.add_value_length_swa(config["head_dim"])
    out.add_rope_dimension_count(wide)
    out.add_rope_dimension_count_swa(config["head_dim"])
    out.add_rope_freq_base(rope["full_attention"]["rope_theta"])
    out.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_vocab_size(config["vocab_size"])
    out.add_eos_token_id(2)
    out.add_sliding_window(config["sliding_window"])
    out.add_sliding_window_pattern(slides)
    out.add_shared_kv_layers(lent)
    out.add_embedding_length_per_layer_input(config["hidden_size_per_layer_input"])
    out.add_final_logit_softcapping(config["final_logit_softcapping"])
    if config["enable_moe_block"]:
        out.add_expert_count(config["num_experts"])
        out.add_expert_used_count(config["top_k_experts"])
        out.add_expert_feed_forward_length(config["moe_intermediate_size"])
    turning = int(wide * rope["full_attention"]["partial_rotary_factor"] / 2)
    out.add_tensor("rope_freqs.weight", np.array([1.0] * turning + [1e30] * (wide // 2 - turning), dtype=np.float32))


def gemma4_tensor(name):
    for old, new in (("router.scale", "ffn_gate_inp.scale"), ("router.per_expert_scale", "ffn_down_exps.scale")):
        if name.endswith(old):
            return f"blk.{name.split('.')[2]}.{new}"
    return name + (".weight" if name.endswith("layer_scalar") or ".experts." in name else "")


def add_scan_keys(out, arch, config, kinds):
    heads = config.get("mamba_n_heads") or config["mamba_num_heads"]
    nemotron = arch != A.GRANITE_HYBRID
    pattern = config["hybrid_override_pattern"] if nemotron else ["*" if kind in ("attention", "full_attention") else "M" for kind in kinds]
    out.add_ssm_conv_kernel(config["conv_kernel"] if nemotron else config["mamba_d_conv"])
    out.add_ssm_state_size(config["ssm_state_size"] if nemotron else config["mamba_d_state"])
    out.add_ssm_group_count(config["n_groups"] if nemotron else config["mamba_n_groups"])
    out.add_ssm_inner_size(heads * config["mamba_head_dim"] if nemotron else config["mamba_expand"] * config["hidden_size"])
    out.add_ssm_time_step_rank(heads)
    out.add_head_count_kv([config["num_key_value_heads"] if kind == "*" else 0 for kind in pattern])
    if nemotron:
        inner = config["moe_intermediate_size"] if "E" in pattern else config["intermediate_size"]
        out.add_feed_forward_length([inner if kind in "-E" else 0 for kind in pattern])
        out.add_layer_norm_rms_eps(config["layer_norm_epsilon"])
        return
    out.add_feed_forward_length(config["intermediate_size"] if config["num_local_experts"] else config["shared_intermediate_size"])
    out.add_rope_scaling_finetuned(config.get("position_embedding_type") == "rope")


def add_routed_keys(out, config):
    """Of experts as DeepSeek's and Nemotron's configurations have them."""
    out.add_expert_count(config["n_routed_experts"])
    out.add_expert_used_count(config["num_experts_per_tok"])
    out.add_expert_shared_count(config["n_shared_experts"])
    out.add_expert_feed_forward_length(config["moe_intermediate_size"])


def add_nemotron_expert_keys(out, config):
    add_routed_keys(out, config)
    if config.get("moe_latent_size"):
        out.add_moe_latent_size(config["moe_latent_size"])
    out.add_expert_shared_feed_forward_length(config["moe_shared_expert_intermediate_size"])
    out.add_expert_weights_norm(config["norm_topk_prob"])
    out.add_expert_weights_scale(config["routed_scaling_factor"])
    out.add_expert_group_count(config["n_group"])


def scan_tensors(arch, config, name, data):
    """What the converter makes of a tensor of Mamba 2's, by GGUF's names."""
    tail = name.split(".mamba." if arch == A.GRANITE_HYBRID else ".mixer.")[-1]
    if tail == name or "layers." not in name:
        return {name: data}
    layer = f"blk.{name.split('.')[2]}"
    if tail in ("A_log", "D"):
        return {f"{layer}.ssm_{tail[0].lower()}": (-np.exp(data) if tail == "A_log" else data).reshape(-1, 1)}
    groups = config["mamba_n_groups"] if arch == A.GRANITE_HYBRID else config["n_groups"]
    made = {"dt_bias": ("ssm_dt.bias", lambda: data), "conv1d.weight": ("ssm_conv1d.weight", data.squeeze),
            "norm.weight": ("ssm_norm.weight", lambda: data.reshape(groups, -1))}
    return {f"{layer}.{made[tail][0]}": made[tail][1]()} if tail in made else {name: data}


def add_delta_keys(out, arch, config, kinds):
    out.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
    out.add_ssm_state_size(config["linear_key_head_dim"])
    out.add_ssm_group_count(config["linear_num_key_heads"])
    out.add_ssm_time_step_rank(config["linear_num_value_heads"])
    out.add_ssm_inner_size(config["linear_value_head_dim"] * config["linear_num_value_heads"])
    every = config.get("full_attention_interval", kinds.index("full_attention") + 1 if kinds else 4)
    if all((i + 1) % every == (0 if kind == "full_attention" else (i + 1) % every) for i, kind in enumerate(kinds)) and every > 1:
        out.add_full_attention_interval(every)
    else:
        out.add_array(f"{gguf.MODEL_ARCH_NAMES[arch]}.attention.recurrent_layers", [kind == "linear_attention" for kind in kinds])


def tiled(config, data, axis, width):
    """Value heads from those of a key head side by side to those of equal number side by side."""
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    shape = data.shape
    parted = data.reshape(*shape[:axis], keys, values // keys, width, *shape[axis + 1:])
    return parted.swapaxes(axis, axis + 1).reshape(shape)


def delta_tensors(arch, config, name, data):
    """What the converter makes of a tensor of such a layer, by GGUF's names."""
    if "linear_attn" not in name:
        return {name: data}
    key, value = config["linear_key_head_dim"], config["linear_value_head_dim"]
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    base, part = name.split("linear_attn.")
    layer = base.split(".")[2]
    if part == "conv1d.weight":
        data = data.squeeze(1)
    if part == "in_proj_qkvz.weight":
        own = values // keys * value
        q, k, v, z = np.split(data.reshape(keys, -1, data.shape[1]), [key, 2 * key, 2 * key + own], axis=1)
        flat = [x.reshape(-1, data.shape[1]) for x in (q, k, v, z)]
        return {f"blk.{layer}.attn_qkv.weight": np.concatenate(flat[:3]), f"blk.{layer}.attn_gate.weight": flat[3]}
    if arch != A.QWEN3NEXT and keys != values:
        if part in ("in_proj_qkv.weight", "conv1d.weight"):
            data = np.concatenate((data[:2 * keys * key], tiled(config, data[2 * keys * key:], 0, value)))
        if part == "in_proj_z.weight":
            data = tiled(config, data, 0, value)
        if part in ("in_proj_a.weight", "in_proj_b.weight", "A_log", "dt_bias"):
            data = tiled(config, data, 0, 1)
        if part == "out_proj.weight":
            data = tiled(config, data, 1, value)
    if part == "A_log":
        return {f"blk.{layer}.ssm_a": -np.exp(data)}
    return {f"blk.{layer}.ssm_dt.bias" if part == "dt_bias" else name: data}


def add_latent_keys(out, name, config, rope):
    turned, heads = config["qk_rope_head_dim"], config["num_attention_heads"]
    key, value, rank = config["qk_nope_head_dim"] + turned, config["v_head_dim"], config["kv_lora_rank"]
    out.add_block_count(config["num_hidden_layers"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(heads)
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_vocab_size(config["vocab_size"])
    out.add_eos_token_id(2)
    out.add_rope_freq_base(rope["rope_theta"])
    out.add_rope_dimension_count(turned)
    out.add_kv_lora_rank(rank)
    if config["q_lora_rank"]:
        out.add_q_lora_rank(config["q_lora_rank"])
    if name in ONE_MATRIX:
        out.add_head_count_kv(heads)
        out.add_key_length(key)
        out.add_value_length(value)
    else:
        out.add_head_count_kv(1)
        out.add_key_length(rank + turned)
        out.add_value_length(rank)
        out.add_key_length_mla(key)
        out.add_value_length_mla(value)
    if "mscale_all_dim" in rope:
        out.add_rope_scaling_yarn_log_mul(0.1 * rope["mscale_all_dim"])
    add_rope(out, A.DEEPSEEK2, config, rope)
    sigmoid = config["model_type"] not in ("deepseek_v2", "mistral4")
    if "llama_4_scaling_beta" in rope:
        out.add_attn_temperature_scale(rope["llama_4_scaling_beta"])
    out.add_leading_dense_block_count(config.get("first_k_dense_replace", 1))
    add_routed_keys(out, config)
    out.add_expert_weights_scale(config["routed_scaling_factor"])
    out.add_expert_weights_norm(config["norm_topk_prob"])
    if sigmoid:
        out.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if config.get("n_group", 1) and config.get("n_group", 1) > 1:
        out.add_expert_group_count(config["n_group"])
        out.add_expert_group_used_count(config["topk_group"])


def split_heads(config, name, tensor, data):
    """kv_b_proj as two tensors of all heads, the first one turned."""
    if "kv_b_proj" not in tensor or name in ONE_MATRIX:
        return {tensor: data}
    nope, layer = config["qk_nope_head_dim"], tensor.split(".")[2]
    heads = data.reshape(config["num_attention_heads"], nope + config["v_head_dim"], config["kv_lora_rank"])
    return {f"blk.{layer}.attn_k_b.weight": heads[:, :nope].swapaxes(1, 2), f"blk.{layer}.attn_v_b.weight": heads[:, nope:]}


def add_expert_keys(out, arch, config):
    counts = [config.get(k) for k in ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")]
    out.add_expert_count(next(filter(None, counts)))
    if arch in (A.GLM4_MOE, A.DOTS1, A.EXAONE_MOE):
        out.add_expert_shared_count(config.get("n_shared_experts") or config["num_shared_experts"])
        out.add_leading_dense_block_count(config.get("first_k_dense_replace", 1))
        out.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        out.add_expert_weights_scale(config["routed_scaling_factor"])
        out.add_expert_weights_norm(config["norm_topk_prob"])
    if arch == A.GLM4_MOE:
        out.add_nextn_predict_layers(1)
    if arch == A.ERNIE4_5_MOE:
        out.add_interleave_moe_layer_step(config["moe_layer_interval"])
        out.add_leading_dense_block_count(config["moe_layer_start_index"])
        out.add_expert_shared_count(config["moe_num_shared_experts"])
        out.add_expert_shared_feed_forward_length(config["intermediate_size"] // config["num_key_value_heads"])  # as the converter has it
    if config.get("shared_intermediate_size"):
        out.add_expert_shared_feed_forward_length(config["shared_intermediate_size"])
    if arch == A.LFM2MOE:
        out.add_leading_dense_block_count(config["num_dense_layers"])
        out.add_expert_weights_scale(config["routed_scaling_factor"])
    if arch in (A.MINIMAXM2, A.LFM2MOE):
        out.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    out.add_expert_used_count(config.get("num_experts_per_tok") or config["moe_k"])
    if arch not in (A.LLAMA, A.OLMOE, A.GRANITE_MOE):
        out.add_expert_feed_forward_length(config.get("moe_intermediate_size") or config["intermediate_size"])
    if arch in (A.QWEN2MOE, A.QWEN3NEXT, A.QWEN35MOE):
        out.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    if arch == A.LLAMA4:
        out.add_interleave_moe_layer_step(config["interleave_moe_layer_step"])
    if arch == A.GPT_OSS:
        out.add_sliding_window(config["sliding_window"])


def mxfp4(blocks, scales):
    """OpenAI's neighbours in a byte to ggml's halves of a block, the exponent before them."""
    codes = np.stack((blocks & 15, blocks >> 4), -1).reshape(*blocks.shape[:-1], 32)
    packed = codes[..., :16] | codes[..., 16:] << 4
    return np.concatenate((scales[..., None], packed), -1).reshape(*blocks.shape[:-2], -1)


def arch_is_llama4(config):
    return config["model_type"] == "llama4_text"


def stack_experts(out, config, tensors):
    """All experts' matrices of a layer in one; the tensors that are left."""
    rest, found = {}, {}
    for name, data in tensors.items():
        if "granitemoe" in config["model_type"] and name.endswith("_linear.weight"):
            layer, kind = name.split(".")[2], "_shexp" if "shared_mlp" in name and config["num_local_experts"] else "" if "shared_mlp" in name else "_exps"
            parts = {"down": data} if "output" in name else dict(zip(("gate", "up"), np.split(data, 2, axis=-2)))
            for part, values in parts.items():
                out.add_tensor(f"blk.{layer}.ffn_{part}{kind}.weight", np.ascontiguousarray(values))
            continue
        if ".experts." not in name:
            rest[name] = data
            continue
        layer, tail = name.split(".")[2], name.split(".experts.")[1].split(".")
        if len(tail) > 1:
            found.setdefault(f"blk.{layer}.ffn_{PARTS[tail[1]]}_exps.weight", {})[int(tail[0])] = data
            continue
        part, _, end = tail[0].partition("_proj")  # GPT-OSS
        end = "bias" if end == "_bias" else "weight"
        if "qwen3_5" in config["model_type"] or config["model_type"] == "mistral4" or "qwen3_vl" in config["model_type"] and layer != "0":  # the folder has it both ways
            data = data.swapaxes(1, 2)
        data = tensors[name] if end == "bias" else np.ascontiguousarray(data.swapaxes(1, 2)) if "_blocks" not in name else data
        if "_scales" in name:
            continue
        if "_blocks" in name:
            data = mxfp4(data, tensors[name.replace("_blocks", "_scales")])
        rows = data.shape[1] // 2
        in_halves = "qwen3_5" in config["model_type"] or config["model_type"] == "mistral4" or "qwen3_vl" in config["model_type"] or arch_is_llama4(config)
        gate, up = (data[:, :rows], data[:, rows:]) if in_halves else (data[:, 0::2], data[:, 1::2])
        halves = {"gate": gate, "up": up} if part == "gate_up" else {"down": data}
        for half, values in halves.items():
            raw = gguf.GGMLQuantizationType.MXFP4 if "_blocks" in name else None
            out.add_tensor(f"blk.{layer}.ffn_{half}_exps.{end}", np.ascontiguousarray(values), raw_dtype=raw)
    for name, experts in found.items():
        out.add_tensor(name, np.stack([experts[i] for i in sorted(experts)]))
    return rest


def add_rope(out, arch, config, rope):
    kind = rope["rope_type"]
    if kind in ("linear", "yarn"):
        out.add_rope_scaling_type(gguf.RopeScalingType(kind))
        out.add_rope_scaling_factor(rope["factor"])
    if kind == "llama3":
        out.add_tensor("rope_freqs.weight", rope_divisors(rope, config["head_dim"]))
    if kind == "yarn":
        out.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if arch == A.MISTRAL3:
        out.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"])
        out.add_attn_temperature_scale(rope["llama_4_scaling_beta"])
    if "attention_factor" in rope and kind == "yarn":
        out.add_rope_scaling_attn_factors(rope["attention_factor"])
    if kind == "longrope":  # without its type, as files were written until 2025
        old, new = rope["original_max_position_embeddings"], config["max_position_embeddings"]
        out.add_rope_scaling_orig_ctx_len(old)
        out.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(new / old) / math.log(old)))
        for name in ("long", "short"):
            out.add_tensor(f"rope_factors_{name}.weight", np.array(rope[f"{name}_factor"], dtype=np.float32))


def change(arch, config, head_dim, name, data):
    if arch == A.GPT2 and ".c_" in name and name.endswith("weight"):
        data = data.T
    if arch == A.GPTNEOX and "query_key_value" in name:  # of all heads one kind behind the other
        data = data.reshape(config["num_attention_heads"], 3, head_dim, -1).swapaxes(0, 1).reshape(data.shape)
    if arch in PAIRED and "q_proj" in name:
        data = permute(data, config["num_attention_heads"])
    if arch in PAIRED and "k_proj" in name:
        data = permute(data, config["num_key_value_heads"])
    if arch in GEMMA:
        scale = math.sqrt(head_dim / config.get("query_pre_attn_scalar", head_dim))
        data = data + 1 if name.endswith("norm.weight") else data
        if name.endswith("q_proj.weight" if arch != A.GEMMA3 else "q_norm.weight"):
            data = data * np.float32(scale)
    if arch in (A.NEMOTRON, *DELTA) and name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
        data = data + 1
    return np.ascontiguousarray(data, dtype=np.float32)


def text_tensors(tensors):
    """Without those for pictures, and with the names that the text model alone would have."""
    named = {k.removeprefix("language_model.").replace("model.language_model.", "model."): v for k, v in tensors.items()}
    return {k: v for k, v in named.items() if k.startswith(("transformer.", "gpt_neox.", "embed_out.", "backbone.", "lm_head.", "model.embed_tokens.", "model.layers.", "model.norm.", "model.final_layernorm.", "model.embedding_norm.", "model.embed_tokens_per_layer.",
                                                              "model.per_layer_"))}


def make(name, file=None, qtype=None):
    """qtype: of matrices whose rows are whole blocks of it."""
    arch, folder = MODELS[name], f"{HERE}/arch/{name}"
    config = json.load(open(f"{folder}/config.json"))
    config = {new: config[old] for old, new in OLD_KEYS.items() if old in config} | config
    if name == "gpt2":
        config |= dict(intermediate_size=4 * config["n_embd"])
    if name == "gpt_neox":
        config |= dict(rope_parameters=dict(rope_type="default", rope_theta=config["rotary_emb_base"], partial_rotary_factor=config["rotary_pct"]))
    config.setdefault("num_key_value_heads", config.get("num_attention_heads"))
    config = TEXT_DEFAULTS | config["text_config"] if "text_config" in config else config
    if name.startswith("hunyuan"):  # whose converter stretches the base
        rope, dim = config.get("rope_scaling") or config["rope_parameters"], config["head_dim"]
        config = config | dict(rope_theta=10000.0 * rope["alpha"] ** (dim / (dim - 2)), rope_parameters=None)
        config.pop("rope_scaling", None)
        if "moe_topk" in config:
            config |= dict(num_experts_per_tok=config["moe_topk"][0], moe_intermediate_size=config["moe_intermediate_size"][0])
            config["shared_intermediate_size"] = config["intermediate_size"]
    if "rope_scaling" in config:  # Qwen2.5-VL
        config["rope_parameters"] = config["rope_scaling"] | dict(rope_type="default", rope_theta=config["rope_theta"])
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    out = gguf.GGUFWriter(f"{OUT}/arch_{file or name}.gguf", gguf.MODEL_ARCH_NAMES[arch])
    add_keys(out, name, arch, config, head_dim)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    tensors = text_tensors(read_folder(folder))
    if arch == A.PHI2:  # files of before 2024 have one matrix, newer ones three
        for end in ("weight", "bias"):
            parts = [tensors.pop(f"model.layers.0.self_attn.{part}_proj.{end}") for part in "qkv"]
            out.add_tensor(f"blk.0.attn_qkv.{end}", np.concatenate(parts))
    tensors = {gemma4_tensor(k): v for k, v in tensors.items()} if arch == A.GEMMA4 else stack_experts(out, config, tensors)
    parted = ((t, d) for k, v in tensors.items() for t, d in split_heads(config, name, k, v).items())
    for tensor, data in (pair for t, d in parted for pair in (
            delta_tensors(arch, config, t, d) if arch in DELTA else scan_tensors(arch, config, t, d) if arch in SCAN else {t: d}).items()):
        if tensor.endswith(("shared_expert_gate.weight", "self_attn.sinks")):
            data = data.reshape(-1)
            tensor = tensor.replace("sinks", "sinks.weight")
        tensor = tensor.replace("mixer.gate.e_score_correction_bias", "mixer.gate.e_score_correction.bias")
        tensor = tensor.replace("gate.e_score_correction_bias", "e_score_correction.bias")
        tensor = tensor.replace("mlp.e_score_correction_bias", "mlp.e_score_correction.bias")
        tensor = tensor.replace("moe_statics.e_score_correction_bias", "moe_statics.e_score_correction.bias")
        tensor = tensor.replace("moe.e_score_correction_bias", "moe.e_score_correction.bias")
        tensor = tensor.replace("feed_forward.expert_bias", "feed_forward.expert_bias.bias")
        data = data.squeeze(1) if tensor.endswith("conv.conv.weight") else data
        known = tensor if tensor.startswith("blk.") else names.get_name(tensor, try_suffixes=(".weight", ".bias"))
        if tensor == "lm_head.weight" and not known:
            known = "output.weight"  # Gemma's own is tied
        # a layer without experts among such with them is not in the tables
        data = change(arch, config, head_dim, tensor, data)
        if qtype and data.ndim in (2, 3) and "exps" not in tensor and data.shape[-1] % gguf.GGML_QUANT_SIZES[qtype][0] == 0:
            out.add_tensor(known or gguf_name(tensor), gguf.quantize(data, qtype), raw_dtype=qtype)
        else:
            out.add_tensor(known or gguf_name(tensor), data)
    write(out)


if __name__ == "__main__":
    for name in sys.argv[1:] or MODELS:
        make(name)
    make("deepseek_v2_lite", "deepseek_q8_0", gguf.GGMLQuantizationType.Q8_0)
    make("phi4_longrope", "phi4_q8_0", gguf.GGMLQuantizationType.Q8_0)
