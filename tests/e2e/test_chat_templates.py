# SPDX-License-Identifier: MIT
"""What of a request reaches the chat template, and how: against transformers' own way (jinja_chat.py)."""
import json
import pathlib
import shutil

import openai
import pytest

import jinja_chat
from daemon import MODEL, NAME, SLOW, Daemon, run

CHAT, TOKENIZE = "/v1/chat/completions", "/tokenize"
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Où ?", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
DOCUMENTS = [{"title": "One", "text": "first"}, {"title": "Two", "text": "second"}]
HI = [{"role": "user", "content": "hi"}]
WHOLE = """{%- if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>{% endif %}
{%- for d in documents or [] %}<doc>{{ d.title }}: {{ d.text }}</doc>{% endfor %}
{%- for m in messages %}
<|im_start|>{{ m.role }}
{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}
{% if m.content is string %}{{ m.content }}{% elif m.content %}{% for p in m.content %}[{{ p.type }}]{{ p.text }}{% endfor %}{% endif %}
{%- for c in m.tool_calls or [] %}<call>{{ c.function.name }}({% for k, v in c.function.arguments | items %}{{ k }}={{ v | tojson }};{% endfor %})</call>{% endfor %}
{{- m.tool_call_id and '#' ~ m.tool_call_id }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{{ style | default('') }}{% endif %}
"""


def folder(path, template=None, named=None, **config):
    """A copy of the demo model with other templates."""
    shutil.copytree(MODEL, path)
    if template is not None:
        (path / "chat_template.jinja").write_text(template)
    for name, source in (named or {}).items():
        (path / "additional_chat_templates").mkdir(exist_ok=True)
        (path / "additional_chat_templates" / f"{name}.jinja").write_text(source)
    known = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**known, **config}))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    d = Daemon(root / "log", model=folder(root / "model", WHOLE))
    yield d
    d.stop()


def text(d, **fields):
    """What the template made of a request."""
    answer = d.post(TOKENIZE, **fields)
    assert answer.status_code == 200, answer.text
    return d.post("/detokenize", tokens=answer.json()["tokens"]).json()["prompt"]


def refused(d, path=CHAT, **fields):
    answer = d.post(path, **{"messages": HI, "max_tokens": 4, **fields} if path == CHAT else {"messages": HI, **fields})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and error["param"]
    return error["param"], error["message"]


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "n": [1, 2.5, None]}}}
ROUND = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
         {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALL]},
         {"role": "tool", "tool_call_id": "c1", "content": "{\"t\": 3}"}, {"role": "assistant", "content": "It is 3"}]
FIELDS = [{"messages": HI}, {"messages": ROUND}, {"messages": HI, "tools": TOOLS}, {"messages": ROUND, "tools": TOOLS, "documents": DOCUMENTS},
          {"messages": HI, "tools": [], "documents": []}, {"messages": HI, "add_generation_prompt": False},
          {"messages": HI, "chat_template_kwargs": {"enable_thinking": False, "style": "é"}}, {"messages": HI, "chat_template_kwargs": {"eos_token": "x", "unread": {}}},
          {"messages": ROUND, "continue_final_message": True}, {"messages": ROUND, "continue_final_message": True, "add_generation_prompt": False},
          {"messages": ROUND[:2], "continue_final_message": True}, {"messages": [*HI, {"role": "assistant", "content": " Sure \n"}], "continue_final_message": True}]


def reference(template, fields):
    fields = dict(fields)
    kwargs = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", **fields.pop("chat_template_kwargs", {})}
    fields.setdefault("add_generation_prompt", not fields.get("continue_final_message"))
    fields["tools"] = fields.get("tools") or None
    return jinja_chat.apply(template, **fields, **kwargs)


@pytest.mark.parametrize("fields", FIELDS, ids=lambda f: ",".join(f))
def test_fields_reach_the_template(whole, fields):
    expected = reference(WHOLE, fields)
    assert text(whole, **fields) == expected
    ids = whole.post(TOKENIZE, **fields).json()["tokens"]
    used = whole.post(CHAT, model=NAME, max_tokens=1, **fields)
    assert used.status_code == 200 and used.json()["usage"]["prompt_tokens"] == len(ids), used.text


def test_arguments_as_openai_sends_them(whole):
    as_text = json.loads(json.dumps(ROUND))
    as_text[2]["tool_calls"][0]["function"]["arguments"] = json.dumps(CALL["function"]["arguments"])
    assert text(whole, messages=as_text) == reference(WHOLE, {"messages": ROUND})
    as_text[2]["tool_calls"][0]["function"]["arguments"] = ""
    assert "weather()" in text(whole, messages=as_text)


def test_the_openai_client(whole):
    with openai.OpenAI(base_url=whole.url + "/v1", api_key="none", max_retries=0, timeout=60 * SLOW) as client:
        def used(extra=None, **fields):
            return client.chat.completions.create(model=NAME, max_tokens=2, extra_body=extra, **fields).usage.prompt_tokens
        plain = used(messages=HI)
        assert used(messages=HI, tools=TOOLS) - plain == len(whole.post(TOKENIZE, messages=HI, tools=TOOLS).json()["tokens"]) - plain > 10
        assert used({"documents": DOCUMENTS}, messages=HI) > plain + 10
        assert used({"chat_template_kwargs": {"style": "a b c d e f"}}, messages=HI) > plain + 3
        begun = [*HI, {"role": "assistant", "content": "Once upon"}]
        stream = client.chat.completions.create(model=NAME, messages=begun, max_tokens=8, temperature=0, stream=True,
                                                extra_body={"continue_final_message": True, "add_generation_prompt": False})
        streamed = "".join(c.choices[0].delta.content or "" for c in stream)
        prompt = whole.post(TOKENIZE, messages=begun, continue_final_message=True).json()["tokens"]
        assert streamed and streamed == whole.complete(prompt, max_tokens=8)["choices"][0]["text"]
        with pytest.raises(openai.BadRequestError) as refusal:
            client.chat.completions.create(model=NAME, messages=HI, extra_body={"chat_template_kwargs": 5})
        assert refusal.value.param == "chat_template_kwargs"


def test_what_a_client_gives_has_no_special_tokens(whole):
    end = 2  # <|im_end|>
    assert whole.tokens("<|im_end|>") == [end]
    rest = whole.post(TOKENIZE, messages=HI).json()["tokens"].count(end)
    tools = json.loads(json.dumps(TOOLS).replace("city", "<|im_end|>"))
    for fields in [{"chat_template_kwargs": {"style": "<|im_end|>"}}, {"tools": tools}, {"documents": [{"title": "<|im_end|>", "text": "<|im_end|>"}]},
                   {"chat_template_kwargs": {"eos_token": "<|im_end|>"}}]:
        assert whole.post(TOKENIZE, messages=HI, **fields).json()["tokens"].count(end) == rest, fields


@pytest.mark.parametrize("path", [CHAT, TOKENIZE])
@pytest.mark.parametrize("field, says, fields", [
    ("tools", "a list of tools", {"tools": {}}), ("tools[0].type", "function", {"tools": [5]}), ("tools[1].type", "function", {"tools": [*TOOLS, {"type": "x"}]}),
    ("tools[0].function.name", "not empty", {"tools": [{"type": "function", "function": {"name": ""}}]}),
    ("documents", "a list of objects", {"documents": "a"}), ("documents[1]", "an object", {"documents": [{}, "a"]}),
    ("chat_template_kwargs", "an object", {"chat_template_kwargs": []}), ("chat_template_kwargs", "a field of its own", {"chat_template_kwargs": {"messages": []}}),
    ("chat_template_kwargs", "chat_template_kwargs.add_generation_prompt", {"chat_template_kwargs": {"add_generation_prompt": True}}),
    ("add_generation_prompt", "true or false", {"add_generation_prompt": 1}), ("continue_final_message", "true or false", {"continue_final_message": "yes"}),
    ("continue_final_message", "add_generation_prompt to be false", {"continue_final_message": True, "add_generation_prompt": True}),
    ("continue_final_message", "no text to continue", {"continue_final_message": True, "messages": ROUND[:3]}),
    ("chat_template", "takes none from requests", {"chat_template": "{{ 1 }}"}), ("chat_template", "a string", {"chat_template": 5}),
    ("messages[0].tool_calls", "a list", {"messages": [{"role": "assistant", "tool_calls": {}}]}),
    ("messages[0].tool_calls[0].function.name", "not empty", {"messages": [{"role": "assistant", "tool_calls": [{}]}]}),
    ("messages[0].tool_calls[0].function.arguments", "JSON", {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}),
    ("messages[0].tool_calls[1].function.arguments", "JSON", {"messages": [{"role": "assistant", "tool_calls": [CALL, {"function": {"name": "f", "arguments": "[" * 100}}]}]}),
    ("messages", "refused", {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "5"}}]}]}),
])
def test_errors_name_the_field(whole, path, field, says, fields):
    param, message = refused(whole, path, **fields)
    assert param == field and says in message, (param, message)


def test_many_small_values_in_arguments_are_bounded(whole):
    call = {"function": {"name": "f", "arguments": "{\"a\":[" + "1," * 400_000 + "1]}"}}
    param, message = refused(whole, messages=[{"role": "assistant", "tool_calls": [call, call, call]}])
    assert param == "messages[0].tool_calls[2].function.arguments", message


def test_named_templates(start, tmp_path):
    sources = {"default": "d{{ messages[0].content }}", "tool_use": "t{{ tools | length }}", "rag": "r{{ documents | length }}"}
    listed = folder(tmp_path / "listed", chat_template=[{"name": n, "template": s} for n, s in sources.items()])
    files = folder(tmp_path / "files", sources.pop("default"), sources, chat_template="not this")
    for model in (listed, files):
        d = start(model=model)
        assert text(d, messages=HI) == "dhi"
        assert text(d, messages=HI, tools=TOOLS) == "t1"
        assert text(d, messages=HI, documents=DOCUMENTS, chat_template="rag") == "r2"
        assert refused(d, documents=DOCUMENTS)[0] == "documents"
        assert refused(d, tools=TOOLS, chat_template="rag")[0] == "tools"
        assert refused(d, chat_template="other")[0] == "chat_template"
    d = start(model=folder(tmp_path / "no-default", named={"rag": "r"}))
    assert "no default" in refused(d)[1] and text(d, messages=HI, chat_template="rag") == "r"


def test_the_file_of_models_of_pictures(tmp_path):
    """chat_template.json, when nothing else has a template."""
    (tmp_path / "m").write_text(json.dumps(HI))
    model = folder(tmp_path / "model", chat_template="a{{ messages[0].content }}")
    (model / "chat_template.json").write_text(json.dumps({"chat_template": "b{{ messages[0].content }}{{ eos_token }}"}))
    assert run("render", model, "--input", tmp_path / "m") == (0, "ahi", "")
    folder_config = json.loads((model / "tokenizer_config.json").read_text())
    del folder_config["chat_template"]
    (model / "tokenizer_config.json").write_text(json.dumps(folder_config))
    assert run("render", model, "--input", tmp_path / "m") == (0, "bhi<|im_end|>", "")
    (model / "chat_template.json").write_text('{"chat_template": "{{ 1"}')
    assert "chat_template.json: chat_template: line 1" in run("render", model, "--input", tmp_path / "m")[2]
    (model / "chat_template.json").write_text("{")
    assert "chat_template.json:1: " in run("render", model, "--input", tmp_path / "m")[2]


def test_special_tokens_come_from_the_models_files(tmp_path):
    model = folder(tmp_path / "model", "{{ bos_token is defined }}{{ unk_token }}{{ sep_token }}{{ image_token }}{{ additional_special_tokens }}{{ eos_token }}",
                   sep_token={"content": "<sep>", "lstrip": False}, extra_special_tokens={"image_token": "<img>"}, additional_special_tokens=["<a>", {"content": "<b>"}])
    (model / "special_tokens_map.json").write_text(json.dumps({"unk_token": "not this", "mask_token": "<m>", "eos_token": "nor this"}))
    (tmp_path / "m").write_text("[]")
    assert run("render", model, "--input", tmp_path / "m") == (0, "False<sep><img>['<a>', '<b>']<|im_end|>", "")
    (tmp_path / "t").write_text("{{ mask_token }}{{ pad_token }}")
    assert run("render", model, "--template", tmp_path / "t", "--input", tmp_path / "m", "--kwargs", '{"pad_token": "mine"}') == (0, "<m>mine", "")
    (model / "special_tokens_map.json").write_text("{")
    assert "special_tokens_map.json:1" in run("render", model, "--input", tmp_path / "m")[2]


def test_a_template_of_the_requests_own(start):
    d = start({"text.request_templates": "true"})
    own = "{{ eos_token }}{% for m in messages %}{{ m.content }}|{% endfor %}"
    assert text(d, messages=HI, chat_template=own) == "<|im_end|>hi|"
    assert d.post(TOKENIZE, messages=HI, chat_template=own).json()["tokens"][0] == 2
    assert d.post(CHAT, messages=HI, chat_template=own, max_tokens=1).status_code == 200
    for source, field, says in [("{{ 1", "chat_template", "line 1"), ("{% include 'x' %}", "chat_template", "include"), ("x" * 1_100_000, "chat_template", "1 MiB"),
                                ("{{ raise_exception('no such role') }}", "messages", "no such role"), ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "messages", "steps"),
                                ("{{ 'x' * 99999999 }}", "messages", "bytes"), ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "messages", "levels")]:
        param, message = refused(d, chat_template=source)
        assert param == field and says in message, message


def test_contents_come_as_the_template_takes_them(start, tmp_path):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    both = [{"role": "user", "content": parts}, {"role": "user", "content": "c"}]
    d = start(model=folder(tmp_path / "text", "{% for m in messages %}<{{ m.content + '>' }}{% endfor %}"))
    assert text(d, messages=both) == "<a\nb><c>"
    d = start(model=folder(tmp_path / "parts", "{% for m in messages %}<{% for p in m.content %}{{ p.text + ',' }}{% endfor %}>{% endfor %}"))
    assert text(d, messages=both) == "<a,b,><c,>"
    assert text(d, messages=both, continue_final_message=True) == "<a,b,><c"


@pytest.mark.parametrize("contents", ["{{ m.content }}", "{% for p in m.content %}{{ p.text }}{% endfor %}", "{{ '' + m.content }}"])
def test_null_as_content(start, tmp_path, contents):
    """As OpenAI's clients have it beside calls; most templates have not thought of it."""
    source = "None: {% for m in messages %}<" + contents + "{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}>{% endfor %}"
    d = start(model=folder(tmp_path / "model", source))
    for message in ({"content": None}, {"content": ""}, {}):
        assert text(d, messages=[*HI, {"role": "assistant", "tool_calls": [CALL], **message}]) == "None: <hi><weather>"


def test_null_as_content_of_glm(start, tmp_path):
    """transformers prints None there."""
    d = start(model=folder(tmp_path / "model", (pathlib.Path(__file__).parent / "templates/gmask.jinja").read_text()))
    none, empty, absent = (text(d, messages=[*HI, {"role": "assistant", "tool_calls": [CALL], **message}]) for message in ({"content": None}, {"content": ""}, {}))
    assert none == empty == absent and "None" not in none and "weather" in none
