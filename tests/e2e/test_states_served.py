# SPDX-License-Identifier: MIT
"""Layers that keep a state through the whole daemon: the demo with three of four layers as gated delta nets, alone, together, in a process of
its own, in two ranks, with few blocks and states, and from the prefix cache. And with short convolutions, and Mamba 2's layers, in their place."""
import array
import random

import pytest

from alike import texts_together
from daemon import Daemon
from model_files import read_demo, write_folder

PROMPTS = ["Once upon a time", "The dog said that", "Clara", "Tell me a story about Ben. " * 12]
KEYS, VALUES, KEY, VALUE = 2, 4, 16, 24  # heads, and what they are long


def floats(*values):
    return array.array("f", values).tobytes()


def write_hybrid(folder, architecture):
    short, scans = architecture == "lfm2", architecture == "granitemoehybrid"
    groups = 1  # of Mamba 2's, as Granite 4 H has it
    config, tensors = read_demo()
    draw = random.Random(11)
    dim, heads, kv, n = (config[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers"))
    head = config.get("head_dim") or dim // heads

    def matrix(rows, columns, gain=1.0):
        return "F32", [rows, columns], floats(*(draw.gauss(0, gain / columns ** 0.5) for _ in range(rows * columns)))

    def vector(n, middle, spread=0.0):
        return "F32", [n], floats(*(draw.gauss(middle, spread) for _ in range(n)))

    def taps(channels, n):
        return "F32", [channels, 1, n], floats(*(draw.gauss(0, 0.6) for _ in range(channels * n)))
    kinds = ["full_attention" if layer % 4 == 3 else "conv" if short else "linear_attention" for layer in range(n)]
    entries = []
    for layer, kind in enumerate(kinds):
        if kind == "conv":
            own = {"conv.in_proj.weight": matrix(3 * dim, dim), "conv.conv.weight": taps(dim, 3), "conv.out_proj.weight": matrix(dim, dim, 0.5)}
        elif kind == "linear_attention" and scans:
            channels = 2 * groups * KEY + VALUES * VALUE
            own = {"in_proj.weight": matrix(VALUES * VALUE + channels + VALUES, dim), "conv1d.weight": taps(channels, 4), "conv1d.bias": vector(channels, 0, 0.3),
                   "A_log": vector(VALUES, -2, 1), "dt_bias": vector(VALUES, 0, 0.3), "D": vector(VALUES, 1, 0.3), "norm.weight": vector(VALUES * VALUE, 1, 0.2),
                   "out_proj.weight": matrix(dim, VALUES * VALUE, 0.5)}
            own = {f"mamba.{name}": value for name, value in own.items()}
        elif kind == "linear_attention":
            own = {"in_proj_qkv.weight": matrix(2 * KEYS * KEY + VALUES * VALUE, dim), "in_proj_z.weight": matrix(VALUES * VALUE, dim),
                   "in_proj_b.weight": matrix(VALUES, dim), "in_proj_a.weight": matrix(VALUES, dim), "A_log": vector(VALUES, -2, 1),
                   "conv1d.weight": taps(2 * KEYS * KEY + VALUES * VALUE, 4), "dt_bias": vector(VALUES, 0, 0.3), "norm.weight": vector(VALUE, 1),
                   "out_proj.weight": matrix(dim, VALUES * VALUE, 0.5)}
            own = {f"linear_attn.{name}": value for name, value in own.items()}
        else:
            q, k, out = ("q_layernorm", "k_layernorm", "out_proj") if short else ("q_norm", "k_norm", "o_proj")
            own = {"q_proj.weight": matrix((1 if short or scans else 2) * heads * head, dim), "k_proj.weight": matrix(kv * head, dim), "v_proj.weight": matrix(kv * head, dim),
                   f"{out}.weight": matrix(dim, heads * head, 0.5), f"{q}.weight": vector(head, short, 0.1), f"{k}.weight": vector(head, short, 0.1)}
            own = {f"self_attn.{name}": value for name, value in own.items() if not (scans and "norm" in name)}
        entries += [(f"model.layers.{layer}.{name}", *parts) for name, parts in own.items()]
    names = {"input_layernorm": "operator_norm", "post_attention_layernorm": "ffn_norm", "model.norm": "model.embedding_norm", "mlp.gate_proj": "feed_forward.w1",
             "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2"} if short else {}
    for name, (shape, bits) in tensors.items():
        if ".self_attn." in name:
            continue
        for old, new in names.items():
            name = name.replace(old, new)
        if scans and "mlp.up_proj" in name:
            continue
        if scans and "mlp.gate_proj" in name:  # and up's rows behind the gate's
            name, shape, bits = name.replace("mlp.gate_proj", "shared_mlp.input_linear"), [2 * shape[0], shape[1]], bits + tensors[name.replace("gate", "up")][1]
        name = name.replace("mlp.down_proj", "shared_mlp.output_linear") if scans else name
        entries.append((name, *vector(dim, short or scans, 0.1)) if "norm" in name else (name, "BF16", shape, bits))
    for key in ("rope_scaling", "rope_parameters"):
        config.pop(key, None)
    config |= {"layer_types": kinds, "head_dim": head, "rope_theta": 10000.0, "attention_bias": False}
    if scans:
        config |= {"architectures": ["GraniteMoeHybridForCausalLM"], "model_type": architecture, "mamba_n_heads": VALUES, "mamba_d_head": VALUE,
                   "mamba_n_groups": groups, "mamba_d_state": KEY, "num_local_experts": 0, "shared_intermediate_size": config["intermediate_size"],
                   "attention_multiplier": head ** -0.5, "position_embedding_type": "nope", "time_step_limit": [0.0, float("inf")]}
    elif short:
        config |= {"architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2", "conv_L_cache": 3, "block_auto_adjust_ff_dim": False}
    else:
        config |= {"architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text", "linear_num_key_heads": KEYS, "linear_num_value_heads": VALUES,
                   "linear_key_head_dim": KEY, "linear_value_head_dim": VALUE, "linear_conv_kernel_dim": 4, "partial_rotary_factor": 0.5}
    return write_folder(folder, config, entries)


@pytest.fixture(scope="module", params=["qwen3_5_text", "lfm2", "granitemoehybrid"])
def hybrid(request, tmp_path_factory):
    return request.param, write_hybrid(tmp_path_factory.mktemp("hybrid") / "model", request.param)


def answers(d, prompts=PROMPTS):
    return texts_together(d, prompts, 32)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, hybrid):
    d = Daemon(tmp_path_factory.mktemp("alone") / "log", {"cpu.threads": 1, "engine.prefix_cache": "false"}, model=hybrid[1])
    assert d.wait_log(r"msg=read .*architecture=(\S+)")[1] == hybrid[0]
    got = [answers(d, [p])[0] for p in PROMPTS]
    d.stop()
    return got


@pytest.mark.parametrize("options", [{"cpu.threads": 2}, {"isolation": "process", "cpu.threads": 2},
                                     {"cpu.threads": 2, "engine.max_batch_tokens": 32, "engine.max_batch_size": 2, "engine.max_context": 160}])
def test_the_same_to_the_letter(start, hybrid, alone, options):
    """Together, whole and in chunks, and from the prefix cache's states the second time; few of them are waited for."""
    d = start(options, model=hybrid[1])
    assert len(set(alone)) == len(PROMPTS)
    assert answers(d) == alone
    assert answers(d) == alone
    assert d.total("tokenlane_prefix_cache_hit_tokens_total") > 0
    assert d.total("tokenlane_states") > 0


def test_a_conversation(start, hybrid):
    """What goes on behind an earlier answer says the same as without a cache."""
    texts = []
    for cache in ("true", "false"):
        d = start({"cpu.threads": 2, "engine.prefix_cache": cache}, model=hybrid[1])
        text = PROMPTS[3]
        for turn in range(4):
            text += texts_together(d, [text], 40)[0] + f" And then, turn {turn}:"
        texts.append(text)
    assert texts[0] == texts[1]


def test_two_ranks(start, hybrid, alone):
    d = start({"devices": "cpu:0,cpu:1", "engine.tensor_parallel": 2, "cpu.threads": 2}, model=hybrid[1])
    assert [len(text) > 0 for text in answers(d)] == [True] * len(PROMPTS)
    assert answers(d, PROMPTS[:1]) == alone[:1]


def test_rounded_while_it_loads(start, hybrid):
    """Alone and together: the same text."""
    d = start({"model.quantize": "q8_0"}, model=hybrid[1])
    together = answers(d)
    assert together == [answers(d, [p])[0] for p in PROMPTS]
