"""Figures of requests and streams: what a token costs, when each came, and what decides it."""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from foundry_lab.errors import ConfigurationError
from foundry_lab.workbook.plots.style import (
    BLUE,
    CYCLE,
    GREY,
    ORANGE,
    RED,
    LabFigure,
    Times,
    label,
    numbers,
    panels,
)

LEAST_S = 1e-9
"""A slope below it is flat but for rounding."""


class LatencyFit(msgspec.Struct, frozen=True):
    """A straight line through latencies: `latency = fixed_s + tokens * per_token_s`, in seconds.

    `fixed_s` is what a request costs before its second token: HTTP, prefill of the prompt, the first token.
    """

    fixed_s: float
    per_token_s: float

    @property
    def tokens_per_s(self) -> float:
        """Decode throughput: the slope, the other way up; infinite where longer answers took no longer."""
        return 1 / self.per_token_s if self.per_token_s > LEAST_S else math.inf


def fit_latency(tokens: Sequence[int], latencies_s: Sequence[float]) -> LatencyFit:
    """Fit a line to latencies in seconds against completion tokens, by least squares.

    Raises:
        ConfigurationError: fewer than two different token counts, through which no line goes; a count or a
            latency that is missing.
    """
    counts, times = numbers(tokens, "token count"), numbers(latencies_s, "latency")
    different = len(set(counts))
    if len(counts) != len(times) or different < 2:
        raise ConfigurationError(
            f"{len(counts)} token counts ({different} different) and {len(times)} latencies: a line needs as "
            "many of one as of the other, and at least two different counts."
        )
    slope, intercept = np.polyfit(counts, times, 1)
    return LatencyFit(fixed_s=float(intercept), per_token_s=float(slope))


def _draw_fit(ax: Axes, tokens: Sequence[int], latencies: Sequence[float]) -> LatencyFit:
    """Draw points and the line through them; return the line, in the unit of the latencies."""
    fit = fit_latency(tokens, latencies)
    ends = np.array([0.0, max(tokens) * 1.05])
    ax.plot(ends, fit.fixed_s + fit.per_token_s * ends, color=ORANGE, linewidth=2, label="fitted line")
    ax.scatter(tokens, latencies, color=BLUE, s=45, zorder=3, label="one request")
    return fit


def latency_by_tokens(tokens: Sequence[int], latencies_s: Sequence[float]) -> LabFigure:
    """Plot latency in seconds against completion tokens, with the fitted line and what it says."""
    fig, (ax,) = panels(1, "What an answer costs: latency against its length", size=(8.0, 4.5))
    label(ax, "completion tokens", "latency (s)")
    fit = _draw_fit(ax, tokens, latencies_s)
    longest = max(tokens)
    floor_s = max(0.0, fit.fixed_s)
    ax.axhline(floor_s, color=GREY, linestyle=":", linewidth=1.5)
    fixed = f"fixed cost (prefill, HTTP): {fit.fixed_s * 1000:z.0f} ms"
    ax.annotate(fixed, (longest, floor_s), xytext=(0, 6), textcoords="offset points", ha="right", color=GREY)
    rises = math.isfinite(fit.tokens_per_s)
    if rises:
        cost = f"{fit.per_token_s * 1000:.1f} ms a token = {fit.tokens_per_s:.0f} tokens/s"
        middle = (longest * 0.5, fit.fixed_s + fit.per_token_s * longest * 0.5)
        ax.annotate(f"slope: {cost}", middle, xytext=(-12, 12), textcoords="offset points", ha="right")
    else:
        cost = "longer answers took no longer"
        ax.text(0.5, 0.25, f"slope: {cost}", transform=ax.transAxes, ha="center")
    ax.set_xlim(0, longest * 1.08)
    ax.set_ylim(0, max(latencies_s) * (1.15 if rises else 1.4) or None)  # the legend is where no line is
    ax.legend(loc="upper left", frameon=False)
    points = sorted(zip(tokens, latencies_s, strict=True))
    fig.alt = (
        f"Latency against length, {len(tokens)} requests: {points[0][1]:.2f} s at {points[0][0]} tokens, "
        f"{points[-1][1]:.2f} s at {longest}. The fitted line: {fit.fixed_s * 1000:z.0f} ms fixed; {cost}."
    )
    return fig


def token_timeline(streams: Mapping[str, Times], title: str = "When each token came") -> LabFigure:
    """Plot the arrivals of one or more streams as ticks on a common clock.

    Args:
        streams: name -> seconds from the call to each token's arrival (`stream.arrivals_s`).

    Raises:
        ConfigurationError: no stream; an arrival that is missing.
    """
    if not streams:
        raise ConfigurationError("There is nothing to draw: give at least one stream, by its name.")
    streams = {name: numbers(arrivals, "arrival") for name, arrivals in streams.items()}
    fig, (ax,) = panels(1, title, size=(9.0, 1.7 + 0.8 * len(streams)))
    label(ax, "time since the call (s)", "")
    rows = range(0, -len(streams), -1)  # the first on top
    words = []
    for row, (name, arrivals) in zip(rows, streams.items(), strict=True):
        ax.eventplot([arrivals], lineoffsets=[row], linelengths=0.6, linewidths=1.0, colors=[CYCLE[-row % 6]])
        if len(arrivals):
            ax.plot(arrivals[0], row + 0.38, marker="v", color=RED, markersize=7)
            first = f"first token {arrivals[0] * 1000:.0f} ms"
            place = (arrivals[0], row + 0.38)
            ax.annotate(first, place, xytext=(7, 3), textcoords="offset points", fontsize=9)
            times = f"the first after {arrivals[0]:.2f} s, the last after {arrivals[-1]:.2f} s"
            words.append(f"{name}: {len(arrivals)} tokens, {times}.")
        else:
            words.append(f"{name}: no token.")
    ax.set_yticks(rows, list(streams))
    ax.set_ylim(0.4 - len(streams), 0.9)
    ax.set_xlim(left=0)
    fig.alt = f"{title}. A row a stream, a tick a token. {' '.join(words)}"
    return fig


def latency_distributions(ttft_s: Times, inter_token_s: Times) -> LabFigure:
    """Plot two histograms: times to first token, and times between tokens; p50 and p95 drawn in.

    Raises:
        ConfigurationError: none of the one or of the other; a time that is missing.
    """
    fig, (left, right) = panels(2, "Two latencies a person feels")
    first_50, first_95 = _histogram(left, ttft_s, "time to first token (ms)", "requests", BLUE)
    next_50, next_95 = _histogram(right, inter_token_s, "inter-token latency (ms)", "tokens", ORANGE)
    fig.alt = (
        f"Two histograms. Time to first token of {len(ttft_s)} requests: p50 {first_50:.0f} ms, p95 "
        f"{first_95:.0f} ms. Time between tokens, {len(inter_token_s)} times: p50 {next_50:.1f} ms, p95 "
        f"{next_95:.1f} ms."
    )
    return fig


def prefill_and_decode(prompt_tokens: Sequence[int], ttft_s: Times, decode_s: Times) -> LabFigure:
    """Plot time to first token against prompt length, beside the time a token takes in decode.

    Args:
        prompt_tokens: tokens of each prompt.
        ttft_s: its time to first token in seconds.
        decode_s: its mean inter-token latency in seconds.
    """
    fig, (left, right) = panels(2, "What a longer prompt does to the first token, and to the others")
    ttft_ms = 1000 * np.asarray(ttft_s, float)
    fit = _draw_fit(left, prompt_tokens, list(ttft_ms))
    left.set_ylim(bottom=0)
    label(left, "prompt tokens", "time to first token (ms)", f"prefill: {fit.per_token_s:z.2f} ms a token")
    decode_ms = 1000 * numbers(decode_s, "time per token", least=1)
    right.scatter(prompt_tokens, decode_ms, color=BLUE, s=45, zorder=3)
    right.axhline(float(np.median(decode_ms)), color=ORANGE, linewidth=2, label="median")
    right.legend(frameon=False, fontsize=10)
    right.set_ylim(0, float(decode_ms.max()) * 1.4)
    label(right, "prompt tokens", "time per token (ms)", f"decode: {np.median(decode_ms):.1f} ms a token")
    fig.alt = (
        f"Two panels, prompts of {min(prompt_tokens)} to {max(prompt_tokens)} tokens. Time to first token: "
        f"from {ttft_ms.min():.0f} to {ttft_ms.max():.0f} ms, {fit.per_token_s:z.2f} ms more a token. Time "
        f"per token in decode: from {decode_ms.min():.1f} to {decode_ms.max():.1f} ms, median "
        f"{np.median(decode_ms):.1f} ms."
    )
    return fig


def _histogram(ax: Axes, seconds: Times, xlabel: str, ylabel: str, color: str) -> tuple[float, float]:
    """Draw times in ms, with the few longest at the right edge; return p50 and p95 in ms."""
    ms = 1000 * numbers(seconds, xlabel.removesuffix(" (ms)"), least=1)
    p50, p95, p99_5 = (float(each) for each in np.percentile(ms, (50, 95, 99.5)))
    top = p99_5 * 1.05
    shortest = min(0.9 * float(ms.min()), top)
    ax.hist(np.clip(ms, 0, top), bins=30, range=(shortest, top), color=color, alpha=0.75)
    ax.axvline(p50, color=GREY, linestyle="-", linewidth=1.8, label=f"p50 = {p50:.1f} ms")
    ax.axvline(p95, color=GREY, linestyle="--", linewidth=1.8, label=f"p95 = {p95:.1f} ms")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False, fontsize=10)
    label(ax, xlabel, ylabel)
    return p50, p95
