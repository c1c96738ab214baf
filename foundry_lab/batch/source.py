"""Where a batch's items come from: lists, iterators, async iterators, data frames and files.

Items are read one at a time, when there is room for them. A list or a file can be read twice, so it is
checked as a whole before the first request; an iterator can't, and its bad items are recorded as they come.
"""

import asyncio
import io
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import Any

from foundry_lab._ground.files import as_path
from foundry_lab.batch.files import ENDINGS, Raw, json_lines, path_of, text_lines
from foundry_lab.batch.items import BatchInputError, BatchItem, ItemReader
from foundry_lab.batch.table import Template, csv_rows, frame_rows, is_frame

BREATHE_EVERY = 256
"""While a long input is read, other tasks get their turn after so many items."""


class Source:
    """The items of one batch, in order.

    Attributes:
        path: the input file, if it is one.
        rereadable: the items can be gone through more than once.

    Raises:
        BatchInputError: nothing that items could be read from, or a template that can't be used.
    """

    def __init__(self, items: Any, reader: ItemReader, template: str | None = None) -> None:
        self._reader = reader
        self._template = Template(template) if template is not None else None
        self._fill = self._template.item if self._template is not None else None
        if isinstance(items, io.IOBase) or hasattr(items, "fileno"):
            items = path_of(items)
        self._items = items
        self.path = as_path(items, "items") if isinstance(items, os.PathLike) else None
        _check_kind(items)
        in_memory = hasattr(items, "__len__") and hasattr(items, "__getitem__")
        self.rereadable = self.path is not None or is_frame(items) or in_memory

    async def __aiter__(self) -> AsyncIterator[tuple[str, BatchItem]]:
        """Go through the items and their places; other tasks get their turn meanwhile."""
        number = 0
        if isinstance(self._items, AsyncIterable):
            async for raw in self._items:
                number += 1
                yield f"item {number}", self._reader.read(number, raw, self._fill)
            return
        for number, (place, raw) in enumerate(self._raws(), 1):
            yield place, self._reader.read(number, raw, self._fill)
            if number % BREATHE_EVERY == 0:
                await asyncio.sleep(0)

    def _raws(self) -> Iterator[Raw]:
        if self.path is None:
            if is_frame(self._items):
                return frame_rows(self._items, self._template)
            return ((f"item {number}", raw) for number, raw in enumerate(self._items, 1))
        match self.path.suffix.lower():
            case ".jsonl" | ".ndjson":
                return json_lines(self.path)
            case ".csv" | ".tsv":
                return csv_rows(self.path, self._template)
            case ".txt":
                return text_lines(self.path)
        raise BatchInputError(f"{self.path}: the ending says what a file holds; {ENDINGS}.")


def _check_kind(items: object) -> None:
    """Refuse what isn't many items; for what is one, the error says how to give it."""
    if isinstance(items, str | bytes):
        raise BatchInputError(
            f"items is one text; give a list of prompts, or pathlib.Path({os.fsdecode(items)!r:.200}) for a "
            "file of them."
        )
    if isinstance(items, Mapping):
        raise BatchInputError("items is one dict. Put it in a list: [{…}].")
    if not isinstance(items, AsyncIterable | Iterable | os.PathLike) and not is_frame(items):
        raise BatchInputError(
            f"items is a {type(items).__name__}; give a list, an iterator, a DataFrame or a Path."
        )
