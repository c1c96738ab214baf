"""Servers that send without end: a call is over when its time is, and the memory stays small."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib

import pytest
from raw_server import RawServer, Script, floods, sends
from stub_server import MODEL

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n"
JSON_HEAD, EVENTS_HEAD = HEAD % b"application/json", HEAD % b"text/event-stream"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"

ASK = """
import json, sys, time
import psutil
from foundry_lab import SyncFoundryAPIClient, errors

try:
    from resource import RUSAGE_SELF, getrusage
    unit = 1 if sys.platform == "darwin" else 1024
    peak = lambda: getrusage(RUSAGE_SELF).ru_maxrss * unit
except ImportError:
    peak = lambda: psutil.Process().memory_info().peak_wset

url, model, how = sys.argv[1:]
before = peak()
with SyncFoundryAPIClient(url, model=model, retries=0) as client:
    began = time.monotonic()
    try:
        text = (
            client.complete("hi", timeout=2).content if how == "complete"
            else "".join(chunk.content for chunk in client.stream_complete("hi", timeout=2))
        )
        ended = "answered"
    except errors.FoundryError as error:
        ended = type(error).__name__
    print(json.dumps({"ended": ended, "seconds": time.monotonic() - began, "mib": (peak() - before) / 2**20}))
"""
"""A process of its own: the peak of a process is that of everything it did before."""


def bomb(size_mib: int) -> bytes:
    """Return so many MiB of one character, as gzip makes a thousandth of them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(b" " * 2**20) for _ in range(size_mib)) + packer.flush(zlib.Z_FULL_FLUSH)


BOMB = bomb(512)
FLOODS: dict[str, tuple[Script, set[str]]] = {
    "100 Continue": (floods(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2600), {"RequestTimeoutError"}),
    "103 Early Hints": (
        floods(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 1600),
        {"RequestTimeoutError"},
    ),
    "blank lines": (floods(b"", b"\r\n" * 32768), {"RequestTimeoutError"}),
    "headers": (
        floods(b"HTTP/1.1 200 OK\r\n", b"".join(b"X-%d: a\r\n" % n for n in range(8000))),
        {"ResponseFormatError"},
    ),
    "one long header": (floods(b"HTTP/1.1 200 OK\r\nX: "), {"ResponseFormatError"}),
    "one long status line": (floods(b"HTTP/1.1 200 "), {"ResponseFormatError"}),
    "trailers": (floods(JSON_HEAD + CHUNKED + b"0\r\n", b"X: a\r\n" * 8000), {"ResponseFormatError"}),
    "one long chunk extension": (floods(JSON_HEAD + CHUNKED + b"0;"), {"RequestTimeoutError"}),
    "tiny chunks": (floods(JSON_HEAD + CHUNKED, b"1\r\n \r\n" * 10_000), {"RequestTimeoutError"}),
    "a packed body": (
        sends(JSON_HEAD + b"Content-Encoding: gzip\r\n\r\n" + BOMB, then="hang"),
        {"ResponseFormatError"},
    ),
    "packed events": (
        sends(EVENTS_HEAD + b"Content-Encoding: gzip\r\n\r\n" + BOMB, then="hang"),
        {"ResponseFormatError"},
    ),
}


@pytest.mark.parametrize("how", ["complete", "stream"])
@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_ends_in_time_and_in_little_memory(kind: str, how: str) -> None:
    script, ends = FLOODS[kind]
    with RawServer(script) as server:
        done = subprocess.run(
            [sys.executable, "-c", ASK, server.url, MODEL, how], capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ended"] in ends
    assert result["seconds"] < 60  # of 2; a busy machine has its time
    assert result["mib"] < 256  # of endless; a body may have 64, and is held twice for a moment
