"""One run of a batch: workers ask what is still to do, and every result is on disk before it counts."""

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from typing import Any

from tqdm.auto import tqdm

from foundry_lab.batch.cluster import DaskAsker
from foundry_lab.batch.index import BatchOutputError
from foundry_lab.batch.items import BatchItem
from foundry_lab.batch.options import Items
from foundry_lab.batch.output import BatchOutput
from foundry_lab.batch.plan import Plan
from foundry_lab.batch.pool import EndpointPool
from foundry_lab.batch.report import BatchReport, BatchStoppedError
from foundry_lab.calls.core import ClientCore
from foundry_lab.errors import ModelNotFoundError, ServiceUnavailableError
from foundry_lab.metrics import percentile

Asker = EndpointPool | DaskAsker

RECENT = 256
"""The bar's p95 is that of so many samples."""


async def run_batch(core: ClientCore, items: Items, options: Mapping[str, Any]) -> BatchReport:
    """Run a batch with a client's settings, headers, cache and metrics. See `BatchOptions`.

    Raises:
        ConfigurationError: input, option or model can't be used; nothing was sent.
        BatchOutputError: the output can't be used; nothing was sent.
        ServiceUnavailableError: there is no service to begin with.
        BatchStoppedError: it had to stop; what is finished is in the output.
    """
    plan = Plan(core.settings, items, options)
    async with contextlib.AsyncExitStack() as stack:
        total = await plan.check_input()
        output = BatchOutput(plan.choices.output, plan.index, ordered=plan.choices.ordered)
        stack.callback(output.close)
        report = BatchReport(output, plan.reader.plain.shape, plan.choices.concurrency, plan.own_shapes)
        report.total, report.total_is_known = total or 0, total is not None
        await plan.compare(output, report)
        if report.skipped != total:
            asker = await _open_asker(core, plan, stack)
            await Run(plan, output, report, asker).work()
        try:
            report.replaced = output.tidy()
        except BatchOutputError as error:
            raise BatchStoppedError(str(error), report) from error
        return report


async def _open_asker(core: ClientCore, plan: Plan, stack: contextlib.AsyncExitStack) -> Asker:
    choices = plan.choices
    if choices.cluster is not None:
        return DaskAsker(core, choices)
    models = plan.models or {plan.reader.plain.model}
    pool = EndpointPool(core, choices.endpoints, models, choices.policy, choices.patience_s)
    stack.push_async_callback(pool.close)
    try:
        await pool.open()
    except ModelNotFoundError as error:
        if models - {None, plan.reader.plain.model} and error.available:
            error.args = (
                f"{error} The input names it. To ask another model whatever the input names: "
                f'complete_batch(…, model="{error.available[0]}", override_model=True).',
            )
        raise
    return pool


class Run:
    """The workers of one run, and what they share."""

    def __init__(self, plan: Plan, output: BatchOutput, report: BatchReport, asker: Asker) -> None:
        self._output, self._report, self._asker = output, report, asker
        show = plan.choices.progress if sys.stderr is not None else False  # None under Windows' pythonw
        self._bar: Any = tqdm(
            total=report.total if report.total_is_known else None,
            initial=report.skipped,
            unit="item",
            desc="batch",
            disable=None if show is None else not show,  # in a notebook tqdm takes None for False
            dynamic_ncols=True,
        )
        if isinstance(asker, EndpointPool):
            asker.on_wait = self._show_waiting
        self._items = plan.to_do(output, report)
        self._free = asyncio.Event()
        self._free.set()
        self._asking = False

    async def work(self) -> None:
        """Have workers ask until the input is used up.

        Raises:
            BatchStoppedError: the output or the service failed for good.
            BatchOutputError, ServiceUnavailableError: the same, before anything was asked.
        """
        output, report = self._output, self._report
        report.start()
        syncing = asyncio.create_task(output.keep_synced(self._show_durable))
        workers = [asyncio.create_task(self._worker()) for _ in range(self._asker.workers)]
        everything: asyncio.Future[Any] = asyncio.gather(*workers)
        try:
            await asyncio.wait({everything, syncing}, return_when=asyncio.FIRST_COMPLETED)
            (syncing if syncing.done() else everything).result()
            self._show_durable(output.sync())
        except (BatchOutputError, ServiceUnavailableError) as error:
            if not self._asking:
                raise
            again = "" if isinstance(error, BatchOutputError) else f". {self._saved()}"
            raise BatchStoppedError(f"{error}{again}", report) from error
        except asyncio.CancelledError:
            if sys.stderr is not None:
                self._bar.write(f"Interrupted. {self._saved()}", file=sys.stderr)
            raise
        finally:
            for task in (*workers, syncing):
                task.cancel()
            await asyncio.gather(everything, *workers, syncing, return_exceptions=True)
            with contextlib.suppress(BatchOutputError):  # a full disk was complained of before
                self._show_durable(output.sync())
            report.end()
            self._bar.close()

    async def _worker(self) -> None:
        while items := await self._take():
            for outcome in await self._asker.ask(items):
                self._output.write(outcome.custom_id, outcome.fingerprint, not outcome.ok, outcome.line)
                self._report.add(outcome)

    async def _take(self) -> list[BatchItem]:
        """Return the next items to do, a chunk at most; none at the end of the input.

        Items are taken only for a worker that is free: an iterator is never read ahead, so what a crash loses
        of it is what was in hand.
        """
        while not self._free.is_set():  # an async generator can't be asked twice at once
            # No asyncio.Lock: once somebody waits for one, it hands itself on in turns of the loop for ever.
            await self._free.wait()
        self._free.clear()
        items: list[BatchItem] = []
        try:
            while len(items) < self._asker.chunk and (item := await anext(self._items, None)) is not None:
                items.append(item)
        finally:
            self._free.set()
        self._asking = self._asking or bool(items)
        return items

    def _show_durable(self, lines: int) -> None:
        """Show that so many lines of this run are on disk, and how it goes; tqdm adds the time left."""
        report = self._report
        recent = [each.latency_s for each in report.samples[-RECENT:] if each.latency_s is not None]
        p95 = percentile(recent, 95) or 0.0
        details = f"{report.tokens_per_s:.0f} tokens/s, p95 {p95:.2f} s, {report.failed} failed"
        self._bar.set_postfix_str(details, refresh=False)
        self._bar.update(report.skipped + lines - self._bar.n)

    def _show_waiting(self, waiting: bool) -> None:
        self._bar.set_description_str("batch, waiting for the service" if waiting else "batch")

    def _saved(self) -> str:
        """Say what is saved and how to go on."""
        output, report = self._output, self._report
        done = report.skipped + output.lines
        if output.path is None:
            return (
                f"{done} items were done; give an output file next time, and a batch can go on where it was."
            )
        of = f" of {report.total}" if report.total_is_known else ""
        return f"{done}{of} results are in {output.path}; run the same batch again to go on from there."
