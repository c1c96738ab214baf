"""Answers in a shape from the real service: held to the schema, never a part, refused once where it can't."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import jsonschema
import msgspec
import pytest
from pydantic import BaseModel, Field

from foundry_lab import CircuitBreaker, SyncFoundryAPIClient, errors
from foundry_lab.metrics import Metrics

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Rome", "Oslo", "Lima"]},
        "rank": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "rank"],
    "additionalProperties": False,
}
OPENAI: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "city", "strict": True, "schema": SCHEMA},
}


@pytest.fixture
def client(endpoint: str) -> Iterator[SyncFoundryAPIClient]:
    with SyncFoundryAPIClient(endpoint, timeout=120, metrics=Metrics(), breaker=CircuitBreaker()) as client:
        yield client


def test_openais_response_format_is_kept_to_in_calls_streams_and_batch_lines(
    client: SyncFoundryAPIClient,
) -> None:
    asked = {"response_format": OPENAI, "max_tokens": 40, "temperature": 1.0}
    texts = [client.complete("Tell me about a city.", seed=seed, **asked).content for seed in range(5)]
    with client.stream_complete("Tell me about a city.", seed=9, **asked) as stream:
        texts.append("".join(chunk.content for chunk in stream))
    body = {"messages": [{"role": "user", "content": "Tell me about a city."}], "seed": 10, **asked}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    texts += [result.completion.content for result in client.complete_batch([line]).results()]
    assert len(texts) == 7
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)


class Person(BaseModel):
    name: str = ""
    friends: list[Person] = Field(default=[], max_length=2)


def test_max_tokens_never_makes_a_part_the_answer(client: SyncFoundryAPIClient) -> None:
    cut = 0
    for max_tokens in range(6, 54, 4):
        try:
            answer = client.complete(
                "Invent a person with two friends.",
                response_model=Person,
                parse_attempts=1,
                max_tokens=max_tokens,
                temperature=0.8,
                seed=max_tokens,
            )
        except errors.StructuredOutputError as error:
            assert "cut at max_tokens" in str(error)
            cut += 1
        else:
            assert Person.model_validate_json(answer.content) == answer.parsed
    assert cut


class Bill(msgspec.Struct):
    price: Decimal


@dataclass
class DataBill:
    price: Decimal


A = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}}, "required": ["a"]}
B = {"type": "object", "properties": {"b": {"type": "integer", "maximum": 9}}, "required": ["b"]}
UNIQUE = {"type": "array", "items": {"enum": [1, 2, 3, 4, 5]}, "maxItems": 2, "uniqueItems": True}
FORMAT = {"type": "string", "format": "no-such-format", "maxLength": 5}


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(Bill, id="Decimal in a Struct"),
        pytest.param(DataBill, id="Decimal in a dataclass"),
        pytest.param({"allOf": [A, B]}, id="allOf"),
        pytest.param({"allOf": [{"$ref": "#/$defs/a"}, B], "$defs": {"a": A}}, id="allOf of a reference"),
        pytest.param({"oneOf": [A, B]}, id="oneOf"),
        pytest.param(UNIQUE, id="a keyword the grammar lacks"),
        pytest.param(FORMAT, id="a format the grammar lacks"),
        pytest.param({"$ref": "#/$defs/a", "$defs": {"a": {**A, "type": ["object", "null"]}}}, id="or null"),
    ],
)
def test_shapes_that_the_service_refused_or_could_not_satisfy(
    client: SyncFoundryAPIClient, shape: Any
) -> None:
    answer = client.complete("Write JSON.", response_model=shape, max_tokens=60, temperature=0.5, seed=3)
    assert answer.cached is False and answer.finish_reason == "stop"


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
UNKNOWN = {"type": "json_schema", "json_schema": {"name": "x", "schema": FORMAT}}


@pytest.mark.parametrize("how", ["complete", "stream"])
@pytest.mark.parametrize(
    ("asked", "advice"),
    [({"tools": [TOOL]}, "has no tools"), ({"response_format": UNKNOWN}, "Simplify the schema")],
    ids=["tools", "grammar"],
)
def test_what_the_service_will_never_do_is_asked_once(
    client: SyncFoundryAPIClient, how: str, asked: dict[str, Any], advice: str
) -> None:
    for _ in range(6):
        with pytest.raises(errors.ServerError, match=advice) as caught:
            if how == "stream":
                list(client.stream_complete("hi", max_tokens=4, **asked))
            else:
                client.complete("hi", max_tokens=4, **asked)
        assert caught.value.lasting
    assert client.metrics is not None and client.metrics.snapshot().retries == 0
    assert client.complete("hi", max_tokens=2).content is not None, "nobody else is shut out"
