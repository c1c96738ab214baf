"""What came back: who answered, and which error of the tree it is."""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from foundry_lab.errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ContextLengthError,
    ModelBusyError,
    ModelNotFoundError,
    ModelNotLoadedError,
    RateLimitError,
    ResponseFormatError,
    ServerError,
)
from foundry_lab.types import Completion, Usage

UNKNOWN_ROUTE = (404, 405, 501)
"""How servers say that they have no such route."""
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for a body that isn't the JSON it should be."""


class Reply(msgspec.Struct, frozen=True):
    """What came back, read to its end. Header names are matched without regard to case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    request_id: str = ""
    attempts: int = 1
    cached: bool = False


class ErrorBody(msgspec.Struct):
    """An error in the service's words."""

    message: str = ""
    type: str | None = None
    code: str | int | None = None


class _Failure(msgspec.Struct):
    error: ErrorBody | str | None = None


_failure_decoder = msgspec.json.Decoder(_Failure)


def raise_for_status(reply: Reply, *, may_be_empty: bool = False) -> None:
    """Raise the error of the tree that fits a reply which isn't a success.

    Raises:
        APIStatusError: or the subclass for its status and message.
        ResponseFormatError: a success without a body, unless it may be empty.
    """
    if reply.status < 300:
        if not may_be_empty and (reply.status == 204 or not reply.body):
            raise unexpected(reply, "an answer", "it is empty")
        return
    try:
        error = _failure_decoder.decode(reply.body).error
    except UNREADABLE:
        error = None
    wait = retry_after(reply.headers)
    if error is None:  # not in the service's words: an unknown route, a proxy, somebody else's server
        message = f"{excerpt(reply.body)} ({_sender(reply)})"
        raise status_error(reply.status, message, retry_after=wait, request_id=reply.request_id, foreign=True)
    message = error if isinstance(error, str) else error.message
    failure = status_error(reply.status, message, retry_after=wait, request_id=reply.request_id)
    failure.body = reply.body
    raise failure


def status_error(
    status: int,
    message: str,
    *,
    retry_after: float | None = None,
    request_id: str = "",
    foreign: bool = False,
) -> APIStatusError:
    """Return the error that fits a status and a message; `foreign` says it wasn't the service's own."""
    message = _without_source(message)
    low = message.lower()
    kind: type[APIStatusError]
    if status in (401, 403):
        kind, hint = (
            AuthenticationError,
            "Set FOUNDRY_API_KEY to the key that this service or its gateway expects.",
        )
    elif status == 429:
        kind, hint = RateLimitError, "Wait a little, or send fewer requests at once."
    elif "still using it" in low:
        kind, hint = ModelBusyError, "Wait until the requests that use the model have ended."
    elif foreign and status in UNKNOWN_ROUTE:
        kind = BadRequestError
        hint = "Check the endpoint: a Foundry Local service would know this route."
    elif status >= 500:
        kind, hint = (
            ServerError,
            "Try again; if it stays, restart the service: foundry-lab stop, then start over.",
        )
    elif status == 404 and "model" in low:
        kind, hint = ModelNotFoundError, "list_models() shows the names that would work."
    elif "not loaded" in low:
        kind, hint = ModelNotLoadedError, "Load it first: load_model(alias)."
    elif _names_context_length(low):
        kind, hint = ContextLengthError, "Shorten the prompt or ask for fewer max_tokens."
    elif status >= 400:
        kind, hint = BadRequestError, "Change the request: sending the same again won't help."
    else:
        kind, hint = APIStatusError, "Foundry Local doesn't answer so; check the endpoint."
    return kind(message, status=status, hint=hint, retry_after=retry_after, request_id=request_id or None)


_SOURCE = re.compile(r"\w+\.(?:cc|cpp|h):\d+ .*?\)>?(?: const)? (?=\S)")


def _without_source(message: str) -> str:
    """Drop the C++ source line and signature that the service puts into its messages."""
    return _SOURCE.sub("", message)


def _names_context_length(low: str) -> bool:
    return ("context" in low or "exceed" in low) and ("token" in low or "length" in low)


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Return the seconds of a `Retry-After` header (seconds or an HTTP date), or None."""
    value = next((v for name, v in headers.items() if name.lower() == "retry-after"), "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = when.timestamp() - (time.time() if now is None else now)
    return max(0.0, seconds) if math.isfinite(seconds) else None


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
    headers = {name.lower(): value for name, value in reply.headers.items()}
    return (
        f"{headers.get('content-type', 'no content type')} from server {headers.get('server', 'unnamed')!r}"
    )


def error_in_body(error: ErrorBody | str, request_id: str) -> APIStatusError:
    """Return the error for a body without a status of its own: its type and words stand in for one."""
    message, kind = (error, None) if isinstance(error, str) else (error.message, error.type)
    low = message.lower()
    if "model not found" in low:
        status = 404
    else:
        status = 400 if kind == "invalid_request_error" or _names_context_length(low) else 500
    return status_error(status, message, request_id=request_id)


# --- a whole answer ---


class Message(msgspec.Struct):
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    message: Message = msgspec.field(default_factory=Message)
    delta: Message | None = None
    finish_reason: str | None = None


class Chat(msgspec.Struct):
    """A whole answer and a streamed event alike: they differ in `message` against `delta`."""

    choices: list[_Choice] = []
    id: str = ""
    model: str = ""
    usage: Usage | None = None
    error: ErrorBody | str | None = None


chat_decoder = msgspec.json.Decoder(Chat)


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
        chat: Chat = chat_decoder.decode(reply.body)
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
