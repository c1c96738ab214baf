"""Throughput and latency of the real service against concurrency, fair on a machine with other work.

    python -m benchmarks.batch_sweep [--rounds 15] [--png FILE] [--json FILE]

Each round runs the same prompts at every concurrency, in an order that rotates from round to round, so that
a machine that is slow for a while is slow for all. What counts for each concurrency is its median round; the
range of the middle half of the rounds says how far that can be trusted.
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
from foundry_lab.batch.options import DEFAULT_CONCURRENCY
from foundry_lab.workbook.plots.batch import SweepPoint, sweep_figure

CONCURRENCIES = (1, 2, 4, 8, 16)
SUBJECTS = ["river", "mountain", "engine", "garden", "teacher", "market", "harbour", "library"]
PROMPTS = [f"{what} {subject}." for what in ("Describe a", "Name one use of a") for subject in SUBJECTS]
OPTIONS: dict[str, Any] = {"max_tokens": 24, "temperature": 0, "timeout": 300, "progress": False}
SLACK = 0.03


def speed(point: SweepPoint) -> float:
    return point.tokens_per_s


async def measure(rounds: int) -> dict[int, list[SweepPoint]]:
    points: dict[int, list[SweepPoint]] = {each: [] for each in CONCURRENCIES}
    async with FoundryAPIClient() as client:
        await client.complete("Hi", max_tokens=4)
        for number in range(rounds):
            shift = number % len(CONCURRENCIES)
            for concurrency in CONCURRENCIES[shift:] + CONCURRENCIES[:shift]:
                report = await client.complete_batch(PROMPTS, concurrency=concurrency, **OPTIONS)
                assert report.failed == 0
                points[concurrency].append(SweepPoint.of(concurrency, report))
    return points


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--png", type=Path, help="draw the figure here")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: a median needs two rounds or more")
    points = asyncio.run(measure(options.rounds))
    median = {each: sorted(runs, key=speed)[len(runs) // 2] for each, runs in points.items()}
    best = max(map(speed, median.values()))
    print(f"{'at once':>8} {'tokens/s':>9} {'of best':>8} {'middle half':>15}", end="")
    print(f" {'p50 s':>7} {'p95 s':>7} {'Little s':>9}")
    for each, point in median.items():
        low, _, high = statistics.quantiles(map(speed, points[each]), n=4)
        print(
            f"{each:8} {speed(point):9.1f} {speed(point) / best:8.1%} {low:7.1f}-{high:7.1f} "
            f"{point.p50_s:7.2f} {point.p95_s:7.2f} {each / point.items_per_s:9.2f}"
        )
    usual, quickest = median[DEFAULT_CONCURRENCY], max(median.values(), key=speed)
    print(
        f"Quickest here: {quickest.concurrency} at once, half of the answers within {quickest.p50_s:.2f} s. "
        f"The default, {DEFAULT_CONCURRENCY}: {speed(usual) / best:.0%} of that, within {usual.p50_s:.2f} s."
    )
    if options.png:
        sweep_figure(list(median.values())).savefig(options.png)
    if options.json:
        options.json.write_text(
            json.dumps({each: speed(point) / best for each, point in median.items()}) + "\n"
        )
    if speed(usual) < best * (1 - SLACK):
        sys.exit(f"The default concurrency {DEFAULT_CONCURRENCY} is more than {SLACK:.0%} below the best.")


if __name__ == "__main__":
    main()
