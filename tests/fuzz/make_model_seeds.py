# SPDX-License-Identifier: MIT
"""Makes the first files of corpus/gguf and corpus/safetensors: tiny models that load.

    venv/bin/python tests/fuzz/make_model_seeds.py      (tests/golden/requirements.txt)
"""

import json
import os
import struct

import gguf
import numpy as np
from ml_dtypes import float8_e4m3fn
from safetensors.numpy import save

CORPUS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")
DIM, HEADS, VOCAB, EXPERTS = 32, 2, 4, 3
SHAPES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
          "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
          "ffn_down": "mlp.down_proj"}
CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_size": DIM, "intermediate_size": DIM, "num_hidden_layers": 1,
          "num_attention_heads": HEADS, "vocab_size": VOCAB, "max_position_embeddings": 16, "tie_word_embeddings": True}


def make_gguf(name, qtype):
    out = gguf.GGUFWriter(f"{CORPUS}/gguf/{name}.gguf", "llama")
    out.add_context_length(16)
    out.add_embedding_length(DIM)
    out.add_block_count(1)
    out.add_feed_forward_length(DIM)
    out.add_head_count(HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    out.add_rope_scaling_factor(2)
    out.add_tokenizer_model("llama")
    out.add_token_list(["a", "b", "c", "d"])
    out.add_token_scores([0.0, -1.0, -2.0, -3.0])
    out.add_eos_token_id(1)

    def add(tensor, rows):
        out.add_tensor(tensor, gguf.quantize(np.ones((rows, DIM), dtype=np.float32), qtype), raw_dtype=qtype)

    add("token_embd.weight", VOCAB)
    for tensor in SHAPES:
        add(f"blk.0.{tensor}.weight", DIM)
    for tensor in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        out.add_tensor(f"{tensor}.weight", np.ones(DIM, dtype=np.float32))
    out.add_tensor("rope_freqs.weight", np.ones(DIM // HEADS // 2, dtype=np.float32))
    write(out)


def begin(name, architecture, add_eps=gguf.GGUFWriter.add_layer_norm_rms_eps, n_layers=1, inner=DIM):
    """A file with the keys that all have."""
    out = gguf.GGUFWriter(f"{CORPUS}/gguf/{name}.gguf", architecture)
    out.add_context_length(16)
    out.add_embedding_length(DIM)
    out.add_block_count(n_layers)
    out.add_feed_forward_length(inner)
    out.add_head_count(HEADS)
    add_eps(out, 1e-5)
    out.add_vocab_size(VOCAB)
    return out


def make_gemma3():
    """Keys, names and sizes of heads that Llama's files do not have; norms of Q and K; windows layer by layer."""
    out = begin("gemma3", "gemma3")
    out.add_sliding_window(4)
    out.add_sliding_window_pattern([True])
    for tensor in SHAPES:
        out.add_tensor(f"blk.0.{tensor}.weight", np.ones((DIM, DIM), dtype=np.float16))
    for tensor in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
        out.add_tensor(f"blk.0.{tensor}.weight", np.ones(DIM, dtype=np.float32))
    for tensor in ("attn_q_norm", "attn_k_norm"):
        out.add_tensor(f"blk.0.{tensor}.weight", np.ones(DIM // HEADS, dtype=np.float32))
    out.add_tensor("token_embd.weight", np.ones((VOCAB, DIM), dtype=np.float16))
    out.add_tensor("output_norm.weight", np.ones(DIM, dtype=np.float32))
    write(out)


def make_phi3():
    """Fused matrices, a part of each head rotated, longrope."""
    out = begin("phi3", "phi3")
    out.add_rope_dimension_count(8)
    out.add_rope_scaling_orig_ctx_len(4)
    out.add_rope_scaling_attn_factors(1.5)
    for name in ("long", "short"):
        out.add_tensor(f"rope_factors_{name}.weight", np.ones(4, dtype=np.float32))
    for tensor, rows in (("attn_qkv", 3 * DIM), ("attn_output", DIM), ("ffn_up", 2 * DIM), ("ffn_down", DIM)):
        data = gguf.quantize(np.ones((rows, DIM), dtype=np.float32), gguf.GGMLQuantizationType.Q8_0)
        out.add_tensor(f"blk.0.{tensor}.weight", data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for tensor in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        out.add_tensor(f"{tensor}.weight", np.ones(DIM, dtype=np.float32))
    for tensor in ("token_embd", "output"):
        out.add_tensor(f"{tensor}.weight", np.ones((VOCAB, DIM), dtype=np.float16))
    write(out)


def make_gpt_oss():
    """Experts in one tensor, with biases; sinks, windows, YaRN."""
    out = begin("gpt_oss", "gpt-oss")
    out.add_sliding_window(4)
    out.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    out.add_rope_scaling_factor(2)
    out.add_rope_scaling_orig_ctx_len(8)
    out.add_expert_count(EXPERTS)
    out.add_expert_used_count(2)
    for tensor in ("attn_q", "attn_k", "attn_v", "attn_output"):
        out.add_tensor(f"blk.0.{tensor}.weight", np.ones((DIM, DIM), dtype=np.float16))
        out.add_tensor(f"blk.0.{tensor}.bias", np.ones(DIM, dtype=np.float32))
    for tensor in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"):
        data = gguf.quantize(np.ones((EXPERTS, DIM, DIM), dtype=np.float32), gguf.GGMLQuantizationType.Q8_0)
        out.add_tensor(f"blk.0.{tensor}.weight", data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        out.add_tensor(f"blk.0.{tensor}.bias", np.ones((EXPERTS, DIM), dtype=np.float32))
    out.add_tensor("blk.0.ffn_gate_inp.weight", np.ones((EXPERTS, DIM), dtype=np.float32))
    out.add_tensor("blk.0.ffn_gate_inp.bias", np.ones(EXPERTS, dtype=np.float32))
    out.add_tensor("blk.0.attn_sinks.weight", np.ones(HEADS, dtype=np.float32))
    for tensor in ("blk.0.attn_norm", "blk.0.post_attention_norm", "output_norm"):
        out.add_tensor(f"{tensor}.weight", np.ones(DIM, dtype=np.float32))
    out.add_tensor("token_embd.weight", np.ones((VOCAB, DIM), dtype=np.float16))
    write(out)


BERT = {"attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v", "attention.output.dense": "attn_output",
        "intermediate.dense": "ffn_up", "output.dense": "ffn_down"}


def make_encoder(name, architecture, matrices, norms, tables, more=lambda out: None):
    """matrices: of a layer, with their numbers of rows; norms: of a layer; tables: beside the words."""
    out = begin(name, architecture, gguf.GGUFWriter.add_layer_norm_eps)
    out.add_causal_attention(False)
    out.add_pooling_type(gguf.PoolingType.MEAN)
    more(out)
    for tensor, rows in matrices.items():
        out.add_tensor(f"blk.0.{tensor}.weight", np.ones((rows, DIM), dtype=np.float16))
        if architecture == "bert":
            out.add_tensor(f"blk.0.{tensor}.bias", np.ones(rows, dtype=np.float32))
    for tensor in ["token_embd_norm"] + norms:
        out.add_tensor(f"{tensor}.weight", np.ones(DIM, dtype=np.float32))
    for tensor, shape in tables.items():
        out.add_tensor(f"{tensor}.weight", np.ones(shape, dtype=np.float32))
    out.add_tensor("token_embd.weight", np.ones((VOCAB, DIM), dtype=np.float16))
    write(out)


def add_windows(out):
    out.add_sliding_window(4)
    out.add_sliding_window_pattern(3)
    out.add_rope_freq_base_swa(10000)


def make_encoders():
    """BERT, one whose token type has lost its dimension; fused projections, a gate, windows."""
    behind = ["blk.0.attn_output_norm", "blk.0.layer_output_norm"]
    make_encoder("bert", "bert", {part: DIM for part in BERT.values()}, behind, {"position_embd": (16, DIM), "token_types": (DIM,)})
    make_encoder("nomic_bert", "nomic-bert", {"attn_qkv": 3 * DIM, "attn_output": DIM, "ffn_up": DIM, "ffn_gate": DIM, "ffn_down": DIM}, behind,
                 {"token_types": (2, DIM)})
    make_encoder("modern_bert", "modern-bert", {"attn_qkv": 3 * DIM, "attn_output": DIM, "ffn_up": 2 * DIM, "ffn_down": DIM},
                 ["blk.0.ffn_norm", "output_norm"], {}, add_windows)
    tensors = {f"embeddings.{table}_embeddings.weight": np.ones((rows, DIM), dtype=np.float16)
               for table, rows in (("word", VOCAB), ("position", 16), ("token_type", 2))}
    for part in BERT:
        tensors[f"encoder.layer.0.{part}.weight"] = np.ones((DIM, DIM), dtype=np.float16)
        tensors[f"encoder.layer.0.{part}.bias"] = np.ones(DIM, dtype=np.float16)
    for norm in ("embeddings.LayerNorm", "encoder.layer.0.attention.output.LayerNorm", "encoder.layer.0.output.LayerNorm"):
        tensors[f"{norm}.weight"] = np.ones(DIM, dtype=np.float16)
    write_folder("bert", CONFIG | {"architectures": ["BertModel"]}, tensors)


def experts_of_gpt_oss(shipped):
    """The tensors of a layer's experts, as blocks and scales or as transposed floats."""
    made = {"router.weight": np.ones((EXPERTS, DIM), dtype=np.float16), "router.bias": np.ones(EXPERTS, dtype=np.float16)}
    for part, rows in (("gate_up_proj", 2 * DIM), ("down_proj", DIM)):
        made[f"experts.{part}_bias"] = np.ones((EXPERTS, rows), dtype=np.float16)
        if shipped:
            made[f"experts.{part}_blocks"] = np.ones((EXPERTS, rows, DIM // 32, 16), dtype=np.uint8)
            made[f"experts.{part}_scales"] = np.full((EXPERTS, rows, DIM // 32), 127, dtype=np.uint8)
        else:
            made[f"experts.{part}"] = np.ones((EXPERTS, DIM, rows), dtype=np.float16)
    return {f"model.layers.0.mlp.{name}": data for name, data in made.items()}


def write(out):
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def make_fused(name, quantization, matrix):
    """Phi-3, whose Q, K, V and whose gate and up are one matrix each; matrix: of so many rows."""
    tensors = {"model.embed_tokens.weight": np.ones((VOCAB, DIM), dtype=np.float16)}
    for tensor, rows in (("self_attn.qkv_proj", 3), ("self_attn.o_proj", 1), ("mlp.gate_up_proj", 2), ("mlp.down_proj", 1)):
        tensors |= {f"model.layers.0.{tensor}.{k}": v for k, v in matrix(rows * DIM).items()}
    for tensor in ("model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm"):
        tensors[f"{tensor}.weight"] = np.ones(DIM, dtype=np.float16)
    write_folder(name, CONFIG | {"architectures": ["Phi3ForCausalLM"], "quantization_config": quantization}, tensors)


def make_safetensors(name, quantization, matrix, more={}, experts={}):
    tensors = {"model.embed_tokens.weight": np.ones((VOCAB, DIM), dtype=np.float16)}
    for tensor in SHAPES.values():
        tensors |= {f"model.layers.0.{tensor}.{k}": v for k, v in matrix.items()}
    for tensor in ("model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm"):
        tensors[f"{tensor}.weight"] = np.ones(DIM, dtype=np.float16)
    tensors |= experts
    write_folder(name, CONFIG | more | ({"quantization_config": quantization} if quantization else {}), tensors)


def write_folder(name, config, tensors):
    """A file of the length of config.json (2 bytes), config.json, and model.safetensors."""
    config = json.dumps(config).encode()
    with open(f"{CORPUS}/safetensors/{name}", "wb") as out:
        out.write(struct.pack("<H", len(config)) + config + save(tensors))


INNER = 8  # of an MLP: files stay below -max_len
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4}


MLP = {"gate": (INNER, DIM), "up": (INNER, DIM), "down": (DIM, INNER)}


def ones(*shape, dtype=np.float16):
    return np.ones(shape, dtype=dtype)


def make_delta(name, architecture, own, config={}, matrix=lambda rows: {"weight": ones(rows, DIM)}):
    """A layer by the gated delta rule, and one with attention whose heads are gated; own: rows of the first one's matrices."""
    layers = ["model.layers.0", "model.layers.1"]
    tensors = {"model.embed_tokens.weight": ones(VOCAB, DIM), "model.norm.weight": ones(DIM)}
    for part, rows in own.items():
        tensors |= {f"{layers[0]}.linear_attn.{part}.{k}": v for k, v in matrix(rows).items()}
    for part, shape in {"conv1d.weight": (64, 1, 4), "A_log": (4,), "dt_bias": (4,), "norm.weight": (8,), "out_proj.weight": (DIM, 32)}.items():
        tensors[f"{layers[0]}.linear_attn.{part}"] = ones(*shape)
    for part, rows in {"q_proj": 2 * DIM, "k_proj": DIM, "v_proj": DIM, "o_proj": DIM}.items():
        tensors |= {f"{layers[1]}.self_attn.{part}.{k}": v for k, v in matrix(rows).items()}
    for part in ("q_norm", "k_norm"):
        tensors[f"{layers[1]}.self_attn.{part}.weight"] = ones(DIM // HEADS)
    for layer in layers:
        tensors |= {f"{layer}.mlp.{part}_proj.weight": ones(*shape) for part, shape in MLP.items()}
        tensors |= {f"{layer}.{norm}_layernorm.weight": ones(DIM) for norm in ("input", "post_attention")}
    write_folder(name, CONFIG | DELTA | {"architectures": [architecture], "num_hidden_layers": 2, "num_key_value_heads": HEADS, "head_dim": DIM // HEADS,
                                         "intermediate_size": INNER, "layer_types": ["linear_attention", "full_attention"]} | config, tensors)


def make_lfm2():
    """A short convolution with biases, and attention."""
    layers = ["model.layers.0", "model.layers.1"]
    tensors = {"model.embed_tokens.weight": ones(VOCAB, DIM), "model.embedding_norm.weight": ones(DIM)}
    for part, shape in {"in_proj.weight": (3 * DIM, DIM), "in_proj.bias": (3 * DIM,), "conv.weight": (DIM, 1, 3), "conv.bias": (DIM,),
                        "out_proj.weight": (DIM, DIM), "out_proj.bias": (DIM,)}.items():
        tensors[f"{layers[0]}.conv.{part}"] = ones(*shape)
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        tensors[f"{layers[1]}.self_attn.{part}.weight"] = ones(DIM, DIM)
    for part in ("q_layernorm", "k_layernorm"):
        tensors[f"{layers[1]}.self_attn.{part}.weight"] = ones(DIM // HEADS)
    for layer in layers:
        tensors |= {f"{layer}.feed_forward.w{i}.weight": ones(*MLP[part]) for i, part in ((1, "gate"), (2, "down"), (3, "up"))}
        tensors |= {f"{layer}.{norm}_norm.weight": ones(DIM) for norm in ("operator", "ffn")}
    write_folder("lfm2", CONFIG | {"architectures": ["Lfm2ForCausalLM"], "num_hidden_layers": 2, "num_key_value_heads": HEADS, "intermediate_size": INNER, "conv_L_cache": 3,
                                   "conv_bias": True, "block_auto_adjust_ff_dim": False, "full_attn_idxs": [1]}, tensors)


def mamba2(heads, groups, state, bias=True):
    """Tensors of one of its mixers, by their names there; all heads are DIM long together."""
    channels = DIM + 2 * groups * state
    shapes = {"in_proj.weight": (DIM + channels + heads, DIM), "conv1d.weight": (channels, 1, 4), "A_log": (heads,), "D": (heads,), "dt_bias": (heads,),
              "norm.weight": (DIM,), "out_proj.weight": (DIM, DIM)}
    return shapes | ({"conv1d.bias": (channels,)} if bias else {})


def make_scans():
    """Mamba 2's layers beside attention without rotation: Granite's, whose layers have an MLP each, and Nemotron-H's, which are one mixer."""
    tensors = {"model.embed_tokens.weight": ones(VOCAB, DIM), "model.norm.weight": ones(DIM)}
    for part, shape in mamba2(4, 1, 8).items():
        tensors[f"model.layers.0.mamba.{part}"] = ones(*shape)
    for part in ("q", "k", "v", "o"):
        tensors[f"model.layers.1.self_attn.{part}_proj.weight"] = ones(DIM, DIM)
    for layer in ("model.layers.0", "model.layers.1"):
        tensors |= {f"{layer}.shared_mlp.input_linear.weight": ones(2 * INNER, DIM), f"{layer}.shared_mlp.output_linear.weight": ones(DIM, INNER)}
        tensors |= {f"{layer}.{norm}_layernorm.weight": ones(DIM) for norm in ("input", "post_attention")}
    sizes = {"mamba_n_heads": 4, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_d_head": 8, "mamba_expand": 1, "time_step_limit": [0.0, float("inf")]}
    write_folder("granite_hybrid", CONFIG | sizes | {"architectures": ["GraniteMoeHybridForCausalLM"], "num_hidden_layers": 2, "num_local_experts": 0,
                                                     "shared_intermediate_size": INNER, "layer_types": ["mamba", "attention"]}, tensors)
    tensors = {"backbone.embeddings.weight": ones(VOCAB, DIM), "backbone.norm_f.weight": ones(DIM)}
    layers = [mamba2(4, 2, 8), {f"{part}_proj.weight": (DIM, DIM) for part in "qkvo"}, {"up_proj.weight": (INNER, DIM), "down_proj.weight": (DIM, INNER)},
              {"gate.weight": (EXPERTS, DIM), "gate.e_score_correction_bias": (EXPERTS,)}]
    for expert in ("shared_experts", *(f"experts.{i}" for i in range(EXPERTS))):
        layers[3] |= {f"{expert}.up_proj.weight": (INNER, DIM), f"{expert}.down_proj.weight": (DIM, INNER)}
    for i, mixer in enumerate(layers):
        tensors[f"backbone.layers.{i}.norm.weight"] = ones(DIM)
        tensors |= {f"backbone.layers.{i}.mixer.{part}": ones(*shape) for part, shape in mixer.items()}
    config = {key: value for key, value in CONFIG.items() if key != "num_hidden_layers"}
    write_folder("nemotron_h", config | {"architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", "hybrid_override_pattern": "M*-E",
                                         "intermediate_size": INNER, "num_key_value_heads": HEADS, "head_dim": DIM // HEADS, "mamba_num_heads": 4,
                                         "mamba_head_dim": 8, "n_groups": 2, "ssm_state_size": 8, "n_routed_experts": EXPERTS, "num_experts_per_tok": 2,
                                         "moe_intermediate_size": INNER, "moe_shared_expert_intermediate_size": INNER}, tensors)


def make_scan_gguf():
    """Nemotron-H's lists of heads and of inner rows, vectors that are matrices of one column."""
    out = begin("nemotron_h", "nemotron_h", n_layers=3, inner=[0, 0, INNER])
    out.add_head_count_kv([0, HEADS, 0])
    out.add_key_length(DIM // HEADS)
    for key, value in {"conv_kernel": 4, "state_size": 8, "group_count": 2, "time_step_rank": 4, "inner_size": DIM}.items():
        out.add_uint32(f"nemotron_h.ssm.{key}", value)
    for part, shape in {"ssm_in.weight": (100, DIM), "ssm_conv1d.weight": (64, 4), "ssm_conv1d.bias": (64,), "ssm_dt.bias": (4,), "ssm_a": (4, 1),
                        "ssm_d": (4, 1), "ssm_norm.weight": (2, 16), "ssm_out.weight": (DIM, DIM)}.items():
        out.add_tensor(f"blk.0.{part}", -ones(*shape, dtype=np.float16 if shape[-1] == DIM else np.float32))
    for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
        out.add_tensor(f"blk.1.{part}.weight", ones(DIM, DIM))
    for part in ("up", "down"):
        out.add_tensor(f"blk.2.ffn_{part}.weight", ones(*MLP[part]))
    for layer in range(3):
        out.add_tensor(f"blk.{layer}.attn_norm.weight", ones(DIM, dtype=np.float32))
    out.add_tensor("token_embd.weight", ones(VOCAB, DIM))
    out.add_tensor("output_norm.weight", ones(DIM, dtype=np.float32))
    write(out)


def make_states_gguf():
    """Qwen3.5's value heads in another order, Qwen3-Next's decays, LFM2's list of heads."""
    for name, architecture in (("qwen35", "qwen35"), ("qwen3next", "qwen3next"), ("lfm2", "lfm2")):
        short, next = name == "lfm2", name == "qwen3next"
        out = begin(name, architecture, n_layers=2, inner=INNER)
        if next:
            out.add_expert_count(EXPERTS)
            out.add_expert_used_count(2)
            out.add_expert_feed_forward_length(INNER)
            out.add_expert_shared_feed_forward_length(INNER)
        if short:
            out.add_uint32("lfm2.shortconv.l_cache", 3)
            out.add_head_count_kv([0, HEADS])
            own = {"shortconv.in_proj.weight": (3 * DIM, DIM), "shortconv.conv.weight": (DIM, 3), "shortconv.out_proj.weight": (DIM, DIM)}
        else:
            out.add_head_count_kv(HEADS)
            out.add_rope_dimension_count(8)
            out.add_key_length(DIM // HEADS)
            for key, value in {"conv_kernel": 4, "state_size": 8, "group_count": 2, "time_step_rank": 4, "inner_size": 32}.items():
                out.add_uint32(f"{architecture}.ssm.{key}", value)
            out.add_uint32(f"{architecture}.full_attention_interval", 2)
            own = {"attn_qkv.weight": (64, DIM), "attn_gate.weight": (32, DIM), "ssm_conv1d.weight": (64, 4), "ssm_dt.bias": (4,), "ssm_a": (4,),
                   "ssm_norm.weight": (8,), "ssm_out.weight": (DIM, 32)}
            own |= {"ssm_ba.weight": (8, DIM)} if next else {"ssm_beta.weight": (4, DIM), "ssm_alpha.weight": (4, DIM)}
        for part, shape in own.items():
            out.add_tensor(f"blk.0.{part}", -ones(*shape, dtype=np.float16 if shape[-1] == DIM else np.float32))
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            out.add_tensor(f"blk.1.{part}.weight", ones(DIM if short or part != "attn_q" else 2 * DIM, DIM))
        for part in ("attn_q_norm", "attn_k_norm"):
            out.add_tensor(f"blk.1.{part}.weight", ones(DIM // HEADS, dtype=np.float32))
        for layer in ("blk.0", "blk.1"):
            for part, shape in MLP.items():
                out.add_tensor(f"{layer}.ffn_{part}{'_shexp' if next else ''}.weight", ones(*shape))
                if next:
                    out.add_tensor(f"{layer}.ffn_{part}_exps.weight", ones(EXPERTS, *shape))
            if next:
                out.add_tensor(f"{layer}.ffn_gate_inp.weight", ones(EXPERTS, DIM))
                out.add_tensor(f"{layer}.ffn_gate_inp_shexp.weight", ones(DIM))
            for norm in ("attn_norm", "ffn_norm" if short else "post_attention_norm"):
                out.add_tensor(f"{layer}.{norm}.weight", ones(DIM, dtype=np.float32))
        out.add_tensor("token_embd.weight", ones(VOCAB, DIM))
        out.add_tensor("token_embd_norm.weight" if short else "output_norm.weight", ones(DIM, dtype=np.float32))
        write(out)


def make_states():
    """Layers that keep a state: matrices of kinds of rows, and with runs of them, as floats, in GPTQ's integers and in blocks of F8."""
    make_delta("qwen3_5", "Qwen3_5ForCausalLM", {"in_proj_qkv": 64, "in_proj_z": 32, "in_proj_b": 4, "in_proj_a": 4})
    fused, dense = {"in_proj_qkvz": 96, "in_proj_ba": 8}, {"num_experts": EXPERTS, "num_experts_per_tok": 2, "mlp_only_layers": [0, 1]}
    make_delta("qwen3_next", "Qwen3NextForCausalLM", fused, dense)
    make_delta("qwen3_next_gptq", "Qwen3NextForCausalLM", fused, dense | {"quantization_config": {"quant_method": "gptq"}}, lambda rows: {
        "qweight": np.zeros((DIM // 8, rows), np.int32), "qzeros": np.zeros((1, rows // 8), np.int32), "scales": ones(1, rows),
        "g_idx": np.zeros(DIM, np.int32)})
    make_delta("qwen3_next_f8", "Qwen3NextForCausalLM", fused, dense | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [8, 8]}},
               lambda rows: {"weight": np.zeros((rows, DIM), dtype=float8_e4m3fn), "weight_scale_inv": ones(rows // 8, DIM // 8, dtype=np.float32)})
    make_lfm2()
    make_states_gguf()
    make_scans()
    make_scan_gguf()


if __name__ == "__main__":
    for kind in ("gguf", "safetensors"):
        os.makedirs(f"{CORPUS}/{kind}", exist_ok=True)
    make_gguf("q8_0", gguf.GGMLQuantizationType.Q8_0)
    make_gguf("q4_0", gguf.GGMLQuantizationType.Q4_0)
    make_gguf("f32", gguf.GGMLQuantizationType.F32)
    make_gemma3()
    make_phi3()
    make_gpt_oss()
    make_encoders()
    int32 = np.zeros
    make_safetensors("f16", None, {"weight": np.ones((DIM, DIM), dtype=np.float16)})
    make_safetensors("gptq", {"quant_method": "gptq"}, {
        "qweight": int32((DIM // 8, DIM), np.int32), "qzeros": int32((1, DIM // 8), np.int32),
        "scales": np.ones((1, DIM), dtype=np.float16), "g_idx": int32(DIM, np.int32)})
    make_safetensors("awq", {"quant_method": "awq"}, {
        "qweight": int32((DIM, DIM // 8), np.int32), "qzeros": int32((1, DIM // 8), np.int32),
        "scales": np.ones((1, DIM), dtype=np.float16)})
    make_safetensors("int8", {"quant_method": "compressed-tensors"}, {
        "weight": np.ones((DIM, DIM), dtype=np.int8), "weight_scale": np.ones((DIM, 1), dtype=np.float16)})
    make_safetensors("packed", {"quant_method": "compressed-tensors"}, {
        "weight_packed": int32((DIM, DIM // 8), np.int32), "weight_scale": np.ones((DIM, 1), dtype=np.float16)})
    attention = {"weight": np.ones((DIM, DIM), dtype=np.float16)}
    sinks = {"model.layers.0.self_attn.sinks": np.ones(HEADS, dtype=np.float16)}
    for name, shipped in (("gpt_oss", False), ("gpt_oss_mxfp4", True)):
        make_safetensors(name, None, attention, {"architectures": ["GptOssForCausalLM"], "num_local_experts": EXPERTS,
                                                 "num_experts_per_tok": 2, "sliding_window": 4}, sinks | experts_of_gpt_oss(shipped))
    make_fused("fused_gptq", {"quant_method": "gptq"}, lambda rows: {
        "qweight": int32((DIM // 8, rows), np.int32), "qzeros": int32((1, rows // 8), np.int32),
        "scales": np.ones((1, rows), dtype=np.float16), "g_idx": int32(DIM, np.int32)})
    make_fused("fused_f8", {"quant_method": "fp8", "weight_block_size": [16, 16]}, lambda rows: {
        "weight": np.zeros((rows, DIM), dtype=float8_e4m3fn), "weight_scale_inv": np.ones((rows // 16, DIM // 16), dtype=np.float32)})
    make_states()
