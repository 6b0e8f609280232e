# SPDX-License-Identifier: MIT
"""allowed_token_ids, as vLLM's users send it: whatever else is asked for, no other token comes."""
import json

import pytest

from daemon import MODEL, NAME
from simulated import Vocabulary, expected

openai = pytest.importorskip("openai")
EOS = 2  # <|im_end|> of the demo model
FAST = {"sim.base_us": 1000, "sim.per_token_ns": 100, "sim.per_block_ns": 0}
PROMPT = "Once upon a time"


def send(client, endpoint, stream=False, n=1, **fields):
    """The token ids of each choice, and why each ended."""
    own = {k: fields.pop(k) for k in ("max_tokens", "temperature", "seed", "top_p", "logit_bias") if k in fields}
    extra = {"return_token_ids": True, **fields}
    call, prompt = (client.completions, {"prompt": PROMPT}) if endpoint == "completions" else \
        (client.chat.completions, {"messages": [{"role": "user", "content": PROMPT}]})
    answer = call.create(model=NAME, n=n, stream=stream, extra_body=extra, **prompt, **own)
    ids, ends = [[] for _ in range(n)], [None] * n
    for choice in (c for chunk in (answer if stream else [answer]) for c in chunk.choices):
        ids[choice.index] += getattr(choice, "token_ids", None) or []
        ends[choice.index] = choice.finish_reason or ends[choice.index]
    return ids, ends


def likeliest(daemon, n=20):
    """{id: log-probability} of the first token, most likely first."""
    choice = daemon.complete(PROMPT, max_tokens=1, temperature=0, logprobs=n, return_tokens_as_token_ids=True)["choices"][0]
    return {int(t.split(":")[1]): p for t, p in choice["logprobs"]["top_logprobs"][0].items()}


def letters(daemon):
    """Ids of small texts, without EOS."""
    return sorted({i for word in ("a b c d e f", "the cat sat", "1, 2") for i in daemon.tokens(word)} - {0, 1, EOS})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("endpoint", ["completions", "chat"])
@pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 1}, {"temperature": 1.5, "top_p": 0.8, "top_k": 3},
                                    {"temperature": 1, "min_p": 0.2, "frequency_penalty": 1.0, "repetition_penalty": 1.2},
                                    {"temperature": 0, "min_tokens": 10}])
def test_no_other_token_comes(daemon, client, endpoint, stream, fields):
    allowed = letters(daemon)
    ids, ends = send(client, endpoint, stream, n=3, max_tokens=20, seed=7, allowed_token_ids=allowed[::-1] + allowed, **fields)
    assert ends == ["length"] * 3 and [len(i) for i in ids] == [20] * 3
    assert {i for one in ids for i in one} <= set(allowed)
    if fields["temperature"] == 1:
        assert len({tuple(i) for i in ids}) == 3
    again, _ = send(client, endpoint, not stream, n=3, max_tokens=20, seed=7, allowed_token_ids=allowed, **fields)
    assert again == ids


def test_greedy_takes_the_likeliest_of_them(daemon, client):
    order = list(likeliest(daemon))
    for some in ([order[12], order[7]], order[3:9], [order[19]], order):
        assert send(client, "completions", max_tokens=1, temperature=0, allowed_token_ids=some)[0] == [[min(some, key=order.index)]]


def test_log_probabilities_are_those_of_the_model(daemon):
    best = likeliest(daemon)
    token = list(best)[9]
    for temperature in (0, 1):
        choice = daemon.complete(PROMPT, max_tokens=1, temperature=temperature, logprobs=5, return_tokens_as_token_ids=True,
                                 allowed_token_ids=[token])["choices"][0]
        assert choice["logprobs"]["tokens"] == [f"token_id:{token}"]
        assert choice["logprobs"]["token_logprobs"][0] == pytest.approx(best[token], abs=1e-4)
        top = choice["logprobs"]["top_logprobs"][0]
        assert all(top[f"token_id:{t}"] == pytest.approx(p, abs=1e-4) for t, p in list(best.items())[:5])


def test_an_echoed_prompt_is_what_it_was(daemon):
    choice = daemon.complete(PROMPT, max_tokens=4, temperature=0, logprobs=0, echo=True, allowed_token_ids=letters(daemon))["choices"][0]
    whole = daemon.complete(PROMPT, max_tokens=4, temperature=0, logprobs=0, echo=True)["choices"][0]
    n = len(daemon.tokens(PROMPT))
    assert choice["text"].startswith(PROMPT) and choice["text"] != whole["text"]
    assert choice["logprobs"]["token_logprobs"][1:n] == whole["logprobs"]["token_logprobs"][1:n]


def test_the_end_comes_only_if_it_is_listed(daemon, client):
    _, ends = send(client, "chat", max_tokens=300, temperature=0)
    assert ends == ["stop"]
    everything = list(range(EOS + 1, 500))
    assert send(client, "chat", max_tokens=300, temperature=0, allowed_token_ids=everything)[1] == ["length"]
    assert send(client, "chat", max_tokens=300, temperature=0, allowed_token_ids=[EOS]) == ([[EOS]], ["stop"])
    ids, ends = send(client, "chat", max_tokens=5, temperature=0, allowed_token_ids=[EOS], ignore_eos=True)
    assert (ids, ends) == ([[EOS] * 5], ["length"])
    ids, ends = send(client, "chat", max_tokens=5, temperature=0, allowed_token_ids=[EOS, 300], min_tokens=3)
    assert ids[0][:3] == [300] * 3 and set(ids[0]) <= {300, EOS}


def test_with_biases(daemon, client):
    order = list(likeliest(daemon))
    a, b, other = order[2], order[5], order[0]
    take = {"max_tokens": 6, "temperature": 0, "allowed_token_ids": [a, b]}
    assert send(client, "completions", logit_bias={str(other): 100, str(a): -100}, **take)[0] == [[b] * 6]
    assert send(client, "completions", logit_bias={str(b): 100}, **take)[0] == [[b] * 6]
    ids, _ = send(client, "completions", **{**take, "temperature": 1}, n=4, seed=1, logit_bias={str(other): 100})
    assert {i for one in ids for i in one} == {a, b}


def test_each_request_has_its_own(start):
    """Side by side in the same steps: free ones, and such with other sets, some of which share nothing."""
    d = start({"engine.max_batch_size": 16})
    with openai.OpenAI(base_url=d.url + "/v1", api_key="none", max_retries=0) as client:
        prompts = [f"Story {i}" for i in range(12)]
        sets = [None, [300, 301, 302, 303], list(range(310, 400))]

        def stream_of(i):
            extra = {"return_token_ids": True, **({"allowed_token_ids": sets[i % 3]} if sets[i % 3] else {})}
            return client.completions.create(model=NAME, prompt=prompts[i], max_tokens=30, temperature=1, seed=i, stream=True,
                                             extra_body=extra)

        def read(stream):
            return [i for chunk in stream for c in chunk.choices for i in getattr(c, "token_ids", None) or []]

        alone = [read(stream_of(i)) for i in range(12)]
        streams = [stream_of(i) for i in range(12)]
        assert [read(s) for s in streams] == alone
        assert all(set(alone[i]) <= set(sets[i % 3]) for i in range(12) if sets[i % 3])


def test_in_a_process_of_its_own(start, client):
    fields = {"max_tokens": 20, "temperature": 1, "seed": 3, "n": 4, "allowed_token_ids": list(range(300, 340))}
    here = send(client, "completions", **fields)
    d = start({"isolation": "process"})
    with openai.OpenAI(base_url=d.url + "/v1", api_key="none", max_retries=0) as other:
        assert send(other, "completions", **fields) == here
        free = {k: v for k, v in fields.items() if k != "allowed_token_ids"}
        assert send(other, "completions", **free) == send(client, "completions", **free)


@pytest.mark.parametrize("options", [{}, {"isolation": "process"}, {"sim.faults": "0@6:error", "health.backoff_ms": 50},
                                     {"devices": "sim:0,sim:1,sim:2,sim:3", "engine.tensor_parallel": 2}])
def test_simulated_devices(start, options):
    d = start({**FAST, "devices": "sim:0,sim:1", **options})
    vocabulary, allowed = Vocabulary(MODEL), [5, 70, 300, 301, 302, 400]
    prompt = d.tokens(PROMPT)
    for temperature in (0, 1):
        fields = {"max_tokens": 24, "temperature": temperature, "seed": 11, "return_token_ids": True}
        held = d.complete(PROMPT, allowed_token_ids=allowed, **fields)["choices"][0]["token_ids"]
        free = d.complete(PROMPT, **fields)["choices"][0]["token_ids"]
        assert held == expected(prompt, 24, (), temperature=temperature, seed=11, allowed=allowed)
        assert free == expected(prompt, 24, vocabulary.ordinary, temperature=temperature, seed=11)


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
@pytest.mark.parametrize("fields, message", [
    ({"allowed_token_ids": []}, "allowed_token_ids: expected 1 to {vocab} token ids, got 0"),
    ({"allowed_token_ids": [5] * 5000}, "allowed_token_ids: expected 1 to {vocab} token ids, got 5000"),
    ({"allowed_token_ids": [3, 4, -1]}, "allowed_token_ids[2]: expected a token id from 0 to {last}, got -1"),
    ({"allowed_token_ids": [3, 1000000]}, "allowed_token_ids[1]: expected a token id from 0 to {last}, got 1000000"),
    ({"allowed_token_ids": ["a"]}, 'allowed_token_ids[0]: expected a token id from 0 to {last}, got a string'),
    ({"allowed_token_ids": [1.5]}, "allowed_token_ids[0]: expected a token id from 0 to {last}, got 1.5"),
    ({"allowed_token_ids": 7}, "allowed_token_ids: expected a list, got 7"),
    ({"allowed_token_ids": [EOS], "min_tokens": 1},
     "allowed_token_ids: has only tokens that end the answer, which min_tokens forbids")])
def test_what_is_refused(daemon, client, endpoint, fields, message):
    vocab = json.loads((MODEL / "config.json").read_text())["vocab_size"]
    with pytest.raises(openai.BadRequestError) as error:
        send(client, endpoint, max_tokens=5, **fields)
    assert error.value.body["message"] == message.format(vocab=vocab, last=vocab - 1)
    assert error.value.param == "allowed_token_ids"
    assert send(client, endpoint, max_tokens=2, allowed_token_ids=None)[1] == ["length"]
