"""A STUB, not Foundry Local: a local HTTP server for failures that the real service can't be made to show.

`StubService` answers the routes of the current contract in a healthy way and lets a test replace any of them
by a list of scripted answers. It listens on a port of 127.0.0.1, runs in a thread of its own, and ends
with its `with` block, whatever it was in the middle of. For bytes no HTTP library sends see raw_server.py.

    with StubService() as stub:
        stub.on("POST", CHAT, reply(503, headers={"Retry-After": "0"}), chat("hello"))  # the last one repeats
        client = FoundryAPIClient(stub.url)
        ...
        assert stub.count("POST", CHAT) == 2
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

ALIAS = "stub-1b"
MODEL = "stub-1b-instruct-generic-cpu:1"
CHAT = "/v1/chat/completions"

EVENT_STREAM = {"Content-Type": "text/event-stream, text/event-stream"}
"""Doubled, as Foundry Local sends it."""

Answer = Callable[[web.Request, asyncio.Event], Awaitable[web.StreamResponse]]
"""Takes the request and the event that is set when the stub stops; returns the response, prepared or not."""


@dataclass(frozen=True)
class Seen:
    """One request as it arrived. Header names are lower-case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


# --- answers ----------------------------------------------------------------------------------------------


def reply(
    status: int = 200,
    body: Any = b"",
    *,
    headers: dict[str, str] | None = None,
    content_type: str = "application/json",
    delay_s: float = 0.0,
) -> Answer:
    """Answer with a body: bytes as they are, anything else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def answer(request: web.Request, stop: asyncio.Event) -> web.StreamResponse:
        await wait(stop, delay_s)
        return web.Response(
            status=status, body=data, headers={"Content-Type": content_type, **(headers or {})}
        )

    return answer


def error(status: int, message: str, kind: str = "invalid_request_error", **kwargs: Any) -> Answer:
    """Answer with an error in the service's words."""
    return reply(status, error_body(message, kind), **kwargs)


def chat(text: str = "hello", *, delay_s: float = 0.0, **changes: Any) -> Answer:
    """Answer with a whole chat completion, or stream it where the request asks for a stream."""

    async def answer(request: web.Request, stop: asyncio.Event) -> web.StreamResponse:
        await wait(stop, delay_s)
        if (await request.json()).get("stream"):
            return await stream(*text_events(text))(request, stop)
        return web.json_response(chat_body(text) | changes)

    return answer


def stream(
    *parts: bytes, pause_s: float = 0.0, first_s: float = 0.0, then: str = "end", status: int = 200
) -> Answer:
    """Answer with an event stream, written in these parts.

    Args:
        pause_s: seconds before each part but the first. first_s: before the first, headers already sent.
        then: "end" the body, "hang" without ending it, or "reset" the connection.
    """

    async def answer(request: web.Request, stop: asyncio.Event) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=EVENT_STREAM)
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            for number, part in enumerate(parts):
                await wait(stop, pause_s if number else first_s)
                await response.write(part)
            if then == "hang":
                await stop.wait()
            elif then == "reset" and request.transport is not None:
                await asyncio.sleep(0.05)  # let the parts arrive: a reset overtakes what isn't read yet
                request.transport.abort()
        return response

    return answer


async def hang(request: web.Request, stop: asyncio.Event) -> web.StreamResponse:
    """Accept the request and never answer."""
    await stop.wait()
    return web.Response(status=503)


async def drop(request: web.Request, stop: asyncio.Event) -> web.StreamResponse:
    """Close the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def wait(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but not longer than the stub lives."""
    if seconds > 0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)


# --- bodies -----------------------------------------------------------------------------------------------


def chat_body(text: str = "hello", **changes: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-stub",
        "model": MODEL,
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
    } | changes


def error_body(message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"code": None, "message": message, "param": None, "type": kind}}


def event(data: Any) -> bytes:
    """One server-sent event: bytes as they are, anything else as JSON."""
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def delta(content: str | None = None, *, finish_reason: str | None = None, **more: Any) -> bytes:
    """One chat-completion chunk as an event."""
    fields = ({} if content is None else {"content": content}) | more
    choice = {"index": 0, "delta": fields, "finish_reason": finish_reason}
    return event(
        {"id": "chatcmpl-stub", "model": MODEL, "object": "chat.completion.chunk", "choices": [choice]}
    )


ROLE = delta("", role="assistant")
STOP = delta(finish_reason="stop")
USAGE = event(
    {"model": MODEL, "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}}
)
DONE = event(b"[DONE]")


def text_events(text: str) -> list[bytes]:
    """The events of a whole streamed answer, one a word, as Foundry Local sends them."""
    words = [word if n == 0 else " " + word for n, word in enumerate(text.split(" "))]
    return [ROLE, *(delta(word) for word in words), STOP, USAGE, DONE]


HEALTHY: dict[tuple[str, str], Answer] = {
    ("GET", "/status"): reply(200, {"endpoints": [], "modelCachePath": "", "pid": 0}),
    ("GET", "/v1/models"): reply(200, {"object": "list", "data": [{"id": MODEL, "owned_by": "stub"}]}),
    ("GET", "/models/loaded"): reply(200, [MODEL]),
    ("GET", f"/models/load/{ALIAS}"): reply(200, {"status": "loaded"}),
    ("GET", f"/models/unload/{ALIAS}"): reply(200, {"status": "unloaded"}),
    ("POST", CHAT): chat("hello"),
}


# --- the server ------------------------------------------------------------------------------------------


_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = itertools.count(20_000 + 3_000 * (_WORKER % 4))
"""Each is used once, and none is of those that the system gives away: who still asks a stub or a service that
has ended, in another test, must not reach the next stub."""


class StubService:
    """A scripted HTTP server.

    Args:
        healthy: begin with the routes of a healthy service; otherwise every route is a 404.
        port: where to listen; one that no stub had before by default.
        max_bytes: of a request; larger ones get 413.
    """

    def __init__(self, *, healthy: bool = True, port: int = 0, max_bytes: int = 2**20) -> None:
        self._port = port
        self._max_bytes = max_bytes
        self._answers = {route: [answer] for route, answer in HEALTHY.items()} if healthy else {}
        self.seen: list[Seen] = []
        self.peers: set[object] = set()  # one for each connection that brought a request
        self.url = ""
        self.most_at_once = 0
        self._at_once = 0

    def on(self, method: str, path: str, *answers: Answer) -> None:
        """Give these answers to a route in turn; the last one repeats."""
        self._answers[method, path] = list(answers)

    def count(self, method: str, path: str) -> int:
        """Return how many requests a route has had."""
        return sum(each.method == method and each.path == path for each in self.seen)

    def connections(self) -> int:
        """Return how many connections are open now."""
        return len(self._server.connections)

    def wait_until_read(self) -> None:
        """Wait until all that callers have sent by now is in `seen`."""
        asyncio.run_coroutine_threadsafe(self._read(), self._loop).result(10)

    async def _read(self) -> None:
        for _ in range(20):  # rounds of the loop, as in `_left`
            await asyncio.sleep(0)

    def wait_until_left(self) -> None:
        """Wait until every caller has gone and all they sent is in `seen`."""
        asyncio.run_coroutine_threadsafe(asyncio.wait_for(self._left(), 10), self._loop).result()

    async def _left(self) -> None:
        rounds = 0
        while rounds < 20:  # of the loop: one to accept a caller who has gone already, one to read, …
            await asyncio.sleep(0)
            rounds = 0 if self._server.connections else rounds + 1

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        request._client_max_size = self._max_bytes
        self.peers.add(request.transport.get_extra_info("peername") if request.transport else None)
        self.seen.append(Seen(request.method, request.raw_path, headers, await request.read()))
        answers = self._answers.get((request.method, request.raw_path))
        if not answers:
            return web.Response(status=404, text=f"code=404\nNo mapping for {request.raw_path}")
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await (answers.pop(0) if len(answers) > 1 else answers[0])(request, self._stop)
        finally:
            self._at_once -= 1

    def __enter__(self) -> StubService:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), name="stub service")
        self._thread.start()
        assert started.wait(10), "the stub didn't start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the stub didn't stop"

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = web.Server(self._handle, handler_cancellation=True)  # a caller who goes ends it
        runner = web.ServerRunner(server, shutdown_timeout=1)
        await runner.setup()
        await self._listen(runner)
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        self._server = server
        started.set()
        await self._stop.wait()
        for _ in range(10):  # asyncio would never close a connection that comes as its server goes
            await asyncio.sleep(0)
        await runner.cleanup()

    async def _listen(self, runner: web.ServerRunner) -> None:
        for port in [self._port] if self._port else _PORTS:
            try:
                return await web.TCPSite(runner, "127.0.0.1", port).start()
            except OSError:
                if port == self._port:
                    raise  # else somebody has it: the next one
