"""Files and tables as the input of a batch, and what is wrong with them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_server import CHAT, StubService

from foundry_lab import Settings, SyncFoundryAPIClient
from foundry_lab.batch.items import BatchInputError, BatchItem, ItemReader
from foundry_lab.batch.source import Source
from foundry_lab.batch.table import Template


def read(path: Path, template: str | None = None) -> list[tuple[str, str, str]]:
    """Return place, custom_id and prompt, or the problem, of each item."""
    reader = ItemReader({}, Settings())

    async def collect() -> list[tuple[str, BatchItem]]:
        return [each async for each in Source(path, reader, template)]

    return [
        (place, item.custom_id, item.request.messages[-1]["content"] if item.request else item.problem)
        for place, item in asyncio.run(collect())
    ]


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    body = {"messages": [{"role": "user", "content": "line"}]}
    lines = ['\ufeff"text"', "", json.dumps({"prompt": "named", "custom_id": "x"}), "  ", json.dumps(
        {"custom_id": "y", "method": "POST", "url": CHAT, "body": body})]  # fmt: skip
    path.write_text("\r\n".join(lines), encoding="utf-8")
    assert read(path) == [
        ("line 1", "item-000001", "text"),
        ("line 3", "x", "named"),
        ("line 5", "y", "line"),
    ]


def test_json_lines_with_a_template(tmp_path: Path) -> None:
    path = tmp_path / "in.ndjson"
    path.write_text('{"id": 7, "text": "a"}\n"b"\n{"other": 1}\n', encoding="utf-8")
    seven, plain, other = read(path, "Say {text}")
    assert seven == ("line 1", "7", "Say a")
    assert plain == ("line 2", "item-000002", "Say b")
    assert "wants {text}, but the columns are: other" in other[2]


@pytest.mark.parametrize("line", ["{", "no json", '{"a": NaN}', '{"a": 1e999}', '{"a":1} {"b":2}'])
def test_a_line_that_is_no_json_is_named(tmp_path: Path, line: str | bytes) -> None:
    path = tmp_path / "in.jsonl"
    data = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b'"good"\n' + data + b"\n")
    good, bad = read(path)
    assert good[2] == "good"
    assert bad[0] == "line 2"
    assert "It is no JSON" in bad[2]


def test_a_deeply_nested_line_is_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    for depth in (600, 3000, 100_000):  # where it gets too deep, and for what, depends on Python's version
        path.write_bytes(b'{"prompt":"x","extra_body":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}\n")
        ((place, _, text),) = read(path)
        assert place == "line 1"
    assert "It is no JSON" in text


def test_a_deeply_nested_item_is_named() -> None:
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    assert (
        "nested too deeply" in ItemReader({}, Settings()).read(1, {"prompt": "x", "extra_body": deep}).problem
    )
    assert "field named 1" in ItemReader({}, Settings()).read(1, {1: deep, "prompt": "x"}).problem
    fill = Template("Say {text}").item
    assert "nested too deeply" in ItemReader({}, Settings()).read(1, {"text": deep}, fill).problem


def test_text_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("\ufeffone\r\n\n  zwei ä \n", encoding="utf-8")
    assert [prompt for _, _, prompt in read(path)] == ["one", "zwei ä"]
    assert [prompt for _, _, prompt in read(path, "<{text}>")] == ["<one>", "<zwei ä>"]
    path.write_bytes(b"good\nb\xe4d\n")
    assert "no UTF-8" in read(path)[1][2]


@pytest.mark.parametrize(("name", "delimiter"), [("in.csv", ","), ("in.tsv", "\t")])
def test_tables(tmp_path: Path, name: str, delimiter: str) -> None:
    path = tmp_path / name
    path.write_text(
        "\ufeffid,text,tone\n7,\"a, b\nc\",kind\n8,{brace},sharp\n".replace(",", delimiter, 2)
        .replace(",kind", delimiter + "kind").replace(",sharp", delimiter + "sharp")
        .replace("7,", "7" + delimiter).replace("8,", "8" + delimiter),
        encoding="utf-8",
    )  # fmt: skip
    assert read(path, "In a {tone} tone {{x}}: {text}") == [
        ("line 2", "7", "In a kind tone {x}: a, b\nc"),
        ("line 4", "8", "In a sharp tone {x}: {brace}"),
    ]


def test_a_row_with_more_or_fewer_fields_is_named(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,text\n1,a,extra\n2\n3,c\n", encoding="utf-8")
    more, fewer, good = read(path, "{text}")
    assert (more[0], fewer[0], good[2]) == ("line 2", "line 3", "c")
    assert "more or fewer fields" in more[2]
    assert "more or fewer fields" in fewer[2]


@pytest.mark.parametrize(
    ("name", "content", "template", "words"),
    [
        ("in.csv", "text\na\n", None, "is a table"),
        ("in.csv", "text\na\n", "{txt}", "the columns: text"),
        ("in.csv", 'text\n"a', "{text}", "line 2"),
        ("in.xlsx", "x", None, ".jsonl, .csv, .tsv or .txt"),
        ("in.jsonl", "", None, "is empty"),
        ("in.txt", "x", "{}", "names no column"),
        ("in.txt", "x", "a { b", "can't be read"),
    ],
)
def test_files_that_cannot_be_used(
    tmp_path: Path, name: str, content: str | bytes, template: str | None, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BatchInputError, match=words):
        read(path, template)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BatchInputError, match="can't be read"):
        read(tmp_path / "missing.jsonl")


@given(st.text())
def test_a_template_puts_any_text_in_unchanged(text: str) -> None:
    item = Template("<{text}>").item({"text": text})
    assert item == {"prompt": f"<{text}>"}


KEYS = st.text() | st.sampled_from(["prompt", "messages", "custom_id", "body", "url", "max_tokens"])
JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
)


@given(JSON_LIKE)
def test_no_item_crashes_the_reader(raw: object) -> None:
    item = ItemReader({}, Settings()).read(1, raw)
    assert (item.request is None) == bool(item.problem)


def test_a_prompt_has_the_same_fingerprint_however_it_is_given() -> None:
    reader = ItemReader({"system": "be brief", "temperature": 0}, Settings())
    for text in ("plain", 'with "quotes" \n and ü \x00', ""):
        line = {"custom_id": "x", "body": {"messages": [
            {"role": "system", "content": "be brief"}, {"role": "user", "content": text}]}}  # fmt: skip
        fingerprints = {reader.read(1, raw).fingerprint for raw in (text, {"prompt": text})}
        assert len(fingerprints) == 1
        assert reader.read(1, line).request is not None
    assert reader.read(1, "a").fingerprint != reader.read(1, "b").fingerprint


def test_a_file_with_bad_lines_is_refused_before_anything_is_sent(stub: StubService, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('"a"\n{bad\n{"custom_id": "item-000001", "prompt": "twice"}\n', encoding="utf-8")
    with pytest.raises(BatchInputError, match=r"2 of 3 items.*line 2: .*no JSON.*line 3: .*taken by item 1"):
        SyncFoundryAPIClient(stub.url).complete_batch(path, output=tmp_path / "out.jsonl")
    path.write_text("\n\n", encoding="utf-8")
    with pytest.raises(BatchInputError, match="holds no items"):
        SyncFoundryAPIClient(stub.url).complete_batch(path, output=tmp_path / "out.jsonl")
    assert stub.seen == []
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("make", [Path.mkdir, getattr(os, "mkfifo", Path.mkdir)])
def test_an_input_that_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """It would be waited for what is written into a pipe, and after that for another writer."""
    make(tmp_path / "in.txt")
    with pytest.raises(BatchInputError, match="is a folder, a device or a pipe; name a file"):
        read(tmp_path / "in.txt")
