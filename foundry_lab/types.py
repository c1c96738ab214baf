"""What the clients return: small, typed, immutable results."""

from typing import Annotated, Any, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""What a sane service counts; JSON numbers above 2**53 aren't exact everywhere (RFC 8259, section 6)."""


def _plain(value: Any) -> Any:
    """Return what stands for an object that JSON lacks: the fields of a pydantic model, else its text."""
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)


class Result(msgspec.Struct, frozen=True):
    """What all results can do."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as dicts, lists, tuples, numbers and texts, as JSON and tables take them."""
        return msgspec.to_builtins(self, enc_hook=_plain)

    def __hash__(self) -> int:
        # Not of all fields, as some hold dicts; equal results have equal hashes, and more isn't asked.
        values = (getattr(self, name) for name in self.__struct_fields__)
        return hash(tuple(value for value in values if isinstance(value, (str, int, float))))


class Usage(Result, frozen=True):
    """Token counts of one request, as the service counted them."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    total_tokens: Count = 0


class Completion(Result, frozen=True, kw_only=True):
    """One finished answer.

    Attributes:
        content: the text.
        model: id of the model that wrote it.
        finish_reason: "stop" (the model ended, or a stop string came), "length" (max_tokens reached),
            "tool_calls", or None where the service didn't say.
        usage: token counts, or None where the service didn't count.
        latency_s: seconds from the call to the typed result, all attempts and waiting included; None where
            nobody knows: a batch's file has no place for it.
        id: the service's id of the answer.
        request_id: the id we sent as `X-Request-Id`; the same one stands in the log.
        attempts: how many times the request was sent.
        parsed: the validated object when `response_model` or `parser` was given, else None.
        tool_calls: the tool calls the model asked for, as the service sent them.
        reasoning: what the model thought before it answered, where the service tells it apart.
        cached: whether it came out of the response cache.
    """

    content: str
    model: str
    finish_reason: str | None = None
    usage: Usage | None = None
    latency_s: float | None = 0.0
    id: str = ""
    request_id: str = ""
    attempts: int = 1
    parsed: Any = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    reasoning: str = ""
    cached: bool = False

    @property
    def tokens_per_s(self) -> float | None:
        """Completion tokens per second of latency, or None where one of both isn't known."""
        if self.usage is None or not self.latency_s:
            return None
        return self.usage.completion_tokens / self.latency_s


class Chunk(Result, frozen=True, kw_only=True):
    """One piece of a streamed answer.

    Attributes:
        content: new text, often one token; empty for a piece that only says why the answer ended, or that
            is reasoning.
        finish_reason: set on the last piece.
        elapsed_s: seconds from the call to this piece's arrival.
        tool_calls: tool-call deltas, as the service sent them.
        reasoning: new text of the model's thoughts, which are no part of the answer.
    """

    content: str
    elapsed_s: float
    finish_reason: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    reasoning: str = ""


class Model(Result, frozen=True, kw_only=True):
    """One model the service knows. What the service doesn't tell is None.

    Attributes:
        id: what completions take.
        alias: what load and unload take.
        loaded: in memory now.
        cached: on disk, so loading needs no download.
        size_bytes: size on disk.
        context_length: prompt and answer together, in tokens.
    """

    id: str
    alias: str
    loaded: bool = False
    cached: bool | None = None
    task: str | None = None
    device: str | None = None
    license: str | None = None
    size_bytes: int | None = None
    context_length: int | None = None
    owned_by: str | None = None


class Health(Result, frozen=True, kw_only=True):
    """One look at the service. What couldn't be learned is None, never zero.

    Attributes:
        status: "healthy" (answers, a model is loaded), "degraded" (answers, but see `reasons`) or
            "unavailable" (no usable answer).
        reasons: what is wrong, in sentences; empty when healthy.
        loaded_models: ids of the models in memory.
        memory_usage: resident memory of the service process in MiB; None for a service elsewhere.
        uptime_s: seconds since the service process started.
        version: version of the Foundry Local SDK that runs the service.
        versions: versions of the service's parts, by package name.
        latency_s: seconds the status request took.
        probe_latency_s: seconds a one-token completion took, when it was asked for.
        endpoint: whom we asked.
        pid: the service's process id.
    """

    status: Literal["healthy", "degraded", "unavailable"]
    endpoint: str
    reasons: tuple[str, ...] = ()
    loaded_models: tuple[str, ...] = ()
    memory_usage: float | None = None
    uptime_s: float | None = None
    version: str | None = None
    versions: dict[str, str] = {}
    latency_s: float | None = None
    probe_latency_s: float | None = None
    pid: int | None = None
