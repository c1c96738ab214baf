"""A JupyterLab of the test's own in headless Chromium, with one notebook open."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Page, sync_playwright

from foundry_lab import engine

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",  # as root, in containers
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TOKEN = "browser-test"
START_S = 180.0
OWN_FOLDERS = (
    "JUPYTER_RUNTIME_DIR",
    "JUPYTER_CONFIG_DIR",
    "IPYTHONDIR",
    "JUPYTERLAB_SETTINGS_DIR",
    "JUPYTERLAB_WORKSPACES_DIR",
)


@contextlib.contextmanager
def open_notebook(home: Path, *cells: str) -> Iterator[Page]:
    """Yield the page of a JupyterLab that shows a new notebook with these cells, the kernel ready.

    Args:
        home: an empty folder; the server keeps off the user's settings.
        cells: source of each code cell. The service's address is in FOUNDRY_ENDPOINT.
    """
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Chromium is installed: apt-get install chromium, or its like")
        pytest.skip("no Chromium is installed, so nothing is tried in a browser")
    with _server(home, *cells) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=START_S * 1000)
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(START_S * 1000)
        page.goto(f"{url}lab/tree/test.ipynb?reset&token={TOKEN}")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        yield page
        browser.close()


def run_cell(page: Page, number: int = 0) -> None:
    """Run the cell with this number, from 0."""
    page.locator(".jp-CodeCell").nth(number).locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")


@contextlib.contextmanager
def _server(home: Path, *cells: str) -> Iterator[str]:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (home / "root").mkdir()
    nbformat.write(book, home / "root" / "test.ipynb")
    environment = {
        **os.environ,
        **{name: str(home / name.lower()) for name in OWN_FOLDERS},
        "FOUNDRY_ENDPOINT": engine.ensure_service(),
    }
    with (home / "lab.log").open("wb") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
                *("--port=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={home / 'root'}"),
                "--ServerApp.kernel_spec_manager_class=foundry_lab.workbook.kernel.ThisPythonSpecManager",
            ],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            yield _address(home / "jupyter_runtime_dir", server, home / "lab.log")
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _address(runtime: Path, server: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        for file in runtime.glob("jpserver-*.json"):
            with contextlib.suppress(ValueError):  # half written
                return str(json.loads(file.read_text())["url"])
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab didn't start:\n{log.read_text()[-2000:]}")
