"""The contract without I/O: request bodies, streamed chunks, errors in the service's words."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import pickle
import time
import unicodedata
from email.utils import formatdate
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_server import DONE, MODEL, ROLE, STOP, USAGE, chat_body, delta, error_body, event, text_events

from foundry_lab import errors, protocol
from foundry_lab.protocol import Reply
from foundry_lab.protocol.chat_stream import ChatStream
from foundry_lab.protocol.failure import retry_after
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
    b"[]",
    b"NULL",
    b'{"choices": [{"text": "a legacy completion"}]}',
    b'{"choices": [{"message": {"content": "a whole answer"}}]}',
    b'"text"',
    b'{"choices": {}}',
    b'{"choices": [{"delta": {"content": 5}}]}',
    b'{"choices": [{"delta": [1]}]}',
    b'{"choices": [{"finish_reason": 3}]}',
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


# --- what other servers send ------------------------------------------------------------------------------


def piece(text: str | None = None, finish_reason: str | None = None, **changes: Any) -> bytes:
    return event({"choices": [{"delta": {"content": text}, "finish_reason": finish_reason} | changes]})


def test_an_empty_finish_reason_is_none_so_a_cut_stream_is_noticed() -> None:
    chunks, stream = read(piece("so far", ""))
    assert chunks[0].finish_reason is None and stream.finish_reason is None
    with pytest.raises(errors.StreamInterruptedError):
        stream.end()
    whole = chat_body("hello")
    whole["choices"][0]["finish_reason"] = ""
    assert protocol.parse_completion(reply(whole), 0.0).finish_reason is None


def test_choices_of_one_stream_do_not_mix() -> None:
    both = event(
        {"choices": [{"index": 1, "delta": {"content": "x"}}, {"index": 0, "delta": {"content": "b"}}]}
    )
    chunks, stream = read(piece("a", index=0), piece("x", index=1), both, piece("", "length", index=1))
    assert "".join(chunk.content for chunk in chunks) == "ab" and stream.finish_reason is None
    later, stream = read(piece("x", index=1), piece("a", index=0), piece("y", "stop", index=1))
    assert "".join(chunk.content for chunk in later) == "xy" and stream.finish_reason == "stop"


@pytest.mark.parametrize("nothing", [b"data: null\n\n", b"data:\n\n", b"data\n\n", b"data:  \n\n"], ids=repr)
def test_an_event_that_says_nothing_is_passed_over(nothing: bytes) -> None:
    chunks, stream = read(nothing, piece("a"), nothing, piece(None, "stop"), nothing, DONE)
    assert [chunk.content for chunk in chunks] == ["a", ""] and stream.done


@pytest.mark.parametrize("word", [b" [DONE]", b"[DONE] ", b"\t[DONE]\t"], ids=repr)
def test_blanks_around_done(word: bytes) -> None:
    assert read(piece("a"), event(word))[1].done


def test_nulls_are_what_is_not_known() -> None:
    nulls = {"usage": None, "id": None, "model": None}
    completion = protocol.parse_completion(reply(chat_body("hello", **nulls)), 0.0)
    assert (completion.usage, completion.id, completion.model) == (None, "", "")
    chunks, stream = read(
        event({"choices": [{"delta": {"content": "a"}}], **nulls}), event({"choices": None})
    )
    assert chunks[0].content == "a" and (stream.usage, stream.model) == (None, "")


@pytest.mark.parametrize(
    ("usage", "prompt_tokens"),
    [
        ({"prompt_tokens": 5.0}, 5),
        ({"prompt_tokens": 5, "completion_tokens": None}, 5),
        ({"prompt_tokens": -1}, None),
        ({"prompt_tokens": 5.5}, None),
        ({"prompt_tokens": 10**400}, None),
        ({"prompt_tokens": "many"}, None),
        ({"prompt_tokens": [1]}, None),
        ({"prompt_tokens": "5"}, 5),
        ({"cost": 1}, None),
        ({}, None),
        ([1], None),
        ("many", None),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_count_is_what_it_means_or_unknown_never_zero(usage: Any, prompt_tokens: int | None) -> None:
    completion = protocol.parse_completion(reply(chat_body("hello", usage=usage)), 0.0)
    _, stream = read(event({"choices": [], "usage": usage}))
    for counted in (completion.usage, stream.usage):
        assert (None if counted is None else counted.prompt_tokens) == prompt_tokens


WORDS = "CUDA out of memory"
IN_OTHER_WORDS = [
    {"choices": None, "error": {"message": WORDS}},
    {"choices": [], "error": {"message": {"reason": WORDS}}},
    {"error": {"message": None, "type": WORDS}},
    {"error": WORDS},
]


@pytest.mark.parametrize("body", IN_OTHER_WORDS, ids=str)
def test_the_words_of_an_error_are_kept_whatever_is_around_them(body: Any) -> None:
    for use in (lambda: read(event(body)), lambda: protocol.parse_completion(reply(body), 0.0)):
        with pytest.raises(errors.ServerError, match=WORDS):
            use()


@pytest.mark.parametrize(
    "body", [b'event: error\ndata: {"message": "M"}\n\n', event({"object": "error", "message": "M"})]
)
def test_an_error_event_without_an_error_field(body: bytes) -> None:
    with pytest.raises(errors.ServerError, match=r'"message": ?"M"'):
        read(body)


def test_type_code_and_param_of_an_error_are_kept() -> None:
    said = {"error": {"message": "no", "type": "t", "code": 422, "param": "p"}}
    for use in (lambda: read(event(said)), lambda: protocol.raise_for_status(reply(said, 422))):
        with pytest.raises(errors.BadRequestError) as caught:
            use()
        error = pickle.loads(pickle.dumps(caught.value))
        assert (error.status, error.type, error.code, error.param) == (422, "t", 422, "p")


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_is_kept_apart(name: str) -> None:
    def thinks(text: str) -> bytes:
        return piece(delta={name: text, "content": None})

    chunks, stream = read(ROLE, thinks("Hm."), thinks(" So"), piece("4"), STOP)
    assert [(chunk.content, chunk.reasoning) for chunk in chunks] == [
        ("", "Hm."),
        ("", " So"),
        ("4", ""),
        ("", ""),
    ]
    assert stream.parts == ["4"] and stream.thoughts == ["Hm.", " So"]
    whole = chat_body("4")
    whole["choices"][0]["message"][name] = "Hm."
    completion = protocol.parse_completion(reply(whole), 0.0)
    assert (completion.content, completion.reasoning) == ("4", "Hm.")


def test_reasoning_that_is_no_text_is_none() -> None:
    assert read(piece("4", delta={"content": "4", "reasoning": {"effort": "low"}}))[0][0].reasoning == ""


# --- what hostile servers send ----------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["a.cc:1 ", "a", "_.h:1 (", "x.cc:1 )> const ", "error creating grammar "])
def test_the_words_of_an_error_take_no_quadratic_time(unit: str) -> None:
    """By the growth from one length to 64 times it: a starved machine slows both."""

    def took_s(length: int) -> float:
        body = reply(error_body(unit * (length // len(unit)), "server_error"), 500)
        times = []
        for _ in range(5):
            began = time.process_time()
            with pytest.raises(errors.ServerError) as caught:
                protocol.raise_for_status(body)
            times.append(time.process_time() - began)
            assert len(caught.value.message) <= 1001
        return min(times)

    assert took_s(640_000) < 64 * max(took_s(10_000), 1e-4)


@given(st.text(max_size=80))
def test_control_characters_of_a_service_reach_no_error_raw(text: str) -> None:
    hostile = f"\x1b[2J\x1b]0;title\x07\x9b31m\u202e\r\n{text}"
    foreign = Reply(500, {"Content-Type": "text/\x1b[31mhtml", "Server": hostile}, hostile.encode())
    for use in (
        lambda: protocol.raise_for_status(reply(error_body(hostile), 500)),
        lambda: protocol.raise_for_status(reply(error_body(hostile), 400)),
        lambda: protocol.raise_for_status(foreign),
        lambda: protocol.parse_completion(msgspec.structs.replace(foreign, status=200), 0.0),
        lambda: read(event(error_body(hostile))),
    ):
        with pytest.raises(errors.FoundryError) as caught:
            use()
        shown = str(caught.value) + repr(caught.value)
        assert not {char for char in shown if unicodedata.category(char) == "Cc"}
        assert "\u202e" not in shown


def test_a_stream_is_kept_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundry_lab.protocol.chat_stream.MAX_BODY_BYTES", 1000)
    with pytest.raises(errors.ResponseFormatError, match="1,000 bytes"):
        read(*[piece("x" * 50)] * 20)
    with pytest.raises(errors.ResponseFormatError, match="1,000 bytes"):
        read(*[piece(delta={"reasoning": "x"})] * 20)
    assert len(read(*[piece("x" * 50)] * 8, DONE)[0]) == 8


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
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"delta": {"content": "a streamed one"}}]}',
        b'{"choices": [{"text": "a legacy one"}]}',
        b'{"choices": null}',
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
        (408, "late", errors.APIStatusError, "Try again"),
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


GRAMMAR = "failed to create generator: Error creating grammar: "
SIGNATURE = (
    "onnx_chat_generator.cc:431 static std::unique_ptr<fl::OnnxChatGenerator> fl::Make(const fl::A&, bool) "
)
LASTING = [
    ("structured tool calling requires model-published opening and closing tool markers", "has no tools"),
    (GRAMMAR + "Unsatisfiable schema: required property 'a' is unsatisfiable", "no answer can fit"),
    (GRAMMAR + 'Unimplemented keys: ["uniqueItems"]', "Simplify the schema"),
    (GRAMMAR + "Unknown format: nonsense", "Simplify the schema"),
    (GRAMMAR + "regex parse error:\n    ^a(\n      ^\nerror: unclosed group", "Simplify the schema"),
    (GRAMMAR + "panic: assertion failed: grammar.symbols.len()", "Simplify the schema"),
]


@pytest.mark.parametrize(("words", "advice"), LASTING, ids=lambda value: value[-24:])
def test_what_would_fail_again_is_told_from_what_passes(words: str, advice: str) -> None:
    said = error_body(f"Inference failed: {SIGNATURE}{words}", "server_error")
    for use in (lambda: read(event(said)), lambda: protocol.raise_for_status(reply(said, 500))):
        with pytest.raises(errors.ServerError, match=advice) as caught:
            use()
        assert caught.value.lasting and caught.value.message == "Inference failed: " + " ".join(words.split())
        assert "restart" not in str(caught.value)
    with pytest.raises(errors.ServerError) as passing:
        protocol.raise_for_status(reply(error_body("boom", "server_error"), 500))
    assert not passing.value.lasting


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
    with pytest.raises(errors.ResponseFormatError, match="it is empty"):
        protocol.parse_completion(reply(body, status), 0.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("0", None),
        ("-0", None),
        ("-3", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        ("9" * 400, None),
        ("Mon, 01 Jan 2026 00:00:00 +9999999999999999999999", None),
        ("Mon, 01 Jan 99999 00:00:00 GMT", None),
    ],
)
def test_retry_after_in_seconds(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-AFTER": value}) == seconds


def test_retry_after_as_a_date() -> None:
    now = time.time()
    wait = retry_after({"Retry-After": formatdate(now + 60, usegmt=True)})
    assert wait is not None and 30 < wait <= 60  # a starved machine may take its time
    assert retry_after({"Retry-After": formatdate(now - 60, usegmt=True)}) is None


@given(st.text(max_size=40))
def test_any_retry_after_is_seconds_or_none(value: str) -> None:
    wait = retry_after({"Retry-After": value})
    assert wait is None or 0 < wait < float("inf")


# --- requests ---------------------------------------------------------------------------------------------


def test_a_request_carries_only_what_was_given() -> None:
    assert protocol.build_fields({"max_tokens": 5, "stop": None}) == {"max_tokens": 5}
    call = protocol.build_chat({"model": "m", "messages": []})
    assert call.body is not None and json.loads(call.body) == {"model": "m", "messages": []}
    streamed = protocol.build_chat({}, stream=True)
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
        {"seed": -1},
        {"seed": 2**31},
        {"stop": 5},
        {"stop": ["a", 5]},
        {"stop": ""},
        {"stop": ["a", ""]},
        {"tools": "hammer"},
        {"tools": [{"type": "function"}, "hammer"]},
        {"tool_choice": True},
        {"tool_choice": b"auto"},
        {"response_format": "json"},
        {"response_format": {}},
        {"response_format": {"type": None}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": None}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": None}}},
        {"custom": 1j},
        {"custom": [{"in": float("nan")}]},
        {"custom": -float("inf")},
        {"custom": {"in": np.float64("nan"), "beside": None}},
    ],
    ids=str,
)
def test_values_the_service_would_ignore_or_choke_on_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(errors.ConfigurationError, match=next(iter(fields)) + "|JSON"):
        protocol.build_chat(protocol.build_fields(fields))


def test_what_json_calls_null_is_sent_whatever_stands_beside_it() -> None:
    fields = {"a": {3: "null"}, "b": datetime.date(2026, 1, 1), "c": np.float32(1.5), "d": {"e": None}}
    sent = protocol.build_chat(fields).body
    assert sent == b'{"a":{"3":"null"},"b":"2026-01-01","c":1.5,"d":{"e":null}}'


def test_a_request_nested_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    deep.append(deep)
    with pytest.raises(errors.ConfigurationError, match="nested too deeply"):
        protocol.build_chat({"custom": deep})


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
    "content",
    [
        *(5, True, {"type": "text", "text": "hi"}),
        *([], ["hi"], [{"text": "hi"}], [{"type": 5}], [{"type": "text"}], [{"type": "text", "text": b"hi"}]),
    ],
    ids=str,
)
def test_a_content_the_service_would_leave_out_is_refused(content: Any) -> None:
    messages = [{"role": "user", "content": "Say A"}, {"role": "user", "content": content}]
    with pytest.raises(errors.ConfigurationError, match="Message 2 is"):
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
