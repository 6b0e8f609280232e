# SPDX-License-Identifier: MIT
"""Makes arch/<name>/: a small random model of each other architecture, and what transformers says of it.

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements.txt
    venv/bin/python tests/golden/make_arch.py [NAME...]

As make_llama.py, from which prompts and numbers come: float32, greedy tokens that are well separated.
"""

import json
import os
import shutil
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

import make_llama
from make_llama import HERE, MARGIN, N_NEW, PROMPT_LENGTHS, make_case

make_llama.MIN_DISTINCT = 8
SIZES = dict(num_hidden_layers=2, hidden_size=36, intermediate_size=52, num_attention_heads=4, num_key_value_heads=2,
             head_dim=14, vocab_size=131, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0)


def theta(value, **more):
    return dict(rope_type="default", rope_theta=value, **more)


GRANITE = dict(embedding_multiplier=3.0, attention_multiplier=0.11, residual_multiplier=0.6, logits_scaling=0.7)
GPT_OSS = dict(rope_type="yarn", rope_theta=150000.0, factor=8.0, original_max_position_embeddings=64, beta_fast=32.0, beta_slow=1.0,
               truncate=False)
LATENT = dict(num_key_value_heads=4, kv_lora_rank=20, qk_nope_head_dim=10, qk_rope_head_dim=8, head_dim=8, v_head_dim=6,
              moe_intermediate_size=20)
EVEN = LATENT | dict(q_lora_rank=24, kv_lora_rank=64, qk_nope_head_dim=32, v_head_dim=16)  # what CUDA and Q8_0 want
DEEPSEEK_YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=8.0, original_max_position_embeddings=64, beta_fast=32.0, beta_slow=1.0)
LLAMA4 = dict(num_hidden_layers=4, intermediate_size=20, intermediate_size_mlp=52, num_local_experts=5, num_experts_per_tok=2,
              interleave_moe_layer_step=2, rope_parameters=dict(
                  rope_type="llama3", rope_theta=500000.0, factor=16.0, low_freq_factor=1.0, high_freq_factor=1.0,
                  original_max_position_embeddings=64))
MINISTRAL = dict(rope_type="yarn", rope_theta=1000000.0, factor=4.0, original_max_position_embeddings=400, beta_fast=32.0, beta_slow=1.0,
                 mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.1)
GEMMA4 = dict(sliding_window=18, final_logit_softcapping=6.0, rope_parameters=dict(
    sliding_attention=theta(10000.0), full_attention=dict(rope_type="proportional", partial_rotary_factor=0.4, rope_theta=100000.0)),
    num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"], tie_word_embeddings=True)
LONG = [1.0 + 0.5 * i for i in range(6)]
# layers that keep a state: odd sizes, and those that kernels like
DELTA = dict(head_dim=16, linear_num_key_heads=2, linear_num_value_heads=6, linear_key_head_dim=10, linear_value_head_dim=12)
DELTA_EVEN = dict(hidden_size=64, intermediate_size=96, head_dim=32, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=32,
                  linear_value_head_dim=32)
LFM2 = dict(hidden_size=56, intermediate_size=60, block_multiple_of=8, block_ffn_dim_multiplier=1.1, num_hidden_layers=4,
            layer_types=["conv", "full_attention", "conv", "conv"])
# Mamba 2's: 47 and 300 tokens are no whole chunks
MAMBA = dict(mamba_n_heads=8, mamba_d_state=10, mamba_n_groups=2, mamba_chunk_size=16)
NEMOTRON_H = dict(mamba_num_heads=6, mamba_head_dim=12, n_groups=2, ssm_state_size=10, chunk_size=16, time_step_min=1e-30)
MODELS = {
    "qwen2": ("Qwen2", dict(hidden_size=56, tie_word_embeddings=True)),
    "qwen2_window": ("Qwen2", dict(hidden_size=56, use_sliding_window=True, sliding_window=21, max_window_layers=1)),
    "qwen3": ("Qwen3", dict()),
    "mistral": ("Mistral", dict(sliding_window=19)),
    "mistral_yarn": ("Mistral", dict(sliding_window=None, rope_parameters=dict(
        rope_type="yarn", rope_theta=10000.0, factor=8.0, original_max_position_embeddings=64))),
    "smollm3": ("SmolLM3", dict(hidden_size=56, no_rope_layers=[1, 0], tie_word_embeddings=True)),
    "smollm3_deep": ("SmolLM3", dict(hidden_size=40, head_dim=10, num_hidden_layers=4, tie_word_embeddings=True)),
    "phi3": ("Phi3", dict(hidden_size=56, sliding_window=50)),
    "phi4_longrope": ("Phi3", dict(hidden_size=64, head_dim=16, partial_rotary_factor=0.75, original_max_position_embeddings=4,
                                   rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75,
                                                        original_max_position_embeddings=4,
                                                        short_factor=[1.0] * 6, long_factor=LONG))),
    "gemma2": ("Gemma2", dict(tie_word_embeddings=False, sliding_window=18, query_pre_attn_scalar=11, attn_logit_softcapping=5.0,
                              final_logit_softcapping=6.0)),
    "gemma3": ("Gemma3", dict(tie_word_embeddings=False, num_hidden_layers=3, sliding_window=18, query_pre_attn_scalar=11,
                              layer_types=["sliding_attention", "sliding_attention", "full_attention"],
                              rope_parameters=dict(sliding_attention=theta(10000.0), full_attention=dict(
                                  rope_type="linear", factor=8.0, rope_theta=1000000.0)))),
    # models of pictures, too, whose text model alone is asked; text sizes that are transformers' own are left out
    "gemma3_vision": ("Gemma3", dict(hidden_size=40, num_hidden_layers=3, sliding_window=18, num_attention_heads=8, num_key_value_heads=4, head_dim=14,
                                     query_pre_attn_scalar=256, tie_word_embeddings=False,
                                     layer_types=["sliding_attention", "sliding_attention", "full_attention"],
                                     rope_parameters=dict(sliding_attention=theta(10000.0), full_attention=dict(
                                         rope_type="linear", factor=8.0, rope_theta=1000000.0)))),
    "mistral3": ("Mistral3", dict(sliding_window=None, rope_parameters=theta(1e6))),
    "qwen2_5_vl": ("Qwen2_5_VL", dict(hidden_size=56, rope_parameters=theta(1e6, mrope_section=[2, 2, 3]), tie_word_embeddings=True)),
    "qwen3_vl": ("Qwen3VL", dict(rope_parameters=theta(5e6, mrope_section=[3, 2, 2], mrope_interleaved=True))),
    "qwen3_vl_moe": ("Qwen3VLMoe", dict(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=20, rope_parameters=theta(
        5e6, mrope_section=[3, 2, 2], mrope_interleaved=True))),
    "ministral3": ("Mistral3", dict(rope_parameters=MINISTRAL)),
    "ministral3_long": ("Mistral3", dict(rope_parameters=MINISTRAL | dict(factor=16.0, original_max_position_embeddings=30, llama_4_scaling_beta=0.6))),
    # as Gemma 4 E2B: numbers beside x, and two layers that are lent keys and values; as 31B: keys are values where there is no window; as 26B-A4B
    "gemma4": ("Gemma4", GEMMA4 | dict(num_hidden_layers=5, hidden_size=28, intermediate_size=20, hidden_size_per_layer_input=12, vocab_size_per_layer_input=131,
                                       num_kv_shared_layers=2, use_double_wide_mlp=True, head_dim=6, global_head_dim=10, layer_types=[
                                           "sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"])),
    "gemma4_dense": ("Gemma4Unified", GEMMA4 | dict(hidden_size=32, intermediate_size=40, head_dim=16, global_head_dim=32, attention_k_eq_v=True,
                                                    num_global_key_value_heads=1, tie_word_embeddings=False)),
    "gemma4_moe": ("Gemma4", GEMMA4 | dict(hidden_size=32, intermediate_size=40, head_dim=16, global_head_dim=32, attention_k_eq_v=True, num_global_key_value_heads=1,
                                           hidden_size_per_layer_input=0, tie_word_embeddings=False, enable_moe_block=True, num_experts=5, top_k_experts=2, moe_intermediate_size=16)),
    "olmo2": ("Olmo2", dict(hidden_size=56)),
    "olmo3": ("Olmo3", dict(num_hidden_layers=4, hidden_size=40, head_dim=10, sliding_window=17, rope_parameters=dict(
        sliding_attention=theta(5000.0), full_attention=dict(rope_type="yarn", rope_theta=5000.0, factor=8.0, attention_factor=1.2,
                                                             beta_fast=32.0, beta_slow=1.0, original_max_position_embeddings=64)))),
    "cohere": ("Cohere", dict(hidden_size=56, logit_scale=0.4, tie_word_embeddings=False, attention_bias=True)),
    "cohere_norms": ("Cohere", dict(hidden_size=56, logit_scale=0.4, tie_word_embeddings=False, use_qk_norm=True)),
    "cohere2": ("Cohere2", dict(num_hidden_layers=4, hidden_size=56, logit_scale=0.4, sliding_window=19)),
    "apertus": ("Apertus", dict(hidden_size=32, head_dim=8, rope_parameters=dict(
        rope_type="llama3", rope_theta=12000000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64))),
    "arcee": ("Arcee", dict(rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=8.0, original_max_position_embeddings=64,
                                                 beta_fast=32.0, beta_slow=1.0, mscale=1.0))),
    "nemotron": ("Nemotron", dict(rope_parameters=theta(10000.0, partial_rotary_factor=0.6))),
    "starcoder2": ("Starcoder2", dict(hidden_size=56, sliding_window=70, tie_word_embeddings=False)),
    "phi": ("Phi", dict(hidden_size=56, rope_parameters=theta(10000.0, partial_rotary_factor=0.45))),
    "gpt2": ("GPT2", dict(hidden_size=24, max_position_embeddings=400, tie_word_embeddings=True)),
    "gpt_bigcode": ("GPTBigCode", dict(hidden_size=32, max_position_embeddings=400, num_hidden_layers=1, tie_word_embeddings=True)),
    "gpt_bigcode_heads": ("GPTBigCode", dict(hidden_size=24, max_position_embeddings=400, multi_query=False, num_hidden_layers=1, tie_word_embeddings=True)),
    "gptj": ("GPTJ", dict(hidden_size=32, rotary_dim=8, num_hidden_layers=1)),
    "gpt_neox": ("GPTNeoX", dict(hidden_size=32, rope_parameters=theta(10000.0, partial_rotary_factor=0.25))),
    "gpt_neox_sequential": ("GPTNeoX", dict(hidden_size=24, num_attention_heads=3, use_parallel_residual=False, num_hidden_layers=1,
                                            hidden_act="gelu_new", rope_parameters=theta(10000.0, partial_rotary_factor=1.0))),
    "opt": ("OPT", dict(hidden_size=24, ffn_dim=64, word_embed_proj_dim=24, max_position_embeddings=400, tie_word_embeddings=False)),
    "falcon": ("Falcon", dict(hidden_size=32, tie_word_embeddings=True)),
    "falcon_new": ("Falcon", dict(hidden_size=32, num_kv_heads=2, new_decoder_architecture=True, tie_word_embeddings=True)),
    "granite": ("Granite", dict(hidden_size=56, **GRANITE)),
    "stablelm": ("StableLm", dict(hidden_size=64, head_dim=16, use_qkv_bias=True, rope_parameters=theta(
        10000.0, partial_rotary_factor=0.25))),
    "glm": ("Glm", dict(hidden_size=32, head_dim=12, rope_parameters=theta(10000.0, partial_rotary_factor=0.5))),
    "glm4v": ("Glm4v", dict(hidden_size=32, head_dim=8, rope_parameters=theta(10000.0, partial_rotary_factor=0.5, mrope_section=[1, 1, 0]))),
    "glm4v_moe": ("Glm4vMoe", dict(hidden_size=32, head_dim=8, n_routed_experts=5, num_experts_per_tok=2, moe_intermediate_size=12, first_k_dense_replace=1,
                                   rope_parameters=theta(10000.0, partial_rotary_factor=0.5, mrope_section=[1, 1, 0]))),
    "glm4": ("Glm4", dict(hidden_size=48, head_dim=12, attention_bias=True, rope_parameters=theta(
        10000.0, partial_rotary_factor=0.5))),
    "gemma": ("Gemma", dict(tie_word_embeddings=False)),
    "glm4_moe": ("Glm4Moe", dict(num_hidden_layers=3, hidden_size=48, head_dim=12, attention_bias=True, use_qk_norm=True,
                                 n_routed_experts=7, num_experts_per_tok=3, moe_intermediate_size=20, n_shared_experts=2,
                                 first_k_dense_replace=1, routed_scaling_factor=1.7, rope_parameters=theta(
                                     10000.0, partial_rotary_factor=0.5))),
    "solar_open": ("SolarOpen", dict(n_routed_experts=5, num_experts_per_tok=2, moe_intermediate_size=12, routed_scaling_factor=1.7)),
    "exaone_moe": ("ExaoneMoe", dict(num_hidden_layers=4, hidden_size=24, head_dim=6, intermediate_size=28, sliding_window=17, num_experts=4,
                                     num_experts_per_tok=2, moe_intermediate_size=12)),
    "hy_v3": ("HYV3", dict(num_experts=6, num_experts_per_tok=3, moe_intermediate_size=12, num_shared_experts=2)),
    "llama4": ("Llama4", LLAMA4),
    "llama4_long": ("Llama4", LLAMA4 | dict(attention_chunk_size=32, floor_scale=21, attn_scale=0.7)),
    "minimax_m2": ("MiniMaxM2", dict(num_local_experts=5, num_experts_per_tok=2, rope_parameters=theta(
        5e6, partial_rotary_factor=8 / 14))),
    "ernie4_5_moe": ("Ernie4_5_Moe", dict(num_hidden_layers=4, hidden_size=56, tie_word_embeddings=False, moe_num_experts=7, moe_k=3,
                                          moe_intermediate_size=20, moe_num_shared_experts=2, moe_layer_end_index=2)),
    "ernie4_5_moe_bias": ("Ernie4_5_Moe", dict(num_hidden_layers=2, hidden_size=56, tie_word_embeddings=False, moe_num_experts=5, moe_k=2, use_bias=True,
                                               moe_intermediate_size=20, moe_num_shared_experts=1)),
    "dots1": ("Dots1", dict(num_hidden_layers=3, hidden_size=56, sliding_window=None, n_routed_experts=7,
                            num_experts_per_tok=3, moe_intermediate_size=20, n_shared_experts=2, first_k_dense_replace=1,
                            norm_topk_prob=True, routed_scaling_factor=2.5)),
    # as many outputs of gate and up as inputs
    "granitemoe": ("GraniteMoe", dict(hidden_size=56, intermediate_size=28, num_local_experts=5, num_experts_per_tok=2, **GRANITE)),
    "granitemoeshared": ("GraniteMoeShared", dict(hidden_size=56, intermediate_size=28, num_local_experts=5, num_experts_per_tok=2,
                                                  shared_intermediate_size=36, **GRANITE)),
    "granitemoehybrid": ("GraniteMoeHybrid", MAMBA | GRANITE | dict(
        hidden_size=56, intermediate_size=20, num_hidden_layers=3, num_local_experts=5, num_experts_per_tok=2, shared_intermediate_size=36,
        layer_types=["linear_attention", "full_attention", "linear_attention"])),
    "granitemoehybrid_dense": ("GraniteMoeHybrid", MAMBA | GRANITE | dict(
        hidden_size=64, head_dim=16, num_local_experts=0, shared_intermediate_size=96, mamba_n_heads=4, mamba_d_state=32, mamba_n_groups=1, mamba_conv_bias=False,
        position_embedding_type="rope", layer_types=["linear_attention", "full_attention"])),
    # transformers bounds steps of prompts from below by time_step_min, and those of single tokens not: here that is nothing
    "nemotron_h": ("NemotronH", NEMOTRON_H | dict(
        n_routed_experts=5, num_experts_per_tok=2, moe_intermediate_size=20, moe_shared_expert_intermediate_size=28, routed_scaling_factor=1.7,
        layers_block_type=["linear_attention", "moe", "full_attention", "linear_attention", "moe"])),
    "nemotron_h_latent": ("NemotronH", NEMOTRON_H | dict(
        hidden_size=32, head_dim=8, mamba_num_heads=4, mamba_head_dim=8, ssm_state_size=8, n_routed_experts=6, num_experts_per_tok=2, moe_intermediate_size=20,
        moe_shared_expert_intermediate_size=28, moe_latent_size=12, layers_block_type=["linear_attention", "moe", "full_attention", "moe"])),
    "nemotron_h_dense": ("NemotronH", NEMOTRON_H | dict(
        hidden_size=64, intermediate_size=96, head_dim=32, mamba_num_heads=4, mamba_head_dim=32, ssm_state_size=32,
        layers_block_type=["linear_attention", "mlp", "full_attention", "mlp"])),
    # transformers 5 takes the short list in any context, which published ones have not alike: here they are
    "phimoe": ("Phimoe", dict(hidden_size=56, num_local_experts=6, num_experts_per_tok=2, router_jitter_noise=0.2, attention_bias=True, lm_head_bias=True,
                              sliding_window=70, rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=4,
                                                                      short_factor=LONG + [3.5], long_factor=LONG + [3.5], short_mscale=1.1, long_mscale=1.1))),
    "hunyuan": ("HunYuanDenseV1", dict(rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, alpha=50.0, factor=1.0), tie_word_embeddings=True)),
    "hunyuan_moe": ("HunYuanMoEV1", dict(hidden_size=56, num_experts=5, moe_topk=2, rope_parameters=dict(
        rope_type="dynamic", rope_theta=10000.0, alpha=50.0, factor=1.0))),
    "olmoe": ("Olmoe", dict(hidden_size=56, num_experts=6, num_experts_per_tok=3)),
    "seed_oss": ("SeedOss", dict()),
    "ernie4_5": ("Ernie4_5", dict(tie_word_embeddings=False, use_bias=True)),
    "exaone4": ("Exaone4", dict(num_hidden_layers=4, hidden_size=40, head_dim=10, sliding_window=17, sliding_window_pattern=4)),
    "exaone4_small": ("Exaone4", dict(hidden_size=40, head_dim=10, sliding_window=None, layer_types=["full_attention"] * 2, tie_word_embeddings=True)),
    "mixtral": ("Mixtral", dict(num_local_experts=5, num_experts_per_tok=2)),
    "qwen2_moe": ("Qwen2Moe", dict(num_hidden_layers=3, hidden_size=56, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=20,
                                   shared_expert_intermediate_size=27, mlp_only_layers=[1])),
    "qwen3_moe": ("Qwen3Moe", dict(num_experts=7, num_experts_per_tok=3, moe_intermediate_size=20, decoder_sparse_step=2,
                                   norm_topk_prob=True)),
    # one latent in place of keys and values of all heads
    "deepseek_v2": ("DeepseekV2", LATENT | dict(q_lora_rank=22, num_hidden_layers=3, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2,
                                                first_k_dense_replace=1, topk_method="group_limited_greedy", n_group=4, topk_group=2,
                                                routed_scaling_factor=4.0, rope_parameters=DEEPSEEK_YARN | dict(
                                                    mscale=0.707, mscale_all_dim=0.707))),
    "deepseek_v2_lite": ("DeepseekV2", EVEN | dict(q_lora_rank=None, n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=1,
                                                     first_k_dense_replace=1, topk_method="greedy")),
    "deepseek_v2_bias": ("DeepseekV2", EVEN | dict(q_lora_rank=None, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1,
                                                     first_k_dense_replace=1, topk_method="greedy", mlp_bias=True)),
    "deepseek_v3": ("DeepseekV3", EVEN | dict(num_hidden_layers=3, n_routed_experts=12, num_experts_per_tok=4, n_group=4,
                                                topk_group=2, first_k_dense_replace=1, routed_scaling_factor=2.5, attention_bias=True,
                                                rope_parameters=DEEPSEEK_YARN | dict(mscale=0.8, mscale_all_dim=1.3))),
    "moonlight": ("DeepseekV3", EVEN | dict(q_lora_rank=None, n_routed_experts=6, num_experts_per_tok=3, n_shared_experts=2, n_group=1,
                                              topk_group=1, first_k_dense_replace=1, rope_interleave=False, rope_parameters=theta(50000.0))),
    "mistral4": ("Mistral3", LATENT | dict(hidden_size=32, q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=16, v_head_dim=8, head_dim=24, n_routed_experts=5, num_experts_per_tok=2,
                                           n_shared_experts=1, moe_intermediate_size=16, routed_scaling_factor=1.3, rope_parameters=MINISTRAL | dict(
                                               factor=16.0, original_max_position_embeddings=30, llama_4_scaling_beta=0.6, partial_rotary_factor=1 / 3))),
    "kimi_k25": ("Kimi_K25", LATENT | dict(q_lora_rank=24, kv_lora_rank=24, qk_nope_head_dim=16, v_head_dim=16, n_routed_experts=5, num_experts_per_tok=2,
                                           moe_intermediate_size=16, n_group=1, topk_group=1, first_k_dense_replace=1, rope_parameters=theta(50000.0))),
    "glm4_moe_lite": ("Glm4MoeLite", LATENT | dict(q_lora_rank=22, num_hidden_layers=3, n_routed_experts=5, num_experts_per_tok=2,
                                                   mlp_layer_types=["dense", "sparse", "dense"], rope_parameters=theta(1e6))),
    "qwen3_next": ("Qwen3Next", DELTA | dict(num_hidden_layers=4, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=20,
                                             shared_expert_intermediate_size=27, mlp_only_layers=[1], rope_parameters=theta(
                                                 1e7, partial_rotary_factor=0.25))),
    "qwen3_5": ("Qwen3_5", DELTA | dict(num_hidden_layers=3, layer_types=["linear_attention", "full_attention", "linear_attention"],
                                        linear_conv_kernel_dim=3, rope_parameters=theta(1e7, partial_rotary_factor=0.25, mrope_section=[1, 1, 0],
                                                                                        mrope_interleaved=True))),
    "qwen3_5_full": ("Qwen3_5", dict(num_hidden_layers=1, head_dim=16, layer_types=["full_attention"], rope_parameters=theta(
        1e7, partial_rotary_factor=0.5, mrope_section=[2, 1, 1], mrope_interleaved=True))),
    "qwen3_5_vision": ("Qwen3_5", DELTA_EVEN | dict(layer_types=["linear_attention", "full_attention"], tie_word_embeddings=True, rope_parameters=theta(
        1e7, partial_rotary_factor=0.25, mrope_section=[2, 1, 1], mrope_interleaved=True))),
    "qwen3_5_moe": ("Qwen3_5Moe", DELTA_EVEN | dict(layer_types=["full_attention", "linear_attention"], linear_num_value_heads=2, num_experts=5, num_experts_per_tok=2,
                                                    moe_intermediate_size=32, shared_expert_intermediate_size=32, rope_parameters=theta(
                                                        1e7, partial_rotary_factor=0.25, mrope_section=[2, 1, 1], mrope_interleaved=True))),
    "lfm2": ("Lfm2", LFM2 | dict(tie_word_embeddings=False, conv_bias=True)),
    "lfm2_tied": ("Lfm2", LFM2 | dict(conv_L_cache=4, block_auto_adjust_ff_dim=False)),
    "lfm2_moe": ("Lfm2Moe", dict(hidden_size=56, num_hidden_layers=4, layer_types=["conv", "full_attention", "conv", "conv"], num_dense_layers=1,
                                 num_experts=5, num_experts_per_tok=2, moe_intermediate_size=20, routed_scaling_factor=1.4)),
    "gpt_oss": ("GptOss", dict(num_local_experts=5, num_experts_per_tok=2, sliding_window=19, swiglu_limit=1.5, rope_parameters=GPT_OSS)),
    "gpt_oss_mxfp4": ("GptOss", dict(hidden_size=64, head_dim=16, intermediate_size=96, num_local_experts=4, num_experts_per_tok=2,
                                     sliding_window=128, rope_parameters=GPT_OSS)),
}
LATENT_NAMES = ("deepseek_v2", "deepseek_v2_lite", "deepseek_v2_bias", "deepseek_v3", "moonlight", "glm4_moe_lite")
NOT_OLD = ("head_dim", "num_key_value_heads", "intermediate_size")  # which classes from before Llama have not
OLD = {"GPT2": NOT_OLD, "OPT": NOT_OLD, "Falcon": NOT_OLD, "GPTNeoX": NOT_OLD[:2], "GPTBigCode": NOT_OLD, "GPTJ": NOT_OLD}
CONFIG = {"Gemma3": "Gemma3TextConfig", "Gemma4": "Gemma4TextConfig", "Qwen3_5": "Qwen3_5TextConfig", "Qwen3_5Moe": "Qwen3_5MoeTextConfig"}
# by the name of the golden folder: the text model's configuration, and as little of another one for pictures as there can be
SIGHT = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_heads=1, depth=1, patch_size=2)
NESTED = {
    "gemma3_vision": ("Gemma3TextConfig", SIGHT | dict(model_type="siglip_vision_model", image_size=4)),
    "glm4v": ("Glm4vTextConfig", SIGHT | dict(out_hidden_size=32)),
    "glm4v_moe": ("Glm4vMoeTextConfig", SIGHT | dict(out_hidden_size=24)),
    "mistral4": ("Mistral4Config", SIGHT | dict(model_type="pixtral", head_dim=8, image_size=4)),
    "kimi_k25": ("DeepseekV3Config", SIGHT | dict(num_position_embeddings=4)),
    "gemma4_dense": ("Gemma4UnifiedTextConfig", None),
    "gemma4_moe": ("Gemma4TextConfig", None),
    "mistral3": ("MistralConfig", SIGHT | dict(model_type="pixtral", head_dim=8, image_size=4)),
    "qwen2_5_vl": ("Qwen2_5_VLTextConfig", SIGHT | dict(out_hidden_size=56)),
    "ministral3": ("Ministral3Config", SIGHT | dict(model_type="pixtral", head_dim=8, image_size=4)),
    "ministral3_long": ("Ministral3Config", SIGHT | dict(model_type="pixtral", head_dim=8, image_size=4)),
    "qwen3_vl_moe": ("Qwen3VLMoeTextConfig", SIGHT | dict(out_hidden_size=36, num_position_embeddings=4, deepstack_visual_indexes=[0])),
    "qwen3_5_vision": ("Qwen3_5TextConfig", SIGHT | dict(out_hidden_size=64, num_position_embeddings=4)),
    "qwen3_5_moe": ("Qwen3_5MoeTextConfig", SIGHT | dict(out_hidden_size=64, num_position_embeddings=4)),
    "llama4": ("Llama4TextConfig", SIGHT | dict(vision_output_dim=8, projector_input_dim=8, projector_output_dim=8, image_size=4)),
    "llama4_long": ("Llama4TextConfig", SIGHT | dict(vision_output_dim=8, projector_input_dim=8, projector_output_dim=8, image_size=4)),
    "qwen3_vl": ("Qwen3VLTextConfig", SIGHT | dict(out_hidden_size=36, num_position_embeddings=4, deepstack_visual_indexes=[0])),
}


def draw_weights(model, generator, plus_one):
    """Activations near 1 after norms, attention that looks at few positions."""
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if name.endswith("bias"):
            value = (0.03 if "moe_statics" in name else 0.3) * noise
        elif name.endswith("A_log"):  # what is kept lasts for some ten tokens
            value = noise - 2
        elif "linear_attn.norm" in name:
            value = 1 + 0.2 * noise
        elif "conv" in name and weight.dim() == 3:
            value = 0.8 * noise
        elif "act_fn" in name:
            value = noise
        elif name.endswith("_bias") or "sinks" in name:
            value = noise * (1 if "sinks" in name else 0.3)
        elif "experts." in name and weight.dim() == 3:
            fan_in = weight.shape[1 if model.config.model_type == "gpt_oss" else 2]
            value = noise * 1.2 / fan_in ** 0.5
        elif "norm" in name or weight.dim() < 2:
            value = (0 if plus_one else 1) + 0.2 * noise
        elif any(k in name for k in ("lm_head", "embed_tokens", "wte", "embed_in", "embed_out", "word_embeddings")):
            tied = model.config.tie_word_embeddings
            value = noise if "embed" in name and "embed_out" not in name and not tied else noise * 2.5 / weight.shape[1] ** 0.5
        elif "wpe" in name or "embed_positions" in name:
            value = 0.6 * noise
        else:
            gain = 1.6 if name.split(".")[-2] in ("q_proj", "k_proj", "qkv_proj", "query_key_value", "c_attn") else 1.2
            value = noise * gain / weight.shape[0 if model.config.model_type == "gpt2" else 1] ** 0.5
        weight.data = value.float()


FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def round_to_mxfp4(model, generator):
    """Random blocks in place of the experts' floats, which become their values; the tensors as OpenAI ships them."""
    shipped = {}
    for name, weight in model.named_parameters():
        if "experts." not in name or weight.dim() != 3:
            continue
        n, columns, rows = weight.shape  # in memory; rows are those of a projection
        blocks = torch.randint(0, 256, (n, rows, columns // 32, 16), generator=generator, dtype=torch.uint8)
        scales = torch.randint(122, 125, (n, rows, columns // 32), generator=generator, dtype=torch.uint8)
        codes = torch.stack((blocks & 15, blocks >> 4), -1).reshape(n, rows, columns // 32, 32)
        values = FP4[codes.long()] * torch.exp2(scales.float() - 127).unsqueeze(-1)
        weight.data = values.reshape(n, rows, columns).transpose(1, 2).contiguous()
        shipped |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    return shipped


def file_tensors(model):
    """As checkpoints have them: experts one by one, where that is how they come."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors = load_file(f"{folder}/model.safetensors")
    if model.config.model_type == "kimi_k25":  # as published, which transformers 5.23 does not write; the part for pictures would be larger than all
        return {k.replace("model.blocks.", "model.layers."): v for k, v in tensors.items() if k.startswith("language_model.")}
    if model.config.model_type.startswith("glm4v"):
        return {k: v for k, v in tensors.items() if "language_model" in k or "lm_head" in k}
    if model.config.model_type == "qwen3_vl_moe":  # published ones are turned, which transformers 5 does not do
        return {k: v.transpose(1, 2) if "layers.0.mlp.experts" in k else v for k, v in tensors.items()}
    if model.config.model_type == "qwen3_5_moe":  # published ones have gate and up of all experts in one, rounded ones do not
        layer = "model.language_model.layers.0.mlp.experts"
        own = {k: tensors.pop(k) for k in list(tensors) if k.startswith(layer + ".")}
        parts = {part: torch.stack([own[f"{layer}.{e}.{part}.weight"] for e in range(len(own) // 3)]) for part in ("gate_proj", "up_proj", "down_proj")}
        tensors |= {layer + ".gate_up_proj": torch.cat((parts["gate_proj"], parts["up_proj"]), 1), layer + ".down_proj": parts["down_proj"]}
    return tensors


def make_config(name):
    family, changes = MODELS[name]
    config_class = getattr(transformers, CONFIG.get(family, family + "Config"))
    if name not in NESTED:
        sizes = {k: v for k, v in SIZES.items() if k not in OLD.get(family, ())}
        return config_class(**(sizes | changes), attn_implementation="eager"), family + ("LMHeadModel" if family == "GPT2" else "ForCausalLM")
    text_class, sight = NESTED[name]
    text = getattr(transformers, text_class)(**(SIZES | changes))
    outer = {k: changes[k] for k in ("tie_word_embeddings",) if k in changes}
    config = getattr(transformers, family + "Config")(text_config=text.to_dict(), vision_config=sight, attn_implementation="eager",
                                                      **({"tie_word_embeddings": False} | outer))
    return config, family + "ForConditionalGeneration"


# of models in which the first ones leave two experts so close that the rounding of a GPU's rows chooses between them
SEEDS = {"llama4": 3, "nemotron_h_latent": 1}
DROP = ("id2label", "label2id", "problem_type", "return_dict", "output_", "chunk_size", "transformers_version", "base_model")


def written_config(name, config, architecture):
    """As published: what transformers takes for granted is left out of nested ones, and Qwen2.5-VL's are flat."""
    written = json.loads(config.to_json_string(use_diff=False))
    written = {k: v for k, v in written.items() if not k.startswith(DROP)}
    written["architectures"] = [architecture]
    if name == "kimi_k25":  # as published
        written["architectures"], written["text_config"]["model_type"] = ["KimiK25ForConditionalGeneration"], "kimi_k2"
    if name in NESTED:
        text = {k: v for k, v in written.pop("text_config").items() if not k.startswith(DROP) and (v is not None or k == "sliding_window")}
        for key in ("num_attention_heads", "num_key_value_heads", "query_pre_attn_scalar", "eos_token_id") if name == "gemma3_vision" else ():
            text.pop(key)
        if name.startswith("gemma4"):
            sizes = next(iter(text.pop("per_layer_config").values()))
            text |= {"global_head_dim": sizes["head_dim"], "num_global_key_value_heads": sizes["num_key_value_heads"], "use_bidirectional_attention": "vision"}
        if name != "qwen2_5_vl":
            return written | {"text_config": text, "eos_token_id": SIZES["eos_token_id"]}
        rope = text.pop("rope_parameters")
        return text | written | {"rope_theta": rope["rope_theta"], "rope_scaling": dict(type="mrope", mrope_section=rope["mrope_section"])}
    known = type(config)().to_dict()
    written = {k: v for k, v in written.items() if k in SIZES or k == "architectures" or k in known and (v is not None or k == "q_lora_rank")}
    if "head_dim" not in known and MODELS[name][0] != "Qwen3Moe":  # whose published configurations have it
        written.pop("head_dim", None)
    if name in LATENT_NAMES:  # published configurations have sizes of their own for heads
        written.pop("head_dim", None)
    if name == "gemma":  # as Google's first files have it, and transformers does not take it
        written["hidden_act"] = "gelu"
    if name == "dots1":  # its layers without a window are those before max_window_layers
        written.pop("layer_types")
        written["sliding_window"] = None
    if name == "minimax_m2":
        written |= {"rope_theta": written.pop("rope_parameters")["rope_theta"], "rotary_dim": 8}
    if name == "qwen3_next":  # as its first files say it
        written.pop("layer_types")
        written["full_attention_interval"] = 4
    if name == "granitemoehybrid":  # as published before transformers 5
        written["layer_types"] = [{"linear_attention": "mamba"}.get(t, "attention") for t in written["layer_types"]]
        written |= {"position_embedding_type": "nope", "time_step_limit": [0.0, float("inf")], "mamba_d_head": "auto"}
    if name.startswith("nemotron_h"):  # likewise
        for key in ("layer_types", "layers_block_type"):
            written.pop(key, None)
        kinds = {"linear_attention": "M", "mlp": "-", "full_attention": "*", "moe": "E"}
        written["hybrid_override_pattern"] = "".join(kinds[t] for t in MODELS[name][1]["layers_block_type"])
        written["num_hidden_layers"] = len(written["hybrid_override_pattern"])
        written |= {"time_step_limit": [0.0, float("inf")], "chunk_size": config.chunk_size}
    if name == "hunyuan_moe":  # a list for all layers, and rope as before 2026
        written |= {"moe_topk": [2, 2], "num_shared_expert": [1, 1], "moe_intermediate_size": [52, 52], "rope_theta": 10000.0,
                    "rope_scaling": dict(type="dynamic", alpha=50.0, factor=1.0, beta_fast=32, beta_slow=1, mscale=1.0, mscale_all_dim=1.0)}
        written.pop("rope_parameters")
    if name == "exaone4":
        written["sliding_window_pattern"] = "LLLG"
    if name == "gpt_neox":  # as published
        rope = written.pop("rope_parameters")
        written |= {"rotary_pct": rope["partial_rotary_factor"], "rotary_emb_base": 10000}
    if name == "exaone4_small":
        written["sliding_window"] = None
    return written


def make_model(name):
    family = MODELS[name][0]
    folder = f"{HERE}/arch/{name}"
    generator = torch.Generator().manual_seed(sum(name.encode()) + SEEDS.get(name, 0))
    config, architecture = make_config(name)
    model = getattr(transformers, architecture)(config).float().eval()
    plus_one = family.startswith(("Gemma", "Qwen3Next", "Qwen3_5")) and not family.startswith("Gemma4") or family == "Nemotron"
    draw_weights(model, generator, plus_one)
    for name_of, buffer in model.named_buffers():
        if name_of.endswith(("e_score_correction_bias", "expert_bias")):
            buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))
        if name_of.endswith("layer_scalar"):
            buffer.copy_(1 - 0.5 * torch.rand(buffer.shape, generator=generator))
    if config.tie_word_embeddings:
        model.tie_weights()
    shipped = round_to_mxfp4(model, generator) if name.endswith("_mxfp4") else {}
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    written = written_config(name, config, architecture)
    with open(f"{folder}/config.json", "w") as out:
        json.dump(written, out, indent=1, sort_keys=True)
        out.write("\n")
    tensors = file_tensors(model) if "experts_per_tok" in str(written) or {"moe_k", "moe_topk"} & written.keys() or name in NESTED else model.state_dict()
    if family == "GPTNeoX":  # as published
        tensors["embed_out.weight"] = tensors.pop("lm_head.weight")
    tensors = {k: v.contiguous() for k, v in tensors.items() if not (k == "lm_head.weight" and config.tie_word_embeddings)}
    if name.startswith("qwen3_5"):  # a layer that guesses, which is left out
        tensors["mtp.fc.weight"] = torch.zeros(2, 2)
    save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
    again = getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    ids = torch.arange(100).unsqueeze(0)
    assert torch.equal(again(ids).logits, model(ids).logits), folder
    if shipped:  # transformers needs a GPU to read these: it has read the floats above
        tensors = {k: v for k, v in tensors.items() if f"{k}_blocks" not in shipped} | shipped
        save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
    cases = []
    for length in PROMPT_LENGTHS:
        case, attempts = make_case(model, dict(dtype="F32", config=SIZES), length, generator)
        cases.append(case)
        print(f"{name}: prompt of {length}: {attempts} passed over, {len(set(case['tokens']))} distinct", flush=True)
    with open(f"{folder}/golden.json", "w") as out:
        out.write('{"made_by": "tests/golden/make_arch.py", "arithmetic": "float32",\n')
        out.write(f' "dtype": "F32", "margin": {MARGIN["F32"]}, "cases": [\n')
        out.write(",\n".join(json.dumps(case) for case in cases) + "\n]}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    failed = []
    with torch.no_grad():
        for name in sys.argv[1:] or MODELS:
            try:
                make_model(name)
            except Exception as error:  # the others are made all the same
                failed.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
    sys.exit("\n".join(failed))
