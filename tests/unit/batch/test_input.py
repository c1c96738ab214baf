"""What may stand in a batch, and what is refused before the first request."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_tools import asked, ids, names_in, rows
from stub_server import CHAT, MODEL, StubService, hang

from foundry_lab import FoundryAPIClient, SyncFoundryAPIClient
from foundry_lab.batch.items import BatchInputError
from foundry_lab.errors import (
    ConfigurationError,
)

PICTURE = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "data:,"}}]


def asks(**body: Any) -> dict[str, Any]:
    """Return a line of the OpenAI Batch format."""
    return {"custom_id": "x", "body": {"messages": [{"role": "user", "content": "a"}], **body}}


async def test_items_may_be_arguments_or_lines_of_the_openai_format(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    items = [
        "plain",
        {"prompt": "named", "custom_id": "mine", "seed": 4, "temperature": 0.5},
        {"messages": [{"role": "user", "content": "talk"}]},
        {
            "custom_id": "theirs",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": MODEL, "messages": [{"role": "user", "content": "line"}], "foo": [1]},
        },
    ]
    output = tmp_path / "out.jsonl"
    await client.complete_batch(items, output=output, ordered=True, temperature=0, system="be brief")
    assert ids(output) == ["item-000001", "mine", "item-000003", "theirs"]
    sent = {seen.json["messages"][-1]["content"]: seen.json for seen in stub.seen if seen.path == CHAT}
    assert sent["plain"]["messages"][0] == {"role": "system", "content": "be brief"}
    assert (sent["named"]["seed"], sent["named"]["temperature"]) == (4, 0.5)
    assert (sent["line"]["foo"], sent["line"]["temperature"], sent["line"]["model"]) == ([1], 0, MODEL)


async def test_the_input_is_never_read_ahead(client: FoundryAPIClient, stub: StubService) -> None:
    taken = 0

    def items() -> Iterator[str]:
        nonlocal taken
        for number in range(50):
            taken = number + 1
            assert taken <= asked(stub) + 4
            yield str(number)

    assert (await client.complete_batch(items(), concurrency=3)).done == 50


async def test_an_async_iterator_is_read_by_one_worker_at_a_time(client: FoundryAPIClient) -> None:
    async def items() -> AsyncIterator[str]:
        for number in range(20):
            await asyncio.sleep(0.001)
            yield str(number)

    report = await client.complete_batch(items(), concurrency=4)
    assert (report.total, report.done) == (20, 20)


async def test_an_input_that_breaks_off_saves_what_is_done(client: FoundryAPIClient, tmp_path: Path) -> None:
    def items() -> Iterator[str]:
        yield "one"
        yield "two"
        raise OSError("the database went away")

    with pytest.raises(OSError, match="went away"):
        await client.complete_batch(items(), output=tmp_path / "out.jsonl", concurrency=1)
    assert len(ids(tmp_path / "out.jsonl")) == 2


async def test_an_input_that_breaks_off_leaves_no_worker_behind(
    client: FoundryAPIClient, stub: StubService
) -> None:
    """One that went on would write to an output that is closed."""
    stub.on("POST", CHAT, hang)

    def items() -> Iterator[str]:
        yield "one"
        raise OSError("the database went away")

    with pytest.raises(OSError, match="went away"):
        await client.complete_batch(items(), concurrency=2)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (
            ["a", {"prompt": "b", "custom_id": "item-000001"}],
            "item 2: The custom_id 'item-000001' is taken by item 1",
        ),
        ([{"prompt": "a", "custom_id": ""}], "custom_id is ''"),
        ([{"prompt": "a", "custom_id": 7}], "custom_id is '7'"),
        ([{"prompt": "a", "max_tokns": 5}], "Did you mean max_tokens"),
        ([{"prompt": "a", "max_tokens": "5"}], "must be a whole number"),
        ([{"prompt": "a", "extra_body": {"x": [float("nan")]}}], "NaN"),
        ([{"prompt": "a", "temperature": float("inf")}], "finite number"),
        ([{"text": "a"}], "need a template"),
        ([{"custom_id": "x", "url": "/v1/embeddings", "body": {}}], "url is '/v1/embeddings'"),
        ([{"custom_id": "x", "method": "GET", "body": {}}], "method is 'GET'"),
        ([{"body": {"messages": [{"role": "user", "content": "a"}]}}], "no custom_id"),
        ([{"custom_id": "x", "body": {"messages": "a"}}], "must be a list with at least"),
        (
            [{"custom_id": "x", "body": {"messages": [{"role": "user", "content": "a"}], "stream": True}}],
            "stream",
        ),
        ([{"custom_id": "x", "url": "/v1/completions", "body": {}}], "url is '/v1/completions'"),
        ([{"custom_id": "x", "url": 7, "body": {}}], "url is 7"),
        ([asks(n=2)], "n is 2, which the service leaves out without a word"),
        ([asks(logprobs=True, top_logprobs=3)], "logprobs is True, which"),
        ([{"prompt": "a", "extra_body": {"top_logprobs": 2}}], "top_logprobs is 2, which"),
        ([asks(messages=[{"role": "user", "content": PICTURE}])], "a part of type 'image_url', which"),
        ([{"messages": [{"role": "user", "content": PICTURE}]}], "a part of type 'image_url', which"),
        ([{"custom_id": "x", "body": []}], "body isn't a JSON object"),
        ([{"custom_id": "x", "body": {}, "nonsense": 1}], "no field 'nonsense'"),
        ([7], "An item is '7', of type int"),
        (["half \ud800 a character"], "surrogates not allowed"),
        ("one text", "items is one text"),
        (b"in.csv", r"pathlib\.Path\('in\.csv'\)"),  # of bytes, Path takes none
        (Path(), r"^\.: the ending says what a file holds"),  # it began with the colon
        (7, "items is a int"),
        ({"prompt": "a", "max_tokens": 3}, "one dict. Put it in a list"),
        ([{1: "a", "prompt": "b"}], "a field named 1"),
    ],
)
async def test_bad_input_is_refused_whole(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path, items: Any, words: str
) -> None:
    with pytest.raises(BatchInputError, match=words):
        await client.complete_batch(items, output=tmp_path / "out.jsonl")
    assert stub.seen == []
    assert names_in(tmp_path) == []


async def test_every_problem_is_named(client: FoundryAPIClient) -> None:
    with pytest.raises(BatchInputError, match=r"5 of 6 items.*item 1.*item 2.*item 3.*And 2 more") as caught:
        await client.complete_batch([1, 2, 3, 4, 5, "good"])
    assert len(caught.value.problems) == 5


async def test_bad_items_of_an_iterator_are_recorded(client: FoundryAPIClient, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    items: list[Any] = ["a", {"prompt": "b", "max_tokens": "5"}, {"prompt": "c", "custom_id": "item-000001"}]
    report = await client.complete_batch(iter(items), output=output)
    assert (report.done, report.failures) == (1, {"invalid_item": 2})
    assert sorted(ids(output)) == ["item-000001", "item-000001#3", "item-000002"]
    (row,) = [row for row in rows(output) if row["custom_id"] == "item-000001#3"]
    assert "taken by item 1" in row["error"]["message"]
    again = await client.complete_batch(iter(items), output=output)
    assert (again.skipped, again.failed_before) == (3, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"concurency": 3}, "Did you mean concurrency"),
        ({"concurrency": 0}, "whole number from 1"),
        ({"concurrency": "many"}, "adaptive"),
        ({"messages": []}, "the same for every item"),
        ({"max_tokns": 3}, "Did you mean max_tokens"),
        ({"retries": 3}, "belongs to the client"),
        ({"endpoint": "http://127.0.0.1:9"}, "Did you mean endpoints"),
        ({"base_url": "http://127.0.0.1:9"}, "Did you mean endpoints"),
        ({"zzz": 3}, "There are: cache, .*wait_for_service"),
        ({"endpoints": ["nonsense"]}, "not a service address"),
        ({"wait_for_service": -1}, "not a time limit"),
        ({"template": "no place"}, "names no column"),
        ({"template": "{"}, "can't be read"),
        ({"template": 5}, "is no text"),
        ({"template": "{text!r}"}, "like {text}, with nothing after it"),
        ({"template": "{text:>20}"}, "like {text}, with nothing after it"),
        ({"output": 5}, "can't be a file"),
        ({"endpoints": 5}, "endpoints must be"),
        ({"endpoints": []}, "endpoints must be"),
    ],
)
async def test_options_that_cannot_be_used_are_refused(
    client: FoundryAPIClient, stub: StubService, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        await client.complete_batch(["a"], **options)
    assert stub.seen == []


async def test_batch_lines_given_as_text_are_those_lines(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    line = {"custom_id": "q1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    path = tmp_path / "batch.jsonl"
    path.write_text(json.dumps(line) + "\n" + json.dumps(line | {"custom_id": "q2"}) + "\n")
    with path.open() as file:
        report = await client.complete_batch(file)
    assert [result.custom_id for result in report.results()] == ["q1", "q2"]
    assert stub.seen[-1].json["messages"] == body["messages"]
    prompts = [
        '{"a": 1}',
        "{",
        json.dumps(line | {"more": 1}),
        '{"custom_id": "x"}',
    ]  # JSON, but no such line
    await client.complete_batch(prompts)
    sent = {seen.json["messages"][0]["content"] for seen in stub.seen if seen.path == CHAT}
    assert sent == {"hi", *prompts}


async def test_fields_that_change_nothing_are_sent(client: FoundryAPIClient, stub: StubService) -> None:
    text = [{"type": "text", "text": "hi"}]
    line = asks(n=1, logprobs=False, top_logprobs=None, messages=[{"role": "user", "content": text}])
    assert (await client.complete_batch([line])).done == 1
    with pytest.raises(ConfigurationError, match="n is 3, which the service leaves out"):
        await client.complete_batch(["a"], extra_body={"n": 3})


async def test_bad_items_can_be_skipped_and_each_has_an_error_line(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    bad = [asks(n=2) | {"custom_id": "two"}, asks() | {"custom_id": "one"}]
    lines = [asks() | {"custom_id": "one"}, *bad, asks() | {"custom_id": "last"}]
    source.write_text("\n".join([*map(json.dumps, lines), "{broken"]) + "\n")
    with pytest.raises(BatchInputError, match=r"3 of 5 items.*run the others all the same: skip_bad=True"):
        await client.complete_batch(source, output=output)
    report = await client.complete_batch(source, output=output, skip_bad=True, ordered=True)
    assert (report.total, report.done, report.failures) == (5, 2, {"invalid_item": 3})
    assert ids(output) == ["one", "two", "one#3", "last", "item-000005"]
    words = [row["error"] and row["error"]["message"] for row in rows(output)]
    assert [word is None for word in words] == [True, False, False, True, False]
    assert "n is 2" in words[1] and "taken by item 1" in words[2] and "no JSON" in words[4]
    assert {row["error"]["code"] for row in rows(output) if row["error"]} == {"invalid_item"}
    again = await client.complete_batch(source, output=output, skip_bad=True)
    assert (again.skipped, again.failed_before, asked(stub)) == (5, 3, 2)
    source.write_text(source.read_text().replace('"n": 2', '"n": 1'))
    mended = await client.complete_batch(source, output=output, skip_bad=True)
    assert (mended.skipped, mended.done) == (4, 1)


async def test_if_no_item_can_be_used_skipping_them_is_no_batch(
    client: FoundryAPIClient, tmp_path: Path
) -> None:
    with pytest.raises(BatchInputError, match="2 of 2 items can't be used"):
        await client.complete_batch([7, asks(n=2)], output=tmp_path / "out.jsonl", skip_bad=True)
    assert names_in(tmp_path) == []


def test_an_input_that_ends_the_program_ends_it(stub: StubService, tmp_path: Path) -> None:
    """As a script does that finds its data bad: the batch hung."""

    def items() -> Iterator[str]:
        yield "a"
        yield "b"
        sys.exit("bad data")

    client = SyncFoundryAPIClient(stub.url)
    with pytest.raises(SystemExit, match="bad data"):
        client.complete_batch(items(), output=tmp_path / "out.jsonl", concurrency=1)
    assert ids(tmp_path / "out.jsonl") == ["item-000001", "item-000002"]
    assert names_in(tmp_path) == ["out.jsonl"]
    client.close()
