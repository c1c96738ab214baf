"""The chat panel as a learner uses it: JupyterLab in headless Chromium, the real service behind it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab, faint_texts, run_cell, use_theme
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

CODE = """\
from foundry_lab import Fault, FaultProxy, FoundryAPIClient, ensure_service
from foundry_lab.workbook.widgets import ChatPanel

proxy = FaultProxy(ensure_service()).start()
proxy.script(Fault("drip", delay_s=0.01, route="/v1/chat/completions"))  # the first answer takes a minute
panel = ChatPanel(FoundryAPIClient(proxy.url, timeout=300), temperature=0, max_tokens=120)
panel"""


@pytest.fixture
def page(jupyterlab: Lab) -> Iterator[Page]:
    with jupyterlab.open(CODE) as page:
        run_cell(page)
        yield page


def test_type_send_watch_stop_and_go_on(page: Page, tmp_path: Path) -> None:
    text = page.get_by_label("Question")
    answers = page.locator(".fl-chat .assistant")
    stop = page.get_by_role("button", name="Stop", exact=True)
    expect(text).to_be_visible()
    expect(stop).to_be_disabled()
    for label, value in (("temperature", "0"), ("max_tokens", "120")):
        expect(page.get_by_label(label)).to_have_value(value)

    text.fill("Tell a long story about the sea.")
    text.press("Enter")
    expect(page.locator(".fl-chat .user")).to_have_text("You: Tell a long story about the sea.")
    expect(page.get_by_text("tokens/s")).to_contain_text("writing")
    early = answers.inner_text()
    expect(answers).not_to_have_text(early)
    assert answers.inner_text().startswith(early.removesuffix("…")), "the answer grows"

    stop.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text(re.compile("^stopped"))).to_be_visible()
    stopped = answers.inner_text()
    page.wait_for_timeout(500)
    assert answers.inner_text() == stopped
    expect(stop).to_be_disabled()

    status = page.get_by_text(re.compile("^(done|cut at max_tokens), .* tokens/s"))
    for number, question in enumerate(("Name three colours.", "Tell a story about a mill."), 2):
        text.fill(question)
        page.get_by_role("button", name="Send").click()
        expect(answers).to_have_count(number)
        expect(status).to_be_visible()
        expect(text).to_have_value("")
    # The newest is in sight, its question as far as it fits; what was said first has left the box.
    page.wait_for_timeout(500)  # the state is shown before the last of the text is
    expect(answers.last).to_be_in_viewport()
    box = page.locator(".fl-live").bounding_box()
    last, first = answers.last.bounding_box(), answers.first.bounding_box()
    assert box and last and first
    assert last["y"] + last["height"] <= box["y"] + box["height"] + 1
    assert box["height"] <= 361
    page.screenshot(path=tmp_path / "done.png")
    assert status.evaluate("label => label.scrollWidth <= label.clientWidth"), "the status is cut"

    text.fill("word " * 9000)  # more than the model can hold
    text.press("Enter")
    expect(page.get_by_text("failed", exact=True)).to_be_visible()
    expect(answers).to_have_count(3)
    assert text.input_value().startswith("word word"), "the question comes back"
    expect(page.locator(".fl-chat .note")).to_be_in_viewport()
    for theme in ("light", "dark"):
        use_theme(page, theme)
        assert faint_texts(page.locator(".jp-OutputArea-output .widget-vbox")) == []
        page.screenshot(path=tmp_path / f"failed-{theme}.png")

    clear = page.get_by_role("button", name="Clear", exact=True)
    clear.focus()
    page.keyboard.press("Enter")
    expect(answers).to_have_count(0)
    expect(text).not_to_be_empty()


def test_the_third_question_and_its_answer_are_in_sight(jupyterlab: Lab, tmp_path: Path) -> None:
    """The box once stayed at its beginning: from the second question on, nothing new could be seen."""
    code = "from foundry_lab import widgets\npanel = widgets.ChatPanel(max_tokens=70, temperature=0)\npanel"
    with jupyterlab.open(code) as page:
        run_cell(page)
        text, status = page.get_by_label("Question"), page.get_by_text(re.compile("^(done|cut)"))
        for question in ("Tell me about rivers.", "And about lakes.", "And about the sea."):
            text.fill(question)
            text.press("Enter")
            expect(page.locator(".fl-chat .user").last).to_have_text(f"You: {question}")
            expect(status).to_be_visible()
        page.wait_for_timeout(500)  # the state is shown before the last of the text is
        page.screenshot(path=tmp_path / "third.png")
        talk = page.locator(".fl-live")
        assert talk.evaluate("box => box.scrollHeight > box.clientHeight"), "it all fits: nothing was tried"
        box = talk.bounding_box()
        for place in (page.locator(".fl-chat .user").last, page.locator(".fl-chat .assistant").last):
            inside = place.bounding_box()
            assert box and inside
            assert box["y"] <= inside["y"] <= inside["y"] + inside["height"] <= box["y"] + box["height"] + 1
