"""A STUB, not Foundry Local: a server that writes bytes which no HTTP library would send.

    with RawServer(sends(http_response(b'{"choices": [', length=100))) as server:  # half a JSON, then closed
        SyncFoundryAPIClient(server.url).complete("hi")

It listens on a free port of 127.0.0.1, runs in threads of its own, and ends with its `with` block.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from stub_server import CHAT, MODEL

Script = Callable[[socket.socket, threading.Event], None]
"""Takes a connection whose request has been read, and the event that is set when the server stops."""


class RawServer:
    """Writes whatever bytes a script sends.

    Args:
        script: answers the requests for `path`; all other routes are answered as a healthy service would.
        path: the broken route; None breaks all of them.
    """

    def __init__(self, script: Script, *, path: str | None = CHAT) -> None:
        self._script, self._path = script, path
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []
        self.requests = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def __enter__(self) -> RawServer:
        self._run(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        for thread in self._threads:
            thread.join(5)

    def _run(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="raw server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self._connections.append(connection)
                self._run(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            path = _read_request(connection)
            if self._path in (None, path):
                self.requests += 1
                self._script(connection, self._stop)
            else:
                connection.sendall(http_response(_HEALTHY_BODIES[path], "Connection: close"))
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


_HEALTHY_BODIES = {
    "/status": b'{"pid":0}',
    "/v1/models": json.dumps({"data": [{"id": MODEL}]}).encode(),
    "/models/loaded": json.dumps([MODEL]).encode(),
}


def _read_request(connection: socket.socket) -> str:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65536)):
            raise ValueError("no request came")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < sum(lengths):
        body += connection.recv(65536)
    return head.split()[1].decode()


def http_response(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """A response as bytes; `length` may lie about the body's, and a negative one leaves the header out."""
    length = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *headers]
    if length >= 0:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
"""The head of an event stream whose end is the end of the connection."""


def sends(*parts: bytes, pause_s: float = 0.0, then: str = "close") -> Script:
    """Send these parts with pauses between, then "close", "hang" or "reset"."""

    def script(connection: socket.socket, stop: threading.Event) -> None:
        for part in parts:
            connection.sendall(part)
            if stop.wait(pause_s):
                return
        if then == "hang":
            stop.wait()
        elif then == "reset":
            stop.wait(0.05)  # let the parts arrive
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

    return script


def drips(head: bytes, body: Iterable[int], every_s: float = 1.0) -> Script:
    """Send the head at once and the body one byte at a time."""
    return sends(head, *(bytes([byte]) for byte in body), pause_s=every_s, then="hang")


def floods(head: bytes, block: bytes = b"x" * 65536, total: int = 1 << 36) -> Script:
    """Send a head and then the same block over and over: more than anybody reads in a minute."""

    def script(connection: socket.socket, stop: threading.Event) -> None:
        connection.sendall(head)
        for _ in _until(stop, total // len(block)):
            connection.sendall(block)

    return script


def _until(stop: threading.Event, rounds: int) -> Iterator[int]:
    for number in range(rounds):
        if stop.is_set():
            return
        yield number
