# SPDX-License-Identifier: MIT
"""Tokens guessed ahead (engine.draft_tokens) save steps and change no answer, whatever a request wants and however it runs."""
import concurrent.futures
import random

import pytest

from alike import exact
from daemon import Daemon, events

HOW = {
    "one_lane": {},
    "lanes": {"cpu.threads": 3},
    "little_memory": {"engine.kv_memory_bytes": 700000, "engine.max_context": 512},  # sequences are put back
    "without_cache": {"engine.prefix_cache": "false"},
    "process": {"isolation": "process"},
    "group": {"devices": "cpu:0,cpu:1", "engine.tensor_parallel": 2},
    "one_at_a_time": {"engine.max_batch_size": 1},
}


def guessed(d):
    return d.total("tokenlane_draft_tokens_total")


def taken(d):
    return d.total("tokenlane_draft_tokens_taken_total")


def make_requests(story):
    """Prompts that their answers repeat, and others; all kinds of wants."""
    rnd, words, made = random.Random(8), story.split(), []
    for i in range(28):
        prompt = rnd.choice([story + " " + " ".join(words[: rnd.randrange(3, 60)]), " ".join(rnd.choices(words, k=rnd.randrange(5, 60))), "Once"])
        body = {"prompt": prompt, "max_tokens": rnd.choice([1, 2, 3, 4, 40, 150]), "temperature": rnd.choice([0, 0, 0.7, 1.2]), "seed": i,
                "ignore_eos": rnd.random() < 0.5}
        if body["temperature"] and rnd.random() < 0.3:
            body["n"] = 3
        for chance, more in ((0.2, {"logprobs": 3}), (0.2, {"stop": ["."]}), (0.15, {"frequency_penalty": 0.5}), (0.1, {"min_tokens": 1}),
                             (0.1, {"top_k": 3}), (0.1, {"logit_bias": {"5": -3}}), (0.1, {"structured_outputs": {"regex": "[a-z ]{5,30}"}})):
            if rnd.random() < chance:
                body |= more
        made.append(body)
    # begin in little room, and want much at once
    return made + [{"prompt": "Once", "max_tokens": 200, "temperature": 0.5, "seed": i, "ignore_eos": True} for i in range(12)]


def ask(d, body):
    answer = d.complete(**body)
    return answer["choices"], answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    d = Daemon(tmp_path_factory.mktemp("plain") / "log", {})
    yield d
    d.stop()


@pytest.fixture(scope="module")
def wanted(plain):
    story = "Once" + plain.complete("Once", max_tokens=120, temperature=1, seed=5)["choices"][0]["text"]
    made = make_requests(story)
    return [(body, ask(plain, body)) for body in made]


@exact
@pytest.mark.parametrize("how", HOW)
def test_answers_are_the_same(start, wanted, how):
    d = start({"engine.draft_tokens": 6, **HOW[how]})
    if how in ("lanes", "group"):  # which take long where processors are few
        wanted = wanted[::3]
    for at_once in (1, 12):
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            got = list(pool.map(lambda want: ask(d, want[0]), wanted))
        for (body, want), answer in zip(wanted, got):
            if how == "group":  # its sums over ranks are rounded otherwise: against itself, below
                continue
            assert answer == want, body
    if how == "group":
        assert got == [ask(d, body) for body, _ in wanted]
    d.wait_rest()
    if how == "one_at_a_time":  # a step has as many rows as sequences
        assert guessed(d) == 0
        return
    assert guessed(d) > taken(d) > 10
    if how == "little_memory":
        assert d.total("tokenlane_preemptions_total") > 0


@exact
def test_steps_are_saved(start, plain):
    d = start({"engine.draft_tokens": 8})
    prompt = "one two three four five " * 8
    body = {"prompt": prompt, "max_tokens": 100, "temperature": 0, "ignore_eos": True}
    steps = [x.total("tokenlane_steps_total") for x in (plain, d)]
    want, got = plain.complete(**body), d.complete(**body)
    assert got["choices"] == want["choices"]
    steps = [x.total("tokenlane_steps_total") - before for x, before in zip((plain, d), steps)]
    assert steps[0] >= 100 and steps[1] < 80
    assert steps[0] - steps[1] == taken(d)


@exact
def test_streams_tell_each_token_once(start, plain):
    d = start({"engine.draft_tokens": 8})
    body = {"model": "demo", "prompt": "one two three four five " * 8, "max_tokens": 60, "temperature": 0, "stream": True, "logprobs": 1, "ignore_eos": True}

    def told(x):
        with x.http.stream("POST", "/v1/completions", json=body) as answer:
            chunks = [e["choices"][0] for e in events(answer.iter_lines()) if e["choices"]]
        return "".join(c["text"] for c in chunks), [t for c in chunks if c.get("logprobs") for t in c["logprobs"]["token_logprobs"]]
    want, got = told(plain), told(d)
    assert got == want and len(got[1]) == 60
    assert taken(d) > 10


def test_off_unless_asked_for(plain, wanted):
    assert wanted and guessed(plain) == 0
