"""What a batch did: counts, throughput, percentiles, failures by kind, and the results themselves."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from foundry_lab.batch.output import BatchOutput
from foundry_lab.batch.result import BatchResult, Outcome, read_line
from foundry_lab.errors import FoundryError
from foundry_lab.metrics import percentile
from foundry_lab.protocol.structured import Shape

MAX_SAMPLES = 8192


class BatchStoppedError(FoundryError):
    """A batch had to stop before its end; what is finished is in its output.

    Attributes:
        report: the report up to there.
    """

    def __init__(self, message: str, report: BatchReport) -> None:
        super().__init__(message)
        self.report = report


class Sample(msgspec.Struct, frozen=True):
    """One finished item: seconds since the start, its latency in seconds, whether it has an answer.

    The latency is None for an item that couldn't be sent.
    """

    at_s: float
    latency_s: float | None
    ok: bool


class BatchReport:
    """The summary of one run; `print(report)` shows it, `plots.batch.batch_figure` draws it.

    A copy of it, or a pickle, has the counts, and reads results as text, from a named output only. Without a
    named output it keeps temporary files for as long as it lives.

    Attributes:
        output: the file with the results; None where none was named.
        total: items of the input; `total_is_known` before the end, unless it can be read only once.
        skipped: those that were done before this run.
        failed_before: those of the skipped that have no answer; `retry_failed=True` asks them again.
        replaced: results of other requests under the same custom_ids, and damaged ones; they are in the file
            OUTPUT.bak now.
        done: items with an answer, of this run. failed: items without.
        failures: how many failed for which reason.
        wall_s: seconds of this run.
        prompt_tokens, completion_tokens: as the service counted for the answers, without those from the cache
            and those that had another shape than was asked for.
        cached: answers from the response cache. retries: attempts after the first, for items with an answer;
            the client's metrics have those of the others as well.
        samples: at most 8,192 of the items, evenly over the run; percentiles are exact up to that number.
    """

    def __init__(
        self,
        output: BatchOutput,
        shape: Shape | None,
        concurrency: object,
        own_shapes: Mapping[str, Shape] | None = None,
    ) -> None:
        self._store = output
        self._shape, self._own_shapes = shape, own_shapes  # the second of single items, by custom_id
        self.concurrency = concurrency
        self.output: Path | None = output.path
        self.total = self.skipped = self.done = self.failed = self.cached = self.retries = 0
        self.prompt_tokens = self.completion_tokens = 0
        self.failed_before = self.replaced = 0
        self.total_is_known = False
        self.failures: Counter[str] = Counter()
        self.wall_s = 0.0
        self.samples: list[Sample] = []
        self._stride = 1
        self._started = time.perf_counter()

    def __getstate__(self) -> dict[str, Any]:
        # A reader of the caller's own stays in its process.
        return self.__dict__ | {"_shape": None, "_own_shapes": None}

    def add(self, outcome: Outcome) -> None:
        """Count one finished item."""
        if outcome.ok:
            self.done += 1
        else:
            self.failed += 1
            self.failures[outcome.code] += 1
        self.retries += outcome.retries
        self.cached += outcome.cached
        self.prompt_tokens += outcome.usage.prompt_tokens
        self.completion_tokens += outcome.usage.completion_tokens
        self.wall_s = time.perf_counter() - self._started
        if (self.done + self.failed - 1) % self._stride == 0:
            if len(self.samples) == MAX_SAMPLES:  # keep every second one, and from now on as seldom
                del self.samples[1::2]
                self._stride *= 2
            self.samples.append(Sample(self.wall_s, outcome.latency_s, outcome.ok))

    def skip(self, *, failed: bool) -> None:
        """Count one item that was done before."""
        self.skipped += 1
        self.failed_before += failed

    def start(self) -> None:
        """The first item is about to be asked."""
        self._started = time.perf_counter()

    def end(self) -> None:
        """The run is over."""
        self.wall_s = time.perf_counter() - self._started

    @property
    def items_per_s(self) -> float:
        """Finished items per second of wall time."""
        return (self.done + self.failed) / self.wall_s if self.wall_s else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Completion tokens per second of wall time."""
        return self.completion_tokens / self.wall_s if self.wall_s else 0.0

    def latency_s(self, q: float) -> float | None:
        """Return the q-th percentile (0-100) of the answered items' latency in seconds, None without any."""
        return percentile(self.answered_s(), q)

    def answered_s(self) -> list[float]:
        """Return the sampled latencies of the answered items, in seconds."""
        return [each.latency_s for each in self.samples if each.ok and each.latency_s is not None]

    def results(self) -> Iterator[BatchResult]:
        """Read the results from the output, one by one, as they stand there.

        Raises:
            FoundryError: the output has gone or was changed by somebody else.
        """
        try:
            for line in self._store.read():
                yield read_line(line, self._shape, self._own_shapes)
        except (OSError, ValueError) as error:
            where = f" in {self.output}" if self.output else ""
            raise FoundryError(f"The results{where} can't be read any more: {error}.") from error

    def __str__(self) -> str:
        p50, p95, p99 = (self.latency_s(q) for q in (50, 95, 99))
        before = f", {self.failed_before} of them failed" if self.failed_before else ""
        lines = [
            f"{self.done} answered, {self.failed} failed, {self.skipped} done before{before}; "
            f"{self.wall_s:.1f} s with concurrency {self.concurrency}",
            f"throughput  {self.items_per_s:.1f} items/s, {self.tokens_per_s:.1f} tokens/s "
            f"({self.prompt_tokens} prompt + {self.completion_tokens} completion tokens)",
        ]
        if p50 is not None and p95 is not None and p99 is not None:
            lines.append(f"latency     p50 {p50:.3f} s, p95 {p95:.3f} s, p99 {p99:.3f} s")
        if self.cached or self.retries:
            lines.append(f"cache       {self.cached} answers; {self.retries} retries")
        if self.failures or self.failed_before:
            kinds = [f"{count} {code}" for code, count in self.failures.most_common()]
            kinds += [f"{self.failed_before} before this run"] if self.failed_before else []
            lines.append(f"failures    {', '.join(kinds)}; retry_failed=True runs these again")
        if self.output is not None:
            if self.replaced:
                lines.append(
                    f"replaced    {self.replaced} of other requests or damaged, kept in {self._store.backup}"
                )
            lines.append(f"results     {self.output}")
        return "\n".join(lines)

    __repr__ = __str__
