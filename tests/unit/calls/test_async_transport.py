"""One async client in several event loops: scripts, threads and notebooks share it without knowing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
from aiohttp import web
from stub_server import CHAT, Answer, StubService, chat

from foundry_lab import FoundryAPIClient
from foundry_lab.calls import async_caller
from foundry_lab.calls.target import Target

PATIENCE_S = 30.0


def in_threads(*works: Callable[[], object]) -> list[object]:
    """Run each in a thread of its own; return what came of them, errors too, within the patience."""
    results: list[object] = [f"hung for {PATIENCE_S:g} s"] * len(works)

    def run(number: int) -> None:
        try:
            results[number] = works[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    return results


def ask(client: FoundryAPIClient) -> str:
    return asyncio.run(client.complete("hi")).content


def meets(meeting: threading.Barrier) -> Answer:
    """Answer when as many requests are there as the meeting has parties."""

    async def answer(request: web.Request, stop: asyncio.Event) -> web.StreamResponse:
        await asyncio.to_thread(meeting.wait, PATIENCE_S)
        return await chat("hello")(request, stop)

    return answer


def test_two_loops_wait_for_one_search(monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)
    searches = []

    with StubService() as stub:

        def locate(settings: object) -> Target:
            searches.append(settings)
            time.sleep(0.1)  # for the other loop to come while the search is under way
            return Target(stub.url)

        monkeypatch.setattr(async_caller, "locate", locate)
        client = FoundryAPIClient(retries=0, timeout=PATIENCE_S / 2)

        def first_use() -> str:
            both.wait(PATIENCE_S)
            return ask(client)

        assert in_threads(first_use, first_use) == ["hello", "hello"]
        assert len(searches) == 1


def test_two_loops_ask_at_once() -> None:
    with StubService() as stub:
        client = FoundryAPIClient(stub.url, retries=0, breaker=False)
        assert ask(client) == "hello"
        stub.on("POST", CHAT, meets(threading.Barrier(2)))
        assert in_threads(lambda: ask(client), lambda: ask(client)) == ["hello", "hello"]


def test_closing_in_one_loop_leaves_a_request_in_another_alone() -> None:
    asked = threading.Event()
    with StubService() as stub:
        client = FoundryAPIClient(stub.url, retries=0)
        ask(client)
        closed = threading.Event()

        async def late(request: web.Request, stop: asyncio.Event) -> web.StreamResponse:
            asked.set()
            await asyncio.to_thread(closed.wait, PATIENCE_S)
            return await chat("hello")(request, stop)

        def close() -> None:
            asked.wait(PATIENCE_S)
            asyncio.run(client.close())
            closed.set()

        stub.on("POST", CHAT, late)
        assert in_threads(lambda: ask(client), close) == ["hello", None]


def test_no_session_is_kept_for_a_loop_that_ended() -> None:
    with StubService() as stub:
        client = FoundryAPIClient(stub.url)
        for _ in range(4):
            ask(client)
        assert len(client.caller.transport._open) == 1
        asyncio.run(client.close())
        assert not client.caller.transport._open
