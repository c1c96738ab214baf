"""What is sent again, when, and for how long at most."""

from __future__ import annotations

import math
import time

import pytest
from clients import Client, both_clients
from hypothesis import given
from hypothesis import strategies as st
from stub_server import (
    CHAT,
    DONE,
    ROLE,
    STOP,
    Answer,
    StubService,
    chat,
    delta,
    drop,
    error,
    hang,
    reply,
    stream,
)

from foundry_lab import CircuitBreaker, RetryPolicy, errors
from foundry_lab.policies.retry import Deadline

QUICK = RetryPolicy(retries=3, backoff_initial_s=0.001)
BUSY = error(503, "starting", "server_error")
both_ways = pytest.mark.parametrize("how", ["complete", "stream"])


# --- the policy alone -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "again"),
    [
        (errors.ServiceUnavailableError("x"), True),
        (errors.StreamInterruptedError("x"), True),
        *((errors.APIStatusError("x", status=status), True) for status in (408, 429, 500, 502, 503, 504)),
        *((errors.APIStatusError("x", status=status), False) for status in (302, 400, 401, 404, 409, 501)),
        (errors.ModelBusyError("x", status=500), False),
        (errors.ServerError("x", status=500, lasting=True), False),
        (errors.RequestTimeoutError("x", phase="connect"), True),
        (errors.RequestTimeoutError("x", phase="total"), False),
        (errors.RequestTimeoutError("x", phase="first_token"), False),
        (errors.RequestTimeoutError("x", phase="idle"), False),
        (errors.ResponseFormatError("x"), False),
        (errors.CircuitOpenError("x", retry_after=1), False),
        (errors.ConfigurationError("x"), False),
        (ValueError("x"), False),
    ],
    ids=lambda value: str(getattr(value, "status", getattr(value, "phase", type(value).__name__))),
)
def test_what_is_sent_again(failure: Exception, again: bool) -> None:
    assert RetryPolicy().is_retryable(failure) is again
    assert (RetryPolicy().wait_s(failure, 1) is not None) is again


def test_generations_that_timed_out_are_repeated_only_when_asked() -> None:
    policy = RetryPolicy(retry_timeouts=True)
    assert policy.is_retryable(errors.RequestTimeoutError("x", phase="first_token"))
    assert not policy.is_retryable(errors.RequestTimeoutError("x", phase="total"))


@given(st.integers(1, 10_000), st.floats(0, 100), st.floats(0, 100))
def test_waits_are_fully_jittered_below_the_exponential_ceiling(
    retry: int, first: float, most: float
) -> None:
    policy = RetryPolicy(backoff_initial_s=first, backoff_max_s=most)
    wait = policy.wait_s(errors.ServiceUnavailableError("x"), retry)
    assert wait is not None and 0 <= wait <= min(most, first * 2.0 ** min(retry - 1, 900))


def test_jitter_covers_the_whole_range() -> None:
    waits = [RetryPolicy().wait_s(errors.ServiceUnavailableError("x"), 3) or 0 for _ in range(500)]
    assert min(waits) < 0.2 and max(waits) > 0.6 and max(waits) <= 0.8


def test_retry_after_is_obeyed_up_to_the_cap() -> None:
    policy = RetryPolicy(retry_after_max_s=10)
    assert policy.wait_s(errors.RateLimitError("x", status=429, retry_after=7), 1) == 7
    assert policy.wait_s(errors.RateLimitError("x", status=429, retry_after=11), 1) is None


@pytest.mark.parametrize("asked", [0.0, -3.0])
def test_a_service_that_asks_for_no_wait_gets_the_policys_own(asked: float) -> None:
    failure = errors.RateLimitError("x", status=429, retry_after=asked)
    assert max(RetryPolicy().wait_s(failure, 4) or 0.0 for _ in range(100)) > 0.4


@pytest.mark.parametrize("field", ["backoff_initial_s", "backoff_max_s", "retry_after_max_s"])
@pytest.mark.parametrize("value", [-1, math.nan, "a", None])
def test_policies_that_make_no_sense_are_refused(field: str, value: float) -> None:
    with pytest.raises(errors.ConfigurationError, match=field):
        RetryPolicy(**{field: value})


def test_retries_are_a_number_whoever_gives_them() -> None:
    assert RetryPolicy(retries="3").retries == 3  # type: ignore[arg-type]  # as FOUNDRY_RETRIES does
    with pytest.raises(errors.ConfigurationError, match="retries='many'"):
        RetryPolicy(retries="many")  # type: ignore[arg-type]


def test_a_deadline_counts_down_and_never_below_zero() -> None:
    assert 9 < Deadline(10).remaining() <= 10
    assert Deadline(-1).remaining() == 0
    assert Deadline(3).error().limit_s == 3


# --- the clients under the policy -------------------------------------------------------------------------


@both_clients
@both_ways
def test_a_service_that_recovers_is_asked_until_it_does(kind: str, how: str) -> None:
    with StubService() as stub, Client(kind, stub.url, retry=QUICK) as client:
        stub.on("POST", CHAT, BUSY, drop, chat("hello"))
        assert client.ask(how) == "hello"
        assert stub.count("POST", CHAT) == 3
        assert client.raw.metrics.snapshot().retries >= 2


@both_clients
def test_attempts_are_counted_in_the_result(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url, retry=QUICK) as client:
        stub.on("POST", CHAT, BUSY, BUSY, chat("hello"))
        assert client.complete("hi").attempts == 3
        ids = {seen.headers["x-request-id"] for seen in stub.seen}
        assert len(ids) == 1, "one operation, one request id, on every attempt"


@both_clients
@both_ways
def test_retries_end(kind: str, how: str) -> None:
    with StubService() as stub, Client(kind, stub.url, retry=QUICK) as client:
        stub.on("POST", CHAT, BUSY)
        with pytest.raises(errors.ServerError):
            client.ask(how)
        assert stub.count("POST", CHAT) == 4


@both_clients
@both_ways
def test_no_retries_means_one_attempt(kind: str, how: str) -> None:
    with StubService() as stub, Client(kind, stub.url, retries=0) as client:
        stub.on("POST", CHAT, BUSY)
        with pytest.raises(errors.ServerError):
            client.ask(how)
        assert stub.count("POST", CHAT) == 1


@both_clients
@both_ways
@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_wrong_request_is_not_sent_again(kind: str, how: str, status: int) -> None:
    with StubService() as stub, Client(kind, stub.url, retry=QUICK) as client:
        stub.on("POST", CHAT, error(status, "no"))
        with pytest.raises(errors.APIStatusError):
            client.ask(how)
        assert stub.count("POST", CHAT) == 1


NO_TOOLS = error(500, "structured tool calling requires model-published tool markers", "server_error")
NO_GRAMMAR = error(500, "Error creating grammar: Unknown format: x", "server_error")


@both_clients
@both_ways
@pytest.mark.parametrize("answer", [NO_TOOLS, NO_GRAMMAR], ids=["tools", "grammar"])
def test_what_would_fail_again_is_asked_once_and_shuts_nobody_out(
    kind: str, how: str, answer: Answer
) -> None:
    breaker = CircuitBreaker(failure_threshold=1)
    with StubService() as stub, Client(kind, stub.url, retry=QUICK, breaker=breaker) as client:
        stub.on("POST", CHAT, *[answer] * 3, chat("hello"))
        for _ in range(3):
            with pytest.raises(errors.ServerError) as caught:
                client.ask(how)
            assert caught.value.lasting
        assert client.ask(how) == "hello" and breaker.state == "closed"
        assert stub.count("POST", CHAT) == 4


@both_clients
@both_ways
def test_retry_after_seconds_are_waited(kind: str, how: str) -> None:
    with StubService() as stub, Client(kind, stub.url, retry=QUICK) as client:
        stub.on("POST", CHAT, reply(429, b"{}", headers={"Retry-After": "0.3"}), chat("hello"))
        began = time.monotonic()
        assert client.ask(how) == "hello"
        assert time.monotonic() - began >= 0.3


@both_clients
def test_a_retry_after_beyond_the_deadline_ends_at_once(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url, retry=QUICK) as client:
        stub.on("POST", CHAT, reply(429, b"{}", headers={"Retry-After": "20"}))
        with pytest.raises(errors.RateLimitError) as caught:
            client.complete("hi", timeout=5)
        assert caught.value.retry_after == 20 and stub.count("POST", CHAT) == 1


@both_clients
@both_ways
def test_a_generation_that_timed_out_is_never_sent_twice(kind: str, how: str) -> None:
    with StubService() as stub, Client(kind, stub.url, retry=QUICK) as client:
        client.complete("hi")  # what a new client has to find out first is found out
        stub.on("POST", CHAT, hang)
        for _ in range(5):  # a thread that is kept from running may spend the limit before it sends
            with pytest.raises(errors.RequestTimeoutError):
                client.ask(how, timeout=0.5)
            if stub.count("POST", CHAT) > 1:
                break
        assert stub.count("POST", CHAT) == 1 + 1


@both_clients
@both_ways
def test_the_deadline_spans_all_attempts(kind: str, how: str) -> None:
    slow = error(503, "busy", "server_error", delay_s=0.4)
    policy = RetryPolicy(retries=100, backoff_initial_s=0.001, backoff_max_s=0.001)
    with StubService() as stub, Client(kind, stub.url, retry=policy, breaker=False) as client:
        client.complete("hi")
        stub.on("POST", CHAT, slow)
        began = time.monotonic()
        with pytest.raises((errors.ServerError, errors.RequestTimeoutError)):
            client.ask(how, timeout=3)
        assert time.monotonic() - began < 20  # all attempts would take 40 s
        assert 2 <= stub.count("POST", CHAT) - 1 <= 9


@both_clients
def test_a_stream_that_failed_before_its_first_text_starts_afresh(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url, retry=QUICK) as client:
        broken = stream(ROLE, b'data: {"error":{"message":"boom","type":"server_error"}}\n\ndata: {"half')
        interrupted = stream(ROLE, b'data: {"half', then="reset")
        stub.on("POST", CHAT, broken, interrupted, chat("whole"))
        assert client.stream_text() == "whole"
        assert stub.count("POST", CHAT) == 3


@both_clients
def test_a_stream_is_not_repeated_after_its_first_text(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url, retry=QUICK) as client:
        stub.on("POST", CHAT, stream(delta("so"), delta(" far"), then="reset"), chat("again"))
        answer = client.open()
        with pytest.raises(errors.StreamInterruptedError) as caught:
            client.read(answer)
        assert caught.value.partial == answer.text == "so far"
        assert stub.count("POST", CHAT) == 1


@both_clients
@both_ways
def test_the_breaker_opens_and_then_nothing_is_sent(kind: str, how: str) -> None:
    breaker = CircuitBreaker(failure_threshold=2, open_s=60)
    with StubService() as stub, Client(kind, stub.url, retries=0, breaker=breaker) as client:
        stub.on("POST", CHAT, BUSY)
        for _ in range(2):
            with pytest.raises(errors.ServerError):
                client.ask(how)
        with pytest.raises(errors.CircuitOpenError):
            client.ask(how)
        assert stub.count("POST", CHAT) == 2
        assert client.health_check().status == "healthy", "a look at the service passes an open breaker"


@both_clients
def test_streams_that_break_count_against_the_service(kind: str) -> None:
    breaker = CircuitBreaker(failure_threshold=3, open_s=60)
    with StubService() as stub, Client(kind, stub.url, retries=0, breaker=breaker) as client:
        stub.on("POST", CHAT, stream(delta("so far"), then="reset"))
        for _ in range(3):
            with pytest.raises(errors.StreamInterruptedError):
                client.stream_text()
        assert breaker.state == "open"


@both_clients
def test_streams_left_early_do_not_count(kind: str) -> None:
    breaker = CircuitBreaker(failure_threshold=1)
    with StubService() as stub, Client(kind, stub.url, breaker=breaker) as client:
        stub.on("POST", CHAT, stream(delta("a"), delta("b"), STOP, DONE, pause_s=0.05))
        for _ in range(3):
            answer = client.open()
            client.next(answer)
            client.leave(answer)
        assert breaker.state == "closed"
