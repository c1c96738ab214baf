"""The bookkeeping of calls: each gets an id, one metric sample and one log line."""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from foundry_lab import logs
from foundry_lab._ground.forks import renew_after_fork
from foundry_lab.metrics import Metrics, Record, outcome_of

_log = logging.getLogger(logs.LOGGER)
_log.addHandler(logging.NullHandler())  # quiet in a notebook until logs.configure_logging()


class Notes:
    """Takes note of one client's calls.

    Args:
        metrics: where to count, or None for nowhere.
    """

    def __init__(self, metrics: Metrics | None) -> None:
        self._metrics = metrics
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """A child's ids are its own."""
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    def begin(self, operation: str, messages: Sequence[Mapping[str, Any]] = ()) -> Record:
        """Begin; `messages` are what the call asks the model."""
        if self._metrics is not None:
            self._metrics.start()
        request_id = f"{self._prefix}-{next(self._numbers):06d}"
        asked = logs.prompt_excerpt(messages) if logs.prompt_length else ""
        return Record(operation, request_id, prompt=asked)

    def end(self, record: Record, started: float, error: BaseException | None) -> None:
        """End: `started` by perf_counter, the error if one ended it."""
        record.latency_s = time.perf_counter() - started
        record.outcome = outcome_of(error)
        if self._metrics is not None:
            self._metrics.finish(record)
        level = logging.INFO if record.outcome in ("ok", "cancelled") else logging.WARNING
        if record.operation == "health_check":
            level = logging.DEBUG  # a monitor makes one a second
        if _log.isEnabledFor(level):
            usage = record.usage
            tokens = f"{usage.prompt_tokens}+{usage.completion_tokens}" if usage is not None else "-"
            prompt = f" prompt={record.prompt!r}" if record.prompt else ""
            line = (
                f"{record.request_id} {record.operation} model={record.model or '-'} "
                f"outcome={record.outcome} attempts={record.retries + 1} "
                f"latency_s={record.latency_s:.3f} tokens={tokens}{prompt}"
            )
            _log.log(level, line, extra={"record": record})
