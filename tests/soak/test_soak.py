"""Ten minutes against the real service behind a proxy that spoils every fifth request.

    pytest -m soak tests/soak -s              # SOAK_MINUTES=30 for another length

Four callers ask by turns whole and streamed, in slices with the policies (retries, breaker) and without them.
No wrong answer, no call past its time limit, no growth of memory; the success rates stand side by side.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections import Counter
from itertools import cycle

import psutil
import pytest
from fault_mix import mix

from foundry_lab import FoundryAPIClient, RetryPolicy, engine
from foundry_lab.engine import spec
from foundry_lab.errors import FoundryError
from foundry_lab.faults import FaultProxy
from foundry_lab.metrics import percentile
from foundry_lab.protocol import CHAT_PATH

MINUTES = float(os.environ.get("SOAK_MINUTES", "10"))
SLICE_S = min(30.0, MINUTES * 60 / 4)
CALLERS = 4
FAULT_RATE = 0.2
TIMEOUT_S = 4.0
GRACE_S = 3.0
MAX_GROWTH_MIB = 8.0
PROMPTS = ("Name three colours.", "What is the capital of France?", "Count to five.", "Say hello.")
OPTIONS = {"max_tokens": 10, "temperature": 0}
WITH = "with policies"
WITHOUT = "without"


class Tally:
    """What came of the calls of one kind of client."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.latencies: list[float] = []

    @property
    def calls(self) -> int:
        return self.outcomes.total()

    @property
    def success(self) -> float:
        return self.outcomes["ok"] / self.calls

    def row(self, name: str) -> str:
        failures = ", ".join(f"{count} {word}" for word, count in self.outcomes.most_common() if word != "ok")
        p50, p95 = (percentile(self.latencies, q) or 0.0 for q in (50, 95))
        latency = f"p50 {p50:.2f} s  p95 {p95:.2f} s"
        return f"{name:14} {self.calls:6} calls  {self.success:6.1%} ok  {latency}  {failures}"


@pytest.mark.soak
async def test_soak() -> None:
    before = engine.service_status()
    endpoint = await asyncio.to_thread(engine.ensure_service, progress=False)
    right = await reference(endpoint)
    tallies = {WITH: Tally(), WITHOUT: Tally()}
    problems: list[str] = []
    memory: list[float] = []
    process = psutil.Process()
    async with FaultProxy(endpoint, seed=20) as proxy:
        proxy.set_faults(*mix(FAULT_RATE, route=CHAT_PATH, delay_s=0.01))
        async with (
            FoundryAPIClient(
                proxy.url, model=spec.MODEL_ID, retry=RetryPolicy(retry_timeouts=True), metrics=False
            ) as guarded,
            FoundryAPIClient(proxy.url, model=spec.MODEL_ID, retries=0, breaker=False, metrics=False) as bare,
        ):
            ends = time.monotonic() + MINUTES * 60
            for name, client in cycle([(WITH, guarded), (WITHOUT, bare)]):
                slice_ends = min(ends, time.monotonic() + SLICE_S)
                async with asyncio.timeout(SLICE_S + TIMEOUT_S + 30):  # a hang shows here at the latest
                    await asyncio.gather(
                        *(
                            caller(number, client, slice_ends, right, tallies[name], problems)
                            for number in range(CALLERS)
                        )
                    )
                memory.append(process.memory_info().rss / 2**20)
                if time.monotonic() >= ends:
                    break
        spoiled = sum(count for fault, count in proxy.counts().items() if fault)
        share = spoiled / proxy.counts().total()
    if before is None:
        await asyncio.to_thread(engine.stop_service)

    # The interpreter's pools fill during the first slices; from then on nothing may grow.
    settled = len(memory) // 3
    growth = statistics.median(memory[-settled:]) - statistics.median(memory[settled : 2 * settled])
    print(f"\nsoak of {MINUTES:g} minutes, {CALLERS} callers, {share:.0%} of the latest requests spoiled")
    for name, tally in tallies.items():
        print(tally.row(name))
    print(f"memory {memory[0]:.0f} MiB at first, {memory[-1]:.0f} at last, growth {growth:+.1f} MiB")
    assert problems == []
    assert growth <= MAX_GROWTH_MIB
    assert tallies[WITH].success > tallies[WITHOUT].success
    assert min(tally.calls for tally in tallies.values()) >= 20 * MINUTES


async def reference(endpoint: str) -> dict[str, str]:
    """The right answers, from the service itself."""
    async with FoundryAPIClient(endpoint, model=spec.MODEL_ID, metrics=False) as client:
        return {prompt: (await client.complete(prompt, **OPTIONS)).content for prompt in PROMPTS}


async def caller(
    number: int,
    client: FoundryAPIClient,
    ends: float,
    right: dict[str, str],
    tally: Tally,
    problems: list[str],
) -> None:
    """Ask until the slice ends, whole and streamed by turns."""
    turn = number
    while time.monotonic() < ends:
        turn += 1
        prompt = PROMPTS[turn % len(PROMPTS)]
        how = "stream" if (turn // len(PROMPTS)) % 2 else "complete"
        began = time.monotonic()
        try:
            if how == "complete":
                text = (await client.complete(prompt, timeout=TIMEOUT_S, **OPTIONS)).content
            else:
                stream = client.stream_complete(
                    prompt, timeout=TIMEOUT_S, first_token_timeout=5.0, idle_timeout=1.0, **OPTIONS
                )
                text = "".join([chunk.content async for chunk in stream])
        except FoundryError as error:
            outcome = type(error).__name__
            await asyncio.sleep(0.01)  # an open breaker answers at once; don't spin
        else:
            outcome = "ok" if text == right[prompt] else "wrong answer"
            if outcome != "ok":
                problems.append(f"{how}: {text!r} instead of {right[prompt]!r}")
        took_s = time.monotonic() - began
        if took_s > TIMEOUT_S + GRACE_S:
            problems.append(f"{how} came back after {took_s:.1f} s with {outcome}")
        tally.outcomes[outcome] += 1
        tally.latencies.append(took_s)
