# SPDX-License-Identifier: MIT
"""OpenAI's own Python client, unchanged, against the daemon."""
import asyncio
import json
import math

import openai
import pytest

from alike import TOLERANCE, exact
from daemon import LONG, MODEL, NAME, ON_GPU, SLOW, model_with, wait_for

QUESTION = "Who is Clara?"


def ask(client, text=QUESTION, **fields):
    fields = {"temperature": 0, **fields}
    return client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": text}], **fields)


def complete(client, prompt="Once", **fields):
    return client.completions.create(**{"model": NAME, "prompt": prompt, "temperature": 0, **fields})


def content(answer):
    return answer.choices[0].message.content


def text_of(chunk):
    return chunk.choices[0].delta.content if hasattr(chunk.choices[0], "delta") else chunk.choices[0].text


def joined(chunks, index=0):
    return "".join(text_of(c) or "" for c in chunks if c.choices and c.choices[0].index == index)


def tokens_of(answer):
    return [t.token for t in answer.choices[0].logprobs.content]


BOTH = pytest.mark.parametrize("make", [ask, complete])


# --- models -----------------------------------------------------------------------------------


def test_models_are_listed(client):
    assert [m.id for m in client.models.list()] == [NAME, "other-name", "org/demo"]


@pytest.mark.parametrize("name", [NAME, "other-name", "org/demo"])
def test_model_is_retrieved(client, name):
    model = client.models.retrieve(name)
    assert (model.id, model.object, model.owned_by) == (name, "model", "tokenlane")


def test_models_say_how_large_they_are(client):
    """max_model_len as vLLM has it, meta as llama.cpp's server."""
    config = json.loads((MODEL / "config.json").read_text())
    with open(MODEL / "model.safetensors", "rb") as file:
        head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    tensors = [t for name, t in head.items() if name != "__metadata__"]
    about = client.models.retrieve(NAME).model_extra
    assert about["max_model_len"] <= about["meta"]["n_ctx_train"]
    assert about["meta"] == {
        "n_vocab": config["vocab_size"], "n_ctx_train": config["max_position_embeddings"], "n_embd": config["hidden_size"],
        "n_params": sum(math.prod(t["shape"]) for t in tensors),
        "size": sum(t["data_offsets"][1] - t["data_offsets"][0] for t in tensors)}
    assert all(m.model_extra["meta"] == about["meta"] for m in client.models.list())


def test_answer_names_the_model_as_the_client_did(client):
    assert complete(client, model="org/demo", max_tokens=1).model == "org/demo"


# --- plain answers ------------------------------------------------------------------------------


def test_chat(daemon, client):
    answer = ask(client)
    messages = [{"role": "user", "content": QUESTION}]
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-") and answer.system_fingerprint
    assert content(answer).startswith("Clara is a doctor")
    assert (answer.choices[0].finish_reason, answer.choices[0].message.role) == ("stop", "assistant")
    assert answer.usage.prompt_tokens == daemon.post("/tokenize", messages=messages).json()["count"]
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_completion(daemon, client):
    answer = complete(client, "Ben is a", max_tokens=5)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert answer.choices[0].text.startswith(" fisherman")
    assert answer.usage.prompt_tokens == len(daemon.tokens("Ben is a"))


def test_completions_give_16_tokens_when_nothing_is_said(client):
    answer = complete(client, extra_body={"ignore_eos": True})
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (16, "length")


def test_text_parts_are_one_text(client):
    parts = [{"type": "text", "text": "Tell me a story"}, {"type": "text", "text": "about Ben."}]
    assert content(ask(client, parts, max_tokens=40)) == content(ask(client, "Tell me a story\nabout Ben.", max_tokens=40))


def test_ids_are_unique(client):
    assert len({complete(client, max_tokens=1).id for _ in range(20)}) == 20


# --- streams --------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("limit", [1, 60])
def test_stream_says_what_the_plain_answer_says(client, make, limit):
    plain, chunks = make(client, max_tokens=limit), list(make(client, max_tokens=limit, stream=True))
    text = content(plain) if make is ask else plain.choices[0].text
    assert joined(chunks) == text
    assert [c.choices[0].finish_reason for c in chunks] == [None] * (len(chunks) - 1) + [plain.choices[0].finish_reason]
    assert len({c.id for c in chunks}) == 1 and all(c.usage is None for c in chunks)


def test_stream_gives_the_role_first(client):
    roles = [c.choices[0].delta.role for c in ask(client, stream=True)]
    assert roles == ["assistant"] + [None] * (len(roles) - 1)


@BOTH
def test_stream_with_usage(client, make):
    *chunks, last = make(client, max_tokens=9, stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage == make(client, max_tokens=9).usage
    assert all(c.usage is None and c.choices for c in chunks)


def test_clients_stream_helper(client):
    with client.chat.completions.stream(model=NAME, messages=[{"role": "user", "content": QUESTION}], temperature=0,
                                        logprobs=True) as stream:
        deltas = [e.delta for e in stream if e.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == content(final) == content(ask(client))
    assert "".join(tokens_of(final)).startswith(content(final))


@exact
def test_stream_of_several_choices(client):
    fields = {"n": 3, "seed": 5, "temperature": 1, "max_tokens": 20}
    plain, chunks = ask(client, **fields), list(ask(client, stream=True, **fields))
    assert [joined(chunks, i) for i in range(3)] == [c.message.content for c in plain.choices]
    assert len([c for c in chunks if c.choices[0].finish_reason]) == 3


# --- prompts ---------------------------------------------------------------------------------------


@exact
def test_prompt_forms_mean_the_same(daemon, client):
    texts = ["Ben is", "Anna has a", "Once upon"]
    ids = [daemon.tokens(t) for t in texts]
    alone = [complete(client, t, max_tokens=12).choices[0].text for t in texts]
    assert [complete(client, i, max_tokens=12).choices[0].text for i in ids] == alone
    for prompts in (texts, ids):
        answer = complete(client, prompts, max_tokens=12)
        assert [c.text for c in answer.choices] == alone and [c.index for c in answer.choices] == [0, 1, 2]
        assert answer.usage.prompt_tokens == sum(map(len, ids))


@exact
def test_prompts_times_choices(client):
    answer = complete(client, ["Ben", "Anna"], n=2, max_tokens=8, temperature=1, seed=3)
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    alone = [complete(client, p, n=2, max_tokens=8, temperature=1, seed=3).choices for p in ("Ben", "Anna")]
    assert [c.text for c in answer.choices] == [c.text for choices in alone for c in choices]


# --- chance ------------------------------------------------------------------------------------------


def sample(client, **fields):
    return complete(client, **{"temperature": 1.5, "max_tokens": 24, **fields}).choices[0].text


def test_seed_makes_it_again(client):
    assert sample(client, seed=11) == sample(client, seed=11)
    assert len({sample(client, seed=s) for s in (0, -1, 1, 2**63 - 1, -2**63)}) == 5


def test_without_a_seed_each_answer_is_another(client):
    # long ones: the demo's stories begin alike, of 300 with 24 tokens seven were the same
    assert len({sample(client, max_tokens=100) for _ in range(4)}) == 4
    assert len({c.text for c in complete(client, ["Once"] * 2, n=2, temperature=1.5, max_tokens=100).choices}) == 4


@exact
def test_several_choices(client):
    answer = ask(client, "Tell me a story.", n=4, temperature=1.5, seed=7, max_tokens=30)
    texts = [c.message.content for c in answer.choices]
    assert [c.index for c in answer.choices] == [0, 1, 2, 3] and len(set(texts)) == 4
    alone = ask(client, "Tell me a story.", temperature=1.5, seed=7, max_tokens=30)
    assert content(alone) == texts[0] and alone.usage.prompt_tokens == answer.usage.prompt_tokens


@pytest.mark.parametrize("field", [{"top_k": 1}, {"min_p": 1}, {"top_p": 0}, {"top_p": 1e-6}, {"temperature": 1e-6}])
def test_filters_that_leave_one_token_are_greedy(client, field):
    greedy = complete(client, max_tokens=24).choices[0].text
    assert sample(client, temperature=2, seed=1) != greedy
    assert sample(client, seed=1, extra_body={"temperature": 2, **field}) == greedy


@pytest.mark.parametrize("penalty", [{"presence_penalty": 2}, {"frequency_penalty": 2}, {"repetition_penalty": 2}])
def test_penalties_make_it_repeat_itself_less(client, penalty):
    def variety(**more):
        answer = ask(client, "Tell me a story.", max_tokens=80, logprobs=True, extra_body={"ignore_eos": True, **more})
        return len(set(tokens_of(answer)))
    assert variety(**penalty) > variety()


# --- log-probabilities ----------------------------------------------------------------------------------


def test_chat_logprobs(client):
    answer = ask(client, logprobs=True, top_logprobs=5)
    items = answer.choices[0].logprobs.content
    assert len(items) + 1 == answer.usage.completion_tokens  # the token that ends it is no part of the answer
    text = b"".join(bytes(i.bytes) for i in items).decode()
    assert text == content(answer) == "".join(i.token for i in items)
    for item in items:
        values = [t.logprob for t in item.top_logprobs]
        assert len(values) == 5 and values == sorted(values, reverse=True) and sum(map(math.exp, values)) <= 1.0001
        assert item.top_logprobs[0].token == item.token and item.logprob == values[0]


def test_chat_logprobs_without_alternatives(client):
    items = ask(client, logprobs=True).choices[0].logprobs.content
    assert items and all(i.top_logprobs == [] and i.logprob <= 0 for i in items)
    assert ask(client, logprobs=False).choices[0].logprobs is None


@BOTH
def test_streamed_logprobs_are_the_plain_ones(client, make):
    fields = {"max_tokens": 20, **({"logprobs": True, "top_logprobs": 2} if make is ask else {"logprobs": 2})}
    def items(chunk):
        log = chunk.choices[0].logprobs
        return [] if log is None else log.content if make is ask else list(
            zip(log.tokens, log.token_logprobs, log.top_logprobs, log.text_offset))
    streamed = [i for chunk in make(client, stream=True, **fields) for i in items(chunk)]
    assert streamed == items(make(client, **fields))


def test_completion_logprobs_of_prompt_and_answer(daemon, client):
    prompt = "Ben is a fisherman. é"
    answer = complete(client, prompt, echo=True, logprobs=3, max_tokens=6, extra_body={"ignore_eos": True}).choices[0]
    log, n = answer.logprobs, len(daemon.tokens(prompt))
    assert answer.text.startswith(prompt) and len(log.tokens) == n + 6
    assert log.token_logprobs[0] is None and log.top_logprobs[0] is None
    for i, (token, offset) in enumerate(zip(log.tokens, log.text_offset)):
        if not token.startswith(("bytes:", "<|")):
            assert answer.text[offset:offset + len(token)] == token
        if i:
            assert log.top_logprobs[i][token] == log.token_logprobs[i] and 3 <= len(log.top_logprobs[i]) <= 4


def test_a_prompt_can_be_scored_alone(daemon, client):
    ids = daemon.tokens("Ben is a fisherman.")
    scored = complete(client, ids, echo=True, logprobs=0, max_tokens=0)
    choice = scored.choices[0]
    assert (choice.text, choice.finish_reason) == ("Ben is a fisherman.", "length")
    assert scored.usage.completion_tokens == 0
    for i in range(1, len(ids)):  # as if each token had been generated
        forced = complete(client, ids[:i], max_tokens=1, logprobs=0, logit_bias={ids[i]: 100}).choices[0].logprobs
        assert forced.token_logprobs == [pytest.approx(choice.logprobs.token_logprobs[i], abs=TOLERANCE if ON_GPU else 1e-3)]


@pytest.mark.parametrize("stream", [False, True])
def test_echo(client, stream):
    alone = complete(client, "Ben is", max_tokens=8).choices[0].text
    answer = complete(client, "Ben is", max_tokens=8, echo=True, stream=stream)
    assert (joined(answer) if stream else answer.choices[0].text) == "Ben is" + alone


# --- ends -------------------------------------------------------------------------------------------------


def cut(text, stops):
    """The text before the stop string that is complete first."""
    found = [(text.find(s) + len(s), -len(s)) for s in stops if s in text]
    return text[:min(found)[0] + min(found)[1]] if found else text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("spans", [[(30, 31)], [(41, 52)], [(60, 64), (90, 95), (35, 47), (70, 71)], [(20, 99)]])
def test_stop_strings(client, story, spans, stream):
    stops = [story[a:b] for a, b in spans]
    fields = {"max_tokens": 300, "stop": stops[0] if len(stops) == 1 else stops}
    answer = ask(client, "Tell me a story about Ben.", stream=stream, **fields)
    chunks = list(answer) if stream else []
    assert (joined(chunks) if stream else content(answer)) == cut(story, stops)
    assert (chunks[-1] if stream else answer).choices[0].finish_reason == "stop"


def test_every_place_may_be_a_stop(client, story):
    for at in range(10, 66, 4):  # wherever tokens begin and end
        assert content(ask(client, "Tell me a story about Ben.", max_tokens=99, stop=story[at:at + 5])) == \
            cut(story, [story[at:at + 5]])


def test_stop_strings_that_do_not_come(client):
    text = content(ask(client))
    assert content(ask(client, stop=[text[-9:] + "x", "Clara is not"])) == text  # the last one is held back until the end


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_token_limit(client, field):
    answer = ask(client, **{field: 3})
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (3, "length")


def test_end_may_be_put_off(client):
    usual = ask(client).usage.completion_tokens
    later = ask(client, max_tokens=usual + 40, extra_body={"min_tokens": usual + 20})
    never = ask(client, max_tokens=usual + 40, extra_body={"ignore_eos": True})
    assert usual + 20 < later.usage.completion_tokens <= usual + 40
    assert (never.usage.completion_tokens, never.choices[0].finish_reason) == (usual + 40, "length")


def test_logit_bias(daemon, client):
    first, = daemon.tokens(complete(client, "Ben is a", max_tokens=1).choices[0].text)
    banned = complete(client, "Ben is a", max_tokens=30, logit_bias={first: -100})
    forced = complete(client, "Ben is a", max_tokens=4, logit_bias={daemon.tokens(" rabbit")[0]: 100})
    assert first not in daemon.tokens(banned.choices[0].text)
    assert forced.choices[0].text == " rabbit" * 4


# --- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields, error, param, code", [
    ({"temperature": 3}, openai.BadRequestError, "temperature", None),
    ({"max_tokens": 5000}, openai.BadRequestError, "messages", "context_length_exceeded"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "tools", None),
    ({"model": "gpt-4o"}, openai.NotFoundError, "model", "model_not_found")])
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_clients_own(client, fields, error, param, code, stream):
    with pytest.raises(error) as raised:
        client.chat.completions.create(**{"model": NAME, "messages": [{"role": "user", "content": "hi"}],
                                          "stream": stream, **fields})
    assert (raised.value.param, raised.value.code) == (param, code)
    assert raised.value.type == "invalid_request_error"
    assert code or raised.value.body["message"].startswith(param)


def test_unknown_things_are_not_found(client):
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("gpt-4o")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.moderations.create(input="text")
    with pytest.raises(openai.BadRequestError, match="generates text and makes no embeddings"):
        client.embeddings.create(model=NAME, input="text")


def test_too_many_requests(start):
    d = start({"limits.max_queue": 1})
    client = openai.OpenAI(base_url=d.url + "/v1", api_key="none", max_retries=0, timeout=60 * SLOW)
    with complete(client, max_tokens=LONG, stream=True, extra_body={"ignore_eos": True}) as first:
        next(first)
        with pytest.raises(openai.RateLimitError) as raised:
            complete(client)
        assert raised.value.code == "server_overloaded" and int(raised.value.response.headers["retry-after"]) >= 1
    d.wait_rest()
    with pytest.raises(openai.BadRequestError) as raised:
        complete(client, n=2)  # what can never be had is no matter of trying again
    assert raised.value.param == "n" and "at most 1 " in raised.value.message
    assert complete(client, max_tokens=1).choices


# --- many at once, and some that leave -----------------------------------------------------------------------


def async_client(daemon):
    return openai.AsyncOpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0, timeout=60 * SLOW)


async def read(stream):
    return joined([chunk async for chunk in stream])


PROMPTS = [f"{name} {rest}" for name in ("Ben", "Anna", "Clara", "Leo") for rest in ("is", "has a", "lives in", "said")]


@exact
def test_16_streams_say_what_each_says_alone(daemon, client):
    async def together():
        async with async_client(daemon) as c:
            return await asyncio.gather(*[read(await s) for s in [
                complete(c, p, max_tokens=40, stream=True) for p in PROMPTS]])
    assert asyncio.run(together()) == [complete(client, p, max_tokens=40).choices[0].text for p in PROMPTS]


def leaving(daemon, client, leave, n):
    """What `leave` does to n generations of LONG tokens: how many tokens were made, how many requests counted."""
    daemon.wait_rest()
    names = "tokenlane_generated_tokens_total", "tokenlane_cancelled_requests_total"
    before = [daemon.total(name) for name in names]
    leave({"max_tokens": LONG, "stream": True, "extra_body": {"ignore_eos": True}})
    daemon.wait_rest()
    made, cancelled = (daemon.total(name) - b for name, b in zip(names, before))
    assert made < n * LONG / 2, "the generations went on after the client had left"
    return cancelled


def test_closing_a_stream_ends_its_work(daemon, client):
    def leave(fields):
        for prompt in PROMPTS:
            stream = complete(client, prompt, **fields)
            next(stream)
            stream.close()
    assert leaving(daemon, client, leave, 16) == 16


def test_closing_a_stream_ends_all_its_choices(daemon, client):
    def leave(fields):
        with ask(client, n=8, **fields) as stream:
            next(stream)
    assert leaving(daemon, client, leave, 8) == 1


def test_cancelled_tasks_end_their_work(daemon, client):
    async def cancel(fields):
        async with async_client(daemon) as c:
            begun = await asyncio.gather(*(complete(c, p, n=4, **fields) for p in PROMPTS[:4]))  # one by one the first is half done
            tasks = [asyncio.create_task(read(stream)) for stream in begun]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    assert leaving(daemon, client, lambda fields: asyncio.run(cancel(fields)), 16) == 4


def test_a_client_that_gives_up_waiting_ends_the_work(daemon, client):
    def leave(fields):
        task = {**fields, "stream": False, "n": 16}
        running = lambda: daemon.total("tokenlane_sequences_running") == 16

        async def give_up():
            async with async_client(daemon) as c:
                waiting = asyncio.create_task(complete(c, **task))
                await asyncio.to_thread(wait_for, running)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
        asyncio.run(give_up())
    assert leaving(daemon, client, leave, 16) == 1


@exact
def test_those_who_stay_are_not_disturbed(daemon, client):
    alone = complete(client, "Ben is", max_tokens=LONG // 2, extra_body={"ignore_eos": True}).choices[0].text
    stays = complete(client, "Ben is", max_tokens=LONG // 2, stream=True, extra_body={"ignore_eos": True})
    chunks = [next(stays)]
    for prompt in PROMPTS:
        with complete(client, prompt, max_tokens=LONG, stream=True, extra_body={"ignore_eos": True}) as leaves:
            chunks += [next(stays)] if next(leaves) else []
    assert joined(chunks + list(stays)) == alone


# --- what once went wrong ------------------------------------------------------------------------------------


def test_stop_strings_wait_for_min_tokens(client):
    text = complete(client, "Ben is a", max_tokens=30, extra_body={"ignore_eos": True}).choices[0].text
    letter = text.strip()[0]
    answer = complete(client, "Ben is a", max_tokens=30, stop=[letter], extra_body={"ignore_eos": True, "min_tokens": 10})
    assert answer.usage.completion_tokens > 10 and letter in answer.choices[0].text


def test_top_k_can_be_switched_off(start, tmp_path):
    """generation_config.json's top_k is a default: -1 and 0 switch it off."""
    d = start(model=model_with(tmp_path, "generation_config.json", lambda c: {**c, "do_sample": True, "top_k": 1}))
    def texts(**fields):
        return {d.complete("Ben", temperature=2, seed=i, max_tokens=8, **fields)["choices"][0]["text"] for i in range(12)}
    assert len(texts()) == 1 and len(texts(top_k=-1)) > 3 and len(texts(top_k=0)) > 3


def test_a_token_that_the_model_lacks(start, tmp_path):
    """Tokenizers can have tokens, added later, that the model has no row for."""
    def add(tokenizer):
        last = {**tokenizer["added_tokens"][0], "id": 9_000, "content": "<pad>"}
        return {**tokenizer, "added_tokens": [*tokenizer["added_tokens"], last]}
    d = start(model=model_with(tmp_path, "tokenizer.json", add))
    answer = d.post("/v1/completions", model=NAME, prompt="a<pad>b")
    assert answer.status_code == 400 and "9000" in answer.json()["error"]["message"]
    assert d.complete("ab", max_tokens=2)["choices"]


def test_echo_offsets_begin_at_the_text(start, tmp_path):
    """The BOS that the tokenizer puts before a text is not in it."""
    def bos(tokenizer):
        token = tokenizer["added_tokens"][0]
        special = {token["content"]: {"id": token["content"], "ids": [token["id"]], "tokens": [token["content"]]}}
        single = [{"SpecialToken": {"id": token["content"], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        return {**tokenizer, "post_processor": {"type": "TemplateProcessing", "single": single, "pair": single,
                                                "special_tokens": special}}
    d = start(model=model_with(tmp_path, "tokenizer.json", bos))
    choice = d.complete("Anna is", echo=True, logprobs=1, max_tokens=2)["choices"][0]
    assert choice["logprobs"]["text_offset"][:2] == [0, 0] and choice["text"].startswith("Anna is")


def test_a_conversation_far_too_long(daemon):
    """Refused at once, not after all of it was tokenized, and other requests are served meanwhile."""
    messages = [{"role": "user", "content": "a"}] * 60_000
    answer = daemon.post("/v1/chat/completions", model=NAME, messages=messages)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "context_length_exceeded"
    answer = daemon.post("/v1/completions", model=NAME, prompt="word " * 100_000)
    assert answer.json()["error"]["code"] == "context_length_exceeded" and answer.json()["error"]["param"] == "prompt"
