"""Whatever is sent from the service's address: the right error within the limit, never a hang."""

from __future__ import annotations

import gzip
import itertools
import json
import time
from typing import Any

import pytest
from clients import Client, both_clients
from raw_server import STREAM_HEAD, RawServer, Script, drips, floods, http_response, sends
from stub_server import (
    CHAT,
    DONE,
    MODEL,
    ROLE,
    STOP,
    StubService,
    chat_body,
    delta,
    event,
    hang,
    reply,
    stream,
)

from foundry_lab import errors
from foundry_lab.protocol import request

both_ways = pytest.mark.parametrize("how", ["complete", "stream"])
SHORT_S = 1.0  # for what ends by the limit
LONG_S = 10.0  # for what must be noticed before
SLACK_S = 3.0

HTML = b"<html><body>Please sign in</body></html>"


def ask(kind: str, url: str, how: str, limit_s: float = LONG_S) -> None:
    """Ask once without retries; whatever comes of it comes within the limit."""
    began = time.monotonic()
    with Client(kind, url, retries=0) as client:
        client.raw.caller.directory._chosen[None] = MODEL  # the limit isn't for finding that out
        try:
            client.ask(how, timeout=limit_s)
        finally:
            took = time.monotonic() - began
            assert took < limit_s + SLACK_S, f"took {took:.1f} s"


@both_clients
@both_ways
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(reply(200, HTML, content_type="text/html"), id="HTML with 200"),
        pytest.param(reply(200, [1, 2]), id="a list"),
        pytest.param(reply(200, {"choices": "none"}), id="wrong types"),
        pytest.param(reply(200, chat_body(5)), id="a number for a text"),  # type: ignore[arg-type]
        pytest.param(reply(204, b""), id="204"),
        pytest.param(reply(200, b""), id="empty"),
        pytest.param(reply(200, gzip.compress(HTML)), id="gzip unannounced"),
        pytest.param(reply(200, HTML, headers={"Content-Encoding": "gzip"}), id="no gzip"),
        pytest.param(reply(200, b"\0" * 1000), id="NUL bytes"),
    ],
)
def test_an_answer_that_is_none_is_a_format_error(kind: str, how: str, answer: Any) -> None:
    with StubService() as stub:
        stub.on("POST", CHAT, answer)
        with pytest.raises(errors.ResponseFormatError) as caught:
            ask(kind, stub.url, how)
        assert len(str(caught.value)) < 800


@both_clients
def test_a_gzip_answer_that_says_so_is_read(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        body = gzip.compress(json.dumps(chat_body("hello")).encode())
        stub.on("POST", CHAT, reply(200, body, headers={"Content-Encoding": "gzip"}))
        assert client.complete("hi").content == "hello"


@both_clients
@pytest.mark.parametrize(
    "part",
    [
        event(b"<html>"),
        event([1]),
        event({"choices": 5}),
        event(b"\0\0"),
        b"data: \xff\xfe\n\n",
    ],
    ids=["HTML", "a list", "wrong types", "NUL bytes", "no UTF-8"],
)
def test_a_stream_of_nonsense_is_a_format_error(kind: str, part: bytes) -> None:
    with StubService() as stub:
        stub.on("POST", CHAT, stream(ROLE, delta("a"), part, DONE))
        with pytest.raises(errors.ResponseFormatError):
            ask(kind, stub.url, "stream")


@both_clients
@both_ways
def test_an_interim_answer_is_not_the_answer(kind: str, how: str) -> None:
    """RFC 9110, section 15.2: there may be any number of them, unasked."""
    hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"
    whole = http_response(json.dumps(chat_body("hello")).encode())
    streamed = STREAM_HEAD + ROLE + delta("hello") + STOP + DONE
    with (
        RawServer(sends(hints, hints, whole if how == "complete" else streamed, pause_s=0.02)) as server,
        Client(kind, server.url, retries=0) as client,
    ):
        assert client.ask(how) == "hello"


INTERRUPTED, UNAVAILABLE = errors.StreamInterruptedError, errors.ServiceUnavailableError
TIMED_OUT, UNREADABLE = errors.RequestTimeoutError, errors.ResponseFormatError
CUT = http_response(b'{"cho', length=500)
ENDLESS = http_response(b"", length=1 << 30)
HALF_HEAD = b"HTTP/1.1 200 OK\r\nContent-"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
NO_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n{}"
BLANKS = itertools.repeat(32, 900)

RAW: list[tuple[str, str, Script, type[errors.FoundryError]]] = [
    ("complete", "half a JSON, closed", sends(CUT), INTERRUPTED),
    ("complete", "half a JSON, reset", sends(CUT, then="reset"), INTERRUPTED),
    ("stream", "half an event, closed", sends(STREAM_HEAD, ROLE, b'data: {"cho'), INTERRUPTED),
    ("stream", "half an event, reset", sends(STREAM_HEAD, delta("a"), b"da", then="reset"), INTERRUPTED),
    # requests notices it; aiohttp, after the head of the answer, doesn't, and the time limit ends it
    ("stream", "a broken chunk", sends(CHUNKED, b"zz\r\n", pause_s=0.1), errors.FoundryError),
    ("both", "closed at once", sends(), UNAVAILABLE),
    ("both", "reset at once", sends(then="reset"), UNAVAILABLE),
    ("both", "never answers", sends(then="hang"), TIMED_OUT),
    ("complete", "a head, then nothing", sends(http_response(b"", length=9), then="hang"), TIMED_OUT),
    ("stream", "a head, then nothing", sends(STREAM_HEAD, then="hang"), TIMED_OUT),
    ("both", "half a head, then nothing", sends(HALF_HEAD, then="hang"), TIMED_OUT),
    ("complete", "a byte now and then", drips(http_response(b"", length=900), BLANKS, 0.1), TIMED_OUT),
    ("stream", "a byte now and then", drips(STREAM_HEAD, delta("late") * 3, 0.1), TIMED_OUT),
    ("both", "a head a byte now and then", drips(b"", http_response(b"x" * 900), 0.1), TIMED_OUT),
    ("stream", "comments now and then", sends(STREAM_HEAD, *[b": ping\n\n"] * 99, pause_s=0.1), TIMED_OUT),
    ("stream", "an endless line", floods(STREAM_HEAD), UNREADABLE),
    ("complete", "an endless body", floods(ENDLESS), UNREADABLE),
    ("both", "an endless header", floods(b"HTTP/1.1 200 OK\r\nX-Long: "), UNREADABLE),
    ("both", "not HTTP", sends(b"SSH-2.0-OpenSSH_9.6\r\n"), UNREADABLE),
    ("both", "a length that is no number", sends(NO_LENGTH), UNREADABLE),
]


@both_clients
@pytest.mark.parametrize(
    ("how", "script", "expected"),
    [
        pytest.param(how, script, expected, id=f"{how}: {name}")
        for where, name, script, expected in RAW
        for how in (("complete", "stream") if where == "both" else (where,))
    ],
)
def test_bytes_no_service_should_send(
    kind: str, how: str, script: Script, expected: type[errors.FoundryError]
) -> None:
    with RawServer(script) as server:
        with pytest.raises(expected):
            ask(kind, server.url, how, SHORT_S if expected in (TIMED_OUT, errors.FoundryError) else LONG_S)
        assert server.requests == 1


@both_clients
def test_an_endless_body_is_given_up_at_the_limit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundry_lab.calls.async_transport.MAX_BODY_BYTES", 1 << 20)
    with (
        RawServer(floods(ENDLESS)) as server,
        pytest.raises(errors.ResponseFormatError, match="1,048,576 bytes"),
    ):
        ask(kind, server.url, "complete")
    assert request.MAX_BODY_BYTES <= 64 << 20


@both_clients
@both_ways
def test_nobody_listens(kind: str, how: str) -> None:
    with RawServer(sends()) as server:
        url = server.url
    with pytest.raises(errors.ServiceUnavailableError, match="Nobody answers") as caught:
        ask(kind, url, how)
    assert url in str(caught.value) and "foundry-lab status" in str(caught.value)


@both_clients
def test_a_list_that_never_comes_is_no_matter_of_max_tokens(kind: str) -> None:
    with StubService() as stub:
        for path in ("/status", "/models/loaded", "/v1/models"):
            stub.on("GET", path, hang)
        with Client(kind, stub.url, retries=0, timeout=0.5) as client:
            with pytest.raises(errors.RequestTimeoutError) as caught:
                client.list_models()
            words = [str(caught.value), *client.health_check().reasons]
    assert len(words) == 2
    for said in words:
        assert "max_tokens" not in said and "`foundry-lab status`" in said and "FOUNDRY_TIMEOUT" in said


@both_clients
def test_another_kind_of_server_is_told_by_what_it_answered(kind: str) -> None:
    with StubService(healthy=False) as stub:
        stub.on(
            "GET", "/status", reply(404, HTML, content_type="text/html", headers={"Server": "nginx/1.25"})
        )
        with Client(kind, stub.url, retries=0) as client:
            for use in (client.list_models, client.stream_text, lambda: client.ask("complete", model="phi")):
                with pytest.raises(errors.ResponseFormatError, match="nginx") as caught:
                    use()
                assert "endpoint" in str(caught.value) and "sign in" in str(caught.value)
            health = client.health_check()
        assert health.status == "unavailable" and "nginx" in health.reasons[0]


@both_clients
def test_a_redirect_is_not_followed(kind: str) -> None:
    with StubService() as stub:
        stub.on("POST", CHAT, reply(307, b"", headers={"Location": "http://elsewhere.invalid/"}))
        with pytest.raises(errors.APIStatusError) as caught:
            ask(kind, stub.url, "complete")
        assert caught.value.status == 307


@both_clients
def test_a_reset_after_the_reason_is_a_whole_answer(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("POST", CHAT, stream(delta("whole"), STOP, then="reset"))
        assert client.stream_text() == "whole"
