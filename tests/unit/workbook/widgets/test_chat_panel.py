"""The chat panel without a browser: what happens to a question that gets no answer, and how to start over."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import pytest
from stub_server import CHAT, StubService, chat, delta, error_body, event, stream

from foundry_lab import FoundryAPIClient, SyncFoundryAPIClient, errors
from foundry_lab.workbook.widgets.chat_panel import ChatPanel

TOO_LONG = stream(event(error_body("request requires 9043 total tokens, which exceeds the context length")))
RULE = {"role": "system", "content": "Be brief."}


@contextlib.contextmanager
def open_panel(stub: StubService) -> Iterator[ChatPanel]:
    panel = ChatPanel(FoundryAPIClient(stub.url, retries=0), system=RULE["content"])
    try:
        yield panel
    finally:
        panel.close()


@pytest.fixture
def stub() -> Iterator[StubService]:
    with StubService() as stub:
        yield stub


def ask(panel: ChatPanel, text: str) -> None:
    """Type and send, as a learner does; wait for the answer."""
    panel.text.value = text
    panel.send_button.click()
    panel.wait(20)


def test_a_question_without_an_answer_goes_back_and_the_next_one_is_answered(stub: StubService) -> None:
    stub.on("POST", CHAT, TOO_LONG, chat("hello"))
    with open_panel(stub) as panel:
        ask(panel, "word " * 20 + "end")
        assert panel.text.value == "word " * 20 + "end"
        assert panel.messages == [RULE] and panel.status.value == "failed"
        assert "context length" in panel.transcript_view.value and "Clear" in panel.transcript_view.value

        ask(panel, "Hi")
        assert [message["content"] for message in stub.seen[-1].json["messages"]] == ["Be brief.", "Hi"]
        assert panel.messages[1:] == [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "hello"},
        ]
        assert panel.text.value == "" and "context length" not in panel.transcript_view.value


def test_what_was_typed_meanwhile_stays(stub: StubService) -> None:
    stub.on("POST", CHAT, stream(then="hang"))
    with open_panel(stub) as panel:
        panel.send("A question.")
        panel.text.value = "And another"
        panel.stop()
        panel.wait(20)
        assert panel.text.value == "A question. And another"
        assert panel.messages == [RULE] and panel.status.value == "stopped"


def test_half_an_answer_stays_in_the_conversation(stub: StubService) -> None:
    stub.on("POST", CHAT, stream(delta("so "), delta("far"), then="reset"))
    with open_panel(stub) as panel:
        ask(panel, "Hi")
        assert panel.status.value.startswith("failed") and panel.text.value == ""
        assert [message["content"] for message in panel.messages[1:]] == ["Hi", "so far"]


def test_clear_starts_over_and_keeps_the_system_prompt(stub: StubService) -> None:
    with open_panel(stub) as panel:
        ask(panel, "Hi")
        panel.clear_button.click()
        assert panel.messages == [RULE] and "Hi" not in panel.transcript_view.value
        ask(panel, "Again")
        assert [message["content"] for message in stub.seen[-1].json["messages"]] == ["Be brief.", "Again"]


def test_clear_waits_for_the_answer_that_is_being_written(stub: StubService) -> None:
    stub.on("POST", CHAT, stream(delta("a"), then="hang"))
    with open_panel(stub) as panel:
        panel.send("Hi")
        assert panel.clear_button.disabled
        panel.clear()
        assert panel.messages[-1] == {"role": "user", "content": "Hi"}


def test_a_conversation_that_cannot_be_sent_leaves_the_panel_usable(stub: StubService) -> None:
    with open_panel(stub) as panel:
        panel.messages.append({"no": "role"})
        with pytest.raises(errors.ConfigurationError):
            panel.send("Hi")
        assert not panel.busy
        panel.messages.pop()
        ask(panel, "Hi")
        assert panel.messages[-1]["role"] == "assistant"


def test_a_conversation_with_other_turns_is_shown(stub: StubService) -> None:
    """One that was taken from elsewhere: a call of a tool, its result, text in parts."""
    told = [
        {"role": "user", "content": [{"type": "text", "text": "Two?"}]},
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "add"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "<4>"},
    ]
    with open_panel(stub) as panel:
        panel.messages.extend(told)
        ask(panel, "So?")
        assert panel.messages[-1] == {"role": "assistant", "content": "hello"}
        shown = panel.transcript_view.value
        assert "<b>tool:</b> &lt;4&gt;" in shown and "Two?" in shown and "<b>Model:</b> hello" in shown
        assert "tool: <4>" in repr(panel)


def test_every_input_has_a_label_and_every_turn_a_speaker(stub: StubService) -> None:
    with open_panel(stub) as panel:
        labels = [box.description for box in (panel.text, panel.temperature, panel.max_tokens)]
        assert labels == ["Question", "temperature", "max_tokens"]
        ask(panel, "Hi")
        assert "<b>You:</b> Hi" in panel._html() and "<b>Model:</b> hello" in panel._html()


def test_a_panel_of_the_wrong_client_is_refused_and_forgotten() -> None:
    """ipywidgets closes what is forgotten, half made or not."""
    with pytest.raises(errors.ConfigurationError, match="the async one"):
        ChatPanel(SyncFoundryAPIClient("http://127.0.0.1:1"))  # type: ignore[arg-type]
    gc.collect()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"temperature": 2.5}, "from 0 to 2"),
        ({"temperature": float("nan")}, "from 0 to 2"),
        ({"temperature": "hot"}, "from 0 to 2"),
        ({"max_tokens": 0}, "whole number from 1"),
        ({"max_tokens": 1000}, "at most 500"),
        ({"system": 5}, "system is a int"),
    ],
    ids=str,
)
def test_a_setting_that_its_box_cant_hold_is_refused(setting: dict[str, Any], said: str) -> None:
    """The boxes cut 1000 tokens to 500, and a temperature of 2.5 to 2, without a word."""
    with pytest.raises(errors.ConfigurationError, match=said):
        ChatPanel(FoundryAPIClient("http://127.0.0.1:1"), **setting)
    gc.collect()


def test_a_question_is_a_text(stub: StubService) -> None:
    with open_panel(stub) as panel, pytest.raises(errors.ConfigurationError, match="prompt is a NoneType"):
        panel.send(None)  # type: ignore[arg-type]


def test_without_a_kernel_the_conversation_can_be_read(stub: StubService) -> None:
    stub.on("POST", CHAT, stream(delta("Four <b>.")))
    with open_panel(stub) as panel:
        assert "run this cell" in panel._repr_mimebundle_()["text/html"]
        ask(panel, "Two and two?")
        page = panel._repr_mimebundle_()["text/html"]
        assert "Two and two?" in page and "Four &lt;b&gt;." in page and "Be brief." not in page
