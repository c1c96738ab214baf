"""How the network cuts a stream makes no difference: chunks first, then the error that came behind them."""

from __future__ import annotations

import itertools

import pytest
from clients import Client, both_clients
from hypothesis import given
from hypothesis import strategies as st
from stub_server import CHAT, DONE, ROLE, STOP, USAGE, StubService, delta, error_body, event, stream

from foundry_lab import errors
from foundry_lab.protocol.chat_stream import ChatStream
from foundry_lab.protocol.sse import SSEDecoder

CAP = 1000
BOOM = event(error_body("boom", "server_error"))
PARTS = [ROLE, delta("a"), delta("gr\u00fc\u00df"), STOP, USAGE, DONE, BOOM, event(b"no json"), b": note\n\n"]
LONG = [b"data: " + b"x" * CAP + b"\n\n", b": " + b"x" * CAP + b"\n", b"data: x\n" * CAP, b"y" * CAP * 2]


def outcome(*pieces: bytes) -> tuple[list[str], str]:
    """Read a stream in these pieces, as a client does: texts and reasons, and how it ended."""
    answer, said = ChatStream("req-1", max_event_bytes=CAP), []
    try:
        for piece in pieces:
            said += [f"{chunk.content}/{chunk.finish_reason}" for chunk in answer.feed(piece, 0.0)]
            if answer.failure is not None:
                raise answer.failure
            if answer.done:
                break
        answer.end()
    except errors.FoundryError as error:
        return said, repr(error)
    return said, "whole"


@given(st.lists(st.sampled_from(PARTS + LONG), max_size=8), st.lists(st.integers(0, 10_000), max_size=8))
def test_any_split_gives_the_same_chunks_and_the_same_error(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    split = [data[a:b] for a, b in itertools.pairwise(places)]
    assert outcome(*split) == outcome(data) == outcome(*(data[i : i + 1] for i in range(len(data))))


def test_an_error_waits_behind_its_chunks_and_is_raised_without_any() -> None:
    answer = ChatStream()
    assert [chunk.content for chunk in answer.feed(delta("a") + delta("b") + BOOM, 0.0)] == ["a", "b"]
    assert isinstance(answer.failure, errors.ServerError) and "boom" in str(answer.failure)
    with pytest.raises(errors.ServerError, match="boom"):
        ChatStream().feed(BOOM, 0.0)


def test_the_decoder_gives_the_events_before_a_line_that_is_too_long() -> None:
    events = SSEDecoder(max_event_bytes=10).events(b"data: a\n\n" + b"x" * 11)
    assert next(events).data == b"a"
    with pytest.raises(errors.ResponseFormatError, match="10 bytes"):
        next(events)


@both_clients
@pytest.mark.parametrize("then", ["end", "hang", "reset"])
def test_the_clients_deliver_the_text_before_the_error(kind: str, then: str) -> None:
    with StubService() as stub, Client(kind, stub.url, retries=0) as client:
        stub.on("POST", CHAT, stream(ROLE + delta("a") + delta("b") + BOOM, then=then))
        answer = client.open()
        assert [client.next(answer).content for _ in "ab"] == ["a", "b"]
        with pytest.raises(errors.ServerError, match="boom"):
            client.next(answer)
        assert answer.text == "ab" and client.read(answer) == []
        assert client.raw.metrics.snapshot().in_flight == 0
