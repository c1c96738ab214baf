"""The contract without I/O: request bodies, streamed chunks, errors in the service's words."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_server import DONE, MODEL, ROLE, STOP, USAGE, chat_body, delta, error_body, event, text_events

from foundry_lab import errors, protocol
from foundry_lab.protocol import Reply
from foundry_lab.protocol.chat_stream import ChatStream
from foundry_lab.protocol.reply import retry_after
from foundry_lab.types import Chunk

JSON = {"Content-Type": "application/json", "Server": "oatpp/1.3.0"}


def reply(body: Any, status: int = 200, **headers: str) -> Reply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, {**JSON, **headers}, data, "req-1")


def read(*parts: bytes) -> tuple[list[Chunk], ChatStream]:
    stream = ChatStream("req-1")
    return [chunk for part in parts for chunk in stream.feed(part, 0.0)], stream


# --- streams ----------------------------------------------------------------------------------------------


def test_stream_as_the_service_sends_it() -> None:
    chunks, stream = read(b"".join(text_events("one two three")))
    assert [chunk.content for chunk in chunks] == ["one", " two", " three", ""]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert (
        stream.done and stream.model == MODEL and stream.usage is not None and stream.usage.total_tokens == 8
    )
    stream.end()


@given(st.text(st.characters(codec="utf-8"), max_size=60), st.lists(st.integers(0, 5000), max_size=12))
def test_any_split_gives_the_same_text(text: str, cuts: list[int]) -> None:
    data = b"".join(text_events(text))
    places = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    chunks, stream = read(*(data[a:b] for a, b in itertools.pairwise(places)))
    assert "".join(chunk.content for chunk in chunks) == text
    assert stream.done


def test_role_only_and_empty_choices_give_no_chunk() -> None:
    assert read(ROLE, USAGE, event({"choices": []}))[0] == []


def test_end_without_done_but_with_a_reason_is_an_end() -> None:
    read(delta("a"), STOP)[1].end()


def test_end_without_done_or_reason_is_an_interruption_with_the_text_so_far() -> None:
    _, stream = read(delta("so "), delta("far"))
    with pytest.raises(errors.StreamInterruptedError) as caught:
        stream.end()
    assert caught.value.partial == "so far"


def test_what_comes_after_done_is_ignored() -> None:
    chunks, stream = read(delta("a") + STOP + DONE + delta("b") + event(b"no json"), delta("c"))
    assert [chunk.content for chunk in chunks] == ["a", ""]
    assert stream.done


def test_tool_call_deltas_pass_through() -> None:
    call = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{"}}
    (chunk,) = read(delta(None, tool_calls=[call]))[0]
    assert chunk.tool_calls == (call,) and chunk.content == ""


def test_null_delta_and_null_content_are_nothing_said() -> None:
    assert (
        read(event({"choices": [{"delta": None}]}), event({"choices": [{"delta": {"content": None}}]}))[0]
        == []
    )


@pytest.mark.parametrize(
    ("message", "kind", "expected", "status"),
    [
        ("max_output_tokens must be >= 1", "invalid_request_error", errors.BadRequestError, 400),
        (
            "request requires 9034 total tokens, which exceeds …",
            "invalid_request_error",
            errors.ContextLengthError,
            400,
        ),
        ("something broke", "server_error", errors.ServerError, 500),
        ("Model not found: No model matching 'x'", "invalid_request_error", errors.ModelNotFoundError, 404),
    ],
)
def test_error_event_inside_a_200(
    message: str, kind: str, expected: type[errors.APIStatusError], status: int
) -> None:
    with pytest.raises(expected) as caught:
        read(event(error_body(message, kind)))
    assert (caught.value.status, caught.value.message, caught.value.request_id) == (status, message, "req-1")


def test_error_event_as_a_bare_string() -> None:
    with pytest.raises(errors.ServerError, match="out of memory"):
        read(event({"error": "out of memory"}))


WRONG_CHUNKS = [
    b"no json",
    b"",
    b"[]",
    b"null",
    b'"text"',
    b'{"choices": {}}',
    b'{"choices": [{"delta": {"content": 5}}]}',
    b'{"choices": [{"delta": [1]}]}',
    b'{"choices": [{"finish_reason": 3}]}',
    b'{"usage": "many"}',
    b'{"choices": [{"delta": {"content": "\xff"}}]}',
    b'{"choices": [',
    b'{"x":' + b"[" * 100_000,
]


@pytest.mark.parametrize("data", WRONG_CHUNKS, ids=lambda data: repr(data[:24]))
def test_an_event_that_is_no_chunk_is_a_format_error(data: bytes) -> None:
    with pytest.raises(errors.ResponseFormatError, match="endpoint"):
        read(event(data))


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_random_bytes_raise_nothing_but_format_errors(noise: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(noise), *(min(cut, len(noise)) for cut in cuts)})
    with contextlib.suppress(errors.ResponseFormatError):
        read(*(noise[a:b] for a, b in itertools.pairwise(places)))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "message", "content", "usage", "error", "finish_reason"]),
            inner,
        )
    ),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_any_json_is_a_result_or_an_error_of_the_tree(value: Any) -> None:
    for use in (
        lambda: read(event(value)),
        lambda: protocol.parse_completion(reply(value), 0.0),
        lambda: protocol.raise_for_status(reply(value, 500)),
    ):
        try:
            use()
        except errors.FoundryError as error:
            assert str(error)


# --- whole answers ----------------------------------------------------------------------------------------


def test_a_whole_answer() -> None:
    completion = protocol.parse_completion(reply(chat_body("hello")), 1.5)
    assert (completion.content, completion.finish_reason, completion.model) == ("hello", "stop", MODEL)
    assert completion.usage is not None and completion.usage.completion_tokens == 3
    assert completion.tokens_per_s == 2.0 and completion.request_id == "req-1"


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Sign in</html>",
        b'{"choices": [{"mess',
        b"[]",
        b'{"choices": []}',
        b'{"choices": "none"}',
        b'{"choices": [{"message": {"content": 7}}]}',
        b"\x1f\x8b\x08\x00gzip",
        b"\0\0\0",
        b'{"x":' + b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:16]),
)
def test_a_body_that_is_no_completion_tells_what_came(body: bytes) -> None:
    with pytest.raises(errors.ResponseFormatError) as caught:
        protocol.parse_completion(reply(body), 0.0)
    message = str(caught.value)
    assert "Status 200" in message and "oatpp" in message and len(message) < 700
    assert "\0" not in message


def test_an_error_inside_a_200_is_an_error() -> None:
    with pytest.raises(errors.ServerError):
        protocol.parse_completion(reply(error_body("broken", "server_error")), 0.0)


# --- statuses ---------------------------------------------------------------------------------------------

NOT_LOADED = "Model not loaded: Model 'm:1' must be loaded before inference"
TOO_LONG = (
    "Invalid request: search_options.cc:108 int fl::ValidateGeneratorRequestBudget(int64_t, int, int) "
    "request requires 9043 total tokens (9031 input + 12 output), which exceeds the model's maximum context "
    "length of 8192 tokens"
)


@pytest.mark.parametrize(
    ("status", "message", "kind", "advice"),
    [
        (400, "stop must be a string", errors.BadRequestError, "Change the request"),
        (400, NOT_LOADED, errors.ModelNotLoadedError, "load_model"),
        (400, TOO_LONG, errors.ContextLengthError, "max_tokens"),
        (401, "no key", errors.AuthenticationError, "FOUNDRY_API_KEY"),
        (403, "wrong key", errors.AuthenticationError, "FOUNDRY_API_KEY"),
        (404, "Model not found: No model matching 'x'", errors.ModelNotFoundError, "list_models"),
        (422, "what?", errors.BadRequestError, "Change the request"),
        (429, "slow down", errors.RateLimitError, "Wait"),
        (500, "boom", errors.ServerError, "restart"),
        (500, "1 session(s) still using it", errors.ModelBusyError, "Wait"),
        (503, "starting", errors.ServerError, "restart"),
        (302, "elsewhere", errors.APIStatusError, "endpoint"),
    ],
)
def test_status_and_words_make_the_error(
    status: int, message: str, kind: type[errors.APIStatusError], advice: str
) -> None:
    with pytest.raises(errors.APIStatusError) as caught:
        protocol.raise_for_status(reply(error_body(message), status))
    assert type(caught.value) is kind
    assert caught.value.status == status and caught.value.request_id == "req-1"
    assert str(status) in str(caught.value) and advice in str(caught.value)


def test_source_lines_of_the_service_are_left_out() -> None:
    with pytest.raises(errors.ContextLengthError) as caught:
        protocol.raise_for_status(reply(error_body(TOO_LONG), 400))
    assert caught.value.message.startswith("Invalid request: request requires 9043 total tokens (9031 input")


def test_a_source_line_that_ends_in_a_lambda_is_left_out() -> None:
    said = (
        "stop_strings.cc:27 fl::{anonymous}::NormalizeStopStringsImpl(const nlohmann::json&)"
        "::<lambda(std::string, std::string)> stop must not be empty"
    )
    with pytest.raises(errors.BadRequestError) as caught:
        protocol.raise_for_status(reply(error_body(said), 400))
    assert caught.value.message == "stop must not be empty"


@pytest.mark.parametrize("status", [404, 405, 500, 502])
def test_an_error_in_foreign_words_says_who_answered(status: int) -> None:
    foreign = Reply(status, {"Content-Type": "text/html", "Server": "nginx"}, b"<h1>Not  here</h1>")
    with pytest.raises(errors.APIStatusError) as caught:
        protocol.raise_for_status(foreign)
    assert "nginx" in str(caught.value) and "Not here" in str(caught.value)
    assert not isinstance(caught.value, errors.ModelNotFoundError)


@pytest.mark.parametrize(("status", "body"), [(204, b""), (200, b"")])
def test_an_empty_success_is_no_answer(status: int, body: bytes) -> None:
    with pytest.raises(errors.ResponseFormatError, match="empty"):
        protocol.raise_for_status(reply(body, status))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        ("9" * 400, None),
    ],
)
def test_retry_after_in_seconds(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-AFTER": value}) == seconds


def test_retry_after_as_a_date() -> None:
    now = time.time()
    assert retry_after({"Retry-After": formatdate(now + 7, usegmt=True)}, now) == pytest.approx(7, abs=1)
    assert retry_after({"Retry-After": formatdate(now - 60, usegmt=True)}, now) == 0.0


@given(st.text(max_size=40))
def test_any_retry_after_is_seconds_or_none(value: str) -> None:
    wait = retry_after({"Retry-After": value})
    assert wait is None or 0 <= wait < float("inf")


# --- requests ---------------------------------------------------------------------------------------------


def test_a_request_carries_only_what_was_given() -> None:
    call = protocol.build_chat("m", {"messages": [], "max_tokens": 5, "stop": None})
    assert call.body is not None and json.loads(call.body) == {"model": "m", "messages": [], "max_tokens": 5}
    streamed = protocol.build_chat("m", {}, stream=True)
    assert streamed.body is not None
    assert json.loads(streamed.body)["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": "x"},
        {"max_tokens": 1.5},
        {"max_tokens": True},
        {"temperature": "hot"},
        {"temperature": float("nan")},
        {"top_p": float("inf")},
        {"seed": "a"},
        {"stop": 5},
        {"stop": ["a", 5]},
        {"stop": ""},
        {"stop": ["a", ""]},
        {"tools": "hammer"},
        {"response_format": "json"},
        {"custom": object()},
    ],
    ids=str,
)
def test_values_the_service_would_ignore_or_choke_on_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(errors.ConfigurationError, match=next(iter(fields)) + "|JSON"):
        protocol.build_chat("m", fields)


@pytest.mark.parametrize(
    ("prompt", "messages"),
    [
        (None, None),
        ("a", [{"role": "user", "content": "b"}]),
        (5, None),
        (b"bytes", None),
        (None, []),
        (None, "hello"),
        (None, 5),
        (None, ["hello"]),
        (None, [{"content": "no role"}]),
        (None, [{"role": "user"}]),
        (None, [{"role": 5, "content": "x"}]),
        (None, {"role": "user", "content": "not a list"}),
    ],
)
def test_prompts_and_messages_that_are_none(prompt: Any, messages: Any) -> None:
    with pytest.raises(errors.ConfigurationError):
        protocol.build_messages(prompt, messages, None)


@pytest.mark.parametrize(
    "content", [5, True, {"type": "text", "text": "hi"}, [], ["hi"], [{"text": "hi"}], [{"type": 5}]], ids=str
)
def test_a_content_the_service_would_leave_out_is_refused(content: Any) -> None:
    messages = [{"role": "user", "content": "Say A"}, {"role": "user", "content": content}]
    with pytest.raises(errors.ConfigurationError, match="content of message 2 is"):
        protocol.build_messages(None, messages, None)


@pytest.mark.parametrize("content", ["", None, [{"type": "text", "text": "hi"}]], ids=str)
def test_a_content_the_service_takes_is_sent_as_it_is(content: Any) -> None:
    messages = [{"role": "user", "content": content}, {"role": "assistant", "tool_calls": []}]
    assert protocol.build_messages(None, messages, None) == messages


def test_a_system_prompt_goes_first() -> None:
    assert protocol.build_messages("hi", None, "be brief") == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
    ]
