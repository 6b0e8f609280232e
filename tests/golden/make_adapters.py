# SPDX-License-Identifier: MIT
"""Makes adapters/<model>/<name>/: two random LoRA adapters of some of the golden models, and what peft says of each.

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements.txt peft==0.21.2
    venv/bin/python tests/golden/make_adapters.py [MODEL...]

As make_llama.py, from which prompts and numbers come: float32 on the weights as they are stored, greedy tokens that are
well separated. `one` has all products, `two` some, of some layers, with ranks and factors of their own.
"""

import json
import os
import shutil
import sys

import peft.tuners.tuners_utils
import peft.utils.transformers_weight_conversion
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import make_llama
from make_llama import DTYPES, HERE, MARGIN, PROMPT_LENGTHS, make_case

make_llama.MIN_DISTINCT = 8
# As with transformers 4: the MLP that all rows have is a module as any other, and not taken for routed experts.
peft.utils.transformers_weight_conversion._convert_peft_config_moe = lambda config, model: None
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DELTA = ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"]
NEXT = ["q_proj", "k_proj", "v_proj", "o_proj", "in_proj_qkvz", "in_proj_ba", "out_proj"] + [
    f"{block}.{name}" for block in ("mlp", "shared_expert") for name in ("gate_proj", "up_proj", "down_proj")]
# PEFT wants no adapter of this out_proj, as CUDA kernels for training pass it by; others write some, and the rest of the class computes them.
peft.tuners.tuners_utils._check_lora_target_modules_mamba = lambda config, model, name: None
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
# where the model is, what its own weights are kept in, the format of each adapter, products
MODELS = {
    "f32_odd": ("llama/f32_odd", "F32", ("F32", "F16"), ALL, ["v_proj", "down_proj", "gate_proj"]),
    "bf16_tied": ("llama/bf16_tied", "BF16", ("BF16", "F32"), ALL, ["q_proj", "o_proj", "up_proj"]),
    "f16_sharded": ("llama/f16_sharded", "F16", ("F16", "BF16"), ALL, ["k_proj", "up_proj", "down_proj"]),
    "phi3": ("arch/phi3", "F32", ("F32", "BF16"), ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], ["qkv_proj", "down_proj"]),
    "granite": ("arch/granite", "F32", ("F32", "F32"), ALL, ["k_proj", "o_proj"]),
    "gemma2": ("arch/gemma2", "F32", ("F32", "F32"), ALL, ["q_proj", "v_proj", "down_proj"]),
    "gemma4": ("arch/gemma4", "F32", ("F32", "BF16"), ALL + ["per_layer_input_gate", "per_layer_projection"], ["k_proj", "per_layer_projection"]),
    "gemma4_moe": ("arch/gemma4_moe", "F32", ("F32", "F32"), ALL, ["k_proj", "down_proj"]),
    "qwen3_5": ("arch/qwen3_5", "F32", ("F32", "BF16"), ALL + DELTA, ["in_proj_qkv", "in_proj_b", "out_proj"]),
    "qwen3_next": ("arch/qwen3_next", "F32", ("F32", "F16"), NEXT, ["in_proj_qkvz", "shared_expert.up_proj", "in_proj_ba"]),
    "lfm2": ("arch/lfm2", "F32", ("F32", "F32"), ["q_proj", "k_proj", "v_proj", "in_proj", "out_proj", "w1", "w2", "w3"], ["in_proj", "w2", "w3"]),
    "starcoder2": ("arch/starcoder2", "F32", ("F32", "BF16"), ["q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"], ["q_proj", "c_fc"]),
    "granitemoehybrid": ("arch/granitemoehybrid", "F32", ("F32", "BF16"),
                         ATTENTION + ["in_proj", "out_proj", "shared_mlp.input_linear", "shared_mlp.output_linear"], ["in_proj", "shared_mlp.output_linear"]),
    "granitemoehybrid_dense": ("arch/granitemoehybrid_dense", "F32", ("F32", "F16"),
                               ATTENTION + ["in_proj", "out_proj", "input_linear", "output_linear"], ["q_proj", "input_linear"]),
    "nemotron_h": ("arch/nemotron_h", "F32", ("F32", "F16"), ATTENTION + ["in_proj", "out_proj", "up_proj", "down_proj"], ["in_proj", "out_proj"]),
    "nemotron_h_dense": ("arch/nemotron_h_dense", "F32", ("F32", "BF16"), ATTENTION + ["in_proj", "out_proj", "up_proj", "down_proj"], ["up_proj", "down_proj"]),
}
TWO = {"qwen3_5": (2, "linear_attn"), "qwen3_next": (2, "linear_attn"), "lfm2": (3, "conv"), "granitemoehybrid": (2, "mamba"),
       "nemotron_h": (3, "mixer"), "nemotron_h_dense": (1, "mixer")}  # the one layer of `two`, and where its first product is


def configs(name, one, two):
    layer, block = TWO.get(name, (1, "self_attn"))
    yield "one", LoraConfig(r=4, lora_alpha=8, target_modules=one, task_type="CAUSAL_LM")
    yield "two", LoraConfig(r=5, lora_alpha=3, use_rslora=True, target_modules=two, layers_to_transform=[layer], rank_pattern={two[0]: 9},
                            alpha_pattern={f"model.layers.{layer}.{block}.{two[0]}": 5, two[-1]: 6}, task_type="CAUSAL_LM")


def draw(model, generator, dtype):
    """An adapter changes a product by about half of what it is."""
    for name, weight in model.named_parameters():
        if "lora_" not in name:
            continue
        noise = torch.randn(weight.shape, generator=generator)
        value = noise / weight.shape[1] ** 0.5 * (0.35 if "lora_B" in name else 1)
        weight.data = value.to(DTYPES[dtype]).float()


def write(model, folder, dtype):
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    os.remove(f"{folder}/README.md")
    path = f"{folder}/adapter_config.json"
    config = json.load(open(path))
    config["base_model_name_or_path"] = None
    config["target_modules"] = sorted(config["target_modules"])
    with open(path, "w") as out:
        json.dump(config, out, indent=1, sort_keys=True)
        out.write("\n")
    path = f"{folder}/adapter_model.safetensors"
    tensors = {name: t.to(DTYPES[dtype]).contiguous() for name, t in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def base_of(folder):
    maker = transformers.AutoModelForImageTextToText if "gemma4_moe" in folder else transformers.AutoModelForCausalLM
    return maker.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def make(name, place, own, dtypes, one, two):
    generator = torch.Generator().manual_seed(sum(name.encode()))
    for (which, config), dtype in zip(configs(name, one, two), dtypes):
        folder = f"{HERE}/adapters/{name}/{which}"
        model = get_peft_model(base_of(f"{HERE}/{place}"), config).eval()
        draw(model, generator, dtype)
        write(model, folder, dtype)
        model = PeftModel.from_pretrained(base_of(f"{HERE}/{place}"), folder).eval()
        base = json.load(open(f"{HERE}/{place}/config.json"))
        vocabulary = base.get("text_config", base)["vocab_size"]
        spec = dict(dtype=own, config=dict(vocab_size=vocabulary))
        cases = [make_case(model, spec, length, generator)[0] for length in PROMPT_LENGTHS]
        with open(f"{folder}/golden.json", "w") as out:
            out.write('{"made_by": "tests/golden/make_adapters.py", "arithmetic": "float32 on the stored weights",\n')
            out.write(f' "margin": {MARGIN[own]}, "cases": [\n')
            out.write(",\n".join(json.dumps(case) for case in cases) + "\n]}\n")
        print(name, which, [len(set(case["tokens"])) for case in cases], flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with torch.no_grad():
        for name in sys.argv[1:] or MODELS:
            make(name, *MODELS[name])
