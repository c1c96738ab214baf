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
from foundry_lab.faults import ProxiedRequest
from foundry_lab.monitor import Look
from foundry_lab.policies.breaker import Transition
from foundry_lab.types import Health
from foundry_lab.workbook import plots
from foundry_lab.workbook.plots import SweepPoint

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


CALLS = [(0.0, 1.0, "ok"), (1.0, 3.0, "failed"), (3.0, 3.1, "open"), (4.0, 4.5, "ok")]
ONE_REQUEST = ProxiedRequest(1.0, "POST", "/v1/chat/completions", "a", "reset", None, 0.25)
SICK = [
    Look(0.5, Health(status="healthy", endpoint="")),
    Look(2.5, Health(status="unavailable", endpoint="")),
]
ALTS = {
    "latency_by_tokens": (([8, 128], [0.1, 1.3]), ["0.10 s at 8 tokens", "20 ms fixed", "10.0 ms a token"]),
    "token_timeline": (({"a": [0.1, 0.4], "b": []},), ["a: 2 tokens", "after 0.10 s", "b: no token"]),
    "latency_distributions": (([0.1, 0.1], [0.01, 0.02]), ["2 requests: p50 100 ms", "p50 15.0 ms"]),
    "prefill_and_decode": (([10, 110], [0.1, 0.3], [0.01, 0.02]), ["from 100 to 300 ms, 2.00 ms more"]),
    "sweep_figure": (
        ([SweepPoint(2, 4.0, 130, 0.5, 0.4, 0.6)],),
        ["At 2: 130 tokens/s", "p95 0.60 s", "0.50 s."],
    ),
    "confusion_figure": ((["a", "b"], [[3, 1], [0, 4]], "7 of 8"), ["7 of 8", "True a: 3 a, 1 b."]),
    "attempts": (([ONE_REQUEST],), ["1 calls, 1 attempts", "1 met reset", "took 0.25 s"]),
    "arrivals": (({"jitter": [1.0, 1.5]},), ["jitter: 2 retries over 0.50 s, at most 1"]),
    "breaker_timeline": (
        (CALLS, [Transition("closed", "open", 3.0, "")]),
        ["open from 3.0 s", "2 answered; 1 sent"],
    ),
    "recovery": (
        (CALLS, SICK, [], 1.0),
        ["killed at 0 s", "healthy from -0.5 s, unavailable from 1.5 s", "came 3.5 s after"],
    ),
}


@pytest.mark.parametrize("name", ALTS)
def test_a_figure_says_in_its_alt_text_what_it_draws(name: str) -> None:
    arguments, numbers = ALTS[name]
    alt = getattr(plots, name)(*arguments).alt
    for each in numbers:
        assert each in alt


def test_a_figure_without_alt_text_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"plots\.show\(figure, "):
        plots.show(Figure())
    with pytest.raises(ConfigurationError, match="no alt text"):
        plots.show(plots.latency_by_tokens([1, 2], [0.1, 0.2]), " ")


def test_in_a_script_the_alt_text_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    plots.show(Figure(), "an empty figure")
    assert capsys.readouterr().out == "an empty figure\n"
