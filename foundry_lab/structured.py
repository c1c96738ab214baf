"""Structured output: ask for a shape, read the model's text as that shape, say precisely what is wrong.

A service may ignore the schema, and max_tokens may cut the answer, so what the model writes is validated
here, and a text that doesn't fit is an error and never a guess.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from .errors import ConfigurationError

DEFAULT_PARSE_ATTEMPTS = 3

_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum", "const"}

# Measured on foundry-local-sdk 2.2.1: it gives the whole of `json_schema` to llguidance as the schema, so
# OpenAI's wrapper alone ({"name": …, "schema": …}) permits any JSON. With the schema's own keys beside the
# wrapper's the answer is held to the schema. Free white space lets a small model babble blanks until
# max_tokens.
_COMPACT = {"x-guidance": {"whitespace_flexible": False}}


class Shape(msgspec.Struct, frozen=True):
    """What an answer must look like.

    Attributes:
        read: turns the answer's text into the object; raises ValueError saying what is wrong.
        schema: the JSON schema to send as `response_format`, or None for a free parser.
        name: for messages and for the schema.
    """

    read: Callable[[str], Any]
    name: str
    schema: dict[str, Any] | None = None

    def response_format(self) -> dict[str, Any] | None:
        """Return the field of the request that asks for this shape."""
        if self.schema is None:
            return None
        strict = _closed(self.schema)
        return {
            "type": "json_schema",
            "json_schema": {"name": self.name, "strict": True, "schema": strict, **strict, **_COMPACT},
        }


def shape_of(response_model: Any) -> Shape:
    """Return the shape for a pydantic model, a msgspec Struct, a dataclass or a JSON schema.

    Raises:
        ConfigurationError: it is none of these.
    """
    if isinstance(response_model, Mapping):
        return _json_schema_shape(dict(response_model))
    if isinstance(response_model, type):
        if hasattr(response_model, "model_json_schema"):  # pydantic, without importing it
            return Shape(
                lambda text: response_model.model_validate_json(find_json(text)),  # type: ignore[attr-defined]
                response_model.__name__,
                response_model.model_json_schema(),
            )
        if issubclass(response_model, msgspec.Struct) or dataclasses.is_dataclass(response_model):
            return Shape(
                lambda text: msgspec.json.decode(find_json(text), type=response_model),
                response_model.__name__,
                msgspec.json.schema(response_model),
            )
    raise ConfigurationError(
        f"response_model={response_model!r} is no shape. Give a pydantic model class, a msgspec Struct "
        "class, a dataclass or a JSON schema as a dict; for anything else use parser=your_function."
    )


def parser_shape(parser: Callable[[str], Any]) -> Shape:
    """Return the shape for the caller's own function of the text."""
    if not callable(parser):
        raise ConfigurationError(f"parser={parser!r} can't be called; give a function that takes the text.")
    return Shape(parser, getattr(parser, "__name__", "parser"))


def find_json(text: str) -> str:
    """Return the first JSON object or array in a text, as models like to wrap it in prose or a code fence.

    Raises:
        ValueError: there is none, or it is broken.
    """
    decoder = json.JSONDecoder()
    problem = "there is no JSON object in the answer"
    for start, char in enumerate(text):
        if char in "{[":
            try:
                _, end = decoder.raw_decode(text, start)
                return text[start:end]
            except RecursionError:
                raise ValueError("the JSON is nested too deeply") from None
            except ValueError as error:
                if problem.startswith("there"):
                    problem = f"the JSON is broken: {error}"
    raise ValueError(problem)


def _closed(schema: Any) -> Any:
    """Return the schema without its invitations to go on for ever.

    A small model that may add properties to an object, or digits to an integer, adds them until max_tokens.
    """
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(value) for name, value in schema.items()}
    if isinstance(closed.get("properties"), dict) and closed.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    if closed.get("type") == "integer" and not _BOUNDS & closed.keys():
        closed.update(minimum=-(2**53), maximum=2**53)
    return closed


def _json_schema_shape(schema: dict[str, Any]) -> Shape:
    import jsonschema  # here, as it is slow to import and seldom used

    validator_class = jsonschema.validators.validator_for(schema)
    try:
        validator_class.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ConfigurationError(f"response_model is no valid JSON schema: {error.message}.") from None
    validator = validator_class(schema)

    def read(text: str) -> Any:
        value = json.loads(find_json(text))
        problem = jsonschema.exceptions.best_match(validator.iter_errors(value))
        if problem is not None:
            raise ValueError(f"{problem.json_path}: {problem.message}")
        return value

    return Shape(read, str(schema.get("title", "answer")), schema)
