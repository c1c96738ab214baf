"""The first notebook's figure: what a token costs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from matplotlib.axes import Axes

from foundry_lab.errors import ConfigurationError
from foundry_lab.workbook.plots.style import BLUE, GREY, ORANGE, LabFigure, figure


class LatencyFit(msgspec.Struct, frozen=True):
    """A straight line through latencies: `latency = fixed_s + tokens * per_token_s`, in seconds.

    `fixed_s` is what a request costs before its second token: HTTP, prefill of the prompt, the first token.
    """

    fixed_s: float
    per_token_s: float

    @property
    def tokens_per_s(self) -> float:
        """Decode throughput: the slope, the other way up."""
        return 1 / self.per_token_s


def fit_latency(tokens: Sequence[int], latencies_s: Sequence[float]) -> LatencyFit:
    """Fit a line to latencies in seconds against completion tokens, by least squares.

    Raises:
        ConfigurationError: fewer than two different token counts, through which no line goes.
    """
    if len(tokens) != len(latencies_s) or len(set(tokens)) < 2:
        raise ConfigurationError(
            f"{len(tokens)} token counts ({len(set(tokens))} different) and {len(latencies_s)} latencies: a "
            "line needs as many of one as of the other, and at least two different counts."
        )
    slope, intercept = np.polyfit(np.asarray(tokens, float), np.asarray(latencies_s, float), 1)
    return LatencyFit(fixed_s=float(intercept), per_token_s=float(slope))


def draw_fit(ax: Axes, tokens: Sequence[int], latencies: Sequence[float]) -> LatencyFit:
    """Draw points and the line through them; return the line, in the unit of the latencies."""
    fit = fit_latency(tokens, latencies)
    ends = np.array([0.0, max(tokens) * 1.05])
    ax.plot(ends, fit.fixed_s + fit.per_token_s * ends, color=ORANGE, linewidth=2, label="fitted line")
    ax.scatter(tokens, latencies, color=BLUE, s=45, zorder=3, label="one request")
    return fit


def latency_by_tokens(tokens: Sequence[int], latencies_s: Sequence[float]) -> LabFigure:
    """Plot latency in seconds against completion tokens, with the fitted line and what it says."""
    fig, ax = figure("What an answer costs: latency against its length", "completion tokens", "latency (s)")
    fit = draw_fit(ax, tokens, latencies_s)
    longest = max(tokens)
    floor_s = max(0.0, fit.fixed_s)
    ax.axhline(floor_s, color=GREY, linestyle=":", linewidth=1.5)
    fixed = f"fixed cost (prefill, HTTP): {fit.fixed_s * 1000:.0f} ms"
    ax.annotate(fixed, (longest, floor_s), xytext=(0, 6), textcoords="offset points", ha="right", color=GREY)
    slope = f"slope: {fit.per_token_s * 1000:.1f} ms a token = {fit.tokens_per_s:.0f} tokens/s"
    middle = (longest * 0.5, fit.fixed_s + fit.per_token_s * longest * 0.5)
    ax.annotate(slope, middle, xytext=(-12, 12), textcoords="offset points", ha="right")
    ax.set_xlim(0, longest * 1.08)
    ax.set_ylim(0, max(latencies_s) * 1.15)
    ax.legend(loc="upper left", frameon=False)
    points = sorted(zip(tokens, latencies_s, strict=True))
    fig.alt = (
        f"Latency against length, {len(tokens)} requests: {points[0][1]:.2f} s at {points[0][0]} tokens, "
        f"{points[-1][1]:.2f} s at {longest}. The fitted line: {fit.fixed_s * 1000:.0f} ms fixed, and "
        f"{fit.per_token_s * 1000:.1f} ms a token, which is {fit.tokens_per_s:.0f} tokens/s."
    )
    return fig
