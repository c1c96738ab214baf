"""One request through the fault proxy: passed on to the service, with or without something going wrong."""

import asyncio
import contextlib
import http.client
import random
import re
import socket
import struct
import sys
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from foundry_lab._ground.loopback import foreign
from foundry_lab.calls.target import Target, relocate
from foundry_lab.faults.kinds import STREAM_ONLY, Fault
from foundry_lab.protocol.headers import CREDENTIALS

HOP_BY_HOP = frozenset(
    b"connection host keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade".split()
)
"""Headers between two neighbours, not passed on (RFC 9110, section 7.6.1); Host names the next one."""

FLUSH_S = 0.05
"""Pause before a reset, so that what was sent is read first: a reset may overtake it."""
DRIP_BYTES = 16
EVENT_END = re.compile(rb"\r?\n\r?\n")
CONNECT_S = 10.0
UNREACHED = (aiohttp.ClientConnectorError, ConnectionRefusedError, TimeoutError)
STATUS_SENT = web.RequestKey("status of an answer that has begun", int)
_AS_SENT = web.RequestKey("headers as the service sent them", CIMultiDict)


class Relay:
    """Passes requests on to a service and spoils some of the answers.

    Attributes:
        target: the service; may be another at any time. None before it was found.
        stopping: set when the proxy ends; what waits for ever waits for this.
    """

    def __init__(self, target: Target | None, rng: random.Random) -> None:
        self.target = target
        self._rng = rng

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Have connections to the service from the beginning of the server to its end."""
        self.stopping = asyncio.Event()
        async with aiohttp.ClientSession(
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0),
            connector=aiohttp.TCPConnector(limit=0, force_close=True),  # never a connection gone stale
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ) as self._session:
            yield

    async def stop(self, _: web.Application) -> None:
        """End what waits for ever."""
        self.stopping.set()

    async def answer(self, request: web.Request, fault: Fault | None) -> web.StreamResponse | None:
        """Answer one request, meeting `fault`; None where nothing is answered."""
        kind = fault.kind if fault else ""
        if fault and kind == "latency":
            spread = self._rng.lognormvariate(0, fault.sigma) if fault.sigma else 1.0
            await self._pause(fault.delay_s * spread)
        elif fault and kind == "status":
            headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
            return _error(fault.status, "The fault proxy answered instead of the service.", headers)
        elif kind in ("reset", "refused"):
            _reset(request)
            return None
        elif kind == "black_hole":
            await self.stopping.wait()
            return None
        target = self.target
        assert target is not None, "it was found before the proxy began to listen"
        try:
            try:
                return await self._ask(request, target, fault)
            except UNREACHED:
                moved = await asyncio.to_thread(relocate, target)
                if moved is None:
                    raise
            self.target = target = moved
            return await self._ask(request, target, fault)
        except UNREACHED as error:
            return _error(502, f"The fault proxy can't reach the service at {target.endpoint}: {error}")
        except (aiohttp.ClientConnectionError, ConnectionError):
            _reset(request)  # as the service did
            return None
        except (aiohttp.ClientError, http.client.HTTPException, OSError) as error:
            return _error(502, f"The fault proxy had no HTTP answer from {target.endpoint}: {error!r:.300}")

    async def _ask(self, request: web.Request, target: Target, fault: Fault | None) -> web.StreamResponse:
        url = URL(f"{target.endpoint}{request.rel_url.raw_path_qs}", encoded=True)
        headers = _passed_on(request.raw_headers)
        if target.found:  # as for a client: its key is for who was named, not for who has the port now
            for name in CREDENTIALS:
                headers.popall(name, None)
        if fault:
            headers.popall("Accept-Encoding", None)  # a compressed answer has no events to be cut between
        if request.method == "HEAD":
            return await asyncio.to_thread(_head, request, url, headers)
        async with self._session.request(
            request.method, url, headers=headers, data=await request.read() or None, allow_redirects=False
        ) as answer:
            return await self._relay(request, answer, fault)

    async def _relay(
        self, request: web.Request, upstream: aiohttp.ClientResponse, fault: Fault | None
    ) -> web.StreamResponse:
        """Send the service's answer on; the connection is dropped where the service drops its own."""
        headers = _passed_on(upstream.raw_headers)
        is_stream = "text/event-stream" in upstream.headers.get("Content-Type", "").lower()
        if fault and fault.kind == "wrong_content_type":
            headers["Content-Type"] = "text/html"
        if fault and fault.kind == "malformed_json":
            headers.popall("Content-Length", None)
        body: AsyncIterator[bytes] = upstream.content.iter_any()
        if fault and fault.kind != "latency" and (is_stream or fault.kind not in STREAM_ONLY):
            body = self._spoiled(request, upstream, fault, is_stream)
        request[_AS_SENT] = headers
        response = web.StreamResponse(status=upstream.status, reason=upstream.reason, headers=headers)
        if request.version < aiohttp.HttpVersion11:
            response.force_close()  # the connection's end tells an old client where the answer ends
        await response.prepare(request)
        request[STATUS_SENT] = response.status
        try:
            async for data in body:
                await response.write(data)
        except aiohttp.ClientError:
            _reset(request)
        return response

    async def _spoiled(
        self, request: web.Request, upstream: aiohttp.ClientResponse, fault: Fault, is_stream: bool
    ) -> AsyncIterator[bytes]:
        """Yield the body with the fault in it."""
        kind = fault.kind
        if kind == "reset_body":
            await asyncio.sleep(FLUSH_S)
            _reset(request)
            return
        number = 0
        async for part in _events(upstream.content) if is_stream else _halves(upstream.content):
            number += 1
            here = number == (fault.after + 1 if is_stream else 2)
            if kind == "drip":
                for start in range(0, len(part), DRIP_BYTES):
                    await self._pause(fault.delay_s)
                    yield part[start : start + DRIP_BYTES]
                continue
            if here and kind == "stall":
                await self.stopping.wait()
                return
            if here and kind == "cut":
                await asyncio.sleep(FLUSH_S)
                if request.transport is not None:
                    request.transport.close()
                return
            if kind == "malformed_json" and not is_stream:
                if here:
                    continue
            elif kind == "malformed_json" or (here and kind == "broken_event"):
                part = part[: len(part) // 2] + b"\n\n"
            yield part
            if here and kind == "duplicate":
                yield part

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)


def _head(request: web.Request, url: URL, headers: CIMultiDict[str]) -> web.Response:
    """Pass a HEAD on. Foundry Local answers with a body, against the rule, which aiohttp takes for damage."""
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.host or "", url.port, timeout=CONNECT_S)
    with contextlib.closing(connection):
        connection.putrequest("HEAD", url.raw_path_qs, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value.encode("utf-8", "surrogateescape"))
        connection.endheaders()
        answer = connection.getresponse()
    raw = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.getheaders())
    request[_AS_SENT] = sent = _passed_on(raw)
    return web.Response(status=answer.status, reason=answer.reason, headers=sent)


def refuse(request: web.Request, upstream: str | None) -> web.Response | None:
    """Return the answer to a web page of elsewhere, which has no business here; None for a program."""
    host, origin, site = (request.headers.get(name) for name in ("Host", "Origin", "Sec-Fetch-Site"))
    _, port = request.get_extra_info("sockname", ("", 0))
    if upstream is not None and host == URL(upstream).authority:
        host = f"127.0.0.1:{port}"  # a program that was told to reach the service through this proxy
    reason = foreign(host, origin, port, site)
    return _error(403, f"The fault proxy refused this: {reason}. Ask from a program.") if reason else None


async def restore_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Take out again what aiohttp adds to a response: the service's headers are passed on as they are."""
    sent = request.get(_AS_SENT)
    if sent is not None:
        for name in ("Date", "Server", "Content-Type"):
            if name not in sent:
                response.headers.popall(name, None)


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield whole events of a stream."""
    rest = b""
    async for data in content.iter_any():
        rest += data
        while end := EVENT_END.search(rest):
            yield rest[: end.end()]
            rest = rest[end.end() :]
    if rest:
        yield rest


async def _halves(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    body = await content.read()
    yield body[: len(body) // 2]
    yield body[len(body) // 2 :]


def _passed_on(raw: aiohttp.typedefs.RawHeaders) -> CIMultiDict[str]:
    return CIMultiDict(
        (name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))
        for name, value in raw
        if name.lower() not in HOP_BY_HOP
    )


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return web.json_response(body, status=status, headers=headers)


def _reset(request: web.Request) -> None:
    """End the connection with a TCP reset."""
    transport = request.transport
    if transport is not None:
        linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        with contextlib.suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
