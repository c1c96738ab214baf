"""Circuit breaker: stop asking a service that keeps failing, and find out gently when it is back.

One state machine without I/O, used by the async and the sync client alike and safe to share between them,
between tasks and between threads. Half-open after Michael Nygard, "Release It!", chapter 5.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal, NoReturn

import msgspec

from foundry_lab._ground.checks import as_number, check_count, check_function, check_seconds
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

PROBE_LOST_S = 60.0
"""A probe that says nothing for so long makes way for another: it may be a stream that nobody reads on."""

_log = logging.getLogger(__name__)


def is_failure(error: BaseException) -> bool:
    """Return whether an error speaks against the service.

    A 4xx is the caller's fault, a cancelled call nobody's, and an error that lasts is the request's own.
    """
    return isinstance(error, FAILURES) and not getattr(error, "lasting", False)


class Transition(msgspec.Struct, frozen=True):
    """One change of state. `at_s` is the breaker's monotonic clock, in seconds."""

    old: State
    new: State
    at_s: float
    reason: str


class Ticket(msgspec.Struct, frozen=True):
    """Leave to make one call, given at `at_s` of the breaker's clock; to be handed back with the outcome."""

    breaker: CircuitBreaker
    period: int
    at_s: float

    def settle(self, error: BaseException | None) -> None:
        """The call ended so: by the exception, or well."""
        self.breaker._settle(self, error)


class CircuitBreaker:
    """Counts outcomes; refuses calls while the service is taken to be down.

    Args:
        failure_threshold: opens after so many failures in a row.
        failure_rate: also opens when this share of the calls within `window_s` failed, from 0 to 1;
            None looks at failures in a row only.
        window_s: length of the sliding window in seconds.
        minimum_calls: the rates aren't looked at before the window holds so many calls.
        open_s: seconds to stay open before probing.
        half_open_probes: so many calls are let through to probe; all must succeed to close. If they say
            nothing for a minute, others take their place.
        slow_call_s: a call that takes longer, in seconds, is slow: choose more than your longest good answer
            takes, as a stream counts to its end. None looks at no times.
        slow_call_rate: also opens when this share of the calls within `window_s` was slow. A slow probe
            doesn't close.
        record: says of the exception that ended a call whether it counts as a failure; `is_failure` by
            default. One that raises is logged, and the default decides.
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
        slow_call_s: float | None = None,
        slow_call_rate: float = 0.5,
        record: Callable[[BaseException], bool] = is_failure,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threshold = check_count(failure_threshold, "failure_threshold")
        self._rate = math.inf if failure_rate is None else _share(failure_rate, "failure_rate")
        self._window_s = check_seconds(window_s, "window_s", positive=True)
        self._minimum_calls = check_count(minimum_calls, "minimum_calls")
        self._open_s = check_seconds(open_s, "open_s")
        self._probes = check_count(half_open_probes, "half_open_probes")
        self._slow_s = math.inf if slow_call_s is None else check_seconds(slow_call_s, "slow_call_s")
        self._slow_rate = _share(slow_call_rate, "slow_call_rate")
        if not callable(record):
            raise ConfigurationError(f"record={record!r} must be a function of an exception: does it count?")
        check_function(clock, "clock")
        self._is_failure = record
        self._clock = clock
        self._lock = threading.Lock()
        self._last_failure: BaseException | None = None
        self._listeners: list[Callable[[Transition], None]] = []
        self._state: State = "closed"
        self._reason = ""  # of the last change
        self._period = 0  # grows with every change of state: outcomes of earlier periods are old news
        self._in_a_row = 0
        self._window: deque[tuple[float, bool, bool]] = deque()  # when a call ended; it failed; it was slow
        self._begin(clock())
        renew_after_fork(self)

    def after_fork(self) -> None:
        """A child's lock is its own, and the parent's probes are none of its business."""
        self._lock = threading.Lock()
        self._probes_out = 0

    @property
    def state(self) -> State:
        """The state now: "half-open" from `open_s` on, when the next call will be let through to probe."""
        return "half-open" if self._state == "open" and self._is_due(self._clock()) else self._state

    def add_listener(self, listener: Callable[[Transition], None]) -> None:
        """Call `listener` after every change of state. One that raises is logged and does no harm.

        Raises:
            ConfigurationError: it can't be called.
        """
        check_function(listener, "listener")
        self._listeners.append(listener)

    # --- by hand ----------------------------------------------------------------------------------------

    def hold_open(self, reason: str = "by hand") -> None:
        """Refuse every call until `close` or `reset`: for maintenance, or while a model is swapped.

        Args:
            reason: for those who are refused.
        """
        with self._lock:
            transition = self._change("open", f"held open: {reason}")
            self._since = math.inf  # the time for a probe never comes
        self._tell(transition)

    def close(self) -> None:
        """Let calls through again, whether the breaker was held open or opened by itself."""
        if self._state != "closed":
            self.reset()

    def reset(self) -> None:
        """Be closed, and remember no call."""
        with self._lock:
            transition = self._change("closed", "closed by hand")
        self._tell(transition)

    # --- by calls ---------------------------------------------------------------------------------------

    def acquire(self) -> Ticket:
        """Ask for leave to call; return the ticket to settle with the outcome.

        Raises:
            CircuitOpenError: not now; `.retry_after` says when a probe will be let through.
        """
        transition = None
        with self._lock:
            now = self._clock()
            if self._state == "open" and self._is_due(now):
                transition = self._change("half-open", f"{self._open_s:g} s later")
            if self._state == "open":
                self._refuse(self._open_s - (now - self._since))
            if self._state == "half-open":
                if self._probes_out + self._probes_ok >= self._probes:
                    if now - self._since < PROBE_LOST_S:
                        self._refuse(self._open_s)
                    self._begin(now)
                self._probes_out += 1
            ticket = Ticket(self, self._period, now)
        if transition is not None:
            self._tell(transition)
        return ticket

    def _counts(self, error: BaseException) -> bool:
        """Return whether an error counts as a failure, as `record` says."""
        try:
            return bool(self._is_failure(error))
        except Exception:
            _log.exception("record= of a circuit breaker failed")
            return is_failure(error)

    def _settle(self, ticket: Ticket, error: BaseException | None) -> None:
        """Count a call that worked or failed, and change the state if that was one too many."""
        failed = error is not None and self._counts(error)
        transition = None
        with self._lock:
            if failed:
                self._last_failure = error
            if ticket.period == self._period:
                now = self._clock()
                slow = now - ticket.at_s > self._slow_s
                says_nothing = error is not None and not failed  # cancelled, or the caller's mistake
                if self._state == "half-open":
                    self._probes_out -= 1
                    transition = None if says_nothing else self._judge_probe(failed, slow)
                elif not says_nothing:
                    self._in_a_row = self._in_a_row + 1 if failed else 0
                    self._note(now, failed, slow)
                    if (failed or slow) and (reason := self._why_open()):
                        transition = self._change("open", reason)
        if transition is not None:
            self._tell(transition)

    def _judge_probe(self, failed: bool, slow: bool) -> Transition | None:
        if failed or slow:
            return self._change("open", "a probe failed" if failed else "a probe was slow")
        self._probes_ok += 1
        if self._probes_ok < self._probes:
            return None
        all_of_them = "the probe" if self._probes == 1 else f"{self._probes} probes"
        return self._change("closed", f"{all_of_them} succeeded")

    def _note(self, now: float, failed: bool, slow: bool) -> None:
        """Put a call into the window, and take out those that are too old."""
        self._window.append((now, failed, slow))
        self._failed += failed
        self._slow += slow
        while self._window[0][0] <= now - self._window_s:
            _, failed, slow = self._window.popleft()
            self._failed -= failed
            self._slow -= slow

    def _why_open(self) -> str | None:
        if self._in_a_row >= self._threshold:
            return f"{self._in_a_row} failures in a row" if self._in_a_row > 1 else "a failure"
        calls = len(self._window)
        if calls < self._minimum_calls:
            return None
        if self._failed >= self._rate * calls:
            return f"{self._failed / calls:.0%} of {calls} calls failed within {self._window_s:g} s"
        if self._slow >= self._slow_rate * calls:
            return (
                f"{self._slow / calls:.0%} of {calls} calls within {self._window_s:g} s took more than "
                f"{self._slow_s:g} s"
            )
        return None

    def _is_due(self, now: float) -> bool:
        """Return whether one that is open has been so for long enough to probe."""
        return now - self._since >= self._open_s

    def _change(self, new: State, reason: str) -> Transition:
        transition = Transition(self._state, new, self._clock(), reason)
        self._state, self._reason = new, reason
        if new == "closed":
            self._last_failure = None
        self._begin(transition.at_s)
        return transition

    def _begin(self, now: float) -> None:
        """Count from zero."""
        self._period += 1
        self._since = now
        self._in_a_row = self._probes_out = self._probes_ok = 0
        self._failed = self._slow = 0  # of those in the window
        self._window.clear()

    def _refuse(self, wait_s: float) -> NoReturn:
        if wait_s == math.inf:
            when = "Whoever holds it lets calls through again with breaker.close()."
        else:
            when = f"Come back in {wait_s:.1f} s; health_check() says what is wrong."
        told = f" The last failure: {self._last_failure}" if self._last_failure is not None else ""
        raise CircuitOpenError(
            f"The circuit breaker is {self._state} ({self._reason}), so nothing was sent. {when}{told}",
            retry_after=wait_s if wait_s < math.inf else None,
        ) from self._last_failure

    def _tell(self, transition: Transition) -> None:
        """Tell the listeners. Called without the lock, so that they may use the breaker."""
        if transition.old == transition.new:  # held while it was open, say
            return
        _log.info("circuit breaker %s -> %s: %s", transition.old, transition.new, transition.reason)
        for listener in self._listeners:
            try:
                listener(transition)
            except Exception:
                _log.exception("a circuit breaker listener failed")


def _share(value: float, name: str) -> float:
    share = as_number(value)
    if not 0 < share <= 1:
        raise ConfigurationError(f"{name}={value!r} must be above 0 and at most 1.")
    return share
