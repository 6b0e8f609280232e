# SPDX-License-Identifier: MIT
"""319 bodies in the spirit of RFC 8259's edge cases, good and bad, sent to the completions endpoints.

GOOD   valid: 200
BAD    not JSON: 400, and the message says where
LIMIT  valid by RFC 8259's grammar, but more than the server takes, as section 9 allows: 400
FIELD  valid, but not what the API takes: 400, and the error names the field

Python's json module is the oracle of what is JSON. Never a 5xx or a crash; the daemon is at rest afterwards."""
import json
import re

import pytest

from daemon import NAME

GOOD, BAD, LIMIT, FIELD = "good", "bad", "limit", "field"
TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
CASES = {}  # name: (kind, path, body, what is expected: an echoed prompt, a field, a part of the message)


def add(kind, name, body, path=TEXT, expected=None):
    assert name not in CASES, name
    CASES[name] = kind, path, body if isinstance(body, bytes) else body.encode(), expected


def value(text):
    """A body with any value in a place where the API does not look at it."""
    text = text if isinstance(text, bytes) else text.encode()
    return b'{"prompt": "a", "max_tokens": 1, "metadata": {"m": ' + text + b"}}"


def values(kind, topic, *texts):
    for text in texts:
        label = text if isinstance(text, str) else text.hex(" ")
        add(kind, f"{topic} {label if len(label) < 40 else label[:30] + '...'}", value(text))


def named(kind, topic, bodies, **more):
    for name, body in bodies.items():
        add(kind, f"{topic} {name}", body, **more)


# --- numbers ----------------------------------------------------------------------------------
values(GOOD, "number", "0", "-0", "0.0", "1", "-1", "9007199254740993", "9223372036854775807", "-9223372036854775808", "0.5",
       "1.00000000000000000001", "1e0", "1E0", "1e+0", "1E+10", "0e0", "-0e-1", "0e99999", "1e00000000000000000001",
       "1.7976931348623157e308", "4.9e-324", "1e-400", "1e-99999999999999999999", "0." + "1" * 10000, "0." + "0" * 5000 + "1")
values(BAD, "number", "01", "00", "-01", "00.5", "-", "+1", "--1", "-+1", ".5", "-.5", ".", "1.", "1.e1", "1e", "1e+", "1E-", "1.0e",
       "e1", "1ee1", "1e1.5", "1.2.3", "0x10", "0b1", "0o7", "1_000", "1-1", "1/2", "1a", "1n", "012e1", "NaN", "-NaN", "Infinity",
       "-Infinity", "- 1", "\uff11", "\u0663")
values(LIMIT, "number", "9223372036854775808", "-9223372036854775809", "1" + "0" * 10000, "1e309", "-1e309")

# --- strings: as prompts their text comes back ------------------------------------------------------
PROMPTS = {
    "ascii": r'"The quick brown fox"', "short escapes": r'"\"\\\/\b\f\n\r\t"', "escaped letter": r'"\u0041"',
    "hex of both cases": r'"\u00e9\u00E9\uABCD\uabcd"', "surrogates": r'"\ud83d\ude00"', "surrogates in capitals": r'"\uD83D\uDE00"',
    "lowest pair": r'"\ud800\udc00"', "highest pair": r'"\udbff\udfff"', "escaped NUL": r'"a\u0000b"',
    "escaped controls": r'"\u0001\u001f"', "escaped quote": r'"\u0022"', "escaped backslash": r'"\u005c"',
    "backslash before u": r'"\\u0041"', "two backslashes": r'"\\\\"', "escaped U+FFFF": r'"\uffff"', "escaped BOM": r'"\ufeff"',
    "raw DEL": '"\x7f"', "raw U+0080": '"\x80"', "raw BOM": '"a\ufeffb"', "raw U+2028": '"\u2028\u2029"', "raw U+FFFE": '"\ufffe"',
    "raw U+10FFFF": '"\U0010ffff"', "last of 2 bytes": '"\u07ff"', "first of 3 bytes": '"\u0800"', "after surrogates": '"\ue000"',
    "first of 4 bytes": '"\U00010000"', "combining": '"e\u0301\u0327"', "right to left": '"\u05e9\u05dc\u05d5\u05dd"',
    "joined emoji": '"\U0001f468\u200d\U0001f469\u200d\U0001f467"', "that looks like JSON": r'"{\"a\":[1,null]} // no"',
    "of brackets": '"' + "[{" * 100 + '"',
}
for name, text in PROMPTS.items():
    add(GOOD, f"string {name}", '{"prompt": ' + text + ', "max_tokens": 0, "echo": true}', expected=json.loads(text))
values(GOOD, "string", '""', '"' + "x" * 100000 + '"', '"' + "\\n" * 20000 + '"')
values(BAD, "string", '"a', '"a\\', '"', "'a'", "\u201ca\u201d", "a", '"a" "b"', '"a\nb"', '"a\tb"', '"a\rb"', '"\x01"', '"\x1f"', r'"\a"',
       r'"\x41"', r'"\v"', r'''"\'"''', r'"\0"', r'"\ "', '"\\\n"', r'"\u"', r'"\u12"', r'"\u123g"', r'"\u{41}"', r'"\u 041"', r'"\u-041"',
       '"\\\u00e9"', r'\u0022a\u0022')
values(LIMIT, "surrogate", r'"\ud800"', r'"\udc00"', r'"\ude00\ud83d"', r'"\ud800\ud800"', r'"\ud800a"', r'"\ud83d\n"')
values(LIMIT, "key", r'{"\u0000": 1}', r'{"a\u0000b": 1}')

# --- bytes ---------------------------------------------------------------------------------------------
values(BAD, "UTF-8", *(b'"' + bytes.fromhex(text) + b'"' for text in (
    "80", "bf", "c0 80", "c0 af", "c2", "c3 28", "e0 80 80", "e2 82", "ed a0 80", "ed a0 bd ed b8 80", "f0 80 80 80", "f0 8f bf bf",
    "f0 9f 98", "f4 90 80 80", "f5 80 80 80", "ff", "fe ff", "63 61 66 e9")))
values(BAD, "byte", b"\xff", b'{"\xff": 1}', b"[1\xc2\xa0]", b'"a"\xe2\x82')
WHOLE = '{"prompt": "a", "max_tokens": 1}'
named(BAD, "encoding", {
    "two UTF-8 BOMs": "\ufeff\ufeff" + WHOLE, "UTF-16 LE": WHOLE.encode("utf-16-le"), "UTF-16 with BOM": WHOLE.encode("utf-16"),
    "UTF-32 BE": WHOLE.encode("utf-32-be"), "cut in a character": b'{"prompt": "\xe2\x82', "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00"})
named(BAD, "NUL", {
    "alone": b"\0", "before": b"\0" + WHOLE.encode(), "behind": WHOLE.encode() + b"\0", "in a string": value(b'"a\0b"'),
    "in a key": value(b'{"a\0": 1}'), "behind a number": value(b"1\0"), "in a list": value(b"[1\0]")})

# --- structure --------------------------------------------------------------------------------------------
values(GOOD, "value", "null", "true", "false", "[]", "{ }", "[[],{}]", '{"": 0}', '{"a": {"b": [1, "c", null]}}', '{"a": 1, "a": 2}',
       "[1,\n2,\r\n3,\t4]")
values(BAD, "value", "", "nul", "tru", "truefalse", "TRUE", "None", "undefined", "[1,]", "[,1]", "[,]", "[1,,2]", "[1 2]", "[", "[1", "[}",
       '["a", ', "]", "[1]]", '{"a"}', '{"a": }', '{"a" 1}', '{"a":: 1}', '{"a": 1,}', '{, "a": 1}', '{"a": 1,, "b": 2}',
       '{"a": 1 "b": 2}', '{"a", 1}', "{a: 1}", "{'a': 1}", "{1: 2}", "{null: 1}", "{[]: 1}", "{", '{"a": 1', "{]", "(1)", "<a/>",
       "/**/1", "// c\n1", "#c\n1", "[\x0b1]", "[\x0c1]", "[\u00a01]", "[\u20281]", "[\ufeff1]")
named(GOOD, "body", {
    "behind a UTF-8 BOM": "\ufeff" + WHOLE,     "with blanks": " \t\r\n" + WHOLE.replace(" ", " \t\r\n") + " \t\r\n", "without blanks": WHOLE.replace(" ", ""),
    "in a megabyte of blanks": WHOLE + " " * (1 << 20), "with escaped keys": '{"\\u0070rompt": "a", "max\\u005ftokens": 1}',
    "with null fields": '{"prompt": "a", "max_tokens": 1, "seed": null, "stop": null, "n": null}',
    "whose last duplicate is right": '{"prompt": 5, "max_tokens": 1, "prompt": "a"}'})
named(BAD, "body", {
    "empty": "", "blank": " \n", "brace": "{", "closing brace": "}", "bracket": "[", "half a key": '{"prom', "half a value": '{"prompt": "a',
    "without its end": WHOLE[:-1], "with two ends": WHOLE + "}", "twice": WHOLE + WHOLE, "with a comma": WHOLE + ",",
    "with a comment": WHOLE + " // no", "with words": WHOLE + " thanks", "form": "prompt=a&max_tokens=1", "XML": "<?xml version='1.0'?>",
    "word": "hello", "event": "data: " + WHOLE})

named(GOOD, "chat", {
    "with text parts": '{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "max_tokens": 1}',
    "with a strange member": '{"messages": [{"role": "user", "content": "a", "x": [{}]}], "max_tokens": 1}'}, path=CHAT)

# --- size ------------------------------------------------------------------------------------------------------
named(GOOD, "size", {
    "62 lists in two objects": value("[" * 62 + "]" * 62), "62 objects in two": value('{"a":' * 62 + "1" + "}" * 62),
    "300000 numbers": value("[" + "1," * 299999 + "1]"), "20000 members": value(json.dumps({str(i): i for i in range(20000)})),
    "1000 duplicates": value("{" + '"a":1,' * 999 + '"a":1}')})
named(LIMIT, "size", {
    "63 lists in two objects": value("[" * 63 + "]" * 63), "63 objects in two": value('{"a":' * 63 + "1" + "}" * 63),
    "500 lists": value("[" * 500 + "]" * 500), "a million objects": value("[" + "{}," * 1000000 + "{}]"),
    "2 million numbers": value("[" + "1," * 2000000 + "1]")})
named(BAD, "size", {"100000 open lists": value("[" * 100000), "a million open objects": '{"a":' * 1000000})

# --- what the API takes ---------------------------------------------------------------------------------------------
named(FIELD, "body that is", {"a number": "-1.5", "a string": '"a"', "true": "true", "null": "null", "an empty list": "[]",
                              "a list": "[" + WHOLE + "]"}, expected=None)
named(FIELD, "body with", {"nothing": "{}", "only a model": json.dumps({"model": NAME})}, expected="prompt")
MESSAGE = {"role": "user", "content": "a"}
for field, wrong in {
    "prompt": [True, 1, {}, []], "prompt[0]": [[None], [True], [{}]], "prompt[1]": [["a", 1], [1, -1], [1, 1.0], [1, "a"], [1, 1 << 40]],
    "max_tokens": ["1", 1.0, -1], "temperature": ["hot", [0.5], 2.1], "seed": [1.5, "1"], "stop": [1, ["a"] * 33, ""],
    "stop[1]": [["a", None]], "logit_bias": [[], {"a": 1}, {"1": "x"}], "echo": ["true", 0], "model": [1, {}], "surprise": [1],
}.items():
    for i, bad in enumerate(wrong):
        body = {"prompt": "a", "max_tokens": 1, field.partition("[")[0]: bad}
        add(FIELD, f"{field} {json.dumps(bad)}", json.dumps(body), expected=field)
for field, wrong in {
    "messages": [None, "a", {}, []], "messages[0]": [["a"], [None], [[]]], "messages[1]": [[MESSAGE, 1]],
    "messages[0].role": [[{}], [{"role": 1, "content": "a"}], [{"role": "", "content": "a"}]],
    "messages[0].content": [[{"role": "user"}], [{"role": "user", "content": 1}], [{"role": "user", "content": {}}],
                            [{"role": "user", "content": ["a"]}], [{"role": "user", "content": [{"type": "text"}]}]],
}.items():
    for bad in wrong:
        add(FIELD, f"{field} {json.dumps(bad)}", json.dumps({"messages": bad, "max_tokens": 1}), path=CHAT, expected=field)


# --- the tests ----------------------------------------------------------------------------------------------------------
def is_json(body):
    def refuse(word):
        raise ValueError(word)  # NaN and Infinity, which Python takes
    try:
        json.loads(body.decode("utf-8-sig"), parse_constant=refuse, parse_int=len, parse_float=len)
    except (ValueError, RecursionError):
        return False
    return True


def error_of(answer):
    """The members of an error in OpenAI's shape."""
    assert answer.status_code == 400, (answer.status_code, answer.text[:300])
    assert answer.headers["content-type"] == "application/json"
    body = json.loads(answer.content.decode())  # strict UTF-8, whatever the message quotes
    assert list(body) == ["error"] and set(body["error"]) == {"message", "type", "param", "code"}
    error = body["error"]
    assert error["type"] == "invalid_request_error" and error["code"] is None
    assert 10 < len(error["message"]) < 500
    assert not re.search(r"\.[ch]:\d|/src/|/home/|0x[0-9a-f]{8}", error["message"]), "a file or a pointer"
    return error


@pytest.fixture(scope="module", autouse=True)
def rest(daemon):
    yield
    assert daemon.process.poll() is None
    assert daemon.http.get("/health").status_code == 200
    daemon.wait_rest()
    assert daemon.complete("a", max_tokens=2)["usage"]["completion_tokens"] >= 1


def test_number_of_cases():
    assert len(CASES) == 319


@pytest.mark.parametrize("name", CASES)
def test_body(daemon, name):
    kind, path, body, expected = CASES[name]
    assert is_json(body) == (kind != BAD), "what does Python say?"
    answer = daemon.http.post(path, content=body, headers={"content-type": "application/json"})
    if kind == GOOD:
        assert answer.status_code == 200, answer.text[:300]
        assert "choices" in answer.json()
        assert expected is None or answer.json()["choices"][0]["text"] == expected
        return
    error = error_of(answer)
    if kind == BAD:
        assert re.search(r"line \d+ column \d+|offset \d+|is empty", error["message"]), error
    elif kind == FIELD:
        message = error["message"]
        assert error["param"] in (expected, expected and expected.partition("[")[0]), error
        assert message.startswith(expected) if expected else "must be a JSON object" in message, error


@pytest.mark.parametrize("body, line, column, word", [
    ('{"prompt": x}', 1, 12, "x"), ('{\n "prompt": "a",\n "max_tokens": 01\n}', 3, 16, "0"), ('{"prompt": "a"} b', 1, 17, "b"),
    ('{"prompt": "\u00e9\u00e9\u00e9", y}', 1, 19, "y"), ("[1,\n2,\n3,\n]", 4, 1, "]")])
def test_error_says_where(daemon, body, line, column, word):
    message = error_of(daemon.http.post(TEXT, content=body.encode()))["message"]
    assert f"line {line} column {column}" in message and word in message.split(":")[-1], message


def test_long_tokens_are_quoted_as_text(daemon):
    """Wherever the quotation of a broken token is cut: the answer stays UTF-8."""
    for n in range(60, 200):
        error_of(daemon.http.post(TEXT, content=('{"prompt": "a" ' + '"' + "a" * n + "\u20ac\U0001f600" * 60 + '"}').encode()))


def test_streams_refuse_like_answers(daemon):
    for path in (TEXT, CHAT):
        answer = daemon.http.post(path, content=b'{"stream": true,}')
        assert "line 1 column" in error_of(answer)["message"]
