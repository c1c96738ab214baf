"""Figures of the batch notebook: one run, a sweep over concurrency, a confusion table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from matplotlib.ticker import MaxNLocator

from foundry_lab._ground.checks import as_number, check_count
from foundry_lab.errors import ConfigurationError
from foundry_lab.workbook.plots.style import BLUE, GREEN, GREY, ORANGE, RED, LabFigure, label, numbers, panels

if TYPE_CHECKING:  # a notebook without batches does without loading them
    from foundry_lab.batch.report import BatchReport


class SweepPoint(msgspec.Struct, frozen=True):
    """One measured concurrency: items and tokens per second, latencies in seconds."""

    concurrency: int
    items_per_s: float
    tokens_per_s: float
    mean_s: float
    p50_s: float
    p95_s: float

    @classmethod
    def of(cls, concurrency: int, report: BatchReport) -> SweepPoint:
        """Return the point that a batch with this concurrency gives.

        Raises:
            ConfigurationError: it answered nothing; a concurrency that is no whole number from 1.
        """
        check_count(concurrency, "concurrency")
        answered = report.answered_s()
        p50, p95 = report.latency_s(50), report.latency_s(95)
        if p50 is None or p95 is None:
            raise ConfigurationError("No item of this batch was answered, so there is no latency to show.")
        mean = sum(answered) / len(answered)
        return cls(concurrency, report.items_per_s, report.tokens_per_s, mean, p50, p95)


def batch_figure(report: BatchReport) -> LabFigure:
    """Draw one run: finished items over time, and the latency of each."""
    title = f"Batch: {report.items_per_s:.1f} items/s, {report.tokens_per_s:.0f} tokens/s"
    fig, (left, right) = panels(2, title)
    timed = [(s.at_s, s.latency_s, s.ok) for s in report.samples if s.latency_s is not None]
    good = [(at_s, latency_s) for at_s, latency_s, ok in timed if ok]
    bad = [(at_s, latency_s) for at_s, latency_s, ok in timed if not ok]
    at = [0.0, *(sample.at_s for sample in report.samples)]
    finished = np.linspace(0, report.done + report.failed, len(at))
    left.step(at, finished, where="post", color=BLUE, linewidth=2)
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    label(left, "time (s)", "finished items", "Progress: a straight line is a steady service")
    if good:
        right.plot(*zip(*good, strict=True), ".", color=BLUE, alpha=0.6, label="answered")
    if bad:
        right.plot(*zip(*bad, strict=True), "x", color=RED, label="failed")
    levels = [(q, value) for q in (50, 95) if (value := report.latency_s(q)) is not None]
    for (q, value), colour, style in zip(levels, (GREEN, ORANGE), ("-", "--"), strict=False):
        right.axhline(value, color=colour, linestyle=style, linewidth=2, label=f"p{q} = {value:.2f} s")
    label(right, "time (s)", "latency (s)", "Latency of each item")
    right.set_xlim(*left.get_xlim())
    if timed:
        right.set_ylim(0, 1.2 * max(latency_s for _, latency_s, _ in timed) or None)
        right.legend(loc="best", framealpha=0.9)
    fig.alt = (
        f"Two panels of one batch. Left, finished items over time: {report.done} answered and "
        f"{report.failed} failed after {max(at):.1f} s, {report.items_per_s:.1f} items/s. Right, the latency "
        f"of each item: {', '.join(f'p{q} {value:.2f} s' for q, value in levels) or 'none was answered'}."
    )
    return fig


def sweep_figure(points: Sequence[SweepPoint]) -> LabFigure:
    """Draw throughput and latency against concurrency, with what Little's law says the latency must be.

    Little's law (J. Little, "A Proof for the Queuing Formula L = λW", 1961): requests under way = throughput
    times mean latency. Where throughput doesn't grow, latency has to.

    Raises:
        ConfigurationError: no point, or one with a number that is missing.
    """
    if not points:
        raise ConfigurationError("There is nothing to draw: give at least one SweepPoint.")
    for point in points:
        if not all(math.isfinite(as_number(each)) for each in msgspec.structs.astuple(point)):
            raise ConfigurationError(f"{point} lacks a number, so it can't be drawn; leave it out.")
    points = sorted(points, key=lambda point: point.concurrency)
    x = np.array([point.concurrency for point in points])
    fig, (left, right) = panels(2, "How much is done, and how long one waits, by requests at once")
    left.plot(x, [point.tokens_per_s for point in points], "o-", color=BLUE, linewidth=2)
    left.set_ylim(0, 1.25 * max(point.tokens_per_s for point in points))
    label(left, "requests at once", "throughput (tokens/s)", "Throughput")
    right.plot(x, [point.p95_s for point in points], "s-", color=ORANGE, linewidth=2, label="p95 latency")
    right.plot(x, [point.p50_s for point in points], "o-", color=BLUE, linewidth=2, label="p50 latency")
    law = x / np.array([point.items_per_s for point in points])
    right.plot(x, law, "--", color=GREY, linewidth=2, label="Little's law: requests at once / throughput")
    right.set_ylim(bottom=0)
    label(right, "requests at once", "latency (s)", "Latency")
    right.legend(loc="upper left", framealpha=0.9)
    for axes in (left, right):
        axes.set_xlim(left=0)
        axes.set_xticks(x, [str(each) for each in x])
    fig.alt = "Throughput and latency against requests at once. " + " ".join(
        f"At {point.concurrency}: {point.tokens_per_s:.0f} tokens/s, latency p50 {point.p50_s:.2f} s, p95 "
        f"{point.p95_s:.2f} s, by Little's law {at_law:.2f} s."
        for point, at_law in zip(points, law, strict=True)
    )
    return fig


def confusion_figure(labels: Sequence[str], counts: Sequence[Sequence[int]], title: str) -> LabFigure:
    """Draw a confusion table: a row for each true label, a column for each answer.

    Raises:
        ConfigurationError: no label, or not a count from 0 for each pair of labels.
    """
    try:
        table = np.asarray(counts)
    except ValueError:  # rows of different lengths
        table = np.empty(0)
    if not table.size or table.shape != (len(labels), len(labels)):
        raise ConfigurationError(f"{len(labels)} labels need as many rows and columns, not {table.shape}.")
    if (numbers(table.ravel(), "count") < 0).any():
        raise ConfigurationError(f"A count in {table.tolist()} is below 0; count the answers again.")
    fig, (axes,) = panels(1, title, size=(5.5, 4.5))
    label(axes, "what the model said", "what is true")
    axes.imshow(table, cmap="Blues", vmin=0, vmax=max(1, table.sum(axis=1).max() * 1.4))
    axes.grid(False)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    for (row, column), count in np.ndenumerate(table):
        weight = "bold" if row == column else "normal"
        axes.text(column, row, str(count), ha="center", va="center", fontsize=13, fontweight=weight)
    rows = (
        f"True {name}: {', '.join(f'{count} {said}' for said, count in zip(labels, row, strict=True))}."
        for name, row in zip(labels, counts, strict=True)
    )
    fig.alt = f"Table of answers, {title}. {' '.join(rows)}"
    return fig
