"""The chat panel as a learner uses it: JupyterLab in headless Chromium, the real service behind it."""

from __future__ import annotations

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
from playwright.sync_api import Page, expect, sync_playwright

from foundry_lab import engine

pytestmark = pytest.mark.browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",  # as root, in containers
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TOKEN = "browser-test"
START_S = 60.0
CODE = "from foundry_lab.widgets import ChatPanel\n\npanel = ChatPanel(temperature=0, max_tokens=500)\npanel"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a JupyterLab of the test's own, with one notebook; it keeps off the user's settings."""
    home = tmp_path_factory.mktemp("lab")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE)])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (home / "root").mkdir()
    nbformat.write(book, home / "root" / "panel.ipynb")
    places = ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR")
    environment = {
        **os.environ,
        **{name: str(home / name.lower()) for name in (*places, "JUPYTERLAB_WORKSPACES_DIR")},
        "FOUNDRY_ENDPOINT": engine.ensure_service(),
    }
    with (home / "lab.log").open("wb") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
                *("--port=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={home / 'root'}"),
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
            try:
                return str(json.loads(file.read_text())["url"])
            except ValueError:  # half written
                pass
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab didn't start:\n{log.read_text()[-2000:]}")


@pytest.fixture
def page(lab: str) -> Iterator[Page]:
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Chromium is installed: apt-get install chromium, or its like")
        pytest.skip("no Chromium is installed, so the panel isn't tried in a browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(START_S * 1000)
        page.goto(f"{lab}lab/tree/panel.ipynb?reset&token={TOKEN}")
        yield page
        browser.close()


def test_type_send_watch_stop_and_go_on(page: Page, tmp_path: Path) -> None:
    expect.set_options(timeout=START_S * 1000)
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible()
    page.locator(".jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    text = page.get_by_placeholder("Ask something and press Enter")
    answers = page.locator(".fl-chat .assistant")
    stop = page.get_by_role("button", name="Stop")
    expect(text).to_be_visible()
    expect(stop).to_be_disabled()

    text.fill("Tell a long story about the sea.")
    text.press("Enter")
    expect(page.locator(".fl-chat .user")).to_have_text("Tell a long story about the sea.")
    expect(page.get_by_text("tokens/s")).to_contain_text("writing")
    early = answers.inner_text()
    expect(answers).not_to_have_text(early)
    assert answers.inner_text().startswith(early.removesuffix("…")), "the answer grows"
    page.screenshot(path=tmp_path / "writing.png")

    stop.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("stopped")).to_be_visible()
    stopped = answers.inner_text()
    page.wait_for_timeout(500)
    assert answers.inner_text() == stopped
    expect(stop).to_be_disabled()

    text.fill("Name three colours.")
    page.get_by_role("button", name="Send").click()
    expect(answers).to_have_count(2)
    expect(page.get_by_text("tokens/s")).to_contain_text("done")
    expect(text).to_have_value("")
    page.screenshot(path=tmp_path / "done.png")
    assert (tmp_path / "done.png").stat().st_size > 10_000
