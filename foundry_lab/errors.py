"""Every error the package raises, in one tree under `FoundryError`.

The message of each is written for the person who reads it in a notebook: what happened, then what to do next.
"""

import re
from typing import Any, Literal

Phase = Literal["connect", "first_token", "idle", "total"]


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def _printable(said: object) -> object:
    """Return a text with its control characters written out: what a service says may not steer a terminal."""
    if isinstance(said, str) and _CONTROL.search(said):
        return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), said)
    return said


class FoundryError(Exception):
    """Root of the tree; catch this to catch them all."""

    def __init__(self, *said: object) -> None:
        super().__init__(*map(_printable, said))

    def __reduce__(self) -> tuple[Any, ...]:
        # Python would call __init__ with the message alone; an error must get out of a worker process whole.
        return type(self).__new__, (type(self),), {**self.__dict__, "args": self.args}


class ConfigurationError(FoundryError, ValueError):
    """A setting or an argument that can't be used; nothing was sent."""


class EngineError(FoundryError):
    """The embedded service can't be prepared, started or stopped."""


class ServiceUnavailableError(FoundryError):
    """Nobody answers at the endpoint, or the connection broke before an answer."""


class RequestTimeoutError(FoundryError, TimeoutError):
    """A time limit passed.

    Attributes:
        phase: which limit: "connect", "first_token", "idle" (silence between tokens) or "total".
        limit_s: that limit in seconds.
    """

    def __init__(self, message: str, *, phase: Phase, limit_s: float | None = None) -> None:
        super().__init__(message)
        self.phase: Phase = phase
        self.limit_s = limit_s


class APIStatusError(FoundryError):
    """The service answered with an error, as a status or as an error event in a stream.

    Some are noticed before the service would have to say them (`by_service=False`): a model it doesn't have.

    Attributes:
        status: HTTP status; for an error event inside a 200 stream, the one that fits its type (400 or 500).
        message: the service's own words.
        type, code, param: what else its error says, as it came; None where it doesn't.
        retry_after: seconds the service asked us to wait, or None.
        request_id: the `X-Request-Id` that went with the request, or None.
        lasting: a 5xx that the same request would get again, as the service can't do what it asks: it isn't
            sent again, and says nothing about the service's health.
        by_service: the service said it.
    """

    type: Any = None
    code: Any = None
    param: Any = None

    def __init__(
        self,
        message: str,
        *,
        status: int,
        hint: str = "",
        by_service: bool = True,
        retry_after: float | None = None,
        request_id: str | None = None,
        lasting: bool = False,
    ) -> None:
        said = f"The service answered {status}: {message}" if by_service else message
        super().__init__(f"{said.rstrip('. ')}. {hint}".rstrip())
        self.status = status
        self.message = message
        self.retry_after = retry_after
        self.request_id = request_id
        self.lasting = lasting
        self.by_service = by_service


class BadRequestError(APIStatusError):
    """400, or a 4xx without a class of its own but 408: the request is wrong; sending it again won't help."""


class AuthenticationError(APIStatusError):
    """401 or 403: the service, or a gateway in front of it, wants another key."""


class ModelNotFoundError(APIStatusError):
    """The service has no model of that name.

    Attributes:
        available: the names that would work, as far as known.
    """

    available: tuple[str, ...] = ()


class ModelNotLoadedError(BadRequestError):
    """The model exists but isn't in memory; `load_model` puts it there."""


class ContextLengthError(BadRequestError):
    """Prompt and max_tokens together exceed what the model can hold."""


class ModelBusyError(APIStatusError):
    """The model can't be unloaded while a request uses it."""


class RateLimitError(APIStatusError):
    """429: too many requests; `retry_after` says when to come back."""


class ServerError(APIStatusError):
    """5xx: the service failed."""


class ResponseFormatError(FoundryError):
    """An answer that isn't what the contract says: wrong type, broken JSON, an HTML page."""


class StreamInterruptedError(FoundryError):
    """A stream ended before it was complete.

    Attributes:
        partial: the text that had arrived.
    """

    def __init__(self, message: str, *, partial: str = "") -> None:
        super().__init__(message)
        self.partial = partial


class CircuitOpenError(FoundryError):
    """The circuit breaker is open: nothing was sent.

    Attributes:
        retry_after: seconds until the breaker lets a probe through; None where it never
            does by itself, held open by hand or with `open_s=inf`.
    """

    def __init__(self, message: str, *, retry_after: float | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StructuredOutputError(FoundryError):
    """The model's text could not be read as the shape that was asked for.

    Attributes:
        text: the last text the model gave.
        attempts: how many times it was asked.
    """

    def __init__(self, message: str, *, text: str, attempts: int) -> None:
        super().__init__(message)
        self.text = text
        self.attempts = attempts
