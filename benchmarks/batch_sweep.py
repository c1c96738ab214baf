"""Throughput and latency of the real service against concurrency, fair on a machine with other work.

    python -m benchmarks.batch_sweep [--rounds 5] [--png FILE] [--json FILE]

Each round runs the same prompts at every concurrency, in an order that rotates from round to round. Other
work on the machine can only slow a run down, so what counts for each concurrency is its fastest round. The
median stands beside it: where the two tell different things, the machine was not quiet.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from foundry_lab import FoundryAPIClient
from foundry_lab.batch.policy import DEFAULT_CONCURRENCY
from foundry_lab.plots_batch import SweepPoint, sweep_figure

CONCURRENCIES = (1, 2, 4, 8, 16)
SUBJECTS = ["river", "mountain", "engine", "garden", "teacher", "market", "harbour", "library"]
PROMPTS = [f"{what} {subject}." for what in ("Describe a", "Name one use of a") for subject in SUBJECTS]
OPTIONS: dict[str, Any] = {"max_tokens": 24, "temperature": 0, "timeout": 300, "progress": False}
SLACK = 0.03


async def measure(rounds: int) -> dict[int, list[SweepPoint]]:
    points: dict[int, list[SweepPoint]] = {each: [] for each in CONCURRENCIES}
    async with FoundryAPIClient() as client:
        await client.complete("Hi", max_tokens=4)
        for number in range(rounds):
            shift = number % len(CONCURRENCIES)
            for concurrency in CONCURRENCIES[shift:] + CONCURRENCIES[:shift]:
                report = await client.complete_batch(
                    PROMPTS,
                    concurrency=concurrency,
                    max_tokens=24,
                    temperature=0,
                    timeout=300,
                    progress=False,
                )
                assert report.failed == 0
                points[concurrency].append(SweepPoint.of(concurrency, report))
    return points


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--png", type=Path, help="draw the figure here")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    points = asyncio.run(measure(options.rounds))
    fastest = {each: max(runs, key=lambda run: run.tokens_per_s) for each, runs in points.items()}
    top = max(point.tokens_per_s for point in fastest.values())
    median = {each: statistics.median(run.tokens_per_s for run in runs) for each, runs in points.items()}
    print("         fastest round      median")
    share = f"{'tokens/s':>9} {'of best':>8}"
    print(f"{'at once':>8} {share} {share} {'p50 s':>7} {'p95 s':>7} {'Little s':>9}")
    for each, point in fastest.items():
        law = each / point.items_per_s
        print(
            f"{each:8} {point.tokens_per_s:9.1f} {point.tokens_per_s / top:8.1%} "
            f"{median[each]:9.1f} {median[each] / max(median.values()):8.1%} "
            f"{point.p50_s:7.2f} {point.p95_s:7.2f} {law:9.2f}"
        )
    if options.png:
        sweep_figure(list(fastest.values())).savefig(options.png)
    if options.json:
        options.json.write_text(
            json.dumps({each: point.tokens_per_s / top for each, point in fastest.items()}) + "\n"
        )
    if fastest[DEFAULT_CONCURRENCY].tokens_per_s < top * (1 - SLACK):
        sys.exit(f"The default concurrency {DEFAULT_CONCURRENCY} is more than {SLACK:.0%} below the best.")


if __name__ == "__main__":
    main()
