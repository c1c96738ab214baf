"""What a client must do right before it is used in earnest: nine trials with faults, for anybody's client.

    from foundry_lab.faults.checklist import run_checklist
    print(run_checklist(make, service_url))

where `make(url)` returns a function `ask(prompt, timeout_s)` that returns the answer's text or raises.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import msgspec

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
        good = sum(trial.passed for trial in self.trials)
        return "\n".join([*lines, f"{good} of {len(self.trials)} passed"])


class _Call(msgspec.Struct, frozen=True):
    """How a call went: its text or its error, its seconds, and the requests that reached the proxy."""

    text: str | None
    error: Exception | None
    took_s: float
    sent: int

    def __str__(self) -> str:
        end = "an answer" if self.error is None else type(self.error).__name__
        return f"{end} after {self.took_s:.1f} s, sent {self.sent} x"


def run_checklist(make: Callable[[str], Ask], upstream: str) -> Checklist:
    """Try a client behind a fault proxy; takes about ten seconds. The client is made anew for each trial.

    Args:
        make: takes the base URL to talk to, returns the function to call.
        upstream: base URL of the service.

    Raises:
        ConfigurationError: the client can't answer even without a fault, so no trial would tell anything.
    """
    with FaultProxy(upstream) as proxy:
        healthy = _call(make(proxy.url), proxy, TIMEOUT_S)
        if healthy.error is not None or not healthy.text:
            raise ConfigurationError(
                f"The client doesn't work without faults either: {healthy.error or 'an empty answer'}. "
                "Make it answer first."
            )
        return Checklist(tuple(trial(make, proxy) for trial in _TRIALS))


def _call(ask: Ask, proxy: FaultProxy, timeout_s: float) -> _Call:
    before = _asked(proxy)
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
    return _Call(text, error, time.perf_counter() - began, _asked(proxy) - before)


def _asked(proxy: FaultProxy) -> int:
    return sum(entry.path == CHAT_PATH for entry in list(proxy.log))


def _under(
    make: Callable[[str], Ask], proxy: FaultProxy, *faults: Fault | None, timeout_s: float = TIMEOUT_S
) -> _Call:
    ask = make(proxy.url)
    if timeout_s < TIMEOUT_S:  # a new client's first look-ups don't count
        _call(ask, proxy, TIMEOUT_S)
        proxy.clear()
    proxy.script(*faults)
    try:
        return _call(ask, proxy, timeout_s)
    finally:
        proxy.clear()


def _repeats_a_503(make: Callable[[str], Ask], proxy: FaultProxy) -> Trial:
    call = _under(make, proxy, Fault("status", status=503))
    return Trial("answers in spite of one 503", call.error is None, str(call))


def _repeats_a_reset(make: Callable[[str], Ask], proxy: FaultProxy) -> Trial:
    call = _under(make, proxy, Fault("reset"))
    return Trial("answers in spite of one broken connection", call.error is None, str(call))


def _obeys_retry_after(make: Callable[[str], Ask], proxy: FaultProxy) -> Trial:
    call = _under(make, proxy, Fault("status", status=429, retry_after=RETRY_AFTER_S))
    good = call.error is None and call.took_s > RETRY_AFTER_S - TIMER_S
    return Trial("waits as long as Retry-After says", good, str(call))


def _gives_up(make: Callable[[str], Ask], proxy: FaultProxy) -> Trial:
    call = _under(make, proxy, *[Fault("status", status=500)] * 100, timeout_s=5.0)
    good = call.error is not None and call.sent <= 10
    return Trial("gives up on a service that keeps failing", good, str(call))


def _leaves_a_400_alone(make: Callable[[str], Ask], proxy: FaultProxy) -> Trial:
    call = _under(make, proxy, *[Fault("status", status=400)] * 10)
    return Trial("never repeats a 400", call.error is not None and call.sent == 1, str(call))


def _keeps_its_deadline(make: Callable[[str], Ask], proxy: FaultProxy) -> Trial:
    call = _under(make, proxy, *[Fault("drip", delay_s=0.2)] * 10, timeout_s=SHORT_S)
    good = call.error is not None and call.took_s <= SHORT_S + GRACE_S and call.sent == 1
    return Trial(f"is back soon after {SHORT_S:g} s though bytes trickle in", good, str(call))


def _asks_a_silent_service_once(make: Callable[[str], Ask], proxy: FaultProxy) -> Trial:
    call = _under(make, proxy, *[Fault("black_hole")] * 10, timeout_s=SHORT_S)
    good = call.error is not None and call.sent == 1 and call.took_s < SHORT_S + HANG_S
    return Trial("doesn't repeat a generation that timed out", good, str(call))


def _refuses_half_an_answer(make: Callable[[str], Ask], proxy: FaultProxy) -> Trial:
    call = _under(make, proxy, *[Fault("malformed_json")] * 10)
    named = call.error is not None and not isinstance(call.error, LookupError | TypeError | AttributeError)
    return Trial("complains of a broken answer, by name", named, str(call))


def _spares_a_dead_service(make: Callable[[str], Ask], proxy: FaultProxy) -> Trial:
    ask = make(proxy.url)
    proxy.set_faults(Fault("status", status=500, route=CHAT_PATH))
    try:
        sent = sum(_call(ask, proxy, 2.0).sent for _ in range(CALLS_IN_THE_DARK))
    finally:
        proxy.clear()
    seen = f"{sent} requests for {CALLS_IN_THE_DARK} calls"
    return Trial("spares a service that is down (circuit breaker)", sent <= BREAKER_LIMIT, seen)


_TRIALS: Sequence[Callable[[Callable[[str], Ask], FaultProxy], Trial]] = (
    _repeats_a_503,
    _repeats_a_reset,
    _obeys_retry_after,
    _gives_up,
    _leaves_a_400_alone,
    _keeps_its_deadline,
    _asks_a_silent_service_once,
    _refuses_half_an_answer,
    _spares_a_dead_service,
)
