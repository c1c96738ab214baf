"""The real service for the tests of this folder; the root conftest has cleaned the environment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from service_tools import service_processes

from foundry_lab import engine
from foundry_lab.engine import paths


@pytest.fixture(scope="session")
def lab_home() -> Path:
    """The tests' FOUNDRY_LAB_HOME, with the model prepared."""
    engine.prepare_model()
    return paths.home()


@pytest.fixture(scope="session")
def endpoint(lab_home: Path) -> Iterator[str]:
    """Base URL of one service for the whole session. Tests that stop or kill a service take `own_home`."""
    before = engine.service_status()
    yield engine.ensure_service()
    if before is None:
        engine.stop_service()
        assert service_processes(lab_home) == []


@pytest.fixture
def own_home(lab_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of the test's own, with the prepared model and an awkward name; nothing runs in it."""
    home = tmp_path / "läb home"
    # The model alone: the SDK keeps what a catalog said beside it, which would hide a catalog out of reach.
    model = paths.model_dir().relative_to(lab_home)
    shutil.copytree(lab_home / model, home / model, copy_function=_link)
    monkeypatch.setenv("FOUNDRY_LAB_HOME", str(home))
    yield home
    left = service_processes(home)
    for process in left:
        process.kill()  # a clean stop takes 2 s
    psutil.wait_procs(left)
    assert len(left) <= 1, "two services in one home"


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copy2(source, target)
