# SPDX-License-Identifier: MIT
"""Latent attention through the whole daemon: the demo with attention of that kind in place of its own, alone, together, in a process of
its own, in two ranks, with few blocks, and from the prefix cache."""
import array
import random

import pytest

from alike import texts_together
from daemon import Daemon
from model_files import read_demo, write_folder

PROMPTS = ["Once upon a time", "The dog said that", "Clara", "Tell me a story about Ben. " * 12]
KV = 5 * 2 * (48 + 16) * 16 * 10  # ten blocks of BF16, of which one context can take all
RANK, NOPE, TURNED, VALUE = 48, 24, 16, 24


def write_latent(folder):
    config, tensors = read_demo()
    draw = random.Random(7)
    dim, heads = config["hidden_size"], config["num_attention_heads"]

    def matrix(rows, columns, gain=1.0):
        return "F32", [rows, columns], array.array("f", (draw.gauss(0, gain / columns ** 0.5) for _ in range(rows * columns))).tobytes()
    entries = [(name, "BF16", shape, bits) for name, (shape, bits) in tensors.items() if ".self_attn." not in name]
    for layer in range(config["num_hidden_layers"]):
        own = {"q_proj": matrix(heads * (NOPE + TURNED), dim, 1.5), "kv_a_proj_with_mqa": matrix(RANK + TURNED, dim),
               "kv_a_layernorm": ("F32", [RANK], array.array("f", [1.0] * RANK).tobytes()),
               "kv_b_proj": matrix(heads * (NOPE + VALUE), RANK), "o_proj": matrix(dim, heads * VALUE, 0.3)}
        entries += [(f"model.layers.{layer}.self_attn.{name}.weight", *parts) for name, parts in own.items()]
    for key in ("head_dim", "rope_scaling", "rope_parameters"):
        config.pop(key, None)
    config |= {"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "q_lora_rank": None, "kv_lora_rank": RANK,
               "qk_nope_head_dim": NOPE, "qk_rope_head_dim": TURNED, "v_head_dim": VALUE, "n_routed_experts": 2, "num_experts_per_tok": 1,
               "first_k_dense_replace": config["num_hidden_layers"], "num_key_value_heads": heads, "attention_bias": False}
    return write_folder(folder, config, entries)


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    return write_latent(tmp_path_factory.mktemp("latent") / "model")


def answers(d, prompts=PROMPTS):
    return texts_together(d, prompts, 32)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, latent):
    d = Daemon(tmp_path_factory.mktemp("alone") / "log", {"cpu.threads": 1, "engine.prefix_cache": "false"}, model=latent)
    assert d.wait_log(r"msg=read .*architecture=(\S+)")[1] == "deepseek_v2"
    got = [answers(d, [p])[0] for p in PROMPTS]
    d.stop()
    return got


@pytest.mark.parametrize("options", [{"cpu.threads": 2}, {"isolation": "process", "cpu.threads": 2},
                                     {"cpu.threads": 2, "engine.max_batch_tokens": 32, "engine.max_batch_size": 4, "engine.kv_memory_bytes": KV, "engine.max_context": 160}])
def test_the_same_to_the_letter(start, latent, alone, options):
    """Together, whole and in chunks, from the prefix cache the second time; with few blocks they wait for one another."""
    d = start(options, model=latent)
    assert len(set(alone)) == len(PROMPTS)
    assert answers(d) == alone
    assert answers(d) == alone
    assert d.total("tokenlane_prefix_cache_hit_tokens_total") > 0


def test_two_ranks(start, latent, alone):
    d = start({"devices": "cpu:0,cpu:1", "engine.tensor_parallel": 2, "cpu.threads": 2}, model=latent)
    assert [len(text) > 0 for text in answers(d)] == [True] * len(PROMPTS)
    assert answers(d, PROMPTS[:1]) == alone[:1]
