"""The production notebook's figures of an outage: the breaker's states, and a service killed and started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from foundry_lab.engine.service.supervisor import Restart
from foundry_lab.errors import ConfigurationError
from foundry_lab.monitor import Look
from foundry_lab.policies.breaker import Transition
from foundry_lab.workbook.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    Fill,
    LabFigure,
    label,
    legend_beside,
    panels,
)

GOOD, DOUBTFUL, BAD = Fill(GREEN), Fill(ORANGE, ".."), Fill(RED, "//")
STATES = {"closed": GOOD, "half-open": DOUBTFUL, "open": BAD}
STATUSES = {"healthy": GOOD, "degraded": DOUBTFUL, "unavailable": BAD}

CallOutcome = tuple[float, float, str]
"""One call: when it began and ended (monotonic seconds), and how: "ok", "open" or "failed"."""

OUTCOMES = {
    "ok": (GREEN, "o", "answered"),
    "failed": (RED, "x", "sent, and failed"),
    "open": (GREY, "|", "refused by the breaker"),
}
"""Colour, marker and words of each outcome."""


def breaker_timeline(
    outcomes: Sequence[CallOutcome],
    transitions: Sequence[Transition],
    *,
    dark: tuple[float, float] | None = None,
) -> LabFigure:
    """Draw calls and the breaker's state on one time line.

    Args:
        outcomes: the calls.
        transitions: what a listener of the breaker was told.
        dark: when the service was away, in monotonic seconds.

    Raises:
        ConfigurationError: no calls.
    """
    if not outcomes:
        raise ConfigurationError("There are no calls to draw.")
    began = outcomes[0][0]
    end = max(ended for _, ended, _ in outcomes) - began
    fig, axes = panels(
        2, "The breaker while the service goes away and comes back", size=(9, 4.6), stacked=True
    )
    marks = [("closed", began), *((each.new, each.at_s) for each in transitions)]
    states = _bands(axes[0], began, end, marks, STATES)
    label(axes[0], "", "", "state of the breaker")
    calls = _rows(axes[1], began, end, outcomes)
    axes[1].set_ylim(-0.6, len(OUTCOMES) - 0.4)
    label(axes[1], "seconds", "", "calls, at the moment they ended")
    for ax in axes:
        ax.set_xlim(0, end)
        for at in dark or ():
            ax.axvline(at - began, color="black", lw=1, ls=":")
    if dark is not None:
        axes[1].axvspan(dark[0] - began, dark[1] - began, color=GREY, alpha=0.18, lw=0)
        axes[1].text((sum(dark) / 2) - began, -0.5, "service away", ha="center", fontsize=9)
    fig.alt = f"The breaker on a time line: {states}. Calls: {calls}."
    if dark is not None:
        fig.alt += f" The service was away from {dark[0] - began:.1f} to {dark[1] - began:.1f} s."
    return fig


def recovery(
    outcomes: Sequence[CallOutcome],
    looks: Sequence[Look],
    restarts: Sequence[Restart],
    killed_at_s: float,
) -> LabFigure:
    """Draw what callers and a health monitor saw of a service that was killed and started again.

    Args:
        outcomes: the calls. looks: of the monitor. restarts: of the supervisor.
        killed_at_s: when, in monotonic seconds.

    Raises:
        ConfigurationError: no looks or no calls.
    """
    if not outcomes or not looks:
        raise ConfigurationError("There are no calls or no looks to draw.")
    began = min(killed_at_s, *(began for began, _, _ in outcomes))
    lead = killed_at_s - began
    end = max(max(ended for _, ended, _ in outcomes), looks[-1].at_s) - began
    fig, axes = panels(2, "Killed, found dead, started again", size=(9, 4.6), stacked=True)
    marks = [(look.health.status, look.at_s) for look in looks]
    health = _bands(axes[0], began, end, marks, STATUSES)
    label(axes[0], "", "", "health, as the monitor saw it")
    calls = _rows(axes[1], began, end, outcomes)
    axes[1].set_ylim(-0.6, len(OUTCOMES) - 0.2)
    back = time_to_recovery_s(outcomes, killed_at_s)
    title = "calls, at the moment they ended"
    if back is not None:
        title += f"; first answer {back:.1f} s after the kill"
    label(axes[1], "seconds since the kill", "", title)
    for ax in axes:
        ax.set_xlim(0, end)
        ax.axvline(lead, color="black", lw=1.5)
        ticks = np.arange(-int(lead), int(end - lead) + 1)
        ax.set_xticks(ticks + lead, [str(tick) for tick in ticks])
    on_bands = {"facecolor": "white", "alpha": 0.85, "lw": 0, "pad": 1}
    place = axes[0].get_xaxis_transform()
    axes[0].text(lead, 0.96, " kill -9 ", transform=place, va="top", fontsize=9, bbox=on_bands)
    for restart in restarts:
        start = restart.at_s - began
        axes[1].axvspan(start, start + restart.took_s, color=BLUE, alpha=0.15, lw=0)
    if restarts:
        at = restarts[-1].at_s - began  # from there to the right: the line of the kill is just before it
        axes[1].text(at, len(OUTCOMES) - 0.45, " restart", ha="left", fontsize=9)
    fig.alt = f"A service killed after {lead:.1f} s on a time line. Health: {health}. Calls: {calls}. " + (
        f"The first answer came {back:.1f} s after the kill." if back is not None else "No answer came."
    )
    return fig


def time_to_recovery_s(outcomes: Sequence[CallOutcome], killed_at_s: float) -> float | None:
    """Return the seconds from a kill to the first answer to a call that began after the first failure.

    None where there was no failure, or no answer after it.
    """
    failed = [ended for _, ended, word in outcomes if word != "ok" and ended >= killed_at_s]
    if not failed:
        return None
    good = [ended for began, ended, word in outcomes if word == "ok" and began >= failed[0]]
    return min(good) - killed_at_s if good else None


def _rows(ax: Axes, began: float, end: float, outcomes: Sequence[CallOutcome]) -> str:
    """Draw a dot for each call, a row for each kind of outcome; return the counts in words."""
    counts = []
    for row, (word, (color, marker, text)) in enumerate(OUTCOMES.items()):
        times = [ended - began for _, ended, outcome in outcomes if outcome == word]
        ax.scatter(times, [row] * len(times), s=16, color=color, marker=marker)
        ax.text(end * 1.02, row, f"{len(times)} {text}", va="center", fontsize=9)
        counts.append(f"{len(times)} {text}")
    ax.set_yticks([])
    return "; ".join(counts)


def _bands(
    ax: Axes,
    began: float,
    end: float,
    marks: Sequence[tuple[str, float]],
    fills: Mapping[str, Fill],
) -> str:
    """Fill the time from each mark to the next with its word's look; return the changes in words."""
    for number, (word, at) in enumerate(marks):
        until = marks[number + 1][1] - began if number + 1 < len(marks) else end
        if until > 0:
            start = max(0.0, at - began)
            width = max(until - start, 0.006 * end)  # a short one must be seen too
            above = 2 if width > until - start else 1
            color, hatch = fills[word]
            ax.axvspan(
                start, start + width, facecolor=color, hatch=hatch, edgecolor="white", lw=0, zorder=above
            )
    ax.set_yticks([])
    present = [word for word in fills if any(word == each for each, _ in marks)]
    legend_beside(ax, [fills[word].patch(word) for word in present])
    changes = [mark for n, mark in enumerate(marks) if n == 0 or mark[0] != marks[n - 1][0]]
    return ", ".join(f"{word} from {max(0.0, at - began):.1f} s" for word, at in changes)
