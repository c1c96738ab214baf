"""A requests adapter whose reads keep a deadline.

`timeout=` in requests limits each single read, so a service that sends a byte now and then is waited for
for ever. Here each read of the socket is given only what is left of the request's time.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.util.ssl_ import create_urllib3_context

from foundry_lab.calls.target import broke_off, not_http, too_large
from foundry_lab.protocol.request import MAX_BODY_BYTES

POOL_CONNECTIONS = 64

_read_until: ContextVar[float | None] = ContextVar("read_until", default=None)


class ReadingUntil:
    """Lets reads in a `with` block wait until this time of `time.monotonic()`, and not longer."""

    __slots__ = ("_at", "_token")

    def __init__(self, monotonic_s: float) -> None:
        self._at = monotonic_s

    def __enter__(self) -> None:
        self._token = _read_until.set(self._at)

    def __exit__(self, *_: object) -> None:
        _read_until.reset(self._token)


class _KeepsDeadline(socket.socket):
    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        until = _read_until.get()
        if until is not None:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError("the deadline has passed")
            self.settimeout(left)
        return super().recv_into(*args, **kwargs)


class _DeadlineTLSSocket(_KeepsDeadline, ssl.SSLSocket):
    """What the adapter's TLS context makes."""


class _DeadlineConnection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        plain = self.sock
        self.sock = _KeepsDeadline(plain.family, plain.type, plain.proto, fileno=plain.detach())
        self.sock.settimeout(self.timeout if isinstance(self.timeout, (int, float)) else None)


class _DeadlinePool(HTTPConnectionPool):
    ConnectionCls = _DeadlineConnection


class DeadlineAdapter(HTTPAdapter):
    """Makes connections whose reads keep a deadline; for `http://` and `https://` alike.

    It closes them on `close`. urllib3 leaves that to the garbage collector, which may be long.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        tls = create_urllib3_context()
        tls.sslsocket_class = _DeadlineTLSSocket
        super().init_poolmanager(*args, ssl_context=tls, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            **self.poolmanager.pool_classes_by_scheme,
            "http": _DeadlinePool,
        }

    def close(self) -> None:
        for key in list(self.poolmanager.pools.keys()):
            if (pool := self.poolmanager.pools.get(key)) is not None:
                pool.close()
        super().close()


def open_session(headers: Mapping[str, str]) -> requests.Session:
    """Return a session that keeps deadlines and asks no proxy, which would come between us and loopback."""
    session = requests.Session()
    session.trust_env = False
    session.headers.update(headers)
    adapter = DeadlineAdapter(pool_maxsize=POOL_CONNECTIONS)
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter)
    return session


class TimedOut(Exception):
    """A read ran into its limit; the caller knows which limit that was."""


def read_some(response: requests.Response, size: int = 64 * 1024) -> bytes:
    """Return what has arrived of a body, waiting for at least one byte; empty at its end.

    Raises:
        TimedOut: nothing came in time.
        StreamInterruptedError: the connection broke.
        ResponseFormatError: the body isn't compressed as its headers say.
    """
    try:
        return response.raw.read1(size, decode_content=True) or b""
    except (TimeoutError, urllib3.exceptions.TimeoutError):
        raise TimedOut from None
    except urllib3.exceptions.DecodeError as error:
        raise not_http(response.url, root_cause(error)) from None
    except (urllib3.exceptions.HTTPError, OSError, http.client.HTTPException) as error:
        raise broke_off(response.url, root_cause(error)) from None


def read_body(response: requests.Response, on_data: Callable[[bytes], None] | None = None) -> bytes:
    """Return the whole body, refusing one that would fill the memory. Raises as `read_some`.

    Args:
        on_data: called with each piece as it arrives.
    """
    parts: list[bytes] = []
    size = 0
    while part := read_some(response):
        if on_data is not None:
            on_data(part)
        parts.append(part)
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise too_large(MAX_BODY_BYTES)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def root_cause(error: BaseException) -> BaseException:
    """Return the innermost exception: requests wraps urllib3 wraps http.client wraps the socket's."""
    seen = {id(error)}
    while True:
        inner = next(
            (
                each
                for each in (*error.args, getattr(error, "reason", None), error.__cause__, error.__context__)
                if isinstance(each, BaseException) and id(each) not in seen
            ),
            None,
        )
        if inner is None:
            return error
        seen.add(id(inner))
        error = inner
