"""The production notebook's figures of requests: the attempts of each call, and when retries arrive."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

import numpy as np

from foundry_lab.errors import ConfigurationError
from foundry_lab.faults.proxy import ProxiedRequest
from foundry_lab.workbook.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    LabFigure,
    area,
    figure,
    label,
    legend_beside,
    panels,
)

PASSED = area(BLUE)
FAULTS = (area(RED, "//"), area(ORANGE, ".."), area(PURPLE, "xx"), area(GREEN, "++"), area(GREY, "\\\\"))


def attempts(log: Iterable[ProxiedRequest], *, deadline_s: float | None = None) -> LabFigure:
    """Draw each call as a row of its attempts on a time line in seconds, as a fault proxy logged them.

    Args:
        log: entries of `FaultProxy.log`; those with the same request id are one call. A request that is
            under way is drawn up to now.
        deadline_s: draw a line there.

    Raises:
        ConfigurationError: there is nothing to draw.
    """
    now_s = time.monotonic()
    calls: dict[str, list[tuple[float, float, str]]] = {}
    for entry in log:
        end_s = now_s if entry.duration_s is None else entry.at_s + entry.duration_s
        calls.setdefault(entry.request_id, []).append((entry.at_s, end_s, entry.fault))
    if not calls:
        raise ConfigurationError("The log holds no request; send some through the proxy first.")
    fig, ax = figure(
        "Attempts of each call, and what they met",
        "seconds since the call's first attempt",
        "call",
        size=(9, 1.6 + 0.34 * len(calls)),
    )
    ends = [end_s - each[0][0] for each in calls.values() for _, end_s, _ in each]
    longest = max([*ends, deadline_s or 0.0])
    met = Counter(fault for each in calls.values() for _, _, fault in each)
    fills = {"": PASSED} if "" in met else {}
    fills |= dict(zip(filter(None, met), cycle(FAULTS), strict=False))
    rows = range(0, -len(calls), -1)  # the first on top
    for row, entries in zip(rows, calls.values(), strict=True):
        first_s, last_s = entries[0][0], entries[-1][0]
        ax.plot([0, last_s - first_s], [row, row], color=GREY, lw=1, ls=":", zorder=1)
        for at_s, end_s, fault in entries:
            width = max(end_s - at_s, 0.008 * longest)  # wide enough to be seen
            ax.barh(row, width, left=at_s - first_s, height=0.6, zorder=2, **fills[fault])
    ax.set_yticks(rows, [str(1 - row) for row in rows])
    ax.set_ylim(-len(calls) + 0.4, 0.6)
    ax.set_xlim(-0.01 * longest, longest * 1.06)
    words = [f"{count} met {fault}" if fault else f"{count} were passed on" for fault, count in met.items()]
    most = max(map(len, calls.values()))
    fig.alt = (
        f"A row a call, a bar an attempt: {len(calls)} calls, {met.total()} attempts. Of these "
        f"{', '.join(words)}. At most {most} attempts a call; the longest call took {max(ends):.2f} s."
    )
    lines = []
    if deadline_s is not None:
        lines.append(ax.axvline(deadline_s, color="black", lw=2, ls="--", label="deadline"))
        fig.alt += f" The deadline is at {deadline_s:g} s."
    legend_beside(ax, {fault or "passed on": fill for fault, fill in fills.items()}, *lines)
    return fig


def arrivals(runs: Mapping[str, Sequence[float]], *, bin_s: float = 0.02) -> LabFigure:
    """Draw how many retries reach a service in each short interval, one panel a run.

    Args:
        runs: name and arrival times in seconds.
        bin_s: width of an interval in seconds.

    Raises:
        ConfigurationError: no run, or an empty one.
    """
    if not runs or not all(runs.values()):
        raise ConfigurationError("Give at least one run, and for each the times at which requests arrived.")
    since = {name: np.asarray(times) - min(times) for name, times in runs.items()}
    longest = max(float(times.max()) for times in since.values())
    bins = np.arange(0, longest + 2 * bin_s, bin_s)
    fig, axes = panels(
        len(runs), "The same failure, the same number of retries", size=(9, 2.3 * len(runs)), stacked=True
    )
    most: dict[str, int] = {}
    for ax, (name, times), color in zip(axes, since.items(), cycle((RED, GREEN, BLUE)), strict=False):
        counts, _, _ = ax.hist(times, bins=bins.tolist(), color=color)
        most[name] = int(np.max(counts))
        label(ax, "", f"retries in {bin_s * 1000:.0f} ms", f"{name}: at most {most[name]} at once")
    for ax in axes:
        ax.set_ylim(0, max(most.values()) * 1.1)
        ax.set_xlim(-bin_s, bins[-1])
    axes[-1].set_xlabel("seconds since the first retry", fontsize=11)
    fig.alt = f"Histograms of retries, a panel a run, in steps of {bin_s * 1000:.0f} ms. " + " ".join(
        f"{name}: {len(times)} retries over {times.max():.2f} s, at most {most[name]} at once."
        for name, times in since.items()
    )
    return fig
