"""The event-stream decoder: WHATWG rules, any split of the bytes, bounded memory."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_lab.errors import ConfigurationError, ResponseFormatError
from foundry_lab.protocol.sse import Event, SSEDecoder


def decode(*parts: bytes) -> list[Event]:
    decoder = SSEDecoder()
    return [event for part in parts for event in decoder.feed(part)]


def by_the_book(stream: bytes) -> list[Event]:
    """The standard's algorithm, written plainly over the whole stream: no state between reads."""
    events: list[Event] = []
    data, kind, last_id = [], b"", b""
    *lines, _unfinished = re.split(rb"\r\n|\r|\n", stream.removeprefix(b"\xef\xbb\xbf"))
    for line in lines:
        if line == b"":
            if data:
                events.append(
                    Event(
                        b"\n".join(data),
                        kind.decode("utf-8", "replace") or "message",
                        last_id.decode("utf-8", "replace"),
                    )
                )
            data, kind = [], b""
            continue
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            kind = value
        elif name == b"id" and b"\0" not in value:
            last_id = value
    return events


def split_at(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12).map(str.encode)
LINES = st.one_of(
    st.builds(lambda value: b"data: " + value, TEXT),
    st.builds(lambda value: b"data:" + value, TEXT),
    st.builds(lambda name, value: name + b":" + value, TEXT, TEXT),
    st.builds(lambda value: b"event: " + value, TEXT),
    st.builds(lambda value: b"id: " + value, TEXT),
    st.sampled_from([b"data", b": comment", b"retry: 250", b"retry: x", b"id: \0", b"", b"", b"\xff\xfe"]),
)
STREAMS = st.builds(
    lambda bom, lines: bom + b"".join(line + end for line, end in lines),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.lists(st.tuples(LINES, ENDS), max_size=30),
)
CUTS = st.lists(st.integers(0, 10_000), max_size=20)


@given(STREAMS, CUTS)
def test_any_split_of_a_stream_gives_the_events_of_the_standard(stream: bytes, cuts: list[int]) -> None:
    assert decode(*split_at(stream, cuts)) == by_the_book(stream)


@given(STREAMS)
def test_byte_by_byte_gives_the_same_events(stream: bytes) -> None:
    assert decode(*(stream[i : i + 1] for i in range(len(stream)))) == by_the_book(stream)


@given(st.binary(max_size=400), CUTS)
def test_random_bytes_give_what_the_standard_says(noise: bytes, cuts: list[int]) -> None:
    assert decode(*split_at(noise, cuts)) == by_the_book(noise)


@given(st.binary(max_size=400), CUTS, st.integers(1, 40))
def test_random_bytes_under_a_cap_raise_nothing_else(noise: bytes, cuts: list[int], cap: int) -> None:
    decoder = SSEDecoder(max_event_bytes=cap)
    try:
        for part in split_at(noise, cuts):
            for event in decoder.feed(part):
                assert len(event.data) <= cap
    except ResponseFormatError as error:
        assert f"{cap:,} bytes" in str(error)


@pytest.mark.parametrize(
    ("stream", "datas"),
    [
        pytest.param(b"data: a\n\ndata: b\n\n", [b"a", b"b"], id="LF"),
        pytest.param(b"data: a\r\rdata: b\r\r", [b"a", b"b"], id="CR"),
        pytest.param(b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"], id="CRLF"),
        pytest.param(b"data:a\n\n", [b"a"], id="no space"),
        pytest.param(b"data:  a\n\n", [b" a"], id="one space goes, no more"),
        pytest.param(b"data: a\ndata: b\n\n", [b"a\nb"], id="several data lines"),
        pytest.param(b"data\n\n", [b""], id="a field without colon"),
        pytest.param(b": hello\n\n", [], id="a comment is no event"),
        pytest.param(b"event: x\n\ndata: a\n\n", [b"a"], id="an event without data is none"),
        pytest.param(b"data: a\n", [], id="an unfinished event is none"),
        pytest.param(b"\xef\xbb\xbfdata: a\n\n", [b"a"], id="byte order mark"),
        pytest.param(b"\xef\xbbdata: a\n\n", [], id="half a byte order mark is a strange field"),
        pytest.param(
            "data: gr\u00fc\u00df \U0001f600\n\n".encode(), ["gr\u00fc\u00df \U0001f600".encode()], id="UTF-8"
        ),
        pytest.param(b"data: a\0b\n\n", [b"a\0b"], id="NUL in data"),
    ],
)
def test_rules_of_the_standard(stream: bytes, datas: list[bytes]) -> None:
    assert [event.data for event in decode(stream)] == datas


def test_crlf_split_between_reads_ends_one_line() -> None:
    assert [event.data for event in decode(b"data: a\r", b"\ndata: b\r\n\r", b"\n")] == [b"a\nb"]


def test_type_and_id_are_understood_and_retry_passed_over() -> None:
    decoder = SSEDecoder()
    events = decoder.feed(
        b"event: note\nid: 7\nretry: 1500\ndata: a\n\ndata: b\n\nid: x\0y\nretry: 1s\ndata: c\n\n"
    )
    assert [(e.event, e.id) for e in events] == [("note", "7"), ("message", "7"), ("message", "7")]


@pytest.mark.parametrize("block", [b"x" * 1000, b"data: " + b"x" * 100 + b"\n"], ids=["line", "event"])
def test_what_never_ends_is_given_up_at_the_cap(block: bytes) -> None:
    decoder = SSEDecoder(max_event_bytes=10_000)
    with pytest.raises(ResponseFormatError, match="10,000 bytes"):
        for _ in range(200):
            decoder.feed(block)


def test_a_line_far_above_other_readers_limits_is_read() -> None:
    long = b"x" * 1_000_000
    assert [event.data for event in decode(b"data: ", long[:400_000], long[400_000:], b"\n\n")] == [long]


def test_a_text_and_a_limit_that_is_none_are_told() -> None:
    """A learner's `feed(raw.decode())` ended in "'in <string>' requires string as left operand"."""
    with pytest.raises(ConfigurationError, match="data is a str; give the bytes as they came"):
        SSEDecoder().feed("data: a\n\n")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="max_event_bytes='8 MB'"):
        SSEDecoder("8 MB")  # type: ignore[arg-type]
