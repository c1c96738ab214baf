"""The headers that a client sends with every request."""

import re
from collections.abc import Mapping

from multidict import CIMultiDict

from foundry_lab._ground.checks import check_kind
from foundry_lab.errors import ConfigurationError

_OURS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110, section 5.6.2: what a name is made of."""
_FRAMING = frozenset(("content-length", "content-encoding", "transfer-encoding", "expect"))
"""What says how a body is sent: one that is wrong has the service wait for the rest of it."""
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
CREDENTIALS = frozenset(
    ("authorization", "proxy-authorization", "cookie", "api-key", "x-api-key", "ocp-apim-subscription-key")
)


def request_headers(api_key: str | None, headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return the headers of every request. The caller's replace ours, in whatever case they are written.

    Raises:
        ConfigurationError: a name or value that can't stand in a header. Neither is repeated: it may be a
            secret, and those who paste one mix the two up.
    """
    check_kind(headers or {}, "headers", (Mapping,), 'a dict of names and values, such as {"X-Team": "a"}')
    merged = CIMultiDict(_OURS)
    if api_key is not None:
        _check_value(key := f"Bearer {api_key}", "The api_key")
        merged["Authorization"] = key
    for number, (name, value) in enumerate((headers or {}).items(), 1):
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise ConfigurationError(
                f"Number {number} of the headers has a name that can't be sent (it may be a secret, and "
                'isn\'t repeated here). Give a name of letters, digits and hyphens, such as {"X-Team": "a"}.'
            )
        if name.lower() in _FRAMING:
            raise ConfigurationError(f"Leave {name} out of the headers: each request gets its own.")
        _check_value(value, f"Number {number} of the headers")
        merged[name] = value.strip()
    return dict(merged)


def without_credentials(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that may go to a service which nobody named."""
    return {name: value for name, value in headers.items() if name.lower() not in CREDENTIALS}


def _check_value(value: object, what: str) -> None:
    if not (isinstance(value, str) and _VALUE.fullmatch(value)):
        raise ConfigurationError(
            f"{what} can't be sent (it may be a secret, and isn't repeated here). Give text in one line, of "
            "characters that HTTP headers can carry (Latin-1); was a line's end copied along?"
        )
