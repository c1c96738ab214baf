"""Structured output: ask for a shape, read the model's text as that shape, say precisely what is wrong.

A service may ignore the schema, and max_tokens may cut the answer, so what the model writes is validated
here, and a text that doesn't fit is an error and never a guess.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_lab.errors import ConfigurationError
from foundry_lab.protocol.closing import closed
from foundry_lab.types import Completion

if TYPE_CHECKING:
    from referencing.jsonschema import SchemaResource

DEFAULT_PARSE_ATTEMPTS = 3

_OPENING = re.compile(r"[{\[]")
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*+"|["{}\[\]]', re.DOTALL)
_CLOSING = {"{": "}", "[": "]"}
# What a grammar can't hold an answer to, such as uniqueItems, is left to the check here (measured on
# foundry-local-sdk 2.2.1: without these it refuses the whole schema).
_LENIENT = {"whitespace_flexible": False, "coerce_one_of": True, "lenient": True}


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

    def parse(self, answer: Completion) -> Any:
        """Return the object that an answer holds. One that was cut isn't looked into: a part may fit as well.

        Raises:
            ValueError: what is wrong with the text.
        """
        text = answer.content.strip()
        is_cut = self.schema is not None and answer.finish_reason == "length"
        if is_cut and (not text.startswith(("{", "[")) or _problem(text)):  # a number could go on
            raise ValueError("the answer was cut at max_tokens")
        return self.read(answer.content)

    def response_format(self) -> dict[str, Any]:
        """Return the field of the request that asks for this shape, which has a schema."""
        assert self.schema is not None, "a parser's text has no format"
        name = re.sub(r"[^\w-]+", "_", self.name, flags=re.ASCII)[:64]  # what OpenAI's service takes
        wrapper = {"name": name, "strict": True, "schema": closed(self.schema), "x-guidance": _LENIENT}
        return {"type": "json_schema", "json_schema": wrapper}


def shape_of(response_model: Any) -> Shape:
    """Return the shape for a pydantic model, a msgspec Struct, a dataclass or a JSON schema.

    Raises:
        ConfigurationError: it is none of these, or no JSON schema can be made of it.
    """
    if isinstance(response_model, Mapping):
        return _json_schema_shape(*_unwrapped(response_model))
    is_class = isinstance(response_model, type)
    try:
        if is_class and hasattr(response_model, "model_json_schema"):  # pydantic, without importing it
            schema, fit = response_model.model_json_schema(), response_model.model_validate_json
            return Shape(_reader(fit), response_model.__name__, schema)
        if is_class and (
            issubclass(response_model, msgspec.Struct) or dataclasses.is_dataclass(response_model)
        ):
            schema, fit = msgspec.json.schema(response_model), msgspec.json.Decoder(response_model).decode
            return Shape(_reader(fit), response_model.__name__, schema)
    except Exception as error:  # each library has its own complaints about a class
        lines = [line for line in str(error).splitlines() if line and "https://" not in line]
        raise ConfigurationError(
            f"response_model: no JSON schema can be made of {response_model.__name__}: "
            f"{(lines or [repr(error)])[-1].rstrip('.')}. Use types that JSON has, or parser=your_function."
        ) from error
    raise ConfigurationError(
        f"response_model={response_model!r} is no shape. Give a pydantic model class, a msgspec Struct "
        "class, a dataclass or a JSON schema as a dict; for anything else use parser=your_function."
    )


def parser_shape(parser: Callable[[str], Any]) -> Shape:
    """Return the shape for the caller's own function of the text."""
    if not callable(parser):
        raise ConfigurationError(f"parser={parser!r} can't be called; give a function that takes the text.")
    return Shape(parser, getattr(parser, "__name__", "parser"))


def _reader(fit: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return the function that reads an answer: the first JSON in it that fits."""

    def read(text: str) -> Any:
        problems: list[tuple[int, str]] = []
        for candidate in find_json(text):
            try:
                return fit(candidate)
            except (ValueError, RecursionError) as error:  # msgspec's errors are some
                problems.append((len(candidate), str(error)))
        raise ValueError(max(problems)[1])  # the longest one is most likely what was meant

    return read


def _no_number(name: str) -> Any:
    raise ValueError(f"JSON has no {name}")


_JSON = json.JSONDecoder(parse_constant=_no_number)


def _problem(text: str) -> str:
    """Return why a text isn't JSON from its beginning to its end, or nothing."""
    try:
        _JSON.decode(text)
    except (ValueError, RecursionError) as error:
        return f"the JSON is broken: {error}"
    return ""


def find_json(text: str) -> Iterator[str]:
    """Yield the JSON in a text: all of it, else the objects and arrays in it, as models like to wrap them in
    prose or a code fence. What stands inside of one that is cut or broken is a part of it, and no answer.

    Raises:
        ValueError: there is none, or it is broken.
    """
    text = text.strip()
    if not _problem(text):
        yield text
        return
    problem, found, end = "there is no JSON in the answer", False, 0
    while opening := _OPENING.search(text, end):
        start, end = opening.start(), _end_of(text, opening.start())
        if why := _problem(text[start:end]):
            problem = why
        else:
            found = True
            yield text[start:end]
    if not found:
        raise ValueError(problem)


def _end_of(text: str, start: int) -> int:
    """Return where what opens here is closed; the text's end where it never is."""
    awaited: list[str] = []
    for mark in _MARKS.finditer(text, start):
        kind = mark[0]
        if kind in _CLOSING:
            awaited.append(_CLOSING[kind])
        elif len(kind) == 1:
            if kind != awaited.pop():
                break  # an unclosed text, or the wrong bracket
            if not awaited:
                return mark.end()
    return len(text)


def _unwrapped(given: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Return the name and the schema in OpenAI's wrapper, whole or its inner part, or the bare schema."""
    if given.get("type") == "json_schema" and isinstance(given.get("json_schema"), Mapping):
        given = given["json_schema"]
    if isinstance(given.get("schema"), Mapping):
        return given.get("name"), dict(given["schema"])
    return None, dict(given)


def _json_schema_shape(name: str | None, schema: dict[str, Any]) -> Shape:
    import jsonschema  # here, as it is slow to import and seldom used
    from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

    if not isinstance(schema.get("$schema", ""), str):
        raise ConfigurationError(f'response_model is no JSON schema: its "$schema" is {schema["$schema"]!r}.')
    validator_class = jsonschema.validators.validator_for(schema)
    try:
        validator_class.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ConfigurationError(f"response_model is no valid JSON schema: {error.message}.") from None
    if schema and not schema.keys() & validator_class.VALIDATORS.keys():
        raise ConfigurationError(
            f"response_model allows any answer: {list(schema)} are no rules of JSON schema. Write it as "
            '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}.'
        )
    root = DRAFT202012.detect(schema).create_resource(schema)
    _check_references(root, EMPTY_REGISTRY.resolver_with_root(root))
    validator = validator_class(schema, registry=EMPTY_REGISTRY)  # the default one looks in the network

    def fit(text: str) -> Any:
        value = json.loads(text)
        problem = jsonschema.exceptions.best_match(validator.iter_errors(value))
        if problem is not None:
            raise ValueError(f"{problem.json_path}: {problem.message}")
        return value

    return Shape(_reader(fit), str(name or schema.get("title", "answer")), schema)


def _check_references(schema: SchemaResource, resolver: Any) -> None:
    """Look up every reference of a schema: the validator would do it only when an answer has come.

    Raises:
        ConfigurationError: one of them leads nowhere, or out of the schema.
    """
    named = schema.contents if isinstance(schema.contents, Mapping) else {}
    for keyword in named.keys() & {"$ref", "$dynamicRef"}:
        target = named[keyword]
        try:
            resolver.lookup(target)
        except Exception:  # a pointer can go astray in many ways
            raise ConfigurationError(
                f'The JSON schema has a "{keyword}" to {target!r}, which isn\'t in it. Put that into its '
                '"$defs".'
            ) from None
    for part in schema.subresources():
        _check_references(part, resolver.in_subresource(part))
