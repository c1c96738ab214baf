"""One JupyterLab for all browser tests, a browser for each file of them, and the real service."""

from __future__ import annotations

from collections.abc import Iterator

import lab
import pytest
from playwright.sync_api import expect

from foundry_lab import engine


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lab.Lab]:
    lab.require_chromium()
    expect.set_options(timeout=60_000)  # a busy machine is no failure
    engine.ensure_service(progress=False)
    with lab.serve(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="module")
def jupyterlab(server: lab.Lab) -> Iterator[lab.Lab]:
    with server.browser():
        yield server
