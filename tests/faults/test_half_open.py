"""A hundred callers wait at a breaker that has just turned half-open: exactly one reaches the server."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from foundry_lab import CircuitBreaker, FoundryAPIClient, SyncFoundryAPIClient
from foundry_lab.engine import spec
from foundry_lab.errors import CircuitOpenError, ServerError
from foundry_lab.faults.proxy import Fault, FaultProxy
from foundry_lab.protocol import CHAT_PATH

CALLERS = 100
OPEN_S = 0.2
OPTIONS = {"max_tokens": 2, "temperature": 0, "timeout": 10}


def asked_since(proxy: FaultProxy, began: float) -> int:
    return sum(entry.path == CHAT_PATH and entry.at_s >= began for entry in list(proxy.log))


def check(outcomes: list[object], reached: int) -> None:
    assert reached == 1
    assert Counter(type(outcome).__name__ for outcome in outcomes) == {
        "Completion": 1,
        "CircuitOpenError": CALLERS - 1,
    }
    assert all(each.retry_after >= 0 for each in outcomes if isinstance(each, CircuitOpenError))


def break_it(proxy: FaultProxy) -> None:
    proxy.set_faults(Fault("status", status=500, route=CHAT_PATH))


def mend_it(proxy: FaultProxy) -> None:
    # the probe takes long enough for all to ask
    proxy.set_faults(Fault("latency", delay_s=2, route=CHAT_PATH))
    time.sleep(OPEN_S)


async def test_a_hundred_tasks(proxy: FaultProxy) -> None:
    breaker = CircuitBreaker(failure_threshold=3, open_s=OPEN_S)
    async with FoundryAPIClient(
        proxy.url, model=spec.MODEL_ID, retries=0, breaker=breaker, metrics=False
    ) as client:
        break_it(proxy)
        for _ in range(3):
            with pytest.raises(ServerError):
                await client.complete("hi", **OPTIONS)
        assert breaker.state == "open"
        mend_it(proxy)
        began = time.monotonic()
        outcomes = await asyncio.gather(
            *(client.complete("hi", **OPTIONS) for _ in range(CALLERS)), return_exceptions=True
        )
    check(list(outcomes), asked_since(proxy, began))
    assert breaker.state == "closed"


def test_a_hundred_threads(proxy: FaultProxy) -> None:
    breaker = CircuitBreaker(failure_threshold=3, open_s=OPEN_S)
    with SyncFoundryAPIClient(
        proxy.url, model=spec.MODEL_ID, retries=0, breaker=breaker, metrics=False
    ) as client:

        def call(_: int) -> object:
            try:
                return client.complete("hi", **OPTIONS)
            except CircuitOpenError as error:
                return error

        break_it(proxy)
        for _ in range(3):
            with pytest.raises(ServerError):
                client.complete("hi", **OPTIONS)
        assert breaker.state == "open"
        mend_it(proxy)
        began = time.monotonic()
        with ThreadPoolExecutor(CALLERS) as pool:
            outcomes = list(pool.map(call, range(CALLERS)))
    check(outcomes, asked_since(proxy, began))
    assert breaker.state == "closed"
