"""Streams of the real service: complete ones, ones that are left, two hundred of them."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from threads import left, working

from foundry_lab import FoundryAPIClient, SyncFoundryAPIClient, engine, errors
from foundry_lab.engine import spec

STORY = "Tell a very long story about a lighthouse."
LONG: dict[str, Any] = {"max_tokens": 7000, "temperature": 0, "timeout": 300}
STOPS_WITHIN_S = 15.0  # 3 s on a machine without other work; all of the tokens take more than 20


def service_process(endpoint: str) -> psutil.Process:
    state = engine.control_for(endpoint)
    assert state is not None
    return psutil.Process(state.pid)


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def falls_idle(process: psutil.Process, within_s: float = STOPS_WITHIN_S) -> bool:
    """Return whether the process stops computing within the limit."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        before = cpu_s(process)
        time.sleep(0.4)
        if cpu_s(process) - before < 0.05:
            return True
    return False


def connections(endpoint: str) -> int:
    port = urlsplit(endpoint).port
    ours = [each for each in psutil.Process().net_connections("tcp") if each.raddr]
    return sum(1 for each in ours if each.raddr.port == port and each.status == psutil.CONN_ESTABLISHED)


async def test_a_stream_equals_the_whole_answer(endpoint: str) -> None:
    options = {"max_tokens": 40, "temperature": 0, "timeout": 60}
    async with FoundryAPIClient(endpoint) as client:
        whole = await client.complete("Name three colours.", **options)
        stream = client.stream_complete("Name three colours.", **options)
        chunks = [chunk async for chunk in stream]
    with SyncFoundryAPIClient(endpoint) as sync:
        in_a_loop = "".join(chunk.content for chunk in sync.stream_complete("Name three colours.", **options))
    assert stream.text == in_a_loop == whole.content
    assert stream.usage == whole.usage and stream.finish_reason == whole.finish_reason
    assert len([chunk for chunk in chunks if chunk.content]) > 20, "it arrives piece by piece"
    assert 0 < stream.ttft_s < chunks[-1].elapsed_s and stream.tokens_per_s > 0


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"max_tokens": 0}, errors.BadRequestError),
        ({"max_tokens": 9000}, errors.ContextLengthError),
        ({"model": "no-such-model"}, errors.ModelNotFoundError),
    ],
)
async def test_errors_in_a_stream(endpoint: str, options: dict[str, object], kind: type[Exception]) -> None:
    async with FoundryAPIClient(endpoint) as client:
        with pytest.raises(kind):
            async for _ in client.stream_complete("Hello", **options):  # type: ignore[arg-type]
                pass


@pytest.mark.parametrize("way", ["block", "break", "cancel", "limit"])
async def test_leaving_a_stream_stops_the_generation(endpoint: str, way: str) -> None:
    process = service_process(endpoint)
    async with FoundryAPIClient(endpoint) as client:

        async def read(first: int, **options: float) -> None:
            seen = 0
            async for _ in client.stream_complete(STORY, **{**LONG, **options}):
                seen += 1
                if seen == first:
                    break

        if way == "block":
            async with client.stream_complete(STORY, **LONG) as stream:
                await anext(stream)
        elif way == "break":
            await read(3)
        elif way == "cancel":
            task = asyncio.create_task(read(10_000))
            await asyncio.sleep(1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        else:
            with pytest.raises(errors.RequestTimeoutError):
                await read(10_000, timeout=1.0)
        assert await asyncio.to_thread(falls_idle, process)


def test_leaving_a_plain_loop_stops_the_generation(endpoint: str) -> None:
    process = service_process(endpoint)
    with SyncFoundryAPIClient(endpoint) as client:
        for _ in client.stream_complete(STORY, **LONG):
            break
        assert falls_idle(process)


async def test_after_a_cancelled_completion_the_client_goes_on(endpoint: str) -> None:
    """The service stops a stream whose reader has gone, but finishes a whole answer that nobody waits for.

    Measured with a bare socket on foundry-local-sdk 2.2.1; the next request has to wait for it.
    """
    async with FoundryAPIClient(endpoint) as client:
        task = asyncio.create_task(client.complete(STORY, max_tokens=400, temperature=0))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await client.complete("Name three colours.", max_tokens=4, timeout=120)).content
    assert await asyncio.to_thread(falls_idle, service_process(endpoint), 120)


async def test_200_streams_abandoned_half_way_leave_nothing_behind(endpoint: str) -> None:
    process = service_process(endpoint)
    async with FoundryAPIClient(endpoint) as client:

        async def abandon(number: int) -> None:
            for _ in range(number):
                seen = 0
                async for _chunk in client.stream_complete(STORY, max_tokens=8, temperature=0, timeout=60):
                    seen += 1
                    if seen == 4:
                        break

        await abandon(20)
        threads, tasks = working(), len(asyncio.all_tasks())
        open_before, resident = connections(endpoint), process.memory_info().rss
        gc.collect()
        own = psutil.Process().memory_info().rss
        await abandon(200)
        gc.collect()
        await asyncio.sleep(0.2)
        assert connections(endpoint) <= open_before + 1
        assert left(threads) == set() and len(asyncio.all_tasks()) == tasks
        assert psutil.Process().memory_info().rss - own < 20 * 2**20
        assert process.memory_info().rss - resident < 60 * 2**20
        health = await client.health_check(probe=True)
        assert health.probe_latency_s is not None and health.loaded_models == (spec.MODEL_ID,)
        assert client.metrics is not None and client.metrics.snapshot().in_flight == 0


async def test_two_streams_at_once_both_arrive(endpoint: str) -> None:
    async with FoundryAPIClient(endpoint) as client:

        async def read(prompt: str) -> str:
            stream = client.stream_complete(prompt, max_tokens=24, temperature=0, timeout=60)
            return "".join([chunk.content async for chunk in stream])

        together = await asyncio.gather(read("Name three colours."), read("Name three animals."))
        assert together == [await read("Name three colours."), await read("Name three animals.")]
