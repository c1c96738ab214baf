"""aiohttp as the async client uses it: sessions that nobody has to close, bodies that end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import aiohttp

from .core import CONNECT_TIMEOUT_S, broke_off, not_http, too_large
from .errors import FoundryError
from .protocol import MAX_BODY_BYTES


def open_session(headers: Mapping[str, str]) -> aiohttp.ClientSession:
    """Return a session of the running loop. It sets no total limit: requests bring their own deadline."""
    return aiohttp.ClientSession(
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def abandon(session: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop) -> None:
    """Close the session of a client that nobody closed, without aiohttp's warnings in a notebook."""
    if loop.is_running() and asyncio._get_running_loop() is not loop:
        loop.call_soon_threadsafe(_close_now, session)
    else:
        _close_now(session)


def _close_now(session: aiohttp.ClientSession) -> None:
    """Close a session without awaiting it, as its loop may be about to end or have ended.

    Closing does its work before it first waits; what is left then is to wait for the sockets' last words.
    """
    closing = session.close()
    with contextlib.suppress(StopIteration, RuntimeError):
        closing.send(None)
    closing.close()


async def read_body(
    response: aiohttp.ClientResponse, on_data: Callable[[bytes], None] | None = None
) -> bytes:
    """Return the whole body, refusing one that would fill the memory.

    Args:
        on_data: called with each piece as it arrives.
    """
    content = response.content
    parts: list[bytes] = []
    size = 0
    try:
        while part := await content.readany():
            if on_data is not None:
                on_data(part)
            if not parts and content.at_eof():
                return part
            parts.append(part)
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise too_large(MAX_BODY_BYTES)
        return b"".join(parts)
    except (aiohttp.ClientError, ConnectionError) as error:
        raise broken_body(response, error) from None
    finally:
        response.close()  # closes no connection whose answer was read to its end


def broken_body(response: aiohttp.ClientResponse, error: Exception) -> FoundryError:
    """Return the error for a body that can't be read to its end."""
    endpoint = str(response.url.origin())
    if isinstance(error.__cause__, aiohttp.http_exceptions.ContentEncodingError):
        return not_http(endpoint, error)
    return broke_off(endpoint, error)
