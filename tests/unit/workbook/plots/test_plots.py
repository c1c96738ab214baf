"""Figures of the first notebook: the fit is right, the figures say what they show."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_lab.errors import ConfigurationError
from foundry_lab.workbook import plots


@given(fixed=st.floats(0.001, 5), per_token=st.floats(0.0001, 0.5), longest=st.integers(10, 2000))
def test_fit_finds_the_line_it_was_given(fixed: float, per_token: float, longest: int) -> None:
    tokens = [1, longest // 2, longest]
    fit = plots.fit_latency(tokens, [fixed + per_token * n for n in tokens])
    assert fit.fixed_s == pytest.approx(fixed, rel=1e-6, abs=1e-6)
    assert fit.per_token_s == pytest.approx(per_token, rel=1e-6)
    assert fit.tokens_per_s == pytest.approx(1 / per_token, rel=1e-6)


@pytest.mark.parametrize(
    ("tokens", "latencies"), [([], []), ([5], [1.0]), ([5, 5], [1.0, 2.0]), ([1, 2], [1.0])]
)
def test_fit_refuses_what_no_line_goes_through(tokens: list[int], latencies: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="a line needs"):
        plots.fit_latency(tokens, latencies)


@pytest.mark.parametrize("latencies_s", [[0.5, 0.5, 0.5], [0.0, 0.0, 0.0], [0.7, 0.6, 0.5]])
def test_where_longer_answers_take_no_longer_no_speed_is_made_up(latencies_s: list[float]) -> None:
    """Answers from a cache: rounding gave a slope of -3e-18, and so -4e17 tokens/s."""
    assert plots.fit_latency([8, 16, 32], latencies_s).tokens_per_s == float("inf")
    figure = plots.latency_by_tokens([8, 16, 32], latencies_s)
    words = [text.get_text() for text in figure.axes[0].texts]
    assert "slope: longer answers took no longer" in words
    assert "longer answers took no longer" in figure.alt
    assert "-0" not in " ".join([figure.alt, *words]) and "inf" not in figure.alt


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_time_that_is_missing_is_named(missing: Any) -> None:
    with pytest.raises(ConfigurationError, match="one latency, and leave out what is missing"):
        plots.latency_by_tokens([8, 16], [0.5, missing])
    with pytest.raises(ConfigurationError, match="one inter-token latency, and leave"):
        plots.latency_distributions([0.1], [0.1, missing])
    with pytest.raises(ConfigurationError, match="one time per token, and leave"):
        plots.prefill_and_decode([8, 16], [0.1, 0.2], [0.1, missing])


@pytest.mark.parametrize("missing", [None, float("nan"), "many", [1, 2]])
def test_a_token_count_that_is_missing_is_named(missing: Any) -> None:
    """An answer without `usage` gave numpy's "SVD did not converge"."""
    with pytest.raises(ConfigurationError, match="one token count, and leave out what is missing"):
        plots.fit_latency([8, 16, missing], [0.1, 0.2, 0.3])
    with pytest.raises(ConfigurationError, match="one token count, and leave"):
        plots.prefill_and_decode([8, 16, missing], [0.1, 0.2, 0.3], [0.1, 0.1, 0.1])


@pytest.mark.parametrize("streams", [{}, {"a": [0.1, None]}, {"a": [0.1, float("nan")]}])
def test_a_time_line_without_streams_or_with_a_hole_is_refused(streams: Any) -> None:
    """NaN was "the last after nan s"."""
    with pytest.raises(ConfigurationError, match="at least one"):
        plots.token_timeline(streams)


def test_latency_figure_names_its_axes_with_units() -> None:
    figure = plots.latency_by_tokens([8, 16, 32], [0.1, 0.15, 0.25])
    (axes,) = figure.axes
    assert axes.get_xlabel() == "completion tokens"
    assert axes.get_ylabel() == "latency (s)"
    assert any("tokens/s" in text.get_text() for text in axes.texts)


def test_stream_figures_name_their_axes_with_units() -> None:
    times = [0.1, 0.11, 0.125]
    timeline = plots.token_timeline({"one": times, "none yet": []})
    assert timeline.axes[0].get_xlabel() == "time since the call (s)"
    histograms = plots.latency_distributions([0.1, 0.2], [0.01, 0.02, 0.03])
    assert all("(ms)" in axes.get_xlabel() for axes in histograms.axes)
    prefill = plots.prefill_and_decode([10, 100], [0.05, 0.2], [0.01, 0.01])
    assert "prefill: 1.67 ms a token" in prefill.axes[0].get_title()
