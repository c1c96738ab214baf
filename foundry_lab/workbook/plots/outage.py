"""The production notebook's figures of an outage: the breaker's states, and a service killed and started."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise

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
    LabFigure,
    area,
    label,
    legend_beside,
    panels,
)

GOOD, DOUBTFUL, BAD = area(GREEN), area(ORANGE, ".."), area(RED, "//")
BREAKER = {"closed": GOOD, "half-open": DOUBTFUL, "open": BAD}
SERVICE = {"healthy": GOOD, "degraded": DOUBTFUL, "unavailable": BAD}
STATES = BREAKER | SERVICE

Mark = tuple[str, float]
"""A state, and since when."""
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
    marks = [("closed", began), *((each.new, each.at_s) for each in transitions)]
    title = "The breaker while the service goes away and comes back"
    fig, states, calls = _time_line(title, began, marks, outcomes)
    label(states, "", "", "state of the breaker")
    label(calls, "seconds", "", "calls, at the moment they ended")
    fig.alt = f"The breaker on a time line: {fig.alt}"
    if dark is not None:
        away, back = dark[0] - began, dark[1] - began
        for ax in (states, calls):
            ax.axvline(away, color="black", lw=1, ls=":")
            ax.axvline(back, color="black", lw=1, ls=":")
        calls.axvspan(away, back, color=GREY, alpha=0.18, lw=0)
        calls.text((away + back) / 2, -0.5, "service away", ha="center", fontsize=9)
        fig.alt += f" The service was away from {away:.1f} to {back:.1f} s."
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
    marks = [(look.health.status, look.at_s) for look in looks]
    fig, health, calls = _time_line("Killed, found dead, started again", began, marks, outcomes)
    label(health, "", "", "health, as the monitor saw it")
    title = "calls, at the moment they ended"
    recovered = "No answer came."
    if (back := time_to_recovery_s(outcomes, killed_at_s)) is not None:
        title += f"; first answer {back:.1f} s after the kill"
        recovered = f"The first answer came {back:.1f} s after the kill."
    label(calls, "seconds since the kill", "", title)
    ticks = np.arange(-int(lead), int(calls.get_xlim()[1] - lead) + 1)
    for ax in (health, calls):
        ax.axvline(lead, color="black", lw=1.5)
        ax.set_xticks(ticks + lead, [str(tick) for tick in ticks])
    on_bands = {"facecolor": "white", "alpha": 0.85, "lw": 0, "pad": 1}
    place = health.get_xaxis_transform()
    health.text(lead, 0.96, " kill -9 ", transform=place, va="top", fontsize=9, bbox=on_bands)
    for restart in restarts:
        start = restart.at_s - began
        calls.axvspan(start, start + restart.took_s, color=BLUE, alpha=0.15, lw=0)
    if restarts:
        at = restarts[-1].at_s - began  # from there to the right: the line of the kill is just before it
        calls.text(at, len(OUTCOMES) - 0.45, " restart", ha="left", fontsize=9)
    fig.alt = f"A service killed after {lead:.1f} s on a time line. Health: {fig.alt} {recovered}"
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


def _time_line(
    title: str, began: float, marks: Iterable[Mark], outcomes: Sequence[CallOutcome]
) -> tuple[LabFigure, Axes, Axes]:
    """Return a figure of two panels, its alt text begun: a band of states, and the calls, from `began` on."""
    seen = [(word, max(0.0, at - began)) for word, at in marks]
    end = max(seen[-1][1], *(ended - began for _, ended, _ in outcomes))
    fig, (above, below) = panels(2, title, size=(9, 4.6), stacked=True)
    states = _draw_states(above, seen, end)
    calls = _draw_calls(below, [(ended - began, word) for _, ended, word in outcomes], end)
    for ax in (above, below):
        ax.set_xlim(0, end)
        ax.set_yticks([])
    fig.alt = f"{states}. Calls: {calls}."
    return fig, above, below


def _draw_states(ax: Axes, marks: Sequence[Mark], end: float) -> str:
    """Fill the time from each mark to the next with its word's look; return the changes in words."""
    for (word, start), (_, until) in pairwise([*marks, ("", end)]):
        if until > 0:
            width = max(until - start, 0.006 * end)  # a short one must be seen too
            above = 2 if width > until - start else 1
            ax.axvspan(start, start + width, zorder=above, **STATES[word])
    present = {word for word, _ in marks}
    legend_beside(ax, {word: fill for word, fill in STATES.items() if word in present})
    changes = [next(group) for _, group in groupby(marks, key=lambda mark: mark[0])]
    return ", ".join(f"{word} from {at:.1f} s" for word, at in changes)


def _draw_calls(ax: Axes, ends: Sequence[tuple[float, str]], end: float) -> str:
    """Draw a mark where each call ended, a row for each kind of outcome; return the counts in words."""
    counts = []
    for row, (word, (color, marker, text)) in enumerate(OUTCOMES.items()):
        times = [at for at, outcome in ends if outcome == word]
        counts.append(f"{len(times)} {text}")
        ax.scatter(times, [row] * len(times), s=16, color=color, marker=marker)
        ax.text(end * 1.02, row, counts[-1], va="center", fontsize=9)
    ax.set_ylim(-0.6, len(OUTCOMES) - 0.2)
    return "; ".join(counts)
