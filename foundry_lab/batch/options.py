"""What `complete_batch` may be told, and how many requests are under way at once."""

import math
import os
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from foundry_lab._ground.checks import as_number, check_timeout, is_whole
from foundry_lab._ground.files import as_path
from foundry_lab.calls.chat import ChatOptions, wrong_name
from foundry_lab.config import check_endpoint
from foundry_lab.errors import ConfigurationError

DEFAULT_CONCURRENCY = 2
"""One request at work and the next one on its way, so that the service never waits for the client. Twice as
quick as one where the model computes with one thread; README has what it is where threads share two CPUs."""

MAX_CONCURRENCY = 1024

Items = Iterable[Any] | AsyncIterable[Any] | Path


class AdaptiveConcurrency:
    """Additive increase, multiplicative decrease, as TCP does it (Chiu and Jain, 1989), on latency.

    Latency is counted per token, so that long answers don't look like congestion. After every `window`
    requests the limit goes up by one if their mean was within `tolerance` times the best window so far, else
    it is halved; a failed request halves it at once. The best is let drift up slowly, as a machine may get
    slower for good.

    Args:
        start, minimum, maximum: limits in requests at each service. An iterator is asked for up to `maximum`
            items, of which those above the limit of the moment wait.
        tolerance: how much slower than the best is still fine.
        window: requests between two decisions.

    Raises:
        ConfigurationError: limits out of order, or a tolerance below 1.
    """

    DRIFT = 1.02

    def __init__(
        self,
        start: int = DEFAULT_CONCURRENCY,
        *,
        minimum: int = 1,
        maximum: int = 16,
        tolerance: float = 1.5,
        window: int = 8,
    ) -> None:
        counts = all(is_whole(each) and each >= 1 for each in (minimum, start, maximum, window))
        if not (counts and minimum <= start <= maximum <= MAX_CONCURRENCY and as_number(tolerance) >= 1):
            raise ConfigurationError(
                f"minimum={minimum!r}, start={start!r}, maximum={maximum!r} must grow in this order from 1 "
                f"to {MAX_CONCURRENCY}; tolerance={tolerance!r} and window={window!r} must be at least 1; "
                "all but tolerance are whole numbers."
            )
        self.limit = start
        self.maximum = maximum
        self._minimum = minimum
        self._tolerance = tolerance
        self._window = window
        self._latencies: list[float] = []  # a token, of this window
        self._best = math.inf

    def __repr__(self) -> str:
        return f"adaptive, {self._minimum} to {self.maximum}"

    def observe(self, latency_s: float, tokens: int, ok: bool) -> None:
        """Take in one finished request."""
        self._latencies.append(latency_s / max(1, tokens))
        if ok and len(self._latencies) < self._window:
            return
        if ok:
            mean = sum(self._latencies) / len(self._latencies)
            best = min(mean, self._best)
            ok = mean <= best * self._tolerance
            self._best = best * self.DRIFT
        self.limit = min(self.maximum, self.limit + 1) if ok else max(self._minimum, self.limit // 2)
        self._latencies.clear()


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


class Choices:
    """`BatchOptions` as given, checked; what wasn't given has its default.

    Raises:
        ConfigurationError: an option that doesn't exist, or a value that can't be used.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        shared, known = ChatOptions.__annotations__, BatchOptions.__annotations__
        if unknown := options.keys() - known.keys():
            raise wrong_name(min(unknown), known)
        own = {name: value for name, value in options.items() if name not in shared and value is not None}
        self.chat = {name: value for name, value in options.items() if name in shared}
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
    several = endpoints if isinstance(endpoints, Iterable) else ()
    named = [endpoints] if isinstance(endpoints, str) else list(several)
    if not named:
        raise ConfigurationError(
            "endpoints must be an address, or a list of one or more; leave it out for this client's own."
        )
    return [check_endpoint(each) for each in named]


def as_policy(concurrency: object) -> AdaptiveConcurrency:
    """Return what a `concurrency` argument means: a number, "adaptive", or a policy.

    Raises:
        ConfigurationError: none of these.
    """
    if isinstance(concurrency, AdaptiveConcurrency):
        return concurrency
    if concurrency == "adaptive":
        return AdaptiveConcurrency()
    if not is_whole(concurrency) or not 1 <= concurrency <= MAX_CONCURRENCY:
        raise ConfigurationError(
            f'concurrency={concurrency!r} must be a whole number from 1 to {MAX_CONCURRENCY}, or "adaptive".'
        )
    fixed = int(concurrency)
    return AdaptiveConcurrency(fixed, minimum=fixed, maximum=fixed)  # it has nowhere to go
