"""What a batch is to do: the input checked as a whole, and what of it the output holds already."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from foundry_lab.batch.index import BatchOutputError, Index
from foundry_lab.batch.items import MAX_ID_LENGTH, BatchInputError, BatchItem, ItemReader, automatic_id
from foundry_lab.batch.options import Choices, Items
from foundry_lab.batch.output import BatchOutput
from foundry_lab.batch.report import BatchReport
from foundry_lab.batch.source import Source
from foundry_lab.config import Settings
from foundry_lab.protocol.structured import Shape

MAX_PROBLEMS = 100


class Plan:
    """A batch up to its first request, and after that, which items are still to do.

    Attributes:
        choices: the options. reader: makes requests of the items. index: what is where.
        models: names that the items use, None for those that name none; the first hundred.

    Raises:
        ConfigurationError: items or options that can't be used.
    """

    def __init__(self, settings: Settings, items: Items, options: Mapping[str, Any]) -> None:
        self.choices = Choices(options)
        self.reader = ItemReader(self.choices.chat, settings, override_model=self.choices.override_model)
        self.models: set[str | None] = set()
        self.own_shapes: dict[str, Shape] = {}  # of the items with one of their own, by custom_id
        self._source = Source(items, self.reader, self.choices.template)
        output, source = self.choices.output, self._source.path
        with contextlib.suppress(OSError):  # one that isn't there, or is out of reach: who opens it tells
            if output and source and output.samefile(source):
                raise BatchInputError(f"{output} is the input; choose another file for the output.")
        self.index = Index()

    async def check_input(self) -> int | None:
        """Go through the whole input; return how many items it has, None if it can be read only once.

        Raises:
            BatchInputError: some can't be used, and `skip_bad` doesn't allow that; or all of them.
        """
        if not self._source.rereadable:
            return None
        problems: list[str] = []
        bad = total = 0
        async for place, item in self._items():
            total += 1
            if item.problem:
                bad += 1
                if len(problems) < MAX_PROBLEMS:
                    problems.append(f"{place}: {item.problem}")
        if bad and not (self.choices.skip_bad and bad < total):
            shown = " ".join(problems[:3])
            more = f" And {bad - 3} more." if bad > 3 else ""
            skip = "" if bad == total else " To run the others all the same: skip_bad=True."
            raise BatchInputError(
                f"{bad} of {total} items can't be used, so nothing was sent. {shown}{more}{skip}",
                tuple(problems),
            )
        if total == 0 and self._source.path is not None:
            raise BatchInputError(f"{self._source.path} holds no items; give at least one.")
        return total

    async def compare(self, output: BatchOutput, report: BatchReport) -> None:
        """Count what the output has already; of an input that can be read only once nobody can know yet.

        Raises:
            BatchOutputError: the output belongs to another batch, or resume=False and it isn't empty.
        """
        if not output.found:
            return
        if not self.choices.resume:
            raise BatchOutputError(
                f"{output.path} holds {output.found} results already, and resume is off. Let it resume, "
                "choose another output, or delete that file."
            )
        if not self._source.rereadable:
            return
        ours = False
        async for _, item in self._items():
            line = self.index.line_of(item.custom_id)
            if line is not None:
                ours = ours or line[0] == item.fingerprint or item.custom_id != automatic_id(item.number)
                if self._is_done(item, line):
                    report.skip(failed=line[1])
        if report.total and self.index.count_lines() > 0 and not ours:
            raise _of_another_batch(output, "none answers a request of this one")

    async def to_do(self, output: BatchOutput, report: BatchReport) -> AsyncIterator[BatchItem]:
        """Yield the items that the output has no result of.

        Raises:
            BatchOutputError: the output belongs to another batch.
        """
        belongs = self._source.rereadable  # then `compare` has seen to it
        async for _, item in self._items():
            report.total += not self._source.rereadable
            line = self.index.line_of(item.custom_id) if output.found else None
            if line is not None and not belongs:
                belongs = line[0] == item.fingerprint
                if not belongs and item.request and item.custom_id == automatic_id(item.number):
                    # The same number, another request. A name that somebody chose may change its request.
                    raise _of_another_batch(
                        output, f"item {item.number} of this one is another request than there"
                    )
            if line is None or not self._is_done(item, line):
                yield item
            elif not self._source.rereadable:
                report.skip(failed=line[1])

    async def _items(self) -> AsyncIterator[tuple[str, BatchItem]]:
        """Go through the items and their places. One whose custom_id is taken has a problem, and another."""
        async for place, item in self._source:
            first = self.index.add_item(item.custom_id, item.number)
            if first != item.number:
                problem = f"The custom_id {item.custom_id!r} is taken by item {first}; give each its own."
                name = f"{item.custom_id[: MAX_ID_LENGTH - 20]}#{item.number}"
                while self.index.add_item(name, item.number) != item.number:
                    name += "#"
                item = BatchItem(item.number, name, item.fingerprint, None, problem)
            if item.request is not None and len(self.models) < MAX_PROBLEMS:
                self.models.add(item.request.model)
            shape = item.request.shape if item.request is not None else None
            if shape is not None and shape is not self.reader.plain.shape:
                self.own_shapes[item.custom_id] = shape
            yield place, item

    def _is_done(self, item: BatchItem, line: tuple[str, bool]) -> bool:
        """Say whether the output has this item's result, for the same request."""
        return line[0] == item.fingerprint and not (self.choices.retry_failed and line[1])


def _of_another_batch(output: BatchOutput, why: str) -> BatchOutputError:
    return BatchOutputError(
        f"{output.path} holds {output.found} results of another batch: {why}. Choose another output or "
        "delete that file. Items with a custom_id of their own may change: they run again under its name."
    )
