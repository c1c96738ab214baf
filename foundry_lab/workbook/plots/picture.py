"""Show a figure together with its alt text, for who doesn't see it."""

from __future__ import annotations

import base64
import html
import io
import sys

from IPython.display import HTML, display
from matplotlib.figure import Figure
from PIL import Image

from foundry_lab.errors import ConfigurationError

SHARPNESS = 1.5
"""Pixels of the picture for each one on the page, so that it's sharp on a fine screen."""
COLORS = 64
"""Of the picture: charts need few, and the file has a third of the size."""


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
