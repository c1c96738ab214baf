"""A JSON schema without its invitations to go on for ever.

A small model that may add properties to an object, or digits to an integer, adds them until max_tokens. So
what is sent allows neither. Parts that apply to one value together (`allOf`, `properties` beside a `$ref`)
would exclude each other if each were closed: a schema that has such parts is sent as it is. A decimal
number in a text, whose format no grammar knows, is sent as the pattern of one.
"""

import copy
from collections.abc import Iterator
from typing import Any

_BY_NAME = frozenset(("properties", "patternProperties", "$defs", "definitions"))
_BRANCHES = frozenset(("allOf", "anyOf", "oneOf"))
_CHILDREN = _BRANCHES | {"items", "prefixItems", "additionalProperties"}
_OTHER_PARTS = frozenset(("$ref", "$dynamicRef", "if", "not", "dependentSchemas"))
_NAMES = frozenset(("$schema", "$id", "$anchor", "$comment", "$defs", "definitions"))
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
    result = copy.deepcopy(schema)
    parts = list(_parts(result))
    if all(_rules(part) <= 1 for part in parts):
        for part in parts:
            if not part.keys() & (_BRANCHES | _OTHER_PARTS):
                _close(part)
    return result


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and those in it, but for what stands in `not` and `if`."""
    if isinstance(schema, list):
        for each in schema:
            yield from _parts(each)
    elif isinstance(schema, dict):
        yield schema
        for name, value in schema.items():
            if name in _BY_NAME and isinstance(value, dict):
                yield from _parts(list(value.values()))
            elif name in _CHILDREN:
                yield from _parts(value)


def _rules(schema: dict[str, Any]) -> int:
    """Return how many rules speak of the schema's own value: its keywords count as one."""
    together = schema.get("allOf")
    own = bool(schema.keys() - _BRANCHES - _OTHER_PARTS - _NO_RULES)
    branches = len(together) if isinstance(together, list) else 0
    return own + branches + len(schema.keys() & (_OTHER_PARTS | {"anyOf", "oneOf"}))


def _close(schema: dict[str, Any]) -> None:
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
