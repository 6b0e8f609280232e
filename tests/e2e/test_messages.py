# SPDX-License-Identifier: MIT
"""/v1/messages and /v1/messages/count_tokens with Anthropic's own client. What becomes of a conversation is looked at beside
/v1/chat/completions: the same tokens give the same text, and the prefix cache knows them."""
import itertools
import json

import httpx
import openai
import pytest

from daemon import LONG, NAME, SLOW, Daemon
from scripted import write_scripted
from test_chat_templates import WHOLE, folder
from test_reasoning import CONTENT, THOUGHTS
from test_reasoning import FORMATS as REASONING
from test_tool_calls import ARGUMENTS, END, FORMATS, OBJECT, START

anthropic = pytest.importorskip("anthropic")

WEATHER = {"name": "weather", "description": "Where?", "input_schema": {
    "type": "object", "properties": {"city": {"enum": ["Bern", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"], "additionalProperties": False}}
TIME = {"name": "time", "input_schema": {"type": "object", "properties": {}, "additionalProperties": False}}
ASK = [{"role": "user", "content": "Who is Clara?"}]
salts = itertools.count()


def client_of(d, **more):
    return anthropic.Anthropic(base_url=d.url, max_retries=0, timeout=60 * SLOW, **{"api_key": "none", **more})


@pytest.fixture(scope="module")
def asked(daemon):
    with client_of(daemon) as c:
        yield c


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A daemon whose template shows all of a conversation."""
    root = tmp_path_factory.mktemp("whole")
    folder(root / "model", WHOLE)
    d = Daemon(root / "log", model=root / "model")
    d.client = client_of(d)
    yield d
    d.client.close()
    d.wait_rest()
    d.stop()


def asking(messages, fields):
    """What the client knows no more (temperature and the like) goes beside its own fields."""
    extra = {"temperature": 0, **{k: fields.pop(k) for k in ("temperature", "top_k", "top_p", "timeout_ms", "ignore_eos") if k in fields}}
    return {"model": NAME, "max_tokens": 30, "messages": messages, "extra_body": extra, **fields}


def create(c, messages=ASK, **fields):
    return c.messages.create(**asking(messages, fields))


def streamed(c, messages=ASK, **fields):
    with c.messages.stream(**asking(messages, fields)) as stream:
        return stream.get_final_message()


def blocks(message):
    """Its content without ids, which differ."""
    return [b.model_dump(exclude={"id"}, exclude_none=True) for b in message.content]


def raw_events(d, **fields):
    """(name, data) of a stream, as it comes."""
    body = {"model": NAME, "max_tokens": 30, "temperature": 0, "messages": ASK, "stream": True, **fields}
    with d.http.stream("POST", "/v1/messages", json=body) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"] == "text/event-stream"
        parts = answer.read().decode().split("\n\n")
    assert parts.pop() == ""
    out = []
    for part in parts:
        name, data = part.split("\n")
        assert name.startswith("event: ") and data.startswith("data: ")
        out.append((name[7:], json.loads(data[6:])))
        assert out[-1][1]["type"] == out[-1][0]
    return out


# --- answers ---------------------------------------------------------------------------------------
def test_answer(daemon, asked):
    chat = daemon.chat("Who is Clara?", max_tokens=30)
    for get in (create, streamed):
        message = get(asked)
        assert (message.type, message.role, message.model, message.stop_reason, message.stop_sequence) == ("message", "assistant", NAME, "end_turn", None)
        assert message.id.startswith("msg_") and len(message.id) > 16
        assert blocks(message) == [{"type": "text", "text": chat["choices"][0]["message"]["content"]}]
        usage = message.usage
        assert usage.input_tokens + usage.cache_read_input_tokens == chat["usage"]["prompt_tokens"] and usage.cache_creation_input_tokens == 0
        assert usage.output_tokens == chat["usage"]["completion_tokens"]
        assert asked.messages.count_tokens(model=NAME, messages=ASK).input_tokens == chat["usage"]["prompt_tokens"]


def test_limits(daemon, asked):
    text = create(asked, max_tokens=40).content[0].text
    for get in (create, streamed):
        cut = get(asked, max_tokens=3)
        assert (cut.stop_reason, cut.stop_sequence, cut.usage.output_tokens) == ("max_tokens", None, 3)
        assert text.startswith(cut.content[0].text)
        stopped = get(asked, stop_sequences=["never", *map(str, range(20)), "doctor"])
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "doctor")
        assert stopped.content[0].text == text[:text.index("doctor")]
        nothing = get(asked, stop_sequences=[text[:3]])
        assert nothing.content == [] and nothing.stop_sequence == text[:3]
    assert create(asked, temperature=1, top_k=1, top_p=0.9).content[0].text.startswith(text[:20])
    assert create(asked, metadata={"user_id": "me"}, service_tier="auto", extra_headers={"anthropic-beta": "x"}).content[0].text == text[:len(text)]


def test_more_than_fits(daemon, asked):
    """Claude Code asks for 32,000 tokens, whatever the model has."""
    assert blocks(create(asked, max_tokens=32000)) == blocks(create(asked, max_tokens=60))
    for get in (create, streamed):
        full = get(asked, max_tokens=32000, ignore_eos=True)
        assert full.stop_reason == "model_context_window_exceeded"
        assert full.usage.input_tokens + full.usage.cache_read_input_tokens + full.usage.output_tokens == 1024


def test_stream_is_in_order(daemon):
    seen = raw_events(daemon, max_tokens=5)
    names = [name for name, _ in seen]
    assert names[:3] == ["message_start", "ping", "content_block_start"] and names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(names[3:-3]) == {"content_block_delta"}
    start, stop = seen[0][1]["message"], seen[-2][1]
    assert start["content"] == [] and start["stop_reason"] is None and start["usage"]["input_tokens"] + start["usage"]["cache_read_input_tokens"] > 5
    assert stop["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None} and stop["usage"]["output_tokens"] == 5
    assert seen[2][1] == {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    assert all(data["index"] == 0 and data["delta"]["type"] == "text_delta" for name, data in seen if name == "content_block_delta")


# --- what reaches the template ----------------------------------------------------------------------------
def text_of(*texts):
    return [{"type": "text", "text": t, "cache_control": {"type": "ephemeral"}} for t in texts]


def parts(*texts):
    return [{"type": "text", "text": t} for t in texts]


USE = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Bern", "days": 2}}
CALL = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": json.dumps(USE["input"])}}
USER, ROUND = {"role": "user", "content": "What is the weather in Bern?"}, {"role": "tool", "tool_call_id": "t1", "content": "It rains."}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Where?", "parameters": WEATHER["input_schema"]}}
CONVERSATIONS = {
    "system": ({"system": "You are a cat.", "messages": [USER]}, {"messages": [{"role": "system", "content": "You are a cat."}, USER]}),
    "blocks": ({"system": text_of("x-anthropic-billing-header: cch=1", "You are a cat.", "Say meow."), "messages": [{"role": "user", "content": text_of("One.", "Two.")}]},
               {"messages": [{"role": "system", "content": parts("You are a cat.", "Say meow.")}, {"role": "user", "content": parts("One.", "Two.")}]}),
    "in a row": ({"messages": [USER, {"role": "user", "content": text_of("Now?")}, {"role": "assistant", "content": "Hm."}, {"role": "assistant", "content": [USE]},
                               {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "It rains."}]}, USER]},
                 {"messages": [{"role": "user", "content": parts(USER["content"], "Now?")}, {"role": "assistant", "content": "Hm.", "tool_calls": [CALL]}, ROUND, USER]}),
    "a long beginning": ({"messages": [USER, {"role": "assistant", "content": text_of("In", "Bern it")}]},
                         {"messages": [USER, {"role": "assistant", "content": parts("In", "Bern it")}], "continue_final_message": True}),
    "one block": ({"messages": [{"role": "user", "content": text_of(USER["content"])}]}, {"messages": [USER]}),
    "system among messages": ({"system": "You are a cat.", "messages": [USER, {"role": "system", "content": "Say meow."}]},
                              {"messages": [{"role": "system", "content": parts("You are a cat.", "Say meow.")}, USER]}),
    "tools": ({"tools": [{**WEATHER, "cache_control": {"type": "ephemeral"}, "type": "custom"}], "messages": [USER]}, {"tools": [TOOL], "messages": [USER]}),
    "tools not to be used": ({"tools": [WEATHER], "tool_choice": {"type": "none"}, "messages": [USER]}, {"messages": [USER]}),
    "round": ({"tools": [WEATHER], "messages": [
        USER, {"role": "assistant", "content": [*text_of("Let me see."), USE]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "It rains.", "is_error": False}, *text_of("And?")]}]},
              {"tools": [TOOL], "messages": [USER, {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]}, ROUND, {"role": "user", "content": "And?"}]}),
    "results": ({"tools": [WEATHER], "messages": [
        USER, {"role": "assistant", "content": [USE]},
        {"role": "user", "content": [*text_of("So:"), {"type": "tool_result", "tool_use_id": "t1", "content": text_of("It", "rains.")}, {"type": "tool_result", "tool_use_id": "t2"}]}]},
                {"tools": [TOOL], "messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "user", "content": "So:"},
                                               {**ROUND, "content": parts("It", "rains.")}, {"role": "tool", "tool_call_id": "t2", "content": ""}]}),
    "thinking": ({"messages": [USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm, a", "signature": ""}, {"type": "redacted_thinking", "data": "eA=="},
                                                                       {"type": "thinking", "thinking": " cat.", "signature": "x"}, *text_of("Rain.")]}, USER]},
                 {"messages": [USER, {"role": "assistant", "content": "Rain.", "reasoning_content": "Hm, a cat."}, USER]}),
    "no thinking": ({"thinking": {"type": "disabled"}, "messages": [USER]}, {"chat_template_kwargs": {"enable_thinking": False}, "messages": [USER]}),
    "much thinking": ({"thinking": {"type": "enabled", "budget_tokens": 2000}, "messages": [USER]}, {"chat_template_kwargs": {"enable_thinking": True}, "messages": [USER]}),
    "variables": ({"thinking": {"type": "adaptive"}, "chat_template_kwargs": {"style": "Meow", "enable_thinking": False}, "messages": [USER]},
                  {"chat_template_kwargs": {"style": "Meow", "enable_thinking": False}, "messages": [USER]}),
    "a beginning": ({"messages": [USER, {"role": "assistant", "content": "In Bern it"}]},
                    {"messages": [USER, {"role": "assistant", "content": "In Bern it"}], "continue_final_message": True}),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversation(whole, name):
    ours, theirs = CONVERSATIONS[name]
    own = {"cache_salt": f"salt{next(salts)}", "max_tokens": 12, "temperature": 0, "model": NAME}
    first, second = (whole.post("/v1/chat/completions", **theirs, **own).json() for _ in range(2))
    n, cached = second["usage"]["prompt_tokens"], second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert n > 16 and cached > 0 and second["choices"] == first["choices"]
    message = whole.post("/v1/messages", **ours, **own).json()
    assert message["usage"]["cache_read_input_tokens"] == cached and message["usage"]["input_tokens"] == n - cached, message
    assert "".join(b["text"] for b in message["content"]) == first["choices"][0]["message"]["content"]
    count = {k: v for k, v in ours.items()}
    assert whole.post("/v1/messages/count_tokens", **count).json() == {"input_tokens": n}


def test_effort(tmp_path_factory, start):
    root = tmp_path_factory.mktemp("effort")
    folder(root / "model", "{% for m in messages %}{{ m.content }}{% endfor %}{{ reasoning_effort | default('none') }}|{{ enable_thinking | default('none') }}")
    d = start(model=root / "model")
    count = lambda **fields: d.post("/v1/messages/count_tokens", messages=ASK, **fields).json()["input_tokens"]
    tokens = lambda text: len(d.tokens("Who is Clara?" + text))
    assert count() == tokens("none|none")
    for effort, shown in (("low", "low"), ("medium", "medium"), ("high", "high"), ("max", "high")):
        assert count(output_config={"effort": effort}) == tokens(f"{shown}|none")
        assert count(output_config={"effort": effort}, thinking={"type": "adaptive"}) == tokens(f"{shown}|True")


# --- tools --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}, {"type": "any", "disable_parallel_tool_use": True}])
def test_calls_that_must_come(asked, choice):
    fields = {"tools": [WEATHER], "tool_choice": choice, "max_tokens": 200}
    message = create(asked, **fields)
    again = streamed(asked, **fields)
    if message.stop_reason == "max_tokens":  # the last may be cut: see below
        del message.content[-1], again.content[-1]
    assert message.content and blocks(message) == blocks(again) and message.stop_reason == again.stop_reason
    assert all(b.type == "tool_use" and b.name == "weather" for b in message.content) and len({b.id for b in (*message.content, *again.content)}) == 2 * len(message.content)
    for b in message.content:
        assert set(b.input) == {"city", "days"} and b.input["city"] in ("Bern", "Rome") and 1 <= b.input["days"] <= 9
    if choice["type"] == "tool" or "disable_parallel_tool_use" in choice:
        assert len(message.content) == 1 and message.stop_reason == "tool_use"


def test_a_call_that_was_cut(daemon, asked):
    fields = {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "weather"}, "max_tokens": 3}
    message = create(asked, **fields)
    assert message.stop_reason == "max_tokens" and [b.type for b in message.content] == ["text"] and message.content[0].text.startswith("{")
    seen = raw_events(daemon, **fields)
    partial = "".join(data["delta"]["partial_json"] for name, data in seen if name == "content_block_delta")
    assert partial == message.content[0].text and seen[-2][1]["delta"]["stop_reason"] == "max_tokens"


def test_a_call_without_arguments(asked):
    for get in (create, streamed):
        message = get(asked, tools=[TIME], tool_choice={"type": "tool", "name": "time"})
        assert blocks(message) == [{"type": "tool_use", "name": "time", "input": {}}] and message.stop_reason == "tool_use"


@pytest.fixture
def tell(tmp_path, start):
    """tell(answers): a model that writes calls by itself."""
    def begin(answers):
        call, special = FORMATS["hermes"][:2]
        d = start(model=write_scripted(tmp_path / "model", START + call + END, answers, special))
        d.client = client_of(d)
        return d
    return begin


def test_calls_of_the_model(tell):
    told = tell({"@1": f"Let me see.\n<tool_call>\n{OBJECT % ARGUMENTS}\n</tool_call>", "@2": "None needed: a < b, {c} [d]."})
    tools = [WEATHER, TIME]
    for get in (create, streamed):
        message = get(told.client, [{"role": "user", "content": "@1"}], tools=tools, max_tokens=200)
        assert blocks(message) == [{"type": "text", "text": "Let me see.\n"}, {"type": "tool_use", "name": "weather", "input": json.loads(ARGUMENTS)}]
        assert message.stop_reason == "tool_use"
        none = get(told.client, [{"role": "user", "content": "@2"}], tools=tools, max_tokens=200)
        assert [b.type for b in none.content] == ["text"] and none.stop_reason == "end_turn"
        cut = get(told.client, [{"role": "user", "content": "@1"}], tools=tools, max_tokens=8)
        assert cut.stop_reason == "max_tokens" and cut.content[0].type == "text"
    # its round, as clients make it
    messages = [{"role": "user", "content": "@1"}, message.to_param(),
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": message.content[1].id, "content": "@2"}]}]
    answer = create(told.client, messages, tools=tools, max_tokens=200)
    assert answer.content[0].text == "None needed: a < b, {c} [d]." and answer.stop_reason == "end_turn"


def blocks_of(seen):
    """[type, text or input] of each block of a stream."""
    content, open_block = [], None
    for name, data in seen:
        if name == "content_block_start":
            assert open_block is None and data["index"] == len(content)
            open_block = data["index"]
            content.append([data["content_block"]["type"], ""])
        elif name == "content_block_delta":
            assert data["index"] == open_block
            content[-1][1] += data["delta"].get("text", "") + data["delta"].get("partial_json", "")
        elif name == "content_block_stop":
            assert data["index"] == open_block
            open_block = None
    assert open_block is None
    return content


def test_text_around_calls(tell):
    """Blocks stand in the order in which the model wrote them, however much of it comes at once."""
    one, two = 'So: <tool_call>{"name": "time", "arguments": {"a": 1}}</tool_call> ok!', \
        '<tool_call>\n{"name":"time","arguments":{"b":2}}\n</tool_call>\nNow? <tool_call>{"name" :"time" ,"arguments" :{"c": 3}} </tool_call>Done.'
    told = tell({"@3": one, "@4": two})
    expected = {"@3": [["text", "So: "], ["tool_use", '{"a": 1}'], ["text", " ok!"]],
                "@4": [["tool_use", '{"b":2}'], ["text", "\nNow? "], ["tool_use", '{"c": 3}'], ["text", "Done."]]}
    # stop strings that nearly come hold back the end of a call, or the whole answer
    for key, late in (("@3", []), ("@3", ["1}}</tool_call> ok?"]), ("@3", [one + "!"]), ("@4", []), ("@4", [two + "!"]), ("@4", ["Now? <tool_call> "])):
        fields = {"messages": [{"role": "user", "content": key}], "tools": [TIME], "max_tokens": 300, "stop_sequences": late}
        seen = raw_events(told, **fields)
        assert blocks_of(seen) == expected[key] and seen[-2][1]["delta"]["stop_reason"] == "tool_use"
        whole = create(told.client, **fields)
        assert [[b.type, b.text if b.type == "text" else json.dumps(b.input)] for b in whole.content] == \
            [[kind, text if kind == "text" else json.dumps(json.loads(text))] for kind, text in expected[key]]
    # one call alone: the text is as if the other had not been there
    fields["tool_choice"] = {"type": "auto", "disable_parallel_tool_use": True}
    alone = [["tool_use", '{"b":2}'], ["text", "\nNow? Done."]]
    assert blocks_of(raw_events(told, **fields)) == alone
    assert [b.type for b in create(told.client, **fields).content] == ["tool_use", "text"] and create(told.client, **fields).content[1].text == alone[1][1]


def test_text_around_calls_in_a_chat(tell):
    """The same in deltas; each token is told of once, whatever its chunk."""
    text = 'So: <tool_call>{"name": "time", "arguments": {"a": 1}}</tool_call> ok!'
    told = tell({"@3": text})
    body = {"model": NAME, "messages": [{"role": "user", "content": "@3"}], "max_tokens": 200, "temperature": 0, "logprobs": True, "return_token_ids": True,
            "tools": [{"type": "function", "function": {"name": "time", "parameters": TIME["input_schema"]}}], "stop": [text + "!"]}
    whole = told.post("/v1/chat/completions", **body).json()["choices"][0]
    with told.http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
        chunks = [json.loads(line[6:])["choices"][0] for line in answer.iter_lines() if line.startswith("data: {")]
    assert [next(iter(c["delta"])) for c in chunks if c["delta"] and c["delta"].get("content") != ""] == ["content", "tool_calls", "tool_calls", "content"]
    assert [c["delta"]["content"] for c in chunks if c["delta"].get("content")] == ["So: ", " ok!"] and whole["message"]["content"] == "So:  ok!"
    assert [i for c in chunks for i in c.get("token_ids", [])] == whole["token_ids"]
    assert [t for c in chunks if c["logprobs"] for t in c["logprobs"]["content"]] == whole["logprobs"]["content"]


def test_thinking(start, tmp_path):
    template, special, answer = REASONING["think"]
    d = start(model=write_scripted(tmp_path / "model", template, {"@1": answer, "@2": "None needed.", "@4": "So!"}, special))
    with client_of(d) as c:
        for get in (create, streamed):
            message = get(c, [{"role": "user", "content": "@1"}], max_tokens=200, thinking={"type": "enabled", "budget_tokens": 1024})
            assert blocks(message) == [{"type": "thinking", "thinking": THOUGHTS, "signature": ""}, {"type": "text", "text": CONTENT}]
            assert message.stop_reason == "end_turn" and 0 < message.usage.output_tokens_details.thinking_tokens < message.usage.output_tokens
            cut = get(c, [{"role": "user", "content": "@1"}], max_tokens=4)
            assert [b.type for b in cut.content] == ["thinking"] and cut.stop_reason == "max_tokens" and THOUGHTS.startswith(cut.content[0].thinking)
            hidden = get(c, [{"role": "user", "content": "@1"}], max_tokens=200, thinking={"type": "adaptive", "display": "omitted"})
            assert blocks(hidden) == [{"type": "text", "text": CONTENT}]
        messages = [{"role": "user", "content": "@1"}, message.to_param(), {"role": "user", "content": "@2"}]  # thoughts go back as they came
        assert blocks(create(c, messages)) == [{"type": "text", "text": "None needed."}]
        assert c.messages.count_tokens(model=NAME, messages=messages).input_tokens > message.usage.output_tokens
    names = [(name, data.get("delta", {}).get("type")) for name, data in raw_events(d, messages=[{"role": "user", "content": "@1"}], max_tokens=200)]
    order = [key for key, _ in itertools.groupby(names)]
    assert order == [("message_start", None), ("ping", None), ("content_block_start", None), ("content_block_delta", "thinking_delta"), ("content_block_stop", None),
                     ("content_block_start", None), ("content_block_delta", "text_delta"), ("content_block_stop", None), ("message_delta", None), ("message_stop", None)]


def test_schema(asked):
    schema = {"type": "object", "properties": {"job": {"enum": ["doctor", "baker"]}}, "required": ["job"], "additionalProperties": False}
    config = {"format": {"type": "json_schema", "schema": schema}}
    for get in (create, streamed):
        assert json.loads(get(asked, output_config=config).content[0].text) in ({"job": "doctor"}, {"job": "baker"})


# --- errors ---------------------------------------------------------------------------------------------------
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "eA=="}}
WRONG = [
    ({"max_tokens": None}, "max_tokens: is required"), ({"max_tokens": 0}, "max_tokens: expected an integer from 1"),
    ({"messages": None}, "messages: is required"), ({"messages": []}, "messages: expected a list of at least one message"), ({"messages": "hi"}, "messages: expected"),
    ({"messages": ["hi"]}, "messages[0]: expected an object"), ({"messages": [{"role": "cat", "content": "hi"}]}, "messages[0].role: expected user, assistant or system"),
    ({"messages": [{"role": "system", "content": "hi"}]}, "messages: expected a list of at least one message"),
    ({"messages": [{"role": "user"}]}, "messages[0].content: expected"), ({"messages": [*ASK, {"role": "user", "content": []}]}, "messages[1].content: expected"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text: expected a string"),
    ({"messages": [{"role": "user", "content": [*text_of("a"), IMAGE]}]}, "messages[0].content[1]: expected a text or tool_result block; image is not supported"),
    ({"messages": [{"role": "user", "content": [USE]}]}, "tool_use is not supported"), ({"messages": [{"role": "user", "content": [7]}]}, "messages[0].content[0]: expected an object"),
    ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type: expected"),
    ({"messages": [{"role": "assistant", "content": [{**USE, "input": "x"}]}]}, "messages[0].content[0].input: expected an object"),
    ({"messages": [{"role": "assistant", "content": [{**USE, "id": ""}]}]}, "messages[0].content[0].id: expected"),
    ({"messages": [{"role": "assistant", "content": [{"type": "server_tool_use", "id": "a", "name": "web_search", "input": {}}]}]}, "server_tool_use is not supported"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "x"}]}]}, "messages[0].content[0].tool_use_id: expected"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [IMAGE]}]}]}, "messages[0].content[0].content[0]: expected a text block; image"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "is_error": 1}]}]}, "messages[0].content[0].is_error: expected"),
    ({"system": 5}, "system: expected"), ({"system": [IMAGE]}, "system[0]: expected a text block; image is not supported"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type: expected custom; bash_20250124 is not supported"), ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"name": "x"}]}, "tools[0].input_schema: expected"), ({"tools": [{**WEATHER, "name": ""}]}, "tools[0].name: expected"), ({"tools": 1}, "tools: expected a list"),
    ({"tools": [{"name": "x", "input_schema": {"type": "array"}}]}, "tools[0].input_schema: expected"),
    ({"tools": [{"name": "x", "input_schema": {"type": "object", "properties": {"a": {"uniqueItems": True}}}}], "tool_choice": {"type": "tool", "name": "x"}}, "tools[0].input_schema"),
    ({"tools": [WEATHER], "tool_choice": {"type": "required"}}, "tool_choice.type: expected auto, any, tool or none"), ({"tool_choice": "auto"}, "tool_choice.type: expected"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name: expected"), ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "time"}}, "tool_choice.name: expected the name of one"),
    ({"tool_choice": {"type": "any"}}, "tool_choice: expected tools"), ({"thinking": {"type": "deep"}}, "thinking.type: expected"), ({"thinking": {"type": "enabled", "budget_tokens": "x"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "display": "all"}}, "thinking.display: expected"), ({"output_config": {"effort": "little"}}, "output_config.effort: expected"), ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type: expected"), ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema: expected"),
    ({"stop_sequences": [""]}, "stop_sequences[0]: expected"), ({"stop_sequences": ["x"] * 33}, "stop_sequences: expected"), ({"stop": "x"}, "stop: is not a field"), ({"n": 2}, "n: is not a field"), ({"stream": True, "stream_options": {"include_usage": True}}, "stream_options: is not a field"),
    ({"temperature": 3}, "temperature: expected"), ({"mcp_servers": [{}]}, "mcp_servers: is not supported"), ({"nonsense": 1}, "nonsense: is not a field of this endpoint"),
]


@pytest.mark.parametrize("fields,message", WRONG)
def test_wrong(daemon, fields, message):
    body = {"model": NAME, "max_tokens": 5, "messages": ASK, **fields}
    answer = daemon.http.post("/v1/messages", json={k: v for k, v in body.items() if v is not None})
    assert answer.status_code == 400 and set(answer.json()) == {"type", "error"} and set(answer.json()["error"]) == {"type", "message"}
    assert answer.json()["type"] == "error" and answer.json()["error"]["type"] == "invalid_request_error"
    assert message in answer.json()["error"]["message"]


def test_kinds_of_errors(daemon, asked):
    with pytest.raises(anthropic.NotFoundError) as missing:
        create(asked, model="nobody")
    assert missing.value.type == "not_found_error" and missing.value.api_message.startswith("model: ")
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long: "):
        create(asked, [{"role": "user", "content": "a b c " * 2000}])
    with pytest.raises(anthropic.BadRequestError) as bad:
        asked.messages.count_tokens(model=NAME, messages=[{"role": "user", "content": [IMAGE]}])
    assert bad.value.type == "invalid_request_error"
    assert asked.messages.count_tokens(model=NAME, messages=[{"role": "user", "content": "a b c " * 2000}]).input_tokens > 2000
    for path, status, kind in (("/v1/messages/batches", 404, "not_found_error"), ("/v1/messages", 405, "invalid_request_error")):
        answer = daemon.http.get(path)
        assert answer.status_code == status and answer.json()["error"]["type"] == kind
    large = daemon.http.post("/v1/messages", content=b"x" * 9_000_000)
    assert large.status_code == 413 and large.json()["error"]["type"] == "request_too_large"
    assert "code" in daemon.http.post("/v1/messagesx", json={}).json()["error"]  # the others' form is OpenAI's


def test_errors_while_it_runs(start):
    d = start({"devices": "sim:0", "sim.base_us": 20000 * SLOW, "limits.max_queue": 1, "http.api_keys": "right"})
    with client_of(d, api_key="right") as c, client_of(d) as wrong:
        with pytest.raises(anthropic.AuthenticationError) as refused:
            create(wrong)
        assert refused.value.type == "authentication_error"
        with c.messages.stream(model=NAME, max_tokens=LONG, messages=ASK) as stream:
            next(iter(stream))
            with pytest.raises(anthropic.RateLimitError) as busy:
                create(c)
            assert busy.value.type == "rate_limit_error" and int(busy.value.response.headers["retry-after"]) >= 1
        d.wait_rest()
        with c.messages.stream(**asking(ASK, {"max_tokens": LONG, "timeout_ms": 500 * SLOW})) as stream:
            with pytest.raises(anthropic.APIStatusError) as late:
                stream.get_final_message()
        assert late.value.body["type"] == "error" and late.value.body["error"]["type"] == "timeout_error"


def test_clients_side_by_side(daemon, asked):
    """OpenAI's client is not disturbed by any of this."""
    with openai.OpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0) as other:
        text = other.chat.completions.create(model=NAME, messages=ASK, temperature=0, max_tokens=30).choices[0].message.content
    assert create(asked).content[0].text == text


def test_gone_client(daemon):
    before = daemon.total("tokenlane_cancelled_requests_total")
    with daemon.http.stream("POST", "/v1/messages", json={"max_tokens": LONG, "messages": ASK, "ignore_eos": True, "stream": True}) as answer:
        assert next(answer.iter_lines()) == "event: message_start"
    daemon.wait_rest()
    assert daemon.total("tokenlane_cancelled_requests_total") == before + 1


def test_broken_bodies(daemon):
    for content in (b"", b"[]", b"{", b'{"messages":' + b"[" * 100 + b"]" * 100 + b"}", b'{"messages":[{"role":"user","content":"\xff"}],"max_tokens":1}'):
        answer = httpx.post(daemon.url + "/v1/messages", content=content, timeout=30 * SLOW)
        assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"
        assert httpx.post(daemon.url + "/v1/messages/count_tokens", content=content, timeout=30 * SLOW).status_code == 400
