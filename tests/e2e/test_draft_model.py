# SPDX-License-Identifier: MIT
"""A draft model (model.draft) guesses tokens: answers are those without, to the letter, whatever is asked and however it runs."""
import concurrent.futures
import json
import shutil
import struct

import pytest

from alike import exact
from daemon import MODEL, Daemon
from model_files import write_gguf
from test_drafts import ask, make_requests

HOW = {
    "one_lane": {},
    "lanes": {"cpu.threads": 3},
    "little_memory": {"engine.kv_memory_bytes": 4300000, "engine.max_context": 512},  # sequences are put back
    "without_cache": {"engine.prefix_cache": "false"},
    "bytes": {"engine.kv_dtype": "fp8_e4m3"},
    "process": {"isolation": "process"},
    "replicas": {"devices": "cpu:0,cpu:1", "route.policy": "round_robin"},
    "quantized": {"model.quantize": "q8_0"},
}

SLOW_US = 12000  # a step: with an eighth of it for the draft model's, what a busy machine adds decides nothing


def guessed(d):
    return d.total("tokenlane_draft_model_tokens_total")


def right(d):
    return d.total("tokenlane_draft_model_tokens_taken_total")


def rewrite(folder, n_layers=5, n_silent=0, change_tokenizer=None):
    """The demo model's first layers, and behind them some that add nothing."""
    shutil.copytree(MODEL, folder)
    raw = (MODEL / "model.safetensors").read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    header, tensors = json.loads(raw[8:8 + n]), {}
    for name, t in header.items():
        if name == "__metadata__":
            continue
        data, layer = raw[8 + n:][slice(*t["data_offsets"])], name.split(".")[2] if ".layers." in name else None
        if layer is None or int(layer) < n_layers:
            tensors[name] = t, data
        for i in range(n_silent if layer == "0" else 0):
            silent = name.endswith(("o_proj.weight", "down_proj.weight"))
            tensors[name.replace(".layers.0.", f".layers.{n_layers + i}.")] = t, bytes(len(data)) if silent else data
    at, new = 0, {"__metadata__": {"format": "pt"}}
    for name, (t, data) in tensors.items():
        new[name] = {**t, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(new).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, data in tensors.values()))
    for file, change in (("config.json", lambda c: {**c, "num_hidden_layers": n_layers + n_silent}), ("tokenizer.json", change_tokenizer)):
        if change:
            (folder / file).write_text(json.dumps(change(json.loads((folder / file).read_text()))))
    return folder


@pytest.fixture(scope="module")
def tall(tmp_path_factory):
    """Says what the demo model says, and has five times its layers."""
    return rewrite(tmp_path_factory.mktemp("draft") / "tall", n_silent=20)


@pytest.fixture(scope="module")
def first_layers(tmp_path_factory):
    """The demo model without its last layer: much the same, and not quite."""
    return rewrite(tmp_path_factory.mktemp("draft") / "small", n_layers=4)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tall):
    started = {}

    def of(how):
        """Without guesses, but else in that way."""
        options = {k: v for k, v in HOW[how].items() if k in ("engine.kv_dtype", "model.quantize")}
        if str(options) not in started:
            started[str(options)] = Daemon(tmp_path_factory.mktemp("plain") / "log", {"engine.draft_tokens": 0, **options}, model=tall)
        return started[str(options)]
    yield of
    for d in started.values():
        d.stop()


@pytest.fixture(scope="module")
def made(plain):
    d = plain("one_lane")
    return make_requests("Once" + d.complete("Once", max_tokens=120, temperature=1, seed=5)["choices"][0]["text"])


@exact
@pytest.mark.parametrize("how", HOW)
def test_answers_are_the_same(start, plain, made, tall, first_layers, how):
    wanted = made[::4] if how in ("lanes", "replicas") else made
    want = [ask(plain(how), body) for body in wanted]
    d = start({"model.draft": first_layers, **HOW[how]}, model=tall)
    for at_once in (1, 12):
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            got = list(pool.map(lambda body: ask(d, body), wanted))
        for body, its, answer in zip(wanted, want, got):
            assert answer == its, body
    d.wait_rest()
    assert guessed(d) >= right(d) > 3
    if how == "little_memory":
        assert d.total("tokenlane_preemptions_total") > 0


@exact
def test_the_model_itself_is_always_right(start, plain, tall):
    """Drawn tokens too: both draw with the same random number."""
    d = start({"model.draft": MODEL}, model=tall)
    for more in ({"temperature": 0}, {"temperature": 1, "seed": 3}, {"temperature": 1.5, "top_p": 0.9, "top_k": 40, "seed": 4}):
        body = {"prompt": "Once upon a time", "max_tokens": 150, "ignore_eos": True, **more}
        assert d.complete(**body)["choices"] == plain("one_lane").complete(**body)["choices"]
    assert 10 < right(d) == guessed(d)


@exact
def test_of_a_prompt_that_is_there_nothing_is_computed_again(start):
    """Neither by the model nor, but for the end, by its draft; and what each continues is the same."""
    d = start({"devices": "sim:0", "sim.base_us": SLOW_US, "model.draft": MODEL})
    prompt = "one two three four five six seven " * 10
    first = d.complete(prompt, max_tokens=60, ignore_eos=True)["choices"]
    steps, model_steps, n = (d.total(f"tokenlane_{what}_total") for what in ("steps", "draft_model_steps", "draft_model_tokens"))
    assert right(d) > 10
    again = d.complete(prompt, max_tokens=60, ignore_eos=True)["choices"]
    assert again == first
    assert d.total("tokenlane_prefix_cache_hit_tokens_total") > 50
    assert d.total("tokenlane_steps_total") - steps < 45
    assert d.total("tokenlane_draft_model_steps_total") - model_steps <= guessed(d) - n + 1  # each has made a guess
    assert right(d) >= 0.97 * guessed(d)


def test_most_steps_are_saved(start):
    """By one that takes an eighth of the time and is always right, as a simulated device's is."""
    answers, steps = [], []
    for options in ({}, {"model.draft": MODEL}, {"model.draft": MODEL, "isolation": "process"}):
        d = start({"devices": "sim:0", "sim.base_us": SLOW_US, **options})
        answers.append(d.complete("Once", max_tokens=200, ignore_eos=True)["choices"])
        steps.append(d.total("tokenlane_steps_total"))
    assert answers[0] == answers[1] == answers[2]
    assert max(steps[1:]) < steps[0] / 1.5, steps


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("fault", ["error", "hang"])
def test_faults_lose_nothing(start, isolation, fault):
    """Both devices of a replica, the draft model's first, fail in their 30th step; what runs there goes on elsewhere, and a reset makes both well again."""
    options = {"devices": "sim:0,sim:1", "sim.base_us": SLOW_US // 2, "isolation": isolation, "health.backoff_ms": 100}
    bodies = [{"prompt": f"Once {i}", "max_tokens": 120, "temperature": 1, "seed": i, "ignore_eos": True} for i in range(6)]
    quiet = start(options)
    want = [ask(quiet, body) for body in bodies]
    d = start({**options, "model.draft": MODEL, "sim.faults": f"0@30:{fault}", "health.late_ms": 1000})
    for _ in range(3):
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            assert list(pool.map(lambda body: ask(d, body), bodies)) == want
    assert ("the draft model" if fault == "error" else "replica=0 state=quarantined") in d.stderr()
    assert right(d) > 50
    d.wait_log("replica=0 state=ready")
    n = right(d)
    assert [ask(d, body) for body in bodies] == want
    assert right(d) > n


@exact
def test_who_leaves_takes_nothing_along(start, plain, tall, first_layers):
    d = start({"model.draft": first_layers}, model=tall)
    body = {"prompt": "Once upon a time", "max_tokens": 200, "temperature": 1, "seed": 7, "ignore_eos": True}
    for n in (1, 3, 9):
        with d.http.stream("POST", "/v1/completions", json={"model": "demo", "stream": True, **body}) as answer:
            for _, _line in zip(range(n), answer.iter_lines()):
                pass
    d.wait_rest()
    assert d.complete(**body)["choices"] == plain("one_lane").complete(**body)["choices"]


@exact
def test_predictions_are_counted_alone(start, tall, first_layers):
    """What usage says is about what the client predicted, not about the draft model's guesses."""
    d = start({"model.draft": first_layers}, model=tall)
    answer = d.post("/v1/chat/completions", model="demo", messages=[{"role": "user", "content": "Once"}], max_tokens=200, ignore_eos=True, temperature=1, seed=2,
                    prediction={"type": "content", "content": "zzz"})
    details = answer.json()["usage"]["completion_tokens_details"]
    assert guessed(d) > 0
    assert details["accepted_prediction_tokens"] + details["rejected_prediction_tokens"] == d.total("tokenlane_draft_tokens_total") - guessed(d)


@exact
def test_of_another_format(start, plain, tall, tmp_path):
    """A GGUF for a folder: with names for all the rows that it has beyond its tokens, as converters write."""
    d = start({"model.draft": write_gguf(tmp_path / "gguf", alone=True, n_padding=200)}, model=tall)
    body = {"prompt": "Once upon a time", "max_tokens": 100, "ignore_eos": True, "temperature": 1, "seed": 3}
    assert d.complete(**body)["choices"] == plain("one_lane").complete(**body)["choices"]
    assert right(d) == guessed(d) > 0


def fails(tmp_path, options, says, model=MODEL):
    d = Daemon(tmp_path / "log", options, model=model, wait=False)
    assert d.process.wait(20) == 1
    assert says in d.stderr(), d.stderr()


def other_token(tokenizer):
    vocab = tokenizer["model"]["vocab"]
    a, b = list(vocab)[300:302]
    vocab[a], vocab[b] = vocab[b], vocab[a]
    return tokenizer


def test_what_is_refused(tmp_path):
    fails(tmp_path, {"model.draft": rewrite(tmp_path / "other", change_tokenizer=other_token)}, "model.draft: expected the model's vocabulary, got another: token ")
    fails(tmp_path, {"model.draft": tmp_path / "none"}, "tokenlane: model.draft: ")
    fails(tmp_path, {"model.draft": MODEL, "engine.draft_tokens": 0}, "model.draft: engine.draft_tokens is 0")
    fails(tmp_path, {"model.draft": MODEL, "devices": "cpu:0,cpu:1", "engine.tensor_parallel": 2}, "model.draft: goes with engine.tensor_parallel 1 only")


@exact
def test_of_one_of_several_models(start, plain, tmp_path, tall):
    """By the path in its entry, from the file's folder; the other one has none."""
    shutil.copytree(tall, tmp_path / "tall")
    shutil.copytree(MODEL, tmp_path / "small")
    file = tmp_path / "tokenlane.json"
    file.write_text(json.dumps({"models": [{"name": "demo", "path": "tall", "draft": "small"}, {"name": "other", "path": "small"}]}))
    d = start({"model.path": None, "model.name": None, "config": file})
    body = {"prompt": "Once upon a time", "max_tokens": 100, "ignore_eos": True, "temperature": 1, "seed": 3}
    assert d.complete(**body)["choices"] == plain("one_lane").complete(**body)["choices"]
    n = right(d)
    assert n > 5
    d.complete(**body, model="other")
    assert right(d) == n
