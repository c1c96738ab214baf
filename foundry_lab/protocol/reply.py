"""What came back: who answered, and what, as typed results."""

from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec
from multidict import CIMultiDict

from foundry_lab.errors import ResponseFormatError
from foundry_lab.protocol.failure import ErrorBody, error_in_body, retry_after, status_error
from foundry_lab.types import Completion, Count, Usage

UNREADABLE = (ValueError, RecursionError)
"""What msgspec raises for a body that isn't the JSON it should be."""


class Reply(msgspec.Struct, frozen=True):
    """What came back, read to its end. Header names are matched without regard to case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    request_id: str = ""
    attempts: int = 1
    cached: bool = False


class _Failure(msgspec.Struct):
    error: ErrorBody | str | None = None


def raise_for_status(reply: Reply) -> None:
    """Raise the error of the tree that fits a reply which isn't a success.

    Raises:
        APIStatusError: or the subclass for its status and message.
    """
    if reply.status < 300:
        return
    try:
        error = msgspec.json.decode(reply.body, type=_Failure).error
    except UNREADABLE:
        error = None
    wait = retry_after(reply.headers)
    foreign = not error  # not in the service's words: an unknown route, a proxy, somebody else's server
    words = error or f"{excerpt(reply.body)} ({_sender(reply)})"
    raise status_error(reply.status, words, retry_after=wait, request_id=reply.request_id, foreign=foreign)


def unexpected(reply: Reply, what: str, why: object) -> ResponseFormatError:
    """Return the complaint about an answer that isn't `what`; it says who answered and how."""
    return ResponseFormatError(
        f"Expected {what} but can't read the answer ({why}). Status {reply.status}, {_sender(reply)}, body "
        f"{excerpt(reply.body)}. Check that the endpoint is a Foundry Local service."
    )


def excerpt(body: bytes, length: int = 120) -> str:
    """Return the beginning of a body for a message, in one line."""
    text = " ".join(body[: 4 * length].decode("utf-8", "replace").replace("\0", "").split())
    return repr(text[:length] + ("…" if len(text) > length else ""))


def _sender(reply: Reply) -> str:
    headers = CIMultiDict(reply.headers)
    kind, server = headers.get("Content-Type", "no content type"), headers.get("Server", "unnamed")
    return f"{kind[:80]} from server {server[:80]!r}"


# --- a whole answer ---


class Message(msgspec.Struct):
    """A message or a piece of one. Reasoning goes by two names: vLLM and llama.cpp say `reasoning_content`,
    Ollama and OpenRouter `reasoning`.
    """

    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    reasoning_content: Any = None
    reasoning: Any = None

    @property
    def thought(self) -> str:
        """The reasoning text, if there is any."""
        text = self.reasoning_content or self.reasoning
        return text if isinstance(text, str) else ""


class Choice(msgspec.Struct):
    """One of the answers. `text` is what a service of another contract would send."""

    message: Message | None = None
    delta: Message | None = None
    finish_reason: str | None = None
    index: Any = 0
    text: Any = None


class Chat(msgspec.Struct):
    """A whole answer and a streamed event alike: they differ in `message` against `delta`."""

    choices: list[Choice] | None = None
    id: str | None = None
    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw()  # empty where it isn't named
    error: ErrorBody | str | None = None
    object: Any = None


chat_decoder = msgspec.json.Decoder(Chat)


class _Counts(msgspec.Struct):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_tokens: Count | None = None


_counts_decoder = msgspec.json.Decoder(_Counts | None, strict=False)  # 5.0 is 5


def usage_of(said: msgspec.Raw) -> Usage | None:
    """Return the token counts; None where the service says nothing, or what can't be a count, such as -1."""
    try:
        counts = _counts_decoder.decode(said)
    except UNREADABLE:
        return None
    if counts is None or counts == _Counts():
        return None
    return Usage(counts.prompt_tokens or 0, counts.completion_tokens or 0, counts.total_tokens or 0)


def decode(reply: Reply, shape: type[Any], what: str) -> Any:
    """Return a successful reply's body as `shape`.

    Raises:
        ResponseFormatError: the body isn't that shape.
    """
    try:
        return msgspec.json.decode(reply.body, type=shape)
    except UNREADABLE as error:
        raise unexpected(reply, what, error if reply.body else "it is empty") from None


def parse_completion(reply: Reply, latency_s: float) -> Completion:
    """Return the typed answer of a request that didn't stream.

    Raises:
        APIStatusError: the body is an error, in spite of its status.
        ResponseFormatError: the reply isn't a chat completion.
    """
    chat: Chat = decode(reply, Chat, "a chat completion")
    if chat.error:
        raise error_in_body(chat.error, reply.request_id)
    if not chat.choices:
        raise unexpected(reply, "a chat completion", "it holds no choices")
    choice = chat.choices[0]
    message = choice.message
    if message is None:
        raise unexpected(reply, "a chat completion", "its choice holds no message")
    return Completion(
        content=message.content or "",
        model=chat.model or "",
        finish_reason=choice.finish_reason or None,
        usage=usage_of(chat.usage),
        latency_s=latency_s,
        id=chat.id or "",
        request_id=reply.request_id,
        attempts=reply.attempts,
        reasoning=message.thought,
        tool_calls=tuple(message.tool_calls or ()),
        cached=reply.cached,
    )


def is_event_stream(reply: Reply) -> bool:
    """Return whether the headers promise a stream. Foundry Local names the type twice in one header."""
    return "text/event-stream" in reply.headers.get("Content-Type", "").lower()


def refuse_stream(reply: Reply) -> NoReturn:
    """Raise the error for a reply that isn't the stream that was asked for.

    Raises:
        APIStatusError: as `raise_for_status`.
        ResponseFormatError: a success that is no stream.
    """
    raise_for_status(reply)
    raise unexpected(reply, "an event stream", "its content type is another")
