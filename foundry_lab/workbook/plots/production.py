"""The production notebooks' figures.

Of requests: the attempts of each call, and when retries arrive. Of an outage: the breaker's states, and a
service killed and started.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, groupby, pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from foundry_lab._ground.checks import check_seconds
from foundry_lab.engine.service.supervisor import Restart
from foundry_lab.errors import ConfigurationError
from foundry_lab.faults.proxy import ProxiedRequest
from foundry_lab.monitor import Look
from foundry_lab.policies.breaker import Transition
from foundry_lab.workbook.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    LabFigure,
    label,
    numbers,
    panels,
)

Fill = Mapping[str, Any]
"""How an area looks, as arguments of matplotlib's patches and bars."""


def _area(color: str, hatch: str = "") -> Fill:
    """Return how an area looks: its hatching tells as much as its colour, which not everybody sees."""
    return {"facecolor": color, "hatch": hatch, "edgecolor": "white", "lw": 0}


PASSED = _area(BLUE)
FAULTS = (_area(RED, "//"), _area(ORANGE, ".."), _area(PURPLE, "xx"), _area(GREEN, "++"), _area(GREY, "\\\\"))
GOOD, DOUBTFUL, BAD = _area(GREEN), _area(ORANGE, ".."), _area(RED, "//")
BREAKER = {"closed": GOOD, "half-open": DOUBTFUL, "open": BAD}
SERVICE = {"healthy": GOOD, "degraded": DOUBTFUL, "unavailable": BAD}
STATES = BREAKER | SERVICE

CallOutcome = tuple[float, float, str]
"""One call: when it began and ended (monotonic seconds), and how: "ok", "open" or "failed"."""

OUTCOMES = {
    "ok": (GREEN, "o", "answered"),
    "failed": (RED, "x", "sent, and failed"),
    "open": (GREY, "|", "refused by the breaker"),
}
"""Colour, marker and words of each outcome."""
MOST_BINS = 10_000
"""Of a histogram; a figure has about a tenth as many pixels."""


def attempts(log: Iterable[ProxiedRequest], *, deadline_s: float | None = None) -> LabFigure:
    """Draw each call as a row of its attempts on a time line in seconds, as a fault proxy logged them.

    Args:
        log: entries of `FaultProxy.log`; those with the same request id are one call, and one without an id
            is a call of its own. A request that is under way is drawn up to now.
        deadline_s: draw a line there.

    Raises:
        ConfigurationError: there is nothing to draw; a deadline that is no time.
    """
    if deadline_s is not None:
        check_seconds(deadline_s, "deadline_s")
    now_s = time.monotonic()
    calls: dict[str, list[tuple[float, float, str]]] = {}
    for entry in list(log):  # a proxy that runs adds to it
        end_s = now_s if entry.duration_s is None else entry.at_s + entry.duration_s
        call = entry.request_id or f"{entry.path} {entry.at_s}"
        calls.setdefault(call, []).append((entry.at_s, end_s, entry.fault))
    if not calls:
        raise ConfigurationError("The log holds no request; send some through the proxy first.")
    fig, (ax,) = panels(1, "Attempts of each call, and what they met", size=(9, 1.6 + 0.34 * len(calls)))
    label(ax, "seconds since the call's first attempt", "call")
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
    if deadline_s is not None:
        ax.axvline(deadline_s, color="black", lw=2, ls="--", label="deadline")
        fig.alt += f" The deadline is at {deadline_s:g} s."
    _legend_beside(ax, {fault or "passed on": fill for fault, fill in fills.items()})
    return fig


def arrivals(runs: Mapping[str, Sequence[float]], *, bin_s: float = 0.02) -> LabFigure:
    """Draw how many retries reach a service in each short interval, one panel a run.

    Args:
        runs: name and arrival times in seconds.
        bin_s: width of an interval in seconds.

    Raises:
        ConfigurationError: no run, or an empty one; a time that is missing; a `bin_s` that is no time, or so
            short that nobody could see the bars.
    """
    check_seconds(bin_s, "bin_s", positive=True)
    if not runs or not all(map(len, runs.values())):
        raise ConfigurationError("Give at least one run, and for each the times at which requests arrived.")
    at = {name: numbers(times, "arrival") for name, times in runs.items()}
    since = {name: times - times.min() for name, times in at.items()}
    longest = max(float(times.max()) for times in since.values())
    if not longest / bin_s < MOST_BINS or bin_s == math.inf:
        raise ConfigurationError(
            f"bin_s={bin_s!r} can't be drawn: the arrivals lie within {longest:.3g} s. "
            f"Give a number of seconds that cuts this into fewer than {MOST_BINS} intervals."
        )
    bins = np.arange(0, longest + 2 * bin_s, bin_s)
    title = "The same failure, the same number of retries"
    fig, axes = panels(len(runs), title, size=(9, 2.3 * len(runs)), stacked=True)
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
        ConfigurationError: no calls; one that is no `CallOutcome`; times in `dark` that are none.
    """
    if not outcomes:
        raise ConfigurationError("There are no calls to draw.")
    _check_outcomes(outcomes)
    began = outcomes[0][0]
    marks = [("closed", began), *((each.new, each.at_s) for each in transitions)]
    title = "The breaker while the service goes away and comes back"
    fig, states, calls = _time_line(title, began, marks, outcomes)
    label(states, "", "", "state of the breaker")
    label(calls, "seconds", "", "calls, at the moment they ended")
    fig.alt = f"The breaker on a time line: {fig.alt}"
    if dark is not None:
        away, back = (check_seconds(each, "dark") - began for each in dark)
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
        ConfigurationError: no looks or no calls; a call that is no `CallOutcome`; a kill at no time.
    """
    if not outcomes or not looks:
        raise ConfigurationError("There are no calls or no looks to draw.")
    _check_outcomes(outcomes)
    check_seconds(killed_at_s, "killed_at_s")
    began = min(killed_at_s, *(began for began, _, _ in outcomes))
    lead = killed_at_s - began
    marks = [(look.health.status, look.at_s) for look in looks]
    fig, health, calls = _time_line("Killed, found dead, started again", began, marks, outcomes, zero=lead)
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
    fig.alt = f"A service killed at 0 s on a time line. Health: {fig.alt} {recovered}"
    return fig


def time_to_recovery_s(outcomes: Sequence[CallOutcome], killed_at_s: float) -> float | None:
    """Return the seconds from a kill to the first answer to a call that began after the first failure.

    None where there was no failure, or no answer after it.

    Raises:
        ConfigurationError: a call that is no `CallOutcome`; a kill at no time.
    """
    _check_outcomes(outcomes)
    check_seconds(killed_at_s, "killed_at_s")
    failed = [ended for _, ended, word in outcomes if word != "ok" and ended >= killed_at_s]
    if not failed:
        return None
    good = [ended for began, ended, word in outcomes if word == "ok" and began >= failed[0]]
    return min(good) - killed_at_s if good else None


def _check_outcomes(outcomes: Sequence[CallOutcome]) -> None:
    """Raise ConfigurationError for a call that no row of a figure would show."""
    for outcome in outcomes:
        *times, word = outcome
        if len(times) != 2 or word not in OUTCOMES or not all(map(math.isfinite, times)):
            raise ConfigurationError(
                f"A call is {outcome!r}; give when it began and ended, in monotonic seconds, and one of the "
                f"words {', '.join(OUTCOMES)}."
            )


def _time_line(
    title: str,
    began: float,
    marks: Iterable[tuple[str, float]],
    outcomes: Sequence[CallOutcome],
    *,
    zero: float = 0.0,
) -> tuple[LabFigure, Axes, Axes]:
    """Return a figure of two panels, its alt text begun: a band of states, and the calls, from `began` on.

    Each of `marks` is a state, and since when. The alt text counts from `zero` seconds behind `began`.
    """
    seen = [(word, max(0.0, at - began)) for word, at in marks]
    end = max(seen[-1][1], *(ended - began for _, ended, _ in outcomes))
    fig, (above, below) = panels(2, title, size=(9, 4.6), stacked=True)
    states = _draw_states(above, seen, end, zero)
    calls = _draw_calls(below, [(ended - began, word) for _, ended, word in outcomes], end)
    for ax in (above, below):
        ax.set_xlim(0, end)
        ax.set_yticks([])
    fig.alt = f"{states}. Calls: {calls}."
    return fig, above, below


def _draw_states(ax: Axes, marks: Sequence[tuple[str, float]], end: float, zero: float) -> str:
    """Fill the time from each mark to the next with its word's look; return the changes in words."""
    for (word, start), (_, until) in pairwise([*marks, ("", end)]):
        if until > 0:
            width = max(until - start, 0.006 * end)  # a short one must be seen too
            above = 2 if width > until - start else 1
            ax.axvspan(start, start + width, zorder=above, **STATES[word])
    present = {word for word, _ in marks}
    _legend_beside(ax, {word: fill for word, fill in STATES.items() if word in present})
    changes = [next(group) for _, group in groupby(marks, key=lambda mark: mark[0])]
    return ", ".join(f"{word} from {at - zero:z.1f} s" for word, at in changes)


def _draw_calls(ax: Axes, ends: Sequence[tuple[float, str]], end: float) -> str:
    """Draw a mark where each call ended, a row for each kind of outcome; return the counts in words."""
    counts = []
    for row, (word, (color, marker, text)) in enumerate(OUTCOMES.items()):
        times = [at for at, outcome in ends if outcome == word]
        counts.append(f"{len(times)} {text}")
        ax.scatter(times, [row] * len(times), s=16, color=color, marker=marker, clip_on=False)
        ax.text(end * 1.02, row, counts[-1], va="center", fontsize=9)
    ax.set_ylim(-0.6, len(OUTCOMES) - 0.2)
    return "; ".join(counts)


def _legend_beside(axes: Axes, fills: Mapping[str, Fill]) -> None:
    """Put a legend to the right of the axes, with patches large enough to show their hatching."""
    patches = [Patch(**fill, label=text) for text, fill in fills.items()]
    named, _ = axes.get_legend_handles_labels()
    axes.legend(
        handles=[*patches, *named],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize=9,
        handlelength=2.5,
        handleheight=1.4,
    )
