"""The headers that a client sends with every request."""

from __future__ import annotations

import re
from collections.abc import Mapping

from foundry_lab.errors import ConfigurationError

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110, section 5.6.2: what a name is made of."""
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def request_headers(api_key: str | None, headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return the headers of every request. The caller's replace ours, in whatever case they are written.

    Raises:
        ConfigurationError: a name or value that can't stand in a header. The value isn't repeated: it may be
            a secret.
    """
    if not isinstance(headers or {}, Mapping):
        raise ConfigurationError(
            f"headers is a {type(headers).__name__}; give a dict of names and values, such as "
            '{"X-Team": "a"}.'
        )
    ours = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    if api_key is not None:
        ours["Authorization"] = f"Bearer {api_key}"
    merged: dict[str, tuple[str, str]] = {}
    for name, value in [*ours.items(), *(headers or {}).items()]:
        _check(name, value)
        merged[name.lower()] = name, value.strip()
    return dict(merged.values())


def _check(name: object, value: object) -> None:
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ConfigurationError(
            f"A header can't be named {name!r}. Give a name of letters, digits and hyphens, such as X-Team."
        )
    if not (isinstance(value, str) and _VALUE.fullmatch(value)):
        raise ConfigurationError(
            f"The header {name!r} can't be sent: its value must be text in one line, of characters that HTTP "
            "headers can carry (Latin-1). Check api_key and headers."
        )
