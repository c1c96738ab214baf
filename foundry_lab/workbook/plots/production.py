"""Figures of the production notebook: attempts, breaker and recovery on a time line."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from foundry_lab.engine.service.supervisor import Restart
from foundry_lab.errors import ConfigurationError
from foundry_lab.faults.proxy import ProxiedRequest
from foundry_lab.monitor import Look
from foundry_lab.policies.breaker import Transition
from foundry_lab.workbook.plots.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, figure, label, panels

FAULT_COLORS = (RED, ORANGE, PURPLE, GREEN, GREY)
STATE_COLORS = {"closed": GREEN, "half-open": ORANGE, "open": RED}
STATUS_COLORS = {"healthy": GREEN, "degraded": ORANGE, "unavailable": RED}

CallOutcome = tuple[float, float, str]
"""One call: when it began and ended (monotonic seconds), and how: "ok", "open" or "failed"."""

OUTCOME_STYLE = {
    "ok": (GREEN, "answered"),
    "failed": (RED, "sent, and failed"),
    "open": (GREY, "refused by the breaker"),
}


def attempts(log: Iterable[ProxiedRequest], *, deadline_s: float | None = None) -> Figure:
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
    met = dict.fromkeys(fault for each in calls.values() for _, _, fault in each)
    faults = [fault for fault in met if fault]
    colors = {"": BLUE} if "" in met else {}
    colors |= {fault: FAULT_COLORS[n % len(FAULT_COLORS)] for n, fault in enumerate(faults)}
    for row, entries in zip(range(0, -len(calls), -1), calls.values(), strict=True):  # the first on top
        first_s, last_s = entries[0][0], entries[-1][0]
        ax.plot([0, last_s - first_s], [row, row], color=GREY, lw=1, ls=":", zorder=1)
        for at_s, end_s, fault in entries:
            width = max(end_s - at_s, 0.008 * longest)  # wide enough to be seen
            ax.barh(row, width, left=at_s - first_s, height=0.6, color=colors[fault], zorder=2)
    ax.set_yticks(range(0, -len(calls), -1), [str(number) for number in range(1, len(calls) + 1)])
    ax.set_ylim(-len(calls) + 0.4, 0.6)
    handles: list[Artist] = [
        Patch(color=color, label=fault or "passed on") for fault, color in colors.items()
    ]
    if deadline_s is not None:
        handles.append(ax.axvline(deadline_s, color="black", lw=2, ls="--", label="deadline"))
    ax.set_xlim(-0.01 * longest, longest * 1.06)
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
    return fig


def arrivals(runs: Mapping[str, Sequence[float]], *, bin_s: float = 0.02) -> Figure:
    """Draw how many retries reach a service in each short interval, one panel a run.

    Args:
        runs: name and arrival times in seconds.
        bin_s: width of an interval in seconds.

    Raises:
        ConfigurationError: no run, or an empty one.
    """
    if not runs or not all(runs.values()):
        raise ConfigurationError("Give at least one run, and for each the times at which requests arrived.")
    starts = {name: min(times) for name, times in runs.items()}
    longest = max(max(times) - starts[name] for name, times in runs.items())
    bins = np.arange(0, longest + 2 * bin_s, bin_s)
    fig, axes = panels(
        len(runs), "The same failure, the same number of retries", size=(9, 2.3 * len(runs)), stacked=True
    )
    highest = 1
    for ax, (name, times), color in zip(axes, runs.items(), (RED, GREEN, BLUE), strict=False):
        counts, _, _ = ax.hist(np.asarray(times) - starts[name], bins=bins.tolist(), color=color)
        highest = max(highest, int(np.max(counts)))
        label(ax, "", f"retries in {bin_s * 1000:.0f} ms", f"{name}: at most {int(np.max(counts))} at once")
    for ax in axes:
        ax.set_ylim(0, highest * 1.1)
        ax.set_xlim(-bin_s, bins[-1])
    label(axes[-1], "seconds since the first retry", axes[-1].get_ylabel(), axes[-1].get_title())
    return fig


def breaker_timeline(
    outcomes: Sequence[CallOutcome],
    transitions: Sequence[Transition],
    *,
    dark: tuple[float, float] | None = None,
) -> Figure:
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
    _bands(
        axes[0],
        began,
        end,
        [("closed", began), *((each.new, each.at_s) for each in transitions)],
        STATE_COLORS,
    )
    label(axes[0], "", "", "state of the breaker")
    for row, (word, (color, text)) in enumerate(OUTCOME_STYLE.items()):
        times = [ended - began for _, ended, outcome in outcomes if outcome == word]
        axes[1].scatter(times, [row] * len(times), s=16, color=color)
        axes[1].text(end * 1.02, row, f"{len(times)} {text}", va="center", fontsize=9, color=color)
    axes[1].set_yticks([])
    axes[1].set_ylim(-0.6, len(OUTCOME_STYLE) - 0.4)
    label(axes[1], "seconds", "", "calls, at the moment they ended")
    for ax in axes:
        ax.set_xlim(0, end)
        for at in dark or ():
            ax.axvline(at - began, color="black", lw=1, ls=":")
    if dark is not None:
        axes[1].axvspan(dark[0] - began, dark[1] - began, color=GREY, alpha=0.18, lw=0)
        axes[1].text((sum(dark) / 2) - began, -0.5, "service away", ha="center", fontsize=9, color=GREY)
    return fig


def recovery(
    outcomes: Sequence[CallOutcome],
    samples: Sequence[Look],
    restarts: Sequence[Restart],
    killed_at_s: float,
) -> Figure:
    """Draw what callers and a health monitor saw of a service that was killed and started again.

    Args:
        outcomes: the calls. samples: of the monitor. restarts: of the supervisor.
        killed_at_s: when, in monotonic seconds.

    Raises:
        ConfigurationError: no samples or no calls.
    """
    if not outcomes or not samples:
        raise ConfigurationError("There are no calls or no samples to draw.")
    began = min(killed_at_s, *(began for began, _, _ in outcomes))
    lead = killed_at_s - began
    end = max(max(ended for _, ended, _ in outcomes), samples[-1].at_s) - began
    fig, axes = panels(2, "Killed, found dead, started again", size=(9, 4.6), stacked=True)
    marks = [(sample.health.status, sample.at_s) for sample in samples]
    _bands(axes[0], began, end, marks, STATUS_COLORS)
    label(axes[0], "", "", "health, as the monitor saw it")
    for row, (word, (color, text)) in enumerate(OUTCOME_STYLE.items()):
        points = [ended - began for _, ended, outcome in outcomes if outcome == word]
        axes[1].scatter(points, [row] * len(points), s=16, color=color)
        axes[1].text(end * 1.02, row, f"{len(points)} {text}", va="center", fontsize=9, color=color)
    axes[1].set_yticks([])
    axes[1].set_ylim(-0.6, len(OUTCOME_STYLE) - 0.2)
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
    axes[0].text(lead, 0.97, " kill -9", transform=axes[0].get_xaxis_transform(), va="top", fontsize=9)
    for restart in restarts:
        start = restart.at_s - began
        axes[1].axvspan(start, start + restart.took_s, color=BLUE, alpha=0.15, lw=0)
    if restarts:
        at = restarts[-1].at_s - began  # from there to the right: the line of the kill is just before it
        axes[1].text(at, len(OUTCOME_STYLE) - 0.45, " restart", ha="left", fontsize=9, color=BLUE)
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


def _bands(
    ax: Axes, began: float, end: float, marks: Sequence[tuple[str, float]], colors: Mapping[str, str]
) -> None:
    """Fill the time from each mark to the next with its word's colour."""
    for number, (word, at) in enumerate(marks):
        until = marks[number + 1][1] - began if number + 1 < len(marks) else end
        if until > 0:
            start = max(0.0, at - began)
            width = max(until - start, 0.006 * end)  # a short one must be seen too
            ax.axvspan(
                start, start + width, color=colors[word], lw=0, zorder=2 if width > until - start else 1
            )
    ax.set_yticks([])
    present = [word for word in colors if any(word == each for each, _ in marks)]
    handles = [Patch(color=colors[word], label=word) for word in present]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
