"""The service's contract without I/O: requests as bytes, replies as typed results.

Both clients share everything here, and nothing here opens a connection. Routes and shapes were read off
foundry-local-sdk 2.2; the chat part is OpenAI's chat completions format.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from .errors import (
    APIStatusError,
    ConfigurationError,
    FoundryError,
    ResponseFormatError,
    StreamInterruptedError,
)
from .replies import UNREADABLE, ErrorBody, Reply, error_in_body, excerpt, raise_for_status, unexpected
from .sse import DEFAULT_MAX_EVENT_BYTES, Event, SSEDecoder
from .types import Chunk, Completion, Usage

CHAT_PATH = "/v1/chat/completions"
MAX_BODY_BYTES = 64 * 1024 * 1024


class Call(msgspec.Struct, frozen=True):
    """One request, ready for a transport.

    Attributes:
        generates: it makes the model work.
        control: it goes to the lab service's own control route instead of the REST service.
        cacheable: the response cache may answer it.
        on_data: called with each piece of a successful reply as it arrives.
        once: it is sent as it is, past retries and breaker: a look at the service must show its state.
    """

    method: str
    path: str
    body: bytes | None = None
    generates: bool = False
    control: bool = False
    cacheable: bool = False
    once: bool = False
    on_data: Callable[[bytes], None] | None = None


# --- requests -------------------------------------------------------------------------------------------


def build_messages(
    prompt: str | None, messages: Sequence[Mapping[str, Any]] | None, system: str | None
) -> list[dict[str, Any]]:
    """Return the chat messages for a prompt, or for messages, with a system prompt in front.

    Raises:
        ConfigurationError: neither or both were given, or a message has no role.
    """
    if (prompt is None) == (messages is None):
        raise ConfigurationError(
            'Give either a prompt or messages: complete("Hello") or complete(messages=[…]).'
        )
    if prompt is not None:
        if not isinstance(prompt, str):
            raise ConfigurationError(
                f"The prompt is a {type(prompt).__name__}; give a string, or messages=[…] for a conversation."
            )
        messages = [{"role": "user", "content": prompt}]
    if not isinstance(messages, (list, tuple)) or not messages:
        raise ConfigurationError(
            f'messages={messages!r} must be a list with at least {{"role": "user", "content": "…"}} in it.'
        )
    for number, message in enumerate(messages, 1):
        if not (
            isinstance(message, Mapping)
            and isinstance(message.get("role"), str)
            and ("content" in message or "tool_calls" in message)
        ):
            raise ConfigurationError(
                f"Message {number} is {message!r}; each needs a role and a content, such as "
                '{"role": "user", "content": "Hello"}.'
            )
    chat = [dict(message) for message in messages]
    if system is None:
        return chat
    if not isinstance(system, str):
        raise ConfigurationError(f"system={system!r} must be a text.")
    return [{"role": "system", "content": system}, *chat]


def build_chat(
    model: str, fields: Mapping[str, Any], *, stream: bool = False, cacheable: bool = False
) -> Call:
    """Return the chat-completion request. Fields that are None are left out.

    Raises:
        ConfigurationError: a value of the wrong type, or one that JSON can't carry, such as NaN.
    """
    body = {"model": model, **{name: value for name, value in fields.items() if value is not None}}
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    _check_types(body)
    try:
        return Call("POST", CHAT_PATH, msgspec.json.encode(body), generates=True, cacheable=cacheable)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"The request can't be written as JSON: {error}.") from error


# --- replies --------------------------------------------------------------------------------------------


_TYPES: dict[str, tuple[tuple[Any, ...], str]] = {
    "max_tokens": ((int,), "a whole number"),
    "max_completion_tokens": ((int,), "a whole number"),
    "temperature": ((int, float), "a number"),
    "top_p": ((int, float), "a number"),
    "seed": ((int,), "a whole number"),
    "stop": ((str, list, tuple), "a string or a list of strings"),
    "tools": ((list, tuple), "a list of tools"),
    "response_format": ((Mapping,), 'a dict, such as {"type": "json_object"}'),
}


def _check_types(fields: Mapping[str, Any]) -> None:
    """Refuse what the service would ignore: it takes a value of the wrong type for not given."""
    for name, value in fields.items():
        if (rule := _TYPES.get(name)) is None:
            continue
        types, words = rule
        if not isinstance(value, types) or isinstance(value, bool):
            raise ConfigurationError(f"{name}={value!r} must be {words}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigurationError(f"{name}={value} can't be sent; give a finite number.")
        if name == "stop" and not all(isinstance(each, str) for each in value):
            raise ConfigurationError(f"stop={value!r} must be {words}.")


class _Message(msgspec.Struct):
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    message: _Message = msgspec.field(default_factory=_Message)
    delta: _Message | None = None
    finish_reason: str | None = None


class _Chat(msgspec.Struct):
    """A whole answer and a streamed event alike: they differ in `message` against `delta`."""

    choices: list[_Choice] = []
    id: str = ""
    model: str = ""
    usage: Usage | None = None
    error: ErrorBody | str | None = None


_chat_decoder = msgspec.json.Decoder(_Chat)
_SILENT = _Message()


def decode(reply: Reply, shape: type[Any], what: str) -> Any:
    """Return a successful reply's body as `shape`.

    Raises:
        ResponseFormatError: the body isn't that shape.
    """
    try:
        return msgspec.json.decode(reply.body, type=shape)
    except UNREADABLE as error:
        raise unexpected(reply, what, error) from None


def parse_completion(reply: Reply, latency_s: float) -> Completion:
    """Return the typed answer of a request that didn't stream.

    Raises:
        APIStatusError: the body is an error, in spite of its status.
        ResponseFormatError: the reply isn't a chat completion.
    """
    try:
        chat: _Chat = _chat_decoder.decode(reply.body)
    except UNREADABLE as error:
        raise unexpected(reply, "a chat completion", error) from None
    if chat.error is not None:
        raise error_in_body(chat.error, reply.request_id)
    if not chat.choices:
        raise unexpected(reply, "a chat completion", "it holds no choices")
    choice = chat.choices[0]
    return Completion(
        content=choice.message.content or "",
        model=chat.model,
        finish_reason=choice.finish_reason,
        usage=chat.usage,
        latency_s=latency_s,
        id=chat.id,
        request_id=reply.request_id,
        attempts=reply.attempts,
        tool_calls=tuple(choice.message.tool_calls or ()),
        cached=reply.cached,
    )


class ChatStream:
    """Turns the bytes of a streamed answer into chunks, and knows whether it is complete.

    Attributes:
        parts: the texts so far. finish_reason, usage, model, id: as soon as the service has said them.
        done: `[DONE]` has come; what comes after it is ignored.
    """

    def __init__(self, request_id: str = "", max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES) -> None:
        self._decoder = SSEDecoder(max_event_bytes)
        self._request_id = request_id
        self.parts: list[str] = []
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.model = ""
        self.id = ""
        self.done = False

    def feed(self, data: bytes, elapsed_s: float) -> list[Chunk]:
        """Take the next bytes, which arrived `elapsed_s` seconds after the call; return their chunks.

        Raises:
            APIStatusError: an error event, which Foundry Local sends inside a 200.
            ResponseFormatError: an event that isn't a chat-completion chunk, or an endless one.
        """
        chunks: list[Chunk] = []
        for event in self._decoder.feed(data):
            if self.done:
                break
            if event.data == b"[DONE]":
                self.done = True
                break
            chat = self._decode(event)
            if chat.error is not None:
                raise error_in_body(chat.error, self._request_id)
            if chat.usage is not None:
                self.usage = chat.usage
            if not chat.choices:
                continue
            choice = chat.choices[0]
            delta = choice.delta or _SILENT
            if not self.model:
                self.model, self.id = chat.model, chat.id
            if choice.finish_reason is not None:
                self.finish_reason = choice.finish_reason
            if delta.content:
                self.parts.append(delta.content)
            elif choice.finish_reason is None and not delta.tool_calls:
                continue  # the first event only names the role
            chunks.append(
                Chunk(
                    content=delta.content or "",
                    elapsed_s=elapsed_s,
                    finish_reason=choice.finish_reason,
                    tool_calls=tuple(delta.tool_calls) if delta.tool_calls else (),
                )
            )
        return chunks

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

    def broken(self, error: FoundryError) -> FoundryError:
        """Return the error for a broken connection, with the text that had arrived."""
        if isinstance(error, StreamInterruptedError):
            error.partial = "".join(self.parts)
        return error

    def _decode(self, event: Event) -> _Chat:
        try:
            return _chat_decoder.decode(event.data)
        except UNREADABLE as error:
            raise ResponseFormatError(
                f"The stream sent an event that is no chat-completion chunk ({error}): "
                f"{excerpt(event.data)}. Check that the endpoint is Foundry Local, or try again."
            ) from None


def is_event_stream(reply: Reply) -> bool:
    """Return whether the headers promise a stream. Foundry Local names the type twice in one header."""
    return "text/event-stream" in reply.headers.get("Content-Type", "").lower()


def not_a_stream(reply: Reply) -> APIStatusError | ResponseFormatError:
    """Return the error for a reply that isn't the stream that was asked for."""
    try:
        raise_for_status(reply)
    except (APIStatusError, ResponseFormatError) as error:
        return error
    return unexpected(reply, "an event stream", "its content type is another")
