"""A prompt with places to fill, and the cells of a table that fill them."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from typing import Any

from foundry_lab.batch.items import BatchInputError
from foundry_lab.errors import ConfigurationError

ID_COLUMNS = ("custom_id", "id")


class Template:
    """A prompt such as "Summarise: {text}". Doubled braces stand for themselves.

    Attributes:
        names: the columns that it puts in.

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

    def missing(self, columns: Iterable[object]) -> str:
        """Return a column that the template wants and that isn't there; nothing where all are."""
        there = set(columns)
        return next((name for name in self.names if name not in there), "")

    def item(self, raw: object) -> dict[str, Any] | ConfigurationError:
        """Return the item for a row, or for a text as its column `text`; or what is wrong with it."""
        if isinstance(raw, list | tuple | bytes):
            return ConfigurationError(
                f"It is a {type(raw).__name__}; a template is filled from a text, or a dict of columns."
            )
        row = raw if isinstance(raw, Mapping) else {"text": raw}
        if name := self.missing(row):
            known = ", ".join(map(str, row)) or "none"
            return ConfigurationError(f"The template wants {{{name}}}, but the columns are: {known}.")
        prompt = ""
        try:
            for literal, column, _, _ in self._parts:
                prompt += literal + (cell_text(row[column]) if column is not None else "")
        except RecursionError:
            return ConfigurationError("A column is nested too deeply; flatten it.")
        return {"prompt": prompt, **id_of(row)}


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
