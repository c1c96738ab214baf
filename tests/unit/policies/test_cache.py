"""The response cache: what is kept, for how long, and who asks the service."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from clients import Client, both_clients
from forking import child_that
from stub_server import CHAT, StubService, chat, error, hang, reply, stream, text_events

from foundry_lab import FoundryAPIClient
from foundry_lab.errors import ConfigurationError, FoundryError, RequestTimeoutError, ServerError
from foundry_lab.policies.cache import USED_WITHIN_S, ResponseCache


@pytest.fixture
def stub() -> Iterator[StubService]:
    with StubService() as service:
        yield service


def asked(stub: StubService) -> int:
    return stub.count("POST", CHAT)


async def until_asked(stub: StubService) -> None:
    while not asked(stub):  # noqa: ASYNC110 - the stub lives in another thread
        await asyncio.sleep(0.01)


@both_clients
def test_a_second_equal_request_is_not_sent(stub: StubService, kind: str) -> None:
    with Client(kind, stub.url, cache=True) as client:
        first = client.complete("hi", temperature=0)
        again = client.complete("hi", temperature=0)
        assert (first.cached, again.cached, again.attempts) == (False, True, 0)
        assert again.content == first.content
        assert asked(stub) == 1
        stats = client.raw.cache.stats()
        assert (stats.hits, stats.misses, stats.entries) == (1, 1, 1)


@both_clients
def test_it_is_off_unless_asked_for(stub: StubService, kind: str) -> None:
    with Client(kind, stub.url) as client:
        client.complete("hi", temperature=0)
        assert not client.complete("hi", temperature=0).cached


@pytest.mark.parametrize(
    "options",
    [{"max_tokens": 5}, {"stop": "x"}, {"system": "be brief"}, {"extra_body": {"foo": [1]}}, {"seed": 3}],
)
def test_every_parameter_is_in_the_key(stub: StubService, options: dict[str, Any]) -> None:
    with Client("sync", stub.url, cache=True) as client:
        client.complete("hi", temperature=0)
        assert not client.complete("hi", temperature=0, **options).cached
        assert client.complete("hi", temperature=0, **options).cached


def test_the_model_is_in_the_key(stub: StubService) -> None:
    ids = ["one:1", "two:1"]
    stub.on("GET", "/v1/models", reply(200, {"data": [{"id": each} for each in ids]}))
    with Client("sync", stub.url, cache=True) as client:
        assert [client.complete("hi", temperature=0, model=each).cached for each in ids * 2] == [
            False, False, True, True,
        ]  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"temperature": 0, "cache": False}])
def test_only_deterministic_requests_are_kept(stub: StubService, options: dict[str, Any]) -> None:
    with Client("sync", stub.url, cache=True) as client:
        assert not any(client.complete("hi", **options).cached for _ in range(2))
        assert client.raw.cache.stats().misses == 0


def test_a_seed_makes_a_request_deterministic(stub: StubService) -> None:
    with Client("sync", stub.url, cache=True) as client:
        assert [client.complete("hi", temperature=1, seed=7).cached for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    "bad",
    [error(400, "no"), error(500, "no"), reply(200, b"{"), reply(200, {"error": {"message": "no"}})],
    ids=["400", "500", "broken JSON", "error with status 200"],
)
def test_errors_are_not_kept(stub: StubService, bad: Any) -> None:
    stub.on("POST", CHAT, bad, chat("better"))
    with Client("sync", stub.url, cache=True, retries=0) as client:
        with pytest.raises(FoundryError):
            client.complete("hi", temperature=0)
        answer = client.complete("hi", temperature=0)
        assert (answer.content, answer.cached) == ("better", False)


@pytest.mark.parametrize(("keep_length", "cached"), [(True, True), (False, False)])
def test_the_caller_says_whether_answers_that_hit_max_tokens_are_kept(
    stub: StubService, keep_length: bool, cached: bool
) -> None:
    message = {"role": "assistant", "content": "and so"}
    stub.on("POST", CHAT, chat(choices=[{"finish_reason": "length", "message": message}]))
    with Client("sync", stub.url, cache=ResponseCache(keep_length=keep_length)) as client:
        client.complete("hi", temperature=0)
        assert client.complete("hi", temperature=0).cached is cached


def test_an_answer_that_does_not_say_how_it_ended_is_not_kept(stub: StubService) -> None:
    stub.on("POST", CHAT, chat(choices=[{"message": {"role": "assistant", "content": "and so"}}]))
    with Client("sync", stub.url, cache=True) as client:
        assert not any(client.complete("hi", temperature=0).cached for _ in range(2))


def test_streams_neither_fill_it_nor_use_it(stub: StubService) -> None:
    stub.on("POST", CHAT, stream(*text_events("one two")), chat("three"))
    with Client("sync", stub.url, cache=True) as client:
        assert client.stream_text("hi", temperature=0) == "one two"
        assert not client.complete("hi", temperature=0).cached
        client.stream_text("hi", temperature=0)
        assert asked(stub) == 3


# --- single flight ----------------------------------------------------------------------------------------


async def test_concurrent_equal_requests_share_one_call(stub: StubService) -> None:
    stub.on("POST", CHAT, chat("once", delay_s=0.2))
    async with FoundryAPIClient(stub.url, cache=True) as client:
        await client.complete("no seed, not cached")  # so that all of them know the model, and meet
        answers = await asyncio.gather(*(client.complete("hi", temperature=0) for _ in range(20)))
        assert client.cache is not None
        assert asked(stub) == 1 + 1
        assert {answer.content for answer in answers} == {"once"}
        assert sum(answer.cached for answer in answers) == 19
        assert len({answer.request_id for answer in answers}) == 20
        assert client.cache.stats().shared == 19


def test_threads_share_one_call(stub: StubService) -> None:
    stub.on("POST", CHAT, chat("once", delay_s=0.2))
    with Client("sync", stub.url, cache=True) as client:
        threads = [
            threading.Thread(target=client.raw.complete, args=("hi",), kwargs={"temperature": 0})
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert asked(stub) == 1
        assert client.raw.cache.stats().hits == 7


async def test_a_cancelled_asker_leaves_the_others_their_answer(stub: StubService) -> None:
    stub.on("POST", CHAT, hang, chat("for the second"))
    async with FoundryAPIClient(stub.url, cache=True) as client:
        first = asyncio.create_task(client.complete("hi", temperature=0))
        await until_asked(stub)
        second = asyncio.create_task(client.complete("hi", temperature=0))
        await asyncio.sleep(0.05)
        first.cancel()
        assert (await second).content == "for the second"
        assert first.cancelled()


async def test_a_cancelled_waiter_leaves_the_call_alone(stub: StubService) -> None:
    stub.on("POST", CHAT, chat("slow", delay_s=0.3))
    async with FoundryAPIClient(stub.url, cache=True) as client:
        await client.complete("no seed, not cached")
        first = asyncio.create_task(client.complete("hi", temperature=0))
        second = asyncio.create_task(client.complete("hi", temperature=0))
        third = asyncio.create_task(client.complete("hi", temperature=0))
        await asyncio.sleep(0.1)
        second.cancel()
        assert [(await first).content, (await third).content] == ["slow", "slow"]
        assert asked(stub) == 1 + 1


async def test_a_failure_is_not_shared(stub: StubService) -> None:
    stub.on("POST", CHAT, error(500, "once", delay_s=0.1), chat("then"))
    async with FoundryAPIClient(stub.url, cache=True, retries=0) as client:
        results = await asyncio.gather(
            *(client.complete("hi", temperature=0) for _ in range(3)), return_exceptions=True
        )
        assert [type(result) for result in results].count(ServerError) == 1
        assert asked(stub) == 2


async def test_waiting_for_another_call_ends_at_the_own_deadline(stub: StubService) -> None:
    stub.on("POST", CHAT, hang)
    async with FoundryAPIClient(stub.url, cache=True) as client:
        slow = asyncio.create_task(client.complete("hi", temperature=0, timeout=20))
        await until_asked(stub)
        with pytest.raises(RequestTimeoutError):
            await client.complete("hi", temperature=0, timeout=0.2)
        slow.cancel()


# --- limits and files -------------------------------------------------------------------------------------


def test_old_answers_are_not_used(stub: StubService) -> None:
    now = [1000.0]
    cache = ResponseCache(max_age_s=60, clock=lambda: now[0])
    with Client("sync", stub.url, cache=cache) as client:
        client.complete("hi", temperature=0)
        now[0] += 59
        assert client.complete("hi", temperature=0).cached
        now[0] += 2
        assert not client.complete("hi", temperature=0).cached


def test_the_least_recently_used_answer_goes_first(stub: StubService) -> None:
    now = [0.0]

    def tick() -> float:
        now[0] += USED_WITHIN_S
        return now[0]

    with Client("sync", stub.url, cache=ResponseCache(max_entries=2, clock=tick)) as client:
        for prompt in ("a", "b", "a", "c"):  # "a" was used after "b"
            client.complete(prompt, temperature=0)
        assert [client.complete(prompt, temperature=0).cached for prompt in ("a", "c", "b")] == [
            True, True, False,
        ]  # fmt: skip
        assert client.raw.cache.stats().entries == 2


def test_the_size_of_all_answers_is_limited(stub: StubService) -> None:
    cache = ResponseCache(max_bytes=1000)  # three of the stub's answers
    with Client("sync", stub.url, cache=cache) as client:
        for number in range(10):
            client.complete(str(number), temperature=0)
            assert cache.stats().bytes <= 1000
        assert cache.stats().entries >= 2
        stub.on("POST", CHAT, chat("x" * 2000))
        client.complete("too large to keep", temperature=0)
        assert cache.stats().entries >= 2


def test_a_file_keeps_answers_between_processes_and_clients(stub: StubService, tmp_path: Path) -> None:
    path = tmp_path / "ä cache.db"
    with Client("sync", stub.url, cache=path) as client:
        client.complete("hi", temperature=0)
        client.raw.cache.close()
    with Client("async", stub.url, cache=str(path)) as client:
        assert client.complete("hi", temperature=0).cached
        assert client.raw.cache.stats().entries == 1
        client.raw.cache.clear()
        assert not client.complete("hi", temperature=0).cached
        client.raw.cache.close()


def test_a_file_that_is_no_cache_is_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database at all\n" * 100)
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE precious (x)")
    db.close()
    for path in (text, foreign, tmp_path / "missing" / "cache.db"):
        before = path.read_bytes() if path.exists() else None
        with pytest.raises(ConfigurationError, match=r"can't be used.*Name a file"):
            ResponseCache(path)
        assert before is None or path.read_bytes() == before


def test_a_cache_that_is_damaged_says_so(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    ResponseCache(path).close()
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)
    with pytest.raises(ConfigurationError, match=r"can't be used: .*malformed.*Name a file"):
        ResponseCache(path)


def test_processes_that_make_one_cache_at_once_all_get_it(tmp_path: Path) -> None:
    opens = (
        "import sys\n"
        "from foundry_lab.policies.cache import ResponseCache\n"
        "for line in sys.stdin: ResponseCache(line.strip()).close(); print('ok', flush=True)"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", opens], stdin=PIPE, stdout=PIPE, text=True, bufsize=1)
        for _ in range(4)
    ]
    for number in range(40):
        for worker in workers:
            worker.stdin.write(f"{tmp_path / str(number)}\n")  # type: ignore[union-attr]
        assert [worker.stdout.readline() for worker in workers] == ["ok\n"] * 4  # type: ignore[union-attr]
    for worker in workers:
        worker.communicate(timeout=10)


def test_a_cache_that_fails_costs_no_answer(
    stub: StubService, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ResponseCache(tmp_path / "cache.db")
    with Client("sync", stub.url, cache=cache) as client:
        client.complete("hi", temperature=0)
        cache.close()
        assert client.complete("hi", temperature=0).content == "hello"
        cache.clear()
    said = [
        record.message.rpartition(": ")[2] for record in caplog.records if "cache failed" in record.message
    ]
    assert said == ["the service is asked", "an answer isn't kept", "its answers stay"]


async def test_a_file_that_another_program_locks_neither_stops_the_loop_nor_spoils_a_hit(
    stub: StubService, tmp_path: Path
) -> None:
    now = [1000.0]
    cache = ResponseCache(tmp_path / "cache.db", clock=lambda: now[0])
    async with FoundryAPIClient(stub.url, cache=cache) as client:
        await client.complete("hi", temperature=0)
        now[0] += 2 * USED_WITHIN_S  # the hit wants to be noted
        other = sqlite3.connect(tmp_path / "cache.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        assert (await client.complete("hi", temperature=0)).cached
        assert not (await client.complete("new", temperature=0)).cached  # an answer that can't be kept
        assert time.monotonic() - began < 2  # what a single write used to wait
        other.close()
    cache.close()


def test_frequent_hits_write_nothing(stub: StubService, tmp_path: Path) -> None:
    with Client("sync", stub.url, cache=tmp_path / "cache.db") as client:
        client.complete("hi", temperature=0)
        with contextlib.closing(sqlite3.connect(tmp_path / "cache.db")) as other:
            before = other.execute("PRAGMA data_version").fetchone()
            assert client.complete("hi", temperature=0).cached
            assert other.execute("PRAGMA data_version").fetchone() == before
        client.raw.cache.close()


@pytest.mark.parametrize(
    "limits", [{"max_entries": 0}, {"max_entries": "many"}, {"max_bytes": -1}, {"max_age_s": 0}, {"clock": 5}]
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(limits))):
        ResponseCache(**limits)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_opens_the_same_file_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    cache = ResponseCache("answers.db")
    monkeypatch.chdir("elsewhere")
    with child_that(lambda: cache.stats().entries):
        assert list(Path.cwd().iterdir()) == []
    cache.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_cache_whose_folder_has_gone_does_no_harm_to_a_child(stub: StubService, tmp_path: Path) -> None:
    """Its error kept what else there was, such as connections, from being renewed: the child hung."""
    folder = tmp_path / "gone"
    folder.mkdir()
    with Client("sync", stub.url, cache=folder / "answers.db") as client:
        client.complete("a", temperature=0)
        shutil.rmtree(folder)

        def ask_twice() -> tuple[list[str], str]:
            return [client.complete("b", temperature=0).content for _ in range(2)], repr(client.raw.cache)

        with child_that(ask_twice) as said:
            assert said == [["hello", "hello"], "<ResponseCache in memory: 1 answers>"]
