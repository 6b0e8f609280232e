# SPDX-License-Identifier: MIT
"""Tensor-parallel groups through the whole daemon: the same texts as one device, and ranks that fail under load."""
import random
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from daemon import MODEL, NAME, SAN, SLOW, run, wait_for
from simulated import Vocabulary
from test_faults import FOUR, PLACES, Load, faults, state, wait_state

PROMPTS = ["Tell me a story about Ben.", "Once upon a time", "The dog", "Lily and Tom went to the park. They"]


@pytest.fixture(scope="module")
def words():
    return Vocabulary(MODEL)


def answers(d, n):
    return [d.complete(p, max_tokens=n, logprobs=2)["choices"][0] for p in PROMPTS]


@pytest.mark.parametrize("ranks", [2, 6])
def test_same_texts_as_one_device(start, daemon, ranks):
    """The demo model is BF16: the last bits of logits differ, its greedy texts do not."""
    n = 24 if SAN else 120
    d = start({"devices": ",".join(f"cpu:{i}" for i in range(ranks)), "engine.tensor_parallel": ranks, "cpu.threads": 1})
    for got, expected in zip(answers(d, n), answers(daemon, n)):
        assert got["text"] == expected["text"] and got["finish_reason"] == expected["finish_reason"]
        for a, b in zip(got["logprobs"]["token_logprobs"], expected["logprobs"]["token_logprobs"]):
            assert abs(a - b) < 0.1
    assert d.total("tokenlane_replica_state") == 0
    d.wait_rest()


@pytest.mark.parametrize("format", ["q8_0", "q4_0"])
def test_same_texts_with_rounded_weights(start, format):
    """Blocks are cut between ranks where they end, so all ranks together have the same integers as one device."""
    one = start({"model.quantize": format, "cpu.threads": 2})
    two = start({"model.quantize": format, "devices": "cpu:0,cpu:1", "engine.tensor_parallel": 2, "cpu.threads": 1})
    for got, expected in zip(answers(two, 40), answers(one, 40)):
        assert got["text"] == expected["text"]
        for a, b in zip(got["logprobs"]["token_logprobs"], expected["logprobs"]["token_logprobs"]):
            assert abs(a - b) < 0.02


def test_same_texts_in_a_batch(start):
    """Two groups of two; the batch changes nothing, neither does the group that answers."""
    d = start({"devices": "cpu:0,cpu:1,cpu:2,cpu:3", "engine.tensor_parallel": 2, "cpu.threads": 1})
    alone = [d.complete(p, max_tokens=16, logprobs=1)["choices"][0] for p in PROMPTS]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: d.complete(PROMPTS[i % 4], max_tokens=16, logprobs=1)["choices"][0], range(16)))
    for i, choice in enumerate(together):
        assert choice["text"] == alone[i % 4]["text"] and choice["logprobs"] == alone[i % 4]["logprobs"]
    assert d.total("tokenlane_steps_total", replica="0") > 0 and d.total("tokenlane_steps_total", replica="1") > 0


def test_devices_of_a_replica(start, tmp_path):
    d = start({**FOUR, "engine.tensor_parallel": 2, "admin.unix": tmp_path / "admin.sock"})
    with httpx.Client(transport=httpx.HTTPTransport(uds=d.options["admin.unix"]), base_url="http://admin", timeout=10 * SLOW) as a:
        found = a.get("/admin/replicas").json()["replicas"]
    assert [(r["id"], r["devices"]) for r in found] == [(0, ["sim:0", "sim:1"]), (1, ["sim:2", "sim:3"])]
    named = {dict(l)["device"]: (dict(l)["replica"], dict(l)["rank"], v)
             for (name, l), v in d.metrics().items() if name == "tokenlane_replica_device"}
    assert named == {"sim:0": ("0", "0", 1), "sim:1": ("0", "1", 1), "sim:2": ("1", "0", 1), "sim:3": ("1", "1", 1)}
    assert d.total("tokenlane_simulated_devices") == 4
    assert len([1 for (name, _) in d.metrics() if name == "tokenlane_replica_state"]) == 2


def script(rng, devices, n, first, gap):
    """n random faults of ranks, some steps apart."""
    out, at = [], first
    for _ in range(n):
        at += rng.randint(gap // 2, gap)
        kind = rng.choice(["die", "die", "error", "hang", "oom", "die:recover=2", "hang:recover=2", "slow*3:steps=10"])
        out.append(f"{rng.choice(devices)}@{at}:{kind}")
    return ",".join(out)


@PLACES
def test_ranks_die_under_load(start, words, isolation):
    """Of three groups of two one loses ranks again and again: no wrong token, no failed request."""
    rng = random.Random(7)
    d = start({**FOUR, "isolation": isolation, "devices": ",".join(f"sim:{i}" for i in range(6)), "engine.tensor_parallel": 2,
               "sim.faults": script(rng, [2, 3], 16, 20, 60)})
    load = Load(d, words, 8, 20)
    try:
        wait_for(lambda: faults(d, replica="1") >= (3 if SAN else 8), 60, "faults")
    finally:
        load.end()
    assert load.failures == [] and load.done > 30
    assert d.total("tokenlane_resubmitted_sequences_total") > 0
    assert d.total("tokenlane_replica_recoveries_total", replica="1") > 0
    assert len(re.findall(r"the device is gone", d.stderr())) > 0
    if not SAN:
        assert faults(d, replica="0") + faults(d, replica="2") == 0
    d.wait_rest()
    wait_state(d, 1, "ready", 20)
    d.complete([5], max_tokens=3)


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("kind", ["die", "error", "hang", "oom"])
@PLACES
def test_the_only_group_comes_back(start, words, rank, kind, isolation):
    """Whichever rank it is, and also when it takes a second reset (in a process none does: each is a new one)."""
    d = start({**FOUR, "isolation": isolation, "engine.tensor_parallel": 4, "sim.faults": f"{rank}@20:{kind},{rank}@50:die:recover=2"})
    for i in range(3):
        assert d.complete([9, 10, i], max_tokens=30)["choices"][0]["text"] == words.expected_text([9, 10, i], 30)
    assert faults(d) == 2 and d.total("tokenlane_replica_recoveries_total") == 2
    d.wait_rest()


def test_a_rank_that_does_not_come_back(start, words):
    """Its group stays out, the other one serves."""
    d = start({**FOUR, "engine.tensor_parallel": 2, "sim.faults": "1@20:die:recover=never"})
    load = Load(d, words, 9, 8)
    try:
        wait_for(lambda: faults(d, replica="0") == 1, 60, "the fault")
        done = load.done
        wait_for(lambda: load.done > done + 10, 60, "the others to go on")
    finally:
        load.end()
    assert load.failures == [] and state(d, 0) in ("quarantined", "recovering") and state(d, 1) == "ready"


def test_a_corrupt_rank_shows(start, words):
    """Wrong sums on rank 1 are wrong tokens of the group; nothing says so."""
    d = start({**FOUR, "devices": "sim:0,sim:1", "engine.tensor_parallel": 2, "sim.faults": "1@10:corrupt"})
    assert d.complete([4, 5], max_tokens=40)["choices"][0]["text"] != words.expected_text([4, 5], 40)


@PLACES
def test_shutdown_with_a_rank_that_hangs(start, isolation):
    d = start({**FOUR, "isolation": isolation, "devices": "sim:0,sim:1", "engine.tensor_parallel": 2, "sim.faults": "1@10:hang",
               "health.late_ms": 60000, "drain_timeout_ms": 100})
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(d.post, "/v1/completions", model=NAME, prompt=[1], max_tokens=100)
        wait_for(lambda: d.total("tokenlane_steps_total") == 9, 10, "the hang")
        d.signal()
        assert d.wait_exit() == 0
        assert asked.exception() or asked.result().status_code >= 500


@pytest.mark.parametrize("options, message", [
    ({"devices": "sim:0,sim:1,sim:2"}, "engine.tensor_parallel: expected a divisor of the number of devices, which is 3, got 2"),
    ({"devices": "sim:0,cpu:0"}, "devices: 'sim:0' and 'cpu:0' cannot share a model"),
    ({"engine.tensor_parallel": 65}, "engine.tensor_parallel: expected an integer from 1 to 64, got 65"),
])
def test_what_the_configuration_says_wrong(options, message):
    flags = [f"--{k}={v}" for k, v in {"model.path": MODEL, "engine.tensor_parallel": 2, **options}.items()]
    code, _, stderr = run("check-config", *flags)
    assert code == 1 and message in stderr, stderr


def test_a_model_that_cannot_be_cut():
    flags = ["--devices=" + ",".join(f"cpu:{i}" for i in range(4)), "--engine.tensor_parallel=4", "--http.port=0"]
    code, _, stderr = run("serve", f"--model.path={MODEL}", *flags)
    assert code == 1 and "the model's 6 attention heads cannot be divided among 4 devices" in stderr
