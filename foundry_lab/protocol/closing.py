"""A JSON schema without its invitations to go on for ever.

A small model that may add properties to an object, or digits to an integer, adds them until max_tokens. So
what is sent allows neither, where that leaves the schema's meaning alone: parts that apply to one value
together (`allOf`, `properties` beside a `$ref`) would exclude each other if each were closed. A decimal
number in a text, whose format no grammar knows, is sent as the pattern of one.
"""

from __future__ import annotations

from typing import Any

_BY_NAME = frozenset(("properties", "patternProperties", "$defs", "definitions"))
_SHARED = frozenset(("$defs", "definitions"))  # used elsewhere, whatever stands around them
_FOR_CHILDREN = frozenset(("items", "prefixItems", "additionalProperties"))
_BRANCHES = frozenset(("allOf", "anyOf", "oneOf"))
_OTHER_PARTS = frozenset(("$ref", "$dynamicRef", "if", "not", "dependentSchemas"))
_NAMES = frozenset(("$schema", "$id", "$anchor", "$comment"))
_ANNOTATIONS = frozenset(
    ("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly")
)
_NO_RULES = _NAMES | _ANNOTATIONS | {"type", "discriminator"}
_BOUNDS = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum", "const"))
_MOST = 2**53
_DECIMAL = r"^-?[0-9]{1,28}(\.[0-9]{1,28})?$"
"""As many digits as Python's decimals have by default."""


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a copy whose objects take no further properties and whose integers and decimals have bounds.

    Literals (`enum`, `const`, `default`) stay as they are, as does what stands in `not` and `if`.
    """
    combined: set[str] = set()
    while True:
        known = len(combined)
        result = _close(schema, "#", True, combined)
        if len(combined) == known:
            return result


def _close(schema: Any, at: str, alone: bool, combined: set[str]) -> Any:
    """Return a closed copy of the part at the pointer `at`.

    Args:
        alone: no other part speaks of the same value.
        combined: pointers of parts that aren't alone, as a reference says; those found here are added.
    """
    if isinstance(schema, list):
        return [_close(each, f"{at}/{number}", alone, combined) for number, each in enumerate(schema)]
    if not isinstance(schema, dict):
        return schema
    alone = alone and at not in combined and f"#{schema.get('$anchor')}" not in combined
    inside_alone = alone and _parts(schema) <= 1
    if not inside_alone and isinstance(schema.get("$ref"), str):
        combined.add(schema["$ref"])
    copy = dict(schema)
    for name, value in schema.items():
        here = f"{at}/{name}"
        if name in _BY_NAME and isinstance(value, dict):
            child_alone = name in _SHARED or inside_alone
            copy[name] = {
                key: _close(each, f"{here}/{key}", child_alone, combined) for key, each in value.items()
            }
        elif name in _FOR_CHILDREN or name in _BRANCHES:
            copy[name] = _close(value, here, inside_alone, combined)
    if alone and not schema.keys() & (_BRANCHES | _OTHER_PARTS):
        _close_itself(copy)
    return copy


def _parts(schema: dict[str, Any]) -> int:
    """Return how many rules speak of the schema's own value: its keywords count as one."""
    together = schema.get("allOf")
    own = bool(schema.keys() - _BRANCHES - _OTHER_PARTS - _NO_RULES - _SHARED)
    branches = len(together) if isinstance(together, list) else 0
    return own + branches + len(schema.keys() & (_OTHER_PARTS | {"anyOf", "oneOf"}))


def _close_itself(schema: dict[str, Any]) -> None:
    said = schema.get("type")
    types = said if isinstance(said, list) else [said]
    properties = schema.get("properties")
    if isinstance(properties, dict) and ("object" in types or said is None):
        missing = set(schema.get("required", ())) - properties.keys()
        if not missing and schema.get("minProperties", 0) <= len(properties):
            schema.setdefault("additionalProperties", False)
    if "integer" in types and not _BOUNDS & schema.keys():
        schema.update(minimum=-_MOST, maximum=_MOST)
    if schema.get("format") == "decimal" and "string" in types:  # so msgspec says Decimal
        del schema["format"]
        schema.setdefault("pattern", _DECIMAL)
