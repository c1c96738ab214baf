"""What `complete_batch` may be told."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from foundry_lab._ground.checks import check_timeout, did_you_mean
from foundry_lab._ground.files import as_path
from foundry_lab.batch.concurrency import DEFAULT_CONCURRENCY, AdaptiveConcurrency, as_policy
from foundry_lab.calls.chat import ChatOptions
from foundry_lab.config import check_endpoint
from foundry_lab.errors import ConfigurationError

Items = Iterable[Any] | AsyncIterable[Any] | Path


class BatchOptions(ChatOptions, total=False):
    """What `complete_batch` takes besides the items; all of it is optional.

    `ChatOptions` hold for every item that doesn't say otherwise.
    `override_model`: ask `model`, or the client's own, whatever model an item names.
    `skip_bad`: run the good items of a list or file although some can't be used; those get an error line.
    `output`: the JSONL file for the results; without one they go into a temporary file, kept with the report.
    `concurrency`: requests under way at each endpoint (2), "adaptive", or an `AdaptiveConcurrency`.
    `resume`: skip what the output holds already (True); False refuses an output that isn't empty.
        A request that changed runs again under its custom_id; its old result goes to a file OUTPUT.bak.
    `retry_failed`: run those again that failed. `ordered`: at the end, put the output in the input's order.
    `endpoints`: addresses of several services to share the work, or of one.
    `cluster`: a `distributed.Client`; its workers ask their own endpoints, `chunk_size` items at a time.
    `wait_for_service`: seconds to wait for a service that went away (600).
    `progress`: True or False; by default a bar in notebooks and terminals.
    `template`: a prompt with {column}s for the rows of a table.
    """

    concurrency: int | AdaptiveConcurrency | Literal["adaptive"]
    output: str | os.PathLike[str] | None
    resume: bool
    retry_failed: bool
    ordered: bool
    override_model: bool
    skip_bad: bool
    endpoints: Sequence[str] | str | None
    cluster: Any
    chunk_size: int
    wait_for_service: float
    progress: bool | None
    template: str | None


OWN_OPTIONS = BatchOptions.__annotations__.keys() - ChatOptions.__annotations__.keys()


class Choices:
    """`BatchOptions` as given, checked; what wasn't given has its default.

    Raises:
        ConfigurationError: an option that doesn't exist, or a value that can't be used.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        known = BatchOptions.__annotations__
        for name in options:
            if name not in known:
                hint = did_you_mean(name, known) or f"There are: {', '.join(sorted(known))}."
                raise ConfigurationError(f"There is no option {name!r}. {hint.strip()}")
        own = {name: value for name, value in options.items() if name in OWN_OPTIONS and value is not None}
        self.chat = {name: value for name, value in options.items() if name not in OWN_OPTIONS}
        self.output = as_path(own["output"], "output") if "output" in own else None
        self.concurrency = own.get("concurrency", DEFAULT_CONCURRENCY)
        self.policy = as_policy(self.concurrency)
        self.resume = bool(own.get("resume", True))
        self.retry_failed = bool(own.get("retry_failed", False))
        self.ordered = bool(own.get("ordered", False))
        self.override_model = bool(own.get("override_model", False))
        self.skip_bad = bool(own.get("skip_bad", False))
        self.endpoints = _as_endpoints(own.get("endpoints"))
        self.cluster = own.get("cluster")
        self.chunk_size = own.get("chunk_size", 16)
        self.patience_s = check_timeout(own.get("wait_for_service", 600.0), "wait_for_service")
        self.progress: bool | None = own.get("progress")
        self.template: str | None = own.get("template")


def _as_endpoints(endpoints: Sequence[str] | str | None) -> list[str]:
    """Return the addresses; none where none are named.

    Raises:
        ConfigurationError: one that is none, or an empty list.
    """
    if endpoints is None:
        return []
    try:
        found = [check_endpoint(each) for each in ([endpoints] if isinstance(endpoints, str) else endpoints)]
    except TypeError:
        found = []
    if not found:
        raise ConfigurationError(
            "endpoints must be an address, or a list of one or more; leave it out for this client's own."
        )
    return found
