"""A TEST DOUBLE for one learner's function: a web server with scripted answers. It is not the service.

It says what the real service can't be made to say on demand: half an answer, no answer, certain words. It
listens on a free port of 127.0.0.1 for as long as its `with` block, and notes what it was asked.
"""

from __future__ import annotations

import contextlib
import json
import select
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

from foundry_lab.protocol import CHAT_PATH

MODEL = "double-model"
ALIAS = "double"
PAUSE_S = 0.02
_LOOK_UPS: dict[str, Any] = {
    "/status": {"endpoints": [], "modelCachePath": "", "pid": 0},
    "/v1/models": {"object": "list", "data": [{"id": MODEL}]},
    "/models/loaded": [MODEL],
}
"""What the lab's client asks before it sends a question."""


class Asked:
    """One request as it came, and what became of the stream that answered it.

    Attributes:
        sent: pieces of the stream that were sent.
        began_s, first_s, ended_s: when the request came, and the stream's first piece and end went out, in
            seconds of `time.perf_counter()`.
        left: the other side hung up.
    """

    def __init__(self, method: str, path: str, body: Any) -> None:
        self.method, self.path, self.body = method, path, body
        self.sent = 0
        self.left = False
        self.began_s = self.first_s = self.ended_s = time.perf_counter()


class Answer(NamedTuple):
    """What to answer: a status and JSON, or the pieces of a text as an event stream."""

    status: int = 200
    body: Any = None
    pieces: Iterable[str] | None = None
    first_s: float = 0.0
    pause_s: float = PAUSE_S


def completion(text: str, finish_reason: str = "stop") -> Answer:
    """Return a whole chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": finish_reason, "message": message}
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    return Answer(body={"model": MODEL, "object": "chat.completion", "choices": [choice], "usage": usage})


def error(status: int, message: str) -> Answer:
    """Return an error in the service's form."""
    return Answer(status, {"error": {"message": message, "type": "invalid_request_error"}})


class Double:
    """The server. `respond` answers each request that isn't one of the client's look-ups.

    Attributes:
        asked: those requests, in order.
        most_at_once: streams that were being answered at the same time, at most.
    """

    def __init__(self, respond: Answer | Callable[[Asked], Answer]) -> None:
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self._respond = respond
        self._now = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Double:
        handler = type("Handler", (_Handler,), {"double": self})
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, asked: Asked) -> Answer:
        """Note a request and return what to say."""
        if asked.method == "GET" and asked.path in _LOOK_UPS:
            return Answer(body=_LOOK_UPS[asked.path])
        self.asked.append(asked)
        return self._respond if isinstance(self._respond, Answer) else self._respond(asked)

    @contextlib.contextmanager
    def streaming(self) -> Any:
        """Count a stream for as long as the block takes."""
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1


class _Handler(BaseHTTPRequestHandler):
    double: Double

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = raw
        asked = Asked(self.command, self.path, body)
        answer = self.double.answer(asked)
        with contextlib.suppress(OSError):  # who asked may be gone
            self._stream(asked, answer) if answer.pieces is not None else self._whole(answer)

    do_POST = do_PUT = do_DELETE = do_GET

    def _whole(self, answer: Answer) -> None:
        data = json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, asked: Asked, answer: Answer) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        with self.double.streaming():
            try:
                if self._wait(asked, answer.first_s):
                    return
                asked.first_s = time.perf_counter()
                for piece in answer.pieces or ():
                    self._event({"delta": {"content": piece}, "finish_reason": None})
                    asked.sent += 1
                    if self._wait(asked, answer.pause_s):
                        return
                self._event({"delta": {}, "finish_reason": "stop"})
                self.wfile.write(b"data: [DONE]\n\n")
            except OSError:
                asked.left = True
            finally:
                asked.ended_s = time.perf_counter()

    def _event(self, choice: dict[str, Any]) -> None:
        event = {"model": MODEL, "object": "chat.completion.chunk", "choices": [{"index": 0, **choice}]}
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _wait(self, asked: Asked, seconds: float) -> bool:
        """Wait, and return whether the other side hung up meanwhile: then its end can be read."""
        readable, _, _ = select.select([self.connection], [], [], seconds)
        asked.left = bool(readable)
        return asked.left

    def log_message(self, *_: object) -> None:
        """Say nothing in the learner's notebook."""


__all__ = ["ALIAS", "CHAT_PATH", "MODEL", "Answer", "Asked", "Double", "completion", "error"]
