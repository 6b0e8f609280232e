# SPDX-License-Identifier: MIT
"""Calls of tools that a model writes by itself, taken out of its text: every format by a model that writes what it is told, marks as
special tokens and as text; then by the demo model, whose text a regular expression makes a call."""
import json
import re

import openai
import pytest

from daemon import NAME, SLOW, Daemon
from scripted import write_scripted
from test_chat_templates import folder

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
         for name in ("weather", "time")]
ARGUMENTS = '{"city": "Zürich \\"}]", "days": [1, 2.5, {"a": null}]}'
OBJECT, LLAMA = '{"name": "weather", "arguments": %s}', '{"name": "weather", "parameters": %s}'
START = "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}{% for m in messages %}{% for c in m.tool_calls or [] %}"
END = "{% endfor %}{{ m.content or '' }}{% endfor %}"
# format: (how the template writes a call, special tokens, an answer with a call, its content)
FORMATS = {
    "hermes": ('<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>', ["<tool_call>", "</tool_call>"],
               f"Let me see.\n<tool_call>\n{OBJECT % ARGUMENTS}\n</tool_call>", "Let me see.\n"),
    "llama3_json": ('<|python_tag|>{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}', ["<|python_tag|>"],
                    f"<|python_tag|>{LLAMA % ARGUMENTS}", None),
    "mistral": ("{% if c.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}[TOOL_CALLS][{{ c.function | tojson }}]",
                ["[TOOL_CALLS]"], f"[TOOL_CALLS][{OBJECT % ARGUMENTS}]", None),
    "mistral_named": ("[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}", ["[TOOL_CALLS]", "[ARGS]"],
                      f"So: [TOOL_CALLS]weather[ARGS]{ARGUMENTS}", "So: "),
    "granite": ("<|tool_call|>[{{ c.function | tojson }}]", ["<|tool_call|>"], f"<|tool_call|>[{OBJECT % ARGUMENTS}]", None),
    "harmony": ("<|start|>assistant to=functions.{{ c.function.name }}<|channel|>commentary json<|message|>{{ c.function.arguments | tojson }}<|call|>",
                ["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|call|>"],
                f"<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{ARGUMENTS}<|call|>", None),
}
PLAIN = "None needed: a < b, {c} [d]."


def started(log, model, options=()):
    d = Daemon(log, options, model=model)
    d.client = openai.OpenAI(base_url=d.url + "/v1", api_key="none", max_retries=0, timeout=60 * SLOW)
    return d


def ended(d):
    d.client.close()
    d.stop()


@pytest.fixture(scope="module", params=FORMATS)
def told(request, tmp_path_factory):
    """A model of the format, whose marks are special tokens."""
    call, special, answer, content = FORMATS[request.param]
    root = tmp_path_factory.mktemp(request.param)
    d = started(root / "log", write_scripted(root / "model", START + call + END, {"@1": answer, "@2": PLAIN}, special))
    d.format, d.content, d.answer = request.param, content, answer
    yield d
    ended(d)


@pytest.fixture
def serve(tmp_path):
    """serve(model, options): a daemon that ends with the test."""
    daemons = []

    def start(model, options=()):
        daemons.append(started(tmp_path / f"log{len(daemons)}", model, options))
        return daemons[-1]
    yield start
    for d in daemons:
        ended(d)


def ask(d, text, tools=TOOLS, **fields):
    return d.client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": text}], temperature=0, tools=tools, **fields)


def streamed(d, text, **fields):
    """What a client puts together: content, calls [[id, name, arguments]], finish_reason."""
    content, calls, finish = "", [], None
    for chunk in ask(d, text, stream=True, **fields):
        delta = chunk.choices[0].delta
        content += delta.content or ""
        for call in delta.tool_calls or []:
            if call.index == len(calls):
                assert call.id and call.type == "function" and call.function.name
                calls.append([call.id, call.function.name, ""])
            else:
                assert call.index == len(calls) - 1 and not call.id and not call.function.name
            calls[-1][2] += call.function.arguments or ""
        finish = chunk.choices[0].finish_reason or finish
    return content, calls, finish


def test_a_call(told):
    choice = ask(told, "@1").choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content == told.content
    [call] = choice.message.tool_calls
    assert (call.type, call.function.name, call.function.arguments) == ("function", "weather", ARGUMENTS)
    content, calls, finish = streamed(told, "@1")
    assert (content or None, finish) == (told.content, "tool_calls")
    assert [c[1:] for c in calls] == [["weather", ARGUMENTS]]
    assert calls[0][0] != call.id
    if told.format.startswith("mistral"):
        assert re.fullmatch("[0-9A-Za-z]{9}", call.id) and re.fullmatch("[0-9A-Za-z]{9}", calls[0][0])


def test_its_round(told):
    """The call goes back as part of the conversation, as clients do it."""
    message = ask(told, "@1").choices[0].message
    messages = [{"role": "user", "content": "@1"}, message.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "@2"}]
    answer = told.client.chat.completions.create(model=NAME, messages=messages, temperature=0, tools=TOOLS).choices[0]
    assert (answer.message.content, answer.message.tool_calls, answer.finish_reason) == (PLAIN, None, "stop")


def test_no_call(told):
    choice = ask(told, "@2").choices[0]
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (PLAIN, None, "stop")
    assert streamed(told, "@2") == (PLAIN, [], "stop")


def test_text_when_nobody_asked_for_calls(told):
    special = FORMATS[told.format][1]
    text = re.sub("|".join(map(re.escape, special)), "", told.answer)
    for fields in ({"tools": openai.omit}, {"tool_choice": "none"}):
        choice = ask(told, "@1", **fields).choices[0]
        assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (text, None, "stop")


def test_cut_by_max_tokens(told):
    whole = ask(told, "@1").usage.completion_tokens
    choice = ask(told, "@1", max_tokens=whole - 6).choices[0]
    assert choice.finish_reason == "length" and not choice.message.tool_calls
    assert '"city"' in choice.message.content  # what was no call in the end
    content, calls, finish = streamed(told, "@1", max_tokens=whole - 6)
    assert (content or None, finish) == (told.content, "length")
    assert calls[0][1] == "weather" and calls[0][2] != ARGUMENTS and ARGUMENTS.startswith(calls[0][2])


def test_a_stop_string_within_arguments(told):
    content, calls, finish = streamed(told, "@1", stop=["days"])
    assert (content or None, finish) == (told.content, "tool_calls")
    assert calls[0][1:] == ["weather", ARGUMENTS.split("days")[0]]


def test_several_choices(told):
    answer = ask(told, "@1", n=3)
    ids = {c.message.tool_calls[0].id for c in answer.choices}
    assert len(ids) == 3 and all(c.message.tool_calls[0].function.arguments == ARGUMENTS for c in answer.choices)


# --- the format's choice ------------------------------------------------------------------------------

def test_the_key_names_the_format(serve, tmp_path):
    answers = {"@1": f"<tool_call>{OBJECT % '{}'}</tool_call>", "@2": LLAMA % "{}"}
    model = write_scripted(tmp_path / "model", START + "[{{ c.function.name }}()]" + END, answers)
    for key, calling in (("auto", []), ("none", []), ("hermes", ["@1"]), ("granite", ["@1"]), ("llama3_json", ["@2"]), ("mistral", [])):
        d = serve(model, {"model.tool_parser": key})
        for text, answer in answers.items():
            choice = d.chat(text, tools=TOOLS)["choices"][0]
            if text in calling:
                assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
                assert choice["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": "{}"}
            else:
                assert choice["finish_reason"] == "stop" and choice["message"]["content"] == answer
        assert f"format={'none' if key == 'auto' else key}" in d.stderr()


SEVERAL = {
    "hermes": (f"<tool_call>\n{OBJECT % ARGUMENTS}\n</tool_call>\n<tool_call>\n" + '{"arguments": {}, "name": "time"}\n</tool_call>\n'),
    "llama3_json": LLAMA % ARGUMENTS + '; {"name": "time", "parameters": {}}',
    "mistral": f"[TOOL_CALLS][{OBJECT % ARGUMENTS}, " + '{"name": "time", "arguments": {}}]',
    "granite": f"<tool_call>[{OBJECT % ARGUMENTS}, " + '{"name": "time", "arguments": {}}]'}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_calls(serve, tmp_path, name):
    """Marks are text here."""
    model = write_scripted(tmp_path / "model", START + END, {"@1": SEVERAL[name]})
    d = serve(model, {"model.tool_parser": name})
    expected = [["weather", ARGUMENTS], ["time", "{}"]]
    message = ask(d, "@1").choices[0].message
    assert message.content is None and [[c.function.name, c.function.arguments] for c in message.tool_calls] == expected
    assert len({c.id for c in message.tool_calls}) == 2
    content, calls, finish = streamed(d, "@1")
    assert (content, [c[1:] for c in calls], finish) == ("", expected, "tool_calls")
    assert len({c[0] for c in calls}) == 2
    # no more than one at a time
    message = ask(d, "@1", parallel_tool_calls=False).choices[0].message
    assert [[c.function.name, c.function.arguments] for c in message.tool_calls] == expected[:1]
    content, calls, finish = streamed(d, "@1", parallel_tool_calls=False)
    assert (content, [c[1:] for c in calls], finish) == ("", expected[:1], "tool_calls")


def test_what_goes_wrong_is_text(serve, tmp_path):
    broken = '<tool_call>{"name": "weather", "arguments": {"city": oops}}</tool_call> and so on'
    model = write_scripted(tmp_path / "model", START + END, {"@1": broken, "@2": "<tool_call> never mind"})
    d = serve(model, {"model.tool_parser": "hermes"})
    choice = ask(d, "@1").choices[0]
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (broken, None, "stop")
    # a stream has shown the call by then
    assert [c[1:] for c in streamed(d, "@1")[1]] == [["weather", '{"city": oops}']] and streamed(d, "@1")[0] == " and so on"
    assert ask(d, "@2").choices[0].message.content == "<tool_call> never mind"
    assert streamed(d, "@2") == ("<tool_call> never mind", [], "stop")


# --- the demo model: its marks are text, which it is made to write -----------------------------------------

HELD = {
    "hermes": (r'Well\. <tool_call>\n\{"name": "(weather|time)", "arguments": (\{"city": "[a-z ]{3,9}"\})\}\n</tool_call>', "Well. "),
    "llama3_json": (r'\{"name": "(weather|time)", "parameters": (\{"city": "[a-z ]{3,9}"\})\}', None),
    "mistral": (r'\[TOOL_CALLS\]\[\{"name": "(weather|time)", "arguments": (\{"city": "[a-z ]{3,9}"\})\}\]', None)}


@pytest.mark.parametrize("name", HELD)
def test_the_demo_model(serve, tmp_path, name):
    regex, content = HELD[name]
    d = serve(folder(tmp_path / "model", START + FORMATS[name][0] + END))
    for seed in range(3):
        fields = {"extra_body": {"structured_outputs": {"regex": regex}}, "seed": seed, "max_tokens": 200}
        text = ask(d, "Hi", tool_choice="none", **fields).choices[0].message.content
        assert re.fullmatch(regex, text)
        choice = ask(d, "Hi", **fields).choices[0]
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", content)
        [call] = choice.message.tool_calls
        assert call.function.name in ("weather", "time") and set(json.loads(call.function.arguments)) == {"city"}
        said, calls, finish = streamed(d, "Hi", **fields)
        assert (said or None, finish) == (content, "tool_calls")
        assert [c[1:] for c in calls] == [[call.function.name, call.function.arguments]]
