"""A streamed answer without I/O: bytes in, in any split, chunks out."""

from foundry_lab.errors import FoundryError, ResponseFormatError, StreamInterruptedError
from foundry_lab.protocol.failure import error_in_body
from foundry_lab.protocol.reply import UNREADABLE, Chat, Message, chat_decoder, excerpt, usage_of
from foundry_lab.protocol.request import MAX_BODY_BYTES
from foundry_lab.protocol.sse import DEFAULT_MAX_EVENT_BYTES, Event, SSEDecoder
from foundry_lab.types import Chunk, Usage

_SILENT = Message()
PIECE_BYTES = 64
"""What a piece takes in memory besides its text."""


class ChatStream:
    """Turns the bytes of a streamed answer into chunks, and knows whether it is complete.

    Attributes:
        parts: the texts so far. thoughts: the reasoning texts, which are no part of the answer.
        finish_reason, usage, model: as soon as the service has said them.
        done: `[DONE]` has come; what comes after it is ignored.
        failure: what broke the stream behind the chunks that `feed` returned last: to be raised when they are
            delivered, in place of reading on. So it doesn't matter how the network cut the stream.
    """

    def __init__(self, request_id: str = "", max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES) -> None:
        self._decoder = SSEDecoder(max_event_bytes)
        self._request_id = request_id
        self._index: object = None  # of the choice that is read, where the service sends several: the first
        self._room = MAX_BODY_BYTES  # for what is still to come
        self.parts: list[str] = []
        self.thoughts: list[str] = []
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.model = ""
        self.done = False
        self.failure: FoundryError | None = None

    def feed(self, data: bytes, elapsed_s: float) -> list[Chunk]:
        """Take the next bytes, which arrived `elapsed_s` seconds after the call; return their chunks.

        An error that arrives together with chunks is in `failure` then, and raised without any.

        Raises:
            APIStatusError: an error event, which Foundry Local sends inside a 200.
            ResponseFormatError: an event that isn't a chat-completion chunk, or an endless one.
        """
        chunks: list[Chunk] = []
        try:
            for event in self._decoder.events(data):
                if (chunk := self._chunk(event, elapsed_s)) is not None:
                    chunks.append(chunk)
                if self.done:
                    break
        except FoundryError as error:
            if not chunks:
                raise
            self.failure = error
        return chunks

    def _chunk(self, event: Event, elapsed_s: float) -> Chunk | None:
        """Take note of an event; return its chunk if it says something to the reader."""
        if self.done:
            return None
        try:
            chat: Chat = chat_decoder.decode(event.data)
        except UNREADABLE as error:
            word = event.data.strip()
            if word == b"[DONE]":
                self.done = True
            elif word not in (b"", b"null"):
                raise self._no_chunk(event, error) from None
            return None
        if chat.error:
            raise error_in_body(chat.error, self._request_id)
        if chat.usage:
            self.usage = usage_of(chat.usage) or self.usage
        if not chat.choices:
            if event.event == "error" or chat.object == "error":
                raise error_in_body(excerpt(event.data), self._request_id)
            return None
        if self._index is None:
            self._index = chat.choices[0].index
        for choice in chat.choices:
            if choice.index == self._index:
                break
        else:
            return None
        if (delta := choice.delta) is None:
            if choice.message is not None or choice.text is not None:
                raise self._no_chunk(event, "its choice holds no delta")
            delta = _SILENT
        if not self.model:
            self.model = chat.model or ""
        content = delta.content or ""
        thought = delta.thought if delta.reasoning_content or delta.reasoning else ""  # a call costs
        finish_reason = choice.finish_reason or None  # some send "" until they know
        if not (content or thought or finish_reason or delta.tool_calls):
            return None  # such as the first event, which names the role
        if content:
            self.parts.append(content)
        if thought:
            self.thoughts.append(thought)
        self.finish_reason = finish_reason or self.finish_reason
        self._room -= len(content) + len(thought) + PIECE_BYTES
        if self._room < 0:
            raise ResponseFormatError(
                f"The stream sent more text than a client keeps ({MAX_BODY_BYTES:,} bytes), so it was given "
                "up. Ask for fewer max_tokens, and check that the endpoint is Foundry Local."
            )
        return Chunk(
            content=content,
            elapsed_s=elapsed_s,
            finish_reason=finish_reason,
            reasoning=thought,
            tool_calls=tuple(delta.tool_calls) if delta.tool_calls else (),
        )

    def _no_chunk(self, event: Event, why: object) -> ResponseFormatError:
        return ResponseFormatError(
            f"The stream sent an event that is no chat-completion chunk ({why}): {excerpt(event.data)}. "
            "Check that the endpoint is Foundry Local, or try again."
        )

    def end(self) -> None:
        """Say that no more bytes come.

        Raises:
            StreamInterruptedError: the answer isn't complete; `.partial` holds what had arrived.
        """
        if not self.done and self.finish_reason is None:
            raise StreamInterruptedError(
                f"The stream ended after {len(self.parts)} pieces without saying that it was done: the "
                "service stopped or the connection broke. The text so far is in .partial; ask again for a "
                "whole answer.",
                partial="".join(self.parts),
            )
