"""One result line: the OpenAI Batch API's format, written and read."""

from __future__ import annotations

import math

import msgspec

from foundry_lab import protocol
from foundry_lab.errors import APIStatusError, FoundryError, StructuredOutputError
from foundry_lab.metrics import outcome_of
from foundry_lab.protocol import Reply
from foundry_lab.protocol.structured import Shape
from foundry_lab.types import Completion, Usage

ID_PREFIX = "batch_req_"


class ErrorPart(msgspec.Struct, frozen=True):
    """Why an item failed. `code`: "timeout", "http_400", "unavailable", "structured_output", …"""

    code: str
    message: str


class ResponsePart(msgspec.Struct, frozen=True):
    """What the service answered: status, our request id, and the body as it came."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class ResultLine(msgspec.Struct, frozen=True):
    """One line of the output. `id` ends with the fingerprint of the request."""

    id: str
    custom_id: str
    response: ResponsePart | None
    error: ErrorPart | None


class BatchResult(msgspec.Struct, frozen=True):
    """One result as Python sees it.

    Attributes:
        completion: the answer; None where there is none. Its `latency_s` is NaN: the format has no place
            for it. The report has the run's latencies.
        error: why the item failed; None where it didn't.
        status: HTTP status of the service's answer; None where it didn't answer.
    """

    custom_id: str
    completion: Completion | None
    error: ErrorPart | None
    status: int | None = None

    @property
    def content(self) -> str | None:
        """The answer's text."""
        return self.completion.content if self.completion else None


class Outcome(msgspec.Struct, frozen=True):
    """How one item ended: its line for the output, and what the report counts. Times in seconds.

    `usage` is what the service worked for it: nothing, where the answer came from the cache.
    """

    custom_id: str
    fingerprint: str
    line: bytes
    code: str
    latency_s: float
    usage: Usage = Usage()
    cached: bool = False
    retries: int = 0

    @property
    def ok(self) -> bool:
        """Whether the item has an answer."""
        return self.code == "ok"


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ResultLine).decode


def write_line(
    custom_id: str, fingerprint: str, reply: Reply | None, error: Exception | None
) -> tuple[bytes, str]:
    """Return the line for an item that ended so, and its code ("ok" without an error)."""
    response = None
    if reply is not None:
        body = reply.body if b"\n" not in reply.body else _encode(msgspec.json.decode(reply.body))
        response = ResponsePart(reply.status, reply.request_id, msgspec.Raw(body))
    elif isinstance(error, APIStatusError):
        said = {"error": {"message": error.message, "type": "api_error"}}
        response = ResponsePart(error.status, error.request_id or "", msgspec.Raw(_encode(said)))
    code = code_of(error)
    failure = ErrorPart(code, _message(error)) if error is not None else None
    return _encode(ResultLine(ID_PREFIX + fingerprint, custom_id, response, failure)) + b"\n", code


def read_line(line: bytes, shape: Shape | None = None) -> BatchResult:
    """Return the result on a line; `shape` reads the answer's text as `response_model` did.

    A text that doesn't fit the shape, as an earlier run had another parser, makes a result with an error.

    Raises:
        ValueError: it is no result line.
    """
    parsed = _decode(line)
    completion, failure = None, parsed.error
    if parsed.response is not None and parsed.response.status_code < 300:
        reply = Reply(200, {}, bytes(parsed.response.body), parsed.response.request_id)
        completion = protocol.parse_completion(reply, math.nan)
        if shape is not None and failure is None:
            try:
                completion = msgspec.structs.replace(completion, parsed=shape.read(completion.content))
            except Exception as error:  # a parser of the caller's may raise anything
                failure = ErrorPart(
                    "structured_output",
                    f"The answer was taken by an earlier run, and doesn't fit {shape.name} of this one "
                    f"({_message(error)}). Use that run's parser, or another output to ask again.",
                )
    status = parsed.response.status_code if parsed.response else None
    return BatchResult(parsed.custom_id, completion, failure, status)


def code_of(error: Exception | None) -> str:
    """Return the word that reports and result lines use for an error."""
    if isinstance(error, StructuredOutputError):
        return "structured_output"
    return outcome_of(error)


def _message(error: Exception | None) -> str:
    text = str(error) if isinstance(error, FoundryError) else f"{type(error).__name__}: {error}"
    return text.encode("utf-8", "replace").decode()
