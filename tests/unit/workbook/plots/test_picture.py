"""Figures reach a notebook with their alt text, small, and once."""

from __future__ import annotations

import base64
import io
import re

import nbformat
import pytest
from matplotlib.figure import Figure
from nbclient import NotebookClient
from PIL import Image

from foundry_lab.errors import ConfigurationError
from foundry_lab.workbook import plots

CELLS = (
    "from foundry_lab import plots\nplots.latency_by_tokens([1, 100], [0.1, 1.1])",
    "figure = plots.token_timeline({'a': [0.1, 0.2]})\nplots.show(figure, 'two \"ticks\" <b>')\nprint()",
    "from matplotlib import pyplot\npyplot.plot([1, 2])\nplots.show(pyplot.gcf(), 'a rising line')\nNone",
    "plots.latency_by_tokens([1, 100], [0.1, 1.1])",
)


@pytest.fixture(scope="module")
def shown() -> list[list[nbformat.NotebookNode]]:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    NotebookClient(book, timeout=120, kernel_name="python3").execute()
    return [[out for out in cell.outputs if "data" in out] for cell in book.cells]


def test_each_way_shows_one_picture_with_its_alt_text(shown: list[list[nbformat.NotebookNode]]) -> None:
    """pyplot draws its open figures after the cell, and adds a picture of its own to every figure."""
    assert [len(outputs) for outputs in shown] == [1, 1, 1, 1]
    for (output,) in shown:
        assert set(output.data) == {"text/html", "text/plain"}
        assert re.match(r'<img alt="[^"]+" width="\d+"', output.data["text/html"])
    assert 'alt="two &quot;ticks&quot; &lt;b&gt;"' in shown[1][0].data["text/html"]
    assert shown[2][0].data["text/plain"] == "a rising line"


def test_the_picture_is_sharp_and_small(shown: list[list[nbformat.NotebookNode]]) -> None:
    """Ten of them must fit into a notebook of 500 kB."""
    tag = shown[0][0].data["text/html"]
    width, data = re.search(r'width="(\d+)".*base64,([^"]+)"', tag).groups()  # type: ignore[union-attr]
    assert len(tag) < 40_000
    assert Image.open(io.BytesIO(base64.b64decode(data))).width == 1.5 * int(width)


def test_a_figure_without_alt_text_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"plots\.show\(figure, "):
        plots.show(Figure())
    with pytest.raises(ConfigurationError, match="no alt text"):
        plots.show(plots.latency_by_tokens([1, 2], [0.1, 0.2]), " ")


def test_in_a_script_the_alt_text_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    plots.show(Figure(), "an empty figure")
    assert capsys.readouterr().out == "an empty figure\n"
