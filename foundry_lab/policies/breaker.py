"""Circuit breaker: stop asking a service that keeps failing, and find out gently when it is back.

One state machine without I/O, used by the async and the sync client alike and safe to share between them,
between tasks and between threads. Half-open after Michael Nygard, "Release It!", chapter 5.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from foundry_lab._ground.checks import as_number, check_count, check_seconds
from foundry_lab._ground.forks import renew_after_fork
from foundry_lab.errors import (
    CircuitOpenError,
    ConfigurationError,
    RequestTimeoutError,
    ServerError,
    ServiceUnavailableError,
    StreamInterruptedError,
)

State = Literal["closed", "open", "half-open"]

FAILURES = (ServiceUnavailableError, RequestTimeoutError, ServerError, StreamInterruptedError)
"""What counts against the service. A 4xx is the caller's fault, a cancelled call nobody's."""

PROBE_LOST_S = 60.0
"""A probe that says nothing for so long makes way for another: it may be a stream that nobody reads on."""

_log = logging.getLogger("foundry_lab.breaker")


class Transition(msgspec.Struct, frozen=True):
    """One change of state. `at_s` is the breaker's monotonic clock, in seconds."""

    old: State
    new: State
    at_s: float
    reason: str


class CircuitBreaker:
    """Counts outcomes; refuses calls while the service is taken to be down.

    Args:
        failure_threshold: opens after so many failures in a row.
        failure_rate: also opens when this share of the calls within `window_s` failed, from 0 to 1;
            None looks at failures in a row only.
        window_s: length of the sliding window in seconds.
        minimum_calls: the rate isn't looked at before the window holds so many calls.
        open_s: seconds to stay open before probing.
        half_open_probes: so many calls are let through to probe; all must succeed to close. If they say
            nothing for a minute, others take their place.
        clock: monotonic seconds.

    Raises:
        ConfigurationError: a threshold that makes no sense.
    """

    def __init__(
        self,
        *,
        failure_threshold: int = 5,
        failure_rate: float | None = 0.5,
        window_s: float = 30.0,
        minimum_calls: int = 20,
        open_s: float = 5.0,
        half_open_probes: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threshold = check_count(failure_threshold, "failure_threshold")
        self._rate = as_number(failure_rate) if failure_rate is not None else None
        if self._rate is not None and not 0 < self._rate <= 1:
            raise ConfigurationError(f"failure_rate={failure_rate!r} must be above 0 and at most 1.")
        self._window_s = check_seconds(window_s, "window_s", positive=True)
        self._minimum_calls = check_count(minimum_calls, "minimum_calls")
        self._open_s = check_seconds(open_s, "open_s")
        self._probes = check_count(half_open_probes, "half_open_probes")
        self._clock = clock
        self._lock = threading.Lock()
        self._last_failure: BaseException | None = None
        self._listeners: list[Callable[[Transition], None]] = []
        self._state: State = "closed"
        self._period = 0  # grows with every change of state: outcomes of earlier periods are old news
        self._since = clock()
        self._in_a_row = 0
        self._window: deque[tuple[float, bool]] = deque()
        self._window_failures = 0
        self._probes_out = 0
        self._probes_ok = 0
        renew_after_fork(self)

    def after_fork(self) -> None:
        """A child's lock is its own, and the parent's probes are none of its business."""
        self._lock = threading.Lock()
        self._probes_out = 0

    @property
    def state(self) -> State:
        """The state now: "half-open" from `open_s` on, when the next call will be let through to probe."""
        if self._state == "open" and self._clock() - self._since >= self._open_s:
            return "half-open"
        return self._state

    def add_listener(self, listener: Callable[[Transition], None]) -> None:
        """Call `listener` after every change of state. One that raises is logged and does no harm."""
        self._listeners.append(listener)

    def acquire(self) -> int:
        """Ask for leave to call; return the ticket to hand back with the outcome.

        Raises:
            CircuitOpenError: not now; `.retry_after` says when a probe will be let through.
        """
        transition = None
        with self._lock:
            now = self._clock()
            if self._state == "open" and now - self._since >= self._open_s:
                transition = self._change("half-open", f"{self._open_s:g} s later")
            if self._state == "open":
                raise self._refusal(self._open_s - (now - self._since))
            if self._state == "half-open":
                if self._probes_out + self._probes_ok >= self._probes:
                    if now - self._since < PROBE_LOST_S:
                        raise self._refusal(self._open_s)
                    self._begin(now)
                self._probes_out += 1
            ticket = self._period
        self._tell(transition)
        return ticket

    def success(self, ticket: int) -> None:
        """The call with this ticket worked."""
        transition = None
        with self._lock:
            if ticket == self._period:
                if self._state == "half-open":
                    self._probes_out -= 1
                    self._probes_ok += 1
                    if self._probes_ok >= self._probes:
                        all_of_them = "the probe" if self._probes == 1 else f"{self._probes} probes"
                        transition = self._change("closed", f"{all_of_them} succeeded")
                else:
                    self._in_a_row = 0
                    self._record(failed=False)
        self._tell(transition)

    def failure(self, ticket: int) -> None:
        """The call with this ticket failed in a way that speaks against the service."""
        transition = None
        with self._lock:
            if ticket == self._period:
                if self._state == "half-open":
                    transition = self._change("open", "a probe failed")
                else:
                    self._in_a_row += 1
                    self._record(failed=True)
                    if reason := self._why_open():
                        transition = self._change("open", reason)
        self._tell(transition)

    def release(self, ticket: int) -> None:
        """The call with this ticket says nothing about the service: cancelled, or the caller's mistake."""
        with self._lock:
            if ticket == self._period and self._state == "half-open":
                self._probes_out -= 1

    def settle(self, ticket: int, error: BaseException | None) -> None:
        """The call with this ticket ended so: by the exception, or well."""
        if error is None:
            self.success(ticket)
        elif isinstance(error, FAILURES) and not getattr(error, "lasting", False):
            self._last_failure = error
            self.failure(ticket)
        else:
            self.release(ticket)

    def _record(self, *, failed: bool) -> None:
        if self._rate is None:
            return
        now = self._clock()
        self._window.append((now, failed))
        self._window_failures += failed
        while self._window[0][0] <= now - self._window_s:
            self._window_failures -= self._window.popleft()[1]

    def _why_open(self) -> str | None:
        if self._in_a_row >= self._threshold:
            return f"{self._in_a_row} failures in a row" if self._in_a_row > 1 else "a failure"
        calls = len(self._window)
        if self._rate is not None and calls >= self._minimum_calls:
            rate = self._window_failures / calls
            if rate >= self._rate:
                return f"{rate:.0%} of {calls} calls failed within {self._window_s:g} s"
        return None

    def _change(self, new: State, reason: str) -> Transition:
        transition = Transition(self._state, new, self._clock(), reason)
        self._state = new
        self._begin(transition.at_s)
        return transition

    def _begin(self, now: float) -> None:
        self._period += 1
        self._since = now
        self._in_a_row = self._probes_out = self._probes_ok = self._window_failures = 0
        self._window.clear()

    def _refusal(self, wait_s: float) -> CircuitOpenError:
        wait_s = max(0.0, wait_s)
        last = self._last_failure
        told = f" The last failure: {last}" if last is not None else ""
        refusal = CircuitOpenError(
            f"The circuit breaker is {self._state}: the service failed repeatedly, so nothing was sent. "
            f"Come back in {wait_s:.1f} s; health_check() says what is wrong.{told}",
            retry_after=wait_s,
        )
        refusal.__cause__ = last
        return refusal

    def _tell(self, transition: Transition | None) -> None:
        """Called without the lock, so that a listener may use the breaker."""
        if transition is None:
            return
        _log.info("circuit breaker %s -> %s: %s", transition.old, transition.new, transition.reason)
        for listener in self._listeners:
            try:
                listener(transition)
            except Exception:
                _log.exception("a circuit breaker listener failed")
