# SPDX-License-Identifier: MIT
"""Templates in the manner of the well-known ones (templates/*.jinja, written for this), each with 20 conversations:
`tokenlane render` prints what transformers makes of them, byte for byte, or both refuse."""
import json
import pathlib
import struct
import subprocess

import jinja2
import pytest

import jinja_chat
from daemon import BINARY, REPORT, run
from model_files import text, texts

TEMPLATES = sorted((pathlib.Path(__file__).parent / "templates").glob("*.jinja"))


def u(text, **more):
    return {"role": "user", "content": text, **more}


def a(text, **more):
    return {"role": "assistant", "content": text, **more}


def s(text):
    return {"role": "system", "content": text}


def call(name, arguments, id="call12345"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool(text, id="call12345", **more):
    return {"role": "tool", "tool_call_id": id, "content": text, **more}


def spec(name, description, properties, **more):
    return {"type": "function", "function": {"name": name, "description": description,
                                             "parameters": {"type": "object", "properties": properties, **more}}}


WEATHER = spec("get_weather", "The weather of a city.", {"city": {"type": "string", "description": "Name, e.g. Zürich"},
               "days": {"type": "integer", "default": 3, "description": "How many"}, "units": {"type": "string", "enum": ["C", "F"], "default": "C"}}, required=["city"])
DEEP = spec("book", "Books <a> \"trip\" & more.", {
    "legs": {"type": "array", "items": {"type": "object", "properties": {"from": {"type": "string"}, "to": {"type": "string"}}, "required": ["from"]}},
    "price": {"type": ["number", "null"], "description": "at most"}, "flags": {"type": "array", "items": {"type": "boolean"}}, "any": {},
    "when": {"oneOf": [{"type": "string", "description": "a date"}, {"type": "integer", "default": 5}]}})
TIME = spec("now", "What time it is", {})
DOCUMENTS = [{"title": "Tides", "text": "The moon pulls the sea.\nTwice a day.  "}, {"title": "Ebb", "text": "Low water, naïvely"},
             {"title": "Tides", "text": "é" * 30, "source": None}, {"text": "no title"}]
TALK = [u("Hello, who are you?"), a("I am a test."), u("Why?")]
CALLS = [s("Use tools."), u("Weather in Zürich?"), a(None, tool_calls=[call("get_weather", {"city": "Zürich", "days": 2})]), tool('{"temp": 7.5, "sky": "grey"}')]
TWO_CALLS = [u("Two cities"), a("Looking.", tool_calls=[call("get_weather", {"city": "A"}), call("get_weather", {"city": "B", "units": None, "list": [1, 2.50, True]}, "call67890")]),
             tool("1"), tool("2", "call67890", name="get_weather"), a("1 and 2"), u("Thanks")]

CONVERSATIONS = {
    "one": {"messages": [u("Hi there")]},
    "system": {"messages": [s("Be brief."), u("Hi")]},
    "talk": {"messages": TALK},
    "long": {"messages": [s("  You are terse. "), *(m for i in range(5) for m in (u(f"Question {i}?"), a(f"Answer {i}."))), u("Last one")]},
    "unicode": {"messages": [s("Отвечай по-русски"), u("Grüße, 世界! 😀 ﬁ ŉ ǅ"), a("İstanbul ΑΣ ß\u2028\u00a0x"), u("e\u0301 \u200d🇨🇭")]},
    "spaces": {"messages": [s("\n lead\t"), u("  two  spaces \n\n"), a("\n\nlines\r\nand\rmore\n"), u("\t")]},
    "empty": {"messages": [s(""), u(""), a(""), u("x")]},
    "markup": {"messages": [u("<b>&amp; \"it's\"</b> {{ 1 }} {% if %} <|im_end|> </s> [INST]"), a("```c\nint x = '\\n';\n```"), u("100 % {sure} \\ $1")]},
    "call": {"messages": CALLS, "tools": [WEATHER]},
    "tools": {"messages": [s("Maybe tools."), u("Book me a trip")], "tools": [WEATHER, DEEP, TIME]},
    "calls": {"messages": TWO_CALLS, "tools": [DEEP, TIME]},
    "reasoning": {"messages": [u("Think"), a("Done.", reasoning_content="\nfirst\nthen\n"), u("Go on"), a(None, reasoning_content="hm", tool_calls=[call("now", {})]), tool("12:00")], "tools": [TIME]},
    "think": {"messages": [u("1+1?"), a("<think>\nsum\n</think>\n\n2"), u("and 2+2?"), a("<think>more</think>4")], "kwargs": {"enable_thinking": True}},
    "documents": {"messages": [u("What moves the sea?")], "documents": DOCUMENTS, "kwargs": {"controls": {"citations": True, "length": "short"}}},
    "parts": {"messages": [u([{"type": "text", "text": "What is "}, {"type": "image"}, {"type": "text", "text": "this? "}]), a("A cat"), u([{"type": "text", "text": "Sure?"}])], "kwargs": {"add_vision_id": True}},
    "kwargs": {"messages": TALK, "kwargs": {"enable_thinking": False, "date_string": "1 Jan 2000", "safety": "none", "reasoning_effort": "high", "builtin_tools": ["wolfram", "code_interpreter"], "thinking": True, "controls": None}},
    "no prompt": {"messages": [*TALK, a("Because.")], "add_generation_prompt": False},
    "continue": {"messages": [*TALK, a("  Because it ")], "continue_final_message": True},
    "twice": {"messages": [u("a"), u("b"), s("late system"), a("c"), a("d")], "documents": []},
    "strange": {"messages": [{"role": "developer", "content": "Dev."}, {"role": "narrator", "content": "Once"}, u(5), a(1.5), {"role": "tool", "content": {"k": [1, None]}}], "tools": []},
}
assert len(CONVERSATIONS) == 20


def ours(source, talk, extra=()):
    """(text, None), or (None, what it said)."""
    talk = dict(talk)
    kwargs = json.dumps({"bos_token": "<s>", "eos_token": "</s>", **talk.pop("kwargs", {})})
    flags = [flag for name, flag in (("add_generation_prompt", "--no-generation-prompt"),) if talk.pop(name, True) is False]
    flags += ["--continue-final-message"] if talk.pop("continue_final_message", False) else []
    done = subprocess.run([BINARY, "render", "--template", source, "--kwargs", kwargs, "--now", str(jinja_chat.NOW), *flags, *extra],
                          input=json.dumps(talk).encode(), capture_output=True, timeout=60)
    error = done.stderr.decode()
    assert not REPORT.search(error), error
    assert (done.returncode == 0) == (error == ""), error
    return (done.stdout.decode(), None) if done.returncode == 0 else (None, error)


def reference(source, talk):
    talk = json.loads(json.dumps(talk))
    kwargs = talk.pop("kwargs", {})
    talk.setdefault("add_generation_prompt", not talk.get("continue_final_message"))
    try:
        return jinja_chat.apply(source.read_text(), **talk, **{"bos_token": "<s>", "eos_token": "</s>", **kwargs}), None
    except Exception as error:  # whatever Python raises
        return None, error


@pytest.mark.parametrize("source", TEMPLATES, ids=lambda p: p.stem)
def test_equals_jinja2(source):
    rendered = 0
    for name, talk in CONVERSATIONS.items():
        expected, refusal = reference(source, talk)
        got, error = ours(source, talk)
        assert got == expected, (name, error, refusal)
        rendered += got is not None
        if type(refusal) is jinja2.TemplateError:  # raise_exception
            assert " ".join(str(refusal).split("\n")) in error, name
    assert rendered >= 5, rendered


def test_there_are_thirty():
    assert len(TEMPLATES) >= 30


# --- tokenlane render itself --------------------------------------------------------------------------
HERE = TEMPLATES[0].parent


def test_files_and_bodies_give_the_same(tmp_path):
    talk = {"messages": TWO_CALLS, "tools": [DEEP], "documents": DOCUMENTS}
    for name, value in talk.items():
        (tmp_path / name).write_text(json.dumps(value))
    (tmp_path / "body").write_text(json.dumps({**talk, "chat_template_kwargs": {"eos_token": "!"}, "model": "x"}))
    template = HERE / "hermes_calls.jinja"
    split = run("render", "--template", template, "--input", tmp_path / "messages", "--tools", tmp_path / "tools", "--documents", tmp_path / "documents", "--kwargs", '{"eos_token": "!"}')
    whole = run("render", "--template", template, "--input", tmp_path / "body")
    assert split == whole and split[0] == 0 and split[1].startswith("<|im_start|>system")


@pytest.mark.parametrize("arguments, says", [
    ([], "expected a model or --template"), (["--nope"], "did not expect --nope"), (["--template"], "expected a value"), (["a", "b"], "did not expect b"),
    (["--template", "/nowhere.jinja"], "/nowhere.jinja: cannot be read"), (["/nowhere"], "no chat template"), (["--template", HERE / "chatml.jinja", "--input", "/nowhere"], "cannot be opened"),
    (["--template", HERE / "chatml.jinja"], "standard input:1"), (["--template", HERE / "chatml.jinja", "--input", __file__], "test_templates.py:1"),
])
def test_what_is_wrong_is_said(arguments, says):
    code, out, err = run("render", *arguments)
    assert code == 1 and out == "" and says in err and err.count("\n") == 1, err


def test_errors_of_templates_name_file_and_line(tmp_path):
    (tmp_path / "t.jinja").write_text("a\n{% if %}")
    (tmp_path / "i.jinja").write_text("{% include 'x' %}")
    (tmp_path / "m").write_text("[]")
    assert "t.jinja: line 2: expected an expression" in run("render", "--template", tmp_path / "t.jinja", "--input", tmp_path / "m")[2]
    assert "'include' is not supported" in run("render", "--template", tmp_path / "i.jinja", "--input", tmp_path / "m")[2]
    assert "--continue-final-message" in run("render", "--help")[1]


def test_templates_of_a_gguf_file(tmp_path):
    def key(name, value):
        return text(name) + struct.pack("<I", 8) + text(value)
    keys = [key("tokenizer.chat_template", "{{ bos_token }}d"), text("tokenizer.chat_templates") + texts(["default", "rag", "tool_use"]),
            key("tokenizer.chat_template.rag", "r{{ eos_token }}"), key("tokenizer.chat_template.tool_use", "t{{ tools | length }}{{ pad_token is defined }}"),
            text("tokenizer.ggml.tokens") + texts(["<s>", "</s>", "x"]), text("tokenizer.ggml.bos_token_id") + struct.pack("<II", 4, 0),
            text("tokenizer.ggml.eos_token_id") + struct.pack("<II", 4, 1)]
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + b"".join(keys))
    (tmp_path / "plain").write_text("[]")
    (tmp_path / "tools").write_text(json.dumps({"messages": [], "tools": [TIME]}))
    for says, arguments in [("<s>d", ("plain",)), ("r</s>", ("plain", "--name", "rag")), ("t1False", ("tools",)), ("<s>d", ("tools", "--name", "default"))]:
        assert run("render", model, "--input", tmp_path / arguments[0], *arguments[1:]) == (0, says, "")
    assert "no chat template 'nope'" in run("render", model, "--input", tmp_path / "plain", "--name", "nope")[2]
