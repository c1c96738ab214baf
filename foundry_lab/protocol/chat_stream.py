"""A streamed answer without I/O: bytes in, in any split, chunks out."""

from __future__ import annotations

from foundry_lab.errors import FoundryError, ResponseFormatError, StreamInterruptedError
from foundry_lab.protocol.reply import UNREADABLE, Chat, Message, chat_decoder, error_in_body, excerpt
from foundry_lab.protocol.sse import DEFAULT_MAX_EVENT_BYTES, Event, SSEDecoder
from foundry_lab.types import Chunk, Usage

_SILENT = Message()


class ChatStream:
    """Turns the bytes of a streamed answer into chunks, and knows whether it is complete.

    Attributes:
        parts: the texts so far. finish_reason, usage, model, id: as soon as the service has said them.
    """

    def __init__(self, request_id: str = "", max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES) -> None:
        self._decoder = SSEDecoder(max_event_bytes)
        self._request_id = request_id
        self.parts: list[str] = []
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.model = ""
        self.id = ""
        self._done = False
        self._held: FoundryError | None = None

    @property
    def done(self) -> bool:
        """Whether `[DONE]` has come; what comes after it is ignored.

        Raises:
            FoundryError: what `feed` found behind the last chunks.
        """
        if self._held is not None:
            raise self._held
        return self._done

    @done.setter
    def done(self, done: bool) -> None:
        self._done = done

    def feed(self, data: bytes, elapsed_s: float) -> list[Chunk]:
        """Take the next bytes, which arrived `elapsed_s` seconds after the call; return their chunks.

        An error that arrives together with chunks waits until they are delivered: the next `feed`, `done` or
        `end` raises it. So it doesn't matter how the network cut the stream.

        Raises:
            APIStatusError: an error event, which Foundry Local sends inside a 200.
            ResponseFormatError: an event that isn't a chat-completion chunk, or an endless one.
        """
        if self._held is not None:
            raise self._held
        chunks: list[Chunk] = []
        if self._done:
            return chunks
        try:
            for event in self._decoder.feed(data):
                if event.data == b"[DONE]":
                    self._done = True
                    return chunks
                if (chunk := self._chunk(event, elapsed_s)) is not None:
                    chunks.append(chunk)
            if self._decoder.failure is not None:
                raise self._decoder.failure
        except FoundryError as error:
            if not chunks:
                raise
            self._held = error
        return chunks

    def _chunk(self, event: Event, elapsed_s: float) -> Chunk | None:
        """Take note of an event; return its chunk if it says something to the reader."""
        try:
            chat: Chat = chat_decoder.decode(event.data)
        except UNREADABLE as error:
            raise ResponseFormatError(
                f"The stream sent an event that is no chat-completion chunk ({error}): "
                f"{excerpt(event.data)}. Check that the endpoint is Foundry Local, or try again."
            ) from None
        if chat.error is not None:
            raise error_in_body(chat.error, self._request_id)
        if chat.usage is not None:
            self.usage = chat.usage
        if not chat.choices:
            return None
        choice = chat.choices[0]
        delta = choice.delta or _SILENT
        if not self.model:
            self.model, self.id = chat.model, chat.id
        if choice.finish_reason is not None:
            self.finish_reason = choice.finish_reason
        if delta.content:
            self.parts.append(delta.content)
        elif choice.finish_reason is None and not delta.tool_calls:
            return None  # the first event only names the role
        return Chunk(
            content=delta.content or "",
            elapsed_s=elapsed_s,
            finish_reason=choice.finish_reason,
            tool_calls=tuple(delta.tool_calls) if delta.tool_calls else (),
        )

    def end(self) -> None:
        """Say that no more bytes come.

        Raises:
            StreamInterruptedError: the answer isn't complete; `.partial` holds what had arrived.
            FoundryError: what `feed` found behind the last chunks.
        """
        if not self.done and self.finish_reason is None:
            raise StreamInterruptedError(
                f"The stream ended after {len(self.parts)} pieces without saying that it was done: the "
                "service stopped or the connection broke. The text so far is in .partial; ask again for a "
                "whole answer.",
                partial="".join(self.parts),
            )

    def broken(self, error: FoundryError) -> FoundryError:
        """Return the error for a broken connection, with the text that had arrived."""
        if isinstance(error, StreamInterruptedError):
            error.partial = "".join(self.parts)
        return error
