# SPDX-License-Identifier: MIT
"""Priorities and deadlines of requests."""
import concurrent.futures
import json
import time

import pytest

from daemon import LONG, SLOW, wait_for

BUSY = {"model": "demo", "prompt": "Once upon a time", "ignore_eos": True, "temperature": 0}


def fill(d, pool, n, **fields):
    """n requests of the longest kind, all in the engine."""
    before = d.total("tokenlane_sequences_running") + d.total("tokenlane_sequences_waiting")
    futures = [pool.submit(lambda: d.post("/v1/completions", **{**BUSY, "max_tokens": LONG, **fields})) for _ in range(n)]
    wait_for(lambda: d.total("tokenlane_sequences_running") + d.total("tokenlane_sequences_waiting") >= before + n)
    return futures


def test_high_passes_low(start):
    d = start({"engine.max_batch_size": 1})
    ended = []

    def ask(name, **fields):
        # long enough that this process's threads wake up in the order in which the answers came
        answer = d.post("/v1/completions", **{**BUSY, "max_tokens": LONG // 6, **fields})
        ended.append(name)
        return answer
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        blockers = fill(d, pool, 1, priority="high")
        asked = []
        for name in ("low", "normal", "high"):
            asked.append(pool.submit(ask, name, priority=name))
            wait_for(lambda: d.total("tokenlane_sequences_waiting") == len(asked))
        asked.append(pool.submit(ask, "critical", priority=3))
        for future in asked + blockers:
            assert future.result().status_code == 200
    assert ended == ["critical", "high", "normal", "low"]
    assert d.total("tokenlane_preemptions_total") == 1  # of the blocker by the critical one
    d.wait_rest()


def test_the_preempted_answer_is_the_same(start):
    d = start({"engine.max_batch_size": 1})
    want = d.post("/v1/completions", **BUSY, max_tokens=LONG).json()["choices"]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        low = fill(d, pool, 1, priority="low")[0]
        assert d.post("/v1/completions", **BUSY, max_tokens=3, priority="critical").status_code == 200
        assert low.result().json()["choices"] == want
    assert d.total("tokenlane_preemptions_total") == 1


def test_low_does_not_starve(start):
    d = start({"engine.max_batch_size": 1, "engine.priority_age_ms": 100})
    stop = False

    def stream_of_critical():
        while not stop:
            assert d.post("/v1/completions", **BUSY, max_tokens=20, priority="critical").status_code == 200
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(stream_of_critical) for _ in range(3)]
        wait_for(lambda: d.total("tokenlane_sequences_waiting") > 0)
        try:
            assert d.post("/v1/completions", **BUSY, max_tokens=3, priority="low").status_code == 200
        finally:
            stop = True
        for load in loads:
            load.result()


@pytest.mark.parametrize("value", ["urgent", "", -1, 4, 1.5, True, ["low"]])
def test_bad_priorities(daemon, value):
    answer = daemon.post("/v1/completions", model="demo", prompt="x", priority=value)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "priority" and "expected low, normal, high or critical, or an integer from 0" in error["message"]


@pytest.mark.parametrize("value", [0, 1, 2, 3, "low", "normal", "high", "critical", None])
def test_good_priorities(daemon, value):
    assert daemon.complete("x", max_tokens=1, priority=value)["choices"]
    assert daemon.chat("x", max_tokens=1, priority=value)["choices"]


# --- deadlines ---------------------------------------------------------------------------------


def check_timeout(answer, ms):
    assert answer.status_code == 504, answer.text
    assert answer.json()["error"] == {"message": f"the request did not end within its {ms} ms", "type": "server_error",
                                      "param": "timeout_ms", "code": "timeout"}


def test_expires_in_the_queue(start):
    d = start({"engine.max_batch_size": 1})
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        blocker = fill(d, pool, 1)[0]
        begun = d.total("tokenlane_queue_seconds_count")
        began = time.monotonic()
        check_timeout(d.post("/v1/completions", **BUSY, max_tokens=5, timeout_ms=50), 50)
        took = time.monotonic() - began
        assert took >= 0.05
        assert d.total("tokenlane_queue_seconds_count") == begun  # it had no step
        assert not blocker.done()
        assert blocker.result().status_code == 200
    assert d.total("tokenlane_expired_sequences_total") == 1
    d.wait_rest()


def test_expires_while_it_runs(start):
    d = start()
    check_timeout(d.post("/v1/completions", **BUSY, max_tokens=LONG, n=3, timeout_ms=20), 20)
    assert d.total("tokenlane_expired_sequences_total") == 3
    d.wait_rest()
    assert d.post("/v1/completions", **BUSY, max_tokens=5, timeout_ms=60000 * SLOW).status_code == 200


def test_expires_in_a_stream(start):
    d = start()
    began = time.monotonic()
    d.post("/v1/completions", **BUSY, max_tokens=LONG)
    part = max(10, int((time.monotonic() - began) * 1000 / 6))  # the second may find a faster machine
    with d.http.stream("POST", "/v1/completions", json={**BUSY, "max_tokens": LONG, "stream": True, "timeout_ms": part}) as a:
        assert a.status_code == 200
        lines = [line for line in a.iter_lines() if line]
    assert len(lines) > 1 and "data: [DONE]" not in lines
    last = json.loads(lines[-1].removeprefix("data: "))
    assert last["error"]["code"] == "timeout" and last["error"]["param"] == "timeout_ms"
    assert all("choices" in json.loads(line.removeprefix("data: ")) for line in lines[:-1])
    d.wait_rest()


def test_server_default_and_cap(start):
    d = start({"limits.default_timeout_ms": 20, "limits.max_timeout_ms": 90000000 // 1000 * SLOW})
    check_timeout(d.post("/v1/completions", **BUSY, max_tokens=LONG), 20)
    most = 90000 * SLOW
    assert d.post("/v1/completions", **BUSY, max_tokens=LONG, timeout_ms=most).status_code == 200
    answer = d.post("/v1/completions", **BUSY, max_tokens=5, timeout_ms=most + 1)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == f"timeout_ms: expected an integer from 1 to {most}, got {most + 1}"


def test_the_cap_is_the_default(start):
    d = start({"limits.max_timeout_ms": 20})
    check_timeout(d.post("/v1/completions", **BUSY, max_tokens=LONG), 20)


@pytest.mark.parametrize("value", [0, -1, 1.5, "10", True, 86400001])
def test_bad_timeouts(daemon, value):
    answer = daemon.post("/v1/completions", model="demo", prompt="x", timeout_ms=value)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "timeout_ms"
