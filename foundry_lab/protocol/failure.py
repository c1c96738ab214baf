"""What a service says when it fails, as an error of the tree, with what to do about it."""

import email.utils
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from multidict import CIMultiDict

from foundry_lab import errors
from foundry_lab._ground.checks import as_number

UNKNOWN_ROUTE = (404, 405, 501)
"""How servers say that they have no such route."""
MAX_WORDS = 1000
"""Characters of a service's words that an error repeats; the longest seen, without its signature, has 200."""

_NO_TOOLS = (
    "This model has no tools: leave out tools and tool_choice, or ask a model that has them. An answer in a "
    "shape needs none: response_model=…"
)
_SIMPLIFY = (
    "Simplify the schema: the service can hold an answer to types, properties, items, enum, anyOf, lengths, "
    "bounds and common formats, not to what it names here. Your own check of it fits into parser=…"
)
_SET_KEY = "Set FOUNDRY_API_KEY to the key that this service or its gateway expects."
_NOT_OURS = (
    "That isn't Foundry Local, which fails in words of its own: check the endpoint and its port. "
    "If a gateway stands in front of it, the service behind may be down."
)
_RESTART = "Try again; if it stays, restart the service: foundry-lab stop, then start over."
LASTING = {
    "structured tool calling requires": _NO_TOOLS,
    "error creating grammar": _SIMPLIFY,  # what follows says why; these are its usual reasons:
    "unsatisfiable schema": "Simplify the schema: no answer can fit it, as its rules exclude each other.",
    "unimplemented keys": _SIMPLIFY,
    "unknown format": _SIMPLIFY,
}
"""Words of a 500 that comes again whenever the request does, and what to do. Read off foundry-local-sdk 2.2.1
with 34 requests: tools for a model without tool markers, and schemas that its grammar refuses."""


class ErrorBody(msgspec.Struct):
    """An error in the service's words. Other servers put other types into it."""

    message: Any = None
    type: Any = None
    code: Any = None
    param: Any = None

    @property
    def words(self) -> str:
        if isinstance(self.message, str) and self.message:
            return self.message
        return msgspec.json.encode(self).decode()


def status_error(
    status: int,
    error: ErrorBody | str,
    *,
    retry_after: float | None = None,
    request_id: str = "",
    foreign: bool = False,
) -> errors.APIStatusError:
    """Return the error that fits a status and a service's words; `foreign` says they are another server's."""
    body = ErrorBody(error) if isinstance(error, str) else error
    message = readable(body.words)
    low = message.lower()
    lasting = next((advice for words, advice in reversed(LASTING.items()) if words in low), None)
    kind, hint = _kind_and_hint(status, low, lasting, foreign)
    failure = kind(
        message,
        status=status,
        hint=hint,
        retry_after=retry_after,
        request_id=request_id or None,
        lasting=lasting is not None and status >= 500,
    )
    failure.type, failure.code, failure.param = body.type, body.code, body.param
    return failure


def _kind_and_hint(
    status: int, low: str, lasting: str | None, foreign: bool
) -> tuple[type[errors.APIStatusError], str]:
    """Return the class of the error, and what to do about it."""
    if status in (401, 403):
        return errors.AuthenticationError, _SET_KEY
    if status == 429:
        return errors.RateLimitError, "Wait a little, or send fewer requests at once."
    if "still using it" in low:
        return errors.ModelBusyError, "Wait until the requests that use the model have ended."
    if foreign and status in UNKNOWN_ROUTE:
        return errors.BadRequestError, "Check the endpoint: a Foundry Local service would know this route."
    if foreign and status >= 500:
        return errors.ServerError, _NOT_OURS
    if status >= 500:
        return errors.ServerError, lasting or _RESTART
    if status == 404 and "model" in low:
        return errors.ModelNotFoundError, "list_models() shows the names that would work."
    if "not loaded" in low:
        return errors.ModelNotLoadedError, "Load it first: load_model(alias)."
    if _names_context_length(low):
        return errors.ContextLengthError, "Shorten the prompt or ask for fewer max_tokens."
    if status == 408:  # it isn't the request that is wrong, and the retry policy sends it again
        return errors.APIStatusError, "The server waited too long for the request. Try again."
    if status >= 400:
        return errors.BadRequestError, lasting or "Change the request: sending the same again won't help."
    return errors.APIStatusError, "Foundry Local doesn't answer so; check the endpoint."


def error_in_body(error: ErrorBody | str, request_id: str) -> errors.APIStatusError:
    """Return the error for a body without a status of its own: code, type and words stand in for one."""
    body = ErrorBody(error) if isinstance(error, str) else error
    low = body.words[:MAX_WORDS].lower()
    if "model not found" in low:
        status = 404
    elif isinstance(body.code, int) and 400 <= body.code < 600:
        status = body.code
    else:
        status = 400 if body.type == "invalid_request_error" or _names_context_length(low) else 500
    return status_error(status, body, request_id=request_id)


# The C++ source line and signature that the service puts into its messages; bounded, as a hostile text could
# make an unbounded one look for hours.
_SOURCE = re.compile(r"\b\w{1,80}\.(?:cc|cpp|h):\d{1,6} .{0,600}?\)>?(?: const)? (?=\S)")


def readable(words: str) -> str:
    """Return a service's words in one line, without source lines, and not more than can be read."""
    text = _SOURCE.sub("", " ".join(words[: 4 * MAX_WORDS].split()))
    return text if len(text) <= MAX_WORDS else text[:MAX_WORDS] + "…"


def _names_context_length(low: str) -> bool:
    return ("context" in low or "exceed" in low) and ("token" in low or "length" in low)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a `Retry-After` header (seconds or an HTTP date); None if it asks for no wait."""
    value = CIMultiDict(headers).get("Retry-After", "").strip()
    seconds = as_number(value)
    if math.isnan(seconds):
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError, OSError):  # a date as no calendar has, or no clock of this system
            return None
    return seconds if 0 < seconds < math.inf else None
