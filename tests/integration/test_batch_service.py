"""Batches against the real service: results, structure, resuming, and the service killed in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil
import pytest
from service_tools import service_processes

from foundry_lab import FoundryAPIClient, SyncFoundryAPIClient, engine
from foundry_lab.errors import ModelNotFoundError

WORDS = [
    "river",
    "mountain",
    "engine",
    "garden",
    "teacher",
    "market",
    "harbour",
    "library",
    "winter",
    "bridge",
    "kitchen",
    "forest",
]
PROMPTS = [f"Write one sentence about a {word}." for word in WORDS]
OPTIONS: dict[str, Any] = {"max_tokens": 12, "temperature": 0}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


async def test_a_batch_gives_what_single_requests_give(endpoint: str, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    async with FoundryAPIClient(endpoint) as client:
        report = await client.complete_batch(PROMPTS[:4], output=output, ordered=True, **OPTIONS)
        alone = [(await client.complete(prompt, **OPTIONS)).content for prompt in PROMPTS[:4]]
    assert [result.content for result in report.results()] == alone
    assert report.completion_tokens == sum(
        row["response"]["body"]["usage"]["completion_tokens"] for row in rows(output)
    )
    assert rows(output)[0]["response"]["body"]["object"] == "chat.completion"


async def test_more_at_once_changes_no_answer(endpoint: str) -> None:
    async with FoundryAPIClient(endpoint) as client:
        answers = []
        for concurrency in (1, 8):
            report = await client.complete_batch(PROMPTS, concurrency=concurrency, ordered=True, **OPTIONS)
            assert report.failed == 0
            answers.append([result.content for result in report.results()])
    assert answers[0] == answers[1]


async def test_answers_keep_to_a_shape(endpoint: str) -> None:
    class Mood(msgspec.Struct):
        mood: Literal["good", "bad"]

    texts = ["I love this.", "This is terrible.", "What a lovely day."]
    async with FoundryAPIClient(endpoint) as client:
        report = await client.complete_batch(
            texts,
            template="Is the mood good or bad? {text}",
            response_model=Mood,
            max_tokens=20,
            temperature=0,
        )
        assert report.done == 3, report
        parsed = [result.completion.parsed for result in report.results() if result.completion]
        assert all(isinstance(each, Mood) for each in parsed)


async def test_the_cache_answers_a_second_run(endpoint: str, tmp_path: Path) -> None:
    async with FoundryAPIClient(endpoint, cache=tmp_path / "cache.db") as client:
        first = await client.complete_batch(PROMPTS[:5], ordered=True, **OPTIONS)
        second = await client.complete_batch(PROMPTS[:5], ordered=True, **OPTIONS)
        assert (first.cached, second.cached) == (0, 5)
        assert [r.content for r in first.results()] == [r.content for r in second.results()]
        assert client.cache is not None
        client.cache.close()


async def test_a_prompt_of_five_megabytes_is_one_failed_item(endpoint: str) -> None:
    async with FoundryAPIClient(endpoint) as client:
        report = await client.complete_batch(["word " * 1_000_000, "Say hi."], timeout=60, **OPTIONS)
        assert (report.done, report.failures) == (1, {"http_400": 1})
        (failed,) = [result for result in report.results() if result.error]
        assert failed.error is not None
        assert "maximum context length" in failed.error.message


def test_a_killed_batch_goes_on_where_it_was(endpoint: str, tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("\n".join(PROMPTS * 3), encoding="utf-8")
    command = [
        *(sys.executable, "-m", "foundry_lab", "batch", str(source), "-o", str(output)),
        *("--endpoint", endpoint, "--max-tokens", "12", "--temperature", "0"),
    ]
    process = subprocess.Popen(command)
    while not (output.exists() and output.read_bytes().count(b"\n") >= 8):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = output.read_bytes().count(b"\n")
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"{36 - done} answered, 0 failed, {done} done before" in again.stdout
    assert Counter(row["custom_id"] for row in rows(output)) == Counter(f"item-{n:06d}" for n in range(1, 37))


async def test_a_service_killed_in_mid_batch_is_waited_for_wherever_it_comes_back(
    own_home: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    await asyncio.to_thread(engine.ensure_service)
    async with FoundryAPIClient() as client:
        batch = asyncio.create_task(client.complete_batch(PROMPTS * 2, output=output, **OPTIONS))
        while not (output.exists() and len(rows(output)) >= 4):  # noqa: ASYNC110 - it is another process's work
            await asyncio.sleep(0.02)
        state = engine.service_status()
        assert state is not None
        psutil.Process(state.pid).kill()
        await asyncio.sleep(1)
        assert not batch.done()
        new = await asyncio.to_thread(engine.ensure_service)
        report = await batch
    assert new != state.url
    assert (report.done, report.failed) == (24, 0)
    assert len({row["custom_id"] for row in rows(output)}) == len(rows(output)) == 24


def test_the_sync_client_runs_batches_too(endpoint: str, tmp_path: Path) -> None:
    with SyncFoundryAPIClient(endpoint) as client:
        report = client.complete_batch(PROMPTS[:3], output=tmp_path / "out.jsonl", **OPTIONS)
    assert report.done == 3


@pytest.mark.parametrize("name", ["openai_cookbook.jsonl", "azure.jsonl"])
def test_batch_files_made_for_a_cloud_run_unedited(endpoint: str, tmp_path: Path, name: str) -> None:
    source = Path(__file__).parents[1] / "unit" / "batch" / "data" / name
    with SyncFoundryAPIClient(endpoint) as client:
        with pytest.raises(ModelNotFoundError, match="override_model=True"):
            client.complete_batch(source, output=tmp_path / "out.jsonl", max_tokens=16)
        report = client.complete_batch(
            source, output=tmp_path / "out.jsonl", max_tokens=16, override_model=True, ordered=True
        )
    assert (report.done, report.failed) == (3, 0)
    assert [result.custom_id for result in report.results()] == ["task-0", "task-1", "task-2"]
    assert all(result.content for result in report.results())


@pytest.mark.skipif(os.name != "posix", reason="sends signals to one process")
@pytest.mark.parametrize("lines", [0, 2])
def test_a_batch_that_is_told_to_end_stops_the_service_that_it_started(
    own_home: Path, tmp_path: Path, lines: int
) -> None:
    """Also while the service is still starting: the thread that starts it goes on to its end."""
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("\n".join(PROMPTS * 20), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "foundry_lab", "batch", str(source), "-o", str(output)],
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (output.exists() and output.read_bytes().count(b"\n") >= lines):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, words = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "To go on: foundry-lab batch" in words
    assert "Traceback" not in words
    assert engine.service_status() is None
    assert service_processes(own_home) == []
