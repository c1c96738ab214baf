"""The checklist tells a client that can be used in earnest from one that can't."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests
from stub_server import CHAT, MODEL, StubService

from foundry_lab import RetryPolicy, SyncFoundryAPIClient
from foundry_lab.errors import ConfigurationError, RequestTimeoutError
from foundry_lab.faults import checklist
from foundry_lab.faults.checklist import Ask, run_checklist


@pytest.fixture
def stub() -> Iterator[StubService]:
    with StubService() as server:
        yield server


def ours(url: str) -> Ask:
    client = SyncFoundryAPIClient(url, metrics=False)
    return lambda prompt, timeout_s: client.complete(prompt, timeout=timeout_s).content


def naive(url: str) -> Ask:
    session = requests.Session()
    session.trust_env = False

    def ask(prompt: str, timeout_s: float) -> str:
        body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
        answer = session.post(url + CHAT, json=body, timeout=timeout_s)
        return str(answer.json()["choices"][0]["message"]["content"])

    return ask


def stubborn(url: str) -> Ask:
    """Repeats whatever happens, at once, twenty times."""
    once = naive(url)

    def ask(prompt: str, timeout_s: float) -> str:
        for _ in range(20):
            try:
                return once(prompt, timeout_s)
            except Exception as error:
                failed = error
        raise failed

    return ask


def limited_by_attempt(url: str) -> Ask:
    """Keeps its limit, with each of four attempts anew."""
    client = SyncFoundryAPIClient(url, metrics=False, retry=RetryPolicy(retries=0))

    def ask(prompt: str, timeout_s: float) -> str:
        for _ in range(4):
            try:
                return client.complete(prompt, timeout=timeout_s).content
            except RequestTimeoutError as error:
                failed = error
        raise failed

    return ask


def failures(make: object, url: str) -> list[str]:
    result = run_checklist(make, url)  # type: ignore[arg-type]
    assert result.passed == (not [trial for trial in result.trials if not trial.passed])
    assert str(result).splitlines()[-1].endswith(f"of {len(result.trials)} passed")
    return [trial.demand for trial in result.trials if not trial.passed]


def test_our_client_passes(stub: StubService) -> None:
    assert failures(ours, stub.url) == []


def test_bare_requests_fails_where_it_has_no_policy(stub: StubService) -> None:
    failed = failures(naive, stub.url)
    assert "answers in spite of one 503" in failed
    assert "is back soon after 0.6 s though bytes trickle in" in failed
    assert "spares a service that is down (circuit breaker)" in failed
    assert "never repeats a 400" not in failed


@pytest.mark.parametrize("instead", ["Sorry.", "", None])
def test_a_text_of_the_clients_own_is_no_answer(stub: StubService, instead: str | None) -> None:
    """Who catches everything has something to show, but nobody was asked again."""

    def polite(url: str) -> object:
        once = naive(url)

        def ask(prompt: str, timeout_s: float) -> str | None:
            try:
                return once(prompt, timeout_s)
            except Exception:
                return instead

        return ask

    assert {
        "answers in spite of one 503",
        "answers in spite of one broken connection",
        "waits as long as Retry-After says",
    } <= set(failures(polite, stub.url))


def test_a_limit_for_each_attempt_is_no_deadline(stub: StubService) -> None:
    assert "is back soon after 0.6 s though bytes trickle in" in failures(limited_by_attempt, stub.url)


def test_a_stubborn_client_fails_by_asking_too_often(stub: StubService) -> None:
    failed = failures(stubborn, stub.url)
    assert "answers in spite of one 503" not in failed
    for demand in ("never repeats a 400", "gives up on a service that keeps failing"):
        assert demand in failed
    assert "doesn't repeat a generation that timed out" in failed


def test_a_client_that_waits_for_ever_fails_and_does_not_hold_up_the_rest(
    stub: StubService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def patient(url: str) -> Ask:
        once = naive(url)
        return lambda prompt, timeout_s: once(prompt, None)  # type: ignore[arg-type]

    monkeypatch.setattr(checklist, "HANG_S", 0.5)
    assert "doesn't repeat a generation that timed out" in failures(patient, stub.url)


def silent(prompt: str, timeout_s: float) -> str:
    return ""


def wordless(prompt: str, timeout_s: float) -> str:
    raise TimeoutError


async def not_awaited(prompt: str, timeout_s: float) -> str:
    return "Hello!"


@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize(
    ("ask", "seen"), [(silent, "''"), (wordless, "TimeoutError"), (not_awaited, "coroutine")]
)
def test_a_client_that_never_works_is_no_trial(stub: StubService, ask: Ask, seen: str) -> None:
    with pytest.raises(ConfigurationError, match=f"without faults either: .*{seen}"):
        run_checklist(lambda url: ask, stub.url)


def test_what_makes_no_client_is_told_as_that(stub: StubService) -> None:
    with pytest.raises(ConfigurationError, match="make='client' can't be called"):
        run_checklist("client", stub.url)  # type: ignore[arg-type]


def test_a_client_that_asks_elsewhere_is_no_trial(stub: StubService) -> None:
    """It would be told to have passed what it never met."""
    with pytest.raises(ConfigurationError, match="came of 0 requests for /v1/chat/completions to the URL"):
        run_checklist(lambda url: naive(stub.url), stub.url)
