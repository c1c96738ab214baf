"""Batches that go on where an earlier run was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from batch_tools import asked, by_prompt, ids, names_in, prompts_asked, rows, until
from stub_server import CHAT, StubService, chat, error, hang

from foundry_lab import FoundryAPIClient
from foundry_lab.batch.index import BatchOutputError


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
    assert f"3 of other requests or damaged, kept in {backup}" in str(report)


async def test_an_answer_to_the_same_request_is_not_kept_aside(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    stub.on("POST", CHAT, error(400, "no"), chat())
    await client.complete_batch(["a"], output=tmp_path / "out.jsonl")
    await client.complete_batch(["a"], output=tmp_path / "out.jsonl", retry_failed=True)
    assert names_in(tmp_path) == ["out.jsonl"]


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


@pytest.mark.parametrize(("good", "bad"), [(b"hello", b"hel\xfflo"), (b":200", b":2\x000")])
async def test_a_damaged_line_is_not_done_and_is_kept_aside(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path, good: bytes, bad: bytes
) -> None:
    """What a disk or an editor has done to an answer is found before somebody reads it."""
    output, backup = tmp_path / "out.jsonl", tmp_path / "out.jsonl.bak"
    prompts = ["a", "b", "c"]
    await client.complete_batch(prompts, output=output, concurrency=1)
    lines = output.read_bytes().splitlines(keepends=True)
    for number in range(3):
        before = asked(stub)
        damaged = lines[number].replace(good, bad)
        output.write_bytes(b"".join([*lines[:number], damaged, *lines[number + 1 :]]))
        report = await client.complete_batch(prompts, output=output, ordered=True)
        assert (report.skipped, report.done, report.replaced, asked(stub) - before) == (2, 1, 1, 1)
        assert [result.content for result in report.results()] == ["hello"] * 3
        assert backup.read_bytes().endswith(damaged)
        lines = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(lines[0].replace(b"hello", b"\xff"))
    assert (await client.complete_batch(["a"], output=output)).done == 1


async def test_zeros_after_a_power_cut_are_cut_off(client: FoundryAPIClient, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    await client.complete_batch(["a", "b"], output=output)
    output.write_bytes(output.read_bytes() + b"\0" * 4096)
    assert (await client.complete_batch(["a", "b"], output=output)).skipped == 2
    assert len(rows(output)) == 2


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
