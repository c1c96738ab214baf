"""One look for every figure of the workbook, readable in a notebook and on a projector; and showing it.

A figure is shown together with its alt text, for who doesn't see it.
"""

import base64
import html
import io
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from foundry_lab.errors import ConfigurationError

# Okabe and Ito's palette, which people with colour-vision deficiencies can tell apart
# (Color Universal Design, 2008).
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#666666"
CYCLE = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY)
DPI = 100
SHARPNESS = 1.5
"""Pixels of the picture for each one on the page, so that it's sharp on a fine screen."""
COLORS = 64
"""Of the picture: charts need few, and the file has a third of the size."""
Times = Sequence[float] | npt.NDArray[np.float64]


def numbers(values: Times, what: str, *, least: int = 0) -> npt.NDArray[np.float64]:
    """Return measured values as an array.

    Args:
        values: of one kind.
        what: that kind, for the error.
        least: how many there must be.

    Raises:
        ConfigurationError: fewer, or one that is missing or no number: a figure would leave it out silently.
    """
    try:
        known = np.asarray(values, float)
    except (TypeError, ValueError):
        known = np.array([np.nan])
    if known.ndim != 1 or known.size < least or not np.isfinite(known).all():
        raise ConfigurationError(
            f"Give a list of numbers, at least one {what}, and leave out what is missing (None or NaN)."
        )
    return known


class LabFigure(Figure):
    """A figure that a notebook shows, with its alt text, when it is a cell's last value.

    It isn't registered with pyplot, so nothing has to be closed and none shows twice.

    Attributes:
        alt: what it draws, in words and numbers, for who doesn't see it.
    """

    alt: str = ""

    def _ipython_display_(self) -> None:
        show(self)


def panels(
    count: int, title: str, *, size: tuple[float, float] = (11.0, 4.2), stacked: bool = False
) -> tuple[LabFigure, list[Axes]]:
    """Return a figure with `count` sets of axes in the workbook's style, side by side or stacked.

    `size` is in inches at 100 dpi.
    """
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


def label(axes: Axes, xlabel: str, ylabel: str, title: str = "") -> None:
    """Name the axes, units included, and the panel."""
    axes.set_xlabel(xlabel, fontsize=11)
    axes.set_ylabel(ylabel, fontsize=11)
    if title:
        axes.set_title(title, fontsize=11)


class Picture(HTML):
    """A PNG picture with its alt text, as HTML: notebook programs lose the alt text of any other kind."""

    def __init__(self, png: bytes, alt: str, width: int) -> None:
        self._alt = alt
        super().__init__(
            f'<img alt="{html.escape(alt)}" width="{width}" style="max-width: 100%; height: auto" '
            f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        )

    def __repr__(self) -> str:
        return self._alt


def show(figure: Figure, alt: str | None = None) -> None:
    """Show a figure in the notebook as a picture with alt text, and close it.

    Args:
        figure: of this package, or any matplotlib figure.
        alt: what it shows, in words and numbers; by default what the figure says of itself (`figure.alt`).

    Raises:
        ConfigurationError: there is no alt text.
    """
    alt = (getattr(figure, "alt", "") if alt is None else alt).strip()
    if not alt:
        raise ConfigurationError(
            "This figure has no alt text. Say what it shows, numbers included, for readers who can't see it: "
            'plots.show(figure, "Latency grows with length: 0.2 s at 8 tokens, 1.4 s at 128 tokens").'
        )
    display(Picture(_png(figure), alt, round(figure.get_figwidth() * figure.dpi)))
    if "matplotlib.pyplot" in sys.modules:  # else the notebook would show a pyplot figure a second time
        sys.modules["matplotlib.pyplot"].close(figure)


def _png(figure: Figure) -> bytes:
    """Return a figure as a small PNG file."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=SHARPNESS * figure.dpi)
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()
