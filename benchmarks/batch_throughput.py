"""What a batch costs: items per second, CPU per item against a bare loop, and memory up to 100,000 items.

    python -m benchmarks.batch_throughput [--items 10000] [--large 100000] [--rounds 5] [--json FILE]

The stub answers in another process. The bare loop is aiohttp with a semaphore; it reads the answer's text and
writes nothing. The batch has everything on: fingerprints, retries, deadlines, metrics, and durable output.
Both take turns, and the median of the rounds counts. Each memory figure is from a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from benchmarks import stub_process
from benchmarks.stub_process import MODEL
from foundry_lab import FoundryAPIClient

LIMITS = {"items_per_s": 1500.0, "cpu_ratio": 1.5, "memory_mib": 150.0, "growth_mib": 10.0}
OPTIONS: dict[str, Any] = {"max_tokens": 40, "temperature": 0}


def prompts(count: int) -> Iterator[str]:
    return (f"Prompt number {number}: name three colours of the sea." for number in range(count))


async def bare_loop(url: str, items: list[str], concurrency: int) -> None:
    semaphore = asyncio.Semaphore(concurrency)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(prompt: str) -> str:
            body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **OPTIONS}
            async with semaphore, session.post(f"{url}/v1/chat/completions", json=body) as response:
                content: str = (await response.json())["choices"][0]["message"]["content"]
                return content

        answers = await asyncio.gather(*map(ask, items))
        assert all(answers)


async def batch(url: str, items: Any, concurrency: int, output: Path) -> None:
    async with FoundryAPIClient(url, model=MODEL) as client:
        report = await client.complete_batch(
            items, output=output, concurrency=concurrency, progress=False, **OPTIONS
        )
    assert report.failed == 0


def timed(run: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """Return seconds of wall time and of this process's CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    asyncio.run(run())  # type: ignore[arg-type]
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(url: str, count: int, concurrency: int, rounds: int, folder: Path) -> dict[str, float]:
    items, output = list(prompts(count)), folder / "out.jsonl"
    subjects: dict[str, Callable[[], Awaitable[None]]] = {
        "bare": lambda: bare_loop(url, items, concurrency),
        "batch": lambda: batch(url, items, concurrency, output),
    }
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in subjects}
    for round_number in range(rounds + 1):
        for name in sorted(subjects, reverse=bool(round_number % 2)):
            result = timed(subjects[name])
            if name == "batch":
                assert len(output.read_bytes().splitlines()) == count
                output.unlink()
            if round_number:  # the first one warms up
                measured[name].append(result)
    wall = {name: statistics.median(each[0] for each in runs) for name, runs in measured.items()}
    cpu = {name: statistics.median(each[1] for each in runs) for name, runs in measured.items()}
    return {
        "concurrency": concurrency,
        "bare_items_per_s": count / wall["bare"],
        "items_per_s": count / wall["batch"],
        "bare_cpu_us": cpu["bare"] / count * 1e6,
        "cpu_us": cpu["batch"] / count * 1e6,
        "cpu_ratio": cpu["batch"] / cpu["bare"],
    }


def peak_mib(url: str, count: int, folder: Path) -> float:
    """Return how far a process that runs such a batch rises above one that only has everything imported."""
    call = f"memory({url!r}, {count}, {str(folder / f'{count}.jsonl')!r})"
    code = f"from benchmarks.batch_throughput import memory; {call}"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout)


def memory(url: str, count: int, output: str) -> None:
    """Run one batch and print its peak; see `peak_mib`."""
    for name in ("batch.run", "workbook.plots.batch", "engine"):
        importlib.import_module(f"foundry_lab.{name}")
    import tqdm.notebook  # noqa: F401

    process = psutil.Process()
    base = process.memory_info().rss
    asyncio.run(batch(url, prompts(count), 8, Path(output)))
    info = process.memory_info()
    peak = getattr(info, "peak_wset", None) or _peak_rss()
    print((peak - base) / 2**20)


def _peak_rss() -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    with stub_process.running() as url, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = [compare(url, options.items, c, options.rounds, folder) for c in (2, 8, 16)]
        small, large = (peak_mib(url, count, folder) for count in (options.items, options.large))

    print(f"Python {platform.python_version()}, aiohttp {aiohttp.__version__}, {platform.machine()}")
    print(f"{'at once':>8} {'bare/s':>8} {'batch/s':>8} {'bare µs':>8} {'batch µs':>9} {'ratio':>6}")
    for run in runs:
        print(
            f"{run['concurrency']:8.0f} {run['bare_items_per_s']:8.0f} {run['items_per_s']:8.0f} "
            f"{run['bare_cpu_us']:8.1f} {run['cpu_us']:9.1f} {run['cpu_ratio']:6.2f}"
        )
    print(f"memory above the imports: {small:.1f} MiB for {options.items:,} items, ", end="")
    print(f"{large:.1f} MiB for {options.large:,}")
    figures = {
        "items_per_s": min(run["items_per_s"] for run in runs),
        "cpu_ratio": max(run["cpu_ratio"] for run in runs),
        "memory_mib": max(small, large),
        "growth_mib": large - small,
    }
    if options.json:
        options.json.write_text(json.dumps({"runs": runs, **figures}, indent=2) + "\n", encoding="utf-8")
    missed = [
        name
        for name, limit in LIMITS.items()
        if (figures[name] < limit if name == "items_per_s" else figures[name] > limit)
    ]
    if missed:
        sys.exit(f"Outside the limits: {', '.join(f'{name} {figures[name]:.2f}' for name in missed)}")


if __name__ == "__main__":
    main()
