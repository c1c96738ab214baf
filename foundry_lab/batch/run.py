"""One run of a batch: check the input, hand out what is still to do, put the results in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry_lab.batch.ask import Asker
from foundry_lab.batch.index import Index
from foundry_lab.batch.items import BatchInputError, BatchItem, ItemReader, automatic_id
from foundry_lab.batch.options import OWN_OPTIONS, Items, as_endpoints, as_path, check_names
from foundry_lab.batch.output import BatchOutput, BatchOutputError
from foundry_lab.batch.policy import DEFAULT_CONCURRENCY, Policy, as_policy
from foundry_lab.batch.progress import Progress
from foundry_lab.batch.report import BatchReport, BatchStoppedError
from foundry_lab.batch.results_file import open_output
from foundry_lab.batch.source import Source
from foundry_lab.batch.start import open_pool
from foundry_lab.config import check_timeout
from foundry_lab.errors import ConfigurationError, ServiceUnavailableError

if TYPE_CHECKING:
    from foundry_lab.calls.core import ClientCore

_log = logging.getLogger("foundry_lab.batch")

MAX_PROBLEMS = 100
BREATHE_EVERY = 256
"""While checking a long input, other tasks get their turn after so many items."""


async def run_batch(core: ClientCore, items: Items, options: Mapping[str, Any]) -> BatchReport:
    """Run a batch with a client's settings, headers, cache and metrics. See `BatchOptions`.

    Raises:
        ConfigurationError: input, option or model can't be used; nothing was sent.
        BatchOutputError: the output can't be used; nothing was sent.
        ServiceUnavailableError: there is no service to begin with.
        BatchStoppedError: it had to stop; what is finished is in the output.
    """
    batch = Batch(core, items, options)
    try:
        return await batch.run()
    finally:
        await batch.close()


class Batch:
    """One run of a batch."""

    def __init__(self, core: ClientCore, items: Items, options: Mapping[str, Any]) -> None:
        check_names(options)
        own = {name: value for name, value in options.items() if name in OWN_OPTIONS}
        self._core = core
        self._own: dict[str, Any] = own
        self._policy: Policy = as_policy(own.get("concurrency", DEFAULT_CONCURRENCY))
        self._patience_s = check_timeout(own.get("wait_for_service", 600.0), "wait_for_service")
        self._endpoints = as_endpoints(own.get("endpoints"))
        chat = {name: value for name, value in options.items() if name not in OWN_OPTIONS}
        self._reader = ItemReader(chat, core.settings)
        self._source = Source(items, self._reader, own.get("template"))
        self._retry_failed = bool(own.get("retry_failed", False))
        self._path = as_path(own.get("output"))
        if self._path is not None and self._source.path is not None and _same(self._path, self._source.path):
            raise BatchInputError(f"{self._path} is the input; choose another file for the output.")
        self._index = Index()
        self._output: BatchOutput | None = None
        self._asker: Asker | None = None
        self._models: set[str | None] = set()
        self._had_lines = False
        self._belongs = False
        self._asking = False

    async def run(self) -> BatchReport:
        """Check, then ask, then put the output in order."""
        total = await self._check_input() if self._source.rereadable else None
        output = self._output = open_output(self._path, self._index, ordered=self._own.get("ordered", False))
        self._had_lines = output.found > 0
        report = BatchReport(output, self._reader.shape, self._own.get("concurrency", DEFAULT_CONCURRENCY))
        report.total = total or 0
        if self._had_lines:
            await self._compare(output, report)
        if report.skipped != total:
            asker = self._asker = await self._make_asker()
            await self._work(output, asker, report, total)
        try:
            report.replaced = output.tidy()
        except BatchOutputError as error:
            raise BatchStoppedError(str(error), report) from error
        if report.replaced:
            _log.warning("%d results of other requests were moved to %s", report.replaced, output.backup)
        return report

    async def close(self) -> None:
        """Let go of connections, file and lock."""
        if self._asker is not None:
            await self._asker.close()
        if self._output is not None:
            self._output.close()
        self._index.close()

    # --- before the first request ----------------------------------------------------------------------

    async def _check_input(self) -> int:
        """Go through the whole input; return how many items it has.

        Raises:
            BatchInputError: some can't be used.
        """
        problems: list[str] = []
        bad = total = 0
        for place, item in self._source:
            total += 1
            if problem := item.problem or self._take_note(item):
                bad += 1
                if len(problems) < MAX_PROBLEMS:
                    problems.append(f"{place}: {problem}")
            if total % BREATHE_EVERY == 0:
                await asyncio.sleep(0)
        if bad:
            shown = " ".join(problems[:3])
            more = f" And {bad - 3} more." if bad > 3 else ""
            raise BatchInputError(
                f"{bad} of {total} items can't be used, so nothing was sent. {shown}{more}", tuple(problems)
            )
        if total == 0 and self._source.path is not None:
            raise BatchInputError(f"{self._source.path} holds no items; give at least one.")
        return total

    def _take_note(self, item: BatchItem) -> str:
        """Remember the item's id and model; return what is wrong with the id."""
        if item.request is not None and len(self._models) < MAX_PROBLEMS:
            self._models.add(item.request.model)
        if not self._index.add_item(item.custom_id, item.number):
            first = self._index.number_of(item.custom_id)
            return f"The custom_id {item.custom_id!r} is taken by item {first}; give each its own."
        return ""

    async def _compare(self, output: BatchOutput, report: BatchReport) -> None:
        """Count what the output has already; of an iterator nobody can know yet.

        Raises:
            BatchOutputError: the output belongs to another batch, or resume=False and it isn't empty.
        """
        if not self._own.get("resume", True):
            raise BatchOutputError(
                f"{output.path} holds {output.found} results already, and resume is off. Let it resume, "
                "choose another output, or delete that file."
            )
        if not self._source.rereadable:
            return
        shared = same = named = 0
        for number, (_, item) in enumerate(self._source, 1):
            line = self._index.line_of(item.custom_id)
            if line is not None:
                shared += 1
                same += line[0] == item.fingerprint
                named += item.custom_id != automatic_id(item.number)
                if self._is_done(item, line):
                    report.skip(failed=line[1])
            if number % BREATHE_EVERY == 0:
                await asyncio.sleep(0)
        if report.total and (shared == 0 or (same == 0 and named == 0)):
            raise _of_another_batch(output, "none answers a request of this one")
        self._belongs = True

    def _is_done(self, item: BatchItem, line: tuple[str, bool]) -> bool:
        """Say whether the output has this item's result, for the same request."""
        return line[0] == item.fingerprint and not (self._retry_failed and line[1])

    def _check_belongs(self, item: BatchItem, line: tuple[str, bool], output: BatchOutput) -> None:
        """Refuse the output if an iterator's items have other numbers there; names somebody chose himself."""
        self._belongs = line[0] == item.fingerprint
        if not self._belongs and item.request and item.custom_id == automatic_id(item.number):
            self._used_up = True  # the other workers ask nothing any more
            raise _of_another_batch(output, f"item {item.number} of this one is another request than there")

    async def _make_asker(self) -> Asker:
        models = self._models or {self._reader.model}
        if (cluster := self._own.get("cluster")) is not None:
            from foundry_lab.batch.cluster import DaskAsker

            if self._endpoints:
                raise ConfigurationError(
                    "Give endpoints or cluster, not both: a cluster's workers use their own endpoints."
                )
            return DaskAsker(
                cluster, self._core, self._policy, self._patience_s, self._own.get("chunk_size", 16)
            )
        return await open_pool(self._core, self._endpoints, models, self._policy, self._patience_s)

    # --- the run ---------------------------------------------------------------------------------------

    async def _work(self, output: BatchOutput, asker: Asker, report: BatchReport, total: int | None) -> None:
        """Have workers ask until the input is used up."""
        self._items = None if self._source.is_async else iter(self._source)
        self._stream = aiter(self._source) if self._source.is_async else None
        self._reading = asyncio.Lock()
        self._used_up = False
        self._wake = asyncio.Event()
        progress = self._progress = Progress(report, total, self._own.get("progress"))
        report.start()
        output.on_durable = progress.durable
        asker.on_wait(progress.waiting)
        syncing = asyncio.create_task(output.keep_synced())
        workers = [
            asyncio.create_task(self._worker(number, output, asker, report))
            for number in range(asker.workers)
        ]
        everything = asyncio.create_task(_all(workers))
        try:
            await asyncio.wait({everything, syncing}, return_when=asyncio.FIRST_COMPLETED)
            (syncing if syncing.done() else everything).result()
            output.sync()
        except (BatchOutputError, ServiceUnavailableError) as error:
            if not self._asking:
                raise
            report.end()
            again = "" if isinstance(error, BatchOutputError) else f". {self._saved(output, report)}"
            raise BatchStoppedError(f"{error}{again}", report) from error
        except asyncio.CancelledError:
            progress.say(f"Interrupted. {self._saved(output, report)}")
            raise
        finally:
            for task in (everything, *workers, syncing):
                task.cancel()
            await asyncio.gather(everything, *workers, syncing, return_exceptions=True)
            with contextlib.suppress(BatchOutputError):  # a full disk was complained of before
                output.sync()
            report.end()
            progress.close()

    async def _worker(self, number: int, output: BatchOutput, asker: Asker, report: BatchReport) -> None:
        while not self._used_up:
            if not asker.allows(number):
                self._wake.clear()
                await self._wake.wait()
                continue
            items: list[BatchItem] = []
            while len(items) < asker.chunk and (item := await self._next(output, report)) is not None:
                items.append(item)
            for outcome in await asker.ask(items) if items else ():
                output.write(outcome.custom_id, outcome.fingerprint, not outcome.ok, outcome.line)
                report.add(outcome)
            self._wake.set()

    async def _next(self, output: BatchOutput, report: BatchReport) -> BatchItem | None:
        """Return the next item to do, None at the end of the input."""
        passed = 0
        while not self._used_up:
            try:
                if self._stream is not None:
                    place, item = await self._receive(self._stream)
                else:
                    place, item = next(self._items)  # type: ignore[arg-type]
            except (StopIteration, StopAsyncIteration):
                self._used_up = True
                self._wake.set()
                return None
            if not self._source.rereadable:
                report.total += 1
                if problem := self._take_note(item):
                    if len(report.problems) < MAX_PROBLEMS:
                        report.problems.append(f"{place}: {problem}")
                    continue
            line = self._index.line_of(item.custom_id) if self._had_lines else None
            if line is not None and not self._belongs:
                self._check_belongs(item, line, output)
            if line is None or not self._is_done(item, line):
                self._asking = True
                return item
            if not self._source.rereadable:
                report.skip(failed=line[1])
                self._progress.skip()
            passed += 1
            if passed % BREATHE_EVERY == 0:
                await asyncio.sleep(0)
        return None

    async def _receive(self, stream: AsyncIterator[tuple[str, BatchItem]]) -> tuple[str, BatchItem]:
        async with self._reading:  # an async generator can't be asked twice at once
            if self._used_up:
                raise StopAsyncIteration
            return await anext(stream)

    def _saved(self, output: BatchOutput, report: BatchReport) -> str:
        """Say what is saved and how to go on."""
        done = report.skipped + output.lines
        if output.path is None:
            return (
                f"{done} items were done; give an output file next time, and a batch can go on where it was."
            )
        of = f" of {report.total}" if self._source.rereadable else ""
        return f"{done}{of} results are in {output.path}; run the same batch again to go on from there."


def _of_another_batch(output: BatchOutput, why: str) -> BatchOutputError:
    return BatchOutputError(
        f"{output.path} holds {output.found} results of another batch: {why}. Choose another output or "
        "delete that file. Items with a custom_id of their own may change: they run again under its name."
    )


async def _all(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks)


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)
