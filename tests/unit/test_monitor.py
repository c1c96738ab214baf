"""The health monitor: regular looks that never overlap and never outlive it; restarts with backoff."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_server import StubService, hang, reply

from foundry_lab import FoundryAPIClient, Settings, SyncFoundryAPIClient, engine
from foundry_lab.calls.portal import Portal
from foundry_lab.engine.service.supervisor import Restart, Restarter, Supervisor
from foundry_lab.errors import ConfigurationError, EngineError
from foundry_lab.monitor import HealthMonitor, HealthTransition, Look
from foundry_lab.types import Health
from foundry_lab.workbook.widgets import ChatPanel, HealthDashboard

STATUS = ("GET", "/status")


@pytest.fixture
def stub() -> Iterator[StubService]:
    with StubService() as server:
        yield server


def sync_client(stub: StubService) -> SyncFoundryAPIClient:
    return SyncFoundryAPIClient(stub.url, metrics=False)


def wait_for(condition: object, limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(0.005)


def test_looks_from_a_thread_until_the_block_ends(stub: StubService) -> None:
    with sync_client(stub) as client, HealthMonitor(client, 0.02) as monitor:
        wait_for(lambda: len(monitor.history) >= 3)
        assert monitor.latest is not None
        assert (monitor.latest.health.status, monitor.latest.breaker) == ("healthy", "closed")
    assert not monitor.running
    stub.wait_until_left()  # it may still read what the last look sent
    looks = stub.count(*STATUS)
    time.sleep(0.1)
    assert stub.count(*STATUS) == looks
    assert not any(thread.name == "health-monitor" for thread in threading.enumerate())


async def test_looks_at_an_async_clients_service_until_the_block_ends(stub: StubService) -> None:
    async with FoundryAPIClient(stub.url, metrics=False) as client, HealthMonitor(client, 0.02) as monitor:
        async with asyncio.timeout(5):
            while len(monitor.history) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    assert not monitor.running
    assert not any(thread.name == "health-monitor" for thread in threading.enumerate())


async def test_a_busy_loop_does_not_keep_it_from_looking(stub: StubService) -> None:
    """As of a notebook whose cell computes: the monitor of an async client has a loop of its own."""
    async with FoundryAPIClient(stub.url, metrics=False) as client, HealthMonitor(client, 0.02) as monitor:
        wait_for(lambda: len(monitor.history) >= 3)  # without an await


def test_a_slow_look_is_not_overtaken_by_the_next(stub: StubService) -> None:
    stub.on(*STATUS, reply(200, {"pid": 0}, delay_s=0.15))
    with sync_client(stub) as client, HealthMonitor(client, 0.01) as monitor:
        wait_for(lambda: len(monitor.history) >= 3)
    assert stub.most_at_once == 1


def test_a_look_without_an_answer_ends_at_its_limit(stub: StubService) -> None:
    stub.on(*STATUS, hang)
    with sync_client(stub) as client, HealthMonitor(client, 0.05, timeout_s=0.1) as monitor:
        wait_for(lambda: len(monitor.history) >= 2)
    assert {look.health.status for look in monitor.history} == {"unavailable"}


async def test_leaving_in_the_middle_of_a_look_does_not_wait_for_it(stub: StubService) -> None:
    stub.on(*STATUS, hang)
    client = FoundryAPIClient(stub.url, metrics=False)
    async with client, asyncio.timeout(15), HealthMonitor(client, timeout_s=30):
        while not stub.count(*STATUS):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def test_history_is_bounded(stub: StubService) -> None:
    looks: list[Look] = []
    with sync_client(stub) as client:
        monitor = HealthMonitor(client, 0.001, history=3)
        monitor.on_sample(looks.append)
        with monitor:
            wait_for(lambda: len(looks) >= 6)
    assert list(monitor.history) == looks[-3:]


def test_a_listener_that_cant_be_called_is_refused(stub: StubService) -> None:
    with SyncFoundryAPIClient(stub.url) as client:
        monitor = HealthMonitor(client)
        for listen in (monitor.on_sample, monitor.on_transition):
            with pytest.raises(ConfigurationError, match="can't be called"):
                listen(None)  # type: ignore[arg-type]


def test_transitions_are_told_and_a_listener_that_raises_does_no_harm(stub: StubService) -> None:
    changes: list[HealthTransition] = []
    with sync_client(stub) as client:
        monitor = HealthMonitor(client, 0.01)
        monitor.on_transition(lambda change: 1 / 0)
        monitor.on_transition(changes.append)
        with monitor:
            wait_for(lambda: monitor.latest)
            stub.on("GET", "/models/loaded", reply(200, []))
            wait_for(lambda: len(changes) == 1)
            stub.on(*STATUS, reply(500, b"down"))
            wait_for(lambda: len(changes) == 2)
            assert monitor.running
    assert [(change.old, change.new) for change in changes] == [
        ("healthy", "degraded"),
        ("degraded", "unavailable"),
    ]
    assert "No model is loaded" in changes[0].health.reasons[0]


def test_a_look_that_breaks_is_a_look_not_the_end(stub: StubService, monkeypatch: pytest.MonkeyPatch) -> None:
    with sync_client(stub) as client:
        monkeypatch.setattr(client.caller, "health", lambda **_: 1 / 0)
        with HealthMonitor(client, 0.01) as monitor:
            wait_for(lambda: len(monitor.history) >= 2)
    assert "ZeroDivisionError" in monitor.history[0].health.reasons[0]


def test_a_monitor_whose_listener_leaves_the_program_can_be_closed(stub: StubService) -> None:
    monitor = HealthMonitor(sync_client(stub), 0.01)
    monitor.on_sample(lambda look: sys.exit("enough"))
    with monitor:
        wait_for(lambda: not monitor.running)


def test_a_listener_may_end_its_monitor(stub: StubService) -> None:
    """It is called in the monitor's own thread, which can't wait for itself."""
    with sync_client(stub) as client:
        monitor = HealthMonitor(client, 0.01)
        monitor.on_sample(lambda _: monitor.close())
        monitor.start()
        wait_for(lambda: not monitor.running)
        assert monitor.start().latest is not None
        wait_for(lambda: len(monitor.history) == 2)


def test_a_listener_may_end_it_before_start_has_returned(
    stub: StubService, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Portal.start

    def slowly(portal: Portal, coroutine: Any) -> Any:
        work = start(portal, coroutine)
        time.sleep(0.3 if portal._name == "health-monitor" else 0)
        return work

    monkeypatch.setattr(Portal, "start", slowly)
    with sync_client(stub) as client:
        monitor = HealthMonitor(client, 0.01)
        monitor.on_sample(lambda _: len(monitor.history) > 1 or monitor.close())
        monitor.start()
        wait_for(lambda: not monitor.running, 5)
    assert len(monitor.history) == 1


def test_started_again_while_the_last_watch_ends_it_looks(
    stub: StubService, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = Portal.close

    def slowly(portal: Portal) -> None:
        time.sleep(0.2)
        close(portal)

    monkeypatch.setattr(Portal, "close", slowly)
    with sync_client(stub) as client:
        monitor = HealthMonitor(client, 0.01)
        monitor.on_sample(lambda _: len(monitor.history) > 1 or monitor.close())
        monitor.start()
        wait_for(lambda: not monitor.running)
        with monitor:
            time.sleep(0.4)
            seen = len(monitor.history)
            wait_for(lambda: len(monitor.history) > seen)


def test_closing_ends_a_look_that_gets_no_answer(stub: StubService) -> None:
    stub.on(*STATUS, hang)
    with sync_client(stub) as client:
        monitor = HealthMonitor(client, 0.01, timeout_s=60).start()
        wait_for(lambda: stub.count(*STATUS))
        monitor.close()
        assert not monitor.running


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_child_may_start_a_monitor_of_its_own(stub: StubService) -> None:
    with sync_client(stub) as client, HealthMonitor(client, 0.01) as monitor:
        wait_for(lambda: monitor.latest)
        if (child := os.fork()) == 0:
            found = 1
            with contextlib.suppress(BaseException):
                seen = len(monitor.history)
                assert not monitor.running
                with monitor:
                    wait_for(lambda: len(monitor.history) > seen)
                found = 0
            os._exit(found)
        assert os.waitpid(child, 0)[1] == 0
        seen = len(monitor.history)
        wait_for(lambda: len(monitor.history) > seen)


def test_starts_again_after_it_was_closed(stub: StubService) -> None:
    with sync_client(stub) as client:
        monitor = HealthMonitor(client, 0.01)
        for _ in range(2):
            seen = len(monitor.history)
            assert monitor.start() is monitor.start()
            wait_for(lambda seen=seen: len(monitor.history) > seen)
            monitor.close()


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_client_that_was_monitored_is_freed_like_any_other(stub: StubService, kind: str) -> None:
    def watched_sync() -> weakref.ref[object]:
        with sync_client(stub) as client, HealthMonitor(client, 0.01) as monitor:
            wait_for(lambda: monitor.latest)
        return weakref.ref(client)

    async def watched() -> weakref.ref[object]:
        async with FoundryAPIClient(stub.url, metrics=False) as client, HealthMonitor(client, 0.01):
            await client.complete("hi")
        return weakref.ref(client)

    freed = watched_sync() if kind == "sync" else asyncio.run(watched())
    gc.collect()
    assert freed() is None


# --- bad input --------------------------------------------------------------------------------------------


def test_two_monitors_on_one_client_are_refused(stub: StubService) -> None:
    with sync_client(stub) as client:
        with HealthMonitor(client), pytest.raises(ConfigurationError, match="Another monitor watches"):
            HealthMonitor(client).start()
        with HealthMonitor(client, 0.01) as later:  # the first has ended
            wait_for(lambda: later.latest)


def test_the_length_of_the_history_may_be_a_number_of_numpys(stub: StubService) -> None:
    assert HealthMonitor(sync_client(stub), history=np.int64(5)).history.maxlen == 5  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "kwargs", [{"interval_s": 0}, {"interval_s": float("nan")}, {"timeout_s": -1}, {"history": 0}]
)
def test_times_that_make_no_sense_are_refused(stub: StubService, kwargs: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(kwargs))):
        HealthMonitor(sync_client(stub), **kwargs)


def test_what_is_no_client_is_refused() -> None:
    for watch in (HealthMonitor, HealthDashboard, ChatPanel):
        with pytest.raises(ConfigurationError, match="client is a str; give a FoundryAPIClient"):
            watch("http://127.0.0.1:1")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="the async one"):
        ChatPanel(SyncFoundryAPIClient("http://127.0.0.1:1"))  # type: ignore[arg-type]


def test_a_service_elsewhere_is_not_supervised(stub: StubService) -> None:
    with pytest.raises(ConfigurationError, match="leave out the supervisor"):
        HealthMonitor(sync_client(stub), supervisor=Supervisor())


def test_the_monitor_of_an_async_client_needs_no_running_loop(stub: StubService) -> None:
    with HealthMonitor(FoundryAPIClient(stub.url, metrics=False), 0.01) as monitor:
        wait_for(lambda: monitor.latest)
    assert monitor.latest is not None and monitor.latest.health.status == "healthy"


@pytest.mark.parametrize("name", ["backoff_initial_s", "backoff_max_s", "settle_s"])
@pytest.mark.parametrize("value", [-1, "soon"])
def test_a_backoff_that_is_no_time_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Supervisor(**{name: value})


# --- the supervisor ----------------------------------------------------------------------------------------


class Engine:
    """The engine's two functions that a restart uses, without a service."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.starts = 0
        self.fails = False
        self.alive = False
        monkeypatch.setattr(engine, "service_status", lambda: object() if self.alive else None)
        monkeypatch.setattr(engine, "ensure_service", self._ensure)

    def _ensure(self, settings: Settings, *, progress: bool) -> str:
        self.starts += 1
        if self.fails:
            raise EngineError("No space left.")
        return "http://127.0.0.1:1"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Engine:
    return Engine(monkeypatch)


def restarter(**times: float) -> Restarter:
    return Restarter(Supervisor(**times), Settings(), deque())


def test_a_dead_service_is_started_at_once_and_then_after_a_wait(fake: Engine) -> None:
    keeper = restarter(backoff_initial_s=60, settle_s=60)
    keeper.restart_if_dead()
    keeper.restart_if_dead()
    assert fake.starts == 1
    keeper = restarter(backoff_initial_s=0.2, settle_s=60)
    wait_for(lambda: keeper.restart_if_dead() or fake.starts == 3)
    first, second = keeper.restarts
    assert second.at_s - first.at_s >= 0.2


def test_a_service_that_lived_long_enough_is_started_at_once_again(fake: Engine) -> None:
    keeper = restarter(backoff_initial_s=60, settle_s=0)
    for _ in range(3):
        keeper.restart_if_dead()
    assert fake.starts == 3


def test_the_list_of_restarts_may_be_emptied_meanwhile(fake: Engine) -> None:
    """It is everybody's; a monitor would end with an error in its own thread."""
    keeper = restarter(backoff_initial_s=60, settle_s=60)
    keeper.restart_if_dead()
    keeper.restarts.clear()
    keeper.restart_if_dead()
    assert (fake.starts, list(keeper.restarts)) == (1, [])


def test_a_process_that_lives_is_left_alone(fake: Engine) -> None:
    fake.alive = True
    keeper = restarter()
    keeper.restart_if_dead()
    assert (fake.starts, list(keeper.restarts)) == (0, [])


@pytest.mark.parametrize("by_listener", [False, True])
def test_nothing_is_started_for_a_monitor_that_is_ending(
    fake: Engine, monkeypatch: pytest.MonkeyPatch, by_listener: bool
) -> None:
    async def down(**_: object) -> Health:
        return Health(status="unavailable", endpoint="")

    client = SyncFoundryAPIClient(metrics=False)
    monkeypatch.setattr(client.caller, "health", down)
    monitor = HealthMonitor(client, 0.01, supervisor=Supervisor())
    monitor.on_sample(lambda look: by_listener and monitor.close())
    with monitor:
        wait_for(lambda: not monitor.running if by_listener else fake.starts)
    assert (fake.starts > 0) is not by_listener


def test_a_restart_that_fails_is_noted_and_waited_after(fake: Engine) -> None:
    fake.fails = True
    keeper = restarter(backoff_initial_s=60, settle_s=0)
    for _ in range(3):
        keeper.restart_if_dead()
    (restart,) = keeper.restarts
    assert isinstance(restart, Restart)
    assert restart.error == "No space left."


@pytest.mark.parametrize("error", [EngineError("The note can't be read."), TimeoutError()], ids=repr)
def test_a_look_for_the_process_that_breaks_is_a_failed_restart(
    fake: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def status() -> None:
        raise error

    monkeypatch.setattr(engine, "service_status", status)
    keeper = restarter()
    keeper.restart_if_dead()  # or the monitor would end with it
    assert (fake.starts, keeper.restarts[0].error) == (0, str(error) or repr(error))


@given(st.integers(1, 10_000), st.floats(0, 100), st.floats(0, 1000))
def test_waits_grow_and_stay_bounded(in_a_row: int, initial_s: float, max_s: float) -> None:
    policy = Supervisor(backoff_initial_s=initial_s, backoff_max_s=max_s)
    assert 0 <= policy.wait_s(in_a_row) <= policy.wait_s(in_a_row + 1) <= max_s
