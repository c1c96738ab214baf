"""The real service behind a fault proxy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from foundry_lab import engine
from foundry_lab.faults.proxy import FaultProxy


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """Base URL of one service for the whole session; left running if it ran before."""
    before = engine.service_status()
    yield engine.ensure_service(progress=False)
    if before is None:
        engine.stop_service()


@pytest.fixture(scope="module")
def proxy(endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(endpoint, seed=1) as running:
        yield running
