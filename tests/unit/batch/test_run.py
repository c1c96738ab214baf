"""Batches: every item's result in the output exactly once, whatever happens."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import math
import os
import pickle
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from clients import Client, both_clients
from stub_server import CHAT, MODEL, StubService, chat, chat_body, drop, error, hang, reply

from foundry_lab import FoundryAPIClient, RetryPolicy
from foundry_lab.batch.index import Index
from foundry_lab.batch.items import BatchInputError
from foundry_lab.batch.output import BatchOutputError
from foundry_lab.batch.report import MAX_SAMPLES, BatchReport, BatchStoppedError
from foundry_lab.batch.result import Outcome
from foundry_lab.batch.scratch import ScratchOutput
from foundry_lab.errors import (
    ConfigurationError,
    FoundryError,
    ModelNotFoundError,
    ModelNotLoadedError,
    ServiceUnavailableError,
)
from foundry_lab.metrics import Metrics

QUICK = RetryPolicy(retries=1, backoff_initial_s=0.01)


@pytest.fixture
def stub() -> Iterator[StubService]:
    with StubService() as service:
        yield service


@pytest.fixture
async def client(stub: StubService) -> AsyncIterator[FoundryAPIClient]:
    async with FoundryAPIClient(stub.url, retry=QUICK) as client:
        yield client


def asked(stub: StubService) -> int:
    return stub.count("POST", CHAT)


def prompts_asked(stub: StubService) -> list[str]:
    return [seen.json["messages"][-1]["content"] for seen in stub.seen if seen.path == CHAT]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def ids(path: Path) -> list[str]:
    return [row["custom_id"] for row in rows(path)]


def content(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def by_prompt(request: web.Request, stop: asyncio.Event) -> web.StreamResponse:
    """Answer in a way that the prompt asks for."""
    prompt = (await request.json())["messages"][-1]["content"]
    if prompt.startswith("slow"):
        await asyncio.sleep(0.2)
    if prompt.startswith("bad"):
        return await error(400, "no such thing")(request, stop)
    if prompt.startswith("broken"):
        return await error(500, "it broke", "server_error")(request, stop)
    return web.json_response(chat_body(f"re: {prompt}"))


# --- what goes in and what comes out --------------------------------------------------------------------


@both_clients
def test_prompts_in_and_result_lines_out(stub: StubService, tmp_path: Path, kind: str) -> None:
    output = tmp_path / "ä results.jsonl"
    with Client(kind, stub.url) as client:
        report = client.complete_batch(["one", "two", "three"], output=output, max_tokens=9, temperature=0)
    assert sorted(ids(output)) == ["item-000001", "item-000002", "item-000003"]
    row = rows(output)[0]
    assert set(row) == {"id", "custom_id", "response", "error"}
    assert row["id"].startswith("batch_req_")
    assert row["error"] is None
    assert row["response"]["status_code"] == 200
    assert row["response"]["request_id"]
    assert row["response"]["body"] == chat_body("hello")
    sent = next(seen for seen in stub.seen if seen.path == CHAT).json
    assert (sent["model"], sent["max_tokens"], sent["temperature"]) == (MODEL, 9, 0)
    assert (report.total, report.done, report.failed, report.skipped) == (3, 3, 0, 0)
    assert (report.prompt_tokens, report.completion_tokens) == (15, 9)
    assert report.output == output
    assert [result.content for result in report.results()] == ["hello"] * 3
    assert list(tmp_path.iterdir()) == [output]  # no lock, no part is left


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


async def test_without_an_output_the_results_are_in_the_report(client: FoundryAPIClient) -> None:
    report = await client.complete_batch(["one", "two"])
    assert report.output is None
    assert [result.content for result in report.results()] == ["hello", "hello"]


@pytest.mark.skipif(
    os.name != "posix", reason="Windows removes the file when it is closed, or the process ends"
)
async def test_without_an_output_no_file_is_left_even_if_the_kernel_is_killed(
    client: FoundryAPIClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    report = await client.complete_batch(["one", "two"], ordered=True)
    assert content(tmp_path) == []  # while the results are still there
    assert len(list(report.results())) == 2


async def test_results_without_an_output_are_read_whole_and_in_order_on_request(
    client: FoundryAPIClient, stub: StubService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundry_lab.batch.scratch._CHUNK", 100)  # lines lie across the edges
    stub.on("POST", CHAT, by_prompt)
    prompts = [f"{'slow' if n % 4 == 0 else 'quick'} {n}" for n in range(12)]
    finished = await client.complete_batch(prompts)
    ordered = await client.complete_batch(prompts, ordered=True)
    names = [f"item-{number:06}" for number in range(1, 13)]
    assert [result.custom_id for result in ordered.results()] == names
    assert sorted(result.custom_id for result in finished.results()) == sorted(names)
    both = zip(ordered.results(), ordered.results(), strict=True)  # two readers at once
    assert all(one == other for one, other in both)


async def test_without_an_output_and_without_room_it_says_so(
    client: FoundryAPIClient, stub: StubService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(BatchOutputError, match=r"No space left on device.*output="):
        await client.complete_batch(["one"])
    assert stub.count("POST", CHAT) == 0


async def test_the_output_is_in_the_order_of_the_input_on_request(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    stub.on("POST", CHAT, by_prompt)
    prompts = [f"{'slow' if n % 4 == 0 else 'quick'} {n}" for n in range(12)]
    for ordered, name in ((False, "a.jsonl"), (True, "b.jsonl")):
        await client.complete_batch(prompts, output=tmp_path / name, ordered=ordered, concurrency=4)
    assert ids(tmp_path / "a.jsonl") != sorted(ids(tmp_path / "a.jsonl"))
    assert ids(tmp_path / "b.jsonl") == sorted(ids(tmp_path / "a.jsonl"))


async def test_answers_are_validated(client: FoundryAPIClient, stub: StubService) -> None:
    class Label(msgspec.Struct):
        label: str

    stub.on("POST", CHAT, chat('{"label": "good"}'), chat("nothing of the kind"))
    report = await client.complete_batch(
        ["one", "two"], concurrency=1, response_model=Label, parse_attempts=2
    )
    good, bad = report.results()
    assert good.completion is not None
    assert good.completion.parsed == Label("good")
    assert bad.error is not None
    assert bad.error.code == "structured_output"
    assert bad.content == "nothing of the kind"  # what it did say is kept
    assert report.failures == {"structured_output": 1}


async def test_a_parser_that_fails_stops_nothing(client: FoundryAPIClient) -> None:
    def parser(text: str) -> str:
        raise KeyError(text)

    report = await client.complete_batch(["one", "two"], parser=parser)
    assert report.failed == 2
    assert all(result.error and "KeyError" in result.error.message for result in report.results())


async def test_a_parser_that_refuses_an_earlier_runs_answer_is_an_error_of_that_item(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    stub.on("POST", CHAT, chat("12"), chat("twelve"))
    for parser in (str, int):  # a parser is no part of the request, so the second run has nothing to ask
        report = await client.complete_batch(
            ["a", "b"], output=tmp_path / "out.jsonl", parser=parser, ordered=True, concurrency=1
        )
    good, bad = report.results()
    assert good.completion is not None
    assert good.completion.parsed == 12
    assert bad.error is not None
    assert bad.content == "twelve"
    assert "earlier run, and doesn't fit int of this one (ValueError: invalid" in bad.error.message


async def test_results_claim_no_latency(client: FoundryAPIClient) -> None:
    """The format has no place for it, and 0 s would be believed."""
    (result,) = (await client.complete_batch(["a"])).results()
    assert result.completion is not None
    assert math.isnan(result.completion.latency_s)


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


@pytest.mark.parametrize("concurrency", [1, 2, 5])
async def test_no_more_than_the_allowed_requests_are_under_way(
    client: FoundryAPIClient, stub: StubService, concurrency: int
) -> None:
    stub.on("POST", CHAT, chat(delay_s=0.1))
    await client.complete_batch([str(n) for n in range(20)], concurrency=concurrency)
    assert stub.most_at_once == concurrency


async def test_an_empty_list_is_an_empty_report(client: FoundryAPIClient) -> None:
    report = await client.complete_batch([])
    assert (report.total, report.done) == (0, 0)
    assert "0 answered" in str(report)


# --- resume ---------------------------------------------------------------------------------------------


async def test_what_is_done_is_not_asked_again(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    await client.complete_batch(["a", "b"], output=output)
    report = await client.complete_batch(["a", "b", "c"], output=output)
    assert (report.total, report.skipped, report.done) == (3, 2, 1)
    assert sorted(prompts_asked(stub)) == ["a", "b", "c"]
    assert len(set(ids(output))) == len(ids(output)) == 3


async def test_a_changed_request_runs_again_and_replaces_its_result(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    stub.on("POST", CHAT, by_prompt)
    output = tmp_path / "out.jsonl"
    await client.complete_batch(["a", "b"], output=output)
    report = await client.complete_batch(["a", "B"], output=output)
    assert (report.skipped, report.done) == (1, 1)
    texts = {
        row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"] for row in rows(output)
    }
    assert texts == {"item-000001": "re: a", "item-000002": "re: B"}
    assert len(rows(output)) == 2


async def test_results_of_other_requests_under_the_same_names_are_kept_aside(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    """A changed template, or another batch that counts its requests from 0 as well: nobody can tell."""
    stub.on("POST", CHAT, by_prompt)
    output, backup = tmp_path / "out.jsonl", tmp_path / "out.jsonl.bak"
    old: list[bytes] = []
    for word, items_of in (("A", list), ("B", list), ("C", iter)):
        items = [{"custom_id": f"request-{n}", "prompt": f"{word}{n}"} for n in range(3)]
        report = await client.complete_batch(items_of(items), output=output)  # type: ignore[operator]
        assert (report.done, report.replaced) == (3, len(old) and 3)
        assert sorted(ids(output)) == ["request-0", "request-1", "request-2"]
        kept = backup.read_bytes() if backup.exists() else b""
        assert [line for line in kept.splitlines(keepends=True) if line != b"\n"] == old
        old += output.read_bytes().splitlines(keepends=True)
    assert f"3 of other requests, kept in {backup}" in str(report)


async def test_an_answer_to_the_same_request_is_not_kept_aside(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    stub.on("POST", CHAT, error(400, "no"), chat())
    await client.complete_batch(["a"], output=tmp_path / "out.jsonl")
    await client.complete_batch(["a"], output=tmp_path / "out.jsonl", retry_failed=True)
    assert files_in(tmp_path) == [tmp_path / "out.jsonl"]


async def test_an_iterator_of_another_batch_is_refused(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    await client.complete_batch(iter(["a", "b"]), output=output)
    before, sent = output.read_bytes(), asked(stub)

    async def stream() -> AsyncIterator[str]:
        for prompt in ("c", "d", "e", "f"):
            yield prompt

    for items in (iter(["c", "d", "e", "f"]), stream()):
        with pytest.raises(BatchOutputError, match=r"2 results of another batch: item 1 .*another output or"):
            await client.complete_batch(items, output=output)
        assert (output.read_bytes(), asked(stub)) == (before, sent)
    report = await client.complete_batch(iter(["a", "changed", "c"]), output=output)
    assert (report.skipped, report.done, report.replaced) == (1, 2, 1)


async def test_a_finished_batch_needs_no_service(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with StubService() as stub:
        async with FoundryAPIClient(stub.url) as client:
            await client.complete_batch(["a", "b"], output=output)
            url = stub.url
    async with FoundryAPIClient(url) as client:
        assert (await client.complete_batch(["a", "b"], output=output)).skipped == 2


async def test_an_iterator_is_resumed_too(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    await client.complete_batch(iter(["a", "b"]), output=output)
    report = await client.complete_batch(iter(["a", "b", "c"]), output=output)
    assert (report.skipped, report.done) == (2, 1)
    assert sorted(prompts_asked(stub)) == ["a", "b", "c"]


async def test_failed_items_are_results_and_run_again_on_request(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    stub.on("POST", CHAT, by_prompt)
    output = tmp_path / "out.jsonl"
    report = await client.complete_batch(["a", "bad b"], output=output)
    assert report.failures == {"http_400": 1}
    (row,) = [row for row in rows(output) if row["error"]]
    assert row["error"]["code"] == "http_400"
    assert row["response"]["status_code"] == 400
    assert row["response"]["body"]["error"]["message"] == "no such thing"

    for items in (["a", "bad b"], iter(["a", "bad b"])):
        report = await client.complete_batch(items, output=output)
        assert (report.skipped, report.failed_before) == (2, 1)
        assert "2 done before, 1 of them failed" in str(report)
        assert "1 before this run; retry_failed=True runs these again" in str(report)
    stub.on("POST", CHAT, chat("fine now"))
    before = asked(stub)
    report = await client.complete_batch(["a", "bad b"], output=output, retry_failed=True)
    assert (report.skipped, report.done, asked(stub) - before) == (1, 1, 1)
    assert not any(row["error"] for row in rows(output))
    assert len(rows(output)) == 2


async def test_a_half_written_line_is_cut_and_runs_again(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    await client.complete_batch(["a", "b", "c"], output=output, concurrency=1)
    whole = output.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in (1, 15, 40, len(lines[2]) - 1):
        output.write_bytes(b"".join(lines[:2]) + lines[2][:cut])
        report = await client.complete_batch(["a", "b", "c"], output=output)
        assert (report.skipped, report.done) == (2, 1)
        assert len(rows(output)) == 3


async def test_zeros_after_a_power_cut_are_cut_off(client: FoundryAPIClient, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    await client.complete_batch(["a", "b"], output=output)
    output.write_bytes(output.read_bytes() + b"\0" * 4096)
    assert (await client.complete_batch(["a", "b"], output=output)).skipped == 2
    assert len(rows(output)) == 2


# --- failures -------------------------------------------------------------------------------------------


async def test_bad_items_never_stop_the_batch(client: FoundryAPIClient, stub: StubService) -> None:
    stub.on("POST", CHAT, by_prompt)
    prompts = [f"{('bad', 'broken', 'good', 'good')[n % 4]} {n}" for n in range(24)]
    report = await client.complete_batch(prompts, timeout=5)
    assert (report.done, report.failed) == (12, 12)
    assert report.failures == {"http_400": 6, "http_500": 6}


async def test_only_broken_items_are_all_recorded_while_the_service_proves_well(
    client: FoundryAPIClient, stub: StubService
) -> None:
    async def answer(request: web.Request, stop: asyncio.Event) -> web.StreamResponse:
        is_probe = (await request.json())["messages"][-1]["content"] == "Hi"
        return await (chat("x") if is_probe else error(500, "tools aren't there", "server_error"))(
            request, stop
        )

    stub.on("POST", CHAT, answer)
    report = await client.complete_batch([str(n) for n in range(12)])
    assert report.failures == {"http_500": 12}


async def test_a_broken_service_does_not_burn_through_the_items(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    stub.on("POST", CHAT, error(500, "broken for good", "server_error"))
    items = [str(n) for n in range(100)]
    with pytest.raises(
        BatchStoppedError, match=r"No service worked for 0\.5 s.*run the same batch again"
    ) as caught:
        await client.complete_batch(items, output=tmp_path / "out.jsonl", wait_for_service=0.5)
    assert 5 <= caught.value.report.failed <= 8
    stub.on("POST", CHAT, chat("well again"))
    report = await client.complete_batch(items, output=tmp_path / "out.jsonl", retry_failed=True)
    assert report.done == 100
    assert len(set(ids(tmp_path / "out.jsonl"))) == 100


@pytest.mark.parametrize("named", [True, False])
async def test_a_stopped_batchs_error_gets_out_of_a_process_with_its_report(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path, named: bool
) -> None:
    stub.on("POST", CHAT, chat("fine"), error(500, "broken for good", "server_error"))
    output = tmp_path / "out.jsonl" if named else None
    with pytest.raises(BatchStoppedError) as caught:
        await client.complete_batch(
            [str(n) for n in range(100)], output=output, wait_for_service=0.2, parser=lambda text: text
        )
    report = pickle.loads(pickle.dumps(caught.value)).report
    assert str(report) == str(caught.value.report)
    if named:
        assert sum(result.error is None for result in report.results()) == 1
    else:
        with pytest.raises(FoundryError, match="only the report that the batch returned"):
            list(report.results())


async def test_a_service_that_answers_only_its_status_does_not_burn_through_the_items(
    client: FoundryAPIClient, stub: StubService
) -> None:
    stub.on("POST", CHAT, drop)
    with pytest.raises(BatchStoppedError, match="No service worked") as caught:
        await client.complete_batch([str(n) for n in range(100)], wait_for_service=0.5)
    assert caught.value.report.failed <= 4


async def test_one_item_that_takes_too_long_is_recorded(client: FoundryAPIClient, stub: StubService) -> None:
    stub.on("POST", CHAT, hang, chat("fine"))
    report = await client.complete_batch(["a", "b", "c"], timeout=3, concurrency=1)
    assert report.failures == {"timeout": 1}
    assert report.done == 2


async def test_a_dropped_connection_is_tried_again(client: FoundryAPIClient, stub: StubService) -> None:
    stub.on("POST", CHAT, drop, chat("fine"))
    report = await client.complete_batch(["a", "b"], concurrency=1)
    assert (report.done, report.failed) == (2, 0)


async def test_an_item_that_kills_the_service_every_time_is_recorded(
    client: FoundryAPIClient, stub: StubService
) -> None:
    async def answer(request: web.Request, stop: asyncio.Event) -> web.StreamResponse:
        prompt = (await request.json())["messages"][-1]["content"]
        return await (drop if prompt == "poison" else chat("fine"))(request, stop)

    stub.on("POST", CHAT, answer)
    report = await client.complete_batch(["a", "poison", "b"])
    assert report.failures == {"unavailable": 1}
    assert report.done == 2


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_two_items_that_kill_the_service_do_not_stop_the_batch(
    client: FoundryAPIClient, stub: StubService, concurrency: int
) -> None:
    stub.on("POST", CHAT, drop)
    report = await client.complete_batch(["a", "b"], concurrency=concurrency, wait_for_service=30)
    assert report.failures == {"unavailable": 2}


async def test_what_was_done_before_counts_however_early_a_batch_is_stopped(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [{"custom_id": f"i{n}", "prompt": str(n)} for n in range(20)]
    await client.complete_batch(items[3:], output=tmp_path / "out.jsonl")
    stub.on("POST", CHAT, hang)
    before = asked(stub)
    batch = asyncio.create_task(client.complete_batch(items, output=tmp_path / "out.jsonl"))
    await until(lambda: asked(stub) > before)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert "17 of 20 results are in" in capsys.readouterr().err


async def test_a_model_unloaded_in_mid_batch_is_waited_for(
    client: FoundryAPIClient, stub: StubService
) -> None:
    stub.on(
        "POST",
        CHAT,
        chat("one"),
        error(400, f"Model not loaded: Model '{MODEL}' must be loaded"),
        chat("two"),
    )
    report = await client.complete_batch(["a", "b", "c"], concurrency=1)
    assert (report.done, report.failed) == (3, 0)


async def test_a_service_that_goes_away_is_waited_for(tmp_path: Path) -> None:
    """The stub is stopped and a new one takes its port: the batch pauses and loses nothing."""
    first = StubService()
    first.on("POST", CHAT, chat("first", delay_s=0.02))
    first.__enter__()
    metrics = Metrics()
    async with FoundryAPIClient(first.url, retry=QUICK, metrics=metrics) as client:
        items = [str(n) for n in range(60)]
        batch = asyncio.create_task(client.complete_batch(items, output=tmp_path / "out.jsonl"))
        await until(lambda: asked(first) >= 10)
        await asyncio.to_thread(first.__exit__)
        await asyncio.sleep(0.5)
        assert not batch.done()
        with StubService(port=int(first.url.rpartition(":")[2])) as second:
            report = await batch
            assert asked(second) >= 40
    assert (report.done, report.failed) == (60, 0)
    assert len(set(ids(tmp_path / "out.jsonl"))) == 60
    queue = metrics.snapshot().queue_wait
    assert queue.count >= 60 and queue.p50 < 0.1 and queue.p99 > 0.2, (
        "those in hand have waited, and only they"
    )
    assert f"foundry_lab_queue_wait_seconds_count {queue.count}.0" in metrics.text()


async def until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110 - the stub lives in another thread
        await asyncio.sleep(0.005)


async def test_a_service_that_stays_away_stops_the_batch(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    stub = StubService()
    stub.on("POST", CHAT, chat(delay_s=0.02))
    stub.__enter__()
    async with FoundryAPIClient(stub.url, retry=QUICK) as client:
        items = [str(n) for n in range(60)]
        batch = asyncio.create_task(client.complete_batch(items, output=output, wait_for_service=0.5))
        await until(lambda: asked(stub) >= 10)
        await asyncio.to_thread(stub.__exit__)
        with pytest.raises(
            BatchStoppedError, match=r"of 60 results are in .*run the same batch again"
        ) as caught:
            await batch
    assert caught.value.report.done == len(ids(output)) >= 8
    assert caught.value.report.failed == 0


async def test_cancelling_saves_and_says_how_to_go_on(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.on("POST", CHAT, chat(delay_s=0.02))
    output = tmp_path / "out.jsonl"
    items = [str(n) for n in range(50)]
    batch = asyncio.create_task(client.complete_batch(items, output=output))
    await until(lambda: asked(stub) >= 10)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert "of 50 results are in" in capsys.readouterr().err
    done = len(ids(output))
    assert 8 <= done < 50
    report = await client.complete_batch(items, output=output)
    assert (report.skipped, report.done) == (done, 50 - done)
    assert len(set(ids(output))) == 50


# --- refused before the first request -------------------------------------------------------------------


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
        ([{"prompt": "a", "temperature": float("inf")}], "infinity"),
        ([{"text": "a"}], "need a template"),
        ([{"custom_id": "x", "url": "/v1/embeddings", "body": {}}], "url is '/v1/embeddings'"),
        ([{"custom_id": "x", "method": "GET", "body": {}}], "method is 'GET'"),
        ([{"body": {"messages": [{"role": "user", "content": "a"}]}}], "no custom_id"),
        ([{"custom_id": "x", "body": {"messages": "a"}}], "isn't a list of messages"),
        (
            [{"custom_id": "x", "body": {"messages": [{"role": "user", "content": "a"}], "stream": True}}],
            "stream",
        ),
        ([{"custom_id": "x", "body": []}], "body isn't a JSON object"),
        ([{"custom_id": "x", "body": {}, "nonsense": 1}], "no field 'nonsense'"),
        ([7], "An item is '7', of type int"),
        (["half \ud800 a character"], "surrogates not allowed"),
        ("one text", "items is one text"),
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
    assert files_in(tmp_path) == []


async def test_every_problem_is_named(client: FoundryAPIClient) -> None:
    with pytest.raises(BatchInputError, match=r"5 of 6 items.*item 1.*item 2.*item 3.*And 2 more") as caught:
        await client.complete_batch([1, 2, 3, 4, 5, "good"])
    assert len(caught.value.problems) == 5


async def test_bad_items_of_an_iterator_are_recorded(client: FoundryAPIClient, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    items: list[Any] = ["a", {"prompt": "b", "max_tokens": "5"}, {"prompt": "c", "custom_id": "item-000001"}]
    report = await client.complete_batch(iter(items), output=output)
    assert (report.done, report.failures) == (1, {"invalid_item": 1})
    assert len(report.problems) == 1
    assert "taken by item 1" in report.problems[0]
    assert sorted(ids(output)) == ["item-000001", "item-000002"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"concurency": 3}, "Did you mean concurrency"),
        ({"concurrency": 0}, "whole number from 1"),
        ({"concurrency": "many"}, "adaptive"),
        ({"messages": []}, "the same for every item"),
        ({"max_tokns": 3}, "Did you mean max_tokens"),
        ({"endpoints": ["nonsense"]}, "not a service address"),
        ({"wait_for_service": -1}, "not a time limit"),
        ({"template": "no place"}, "names no column"),
        ({"template": "{"}, "can't be read"),
        ({"template": 5}, "is no text"),
        ({"template": "{text!r}"}, "like {text}, with nothing after it"),
        ({"template": "{text:>20}"}, "like {text}, with nothing after it"),
        ({"output": 5}, "is no path"),
        ({"endpoints": 5}, "endpoints=5"),
        ({"endpoints": []}, "endpoints=\\[\\]"),
    ],
)
async def test_options_that_cannot_be_used_are_refused(
    client: FoundryAPIClient, stub: StubService, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        await client.complete_batch(["a"], **options)
    assert stub.seen == []


async def test_a_model_that_is_not_there_is_refused(client: FoundryAPIClient, stub: StubService) -> None:
    with pytest.raises(ModelNotFoundError, match="It has: stub-1b"):
        await client.complete_batch(["a", {"prompt": "b", "model": "gpt-4o"}])
    stub.on("GET", "/models/loaded", reply(200, []))
    with pytest.raises(ModelNotLoadedError, match="Load it first"):
        await client.complete_batch(["a"], model=MODEL)
    assert asked(stub) == 0


async def test_no_service_to_begin_with_is_said_at_once(tmp_path: Path) -> None:
    async with FoundryAPIClient("http://127.0.0.1:9", retry=QUICK) as client:
        with pytest.raises(ServiceUnavailableError, match="Nobody answers"):
            await client.complete_batch(["a"], output=tmp_path / "out.jsonl")


async def test_the_output_of_something_else_is_refused_and_left_alone(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    for content in ("my precious notes\n", "my precious notes", '{"id": 1}\n', '["a"]\n{"b": 2}\n', "x\0y"):
        output.write_text(content)
        with pytest.raises(BatchOutputError, match=r"Line 1 of .* is no result of a batch"):
            await client.complete_batch(["a"], output=output)
        assert output.read_text() == content
    assert stub.seen == []


async def test_the_output_of_another_batch_is_refused_and_left_alone(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    await client.complete_batch(["a", "b"], output=output)
    before, sent = output.read_bytes(), asked(stub)
    named = [{"custom_id": "x", "prompt": "a"}]
    for items in (["c", "d"], named):
        with pytest.raises(BatchOutputError, match="of another batch"):
            await client.complete_batch(items, output=output)
    with pytest.raises(BatchOutputError, match="resume is off"):
        await client.complete_batch(["a", "b"], output=output, resume=False)
    assert (output.read_bytes(), asked(stub)) == (before, sent)


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


async def test_outputs_that_cannot_be_written_are_refused(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    items = tmp_path / "items.txt"
    items.write_text("a\n")
    with pytest.raises(BatchOutputError, match="doesn't exist"):
        await client.complete_batch(["a"], output=tmp_path / "missing" / "out.jsonl")
    for folder in (tmp_path, "", "/"):
        with pytest.raises(BatchOutputError, match="can't be used: it is a folder"):
            await client.complete_batch(["a"], output=folder)
    with pytest.raises(BatchInputError, match="is the input"):
        await client.complete_batch(items, output=items)
    assert items.read_text() == "a\n"
    assert stub.seen == []


@pytest.mark.skipif(os.name != "posix", reason="no such files on Windows")
async def test_an_output_that_is_no_file_is_refused(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    """Reading what is in it already would never end, and nothing would be kept."""
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/null", "/dev/zero", tmp_path / "pipe"):
        with pytest.raises(BatchOutputError, match="a device or a pipe"):
            await client.complete_batch(["a"], output=path)
    assert stub.seen == []


async def test_two_batches_cannot_share_an_output(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    stub.on("POST", CHAT, chat(delay_s=0.3))
    first = asyncio.create_task(client.complete_batch(["a"], output=tmp_path / "out.jsonl"))
    await until(lambda: asked(stub))
    with pytest.raises(BatchOutputError, match="Another batch is writing"):
        await client.complete_batch(["a"], output=tmp_path / "out.jsonl")
    assert (await first).done == 1


@pytest.mark.skipif(os.name != "posix", reason="links need a right on Windows")
async def test_a_link_to_an_output_is_that_output(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    stub.on("POST", CHAT, chat(delay_s=0.3), chat())
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    first = asyncio.create_task(client.complete_batch(["a"], output=tmp_path / "real.jsonl"))
    await until(lambda: asked(stub))
    with pytest.raises(BatchOutputError, match=r"Another batch is writing to .*link\.jsonl"):
        await client.complete_batch(["a"], output=tmp_path / "link.jsonl")
    await first
    report = await client.complete_batch(["a", "b"], output=tmp_path / "link.jsonl", ordered=True)
    assert (report.skipped, report.done) == (1, 1)
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len(ids(tmp_path / "real.jsonl")) == 2


async def test_answers_without_an_output_that_cannot_be_put_in_order_are_not_lost_either(
    client: FoundryAPIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("foundry_lab.batch.scratch.ScratchOutput._copy", full)
    with pytest.raises(BatchStoppedError, match=r"Every answer is in this error's \.report") as caught:
        await client.complete_batch(["a", "b"], ordered=True)
    assert [result.content for result in caught.value.report.results()] == ["hello", "hello"]


async def test_results_that_cannot_be_put_in_order_are_no_lost_report(
    client: FoundryAPIClient, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.part").mkdir()
    with pytest.raises(BatchStoppedError, match="couldn't be put in order") as caught:
        await client.complete_batch(["a", "b"], output=output, ordered=True)
    assert caught.value.report.done == len(list(caught.value.report.results())) == 2


async def test_an_output_that_is_open_elsewhere_is_not_a_full_disk(
    client: FoundryAPIClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where a file that is open in a viewer can't be replaced."""

    def in_use(*_: object) -> None:
        raise PermissionError(errno.EACCES, "in use")

    monkeypatch.setattr("foundry_lab.batch.results_file.WINDOWS", True)
    monkeypatch.setattr("foundry_lab.batch.results_file.patiently", in_use)
    with pytest.raises(BatchStoppedError, match="Close the program that has it open"):
        await client.complete_batch(["a", "b"], output=tmp_path / "out.jsonl", ordered=True)
    assert content(tmp_path) == ["out.jsonl"]


# --- the rest -------------------------------------------------------------------------------------------


async def test_the_cache_serves_batches(client: FoundryAPIClient, stub: StubService) -> None:
    async with FoundryAPIClient(stub.url, cache=True) as cached:
        report = await cached.complete_batch(["same"] * 20, temperature=0, concurrency=4)
        assert (report.done, report.cached, asked(stub)) == (20, 19, 1)
        assert report.completion_tokens == 3
        assert "19 answers" in str(report)


async def test_a_large_prompt_that_is_refused_leaves_a_small_line(
    client: FoundryAPIClient, tmp_path: Path
) -> None:
    large = "x" * 5_000_000  # the stub, as many servers, takes 1 MiB
    report = await client.complete_batch([large, "small"], output=tmp_path / "out.jsonl", concurrency=1)
    assert (report.done, report.failed) == (1, 1)
    assert (tmp_path / "out.jsonl").stat().st_size < 10_000


async def test_the_report_tells_the_run(client: FoundryAPIClient, stub: StubService) -> None:
    stub.on("POST", CHAT, by_prompt)
    report = await client.complete_batch(["a", "b", "bad"])
    text = str(report)
    assert "2 answered, 1 failed, 0 done before" in text
    assert "1 http_400" in text
    assert report.latency_s(50) is not None
    assert report.items_per_s > 0


async def test_samples_stay_bounded_and_spread_over_the_run(client: FoundryAPIClient) -> None:
    output = ScratchOutput(Index())
    report = BatchReport(output, None, 2)
    for number in range(5 * MAX_SAMPLES):
        report.add(Outcome("x", "", b"", "ok", float(number)))
    latencies = [sample.latency_s for sample in report.samples]
    steps = {b - a for a, b in itertools.pairwise(latencies)}
    assert len(latencies) <= MAX_SAMPLES
    assert steps == {8.0}
    assert report.latency_s(50) == pytest.approx(2.5 * MAX_SAMPLES, rel=0.01)
    output.close()
