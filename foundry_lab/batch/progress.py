"""The progress bar of a batch, in a notebook and in a terminal."""

from __future__ import annotations

import sys
import time
import warnings
from typing import Any

from foundry_lab.batch.report import BatchReport
from foundry_lab.metrics import percentile

DETAILS_EVERY_S = 0.5
RECENT = 256


class Progress:
    """Shows durable items, tokens per second, p95 latency and failures; tqdm adds the time left.

    Args:
        show: None shows a bar in a notebook or on a terminal only.
    """

    def __init__(self, report: BatchReport, show: bool | None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tqdm.auto's advice about ipywidgets helps nobody here
            from tqdm.auto import tqdm
            from tqdm.notebook import tqdm_notebook
        ask_tqdm = show is None and not issubclass(tqdm, tqdm_notebook)  # whether there is a terminal
        self._report = report
        self._shown_at = 0.0
        self._bar: Any = tqdm(
            total=report.total if report.total_is_known else None,
            initial=report.skipped,
            unit="item",
            desc="batch",
            disable=None if ask_tqdm else show is False,
            dynamic_ncols=True,
        )

    def durable(self, lines: int) -> None:
        """So many lines of this run are on disk."""
        report, now = self._report, time.monotonic()
        if now - self._shown_at >= DETAILS_EVERY_S and not self._bar.disable:
            self._shown_at = now
            recent = [each.latency_s for each in report.samples[-RECENT:] if each.latency_s is not None]
            p95 = percentile(recent, 95) or 0.0
            details = f"{report.tokens_per_s:.0f} tokens/s, p95 {p95:.2f} s, {report.failed} failed"
            self._bar.set_postfix_str(details, refresh=False)
        self._bar.update(report.skipped + lines - self._bar.n)

    def waiting(self, waiting: bool) -> None:
        """Show that no service works, or that one works again."""
        self._bar.set_description_str("batch, waiting for the service" if waiting else "batch")

    def say(self, sentence: str) -> None:
        """Tell the person something, whether or not a bar is shown."""
        self._bar.write(sentence, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
