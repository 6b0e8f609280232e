# SPDX-License-Identifier: MIT
"""Continuous batching as clients see it: who joins, who waits, who is refused, and that nobody's tokens change."""
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from alike import assert_alike
from daemon import DEVICES, LONG, NAME, events, wait_for

BLOCK = 16 * 2 * 2 * 32 * 2 * 5  # bytes of a KV block: tokens, K and V, heads, head size, BF16, layers
WORDS = "Once upon a time there was a girl named Clara . She had a red ball and a brown dog named Max .".split()


def job(i):
    """Request i of a mixed lot: prompts of 2 to 150 tokens, greedy and sampled, with log-probabilities."""
    return {"prompt": " ".join(WORDS[(i + k) % len(WORDS)] for k in range(2 + i * i % 110)), "max_tokens": 24 + i % 5 * 8,
            "ignore_eos": True, "logprobs": 2, "seed": i, "temperature": i % 2, "top_p": 0.95}


two_replicas = pytest.mark.skipif(bool(DEVICES), reason="two CPU devices, to be compared with those of TOKENLANE_DEVICES")


def assert_as_alone(got, expected, jobs):
    for g, e, j in zip(got, expected, jobs, strict=True):
        assert_alike(g, e, greedy=j["temperature"] == 0)


def answers(d, jobs, at_once=16):
    """The choices of all jobs, run at_once at a time."""
    with ThreadPoolExecutor(at_once) as pool:
        return [a["choices"][0] for a in pool.map(lambda j: d.complete(**j), jobs)]


@pytest.fixture(scope="module")
def alone(daemon):
    """Jobs, and what each gives when nothing else runs."""
    jobs = [job(i) for i in range(17)]
    return jobs, answers(daemon, jobs, at_once=1)


# --- the same tokens, whoever else is there ----------------------------------------------------
CONFIGURATIONS = {
    "one replica": {},
    "two replicas": {"devices": "cpu:0,cpu:1", "cpu.threads": 2},
    "every processor": {"cpu.threads": 0},
    "three threads": {"cpu.threads": 3},
    "small steps": {"engine.max_batch_tokens": 17, "engine.max_batch_size": 17},
    "few places": {"engine.max_batch_size": 3},
    "little KV": {"engine.max_context": 256, "engine.kv_memory_bytes": 20 * BLOCK, "limits.max_waiting_tokens": 100000},
    "all of it": {"engine.max_context": 256, "engine.kv_memory_bytes": 17 * BLOCK, "limits.max_waiting_tokens": 100000,
                  "engine.max_batch_tokens": 17, "engine.max_batch_size": 9, "devices": "cpu:0,cpu:1", "http.threads": 2,
                  "route.policy": "round_robin", "cpu.threads": 0},
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=two_replicas) if "devices" in o else n for n, o in CONFIGURATIONS.items()])
def test_same_tokens_among_others(start, alone, name):
    jobs, expected = alone
    d = start(CONFIGURATIONS[name])
    little, rounds = "engine.kv_memory_bytes" in CONFIGURATIONS[name], 0
    while rounds == 0 or (little and d.total("tokenlane_preemptions_total") == 0):  # who comes when is chance
        assert rounds < 20, "nobody was preempted"
        assert_as_alone(answers(d, jobs, at_once=17), expected, jobs)
        rounds += 1
    prompts, steps = d.total("tokenlane_prompt_tokens_total"), d.total("tokenlane_steps_total")
    generated = sum(j["max_tokens"] for j in jobs) * rounds
    replicas = int(re.search(r"msg=ready .*replicas=(\d+)", d.stderr())[1])  # each made two tokens for its test
    assert d.total("tokenlane_generated_tokens_total") == generated + 2 * replicas
    if not little:
        assert steps < generated / 2  # they did run together
    if name == "small steps":
        assert steps >= prompts / 17
    d.wait_rest()


# --- joining and waiting ---------------------------------------------------------------------------
def stream(d, **fields):
    return d.http.stream("POST", "/v1/completions", json={
        "model": NAME, "prompt": "Once upon a time", "temperature": 0, "max_tokens": LONG, "ignore_eos": True,
        "stream": True, "stream_options": {"include_usage": True}, **fields})


def test_a_newcomer_joins_what_runs(start):
    d = start({"engine.max_batch_tokens": 64})
    expected = d.complete("Max the dog", max_tokens=8, logprobs=2)["choices"][0]
    with stream(d) as long:
        lines = long.iter_lines()
        next(lines)
        # a short one, and one whose prompt takes several steps
        assert_alike(d.complete("Max the dog", max_tokens=8, logprobs=2)["choices"][0], expected)
        d.complete(" ".join(WORDS * 8), max_tokens=2)
        assert d.total("tokenlane_sequences_running") == 1  # the long one goes on
        got = events(lines)
    assert got[-1]["usage"]["completion_tokens"] == LONG


def test_who_finds_no_place_waits(start):
    d = start({"devices": "sim:0", "sim.base_us": 5000, "engine.max_batch_size": 1})  # so slow that the first goes on
    with ThreadPoolExecutor(1) as pool, stream(d, max_tokens=LONG // 3) as first:
        lines = first.iter_lines()
        next(lines)
        second = pool.submit(d.complete, "Max", max_tokens=4)
        wait_for(lambda: d.total("tokenlane_sequences_waiting") == 1 or second.done(), what="a waiting sequence")
        assert not second.done() and d.total("tokenlane_sequences_running") == 1
        assert events(lines)[-1]["usage"]["completion_tokens"] == LONG // 3
        assert second.result()["usage"]["completion_tokens"] == 4


def test_who_leaves_makes_room(start):
    d = start({"engine.max_batch_size": 1, "engine.max_context": 1024})
    with stream(d, max_tokens=1000) as first:
        next(first.iter_lines())
    d.complete("Max", max_tokens=4)
    d.wait_rest()
    assert d.total("tokenlane_generated_tokens_total") < 900
    assert d.total("tokenlane_cancelled_requests_total") == 1


# --- refusing ------------------------------------------------------------------------------------------
def check_refusal(answer):
    assert answer.status_code == 429 and 1 <= int(answer.headers["Retry-After"]) <= 60
    error = answer.json()["error"]
    assert "limit" in error["message"] and error["code"], error


def test_queue_limit(start):
    d = start({"limits.max_queue": 3, "http.threads": 2})
    with stream(d, max_tokens=LONG // 2) as a, stream(d, max_tokens=LONG // 2, n=2) as b:
        begun = [a.iter_lines(), b.iter_lines()]
        for lines in begun:
            next(lines)
        check_refusal(d.post("/v1/completions", model=NAME, prompt="Max"))
        check_refusal(d.post("/v1/chat/completions", model=NAME, messages=[{"role": "user", "content": "Max"}]))
        made = [events(lines)[-1]["usage"]["completion_tokens"] for lines in begun]
    assert made == [LONG // 2, 2 * (LONG // 2)]  # nothing is lost for who was in
    assert d.total("tokenlane_route_refused_total", reason="full") == 2
    d.wait_rest()
    assert d.complete("Max", n=3, max_tokens=1)["usage"]["completion_tokens"] == 3  # all room is back


@two_replicas
def test_queue_limit_under_a_rush(start, alone):
    jobs, expected = alone
    d = start({"limits.max_queue": 2, "devices": "cpu:0,cpu:1", "http.threads": 2})
    with ThreadPoolExecutor(34) as pool:
        got = list(pool.map(lambda j: d.post("/v1/completions", model=NAME, **j), jobs * 2))
    refused = [a for a in got if a.status_code != 200]
    for answer in refused:
        check_refusal(answer)
    served = [(a.json()["choices"][0], e) for a, e in zip(got, expected * 2) if a.status_code == 200]
    assert len(served) >= 4 and refused and all(a == e for a, e in served)
    assert d.total("tokenlane_route_refused_total") == len(refused)
    d.wait_rest()
    assert len(answers(d, jobs[:4], at_once=4)) == 4  # 2 replicas x 2 places


def test_token_limit(start):
    d = start({"limits.max_waiting_tokens": 100})
    with stream(d, max_tokens=LONG // 2) as alone:  # larger than the limit, but alone
        lines = alone.iter_lines()
        next(lines)
        check_refusal(d.post("/v1/completions", model=NAME, prompt="Max", max_tokens=1))
        events(lines)
    d.wait_rest()
    with stream(d, max_tokens=60) as first, stream(d, max_tokens=20) as second:
        events(first.iter_lines())
        events(second.iter_lines())


# --- replicas ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("policy", ["least_load", "round_robin"])
def test_replicas_share_the_work(start, policy):
    d = start({"devices": "cpu:0,cpu:1", "route.policy": policy})
    for i in range(6):
        d.complete("Max", max_tokens=3)  # one at a time: in turn with either policy
    of = [{name: d.total(f"tokenlane_{name}", replica=str(r)) for name in
           ("queue_seconds_count", "generated_tokens_total", "time_to_first_token_seconds_count", "kv_blocks")} for r in (0, 1)]
    assert of[0] == of[1], of
    # 3 requests each, and the test generation, which is nobody's request
    assert of[0]["queue_seconds_count"] == 4 and of[0]["generated_tokens_total"] == 3 * 3 + 2
    assert of[0]["time_to_first_token_seconds_count"] == 3
    assert d.total("tokenlane_route_seconds_count") == 6


def test_least_load_avoids_the_busy_replica(start):
    d = start({"devices": "cpu:0,cpu:1"})
    with stream(d) as long:
        lines = long.iter_lines()
        next(lines)
        busy = [d.total("tokenlane_sequences_running", replica=str(r)) for r in (0, 1)].index(1)
        for i in range(4):
            d.complete("Max", max_tokens=2)
        assert d.total("tokenlane_queue_seconds_count", replica=str(1 - busy)) == 1 + 4
        assert d.total("tokenlane_queue_seconds_count", replica=str(busy)) == 1 + 1
        events(lines)


# --- the context --------------------------------------------------------------------------------------------
def test_context_limits(start):
    d = start({"engine.max_context": 64})
    prompt = d.tokens("Once upon a time there was a girl")
    full = (prompt * 64)[:64]
    for tokens, max_tokens in ((full, 1), (full + full, 1), (full[:60], 5), (prompt, 64)):
        answer = d.post("/v1/completions", model=NAME, prompt=tokens, max_tokens=max_tokens)
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["param"] == "prompt", error
        assert error["code"] == "context_length_exceeded" and "context length is 64 tokens" in error["message"], error
    answer = d.post("/v1/chat/completions", model=NAME, messages=[{"role": "user", "content": "Max " * 100}])
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "messages", answer.text
    # the last token that fits
    got = d.complete(full[:60], max_tokens=4, ignore_eos=True)
    assert got["choices"][0]["finish_reason"] == "length" and got["usage"]["total_tokens"] == 64
    # no max_tokens: a chat goes on until the context is full
    got = d.chat("Who is Clara?", ignore_eos=True)
    assert got["choices"][0]["finish_reason"] == "length" and got["usage"]["total_tokens"] == 64


def test_long_prompt_and_a_decode_share_steps(start):
    """With 16 tokens a step, 800 tokens of prompt take 50 steps; a stream moves in each of them."""
    d = start({"engine.max_batch_tokens": 16, "engine.max_batch_size": 4})
    prompt = (d.tokens(" ".join(WORDS)) * 60)[:800]
    with ThreadPoolExecutor(1) as pool, stream(d) as running:
        lines = running.iter_lines()
        next(lines)
        before = d.total("tokenlane_generated_tokens_total")
        slow = pool.submit(d.complete, prompt, max_tokens=1)
        slow.result()
        assert d.total("tokenlane_generated_tokens_total") - before >= 800 // 16
        running.close()
    d.wait_rest()
