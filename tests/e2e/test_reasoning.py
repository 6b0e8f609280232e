# SPDX-License-Identifier: MIT
"""What a model thinks before it answers, by models that write what they are told: every format, marks as special tokens and as text."""
import json
import re

import openai
import pytest

from daemon import NAME, ROOT
from scripted import write_scripted
from test_tool_calls import TOOLS, ended, started

TURNS = "{% for m in messages %}{{ m.reasoning_content or '' }}{{ m.content or '' }}{% endfor %}"
# as Qwen3's: with enable_thinking false the prompt ends with thoughts that are over
SWITCH = TURNS + "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}<think>\n</think>\n\n\n{% endif %}"
# as DeepSeek-R1's: the prompt begins the thoughts
OPENED = TURNS + "{% if add_generation_prompt %}<think>\n\n\n{% else %}</think>@4{% endif %}"
CHANNELS = "{# <|channel|>analysis #}" + TURNS
THOUGHTS, CONTENT = "Hm, a < b?\n\nYes: [x] {y}.", "So it is.\n\n1 < 2"
HARMONY = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>"]
# format: (template, special tokens, an answer with thoughts)
FORMATS = {
    "think": (SWITCH, [], f"<think>\n{THOUGHTS}\n</think>\n\n{CONTENT}"),
    "think_special": (SWITCH, ["<think>", "</think>"], f"<think>\n{THOUGHTS}\n</think>\n\n{CONTENT}"),
    "seed": ("{# <seed:think> #}" + TURNS, ["<seed:think>", "</seed:think>"], f"<seed:think>{THOUGHTS}</seed:think>{CONTENT}"),
    "mistral": ("{# [THINK] #}" + TURNS, ["[THINK]", "[/THINK]"], f"[THINK]{THOUGHTS}[/THINK]{CONTENT}"),
    "granite": ("{# Here is my thought process: #}" + TURNS, [], f"Here is my thought process: {THOUGHTS} Here is my response: {CONTENT}"),
    # the second header is ordinary text
    "harmony": (CHANNELS, HARMONY, f"<|channel|>analysis<|message|>{THOUGHTS}<|end|><|start|>assistant<|channel|>final<|message|>{CONTENT}"),
}
MARKS = ["<think>", "</think>"]
PLAIN = "No thoughts: <b> [i] </think>"


@pytest.fixture(scope="module", params=FORMATS)
def told(request, tmp_path_factory):
    template, special, answer = FORMATS[request.param]
    root = tmp_path_factory.mktemp(request.param)
    d = started(root / "log", write_scripted(root / "model", template, {"@1": answer, "@2": PLAIN}, special))
    d.format, d.answer = request.param, answer
    yield d
    ended(d)


@pytest.fixture
def serve(tmp_path):
    """serve(template, answers, special, options): a daemon that ends with the test."""
    daemons = []

    def start(template, answers, special=(), options=()):
        model = write_scripted(tmp_path / f"model{len(daemons)}", template, answers, special)
        daemons.append(started(tmp_path / f"log{len(daemons)}", model, options))
        return daemons[-1]
    yield start
    for d in daemons:
        ended(d)


def ask(d, text, messages=None, **fields):
    extra = {k: fields.pop(k) for k in list(fields) if k in ("include_reasoning", "reasoning_format", "chat_template_kwargs", "structured_outputs",
                                                             "continue_final_message", "add_generation_prompt", "echo")}
    messages = messages or [{"role": "user", "content": text}]
    return d.client.chat.completions.create(model=NAME, messages=messages, temperature=0, extra_body=extra, **fields)


def parts(choice):
    """thoughts, content, finish_reason; both names say the same."""
    extra = choice.message.model_extra
    assert extra["reasoning"] == extra["reasoning_content"]
    return extra["reasoning"], choice.message.content, choice.finish_reason


def streamed(d, text, **fields):
    """What a client puts together: thoughts, content, calls [[name, arguments]], finish_reason."""
    thoughts, content, calls, finish = "", "", [], None
    for chunk in ask(d, text, stream=True, **fields):
        delta = chunk.choices[0].delta
        extra = delta.model_extra or {}
        assert extra.get("reasoning") == extra.get("reasoning_content")
        if "reasoning" in extra:
            assert extra["reasoning"] and not content and not calls
            thoughts += extra["reasoning"]
        content += delta.content or ""
        for call in delta.tool_calls or []:
            if call.index == len(calls):
                calls.append([call.function.name, ""])
            calls[-1][1] += call.function.arguments or ""
        finish = chunk.choices[0].finish_reason or finish
    return thoughts, content, calls, finish


def test_thoughts(told):
    answer = ask(told, "@1")
    assert parts(answer.choices[0]) == (THOUGHTS, CONTENT, "stop")
    usage = answer.usage
    assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens
    assert streamed(told, "@1") == (THOUGHTS, CONTENT, [], "stop")


def test_no_thoughts(told):
    answer = ask(told, "@2")
    assert parts(answer.choices[0]) == (None, PLAIN, "stop")
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0
    assert streamed(told, "@2") == ("", PLAIN, [], "stop")


def test_how_many_tokens_are_thoughts(told):
    """From the token that completes the mark before them to the one that completes the mark behind."""
    answer = ask(told, "@1", logprobs=True)
    tokens = [t.token for t in answer.choices[0].logprobs.content]
    begin, end = {"think": ("<think>", "</think>"), "seed": ("<seed:think>", "</seed:think>"), "mistral": ("[THINK]", "[/THINK]"), "harmony": ("<|message|>", "<|end|>"),
                  "granite": ("thought process:", "Here is my response:")}[told.format.split("_")[0]]
    first, last = (next(i for i in range(len(tokens)) if mark in "".join(tokens[:i + 1])) for mark in (begin, end))
    n = last - first + 1
    assert answer.usage.completion_tokens_details.reasoning_tokens == n
    for chunk in ask(told, "@1", stream=True, stream_options={"include_usage": True}):
        pass
    assert chunk.usage.completion_tokens_details.reasoning_tokens == n
    told_of = [(c.usage.completion_tokens_details.reasoning_tokens, c.usage.completion_tokens)
               for c in ask(told, "@1", stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})]
    assert told_of == sorted(told_of) and told_of[0] == (0, 0) and all(thoughts <= tokens for thoughts, tokens in told_of) and told_of[-1][0] == n


def test_who_does_not_want_to_see_them(told):
    answer = ask(told, "@1", include_reasoning=False)
    assert not answer.choices[0].message.model_extra and answer.choices[0].message.content == CONTENT
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0
    assert streamed(told, "@1", include_reasoning=False) == ("", CONTENT, [], "stop")


def logprobs_of(d, text, stream, **fields):
    """Tokens and numbers; and no chunk without news."""
    fields = {**fields, "logprobs": True, "top_logprobs": 1, "stream": stream}
    if not stream:
        return [(t.token, t.logprob) for t in ask(d, text, **fields).choices[0].logprobs.content]
    found, choices = [], [c.choices[0] for c in ask(d, text, **fields)]
    for choice in choices[1:-1]:
        assert choice.logprobs.content or choice.delta.content
        found += [(t.token, t.logprob) for t in choice.logprobs.content]
    return found


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_what_is_seen(told, stream):
    every = logprobs_of(told, "@1", stream)
    seen = logprobs_of(told, "@1", stream, include_reasoning=False)
    tokens = [t for t, _ in seen]
    assert seen == every[-len(seen):] and len(seen) < len(every)
    # the first may begin with the end of what is not seen, the last is the whole text's
    assert "".join(tokens).endswith(CONTENT) and not "".join(tokens[1:]).endswith(CONTENT)
    # a stop string that begins as a mark does holds text back
    assert logprobs_of(told, "@1", stream, include_reasoning=False, stop=["\n</thx", "</think>x", " [/THINK]x", "<|end|>x", "e:x", "e>x"]) == seen
    # nothing is seen, all is
    assert logprobs_of(told, "@1", stream, include_reasoning=False, stop=["[x]"]) == []
    assert logprobs_of(told, "@2", stream, include_reasoning=False) == logprobs_of(told, "@2", stream)
    assert "".join(t for t, _ in logprobs_of(told, "@2", stream, include_reasoning=False)) == PLAIN


def test_logprobs_of_what_is_seen_in_responses(told):
    fields = {"model": NAME, "input": "@1", "temperature": 0, "include": ["message.output_text.logprobs"], "extra_body": {"include_reasoning": False}}
    answer = told.client.responses.create(**fields)
    seen = [t for t, _ in logprobs_of(told, "@1", False, include_reasoning=False)]
    assert answer.output_text == CONTENT and [t.token for t in answer.output[-1].content[0].logprobs] == seen
    events = list(told.client.responses.create(**fields, stream=True))
    assert [t.token for e in events if e.type == "response.output_text.delta" for t in e.logprobs] == seen
    assert [t.token for t in events[-1].response.output[-1].content[0].logprobs] == seen


def test_who_wants_them_as_content(told):
    special = FORMATS[told.format][1]
    text = told.answer
    for mark in special:
        text = text.replace(mark, "", 1)
    answer = ask(told, "@1", reasoning_format="none")
    assert not answer.choices[0].message.model_extra and answer.choices[0].message.content == text
    assert answer.usage.completion_tokens_details is None
    assert streamed(told, "@1", reasoning_format="none") == ("", text, [], "stop")
    for format in ("auto", "deepseek"):
        assert parts(ask(told, "@1", reasoning_format=format).choices[0])[0] == THOUGHTS


def test_several_choices(told):
    assert [parts(c) for c in ask(told, "@1", n=3).choices] == [(THOUGHTS, CONTENT, "stop")] * 3


def test_cut_within_thoughts(told):
    n = ask(told, "@1").usage.completion_tokens_details.reasoning_tokens
    thoughts, content, finish = parts(ask(told, "@1", max_tokens=n - 4 + 3 * (told.format == "harmony")).choices[0])
    assert finish == "length" and content == "" and THOUGHTS.startswith(thoughts[:10])
    assert streamed(told, "@1", max_tokens=n - 4 + 3 * (told.format == "harmony")) == (thoughts, "", [], "length")


def test_a_stop_string_counts_in_thoughts(told):
    assert parts(ask(told, "@1", stop=["[x]"]).choices[0]) == (THOUGHTS.split(" [x]")[0], "", "stop")
    assert streamed(told, "@1", stop=["[x]"]) == (THOUGHTS.split(" [x]")[0], "", [], "stop")
    assert parts(ask(told, "@1", stop=["1 <"]).choices[0]) == (THOUGHTS, CONTENT.split("1 <")[0], "stop")


def test_completions_are_as_they_are(told):
    text = told.client.completions.create(model=NAME, prompt="@1", max_tokens=200, temperature=0).choices[0]
    assert THOUGHTS in text.text and CONTENT in text.text and not text.model_extra.get("reasoning")


def test_thoughts_come_back(told):
    """Of earlier messages, by either name."""
    for name in ("reasoning", "reasoning_content"):
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", name: "@1"}]
        assert parts(ask(told, None, messages=messages).choices[0])[0] == THOUGHTS


def test_thoughts_come_back_by_the_name_that_a_template_knows(serve):
    """GPT-OSS's, which refuses them beside the content of a message with calls."""
    d = serve("{% for message in messages %}{{ message.content or '' }}{{ message.thinking or '' }}{% endfor %}", {"@1": "One", "@2": "Two"})
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    for message, answer in (({"reasoning": "@1"}, "One"), ({"reasoning_content": "@1", "content": "@2"}, "One"), ({"reasoning": "@1", "tool_calls": [call]}, "One"),
                            ({"reasoning": "@1", "content": "@2", "tool_calls": [call]}, "Two"), ({"reasoning": "@1", "thinking": "@2"}, "Two")):
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", **message}]
        assert ask(d, None, messages=messages).choices[0].message.content == answer


# --- where the answer begins ----------------------------------------------------------------------------------

def test_the_prompt_has_the_first_mark(serve):
    d = serve(OPENED, {"\n\n\n": f"{THOUGHTS}\n</think>\n\n{CONTENT}", "@4": "Rest.</think>"}, MARKS)
    assert parts(ask(d, "x").choices[0]) == (THOUGHTS, CONTENT, "stop")
    assert streamed(d, "x") == (THOUGHTS, CONTENT, [], "stop")
    assert parts(ask(d, "x", max_tokens=3).choices[0])[1:] == ("", "length")
    # without a prompt for the answer it has none
    assert parts(ask(d, "x", add_generation_prompt=False).choices[0]) == (None, "Rest.</think>", "stop")


def test_the_prompt_has_both_marks(serve):
    d = serve(SWITCH, {"@1": "<think>a</think>b", "\n\n\n": "<think>c</think>d"}, MARKS)
    assert parts(ask(d, "@1").choices[0]) == ("a", "b", "stop")
    for fields in ({"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}):
        assert parts(ask(d, "@1", **fields).choices[0]) == (None, "<think>c</think>d", "stop")


@pytest.mark.parametrize("name, ends", [("thinking_switch", ("\n", "\n\n")), ("xml_tools_generation", ("assistant\n", "</think>\n"))])
def test_in_the_manner_of_qwen3_and_smollm3(serve, name, ends):
    template = (ROOT / f"tests/e2e/templates/{name}.jinja").read_text()
    d = serve(template, {ends[0]: "<think>\nHm.\n</think>\n\nSo.", ends[1]: "<think>c</think>d"}, MARKS)
    assert parts(ask(d, "x").choices[0]) == ("Hm.", "So.", "stop")
    assert parts(ask(d, "x", reasoning_effort="none").choices[0]) == (None, "<think>c</think>d", "stop")
    assert streamed(d, "x", chat_template_kwargs={"enable_thinking": False}) == ("", "<think>c</think>d", [], "stop")


def test_an_answer_that_goes_on(serve):
    d = serve(SWITCH, {"@1": "thought.</think>Said.", "@2": "<think>said"})
    for begun, answer in (("<think>I @1", ("thought.", "Said.", "stop")), ("<think>I</think> so @1", (None, "thought.</think>Said.", "stop")),
                          ("Well @2", (None, "<think>said", "stop"))):
        messages = [{"role": "user", "content": "<think>"}, {"role": "assistant", "content": begun}]
        assert parts(ask(d, None, messages=messages, continue_final_message=True).choices[0]) == answer


def test_what_a_user_says_of_marks_is_no_mark(serve):
    d = serve(SWITCH, {"@1": "Said."})
    assert parts(ask(d, "<think> @1").choices[0]) == (None, "Said.", "stop")


# --- the format's choice ------------------------------------------------------------------------------

def test_the_key_names_the_format(serve):
    answers = {"@1": "<think>a</think>b", "@2": "[THINK]c[/THINK]d"}
    for key, format in (("auto", "none"), ("none", "none"), ("think", "think"), ("mistral", "mistral")):
        d = serve(TURNS, answers, options={"model.reasoning_parser": key})
        assert re.search(f"msg=reasoning .*format={format}", d.stderr())
        for text, answer in answers.items():
            choice = ask(d, text).choices[0]
            if (format, text) in (("think", "@1"), ("mistral", "@2")):
                assert parts(choice)[:2] == (("a", "b") if text == "@1" else ("c", "d"))
            else:
                assert choice.message.content == answer
        extra = ask(d, "@1").choices[0].message.model_extra or {}
        assert ("reasoning" in extra) == (format != "none")


# --- fields -------------------------------------------------------------------------------------------------

def test_effort(serve):
    d = serve(TURNS + "{{ reasoning_effort }}", {"low": "Little.", "high": "Much.", "none": "Nothing."})
    for effort, answer in (("low", "Little."), ("high", "Much."), ("none", "Nothing.")):
        assert ask(d, "x", reasoning_effort=effort).choices[0].message.content == answer
    low, high = (d.post("/tokenize", messages=[{"role": "user", "content": "x"}], reasoning_effort=effort).json()["tokens"] for effort in ("low", "high"))
    assert low[:-1] == high[:-1] and low != high
    # the template's own variable comes first
    assert ask(d, "x", reasoning_effort="low", chat_template_kwargs={"reasoning_effort": "high"}).choices[0].message.content == "Much."
    for effort in ("much", 1, ["low"]):
        with pytest.raises(openai.BadRequestError, match="reasoning_effort: expected none, minimal, low"):
            ask(d, "x", reasoning_effort=effort)
    d = serve(TURNS + "{{ enable_thinking }}", {"True": "Yes.", "False": "No."})
    assert ask(d, "x", reasoning_effort="low").choices[0].message.content == "Yes."
    assert ask(d, "x", reasoning_effort="none").choices[0].message.content == "No."
    assert ask(d, "x", reasoning_effort="none", chat_template_kwargs={"enable_thinking": True}).choices[0].message.content == "Yes."
    d = serve(TURNS, {"@1": "Anyhow."})
    assert ask(d, "@1", reasoning_effort="none").choices[0].message.content == "Anyhow."
    with pytest.raises(openai.BadRequestError, match="reasoning_effort: is not supported by the chat template"):
        ask(d, "@1", reasoning_effort="low")
    with pytest.raises(openai.BadRequestError, match="reasoning_format: expected none, auto or deepseek"):
        ask(d, "@1", reasoning_format="legacy")
    with pytest.raises(openai.BadRequestError, match="include_reasoning: expected true or false"):
        ask(d, "@1", include_reasoning="no")


# --- with calls, and with what an answer is held to ---------------------------------------------------------------

def test_calls_behind_thoughts(serve):
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
    template = '{% if false %}{{ tools }}{% endif %}{% for m in messages %}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}{% endfor %}' + SWITCH
    d = serve(template, {"@1": f"<think>\nI write <tool_call> [now]\n</think>\n\n{call}"}, ["<think>", "</think>"])
    choice = ask(d, "@1", tools=TOOLS).choices[0]
    assert parts(choice) == ("I write <tool_call> [now]", None, "tool_calls")
    assert choice.message.tool_calls[0].function.arguments == '{"city": "Bern"}'
    assert streamed(d, "@1", tools=TOOLS) == ("I write <tool_call> [now]", "", [["weather", '{"city": "Bern"}']], "tool_calls")
    message = choice.message.model_dump(exclude_none=True)
    assert "reasoning" in message
    assert ask(d, None, messages=[{"role": "user", "content": "x"}, message, {"role": "tool", "content": "@1", "tool_call_id": "1"}]).choices[0].message.content


def test_harmonys_calls(serve):
    answers = {"@1": "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>" '{"city": "Bern"}<|call|>',
               "@2": "Plain."}
    template = "{% for t in tools or [] %}{% endfor %}{% for m in messages %}{% for c in m.tool_calls or [] %}to=functions.{{ c.function.name }}{% endfor %}{% endfor %}" + CHANNELS
    d = serve(template, answers, [*HARMONY, "<|constrain|>", "<|call|>"])
    choice = ask(d, "@1", tools=TOOLS).choices[0]
    assert parts(choice) == ("Hm.", None, "tool_calls")
    assert [(c.function.name, c.function.arguments) for c in choice.message.tool_calls] == [("weather", '{"city": "Bern"}')]
    assert streamed(d, "@1", tools=TOOLS) == ("Hm.", "", [["weather", '{"city": "Bern"}']], "tool_calls")
    assert parts(ask(d, "@1", tool_choice="none", tools=TOOLS).choices[0]) == ("Hm.", '{"city": "Bern"}', "stop")


FORCED = '[{"name": "weather", "parameters": {"city": "Bern"}}]'
CHOICE = {"structured_outputs": {"choice": ["x."]}}


@pytest.mark.parametrize("special", [[], MARKS])
def test_a_grammar_binds_what_comes_behind_thoughts(serve, special):
    d = serve(SWITCH, {"@1": '<think>Is {this} it? "No"\n</think>{"a": [1]}', "@2": "x.", "\n\n\n": "{y"}, special)
    form = {"response_format": {"type": "json_object"}}
    assert parts(ask(d, "@1", **form).choices[0]) == ('Is {this} it? "No"', '{"a": [1]}', "stop")
    assert streamed(d, "@1", **form) == ('Is {this} it? "No"', '{"a": [1]}', [], "stop")
    # what the model would write does not fit
    # (a prompt's marks are seen where its tokenizer has them)
    for text, thoughts in (("@1", 'Is {this} it? "No"'), ("@2", None), ("x", None))[:2 + bool(special)]:
        kwargs = {} if thoughts else {"chat_template_kwargs": {"enable_thinking": text != "x"}}
        said = parts(ask(d, text, n=2, **CHOICE, **kwargs).choices[1])
        assert said == (thoughts, "x.", "stop")
    # whose thoughts are content has the same
    assert re.fullmatch('(<think>)?Is {this} it\\? "No"\n(</think>)?{"a": \\[1\\]}', ask(d, "@1", reasoning_format="none", **form).choices[0].message.content)


def test_thoughts_that_are_cut_have_nothing_behind_them(serve):
    d = serve(SWITCH, {"@1": "<think>Only thoughts.", "@3": "x."})
    assert parts(ask(d, "@1", **CHOICE).choices[0]) == ("Only thoughts.", "", "stop")


@pytest.mark.parametrize("opened", [False, True])
def test_calls_that_must_come(serve, opened):
    template = OPENED if opened else SWITCH
    answers = {"\n\n\n" if opened else "@1": ("" if opened else "<think>") + f"Hm.</think>{FORCED}", "@2": '<think>Which?</think>{"city": "Bern"}'}
    d = serve(template, answers, MARKS)
    expected = [["weather", '{"city": "Bern"}']]
    choice = ask(d, "@1", tools=TOOLS, tool_choice="required").choices[0]
    assert parts(choice) == ("Hm.", None, "tool_calls")
    assert [[c.function.name, c.function.arguments] for c in choice.message.tool_calls] == expected
    assert streamed(d, "@1", tools=TOOLS, tool_choice="required") == ("Hm.", "", expected, "tool_calls")
    # whose thoughts would be content has none: they are no calls
    message = ask(d, "@1", tools=TOOLS, tool_choice="required", reasoning_format="none").choices[0].message
    assert message.content is None and [[c.function.name, c.function.arguments] for c in message.tool_calls] == expected
    if opened:
        return
    named = {"type": "function", "function": {"name": "weather"}}
    choice = ask(d, "@2", tools=TOOLS, tool_choice=named).choices[0]
    assert parts(choice) == ("Which?", None, "stop")
    assert [[c.function.name, c.function.arguments] for c in choice.message.tool_calls] == expected
    assert streamed(d, "@2", tools=TOOLS, tool_choice=named) == ("Which?", "", expected, "stop")


def test_a_grammar_binds_harmonys_final_message(serve):
    start = "<|channel|>analysis<|message|>Hm {.<|end|>"
    d = serve(CHANNELS, {"@1": start + '<|start|>assistant<|channel|>final <|constrain|>json<|message|>{"a": [1]}', "@2": FORCED, "@3": "x."}, HARMONY)
    assert parts(ask(d, "@1", response_format={"type": "json_object"}).choices[0]) == ("Hm {.", '{"a": [1]}', "stop")
    thoughts, content, _ = parts(ask(d, "@1", **CHOICE).choices[0])
    assert (thoughts, content) == ("Hm {.", "x.")
    # calls that must come have no thoughts
    assert json.loads(FORCED)[0]["parameters"] == json.loads(ask(d, "@2", tools=TOOLS, tool_choice="required").choices[0].message.tool_calls[0].function.arguments)
