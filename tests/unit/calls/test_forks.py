"""A fork copies connections, locks and ids: whoever goes on using them takes another process's answers."""

from __future__ import annotations

import asyncio
import os
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from forking import answers_of_forks, child_that
from stub_server import CHAT, ROLE, StubService, chat, delta, stream

from foundry_lab import FoundryAPIClient, SyncFoundryAPIClient, errors
from foundry_lab._ground.forks import renew_after_fork
from foundry_lab.metrics import Metrics
from foundry_lab.monitor import HealthMonitor

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


async def echo(request: web.Request, stop: asyncio.Event) -> web.StreamResponse:
    """Answer with the question."""
    prompt = (await request.json())["messages"][0]["content"]
    return await chat(prompt)(request, stop)


@pytest.mark.parametrize("how", ["sync", "async", "stream", "one-liner"])
def test_every_process_gets_its_own_answers(how: str) -> None:
    with StubService() as stub:
        stub.on("POST", CHAT, echo)
        answers = answers_of_forks(stub.url, how, children=4, questions=250, model="stub-1b")
    assert len(answers) == 5 * 250
    assert [asked for asked, answer, _ in answers if answer != asked] == []
    ids = [request_id for *_, request_id in answers if request_id]
    assert len(set(ids)) == len(ids)


def test_a_cache_file_keeps_no_other_processs_answers(tmp_path: Path) -> None:
    """A swap would be permanent there."""
    with StubService() as stub:
        stub.on("POST", CHAT, echo)
        for _ in range(2):  # asked, then read from the file
            answers = answers_of_forks(
                stub.url, "sync", questions=40, arguments={"cache": str(tmp_path / "kept")}, temperature=0
            )
            assert [asked for asked, answer, _ in answers if answer != asked] == []


def test_one_thing_that_cannot_be_renewed_keeps_none_of_the_others_from_it() -> None:
    renewed: list[int] = []

    class Thing:
        def __init__(self, number: int) -> None:
            self.number = number
            renew_after_fork(self)

        def after_fork(self) -> None:
            renewed.append(self.number)
            raise OSError("no room")

    things = [Thing(number) for number in range(5)]
    with child_that(lambda: sorted(renewed)) as seen:
        assert seen == list(range(len(things)))


def test_a_stream_is_not_read_on_in_a_fork() -> None:
    with StubService() as stub, SyncFoundryAPIClient(stub.url) as client:
        stub.on("POST", CHAT, stream(ROLE, delta("one"), then="hang"))
        half = client.stream_complete("hi")
        next(half)

        def read_on() -> str:
            try:
                next(half)
            except errors.StreamInterruptedError as error:
                return f"{error} {error.partial}"
            return "went on"

        with child_that(read_on) as said:
            assert str(said).endswith("is in .partial. one")


def test_a_batch_runs_in_a_fork_of_a_process_that_ran_one() -> None:
    prompts = [f"question {number}" for number in range(40)]

    def run() -> list[list[str]]:
        results = client.complete_batch(prompts).results()
        return sorted([result.custom_id, result.content] for result in results)

    with StubService() as stub, SyncFoundryAPIClient(stub.url) as client:
        stub.on("POST", CHAT, echo)
        mine = run()
        with child_that(run) as childs:
            assert childs == mine == run()
    assert sorted(content for _, content in mine) == sorted(prompts)


def test_a_monitor_watches_in_the_parent_and_one_can_be_started_in_a_fork() -> None:
    with StubService() as stub, SyncFoundryAPIClient(stub.url) as client:

        def watch() -> list[bool]:
            before = monitor.running
            own = HealthMonitor(client, 0.02)
            with own:
                wait_until(lambda: len(own.history) >= 2)
                ran = own.running
            with monitor:
                wait_until(lambda: len(monitor.history) >= looks + 2)
            return [before, ran, monitor.running]

        with HealthMonitor(client, 0.02) as monitor:
            wait_until(lambda: len(monitor.history) >= 2)
            looks = len(monitor.history)
            with child_that(watch) as said:
                assert said == [False, True, False]
            looks = len(monitor.history)
            wait_until(lambda: len(monitor.history) > looks)


async def test_a_monitor_of_an_async_client_does_not_run_in_a_fork() -> None:
    """Its task is there, as a copy that nobody runs."""
    with StubService() as stub:
        async with FoundryAPIClient(stub.url) as client, HealthMonitor(client, 0.02) as monitor:
            with child_that(lambda: monitor.running) as said:
                assert said is False
            assert monitor.running


def test_a_metrics_server_is_the_parents_and_a_fork_can_have_its_own() -> None:
    """A child that counted on from the parent's numbers would count them twice where both are collected."""
    metrics = Metrics()
    with StubService() as stub, SyncFoundryAPIClient(stub.url, metrics=metrics) as client:

        def count() -> list[str]:
            client.complete("hi")
            with metrics.serve() as own:
                return sorted(line for line in fetch(own.url).splitlines() if line.startswith(SERIES))

        server = metrics.serve()
        port = urlsplit(server.url).port
        assert port is not None
        client.complete("hi")
        client.complete("hi")
        with child_that(count) as said:
            closed, ok = said  # type: ignore[misc]
            assert closed == f'{SERIES[0]}{{endpoint="{stub.url}"}} 0.0'
            assert ok.endswith('operation="complete",outcome="ok"} 1.0')
            assert 'outcome="ok"} 2.0' in fetch(server.url)
            server.close()
            with metrics.serve(port):  # the child doesn't hold it
                pass


SERIES = ("foundry_lab_circuit_breaker_state", "foundry_lab_requests_total")


def fetch(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=20) as answer:
        return str(answer.read().decode())


def wait_until(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it didn't happen in time"
        time.sleep(0.005)
