# SPDX-License-Identifier: MIT
"""Simulated devices behind the real daemon: every token is known beforehand."""
import json
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from daemon import MODEL, NAME, SLOW, Daemon, run, wait_for
from simulated import Vocabulary

LOUD = "simulated devices serve: their text means nothing"
FAST = {"sim.base_us": 300, "sim.per_token_ns": 1000, "sim.per_block_ns": 10}


@pytest.fixture(scope="module")
def words():
    return Vocabulary(MODEL)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    d = Daemon(tmp_path_factory.mktemp("sim") / "log",
               # a step takes long enough that whoever waits has asked by then, however busy the processors are
               {**FAST, "sim.base_us": 1000, "devices": "sim:0,sim:1,sim:2,sim:3", "http.threads": 2, "engine.max_batch_size": 8,
                "engine.max_batch_tokens": 64, "engine.max_context": 288, "sim.kv_blocks": 30})
    yield d
    d.wait_rest()
    d.stop()


def test_it_is_said_loudly(four):
    assert LOUD in four.stderr() and "level=warn" in next(l for l in four.stderr().splitlines() if LOUD in l)
    assert all(m["simulated"] is True for m in four.http.get("/v1/models").json()["data"])
    assert four.http.get(f"/v1/models/{NAME}").json()["simulated"] is True
    assert four.total("tokenlane_simulated_devices") == 4


def test_weights_that_were_not_read_are_not_counted(four):
    assert four.http.get(f"/v1/models/{NAME}").json()["meta"].keys() == {"n_vocab", "n_ctx_train", "n_embd"}


def test_a_real_device_says_nothing_of_it(daemon):
    assert LOUD not in daemon.stderr()
    assert all("simulated" not in m for m in daemon.http.get("/v1/models").json()["data"])
    assert daemon.total("tokenlane_simulated_devices") == 0


def test_many_prompts_at_once(four, words):
    """More than the batches and KV blocks hold, so that sequences wait and are put back."""
    rng = random.Random(3)
    prompts = [[rng.choice(words.ordinary) for _ in range(rng.randint(1, 150))] for _ in range(120)]
    lengths = [rng.randint(1, 120) for _ in prompts]

    def ask(i):
        more = {"temperature": 0.7, "seed": i} if i % 3 == 0 else {}
        choice = four.complete(prompts[i], max_tokens=lengths[i], **more)["choices"][0]
        assert choice["finish_reason"] == "length"
        assert choice["text"] == words.expected_text(prompts[i], lengths[i], **more)

    with ThreadPoolExecutor(48) as pool:
        list(pool.map(ask, range(len(prompts))))
    steps = [v for (name, _), v in four.metrics().items() if name == "tokenlane_steps_total"]
    assert len(steps) == 4 and min(steps) > 20  # all took part
    assert four.total("tokenlane_preemptions_total") > 0


def test_streams_and_text_prompts(four, words):
    text = "Tell me a story about Ben."
    with four.http.stream("POST", "/v1/completions", json={
            "model": NAME, "prompt": text, "max_tokens": 60, "temperature": 0, "stream": True}) as answer:
        chunks = [json.loads(l[6:]) for l in answer.iter_lines() if l.startswith("data: {")]
    said = "".join(c["choices"][0]["text"] for c in chunks if c["choices"])
    assert said == words.expected_text(four.tokens(text), 60)


def test_choices_differ_with_their_seeds(four, words):
    choices = four.complete([5, 6, 7], max_tokens=20, temperature=1, seed=11, n=3)["choices"]
    assert choices[0]["text"] == words.expected_text([5, 6, 7], 20, temperature=1, seed=11)
    assert len({c["text"] for c in choices}) == 3


def test_weights_are_not_needed(start, tmp_path, words):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, tmp_path / name)
    d = start({**FAST, "devices": "sim:0"}, model=tmp_path)
    assert d.complete([9, 10], max_tokens=8)["choices"][0]["text"] == words.expected_text([9, 10], 8)


def test_beside_a_real_device(start):
    d = start({**FAST, "devices": "cpu:0,sim:7", "sim.override": "7:base_us=1000"})
    assert d.total("tokenlane_simulated_devices") == 1 and LOUD in d.stderr()
    assert d.http.get("/v1/models").json()["data"][0]["simulated"] is True


def test_step_time(start):
    d = start({"devices": "sim:0", "sim.base_us": 20000, "sim.per_token_ns": 0, "sim.per_block_ns": 0})
    began = time.monotonic()
    d.complete([9, 10], max_tokens=20)
    assert 20 * 0.02 <= time.monotonic() - began


def test_answers_that_end(start):
    d = start({**FAST, "devices": "sim:0", "sim.eos_every": 5})
    ends = [d.complete([i], max_tokens=100)["choices"][0]["finish_reason"] for i in range(20)]
    assert ends.count("stop") >= 19


def test_a_fault(start, words):
    """Steps 1 and 2 are those of the test generation. The request waits for the reset and goes on."""
    d = start({**FAST, "devices": "sim:0", "sim.faults": "0@12:error", "health.backoff_ms": 100})
    assert d.complete([9, 10], max_tokens=4)["choices"][0]["text"] == words.expected_text([9, 10], 4)
    assert d.complete([9, 10], max_tokens=50)["choices"][0]["text"] == words.expected_text([9, 10], 50)
    assert "step 12 failed" in d.stderr()


def test_a_hung_device_does_not_keep_the_daemon(start):
    d = start({**FAST, "devices": "sim:0", "sim.faults": "0@5:hang", "drain_timeout_ms": 100})
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(d.post, "/v1/completions", model=NAME, prompt=[9], max_tokens=50)
        wait_for(lambda: d.total("tokenlane_steps_total") == 4, 10, "the hang")
        began = time.monotonic()
        d.signal()
        assert d.wait_exit() == 0
        assert time.monotonic() - began < 15 * SLOW
        assert asked.exception() or asked.result().status_code >= 500 or "finish_reason" in asked.result().text
    assert "the device does not end its step" in d.stderr()


@pytest.mark.parametrize("options, message", [
    ({"sim.faults": "1@5:explode"}, "sim.faults: '1@5:explode': expected :error, :hang, :slow"),
    ({"sim.faults": "0@5:error,4@5:error"}, "sim.faults: '4@5:error': expected the number of a device in devices"),
    ({"sim.override": "1:base=3"}, "sim.override: '1:base=3': expected base_us, "),
    ({"sim.base_us": "-1"}, "sim.base_us: expected an integer from 0 to 60000000, got -1"),
    ({"devices": "sim:x"}, "devices: expected devices such as cpu:0, got 'sim:x'"),
])
def test_what_the_configuration_says_wrong(options, message):
    flags = [f"--{k}={v}" for k, v in {"model.path": MODEL, "devices": "sim:0,sim:1", **options}.items()]
    code, _, stderr = run("check-config", *flags)
    assert code == 1 and message in stderr, stderr


def test_out_of_memory_at_load():
    code, _, stderr = run("serve", f"--model.path={MODEL}", "--http.port=0", "--devices=sim:0", "--sim.faults=0@load:oom")
    assert code == 1 and "sim:0: simulated fault at load: out of memory" in stderr
