"""The course's figures: `from foundry_lab import plots`.

Each function returns a figure. As a cell's last value it shows itself; anywhere else, `plots.show(figure)`.
"""

from foundry_lab.workbook.plots.batch import SweepPoint as SweepPoint
from foundry_lab.workbook.plots.batch import batch_figure as batch_figure
from foundry_lab.workbook.plots.batch import confusion_figure as confusion_figure
from foundry_lab.workbook.plots.batch import sweep_figure as sweep_figure
from foundry_lab.workbook.plots.latency import LatencyFit as LatencyFit
from foundry_lab.workbook.plots.latency import fit_latency as fit_latency
from foundry_lab.workbook.plots.latency import latency_by_tokens as latency_by_tokens
from foundry_lab.workbook.plots.latency import latency_distributions as latency_distributions
from foundry_lab.workbook.plots.latency import prefill_and_decode as prefill_and_decode
from foundry_lab.workbook.plots.latency import token_timeline as token_timeline
from foundry_lab.workbook.plots.production import CallOutcome as CallOutcome
from foundry_lab.workbook.plots.production import arrivals as arrivals
from foundry_lab.workbook.plots.production import attempts as attempts
from foundry_lab.workbook.plots.production import breaker_timeline as breaker_timeline
from foundry_lab.workbook.plots.production import recovery as recovery
from foundry_lab.workbook.plots.production import time_to_recovery_s as time_to_recovery_s
from foundry_lab.workbook.plots.style import show as show
