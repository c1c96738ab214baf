"""A closed client has no connection left, whatever happened before, and without the garbage collector."""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from clients import Client, both_clients
from stub_server import CHAT, StubService, reply

from foundry_lab.batch.index import Index
from foundry_lab.errors import ServerError
from foundry_lab.policies.cache import ResponseCache


def connections_to(url: str) -> int:
    port = urlsplit(url).port
    return sum(
        bool(each.raddr) and each.raddr.port == port and each.status == psutil.CONN_ESTABLISHED
        for each in psutil.Process().net_connections("tcp4")
    )


@both_clients
def test_after_an_error_close_closes_the_connections(kind: str) -> None:
    with StubService() as stub:
        stub.on("POST", CHAT, reply(500, {"error": {"message": "no", "type": "server_error"}}))
        gc.disable()
        try:
            with Client(kind, stub.url, retries=0, metrics=False) as client, pytest.raises(ServerError):
                client.complete("hi")
            assert connections_to(stub.url) == 0
        finally:
            gc.enable()


@pytest.mark.parametrize("make", [Index, ResponseCache])
def test_a_database_nobody_closed_closes_itself(make: Callable[[], Any]) -> None:
    """Python 3.13 and later warn of one that doesn't."""
    holder = make()
    database = holder._db
    del holder
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        database.execute("SELECT 1")
