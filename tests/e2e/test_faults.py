# SPDX-License-Identifier: MIT
"""Devices that fail under load: whose requests fail, what they say, how devices come back."""
import json
import os
import pathlib
import random
import stat
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from daemon import BINARY, MODEL, NAME, SAN, SLOW, wait_for
from simulated import Vocabulary

STATES = ["ready", "degraded", "draining", "quarantined", "recovering", "out"]
LATE_MS = 250 * SLOW
FOUR = {"devices": "sim:0,sim:1,sim:2,sim:3", "http.threads": 2, "sim.base_us": 1000, "sim.per_token_ns": 1000,
        "sim.per_block_ns": 10, "engine.max_batch_size": 16, "engine.max_batch_tokens": 128, "engine.max_context": 512,
        "health.late_ms": LATE_MS, "health.backoff_ms": 50, "health.max_backoff_ms": 400, "health.max_faults": 0}


PLACES = pytest.mark.parametrize("isolation", ["thread", "process"])


@pytest.fixture(scope="module")
def words():
    return Vocabulary(MODEL)


def state(d, replica):
    return STATES[int(d.total("tokenlane_replica_state", replica=str(replica)))]


def faults(d, **labels):
    return d.total("tokenlane_replica_faults_total", **labels)


def wait_state(d, replica, wanted, seconds=10):
    wait_for(lambda: state(d, replica) == wanted, seconds, f"replica {replica} to be {wanted}")


def assert_rest(d):
    """Nothing is held by anybody any more: the gauges, and what only an idle server admits."""
    d.wait_rest()


class Load:
    """Streams, half of them sampled with a seed, whose texts are known."""

    def __init__(self, d, words, seed, clients, max_prompt=60, max_new=80):
        self.d, self.words, self.rng = d, words, random.Random(seed)
        self.max_prompt, self.max_new = max_prompt, max_new
        self.done, self.failures, self.ending = 0, [], False
        self.pool = ThreadPoolExecutor(clients)
        self.http = httpx.Client(base_url=d.url, timeout=60 * SLOW, limits=httpx.Limits(max_connections=clients))
        self.clients = [self.pool.submit(self.client, self.rng.random()) for _ in range(clients)]

    def client(self, seed):
        rng = random.Random(seed)
        while not self.ending:
            self.one(rng)

    def one(self, rng):
        prompt = [rng.choice(self.words.ordinary) for _ in range(rng.randint(1, self.max_prompt))]
        n = rng.randint(1, self.max_new)
        more = {"temperature": 0.8, "seed": rng.randrange(1 << 30)} if rng.random() < 0.5 else {"temperature": 0}
        body = {"model": NAME, "prompt": prompt, "max_tokens": n, "stream": True, **more}
        said, ends = "", []
        with self.http.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                self.failures.append((answer.status_code, answer.read().decode()))
                time.sleep(0.05 * SLOW)  # as a client does that was told to come again: else the time of a refusal counts, not how many were refused
                return
            for line in answer.iter_lines():
                if not line or line == "data: [DONE]":
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    self.failures.append((500, json.dumps(chunk)))
                    break
                said += chunk["choices"][0]["text"]
                ends.append(chunk["choices"][0]["finish_reason"])
        expected = self.words.expected_text(prompt, n, **more)
        if ends and ends[-1] is not None:
            assert said == expected and ends[-1] == "length"
            self.done += 1
        else:
            assert expected.startswith(said), "what came before the error is wrong"

    def end(self):
        self.ending = True
        for c in self.clients:
            c.result()
        self.http.close()


def script(rng, devices, n, first, gap, slow=True):
    """n random faults, some steps apart; with `slow` also such as need no reset."""
    out, at = [], {d: first for d in devices}
    for _ in range(n):
        d = rng.choice(devices)
        at[d] += rng.randint(gap // 2, gap)
        slowly = [f"slow*{rng.randint(2, 5)}:steps=20"] if slow else []
        kind = rng.choice(["error", "error", "hang", "oom", *slowly, "hang:recover=2", "error:recover=3"])
        out.append(f"{d}@{at[d]}:{kind}")
    return ",".join(out)


@PLACES
def test_one_of_four_fails_again_and_again(start, words, isolation):
    """A request that lost its device goes to the others, which are well: none may fail."""
    rng = random.Random(1)
    d = start({**FOUR, "isolation": isolation, "sim.faults": script(rng, [1], 12, 20, 80)})
    load = Load(d, words, 2, 24)
    try:
        wait_for(lambda: faults(d, replica="1") >= (3 if SAN else 7), 60, "faults")
    finally:
        load.end()
    assert load.failures == [] and load.done > 30
    assert d.total("tokenlane_resubmitted_sequences_total") > 0
    assert d.total("tokenlane_replica_recoveries_total", replica="1") > 0
    if not SAN:
        assert faults(d, replica="0") + faults(d, replica="2") + faults(d, replica="3") == 0
    assert_rest(d)
    wait_state(d, 1, "ready")
    d.complete([5], max_tokens=3)


@PLACES
def test_all_fail_at_random(start, words, isolation):
    """Only requests whose steps failed twice may fail, or that come while all four are down, and say so."""
    rng = random.Random(3)
    d = start({**FOUR, "isolation": isolation, "sim.faults": script(rng, [0, 1, 2, 3], 30, 20, 120)})
    load = Load(d, words, 4, 24)
    try:
        wait_for(lambda: faults(d) >= (5 if SAN else 15), 60, "faults")
    finally:
        load.end()
    for status, text in load.failures:
        assert {500: "the device that served this request failed", 503: "no device is ready"}[status] in text
    # on a slow machine few requests end before the faults, of which some come on all four within a moment: 15 of 133 failed on a busy one
    assert load.done > 30 and len(load.failures) < load.done / (2 if SAN else 4)
    assert_rest(d)
    for i in range(4):
        wait_state(d, i, "ready")


@PLACES
def test_the_only_device_comes_back(start, words, isolation):
    """With nobody else to go to, requests wait for the reset: error, then hang."""
    d = start({**FOUR, "isolation": isolation, "devices": "sim:0", "sim.faults": "0@30:error,0@90:hang"})
    for i in range(4):
        more = {"temperature": 1, "seed": i}
        assert d.complete([9, 10, i], max_tokens=40, **more)["choices"][0]["text"] == words.expected_text([9, 10, i], 40, **more)
    assert faults(d) == 2 and d.total("tokenlane_replica_recoveries_total") == 2
    assert ("was reset in step" if isolation == "thread" else "its step was given up") in d.stderr()
    assert_rest(d)


def test_faulted_twice(start, words):
    """What kills two devices must not kill the third."""
    d = start({**FOUR, "devices": "sim:0,sim:1,sim:2", "sim.faults": "0@20:error,1@20:error,2@20:error",
               "health.backoff_ms": 60000, "health.max_backoff_ms": 60000})
    answer = d.post("/v1/completions", model=NAME, prompt=[1, 2, 3], max_tokens=100, temperature=0)
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "the device that served this request failed"
    wait_for(lambda: faults(d) == 2, 5, "the monitor's count")
    assert [state(d, i) for i in range(3)].count("ready") == 1
    assert d.complete([4, 5], max_tokens=5)["choices"][0]["text"] == words.expected_text([4, 5], 5)
    assert_rest(d)


def test_choices_logprobs_and_echo_survive(start, words):
    d = start({**FOUR, "devices": "sim:0", "sim.faults": "0@25:error"})
    prompt = [words.ordinary[i] for i in (5, 6, 7, 8)]
    whole = start({**FOUR, "devices": "sim:0"})
    fields = dict(max_tokens=60, n=3, temperature=0.9, seed=7, echo=True, logprobs=2, presence_penalty=0.5)
    answer, expected = d.complete(prompt, **fields), whole.complete(prompt, **fields)
    assert faults(d) == 1
    assert answer["choices"] == expected["choices"] and answer["usage"] == expected["usage"]


def test_cancelled_while_it_waits_for_a_device(start):
    d = start({**FOUR, "devices": "sim:0", "sim.faults": "0@20:error:recover=never"})
    with httpx.Client(base_url=d.url, timeout=1.5 * SLOW) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/completions", json={"model": NAME, "prompt": [1], "max_tokens": 100})
    assert state(d, 0) in ("quarantined", "recovering")
    wait_for(lambda: d.total("tokenlane_cancelled_requests_total") == 1, 5, "the cancellation")
    assert_rest(d)
    began = time.monotonic()
    answer = d.post("/v1/completions", model=NAME, prompt=[1], max_tokens=100)
    assert answer.status_code == 503 and 1 <= int(answer.headers["retry-after"]) <= 60
    assert time.monotonic() - began < 1 * SLOW
    assert d.http.get("/ready").status_code == 503 and d.http.get("/health").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_deadline_while_it_waits_for_a_device(start, stream):
    """No worker has it then, so its loop must look; it would have waited for a minute."""
    d = start({**FOUR, "devices": "sim:0", "sim.base_us": 20000, "sim.faults": "0@20:error:recover=never"})
    began = time.monotonic()
    answer = d.post("/v1/completions", model=NAME, prompt=[9], max_tokens=100, timeout_ms=1000 * SLOW, stream=stream)
    assert 1 * SLOW <= time.monotonic() - began < 5 * SLOW
    assert answer.status_code == (200 if stream else 504) and f"did not end within its {1000 * SLOW} ms" in answer.text
    assert "[DONE]" not in answer.text
    assert_rest(d)


def test_shutdown_while_requests_wait_for_a_device(start):
    d = start({**FOUR, "devices": "sim:0", "sim.faults": "0@20:error:recover=never", "drain_timeout_ms": 100})
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(d.post, "/v1/completions", model=NAME, prompt=[i], max_tokens=100) for i in range(4)]
        wait_for(lambda: faults(d) == 1, 10, "the fault")
        d.signal()
        assert d.wait_exit() == 0
        assert all(a.exception() or a.result().status_code >= 500 for a in asked)


@pytest.fixture
def starve():
    """starve(daemon): its worker hardly gets a processor any more; returns what ends that."""
    hogs = []

    def begin(d):
        cpu = min(os.sched_getaffinity(0))
        hogs.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
        os.sched_setaffinity(hogs[0].pid, {cpu})
        for task in pathlib.Path(f"/proc/{d.process.pid}/task").iterdir():
            if (task / "comm").read_text().startswith("tl-worker"):
                os.sched_setaffinity(int(task.name), {cpu})
                os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))
        return hogs[0].kill

    yield begin
    for hog in hogs:
        hog.kill()
        hog.wait()


def test_a_late_processor_keeps_its_sequences(start, starve):
    """Its steps end by themselves when the machine is less busy. Thrown away, they would be late again, until it is out for good."""
    d = start({"devices": "cpu:0", "cpu.threads": 1, "health.late_ms": 50, "health.late_factor": 2, "health.max_faults": 1})
    more = {"max_tokens": 400, "ignore_eos": True}
    expected = d.complete("Once upon a time", **more)["choices"][0]["text"]
    feed = starve(d)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(d.complete, "Once upon a time", **more)
        d.wait_log("state=quarantined", 60)
        feed()
        assert asked.result()["choices"][0]["text"] == expected
    wait_state(d, 0, "ready")
    assert faults(d) == d.total("tokenlane_resubmitted_sequences_total") == 0


def test_out_after_three_faults(start, words):
    d = start({**FOUR, "devices": "sim:0,sim:1", "health.max_faults": 3,
               "sim.faults": "0@20:error,0@40:hang,0@60:error"})
    load = Load(d, words, 5, 8)
    try:
        wait_state(d, 0, "out", 60)
    finally:
        load.end()
    assert load.failures == [] and faults(d, replica="0") == 3 and state(d, 1) == "ready"
    time.sleep(0.5 * SLOW)
    assert state(d, 0) == "out"
    assert_rest(d)


def test_a_slow_device_is_used_last(start):
    d = start({**FOUR, "devices": "sim:0,sim:1,sim:2", "sim.override": "1:base_us=30000"})
    with ThreadPoolExecutor(9) as pool:
        list(pool.map(lambda i: d.complete([i], max_tokens=80), range(9)))
    wait_state(d, 1, "degraded")
    before = d.total("tokenlane_steps_total", replica="1")
    for i in range(8):
        d.complete([i], max_tokens=5)
    assert d.total("tokenlane_steps_total", replica="1") == before


def admin(d):
    return httpx.Client(transport=httpx.HTTPTransport(uds=d.options["admin.unix"]), base_url="http://admin", timeout=10 * SLOW)


def replicas(a):
    answer = a.get("/admin/replicas")
    assert answer.status_code == 200
    return answer.json()["replicas"]


def test_a_device_says_how_it_is(start, words):
    """Lost between two steps: nothing is lost with it. Hot: used last."""
    d = start({**FOUR, "devices": "sim:0,sim:1", "sim.faults": "0@30:lost,1@60:hot"})
    load = Load(d, words, 9, 8)
    try:
        wait_for(lambda: faults(d) == 1 and state(d, 1) == "degraded", 30, "the scripted states")
    finally:
        load.end()
    assert load.failures == [] and load.done > 0
    wait_state(d, 0, "ready")
    assert "lost; quarantined" in d.stderr()
    assert_rest(d)


def test_drain_and_resume(start, words, tmp_path):
    d = start({**FOUR, "admin.unix": tmp_path / "admin.sock"})
    load = Load(d, words, 6, 8)
    with admin(d) as a:
        assert stat.S_IMODE((tmp_path / "admin.sock").stat().st_mode) == 0o600
        found = replicas(a)
        assert [(r["id"], r["devices"], r["faults"]) for r in found] == [(i, [f"sim:{i}"], 0) for i in range(4)]
        wait_for(lambda: all(r["steps"] > 20 and r["step_seconds"] > 0 for r in replicas(a)), 20, "work everywhere")
        assert a.post("/admin/replicas/2/drain").json()["state"] == "draining"
        wait_for(lambda: replicas(a)[2]["sequences"] == 0, 20, "replica 2 to be empty")
        drained = replicas(a)[2]
        assert drained["free_blocks"] == drained["blocks"] and drained["load"] == drained["reserved_tokens"] == 0
        done = load.done
        wait_for(lambda: load.done > done + 20, 20, "the others to go on")
        assert replicas(a)[2]["steps"] == drained["steps"] and state(d, 2) == "draining"
        assert a.post("/admin/replicas/2/resume").json()["state"] == "ready"
        wait_for(lambda: replicas(a)[2]["steps"] > drained["steps"], 20, "replica 2 to work again")
        load.end()
        assert load.failures == []
        d.wait_rest()
        wait_for(lambda: all(r[k] == 0 for r in replicas(a) for k in ("load", "sequences", "reserved_tokens", "running", "waiting")),
                 5, "zero everywhere")
        for i in range(4):
            a.post(f"/admin/replicas/{i}/drain")
        answer = d.post("/v1/completions", model=NAME, prompt=[1], max_tokens=3)
        assert answer.status_code == 503 and "retry-after" in answer.headers
        for path in ("/admin/replicas/4/drain", "/admin/replicas//drain", "/admin/replicas/1", "/admin/replicas/1/drain/",
                     "/admin/replicas/-1/drain", "/admin/replicas/99999999999/drain"):
            assert a.post(path).status_code == 404, path
        assert a.get("/admin/replicas/1/drain").status_code == 405
    assert d.http.get("/admin/replicas").status_code == 404
    assert d.post("/admin/replicas/1/resume").status_code == 404
    d.stop()
    assert not (tmp_path / "admin.sock").exists()


def test_an_operator_brings_back_what_is_out(start, words, tmp_path):
    d = start({**FOUR, "devices": "sim:0", "health.max_faults": 1, "sim.faults": "0@20:hang",
               "admin.unix": tmp_path / "admin.sock"})
    with ThreadPoolExecutor(1) as pool, admin(d) as a:
        asked = pool.submit(d.complete, [4, 5], max_tokens=40)
        wait_state(d, 0, "out")
        assert replicas(a)[0]["faults"] == 1 and not asked.done()
        a.post("/admin/replicas/0/resume")
        assert asked.result()["choices"][0]["text"] == words.expected_text([4, 5], 40)
        assert replicas(a)[0]["state"] == "ready"


def between_tokens(d, seconds):
    """p99 of the gaps between the tokens of 32 streams, in ms. None of them may fail."""
    done = subprocess.run([pathlib.Path(BINARY).parent / "load", "--url", d.url, "--json", "--streams", "32", "--duration", str(seconds),
                           "--prompt-tokens", "64", "--max-tokens", "64", "--timeout", "60"], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["failed"] == 0 and result["completed"] > 32
    return result["itl_ms"]["p99"]


# Of all streams, those too that a fault interrupts: their pauses are fewer than one gap in a hundred.
SLICE_S, QUIET_SLICES, QUIET_STEPS = 6, 8, 14000


@pytest.mark.soak
def test_three_hundred_random_faults(start, words):
    """One GPU of four fails 300 times: no text is wrong, no request fails, and the others' streams flow on as they did before."""
    rng = random.Random(7)
    d = start({**FOUR, "sim.faults": script(rng, [2], 320, QUIET_STEPS, 160, slow=False), "sim.base_us": 5000, "sim.per_token_ns": 20000,
               "health.backoff_ms": 20})
    load, without, with_faults = Load(d, words, 8, 8), [], []
    try:
        while len(without) < QUIET_SLICES:
            without.append(between_tokens(d, SLICE_S))
        assert faults(d) == 0
        wait_for(lambda: faults(d, replica="2") > 0, 120, "the first fault")
        while faults(d, replica="2") < 300:
            with_faults.append(between_tokens(d, SLICE_S))
    finally:
        load.end()
    growth = statistics.median(with_faults) / statistics.median(without) - 1
    print(f"\n{faults(d):.0f} faults, {load.done} streams checked, {d.total('tokenlane_resubmitted_sequences_total'):.0f} moved; "
          f"between tokens p99 {statistics.median(without):.2f} ms, with faults {statistics.median(with_faults):.2f} ms: {100 * growth:+.1f} % "
          f"(medians of {len(without)} and {len(with_faults)} times {SLICE_S} s)")
    assert load.failures == []
    assert faults(d) == faults(d, replica="2")
    assert_rest(d)
    assert SAN or growth < 0.10
