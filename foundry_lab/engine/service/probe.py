"""Who answers at an address: a Foundry Local service or something else."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from foundry_lab.errors import EngineError, ServiceUnavailableError

PROBE_TIMEOUT_S = 5.0
MAX_BODY = 8192
"""Bytes; a status takes about 100."""
NO_ANSWER = (OSError, HTTPException)
STATUS_ROUTES = ("/status", "/openai/status")
"""Current contract, then the one of the `foundry` command before SDK 2."""


class _Answer(NamedTuple):
    status: int
    headers: HTTPMessage
    body: bytes


def _get(url: str) -> _Answer:
    """Fetch the beginning of what is there; whoever sends endlessly, or byte by byte, doesn't hold us up.

    No proxy is asked, as the way to a local service leads through none; nor is a redirect followed.

    Raises:
        OSError, HTTPException: no answer.
    """
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    with contextlib.closing(kind(parts.hostname or "", parts.port, timeout=PROBE_TIMEOUT_S)) as connection:
        connection.connect()
        # A limit on each read isn't enough: http.client reads on and on where "100 Continue" never ends.
        timer = threading.Timer(PROBE_TIMEOUT_S, _hang_up, [connection.sock])
        timer.daemon = True
        timer.start()
        try:
            connection.request("GET", parts.path)
            response = connection.getresponse()
            return _Answer(response.status, response.headers, response.read(MAX_BODY))
        finally:
            timer.cancel()


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _status_of(answer: _Answer) -> Mapping[str, Any] | None:
    """Return the body if it is what Foundry Local says about itself: an object that names its endpoints."""
    try:
        body = msgspec.json.decode(answer.body) if answer.status == 200 else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if isinstance(body, dict) and any(key.lower() == "endpoints" for key in body):
        return body
    return None


def answering_pid(url: str) -> int | None:
    """Return the process id that the Foundry Local service at this base URL reports, or None."""
    try:
        status = _status_of(_get(url + STATUS_ROUTES[0]))
    except NO_ANSWER:
        return None
    pid = status.get("pid") if status else None
    return pid if isinstance(pid, int) else None


def is_foundry_local(url: str) -> bool:
    """Whether a Foundry Local service of either contract answers at this base URL."""
    try:
        check_foundry_local(url)
    except (EngineError, ServiceUnavailableError):
        return False
    return True


def check_foundry_local(url: str) -> None:
    """Make sure that a Foundry Local service answers at this base URL.

    Raises:
        ServiceUnavailableError: nobody answers.
        EngineError: something else answers; the message says what it said. A gateway that wants a key first
            (401, 403) gets the benefit of the doubt.
    """
    for route in STATUS_ROUTES:
        try:
            answer = _get(url + route)
        except NO_ANSWER as error:
            raise ServiceUnavailableError(
                f"Nobody answers at {url} ({_reason(error)}). Start that service, or unset FOUNDRY_ENDPOINT "
                "to use the embedded one."
            ) from error
        if answer.status in (401, 403) or _status_of(answer) is not None:
            return
    raise EngineError(
        f"What answers at {url} is not Foundry Local: {_description(answer)}. "
        "Correct FOUNDRY_ENDPOINT, or unset it to use the embedded service."
    )


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {PROBE_TIMEOUT_S:g} s"
    return "connection refused" if isinstance(error, ConnectionRefusedError) else type(error).__name__


def _description(answer: _Answer) -> str:
    server = answer.headers.get("Server", "a server without a name")
    kind = answer.headers.get("Content-Type", "no content type")
    start = " ".join(answer.body.decode("utf-8", "replace").split())[:80]
    return f"{server} answered {answer.status} ({kind}) to {STATUS_ROUTES[-1]}: {start!r}"
