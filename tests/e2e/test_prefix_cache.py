# SPDX-License-Identifier: MIT
"""Shared prefixes: what they save, what they must not change, who may share."""
import concurrent.futures

import pytest

from daemon import Daemon, events

STORY = "Once upon a time there was a boy called Ben who lived in a little house near the sea. "
LONG = STORY * 4  # about 100 tokens


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """fresh(options): a daemon of this file with nothing in its cache but what its tests put there."""
    made = {}

    def get(**options):
        key = tuple(sorted(options.items()))
        if key not in made:
            made[key] = Daemon(tmp_path_factory.mktemp("cache") / "log", {k.replace("__", "."): v for k, v in options.items()})
        return made[key]
    yield get
    for d in made.values():
        d.wait_rest()
        d.stop()


def test_a_second_request_is_served_from_the_cache(fresh):
    d, prompt = fresh(), "first " + LONG
    n = len(d.tokens(prompt))
    before, computed = d.total("tokenlane_prefix_cache_hit_tokens_total"), d.total("tokenlane_prompt_tokens_total")
    first = d.complete(prompt, max_tokens=30, logprobs=3)
    again = d.complete(prompt, max_tokens=30, logprobs=3)
    hit = (n - 1) // 16 * 16  # full blocks, and the last token is always computed
    assert cached(first) == 0 and cached(again) == hit > 64
    assert first["choices"] == again["choices"]  # bit-identical: text and every log-probability
    assert d.total("tokenlane_prefix_cache_hit_tokens_total") - before == hit
    assert d.total("tokenlane_prompt_tokens_total") - computed == 2 * n - hit
    assert again["usage"]["prompt_tokens"] == n
    d.wait_rest()
    assert d.total("tokenlane_prefix_cache_blocks") >= hit // 16


def test_greedy_answers_are_the_same_with_and_without(fresh):
    """Many requests that share prefixes in many ways, at once, three times over."""
    on, off = fresh(engine__max_batch_tokens=64), fresh(engine__prefix_cache="false")
    prompts = [LONG[:length] + tail for length in (0, 40, 90, 200, 330) for tail in ("The dog", "Ben said", LONG[:150], "")][:-1]
    prompts = [p for p in prompts if p]

    def ask(d, prompt):
        return d.complete(prompt, max_tokens=24, logprobs=1)["choices"]
    want = [ask(off, p) for p in prompts]
    assert off.total("tokenlane_prefix_cache_hit_tokens_total") == 0
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(lambda p: ask(on, p), prompts)) == want
    assert on.total("tokenlane_prefix_cache_hit_tokens_total") > 1000


def test_evictions_change_nothing(fresh):
    """A KV cache that holds hardly more than one request."""
    d = fresh(engine__max_context=320, engine__max_batch_size=4, engine__kv_memory_bytes=700000)
    plain = fresh(engine__prefix_cache="false")
    prompts = [f"number {i} " + LONG for i in range(6)]
    want = [plain.complete(p, max_tokens=20)["choices"] for p in prompts]
    for _ in range(3):
        assert [d.complete(p, max_tokens=20)["choices"] for p in prompts] == want
    assert d.total("tokenlane_kv_blocks") < 6 * 7  # of which each prompt fills 6 or 7
    assert d.total("tokenlane_prefix_cache_evictions_total") > 0


def test_a_conversation_goes_on(fresh):
    d = fresh()
    messages = [{"role": "user", "content": "Tell me a story about Ben. " + LONG}]
    first = d.post("/v1/chat/completions", model="demo", messages=messages, temperature=0, max_tokens=40).json()
    messages += [first["choices"][0]["message"], {"role": "user", "content": "And then?"}]
    messages[1].pop("refusal", None)
    second = d.post("/v1/chat/completions", model="demo", messages=messages, temperature=0, max_tokens=10).json()
    assert cached(second) >= first["usage"]["prompt_tokens"] // 16 * 16 - 16


def test_salts_keep_apart(fresh):
    d, prompt = fresh(), "salted " + LONG
    assert cached(d.complete(prompt, max_tokens=1)) == 0
    assert cached(d.complete(prompt, max_tokens=1, cache_salt="one")) == 0
    assert cached(d.complete(prompt, max_tokens=1, cache_salt="two")) == 0
    assert cached(d.complete(prompt, max_tokens=1, cache_salt="one")) > 64
    assert cached(d.complete(prompt, max_tokens=1)) > 64


@pytest.mark.parametrize("salt", ["", "x" * 257, 5, ["a"]])
def test_bad_salts(daemon, salt):
    answer = daemon.post("/v1/completions", model="demo", prompt="x", cache_salt=salt)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "cache_salt"
    assert "expected a string of 1 to 256 bytes" in answer.json()["error"]["message"]


def test_scored_prompts_lose_no_row(fresh):
    d, prompt = fresh(), "scored " + LONG
    first = d.complete(prompt, max_tokens=3, echo=True, logprobs=2)
    again = d.complete(prompt, max_tokens=3, echo=True, logprobs=2)
    assert first["choices"] == again["choices"]
    scores = again["choices"][0]["logprobs"]["token_logprobs"]
    assert len(scores) == first["usage"]["prompt_tokens"] + 3
    assert scores[0] is None and all(s < 0 for s in scores[1:])
    assert cached(again) == 0
    unscored = d.complete(prompt, max_tokens=3, logprobs=2)  # what they computed serves others
    assert cached(unscored) > 64
    assert unscored["choices"][0]["logprobs"]["token_logprobs"] == scores[-3:]


@pytest.mark.parametrize("prefix_cache", ["true", "false"])
def test_choices_share_one_prefill(fresh, prefix_cache):
    d, prompt = fresh(engine__prefix_cache=prefix_cache), "choices " + LONG
    n = len(d.tokens(prompt))
    alone = [d.complete(prompt, max_tokens=12, temperature=1, seed=5, cache_salt="alone")]
    before = d.total("tokenlane_prompt_tokens_total")
    answer = d.complete(prompt, max_tokens=12, temperature=1, seed=5, n=8)
    computed = d.total("tokenlane_prompt_tokens_total") - before
    assert computed == n + 7 * (n - (n - 1) // 16 * 16)  # once, and 7 times what is no full block
    assert cached(answer) == 0 and answer["usage"]["prompt_tokens"] == n
    assert answer["choices"][0] == alone[0]["choices"][0]
    assert len({c["text"] for c in answer["choices"]}) > 3
    greedy = d.complete(prompt, max_tokens=12, n=4)["choices"]
    assert {c["text"] for c in greedy} == {d.complete(prompt, max_tokens=12)["choices"][0]["text"]}


def test_streams_report_it_too(fresh):
    d, prompt = fresh(), "streamed " + LONG
    d.complete(prompt, max_tokens=2)
    with d.http.stream("POST", "/v1/completions", json={
            "model": "demo", "prompt": prompt, "max_tokens": 2, "stream": True, "temperature": 0,
            "stream_options": {"include_usage": True}}) as answer:
        last = events(answer.iter_lines())[-1]
    assert last["choices"] == [] and cached(last) > 64


def test_cancelled_ones_leave_a_sound_cache(fresh):
    d, prompt = fresh(), "cancelled " + LONG * 2
    want = fresh(engine__prefix_cache="false").complete(prompt, max_tokens=20)["choices"]
    for _ in range(20):
        with d.http.stream("POST", "/v1/completions", json={
                "model": "demo", "prompt": prompt, "max_tokens": 500, "stream": True, "temperature": 0, "ignore_eos": True}):
            pass  # closed at once
    assert d.complete(prompt, max_tokens=20)["choices"] == want
    d.wait_rest()
