# SPDX-License-Identifier: MIT
"""LoRA adapters of models whose layers keep a state: what is added to each product is what merged weights say; whose states are whose; in groups
and processes."""
import array
import json
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from adapter_files import write_adapter
from daemon import NAME, Daemon
from model_files import floats as widened
from model_files import read_tensors, write_folder
from test_states_served import write_hybrid

STORY = "Once upon a time there was a boy called Ben who lived in a little house near the sea. "
LISTS = {"qwen3_5_text": ["q_proj", "k_proj", "v_proj", "o_proj", "in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj", "gate_proj", "up_proj", "down_proj"],
         "lfm2": ["q_proj", "k_proj", "v_proj", "out_proj", "in_proj", "w1", "w2", "w3"],
         "granitemoehybrid": ["q_proj", "k_proj", "v_proj", "o_proj", "in_proj", "out_proj", "input_linear", "output_linear"]}
IDS = (NAME, "all", "states")
RANK, SCALE = 2, 1.5


def products(model, names):
    """{module: (shape, format, bytes)}"""
    _, tensors = read_tensors(model)
    return {name.removesuffix(".weight"): value for name, value in tensors.items() if name.endswith(".weight") and name.split(".")[-2] in names}


def draw_tensors(model, names, seed):
    draw, tensors = random.Random(seed), {}
    for module, ((rows, columns), _, _) in products(model, names).items():
        for which, shape, gain in (("A", (RANK, columns), columns ** -0.5), ("B", (rows, RANK), 0.4)):
            tensors[f"base_model.model.{module}.lora_{which}.weight"] = (shape, [draw.gauss(0, gain) for _ in range(shape[0] * shape[1])])
    return tensors


def merged(model, tensors, folder):
    """The model with W + SCALE B A in place of W, in floats."""
    config, all_tensors = read_tensors(model)
    entries = []
    for name, (shape, dtype, data) in all_tensors.items():
        adapted = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{adapted}.lora_A.weight" not in tensors:
            entries.append((name, dtype, shape, data))
            continue
        a, b = (tensors[f"{adapted}.lora_{which}.weight"][1] for which in "AB")
        values, columns = widened(data) if dtype == "BF16" else array.array("f", data), shape[1]
        for row in range(shape[0]):
            for r in range(RANK):
                factor, of_a = SCALE * b[row * RANK + r], a[r * columns:(r + 1) * columns]
                at = row * columns
                values[at:at + columns] = array.array("f", [v + factor * x for v, x in zip(values[at:at + columns], of_a)])
        entries.append((name, "F32", shape, values.tobytes()))
    return write_folder(folder, config, entries)


@pytest.fixture(scope="module", params=LISTS)
def made(request, tmp_path_factory):
    """The model, {adapter: merged model}, what adapters are said to be."""
    root, whole, names = tmp_path_factory.mktemp("states"), {}, LISTS[request.param]
    model = write_hybrid(root / "model", request.param)
    lists = {"all": names, "states": [n for n in names if n.startswith("in_proj") or n == "out_proj"]}
    for i, (name, targets) in enumerate(lists.items()):
        tensors = draw_tensors(model, targets, i)
        write_adapter(root / name, tensors=tensors, r=RANK, lora_alpha=SCALE * RANK, target_modules=targets)
        whole[name] = merged(model, tensors, root / f"{name}-merged")
    return model, whole, {"model.adapters": ",".join(f"{name}={root / name}" for name in whole)}


@pytest.fixture(scope="module")
def served(made, tmp_path_factory):
    d = Daemon(tmp_path_factory.mktemp("served") / "log", {"cpu.threads": 2, **made[2]}, model=made[0])
    yield d
    d.wait_rest()
    d.stop()


def ask(d, model, prompt, **fields):
    return d.complete(prompt, model=model, **{"max_tokens": 24, "logprobs": 2, **fields})


def near(got, want, tolerance):
    got, want = got["choices"][0], want["choices"][0]
    assert got["text"] == want["text"]
    assert max(abs(a - b) for a, b in zip(got["logprobs"]["token_logprobs"], want["logprobs"]["token_logprobs"])) < tolerance


def test_as_merged(made, served, start):
    said = {ask(served, NAME, STORY)["choices"][0]["text"]}
    for name, folder in made[1].items():
        d = start({"cpu.threads": 2}, model=folder)
        for prompt in (STORY, STORY * 4, "The dog"):
            near(ask(served, name, prompt), ask(d, NAME, prompt), 0.02)
        said.add(ask(d, NAME, STORY)["choices"][0]["text"])
    assert len(said) == 3


def test_states_are_an_adapters_own(made, served, start):
    """The same prompt of each in turn, longer each time: what is cached is taken by its own adapter alone, and says to the bit what is
    said without a cache."""
    bare = start({"cpu.threads": 2, "engine.prefix_cache": "false", **made[2]}, model=made[0])
    text, cached = "A prefix of its own. " + STORY * 3, lambda answer: answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    for turn in range(3):
        for model in IDS:
            got, want = ask(served, model, text), ask(bare, model, text)
            assert got["choices"] == want["choices"]
            assert (cached(got) > 0) == (turn > 0)
        text += f"And then, turn {turn}: " + STORY


def test_together_as_alone(served):
    jobs = [(model, prompt) for prompt in (STORY, "Clara", STORY * 5) for model in IDS]
    alone = [ask(served, *job)["choices"] for job in jobs]
    with ThreadPoolExecutor(len(jobs)) as pool:
        assert list(pool.map(lambda job: ask(served, *job)["choices"], jobs)) == alone


@pytest.mark.parametrize("options", [{"devices": "cpu:0,cpu:1", "engine.tensor_parallel": 2}, {"isolation": "process"}])
def test_elsewhere(made, served, start, options):
    d = start({"cpu.threads": 2, **options, **made[2]}, model=made[0])
    for model in IDS:
        near(ask(d, model, STORY), ask(served, model, STORY), 0.02)
