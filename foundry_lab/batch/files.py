"""Files as people have them: JSONL and plain text in UTF-8 or UTF-16, a byte that fits neither named."""

import codecs
import contextlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from foundry_lab.batch.items import BatchInputError
from foundry_lab.errors import ConfigurationError

Raw = tuple[str, object]
"""An item's place, for messages, and the item itself, or the ConfigurationError that stands for it."""

ENDINGS = ".jsonl, .csv, .tsv or .txt"
_HEAD_BYTES = 4096
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16's does
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def path_of(file: io.IOBase) -> Path:
    """Return the path of a file that somebody has opened, and not read yet.

    Raises:
        BatchInputError: it has no name in the file system, or was read in part.
    """
    name = getattr(file, "name", None)
    # Read in part, closed, without a number, or with nothing but a number for a name, …
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
        path = Path(os.fsdecode(name))  # type: ignore[arg-type]
        same = os.path.samestat(path.stat(), os.fstat(file.fileno()))
        if same and file.readable() and file.tell() == 0:
            return path
    raise BatchInputError(
        f"items is an open file ({name!r}), but none with a name of its own that nobody has read from yet. "
        f"Give pathlib.Path(…) of a {ENDINGS} file; or of prompts, one a line: "
        "[line.strip() for line in file]."
    )


def lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """Yield a file's lines. A byte that is no UTF-8 becomes a character that `bad_byte` finds.

    Raises:
        BatchInputError: it is no file, can't be opened, is empty or no text, or isn't UTF-16 to the end as it
            begins.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe can be read only once, and here it is more often
            raise BatchInputError(f"The input {str(path)!r} is a folder, a device or a pipe; name a file.")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise BatchInputError(
            f"The input {str(path)!r} can't be read: {error.strerror}. Check its name and folder."
        ) from None
    if not head:
        raise BatchInputError(f"The input {str(path)!r} is empty; give at least one item.")
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
    if b"\0" in head and not encoding.startswith(("utf-16", "utf-32")):
        raise BatchInputError(
            f"The input {str(path)!r} is no text in UTF-8: it holds zero bytes, as UTF-16 without its mark "
            "and Excel's own files do. Save it as UTF-8 text."
        )
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    with path.open(encoding=encoding, errors=errors, newline=newline) as text:
        try:
            yield from text
        except UnicodeDecodeError as error:
            raise BatchInputError(
                f"{path.name} begins as {encoding.upper()}, but isn't that to its end ({error.reason}). Save "
                "it as UTF-8."
            ) from None


def bad_byte(text: str) -> tuple[int, str] | None:
    """Return where in a text of `lines` a byte is no UTF-8, and a sentence about it; None if all are."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) & 0xFF
        letter = bytes([byte]).decode("cp1252", "ignore")
        guess = f", which is {letter!r} in Windows-1252" if letter else ""
        sentence = (
            f"It is no UTF-8 text: it holds the byte 0x{byte:02X}{guess}. Save the file as UTF-8 (in Excel: "
            '"CSV UTF-8").'
        )
        return error.start, sentence
    return None


def text_lines(path: Path) -> Iterator[Raw]:
    """Yield each line of a text as an item, but for empty ones."""
    for number, line in enumerate(lines(path), 1):
        if line := line.strip():
            found = bad_byte(line)
            yield f"line {number}", ConfigurationError(found[1]) if found else line


def json_lines(path: Path) -> Iterator[Raw]:
    """Yield the items of a JSONL file."""
    decode = msgspec.json.Decoder().decode
    for place, raw in text_lines(path):
        if isinstance(raw, str):
            try:
                raw = decode(raw)
            except (msgspec.DecodeError, RecursionError) as error:
                raw = ConfigurationError(f"It is no JSON: {error}.")
        yield place, raw
