# SPDX-License-Identifier: MIT
"""/v1/responses through OpenAI's own Python client: answers are chat's, streams say in full what plain answers say, and what comes
back as input is the conversation that it was."""
import json
import random
from typing import Literal

import openai
import pydantic
import pytest

from alike import exact
from daemon import LONG, NAME, SLOW, Daemon, wait_for
from scripted import write_scripted
from test_tool_calls import END, FORMATS, PLAIN, START
from wire import Wire

QUESTION = "Who is Clara?"
PARAMETERS = {"type": "object", "properties": {"city": {"enum": ["Zürich", "Rome"]}}, "required": ["city"], "additionalProperties": False}
TOOLS = [{"type": "function", "name": name, "description": "d", "parameters": PARAMETERS, "strict": True} for name in ("weather", "time")]


def ask(client, what=QUESTION, **fields):
    return client.responses.create(**{"model": NAME, "input": what, "temperature": 0, "max_output_tokens": 40, **fields})


def chat(client, messages, **fields):
    messages = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    return client.chat.completions.create(**{"model": NAME, "messages": messages, "temperature": 0, "max_tokens": 40, **fields})


def told(answer):
    """What an answer says: (type, its text or call) of each item."""
    return [(i.type, i.content[0].text) if i.type != "function_call" else (i.type, i.name, i.arguments) for i in answer.output]


class Played:
    """A stream, event by event, held to what OpenAI's reference says of their order."""

    def __init__(self, events):
        self.items, self.deltas, self.answer, self.open = [], [], None, None
        for number, event in enumerate(events):
            assert event.sequence_number == number and self.answer is None
            kind = event.type.removeprefix("response.").replace(".", "_")
            getattr(self, kind, self.item_event)(event)
        assert self.answer is not None and self.open is None
        assert [i.to_dict() for i in self.answer.output] == [i.to_dict() for i in self.items]

    def created(self, event):
        assert event.sequence_number < 2 and event.response.status == "in_progress"
        assert event.response.output == [] and event.response.usage is None

    in_progress = created

    def completed(self, event):
        assert event.type == f"response.{event.response.status}"
        self.answer = event.response

    incomplete = completed

    def output_item_added(self, event):
        assert self.open is None and event.output_index == len(self.items) and event.item.status == "in_progress"
        self.open, self.text, self.done, self.part = event.item, "", False, False
        self.deltas.append([])

    def item_event(self, event):
        """The others speak of the open item."""
        assert event.item_id == self.open.id and event.output_index == len(self.items)
        name, end = event.type.rsplit(".", 1)
        if name == "response.content_part":
            assert event.content_index == 0 and self.part == (end == "done") == self.done and event.part.text == self.text
            self.part = True
            return
        assert name == {"message": "response.output_text", "reasoning": "response.reasoning_text",
                        "function_call": "response.function_call_arguments"}[self.open.type]
        assert not self.done
        if end == "delta":
            self.text += event.delta
            self.deltas[-1].append(event)
        else:
            assert self.text == (event.arguments if self.open.type == "function_call" else event.text)
            self.done = True

    def output_item_done(self, event):
        assert self.done and event.output_index == len(self.items) and event.item.id == self.open.id
        assert self.text == (event.item.arguments if self.open.type == "function_call" else event.item.content[0].text)
        self.items.append(event.item)
        self.open = None


def streamed(client, what=QUESTION, **fields):
    return Played(ask(client, what, stream=True, **fields))


# --- answers ------------------------------------------------------------------------------------------

@exact
def test_an_answer_is_chats(client):
    answer, other = ask(client), chat(client, QUESTION)
    assert answer.output_text == other.choices[0].message.content
    assert answer.status == "completed" and answer.incomplete_details is None and answer.error is None
    assert answer.object == "response" and answer.id.startswith("resp_") and answer.model == NAME
    assert answer.created_at <= answer.completed_at
    [message] = answer.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert message.id.startswith("msg_") and message.content[0].annotations == []
    usage, theirs = answer.usage, other.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (theirs.prompt_tokens, theirs.completion_tokens, theirs.total_tokens)
    assert usage.input_tokens_details.cached_tokens <= usage.input_tokens and usage.output_tokens_details.reasoning_tokens == 0
    assert ask(client).id != answer.id


@exact
def test_instructions_and_items_are_messages(client):
    answer = ask(client, [{"role": "developer", "content": [{"type": "input_text", "text": "Be short."}]}, {"role": "user", "content": "Hello."},
                          {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi!", "annotations": []}]},
                          {"role": "user", "content": [{"type": "input_text", "text": "Who"}, {"type": "input_text", "text": "is Ben?"}]}],
                 instructions="You are Ida.")
    other = chat(client, [{"role": "system", "content": "You are Ida.\n\nBe short."}, {"role": "user", "content": "Hello."},
                          {"role": "assistant", "content": "Hi!"}, {"role": "user", "content": "Who\nis Ben?"}])
    assert (answer.output_text, answer.usage.input_tokens) == (other.choices[0].message.content, other.usage.prompt_tokens)


@exact
@pytest.mark.parametrize("limit", [5, 40])
def test_a_stream_says_what_the_plain_answer_says(client, limit):
    plain, played = ask(client, max_output_tokens=limit), streamed(client, max_output_tokens=limit)
    assert told(played.answer) == told(plain) and played.answer.status == plain.status
    assert played.answer.usage.output_tokens == plain.usage.output_tokens
    echo = {"id", "created_at", "completed_at", "output", "usage"}
    assert {k: v for k, v in played.answer.to_dict().items() if k not in echo} == {k: v for k, v in plain.to_dict().items() if k not in echo}


def test_a_cut_answer_is_incomplete(client):
    for answer in (ask(client, max_output_tokens=3), streamed(client, max_output_tokens=3).answer):
        assert answer.status == answer.output[0].status == "incomplete"
        assert answer.incomplete_details.reason == "max_output_tokens" and answer.usage.output_tokens == 3


@exact
def test_a_cut_answer_goes_on(client):
    whole, cut = ask(client), ask(client, max_output_tokens=5)
    rest = ask(client, [{"role": "user", "content": QUESTION}, *[i.to_dict() for i in cut.output]])
    assert cut.output_text + rest.output_text == whole.output_text


def test_the_clients_stream_helper(client):
    with client.responses.stream(model=NAME, input=QUESTION, temperature=0, max_output_tokens=200) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        answer = stream.get_final_response()
    assert text == answer.output_text and answer.status == "completed"


def test_events_have_names_and_end_with_the_answer(daemon):
    lines = daemon.post("/v1/responses", model=NAME, input="hi", stream=True, max_output_tokens=5).text.split("\n")
    events = [(lines[i].removeprefix("event: "), json.loads(lines[i + 1].removeprefix("data: "))) for i in range(0, len(lines) - 1, 3)]
    assert all(name == data["type"] for name, data in events) and "[DONE]" not in lines[-3]
    assert events[-1][0] in ("response.completed", "response.incomplete") and set(lines[2::3]) == {""}


def test_an_answer_repeats_the_request(client):
    fields = {"metadata": {"a": "b"}, "max_output_tokens": 5, "user": "me", "prompt_cache_key": "k", "safety_identifier": "s", "top_p": 0.5,
              "instructions": "Line\u2028line.", "tools": TOOLS, "tool_choice": "none", "parallel_tool_calls": False, "temperature": 0.7,
              "text": {"format": {"type": "text"}, "verbosity": "medium"}}
    for answer in (ask(client, **fields), streamed(client, **fields).answer):
        said = answer.to_dict()
        for name, value in fields.items():
            assert said[name] == value, name
    answer = ask(client, store=True, truncation="auto", service_tier="auto", background=False, max_tool_calls=3, include=["reasoning.encrypted_content"],
                 prompt_cache_retention="24h", extra_body={"stream_options": None, "vllm_xargs": {}, "enable_response_messages": False})
    assert (answer.to_dict()["store"], answer.truncation, answer.service_tier, answer.background) == (False, "disabled", "default", False)
    assert (answer.tools, answer.tool_choice, answer.metadata, answer.previous_response_id) == ([], "auto", {}, None)


@exact
def test_log_probabilities_are_chats(client):
    fields = {"include": ["message.output_text.logprobs"], "top_logprobs": 3}
    plain, played = ask(client, **fields), streamed(client, **fields)
    theirs = [t.model_dump() for t in chat(client, QUESTION, logprobs=True, top_logprobs=3).choices[0].logprobs.content]
    assert [t.model_dump() for t in plain.output[0].content[0].logprobs] == theirs
    assert [t.model_dump() for t in played.items[0].content[0].logprobs] == theirs
    assert [t["token"] for t in theirs] == [t.token for d in played.deltas[0] for t in d.logprobs]
    assert all(len(t.top_logprobs) == 3 for d in played.deltas[0] for t in d.logprobs)
    assert ask(client, include=fields["include"]).output[0].content[0].logprobs[0].top_logprobs == []


def test_log_probabilities_of_a_stream_count_as_often_as_they_are_told(start):
    d = start({"limits.max_logprobs": 100})
    fields = {"model": NAME, "input": QUESTION, "include": ["message.output_text.logprobs"], "top_logprobs": 1}
    assert d.post("/v1/responses", **fields, max_output_tokens=50).status_code == 200
    assert d.post("/v1/responses", **fields, max_output_tokens=10, stream=True).status_code == 200
    error = d.post("/v1/responses", **fields, max_output_tokens=11, stream=True).json()["error"]
    assert error["param"] == "top_logprobs" and "may be at most 20" in error["message"]


@exact
def test_sampling_fields_are_chats(client):
    fields = {"seed": 7, "top_k": 20, "min_p": 0.01, "repetition_penalty": 1.1, "stop": ["."], "min_tokens": 2, "ignore_eos": True}
    answer = ask(client, temperature=1.0, extra_body=fields)
    assert answer.output_text == chat(client, QUESTION, temperature=1.0, extra_body=fields).choices[0].message.content


def test_a_large_request_is_read_as_a_small_one(daemon, client):
    """By a text lane: white space makes it large."""
    body = json.dumps({"model": NAME, "input": QUESTION, "temperature": 0, "max_output_tokens": 10}) + " " * 20000
    answer = daemon.http.post("/v1/responses", content=body).json()
    assert answer["output"][0]["content"][0]["text"] == ask(client, max_output_tokens=10).output_text


def test_tokens_can_be_counted(client, caller):
    fields = {"instructions": "Be short.", "input": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "A doctor."},
                                                     {"role": "user", "content": [{"type": "input_text", "text": "Where?"}]}]}
    counted = client.responses.input_tokens.count(model=NAME, **fields)
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens == client.responses.create(model=NAME, max_output_tokens=1, **fields).usage.input_tokens > 10
    tools = caller.responses.input_tokens.count(model=NAME, input="@2", tools=TOOLS, tool_choice="required")
    assert tools.input_tokens > caller.responses.input_tokens.count(model=NAME, input="@2").input_tokens
    for field, wrong in (("input", {}), ("input[0].role", {"input": [{"content": "a"}]}), ("tools[0].type", {"input": "a", "tools": [{"type": "shell"}]})):
        with pytest.raises(openai.BadRequestError) as error:
            client.responses.input_tokens.count(model=NAME, **wrong)
        assert error.value.param == field


def test_it_is_counted(daemon, client):
    before = daemon.total("tokenlane_http_requests_total", route="/v1/responses", code="200")
    ask(client, max_output_tokens=1)
    assert daemon.total("tokenlane_http_requests_total", route="/v1/responses", code="200") == before + 1


# --- what an answer is held to ----------------------------------------------------------------------------

class Person(pydantic.BaseModel):
    name: Literal["Clara", "Ben"]
    likes: Literal["tea", "cake"]


def test_a_format_is_parsed_by_the_client(client):
    answer = client.responses.parse(model=NAME, input=QUESTION, text_format=Person, temperature=0)
    assert isinstance(answer.output_parsed, Person)
    with client.responses.stream(model=NAME, input=QUESTION, text_format=Person, temperature=0) as stream:
        for event in stream:
            if event.type == "response.output_text.done":
                assert isinstance(event.parsed, Person)
        assert stream.get_final_response().output_parsed == answer.output_parsed


def test_json_objects(client):
    text = {"format": {"type": "json_object"}}
    answer = ask(client, text=text, max_output_tokens=200)
    assert answer.text.format.type == "json_object" and answer.output_text.lstrip()[0] == "{"
    if answer.status == "completed":
        assert isinstance(json.loads(answer.output_text), dict)


def test_calls_that_are_asked_for(client):
    named = {"type": "function", "name": "time"}
    for choice, names in (("required", {"weather", "time"}), (named, {"time"})):
        fields = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False, "max_output_tokens": 200}
        for answer in (ask(client, **fields), streamed(client, **fields).answer):
            [call] = answer.output
            assert call.type == "function_call" and call.name in names and call.status == "completed"
            assert call.id.startswith("fc_") and call.call_id.startswith("call_") and json.loads(call.arguments)["city"] in ("Zürich", "Rome")
            assert answer.tools[0].to_dict() == TOOLS[0] and answer.output_text == ""


def test_a_call_that_is_cut_is_incomplete(client):
    fields = {"tools": TOOLS, "tool_choice": {"type": "function", "name": "time"}, "max_output_tokens": 4}
    plain, played = ask(client, **fields), streamed(client, **fields)
    assert [played.answer.output[0].status, plain.output[0].status, plain.status] == ["incomplete"] * 3
    assert played.answer.output[0].arguments == plain.output[0].arguments != ""


# --- calls that a model writes ------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    """A model that says something and calls a tool, with @1, and answers with @2."""
    call, special, answer, _ = FORMATS["hermes"]
    root = tmp_path_factory.mktemp("caller")
    d = Daemon(root / "log", model=write_scripted(root / "model", START + call + END, {"@1": answer, "@2": PLAIN, "@3": " \n ",
                                                    "@4": 'So: <tool_call>{"name": "time", "arguments": {"a": 1}}</tool_call> ok!'}, special))
    d.client = openai.OpenAI(base_url=d.url + "/v1", api_key="none", max_retries=0, timeout=60 * SLOW)
    yield d.client
    d.client.close()
    d.stop()


def test_a_turn_of_a_conversation(caller):
    """Text and call are items, which go back as they are."""
    tools = [{**t, "parameters": {"type": "object", "properties": {}}} for t in TOOLS]
    fields = {"tools": tools, "max_output_tokens": 400}
    plain, played = ask(caller, "@1", **fields), streamed(caller, "@1", **fields)
    for answer in (plain, played.answer):
        message, call = answer.output
        assert (message.type, message.content[0].text, message.status) == ("message", "Let me see.\n", "completed")
        assert (call.type, call.name, call.status, json.loads(call.arguments)["days"][0]) == ("function_call", "weather", "completed", 1)
        back = [{"role": "user", "content": "@1"}, *[i.to_dict() for i in answer.output],
                {"type": "function_call_output", "call_id": call.call_id, "output": "@2"}]
        after = ask(caller, back, **fields)
        assert told(after) == [("message", PLAIN)] and told(streamed(caller, back, **fields).answer) == told(after)
        # the prompt is what chat's client would have sent
        other = chat(caller, [{"role": "user", "content": "@1"},
                              {"role": "assistant", "content": "Let me see.\n", "tool_calls": [
                                  {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}]},
                              {"role": "tool", "tool_call_id": call.call_id, "content": "@2"}],
                     tools=[{"type": "function", "function": {k: v for k, v in t.items() if k != "type"}} for t in tools])
        assert after.usage.input_tokens == other.usage.prompt_tokens
    assert played.items[1].call_id != plain.output[1].call_id


def test_text_behind_a_call(caller):
    """What a model says behind a call comes behind it, though both may come at once."""
    fields = {"tools": [{**TOOLS[0], "parameters": {"type": "object", "properties": {}}}], "max_output_tokens": 400}
    # a stop string that nearly comes holds the end of the call back until there is text behind it
    for late in ({}, {"extra_body": {"stop": ["1}}</tool_call> ok?"]}}, {"extra_body": {"stop": ["</tool_call> ok!!"]}}):
        for answer in (ask(caller, "@4", **fields, **late), streamed(caller, "@4", **fields, **late).answer):
            assert told(answer) == [("message", "So: "), ("function_call", "time", '{"a": 1}'), ("message", " ok!")]
            assert {i.status for i in answer.output} == {"completed"}
    # cut behind the call: that has ended
    n = answer.usage.output_tokens
    for cut in (n - 2, n - 1):
        limits = {**fields, "max_output_tokens": cut}
        whole, played = ask(caller, "@4", **limits), streamed(caller, "@4", **limits).answer
        assert [(i.type, i.status) for i in whole.output] == [(i.type, i.status) for i in played.output]
        assert [i.status for i in whole.output] == ["completed", "completed", "incomplete"] and whole.status == "incomplete"
    # in the conversation it is one message, as chat's clients have it
    back = [{"role": "user", "content": "@4"}, *[i.to_dict() for i in answer.output],
            {"type": "function_call_output", "call_id": answer.output[1].call_id, "output": "@2"}]
    call = {"id": "1", "type": "function", "function": {"name": "time", "arguments": '{"a": 1}'}}
    other = chat(caller, [{"role": "user", "content": "@4"}, {"role": "assistant", "content": "So:  ok!", "tool_calls": [call]},
                          {"role": "tool", "tool_call_id": "1", "content": "@2"}],
                 tools=[{"type": "function", "function": {k: v for k, v in t.items() if k != "type"}} for t in fields["tools"]])
    assert ask(caller, back, **fields).usage.input_tokens == other.usage.prompt_tokens
    # log-probabilities of a whole answer are at its first message
    whole = ask(caller, "@4", include=["message.output_text.logprobs"], **fields)
    assert "".join(t.token for t in whole.output[0].content[0].logprobs).startswith("So: ") and whole.output[2].content[0].logprobs == []


def test_an_answer_without_calls_or_words(caller):
    for answer in (ask(caller, "@2", tools=TOOLS), streamed(caller, "@2", tools=TOOLS).answer):
        assert told(answer) == [("message", PLAIN)]
    for answer in (ask(caller, "@3"), streamed(caller, "@3").answer):
        assert told(answer) == [("message", " \n ")]
    for answer in (ask(caller, "@2", extra_body={"stop": ["None"]}), streamed(caller, "@2", extra_body={"stop": ["None"]}).answer):
        assert told(answer) == [("message", "")] and answer.status == "completed"


# --- what a model thinks --------------------------------------------------------------------------------------

THOUGHTS, SAID = "Hm, a < b?", "So it is."
SWITCH = ("{% for m in messages %}{{ m.reasoning_content or '' }}{{ m.content or '' }}{% endfor %}"
          "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}<think>\n</think>\n\n\n{% endif %}")


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    root = tmp_path_factory.mktemp("thinker")
    answers = {"@1": f"<think>\n{THOUGHTS}\n</think>\n\n{SAID}", "@2": PLAIN}
    d = Daemon(root / "log", model=write_scripted(root / "model", SWITCH, answers))
    d.client = openai.OpenAI(base_url=d.url + "/v1", api_key="none", max_retries=0, timeout=60 * SLOW)
    yield d.client
    d.client.close()
    d.stop()


def test_thoughts_are_an_item(thinker):
    for answer in (ask(thinker, "@1"), streamed(thinker, "@1").answer):
        thoughts, message = answer.output
        assert (thoughts.type, thoughts.summary, thoughts.status) == ("reasoning", [], "completed") and thoughts.id.startswith("rs_")
        assert (thoughts.content[0].type, thoughts.content[0].text) == ("reasoning_text", THOUGHTS)
        assert (message.type, answer.output_text, answer.status) == ("message", SAID, "completed")
        assert 0 < answer.usage.output_tokens_details.reasoning_tokens < answer.usage.output_tokens
        # as input they are the model's own again
        back = [{"role": "user", "content": "@1"}, *[i.to_dict() for i in answer.output], {"role": "user", "content": "@2"}]
        other = chat(thinker, [{"role": "user", "content": "@1"}, {"role": "assistant", "reasoning_content": THOUGHTS, "content": SAID},
                               {"role": "user", "content": "@2"}])
        after = ask(thinker, back)
        assert (after.output_text, after.usage.input_tokens) == (PLAIN, other.usage.prompt_tokens)


def test_thoughts_that_are_cut(thinker):
    for answer in (ask(thinker, "@1", max_output_tokens=5), streamed(thinker, "@1", max_output_tokens=5).answer):
        [thoughts] = answer.output
        assert (thoughts.type, thoughts.status, answer.status) == ("reasoning", "incomplete", "incomplete")
        assert THOUGHTS.startswith(thoughts.content[0].text) and thoughts.content[0].text
        assert 0 < answer.usage.output_tokens_details.reasoning_tokens <= 5


def test_how_hard_to_think_is_the_templates(thinker, client):
    answer = ask(thinker, "@2", reasoning={"effort": "low", "summary": "auto"})
    assert answer.reasoning.effort == "low"
    none = ask(thinker, "@2", reasoning={"effort": "none"})
    assert none.usage.input_tokens > answer.usage.input_tokens
    for field, says, value in (("reasoning.effort", "none, minimal", {"effort": "some"}), ("reasoning", "no member \"budget\"", {"budget": 5}),
                               ("reasoning", "an object", "low"), ("reasoning.effort", "not supported by the chat template", {"effort": "high"})):
        with pytest.raises(openai.BadRequestError, match=says) as error:
            ask(client, reasoning=value)
        assert error.value.param == field
    assert ask(client, reasoning={"effort": "none"}, max_output_tokens=1).reasoning.effort == "none"


# --- errors ------------------------------------------------------------------------------------------------

WRONG = [
    ("input", "is required", {"input": openai.omit}),
    ("input", "at least one item", {"input": []}),
    ("input[0].role", "user, assistant, system or developer", {"input": [{"role": "tool", "content": "a"}]}),
    ("input[0].content[0]", "input_image", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "a"}]}]}),
    ("input[0].type", "computer_call", {"input": [{"type": "computer_call"}]}),
    ("input[0]", "stores no items", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    ("input[0].arguments", "a string of JSON", {"input": [{"type": "function_call", "call_id": "a", "name": "b", "arguments": "[1"}]}),
    ("instructions", "a string", {"instructions": ["a"]}),
    ("tools[0].type", "no tool \"web_search\"", {"tools": [{"type": "web_search"}]}),
    ("tools[0].name", "not empty", {"tools": [{"type": "function"}]}),
    ("tool_choice", "tools to be given", {"tool_choice": "required"}),
    ("tool_choice.name", "one of the tools", {"tools": TOOLS, "tool_choice": {"type": "function", "name": "a"}}),
    ("tools[0].parameters", "an object", {"tools": [{"type": "function", "name": "a", "parameters": {"type": "array"}}], "tool_choice": "required"}),
    ("tools", "not supported by the chat template", {"tools": TOOLS}),
    ("tool_choice", "together with text.format", {"tools": TOOLS, "tool_choice": "required", "text": {"format": {"type": "json_object"}}}),
    ("text.format.type", "json_schema", {"text": {"format": {"type": "xml"}}}),
    ("text.format.schema", "schema", {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "nonsense"}}}}),
    ("text.verbosity", "not supported", {"text": {"verbosity": "high"}}),
    ("top_logprobs", "include", {"top_logprobs": 2}),
    ("top_logprobs", "0 to 20", {"top_logprobs": 21, "include": ["message.output_text.logprobs"]}),
    ("include[0]", "message.output_text.logprobs", {"include": ["everything"]}),
    ("stream_options", "stream to be true", {"stream_options": {"include_obfuscation": False}}),
    ("max_output_tokens", "an integer", {"max_output_tokens": 0}),
    ("input", "by max_output_tokens", {"max_output_tokens": 100000}),
    ("input", "input has more", {"input": "word " * 3000}),
    ("metadata", "an object of strings", {"metadata": {"a": 1}}),
    ("temperature", "a number from 0 to 2", {"temperature": 3}),
    ("truncation", "auto or disabled", {"truncation": "left"}),
    ("previous_response_id", "stores no answers", {"previous_response_id": "resp_1"}),
    ("conversation", "is not supported", {"conversation": "conv_1"}),
    ("background", "is not supported", {"background": True}),
    ("prompt", "is not supported", {"prompt": {"id": "pmpt_1"}}),
    ("enable_response_messages", "is not supported", {"extra_body": {"enable_response_messages": True}}),
    ("min_tokens", "at most max_output_tokens", {"extra_body": {"min_tokens": 50}}),
    ("response_format", "is not a field of this endpoint", {"extra_body": {"response_format": {"type": "text"}}}),
    ("messages", "is not a field of this endpoint", {"extra_body": {"messages": []}}),
    ("n", "is not a field of this endpoint", {"extra_body": {"n": 2}}),
    ("max_tokens", "is not a field of this endpoint", {"extra_body": {"max_tokens": 2}}),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("field,says,fields", WRONG, ids=lambda v: v if isinstance(v, str) else "")
def test_refusals(client, field, says, fields, stream):
    stream = stream and "stream_options" not in fields
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, **{"stream": stream, **fields})
    assert error.value.param == field and says in error.value.message
    assert error.value.type == "invalid_request_error"


def test_nothing_is_stored(client):
    answer = ask(client, max_output_tokens=1)
    with pytest.raises(openai.NotFoundError, match="stores no answers"):
        client.responses.retrieve(answer.id)
    with pytest.raises(openai.APIStatusError) as error:
        client.responses.delete(answer.id)
    assert error.value.status_code == 405


def test_random_items_are_answered_or_refused(daemon):
    """Members that belong to other items, values of other types."""
    draw = random.Random(4)
    members = {"type": ["message", "function_call", "function_call_output", "reasoning", "item_reference", 1, None], "role": ["user", "assistant", "system", 2],
               "content": ["a", [], [{"type": "input_text", "text": "b"}], [{"type": "output_text"}], [[]], {}, None, 3],
               "summary": [[], [{"text": "c"}], "d"], "call_id": ["e", "", 4], "name": ["f", None], "arguments": ["{}", "", "[", "5", {}],
               "output": ["g", [{"type": "input_text", "text": "h"}], 5], "status": ["incomplete", "completed", 6]}
    seen = set()
    for _ in range(300):
        items = [{k: draw.choice(v) for k, v in members.items() if draw.random() < 0.6} for _ in range(draw.randint(1, 3))]
        answer = daemon.post("/v1/responses", model=NAME, input=items, max_output_tokens=1)
        seen.add(answer.status_code)
        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 400:
            assert answer.json()["error"]["param"].startswith(("input", "instructions"))
    assert seen == {200, 400}


# --- streams that end early -------------------------------------------------------------------------------------

def test_closing_a_stream_ends_its_work(daemon, client):
    before = daemon.total("tokenlane_cancelled_requests_total")
    stream = ask(client, stream=True, max_output_tokens=LONG, extra_body={"ignore_eos": True})
    next(stream)
    stream.close()
    wait_for(lambda: daemon.total("tokenlane_cancelled_requests_total") == before + 1, 10, "the end")
    daemon.wait_rest()


def test_a_client_that_reads_late_gets_it_all(daemon):
    """Little fits into its window and the daemon's queue, so that the end waits."""
    body = {"model": NAME, "input": QUESTION, "temperature": 0, "stream": True, "max_output_tokens": LONG, "ignore_eos": True}
    plain = daemon.post("/v1/responses", **{**body, "stream": False}).json()
    with Wire(daemon.port, receive_buffer=2048) as wire:
        wire.post("/v1/responses", **body)
        wait_for(lambda: daemon.total("tokenlane_sequences_running") == 0, 60, "the generation")
        last = json.loads(wire.answer().body.decode().strip().split("\n")[-1].removeprefix("data: "))
    assert last["response"]["output"][0]["content"] == plain["output"][0]["content"]
    daemon.wait_rest()


def test_a_stream_that_fails_says_so(start):
    d = start({"devices": "sim:0", "sim.base_us": 20000, "engine.max_context": 512, "drain_timeout_ms": 50})
    with openai.OpenAI(base_url=d.url + "/v1", api_key="none", max_retries=0, timeout=60 * SLOW) as client:
        stream = ask(client, stream=True, max_output_tokens=400)
        events = [next(stream) for _ in range(6)]
        d.signal()
        events += list(stream)
    assert [e.sequence_number for e in events] == list(range(len(events)))
    error, failed = events[-2:]
    assert error.type == "error" and "shutting down" in error.message
    assert failed.type == "response.failed" and failed.response.status == "failed"
    assert failed.response.error.code == "server_error" and "shutting down" in failed.response.error.message
    assert d.wait_exit() == 0
