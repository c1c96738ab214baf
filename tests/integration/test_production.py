"""The real service killed with its clients at work: the supervisor brings it back, the clients find it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psutil
import pytest

from foundry_lab import CircuitBreaker, FoundryAPIClient, SyncFoundryAPIClient, engine
from foundry_lab.engine.service.supervisor import Supervisor
from foundry_lab.errors import FoundryError
from foundry_lab.monitor import HealthMonitor

LIMIT_S = 60.0
OPTIONS = {"max_tokens": 4, "temperature": 0, "timeout": 10}


def kill_service() -> int:
    """Kill the lab service of this home as the kernel would; return its process id."""
    state = engine.service_status()
    assert state is not None
    process = psutil.Process(state.pid)
    process.kill()
    psutil.wait_procs([process], timeout=10)
    return state.pid


async def test_killed_under_load_it_comes_back(own_home: Path) -> None:
    outcomes: list[str] = []
    changes: list[str] = []
    enough = asyncio.Event()

    async def caller(client: FoundryAPIClient) -> None:
        while not enough.is_set():
            try:
                await client.complete("Name three colours.", **OPTIONS)
                outcomes.append("ok")
            except FoundryError as error:
                outcomes.append(type(error).__name__)
                await asyncio.sleep(0.05)

    breaker = CircuitBreaker(open_s=0.5)
    async with (
        FoundryAPIClient(breaker=breaker, retries=1, metrics=False) as client,
        HealthMonitor(client, 0.2, supervisor=Supervisor()) as monitor,
        asyncio.timeout(LIMIT_S),
    ):
        monitor.on_transition(lambda change: changes.append(change.new))
        callers = [asyncio.create_task(caller(client)) for _ in range(3)]
        while "ok" not in outcomes:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        killed = await asyncio.to_thread(kill_service)
        while changes[-2:] != ["unavailable", "healthy"]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        good_before = outcomes.count("ok")
        while outcomes.count("ok") < good_before + 5:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        enough.set()
        await asyncio.gather(*callers)

    state = engine.service_status()
    assert state is not None
    assert state.pid != killed
    assert [restart.error for restart in monitor.restarts] == [""]
    assert client.endpoint == state.url
    # what the callers saw in between are the documented errors of a service that is gone
    assert set(outcomes) <= {
        "ok",
        "ServiceUnavailableError",
        "StreamInterruptedError",
        "CircuitOpenError",
    }


def test_the_sync_monitor_supervises_too(own_home: Path) -> None:
    with SyncFoundryAPIClient(metrics=False) as client:
        client.complete("hi", **OPTIONS)
        with HealthMonitor(client, 0.1, supervisor=Supervisor()) as monitor:
            killed = kill_service()
            deadline = time.monotonic() + LIMIT_S
            while not monitor.restarts or monitor.latest.health.status != "healthy":
                assert time.monotonic() < deadline, "the service didn't come back"
                time.sleep(0.02)
        assert monitor.latest.health.pid != killed
        assert client.complete("hi", **OPTIONS).content


def test_without_a_supervisor_it_stays_down(own_home: Path) -> None:
    with SyncFoundryAPIClient(metrics=False) as client:
        client.health_check()
        with HealthMonitor(client, 0.05) as monitor:
            kill_service()
            deadline = time.monotonic() + 10
            while monitor.latest is None or monitor.latest.health.status != "unavailable":
                assert time.monotonic() < deadline
                time.sleep(0.02)
            time.sleep(0.3)
        assert engine.service_status() is None
        assert not monitor.restarts
        with pytest.raises(FoundryError, match="Nobody answers"):
            SyncFoundryAPIClient(client.endpoint, retries=0, metrics=False).complete("hi")
