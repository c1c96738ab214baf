"""What a client must do right before it is used in earnest: nine trials with faults, for anybody's client.

    from foundry_lab.faults.checklist import run_checklist
    print(run_checklist(make, service_url))

where `make(url)` returns a function `ask(prompt, timeout_s)` that returns the answer's text or raises.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from foundry_lab._ground.checks import check_function
from foundry_lab.errors import ConfigurationError
from foundry_lab.faults.proxy import Fault, FaultProxy
from foundry_lab.protocol import CHAT_PATH

Ask = Callable[[str, float], str]
"""Takes a prompt and a time limit in seconds; returns the answer's text or raises."""

PROMPT = "Say hello."
TIMEOUT_S = 10.0
SHORT_S = 0.6
GRACE_S = 2.5
"""A machine with other work may be so late."""
HANG_S = 5.0
"""A client that keeps waiting so long after its time limit has its connections cut."""
RETRY_AFTER_S = 0.5
TIMER_S = 0.02
"""Timers may fire so much early; on Windows they do."""
CALLS_IN_THE_DARK = 30
BREAKER_LIMIT = 15


class Trial(msgspec.Struct, frozen=True):
    """One trial: what was asked of the client, whether it did it, and what was seen."""

    demand: str
    passed: bool
    seen: str


class Checklist(msgspec.Struct, frozen=True):
    """All trials; `print` shows them."""

    trials: tuple[Trial, ...]

    @property
    def passed(self) -> bool:
        """Whether every trial went well."""
        return all(trial.passed for trial in self.trials)

    def __str__(self) -> str:
        lines = [
            f"{'pass' if trial.passed else 'FAIL'}  {trial.demand:52} {trial.seen}" for trial in self.trials
        ]
        passed = sum(trial.passed for trial in self.trials)
        return "\n".join([*lines, f"{passed} of {len(self.trials)} passed"])


class _Call(msgspec.Struct, frozen=True):
    """How a call went: its text or its error, its seconds, and the requests that reached the proxy."""

    text: str | None
    error: Exception | None
    took_s: float
    sent: int

    @property
    def answered(self) -> bool:
        """Whether a text came back."""
        return self.error is None and isinstance(self.text, str) and bool(self.text)

    @property
    def answered_later(self) -> bool:
        """Whether a text came back that isn't the client's own: the first request met a fault."""
        return self.answered and self.sent > 1

    def __str__(self) -> str:
        end = "an answer" if self.answered else "no text"
        if self.error is not None:
            end = type(self.error).__name__
        return f"{end} after {self.took_s:.1f} s, sent {self.sent} x"


def run_checklist(make: Callable[[str], Ask], upstream: str) -> Checklist:
    """Try a client behind a fault proxy; takes about ten seconds. The client is made anew for each trial.

    Args:
        make: takes the base URL to talk to, returns the function to call.
        upstream: base URL of the service.

    Raises:
        ConfigurationError: the client can't answer even without a fault, so no trial would tell anything.
    """
    check_function(make, "make")
    with FaultProxy(upstream) as proxy:
        ask = make(proxy.url)
        if not callable(ask):
            raise ConfigurationError(
                f"What makes the client returned {ask!r}, and a function ask(prompt, timeout_s) is wanted. "
                "Return the function itself, without brackets after it."
            )
        healthy = _call(ask, proxy, TIMEOUT_S)
        if not healthy.answered or not healthy.sent:
            raise ConfigurationError(
                f"The client doesn't work without faults either: {healthy.error or healthy.text!r} came of "
                f"{healthy.sent} requests for {CHAT_PATH} to the URL that it was given. Make it ask there, "
                "and return the answer's text."
            )
        return Checklist(tuple(_trials(make, proxy)))


def _call(ask: Ask, proxy: FaultProxy, timeout_s: float, faults: Sequence[Fault] = ()) -> _Call:
    """Return how a call goes whose requests meet these faults in turn."""
    proxy.script(*faults)
    proxy.log.clear()
    began = time.perf_counter()
    text = error = None
    rescue = threading.Timer(timeout_s + HANG_S, proxy.set_faults, ["refused"])  # or it may wait for ever
    rescue.start()
    try:
        text = ask(PROMPT, timeout_s)
    except Exception as caught:  # whatever a learner's client raises
        error = caught
    finally:
        rescue.cancel()
        rescue.join()
    took_s = time.perf_counter() - began
    proxy.clear()
    return _Call(text, error, took_s, sum(entry.path == CHAT_PATH for entry in list(proxy.log)))


def _trials(make: Callable[[str], Ask], proxy: FaultProxy) -> Iterator[Trial]:
    """Yield the trials, one after the other."""

    def under(*faults: Fault, timeout_s: float = TIMEOUT_S) -> _Call:
        """Return how a new client's call goes."""
        ask = make(proxy.url)
        if timeout_s < TIMEOUT_S:  # a new client's first look-ups don't count
            _call(ask, proxy, TIMEOUT_S)
        return _call(ask, proxy, timeout_s, faults)

    call = under(Fault("status", status=503))
    yield Trial("answers in spite of one 503", call.answered_later, str(call))

    call = under(Fault("reset"))
    yield Trial("answers in spite of one broken connection", call.answered_later, str(call))

    call = under(Fault("status", status=429, retry_after=RETRY_AFTER_S))
    good = call.answered_later and call.took_s > RETRY_AFTER_S - TIMER_S
    yield Trial("waits as long as Retry-After says", good, str(call))

    call = under(*[Fault("status", status=500)] * 100, timeout_s=5.0)
    good = call.error is not None and call.sent <= 10
    yield Trial("gives up on a service that keeps failing", good, str(call))

    call = under(*[Fault("status", status=400)] * 10)
    yield Trial("never repeats a 400", call.error is not None and call.sent == 1, str(call))

    call = under(*[Fault("drip", delay_s=0.2)] * 10, timeout_s=SHORT_S)
    good = call.error is not None and call.took_s <= SHORT_S + GRACE_S and call.sent == 1
    yield Trial(f"is back soon after {SHORT_S:g} s though bytes trickle in", good, str(call))

    call = under(*[Fault("black_hole")] * 10, timeout_s=SHORT_S)
    good = call.error is not None and call.sent == 1 and call.took_s < SHORT_S + HANG_S
    yield Trial("doesn't repeat a generation that timed out", good, str(call))

    call = under(*[Fault("malformed_json")] * 10)
    good = call.error is not None and not isinstance(call.error, LookupError | TypeError | AttributeError)
    yield Trial("complains of a broken answer, by name", good, str(call))

    ask = make(proxy.url)
    down = [Fault("status", status=500)] * 100
    sent = sum(_call(ask, proxy, 2.0, down).sent for _ in range(CALLS_IN_THE_DARK))
    seen = f"{sent} requests for {CALLS_IN_THE_DARK} calls"
    yield Trial("spares a service that is down (circuit breaker)", sent <= BREAKER_LIMIT, seen)
