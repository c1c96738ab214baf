"""The chat panel as a learner uses it: JupyterLab in headless Chromium, the real service behind it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import START_S, open_notebook, run_cell
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

CODE = """\
from foundry_lab import Fault, FaultProxy, FoundryAPIClient, ensure_service
from foundry_lab.workbook.widgets import ChatPanel

proxy = FaultProxy(ensure_service()).start()
proxy.script(Fault("drip", delay_s=0.01, route="/v1/chat/completions"))  # the first answer takes a minute
panel = ChatPanel(FoundryAPIClient(proxy.url, timeout=300), temperature=0, max_tokens=500)
panel"""


@pytest.fixture
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_notebook(tmp_path_factory.mktemp("lab"), CODE) as page:
        yield page


def test_type_send_watch_stop_and_go_on(page: Page, tmp_path: Path) -> None:
    expect.set_options(timeout=START_S * 1000)
    run_cell(page)
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
    expect(page.get_by_text(re.compile("^stopped"))).to_be_visible()
    stopped = answers.inner_text()
    page.wait_for_timeout(500)
    assert answers.inner_text() == stopped
    expect(stop).to_be_disabled()

    text.fill("Name three colours.")
    page.get_by_role("button", name="Send").click()
    expect(answers).to_have_count(2)
    # how long the second answer gets depends on where the first one was stopped
    expect(page.get_by_text("tokens/s")).to_contain_text(re.compile("done|cut at max_tokens"))
    expect(text).to_have_value("")
    page.screenshot(path=tmp_path / "done.png")
    assert (tmp_path / "done.png").stat().st_size > 10_000

    text.fill("word " * 9000)  # more than the model can hold
    text.press("Enter")
    expect(page.get_by_text("failed", exact=True)).to_be_visible()
    expect(answers).to_have_count(2)
    assert text.input_value().startswith("word word"), "the question comes back"
    page.screenshot(path=tmp_path / "failed.png")

    clear = page.get_by_role("button", name="Clear", exact=True)
    clear.focus()
    page.keyboard.press("Enter")
    expect(answers).to_have_count(0)
    expect(text).not_to_be_empty()
