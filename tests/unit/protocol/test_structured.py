"""Structured output: every kind of shape, what is sent, what is read, and how often the model is asked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import jsonschema
import msgspec
import pytest
from clients import Client, both_clients
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from stub_server import CHAT, StubService, chat, chat_body, reply

from foundry_lab import errors, protocol
from foundry_lab.protocol.structured import find_json, shape_of
from foundry_lab.types import Completion


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


def sent(fields: dict[str, Any], **how: Any) -> Any:
    """Return `json_schema` of the request as it is sent."""
    body = protocol.build_chat(protocol.build_fields(fields), **how).body
    assert body is not None
    asked = json.loads(body)["response_format"]
    assert asked["type"] == "json_schema"
    return asked["json_schema"]


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
    wrapper = sent({"response_format": shape_of(shape).response_format()})
    as_openai_wraps_it, as_foundry_local_reads_it = wrapper["schema"], wrapper
    for schema in (as_openai_wraps_it, as_foundry_local_reads_it):
        jsonschema.validate({"name": "Rome", "people": 3}, schema)
        for wrong in ({"name": "Rome"}, {"name": "Rome", "people": 3, "more": 1}, "Rome"):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(wrong, schema)
    assert wrapper["x-guidance"]["whitespace_flexible"] is False


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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
JSON_OBJECTS = st.dictionaries(st.text(), JSON, max_size=3)


class Person(BaseModel):
    name: str
    friends: list[Person] = []


class Defaults(msgspec.Struct):
    size: int = 0
    inner: dict[str, Any] = {}


CUT = [
    pytest.param(Person, '{"name": "A", "friends": [{"name": "B"}, {"name": "C', id="nested"),
    pytest.param(Defaults, '{"size": 5, "inner": {"size": 3}, "more', id="defaults only"),
    pytest.param({"type": "array"}, "[[1, 2], [3, 4], [5", id="list of lists"),
    pytest.param({"type": "object"}, '[{"a": 1}, {"b": 2}', id="objects of a list"),
]


@pytest.mark.parametrize(("shape", "text"), CUT)
@pytest.mark.parametrize("around", ["{}", "Here it is:\n```json\n{}", 'He said "so": {}'])
def test_a_part_of_a_cut_answer_is_no_answer(shape: Any, text: str, around: str) -> None:
    with pytest.raises(ValueError, match="JSON is broken"):
        shape_of(shape).read(around.replace("{}", text))


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "A", "friends": [{"name": "B"}] "x": 1}',
        "{'name': 'A', 'friends': [{\"name\": \"B\"}]}",
        '{name: "A", friends: [{"name": "B"}]}',
        '{"name": 1], "friend": {"name": "B"}}',
        '{"name": "A} , "friend": {"name": "B"}}',
    ],
)
def test_a_part_of_a_broken_answer_is_no_answer(text: str) -> None:
    with pytest.raises(ValueError, match="JSON is broken"):
        shape_of(Person).read(text)


def test_what_stands_behind_a_broken_part_is_read() -> None:
    text = 'As in [1, "see ]"], {like this: [2]}: {"name": "A"}'
    assert shape_of(Person).read(text) == Person(name="A")


@given(JSON_OBJECTS, st.data())
def test_no_beginning_of_an_object_holds_json(value: dict[str, Any], data: Any) -> None:
    text = json.dumps(value)
    start = text[: data.draw(st.integers(1, len(text) - 1))]
    with pytest.raises(ValueError, match="JSON"):
        list(find_json(start))


@both_clients
@pytest.mark.parametrize("shape", [Person, Defaults, {"type": "integer"}, {"type": "object"}], ids=str)
def test_max_tokens_is_looked_at_before_the_text(kind: str, shape: Any) -> None:
    """`12` may be the beginning of 123, and `{"size": 1}` an example before the answer proper."""
    texts = {Person: '{"name": "A"} and', Defaults: '{} or {"size": 1}'}
    said = texts.get(shape, "12") if isinstance(shape, type) else "12"
    with StubService() as stub, Client(kind, stub.url) as client:
        cut = chat_body(said)
        cut["choices"][0]["finish_reason"] = "length"
        stub.on("POST", CHAT, reply(200, cut))
        with pytest.raises(errors.StructuredOutputError, match="cut at max_tokens"):
            client.complete("x", response_model=shape, parse_attempts=1)


def test_a_whole_object_that_ends_at_max_tokens_is_whole() -> None:
    completion = Completion(content='{"name": "A"}\n', model="m", finish_reason="length")
    assert shape_of(Person).parse(completion) == Person(name="A")


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
        {"response_model": {"name": "string", "people": "integer"}},
        {"response_model": {"type": "json_schema"}},
        {"response_model": {"type": "json_schema", "json_schema": {"name": "city"}}},
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
        ({"type": "array", "items": {"$ref": "#"}}, "[" * 400 + "]" * 400, "recursion"),
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
        {"type": "array", "items": {"$dynamicRef": "#no"}},
        {"$dynamicRef": "https://example.com/city.json"},
    ],
    ids=str,
)
def test_a_reference_that_leads_nowhere_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(errors.ConfigurationError, match=r'has a "\$(ref|dynamicRef)" to'):
        shape_of(schema)


def test_references_inside_the_schema_and_fields_called_ref_are_fine() -> None:
    tree = {"$ref": "#/$defs/n", "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}}
    assert shape_of(tree).read("[[], [[]]]") == [[], [[]]]
    field = {"type": "object", "properties": {"$ref": {"type": "string"}}, "required": ["$ref"]}
    assert shape_of(field).read('{"$ref": "x"}') == {"$ref": "x"}


def test_many_open_brackets_take_no_quadratic_time() -> None:
    with pytest.raises(ValueError, match="JSON"):
        list(find_json("[" * 100_000))


WRAPPER = {"name": "city", "strict": True, "schema": SCHEMA}
WRAPPED = {"type": "json_schema", "json_schema": WRAPPER}


@pytest.mark.parametrize("stream", [False, True], ids=["complete", "stream"])
def test_openais_response_format_holds_in_both_readings(stream: bool) -> None:
    asked = sent({"response_format": WRAPPED}, stream=stream)
    assert asked["schema"] == SCHEMA and (asked["name"], asked["strict"]) == ("city", True)
    assert asked | SCHEMA == asked, "the schema's own keys stand beside the wrapper's"
    assert asked["x-guidance"] == {"whitespace_flexible": False}
    again = sent({"response_format": {"type": "json_schema", "json_schema": asked}})
    assert again == asked, "who does so already gets the same"
    assert "type" not in WRAPPER, "the caller's own dict stays as it was"


def test_a_response_format_that_is_the_schema_itself_stays_as_it_is() -> None:
    assert sent({"response_format": {"type": "json_schema", "json_schema": SCHEMA}}) == SCHEMA


@pytest.mark.parametrize("given", [WRAPPED, WRAPPER, {**WRAPPER, **SCHEMA}, {"schema": SCHEMA}], ids=str)
def test_openais_wrapper_as_response_model_is_understood(given: dict[str, Any]) -> None:
    shape = shape_of(given)
    assert shape.schema == SCHEMA and shape.name == "city"
    with pytest.raises(ValueError, match="required"):
        shape.read('{"name": "Rome"}')


def test_the_name_that_is_sent_is_one_that_openais_service_takes() -> None:
    asked = shape_of({**SCHEMA, "title": "A city, or town[1]"}).response_format()
    assert asked is not None and asked["json_schema"]["name"] == "A_city_or_town_1_"


class PydanticBill(BaseModel):
    price: Decimal


class StructBill(msgspec.Struct):
    price: Decimal
    paid: Decimal = Decimal("0.50")


@dataclass
class DataBill:
    price: Decimal


@pytest.mark.parametrize("shape", [PydanticBill, StructBill, DataBill], ids=lambda shape: shape.__name__)
def test_decimals_work_in_every_kind_of_class(shape: Any) -> None:
    """The grammar of the service knows no format "decimal" and would refuse the schema."""
    asked = sent({"response_format": shape_of(shape).response_format()})
    assert '"format"' not in json.dumps(asked)
    jsonschema.validate({"price": "10.10"}, asked)
    for wrong in (None, [10.10], {}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"price": wrong}, asked)
    for text in ('{"price": 10.10}', '{"price": "10.10"}'):
        assert shape_of(shape).read(text).price == Decimal("10.10")
