/* SPDX-License-Identifier: MIT */
/* Golden models of what the table of architectures knows and CUDA runs. */
#ifndef CUDA_ARCHITECTURES_H
#define CUDA_ARCHITECTURES_H

static const char *const architecture_names[] = {
    "arch/gemma2", "arch/gemma3", "arch/glm4", "arch/granite", "arch/mistral", "arch/mistral_yarn", "arch/olmo2", "arch/phi3",
    "arch/phi4_longrope", "arch/qwen2", "arch/qwen2_window", "arch/qwen3", "arch/smollm3", "arch/stablelm", "arch/mixtral", "arch/qwen2_moe",
    "arch/qwen3_moe", "arch/gpt_oss", "arch/gemma3_vision", "arch/mistral3", "arch/qwen2_5_vl", "arch/qwen3_vl", "arch/glm4_moe", "arch/olmo3",
    "arch/qwen3_vl_moe", "arch/ministral3", "arch/ministral3_long", "arch/exaone4", "arch/exaone4_small", "arch/ernie4_5", "arch/seed_oss",
    "arch/olmoe", "arch/minimax_m2", "arch/dots1", "arch/ernie4_5_moe", "arch/granitemoe", "arch/granitemoeshared", "arch/cohere", "arch/cohere2",
    "arch/deepseek_v2_lite", "arch/deepseek_v3", "arch/moonlight", "arch/arcee", "arch/nemotron", "arch/starcoder2", "arch/phi", "arch/llama4",
    "arch/llama4_long", "arch/hunyuan", "arch/hunyuan_moe", "arch/phimoe", "arch/cohere_norms", "arch/qwen3_next", "arch/qwen3_5",
    "arch/qwen3_5_moe", "arch/qwen3_5_vision", "arch/lfm2", "arch/lfm2_moe", "arch/lfm2_tied", "arch/gemma", "arch/granitemoehybrid", "arch/granitemoehybrid_dense",
    "arch/nemotron_h_dense", "arch/nemotron_h", "arch/solar_open", "arch/exaone_moe", "arch/hy_v3", "arch/kimi_k25", "arch/mistral4", "arch/nemotron_h_latent",
    "arch/gpt2", "arch/gpt_neox", "arch/gpt_neox_sequential", "arch/opt", "arch/falcon", "arch/falcon_new", "arch/apertus", "arch/gpt_bigcode", "arch/gptj", "arch/glm", "arch/glm4v", "arch/glm4v_moe"};

#endif
