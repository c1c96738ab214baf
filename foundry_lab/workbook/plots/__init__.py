"""The course's figures: `from foundry_lab import plots`.

Each function returns a figure. As a cell's last value it shows itself; anywhere else, `plots.show(figure)`.
"""

from foundry_lab.workbook.plots.basic import LatencyFit, fit_latency, latency_by_tokens
from foundry_lab.workbook.plots.batch import SweepPoint, batch_figure, confusion_figure, sweep_figure
from foundry_lab.workbook.plots.production import (
    CallOutcome,
    arrivals,
    attempts,
    breaker_timeline,
    recovery,
    time_to_recovery_s,
)
from foundry_lab.workbook.plots.streaming import latency_distributions, prefill_and_decode, token_timeline
from foundry_lab.workbook.plots.style import show

__all__ = [
    "CallOutcome",
    "LatencyFit",
    "SweepPoint",
    "arrivals",
    "attempts",
    "batch_figure",
    "breaker_timeline",
    "confusion_figure",
    "fit_latency",
    "latency_by_tokens",
    "latency_distributions",
    "prefill_and_decode",
    "recovery",
    "show",
    "sweep_figure",
    "time_to_recovery_s",
    "token_timeline",
]
