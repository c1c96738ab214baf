"""The figures of the production notebook hold what they were given."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from foundry_lab.engine.service.supervisor import Restart
from foundry_lab.errors import ConfigurationError
from foundry_lab.faults.proxy import ProxiedRequest
from foundry_lab.monitor import Look
from foundry_lab.policies.breaker import Transition
from foundry_lab.types import Health
from foundry_lab.workbook import plots
from foundry_lab.workbook.plots import production


def words(ax: Axes) -> str:
    return " | ".join(text.get_text() for text in ax.texts) + " | " + ax.get_title()


def request(at_s: float, call: str, fault: str = "", duration_s: float | None = 0.1) -> ProxiedRequest:
    return ProxiedRequest(at_s, "POST", "/v1/chat/completions", call, fault, 200, duration_s)


def look(at_s: float, status: str) -> Look:
    return Look(at_s, Health(status=status, endpoint="http://127.0.0.1:1"))


def test_attempts_has_a_row_a_call_and_a_bar_an_attempt() -> None:
    log = [request(10.0, "a", "reset"), request(10.3, "a"), request(10.1, "b")]
    ax = plots.attempts(log, deadline_s=1.0).axes[0]
    bars = [(patch.get_x(), patch.get_y()) for patch in ax.patches]
    assert [x for x, _ in bars] == pytest.approx([0.0, 0.3, 0.0])
    assert bars[0][1] == bars[1][1] > bars[2][1]  # the first call is on top
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["passed on", "reset", "deadline"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["1", "2"]


def test_an_attempt_under_way_is_drawn_up_to_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(production.time, "monotonic", lambda: 11.5)
    log = [request(10.0, "a", "reset"), request(11.0, "a", duration_s=None)]
    bars = plots.attempts(log).axes[0].patches
    assert [patch.get_width() for patch in bars] == pytest.approx([0.1, 0.5])


def test_requests_without_an_id_are_calls_of_their_own() -> None:
    log = [ProxiedRequest(at_s, "GET", "/status", duration_s=0.1) for at_s in (1.0, 2.0, 3.0)]
    assert "3 calls, 3 attempts" in plots.attempts(log).alt


def test_the_log_of_a_proxy_that_is_at_work_can_be_drawn() -> None:
    log: deque[Any] = deque(maxlen=100)

    class Entry:
        """While it is looked at, the next request comes in."""

        at_s, path, request_id, fault = 1.0, "/status", "a", ""

        @property
        def duration_s(self) -> float:
            log.append(request(2.0, "b"))
            return 0.1

    log.extend([Entry(), Entry()])
    assert "1 calls, 2 attempts" in plots.attempts(log).alt


def test_arrivals_takes_arrays() -> None:
    assert "2 retries over 1.00 s" in plots.arrivals({"a": np.array([1.0, 2.0])}).alt


def test_arrivals_says_how_many_came_at_once() -> None:
    fig = plots.arrivals({"without": [5.0, 5.0, 5.0, 6.0], "with": [1.0, 1.5, 2.0, 2.5]})
    assert [words(ax).split("at most ")[1] for ax in fig.axes] == ["3 at once", "1 at once"]


def test_breaker_timeline_counts_each_outcome() -> None:
    outcomes = [(0.0, 0.1, "ok"), (0.2, 0.3, "failed"), (0.4, 0.5, "open"), (0.6, 0.7, "open")]
    transitions = [Transition("closed", "open", 0.35, "1 failure")]
    fig = plots.breaker_timeline(outcomes, transitions, dark=(0.15, 0.4))
    for expected in ("1 answered", "1 sent, and failed", "2 refused by the breaker", "service away"):
        assert expected in words(fig.axes[1])


def test_recovery_says_how_long_it_took() -> None:
    outcomes = [(7.0, 7.2, "ok"), (9.9, 10.1, "failed"), (11.0, 11.1, "open"), (12.0, 12.5, "ok")]
    looks = [look(9.0, "healthy"), look(10.4, "unavailable"), look(12.2, "healthy")]
    fig = plots.recovery(outcomes, looks, [Restart(10.5, 1.2)], killed_at_s=10.0)
    assert "first answer 2.5 s after the kill" in words(fig.axes[1])
    for expected in ("2 answered", "1 sent, and failed", "1 refused by the breaker"):  # every call is counted
        assert expected in words(fig.axes[1])
    places = zip(fig.axes[1].get_xticklabels(), fig.axes[1].get_xticks(), strict=True)
    ticks = {tick.get_text(): at for tick, at in places}
    assert ticks["0"] == pytest.approx(3.0)
    assert min(map(int, ticks)) == -3


def test_bands_and_bars_differ_by_more_than_colour() -> None:
    """One man in twelve can't tell green from red."""
    faults = ["", "reset", "cut", "stall", "status 503", "garbage"]
    log = [request(10.0 + n, str(n), fault) for n, fault in enumerate(faults)]
    legends = [
        plots.attempts(log).axes[0].get_legend(),
        plots.breaker_timeline(
            [(0.0, 9.0, "ok")],
            [Transition("closed", "open", 1.0, ""), Transition("open", "half-open", 2.0, "")],
        )
        .axes[0]
        .get_legend(),
        plots.recovery(
            [(0.0, 9.0, "ok")],
            [look(1.0, "healthy"), look(2.0, "degraded"), look(3.0, "unavailable")],
            [],
            0.5,
        )
        .axes[0]
        .get_legend(),
    ]
    for legend, expected in zip(legends, (6, 3, 3), strict=True):
        assert len({patch.get_hatch() for patch in legend.get_patches()}) == expected


def test_every_run_of_arrivals_is_drawn() -> None:
    """There were three colours, and a fourth run had an empty panel."""
    fig = plots.arrivals({name: [1.0, 2.0] for name in "abcd"})
    assert [words(ax)[3] for ax in fig.axes] == list("abcd")
    assert all(ax.patches for ax in fig.axes)


def test_an_answer_that_was_under_way_is_no_recovery() -> None:
    outcomes = [(9.9, 10.05, "ok"), (9.9, 10.1, "failed"), (9.95, 10.2, "ok")]
    assert plots.time_to_recovery_s(outcomes, 10.0) is None
    assert plots.time_to_recovery_s([*outcomes, (11.0, 11.5, "ok")], 10.0) == pytest.approx(1.5)
    assert plots.time_to_recovery_s([(1.0, 2.0, "ok")], 0.0) is None


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.latency_distributions([0.1], []),
        lambda: plots.attempts([]),
        lambda: plots.arrivals({}),
        lambda: plots.arrivals({"a": []}),
        lambda: plots.arrivals({"a": [1.0]}, bin_s=0),
        lambda: plots.breaker_timeline([], []),
        lambda: plots.recovery([], [], [], 0.0),
    ],
)
def test_nothing_to_draw_says_so(draw: object) -> None:
    with pytest.raises(ConfigurationError):
        draw()  # type: ignore[operator]


NAN = float("nan")
CALLS = [(1.0, 1.1, "ok"), (1.2, 1.3, "failed")]
LOOKS = [look(1.0, "healthy")]


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: plots.breaker_timeline([(1.0, 1.1, "error")], []), "ok, failed, open"),
        (lambda: plots.recovery([(1.0, 1.1, "error")], LOOKS, [], 1.0), "ok, failed, open"),
        (lambda: plots.time_to_recovery_s([(1.0, 1.1, "error")], 1.0), "ok, failed, open"),
        (lambda: plots.breaker_timeline([(1.0, NAN, "ok")], []), "monotonic seconds"),
        (lambda: plots.breaker_timeline(CALLS, [], dark=(NAN, 1.0)), "dark=nan"),
        (lambda: plots.recovery(CALLS, LOOKS, [], NAN), "killed_at_s=nan"),
        (lambda: plots.time_to_recovery_s(CALLS, NAN), "killed_at_s=nan"),
        (lambda: plots.attempts([request(1.0, "a")], deadline_s=NAN), "deadline_s=nan"),
        (lambda: plots.arrivals({"a": [1.0, NAN]}), "at least one arrival"),
        (lambda: plots.arrivals({"a": [0.0, 1.0]}, bin_s=1e-12), "can't be drawn"),
        (lambda: plots.arrivals({"a": [0.0, 1.0]}, bin_s=float("inf")), "can't be drawn"),
    ],
)
def test_what_a_figure_would_leave_out_is_refused(draw: object, said: str) -> None:
    """A call with another word was in no row, and NaN in no place; the alt text said "0 answered; 0 sent"."""
    with pytest.raises(ConfigurationError, match=said):
        draw()  # type: ignore[operator]
