# SPDX-License-Identifier: MIT
"""Grammars against other people's software: what is walked at random fulfils the schema by `jsonschema` and the expression by Python's re, what these
find right or wrong is accepted or not. -m soak: more of it. TOKENLANE_SEED begins elsewhere."""
import datetime
import decimal
import ipaddress
import json
import os
import pathlib
import random
import re
import subprocess
import urllib.parse

import jsonschema
import pytest

from grammar_schemas import CASES, REFUSED

ROOT = pathlib.Path(__file__).resolve().parents[2]
MANY = pathlib.Path(os.environ.get("TOKENLANE_BIN", ROOT / "build/plain/bin/tokenlane")).with_name("match_many")
SEED = os.environ.get("TOKENLANE_SEED", 7)
WALKS = 60


def ask(cases):
    """cases: (kind, source, candidates, walks)."""
    lines = [json.dumps({"kind": k, "source": s, "candidates": c, "walks": w, "seed": i}) for i, (k, s, c, w) in enumerate(cases)]
    done = subprocess.run([MANY], input="\n".join(lines).encode(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return [json.loads(line) for line in done.stdout.splitlines()]


def one(kind, source, candidates=(), walks=0):
    return ask([(kind, source, list(candidates), walks)])[0]


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def texts_of(value):
    """As models write it."""
    return [compact(value), json.dumps(value, ensure_ascii=False), json.dumps(value, ensure_ascii=False, indent=2), json.dumps(value, ensure_ascii=False, indent="\t")]


def walked(answer, least=0.9):
    """The texts of walks that ended; most do, but for expressions whose end chance seldom finds."""
    texts = [t for t in answer["walks"] if t is not None]
    assert len(texts) >= len(answer["walks"]) * least
    return texts


# --- schemas ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name,schema,valid,invalid", CASES, ids=[c[0] for c in CASES])
def test_schema(name, schema, valid, invalid):
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    assert all(validator.is_valid(v) for v in valid) and not any(validator.is_valid(v) for v in invalid)
    good = [t for v in valid for t in texts_of(v)]
    bad = [t for v in invalid for t in texts_of(v)]
    outside = [t for v in valid for t in (" " + compact(v), compact(v) + "\n", compact(v)[:-1] + "x")]
    answer = one("json_schema", schema, good + bad + outside, WALKS)
    assert "error" not in answer, answer
    accepts = dict(zip(good + bad, answer["accepts"]))
    assert [t for t in good if not accepts[t]] == []
    assert [t for t in bad if accepts[t]] == []
    assert not any(a for t, a in zip(outside, answer["accepts"][len(good) + len(bad):]) if not t[0].isdigit())
    for text in walked(answer, 0 if "pattern" in name else 0.9):
        value = json.loads(text)
        assert validator.is_valid(value), (text, next(validator.iter_errors(value)).message)


@pytest.mark.parametrize("schema,says", REFUSED, ids=range(len(REFUSED)))
def test_refused_schema(schema, says):
    answer = one("json_schema", schema)
    assert says in answer["error"] and answer["code"] in (-1, -5, -7)


FORMATS = {
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "date-time": datetime.datetime.fromisoformat,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uri": lambda t: urllib.parse.urlsplit(t).port,
}


@pytest.mark.parametrize("name", FORMATS)
def test_format(name):
    good = {"time": ["23:59:59Z", "01:02:03.5+02:00"], "date-time": ["2024-02-29T12:00:00Z", "1999-01-01T00:00:00.123-05:30"],
            "uri": ["http://a.b/c?d#e", "mailto:x@y.z", "urn:isbn:1", "https://u:p@h:80/%20"]}.get(name, [])
    bad = {"time": ["24:00:00Z", "1:02:03Z", "01:02"], "date-time": ["2024-02-30T12:00:00Z", "2024-02-29 12:00"], "uri": ["a b", "", "//x", "1:x", "a:%zz"]}.get(name, [])
    answer = one("json_schema", {"type": "string", "format": name}, [compact(t) for t in good + bad], 400)
    assert answer["accepts"] == [True] * len(good) + [False] * len(bad)
    for text in walked(answer):
        FORMATS[name](json.loads(text))  # raises if it is none


def test_durations_and_names():
    answer = one("json_schema", {"type": "string", "format": "duration"}, [compact(t) for t in ["P1D", "PT1H30M", "P2W", "P1Y2M3DT4H5M6S", "P", "PT", "P1", "1D", "P1YT"]])
    assert answer["accepts"] == [True] * 4 + [False] * 5
    answer = one("json_schema", {"type": "string", "format": "hostname"}, [compact(t) for t in ["a", "a-b.c1", "xn--a-1.org", "-a", "a-", "a..b", "a.-b", ""]])
    assert answer["accepts"] == [True] * 3 + [False] * 5


def test_order_is_the_schemas():
    names = ["z", "a", "m", "B", "10", "9"]
    schema = {"type": "object", "properties": {n: {"type": "null"} for n in names}, "required": names}
    answer = one("json_schema", schema, [compact(dict.fromkeys(names)), compact(dict.fromkeys(sorted(names)))], 5)
    assert answer["accepts"] == [True, False] and all(list(json.loads(t)) == names for t in answer["walks"])


def test_other_names_are_none_of_the_named():
    names = ["a", "ab", "abc", "b\"", "é", "éa", "longer name"]
    schema = {"type": "object", "properties": {n: {"const": 1} for n in names}, "additionalProperties": {"const": 2}}
    others = ["", "c", "aa", "abcd", "ac", "b", "ba", "è", "éb", "longer nam", "longer name ", "longer", "B", "😀"]
    good = [f"{{{compact(n)}:1}}" for n in names] + [f"{{{compact(n)}:2}}" for n in others]
    bad = [f"{{{compact(n)}:2}}" for n in names] + [f"{{{compact(n)}:1}}" for n in others] + ['{"\\u0061":2}', '{"a\\u0062":2}', '{"b\\"":2}']
    answer = one("json_schema", schema, good + bad, 300)
    assert answer["accepts"] == [True] * len(good) + [False] * len(bad)
    for text in walked(answer):
        assert all((value == 1) == (name in names) for name, value in json.loads(text).items())


def random_bounds(rng):
    low = rng.choice([rng.randint(-30, 30), rng.randint(-2000, 2000), rng.randint(-10**18, 10**18)])
    high = low + rng.choice([0, 1, 5, 11, 99, 12345, 10**17])
    schema = {rng.choice(["minimum", "exclusiveMinimum"]): low, rng.choice(["maximum", "exclusiveMaximum"]): high}
    if rng.random() < 0.3:
        del schema[rng.choice(list(schema))]
    around = [low, high, low - 1, low + 1, high - 1, high + 1, -low, -high, low * 10, high * 10, low // 10, high // 10, 0]
    return schema, sorted({rng.choice(around) + rng.choice([0, 0, 1, -1, rng.randint(-9, 9)]) for _ in range(40)})


def test_integer_bounds():
    rng = random.Random(f"{SEED} integers")
    cases = [random_bounds(rng) for _ in range(400)]
    answers = ask([("json_schema", {"type": "integer", **s}, [str(n) for n in numbers], 10) for s, numbers in cases])
    for (schema, numbers), answer in zip(cases, answers):
        validator = jsonschema.Draft202012Validator(schema)
        expected = [validator.is_valid(n) and abs(n) < 10**19 for n in numbers]
        if "error" in answer:
            assert not any(expected), (schema, answer)
            continue
        assert answer["accepts"] == expected, schema
        assert all(validator.is_valid(int(t)) for t in walked(answer)), schema


def test_number_bounds():
    rng = random.Random(f"{SEED} numbers")
    cases = []
    for _ in range(400):
        scale = rng.choice([1, 10, 100, 1000])
        low, step = rng.randint(-3000, 3000), rng.choice([0, 1, 2, 10, 35, 1000])
        schema = {rng.choice(["minimum", "exclusiveMinimum"]): low / scale, rng.choice(["maximum", "exclusiveMaximum"]): (low + step) / scale}
        if rng.random() < 0.3:
            del schema[rng.choice(list(schema))]
        fine = [decimal.Decimal(rng.choice([low, low + step, rng.randint(low - 20, low + step + 20)])) / scale + decimal.Decimal(rng.randint(-11, 11)) / rng.choice([1, 10, 1000, 10000])
                for _ in range(40)]
        cases.append((schema, [format(d, "f") for d in fine] + ["0", "-0.5", "0.5", "1", "-1"]))
    answers = ask([("json_schema", {"type": "number", **s}, texts, 20) for s, texts in cases])
    for (schema, texts), answer in zip(cases, answers):
        validator = jsonschema.Draft202012Validator(schema)
        expected = [validator.is_valid(float(t)) for t in texts]
        if "error" in answer:
            assert not any(expected), (schema, answer)
            continue
        assert dict(zip(texts, answer["accepts"])) == dict(zip(texts, expected)), schema
        assert all(validator.is_valid(json.loads(t)) for t in walked(answer)), schema


# Names in the order of the alphabet, and small numbers: then every valid value can be written, and jsonschema decides what is accepted.
WORDS = {"type": "string", "maxLength": 2}
SMALL = {"type": "integer", "minimum": -10, "maximum": 1000}


def closed(required=(), **properties):
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


DECIDED = [
    closed(["b"], a=SMALL, b=WORDS, c={"type": ["boolean", "null"]}, d={"type": "array", "items": SMALL, "maxItems": 2}),
    closed([], a=SMALL, b=SMALL, c=SMALL, d=SMALL),
    {"type": "array", "items": {"anyOf": [SMALL, WORDS, {"type": "null"}, closed([], a=WORDS, b=SMALL)]}},
    {"type": "object", "additionalProperties": {"type": "array", "items": WORDS}},
    {"type": "object", "properties": {"a": SMALL, "c": WORDS}, "additionalProperties": {"type": ["boolean", "array"]}},
    {"type": "array", "prefixItems": [SMALL, WORDS], "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    {"type": ["array", "boolean", "string"], "items": {"$ref": "#"}, "minLength": 1},
    {"enum": ["a", "b", 3, None, [1, 2], {"a": 1}]},
    {"anyOf": [closed(["a"], a={"const": 1}, b=WORDS), closed(["a"], a={"const": 2}, b=SMALL), SMALL]},
]


def random_value(rng, depth=3):
    kind = rng.choice(["number", "text", "other", "list", "object", "list", "object"] if depth else ["number", "text", "other"])
    if kind == "number":
        return rng.choice([0, 1, 2, 3, -10, -11, 7, 1000, 1001, 0.5])
    if kind == "text":
        return rng.choice(["", "a", "b", "é\"", "abc"])
    if kind == "other":
        return rng.choice([True, False, None])
    if kind == "list":
        return [random_value(rng, depth - 1) for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 4]))]
    return {n: random_value(rng, depth - 1) for n in sorted(rng.sample("abcd", rng.randint(0, 4)))}


def order_of(value, schema):
    """Declared names before others, as they must be written."""
    names = list(schema.get("properties", {}))
    return sorted(value, key=lambda n: (n not in names, n)) if isinstance(value, dict) else value


@pytest.mark.parametrize("schema", DECIDED, ids=range(len(DECIDED)))
def test_random_values(schema):
    rng = random.Random(f"{SEED} values")
    values = [random_value(rng) for _ in range(10_000)]
    values = [{n: v[n] for n in order_of(v, schema)} if isinstance(v, dict) else v for v in values]
    validator = jsonschema.Draft202012Validator(schema)
    expected = {json.dumps(v, ensure_ascii=False): validator.is_valid(v) for v in values}
    answer = one("json_schema", schema, list(expected))
    assert sum(expected.values()) >= 5
    assert [t for t, accepted in zip(expected, answer["accepts"]) if accepted != expected[t]] == []


class Schemas:
    """Random ones of which every valid value can be written: names in the order of the alphabet, all is said of other members and items."""

    def __init__(self, rng):
        self.rng = rng

    def bounds(self, least, most, pairs):
        low, high = pairs
        return {k: v for k, v in ((least, low), (most, high)) if self.rng.random() < 0.6}

    def text(self):
        r = self.rng.random()
        if r < 0.3:
            return {"pattern": self.rng.choice(["^a", "b$", "^[ab]*$", "é|\"", "^$", "^(a|bc)+$"])}
        return self.bounds("minLength", "maxLength", self.rng.choice([(0, 1), (1, 2), (2, 3), (1, 1)]))

    def number(self):
        return self.bounds(self.rng.choice(["minimum", "exclusiveMinimum"]), self.rng.choice(["maximum", "exclusiveMaximum"]), self.rng.choice([(0, 3), (-11, 7), (0.5, 2.5), (3, 1000)]))

    def list(self, depth):
        schema = self.bounds("minItems", "maxItems", self.rng.choice([(0, 1), (1, 2), (2, 3), (1, 4)]))
        if self.rng.random() < 0.3:
            schema["prefixItems"] = [self.schema(depth - 1) for _ in range(self.rng.randint(1, 2))]
        if self.rng.random() < 0.7 or "prefixItems" in schema:
            schema["items"] = self.schema(depth - 1)
        return schema

    def object(self, depth):
        names = list("abc"[:self.rng.randint(0, 3)])
        schema = {"properties": {n: self.schema(depth - 1) for n in names}, "required": [n for n in names if self.rng.random() < 0.4]}
        return {**schema, "additionalProperties": self.rng.choice([False, True, {"type": "boolean"}, SMALL])}

    def typed(self, depth):
        kinds = self.rng.sample(["string", "integer", "number", "boolean", "null"] + ["array", "object"] * 2 * (depth > 0), self.rng.choice([1, 1, 1, 2]))
        parts = {"string": self.text, "integer": self.number, "number": self.number, "array": lambda: self.list(depth), "object": lambda: self.object(depth)}
        schema = {"type": kinds[0] if len(kinds) == 1 else list(dict.fromkeys(kinds))}
        for kind in kinds:
            schema.update(parts.get(kind, dict)())
        return schema

    def schema(self, depth):
        r = self.rng.random()
        if r < 0.06:
            return self.rng.choice([True, False, {}])
        if r < 0.14:
            return {"enum": [random_value(self.rng, 1) for _ in range(3)]}
        if r < 0.2 and depth > 0:
            return {"$ref": "#/$defs/" + self.rng.choice("pq")}
        if r < 0.3 and depth > 0:
            return {"anyOf": [self.schema(depth - 1) for _ in range(2)]}
        if r < 0.36 and depth > 0:
            return {"anyOf": [self.typed(depth - 1) for _ in range(2)], **self.typed(depth)}
        if r < 0.42 and depth > 0:
            return {"allOf": [self.typed(depth) for _ in range(2)]}
        if r < 0.46 and depth > 0:
            return {"$ref": "#/$defs/p", **self.typed(depth)}
        if r < 0.5:
            return self.rng.choice([self.text, self.number])()
        return self.typed(depth)


def compare_schemas(n, seed):
    rng = random.Random(seed)
    made = Schemas(rng)
    cases = []
    for _ in range(n):
        schema = {**made.typed(2), "$defs": {"p": made.typed(1), "q": made.typed(2)}}
        values = [random_value(rng) for _ in range(60)]
        cases.append((schema, list({json.dumps(v, ensure_ascii=False, sort_keys=True): v for v in values}.items())))
    compiled = valid = 0
    for (schema, values), answer in zip(cases, ask([("json_schema", s, [t for t, _ in v], 6) for s, v in cases])):
        validator = jsonschema.Draft202012Validator(schema)
        if "error" in answer:
            assert "recursion" in answer["error"] or answer["code"] == -5 or not any(map(validator.is_valid, (v for _, v in values))), (schema, answer)
            continue
        compiled += 1
        for (text, value), accepted in zip(values, answer["accepts"]):
            right = validator.is_valid(value)
            valid += right
            assert accepted == right, (json.dumps(schema), text, accepted)
        for text in walked(answer, 0):
            assert validator.is_valid(json.loads(text)), (schema, text)
    assert compiled > 0.8 * n and valid > n, (compiled, valid)


def test_random_schemas():
    compare_schemas(1500, f"{SEED} schemas")


@pytest.mark.soak
def test_many_random_schemas():
    for i in range(8):
        compare_schemas(1500, f"{int.from_bytes(os.urandom(4))} {i}")


def test_constants_may_have_spaces():
    answer = one("json_schema", {"const": {"a": [1, 2], "b": {}}}, ['{"a":[1,2],"b":{}}', '{"a": [1, 2], "b": {}}', '{\n  "a": [\n    1,\n    2\n  ],\n  "b": {}\n}', '{"a":[1,2] ,"b":{}}'])
    assert answer["accepts"] == [True, True, True, False]


def test_large_schemas():
    """None of these explodes."""
    wide = {"type": "object", "properties": {f"member_{i}": {"type": ["string", "null"]} for i in range(300)}}
    words = {"enum": [f"value number {i}" for i in range(5000)]}
    deep = {"$ref": "#/$defs/d0", "$defs": {f"d{i}": {"type": "object", "properties": {"l": {"$ref": f"#/$defs/d{i + 1}"}, "r": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(100)}}
    deep["$defs"]["d100"] = {"type": "integer"}
    nested = {"type": "integer"}
    for _ in range(30):
        nested = {"type": "array", "items": nested}
    cases = [(wide, {"member_7": "a", "member_250": None}), (words, "value number 4321"), (deep, {"l": {"r": {"r": {}}}}), (nested, [[[[]]]])]
    for (_, value), answer in zip(cases, ask([("json_schema", s, [compact(v), "0"], 2) for s, v in cases])):
        assert answer.get("accepts") == [True, False], (value, answer)


# --- regular expressions ---------------------------------------------------------------------------------


class Expressions:
    """Random ones over a, b, c and some more that all of Python's re and ours read alike."""

    def __init__(self, rng):
        self.rng = rng

    def atom(self, depth):
        r = self.rng.random()
        if r < 0.45 or depth == 0:
            return self.rng.choice(["a", "b", "c", "d", "é", "😀", r"\.", r"\x61", r"\u0062", r"\n", "-", "0", " "])
        if r < 0.65:
            return self.rng.choice([r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", ".", "[ab]", "[^ab]", "[a-c0-3]", r"[^\w]", r"[\d\-x]", "[é-😀]", r"[a\]]", r"[^\n]", r"[\s\S]"])
        return self.rng.choice(["(%s)", "(?:%s)", "(?P<n{}>%s)".format(self.rng.randrange(10**9))]) % self.either(depth - 1)

    def piece(self, depth):
        atom = self.atom(depth)
        if self.rng.random() < 0.35:
            atom += self.rng.choice(["*", "+", "?", "{2}", "{1,}", "{0,2}", "{1,3}", "{0}"]) + self.rng.choice(["", "", "?"])
        return atom

    def row(self, depth):
        return "".join(self.piece(depth) for _ in range(self.rng.randint(0 if depth < 2 else 1, 3)))

    def either(self, depth):
        return "|".join(self.row(depth) for _ in range(self.rng.choice([1, 1, 1, 2, 3])))

    def text(self):
        return "".join(self.rng.choice("aaabbbccd0123 -.\né😀_x]Z") for _ in range(self.rng.choice([0, 1, 1, 2, 2, 3, 3, 4, 5, 6])))


def compare_regexes(n, seed):
    rng = random.Random(seed)
    made = Expressions(rng)
    cases = [(made.either(2), [made.text() for _ in range(30)]) for _ in range(n)]
    answers = ask([("regex", pattern, texts, 5) for pattern, texts in cases])
    matched = 0
    for (pattern, texts), answer in zip(cases, answers):
        assert "error" not in answer, (pattern, answer)
        expected = [re.fullmatch(pattern, t, re.ASCII) is not None for t in texts]
        matched += sum(expected)
        assert dict(zip(texts, answer["accepts"])) == dict(zip(texts, expected)), pattern
        for text in walked(answer, 0):
            assert re.fullmatch(pattern, text, re.ASCII), (pattern, text)
    assert matched > n / 2


def test_random_regexes():
    compare_regexes(1500, f"{SEED} regexes")


@pytest.mark.soak
def test_many_random_regexes():
    for i in range(8):
        compare_regexes(1500, f"{int.from_bytes(os.urandom(4))} {i}")


def test_random_patterns_in_strings():
    """A schema's pattern matches somewhere, and in the string that the JSON means, however it is written."""
    rng = random.Random(f"{SEED} patterns")
    made = Expressions(rng)
    cases = []
    for _ in range(400):
        pattern = rng.choice(["^", ""]) + made.row(2) + rng.choice(["$", ""])
        cases.append((pattern, [made.text() + rng.choice(["", "", "\"", "\\", "\x01"]) for _ in range(30)]))
    for (pattern, texts), answer in zip(cases, ask([("json_schema", {"type": "string", "pattern": pattern}, [compact(t) for t in texts], 3) for pattern, texts in cases])):
        assert "error" not in answer, (pattern, answer)
        ours = re.compile(pattern.replace("$", r"\Z"), re.ASCII)
        for text, accepted in zip(texts, answer["accepts"]):
            assert accepted == bool(ours.search(text)), (pattern, text)
        for text in walked(answer, 0):
            # ECMA's . and \s know more ends of lines and blanks than Python's
            value = json.loads(text)
            assert ours.search(value) or re.search(r"[^\x00-\x7f]", value), (pattern, text)


@pytest.mark.parametrize("pattern,says", [
    ("(?=a)", "look-ahead"), ("(?!a)", "look-ahead"), ("(?<=a)b", "look-behind"), (r"(a)\1", "back references"), (r"(?P<n>a)(?P=n)", "references to groups"), (r"\bx", "word boundaries"),
    ("(?i)a", "inline flags"), (r"\p{L}", "\\p"), ("a++", "possessive"), ("(?>a)", "atomic"), ("a^b", "^ and $"), ("a$b", "^ and $"), ("(", "not closed"), ("a)", "closes nothing"),
    ("*a", "nothing to repeat"), ("a**", "nothing to repeat"), ("a{3,2}", "above the most"), ("[b-a]", "backwards"), ("[a", "no ]"), ("[]a]", "empty"), ("a\\", "backslash"), (r"\xg0", "\\x"),
    (r"\ud800", "no such character"), (r"\q", "this escape"), ("a{9999999}", "too often"), ("((((a{1000}){1000}){1000}){1000})", ""), ("(" * 200 + ")" * 200, "too deeply"), ("[a&&[^b]]", None),
])
def test_refused_regex(pattern, says):
    answer = one("regex", pattern)
    if says is None:
        assert "accepts" in answer
    else:
        assert says in answer["error"]


# --- the others --------------------------------------------------------------------------------------------


def test_choice():
    answer = one("choice", ["a", "ab", "b\n", "é"], ["a", "ab", "b\n", "é", "", "b", "abc"], 20)
    assert answer["accepts"] == [True] * 4 + [False] * 3 and set(answer["walks"]) <= {"a", "ab", "b\n", "é"}
    assert "not empty" in one("choice", [])["error"] and "[1]" in one("choice", ["a", 2])["error"] and "list" in one("choice", {"a": 1})["error"]


def test_json_object():
    answer = one("json_object", None, ['{}', '{"a":[1,2.5,"x",null,{"b":true}]}', '[]', '1', '{"a"}', ''], 100)
    assert answer["accepts"] == [True, True, False, False, False, False]
    assert all(isinstance(json.loads(t), dict) for t in walked(answer))


GBNF = [
    ('root ::= "a" [b-d]* "\\n"?', ["a", "abcd\n", "a\n"], ["", "ae", "\n"]),
    ('# comment\nroot ::= item ("," ws item)*  # more\nitem ::= [0-9]+ | "\\"" [^"\\n]{1,3} "\\""\n\nws ::= " "?\n', ["1", '1, "ab",22'], ["", '""', "1,,2", '"abcd"']),
    ('root ::= (\n  "x" |\n  "y"\n)+ tail{0,2}\ntail ::= "\\x41" | "\\u00e9" | "\\U0001F600"', ["x", "xyA", "yé😀"], ["A", "xAAA"]),
    ('root ::= expr\nexpr ::= term (("+" | "-") term)*\nterm ::= [a-z] | "(" expr ")"', ["a", "a+(b-c)", "((a))"], ["a+", "()", "ab"]),
    ('root ::= [^a-z] . [\\]\\-x]', ["A..", "0é]"][1:] + ["Aa-"], ["aa]", "A]"]),
    ('root ::= "" | "q"{2} | "r"{2,} | "s"{0,1}', ["", "qq", "rr", "rrrr", "s"], ["q", "qqq", "r", "ss"]),
]


@pytest.mark.parametrize("text,good,bad", GBNF, ids=range(len(GBNF)))
def test_gbnf(text, good, bad):
    answer = one("gbnf", text, good + bad, 20)
    assert answer.get("accepts") == [True] * len(good) + [False] * len(bad), answer


def test_gbnf_of_json():
    """llama.cpp's shape of a grammar for JSON."""
    grammar = r'''
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
'''
    answer = one("gbnf", grammar, ['{"a": [1, 2.5e3, "\\u00e9"]}', '{"a":}', "[]"], 100)
    assert answer["accepts"] == [True, False, False]
    for text in walked(answer):
        json.loads(text)


@pytest.mark.parametrize("text,says", [
    ("a ::= b", "no rule b"), ("a ::= \"b\"", "no rule root"), ("root ::= \"a\"\nroot ::= \"b\"", "line 2: a second definition of root"), ("root ::= \"a", "too early"), ("root ::= (\"a\"", "expected )"),
    ("root = \"a\"", "::="), ("root ::= \"\\q\"", "escape"), ("root ::= [b-a]", "backwards"), ("root ::= \"a\"{2,1}", "above"), ("root ::= \"a\"{}", "number"), ("root ::= <think>", "tokens"),
    ("root ::= root \"a\" | \"b\"", "recursion"), ("root ::= a\na ::= b\nb ::= a | \"x\"", "recursion"), ("root ::= \"a\" )", "end of the line"), ("", "no rule root"), ("root ::= \"\\ud800\"", "no character"),
])
def test_refused_gbnf(text, says):
    assert says in one("gbnf", text)["error"]
