"""Who answers at an address: a Foundry Local service or something else."""

import contextlib
import socket
import ssl
import threading
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import msgspec

from foundry_lab.errors import EngineError, ServiceUnavailableError

PROBE_TIMEOUT_S = 5.0
MAX_BODY = 8192
"""Bytes; a status takes about 100."""
NO_ANSWER = (OSError, HTTPException)
STATUS_ROUTES = ("/status", "/openai/status")
"""Current contract, then the one of the `foundry` command before SDK 2."""


def request(method: str, url: str, **headers: str) -> tuple[HTTPResponse, bytes]:
    """Return who answers and the beginning of what he says; one who sends without end doesn't hold us up.

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
        with contextlib.suppress(RuntimeError):  # when Python ends, 3.12 starts no threads
            timer.start()
        try:
            connection.request(method, parts.path, headers=headers)
            response = connection.getresponse()
            return response, response.read(MAX_BODY)
        finally:
            timer.cancel()


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _status_of(response: HTTPResponse, body: bytes) -> dict[str, Any]:
    """Return what Foundry Local says about itself, an object that names its endpoints; else an empty one."""
    try:
        said = msgspec.json.decode(body, type=dict[str, Any]) if response.status == 200 else {}
    except (ValueError, RecursionError):  # no JSON object, no UTF-8, or too deep
        return {}
    return said if any(key.lower() == "endpoints" for key in said) else {}


def answering_pid(url: str) -> int | None:
    """Return the process id that the Foundry Local service at this base URL reports, or None."""
    try:
        pid = _status_of(*request("GET", url + STATUS_ROUTES[0])).get("pid")
    except NO_ANSWER:
        return None
    return pid if isinstance(pid, int) else None


def check_foundry_local(url: str) -> None:
    """Make sure that a Foundry Local service answers at this base URL.

    Raises:
        ServiceUnavailableError: nobody answers.
        EngineError: something else answers, or over https somebody who isn't trusted; the message says what
            it said. A gateway that wants a key first (401, 403) gets the benefit of the doubt.
    """
    for route in STATUS_ROUTES:
        try:
            response, body = request("GET", url + route)
        except ssl.SSLError as error:
            raise EngineError(
                f"What answers at {url} isn't trusted, or doesn't speak TLS ({error}). Foundry Local itself "
                "speaks plain HTTP: correct FOUNDRY_ENDPOINT. If your organisation signs its own "
                "certificates, name its authority's file in SSL_CERT_FILE."
            ) from error
        except NO_ANSWER as error:
            raise ServiceUnavailableError(
                f"Nobody answers at {url} ({str(error).strip() or type(error).__name__}). Start that "
                "service, correct FOUNDRY_ENDPOINT, or unset it to use the embedded one."
            ) from error
        if response.status in (401, 403) or _status_of(response, body):
            return
    raise EngineError(
        f"What answers at {url} is not Foundry Local: {_description(response, body)}. "
        "Correct FOUNDRY_ENDPOINT, or unset it to use the embedded service."
    )


def _description(response: HTTPResponse, body: bytes) -> str:
    server = response.headers.get("Server", "a server without a name")
    kind = response.headers.get("Content-Type", "no content type")
    start = " ".join(body.decode("utf-8", "replace").split())[:80]
    return f"{server} answered {response.status} ({kind}) to {STATUS_ROUTES[-1]}: {start!r}"
