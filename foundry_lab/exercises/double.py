"""A TEST DOUBLE for one learner's function: a web server with scripted answers. It is not the service.

It says what the real service can't be made to say on demand: half an answer, no answer, certain words. It
listens on a free port of 127.0.0.1 for as long as its `with` block, and notes what it was asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from aiohttp import web

from foundry_lab.calls.portal import Portal

MODEL = "double-model"
ALIAS = "double"
_LOOK_UPS: dict[str, Any] = {
    "/status": {"endpoints": [], "modelCachePath": "", "pid": 0},
    "/v1/models": {"object": "list", "data": [{"id": MODEL}]},
    "/models/loaded": [MODEL],
}
"""What the lab's client asks before it sends a question."""


class Asked:
    """One request as it came, and what became of the stream that answered it.

    Attributes:
        path: with the query, if there is one.
        body: what its JSON says; the bytes, if it is none; None without a body.
        sent: pieces of the stream that were sent before its end, or before the other side hung up.
        began_s, first_s, last_s, ended_s: when the request came, and the stream's first piece, last piece and
            end went out, in seconds of `time.perf_counter()`.
    """

    def __init__(self, method: str, path: str, body: Any) -> None:
        self.method, self.path, self.body = method, path, body
        self.sent = 0
        self.began_s = self.first_s = self.last_s = self.ended_s = time.perf_counter()


class Answer(NamedTuple):
    """What to answer: a status and JSON, or the pieces of a text as an event stream."""

    status: int = 200
    body: Any = None
    pieces: Sequence[str] = ()
    first_s: float = 0.0
    pause_s: float = 0.02


def completion(text: str, finish_reason: str = "stop") -> Answer:
    """Return a whole chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": finish_reason, "message": message}
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    return Answer(body={"model": MODEL, "object": "chat.completion", "choices": [choice], "usage": usage})


def error(status: int, message: str) -> Answer:
    """Return an error in the service's form."""
    return Answer(status, {"error": {"message": message, "type": "invalid_request_error"}})


def event(data: dict[str, Any]) -> bytes:
    """Return one event of a stream."""
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def delta(finish_reason: str | None = None, **fields: str) -> bytes:
    """Return the event that adds these fields to the message, such as `content="a"`."""
    choice = {"index": 0, "delta": fields, "finish_reason": finish_reason}
    return event({"model": MODEL, "object": "chat.completion.chunk", "choices": [choice]})


STOP = delta("stop")
DONE = b"data: [DONE]\n\n"


class Double:
    """The server. `respond` answers each request that isn't one of the client's look-ups.

    Attributes:
        url: its address, inside of the `with` block.
        asked: those requests, in order.
        most_at_once: streams that were being answered at the same time, at most.
    """

    def __init__(self, respond: Answer | Callable[[Asked], Answer]) -> None:
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self._respond = respond
        self._streams = 0
        self._portal = Portal("double")

    def __enter__(self) -> Double:
        self._runner = self._portal.wait(self._serve())
        host, port = self._runner.addresses[0]
        self.url = f"http://{host}:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._portal.wait(self._runner.cleanup())
        self._portal.close()

    async def _serve(self) -> web.ServerRunner:
        # handler_cancellation: a stream ends when the other side hangs up
        server = web.Server(self._answer, access_log=None, handler_cancellation=True)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET" and request.path in _LOOK_UPS:
            return web.json_response(_LOOK_UPS[request.path])
        body: Any = await request.read() or None
        with contextlib.suppress(ValueError):
            body = body and json.loads(body)
        asked = Asked(request.method, request.path_qs, body)
        self.asked.append(asked)
        answer = self._respond if isinstance(self._respond, Answer) else self._respond(asked)
        if not answer.pieces:
            return web.json_response(answer.body, status=answer.status)
        return await self._stream(request, asked, answer)

    async def _stream(self, request: web.BaseRequest, asked: Asked, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self._streams += 1
        self.most_at_once = max(self.most_at_once, self._streams)
        try:
            await asyncio.sleep(answer.first_s)
            asked.first_s = time.perf_counter()
            for piece in answer.pieces:
                asked.last_s = time.perf_counter()
                await response.write(delta(content=piece))
                asked.sent += 1
                await asyncio.sleep(answer.pause_s)
            await response.write(STOP + DONE)
        finally:
            self._streams -= 1
            asked.ended_s = time.perf_counter()
        return response
