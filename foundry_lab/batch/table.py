"""Tables, and prompts filled from their rows: CSV in the dialects that people have, and data frames."""

import contextlib
import csv
import itertools
import re
import string
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from foundry_lab.batch.files import Raw, bad_byte, lines
from foundry_lab.batch.items import BatchInputError
from foundry_lab.errors import ConfigurationError

ID_COLUMNS = ("custom_id", "id")
MAX_FIELD_BYTES = 64 * 1024 * 1024
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_HEAD_LINES = 64
"""Of so many lines the heading is to be one."""
_EXCEL_SEPARATOR = re.compile(r'"?sep=([^"\r\n])"?\s*', re.IGNORECASE)


class Template:
    """A prompt such as "Summarise: {text}". Doubled braces stand for themselves.

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
        self._names = names

    def missing(self, columns: Collection[object]) -> str:
        """Return a column that the template wants and that isn't there; nothing where all are."""
        return next((name for name in self._names if name not in columns), "")

    def item(self, raw: object) -> dict[str, Any]:
        """Return the item for a row, or for a text as its column `text`.

        Raises:
            ConfigurationError: it is neither, or lacks a column.
        """
        if isinstance(raw, list | tuple | bytes):
            raise ConfigurationError(
                f"It is a {type(raw).__name__}; a template is filled from a text, or a dict of columns."
            )
        row = raw if isinstance(raw, Mapping) else {"text": raw}
        if name := self.missing(row):
            known = ", ".join(map(str, row)) or "none"
            raise ConfigurationError(f"The template wants {{{name}}}, but the columns are: {known}.")
        prompt = ""
        for literal, column, _, _ in self._parts:
            prompt += literal + (cell_text(row[column]) if column is not None else "")
        return {"prompt": prompt, **id_of(row)}


def is_frame(items: object) -> bool:
    """Return whether something is a data frame of pandas or polars, or works as one."""
    return hasattr(getattr(items, "columns", None), "__len__") and (
        hasattr(items, "iter_rows") or hasattr(items, "itertuples")
    )


def frame_rows(frame: Any, template: Template | None) -> Iterator[Raw]:
    """Yield a data frame's rows; without a template their columns are arguments of `complete`.

    Raises:
        BatchInputError: a column is there twice.
    """
    names = [str(name) for name in frame.columns]
    _check_names(names, "The data frame")
    # Pandas has `itertuples` alone, polars `iter_rows` alone.
    rows = frame.iter_rows() if hasattr(frame, "iter_rows") else frame.itertuples(index=False, name=None)
    for number, cells in enumerate(rows, 1):
        row = dict(zip(names, cells, strict=True))
        if template is None:
            given = {name: cell for name, cell in row.items() if not is_empty(cell)}
            row = {name: cell for name, cell in given.items() if name not in ID_COLUMNS} | id_of(row)
        yield f"row {number}", row


def csv_rows(path: Path, template: Template | None) -> Iterator[Raw]:
    """Yield the rows of a CSV or TSV file. Rows in which all is empty, as Excel has them, are none.

    Raises:
        BatchInputError: it can't be told how the columns are separated; one is missing, or there twice; a
            quote isn't closed.
    """
    csv.field_size_limit(MAX_FIELD_BYTES)
    rest = lines(path, newline="")
    head = list(itertools.islice(rest, _HEAD_LINES))
    if template is None:
        raise BatchInputError(
            f"{path.name} is a table: say how a row becomes a prompt, such as "
            'template="Summarise: {text}" (--template on the command line).'
        )
    separators = ["\t"] if path.suffix.lower() == ".tsv" else [*SEPARATORS]
    if said := _EXCEL_SEPARATOR.fullmatch("".join(head[:1])):
        separators = [said[1]]
        head[0] = "\n"  # an empty row, so that the lines keep their numbers
    separator = _separator(path, head, separators, template)
    rows = _rows(path, itertools.chain(head, rest), separator)
    _, heading = next(rows, (0, []))
    names = [name.strip() for name in heading]
    _check_names(names, path.name)
    for number, row in rows:
        yield _named(number, row, names, separator)


def _named(number: int, row: list[str], names: list[str], separator: str) -> Raw:
    text = "".join(row)
    if found := bad_byte(text):
        before = re.findall(r"\r\n|\r|\n", text[: found[0]])
        return f"line {number + len(before)}", ConfigurationError(found[1])
    if len(row) != len(names):
        return f"line {number}", ConfigurationError(
            f"It has more or fewer fields than the heading ({len(row)} instead of {len(names)}). Put a field "
            f"that holds a {SEPARATORS.get(separator, repr(separator))} into quotes."
        )
    return f"line {number}", dict(zip(names, row, strict=True))


def _separator(path: Path, head: list[str], separators: list[str], template: Template) -> str:
    """Return what separates the columns: with it the heading has those that the template wants."""
    headings: dict[str, list[str]] = {}
    for separator in separators:
        with contextlib.suppress(BatchInputError):
            _, heading = next(_rows(path, head, separator), (0, []))
            headings[separator] = [name.strip() for name in heading]
    fitting = {each: names for each, names in headings.items() if not template.missing(names)}
    if len({tuple(names) for names in fitting.values()}) > 1:
        raise BatchInputError(
            f"It isn't clear how the columns of {path.name} are separated: {_considered(fitting)}. Say it in "
            "a first line of its own, such as sep=;"
        )
    if headings and not fitting:
        names = max(headings.values(), key=len)
        if found := bad_byte("".join(names)):
            raise BatchInputError(f"{path.name}, heading: {found[1]}")
        raise BatchInputError(
            f"The template wants {{{template.missing(names)}}}, but {path.name} has the columns: "
            f"{_considered(headings)}."
        )
    return next(iter(fitting or separators))


def _considered(headings: dict[str, list[str]]) -> str:
    several = {each: names for each, names in headings.items() if len(names) > 1}
    if not several:
        return ", ".join(next(iter(headings.values()))) or "none"
    return "; or ".join(
        f"{', '.join(names)} (separated by {SEPARATORS.get(each, repr(each))})"
        for each, names in several.items()
    )


def _rows(path: Path, text: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that aren't empty, each with the number of the line that it begins on."""
    reader = csv.reader(text, delimiter=separator, strict=True)
    number = 1
    try:
        for row in reader:
            if any(field.strip() for field in row):
                yield number, row
            number = reader.line_num + 1
    except csv.Error as error:
        raise BatchInputError(
            f"{path.name}, line {number}: {error}. A quote inside a quoted field is written twice; save the "
            "table as CSV again."
        ) from None


def _check_names(names: list[str], where: str) -> None:
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise BatchInputError(f"{where} has two columns named {twice[0]!r}; give each a name of its own.")


def cell_text(value: object) -> str:
    """Return what a cell puts into a prompt: nothing, where it is empty."""
    return "" if is_empty(value) else str(value)


def id_of(row: Mapping[Any, Any]) -> dict[str, str]:
    """Return the custom_id that a row names for itself, 0 included; nothing where it names none."""
    for column in ID_COLUMNS:
        if text := cell_text(row.get(column)):
            return {"custom_id": text}
    return {}


def is_empty(value: object) -> bool:
    """Return whether a cell holds nothing: None, NaN, or what pandas has in their place."""
    if value is None:
        return True
    try:
        return bool(value != value)  # NaN and NaT alone aren't equal to themselves
    except TypeError:  # pandas.NA doesn't say
        return True
    except ValueError:  # an array has many answers, so there is something in it
        return False
