# SPDX-License-Identifier: MIT
"""LoRA adapters: who answers, that requests of several run together as alone, whose cached prefixes are whose, what is refused."""
import concurrent.futures
import json
import signal

import pytest

from adapter_files import CONFIG, random_tensors, write_adapter
from daemon import MODEL, NAME, Daemon, events, run
from test_isolation import SMALL, goes_on

STORY = "Once upon a time there was a boy called Ben who lived in a little house near the sea. "
PROMPTS = [STORY, STORY * 3, "The dog said", "One day Lily and Tom went to the park. " * 2]
IDS = (NAME, "red", "blue")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{name: folder} of two adapters."""
    root = tmp_path_factory.mktemp("adapters")
    return {"red": write_adapter(root / "red", 1), "blue": write_adapter(root / "blue", 2, dtype="F16")}


def option(folders):
    return ",".join(f"{name}={folder}" for name, folder in folders.items())


@pytest.fixture(scope="module")
def served(folders, tmp_path_factory):
    d = Daemon(tmp_path_factory.mktemp("served") / "log", {"model.adapters": option(folders), "model.aliases": "other-name", "cpu.threads": 2})
    yield d
    d.wait_rest()
    d.stop()


def ask(d, model, prompt, **fields):
    return d.complete(prompt, model=model, **{"max_tokens": 20, "logprobs": 3, **fields})["choices"]


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


# --- who answers -------------------------------------------------------------------------------------

def test_models_are_listed_with_their_parent(served, folders):
    listed = {m["id"]: m for m in served.http.get("/v1/models").json()["data"]}
    assert list(listed) == [NAME, "other-name", "red", "blue"]
    assert "parent" not in listed[NAME] and listed[NAME]["root"] == NAME
    for name, folder in folders.items():
        m = listed[name]
        assert m["parent"] == NAME and m["root"] == str(folder) and m["max_model_len"] == listed[NAME]["max_model_len"]
        assert served.http.get(f"/v1/models/{name}").json() == m
    missing = served.http.get("/v1/models/green")
    assert missing.status_code == 404
    for name in folders:
        assert served.total("tokenlane_adapter_info", adapter=name) == 1


def test_the_base_answers_as_without_adapters(served, daemon):
    for prompt in PROMPTS:
        assert ask(served, NAME, prompt) == ask(daemon, NAME, prompt)  # to the bit of each log-probability


def test_requests_are_counted_by_adapter(served):
    counts = lambda: {name: served.total("tokenlane_adapter_requests_total", model=NAME, adapter=name) for name in ("red", "blue")}
    before = counts()
    ask(served, "red", STORY, n=2, temperature=1)
    ask(served, NAME, STORY)
    assert served.post("/v1/completions", model="blue", prompt=STORY, max_tokens=10**6).status_code == 400
    assert counts() == {"red": before["red"] + 1, "blue": before["blue"]}
    assert "green" not in served.http.get("/metrics").text


def test_adapters_answer_otherwise(served):
    answers = [ask(served, model, STORY)[0]["logprobs"]["token_logprobs"] for model in IDS]
    assert answers[0] != answers[1] != answers[2] != answers[0]
    assert answers == [ask(served, model, STORY)[0]["logprobs"]["token_logprobs"] for model in IDS]


def test_every_endpoint_says_whose_answer_it_is(served):
    message = [{"role": "user", "content": "Hello"}]
    bodies = {"/v1/completions": {"prompt": "Hello", "max_tokens": 3, "n": 2}, "/v1/chat/completions": {"messages": message, "max_tokens": 3, "n": 3},
              "/v1/responses": {"input": "Hello", "max_output_tokens": 16}, "/v1/messages": {"messages": message, "max_tokens": 3}}
    for path, body in bodies.items():
        for model in IDS:
            answer = served.post(path, model=model, **body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == model
    with served.http.stream("POST", "/v1/completions", json={"model": "red", "prompt": "x", "max_tokens": 3, "stream": True}) as s:
        assert {e["model"] for e in events(s.iter_lines())} == {"red"}
    assert served.post("/tokenize", model="blue", prompt="Hello").json()["tokens"] == served.tokens("Hello")
    green = served.post("/v1/completions", model="green", prompt="x")
    assert green.status_code == 404 and green.json()["error"]["param"] == "model"


# --- together -----------------------------------------------------------------------------------------

def test_together_as_alone(served):
    """Two adapters and the base in the same steps, prompts and answers of different lengths."""
    jobs = [(model, prompt, 10 + 7 * i) for i, prompt in enumerate(PROMPTS) for model in IDS]
    alone = [ask(served, model, prompt, max_tokens=n) for model, prompt, n in jobs]
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        for _ in range(2):
            assert list(pool.map(lambda j: ask(served, j[0], j[1], max_tokens=j[2]), jobs)) == alone


def test_choices_of_one_request(served):
    for model in IDS:
        choices = served.complete(STORY, model=model, n=3, max_tokens=12)["choices"]
        assert len({c["text"] for c in choices}) == 1 and choices[0]["text"] == ask(served, model, STORY, max_tokens=12)[0]["text"]


def test_cached_prefixes_are_an_adapters_own(served):
    prompt = "A prefix of its own. " + STORY * 3
    first = {model: served.complete(prompt, model=model, max_tokens=20, logprobs=2) for model in IDS}
    again = {model: served.complete(prompt, model=model, max_tokens=20, logprobs=2) for model in IDS}
    for model in IDS:
        assert cached(first[model]) == 0 and cached(again[model]) > 32
        assert first[model]["choices"] == again[model]["choices"]


def test_guesses_ahead_change_nothing(served, start, folders):
    d = start({"model.adapters": option(folders), "engine.draft_tokens": 4})
    for model in IDS:
        assert ask(d, model, STORY * 3, max_tokens=40) == ask(served, model, STORY * 3, max_tokens=40)


# --- where they are computed ----------------------------------------------------------------------------

def test_in_a_process(served, start, folders):
    """The next process, after the first was killed in the middle of an answer, has the same adapters."""
    d = start({**SMALL, "engine.max_context": 1024, "model.adapters": option(folders)})
    for model in IDS:
        assert ask(d, model, STORY) == ask(served, model, STORY)
    goes_on(d, "cpu:0", model="red")
    for model in IDS:
        assert ask(d, model, STORY) == ask(served, model, STORY)


def test_in_a_group(served, start, folders):
    d = start({"model.adapters": option(folders), "devices": "cpu:0,cpu:1", "engine.tensor_parallel": 2})
    for model in IDS:
        got, want = ask(d, model, STORY)[0], ask(served, model, STORY)[0]
        assert got["text"] == want["text"]
        for a, b in zip(got["logprobs"]["token_logprobs"], want["logprobs"]["token_logprobs"]):
            assert abs(a - b) < 0.05


def test_simulated_devices_serve_the_names(start, tmp_path):
    """Nothing is computed, so nothing is read; prefixes are each adapter's own all the same, and routed so."""
    d = start({"model.adapters": f"red={tmp_path}/a,blue={tmp_path}/b", "devices": "sim:0,sim:1", "route.policy": "prefix"})
    prompt = STORY * 4
    for model in IDS:
        assert [cached(d.complete(prompt, model=model, max_tokens=2)) > 0 for _ in range(3)] == [False, True, True]


# --- what is configured ----------------------------------------------------------------------------------

def test_in_the_file_relative_to_it(start, tmp_path):
    write_adapter(tmp_path / "loras/red", 1)
    model = {"name": "one", "path": str(MODEL), "adapters": ["red=loras/red"]}
    other = {"name": "two", "path": str(MODEL)}
    path = tmp_path / "tokenlane.json"
    path.write_text(json.dumps({"models": [model, other]}))
    d = start({"model.path": None, "model.name": None, "devices": None, "config": path})
    listed = {m["id"]: m for m in d.http.get("/v1/models").json()["data"]}
    assert list(listed) == ["one", "red", "two"] and listed["red"]["parent"] == "one"
    assert ask(d, "red", STORY) != ask(d, "one", STORY) == ask(d, "two", STORY)
    before = ask(d, "red", STORY)
    path.write_text(json.dumps({"models": [{**model, "adapters": []}, other]}))
    d.signal(signal.SIGHUP)  # adapters are read at the start only
    d.wait_log(r"changed keys need a restart.*models\[0\]\.model\.adapters|changed keys need a restart.*models\[0\]\.adapters")
    assert ask(d, "red", STORY) == before


def refused(tmp_path, adapters, **options):
    flags = [f"--{k}={v}" for k, v in {"model.path": MODEL, "model.name": NAME, "http.port": 0, "model.adapters": adapters, **options}.items()]
    code, _, errors = run("check-config", *flags)
    assert code != 0
    return errors


@pytest.mark.parametrize("value, why", [
    ("red", "expected name=folder"), ("=x", "expected name=folder"), ("red=", "expected name=folder"), (f"{NAME}=x", "no other ids"),
    ("alias=x", "no other ids"), ("red=x,red=y", "no other ids"), ("a" * 201 + "=x", "1 to 200 bytes")])
def test_wrong_names(tmp_path, value, why):
    errors = refused(tmp_path, value, **{"model.aliases": "alias"})
    assert "model.adapters" in errors and why in errors


def without(tensors, ending):
    return {name: t for name, t in tensors.items() if not name.endswith(ending)}


GOOD = random_tensors(1, targets=("q_proj",))
FIRST = next(iter(GOOD))


@pytest.mark.parametrize("config, tensors, said", [
    ({"use_dora": True}, None, "use_dora"), ({"bias": "all"}, None, "bias"), ({"modules_to_save": ["lm_head"]}, None, "modules_to_save"),
    ({"peft_type": "IA3"}, None, "peft_type"), ({"fan_in_fan_out": True}, None, "fan_in_fan_out"), ({"r": 257}, None, "r: expected"),
    ({"r": "4"}, None, "r: expected"), ({"lora_alpha": "x"}, None, "lora_alpha"), ({"init_lora_weights": "pissa"}, None, "init_lora_weights"),
    ({"alpha_pattern": {".*q_proj": 3}}, None, "alpha_pattern"), ({"rank_pattern": [1]}, None, "rank_pattern"), ({"r": 5}, None, "its rank"),
    ({"target_modules": ["q_proj", "k_proj"]}, None, "'k_proj'"), ({}, without(GOOD, "model.layers.0.self_attn.q_proj.lora_B.weight"), "its lora_B is missing"),
    ({}, {**GOOD, "base_model.model.lm_head.lora_A.weight": ((4, 2), [0] * 8)}, "lm_head.lora_A"),
    ({}, {**GOOD, "base_model.model.model.layers.0.mlp.experts.1.up_proj.lora_A.weight": ((4, 2), [0] * 8)}, "experts.1"),
    ({}, {**GOOD, "base_model.model.model.layers.99.self_attn.q_proj.lora_A.weight": ((4, 2), [0] * 8)}, "layers.99"),
    ({}, {**GOOD, FIRST: ((2, 6), [0] * 12)}, "q_proj.lora_A"), ({}, {**GOOD, FIRST: ((4,), [0] * 4)}, "q_proj.lora_A"),
])
def test_wrong_files(tmp_path, config, tensors, said):
    write_adapter(tmp_path / "bad", tensors=tensors or GOOD, **config)
    errors = refused(tmp_path, f"bad={tmp_path}/bad")
    assert "model.adapters: bad/adapter_" in errors and said in errors


def test_missing_and_broken_files(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "bad/adapter_config.json" in refused(tmp_path, f"bad={tmp_path}/empty")
    (tmp_path / "empty/adapter_config.json").write_text("{")
    assert "bad/adapter_config.json" in refused(tmp_path, f"bad={tmp_path}/empty")
    (tmp_path / "empty/adapter_config.json").write_text(json.dumps(CONFIG))
    assert "bad/adapter_model.safetensors: is missing" in refused(tmp_path, f"bad={tmp_path}/empty")
    (tmp_path / "empty/adapter_model.safetensors").write_bytes(b"\xff" * 64)
    assert "bad/adapter_model.safetensors" in refused(tmp_path, f"bad={tmp_path}/empty")
    tensors = {FIRST: ((4, 2), b"\0" * 64)}
    write_adapter(tmp_path / "wide", tensors=tensors, dtype="F64")
    assert "expected BF16, F16 or F32" in refused(tmp_path, f"bad={tmp_path}/wide")
