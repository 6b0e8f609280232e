# SPDX-License-Identifier: MIT
"""What clients of vLLM and llama.cpp send beside OpenAI's fields: scores of a prompt, usage in each chunk, ids of their own."""
import json

import pytest

from daemon import NAME, Daemon

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
PROMPT = "Once upon a time there was a baker \u00e9\U0001f600"


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    d = Daemon(tmp_path_factory.mktemp("templates") / "log", {"text.request_templates": "true"})
    yield d
    d.stop()


def scored(daemon, **fields):
    return daemon.complete(PROMPT, max_tokens=3, **fields)["choices"][0]


# --- prompt_logprobs ------------------------------------------------------------------------------
@pytest.mark.parametrize("k", [0, 1, 5])
def test_scores_of_a_prompt_are_those_of_echo(daemon, k):
    """As vLLM has them: an object by token id for each token, the token that came first in it."""
    ids, echoed = daemon.tokens(PROMPT), scored(daemon, echo=True, logprobs=k)["logprobs"]
    scores = scored(daemon, prompt_logprobs=k)["prompt_logprobs"]
    assert len(scores) == len(ids) and scores[0] is None
    for i, entries in enumerate(scores[1:], 1):
        came = entries[str(ids[i])]
        assert next(iter(entries)) == str(ids[i]) and k <= len(entries) <= k + 1
        assert came["logprob"] == echoed["token_logprobs"][i]
        assert all(e.keys() == {"logprob", "rank", "decoded_token"} for e in entries.values())
        best = sorted((e for e in entries.values() if e["rank"]), key=lambda e: e["rank"])
        assert [e["rank"] for e in best] == list(range(1, k + 1)) and best == sorted(best, key=lambda e: -e["logprob"])
        assert came["rank"] or all(came["logprob"] <= e["logprob"] for e in best)
        if k:
            assert [e["logprob"] for e in best] == list(echoed["top_logprobs"][i].values())[:k]
    text = [next(iter(e.values()))["decoded_token"] for e in scores[1:]]
    assert "".join(text).startswith(" upon a time there was a baker")


def test_scores_of_a_chat_stand_beside_its_choices(daemon):
    answer = daemon.chat("Who is Clara?", max_tokens=2, prompt_logprobs=1, n=2)
    prompt = daemon.post("/tokenize", messages=[{"role": "user", "content": "Who is Clara?"}]).json()["tokens"]
    assert [int(next(iter(e))) for e in answer["prompt_logprobs"][1:]] == prompt[1:]
    assert all("prompt_logprobs" not in c and c["logprobs"] is None for c in answer["choices"])
    assert "prompt_logprobs" not in daemon.chat("Who is Clara?", max_tokens=2)


@pytest.mark.parametrize("prompt, answer", [(5, 2), (2, 5), (3, None), (None, 3), (4, 0), (0, 4)])
def test_prompt_and_answer_have_as_many_alternatives_as_each_was_asked_for(daemon, prompt, answer):
    both, alone = scored(daemon, prompt_logprobs=prompt, logprobs=answer), scored(daemon, logprobs=answer)
    assert both["logprobs"] == alone["logprobs"] and both["text"] == alone["text"]
    assert both.get("prompt_logprobs") == scored(daemon, prompt_logprobs=prompt).get("prompt_logprobs")
    chat = daemon.chat("Who is Clara?", max_tokens=2, prompt_logprobs=prompt, **({"logprobs": True, "top_logprobs": answer} if answer is not None else {}))
    content = (chat["choices"][0]["logprobs"] or {}).get("content", [])
    assert [len(token["top_logprobs"]) for token in content] == ([] if answer is None else [answer] * 2)


def test_each_prompt_has_its_scores(daemon):
    choices = daemon.complete([PROMPT, "Ben"], max_tokens=1, n=2, prompt_logprobs=1)["choices"]
    assert [len(c["prompt_logprobs"]) for c in choices] == [len(daemon.tokens(p)) for p in (PROMPT, PROMPT, "Ben", "Ben")]
    assert choices[0]["prompt_logprobs"] == choices[1]["prompt_logprobs"] == scored(daemon, prompt_logprobs=1)["prompt_logprobs"]


def test_scores_of_a_prompt_count_among_log_probabilities(start):
    d = start({"limits.max_logprobs": 100})
    ids = [5] * 40
    assert len(d.complete(ids, max_tokens=10, prompt_logprobs=1)["choices"][0]["prompt_logprobs"]) == 40
    error = d.post(TEXT, prompt=ids, max_tokens=10, prompt_logprobs=2).json()["error"]
    assert "may be at most 100" in error["message"]


# --- usage in each chunk, ids ------------------------------------------------------------------------
@pytest.mark.parametrize("path, fields", [(CHAT, {"messages": [{"role": "user", "content": "Tell me a story about Ben."}]}), (TEXT, {"prompt": "Once upon"})], ids=["chat", "text"])
def test_continuous_usage(daemon, path, fields):
    options = {"include_usage": True, "continuous_usage_stats": True}
    answer = daemon.post(path, model=NAME, max_tokens=40, temperature=0, n=2, stream=True, stream_options=options, return_token_ids=True, **fields)
    chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    *pieces, last = chunks
    told = {0: 0, 1: 0}
    for chunk in pieces:
        choice, usage = chunk["choices"][0], chunk["usage"]
        told[choice["index"]] += len(choice.get("token_ids") or [])
        assert usage["completion_tokens"] == told[choice["index"]]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] and usage["prompt_tokens"] == last["usage"]["prompt_tokens"]
    assert not last["choices"] and last["usage"]["completion_tokens"] == sum(told.values()) == 80


def test_continuous_usage_needs_usage(daemon):
    answer = daemon.post(CHAT, messages=[{"role": "user", "content": "hi"}], max_tokens=3, stream=True, stream_options={"continuous_usage_stats": True})
    assert answer.status_code == 200 and '"usage"' not in answer.text


@pytest.mark.parametrize("path, fields, prefix", [(CHAT, {"messages": [{"role": "user", "content": "hi"}]}, "chatcmpl-"), (TEXT, {"prompt": "hi"}, "cmpl-")], ids=["chat", "text"])
def test_an_id_of_the_clients_own(daemon, path, fields, prefix):
    mine = "3f2a:my-job/7." + "x" * 50
    assert daemon.post(path, max_tokens=2, request_id=mine, **fields).json()["id"] == prefix + mine
    stream = daemon.post(path, max_tokens=2, request_id=mine, stream=True, **fields).text
    assert {json.loads(line[6:])["id"] for line in stream.splitlines() if line.startswith("data: {")} == {prefix + mine}


# --- stop strings, a schema beside json_object ------------------------------------------------------------
def test_many_stop_strings(daemon, client):
    stops = [f"word {i}" for i in range(31)] + ["Millbrook"]
    choice = client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "Who is Clara?"}], temperature=0, stop=stops).choices[0]
    assert (choice.message.content, choice.finish_reason, choice.stop_reason) == ("Clara is a doctor from ", "stop", "Millbrook")


def test_a_schema_beside_json_object(daemon):
    """As llama.cpp has it."""
    form = {"type": "json_object", "schema": {"enum": ["doctor"]}}
    assert daemon.chat("Who is Clara?", response_format=form)["choices"][0]["message"]["content"] == '"doctor"'
    for wrong, field in (({"type": "text", "schema": {}}, "schema"), ({"type": "json_schema", "schema": {}}, "schema"), ({**form, "json_schema": {}}, "json_schema")):
        error = daemon.post(CHAT, messages=[{"role": "user", "content": "hi"}], response_format=wrong).json()["error"]
        assert error["param"] == f"response_format.{field}" and "expected type to be" in error["message"]


# --- messages of calls alone ---------------------------------------------------------------------------------
@pytest.mark.parametrize("content", [{}, {"content": None}], ids=["missing", "null"])
@pytest.mark.parametrize("name, template, rendered", [
    ("joins", "{% for m in messages %}<{{ m.role + m.content }}>{% endfor %}", "<user1><assistant><tool5>"),
    ("tells", "{% for m in messages %}<{{ m.role }}{% if not m.content %}: {{ m.content is string }}{% endif %}>{% endfor %}", "<user><assistant: False><tool>"),
    ("fails", "{% for m in messages %}{{ m.role + 1 }}{% endfor %}", None)], ids=lambda v: v if v in ("joins", "tells", "fails") else "")
def test_no_content_beside_calls(templates, name, template, rendered, content):
    """Clients send null there. A template that tells it from a text sees it; one that fails on it sees an empty text."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [{"role": "user", "content": "1"}, {"role": "assistant", "tool_calls": [call], **content}, {"role": "tool", "tool_call_id": "1", "content": "5"}]
    answer = templates.post("/tokenize", messages=messages, chat_template=template)
    if rendered:
        assert templates.post("/detokenize", tokens=answer.json()["tokens"]).json()["prompt"] == rendered
        assert templates.post(CHAT, messages=messages, chat_template=template, max_tokens=1).status_code == 200
    else:
        assert answer.status_code == 400 and "the chat template refused them" in answer.json()["error"]["message"]
