"""A STUB, not Foundry Local: answers with measured bodies at next to no cost, in a process of its own.

`running` is for the benchmarks. The process runs as `python -m benchmarks.stub_process`; the first line it
prints is its URL; it ends with its stdin. The model named in a request says how the answer comes: MODEL in
one burst, PACED with a pause after every event.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MODEL = "smollm2-135m-instruct-generic-cpu:1"
PACED = "paced-135m-instruct-generic-cpu:1"
BURST_CHUNKS = 1000
PACED_CHUNKS = 200
PAUSE_S = 0.001


@contextmanager
def running() -> Iterator[str]:
    """Run the stub and give its URL; where the system can, it and the caller keep to a CPU each meanwhile.

    Left to the system, the two are sometimes on one CPU and sometimes not, and the same work takes 160 or
    230 us of CPU time: more than what is compared.
    """
    command = [sys.executable, "-m", "benchmarks.stub_process"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as stub:
        assert stub.stdin is not None and stub.stdout is not None
        url = stub.stdout.readline().strip()
        cpus = os.sched_getaffinity(0) if sys.platform == "linux" else set()
        if len(cpus) > 1:
            os.sched_setaffinity(stub.pid, {max(cpus)})
            os.sched_setaffinity(0, {min(cpus)})
        try:
            yield url
        finally:
            stub.stdin.close()
            if len(cpus) > 1:
                os.sched_setaffinity(0, cpus)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _event(choices: list[object], **more: object) -> bytes:
    """One event as foundry-local-sdk 2.2.1 writes it."""
    chunk = {
        "choices": choices,
        "created": 1795316714,
        "id": "chatcmpl-b2243a46452422aa",
        "model": MODEL,
        "object": "chat.completion.chunk",
        "system_fingerprint": None,
    }
    return b"data: " + _json(chunk | more) + b"\n\n"


def _delta(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    return _event([{"delta": delta, "finish_reason": finish_reason, "index": 0, "logprobs": None}])


USAGE = {
    "completion_tokens": 40,
    "completion_tokens_details": {"reasoning_tokens": 0},
    "prompt_tokens": 34,
    "prompt_tokens_details": {"cached_tokens": 0},
    "total_tokens": 74,
}
COMPLETION = _json(
    {
        "choices": [
            {
                "finish_reason": "length",
                "index": 0,
                "logprobs": None,
                "message": {
                    "content": "1. Red: This is the most obvious colour, but it's also the most versatile. "
                    "Red is a colour that can be used in many different ways.\n\n2. Blue: This colour is",
                    "refusal": None,
                    "role": "assistant",
                },
            }
        ],
        "created": 1795316713,
        "id": "chatcmpl-95bebec68b5a594c",
        "model": MODEL,
        "object": "chat.completion",
        "system_fingerprint": None,
        "usage": USAGE,
    }
)


def _events(tokens: int) -> list[bytes]:
    return [
        _delta({"content": "", "role": "assistant"}),
        *(_delta({"content": word}) for word in ([" This", " is", " the", " most", "."] * tokens)[:tokens]),
        _delta({}, "length"),
        _event([], usage=USAGE),
        b"data: [DONE]\n\n",
    ]


def _whole(body: bytes) -> bytes:
    head = "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: keep-alive\r\nServer: oatpp/1.3.0\r\n"
    return (head % len(body)).encode() + b"Content-Type: application/json\r\n\r\n" + body


def _chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nServer: oatpp/1.3.0\r\n"
    b"Cache-Control: no-cache\r\nContent-Type: text/event-stream\r\n\r\n"
)
BURST = STREAM_HEAD + b"".join(map(_chunked, _events(BURST_CHUNKS))) + b"0\r\n\r\n"
PIECES = [_chunked(event) for event in _events(PACED_CHUNKS)]
PIECES[0] = STREAM_HEAD + PIECES[0]
PIECES[-1] += b"0\r\n\r\n"
PLAIN = {
    b"/status": _whole(b'{"endpoints":[],"modelCachePath":"","pid":0}'),
    b"/v1/models": _whole(_json({"data": [{"id": MODEL}, {"id": PACED}], "object": "list"})),
    b"/models/loaded": _whole(_json([MODEL, PACED])),
}
WHOLE = _whole(COMPLETION)


class Stub(asyncio.Protocol):
    """Reads requests with a Content-Length and answers them in turn."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.data = transport, b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, found, rest = self.data.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.split(b"\r\n")
        length = sum(int(line[15:]) for line in lines if line.lower().startswith(b"content-length:"))
        if len(rest) < length:
            return
        body, self.data = rest[:length], rest[length:]
        path = lines[0].split(b" ")[1]
        if path in PLAIN:
            self.transport.write(PLAIN[path])
        elif b'"stream":true' not in body.replace(b" ", b""):
            self.transport.write(WHOLE)
        elif PACED.encode() in body:
            self._next(0)
        else:
            self.transport.write(BURST)

    def _next(self, number: int) -> None:
        self.transport.write(PIECES[number])
        if number + 1 < len(PIECES):
            asyncio.get_running_loop().call_later(PAUSE_S, self._next, number + 1)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
