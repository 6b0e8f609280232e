# SPDX-License-Identifier: MIT
"""Makes adapters/encoder_<model>/: a random LoRA adapter of some of the models of encoders/, and what peft makes of their texts with it.

    venv/bin/python tests/golden/make_encoder_adapters.py [MODEL...]

As make_adapters.py, which says what else is wanted.
"""

import json
import sys

import torch
import transformers
from peft import LoraConfig, get_peft_model

import make_adapters
import make_encoders
from make_llama import HERE

BERT = ["query", "key", "value", "output.dense", "intermediate.dense"]  # "attention.output.dense" ends so, too
MODELS = {"bert": BERT, "xlm_roberta": BERT, "modernbert": ["Wqkv", "Wo", "Wi"], "qwen3": make_adapters.ALL}


def make(name, targets):
    family, _, pooling, more = make_encoders.MODELS[name]
    folder, place = f"{HERE}/adapters/encoder_{name}", f"{HERE}/encoders/{name}"
    generator = torch.Generator().manual_seed(sum(name.encode()))
    base = transformers.AutoModel.from_pretrained(place, dtype=torch.float32, attn_implementation="eager").eval()
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="FEATURE_EXTRACTION")).eval()
    make_adapters.draw(model, generator, "F32")
    make_adapters.write(model, folder, "F32")
    dense = []
    for at, (_, is_tanh) in enumerate(more.get("dense", ()), 2):
        tensors = make_encoders.load_file(f"{place}/{at}_Dense/model.safetensors")
        dense.append((tensors["linear.weight"], tensors["linear.bias"], is_tanh))
    cases = []
    for case in json.load(open(f"{place}/golden.json"))["cases"]:
        ids, types = torch.tensor(case["tokens"]), torch.tensor(case["types"])
        cases.append(case | dict(vector=make_encoders.answer(base, family, pooling, more, dense, ids, types).tolist()))
    with open(f"{folder}/golden.json", "w") as out:
        out.write('{"made_by": "tests/golden/make_encoder_adapters.py", "cases": [\n')
        out.write(",\n".join(json.dumps(case) for case in cases) + "\n]}\n")
    print(name, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        for name in sys.argv[1:] or MODELS:
            make(name, MODELS[name])
