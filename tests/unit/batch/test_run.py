"""Batches: every item's result exactly once, whatever item or service does."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from aiohttp import web
from batch_tools import QUICK, asked, by_prompt, ids, rows, until
from clients import Client, both_clients
from stub_server import CHAT, MODEL, StubService, chat, chat_body, drop, error, hang, reply

from foundry_lab import FoundryAPIClient
from foundry_lab.batch.report import BatchStoppedError
from foundry_lab.errors import (
    ModelNotFoundError,
    ModelNotLoadedError,
    ServiceUnavailableError,
)
from foundry_lab.metrics import Metrics


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


async def test_same_prompts_have_ids_of_their_own(client: FoundryAPIClient, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    await client.complete_batch(["same"] * 3, output=output)
    assert len({row["id"] for row in rows(output)}) == 3
    assert (await client.complete_batch(["same"] * 3, output=output)).skipped == 3


async def test_an_output_of_the_first_kind_of_ids_is_gone_on_with(
    client: FoundryAPIClient, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    await client.complete_batch(["a", "b"], output=output)
    output.write_text(re.sub(r'(batch_req_[0-9a-f]{24})_\w+"', r'\1"', output.read_text()))
    assert (await client.complete_batch(["a", "b"], output=output)).skipped == 2


@pytest.mark.parametrize("concurrency", [1, 2, 5])
async def test_no_more_than_the_allowed_requests_are_under_way(
    client: FoundryAPIClient, stub: StubService, concurrency: int
) -> None:
    stub.on("POST", CHAT, chat(delay_s=0.1))
    await client.complete_batch([str(n) for n in range(20)], concurrency=concurrency)
    assert stub.most_at_once == concurrency


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


async def test_items_that_the_service_can_never_do_say_nothing_about_it(
    client: FoundryAPIClient, stub: StubService
) -> None:
    """It would be taken out, and had to prove that it can generate, once in six such items."""
    words = "structured tool calling requires model-published opening and closing tool markers"
    stub.on("POST", CHAT, error(500, words, "server_error"))
    report = await client.complete_batch([str(n) for n in range(20)], wait_for_service=1)
    assert (report.failures, report.retries) == ({"http_500": 20}, 0)
    assert asked(stub) == 20


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
    # Ten answers, and no more until it stops.
    first.on("POST", CHAT, *[chat("first", delay_s=0.02)] * 10, chat("first", delay_s=60))
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


async def test_a_service_that_stays_away_stops_the_batch(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    stub = StubService()
    stub.on("POST", CHAT, *[chat(delay_s=0.02)] * 10, chat(delay_s=60))  # ten, and no more until it stops
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


@pytest.mark.parametrize("progress", [None, True])
async def test_a_program_without_a_console_runs_batches(
    client: FoundryAPIClient, stub: StubService, monkeypatch: pytest.MonkeyPatch, progress: bool | None
) -> None:
    """As pythonw has none on Windows: a bar that failed there kept its lock, and the next batch hung."""
    monkeypatch.setattr("sys.stderr", None)
    monkeypatch.setattr("sys.stdout", None)
    assert (await client.complete_batch(["a"], progress=progress)).done == 1
    stub.on("POST", CHAT, hang)
    task = asyncio.create_task(client.complete_batch(["a"], progress=progress))
    await until(lambda: asked(stub) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
