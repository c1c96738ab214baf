"""One look for every figure of the workbook, readable in a notebook and on a projector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from foundry_lab.workbook.plots.picture import show

# Okabe and Ito's palette, which people with colour-vision deficiencies can tell apart
# (Color Universal Design, 2008).
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#666666"
CYCLE = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY)
DPI = 100

Fill = Mapping[str, Any]
"""How an area looks, as arguments of matplotlib's patches and bars."""


class LabFigure(Figure):
    """A figure that a notebook shows, with its alt text, when it is a cell's last value.

    It isn't registered with pyplot, so nothing has to be closed and none shows twice.

    Attributes:
        alt: what it draws, in words and numbers, for who doesn't see it.
    """

    alt: str = ""

    def _ipython_display_(self) -> None:
        show(self)


def figure(
    title: str, xlabel: str, ylabel: str, *, size: tuple[float, float] = (8.0, 4.5)
) -> tuple[LabFigure, Axes]:
    """Return a figure with one set of axes in the workbook's style; `size` in inches at 100 dpi."""
    fig, axes = panels(1, title, size=size)
    label(axes[0], xlabel, ylabel)
    return fig, axes[0]


def panels(
    count: int, title: str, *, size: tuple[float, float] = (11.0, 4.2), stacked: bool = False
) -> tuple[LabFigure, list[Axes]]:
    """Return a figure with `count` sets of axes, side by side or stacked, under one title."""
    fig = LabFigure(figsize=size, dpi=DPI, layout="constrained")
    grid = fig.subplots(count if stacked else 1, 1 if stacked else count, squeeze=False)
    axes = list(grid.flat)
    fig.suptitle(title, fontsize=13, fontweight="bold")
    for each in axes:
        each.set_prop_cycle(color=CYCLE)
        each.grid(True, alpha=0.3)
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=10)
    return fig, axes


def area(color: str, hatch: str = "") -> Fill:
    """Return how an area looks: its hatching tells as much as its colour, which not everybody sees."""
    return {"facecolor": color, "hatch": hatch, "edgecolor": "white", "lw": 0}


def note(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **look: Any) -> None:
    """Write a text beside a point of the axes; `offset` from it in points, 1/72 inch."""
    axes.annotate(text, at, textcoords="offset points", xytext=offset, **look)


def legend_beside(axes: Axes, fills: Mapping[str, Fill], *lines: Artist) -> None:
    """Put a legend to the right of the axes, with patches large enough to show their hatching."""
    patches = [Patch(**fill, label=text) for text, fill in fills.items()]
    axes.legend(
        handles=[*patches, *lines],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize=9,
        handlelength=2.5,
        handleheight=1.4,
    )


def label(axes: Axes, xlabel: str, ylabel: str, title: str = "") -> None:
    """Name the axes, units included, and the panel."""
    axes.set_xlabel(xlabel, fontsize=11)
    axes.set_ylabel(ylabel, fontsize=11)
    if title:
        axes.set_title(title, fontsize=11)
