"""Tables as people have them: dialects, encodings, empty rows, and data frames."""

from __future__ import annotations

import asyncio
import io
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from foundry_lab import Settings
from foundry_lab.batch.items import BatchInputError, BatchItem, ItemReader
from foundry_lab.batch.source import Source


def read(items: Any, template: str | None = "{text}") -> list[tuple[str, str, str]]:
    """Return place, custom_id and prompt, or the problem, of each item."""
    reader = ItemReader({}, Settings())

    async def collect() -> list[tuple[str, BatchItem]]:
        return [each async for each in Source(items, reader, template)]

    return [
        (place, item.custom_id, item.request.messages[-1]["content"] if item.request else item.problem)
        for place, item in asyncio.run(collect())
    ]


def table(folder: Path, content: str | bytes, name: str = "in.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- dialects ---


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_the_one_that_gives_the_columns(tmp_path: Path, separator: str) -> None:
    rows = [("id", "text", "note, more"), ("0", "a; b, c | d", ""), ("8", 'say "x"', "y")]
    quoted = [separator.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    assert read(table(tmp_path, "\r\n".join(quoted))) == [
        ("line 2", "0", "a; b, c | d"),
        ("line 3", "8", 'say "x"'),
    ]


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"', "\ufeffsep=;"])
def test_excels_own_line_names_the_separator(tmp_path: Path, first: str) -> None:
    assert read(table(tmp_path, f"{first}\r\nid;text\r\n7;a, b\r\n")) == [("line 3", "7", "a, b")]


def test_a_separator_that_nobody_would_guess_can_be_named(tmp_path: Path) -> None:
    assert read(table(tmp_path, "sep=~\nid~text\n7~a;b\n")) == [("line 3", "7", "a;b")]


def test_one_column_may_hold_any_separator_but_the_comma(tmp_path: Path) -> None:
    good, bad = read(table(tmp_path, "text\na; b\tc\nd, e\n"))
    assert good[2] == "a; b\tc"
    assert "2 instead of 1" in bad[2] and "comma into quotes" in bad[2]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b;c\n1,2;3\n", r"a, b;c \(separated by comma\); or a,b, c \(separated by semicolon\)"),
        ("x,text,y;text;z\n1,2,3;4;5\n", r"isn't clear how .*comma.*semicolon.*such as sep=;"),
        ("id,text,text\n1,a,b\n", "two columns named 'text'"),
        ("id, text ,text\n1,a,b\n", "two columns named 'text'"),
        ('id;text\n1;"a\n2;b\n', "line 2: unexpected end of data"),
        ("\ufeff", "holds no|columns: none"),
        ("\n;;\n", "columns: ;;"),
    ],
)
def test_tables_that_could_be_read_wrongly_are_refused(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(BatchInputError, match=words):
        read(table(tmp_path, content))


def test_empty_rows_and_nameless_columns_as_excel_leaves_them(tmp_path: Path) -> None:
    content = ";;;\n id ; text ;;\n1;a;;\n;;;\n\n ; ;;\n2;;;\n;;;\n"
    assert read(table(tmp_path, content), "<{text}>") == [
        ("line 3", "1", "<a>"),
        ("line 7", "2", "<>"),  # an empty cell is empty; only a row without anything is none
    ]


# --- encodings ---


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.csv", 'id;text\n"7";"Müller €"\n'),
        ("in.txt", "Müller €\n"),
        ("in.jsonl", '{"text": "Müller €"}\n'),
    ],
)
def test_unicode_is_read_as_its_mark_says(tmp_path: Path, encoding: str, name: str, content: str) -> None:
    """PowerShell's > and Excel's "Unicode text" write UTF-16."""
    assert [prompt for _, _, prompt in read(table(tmp_path, content.encode(encoding), name))] == ["Müller €"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.csv", b'text;id\nfine;1\n"two\nlines M\xfcller";2\nfine;3\n'),
        ("in.txt", b"1\nfine\n2\nM\xfcller\nfine\n"),
        ("in.jsonl", b'"1"\n"fine"\n"2"\n"M\xfcller"\n"fine"\n'),
    ],
)
def test_a_bad_byte_is_told_with_its_own_line(tmp_path: Path, name: str, content: bytes) -> None:
    bad = [(place, text) for place, _, text in read(table(tmp_path, content, name)) if "UTF-8" in text]
    ((place, text),) = bad
    assert place == "line 4"
    assert "byte 0xFC, which is 'ü' in Windows-1252. Save the file as UTF-8" in text


def test_the_beginning_of_a_mark_is_no_mark(tmp_path: Path) -> None:
    """It would be dropped without a word."""
    ((_, _, text),) = read(table(tmp_path, b"\xef\xbb", "in.txt"), None)
    assert "no UTF-8" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"Stra\xdfe;id\nx;1\n", "heading: .*0xDF, which is 'ß' in Windows-1252"),
        ("text\nx\n".encode("utf-16-le"), "zero bytes"),
        ("text\nx\n".encode("utf-16")[:-1], "begins as UTF-16, but"),
        (b"PK\x03\x04\x14\0\x06\0xl/workbook.xml", "zero bytes, as .* Excel's own files"),
    ],
)
def test_what_is_no_unicode_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(BatchInputError, match=words):
        read(table(tmp_path, content))
    if b"xl/" not in content and b"\xdf" not in content:
        with pytest.raises(BatchInputError, match=words):
            read(table(tmp_path, content, "in.txt"), None)  # else zeros would stand in the prompts


# --- null and missing ---


def test_null_is_empty_and_a_field_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = table(tmp_path, '{"id": 0, "text": null}\n{"id": null, "note": 1}\n', "in.jsonl")
    null, missing = read(path, "<{text}>")
    assert null == ("line 1", "0", "<>")
    assert missing[1:] == ("item-000002", "The template wants {text}, but the columns are: id, note.")


@pytest.mark.parametrize("row", [["a", "b"], ("a",), b"a"])
def test_a_row_without_names_fills_no_template(row: object) -> None:
    """As `csv.reader` gives them: Python's own way of writing them would be sent."""
    assert "filled from a text, or a dict" in read([row])[0][2]


# --- data frames ---


class NA:
    """As pandas.NA: it can't say whether it is equal to itself."""

    def __ne__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = None  # type: ignore[assignment]


class PandasLike:
    """What a batch uses of pandas: iterating over a frame gives the names of its columns."""

    def __init__(self, **columns: Sequence[Any]) -> None:
        self.columns = list(columns)
        self._rows = list(zip(*columns.values(), strict=True))

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self._rows)

    def itertuples(self, *, index: bool = True, name: str | None = "Pandas") -> Iterator[tuple[Any, ...]]:
        assert not index and name is None
        return iter(self._rows)


class PolarsLike(PandasLike):
    """What a batch uses of polars: iterating over a frame gives its columns."""

    itertuples = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name == "itertuples":
            raise AttributeError(name)
        return super().__getattribute__(name)

    def iter_rows(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._rows)


def frames(**columns: Sequence[Any]) -> list[Any]:
    """Return such frames, and real ones of the packages that are installed."""
    made: list[Any] = [PandasLike(**columns), PolarsLike(**columns)]
    for package in ("pandas", "polars"):
        try:
            module = __import__(package)
        except ImportError:
            continue
        made.append(module.DataFrame(columns, **({"strict": False} if package == "polars" else {})))
    return made


def test_a_data_frame_is_its_rows() -> None:
    for frame in frames(id=[0, 1, 2], text=["a", None, "c"], n=[1.5, math.nan, 2.0]):
        assert read(frame, "<{text}|{n}>") == [
            ("row 1", "0", "<a|1.5>"),
            ("row 2", "1", "<|>"),
            ("row 3", "2", "<c|2.0>"),
        ]


def test_without_a_template_a_data_frames_columns_are_arguments() -> None:
    for frame in frames(custom_id=["x", None], prompt=["a", "b"], temperature=[math.nan, 0.5]):
        assert read(frame, None) == [("row 1", "x", "a"), ("row 2", "item-000002", "b")]
    for frame in frames(text=["a"]):
        assert "need a template" in read(frame, None)[0][2]


def test_pandas_na_is_empty() -> None:
    assert read(PandasLike(id=[NA()], text=[NA()]), "<{text}>") == [("row 1", "item-000001", "<>")]


def test_a_data_frame_without_the_column_or_with_two_of_it_is_refused() -> None:
    for frame in frames(a=["x"], b=["y"]):
        assert read(frame)[0][2] == "The template wants {text}, but the columns are: a, b."
    frame = PandasLike(text=["x"])
    frame.columns, frame._rows = ["text", "text"], [("x", "y")]
    with pytest.raises(BatchInputError, match="The data frame has two columns named 'text'"):
        read(frame)


# --- open files ---


@pytest.mark.parametrize("mode", ["r", "rb", "r+"])
def test_an_open_file_is_what_its_name_says(tmp_path: Path, mode: str) -> None:
    with table(tmp_path, "id;text\n7;a\n").open(mode) as file:
        assert read(file) == [("line 2", "7", "a")]
    with table(tmp_path, '{"prompt": "b"}\n', "in.jsonl").open(mode) as file:
        assert read(file, None) == [("line 1", "item-000001", "b")]


def test_open_files_of_which_that_is_not_clear_are_refused(tmp_path: Path) -> None:
    path = table(tmp_path, "a\nb\n", "in.txt")
    started = path.open()
    next(started)
    read_in_part = path.open()
    read_in_part.read(1)
    closed = path.open()
    closed.close()
    with (tmp_path / "new.txt").open("w") as writing, tempfile.TemporaryFile("w+") as nameless:
        for file in (started, read_in_part, closed, writing, nameless, io.StringIO("a\n"), io.BytesIO(b"a")):
            with pytest.raises(BatchInputError, match=r"Give pathlib\.Path.*for line in file"):
                read(file, None)
    started.close()
    read_in_part.close()


def test_a_text_that_names_a_file_should_be_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    name = str(table(tmp_path, "a\n", "in.txt"))
    for text in (name, "~/in.txt"):
        with pytest.raises(BatchInputError, match=r"one text; give a list of prompts, or pathlib\.Path"):
            read(text)
    for text in ("no such file.txt", "x" * 10_000, "a\0b"):
        with pytest.raises(BatchInputError, match=r"one text; give a list .{,300}for a file of them\.$"):
            read(text)
    assert [prompt for _, _, prompt in read(Path("~/in.txt"), None)] == ["a"]
