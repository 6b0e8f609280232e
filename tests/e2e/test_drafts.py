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
    d = Daemon(tmp_path_factory.mktemp("plain") / "log", {"engine.draft_tokens": 0})
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
        wanted = wanted[::5]
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


def chat(x, text, **more):
    answer = x.post("/v1/chat/completions", model="demo", messages=[{"role": "user", "content": "Once"}], max_tokens=100, ignore_eos=True,
                    **{"prediction": {"type": "content", "content": text}} if text is not None else {}, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


@exact
def test_what_a_client_predicts_is_guessed(start, plain):
    """A right prediction saves most of the steps, a half right one some, a wrong one none; the answer is the same."""
    d = start({"engine.draft_tokens": 8})
    for more in ({"temperature": 0}, {"temperature": 1, "seed": 3, "n": 2, "logprobs": True}):
        want = chat(plain, None, **more)
        text = want["choices"][0]["message"]["content"]
        assert "completion_tokens_details" not in want["usage"]
        steps = {}
        for name, predicted in (("none", None), ("all", text), ("parts", [{"type": "text", "text": part} for part in (text[:50], text[50:])]),
                                ("half", "Nothing of it. " * 5 + text[len(text) // 2:]), ("wrong", "x y z " * 20), ("empty", ""),
                                ("long", text + " and so on" * 3000)):  # more than a sequence has
            before = d.total("tokenlane_steps_total")
            got = chat(d, predicted, **more)
            steps[name] = d.total("tokenlane_steps_total") - before
            assert got["choices"] == want["choices"], name
            details = got["usage"].get("completion_tokens_details")
            assert (details is None) == (predicted is None)
            if name in ("all", "parts", "long"):
                assert details["accepted_prediction_tokens"] > (70 if more["temperature"] == 0 else 30)
                assert set(details) == {"accepted_prediction_tokens", "rejected_prediction_tokens"}
        if more["temperature"] == 0:
            assert steps["all"] == steps["parts"] == steps["long"] < steps["none"] / 2 and steps["all"] < steps["half"] < steps["none"], steps
    want = chat(plain, None, temperature=0)["choices"][0]["message"]["content"]
    cut = chat(d, want, temperature=0, stop=[want[20:24]])["usage"]  # guesses behind what stopped it are not the answer's
    assert 0 < cut["completion_tokens_details"]["accepted_prediction_tokens"] <= cut["completion_tokens"]
    off = chat(plain, text, temperature=0)["usage"]["completion_tokens_details"]
    assert off == {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
    with d.http.stream("POST", "/v1/chat/completions", json={"model": "demo", "messages": [{"role": "user", "content": "Once"}], "max_tokens": 9, "stream": True,
                       "stream_options": {"include_usage": True}, "prediction": {"type": "content", "content": "There was"}}) as answer:
        last = [e for e in events(answer.iter_lines()) if not e["choices"]]
    assert "accepted_prediction_tokens" in last[0]["usage"]["completion_tokens_details"]


@pytest.mark.parametrize("wrong, says", [
    ("text", "prediction: expected an object, got"), ({"type": "text", "content": "a"}, 'prediction.type: expected "content", got'),
    ({"content": "a"}, "prediction.type"), ({"type": "content"}, "prediction.content: expected a string or a list of text parts"),
    ({"type": "content", "content": 5}, "prediction.content: expected"), ({"type": "content", "content": "a", "more": 1}, "prediction: expected type and content, got more"),
    ({"type": "content", "content": ["a"]}, "prediction.content[0]: expected"),
    ({"type": "content", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": "x"}]}, "prediction.content[1]: expected"),
])
def test_predictions_of_another_shape(plain, wrong, says):
    answer = plain.post("/v1/chat/completions", model="demo", messages=[{"role": "user", "content": "a"}], prediction=wrong)
    assert answer.status_code == 400 and answer.json()["error"]["message"].startswith(says), answer.text
    assert answer.json()["error"]["param"] == says.split(":")[0]


@exact
def test_tokens_in_no_order_are_soon_left_alone(start):
    """Drawn among four, one guess in five is right by chance: that must not begin it all again each time."""
    d = start({"engine.draft_tokens": 4})
    for seed in range(8):
        d.complete("Once", max_tokens=400, temperature=2, seed=seed, allowed_token_ids=[5, 6, 7, 8], ignore_eos=True)
    assert 0 < taken(d) < guessed(d) < 400  # of 3200 tokens; 547 when one right guess ended the waiting


@exact
def test_by_itself_on_processors(start, plain, wanted):
    """Up to four tokens, unless it is turned off; simulated devices, whose text repeats nothing, and GPUs have none."""
    assert wanted and guessed(plain) == 0
    d = start({})
    assert [ask(d, body) for body, _ in wanted[:8]] == [want for _, want in wanted[:8]]
    body = {"prompt": "one two three four five " * 8, "max_tokens": 100, "temperature": 0, "ignore_eos": True}
    assert d.complete(**body)["choices"] == plain.complete(**body)["choices"]
    assert taken(d) > 20
    simulated = start({"devices": "sim:0", "sim.base_us": 100})
    simulated.complete(**body)
    assert guessed(simulated) == 0
