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

PROPERTIES = {"city": {"type": "string"}, "days": {"type": "array"}}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": PROPERTIES}}} for name in ("weather", "time")]
ARGUMENTS = '{"city": "Zürich \\"}]", "days": [1, 2.5, {"a": null}]}'
OBJECT, LLAMA = '{"name": "weather", "arguments": %s}', '{"name": "weather", "parameters": %s}'
START = "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}{% for m in messages %}{% for c in m.tool_calls or [] %}"
END = "{% endfor %}{{ m.content or '' }}{% endfor %}"
XML = '<tool_call>\n<function=weather>\n<parameter=city>\nZürich "}]\n</parameter>\n<parameter=days>\n[1, 2.5, {"a": null}]\n</parameter>\n</function>\n</tool_call>'
GLM = '<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Zürich "}]</arg_value>\n<arg_key>days</arg_key>\n<arg_value>[1, 2.5, {"a": null}]</arg_value>\n</tool_call>'
GEMMA = '<|tool_call>call:weather{city:<|"|>Zürich "}]<|"|>,days:[1,2.5,{a:null}]}<tool_call|>'
PYTHON = "weather(city='Zürich \"}]', days=[1, 2.5, {'a': None}])"
CALLS, CALL, SEP, CALL_END, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"
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
    "nemotron": ("<TOOLCALL>[{{ c.function | tojson }}]</TOOLCALL>", [], f"Well.\n<TOOLCALL>[{OBJECT % ARGUMENTS}]</TOOLCALL>", "Well.\n"),
    "gemma4": ('<|tool_call>call:{{ c.function.name }}{city:<|"|>{{ c.function.arguments.city }}<|"|>}<tool_call|>', ["<|tool_call>", "<tool_call|>"],
               "Well.\n" + GEMMA, "Well.\n"),
    "harmony": ("<|start|>assistant to=functions.{{ c.function.name }}<|channel|>commentary json<|message|>{{ c.function.arguments | tojson }}<|call|>",
                ["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|call|>"],
                f"<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{ARGUMENTS}<|call|>", None),
    "qwen3_coder": ("<tool_call>\n<function={{ c.function.name }}>\n{% for k, v in c.function.arguments | items %}<parameter={{ k }}>\n"
                    "{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}</function>\n</tool_call>", ["<tool_call>", "</tool_call>"], "Well.\n" + XML, "Well.\n"),
    "seed_oss": ("<seed:tool_call>\n<function={{ c.function.name }}>\n{% for k, v in c.function.arguments | items %}<parameter={{ k }}>\n"
                 "{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}</function>\n</seed:tool_call>", ["<seed:tool_call>", "</seed:tool_call>"],
                 "Well.\n" + XML.replace("tool_call", "seed:tool_call"), "Well.\n"),
    "glm45": ("<tool_call>{{ c.function.name }}\n{% for k, v in c.function.arguments | items %}<arg_key>{{ k }}</arg_key>\n"
              "<arg_value>{{ v if v is string else v | tojson }}</arg_value>\n{% endfor %}</tool_call>", ["<tool_call>", "</tool_call>"], GLM, None),
    "pythonic": ("[{{ c.function.name }}({% for k, v in c.function.arguments | items %}{{ k }}={{ v }}{% if not loop.last %}, {% endif %}{% endfor %})]",
                 ["<|python_start|>", "<|python_end|>"], f"<|python_start|>[{PYTHON}]<|python_end|>", None),
    # its template joins the arguments to a text, and shows calls only where there is no content
    "deepseek_v3": ("{% if m.content is none %}{{ '" + CALLS + CALL + "' + c.type + '" + SEP + "' + c.function.name + '\\n```json\\n' + c.function.arguments + '\\n```"
                    + CALL_END + CALLS_END + "' }}{% endif %}", [CALLS, CALL, SEP, CALL_END, CALLS_END],
                    f"Hm. {CALLS}{CALL}function{SEP}weather\n```json\n{ARGUMENTS}\n```{CALL_END}{CALLS_END}", "Hm. "),
    # its template passes over calls, and tells the model
    "glm4": ("{% endfor %}{% endfor %}请使用 Json 格式表示调用的参数。{% for m in messages %}{% for c in [] %}", [], f"weather\n{ARGUMENTS}", None),
}
NOT_JSON = ("qwen3_coder", "seed_oss", "glm45", "pythonic", "gemma4")
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
    assert 'city' in choice.message.content  # what was no call in the end
    content, calls, finish = streamed(told, "@1", max_tokens=whole - 6)
    assert (content or None, finish) == (told.content, "length")
    assert calls[0][1] == "weather" and calls[0][2] != ARGUMENTS and ARGUMENTS.startswith(calls[0][2])


def test_a_stop_string_within_arguments(told):
    content, calls, finish = streamed(told, "@1", stop=["days"])
    assert (content or None, finish) == (told.content, "tool_calls")
    assert calls[0][1:] == ["weather", ARGUMENTS.split(', "days' if told.format in NOT_JSON else "days")[0]]


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
    "granite": f"<tool_call>[{OBJECT % ARGUMENTS}, " + '{"name": "time", "arguments": {}}]',
    "phi4_mini_json": f"functools[{OBJECT % ARGUMENTS}, " + '{"name": "time", "arguments": {}}]',
    "qwen3_coder": XML + "\n<tool_call>\n<function=time>\n</function>\n</tool_call>",
    "seed_oss": XML.replace("tool_call", "seed:tool_call") + "\n<seed:tool_call>\n<function=time>\n</function>\n</seed:tool_call>",
    "glm45": GLM + "\n<tool_call>time\n</tool_call>",
    "glm4": f"weather\n{ARGUMENTS}\ntime\n{{}}",
    "pythonic": f"[{PYTHON}, time()]",
    "deepseek_v3": f"{CALLS}{CALL}weather{SEP}{ARGUMENTS}{CALL_END}{CALL}time{SEP}{{}}{CALL_END}{CALLS_END}"}


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
    "qwen3_coder": (r'Well\. <tool_call>\n<function=(weather|time)>\n<parameter=city>\n([a-z ]{3,9})\n</parameter>\n</function>\n</tool_call>', "Well. "),
    "pythonic": (r"\[(weather|time)\(city='([a-z ]{3,9})'\)\]", None),
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


# --- what a tool's schema says of a value -----------------------------------------------------------------

def test_values_are_what_the_schema_says(serve, tmp_path):
    """The same texts as values of all kinds; a stream says the same as a whole answer, and JSON that clients can read."""
    properties = {"a": {"type": "string"}, "b": {"type": "integer"}, "c": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "d": {"type": "object"}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": properties}}}]
    values = {"a": "12", "b": "34", "c": "null", "d": "{'k': [True, None]}", "e": "56"}
    parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    model = write_scripted(tmp_path / "model", START + END, {"@1": f"<tool_call>\n<function=weather>\n{parameters}</function>\n</tool_call>"})
    d = serve(model, {"model.tool_parser": "qwen3_coder"})
    expected = {"a": "12", "b": 34, "c": None, "d": {"k": [True, None]}, "e": "56"}
    [call] = ask(d, "@1", tools=tools).choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == expected
    content, calls, finish = streamed(d, "@1", tools=tools)
    assert (content, finish) == ("", "tool_calls") and json.loads(calls[0][2]) == expected
    # another tool's schema is not this one's
    other = [{"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": properties}}}]
    [call] = ask(d, "@1", tools=other).choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == values
    # /v1/responses and /v1/messages have schemas in other places
    response = d.client.responses.create(model=NAME, input="@1", temperature=0, tools=[{"type": "function", **tools[0]["function"]}])
    [call] = [item for item in response.output if item.type == "function_call"]
    assert json.loads(call.arguments) == expected
    message = d.post("/v1/messages", model=NAME, max_tokens=300, temperature=0, messages=[{"role": "user", "content": "@1"}],
                     tools=[{"name": "weather", "input_schema": tools[0]["function"]["parameters"]}]).json()
    assert [block["input"] for block in message["content"] if block["type"] == "tool_use"] == [expected]


# --- calls in a conversation ---------------------------------------------------------------------------------

CHECK = "{% if m.content is not {content} or c.function.arguments is not {arguments} %}{{ raise_exception('no such form') }}{% endif %}{{ c.function.name }}"


@pytest.mark.parametrize("content, arguments", [("none", "string"), ("string", "string"), ("string", "mapping")])
def test_calls_have_the_form_that_the_template_wants(serve, tmp_path, content, arguments):
    """DeepSeek's own templates take texts for arguments, and one of them null alone for the content."""
    check = CHECK.replace("{content}", content).replace("{arguments}", arguments)
    d = serve(write_scripted(tmp_path / "model", START + check + END, {"@1": PLAIN}))
    call = {"id": "call_1", "type": "function", "function": {"name": "weather"}}
    for said in ({}, {"content": None}, {"content": ""}):
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", **said, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "call_1", "content": "@1"}]
        for given in ('{"city": "x"}', {"city": "x"}, ""):
            call["function"]["arguments"] = given
            answer = d.client.chat.completions.create(model=NAME, messages=messages, temperature=0, tools=TOOLS).choices[0]
            assert answer.message.content == PLAIN
    call["function"]["arguments"] = "{no JSON"
    with pytest.raises(openai.BadRequestError, match=r"messages\[1\].tool_calls\[0\].function.arguments"):
        d.client.chat.completions.create(model=NAME, messages=messages, temperature=0, tools=TOOLS)
