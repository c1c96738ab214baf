"""One result line: the OpenAI Batch API's format, written and read."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from foundry_lab import protocol
from foundry_lab.batch.items import BatchItem
from foundry_lab.errors import APIStatusError, ConfigurationError, FoundryError, StructuredOutputError
from foundry_lab.metrics import outcome_of
from foundry_lab.protocol import Reply
from foundry_lab.protocol.failure import ErrorBody
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
    """One line of the output. `id` holds the fingerprint of the request; see `ended`."""

    id: str
    custom_id: str
    response: ResponsePart | None
    error: ErrorPart | None


class BatchResult(msgspec.Struct, frozen=True):
    """One result as Python sees it.

    Attributes:
        completion: the answer; None where there is none. Its `latency_s` is None: the format has no place
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

    def to_dict(self) -> dict[str, Any]:
        """Return it as a flat row: `pandas.DataFrame(result.to_dict() for result in report.results())`.

        What isn't there is None.
        """
        answer = self.completion
        usage = answer.usage if answer is not None else None
        return {
            "custom_id": self.custom_id,
            "content": self.content,
            "parsed": answer.parsed if answer is not None else None,
            "model": answer.model if answer is not None else None,
            "finish_reason": answer.finish_reason if answer is not None else None,
            "prompt_tokens": usage.prompt_tokens if usage is not None else None,
            "completion_tokens": usage.completion_tokens if usage is not None else None,
            "status": self.status,
            "error_code": self.error.code if self.error is not None else None,
            "error": self.error.message if self.error is not None else None,
        }


class Outcome(msgspec.Struct, frozen=True):
    """How one item ended: its line for the output, and what the report counts.

    `latency_s` is None for an item that couldn't be sent. `usage` is what the service worked for it: nothing,
    where the answer came from the cache.
    """

    custom_id: str
    fingerprint: str
    line: bytes
    code: str
    latency_s: float | None
    usage: Usage = Usage()
    cached: bool = False
    retries: int = 0

    @property
    def ok(self) -> bool:
        """Whether the item has an answer."""
        return self.code == "ok"


_encode = msgspec.json.Encoder().encode
decode_line = msgspec.json.Decoder(ResultLine).decode


def ended(
    item: BatchItem, reply: Reply | None, error: Exception | None, latency_s: float | None, **counts: Any
) -> Outcome:
    """Return how an item ended, with its line for the output.

    Args:
        reply: the last that the model made, if it is to be kept.
        error: why there is no answer; None if there is one.
        latency_s: seconds; None for an item that couldn't be sent.
        counts: `usage`, `cached` and `retries` of the `Outcome`.
    """
    response = None
    if reply is not None:
        response = ResponsePart(reply.status, reply.request_id, _one_line(reply.body))
    elif isinstance(error, APIStatusError):
        said = ErrorBody(error.message, error.type or "api_error", error.code, error.param)
        body = msgspec.Raw(_encode({"error": said}))
        response = ResponsePart(error.status, error.request_id or "", body)
    if isinstance(error, StructuredOutputError):
        code = "structured_output"
    else:
        code = "invalid_item" if isinstance(error, ConfigurationError) else outcome_of(error)
    failure = ErrorPart(code, _message(error)) if error is not None else None
    mark = hashlib.blake2b(item.custom_id.encode(), digest_size=8).hexdigest()  # others may ask the same
    line = ResultLine(f"{ID_PREFIX}{item.fingerprint}_{mark}", item.custom_id, response, failure)
    return Outcome(item.custom_id, item.fingerprint, _encode(line) + b"\n", code, latency_s, **counts)


def _one_line(body: bytes) -> msgspec.Raw:
    """Return a JSON body, in which line ends are white space, as a part of a line.

    What stands in a field that nobody reads may be no UTF-8, and a number that nobody can read.
    """
    return msgspec.Raw(b" ".join(body.decode("utf-8", "replace").encode().splitlines()))


def fingerprint_in(line_id: str) -> str:
    """Return the request's fingerprint that a result's `id` holds."""
    return line_id.removeprefix(ID_PREFIX).partition("_")[0]


def read_line(
    line: bytes, shape: Shape | None = None, own_shapes: Mapping[str, Shape] | None = None
) -> BatchResult:
    """Return the result on a line, its text read as `response_model` did.

    A text that doesn't fit the shape, as an earlier run had another parser, makes a result with an error.

    Args:
        shape: of an item that has none of its own.
        own_shapes: of those that have, by custom_id.

    Raises:
        ValueError: it is no result line.
    """
    parsed = decode_line(line)
    shape = (own_shapes or {}).get(parsed.custom_id, shape)
    completion, failure = None, parsed.error
    if parsed.response is not None and parsed.response.status_code < 300:
        reply = Reply(200, {}, bytes(parsed.response.body), parsed.response.request_id)
        completion = msgspec.structs.replace(protocol.parse_completion(reply, 0.0), latency_s=None)
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


def _message(error: Exception | None) -> str:
    text = str(error) if isinstance(error, FoundryError) else f"{type(error).__name__}: {error}"
    return text.encode("utf-8", "replace").decode()
