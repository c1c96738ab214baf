"""The circuit breaker against a plain model of it, and under concurrency."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from clients import Client, both_clients
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from stub_server import CHAT, DONE, ROLE, STOP, StubService, chat, delta, error, stream

from foundry_lab import CircuitBreaker
from foundry_lab.errors import (
    BadRequestError,
    CircuitOpenError,
    ConfigurationError,
    ModelNotFoundError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    ServiceUnavailableError,
    StreamInterruptedError,
)
from foundry_lab.policies.breaker import PROBE_LOST_S, Ticket, Transition, is_failure


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


WINDOW_S, OPEN_S, SLOW_S, MINIMUM = 10, 5, 3, 4
FAILURE = ServerError("x", status=500)
ENDS = {"success": None, "failure": FAILURE, "release": asyncio.CancelledError()}


class Call(NamedTuple):
    """What the model knows of a call under way."""

    ticket: Ticket
    period: int
    began: float


class Ended(NamedTuple):
    """What the model knows of a call that has ended."""

    at: float
    failed: bool
    slow: bool


class BreakerAgainstModel(RuleBasedStateMachine):
    """The model keeps every outcome of the current period in one plain list and recounts it each time."""

    @initialize(
        threshold=st.integers(1, 4),
        probes=st.integers(1, 3),
        rate=st.sampled_from([None, 0.3, 0.5, 1.0]),
        slow_rate=st.sampled_from([None, 0.25, 0.5, 1.0]),
    )
    def start(self, threshold: int, probes: int, rate: float | None, slow_rate: float | None) -> None:
        self.clock = Clock()
        self.threshold, self.probes, self.rate, self.slow_rate = threshold, probes, rate, slow_rate
        self.told: list[Transition] = []
        self.breaker = CircuitBreaker(
            failure_threshold=threshold,
            failure_rate=rate,
            window_s=WINDOW_S,
            minimum_calls=MINIMUM,
            open_s=OPEN_S,
            half_open_probes=probes,
            slow_call_s=None if slow_rate is None else SLOW_S,
            slow_call_rate=slow_rate or 0.5,
            clock=self.clock,
        )
        self.breaker.add_listener(self.told.append)
        self.state = "closed"
        self.held = False
        self.period = 0
        self.opened_at = 0.0
        self.outcomes: list[Ended] = []
        self.out = self.succeeded = 0
        self.calls: list[Call] = []

    def enter(self, state: str) -> None:
        self.state, self.outcomes, self.out, self.succeeded = state, [], 0, 0
        self.period += 1
        self.opened_at = self.clock.now

    def due(self) -> bool:
        return self.state == "open" and not self.held and self.clock.now - self.opened_at >= OPEN_S

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 11.0, PROBE_LOST_S]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def a_call_begins(self) -> None:
        if self.due():
            self.enter("half-open")
        full = self.out + self.succeeded >= self.probes
        if self.state == "half-open" and full and self.clock.now - self.opened_at >= PROBE_LOST_S:
            self.enter("half-open")
        allowed = self.state == "closed" or (
            self.state == "half-open" and self.out + self.succeeded < self.probes
        )
        if allowed:
            self.calls.append(Call(self.breaker.acquire(), self.period, self.clock.now))
            self.out += self.state == "half-open"
        else:
            with pytest.raises(CircuitOpenError) as caught:
                self.breaker.acquire()
            wait_s = caught.value.retry_after
            assert wait_s is None if self.held else wait_s is not None and 0 <= wait_s <= OPEN_S

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), outcome=st.sampled_from([*ENDS]))
    def a_call_ends(self, data: Any, outcome: str) -> None:
        call = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        call.ticket.settle(ENDS[outcome])
        if call.period != self.period:
            return  # old news
        failed = outcome == "failure"
        slow = self.slow_rate is not None and self.clock.now - call.began > SLOW_S
        if self.state == "half-open":
            self.out -= 1
            if outcome == "release":
                return
            if failed or slow:
                self.enter("open")
            else:
                self.succeeded += 1
                if self.succeeded >= self.probes:
                    self.enter("closed")
        elif outcome != "release":
            self.outcomes.append(Ended(self.clock.now, failed, slow))
            if (failed or slow) and self.must_open():
                self.enter("open")

    @rule()
    def somebody_holds_it_open(self) -> None:
        self.breaker.hold_open()
        self.enter("open")
        self.held = True

    @rule()
    def somebody_closes_it(self) -> None:
        self.breaker.close()
        if self.state != "closed":
            self.enter("closed")
        self.held = False

    @rule()
    def somebody_resets_it(self) -> None:
        self.breaker.reset()
        self.enter("closed")
        self.held = False

    def must_open(self) -> bool:
        last = [each.failed for each in self.outcomes[-self.threshold :]]
        recent = [each for each in self.outcomes if each.at > self.clock.now - WINDOW_S]
        enough = len(recent) >= MINIMUM
        failed, slow = sum(each.failed for each in recent), sum(each.slow for each in recent)
        return (
            (len(last) == self.threshold and all(last))
            or (enough and self.rate is not None and failed >= self.rate * len(recent))
            or (enough and self.slow_rate is not None and slow >= self.slow_rate * len(recent))
        )

    @invariant()
    def they_agree(self) -> None:
        assert self.breaker.state == ("half-open" if self.due() else self.state)
        states = ["closed", *(transition.new for transition in self.told)]
        assert [transition.old for transition in self.told] == states[:-1] and states[-1] == self.state


TestBreakerAgainstModel = BreakerAgainstModel.TestCase


@contextlib.contextmanager
def guarded(breaker: CircuitBreaker) -> Iterator[None]:
    """One call as the clients make it: leave asked for before, the outcome told after."""
    ticket = breaker.acquire()
    try:
        yield
    except BaseException as error:
        ticket.settle(error)
        raise
    ticket.settle(None)


def opened(**kwargs: Any) -> tuple[CircuitBreaker, Clock]:
    clock = Clock()
    breaker = CircuitBreaker(failure_threshold=1, open_s=5, clock=clock, **kwargs)
    breaker.acquire().settle(FAILURE)
    assert breaker.state == "open"
    return breaker, clock


def test_open_refuses_and_says_how_long() -> None:
    breaker, clock = opened()
    clock.now += 2
    with pytest.raises(CircuitOpenError, match=r"3\.0 s") as caught, guarded(breaker):
        pass
    assert caught.value.retry_after == pytest.approx(3)


async def test_of_100_tasks_at_half_open_exactly_one_is_admitted() -> None:
    breaker, clock = opened()
    clock.now += 5
    gate = asyncio.Event()

    async def call() -> bool:
        try:
            with guarded(breaker):
                await gate.wait()
        except CircuitOpenError:
            return False
        return True

    calls = [asyncio.create_task(call()) for _ in range(100)]
    await asyncio.sleep(0)
    gate.set()
    assert sum(await asyncio.gather(*calls)) == 1
    assert breaker.state == "closed"


def test_of_100_threads_at_half_open_exactly_one_is_admitted() -> None:
    breaker, clock = opened()
    clock.now += 5
    start, admitted = threading.Barrier(100), []

    def call() -> None:
        start.wait()
        with contextlib.suppress(CircuitOpenError):
            admitted.append(breaker.acquire())

    threads = [threading.Thread(target=call) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 1


@pytest.mark.parametrize(
    "error",
    [
        ServiceUnavailableError("x"),
        RequestTimeoutError("x", phase="total"),
        ServerError("x", status=500),
        StreamInterruptedError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failures_of_the_service_count(error: Exception) -> None:
    breaker = CircuitBreaker(failure_threshold=1)
    with pytest.raises(type(error)), guarded(breaker):
        raise error
    assert breaker.state == "open"


@pytest.mark.parametrize(
    "error",
    [
        BadRequestError("x", status=400),
        ModelNotFoundError("x", status=404),
        RateLimitError("x", status=429),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        ValueError("the caller's own"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_callers_mistakes_and_cancelled_calls_do_not_count(error: BaseException) -> None:
    breaker = CircuitBreaker(failure_threshold=1)
    with pytest.raises(type(error)), guarded(breaker):
        raise error
    assert breaker.state == "closed"


def test_a_cancelled_probe_makes_room_for_another() -> None:
    breaker, clock = opened()
    clock.now += 5
    with pytest.raises(asyncio.CancelledError), guarded(breaker):
        raise asyncio.CancelledError
    with guarded(breaker):
        pass
    assert breaker.state == "closed"


def test_a_probe_that_never_says_anything_does_not_keep_the_breaker_from_closing() -> None:
    breaker, clock = opened()
    clock.now += 5
    stream_that_nobody_reads_on = breaker.acquire()
    clock.now += PROBE_LOST_S
    with guarded(breaker):
        pass
    assert breaker.state == "closed"
    stream_that_nobody_reads_on.settle(FAILURE)
    assert breaker.state == "closed"


def test_an_outcome_from_before_the_break_is_old_news() -> None:
    clock = Clock()
    breaker = CircuitBreaker(failure_threshold=1, open_s=5, clock=clock)
    slow = breaker.acquire()
    breaker.acquire().settle(FAILURE)
    clock.now += 5
    probe = breaker.acquire()
    slow.settle(None)
    assert breaker.state == "half-open"
    probe.settle(None)
    slow.settle(FAILURE)
    assert breaker.state == "closed"


def test_listeners_hear_every_change_and_may_raise_or_use_the_breaker() -> None:
    clock, told = Clock(), []
    breaker = CircuitBreaker(failure_threshold=1, open_s=5, clock=clock)

    def raises(_: Transition) -> None:
        raise RuntimeError("a bad listener")

    breaker.add_listener(raises)
    breaker.add_listener(lambda transition: told.append((transition.old, transition.new, breaker.state)))
    breaker.acquire().settle(FAILURE)
    clock.now += 5
    breaker.acquire().settle(None)
    assert told == [
        ("closed", "open", "open"),
        ("open", "half-open", "half-open"),
        ("half-open", "closed", "closed"),
    ]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1, ["a failure", "5 s later", "the probe succeeded"]),
        (2, ["2 failures in a row", "5 s later", "2 probes succeeded"]),
    ],
)
def test_every_change_has_its_reason_in_words(number: int, expected: list[str]) -> None:
    clock, told = Clock(), []
    breaker = CircuitBreaker(failure_threshold=number, half_open_probes=number, open_s=5, clock=clock)
    breaker.add_listener(lambda transition: told.append(transition.reason))
    for _ in range(number):
        breaker.acquire().settle(FAILURE)
    clock.now += 5
    for _ in range(number):
        breaker.acquire().settle(None)
    assert told == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"failure_threshold": 0},
        {"failure_threshold": 1.5},
        {"minimum_calls": 0},
        {"half_open_probes": -1},
        {"failure_threshold": "5"},
        {"failure_rate": "half"},
        {"window_s": "long"},
        {"open_s": None},
        {"failure_rate": 0},
        {"failure_rate": 1.1},
        {"window_s": 0},
        {"open_s": -1},
        {"open_s": float("nan")},
        {"slow_call_s": -1},
        {"slow_call_rate": 0},
        {"slow_call_rate": "often"},
        {"record": 503},
        {"clock": 5},
    ],
    ids=str,
)
def test_thresholds_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        CircuitBreaker(**wrong)


@pytest.mark.parametrize("listener", [None, "print"])
def test_a_listener_that_cant_be_called_is_refused(listener: Any) -> None:
    """It was taken, and the first change of state then wrote a traceback into a log that nobody reads."""
    with pytest.raises(ConfigurationError, match=r"listener=.*can't be called"):
        CircuitBreaker().add_listener(listener)


def test_numbers_written_as_text_count_like_those_of_the_environment() -> None:
    breaker = CircuitBreaker(failure_threshold=9, failure_rate="0.5", minimum_calls=2, open_s="3")  # type: ignore[arg-type]
    for _ in range(2):
        breaker.acquire().settle(FAILURE)
    with pytest.raises(CircuitOpenError, match=r"3\.0 s"):
        breaker.acquire()


def test_open_turns_half_open_when_the_time_has_come_without_a_call() -> None:
    """What a dashboard or a gauge shows must not wait for somebody to call."""
    breaker, clock = opened()
    assert breaker.state == "open"
    clock.now += 5
    assert breaker.state == "half-open"


def test_a_refusal_names_the_last_failure() -> None:
    breaker = CircuitBreaker(failure_threshold=1)
    failure = ServerError("out of memory", status=500)
    with pytest.raises(ServerError), guarded(breaker):
        raise failure
    with pytest.raises(CircuitOpenError, match="out of memory") as caught:
        breaker.acquire()
    assert caught.value.__cause__ is failure


@both_clients
def test_a_client_says_why_its_breaker_refuses(kind: str) -> None:
    """In a notebook the first failure may have scrolled away, or been caught."""
    breaker = CircuitBreaker(failure_threshold=1)
    with StubService() as stub, Client(kind, stub.url, retries=0, breaker=breaker) as client:
        stub.on("POST", CHAT, error(500, "out of memory", "server_error"))
        with pytest.raises(ServerError):
            client.complete("hi")
        with pytest.raises(CircuitOpenError, match=r"\(a failure\).*out of memory") as caught:
            client.complete("hi")
    assert isinstance(caught.value.__cause__, ServerError)


@both_clients
@pytest.mark.parametrize("how", ["complete", "stream"])
def test_a_clients_slow_answers_open_its_breaker(kind: str, how: str) -> None:
    clock = Clock()
    breaker = CircuitBreaker(slow_call_s=2, minimum_calls=2, clock=clock)

    async def slow(request: web.Request, stop: asyncio.Event) -> web.StreamResponse:
        clock.now += 3
        return await (chat() if how == "complete" else stream(ROLE, delta("a"), STOP, DONE))(request, stop)

    with StubService() as stub, Client(kind, stub.url, retries=0, breaker=breaker) as client:
        client.ask(how)
        breaker.reset()  # finding out what the model is called took some calls, too
        stub.on("POST", CHAT, slow)
        for _ in range(2):
            client.ask(how)
        with pytest.raises(CircuitOpenError, match=r"100% of 2 calls .* took more than 2 s"):
            client.ask(how)


# --- by hand ------------------------------------------------------------------------------------------------


def test_held_open_it_refuses_until_it_is_closed_and_says_why() -> None:
    """While a model is swapped nobody shall probe, however long it takes."""
    clock, told = Clock(), []
    breaker = CircuitBreaker(open_s=5, clock=clock)
    breaker.add_listener(lambda transition: told.append((transition.old, transition.new, transition.reason)))
    breaker.hold_open("a model is swapped")
    clock.now += 3600
    with pytest.raises(CircuitOpenError, match=r"a model is swapped.*breaker\.close\(\)") as caught:
        breaker.acquire()
    assert caught.value.retry_after is None and breaker.state == "open"
    breaker.close()
    breaker.acquire().settle(None)
    assert told == [
        ("closed", "open", "held open: a model is swapped"),
        ("open", "closed", "closed by hand"),
    ]


def test_one_that_opens_for_ever_says_how_it_is_closed() -> None:
    breaker = CircuitBreaker(failure_threshold=1, open_s=float("inf"))
    breaker.acquire().settle(ServerError("x", status=500))
    with pytest.raises(CircuitOpenError, match=r"breaker\.close\(\)") as caught:
        breaker.acquire()
    assert caught.value.retry_after is None


def test_what_was_under_way_when_it_was_held_changes_nothing() -> None:
    breaker = CircuitBreaker(failure_threshold=1)
    before = breaker.acquire()
    breaker.hold_open()
    before.settle(None)
    assert breaker.state == "open"
    breaker.close()
    before.settle(ServerError("x", status=500))
    assert breaker.state == "closed"


def test_one_that_opened_by_itself_is_closed_by_hand() -> None:
    """Who has restarted the service need not wait for the probe."""
    breaker, _ = opened()
    breaker.close()
    breaker.acquire().settle(None)
    assert breaker.state == "closed"


def test_closing_a_closed_one_forgets_nothing_and_resetting_it_does() -> None:
    breaker = CircuitBreaker(failure_threshold=2)
    for by_hand in (breaker.close, breaker.reset):
        breaker.acquire().settle(ServerError("x", status=500))
        by_hand()
        breaker.acquire().settle(ServerError("x", status=500))
        assert breaker.state == ("open" if by_hand == breaker.close else "closed")
        breaker.reset()


def test_a_new_opening_does_not_name_a_failure_of_the_last_one() -> None:
    breaker = CircuitBreaker(failure_threshold=1)
    breaker.acquire().settle(ServerError("out of memory", status=500))
    breaker.close()
    breaker.hold_open()
    with pytest.raises(CircuitOpenError) as caught:
        breaker.acquire()
    assert "out of memory" not in str(caught.value) and caught.value.__cause__ is None


# --- what counts --------------------------------------------------------------------------------------------


def test_what_counts_can_be_told() -> None:
    def also_rate_limits(error: BaseException) -> bool:
        return is_failure(error) or isinstance(error, RateLimitError)

    breaker = CircuitBreaker(failure_threshold=1, record=also_rate_limits)
    breaker.acquire().settle(BadRequestError("x", status=400))
    assert breaker.state == "closed"
    breaker.acquire().settle(RateLimitError("slow down", status=429))
    with pytest.raises(CircuitOpenError, match="slow down"):
        breaker.acquire()


def test_what_does_not_count_can_be_told() -> None:
    breaker = CircuitBreaker(
        failure_threshold=1, record=lambda error: not isinstance(error, RequestTimeoutError)
    )
    breaker.acquire().settle(RequestTimeoutError("x", phase="total"))
    assert breaker.state == "closed"


def test_a_record_that_raises_does_not_hide_the_error_nor_lose_the_ticket(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(error: BaseException) -> bool:
        raise RuntimeError("a bad function")

    breaker = CircuitBreaker(failure_threshold=1, record=broken)
    with pytest.raises(ServerError), guarded(breaker):
        raise ServerError("x", status=500)
    assert breaker.state == "open" and "a bad function" in caplog.text


# --- slow calls ---------------------------------------------------------------------------------------------


def slow_ones(rate: float = 0.5) -> tuple[CircuitBreaker, Clock]:
    clock = Clock()
    breaker = CircuitBreaker(
        slow_call_s=2, slow_call_rate=rate, minimum_calls=4, window_s=60, open_s=5, clock=clock
    )
    return breaker, clock


def call(breaker: CircuitBreaker, clock: Clock, seconds: float) -> None:
    with guarded(breaker):
        clock.now += seconds


def test_opens_on_a_rate_of_slow_calls_and_says_so() -> None:
    """A machine that pages answers everything, and nobody can use it."""
    breaker, clock = slow_ones()
    for seconds in (1, 3, 2):  # as long as the limit isn't slow
        call(breaker, clock, seconds)
    assert breaker.state == "closed"
    call(breaker, clock, 2.5)
    with pytest.raises(CircuitOpenError, match="50% of 4 calls within 60 s took more than 2 s"):
        breaker.acquire()


def test_a_slow_probe_does_not_close() -> None:
    breaker, clock = slow_ones(rate=1.0)
    for _ in range(4):
        call(breaker, clock, 3)
    clock.now += 5
    call(breaker, clock, 3)
    assert breaker.state == "open"
    clock.now += 5
    call(breaker, clock, 1)
    assert breaker.state == "closed"


def test_cancelled_calls_are_not_slow() -> None:
    breaker, clock = slow_ones()
    for _ in range(8):
        with pytest.raises(asyncio.CancelledError), guarded(breaker):
            clock.now += 3
            raise asyncio.CancelledError
    assert breaker.state == "closed"


def test_without_a_limit_no_call_is_slow() -> None:
    clock = Clock()
    breaker = CircuitBreaker(minimum_calls=1, failure_rate=None, clock=clock)
    for _ in range(50):
        call(breaker, clock, 1000)
    assert breaker.state == "closed"
