"""Unit tests see none of the caller's settings and can't reach a real cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_stubs import StubEngine
from hypothesis import settings

settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in [name for name in os.environ if name.startswith("FOUNDRY_")]:
        monkeypatch.delenv(name)
    home: Path = tmp_path_factory.getbasetemp() / "no-such-home"
    monkeypatch.setenv("FOUNDRY_LAB_HOME", str(home))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> StubEngine:
    stub = StubEngine()
    for name in (name for name in dir(stub) if not name.startswith("_") and callable(getattr(stub, name))):
        monkeypatch.setattr(f"foundry_lab.engine.{name}", getattr(stub, name), raising=False)
    return stub
