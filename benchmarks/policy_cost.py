"""What the policies cost: CPU time of a request with retries, breaker, metrics and a log line, and without.

    python -m benchmarks.policy_cost [--rounds 30]

Both kinds of client ask the same stub, which runs in another process, and take turns within each round; the
medians of the rounds count, and of the ratios within each round. The retries cost what they cost a request
that needs none.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import statistics
import time
from typing import Any

from benchmarks import stub_process
from benchmarks.stub_process import MODEL
from foundry_lab import FoundryAPIClient, SyncFoundryAPIClient
from foundry_lab.logs import configure_logging
from foundry_lab.metrics import Metrics

REQUESTS = 200  # a round
LIMIT = 1.15
MESSAGES: list[Any] = [{"role": "user", "content": "Name three colours."}]
OPTIONS: dict[str, Any] = {"model": MODEL, "max_tokens": 40, "temperature": 0}
OFF: dict[str, Any] = {"retries": 0, "breaker": False, "metrics": False}


def on() -> dict[str, Any]:
    """The policies, as they are by default."""
    return {"retries": 3, "breaker": True, "metrics": Metrics()}


def measure(url: str, rounds: int) -> dict[str, list[float]]:
    """Return the CPU microseconds of a request in each round, by client and policies."""
    samples: dict[str, list[float]] = {}
    with (
        asyncio.Runner() as runner,
        SyncFoundryAPIClient(url, **OFF) as bare,
        SyncFoundryAPIClient(url, **on()) as full,
    ):
        bare_async, full_async = FoundryAPIClient(url, **OFF), FoundryAPIClient(url, **on())

        async def ask(client: FoundryAPIClient) -> None:
            for _ in range(REQUESTS):
                await client.complete(messages=MESSAGES, **OPTIONS)

        def ask_sync(client: SyncFoundryAPIClient) -> None:
            for _ in range(REQUESTS):
                client.complete(messages=MESSAGES, **OPTIONS)

        subjects = {
            "async, off": lambda: runner.run(ask(bare_async)),
            "async, on": lambda: runner.run(ask(full_async)),
            "sync, off": lambda: ask_sync(bare),
            "sync, on": lambda: ask_sync(full),
        }
        names = list(subjects)
        for work in subjects.values():
            work()
        for _ in range(rounds):
            for name in random.sample(names, len(names)):  # who comes before has an effect, too
                began = time.process_time()
                subjects[name]()
                samples.setdefault(name, []).append((time.process_time() - began) / REQUESTS * 1e6)
        runner.run(bare_async.close())
        runner.run(full_async.close())
    return samples


def main() -> None:
    """Measure and print; the exit code says whether the limit is kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    with stub_process.running() as url:
        plain = measure(url, rounds)
        configure_logging("INFO", stream=io.StringIO())
        logged = measure(url, rounds)
    print("| CPU µs a request | off | on | ratio | on, and a log line |\n|---|--:|--:|--:|--:|")
    kept = True
    for kind in ("async", "sync"):
        samples = plain[f"{kind}, off"], plain[f"{kind}, on"]
        off, with_all, with_log = map(statistics.median, (*samples, logged[f"{kind}, on"]))
        ratio = statistics.median(with_each / without for without, with_each in zip(*samples, strict=True))
        kept = kept and ratio <= LIMIT
        print(f"| {kind} | {off:.0f} | {with_all:.0f} | {ratio:.2f} | {with_log:.0f} |")
    if not kept:
        raise SystemExit(f"The policies cost more than {LIMIT - 1:.0%}.")


if __name__ == "__main__":
    main()
