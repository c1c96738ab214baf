"""Checks of the exercises in notebook 4: what to retry, how long to wait, a stall, a circuit breaker."""

from typing import Any

from foundry_lab import errors
from foundry_lab.exercises.behind import TEXT, behind
from foundry_lab.exercises.registry import exercise
from foundry_lab.exercises.trying import Unanswered, Wrong, attempt, is_stub, number_of, returned, shown
from foundry_lab.faults import Fault

_LATE = errors.RequestTimeoutError("no answer", phase="total", limit_s=30)
TABLE: list[tuple[Exception, bool, str]] = [
    (errors.ServerError("overloaded", status=503), True, "a 503: it is too busy now"),
    (errors.ServerError("failed", status=500), True, "a 500: it failed, and may not the next time"),
    (errors.RateLimitError("slow down", status=429), True, "a 429: there were too many requests"),
    (errors.ServiceUnavailableError("connection refused"), True, "nobody answers: it may be just starting"),
    (errors.BadRequestError("max_tokens must be >= 1", status=400), False, "a 400: the request is wrong"),
    (errors.AuthenticationError("no such key", status=401), False, "a 401: the key is wrong"),
    (errors.ModelNotFoundError("no such model", status=404), False, "a 404: there is no such model"),
    (errors.ContextLengthError("too long", status=400), False, "the prompt is too long"),
    (_LATE, False, "no answer in time: the service may still be working on it"),
    (ValueError("a bug of your own"), False, "a mistake in your own code"),
]


@exercise("4.1", "Try again or not", points=2)
def should_retry(should_retry: Any) -> None:
    """Each error of a table is told right."""
    for error, right, what in TABLE:
        call = f"should_retry({type(error).__name__}), for {what},"
        value = attempt(should_retry, error, call=call).result(bool, "True or False is wanted")
        if value != right:
            raise Wrong(f"{call} returned {value}.")


INITIAL_S, CAP_S, DRAWS = 0.2, 5.0, 1000


@exercise("4.2", "A random wait", points=2)
def wait_s(wait_s: Any) -> None:
    """Spread from zero to a limit that doubles, and never above the cap."""
    for retry in (1, 2, 4, 12):
        limit = min(CAP_S, INITIAL_S * 2 ** (retry - 1))
        call = f"wait_s({retry}, {INITIAL_S}, {CAP_S})"
        made = attempt(list, (wait_s(retry, INITIAL_S, CAP_S) for _ in range(DRAWS)), call=call).result()
        draws = [number_of(each, call, "seconds are wanted") for each in made]
        if min(draws) < 0:
            raise Wrong(f"{call} returned {min(draws):.3g} s; nobody can wait for less than nothing.")
        if max(draws) > limit:
            raise Wrong(f"{call} returned {max(draws):.3g} s; before retry {retry} the most is {limit:g} s.")
        if len(set(draws)) < DRAWS // 2:
            raise Wrong(
                f"{call} returned the same number again and again, so clients that failed together would "
                "come back together."
            )
        mean = sum(draws) / DRAWS
        if abs(mean - limit / 2) > 0.15 * limit / 2:
            raise Wrong(
                f"{call}: the mean of {DRAWS} draws is {mean:.2f} s. Spread evenly from 0 to {limit:g} s it "
                f"would be near {limit / 2:.2f} s."
            )


@exercise("4.3", "Half an answer is kept", points=2)
def read_or_keep(read_or_keep: Any) -> None:
    """Behind a stream that falls silent: the text so far, and the phase."""
    call = 'behind a stream that stalls, read_or_keep(client, "Count from 1 to 20.", 1.0)'
    value, chats, _ = behind(Fault("stall", after=4), read_or_keep, "Count from 1 to 20.", 1.0, call=call)
    if chats != ["stall"]:
        raise Wrong(f"{call} sent {len(chats)} requests; one is wanted.")
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise Wrong(f"{call} {returned(value)}; a text and a phase are wanted.")
    text, phase = value
    if not isinstance(text, str) or not text:
        raise Wrong(f"{call} returned the text {shown(text)}, but some had come before the silence.")
    if not TEXT.startswith(text.strip()):
        raise Wrong(f"{call} returned the text {shown(text)}, and {TEXT[:8]!r} had come: keep all pieces.")
    if phase != "idle":
        raise Wrong(
            f"{call} returned the phase {phase!r}. The silence came between two tokens; which of the four "
            "limits is for that?"
        )
    call = 'with nothing wrong, read_or_keep(client, "Say hello.", 30.0)'
    value, _, _ = behind(None, read_or_keep, "Say hello.", 30.0, call=call)
    if not isinstance(value, tuple | list) or len(value) != 2 or value[1] is not None:
        raise Wrong(f"{call} {returned(value)}; the text and None are wanted.")
    if str(value[0]).strip() != TEXT.strip():
        raise Wrong(f"{call} returned the text {shown(value[0])}; the whole text is {TEXT!r}.")


@exercise("4.4", "A breaker that looks at the rate", points=3)
def breaker(RateBreaker: Any) -> None:
    """Opens at the right call, refuses for as long as it should, and lets one probe through."""
    if not isinstance(RateBreaker, type):
        raise Wrong(f"Give the class itself: RateBreaker. This is {shown(RateBreaker)}.")
    if is_stub(getattr(RateBreaker, "allow", ...)):
        raise Unanswered
    now = 0.0
    made = attempt(lambda: RateBreaker(lambda: now), call="RateBreaker(clock)").result()

    def allow() -> bool:
        return attempt(lambda: made.allow(), call="allow()").result(bool, "True or False is wanted")

    def calls(outcomes: str, story: str) -> None:
        for number, outcome in enumerate(outcomes, 1):
            if not allow():
                raise Wrong(f"{story}, allow() refused call {number}. The breaker should be closed there.")
            attempt(lambda worked=outcome == "+": made.record(worked), call="record(worked)").result()

    def at(time_s: float, allowed: bool, hint: str) -> None:
        nonlocal now
        now = time_s
        if allow() != allowed:
            raise Wrong(hint)

    calls("----", "four failures are too few to tell (ten calls are wanted)")
    calls("++++++", "with 4 failures among fewer than 10 calls")
    calls("++++++++++", "with 4 failures in the last 10 calls, and then fewer")
    calls("-----", "with fewer than 5 failures in the last 10 calls")
    at(0.0, False, "5 of the last 10 calls have failed, that is half of them, and allow() said True.")
    at(29.0, False, "29 s after it opened, allow() said True; it should refuse for 30 s.")
    at(30.5, True, "30.5 s after it opened, allow() said False; one call should go through, to probe.")
    at(30.5, False, "while the probe is under way, allow() let a second call through. Only one is wanted.")
    attempt(lambda: made.record(False), call="record(False)").result()
    at(31.0, False, "0.5 s after the probe failed, allow() said True; it should refuse for 30 s again.")
    at(61.0, True, "30.5 s after a probe had failed, allow() said False; the next probe is due.")
    attempt(lambda: made.record(True), call="record(True)").result()
    calls("+-+-+-", "after a probe that worked, with old failures forgotten")
