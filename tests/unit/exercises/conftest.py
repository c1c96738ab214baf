"""A home of the test's own for the progress, and a stub where a check would ask the real service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stub_server import StubService


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FOUNDRY_LAB_HOME", str(tmp_path / "home"))
    for name in ("NBGRADER_EXECUTION", "FOUNDRY_LAB_UNATTENDED"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubService]:
    with StubService() as service:
        monkeypatch.setenv("FOUNDRY_ENDPOINT", service.url)
        yield service
