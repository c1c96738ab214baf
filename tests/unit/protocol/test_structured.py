"""Structured output: every kind of shape, what is sent, what is read, and how often the model is asked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import jsonschema
import msgspec
import pytest
from clients import Client, both_clients
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from stub_server import CHAT, StubService, chat, chat_body, reply

from foundry_lab import errors
from foundry_lab.protocol.structured import find_json, shape_of


class PydanticCity(BaseModel):
    name: str
    people: int


class StructCity(msgspec.Struct):
    name: str
    people: int


@dataclass
class DataCity:
    name: str
    people: int


SCHEMA: dict[str, Any] = {
    "title": "city",
    "type": "object",
    "properties": {"name": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["name", "people"],
}
GOOD = '{"name": "Rome", "people": 3}'
every_shape = pytest.mark.parametrize(
    "shape", [PydanticCity, StructCity, DataCity, SCHEMA], ids=["pydantic", "msgspec", "dataclass", "schema"]
)


@both_clients
@every_shape
def test_the_answer_is_validated_and_typed(kind: str, shape: Any) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("POST", CHAT, chat(f"Of course:\n```json\n{GOOD}\n```"))
        parsed = client.complete("a city", response_model=shape).parsed
        if shape is SCHEMA:
            assert parsed == {"name": "Rome", "people": 3}
        else:
            assert type(parsed) is shape and (parsed.name, parsed.people) == ("Rome", 3)


@every_shape
def test_what_is_sent_asks_for_the_shape_in_both_dialects_of_json_schema(shape: Any) -> None:
    asked = shape_of(shape).response_format()
    assert asked is not None and asked["type"] == "json_schema"
    wrapper = asked["json_schema"]
    as_openai_wraps_it, as_foundry_local_reads_it = wrapper["schema"], wrapper
    for schema in (as_openai_wraps_it, as_foundry_local_reads_it):
        jsonschema.validate({"name": "Rome", "people": 3}, schema)
        for wrong in ({"name": "Rome"}, {"name": "Rome", "people": 3, "more": 1}, "Rome"):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(wrong, schema)
    assert wrapper["x-guidance"] == {"whitespace_flexible": False}


@every_shape
@pytest.mark.parametrize(
    "text",
    [
        "There is no JSON here.",
        '{"name": "Rome"}',
        '{"name": "Rome", "people": "many"}',
        '{"name": "Rome", "people": 3',
        "[1, 2]",
        "",
    ],
)
def test_what_does_not_fit_is_told_to_the_model_and_asked_again(shape: Any, text: str) -> None:
    with StubService() as stub, Client("sync", stub.url) as client:
        stub.on("POST", CHAT, chat(text), chat(GOOD))
        completion = client.complete("a city", response_model=shape)
        assert completion.parsed is not None and completion.attempts == 2
        second = [seen.json["messages"] for seen in stub.seen if seen.path == CHAT][1]
        assert [message["role"] for message in second] == ["user", "assistant", "user"]
        assert second[1]["content"] == text and "not usable" in second[2]["content"]


@both_clients
def test_the_attempts_are_bounded(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        cut = chat_body("never a city")
        cut["choices"][0]["finish_reason"] = "length"
        stub.on("POST", CHAT, reply(200, cut))
        with pytest.raises(errors.StructuredOutputError, match="cut at max_tokens") as caught:
            client.complete("a city", response_model=StructCity, parse_attempts=2)
        assert (caught.value.text, caught.value.attempts) == ("never a city", 2)
        assert stub.count("POST", CHAT) == 2


@both_clients
def test_the_callers_own_parser(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("POST", CHAT, chat("seven"), chat("7"))
        completion = client.complete("a number", parser=int)
        assert completion.parsed == 7
        assert "response_format" not in stub.seen[-1].json


@both_clients
def test_a_mistake_in_the_parser_is_the_callers(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client, pytest.raises(ZeroDivisionError):
        client.complete("a number", parser=lambda text: 1 / 0)


@pytest.mark.parametrize(
    "options",
    [
        {"response_model": int},
        {"response_model": "schema"},
        {"response_model": StructCity("a", 1)},
        {"response_model": {"type": "no such type"}},
        {"response_model": {"type": "object", "$schema": 5}},
        {"parser": "int"},
        {"parser": int, "response_model": StructCity},
        {"parse_attempts": 0, "parser": int},
        {"parse_attempts": 1.5, "parser": int},
    ],
    ids=str,
)
def test_shapes_that_are_none_are_refused_before_anything_is_sent(options: dict[str, Any]) -> None:
    with StubService() as stub, Client("sync", stub.url) as client:
        with pytest.raises(errors.ConfigurationError):
            client.complete("hi", **options)
        assert not stub.seen


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.one_of(st.lists(JSON, max_size=3), st.dictionaries(st.text(), JSON, max_size=3)))
def test_json_is_found_in_prose(value: Any) -> None:
    prose = f"Sure. Here it is: {json.dumps(value)} I hope {{this}} helps."
    assert json.loads(next(find_json(prose))) == value


@given(st.text())
def test_any_text_gives_json_or_a_value_error(text: str) -> None:
    try:
        for found in find_json(text):
            json.loads(found)
    except ValueError as error:
        assert "JSON" in str(error)


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "integer"}, " 4\n", 4),
        ({"type": "string"}, '"a [1] b"', "a [1] b"),
        ({}, "null", None),
        (SCHEMA, f"As in [1], the answer is {GOOD}.", {"name": "Rome", "people": 3}),
        (SCHEMA, f"Fill {{}} like this: {GOOD}", {"name": "Rome", "people": 3}),
        ({"type": "array"}, f"{GOOD} as in [1]", [1]),
    ],
)
def test_the_first_json_that_fits_is_the_answer(schema: dict[str, Any], text: str, value: Any) -> None:
    assert shape_of(schema).read(text) == value


@pytest.mark.parametrize(
    ("schema", "text", "words"),
    [
        (SCHEMA, 'As in [1], {"name": "Rome", "people": "many"}', "'many' is not of type"),
        (SCHEMA, f'{{"city": {GOOD}}}', "required"),  # a part of a wrong answer is no answer
        ({"type": "number"}, "NaN", "no JSON"),
        ({"type": "array", "items": {"$ref": "#"}}, "[" * 400 + "]" * 400, "nested too deeply"),
    ],
)
def test_when_none_fits_the_complaint_is_about_the_longest(
    schema: dict[str, Any], text: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        shape_of(schema).read(text)


class Own: ...


class WithComplex(msgspec.Struct):
    z: complex


class WithTwoStructs(msgspec.Struct):
    either: StructCity | WithComplex


@dataclass
class WithOwnClass:
    own: Own


@dataclass
class WithUnknownName:
    x: Nowhere  # type: ignore[name-defined]  # noqa: F821


class PydanticWithOwnClass(BaseModel):
    model_config = {"arbitrary_types_allowed": True}
    own: Own


@pytest.mark.parametrize(
    "shape",
    [WithComplex, WithTwoStructs, WithOwnClass, WithUnknownName, PydanticWithOwnClass, BaseModel],
    ids=lambda shape: shape.__name__,
)
def test_a_class_without_a_json_schema_is_named(shape: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match=f"can be made of {shape.__name__}: .*parser="):
        shape_of(shape)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/no"},
        {"$ref": "#anchor"},
        {"$ref": "#/title/x", "title": "answer"},
        {"$ref": "https://example.com/city.json"},
        {"properties": {"a": {"items": {"$ref": "#/$defs/no"}}}, "$defs": {"yes": {}}},
    ],
    ids=str,
)
def test_a_reference_that_leads_nowhere_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(errors.ConfigurationError, match=r'"\$ref"'):
        shape_of(schema)


def test_references_inside_the_schema_and_fields_called_ref_are_fine() -> None:
    tree = {"$ref": "#/$defs/n", "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}}
    assert shape_of(tree).read("[[], [[]]]") == [[], [[]]]
    field = {"type": "object", "properties": {"$ref": {"type": "string"}}, "required": ["$ref"]}
    assert shape_of(field).read('{"$ref": "x"}') == {"$ref": "x"}


def test_many_open_brackets_take_no_quadratic_time() -> None:
    with pytest.raises(ValueError, match="JSON"):
        list(find_json("[" * 100_000))


def test_every_object_is_closed_to_further_keys() -> None:
    nested = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"type": "object", "properties": {}}}},
    }
    asked = shape_of(nested).response_format()
    assert asked is not None
    schema = asked["json_schema"]["schema"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["a"]["items"]["additionalProperties"] is False
    assert "additionalProperties" not in nested, "the caller's own schema stays as it was"
