"""A small chat in a notebook: type, watch the tokens arrive, stop when it has said enough."""

import asyncio
import html
import time
from types import NoneType
from typing import Any

import ipywidgets
from IPython.display import HTML

from foundry_lab._ground.checks import as_number, check_count, check_kind
from foundry_lab.calls.portal import Portal, Work
from foundry_lab.calls.streams import CompletionStream
from foundry_lab.client import FoundryAPIClient
from foundry_lab.errors import ConfigurationError, ContextLengthError

REDRAW_S = 0.05
"""Time between two redraws: as fast as eyes follow, and far slower than tokens come."""
WHO = {"user": "You", "assistant": "Model"}
"""Colour and place of a turn don't tell everybody whose it is."""

_CSS = """<style>
.fl-chat {font-family: sans-serif; font-size: 14px; line-height: 1.45; max-width: 720px}
.fl-chat p {margin: 6px 0; padding: 7px 11px; border-radius: 10px; white-space: pre-wrap; color: #111}
.fl-chat .user {background: #d7e8f7; margin-left: 20%}
.fl-chat .assistant {background: #eeeeee; margin-right: 20%}
.fl-chat .note {background: #fdeaea; color: #8c1c1c; font-size: 12px}
.fl-live {max-height: 360px; overflow-y: auto; display: flex; flex-direction: column-reverse}
</style>"""
# A box whose direction is reversed keeps its end in sight while it grows. Its one child is in reading order.


MOST_TEMPERATURE = 2
MOST_TOKENS = 500


class ChatPanel(ipywidgets.VBox):
    """Chat with the loaded model. Enter sends; Tab reaches every control.

    A question that gets no answer goes back into the text box, and the conversation stays as it was.

    Args:
        client: whom to ask, used by the panel alone; by default one that finds the service by itself.
        system: a system prompt for the whole conversation.
        temperature: where its box starts, 0 to 2.
        max_tokens: where its box starts, tokens of one answer, 1 to 500.

    Raises:
        ConfigurationError: the client is another thing than an async one; a setting that the box can't hold.

    Attributes:
        messages: the conversation so far, as chat messages.
        tokens_per_s: decode throughput of the latest answer; None before it has two tokens.
    """

    def __init__(
        self,
        client: FoundryAPIClient | None = None,
        *,
        system: str | None = None,
        temperature: float = 0.7,
        max_tokens: int = 120,
    ) -> None:
        # The kernel's own loop may be busy with a cell, so answers are read in a loop of the panel's own.
        self._portal = Portal("chat-panel")
        self._work: Work[None] | None = None
        self._client = client or FoundryAPIClient()
        check_kind(self._client, "client", (FoundryAPIClient,), "a FoundryAPIClient(…), the async one")
        check_kind(system, "system", (str, NoneType), "a text")
        if not 0 <= as_number(temperature) <= MOST_TEMPERATURE:  # the boxes would cut it without a word
            raise ConfigurationError(
                f"temperature={temperature!r} must be a number from 0 to {MOST_TEMPERATURE}."
            )
        if check_count(max_tokens, "max_tokens") > MOST_TOKENS:
            raise ConfigurationError(f"max_tokens={max_tokens!r} must be at most {MOST_TOKENS} in a panel.")
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        self.tokens_per_s: float | None = None
        self._note = ""

        # A width of "initial", or the labels are cut.
        small = {"style": {"description_width": "initial"}, "layout": {"width": "170px"}}
        self.transcript_view = ipywidgets.HTML()
        self.text = ipywidgets.Text(description="Question", placeholder="Ask something and press Enter")
        self.text.layout.flex, self.text.style.description_width = "1 1 auto", "initial"
        self.send_button = ipywidgets.Button(description="Send", button_style="primary")
        self.stop_button = ipywidgets.Button(description="Stop")
        self.clear_button = ipywidgets.Button(description="Clear", tooltip="Start a new conversation")
        buttons = [self.send_button, self.stop_button, self.clear_button]
        for button in buttons:
            button.layout.width = "auto"  # or the text box has no room
        # Boxes and not sliders: a screen reader finds no label of ipywidgets' sliders.
        self.temperature = ipywidgets.BoundedFloatText(
            value=temperature, min=0, max=MOST_TEMPERATURE, step=0.1, description="temperature", **small
        )
        self.max_tokens = ipywidgets.BoundedIntText(
            value=max_tokens, min=1, max=MOST_TOKENS, description="max_tokens", **small
        )
        self.status = ipywidgets.Label()
        self.text.on_msg(self._on_text_message)
        self.send_button.on_click(lambda _: self._send_typed())
        self.stop_button.on_click(lambda _: self.stop())
        self.clear_button.on_click(lambda _: self.clear())
        asking = ipywidgets.HBox([self.text, *buttons], layout={"width": "100%"})
        settings = ipywidgets.HBox([self.temperature, self.max_tokens])
        super().__init__([self.transcript_view, asking, settings, self.status], layout={"max_width": "760px"})
        self._show("ready")

    def send(self, prompt: str) -> None:
        """Ask; the answer arrives in the background. Does nothing while one is being written.

        Raises:
            ConfigurationError: the prompt is no text.
        """
        check_kind(prompt, "prompt", (str,), "a question as text")
        if not prompt.strip() or self.busy:
            return
        messages = [*self.messages, {"role": "user", "content": prompt}]
        stream = self._client.stream_complete(
            messages=messages, temperature=self.temperature.value, max_tokens=self.max_tokens.value
        )
        self.messages, self._note = messages, ""
        self._show("waiting for the first token", growing="")
        self._work = self._portal.start(self._answer(stream))

    def stop(self) -> None:
        """End the answer that is being written; what has come stays, and the service stops generating."""
        if self._work is not None:
            self._portal.start(_cancel(self._work))

    def clear(self) -> None:
        """Start a new conversation with the same system prompt; not while an answer is being written."""
        if self.busy:
            return
        self.messages = [message for message in self.messages if message["role"] == "system"]
        self._note = ""
        self._show("ready")

    def wait(self, timeout: float | None = None) -> None:
        """Return when no answer is being written; `timeout` in seconds.

        Raises:
            TimeoutError: it isn't complete by then; it goes on.
        """
        if self._work is not None and not self._work.wait(timeout):
            raise TimeoutError(f"The answer wasn't complete within {timeout} s; panel.stop() ends it.")

    @property
    def busy(self) -> bool:
        """Whether an answer is being written."""
        return self._work is not None and not self._work.done

    def transcript(self) -> HTML:
        """Return the conversation as HTML that stays readable where widgets don't run."""
        return HTML(self._html())

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        empty = "<i>A chat panel: run this cell yourself, and type here.</i>"
        return {**bundle, "text/html": self._html() if self._turns() else empty}

    def close(self) -> None:
        """Stop, close the connection and take the panel off the page."""
        self.stop()
        self.wait(5.0)
        if self._work is not None:
            self._work = None
            self._portal.wait(self._client.close())
            self._portal.close()
        super().close()

    async def _answer(self, stream: CompletionStream) -> None:
        """Read an answer in the panel's own loop, and put it away however it ends."""
        shown_at = 0.0
        try:
            async with stream:
                async for _ in stream:
                    if time.monotonic() - shown_at > REDRAW_S:
                        shown_at = time.monotonic()
                        self._show("writing", stream.tokens_per_s, stream.text)
            outcome = "cut at max_tokens" if stream.finish_reason == "length" else "done"
        except asyncio.CancelledError:
            outcome = "stopped"
        except Exception as error:
            outcome, self._note = "failed", str(error)
            if isinstance(error, ContextLengthError):
                self._note += " The conversation counts as well: Clear starts a new one."
        if stream.text:
            self.messages.append({"role": "assistant", "content": stream.text})
        else:  # no empty turn, which would puzzle the model; the question would fail again if it was too long
            question = self.messages.pop()["content"]
            self.text.value = f"{question} {self.text.value}".rstrip()  # before what was typed meanwhile
        self._show(outcome, stream.tokens_per_s)

    def _show(self, state: str, tokens_per_s: float | None = None, growing: str | None = None) -> None:
        """Show the conversation and its state; `growing` is the answer that is being written."""
        self.tokens_per_s = tokens_per_s
        self.status.value = state if tokens_per_s is None else f"{state}, {tokens_per_s:.0f} tokens/s"
        self.send_button.disabled = self.clear_button.disabled = growing is not None
        self.stop_button.disabled = growing is None
        self.transcript_view.value = (
            '<div class="fl-live" role="log" aria-label="conversation" aria-live="polite" tabindex="0">'
            f"{self._html(growing)}</div>"
        )

    def _html(self, growing: str | None = None) -> str:
        said = self._turns()
        if growing is not None:
            said.append({"role": "assistant", "content": growing or "…"})
        turns = "".join(
            f'<p class="{m["role"]}"><b>{WHO.get(m["role"], m["role"])}:</b> '
            f"{html.escape(str(m['content']))}</p>"
            for m in said
        )
        note = f'<p class="note">{html.escape(self._note)}</p>' if self._note else ""
        return f'{_CSS}<div class="fl-chat">{turns}{note}</div>'

    def _turns(self) -> list[dict[str, Any]]:
        return [m for m in self.messages if m["role"] != "system" and m.get("content")]

    def _on_text_message(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        if content.get("event") == "submit":  # the Enter key
            self._send_typed()

    def _send_typed(self) -> None:
        if not self.busy:
            prompt, self.text.value = self.text.value, ""
            self.send(prompt)

    def __repr__(self) -> str:
        turns = [f"{m['role']}: {m.get('content')}" for m in self.messages]
        return "\n".join(["ChatPanel", *turns])


async def _cancel(work: Work[None]) -> None:
    """From within the loop: by then the coroutine has begun, so that it can put away what has come."""
    work.cancel()
