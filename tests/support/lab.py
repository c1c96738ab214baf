"""A JupyterLab of the tests' own in headless Chromium: its server, its pages, what can be read on them."""

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
from nbformat import NotebookNode
from playwright.sync_api import Locator, Page, sync_playwright

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
"""Time for what needs a second on an idle machine."""
RUN_S = 600.0
OWN_FOLDERS = (
    "JUPYTER_RUNTIME_DIR",
    "JUPYTER_CONFIG_DIR",
    "IPYTHONDIR",
    "JUPYTERLAB_SETTINGS_DIR",
    "JUPYTERLAB_WORKSPACES_DIR",
)
SETTINGS = {
    # else a pop-up asks whether one wants to read the news, and lies over what a test clicks on
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # else cells that are out of sight are not on the page
    "notebook-extension/tracker": {"windowingMode": "none"},
}
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}

# The notebook in front, as JupyterLab's own model of it.
_PANEL = "window.jupyterapp.shell.currentWidget"
_FAINT = """(root, least) => {
  const channels = text => {
    const numbers = text.match(/[\\d.]+/g).map(Number);
    return numbers.length > 3 ? numbers : [...numbers, 1];
  };
  const luminance = rgb => {
    const linear = c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = rgb.slice(0, 3).map(c => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const color = channels(getComputedStyle(element).backgroundColor);
      if (color[3] > 0.9) return color;
    }
    return [255, 255, 255, 1];
  };
  const faint = [];
  const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, words = texts.currentNode.data.trim();
    const exempt = element.closest("style, option, [aria-hidden], :disabled");
    if (exempt || !element.getClientRects().length || !/[\\p{L}\\p{N}]/u.test(words)) continue;
    const [one, other] = [channels(getComputedStyle(element).color), behind(element)].map(luminance);
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < least) faint.push(`${words.slice(0, 40)}: ${ratio.toFixed(1)}`);
  }
  return faint;
}"""


class Lab:
    """A JupyterLab server.

    Attributes:
        root: the folder that it shows.
    """

    def __init__(self, url: str, root: Path) -> None:
        self._url = url
        self.root = root

    @contextlib.contextmanager
    def browser(self) -> Iterator[None]:
        """Have a browser for the pages. While Playwright runs, no asyncio can, so it isn't the session's."""
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(
                executable_path=CHROMIUM, args=FLAGS, timeout=START_S * 1000
            )
            try:
                self._context = chromium.new_context(viewport={"width": 1200, "height": 900})
                yield
            finally:
                chromium.close()

    @contextlib.contextmanager
    def open(self, *cells: str) -> Iterator[Page]:
        """Yield a page that shows a new notebook with these cells, the kernel ready."""
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, self.root / "test.ipynb")
        with self.open_file("test.ipynb") as page:
            yield page

    @contextlib.contextmanager
    def open_file(self, name: str) -> Iterator[Page]:
        """Yield a page that shows a notebook below the root, the kernel ready; end the kernel after it."""
        page = self._context.new_page()
        page.set_default_timeout(START_S * 1000)
        try:
            page.goto(f"{self._url}lab/tree/{name}?reset&token={TOKEN}")
            page.wait_for_function(f"window.jupyterapp && {_PANEL} && {_PANEL}.sessionContext")
            page.evaluate(f"() => Promise.all([{_PANEL}.revealed, {_PANEL}.sessionContext.ready])")
            page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
            try:
                yield page
            finally:
                page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
        finally:
            page.close()


@contextlib.contextmanager
def serve(home: Path) -> Iterator[Lab]:
    """Yield a JupyterLab of its own.

    Args:
        home: an empty folder; the server keeps off the user's settings.
    """
    (home / "root").mkdir()
    for name, values in SETTINGS.items():
        file = home / "jupyterlab_settings_dir" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    environment = {**os.environ, **{name: str(home / name.lower()) for name in OWN_FOLDERS}}
    with (home / "lab.log").open("wb") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
                *("--port=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={home / 'root'}"),
                *("--expose-app-in-browser", "--ServerApp.terminals_enabled=False"),
                "--ServerApp.kernel_spec_manager_class=foundry_lab.workbook.kernel.ThisPythonSpecManager",
            ],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            yield Lab(_address(home / "jupyter_runtime_dir", server, home / "lab.log"), home / "root")
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def require_chromium() -> None:
    """Skip the test where there is no browser, except in CI, where that is a failure."""
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Chromium is installed: apt-get install chromium, or its like")
        pytest.skip("no Chromium is installed, so nothing is tried in a browser")


def run_cell(page: Page, number: int = 0) -> None:
    """Run the cell with this number, from 0, as a reader does; don't wait for its end."""
    page.locator(".jp-CodeCell").nth(number).locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")


def run_all(page: Page) -> NotebookNode:
    """Run the notebook's cells as "Run All Cells" does; return the notebook with its outputs."""
    page.evaluate(
        "() => { window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => window.ran = true) }"
    )
    page.wait_for_function("window.ran", timeout=RUN_S * 1000, polling=200)
    return nbformat.reads(
        page.evaluate(f"() => JSON.stringify({_PANEL}.content.model.toJSON())"), as_version=4
    )


def save(page: Page) -> None:
    """Save the notebook."""
    page.evaluate(f"() => {_PANEL}.context.save()")


def use_theme(page: Page, name: str) -> None:
    """Change to the "light" or the "dark" theme."""
    page.evaluate(
        "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", THEMES[name]
    )
    page.locator(f'body[data-jp-theme-name="{THEMES[name]}"]').wait_for(state="attached")
    page.locator("#jupyterlab-splash").wait_for(state="detached")


def faint_texts(place: Locator, least: float = 4.5) -> list[str]:
    """Return the texts whose contrast is below what WCAG 2.1 asks for (level AA: 4.5 to 1)."""
    found: list[str] = place.evaluate(_FAINT, least)
    return found


def picture_of(page: Page, file: Path) -> None:
    """Take a picture of the whole notebook, for people to look at."""
    pages = page.locator(".jp-Notebook .jp-WindowedPanel-outer")
    height = pages.evaluate("outer => outer.scrollHeight")
    page.set_viewport_size({"width": 1200, "height": min(int(height) + 120, 12_000)})
    pages.evaluate("outer => outer.scrollTo(0, 0)")
    page.screenshot(path=file)
    page.set_viewport_size({"width": 1200, "height": 900})


def _address(runtime: Path, server: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        for file in runtime.glob("jpserver-*.json"):
            with contextlib.suppress(ValueError):  # half written
                return str(json.loads(file.read_text())["url"])
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab didn't start:\n{log.read_text()[-2000:]}")
