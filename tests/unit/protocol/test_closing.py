"""What is sent goes on for ever nowhere, and still allows what the schema is for."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest

from foundry_lab.protocol.closing import closed

A = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
B = {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}
C = {"type": "object", "properties": {"c": {"type": "string"}}, "required": ["c"]}
AB, ABC = {"a": "x", "b": "y"}, {"a": "x", "b": "y", "c": "z"}


def ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


SATISFIABLE: list[Any] = [
    pytest.param({"allOf": [A, B]}, AB, id="allOf"),
    pytest.param({"allOf": [ref("a"), B], "$defs": {"a": A}}, AB, id="allOf of a reference"),
    pytest.param({"allOf": [ref("a"), ref("b")], "$defs": {"a": A, "b": B}}, AB, id="allOf of references"),
    pytest.param({**A, "allOf": [B]}, AB, id="allOf beside properties"),
    pytest.param({**A, **ref("b"), "$defs": {"b": B}}, AB, id="a reference beside properties"),
    pytest.param({**A, "anyOf": [B, C]}, AB, id="anyOf beside properties"),
    pytest.param({"allOf": [{"allOf": [A, B]}, C]}, ABC, id="allOf in allOf"),
    pytest.param({"allOf": [{"anyOf": [A, B]}, C]}, {"a": "x", "c": "z"}, id="anyOf in allOf"),
    pytest.param(
        {"allOf": [ref("x"), C], "$defs": {"x": ref("y"), "y": {"allOf": [ref("a"), B]}, "a": A}},
        ABC,
        id="references of references",
    ),
    pytest.param(
        {"allOf": [{"properties": {"in": A}}, {"properties": {"in": B}}]},
        {"in": AB},
        id="properties of allOf",
    ),
    pytest.param({"allOf": [{"items": A}, {"items": B}]}, [AB], id="items of allOf"),
    pytest.param(
        {"allOf": [{"$ref": "#this"}, B], "$defs": {"a": {**A, "$anchor": "this"}}}, AB, id="anchor"
    ),
    pytest.param({"allOf": [{"type": "integer"}, {"minimum": 2**60}]}, 2**60, id="integers"),
    pytest.param({"type": "integer", "anyOf": [{"minimum": 2**60}]}, 2**60, id="bounds in a branch"),
    pytest.param({**A, "required": ["a", "b"]}, AB, id="required beyond properties"),
    pytest.param({**A, "minProperties": 2}, AB, id="more properties than named"),
    pytest.param({**A, "if": A, "then": B}, AB, id="then"),
    pytest.param({**A, "dependentSchemas": {"a": B}}, AB, id="dependentSchemas"),
    pytest.param({"type": "string", "format": "decimal"}, "-0.10", id="decimal"),
    pytest.param({**A, "not": {**A, "required": ["a", "z"]}}, {"a": "x"}, id="not"),
]


@pytest.mark.parametrize(("schema", "value"), SATISFIABLE)
def test_what_the_schema_is_for_stays_possible(schema: dict[str, Any], value: Any) -> None:
    before = copy.deepcopy(schema)
    jsonschema.validate(value, schema)
    jsonschema.validate(value, closed(schema))
    assert schema == before, "the caller's own schema stays as it was"


MORE = {"a": "x", "more": 1}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        pytest.param(A, MORE, id="object"),
        pytest.param({"properties": A["properties"]}, MORE, id="object by its properties"),
        pytest.param({**A, "type": ["object", "null"]}, MORE, id="object or null"),
        pytest.param({"type": "array", "items": A}, [MORE], id="items"),
        pytest.param({"type": "array", "prefixItems": [A]}, [MORE], id="prefixItems"),
        pytest.param({"properties": {"in": A}}, {"in": MORE}, id="properties"),
        pytest.param({"additionalProperties": A}, {"in": MORE}, id="additionalProperties"),
        pytest.param({"anyOf": [A, {"type": "null"}]}, MORE, id="optional"),
        pytest.param({"type": "object", "oneOf": [A, B]}, MORE, id="one of"),
        pytest.param({"allOf": [A], "default": None}, MORE, id="allOf of one"),
        pytest.param({**ref("a"), "description": "d", "$defs": {"a": A}}, MORE, id="reference"),
        pytest.param({"type": "integer"}, 10**30, id="integer"),
        pytest.param({"type": "string", "format": "decimal"}, "1" * 99, id="decimal"),
        pytest.param({"type": ["integer", "null"]}, 10**30, id="integer or null"),
    ],
)
def test_what_would_go_on_for_ever_is_closed(schema: dict[str, Any], value: Any) -> None:
    jsonschema.validate(value, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, closed(schema))


def test_a_schema_whose_parts_depend_on_each_other_is_sent_as_it_is() -> None:
    schema = {"allOf": [A, B], "$defs": {"a": A}, "properties": {"n": {"type": "integer"}}}
    assert closed(schema) == schema


LITERAL = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize("keyword", ["enum", "const", "default", "examples", "not", "if"])
def test_literals_are_not_rewritten(keyword: str) -> None:
    literal = [LITERAL, {"type": "integer"}] if keyword in ("enum", "examples") else LITERAL
    for schema in ({keyword: literal}, {"type": "array", "items": {keyword: literal}}):
        assert f'"{keyword}": {json.dumps(literal)}' in json.dumps(closed(schema))


def test_a_property_may_have_the_name_of_a_keyword() -> None:
    schema = {"type": "object", "properties": {"default": A, "enum": A, "allOf": A}, "required": ["enum"]}
    for name in ("default", "enum", "allOf"):
        assert closed(schema)["properties"][name]["additionalProperties"] is False


def test_a_schema_that_refers_to_itself_is_closed_once() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}
    assert closed(tree) == {**tree, "additionalProperties": False}
    mixed = {
        "allOf": [{"$ref": "#/$defs/n"}, A],
        "$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}}}},
    }
    jsonschema.validate({"a": "x", "n": {"b": 1}}, closed(mixed))
