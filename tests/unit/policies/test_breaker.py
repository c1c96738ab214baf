"""The circuit breaker against a plain model of it, and under concurrency."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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
from foundry_lab.policies.breaker import PROBE_LOST_S, Transition


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class BreakerAgainstModel(RuleBasedStateMachine):
    """The model keeps every outcome of the current period in one plain list and recounts it each time."""

    @initialize(
        threshold=st.integers(1, 4), probes=st.integers(1, 3), rate=st.sampled_from([None, 0.3, 0.5, 1.0])
    )
    def start(self, threshold: int, probes: int, rate: float | None) -> None:
        self.clock = Clock()
        self.threshold, self.probes, self.rate = threshold, probes, rate
        self.told: list[Transition] = []
        self.breaker = CircuitBreaker(
            failure_threshold=threshold,
            failure_rate=rate,
            window_s=10,
            minimum_calls=4,
            open_s=5,
            half_open_probes=probes,
            clock=self.clock,
        )
        self.breaker.add_listener(self.told.append)
        self.state = "closed"
        self.period = 0
        self.opened_at = 0.0
        self.outcomes: list[tuple[float, bool]] = []
        self.out = self.succeeded = 0
        self.tickets: list[tuple[int, int]] = []  # the breaker's ticket, the model's period

    def enter(self, state: str) -> None:
        self.state, self.outcomes, self.out, self.succeeded = state, [], 0, 0
        self.period += 1
        self.opened_at = self.clock.now

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 11.0, PROBE_LOST_S]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def a_call_begins(self) -> None:
        if self.state == "open" and self.clock.now - self.opened_at >= 5:
            self.enter("half-open")
        full = self.out + self.succeeded >= self.probes
        if self.state == "half-open" and full and self.clock.now - self.opened_at >= PROBE_LOST_S:
            self.enter("half-open")
        allowed = self.state == "closed" or (
            self.state == "half-open" and self.out + self.succeeded < self.probes
        )
        if allowed:
            self.tickets.append((self.breaker.acquire(), self.period))
            self.out += self.state == "half-open"
        else:
            with pytest.raises(CircuitOpenError) as caught:
                self.breaker.acquire()
            assert 0 <= caught.value.retry_after <= 5

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), outcome=st.sampled_from(["success", "failure", "release"]))
    def a_call_ends(self, data: Any, outcome: str) -> None:
        ticket, period = self.tickets.pop(data.draw(st.integers(0, len(self.tickets) - 1)))
        getattr(self.breaker, outcome)(ticket)
        if period != self.period:
            return  # old news
        if self.state == "half-open":
            self.out -= 1
            if outcome == "failure":
                self.enter("open")
            elif outcome == "success":
                self.succeeded += 1
                if self.succeeded >= self.probes:
                    self.enter("closed")
        elif outcome != "release":
            self.outcomes.append((self.clock.now, outcome == "failure"))
            if outcome == "failure" and self.must_open():
                self.enter("open")

    def must_open(self) -> bool:
        last = [failed for _, failed in self.outcomes[-self.threshold :]]
        recent = [failed for at, failed in self.outcomes if at > self.clock.now - 10]
        rate = self.rate is not None and len(recent) >= 4 and sum(recent) / len(recent) >= self.rate
        return rate or (len(last) == self.threshold and all(last))

    @invariant()
    def they_agree(self) -> None:
        due = self.state == "open" and self.clock.now - self.opened_at >= 5
        assert self.breaker.state == ("half-open" if due else self.state)
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
        breaker.settle(ticket, error)
        raise
    breaker.settle(ticket, None)


def opened(**kwargs: Any) -> tuple[CircuitBreaker, Clock]:
    clock = Clock()
    breaker = CircuitBreaker(failure_threshold=1, open_s=5, clock=clock, **kwargs)
    breaker.failure(breaker.acquire())
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
    breaker.failure(stream_that_nobody_reads_on)
    assert breaker.state == "closed"


def test_an_outcome_from_before_the_break_is_old_news() -> None:
    clock = Clock()
    breaker = CircuitBreaker(failure_threshold=1, open_s=5, clock=clock)
    slow = breaker.acquire()
    breaker.failure(breaker.acquire())
    clock.now += 5
    probe = breaker.acquire()
    breaker.success(slow)
    assert breaker.state == "half-open"
    breaker.success(probe)
    breaker.failure(slow)
    assert breaker.state == "closed"


def test_listeners_hear_every_change_and_may_raise_or_use_the_breaker() -> None:
    clock, told = Clock(), []
    breaker = CircuitBreaker(failure_threshold=1, open_s=5, clock=clock)

    def raises(_: Transition) -> None:
        raise RuntimeError("a bad listener")

    breaker.add_listener(raises)
    breaker.add_listener(lambda transition: told.append((transition.old, transition.new, breaker.state)))
    breaker.failure(breaker.acquire())
    clock.now += 5
    breaker.success(breaker.acquire())
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
        breaker.failure(breaker.acquire())
    clock.now += 5
    for _ in range(number):
        breaker.success(breaker.acquire())
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
    ],
    ids=str,
)
def test_thresholds_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        CircuitBreaker(**wrong)


def test_numbers_written_as_text_count_like_those_of_the_environment() -> None:
    breaker = CircuitBreaker(failure_threshold=9, failure_rate="0.5", minimum_calls=2, open_s="3")  # type: ignore[arg-type]
    for _ in range(2):
        breaker.failure(breaker.acquire())
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
