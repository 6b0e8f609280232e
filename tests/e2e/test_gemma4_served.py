# SPDX-License-Identifier: MIT
"""Gemma 4 through the whole daemon: heads of two sizes, keys and values that later layers are lent, numbers beside x, experts beside an
MLP. Random weights; alone, together, in a process of its own, in two ranks, with few blocks, rounded, and from the prefix cache."""
import array
import json
import random

import pytest

from alike import texts_together
from daemon import ON_GPU, Daemon
from model_files import read_demo, write_folder

pytestmark = pytest.mark.skipif(ON_GPU, reason="the CUDA backend refuses heads of two sizes")
PROMPTS = ["Once upon a time", "The dog said that", "Clara", "Tell me a story about Ben. " * 12]
DIM, HEADS, HEAD, WIDE, FFN, BESIDE, EXPERTS, WINDOW = 64, 4, 16, 32, 96, 16, 4, 24
SLIDES = [True, False, True, True, False]
LENT = 2
KV = 2 * (2 * HEAD + WIDE) * 4 * 16 * 10  # ten blocks of floats, of which one context can take all: the last two layers have none


def write_gemma4(folder):
    config, _ = read_demo()
    draw, vocab, layers, entries = random.Random(4), config["vocab_size"], len(SLIDES), []

    def put(name, *shape, gain=1.0):
        n = 1
        for size in shape:
            n *= size
        spread = gain / shape[-1] ** 0.5
        values = [draw.gauss(0, spread) for _ in range(n)] if len(shape) > 1 else [1 + draw.gauss(0, 0.1) for _ in range(n)]
        entries.append((name, "F32", list(shape), array.array("f", values).tobytes()))
    put("model.language_model.embed_tokens.weight", vocab, DIM, gain=3)
    put("model.language_model.embed_tokens_per_layer.weight", vocab, layers * BESIDE, gain=3)
    put("model.language_model.per_layer_model_projection.weight", layers * BESIDE, DIM)
    put("model.language_model.per_layer_projection_norm.weight", BESIDE)
    put("model.language_model.norm.weight", DIM)
    put("model.vision_tower.patch_embedder.input_proj.weight", 8, 8)
    for i, slides in enumerate(SLIDES):
        head, lent = HEAD if slides else WIDE, i >= layers - LENT
        ffn = FFN * (2 if lent else 1)
        at = f"model.language_model.layers.{i}."
        for name in ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm", "pre_feedforward_layernorm_2",
                     "post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "post_per_layer_input_norm"):
            put(f"{at}{name}.weight", DIM)
        put(at + "self_attn.q_proj.weight", HEADS * head, DIM)
        for name in ("k_proj", "v_proj"):  # also where they are lent, as published files have it
            put(f"{at}self_attn.{name}.weight", head, DIM)
        for name in ("q_norm", "k_norm"):
            put(f"{at}self_attn.{name}.weight", head)
        put(at + "self_attn.o_proj.weight", DIM, HEADS * head)
        for name, shape in {"gate_proj": (ffn, DIM), "up_proj": (ffn, DIM), "down_proj": (DIM, ffn)}.items():
            put(f"{at}mlp.{name}.weight", *shape)
        put(at + "per_layer_input_gate.weight", BESIDE, DIM)
        put(at + "per_layer_projection.weight", DIM, BESIDE)
        put(at + "layer_scalar", 1)
        put(at + "router.proj.weight", EXPERTS, DIM, gain=4)
        put(at + "router.scale", DIM)
        put(at + "router.per_expert_scale", EXPERTS)
        put(at + "experts.gate_up_proj", EXPERTS, 2 * 32, DIM)
        put(at + "experts.down_proj", EXPERTS, DIM, 32)
    kinds = ["sliding_attention" if slides else "full_attention" for slides in SLIDES]
    own = {"model_type": "gemma4_text", "vocab_size": vocab, "vocab_size_per_layer_input": vocab, "hidden_size": DIM, "num_hidden_layers": layers,
           "num_attention_heads": HEADS, "num_key_value_heads": 1, "num_global_key_value_heads": None, "head_dim": HEAD, "global_head_dim": WIDE,
           "intermediate_size": FFN, "hidden_size_per_layer_input": BESIDE, "num_kv_shared_layers": LENT, "use_double_wide_mlp": True, "layer_types": kinds,
           "sliding_window": WINDOW, "enable_moe_block": True, "num_experts": EXPERTS, "top_k_experts": 2, "moe_intermediate_size": 32,
           "expert_intermediate_size": None, "attention_k_eq_v": False, "final_logit_softcapping": 30.0, "tie_word_embeddings": True,
           "use_bidirectional_attention": None, "max_position_embeddings": config["max_position_embeddings"]}
    whole = {"architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4", "text_config": own, "vision_config": {"hidden_size": 8},
             "audio_config": None, "eos_token_id": config["eos_token_id"]}
    return write_folder(folder, whole, entries)


@pytest.fixture(scope="module")
def gemma4(tmp_path_factory):
    return write_gemma4(tmp_path_factory.mktemp("gemma4") / "model")


def answers(d, prompts=PROMPTS):
    return texts_together(d, prompts, 32)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, gemma4):
    d = Daemon(tmp_path_factory.mktemp("alone") / "log", {"cpu.threads": 1, "engine.prefix_cache": "false"}, model=gemma4)
    assert d.wait_log(r"msg=read .*architecture=(\S+)")[1] == "gemma4"
    got = [answers(d, [p])[0] for p in PROMPTS]
    d.stop()
    return got


@pytest.mark.parametrize("options", [{"cpu.threads": 2}, {"isolation": "process", "cpu.threads": 2},
                                     {"cpu.threads": 2, "engine.max_batch_tokens": 32, "engine.max_batch_size": 4, "engine.kv_memory_bytes": KV, "engine.max_context": 160}])
def test_the_same_to_the_letter(start, gemma4, alone, options):
    """Together, whole and in chunks, from the prefix cache the second time; with few blocks they wait for one another."""
    d = start(options, model=gemma4)
    assert len(set(alone)) == len(PROMPTS)
    assert answers(d) == alone
    assert answers(d) == alone
    assert d.total("tokenlane_prefix_cache_hit_tokens_total") > 0


def test_a_stream(start, gemma4, alone):
    d = start({"cpu.threads": 2}, model=gemma4)
    text = ""
    with d.http.stream("POST", "/v1/completions", json={"model": "demo", "prompt": PROMPTS[0], "max_tokens": 32, "temperature": 0, "stream": True}) as r:
        for line in r.iter_lines():
            if line.startswith("data: {"):
                text += json.loads(line.removeprefix("data: "))["choices"][0]["text"]
    assert text == alone[0]


@pytest.mark.parametrize("options", [{"engine.kv_dtype": "fp8_e4m3"}, {"model.quantize": "q8_0"}, {"model.quantize": "q4_0", "isolation": "process"}])
def test_rounded(start, gemma4, options):
    """What is rounded is not the same, but the same whether alone or together."""
    d = start({"cpu.threads": 2, **options}, model=gemma4)
    first = answers(d)
    assert len(set(first)) == len(PROMPTS)
    assert [answers(d, [p])[0] for p in PROMPTS] == first


def test_two_ranks(start, gemma4, alone):
    d = start({"devices": "cpu:0,cpu:1", "engine.tensor_parallel": 2, "cpu.threads": 2}, model=gemma4)
    assert [len(text) > 0 for text in answers(d)] == [True] * len(PROMPTS)
    assert answers(d, PROMPTS[:1]) == alone[:1]
