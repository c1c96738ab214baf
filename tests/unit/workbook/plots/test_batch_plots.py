"""The batch figures show what the report says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from stub_server import CHAT, StubService, chat, error

from foundry_lab import SyncFoundryAPIClient
from foundry_lab.errors import ConfigurationError
from foundry_lab.workbook.plots.batch import SweepPoint, batch_figure, confusion_figure, sweep_figure


@pytest.fixture
def stub() -> Iterator[StubService]:
    with StubService() as service:
        yield service


def test_a_run_is_drawn_with_its_failures(stub: StubService) -> None:
    stub.on("POST", CHAT, error(400, "no"), chat())
    report = SyncFoundryAPIClient(stub.url).complete_batch([str(n) for n in range(20)])
    figure = batch_figure(report)
    progress, latency = figure.axes
    assert progress.lines[0].get_ydata()[-1] == 20  # type: ignore[index]
    marks = {line.get_label(): len(line.get_xdata()) for line in latency.lines}
    assert marks["answered"] == 19
    assert marks["failed"] == 1
    assert any(str(label).startswith("p95 = ") for label in marks)
    assert "19 answered and 1 failed" in figure.alt


def test_an_empty_run_can_be_drawn(stub: StubService) -> None:
    assert batch_figure(SyncFoundryAPIClient(stub.url).complete_batch([])).axes


def test_a_sweep_shows_the_law(stub: StubService) -> None:
    points = [SweepPoint(4, 2.0, 50.0, 1.9, 1.8, 2.2), SweepPoint(1, 2.0, 52.0, 0.5, 0.5, 0.6)]
    throughput, latency = sweep_figure(points).axes
    assert list(throughput.lines[0].get_xdata()) == [1, 4]  # type: ignore[arg-type]
    law = next(line for line in latency.lines if "Little" in str(line.get_label()))
    assert list(law.get_ydata()) == [0.5, 2.0]  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="nothing to draw"):
        sweep_figure([])


def test_a_sweep_point_comes_from_a_report(stub: StubService) -> None:
    client = SyncFoundryAPIClient(stub.url)
    report = client.complete_batch([str(n) for n in range(9)])
    point = SweepPoint.of(2, report)
    assert point.concurrency == 2
    assert point.p50_s <= point.p95_s
    with pytest.raises(ConfigurationError, match="No item"):
        SweepPoint.of(2, client.complete_batch([]))


def test_a_confusion_table_shows_every_count() -> None:
    fig = confusion_figure(["yes", "no"], [[3, 1], [0, 4]], "title")
    assert [text.get_text() for text in fig.axes[0].texts] == ["3", "1", "0", "4"]
    with pytest.raises(ConfigurationError, match="2 labels"):
        confusion_figure(["yes", "no"], [[1, 2, 3]], "title")


@pytest.mark.parametrize(
    "counts", [[], [[1, 2], [3]], [[1, -1], [0, 1]], [[1, float("nan")], [0, 1]], [["a", "b"], ["c", "d"]]]
)
def test_a_confusion_table_of_what_is_no_count_is_refused(counts: Any) -> None:
    with pytest.raises(ConfigurationError):
        confusion_figure(["yes", "no"], counts, "title")


def test_a_sweep_point_lacks_no_number(stub: StubService) -> None:
    with pytest.raises(ConfigurationError, match="lacks a number"):
        sweep_figure([SweepPoint(1, 1.0, 1.0, 1.0, float("nan"), 1.0)])
    with pytest.raises(ConfigurationError, match="concurrency='adaptive'"):
        SweepPoint.of("adaptive", SyncFoundryAPIClient(stub.url).complete_batch(["a"]))  # type: ignore[arg-type]
