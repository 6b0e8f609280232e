# SPDX-License-Identifier: MIT
"""What is refused, with which status, and that no worker hears of it."""
from concurrent.futures import ThreadPoolExecutor

import pytest

from daemon import MODEL, NAME, wait_for
from simulated import Vocabulary

SLOW_SIM = {"devices": "sim:0,sim:1", "sim.base_us": 20000, "engine.max_batch_size": 4, "engine.max_context": 256}


def ask(d, **fields):
    return d.post("/v1/completions", **{"model": NAME, "prompt": [5, 6, 7, 8], "max_tokens": 60, "temperature": 0, **fields})


def steps(d):
    return d.total("tokenlane_steps_total")


def held(d, n):
    """n requests that run on; their answers."""
    pool = ThreadPoolExecutor(n)
    answers = [pool.submit(ask, d) for _ in range(n)]
    wait_for(lambda: d.total("tokenlane_sequences_running") + d.total("tokenlane_sequences_waiting") == n, 10, "the held ones")
    return answers


@pytest.mark.parametrize("limits, n", [
    ({"limits.max_waiting_tokens": 2 * 64}, 4),        # of each
    ({"limits.max_total_waiting_tokens": 3 * 64}, 3),  # of all
    ({"limits.max_queue": 2}, 4),
])
def test_full(start, limits, n):
    d = start({**SLOW_SIM, **limits})
    answers = held(d, n)
    refused = [ask(d) for _ in range(5)]
    for r in refused:
        assert r.status_code == 429 and 1 <= int(r.headers["retry-after"]) <= 60
        assert r.json()["error"]["code"] == "server_overloaded"
    assert d.total("tokenlane_route_refused_total", reason="full") == 5
    assert all(a.result().status_code == 200 for a in answers)
    d.wait_rest()
    assert ask(d, max_tokens=3).status_code == 200  # and there is room again


def test_full_is_said_before_a_prompt_is_read(start):
    """What is looked at only by template and tokenizer, or by nobody, is not looked at; what can never be served is told so."""
    d = start({**SLOW_SIM, "limits.max_queue": 2})
    answers = held(d, 4)
    no_role = {"model": NAME, "messages": [{"content": "no role"}], "max_tokens": 4}
    large = b"{nonsense" + b" " * 8192
    for r in [ask(d, prompt="Once upon a time"), d.post("/v1/chat/completions", **no_role), d.http.post("/v1/completions", content=large)]:
        assert r.status_code == 429 and 1 <= int(r.headers["retry-after"]) <= 60
        assert r.json()["error"]["code"] == "server_overloaded"
    for r in [ask(d, n=5), ask(d, max_tokens=300), ask(d, temperature=9), d.http.post("/v1/completions", content=large[:20])]:
        assert r.status_code == 400, r.text
    # the exact figures, though the tokens are not needed for the refusal
    assert "asks for 304 (4 in prompt, 300 by max_tokens)" in ask(d, prompt="Once upon a time", max_tokens=300).json()["error"]["message"]
    assert d.total("tokenlane_route_refused_total", reason="full") == 3
    assert all(a.result().status_code == 200 for a in answers)
    d.wait_rest()
    assert d.post("/v1/chat/completions", **no_role).status_code == 400
    assert d.http.post("/v1/completions", content=large).status_code == 400


def test_retry_after_is_the_backlog_over_the_rate(start):
    d = start({**SLOW_SIM, "devices": "sim:0", "sim.base_us": 100000, "engine.max_batch_size": 1, "limits.max_queue": 2,
               "engine.max_context": 64, "drain_timeout_ms": 100})
    ask(d, max_tokens=20)  # the rate is known: about 1.2 tokens in 100 ms
    answers = held(d, 2)
    seconds = int(ask(d).headers["retry-after"])
    assert 5 <= seconds <= 15  # 128 tokens wait
    d.signal()
    assert all(a.exception() or a.result().status_code for a in answers)


def test_what_can_never_fit(start):
    d = start({**SLOW_SIM, "limits.max_queue": 3, "limits.max_total_waiting_tokens": 400})
    d.complete([1], max_tokens=2)
    before = steps(d)
    for fields, message in [({"n": 7}, "at most 6 sequences here"),
                            ({"prompt": [[1]] * 7}, "at most 6 sequences here"),
                            ({"prompt": [[1] * 100] * 4, "max_tokens": 20}, "at most 400 tokens here"),
                            ({"max_tokens": 300}, "maximum context length is 256")]:
        answer = ask(d, **fields)
        assert answer.status_code == 400 and message in answer.json()["error"]["message"], answer.text
    assert steps(d) == before


@pytest.mark.parametrize("policy", ["least_load", "prefix", "round_robin"])
def test_policies(start, policy):
    """All serve the right text; prefix keeps equal beginnings together."""
    words = Vocabulary(MODEL)
    d = start({"devices": "sim:0,sim:1,sim:2,sim:3", "sim.base_us": 500, "engine.max_context": 512, "route.policy": policy})
    prompt = [words.ordinary[i] for i in range(160)]
    for i in range(12):
        assert d.complete(prompt + [i], max_tokens=5)["choices"][0]["text"] == words.expected_text(prompt + [i], 5)
    used = [d.total("tokenlane_prompt_tokens_total", replica=str(i)) > 100 for i in range(4)]
    assert used.count(True) == (1 if policy == "prefix" else 4)
