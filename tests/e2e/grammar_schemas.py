# SPDX-License-Identifier: MIT
"""Schemas with values that fulfil them and values that do not, as clients send them: OpenAI's documentation's kind, pydantic's, recursive ones, each
keyword. In a valid value members stand in the schema's order."""
import datetime
import enum
from typing import Annotated, Literal, Optional, Union

from pydantic import BaseModel, ConfigDict, Field, HttpUrl

S, I, N, B = {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}


def obj(required=(), closed=True, **properties):
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {**schema, "additionalProperties": False} if closed else schema


class Color(str, enum.Enum):
    red = "red"
    dark_green = "dark green"


class Step(BaseModel):
    explanation: str
    output: str


class MathAnswer(BaseModel):
    steps: list[Step]
    final_answer: str


class Address(BaseModel):
    street: str
    city: Annotated[str, Field(min_length=1, max_length=5)]
    zip: Annotated[str, Field(pattern=r"^\d{5}(-\d{4})?$")]


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    age: Annotated[int, Field(ge=0, le=150)]
    score: Annotated[float, Field(ge=0, lt=1)] = 0.5
    color: Optional[Color] = None
    addresses: list[Address] = []
    tags: dict[str, int] = {}


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(gt=0, lt=10)]


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool = True


class Pets(BaseModel):
    pets: Annotated[list[Annotated[Union[Cat, Dog], Field(discriminator="kind")]], Field(min_length=1, max_length=3)]


class Tree(BaseModel):
    value: int
    children: list["Tree"] = []


class Linked(BaseModel):
    value: Union[int, str]
    next: Optional["Linked"] = None


class Pair(BaseModel):
    point: tuple[int, int, str]
    either: Union[bool, None, float]


class Links(BaseModel):
    url: HttpUrl
    when: datetime.datetime
    more: Annotated[list[HttpUrl], Field(max_length=2)] = []


class Counts(BaseModel):
    by_name: Annotated[dict[Annotated[str, Field(pattern="^[a-z]+$")], int], Field(min_length=1)]


UI = {  # after OpenAI's guide on structured outputs: a recursive $ref to the root
    "type": "object",
    "properties": {
        "type": {"type": "string", "enum": ["div", "button", "header"]},
        "label": S,
        "children": {"type": "array", "items": {"$ref": "#"}},
        "attributes": {"type": "array", "items": obj(["name", "value"], name=S, value=S)},
    },
    "required": ["type", "label", "children", "attributes"],
    "additionalProperties": False,
}
LIST = {
    "type": "object",
    "properties": {"linked_list": {"$ref": "#/$defs/node"}},
    "$defs": {"node": obj(["value", "next"], value=N, next={"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]})},
    "required": ["linked_list"],
    "additionalProperties": False,
}
WEATHER = obj(["location", "unit"], location={"type": "string", "description": "City"}, unit={"type": ["string", "null"], "enum": ["C", "F", None]})
ARITHMETIC = {  # two rules that use one another
    "$ref": "#/definitions/sum",
    "definitions": {
        "sum": obj(["op", "terms"], op={"const": "+"}, terms={"type": "array", "minItems": 2, "items": {"$ref": "#/definitions/value"}}),
        "value": {"oneOf": [N, {"$ref": "#/definitions/sum"}]},
    },
}

CASES = [
    # (name, schema, values that fulfil it, values that do not)
    ("string", S, ["", "a", "é😀\u2028", "quote\" back\\ \n\t\x01"], [1, None, []]),
    ("integer", I, [0, -1, 123456, 10**18], [0.5, "1", None]),
    ("number", N, [0, -1.5, 3.25e10, 1e-7, -2e200], ["1", None]),
    ("boolean", B, [True, False], [0, "true"]),
    ("null", {"type": "null"}, [None], [0, False, ""]),
    ("any", {}, [1, None, "x", [], {}, [{"a": [True, 1.5]}], {"": {"b": None}}], []),
    ("true", True, [1, {"a": 1}, "z"], []),
    ("annotated any", {"title": "T", "description": "d", "default": 3, "examples": [1], "$comment": "c"}, [1, "a", [None]], []),
    ("two types", {"type": ["string", "null"]}, ["a", None], [1, []]),
    ("number and integer", {"type": ["integer", "number"]}, [1, 1.5], ["1"]),
    ("any object", {"type": "object"}, [{}, {"a": 1}, {"a": {"b": []}}], [[], 1]),
    ("any array", {"type": "array"}, [[], [1, "a", [None]]], [{}, "x"]),
    ("no members", {"type": "object", "properties": {}}, [{}], [[], 1]),
    ("one required", obj(["a"], a=I), [{"a": 1}], [{}, {"a": "x"}, {"a": 1, "b": 2}]),
    ("optional, required, optional", obj(["b"], a=I, b=S, c=B),
     [{"b": ""}, {"a": 1, "b": ""}, {"b": "", "c": True}, {"a": 1, "b": "x", "c": False}], [{}, {"a": 1}, {"a": 1, "c": True}, {"c": True}]),
    ("all optional", obj([], a=I, b=I, c=I), [{}, {"a": 1}, {"b": 1}, {"c": 1}, {"a": 1, "b": 2}, {"a": 1, "c": 3}, {"b": 2, "c": 3}, {"a": 1, "b": 2, "c": 3}],
     [{"d": 1}, {"a": "x"}, {"a": 1, "d": 2}]),
    ("twenty optional", obj([], **{f"m{i:02}": I for i in range(20)}),
     [{}, {"m00": 1}, {"m19": 1}, {"m07": 1, "m12": 2}, {f"m{i:02}": i for i in range(20)}, {"m01": 1, "m10": 2, "m11": 3, "m18": 4}], [{"m20": 1}, {"m01": "x"}]),
    ("twenty optional behind one", obj(["a"], a=S, **{f"m{i:02}": I for i in range(20)}),
     [{"a": ""}, {"a": "", "m19": 1}, {"a": "", "m00": 1, "m19": 2}, {"a": "x", **{f"m{i:02}": i for i in range(20)}}], [{}, {"m00": 1}, {"a": "", "b": 1}]),
    ("twenty optional before one", obj(["z"], **{f"m{i:02}": I for i in range(20)}, z=S),
     [{"z": ""}, {"m00": 1, "z": ""}, {"m03": 1, "m19": 2, "z": ""}], [{}, {"m00": 1}, {"m00": "", "z": ""}]),
    ("others of a type", {"type": "object", "properties": {"a": S, "ab": S}, "required": ["a"], "additionalProperties": I},
     [{"a": ""}, {"a": "", "ab": "", "b": 1}, {"a": "", "abc": 1, "aa": 2, "": 3}, {"a": "", "ab": "", "x\"y": 1}], [{"a": 1}, {"a": "", "b": ""}, {"a": "", "ab": 1}, {}]),
    ("others, none required", {"type": "object", "properties": {"a": S, "b": S}, "additionalProperties": I},
     [{}, {"a": ""}, {"c": 1}, {"b": "", "c": 1, "d": 2}], [{"a": 1}, {"b": 1}, {"c": ""}]),
    ("others allowed", {"type": "object", "properties": {"a": I}, "additionalProperties": True}, [{}, {"a": 1}, {"b": []}, {"a": 1, "ä": {}}], [{"a": ""}]),
    ("a map", {"type": "object", "additionalProperties": {"type": "array", "items": I}}, [{}, {"x": [1], "y": []}], [{"x": 1}]),
    ("a map, not empty", {"type": "object", "additionalProperties": I, "minProperties": 1, "maxProperties": 2}, [{"x": 1}, {"x": 1, "y": 2}], [{}, {"x": 1, "y": 2, "z": 3}]),
    ("keys by pattern", {"type": "object", "propertyNames": {"pattern": "^[a-z]{2}$"}, "additionalProperties": I}, [{}, {"ab": 1, "cd": 2}], [{"a": 1}, {"AB": 1}, {"ab": ""}]),
    ("keys by enum", {"type": "object", "propertyNames": {"enum": ["x", "y"]}, "additionalProperties": I}, [{}, {"x": 1}, {"y": 2, "x": 1}], [{"z": 1}]),
    ("patternProperties", {"type": "object", "patternProperties": {"^x_": I}, "additionalProperties": False}, [{}, {"x_": 1, "x_a": 2}], [{"y": 1}, {"x_": "a"}]),
    ("required unnamed", {"type": "object", "required": ["q"]}, [{"q": 1}, {"q": None, "r": 1}], [{}, {"r": 1}]),
    ("forbidden member", {"type": "object", "properties": {"a": False, "b": I}, "additionalProperties": I}, [{}, {"b": 1}, {"c": 1}], [{"a": 1}]),
    ("no type, properties", {"properties": {"a": I}, "required": ["a"]}, [{"a": 1}], [{}, {"a": "x"}]),
    ("no type, items", {"items": I}, [[], [1, 2]], [["x"]]),
    ("no type, minLength", {"minLength": 3}, ["abc", 5, None, {"a": 1}], ["ab"]),
    ("odd names", obj(["a\"b", "c\\d", "e\nf", "é"], **{"a\"b": I, "c\\d": I, "e\nf": I, "é": I}), [{"a\"b": 1, "c\\d": 2, "e\nf": 3, "é": 4}], [{"é": 1}]),
    ("items", {"type": "array", "items": S, "minItems": 1, "maxItems": 3}, [["a"], ["a", "b", "c"]], [[], ["a"] * 4, [1]]),
    ("no items", {"type": "array", "maxItems": 0}, [[]], [[1]]),
    ("one item at most", {"type": "array", "items": I, "maxItems": 1}, [[], [1]], [[1, 2]]),
    ("two items at least", {"type": "array", "items": I, "minItems": 2}, [[1, 2], [1, 2, 3]], [[], [1]]),
    ("tuple", {"type": "array", "prefixItems": [I, S], "items": False, "minItems": 2}, [[1, "a"]], [[], [1], ["a", 1], [1, "a", 2]]),
    ("short tuple", {"type": "array", "prefixItems": [I, S, B], "items": False, "minItems": 1}, [[1], [1, "a"], [1, "a", True]], [[], ["a"], [1, True]]),
    ("tuple and more", {"type": "array", "prefixItems": [I], "items": S, "maxItems": 3}, [[], [1], [1, "a"], [1, "a", "b"]], [["a"], [1, 2], [1, "a", "b", "c"]]),
    ("nested arrays", {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": I}}}, [[], [[]], [[[1], [2, 3]], []]], [[1], [[1]]]),
    ("enum", {"enum": ["a", "b\n", 1, 2.5, None, True, [1, {"x": "y"}], {"k": []}]}, ["a", "b\n", 1, 2.5, None, True, [1, {"x": "y"}], {"k": []}], ["c", 2, False, []]),
    ("enum of a type", {"type": "string", "enum": ["on", "off", 3]}, ["on", "off"], [3, "x"]),
    ("const", {"const": {"a": [1, "x"]}}, [{"a": [1, "x"]}], [{}, {"a": []}]),
    ("const beside enum", {"const": 1, "enum": [1, 2]}, [1], [2]),
    ("anyOf", {"anyOf": [I, S, {"type": "array", "items": {"$ref": "#"}}]}, [1, "a", [1, ["b", []]]], [None, [None], 1.5]),
    ("oneOf", {"oneOf": [obj(["a"], a=I), obj(["b"], b=I)]}, [{"a": 1}, {"b": 1}], [{}, {"a": 1, "b": 1}]),
    ("anyOf beside members", {"type": "object", "properties": {"a": I, "b": I}, "additionalProperties": False, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
     [{"a": 1}, {"b": 1}, {"a": 1, "b": 2}], [{}, {"c": 1}]),
    ("anyOf beside a type", {"type": "string", "anyOf": [{"maxLength": 1}, {"minLength": 4}]}, ["", "a", "abcd"], ["ab", "abc", 1]),
    ("allOf of one", {"allOf": [{"$ref": "#/$defs/a"}], "title": "t", "$defs": {"a": obj(["x"], x=I)}}, [{"x": 1}], [{}]),
    ("allOf", {"allOf": [obj(["a"], closed=False, a=I), obj(["b"], closed=False, b=S)], "properties": {"c": B}}, [{"a": 1, "b": ""}, {"a": 1, "b": "", "c": True}], [{"a": 1}, {"b": ""}]),
    ("allOf of bounds", {"allOf": [{"type": "integer", "minimum": 3}, {"type": "number", "maximum": 5}, {"minimum": 1}]}, [3, 4, 5], [2, 6, 3.5]),
    ("allOf of one member", {"allOf": [obj(["a"], closed=False, a={"minimum": 3}), obj([], closed=False, a={"type": "integer"})]}, [{"a": 3}], [{"a": 2}, {"a": 3.5}, {}]),
    ("recursive allOf", {"$defs": {"n": {"type": "object", "properties": {"v": I, "n": {"allOf": [{"$ref": "#/$defs/n"}, {"required": ["v"]}]}}}}, "$ref": "#/$defs/n"},
     [{}, {"n": {"v": 1}}, {"v": 1, "n": {"v": 2, "n": {"v": 3}}}], [{"n": {}}, {"v": 1, "n": {"v": 2, "n": {}}}]),
    ("beside a $ref", {"$defs": {"a": obj([], closed=False, x=I)}, "$ref": "#/$defs/a", "properties": {"y": S}, "required": ["x"]}, [{"x": 1}, {"x": 1, "y": ""}], [{"y": ""}, {}]),
    ("odd pointers", {"$defs": {"a/b": {"~c d": [S, I]}}, "type": "array", "items": {"$ref": "#/$defs/a~1b/~0c%20d/1"}}, [[], [1]], [["a"]]),
    ("a chain of $refs", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/c"}, "c": I}}, [1], ["a"]),
    ("lengths", {"type": "string", "minLength": 2, "maxLength": 4}, ["ab", "é😀", "a\"b\\"], ["a", "abcde", ""]),
    ("pattern", {"type": "string", "pattern": "^[A-Z]{2}-\\d+$"}, ["AB-1", "XY-0123"], ["AB-", "ab-1", " AB-1", "AB-1 "]),
    ("pattern anywhere", {"type": "string", "pattern": "b+c"}, ["bc", "abbbcd", "\"bc\\", "b\nbc"], ["b", "c", "ac", ""]),
    ("pattern at an end", {"type": "string", "pattern": "^a|b$"}, ["a", "b", "axx", "xxb"], ["", "xax", "bx"]),
    ("pattern of escapes", {"type": "string", "pattern": "^[\"\\\\\\n\\x01a]+$"}, ["a\"", "\\\\", "\n\x01"], ["b", ""]),
    ("pattern and lengths", {"type": "string", "pattern": "^[a-z][a-z0-9_]*$", "minLength": 2, "maxLength": 4}, ["ab", "a_1x"], ["a", "abcde", "1a"]),
    ("a pattern's own lengths", {"type": "string", "pattern": "^(ab|c)$", "maxLength": 2}, ["ab", "c"], ["", "abc"]),
    ("integers in a range", {"type": "integer", "minimum": -17, "maximum": 234}, [-17, -9, 0, 9, 10, 99, 100, 234], [-18, 235, 1000, -100]),
    ("integers above", {"type": "integer", "exclusiveMinimum": 99}, [100, 999, 12345678], [99, 0, -5]),
    ("integers below", {"type": "integer", "exclusiveMaximum": -9.5}, [-10, -11, -100000], [-9, 0, 5]),
    ("one integer", {"type": "integer", "minimum": 0.5, "maximum": 1.5}, [1], [0, 2]),
    ("numbers in a range", {"type": "number", "minimum": 0, "maximum": 1}, [0, 1, 0.5, 0.999, 1.0], [-0.1, 1.01, 2, 10]),
    ("numbers across 0", {"type": "number", "exclusiveMinimum": -1.25, "maximum": 10.5}, [-1.2, -1, 0, 10.5, 10.49, 9.99], [-1.25, -1.3, 10.51, 11, -2]),
    ("numbers of one whole", {"type": "number", "minimum": 3.125, "exclusiveMaximum": 3.2}, [3.125, 3.13, 3.19, 3.1999], [3.12, 3.2, 3, 4, 3.1]),
    ("numbers above", {"type": "number", "exclusiveMinimum": 0}, [0.001, 1, 12345.5], [0, -1, 0.0]),
    ("numbers below 0", {"type": "number", "maximum": -0.5}, [-0.5, -0.51, -100], [0, 1, -0.49]),
    ("bounds of a double", {"type": "number", "minimum": -1.7976931348623157e308, "maximum": 1e19, "exclusiveMaximum": 3.4e38}, [0, -1.5e10, 12.5], ["x"]),
    ("integers of 64 bits", {"type": "integer", "minimum": 0, "maximum": 18446744073709551615.0}, [0, 1, 2**63], [-1, 0.5]),
    ("anyOf beside an $id", {"$id": "urn:x", "type": "object", "properties": {"a": I, "b": I}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, [{"a": 1}, {"b": 1}], [{}]),
    ("no-ops", {"type": "array", "items": I, "uniqueItems": False, "unevaluatedItems": True, "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "urn:x"}, [[1, 1]], [["a"]]),
    ("date", {"type": "string", "format": "date"}, ["2024-02-29", "1999-12-31"], ["2023-02-29", "2024-13-01", "24-01-01", "x"]),
    ("ipv4", {"type": "string", "format": "ipv4"}, ["0.0.0.0", "255.1.20.199"], ["256.1.1.1", "1.2.3", "01.2.3.4"]),
    ("ipv6", {"type": "string", "format": "ipv6"}, ["::", "::1", "fe80::1:2", "1:2:3:4:5:6:7:8", "1::8"], ["1:2", ":::", "1:2:3:4:5:6:7:8:9", "g::"]),
    ("uuid", {"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567", "x"]),
    ("email", {"type": "string", "format": "email"}, ["a.b+c@d-e.org"], ["a", ""]),
    ("unknown format", {"type": "string", "format": "password"}, ["x"], [1]),
    ("openai math", MathAnswer.model_json_schema(), [{"steps": [{"explanation": "e", "output": "o"}], "final_answer": "7"}, {"steps": [], "final_answer": ""}], [{"steps": []}, {"final_answer": ""}]),
    ("openai ui", UI, [{"type": "div", "label": "l", "children": [{"type": "button", "label": "b", "children": [], "attributes": []}], "attributes": [{"name": "n", "value": "v"}]}],
     [{"type": "span", "label": "", "children": [], "attributes": []}, {"type": "div", "label": "", "children": [1], "attributes": []}]),
    ("openai list", LIST, [{"linked_list": {"value": 1, "next": {"value": 2.5, "next": None}}}], [{"linked_list": None}, {"linked_list": {"value": 1, "next": {}}}]),
    ("openai weather", WEATHER, [{"location": "Bern", "unit": "C"}, {"location": "", "unit": None}], [{"location": "", "unit": "K"}, {"location": ""}]),
    ("sums", ARITHMETIC, [{"op": "+", "terms": [1, {"op": "+", "terms": [2, 3]}]}], [{"op": "+", "terms": [1]}, {"op": "-", "terms": [1, 2]}]),
    ("pydantic person", Person.model_json_schema(),
     [{"name": "n", "age": 3}, {"name": "n", "age": 150, "score": 0.75, "color": "dark green", "addresses": [{"street": "s", "city": "Bonn", "zip": "12345-6789"}], "tags": {"a": 1}}],
     [{"name": "n", "age": 151}, {"name": "n", "age": 1, "score": 1}, {"name": "n", "age": 1, "color": "blue"}, {"name": "n"}, {"name": "", "age": 1, "x": 1}]),
    ("pydantic pets", Pets.model_json_schema(), [{"pets": [{"kind": "cat", "lives": 9}, {"kind": "dog"}]}, {"pets": [{"kind": "dog", "good": False}]}],
     [{"pets": []}, {"pets": [{"kind": "cat", "lives": 10}]}, {"pets": [{"kind": "cow"}]}]),
    ("pydantic tree", Tree.model_json_schema(), [{"value": 1}, {"value": 1, "children": [{"value": 2, "children": [{"value": 3}]}, {"value": 4}]}], [{"children": []}, {"value": 1, "children": [{}]}]),
    ("pydantic linked", Linked.model_json_schema(), [{"value": 1}, {"value": "a", "next": {"value": 2, "next": None}}], [{"value": None}, {"value": 1, "next": 2}]),
    ("pydantic pair", Pair.model_json_schema(), [{"point": [1, 2, "a"], "either": None}, {"point": [0, -1, ""], "either": 2.5}], [{"point": [1, 2], "either": None}, {"point": [1, 2, "a"], "either": "x"}]),
    ("pydantic links", Links.model_json_schema(), [{"url": "https://a.b/c?d=e#f", "when": "2024-02-29T12:00:00Z"}, {"url": "http://x", "when": "1999-12-31T23:59:59.5+01:00", "more": ["ftp://y"]}],
     [{"url": "http://x"}, {"url": "", "when": "2024-02-29T12:00:00Z"}, {"url": 1, "when": "2024-02-29T12:00:00Z"}]),
    ("pydantic counts", Counts.model_json_schema(), [{"by_name": {"a": 1, "bc": 2}}], [{"by_name": {}}, {"by_name": {"a": "x"}}]),
]

REFUSED = [
    # (schema, what the message says)
    ({"type": "array", "uniqueItems": True}, "$: uniqueItems is not supported"),
    ({"properties": {"a": {"items": {"not": {}}}}}, "$.properties.a.items: not is not supported"),
    ({"properties": {"a": {"multipleOf": 2}}}, "$.properties.a: multipleOf is not supported"),
    ({"if": {"minimum": 1}, "then": {"maximum": 2}}, "is not supported"),
    ({"contains": {}}, "$: contains is not supported"),
    ({"dependentRequired": {"a": ["b"]}}, "$: dependentRequired is not supported"),
    ({"unevaluatedProperties": False}, "$: unevaluatedProperties is not supported"),
    ({"type": "object", "minProperties": 2}, "$: minProperties"),
    ({"type": "object", "properties": {"a": {}}, "patternProperties": {"b": {}}}, "$: patternProperties"),
    ({"$ref": "other.json"}, "$: $ref \"other.json\" is not supported"),
    ({"$ref": "#/$defs/none"}, "$: $ref \"#/$defs/none\" points to nothing"),
    ({"$ref": "#/a%zz"}, "points to nothing"),
    ({"$ref": "#"}, "circle"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "circle"),
    ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "recursion"),
    ({"allOf": [{"$ref": "#"}, {"type": "null"}]}, "circle"),
    ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "$: two different values of pattern"),
    ({"properties": {"a": {"$id": "x"}}}, "$.properties.a: $id"),
    ({"properties": []}, "$: properties: expected an object"),
    ({"required": "a"}, "$: required: expected a list of strings"),
    ({"items": [S]}, "$: items: expected a schema"),
    ({"minItems": -1}, "$: minItems: expected a whole number"),
    ({"minLength": 1.5}, "$: minLength"),
    ({"type": "str"}, "$: type: expected one or more of"),
    ({"type": []}, "$: type: expected"),
    ({"enum": []}, "$: enum: expected a list"),
    ({"anyOf": []}, "$: anyOf: expected a list of schemas"),
    ({"exclusiveMinimum": True}, "$: exclusiveMinimum: expected a number"),
    ({"type": "number", "minimum": 1e30}, "$: minimum: more than 19 digits"),
    ({"type": "string", "pattern": "a(?=b)"}, "$: pattern: look-ahead is not supported (offset 1"),
    ({"type": "string", "pattern": "a|b.*c", "maxLength": 5}, "$: pattern: minLength or maxLength"),
    ({"type": "string", "format": "iri"}, "$: format \"iri\" is not supported"),
    ({"type": "string", "enum": ["a"], "minLength": 1}, "minLength beside enum"),
    ("x", "$: expected a schema"),
    ({"$defs": {"a": {"properties": {"b": 3}}}, "items": {"$ref": "#/$defs/a"}}, "$.$defs.a.properties.b: expected a schema"),
    ({"type": "string", "minLength": 3, "maxLength": 2}, ""),  # no text at all
    (False, ""),
]
