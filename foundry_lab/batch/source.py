"""Where a batch's items come from: lists, iterators, async iterators, JSONL, CSV and text files.

Items are read one at a time, when there is room for them. A list or a file can be read twice, so it is
checked as a whole before the first request; an iterator can't, and its bad items are recorded as they come.
"""

from __future__ import annotations

import asyncio
import csv
import string
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from foundry_lab.batch.items import BatchInputError, BatchItem, ItemReader, automatic_id
from foundry_lab.errors import ConfigurationError

ID_COLUMNS = ("custom_id", "id")
MAX_FIELD_BYTES = 64 * 1024 * 1024
BREATHE_EVERY = 256
"""While a long input is read, other tasks get their turn after so many items."""

Raw = tuple[str, object]
"""An item's place, for messages, and the item itself, or the ConfigurationError that stands for it."""


class Source:
    """The items of one batch, in order.

    Attributes:
        rereadable: the items can be gone through more than once.
    """

    def __init__(self, items: Any, reader: ItemReader, template: str | None = None) -> None:
        self._reader = reader
        self._items = items
        self._template = Template(template) if template is not None else None
        if isinstance(items, str | bytes):
            raise BatchInputError(
                "items is one text. Give a list of prompts, or pathlib.Path(…) for a file of them."
            )
        if isinstance(items, Mapping):
            raise BatchInputError("items is one dict. Put it in a list: [{…}].")
        self._file = items if isinstance(items, Path) else None
        self._is_async = isinstance(items, AsyncIterable)
        if not self._is_async and not self._file and not isinstance(items, Iterable):
            raise BatchInputError(f"items is a {type(items).__name__}; give a list, an iterator or a Path.")
        self.rereadable = self._file is not None or isinstance(items, Sequence)
        if self._file is not None:
            _check_readable(self._file)

    @property
    def path(self) -> Path | None:
        """The input file, if it is one."""
        return self._file

    async def __aiter__(self) -> AsyncIterator[tuple[str, BatchItem]]:
        """Go through the items and their places; other tasks get their turn meanwhile."""
        number = 0
        if self._is_async:
            async for raw in self._items:
                number += 1
                yield f"item {number}", self._read(number, self._fill(raw))
            return
        raws = _read_file(self._file, self._template) if self._file else self._places(self._items)
        for number, (place, raw) in enumerate(raws, 1):
            yield place, self._read(number, raw)
            if number % BREATHE_EVERY == 0:
                await asyncio.sleep(0)

    def _places(self, items: Iterable[object]) -> Iterator[Raw]:
        for number, raw in enumerate(items, 1):
            yield f"item {number}", self._fill(raw)

    def _fill(self, raw: object) -> object:
        if self._template is None:
            return raw
        return self._template.item(raw if isinstance(raw, dict) else {"text": raw})

    def _read(self, number: int, raw: object) -> BatchItem:
        if isinstance(raw, ConfigurationError):
            return BatchItem(number, automatic_id(number), "", None, str(raw))
        return self._reader.read(number, raw)


class Template:
    """A prompt with places to fill: "Summarise: {text}". Doubled braces stand for themselves.

    Raises:
        BatchInputError: braces that don't match, or a place without a name or with a format.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise BatchInputError(f"template={text!r} is no text; write it like 'Summarise: {{text}}'.")
        try:
            self._parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise BatchInputError(
                f"The template {text!r} can't be read: {error}. Write {{{{ for a brace."
            ) from None
        names = [name for _, name, _, _ in self._parts if name is not None]
        if not names or any(not name.strip() for name in names):
            raise BatchInputError(
                f"The template {text!r} names no column to fill in; write it like 'Summarise: {{text}}'."
            )
        if any(spec or conversion for _, _, spec, conversion in self._parts):
            raise BatchInputError(
                f"The template {text!r} formats a column, but columns are put in as they are: write the name "
                "alone, like {text}, with nothing after it."
            )
        self.names = tuple(dict.fromkeys(names))

    def item(self, row: dict[str, Any]) -> dict[str, Any] | ConfigurationError:
        """Return the item for one row, or what is wrong with the row."""
        for name in self.names:
            if row.get(name) is None:
                known = ", ".join(str(column) for column in row) or "none"
                return ConfigurationError(f"The template wants {{{name}}}, but the columns are: {known}.")
        prompt = "".join(
            literal + (str(row[name]) if name is not None else "") for literal, name, _, _ in self._parts
        )
        item: dict[str, Any] = {"prompt": prompt}
        for column in ID_COLUMNS:
            if row.get(column):
                item["custom_id"] = str(row[column])
                break
        return item


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise BatchInputError(
            f"The input {str(path)!r} can't be read: {error.strerror}. Check its name and folder."
        ) from None
    if empty:
        raise BatchInputError(f"The input {str(path)!r} is empty; give at least one item.")


def _read_file(path: Path, template: Template | None) -> Iterator[Raw]:
    """Read a file as its name's ending says; every item comes with its line's number."""
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv"):
        if template is None:
            raise BatchInputError(
                f"{path.name} is a table: say how a row becomes a prompt, such as "
                'template="Summarise: {text}" (--template on the command line).'
            )
        return _table(path, template, "\t" if ending == ".tsv" else ",")
    if ending in (".jsonl", ".ndjson"):
        return _json_lines(path, template)
    if ending == ".txt":
        return _text(path, template)
    raise BatchInputError(f"{path.name}: the ending says what a file holds; .jsonl, .csv, .tsv or .txt.")


def _json_lines(path: Path, template: Template | None) -> Iterator[Raw]:
    decode = msgspec.json.Decoder().decode
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if not line:
                continue
            raw: object
            try:
                raw = decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raw = ConfigurationError(f"It is no JSON: {error}.")
            if template is not None and not isinstance(raw, ConfigurationError):
                raw = template.item(raw if isinstance(raw, dict) else {"text": raw})
            yield f"line {number}", raw


def _text(path: Path, template: Template | None) -> Iterator[Raw]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                yield f"line {number}", ConfigurationError(f"It is no UTF-8 text: {error.reason}.")
                continue
            if text:
                yield f"line {number}", template.item({"text": text}) if template else text


def _table(path: Path, template: Template, delimiter: str) -> Iterator[Raw]:
    csv.field_size_limit(MAX_FIELD_BYTES)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            missing = [name for name in template.names if name not in (rows.fieldnames or ())]
            if missing:
                raise BatchInputError(
                    f"The template wants {{{missing[0]}}}, but {path.name} has the columns: "
                    f"{', '.join(rows.fieldnames or ()) or 'none'}."
                )
            for row in rows:
                raw: object = template.item(row)
                if None in row or None in row.values():
                    raw = ConfigurationError("It has more or fewer fields than the heading.")
                yield f"line {rows.line_num}", raw
        except (csv.Error, UnicodeDecodeError) as error:
            raise BatchInputError(
                f"{path.name}, line {rows.line_num + 1}: {error}. Save it as UTF-8 CSV."
            ) from None
