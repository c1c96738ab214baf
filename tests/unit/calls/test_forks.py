"""A fork copies connections, locks and ids: whoever goes on using them takes another process's answers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from aiohttp import web
from forking import answers_of_forks
from stub_server import CHAT, ROLE, StubService, chat, delta, stream

from foundry_lab import SyncFoundryAPIClient, errors

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


def test_a_stream_is_not_read_on_in_a_fork() -> None:
    with StubService() as stub, SyncFoundryAPIClient(stub.url) as client:
        stub.on("POST", CHAT, stream(ROLE, delta("one"), then="hang"))
        half = client.stream_complete("hi")
        next(half)
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            try:
                next(half)
                said = "went on"
            except errors.StreamInterruptedError as error:
                said = f"{error} {error.partial}"
            except BaseException as error:
                said = repr(error)
            os.write(write, said.encode())
            os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
        with os.fdopen(read) as told:
            assert told.read().endswith("is in .partial. one")
