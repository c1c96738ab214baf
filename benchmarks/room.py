"""One service for a room: what a learner waits for when 1, 4, 8 or 16 ask at once.

    python -m benchmarks.room [--rounds 5] [--png FILE]

Each learner has a client of his own and asks for short streamed answers, one after the other, as a notebook
does. In each round every class size has its turn, in an order that rotates, so that a slow minute is slow for
all. The service is the one that FOUNDRY_ENDPOINT names, or the lab's own.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from foundry_lab import FoundryAPIClient
from foundry_lab.workbook.plots.style import BLUE, CYCLE, label, panels

SIZES = (1, 4, 8, 16)
QUESTIONS = 2
TOKENS = 40
Times = tuple[float, float]
"""Seconds to the first token, and to the whole answer."""


async def learner(name: int, endpoint: str | None) -> list[Times]:
    """Ask some questions in a row."""
    times = []
    async with FoundryAPIClient(endpoint, timeout=300) as client:
        for number in range(QUESTIONS):
            started, first = time.perf_counter(), 0.0
            async for chunk in client.stream_complete(
                f"Learner {name}, question {number}: tell me about rain.", max_tokens=TOKENS
            ):
                first = first or (time.perf_counter() - started if chunk.content else 0.0)
            times.append((first, time.perf_counter() - started))
    return times


async def measure(rounds: int, endpoint: str | None) -> dict[int, list[list[Times]]]:
    """Return each class size's rounds."""
    found: dict[int, list[list[Times]]] = {size: [] for size in SIZES}
    await learner(0, endpoint)
    for number in range(rounds):
        shift = number % len(SIZES)
        for size in SIZES[shift:] + SIZES[:shift]:
            answers = await asyncio.gather(*(learner(name, endpoint) for name in range(size)))
            found[size].append([times for each in answers for times in each])
    return found


def draw(found: dict[int, list[list[Times]]]) -> Figure:
    """Draw what learners waited for: each answer a point, the median of all a line."""
    figure, axes = panels(2, "One service for a room: what a learner waits for")
    for axis, which, title in zip(
        axes, (0, 1), ("until the first token", "for the whole answer"), strict=True
    ):
        label(axis, "learners who ask at once", "seconds", title)
        waits = {
            size: [times[which] for round_ in rounds for times in round_] for size, rounds in found.items()
        }
        for size, seconds in waits.items():
            axis.plot([size] * len(seconds), seconds, ".", color=BLUE, alpha=0.25)
        for share, colour, style in ((50, CYCLE[0], "-o"), (95, CYCLE[1], "--s")):
            points = [np.percentile(seconds, share) for seconds in waits.values()]
            axis.plot(list(waits), points, style, color=colour, label=f"p{share}")
        axis.set_xticks(SIZES)
        axis.set_ylim(bottom=0)
        axis.legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--png", type=Path, help="draw the figure here")
    options = parser.parse_args()
    found = asyncio.run(measure(options.rounds, None))
    print(f"{'learners':>8} {'first token, s':>20} {'answer, s':>20} {'its p50, by round':>18}")
    print(f"{'':8} {'p50':>10} {'p95':>9} {'p50':>10} {'p95':>9}")
    for size, rounds in found.items():
        first, whole = zip(*(times for round_ in rounds for times in round_), strict=True)
        print(f"{size:8}", end="")
        for seconds in (first, whole):
            print(f" {np.percentile(seconds, 50):10.2f} {np.percentile(seconds, 95):9.2f}", end="")
        medians = [np.percentile([seconds for _, seconds in round_], 50) for round_ in rounds]
        print(f" {min(medians):9.2f} to {max(medians):5.2f}")
    if options.png:
        draw(found).savefig(options.png)


if __name__ == "__main__":
    main()
