# SPDX-License-Identifier: MIT
"""Answers that are held to a form, as users of OpenAI and vLLM ask for them. The demo model knows nothing of JSON: what
comes out right comes from the grammar."""
import asyncio
import enum
import json
import random
import re
import typing

import httpx
import pytest

openai = pytest.importorskip("openai")
jsonschema = pytest.importorskip("jsonschema")
pydantic = pytest.importorskip("pydantic")

from daemon import NAME, SAN, SLOW, events  # noqa: E402
from test_fields import refused  # noqa: E402

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ASK = [{"role": "user", "content": "Who is Clara?"}]
SEEDS = 4 if SAN else 30
PERSON = {"type": "object", "additionalProperties": False, "required": ["name", "age", "tags"],
          "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
                         "tags": {"type": "array", "maxItems": 3, "items": {"enum": ["doctor", "baker", "other", 5, None]}}}}
PLACE = {"type": "object", "additionalProperties": False, "required": ["at"],
         "properties": {"at": {"$ref": "#/$defs/point"}}, "$defs": {"point": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"enum": [1, 20]}}}}


def tool(name, parameters=None):
    return {"type": "function", "function": {"name": name, **({"parameters": parameters} if parameters is not None else {})}}


TOOLS = [tool("add_person", PERSON), tool("find", PLACE), tool("now")]
SCHEMAS = {"add_person": PERSON, "find": PLACE, "now": {"type": "object", "maxProperties": 0}}


def schema_format(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}


def ask(d, path=CHAT, **fields):
    needed = {"messages": ASK} if path == CHAT else {"prompt": "Clara"}
    answer = d.post(path, **{"model": NAME, "temperature": 0, "max_tokens": 400, **needed, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"]


def said(choice):
    return choice["message"]["content"] if "message" in choice else choice["text"]


def stream(d, path=CHAT, **fields):
    """[choice of each chunk]"""
    needed = {"messages": ASK} if path == CHAT else {"prompt": "Clara"}
    with d.http.stream("POST", path, json={"model": NAME, "temperature": 0, "max_tokens": 400, "stream": True, **needed, **fields}) as answer:
        return [e["choices"][0] for e in events(answer.iter_lines())]


@pytest.fixture(scope="session")
def ends(daemon):
    """The demo model would go on listing calls: what closes a list is made likely. So little is needed of a model that was taught to."""
    return {str(i): 12 for text in ("]", "}]", "]}") for i in daemon.tokens(text)[-1:]}


def check(text, schema):
    jsonschema.validate(json.loads(text), schema)


# --- the client's own way --------------------------------------------------------------------------


class Colour(enum.Enum):
    red, green = "red", "green"


class Street(pydantic.BaseModel):
    name: typing.Annotated[str, pydantic.Field(max_length=10)]
    number: typing.Annotated[int, pydantic.Field(ge=1, le=99)]


class Person(pydantic.BaseModel):
    name: typing.Annotated[str, pydantic.Field(max_length=10)]
    street: Street
    colour: Colour
    kind: typing.Literal["doctor", "baker"]
    nick: typing.Annotated[str, pydantic.Field(max_length=5)] | None
    flags: typing.Annotated[list[bool], pydantic.Field(max_length=3)]


class Node(pydantic.BaseModel):
    value: typing.Literal[1, 2]
    left: typing.Optional["Node"]


@pytest.mark.parametrize("model", [Street, Person, Node], ids=lambda m: m.__name__)
@pytest.mark.parametrize("streamed", [False, True])
def test_pydantic_models(client, model, streamed):
    fields = {"model": NAME, "messages": ASK, "response_format": model, "temperature": 0, "max_tokens": 400}
    if streamed:
        with client.chat.completions.stream(**fields) as parts:
            for _ in parts:
                pass
            answer = parts.get_final_completion()
    else:
        answer = client.chat.completions.parse(**fields)
    assert isinstance(answer.choices[0].message.parsed, model) and answer.choices[0].finish_reason == "stop"


def test_json_object(daemon):
    for path in (CHAT, TEXT):
        bounded = {"type": "object", "additionalProperties": {"type": "integer"}}
        for seed in range(3):
            choice, = ask(daemon, path, response_format={"type": "json_object"}, temperature=1, seed=seed, max_tokens=200)
            if choice["finish_reason"] == "stop":
                assert isinstance(json.loads(said(choice)), dict)
            else:
                assert choice["finish_reason"] == "length" and said(choice).lstrip().startswith("{")
        choice, = ask(daemon, path, response_format=schema_format({**bounded, "maxProperties": 0}))
        assert json.loads(said(choice)) == {}


def test_format_text_is_none(daemon):
    assert said(ask(daemon, response_format={"type": "text"})[0]) == said(ask(daemon)[0])


# --- every kind by every name -------------------------------------------------------------------------

REGEX = r"[A-Z][a-z]{2,8} is (a|an) [a-z]{3,9}\."
GBNF = 'root ::= item ("," item)?\nitem ::= "a" [0-9]{1,3} | "b"'
SAME = {
    "schema": [{"response_format": schema_format(PERSON)}, {"response_format": schema_format(PERSON, strict=True, description="d")},
               {"structured_outputs": {"json": PERSON}}, {"structured_outputs": {"json": json.dumps(PERSON), "regex": None}},
               {"guided_json": PERSON}, {"guided_json": json.dumps(PERSON)}, {"json_schema": PERSON}],
    "regex": [{"structured_outputs": {"regex": REGEX}}, {"guided_regex": REGEX}],
    "choice": [{"structured_outputs": {"choice": ["doctor", "baker", "Zürich"], "json_object": False}}, {"guided_choice": ["doctor", "baker", "Zürich"]}],
    "grammar": [{"structured_outputs": {"grammar": GBNF}}, {"guided_grammar": GBNF}, {"grammar": GBNF}],
}
FITS = {"schema": lambda t: check(t, PERSON), "regex": re.compile(REGEX).fullmatch, "choice": ["doctor", "baker", "Zürich"].index,
        "grammar": re.compile(r"(a[0-9]{1,3}|b)(,(a[0-9]{1,3}|b))?").fullmatch}


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("kind", SAME)
def test_kinds_by_all_their_names(daemon, path, kind):
    answers = [ask(daemon, path, **fields)[0] for fields in SAME[kind]]
    assert {a["finish_reason"] for a in answers} == {"stop"} and len({said(a) for a in answers}) == 1
    assert FITS[kind](said(answers[0])) is not False
    if kind in ("regex", "grammar"):
        assert FITS[kind](said(answers[0]))


@pytest.mark.parametrize("kind", SAME)
def test_hot_and_random(daemon, kind):
    """Each seed another answer, every one right."""
    fields, texts = SAME[kind][0], set()
    for first in range(0, SEEDS, 10):
        choices = ask(daemon, TEXT, n=10, temperature=1.5, seed=first, prompt="The", **fields)
        assert {c["finish_reason"] for c in choices} == {"stop"}, choices  # all of them are short
        texts |= {said(c) for c in choices}
    for text in texts:
        if kind in ("regex", "grammar"):
            assert FITS[kind](text), text
        else:
            FITS[kind](text)
    assert len(texts) > 1


def test_stream_pieces_are_the_plain_answer(daemon):
    for path in (CHAT, TEXT):
        for fields in (SAME["schema"][0], SAME["regex"][0]):
            chunks = stream(daemon, path, **fields)
            text = "".join((c["delta"].get("content") or "") if path == CHAT else c["text"] for c in chunks)
            assert text == said(ask(daemon, path, **fields)[0]) and len(chunks) >= 2
            assert chunks[-1]["finish_reason"] == "stop"


# --- with the other fields ------------------------------------------------------------------------------


def test_together_with_other_fields(daemon):
    fields = SAME["schema"][0]
    text = said(ask(daemon, **fields)[0])
    cut, = ask(daemon, **fields, max_tokens=5)
    assert cut["finish_reason"] == "length" and text.startswith(said(cut))
    stopped, = ask(daemon, **fields, stop=['"age"'])
    assert stopped["finish_reason"] == "stop" and said(stopped) == text[:text.index('"age"')]
    choice, = ask(daemon, **fields, logprobs=True, top_logprobs=3)
    assert said(choice) == text == "".join(t["token"] for t in choice["logprobs"]["content"])
    echoed, = ask(daemon, TEXT, **fields, echo=True)
    assert echoed["text"].startswith("Clara{") or re.match(r"Clara\s", echoed["text"])
    check(echoed["text"][len("Clara"):], PERSON)
    later, = ask(daemon, TEXT, guided_choice=["a", "aa", "a" * 40], min_tokens=3)
    assert later["text"] == "a" * 40
    for choice in ask(daemon, **fields, n=3, temperature=1.2, presence_penalty=1.5, frequency_penalty=1, top_p=0.8, seed=5):
        check(said(choice), PERSON)
    several = ask(daemon, TEXT, prompt=["Clara", "Ben is", [5, 6]], n=2, temperature=1, **fields)
    assert len(several) == 6
    for choice in several:
        check(choice["text"], PERSON)


def test_usage_and_end_without_a_stop_token(daemon):
    """An answer that nothing can follow ends at once: no token is spent on saying so."""
    answer = daemon.post(TEXT, model=NAME, prompt="Clara", guided_choice=["doctor"], logprobs=0, ignore_eos=True).json()
    assert answer["choices"][0]["text"] == "doctor" and answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == len(answer["choices"][0]["logprobs"]["tokens"])


# --- tools -------------------------------------------------------------------------------------------------


def check_calls(calls, named=None):
    assert calls
    for call in calls:
        assert call["type"] == "function" and re.fullmatch(r"call_[0-9a-zA-Z]{9,}", call["id"])
        check(call["function"]["arguments"], SCHEMAS[call["function"]["name"]])
        assert named in (None, call["function"]["name"])
    return [c["id"] for c in calls]


def joined_calls(chunks):
    """The calls that the chunks of a stream make, checked as a client puts them together."""
    calls = []
    for chunk in chunks:
        for part in chunk["delta"].get("tool_calls", []):
            if part["index"] == len(calls):
                assert part["function"]["arguments"] == "" and part["id"] and part["type"] == "function"
                calls.append({"id": part["id"], "type": part["type"], "function": dict(part["function"])})
            else:
                assert part["index"] == len(calls) - 1 and part.keys() == {"index", "function"} and part["function"].keys() == {"arguments"}
                calls[-1]["function"]["arguments"] += part["function"]["arguments"]
    return calls


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_named_tool(daemon, name):
    choice_of = {"type": "function", "function": {"name": name}}
    choice, = ask(daemon, tools=TOOLS, tool_choice=choice_of)
    assert choice["finish_reason"] == "stop" and choice["message"]["content"] is None  # as OpenAI has it
    check_calls(choice["message"]["tool_calls"], name)
    assert len(choice["message"]["tool_calls"]) == 1
    chunks = stream(daemon, tools=TOOLS, tool_choice=choice_of)
    assert not any(c["delta"].get("content") for c in chunks) and chunks[-1]["finish_reason"] == "stop"
    call, = joined_calls(chunks)
    assert call["function"] == choice["message"]["tool_calls"][0]["function"]
    scored = stream(daemon, tools=TOOLS, tool_choice=choice_of, logprobs=True)
    assert "".join(t["token"] for c in scored for t in (c["logprobs"] or {"content": []})["content"]) == call["function"]["arguments"]
    assert [c["function"] for c in joined_calls(scored)] == [call["function"]]


def test_a_call_is_required(daemon, ends):
    ids, names, counts = [], set(), set()
    for seed in range(SEEDS // 2):
        fields = {"tools": TOOLS, "tool_choice": "required", "temperature": 1.3, "seed": seed, "max_tokens": 900, "logit_bias": ends}
        choice, = ask(daemon, **fields)
        assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None, choice
        calls = choice["message"]["tool_calls"]
        ids += check_calls(calls)
        names |= {c["function"]["name"] for c in calls}
        counts.add(len(calls))
        if seed > 3:
            continue
        chunks = stream(daemon, **fields)
        assert not any(c["delta"].get("content") for c in chunks) and chunks[-1]["finish_reason"] == "tool_calls"
        streamed = joined_calls(chunks)
        ids += check_calls(streamed)
        assert [c["function"] for c in streamed] == [c["function"] for c in calls]
    assert len(set(ids)) == len(ids)
    if not SAN:
        assert len(names) > 1 and len(counts) > 1


def test_one_call_and_no_more(daemon):
    for seed in range(SEEDS // 3):
        choice, = ask(daemon, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, temperature=1.3, seed=seed)
        assert len(check_calls(choice["message"]["tool_calls"])) == 1 and choice["finish_reason"] == "tool_calls"


def test_calls_of_several_choices(daemon, ends):
    choices = ask(daemon, tools=TOOLS, tool_choice="required", temperature=1.3, seed=1, n=3, max_tokens=900, logprobs=True, logit_bias=ends)
    ids = [i for c in choices for i in check_calls(c["message"]["tool_calls"])]
    assert len(choices) == 3 and len(set(ids)) == len(ids)
    for choice in choices:
        whole = "".join(t["token"] for t in choice["logprobs"]["content"])
        assert [c["name"] for c in json.loads(whole)] == [c["function"]["name"] for c in choice["message"]["tool_calls"]]


def test_calls_that_are_cut(daemon):
    named = {"type": "function", "function": {"name": "add_person"}}
    whole = ask(daemon, tools=TOOLS, tool_choice=named)[0]["message"]["tool_calls"][0]["function"]["arguments"]
    cut, = ask(daemon, tools=TOOLS, tool_choice=named, max_tokens=6)
    assert cut["finish_reason"] == "length" and whole.startswith(cut["message"]["tool_calls"][0]["function"]["arguments"])
    for n in (1, 3, 9, 14, 20):
        fields = {"tools": TOOLS[:1], "tool_choice": "required", "max_tokens": n}
        cut, = ask(daemon, **fields)
        assert cut["finish_reason"] == "length" and cut["message"]["content"] is None
        calls, chunks = cut["message"].get("tool_calls", []), stream(daemon, **fields)
        assert [c["function"] for c in joined_calls(chunks)] == [c["function"] for c in calls]
        assert chunks[-1]["finish_reason"] == "length" and not any(c["delta"].get("content") for c in chunks)


def test_tools_are_not_shown(daemon):
    """The demo model's template shows no tools: with "auto" that is an error, with "none" they are not there."""
    assert ask(daemon, tools=TOOLS, tool_choice="none") == ask(daemon)
    assert refused(daemon.post(CHAT, model=NAME, messages=ASK, tools=TOOLS, tool_choice="auto"))["param"] == "tools"


def test_the_clients_helpers_for_tools(client, ends):
    class Find(pydantic.BaseModel):
        """Looks a person up."""
        person: Street

    tools = [openai.pydantic_function_tool(Find, name="find")]
    fields = {"model": NAME, "messages": ASK, "tools": tools, "temperature": 0, "max_tokens": 900, "logit_bias": ends}
    for choice in ("required", {"type": "function", "function": {"name": "find"}}):
        answer = client.chat.completions.parse(**fields, tool_choice=choice)
        assert isinstance(answer.choices[0].message.tool_calls[0].function.parsed_arguments, Find)
        with client.chat.completions.stream(**fields, tool_choice=choice) as parts:
            kinds = [e.type for e in parts]
            final = parts.get_final_completion()
        assert "tool_calls.function.arguments.delta" in kinds and "tool_calls.function.arguments.done" in kinds
        assert isinstance(final.choices[0].message.tool_calls[0].function.parsed_arguments, Find)
        assert final.choices[0].finish_reason == answer.choices[0].finish_reason


# --- errors ---------------------------------------------------------------------------------------------------

WRONG = [  # fields, param, what the message says
    ({"response_format": "json"}, "response_format", "an object, got a string"),
    ({"response_format": {}}, "response_format.type", "text, json_object or json_schema, got null"),
    ({"response_format": {"type": "structural_tag"}}, "response_format.type", "text, json_object or json_schema"),
    ({"response_format": {"type": "text", "schema": {}}}, "response_format.schema", "expected type to be json_object"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "an object, got null"),
    ({"response_format": {"type": "json_object", "json_schema": {}}}, "response_format.json_schema", "type to be json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "response_format.json_schema.name", "not empty, got null"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "response_format.json_schema.schema", "an object, got null"),
    ({"response_format": schema_format("{}")}, "response_format.json_schema.schema", "an object, got a string"),
    ({"response_format": schema_format({}, strict=1)}, "response_format.json_schema.strict", "true or false, got 1"),
    ({"response_format": schema_format({}, description=1)}, "response_format.json_schema.description", "a string, got 1"),
    ({"response_format": schema_format({}, extra=1)}, "response_format.json_schema.extra", "not supported"),
    ({"response_format": schema_format({"type": "thing"})}, "response_format.json_schema.schema", "$: type"),
    ({"structured_outputs": []}, "structured_outputs", "an object, got an empty list"),
    ({"structured_outputs": {}}, "structured_outputs", "one of json, regex, choice, grammar and json_object"),
    ({"structured_outputs": {"json_object": False, "json": None}}, "structured_outputs", "one of json"),
    ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "not supported"),
    ({"structured_outputs": {"json": {}, "whitespace_pattern": " "}}, "structured_outputs.whitespace_pattern", "not supported"),
    ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs.regex", "together with structured_outputs.json"),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "a string of JSON, got a string"),
    ({"structured_outputs": {"json": "[1]"}}, "structured_outputs.json", "a string of JSON"),
    ({"structured_outputs": {"json": 5}}, "structured_outputs.json", "got 5"),
    ({"structured_outputs": {"json_object": 1}}, "structured_outputs.json_object", "true or false, got 1"),
    ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex", "not empty, got an empty string"),
    ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex", "structured_outputs.regex"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "at least one string, got an empty list"),
    ({"structured_outputs": {"choice": "ab"}}, "structured_outputs.choice", "at least one string, got a string"),
    ({"structured_outputs": {"choice": ["a", 5]}}, "structured_outputs.choice[1]", "a string that is not empty, got 5"),
    ({"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice[1]", "a string that is not empty, got an empty string"),
    ({"structured_outputs": {"grammar": 'x ::= "a"'}}, "structured_outputs.grammar", "root"),
    ({"guided_json": [1]}, "guided_json", "a JSON schema"),
    ({"guided_json": {"type": 5}}, "guided_json", "$: type"),
    ({"guided_regex": 5}, "guided_regex", "a string"),
    ({"guided_choice": {}}, "guided_choice", "a list"),
    ({"guided_grammar": []}, "guided_grammar", "a string"),
    ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "together with guided_regex"),
    ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex", "together with response_format"),
    ({"response_format": {"type": "json_object"}, "structured_outputs": {"json_object": True}}, "structured_outputs.json_object", "together with response_format"),
]
WRONG_CHAT = [
    ({"tool_choice": "required"}, "tool_choice", "tools to be given"),
    ({"tool_choice": "required", "tools": []}, "tool_choice", "tools to be given"),
    ({"tool_choice": {"type": "function", "function": {"name": "now"}}}, "tool_choice", "tools to be given"),
    ({"tool_choice": "any", "tools": TOOLS}, "tool_choice", "none, auto, required or"),
    ({"tool_choice": {"type": "custom"}, "tools": TOOLS}, "tool_choice", "none, auto, required or"),
    ({"tool_choice": {"type": "function"}, "tools": TOOLS}, "tool_choice.function.name", "a string that is not empty, got null"),
    ({"tool_choice": {"type": "function", "function": {"name": "other"}}, "tools": TOOLS}, "tool_choice.function.name", "one of the tools"),
    ({"tool_choice": "required", "tools": TOOLS, "guided_regex": "a"}, "tool_choice", "together with guided_regex"),
    ({"tool_choice": "required", "tools": [*TOOLS, tool("bad", {"type": "object", "properties": {"a": {"type": "thing"}}})]}, "tools[3].function.parameters", "$.properties.a"),
    ({"tool_choice": {"type": "function", "function": {"name": "bad"}}, "tools": [*TOOLS, tool("bad", {"properties": {"a": {"type": "thing"}}})]},
     "tools[3].function.parameters", "$.properties.a"),
    ({"tool_choice": "required", "tools": [tool("bad", "{}")]}, "tools[0].function.parameters", "tools[0].function.parameters"),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls", "true or false"),
    ({"guided_regex": "(a{1,1000}){1,1000}"}, "guided_regex", "too large"),
]


@pytest.mark.parametrize("path, fields, param, says", [(p, *row) for p in (CHAT, TEXT) for row in WRONG] + [(CHAT, *row) for row in WRONG_CHAT])
def test_errors(daemon, path, fields, param, says):
    needed = {"messages": ASK} if path == CHAT else {"prompt": "Clara"}
    error = refused(daemon.post(path, model=NAME, max_tokens=5, **needed, **fields))
    assert error["param"] == param and says in error["message"] and error["type"] == "invalid_request_error", error
    assert param in error["message"]


def test_fields_that_contradict_each_other(daemon):
    for fields in ({"allowed_token_ids": daemon.tokens("a")}, {"logit_bias": {str(i): -100 for t in ("b", "ba", "bb") for i in daemon.tokens(t)}}):
        error = refused(daemon.post(TEXT, model=NAME, prompt="Clara", guided_regex="bb", **fields))
        assert error["param"] == "guided_regex" and "leave none" in error["message"]
    with daemon.http.stream("POST", TEXT, json={"prompt": "Clara", "guided_regex": "ab", "allowed_token_ids": daemon.tokens("a"), "stream": True}) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert "leave none" in lines[-1], lines  # behind the "a", or alone where both came at once
    choice, = ask(daemon, TEXT, guided_regex="(a|b|c){5}d", allowed_token_ids=[i for t in "abd" for i in daemon.tokens(t)], temperature=1.5, seed=3)
    assert re.fullmatch("[ab]{5}d", choice["text"])


def test_a_name_written_otherwise(daemon):
    """What decides early where a request is read is no way around."""
    answer = daemon.http.post(TEXT, content=b'{"prompt": "Clara", "g\\u0075ided\\u005fregex": "a{5}"}')
    assert answer.json()["choices"][0]["text"] == "aaaaa", answer.text


def test_tools_that_may_be_called_are_as_before(daemon):
    for value in (None, "auto", "none"):
        assert ask(daemon, tool_choice=value, max_tokens=5) == ask(daemon, max_tokens=5)


# --- leaving, and what is left --------------------------------------------------------------------------------------


def test_clients_that_leave(start):
    d = start({"http.threads": 2})
    rng = random.Random(1)

    async def one(client, i):
        body = {"model": NAME, "messages": ASK, "stream": i % 2 == 0, "n": 1 + i % 3, "max_tokens": 300, "ignore_eos": True,
                "response_format": {"type": "json_object"}}
        try:
            async with client.stream("POST", d.url + CHAT, json=body) as answer:
                async for _ in answer.aiter_bytes():
                    if rng.random() < 0.3:
                        return
        except httpx.TimeoutException:
            return

    async def main():
        async with httpx.AsyncClient(timeout=0.2 * SLOW, limits=httpx.Limits(max_connections=None)) as client:
            await asyncio.gather(*(one(client, i) for i in range(40)))

    asyncio.run(main())
    d.wait_rest()
    check(said(ask(d, **SAME["schema"][0])[0]), PERSON)


def test_many_at_once(start):
    """64 requests, held to a form and not, each with the text that it has alone."""
    d = start({"http.threads": 2, "text.threads": 2})
    kinds = [{}, *(SAME[k][0] for k in SAME), {"tools": TOOLS, "tool_choice": "required"}]  # calls are cut, by max_tokens
    bodies = [{"temperature": 1, "seed": i % 3, "max_tokens": 60, **kinds[i % len(kinds)]} for i in range(64)]
    alone = {}
    for body in bodies:
        key = json.dumps(body)
        if key not in alone:
            alone[key] = ask(d, **body)[0]

    async def main():
        async with httpx.AsyncClient(timeout=60 * SLOW, limits=httpx.Limits(max_connections=None)) as client:
            return await asyncio.gather(*(client.post(d.url + CHAT, json={"model": NAME, "messages": ASK, **b}) for b in bodies))

    def plain(choice):
        for call in choice["message"].get("tool_calls", []):
            call.pop("id", None)
        return choice

    for body, answer in zip(bodies, asyncio.run(main())):
        assert answer.status_code == 200, answer.text
        assert plain(answer.json()["choices"][0]) == plain(alone[json.dumps(body)])
    d.wait_rest()
    assert d.total("tokenlane_structured_requests_total", kind="regex") > 10
    assert d.total("tokenlane_structured_requests_total", kind="tool_calls") > 10


@pytest.mark.parametrize("options", [{"text.threads": 0}, {"isolation": "process", "cpu.threads": 1}], ids=["no lanes", "process"])
def test_elsewhere(daemon, start, ends, options):
    d = start(options)
    for kind in SAME:
        fields = {"temperature": 1.2, "seed": 7, **SAME[kind][0]}
        assert said(ask(d, **fields)[0]) == said(ask(daemon, **fields)[0])
    choice, = ask(d, tools=TOOLS, tool_choice="required", max_tokens=900, logit_bias=ends)
    check_calls(choice["message"]["tool_calls"])


def test_devices_that_fail(start):
    """A sequence that loses its device goes on elsewhere where its grammar was."""
    sim = {"sim.base_us": 1000, "engine.max_batch_size": 16, "engine.max_batch_tokens": 128, "engine.max_context": 1024,
           "health.backoff_ms": 50, "health.max_backoff_ms": 400, "health.max_faults": 0}
    well = start({**sim, "devices": "sim:0"})
    ill = start({**sim, "devices": "sim:0,sim:1", "sim.faults": ",".join(f"{r}@{40 + 60 * i + 25 * r}:error" for i in range(12) for r in (0, 1))})
    bodies = [{**SAME[k][0], "temperature": 1, "seed": s, "max_tokens": 300} for k in SAME for s in range(6)]
    expected = [said(ask(well, **b)[0]) for b in bodies]

    async def main():
        async with httpx.AsyncClient(timeout=60 * SLOW, limits=httpx.Limits(max_connections=None)) as client:
            return await asyncio.gather(*(client.post(ill.url + CHAT, json={"model": NAME, "messages": ASK, **b}) for b in bodies))

    failed = 0
    for _ in range(3):
        for text, answer in zip(expected, asyncio.run(main())):
            if answer.status_code == 500:  # two faults of its own
                failed += 1
                continue
            assert answer.status_code == 200, answer.text
            assert said(answer.json()["choices"][0]) == text
    assert ill.total("tokenlane_resubmitted_sequences_total") > 0 and failed < len(bodies)
    ill.wait_rest()


