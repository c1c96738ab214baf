"""A stub and a client for the tests of batches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from batch_tools import QUICK
from stub_server import StubService

from foundry_lab import FoundryAPIClient


@pytest.fixture
def stub() -> Iterator[StubService]:
    with StubService() as service:
        yield service


@pytest.fixture
async def client(stub: StubService) -> AsyncIterator[FoundryAPIClient]:
    async with FoundryAPIClient(stub.url, retry=QUICK) as client:
        yield client
